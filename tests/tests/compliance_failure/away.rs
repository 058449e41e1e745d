//! Servers that are away: in order, broken, one of two, the first of a chain; and what they missed.

use crate::{NEVER, came, hasty, patient, refusal};
use anyhow::{Context, Result, ensure};
use cartulary_archive::record::ActionCode;
use cartulary_compliance::config::SidecarConfig;
use cartulary_compliance::events::{self, Handling};
use cartulary_compliance::profile::Rule;
use cartulary_compliance::status::{LinkCause, SidecarStatus};
use cartulary_tests::client::Client;
use cartulary_tests::policy::{Answer, Manner, Policy, compliance, handled, messages, profile};
use cartulary_tests::prosody::{DOMAIN, ROOMS};
use cartulary_tests::world::World;
use std::collections::{BTreeMap, BTreeSet};

fn office() -> Vec<Rule> {
    vec![
        Rule::new(&events::E_SESSION),
        Rule::new(&events::ES_END),
        messages(&events::ES_OUT),
        Rule::new(&events::ON_BEFORE_SEND),
    ]
}

fn never(config: &mut SidecarConfig) {
    config.compliance.event_timeout_ms = NEVER;
    config.compliance.drop_after_ms = NEVER;
}

#[tokio::test]
async fn fh_1_while_a_lone_server_is_shut_down_people_come_and_go_and_messages_are_refused_at_once()
-> Result<()> {
    let mut wall = Policy::start("wall").await?;
    let asked = patient(compliance(&[&wall], vec![profile("Office", office(), &[&wall])]));
    let world = World::builder().asks(asked).start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    let room = format!("desk@{ROOMS}");
    anna.join(&room, "Queen").await?;
    wall.shut_down().await?;
    let link = world.sidecar.without("wall", LinkCause::Closed).await?;
    ensure!(!link.queueing, "{link:?}");
    world.sidecar.alarm("ComplianceServerLost", true).await?;

    anna.message(ben.bare(), "chat", "m-1", "to one").await?;
    anna.message(&room, "groupchat", "m-2", "to all").await?;
    for id in ["m-1", "m-2"] {
        assert_eq!(refusal(&anna, id).await?, "service-unavailable");
    }
    ensure!(!came(&ben, "m-1").await?, "it was refused and came");
    let cleo = world.client("cleo/pad").await?;
    cleo.close().await?;
    let status = world
        .sidecar
        .until("a login and a logout it missed", |s| s.compliance_servers["wall"].counts.missed == 2);
    let status = status.await?;
    assert_eq!(status.questions.undecided_bounced, 2);
    ensure!(status.questions.undecided_passed >= 1, "{:?}", status.questions);
    assert_eq!((status.questions.refused_messages, status.questions.waiting), (2, 0));

    wall.resume().await?;
    world.sidecar.serves(&["wall"]).await?;
    world.sidecar.alarm("ComplianceServerLost", false).await?;
    anna.message(ben.bare(), "chat", "m-3", "again").await?;
    ben.answer_to("m-3").await?;
    let archive = world.archive().await?;
    assert_eq!(archive.message("m-1")?.1.action, ActionCode::Bounce);
    assert_eq!(archive.message("m-3")?.1.action, ActionCode::Deliver);
    Ok(())
}

