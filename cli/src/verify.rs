//! stub
pub async fn run(_: crate::args::VerifyArgs) -> anyhow::Result<crate::Found> { anyhow::bail!("not yet") }
