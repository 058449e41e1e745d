//! What writer, readers and drains share: which segments there are, what waits, how far each endpoint has confirmed.

use super::disk::{self, Disk};
use super::key::Key;
use super::{Clock, JournalError, JournalOptions, Limits, Position};
use crate::file_name::escape;
use crate::head::Mark;
use crate::record::{Hash, StreamEnd};
use cartulary_compliance::config::QueueLimit;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use uuid::Uuid;

/// Shared by every part of one open journal.
pub struct Shared {
    pub disk: Arc<dyn Disk>,
    pub clock: Clock,
    pub options: JournalOptions,
    pub journal: Uuid,
    pub incarnation: Uuid,
    /// Changes whenever a reader may find more.
    pub changed: watch::Sender<u64>,
    state: Mutex<State>,
    pub key: Key,
    /// Held while cursor files are written, so that an older one never replaces a newer one.
    cursors: Mutex<()>,
}

/// The state behind the lock.
pub struct State {
    pub segments: BTreeMap<u64, Segment>,
    pub endpoints: BTreeMap<String, EndpointState>,
    pub limits: Limits,
    pub problem: Option<String>,
    /// Damaged places.
    pub quarantined: u64,
    /// Places that the disk does not give back as they were written.
    pub unreadable: u64,
    pub closed: bool,
}

/// One segment file.
#[derive(Default)]
pub struct Segment {
    /// Valid, synced bytes.
    pub len: u64,
    /// Nothing more is written to it.
    pub sealed: bool,
    /// End of each endpoint's last record in it.
    pub last: BTreeMap<String, u64>,
    /// When everything in it was first seen confirmed.
    pub confirmed_at: Option<i64>,
    /// Its header voids something that may still be on disk: it may not go before what stands before it.
    pub voids: bool,
}

/// One endpoint's queue.
#[derive(Default)]
pub struct EndpointState {
    /// How far its archive has confirmed, as the cursor file says.
    pub cursor: Cursor,
    /// Synced records after the cursor, in order.
    pub waiting: VecDeque<Entry>,
    /// Bytes of their frames.
    pub waiting_bytes: u64,
    /// Records confirmed since the process started.
    pub archived: u64,
    /// Records kept aside.
    pub dead_letters: u64,
    /// The last one of them since the process started: incarnation and sequence.
    pub refused: Option<(Uuid, u64)>,
    /// The furthest record that was confirmed since the process started and is not kept aside.
    pub taken: Option<StreamEnd>,
    /// How far its stream of this incarnation is durable.
    pub head: Option<StreamHead>,
    /// Waiting records that turned out to be damaged and of which a gap record tells: incarnation and sequence.
    pub passed_over: BTreeSet<(Uuid, u64)>,
}

/// How far a stream is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHead {
    pub last: Mark,
    /// Its close record is durable.
    pub closed: bool,
}

/// How far an endpoint has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// End of the last confirmed record.
    pub position: Position,
    /// That record; `None` before the first.
    pub last: Option<StreamEnd>,
    /// The furthest record ever confirmed: streams go on from there, even while an archive is being refilled.
    pub tip: Option<Tip>,
}

/// The furthest record an endpoint has ever confirmed. Its segment may be gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    pub position: Position,
    pub end: StreamEnd,
}

/// Where a waiting record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub segment: u64,
    pub offset: u64,
    pub len: u32,
    pub recorded_at: i64,
    pub incarnation: Uuid,
    pub sequence: u64,
}

impl Entry {
    pub fn start(&self) -> Position {
        Position { segment: self.segment, offset: self.offset }
    }

    pub fn end(&self) -> Position {
        Position { segment: self.segment, offset: self.offset + u64::from(self.len) }
    }
}

impl EndpointState {
    pub fn push(&mut self, entry: Entry) {
        self.waiting_bytes += u64::from(entry.len);
        self.waiting.push_back(entry);
    }

