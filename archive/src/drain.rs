//! Carries records from the journal to one endpoint, in order, until it is told to stop (P2, P3, MA-6, MA-7).
//!
//! Invariants: a record is confirmed only after its endpoint has it durably, or after it was kept aside as a dead letter;
//! nothing is passed over silently. A batch that is refused is halved until the records that are at fault stand alone. An
//! archive that holds less than it had confirmed is refilled from what the journal keeps: its last confirmed record is asked for
//! again and again, and now and then all of this process's are counted (EV-2).

use crate::endpoint::{Endpoint, EndpointError, WriteReport};
use crate::journal::{DeadLetterError, Journal, JournalError, JournalReader, MissingRange, Position, Stored};
use crate::record::{StreamEnd, StreamId};
use cartulary_compliance::names::reason;
use cartulary_compliance::status::EndpointStatus;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A connection that comes and goes does not have the archive counted more often than this.
const COUNT_AGAIN: Duration = Duration::from_secs(60);

/// How a drain goes about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainOptions {
    /// Records in one batch.
    pub batch_records: usize,
    /// Bytes in one batch, unless one record alone is larger.
    pub batch_bytes: u64,
    /// Pause after a first failure; doubled after each further one.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
    /// How often an idle connection is tried.
    pub idle: Duration,
    /// How often the records of this process's stream are counted in the archive (EV-2), besides after connecting.
    pub count_every: Duration,
}

impl Default for DrainOptions {
    fn default() -> Self {
        Self {
            batch_records: 500,
            batch_bytes: 8 << 20,
            pause_min: Duration::from_millis(250),
            pause_max: Duration::from_secs(30),
            idle: Duration::from_secs(15),
            count_every: Duration::from_secs(3600),
        }
    }
}

/// One endpoint's carrier.
pub struct Drain<E> {
    journal: Journal,
    name: String,
    endpoint: E,
    options: DrainOptions,
    handle: DrainHandle,
    failures: u32,
    /// Records still to be written before an archive that went back holds again what it had confirmed.
    refilling: u64,
    /// When the archive's records were counted last; `None` before, and when it is to be done next.
    counted: Option<Instant>,
    /// Records that were found missing by counting and that the journal does not keep any more.
    missing: u64,
    /// What counting found missing is being written again.
    mending: bool,
}

/// What others see of a drain.
#[derive(Clone)]
pub struct DrainHandle {
    journal: Journal,
    name: String,
    said: Arc<Mutex<Said>>,
    retry: Arc<Notify>,
}

#[derive(Default)]
struct Said {
    state: &'static str,
    message: String,
    /// What is wrong with what the archive holds. Nothing takes it back but the end of the process: nobody can acknowledge it, and
    /// records that follow do not mend it.
    lost: Option<String>,
}

impl DrainHandle {
    /// The endpoint's status.
    #[must_use]
    pub fn status(&self) -> EndpointStatus {
        let queue = self.journal.queue(&self.name);
        let said = self.said();
        let (state, message) = match &said.lost {
            // A connection that is lost is graver, and may be what somebody is about to mend.
            Some(lost) if said.state == reason::CONNECTED => {
                (reason::WENT_BACK, format!("{}; {lost}", said.message))
            }
            Some(lost) => (said.state, format!("{}; {lost}", said.message)),
            None => (said.state, said.message.clone()),
        };
        EndpointStatus {
            state: state.to_owned(),
            message,
            waiting: queue.waiting,
            oldest_waiting_micros: queue.oldest_waiting_nanos.map(|nanos| nanos.div_euclid(1000)),
            archived: queue.archived,
            dead_letters: queue.dead_letters,
            waiting_bytes: queue.waiting_bytes,
            max_records: queue.limit.max_records,
            max_bytes: queue.limit.max_bytes,
        }
    }

    /// Has the dead letters tried again, soon.
    pub fn retry_dead_letters(&self) {
        self.retry.notify_one();
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps in the status that something is lost; logs it when it was not known.
    fn lose(&self, message: String) {
        let mut said = self.said();
        if said.lost.as_ref() != Some(&message) {
            tracing::error!(endpoint = self.name, "{message}");
            said.lost = Some(message);
        }
    }

    fn say(&self, state: &'static str, message: String) {
        let mut said = self.said();
        if said.state != state {
            match state {
                reason::CONNECTED | reason::CONNECTING => {
                    tracing::info!(endpoint = self.name, state, "{message}");
                }
                _ => tracing::warn!(endpoint = self.name, state, "{message}"),
            }
        }
        (said.state, said.message) = (state, message);
    }
}

/// Why work on a connection ended.
enum Ended {
    Stopped,
    Endpoint(EndpointError),
    Journal(String),
}

impl From<EndpointError> for Ended {
    fn from(error: EndpointError) -> Self {
        Self::Endpoint(error)
    }
}

impl From<JournalError> for Ended {
    fn from(error: JournalError) -> Self {
        Self::Journal(error.to_string())
    }
}

impl From<DeadLetterError> for Ended {
    fn from(error: DeadLetterError) -> Self {
        Self::Journal(error.to_string())
    }
}

impl<E: Endpoint> Drain<E> {
    /// A drain of the journal's queue `name`, and its handle. Nothing happens before [`Self::run`].
    pub fn new(journal: Journal, name: &str, endpoint: E, options: DrainOptions) -> (Self, DrainHandle) {
        let handle = DrainHandle {
            journal: journal.clone(),
            name: name.to_owned(),
            said: Arc::default(),
            retry: Arc::default(),
        };
        handle.say(reason::CONNECTING, "not tried yet".to_owned());
        let drain = Self {
            journal,
            name: name.to_owned(),
            endpoint,
            options,
            handle: handle.clone(),
            failures: 0,
            refilling: 0,
            counted: None,
            missing: 0,
            mending: false,
        };
        (drain, handle)
    }

