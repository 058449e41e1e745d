//! Anchors against what archives hold: a pure function over both, so that several archives are judged together.
//!
//! What the archive had confirmed when a head was signed must be there, with that hash, or a gap record must explain it. What was
//! durable in the journal and not confirmed may still wait there: it is told and no finding, unless something else stands in its
//! place. What came after the last head, nothing here can speak of: it is counted as not anchored yet.

use super::held::Held;
use super::ranges::Ranges;
use super::{DeclaredGap, Finding, FindingKind, MAX_FINDINGS, Report};
use crate::anchors::{Anchored, Anchors, progress, time};
use crate::head::{Mark, Statement};
use crate::record::StreamId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
use std::sync::LazyLock;
use uuid::Uuid;

/// What anchors show of archives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// What does not fit the anchors, and what is wrong with them, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// How many more there are.
    #[serde(default)]
    pub more_findings: u64,
    /// What anchors speak of and none of the archives can hold, in words; of as many at most.
    pub not_verified: Vec<String>,
    /// Each journal and endpoint that anchors or archives know.
    pub journals: Vec<JournalState>,
    /// Whether every journal in the archives is anchored and everything the anchors call archived is there.
    pub is_proven: bool,
    /// Up to when that holds, nanoseconds since the epoch: when the oldest last head was signed of the journals still in use.
    pub up_to_nanos: Option<i64>,
}

/// One journal's records for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalState {
    /// The journal.
    pub journal: Uuid,
    /// The endpoint.
    pub endpoint: String,
    /// The pod it is of.
    pub node: String,
    /// Its XMPPCluster.
    pub cluster: String,
    /// When its last head was signed, nanoseconds since the epoch; `None` where there is none.
    pub anchored_at_nanos: Option<i64>,
    /// Records that were anchored as durable in the journal and are not in the archive yet.
    pub waiting: u64,
    /// Records in the archive that no anchor covers yet.
    pub not_anchored: u64,
    /// All of this in words.
    pub sentence: String,
}

