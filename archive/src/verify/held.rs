//! What an archive holds of each stream, in few words: enough to hold anchors against it, wherever that is done.

use crate::record::StreamId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A stream as an archive holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The stream.
    pub stream: StreamId,
    /// The pod it is of, as its first record says.
    pub node: String,
    /// The XMPPCluster, as its first record says.
    pub cluster: String,
    /// Its last record here.
    pub last: u64,
    /// Whether that is a closing record.
    pub closed: bool,
    /// The stream before it, as its open record names it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub predecessor: Option<Predecessor>,
    /// What stands at the places that anchors speak of.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub marks: Vec<HeldMark>,
    /// The records that follow holes, whoever explains those: what stands before a hole is not proved by what stands after it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub resumes: Vec<u64>,
}

/// The end of the stream before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Predecessor {
    /// Its incarnation.
    pub incarnation: Uuid,
    /// Its last sequence.
    pub sequence: u64,
}

/// The record at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldMark {
    /// The place.
    pub sequence: u64,
    /// Hash of the header that is there, computed anew, hex.
    pub hash: String,
    /// The record.
    pub id: Uuid,
}
