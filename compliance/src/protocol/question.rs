//! Questions as they are sent.

use super::{FORWARD, NAMESPACE, Question, QuestionError, stamp};
use crate::config::StreamNamespace;
use crate::link::Recipient;
use crate::xml::{self, set};
use minidom::Element;

impl Question {
    /// The question as it is sent: an iq of type set with this id where an answer is awaited, a message otherwise, in the stream's
    /// namespace. `timeout_ms` is what is left of its time. Whatever its texts hold, the tree can be written.
    pub fn to_element(
        &self,
        iq_id: &str,
        from: &str,
        to: &str,
        stream: StreamNamespace,
        timeout_ms: u64,
    ) -> Result<Element, QuestionError> {
        let stanza = self.stanza.element()?;
        let mut packet = Element::bare(if self.awaited { "iq" } else { "message" }, stream.uri());
        if self.awaited {
            set(&mut packet, "type", "set");
            set(&mut packet, "id", iq_id);
        }
        set(&mut packet, "from", from);
        set(&mut packet, "to", to);
        packet.append_child(self.event(stanza, timeout_ms));
        Ok(packet)
    }

    fn event(&self, stanza: Element, timeout_ms: u64) -> Element {
        let mut event = Element::bare("event", NAMESPACE);
        set(&mut event, "name", self.event.name);
        set(&mut event, "packet", self.packet.word());
        set(&mut event, "id", &stamp::uuid(&self.event_id));
        set(&mut event, "profile", &self.profile);
        set(&mut event, "node", &self.node);
        set(&mut event, "stamp", &stamp::stamp(self.seen_at_micros));
        if self.awaited {
            set(&mut event, "timeout", &timeout_ms.to_string());
        }
        set(&mut event, "answer", self.event.answers.word());
        if self.missed {
            set(&mut event, "missed", "true");
        }
        if !self.from.is_empty() {
            event.append_child(self.sender());
        }
        if let Some(jid) = &self.room {
            let mut room = Element::bare("room", NAMESPACE);
            set(&mut room, "jid", jid);
            event.append_child(room);
        }
        for recipient in self.recipients.iter() {
            event.append_child(recipient_element(recipient));
        }
        if let Some(reason) = &self.reason {
            event.append_child(texts("reason", reason));
        }
        let mut forwarded = Element::bare("forwarded", FORWARD);
        forwarded.append_child(stanza);
        event.append_child(forwarded);
        event
    }

    fn sender(&self) -> Element {
        let mut sender = Element::bare("sender", NAMESPACE);
        set(&mut sender, "jid", &self.from);
        set(&mut sender, "ingress", self.ingress.word());
        for (name, value) in
            [("session", &self.session), ("address", &self.address), ("mechanism", &self.mechanism)]
        {
            if let Some(value) = value {
                set(&mut sender, name, value);
            }
        }
        // What is told of by a notice says nothing about it: absent is not known, not unprotected.
        if self.secure {
            set(&mut sender, "secure", "true");
        }
        sender
    }
}

fn recipient_element(recipient: &Recipient) -> Element {
    let mut element = Element::bare("recipient", NAMESPACE);
    set(&mut element, "jid", &recipient.bare);
    if let Some(occupant) = &recipient.occupant {
        set(&mut element, "occupant", occupant);
    }
    for resource in &recipient.resources {
        element.append_child(texts("resource", resource));
    }
    element
}

fn texts(name: &str, text: &str) -> Element {
    let mut element = Element::bare(name, NAMESPACE);
    element.append_text_node(xml::clean(text));
    element
}
