//! The events of stanzas and notices as tables (PR-7 to PR-11), and the laws that hold for all of them.

use super::asking::causes;
use super::*;
use crate::config::{Compliance, WhenUnanswered};
use crate::events::{self, Answers, Event, Handling, Packet, Yield};
use crate::link::{self, Ingress, Notice, Subject, Target, Unanswered};
use crate::profile::{Profile, Rule};
use std::collections::BTreeSet;

const ANN: &str = "ann@here.example/pc";
const ROOM: &str = "desk@rooms.here.example";

fn person(bare: &str, resources: &[&str]) -> Recipient {
    let resources = resources.iter().map(|text| (*text).to_owned()).collect();
    Recipient { bare: bare.into(), occupant: None, resources }
}

/// A stanza of a client, to be said more of.
fn event(subject: Subject, target: Target, to: Option<&str>, stanza: &str) -> link::Event {
    link::Event {
        ingress: Ingress::Client,
        host: "here.example".into(),
        stanza: stanza.into(),
        from: ANN.into(),
        to: to.map(str::to_owned),
        target,
        recipients: Vec::new(),
        session: None,
        address: None,
        secure: true,
        seen_at_micros: 1,
        room: matches!(target, Target::Room | Target::Occupant).then(|| ROOM.to_owned()),
        event_id: None,
        subject,
        of_rooms: false,
        room_exists: true,
    }
}

fn to_user(stanza: &str, recipients: &[Recipient]) -> link::Event {
    let recipients = recipients.to_vec();
    link::Event {
        recipients,
        ..event(Subject::Message, Target::LocalUser, Some("bob@here.example/phone"), stanza)
    }
}

fn to_room(subject: Subject, stanza: &str, recipients: &[Recipient]) -> link::Event {
    link::Event { recipients: recipients.to_vec(), ..event(subject, Target::Room, Some(ROOM), stanza) }
}

fn from(ingress: Ingress, event: link::Event) -> link::Event {
    link::Event { ingress, ..event }
}

fn names(event: &link::Event) -> Vec<&'static str> {
    occurrences(event).iter().map(|occurrence| occurrence.event.name).collect()
}

fn iq(kind: &str, payload: &str) -> String {
    format!("<iq type='{kind}' id='1'>{payload}</iq>")
}

const BODY: &str = "<message><body>b</body></message>";
const DISCO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
const DIRECT: &str = "<message><x xmlns='jabber:x:conference' jid='war@rooms.far.example'/></message>";
const INVITE: &str =
    "<message><x xmlns='http://jabber.org/protocol/muc#user'><invite to='eve@here.example'/></x></message>";
const JOIN: &str = "<presence><x xmlns='http://jabber.org/protocol/muc'/></presence>";

fn admin(items: &str) -> String {
    iq("set", &format!("<query xmlns='http://jabber.org/protocol/muc#admin'>{items}</query>"))
}

fn owner(kind: &str, inner: &str) -> String {
    iq(kind, &format!("<query xmlns='http://jabber.org/protocol/muc#owner'>{inner}</query>"))
}

fn joining(history: &str) -> String {
    format!("<presence><x xmlns='http://jabber.org/protocol/muc'>{history}</x></presence>")
}

