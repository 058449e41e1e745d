//! A compliance server for tests: real sockets, every event it sees kept, answers as a test scripts them, and any misbehaviour.
//!
//! It speaks `docs/event-protocol.md` by hand and shares no code with the sidecar, so that both are held against the page and not
//! against each other. It listens on 127.0.0.1 only, and what it kept outlives its connections.

pub mod seen;
mod splitter;
mod stream;
pub mod tls;

pub use seen::{Answer, Seen};

use crate::client::DEADLINE;
use anyhow::{Context, Result, anyhow};
use cartulary_compliance::config::{Compliance, ComplianceServer, StreamNamespace};
use cartulary_compliance::events::{Event, Handling, Packet};
use cartulary_compliance::profile::{Profile, Rule};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The secret of the handshake, unless a test changes it.
pub const SECRET: &str = "only for tests";

/// How it treats connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Manner {
    /// As it should.
    #[default]
    Prompt,
    /// It takes connections and reads, and says nothing at all.
    Mute,
    /// It takes connections and does not read.
    Deaf,
    /// It answers pings, and leaves every question for [`Policy::release`].
    Slow,
    /// It says this instead of a stream header.
    Greets(Vec<u8>),
}

type Script = dyn Fn(&Seen) -> Answer + Send + Sync;

/// What may be changed while it runs.
struct Settings {
    password: String,
    // The component names it knows; any, where there is no list.
    components: Option<Vec<String>>,
    tls: Option<TlsAcceptor>,
    script: Arc<Script>,
}

/// What its connections share.
struct Shared {
    settings: Mutex<Settings>,
    manner: watch::Sender<Manner>,
    seen: Mutex<Vec<Seen>>,
    count: watch::Sender<usize>,
    // Questions not answered yet.
    held: Mutex<Vec<Seen>>,
    // The ways out of its connections, by the number of the connection.
    links: Mutex<BTreeMap<usize, mpsc::UnboundedSender<Out>>>,
    accepted: watch::Sender<usize>,
    // Streams that the other side ended in order, and names that were presented.
    ended: watch::Sender<usize>,
    presented: Mutex<Vec<String>>,
    // What the other side did against the protocol.
    complaints: Mutex<Vec<String>>,
}

/// What a connection is told.
enum Out {
    Text(String),
    End,
    Break,
}

