//! Reading what waits for an endpoint, in the order in which it was appended.

use super::disk::{self, Disk, DiskFile};
use super::format::{Found, RECORDS_AT, Scan, Stretch, parse};
use super::recover::put_aside;
use super::state::{Cursor, Entry, Shared, segment_name};
use super::{JournalError, MissingRange, Position, RewindReport};
use crate::record::{Content, Gap, GapReason, Header, Record, StreamEnd};
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

/// What one look at the queue found.
#[derive(Default)]
pub struct Batch {
    pub records: Vec<Stored>,
    /// Gaps for records that turned out to be damaged.
    pub gaps: Vec<Gap>,
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
            let read = read_entry(&*self.disk, &mut open, &entry)
                .map_err(|error| JournalError::Io { doing: "read a record", error })?;
            batch.next = entry.end();
            match parse(&read) {
                Found::Record(record, _) => {
                    batch.records.push(Stored { record: *record, position: entry.end() });
                }
                Found::DamagedPayload(..) | Found::Nothing => {
                    put_aside(&*self.disk, entry.start(), &read);
                    self.state().quarantined += 1;
                    batch.gaps.push(Gap {
                        first: Some(entry.sequence),
                        count: 1,
                        reason: GapReason::Quarantined,
                        incarnation: Some(entry.incarnation),
                    });
                }
            }
        }
        Ok(batch)
    }

    fn entries(&self, endpoint: &str, from: Position, records: usize, bytes: u64) -> Vec<Entry> {
        let state = self.state();
        let Some(queue) = state.endpoints.get(endpoint) else { return Vec::new() };
        let first = queue.waiting.partition_point(|entry| entry.start() < from);
        let mut left = bytes;
        let mut entries = Vec::new();
        for entry in queue.waiting.range(first..).take(records) {
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
                match self.disk.open(&segment_name(number)).and_then(|file| disk::read(&*file, 0, len)) {
                    Ok(bytes) => bytes,
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
