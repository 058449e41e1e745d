//! Said = recorded = archived, counted for each node and UTC day (EV-2).
//!
//! What was said is counted by the server's plugin, apart from where messages are asked about; its sums are tally records of the
//! streams they are about, and the last one of each day and server process counts. What is archived is counted here, by the columns
//! of the archive: whether those are true is `verify`'s to say. [`judge`] is a pure function over both.

mod judge;
mod read;

pub use judge::{Known, NodeDay, Report, judge};
pub use read::read;

use cartulary_compliance::link::Sums;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which days are counted, in days since 1970-01-01, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days {
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
}

impl Default for Days {
    /// All that microseconds since 1970 can name.
    fn default() -> Self {
        Self { first: 0, last: i64::MAX / DAY_MICROS - 1 }
    }
}

/// Microseconds of a day.
pub const DAY_MICROS: i64 = 86_400_000_000;

/// What one archive holds to be counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// The last tally of each day and process of a server.
    pub tallies: Vec<LastTally>,
    /// Messages by node and day.
    pub archived: Vec<Archived>,
    /// What gap records of these days tell.
    pub gaps: Vec<ToldGap>,
    /// Journals of which anything is there, with the endpoint.
    pub journals: Vec<(Uuid, String)>,
}

/// What one process of a server counted of a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastTally {
    /// `namespace/name` of the XMPPCluster.
    pub cluster: String,
    /// The pod.
    pub node: String,
    /// UTC day, days since 1970-01-01.
    pub day: i64,
    /// The process.
    pub instance: String,
    /// What it counted.
    pub sums: Sums,
    /// Whether it will say no more of this day.
    pub is_final: bool,
    /// When this was recorded, nanoseconds since the epoch.
    pub at_nanos: i64,
}

/// Messages that the archive holds of a node and day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Archived {
    /// `namespace/name` of the XMPPCluster.
    pub cluster: String,
    /// The pod.
    pub node: String,
    /// UTC day on which the server saw them, days since 1970-01-01.
    pub day: i64,
    /// Whether the server made them itself: these are not said by anybody.
    pub is_server_made: bool,
    /// How many.
    pub count: u64,
}

/// Something that a gap record says is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToldGap {
    /// `namespace/name` of the XMPPCluster.
    pub cluster: String,
    /// The pod.
    pub node: String,
    /// When it was recorded, nanoseconds since the epoch.
    pub at_nanos: i64,
    /// How many records or messages.
    pub count: u64,
    /// Whether they are numbered records; messages otherwise.
    pub is_records: bool,
    /// Why.
    pub reason: String,
}

/// A day as `YYYY-MM-DD`.
#[must_use]
pub fn day_text(day: i64) -> String {
    let seconds = day.saturating_mul(86_400);
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::UTC).date().to_string(),
        Err(_) => format!("day {day}"),
    }
}
