//! stub
pub async fn run(_: crate::args::DeadLettersArgs) -> anyhow::Result<crate::Found> { anyhow::bail!("not yet") }
