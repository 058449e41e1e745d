//! Every way into a server besides a client's plain stream: external component, websocket, BOSH, a stream taken up again, what the
//! server says itself, and what it kept for later (MA-1, MA-4, MA-5, P3).

use anyhow::{Context, Result, ensure};
use cartulary_compliance::link::{DeliveryResult, Ingress, Target};
use cartulary_tests::client::Client;
use cartulary_tests::decider::Decider;
use cartulary_tests::oracle::{each_sender_is_in_order, everything_is_archived_once, text_of};
use cartulary_tests::prosody::{BOT, DOMAIN, PASSWORD, Setup};
use cartulary_tests::transcript::{Kind, Said, Transcript, fresh_id};
use cartulary_tests::world::World;
use std::collections::BTreeSet;

async fn world() -> Result<World> {
    World::builder().every_ingress().start().await
}

// Says something as one of the component's addresses.
async fn say_as(
    bot: &Client,
    transcript: &mut Transcript,
    from: &str,
    kind: Kind,
    to: &str,
    text: &str,
) -> Result<String> {
    let id = fresh_id();
    let stanza_type = if kind == Kind::Room { "groupchat" } else { "chat" };
    bot.raw(&format!(
        "<message from='{from}' to='{to}' type='{stanza_type}' id='{id}'><body>{text}</body></message>"
    ))
    .await?;
    transcript.said.push(Said {
        id: id.clone(),
        kind,
        from: from.to_owned(),
        to: to.to_owned(),
        text: text.to_owned(),
    });
    Ok(id)
}

#[tokio::test]
async fn ma_1_what_an_external_component_says_and_is_told_is_on_record() -> Result<()> {
    let world = world().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let bot = world.component().await?;
    let clerk = format!("clerk@{BOT}/window");
    let room = world.room("lobby");
    anna.join(&room, "Anna").await?;
    bot.raw(&format!("<presence from='{clerk}' to='{room}/Clerk'><x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x></presence>")).await?;
    anna.wait("the clerk in the room", |e| (e.attr("from") == Some(&format!("{room}/Clerk"))).then_some(()))
        .await?;

    let mut transcript = Transcript::default();
    let to_ben =
        say_as(&bot, &mut transcript, &clerk, Kind::OneToOne, ben.bare(), "your number is 17").await?;
    ben.answer_to(&to_ben).await?;
    let to_room = say_as(&bot, &mut transcript, &clerk, Kind::Room, &room, "number 17, please").await?;
    anna.answer_to(&to_room).await?;
    let to_bot = transcript.say(&anna, Kind::OneToOne, &format!("clerk@{BOT}"), "coming").await?;
    bot.answer_to(&to_bot).await?;
    let to_both = transcript.say(&anna, Kind::Room, &room, "here I am").await?;
    anna.answer_to(&to_both).await?;
    bot.answer_to(&to_both).await?;
    for client in [&anna, &ben, &bot] {
        transcript.hear(client);
    }

    let archive = world.archive_with_outcomes(&[&to_ben, &to_room, &to_bot, &to_both]).await?;
    everything_is_archived_once(&transcript, &archive)?;
    let (_, accepted) = archive.message(&to_ben)?;
    assert_eq!((accepted.ingress, accepted.target), (Ingress::Component, Target::LocalUser));
    assert_eq!((accepted.from.as_str(), accepted.recipients[0].bare.as_str()), (clerk.as_str(), ben.bare()));
    assert_eq!(archive.results(&to_ben, ben.bare())?[0].result, DeliveryResult::Delivered);
    let (_, accepted) = archive.message(&to_room)?;
    assert_eq!((accepted.ingress, accepted.target), (Ingress::Component, Target::Room));
    let (_, accepted) = archive.message(&to_bot)?;
    assert_eq!((accepted.ingress, accepted.target), (Ingress::Client, Target::Component));
    assert_eq!(accepted.recipients[0].bare, format!("clerk@{BOT}"));
    for id in [&to_room, &to_both] {
        let (_, accepted) = archive.message(id)?;
        let bares: BTreeSet<_> = accepted.recipients.iter().map(|r| r.bare.as_str()).collect();
        assert_eq!(bares, BTreeSet::from([anna.bare(), &format!("clerk@{BOT}")]));
    }
    Ok(())
}