#[test]
fn pr_10_a_message_is_sent_then_delivered_then_received_or_kept() {
    let bob = || person("bob@here.example", &["phone", "pad"]);
    let away = || person("bob@here.example", &[]);
    for (event, expected) in [
        (to_user(BODY, &[bob()]), &["es_OUT", "e_DELIVER", "es_IN"][..]),
        (to_user(BODY, &[away()]), &["es_OUT", "e_DELIVER", "e_OFFLINE"]),
        (to_user(BODY, &[]), &["es_OUT", "e_DELIVER", "e_OFFLINE"]),
        (from(Ingress::RemoteServer, to_user(BODY, &[bob()])), &["e_DELIVER", "es_IN"]),
        (from(Ingress::Component, to_user(BODY, &[bob()])), &["e_DELIVER", "es_IN"]),
        (from(Ingress::Internal, to_user(BODY, &[bob()])), &[]),
        (to_user(DIRECT, &[bob()]), &["es_OUT", "onBeforeInvite", "e_DELIVER", "es_IN"]),
        // What cannot be read is asked about by where it goes.
        (to_user("<message>", &[bob()]), &["es_OUT", "e_DELIVER"]),
        (event(Subject::Message, Target::Remote, Some("x@far.example"), BODY), &["es_OUT"]),
        (
            event(Subject::Message, Target::Remote, Some("x@far.example"), DIRECT),
            &["es_OUT", "onBeforeInvite"],
        ),
        (event(Subject::Message, Target::Component, Some("x@bot.here.example"), BODY), &["es_OUT"]),
        (event(Subject::Message, Target::Service, Some("here.example"), BODY), &["es_OUT", "e_SERVER"]),
    ] {
        assert_eq!(names(&event), expected, "{event:?}");
    }
    // One question for everybody who receives it.
    let received = occurrences(&to_user(BODY, &[bob()])).pop().expect("es_IN");
    assert_eq!(received.recipients.as_ref(), [bob()]);
}

#[test]
fn pr_7_every_packet_of_a_session_has_its_events() {
    let bob = || person("bob@here.example", &["phone"]);
    let ann = |resources: &[&str]| person("ann@here.example", resources);
    let with = |recipients: Vec<Recipient>, event| link::Event { recipients, ..event };
    let broadcast =
        |stanza, recipients| with(recipients, event(Subject::Presence, Target::LocalUser, None, stanza));
    let to_bob = |subject, stanza: &str, recipients| {
        with(recipients, event(subject, Target::LocalUser, Some("bob@here.example/phone"), stanza))
    };
    let own = |stanza: &str| event(Subject::ServiceIq, Target::LocalUser, None, stanza);
    let server = |subject, stanza: &str| event(subject, Target::Service, Some("here.example"), stanza);
    let account = |stanza: &str| event(Subject::Iq, Target::LocalUser, Some("bob@here.example"), stanza);
    let bind =
        "<iq type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>pc</resource></bind></iq>";
    let gone = "<presence type='unavailable'/>";
    for (event, expected) in [
        (event(Subject::Bind, Target::LocalUser, None, bind), &["e_SESSION"][..]),
        (broadcast("<presence/>", vec![ann(&["pc"])]), &["es_OUT"]),
        (broadcast("<presence/>", vec![ann(&["pc"]), bob()]), &["es_OUT", "es_IN"]),
        (broadcast("<presence/>", vec![ann(&["pc", "phone"]), bob()]), &["es_OUT", "e_PRISESSION", "es_IN"]),
        // Who is left to choose among does not count the one that goes.
        (broadcast(gone, vec![ann(&["pc", "phone"])]), &["es_OUT"]),
        (broadcast(gone, vec![ann(&["pc", "phone", "pad"])]), &["es_OUT", "e_PRISESSION"]),
        (to_bob(Subject::Presence, "<presence/>", vec![bob()]), &["es_OUT", "e_DELIVER", "es_IN"]),
        (
            to_bob(
                Subject::Subscription,
                "<presence type='subscribe'/>",
                vec![person("bob@here.example", &[])],
            ),
            &["es_OUT", "e_DELIVER", "e_OFFLINE"],
        ),
        (server(Subject::Presence, "<presence/>"), &["es_OUT", "e_SERVER"]),
        (to_bob(Subject::Iq, &iq("get", "<x/>"), vec![bob()]), &["es_OUT", "e_DELIVER", "es_IN"]),
        (to_bob(Subject::Iq, &iq("result", ""), vec![bob()]), &["es_OUT", "e_DELIVER", "es_IN"]),
        (to_bob(Subject::Iq, &iq("get", "<x/>"), vec![]), &["es_OUT", "e_DELIVER", "e_OFFLINE"]),
        (
            to_bob(Subject::Iq, &iq("get", DISCO), vec![bob()]),
            &["es_OUT", "e_DISCOFEAT", "e_DELIVER", "es_IN"],
        ),
        // The server answers for an account: nobody receives it, and nobody is missed.
        (account(&iq("get", "<vCard xmlns='vcard-temp'/>")), &["es_OUT", "e_DELIVER"]),
        (own(&iq("get", "<query xmlns='jabber:iq:roster'/>")), &["es_OUT", "e_SERVER"]),
        (own(&iq("get", DISCO)), &["es_OUT", "e_DISCOFEAT", "e_SERVER"]),
        (server(Subject::ServiceIq, &iq("get", DISCO)), &["es_OUT", "e_DISCOFEAT", "e_SERVER"]),
        (server(Subject::ServiceIq, &iq("result", DISCO)), &["es_OUT", "e_SERVER"]),
        (from(Ingress::RemoteServer, server(Subject::ServiceIq, &iq("get", DISCO))), &["e_SERVER"]),
        (
            event(Subject::Iq, Target::Remote, Some("far.example"), &iq("get", DISCO)),
            &["es_OUT", "e_DISCOFEAT"],
        ),
    ] {
        assert_eq!(names(&event), expected, "{event:?}");
    }
    let order = occurrences(&broadcast("<presence/>", vec![ann(&["pc", "phone"]), bob()]));
    assert_eq!(order[1].recipients.as_ref(), [ann(&["pc", "phone"])], "the choice is about the own account");
    assert_eq!(order[2].recipients.as_ref(), [bob()], "who is subscribed receives it");
}

