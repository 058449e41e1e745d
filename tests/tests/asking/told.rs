//! Verdicts about messages that name somebody, and what is told of accounts, sessions and rooms.

use super::{ADMIN, ANNA, BEN, OWNER, Town, given, has_been_given, pass, refusal, refused};
use anyhow::{Context, Result, bail, ensure};
use cartulary_compliance::link::{Action, Event, Exception, Verdict};
use cartulary_tests::client::Client;
use cartulary_tests::decider::asking_about;
use cartulary_tests::prosody::{BOT, DOMAIN, PASSWORD, ROOMS, Setup};
use minidom::Element;
use tempfile::TempDir;

#[tokio::test]
async fn a_message_to_an_account_goes_to_the_session_that_the_verdict_names() -> Result<()> {
    let script = |event: &Event| {
        let to = ["phone", "gone"].into_iter().find(|name| event.stanza.contains(&format!("for {name}")));
        Some(Verdict { resource: to.map(str::to_owned), ..Verdict::unrecorded(Action::Deliver) })
    };
    let town = Town::with(asking_about(&[]), |_, _| (), script).await?;
    let anna = town.client("anna/desk").await?;
    let (desk, phone, tablet) =
        (town.client("ben/desk").await?, town.client("ben/phone").await?, town.client("ben/tablet").await?);
    tablet.request("set", None, "<enable xmlns='urn:xmpp:carbons:2'/>").await?;
    let bot = Client::component(town.prosody.component_address(), BOT, PASSWORD).await?;
    anna.message(BEN, "chat", "m-1", "for phone").await?;
    bot.raw(&format!(
        "<message id='m-2' from='{BOT}' to='{BEN}' type='chat'><body>for phone</body></message>"
    ))
    .await?;
    anna.message(BEN, "chat", "m-3", "for gone").await?;
    anna.message(&format!("{BEN}/desk"), "chat", "m-4", "for phone, says the verdict").await?;
    for id in ["m-1", "m-2", "m-3"] {
        given(&phone, id).await?;
    }
    for id in ["m-3", "m-4"] {
        given(&desk, id).await?;
    }
    let carbon = |id: &'static str| {
        move |e: &Element| {
            let text = String::from(e);
            (e.attr("id") != Some(id) && text.contains("received") && text.contains(id)).then_some(())
        }
    };
    for id in ["m-1", "m-2"] {
        tablet.wait("a carbon", carbon(id)).await?;
        ensure!(!has_been_given(&tablet, id) && !has_been_given(&desk, id), "{id}");
    }
    phone.settle().await?;
    ensure!(!has_been_given(&phone, "m-4"));
    Ok(())
}

#[tokio::test]
async fn one_in_a_room_is_excepted_and_the_others_receive() -> Result<()> {
    let except = |bare: &str, action| Exception { recipient: bare.to_owned(), action };
    let Action::Bounce(bounce) = refusal().action else { bail!("a bounce") };
    let script = move |event: &Event| {
        let action = match () {
            () if event.stanza.contains("WITHHOLD") => Action::Drop,
            () if event.stanza.contains("BOUNCE") => Action::Bounce(bounce.clone()),
            () if event.stanza.contains("CHANGE") => {
                Action::Replace(event.stanza.replace("CHANGE", "changed"))
            }
            () => return pass(),
        };
        Some(Verdict { exceptions: vec![except(BEN, action)], ..Verdict::unrecorded(Action::Deliver) })
    };
    let town = Town::with(asking_about(&[]), |_, _| (), script).await?;
    let room = format!("office@{ROOMS}");
    let (anna, ben, cleo) =
        (town.client("anna/desk").await?, town.client("ben/desk").await?, town.client("cleo/desk").await?);
    for (client, nick) in [(&anna, "Anna"), (&ben, "Ben"), (&cleo, "Cleo")] {
        client.join(&room, nick).await?;
    }
    for (id, word) in [("m-1", "WITHHOLD"), ("m-2", "BOUNCE"), ("m-3", "CHANGE")] {
        anna.message(&room, "groupchat", id, word).await?;
        assert_eq!(cleo.answer_to(id).await?.body.as_deref(), Some(word));
    }
    assert_eq!(ben.answer_to("m-3").await?.body.as_deref(), Some("changed"));
    assert_eq!(refused(&anna, "m-2").await?, "policy-violation");
    let told = anna.messages().into_iter().find(|m| m.is_error()).context("the error")?;
    assert_eq!(told.from, format!("{room}/Ben"));
    // In private.
    for (id, word) in [("q-1", "WITHHOLD"), ("q-2", "BOUNCE"), ("q-3", "CHANGE")] {
        anna.message(&format!("{room}/Ben"), "chat", id, word).await?;
    }
    assert_eq!(ben.answer_to("q-3").await?.body.as_deref(), Some("changed"));
    assert_eq!(refused(&anna, "q-2").await?, "policy-violation");
    for id in ["m-1", "m-2", "q-1", "q-2"] {
        ensure!(!has_been_given(&ben, id), "{id}");
    }
    assert_eq!(anna.messages().iter().filter(|m| m.is_error()).count(), 2);
    Ok(())
}