#[tokio::test]
async fn ma_1_sessions_over_websocket_and_bosh_are_recorded_as_any_other() -> Result<()> {
    let world = world().await?;
    let anna = world.websocket_client("anna/browser").await?;
    let ben = world.bosh_client("ben/kiosk").await?;
    let cleo = world.client("cleo/desk").await?;
    let clients = [&anna, &ben, &cleo];
    let room = world.room("lobby");
    for (client, nick) in clients.iter().zip(["Anna", "Ben", "Cleo"]) {
        client.join(&room, nick).await?;
    }
    let mut transcript = Transcript::default();
    for (from, to) in
        [(&anna, &ben), (&ben, &cleo), (&cleo, &anna), (&ben, &anna), (&anna, &cleo), (&cleo, &ben)]
    {
        for text in ["plain", "שלום 👩🏽‍💻 <&>'\"", "]]> &amp; </message>"] {
            let id = transcript.say(from, Kind::OneToOne, to.bare(), text).await?;
            assert_eq!(to.answer_to(&id).await?.body.as_deref(), Some(text));
        }
        let id = transcript.say(from, Kind::Room, &room, "to everybody").await?;
        for client in clients {
            client.answer_to(&id).await?;
        }
    }
    for client in clients {
        client.settle().await?;
        transcript.hear(client);
    }
    let archive = world.archive().await?;
    everything_is_archived_once(&transcript, &archive)?;
    each_sender_is_in_order(&transcript, &archive)?;
    assert!(archive.accepted().all(|(_, accepted)| accepted.ingress == Ingress::Client));
    Ok(())
}