    /// Whether `records` of `bytes` more fit.
    pub fn fits(&self, limit: QueueLimit, records: u64, bytes: u64) -> bool {
        self.waiting.len() as u64 + records <= limit.max_records
            && self.waiting_bytes + bytes <= limit.max_bytes
    }

    fn confirm(&mut self, cursor: Cursor) {
        while let Some(entry) = self.waiting.pop_front_if(|entry| entry.end() <= cursor.position) {
            self.waiting_bytes -= u64::from(entry.len);
            self.archived += 1;
        }
        self.cursor = cursor;
        // Of what is confirmed while an archive is being refilled, nothing is the furthest.
        let furthest = cursor.last.filter(|last| cursor.tip.is_some_and(|tip| tip.end == *last));
        let is_aside = |end: &StreamEnd| self.refused == Some((end.incarnation, end.sequence));
        self.taken = furthest.filter(|end| !is_aside(end)).or(self.taken);
    }
}

impl Shared {
    pub fn new(
        disk: Arc<dyn Disk>,
        clock: Clock,
        options: JournalOptions,
        journal: Uuid,
        incarnation: Uuid,
        key: Key,
        state: State,
    ) -> Self {
        Self {
            disk,
            clock,
            options,
            journal,
            incarnation,
            changed: watch::Sender::new(0),
            key,
            state: Mutex::new(state),
            cursors: Mutex::new(()),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves counts behind at worst; what is on disk decides.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wake(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    pub fn now(&self) -> i64 {
        (self.clock)()
    }

    /// Moves an endpoint's cursor forward, durably. An older position than the cursor's changes nothing.
    pub fn confirm(&self, endpoint: &str, cursor: Cursor) -> Result<(), JournalError> {
        let _writing = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.state().endpoints.get(endpoint).map(|state| state.cursor).unwrap_or_default();
        if cursor.position <= known.position {
            return Ok(());
        }
        let cursor = cursor.keeping_tip(known);
        self.store_cursor(endpoint, cursor)?;
        self.state().endpoints.entry(endpoint.to_owned()).or_default().confirm(cursor);
        self.reap(false);
        Ok(())
    }

    /// Moves an endpoint's cursor back, durably; `entries` then wait again, before what waits already.
    pub fn move_back(&self, endpoint: &str, cursor: Cursor, entries: Vec<Entry>) -> Result<(), JournalError> {
        let _writing = self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.state().endpoints.get(endpoint).map(|state| state.cursor).unwrap_or_default();
        let cursor = cursor.keeping_tip(known);
        self.store_cursor(endpoint, cursor)?;
        let mut state = self.state();
        let state = state.endpoints.entry(endpoint.to_owned()).or_default();
        state.cursor = cursor;
        let first = state.waiting.front().map(Entry::start);
        for entry in entries.into_iter().rev().filter(|entry| first.is_none_or(|first| entry.start() < first))
        {
            state.waiting_bytes += u64::from(entry.len);
            state.waiting.push_front(entry);
        }
        Ok(())
    }

    fn store_cursor(&self, endpoint: &str, cursor: Cursor) -> Result<(), JournalError> {
        disk::replace(&*self.disk, &cursor_name(endpoint), &cursor.encode(self.journal))
            .map_err(|error| JournalError::Io { doing: "store a cursor", error })
    }

    /// Removes segments that every endpoint has confirmed: those kept long enough, or, with `hard`, the oldest at once.
    pub fn reap(&self, hard: bool) {
        let now = self.now();
        let mut removed = false;
        let mut state = self.state();
        let keep = i64::try_from(state.limits.keep_confirmed.as_nanos()).unwrap_or(i64::MAX);
        let State { segments, endpoints, .. } = &mut *state;
        let mut oldest = true;
        segments.retain(|number, segment| {
            let is_oldest = std::mem::replace(&mut oldest, false);
            let confirmed = segment.last.iter().all(|(endpoint, end)| {
                let end = Position { segment: *number, offset: *end };
                endpoints.get(endpoint).is_some_and(|state| state.cursor.position >= end)
            });
            if !confirmed {
                segment.confirmed_at = None;
                return true;
            }
            let since = *segment.confirmed_at.get_or_insert(now);
            let due = hard || now.saturating_sub(since) >= keep;
            if !segment.sealed || !due || (segment.voids && !is_oldest) {
                return true;
            }
            // What a voiding segment hides must be gone for good before it goes itself.
            if segment.voids && self.disk.sync_dir().is_err() {
                return true;
            }
            // What cannot be removed now is found again at the next start.
            removed |= self.disk.remove(&segment_name(*number)).is_ok();
            oldest = is_oldest;
            false
        });
        drop(state);
        if removed {
            // Only tidiness: a name that comes back after a crash is before every cursor.
            let _ = self.disk.sync_dir();
        }
    }
}

impl State {
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.len).sum()
    }

    pub fn queue_limit(&self, endpoint: &str) -> QueueLimit {
        self.limits.queues.get(endpoint).copied().unwrap_or_default()
    }
}

const CURSOR_MAGIC: &[u8; 4] = b"CTJC";

impl Cursor {
    /// This cursor with the furthest confirmed record of itself and `known`.
    fn keeping_tip(self, known: Self) -> Self {
        let own = self.last.map(|end| Tip { position: self.position, end });
        let tip = [own, self.tip, known.tip].into_iter().flatten().max_by_key(|tip| tip.position);
        Self { tip, ..self }
    }

