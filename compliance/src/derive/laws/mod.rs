//! The events of stanzas as tables (PR-5, PR-7, PR-8, PR-10).

mod asking;
mod notices;

use super::*;
use crate::link::{self, Ingress, Subject, Target};

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
