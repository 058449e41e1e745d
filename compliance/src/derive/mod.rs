//! The events that a stanza at an ingress will cause, in order, and those that a notice tells of (PR-7, PR-10, PR-11); in which lane a stanza is
//! decided, and what the plugin has to ask about for all that.
//!
//! Pure. A stanza that cannot be read causes those events alone that follow from its addressee. Not here: which profiles are asked
//! (`chain`), and which of their servers (`balance`).

mod asking;
mod glance;
#[cfg(test)]
mod laws;
mod notices;
mod stanza;

pub use asking::ask_about;
#[cfg(test)]
pub(crate) use asking::caused_packets;
pub(crate) use asking::{is_anybody_asked, is_refused_undecided};
pub use notices::{stats, told};
pub use stanza::{lane, occurrences};

use crate::events::{Event, Packet};
use crate::link::Recipient;
use std::sync::Arc;

/// What events are balanced by: an unordered pair of bare JIDs, a room, or one bare JID (PR-5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// A conversation of two, whoever speaks.
    #[must_use]
    pub fn pair(one: &str, other: &str) -> Self {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        // A JID holds no line break.
        Self(format!("{first}\n{second}"))
    }

    /// A room, or what concerns one account.
    #[must_use]
    pub fn of(jid: &str) -> Self {
        Self(jid.to_owned())
    }

    /// The text that is hashed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One event of a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// What happens.
    pub event: &'static Event,
    /// What kind of packet it is about.
    pub packet: Packet,
    /// What it is balanced by.
    pub key: Key,
    /// Who would get the stanza, or is in the room: whom answers may except.
    pub recipients: Arc<[Recipient]>,
}
