//! Records to write, and a PostgreSQL server of our own to write them to.

#![allow(dead_code)]

pub mod place;
pub mod postgres;

use cartulary_archive::journal::{Journal, JournalOptions, Stored, system_clock};
use cartulary_archive::record::{Accepted, ActionCode, Body, Draft, Outcome, RecipientEntry, new_event_id};
use cartulary_compliance::direction::Direction;
use cartulary_compliance::link::{Delivery, DeliveryResult, Ingress, Target};
use std::time::Duration;
use tempfile::TempDir;

/// A message from `a@example.org` to `b@example.org`.
pub fn accepted(id: &str) -> Accepted {
    Accepted {
        event: new_event_id(),
        seen_at_nanos: 1_700_000_000_123_456_789,
        ingress: Ingress::Client,
        from: "a@example.org/desk".to_owned(),
        to: Some("b@example.org".to_owned()),
        target: Target::LocalUser,
        room: None,
        message_type: "chat".to_owned(),
        stanza_id: Some(id.to_owned()),
        origin_id: None,
        host: "example.org".to_owned(),
        recipients: vec![RecipientEntry {
            bare: "b@example.org".to_owned(),
            occupant: None,
            resources: vec!["phone".to_owned(), "dés\"k".to_owned()],
            direction: Direction::Internal,
        }],
        action: ActionCode::Deliver,
        condition: None,
        session: Some("c2s1".to_owned()),
        exceptions: Vec::new(),
    }
}

/// A draft with a body.
pub fn draft(accepted: Accepted, body: &str) -> Draft {
    let stanza = format!("<message type='chat'><body>{body}</body><thread>t1</thread></message>");
    Draft { body: Body::Accepted(accepted), payloads: vec![(1, stanza.into_bytes())] }
}

/// What became of a message.
pub fn outcome(of: &Accepted) -> Draft {
    let outcome = Outcome {
        event: of.event,
        seen_at_nanos: of.seen_at_nanos + 5_000_000,
        deliveries: vec![Delivery {
            bare: "b@example.org".to_owned(),
            occupant: None,
            resources: vec!["phone".to_owned()],
            result: DeliveryResult::Delivered,
            reason: None,
        }],
        is_final: true,
    };
    Draft { body: Body::Outcome(outcome), payloads: Vec::new() }
}

/// A journal in a folder of its own.
pub struct Kept {
    pub journal: Journal,
    pub dir: TempDir,
}

impl Kept {
    pub fn open() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut options = JournalOptions::new(dir.path().join("journal"), "node-0", "test/xmpp", "test");
        options.read_pauses = vec![Duration::from_millis(1); 4];
        let (journal, _) = Journal::open(options, system_clock()).expect("a journal");
        Self { journal, dir }
    }

    /// The same journal after a restart, from now on without what is confirmed.
    pub async fn reopen_keeping_nothing(self) -> Self {
        self.journal.close().await.expect("closed");
        let mut options = JournalOptions::new(self.dir.path().join("journal"), "node-0", "test/xmpp", "test");
        options.limits.keep_confirmed = Duration::ZERO;
        let (journal, _) = Journal::open(options, system_clock()).expect("a journal");
        Self { journal, dir: self.dir }
    }

    pub async fn append(&self, drafts: Vec<Draft>) {
        self.journal.append("main", drafts).await.expect("appended");
    }

    /// Everything that waits.
    pub async fn waiting(&self) -> Vec<Stored> {
        self.journal.reader("main").try_next(10_000, u64::MAX).await.expect("read")
    }
}

/// Polls until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..1200 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("still not after a minute: {what}");
}
