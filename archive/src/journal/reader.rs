//! Reading what waits for an endpoint, in the order in which it was appended.

use super::disk::{self, Disk, DiskFile};
use super::format::{Found, RECORDS_AT, Scan, Stretch, parse};
use super::recover::put_aside;
use super::state::{Cursor, Entry, Shared, segment_name};
use super::{JournalError, MissingRange, Position, RewindReport};
use crate::record::{Body, Content, Draft, Gap, GapReason, Header, Record, StreamEnd};
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// A record as the journal keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// Where it ends in the journal.
    pub position: Position,
}

impl Stored {
    /// The cursor of an endpoint that has confirmed it.
    pub(super) fn cursor(&self) -> Cursor {
        let header = &self.record.header;
        let last = StreamEnd {
            incarnation: header.stream.incarnation,
            sequence: header.sequence,
            hash: self.record.hash(),
        };
        Cursor { position: self.position, last: Some(last), tip: None }
    }
}

/// What says in a stream that one of its records is damaged.
pub fn gap(entry: &Entry) -> Draft {
    let gap = Gap {
        first: Some(entry.sequence),
        count: 1,
        reason: GapReason::Quarantined,
        incarnation: Some(entry.incarnation),
    };
    Draft { body: Body::Gap(gap), payloads: Vec::new() }
}

/// What one look at the queue found.
#[derive(Default)]
pub struct Batch {
    pub records: Vec<Stored>,
    /// The record after these, if it cannot be read; only where there are none before it.
    pub bad: Option<Entry>,
    /// Where to look next.
    pub next: Position,
}

impl Shared {
    /// Synced records for `endpoint` from `from` on: at most `records`, and at most `bytes` unless the first alone is larger.
    pub fn read(
        &self,
        endpoint: &str,
        from: Position,
        records: usize,
        bytes: u64,
    ) -> Result<Batch, JournalError> {
        let entries = self.entries(endpoint, from, records, bytes);
        let mut batch = Batch { next: from, ..Batch::default() };
        let mut open: Option<(u64, Arc<dyn DiskFile>)> = None;
        for entry in entries {
            let found = match read_entry(&*self.disk, &mut open, &entry) {
                Ok(bytes) => parse(&bytes),
                // A segment that somebody removed is as good as damaged.
                Err(error) if disk::is_damage(&error) || error.kind() == io::ErrorKind::NotFound => {
                    Found::Nothing
                }
                Err(_) if !batch.records.is_empty() => break,
                Err(error) => return Err(JournalError::Io { doing: "read a record", error }),
            };
            let Found::Record(record, _) = found else {
                batch.bad = Some(entry).filter(|_| batch.records.is_empty());
                break;
            };
            batch.next = entry.end();
            batch.records.push(Stored { record: *record, position: entry.end() });
        }
        Ok(batch)
    }

    /// Whether the disk gives back anything. One that does not is not damaged but away: waiting is all that can be done.
    pub fn gives_back(&self) -> bool {
        let Ok(names) = self.disk.list() else { return false };
        names.iter().any(|name| {
            let Ok(file) = self.disk.open(name) else { return false };
            let size = file.size().unwrap_or(0);
            // A few places in each file: a disk that is away need not be asked for every block.
            (0..5).any(|part| {
                let at = (size / 5).saturating_mul(part);
                disk::read(&*file, at, 16).is_ok_and(|bytes| !bytes.is_empty())
            })
        })
    }

    /// Whether a gap record tells of this waiting record already.
    pub fn is_passed_over(&self, endpoint: &str, entry: &Entry) -> bool {
        let state = self.state();
        let queue = state.endpoints.get(endpoint);
        queue.is_some_and(|queue| queue.passed_over.contains(&(entry.incarnation, entry.sequence)))
    }

    /// Gives a record up of which a gap record tells: what can be had of it is put aside.
    pub fn pass_over(&self, endpoint: &str, entry: &Entry) {
        let bytes = self
            .disk
            .open(&segment_name(entry.segment))
            .and_then(|file| disk::salvage(&*file, entry.offset, u64::from(entry.len)));
        let bytes = bytes.map(|salvaged| salvaged.bytes).unwrap_or_default();
        let is_new = put_aside(&*self.disk, entry.start(), &bytes, true);
        let mut state = self.state();
        state.unreadable += u64::from(is_new);
        let queue = state.endpoints.entry(endpoint.to_owned()).or_default();
        queue.passed_over.insert((entry.incarnation, entry.sequence));
    }

    fn entries(&self, endpoint: &str, from: Position, records: usize, bytes: u64) -> Vec<Entry> {
        let state = self.state();
        let Some(queue) = state.endpoints.get(endpoint) else { return Vec::new() };
        let first = queue.waiting.partition_point(|entry| entry.start() < from);
        let mut left = bytes;
        let mut entries = Vec::new();
        let waiting = queue.waiting.range(first..);
        let whole = |entry: &&Entry| !queue.passed_over.contains(&(entry.incarnation, entry.sequence));
        for entry in waiting.filter(whole).take(records) {
            let size = u64::from(entry.len);
            if size > left && !entries.is_empty() {
                break;
            }
            left = left.saturating_sub(size);
            entries.push(*entry);
        }
        entries
    }

