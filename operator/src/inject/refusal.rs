//! Why a pod is refused: a constant reason, which is also a metric's label, and a sentence that says what to do.

use std::fmt;

/// A refusal, as whoever creates the pod reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Out of [`crate::reasons::refusal`].
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Refusal {}
