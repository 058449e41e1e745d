//! A conversation among real clients, for the demo: one-to-one, in a room, to somebody who is away, and to somebody a policy keeps
//! one from.
//!
//! Every message is waited for until each session that should have it has it, or its sender was told that it was refused. So the
//! summary holds facts, not hopes.

use crate::client::{Client, DEADLINE};
use crate::transcript::{Kind, Transcript};
use anyhow::{Context, Result, bail, ensure};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Who talks where, and how much.
#[derive(Debug, Clone)]
pub struct Talk {
    /// The server's port for clients, without TLS.
    pub server: SocketAddr,
    /// The virtual host.
    pub domain: String,
    /// The room service.
    pub rooms: String,
    /// At least three users with their passwords.
    pub users: Vec<(String, String)>,
    /// Make the accounts first.
    pub register: bool,
    /// Two more with their passwords, who may not talk to each other and try to.
    pub walled: Option<[(String, String); 2]>,
    /// How many messages are said, besides what the walled two say.
    pub messages: usize,
    /// How long to wait after each message.
    pub pace: Duration,
}

// Said in turn, so that an archive that loses anything but ASCII is found out by the demo already.
const TEXTS: [&str; 6] = [
    "Guten Morgen",
    "שלום, מה שלומך?",
    "✅ deployed 👩🏽‍💻",
    "café, precomposed and cafe\u{301}",
    "a < b && c > 'd'",
    "你好，世界",
];

// How often each of the walled two tries.
const TRIES: usize = 3;

/// Holds the conversation. `progress` is told now and then, in words for people.
pub async fn talk(options: &Talk, mut progress: impl FnMut(&str)) -> Result<Transcript> {
    ensure!(options.users.len() >= 3, "three users are needed, for somebody is away and two still talk");
    let mut clients = login(options, &options.users).await?;
    progress(&format!(
        "{} users are here: {}",
        clients.len(),
        options.users.iter().map(|u| u.0.as_str()).collect::<Vec<_>>().join(", ")
    ));

    let mut transcript = Transcript::default();
    let offline = options.messages / 6;
    let in_room = options.messages / 3;
    let mut speaker = Speaker { options, transcript: &mut transcript, progress: &mut progress, count: 0 };

    for n in 0..options.messages - in_room - offline {
        let (from, to) = (&clients[n % clients.len()], &clients[(n + 1) % clients.len()]);
        speaker.say(from, Kind::OneToOne, to.bare()).await?;
    }
    let room = format!("lobby-{}@{}", std::process::id(), options.rooms);
    for (client, (user, _)) in clients.iter().zip(&options.users) {
        client.join(&room, user).await?;
    }
    for n in 0..in_room {
        speaker.say(&clients[n % clients.len()], Kind::Room, &room).await?;
    }
    let count = speaker.count;
    complete(&transcript, &clients, clients.len()).await?;
    if let Some(walled) = &options.walled {
        try_the_wall(options, walled, &clients[0], &mut transcript, &mut progress).await?;
    }

    let away = clients.pop().context("somebody to be away")?;
    let (away_jid, away_bare) = (away.jid().to_owned(), away.bare().to_owned());
    transcript.hear(&away);
    away.close().await?;
    progress(&format!("{away_bare} went away"));
    let before = transcript.said.len();
    let mut speaker = Speaker { options, transcript: &mut transcript, progress: &mut progress, count };
    for n in 0..offline {
        speaker.say(&clients[n % clients.len()], Kind::Offline, &away_bare).await?;
    }
    for client in &clients {
        client.settle().await?;
    }
    let password = options.users.last().map_or("", |(_, password)| password);
    let back = Client::connect(options.server, &away_jid, password).await?;
    back.available().await?;
    progress(&format!("{away_bare} is back"));
    let refused = refused_of(&clients);
    for said in transcript.said[before..].iter().filter(|said| !refused.contains(&said.id)) {
        back.answer_to(&said.id).await?;
    }
    for client in clients.iter().chain([&back]) {
        transcript.hear(client);
    }
    Ok(transcript)
}

