//! The XML stream as it is read: header, stanzas, end. What one stanza may have is bounded; nothing is kept of what came before.

use minidom::Element;
use minidom::rxml::error::EndOrError;
use minidom::rxml::{AttrMap, Event, Namespace, Options, Parse, Parser, RawEvent, RawParser, WithOptions};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The namespace of streams.
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
/// The two namespaces of XEP-0114.
pub const NAMESPACES: [&str; 2] = ["jabber:component:accept", "jabber:component:connect"];
/// So deep may a stanza be: Cartulary asks about none that is deeper than 256, and wraps it in four elements. A tree is dropped by
/// recursion, so that a bound is needed.
const DEPTH: usize = 320;
/// So much is read at a time.
const CHUNK: usize = 64 * 1024;

/// What comes on a stream.
#[derive(Debug)]
pub enum Part {
    /// `<stream:stream …>`.
    Header {
        /// The attribute `to`: what the peer calls itself here.
        to: String,
        /// The default namespace.
        namespace: String,
    },
    /// A whole element below the stream.
    Stanza(Element),
    /// `</stream:stream>`: the peer sends nothing more.
    End,
    /// The connection ended without that.
    Eof,
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// It is no XML.
    #[error("what came is not well-formed XML: {0}")]
    NotWellFormed(String),
    /// It is no stream.
    #[error("what came is no XML stream")]
    NoStream,
    /// A stanza is too large or too deep.
    #[error("a stanza is larger or deeper than is allowed here")]
    TooLarge,
}

impl ReadError {
    /// The stream error that tells the peer (RFC 6120, 4.9.3).
    pub fn condition(&self) -> Option<&'static str> {
        match self {
            Self::Io(_) => None,
            Self::NotWellFormed(_) => Some("not-well-formed"),
            Self::NoStream => Some("invalid-namespace"),
            Self::TooLarge => Some("policy-violation"),
        }
    }
}

/// Reads one stream.
pub struct Reader<R> {
    io: R,
    buffer: Vec<u8>,
    at: usize,
    parser: Parser,
    /// Open elements of the stanza that is being read; the stream itself is not among them.
    open: Vec<Element>,
    in_stream: bool,
    /// Reads the header a second time, for the default namespace: the other parser resolves it, and the header itself does not use it.
    header: RawParser,
    namespace: String,
    /// Bytes of the stanza so far, and how many it may have.
    used: usize,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Nothing was read yet; a stanza may have `limit` bytes, and no part of it is refused before.
    pub fn new(io: R, limit: usize) -> Self {
        let options = Options { max_token_length: limit, ..Options::default() };
        Self {
            io,
            buffer: Vec::new(),
            at: 0,
            parser: Parser::with_options(options),
            open: Vec::new(),
            in_stream: false,
            header: RawParser::new(),
            namespace: String::new(),
            used: 0,
            limit,
        }
    }