/// What a room replays to who comes with this nickname, up to the message `last`.
async fn replayed(client: &Client, room: &str, nick: &str, last: &str) -> Result<Vec<String>> {
    client
        .raw(&format!("<presence to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>"))
        .await?;
    client.answer_to(last).await?;
    Ok(client.messages().into_iter().filter_map(|message| message.body).collect())
}

#[tokio::test]
async fn what_was_kept_from_one_in_a_room_is_not_replayed_by_the_room() -> Result<()> {
    let script = |event: &Event| {
        let action = match () {
            () if event.stanza.contains("WITHHOLD") => Action::Drop,
            () if event.stanza.contains("CHANGE") => {
                Action::Replace(event.stanza.replace("CHANGE", "changed"))
            }
            () => return pass(),
        };
        let exceptions = vec![Exception { recipient: BEN.to_owned(), action }];
        Some(Verdict { exceptions, ..Verdict::unrecorded(Action::Deliver) })
    };
    let town = Town::with(asking_about(&[]), |_, _| (), script).await?;
    let room = format!("office@{ROOMS}");
    let (anna, ben, cleo) =
        (town.client("anna/desk").await?, town.client("ben/desk").await?, town.client("cleo/desk").await?);
    for (client, nick) in [(&anna, "Anna"), (&ben, "Ben")] {
        client.join(&room, nick).await?;
    }
    for (id, word) in [("m-1", "WITHHOLD"), ("m-2", "CHANGE"), ("m-3", "plain")] {
        anna.message(&room, "groupchat", id, word).await?;
        anna.answer_to(id).await?;
    }
    ensure!(replayed(&cleo, &room, "Cleo", "m-3").await? == ["plain"]);
    let again = town.client("ben/again").await?;
    ensure!(replayed(&again, &room, "Ben", "m-3").await? == ["plain"]);
    Ok(())
}

#[tokio::test]
async fn who_joins_while_a_message_is_held_gets_it_only_where_the_verdict_is_not_about_who_was_named()
-> Result<()> {
    let script = |event: &Event| if event.stanza.contains("HOLD") { None } else { pass() };
    let town = Town::with(asking_about(&[]), |_, _| (), script).await?;
    let room = format!("office@{ROOMS}");
    let (anna, ben, cleo) =
        (town.client("anna/desk").await?, town.client("ben/desk").await?, town.client("cleo/desk").await?);
    anna.join(&room, "Anna").await?;
    for (id, newcomer, nick, named_only) in [("m-1", &ben, "Ben", false), ("m-2", &cleo, "Cleo", true)] {
        anna.message(&room, "groupchat", id, "HOLD").await?;
        town.decider.holds(1).await?;
        newcomer.join(&room, nick).await?;
        town.decider.answer(&Verdict { named_only, ..Verdict::unrecorded(Action::Deliver) })?;
        anna.answer_to(id).await?;
    }
    anna.message(&room, "groupchat", "m-3", "to all").await?;
    for client in [&ben, &cleo] {
        client.answer_to("m-3").await?;
    }
    ensure!(has_been_given(&ben, "m-1") && has_been_given(&ben, "m-2"));
    ensure!(!has_been_given(&cleo, "m-1") && !has_been_given(&cleo, "m-2"));
    Ok(())
}

