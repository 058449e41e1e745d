//! The checks themselves, fed with records in the order of their streams.

use super::held::{Held, HeldMark, Predecessor};
use super::ranges::Ranges;
use super::{DeclaredGap, Finding, FindingKind, GapPlace, MAX_FINDINGS, Report, Unclosed};
use crate::endpoint::ArchivedRecord;
use crate::endpoint::projection::{INTS, Projection, TEXTS, UUIDS, project_as, without_payload};
use crate::record::{Body, Content, Form, Gap, Hash, Header, Payload, StreamEnd, StreamId, hash};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Takes records in the order of journal, endpoint, incarnation, sequence; says at the end what was found.
#[derive(Default)]
pub struct Checker {
    records: u64,
    /// Rows that came with them: payloads, deliveries, outcomes.
    beside: [u64; 3],
    findings: Vec<Finding>,
    more_findings: u64,
    streams: BTreeMap<StreamId, Seen>,
    /// Places whose hash somebody wants to know.
    places: BTreeMap<StreamId, BTreeSet<u64>>,
    marks: BTreeMap<StreamId, Vec<HeldMark>>,
    /// The last record, if the next may be of the same stream.
    current: Option<StreamId>,
    /// Sequences that are not there, until gap records say otherwise.
    missing: BTreeMap<StreamId, Vec<(u64, u64)>>,
    /// The records after holes: nothing that follows says what the one before the hole was.
    resumes: BTreeMap<StreamId, Vec<u64>>,
    gaps: Vec<Told>,
    successors: Vec<(StreamId, Option<StreamEnd>)>,
}

/// What was seen of a stream so far.
struct Seen {
    last: u64,
    /// Hash of the last record's header, and what its column says of it: either is taken for the next record's previous.
    hashes: [Hash; 2],
    closed: bool,
    node: String,
    cluster: String,
}

/// A gap record.
struct Told {
    /// The stream in which something is missing.
    stream: StreamId,
    gap: Gap,
    /// Where the gap record itself stands.
    by: GapPlace,
}

impl Checker {
    /// A checker that also tells what stands at these places.
    #[must_use]
    pub fn with_places(places: BTreeMap<StreamId, BTreeSet<u64>>) -> Self {
        Self { places, ..Self::default() }
    }

    /// Checks one record.
    pub fn record(&mut self, record: &ArchivedRecord) {
        self.records += 1;
        let projection = &record.projection;
        let beside = [record.payloads.len(), projection.deliveries.len(), projection.outcomes.len()];
        for (sum, rows) in self.beside.iter_mut().zip(beside) {
            *sum += rows as u64;
        }
        let columns = column_stream(record);
        let computed = hash(&record.header);
        let header = match Header::decode(&record.header) {
            Ok(header) => header,
            Err(error) => {
                let message = format!("its header cannot be read: {error}");
                self.find(FindingKind::HeaderChanged, &columns, None, record.id, &message);
                self.unreadable(columns, record, computed);
                return;
            }
        };
        let stream = header.stream.clone();
        if record.hash != computed {
            let message = "its header was changed: it does not fit its hash";
            self.find(FindingKind::HeaderChanged, &stream, Some(header.sequence), record.id, message);
        }
        self.mark(&stream, header.sequence, computed, record.id);
        let intact = self.payloads(record, &header);
        self.columns(record, &header, intact);
        self.chain(record, &header, computed);
        match header.content {
            Content::Open(open) => self.successors.push((stream, open.predecessor)),
            Content::Body(Body::Gap(gap)) => {
                let by = GapPlace { incarnation: stream.incarnation, sequence: header.sequence };
                let incarnation = gap.incarnation.unwrap_or(stream.incarnation);
                self.gaps.push(Told { stream: StreamId { incarnation, ..stream }, gap, by });
            }
            Content::Body(_) | Content::Close => {}
        }
    }

    /// Compares how many rows a table has with how many came with the records that were checked.
    pub fn rows(&mut self, table: &str, rows: u64) {
        let [payloads, deliveries, outcomes] = self.beside;
        let read = match table {
            "payload" => payloads,
            "delivery" => deliveries,
            "outcome" => outcomes,
            _ => self.records,
        };
        if rows != read {
            let sentence = format!(
                "the table {table} has {rows} row(s), of which {read} belong to the records of a stream: others were put in"
            );
            let stream = StreamId { journal: Uuid::nil(), endpoint: String::new(), incarnation: Uuid::nil() };
            self.keep(Finding { kind: FindingKind::Foreign, stream, sequence: None, id: None, sentence });
        }
    }

