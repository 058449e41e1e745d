//! The task of one link: it connects, keeps the connection while it lives, and connects again (CS-3, FH-1, FH-2).
//!
//! All it decides is what to do with bytes; what follows for standings and events is [`super::server`]'s. Invariants: one connection at a
//! time; what is written and not taken by the peer is bounded ([`ROOM`] and one stanza); a peer that takes nothing is as dead as one that says nothing.

use super::connect::{Broken, Connection, closed, keepalive, stream_error};
use super::pulse::{Check, Pulse};
use super::server::Server;
use super::stream::{Item, escape};
use cartulary_compliance::config::ComplianceServer;
use cartulary_compliance::failure::Standing;
use cartulary_compliance::status::{LinkCause, LinkState};
use minidom::Element;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Bytes that are made ready before the peer takes them.
const ROOM: usize = 64 << 10;
/// Bytes that are read at once.
const READ: usize = 16 << 10;
/// First and longest time between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// After so long in service the next attempt is the first again.
const STEADY: Duration = Duration::from_secs(30);
/// How long a peer may take to close its side of a stream that we have closed.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often it is looked whether something is too late, at least.
const TICK: Duration = Duration::from_secs(1);

const VIOLATION: &str =
    "<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>";
const PING: &str = "urn:xmpp:ping";
const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

/// Keeps a link until the server's `stop`.
pub async fn run(server: &Server) {
    tokio::select! {
        () = keep(server) => {}
        () = watch_time(server) => {}
    }
    server.end();
}

async fn watch_time(server: &Server) {
    loop {
        let now = Instant::now();
        let next = server.tick(now).map_or(now + TICK, |drops_at| drops_at.min(now + TICK));
        tokio::select! {
            () = sleep_until(next) => {}
            () = server.turned.notified() => {}
        }
    }
}

async fn keep(server: &Server) {
    let mut declared = server.declared.subscribe();
    let mut attempt: u32 = 0;
    while !server.stop.is_cancelled() {
        let current = declared.borrow_and_update().server.clone();
        let begun = Instant::now();
        let (broken, since) = once(server, &current, &mut declared).await;
        server.lost(&broken, since);
        if server.stop.is_cancelled() {
            return;
        }
        if broken.cause == LinkCause::Reconfigured {
            attempt = 0;
            continue;
        }
        if begun.elapsed() >= STEADY {
            attempt = 0;
        }
        let wait = backoff(attempt, random());
        attempt = attempt.saturating_add(1);
        tokio::select! {
            () = sleep(wait) => {}
            _ = declared.changed() => attempt = 0,
            () = server.stop.cancelled() => return,
        }
    }
}

/// Doubled with each attempt, and spread over its second half by `random` between 0 and 1, so that the nodes of a cluster do not come all at once.
fn backoff(attempt: u32, random: f64) -> Duration {
    let (first, longest) = BACKOFF;
    let whole = first.saturating_mul(1 << attempt.min(16)).min(longest);
    whole.mul_f64(0.5 + random / 2.0)
}

fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}

/// One connection, from its beginning to its end; why it ended, and since when the server is silent.
async fn once(
    server: &Server,
    declared: &ComplianceServer,
    changes: &mut watch::Receiver<super::server::Declared>,
) -> (Broken, Instant) {
    let connecting = async {
        let mut connection = Connection::open(declared).await?;
        server.link_is(LinkState::Connected, None);
        connection.handshake(declared, &server.component).await?;
        server.link_is(LinkState::Active, None);
        Ok(connection)
    };
    let connected = tokio::select! {
        connected = connecting => connected,
        _ = changes.changed() => Err(reconfigured()),
        () = server.stop.cancelled() => Err(reconfigured()),
    };
    match connected {
        Ok(connection) => Session::new(server, declared, connection).run(changes).await,
        Err(Broken { cause, message }) => {
            (Broken { cause, message: format!("{}: {message}", server.address()) }, Instant::now())
        }
    }
}

fn reconfigured() -> Broken {
    Broken::new(LinkCause::Reconfigured, "its declaration has changed: it connects again")
}

/// A stream whose handshake has succeeded.
struct Session<'a> {
    server: &'a Server,
    connection: Connection,
    pulse: Pulse,
    keepalive: Duration,
    /// What is made ready, and how much of it the peer has taken.
    output: Vec<u8>,
    taken: usize,
    is_flushed: bool,
    /// When the peer last took what we wrote, or had nothing to take.
    taken_at: Instant,
    ping: u64,
    is_silent: bool,
}

