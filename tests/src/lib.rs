//! What the end-to-end tests are built from: real servers as processes of their own, clients that keep everything they are
//! given, and an oracle that compares it with the archive. `docs/testing.md` says how it is laid out.

pub mod bench;
pub mod client;
pub mod component;
pub mod decider;
pub mod federation;
pub mod kubernetes;
pub mod link;
pub mod oracle;
pub mod policy;
pub mod postgres;
pub mod process;
pub mod prosody;
pub mod resume;
pub mod sidecar;
pub mod talk;
pub mod trace;
pub mod transcript;
pub mod web;
pub mod world;
