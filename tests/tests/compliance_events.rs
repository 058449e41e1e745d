//! Every event of the catalogue is caused by a real client, component or administrator on a real server, and a real compliance server
//! sees it: the packet, who it is about, and the stanza (PR-4, PR-7 to PR-11).

use anyhow::{Context, Result, bail, ensure};
use cartulary_compliance::events::{self, Answers, Event, Group, Yield};
use cartulary_compliance::profile::{self, Rule};
use cartulary_tests::client::Client;
use cartulary_tests::federation::Federation;
use cartulary_tests::policy::{Answer, Policy, Seen, compliance, profile as of_profile};
use cartulary_tests::process::{folder, until};
use cartulary_tests::prosody::{DOMAIN, PASSWORD, Prosody, ROOMS, Setup};
use cartulary_tests::world::World;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const MUC: &str = "http://jabber.org/protocol/muc";
const OWNER: &str = "http://jabber.org/protocol/muc#owner";
const ADMIN: &str = "http://jabber.org/protocol/muc#admin";
const DISCO: &str = "http://jabber.org/protocol/disco#info";

/// What must be true of an event that was seen.
struct Expected {
    packet: &'static str,
    // The sender's bare JID; none where the server itself is the sender, or it is not told.
    from: Option<String>,
    room: Option<String>,
    // Bare JIDs that are among the recipients.
    recipients: Vec<String>,
    stanza: Box<dyn Fn(&Seen) -> bool>,
}

impl Expected {
    fn of(packet: &'static str, from: &str, stanza: impl Fn(&Seen) -> bool + 'static) -> Self {
        let from = (!from.is_empty()).then(|| format!("{from}@{DOMAIN}"));
        Self { packet, from, room: None, recipients: Vec::new(), stanza: Box::new(stanza) }
    }

    fn to(mut self, users: &[&str]) -> Self {
        self.recipients = users.iter().map(|user| format!("{user}@{DOMAIN}")).collect();
        self
    }

    fn in_room(mut self, room: &str) -> Self {
        self.room = Some(room.to_owned());
        self
    }

    fn fits(&self, seen: &Seen) -> bool {
        seen.packet == self.packet
            && self.from.as_ref().is_none_or(|from| seen.sender() == from)
            && (self.room.is_none() || seen.room == self.room)
            && self.recipients.iter().all(|jid| seen.to().contains(&jid.as_str()))
            && (self.stanza)(seen)
    }
}

fn rules(group: Group) -> Vec<Rule> {
    events::ALL.iter().filter(|event| event.group == group).map(|event| Rule::new(event)).collect()
}

fn has(name: &'static str, namespace: &'static str) -> impl Fn(&Seen) -> bool {
    move |seen| seen.stanza.children().any(|child| child.is(name, namespace))
}

fn id(wanted: &'static str) -> impl Fn(&Seen) -> bool {
    move |seen| seen.stanza_id() == wanted
}

