//! The journal: records on the pod's own disk, synced before anybody is told that they are there (P1, MA-6, MA-7).
//!
//! `docs/journal.md` describes the files. Invariants: an append is answered only after a sync that covers it; readers see
//! nothing unsynced; the order of a stream is the order of appending; a cursor never passes what was not confirmed. The
//! journal does not connect to anything: [`crate::drain`] does.

mod dead;
mod disk;
mod format;
mod key;
mod options;
mod reader;
mod recover;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use dead::{DeadLetter, DeadLetterEntry};
pub use options::{
    AppendError, Appended, Clock, JournalError, JournalOptions, Limits, MissingRange, Position, Recovery,
    RewindReport, system_clock,
};
pub use reader::Stored;

use crate::record::{Body, Draft, Gap, GapReason, StreamEnd};
use cartulary_compliance::config::QueueLimit;
use cartulary_compliance::status::{Head, JournalStatus};
use disk::{Disk, RealDisk};
use key::Key;
use state::{Entry, Shared};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;
use writer::{Answer, Request, Writer};

/// Requests that wait for the writer. Whoever finds it full waits, which holds the stanza and so its sender.
const WAITING_REQUESTS: usize = 16_384;
/// Bytes of payloads in one sync, so that one batch does not need boundless memory.
const BATCH_BYTES: usize = 32 << 20;

/// An open journal. Cheap to clone; one thread writes for all clones.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

enum Command {
    Append(Request, oneshot::Sender<Answer>),
    Close(oneshot::Sender<Result<(), AppendError>>),
}

/// What an endpoint's queue holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueStatus {
    /// Records that wait.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// When the oldest of them was recorded, nanoseconds since the epoch.
    pub oldest_waiting_nanos: Option<i64>,
    /// Records confirmed since the process started.
    pub archived: u64,
    /// Records kept aside.
    pub dead_letters: u64,
    /// The last confirmed record.
    pub confirmed: Option<StreamEnd>,
    /// How many may wait.
    pub limit: QueueLimit,
}

