//! Opening a journal: what a former process left is read, put in order, and what is damaged is put aside, never in the way.

use super::disk::{self, Disk, DiskFile, Salvaged};
use super::format::{RECORDS_AT, Scan, SegmentHeader, SegmentStart, Stretch};
use super::key::{self, Seed};
use super::state::{Cursor, Entry, State, Tip, segment_name, segment_number};
use super::{JournalError, Limits, Position, Recovery};
use crate::file_name::{escape, unescape};
use crate::record::{Body, Content, Gap, GapReason, Header, StreamEnd, hash};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;
use uuid::Uuid;

/// How names of files with damaged bytes begin.
const QUARANTINE: &str = "quarantine-";
/// How they end where the disk did not give the bytes back.
const UNREADABLE: &str = "-unreadable";

/// What a writer begins with.
pub struct Recovered {
    /// The journal's id, if a segment or a cursor says it.
    pub journal: Option<Uuid>,
    /// Its key, if the file is whole and this journal's.
    pub seed: Option<Seed>,
    pub state: State,
    /// The last record of each endpoint's last stream.
    pub ends: BTreeMap<String, StreamEnd>,
    /// Losses to be written into the endpoints' next streams.
    pub gaps: Vec<(String, Gap)>,
    /// The last segment and its valid bytes.
    pub previous: (u64, u64),
    /// The highest number a file bears or a cursor names.
    pub highest: u64,
    /// Bytes after the valid end could not be cut off, or void segments were found.
    pub voids: bool,
    pub report: Recovery,
}

/// A stretch of a segment that is no record.
struct Damage {
    start: Position,
    /// The record whose payloads are damaged, if its header is whole.
    known: Option<Box<Header>>,
}

/// What is known of one stream after what its endpoint has confirmed.
struct Seen {
    /// First sequence not seen yet.
    next: u64,
    /// End of the last record seen.
    position: Position,
    /// Its close record was seen.
    closed: bool,
}

/// Sequences of a stream that are not there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Lost {
    endpoint: String,
    incarnation: Uuid,
    first: u64,
    last: u64,
}

/// Everything the segments say together.
#[derive(Default)]
struct Reading {
    streams: BTreeMap<(String, Uuid), Seen>,
    /// The last record of each endpoint.
    ends: BTreeMap<String, Tip>,
    lost: Vec<Lost>,
    /// Between which positions numbered records are missing.
    holes: Vec<(Position, Position)>,
    /// Losses that gap records name already.
    declared: Vec<Lost>,
    damage: Vec<Damage>,
    /// The incarnation that wrote a segment; each begins one of its own.
    written_by: BTreeMap<u64, Uuid>,
}

/// Reads what a failing disk gives back. It is tried again for a while, once in an opening; what it still does not give back is a hole.
struct Patient<'a> {
    disk: &'a dyn Disk,
    pauses: std::slice::Iter<'a, Duration>,
    /// Something was read.
    got: bool,
    /// Something was not.
    refused: Option<io::Error>,
}

impl Patient<'_> {
    fn open(&self, name: &str) -> io::Result<std::sync::Arc<dyn DiskFile>> {
        self.disk.open(name)
    }

    fn read(&mut self, file: &dyn DiskFile, limit: u64) -> io::Result<Salvaged> {
        loop {
            let error = match disk::read(file, 0, limit) {
                Ok(bytes) => {
                    self.got |= !bytes.is_empty();
                    return Ok(Salvaged { bytes, holes: Vec::new() });
                }
                Err(error) if disk::is_damage(&error) => error,
                Err(error) => return Err(error),
            };
            if let Some(pause) = self.pauses.next() {
                std::thread::sleep(*pause);
                continue;
            }
            let salvaged = disk::salvage(file, 0, limit)?;
            self.got |= !salvaged.is_blank();
            self.refused = Some(error);
            return Ok(salvaged);
        }
    }

    /// A disk that gives back nothing at all is not damaged but away: nothing may be decided from it.
    fn check(&mut self) -> io::Result<()> {
        match self.refused.take() {
            Some(error) if !self.got => Err(error),
            _ => Ok(()),
        }
    }
}

