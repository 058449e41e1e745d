//! The chain of one stanza: which profiles are asked about which of its events, in which order, and what their answers make of it
//! (PR-2, PR-6, PR-9, PR-10, FH-4).
//!
//! A pure state machine. Whoever drives it takes the [`Chain::turn`] that is due, asks or tells a server, and hands [`Chain::take`] what came,
//! until no turn is left; then [`Chain::decide`] says what becomes of the stanza. Order: the stanza's events as they occur, and for each the profiles
//! in the configuration's order, which is the routing priority.
//!
//! Invariants: nobody is asked after the chain has ended; each is asked about the stanza as those before have left it; a recipient who
//! was excepted from it is not asked about again, and no later server undoes that.

use crate::config::Compliance;
use crate::decision::bare_of;
use crate::derive::Occurrence;
use crate::events::{self, Answers, Handling};
use crate::failure::{self, Came, End, Next};
use crate::link::{self, Action, Exception, Recipient, Target};
use crate::profile::Profile;
use crate::protocol::{Except, ExceptAction, Question, Stanza};
use std::sync::Arc;
use std::time::Duration;

/// The chain of one stanza.
#[derive(Debug)]
pub struct Chain {
    occurrences: Vec<Occurrence>,
    steps: Vec<Step>,
    at: usize,
    stanza: Arc<Stanza>,
    is_changed: bool,
    exceptions: Vec<Except>,
    is_undecided: bool,
    primary: Option<String>,
    by: Option<By>,
    end: Option<End>,
}

#[derive(Debug)]
struct Step {
    occurrence: usize,
    profile: usize,
    handling: Handling,
    awaited: bool,
}

/// The question that is due.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// Whose servers it goes to.
    pub profile: &'a Profile,
    /// What happens.
    pub occurrence: &'a Occurrence,
    /// What an error or an undecided event becomes.
    pub handling: Handling,
    /// Whether an answer is waited for; else the chain takes [`Came::Told`].
    pub awaited: bool,
}

/// Who had the last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// The server; `None` where none was there to ask.
    pub server: Option<String>,
    /// The profile.
    pub profile: String,
    /// The event.
    pub event: &'static events::Event,
}

/// How a chain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It goes on as it was.
    Passed,
    /// It goes on changed, or not to everybody.
    Modified,
    /// It goes on, and at least once nobody decided.
    PassedUndecided,
    /// It was handled by a server, or discarded after it was told (PR-2).
    Handled,
    /// A server refused it.
    Refused,
    /// Nobody decided, and it is refused for that.
    RefusedUndecided,
}

/// What becomes of the stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// For everybody not named in an exception.
    pub action: Action,
    /// Who is treated otherwise.
    pub exceptions: Vec<Exception>,
    /// Nobody else gets a copy from a room than who was named when it was asked about: what newcomers may get was not decided, and `bounce` lets
    /// nothing go on that nobody decided about.
    pub named_only: bool,
    /// How it went.
    pub way: Way,
    /// The full JID that from now on gets what is sent to its account, where a server named one (`e_PRISESSION`).
    pub primary: Option<String>,
    /// Who stopped it, or changed it last.
    pub by: Option<By>,
}

impl Decision {
    /// What becomes of a stanza that nobody is asked about.
    #[must_use]
    pub fn unasked() -> Self {
        Self {
            action: Action::Deliver,
            exceptions: Vec::new(),
            named_only: false,
            way: Way::Passed,
            primary: None,
            by: None,
        }
    }
}

impl Chain {
    /// The chain of a stanza with these events; `None` where no profile in force on `node` has any of them.
    #[must_use]
    pub fn new(
        compliance: &Compliance,
        node: &str,
        stanza: &str,
        occurrences: Vec<Occurrence>,
    ) -> Option<Self> {
        let mut steps = Vec::new();
        for (index, occurrence) in occurrences.iter().enumerate() {
            let Occurrence { event, packet, .. } = occurrence;
            for (profile, declared) in compliance.profiles.iter().enumerate() {
                // A profile that nobody holds asks nobody.
                if declared.servers.is_empty() || !declared.is_on(node) {
                    continue;
                }
                if let Some(rule) = declared.rule(event, *packet) {
                    let handling = rule.handling(event, *packet);
                    let awaited = !rule.fire_and_forget && event.answers != Answers::Nothing;
                    steps.push(Step { occurrence: index, profile, handling, awaited });
                }
            }
        }
        (!steps.is_empty()).then(|| Self {
            occurrences,
            steps,
            at: 0,
            stanza: Stanza::new(stanza),
            is_changed: false,
            exceptions: Vec::new(),
            is_undecided: false,
            primary: None,
            by: None,
            end: None,
        })
    }

