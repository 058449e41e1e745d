//! Answers, checked against what was asked.
//!
//! Strict where a slip would let something through: what is in a `<pass/>` and not understood could be a change that was meant to be made,
//! so it makes the answer malformed instead of being passed over. No reason quotes what was answered.

use super::{Answer, AnswerError, Except, ExceptAction, FORWARD, MAX_DEPTH, NAMESPACE, Question};
use crate::config::StreamNamespace;
use crate::decision::bare_of;
use crate::events::{self, Answers, Packet};
use crate::link::Bounce;
use crate::xml::{self, CLIENT};
use minidom::{Element, Node};
use std::collections::BTreeSet;

const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
const DELAY: &str = "urn:xmpp:delay";
/// RFC 6120, 8.3.2.
const TYPES: [&str; 5] = ["auth", "cancel", "continue", "modify", "wait"];
/// RFC 6120, 8.3.3.
const CONDITIONS: [&str; 22] = [
    "bad-request",
    "conflict",
    "feature-not-implemented",
    "forbidden",
    "gone",
    "internal-server-error",
    "item-not-found",
    "jid-malformed",
    "not-acceptable",
    "not-allowed",
    "not-authorized",
    "policy-violation",
    "recipient-unavailable",
    "redirect",
    "registration-required",
    "remote-server-not-found",
    "remote-server-timeout",
    "resource-constraint",
    "service-unavailable",
    "subscription-required",
    "undefined-condition",
    "unexpected-request",
];

const fn malformed<T>(why: &'static str) -> Result<T, AnswerError> {
    Err(AnswerError::Malformed(why))
}

impl Answer {
    /// Reads an iq of type result or error that answers `question`. Its `id`, `from` and `to` are compared by whoever has the connection,
    /// which also has to refuse what is nested too deeply before it makes a tree of it.
    pub fn read(iq: &Element, question: &Question) -> Result<Self, AnswerError> {
        if iq.name() != "iq" || !is_of_stream(&iq.ns()) {
            return malformed("it is no iq");
        }
        if xml::depth(iq) > MAX_DEPTH {
            return malformed("it is nested too deeply");
        }
        let answer = match iq.attr("type") {
            Some("error") => Self::Error(bounce(only(iq, "error", is_of_error)?)?),
            Some("result") => match only_child(iq)? {
                child if child.is("pass", NAMESPACE) => return pass(child, question),
                child if child.is("handle", NAMESPACE) => Self::Handle,
                _ => return malformed("the result holds neither pass nor handle"),
            },
            _ => return malformed("it is of no type that answers"),
        };
        if question.event.answers == Answers::Any { Ok(answer) } else { Err(AnswerError::NotAdmitted) }
    }
}

fn is_of_stream(namespace: &str) -> bool {
    [StreamNamespace::Accept, StreamNamespace::Connect].iter().any(|stream| stream.uri() == namespace)
}

/// An error is of the stream's namespace beside the iq's other children; in an exception it may have its parent's.
fn is_of_error(namespace: &str) -> bool {
    is_of_stream(namespace) || namespace == CLIENT || namespace == NAMESPACE
}

/// The only child with this name; others may stand beside it, as RFC 6120, 8.3.1, lets the question do.
fn only<'a>(
    parent: &'a Element,
    name: &str,
    namespace: impl Fn(&str) -> bool,
) -> Result<&'a Element, AnswerError> {
    let mut found = parent.children().filter(|child| child.name() == name && namespace(&child.ns()));
    match (found.next(), found.next()) {
        (Some(child), None) => Ok(child),
        (None, _) => malformed("an error lacks its error element"),
        (Some(_), Some(_)) => malformed("an error has more than one error element"),
    }
}

/// The only child of an element that holds nothing else.
fn only_child(parent: &Element) -> Result<&Element, AnswerError> {
    no_text(parent)?;
    let mut children = parent.children();
    match (children.next(), children.next()) {
        (Some(child), None) => Ok(child),
        (None, _) => malformed("an element that must hold something is empty"),
        (Some(_), Some(_)) => malformed("an element that must hold one thing holds several"),
    }
}

fn no_text(element: &Element) -> Result<(), AnswerError> {
    let is_blank = |node: &Node| node.as_text().is_none_or(|text| text.trim().is_empty());
    if element.nodes().all(is_blank) { Ok(()) } else { malformed("text where elements belong") }
}

fn bounce(error: &Element) -> Result<Bounce, AnswerError> {
    let error_type = error.attr("type").filter(|word| TYPES.contains(word));
    let error_type = error_type.ok_or(AnswerError::Malformed("an error is of no defined type"))?;
    let defined = |child: &&Element| child.ns() == STANZAS && child.name() != "text";
    let mut conditions = error.children().filter(defined);
    let condition = match (conditions.next(), conditions.next()) {
        (Some(condition), None) if CONDITIONS.contains(&condition.name()) => condition.name(),
        (Some(_), None) => return malformed("an error's condition is not a defined one"),
        _ => return malformed("an error has not one condition"),
    };
    let text = error.get_child("text", STANZAS).map(Element::text);
    Ok(Bounce { error_type: error_type.to_owned(), condition: condition.to_owned(), text })
}

