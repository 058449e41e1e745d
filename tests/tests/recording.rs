//! What is said is on record as it was said, to whom it went and what became of it (MA-1 to MA-5, MA-9, MA-11), on a real server
//! with real clients.

use anyhow::{Context, Result};
use cartulary_archive::record::{Accepted, ActionCode};
use cartulary_compliance::direction::Direction;
use cartulary_compliance::link::{DeliveryResult, Ingress, Target};
use cartulary_tests::client::escape;
use cartulary_tests::oracle::{everything_is_archived_once, stanza_of, text_of};
use cartulary_tests::prosody::{DOMAIN, ROOMS, STANZA_LIMIT};
use cartulary_tests::sidecar::NODE;
use cartulary_tests::transcript::{Kind, Transcript, fresh_id};
use cartulary_tests::world::{DATABASE, ENDPOINT, World, endpoint};
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

fn nanos_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

fn bares(accepted: &Accepted) -> BTreeSet<&str> {
    accepted.recipients.iter().map(|recipient| recipient.bare.as_str()).collect()
}

#[tokio::test]
async fn ma_2_a_record_says_who_said_what_to_whom_when_and_where() -> Result<()> {
    let world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    let before = nanos_now();
    let inner = "<subject>Lunch</subject><thread>t-1</thread><body>At noon?</body>\
        <html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'><p>At <b>noon</b>?</p></body></html>\
        <origin-id xmlns='urn:xmpp:sid:0' id='o-1'/>";
    anna.raw(&format!("<message to='{}' type='chat' id='m-1'>{inner}</message>", ben.jid())).await?;
    ben.answer_to("m-1").await?;
    let after = nanos_now();

    let archive = world.archive_with_outcomes(&["m-1"]).await?;
    let (record, accepted) = archive.message("m-1")?;
    assert_eq!(accepted.from, anna.jid());
    assert_eq!(accepted.to.as_deref(), Some(ben.jid()));
    assert_eq!((accepted.ingress, accepted.target), (Ingress::Client, Target::LocalUser));
    assert_eq!((accepted.message_type.as_str(), accepted.origin_id.as_deref()), ("chat", Some("o-1")));
    assert_eq!((accepted.host.as_str(), accepted.action), (DOMAIN, ActionCode::Deliver));
    assert_eq!((record.header.node.as_str(), record.header.cluster.as_str()), (NODE, "chat/office"));
    // The server's clock counts in microseconds.
    assert!(
        (before - 1000..=after).contains(&accepted.seen_at_nanos),
        "{before} {} {after}",
        accepted.seen_at_nanos
    );
    assert!((before..=after).contains(&record.header.recorded_at_nanos));
    let [recipient] = accepted.recipients.as_slice() else {
        panic!("one recipient, not {:?}", accepted.recipients)
    };
    assert_eq!((recipient.bare.as_str(), recipient.direction), (ben.bare(), Direction::Internal));
    assert_eq!(recipient.resources, ["phone"]);

    let stanza = stanza_of(&record.payloads[0].bytes)?;
    let text = |name: &str| stanza.get_child(name, "jabber:client").map(|child| child.text());
    assert_eq!(text("subject").as_deref(), Some("Lunch"));
    assert_eq!(text("thread").as_deref(), Some("t-1"));
    assert_eq!(text("body").as_deref(), Some("At noon?"));
    let html = stanza.get_child("html", "http://jabber.org/protocol/xhtml-im").context("the HTML body")?;
    assert!(String::from(html).contains("<b>noon</b>"));

    let outcomes = archive.outcomes(accepted.event);
    let delivery = outcomes
        .iter()
        .flat_map(|outcome| &outcome.deliveries)
        .find(|d| d.bare == ben.bare())
        .context("an outcome")?;
    assert_eq!(delivery.result, DeliveryResult::Delivered);
    assert_eq!(delivery.resources, ["phone"]);
    Ok(())
}