    fn step(&self) -> Option<&Step> {
        self.end.is_none().then(|| self.steps.get(self.at))?
    }

    /// The question that is due; `None` at the end. `compliance` is what the chain was made of.
    #[must_use]
    pub fn turn<'a>(&'a self, compliance: &'a Compliance) -> Option<Turn<'a>> {
        let step = self.step()?;
        Some(Turn {
            profile: &compliance.profiles[step.profile],
            occurrence: &self.occurrences[step.occurrence],
            handling: step.handling,
            awaited: step.awaited,
        })
    }

    /// How much of the time that is left the due question may take. With `bounce` all of it, for its running out ends the chain; with `pass` an equal share
    /// of what is awaited still, so that the next is asked too (FH-4).
    #[must_use]
    pub fn share(&self, left: Duration) -> Duration {
        match self.step() {
            Some(Step { handling: Handling::Pass, awaited: true, .. }) => {
                let awaited = self.steps[self.at..].iter().filter(|step| step.awaited).count();
                left / u32::try_from(awaited).unwrap_or(u32::MAX).max(1)
            }
            _ => left,
        }
    }

    /// The due question about `event`, whose id is `id`.
    #[must_use]
    pub fn question(&self, turn: &Turn<'_>, event: &link::Event, id: [u8; 16], node: &str) -> Question {
        Question {
            event: turn.occurrence.event,
            packet: turn.occurrence.packet,
            profile: turn.profile.name.clone(),
            event_id: id,
            node: node.to_owned(),
            seen_at_micros: event.seen_at_micros,
            awaited: turn.awaited,
            missed: false,
            stanza: Arc::clone(&self.stanza),
            ingress: event.ingress,
            from: event.from.clone(),
            session: event.session.clone(),
            address: event.address.clone(),
            secure: event.secure,
            mechanism: None,
            room: event.room.clone(),
            recipients: self.left_of(turn.occurrence),
            reason: None,
        }
    }

    /// Takes what came of the due question. True when another server of the same profile is to be asked instead.
    pub fn take(&mut self, compliance: &Compliance, server: Option<&str>, came: Came) -> bool {
        let Some(Turn { profile, occurrence, handling, .. }) = self.turn(compliance) else { return false };
        let event = occurrence.event;
        let by = || By {
            server: server.map(str::to_owned),
            profile: profile.name.clone(),
            event: occurrence.event,
        };
        match failure::next(event, handling, came) {
            Next::AskAnother => return true,
            Next::GoOn => {}
            Next::GoOnUndecided => self.is_undecided = true,
            Next::GoOnWith { stanza, .. } if *event == events::E_PRISESSION => {
                // The presence names a session; it does not take the place of the one that was asked about.
                let named = stanza.and_then(|stanza| session_named(stanza, &occurrence.recipients));
                self.primary = named.or(self.primary.take());
            }
            Next::GoOnWith { stanza, exceptions } => {
                if stanza.is_some() || !exceptions.is_empty() {
                    self.by = Some(by());
                }
                if let Some(stanza) = stanza {
                    self.stanza = Stanza::new(stanza);
                    self.is_changed = true;
                }
                exceptions.into_iter().for_each(|except| self.except(except));
            }
            Next::End(end) => {
                self.by = Some(by());
                self.end = Some(end);
            }
        }
        self.at += 1;
        while self.step().is_some_and(|step| self.is_void(&self.occurrences[step.occurrence])) {
            self.at += 1;
        }
        false
    }

    /// An event that is about who gets the stanza does not happen when nobody is left who would.
    fn is_void(&self, occurrence: &Occurrence) -> bool {
        occurrence.fans_out() && !occurrence.recipients.is_empty() && self.left_of(occurrence).is_empty()
    }

    fn is_withheld(&self, jid: &str) -> bool {
        let withheld = |except: &&Except| !matches!(except.action, ExceptAction::Replace(_));
        self.exceptions.iter().filter(withheld).any(|except| except.recipient == jid)
    }

