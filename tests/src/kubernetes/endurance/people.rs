//! People who talk while everything around them fails: they come, talk, go away in one of several manners, and come back.
//!
//! Each remembers what it was told of every message: that the server took it (a later ping on the same stream was answered, and
//! no error came), that it was refused, or nothing. Whom it talks to and what it says is drawn from the seed; when, is not.

use super::schedule::Random;
use crate::client::{Client, escape};
use crate::transcript::Kind;
use anyhow::{Result, anyhow};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The host of `examples/quickstart`.
pub const DOMAIN: &str = "chat.example";
const ROOM: &str = "lobby@rooms.chat.example";
const PASSWORD: &str = "secret";
// How long somebody waits for a server before leaving it for good.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody with an account on the server of one pod.
#[derive(Debug)]
pub struct Person {
    name: String,
    server: SocketAddr,
    others: Vec<String>,
    random: Random,
    said: u64,
}

/// What became of a message, as its sender knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The server has handled it, and said nothing against it.
    Taken,
    /// It came back, with this condition.
    Refused(String),
    /// The stream broke before anything was known.
    Unknown,
}

/// A message that was sent.
#[derive(Debug, Clone)]
pub struct Said {
    /// Its id, and its origin id.
    pub id: String,
    /// How it travels.
    pub kind: Kind,
    /// Its text.
    pub text: String,
    /// What its sender knows.
    pub fate: Fate,
}

/// One stream of somebody, from login to its end.
#[derive(Debug, Default)]
pub struct Session {
    /// Full JID.
    pub jid: String,
    /// What was sent, in order.
    pub said: Vec<Said>,
    /// What was received, in order: id and text.
    pub heard: Vec<(String, String)>,
}

/// What everybody together has done so far, for the lines of progress.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages sent.
    pub said: AtomicU64,
    /// Messages received.
    pub heard: AtomicU64,
    /// Messages that came back.
    pub refused: AtomicU64,
    /// Streams that were had.
    pub sessions: AtomicU64,
}

impl Person {
    /// `others` are the local parts of those whom it talks to, on the same server.
    #[must_use]
    pub fn new(name: &str, server: SocketAddr, others: Vec<String>, seed: u64) -> Self {
        Self { name: name.to_owned(), server, others, random: Random(seed), said: 0 }
    }

    /// Makes the account.
    pub async fn register(&self) -> Result<()> {
        Client::register(self.server, DOMAIN, &self.name, PASSWORD).await
    }

    /// Comes and goes until told to stop; what was said and heard in each session.
    pub async fn live(&mut self, stop: &AtomicBool, counters: &Counters) -> Vec<Session> {
        let mut sessions = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            match self.session(stop, counters).await {
                Some(session) => sessions.push(session),
                None => tokio::time::sleep(Duration::from_millis(300)).await,
            }
            // One in three stays away long enough to be written to meanwhile.
            let away = if self.random.below(3) == 0 { 5_000 } else { 300 };
            tokio::time::sleep(Duration::from_millis(self.random.below(away))).await;
        }
        sessions
    }

    /// A last session, in a system that works: it only hears what is still there for it.
    pub async fn last_call(&self, counters: &Counters) -> Result<Session> {
        let client = Client::connect(self.server, &self.jid(), PASSWORD).await?;
        client.available().await?;
        client.settle().await?;
        client.settle().await?;
        let mut session = Session { jid: self.jid(), ..Session::default() };
        take_down(&client, &mut session, 0, counters);
        client.close().await?;
        Ok(session)
    }

    async fn session(&mut self, stop: &AtomicBool, counters: &Counters) -> Option<Session> {
        let client = patient(Client::connect(self.server, &self.jid(), PASSWORD)).await.ok()?;
        counters.sessions.fetch_add(1, Ordering::Relaxed);
        let mut session = Session { jid: self.jid(), ..Session::default() };
        let mut settled = 0;
        let whole = self.talk(&client, &mut session, &mut settled, stop, counters).await.is_ok();
        take_down(&client, &mut session, settled, counters);
        // Half of those who can say goodbye do; the others are gone without a word.
        if whole && self.random.below(2) == 0 {
            let _ = patient(client.close()).await;
        }
        Some(session)
    }

    async fn talk(
        &mut self,
        client: &Client,
        session: &mut Session,
        settled: &mut usize,
        stop: &AtomicBool,
        counters: &Counters,
    ) -> Result<()> {
        patient(client.available()).await?;
        patient(client.join(ROOM, &self.name)).await?;
        for _ in 0..5 + self.random.below(35) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            for _ in 0..1 + self.random.below(4) {
                let said = self.say(client).await?;
                session.said.push(said);
                counters.said.fetch_add(1, Ordering::Relaxed);
            }
            patient(client.settle()).await?;
            *settled = session.said.len();
            tokio::time::sleep(Duration::from_millis(200 + self.random.below(1_000))).await;
        }
        Ok(())
    }

    async fn say(&mut self, client: &Client) -> Result<Said> {
        self.said += 1;
        let id = format!("{}-{}", self.name, self.said);
        let other = self.random.one_of(&self.others).clone();
        let (kind, to, type_) = match self.random.below(6) {
            0 | 1 => (Kind::Room, ROOM.to_owned(), "groupchat"),
            2 => (Kind::Private, format!("{ROOM}/{other}"), "chat"),
            _ => (Kind::OneToOne, format!("{other}@{DOMAIN}"), "chat"),
        };
        let greeting =
            self.random.one_of(&["Guten Morgen", "שלום", "✅ 👩🏽‍💻", "cafe\u{301}", "a < b && c > 'd'", "你好"]);
        let text = format!("{greeting}, {} ({:x})", self.said, self.random.below(u64::MAX));
        client
            .raw(&format!(
                "<message to='{to}' type='{type_}' id='{id}'><body>{}</body><origin-id xmlns='urn:xmpp:sid:0' id='{id}'/></message>",
                escape(&text)
            ))
            .await?;
        Ok(Said { id, kind, text, fate: Fate::Unknown })
    }

    fn jid(&self) -> String {
        format!("{}@{DOMAIN}/desk", self.name)
    }
}

async fn patient<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, step).await.map_err(|_| anyhow!("no answer within {PATIENCE:?}"))?
}

// Everything the session was told; of its own messages the first `settled` are known to have been handled.
fn take_down(client: &Client, session: &mut Session, settled: usize, counters: &Counters) {
    for said in session.said.iter_mut().take(settled) {
        said.fate = Fate::Taken;
    }
    for message in client.messages() {
        if message.is_error() {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(said) = session.said.iter_mut().find(|said| said.id == message.id) {
                said.fate = Fate::Refused(message.condition.unwrap_or_default());
            }
        } else if let Some(text) = message.body {
            counters.heard.fetch_add(1, Ordering::Relaxed);
            session.heard.push((message.id, text));
        }
    }
}