    /// Makes everything kept that follows `archived` wait again: the archive holds nothing after it.
    pub fn rewind(
        &self,
        endpoint: &str,
        archived: Option<(Uuid, u64)>,
    ) -> Result<RewindReport, JournalError> {
        let cursor = self.state().endpoints.get(endpoint).map(|queue| queue.cursor).unwrap_or_default();
        let kept = self.kept(endpoint, cursor.position)?;
        let at = archived.and_then(|archived| {
            kept.iter()
                .position(|kept| (kept.entry.incarnation, kept.entry.sequence) == archived)
                .map(|index| index + 1)
        });
        let again = &kept[at.unwrap_or(0)..];
        let missing = match at {
            Some(_) => None,
            None => missing(archived, kept.first(), cursor),
        };
        let last = at.and_then(|at| kept.get(at - 1)).map(|kept| kept.end);
        if let Some(first) = again.first() {
            // A cursor names the record before; where that is not known it names none.
            let cursor = Cursor { position: first.entry.start(), last, tip: None };
            let entries = again.iter().map(|kept| kept.entry).collect();
            self.move_back(endpoint, cursor, entries)?;
            self.wake();
        }
        Ok(RewindReport { available: again.len() as u64, missing })
    }

    /// Records of `endpoint` in kept segments up to `until`.
    fn kept(&self, endpoint: &str, until: Position) -> Result<Vec<Kept>, JournalError> {
        let segments: Vec<(u64, u64)> =
            self.state().segments.iter().map(|(number, segment)| (*number, segment.len)).collect();
        let mut kept = Vec::new();
        for (number, len) in segments.into_iter().filter(|(number, _)| *number <= until.segment) {
            let bytes =
                match self.disk.open(&segment_name(number)).and_then(|file| disk::salvage(&*file, 0, len)) {
                    Ok(salvaged) => salvaged.bytes,
                    // Removed meanwhile, because it had been kept long enough.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(JournalError::Io { doing: "read a segment", error }),
                };
            for (offset, len, stretch) in Scan::new(&bytes, RECORDS_AT as usize) {
                let Stretch::Record(record) = stretch else { continue };
                let Header { stream, sequence, recorded_at_nanos, .. } = &record.header;
                let entry = Entry {
                    segment: number,
                    offset: offset as u64,
                    len: u32::try_from(len).unwrap_or(u32::MAX),
                    recorded_at: *recorded_at_nanos,
                    incarnation: stream.incarnation,
                    sequence: *sequence,
                };
                if stream.endpoint == endpoint && entry.end() <= until {
                    let end = StreamEnd {
                        incarnation: stream.incarnation,
                        sequence: *sequence,
                        hash: record.hash(),
                    };
                    let predecessor = match &record.header.content {
                        Content::Open(open) => open.predecessor,
                        Content::Body(_) | Content::Close => None,
                    };
                    kept.push(Kept { entry, end, predecessor });
                }
            }
        }
        Ok(kept)
    }
}

/// A confirmed record that is still here.
struct Kept {
    entry: Entry,
    end: StreamEnd,
    predecessor: Option<StreamEnd>,
}

/// What lies between the archive's last record and the first kept one.
fn missing(archived: Option<(Uuid, u64)>, first: Option<&Kept>, cursor: Cursor) -> Option<MissingRange> {
    let Some(first) = first else {
        let last = cursor.last?;
        return match archived {
            Some((incarnation, sequence)) if incarnation != last.incarnation => {
                Some(MissingRange { incarnation, first: sequence + 1, last: None })
            }
            Some((_, sequence)) if sequence >= last.sequence => None,
            archived => Some(MissingRange {
                incarnation: last.incarnation,
                first: archived.map_or(0, |(_, sequence)| sequence + 1),
                last: Some(last.sequence),
            }),
        };
    };
    let (incarnation, sequence) = (first.entry.incarnation, first.entry.sequence);
    let before = match (sequence, first.predecessor) {
        (0, None) => return None,
        (0, Some(end)) => (end.incarnation, end.sequence),
        (sequence, _) => (incarnation, sequence - 1),
    };
    match archived {
        Some(archived) if archived.0 != before.0 => {
            Some(MissingRange { incarnation: archived.0, first: archived.1 + 1, last: None })
        }
        Some(archived) if archived.1 >= before.1 => None,
        archived => Some(MissingRange {
            incarnation: before.0,
            first: archived.map_or(0, |(_, sequence)| sequence + 1),
            last: Some(before.1),
        }),
    }
}

fn read_entry(
    disk: &dyn Disk,
    open: &mut Option<(u64, Arc<dyn DiskFile>)>,
    entry: &Entry,
) -> io::Result<Vec<u8>> {
    let file = match open {
        Some((number, file)) if *number == entry.segment => file,
        _ => &open.insert((entry.segment, disk.open(&segment_name(entry.segment))?)).1,
    };
    let mut bytes = vec![0; entry.len as usize];
    let got = file.read_at(entry.offset, &mut bytes)?;
    bytes.truncate(got);
    Ok(bytes)
}
