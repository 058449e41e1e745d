//! An example of each event, as the table at the end of `docs/event-protocol.md` has it.

use cartulary_compliance::events::{Event, Group, Packet, Yield};
use cartulary_compliance::link::{Ingress, Recipient};
use cartulary_compliance::protocol::{Question, Stanza};

const ANN: &str = "ann@chat.example";
const BOB: &str = "bob@chat.example";
const ROOM: &str = "desk@rooms.chat.example";
const MUC: &str = "http://jabber.org/protocol/muc";

/// A question about an event, with its stanza; told where servers can only be told. `number` tells the stanzas apart.
pub fn question(event: &'static Event, component: &str, number: u32) -> Question {
    let (packet, stanza) = stanza(event.name, number);
    let in_room = event.group == Group::Tc;
    let is_message = packet == Packet::Message;
    Question {
        event,
        packet,
        profile: "Conformance".into(),
        event_id: id(number),
        node: component.split_once('.').map_or(component, |(_, node)| node).to_owned(),
        seen_at_micros: jiff::Timestamp::now().as_microsecond(),
        awaited: event.prosody == Yield::Held,
        missed: false,
        stanza: Stanza::new(stanza),
        ingress: Ingress::Client,
        from: format!("{ANN}/pc"),
        session: Some("c2s1".into()),
        address: Some("192.0.2.7".into()),
        secure: true,
        mechanism: Some("SCRAM-SHA-256".into()),
        room: in_room.then(|| ROOM.to_owned()),
        recipients: recipients(event.name, in_room, is_message).into(),
        reason: None,
    }
}

/// A question about a message of two, as every server that decides about messages gets them.
pub fn conversation(event: &'static Event, component: &str, number: u32, body: &str) -> Question {
    let stanza = format!(
        "<message xmlns='jabber:client' from='{ANN}/pc' to='peer{number}@chat.example' type='chat' id='m{number}'><body>{body}</body></message>"
    );
    let peer = Recipient {
        bare: format!("peer{number}@chat.example"),
        occupant: None,
        resources: vec!["phone".into()],
    };
    Question { stanza: Stanza::new(stanza), recipients: [peer].into(), ..question(event, component, number) }
}

/// A UUID of version 7's form, the same for the same number.
fn id(number: u32) -> [u8; 16] {
    let mut id = *b"\x01\x93\x6f\x0e\x7c\x1e\x7b\x9a\x8d\x60\x1d\x2c\0\0\0\0";
    id[12..].copy_from_slice(&number.to_be_bytes());
    id
}

fn recipients(event: &str, in_room: bool, is_message: bool) -> Vec<Recipient> {
    let recipient = |bare: &str, nick: &str, resources: &[&str]| Recipient {
        bare: bare.to_owned(),
        occupant: in_room.then(|| format!("{ROOM}/{nick}")),
        resources: resources.iter().map(|resource| (*resource).to_owned()).collect(),
    };
    match event {
        "e_PRISESSION" => vec![recipient(ANN, "Ann", &["pc", "phone"])],
        "e_SESSION" | "es_END" | "e_AUTH" | "e_REGISTER" | "e_STATS" | "e_SERVER" | "e_DISCOFEAT" => {
            Vec::new()
        }
        "e_OFFLINE" => vec![recipient(BOB, "Bob", &[])],
        _ if in_room => vec![recipient(ANN, "Ann", &["pc"]), recipient(BOB, "Bob", &["phone"])],
        _ if is_message => vec![recipient(BOB, "Bob", &["phone"])],
        _ => Vec::new(),
    }
}