#[tokio::test]
async fn what_happens_to_accounts_sessions_and_rooms_is_told() -> Result<()> {
    // A part of the server that closes rooms.
    let closer = "module:hook('muc-occupant-groupchat', function (e) if e.stanza:get_child_text('body') == 'close' then local r = e.room; module:add_timer(0, function () r:destroy(nil, 'tidied') end) end end, 1000)";
    let closing = format!("closing.{DOMAIN}");
    let modules = |setup: &mut Setup, dir: &TempDir| {
        let folder = dir.path().join("modules");
        let written = std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join("mod_closer.lua"), closer));
        assert!(written.is_ok(), "{written:?}");
        setup.lines = format!("plugin_paths = {{ \"{}\" }}", folder.display());
        setup.hosts = format!("Component \"{closing}\" \"muc\"\n  modules_enabled = {{ \"closer\" }}");
    };
    let town = Town::with(asking_about(&[]), modules, |_| pass()).await?;
    let notice = async |name: &str, wanted: &dyn Fn(&cartulary_compliance::link::Notice) -> bool| {
        town.decider.notice(name, wanted).await
    };
    Client::register(town.prosody.address(), DOMAIN, "dora", PASSWORD).await?;
    let dora = notice("registered", &|n| n.jid.as_deref() == Some("dora@example.test")).await?;
    ensure!(dora.address.is_some(), "{dora:?}");
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    let login = notice("authenticated", &|n| n.jid.as_deref() == Some(ANNA)).await?;
    assert_eq!(login.mechanism.as_deref(), Some("PLAIN"));
    ensure!(login.address.is_some() && login.session.is_some(), "{login:?}");

    let room = format!("office@{ROOMS}");
    anna.join(&room, "Anna").await?;
    let created = notice("room-created", &|n| n.room.as_deref() == Some(&room)).await?;
    assert_eq!(created.jid.as_deref(), Some(ANNA));
    let configured = notice("room-configured", &|n| n.room.as_deref() == Some(&room)).await?;
    assert_eq!(configured.jid.as_deref(), Some(ANNA));
    ensure!(configured.stanza.as_deref().is_some_and(|s| s.contains(OWNER)), "{configured:?}");
    ben.join(&room, "Ben").await?;
    let joined = notice("occupant-joined", &|n| n.jid.as_deref() == Some(BEN)).await?;
    ensure!(joined.stanza.as_deref().is_some_and(|s| s.starts_with("<presence")), "{joined:?}");

    // Nickname, availability and role; presence that repeats what is known is no change.
    let nick = |to: &str, more: &str| format!("<presence to='{room}/{to}'>{more}</presence>");
    ben.raw(&nick("Benny", "")).await?;
    let changed = notice("occupant-changed", &|n| n.reason.as_deref() == Some("nick")).await?;
    assert_eq!((changed.value.as_deref(), changed.jid.as_deref()), (Some("Benny"), Some(BEN)));
    assert_eq!(changed.occupant, Some(format!("{room}/Ben")));
    notice("occupant-joined", &|n| n.reason.as_deref() == Some("nick changed")).await?;
    ben.raw(&(nick("Benny", "<show>away</show>") + &nick("Benny", "<show>away</show>"))).await?;
    let changed = notice("occupant-changed", &|n| n.reason.as_deref() == Some("availability")).await?;
    assert_eq!(
        (changed.value.as_deref(), changed.occupant.as_ref()),
        (Some("away"), Some(&format!("{room}/Benny")))
    );
    let item = |attributes: &str| {
        format!("<query xmlns='{ADMIN}'><item {attributes}><reason>so it is</reason></item></query>")
    };
    anna.request("set", Some(&room), &item("nick='Benny' role='moderator'")).await?;
    let changed = notice("occupant-changed", &|n| n.reason.as_deref() == Some("role")).await?;
    assert_eq!((changed.value.as_deref(), changed.jid.as_deref()), (Some("moderator"), Some(BEN)));
    ensure!(changed.stanza.as_deref().is_some_and(|s| s.contains(ADMIN)), "{changed:?}");
    let count = |name: &str, reason: &str| {
        let is =
            |n: &&cartulary_compliance::link::Notice| n.name == name && n.reason.as_deref() == Some(reason);
        town.decider.notices().iter().filter(is).count()
    };
    assert_eq!((count("occupant-changed", "nick"), count("occupant-changed", "availability")), (1, 1));

    for affiliation in ["member", "none"] {
        anna.request("set", Some(&room), &item(&format!("jid='cleo@{DOMAIN}' affiliation='{affiliation}'")))
            .await?;
        let told = notice("affiliation-changed", &|n| {
            n.jid.as_deref() == Some("cleo@example.test") && n.value.as_deref() == Some(affiliation)
        })
        .await?;
        assert_eq!((told.room.as_deref(), told.reason.as_deref()), (Some(room.as_str()), Some("so it is")));
    }
    anna.raw(&format!("<message to='{room}' type='groupchat' id='m-1'><subject>Agenda</subject></message>"))
        .await?;
    let subject = notice("subject-changed", &|n| n.room.as_deref() == Some(&room)).await?;
    assert_eq!((subject.jid.as_deref(), subject.value.as_deref()), (Some(ANNA), Some("Agenda")));
    anna.raw(&format!("<message to='{room}'><x xmlns='http://jabber.org/protocol/muc#user'><invite to='cleo@{DOMAIN}'/></x></message>")).await?;
    let invited = notice("invited", &|n| n.room.as_deref() == Some(&room)).await?;
    assert_eq!(
        (invited.jid.as_deref(), invited.occupant.as_ref()),
        (Some("cleo@example.test"), Some(&format!("{room}/Anna")))
    );
    ensure!(invited.stanza.as_deref().is_some_and(|s| s.contains("invite")), "{invited:?}");

    ben.raw(&nick("Benny", "").replace("<presence", "<presence type='unavailable'")).await?;
    let left = notice("occupant-left", &|n| n.occupant == Some(format!("{room}/Benny"))).await?;
    ensure!(left.reason.is_none() && left.stanza.is_some(), "{left:?}");
    // An owner closes a room; the server closes one.
    anna.request(
        "set",
        Some(&room),
        &format!("<query xmlns='{OWNER}'><destroy><reason>done</reason></destroy></query>"),
    )
    .await?;
    let destroyed = notice("room-destroyed", &|n| n.room.as_deref() == Some(&room)).await?;
    assert_eq!((destroyed.jid.as_deref(), destroyed.reason.as_deref()), (Some(ANNA), Some("done")));
    let other = format!("office@{closing}");
    anna.join(&other, "Anna").await?;
    anna.message(&other, "groupchat", "m-2", "close").await?;
    let closed = notice("room-closing", &|_| true).await?;
    assert_eq!((closed.room.as_deref(), closed.reason.as_deref()), (Some(other.as_str()), Some("tidied")));
    town.prosody.reload()?;
    for service in [ROOMS, &closing] {
        notice("services-reconfigured", &|n| n.room.as_deref() == Some(service)).await?;
    }
    let failed: Vec<_> = town.decider.notices().into_iter().filter(|n| n.name == "hook-failed").collect();
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}
