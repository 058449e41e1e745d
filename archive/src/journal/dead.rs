//! Records that an endpoint refused alone: kept in files of their own until somebody has them tried again.

use super::JournalError;
use super::disk;
use super::format::{Found, frame, parse};
use super::recover::dead_prefix;
use super::state::Shared;
use crate::record::Record;
use serde::Serialize;
use std::io;
use uuid::Uuid;

const MAGIC: &[u8; 4] = b"CTJD";

/// A record kept aside.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// The record.
    pub record: Record,
    /// Why the endpoint refused it.
    pub reason: String,
    /// When, nanoseconds since the epoch.
    pub at_nanos: i64,
}

/// A dead letter without its content, for lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterEntry {
    /// The record's id.
    pub id: Uuid,
    /// Its stream's incarnation.
    pub incarnation: Uuid,
    /// Its sequence.
    pub sequence: u64,
    /// Why the endpoint refused it.
    pub reason: String,
    /// When, nanoseconds since the epoch.
    pub at_nanos: i64,
}

impl From<&DeadLetter> for DeadLetterEntry {
    fn from(letter: &DeadLetter) -> Self {
        let header = &letter.record.header;
        Self {
            id: header.id,
            incarnation: header.stream.incarnation,
            sequence: header.sequence,
            reason: letter.reason.clone(),
            at_nanos: letter.at_nanos,
        }
    }
}

impl Shared {
    /// Keeps a record aside, durably.
    pub fn bury(&self, endpoint: &str, record: &Record, reason: &str) -> Result<(), JournalError> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.now().to_be_bytes());
        out.extend_from_slice(&u32::try_from(reason.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(reason.as_bytes());
        frame(&mut out, &record.header_bytes, &record.payloads);
        let name = dead_name(endpoint, record.header.id);
        let is_new = !self.is_buried(endpoint, record.header.id);
        disk::replace(&*self.disk, &name, &out)
            .map_err(|error| JournalError::Io { doing: "keep a refused record", error })?;
        let mut state = self.state();
        let queue = state.endpoints.entry(endpoint.to_owned()).or_default();
        queue.dead_letters += u64::from(is_new);
        queue.refused = Some((record.header.stream.incarnation, record.header.sequence));
        Ok(())
    }

    /// Whether a record is kept aside already.
    pub fn is_buried(&self, endpoint: &str, id: Uuid) -> bool {
        self.disk.open(&dead_name(endpoint, id)).is_ok()
    }

    /// Names of an endpoint's dead letters, oldest record first.
    pub fn dead_names(&self, endpoint: &str) -> Result<Vec<String>, JournalError> {
        let prefix = dead_prefix(endpoint);
        let names = self.disk.list().map_err(|error| JournalError::Io { doing: "list its folder", error })?;
        let mut names: Vec<_> =
            names.into_iter().filter(|name| name.starts_with(&prefix) && !name.ends_with(".new")).collect();
        names.sort();
        Ok(names)
    }

    /// Reads a dead letter; `None` if it is gone or damaged.
    pub fn dead_letter(&self, name: &str) -> Result<Option<DeadLetter>, JournalError> {
        match self.disk.open(name).and_then(|file| disk::read(&*file, 0, u64::MAX)) {
            Ok(bytes) => Ok(decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(JournalError::Io { doing: "read a refused record", error }),
        }
    }

    /// Removes a dead letter that its endpoint took after all.
    pub fn raise(&self, endpoint: &str, name: &str) -> Result<(), JournalError> {
        self.disk
            .remove(name)
            .and_then(|()| self.disk.sync_dir())
            .map_err(|error| JournalError::Io { doing: "remove a refused record", error })?;
        if let Some(queue) = self.state().endpoints.get_mut(endpoint) {
            queue.dead_letters = queue.dead_letters.saturating_sub(1);
        }
        Ok(())
    }
}

fn dead_name(endpoint: &str, id: Uuid) -> String {
    format!("{}{id}", dead_prefix(endpoint))
}

fn decode(bytes: &[u8]) -> Option<DeadLetter> {
    let (at, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (reason, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
    let Found::Record(record, _) = parse(rest) else { return None };
    Some(DeadLetter {
        record: *record,
        reason: String::from_utf8_lossy(reason).into_owned(),
        at_nanos: i64::from_be_bytes(*at),
    })
}