impl<'a> Session<'a> {
    fn new(server: &'a Server, declared: &ComplianceServer, connection: Connection) -> Self {
        let (now, keepalive) = (Instant::now(), keepalive(declared));
        let pulse = Pulse::new(now, keepalive);
        let output = Vec::new();
        Self {
            server,
            connection,
            pulse,
            keepalive,
            output,
            taken: 0,
            is_flushed: true,
            taken_at: now,
            ping: 0,
            is_silent: false,
        }
    }

    async fn run(mut self, changes: &mut watch::Receiver<super::server::Declared>) -> (Broken, Instant) {
        let address = self.server.address();
        let (Broken { cause, message }, since) = self.live(changes).await;
        if let LinkCause::Closed | LinkCause::Reconfigured | LinkCause::Protocol = cause {
            self.say_farewell().await;
        }
        (Broken { cause, message: format!("{address}: {message}") }, since)
    }

    async fn live(&mut self, changes: &mut watch::Receiver<super::server::Declared>) -> (Broken, Instant) {
        loop {
            let now = Instant::now();
            if let Err(broken) = self.hear(now) {
                return (broken, now);
            }
            let next = match self.look(now) {
                Ok(next) => next,
                Err((broken, since)) => return (broken, since),
            };
            self.refill();
            self.connection.unread.reserve(READ);
            let is_work_left = self.is_owed() || !self.is_flushed;
            let Connection { input, output, unread, .. } = &mut self.connection;
            let moved = tokio::select! {
                read = input.read_buf(unread) => match read {
                    Ok(0) => return (Broken::new(LinkCause::Lost, "the connection was closed without an end of the stream"), Instant::now()),
                    other => other.map(|_| Moved::Nothing),
                },
                moved = push(output, &self.output[self.taken..]), if is_work_left => moved,
                () = self.server.work.notified() => Ok(Moved::Nothing),
                () = sleep_until(next) => Ok(Moved::Nothing),
                _ = changes.changed() => return (reconfigured(), Instant::now()),
                () = self.server.stop.cancelled() => return (reconfigured(), Instant::now()),
            };
            match moved {
                Ok(Moved::Nothing) => {}
                Ok(Moved::Flushed) => self.is_flushed = true,
                Ok(Moved::Written(0)) => {
                    return (
                        Broken::new(LinkCause::Lost, "the connection takes nothing any more"),
                        Instant::now(),
                    );
                }
                Ok(Moved::Written(count)) => {
                    self.taken += count;
                    (self.is_flushed, self.taken_at) = (false, Instant::now());
                }
                Err(error) => return (self.connection.broken(&error), Instant::now()),
            }
        }
    }

    /// Whether the peer has yet to take something.
    fn is_owed(&self) -> bool {
        self.taken < self.output.len()
    }

    /// Makes ready what is to be sent, while the peer is to be asked at all.
    fn refill(&mut self) {
        if self.output.len() - self.taken >= ROOM {
            return;
        }
        self.output.drain(..self.taken);
        self.taken = 0;
        // One large stanza does not keep its room for ever.
        self.output.shrink_to(ROOM.max(self.output.len()));
        if self.pulse.is_alive() && !self.is_silent {
            self.server.send(&mut self.output, ROOM);
        }
    }

    /// Sees to the peer's life; when to look again.
    fn look(&mut self, now: Instant) -> Result<Instant, (Broken, Instant)> {
        if !self.is_owed() {
            self.taken_at = now;
        }
        let stuck_at = self.taken_at + self.keepalive;
        if now >= stuck_at {
            let message = format!("the server has read nothing for {} seconds", self.keepalive.as_secs());
            return Err((Broken::new(LinkCause::NotAnswering, message), self.taken_at));
        }
        match self.pulse.check(now, self.server.oldest_sent()) {
            Check::Fine(until) => Ok(until.min(stuck_at)),
            Check::Ping => {
                self.ping += 1;
                let Server { name, component, .. } = self.server;
                let (from, to) = (escape(component), escape(name));
                let ping = format!(
                    "<iq type='get' id='p{}' from='{from}' to='{to}'><ping xmlns='{PING}'/></iq>",
                    self.ping
                );
                self.output.extend_from_slice(ping.as_bytes());
                self.pulse.pinged(now);
                Ok(now)
            }
            Check::Silent(since, until) => {
                if !self.is_silent {
                    self.is_silent = true;
                    let Broken { cause, message } = self.not_answering();
                    let message = format!("{}: {message}", self.server.address());
                    self.server.silent(&Broken { cause, message }, since);
                }
                // One that is out by now shows on a new connection that it lives.
                if self.server.standing() == Standing::Out {
                    return Err((self.not_answering(), since));
                }
                Ok(until.min(now + TICK))
            }
            Check::Dead(since) => Err((self.not_answering(), since)),
        }
    }

