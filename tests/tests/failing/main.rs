//! What fails outside the server and the sidecar: archive, disk, configuration, plugin. Nothing is delivered unrecorded where that
//! is forbidden, nothing is lost where it is on record, and the status says what is wrong (MA-6, MA-7, MA-10, P7).

mod archive;
mod configuration;
mod disk;
mod server;

use anyhow::{Result, ensure};
use cartulary_archive::record::GapReason;
use cartulary_compliance::config::{EndpointTarget, PostgreSql, SidecarConfig};
use cartulary_compliance::names::reason;
use cartulary_tests::client::Client;
use cartulary_tests::oracle::verify;
use cartulary_tests::process::until;
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::{DATABASE, ENDPOINT, World};
use disk::flip;

/// Says `count` messages and waits until each was delivered or refused.
async fn say(transcript: &mut Transcript, from: &Client, to: &Client, count: usize) -> Result<()> {
    for n in 0..count {
        transcript.say(from, Kind::OneToOne, to.bare(), &format!("message {n}")).await?;
    }
    from.settle().await?;
    to.settle().await
}

fn database(config: &mut SidecarConfig) -> &mut PostgreSql {
    match config.endpoints.get_mut(ENDPOINT).map(|endpoint| &mut endpoint.target) {
        Some(EndpointTarget::PostgreSql(target)) => target,
        _ => panic!("every world begins with a PostgreSQL endpoint"),
    }
}

async fn endpoint_says(world: &World, what: &str) -> Result<()> {
    let is = |s: &cartulary_compliance::status::SidecarStatus| {
        s.endpoints.get(ENDPOINT).is_some_and(|e| e.state == what)
    };
    let status = world.sidecar.until(what, is).await?;
    let message = &status.endpoints[ENDPOINT].message;
    ensure!(what == reason::CONNECTED || message.len() > 20, "{what} is explained by {message:?} only");
    Ok(())
}

#[tokio::test]
async fn p7_every_kind_of_loss_is_in_the_status_an_alarm_a_metric_and_the_stream() -> Result<()> {
    let mut world = World::builder()
        .config(|config| {
            config.archiving.block_if_unable_to_record = false;
            for endpoint in config.endpoints.values_mut() {
                endpoint.queue.max_records = 20;
            }
        })
        .start()
        .await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    let gaps = async |world: &World, reason: GapReason| -> Result<u64> {
        let archive = world.archive().await?;
        Ok(archive.gaps().filter(|gap| gap.reason == reason).map(|gap| gap.count).sum())
    };

    // The queue is full.
    world.sidecar.drained().await?;
    world.postgres.stop().await?;
    for _ in 0..30 {
        say(&mut transcript, &anna, &ben, 1).await?;
    }
    world.sidecar.alarm("QueueFull", true).await?;
    world.sidecar.alarm("DeliveredUnrecorded", true).await?;
    let lost = world.sidecar.status().await?.counts.delivered_unrecorded;
    assert!(lost >= 10, "{lost}");
    assert_eq!(world.sidecar.metric("cartulary_delivered_unrecorded_total").await?, lost as f64);
    world.postgres.resume().await?;
    until("the gap record of the full queue", async || {
        gaps(&world, GapReason::QueueFull).await.is_ok_and(|count| count == lost)
    })
    .await?;
    world.sidecar.alarm("QueueFull", false).await?;

    // The server was alone.
    world.sidecar.stop().await?;
    say(&mut transcript, &anna, &ben, 7).await?;
    world.sidecar.resume().await?;
    world.covered().await?;
    world.sidecar.until("what was delivered alone", |s| s.counts.delivered_unrecorded == 7).await?;
    world.sidecar.alarm("DeliveredUnrecorded", true).await?;
    until("the gap record of the missing sidecar", async || {
        gaps(&world, GapReason::NoLink).await.is_ok_and(|count| count == 7)
    })
    .await?;

    // The archive refuses a record alone.
    let refuse = "ALTER TABLE cartulary.record ADD CONSTRAINT poison CHECK (stanza_id <> 'poison') NOT VALID";
    world.postgres.sql(DATABASE, refuse).await?;
    anna.message(ben.bare(), "chat", "poison", "nothing is wrong with it").await?;
    anna.settle().await?;
    world.sidecar.alarm("RecordsRejected", true).await?;
    let series = format!("cartulary_dead_letters{{endpoint=\"{ENDPOINT}\"}}");
    assert_eq!(world.sidecar.metric(&series).await?, 1.0);
    until("the gap record of the refused record", async || {
        gaps(&world, GapReason::Rejected).await.is_ok_and(|count| count == 1)
    })
    .await?;

    // The disk gives something else back than was written.
    world.postgres.stop().await?;
    let hit = "the bit that flips is in here";
    for text in ["before", hit, "after"] {
        transcript.say(&anna, Kind::OneToOne, ben.bare(), text).await?;
    }
    anna.settle().await?;
    world.sidecar.kill()?;
    flip(&world, hit)?;
    world.sidecar.resume().await?;
    world.covered().await?;
    world.sidecar.alarm("JournalDamaged", true).await?;
    assert_eq!(world.sidecar.metric("cartulary_quarantined_total").await?, 1.0);
    world.postgres.resume().await?;
    until("the gap record of the damage", async || {
        gaps(&world, GapReason::Quarantined).await.is_ok_and(|count| count == 1)
    })
    .await?;
    verify(&world.postgres).await?.holds_but_for_gaps()
}
