//! The suites about what is said and recorded once more, on Prosody 0.12: the harness takes that version in a program of this name.

#[path = "asking.rs"]
mod asking;
#[path = "federation.rs"]
mod federation;
#[path = "ingress.rs"]
mod ingress;
#[path = "recording.rs"]
mod recording;
#[path = "tricks.rs"]
mod tricks;