#[tokio::test]
async fn fh_2_events_queue_for_a_server_that_vanished_until_their_time_and_are_then_decided_at_once()
-> Result<()> {
    let mut wall = Policy::start("wall").await?;
    let asked = patient(compliance(&[&wall], vec![profile("Office", office(), &[&wall])]));
    let mut world = World::builder().asks(asked).start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);

    // Back before anybody's time is over: what queued is asked, and in order.
    wall.vanish().await?;
    let queueing = |s: &SidecarStatus| s.compliance_servers["wall"].queueing;
    world.sidecar.until("events that queue", queueing).await?;
    anna.message(ben.bare(), "chat", "m-1", "queued").await?;
    anna.message(ben.bare(), "chat", "m-2", "behind it").await?;
    let status = world.sidecar.until("a queued event", |s| s.compliance_servers["wall"].pending == 1).await?;
    let link = &status.compliance_servers["wall"];
    ensure!(link.pending_bytes > 0 && link.oldest_pending_ms < NEVER.into() && !link.in_service, "{link:?}");
    wall.resume().await?;
    ben.answer_to("m-2").await?;
    let heard: Vec<_> = ben.messages().into_iter().map(|m| m.id).collect();
    assert_eq!(heard, ["m-1", "m-2"]);
    world.sidecar.serves(&["wall"]).await?;

    // Not back in time: each gets its own handling when its time is over.
    world.sidecar.configure(|c| {
        c.compliance.event_timeout_ms = 1_000;
        c.compliance.drop_after_ms = 6_000;
    })?;
    world.sidecar.in_force().await?;
    world.sidecar.serves(&["wall"]).await?;
    wall.vanish().await?;
    world.sidecar.until("events that queue", queueing).await?;
    anna.message(ben.bare(), "chat", "m-3", "in vain").await?;
    assert_eq!(refusal(&anna, "m-3").await?, "service-unavailable");
    let cleo = world.client("cleo/pad").await?;
    let status = world.sidecar.status().await?;
    ensure!(status.compliance_servers["wall"].counts.timed_out >= 2, "{status:#?}");

    // After the drop: at once.
    world.sidecar.until("the link to be dropped", |s| !queueing(s)).await?;
    world.sidecar.configure(|c| c.compliance.event_timeout_ms = NEVER)?;
    world.sidecar.in_force().await?;
    anna.message(ben.bare(), "chat", "m-4", "at once").await?;
    assert_eq!(refusal(&anna, "m-4").await?, "service-unavailable");
    cleo.close().await?;
    world.client("cleo/pad").await?;

    // Until it returns.
    wall.resume().await?;
    world.sidecar.serves(&["wall"]).await?;
    anna.message(ben.bare(), "chat", "m-5", "as ever").await?;
    ben.answer_to("m-5").await?;
    ensure!(!came(&ben, "m-3").await? && !came(&ben, "m-4").await?, "what was refused came");
    assert_eq!(wall.complaints(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn fh_2_a_server_that_hangs_is_dropped_like_one_that_vanished_and_must_answer_to_come_back()
-> Result<()> {
    let wall = Policy::start("wall").await?;
    let mut asked = hasty(compliance(&[&wall], vec![profile("Office", office(), &[&wall])]));
    for server in asked.servers.values_mut() {
        server.keepalive_seconds = 1;
    }
    let mut world = World::builder().asks(asked).start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    for manner in [Manner::Mute, Manner::Deaf] {
        wall.behaves(manner);
        let id = format!("m-{}", wall.connections());
        anna.message(ben.bare(), "chat", &id, "in vain").await?;
        assert_eq!(refusal(&anna, &id).await?, "service-unavailable");
        world.sidecar.without("wall", LinkCause::NotAnswering).await?;
        world.sidecar.until("the link to be dropped", |s| !s.compliance_servers["wall"].queueing).await?;
        world.sidecar.configure(never)?;
        world.sidecar.in_force().await?;
        anna.message(ben.bare(), "chat", &format!("{id}-at-once"), "at once").await?;
        refusal(&anna, &format!("{id}-at-once")).await?;
        world.sidecar.configure(|c| {
            c.compliance.event_timeout_ms = 1_500;
            c.compliance.drop_after_ms = 4_000;
        })?;
        wall.behaves(Manner::Prompt);
        // Whatever connections it let stand while it hung.
        wall.break_links();
        world.sidecar.in_force().await?;
        world.sidecar.serves(&["wall"]).await?;
        anna.message(ben.bare(), "chat", &format!("{id}-after"), "as ever").await?;
        ben.answer_to(&format!("{id}-after")).await?;
    }
    Ok(())
}

// Who spoke with whom, and which of the servers was asked.
fn homes(servers: &[&Policy], event: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut homes = BTreeMap::<String, BTreeSet<String>>::new();
    for server in servers {
        for seen in server.of(event) {
            let to = seen.stanza.attr("to").unwrap_or_default();
            let mut pair = [seen.sender(), to.split('/').next().unwrap_or_default()];
            pair.sort_unstable();
            homes.entry(pair.join(" ")).or_default().insert(server.name.clone());
        }
    }
    homes
}

const PEOPLE: [&str; 6] = ["u0", "u1", "u2", "u3", "u4", "u5"];

async fn people(world: &World) -> Result<Vec<Client>> {
    let mut people = Vec::new();
    for user in PEOPLE {
        people.push(world.client(&format!("{user}/desk")).await?);
    }
    Ok(people)
}

// Everybody says something to everybody, and hears it.
async fn talk(people: &[Client], round: &str) -> Result<()> {
    for (n, one) in people.iter().enumerate() {
        for (m, other) in people.iter().enumerate().filter(|(m, _)| *m != n) {
            one.message(other.bare(), "chat", &format!("{round}-{n}-{m}"), "hello").await?;
        }
    }
    for (m, one) in people.iter().enumerate() {
        for n in (0..people.len()).filter(|n| *n != m) {
            let id = format!("{round}-{n}-{m}");
            ensure!(!one.answer_to(&id).await?.is_error(), "{id} was refused");
        }
    }
    Ok(())
}

#[tokio::test]
async fn fh_3_the_share_of_one_of_two_moves_and_comes_back_and_no_conversation_is_reordered() -> Result<()> {
    let (mut one, two) = (Policy::start("one").await?, Policy::start("two").await?);
    let rules = vec![messages(&events::ES_OUT)];
    let asked = patient(compliance(&[&one, &two], vec![profile("Wall", rules, &[&one, &two])]));
    let mut world = World::builder().users(&PEOPLE).asks(asked).start().await?;
    let people = people(&world).await?;
    talk(&people, "a").await?;
    let before = homes(&[&one, &two], "es_OUT");
    ensure!(before.len() == 15 && before.values().all(|servers| servers.len() == 1), "{before:?}");
    let of_one: Vec<_> =
        before.iter().filter(|(_, s)| s.contains("one")).map(|(pair, _)| pair.clone()).collect();
    ensure!((1..15).contains(&of_one.len()), "{before:?}");

    // In order: at once.
    one.shut_down().await?;
    world.sidecar.without("one", LinkCause::Closed).await?;
    one.forget();
    two.forget();
    talk(&people, "b").await?;
    ensure!(
        homes(&[&one, &two], "es_OUT").values().all(|s| *s == BTreeSet::from(["two".to_owned()])),
        "who else?"
    );
    let moved = world.sidecar.status().await?.questions.conversations_moved;
    assert_eq!(moved, u64::try_from(of_one.len())?);

    // It returns while a conversation of its share is being decided elsewhere: what is said next waits for that.
    let (ann, bob) = of_one[0].split_once(' ').context("a pair")?;
    let find = |jid: &str| people.iter().find(|p| p.bare() == jid).context("somebody");
    let (ann, bob) = (find(ann)?, find(bob)?);
    two.answers(|seen| if seen.body() == "held" { Answer::Hold } else { Answer::Pass });
    ann.message(bob.bare(), "chat", "c-1", "held").await?;
    two.wait("the held message", |s| s.stanza_id() == "c-1").await?;
    one.resume().await?;
    world.sidecar.serves(&["one", "two"]).await?;
    one.forget();
    two.forget();
    // From the other side, whose stream does not wait for the one above; and one of another conversation that is decided meanwhile.
    bob.message(ann.bare(), "chat", "c-2", "behind it").await?;
    let other = people.iter().find(|p| ![ann.bare(), bob.bare()].contains(&p.bare())).context("another")?;
    other.message(other.bare(), "chat", "c-3", "to oneself").await?;
    other.answer_to("c-3").await?;
    ensure!(one.about("c-2").is_empty() && two.about("c-2").is_empty(), "asked before its turn");
    assert_eq!(two.release(&Answer::Pass), 1);
    bob.answer_to("c-1").await?;
    ann.answer_to("c-2").await?;
    assert_eq!((one.about("c-2").len(), two.about("c-2").len()), (1, 0));
    let places = (place_on_record(&world, "c-1").await?, place_on_record(&world, "c-2").await?);
    ensure!(places.0 < places.1, "the record has them the other way round");
    one.forget();
    two.forget();
    talk(&people, "d").await?;
    assert_eq!(homes(&[&one, &two], "es_OUT"), before);

    // Not in order: after the drop.
    world.sidecar.configure(|c| c.compliance.drop_after_ms = 2_000)?;
    world.sidecar.in_force().await?;
    world.sidecar.serves(&["one", "two"]).await?;
    one.vanish().await?;
    one.forget();
    two.forget();
    talk(&people, "e").await?;
    ensure!(
        homes(&[&one, &two], "es_OUT").values().all(|s| *s == BTreeSet::from(["two".to_owned()])),
        "who else?"
    );
    let status = world.sidecar.status().await?;
    ensure!(
        status.questions.rerouted >= 1 && status.compliance_servers["one"].counts.rerouted >= 1,
        "{status:#?}"
    );
    assert_eq!((status.questions.undecided_bounced, status.questions.undecided_passed), (0, 0));
    assert_eq!(status.questions.stanzas, 30 * 4 + 3);
    assert_eq!(status.questions.passed, status.questions.stanzas);
    Ok(())
}

async fn place_on_record(world: &World, id: &str) -> Result<usize> {
    let archive = world.archive().await?;
    let place = archive.said().position(|(_, accepted)| accepted.stanza_id.as_deref() == Some(id));
    place.with_context(|| format!("{id} is not archived"))
}

#[tokio::test]
async fn fh_4_the_next_of_a_chain_is_asked_only_where_the_first_ones_handling_lets_it() -> Result<()> {
    let (mut first, second) = (Policy::start("first").await?, Policy::start("second").await?);
    let chain = |handling: Handling, first: &Policy, second: &Policy| {
        let rule = || vec![handled(messages(&events::ES_OUT), handling)];
        vec![profile("First", rule(), &[first]), profile("Second", rule(), &[second])]
    };
    let asked = hasty(compliance(&[&first, &second], chain(Handling::Bounce, &first, &second)));
    let mut world = World::builder().asks(asked).start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    for away in ["silent", "gone"] {
        for handling in [Handling::Bounce, Handling::Pass] {
            let profiles = chain(handling, &first, &second);
            world.sidecar.configure(move |c| c.compliance.profiles = profiles)?;
            world.sidecar.in_force().await?;
            world.sidecar.serves(&["first", "second"]).await?;
            match away {
                "silent" => first.behaves(Manner::Slow),
                _ => {
                    first.shut_down().await?;
                    world.sidecar.without("first", LinkCause::Closed).await?;
                }
            }
            let id = format!("m-{away}-{handling:?}");
            anna.message(ben.bare(), "chat", &id, "a chain").await?;
            let answer = match handling {
                Handling::Bounce => refusal(&anna, &id).await? == "service-unavailable",
                Handling::Pass => ben.answer_to(&id).await?.body.is_some(),
            };
            ensure!(answer, "{id}");
            assert_eq!(second.about(&id).len(), usize::from(handling == Handling::Pass), "{id}");
            first.behaves(Manner::Prompt);
            if away == "gone" {
                first.resume().await?;
                world.sidecar.serves(&["first"]).await?;
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn fh_5_every_node_asks_the_same_server_about_the_same_conversation() -> Result<()> {
    let (one, two) = (Policy::start("one").await?, Policy::start("two").await?);
    let three = Policy::start("three").await?;
    let servers = [&one, &two, &three];
    let rules = vec![messages(&events::ES_OUT), Rule::new(&events::ON_BEFORE_SEND)];
    let asked = compliance(&servers, vec![profile("Wall", rules, &servers)]);
    let node = |name: &str| World::builder().users(&PEOPLE).node(name).asks(asked.clone()).start();
    let (first, second) = (node("xmpp-0").await?, node("xmpp-1").await?);
    for (world, round) in [(&first, "a"), (&second, "b")] {
        let people = people(world).await?;
        talk(&people, round).await?;
        for name in ["red", "green", "blue"] {
            let room = format!("{name}@{ROOMS}");
            people[0].join(&room, "Queen").await?;
            people[0].message(&room, "groupchat", &format!("{round}-{name}"), "hello").await?;
            people[0].answer_to(&format!("{round}-{name}")).await?;
        }
    }
    // Each pair at one server, from both nodes and in both directions, and each server with a share.
    for event in ["es_OUT", "onBeforeSend"] {
        let homes = homes(&servers, event);
        ensure!(homes.values().all(|servers| servers.len() == 1), "{homes:?}");
        ensure!(
            event != "es_OUT" || homes.values().flatten().collect::<BTreeSet<_>>().len() == 3,
            "{homes:?}"
        );
    }
    let nodes: BTreeSet<_> = servers.iter().flat_map(|s| s.seen()).map(|seen| seen.node).collect();
    assert_eq!(nodes, ["xmpp-0", "xmpp-1"].map(str::to_owned).into());
    // Whoever is on the node that goes, comes to the other one and finds the same server.
    drop(first);
    let moved = Client::connect(
        second.prosody.address(),
        &format!("u0@{DOMAIN}/elsewhere"),
        cartulary_tests::prosody::PASSWORD,
    )
    .await?;
    let before = homes(&servers, "es_OUT");
    for server in servers {
        server.forget();
    }
    moved.message(&format!("u1@{DOMAIN}"), "chat", "m-moved", "from another node").await?;
    moved.settle().await?;
    let now = homes(&servers, "es_OUT");
    assert_eq!(now.len(), 1);
    ensure!(now.iter().all(|(pair, servers)| before.get(pair) == Some(servers)), "{before:?} {now:?}");
    Ok(())
}

#[tokio::test]
async fn fh_8_logins_and_logouts_that_a_server_missed_are_on_record_counted_and_sent_later_by_choice()
-> Result<()> {
    let mut wall = Policy::start("wall").await?;
    let rules = vec![Rule::new(&events::E_SESSION), Rule::new(&events::ES_END)];
    let asked = patient(compliance(&[&wall], vec![profile("Doors", rules, &[&wall])]));
    let mut world = World::builder().asks(asked).start().await?;
    for (send, user, jid) in
        [(false, "cleo/pad", "cleo@example.test/pad"), (true, "ben/pad", "ben@example.test/pad")]
    {
        world.sidecar.configure(|c| c.compliance.send_missed = send)?;
        world.sidecar.in_force().await?;
        world.sidecar.serves(&["wall"]).await?;
        let before = world.sidecar.status().await?.compliance_servers["wall"].counts.missed;
        wall.shut_down().await?;
        world.sidecar.without("wall", LinkCause::Closed).await?;
        world.client(user).await?.close().await?;
        let both = |s: &SidecarStatus| s.compliance_servers["wall"].counts.missed == before + 2;
        world.sidecar.until("a login and a logout that were missed", both).await?;
        wall.resume().await?;
        world.sidecar.serves(&["wall"]).await?;
        if send {
            wall.wait("the logout it missed", |s| s.event == "es_END" && s.missed && s.from == jid).await?;
            let login = wall.wait("the login it missed", |s| s.event == "e_SESSION" && s.missed).await?;
            ensure!(!login.is_awaited() && login.from == jid, "{login:#?}");
            world
                .sidecar
                .until("both to be counted as sent", |s| s.compliance_servers["wall"].counts.sent_later == 2)
                .await?;
        } else {
            // Something that is seen, after which nothing missed can come any more.
            world.client("anna/desk").await?;
            wall.wait("a login", |s| s.event == "e_SESSION" && s.sender().starts_with("anna@")).await?;
            ensure!(!wall.seen().iter().any(|s| s.missed), "it was sent though nobody chose so");
        }
    }
    let archive = world.archive().await?;
    let missed: Vec<_> =
        archive.missed().map(|m| (m.event.as_str(), m.jid.as_str(), m.server.as_str())).collect();
    assert_eq!(
        missed,
        [
            ("e_SESSION", "cleo@example.test/pad", "wall"),
            ("es_END", "cleo@example.test/pad", "wall"),
            ("e_SESSION", "ben@example.test/pad", "wall"),
            ("es_END", "ben@example.test/pad", "wall"),
        ]
    );
    Ok(())
}
