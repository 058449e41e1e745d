//! Whether a peer lives: when it is pinged, when it counts as silent, and when as dead (`docs/event-protocol.md`, "Alive"). Pure.
//!
//! Only whole stanzas count as signs of life: a peer that drips bytes of one that never ends is silent.

use std::time::Duration;
use tokio::time::Instant;

/// What is known of a connection's life.
#[derive(Debug)]
pub struct Pulse {
    keepalive: Duration,
    heard_at: Instant,
    /// When the ping went out that nothing has followed yet.
    pinged_at: Option<Instant>,
    /// Whether any ping was answered.
    answered: bool,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing before this.
    Fine(Instant),
    /// Send a ping.
    Ping,
    /// It answers nothing since then; ask again at the second time.
    Silent(Instant, Instant),
    /// It has not answered a ping; silent since then.
    Dead(Instant),
}

impl Pulse {
    /// A connection whose handshake has succeeded.
    pub fn new(now: Instant, keepalive: Duration) -> Self {
        Self { keepalive, heard_at: now, pinged_at: None, answered: false }
    }

    /// A stanza came.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        // Before the first answer only that answer counts.
        if self.answered {
            self.pinged_at = None;
        }
    }

    /// A ping was sent.
    pub fn pinged(&mut self, now: Instant) {
        self.pinged_at = Some(now);
    }

    /// It was answered.
    pub fn answered(&mut self, now: Instant) {
        self.answered = true;
        self.heard(now);
    }

    /// Whether any ping was answered.
    pub fn is_alive(&self) -> bool {
        self.answered
    }

    /// `oldest` is when the oldest question went out that is not answered.
    pub fn check(&self, now: Instant, oldest: Option<Instant>) -> Check {
        let Some(pinged_at) = self.pinged_at else {
            let ping_at = if self.answered { self.heard_at + self.keepalive } else { self.heard_at };
            return if now >= ping_at { Check::Ping } else { Check::Fine(ping_at) };
        };
        let dead_at = pinged_at + self.keepalive;
        let since = oldest.map_or(pinged_at, |oldest| oldest.min(pinged_at)).max(self.heard_at);
        if now >= dead_at {
            return Check::Dead(since);
        }
        let silent_at = since + self.keepalive;
        if self.answered && now >= silent_at {
            Check::Silent(since, dead_at)
        } else {
            Check::Fine(silent_at.min(dead_at))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Patient {
        start: Instant,
        pulse: Pulse,
    }

    impl Patient {
        fn new() -> Self {
            let start = Instant::now();
            Self { start, pulse: Pulse::new(start, Duration::from_secs(30)) }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        fn check(&self, second: u64, oldest: Option<u64>) -> Check {
            self.pulse.check(self.at(second), oldest.map(|second| self.at(second)))
        }
    }

    #[test]
    fn the_first_ping_goes_at_once_and_must_be_answered_itself() {
        let mut it = Patient::new();
        assert_eq!(it.check(0, None), Check::Ping);
        it.pulse.pinged(it.start);
        it.pulse.heard(it.at(29));
        assert!(!it.pulse.is_alive());
        assert!(matches!(it.check(30, None), Check::Dead(_)));
    }

    #[test]
    fn one_that_is_idle_is_pinged_and_dead_when_it_does_not_answer() {
        let mut it = Patient::new();
        it.pulse.answered(it.start);
        assert_eq!(it.check(29, None), Check::Fine(it.at(30)));
        assert_eq!(it.check(30, None), Check::Ping);
        it.pulse.pinged(it.at(30));
        assert_eq!(it.check(31, None), Check::Fine(it.at(60)));
        assert_eq!(it.check(60, None), Check::Dead(it.at(30)));
        it.pulse.answered(it.at(59));
        assert_eq!(it.check(60, None), Check::Fine(it.at(89)));
    }

    #[test]
    fn one_that_answers_no_question_is_silent_from_when_it_was_asked() {
        let mut it = Patient::new();
        it.pulse.answered(it.start);
        it.pulse.pinged(it.at(30));
        assert_eq!(it.check(30, Some(0)), Check::Silent(it.start, it.at(60)));
        assert_eq!(it.check(60, Some(0)), Check::Dead(it.start));
    }

    #[test]
    fn one_that_answers_anything_is_neither_silent_nor_dead() {
        let mut it = Patient::new();
        it.pulse.answered(it.start);
        it.pulse.pinged(it.at(30));
        it.pulse.heard(it.at(31));
        assert_eq!(it.check(60, Some(0)), Check::Fine(it.at(61)));
    }
}
