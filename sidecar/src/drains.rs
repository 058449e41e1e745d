//! One drain for each endpoint in use: this node's, and those for which records still wait.
//!
//! Invariants: an endpoint has at most one drain at any time; stopping one loses nothing, since what it had not confirmed waits in
//! the journal. An endpoint that the configuration no longer describes has none: its records wait, and the status says why.

use crate::app::limits;
use crate::config::{ConfigState, Loaded};
use cartulary_archive::drain::{Drain, DrainHandle, DrainOptions};
use cartulary_archive::endpoint::{
    Endpoint, EndpointError, Roles, SqlEndpoint, Target, WriteReport, embedded_file_name, migrate,
};
use cartulary_archive::journal::{Journal, Stored};
use cartulary_archive::record::{Hash, StreamId};
use cartulary_compliance::config::EndpointTarget;
use cartulary_compliance::names::reason;
use cartulary_compliance::status::EndpointStatus;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether a former endpoint's queue has become empty, or is not any more.
const INTERVAL: Duration = Duration::from_secs(5);

/// The drains of this process.
#[derive(Default)]
pub struct Drains {
    entries: Mutex<BTreeMap<String, Entry>>,
}

enum Entry {
    Running(Running),
    /// Records wait, and the configuration does not say where to.
    NotDescribed(Journal),
}

struct Running {
    target: EndpointTarget,
    handle: DrainHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drains {
    /// The endpoints' states.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, EndpointStatus> {
        let state = |name: &str, entry: &Entry| match entry {
            Entry::Running(running) => running.handle.status(),
            Entry::NotDescribed(journal) => {
                let queue = journal.queue(name);
                EndpointStatus {
                    state: reason::ENDPOINT_MISSING.to_owned(),
                    message: format!(
                        "records wait for the endpoint {name}, which the configuration does not describe any more: \
                         declare it again until they are archived"
                    ),
                    waiting: queue.waiting,
                    oldest_waiting_micros: queue.oldest_waiting_nanos.map(|nanos| nanos.div_euclid(1000)),
                    archived: queue.archived,
                    dead_letters: queue.dead_letters,
                    waiting_bytes: queue.waiting_bytes,
                    max_records: queue.limit.max_records,
                    max_bytes: queue.limit.max_bytes,
                }
            }
        };
        self.entries().iter().map(|(name, entry)| (name.clone(), state(name, entry))).collect()
    }

    /// Has every endpoint's dead letters tried again.
    pub fn retry_dead_letters(&self) {
        for entry in self.entries().values() {
            if let Entry::Running(running) = entry {
                running.handle.retry_dead_letters();
            }
        }
    }

    /// Starts, stops and replaces drains, so that they are what `loaded` asks for.
    async fn arrange(&self, node: &str, loaded: &Loaded, journal: &Journal, archive: &Path) {
        let config = &loaded.config;
        let mut wanted: BTreeSet<String> =
            journal.endpoints().into_iter().filter(|name| is_in_use(journal, name)).collect();
        wanted.extend(config.archiving.endpoint_of(node).map(str::to_owned));

        let mut ended = Vec::new();
        self.entries().retain(|name, entry| {
            let Entry::Running(running) = entry else { return false };
            let described =
                config.endpoints.get(name).is_some_and(|endpoint| endpoint.target == running.target);
            let keep = described && wanted.contains(name);
            if !keep {
                tracing::info!(endpoint = name, "the drain stops");
                running.stop.cancel();
                ended.push(std::mem::replace(&mut running.task, tokio::spawn(async {})));
            }
            keep
        });
        // The next drain of an endpoint must not begin before the last one has ended.
        futures::future::join_all(ended).await;

        for name in wanted {
            let mut entries = self.entries();
            if entries.contains_key(&name) {
                continue;
            }
            let entry = match config.endpoints.get(&name) {
                None => Entry::NotDescribed(journal.clone()),
                Some(endpoint) => {
                    tracing::info!(endpoint = name, "the drain starts");
                    Entry::Running(start(journal, &name, &endpoint.target, archive))
                }
            };
            entries.insert(name, entry);
        }
    }

