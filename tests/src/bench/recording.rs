//! What recording costs: three Prosodys stand side by side and take turns: bare, with its own archive (mod_mam) in PostgreSQL, and
//! with ours, durably recorded before delivery and archived to the same PostgreSQL.

use super::{Load, Pair, drain_and_copy, median, spread};
use crate::oracle::create_database;
use crate::postgres::{PASSWORD, Postgres, SUPERUSER};
use crate::process::{cpu_seconds, folder};
use crate::prosody::{Prosody, Setup};
use crate::sidecar::Sidecar;
use crate::world::{DATABASE, config};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

const NAMES: [&str; 3] = ["bare", "own archive", "ours"];

#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    p50: Vec<f64>,
    server_cpu: Vec<f64>,
}

/// Measures and prints; `drain` is the number of records for the drain.
pub async fn measure(args: &Load, drain: usize) -> Result<()> {
    let dir = folder()?;
    let mut postgres = Postgres::start_with(&dir.path().join("postgres"), super::SETTINGS).await?;
    create_database(&postgres, DATABASE, true).await?;
    postgres.sql("postgres", "CREATE DATABASE mam").await?;

    let users: Vec<String> = (0..2 * args.pairs).map(|n| format!("user{n}")).collect();
    let ours = dir.path().join("ours");
    let mut sidecar =
        Sidecar::start(&dir.path().join("sidecar"), &ours, config(&postgres), Vec::new()).await?;
    let mam = format!(
        "modules_enabled = {{ \"disco\", \"roster\", \"saslauth\", \"ping\", \"carbons\", \"mam\" }}\n\
         default_archive_policy = true\narchive_expires_after = \"never\"\nstorage = {{ archive = \"sql\" }}\n\
         sql = {{ driver = \"PostgreSQL\", database = \"mam\", host = \"127.0.0.1\", port = {}, username = \"{SUPERUSER}\", \
         password = \"{PASSWORD}\" }}",
        postgres.port()
    );
    let mut with_ours = Prosody::prepare(&ours, Setup::new(&users, ""), Some(sidecar.link()))?;
    with_ours.resume().await?;
    sidecar.covered().await?;
    let servers = [
        Prosody::bare(&dir.path().join("bare"), &users, "").await?,
        Prosody::bare(&dir.path().join("mam"), &users, &mam).await?,
        with_ours,
    ];

    let mut pairs = Vec::new();
    for server in &servers {
        let mut list = Vec::new();
        for n in 0..args.pairs {
            list.push(Pair::connect(server.address(), &users[2 * n], &users[2 * n + 1]).await?);
        }
        pairs.push(list);
    }
    let mut figures = [Figures::default(), Figures::default(), Figures::default()];
    let mut sidecar_cpu = Vec::new();
    for round in 0..=args.rounds {
        for (kind, server) in servers.iter().enumerate() {
            eprint!("\rround {round} of {}: {:12}", args.rounds, NAMES[kind]);
            let id = sidecar.id().context("the sidecar runs")?;
            let (cpu, side) = (server.cpu_seconds(), cpu_seconds(id));
            let begin = Instant::now();
            let until = begin + Duration::from_secs_f64(args.seconds);
            let counts = futures::future::try_join_all(
                pairs[kind].iter_mut().map(|pair| pair.stream(args.in_flight, until)),
            )
            .await?;
            let (count, elapsed) = (counts.iter().sum::<usize>() as f64, begin.elapsed().as_secs_f64());
            let cpu = (server.cpu_seconds() - cpu) / count * 1e6;
            let side = (cpu_seconds(id) - side) / count * 1e6;
            // So that one server's archive is not written during another one's turn.
            sidecar.drained().await?;
            let mut latencies = Vec::with_capacity(args.latencies);
            for _ in 0..args.latencies {
                latencies.push(pairs[kind][0].once().await?.as_secs_f64() * 1e3);
            }
            sidecar.drained().await?;
            // The first round warms caches and prepared statements.
            if round > 0 {
                figures[kind].rate.push(count / elapsed);
                figures[kind].p50.push(median(&mut latencies));
                figures[kind].server_cpu.push(cpu);
                if kind == 2 {
                    sidecar_cpu.push(side);
                }
            }
        }
    }
    eprintln!("\r{:40}", "");
    println!(
        "{} pairs, {} in flight each; median (least to greatest) of {} rounds",
        args.pairs, args.in_flight, args.rounds
    );
    println!(
        "{:12} {:>28} {:>28} {:>22}",
        "", "messages/s", "p50 ms, one in flight", "server CPU µs/message"
    );
    for (name, f) in NAMES.iter().zip(&mut figures) {
        println!(
            "{name:12} {:>28} {:>28} {:>22}",
            spread(&mut f.rate, 0),
            spread(&mut f.p50, 2),
            spread(&mut f.server_cpu, 0)
        );
    }
    println!("sidecar CPU µs/message: {}", spread(&mut sidecar_cpu, 0));
    let [bare, own, ours] = &mut figures;
    let (bare, own_rate, ours_rate) = (median(&mut bare.rate), median(&mut own.rate), median(&mut ours.rate));
    let latency = median(&mut ours.p50) / median(&mut own.p50);
    drop(servers);
    let (drained, copied) = drain_and_copy(&mut postgres, &mut sidecar, drain).await?;
    println!(
        "drain {drained:.0} records/s; COPY of the same rows into the same tables {copied:.0} records/s"
    );
    println!("ratio prosody_vs_own_archive {:.2} 10", ours_rate / own_rate);
    println!("ratio prosody_vs_bare {:.2} 0.45", ours_rate / bare);
    println!("ratio p50_vs_own_archive_p50 {latency:.2} 0.5");
    println!("ratio drain_vs_copy {:.2} 0.7", drained / copied);
    Ok(())
}
