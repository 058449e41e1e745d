//! The record: one header, kept verbatim and hashed, and its payloads. `docs/record.md` is the specification.
//!
//! Invariants: what [`Header::encode`] writes is the only way to write that header; what [`Header::decode`] accepts encodes to
//! the same bytes unless a nested value held tags this version does not know. Nothing here knows files or databases.

mod codec;
mod ids;
mod payload;

pub use codec::HeaderError;
pub use ids::{Ids, new_event_id};
pub use payload::{Form, Payload, PayloadRef};

use cartulary_compliance::direction::Direction;
use cartulary_compliance::link::{Delivery, Ingress, Recipient, Sums, Target};
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// SHA-256 of a header's bytes.
pub type Hash = [u8; 32];

/// What the caller knows of a record; the journal adds identity, stream, times of its own and commitments.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// What happened.
    pub body: Body,
    /// Payloads by number: 1 the stanza as it came, 2 the form that was delivered, only where it differs.
    pub payloads: Vec<(u8, Vec<u8>)>,
}

/// What a caller may record.
// Nearly every record is the large one; a box would cost each of them an allocation.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A stanza that was asked about, and what was answered.
    Accepted(Accepted),
    /// What became of an event.
    Outcome(Outcome),
    /// Something that should be in the stream and is not.
    Gap(Gap),
    /// How many messages came in on a day.
    Tally(Tally),
    /// A login or logout that a compliance server has not seen.
    Missed(Missed),
}

/// A stanza at an ingress.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The event's id, as the verdict names it.
    pub event: Uuid,
    /// When the server saw it, nanoseconds since the epoch.
    pub seen_at_nanos: i64,
    /// Where it entered.
    pub ingress: Ingress,
    /// The sender, as the server authenticated it.
    pub from: String,
    /// The addressee; absent for the sender's own account.
    pub to: Option<String>,
    /// What the addressee is.
    pub target: Target,
    /// The room, for targets in one.
    pub room: Option<String>,
    /// `type` of the message.
    pub message_type: String,
    /// `id` attribute.
    pub stanza_id: Option<String>,
    /// `<origin-id/>` (XEP-0359).
    pub origin_id: Option<String>,
    /// The host that took it in.
    pub host: String,
    /// Who is meant to get it.
    pub recipients: Vec<RecipientEntry>,
    /// What was answered.
    pub action: ActionCode,
    /// Error condition of a bounce.
    pub condition: Option<String>,
    /// The server's id of the session or stream.
    pub session: Option<String>,
    /// Recipients for whom something else was answered.
    pub exceptions: Vec<ExceptionEntry>,
}

/// One intended recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientEntry {
    /// The real bare JID.
    pub bare: String,
    /// The occupant JID, in a room.
    pub occupant: Option<String>,
    /// Resources of the sessions that would get it.
    pub resources: Vec<String>,
    /// Which way this copy goes.
    pub direction: Direction,
}

impl RecipientEntry {
    /// The recipient of an event, with the direction that was found for it.
    #[must_use]
    pub fn new(recipient: Recipient, direction: Direction) -> Self {
        let Recipient { bare, occupant, resources } = recipient;
        Self { bare, occupant, resources, direction }
    }
}

/// What was answered, without the texts that go with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActionCode {
    /// It went on as it was.
    Deliver,
    /// Payload 2 went on in its place.
    Replace,
    /// It ended without a word.
    Drop,
    /// It ended with an error for its sender.
    Bounce,
}

impl ActionCode {
    const ALL: [Self; 4] = [Self::Deliver, Self::Replace, Self::Drop, Self::Bounce];

    /// The code, on the wire and in records.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The action with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The word shown to people and kept in archive columns.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Deliver => "deliver",
            Self::Replace => "replace",
            Self::Drop => "drop",
            Self::Bounce => "bounce",
        }
    }
}

/// What was answered for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExceptionEntry {
    /// Bare JID, or full JID, which wins.
    pub recipient: String,
    /// What was answered.
    pub action: ActionCode,
    /// Error condition of a bounce.
    pub condition: Option<String>,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The event.
    pub event: Uuid,
    /// When it happened, nanoseconds since the epoch.
    pub seen_at_nanos: i64,
    /// For each recipient.
    pub deliveries: Vec<Delivery>,
    /// Nothing more follows for this event.
    pub is_final: bool,
}

/// Records or messages that are missing from a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// First missing sequence, where numbered records were lost.
    pub first: Option<u64>,
    /// How many are missing.
    pub count: u64,
    /// Why.
    pub reason: GapReason,
    /// The incarnation whose sequences are missing, where it is not this stream's own.
    pub incarnation: Option<Uuid>,
}

/// What the server's plugin counted of a day (EV-2): sums, so that the last record of each day and process counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// UTC day, days since 1970-01-01.
    pub day: u32,
    /// The process of the server that counted.
    pub instance: String,
    /// The sums since that process started.
    pub sums: Sums,
    /// Nothing more follows for this day and process.
    pub is_final: bool,
}

