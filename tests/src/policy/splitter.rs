//! Cuts what a sidecar sends into the stream's header, its stanzas and its end.
//!
//! By hand, so that nothing of the product judges what the product wrote. It knows elements and quotes, which is all that XMPP admits:
//! no comments, no character data that begins with a bracket (RFC 6120, 11.1).

use anyhow::{Context, Result};
use minidom::Element;

/// What comes on a stream.
#[derive(Debug)]
pub enum Piece {
    /// The opening tag, as text.
    Header(String),
    /// A whole stanza.
    Stanza(Box<Element>),
    /// The stream's closing tag.
    End,
}

/// What has come so far.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: Vec<u8>,
    // How far it was read, where the stanza and the tag begin that are not complete yet, and how many elements are open.
    at: usize,
    stanza: usize,
    tag: Option<usize>,
    quote: Option<u8>,
    depth: usize,
    namespace: String,
}

impl Splitter {
    /// Where further bytes go.
    pub fn room(&mut self) -> &mut Vec<u8> {
        self.buffer.reserve(16 << 10);
        &mut self.buffer
    }

    /// The next piece, once it is complete.
    pub fn next(&mut self) -> Result<Option<Piece>> {
        while let Some(&byte) = self.buffer.get(self.at) {
            self.at += 1;
            match (self.tag, self.quote) {
                (None, _) if byte == b'<' => {
                    self.tag = Some(self.at - 1);
                    if self.depth <= 1 {
                        self.stanza = self.at - 1;
                    }
                }
                (Some(_), Some(quote)) if byte == quote => self.quote = None,
                (Some(_), None) if byte == b'"' || byte == b'\'' => self.quote = Some(byte),
                (Some(start), None) if byte == b'>' => {
                    self.tag = None;
                    if let Some(piece) = self.tag_ends(start)? {
                        self.buffer.drain(..self.at);
                        self.at = 0;
                        return Ok(Some(piece));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn tag_ends(&mut self, start: usize) -> Result<Option<Piece>> {
        let tag = std::str::from_utf8(&self.buffer[start..self.at])?;
        if tag.starts_with("<?") {
            return Ok(None);
        }
        if tag.starts_with("</") {
            self.depth = self.depth.checked_sub(1).context("an element ends that never began")?;
        } else if !tag.ends_with("/>") {
            self.depth += 1;
        }
        let (opens, empty) = (!tag.starts_with("</"), tag.ends_with("/>"));
        match self.depth {
            0 => Ok(Some(Piece::End)),
            1 if opens && !empty => {
                self.namespace = attribute(tag, "xmlns").context("a header without namespace")?;
                Ok(Some(Piece::Header(tag.to_owned())))
            }
            1 => {
                let stanza = std::str::from_utf8(&self.buffer[self.stanza..self.at])?;
                element(&self.namespace, stanza).map(Box::new).map(Piece::Stanza).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// An attribute of a tag.
#[must_use]
pub fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}="))?;
    let quote = rest.chars().next()?;
    rest[1..].split_once(quote).map(|(value, _)| value.to_owned())
}

/// A stanza of a stream with this namespace.
pub fn element(namespace: &str, stanza: &str) -> Result<Element> {
    let whole =
        format!("<s xmlns='{namespace}' xmlns:stream='http://etherx.jabber.org/streams'>{stanza}</s>");
    let parsed: Element = whole.parse().with_context(|| format!("this is no stanza: {stanza:.500}"))?;
    parsed.children().next().cloned().context("no element in a stanza")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_same_however_the_bytes_come() {
        let text = "<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' \
            xmlns:stream='http://etherx.jabber.org/streams' to='a>b'>\n<handshake>aa</handshake> <iq id='1'><e a=\"'>\"/><b>x</b></iq>\
            <message/></stream:stream>";
        for size in [1, 7, 1000] {
            let mut splitter = Splitter::default();
            let mut found = Vec::new();
            for bytes in text.as_bytes().chunks(size) {
                splitter.room().extend_from_slice(bytes);
                while let Some(piece) = splitter.next().expect("well-formed") {
                    found.push(match piece {
                        Piece::Header(tag) => attribute(&tag, "to").expect("to"),
                        Piece::Stanza(element) => element.name().to_owned(),
                        Piece::End => "end".to_owned(),
                    });
                }
            }
            assert_eq!(found, ["a>b", "handshake", "iq", "message", "end"], "{size}");
        }
    }
}
