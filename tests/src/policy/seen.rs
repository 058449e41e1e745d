//! An event as a compliance server sees it, read by hand from `docs/event-protocol.md`.

use anyhow::{Context, Result, ensure};
use minidom::Element;

/// The namespace of events and answers.
pub const NAMESPACE: &str = "urn:cartulary:compliance:1";
const FORWARD: &str = "urn:xmpp:forward:0";
const CLIENT: &str = "jabber:client";

/// One question, or one thing that was told.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The name of the event.
    pub event: String,
    /// The packet type.
    pub packet: String,
    /// The stanza's id, the same in all questions about it.
    pub id: String,
    /// The id of the iq; `None` for what is told.
    pub iq: Option<String>,
    /// The profile.
    pub profile: String,
    /// The pod.
    pub node: String,
    /// What may be answered.
    pub answer: String,
    /// Milliseconds left, where an answer is awaited.
    pub timeout: Option<u64>,
    /// It happened while this server was away.
    pub missed: bool,
    /// The sender's JID and what else is said of it.
    pub from: String,
    /// How the stanza came in.
    pub ingress: String,
    /// The server's id of the session.
    pub session: Option<String>,
    /// The client's address.
    pub address: Option<String>,
    /// The room.
    pub room: Option<String>,
    /// Who would get it.
    pub recipients: Vec<To>,
    /// Why.
    pub reason: Option<String>,
    /// The stanza.
    pub stanza: Element,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    // The addresses of the question itself: the component's, and the server's.
    pub(crate) component: String,
    pub(crate) server: String,
}

/// Who would get a stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To {
    /// Bare JID.
    pub jid: String,
    /// Occupant JID in a room.
    pub occupant: Option<String>,
    /// The sessions that would get it.
    pub resources: Vec<String>,
}

impl Seen {
    /// Reads an iq or message of the stream; `None` where it holds no event.
    pub(crate) fn read(stanza: &Element, connection: usize) -> Result<Option<Self>> {
        let Some(event) = stanza.get_child("event", NAMESPACE) else { return Ok(None) };
        let attr = |name: &str| event.attr(name).map(str::to_owned);
        let must = |name: &str| attr(name).with_context(|| format!("an event without {name}"));
        let outer = |name: &str| {
            stanza.attr(name).map(str::to_owned).with_context(|| format!("a question without {name}"))
        };
        let child = |name: &str| event.get_child(name, NAMESPACE);
        let sender = child("sender");
        let of_sender = |name: &str| sender.and_then(|sender| sender.attr(name)).map(str::to_owned);
        let forwarded =
            event.get_child("forwarded", FORWARD).context("an event without a forwarded stanza")?;
        let inner: Vec<_> = forwarded.children().filter(|e| e.ns() == CLIENT).collect();
        ensure!(inner.len() == 1, "one stanza is forwarded, not {}", inner.len());
        let iq = match stanza.name() {
            "iq" => {
                ensure!(stanza.attr("type") == Some("set"), "a question is an iq of type set");
                Some(outer("id")?)
            }
            _ => None,
        };
        let recipients = event.children().filter(|e| e.is("recipient", NAMESPACE)).map(To::read);
        Ok(Some(Self {
            event: must("name")?,
            packet: must("packet")?,
            id: must("id")?,
            iq,
            profile: must("profile")?,
            node: must("node")?,
            answer: must("answer")?,
            timeout: attr("timeout").map(|ms| ms.parse()).transpose()?,
            missed: attr("missed").as_deref() == Some("true"),
            from: of_sender("jid").unwrap_or_default(),
            ingress: of_sender("ingress").unwrap_or_default(),
            session: of_sender("session"),
            address: of_sender("address"),
            room: child("room").and_then(|room| room.attr("jid")).map(str::to_owned),
            recipients: recipients.collect::<Result<_>>()?,
            reason: child("reason").map(Element::text),
            stanza: inner[0].clone(),
            connection,
            component: outer("from")?,
            server: outer("to")?,
        }))
    }

    /// Whether an answer is awaited.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.iq.is_some()
    }

    /// The body of a message.
    #[must_use]
    pub fn body(&self) -> String {
        self.stanza.get_child("body", CLIENT).map(Element::text).unwrap_or_default()
    }

    /// The `id` of the stanza itself.
    #[must_use]
    pub fn stanza_id(&self) -> &str {
        self.stanza.attr("id").unwrap_or_default()
    }

    /// The sender's bare JID.
    #[must_use]
    pub fn sender(&self) -> &str {
        self.from.split('/').next().unwrap_or_default()
    }

    /// Bare JIDs of the recipients.
    #[must_use]
    pub fn to(&self) -> Vec<&str> {
        self.recipients.iter().map(|to| to.jid.as_str()).collect()
    }

    /// The stanza with another body.
    #[must_use]
    pub fn with_body(&self, body: &str) -> String {
        let mut stanza = self.stanza.clone();
        stanza.remove_child("body", CLIENT);
        stanza.append_child(Element::builder("body", CLIENT).append(body).build());
        String::from(&stanza)
    }
}

impl To {
    fn read(recipient: &Element) -> Result<Self> {
        Ok(Self {
            jid: recipient.attr("jid").context("a recipient without JID")?.to_owned(),
            occupant: recipient.attr("occupant").map(str::to_owned),
            resources: recipient
                .children()
                .filter(|e| e.is("resource", NAMESPACE))
                .map(Element::text)
                .collect(),
        })
    }
}

/// What the server says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// PASS.
    Pass,
    /// PASS with another stanza.
    Change(String),
    /// PASS, but for these: bare or full JID, and the XML of what becomes of that copy.
    Except(Vec<(String, String)>),
    /// HANDLE.
    Handle,
    /// An error of this type, with this condition and text.
    Error(&'static str, &'static str, &'static str),
    /// Nothing yet: the question is kept, for [`super::Policy::release`].
    Hold,
    /// The payload of a result, whatever it is.
    Result(String),
    /// These bytes on the stream.
    Raw(String),
}

/// Withholds a copy without a word.
pub const WITHHOLD: &str = "<withhold/>";

/// Withholds a copy; its sender gets this error.
pub const REFUSE: &str = "<error type='cancel'><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
    <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>not for them</text></error>";

impl Answer {
    /// What stands on the stream, if anything.
    pub(crate) fn to_xml(&self, seen: &Seen) -> Option<String> {
        let iq = seen.iq.as_deref()?;
        let result = |payload: &str| {
            let (from, to) = (&seen.server, &seen.component);
            Some(format!("<iq type='result' id='{iq}' from='{from}' to='{to}'>{payload}</iq>"))
        };
        let pass = |inner: &str| result(&format!("<pass xmlns='{NAMESPACE}'>{inner}</pass>"));
        match self {
            Self::Pass => pass(""),
            Self::Change(stanza) => pass(&format!("<forwarded xmlns='{FORWARD}'>{stanza}</forwarded>")),
            Self::Except(whom) => {
                let except = |(jid, what): &(String, String)| {
                    format!("<except recipient='{}'>{what}</except>", crate::client::escape(jid))
                };
                pass(&whom.iter().map(except).collect::<String>())
            }
            Self::Handle => result(&format!("<handle xmlns='{NAMESPACE}'/>")),
            Self::Error(kind, condition, text) => Some(format!(
                "<iq type='error' id='{iq}'><error type='{kind}'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
                 <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>{text}</text></error></iq>"
            )),
            Self::Hold => None,
            Self::Result(payload) => result(payload),
            Self::Raw(text) => Some(text.clone()),
        }
    }
}
