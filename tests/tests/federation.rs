//! Two clusters whose servers federate over TLS, each with a sidecar and an archive of its own (MA-1, MA-3, P3).

use anyhow::{Result, ensure};
use cartulary_archive::record::Accepted;
use cartulary_compliance::config::SidecarConfig;
use cartulary_compliance::direction::Direction;
use cartulary_compliance::link::{DeliveryResult, Ingress, Target};
use cartulary_tests::client::Client;
use cartulary_tests::decider::Decider;
use cartulary_tests::federation::Federation;
use cartulary_tests::oracle::{Archive, each_sender_is_in_order, nothing_is_unrecorded, text_of, verify};
use cartulary_tests::prosody::{DOMAIN, PASSWORD, Setup};
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::World;
use std::collections::BTreeSet;

const PARTNER: &str = "partner.test";

struct Two {
    ours: World,
    theirs: World,
    // Their certificates are in it.
    _federation: Federation,
}

async fn two(change: fn(&mut SidecarConfig)) -> Result<Two> {
    let federation = Federation::of(&[DOMAIN, PARTNER])?;
    let ours = World::builder().federated(federation.member(DOMAIN)?).config(change);
    let theirs =
        World::builder().users(&["pia", "quin"]).federated(federation.member(PARTNER)?).config(|config| {
            config.cluster.name = "partner".to_owned();
        });
    let (ours, theirs) = tokio::try_join!(ours.start(), theirs.start())?;
    Ok(Two { ours, theirs, _federation: federation })
}

