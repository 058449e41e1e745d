//! kill -9 of the sidecar and of PostgreSQL, fifty times at random moments, while clients talk: whatever a client received is in
//! the archive, exactly once (P1, P2).
//!
//! `CARTULARY_SEED=N` repeats the moments of a run; its number is printed with the totals.

use anyhow::{Context, Result};
use cartulary_tests::client::Client;
use cartulary_tests::oracle::nothing_is_unrecorded;
use cartulary_tests::prosody::ROOMS;
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::World;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const KILLS: usize = 50;

#[tokio::test]
async fn p2_whatever_a_client_received_is_archived_once_though_sidecar_and_database_are_killed_fifty_times()
-> Result<()> {
    let seed = match std::env::var("CARTULARY_SEED") {
        Ok(given) => given.parse().context("CARTULARY_SEED is a number")?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into(),
    };
    let mut random = Random(seed);
    let mut world = World::start().await?;
    let room = format!("lobby@{ROOMS}");
    let mut clients = Vec::new();
    for who in ["anna", "ben", "cleo"] {
        let client = world.client(&format!("{who}/desk")).await?;
        client.join(&room, who).await?;
        clients.push(Arc::new(client));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let talks: Vec<_> = (0..clients.len())
        .map(|n| {
            let (from, to) = (clients[n].clone(), clients[(n + 1) % clients.len()].bare().to_owned());
            tokio::spawn(chatter(from, to, room.clone(), stop.clone()))
        })
        .collect();

    let outcome = kill_often(&mut world, &mut random).await;
    stop.store(true, Ordering::Relaxed);
    let mut transcript = Transcript::default();
    for talk in talks {
        transcript.merge(talk.await??);
    }
    outcome.with_context(|| format!("seed {seed}"))?;
    for _ in 0..2 {
        for client in &clients {
            client.settle().await?;
        }
    }
    for client in &clients {
        assert!(!client.ended(), "{} lost its session", client.jid());
        transcript.hear(client);
    }

    let archive = world.archive().await?;
    nothing_is_unrecorded(&transcript, &archive).with_context(|| format!("seed {seed}"))?;
    cartulary_tests::oracle::verify(&world.postgres)
        .await?
        .holds()
        .with_context(|| format!("seed {seed}"))?;
    let (said, delivered) = (transcript.said.len(), transcript.delivered().len());
    println!(
        "{KILLS} kills, seed {seed}: {said} said, {delivered} delivered, {} refused, {} archived, 0 delivered and not archived",
        transcript.refused.len(),
        archive.accepted().count()
    );
    assert!(delivered > KILLS && archive.accepted().count() >= delivered);
    Ok(())
}

async fn kill_often(world: &mut World, random: &mut Random) -> Result<()> {
    for n in 0..KILLS {
        // Not to wait for anything, but to hit another moment each time.
        tokio::time::sleep(Duration::from_millis(random.below(250))).await;
        if n % 2 == 0 {
            world.sidecar.kill()?;
            tokio::time::sleep(Duration::from_millis(random.below(50))).await;
            world.sidecar.resume().await?;
            // Half of the time it dies again before the plugin is back.
            if random.below(2) == 0 {
                world.covered().await?;
            }
        } else {
            world.postgres.kill()?;
            tokio::time::sleep(Duration::from_millis(random.below(50))).await;
            world.postgres.resume().await?;
        }
    }
    world.covered().await
}

// Talks to one user and to the room, with a few messages always under way, until told to stop.
async fn chatter(client: Arc<Client>, to: String, room: String, stop: Arc<AtomicBool>) -> Result<Transcript> {
    let mut transcript = Transcript::default();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..4 {
            n += 1;
            let (kind, to) = if n % 3 == 0 { (Kind::Room, &room) } else { (Kind::OneToOne, &to) };
            transcript.say(&client, kind, to, &format!("message {n} of {}", client.jid())).await?;
        }
        client.settle().await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(transcript)
}

// SplitMix64: enough for choosing moments, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}
