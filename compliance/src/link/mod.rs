//! The event link between server plugin and sidecar, as `docs/event-link.md` specifies it: frames and the messages in them.
//!
//! Pure encoding and decoding. Invariants: whatever [`Frame::decode_payload`] accepts can be encoded again; no length sent by
//! the peer is trusted before it was compared with what is there; unknown tags are skipped and counted, never an error.

mod count;
mod event;
mod fields;
mod frame;
mod hello;
#[cfg(test)]
mod laws;
mod notice;
mod verdict;

pub use count::{Count, Sums};
pub use event::{Event, Ingress, Recipient, Subject, Target};
pub use fields::{DecodeError, Field, Fields, FieldsWriter};
pub use frame::{Frame, FrameError, Kind, MAX_FRAME, MIN_FRAME, RawFrame};
pub use hello::{ArmedHost, AskAbout, Hello, HostType, Settings, SinceLast, Unanswered, Welcome};
pub use notice::{Delivery, DeliveryResult, Notice, Outcome};
pub use verdict::{Action, Bounce, Exception, Verdict};

/// The protocol version this crate speaks.
pub const PROTOCOL: u16 = 1;
