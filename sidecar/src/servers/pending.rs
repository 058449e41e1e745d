//! What waits for one compliance server: in the order in which it was asked, sent or not. Pure.
//!
//! Invariants: never more events or bytes than the limit, whatever the server does (P6); ids are never used twice by a process, so that no
//! answer is taken for another's; what is known of events that are over is bounded ([`REMEMBERED`], FH-6).

use super::Asked;
use cartulary_compliance::config::PendingLimit;
use cartulary_compliance::protocol::Question;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Events that are over and still remembered, so that a late answer is told from a second one.
pub const REMEMBERED: usize = 4096;

/// Who waits for an event.
#[derive(Debug)]
pub enum Waiter {
    /// Somebody who asked.
    Answer(oneshot::Sender<Asked>),
    /// Somebody who told.
    Sent(oneshot::Sender<bool>),
}

/// An event that waits.
#[derive(Debug)]
pub struct Entry {
    /// What is asked.
    pub question: Arc<Question>,
    /// When it is too late.
    pub deadline: Instant,
    /// Who waits.
    pub waiter: Waiter,
    /// When it was put here.
    pub entered_at: Instant,
    /// When it was sent last.
    pub sent_at: Option<Instant>,
    bytes: usize,
}

impl Entry {
    fn is_asked(&self) -> bool {
        matches!(self.waiter, Waiter::Answer(_))
    }
}

/// How an event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    GivenUp,
}

/// What an answer's id belongs to.
#[derive(Debug)]
pub enum Answered {
    /// To this, which waits no longer.
    Waiting(Box<Entry>),
    /// To what was answered before.
    Twice,
    /// To what nobody waits for any more.
    Late,
    /// To what was never asked.
    Unknown,
}

/// What waits.
#[derive(Debug)]
pub struct Pending {
    limit: PendingLimit,
    entries: BTreeMap<u64, Entry>,
    unsent: BTreeSet<u64>,
    bytes: usize,
    next: u64,
    over: BTreeMap<u64, Fate>,
}

impl Pending {
    /// Nothing.
    pub fn new(limit: PendingLimit) -> Self {
        let (entries, unsent, over) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { limit, entries, unsent, bytes: 0, next: 1, over }
    }

    /// Another limit, for what comes from here on.
    pub fn set_limit(&mut self, limit: PendingLimit) {
        self.limit = limit;
    }

    /// Puts it at the end. `None`: there is no room.
    pub fn enter(
        &mut self,
        question: Arc<Question>,
        deadline: Instant,
        waiter: Waiter,
        now: Instant,
    ) -> Option<u64> {
        let bytes = weigh(&question);
        let has_room = self.entries.len() < self.limit.max_events as usize
            && self.bytes.saturating_add(bytes) <= self.limit.max_bytes as usize;
        if !has_room {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.unsent.insert(id);
        self.entries.insert(id, Entry { question, deadline, waiter, entered_at: now, sent_at: None, bytes });
        Some(id)
    }

    /// The first that was not sent yet.
    pub fn first_unsent(&self) -> Option<(u64, &Entry)> {
        let id = self.unsent.first()?;
        self.entries.get(id).map(|entry| (*id, entry))
    }

    /// Notes that it was sent; what nobody will answer waits no longer and is returned.
    pub fn sent(&mut self, id: u64, now: Instant) -> Option<Entry> {
        self.unsent.remove(&id);
        let entry = self.entries.get_mut(&id)?;
        entry.sent_at = Some(now);
        if entry.is_asked() { None } else { self.remove(id, Fate::Answered) }
    }

    /// The connection is lost: everything is sent again, in order.
    pub fn send_again(&mut self) {
        self.unsent = self.entries.keys().copied().collect();
    }

    /// What an answer with this id belongs to.
    pub fn answered(&mut self, id: u64) -> Answered {
        if self.entries.get(&id).is_some_and(|entry| entry.sent_at.is_some()) {
            return self
                .remove(id, Fate::Answered)
                .map_or(Answered::Unknown, |entry| Answered::Waiting(Box::new(entry)));
        }
        match self.over.get(&id) {
            Some(Fate::Answered) => Answered::Twice,
            Some(Fate::GivenUp) => Answered::Late,
            // What was forgotten is late at any rate.
            None if id < self.next && !self.entries.contains_key(&id) && id > 0 => Answered::Late,
            None => Answered::Unknown,
        }
    }

    /// Nobody waits for it any more.
    pub fn give_up(&mut self, id: u64) -> Option<Entry> {
        self.remove(id, Fate::GivenUp)
    }

    /// Takes out what is too late.
    pub fn expire(&mut self, now: Instant) -> Vec<Entry> {
        let late: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| entry.deadline <= now).map(|(id, _)| *id).collect();
        late.into_iter().filter_map(|id| self.give_up(id)).collect()
    }

    /// Takes out everything.
    pub fn drain(&mut self) -> Vec<Entry> {
        let ids: Vec<u64> = self.entries.keys().copied().collect();
        ids.into_iter().filter_map(|id| self.give_up(id)).collect()
    }

    /// When the oldest question was sent that the connection owes an answer to.
    pub fn oldest_sent(&self) -> Option<Instant> {
        // It is sent in order: what was sent comes before what was not.
        let (id, entry) = self.entries.first_key_value()?;
        if self.unsent.contains(id) { None } else { entry.sent_at }
    }

    /// When the oldest that waits was put here.
    pub fn oldest(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|(_, entry)| entry.entered_at)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The limit.
    pub fn limit(&self) -> PendingLimit {
        self.limit
    }

    fn remove(&mut self, id: u64, fate: Fate) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.unsent.remove(&id);
        self.bytes -= entry.bytes;
        self.over.insert(id, fate);
        if self.over.len() > REMEMBERED {
            self.over.pop_first();
        }
        Some(entry)
    }
}

/// Bytes of what grows with what people send: stanza and recipients.
pub fn weigh(question: &Question) -> usize {
    let of_recipient = |recipient: &cartulary_compliance::link::Recipient| {
        recipient.bare.len()
            + recipient.occupant.as_ref().map_or(0, String::len)
            + recipient.resources.iter().map(String::len).sum::<usize>()
    };
    question.stanza.text().len() + question.recipients.iter().map(of_recipient).sum::<usize>()
}