impl Journal {
    /// Opens the journal in `options.dir`, making it if there is none, and puts in order what a crash left.
    ///
    /// A full disk does not keep it from opening: appends are then refused until there is room.
    pub fn open(options: JournalOptions, clock: Clock) -> Result<(Self, Recovery), JournalError> {
        let disk = RealDisk::open(&options.dir).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => JournalError::InUse(options.dir.display().to_string()),
            _ => JournalError::Io { doing: "open its folder", error },
        })?;
        let (shared, writer, recovery) = open_on(Arc::new(disk), options, clock)?;
        let (commands, queue) = mpsc::channel(WAITING_REQUESTS);
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_all(writer, queue))
            .map_err(|error| JournalError::Io { doing: "start its thread", error })?;
        Ok((Self { shared, commands, thread: Arc::new(Mutex::new(Some(thread))) }, recovery))
    }

    /// The journal's id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.shared.journal
    }

    /// The incarnation that writes now.
    #[must_use]
    pub fn incarnation(&self) -> Uuid {
        self.shared.incarnation
    }

    /// Records `drafts` for `endpoint`, in this order. Answered when all of them are synced, or none is promised.
    pub async fn append(&self, endpoint: &str, drafts: Vec<Draft>) -> Result<Vec<Appended>, AppendError> {
        let (answer, answered) = oneshot::channel();
        let request = Request { endpoint: endpoint.to_owned(), drafts };
        self.commands.send(Command::Append(request, answer)).await.map_err(|_| AppendError::Closed)?;
        answered.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Changes the limits; they hold from the next append on (MA-11).
    pub fn set_limits(&self, limits: Limits) {
        self.shared.state().limits = limits;
        self.shared.reap(false);
    }

    /// Removes confirmed segments whose time is over. Called at every confirmation; a quiet endpoint's owner calls it now
    /// and then.
    pub fn reap(&self) {
        self.shared.reap(false);
    }

    /// A reader of what waits for `endpoint`, from its cursor on.
    #[must_use]
    pub fn reader(&self, endpoint: &str) -> JournalReader {
        let next = self.shared.state().endpoints.get(endpoint).map(|queue| queue.cursor.position);
        JournalReader {
            journal: self.clone(),
            endpoint: endpoint.to_owned(),
            next: next.unwrap_or_default(),
            changed: self.shared.changed.subscribe(),
            failures: 0,
            again: None,
            giving_up: None,
        }
    }

    /// Says in its stream that a waiting record is damaged, and passes it over from then on.
    async fn give_up(&self, endpoint: &str, entry: Entry) -> Result<(), JournalError> {
        let name = endpoint.to_owned();
        let known = self.blocking(move |shared| match shared.is_passed_over(&name, &entry) {
            true => Ok(true),
            false if shared.gives_back() => Ok(false),
            false => Err(JournalError::Unreadable),
        });
        if known.await? {
            return Ok(());
        }
        // Synced before the record is passed over: a disk that takes nothing costs nothing either.
        if let Err(error) = self.append(endpoint, vec![reader::gap(&entry)]).await {
            let error = io::Error::other(error.to_string());
            return Err(JournalError::Io { doing: "say that a record is damaged", error });
        }
        tracing::error!(
            endpoint,
            incarnation = %entry.incarnation,
            sequence = entry.sequence,
            "the disk does not give back a record that waited: it is lost, and a gap record says so; replace the volume"
        );
        let name = endpoint.to_owned();
        self.blocking(move |shared| {
            shared.pass_over(&name, &entry);
            Ok(())
        })
        .await
    }

    /// Sequences of an incarnation's stream that were passed over since the process started.
    #[must_use]
    pub fn passed_over(&self, endpoint: &str, incarnation: Uuid) -> BTreeSet<u64> {
        let state = self.shared.state();
        let queue = state.endpoints.get(endpoint);
        let sequences = queue.into_iter().flat_map(|queue| &queue.passed_over);
        sequences.filter(|(of, _)| *of == incarnation).map(|(_, sequence)| *sequence).collect()
    }

    /// `endpoint` has taken everything up to and including `record`. Durable when it returns; a record at or before the
    /// cursor changes nothing.
    pub async fn confirm(&self, endpoint: &str, record: &Stored) -> Result<(), JournalError> {
        let (endpoint, cursor) = (endpoint.to_owned(), record.cursor());
        self.blocking(move |shared| shared.confirm(&endpoint, cursor)).await
    }

    /// The archive holds nothing of `endpoint` after `archived`: what is kept and follows it waits again. Readers made
    /// before do not see it.
    pub async fn rewind(
        &self,
        endpoint: &str,
        archived: Option<(Uuid, u64)>,
    ) -> Result<RewindReport, JournalError> {
        let endpoint = endpoint.to_owned();
        self.blocking(move |shared| shared.rewind(&endpoint, archived)).await
    }

    /// Keeps a record aside that `endpoint` refused alone, and says once in its stream that it is missing.
    pub async fn dead_letter(
        &self,
        endpoint: &str,
        record: &Stored,
        reason: &str,
    ) -> Result<(), DeadLetterError> {
        let header = &record.record.header;
        let gap = Gap {
            first: Some(header.sequence),
            count: 1,
            reason: GapReason::Rejected,
            incarnation: Some(header.stream.incarnation),
        };
        // A gap record that is refused in its turn must not breed others.
        let is_gap = matches!(header.content, crate::record::Content::Body(Body::Gap(_)));
        let (name, record, reason) = (endpoint.to_owned(), record.record.clone(), reason.to_owned());
        // Nor must a record that is refused again. Said first and kept aside then: a crash between the two says it twice at worst.
        let (known, id) = (name.clone(), header.id);
        if !is_gap && !self.blocking(move |shared| Ok(shared.is_buried(&known, id))).await? {
            self.append(endpoint, vec![Draft { body: Body::Gap(gap), payloads: Vec::new() }]).await?;
        }
        Ok(self.blocking(move |shared| shared.bury(&name, &record, &reason)).await?)
    }

    /// The dead letters of `endpoint`, oldest record first.
    pub async fn dead_letters(&self, endpoint: &str) -> Result<Vec<DeadLetterEntry>, JournalError> {
        let endpoint = endpoint.to_owned();
        self.blocking(move |shared| {
            let mut entries = Vec::new();
            for name in shared.dead_names(&endpoint)? {
                entries.extend(shared.dead_letter(&name)?.as_ref().map(DeadLetterEntry::from));
            }
            Ok(entries)
        })
        .await
    }

    /// The dead letters of `endpoint` with the names under which [`Self::raise`] knows them.
    pub(crate) async fn dead_names(&self, endpoint: &str) -> Result<Vec<String>, JournalError> {
        let endpoint = endpoint.to_owned();
        self.blocking(move |shared| shared.dead_names(&endpoint)).await
    }

    pub(crate) async fn dead(&self, name: &str) -> Result<Option<DeadLetter>, JournalError> {
        let name = name.to_owned();
        self.blocking(move |shared| shared.dead_letter(&name)).await
    }

    pub(crate) async fn raise(&self, endpoint: &str, name: &str) -> Result<(), JournalError> {
        let (endpoint, name) = (endpoint.to_owned(), name.to_owned());
        self.blocking(move |shared| shared.raise(&endpoint, &name)).await
    }

    /// The journal's state.
    #[must_use]
    pub fn status(&self) -> JournalStatus {
        let state = self.shared.state();
        JournalStatus {
            id: self.shared.journal.to_string(),
            bytes: state.bytes(),
            problem: state.problem.clone(),
            quarantined: state.quarantined,
            endpoints: state.endpoints.keys().cloned().collect(),
            max_bytes: state.limits.max_bytes,
            ephemeral: false, // whoever opened it knows
            unreadable: state.unreadable,
        }
    }

    /// How far each stream of this incarnation is durable and confirmed, signed. Empty while the key cannot be stored.
    #[must_use]
    pub fn heads(&self) -> Vec<Head> {
        self.shared.heads()
    }

    /// The state of one endpoint's queue.
    #[must_use]
    pub fn queue(&self, endpoint: &str) -> QueueStatus {
        let state = self.shared.state();
        state.endpoints.get(endpoint).map_or_else(QueueStatus::default, |queue| QueueStatus {
            waiting: queue.waiting.len() as u64,
            waiting_bytes: queue.waiting_bytes,
            oldest_waiting_nanos: queue.waiting.front().map(|entry| entry.recorded_at),
            archived: queue.archived,
            dead_letters: queue.dead_letters,
            confirmed: queue.cursor.last,
            limit: state.queue_limit(endpoint),
        })
    }

    /// Endpoints of which there is a queue or a cursor.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.shared.state().endpoints.keys().cloned().collect()
    }

    /// Ends every stream, syncs, and refuses appends from here on. What waits stays for the next start; readers see it still.
    pub async fn close(self) -> Result<(), AppendError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Close(answer)).await.map_err(|_| AppendError::Closed)?;
        let result = answered.await.unwrap_or(Err(AppendError::Closed));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
        result
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared)).await.unwrap_or(Err(JournalError::Closed))
    }
}

