//! event: one stanza at an ingress, with everything the server knows about it.

use super::fields::{DecodeError, Field, Fields, FieldsWriter};

/// Where a stanza entered the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// A client's session, over any transport.
    Client,
    /// A remote server's stream.
    RemoteServer,
    /// An external component (XEP-0114).
    Component,
    /// Made by the server itself: recorded, not held.
    Internal,
}

impl Ingress {
    const ALL: [Self; 4] = [Self::Client, Self::RemoteServer, Self::Component, Self::Internal];

    /// The code, on the wire and in records.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The ingress with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|ingress| ingress.code() == code)
    }

    /// The word shown to people and kept in archive columns.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::RemoteServer => "remote-server",
            Self::Component => "component",
            Self::Internal => "internal",
        }
    }
}

/// What a stanza is addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An account of this server.
    LocalUser,
    /// A room of this server.
    Room,
    /// An occupant of a room of this server (private message).
    Occupant,
    /// Another server.
    Remote,
    /// This server or a service of it.
    Service,
    /// An external component of this server.
    Component,
}

impl Target {
    const ALL: [Self; 6] =
        [Self::LocalUser, Self::Room, Self::Occupant, Self::Remote, Self::Service, Self::Component];

    /// The code, on the wire and in records.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The target with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.code() == code)
    }

    /// The word shown to people and kept in archive columns.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::LocalUser => "user",
            Self::Room => "room",
            Self::Occupant => "occupant",
            Self::Remote => "remote",
            Self::Service => "service",
            Self::Component => "component",
        }
    }
}

/// Somebody who would get the stanza, as the server sees it at the moment of asking.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Recipient {
    /// The real bare JID.
    pub bare: String,
    /// The occupant JID, in a room.
    pub occupant: Option<String>,
    /// Resources of the sessions that would get it now.
    pub resources: Vec<String>,
}

/// What an event is about: which stanzas the plugin asks about is said in these words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Subject {
    /// A message: always asked about.
    #[default]
    Message,
    /// Presence that goes to users: broadcast, directed, probes.
    Presence,
    /// Presence that asks for, grants or ends a subscription.
    Subscription,
    /// An iq to a user, another server or a component.
    Iq,
    /// An iq to this server, to its services, or to the sender's own account.
    ServiceIq,
    /// Presence to a room or somebody in it.
    RoomPresence,
    /// An iq to a room or somebody in it.
    RoomIq,
    /// A client that has logged in asks for a session (RFC 6120, 7).
    Bind,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Message,
        Self::Presence,
        Self::Subscription,
        Self::Iq,
        Self::ServiceIq,
        Self::RoomPresence,
        Self::RoomIq,
        Self::Bind,
    ];

    /// The word on the wire.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Presence => "presence",
            Self::Subscription => "subscription",
            Self::Iq => "iq",
            Self::ServiceIq => "service-iq",
            Self::RoomPresence => "room-presence",
            Self::RoomIq => "room-iq",
            Self::Bind => "bind",
        }
    }

    pub(super) fn decode(field: Field<'_>) -> Result<Self, DecodeError> {
        let word = field.text()?;
        let known = Self::ALL.into_iter().find(|subject| subject.word() == word);
        known.ok_or_else(|| field.unknown(u64::MAX))
    }
}

/// A question about one stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it entered.
    pub ingress: Ingress,
    /// The host that took it in.
    pub host: String,
    /// The stanza as the server serialises it.
    pub stanza: String,
    /// The sender, as the server authenticated it.
    pub from: String,
    /// The addressee; `None` for the sender's own account.
    pub to: Option<String>,
    /// What the addressee is.
    pub target: Target,
    /// Who would get it.
    pub recipients: Vec<Recipient>,
    /// The server's id of the session or stream.
    pub session: Option<String>,
    /// The client's address.
    pub address: Option<String>,
    /// Whether the stream is encrypted.
    pub secure: bool,
    /// When the server saw it, microseconds since the epoch.
    pub seen_at_micros: i64,
    /// The room, for targets in one.
    pub room: Option<String>,
    /// The event's id, a UUIDv7 the plugin made; `None` where the sidecar shall make one.
    pub event_id: Option<[u8; 16]>,
    /// What it is about.
    pub subject: Subject,
    /// Whether the addressed service is one of rooms, for [`Target::Service`].
    pub of_rooms: bool,
    /// For targets in a room: whether the room is there.
    pub room_exists: bool,
}