fn pass(pass: &Element, question: &Question) -> Result<Answer, AnswerError> {
    no_text(pass)?;
    let (mut changed, mut excepted) = (None, Vec::new());
    for child in pass.children() {
        if child.is("forwarded", FORWARD) && changed.is_none() {
            changed = Some(child);
        } else if child.is("except", NAMESPACE) {
            excepted.push(child);
        } else {
            return malformed("a pass holds something else than one forwarded stanza and exceptions");
        }
    }
    // What comes back as it was asked is no change: some events want it so (PR-9).
    let changed = changed.map(forwarded).transpose()?.filter(|stanza| !is_the_same(stanza, question));
    let is_plain = changed.is_none() && excepted.is_empty();
    match question.event.answers {
        Answers::Any => {}
        Answers::Pass if is_plain => {}
        Answers::Pass | Answers::Nothing => return Err(AnswerError::NotAdmitted),
    }
    if let Some(presence) = changed.filter(|_| question.event.name == events::E_PRISESSION.name) {
        return if excepted.is_empty() { primary(presence, question) } else { malformed(NO_EXCEPTIONS) };
    }
    let stanza = changed.map(|stanza| replacement(stanza, question)).transpose()?;
    Ok(Answer::Pass { stanza, exceptions: exceptions(&excepted, question)? })
}

/// The stanza in a `<forwarded/>`, which may say beside it when it was sent (XEP-0297).
fn forwarded(forwarded: &Element) -> Result<&Element, AnswerError> {
    no_text(forwarded)?;
    let mut stanzas = forwarded.children().filter(|child| !child.is("delay", DELAY));
    match (stanzas.next(), stanzas.next()) {
        (Some(stanza), None) if stanza.ns() == CLIENT => Ok(stanza),
        (Some(_), None) => malformed("a forwarded stanza is not in the namespace jabber:client"),
        _ => malformed("a forwarded element holds not one stanza"),
    }
}

fn is_the_same(stanza: &Element, question: &Question) -> bool {
    question.stanza.element().is_ok_and(|original| original == *stanza)
}

/// A changed stanza with what identifies the original (its addresses, type and id), as text.
fn replacement(stanza: &Element, question: &Question) -> Result<String, AnswerError> {
    let Ok(original) = question.stanza.element() else { return malformed("the stanza asked about is none") };
    if stanza.name() != original.name() {
        return malformed("a changed stanza is of another name");
    }
    let mut stanza = stanza.clone();
    for name in ["from", "to", "type", "id"] {
        match (stanza.attr(name), original.attr(name)) {
            (None, Some(value)) => xml::set(&mut stanza, name, value),
            (own, value) if own == value => {}
            _ => return malformed("a changed stanza has another address, type or id"),
        }
    }
    if let (None, Some(lang)) = (xml::lang(&stanza), xml::lang(&original)) {
        xml::set_lang(&mut stanza, lang);
    }
    written(stanza)
}

fn written(mut stanza: Element) -> Result<String, AnswerError> {
    xml::without_prefixes(&mut stanza);
    let text = xml::write(&stanza).ok_or(AnswerError::Malformed("a changed stanza cannot be written"))?;
    // What a tree may hold and text may not (reserved namespaces): whoever gets it has to be able to read it.
    match xml::tree(&text, MAX_DEPTH) {
        Ok(_) => Ok(text),
        Err(_) => Err(AnswerError::Malformed("a changed stanza cannot be written")),
    }
}

/// The session that is to get what is sent to the account (PR-10).
fn primary(presence: &Element, question: &Question) -> Result<Answer, AnswerError> {
    let account = question.recipients.first().map_or(bare_of(&question.from), |own| own.bare.as_str());
    match presence.attr("from") {
        Some(jid) if presence.name() == "presence" && is_session_of(jid, account) => {
            Ok(Answer::Pass { stanza: Some(written(presence.clone())?), exceptions: Vec::new() })
        }
        _ => malformed("a primary session is named by a presence from a full address of the same account"),
    }
}

fn is_session_of(jid: &str, account: &str) -> bool {
    jid.split_once('/').is_some_and(|(bare, resource)| bare == account && !resource.is_empty())
}

const NO_EXCEPTIONS: &str = "exceptions where there are none to be made";

fn exceptions(excepted: &[&Element], question: &Question) -> Result<Vec<Except>, AnswerError> {
    if excepted.is_empty() {
        return Ok(Vec::new());
    }
    if question.packet != Packet::Message {
        return malformed(NO_EXCEPTIONS);
    }
    let full = question.recipients.iter().flat_map(|recipient| {
        recipient.resources.iter().map(|resource| format!("{}/{resource}", recipient.bare))
    });
    let named: BTreeSet<String> =
        question.recipients.iter().map(|recipient| recipient.bare.clone()).chain(full).collect();
    let mut seen = BTreeSet::new();
    let one = |except: &&Element| {
        let recipient = except.attr("recipient").filter(|jid| named.contains(*jid));
        let recipient = recipient.ok_or(AnswerError::Malformed("an exception for somebody not named"))?;
        if !seen.insert(recipient.to_owned()) {
            return malformed("two exceptions for one recipient");
        }
        let action = match only_child(except)? {
            child if child.is("withhold", NAMESPACE) => ExceptAction::Withhold,
            child if child.is("forwarded", FORWARD) => {
                ExceptAction::Replace(replacement(forwarded(child)?, question)?)
            }
            child if child.name() == "error" && is_of_error(&child.ns()) => {
                ExceptAction::Refuse(bounce(child)?)
            }
            _ => return malformed("an exception says nothing that can be done"),
        };
        Ok(Except { recipient: recipient.to_owned(), action })
    };
    excepted.iter().map(one).collect()
}
