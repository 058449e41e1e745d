//! Finds what was changed in an archive, removed from it or slipped into it (P4). `docs/record.md` says what can be found.
//!
//! Nothing an archive holds is trusted but the hashes themselves. Memory does not grow with the archive: only streams and
//! findings are kept. Without anchors a cut-off end cannot be found, and the result says so.

mod check;

pub use check::Checker;

use crate::endpoint::{Archive, Bind, EndpointError};
use crate::record::StreamId;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// Records in one page.
const PAGE: u32 = 200;
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
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether nothing was found.
    pub consistent: bool,
    /// Always false: there are no anchors yet.
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

/// Verifies a whole archive.
pub async fn verify(archive: &mut Archive) -> Result<Report, EndpointError> {
    archive.freeze().await?;
    let mut checker = Checker::default();
    let mut after: Option<[Bind; 5]> = None;
    loop {
        let order = format!("ORDER BY r.journal, r.endpoint, r.incarnation, r.sequence, r.id LIMIT {PAGE}");
        let (tail, binds) = match &after {
            None => (order, Vec::new()),
            Some(key) => (
                format!(
                    "WHERE (r.journal, r.endpoint, r.incarnation, r.sequence, r.id) > ($1, $2, $3, $4, $5) {order}"
                ),
                key.to_vec(),
            ),
        };
        let records = archive.records(&tail, &binds).await?;
        let Some(last) = records.last() else { break };
        let columns = &last.projection;
        after = Some([
            Bind::Uuid(columns.uuids[0].unwrap_or_default()),
            Bind::Text(columns.texts[1].clone().unwrap_or_default()),
            Bind::Uuid(columns.uuids[1].unwrap_or_default()),
            Bind::Int(columns.ints[0].unwrap_or_default()),
            Bind::Uuid(last.id),
        ]);
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