#[test]
fn pr_8_every_stanza_to_a_room_has_its_events() {
    let there = || vec![person("ann@here.example", &["pc"]), person("bob@here.example", &["phone"])];
    let others = || vec![person("ann@here.example", &["phone"]), person("bob@here.example", &["phone"])];
    let said = |inner: &str| {
        to_room(Subject::Message, &format!("<message type='groupchat'>{inner}</message>"), &there())
    };
    let presence =
        |stanza: &str, recipients: Vec<Recipient>| to_room(Subject::RoomPresence, stanza, &recipients);
    let command = |stanza: &str| to_room(Subject::RoomIq, stanza, &there());
    let nowhere = |event| link::Event { room_exists: false, recipients: Vec::new(), ..event };
    let private = |subject, stanza: &str| link::Event {
        recipients: vec![person("bob@here.example", &["phone"])],
        ..event(subject, Target::Occupant, Some("desk@rooms.here.example/Bob"), stanza)
    };
    let service = |subject, stanza: &str| link::Event {
        of_rooms: true,
        ..event(subject, Target::Service, Some("rooms.here.example"), stanza)
    };
    let no_history = joining("<history maxstanzas='0'/>");
    for (event, expected) in [
        (said("<body>b</body>"), &["es_OUT", "onPacket", "onBeforeSend", "onBeforeBroadcast", "es_IN"][..]),
        (
            said("<subject>s</subject>"),
            &["es_OUT", "onPacket", "onBeforeSubject", "onBeforeBroadcast", "es_IN"],
        ),
        (
            said("<subject>s</subject><body>b</body>"),
            &["es_OUT", "onPacket", "onBeforeSend", "onBeforeBroadcast", "es_IN"],
        ),
        (
            from(Ingress::RemoteServer, said("<body>b</body>")),
            &["onPacket", "onBeforeSend", "onBeforeBroadcast", "es_IN"],
        ),
        (
            to_room(Subject::Message, "<message type='groupchat'/>", &[]),
            &["es_OUT", "onPacket", "onBeforeSend", "onBeforeBroadcast"],
        ),
        (to_room(Subject::Message, INVITE, &[]), &["es_OUT", "onPacket", "onBeforeInvite"]),
        (to_room(Subject::Message, BODY, &[]), &["es_OUT", "onPacket"]),
        (to_room(Subject::Message, "<message", &[]), &["es_OUT", "onPacket"]),
        (private(Subject::Message, BODY), &["es_OUT", "onPacket", "es_IN"]),
        (private(Subject::RoomIq, &iq("result", DISCO)), &["es_OUT", "onPacket", "es_IN"]),
        (private(Subject::RoomIq, &iq("get", DISCO)), &["es_OUT", "e_DISCOFEAT", "onPacket", "es_IN"]),
        (
            presence(JOIN, others()),
            &["es_OUT", "onPacket", "onBeforeJoin", "onBeforeChangeUser", "onHistory"],
        ),
        (presence(&no_history, others()), &["es_OUT", "onPacket", "onBeforeJoin", "onBeforeChangeUser"]),
        (
            presence(&joining("<history maxchars='0'/>"), others()),
            &["es_OUT", "onPacket", "onBeforeJoin", "onBeforeChangeUser"],
        ),
        (
            presence(&joining("<history seconds='60'/>"), others()),
            &["es_OUT", "onPacket", "onBeforeJoin", "onBeforeChangeUser", "onHistory"],
        ),
        (
            nowhere(presence(JOIN, vec![])),
            &["es_OUT", "onPacket", "onBeforeRoomCreate", "onBeforeJoin", "onBeforeChangeUser", "onHistory"],
        ),
        // Whoever is there already changes nickname or availability, or leaves.
        (
            presence("<presence><show>away</show></presence>", there()),
            &["es_OUT", "onPacket", "onBeforeChangeUser"],
        ),
        (presence("<presence type='unavailable'/>", there()), &["es_OUT", "onPacket", "onBeforeChangeUser"]),
        (presence("<presence type='unavailable'/>", others()), &["es_OUT", "onPacket"]),
        (presence("<presence type='error'/>", there()), &["es_OUT", "onPacket"]),
        (
            command(&admin("<item jid='a@b' affiliation='member'/>")),
            &["es_OUT", "onPacket", "onBeforeChangeAffiliation"],
        ),
        (
            command(&admin("<item jid='a@b' affiliation='none'/>")),
            &["es_OUT", "onPacket", "onBeforeRemoveAffiliation"],
        ),
        (command(&admin("<item nick='a' role='none'/>")), &["es_OUT", "onPacket", "onBeforeChangeUser"]),
        // The stanza is asked about as a whole, so once for each kind of change.
        (
            command(&admin(
                "<item affiliation='none'/><item affiliation='none'/><item role='visitor' affiliation='owner'/>",
            )),
            &[
                "es_OUT",
                "onPacket",
                "onBeforeRemoveAffiliation",
                "onBeforeChangeAffiliation",
                "onBeforeChangeUser",
            ],
        ),
        (command(&owner("set", "<destroy/>")), &["es_OUT", "onPacket", "onClose"]),
        (
            command(&owner("set", "<x xmlns='jabber:x:data' type='submit'/>")),
            &["es_OUT", "onPacket", "onBeforeMetaInfoSet"],
        ),
        (command(&owner("set", "<x xmlns='jabber:x:data' type='cancel'/>")), &["es_OUT", "onPacket"]),
        (command(&owner("get", "")), &["es_OUT", "onPacket", "onMetaInfoGet"]),
        (command(&iq("get", DISCO)), &["es_OUT", "e_DISCOFEAT", "onPacket", "onExamineRoom"]),
        (
            command(&iq("get", "<query xmlns='http://jabber.org/protocol/disco#items'/>")),
            &["es_OUT", "onPacket", "onExamineRoom"],
        ),
        (command(&iq("set", "<query xmlns='urn:xmpp:mam:2'/>")), &["es_OUT", "onPacket", "onHistory"]),
        (command(&iq("get", "<query xmlns='urn:xmpp:mam:2'/>")), &["es_OUT", "onPacket"]),
        (command(&iq("result", DISCO)), &["es_OUT", "onPacket"]),
        (nowhere(said("<body>b</body>")), &["es_OUT", "onServicePacket"]),
        (nowhere(command(&iq("get", DISCO))), &["es_OUT", "e_DISCOFEAT", "onServicePacket"]),
        (nowhere(presence("<presence type='unavailable'/>", vec![])), &["es_OUT", "onServicePacket"]),
        (
            service(Subject::ServiceIq, &iq("get", DISCO)),
            &["es_OUT", "e_DISCOFEAT", "onServicePacket", "onServiceDiscoInfo"],
        ),
        (service(Subject::Message, BODY), &["es_OUT", "onServicePacket"]),
        (service(Subject::Presence, "<presence/>"), &["es_OUT", "onServicePacket"]),
    ] {
        assert_eq!(names(&event), expected, "{event:?}");
    }
}

