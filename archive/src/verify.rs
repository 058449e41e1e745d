//! Finds what was changed in an archive, removed from it or slipped into it (P4). `docs/record.md` says what can be found.
//!
//! Nothing an archive holds is trusted but the hashes themselves. Memory grows with streams, holes and gap records, a few words for each,
//! and not with the rest of the archive; time grows with what is read, and never with its square. Without anchors a cut-off end cannot be
//! found, and the result says so; with them [`judge()`] finds it.

mod check;
mod held;
mod judge;
mod ranges;

pub use check::Checker;
pub use held::{Held, HeldMark, Predecessor};
pub use judge::{JournalState, Judgement, judge};

use crate::anchors::Anchors;
use crate::endpoint::{Archive, EndpointError};
use crate::pages::Pages;
use crate::record::StreamId;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// The tables that hold records and what belongs to them.
const TABLES: [&str; 4] = ["record", "payload", "delivery", "outcome"];
/// Findings kept; further ones are counted.
pub const MAX_FINDINGS: usize = 1000;

/// What kind of thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Header and hash do not belong together, or the header cannot be read.
    HeaderChanged,
    /// A column differs from the header or payload.
    ColumnChanged,
    /// A payload differs from the header's commitment.
    PayloadChanged,
    /// A payload is not there, or one is there that the header does not name.
    PayloadMissing,
    /// Records are missing and no gap record says why.
    RecordsMissing,
    /// A record does not name the one before it.
    ChainBroken,
    /// Two records stand at one place.
    Doubled,
    /// The stream before this one is not there.
    PredecessorMissing,
    /// Two streams follow the same one.
    Fork,
    /// Rows are there that belong to no record of a stream: put in, or hidden from reading in order.
    Foreign,
    /// Another record stands where an anchor names one: the stream was computed anew.
    Rewritten,
    /// The last records of a stream, which the archive had confirmed, are not there.
    CutOff,
    /// A whole stream that the archive had confirmed is not there.
    StreamRemoved,
    /// Everything of a journal that the archive had confirmed is not there.
    JournalRemoved,
    /// A journal goes on from before what it had signed: its volume was put back to an older state.
    WentBack,
    /// A journal signed two things that cannot both be true.
    AnchorsContradict,
    /// A head among the anchors does not verify.
    AnchorNotBelieved,
    /// A head among the anchors bears another key than the journal had at first.
    KeyChanged,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// In which stream, as the columns say.
    pub stream: StreamId,
    /// At which sequence.
    pub sequence: Option<u64>,
    /// Which record.
    pub id: Option<Uuid>,
    /// A sentence for people.
    pub sentence: String,
}

/// A stream whose end is not proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unclosed {
    /// The stream.
    pub stream: StreamId,
    /// Its last record here.
    pub last_sequence: u64,
}

/// Something that a gap record says is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeclaredGap {
    /// The stream in which it is missing.
    pub stream: StreamId,
    /// First sequence missing, where numbered records are.
    pub first: Option<u64>,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: String,
    /// Where the gap record stands that says so.
    #[serde(default)]
    pub by: Option<GapPlace>,
}

/// A place in a journal's stream of the same endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GapPlace {
    /// The incarnation.
    pub incarnation: Uuid,
    /// The sequence.
    pub sequence: u64,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether nothing was found.
    pub consistent: bool,
    /// Whether that holds up to the time of the anchors; false where none were given.
    pub completeness_proven: bool,
    /// Records read.
    pub records: u64,
    /// Streams they are in.
    pub streams: u64,
    /// What is wrong, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more_findings: u64,
    /// What is known to be missing.
    pub gaps: Vec<DeclaredGap>,
    /// Streams that are still written to, or whose end is not proved.
    pub unclosed: Vec<Unclosed>,
    /// What is there of each stream.
    #[serde(default)]
    pub held: Vec<Held>,
    /// The result in a sentence.
    pub sentence: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{}", finding.sentence)?;
        }
        for gap in &self.gaps {
            match gap.first {
                Some(first) => writeln!(
                    f,
                    "{}: {} record(s) from {first} on are missing, as a gap record says ({})",
                    gap.stream, gap.count, gap.reason
                )?,
                None => writeln!(
                    f,
                    "{}: {} message(s) were not recorded, as a gap record says ({})",
                    gap.stream, gap.count, gap.reason
                )?,
            }
        }
        for Unclosed { stream, last_sequence } in &self.unclosed {
            writeln!(f, "{stream} is open or unclosed after record {last_sequence}")?;
        }
        write!(f, "{}", self.sentence)
    }
}

/// Verifies a whole archive, without anchors.
pub async fn verify(archive: &mut Archive) -> Result<Report, EndpointError> {
    read(archive, &Anchors::default()).await
}

/// Verifies a whole archive that is the only one, with anchors. The report holds what the anchors showed, too.
pub async fn verify_anchored(
    archive: &mut Archive,
    anchors: &Anchors,
) -> Result<(Report, Judgement), EndpointError> {
    let mut report = read(archive, anchors).await?;
    let judgement = judge(anchors, &[&report], true);
    let room = MAX_FINDINGS.saturating_sub(report.findings.len());
    report.findings.extend(judgement.findings.iter().take(room).cloned());
    let left = judgement.findings.len().saturating_sub(room) as u64;
    report.more_findings += left + judgement.more_findings;
    report.consistent &= judgement.findings.is_empty();
    report.completeness_proven = report.consistent && judgement.is_proven;
    report.sentence = judgement.verdict(report.consistent);
    Ok((report, judgement))
}

/// Reads a whole archive and checks it in itself; the report also tells what stands at the places that the anchors speak of, so that
/// several archives can be judged together.
pub async fn read(archive: &mut Archive, anchors: &Anchors) -> Result<Report, EndpointError> {
    archive.freeze().await?;
    let mut checker = Checker::with_places(anchors.places());
    let mut pages = Pages::default();
    while let Some(records) = pages.next(archive).await? {
        for record in &records {
            checker.record(record);
        }
    }
    // Whatever is not reached through a stream would be shown by a search all the same.
    for table in TABLES {
        let rows = archive.count(table).await?;
        checker.rows(table, rows);
    }
    archive.thaw().await?;
    Ok(checker.finish())
}