/// Reads everything in the folder.
pub fn recover(disk: &dyn Disk, limits: Limits, pauses: &[Duration]) -> Result<Recovered, JournalError> {
    let io = |doing| move |error| JournalError::Io { doing, error };
    let names = disk.list().map_err(io("list its folder"))?;
    let mut report = Recovery::default();
    let mut state = State {
        segments: BTreeMap::new(),
        endpoints: BTreeMap::new(),
        limits,
        problem: None,
        quarantined: put_aside_before(&names, false),
        unreadable: put_aside_before(&names, true),
        closed: false,
    };
    let mut patient = Patient { disk, pauses: pauses.iter(), got: false, refused: None };
    let journal =
        load_endpoints(&mut patient, &names, &mut state, &mut report).map_err(io("read its cursors"))?;
    let kept_key = load_key(&mut patient, &names).map_err(io("read its key"))?;
    let numbers: BTreeSet<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    let valid = valid_segments(&mut patient, &numbers)?;

    let mut reading = Reading::default();
    let mut voids = valid.voids;
    let mut previous = (0, 0);
    for (number, limit, header) in &valid.segments {
        let is_last = valid.segments.last().is_some_and(|last| last.0 == *number);
        let end = read_segment(
            &mut patient,
            *number,
            *limit,
            is_last,
            &mut reading,
            &mut state,
            &mut report,
            &mut voids,
        )?;
        let segment = state.segments.entry(*number).or_default();
        segment.len = end;
        segment.sealed = true;
        segment.voids = header.is_some_and(|header| valid.voiding.contains(&header.number));
        previous = (*number, end);
    }
    // An endpoint whose newest records are confirmed and gone is known from its cursor.
    for (endpoint, endpoint_state) in &state.endpoints {
        let newest = reading.ends.get(endpoint).map(|tip| tip.position);
        if let Some(tip) =
            endpoint_state.cursor.tip.filter(|tip| newest.is_none_or(|newest| newest < tip.position))
        {
            reading.ends.insert(endpoint.clone(), tip);
        }
    }
    let gaps = losses(&reading, &state);
    for (endpoint, gap) in &gaps {
        report.lost += gap.count;
        report.notes.push(format!(
            "{} record(s) of endpoint {endpoint} are damaged and lost; a gap record says so in its stream",
            gap.count
        ));
    }
    report.waiting = state.endpoints.values().map(|endpoint| endpoint.waiting.len() as u64).sum();
    report.endpoints = state.endpoints.keys().cloned().collect();
    // The last segment may be confirmed and gone; a cursor must never be ahead of what is written next.
    let confirmed = state.endpoints.values().flat_map(|endpoint| {
        [Some(endpoint.cursor.position), endpoint.cursor.tip.map(|tip| tip.position)].into_iter().flatten()
    });
    let highest = confirmed.map(|position| position.segment).chain(numbers).max().unwrap_or(0);
    let known =
        valid.segments.iter().rev().find_map(|(_, _, header)| Some(header.as_ref()?.journal)).or(journal);
    let seed = match kept_key {
        Some(Some((journal, seed))) if known.is_none_or(|known| known == journal) => Some(seed),
        None if known.is_none() && report.records == 0 => None,
        _ => {
            report.key_replaced = true;
            report.notes.push(format!(
                "the key in {} is missing or damaged and a new one is made: anchors kept of this journal name the former one, and it is told that the key changed",
                key::NAME
            ));
            None
        }
    };
    Ok(Recovered {
        journal: known.or(kept_key.flatten().map(|(journal, _)| journal)),
        seed,
        state,
        ends: reading.ends.into_iter().map(|(endpoint, tip)| (endpoint, tip.end)).collect(),
        gaps,
        previous,
        highest,
        voids,
        report,
    })
}

/// The key's file: `None` if there is none, `Some(None)` if it is damaged.
fn load_key(patient: &mut Patient, names: &[String]) -> io::Result<Option<Option<(Uuid, Seed)>>> {
    if !names.iter().any(|name| name == key::NAME) {
        return Ok(None);
    }
    let file = patient.open(key::NAME)?;
    Ok(Some(key::decode(&patient.read(&*file, 1024)?.bytes)))
}

