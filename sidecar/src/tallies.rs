//! What the plugin counted (EV-2): the newest sums of each day and process of the server, put on record as tallies.
//!
//! Written when a day is over, when its process says that nothing follows or is gone, when the sidecar stops, and otherwise at most
//! every [`INTERVAL`] while they change; never while nothing is said. The plugin tells all days again at each link, so what was
//! not written yet when a sidecar dies comes once more. What does not happen here: comparing with the records; a report does that.

use crate::recorder::Recorder;
use cartulary_archive::record::{Body, Draft, Tally};
use cartulary_compliance::link::{Count, Sums};
use cartulary_compliance::status::DayCount;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often a day that is not over is written at most.
const INTERVAL: Duration = Duration::from_secs(300);
/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(5);
/// How long sums may fail to add up before that counts, where no further count says so. A plugin whose sums change sends them every ten
/// seconds.
const DOUBT: Duration = Duration::from_secs(30);
/// Days and processes remembered. A server that restarts more often within two days has its oldest ones forgotten, after they were written.
const CAPACITY: usize = 200;
const SECONDS_OF_A_DAY: u64 = 86_400;

/// What a process of the server counted of a day, as it is kept for the next process of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Days since 1970-01-01, UTC.
    pub day: u32,
    /// The process.
    pub instance: String,
    /// The sums.
    pub sums: Sums,
    /// Nothing more follows.
    pub is_final: bool,
    /// A record says so.
    pub is_recorded: bool,
}

/// Everything counted that is still of interest.
#[derive(Debug, Default)]
pub struct Tallies {
    state: Mutex<State>,
    due: Notify,
    /// One at a time writes.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// By day and process.
    entries: BTreeMap<(u32, String), Entry>,
    /// The process that is linked.
    current: Option<String>,
    /// Sums of entries that were let go.
    gone: Sums,
    /// What passed by according to them.
    gone_by: u64,
}

#[derive(Debug, Default)]
struct Entry {
    sums: Sums,
    is_final: bool,
    /// What was written last.
    recorded: Option<(Sums, bool)>,
    /// When it was written, or first changed since.
    since: Option<Instant>,
    /// Since when the sums do not add up.
    mismatch: Option<Instant>,
    /// Another count said so too.
    is_confirmed: bool,
}

impl Entry {
    fn is_recorded(&self) -> bool {
        self.recorded == Some((self.sums, self.is_final))
    }

    /// Messages that passed by. A single count is not believed at once: the plugin may have been between two of its sums.
    fn passed_by(&self, now: Instant) -> u64 {
        let lasts = self.mismatch.is_some_and(|since| now.duration_since(since) >= DOUBT);
        if self.is_final || self.is_confirmed || lasts {
            u64::try_from(self.sums.passed_by().unsigned_abs()).unwrap_or(u64::MAX)
        } else {
            0
        }
    }
}

impl Tallies {
    /// A count came from the process `instance`.
    pub fn take(&self, instance: &str, count: Count) {
        self.take_at(instance, count, Instant::now());
    }

    fn take_at(&self, instance: &str, count: Count, now: Instant) {
        let Count { day, sums, is_final } = count;
        let mut state = self.state();
        let entry = state.entries.entry((day, instance.to_owned())).or_default();
        let differs = sums.passed_by() != 0;
        entry.is_confirmed = differs && entry.mismatch.is_some();
        entry.mismatch = differs.then(|| entry.mismatch.unwrap_or(now));
        (entry.sums, entry.is_final) = (sums, is_final);
        entry.since.get_or_insert(now);
        if is_final {
            self.due.notify_one();
        }
    }

    /// The server's process that is linked from now on; what others counted does not change any more.
    pub fn process(&self, instance: &str) {
        let mut state = self.state();
        if state.current.as_deref() != Some(instance) {
            state.current = Some(instance.to_owned());
            self.due.notify_one();
        }
    }

    /// What a former process of the sidecar knew.
    pub fn restore(&self, told: Vec<Told>) {
        let mut state = self.state();
        for Told { day, instance, sums, is_final, is_recorded } in told {
            let recorded = is_recorded.then_some((sums, is_final));
            let entry = Entry { sums, is_final, recorded, since: Some(Instant::now()), ..Entry::default() };
            state.entries.insert((day, instance), entry);
        }
    }