    /// The result.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let successors = std::mem::take(&mut self.successors);
        let explained = self.explained();
        let nothing = Ranges::default();
        self.forks(&successors);
        let mut followed = BTreeSet::new();
        for (successor, predecessor) in &successors {
            if let Some(end) = predecessor {
                let stream = StreamId { incarnation: end.incarnation, ..successor.clone() };
                self.predecessor(successor, end, &stream, explained.get(&stream).unwrap_or(&nothing));
                followed.insert(stream);
            }
        }
        for (stream, missing) in std::mem::take(&mut self.missing) {
            let explained = explained.get(&stream).unwrap_or(&nothing);
            let missing = Ranges::from(missing);
            for (first, last) in missing.iter().flat_map(|(first, last)| explained.outside(first, last)) {
                let count = (last - first).saturating_add(1);
                let message = format!(
                    "{count} record(s) from {first} to {last} are missing and no gap record says why"
                );
                self.push(FindingKind::RecordsMissing, &stream, Some(first), None, message);
            }
        }
        let unclosed = self
            .streams
            .iter()
            .filter(|(stream, seen)| !seen.closed && !followed.contains(stream))
            .map(|(stream, seen)| Unclosed { stream: stream.clone(), last_sequence: seen.last })
            .collect();
        self.findings.sort_by(|a, b| (&a.stream, a.sequence, a.kind).cmp(&(&b.stream, b.sequence, b.kind)));
        let held = self.held(&successors);
        let (records, streams) = (self.records, self.streams.len() as u64);
        let found = self.findings.len() as u64 + self.more_findings;
        let sentence = if found == 0 {
            format!("consistent, completeness not proven: {records} record(s) in {streams} stream(s)")
        } else {
            format!("not consistent: {found} finding(s) in {records} record(s) of {streams} stream(s)")
        };
        let gaps = self
            .gaps
            .into_iter()
            .map(|Told { stream, gap, by }| DeclaredGap {
                stream,
                first: gap.first,
                count: gap.count,
                reason: gap.reason.word().to_owned(),
                by: Some(by),
            })
            .collect();
        Report {
            consistent: found == 0,
            completeness_proven: false,
            records,
            streams,
            findings: self.findings,
            more_findings: self.more_findings,
            gaps,
            unclosed,
            held,
            sentence,
        }
    }

    /// A record that cannot be read still stands where its columns say, so that only one thing is reported.
    fn unreadable(&mut self, stream: StreamId, record: &ArchivedRecord, computed: Hash) {
        let last = record.projection.ints[0].and_then(|sequence| u64::try_from(sequence).ok()).unwrap_or(0);
        let hashes = [computed, record.hash.as_slice().try_into().unwrap_or(computed)];
        self.mark(&stream, last, computed, record.id);
        self.current = Some(stream.clone());
        let columns = &record.projection.texts;
        let (node, cluster) =
            (columns[2].clone().unwrap_or_default(), columns[3].clone().unwrap_or_default());
        self.streams.insert(stream, Seen { last, hashes, closed: false, node, cluster });
    }

    fn mark(&mut self, stream: &StreamId, sequence: u64, hash: Hash, id: Uuid) {
        if self.places.get(stream).is_some_and(|places| places.contains(&sequence)) {
            let mark = HeldMark { sequence, hash: hex::encode(hash), id };
            self.marks.entry(stream.clone()).or_default().push(mark);
        }
    }

    fn held(&mut self, successors: &[(StreamId, Option<StreamEnd>)]) -> Vec<Held> {
        let before: BTreeMap<&StreamId, Predecessor> = successors
            .iter()
            .filter_map(|(stream, end)| {
                let StreamEnd { incarnation, sequence, .. } = (*end)?;
                Some((stream, Predecessor { incarnation, sequence }))
            })
            .collect();
        let of = |(stream, seen): (&StreamId, &Seen)| Held {
            stream: stream.clone(),
            node: seen.node.clone(),
            cluster: seen.cluster.clone(),
            last: seen.last,
            closed: seen.closed,
            predecessor: before.get(stream).copied(),
            marks: self.marks.get(stream).cloned().unwrap_or_default(),
            resumes: self.resumes.get(stream).cloned().unwrap_or_default(),
        };
        self.streams.iter().map(of).collect()
    }

    /// Compares payloads with the header's commitments. Returns whether they are as they were.
    fn payloads(&mut self, record: &ArchivedRecord, header: &Header) -> bool {
        let mut intact = true;
        let mut found = |kind, message: String, this: &mut Self| {
            intact = false;
            this.find(kind, &header.stream, Some(header.sequence), record.id, &message);
        };
        for reference in &header.payloads {
            let number = reference.number;
            let kept = record.payloads.iter().find(|kept| kept.number == i64::from(number));
            match kept.map(|kept| (kept, payload(kept))) {
                Some((_, Some(payload))) if payload.reference() == *reference => {}
                Some((kept, _)) if kept.bytes.is_none() => {
                    found(FindingKind::PayloadMissing, format!("its payload {number} was erased"), self);
                }
                Some(_) => {
                    found(FindingKind::PayloadChanged, format!("its payload {number} was changed"), self)
                }
                None => {
                    found(FindingKind::PayloadMissing, format!("its payload {number} is not there"), self)
                }
            }
        }
        for kept in &record.payloads {
            if !header.payloads.iter().any(|reference| i64::from(reference.number) == kept.number) {
                let message = format!("it has a payload {} that its header does not name", kept.number);
                found(FindingKind::PayloadMissing, message, self);
            }
        }
        intact
    }

    fn columns(&mut self, record: &ArchivedRecord, header: &Header, intact: bool) {
        let payloads: Vec<Payload> = record.payloads.iter().filter_map(payload).collect();
        let Some(mut expected) = project_as(record.parser, header, &payloads) else {
            let message = format!(
                "its columns were made by parser {}, which this version does not know: verify with a newer version, or the column parser was changed",
                record.parser
            );
            self.find(FindingKind::ColumnChanged, &header.stream, Some(header.sequence), record.id, &message);
            return;
        };
        let mut actual = record.projection.clone();
        if !intact {
            (expected, actual) = (without_payload(expected), without_payload(actual));
        }
        let mut names = differing(&expected, &actual);
        if record.id != header.id {
            names.push("id");
        }
        if record.previous != header.previous {
            names.push("previous");
        }
        if !names.is_empty() {
            let message =
                format!("it was changed in {}, which differs from its header or payload", names.join(", "));
            self.find(FindingKind::ColumnChanged, &header.stream, Some(header.sequence), record.id, &message);
        }
    }

    fn chain(&mut self, record: &ArchivedRecord, header: &Header, computed: Hash) {
        let stream = &header.stream;
        let sequence = header.sequence;
        let mut findings: Vec<(FindingKind, String)> = Vec::new();
        let begun = self.streams.get(stream).filter(|_| self.current.as_ref() == Some(stream));
        match begun {
            Some(seen) if sequence <= seen.last => {
                findings.push((FindingKind::Doubled, "another record stands at its place".to_owned()));
            }
            Some(seen) => {
                if sequence - seen.last > 1 {
                    let (first, last) = (seen.last + 1, sequence - 1);
                    self.missing.entry(stream.clone()).or_default().push((first, last));
                    self.resumes.entry(stream.clone()).or_default().push(sequence);
                } else if !seen.hashes.contains(&header.previous) {
                    let message =
                        "it does not follow the record before it: one of them was changed or put in";
                    findings.push((FindingKind::ChainBroken, message.to_owned()));
                }
                if seen.closed {
                    let message = "it stands after the record that closed its stream";
                    findings.push((FindingKind::ChainBroken, message.to_owned()));
                }
            }
            None if sequence > 0 => {
                self.missing.entry(stream.clone()).or_default().push((0, sequence - 1));
            }
            None if !matches!(header.content, Content::Open(_)) || header.previous != [0; 32] => {
                findings
                    .push((FindingKind::ChainBroken, "it begins a stream and is no open record".to_owned()));
            }
            None => {}
        }
        for (kind, message) in findings {
            self.find(kind, stream, Some(sequence), record.id, &message);
        }
        let hashes = [computed, record.hash.as_slice().try_into().unwrap_or(computed)];
        let closed = matches!(header.content, Content::Close);
        self.current = Some(stream.clone());
        match self.streams.get_mut(stream) {
            Some(seen) if sequence >= seen.last => {
                (seen.last, seen.hashes, seen.closed) = (sequence, hashes, closed)
            }
            Some(_) => {}
            None => {
                let (node, cluster) = (header.node.clone(), header.cluster.clone());
                self.streams.insert(stream.clone(), Seen { last: sequence, hashes, closed, node, cluster });
            }
        }
    }

    fn forks(&mut self, successors: &[(StreamId, Option<StreamEnd>)]) {
        let mut first: BTreeMap<(Uuid, String, Option<Uuid>), Uuid> = BTreeMap::new();
        for (stream, predecessor) in successors {
            let key = (stream.journal, stream.endpoint.clone(), predecessor.map(|end| end.incarnation));
            if let Some(other) = first.get(&key) {
                let message = match predecessor {
                    Some(end) => format!(
                        "it and incarnation {other} both follow incarnation {}: a volume was restored from a copy",
                        end.incarnation
                    ),
                    None => format!(
                        "it and incarnation {other} both begin the journal: a volume was restored from a copy"
                    ),
                };
                self.push(FindingKind::Fork, stream, Some(0), None, message);
            } else {
                first.insert(key, stream.incarnation);
            }
        }
    }

    /// Compares what a stream says of `stream`, the one before it, with what is there; `explained` is what gap records say of that one.
    fn predecessor(&mut self, successor: &StreamId, end: &StreamEnd, stream: &StreamId, explained: &Ranges) {
        let Some(seen) = self.streams.get(stream) else {
            if explained.outside(0, end.sequence).next().is_some() {
                let message = format!("the stream before it, incarnation {}, is not there", end.incarnation);
                self.push(FindingKind::PredecessorMissing, successor, Some(0), None, message);
            }
            return;
        };
        if seen.last < end.sequence {
            self.missing.entry(stream.clone()).or_default().push((seen.last + 1, end.sequence));
        } else if seen.last > end.sequence {
            // A gap record covers records that the journal had lost and the archive had got before.
            if explained.outside(end.sequence + 1, seen.last).next().is_some() {
                let message = format!(
                    "it goes on after record {}, which the next incarnation, {}, names as its last",
                    end.sequence, successor.incarnation
                );
                self.push(
                    FindingKind::ChainBroken,
                    stream,
                    Some(end.sequence.saturating_add(1)),
                    None,
                    message,
                );
            }
        } else if !seen.hashes.contains(&end.hash) {
            let message = format!(
                "its last record is not the one that the next incarnation, {}, names",
                successor.incarnation
            );
            self.push(FindingKind::ChainBroken, stream, Some(end.sequence), None, message);
        }
    }

    /// What gap records name, by stream.
    fn explained(&self) -> BTreeMap<StreamId, Ranges> {
        let mut explained: BTreeMap<&StreamId, Vec<(u64, u64)>> = BTreeMap::new();
        for Told { stream, gap, .. } in &self.gaps {
            if let (Some(first), Some(more)) = (gap.first, gap.count.checked_sub(1)) {
                explained.entry(stream).or_default().push((first, first.saturating_add(more)));
            }
        }
        explained.into_iter().map(|(stream, ranges)| (stream.clone(), ranges.into())).collect()
    }

    fn find(&mut self, kind: FindingKind, stream: &StreamId, sequence: Option<u64>, id: Uuid, message: &str) {
        self.push(kind, stream, sequence, Some(id), message.to_owned());
    }

    fn push(
        &mut self,
        kind: FindingKind,
        stream: &StreamId,
        sequence: Option<u64>,
        id: Option<Uuid>,
        message: String,
    ) {
        let record = match (id, sequence) {
            (Some(id), Some(sequence)) => format!(", record {sequence} ({id})"),
            (Some(id), None) => format!(", record {id}"),
            (None, _) => String::new(),
        };
        let sentence = format!("{stream}{record}: {message}");
        self.keep(Finding { kind, stream: stream.clone(), sequence, id, sentence });
    }

    fn keep(&mut self, finding: Finding) {
        if self.findings.len() == MAX_FINDINGS {
            self.more_findings += 1;
        } else {
            self.findings.push(finding);
        }
    }
}

