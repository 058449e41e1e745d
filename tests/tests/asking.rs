//! What the plugin asks about besides messages, and how it carries out what it is told: against a scripted sidecar, so that each answer
//! comes when the test wants it.

use anyhow::{Context, Result, bail, ensure};
use cartulary_compliance::link::{
    Action, AskAbout, Bounce, Event, Exception, Frame, Ingress, Settings, Subject, Target, Unanswered,
    Verdict,
};
use cartulary_tests::client::Client;
use cartulary_tests::decider::{Decider, asking_about};
use cartulary_tests::prosody::{BOT, DOMAIN, PASSWORD, Prosody, ROOMS, Setup};
use minidom::Element;
use tempfile::TempDir;

const ANNA: &str = "anna@example.test";
const BEN: &str = "ben@example.test";
const PING: &str = "<ping xmlns='urn:xmpp:ping'/>";
const OWNER: &str = "http://jabber.org/protocol/muc#owner";
const ADMIN: &str = "http://jabber.org/protocol/muc#admin";

struct Town {
    decider: Decider,
    prosody: Prosody,
    _dir: TempDir,
}

fn pass() -> Option<Verdict> {
    Some(Verdict::unrecorded(Action::Deliver))
}

fn refusal() -> Verdict {
    let bounce = Bounce {
        error_type: "cancel".to_owned(),
        condition: "policy-violation".to_owned(),
        text: Some("not here".to_owned()),
    };
    Verdict::unrecorded(Action::Bounce(bounce))
}

/// Stanzas that hold one of these words are kept, refused or dropped; all others go on.
fn by_words(event: &Event) -> Option<Verdict> {
    let says = |word: &str| event.stanza.contains(word);
    match () {
        () if says("HOLD") => None,
        () if says("REFUSE") => Some(refusal()),
        () if says("DROP") => Some(Verdict::unrecorded(Action::Drop)),
        () if says("CHANGE") => {
            Some(Verdict::unrecorded(Action::Replace(event.stanza.replace("CHANGE", "changed"))))
        }
        () => pass(),
    }
}

impl Town {
    async fn with(
        settings: Settings,
        change: impl FnOnce(&mut Setup, &TempDir),
        script: impl Fn(&Event) -> Option<Verdict> + Send + Sync + 'static,
    ) -> Result<Self> {
        let dir = cartulary_tests::process::folder()?;
        let users = ["anna", "ben", "cleo"].map(str::to_owned);
        let mut setup = Setup { every_ingress: true, ..Setup::new(&users, "") };
        change(&mut setup, &dir);
        let (decider, prosody) = Decider::scripted(dir.path(), setup, settings, Box::new(script)).await?;
        Ok(Self { decider, prosody, _dir: dir })
    }

    /// A server that asks about these subjects, answered by [`by_words`].
    async fn asks(subjects: &[Subject]) -> Result<Self> {
        Self::with(asking_about(subjects), |_, _| (), by_words).await
    }

    async fn silent(&self, who: &str) -> Result<Client> {
        let (user, resource) = who.split_once('/').context("a resource")?;
        Client::connect(self.prosody.address(), &format!("{user}@{DOMAIN}/{resource}"), PASSWORD).await
    }

    async fn client(&self, who: &str) -> Result<Client> {
        let client = self.silent(who).await?;
        client.available().await?;
        Ok(client)
    }

    fn only(&self, subject: Subject) -> Result<Event> {
        let mut asked = self.decider.asked_about(subject);
        ensure!(asked.len() == 1, "asked about {subject:?}: {asked:#?}");
        asked.pop().context("one")
    }
}

