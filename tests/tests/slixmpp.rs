//! The scenarios of the other suites, spoken by a client library that is not ours: what slixmpp said and heard is held against the
//! archives of two clusters that federate.

use anyhow::{Context, Result, ensure};
use cartulary_archive::record::Accepted;
use cartulary_compliance::link::{DeliveryResult, Ingress};
use cartulary_tests::federation::Federation;
use cartulary_tests::oracle::{each_sender_is_in_order, nothing_is_unrecorded, stanza_of, text_of, verify};
use cartulary_tests::process::{repository, run};
use cartulary_tests::prosody::{DOMAIN, PASSWORD};
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::World;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use tokio::io::AsyncWriteExt;

const PARTNER: &str = "partner.test";

#[derive(Deserialize)]
struct Told {
    transcript: Transcript,
    // The id of a correction, and of what it corrects (XEP-0308).
    corrections: BTreeMap<String, String>,
    // Bodies of carbon copies, by session.
    copies: BTreeMap<String, Vec<String>>,
}

async fn slixmpp(ours: &World, theirs: &World) -> Result<Told> {
    let folder = repository().join("tests/slixmpp");
    let prepare = folder.join("prepare");
    let python = tokio::task::spawn_blocking(move || run(&mut std::process::Command::new(prepare))).await??;
    let address = |world: &World| {
        let address = world.prosody.address();
        (address.ip().to_string(), address.port())
    };
    let input = serde_json::json!({
        "servers": { DOMAIN: address(ours), PARTNER: address(theirs) },
        "domain": DOMAIN, "partner": PARTNER, "password": PASSWORD,
    });
    let mut child = tokio::process::Command::new(python.trim())
        .arg(folder.join("scenarios.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    child.stdin.take().context("its input")?.write_all(input.to_string().as_bytes()).await?;
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "slixmpp: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test]
async fn ma_1_whatever_slixmpp_says_and_hears_is_on_record_once_and_in_order() -> Result<()> {
    let federation = Federation::of(&[DOMAIN, PARTNER])?;
    let ours = World::builder().every_ingress().federated(federation.member(DOMAIN)?);
    let theirs = World::builder().users(&["pia"]).every_ingress().federated(federation.member(PARTNER)?);
    let (ours, theirs) = tokio::try_join!(ours.start(), theirs.start())?;
    let Told { transcript, corrections, copies } = slixmpp(&ours, &theirs).await?;
    assert!(transcript.said.len() > 40, "{}", transcript.said.len());

    let (here, there) = (ours.archive().await?, theirs.archive().await?);
    nothing_is_unrecorded(&transcript, &here)?;
    each_sender_is_in_order(&transcript, &here)?;
    let said: BTreeSet<_> = transcript.said.iter().map(|said| said.id.as_str()).collect();
    let by_people = |accepted: &Accepted| accepted.ingress != Ingress::Internal;
    for (_, accepted) in here.said().filter(|(_, accepted)| by_people(accepted)) {
        let id = accepted.stanza_id.as_deref().unwrap_or_default();
        ensure!(said.contains(id), "on record, and nobody said it: {accepted:?}");
    }
    for said in &transcript.said {
        let (record, accepted) = here.message(&said.id)?;
        assert_eq!(
            (accepted.from.as_str(), text_of(record)?.as_str()),
            (said.from.as_str(), said.text.as_str())
        );
        let refused = transcript.refused.contains_key(&said.id);
        assert_eq!(refused, said.to.starts_with("no"), "{said:?}");
        assert!(refused || transcript.delivered().contains(said.id.as_str()), "{said:?}");
        // What crosses is on record there as well.
        if said.from.contains(PARTNER) || said.to.contains(PARTNER) {
            ensure!(there.said_by(&said.from).contains(&said.id.as_str()), "{said:?}");
        }
    }
    for session in transcript.received.values() {
        let once: BTreeSet<_> = session.iter().map(|heard| &heard.id).collect();
        ensure!(once.len() == session.len(), "heard twice: {session:?}");
    }
    assert!(!corrections.is_empty());
    for (correction, original) in &corrections {
        let (record, _) = here.message(correction)?;
        let stanza = stanza_of(&record.payloads[0].bytes)?;
        let replaced = stanza.get_child("replace", "urn:xmpp:message-correct:0").context("the correction")?;
        assert_eq!(replaced.attr("id"), Some(original.as_str()));
        here.message(original)?;
    }
    assert_eq!(copies.values().map(Vec::len).collect::<Vec<_>>(), [2]);
    let later: Vec<_> = transcript.said.iter().filter(|said| said.kind == Kind::Offline).collect();
    assert_eq!(later.len(), 3);
    ours.archive_when("the later delivery", |archive| {
        later.iter().all(|said| {
            archive
                .results(&said.id, &said.to)
                .is_ok_and(|r| r.iter().any(|d| d.result == DeliveryResult::FromOffline))
        })
    })
    .await?;
    verify(&ours.postgres).await?.holds()?;
    verify(&theirs.postgres).await?.holds()
}
