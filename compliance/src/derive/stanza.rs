//! The events of a stanza at an ingress.
//!
//! One question is asked by the server, before anything happens; here it becomes all the events that the stanza will cause, in the order in
//! which they would come. What the server would do with the stanza is foreseen from what it said of it, nothing is looked up.

use super::glance::{Asks, Change, Glance};
use super::{Key, Occurrence};
use crate::decision::bare_of;
use crate::events::{self, Event, Packet};
use crate::link::{self, Ingress, Recipient, Subject, Target};
use std::sync::Arc;

/// The events that the stanza will cause, in the order in which servers are asked. None for what the server made itself: it is not held.
///
/// A stanza that cannot be read has those that follow from its addressee alone.
#[must_use]
pub fn occurrences(event: &link::Event) -> Vec<Occurrence> {
    if event.ingress == Ingress::Internal {
        return Vec::new();
    }
    let recipients = event.recipients.clone().into();
    let mut order = Order { event, recipients, key: lane(event), list: Vec::new() };
    if event.subject == Subject::Bind {
        order.add(&events::E_SESSION);
    } else {
        order.all();
    }
    order.list
}

/// What the stanza's place in the order of its conversation is counted by, and what its events are balanced by (PR-5).
#[must_use]
pub fn lane(event: &link::Event) -> Key {
    let own = bare_of(&event.from);
    match (event.target, &event.to) {
        (Target::Room | Target::Occupant, to) => {
            let room = event.room.as_deref().or(to.as_deref()).unwrap_or(own);
            Key::of(bare_of(room))
        }
        (Target::Service, _) | (_, None) => Key::of(own),
        _ if matches!(event.subject, Subject::Bind | Subject::ServiceIq) => Key::of(own),
        (_, Some(to)) if bare_of(to) == own => Key::of(own),
        (_, Some(to)) => Key::pair(own, bare_of(to)),
    }
}

/// What kind of packet a stanza is.
pub(super) fn packet(subject: Subject) -> Packet {
    match subject {
        Subject::Message => Packet::Message,
        Subject::Presence | Subject::RoomPresence => Packet::Presence,
        Subject::Subscription => Packet::Subscription,
        Subject::Iq | Subject::ServiceIq | Subject::RoomIq | Subject::Bind => Packet::Iq,
    }
}

struct Order<'a> {
    event: &'a link::Event,
    recipients: Arc<[Recipient]>,
    key: Key,
    list: Vec<Occurrence>,
}

