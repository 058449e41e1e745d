//! placeholder
use crate::config::ConfigState;
use cartulary_archive::journal::Journal;
use cartulary_compliance::status::EndpointStatus;
use std::collections::BTreeMap;
use std::path::Path;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The drains.
#[derive(Default)]
pub struct Drains {}

impl Drains {
    /// States.
    pub fn status(&self) -> BTreeMap<String, EndpointStatus> {
        BTreeMap::new()
    }
}

/// Runs.
pub async fn run(
    _d: &Drains,
    _node: &str,
    _config: watch::Receiver<ConfigState>,
    _j: &Journal,
    _a: &Path,
    stop: CancellationToken,
) {
    stop.cancelled().await
}
