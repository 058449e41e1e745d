//! Which server had a conversation last, so that a move is counted (FH-3). Hashes only, and bounded: the oldest are forgotten.

use cartulary_compliance::derive::Key;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Conversations remembered in each of two generations.
const GENERATION: usize = 50_000;

/// The last server of each conversation of late.
#[derive(Default)]
pub struct Moved {
    hasher: RandomState,
    young: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
}

impl Moved {
    /// Notes that `server` has this conversation of a profile. True when another one had it before.
    pub fn note(&mut self, profile: &str, key: &Key, server: &str) -> bool {
        let conversation = self.hasher.hash_one((profile, key));
        let server = self.hasher.hash_one(server);
        let former = self.young.insert(conversation, server);
        let former = former.or_else(|| self.old.remove(&conversation));
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        former.is_some_and(|former| former != server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fh_3_a_conversation_that_moves_is_counted_once_and_memory_is_bounded() {
        let mut moved = Moved::default();
        let key = Key::of("room");
        assert!(!moved.note("p", &key, "a"));
        assert!(!moved.note("p", &key, "a"));
        assert!(!moved.note("q", &key, "b"), "another profile has its own server");
        assert!(moved.note("p", &key, "b"));
        assert!(!moved.note("p", &key, "b"));
        for n in 0..3 * GENERATION {
            moved.note("p", &Key::of(&n.to_string()), "a");
        }
        assert!(moved.young.len() + moved.old.len() <= 2 * GENERATION);
        assert!(!moved.note("p", &key, "a"), "it was forgotten");
    }
}