    async fn stop_all(&self) {
        let entries = std::mem::take(&mut *self.entries());
        let running: Vec<Running> = entries
            .into_values()
            .filter_map(|entry| match entry {
                Entry::Running(running) => Some(running),
                Entry::NotDescribed(_) => None,
            })
            .collect();
        running.iter().for_each(|running| running.stop.cancel());
        futures::future::join_all(running.into_iter().map(|running| running.task)).await;
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps drains and the journal's limits as the configuration asks, until `stop`. SQLite archives lie in `archive`.
pub async fn run(
    drains: &Drains,
    node: &str,
    mut config: watch::Receiver<ConfigState>,
    journal: &Journal,
    archive: &Path,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        let loaded = config.borrow_and_update().current.clone();
        if let Some(loaded) = loaded {
            journal.set_limits(limits(&loaded));
            drains.arrange(node, &loaded, journal, archive).await;
            if let Some(endpoint) = loaded.config.archiving.endpoint_of(node) {
                revive(journal, endpoint).await;
            }
        }
        tokio::select! {
            changed = config.changed() => if changed.is_err() { break },
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
    }
    drains.stop_all().await;
}

/// A journal that failed is tried again even when nobody says anything: without it the pod would stay unready, which keeps those
/// away who might say something.
async fn revive(journal: &Journal, endpoint: &str) {
    if journal.status().problem.is_some() && journal.append(endpoint, Vec::new()).await.is_ok() {
        tracing::info!("the journal can be written again");
    }
}

/// Whether something waits for an endpoint, be it for somebody to have it tried again.
fn is_in_use(journal: &Journal, endpoint: &str) -> bool {
    let queue = journal.queue(endpoint);
    queue.waiting > 0 || queue.dead_letters > 0
}

fn start(journal: &Journal, name: &str, target: &EndpointTarget, archive: &Path) -> Running {
    let endpoint = Destination::new(target, archive.join(embedded_file_name(name)));
    let (drain, handle) = Drain::new(journal.clone(), name, endpoint, DrainOptions::default());
    let stop = CancellationToken::new();
    let task = tokio::spawn(drain.run(stop.clone()));
    Running { target: target.clone(), handle, stop, task }
}

/// An endpoint; where it is a file of this sidecar's own, made and migrated on connecting.
struct Destination {
    own: Option<PathBuf>,
    target: Target,
    endpoint: SqlEndpoint,
}

impl Destination {
    fn new(target: &EndpointTarget, file: PathBuf) -> Self {
        let own = (*target == EndpointTarget::Sqlite).then(|| file.clone());
        let target = Target::from_config(target, &file);
        Self { own, endpoint: SqlEndpoint::new(target.clone()), target }
    }
}

impl Endpoint for Destination {
    async fn connect(&mut self) -> Result<(), EndpointError> {
        if let Some(folder) = self.own.as_deref().and_then(Path::parent) {
            std::fs::create_dir_all(folder).map_err(|error| EndpointError::Misconfigured {
                reason: reason::PERMISSION_DENIED,
                message: format!("the folder {} cannot be made: {error}", folder.display()),
            })?;
            migrate(&self.target, &Roles::default()).await?;
        }
        self.endpoint.connect().await
    }

    fn about(&self) -> String {
        self.endpoint.about()
    }

    async fn position(
        &mut self,
        stream: &StreamId,
        until: u64,
        hash: &Hash,
    ) -> Result<Option<(u64, Hash)>, EndpointError> {
        self.endpoint.position(stream, until, hash).await
    }

    async fn count(&mut self, stream: &StreamId, until: u64) -> Result<u64, EndpointError> {
        self.endpoint.count(stream, until).await
    }

    async fn write(&mut self, records: &[Stored]) -> Result<WriteReport, EndpointError> {
        self.endpoint.write(records).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, in_force, until};
    use cartulary_archive::journal::{JournalOptions, system_clock};
    use cartulary_archive::record::{Body, Draft, Gap, GapReason};
    use std::sync::Arc;

    fn draft() -> Draft {
        let gap = Gap { first: None, count: 1, reason: GapReason::NoLink, incarnation: None };
        Draft { body: Body::Gap(gap), payloads: Vec::new() }
    }

    #[tokio::test]
    async fn drains_follow_the_configuration_and_what_waits_for_a_former_endpoint_still_reaches_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let options = JournalOptions::new(dir.path().join("journal"), "pod-0", "chat/main", "test");
        let (journal, _) = Journal::open(options, system_clock()).expect("a journal");
        let mut config = config();
        config.endpoints.clear();
        config.archiving.endpoint = None;
        let (sender, receiver) = watch::channel(in_force(config.clone()));
        let (drains, stop) = (Arc::new(Drains::default()), CancellationToken::new());
        let task = tokio::spawn({
            let (drains, journal, stop) = (drains.clone(), journal.clone(), stop.clone());
            let archive = dir.path().join("archive");
            async move { run(&drains, "pod-0", receiver, &journal, &archive, stop).await }
        });
        let state = |name: &str| drains.status().get(name).map(|status| status.state.clone());
        let is =
            |name: &'static str, expected: &'static str| move || state(name).as_deref() == Some(expected);

        // Records wait for an endpoint that nobody describes.
        journal.append("first", vec![draft()]).await.expect("appended");
        sender.send_replace(in_force(config.clone()));
        until("it is told", is("first", reason::ENDPOINT_MISSING)).await;

        // It is described, and another one is this node's from now on.
        let sqlite = self::config().endpoints["main"].clone();
        config.endpoints = [("first".to_owned(), sqlite.clone()), ("second/../x".to_owned(), sqlite)].into();
        config.archiving.endpoint = Some("second/../x".into());
        journal.append("second/../x", vec![draft()]).await.expect("appended");
        sender.send_replace(in_force(config.clone()));
        until("both are archived", || {
            journal.queue("first").waiting + journal.queue("second/../x").waiting == 0
        })
        .await;
        assert!(dir.path().join("archive/first.sqlite").exists());
        assert!(dir.path().join("archive/second%2f%2e%2e%2fx.sqlite").exists());
        let archives = cartulary_archive::endpoint::embedded_archives(&dir.path().join("archive"));
        assert_eq!(archives.expect("listed"), ["first", "second/../x"]);

        // A former endpoint without waiting records needs no drain; with one it has it again.
        sender.send_replace(in_force(config.clone()));
        until("the first has none", || state("first").is_none()).await;
        until("the second has one", is("second/../x", reason::CONNECTED)).await;
        journal.append("first", vec![draft()]).await.expect("appended");
        sender.send_replace(in_force(config));
        until("it is archived too", || journal.queue("first").waiting == 0).await;

        stop.cancel();
        task.await.expect("it ends");
        assert!(drains.status().is_empty());
    }
}
