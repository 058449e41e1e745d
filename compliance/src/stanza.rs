//! What a message stanza says, as far as recording it needs to know.
//!
//! The original bytes are always kept beside these facts; they serve search and routing, never as evidence.
//!
//! The stanza is read as a stream of XML events and no tree is built: whatever a sender nests, time is linear in the stanza's
//! length, and no recursion can exhaust the stack.

use crate::xml::{CLIENT, Deeper, Item, SERVER, Start, Walk, XmlError};

const STANZA_IDS: &str = "urn:xmpp:sid:0";
const XHTML_IM: &str = "http://jabber.org/protocol/xhtml-im";
const SECURITY_LABEL: &str = "urn:xmpp:sec-label:0";
/// Depth down to which namespaces are looked at: message, its children, and their children.
const DEPTH: usize = 3;

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
    /// The `<html/>` element (XEP-0071), cut out of the stanza as it stands there.
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
        let mut walk = Walk::new(stanza, DEPTH, Deeper::Skip);
        let mut reader = Reader { stanza, open: Vec::new(), facts: Self::default() };
        while let Some(item) = walk.next()? {
            match item {
                Item::Enter(start) => reader.enter(start)?,
                Item::Text(text) => reader.text(&text),
                Item::Leave => reader.leave(walk.at()),
            }
        }
        Ok(reader.facts)
    }
}

impl From<XmlError> for StanzaError {
    fn from(error: XmlError) -> Self {
        match error {
            XmlError::Malformed(why) => Self::Malformed(why),
            // Nothing is too deep for this reader, which passes over what it does not look at.
            XmlError::TooDeep => Self::Malformed("it is nested too deeply".into()),
        }
    }
}

/// An open element at one of the first [`DEPTH`] levels.
struct Open {
    start: Start,
    /// Its own text, where that is wanted.
    text: Option<String>,
}

struct Reader<'a> {
    stanza: &'a str,
    open: Vec<Open>,
    facts: MessageFacts,
}

impl Reader<'_> {
    fn enter(&mut self, start: Start) -> Result<(), StanzaError> {
        match self.open.as_slice() {
            [] => {
                if !start.is("message", CLIENT) && !start.is("message", SERVER) {
                    return Err(StanzaError::NotAMessage(start.name));
                }
                self.facts.message_type = start.attribute("type").unwrap_or("normal").to_owned();
                self.facts.id = start.attribute("id").map(str::to_owned);
            }
            [_] if start.is("origin-id", STANZA_IDS) && self.facts.origin_id.is_none() => {
                self.facts.origin_id = start.attribute("id").map(str::to_owned);
            }
            _ => {}
        }
        let text = self.is_text_wanted(&start).then(String::new);
        self.open.push(Open { start, text });
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if let Some(Open { text: Some(own), .. }) = self.open.last_mut() {
            own.push_str(text);
        }
    }

    fn is_text_wanted(&self, start: &Start) -> bool {
        match self.open.as_slice() {
            [message] => {
                start.namespace == message.start.namespace
                    && self.slot(&start.name).is_some_and(Option::is_none)
            }
            [_, parent] => {
                start.is("displaymarking", SECURITY_LABEL)
                    && parent.start.is("securitylabel", SECURITY_LABEL)
                    && self.facts.label.is_none()
            }
            _ => false,
        }
    }

    fn slot(&self, name: &str) -> Option<&Option<String>> {
        match name {
            "thread" => Some(&self.facts.thread),
            "subject" => Some(&self.facts.subject),
            "body" => Some(&self.facts.body),
            _ => None,
        }
    }

    fn leave(&mut self, at: usize) {
        let Some(Open { start, text }) = self.open.pop() else { return };
        if let Some(text) = text {
            match start.name.as_str() {
                "thread" => self.facts.thread = Some(text),
                "subject" => self.facts.subject = Some(text),
                "body" => self.facts.body = Some(text),
                _ => self.facts.label = Some(text),
            }
        } else if self.open.len() == 1 && start.is("html", XHTML_IM) && self.facts.html.is_none() {
            self.facts.html = self.stanza.get(start.start..at).map(str::to_owned);
        }
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
    fn html_is_cut_out_whole_whatever_stands_around_it() {
        let html =
            "<x:html xmlns:x='http://jabber.org/protocol/xhtml-im'><x:body>a &amp; é<br/></x:body></x:html>";
        for after in ["", "<body>later</body>", "\n text "] {
            let facts = parse(&format!("<message><body>\u{1F600}&lt;</body> {html}{after}</message>"));
            assert_eq!(facts.html.as_deref(), Some(html));
        }
        let empty = "<html xmlns='http://jabber.org/protocol/xhtml-im' />";
        assert_eq!(parse(&format!("<message>{empty}<body/></message>")).html.as_deref(), Some(empty));
    }

    #[test]
    fn only_an_elements_own_first_text_counts() {
        let facts =
            parse("<message><body>a<x>no</x>b</body><body>second</body><n><body>no</body></n></message>");
        assert_eq!(facts.body.as_deref(), Some("ab"));
        assert_eq!(parse("<message><body/></message>").body.as_deref(), Some(""));
    }

    #[test]
    fn nesting_without_end_costs_neither_stack_nor_square_time() {
        let deep = 100_000;
        let stanza =
            format!("<message>{}{}<body>b</body></message>", "<a>".repeat(deep), "</a>".repeat(deep));
        assert_eq!(parse(&stanza).body.as_deref(), Some("b"));
    }

    #[test]
    fn a_body_at_the_size_limit_is_read_whole() {
        let text = "\u{1F600}".repeat(1 << 18);
        assert_eq!(parse(&format!("<message><body>{text}</body></message>")).body, Some(text));
    }

    #[test]
    fn no_attribute_or_name_is_too_long_to_find_the_body_beside_it() {
        let long = "x".repeat(200_000);
        for beside in [
            format!("<a b='{long}'/>"),
            format!("<{long}/>"),
            format!("<a {long}='b'/>"),
            format!("<a xmlns='{long}'/>"),
        ] {
            for stanza in [
                format!("<message>{beside}<body>b &amp; c</body></message>"),
                format!("<message id='{long}'><body>b &amp; c</body>{beside}</message>"),
            ] {
                assert_eq!(parse(&stanza).body.as_deref(), Some("b & c"));
            }
        }
    }

    #[test]
    fn every_character_that_xml_allows_is_read_as_text_and_in_attributes() {
        let allowed = |c: &char| !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
        let all: String = ('\0'..=char::MAX).filter(allowed).filter(|c| !"<&>'\r".contains(*c)).collect();
        let facts = parse(&format!("<message id='{all}'><body>{all}</body></message>"));
        assert_eq!(facts.body.as_ref(), Some(&all));
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
            "<message><x:y/></message>",
            "<message/><message/>",
            "<message><!-- c --></message>",
            "<!DOCTYPE m [<!ENTITY e 'x'>]><message>&e;</message>",
        ] {
            assert!(matches!(MessageFacts::parse(garbage), Err(StanzaError::Malformed(_))), "{garbage:?}");
        }
    }
}