/// Has each follow the other.
async fn befriend(one: &Client, other: &Client) -> Result<()> {
    for client in [one, other] {
        // Who has asked for the roster is told of consents.
        client.request("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
    }
    for (a, b) in [(one, other), (other, one)] {
        a.raw(&format!("<presence to='{}' type='subscribe'/>", b.bare())).await?;
        b.wait("the wish to follow", |e| of_type(e, "presence", "subscribe")).await?;
        b.raw(&format!("<presence to='{}' type='subscribed'/>", a.bare())).await?;
        a.wait("the consent", |e| of_type(e, "presence", "subscribed")).await?;
    }
    one.settle().await?;
    other.settle().await
}

fn of_type(e: &Element, name: &str, kind: &str) -> Option<Element> {
    (e.name() == name && e.attr("type") == Some(kind)).then(|| e.clone())
}

fn condition(e: &Element) -> Option<String> {
    let error = e.children().find(|c| c.name() == "error")?;
    error.children().map(|c| c.name().to_owned()).next()
}

/// The condition of the error that answers the stanza with this id.
async fn refused(client: &Client, id: &str) -> Result<String> {
    let error = |e: &Element| (e.attr("id") == Some(id)).then(|| of_type(e, e.name(), "error")).flatten();
    condition(&client.wait(&format!("the refusal of {id}"), error).await?).context("a condition")
}

async fn given(client: &Client, id: &str) -> Result<Element> {
    client.wait(&format!("the stanza {id}"), |e| (e.attr("id") == Some(id)).then(|| e.clone())).await
}

fn has_been_given(client: &Client, id: &str) -> bool {
    client.seen().iter().any(|e| e.attr("id") == Some(id))
}

fn named(event: &Event) -> Vec<String> {
    event.recipients.iter().map(|r| format!("{}[{}]", r.bare, r.resources.join(","))).collect()
}

#[tokio::test]
async fn what_is_not_named_is_not_asked_about() -> Result<()> {
    let town = Town::asks(&[]).await?;
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    befriend(&anna, &ben).await?;
    anna.join(&format!("office@{ROOMS}"), "Anna").await?;
    anna.request("get", None, "<query xmlns='jabber:iq:roster'/>").await?;
    anna.message(ben.bare(), "chat", "m-1", "hello").await?;
    ben.answer_to("m-1").await?;
    let asked = town.decider.asked();
    ensure!(asked.len() == 1 && asked[0].subject == Subject::Message, "{asked:#?}");
    Ok(())
}

#[tokio::test]
async fn presence_is_held_for_everybody_at_once_and_keeps_its_place_among_messages() -> Result<()> {
    let town = Town::asks(&[Subject::Presence]).await?;
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    let phone = town.client("anna/phone").await?;
    befriend(&anna, &ben).await?;
    let before = town.decider.asked_about(Subject::Presence).len();
    anna.raw("<presence id='p-1'><priority>5</priority><status>HOLD</status></presence>").await?;
    anna.message(ben.bare(), "chat", "m-1", "after it").await?;
    town.decider.holds(1).await?;
    ben.settle().await?;
    phone.settle().await?;
    ensure!(!has_been_given(&ben, "m-1") && !has_been_given(&ben, "p-1") && !has_been_given(&phone, "p-1"));
    town.decider.release()?;
    given(&ben, "m-1").await?;
    let seen: Vec<_> = ben
        .seen()
        .iter()
        .filter_map(|e| e.attr("id").map(str::to_owned))
        .filter(|id| id.len() == 3)
        .collect();
    assert_eq!(seen, ["p-1", "m-1"]);
    given(&phone, "p-1").await?;
    // One question, though the server made a copy for each who sees it.
    let asked = town.decider.asked_about(Subject::Presence);
    assert_eq!(asked.len(), before + 1, "{asked:#?}");
    let event = &asked[before];
    assert_eq!(
        (event.ingress, event.target, event.to.as_deref()),
        (Ingress::Client, Target::LocalUser, None)
    );
    assert_eq!(event.from, anna.jid());
    assert_eq!(named(event), [format!("{ANNA}[desk,phone]"), format!("{BEN}[desk]")]);
    // To one, and a probe.
    anna.raw(&format!("<presence id='p-2' to='{}'/><presence id='p-3' type='probe' to='{BEN}'/>", ben.jid()))
        .await?;
    anna.settle().await?;
    let asked = town.decider.asked_about(Subject::Presence);
    assert_eq!(asked.len(), before + 3, "{asked:#?}");
    assert_eq!(named(&asked[before + 1]), [format!("{BEN}[desk]")]);
    assert_eq!(named(&asked[before + 2]), [format!("{BEN}[]")]);
    Ok(())
}

#[tokio::test]
async fn presence_and_subscriptions_are_refused_dropped_and_replaced() -> Result<()> {
    let town = Town::asks(&[Subject::Presence, Subject::Subscription]).await?;
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    anna.raw(&format!("<presence id='s-1' to='{BEN}' type='subscribe'><status>HOLD</status></presence>"))
        .await?;
    town.decider.holds(1).await?;
    ben.settle().await?;
    ensure!(!ben.seen().iter().any(|e| e.attr("type") == Some("subscribe")), "{:?}", ben.seen());
    let event = town.only(Subject::Subscription)?;
    assert_eq!((event.target, event.to.as_deref()), (Target::LocalUser, Some(BEN)));
    assert_eq!(named(&event), [format!("{BEN}[desk]")]);
    town.decider.answer(&refusal())?;
    assert_eq!(refused(&anna, "s-1").await?, "policy-violation");
    for (id, word) in [("p-1", "REFUSE"), ("p-2", "DROP"), ("p-3", "CHANGE")] {
        anna.raw(&format!("<presence id='{id}' to='{}'><status>{word}</status></presence>", ben.jid()))
            .await?;
    }
    assert_eq!(refused(&anna, "p-1").await?, "policy-violation");
    let changed = given(&ben, "p-3").await?;
    assert_eq!(changed.get_child("status", "jabber:client").context("a status")?.text(), "changed");
    ensure!(!has_been_given(&ben, "p-1") && !has_been_given(&ben, "p-2"));
    // Her own is not seen by anybody, and she is told.
    anna.raw("<presence id='p-4'><status>REFUSE</status></presence>").await?;
    assert_eq!(refused(&anna, "p-4").await?, "policy-violation");
    Ok(())
}

#[tokio::test]
async fn iqs_are_held_refused_dropped_and_replaced_in_both_directions() -> Result<()> {
    let town = Town::asks(&[Subject::Iq, Subject::ServiceIq]).await?;
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    let to = ben.jid();
    anna.raw(&format!("<iq id='i-1' type='get' to='{to}'><query xmlns='urn:x'>HOLD</query></iq>")).await?;
    anna.raw("<iq id='i-2' type='get'><query xmlns='jabber:iq:roster'/></iq>").await?;
    town.decider.holds(1).await?;
    ben.settle().await?;
    ensure!(!has_been_given(&ben, "i-1") && !has_been_given(&anna, "i-2"));
    let event = town.only(Subject::Iq)?;
    assert_eq!((event.target, named(&event)), (Target::LocalUser, vec![format!("{BEN}[desk]")]));
    town.decider.release()?;
    given(&ben, "i-1").await?;
    given(&anna, "i-2").await?;
    let roster = |e: &Event| e.subject == Subject::ServiceIq && e.stanza.contains("jabber:iq:roster");
    let event = town.decider.asked().into_iter().find(roster).context("the question about the roster")?;
    assert_eq!((event.target, event.to.as_deref(), event.recipients.len()), (Target::LocalUser, None, 0));
    // What answers is asked about, and dropped when it is refused.
    let me = anna.jid();
    for (id, word) in [("i-3", "REFUSE"), ("i-4", "CHANGE")] {
        ben.raw(&format!("<iq id='{id}' type='result' to='{me}'><query xmlns='urn:x'>{word}</query></iq>"))
            .await?;
    }
    let changed = given(&anna, "i-4").await?;
    assert_eq!(changed.children().next().context("a child")?.text(), "changed");
    ensure!(!has_been_given(&anna, "i-3") && !has_been_given(&ben, "i-3"));
    for (id, to) in [("i-5", to), ("i-6", DOMAIN), ("i-7", ROOMS)] {
        anna.raw(&format!("<iq id='{id}' type='get' to='{to}'><query xmlns='urn:x'>REFUSE</query></iq>"))
            .await?;
        assert_eq!(refused(&anna, id).await?, "policy-violation");
    }
    let event = town.decider.asked().pop().context("the last")?;
    assert_eq!((event.subject, event.target, event.of_rooms), (Subject::ServiceIq, Target::Service, true));
    anna.raw(&format!("<iq id='i-8' type='get' to='{to}'><query xmlns='urn:x'>DROP</query></iq>")).await?;
    // What the router refuses itself is nobody's business.
    let asked = town.decider.asked().len();
    anna.raw("<iq id='i-9' type='get'/><iq id='i-10' type='odd'><x xmlns='urn:x'/></iq>").await?;
    assert_eq!(refused(&anna, "i-10").await?, "bad-request");
    ensure!(!has_been_given(&anna, "i-8") && !has_been_given(&ben, "i-8"));
    assert_eq!(town.decider.asked().len(), asked + 1, "only about i-8");
    Ok(())
}

#[tokio::test]
async fn what_goes_to_a_room_is_held_before_the_room_knows_of_it() -> Result<()> {
    let town = Town::asks(&[Subject::RoomPresence, Subject::RoomIq]).await?;
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    let cleo = town.client("cleo/desk").await?;
    let room = format!("office@{ROOMS}");
    let join = |nick: &str, id: &str, word: &str| {
        format!(
            "<presence id='{id}' to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'/><status>{word}</status></presence>"
        )
    };
    cleo.raw(&join("Cleo", "j-0", "REFUSE")).await?;
    assert_eq!(refused(&cleo, "j-0").await?, "policy-violation");
    let event = town.only(Subject::RoomPresence)?;
    assert_eq!((event.target, event.room.as_deref()), (Target::Room, Some(room.as_str())));
    ensure!(!event.room_exists && event.recipients.is_empty(), "{event:?}");
    anna.join(&room, "Anna").await?;

    ben.raw(&join("Ben", "j-1", "HOLD")).await?;
    town.decider.holds(1).await?;
    anna.settle().await?;
    let ben_is_there =
        |client: &Client| client.seen().iter().any(|e| e.attr("from") == Some(&format!("{room}/Ben")));
    ensure!(!ben_is_there(&anna));
    let event = town.decider.asked_about(Subject::RoomPresence).pop().context("asked")?;
    ensure!(event.room_exists, "{event:?}");
    assert_eq!(named(&event), [format!("{ANNA}[desk]")]);
    assert_eq!(event.recipients[0].occupant.as_deref(), Some(format!("{room}/Anna").as_str()));
    town.decider.release()?;
    anna.wait("Ben", |e| (e.attr("from") == Some(&format!("{room}/Ben"))).then_some(())).await?;

    // An iq to the room, and one to somebody in it.
    let form =
        |word: &str| format!("<query xmlns='{OWNER}'><x xmlns='jabber:x:data' type='submit'/>{word}</query>");
    anna.raw(&format!("<iq id='i-1' type='set' to='{room}'>{}</iq>", form("REFUSE"))).await?;
    assert_eq!(refused(&anna, "i-1").await?, "policy-violation");
    let event = town.decider.asked_about(Subject::RoomIq).pop().context("asked")?;
    assert_eq!((event.target, event.recipients.len()), (Target::Room, 2));
    anna.raw(&format!("<iq id='i-2' type='get' to='{room}/Ben'><query xmlns='urn:x'>HOLD</query></iq>"))
        .await?;
    town.decider.holds(1).await?;
    ben.settle().await?;
    let got = |client: &Client| client.seen().iter().any(|e| String::from(e).contains("'urn:x'"));
    ensure!(!got(&ben));
    let event = town.decider.asked_about(Subject::RoomIq).pop().context("asked")?;
    assert_eq!((event.target, named(&event)), (Target::Occupant, vec![format!("{BEN}[desk]")]));
    town.decider.release()?;
    ben.wait("the iq", |e| String::from(e).contains("'urn:x'").then_some(())).await?;
    Ok(())
}

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
    Ok(())
}