    /// The next part. A future that is dropped loses nothing.
    pub async fn next(&mut self) -> Result<Part, ReadError> {
        loop {
            if let Some(part) = self.parse()? {
                return Ok(part);
            }
            if self.used > self.limit {
                return Err(ReadError::TooLarge);
            }
            self.buffer.clear();
            self.at = 0;
            self.buffer.reserve(CHUNK);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return Ok(Part::Eof);
            }
        }
    }

    /// Reads on until the stream's or the connection's end, whatever comes before it.
    pub async fn until_end(&mut self) {
        while let Ok(Part::Stanza(_) | Part::Header { .. }) = self.next().await {}
    }

    /// Reads on until the connection's end.
    pub async fn drain(&mut self) {
        let mut scrap = [0; 4096];
        while let Ok(1..) = self.io.read(&mut scrap).await {}
    }

    /// What the buffer still yields; `None` when more is needed.
    fn parse(&mut self) -> Result<Option<Part>, ReadError> {
        loop {
            let mut rest = &self.buffer[self.at..];
            let before = rest.len();
            let event = self.parser.parse(&mut rest, false);
            let read = before - rest.len();
            if !self.in_stream {
                self.look_at_header(self.at, read);
            }
            (self.at, self.used) = (self.at + read, self.used + read);
            match event {
                Err(EndOrError::NeedMoreData) => return Ok(None),
                Err(EndOrError::Error(error)) => return Err(ReadError::NotWellFormed(error.to_string())),
                Ok(None) => return Ok(Some(Part::Eof)),
                Ok(Some(event)) => {
                    if let Some(part) = self.take(event)? {
                        return Ok(Some(part));
                    }
                }
            }
        }
    }

    fn look_at_header(&mut self, from: usize, length: usize) {
        let mut bytes = &self.buffer[from..from + length];
        // The other parser says what is wrong with them.
        while let Ok(Some(event)) = self.header.parse(&mut bytes, false) {
            if let RawEvent::Attribute(_, (None, name), value) = event
                && name == "xmlns"
            {
                self.namespace = value;
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<Option<Part>, ReadError> {
        if self.used > self.limit {
            return Err(ReadError::TooLarge);
        }
        match event {
            Event::StartElement(_, (namespace, name), attributes) if !self.in_stream => {
                if namespace != STREAMS || name != "stream" {
                    return Err(ReadError::NoStream);
                }
                self.in_stream = true;
                self.used = 0;
                let to = attributes.get(&Namespace::NONE, "to").cloned().unwrap_or_default();
                let namespace = std::mem::take(&mut self.namespace);
                return Ok(Some(Part::Header { to, namespace }));
            }
            Event::StartElement(_, (namespace, name), attributes) => {
                if self.open.len() == DEPTH {
                    return Err(ReadError::TooLarge);
                }
                self.open.push(element(&namespace, name.as_str(), attributes));
            }
            Event::EndElement(_) => {
                let Some(done) = self.open.pop() else { return Ok(Some(Part::End)) };
                if let Some(parent) = self.open.last_mut() {
                    parent.append_child(done);
                } else {
                    self.used = 0;
                    return Ok(Some(Part::Stanza(done)));
                }
            }
            Event::Text(_, text) => match self.open.last_mut() {
                Some(element) => element.append_text(text),
                // White space between stanzas keeps connections open, and counts for none of them.
                None => self.used = 0,
            },
            Event::XmlDeclaration(..) => {}
        }
        Ok(None)
    }
}

fn element(namespace: &str, name: &str, attributes: AttrMap) -> Element {
    let mut element = Element::bare(name, namespace);
    *element.attrs_mut() = attributes;
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parts(text: &str, limit: usize) -> Vec<Result<Part, ReadError>> {
        let mut reader = Reader::new(text.as_bytes(), limit);
        let mut parts = Vec::new();
        loop {
            let part = reader.next().await;
            let last = matches!(part, Err(_) | Ok(Part::Eof | Part::End));
            parts.push(part);
            if last {
                return parts;
            }
        }
    }

    const HEADER: &str = "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='op-a.b'>";

    #[tokio::test]
    async fn a_stream_is_header_stanzas_and_end() {
        let parts = parts(
            &format!(
                "<?xml version='1.0'?>{HEADER}<iq id='1'><a xmlns='u'>x&lt;<b/></a></iq> </stream:stream>"
            ),
            1000,
        )
        .await;
        let [Ok(Part::Header { to, namespace }), Ok(Part::Stanza(iq)), Ok(Part::End)] = parts.as_slice()
        else {
            panic!("{parts:?}");
        };
        assert_eq!((to.as_str(), namespace.as_str()), ("op-a.b", NAMESPACES[0]));
        assert!(iq.is("iq", NAMESPACES[0]) && iq.get_child("a", "u").expect("it").text() == "x<");
    }

    #[tokio::test]
    async fn no_stanza_is_larger_or_deeper_than_allowed() {
        let long = format!("{HEADER}<iq id='{}'/>", "x".repeat(300));
        assert!(matches!(
            parts(&long, 200).await.last(),
            Some(Err(ReadError::TooLarge | ReadError::NotWellFormed(_)))
        ));
        let many = format!("{HEADER}{}", "<iq><a/></iq>".repeat(100));
        assert_eq!(parts(&many, 200).await.len(), 102, "a limit is for one stanza");
        let deep = format!("{HEADER}{}", "<a>".repeat(DEPTH + 1));
        assert!(matches!(parts(&deep, 1 << 20).await.last(), Some(Err(ReadError::TooLarge))));
    }

    #[tokio::test]
    async fn garbage_is_named() {
        let http = parts("GET / HTTP/1.1\r\n\r\n<a", 200).await;
        assert!(matches!(http[0], Err(ReadError::NotWellFormed(_))), "{http:?}");
        assert!(matches!(parts("<html/>", 200).await[0], Err(ReadError::NoStream)));
        assert!(matches!(parts(&format!("{HEADER}<a></b>"), 200).await[1], Err(ReadError::NotWellFormed(_))));
    }
}
