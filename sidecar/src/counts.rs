//! Sums since the process started. The status and the metrics are both made from them, so that they cannot disagree.

use cartulary_compliance::status::Counts;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long ago "lately" is.
const LATELY: Duration = Duration::from_secs(60);

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
    lately: Mutex<Lately>,
}

/// What happened within the last minute, that of one second together.
#[derive(Debug, Default)]
pub struct Lately {
    seconds: VecDeque<(Instant, u64)>,
}

impl Lately {
    /// Adds to the sum.
    pub fn add(&mut self, now: Instant, count: u64) {
        match self.seconds.back_mut() {
            Some((begun, sum)) if now.duration_since(*begun) < Duration::from_secs(1) => *sum += count,
            _ => self.seconds.push_back((now, count)),
        }
        self.forget(now);
    }

    /// The sum of the last minute.
    pub fn sum(&mut self, now: Instant) -> u64 {
        self.forget(now);
        self.seconds.iter().map(|(_, count)| count).sum()
    }

    fn forget(&mut self, now: Instant) {
        while self.seconds.pop_front_if(|(begun, _)| now.duration_since(*begun) >= LATELY).is_some() {}
    }
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
        if count > 0 {
            self.lately.lock().unwrap_or_else(PoisonError::into_inner).add(Instant::now(), count);
        }
    }

    /// Messages refused within the last minute.
    #[must_use]
    pub fn refused_lately(&self) -> u64 {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner).sum(Instant::now())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_lately_is_forgotten_after_a_minute() {
        let (mut lately, begun) = (Lately::default(), Instant::now());
        for tenths in 0..700 {
            lately.add(begun + Duration::from_millis(100 * tenths), 1);
        }
        assert!(lately.seconds.len() <= 61);
        assert_eq!(lately.sum(begun + Duration::from_secs(70)), 590);
        assert_eq!(lately.sum(begun + Duration::from_secs(200)), 0);
    }
}