// One for each event of sessions and packets; an event without one fails the test.
fn expected_of_sessions(event: &Event) -> Result<Expected> {
    Ok(match event.name {
        "e_SESSION" => Expected::of("iq", "anna", |s| {
            has("bind", "urn:ietf:params:xml:ns:xmpp-bind")(s)
                && s.from.ends_with("/desk")
                && s.session.is_some()
        }),
        "e_AUTH" => Expected::of("iq", "anna", |s| {
            let auth = s.stanza.get_child("auth", "urn:ietf:params:xml:ns:xmpp-sasl");
            auth.is_some_and(|auth| auth.attr("mechanism") == Some("PLAIN") && auth.text().is_empty())
        }),
        "e_REGISTER" => Expected::of("iq", "dora", |s| {
            has("query", "jabber:iq:register")(s) && !String::from(&s.stanza).contains(PASSWORD)
        }),
        "e_STATS" => Expected::of("iq", "", has("query", "http://jabber.org/protocol/stats")),
        "e_DISCOFEAT" => Expected::of("iq", "anna", has("query", DISCO)),
        "e_SERVER" => Expected::of("iq", "anna", has("query", "jabber:iq:version")),
        "e_OFFLINE" => Expected::of("message", "anna", id("m-away")).to(&["cleo"]),
        "es_OUT" => Expected::of("message", "anna", id("m-here")),
        "e_DELIVER" => Expected::of("message", "anna", id("m-here")).to(&["ben"]),
        "es_IN" => Expected::of("message", "anna", |s| {
            s.stanza_id() == "m-here" && s.recipients[0].resources == ["phone"] && s.body() == "hello"
        })
        .to(&["ben"]),
        "e_PRISESSION" => Expected::of("presence", "ben", |s| {
            let sessions: BTreeSet<_> = s.recipients.iter().flat_map(|to| &to.resources).collect();
            sessions.len() == 2
        })
        .to(&["ben"]),
        "es_END" => Expected::of("presence", "ben", |s| s.stanza.attr("type") == Some("unavailable")),
        name => bail!("no scenario causes {name}"),
    })
}