impl Judgement {
    /// The result in a sentence; `is_consistent` says whether nothing at all was found.
    #[must_use]
    pub fn verdict(&self, is_consistent: bool) -> String {
        if !is_consistent || !self.findings.is_empty() {
            return "NOT consistent: the archive is not what was written".to_owned();
        }
        if !self.not_verified.is_empty() {
            return "NOT VERIFIED as a whole: what could be read is consistent, the rest is named above"
                .to_owned();
        }
        let unanchored = self.journals.iter().filter(|state| state.anchored_at_nanos.is_none()).count();
        let Some(up_to) = self.up_to_nanos.filter(|_| self.is_proven) else {
            return match unanchored {
                0 => "consistent, completeness not proven: no anchors".to_owned(),
                count => format!("consistent, completeness not proven: {count} journal(s) without anchors"),
            };
        };
        let sum = |of: fn(&JournalState) -> u64| self.journals.iter().map(of).fold(0, u64::saturating_add);
        let outside: Vec<String> = [
            (sum(|state| state.waiting), "not archived yet"),
            (sum(|state| state.not_anchored), "not anchored yet"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} record(s) {what}"))
        .collect();
        let mut verdict = format!("consistent and complete up to {}", time(up_to));
        if !outside.is_empty() {
            verdict = format!("{verdict}; outside of that: {}", outside.join(", "));
        }
        verdict
    }
}

/// Holds `anchors` against what was read of all archives together. `is_whole` says whether all of them could be read: where one could
/// not, a journal of which nothing was found may be in that one.
#[must_use]
pub fn judge(anchors: &Anchors, reports: &[&Report], is_whole: bool) -> Judgement {
    let mut judge = Judge::default();
    judge.collect(reports);
    anchors.findings.iter().cloned().for_each(|finding| judge.keep(finding));
    let mut unfinished: Option<i64> = None;
    let mut newest: Option<i64> = None;
    for (journal, anchored) in &anchors.journals {
        for endpoint in anchored.endpoints.keys() {
            let last = judge.endpoint(*journal, endpoint, anchored, is_whole);
            newest = newest.max(last.at_nanos);
            if !last.is_finished {
                unfinished = Some(unfinished.unwrap_or(i64::MAX).min(last.at_nanos.unwrap_or_default()));
            }
        }
    }
    judge.unanchored(anchors);
    let gaps = reports.iter().flat_map(|report| &report.gaps);
    gaps.for_each(|gap| judge.gap(gap, anchors));
    if judge.more_not_verified > 0 {
        judge.result.not_verified.push(format!("and {} more like these", judge.more_not_verified));
    }
    let mut result = judge.result;
    let all_anchored = result.journals.iter().all(|state| state.anchored_at_nanos.is_some());
    result.is_proven =
        newest.is_some() && all_anchored && result.findings.is_empty() && result.not_verified.is_empty();
    result.up_to_nanos = unfinished.or(newest);
    result.findings.sort_by(|a, b| (&a.stream, a.sequence, a.kind).cmp(&(&b.stream, b.sequence, b.kind)));
    result
}

#[derive(Default)]
struct Judge {
    held: BTreeMap<StreamId, Merged>,
    /// Endpoints of which anything is there.
    endpoints: BTreeSet<String>,
    /// By stream the one that names it as the one before: its incarnation, and the end that it names.
    successors: BTreeMap<StreamId, (Uuid, u64)>,
    /// What gap records explain.
    gaps: BTreeMap<StreamId, Ranges>,
    /// Places of a stream that are proved: what stands before them is, back to the next hole.
    proved: BTreeMap<StreamId, BTreeSet<u64>>,
    result: Judgement,
    more_not_verified: u64,
}

/// A stream as all archives together hold it.
struct Merged {
    held: Held,
    /// Hashes by place: more than one where two archives differ, and then one of them is not what was written.
    marks: BTreeMap<u64, BTreeSet<String>>,
    /// The records after holes.
    resumes: BTreeSet<u64>,
}

/// The end of what is anchored of one journal and endpoint.
struct Last {
    at_nanos: Option<i64>,
    /// Nothing more will come of it, and all of it is there.
    is_finished: bool,
}

impl Judge {
    fn collect(&mut self, reports: &[&Report]) {
        for held in reports.iter().flat_map(|report| &report.held) {
            let merged = self.held.entry(held.stream.clone()).or_insert_with(|| Merged {
                held: held.clone(),
                marks: BTreeMap::new(),
                resumes: BTreeSet::new(),
            });
            if held.last > merged.held.last {
                (merged.held.last, merged.held.closed) = (held.last, held.closed);
            }
            merged.held.predecessor = merged.held.predecessor.or(held.predecessor);
            merged.resumes.extend(&held.resumes);
            for mark in &held.marks {
                merged.marks.entry(mark.sequence).or_default().insert(mark.hash.clone());
            }
        }
        for (stream, merged) in &self.held {
            self.endpoints.insert(stream.endpoint.clone());
            if let Some(before) = merged.held.predecessor {
                let before_it = StreamId { incarnation: before.incarnation, ..stream.clone() };
                self.successors.entry(before_it).or_insert((stream.incarnation, before.sequence));
            }
        }
        let mut gaps: BTreeMap<&StreamId, Vec<(u64, u64)>> = BTreeMap::new();
        for gap in reports.iter().flat_map(|report| &report.gaps) {
            if let (Some(first), Some(more)) = (gap.first, gap.count.checked_sub(1)) {
                gaps.entry(&gap.stream).or_default().push((first, first.saturating_add(more)));
            }
        }
        self.gaps = gaps.into_iter().map(|(stream, ranges)| (stream.clone(), ranges.into())).collect();
    }

