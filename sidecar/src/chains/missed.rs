//! Logins and logouts that a compliance server has not seen (FH-8): each is put on record as `missed`, counted, and, where that is
//! declared, sent when the server is back, marked as missed.
//!
//! Bounded: what waits for the journal and what waits for a server are dropped, oldest first, when there is too much; the count keeps them all.

use super::{Peers, is_kept_when_missed};
use crate::recorder::Recorder;
use cartulary_archive::record::{Body, Draft, Missed as Record};
use cartulary_compliance::failure::Standing;
use cartulary_compliance::protocol::Question;
use cartulary_compliance::status::ComplianceServerStatus;
use futures::future::join_all;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Events that wait for one server, and for the journal.
const CAPACITY: usize = 10_000;
/// Bytes of their stanzas.
const MAX_BYTES: usize = 8 << 20;

/// What servers have not seen.
#[derive(Default)]
pub struct Missed {
    state: Mutex<State>,
    /// Something waits for the journal, or for a server.
    noted: Notify,
    /// The same, for the servers.
    queued: Notify,
}

#[derive(Default)]
struct State {
    unrecorded: Queue<(String, Arc<Question>)>,
    servers: BTreeMap<String, Server>,
}

#[derive(Default)]
struct Server {
    missed: u64,
    sent_later: u64,
    waiting: Queue<Arc<Question>>,
}

struct Queue<T> {
    entries: VecDeque<(T, usize)>,
    bytes: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Queue<T> {
    /// How many had to go for it.
    fn push(&mut self, entry: T, bytes: usize) -> usize {
        self.entries.push_back((entry, bytes));
        self.bytes += bytes;
        let mut dropped = 0;
        while self.entries.len() > CAPACITY || self.bytes > MAX_BYTES {
            if self.pop().is_none() {
                break;
            }
            dropped += 1;
        }
        dropped
    }

    fn pop(&mut self) -> Option<T> {
        let (entry, bytes) = self.entries.pop_front()?;
        self.bytes -= bytes;
        Some(entry)
    }
}

impl Missed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `server` has not seen this, if it is a login or a logout.
    pub fn note(&self, server: &str, question: &Arc<Question>) {
        if !is_kept_when_missed(question.event) || question.missed {
            return;
        }
        let bytes = question.stanza.text().len();
        let mut state = self.state();
        state.servers.entry(server.to_owned()).or_default().missed += 1;
        let dropped = state.unrecorded.push((server.to_owned(), Arc::clone(question)), bytes);
        drop(state);
        if dropped > 0 {
            tracing::error!(dropped, "logins or logouts that a compliance server missed are not on record");
        }
        self.noted.notify_one();
    }

    /// Adds the sums to what the links say of themselves.
    pub fn complete(&self, servers: &mut BTreeMap<String, ComplianceServerStatus>) {
        let state = self.state();
        for (name, status) in servers {
            if let Some(server) = state.servers.get(name) {
                (status.counts.missed, status.counts.sent_later) = (server.missed, server.sent_later);
            }
        }
    }

    /// Puts on record what was missed, until `stop` and then the rest.
    pub async fn run(&self, recorder: &Recorder, stop: CancellationToken) {
        loop {
            self.record(recorder).await;
            tokio::select! {
                () = self.noted.notified() => {}
                () = stop.cancelled() => break,
            }
        }
        self.record(recorder).await;
    }

    /// Each entry takes its place in the order of the stream; they are synced together.
    async fn record(&self, recorder: &Recorder) {
        let mut pending = Vec::new();
        loop {
            let Some((server, question)) = self.state().unrecorded.pop() else { break };
            let loaded = recorder.loaded();
            if let Some(loaded) = &loaded
                && let Some(endpoint) = loaded.config.archiving.endpoint_of(&recorder.node)
            {
                let record = Record {
                    seen_at_nanos: question.seen_at_micros.saturating_mul(1000),
                    jid: question.from.clone(),
                    event: question.event.name.to_owned(),
                    server: server.clone(),
                    profile: question.profile.clone(),
                };
                let draft = Draft { body: Body::Missed(record), payloads: Vec::new() };
                pending.push(recorder.append(endpoint, draft));
            }
            if loaded.is_some_and(|loaded| loaded.config.compliance.send_missed) {
                let again = Question { awaited: false, missed: true, ..(*question).clone() };
                let bytes = again.stanza.text().len();
                self.state().servers.entry(server).or_default().waiting.push(Arc::new(again), bytes);
                self.queued.notify_one();
            }
        }
        for result in join_all(pending).await {
            if let Err(error) = result {
                recorder.note_failure(&error);
                tracing::error!(%error, "that a compliance server missed a login or logout could not be recorded");
            }
        }
    }

    /// Sends servers what they have missed when they are back, until `stop`.
    pub async fn send(&self, peers: &dyn Peers, recorder: &Recorder, stop: CancellationToken) {
        let mut changes = peers.changes();
        loop {
            changes.mark_unchanged();
            let names: Vec<String> = self.state().servers.keys().cloned().collect();
            let sending = join_all(names.iter().map(|server| self.send_to(server, peers, recorder)));
            tokio::select! {
                _ = sending => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = self.queued.notified() => {}
                changed = changes.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// In order, and the next only when the one before was sent.
    async fn send_to(&self, server: &str, peers: &dyn Peers, recorder: &Recorder) {
        while peers.standing(server) == Standing::InService {
            let Some(compliance) = recorder.loaded().map(|loaded| loaded.config.compliance.clone()) else {
                return;
            };
            let patience = Duration::from_millis(compliance.event_timeout_ms.into());
            let next = self.state().servers.get_mut(server).and_then(|server| server.waiting.pop());
            let Some(next) = next else { return };
            let bytes = next.stanza.text().len();
            let sent = peers.tell(server, Arc::clone(&next), Instant::now() + patience).await;
            let mut state = self.state();
            let Some(server) = state.servers.get_mut(server) else { return };
            if !sent {
                server.waiting.entries.push_front((next, bytes));
                server.waiting.bytes += bytes;
                return;
            }
            server.sent_later += 1;
        }
    }
}
