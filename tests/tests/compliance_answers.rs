//! What compliance servers answer is done: to messages, rooms, sessions; with packet types, handling, fire-and-forget and chains as
//! the profile declares (CS-4, PR-1, PR-2, PR-6, PR-7), and the archive says both what came and what went on.

use anyhow::{Context, Result, ensure};
use cartulary_archive::record::ActionCode;
use cartulary_compliance::events::{self, Handling, Packet};
use cartulary_compliance::profile::Rule;
use cartulary_tests::client::Client;
use cartulary_tests::oracle::{Archive, stanza_of, text_of};
use cartulary_tests::policy::seen::{REFUSE, WITHHOLD};
use cartulary_tests::policy::{Answer, Policy, Seen, compliance, handled, messages, profile};
use cartulary_tests::prosody::{DOMAIN, ROOMS};
use cartulary_tests::world::World;
use std::collections::BTreeSet;

// What a message's body asks the server for.
fn by_body(seen: &Seen) -> Answer {
    match seen.body().as_str() {
        "drop" => Answer::Handle,
        "change" => Answer::Change(seen.with_body("changed")),
        "refuse" => Answer::Error("auth", "not-allowed", "these two may not talk"),
        _ => Answer::Pass,
    }
}

fn first_text(record: &cartulary_archive::record::Record) -> Result<String> {
    let first = record.payloads.iter().find(|payload| payload.number == 1).context("payload 1")?;
    let stanza = stanza_of(&first.bytes)?;
    Ok(stanza.get_child("body", "jabber:client").map(|body| body.text()).unwrap_or_default())
}

fn action(archive: &Archive, id: &str) -> Result<ActionCode> {
    Ok(archive.message(id)?.1.action)
}

async fn hears(client: &Client, id: &str) -> Result<Option<String>> {
    client.settle().await?;
    Ok(client.messages().into_iter().find(|m| m.id == id && !m.is_error()).and_then(|m| m.body))
}

