//! What compliance servers cost: one Prosody with a sidecar that records, and its messages asked about at no server, at one, and at
//! three in turn; then how soon another server is asked when one of two is killed, and when it ends in order.
//!
//! The servers are the kit's logger, without texts: processes of their own, which write down each event.

use super::{Load, Pair, median, quantile, spread};
use crate::oracle::create_database;
use crate::postgres::Postgres;
use crate::process::{Process, folder, free_port, on_this_machine};
use crate::prosody::{PASSWORD, Prosody, Setup};
use crate::sidecar::{NODE, Sidecar, binary};
use crate::world::{DATABASE, config};
use anyhow::{Context, Result, ensure};
use cartulary_compliance::config::{Compliance, ComplianceServer, StreamNamespace};
use cartulary_compliance::events::{ES_OUT, Packet};
use cartulary_compliance::names::component_name;
use cartulary_compliance::profile::{Profile, Rule};
use cartulary_compliance::status::SidecarStatus;
use rustix::process::Signal;
use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

const NAMES: [&str; 3] = ["first", "second", "third"];
const CHAINS: [(&str, usize); 3] = [("no server", 0), ("one server", 1), ("chain of three", 3)];
/// How long events queue for a killed server before they go to another one.
const DROP_AFTER: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

/// Measures and prints.
pub async fn measure(load: &Load) -> Result<()> {
    let dir = folder()?;
    let postgres = Postgres::start_with(&dir.path().join("postgres"), super::SETTINGS).await?;
    create_database(&postgres, DATABASE, true).await?;
    let mut servers = Vec::new();
    for name in NAMES {
        servers.push(Server::start(dir.path(), name).await?);
    }
    let users: Vec<String> = (0..2 * load.pairs).map(|n| format!("user{n}")).collect();
    let folder = dir.path().join("prosody");
    let mut sidecar =
        Sidecar::start(&dir.path().join("sidecar"), &folder, config(&postgres), Vec::new()).await?;
    let mut prosody = Prosody::prepare(&folder, Setup::new(&users, ""), Some(sidecar.link()))?;
    prosody.resume().await?;
    sidecar.covered().await?;
    let mut pairs = Vec::new();
    for n in 0..load.pairs {
        pairs.push(Pair::connect(prosody.address(), &users[2 * n], &users[2 * n + 1]).await?);
    }
    added(load, &mut sidecar, &servers, &mut pairs).await?;
    takeover(load, &mut sidecar, &mut servers, &mut pairs[0]).await
}

async fn added(load: &Load, sidecar: &mut Sidecar, servers: &[Server], pairs: &mut [Pair]) -> Result<()> {
    let mut figures = [Figures::default(), Figures::default(), Figures::default()];
    for round in 0..=load.rounds {
        for ((name, length), figures) in CHAINS.iter().zip(&mut figures) {
            eprint!("\rround {round} of {}: {name:16}", load.rounds);
            let chain = servers[..*length].iter().map(|server| profile(server.name, &[server])).collect();
            assign(sidecar, &servers[..*length], chain).await?;
            let asked = sidecar.status().await?.questions.stanzas;
            let begin = Instant::now();
            let until = begin + Duration::from_secs_f64(load.seconds);
            let streams = pairs.iter_mut().map(|pair| pair.stream(load.in_flight, until));
            let count = futures::future::try_join_all(streams).await?.iter().sum::<usize>();
            let elapsed = begin.elapsed().as_secs_f64();
            let asked = sidecar.status().await?.questions.stanzas - asked;
            let expected = if *length == 0 { 0 } else { count as u64 };
            ensure!(asked == expected, "{name}: {asked} of {expected} messages were asked about");
            sidecar.drained().await?;
            let mut latencies = Vec::with_capacity(load.latencies);
            for _ in 0..load.latencies {
                latencies.push(pairs[0].once().await?.as_secs_f64() * 1e3);
            }
            sidecar.drained().await?;
            // The first round warms caches and prepared statements.
            if round > 0 {
                figures.rate.push(count as f64 / elapsed);
                figures.p50.push(median(&mut latencies));
                figures.p99.push(quantile(&mut latencies, 0.99));
            }
        }
    }
    eprintln!("\r{:40}", "");
    println!(
        "compliance servers: {} pairs, {} in flight each; median (least to greatest) of {} rounds",
        load.pairs, load.in_flight, load.rounds
    );
    println!(
        "{:16} {:>24} {:>10} {:>24} {:>24}",
        "", "messages/s", "events/s", "p50 ms, one in flight", "p99 ms, one in flight"
    );
    for ((name, length), f) in CHAINS.iter().zip(&mut figures) {
        let events = median(&mut f.rate) * *length as f64;
        println!(
            "{name:16} {:>24} {events:>10.0} {:>24} {:>24}",
            spread(&mut f.rate, 0),
            spread(&mut f.p50, 2),
            spread(&mut f.p99, 2)
        );
    }
    let [none, with @ ..] = &mut figures;
    let (p50, p99) = (median(&mut none.p50), median(&mut none.p99));
    for ((name, _), f) in CHAINS[1..].iter().zip(with) {
        println!(
            "{name} adds {:.2} ms at p50, {:.2} ms at p99",
            median(&mut f.p50) - p50,
            median(&mut f.p99) - p99
        );
    }
    Ok(())
}

