//! What a journal is told, and what it answers.

use crate::record::Hash;
use cartulary_compliance::config::QueueLimit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The time, nanoseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The system's clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// Where a journal is and what its records say of their origin.
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// Its folder, which belongs to it alone. Made if it is not there.
    pub dir: PathBuf,
    /// The pod.
    pub node: String,
    /// `namespace/name` of the XMPPCluster.
    pub cluster: String,
    /// Version that writes, for open records.
    pub software: String,
    /// Size at which a segment is closed and the next one begun.
    pub segment_bytes: u64,
    /// Limits at the start; [`super::Journal::set_limits`] changes them.
    pub limits: Limits,
    /// Pauses before a place that cannot be read is tried again; when they are used up it counts as damaged. Long enough for a
    /// volume on the network to come back.
    pub read_pauses: Vec<Duration>,
}

impl JournalOptions {
    /// Options for `dir` with the default limits.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, node: &str, cluster: &str, software: &str) -> Self {
        Self {
            dir: dir.into(),
            node: node.to_owned(),
            cluster: cluster.to_owned(),
            software: software.to_owned(),
            segment_bytes: 64 << 20,
            limits: Limits::default(),
            read_pauses: [200, 1_000, 3_000, 8_000].map(Duration::from_millis).to_vec(),
        }
    }
}

/// Limits, which may change at any time (MA-7, MA-11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all segments together.
    pub max_bytes: u64,
    /// How long confirmed segments stay, for refilling an archive that was restored from a backup.
    pub keep_confirmed: Duration,
    /// How much may wait for each endpoint; the default for those not named.
    pub queues: BTreeMap<String, QueueLimit>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 2 << 30, keep_confirmed: Duration::from_secs(3600), queues: BTreeMap::new() }
    }
}

/// A place in the journal: the end of a record, or the beginning of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// Number of the segment.
    pub segment: u64,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// A record that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The record's id.
    pub id: Uuid,
    /// Its sequence in its stream.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its end in the journal.
    pub position: Position,
}

/// Why an append was refused. Nothing of it will be acknowledged later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The endpoint's queue is full.
    #[error("the queue of endpoint {endpoint} is full: its archive has to take records before new ones fit")]
    QueueFull {
        /// The endpoint.
        endpoint: String,
    },
    /// The journal has reached its limit, or its volume is full.
    #[error("the journal is full: raise its limit or the volume's size, or bring the archive back")]
    JournalFull,
    /// One record is larger than the journal takes.
    #[error("a record of {bytes} bytes is larger than the journal takes ({limit})")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest there may be.
        limit: usize,
    },
    /// Writing or syncing failed. The file it happened to is not written again.
    #[error("the journal cannot be written: {0}")]
    Failed(String),
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("the journal in {0} is in use by another process")]
    InUse(String),
    /// The disk failed.
    #[error("the journal cannot {doing}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What happened.
        error: std::io::Error,
    },
    /// The disk gives back nothing at all, which is no damage of single records.
    #[error(
        "the journal cannot be read: its disk gives back nothing; records wait until it does. Look at the volume and at its node's log"
    )]
    Unreadable,
    /// It was written by a newer version.
    #[error("the journal's segment {segment} has format {found}: use a newer version")]
    Format {
        /// The segment.
        segment: u64,
        /// What it says.
        found: u8,
    },
    /// It was closed.
    #[error("the journal is closed")]
    Closed,
}

/// What was found when the journal was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Records found in kept segments.
    pub records: u64,
    /// Of them not yet confirmed.
    pub waiting: u64,
    /// Endpoints that have streams here.
    pub endpoints: Vec<String>,
    /// Bytes of unfinished writes that were cut off; nobody was told that they had been recorded.
    pub torn_bytes: u64,
    /// Damaged places that were put aside now.
    pub quarantined: u64,
    /// Of them, places that the disk does not give back.
    pub unreadable: u64,
    /// The key was missing or damaged and a new one was made: anchors kept of this journal name another.
    pub key_replaced: bool,
    /// Records known to be lost with them.
    pub lost: u64,
    /// What to tell people; empty when nothing is the matter.
    pub notes: Vec<String>,
}

/// How much of what an archive lost can be written again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RewindReport {
    /// Records of kept segments that will be written again.
    pub available: u64,
    /// The archive holds nothing between this and the first of them, as far as the journal knows.
    pub missing: Option<MissingRange>,
}

/// Records of a stream that no kept segment holds any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRange {
    /// Their stream's incarnation.
    pub incarnation: Uuid,
    /// First of them.
    pub first: u64,
    /// Last of them; `None` where only later streams are left.
    pub last: Option<u64>,
}