    /// What the next process of the sidecar has to know.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Told> {
        let told = |((day, instance), entry): (&(u32, String), &Entry)| Told {
            day: *day,
            instance: instance.clone(),
            sums: entry.sums,
            is_final: entry.is_final,
            is_recorded: entry.is_recorded(),
        };
        self.state().entries.iter().map(told).collect()
    }

    /// The sums by day, of all processes.
    #[must_use]
    pub fn days(&self) -> Vec<DayCount> {
        let mut days: BTreeMap<u32, Sums> = BTreeMap::new();
        for ((day, _), entry) in &self.state().entries {
            let sums = days.entry(*day).or_default();
            *sums = sums.plus(entry.sums);
        }
        days.into_iter().map(|(day, sums)| DayCount { day: date(day), sums }).collect()
    }

    /// The sums of all days and processes known.
    #[must_use]
    pub fn total(&self) -> Sums {
        let state = self.state();
        state.entries.values().fold(state.gone, |total, entry| total.plus(entry.sums))
    }

    /// Messages that came in and that nobody was asked about, or the reverse.
    #[must_use]
    pub fn passed_by(&self) -> u64 {
        self.passed_by_at(Instant::now())
    }

    fn passed_by_at(&self, now: Instant) -> u64 {
        let state = self.state();
        state.entries.values().fold(state.gone_by, |sum, entry| sum.saturating_add(entry.passed_by(now)))
    }

    /// Writes what is due, or with `all` whatever changed. What cannot be written stays due.
    pub async fn write(&self, recorder: &Recorder, all: bool) {
        let _writing = self.writing.lock().await;
        let Some(endpoint) = recorder.endpoint() else { return };
        let due = self.due_at(Instant::now(), today(), all);
        if due.is_empty() {
            return;
        }
        for tally in due {
            let draft = Draft { body: Body::Tally(tally.clone()), payloads: Vec::new() };
            match recorder.append(&endpoint, draft).await {
                Ok(_) => self.written(&tally, Instant::now()),
                Err(error) => {
                    tracing::warn!(day = date(tally.day), %error, "what the server counted cannot be recorded yet");
                }
            }
        }
        self.let_go(today());
        recorder.keep().await;
    }

    /// Writes whatever is due, until `stop`; then all.
    pub async fn run(&self, recorder: &Recorder, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.due.notified() => {}
                () = stop.cancelled() => break,
            }
            self.write(recorder, false).await;
        }
        self.write(recorder, true).await;
    }

    fn due_at(&self, now: Instant, today: u32, all: bool) -> Vec<Tally> {
        let state = self.state();
        let is_due = |day: u32, instance: &str, entry: &Entry| {
            let is_over = entry.is_final
                || day < today
                || state.current.as_deref().is_some_and(|current| current != instance);
            let waited = entry.since.is_some_and(|since| now.duration_since(since) >= INTERVAL);
            !entry.is_recorded() && (all || is_over || waited)
        };
        let due = state.entries.iter().filter(|((day, instance), entry)| is_due(*day, instance, entry));
        let tally = |((day, instance), entry): (&(u32, String), &Entry)| Tally {
            day: *day,
            instance: instance.clone(),
            sums: entry.sums,
            is_final: entry.is_final,
        };
        due.map(tally).collect()
    }

    fn written(&self, tally: &Tally, now: Instant) {
        if let Some(entry) = self.state().entries.get_mut(&(tally.day, tally.instance.clone())) {
            entry.recorded = Some((tally.sums, tally.is_final));
            entry.since = Some(now);
        }
    }

    /// Forgets days that are long over and on record.
    fn let_go(&self, today: u32) {
        let now = Instant::now();
        let mut state = self.state();
        let State { entries, gone, gone_by, .. } = &mut *state;
        let mut too_many = entries.len().saturating_sub(CAPACITY);
        entries.retain(|(day, _), entry| {
            let goes = entry.is_recorded() && (day.saturating_add(1) < today || too_many > 0);
            if goes {
                too_many = too_many.saturating_sub(1);
                *gone = gone.plus(entry.sums);
                *gone_by = gone_by.saturating_add(entry.passed_by(now));
            }
            !goes
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn today() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs() / SECONDS_OF_A_DAY).unwrap_or(u32::MAX)
}

/// `YYYY-MM-DD` of a day since 1970-01-01, in the Gregorian calendar: years begin in March here, so that a leap day is a year's last.
fn date(day: u32) -> String {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = u64::from(day) + 719_468;
    let (era, of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(said: u64, recorded: u64) -> Sums {
        Sums { said, recorded, ..Sums::default() }
    }

    fn count(day: u32, said: u64, recorded: u64, is_final: bool) -> Count {
        Count { day, sums: sums(said, recorded), is_final }
    }

    #[test]
    fn days_have_their_dates() {
        for (day, expected) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_453, "2025-12-31"),
            (20_454, "2026-01-01"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(date(day), expected);
        }
        assert!(date(u32::MAX).len() > 10);
    }

    #[test]
    fn a_tally_is_due_when_its_day_or_process_is_over_or_it_changed_for_long_and_never_when_nothing_is_said()
    {
        let (tallies, begun) = (Tallies::default(), Instant::now());
        let due = |after: Duration, today| -> Vec<(u32, String, u64)> {
            let due = tallies.due_at(begun + after, today, false);
            for tally in &due {
                tallies.written(tally, begun + after);
            }
            due.into_iter().map(|tally| (tally.day, tally.instance, tally.sums.said)).collect()
        };
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let none: Vec<(u32, String, u64)> = Vec::new();
        tallies.process("a");
        tallies.take_at("a", count(10, 1, 1, false), begun);
        assert_eq!(due(minutes(1), 10), none);
        tallies.take_at("a", count(10, 2, 2, false), begun + minutes(1));
        assert_eq!(due(minutes(5), 10), [(10, "a".to_owned(), 2)]);
        tallies.take_at("a", count(10, 2, 2, false), begun + minutes(6));
        assert_eq!(due(minutes(60), 10), none, "nothing changed");
        tallies.take_at("a", count(10, 3, 3, false), begun + minutes(61));
        assert_eq!(due(minutes(61), 11), [(10, "a".to_owned(), 3)], "the day is over");
        tallies.take_at("a", count(11, 1, 1, true), begun + minutes(61));
        assert_eq!(due(minutes(61), 11), [(11, "a".to_owned(), 1)], "it says that nothing follows");
        tallies.take_at("a", count(12, 1, 1, false), begun + minutes(62));
        tallies.process("b");
        tallies.take_at("b", count(12, 5, 5, false), begun + minutes(62));
        assert_eq!(due(minutes(62), 12), [(12, "a".to_owned(), 1)], "its process is gone");
        assert_eq!(tallies.due_at(begun + minutes(62), 12, true).len(), 1, "a sidecar that stops writes all");
        let days: Vec<_> = tallies.days().into_iter().map(|day| (day.day, day.sums.said)).collect();
        assert_eq!(days[2], ("1970-01-13".to_owned(), 6), "{days:?}");
        assert_eq!(tallies.total().said, 10);
        tallies.let_go(13);
        assert_eq!((tallies.days().len(), tallies.total().said), (1, 10), "what is let go still counts");
    }

    #[test]
    fn what_passed_by_counts_when_a_second_count_time_or_the_last_word_says_so() {
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let tallies = Tallies::default();
        tallies.take_at("a", count(10, 5, 4, false), begun);
        assert_eq!(tallies.passed_by_at(after(9)), 0, "it may have been between two sums");
        tallies.take_at("a", count(10, 6, 6, false), after(10));
        assert_eq!(tallies.passed_by_at(after(100)), 0, "it was");
        tallies.take_at("a", count(10, 8, 7, false), after(110));
        tallies.take_at("a", count(10, 9, 7, false), after(120));
        assert_eq!(tallies.passed_by_at(after(120)), 2);
        tallies.take_at("a", count(10, 9, 10, true), after(130));
        assert_eq!(tallies.passed_by_at(after(130)), 1, "too many were asked about");
        tallies.take_at("b", count(10, 1, 0, false), after(130));
        assert_eq!((tallies.passed_by_at(after(131)), tallies.passed_by_at(after(160))), (1, 2));
    }

    #[test]
    fn what_a_former_sidecar_knew_goes_on() {
        let former = Tallies::default();
        former.take("a", count(10, 1, 1, false));
        former.take("a", count(11, 2, 2, true));
        let [first, second] = &former.due_at(Instant::now(), 10, true)[..] else { panic!("two") };
        former.written(second, Instant::now());
        let next = Tallies::default();
        next.restore(former.snapshot());
        assert_eq!(next.due_at(Instant::now(), 10, true), std::slice::from_ref(first));
        assert_eq!(next.total().said, 3);
    }
}
