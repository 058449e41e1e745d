//! Clients that cost next to nothing, so that the benchmark measures the server: login by the usual client, and then bytes.

pub mod compliance;
pub mod recording;

use crate::client::DEADLINE;
use crate::link::{RawLink, event};
use crate::postgres::Postgres;
use crate::prosody::{DOMAIN, PASSWORD};
use crate::sidecar::Sidecar;
use crate::world::DATABASE;
use anyhow::{Context, Result, bail, ensure};
use cartulary_compliance::link::{Action, Frame};
use sqlx::{Executor, Row};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TEXT: &str = "The quick brown fox jumps over the lazy dog, and the dog has heard that one before.";
const END: &[u8] = b"</message>";

/// As Debian configures PostgreSQL, with every commit synced; only the number of connections is ours.
const SETTINGS: &str = "fsync = on\nshared_buffers = 128MB\nautovacuum_naptime = 1min\nmax_wal_size = 1GB\n";

/// How much is said in a benchmark.
pub struct Load {
    /// Pairs of users who talk.
    pub pairs: usize,
    /// Messages each pair has under way at once.
    pub in_flight: usize,
    /// Seconds of each round.
    pub seconds: f64,
    /// Rounds of each kind.
    pub rounds: usize,
    /// Messages whose latency is taken in each round.
    pub latencies: usize,
}

/// One user who talks to another.
pub struct Pair {
    from: TcpStream,
    to: TcpStream,
    message: Vec<u8>,
    // The last bytes of what `to` read, in which an end tag may have begun.
    rest: Vec<u8>,
    errors: Vec<u8>,
}

impl Pair {
    /// Logs both in.
    pub async fn connect(server: SocketAddr, from: &str, to: &str) -> Result<Self> {
        let target = format!("{to}@{DOMAIN}/bench");
        let message = format!("<message to='{target}' type='chat' id='bench'><body>{TEXT}</body></message>")
            .into_bytes();
        Ok(Self {
            from: login(server, from).await?,
            to: login(server, to).await?,
            message,
            rest: Vec::new(),
            errors: vec![0; 4096],
        })
    }

    /// Sends until `until` with `in_flight` messages always under way; returns how many arrived.
    pub async fn stream(&mut self, in_flight: usize, until: Instant) -> Result<usize> {
        self.from.write_all(&self.message.repeat(in_flight)).await?;
        let (mut waiting, mut arrived) = (in_flight, 0);
        while waiting > 0 {
            let now = self.arrive().await?;
            arrived += now;
            waiting -= now;
            if Instant::now() < until {
                self.from.write_all(&self.message.repeat(now)).await?;
                waiting += now;
            }
        }
        Ok(arrived)
    }

    /// How long one message takes from one client to the other.
    pub async fn once(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        self.from.write_all(&self.message).await?;
        while self.arrive().await? == 0 {}
        Ok(begin.elapsed())
    }

    // Reads once and counts the messages that are whole now.
    async fn arrive(&mut self) -> Result<usize> {
        let mut buffer = [0; 16384];
        let count = tokio::select! {
            count = self.to.read(&mut buffer) => count?,
            refused = self.from.read(&mut self.errors) => {
                bail!("the sender was told: {}", String::from_utf8_lossy(&self.errors[..refused?]))
            }
            () = tokio::time::sleep(DEADLINE) => bail!("no message for {DEADLINE:?}"),
        };
        ensure!(count > 0, "the server closed a stream");
        self.rest.extend_from_slice(&buffer[..count]);
        let found = self.rest.windows(END.len()).filter(|window| *window == END).count();
        let keep = self
            .rest
            .windows(END.len())
            .rposition(|w| w == END)
            .map_or(self.rest.len().saturating_sub(END.len() - 1), |at| at + END.len());
        self.rest.drain(..keep);
        Ok(found)
    }
}