/// A login or logout that a compliance server has not seen (FH-8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// When it happened, nanoseconds since the epoch.
    pub seen_at_nanos: i64,
    /// The session.
    pub jid: String,
    /// The event's name: `e_SESSION` or `es_END`.
    pub event: String,
    /// The server that should have seen it.
    pub server: String,
    /// The profile that has the event.
    pub profile: String,
}

/// Why something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// Recovery found bytes that are no record and put them aside.
    Quarantined,
    /// The endpoint refused the record; it is among the dead letters.
    Rejected,
    /// Too much was waiting.
    QueueFull,
    /// The journal could not be written.
    JournalFailed,
    /// The server plugin had no link and delivered alone.
    NoLink,
}

impl GapReason {
    const ALL: [Self; 5] =
        [Self::Quarantined, Self::Rejected, Self::QueueFull, Self::JournalFailed, Self::NoLink];

    /// The word in records.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Quarantined => "quarantined",
            Self::Rejected => "rejected",
            Self::QueueFull => "queue-full",
            Self::JournalFailed => "journal-failed",
            Self::NoLink => "no-link",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }
}

/// The first record of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The last record of the stream before it; absent in a journal's first.
    pub predecessor: Option<StreamEnd>,
    /// Version that writes the stream.
    pub software: String,
}

/// The last record of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamEnd {
    /// Its incarnation.
    pub incarnation: Uuid,
    /// Its last sequence.
    pub sequence: u64,
    /// Hash of that record.
    pub hash: Hash,
}

/// What a record of any kind says.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A stream begins.
    Open(Open),
    /// What callers record.
    Body(Body),
    /// A stream ends.
    Close,
}

/// Kinds of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    /// A stream begins.
    Open = 1,
    /// A stanza at an ingress.
    Accepted = 2,
    /// What became of it.
    Outcome = 3,
    /// Something is missing.
    Gap = 4,
    /// A stream ends.
    Close = 5,
    /// How many messages came in.
    Tally = 6,
    /// A compliance server has not seen something.
    Missed = 7,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Open, Self::Accepted, Self::Outcome, Self::Gap, Self::Close, Self::Tally, Self::Missed];

    /// The code in records.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The word shown to people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Accepted => "accepted",
            Self::Outcome => "outcome",
            Self::Gap => "gap",
            Self::Close => "close",
            Self::Tally => "tally",
            Self::Missed => "missed",
        }
    }
}

/// One journal, one incarnation, one endpoint: sequence and previous hash run in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamId {
    /// Made when the journal's folder was first used.
    pub journal: Uuid,
    /// The endpoint's name.
    pub endpoint: String,
    /// New at each start of the sidecar.
    pub incarnation: Uuid,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "journal {}, endpoint {}, incarnation {}", self.journal, self.endpoint, self.incarnation)
    }
}

/// A record's header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// UUIDv7, ascending within a stream.
    pub id: Uuid,
    /// The stream it is in.
    pub stream: StreamId,
    /// 0 for the open record, then +1.
    pub sequence: u64,
    /// Hash of the record before it in the stream; zeros in an open record.
    pub previous: Hash,
    /// When the sidecar wrote it, nanoseconds since the epoch.
    pub recorded_at_nanos: i64,
    /// The pod.
    pub node: String,
    /// `namespace/name` of the XMPPCluster.
    pub cluster: String,
    /// What it says.
    pub content: Content,
    /// Key id, where a payload is sealed.
    pub key: Option<String>,
    /// The key's salt, where a payload is sealed.
    pub key_salt: Option<[u8; 32]>,
    /// Commitments to the payloads.
    pub payloads: Vec<PayloadRef>,
    /// Top-level fields this version does not know, kept so that the header can be written again.
    pub unknown: Vec<(u16, Vec<u8>)>,
}

impl Header {
    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.content {
            Content::Open(_) => Kind::Open,
            Content::Body(Body::Accepted(_)) => Kind::Accepted,
            Content::Body(Body::Outcome(_)) => Kind::Outcome,
            Content::Body(Body::Gap(_)) => Kind::Gap,
            Content::Body(Body::Tally(_)) => Kind::Tally,
            Content::Body(Body::Missed(_)) => Kind::Missed,
            Content::Close => Kind::Close,
        }
    }

    /// The event it belongs to.
    #[must_use]
    pub fn event(&self) -> Option<Uuid> {
        match &self.content {
            Content::Body(Body::Accepted(accepted)) => Some(accepted.event),
            Content::Body(Body::Outcome(outcome)) => Some(outcome.event),
            _ => None,
        }
    }
}

/// The hash of a record: SHA-256 of its header's bytes.
#[must_use]
pub fn hash(header: &[u8]) -> Hash {
    use sha2::Digest;
    sha2::Sha256::digest(header).into()
}

/// A record as it is kept: the header's bytes verbatim, what they say, and the payloads.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The header's bytes.
    pub header_bytes: Vec<u8>,
    /// What they say.
    pub header: Header,
    /// The payloads.
    pub payloads: Vec<Payload>,
}

impl Record {
    /// Its hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        hash(&self.header_bytes)
    }
}
