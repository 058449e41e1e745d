//! The journal against a disk that forgets: `schedules` runs random ones, `laws` the ones that are worth a name.

mod laws;
mod schedules;
mod simdisk;

use super::state::Shared;
use super::writer::{Answer, Request, Writer};
use super::{Clock, JournalOptions, Position, Recovery, Stored, open_on};
use crate::record::{Accepted, ActionCode, Body, Draft, new_event_id};
use cartulary_compliance::link::{Ingress, Target};
use simdisk::SimDisk;
use std::sync::Arc;

/// A message whose body says which one it is.
pub fn draft(text: &str) -> Draft {
    let accepted = Accepted {
        event: new_event_id(),
        seen_at_nanos: 1,
        ingress: Ingress::Client,
        from: "a@example.org/x".to_owned(),
        to: Some("b@example.org".to_owned()),
        target: Target::LocalUser,
        room: None,
        message_type: "chat".to_owned(),
        stanza_id: Some(text.to_owned()),
        origin_id: None,
        host: "example.org".to_owned(),
        recipients: Vec::new(),
        action: ActionCode::Deliver,
        condition: None,
        session: None,
        exceptions: Vec::new(),
    };
    Draft {
        body: Body::Accepted(accepted),
        payloads: vec![(1, format!("<message>{text}</message>").into_bytes())],
    }
}

/// The text [`draft`] was made with.
pub fn text_of(stored: &Stored) -> Option<&str> {
    match &stored.record.header.content {
        crate::record::Content::Body(Body::Accepted(accepted)) => accepted.stanza_id.as_deref(),
        _ => None,
    }
}

/// A journal without its thread.
pub struct Bench {
    pub shared: Arc<Shared>,
    pub writer: Writer,
    pub recovery: Recovery,
}

pub fn options() -> JournalOptions {
    let mut options = JournalOptions::new("/unused", "node-0", "test/xmpp", "test");
    options.segment_bytes = 4096;
    // As many attempts as elsewhere, without waiting.
    options.read_pauses = vec![std::time::Duration::ZERO; 4];
    options
}

impl Bench {
    pub fn open(disk: &Arc<SimDisk>, options: JournalOptions) -> Result<Self, super::JournalError> {
        let disk = Arc::clone(disk);
        let clock: Clock = {
            let disk = Arc::clone(&disk);
            Arc::new(move || disk.now())
        };
        let (shared, writer, recovery) = open_on(disk, options, clock)?;
        Ok(Self { shared, writer, recovery })
    }

    pub fn append(&mut self, endpoint: &str, texts: &[&str]) -> Answer {
        let drafts = texts.iter().map(|text| draft(text)).collect();
        let request = Request { endpoint: endpoint.to_owned(), drafts };
        self.writer.commit(vec![request]).pop().expect("one answer for one request")
    }

    /// Everything that waits for an endpoint.
    pub fn waiting(&self, endpoint: &str) -> Vec<Stored> {
        let from = self.shared.state().endpoints.get(endpoint).map(|queue| queue.cursor.position);
        self.read(endpoint, from.unwrap_or_default())
    }

    pub fn read(&self, endpoint: &str, mut from: Position) -> Vec<Stored> {
        let mut all = Vec::new();
        loop {
            let batch = self.shared.read(endpoint, from, 7, 2000).expect("the disk can be read");
            assert!(batch.bad.is_none(), "nothing is damaged between recovery and reading");
            if batch.next == from {
                return all;
            }
            from = batch.next;
            all.extend(batch.records);
        }
    }

    pub fn waiting_texts(&self, endpoint: &str) -> Vec<String> {
        self.waiting(endpoint).iter().filter_map(text_of).map(str::to_owned).collect()
    }
}