#[tokio::test]
async fn cs_4_a_message_is_dropped_changed_refused_or_goes_on_as_answered() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let asked = compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_OUT)], &[&wall])]);
    let world = World::builder().asks(asked).start().await?;
    wall.answers(by_body);
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    for body in ["pass", "drop", "change", "refuse"] {
        anna.message(ben.bare(), "chat", &format!("m-{body}"), body).await?;
    }
    let refused = anna.answer_to("m-refuse").await?;
    assert_eq!((refused.is_error(), refused.condition.as_deref()), (true, Some("not-allowed")));
    let text = anna
        .wait("the error's text", |e| {
            let error = e.get_child("error", "jabber:client")?;
            let text = error.get_child("text", "urn:ietf:params:xml:ns:xmpp-stanzas")?;
            Some((error.attr("type").unwrap_or_default().to_owned(), text.text()))
        })
        .await?;
    assert_eq!(text, ("auth".to_owned(), "these two may not talk".to_owned()));
    assert_eq!(hears(&ben, "m-pass").await?.as_deref(), Some("pass"));
    assert_eq!(hears(&ben, "m-change").await?.as_deref(), Some("changed"));
    anna.settle().await?;
    for id in ["m-drop", "m-refuse"] {
        assert_eq!(hears(&ben, id).await?, None, "{id}");
    }
    ensure!(!anna.messages().iter().any(|m| m.id == "m-drop"), "HANDLE is told to the sender");

    let archive = world.archive().await?;
    for (id, expected) in [
        ("m-pass", ActionCode::Deliver),
        ("m-drop", ActionCode::Drop),
        ("m-change", ActionCode::Replace),
        ("m-refuse", ActionCode::Bounce),
    ] {
        assert_eq!(action(&archive, id)?, expected, "{id}");
    }
    let (record, _) = archive.message("m-change")?;
    assert_eq!((first_text(record)?, text_of(record)?), ("change".to_owned(), "changed".to_owned()));
    assert_eq!(archive.message("m-refuse")?.1.condition.as_deref(), Some("not-allowed"));
    let status = world.sidecar.status().await?;
    let counts = &status.compliance_servers["wall"].counts;
    assert_eq!(
        (counts.asked, counts.passed, counts.modified, counts.handled, counts.errors),
        (4, 1, 1, 1, 1)
    );
    let questions = &status.questions;
    assert_eq!(
        (questions.stanzas, questions.passed, questions.modified, questions.handled, questions.bounced),
        (4, 1, 1, 1, 1)
    );
    assert_eq!(status.compliance_servers["wall"].answer_times.iter().sum::<u64>(), 4);
    assert_eq!(wall.complaints(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn cs_4_in_a_room_one_question_names_the_occupants_and_one_is_excepted_while_others_receive()
-> Result<()> {
    let wall = Policy::start("wall").await?;
    let asked = compliance(&[&wall], vec![profile("Wall", vec![messages(&events::ES_IN)], &[&wall])]);
    let world = World::builder().asks(asked).start().await?;
    let ben_jid = format!("ben@{DOMAIN}");
    wall.answers(move |seen| {
        let but_for_ben = |what: &str| Answer::Except(vec![(ben_jid.clone(), what.to_owned())]);
        match seen.body().as_str() {
            "withhold" => but_for_ben(WITHHOLD),
            "refuse" => but_for_ben(REFUSE),
            "replace" => but_for_ben(&format!(
                "<forwarded xmlns='urn:xmpp:forward:0'>{}</forwarded>",
                seen.with_body("something else")
            )),
            _ => Answer::Pass,
        }
    });
    let room = format!("desk@{ROOMS}");
    let (anna, ben, cleo) =
        (world.client("anna/desk").await?, world.client("ben/phone").await?, world.client("cleo/pad").await?);
    for (client, nick) in [(&anna, "Queen"), (&ben, "Knave"), (&cleo, "Ace")] {
        client.join(&room, nick).await?;
    }
    for body in ["withhold", "refuse", "replace", "pass"] {
        anna.message(&room, "groupchat", &format!("m-{body}"), body).await?;
    }
    ben.answer_to("m-pass").await?;
    cleo.answer_to("m-pass").await?;
    for body in ["withhold", "refuse", "replace", "pass"] {
        let id = format!("m-{body}");
        assert_eq!(hears(&cleo, &id).await?.as_deref(), Some(body));
        let to_ben = match body {
            "replace" => Some("something else"),
            "pass" => Some("pass"),
            _ => None,
        };
        assert_eq!(hears(&ben, &id).await?.as_deref(), to_ben, "{id}");
        let asked = wall.about(&id);
        assert_eq!(asked.len(), 1, "{asked:#?}");
        let to: BTreeSet<_> = asked[0].recipients.iter().map(|to| to.jid.clone()).collect();
        assert_eq!(to, ["anna", "ben", "cleo"].map(|user| format!("{user}@{DOMAIN}")).into());
        assert_eq!(asked[0].room.as_deref(), Some(room.as_str()));
    }
    // Who is refused a copy to somebody is told so.
    let error = |e: &minidom::Element| {
        (e.attr("type") == Some("error") && e.attr("id") == Some("m-refuse")).then_some(())
    };
    anna.wait("the error about one recipient", error).await?;
    let archive = world.archive().await?;
    let (record, accepted) = archive.message("m-withhold")?;
    assert_eq!((accepted.action, text_of(record)?.as_str()), (ActionCode::Deliver, "withhold"));
    assert_eq!(accepted.exceptions.len(), 1);
    assert_eq!(wall.complaints(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn pr_7_a_refused_session_keeps_a_user_out_and_a_named_one_gets_what_is_sent_to_the_account()
-> Result<()> {
    let wall = Policy::start("wall").await?;
    let rules = vec![Rule::new(&events::E_SESSION), Rule::new(&events::E_PRISESSION)];
    let rules = rules.into_iter().map(|rule| handled(rule, Handling::Bounce)).collect();
    let asked = compliance(&[&wall], vec![profile("Doors", rules, &[&wall])]);
    let world = World::builder().asks(asked).start().await?;
    wall.answers(|seen| match seen.event.as_str() {
        "e_SESSION" if seen.sender().starts_with("cleo@") => {
            Answer::Error("cancel", "not-allowed", "out of office")
        }
        "e_PRISESSION" => {
            Answer::Change(format!("<presence xmlns='jabber:client' from='{}/phone'/>", seen.sender()))
        }
        _ => Answer::Pass,
    });
    let refused = world.silent_client("cleo/pad").await.err().context("cleo was let in")?;
    ensure!(format!("{refused:#}").contains("not-allowed"), "{refused:#}");

    let anna = world.client("anna/desk").await?;
    let (phone, pad) = (world.client("ben/phone").await?, world.silent_client("ben/pad").await?);
    pad.raw("<presence><priority>10</priority></presence>").await?;
    pad.settle().await?;
    wall.wait("the order of sessions", |s| {
        s.event == "e_PRISESSION" && s.recipients.iter().any(|to| to.resources.len() == 2)
    })
    .await?;
    anna.message(phone.bare(), "chat", "m-1", "to the one that was named").await?;
    phone.answer_to("m-1").await?;
    assert_eq!(hears(&pad, "m-1").await?, None);
    // A full address is the sender's own choice.
    anna.message(pad.jid(), "chat", "m-2", "to the pad").await?;
    pad.answer_to("m-2").await?;
    // When the named session has gone, the account's others get it as ever.
    phone.close().await?;
    anna.message(pad.bare(), "chat", "m-3", "to whoever is there").await?;
    pad.answer_to("m-3").await?;
    Ok(())
}

#[tokio::test]
async fn pr_1_packet_types_choose_and_handling_decides_what_an_error_does() -> Result<()> {
    // One server and profile for each packet type, one for each handling.
    let [iq, message, presence, subscription] = ["iq", "message", "presence", "subscription"];
    let mut servers = Vec::new();
    for name in [iq, message, presence, subscription, "all", "pass", "bounce"] {
        servers.push(Policy::start(name).await?);
    }
    let mut profiles = Vec::new();
    for (server, packet) in
        servers.iter().zip([Packet::Iq, Packet::Message, Packet::Presence, Packet::Subscription])
    {
        let rule = Rule { packets: vec![packet], ..Rule::new(&events::ES_OUT) };
        profiles.push(profile(&format!("Only{}", server.name), vec![rule], &[server]));
    }
    profiles.push(profile("All", vec![Rule::new(&events::ES_OUT)], &[&servers[4]]));
    for (server, handling) in servers[5..].iter().zip([Handling::Pass, Handling::Bounce]) {
        let rule = handled(messages(&events::ES_OUT), handling);
        profiles.push(profile(&format!("On{}", server.name), vec![rule], &[server]));
        let own = server.name.clone();
        server.answers(move |seen| match seen.body() == own {
            true => Answer::Error("cancel", "not-acceptable", "no"),
            false => Answer::Pass,
        });
    }
    let all: Vec<_> = servers.iter().collect();
    let world = World::builder().asks(compliance(&all, profiles)).start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    anna.request("get", Some(ben.bare()), "<query xmlns='jabber:iq:last'/>").await.ok();
    anna.raw(&format!("<presence type='subscribe' to='{}'/>", ben.bare())).await?;
    for body in ["pass", "bounce", "neither"] {
        anna.message(ben.bare(), "chat", &format!("m-{body}"), body).await?;
    }
    ben.answer_to("m-neither").await?;
    for server in &servers[..4] {
        let packets: BTreeSet<_> = server.seen().into_iter().map(|seen| seen.packet).collect();
        assert_eq!(packets, BTreeSet::from([server.name.clone()]));
    }
    let packets: BTreeSet<_> = servers[4].seen().into_iter().map(|seen| seen.packet).collect();
    assert_eq!(packets, [iq, message, presence, subscription].map(str::to_owned).into());
    // An error is discarded, or ends the stanza and is its sender's.
    assert_eq!(hears(&ben, "m-pass").await?.as_deref(), Some("pass"));
    assert_eq!(anna.answer_to("m-bounce").await?.condition.as_deref(), Some("not-acceptable"));
    assert_eq!(hears(&ben, "m-bounce").await?, None);
    let archive = world.archive().await?;
    assert_eq!(action(&archive, "m-pass")?, ActionCode::Deliver);
    assert_eq!(action(&archive, "m-bounce")?, ActionCode::Bounce);
    Ok(())
}

#[tokio::test]
async fn pr_2_fire_and_forget_waits_for_nobody_and_with_bounce_discards_what_was_told() -> Result<()> {
    let (pass, bounce) = (Policy::start("pass").await?, Policy::start("bounce").await?);
    let forget = |handling| Rule { fire_and_forget: true, ..handled(messages(&events::ES_OUT), handling) };
    let told = profile("Told", vec![forget(Handling::Pass)], &[&pass]);
    let asked = compliance(&[&pass, &bounce], vec![told.clone()]);
    let mut world = World::builder().asks(asked).start().await?;
    // Whatever it says to what it was told: nobody listens.
    pass.answers(|_| Answer::Raw("<iq type='error' id='made-up'/>".to_owned()));
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    anna.message(ben.bare(), "chat", "m-1", "told").await?;
    ben.answer_to("m-1").await?;
    let seen = pass.wait("what it was told", |seen| seen.stanza_id() == "m-1").await?;
    ensure!(!seen.is_awaited() && seen.answer == "any", "{seen:#?}");

    let discarded = profile("Discarded", vec![forget(Handling::Bounce)], &[&bounce]);
    world.sidecar.configure(|c| c.compliance.profiles = vec![told, discarded])?;
    world.sidecar.in_force().await?;
    world.sidecar.serves(&["bounce", "pass"]).await?;
    anna.message(ben.bare(), "chat", "m-2", "discarded").await?;
    let seen = bounce.wait("what it was told", |seen| seen.stanza_id() == "m-2").await?;
    ensure!(!seen.is_awaited(), "{seen:#?}");
    anna.settle().await?;
    assert_eq!(hears(&ben, "m-2").await?, None);
    ensure!(!anna.messages().iter().any(|m| m.id == "m-2"), "its sender was told");
    assert_eq!(action(&world.archive().await?, "m-2")?, ActionCode::Drop);
    let status = world.sidecar.status().await?;
    assert_eq!((status.questions.handled, status.compliance_servers["bounce"].counts.told), (1, 1));
    Ok(())
}

#[tokio::test]
async fn pr_6_profiles_are_asked_in_their_order_each_about_what_the_one_before_left() -> Result<()> {
    let (first, second) = (Policy::start("first").await?, Policy::start("second").await?);
    let third = Policy::start("third").await?;
    let rule = || vec![messages(&events::ES_OUT)];
    let profiles = vec![
        profile("One", rule(), &[&first]),
        profile("Two", rule(), &[&second]),
        profile("Three", rule(), &[&third]),
    ];
    let mut world = World::builder().asks(compliance(&[&first, &second, &third], profiles)).start().await?;
    first.answers(by_body);
    second.answers(|seen| match seen.body().as_str() {
        "changed" => Answer::Change(seen.with_body("changed again")),
        "late drop" => Answer::Handle,
        _ => Answer::Pass,
    });
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    for body in ["pass", "change", "drop", "refuse", "late drop"] {
        anna.message(ben.bare(), "chat", &format!("m-{}", body.replace(' ', "-")), body).await?;
    }
    anna.answer_to("m-refuse").await?;
    anna.settle().await?;
    assert_eq!(hears(&ben, "m-change").await?.as_deref(), Some("changed again"));
    assert_eq!(hears(&ben, "m-late-drop").await?, None);
    let bodies = |server: &Policy| server.seen().iter().map(Seen::body).collect::<Vec<_>>();
    assert_eq!(bodies(&first), ["pass", "change", "drop", "refuse", "late drop"]);
    assert_eq!(bodies(&second), ["pass", "changed", "late drop"]);
    assert_eq!(bodies(&third), ["pass", "changed again"]);
    let archive = world.archive().await?;
    let (record, accepted) = archive.message("m-change")?;
    assert_eq!(accepted.action, ActionCode::Replace);
    assert_eq!((first_text(record)?, text_of(record)?), ("change".to_owned(), "changed again".to_owned()));

    // The order is the configuration's and may change while all goes on.
    world.sidecar.configure(|c| c.compliance.profiles.reverse())?;
    world.sidecar.in_force().await?;
    anna.message(ben.bare(), "chat", "m-turned", "late drop").await?;
    second.wait("the message in the new order", |seen| seen.stanza_id() == "m-turned").await?;
    anna.settle().await?;
    assert_eq!(third.about("m-turned").len(), 1);
    assert_eq!(first.about("m-turned").len(), 0);
    Ok(())
}
