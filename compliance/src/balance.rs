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