    fn endpoint(&mut self, journal: Uuid, endpoint: &str, anchored: &Anchored, is_whole: bool) -> Last {
        let incarnations = &anchored.endpoints[endpoint];
        let statements = || incarnations.values().flatten();
        let newest = statements().max_by_key(|statement| (statement.incarnation, progress(statement)));
        let at_nanos = newest.map(|statement| statement.at_nanos);
        let who = format!("journal {journal} (pod {}), endpoint {endpoint}", anchored.node);
        let of_it = streams_of(journal, endpoint);
        let confirmed = statements().filter_map(|statement| Some((statement, statement.confirmed?)));
        let (mut waiting, mut lacks) = (0, false);
        if let Some((statement, mark)) =
            confirmed.max_by_key(|(statement, mark)| (statement.incarnation, mark.sequence))
            && self.held.range(of_it.clone()).next().is_none()
        {
            lacks = true;
            let had = format!(
                "by {} the archive had confirmed its records up to {}",
                time(statement.at_nanos),
                mark.sequence
            );
            if !is_whole {
                let sentence = format!("{who}: {had}, and it is in none of those that could be read");
                self.not_verified(sentence);
            } else if self.endpoints.contains(endpoint) {
                let sentence = format!(
                    "{who}: nothing of it is there, and {had}: the whole journal was removed, or an archive of this endpoint was not given"
                );
                self.find(FindingKind::JournalRemoved, statement, Some(0), sentence);
            } else {
                self.not_verified(format!(
                    "{who}: {had}, and no archive that was read holds this endpoint: it is in another archive, or all of it was removed"
                ));
            }
        } else {
            for statements in incarnations.values() {
                waiting += self.incarnation(&who, statements);
            }
        }
        self.cover_predecessors(&of_it);
        let not_anchored = self.not_anchored(of_it);
        // A stream of an incarnation that is over gets no more records.
        let current = anchored.endpoints.values().flat_map(BTreeMap::keys).max();
        let is_finished = !lacks
            && newest.is_some_and(|newest| {
                let is_over = newest.closed || current.is_some_and(|current| *current > newest.incarnation);
                is_over && self.proved_up_to(&stream_of(newest)).is_some_and(|to| to >= newest.last.sequence)
            });
        let sentence = format!(
            "{who}: anchored at {}{}{}{}",
            at_nanos.map(time).unwrap_or_default(),
            if waiting > 0 {
                format!("; anchored, not archived yet as of then: {waiting} record(s)")
            } else {
                String::new()
            },
            if not_anchored > 0 {
                format!("; not anchored yet: {not_anchored} record(s)")
            } else {
                String::new()
            },
            if is_finished { "; it is finished, and all of it is there" } else { "" },
        );
        self.result.journals.push(JournalState {
            journal,
            endpoint: endpoint.to_owned(),
            node: anchored.node.clone(),
            cluster: anchored.cluster.clone(),
            anchored_at_nanos: at_nanos,
            waiting,
            not_anchored,
            sentence,
        });
        Last { at_nanos, is_finished }
    }

    /// Checks what was signed of one stream, and returns how many of its records may still wait.
    fn incarnation(&mut self, who: &str, statements: &[Statement]) -> u64 {
        self.contradictions(who, statements);
        let mut told = BTreeSet::new();
        for statement in statements {
            let confirmed = statement.confirmed.map(|mark| (mark, true));
            for (mark, is_confirmed) in confirmed.into_iter().chain([(statement.last, false)]) {
                if told.insert((mark.sequence, mark.hash, is_confirmed)) {
                    self.place(who, statement, mark, is_confirmed);
                }
            }
        }
        statements.last().map_or(0, |newest| self.waiting(who, newest))
    }

    /// One journal names one record at each place, and none after the one that closed its stream. In which order it signed its heads
    /// nobody can say by their times alone: clocks step back.
    fn contradictions(&mut self, who: &str, statements: &[Statement]) {
        const COPIED: &str = "its volume was copied or put back, and two go on in its name";
        let mut signed: BTreeMap<u64, (Mark, &Statement)> = BTreeMap::new();
        for statement in statements {
            let (incarnation, at) = (statement.incarnation, time(statement.at_nanos));
            for mark in statement.confirmed.into_iter().chain([statement.last]) {
                let (known, other) = *signed.entry(mark.sequence).or_insert((mark, statement));
                if known.hash != mark.hash {
                    let sentence = format!(
                        "{who}, incarnation {incarnation}: at {} the journal signed one record {}, and at {at} another: {COPIED}",
                        time(other.at_nanos),
                        mark.sequence,
                    );
                    self.find(FindingKind::AnchorsContradict, statement, Some(mark.sequence), sentence);
                }
            }
        }
        let closed = statements.iter().find(|statement| statement.closed);
        let last = statements.last();
        if let Some((closed, last)) =
            closed.zip(last).filter(|(closed, last)| last.last.sequence > closed.last.sequence)
        {
            let sentence = format!(
                "{who}, incarnation {}: at {} the journal signed that it had closed its stream with record {}, and at {} that it had record \
                 {}: {COPIED}",
                closed.incarnation,
                time(closed.at_nanos),
                closed.last.sequence,
                time(last.at_nanos),
                last.last.sequence,
            );
            self.find(FindingKind::AnchorsContradict, last, Some(last.last.sequence), sentence);
        }
    }

