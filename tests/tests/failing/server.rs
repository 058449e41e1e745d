//! Server and sidecar without each other, and a plugin that is broken.

use crate::say;
use anyhow::{Context, Result, ensure};
use cartulary_archive::record::{ActionCode, GapReason};
use cartulary_compliance::link::DeliveryResult;
use cartulary_tests::client::Client;
use cartulary_tests::oracle::verify;
use cartulary_tests::process::until;
use cartulary_tests::transcript::Transcript;
use cartulary_tests::world::World;
use std::fs;

#[tokio::test]
async fn without_a_sidecar_the_server_does_as_declared_and_the_missing_are_counted() -> Result<()> {
    for block in [true, false] {
        let mut world =
            World::builder().config(move |c| c.archiving.block_if_unable_to_record = block).start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        say(&mut transcript, &anna, &ben, 5).await?;
        world.sidecar.stop().await?;
        say(&mut transcript, &anna, &ben, 7).await?;
        let heard = ben.messages().len();
        assert_eq!(heard, if block { 5 } else { 12 });
        world.sidecar.resume().await?;
        world.covered().await?;
        say(&mut transcript, &anna, &ben, 5).await?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        assert_eq!(transcript.refused.len(), if block { 7 } else { 0 });
        until("the gap record", async || {
            let Ok(archive) = world.archive().await else { return false };
            let missing: u64 =
                archive.gaps().filter(|gap| gap.reason == GapReason::NoLink).map(|gap| gap.count).sum();
            archive.accepted().count() == 10 && missing == if block { 0 } else { 7 }
        })
        .await
        .with_context(|| world.sidecar.log())?;
        verify(&world.postgres).await?.holds_but_for_gaps()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_does_not_answer_holds_messages_no_longer_than_declared_and_hears_what_was_done()
-> Result<()> {
    for block in [true, false] {
        let start = World::builder().config(move |config| {
            config.archiving.block_if_unable_to_record = block;
            config.link.answer_timeout_ms = 3000;
        });
        let world = start.start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        let mut transcript = Transcript::default();
        world.sidecar.freeze(true)?;
        say(&mut transcript, &anna, &ben, 3).await?;
        world.sidecar.freeze(false)?;
        transcript.hear(&anna);
        transcript.hear(&ben);
        let (delivered, refused) = (transcript.delivered().len(), transcript.refused.len());
        assert_eq!((delivered, refused), if block { (0, 3) } else { (3, 0) });
        // The link stood all the time; it is told all the same.
        let told = |s: &cartulary_compliance::status::SidecarStatus| {
            if block { s.counts.refused >= 3 } else { s.counts.delivered_unrecorded >= 3 }
        };
        world.sidecar.until("what the server decided alone", told).await?;
        what_was_decided_alone_is_an_outcome(&world, &transcript, &ben, block).await?;
        // The answers that came late were nobody's: what follows is answered as ever.
        let mut afterwards = Transcript::default();
        say(&mut afterwards, &anna, &ben, 3).await?;
        afterwards.hear(&ben);
        assert_eq!(afterwards.delivered().len(), if block { 3 } else { 6 });
    }
    Ok(())
}

// The sidecar has recorded, late, that these messages may be delivered; their outcomes say what the server did instead.
pub async fn what_was_decided_alone_is_an_outcome(
    world: &World,
    transcript: &Transcript,
    to: &Client,
    refused: bool,
) -> Result<()> {
    let ids: Vec<_> = transcript.said.iter().map(|said| said.id.as_str()).collect();
    let archive = world.archive_with_outcomes(&ids).await?;
    for id in ids {
        let (record, accepted) = archive.message(id)?;
        assert_eq!(accepted.action, ActionCode::Deliver);
        let told: Vec<_> = archive
            .results(id, to.bare())?
            .into_iter()
            .map(|delivery| (delivery.result, delivery.reason.as_deref()))
            .collect();
        let expected = if refused {
            (DeliveryResult::Bounced, Some("unanswered"))
        } else {
            (DeliveryResult::Delivered, None)
        };
        assert_eq!(told, [expected], "{id}");
        let streams: Vec<_> = archive
            .records
            .iter()
            .filter(|other| other.header.event() == Some(accepted.event))
            .map(|other| &other.header.stream)
            .collect();
        assert!(streams.iter().all(|stream| **stream == record.header.stream));
    }
    Ok(())
}

// Changes a file of the plugin where the sidecar has put it, before the server starts.
fn break_plugin(world: &World, file: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
    let path = world.prosody.plugin().join(file);
    let text = fs::read_to_string(&path)?;
    let changed = change(&text);
    ensure!(changed != text, "nothing was broken in {file}");
    Ok(fs::write(path, changed)?)
}

fn before_last_return(text: &str, line: &str) -> String {
    let at = text.rfind("\nreturn ").map_or(text.len(), |at| at + 1);
    format!("{}{line}\n{}", &text[..at], &text[at..])
}

#[tokio::test]
async fn a_hook_that_throws_refuses_the_message_and_is_counted() -> Result<()> {
    let mut world = World::builder().server_stopped().start().await?;
    break_plugin(&world, "cartulary/event.lua", |text| {
        before_last_return(text, "event.describe = function () error('broken on purpose'); end")
    })?;
    world.prosody.resume().await?;
    world.covered().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    anna.message(ben.bare(), "chat", "m-1", "into the void").await?;
    assert!(anna.answer_to("m-1").await?.is_error());
    ben.settle().await?;
    assert!(ben.messages().is_empty());
    world.sidecar.until("the failed hook in the status", |s| s.counts.failed_hooks >= 1).await.map(|_| ())
}

#[tokio::test]
async fn a_server_whose_plugin_does_not_load_does_not_start() -> Result<()> {
    for file in ["mod_cartulary.lua", "cartulary/gate.lua", "cartulary/link.lua"] {
        let mut world = World::builder().server_stopped().start().await?;
        break_plugin(&world, file, |text| format!("error('broken on purpose')\n{text}"))?;
        // It may end before it listens, or refuse everybody; what it may not do is deliver.
        match world.prosody.resume().await {
            Err(_) => assert!(world.prosody.log().contains("broken on purpose"), "{}", world.prosody.log()),
            Ok(()) => nobody_is_heard(&world).await.with_context(|| file.to_owned())?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_cannot_be_armed_delivers_nothing() -> Result<()> {
    let mut world = World::builder().server_stopped().start().await?;
    break_plugin(&world, "mod_cartulary_host.lua", |text| format!("error('broken on purpose')\n{text}"))?;
    if world.prosody.resume().await.is_err() {
        return Ok(());
    }
    let unarmed = |s: &cartulary_compliance::status::SidecarStatus| {
        !s.ready && s.link.hosts.iter().any(|h| h.problem.is_some())
    };
    world.sidecar.until("a host that is not armed", unarmed).await?;
    nobody_is_heard(&world).await
}

async fn nobody_is_heard(world: &World) -> Result<()> {
    let Ok(ben) = world.client("ben/desk").await else { return Ok(()) };
    let anna = world.client("anna/desk").await?;
    anna.message(ben.bare(), "chat", "m-1", "psst").await?;
    anna.settle().await?;
    ben.settle().await?;
    ensure!(ben.messages().is_empty(), "ben received {:?}", ben.messages());
    Ok(())
}
