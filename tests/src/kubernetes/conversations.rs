//! Pairs of people who talk while a test does things to the cluster, and what each of them can swear to afterwards.
//!
//! The same addresses talk on every pod, for pods that are no cluster among themselves: a conversation's compliance server is to be
//! the same everywhere. Nothing is said again; each message's fate is waited for, so that the load adapts itself.

use crate::client::{Client, DEADLINE};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const PASSWORD: &str = "secret";
const PACE: Duration = Duration::from_millis(150);

/// Conversations that go on.
#[derive(Debug)]
pub struct Conversations {
    stop: watch::Sender<bool>,
    // Rounds that each has finished.
    rounds: Vec<Arc<AtomicUsize>>,
    tasks: Vec<JoinHandle<Result<Conversation>>>,
}

/// One conversation on one pod, after its end.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// The pod.
    pub node: String,
    /// Bare addresses of the two.
    pub pair: [String; 2],
    /// What became of each message, by its id: ids are unique among all conversations.
    pub fates: BTreeMap<String, Fate>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The other one heard it, once.
    Delivered,
    /// The sender was told, with this condition, and the other one heard nothing.
    Refused(String),
}

impl Conversations {
    /// `pairs` conversations on each of these pods.
    pub async fn start(servers: &[(&str, SocketAddr)], domain: &str, pairs: usize) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut talks = Self { stop, rounds: Vec::new(), tasks: Vec::new() };
        for (node, server) in servers {
            for n in 0..pairs {
                let ann = login(*server, domain, &format!("ann{n}")).await?;
                let bea = login(*server, domain, &format!("bea{n}")).await?;
                let talk = Talk { name: format!("{node}-{n}"), node: (*node).to_owned(), people: [ann, bea] };
                let rounds = Arc::<AtomicUsize>::default();
                talks.tasks.push(tokio::spawn(talk.go_on(stopped.clone(), rounds.clone())));
                talks.rounds.push(rounds);
            }
        }
        Ok(talks)
    }

    /// Waits until each of them has gone on by so many rounds, of three messages whose fate is known.
    pub async fn go_on(&mut self, rounds: usize) -> Result<()> {
        let finished = || self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed));
        let wanted: Vec<_> = finished().map(|before| before + rounds).collect();
        let ended = || self.tasks.iter().position(JoinHandle::is_finished);
        crate::process::until("each conversation's next rounds", async || {
            ended().is_some() || finished().zip(&wanted).all(|(now, wanted)| now >= *wanted)
        })
        .await?;
        let Some(which) = ended() else { return Ok(()) };
        self.tasks.swap_remove(which).await??;
        bail!("a conversation ended by itself")
    }

    /// Ends them.
    pub async fn end(self) -> Result<Vec<Conversation>> {
        self.stop.send_replace(true);
        futures::future::try_join_all(self.tasks).await?.into_iter().collect()
    }
}

struct Talk {
    name: String,
    node: String,
    people: [Client; 2],
}

impl Talk {
    async fn go_on(self, stopped: watch::Receiver<bool>, rounds: Arc<AtomicUsize>) -> Result<Conversation> {
        let mut said = [Vec::new(), Vec::new()];
        let mut fates = BTreeMap::new();
        for round in 0.. {
            if *stopped.borrow() {
                break;
            }
            // Two in a row of the one, so that there is an order to keep, and one of the other.
            let turns = [(0, "a"), (0, "b"), (1, "c")]
                .map(|(who, turn)| (who, format!("{}-{round}{turn}", self.name)));
            for (who, id) in &turns {
                let text = format!("text of {id}");
                self.people[*who].message(self.people[1 - who].bare(), "chat", id, &text).await?;
                said[*who].push(id.clone());
            }
            for (who, id) in turns {
                fates.insert(id.clone(), self.fate(who, &id).await?);
            }
            rounds.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PACE).await;
        }
        for who in [0, 1] {
            self.people[who].settle().await?;
        }
        for who in [0, 1] {
            self.only_once_and_in_order(who, &said[who], &fates)?;
        }
        let pair = [0, 1].map(|who| self.people[who].bare().to_owned());
        Ok(Conversation { node: self.node, pair, fates })
    }

    async fn fate(&self, who: usize, id: &str) -> Result<Fate> {
        tokio::select! {
            heard = self.people[1 - who].answer_to(id) => heard.map(|_| Fate::Delivered),
            told = self.people[who].answer_to(id) => {
                Ok(Fate::Refused(told?.condition.context("an error without a condition")?))
            }
        }
        .with_context(|| format!("{}: {id} had no fate within {DEADLINE:?}", self.node))
    }

    // What the listener has heard of one speaker is what was delivered, each once, in the order in which it was said.
    fn only_once_and_in_order(
        &self,
        who: usize,
        said: &[String],
        fates: &BTreeMap<String, Fate>,
    ) -> Result<()> {
        let speaker = self.people[who].jid();
        let heard = self.people[1 - who].messages().into_iter();
        let heard: Vec<_> = heard.filter(|m| !m.is_error() && m.from == speaker).map(|m| m.id).collect();
        let delivered: Vec<_> = said.iter().filter(|id| fates.get(*id) == Some(&Fate::Delivered)).collect();
        ensure!(
            heard.iter().eq(delivered.iter().copied()),
            "{}: {speaker} was heard otherwise than said:\n{heard:?}\n{delivered:?}",
            self.node
        );
        let told = self.people[who].messages().into_iter().filter(|m| m.is_error()).count();
        let refused = said.len() - delivered.len();
        ensure!(told == refused, "{}: {speaker} was told {told} times of {refused} refusals", self.node);
        Ok(())
    }
}

async fn login(server: SocketAddr, domain: &str, user: &str) -> Result<Client> {
    Client::register(server, domain, user, PASSWORD).await?;
    let client = Client::connect(server, &format!("{user}@{domain}/desk"), PASSWORD).await?;
    client.available().await?;
    Ok(client)
}
