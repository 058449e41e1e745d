//! Starts the operator: options, logs, the API server, and an orderly end on SIGTERM.

use anyhow::Context;
use cartulary_operator::options::Options;
use clap::Parser;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How long admission is served after SIGTERM: until every API server has heard that this pod goes, its requests still come here.
const LINGER: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let filter = EnvFilter::try_from_env("CARTULARY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    let client =
        kube::Client::try_default().await.context("no API server: run in a pod, or set KUBECONFIG")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => tokio::time::sleep(LINGER).await,
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    cartulary_operator::run(options, client, stop).await
}
