//! The sidecar: it takes every message of one XMPP server from the server plugin, and what else compliance servers want to see, asks
//! these, puts messages on record, answers, and carries the records to their archive. `main` only reads the command line; the parts are here so that tests can drive them.

pub mod admin;
pub mod alarms;
pub mod app;
pub mod chains;
pub mod config;
pub mod counts;
pub mod drain;
pub mod drains;
#[cfg(test)]
mod fixture;
pub mod gaps;
pub mod kept;
pub mod link;
pub mod metrics;
pub mod open_events;
pub mod outcomes;
pub mod path;
pub mod plugin;
pub mod recorder;
pub mod servers;
pub mod tallies;
#[cfg(test)]
mod testing;