/// Why a record could not be kept aside.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// It could not be stored.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The gap record could not be appended.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Reads what waits for one endpoint, in order.
pub struct JournalReader {
    journal: Journal,
    endpoint: String,
    next: Position,
    changed: tokio::sync::watch::Receiver<u64>,
    /// How often the next record could not be read, and when it is tried again.
    failures: usize,
    again: Option<tokio::time::Instant>,
    /// A damaged record is being given up.
    giving_up: Option<tokio::task::JoinHandle<Result<(), JournalError>>>,
}

impl JournalReader {
    /// The next records: at most `records`, and at most `bytes` of them unless the first alone is larger. Empty when nothing
    /// waits. A record that cannot be read is tried again with pauses, then passed over; a gap record in its stream tells of it.
    ///
    /// # Errors
    /// [`JournalError::Unreadable`] while the disk gives back nothing at all: then nothing is passed over.
    pub async fn try_next(&mut self, records: usize, bytes: u64) -> Result<Vec<Stored>, JournalError> {
        loop {
            if let Some(giving_up) = &mut self.giving_up {
                let result = giving_up.await.unwrap_or(Err(JournalError::Closed));
                self.giving_up = None;
                result?;
                self.failures = 0;
            }
            if let Some(again) = self.again {
                tokio::time::sleep_until(again).await;
                self.again = None;
            }
            let (endpoint, from) = (self.endpoint.clone(), self.next);
            let batch =
                self.journal.blocking(move |shared| shared.read(&endpoint, from, records, bytes)).await?;
            let Some(bad) = batch.bad else {
                self.failures = 0;
                self.next = batch.next;
                return Ok(batch.records);
            };
            match self.journal.shared.options.read_pauses.get(self.failures) {
                Some(pause) => {
                    self.failures += 1;
                    self.again = Some(tokio::time::Instant::now() + *pause);
                }
                // A task, because a gap record that is under way must not be written again by whoever comes after this call.
                None => {
                    let (journal, endpoint) = (self.journal.clone(), self.endpoint.clone());
                    self.giving_up = Some(tokio::spawn(async move { journal.give_up(&endpoint, bad).await }));
                }
            }
        }
    }