#[tokio::test]
async fn nobody_answers_and_each_subject_gets_what_was_declared_for_it() -> Result<()> {
    let about = |subject, unanswered| AskAbout { subject, unanswered };
    let settings = Settings {
        ask_about: vec![
            about(Subject::ServiceIq, Unanswered::Refuse),
            about(Subject::Iq, Unanswered::Deliver),
            about(Subject::Presence, Unanswered::Deliver),
        ],
        answer_timeout_ms: 300,
        ..asking_about(&[])
    };
    let silence = |event: &Event| if event.subject == Subject::Message { pass() } else { None };
    let town = Town::with(settings, |_, _| (), silence).await?;
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    anna.raw(&format!(
        "<iq id='i-1' type='get'>{PING}</iq><iq id='i-2' type='get' to='{}'>{PING}</iq>",
        ben.jid()
    ))
    .await?;
    assert_eq!(refused(&anna, "i-1").await?, "service-unavailable");
    given(&ben, "i-2").await?;
    // Without a link as without an answer.
    drop(town.decider);
    anna.raw(&format!(
        "<iq id='i-3' type='get'>{PING}</iq><iq id='i-4' type='get' to='{}'>{PING}</iq>",
        ben.jid()
    ))
    .await?;
    assert_eq!(refused(&anna, "i-3").await?, "service-unavailable");
    given(&ben, "i-4").await?;
    Ok(())
}