#[tokio::test]
async fn ma_5_one_delivery_to_several_clients_of_one_user_is_one_record_whatever_they_came_by() -> Result<()>
{
    let world = world().await?;
    let anna = world.client("anna/desk").await?;
    let bens = [
        world.client("ben/desk").await?,
        world.websocket_client("ben/browser").await?,
        world.bosh_client("ben/kiosk").await?,
    ];
    for ben in &bens {
        ben.request("set", None, "<enable xmlns='urn:xmpp:carbons:2'/>").await?;
    }
    anna.message(bens[0].bare(), "chat", "m-bare", "to all of you").await?;
    anna.message(bens[1].jid(), "chat", "m-full", "to the browser").await?;
    for ben in &bens {
        ben.answer_to("m-bare").await?;
    }
    bens[1].answer_to("m-full").await?;
    // What one of them says the others are shown.
    bens[2].message(anna.bare(), "chat", "m-back", "from the kiosk").await?;
    anna.answer_to("m-back").await?;
    for ben in &bens {
        ben.settle().await?;
    }
    let carbons = |client: &Client| -> usize {
        client
            .seen()
            .iter()
            .filter(|e| e.children().any(|c| c.ns() == "urn:xmpp:carbons:2" && e.name() == "message"))
            .count()
    };
    assert_eq!(bens.each_ref().map(carbons), [2, 1, 1]);

    let archive = world.archive_with_outcomes(&["m-bare", "m-full", "m-back"]).await?;
    assert_eq!(archive.accepted().count(), 3);
    let resources = |id: &str| -> Result<BTreeSet<String>> {
        let results = archive.results(id, bens[0].bare())?;
        Ok(results.into_iter().flat_map(|delivery| delivery.resources.iter().cloned()).collect())
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(resources("m-bare")?, set(&["browser", "desk", "kiosk"]));
    // The copies for the others are deliveries too.
    assert!(resources("m-full")?.contains("browser"), "{:?}", resources("m-full")?);
    Ok(())
}

#[tokio::test]
async fn ma_5_a_stream_that_breaks_and_is_taken_up_again_costs_no_record_and_adds_none() -> Result<()> {
    let world = world().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let resumption = ben.enable_resumption().await?;
    let mut transcript = Transcript::default();
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(transcript.say(&anna, Kind::OneToOne, ben.bare(), &format!("before {n}")).await?);
    }
    ben.answer_to(&ids[2]).await?;
    // As far as the server can know he has seen the first only: the others come twice to him, and that is no second message.
    let first = ben.seen().iter().position(|e| e.attr("id") == Some(&ids[0])).context("the first")?;
    let seen = ben.seen()[..=first].to_vec();
    transcript.hear(&ben);
    ben.cut().await?;
    for n in 0..3 {
        ids.push(
            transcript.say(&anna, Kind::OneToOne, &world.jid("ben/desk"), &format!("while away {n}")).await?,
        );
    }
    anna.settle().await?;
    let ben =
        Client::resume(world.prosody.address(), &world.jid("ben/desk"), PASSWORD, &resumption, &seen).await?;
    ids.push(transcript.say(&anna, Kind::OneToOne, ben.bare(), "after").await?);
    ben.answer_to(&ids[6]).await?;
    let heard: Vec<_> = ben.messages().into_iter().map(|message| message.id).collect();
    assert_eq!(heard, ids[1..]);
    transcript.hear(&ben);

    let archive = world.archive_with_outcomes(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    everything_is_archived_once(&transcript, &archive)?;
    each_sender_is_in_order(&transcript, &archive)?;
    for id in &ids {
        let results = archive.results(id, ben.bare())?;
        ensure!(
            !results.is_empty() && results.iter().all(|d| d.result == DeliveryResult::Delivered),
            "{id}: {results:?}"
        );
        ensure!(results.iter().all(|d| d.resources == ["desk"]), "{id}: {results:?}");
    }
    Ok(())
}

#[tokio::test]
async fn ma_5_a_message_held_while_its_senders_stream_breaks_goes_on_once_and_in_order() -> Result<()> {
    let world = world().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    let resumption = anna.enable_resumption().await?;
    let mut transcript = Transcript::default();
    world.sidecar.freeze(true)?;
    for n in 0..3 {
        transcript.say(&anna, Kind::OneToOne, ben.bare(), &format!("held {n}")).await?;
    }
    let seen = anna.seen();
    anna.cut().await?;
    let address = world.prosody.address();
    let back = tokio::spawn(async move {
        Client::resume(address, &format!("anna@{DOMAIN}/desk"), PASSWORD, &resumption, &seen).await
    });
    world.sidecar.freeze(false)?;
    let anna = back.await??;
    let last = transcript.say(&anna, Kind::OneToOne, ben.bare(), "after").await?;
    ben.answer_to(&last).await?;
    anna.settle().await?;
    ben.settle().await?;
    transcript.hear(&ben);
    transcript.hear(&anna);
    // What the server had not read when the connection broke was never said to it.
    let heard: Vec<_> = ben.messages().into_iter().map(|message| message.id).collect();
    let said: Vec<_> = transcript.said.iter().map(|said| said.id.clone()).collect();
    ensure!(said.iter().filter(|id| heard.contains(id)).eq(&heard), "said {said:?}, heard {heard:?}");
    transcript.said.retain(|said| heard.contains(&said.id));
    let archive = world.archive().await?;
    everything_is_archived_once(&transcript, &archive)?;
    each_sender_is_in_order(&transcript, &archive)
}

#[tokio::test]
async fn ma_1_an_announcement_is_on_record_for_everybody_who_got_it() -> Result<()> {
    let world = World::builder()
        .every_ingress()
        .server_lines(&format!("admins = {{ \"anna@{DOMAIN}\" }}"))
        .start()
        .await?;
    let (anna, ben, cleo) =
        (world.client("anna/desk").await?, world.client("ben/desk").await?, world.client("cleo/desk").await?);
    anna.message(&format!("{DOMAIN}/announce/online"), "headline", "m-all", "the lift is out of order")
        .await?;
    for client in [&ben, &cleo] {
        client.answer_to("m-all").await?;
    }
    let named = |archive: &cartulary_tests::oracle::Archive| -> BTreeSet<String> {
        let with_text = archive
            .accepted()
            .filter(|(record, _)| text_of(record).is_ok_and(|text| text == "the lift is out of order"));
        with_text
            .flat_map(|(_, accepted)| {
                let meant = accepted.recipients.iter().map(|recipient| recipient.bare.clone());
                let told =
                    archive.outcomes(accepted.event).into_iter().flat_map(|outcome| &outcome.deliveries);
                meant
                    .chain(told.map(|delivery| delivery.bare.clone()).collect::<Vec<_>>())
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    let all = [ben.bare().to_owned(), cleo.bare().to_owned()];
    let archive = world
        .archive_when("everybody's name on record", |a| all.iter().all(|bare| named(a).contains(bare)))
        .await?;
    // The admin's own word is one record, addressed to the server.
    let (_, accepted) =
        archive.accepted().find(|(_, a)| a.from == anna.jid()).context("the admin's message")?;
    assert_eq!((accepted.ingress, accepted.target), (Ingress::Client, Target::Service));
    Ok(())
}

#[tokio::test]
async fn ma_4_ad_hoc_and_persistent_rooms_are_recorded_alike_and_history_is_not_recorded_again() -> Result<()>
{
    let mut world = world().await?;
    let (ad_hoc, kept) = (world.room("ad-hoc"), world.room("kept"));
    let mut transcript = Transcript::default();
    let anna = world.client("anna/desk").await?;
    let ben = world.client("ben/desk").await?;
    for room in [&ad_hoc, &kept] {
        anna.join(room, "Queen").await?;
        ben.join(room, "Knave").await?;
    }
    let form = "<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/muc#roomconfig</value></field><field var='muc#roomconfig_persistentroom'><value>1</value></field></x></query>";
    anna.request("set", Some(&kept), form).await?;
    // A subject is something said, too.
    anna.raw(&format!(
        "<message to='{kept}' type='groupchat' id='m-subject'><subject>Agenda</subject></message>"
    ))
    .await?;
    let subject = |e: &minidom::Element| {
        e.get_child("subject", "jabber:client").filter(|s| s.text() == "Agenda").map(|_| ())
    };
    ben.wait("the subject", subject).await?;
    for room in [&ad_hoc, &kept] {
        for (from, to) in [(&anna, &ben), (&ben, &anna)] {
            let id = transcript.say(from, Kind::Room, room, "for the minutes").await?;
            to.answer_to(&id).await?;
        }
    }
    for client in [&anna, &ben] {
        client.settle().await?;
        transcript.hear(client);
    }
    let archive = world.archive().await?;
    let (record, accepted) = archive.message("m-subject")?;
    assert_eq!((accepted.target, accepted.room.as_deref()), (Target::Room, Some(kept.as_str())));
    ensure!(String::from_utf8_lossy(&record.payloads[0].bytes).contains("<subject>Agenda</subject>"));
    for said in &transcript.said {
        let (_, accepted) = archive.message(&said.id)?;
        let real: BTreeSet<_> = accepted.recipients.iter().map(|r| r.bare.as_str()).collect();
        assert_eq!(real, BTreeSet::from([anna.bare(), ben.bare()]), "{said:?}");
        assert!(
            accepted.recipients.iter().all(|r| r.occupant.as_ref().is_some_and(|o| o.starts_with(&said.to)))
        );
    }
    drop((anna, ben));

    // The server is started anew: the persistent room is there with its history, which is shown and not said.
    world.prosody.stop().await?;
    world.prosody.resume().await?;
    world.covered().await?;
    let before = world.archive().await?.accepted().count();
    let cleo = world.client("cleo/desk").await?;
    cleo.raw(&format!("<presence to='{kept}/Ace'><x xmlns='http://jabber.org/protocol/muc'/></presence>"))
        .await?;
    cleo.wait("the room's subject", subject).await?;
    cleo.settle().await?;
    ensure!(
        cleo.messages().iter().any(|m| m.body.as_deref() == Some("for the minutes")),
        "{:?}",
        cleo.messages()
    );
    assert_eq!(world.archive().await?.accepted().count(), before);
    Ok(())
}

#[tokio::test]
async fn ma_5_what_was_stored_and_later_delivered_is_one_record_that_says_both() -> Result<()> {
    let world = world().await?;
    let anna = world.client("anna/desk").await?;
    let mut transcript = Transcript::default();
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(
            transcript.say(&anna, Kind::Offline, &format!("ben@{DOMAIN}"), &format!("for later {n}")).await?,
        );
    }
    anna.settle().await?;
    let ben = world.client("ben/tablet").await?;
    ben.answer_to(&ids[2]).await?;
    transcript.hear(&ben);
    let archive = world
        .archive_when("the later delivery", |archive| {
            ids.iter().all(|id| {
                archive
                    .results(id, ben.bare())
                    .is_ok_and(|r| r.iter().any(|d| d.result == DeliveryResult::FromOffline))
            })
        })
        .await?;
    everything_is_archived_once(&transcript, &archive)?;
    for id in &ids {
        let results = archive.results(id, ben.bare())?;
        let said: Vec<_> = results.iter().map(|delivery| delivery.result).collect();
        assert_eq!(said, [DeliveryResult::Offline, DeliveryResult::FromOffline], "{results:?}");
        assert_eq!(results[1].resources, ["tablet"]);
    }
    Ok(())
}

#[tokio::test]
async fn p3_records_keep_the_order_of_what_was_said_over_all_ingresses() -> Result<()> {
    let world = world().await?;
    let anna = world.client("anna/desk").await?;
    let ben = world.websocket_client("ben/browser").await?;
    let cleo = world.bosh_client("cleo/kiosk").await?;
    let bot = world.component().await?;
    let clerk = format!("clerk@{BOT}");
    let mut transcript = Transcript::default();
    // Each answers what they have just heard: what came first is first on record, whoever said it.
    for round in 0..10 {
        for (from, to) in [(&anna, &ben), (&ben, &cleo)] {
            let id = transcript.say(from, Kind::OneToOne, to.bare(), &format!("chain {round}")).await?;
            to.answer_to(&id).await?;
        }
        let id = transcript.say(&cleo, Kind::OneToOne, &clerk, &format!("chain {round}")).await?;
        bot.answer_to(&id).await?;
        let id = say_as(&bot, &mut transcript, &clerk, Kind::OneToOne, anna.bare(), "and on").await?;
        anna.answer_to(&id).await?;
    }
    let archive = world.archive().await?;
    let recorded: Vec<_> =
        archive.accepted().filter_map(|(_, accepted)| accepted.stanza_id.as_deref()).collect();
    let said: Vec<_> = transcript.said.iter().map(|said| said.id.as_str()).collect();
    assert_eq!(recorded, said);

    // All at once, to one and to many: the order of each.
    let room = world.room("lobby");
    for (client, nick) in [(&anna, "Anna"), (&ben, "Ben"), (&cleo, "Cleo")] {
        client.join(&room, nick).await?;
    }
    for n in 0..40 {
        for (from, to) in [(&anna, &ben), (&ben, &cleo), (&cleo, &anna)] {
            let (kind, to) =
                if n % 3 == 0 { (Kind::Room, room.as_str()) } else { (Kind::OneToOne, to.bare()) };
            transcript.say(from, kind, to, &format!("flood {n}")).await?;
        }
        for voice in ["one", "two"] {
            let from = format!("{voice}@{BOT}");
            say_as(&bot, &mut transcript, &from, Kind::OneToOne, anna.bare(), &format!("flood {n}")).await?;
        }
    }
    for said in &transcript.said {
        match said.kind {
            Kind::Room => {
                cleo.answer_to(&said.id).await?;
            }
            _ if said.to == anna.bare() => {
                anna.answer_to(&said.id).await?;
            }
            _ => {}
        }
    }
    for client in [&anna, &ben, &cleo] {
        client.settle().await?;
        transcript.hear(client);
    }
    let archive = world.archive().await?;
    everything_is_archived_once(&transcript, &archive)?;
    each_sender_is_in_order(&transcript, &archive)
}

#[tokio::test]
async fn p3_a_held_address_of_a_component_keeps_its_order_and_stalls_no_other() -> Result<()> {
    let dir = cartulary_tests::process::folder()?;
    let setup = Setup { every_ingress: true, ..Setup::new(&["anna".to_owned()], "") };
    let (decider, prosody) = Decider::start(dir.path(), setup, "HOLD").await?;
    let anna = Client::connect(prosody.address(), &format!("anna@{DOMAIN}/desk"), PASSWORD).await?;
    anna.available().await?;
    let bot = Client::component(prosody.component_address(), BOT, PASSWORD).await?;
    let (slow, quick) = (format!("slow@{BOT}"), format!("quick@{BOT}"));
    let say = async |from: &str, id: &str, text: &str| {
        bot.raw(&format!(
            "<message from='{from}' to='{}' type='chat' id='{id}'><body>{text}</body></message>",
            anna.bare()
        ))
        .await
    };
    say(&slow, "slow-1", "HOLD").await?;
    decider.holds(1).await?;
    say(&slow, "slow-2", "after it").await?;
    for n in 0..10 {
        say(&quick, &format!("quick-{n}"), "passes by").await?;
        anna.answer_to(&format!("quick-{n}")).await?;
    }
    anna.settle().await?;
    let from_slow =
        || anna.messages().into_iter().filter(|m| m.from == slow).map(|m| m.id).collect::<Vec<_>>();
    assert_eq!(from_slow(), Vec::<String>::new());
    decider.release()?;
    anna.answer_to("slow-2").await?;
    assert_eq!(from_slow(), ["slow-1", "slow-2"]);
    Ok(())
}
