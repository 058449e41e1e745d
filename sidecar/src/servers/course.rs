//! What standing follows from what happens to a link, and from time (FH-1, FH-2, FH-3). Pure: the caller says what time it is, by the
//! monotonic clock, so that a wall clock that jumps changes nothing.
//!
//! Invariants: only being in service ends being out; no time spent away is counted twice, since the start of an absence is kept until it ends.

use cartulary_compliance::failure::Standing;
use std::time::Duration;
use tokio::time::Instant;

/// How a server stands, and since when it is away.
#[derive(Debug)]
pub struct Course {
    standing: Standing,
    away_since: Instant,
    drop_after: Duration,
}

impl Course {
    /// Never reached yet.
    pub fn new(now: Instant, drop_after: Duration) -> Self {
        Self { standing: Standing::Queueing, away_since: now, drop_after }
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Another patience; takes effect with the next [`Course::tick`].
    pub fn set_drop_after(&mut self, drop_after: Duration) {
        self.drop_after = drop_after;
    }

    /// It has answered: events go to it.
    pub fn reached(&mut self) {
        self.standing = Standing::InService;
    }

    /// It failed, and has been silent since `since`. One that is away already stays away for as long as it is.
    pub fn failed(&mut self, since: Instant) {
        if self.standing == Standing::InService {
            self.standing = Standing::Queueing;
            self.away_since = since;
        }
    }

    /// It said that it ends.
    pub fn ended(&mut self) {
        self.standing = Standing::Out;
    }

    /// Time goes by.
    pub fn tick(&mut self, now: Instant) {
        if self.drops_at().is_some_and(|at| now >= at) {
            self.standing = Standing::Out;
        }
    }

    /// When it will be out, if nothing else happens.
    pub fn drops_at(&self) -> Option<Instant> {
        (self.standing == Standing::Queueing).then(|| self.away_since + self.drop_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{InService, Out, Queueing};

    enum Step {
        Reached,
        Failed,
        /// It has been silent since this second.
        SilentSince(u64),
        Ended,
        Nothing,
    }
    use Step::{Ended, Failed, Nothing, Reached, SilentSince};

    #[test]
    fn a_standing_follows_from_what_happened_and_from_time() {
        type Row<'a> = (&'a str, &'a [(u64, Step, Standing)]);
        let table: [Row; 7] = [
            ("never reached", &[(0, Nothing, Queueing), (299, Nothing, Queueing), (300, Nothing, Out)]),
            ("reached late", &[(300, Nothing, Out), (301, Reached, InService), (9999, Nothing, InService)]),
            (
                "fails",
                &[
                    (10, Reached, InService),
                    (20, Failed, Queueing),
                    (319, Nothing, Queueing),
                    (320, Nothing, Out),
                ],
            ),
            (
                "fails again and again while it is away",
                &[
                    (10, Reached, InService),
                    (20, Failed, Queueing),
                    (200, Failed, Queueing),
                    (320, Failed, Out),
                ],
            ),
            (
                "hangs: silence counts from its beginning",
                &[(10, Reached, InService), (80, SilentSince(20), Queueing), (320, Nothing, Out)],
            ),
            (
                "ends, and cannot be reached for a while",
                &[(10, Reached, InService), (20, Ended, Out), (21, Failed, Out), (22, Reached, InService)],
            ),
            (
                "comes back in time, and a new absence has its own time",
                &[
                    (10, Reached, InService),
                    (20, Failed, Queueing),
                    (310, Reached, InService),
                    (400, Failed, Queueing),
                    (699, Nothing, Queueing),
                    (700, Nothing, Out),
                ],
            ),
        ];
        for (name, steps) in table {
            let start = Instant::now();
            let mut course = Course::new(start, Duration::from_secs(300));
            for (second, step, standing) in steps {
                let at = |second: u64| start + Duration::from_secs(second);
                match step {
                    Reached => course.reached(),
                    Failed => course.failed(at(*second)),
                    SilentSince(since) => course.failed(at(*since)),
                    Ended => course.ended(),
                    Nothing => {}
                }
                course.tick(at(*second));
                assert_eq!(course.standing(), *standing, "{name} at {second}");
            }
        }
    }

    #[test]
    fn another_patience_takes_effect_at_once() {
        let start = Instant::now();
        let mut course = Course::new(start, Duration::from_secs(300));
        course.set_drop_after(Duration::from_secs(1));
        course.tick(start + Duration::from_secs(1));
        assert_eq!(course.standing(), Out);
    }
}