#[tokio::test]
async fn new_settings_count_at_once_and_an_unreadable_verdict_refuses() -> Result<()> {
    let town = Town::asks(&[]).await?;
    let anna = town.client("anna/desk").await?;
    let ask = async |id: &str| {
        anna.raw(&format!("<iq id='{id}' type='get'><query xmlns='jabber:iq:roster'>REFUSE</query></iq>"))
            .await
    };
    ask("i-1").await?;
    ensure!(given(&anna, "i-1").await?.attr("type") == Some("result"));
    town.decider.say(Frame::Settings(asking_about(&[Subject::ServiceIq])))?;
    // The settings have come when a question about an iq has.
    cartulary_tests::process::until("a question", async || {
        anna.settle().await.is_ok() && !town.decider.asked_about(Subject::ServiceIq).is_empty()
    })
    .await?;
    ask("i-2").await?;
    assert_eq!(refused(&anna, "i-2").await?, "policy-violation");
    anna.raw("<iq id='i-3' type='get'><query xmlns='jabber:iq:roster'>HOLD</query></iq>").await?;
    town.decider.holds(1).await?;
    town.decider.answer(&Verdict::unrecorded(Action::Replace("<message/>".to_owned())))?;
    assert_eq!(refused(&anna, "i-3").await?, "internal-server-error");
    town.decider.notice("hook-failed", |_| true).await?;
    Ok(())
}

#[tokio::test]
async fn a_session_that_ends_while_it_waits_makes_nobody_present_and_loses_no_wish() -> Result<()> {
    let town = Town::asks(&[Subject::Presence, Subject::ServiceIq, Subject::RoomPresence]).await?;
    let (anna, ben) = (town.client("anna/desk").await?, town.client("ben/desk").await?);
    befriend(&anna, &ben).await?;
    let room = format!("office@{ROOMS}");
    ben.join(&room, "Ben").await?;
    anna.close().await?;
    ben.wait("her goodbye", |e| of_type(e, "presence", "unavailable")).await?;
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
    anna.raw("<presence type='unavailable'/></stream:stream>").await?;
    anna.wait_end().await?;
    for from in [anna.jid().to_owned(), format!("{room}/Anna")] {
        let gone =
            |e: &Element| of_type(e, "presence", "unavailable").filter(|e| e.attr("from") == Some(&from));
        ben.wait("her goodbye", gone).await?;
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
    assert_eq!((changed.value.as_deref(), changed.occupant.as_ref()), (Some("away"), Some(&format!("{room}/Benny"))));
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
