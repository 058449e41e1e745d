//! Bytes of a segment: its header, and records framed so that a damaged one does not hide those after it. `docs/journal.md`.

use crate::record::{Form, Header, Payload, Record};
use uuid::Uuid;

/// Where records begin in a segment.
pub const RECORDS_AT: u64 = 128;
/// A record's frame may not be larger: a stanza and its replacement fit, garbage lengths do not.
pub const MAX_FRAME: usize = 48 << 20;
const SEGMENT_MAGIC: &[u8; 4] = b"CTJS";
const RECORD_MAGIC: &[u8; 4] = b"CTJR";
const SEGMENT_VERSION: u8 = 1;
const COPY: usize = 64;
const COPY_USED: usize = 52;
const PREFIX: usize = 20;

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number.
    pub number: u64,
    /// The journal's id.
    pub journal: Uuid,
    /// The segment it continues: everything between the two is void, and so is what that one holds from `previous_len` on.
    pub previous: u64,
    /// Valid bytes of the previous segment.
    pub previous_len: u64,
}

/// What the first bytes of a file say.
pub enum SegmentStart {
    /// A segment of ours.
    Header(SegmentHeader),
    /// A segment of a later version.
    Newer(u8),
    /// Both copies of the header are unreadable.
    Unreadable,
}

impl SegmentHeader {
    /// Its bytes: two copies, so that one damaged byte does not cost it.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(COPY);
        copy.extend_from_slice(SEGMENT_MAGIC);
        copy.extend_from_slice(&[SEGMENT_VERSION, 0, 0, 0]);
        copy.extend_from_slice(&self.number.to_be_bytes());
        copy.extend_from_slice(self.journal.as_bytes());
        copy.extend_from_slice(&self.previous.to_be_bytes());
        copy.extend_from_slice(&self.previous_len.to_be_bytes());
        copy.extend_from_slice(&crc32c::crc32c(&copy).to_be_bytes());
        copy.resize(COPY, 0);
        copy.repeat(2)
    }

    /// Reads it from the first bytes of a file.
    pub fn decode(bytes: &[u8]) -> SegmentStart {
        let mut start = SegmentStart::Unreadable;
        for copy in bytes.chunks_exact(COPY).take(2) {
            let (body, sum) = copy[..COPY_USED].split_at(COPY_USED - 4);
            if &body[..4] != SEGMENT_MAGIC || crc32c::crc32c(body).to_be_bytes() != sum {
                continue;
            }
            if body[4] != SEGMENT_VERSION {
                start = SegmentStart::Newer(body[4]);
                continue;
            }
            return SegmentStart::Header(Self {
                number: u64_at(body, 8),
                journal: Uuid::from_slice(&body[16..32]).unwrap_or_default(),
                previous: u64_at(body, 32),
                previous_len: u64_at(body, 40),
            });
        }
        start
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_be_bytes(*chunk))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |chunk| u32::from_be_bytes(*chunk))
}

/// Appends a record's frame to `out`.
pub fn frame(out: &mut Vec<u8>, header: &[u8], payloads: &[Payload]) {
    let mut body = Vec::with_capacity(payloads.iter().map(|payload| payload.bytes.len() + 32).sum());
    for payload in payloads {
        body.extend_from_slice(&[payload.number, payload.form.code()]);
        if let Form::Plain { salt } = &payload.form {
            body.extend_from_slice(salt);
        }
        body.extend_from_slice(&length(payload.bytes.len()));
        body.extend_from_slice(&payload.bytes);
    }
    let lengths = [length(header.len()), length(body.len())].concat();
    let head_sum = crc32c::crc32c_append(crc32c::crc32c(&lengths), header);
    out.extend_from_slice(RECORD_MAGIC);
    out.extend_from_slice(&lengths);
    out.extend_from_slice(&head_sum.to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
    out.extend_from_slice(header);
    out.extend_from_slice(&body);
}

// Frames over MAX_FRAME are refused before they are written; a saturated length would be found as damage.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

/// What stands at a place in a segment.
pub enum Found {
    /// A whole record, and its frame's length.
    Record(Box<Record>, usize),
    /// A frame whose header is whole and whose payloads are damaged, and its length.
    DamagedPayload(Box<Header>, usize),
    /// No record.
    Nothing,
}

/// Reads what stands at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Found {
    let Some(prefix) = bytes.first_chunk::<PREFIX>() else { return Found::Nothing };
    let (header_len, body_len) = (u32_at(prefix, 4) as usize, u32_at(prefix, 8) as usize);
    let end = PREFIX + header_len.saturating_add(body_len);
    if &prefix[..4] != RECORD_MAGIC || end > MAX_FRAME || end > bytes.len() {
        return Found::Nothing;
    }
    let (header_bytes, body) = bytes[PREFIX..end].split_at(header_len);
    if crc32c::crc32c_append(crc32c::crc32c(&prefix[4..12]), header_bytes) != u32_at(prefix, 12) {
        return Found::Nothing;
    }
    let Ok(header) = Header::decode(header_bytes) else { return Found::Nothing };
    if crc32c::crc32c(body) != u32_at(prefix, 16) {
        return Found::DamagedPayload(Box::new(header), end);
    }
    match parse_payloads(body) {
        Some(payloads) => {
            Found::Record(Box::new(Record { header_bytes: header_bytes.to_vec(), header, payloads }), end)
        }
        None => Found::DamagedPayload(Box::new(header), end),
    }
}

fn parse_payloads(mut body: &[u8]) -> Option<Vec<Payload>> {
    let mut payloads = Vec::new();
    while let Some(([number, form], rest)) = body.split_first_chunk::<2>() {
        let (form, rest) = match form {
            1 => {
                let (salt, rest) = rest.split_first_chunk::<16>()?;
                (Form::Plain { salt: *salt }, rest)
            }
            2 => (Form::Sealed, rest),
            _ => return None,
        };
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
        payloads.push(Payload { number: *number, form, bytes: bytes.to_vec() });
        body = rest;
    }
    body.is_empty().then_some(payloads)
}

/// One stretch of a segment.
pub enum Stretch {
    /// A record.
    Record(Box<Record>),
    /// A record whose payloads are damaged.
    DamagedPayload(Box<Header>),
    /// Bytes that are no record.
    Damage,
}

/// The stretches of a segment's bytes, with their offsets and lengths. Damage ends where the next whole header stands.
pub struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// Scans `bytes` from `at`.
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }
}

impl Iterator for Scan<'_> {
    type Item = (usize, usize, Stretch);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let rest = &self.bytes[start..];
        if rest.is_empty() {
            return None;
        }
        let (len, stretch) = match parse(rest) {
            Found::Record(record, len) => (len, Stretch::Record(record)),
            Found::DamagedPayload(header, len) => (len, Stretch::DamagedPayload(header)),
            Found::Nothing => (self.damage(rest), Stretch::Damage),
        };
        self.at += len;
        Some((start, len, stretch))
    }
}

impl Scan<'_> {
    fn damage(&self, rest: &[u8]) -> usize {
        let mut from = 1;
        while let Some(found) = rest.get(from..).and_then(|tail| find(tail, RECORD_MAGIC)) {
            from += found;
            if !matches!(parse(&rest[from..]), Found::Nothing) {
                return from;
            }
            from += 1;
        }
        rest.len()
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
