//! Frames: `length:u32 kind:u8 id:u64 field*`.

use super::{Count, DecodeError, Event, Fields, Hello, Notice, Outcome, Settings, Verdict, Welcome};
use std::fmt;

/// The least a frame's length may say: kind and id.
pub const MIN_FRAME: usize = 9;
/// The most a frame's length may say (16 MiB): above every server's stanza limit, escaping included.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is a row of the table in docs/event-link.md
pub enum Kind {
    Hello,
    Event,
    Outcome,
    Notice,
    SnapshotEnd,
    Count,
    Welcome,
    Verdict,
    Settings,
}

impl Kind {
    const ALL: [(u8, Self); 9] = [
        (0x01, Self::Hello),
        (0x02, Self::Event),
        (0x03, Self::Outcome),
        (0x04, Self::Notice),
        (0x05, Self::SnapshotEnd),
        (0x06, Self::Count),
        (0x81, Self::Welcome),
        (0x82, Self::Verdict),
        (0x83, Self::Settings),
    ];

    /// The kind with this code, if this version knows one.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|(c, _)| *c == code).map(|(_, kind)| *kind)
    }

    /// The highest tag this version knows in a frame of this kind; those below are all taken.
    fn last_tag(self) -> u16 {
        match self {
            Self::Hello => 8,
            Self::Verdict => 9,
            Self::Event => 16,
            Self::Outcome => 4,
            Self::Settings => 5,
            Self::Notice => 12,
            Self::Count => 10,
            Self::SnapshotEnd => 0,
            Self::Welcome => 3,
        }
    }

    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or(0, |(code, _)| *code)
    }
}

/// The stream of bytes has no frame where one must begin; the connection has to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameError {
    /// The length that was read.
    pub length: u32,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a frame says it has {} bytes; {MIN_FRAME} to {MAX_FRAME} are possible", self.length)
    }
}

impl std::error::Error for FrameError {}

/// A frame with its message decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Frame {
    Hello(Hello),
    Event(u64, Event),
    Outcome(Outcome),
    Notice(Notice),
    SnapshotEnd,
    Count(Count),
    Welcome(Welcome),
    Verdict(u64, Verdict),
    Settings(Settings),
}

/// A frame cut out of the stream, its fields not yet read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFrame<'a> {
    /// The kind's code as it came.
    pub code: u8,
    /// The frame's id.
    pub id: u64,
    /// The fields.
    pub fields: &'a [u8],
    /// Bytes of the stream that this frame takes, its length included.
    pub taken: usize,
}

impl RawFrame<'_> {
    /// How many of the frame's fields this version skips. Fields inside nested values are not looked at.
    #[must_use]
    pub fn unknown_tags(&self) -> usize {
        let last = Kind::from_code(self.code).map_or(u16::MAX, Kind::last_tag);
        Fields::new(self.fields).flatten().filter(|field| field.tag == 0 || field.tag > last).count()
    }
}

impl Frame {
    /// Cuts the first frame out of `stream`; `None` while it is not whole.
    pub fn cut(stream: &[u8]) -> Result<Option<RawFrame<'_>>, FrameError> {
        let Some((head, rest)) = stream.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head);
        let size = length as usize;
        if !(MIN_FRAME..=MAX_FRAME).contains(&size) {
            return Err(FrameError { length });
        }
        let Some(body) = rest.get(..size) else { return Ok(None) };
        let Some((&[code, a, b, c, d, e, f, g, h], fields)) = body.split_first_chunk::<9>() else {
            return Err(FrameError { length });
        };
        let id = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Ok(Some(RawFrame { code, id, fields, taken: size + 4 }))
    }

    /// Reads a frame's message; `None` for a kind this version does not know.
    pub fn decode_payload(raw: RawFrame<'_>) -> Result<Option<Self>, DecodeError> {
        let Some(kind) = Kind::from_code(raw.code) else { return Ok(None) };
        Ok(Some(match kind {
            Kind::Hello => Self::Hello(Hello::decode(raw.fields)?),
            Kind::Event => Self::Event(raw.id, Event::decode(raw.fields)?),
            Kind::Outcome => Self::Outcome(Outcome::decode(raw.fields)?),
            Kind::Notice => Self::Notice(Notice::decode(raw.fields)?),
            Kind::SnapshotEnd => Self::SnapshotEnd,
            Kind::Count => Self::Count(Count::decode(raw.fields)?),
            Kind::Welcome => Self::Welcome(Welcome::decode(raw.fields)?),
            Kind::Verdict => Self::Verdict(raw.id, Verdict::decode(raw.fields)?),
            Kind::Settings => Self::Settings(Settings::decode(raw.fields)?),
        }))
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, id, fields) = match self {
            Self::Hello(m) => (Kind::Hello, 0, m.encode()),
            Self::Event(id, m) => (Kind::Event, *id, m.encode()),
            Self::Outcome(m) => (Kind::Outcome, 0, m.encode()),
            Self::Notice(m) => (Kind::Notice, 0, m.encode()),
            Self::SnapshotEnd => (Kind::SnapshotEnd, 0, Vec::new()),
            Self::Count(m) => (Kind::Count, 0, m.encode()),
            Self::Welcome(m) => (Kind::Welcome, 0, m.encode()),
            Self::Verdict(id, m) => (Kind::Verdict, *id, m.encode()),
            Self::Settings(m) => (Kind::Settings, 0, m.encode()),
        };
        let length = u32::try_from(fields.len() + MIN_FRAME).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.push(kind.code());
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&fields);
    }
}
