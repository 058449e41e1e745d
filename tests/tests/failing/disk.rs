//! The journal's volume is full, damaged, or does not answer.

use crate::say;
use crate::server::what_was_decided_alone_is_an_outcome;
use anyhow::{Context, Result};
use cartulary_archive::record::GapReason;
use cartulary_tests::oracle::{nothing_is_unrecorded, verify};
use cartulary_tests::process::until;
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::World;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

// A sidecar whose volume holds eight mebibytes, in a mount namespace of its own.
fn small_volume() -> Vec<String> {
    // The script's arguments are the sidecar's command line; its volume is the folder after --data-dir.
    let script = "for word; do [ \"$last\" = --data-dir ] && volume=$word; last=$word; done\n\
        mount -t tmpfs -o size=8m tmpfs \"$volume\" && exec setpriv --pdeathsig KILL \"$@\"";
    ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_full_volume_refuses_or_lets_go_as_declared_and_recovers_by_itself() -> Result<()> {
    for block in [true, false] {
        let start = World::builder().under(small_volume()).config(move |config| {
            config.archiving.block_if_unable_to_record = block;
            config.journal.keep_confirmed_seconds = 0;
        });
        let mut world = start.start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        world.postgres.stop().await?;
        let large = "x".repeat(200_000);
        for _ in 0..60 {
            transcript.say(&anna, Kind::OneToOne, ben.bare(), &large).await?;
            anna.settle().await?;
        }
        ben.settle().await?;
        let status = world.sidecar.status().await?;
        assert!(
            !status.ready || status.journal.problem.is_some(),
            "the status says that the volume is full: {status:#?}"
        );
        let refused = anna.messages().iter().filter(|message| message.is_error()).count();
        if block {
            assert!((1..60).contains(&refused), "{refused} of 60 were refused");
            assert_eq!(ben.messages().len() + refused, 60);
        } else {
            assert_eq!((refused, ben.messages().len()), (0, 60));
            assert!(status.counts.delivered_unrecorded > 0);
        }
        world.postgres.resume().await?;
        world.sidecar.drained().await?;
        // Room again, without anybody's doing.
        until("a message to be recorded again", async || {
            let Ok(id) = transcript.say(&anna, Kind::OneToOne, ben.bare(), "small again").await else {
                return false;
            };
            let delivered =
                anna.settle().await.is_ok() && !anna.messages().iter().any(|m| m.is_error() && m.id == id);
            delivered && world.archive().await.is_ok_and(|archive| archive.message(&id).is_ok())
        })
        .await?;
        ben.settle().await?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        let archive = world.archive().await?;
        if block {
            nothing_is_unrecorded(&transcript, &archive)?;
        } else {
            let archived = archive.accepted().count();
            let missing: u64 =
                archive.gaps().filter(|gap| gap.reason != GapReason::NoLink).map(|gap| gap.count).sum();
            assert_eq!(
                archived as u64 + missing,
                transcript.delivered().len() as u64,
                "{:?}",
                archive.gaps().collect::<Vec<_>>()
            );
        }
        verify(&world.postgres).await?.holds_but_for_gaps()?;
    }
    Ok(())
}

fn segments(world: &World) -> Result<Vec<PathBuf>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(world.sidecar.journal())? {
        let path = entry?.path();
        if fs::read(&path).is_ok_and(|bytes| bytes.starts_with(b"CTJS")) {
            segments.push(path);
        }
    }
    segments.sort();
    Ok(segments)
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_costs_nothing() -> Result<()> {
    let mut world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    world.postgres.stop().await?;
    say(&mut transcript, &anna, &ben, 10).await?;
    world.sidecar.kill()?;
    // What a power cut leaves of a write that was never synced: the beginning of a record.
    let segment = segments(&world)?.pop().context("a segment")?;
    let bytes = fs::read(&segment)?;
    let record = bytes.windows(4).position(|window| window == b"CTJR").context("a record")?;
    let torn = [bytes.as_slice(), &bytes[record..record + 60]].concat();
    fs::write(&segment, torn)?;
    world.sidecar.resume().await?;
    world.covered().await?;
    world.postgres.resume().await?;
    say(&mut transcript, &anna, &ben, 10).await?;
    transcript.hear(&anna);
    transcript.hear(&ben);
    let archive = world.archive().await?;
    nothing_is_unrecorded(&transcript, &archive)?;
    assert_eq!(transcript.delivered().len(), 20);
    assert_eq!(archive.gaps().filter(|gap| gap.reason == GapReason::Quarantined).count(), 0);
    verify(&world.postgres).await?.holds()
}

// Changes the first letter of a text wherever it lies in the journal.
pub fn flip(world: &World, text: &str) -> Result<()> {
    for segment in segments(world)? {
        let bytes = fs::read(&segment)?;
        for at in
            bytes.windows(text.len()).enumerate().filter(|(_, w)| *w == text.as_bytes()).map(|(at, _)| at)
        {
            fs::File::options().write(true).open(&segment)?.write_all_at(b"T", at as u64)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_flipped_byte_costs_one_record_which_is_told_counted_and_named_by_verify() -> Result<()> {
    let mut world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    world.postgres.stop().await?;
    let text = "the bit that flips is in here";
    say(&mut transcript, &anna, &ben, 5).await?;
    let hit = transcript.say(&anna, Kind::OneToOne, ben.bare(), text).await?;
    say(&mut transcript, &anna, &ben, 5).await?;
    world.sidecar.kill()?;
    flip(&world, text)?;
    world.sidecar.resume().await?;
    world.covered().await?;
    world.postgres.resume().await?;
    say(&mut transcript, &anna, &ben, 5).await?;
    world.sidecar.until("the damage in the status", |s| s.journal.quarantined == 1).await?;
    let archive = world.archive().await?;
    transcript.hear(&ben);
    let archived = |id: &str| archive.message(id).is_ok();
    let missing: Vec<_> = transcript.delivered().into_iter().filter(|id| !archived(id)).collect();
    assert_eq!(missing, [hit.as_str()]);
    let lost: u64 =
        archive.gaps().filter(|gap| gap.reason == GapReason::Quarantined).map(|gap| gap.count).sum();
    assert_eq!(lost, 1);
    let verified = verify(&world.postgres).await?;
    verified.holds_but_for_gaps()?;
    assert!(verified.text().contains("quarantined"), "{}", verified.text());
    Ok(())
}

#[tokio::test]
async fn a_disk_that_hangs_holds_messages_no_longer_than_declared_and_loses_none_of_them() -> Result<()> {
    for block in [true, false] {
        let start = World::builder().config(move |config| {
            config.archiving.block_if_unable_to_record = block;
            config.link.answer_timeout_ms = 3000;
        });
        let world = start.start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        let mut hung = world.sidecar.hang_disk().await?;
        say(&mut transcript, &anna, &ben, 5).await?;
        hung.signal(rustix::process::Signal::INT)?;
        hung.wait().await?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        let done = (transcript.delivered().len(), transcript.refused.len());
        assert_eq!(done, if block { (0, 5) } else { (5, 0) });
        let told = |s: &cartulary_compliance::status::SidecarStatus| {
            if block { s.counts.refused >= 5 } else { s.counts.delivered_unrecorded >= 5 }
        };
        world.sidecar.until("what the server decided alone", told).await?;
        what_was_decided_alone_is_an_outcome(&world, &transcript, &ben, block).await?;
        let mut afterwards = Transcript::default();
        say(&mut afterwards, &anna, &ben, 3).await?;
        afterwards.hear(&ben);
        assert_eq!(afterwards.delivered().len(), if block { 3 } else { 8 });
        verify(&world.postgres).await?.holds_but_for_gaps()?;
    }
    Ok(())
}
