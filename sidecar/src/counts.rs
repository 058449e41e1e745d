//! Sums since the process started. The status and the metrics are both made from them, so that they cannot disagree.

use cartulary_compliance::status::Counts;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Why a message was refused: the words of `refused_by` in the status and of the label `reason` in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A queue or the journal is full.
    QueueFull,
    /// The message is larger than the journal takes.
    TooLarge,
    /// The journal cannot be written.
    JournalFailed,
    /// There is no configuration yet, or the plugin has not said what it covers.
    NoConfiguration,
    /// What the plugin said of it could not be read.
    Malformed,
    /// The plugin had no link and refused alone.
    NoLink,
}

impl Refused {
    fn word(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::TooLarge => "too-large",
            Self::JournalFailed => "journal-failed",
            Self::NoConfiguration => "no-configuration",
            Self::Malformed => "malformed",
            Self::NoLink => "no-link",
        }
    }
}

/// The sums. Cheap to add to, from anywhere.
#[derive(Debug, Default)]
pub struct Counters {
    counts: Mutex<Counts>,
}

impl Counters {
    /// Changes the sums.
    pub fn add(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts refused messages.
    pub fn refused(&self, why: Refused, count: u64) {
        self.add(|counts| {
            counts.refused += count;
            *counts.refused_by.entry(why.word().to_owned()).or_default() += count;
        });
    }

    /// The sums now. Every reason to refuse is there, also those that never happened.
    #[must_use]
    pub fn snapshot(&self) -> Counts {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = [
            Refused::QueueFull,
            Refused::TooLarge,
            Refused::JournalFailed,
            Refused::NoConfiguration,
            Refused::Malformed,
            Refused::NoLink,
        ];
        let mut by: BTreeMap<String, u64> = all.map(|why| (why.word().to_owned(), 0)).into();
        by.append(&mut counts.refused_by);
        counts.refused_by = by;
        counts
    }
}