fn stanza(event: &str, number: u32) -> (Packet, String) {
    let message = |to: &str, kind: &str, payload: &str| {
        let from = format!("{ANN}/pc");
        (
            Packet::Message,
            format!(
                "<message xmlns='jabber:client' from='{from}' to='{to}' type='{kind}' id='m{number}'>{payload}</message>"
            ),
        )
    };
    let iq = |kind: &str, to: &str, payload: &str| {
        let to = if to.is_empty() { String::new() } else { format!(" to='{to}'") };
        let text = format!(
            "<iq xmlns='jabber:client' from='{ANN}/pc'{to} type='{kind}' id='i{number}'>{payload}</iq>"
        );
        (Packet::Iq, text)
    };
    let presence = |attributes: &str, payload: &str| {
        (Packet::Presence, format!("<presence xmlns='jabber:client' {attributes}>{payload}</presence>"))
    };
    let info = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
    let admin = |item: &str| iq("set", ROOM, &format!("<query xmlns='{MUC}#admin'><item {item}/></query>"));
    let owner =
        |kind: &str, payload: &str| iq(kind, ROOM, &format!("<query xmlns='{MUC}#owner'>{payload}</query>"));
    let form = "<x xmlns='jabber:x:data' type='submit'><field var='muc#roomconfig_persistentroom'><value>1</value></field></x>";
    let join = || presence(&format!("from='{ANN}/pc' to='{ROOM}/Ann'"), &format!("<x xmlns='{MUC}'/>"));
    match event {
        "e_SESSION" => iq("set", "", "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>pc</resource></bind>"),
        "es_END" => presence(&format!("type='unavailable' from='{ANN}/pc'"), ""),
        "e_AUTH" => iq("set", "", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-256'/>"),
        "e_REGISTER" => iq("set", "chat.example", "<query xmlns='jabber:iq:register'><username>ann</username></query>"),
        "e_STATS" => (
            Packet::Iq,
            "<iq xmlns='jabber:client' type='result' from='chat.example'><query xmlns='http://jabber.org/protocol/stats'>\
             <stat name='users/online' units='users' value='2'/></query></iq>".into(),
        ),
        "e_SERVER" => iq("get", "chat.example", "<query xmlns='jabber:iq:version'/>"),
        "e_DISCOFEAT" => iq("get", "chat.example", info),
        "onServiceDiscoInfo" => iq("get", "rooms.chat.example", info),
        "onExamineRoom" => iq("get", ROOM, "<query xmlns='http://jabber.org/protocol/disco#items'/>"),
        "onServicePacket" => iq("get", "rooms.chat.example", "<query xmlns='jabber:iq:version'/>"),
        "e_PRISESSION" => presence(&format!("from='{ANN}/pc'"), "<priority>5</priority>"),
        "onBeforeRoomCreate" | "onBeforeJoin" | "onHistory" | "onBeforeChangeUser" => join(),
        "onAfterRoomCreate" | "onServiceReconfig" => presence(&format!("from='{ROOM}'"), ""),
        "onDestroy" => presence(&format!("type='unavailable' from='{ROOM}'"), ""),
        "onAfterChangeUser" | "onAfterJoin" => presence(&format!("from='{ROOM}/Ann'"), &format!("<x xmlns='{MUC}#user'/>")),
        "onLeave" => presence(&format!("type='unavailable' from='{ROOM}/Ann'"), ""),
        "onBeforeChangeAffiliation" | "onAfterChangeAffiliation" => admin(&format!("jid='{BOB}' affiliation='member'")),
        "onBeforeRemoveAffiliation" | "onAfterRemoveAffiliation" => admin(&format!("jid='{BOB}' affiliation='none'")),
        "onMetaInfoGet" => owner("get", ""),
        "onBeforeMetaInfoSet" | "onAfterMetaInfoSet" => owner("set", form),
        "onClose" => owner("set", "<destroy/>"),
        "onBeforeSubject" | "onAfterSubject" => message(ROOM, "groupchat", "<subject>today</subject>"),
        "onBeforeInvite" | "onAfterInvite" => {
            message(ROOM, "normal", &format!("<x xmlns='{MUC}#user'><invite to='{BOB}'/></x>"))
        }
        "onPacket" | "onBeforeSend" | "onBeforeBroadcast" => message(ROOM, "groupchat", "<body>Good morning.</body>"),
        _ => message(BOB, "chat", "<body>Good morning.</body>"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_compliance::config::StreamNamespace;
    use cartulary_compliance::events;

    #[test]
    fn every_event_has_an_example_that_can_be_asked_about() {
        for event in events::ALL {
            let question = question(event, "op-a.prosody-0", 7);
            let element = question.to_element("q", "op-a.prosody-0", "a", StreamNamespace::Accept, 1000);
            let stanza = question.stanza.element().unwrap_or_else(|error| panic!("{}: {error}", event.name));
            let fits = question.packet.word() == stanza.name();
            assert!(element.is_ok() && fits, "{}", event.name);
            assert_eq!(question.room.is_some(), event.group == Group::Tc);
        }
    }
}
