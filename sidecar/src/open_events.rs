//! Events that were recorded and whose outcome may still come: which stream they are in, and which copies their record names.
//!
//! Bounded: the oldest are forgotten first. An outcome of a forgotten event is still recorded, in the node's current stream.

use cartulary_compliance::decision::Scope;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use uuid::Uuid;

/// How many are remembered; some 15 MB.
const CAPACITY: usize = 100_000;

/// What is remembered of an event.
#[derive(Debug, Clone)]
pub struct OpenEvent {
    /// The endpoint its accepted record went to; its outcomes belong into the same stream.
    pub endpoint: Arc<str>,
    /// The directions that were recorded.
    pub scope: Scope,
}

/// The events remembered.
#[derive(Debug, Default)]
pub struct OpenEvents {
    events: HashMap<Uuid, OpenEvent>,
    /// In the order in which they came; also those that were closed since.
    order: VecDeque<Uuid>,
}

impl OpenEvents {
    /// Remembers an event.
    pub fn insert(&mut self, id: Uuid, event: OpenEvent) {
        if self.order.len() == CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.events.remove(&oldest);
        }
        self.order.push_back(id);
        self.events.insert(id, event);
    }

    /// What is remembered of an event; forgotten with it if this was the last word.
    pub fn outcome(&mut self, id: Uuid, is_final: bool) -> Option<OpenEvent> {
        if is_final { self.events.remove(&id) } else { self.events.get(&id).cloned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let scope = Scope { inbound: true, outbound: true, sender_is_ours: true };
        let event = OpenEvent { endpoint: "main".into(), scope };
        let mut open = OpenEvents::default();
        let id = |n: usize| Uuid::from_u128(n as u128);
        for n in 0..CAPACITY + 10 {
            open.insert(id(n), event.clone());
        }
        assert!(open.events.len() == CAPACITY && open.order.len() == CAPACITY);
        assert!(open.outcome(id(9), false).is_none());
        assert!(open.outcome(id(10), true).is_some());
        assert!(open.outcome(id(10), true).is_none());
    }
}
