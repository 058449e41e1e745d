//! The sidecar's end of the event link (`docs/event-link.md`): a Unix socket, and one connection of the server plugin at a time.
//!
//! A connection becomes *the* connection when it says hello; the one before it then stops, after what lies in its socket was read.
//! Connections that say nothing are few and are closed after a while.

mod connection;
mod coverage;
#[cfg(test)]
mod tests;

pub use coverage::Coverage;

use crate::counts::Refused;
use crate::outcomes;
use crate::recorder::Recorder;
use anyhow::{Context, Result, bail};
use cartulary_archive::record::GapReason;
use cartulary_compliance::link::{Hello, Notice};
use connection::Connection;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once, those that have not said hello included.
const MAX_CONNECTIONS: usize = 16;
/// How long a new link waits for the count of what was delivered without a record to reach the journal.
const GAP_PATIENCE: Duration = Duration::from_secs(2);
/// Longest time for which the connection of a former process of the server is waited for, to take in what it still told.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(5);

/// Everything the connections share.
pub struct Link {
    recorder: Arc<Recorder>,
    coverage: Mutex<Coverage>,
    current: Mutex<Option<Current>>,
    reported: Mutex<Option<Reported>>,
    next: AtomicU64,
}

struct Current {
    id: u64,
    stop: CancellationToken,
    /// Everything that lay in its socket was taken in.
    ended: CancellationToken,
}

/// The last report of what a plugin decided alone, to know a repeated one (its welcome was lost) by.
#[derive(Clone, PartialEq, Eq)]
struct Reported {
    instance: String,
    since: i64,
    delivered: u64,
    refused: u64,
    outcomes_lost: u64,
}

/// Opens the socket, in place of one that a former process left behind.
pub fn bind(path: &Path) -> Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} is there and is not a socket: remove it", path.display());
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            bail!("another process listens on {}", path.display());
        }
        Ok(_) => std::fs::remove_file(path)
            .with_context(|| format!("the old socket {} cannot be removed", path.display()))?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)
        .with_context(|| format!("the socket {} cannot be opened", path.display()))?;
    // The server runs as another user, and one whose image starts as root and drops its groups has lost the pod's fsGroup too. Who can
    // reach the folder decides: an emptyDir (mode 0777, so anybody in it may pass) that only the server's container and ours mount.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

impl Link {
    /// A link on which nobody is yet.
    #[must_use]
    pub fn new(recorder: Arc<Recorder>) -> Arc<Self> {
        Arc::new(Self {
            recorder,
            coverage: Mutex::default(),
            current: Mutex::default(),
            reported: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// What the plugin covers.
    pub fn coverage(&self) -> MutexGuard<'_, Coverage> {
        self.coverage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves connections until `stop`, then lets them answer what they have taken in.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, stop: CancellationToken) {
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(self.clone().run(stream, stop.child_token()));
                }
                Ok(_) => {
                    tracing::warn!(MAX_CONNECTIONS, "a connection to the event link was closed: too many")
                }
                Err(error) => {
                    // Out of file descriptors, for instance: asking again at once would only burn a processor.
                    tracing::error!(%error, "the event link cannot accept connections");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn run(self: Arc<Self>, stream: UnixStream, stop: CancellationToken) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let ended = CancellationToken::new();
        let reason = Connection::new(&self, id, stream, stop, ended.clone()).run().await;
        ended.cancel();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.id == id) {
            *current = None;
            self.coverage().lost();
            tracing::warn!(reason, "the server plugin's link is closed");
        } else {
            tracing::info!(reason, "a connection to the event link is closed");
        }
    }

    /// A connection said hello: it is the one from now on.
    async fn hello(&self, id: u64, stop: &CancellationToken, ended: &CancellationToken, hello: Hello) {
        let (mut predecessor, mut again) = (None, false);
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            match current.as_ref() {
                Some(Current { id: former, .. }) if *former == id => again = true,
                former => {
                    if let Some(former) = former {
                        tracing::warn!("the server plugin connected again; its former connection ends");
                        former.stop.cancel();
                        predecessor = Some(former.ended.clone());
                    }
                    *current = Some(Current { id, stop: stop.clone(), ended: ended.clone() });
                }
            }
            tracing::info!(
                server = hello.server,
                version = hello.server_version,
                plugin = hello.plugin_version,
                hosts = hello.hosts.len(),
                not_armed = hello.hosts.iter().filter(|host| host.problem.is_some()).count(),
                "the server plugin said hello"
            );
            self.recorder.set_hosts(Arc::new(hello.hosts.iter().map(|host| host.name.clone()).collect()));
            self.coverage().hello(hello.clone(), again);
        }
        self.recorder.tallies.process(&hello.instance);
        self.since_last(&hello).await;
        self.end_other_processes(hello.instance, predecessor);
    }

