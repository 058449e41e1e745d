//! Which server of a profile gets an event (PR-5): rendezvous hashing of the event's key with the servers' names.
//!
//! A server's weight for a key is the first eight bytes, big-endian, of the SHA-256 of the name's length (u32, big-endian), the name and the key;
//! the server with the highest weight has the key. Equal on every node and in every version, since names are hashed and not
//! positions; a server that comes or goes moves only its own share.

use crate::derive::Key;
use sha2::{Digest, Sha256};

/// The server for `key` among `servers`; `None` when there is none. The order of `servers` does not matter.
pub fn choose<'a>(key: &Key, servers: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut servers = servers.into_iter().peekable();
    let first = servers.next()?;
    if servers.peek().is_none() {
        return Some(first);
    }
    // Two servers of one weight: the name decides, so that the order does not.
    std::iter::once(first).chain(servers).max_by_key(|server| (weight(key, server), *server))
}

fn weight(key: &Key, server: &str) -> u64 {
    let length = u32::try_from(server.len()).unwrap_or(u32::MAX);
    let digest = Sha256::new()
        .chain_update(length.to_be_bytes())
        .chain_update(server.as_bytes())
        .chain_update(key.as_str().as_bytes())
        .finalize();
    digest.iter().take(8).fold(0, |weight, byte| weight << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn key() -> impl Strategy<Value = Key> {
        ("[a-z]{1,6}@[a-z]{1,4}", "[a-z]{1,6}@[a-z]{1,4}").prop_map(|(one, other)| Key::pair(&one, &other))
    }

    fn servers() -> impl Strategy<Value = BTreeSet<String>> {
        proptest::collection::btree_set("[a-z]{1,3}", 1..8)
    }

    fn among<'a>(key: &Key, servers: impl IntoIterator<Item = &'a String>) -> Option<&'a str> {
        choose(key, servers.into_iter().map(String::as_str))
    }

    proptest! {
        #[test]
        fn pr_5_both_directions_go_to_one_server_in_whatever_order_servers_are_named(
            one in "[a-z]{1,6}@[a-z]{1,4}", other in "[a-z]{1,6}@[a-z]{1,4}", servers in servers()
        ) {
            let chosen = among(&Key::pair(&one, &other), &servers);
            prop_assert!(chosen.is_some());
            prop_assert_eq!(among(&Key::pair(&other, &one), servers.iter().rev()), chosen);
        }

        #[test]
        fn pr_5_a_server_that_goes_moves_only_its_own_share_and_one_that_comes_takes_only_its_own(
            keys in proptest::collection::vec(key(), 20), servers in servers(), gone in any::<prop::sample::Index>()
        ) {
            let gone = servers.iter().nth(gone.index(servers.len())).expect("one of them");
            for key in keys {
                let before = among(&key, &servers);
                let after = among(&key, servers.iter().filter(|server| *server != gone));
                prop_assert!(before == after || before == Some(gone));
            }
        }
    }

    #[test]
    fn pr_5_shares_are_even_and_a_share_that_moves_is_spread_over_the_others() {
        let keys: Vec<Key> =
            (0..10_000).map(|n| Key::pair(&format!("u{n}@chat.example"), "desk@chat.example")).collect();
        let shares = |servers: &[&str]| {
            let mut shares = BTreeMap::new();
            for key in &keys {
                *shares.entry(choose(key, servers.iter().copied()).expect("one").to_owned()).or_insert(0) +=
                    1;
            }
            shares
        };
        // Five standard deviations of a binomial distribution.
        let is_even = |shares: &BTreeMap<String, i32>, count: i32| {
            let (mean, bound) = (10_000 / count, 250);
            assert_eq!(shares.len(), usize::try_from(count).expect("small"));
            assert!(shares.values().all(|share| (share - mean).abs() < bound), "{shares:?}");
        };
        is_even(&shares(&["wall-0", "wall-1", "wall-2", "wall-3"]), 4);
        is_even(&shares(&["wall-0", "wall-1", "wall-3"]), 3);
    }

    #[test]
    fn pr_5_the_hash_is_part_of_the_contract_between_versions() {
        // SHA-256 of 00 00 00 01 "a" "ann@x\nbob@x", worked out elsewhere.
        let key = Key::pair("bob@x", "ann@x");
        assert_eq!(weight(&key, "a"), 0xf0c6_29eb_20eb_14ab);
        assert_eq!(choose(&key, []), None);
        assert_eq!(choose(&key, ["a"]), Some("a"));
    }
}
