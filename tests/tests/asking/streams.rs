//! Sessions and streams: what waits while they are made, break off, are taken up again, or end; and streams that many share.

use super::{
    ANNA, BEN, PING, Town, befriend, by_words, given, has_been_given, of_type, pass, refusal, refused,
};
use anyhow::{Context, Result, bail, ensure};
use cartulary_compliance::link::{Action, Event, Ingress, Subject, Target, Verdict};
use cartulary_tests::client::Client;
use cartulary_tests::decider::asking_about;
use cartulary_tests::federation::Federation;
use cartulary_tests::prosody::{BOT, DOMAIN, PASSWORD, Prosody, ROOMS, Setup};
use minidom::Element;

#[tokio::test]
async fn a_session_is_bound_when_that_was_answered_and_fails_with_the_error() -> Result<()> {
    let settings = asking_about(&[Subject::Bind]);
    let script = |event: &Event| match event.from.rsplit('/').next() {
        Some("HOLD") => None,
        Some("REFUSE") => Some(refusal()),
        Some("DROP") => Some(Verdict::unrecorded(Action::Drop)),
        Some("CHANGE") => {
            Some(Verdict::unrecorded(Action::Replace(event.stanza.replace("CHANGE", "changed"))))
        }
        _ => pass(),
    };
    let town = Town::with(settings, |_, _| (), script).await?;
    for (resource, expected) in [("REFUSE", "policy-violation"), ("DROP", "not-allowed")] {
        let Err(error) = town.silent(&format!("anna/{resource}")).await else {
            bail!("{resource} was bound")
        };
        ensure!(format!("{error:#}").contains(expected), "{error:#}");
    }
    ensure!(town.decider.notices().iter().all(|n| n.name != "session-up"), "{:#?}", town.decider.notices());
    let anna = town.client("anna/desk").await?;
    let event = town.decider.asked().pop().context("asked")?;
    assert_eq!((event.subject, event.target, event.to.as_deref()), (Subject::Bind, Target::LocalUser, None));
    assert_eq!((event.from.as_str(), event.recipients.len()), (anna.jid(), 0));
    let bind: Element = event.stanza.replacen("<iq", "<iq xmlns='jabber:client'", 1).parse()?;
    let resource =
        bind.get_child("bind", "urn:ietf:params:xml:ns:xmpp-bind").and_then(|b| b.children().next());
    assert_eq!((bind.attr("type"), resource.map(Element::text).as_deref()), (Some("set"), Some("desk")));
    // Held, and the resource another one, also by the other ways in.
    let address = town.prosody.address();
    let held = tokio::spawn(async move { Client::connect(address, &format!("{BEN}/HOLD"), PASSWORD).await });
    town.decider.holds(1).await?;
    ensure!(!held.is_finished());
    let up = |who: &str| {
        town.decider.notices().iter().any(|n| n.name == "session-up" && n.jid.as_deref() == Some(who))
    };
    ensure!(!up(&format!("{BEN}/HOLD")));
    town.decider.release()?;
    let ben = held.await??;
    ben.available().await?;
    let cleo = town.silent("cleo/CHANGE").await?;
    town.decider.notice("session-up", |n| n.jid.as_deref() == Some("cleo@example.test/changed")).await?;
    drop(cleo);
    let web = town.prosody.web_address();
    for (client, resource) in [
        (Client::websocket(web, &format!("{ANNA}/browser"), PASSWORD).await?, "browser"),
        (Client::bosh(web, &format!("{ANNA}/kiosk"), PASSWORD).await?, "kiosk"),
    ] {
        client.available().await?;
        let from = format!("{ANNA}/{resource}");
        ensure!(town.decider.asked_about(Subject::Bind).iter().any(|e| e.from == from), "{resource}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_goes_while_it_is_to_be_bound_is_not_bound() -> Result<()> {
    let script = |event: &Event| if event.from.ends_with("/HOLD") { None } else { pass() };
    let town = Town::with(asking_about(&[Subject::Bind]), |_, _| (), script).await?;
    let address = town.prosody.address();
    let held = tokio::spawn(async move { Client::connect(address, &format!("{BEN}/HOLD"), PASSWORD).await });
    town.decider.holds(1).await?;
    held.abort();
    ensure!(held.await.is_err());
    // The server has seen the end of that connection when it has served one that was made later.
    town.client("anna/desk").await?.close().await?;
    town.decider.release()?;
    town.client("anna/phone").await?.settle().await?;
    let up = town
        .decider
        .notices()
        .into_iter()
        .find(|n| n.name == "session-up" && n.jid.as_deref() == Some("ben@example.test/HOLD"));
    ensure!(up.is_none(), "{up:?}");
    ensure!(!town.prosody.log().contains("Traceback"), "{}", town.prosody.log());
    Ok(())
}

#[tokio::test]
async fn a_session_that_ends_while_it_waits_makes_nobody_present_and_loses_no_wish() -> Result<()> {
    let town = Town::asks(&[Subject::Presence, Subject::ServiceIq, Subject::RoomPresence]).await?;
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    befriend(&anna, &ben).await?;
    let room = format!("office@{ROOMS}");
    ben.join(&room, "Ben").await?;
    let before = ben.seen().len();
    anna.close().await?;
    // Becoming friends has brought one already.
    cartulary_tests::process::until("her goodbye", async || {
        ben.seen()[before..].iter().any(|e| of_type(e, "presence", "unavailable").is_some())
    })
    .await?;
    let seen = ben.seen().len();

    // The server changes the roster of an account only while it has a session.
    let _stays = town.silent("anna/stays").await?;
    let held = "<status>HOLD</status>";
    let item = |who: &str, word: &str| {
        format!(
            "<iq id='i-1' type='set'><query xmlns='jabber:iq:roster'><item jid='{who}@y.test' name='{word}'/></query></iq>"
        )
    };
    let three = [
        format!("<presence id='p-1'>{held}</presence>"),
        format!(
            "<presence id='p-2' to='{room}/Anna'><x xmlns='http://jabber.org/protocol/muc'/>{held}</presence>"
        ),
        item("late", "HOLD"),
    ];
    for (n, stanza) in three.iter().enumerate() {
        let anna = town.silent(&format!("anna/{n}")).await?;
        // What follows in the session's queue is as good as what waits, if it is a wish.
        anna.raw(&format!("{stanza}{}", item(&format!("queued-{n}"), "later"))).await?;
        town.decider.holds(1).await?;
        let jid = anna.jid().to_owned();
        anna.cut().await?;
        town.decider.notice("session-down", |notice| notice.jid.as_deref() == Some(&jid)).await?;
        town.decider.release()?;
        cartulary_tests::process::until("the wish behind it", async || {
            town.decider.asked().iter().any(|e| e.stanza.contains(&format!("queued-{n}@")))
        })
        .await?;
    }
    let anna = town.silent("anna/back").await?;
    let roster = String::from(&anna.request("get", None, "<query xmlns='jabber:iq:roster'/>").await?);
    for name in ["late@", "queued-0@", "queued-1@", "queued-2@"] {
        ensure!(roster.contains(name), "{name} is not in {roster}");
    }
    ben.settle().await?;
    let after: Vec<_> =
        ben.seen()[seen..].iter().filter(|e| e.name() == "presence").map(String::from).collect();
    ensure!(after.is_empty(), "{after:#?}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_says_goodbye_is_never_kept() -> Result<()> {
    let subjects = [Subject::Presence, Subject::RoomPresence];
    let silence = |event: &Event| if event.stanza.contains("unavailable") { None } else { pass() };
    let town = Town::with(asking_about(&subjects), |_, _| (), silence).await?;
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    befriend(&anna, &ben).await?;
    let room = format!("office@{ROOMS}");
    for (client, nick) in [(&anna, "Anna"), (&ben, "Ben")] {
        client.join(&room, nick).await?;
    }
    anna.raw("<presence type='unavailable'><status>my last words</status></presence></stream:stream>")
        .await?;
    anna.wait_end().await?;
    for from in [anna.jid().to_owned(), format!("{room}/Anna")] {
        let gone =
            |e: &Element| of_type(e, "presence", "unavailable").filter(|e| e.attr("from") == Some(&from));
        let goodbye = ben.wait("her goodbye", gone).await?;
        // What nobody could decide about in time is not said.
        ensure!(!String::from(&goodbye).contains("last words"), "{goodbye:?}");
    }
    town.decider.notice("session-down", |notice| notice.jid.as_deref() == Some(anna.jid())).await?;
    town.decider.notice("occupant-left", |notice| notice.jid.as_deref() == Some(ANNA)).await?;
    // It was told all the same.
    let told = |e: &Event| e.subject == Subject::Presence && e.stanza.contains("unavailable");
    assert_eq!(town.decider.asked().iter().filter(|e| told(e)).count(), 1);
    Ok(())
}

#[tokio::test]
async fn an_iq_that_waits_while_its_stream_is_taken_up_again_is_answered_there_once() -> Result<()> {
    let town = Town::asks(&[Subject::ServiceIq]).await?;
    let anna = town.client("anna/desk").await?;
    let resumption = anna.enable_resumption().await?;
    anna.raw("<iq id='i-1' type='get'><query xmlns='jabber:iq:roster'>HOLD</query></iq>").await?;
    town.decider.holds(1).await?;
    let (seen, jid) = (anna.seen(), anna.jid().to_owned());
    anna.cut().await?;
    let back = Client::resume(town.prosody.address(), &jid, PASSWORD, &resumption, &seen).await?;
    town.decider.release()?;
    given(&back, "i-1").await?;
    back.settle().await?;
    assert_eq!(back.seen().iter().filter(|e| e.attr("id") == Some("i-1")).count(), 1);
    assert_eq!(town.decider.asked().iter().filter(|e| e.stanza.contains("HOLD")).count(), 1);
    Ok(())
}

#[tokio::test]
async fn a_held_address_of_a_component_keeps_its_order_and_stalls_no_other() -> Result<()> {
    let town = Town::asks(&[Subject::Presence, Subject::Iq]).await?;
    let anna = town.client("anna/desk").await?;
    let bot = Client::component(town.prosody.component_address(), BOT, PASSWORD).await?;
    let (slow, quick) = (format!("slow@{BOT}"), format!("quick@{BOT}"));
    bot.raw(&format!(
        "<presence id='slow-1' from='{slow}' to='{}'><status>HOLD</status></presence>",
        anna.jid()
    ))
    .await?;
    bot.raw(&format!(
        "<message id='slow-2' from='{slow}' to='{ANNA}' type='chat'><body>after it</body></message>"
    ))
    .await?;
    town.decider.holds(1).await?;
    let event = town.decider.asked_about(Subject::Presence).pop().context("asked")?;
    assert_eq!((event.ingress, event.from.as_str()), (Ingress::Component, slow.as_str()));
    bot.raw(&format!("<iq id='quick-1' type='get' from='{quick}' to='{}'>{PING}</iq>", anna.jid())).await?;
    given(&anna, "quick-1").await?;
    bot.raw(&format!(
        "<iq id='quick-2' type='get' from='{quick}' to='{}'><query xmlns='urn:x'>REFUSE</query></iq>",
        anna.jid()
    ))
    .await?;
    assert_eq!(refused(&bot, "quick-2").await?, "policy-violation");
    ensure!(!has_been_given(&anna, "slow-1") && !has_been_given(&anna, "slow-2"));
    town.decider.release()?;
    given(&anna, "slow-2").await?;
    let order: Vec<_> = anna
        .seen()
        .iter()
        .filter_map(|e| e.attr("id"))
        .filter(|id| id.starts_with("slow"))
        .map(str::to_owned)
        .collect();
    assert_eq!(order, ["slow-1", "slow-2"]);
    Ok(())
}

#[tokio::test]
async fn a_held_user_of_another_server_keeps_its_order_and_stalls_no_other() -> Result<()> {
    const PARTNER: &str = "partner.test";
    let federation = Federation::of(&[DOMAIN, PARTNER])?;
    let member = federation.member(DOMAIN)?;
    let subjects = [Subject::Presence, Subject::Iq];
    let town =
        Town::with(asking_about(&subjects), |setup, _| setup.federation = Some(member), by_words).await?;
    let dir = cartulary_tests::process::folder()?;
    let users = ["pia", "quin"].map(str::to_owned);
    let setup = Setup { federation: Some(federation.member(PARTNER)?), ..Setup::new(&users, "") };
    let mut theirs = Prosody::prepare(&dir.path().join("theirs"), setup, None)?;
    theirs.resume().await?;
    let there =
        async |who: &str| Client::connect(theirs.address(), &format!("{who}@{PARTNER}/desk"), PASSWORD).await;
    let (anna, pia, quin) = (town.client("anna/desk").await?, there("pia").await?, there("quin").await?);
    let to = anna.jid();
    pia.raw(&format!("<presence id='pia-1' to='{to}'><status>HOLD</status></presence>")).await?;
    town.decider.holds(1).await?;
    let event = town.decider.asked_about(Subject::Presence).pop().context("asked")?;
    assert_eq!(
        (event.ingress, event.host.as_str(), event.from.as_str()),
        (Ingress::RemoteServer, DOMAIN, pia.jid())
    );
    pia.message(to, "chat", "pia-2", "after it").await?;
    quin.raw(&format!("<iq id='quin-1' type='get' to='{to}'>{PING}</iq>")).await?;
    quin.raw(&format!("<iq id='quin-2' type='get' to='{to}'><query xmlns='urn:x'>REFUSE</query></iq>"))
        .await?;
    given(&anna, "quin-1").await?;
    assert_eq!(refused(&quin, "quin-2").await?, "policy-violation");
    ensure!(!has_been_given(&anna, "pia-1") && !has_been_given(&anna, "pia-2"));
    town.decider.release()?;
    given(&anna, "pia-2").await?;
    let order: Vec<_> = anna
        .seen()
        .iter()
        .filter_map(|e| e.attr("id"))
        .filter(|id| id.starts_with("pia"))
        .map(str::to_owned)
        .collect();
    assert_eq!(order, ["pia-1", "pia-2"]);
    Ok(())
}
