//! A compliance server's stream as it comes in: header, stanzas, end (XEP-0114, RFC 6120 section 4).
//!
//! Invariants: whatever the peer sends, a stanza takes no more than [`MAX_BYTES`], [`MAX_DEPTH`] and [`MAX_PARTS`]; it is over the limit before a
//! tree of that size was made (trees are dropped by recursion: depth is stack). No DTDs, no entities beyond XML's five, no comments.
//!
//! `tokio-xmpp`'s stream layer is not used for it: it refuses a header without `version`, which XEP-0114's has not, unless its feature
//! `component` is on (`docs/decisions/2026-11-23-compliance-links.md`).

use minidom::Element;
use minidom::rxml::error::EndOrError;
use minidom::rxml::{AttrMap, Event, Namespace, Options, Parse, Parser, QName, WithOptions};

/// Bytes of one stanza, as it is written.
pub const MAX_BYTES: usize = 1 << 20;
/// Elements within each other, the stanza included.
pub const MAX_DEPTH: usize = cartulary_compliance::protocol::MAX_DEPTH;
/// Elements and attributes of one stanza: what bounds the memory of its tree, where bytes alone do not.
pub const MAX_PARTS: usize = 1 << 16;
/// Bytes of one name or attribute's value.
const MAX_TOKEN: usize = 1 << 16;

/// The namespace of a stream's own elements.
pub const STREAMS: &str = "http://etherx.jabber.org/streams";

/// What a peer sent.
#[derive(Debug)]
pub enum Item {
    /// The stream begins; its id.
    Header(Option<String>),
    /// A stanza, or another element of the stream.
    Stanza(Element),
    /// The stream ends in order.
    End,
}

/// Why a stream cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A stanza over the limits.
    #[error("a stanza has more than {MAX_BYTES} bytes, {MAX_DEPTH} levels or {MAX_PARTS} parts")]
    TooLarge,
    /// It is no XML of the kind streams have. No word of it is repeated.
    #[error("what came is not an XMPP stream: {0}")]
    NotXml(&'static str),
}

/// Reads a stream, piece by piece.
pub struct StreamReader {
    parser: Parser,
    begun: bool,
    ended: bool,
    /// Nothing is read after what could not be: the rest of a stanza that was refused is none.
    failed: Option<Unreadable>,
    /// The stanza that is being read, outermost first.
    open: Vec<Element>,
    bytes: usize,
    parts: usize,
}

impl StreamReader {
    /// At the start of a stream.
    pub(super) fn new() -> Self {
        let options = Options { max_token_length: MAX_TOKEN, ..Options::default() };
        Self {
            parser: Parser::with_options(options),
            begun: false,
            ended: false,
            failed: None,
            open: Vec::new(),
            bytes: 0,
            parts: 0,
        }
    }

