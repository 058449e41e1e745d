//! The webhooks' certificate out of a folder that something else keeps, such as a Secret of cert-manager mounted there.
//!
//! Invariants: a renewed certificate is taken up without a restart; one that cannot be used leaves the last good one in force. Whom
//! the API server is to trust is not ours to tell here: cert-manager's injector does.

use super::keeper::{Tls, server_config};
use anyhow::Context as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Kubelets refresh a volume within a minute or two, and certificates are renewed long before they expire.
const CHECK: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(1);

/// Follows `tls.crt` and `tls.key` in the folder until the future is dropped.
pub async fn run(folder: &Path, tls: watch::Sender<Tls>, trusted: watch::Sender<bool>) {
    let mut served = None;
    loop {
        let pause = match step(folder, &mut served, &tls).await {
            Ok(()) => {
                trusted.send_replace(true);
                CHECK
            }
            Err(error) => {
                tracing::warn!("the webhooks' certificate: {error:#}; trying again");
                SOON
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn step(
    folder: &Path,
    served: &mut Option<(String, String)>,
    tls: &watch::Sender<Tls>,
) -> anyhow::Result<()> {
    let read = |name: &str| {
        let path = folder.join(name);
        async move {
            let text = tokio::fs::read_to_string(&path).await;
            text.with_context(|| format!("cannot read {}", path.display()))
        }
    };
    let found = (read("tls.crt").await?, read("tls.key").await?);
    if served.as_ref() == Some(&found) {
        return Ok(());
    }
    // Read while they were being exchanged they do not fit, and are read again.
    tls.send_replace(Some(Arc::new(server_config(&found.0, &found.1)?)));
    tracing::info!(folder = %folder.display(), "serving the webhooks with the certificate found there");
    *served = Some(found);
    Ok(())
}