fn expect_all(wall: &Policy, group: Group, expected: impl Fn(&Event) -> Result<Expected>) -> Result<()> {
    let seen = wall.seen();
    let mut wrong = Vec::new();
    for event in events::ALL.iter().filter(|event| event.group == group) {
        let of_it: Vec<_> = seen.iter().filter(|seen| seen.event == event.name).collect();
        let expected = expected(event)?;
        if !of_it.iter().any(|seen| expected.fits(seen)) {
            wrong.push(format!(
                "{}: of {} that were seen, none is right: {of_it:#?}",
                event.name,
                of_it.len()
            ));
        }
        wrong.extend(of_it.iter().filter_map(|seen| unlike_itself(event, seen)));
    }
    ensure!(wrong.is_empty(), "{} events are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

// What every question has, and the word for what it admits.
fn unlike_itself(event: &Event, seen: &Seen) -> Option<String> {
    let right = seen.node == "xmpp-0"
        && seen.answer == event.answers.word()
        && uuid::Uuid::parse_str(&seen.id).is_ok()
        && seen.is_awaited() == seen.timeout.is_some()
        && (event.answers != Answers::Nothing || !seen.is_awaited())
        && !seen.missed;
    (!right).then(|| format!("{} is told as {seen:#?}", event.name))
}

#[tokio::test]
async fn pr_7_every_event_of_sessions_and_packets_is_caused_and_seen() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let mut asked = compliance(&[&wall], vec![of_profile("Sessions", rules(Group::Jsm), &[&wall])]);
    asked.stats_every_seconds = 1;
    let federation = Federation::of(&[DOMAIN, "far.test"])?;
    let world =
        World::builder().every_ingress().federated(federation.member(DOMAIN)?).asks(asked).start().await?;

    let anna = world.client("anna/desk").await?;
    let ben = world.client("ben/phone").await?;
    anna.message(ben.bare(), "chat", "m-here", "hello").await?;
    ben.answer_to("m-here").await?;
    anna.message(&format!("cleo@{DOMAIN}"), "chat", "m-away", "later").await?;
    anna.request("get", Some(DOMAIN), &format!("<query xmlns='{DISCO}'/>")).await?;
    // There is no answer to this one in every configuration; that it was asked about is what counts.
    anna.raw(&format!("<iq type='get' id='v' to='{DOMAIN}'><query xmlns='jabber:iq:version'/></iq>")).await?;
    anna.raw(&format!("<presence type='subscribe' to='{}'/>", ben.bare())).await?;
    anna.settle().await?;
    let pad = world.client("ben/pad").await?;
    pad.raw("<presence><priority>5</priority></presence>").await?;
    pad.settle().await?;
    Client::register(world.prosody.address(), DOMAIN, "dora", PASSWORD).await?;
    pad.close().await?;
    wall.wait("the end of a session", |s| s.event == "es_END" && s.from == pad.jid()).await?;
    wall.wait("statistics", |s| s.event == "e_STATS").await?;
    wall.wait("a registration", |s| s.event == "e_REGISTER").await?;
    expect_all(&wall, Group::Jsm, expected_of_sessions)?;

    let subscription = wall.of("es_OUT").into_iter().find(|s| s.packet == "subscription");
    ensure!(subscription.is_some_and(|s| s.sender() == anna.bare()), "no subscription was seen going out");
    let from_client = wall.about("m-here");
    ensure!(from_client.iter().all(|s| s.ingress == "client" && s.address.is_some()), "{from_client:#?}");

    // What a component or another server sends was sent by no session here: e_DELIVER is its first event.
    let bot = world.component().await?;
    bot.raw(&format!(
        "<message from='x@bot.{DOMAIN}' to='{}' type='chat' id='m-bot'><body>beep</body></message>",
        ben.bare()
    ))
    .await?;
    ben.answer_to("m-bot").await?;
    let dir = folder()?;
    let mut setup = Setup::new(&["far".to_owned()], "");
    setup.federation = Some(federation.member("far.test")?);
    let mut elsewhere = Prosody::prepare(dir.path(), setup, None)?;
    elsewhere.resume().await?;
    let far = Client::connect(elsewhere.address(), "far@far.test/desk", PASSWORD).await?;
    far.available().await?;
    far.message(ben.bare(), "chat", "m-far", "from afar").await?;
    ben.answer_to("m-far").await?;
    for (stanza, ingress) in [("m-bot", "component"), ("m-far", "remote-server")] {
        let seen = wall.about(stanza);
        let names: Vec<_> = seen.iter().map(|s| s.event.as_str()).collect();
        assert_eq!(names, ["e_DELIVER", "es_IN"], "{stanza}");
        ensure!(seen.iter().all(|s| s.ingress == ingress && s.to() == [ben.bare()]), "{seen:#?}");
    }
    // And what goes to one leaves a session here, and is received by none.
    anna.message("far@far.test", "chat", "m-out", "to afar").await?;
    far.answer_to("m-out").await?;
    let names: Vec<_> = wall.about("m-out").into_iter().map(|s| s.event).collect();
    assert_eq!(names, ["es_OUT"]);
    assert_eq!(wall.complaints(), [""; 0]);
    Ok(())
}

#[tokio::test]
async fn pr_10_a_local_message_is_sent_then_delivered_then_received_or_kept() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let asked = compliance(&[&wall], vec![of_profile("Sessions", rules(Group::Jsm), &[&wall])]);
    let world = World::builder().asks(asked).start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    let pad = world.client("ben/pad").await?;
    anna.message(ben.bare(), "chat", "m-here", "hello").await?;
    pad.answer_to("m-here").await?;
    anna.message(&format!("cleo@{DOMAIN}"), "chat", "m-away", "later").await?;
    anna.settle().await?;
    for (stanza, order) in
        [("m-here", ["es_OUT", "e_DELIVER", "es_IN"]), ("m-away", ["es_OUT", "e_DELIVER", "e_OFFLINE"])]
    {
        let seen = wall.about(stanza);
        assert_eq!(seen.iter().map(|s| s.event.as_str()).collect::<Vec<_>>(), order);
        // One stanza, one id, and the archive's record has it too.
        let ids: BTreeSet<_> = seen.iter().map(|s| s.id.clone()).collect();
        let archive = world.archive().await?;
        assert_eq!(ids, BTreeSet::from([archive.message(stanza)?.1.event.to_string()]));
    }
    // One question about everybody who receives it, however many sessions that are.
    let received = wall.about("m-here").pop().context("es_IN")?;
    let resources: BTreeSet<_> = received.recipients[0].resources.iter().map(String::as_str).collect();
    assert_eq!((received.to(), resources), (vec![ben.bare()], BTreeSet::from(["phone", "pad"])));

    // Authentication is told before the session that follows it, without secrets.
    let of_anna: Vec<_> = wall.seen().into_iter().filter(|s| s.sender() == anna.bare()).collect();
    let place = |name: &str| of_anna.iter().position(|s| s.event == name).with_context(|| name.to_owned());
    ensure!(place("e_AUTH")? < place("e_SESSION")?, "{of_anna:#?}");
    // A failed login is told as such.
    ensure!(
        Client::connect(world.prosody.address(), &world.jid("anna/desk"), "wrong").await.is_err(),
        "a wrong password was taken"
    );
    let failed =
        wall.wait("a failed login", |s| s.event == "e_AUTH" && s.stanza.attr("type") == Some("error"));
    ensure!(!String::from(&failed.await?.stanza).contains("wrong"), "a password is told");
    Ok(())
}