// A record as (recipients, directions), sorted.
fn copies(archive: &Archive, id: &str) -> Vec<(BTreeSet<String>, Direction)> {
    let of = |accepted: &Accepted| {
        let bares: BTreeSet<_> = accepted.recipients.iter().map(|recipient| recipient.bare.clone()).collect();
        (bares, accepted.recipients.first().map_or(Direction::Internal, |recipient| recipient.direction))
    };
    let mut found: Vec<_> = archive
        .accepted()
        .filter(|(_, accepted)| accepted.stanza_id.as_deref() == Some(id))
        .map(|(_, accepted)| of(accepted))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn set(bares: &[&str]) -> BTreeSet<String> {
    bares.iter().map(|bare| (*bare).to_owned()).collect()
}

async fn all_heard(clients: &[&Client], ids: &[String]) -> Result<()> {
    for client in clients {
        for id in ids {
            client.answer_to(id).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn ma_1_conversations_between_clusters_are_whole_on_both_sides_though_one_archive_is_away() -> Result<()>
{
    let mut two = two(|_| ()).await?;
    let (anna, ben) = (two.ours.client("anna/desk").await?, two.ours.client("ben/desk").await?);
    let (pia, quin) = (two.theirs.client("pia/desk").await?, two.theirs.client("quin/desk").await?);
    let room = two.ours.room("lobby");
    for (client, nick) in [(&anna, "Anna"), (&ben, "Ben"), (&pia, "Pia"), (&quin, "Quin")] {
        client.join(&room, nick).await?;
    }
    let mut transcript = Transcript::default();
    let mut private = Vec::new();
    for round in 0..15 {
        match round {
            5 => two.theirs.postgres.stop().await?,
            10 => two.theirs.postgres.resume().await?,
            _ => {}
        }
        let text = format!("round {round} – 🚀");
        let mut ids = Vec::new();
        for (from, to) in [(&anna, &pia), (&pia, &anna), (&ben, &quin), (&quin, &ben), (&quin, &anna)] {
            let id = transcript.say(from, Kind::OneToOne, to.bare(), &text).await?;
            to.answer_to(&id).await?;
        }
        for from in [&anna, &pia, &quin] {
            ids.push(transcript.say(from, Kind::Room, &room, &text).await?);
        }
        all_heard(&[&anna, &ben, &pia, &quin], &ids).await?;
        private.push(transcript.say(&pia, Kind::Private, &format!("{room}/Ben"), &text).await?);
        all_heard(&[&ben], &private[round..]).await?;
    }
    for client in [&anna, &ben, &pia, &quin] {
        client.settle().await?;
    }

    let (here, there) = (two.ours.archive().await?, two.theirs.archive().await?);
    for said in transcript.said.iter().filter(|said| said.kind == Kind::OneToOne) {
        let to = set(&[&said.to]);
        let out = said.from.contains(DOMAIN);
        let (ours, theirs) = if out {
            (Direction::Outbound, Direction::Inbound)
        } else {
            (Direction::Inbound, Direction::Outbound)
        };
        assert_eq!(copies(&here, &said.id), [(to.clone(), ours)], "{said:?}");
        assert_eq!(copies(&there, &said.id), [(to, theirs)], "{said:?}");
        for archive in [&here, &there] {
            assert_eq!(text_of(archive.message(&said.id)?.0)?, said.text);
        }
    }
    let occupants = set(&[anna.bare(), ben.bare(), pia.bare(), quin.bare()]);
    for said in transcript.said.iter().filter(|said| said.kind == Kind::Room) {
        // Where the room is: one record for everybody. On the other side: what comes back from the room is a copy for each occupant.
        let [(recipients, _)] = &copies(&here, &said.id)[..] else {
            panic!("{said:?}: {:?}", copies(&here, &said.id));
        };
        assert_eq!(*recipients, occupants, "{said:?}");
        let mut expected =
            vec![(set(&[pia.bare()]), Direction::Inbound), (set(&[quin.bare()]), Direction::Inbound)];
        if said.from.contains(PARTNER) {
            expected.push((set(&[&room]), Direction::Outbound));
        }
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(copies(&there, &said.id), expected, "{said:?}");
    }
    for id in &private {
        assert_eq!(copies(&here, id), [(set(&[ben.bare()]), Direction::Inbound)]);
        assert_eq!(copies(&there, id), [(set(&[&room]), Direction::Outbound)]);
    }
    each_sender_is_in_order(&transcript, &here)?;
    for client in [&anna, &ben, &pia, &quin] {
        transcript.hear(client);
    }
    assert!(transcript.refused.is_empty(), "{:?}", transcript.refused);
    nothing_is_unrecorded(&transcript, &here)?;
    for client in [&pia, &quin] {
        let theirs = transcript.said.iter().filter(|said| said.from == client.jid());
        assert_eq!(there.said_by(client.jid()), theirs.map(|said| said.id.as_str()).collect::<Vec<_>>());
    }
    verify(&two.ours.postgres).await?.holds()?;
    verify(&two.theirs.postgres).await?.holds()
}

#[tokio::test]
async fn ma_2_what_crosses_servers_names_both_ends_and_the_way() -> Result<()> {
    let two = two(|_| ()).await?;
    let (anna, pia) = (two.ours.client("anna/desk").await?, two.theirs.client("pia/phone").await?);
    anna.message(pia.bare(), "chat", "m-1", "hello over there").await?;
    pia.answer_to("m-1").await?;

    let here = two.ours.archive_with_outcomes(&["m-1"]).await?;
    let (_, sent) = here.message("m-1")?;
    assert_eq!((sent.ingress, sent.target), (Ingress::Client, Target::Remote));
    assert_eq!((sent.from.as_str(), sent.host.as_str()), (anna.jid(), DOMAIN));
    let result = here.results("m-1", pia.bare())?;
    assert_eq!(result[0].result, DeliveryResult::Remote, "{result:?}");

    let there = two.theirs.archive_with_outcomes(&["m-1"]).await?;
    let (_, taken) = there.message("m-1")?;
    assert_eq!((taken.ingress, taken.target), (Ingress::RemoteServer, Target::LocalUser));
    assert_eq!((taken.from.as_str(), taken.host.as_str()), (anna.jid(), PARTNER));
    assert_eq!(taken.recipients[0].resources, ["phone"]);
    let result = there.results("m-1", pia.bare())?;
    assert_eq!(result[0].result, DeliveryResult::Delivered, "{result:?}");

    // Nobody there of that name: the error that comes back is not a word of anybody, but the message is on record on both sides.
    anna.message(&format!("nobody@{PARTNER}"), "chat", "m-2", "is anybody there").await?;
    ensure!(anna.answer_to("m-2").await?.is_error());
    for world in [&two.ours, &two.theirs] {
        let archive = world.archive().await?;
        let said = archive.accepted().filter(|(_, a)| a.from == anna.jid());
        assert_eq!(said.filter(|(_, a)| a.stanza_id.as_deref() == Some("m-2")).count(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn ma_3_without_outbound_an_archive_holds_one_half_and_the_other_side_the_whole() -> Result<()> {
    let two = two(|config| config.archiving.outbound = false).await?;
    let (anna, pia) = (two.ours.client("anna/desk").await?, two.theirs.client("pia/desk").await?);
    let mut transcript = Transcript::default();
    for round in 0..5 {
        for (from, to) in [(&anna, &pia), (&pia, &anna)] {
            let id = transcript.say(from, Kind::OneToOne, to.bare(), &format!("round {round}")).await?;
            to.answer_to(&id).await?;
        }
    }
    let (here, there) = (two.ours.archive().await?, two.theirs.archive().await?);
    for said in &transcript.said {
        let inbound = said.from == pia.jid();
        assert_eq!(here.message(&said.id).is_ok(), inbound, "{said:?}");
        there.message(&said.id)?;
    }
    Ok(())
}

#[tokio::test]
async fn p3_a_held_sender_of_another_server_keeps_their_order_and_stalls_nobody_else() -> Result<()> {
    let federation = Federation::of(&[DOMAIN, PARTNER])?;
    let dir = cartulary_tests::process::folder()?;
    let users = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let member = |domain: &str, names: &[&str]| -> Result<Setup> {
        let federation = Some(federation.member(domain)?);
        Ok(Setup { federation, ..Setup::new(&users(names), "") })
    };
    let (decider, ours) =
        Decider::start(&dir.path().join("ours"), member(DOMAIN, &["anna", "ben"])?, "HOLD").await?;
    let mut theirs = cartulary_tests::prosody::Prosody::prepare(
        &dir.path().join("theirs"),
        member(PARTNER, &["pia", "quin"])?,
        None,
    )?;
    theirs.resume().await?;
    let here =
        async |who: &str| Client::connect(ours.address(), &format!("{who}@{DOMAIN}/desk"), PASSWORD).await;
    let there =
        async |who: &str| Client::connect(theirs.address(), &format!("{who}@{PARTNER}/desk"), PASSWORD).await;
    let (anna, ben, pia, quin) =
        (here("anna").await?, here("ben").await?, there("pia").await?, there("quin").await?);
    for client in [&anna, &ben, &pia, &quin] {
        client.available().await?;
    }

    pia.message(anna.bare(), "chat", "pia-1", "HOLD").await?;
    decider.holds(1).await?;
    pia.message(anna.bare(), "chat", "pia-2", "after it").await?;
    pia.message(ben.bare(), "chat", "pia-3", "after it, to somebody else").await?;
    // The same stream between the servers, another sender.
    for n in 0..10 {
        quin.message(anna.bare(), "chat", &format!("quin-{n}"), "passes by").await?;
        anna.answer_to(&format!("quin-{n}")).await?;
    }
    anna.settle().await?;
    ben.settle().await?;
    let from_pia = |client: &Client| -> Vec<String> {
        client.messages().into_iter().filter(|m| m.from == pia.jid()).map(|m| m.id).collect()
    };
    assert_eq!(from_pia(&anna), Vec::<String>::new());
    assert_eq!(from_pia(&ben), Vec::<String>::new());

    decider.release()?;
    anna.answer_to("pia-2").await?;
    ben.answer_to("pia-3").await?;
    assert_eq!(from_pia(&anna), ["pia-1", "pia-2"]);
    Ok(())
}
