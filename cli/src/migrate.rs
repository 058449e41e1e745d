//! stub
pub async fn run(_: crate::args::MigrateArgs) -> anyhow::Result<crate::Found> { anyhow::bail!("not yet") }