fn join(room: &str, nick: &str) -> String {
    format!("<presence to='{room}/{nick}'><x xmlns='{MUC}'/></presence>")
}

fn admin(item: &str) -> String {
    format!("<query xmlns='{ADMIN}'><item {item}/></query>")
}

fn configuration(name: &str) -> String {
    format!(
        "<query xmlns='{OWNER}'><x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'>\
         <value>http://jabber.org/protocol/muc#roomconfig</value></field>\
         <field var='muc#roomconfig_roomname'><value>{name}</value></field></x></query>"
    )
}

fn invitation(room: &str, whom: &str, id: &str) -> String {
    format!(
        "<message to='{room}' id='{id}'><x xmlns='{MUC}#user'><invite to='{whom}'><reason>come</reason></invite></x></message>"
    )
}

// Causes every event of rooms. `anna` owns the room, `ben` is there, `cleo` is asked in.
async fn live_in_a_room(world: &World, room: &str) -> Result<()> {
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    let cleo = world.client("cleo/pad").await?;
    anna.join(room, "Queen").await?;
    ben.raw(&join(room, "Knave")).await?;
    ben.wait("the room's subject", |e| e.get_child("subject", "jabber:client").map(|_| ())).await?;
    anna.request("get", Some(ROOMS), &format!("<query xmlns='{DISCO}'/>")).await?;
    anna.request("get", Some(room), &format!("<query xmlns='{DISCO}'/>")).await?;
    anna.request("get", Some(room), &format!("<query xmlns='{OWNER}'/>")).await?;
    anna.request("set", Some(room), &configuration("Front desk")).await?;
    anna.message(room, "groupchat", "m-room", "hello all").await?;
    ben.answer_to("m-room").await?;
    anna.raw(&format!(
        "<message to='{room}' type='groupchat' id='m-subject'><subject>News</subject></message>"
    ))
    .await?;
    let news = |e: &minidom::Element| {
        e.get_child("subject", "jabber:client").is_some_and(|subject| subject.text() == "News").then_some(())
    };
    ben.wait("the new subject", news).await?;
    anna.raw(&invitation(room, cleo.bare(), "m-invite")).await?;
    cleo.wait("the invitation", |e| e.get_child("x", &*format!("{MUC}#user")).map(|_| ())).await?;
    anna.request("set", Some(room), &admin(&format!("jid='{}' affiliation='member'", cleo.bare()))).await?;
    anna.request("set", Some(room), &admin(&format!("jid='{}' affiliation='none'", cleo.bare()))).await?;
    anna.request("set", Some(room), &admin("nick='Knave' role='visitor'")).await?;
    anna.request("set", Some(room), &admin("nick='Knave' role='participant'")).await?;
    ben.raw(&format!("<presence to='{room}/Ace'/>")).await?;
    ben.raw(&format!("<presence to='{room}/Ace' type='unavailable'/>")).await?;
    ben.settle().await?;
    let nowhere = format!("nowhere@{ROOMS}");
    // No room is there: an error comes back.
    anna.message(&nowhere, "groupchat", "m-nowhere", "anybody?").await?;
    anna.answer_to("m-nowhere").await?;
    anna.request("set", Some(room), &format!("<query xmlns='{OWNER}'><destroy/></query>")).await?;
    world.prosody.reload()?;
    Ok(())
}

