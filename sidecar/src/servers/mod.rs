//! The links to compliance servers: one to each that a profile of this node is held by (CS-1, CS-3, FH-1 to FH-6).
//!
//! Invariants: decisions about time use the monotonic clock alone; memory is bounded for each server, whatever it does (P6); a server whose
//! declaration did not change is not touched by a new configuration. What it does not do: choose servers, or decide what becomes of a stanza.

pub mod connect;
mod course;
mod link;
mod pending;
mod pulse;
mod server;
pub mod stream;
#[cfg(test)]
mod tests;
mod tls;

use crate::config::{ConfigState, Loaded};
use cartulary_compliance::failure::Standing;
use cartulary_compliance::protocol::{Answer, Question};
use cartulary_compliance::status::ComplianceServerStatus;
use server::{Declared, Server};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What came of asking a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It answered, and the answer is fit for the question.
    Answered(Answer),
    /// It answered what the event does not admit (PR-9); counted.
    NotAdmitted,
    /// What it answered cannot be used; counted.
    Malformed,
    /// Time is over.
    TimedOut,
    /// Too much waits for it; it was not asked.
    Overflowed,
    /// It is out: whoever asked should ask another one (FH-1, FH-3).
    Out,
}

/// The links.
pub struct Servers {
    node: String,
    changes: watch::Sender<u64>,
    config: OnceLock<watch::Receiver<ConfigState>>,
    known: Mutex<Known>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
struct Known {
    /// What the servers were made from.
    loaded: Option<Arc<Loaded>>,
    servers: BTreeMap<String, Arc<Server>>,
}

impl Servers {
    /// No links yet.
    #[must_use]
    pub fn new(node: &str) -> Arc<Self> {
        Arc::new(Self {
            node: node.to_owned(),
            changes: watch::Sender::new(0),
            config: OnceLock::new(),
            known: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Keeps the links that the configuration wants, until `stop`; then ends each stream in order.
    pub async fn run(self: Arc<Self>, mut config: watch::Receiver<ConfigState>, stop: CancellationToken) {
        _ = self.config.set(config.clone());
        loop {
            self.follow();
            tokio::select! {
                changed = config.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        stop.cancelled().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Makes, changes and ends links as the configuration in force says.
    fn follow(&self) {
        let Some(config) = self.config.get() else { return };
        if self.stop.is_cancelled() {
            return;
        }
        let Some(loaded) = config.borrow().current.clone() else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.loaded.as_ref().is_some_and(|known| Arc::ptr_eq(known, &loaded)) {
            return;
        }
        let wanted = self.wanted(&loaded);
        known.servers.retain(|name, server| {
            let is_wanted = wanted.contains_key(name);
            if !is_wanted {
                server.stop.cancel();
            }
            is_wanted
        });
        for (name, declared) in wanted {
            match known.servers.get(&name) {
                Some(server) => server.declare(declared),
                None => {
                    let (stop, changes) = (self.stop.child_token(), self.changes.clone());
                    let server = Arc::new(Server::new(&name, &self.node, declared, stop, changes));
                    known.servers.insert(name, server.clone());
                    self.tasks.spawn(async move { link::run(&server).await });
                }
            }
        }
        known.loaded = Some(loaded);
        drop(known);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The servers that profiles in force on this node are held by.
    fn wanted(&self, loaded: &Loaded) -> BTreeMap<String, Declared> {
        let compliance = &loaded.config.compliance;
        let here = compliance.profiles.iter().filter(|profile| profile.is_on(&self.node));
        let names: BTreeSet<&String> = here.flat_map(|profile| &profile.servers).collect();
        names
            .into_iter()
            .filter_map(|name| Some((name.clone(), Declared::new(compliance.servers.get(name)?, compliance))))
            .collect()
    }

    fn server(&self, name: &str) -> Option<Arc<Server>> {
        let find = || self.known.lock().unwrap_or_else(PoisonError::into_inner).servers.get(name).cloned();
        // Whoever asks may know the newest configuration a moment before we do.
        find().or_else(|| {
            self.follow();
            find()
        })
    }

    /// How a server stands; one that is not known is out.
    #[must_use]
    pub fn standing(&self, server: &str) -> Standing {
        self.server(server).map_or(Standing::Out, |server| server.standing())
    }

    /// Changes whenever a standing does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Asks a server. The question has its place in that server's order when this returns, whenever the future is polled; dropping the
    /// future gives it up.
    pub fn ask(
        &self,
        server: &str,
        question: Arc<Question>,
        deadline: Instant,
    ) -> impl Future<Output = Asked> + Send + 'static + use<> {
        let place = self.server(server).map_or(Err(Asked::Out), |server| server.enter(question, deadline));
        async move {
            match place {
                Ok(place) => place.asked().await,
                Err(asked) => asked,
            }
        }
    }

    /// Tells a server something that nobody waits for; queues like a question until `deadline`. The future says whether it was sent;
    /// dropping it changes nothing.
    pub fn tell(
        &self,
        server: &str,
        question: Arc<Question>,
        deadline: Instant,
    ) -> impl Future<Output = bool> + Send + 'static + use<> {
        let told = self.server(server).and_then(|server| server.enter_told(question, deadline));
        async move {
            match told {
                Some(told) => told.await.unwrap_or(false),
                None => false,
            }
        }
    }

    /// Everything about each link.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, ComplianceServerStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.servers.iter().map(|(name, server)| (name.clone(), server.status())).collect()
    }
}