    /// The next item; takes what it needs from the front of `input`. `None`: more is needed.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Item>, Unreadable> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let item = self.read(input);
        self.failed = item.as_ref().err().cloned();
        item
    }

    fn read(&mut self, input: &mut &[u8]) -> Result<Option<Item>, Unreadable> {
        loop {
            if self.ended {
                *input = &[];
                return Ok(None);
            }
            // The parser would take all that comes before a first element for white space, and wait.
            let is_markup = |byte: &u8| *byte == b'<' || byte.is_ascii_whitespace();
            if !self.begun && self.bytes == 0 && input.first().is_some_and(|byte| !is_markup(byte)) {
                return Err(Unreadable::NotXml("it does not begin with an element"));
            }
            let before = input.len();
            let event = self.parser.parse(input, false);
            self.bytes += before - input.len();
            if self.bytes > MAX_BYTES {
                return Err(Unreadable::TooLarge);
            }
            let event = match event {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(None),
                Err(EndOrError::NeedMoreData) => return Ok(None),
                Err(EndOrError::Error(_)) => return Err(Unreadable::NotXml("it is not well-formed")),
            };
            if let Some(item) = self.take(event)? {
                return Ok(Some(item));
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<Option<Item>, Unreadable> {
        match event {
            Event::XmlDeclaration(..) => Ok(None),
            Event::StartElement(_, name, attributes) if !self.begun => {
                self.begin(&name, &attributes).map(Some)
            }
            Event::StartElement(_, (namespace, name), attributes) => {
                self.parts += 1 + attributes.len();
                if self.open.len() == MAX_DEPTH || self.parts > MAX_PARTS {
                    return Err(Unreadable::TooLarge);
                }
                let mut element = Element::bare(name.as_str(), namespace.as_str());
                *element.attrs_mut() = attributes;
                self.open.push(element);
                Ok(None)
            }
            Event::Text(_, text) => {
                match self.open.last_mut() {
                    // It is put to the text before it: without an element between, there is one.
                    Some(element) => element.append_text(text),
                    None if text.trim().is_empty() => self.bytes = 0,
                    None => return Err(Unreadable::NotXml("there is text between stanzas")),
                }
                Ok(None)
            }
            Event::EndElement(_) => Ok(self.close()),
        }
    }

    fn begin(&mut self, (namespace, name): &QName, attributes: &AttrMap) -> Result<Item, Unreadable> {
        if namespace.as_str() != STREAMS || name.as_str() != "stream" {
            return Err(Unreadable::NotXml("its root is not a stream"));
        }
        (self.begun, self.bytes) = (true, 0);
        Ok(Item::Header(attributes.get(&Namespace::NONE, "id").cloned()))
    }

    fn close(&mut self) -> Option<Item> {
        let Some(element) = self.open.pop() else {
            self.ended = true;
            return Some(Item::End);
        };
        if let Some(parent) = self.open.last_mut() {
            parent.append_child(element);
            return None;
        }
        (self.bytes, self.parts) = (0, 0);
        Some(Item::Stanza(element))
    }
}

/// `text` as the value of an attribute.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
                          xmlns:stream='http://etherx.jabber.org/streams' from='op-a.b' id='3BF9'>";

    /// Reads it byte by byte, as a network may cut it.
    fn read(text: &str) -> Result<Vec<Item>, Unreadable> {
        let (mut reader, mut items) = (StreamReader::new(), Vec::new());
        for byte in text.as_bytes() {
            let mut input = std::slice::from_ref(byte);
            while let Some(item) = reader.next(&mut input)? {
                items.push(item);
            }
        }
        Ok(items)
    }

    #[test]
    fn a_stream_is_a_header_stanzas_and_an_end_whatever_the_pieces() {
        let text = format!(
            "{HEADER} <handshake/>\n<iq type='result' id='q&amp;1'><a xmlns='x'>t<b/></a></iq></stream:stream>"
        );
        let items = read(&text).expect("well-formed");
        let [Item::Header(Some(id)), Item::Stanza(handshake), Item::Stanza(iq), Item::End] = items.as_slice()
        else {
            panic!("{items:?}");
        };
        assert_eq!(id, "3BF9");
        assert!(handshake.is("handshake", "jabber:component:accept"));
        assert_eq!(iq.attr("id"), Some("q&1"));
        let child = iq.get_child("a", "x").expect("there");
        assert_eq!((child.text(), child.children().count()), ("t".to_owned(), 1));
    }

    #[test]
    fn a_stanza_over_a_limit_is_refused_before_it_is_whole() {
        let deep = |depth: usize| format!("{HEADER}<iq>{}{}</iq>", "<a>".repeat(depth), "</a>".repeat(depth));
        assert!(read(&deep(MAX_DEPTH - 1)).is_ok());
        assert_eq!(
            read(&format!("{HEADER}{}", "<a>".repeat(MAX_DEPTH + 1))).unwrap_err(),
            Unreadable::TooLarge
        );
        let long = |bytes: usize| format!("{HEADER}<iq>{}", "x".repeat(bytes));
        assert!(read(&long(MAX_BYTES - 100)).is_ok());
        assert_eq!(read(&long(MAX_BYTES)).unwrap_err(), Unreadable::TooLarge);
        assert_eq!(
            read(&format!("{HEADER}<iq>{}", "<a/>".repeat(MAX_PARTS))).unwrap_err(),
            Unreadable::TooLarge
        );
        let attributes: String = (0..MAX_BYTES / 7).map(|n| format!("a{n}='' ")).collect();
        assert_eq!(read(&format!("{HEADER}<iq {attributes}")).unwrap_err(), Unreadable::TooLarge);
    }

    #[test]
    fn limits_are_for_each_stanza_not_for_the_stream() {
        let stanza = format!("<iq>{}</iq> ", "y".repeat(MAX_BYTES / 2));
        assert_eq!(read(&format!("{HEADER}{}", stanza.repeat(4))).expect("well-formed").len(), 5);
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        for text in
            ["HTTP/1.1 400 Bad Request", "<html>", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "\u{16}\u{3}\u{1}"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        for text in ["text", "<a></b>", "<a>&unknown;</a>", "<a b='1' b='2'/>", "<p:a/>"] {
            assert!(read(&format!("{HEADER}{text}<c/>")).is_err(), "{text}");
        }
    }
}