#[test]
fn pr_5_events_are_balanced_by_pair_room_or_account() {
    let pair = Key::pair("bob@here.example", "ann@here.example");
    let (room, own) = (Key::of(ROOM), Key::of("ann@here.example"));
    assert_eq!(pair, Key::pair("ann@here.example", "bob@here.example"), "whoever speaks");
    let message = to_user(BODY, &[]);
    let back = link::Event {
        from: "bob@here.example/phone".into(),
        to: Some("ann@here.example".into()),
        ..to_user(BODY, &[])
    };
    for (event, expected) in [
        (message.clone(), &pair),
        (back, &pair),
        (to_room(Subject::Message, BODY, &[]), &room),
        (event(Subject::RoomPresence, Target::Occupant, Some("desk@rooms.here.example/A"), JOIN), &room),
        (event(Subject::Message, Target::LocalUser, None, BODY), &own),
        (event(Subject::Presence, Target::LocalUser, None, "<presence/>"), &own),
        (event(Subject::Bind, Target::LocalUser, None, "<iq/>"), &own),
        (event(Subject::ServiceIq, Target::LocalUser, Some("ann@here.example"), "<iq/>"), &own),
        (event(Subject::ServiceIq, Target::Service, Some("here.example"), "<iq/>"), &own),
        (
            event(Subject::Message, Target::Remote, Some("x@far.example/y"), BODY),
            &Key::pair("ann@here.example", "x@far.example"),
        ),
    ] {
        assert_eq!(lane(&event), *expected, "{event:?}");
        assert!(occurrences(&event).iter().all(|occurrence| occurrence.key == *expected), "{event:?}");
    }
    let invited = occurrences(&to_user(DIRECT, &[]));
    assert_eq!((&invited[1].key, &invited[2].key), (&Key::of("war@rooms.far.example"), &pair));
}