#[tokio::test]
async fn ma_5_a_message_forked_to_several_sessions_is_one_record_that_names_them() -> Result<()> {
    let world = World::start().await?;
    let anna = world.client("anna/desk").await?;
    let (desk, phone) = (world.client("ben/desk").await?, world.client("ben/phone").await?);
    phone.request("set", None, "<enable xmlns='urn:xmpp:carbons:2'/>").await?;

    // To the account: both sessions get it.
    anna.message(desk.bare(), "chat", "m-bare", "to both").await?;
    desk.answer_to("m-bare").await?;
    phone.answer_to("m-bare").await?;
    // To one session: the other gets a carbon copy, which is not a message of its own.
    anna.message(desk.jid(), "chat", "m-full", "to the desk").await?;
    desk.answer_to("m-full").await?;
    phone.wait("the carbon copy", |e| e.get_child("received", "urn:xmpp:carbons:2").map(|_| ())).await?;

    let archive = world.archive_with_outcomes(&["m-bare"]).await?;
    let (_, accepted) = archive.message("m-bare")?;
    let [recipient] = accepted.recipients.as_slice() else {
        panic!("one recipient, not {:?}", accepted.recipients)
    };
    let resources: BTreeSet<_> = recipient.resources.iter().map(String::as_str).collect();
    assert_eq!(resources, BTreeSet::from(["desk", "phone"]));
    let delivered: BTreeSet<_> = archive
        .outcomes(accepted.event)
        .iter()
        .flat_map(|outcome| &outcome.deliveries)
        .flat_map(|delivery| delivery.resources.iter().map(String::as_str))
        .collect();
    assert_eq!(delivered, BTreeSet::from(["desk", "phone"]));
    archive.message("m-full")?;
    assert_eq!(archive.accepted().count(), 2);
    Ok(())
}

#[tokio::test]
async fn ma_1_a_message_to_somebody_away_is_one_record_that_says_it_was_stored() -> Result<()> {
    let world = World::start().await?;
    let anna = world.client("anna/desk").await?;
    let mut transcript = Transcript::default();
    let id = transcript.say(&anna, Kind::Offline, &format!("ben@{DOMAIN}"), "when you are back").await?;
    anna.settle().await?;
    let ben = world.client("ben/desk").await?;
    ben.answer_to(&id).await?;
    transcript.hear(&ben);

    let archive = world.archive_with_outcomes(&[&id]).await?;
    everything_is_archived_once(&transcript, &archive)?;
    let (_, accepted) = archive.message(&id)?;
    assert_eq!(bares(accepted), BTreeSet::from([ben.bare()]));
    assert!(accepted.recipients[0].resources.is_empty());
    let told = archive.outcomes(accepted.event);
    let delivery = told
        .iter()
        .flat_map(|outcome| &outcome.deliveries)
        .find(|d| d.bare == ben.bare())
        .context("an outcome")?;
    assert_eq!(delivery.result, DeliveryResult::Offline);
    Ok(())
}

#[tokio::test]
async fn ma_4_a_room_message_names_every_real_recipient() -> Result<()> {
    let world = World::start().await?;
    let room = format!("lobby@{ROOMS}");
    let clients =
        [world.client("anna/desk").await?, world.client("ben/desk").await?, world.client("cleo/desk").await?];
    for (client, nick) in clients.iter().zip(["Queen", "Knave", "Ace"]) {
        client.join(&room, nick).await?;
    }
    let [anna, ben, cleo] = &clients;
    let mut transcript = Transcript::default();
    let to_all = transcript.say(anna, Kind::Room, &room, "to everybody").await?;
    let to_ben = transcript.say(anna, Kind::Private, &format!("{room}/Knave"), "to you alone").await?;
    for client in &clients {
        client.answer_to(&to_all).await?;
    }
    ben.answer_to(&to_ben).await?;
    for client in &clients {
        client.settle().await?;
        transcript.hear(client);
    }
    assert!(!cleo.messages().iter().any(|message| message.id == to_ben));

    let archive = world.archive_with_outcomes(&[&to_all]).await?;
    everything_is_archived_once(&transcript, &archive)?;
    let (_, accepted) = archive.message(&to_all)?;
    assert_eq!((accepted.target, accepted.room.as_deref()), (Target::Room, Some(room.as_str())));
    assert_eq!(bares(accepted), clients.iter().map(|client| client.bare()).collect());
    let ace = accepted.recipients.iter().find(|r| r.bare == cleo.bare()).context("a recipient")?;
    assert_eq!(ace.occupant.as_deref(), Some(format!("{room}/Ace").as_str()));
    let reached: BTreeSet<_> = archive
        .outcomes(accepted.event)
        .iter()
        .flat_map(|outcome| &outcome.deliveries)
        .filter(|delivery| delivery.result == DeliveryResult::Delivered)
        .map(|delivery| delivery.bare.clone())
        .collect();
    assert_eq!(reached, clients.iter().map(|client| client.bare().to_owned()).collect());

    let (_, accepted) = archive.message(&to_ben)?;
    assert_eq!((accepted.target, accepted.room.as_deref()), (Target::Occupant, Some(room.as_str())));
    assert_eq!(bares(accepted), BTreeSet::from([ben.bare()]));
    Ok(())
}