/// Reads cursors and counts dead letters; returns the journal's id if a cursor says it.
fn load_endpoints(
    patient: &mut Patient,
    names: &[String],
    state: &mut State,
    report: &mut Recovery,
) -> io::Result<Option<Uuid>> {
    let mut journal = None;
    for name in names {
        if name.ends_with(".new") {
            // A replacement that was not finished.
            let _ = patient.disk.remove(name);
        } else if let Some(endpoint) = name.strip_prefix("cursor-").and_then(unescape) {
            let file = patient.open(name)?;
            let bytes = patient.read(&*file, 1024)?.bytes;
            let endpoint_state = state.endpoints.entry(endpoint.clone()).or_default();
            match Cursor::decode(&bytes) {
                Some((id, cursor)) => {
                    endpoint_state.cursor = cursor;
                    journal = Some(id);
                }
                None => report.notes.push(format!(
                    "the cursor of endpoint {endpoint} is damaged: everything kept is written to its archive again"
                )),
            }
        } else if let Some(rest) = name.strip_prefix("dead-")
            && let Some(endpoint) = rest.rsplit_once('_').and_then(|(endpoint, _)| unescape(endpoint))
        {
            state.endpoints.entry(endpoint).or_default().dead_letters += 1;
        }
    }
    Ok(journal)
}

struct Valid {
    /// Number, valid bytes as the next segment says, and header where readable; ascending.
    segments: Vec<(u64, Option<u64>, Option<SegmentHeader>)>,
    /// Numbers of segments whose headers void something that was found.
    voiding: BTreeSet<u64>,
    /// Void segments were found.
    voids: bool,
}

/// Follows the headers from the last segment down; what they leave out is void and removed.
fn valid_segments(patient: &mut Patient, numbers: &BTreeSet<u64>) -> Result<Valid, JournalError> {
    let disk = patient.disk;
    let io = |error| JournalError::Io { doing: "read a segment", error };
    let mut valid = Valid { segments: Vec::new(), voiding: BTreeSet::new(), voids: false };
    let mut limit = None;
    let mut below = u64::MAX;
    let mut removed = false;
    let mut voided_by = None;
    for number in numbers.iter().rev().copied() {
        let name = segment_name(number);
        if number > below {
            valid.voids = true;
            valid.voiding.extend(voided_by);
            removed |= disk.remove(&name).is_ok();
            continue;
        }
        let file = patient.open(&name).map_err(io)?;
        let start = patient.read(&*file, RECORDS_AT).map_err(io)?;
        let size = file.size().map_err(io)?;
        let limit_here = if number == below { limit } else { None };
        let header = match SegmentHeader::decode(&start.bytes) {
            SegmentStart::Newer(found) => return Err(JournalError::Format { segment: number, found }),
            SegmentStart::Header(header) => Some(header),
            // Never finished, so nothing in it was ever promised.
            SegmentStart::Unreadable
                if size <= RECORDS_AT && limit_here.is_none() && start.holes.is_empty() =>
            {
                removed |= disk.remove(&name).is_ok();
                continue;
            }
            SegmentStart::Unreadable => None,
        };
        if limit_here.is_some_and(|limit| size > limit) {
            valid.voiding.extend(voided_by);
        }
        valid.segments.push((number, limit_here, header));
        match header {
            Some(header) => {
                (below, limit, voided_by) = (header.previous, Some(header.previous_len), Some(header.number));
            }
            None => (below, limit, voided_by) = (number - 1, None, None),
        }
    }
    patient.check().map_err(io)?;
    if removed {
        disk.sync_dir().map_err(io)?;
    }
    valid.segments.reverse();
    Ok(valid)
}