fn column_stream(record: &ArchivedRecord) -> StreamId {
    let columns = &record.projection;
    StreamId {
        journal: columns.uuids[0].unwrap_or_default(),
        incarnation: columns.uuids[1].unwrap_or_default(),
        endpoint: columns.texts[1].clone().unwrap_or_default(),
    }
}

fn payload(kept: &crate::endpoint::ArchivedPayload) -> Option<Payload> {
    let form = match kept.form {
        1 => Form::Plain { salt: kept.salt.as_deref()?.try_into().ok()? },
        2 => Form::Sealed,
        _ => return None,
    };
    Some(Payload { number: u8::try_from(kept.number).ok()?, form, bytes: kept.bytes.clone()? })
}

fn differing(expected: &Projection, actual: &Projection) -> Vec<&'static str> {
    let mut names = Vec::new();
    let uuids = UUIDS.iter().zip(expected.uuids.iter().zip(&actual.uuids));
    names.extend(uuids.filter(|(_, (a, b))| a != b).map(|(name, _)| *name));
    let ints = INTS.iter().zip(expected.ints.iter().zip(&actual.ints));
    names.extend(ints.filter(|(_, (a, b))| a != b).map(|(name, _)| *name));
    let texts = TEXTS.iter().zip(expected.texts.iter().zip(&actual.texts));
    names.extend(texts.filter(|(_, (a, b))| a != b).map(|(name, _)| *name));
    if expected.deliveries != actual.deliveries {
        names.push("its deliveries");
    }
    if expected.outcomes != actual.outcomes {
        names.push("its outcomes");
    }
    names
}

#[cfg(test)]
mod tests;
