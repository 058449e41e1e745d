//! What is done to the cluster, and when, drawn from a seed: the same seed gives the same schedule.

use std::time::Duration;

/// SplitMix64: enough for choosing moments, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[usize::try_from(self.below(choices.len() as u64)).unwrap_or_default()]
    }
}

/// A part of the system that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The sidecar of the XMPP server's pod of this number.
    Sidecar(usize),
    /// The XMPP server in the pod of this number.
    Server(usize),
    /// The archive's PostgreSQL.
    Database,
    /// One of the operators: the one of this number, counted around.
    Operator(usize),
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// SIGKILL to every process of its container.
    Kill,
    /// Its pod is deleted.
    Delete,
    /// SIGSTOP, and SIGCONT after this time.
    Freeze(Duration),
}

/// One entry of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// How long after the one before.
    pub after: Duration,
    /// To whom.
    pub part: Part,
    /// What.
    pub deed: Deed,
}

/// An endless schedule: every kind of fault stands once in each deck, decks are shuffled by the seed, and a third of the faults
/// follows so closely that the one before is not mended yet.
#[derive(Debug)]
pub struct Schedule {
    random: Random,
    deck: Vec<(Part, Deed)>,
}

/// How many faults a deck has.
pub const DECK: usize = 14;

// Longer than the plugin waits for an answer, so that it has to decide alone.
const LONGER_THAN_THE_LINK: Duration = Duration::from_secs(8);
// Long enough for a short queue to fill.
const LONGER_THAN_THE_QUEUE: Duration = Duration::from_secs(20);

impl Schedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: Random(seed), deck: Vec::new() }
    }

    fn deck(&mut self) -> Vec<(Part, Deed)> {
        let operator = usize::from(self.random.below(2) == 1);
        let server = usize::from(self.random.below(2) == 1);
        let mut deck = vec![
            (Part::Sidecar(0), Deed::Kill),
            (Part::Sidecar(1), Deed::Kill),
            (Part::Sidecar(1 - server), Deed::Kill),
            (Part::Server(0), Deed::Kill),
            (Part::Server(1), Deed::Kill),
            (Part::Database, Deed::Kill),
            (Part::Database, Deed::Kill),
            (Part::Operator(operator), Deed::Kill),
            (Part::Operator(1 - operator), Deed::Kill),
            (Part::Server(server), Deed::Delete),
            (Part::Database, Deed::Delete),
            (Part::Operator(operator), Deed::Delete),
            (Part::Sidecar(server), Deed::Freeze(LONGER_THAN_THE_LINK)),
            (Part::Database, Deed::Freeze(LONGER_THAN_THE_QUEUE)),
        ];
        for last in (1..deck.len()).rev() {
            deck.swap(last, usize::try_from(self.random.below(last as u64 + 1)).unwrap_or_default());
        }
        deck
    }
}

impl Iterator for Schedule {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        if self.deck.is_empty() {
            self.deck = self.deck();
        }
        let (part, deed) = self.deck.pop()?;
        let close = self.random.below(3) == 0;
        let after = Duration::from_millis(self.random.below(if close { 500 } else { 10_000 }));
        Some(Fault { after, part, deed })
    }
}

#[cfg(test)]
mod tests {
    use super::{DECK, Deed, Part, Schedule};

    #[test]
    fn a_seed_gives_the_same_schedule_again_and_another_seed_another() {
        let of = |seed| Schedule::new(seed).take(100).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn every_deck_hits_every_part() {
        let deck: Vec<_> = Schedule::new(1).take(DECK).map(|fault| (fault.part, fault.deed)).collect();
        for part in [Part::Sidecar(0), Part::Sidecar(1), Part::Server(0), Part::Server(1), Part::Database] {
            assert!(deck.contains(&(part, Deed::Kill)), "{part:?} is not killed");
        }
        assert!(
            deck.contains(&(Part::Operator(0), Deed::Kill))
                && deck.contains(&(Part::Operator(1), Deed::Kill))
        );
    }
}
