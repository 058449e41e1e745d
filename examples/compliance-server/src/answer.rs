//! What a policy says about an event, and its XML.

use crate::{FORWARD, NAMESPACE, STANZA_ERRORS};
use minidom::Element;

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// PASS: it goes on.
    Pass {
        /// This stanza in its place: of the same name, with the same addresses, type and id or without them.
        changed: Option<Element>,
        /// For these recipients otherwise: a bare JID of the event's recipients, or a full one of their sessions.
        except: Vec<(String, Instead)>,
    },
    /// HANDLE: it is dealt with and goes no further; its sender is not told.
    Handle,
    /// It is refused, as far as the profile's handling says so.
    Refuse(Refusal),
}

/// What one recipient gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Instead {
    /// Nothing.
    Withhold,
    /// Nothing, and the sender gets this error.
    Refuse(Refusal),
    /// This stanza.
    Replace(Element),
}

/// An error of a stanza (RFC 6120, 8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `cancel`, `auth`, `modify` or `wait`.
    pub kind: String,
    /// The defined condition, such as `policy-violation`.
    pub condition: String,
    /// Text for the sender.
    pub text: Option<String>,
}

impl Answer {
    /// PASS.
    #[must_use]
    pub fn pass() -> Self {
        Self::Pass { changed: None, except: Vec::new() }
    }

    /// PASS with another stanza.
    #[must_use]
    pub fn changed(stanza: Element) -> Self {
        Self::Pass { changed: Some(stanza), except: Vec::new() }
    }

    /// An error of type cancel.
    #[must_use]
    pub fn refuse(condition: &str, text: &str) -> Self {
        Self::Refuse(Refusal::new(condition, text))
    }

    /// The iq's type and payload. An error where a stanza cannot be written as XML.
    pub(crate) fn payload(&self) -> Result<(&'static str, Element), minidom::Error> {
        let payload = match self {
            Self::Refuse(refusal) => return Ok(("error", refusal.element(ERROR_OF_IQ))),
            Self::Handle => Element::bare("handle", NAMESPACE),
            Self::Pass { changed, except } => {
                let mut pass = Element::bare("pass", NAMESPACE);
                if let Some(stanza) = changed {
                    pass.append_child(forwarded(stanza));
                }
                for (recipient, instead) in except {
                    let mut element = Element::bare("except", NAMESPACE);
                    set(&mut element, "recipient", recipient)?;
                    element.append_child(match instead {
                        Instead::Withhold => Element::bare("withhold", NAMESPACE),
                        Instead::Refuse(refusal) => refusal.element(NAMESPACE),
                        Instead::Replace(stanza) => forwarded(stanza),
                    });
                    pass.append_child(element);
                }
                pass
            }
        };
        Ok(("result", payload))
    }
}

impl Refusal {
    /// An error of type cancel.
    #[must_use]
    pub fn new(condition: &str, text: &str) -> Self {
        let text = (!text.is_empty()).then(|| text.to_owned());
        Self { kind: "cancel".into(), condition: condition.into(), text }
    }

    fn element(&self, namespace: &str) -> Element {
        let mut error = Element::bare("error", namespace);
        // The four types are fit for an attribute; should it be another text, the peer judges it.
        let _ = set(&mut error, "type", &self.kind);
        error.append_child(Element::bare(self.condition.as_str(), STANZA_ERRORS));
        if let Some(text) = &self.text {
            let mut element = Element::bare("text", STANZA_ERRORS);
            element.append_text(text.as_str());
            error.append_child(element);
        }
        error
    }
}

/// An iq's own error is of the stream's namespace, which is put in when it is sent.
pub(crate) const ERROR_OF_IQ: &str = "";

fn forwarded(stanza: &Element) -> Element {
    let mut forwarded = Element::bare("forwarded", FORWARD);
    forwarded.append_child(stanza.clone());
    forwarded
}

pub(crate) fn set(element: &mut Element, name: &str, value: &str) -> Result<(), minidom::Error> {
    let name = minidom::rxml::NcName::try_from(name)?;
    element.attrs_mut().insert(minidom::rxml::Namespace::NONE, name, value.to_owned());
    Ok(())
}
