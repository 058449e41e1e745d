//! UUIDs of version 7 that ascend, even when the clock goes back.

use uuid::Uuid;

const COUNTER: u128 = (1 << 62) - 1;

/// A new event id. Ids made by one process ascend.
#[must_use]
pub fn new_event_id() -> Uuid {
    Uuid::now_v7()
}

/// Makes ascending ids for one journal.
#[derive(Debug, Default)]
pub struct Ids {
    last: u128,
}

impl Ids {
    /// The next id, for a time in nanoseconds since the epoch.
    pub fn next(&mut self, now_nanos: i64) -> Uuid {
        let millis = u128::from(u64::try_from(now_nanos / 1_000_000).unwrap_or(0)) & ((1 << 48) - 1);
        if millis > self.last >> 80 {
            // The counter starts in the lower half of its range, so that it cannot run over within a millisecond.
            let mut random = [0; 16];
            // Without randomness ids still ascend within a journal, and the id of another journal is not known either.
            let _ = getrandom::fill(&mut random);
            let random = u128::from_be_bytes(random) & ((0xfff << 64) | (COUNTER >> 1));
            self.last = (millis << 80) | (7 << 76) | (0b10 << 62) | random;
        } else {
            let counter = (self.last & COUNTER).wrapping_add(1) & COUNTER;
            self.last = (self.last & !COUNTER) | counter;
        }
        Uuid::from_u128(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;

    #[test]
    fn ids_ascend_even_when_the_clock_goes_back() {
        let mut ids = Ids::default();
        let mut last = ids.next(1_000_000_000_000_000_000);
        for now in [5, 5, 0, -7, 1_000_000_000_000_000_000, 1_000_000_000_001_000_000, 9] {
            let next = ids.next(now);
            assert!(next > last, "{next} after {last}");
            assert_eq!(next.get_version_num(), 7);
            assert_eq!(next.get_variant(), uuid::Variant::RFC4122);
            last = next;
        }
    }
}