/// A compliance server.
pub struct Policy {
    /// Its name, as the configuration has it.
    pub name: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Policy {
    /// One that answers PASS.
    pub async fn start(name: &str) -> Result<Self> {
        let settings = Settings {
            password: SECRET.to_owned(),
            components: None,
            tls: None,
            script: Arc::new(|_: &Seen| Answer::Pass),
        };
        let shared = Arc::new(Shared {
            settings: Mutex::new(settings),
            manner: watch::Sender::default(),
            seen: Mutex::default(),
            count: watch::Sender::default(),
            held: Mutex::default(),
            links: Mutex::default(),
            accepted: watch::Sender::default(),
            ended: watch::Sender::default(),
            presented: Mutex::default(),
            complaints: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let listening = Some(tokio::spawn(accept(listener, shared.clone())));
        Ok(Self { name: name.to_owned(), address, shared, listening })
    }

    /// Where it listens, or listened.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How a configuration names it: plain TCP, the right password.
    #[must_use]
    pub fn declared(&self) -> ComplianceServer {
        ComplianceServer {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            password: SECRET.to_owned(),
            stream: StreamNamespace::Accept,
            tls: None,
            keepalive_seconds: 30,
        }
    }

    /// What it answers from now on.
    pub fn answers(&self, script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) {
        self.settings().script = Arc::new(script);
    }

    /// How it treats connections from now on, those that stand included.
    pub fn behaves(&self, manner: Manner) {
        self.shared.manner.send_replace(manner);
    }

    /// The password it wants from now on, from whoever connects.
    pub fn wants_password(&self, password: &str) {
        password.clone_into(&mut self.settings().password);
    }

    /// The component names it knows from now on.
    pub fn knows_only(&self, components: &[&str]) {
        self.settings().components = Some(components.iter().map(|name| (*name).to_owned()).collect());
    }

    /// Speaks TLS from the first byte with whoever connects from now on.
    pub fn protects(&self, acceptor: TlsAcceptor) {
        self.settings().tls = Some(acceptor);
    }

    /// Answers every question that was held, in the order in which they came; returns how many.
    pub fn release(&self, answer: &Answer) -> usize {
        let held = std::mem::take(&mut *lock(&self.shared.held));
        for seen in &held {
            self.reply(seen, answer);
        }
        held.len()
    }

    /// Answers one question, on the connection it came on or, where that is gone, on the last one.
    pub fn reply(&self, seen: &Seen, answer: &Answer) {
        let Some(xml) = answer.to_xml(seen) else { return };
        let links = lock(&self.shared.links);
        if let Some(link) = links.get(&seen.connection).or_else(|| links.values().last()) {
            // A connection that ends just now takes nothing any more.
            let _ = link.send(Out::Text(xml));
        }
    }

    /// Puts text on every stream.
    pub fn says(&self, text: &str) {
        self.tell(|| Out::Text(text.to_owned()));
    }

    /// Shuts down in order: ends its streams and does not listen any more.
    pub async fn shut_down(&mut self) -> Result<()> {
        self.stop_listening().await;
        self.tell(|| Out::End);
        self.without_links().await
    }

    /// Is gone at once, as one that was killed: connections break, nobody listens.
    pub async fn vanish(&mut self) -> Result<()> {
        self.stop_listening().await;
        self.tell(|| Out::Break);
        self.without_links().await
    }

    /// Breaks its connections, and goes on listening.
    pub fn break_links(&self) {
        self.tell(|| Out::Break);
    }

    /// Listens again where it did.
    pub async fn resume(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await.with_context(|| format!("{}", self.address))?;
        self.listening = Some(tokio::spawn(accept(listener, self.shared.clone())));
        Ok(())
    }

    /// Everything it saw, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// How much it saw.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    /// What it saw of one event.
    #[must_use]
    pub fn of(&self, event: &str) -> Vec<Seen> {
        lock(&self.shared.seen).iter().filter(|seen| seen.event == event).cloned().collect()
    }

    /// Events that it saw about the stanza with this id, in order.
    #[must_use]
    pub fn about(&self, stanza_id: &str) -> Vec<Seen> {
        lock(&self.shared.seen).iter().filter(|seen| seen.stanza_id() == stanza_id).cloned().collect()
    }

    /// Forgets what it saw.
    pub fn forget(&self) {
        lock(&self.shared.seen).clear();
    }

    /// Waits until it saw what `pick` looks for; `what` is for the error.
    pub async fn wait(&self, what: &str, pick: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let mut count = self.shared.count.subscribe();
        let search = async {
            loop {
                count.borrow_and_update();
                if let Some(found) = lock(&self.shared.seen).iter().find(|seen| pick(seen)) {
                    return Ok(found.clone());
                }
                count.changed().await?;
            }
        };
        tokio::time::timeout(DEADLINE, search).await.map_err(|_| {
            let seen: Vec<_> = self
                .seen()
                .iter()
                .map(|seen| format!("{} {} {}", seen.event, seen.packet, seen.from))
                .collect();
            anyhow!("{} waited {DEADLINE:?} for {what}; it saw {seen:#?}", self.name)
        })?
    }

    /// Connections it took so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.shared.accepted.borrow()
    }

    /// Waits until it took as many connections.
    pub async fn connected(&self, times: usize) -> Result<()> {
        let mut accepted = self.shared.accepted.subscribe();
        tokio::time::timeout(DEADLINE, accepted.wait_for(|count| *count >= times))
            .await
            .map_err(|_| anyhow!("{} was not connected to {times} times within {DEADLINE:?}", self.name))??;
        Ok(())
    }

    /// Streams that the other side ended in order.
    #[must_use]
    pub fn ended(&self) -> usize {
        *self.shared.ended.borrow()
    }

    /// Component names that were presented to it.
    #[must_use]
    pub fn presented(&self) -> Vec<String> {
        lock(&self.shared.presented).clone()
    }

    /// What the other side did against the protocol: empty, in every test.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.shared.complaints).clone()
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.shared.settings)
    }

    fn tell(&self, what: impl Fn() -> Out) {
        for link in lock(&self.shared.links).values() {
            // It may be ending by itself.
            let _ = link.send(what());
        }
    }

    async fn stop_listening(&mut self) {
        if let Some(task) = self.listening.take() {
            task.abort();
            // Aborted: the socket is closed when this returns.
            let _ = task.await;
        }
    }

    async fn without_links(&self) -> Result<()> {
        crate::process::until("the end of its connections", async || lock(&self.shared.links).is_empty())
            .await
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if let Some(task) = self.listening.take() {
            task.abort();
        }
        self.tell(|| Out::Break);
    }
}

/// A profile that is in force everywhere.
#[must_use]
pub fn profile(name: &str, rules: Vec<Rule>, servers: &[&Policy]) -> Profile {
    let mut servers: Vec<_> = servers.iter().map(|server| server.name.clone()).collect();
    servers.sort();
    Profile { name: name.to_owned(), events: rules, servers, nodes: None }
}

/// These servers and profiles, with a timeout for events that leaves a slow machine time.
#[must_use]
pub fn compliance(servers: &[&Policy], profiles: Vec<Profile>) -> Compliance {
    let servers = servers.iter().map(|server| (server.name.clone(), server.declared())).collect();
    Compliance { servers, profiles, event_timeout_ms: 20_000, ..Compliance::default() }
}

/// A rule about messages only.
#[must_use]
pub fn messages(event: &Event) -> Rule {
    Rule { packets: vec![Packet::Message], ..Rule::new(event) }
}

/// A rule with a handling.
#[must_use]
pub fn handled(rule: Rule, handling: Handling) -> Rule {
    Rule { handling: Some(handling), ..rule }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // An error of one connection attempt is that attempt's.
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let number = *shared.accepted.borrow();
        shared.accepted.send_modify(|count| *count += 1);
        tokio::spawn(stream::serve(socket, number, shared.clone()));
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
