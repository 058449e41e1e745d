//! What the plugin asks about besides messages, and how it carries out what it is told: against a scripted sidecar, so that each answer
//! comes when the test wants it.

use anyhow::{Context, Result, ensure};
use cartulary_compliance::link::{
    Action, AskAbout, Bounce, Event, Frame, Ingress, Settings, Subject, Target, Unanswered, Verdict,
};
use cartulary_tests::client::Client;
use cartulary_tests::decider::{Decider, asking_about};
use cartulary_tests::prosody::{DOMAIN, PASSWORD, Prosody, ROOMS, Setup};
use minidom::Element;
use tempfile::TempDir;

#[path = "asking/streams.rs"]
mod streams;
#[path = "asking/told.rs"]
mod told;

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