fn expected_of_rooms(event: &Event) -> Result<Expected> {
    let room = format!("desk@{ROOMS}");
    let entering =
        |s: &Seen| has("x", MUC)(s) && s.stanza.attr("to").is_some_and(|to| to.ends_with("/Queen"));
    let about = |jid: &'static str, value: &'static str| {
        move |s: &Seen| {
            let query = s.stanza.get_child("query", ADMIN);
            query.and_then(|query| query.children().next()).is_some_and(|item| {
                let of = |name| item.attr(name).unwrap_or_default();
                of("jid").starts_with(jid) && of("affiliation") == value
            })
        }
    };
    let from_the_room = |s: &Seen| s.stanza.attr("from").is_some_and(|from| from.contains(ROOMS));
    let expected = match event.name {
        "onServicePacket" => {
            return Ok(Expected::of("message", "anna", id("m-nowhere")));
        }
        "onServiceDiscoInfo" => return Ok(Expected::of("iq", "anna", has("query", DISCO))),
        "onServiceReconfig" => {
            return Ok(Expected::of("presence", "", |s| s.stanza.attr("from") == Some(ROOMS)));
        }
        "onBeforeRoomCreate" | "onBeforeJoin" => Expected::of("presence", "anna", entering),
        "onHistory" => Expected::of("presence", "ben", has("x", MUC)),
        "onAfterRoomCreate" => Expected::of("presence", "", from_the_room),
        "onDestroy" => Expected::of("presence", "", move |s| {
            from_the_room(s) && s.stanza.attr("type") == Some("unavailable")
        }),
        "onClose" => Expected::of("iq", "anna", |s| {
            s.stanza.get_child("query", OWNER).is_some_and(|q| q.children().any(|c| c.name() == "destroy"))
        }),
        "onPacket" | "onBeforeSend" | "onBeforeBroadcast" => {
            Expected::of("message", "anna", id("m-room")).to(&["anna", "ben"])
        }
        "onMetaInfoGet" | "onAfterMetaInfoSet" => Expected::of("iq", "anna", has("query", OWNER)),
        "onBeforeMetaInfoSet" => {
            Expected::of("iq", "anna", |s| String::from(&s.stanza).contains("Front desk"))
        }
        "onExamineRoom" => Expected::of("iq", "anna", has("query", DISCO)),
        "onBeforeChangeUser" => Expected::of("iq", "anna", has("query", ADMIN)),
        "onAfterChangeUser" => Expected::of("presence", "ben", |s| s.stanza.name() == "presence"),
        "onBeforeChangeAffiliation" => Expected::of("iq", "anna", about("cleo@", "member")),
        "onAfterChangeAffiliation" => Expected::of("iq", "", about("cleo@", "member")),
        "onBeforeRemoveAffiliation" => Expected::of("iq", "anna", about("cleo@", "none")),
        "onAfterRemoveAffiliation" => Expected::of("iq", "", about("cleo@", "none")),
        "onAfterJoin" => Expected::of("presence", "ben", |_| true),
        "onLeave" => Expected::of("presence", "ben", |s| s.stanza.attr("type") == Some("unavailable")),
        "onBeforeSubject" | "onAfterSubject" => {
            Expected::of("message", "anna", |s| s.stanza.get_child("subject", "jabber:client").is_some())
        }
        "onBeforeInvite" => Expected::of("message", "anna", |s| String::from(&s.stanza).contains("cleo@")),
        "onAfterInvite" => Expected::of("message", "", |s| String::from(&s.stanza).contains("invite")),
        name => bail!("no scenario causes {name}"),
    };
    Ok(expected.in_room(&room))
}

