//! What was said and what became of it, as the clients saw it: one half of what the oracle compares.

use crate::client::{Client, Received};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// To a user with a session.
    OneToOne,
    /// To everybody in a room.
    Room,
    /// To one occupant of a room.
    Private,
    /// To a user without a session.
    Offline,
    /// To somebody the sender may not talk to.
    Walled,
}

/// One message a client sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The stanza's id, used once in a transcript.
    pub id: String,
    /// How it travels.
    pub kind: Kind,
    /// Full JID of the sender.
    pub from: String,
    /// The addressee.
    pub to: String,
    /// The body.
    pub text: String,
}

/// Everything that was said and everything that came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Transcript {
    /// In the order of sending, for each sender.
    pub said: Vec<Said>,
    /// What sessions received, by full JID, in their order; bounces are not here.
    pub received: BTreeMap<String, Vec<Heard>>,
    /// Ids that came back to their sender as errors, with the condition.
    pub refused: BTreeMap<String, String>,
    /// What the sender of a refused message read, by id; absent where there was no text.
    #[serde(default)]
    pub reasons: BTreeMap<String, String>,
}

/// One message a session received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The stanza's id.
    pub id: String,
    /// Who it came from, for a room its occupant.
    pub from: String,
    /// The body.
    pub text: String,
}

impl Transcript {
    /// Says `text` as `client` and notes it; returns the id.
    pub async fn say(&mut self, client: &Client, kind: Kind, to: &str, text: &str) -> Result<String> {
        let said = Said {
            id: fresh_id(),
            kind,
            from: client.jid().to_owned(),
            to: to.to_owned(),
            text: text.to_owned(),
        };
        client.message(to, kind.stanza_type(), &said.id, text).await?;
        let id = said.id.clone();
        self.said.push(said);
        Ok(id)
    }

    /// Takes down everything `client` was given so far. Once for each client, at its end.
    pub fn hear(&mut self, client: &Client) {
        for Received { from, kind, id, body, condition, reason } in client.messages() {
            if kind == "error" {
                self.reasons.extend(reason.map(|text| (id.clone(), text)));
                self.refused.insert(id, condition.unwrap_or_default());
            } else if let Some(text) = body {
                self.received.entry(client.jid().to_owned()).or_default().push(Heard { id, from, text });
            }
        }
    }

    /// Adds what another transcript has.
    pub fn merge(&mut self, other: Self) {
        self.said.extend(other.said);
        for (jid, heard) in other.received {
            self.received.entry(jid).or_default().extend(heard);
        }
        self.refused.extend(other.refused);
        self.reasons.extend(other.reasons);
    }

    /// Ids that some session received.
    #[must_use]
    pub fn delivered(&self) -> BTreeSet<&str> {
        self.received.values().flatten().map(|heard| heard.id.as_str()).collect()
    }
}

impl Kind {
    fn stanza_type(self) -> &'static str {
        if self == Self::Room { "groupchat" } else { "chat" }
    }
}

/// An id no other message of this process has, nor of another one that runs now.
#[must_use]
pub fn fresh_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("m-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