    /// Who would get it still. A copy that was replaced is still somebody's: it may yet be withheld.
    fn left_of(&self, occurrence: &Occurrence) -> Arc<[Recipient]> {
        if self.exceptions.is_empty() {
            return Arc::clone(&occurrence.recipients);
        }
        let left = occurrence.recipients.iter().filter(|recipient| !self.is_withheld(&recipient.bare));
        left.filter_map(|recipient| {
            let mut left = recipient.clone();
            left.resources.retain(|resource| !self.is_withheld(&format!("{}/{resource}", recipient.bare)));
            (recipient.resources.is_empty() || !left.resources.is_empty()).then_some(left)
        })
        .collect()
    }

    /// Notes an exception. What is withheld stays so; what was replaced may be withheld or replaced again.
    fn except(&mut self, new: Except) {
        if self.is_withheld(&new.recipient) || self.is_withheld(bare_of(&new.recipient)) {
            return;
        }
        self.exceptions.retain(|former| {
            let is_about_it =
                former.recipient == new.recipient || bare_of(&former.recipient) == new.recipient;
            // A full JID wins over a bare one, so what is withheld from one session stays beside what is said of them all.
            !is_about_it || !matches!(former.action, ExceptAction::Replace(_))
        });
        self.exceptions.push(new);
    }

    /// What becomes of the stanza of `event`.
    #[must_use]
    pub fn decide(self, event: &link::Event) -> Decision {
        let (action, way) = match self.end {
            Some(End::Handled | End::Discarded) => (Action::Drop, Way::Handled),
            Some(End::Refused(error)) => (Action::Bounce(error), Way::Refused),
            Some(End::Undecided) => (Action::Bounce(failure::undecided()), Way::RefusedUndecided),
            None => {
                let is_modified = self.is_changed || !self.exceptions.is_empty();
                let action = if self.is_changed {
                    Action::Replace(self.stanza.text().to_owned())
                } else {
                    Action::Deliver
                };
                let way = match (self.is_undecided, is_modified) {
                    (true, _) => Way::PassedUndecided,
                    (_, true) => Way::Modified,
                    _ => Way::Passed,
                };
                (action, way)
            }
        };
        let goes_on = matches!(action, Action::Deliver | Action::Replace(_));
        let exceptions = if goes_on { self.exceptions } else { Vec::new() };
        let exceptions = exceptions.into_iter().map(Exception::from).collect();
        let strict = |step: &Step| step.awaited && step.handling == Handling::Bounce;
        let named_only = goes_on
            && event.target == Target::Room
            && self.steps.iter().any(|step| strict(step) && self.occurrences[step.occurrence].fans_out());
        let decision = Decision { action, exceptions, named_only, way, primary: self.primary, by: self.by };
        decision.for_one(event)
    }
}

impl Decision {
    /// Where there is one recipient only, what was said of that one is said of the stanza: nothing is fanned out.
    fn for_one(mut self, event: &link::Event) -> Self {
        let [only] = event.recipients.as_slice() else { return self };
        if event.target == Target::Room {
            return self;
        }
        let Some(index) = self.exceptions.iter().position(|exception| exception.recipient == only.bare)
        else {
            return self;
        };
        self.action = self.exceptions.swap_remove(index).action;
        match self.action {
            Action::Drop => self.way = Way::Handled,
            Action::Bounce(_) => self.way = Way::Refused,
            Action::Deliver | Action::Replace(_) => return self,
        }
        self.exceptions.clear();
        self
    }
}

impl Occurrence {
    /// Whether it is about who gets the stanza.
    fn fans_out(&self) -> bool {
        [&events::ES_IN, &events::ON_BEFORE_BROADCAST].contains(&self.event)
    }
}

impl From<Except> for Exception {
    fn from(except: Except) -> Self {
        let action = match except.action {
            ExceptAction::Withhold => Action::Drop,
            ExceptAction::Refuse(error) => Action::Bounce(error),
            ExceptAction::Replace(stanza) => Action::Replace(stanza),
        };
        Self { recipient: except.recipient, action }
    }
}

/// The full JID in the `from` of a presence, if it is one of these sessions.
fn session_named(presence: String, sessions: &[Recipient]) -> Option<String> {
    let presence = Stanza::new(presence);
    let presence = presence.element().ok()?;
    let full = presence.attr("from")?;
    let (bare, resource) = full.split_once('/')?;
    let is_there = |recipient: &Recipient| {
        recipient.bare == bare && recipient.resources.iter().any(|known| known == resource)
    };
    sessions.iter().any(is_there).then(|| full.to_owned())
}

#[cfg(test)]
mod tests;