impl Event {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut ingress, mut host, mut stanza, mut from, mut target, mut seen) =
            (None, None, None, None, None, None);
        let (mut to, mut recipients, mut session, mut address, mut secure, mut room, mut event_id) =
            (None, Vec::new(), None, None, false, None, None);
        let (mut subject, mut of_rooms, mut room_exists) = (Subject::Message, false, true);
        for field in Fields::new(bytes) {
            let field = field?;
            match field.tag {
                1 => {
                    let code = field.u8()?;
                    ingress = Some(Ingress::from_code(code).ok_or_else(|| field.unknown(code))?);
                }
                2 => host = Some(field.string()?),
                3 => stanza = Some(field.string()?),
                4 => from = Some(field.string()?),
                5 => to = Some(field.string()?),
                6 => {
                    let code = field.u8()?;
                    target = Some(Target::from_code(code).ok_or_else(|| field.unknown(code))?);
                }
                7 => recipients.push(Recipient::decode(field.nested())?),
                8 => session = Some(field.string()?),
                9 => address = Some(field.string()?),
                10 => secure = field.u8()? != 0,
                11 => seen = Some(field.i64()?),
                12 => room = Some(field.string()?),
                13 => event_id = Some(field.array()?),
                14 => subject = Subject::decode(field)?,
                15 => of_rooms = field.u8()? != 0,
                16 => room_exists = field.u8()? != 0,
                _ => {}
            }
        }
        Ok(Self {
            ingress: ingress.ok_or(DecodeError::Missing(1))?,
            host: host.ok_or(DecodeError::Missing(2))?,
            stanza: stanza.ok_or(DecodeError::Missing(3))?,
            from: from.ok_or(DecodeError::Missing(4))?,
            target: target.ok_or(DecodeError::Missing(6))?,
            seen_at_micros: seen.ok_or(DecodeError::Missing(11))?,
            to,
            recipients,
            session,
            address,
            secure,
            room,
            event_id,
            subject,
            of_rooms,
            room_exists,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = FieldsWriter::new();
        w.bytes(1, &[self.ingress.code()])
            .text(2, &self.host)
            .text(3, &self.stanza)
            .text(4, &self.from)
            .maybe(5, self.to.as_deref())
            .bytes(6, &[self.target.code()]);
        for recipient in &self.recipients {
            w.nested(7, |w| recipient.encode(w));
        }
        w.maybe(8, self.session.as_deref())
            .maybe(9, self.address.as_deref())
            .bytes(10, &[u8::from(self.secure)])
            .bytes(11, &self.seen_at_micros.to_be_bytes())
            .maybe(12, self.room.as_deref());
        if let Some(id) = &self.event_id {
            w.bytes(13, id);
        }
        if self.subject != Subject::Message {
            w.text(14, self.subject.word());
        }
        if self.of_rooms {
            w.bytes(15, &[1]);
        }
        if !self.room_exists {
            w.bytes(16, &[0]);
        }
        w.finish()
    }
}

impl Recipient {
    fn decode(fields: Fields<'_>) -> Result<Self, DecodeError> {
        let mut recipient = Self::default();
        for field in fields {
            let field = field?;
            match field.tag {
                1 => recipient.bare = field.string()?,
                2 => recipient.occupant = Some(field.string()?),
                3 => recipient.resources.push(field.string()?),
                _ => {}
            }
        }
        if recipient.bare.is_empty() { Err(DecodeError::Missing(1)) } else { Ok(recipient) }
    }

    fn encode(&self, w: &mut FieldsWriter) {
        w.text(1, &self.bare).maybe(2, self.occupant.as_deref());
        for resource in &self.resources {
            w.text(3, resource);
        }
    }
}
