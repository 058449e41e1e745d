//! What the rest of the sidecar sees of the journal: a place to append to, in order, that may not be open yet.
//!
//! Invariants: [`Recorder::append`] takes its place in the order before it returns, the future it returns only waits; that future
//! gives an [`Appended`] after the sync that covers the record and never before (P1, P3). What is waited for where is the caller's
//! matter; nothing here decides about a message.

use crate::chains::Chains;
use crate::config::{ConfigState, Loaded};
use crate::counts::Counters;
use crate::gaps::Gaps;
use crate::kept::{Kept, State};
use crate::open_events::OpenEvents;
use crate::tallies::Tallies;
use cartulary_archive::journal::{AppendError, Appended, Journal};
use cartulary_archive::record::Draft;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use tokio::sync::watch;

/// An append that has its place in the order and waits for its sync.
pub type Pending = BoxFuture<'static, Result<Appended, AppendError>>;

/// Where records are appended: the journal, or a test's stand-in that decides when a sync ends.
pub trait Append: Send + Sync {
    /// Takes a place in the order of `endpoint`'s stream, and returns what waits for the sync.
    fn append(&self, endpoint: &str, draft: Draft) -> Pending;
}

impl Append for Journal {
    fn append(&self, endpoint: &str, draft: Draft) -> Pending {
        let (journal, endpoint) = (self.clone(), endpoint.to_owned());
        // Without this the runtime may make the first poll give up its turn before the record is handed over, as it does to
        // tasks that are busy for long; a later record would then overtake it.
        let mut waiting = tokio::task::unconstrained(async move {
            let mut appended = Self::append(&journal, &endpoint, vec![draft]).await?;
            // One draft, one record; a journal that answers otherwise must not become a permission to deliver.
            appended.pop().ok_or_else(|| AppendError::Failed("the journal confirmed nothing".into()))
        })
        .boxed();
        // The first poll hands the record over: places in the order are taken in the order of these calls.
        match (&mut waiting).now_or_never() {
            Some(done) => futures::future::ready(done).boxed(),
            None => waiting,
        }
    }
}

/// The hosts of the server, as the last hello named them.
pub type Hosts = Arc<std::collections::HashSet<String>>;

/// Everything the path of an event needs, shared by all connections.
pub struct Recorder {
    /// This pod.
    pub node: String,
    /// The configuration.
    pub config: watch::Receiver<ConfigState>,
    /// The sums.
    pub counts: Arc<Counters>,
    /// What is missing and not yet on record.
    pub gaps: Gaps,
    /// What the plugin counted.
    pub tallies: Tallies,
    /// What the next process has to know.
    pub kept: Kept,
    /// Events whose outcome is awaited.
    pub open: Mutex<OpenEvents>,
    /// Stanzas that compliance servers are asked about.
    pub chains: Chains,
    hosts: RwLock<Hosts>,
    journal: OnceLock<Arc<dyn Append>>,
    writer_gone: AtomicBool,
}

impl Recorder {
    /// A recorder without a journal: whatever must be recorded cannot be, until [`Self::open_journal`].
    #[must_use]
    pub fn new(node: &str, config: watch::Receiver<ConfigState>, counts: Arc<Counters>) -> Self {
        Self {
            node: node.to_owned(),
            config,
            counts,
            gaps: Gaps::default(),
            tallies: Tallies::default(),
            kept: Kept::default(),
            open: Mutex::new(OpenEvents::default()),
            chains: Chains::default(),
            hosts: RwLock::default(),
            journal: OnceLock::new(),
            writer_gone: AtomicBool::new(false),
        }
    }

    /// Gives it its journal, once.
    pub fn open_journal(&self, journal: Arc<dyn Append>) {
        // A second one would be another order; the first stays.
        _ = self.journal.set(journal);
    }

    /// Appends to `endpoint`'s stream.
    pub fn append(&self, endpoint: &str, draft: Draft) -> Pending {
        match self.journal.get() {
            Some(journal) => journal.append(endpoint, draft),
            None => futures::future::ready(Err(AppendError::Closed)).boxed(),
        }
    }

    /// Notes an append that failed because nobody writes any more.
    pub fn note_failure(&self, error: &AppendError) {
        if *error == AppendError::Closed && self.journal.get().is_some() {
            self.writer_gone.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the journal was found to have no writer any more.
    #[must_use]
    pub fn is_writer_gone(&self) -> bool {
        self.writer_gone.load(Ordering::Relaxed)
    }

    /// The configuration in force.
    #[must_use]
    pub fn loaded(&self) -> Option<Arc<Loaded>> {
        self.config.borrow().current.clone()
    }

    /// The endpoint to which this node's records go now; `None` without configuration or with archiving off.
    #[must_use]
    pub fn endpoint(&self) -> Option<String> {
        self.loaded()?.config.archiving.endpoint_of(&self.node).map(str::to_owned)
    }

    /// Takes up what a former process kept in `dir`, and keeps it there from now on.
    pub async fn take_up(&self, dir: &std::path::Path) {
        let State { missing, counted } = self.kept.open(dir).await;
        self.tallies.restore(counted);
        for missing in missing {
            tracing::warn!(
                endpoint = missing.endpoint,
                count = missing.count,
                reason = missing.reason.word(),
                "a former process of the sidecar could not put on record that messages are missing"
            );
            self.counts.add(|counts| {
                counts.delivered_unrecorded = counts.delivered_unrecorded.saturating_add(missing.count);
            });
            self.gaps.note(missing.endpoint.as_deref(), missing.reason, missing.count);
        }
    }

    /// Keeps on disk what is not on record yet.
    pub async fn keep(&self) {
        self.kept.store(|| State { missing: self.gaps.snapshot(), counted: self.tallies.snapshot() }).await;
    }

    /// The hosts of the server.
    #[must_use]
    pub fn hosts(&self) -> Hosts {
        self.hosts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the hosts of the server.
    pub fn set_hosts(&self, hosts: Hosts) {
        *self.hosts.write().unwrap_or_else(PoisonError::into_inner) = hosts;
    }

    /// The events whose outcome is awaited.
    pub fn open_events(&self) -> std::sync::MutexGuard<'_, OpenEvents> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
