//! Conditions: pure functions from what was found out to what is written, and to what is told as events.
//!
//! Invariants: a condition's time changes only with its status; every condition carries the generation it was set for; two
//! equal findings give two equal lists, so that writing can be left out.

use crate::reasons as reason;
use cartulary_compliance::names::condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Longest message that is written; longer ones are cut.
const MAX_MESSAGE: usize = 1024;

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for State {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// What was found out about one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which condition, out of [`condition`].
    pub kind: &'static str,
    /// Whether it holds.
    pub state: State,
    /// Why, out of [`reason`].
    pub reason: &'static str,
    /// Why, in words, with what to do.
    pub message: String,
}

impl Finding {
    /// A finding.
    pub fn new(
        kind: &'static str,
        state: impl Into<State>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, state: state.into(), reason, message: message.into() }
    }

    /// That all is well.
    pub fn good(kind: &'static str, message: impl Into<String>) -> Self {
        Self::new(kind, State::True, reason::OK, message)
    }
}

/// Something in a declaration, or in what it refers to, that keeps it from being carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Out of [`reason`].
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// A problem.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The conditions to write: `findings` at `generation`, with the times of `old` where the status is the same.
#[must_use]
pub fn merge(
    old: &[Condition],
    findings: &[Finding],
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .iter()
        .map(|finding| {
            let same = find(old, finding.kind).filter(|before| before.status == finding.state.as_str());
            Condition {
                last_transition_time: same.map_or(Time(now), |before| before.last_transition_time.clone()),
                message: cut(&finding.message),
                observed_generation: generation,
                reason: finding.reason.to_owned(),
                status: finding.state.as_str().to_owned(),
                type_: finding.kind.to_owned(),
            }
        })
        .collect()
}

/// What to tell as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The condition that changed.
    pub kind: String,
    /// Whether it is for the worse.
    pub warning: bool,
    /// Its new reason.
    pub reason: String,
    /// Its new message.
    pub message: String,
}

/// What changed between two lists in a way that people should hear of. The first look at an object is no change unless it finds
/// something bad; Ready only repeats the others, so it is told only when all is well.
#[must_use]
pub fn transitions(old: &[Condition], new: &[Condition]) -> Vec<Transition> {
    new.iter()
        .filter(|after| {
            let before = find(old, &after.type_);
            let changed =
                before.is_none_or(|before| before.status != after.status || before.reason != after.reason);
            let first = before.is_none_or(|before| before.reason == reason::PENDING);
            let told =
                if after.type_ == condition::READY { after.status == "True" } else { bad(after) || !first };
            changed && told && after.status != "Unknown"
        })
        .map(|after| Transition {
            kind: after.type_.clone(),
            warning: bad(after),
            reason: after.reason.clone(),
            message: after.message.clone(),
        })
        .collect()
}

/// The condition of type `kind`.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn bad(of: &Condition) -> bool {
    let good = if of.type_ == condition::ARCHIVE_NOT_INDEPENDENT { "False" } else { "True" };
    of.status != good
}

/// At most [`MAX_MESSAGE`] bytes of `text`, cut between characters.
#[must_use]
pub fn cut(text: &str) -> String {
    if text.len() <= MAX_MESSAGE {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_MESSAGE - '…'.len_utf8());
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("small")
    }

    #[test]
    fn a_time_changes_only_with_the_status() {
        let bad = Finding::new(condition::READY, false, reason::SECRET_MISSING, "no Secret");
        let first = merge(&[], std::slice::from_ref(&bad), Some(1), at(10));
        let worse = Finding { reason: reason::SECRET_INCOMPLETE, ..bad };
        let second = merge(&first, &[worse], Some(2), at(20));
        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!((second[0].reason.as_str(), second[0].observed_generation), ("SecretIncomplete", Some(2)));
        let third = merge(&second, &[Finding::good(condition::READY, "")], Some(2), at(30));
        assert_eq!(third[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn the_same_finding_later_is_no_change() {
        let findings = [Finding::good(condition::COVERED, "all"), Finding::good(condition::READY, "")];
        let first = merge(&[], &findings, Some(1), at(10));
        assert_eq!(first, merge(&first, &findings, Some(1), at(99)));
    }

    #[test]
    fn a_first_look_is_told_only_when_it_finds_something_bad() {
        let good = merge(&[], &[Finding::good(condition::COVERED, "")], Some(1), at(1));
        assert!(transitions(&[], &good).is_empty());
        let bad = merge(
            &[],
            &[Finding::new(condition::COVERED, false, reason::SIDECAR_MISSING, "")],
            Some(1),
            at(1),
        );
        assert_eq!(transitions(&[], &bad)[0].reason, reason::SIDECAR_MISSING);
        assert!(!transitions(&bad, &good)[0].warning);
    }

    #[test]
    fn an_archive_beside_the_server_is_told_as_a_warning() {
        let finding = Finding::new(condition::ARCHIVE_NOT_INDEPENDENT, true, reason::ARCHIVE_IN_POD, "");
        assert!(transitions(&[], &merge(&[], &[finding], None, at(1)))[0].warning);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let text = "é".repeat(4000);
        assert!(cut(&text).len() <= MAX_MESSAGE && cut(&text).ends_with('…'));
    }
}
