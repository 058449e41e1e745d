//! Events of late: their ids, so that none is used twice, and, while their outcome may still come, which stream they are in and
//! which copies their record names.
//!
//! Bounded: the oldest are forgotten first. An outcome of a forgotten event is still recorded, in the node's current stream.

use cartulary_compliance::decision::Scope;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

/// How many are remembered; some 30 MB.
const CAPACITY: usize = 100_000;

/// What is remembered of an event whose outcome may still come.
#[derive(Debug, Clone)]
pub struct OpenEvent {
    /// The endpoint its accepted record went to; its outcomes belong into the same stream.
    pub endpoint: Arc<str>,
    /// The directions that were recorded.
    pub scope: Scope,
    /// The process of the server that asked.
    pub instance: Arc<str>,
    /// The addressee's bare JID: the recipient, or the room.
    pub addressee: String,
}

/// The events remembered.
#[derive(Debug, Default)]
pub struct OpenEvents {
    /// `None`: only the id, which is taken.
    events: HashMap<Uuid, Option<OpenEvent>>,
    /// In the order in which they came.
    order: VecDeque<Uuid>,
}

impl OpenEvents {
    /// Takes an id for an event. False when another event had it of late.
    pub fn take(&mut self, id: Uuid) -> bool {
        if self.events.contains_key(&id) {
            return false;
        }
        if self.order.len() == CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.events.remove(&oldest);
        }
        self.order.push_back(id);
        self.events.insert(id, None);
        true
    }

    /// The outcome of the event that took this id is awaited.
    pub fn await_outcome(&mut self, id: Uuid, event: OpenEvent) {
        if let Some(known) = self.events.get_mut(&id) {
            *known = Some(event);
        }
    }

    /// No outcome of it is awaited: it is not on record.
    pub fn give_up(&mut self, id: Uuid) {
        self.outcome(id, true);
    }

    /// What is remembered of an event; no more after this if this was the last word.
    pub fn outcome(&mut self, id: Uuid, is_final: bool) -> Option<OpenEvent> {
        let known = self.events.get_mut(&id)?;
        if is_final { known.take() } else { known.clone() }
    }

    /// Open events of every process of the server but this one, in the order in which they came; nothing more is awaited of them.
    pub fn end_others(&mut self, instance: &str) -> Vec<(Uuid, OpenEvent)> {
        let mut ended = Vec::new();
        for id in &self.order {
            let Some(known) = self.events.get_mut(id) else { continue };
            if let Some(event) = known.take_if(|event| *event.instance != *instance) {
                ended.push((*id, event));
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(instance: &str) -> OpenEvent {
        let scope = Scope { inbound: true, outbound: true, sender_is_ours: true };
        OpenEvent {
            endpoint: "main".into(),
            scope,
            instance: instance.into(),
            addressee: "juliet@here.example".into(),
        }
    }

    fn id(n: usize) -> Uuid {
        Uuid::from_u128(n as u128)
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let mut open = OpenEvents::default();
        for n in 0..CAPACITY + 10 {
            assert!(open.take(id(n)));
            open.await_outcome(id(n), event("first"));
        }
        assert!(open.events.len() == CAPACITY && open.order.len() == CAPACITY);
        assert!(open.outcome(id(9), false).is_none());
        assert!(open.outcome(id(10), false).is_some());
        assert!(open.outcome(id(10), true).is_some());
        assert!(open.outcome(id(10), true).is_none());
        assert!(!open.take(id(10)), "its id stays taken");
    }

    #[test]
    fn what_another_process_asked_is_ended_once_and_only_that() {
        let mut open = OpenEvents::default();
        for (n, instance) in ["first", "second", "first", "first"].into_iter().enumerate() {
            assert!(open.take(id(n)));
            open.await_outcome(id(n), event(instance));
        }
        open.give_up(id(3));
        let ended: Vec<_> = open.end_others("second").into_iter().map(|(id, _)| id).collect();
        assert_eq!(ended, [id(0), id(2)]);
        assert!(open.end_others("second").is_empty());
        assert!(open.outcome(id(1), true).is_some());
    }
}