#[tokio::test]
async fn ma_1_what_the_server_says_itself_is_on_record() -> Result<()> {
    let motd = "modules_enabled = { \"disco\", \"roster\", \"saslauth\", \"ping\", \"motd\" }\nmotd_text = \"Maintenance at noon\"";
    let world = World::builder().server_lines(motd).start().await?;
    let anna = world.client("anna/desk").await?;
    let motd = |e: &minidom::Element| {
        e.get_child("body", "jabber:client").filter(|b| b.text() == "Maintenance at noon").map(|_| ())
    };
    anna.wait("the message of the day", motd).await?;
    let archive = world.archive().await?;
    let internal: Vec<_> =
        archive.accepted().filter(|(_, accepted)| accepted.ingress == Ingress::Internal).collect();
    let [(record, accepted)] = internal.as_slice() else {
        panic!("one message made by the server, not {internal:#?}")
    };
    assert_eq!(text_of(record)?, "Maintenance at noon");
    assert_eq!(accepted.from, DOMAIN);
    assert_eq!(bares(accepted), BTreeSet::from([anna.bare()]));
    Ok(())
}

#[tokio::test]
async fn ma_3_only_declared_directions_are_recorded() -> Result<()> {
    for (inbound, outbound) in [(true, false), (false, true), (false, false)] {
        let start = World::builder().config(move |config| {
            config.archiving.inbound = inbound;
            config.archiving.outbound = outbound;
        });
        let world = start.start().await?;
        let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
        anna.message("stranger@elsewhere.test", "chat", "m-out", "to another server").await?;
        // This server does not federate, so it comes back; that it left the ingress is what counts.
        assert!(anna.answer_to("m-out").await?.is_error());
        anna.message(ben.bare(), "chat", "m-in", "to a colleague").await?;
        ben.answer_to("m-in").await?;
        let archive = world.archive().await?;
        let recorded = |id| archive.message(id).is_ok();
        assert_eq!(recorded("m-in"), inbound || outbound, "inbound {inbound}, outbound {outbound}");
        assert_eq!(recorded("m-out"), outbound, "inbound {inbound}, outbound {outbound}");
        if outbound {
            let (_, accepted) = archive.message("m-out")?;
            assert_eq!(accepted.target, Target::Remote);
            assert_eq!(accepted.recipients[0].direction, Direction::Outbound);
        }
    }
    Ok(())
}