fn notice(name: &str) -> Notice {
    Notice {
        name: name.into(),
        jid: Some("bob@here.example".into()),
        room: Some(ROOM.into()),
        occupant: Some(format!("{ROOM}/B<b")),
        ..Notice::default()
    }
}

fn tells(notice: &Notice) -> Vec<(&'static str, String)> {
    told(notice).into_iter().map(|(occurrence, stanza)| (occurrence.event.name, stanza)).collect()
}

#[test]
fn pr_11_each_notice_tells_its_events_with_a_stanza_that_shows_it() {
    let shows = |name: &str, change: &dyn Fn(&mut Notice), expected: &[(&str, &str)]| {
        let mut notice = notice(name);
        change(&mut notice);
        let told = tells(&notice);
        assert_eq!(told.len(), expected.len(), "{name}: {told:?}");
        for ((event, stanza), (expected, part)) in told.iter().zip(expected) {
            assert_eq!(event, expected, "{name}");
            assert!(stanza.contains(part), "{name}: {stanza}");
            assert!(crate::protocol::Stanza::new(stanza.as_str()).element().is_ok(), "{stanza}");
        }
        notice.snapshot = true;
        assert_eq!(told_count(&notice), 0, "{name}: a snapshot says what is");
    };
    let as_is: &dyn Fn(&mut Notice) = &|_| {};
    let said =
        "<presence from='bob@here.example/p' to='desk@rooms.here.example/B'><show>dnd</show></presence>";
    let gone = "<presence type='unavailable' from='bob@here.example/p'/>";
    shows(
        "session-down",
        &|n| n.jid = Some(ANN.into()),
        &[("es_END", "<presence xmlns='jabber:client' type='unavailable' from='ann@here.example/pc'")],
    );
    shows(
        "authenticated",
        &|n| n.mechanism = Some("SCRAM-SHA-1".into()),
        &[(
            "e_AUTH",
            "type='set' from='bob@here.example'><auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'/>",
        )],
    );
    shows("login-failed", as_is, &[("e_AUTH", "type='error'")]);
    shows("registered", as_is, &[("e_REGISTER", "<username>bob</username>")]);
    shows(
        "room-created",
        as_is,
        &[("onAfterRoomCreate", "<presence xmlns='jabber:client' from='desk@rooms.here.example'/>")],
    );
    shows("room-destroyed", as_is, &[("onDestroy", "type='unavailable' from='desk@rooms.here.example'")]);
    shows(
        "room-closing",
        &|n| n.reason = Some("<over>".into()),
        &[("onClose", "<destroy><reason>&lt;over&gt;</reason></destroy>")],
    );
    shows("room-configured", as_is, &[("onAfterMetaInfoSet", "muc#owner")]);
    shows(
        "room-configured",
        &|n| n.stanza = Some(owner("set", "<x xmlns='jabber:x:data'/>")),
        &[("onAfterMetaInfoSet", "jabber:x:data")],
    );
    shows(
        "occupant-joined",
        as_is,
        &[
            ("onAfterChangeUser", "to='desk@rooms.here.example/B&lt;b'"),
            ("onAfterJoin", "from='bob@here.example'"),
        ],
    );
    shows(
        "occupant-joined",
        &|n| n.stanza = Some(said.into()),
        &[("onAfterChangeUser", "dnd"), ("onAfterJoin", "dnd")],
    );
    shows(
        "occupant-left",
        &|n| n.stanza = Some(gone.into()),
        &[("onAfterChangeUser", "unavailable"), ("onLeave", "here.example/p")],
    );
    shows(
        "occupant-left",
        &|n| n.stanza = Some(said.into()),
        &[("onAfterChangeUser", "unavailable"), ("onLeave", "unavailable")],
    );
    // A nickname's change is one event, though the list of occupants needs both halves.
    let halved: &dyn Fn(&mut Notice) = &|n| n.reason = Some("nick changed".into());
    shows("occupant-left", halved, &[]);
    shows("occupant-joined", halved, &[]);
    shows(
        "occupant-changed",
        &|n| (n.reason, n.stanza) = (Some("nick".into()), Some(said.into())),
        &[("onAfterChangeUser", "dnd")],
    );
    shows(
        "occupant-changed",
        &|n| (n.reason, n.value) = (Some("role".into()), Some("visitor".into())),
        &[("onAfterChangeUser", "<item nick='B&lt;b' role='visitor'/>")],
    );
    shows("occupant-changed", &|n| n.stanza = Some("<garbage".into()), &[("onAfterChangeUser", "<presence")]);
    shows(
        "affiliation-changed",
        &|n| {
            (n.value, n.stanza) =
                (Some("member".into()), Some("<iq from='ann@here.example/pc' type='set'/>".into()))
        },
        &[(
            "onAfterChangeAffiliation",
            "from='ann@here.example/pc' to='desk@rooms.here.example'><query xmlns='http://jabber.org/protocol/muc#admin'><item jid='bob@here.example' affiliation='member'>",
        )],
    );
    shows(
        "affiliation-changed",
        &|n| n.value = Some("none".into()),
        &[("onAfterRemoveAffiliation", "affiliation='none'")],
    );
    shows(
        "subject-changed",
        &|n| n.value = Some("a & b".into()),
        &[("onAfterSubject", "<subject>a &amp; b</subject>")],
    );
    shows("invited", as_is, &[("onAfterInvite", "<invite to='bob@here.example'/>")]);
    shows("services-reconfigured", &|n| n.jid = None, &[("onServiceReconfig", "<presence")]);
    shows("session-up", as_is, &[]);
    shows("hook-failed", as_is, &[]);
    shows("session-down", &|n| n.jid = None, &[]);
    shows("room-created", &|n| n.room = None, &[]);
}

