//! The kit for compliance servers of Cartulary (CS-7): a listener that speaks `docs/event-protocol.md` from the server's side and
//! asks a [`Policy`] about each event.
//!
//! ```no_run
//! use cartulary_compliance_kit::{Answer, Event, Server};
//!
//! # async fn start() -> std::io::Result<()> {
//! let server = Server::new("secret").component("op-wall.prosody-0");
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:5347").await?;
//! let policy = |event: Event| async move {
//!     match event.body() {
//!         Some(body) if body.contains("tip") => Answer::refuse("policy-violation", "Not here."),
//!         _ => Answer::pass(),
//!     }
//! };
//! server.run(listener, policy, async { _ = tokio::signal::ctrl_c().await }).await;
//! # Ok(())
//! # }
//! ```
//!
//! Invariants: every question that was read is answered once, or its time has run out; no peer is heard before it has shown the
//! password; what a peer can make the server hold is bounded. It depends on none of Cartulary's own crates, does not decide anything
//! and keeps nothing on disk.

mod answer;
mod event;
pub mod program;
mod server;
mod session;
mod stream;

pub use answer::{Answer, Instead, Refusal};
pub use event::{Admits, Event, Recipient, Sender};
pub use minidom::Element;
pub use server::{Policy, Progress, Server};

/// The namespace of questions and answers.
pub const NAMESPACE: &str = "urn:cartulary:compliance:1";
/// The namespace of forwarded stanzas.
pub const CLIENT: &str = "jabber:client";
const FORWARD: &str = "urn:xmpp:forward:0";
const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

/// The README's server is compiled as it stands there.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