#[tokio::test]
async fn pr_11_every_event_of_rooms_is_caused_and_seen() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let asked = compliance(&[&wall], vec![of_profile("Rooms", rules(Group::Tc), &[&wall])]);
    let world = World::builder().asks(asked).start().await?;
    live_in_a_room(&world, &format!("desk@{ROOMS}")).await?;
    wall.wait("the end of the room", |s| s.event == "onDestroy").await?;
    wall.wait("the service's new settings", |s| s.event == "onServiceReconfig").await?;
    expect_all(&wall, Group::Tc, expected_of_rooms)?;

    // Entry, exit, nickname and role are changes of a user; an occupant is told with its real address.
    let changes = wall.of("onAfterChangeUser");
    ensure!(changes.len() >= 5, "{changes:#?}");
    let sent = wall.about("m-room");
    let names: Vec<_> = sent.iter().map(|s| s.event.as_str()).collect();
    assert_eq!(names, ["onPacket", "onBeforeSend", "onBeforeBroadcast"]);
    let occupants: BTreeSet<_> = sent[2].recipients.iter().filter_map(|to| to.occupant.clone()).collect();
    assert_eq!(occupants, BTreeSet::from(["Queen", "Knave"].map(|nick| format!("desk@{ROOMS}/{nick}"))));
    let entered: Vec<_> = wall
        .seen()
        .into_iter()
        .filter(|s| has("x", MUC)(s) && s.sender() == format!("anna@{DOMAIN}"))
        .collect();
    let position = |name: &str| entered.iter().position(|s| s.event == name).with_context(|| name.to_owned());
    ensure!(position("onBeforeRoomCreate")? < position("onBeforeJoin")?, "{entered:#?}");
    assert_eq!(wall.complaints(), [""; 0]);
    Ok(())
}

// Refuses one event, which a test names, and passes the rest.
fn refusing(wall: &Policy) -> Arc<Mutex<String>> {
    let refused = Arc::new(Mutex::new(String::new()));
    let named = refused.clone();
    wall.answers(move |seen| match named.lock() {
        Ok(named) if *named == seen.event => Answer::Error("cancel", "policy-violation", "not here"),
        _ => Answer::Pass,
    });
    refused
}

// Sends a stanza and waits for its answer: the condition of the error, or nothing if it is none.
async fn verdict_on(client: &Client, stanza: &str, id: &str) -> Result<Option<String>> {
    client.raw(stanza).await?;
    let error = |e: &minidom::Element| {
        let error = e.children().find(|c| c.name() == "error")?;
        error.children().find(|c| c.name() != "text").map(|c| c.name().to_owned())
    };
    client.wait(&format!("an answer to {id}"), |e| (e.attr("id") == Some(id)).then(|| error(e))).await
}

