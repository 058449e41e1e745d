//! What a message stanza says, as far as recording it needs to know.
//!
//! The original bytes are always kept beside these facts; they serve search and routing, never as evidence.

use minidom::Element;
use std::collections::BTreeMap;

const CLIENT: &str = "jabber:client";
const SERVER: &str = "jabber:server";
const STANZA_IDS: &str = "urn:xmpp:sid:0";
const XHTML_IM: &str = "http://jabber.org/protocol/xhtml-im";
const SECURITY_LABEL: &str = "urn:xmpp:sec-label:0";

/// Facts read off a `<message/>`. Absent parts are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageFacts {
    /// `type` attribute; `normal` where there is none (RFC 6121, 5.2.2).
    pub message_type: String,
    /// `id` attribute.
    pub id: Option<String>,
    /// `<origin-id/>` (XEP-0359).
    pub origin_id: Option<String>,
    /// `<thread/>`.
    pub thread: Option<String>,
    /// First `<subject/>`.
    pub subject: Option<String>,
    /// First `<body/>`.
    pub body: Option<String>,
    /// The `<html/>` element as markup (XEP-0071).
    pub html: Option<String>,
    /// Display marking of the security label (XEP-0258).
    pub label: Option<String>,
}

/// The stanza is not well-formed XML, or not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StanzaError {
    /// Not well-formed.
    #[error("the stanza is not well-formed XML: {0}")]
    Malformed(String),
    /// Well-formed, but the root is something else.
    #[error("the stanza is a <{0}/>, not a message")]
    NotAMessage(String),
}

impl MessageFacts {
    /// Reads the facts off a serialised stanza. Its namespace may be `jabber:client`, `jabber:server`, or left out.
    pub fn parse(stanza: &str) -> Result<Self, StanzaError> {
        let defaults = BTreeMap::from([(None, CLIENT.to_owned())]);
        let message = Element::from_reader_with_prefixes(stanza.as_bytes(), defaults)
            .map_err(|error| StanzaError::Malformed(error.to_string()))?;
        let namespace = message.ns();
        if message.name() != "message" || (namespace != CLIENT && namespace != SERVER) {
            return Err(StanzaError::NotAMessage(message.name().to_owned()));
        }
        let child_text = |name: &str| message.get_child(name, namespace.as_str()).map(Element::text);
        Ok(Self {
            message_type: message.attr("type").unwrap_or("normal").to_owned(),
            id: message.attr("id").map(str::to_owned),
            origin_id: message
                .get_child("origin-id", STANZA_IDS)
                .and_then(|origin| origin.attr("id"))
                .map(str::to_owned),
            thread: child_text("thread"),
            subject: child_text("subject"),
            body: child_text("body"),
            html: message.get_child("html", XHTML_IM).map(String::from),
            label: message
                .get_child("securitylabel", SECURITY_LABEL)
                .and_then(|label| label.get_child("displaymarking", SECURITY_LABEL))
                .map(Element::text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(stanza: &str) -> MessageFacts {
        MessageFacts::parse(stanza).expect("a message")
    }

    #[test]
    fn a_message_is_read_whatever_of_the_stream_namespaces_it_is_in() {
        for xmlns in ["", " xmlns='jabber:client'", " xmlns='jabber:server'"] {
            let facts = parse(&format!("<message{xmlns} type='chat' id='m1'><body>hello</body></message>"));
            assert_eq!(facts.body.as_deref(), Some("hello"), "{xmlns}");
            assert_eq!(facts.message_type, "chat");
            assert_eq!(facts.id.as_deref(), Some("m1"));
        }
    }

    #[test]
    fn text_keeps_emoji_bidi_marks_and_resolved_entities() {
        let facts = parse("<message><body>a &amp;lt; &#x1F600; \u{202e}שלום\u{202c} ]]&gt;</body></message>");
        assert_eq!(facts.body.as_deref(), Some("a &lt; \u{1F600} \u{202e}שלום\u{202c} ]]>"));
    }

    #[test]
    fn a_body_in_another_namespace_is_not_the_messages() {
        let facts =
            parse("<message><x xmlns='other'><body>no</body></x><body xmlns='other'>no</body></message>");
        assert_eq!(facts.body, None);
        assert_eq!(facts.message_type, "normal");
    }

    #[test]
    fn origin_id_thread_subject_html_and_label_are_found() {
        let facts = parse(
            "<message type='groupchat'><subject>s</subject><thread>t</thread><origin-id xmlns='urn:xmpp:sid:0' id='o'/>\
             <html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'><b>x</b></body></html>\
             <securitylabel xmlns='urn:xmpp:sec-label:0'><displaymarking>SECRET</displaymarking><label/></securitylabel></message>",
        );
        assert_eq!(facts.subject.as_deref(), Some("s"));
        assert_eq!(facts.thread.as_deref(), Some("t"));
        assert_eq!(facts.origin_id.as_deref(), Some("o"));
        assert!(facts.html.expect("html").contains("<b>x</b>"));
        assert_eq!(facts.label.as_deref(), Some("SECRET"));
    }

    #[test]
    fn what_is_not_a_message_says_so() {
        assert_eq!(MessageFacts::parse("<iq/>"), Err(StanzaError::NotAMessage("iq".into())));
        for garbage in [
            "",
            "<message>",
            "<message><body></message>",
            "<message>&nope;</message>",
            "<message>&#0;</message>",
        ] {
            assert!(matches!(MessageFacts::parse(garbage), Err(StanzaError::Malformed(_))), "{garbage:?}");
        }
    }
}