fn told_count(notice: &Notice) -> usize {
    told(notice).len()
}

#[test]
fn pr_7_statistics_are_written_as_xep_0039_has_them() {
    assert_eq!(
        stats("a'b.example", [("users/online", "users", 2), ("time/uptime", "seconds", 7)]),
        "<iq xmlns='jabber:client' type='result' from='a&#39;b.example'><query xmlns='http://jabber.org/protocol/stats'>\
         <stat name='users/online' units='users' value='2'/><stat name='time/uptime' units='seconds' value='7'/></query></iq>"
    );
}

/// Every kind of stanza that a plugin may ask about.
fn all_kinds() -> Vec<link::Event> {
    let stanzas = [
        BODY.to_owned(),
        DIRECT.into(),
        INVITE.into(),
        JOIN.into(),
        "<message type='groupchat'><subject/></message>".into(),
        "<message type='groupchat'/>".into(),
        "<presence/>".into(),
        iq("get", DISCO),
        owner("get", ""),
        owner("set", "<destroy/>"),
        owner("set", "<x xmlns='jabber:x:data'/>"),
        iq("set", "<query xmlns='urn:xmpp:mam:2'/>"),
        "<iq".into(),
        admin("<item affiliation='none'/><item affiliation='owner'/><item role='none'/>"),
    ];
    let mut kinds = Vec::new();
    for subject in Subject::ALL {
        // Which targets a subject has is the link's to say (docs/event-link.md, event).
        let targets: &[Target] = match subject {
            Subject::Message => &[
                Target::LocalUser,
                Target::Room,
                Target::Occupant,
                Target::Remote,
                Target::Service,
                Target::Component,
            ],
            Subject::Presence => &[Target::LocalUser, Target::Remote, Target::Service, Target::Component],
            Subject::Subscription => {
                &[Target::LocalUser, Target::Remote, Target::Service, Target::Component, Target::Room]
            }
            Subject::Iq => &[Target::LocalUser, Target::Remote, Target::Component],
            Subject::ServiceIq => &[Target::LocalUser, Target::Service],
            Subject::RoomPresence | Subject::RoomIq => &[Target::Room, Target::Occupant],
            Subject::Bind => &[Target::LocalUser],
        };
        for target in targets {
            for stanza in &stanzas {
                for bits in 0..16u8 {
                    let recipients = if bits & 1 == 0 {
                        Vec::new()
                    } else {
                        vec![person("ann@here.example", &["x", "y"]), person("bob@here.example", &["phone"])]
                    };
                    let to = (bits & 2 == 0).then_some("bob@here.example/phone");
                    kinds.push(link::Event {
                        recipients,
                        of_rooms: bits & 4 == 0,
                        room_exists: bits & 8 == 0,
                        ..event(subject, *target, to, stanza)
                    });
                }
            }
        }
    }
    kinds
}

