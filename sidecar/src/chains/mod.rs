//! Chains at work: the compliance servers are asked about a stanza, one after another, until it is decided (PR-6, FH-1 to FH-6, P3, P6).
//!
//! `compliance::chain` says who is asked next and what an answer does; here is what takes time and memory: lanes that keep the order of a
//! conversation, the one deadline of a stanza, the way to another server when one goes out, and the limit on all that waits.
//!
//! Invariants: a stanza is decided when its deadline has come, whatever servers do; nothing here grows without limit. Not here: the links
//! themselves (`servers`), and the record (`path`).

pub mod lanes;
mod missed;
mod moved;
mod primary;
mod told;

#[cfg(test)]
mod tests;

pub use missed::Missed;
pub use primary::Primaries;
pub use told::{Figures, send_stats};

use crate::counts::Lately;
use crate::servers::{Asked, Servers};
use cartulary_compliance::chain::{Chain, Decision, Turn, Way};
use cartulary_compliance::config::Compliance;
use cartulary_compliance::derive::Key;
use cartulary_compliance::events::{self, Group, Handling};
use cartulary_compliance::failure::{self, Came, Route, Standing};
use cartulary_compliance::link::{Event, Subject};
use cartulary_compliance::profile::Profile;
use cartulary_compliance::protocol::Question;
use cartulary_compliance::status::{ComplianceServerStatus, QuestionCounts};
use futures::FutureExt;
use futures::future::BoxFuture;
use lanes::{Lanes, Ticket};
use moved::Moved;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Stanzas that wait for decisions at once, all lanes together.
const MAX_WAITING: u64 = 50_000;
/// Their bytes.
const MAX_WAITING_BYTES: u64 = 64 << 20;
/// How long after its time a question is given up whose link has not said so.
const BACKSTOP: Duration = Duration::from_secs(1);

/// The compliance servers as a chain sees them: the links, or a test's stand-in.
pub trait Peers: Send + Sync {
    /// How a server stands.
    fn standing(&self, server: &str) -> Standing;
    /// Asks it; see [`Servers::ask`].
    fn ask(&self, server: &str, question: Arc<Question>, deadline: Instant) -> BoxFuture<'static, Asked>;
    /// Tells it; see [`Servers::tell`].
    fn tell(&self, server: &str, question: Arc<Question>, deadline: Instant) -> BoxFuture<'static, bool>;
    /// Changes whenever a standing does.
    fn changes(&self) -> watch::Receiver<u64>;
}

impl Peers for Servers {
    fn standing(&self, server: &str) -> Standing {
        Self::standing(self, server)
    }

    fn ask(&self, server: &str, question: Arc<Question>, deadline: Instant) -> BoxFuture<'static, Asked> {
        Self::ask(self, server, question, deadline).boxed()
    }

    fn tell(&self, server: &str, question: Arc<Question>, deadline: Instant) -> BoxFuture<'static, bool> {
        Self::tell(self, server, question, deadline).boxed()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        Self::changes(self)
    }
}

/// Everything that chains share.
#[derive(Default)]
pub struct Chains {
    peers: OnceLock<Arc<dyn Peers>>,
    lanes: Arc<Lanes>,
    counts: Arc<Mutex<QuestionCounts>>,
    moved: Mutex<Moved>,
    /// Messages refused because nobody decided.
    undecided: Mutex<Lately>,
    /// The sessions that get what is sent to their accounts.
    pub primaries: Primaries,
    /// Logins and logouts that servers have not seen.
    pub missed: Arc<Missed>,
}

/// Room for one stanza that waits.
pub struct Room {
    counts: Arc<Mutex<QuestionCounts>>,
    bytes: u64,
    is_login: bool,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.waiting -= 1;
        counts.waiting_bytes -= self.bytes;
        counts.waiting_logins -= u64::from(self.is_login);
    }
}

/// What a chain is about, beside the chain itself.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// The servers and profiles in force when it came.
    pub compliance: &'a Compliance,
    /// What the plugin asked about.
    pub event: &'a Event,
    /// Its id.
    pub id: [u8; 16],
    /// This pod.
    pub node: &'a str,
    /// When it has to be decided.
    pub deadline: Instant,
}

impl Chains {
    /// Gives it the compliance servers, once. Without them every one is out.
    pub fn open(&self, peers: Arc<dyn Peers>) {
        _ = self.peers.set(peers);
    }

    fn counts(&self) -> MutexGuard<'_, QuestionCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sums, and what waits now.
    #[must_use]
    pub fn status(&self) -> QuestionCounts {
        let undecided_lately = self.undecided().sum(std::time::Instant::now());
        QuestionCounts { undecided_lately, ..self.counts().clone() }
    }

