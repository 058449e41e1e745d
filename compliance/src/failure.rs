//! What happens to an event when the server for it is away, silent or wrong (FH-1 to FH-6): one table.
//!
//! Two pure functions: [`route`] says which of a profile's servers an event goes to, [`next`] what the chain does with what came of it.
//! Neither knows a clock: how long a server is `Queueing` before it is `Out`, and how long anybody is waited for, is counted by whoever keeps
//! the links.
//!
//! | what came | handling `bounce` | handling `pass` |
//! |---|---|---|
//! | PASS | goes on | goes on |
//! | HANDLE | ends, dropped | ends, dropped |
//! | an error | ends with that error | goes on unchanged |
//! | not admitted by the event (PR-9) | goes on | goes on |
//! | malformed, no time left, no room, nobody in service | ends, refused | goes on unchanged |
//! | the server went out | another server is asked | another server is asked |
//! | told, nobody waits (fire-and-forget) | ends, dropped (PR-2) | goes on |

use crate::balance;
use crate::derive::Key;
use crate::events::{Answers, Event, Handling};
use crate::link::Bounce;
use crate::protocol::{Answer, Except};
use serde::{Deserialize, Serialize};

/// The text a sender reads when nobody could decide about a stanza.
pub const UNDECIDED: &str =
    "This was not delivered because it could not be checked at the moment. Try again later.";

/// How a node sees a compliance server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// Events go to it.
    InService,
    /// It failed a short while ago, or was never reached yet: events queue for it (FH-2).
    Queueing,
    /// It shut down in order, or has been away for longer than declared: others have its share (FH-1, FH-3).
    Out,
}

/// Where an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// To this server, which answers.
    Ask(&'a str),
    /// To this server, which failed a short while ago: it gets the event when it is back in time.
    Queue(&'a str),
    /// Nobody is left; this one had the event's share, were it there.
    Nobody(Option<&'a str>),
}

/// The server for `key` among those that hold the profile. The share of one that is out goes to the others; that of one that only fails waits
/// for it, so that a conversation keeps its order.
#[must_use]
pub fn route<'a>(key: &Key, servers: &'a [String], standing: impl Fn(&str) -> Standing) -> Route<'a> {
    let standings: Vec<(&str, Standing)> =
        servers.iter().map(|server| (server.as_str(), standing(server))).collect();
    let staying = standings.iter().filter(|(_, standing)| *standing != Standing::Out);
    match balance::choose(key, staying.map(|(server, _)| *server)) {
        None => Route::Nobody(balance::choose(key, servers.iter().map(String::as_str))),
        Some(server) if standings.contains(&(server, Standing::Queueing)) => Route::Queue(server),
        Some(server) => Route::Ask(server),
    }
}

/// What came of an event that was given to a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// An answer fit for the question.
    Answered(Answer),
    /// An answer that the event does not admit (PR-9).
    NotAdmitted,
    /// An answer that cannot be used (FH-6).
    Malformed,
    /// Time was over.
    TimedOut,
    /// Too much waits for the server already.
    Overflowed,
    /// The server went out before it answered.
    Out,
    /// None of the profile's servers is in service.
    Nobody,
    /// It was told, and nobody waits for an answer.
    Told,
}

/// What the chain does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It goes on as it is.
    GoOn,
    /// It goes on as it is, though nobody decided.
    GoOnUndecided,
    /// It goes on as the server says.
    GoOnWith {
        /// In place of the stanza.
        stanza: Option<String>,
        /// Who is treated otherwise.
        exceptions: Vec<Except>,
    },
    /// Another server of the profile is asked.
    AskAnother,
    /// It ends here.
    End(End),
}

/// How a chain ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// HANDLE: the server has dealt with it; its sender is not told.
    Handled,
    /// Told and not processed further (PR-2).
    Discarded,
    /// A server refused it with this error.
    Refused(Bounce),
    /// Nobody decided, and it is declared that it is refused then.
    Undecided,
}

/// What the chain does with what came of an event that has this handling.
#[must_use]
pub fn next(event: &Event, handling: Handling, came: Came) -> Next {
    match (came, handling) {
        (Came::Out, _) => Next::AskAnother,
        (Came::NotAdmitted, _) => Next::GoOn,
        // Whatever was said: these events are not for a server to change.
        (Came::Answered(_), _) if event.answers != Answers::Any => Next::GoOn,
        (Came::Answered(Answer::Pass { stanza, exceptions }), _) => Next::GoOnWith { stanza, exceptions },
        (Came::Answered(Answer::Handle), _) => Next::End(End::Handled),
        (Came::Answered(Answer::Error(error)), Handling::Bounce) => Next::End(End::Refused(error)),
        (Came::Answered(Answer::Error(_)) | Came::Told, Handling::Pass) => Next::GoOn,
        (Came::Told, Handling::Bounce) => Next::End(End::Discarded),
        (Came::Malformed | Came::TimedOut | Came::Overflowed | Came::Nobody, Handling::Bounce) => {
            Next::End(End::Undecided)
        }
        (Came::Malformed | Came::TimedOut | Came::Overflowed | Came::Nobody, Handling::Pass) => {
            Next::GoOnUndecided
        }
    }
}

/// The error of a stanza that nobody decided about: it may be tried again (RFC 6120, 8.3.3.19).
#[must_use]
pub fn undecided() -> Bounce {
    Bounce {
        error_type: "wait".into(),
        condition: "service-unavailable".into(),
        text: Some(UNDECIDED.into()),
    }
}

#[cfg(test)]
mod tests;