#[test]
fn the_subjects_asked_about_are_exactly_those_that_cause_an_event() {
    let mut seen = BTreeSet::new();
    for event in all_kinds() {
        for occurrence in occurrences(&event) {
            assert!(
                causes(occurrence.event).contains(&event.subject),
                "{} is caused by {:?}: {event:?}",
                occurrence.event.name,
                event.subject
            );
            seen.insert((occurrence.event.name, event.subject));
        }
    }
    for event in events::ALL {
        for subject in causes(event) {
            assert!(seen.contains(&(event.name, *subject)), "{} is never caused by {subject:?}", event.name);
        }
        assert_eq!(causes(event).is_empty(), event.prosody != Yield::Held, "{} is held or told", event.name);
    }
}

#[test]
fn pr_9_what_is_told_of_is_never_caused_by_a_stanza_and_what_is_held_is() {
    let caused: BTreeSet<_> = all_kinds().iter().flat_map(|event| names(event)).collect();
    for event in events::ALL {
        assert_eq!(caused.contains(event.name), event.prosody == Yield::Held, "{}", event.name);
    }
    assert!(
        events::ALL.iter().all(|event| event.answers != Answers::Nothing || event.prosody != Yield::Held)
    );
}

fn compliance(profiles: Vec<(Option<&str>, Vec<Rule>)>) -> Compliance {
    let profile = |(node, events): (Option<&str>, Vec<Rule>)| Profile {
        name: "P".into(),
        events,
        servers: vec!["s".into()],
        nodes: node.map(|node| vec![node.to_owned()]),
    };
    Compliance { profiles: profiles.into_iter().map(profile).collect(), ..Compliance::default() }
}

