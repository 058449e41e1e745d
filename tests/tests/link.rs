//! The event link as an unfriendly plugin would use it: whatever comes down the socket, the sidecar stays up, answers what it can
//! read, and refuses what it cannot.

use anyhow::{Result, bail, ensure};
use cartulary_compliance::link::{Action, Frame, Hello, MAX_FRAME, Verdict};
use cartulary_tests::link::{RawLink, event, hello};
use cartulary_tests::prosody::DOMAIN;
use cartulary_tests::world::World;

const ANNA: &str = "anna@example.test/desk";
const BEN: &str = "ben@example.test/desk";

async fn verdict(link: &mut RawLink, id: u64) -> Result<Verdict> {
    loop {
        match link.frame().await? {
            Frame::Verdict(answered, verdict) if answered == id => return Ok(verdict),
            Frame::Welcome(_) | Frame::Settings(_) | Frame::Verdict(..) => {}
            other => bail!("a verdict on {id} was to come, not {other:?}"),
        }
    }
}

async fn is_recorded(link: &mut RawLink, id: u64) -> Result<()> {
    link.send(&Frame::Event(id, event(ANNA, BEN, &format!("m-{id}"), "hello"))).await?;
    let verdict = verdict(link, id).await?;
    ensure!(verdict.action == Action::Deliver && verdict.event_id.is_some(), "{verdict:?}");
    Ok(())
}

fn frame(kind: u8, id: u64, fields: &[u8]) -> Vec<u8> {
    let length = u32::try_from(fields.len() + 9).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &[kind], &id.to_be_bytes(), fields].concat()
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_costs_that_frame_only() -> Result<()> {
    let world = World::builder().server_stopped().start().await?;
    let mut link = RawLink::greeted(&world.sidecar.link(), &[DOMAIN]).await?;
    is_recorded(&mut link, 1).await?;
    let field = |tag: u16, value: &[u8]| {
        [&tag.to_be_bytes()[..], &u32::try_from(value.len()).unwrap_or(0).to_be_bytes(), value].concat()
    };
    let unreadable = [
        Vec::new(),
        vec![0xff; 100],
        // A field longer than its frame, one of the wrong size, one that is not text, an unknown ingress, a nested one torn.
        [&3_u16.to_be_bytes()[..], &u32::MAX.to_be_bytes(), b"<message/>"].concat(),
        field(1, &[1, 2, 3]),
        field(4, &[0xc3, 0x28]),
        field(1, &[99]),
        field(7, &[0, 1, 0, 0, 0, 200]),
    ];
    for (n, fields) in unreadable.iter().enumerate() {
        let id = 100 + n as u64;
        link.raw(&frame(0x02, id, fields)).await?;
        let verdict = verdict(&mut link, id).await?;
        ensure!(matches!(verdict.action, Action::Bounce(_)), "{fields:?}: {verdict:?}");
        // The same where no answer is wanted.
        link.raw(&frame(0x03, 0, fields)).await?;
        link.raw(&frame(0x04, 0, fields)).await?;
    }
    // What a later version may send is skipped.
    link.raw(&frame(0x7f, 0, b"future")).await?;
    is_recorded(&mut link, 2).await?;
    assert!(world.sidecar.status().await?.counts.bad_frames >= unreadable.len() as u64);
    Ok(())
}

#[tokio::test]
async fn a_length_that_cannot_be_closes_the_connection_and_nothing_else() -> Result<()> {
    let world = World::builder().server_stopped().start().await?;
    for length in [0_u32, 8, MAX_FRAME as u32 + 1, u32::MAX] {
        let mut link = RawLink::greeted(&world.sidecar.link(), &[DOMAIN]).await?;
        link.raw(&[&length.to_be_bytes()[..], &[0; 64]].concat()).await?;
        link.closed().await?;
    }
    let mut link = RawLink::greeted(&world.sidecar.link(), &[DOMAIN]).await?;
    is_recorded(&mut link, 1).await?;
    // Half a frame, and then nobody.
    link.raw(&[0, 0, 1, 0, 2]).await?;
    drop(link);
    let mut link = RawLink::greeted(&world.sidecar.link(), &[DOMAIN]).await?;
    is_recorded(&mut link, 2).await
}

#[tokio::test]
async fn a_plugin_of_another_protocol_is_told_so() -> Result<()> {
    let world = World::builder().server_stopped().start().await?;
    let mut link = RawLink::connect(&world.sidecar.link()).await?;
    link.send(&Frame::Hello(Hello { protocol_min: 77, protocol_max: 99, ..hello(&[DOMAIN]) })).await?;
    let Frame::Welcome(welcome) = link.frame().await? else { bail!("no welcome") };
    ensure!(welcome.refused.is_some(), "{welcome:?}");
    link.closed().await
}

#[tokio::test]
async fn nothing_is_let_go_before_hello() -> Result<()> {
    let world = World::builder().server_stopped().start().await?;
    let mut link = RawLink::connect(&world.sidecar.link()).await?;
    link.send(&Frame::Event(1, event(ANNA, BEN, "m-1", "too early"))).await?;
    match link.frame().await {
        Ok(Frame::Verdict(1, verdict)) => {
            ensure!(!matches!(verdict.action, Action::Deliver | Action::Replace(_)), "{verdict:?}")
        }
        Ok(other) => bail!("{other:?}"),
        Err(_) => {}
    }
    Ok(())
}

#[tokio::test]
async fn a_stanza_as_large_as_a_frame_may_be_is_recorded_whole() -> Result<()> {
    let world = World::builder().server_stopped().start().await?;
    let mut link = RawLink::greeted(&world.sidecar.link(), &[DOMAIN]).await?;
    let body = "é".repeat(7 << 20);
    link.send(&Frame::Event(1, event(ANNA, BEN, "m-large", &body))).await?;
    let verdict = verdict(&mut link, 1).await?;
    ensure!(verdict.action == Action::Deliver, "{:?}", verdict.action);
    let archive = world.archive().await?;
    let (record, _) = archive.message("m-large")?;
    // Not parsed: the oracle's parser takes minutes for it.
    let stanza = std::str::from_utf8(&record.payloads[0].bytes)?;
    ensure!(stanza.contains(&format!("<body>{body}</body>")), "another text was archived");
    Ok(())
}
