//! Very many questions at once: bounded, counted, and every one decided.

use crate::{came, patient, refusal};
use anyhow::{Context, Result, bail, ensure};
use cartulary_compliance::config::PendingLimit;
use cartulary_compliance::events;
use cartulary_compliance::link::{Action, Frame};
use cartulary_compliance::status::SidecarStatus;
use cartulary_tests::client::Client;
use cartulary_tests::link::{RawLink, event};
use cartulary_tests::policy::{Answer, Manner, Policy, compliance, messages, profile};
use cartulary_tests::prosody::{DOMAIN, PASSWORD};
use cartulary_tests::world::World;
use std::collections::BTreeSet;

#[tokio::test]
async fn fh_2_ten_thousand_questions_that_are_open_when_the_link_breaks_are_all_decided_once() -> Result<()> {
    const ALL: u64 = 10_000;
    let wall = Policy::start("wall").await?;
    let asked =
        patient(compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_OUT)], &[&wall])]));
    let world =
        World::builder().config(|c| c.link.max_waiting = 20_000).asks(asked).server_stopped().start().await?;
    // From its second connection on it answers, each question in another way.
    wall.answers(|seen| match (seen.connection, seen.stanza_id().as_bytes().last()) {
        (0, _) => Answer::Hold,
        (_, Some(b'7')) => Answer::Handle,
        (_, Some(b'8')) => Answer::Error("cancel", "not-allowed", "no"),
        (_, Some(b'9')) => Answer::Change(seen.with_body("changed")),
        _ => Answer::Pass,
    });
    let mut link = RawLink::greeted(&world.sidecar.link(), &[DOMAIN]).await?;
    for n in 1..=ALL {
        let (from, to) = (format!("u{n}@{DOMAIN}/desk"), format!("v{n}@{DOMAIN}/desk"));
        link.send(&Frame::Event(n, event(&from, &to, &format!("m-{n}"), "hello"))).await?;
    }
    let all_pending = |s: &SidecarStatus| s.compliance_servers["wall"].pending == ALL;
    world.sidecar.until("every question to be open", all_pending).await?;
    cartulary_tests::process::until("all of them there", async || wall.count() == 10_000).await?;
    wall.break_links();
    let mut decided = BTreeSet::new();
    let (mut delivered, mut replaced, mut dropped, mut bounced) = (0, 0, 0, 0);
    while decided.len() < usize::try_from(ALL)? {
        let Frame::Verdict(id, verdict) = link.frame().await? else { continue };
        ensure!(decided.insert(id), "{id} was decided twice");
        match verdict.action {
            Action::Deliver => delivered += 1,
            Action::Replace(_) => replaced += 1,
            Action::Drop => dropped += 1,
            Action::Bounce(_) => bounced += 1,
        }
    }
    assert_eq!((delivered, replaced, dropped, bounced), (7_000, 1_000, 1_000, 1_000));
    let status = world.sidecar.status().await?;
    let q = &status.questions;
    assert_eq!(
        (q.stanzas, q.passed, q.modified, q.handled, q.bounced, q.undecided_bounced, q.waiting),
        (ALL, 7_000, 1_000, 1_000, 1_000, 0, 0)
    );
    let counts = &status.compliance_servers["wall"].counts;
    assert_eq!((counts.asked, counts.connected, counts.timed_out, counts.overflowed), (2 * ALL, 2, 0, 0));
    let ids: BTreeSet<_> = wall.seen().into_iter().map(|seen| seen.id).collect();
    assert_eq!(ids.len(), usize::try_from(ALL)?, "one id for each stanza, however often it is asked about");
    Ok(())
}