    fn undecided(&self) -> MutexGuard<'_, Lately> {
        self.undecided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what the links say of themselves what only chains know.
    pub fn complete(&self, servers: &mut BTreeMap<String, ComplianceServerStatus>) {
        self.missed.complete(servers);
    }

    /// Room for one more stanza; `None` where too much waits already, so that it is decided at once.
    #[must_use]
    pub fn room(&self, event: &Event) -> Option<Room> {
        let (bytes, is_login) = (event.stanza.len() as u64, event.subject == Subject::Bind);
        let mut counts = self.counts();
        if counts.waiting >= MAX_WAITING || counts.waiting_bytes + bytes > MAX_WAITING_BYTES {
            return None;
        }
        counts.waiting += 1;
        counts.waiting_bytes += bytes;
        counts.waiting_logins += u64::from(is_login);
        drop(counts);
        Some(Room { counts: Arc::clone(&self.counts), bytes, is_login })
    }

    /// Whether anything is being decided.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lanes.is_idle()
    }

    /// Whether something in this lane is being decided.
    #[must_use]
    pub fn is_busy(&self, lane: &Key) -> bool {
        self.lanes.is_busy(lane)
    }

    /// Takes the last place in this lane.
    #[must_use]
    pub fn enter(&self, lane: Key) -> Ticket {
        self.lanes.enter(lane)
    }

    /// Runs a chain to its end.
    pub async fn run(&self, mut chain: Chain, case: Case<'_>) -> Decision {
        while let Some(turn) = chain.turn(case.compliance) {
            let (server, came) = if turn.awaited {
                self.ask(&chain, turn, case).await
            } else {
                self.told(&chain, turn, case).await
            };
            chain.take(case.compliance, server.as_deref(), came);
        }
        self.decide(chain, case)
    }

    /// Decides at once, without asking: too much waits already.
    pub fn overflowed(&self, mut chain: Chain, case: Case<'_>) -> Decision {
        while let Some(turn) = chain.turn(case.compliance) {
            let (server, came) = if turn.awaited || turn.handling == Handling::Bounce {
                (self.passed_by(&chain, turn, case), Came::Overflowed)
            } else {
                let question = chain.question(&turn, case.event, case.id, case.node);
                (self.tell(turn.profile, &turn.occurrence.key, question, case.deadline).0, Came::Told)
            };
            chain.take(case.compliance, server.as_deref(), came);
        }
        self.decide(chain, case)
    }

    fn standing(&self, server: &str) -> Standing {
        self.peers.get().map_or(Standing::Out, |peers| peers.standing(server))
    }

    /// The server whose share it is; noted as not having seen it.
    fn passed_by(&self, chain: &Chain, turn: Turn<'_>, case: Case<'_>) -> Option<String> {
        let Turn { occurrence, profile, .. } = turn;
        let (Route::Ask(server) | Route::Queue(server) | Route::Nobody(Some(server))) =
            failure::route(&occurrence.key, &profile.servers, |server| self.standing(server))
        else {
            return None;
        };
        if is_kept_when_missed(occurrence.event) {
            self.missed.note(server, &Arc::new(chain.question(&turn, case.event, case.id, case.node)));
        }
        Some(server.to_owned())
    }

    /// Asks the server that is due, and others in its place when it goes out.
    async fn ask(&self, chain: &Chain, turn: Turn<'_>, case: Case<'_>) -> (Option<String>, Came) {
        let now = Instant::now();
        let deadline = now + chain.share(case.deadline.saturating_duration_since(now));
        let question = Arc::new(chain.question(&turn, case.event, case.id, case.node));
        let mut gone: Vec<&str> = Vec::new();
        let (server, came) = loop {
            let standing =
                |server: &str| if gone.contains(&server) { Standing::Out } else { self.standing(server) };
            let server = match failure::route(&turn.occurrence.key, &turn.profile.servers, standing) {
                Route::Ask(server) | Route::Queue(server) => server,
                Route::Nobody(home) => break (home, Came::Nobody),
            };
            let Some(peers) = self.peers.get() else { break (Some(server), Came::Nobody) };
            if !gone.is_empty() {
                self.counts().rerouted += 1;
            }
            self.note_place(turn.profile, &turn.occurrence.key, server);
            let asked = peers.ask(server, Arc::clone(&question), deadline);
            match tokio::time::timeout_at(deadline + BACKSTOP, asked).await {
                Ok(Asked::Out) => gone.push(server),
                Ok(asked) => break (Some(server), came(asked)),
                Err(_) => break (Some(server), Came::TimedOut),
            }
        };
        let unseen = matches!(came, Came::TimedOut | Came::Overflowed | Came::Nobody);
        if unseen && let Some(server) = server {
            self.missed.note(server, &question);
        }
        (server.map(str::to_owned), came)
    }

    /// Tells the server that is due; nobody waits for its answer. What is discarded after it was told has to have been told (PR-2), so that with
    /// `bounce` the sending is waited for: what nobody was told is undecided.
    async fn told(&self, chain: &Chain, turn: Turn<'_>, case: Case<'_>) -> (Option<String>, Came) {
        let question = chain.question(&turn, case.event, case.id, case.node);
        let (server, telling) = self.tell(turn.profile, &turn.occurrence.key, question, case.deadline);
        if turn.handling == Handling::Pass {
            return (server, Came::Told);
        }
        match tokio::time::timeout_at(case.deadline + BACKSTOP, telling).await {
            Ok(true) => (server, Came::Told),
            Ok(false) | Err(_) => (server, Came::Nobody),
        }
    }

    /// Tells the profile's server for `key`; its name, and whether it will have been sent. That need not be waited for.
    fn tell(
        &self,
        profile: &Profile,
        key: &Key,
        question: Question,
        deadline: Instant,
    ) -> (Option<String>, BoxFuture<'static, bool>) {
        let question = Arc::new(question);
        let nobody = || std::future::ready(false).boxed();
        let server = match failure::route(key, &profile.servers, |server| self.standing(server)) {
            Route::Ask(server) | Route::Queue(server) => server,
            Route::Nobody(home) => {
                if let Some(home) = home {
                    self.missed.note(home, &question);
                }
                return (home.map(str::to_owned), nobody());
            }
        };
        self.note_place(profile, key, server);
        let Some(peers) = self.peers.get() else { return (Some(server.to_owned()), nobody()) };
        let telling = peers.tell(server, Arc::clone(&question), deadline);
        // What else was not seen is nothing to anybody. Bounded by what may wait for the server: more is refused at once.
        let telling = if is_kept_when_missed(question.event) {
            let (missed, server) = (Arc::clone(&self.missed), server.to_owned());
            let noting = tokio::spawn(async move {
                let was_sent = telling.await;
                if !was_sent {
                    missed.note(&server, &question);
                }
                was_sent
            });
            noting.map(|was_sent| was_sent.unwrap_or(false)).boxed()
        } else {
            telling
        };
        (Some(server.to_owned()), telling)
    }

    fn note_place(&self, profile: &Profile, key: &Key, server: &str) {
        if profile.servers.len() > 1
            && self.moved.lock().unwrap_or_else(PoisonError::into_inner).note(&profile.name, key, server)
        {
            self.counts().conversations_moved += 1;
        }
    }

    fn decide(&self, chain: Chain, case: Case<'_>) -> Decision {
        let decision = chain.decide(case.event);
        if let Some(full) = &decision.primary {
            self.primaries.name(full);
        }
        let mut counts = self.counts();
        counts.stanzas += 1;
        match decision.way {
            Way::Passed => counts.passed += 1,
            Way::Modified => counts.modified += 1,
            Way::PassedUndecided => counts.undecided_passed += 1,
            Way::Handled => counts.handled += 1,
            Way::Refused => counts.bounced += 1,
            Way::RefusedUndecided => counts.undecided_bounced += 1,
        }
        if matches!(decision.way, Way::Refused | Way::RefusedUndecided) {
            if case.event.subject == Subject::Message {
                counts.refused_messages += 1;
            } else if decision.by.as_ref().is_some_and(|by| by.event.group == Group::Tc) {
                counts.refused_room_events += 1;
            }
        }
        drop(counts);
        if decision.way == Way::RefusedUndecided && case.event.subject == Subject::Message {
            self.undecided().add(std::time::Instant::now(), 1);
        }
        if let Some(by) = &decision.by {
            tracing::debug!(
                event = %uuid::Uuid::from_bytes(case.id),
                server = by.server.as_deref().unwrap_or_default(),
                profile = by.profile,
                name = by.event.name,
                way = ?decision.way,
                "a compliance server had a say"
            );
        }
        decision
    }
}

/// Whether servers that have not seen this event get it later, and it is on record that they have not (FH-8).
fn is_kept_when_missed(event: &events::Event) -> bool {
    [&events::E_SESSION, &events::ES_END].contains(&event)
}

fn came(asked: Asked) -> Came {
    match asked {
        Asked::Answered(answer) => Came::Answered(answer),
        Asked::NotAdmitted => Came::NotAdmitted,
        Asked::Malformed => Came::Malformed,
        Asked::TimedOut => Came::TimedOut,
        Asked::Overflowed => Came::Overflowed,
        Asked::Out => Came::Out,
    }
}