    /// What other processes of the server left open is ended, after what their last connection still told.
    fn end_other_processes(&self, instance: String, predecessor: Option<CancellationToken>) {
        let recorder = self.recorder.clone();
        // Nobody waits for it. A sidecar that ends meanwhile leaves those messages without an outcome, as when it is killed.
        tokio::spawn(async move {
            if let Some(predecessor) = predecessor {
                _ = tokio::time::timeout(PREDECESSOR_PATIENCE, predecessor.cancelled()).await;
            }
            outcomes::end_others(&recorder, &instance).await;
        });
    }

    /// Puts on record what the plugin had to decide alone. The welcome that confirms it is sent after this.
    async fn since_last(&self, hello: &Hello) {
        let since = hello.since_last;
        let report = Reported {
            instance: hello.instance.clone(),
            since: since.since_micros,
            delivered: since.delivered_unrecorded,
            refused: since.refused,
            outcomes_lost: since.outcomes_lost,
        };
        let known = self.reported.lock().unwrap_or_else(PoisonError::into_inner).replace(report.clone());
        let Reported { mut delivered, mut refused, mut outcomes_lost, .. } = report;
        if let Some(known) = known
            && (&known.instance, known.since) == (&hello.instance, since.since_micros)
        {
            delivered = delivered.saturating_sub(known.delivered);
            refused = refused.saturating_sub(known.refused);
            outcomes_lost = outcomes_lost.saturating_sub(known.outcomes_lost);
        }
        if outcomes_lost > 0 {
            tracing::error!(
                outcomes_lost,
                "the server plugin had no room to keep what became of messages while there was no link"
            );
            self.recorder.counts.add(|counts| counts.plugin_outcomes_lost += outcomes_lost);
        }
        if refused > 0 {
            tracing::warn!(refused, "the server plugin refused messages while it had no link");
            self.recorder.counts.refused(Refused::NoLink, refused);
        }
        let recorded = self.recorder.loaded().is_none_or(|loaded| {
            let archiving = &loaded.config.archiving;
            archiving.endpoint_of(&self.recorder.node).is_some() && (archiving.inbound || archiving.outbound)
        });
        // With archiving off nothing was missed.
        if delivered > 0 && recorded {
            tracing::error!(
                delivered,
                "the server plugin delivered messages without a record while it had no link"
            );
            self.recorder.counts.add(|counts| counts.delivered_unrecorded += delivered);
            self.recorder.gaps.note(None, GapReason::NoLink, delivered);
            // Not given up when it takes longer, only not waited for.
            let recorder = self.recorder.clone();
            let written = tokio::spawn(async move { recorder.gaps.write(&recorder).await });
            _ = tokio::time::timeout(GAP_PATIENCE, written).await;
        }
    }

    /// The connection `id` was given its settings.
    fn settled(&self, id: u64) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.id == id) {
            self.coverage().settled();
        }
    }

    fn notice(&self, id: u64, notice: &Notice) {
        if notice.name == "hook-failed" {
            self.recorder.counts.add(|counts| counts.failed_hooks += 1);
            // The reason says where; the limit keeps anything else a plugin might put there out of the log.
            let reason: String = notice.reason.iter().flat_map(|reason| reason.chars()).take(200).collect();
            tracing::error!(reason, "a hook of the server plugin failed");
        }
        let is_current = |current: &Option<Current>| current.as_ref().is_some_and(|current| current.id == id);
        if is_current(&self.current.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.coverage().notice(notice);
        }
    }
}