#[tokio::test]
async fn ma_9_any_text_xmpp_can_carry_is_archived_as_it_was_delivered() -> Result<()> {
    let world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let texts = [
        "👩🏽‍💻 👨‍👩‍👧‍👦 🏴‍☠️ \u{1f1e9}\u{1f1ea}",
        "שלום \u{202e}gnirts desrever\u{202c} مرحبا",
        "cafe\u{301} Z\u{351}\u{36b}\u{343}\u{36a}a\u{328}lgo \u{1100}\u{1161}\u{11a8}",
        "zero\u{200b}width\u{200d}joiner\u{feff}bom\u{ad}soft",
        "\u{fffd} \u{10fffd} \u{e000} \u{85} \u{7f} \u{a0}",
        "'; DROP TABLE records; -- \\ \\\\ \\x00 \\u0000 $1 %s {} \u{0}".trim_end_matches('\0'),
        "COPY ends: \\.\nand \t tab",
        "]]> <![CDATA[ &amp;amp; &lt; &#0; &nbsp; <!-- --> <?php ?>",
        "</body></message><message to='cleo@example.test'><body>smuggled",
        "   leading and trailing   ",
        "a < b && \"c\" > 'd'",
    ];
    let mut transcript = Transcript::default();
    for text in texts {
        let id = transcript.say(&anna, Kind::OneToOne, ben.bare(), text).await?;
        let heard = ben.answer_to(&id).await?;
        assert_eq!(heard.body.as_deref(), Some(text));
    }
    // Spelled as no library would.
    for (inner, meant) in [
        ("<body>&#x41;&#66;&#x0001F600;&lt;&#38;gt;</body>", "AB😀<&gt;"),
        ("<body><![CDATA[<b>&amp;</b>]]>]]&gt;</body>", "<b>&amp;</b>]]>"),
        ("<x:body xmlns:x='jabber:client'>prefixed</x:body>", "prefixed"),
        ("<body\n xml:lang = \"he\" >ש</body ><evil xmlns='\"&apos;&lt;' a='&quot;&#10;'/>", "ש"),
    ] {
        let id = fresh_id();
        anna.raw(&format!("<message to='{}' type='chat' id='{id}'>{inner}</message>", ben.bare())).await?;
        assert_eq!(ben.answer_to(&id).await?.body.as_deref(), Some(meant));
        let archive = world.archive().await?;
        assert_eq!(text_of(archive.message(&id)?.0)?, meant);
    }
    transcript.hear(&ben);
    let archive = world.archive().await?;
    for said in &transcript.said {
        assert_eq!(text_of(archive.message(&said.id)?.0)?, said.text);
    }
    Ok(())
}

#[tokio::test]
async fn ma_9_a_message_at_the_stanza_limit_is_archived_whole_and_one_beyond_is_neither_delivered_nor_archived()
-> Result<()> {
    let world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    // An apostrophe is one byte from the client and six when the server writes it.
    for filler in ["x", "'", "é", "😀"] {
        let id = fresh_id();
        let (head, tail) =
            (format!("<message to='{}' type='chat' id='{id}'><body>", ben.bare()), "</body></message>");
        let text = filler.repeat((STANZA_LIMIT - head.len() - tail.len() - 16) / filler.len());
        anna.raw(&format!("{head}{text}{tail}")).await?;
        let heard = ben.answer_to(&id).await?;
        assert!(heard.body.as_deref() == Some(text.as_str()), "{filler}");
        let archive = world.archive().await?;
        assert!(text_of(archive.message(&id)?.0)? == text, "{filler}");
    }
    let cleo = world.client("cleo/desk").await?;
    cleo.message(ben.bare(), "chat", "m-over", &"x".repeat(STANZA_LIMIT)).await?;
    cleo.wait_end().await?;
    anna.message(ben.bare(), "chat", "m-after", "still here").await?;
    ben.answer_to("m-after").await?;
    assert!(!ben.messages().iter().any(|message| message.id == "m-over"));
    assert!(world.archive().await?.message("m-over").is_err());
    Ok(())
}

#[tokio::test]
async fn ma_9_what_is_not_xmpp_costs_its_sender_the_stream_and_nobody_else_anything() -> Result<()> {
    let world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let to = ben.bare().to_owned();
    for (n, bad) in [
        format!("<message to='{to}' id='bad'><body>nul: &#0;</body></message>"),
        format!("<message to='{to}' id='bad'><body>control: &#x1f;</body></message>"),
        format!("<message to='{to}' id='bad'><body>raw nul: \0</body></message>"),
        format!("<message to='{to}' id='bad'><body>noncharacter: &#xFFFE;</body></message>"),
        format!("<!DOCTYPE m [<!ENTITY e 'boom'>]><message to='{to}' id='bad'><body>&e;</body></message>"),
        format!("<message to='{to}' id='bad'><body>undefined: &boom;</body></message>"),
        format!("<message to='{to}' id='bad'><body>unclosed</message>"),
    ]
    .iter()
    .enumerate()
    {
        let cleo = world.client(&format!("cleo/try{n}")).await?;
        cleo.raw(bad).await?;
        cleo.wait_end().await.with_context(|| bad.clone())?;
    }
    anna.message(&to, "chat", "m-after", "still here").await?;
    ben.answer_to("m-after").await?;
    assert!(!ben.messages().iter().any(|message| message.id == "bad"), "{:?}", ben.messages());
    let archive = world.archive().await?;
    archive.message("m-after")?;
    assert_eq!(archive.accepted().count(), 1);
    Ok(())
}