    /// Works until `stop`. A batch under way is given up; writing it again is harmless.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => Ended::Stopped,
                ended = self.work() => ended,
            };
            match ended {
                Ended::Stopped => return,
                Ended::Endpoint(error) => self.handle.say(error.reason(), error.to_string()),
                Ended::Journal(message) => {
                    tracing::error!(endpoint = self.name, "the drain waits for the journal: {message}");
                    self.handle.say(reason::PENDING, format!("waits for the journal: {message}"));
                }
            }
            let pause = self.pause();
            self.failures = self.failures.saturating_add(1);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn pause(&self) -> Duration {
        let full =
            self.options.pause_min.saturating_mul(1 << self.failures.min(16)).min(self.options.pause_max);
        let mut random = [0; 4];
        // Without randomness every node comes back at the same time, which is all.
        let _ = getrandom::fill(&mut random);
        full.mul_f64(0.5 + f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX) / 2.0)
    }

    /// One connection's life.
    async fn work(&mut self) -> Ended {
        match self.try_work().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn try_work(&mut self) -> Result<std::convert::Infallible, Ended> {
        self.endpoint.connect().await?;
        if self.counted.is_some_and(|at| at.elapsed() >= COUNT_AGAIN) {
            self.counted = None;
        }
        if !self.check_position().await? {
            self.check_count().await?;
        }
        self.say_connected();
        let mut reader = self.fresh_reader();
        loop {
            let retry = Arc::clone(&self.handle.retry);
            let batch = tokio::select! {
                batch = reader.next(self.options.batch_records, self.options.batch_bytes) => Some(batch?),
                () = retry.notified() => {
                    self.retry_dead_letters().await?;
                    None
                }
                () = tokio::time::sleep(self.options.idle) => None,
            };
            match batch {
                Some(batch) => self.carry(&batch).await?,
                None => {
                    if self.check_position().await? {
                        reader = self.fresh_reader();
                    }
                }
            }
            if self.check_count().await? {
                reader = self.fresh_reader();
            }
            self.failures = 0;
            self.journal.reap();
            self.say_connected();
        }
    }

    fn fresh_reader(&self) -> JournalReader {
        self.journal.reader(&self.name)
    }

    fn say_connected(&self) {
        if self.refilling == 0 {
            let about = self.endpoint.about();
            self.handle.say(reason::CONNECTED, format!("connected and archiving: {about}"));
        } else {
            let message = format!(
                "the archive holds less than it had confirmed, as if restored from a backup; {} records are written again",
                self.refilling
            );
            self.handle.say(reason::WENT_BACK, message);
        }
    }

    /// Compares the archive with the cursor; refills it if it went back. Returns whether it did.
    async fn check_position(&mut self) -> Result<bool, Ended> {
        let Some(confirmed) = self.journal.queue(&self.name).confirmed else {
            // Nothing to compare yet; but an archive that is gone is to be told before somebody says something (MA-10).
            let stream = self.stream(self.journal.incarnation());
            self.endpoint.position(&stream, 0, &[0; 32]).await?;
            return Ok(false);
        };
        let stream = self.stream(confirmed.incarnation);
        let there = self.endpoint.position(&stream, confirmed.sequence, &confirmed.hash).await?;
        match there {
            Some((sequence, hash)) if sequence == confirmed.sequence && hash != confirmed.hash => {
                let message = format!(
                    "the archive's record {sequence} of {stream} is not the one that was written: run cartulary verify"
                );
                self.handle.lose(message);
                return Ok(false);
            }
            Some((sequence, _)) if sequence >= confirmed.sequence => return Ok(false),
            _ => {}
        }
        let aside = self.aside(&confirmed).await?;
        // An archive that never took them has not lost them.
        let first = there.map_or(0, |(sequence, _)| sequence + 1);
        if (first..=confirmed.sequence).all(|sequence| aside.contains(&sequence)) {
            return Ok(false);
        }
        let archived = there.map(|(sequence, _)| (confirmed.incarnation, sequence));
        let report = self.journal.rewind(&self.name, archived).await?;
        if let Some(missing) = &report.missing {
            self.handle.lose(describe(missing));
        }
        if report.available == 0 {
            return Ok(false);
        }
        self.refilling = report.available;
        tracing::error!(
            endpoint = self.name,
            available = report.available,
            "the archive holds less than it had confirmed; what the journal keeps is written again"
        );
        self.say_connected();
        Ok(true)
    }

    fn stream(&self, incarnation: Uuid) -> StreamId {
        StreamId { journal: self.journal.id(), endpoint: self.name.clone(), incarnation }
    }

    /// Sequences up to what is confirmed that the archive was never given: refused alone, or damaged in the journal.
    async fn aside(&self, confirmed: &StreamEnd) -> Result<BTreeSet<u64>, Ended> {
        let mut aside = self.journal.passed_over(&self.name, confirmed.incarnation);
        if self.journal.queue(&self.name).dead_letters > 0 {
            let letters = self.journal.dead_letters(&self.name).await?;
            let letters = letters.iter().filter(|letter| letter.incarnation == confirmed.incarnation);
            aside.extend(letters.map(|letter| letter.sequence));
        }
        aside.retain(|sequence| *sequence <= confirmed.sequence);
        Ok(aside)
    }

    /// Compares how many records the archive holds of this process's stream with how many it has confirmed (EV-2), and has what the
    /// journal keeps written again if some are gone. Returns whether it did.
    async fn check_count(&mut self) -> Result<bool, Ended> {
        let is_due = self.counted.is_none_or(|at| at.elapsed() >= self.options.count_every);
        let confirmed = self.journal.queue(&self.name).confirmed;
        let Some(confirmed) = confirmed.filter(|end| end.incarnation == self.journal.incarnation()) else {
            return Ok(false);
        };
        if !is_due || self.refilling > 0 {
            return Ok(false);
        }
        let aside = self.aside(&confirmed).await?.len() as u64;
        // Also when it fails: what takes too long must not be asked again at once.
        self.counted = Some(Instant::now());
        let held = self.endpoint.count(&self.stream(confirmed.incarnation), confirmed.sequence).await?;
        let expected = (confirmed.sequence + 1).saturating_sub(aside);
        let missing = expected.saturating_sub(held);
        let mended = std::mem::take(&mut self.mending);
        if missing <= self.missing {
            return Ok(false);
        }
        if !mended {
            tracing::error!(
                endpoint = self.name,
                held,
                expected,
                "records that the archive had confirmed are gone from it; what the journal keeps is written again"
            );
            self.refilling = self.journal.rewind(&self.name, None).await?.available;
            if self.refilling > 0 {
                // Counted again as soon as that is done.
                (self.counted, self.mending) = (None, true);
                self.say_connected();
                return Ok(true);
            }
        }
        self.missing = missing;
        self.handle.lose(format!(
            "the archive holds {held} of {expected} records that it had confirmed, and the journal does not keep the others any \
             more: run cartulary verify, which names them, and restore a backup that has them"
        ));
        Ok(false)
    }

    /// Writes a batch, halving what is refused.
    async fn carry(&mut self, batch: &[Stored]) -> Result<(), Ended> {
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            let Some(last) = part.last() else { continue };
            match self.endpoint.write(part).await {
                Ok(report) => self.keep_conflicting(part, &report).await?,
                Err(EndpointError::Rejected { message }) if part.len() == 1 => {
                    tracing::error!(endpoint = self.name, id = %last.record.header.id, "the archive refuses a record: {message}");
                    self.journal.dead_letter(&self.name, last, &message).await?;
                }
                Err(EndpointError::Rejected { .. }) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            self.journal.confirm(&self.name, last).await?;
            self.refilling = self.refilling.saturating_sub(part.len() as u64);
        }
        Ok(())
    }

    async fn keep_conflicting(&mut self, part: &[Stored], report: &WriteReport) -> Result<(), Ended> {
        for stored in part.iter().filter(|stored| report.conflicting.contains(&stored.record.header.id)) {
            let message = "the archive holds another record under this id: run cartulary verify";
            tracing::error!(endpoint = self.name, id = %stored.record.header.id, "{message}");
            self.journal.dead_letter(&self.name, stored, message).await?;
        }
        Ok(())
    }

    async fn retry_dead_letters(&mut self) -> Result<(), Ended> {
        for name in self.journal.dead_names(&self.name).await? {
            let Some(letter) = self.journal.dead(&name).await? else { continue };
            let stored = Stored { record: letter.record, position: Position::default() };
            match self.endpoint.write(std::slice::from_ref(&stored)).await {
                Ok(report) if report.conflicting.is_empty() => self.journal.raise(&self.name, &name).await?,
                Ok(_) | Err(EndpointError::Rejected { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn describe(missing: &MissingRange) -> String {
    let MissingRange { incarnation, first, last } = missing;
    let range = last.map_or_else(
        || format!("records from {first} on"),
        |last| format!("{} records, {first} to {last},", last.saturating_sub(*first).saturating_add(1)),
    );
    format!(
        "the archive does not hold what it had confirmed: {range} of incarnation {incarnation} are kept nowhere any more: restore a \
         newer backup, or keep this message as evidence of the hole"
    )
}
