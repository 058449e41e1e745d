//! The domain of Cartulary: what an event is, what may be answered, what a sidecar is told to do.
//!
//! Everything here is a value or a pure function over values. The crate knows no Kubernetes, no sockets, no files and no
//! clock; whoever calls it brings those. That is what lets every decision be tested as a table.

pub mod alarms;
pub mod balance;
pub mod chain;
pub mod config;
pub mod decision;
pub mod derive;
pub mod direction;
pub mod events;
pub mod failure;
pub mod link;
pub mod names;
#[cfg(test)]
mod page;
pub mod profile;
pub mod protocol;
pub mod stanza;
pub mod status;
mod xml;