#[tokio::test]
async fn ma_11_a_changed_configuration_takes_effect_without_a_restart_or_a_lost_session() -> Result<()> {
    let mut world = World::start().await?;
    cartulary_tests::oracle::create_database(&world.postgres, "second", true).await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let mut transcript = Transcript::default();
    let second = endpoint(&world.postgres, "second");

    for step in 0..4 {
        // Messages are under way while the file changes.
        for n in 0..20 {
            transcript.say(&anna, Kind::OneToOne, ben.bare(), &format!("step {step}, {n}")).await?;
        }
        let second = second.clone();
        world.sidecar.configure(|config| match step {
            0 => {
                config.endpoints.insert("second".to_owned(), second);
                config.archiving.endpoint = Some("second".to_owned());
            }
            1 => config.archiving.block_if_unable_to_record = false,
            2 => config.archiving.endpoint = Some(ENDPOINT.to_owned()),
            _ => config.archiving.block_if_unable_to_record = true,
        })?;
        for n in 20..40 {
            transcript.say(&ben, Kind::OneToOne, anna.bare(), &format!("step {step}, {n}")).await?;
        }
        world.sidecar.in_force().await?;
    }
    anna.settle().await?;
    ben.settle().await?;
    anna.settle().await?;
    assert!(!anna.ended() && !ben.ended());
    transcript.hear(&anna);
    transcript.hear(&ben);
    assert_eq!(transcript.delivered().len(), 160);

    let mut archive = world.archive().await?;
    let other = cartulary_tests::oracle::Archive::read(&world.postgres, "second").await?;
    let counts = (archive.accepted().count(), other.accepted().count());
    assert!(counts.0 > 0 && counts.1 > 0, "{DATABASE} and second hold {counts:?}");
    archive.records.extend(other.records);
    everything_is_archived_once(&transcript, &archive)
}

#[tokio::test]
async fn ma_1_a_message_to_oneself_is_on_record() -> Result<()> {
    let world = World::start().await?;
    let (desk, phone) = (world.client("anna/desk").await?, world.client("anna/phone").await?);
    desk.raw(&format!("<message type='chat' id='m-none'><body>{}</body></message>", escape("no addressee")))
        .await?;
    desk.message(phone.jid(), "chat", "m-full", "to my phone").await?;
    phone.answer_to("m-full").await?;
    desk.settle().await?;
    let archive = world.archive().await?;
    for id in ["m-none", "m-full"] {
        let (_, accepted) = archive.message(id)?;
        assert_eq!(bares(accepted), BTreeSet::from([desk.bare()]), "{id}");
    }
    Ok(())
}

#[tokio::test]
async fn a_burst_is_delivered_to_its_end_though_nothing_follows_it() -> Result<()> {
    let world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    // More than the server takes from its socket at once, in one write: it stops reading while a message waits, and has to
    // find the rest by itself afterwards.
    let mut burst = String::new();
    for n in 0..300 {
        let message = format!(
            "<message to='{}' type='chat' id='burst-{n}'><body>{}</body></message>",
            ben.bare(),
            "x".repeat(200)
        );
        burst.push_str(&message);
    }
    anna.raw(&burst).await?;
    ben.answer_to("burst-299").await?;
    assert_eq!(ben.messages().len(), 300);
    assert_eq!(world.archive().await?.accepted().count(), 300);
    Ok(())
}