/// Reads one segment; returns its valid length.
#[allow(clippy::too_many_arguments)]
fn read_segment(
    patient: &mut Patient,
    number: u64,
    limit: Option<u64>,
    is_last: bool,
    reading: &mut Reading,
    state: &mut State,
    report: &mut Recovery,
    voids: &mut bool,
) -> Result<u64, JournalError> {
    let io = |error| JournalError::Io { doing: "read a segment", error };
    let disk = patient.disk;
    let file = patient.open(&segment_name(number)).map_err(io)?;
    let size = file.size().map_err(io)?;
    let salvaged = patient.read(&*file, limit.unwrap_or(u64::MAX)).map_err(io)?;
    let bytes = &salvaged.bytes;
    let mut end = bytes.len() as u64;
    for (offset, len, stretch) in Scan::new(bytes, RECORDS_AT as usize) {
        let start = Position { segment: number, offset: offset as u64 };
        let known = match stretch {
            Stretch::Record(record) => {
                take_record(start, len, &record.header, hash(&record.header_bytes), reading, state);
                report.records += 1;
                continue;
            }
            Stretch::DamagedPayload(header) => Some(header),
            Stretch::Damage => None,
        };
        // Damage at the very end of the last segment is an unfinished write: nobody was told that it is there.
        // What the disk does not give back may well have been promised.
        let unreadable = salvaged.is_torn(offset, offset + len);
        let torn =
            known.is_none() && is_last && limit.is_none() && offset + len == bytes.len() && !unreadable;
        let is_new = put_aside(disk, start, &bytes[offset..offset + len], unreadable);
        if torn {
            end = start.offset;
            report.torn_bytes += len as u64;
            report.notes.push(format!("an unfinished write of {len} bytes was cut off"));
        } else {
            if is_new {
                state.quarantined += u64::from(!unreadable);
                report.quarantined += 1;
                state.unreadable += u64::from(unreadable);
                report.unreadable += u64::from(unreadable);
                let why = match unreadable {
                    true => "the disk does not give them back: replace the volume",
                    false => "a failing disk, or a write that a crash cut in the middle",
                };
                report.notes.push(format!(
                    "{len} damaged bytes in segment {number} at {offset} were put aside ({why})"
                ));
            }
            reading.damage.push(Damage { start, known });
        }
    }
    if let Some(limit) = limit.filter(|limit| *limit > end) {
        report.notes.push(format!("segment {number} has lost its last {} bytes", limit - end));
        reading.damage.push(Damage { start: Position { segment: number, offset: end }, known: None });
    }
    // Cut, then make sure of everything that is taken for granted from here on.
    if size > end && file.set_len(end).is_err() {
        *voids = true;
    }
    if file.sync().is_err() {
        *voids = true;
    }
    Ok(end.max(RECORDS_AT))
}

fn put_aside_before(names: &[String], unreadable: bool) -> u64 {
    let of_these = |name: &&String| name.starts_with(QUARANTINE) && name.ends_with(UNREADABLE) == unreadable;
    names.iter().filter(of_these).count() as u64
}

/// Copies damaged bytes to a file of their own. Returns whether they were not there yet. `unreadable` ones are not given back alike
/// each time, or not at all: zeros stand for what is missing.
pub fn put_aside(disk: &dyn Disk, start: Position, bytes: &[u8], unreadable: bool) -> bool {
    let place = format!("{QUARANTINE}{}-{}", start.segment, start.offset);
    let lasting = format!("{place}{UNREADABLE}");
    if disk.open(&lasting).is_ok() {
        return false;
    }
    if unreadable {
        let _ = disk::replace(disk, &lasting, bytes);
        return true;
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return true;
    }
    let sum = crc32c::crc32c(bytes);
    let name = format!("{place}-{sum:08x}");
    if disk.open(&name).is_ok() {
        return false;
    }
    // Best effort: a full disk must not keep the journal from opening.
    let _ = disk::replace(disk, &name, bytes);
    true
}