#[test]
fn fh_7_the_plugin_asks_about_what_some_profile_wants_to_see_and_about_nothing_else() {
    use Handling::{Bounce, Pass};
    use Unanswered::{Deliver, Refuse};
    let rule = |event: &'static Event, packets: &[Packet], handling, fire_and_forget| Rule {
        packets: packets.to_vec(),
        handling,
        fire_and_forget,
        ..Rule::new(event)
    };
    let table: [(Vec<Rule>, &[(Subject, Unanswered)]); 11] = [
        (vec![], &[]),
        // Messages are always asked about, and what is only told needs no question.
        (vec![rule(&events::ES_OUT, &[Packet::Message], None, false)], &[]),
        (
            vec![rule(&events::ON_BEFORE_SEND, &[], None, false), rule(&events::ON_LEAVE, &[], None, false)],
            &[],
        ),
        (crate::profile::system_default(), &[(Subject::RoomPresence, Refuse), (Subject::Bind, Deliver)]),
        (
            vec![rule(&events::ES_OUT, &[Packet::Iq], None, false)],
            &[(Subject::Iq, Refuse), (Subject::ServiceIq, Refuse), (Subject::RoomIq, Refuse)],
        ),
        (
            vec![rule(&events::E_DELIVER, &[Packet::Presence, Packet::Subscription], None, false)],
            &[(Subject::Presence, Deliver), (Subject::Subscription, Deliver)],
        ),
        (
            vec![rule(&events::E_DELIVER, &[Packet::Presence], Some(Bounce), false)],
            &[(Subject::Presence, Refuse)],
        ),
        (vec![rule(&events::ON_BEFORE_JOIN, &[], Some(Bounce), true)], &[(Subject::RoomPresence, Deliver)]),
        (vec![rule(&events::ON_CLOSE, &[], Some(Pass), false)], &[(Subject::RoomIq, Deliver)]),
        // One that refuses is enough.
        (
            vec![rule(&events::ON_HISTORY, &[], None, false), rule(&events::ON_CLOSE, &[], None, false)],
            &[(Subject::RoomPresence, Deliver), (Subject::RoomIq, Refuse)],
        ),
        (vec![rule(&events::E_PRISESSION, &[Packet::Iq], None, false)], &[]),
    ];
    for (rules, expected) in table {
        let of = |node, chosen| -> Vec<(Subject, Unanswered)> {
            let declared = compliance(vec![(Some("n-0"), rules.clone())]);
            ask_about(&declared, node, chosen)
                .into_iter()
                .map(|asked| (asked.subject, asked.unanswered))
                .collect()
        };
        assert_eq!(of("n-0", None), expected, "{rules:?}");
        assert_eq!(of("n-1", None), [], "a profile counts where it is in force");
        for (chosen, word) in [(WhenUnanswered::Refuse, Refuse), (WhenUnanswered::Deliver, Deliver)] {
            assert!(of("n-0", Some(chosen)).iter().all(|(_, unanswered)| *unanswered == word));
            assert_eq!(of("n-0", Some(chosen)).len(), expected.len());
        }
    }
}
