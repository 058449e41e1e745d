//! Stanzas as XML: read as a stream, made into a tree where one is needed, and written.
//!
//! Invariants: [`Walk`] builds no tree and does not recurse, so that time and memory are linear in the stanza's length whatever a sender
//! nests or declares. A tree is never deeper than was allowed, for dropping one recurses. A tree made here can always be written: it
//! declares no prefixes (the writer panics where two declarations collide) and holds no character that XML has no place for.

use minidom::Element;
use minidom::rxml::error::EndOrError;
use minidom::rxml::{NcName, Options, Parse, RawEvent, RawParser, WithOptions};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Namespace of stanzas.
pub(crate) const CLIENT: &str = "jabber:client";
/// The same between servers.
pub(crate) const SERVER: &str = "jabber:server";
const XML: &str = "http://www.w3.org/XML/1998/namespace";
const XMLNS: &str = "http://www.w3.org/2000/xmlns/";
/// What the parser needs for references, however short the stanza is.
const MIN_TOKEN: usize = 64;

/// Why it could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum XmlError {
    /// Not well-formed, or of names that cannot be used.
    Malformed(String),
    /// Nested deeper than allowed.
    TooDeep,
}

/// What is done with elements below the depth that is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deeper {
    /// They are passed over.
    Skip,
    /// They end the walk.
    Refuse,
}

/// One step through a stanza, at the depths that are looked at.
#[derive(Debug)]
pub(crate) enum Item {
    /// An element begins.
    Enter(Start),
    /// Text of the innermost open element itself.
    Text(String),
    /// The innermost open element ends.
    Leave,
}

/// A start tag.
#[derive(Debug)]
pub(crate) struct Start {
    /// Its local name.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: Rc<str>,
    /// Where in the text it begins.
    pub(crate) start: usize,
    attributes: Vec<(Option<NcName>, NcName, String)>,
}

impl Start {
    /// Whether it is this element.
    pub(crate) fn is(&self, name: &str, namespace: &str) -> bool {
        self.name == name && &*self.namespace == namespace
    }

    /// The value of an attribute without prefix.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        let found =
            self.attributes.iter().rev().find(|(prefix, own, _)| prefix.is_none() && own.as_str() == name);
        found.map(|(_, _, value)| value.as_str())
    }
}

/// A walk through a stanza.
pub(crate) struct Walk<'a> {
    parser: RawParser,
    rest: &'a [u8],
    at: usize,
    limit: usize,
    deeper: Deeper,
    depth: usize,
    head: Option<Head>,
    /// For each prefix what it stands for, innermost last.
    scopes: BTreeMap<Option<String>, Vec<Rc<str>>>,
    /// What each open element declares.
    open: Vec<Vec<Option<String>>>,
}

/// A start tag that is being read.
struct Head {
    prefix: Option<NcName>,
    name: String,
    start: usize,
    declared: Vec<(Option<String>, String)>,
    attributes: Vec<(Option<NcName>, NcName, String)>,
}

impl<'a> Walk<'a> {
    /// Through `text`, down to `limit` levels, of which the root is the first. Without a declaration the namespace is `jabber:client`.
    pub(crate) fn new(text: &'a str, limit: usize, deeper: Deeper) -> Self {
        // The parser's own limit for names and attributes is smaller than what servers pass on, and a stanza that is not read is
        // not found by its text. No part is longer than the whole.
        let options = Options { max_token_length: text.len().max(MIN_TOKEN), ..Options::default() };
        Self {
            parser: RawParser::with_options(options),
            rest: text.as_bytes(),
            at: 0,
            limit,
            deeper,
            depth: 0,
            head: None,
            scopes: [(None, vec![Rc::from(CLIENT)]), (Some("xml".into()), vec![Rc::from(XML)])].into(),
            open: Vec::new(),
        }
    }

    /// How many bytes were read.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next step; `None` at the end of a well-formed stanza.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, XmlError> {
        loop {
            let event = match self.parser.parse(&mut self.rest, true) {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(None),
                Err(EndOrError::NeedMoreData) => {
                    return Err(XmlError::Malformed("it ends too early".into()));
                }
                Err(EndOrError::Error(error)) => return Err(XmlError::Malformed(error.to_string())),
            };
            if let Some(item) = self.take(event)? {
                return Ok(Some(item));
            }
        }
    }

    fn take(&mut self, event: RawEvent) -> Result<Option<Item>, XmlError> {
        let start = self.at;
        self.at += event.metrics().len();
        Ok(match event {
            RawEvent::XmlDeclaration(..) => None,
            RawEvent::ElementHeadOpen(_, (prefix, name)) => {
                self.depth += 1;
                if self.depth <= self.limit {
                    let (declared, attributes) = (Vec::new(), Vec::new());
                    let name = name.as_str().to_owned();
                    self.head = Some(Head { prefix, name, start, declared, attributes });
                } else if self.deeper == Deeper::Refuse {
                    return Err(XmlError::TooDeep);
                }
                None
            }
            RawEvent::Attribute(_, (prefix, name), value) => {
                if let Some(head) = &mut self.head {
                    match (prefix.as_ref().map(|prefix| prefix.as_str()), name.as_str()) {
                        (None, "xmlns") => head.declared.push((None, value)),
                        (Some("xmlns"), own) => head.declared.push((Some(own.to_owned()), value)),
                        _ => head.attributes.push((prefix, name, value)),
                    }
                }
                None
            }
            RawEvent::ElementHeadClose(_) => match self.head.take() {
                Some(head) => Some(Item::Enter(self.enter(head)?)),
                None => None,
            },
            RawEvent::Text(_, text) => (self.depth == self.open.len()).then_some(Item::Text(text)),
            RawEvent::ElementFoot(_) => {
                let is_seen = self.depth == self.open.len();
                self.depth = self.depth.saturating_sub(1);
                is_seen.then(|| {
                    self.leave();
                    Item::Leave
                })
            }
        })
    }

    fn enter(&mut self, head: Head) -> Result<Start, XmlError> {
        let mut own = Vec::with_capacity(head.declared.len());
        for (prefix, namespace) in head.declared {
            self.scopes.entry(prefix.clone()).or_default().push(Rc::from(namespace));
            own.push(prefix);
        }
        self.open.push(own);
        let namespace = self.namespace(head.prefix.as_ref())?;
        Ok(Start { name: head.name, namespace, start: head.start, attributes: head.attributes })
    }

    fn leave(&mut self) {
        for prefix in self.open.pop().unwrap_or_default() {
            if let Some(scopes) = self.scopes.get_mut(&prefix) {
                scopes.pop();
            }
        }
    }

    fn namespace(&self, prefix: Option<&NcName>) -> Result<Rc<str>, XmlError> {
        let scopes = self.scopes.get(&prefix.map(|prefix| prefix.as_str().to_owned()));
        let undeclared = || XmlError::Malformed("a prefix is not declared".into());
        scopes.and_then(|scopes| scopes.last()).cloned().ok_or_else(undeclared)
    }
}