    /// As [`Self::try_next`], but waits until there is something. Cancelling it loses nothing.
    pub async fn next(&mut self, records: usize, bytes: u64) -> Result<Vec<Stored>, JournalError> {
        loop {
            self.changed.mark_unchanged();
            let before = self.next;
            let batch = self.try_next(records, bytes).await?;
            if !batch.is_empty() {
                return Ok(batch);
            }
            if self.next == before {
                self.changed.changed().await.map_err(|_| JournalError::Closed)?;
            }
        }
    }
}

/// Opens a journal on any disk, without its thread.
fn open_on(
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    clock: Clock,
) -> Result<(Arc<Shared>, Writer, Recovery), JournalError> {
    let found = recover::recover(&*disk, options.limits.clone(), &options.read_pauses)?;
    let journal = found.journal.unwrap_or_else(Uuid::now_v7);
    let incarnation = Uuid::now_v7();
    let key = Key::new(found.seed);
    let shared = Arc::new(Shared::new(disk, clock, options, journal, incarnation, key, found.state));
    // One that cannot be stored now is made later.
    let _ = shared.seed();
    let mut writer =
        Writer::new(Arc::clone(&shared), found.ends, found.gaps, found.previous, found.highest, found.voids);
    writer.start();
    Ok((shared, writer, found.report))
}

/// The writer's thread: everything that arrived while the last sync ran shares the next.
fn write_all(mut writer: Writer, mut queue: mpsc::Receiver<Command>) {
    while let Some(first) = queue.blocking_recv() {
        let (mut requests, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut closing = None;
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Append(request, answer) => {
                    bytes += size(&request);
                    requests.push(request);
                    answers.push(answer);
                }
                Command::Close(answer) => {
                    closing = Some(answer);
                    break;
                }
            }
            next = if bytes < BATCH_BYTES { queue.try_recv().ok() } else { None };
        }
        for (answer, result) in answers.into_iter().zip(writer.commit(requests)) {
            // Whoever does not wait any more has taken it as refused.
            let _ = answer.send(result);
        }
        if let Some(answer) = closing {
            let _ = answer.send(writer.close());
            return;
        }
    }
}

fn size(request: &Request) -> usize {
    request.drafts.iter().flat_map(|draft| &draft.payloads).map(|(_, bytes)| bytes.len()).sum()
}