async fn login(options: &Talk, users: &[(String, String)]) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for (user, password) in users {
        if options.register {
            Client::register(options.server, &options.domain, user, password).await?;
        }
        let jid = format!("{user}@{}/desk", options.domain);
        let client = Client::connect(options.server, &jid, password).await?;
        client.available().await?;
        clients.push(client);
    }
    Ok(clients)
}

// Each of the two writes to the other, and to somebody both may talk to. What becomes of it is in the transcript; that a policy
// keeps them apart is for whoever reads it to judge.
async fn try_the_wall(
    options: &Talk,
    walled: &[(String, String); 2],
    friend: &Client,
    transcript: &mut Transcript,
    progress: &mut impl FnMut(&str),
) -> Result<()> {
    let two = login(options, walled).await?;
    for n in 0..TRIES {
        for (from, to) in [(&two[0], &two[1]), (&two[1], &two[0])] {
            let text = format!("between us ({})", n + 1);
            let id = transcript.say(from, Kind::Walled, to.bare(), &text).await?;
            tokio::select! {
                heard = to.answer_to(&id) => progress(&format!(
                    "{} to {}: delivered: {}", from.bare(), to.bare(), heard?.body.unwrap_or_default()
                )),
                told = from.answer_to(&id) => {
                    let told = told?;
                    let (condition, reason) = (told.condition.unwrap_or_default(), told.reason.unwrap_or_default());
                    if n == 0 {
                        progress(&format!("{} to {}: refused, {condition}: {reason}", from.bare(), to.bare()));
                    }
                }
            }
        }
    }
    for one in &two {
        let id = transcript.say(one, Kind::OneToOne, friend.bare(), "hello").await?;
        friend.answer_to(&id).await?;
        progress(&format!("{} to {}: delivered", one.bare(), friend.bare()));
        // Whatever of the other's words were still under way would be here now.
        one.settle().await?;
    }
    for one in &two {
        transcript.hear(one);
        one.close().await?;
    }
    Ok(())
}

struct Speaker<'a, F> {
    options: &'a Talk,
    transcript: &'a mut Transcript,
    progress: &'a mut F,
    count: usize,
}

impl<F: FnMut(&str)> Speaker<'_, F> {
    async fn say(&mut self, from: &Client, kind: Kind, to: &str) -> Result<()> {
        self.count += 1;
        let text = format!("{} ({})", TEXTS[self.count % TEXTS.len()], self.count);
        self.transcript.say(from, kind, to, &text).await?;
        if self.count.is_multiple_of(20) {
            (self.progress)(&format!("{} of {} messages said", self.count, self.options.messages));
        }
        tokio::time::sleep(self.options.pace).await;
        Ok(())
    }
}

// Until every message was heard by each session it was for, or came back.
async fn complete(transcript: &Transcript, clients: &[Client], occupants: usize) -> Result<()> {
    let begin = Instant::now();
    loop {
        for client in clients {
            client.settle().await?;
        }
        let refused = refused_of(clients);
        let mut heard = std::collections::BTreeMap::<String, usize>::new();
        for message in clients.iter().flat_map(Client::messages).filter(|m| !m.is_error() && m.body.is_some())
        {
            *heard.entry(message.id).or_default() += 1;
        }
        let expected = |kind| if kind == Kind::Room { occupants } else { 1 };
        let open = transcript.said.iter().find(|said| {
            !refused.contains(&said.id)
                && heard.get(&said.id).is_none_or(|times| *times < expected(said.kind))
        });
        let Some(open) = open else { return Ok(()) };
        if begin.elapsed() > DEADLINE {
            bail!("neither delivered nor refused within {DEADLINE:?}: {open:?}");
        }
        crate::process::pause().await;
    }
}

fn refused_of(clients: &[Client]) -> std::collections::BTreeSet<String> {
    clients.iter().flat_map(Client::messages).filter(|m| m.is_error()).map(|m| m.id).collect()
}