    fn encode(&self, journal: Uuid) -> Vec<u8> {
        let mut out = CURSOR_MAGIC.to_vec();
        out.extend_from_slice(journal.as_bytes());
        put_position(&mut out, self.position);
        for place in [self.last.map(|end| Tip { position: self.position, end }), self.tip] {
            out.push(u8::from(place.is_some()));
            if let Some(Tip { position, end }) = place {
                put_position(&mut out, position);
                out.extend_from_slice(end.incarnation.as_bytes());
                out.extend_from_slice(&end.sequence.to_be_bytes());
                out.extend_from_slice(&end.hash);
            }
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
        out
    }

    /// The cursor and its journal's id, which is nowhere else once every segment is confirmed and gone. `None` if the bytes
    /// are damaged: then everything kept is written again, which an archive recognises.
    pub fn decode(bytes: &[u8]) -> Option<(Uuid, Self)> {
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        let mut rest = body.strip_prefix(CURSOR_MAGIC)?;
        if crc32c::crc32c(body).to_be_bytes() != *sum {
            return None;
        }
        let journal = Uuid::from_bytes(take(&mut rest)?);
        let position = take_position(&mut rest)?;
        let last = take_tip(&mut rest)?.map(|tip| tip.end);
        let tip = take_tip(&mut rest)?;
        rest.is_empty().then_some((journal, Self { position, last, tip }))
    }
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.extend_from_slice(&position.segment.to_be_bytes());
    out.extend_from_slice(&position.offset.to_be_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (value, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*value)
}

fn take_position(rest: &mut &[u8]) -> Option<Position> {
    Some(Position { segment: u64::from_be_bytes(take(rest)?), offset: u64::from_be_bytes(take(rest)?) })
}

fn take_tip(rest: &mut &[u8]) -> Option<Option<Tip>> {
    if take(rest)? == [0] {
        return Some(None);
    }
    let position = take_position(rest)?;
    let incarnation = Uuid::from_bytes(take(rest)?);
    let sequence = u64::from_be_bytes(take(rest)?);
    let hash: Hash = take(rest)?;
    Some(Some(Tip { position, end: StreamEnd { incarnation, sequence, hash } }))
}

/// A segment's file name.
pub fn segment_name(number: u64) -> String {
    format!("{number:020}.segment")
}

/// The number of a segment with this file name.
pub fn segment_number(name: &str) -> Option<u64> {
    name.strip_suffix(".segment")?.parse().ok()
}

/// The file name of an endpoint's cursor.
pub fn cursor_name(endpoint: &str) -> String {
    format!("cursor-{}", escape(endpoint))
}