#[tokio::test]
async fn p6_a_flood_against_a_server_that_hangs_stays_within_its_bounds_and_others_are_answered() -> Result<()>
{
    let wall = Policy::start("wall").await?;
    let mut asked =
        patient(compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_OUT)], &[&wall])]));
    asked.limits = PendingLimit { max_events: 8, max_bytes: 64 << 10 };
    let users: Vec<String> = (0..16).map(|n| format!("u{n}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let world = World::builder().users(&names).asks(asked).start().await?;
    let mut clients = Vec::new();
    for user in &users {
        clients.push(world.client(&format!("{user}/desk")).await?);
    }
    let bystander = Client::connect(world.prosody.address(), &world.jid("u0/other"), PASSWORD).await?;
    wall.behaves(Manner::Slow);
    // The first of eight fill it; whatever the other eight say does not fit any more and is refused at once.
    let (waiting, refused) = clients.split_at(8);
    let within = |s: &SidecarStatus| -> Result<()> {
        let link = &s.compliance_servers["wall"];
        ensure!(
            link.pending <= link.max_pending
                && link.pending_bytes <= link.max_pending_bytes
                && link.max_pending == 8,
            "{link:#?}"
        );
        Ok(())
    };
    for (n, client) in waiting.iter().enumerate() {
        for m in 0..20 {
            client.message(&format!("nobody{n}@{DOMAIN}"), "chat", &format!("w-{n}-{m}"), "held").await?;
        }
    }
    world.sidecar.until("eight that wait", |s| s.compliance_servers["wall"].pending == 8).await?;
    for (n, client) in refused.iter().enumerate() {
        for m in 0..50 {
            client.message(&format!("no{n}@{DOMAIN}"), "chat", &format!("r-{n}-{m}"), "flood").await?;
        }
        within(&world.sidecar.status().await?)?;
    }
    for (n, client) in refused.iter().enumerate() {
        for m in 0..50 {
            assert_eq!(refusal(client, &format!("r-{n}-{m}")).await?, "service-unavailable");
        }
        // Whoever waits for nothing is answered.
        client.settle().await?;
        bystander.settle().await?;
    }
    let status = world.sidecar.status().await?;
    within(&status)?;
    let link = &status.compliance_servers["wall"];
    assert_eq!((link.pending, link.counts.overflowed), (8, 8 * 50));
    ensure!(status.questions.waiting_bytes < 1 << 20, "{:?}", status.questions);
    let metric = async |name: &str| {
        world.sidecar.metric(&format!("cartulary_compliance_server_{name}{{server=\"wall\"}}")).await
    };
    ensure!(metric("pending").await? <= metric("pending_limit").await?, "more wait than may");
    ensure!(
        metric("pending_bytes").await? <= metric("pending_bytes_limit").await?,
        "more bytes wait than may"
    );
    // One stanza that is larger than all that may wait is refused, too, and takes nothing of the others.
    let large = "x".repeat(100 << 10);
    refused[0].message(&format!("no0@{DOMAIN}"), "chat", "r-large", &large).await?;
    refusal(&refused[0], "r-large").await?;

    wall.behaves(Manner::Prompt);
    let mut released = wall.release(&Answer::Pass);
    for (n, client) in waiting.iter().enumerate() {
        // To somebody who has no account: the answer is the server's own error.
        client.answer_to(&format!("w-{n}-19")).await?;
        released += wall.release(&Answer::Pass);
    }
    ensure!(released >= 8, "{released}");
    let done = |s: &SidecarStatus| s.questions.waiting == 0 && s.compliance_servers["wall"].pending == 0;
    let status = world.sidecar.until("nothing to wait", done).await?;
    assert_eq!(status.questions.passed, 8 * 20);
    assert_eq!(status.questions.undecided_bounced, 8 * 50 + 1);
    Ok(())
}

#[tokio::test]
async fn fh_6_a_stream_taken_up_again_while_its_message_is_held_loses_and_doubles_nothing() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let asked =
        patient(compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_OUT)], &[&wall])]));
    let world = World::builder().every_ingress().asks(asked).start().await?;
    wall.answers(|seen| if seen.body() == "held" { Answer::Hold } else { Answer::Pass });
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    let resumption = anna.enable_resumption().await?;
    anna.message(ben.bare(), "chat", "m-1", "held").await?;
    wall.wait("the held message", |seen| seen.stanza_id() == "m-1").await?;
    let seen = anna.seen();
    anna.cut().await?;
    let anna = Client::resume(world.prosody.address(), &world.jid("anna/desk"), PASSWORD, &resumption, &seen)
        .await?;
    assert_eq!(wall.release(&Answer::Pass), 1);
    ben.answer_to("m-1").await?;
    anna.message(ben.bare(), "chat", "m-2", "after").await?;
    ben.answer_to("m-2").await?;
    // The same for one that receives: what is held is for whoever takes up its stream.
    let resumption = ben.enable_resumption().await?;
    anna.message(ben.jid(), "chat", "m-3", "held").await?;
    wall.wait("the held message", |seen| seen.stanza_id() == "m-3").await?;
    let seen = ben.seen();
    let before: Vec<_> = ben.messages().into_iter().map(|m| m.id).collect();
    assert_eq!(before, ["m-1", "m-2"]);
    ben.cut().await?;
    let ben = Client::resume(world.prosody.address(), &world.jid("ben/phone"), PASSWORD, &resumption, &seen)
        .await?;
    assert_eq!(wall.release(&Answer::Pass), 1);
    ben.answer_to("m-3").await?;
    ensure!(came(&ben, "m-3").await?, "it did not come");
    let heard: Vec<_> = ben.messages().into_iter().map(|m| m.id).collect();
    assert_eq!(heard, ["m-3"]);
    for id in ["m-1", "m-2", "m-3"] {
        assert_eq!(wall.about(id).len(), 1, "{id}");
        world.archive().await?.message(id).with_context(|| id.to_owned())?;
    }
    if anna.ended() {
        bail!("the stream that was taken up has ended");
    }
    Ok(())
}