    fn not_answering(&self) -> Broken {
        let message = format!(
            "the connection stands, and nothing was answered for {} seconds",
            self.keepalive.as_secs()
        );
        Broken::new(LinkCause::NotAnswering, message)
    }

    /// Takes in what was read.
    fn hear(&mut self, now: Instant) -> Result<(), Broken> {
        loop {
            let item = match self.connection.parse() {
                Ok(Some(item)) => item,
                Ok(None) => return Ok(()),
                Err(broken) => {
                    self.output.extend_from_slice(VIOLATION.as_bytes());
                    return Err(broken);
                }
            };
            match item {
                Item::Stanza(stanza) => self.take(&stanza, now)?,
                Item::End => return Err(closed()),
                Item::Header(_) => {}
            }
        }
    }

    fn take(&mut self, stanza: &Element, now: Instant) -> Result<(), Broken> {
        if let Some(broken) = stream_error(stanza) {
            return Err(broken);
        }
        let is_answer = stanza.name() == "iq" && matches!(stanza.attr("type"), Some("result" | "error"));
        if !is_answer {
            self.pulse.heard(now);
            self.reply(stanza);
        } else if stanza
            .attr("id")
            .and_then(|id| id.strip_prefix('p'))
            .is_some_and(|id| id.parse().is_ok_and(|id: u64| id > 0 && id <= self.ping))
        {
            let is_first = !self.pulse.is_alive();
            self.pulse.answered(now);
            if is_first {
                self.server.reached();
            }
        } else {
            self.pulse.heard(now);
            self.server.answered(stanza);
        }
        if self.is_silent {
            self.is_silent = false;
            self.server.reached();
        }
        Ok(())
    }

    /// What the peer asks us: pings are answered, everything else is refused. While it takes nothing, it gets nothing.
    fn reply(&mut self, stanza: &Element) {
        let is_asked = stanza.name() == "iq" && matches!(stanza.attr("type"), Some("get" | "set"));
        let Some(id) = stanza.attr("id").filter(|id| is_asked && id.len() <= 1024) else { return };
        if self.output.len() - self.taken >= ROOM {
            return;
        }
        let (id, from, to) = (escape(id), escape(&self.server.component), escape(&self.server.name));
        let reply = if stanza.has_child("ping", PING) {
            format!("<iq type='result' id='{id}' from='{from}' to='{to}'/>")
        } else {
            format!(
                "<iq type='error' id='{id}' from='{from}' to='{to}'><error type='cancel'><service-unavailable xmlns='{STANZAS}'/></error></iq>"
            )
        };
        self.output.extend_from_slice(reply.as_bytes());
    }

    /// Ends our side in order and waits a little for the peer's; what it still answers counts.
    async fn say_farewell(&mut self) {
        self.output.extend_from_slice(b"</stream:stream>");
        let parting = async {
            self.connection.output.write_all(&self.output[self.taken..]).await?;
            self.connection.output.shutdown().await?;
            while self.hear(Instant::now()).is_ok() {
                self.connection.unread.reserve(READ);
                if self.connection.input.read_buf(&mut self.connection.unread).await? == 0 {
                    break;
                }
            }
            Ok::<(), io::Error>(())
        };
        // A peer that is gone already need not hear it.
        _ = timeout(FAREWELL, parting).await;
    }
}

/// Writes some of it, or flushes what was written before. Nothing is lost when this is dropped halfway.
async fn push(output: &mut (impl AsyncWrite + Unpin), ready: &[u8]) -> io::Result<Moved> {
    if ready.is_empty() {
        return output.flush().await.map(|()| Moved::Flushed);
    }
    output.write(ready).await.map(Moved::Written)
}

enum Moved {
    Nothing,
    Written(usize),
    Flushed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rarer_up_to_half_a_minute_and_are_spread() {
        let millis: Vec<u128> = (0..9).map(|attempt| backoff(attempt, 1.0).as_millis()).collect();
        assert_eq!(millis, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(backoff(1000, 0.0), Duration::from_secs(15));
    }
}