    /// Looks whether the record stands where a head says.
    fn place(&mut self, who: &str, statement: &Statement, mark: Mark, is_confirmed: bool) {
        let stream = stream_of(statement);
        let (incarnation, at, sequence) = (statement.incarnation, time(statement.at_nanos), mark.sequence);
        let Some(merged) = self.held.get(&stream) else {
            if is_confirmed && self.uncovered(&stream, 0, sequence).next().is_some() {
                let sentence = format!(
                    "{who}, incarnation {incarnation}: the stream was removed: by {at} the archive had confirmed its records 0 to \
                     {sequence}, and none of them is there"
                );
                self.find(FindingKind::StreamRemoved, statement, Some(0), sentence);
            }
            return;
        };
        let last = merged.held.last;
        if let Some(hashes) = merged.marks.get(&sequence) {
            let expected = hex::encode(mark.hash);
            if hashes.iter().any(|hash| *hash != expected) {
                let sentence = format!(
                    "{who}, incarnation {incarnation}, record {sequence}: it is not the record that was anchored at {at}: it was \
                     changed, and whatever follows the change computed anew"
                );
                self.find(FindingKind::Rewritten, statement, Some(sequence), sentence);
            } else {
                self.proved.entry(stream).or_default().insert(sequence);
            }
        } else if is_confirmed && sequence > last {
            let gone: Vec<_> = self.uncovered(&stream, last.saturating_add(1), sequence).collect();
            for (first, to) in gone {
                let sentence = format!(
                    "{who}, incarnation {incarnation}: cut off after record {last}: by {at} the archive had confirmed the records {first} \
                     to {to} too, and they are not there"
                );
                self.find(FindingKind::CutOff, statement, Some(first), sentence);
            }
        }
        // A hole before the last record there is told by the chain itself.
    }

    fn waiting(&mut self, who: &str, newest: &Statement) -> u64 {
        let stream = stream_of(newest);
        let next = self.held.get(&stream).map(|merged| merged.held.last.saturating_add(1));
        let confirmed = newest.confirmed.map(|mark| mark.sequence.saturating_add(1));
        let first = next.max(confirmed).unwrap_or(0);
        let count = records(self.uncovered(&stream, first, newest.last.sequence));
        // Where the successor names an end, what is missing up to there is told by the chain.
        match self.successors.get(&stream).copied() {
            Some((_, end)) if end >= newest.last.sequence => 0,
            Some((next, end)) if count > 0 => {
                let sentence = format!(
                    "{who}, incarnation {}: at {} the journal had {count} record(s) after {end}, the last one that the next incarnation, \
                     {next}, knows of: its volume was put back to an older state",
                    newest.incarnation,
                    time(newest.at_nanos),
                );
                self.find(FindingKind::WentBack, newest, Some(end.saturating_add(1)), sentence);
                0
            }
            _ => count,
        }
    }

    /// What stands before a proved place by the chain is proved with it. A hole breaks the chain, whoever explains it: the record after
    /// it names one that is not there.
    fn cover_predecessors(&mut self, of_it: &RangeInclusive<StreamId>) {
        let of_it = self.proved.range(of_it.clone());
        let mut to_follow: Vec<StreamId> = of_it.map(|(stream, _)| stream.clone()).collect();
        while let Some(stream) = to_follow.pop() {
            let Some(before) = self.held.get(&stream).and_then(|merged| merged.held.predecessor) else {
                continue;
            };
            if !self.is_proved(&stream, 0) {
                continue;
            }
            let stream = StreamId { incarnation: before.incarnation, ..stream };
            // Only the last record there was compared with what its successor says of it.
            let is_its_end = self.held.get(&stream).is_some_and(|merged| merged.held.last == before.sequence);
            if is_its_end && self.proved.entry(stream.clone()).or_default().insert(before.sequence) {
                to_follow.push(stream);
            }
        }
    }

    fn proved_up_to(&self, stream: &StreamId) -> Option<u64> {
        self.proved.get(stream)?.last().copied()
    }

    /// Whether an unbroken chain leads from a place to a proved one.
    fn is_proved(&self, stream: &StreamId, sequence: u64) -> bool {
        let Some(merged) = self.held.get(stream) else { return false };
        let next = self.proved.get(stream).and_then(|proved| proved.range(sequence..).next());
        let broken = (Bound::Excluded(sequence), Bound::Unbounded);
        let hole = merged.resumes.range(broken).next();
        next.is_some_and(|next| hole.is_none_or(|hole| next < hole))
    }

    fn not_anchored(&self, of_it: RangeInclusive<StreamId>) -> u64 {
        self.held
            .range(of_it)
            .map(|(stream, merged)| self.unproved(stream, merged))
            .fold(0, u64::saturating_add)
    }

    /// Records of a stream that no anchor proves: what follows the last proved place of each unbroken stretch.
    fn unproved(&self, stream: &StreamId, merged: &Merged) -> u64 {
        let ends = merged.resumes.iter().map(|resume| resume.saturating_sub(1)).chain([merged.held.last]);
        let (mut sum, mut first) = (0u64, 0);
        for end in ends {
            let of_it = |proved: &BTreeSet<u64>| proved.range(first..=end.max(first)).next_back().copied();
            let from = self.proved.get(stream).and_then(of_it).map_or(first, |to| to.saturating_add(1));
            if from <= end {
                sum = sum.saturating_add(records(self.uncovered(stream, from, end)));
            }
            first = end.saturating_add(1);
        }
        sum
    }

