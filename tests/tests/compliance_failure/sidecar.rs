//! The sidecar dies while it asks.

use crate::{came, patient, refusal};
use anyhow::{Result, ensure};
use cartulary_compliance::config::WhenUnanswered;
use cartulary_compliance::events::{self, Handling};
use cartulary_compliance::profile::Rule;
use cartulary_tests::oracle::{everything_is_archived_once, nothing_is_unrecorded};
use cartulary_tests::policy::{Answer, Policy, compliance, handled, messages, profile};
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::World;

#[tokio::test]
async fn fh_7_without_a_sidecar_what_is_awaited_is_refused_or_goes_on_by_choice_and_nothing_accepted_is_lost()
-> Result<()> {
    let wall = Policy::start("wall").await?;
    let rules = vec![messages(&events::ES_OUT), handled(Rule::new(&events::E_SESSION), Handling::Bounce)];
    let asked = patient(compliance(&[&wall], vec![profile("Wall", rules, &[&wall])]));
    let mut world = World::builder()
        .config(|c| c.archiving.block_if_unable_to_record = false)
        .asks(asked)
        .start()
        .await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    let mut transcript = Transcript::default();
    for n in 0..5 {
        let id = transcript.say(&anna, Kind::OneToOne, ben.bare(), &format!("accepted {n}")).await?;
        ben.answer_to(&id).await?;
    }
    // The default, though unrecorded messages may pass: somebody wants to be asked.
    wall.answers(|seen| if seen.body() == "held" { Answer::Hold } else { Answer::Pass });
    anna.message(ben.bare(), "chat", "m-held", "held").await?;
    wall.wait("the held message", |seen| seen.stanza_id() == "m-held").await?;
    world.sidecar.kill()?;
    refusal(&anna, "m-held").await?;
    anna.message(ben.bare(), "chat", "m-away", "nobody to ask").await?;
    refusal(&anna, "m-away").await?;
    ensure!(world.client("cleo/pad").await.is_err(), "a session was made without asking");
    ensure!(!came(&ben, "m-held").await? && !came(&ben, "m-away").await?, "refused and delivered");

    world.sidecar.resume().await?;
    world.covered().await?;
    world.sidecar.serves(&["wall"]).await?;
    // What it asked before it died is answered to nobody.
    wall.release(&Answer::Pass);
    let id = transcript.say(&anna, Kind::OneToOne, ben.bare(), "back").await?;
    ben.answer_to(&id).await?;

    // By choice it goes on, and is counted.
    world.sidecar.configure(|c| c.link.unanswered = Some(WhenUnanswered::Deliver))?;
    world.sidecar.in_force().await?;
    let id = transcript.say(&anna, Kind::OneToOne, ben.bare(), "the settings have come").await?;
    ben.answer_to(&id).await?;
    world.sidecar.kill()?;
    anna.message(ben.bare(), "chat", "m-unasked", "goes on").await?;
    ben.answer_to("m-unasked").await?;
    let cleo = world.client("cleo/pad").await?;
    cleo.settle().await?;
    world.sidecar.resume().await?;
    world.covered().await?;
    world.sidecar.until("what went on unrecorded", |s| s.counts.delivered_unrecorded >= 1).await?;
    transcript.hear(&anna);
    transcript.hear(&ben);
    for id in ["m-held", "m-away"] {
        ensure!(transcript.refused.remove(id).is_some(), "{id}");
    }
    for heard in transcript.received.values_mut() {
        heard.retain(|heard| heard.id != "m-unasked");
    }
    let mut archive = world.archive().await?;
    nothing_is_unrecorded(&transcript, &archive)?;
    // The held one may be on record: it was asked about before the sidecar died.
    archive.records.retain(|record| !String::from_utf8_lossy(&record.header_bytes).contains("m-held"));
    everything_is_archived_once(&transcript, &archive)
}
