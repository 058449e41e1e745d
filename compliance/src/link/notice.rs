//! outcome and notice: what happened, told afterwards and never waited for.

use super::fields::{DecodeError, Fields, FieldsWriter};

/// What became of one recipient's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryResult {
    /// Nobody can say, for instance after a crash.
    Unknown,
    /// Handed to the sessions named.
    Delivered,
    /// Stored for later.
    Offline,
    /// Returned to the sender with an error.
    Bounced,
    /// Dropped by the server.
    Dropped,
    /// Handed to the remote server's stream.
    Remote,
    /// Withheld by an exception of the verdict.
    Withheld,
    /// Delivered from offline storage.
    FromOffline,
}

impl DeliveryResult {
    const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Delivered,
        Self::Offline,
        Self::Bounced,
        Self::Dropped,
        Self::Remote,
        Self::Withheld,
        Self::FromOffline,
    ];

    /// The code, on the wire and in records.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The result with this code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The word shown to people and kept in archive columns.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Delivered => "delivered",
            Self::Offline => "offline",
            Self::Bounced => "bounced",
            Self::Dropped => "dropped",
            Self::Remote => "remote",
            Self::Withheld => "withheld",
            Self::FromOffline => "from-offline",
        }
    }
}

/// What became of the copy for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// The real bare JID.
    pub bare: String,
    /// The occupant JID, in a room.
    pub occupant: Option<String>,
    /// Resources that got it.
    pub resources: Vec<String>,
    /// What became of it.
    pub result: DeliveryResult,
    /// Why, where the server says.
    pub reason: Option<String>,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The event, as the verdict named it.
    pub event_id: [u8; 16],
    /// When, microseconds since the epoch.
    pub at_micros: i64,
    /// For each recipient.
    pub deliveries: Vec<Delivery>,
    /// Whether this is the last word on the event.
    pub is_final: bool,
}

impl Outcome {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut event_id, mut at, mut deliveries, mut is_final) = (None, None, Vec::new(), false);
        for field in Fields::new(bytes) {
            let field = field?;
            match field.tag {
                1 => event_id = Some(field.array()?),
                2 => at = Some(field.i64()?),
                3 => deliveries.push(Delivery::decode(field.nested())?),
                4 => is_final = field.u8()? != 0,
                _ => {}
            }
        }
        Ok(Self {
            event_id: event_id.ok_or(DecodeError::Missing(1))?,
            at_micros: at.ok_or(DecodeError::Missing(2))?,
            deliveries,
            is_final,
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = FieldsWriter::new();
        w.bytes(1, &self.event_id).bytes(2, &self.at_micros.to_be_bytes());
        for delivery in &self.deliveries {
            w.nested(3, |w| delivery.encode(w));
        }
        w.bytes(4, &[u8::from(self.is_final)]);
        w.finish()
    }
}

impl Delivery {
    fn decode(fields: Fields<'_>) -> Result<Self, DecodeError> {
        let (mut bare, mut occupant, mut resources, mut result, mut reason) =
            (None, None, Vec::new(), None, None);
        for field in fields {
            let field = field?;
            match field.tag {
                1 => bare = Some(field.string()?),
                2 => occupant = Some(field.string()?),
                3 => resources.push(field.string()?),
                4 => {
                    let code = field.u8()?;
                    result = Some(DeliveryResult::from_code(code).ok_or_else(|| field.unknown(code))?);
                }
                5 => reason = Some(field.string()?),
                _ => {}
            }
        }
        Ok(Self {
            bare: bare.ok_or(DecodeError::Missing(1))?,
            result: result.ok_or(DecodeError::Missing(4))?,
            occupant,
            resources,
            reason,
        })
    }

    fn encode(&self, w: &mut FieldsWriter) {
        w.text(1, &self.bare).maybe(2, self.occupant.as_deref());
        for resource in &self.resources {
            w.text(3, resource);
        }
        w.bytes(4, &[self.result.code()]).maybe(5, self.reason.as_deref());
    }
}

/// Something that happened to a session or a room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notice {
    /// What, one of the names in `docs/event-link.md`.
    pub name: String,
    /// When, microseconds since the epoch.
    pub at_micros: i64,
    /// Full JID of the session, or real JID of the occupant.
    pub jid: Option<String>,
    /// The room.
    pub room: Option<String>,
    /// The occupant JID.
    pub occupant: Option<String>,
    /// The client's address.
    pub address: Option<String>,
    /// The SASL mechanism.
    pub mechanism: Option<String>,
    /// Whether this tells what is, not what happened.
    pub snapshot: bool,
    /// The server's id of the session.
    pub session: Option<String>,
    /// Why, where the server says.
    pub reason: Option<String>,
    /// The stanza that brought it about, or that tells of it, where there is one.
    pub stanza: Option<String>,
    /// What it has become: the new role, affiliation, nickname or subject.
    pub value: Option<String>,
}

impl Notice {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut notice = Self::default();
        for field in Fields::new(bytes) {
            let field = field?;
            match field.tag {
                1 => notice.name = field.string()?,
                2 => notice.at_micros = field.i64()?,
                3 => notice.jid = Some(field.string()?),
                4 => notice.room = Some(field.string()?),
                5 => notice.occupant = Some(field.string()?),
                6 => notice.address = Some(field.string()?),
                7 => notice.mechanism = Some(field.string()?),
                8 => notice.snapshot = field.u8()? != 0,
                9 => notice.session = Some(field.string()?),
                10 => notice.reason = Some(field.string()?),
                11 => notice.stanza = Some(field.string()?),
                12 => notice.value = Some(field.string()?),
                _ => {}
            }
        }
        if notice.name.is_empty() { Err(DecodeError::Missing(1)) } else { Ok(notice) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = FieldsWriter::new();
        w.text(1, &self.name)
            .bytes(2, &self.at_micros.to_be_bytes())
            .maybe(3, self.jid.as_deref())
            .maybe(4, self.room.as_deref())
            .maybe(5, self.occupant.as_deref())
            .maybe(6, self.address.as_deref())
            .maybe(7, self.mechanism.as_deref())
            .bytes(8, &[u8::from(self.snapshot)])
            .maybe(9, self.session.as_deref())
            .maybe(10, self.reason.as_deref())
            .maybe(11, self.stanza.as_deref())
            .maybe(12, self.value.as_deref());
        w.finish()
    }
}
