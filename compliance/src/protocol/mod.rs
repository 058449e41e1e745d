//! What is said between sidecar and compliance server, as `docs/event-protocol.md` specifies it (CS-4, PR-8, PR-9).
//!
//! Values only, and their XML. Invariants: what a server answers is checked against what it was asked before anybody acts on it;
//! no answer changes who a stanza is from or to.

mod answer;
#[cfg(test)]
mod laws;
mod question;
mod stamp;

use crate::events::{Event, Packet};
use crate::link::{Bounce, Ingress, Recipient};
use crate::xml::{self, XmlError};
use minidom::Element;
use std::fmt;
use std::sync::Arc;

/// The namespace of questions and answers; its number is the protocol's version.
pub const NAMESPACE: &str = "urn:cartulary:compliance:1";
/// How deep a stanza may be nested that is put into a question or an answer.
pub const MAX_DEPTH: usize = 256;
const FORWARD: &str = "urn:xmpp:forward:0";

/// A stanza of a question, shared by all that ask about it.
pub struct Stanza {
    text: String,
}

impl Stanza {
    /// A stanza from its text; its namespace may be left out.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { text: text.into() })
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its tree, in the namespace `jabber:client`. Made anew each time: one that is kept while thousands of questions wait takes several times the memory
    /// that is counted for them (P6).
    pub fn element(&self) -> Result<Element, QuestionError> {
        xml::tree(&self.text, MAX_DEPTH).map_err(|error| match error {
            XmlError::TooDeep => QuestionError::TooDeep,
            XmlError::Malformed(_) => QuestionError::Malformed,
        })
    }
}

impl PartialEq for Stanza {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Stanza {}

// What people write to each other is never printed (P8).
impl fmt::Debug for Stanza {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stanza({} bytes)", self.text.len())
    }
}

/// Why nobody can be asked about a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// It is nested deeper than 256 elements.
    #[error("the stanza is nested deeper than 256 elements")]
    TooDeep,
    /// It is no stanza.
    #[error("the stanza cannot be read as XML")]
    Malformed,
}

/// Why an answer cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is none. Why; never a part of it.
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
    /// It is one that the event does not admit (PR-9).
    #[error("the event admits PASS alone")]
    NotAdmitted,
}

/// An event as a compliance server is asked about it or told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What happens.
    pub event: &'static Event,
    /// What kind of packet it is about.
    pub packet: Packet,
    /// The profile that sends it there.
    pub profile: String,
    /// The stanza's id, the same in all questions about it: a UUID.
    pub event_id: [u8; 16],
    /// The pod it happens on.
    pub node: String,
    /// When the server saw it, microseconds since the epoch.
    pub seen_at_micros: i64,
    /// Whether an answer is awaited; else it is told.
    pub awaited: bool,
    /// It happened while the server was away (FH-8).
    pub missed: bool,
    /// The stanza, as the servers before have left it. Shared by all questions about it, so that it is read once.
    pub stanza: Arc<Stanza>,
    /// Where it came in.
    pub ingress: Ingress,
    /// The sender, as the XMPP server authenticated it.
    pub from: String,
    /// The sender's session or stream, its address, and whether that is encrypted.
    pub session: Option<String>,
    /// The client's address.
    pub address: Option<String>,
    /// Whether its stream is encrypted.
    pub secure: bool,
    /// The SASL mechanism, where it is known.
    pub mechanism: Option<String>,
    /// The room, for what happens in one.
    pub room: Option<String>,
    /// Who would get it, or is in the room.
    pub recipients: Arc<[Recipient]>,
    /// Why, for what is told.
    pub reason: Option<String>,
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// PASS: it goes on, `stanza` in its place where there is one, and otherwise for the recipients named.
    Pass {
        /// The changed stanza, with the original's addresses and its namespace declared; `None` where it came back as it was. To
        /// `e_PRISESSION`: a presence whose `from` is a full JID of the account, the session that gets what is sent to it.
        stanza: Option<String>,
        /// Who is treated otherwise.
        exceptions: Vec<Except>,
    },
    /// HANDLE: the server has dealt with it, it goes no further.
    Handle,
    /// An error for whoever sent it; what becomes of it is the profile's handling.
    Error(Bounce),
}

/// What a server answered about one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Except {
    /// A bare JID of the question's recipients, or a full one of their sessions.
    pub recipient: String,
    /// What becomes of that copy.
    pub action: ExceptAction,
}

/// What becomes of one recipient's copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExceptAction {
    /// It is withheld without a word.
    Withhold,
    /// It is withheld and the sender gets an error.
    Refuse(Bounce),
    /// This takes its place.
    Replace(String),
}