// PLAIN, bind and presence by hand: the stream must end up with nobody reading it but the benchmark.
async fn login(server: SocketAddr, user: &str) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let header = format!(
        "<stream:stream to='{DOMAIN}' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
    );
    let secret = base64(format!("\0{user}\0{PASSWORD}").as_bytes());
    for (say, expect) in [
        (header.clone(), "</stream:features>"),
        (format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>"), "<success"),
        (header, "</stream:features>"),
        ("<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>bench</resource></bind></iq>".to_owned(), "</iq>"),
        ("<presence/><iq type='get' id='ready'><ping xmlns='urn:xmpp:ping'/></iq>".to_owned(), "ready"),
    ] {
        socket.write_all(say.as_bytes()).await?;
        let mut heard = String::new();
        while !heard.contains(expect) {
            let mut buffer = [0; 4096];
            let count = socket.read(&mut buffer).await?;
            ensure!(count > 0, "logging in {user}: {heard}");
            heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }
    Ok(socket)
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * place) & 63) as usize] as char;
            out.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

/// Lets `count` records wait for a stopped archive and measures how fast they drain, and how fast PostgreSQL takes the same rows
/// by COPY into tables with the same indexes. Records a second, both.
pub async fn drain_and_copy(
    postgres: &mut Postgres,
    sidecar: &mut Sidecar,
    count: usize,
) -> Result<(f64, f64)> {
    sidecar.drained().await?;
    let mut link = RawLink::greeted(&sidecar.link(), &[DOMAIN]).await?;
    let before = sidecar.status().await?.endpoints.values().map(|e| e.archived).sum::<u64>();
    let last: uuid::Uuid = sqlx::query("SELECT max(id::text)::uuid FROM cartulary.record")
        .fetch_one(&mut postgres.connect(DATABASE).await?)
        .await?
        .try_get(0)?;
    postgres.stop().await?;
    let mut answered = 0;
    for n in 1..=count as u64 {
        let (from, to) = (format!("user{}@{DOMAIN}/bench", n % 40), format!("user{}@{DOMAIN}", (n + 1) % 40));
        link.send(&Frame::Event(n, event(&from, &to, &format!("drain-{n}"), TEXT))).await?;
        while n as usize - answered > 500 || (n as usize == count && answered < count) {
            if let Frame::Verdict(_, verdict) = link.frame().await? {
                ensure!(verdict.action == Action::Deliver, "{:?}", verdict.action);
                answered += 1;
            }
        }
    }
    postgres.resume().await?;
    let archived = async || -> Result<u64> {
        Ok(sidecar.status().await?.endpoints.values().map(|e| e.archived).sum::<u64>() - before)
    };
    // From the first batch on: how soon a stopped database is tried again is another matter.
    let (mut first, mut begin) = (0, Instant::now());
    let rate = loop {
        let now = archived().await?;
        if first == 0 && now > 0 {
            (first, begin) = (now, Instant::now());
        }
        if now >= count as u64 {
            break (now - first) as f64 / begin.elapsed().as_secs_f64();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };

    let mut connection = postgres.connect(DATABASE).await?;
    let mut rows = 0;
    let mut elapsed = Duration::ZERO;
    for (table, key) in
        [("record", "id"), ("payload", "record_id"), ("delivery", "record_id"), ("outcome", "record_id")]
    {
        // On a path of its own, in the server's folder, which its user may write.
        let file = postgres.socket_dir().join(format!("{table}.copy"));
        let file = file.to_str().context("a path in UTF-8")?;
        connection
            .execute(sqlx::AssertSqlSafe(format!(
                "CREATE TABLE copy_{table} (LIKE cartulary.{table} INCLUDING ALL)"
            )))
            .await?;
        let out = format!(
            "COPY (SELECT * FROM cartulary.{table} WHERE {key} > '{last}') TO '{file}' (FORMAT binary)"
        );
        connection.execute(sqlx::AssertSqlSafe(out)).await?;
        let begin = Instant::now();
        let copied = connection
            .execute(sqlx::AssertSqlSafe(format!("COPY copy_{table} FROM '{file}' (FORMAT binary)")))
            .await?;
        elapsed += begin.elapsed();
        if table == "record" {
            rows = copied.rows_affected();
        }
    }
    Ok((rate, rows as f64 / elapsed.as_secs_f64()))
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

// The value below which this share of them lies.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * share) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

fn spread(values: &mut [f64], digits: usize) -> String {
    let middle = median(values);
    let (least, greatest) =
        (values.first().copied().unwrap_or(f64::NAN), values.last().copied().unwrap_or(f64::NAN));
    format!("{middle:.digits$} ({least:.digits$} to {greatest:.digits$})")
}