#[tokio::test]
async fn pr_8_what_may_be_answered_freely_does_not_happen_when_it_is_refused() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let asked = compliance(&[&wall], vec![of_profile("Rooms", rules(Group::Tc), &[&wall])]);
    let world = World::builder().asks(asked).start().await?;
    let refused = refusing(&wall);
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    let room = format!("desk@{ROOMS}");
    anna.join(&room, "Queen").await?;
    let new = format!("new@{ROOMS}");
    let iq = |id: &str, to: &str, kind: &str, payload: &str| {
        format!("<iq type='{kind}' id='{id}' to='{to}'>{payload}</iq>")
    };
    let enter =
        |id: &str, room: &str| format!("<presence id='{id}' to='{room}/Knave'><x xmlns='{MUC}'/></presence>");
    let say =
        |id: &str, inner: &str| format!("<message id='{id}' to='{room}' type='groupchat'>{inner}</message>");
    let member = admin("jid='cleo@example.test' affiliation='member'");
    let none = admin("jid='cleo@example.test' affiliation='none'");
    let destroy = format!("<query xmlns='{OWNER}'><destroy/></query>");
    let table = [
        ("onServicePacket", &anna, iq("r-1", ROOMS, "get", "<ping xmlns='urn:xmpp:ping'/>"), "r-1"),
        ("onBeforeRoomCreate", &ben, enter("r-2", &new), "r-2"),
        ("onBeforeJoin", &ben, enter("r-3", &room), "r-3"),
        ("onBeforeChangeUser", &anna, format!("<presence id='r-4' to='{room}/King'/>"), "r-4"),
        ("onPacket", &anna, say("r-5", "<body>one</body>"), "r-5"),
        ("onBeforeSend", &anna, say("r-6", "<body>two</body>"), "r-6"),
        ("onBeforeBroadcast", &anna, say("r-7", "<body>three</body>"), "r-7"),
        ("onBeforeSubject", &anna, say("r-8", "<subject>News</subject>"), "r-8"),
        ("onBeforeInvite", &anna, invitation(&room, "cleo@example.test", "r-9"), "r-9"),
        ("onBeforeMetaInfoSet", &anna, iq("r-10", &room, "set", &configuration("Other")), "r-10"),
        ("onBeforeChangeAffiliation", &anna, iq("r-11", &room, "set", &member), "r-11"),
        ("onBeforeRemoveAffiliation", &anna, iq("r-12", &room, "set", &none), "r-12"),
        ("onClose", &anna, iq("r-13", &room, "set", &destroy), "r-13"),
    ];
    let free: BTreeSet<_> = events::ALL
        .iter()
        .filter(|e| e.group == Group::Tc && e.answers == Answers::Any)
        .map(|e| e.name)
        .collect();
    assert_eq!(table.iter().map(|row| row.0).collect::<BTreeSet<_>>(), free);
    let told = ["onAfterSubject", "onAfterInvite", "onAfterChangeAffiliation", "onDestroy"];
    let before = told.map(|event| wall.of(event).len());
    let mut wrong = Vec::new();
    for (event, client, stanza, id) in &table {
        if let Ok(mut named) = refused.lock() {
            (*event).clone_into(&mut named);
        }
        let before = wall.of(event).len();
        let condition = verdict_on(client, stanza, id).await.with_context(|| (*event).to_owned())?;
        if condition.as_deref() != Some("policy-violation") || wall.of(event).len() != before + 1 {
            wrong.push(format!("{event}: {condition:?}, seen {} times", wall.of(event).len() - before));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    // Nothing of it has happened.
    if let Ok(mut named) = refused.lock() {
        named.clear();
    }
    anna.settle().await?;
    assert_eq!(told.map(|event| wall.of(event).len()), before, "{told:?}");
    let heard = anna.messages().into_iter().filter(|m| m.body.is_some() && !m.is_error()).count();
    assert_eq!(heard, 0, "{:?}", anna.messages());
    // And with PASS it does; under another nickname, since the error for the first one has come.
    ben.join(&room, "Ace").await?;
    anna.message(&room, "groupchat", "m-after", "all well").await?;
    ben.answer_to("m-after").await?;
    Ok(())
}

#[tokio::test]
async fn pr_9_where_only_pass_is_admitted_other_answers_change_nothing_and_are_counted() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let only_pass: Vec<Rule> =
        events::ALL.iter().filter(|e| e.answers != Answers::Any).map(|e| Rule::new(e)).collect();
    let asked = compliance(&[&wall], vec![of_profile("Told", only_pass, &[&wall])]);
    let world = World::builder().asks(asked).start().await?;
    // Whatever could be held is answered in every wrong way.
    let turn = std::sync::atomic::AtomicUsize::new(0);
    wall.answers(move |seen| match turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 3 {
        0 => Answer::Handle,
        1 => Answer::Error("cancel", "policy-violation", "no"),
        _ => Answer::Change(seen.with_body("changed")),
    });
    live_in_a_room(&world, &format!("desk@{ROOMS}")).await?;
    wall.wait("the end of the room", |s| s.event == "onDestroy").await?;
    wall.wait("the service's new settings", |s| s.event == "onServiceReconfig").await?;
    let seen = wall.seen();
    for event in events::ALL.iter().filter(|e| e.answers != Answers::Any) {
        ensure!(seen.iter().any(|s| s.event == event.name), "{} was not seen", event.name);
    }
    let held = |s: &&Seen| {
        events::by_name(&s.event).is_some_and(|e| e.prosody == Yield::Held && e.answers == Answers::Pass)
    };
    ensure!(seen.iter().filter(held).count() > 0, "nothing was asked");
    ensure!(seen.iter().all(|s| s.event != "onServiceReconfig" || !s.is_awaited()), "{seen:#?}");
    let wrong = u64::try_from(seen.iter().filter(|s| s.is_awaited()).count())?;
    // Each answer is counted once, and nothing became of it: everything above went its way.
    let status = world.sidecar.until("every wrong answer to be counted", |s| {
        s.compliance_servers["wall"].counts.not_admitted >= wrong
    });
    let status = status.await?;
    let counts = &status.compliance_servers["wall"].counts;
    assert_eq!((counts.not_admitted, counts.handled, counts.errors, counts.modified), (wrong, 0, 0, 0));
    assert_eq!((status.questions.handled, status.questions.bounced), (0, 0));
    Ok(())
}

