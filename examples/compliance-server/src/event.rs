//! A question as the protocol puts it, and how it is read. Values only.

use crate::{CLIENT, FORWARD, NAMESPACE};
use minidom::Element;
use std::time::Duration;

/// What may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admits {
    /// Anything.
    Any,
    /// PASS alone; any other answer changes nothing.
    Pass,
    /// It is told: no answer changes anything.
    Nothing,
}

/// An event that Cartulary asks about or tells of.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name: `es_OUT`, `onBeforeJoin`, ….
    pub name: String,
    /// `message`, `presence`, `subscription` or `iq`.
    pub packet: String,
    /// The stanza's id (a UUID), the same in all questions about it and when it is asked again.
    pub id: String,
    /// The profile that contains the event.
    pub profile: String,
    /// The pod it happened on.
    pub node: String,
    /// When, as XEP-0082 writes it.
    pub stamp: String,
    /// How long an answer is awaited; `None` for what is told.
    pub timeout: Option<Duration>,
    /// Whether an answer is awaited: the question came as an iq. What a policy says of anything else goes nowhere.
    pub awaited: bool,
    /// What may be answered.
    pub admits: Admits,
    /// It happened while this server was away.
    pub missed: bool,
    /// Who sent the stanza.
    pub sender: Option<Sender>,
    /// The room it happens in, a bare JID.
    pub room: Option<String>,
    /// Who would get it, or is in the room.
    pub recipients: Vec<Recipient>,
    /// Why, for what is told.
    pub reason: Option<String>,
    /// The stanza, of namespace `jabber:client`.
    pub stanza: Element,
    /// The component name that the sidecar uses here, `op-SERVER.POD`.
    pub component: String,
}

/// Who sent a stanza, as the XMPP server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The JID as it was authenticated.
    pub jid: String,
    /// `client`, `remote-server`, `component` or `internal`.
    pub ingress: String,
    /// The server's id of the session or stream.
    pub session: Option<String>,
    /// The client's address.
    pub address: Option<String>,
    /// Whether its stream is encrypted, where that is known.
    pub secure: Option<bool>,
    /// The SASL mechanism.
    pub mechanism: Option<String>,
}

/// One who would get a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The bare JID.
    pub jid: String,
    /// What it is called in the room.
    pub occupant: Option<String>,
    /// The sessions that would get it.
    pub resources: Vec<String>,
}

impl Event {
    /// Reads `<event/>`. The error says what is missing.
    pub(crate) fn read(element: &Element, awaited: bool, component: &str) -> Result<Self, &'static str> {
        let text = |name: &str| element.attr(name).map(str::to_owned);
        let stanza = element
            .get_child("forwarded", FORWARD)
            .and_then(|forwarded| forwarded.children().find(|child| is_stanza(child)))
            .ok_or("the event forwards no stanza")?;
        let child = |name: &str| element.get_child(name, NAMESPACE);
        Ok(Self {
            name: text("name").ok_or("the event has no name")?,
            packet: text("packet").unwrap_or_else(|| stanza.name().to_owned()),
            id: text("id").unwrap_or_default(),
            profile: text("profile").unwrap_or_default(),
            node: text("node").unwrap_or_default(),
            stamp: text("stamp").unwrap_or_default(),
            timeout: element.attr("timeout").and_then(|ms| ms.parse().ok()).map(Duration::from_millis),
            awaited,
            admits: match element.attr("answer") {
                Some("pass") => Admits::Pass,
                Some("none") => Admits::Nothing,
                _ => Admits::Any,
            },
            missed: element.attr("missed") == Some("true"),
            sender: child("sender").and_then(Sender::read),
            room: child("room").and_then(|room| room.attr("jid")).map(str::to_owned),
            recipients: element
                .children()
                .filter(|child| child.is("recipient", NAMESPACE))
                .filter_map(Recipient::read)
                .collect(),
            reason: child("reason").map(Element::text),
            stanza: stanza.clone(),
            component: component.to_owned(),
        })
    }

    /// The first body of a message.
    #[must_use]
    pub fn body(&self) -> Option<String> {
        self.stanza.get_child("body", CLIENT).map(Element::text)
    }

    /// The sender's JID; empty where there is none.
    #[must_use]
    pub fn from(&self) -> &str {
        self.sender.as_ref().map_or("", |sender| &sender.jid)
    }
}

impl Sender {
    fn read(element: &Element) -> Option<Self> {
        let text = |name: &str| element.attr(name).map(str::to_owned);
        Some(Self {
            jid: text("jid")?,
            ingress: text("ingress").unwrap_or_default(),
            session: text("session"),
            address: text("address"),
            secure: element.attr("secure").map(|value| value == "true"),
            mechanism: text("mechanism"),
        })
    }
}

impl Recipient {
    fn read(element: &Element) -> Option<Self> {
        Some(Self {
            jid: element.attr("jid")?.to_owned(),
            occupant: element.attr("occupant").map(str::to_owned),
            resources: element
                .children()
                .filter(|child| child.is("resource", NAMESPACE))
                .map(Element::text)
                .collect(),
        })
    }
}

fn is_stanza(element: &Element) -> bool {
    element.has_ns(CLIENT) && ["message", "presence", "iq"].contains(&element.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &str = "<event xmlns='urn:cartulary:compliance:1' name='es_OUT' packet='message' id='i' profile='Wall' node='p-0'
        stamp='2026-01-02T03:04:05Z' timeout='29874' answer='pass' colour='new'><new/>
        <sender jid='ann@chat.example/pc' ingress='client' secure='true'/><room jid='desk@rooms.chat.example'/>
        <recipient jid='bob@chat.example' occupant='desk@rooms.chat.example/Bob'><resource>phone</resource></recipient>
        <forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'><body>hi</body></message></forwarded></event>";

    #[test]
    fn a_question_is_read_and_what_is_new_in_it_is_passed_over() {
        let event = Event::read(&QUESTION.parse().expect("XML"), true, "op-wall.p-0").expect("a question");
        assert_eq!((event.name.as_str(), event.packet.as_str()), ("es_OUT", "message"));
        assert_eq!(event.timeout, Some(Duration::from_millis(29874)));
        assert_eq!((event.admits, event.from()), (Admits::Pass, "ann@chat.example/pc"));
        assert_eq!(event.recipients[0].resources, ["phone"]);
        assert_eq!(event.body().as_deref(), Some("hi"));
        assert_eq!(event.room.as_deref(), Some("desk@rooms.chat.example"));
    }

    #[test]
    fn an_event_without_name_or_stanza_is_none() {
        for (part, instead) in [("name='es_OUT'", ""), ("jabber:client", "jabber:other")] {
            let broken: Element = QUESTION.replace(part, instead).parse().expect("XML");
            assert!(Event::read(&broken, true, "").is_err(), "{part}");
        }
    }
}