/// The tree of a stanza, in the namespace `jabber:client` whichever of the stream namespaces it came in.
pub(crate) fn tree(text: &str, max_depth: usize) -> Result<Element, XmlError> {
    let mut walk = Walk::new(text, max_depth, Deeper::Refuse);
    let (mut open, mut root): (Vec<Element>, _) = (Vec::new(), None);
    // A tree repeats namespaces that the text declares once: a long one, used often, must not grow without bounds.
    let mut budget = text.len().saturating_mul(16).saturating_add(4096);
    while let Some(item) = walk.next()? {
        match item {
            Item::Enter(start) => open.push(element(&walk, start, &mut budget)?),
            Item::Text(text) => {
                if let Some(element) = open.last_mut() {
                    element.append_text(text);
                }
            }
            Item::Leave => match (open.pop(), open.last_mut()) {
                (Some(element), Some(parent)) => _ = parent.append_child(element),
                (element, _) => root = element,
            },
        }
    }
    root.ok_or_else(|| XmlError::Malformed("it is empty".into()))
}

fn element(walk: &Walk<'_>, start: Start, budget: &mut usize) -> Result<Element, XmlError> {
    let mut usable = |namespace: Rc<str>| {
        *budget = budget
            .checked_sub(namespace.len())
            .ok_or_else(|| XmlError::Malformed("its namespaces are too long".into()))?;
        match &*namespace {
            XMLNS => Err(XmlError::Malformed("it uses a reserved namespace".into())),
            SERVER => Ok(CLIENT.to_owned()),
            other => Ok(other.to_owned()),
        }
    };
    // No element is defined in it, and readers do not agree on what they make of one.
    if &*start.namespace == XML {
        return Err(XmlError::Malformed("it uses a reserved namespace".into()));
    }
    let mut element = Element::bare(start.name, usable(start.namespace)?);
    for (prefix, name, value) in start.attributes {
        let namespace = match &prefix {
            Some(_) => usable(walk.namespace(prefix.as_ref())?)?,
            None => String::new(),
        };
        element.set_attr(namespace.into(), name, value);
    }
    Ok(element)
}

/// Sets an attribute of ours. `name` is a name without colon, and `value` is cleaned.
pub(crate) fn set(element: &mut Element, name: &'static str, value: &str) {
    let name = NcName::try_from(name).expect("a name of this crate");
    element.set_attr(minidom::rxml::Namespace::NONE, name, &*clean(value));
}

/// The attribute `xml:lang`.
pub(crate) fn lang(element: &Element) -> Option<&str> {
    element.attr_ns(XML, "lang")
}

/// Sets it.
pub(crate) fn set_lang(element: &mut Element, value: &str) {
    let name = NcName::try_from("lang").expect("a name");
    element.set_attr(minidom::rxml::Namespace::XML, name, &*clean(value));
}

/// How deep a tree is; it has to be of a depth at which it can be dropped at all.
pub(crate) fn depth(element: &Element) -> usize {
    let mut deepest = 0;
    let mut todo = vec![(element, 1)];
    while let Some((element, depth)) = todo.pop() {
        deepest = deepest.max(depth);
        todo.extend(element.children().map(|child| (child, depth + 1)));
    }
    deepest
}

/// Takes all declarations of prefixes away, whose collisions the writer cannot bear; the names keep their namespaces.
pub(crate) fn without_prefixes(element: &mut Element) {
    let mut todo = vec![element];
    while let Some(element) = todo.pop() {
        element.prefixes = Default::default();
        todo.extend(element.children_mut());
    }
}

/// The text of an element whose prefixes were taken away; `None` where it holds what XML has no place for.
pub(crate) fn write(element: &Element) -> Option<String> {
    let mut bytes = Vec::new();
    element.write_to(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

/// `text` with each character that XML has no place for replaced (U+FFFD).
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(is_unfit) { Cow::Owned(text.replace(is_unfit, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// The same, escaped for text and for attributes in single quotes.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&#34;"),
            '\t' => escaped.push_str("&#9;"),
            '\n' => escaped.push_str("&#10;"),
            '\r' => escaped.push_str("&#13;"),
            c if is_unfit(c) => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn is_unfit(c: char) -> bool {
    matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}