#[tokio::test]
async fn pr_4_the_events_of_the_system_default_profile_arrive_and_are_awaited() -> Result<()> {
    let wall = Policy::start("wall").await?;
    let rules = profile::system_default();
    let names: BTreeSet<_> = rules.iter().map(|rule| rule.event.clone()).collect();
    let asked = compliance(&[&wall], vec![of_profile(profile::SYSTEM_DEFAULT, rules, &[&wall])]);
    let world = World::builder().asks(asked).start().await?;
    let room = format!("desk@{ROOMS}");
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/phone").await?);
    anna.join(&room, "Queen").await?;
    ben.join(&room, "Knave").await?;
    anna.message(ben.bare(), "chat", "m-1", "hello").await?;
    ben.answer_to("m-1").await?;
    anna.message(&room, "groupchat", "m-2", "hello all").await?;
    ben.answer_to("m-2").await?;
    anna.raw(&invitation(&room, "cleo@example.test", "m-3")).await?;
    ben.raw(&format!("<presence to='{room}/Knave' type='unavailable'/>")).await?;
    wall.wait("somebody leaves", |s| s.event == "onLeave").await?;
    ben.close().await?;
    wall.wait("the end of a session", |s| s.event == "es_END").await?;
    anna.settle().await?;
    let seen = wall.seen();
    assert_eq!(seen.iter().map(|s| s.event.clone()).collect::<BTreeSet<_>>(), names);
    ensure!(seen.iter().all(|s| s.profile == profile::SYSTEM_DEFAULT), "{seen:#?}");
    for seen in seen {
        let event = events::by_name(&seen.event).context("of the catalogue")?;
        ensure!(event.prosody != Yield::Held || seen.is_awaited(), "{seen:#?}");
        ensure!(
            !seen.event.starts_with("es_") || seen.event == "es_END" || seen.packet == "message",
            "{seen:#?}"
        );
    }
    // Awaited: while nobody answers, nothing happens.
    wall.answers(|seen| if seen.event == "es_OUT" { Answer::Hold } else { Answer::Pass });
    let cleo = world.client("cleo/pad").await?;
    anna.message(cleo.bare(), "chat", "m-4", "wait for it").await?;
    wall.wait("the held message", |s| s.stanza_id() == "m-4").await?;
    world.sidecar.until("a stanza that waits", |s| s.questions.waiting == 1).await?;
    cleo.settle().await?;
    ensure!(!cleo.messages().iter().any(|m| m.id == "m-4"), "it did not wait");
    assert_eq!(wall.release(&Answer::Pass), 1);
    cleo.answer_to("m-4").await?;
    until("nothing to wait", async || world.sidecar.status().await.is_ok_and(|s| s.questions.waiting == 0))
        .await
}