fn take_record(
    start: Position,
    len: usize,
    header: &Header,
    hash: crate::record::Hash,
    reading: &mut Reading,
    state: &mut State,
) {
    let endpoint = header.stream.endpoint.clone();
    let entry = Entry {
        segment: start.segment,
        offset: start.offset,
        len: u32::try_from(len).unwrap_or(u32::MAX),
        recorded_at: header.recorded_at_nanos,
        incarnation: header.stream.incarnation,
        sequence: header.sequence,
    };
    let segment = state.segments.entry(start.segment).or_default();
    segment.last.insert(endpoint.clone(), entry.end().offset);
    if let Content::Body(Body::Gap(gap)) = &header.content
        && let Some(first) = gap.first
    {
        let incarnation = gap.incarnation.unwrap_or(entry.incarnation);
        let last = first.saturating_add(gap.count.saturating_sub(1));
        reading.declared.push(Lost { endpoint: endpoint.clone(), incarnation, first, last });
    }
    reading.written_by.insert(start.segment, entry.incarnation);
    let end = StreamEnd { incarnation: entry.incarnation, sequence: header.sequence, hash };
    reading.ends.insert(endpoint.clone(), Tip { position: entry.end(), end });
    let endpoint_state = state.endpoints.entry(endpoint.clone()).or_default();
    let cursor = endpoint_state.cursor;
    if entry.end() > cursor.position {
        endpoint_state.push(entry);
    }
    let confirmed = cursor.tip.map(|tip| tip.position).unwrap_or_default();
    if entry.end() <= confirmed {
        // Its archive has had it: what is missing around it was removed because it was confirmed.
        return;
    }
    // What comes next in a stream of which nothing was seen after what is confirmed.
    let unseen = |incarnation| match cursor.tip {
        Some(tip) if tip.end.incarnation == incarnation => tip.end.sequence + 1,
        _ => 0,
    };
    if let Content::Open(open) = &header.content
        && let Some(end) = open.predecessor
    {
        let seen = reading.streams.get(&(endpoint.clone(), end.incarnation));
        let first = seen.map_or_else(|| unseen(end.incarnation), |seen| seen.next);
        if first <= end.sequence {
            let (endpoint, incarnation) = (endpoint.clone(), end.incarnation);
            reading.lost.push(Lost { endpoint, incarnation, first, last: end.sequence });
        }
    }
    let begun = reading.written_by.iter().find(|(_, by)| **by == entry.incarnation);
    let begun = Position { segment: begun.map_or(0, |(segment, _)| *segment), offset: 0 };
    let seen = reading.streams.entry((endpoint.clone(), entry.incarnation)).or_insert(Seen {
        next: unseen(entry.incarnation),
        position: begun.max(confirmed),
        closed: false,
    });
    if header.sequence > seen.next {
        reading.holes.push((seen.position, start));
        let (first, last) = (seen.next, header.sequence - 1);
        reading.lost.push(Lost { endpoint, incarnation: entry.incarnation, first, last });
    }
    *seen = Seen {
        next: header.sequence + 1,
        position: entry.end(),
        closed: matches!(header.content, Content::Close),
    };
}

/// What damage has cost and no gap record names yet.
fn losses(reading: &Reading, state: &State) -> Vec<(String, Gap)> {
    let mut lost = reading.lost.clone();
    for damage in &reading.damage {
        match &damage.known {
            Some(header) => {
                let tip = state.endpoints.get(&header.stream.endpoint).and_then(|state| state.cursor.tip);
                if tip.is_none_or(|tip| tip.position <= damage.start) {
                    lost.push(Lost {
                        endpoint: header.stream.endpoint.clone(),
                        incarnation: header.stream.incarnation,
                        first: header.sequence,
                        last: header.sequence,
                    });
                }
            }
            None if reading.holes.iter().any(|(from, to)| *from <= damage.start && damage.start < *to) => {}
            None => lost.extend(possibly_lost(reading, state, damage.start)),
        }
    }
    lost.sort();
    lost.dedup();
    let declared = |lost: &Lost| {
        reading.declared.iter().any(|declared| {
            (&declared.endpoint, declared.incarnation) == (&lost.endpoint, lost.incarnation)
                && declared.first <= lost.first
                && lost.last <= declared.last
        })
    };
    lost.retain(|lost| !declared(lost));
    lost.into_iter()
        .map(|lost| {
            let gap = Gap {
                first: Some(lost.first),
                count: lost.last - lost.first + 1,
                reason: GapReason::Quarantined,
                incarnation: Some(lost.incarnation),
            };
            (lost.endpoint, gap)
        })
        .collect()
}

/// Nothing that follows says what the damaged bytes were: they may have been the next record of any stream that was running.
fn possibly_lost(reading: &Reading, state: &State, at: Position) -> Vec<Lost> {
    let Some(incarnation) = reading.written_by.range(..=at.segment).next_back().map(|(_, by)| *by) else {
        return Vec::new();
    };
    let mut lost = Vec::new();
    for (endpoint, endpoint_state) in &state.endpoints {
        if reading.ends.get(endpoint).is_none_or(|tip| tip.end.incarnation != incarnation) {
            continue;
        }
        let next = match (reading.streams.get(&(endpoint.clone(), incarnation)), endpoint_state.cursor.tip) {
            (Some(seen), _) if !seen.closed && seen.position <= at => seen.next,
            (None, Some(tip)) if tip.end.incarnation == incarnation && tip.position <= at => {
                tip.end.sequence + 1
            }
            _ => continue,
        };
        lost.push(Lost { endpoint: endpoint.clone(), incarnation, first: next, last: next });
    }
    lost
}

/// The prefix of an endpoint's dead letters' file names.
pub fn dead_prefix(endpoint: &str) -> String {
    format!("dead-{}_", escape(endpoint))
}