impl Order<'_> {
    fn add(&mut self, event: &'static Event) {
        self.add_for(event, Arc::clone(&self.recipients));
    }

    fn add_for(&mut self, event: &'static Event, recipients: Arc<[Recipient]>) {
        let packet = packet(self.event.subject);
        self.list.push(Occurrence { event, packet, key: self.key.clone(), recipients });
    }

    fn all(&mut self) {
        let from_client = self.event.ingress == Ingress::Client;
        if from_client {
            self.add(&events::ES_OUT);
        }
        let name = match packet(self.event.subject) {
            Packet::Message => "message",
            Packet::Presence | Packet::Subscription => "presence",
            Packet::Iq => "iq",
        };
        let glance = Glance::at(&self.event.stanza).filter(|glance| glance.name == name);
        let asks = glance.as_ref().filter(|glance| glance.is("get")).map(|glance| glance.asks);
        if from_client && asks == Some(Asks::DiscoInfo) {
            self.add(&events::E_DISCOFEAT);
        }
        match (self.event.target, glance) {
            (Target::Service, _) if self.event.of_rooms => {
                self.add(&events::ON_SERVICE_PACKET);
                if asks == Some(Asks::DiscoInfo) {
                    self.add(&events::ON_SERVICE_DISCO_INFO);
                }
            }
            (Target::Service, _) => self.add(&events::E_SERVER),
            (Target::LocalUser, _) if self.event.subject == Subject::ServiceIq => self.add(&events::E_SERVER),
            (Target::LocalUser, Some(glance)) => {
                if self.event.subject == Subject::Presence && self.event.to.is_none() {
                    self.broadcast(&glance);
                } else {
                    self.for_user(&glance);
                }
            }
            (Target::LocalUser, None) => self.add(&events::E_DELIVER),
            (Target::Room | Target::Occupant, Some(glance)) => self.for_room(&glance),
            (Target::Room | Target::Occupant, None) => {
                self.add(if self.event.room_exists {
                    &events::ON_PACKET
                } else {
                    &events::ON_SERVICE_PACKET
                });
            }
            (Target::Remote | Target::Component, Some(glance)) => self.direct_invitation(&glance),
            (Target::Remote | Target::Component, None) => {}
        }
    }

    fn for_user(&mut self, glance: &Glance) {
        self.direct_invitation(glance);
        self.add(&events::E_DELIVER);
        let to_account = self.event.to.as_deref().is_none_or(|to| !to.contains('/'));
        if self.gets_somewhere() {
            self.add(&events::ES_IN);
        } else if self.event.subject != Subject::Iq || !to_account {
            // An iq to an account is answered by the server for it (RFC 6121, 8.5.1), whoever is there.
            self.add(&events::E_OFFLINE);
        }
    }

    /// A direct invitation is a message of two, but what is asked about it before it goes out concerns the room.
    fn direct_invitation(&mut self, glance: &Glance) {
        if let Some(room) = &glance.invited_to {
            self.add(&events::ON_BEFORE_INVITE);
            if let Some(invitation) = self.list.last_mut() {
                invitation.key = Key::of(bare_of(room));
            }
        }
    }

    fn gets_somewhere(&self) -> bool {
        self.recipients.iter().any(|recipient| !recipient.resources.is_empty())
    }

    /// Presence for everybody who is subscribed. The sender's own account is the first recipient.
    fn broadcast(&mut self, glance: &Glance) {
        let (own, from) = (bare_of(&self.event.from), &self.event.from);
        let (mine, others): (Vec<Recipient>, Vec<Recipient>) =
            self.recipients.iter().cloned().partition(|recipient| recipient.bare == own);
        let mut mine: Vec<Recipient> = mine.into_iter().take(1).collect();
        if glance.is("unavailable") {
            let leaving = from.split_once('/').map(|(_, resource)| resource);
            mine.iter_mut()
                .for_each(|own| own.resources.retain(|resource| Some(resource.as_str()) != leaving));
        }
        if mine.iter().any(|own| own.resources.len() >= 2) {
            self.add_for(&events::E_PRISESSION, mine.into());
        }
        if !others.is_empty() {
            self.add_for(&events::ES_IN, others.into());
        }
    }

    fn for_room(&mut self, glance: &Glance) {
        let joins = self.joins(glance);
        if !self.event.room_exists && !joins {
            self.add(&events::ON_SERVICE_PACKET);
            return;
        }
        self.add(&events::ON_PACKET);
        match self.event.subject {
            Subject::RoomPresence => self.room_presence(glance, joins),
            Subject::RoomIq if self.event.target == Target::Room => self.room_iq(glance),
            Subject::Message if self.event.target == Target::Room => self.room_message(glance),
            _ if self.gets_somewhere() => self.add(&events::ES_IN),
            _ => {}
        }
    }

    fn room_message(&mut self, glance: &Glance) {
        if glance.is("groupchat") {
            let is_subject = glance.has_subject && !glance.has_body;
            self.add(if is_subject { &events::ON_BEFORE_SUBJECT } else { &events::ON_BEFORE_SEND });
            self.add(&events::ON_BEFORE_BROADCAST);
            if !self.recipients.is_empty() {
                self.add(&events::ES_IN);
            }
        } else if glance.invites && !glance.is("error") {
            self.add(&events::ON_BEFORE_INVITE);
        }
    }

    /// Whether it is presence of a session that is not in the room.
    fn joins(&self, glance: &Glance) -> bool {
        self.event.subject == Subject::RoomPresence && glance.kind.is_none() && !self.sender_is_there()
    }

    fn sender_is_there(&self) -> bool {
        let (own, resource) = self.event.from.split_once('/').unwrap_or((&self.event.from, ""));
        self.recipients.iter().any(|occupant| {
            let sessions = &occupant.resources;
            occupant.bare == own
                && (sessions.is_empty() || sessions.iter().any(|session| session == resource))
        })
    }

    fn room_presence(&mut self, glance: &Glance, joins: bool) {
        if joins {
            if !self.event.room_exists {
                self.add(&events::ON_BEFORE_ROOM_CREATE);
            }
            self.add(&events::ON_BEFORE_JOIN);
        } else if !self.sender_is_there() || glance.kind.as_deref().is_some_and(|kind| kind != "unavailable")
        {
            return;
        }
        self.add(&events::ON_BEFORE_CHANGE_USER);
        if joins && !glance.wants_no_history {
            self.add(&events::ON_HISTORY);
        }
    }

    fn room_iq(&mut self, glance: &Glance) {
        match (glance.asks, glance.kind.as_deref()) {
            (Asks::DiscoInfo | Asks::DiscoItems, Some("get")) => self.add(&events::ON_EXAMINE_ROOM),
            (Asks::Archive, Some("set")) => self.add(&events::ON_HISTORY),
            (Asks::Owner, Some("get")) => self.add(&events::ON_META_INFO_GET),
            (Asks::Owner, Some("set")) if glance.destroys => self.add(&events::ON_CLOSE),
            (Asks::Owner, Some("set")) if glance.has_form => self.add(&events::ON_BEFORE_META_INFO_SET),
            (Asks::Admin, Some("set")) => {
                for change in &glance.changes {
                    self.add(match change {
                        Change::Affiliation => &events::ON_BEFORE_CHANGE_AFFILIATION,
                        Change::NoAffiliation => &events::ON_BEFORE_REMOVE_AFFILIATION,
                        Change::Role => &events::ON_BEFORE_CHANGE_USER,
                    });
                }
            }
            _ => {}
        }
    }
}