async fn takeover(load: &Load, sidecar: &mut Sidecar, servers: &mut [Server], pair: &mut Pair) -> Result<()> {
    let (mut killed, mut ended) = (Vec::new(), Vec::new());
    for _ in 0..load.rounds {
        for (signal, figures) in [(Signal::KILL, &mut killed), (Signal::TERM, &mut ended)] {
            let two = &servers[..2];
            assign(sidecar, two, vec![profile("Shared", &[&two[0], &two[1]])]).await?;
            let before = [two[0].seen()?, two[1].seen()?];
            pair.once().await?;
            let holder = usize::from(two[1].seen()? > before[1]);
            ensure!(two[holder].seen()? > before[holder], "neither server saw the message");
            figures.push(first_at_the_other(pair, &two[holder], &two[1 - holder], signal).await?);
            servers[holder].restart().await?;
        }
    }
    println!("the first event at the other of two servers, seconds, median (least to greatest):");
    println!("  after kill -9, dropAfter {} s: {}", DROP_AFTER.as_secs(), spread(&mut killed, 3));
    println!("  after an orderly end:          {}", spread(&mut ended, 3));
    Ok(())
}

// Seconds from the signal to the first event that the other server sees, while the pair goes on talking.
async fn first_at_the_other(pair: &mut Pair, holder: &Server, other: &Server, signal: Signal) -> Result<f64> {
    let before = other.seen()?;
    let begin = Instant::now();
    holder.process()?.signal(signal)?;
    let seconds = Cell::new(None);
    let talk = async {
        while seconds.get().is_none() {
            pair.once().await?;
        }
        anyhow::Ok(())
    };
    let watch = async {
        while other.seen()? == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        seconds.set(Some(begin.elapsed().as_secs_f64()));
        Ok(())
    };
    tokio::try_join!(talk, watch)?;
    seconds.get().context("it was seen")
}

// Has these servers asked as these profiles say, and waits until that is so.
async fn assign(sidecar: &mut Sidecar, servers: &[Server], profiles: Vec<Profile>) -> Result<()> {
    let described = servers.iter().map(|server| (server.name.to_owned(), server.described()));
    let compliance = Compliance {
        servers: described.collect(),
        profiles,
        drop_after_ms: u32::try_from(DROP_AFTER.as_millis())?,
        ..Compliance::default()
    };
    sidecar.configure(|config| config.compliance = compliance)?;
    sidecar.in_force().await?;
    let served = |status: &SidecarStatus| {
        servers.iter().all(|server| status.compliance_servers.get(server.name).is_some_and(|s| s.in_service))
    };
    sidecar.until("every compliance server in service", served).await.map(drop)
}

// What a message is asked about once.
fn profile(name: &str, servers: &[&Server]) -> Profile {
    let rule = Rule { packets: vec![Packet::Message], ..Rule::new(&ES_OUT) };
    let mut servers: Vec<_> = servers.iter().map(|server| server.name.to_owned()).collect();
    servers.sort();
    Profile { name: name.to_owned(), events: vec![rule], servers, nodes: None }
}

/// A logger of the kit.
struct Server {
    name: &'static str,
    port: u16,
    dir: PathBuf,
    process: Option<Process>,
}

impl Server {
    async fn start(dir: &Path, name: &'static str) -> Result<Self> {
        let mut server = Self { name, port: free_port()?, dir: dir.to_owned(), process: None };
        server.restart().await?;
        Ok(server)
    }

    async fn restart(&mut self) -> Result<()> {
        self.process = None;
        let password = self.dir.join("password");
        fs::write(&password, PASSWORD)?;
        let program = binary()?.with_file_name("logger");
        ensure!(program.is_file(), "{} is not built", program.display());
        let mut command = on_this_machine(&program);
        command
            .args(["--listen", &format!("127.0.0.1:{}", self.port), "--component"])
            .arg(component_name(self.name, NODE))
            .arg("--password-file")
            .arg(password);
        let mut process = Process::start(self.name, &mut command, &self.log())?;
        let port = self.port;
        let listens = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        process.until("the compliance server listens", listens).await?;
        self.process = Some(process);
        Ok(())
    }

    fn described(&self) -> ComplianceServer {
        ComplianceServer {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            password: PASSWORD.to_owned(),
            stream: StreamNamespace::Accept,
            tls: None,
            keepalive_seconds: 30,
        }
    }

    fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("it runs")
    }

    // How much it has written down: a line for each event.
    fn seen(&self) -> Result<u64> {
        Ok(fs::metadata(self.log())?.len())
    }

    fn log(&self) -> PathBuf {
        self.dir.join(self.name)
    }
}