    /// Journals in the archives that no anchor knows.
    fn unanchored(&mut self, anchors: &Anchors) {
        let mut unknown: BTreeMap<(Uuid, String), (u64, Held)> = BTreeMap::new();
        for (stream, merged) in &self.held {
            let known = anchors.journals.get(&stream.journal);
            if known.is_some_and(|anchored| anchored.endpoints.contains_key(&stream.endpoint)) {
                continue;
            }
            let key = (stream.journal, stream.endpoint.clone());
            let records = &mut unknown.entry(key).or_insert_with(|| (0, merged.held.clone())).0;
            *records = records.saturating_add(merged.held.last.saturating_add(1));
        }
        for ((journal, endpoint), (records, held)) in unknown {
            let why = if anchors.journals.contains_key(&journal) {
                "its journal is anchored, for this endpoint it never was"
            } else if anchors.journals.is_empty() || anchors.clusters.contains(&held.cluster) {
                "it is made up, or was never anchored"
            } else {
                "its cluster is not among those whose anchors were given, or it is made up"
            };
            let sentence = format!(
                "journal {journal}, endpoint {endpoint}: {records} record(s) that call themselves pod {}'s of {}, and no anchor: {why}",
                held.node, held.cluster
            );
            self.result.journals.push(JournalState {
                journal,
                endpoint,
                node: held.node,
                cluster: held.cluster,
                anchored_at_nanos: None,
                waiting: 0,
                not_anchored: records,
                sentence,
            });
        }
    }

    /// A gap record explains nothing as long as it could have been written by whoever removed what it speaks of.
    fn gap(&mut self, gap: &DeclaredGap, anchors: &Anchors) {
        let (Some(first), Some(by)) = (gap.first, gap.by) else { return };
        let StreamId { journal, endpoint, incarnation } = &gap.stream;
        let signed = || anchors.journals.get(journal)?.endpoints.get(endpoint)?.get(incarnation);
        let confirmed =
            signed().into_iter().flatten().filter_map(|statement| Some(statement.confirmed?.sequence));
        let anchored = self.proved_up_to(&gap.stream).max(confirmed.max());
        let at = StreamId { incarnation: by.incarnation, ..gap.stream.clone() };
        let is_anchored_itself = self.is_proved(&at, by.sequence);
        if anchored.is_some_and(|to| first <= to) && !is_anchored_itself {
            self.not_verified(format!(
                "{}: {} record(s) from {first} on are missing, and the gap record that says so, {} of incarnation {}, is not anchored \
                 yet: verify again with newer anchors",
                gap.stream, gap.count, by.sequence, by.incarnation
            ));
        }
    }

    /// The parts of a range that no gap record names.
    fn uncovered(&self, stream: &StreamId, first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        static NOTHING: LazyLock<Ranges> = LazyLock::new(Ranges::default);
        self.gaps.get(stream).unwrap_or(&NOTHING).outside(first, last)
    }

    fn find(&mut self, kind: FindingKind, statement: &Statement, sequence: Option<u64>, sentence: String) {
        let stream = stream_of(statement);
        self.keep(Finding { kind, stream, sequence, id: None, sentence });
    }

    fn keep(&mut self, finding: Finding) {
        if self.result.findings.len() == MAX_FINDINGS {
            self.result.more_findings += 1;
        } else {
            self.result.findings.push(finding);
        }
    }

    fn not_verified(&mut self, sentence: String) {
        if self.result.not_verified.len() == MAX_FINDINGS {
            self.more_not_verified += 1;
        } else {
            self.result.not_verified.push(sentence);
        }
    }
}

/// The streams of one journal and endpoint, in the order of streams.
fn streams_of(journal: Uuid, endpoint: &str) -> RangeInclusive<StreamId> {
    let of = |incarnation| StreamId { journal, endpoint: endpoint.to_owned(), incarnation };
    of(Uuid::nil())..=of(Uuid::max())
}

/// How many records ranges hold.
fn records(ranges: impl Iterator<Item = (u64, u64)>) -> u64 {
    ranges.fold(0, |sum, (first, last)| sum.saturating_add((last - first).saturating_add(1)))
}

fn stream_of(statement: &Statement) -> StreamId {
    let Statement { journal, endpoint, incarnation, .. } = statement;
    StreamId { journal: *journal, endpoint: endpoint.clone(), incarnation: *incarnation }
}

#[cfg(test)]
mod tests;
