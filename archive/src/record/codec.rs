//! Headers as bytes: `docs/record.md`, section "A record".

use super::{
    Accepted, ActionCode, Body, Content, ExceptionEntry, Gap, GapReason, Hash, Header, Kind, Missed, Open,
    Outcome, PayloadRef, RecipientEntry, StreamEnd, StreamId, Tally,
};
use cartulary_compliance::direction::Direction;
use cartulary_compliance::link::{
    DecodeError, Delivery, DeliveryResult, Field, Fields, FieldsWriter, Ingress, Sums, Target,
};
use uuid::Uuid;

const MAGIC: &[u8; 3] = b"CTL";
const VERSION: u8 = 1;

mod tag {
    pub const ID: u16 = 1;
    pub const KIND: u16 = 2;
    pub const EVENT: u16 = 3;
    pub const JOURNAL: u16 = 4;
    pub const INCARNATION: u16 = 5;
    pub const ENDPOINT: u16 = 6;
    pub const SEQUENCE: u16 = 7;
    pub const PREVIOUS: u16 = 8;
    pub const RECORDED_AT: u16 = 9;
    pub const SEEN_AT: u16 = 10;
    pub const NODE: u16 = 11;
    pub const CLUSTER: u16 = 12;
    pub const INGRESS: u16 = 20;
    pub const FROM: u16 = 21;
    pub const TO: u16 = 22;
    pub const TARGET: u16 = 23;
    pub const ROOM: u16 = 24;
    pub const TYPE: u16 = 25;
    pub const STANZA_ID: u16 = 26;
    pub const ORIGIN_ID: u16 = 27;
    pub const HOST: u16 = 28;
    pub const RECIPIENT: u16 = 29;
    pub const ACTION: u16 = 30;
    pub const CONDITION: u16 = 31;
    pub const SESSION: u16 = 32;
    pub const EXCEPTION: u16 = 33;
    pub const DELIVERY: u16 = 40;
    pub const FINAL: u16 = 41;
    pub const MISSED_EVENT: u16 = 42;
    pub const MISSED_SERVER: u16 = 43;
    pub const MISSED_PROFILE: u16 = 44;
    pub const PREDECESSOR: u16 = 50;
    pub const PREDECESSOR_SEQUENCE: u16 = 51;
    pub const PREDECESSOR_HASH: u16 = 52;
    pub const SOFTWARE: u16 = 53;
    pub const GAP_FIRST: u16 = 60;
    pub const GAP_COUNT: u16 = 61;
    pub const GAP_REASON: u16 = 62;
    pub const GAP_INCARNATION: u16 = 63;
    pub const TALLY_DAY: u16 = 64;
    pub const TALLY_INSTANCE: u16 = 65;
    pub const TALLY_COUNTS: u16 = 66;
    pub const TALLY_FINAL: u16 = 67;
    pub const KEY: u16 = 70;
    pub const KEY_SALT: u16 = 71;
    pub const PAYLOAD: u16 = 80;
    /// The only tags that may stand more than once.
    pub const REPEATED: [u16; 4] = [RECIPIENT, EXCEPTION, DELIVERY, PAYLOAD];
}

/// Why bytes are not a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// They do not begin as one.
    #[error("it does not begin as a record")]
    NotARecord,
    /// A later format.
    #[error("it has record format {0}, this version reads format {VERSION}: use a newer version")]
    Version(u8),
    /// Tags are out of order, or one stands twice.
    #[error("field {0} is out of place")]
    Order(u16),
    /// A field cannot be read.
    #[error(transparent)]
    Field(#[from] DecodeError),
    /// A gap gives a reason that is none.
    #[error("{0:?} is no reason for a gap")]
    Reason(String),
}

impl Header {
    /// Its bytes: the only way to write it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = FieldsWriter::new();
        self.encode_common(&mut w);
        match &self.content {
            Content::Open(open) => encode_open(&mut w, open),
            Content::Body(Body::Accepted(accepted)) => encode_accepted(&mut w, accepted),
            Content::Body(Body::Outcome(outcome)) => encode_outcome(&mut w, outcome),
            Content::Body(Body::Gap(gap)) => encode_gap(&mut w, gap),
            Content::Body(Body::Tally(tally)) => encode_tally(&mut w, tally),
            Content::Body(Body::Missed(missed)) => encode_missed(&mut w, missed),
            Content::Close => {}
        }
        w.maybe(tag::KEY, self.key.as_deref());
        if let Some(salt) = &self.key_salt {
            w.bytes(tag::KEY_SALT, salt);
        }
        for payload in &self.payloads {
            w.nested(tag::PAYLOAD, |w| {
                w.bytes(1, &[payload.number]).bytes(2, &[payload.form]).bytes(3, &payload.commitment);
            });
        }
        let known = w.finish();
        let mut out = Vec::with_capacity(4 + known.len());
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        if self.unknown.is_empty() {
            out.extend_from_slice(&known);
            return out;
        }
        let mut all: Vec<(u16, &[u8])> =
            Fields::new(&known).flatten().map(|field| (field.tag, field.bytes)).collect();
        all.extend(self.unknown.iter().map(|(tag, bytes)| (*tag, bytes.as_slice())));
        all.sort_by_key(|(tag, _)| *tag);
        let mut w = FieldsWriter::new();
        for (tag, bytes) in all {
            w.bytes(tag, bytes);
        }
        out.extend_from_slice(&w.finish());
        out
    }

    fn encode_common(&self, w: &mut FieldsWriter) {
        w.bytes(tag::ID, self.id.as_bytes()).bytes(tag::KIND, &[self.kind().code()]);
        if let Some(event) = self.event() {
            w.bytes(tag::EVENT, event.as_bytes());
        }
        w.bytes(tag::JOURNAL, self.stream.journal.as_bytes())
            .bytes(tag::INCARNATION, self.stream.incarnation.as_bytes())
            .text(tag::ENDPOINT, &self.stream.endpoint)
            .bytes(tag::SEQUENCE, &self.sequence.to_be_bytes())
            .bytes(tag::PREVIOUS, &self.previous)
            .bytes(tag::RECORDED_AT, &self.recorded_at_nanos.to_be_bytes());
        let seen_at = match &self.content {
            Content::Body(Body::Accepted(accepted)) => Some(accepted.seen_at_nanos),
            Content::Body(Body::Outcome(outcome)) => Some(outcome.seen_at_nanos),
            Content::Body(Body::Missed(missed)) => Some(missed.seen_at_nanos),
            _ => None,
        };
        if let Some(seen_at) = seen_at {
            w.bytes(tag::SEEN_AT, &seen_at.to_be_bytes());
        }
        w.text(tag::NODE, &self.node).text(tag::CLUSTER, &self.cluster);
    }

    /// Reads a header. Unknown top-level tags are kept; a version it does not know is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some((head, fields)) = bytes.split_first_chunk::<4>() else {
            return Err(HeaderError::NotARecord);
        };
        match head {
            [b'C', b'T', b'L', VERSION] => {}
            [b'C', b'T', b'L', other] => return Err(HeaderError::Version(*other)),
            _ => return Err(HeaderError::NotARecord),
        }
        let mut parts = Parts::default();
        let mut last = 0;
        for field in Fields::new(fields) {
            let field = field?;
            if field.tag < last || (field.tag == last && !tag::REPEATED.contains(&last)) {
                return Err(HeaderError::Order(field.tag));
            }
            last = field.tag;
            parts.take(field.tag, field)?;
        }
        parts.finish()
    }
}

fn encode_open(w: &mut FieldsWriter, open: &Open) {
    if let Some(end) = &open.predecessor {
        w.bytes(tag::PREDECESSOR, end.incarnation.as_bytes())
            .bytes(tag::PREDECESSOR_SEQUENCE, &end.sequence.to_be_bytes())
            .bytes(tag::PREDECESSOR_HASH, &end.hash);
    }
    w.text(tag::SOFTWARE, &open.software);
}

fn encode_accepted(w: &mut FieldsWriter, accepted: &Accepted) {
    w.bytes(tag::INGRESS, &[accepted.ingress.code()])
        .text(tag::FROM, &accepted.from)
        .maybe(tag::TO, accepted.to.as_deref())
        .bytes(tag::TARGET, &[accepted.target.code()])
        .maybe(tag::ROOM, accepted.room.as_deref())
        .text(tag::TYPE, &accepted.message_type)
        .maybe(tag::STANZA_ID, accepted.stanza_id.as_deref())
        .maybe(tag::ORIGIN_ID, accepted.origin_id.as_deref())
        .text(tag::HOST, &accepted.host);
    for recipient in &accepted.recipients {
        w.nested(tag::RECIPIENT, |w| {
            w.text(1, &recipient.bare).maybe(2, recipient.occupant.as_deref());
            for resource in &recipient.resources {
                w.text(3, resource);
            }
            w.bytes(4, &[recipient.direction.code()]);
        });
    }
    w.bytes(tag::ACTION, &[accepted.action.code()])
        .maybe(tag::CONDITION, accepted.condition.as_deref())
        .maybe(tag::SESSION, accepted.session.as_deref());
    for exception in &accepted.exceptions {
        w.nested(tag::EXCEPTION, |w| {
            w.text(1, &exception.recipient)
                .bytes(2, &[exception.action.code()])
                .maybe(3, exception.condition.as_deref());
        });
    }
}

fn encode_outcome(w: &mut FieldsWriter, outcome: &Outcome) {
    for delivery in &outcome.deliveries {
        w.nested(tag::DELIVERY, |w| {
            w.text(1, &delivery.bare).maybe(2, delivery.occupant.as_deref());
            for resource in &delivery.resources {
                w.text(3, resource);
            }
            w.bytes(4, &[delivery.result.code()]).maybe(5, delivery.reason.as_deref());
        });
    }
    w.bytes(tag::FINAL, &[u8::from(outcome.is_final)]);
}

fn encode_gap(w: &mut FieldsWriter, gap: &Gap) {
    if let Some(first) = gap.first {
        w.bytes(tag::GAP_FIRST, &first.to_be_bytes());
    }
    w.bytes(tag::GAP_COUNT, &gap.count.to_be_bytes()).text(tag::GAP_REASON, gap.reason.word());
    if let Some(incarnation) = &gap.incarnation {
        w.bytes(tag::GAP_INCARNATION, incarnation.as_bytes());
    }
}

fn encode_tally(w: &mut FieldsWriter, tally: &Tally) {
    let counts: Vec<u8> = tally.sums.to_array().into_iter().flat_map(u64::to_be_bytes).collect();
    w.bytes(tag::TALLY_DAY, &tally.day.to_be_bytes())
        .text(tag::TALLY_INSTANCE, &tally.instance)
        .bytes(tag::TALLY_COUNTS, &counts)
        .bytes(tag::TALLY_FINAL, &[u8::from(tally.is_final)]);
}

fn encode_missed(w: &mut FieldsWriter, missed: &Missed) {
    w.text(tag::FROM, &missed.jid)
        .text(tag::MISSED_EVENT, &missed.event)
        .text(tag::MISSED_SERVER, &missed.server)
        .text(tag::MISSED_PROFILE, &missed.profile);
}

/// The fields of a header while they are being read.
#[derive(Default)]
struct Parts {
    id: Option<Uuid>,
    kind: Option<Kind>,
    event: Option<Uuid>,
    journal: Option<Uuid>,
    incarnation: Option<Uuid>,
    endpoint: Option<String>,
    sequence: Option<u64>,
    previous: Option<Hash>,
    recorded_at: Option<i64>,
    seen_at: Option<i64>,
    node: Option<String>,
    cluster: Option<String>,
    ingress: Option<Ingress>,
    from: Option<String>,
    to: Option<String>,
    target: Option<Target>,
    room: Option<String>,
    message_type: Option<String>,
    stanza_id: Option<String>,
    origin_id: Option<String>,
    host: Option<String>,
    recipients: Vec<RecipientEntry>,
    action: Option<ActionCode>,
    condition: Option<String>,
    session: Option<String>,
    exceptions: Vec<ExceptionEntry>,
    deliveries: Vec<Delivery>,
    is_final: Option<bool>,
    predecessor: Option<Uuid>,
    predecessor_sequence: Option<u64>,
    predecessor_hash: Option<Hash>,
    software: Option<String>,
    gap_first: Option<u64>,
    gap_count: Option<u64>,
    gap_reason: Option<GapReason>,
    gap_incarnation: Option<Uuid>,
    tally_day: Option<u32>,
    tally_instance: Option<String>,
    tally_counts: Option<Sums>,
    tally_final: Option<bool>,
    missed_event: Option<String>,
    missed_server: Option<String>,
    missed_profile: Option<String>,
    key: Option<String>,
    key_salt: Option<[u8; 32]>,
    payloads: Vec<PayloadRef>,
    unknown: Vec<(u16, Vec<u8>)>,
}

fn uuid(field: Field<'_>) -> Result<Uuid, DecodeError> {
    field.array().map(Uuid::from_bytes)
}

fn coded<T>(field: Field<'_>, from_code: impl Fn(u8) -> Option<T>) -> Result<T, DecodeError> {
    let code = field.u8()?;
    from_code(code).ok_or_else(|| field.unknown(code))
}

fn sums(field: Field<'_>) -> Result<Sums, DecodeError> {
    let bytes: [u8; 64] = field.array()?;
    let mut sums = [0; 8];
    for (sum, bytes) in sums.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *sum = u64::from_be_bytes(*bytes);
    }
    Ok(Sums::from_array(sums))
}

impl Parts {
    fn take(&mut self, number: u16, field: Field<'_>) -> Result<(), HeaderError> {
        match number {
            tag::ID => self.id = Some(uuid(field)?),
            tag::KIND => self.kind = Some(coded(field, Kind::from_code)?),
            tag::EVENT => self.event = Some(uuid(field)?),
            tag::JOURNAL => self.journal = Some(uuid(field)?),
            tag::INCARNATION => self.incarnation = Some(uuid(field)?),
            tag::ENDPOINT => self.endpoint = Some(field.string()?),
            tag::SEQUENCE => self.sequence = Some(field.u64()?),
            tag::PREVIOUS => self.previous = Some(field.array()?),
            tag::RECORDED_AT => self.recorded_at = Some(field.i64()?),
            tag::SEEN_AT => self.seen_at = Some(field.i64()?),
            tag::NODE => self.node = Some(field.string()?),
            tag::CLUSTER => self.cluster = Some(field.string()?),
            tag::INGRESS => self.ingress = Some(coded(field, Ingress::from_code)?),
            tag::FROM => self.from = Some(field.string()?),
            tag::TO => self.to = Some(field.string()?),
            tag::TARGET => self.target = Some(coded(field, Target::from_code)?),
            tag::ROOM => self.room = Some(field.string()?),
            tag::TYPE => self.message_type = Some(field.string()?),
            tag::STANZA_ID => self.stanza_id = Some(field.string()?),
            tag::ORIGIN_ID => self.origin_id = Some(field.string()?),
            tag::HOST => self.host = Some(field.string()?),
            tag::RECIPIENT => self.recipients.push(decode_recipient(field.nested())?),
            tag::ACTION => self.action = Some(coded(field, ActionCode::from_code)?),
            tag::CONDITION => self.condition = Some(field.string()?),
            tag::SESSION => self.session = Some(field.string()?),
            tag::EXCEPTION => self.exceptions.push(decode_exception(field.nested())?),
            tag::DELIVERY => self.deliveries.push(decode_delivery(field.nested())?),
            tag::FINAL => self.is_final = Some(field.u8()? != 0),
            tag::PREDECESSOR => self.predecessor = Some(uuid(field)?),
            tag::PREDECESSOR_SEQUENCE => self.predecessor_sequence = Some(field.u64()?),
            tag::PREDECESSOR_HASH => self.predecessor_hash = Some(field.array()?),
            tag::SOFTWARE => self.software = Some(field.string()?),
            tag::GAP_FIRST => self.gap_first = Some(field.u64()?),
            tag::GAP_COUNT => self.gap_count = Some(field.u64()?),
            tag::GAP_REASON => {
                let word = field.text()?;
                let reason =
                    GapReason::from_word(word).ok_or_else(|| HeaderError::Reason(word.to_owned()))?;
                self.gap_reason = Some(reason);
            }
            tag::GAP_INCARNATION => self.gap_incarnation = Some(uuid(field)?),
            tag::TALLY_DAY => self.tally_day = Some(field.u32()?),
            tag::TALLY_INSTANCE => self.tally_instance = Some(field.string()?),
            tag::TALLY_COUNTS => self.tally_counts = Some(sums(field)?),
            tag::TALLY_FINAL => self.tally_final = Some(field.u8()? != 0),
            tag::MISSED_EVENT => self.missed_event = Some(field.string()?),
            tag::MISSED_SERVER => self.missed_server = Some(field.string()?),
            tag::MISSED_PROFILE => self.missed_profile = Some(field.string()?),
            tag::KEY => self.key = Some(field.string()?),
            tag::KEY_SALT => self.key_salt = Some(field.array()?),
            tag::PAYLOAD => self.payloads.push(decode_payload(field.nested())?),
            _ => self.unknown.push((number, field.bytes.to_vec())),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Header, HeaderError> {
        fn need<T>(value: Option<T>, tag: u16) -> Result<T, DecodeError> {
            value.ok_or(DecodeError::Missing(tag))
        }
        let content = match need(self.kind, tag::KIND)? {
            Kind::Open => {
                let predecessor = match self.predecessor {
                    None => None,
                    Some(incarnation) => Some(StreamEnd {
                        incarnation,
                        sequence: need(self.predecessor_sequence, tag::PREDECESSOR_SEQUENCE)?,
                        hash: need(self.predecessor_hash, tag::PREDECESSOR_HASH)?,
                    }),
                };
                Content::Open(Open { predecessor, software: need(self.software.take(), tag::SOFTWARE)? })
            }
            Kind::Accepted => Content::Body(Body::Accepted(Accepted {
                event: need(self.event, tag::EVENT)?,
                seen_at_nanos: need(self.seen_at, tag::SEEN_AT)?,
                ingress: need(self.ingress, tag::INGRESS)?,
                from: need(self.from.take(), tag::FROM)?,
                to: self.to.take(),
                target: need(self.target, tag::TARGET)?,
                room: self.room.take(),
                message_type: need(self.message_type.take(), tag::TYPE)?,
                stanza_id: self.stanza_id.take(),
                origin_id: self.origin_id.take(),
                host: need(self.host.take(), tag::HOST)?,
                recipients: std::mem::take(&mut self.recipients),
                action: need(self.action, tag::ACTION)?,
                condition: self.condition.take(),
                session: self.session.take(),
                exceptions: std::mem::take(&mut self.exceptions),
            })),
            Kind::Outcome => Content::Body(Body::Outcome(Outcome {
                event: need(self.event, tag::EVENT)?,
                seen_at_nanos: need(self.seen_at, tag::SEEN_AT)?,
                deliveries: std::mem::take(&mut self.deliveries),
                is_final: need(self.is_final, tag::FINAL)?,
            })),
            Kind::Gap => Content::Body(Body::Gap(Gap {
                first: self.gap_first,
                count: need(self.gap_count, tag::GAP_COUNT)?,
                reason: need(self.gap_reason, tag::GAP_REASON)?,
                incarnation: self.gap_incarnation,
            })),
            Kind::Tally => Content::Body(Body::Tally(Tally {
                day: need(self.tally_day, tag::TALLY_DAY)?,
                instance: need(self.tally_instance.take(), tag::TALLY_INSTANCE)?,
                sums: need(self.tally_counts, tag::TALLY_COUNTS)?,
                is_final: need(self.tally_final, tag::TALLY_FINAL)?,
            })),
            Kind::Missed => Content::Body(Body::Missed(Missed {
                seen_at_nanos: need(self.seen_at, tag::SEEN_AT)?,
                jid: need(self.from.take(), tag::FROM)?,
                event: need(self.missed_event.take(), tag::MISSED_EVENT)?,
                server: need(self.missed_server.take(), tag::MISSED_SERVER)?,
                profile: need(self.missed_profile.take(), tag::MISSED_PROFILE)?,
            })),
            Kind::Close => Content::Close,
        };
        Ok(Header {
            id: need(self.id, tag::ID)?,
            stream: StreamId {
                journal: need(self.journal, tag::JOURNAL)?,
                endpoint: need(self.endpoint, tag::ENDPOINT)?,
                incarnation: need(self.incarnation, tag::INCARNATION)?,
            },
            sequence: need(self.sequence, tag::SEQUENCE)?,
            previous: need(self.previous, tag::PREVIOUS)?,
            recorded_at_nanos: need(self.recorded_at, tag::RECORDED_AT)?,
            node: need(self.node, tag::NODE)?,
            cluster: need(self.cluster, tag::CLUSTER)?,
            content,
            key: self.key,
            key_salt: self.key_salt,
            payloads: self.payloads,
            unknown: self.unknown,
        })
    }
}

fn decode_recipient(fields: Fields<'_>) -> Result<RecipientEntry, DecodeError> {
    let (mut bare, mut occupant, mut resources, mut direction) = (None, None, Vec::new(), None);
    for field in fields {
        let field = field?;
        match field.tag {
            1 => bare = Some(field.string()?),
            2 => occupant = Some(field.string()?),
            3 => resources.push(field.string()?),
            4 => direction = Some(coded(field, Direction::from_code)?),
            _ => {}
        }
    }
    Ok(RecipientEntry {
        bare: bare.ok_or(DecodeError::Missing(1))?,
        occupant,
        resources,
        direction: direction.ok_or(DecodeError::Missing(4))?,
    })
}

fn decode_exception(fields: Fields<'_>) -> Result<ExceptionEntry, DecodeError> {
    let (mut recipient, mut action, mut condition) = (None, None, None);
    for field in fields {
        let field = field?;
        match field.tag {
            1 => recipient = Some(field.string()?),
            2 => action = Some(coded(field, ActionCode::from_code)?),
            3 => condition = Some(field.string()?),
            _ => {}
        }
    }
    Ok(ExceptionEntry {
        recipient: recipient.ok_or(DecodeError::Missing(1))?,
        action: action.ok_or(DecodeError::Missing(2))?,
        condition,
    })
}

fn decode_delivery(fields: Fields<'_>) -> Result<Delivery, DecodeError> {
    let (mut bare, mut occupant, mut resources, mut result, mut reason) =
        (None, None, Vec::new(), None, None);
    for field in fields {
        let field = field?;
        match field.tag {
            1 => bare = Some(field.string()?),
            2 => occupant = Some(field.string()?),
            3 => resources.push(field.string()?),
            4 => result = Some(coded(field, DeliveryResult::from_code)?),
            5 => reason = Some(field.string()?),
            _ => {}
        }
    }
    Ok(Delivery {
        bare: bare.ok_or(DecodeError::Missing(1))?,
        occupant,
        resources,
        result: result.ok_or(DecodeError::Missing(4))?,
        reason,
    })
}

fn decode_payload(fields: Fields<'_>) -> Result<PayloadRef, DecodeError> {
    let (mut number, mut form, mut commitment) = (None, None, None);
    for field in fields {
        let field = field?;
        match field.tag {
            1 => number = Some(field.u8()?),
            2 => form = Some(field.u8()?),
            3 => commitment = Some(field.array()?),
            _ => {}
        }
    }
    Ok(PayloadRef {
        number: number.ok_or(DecodeError::Missing(1))?,
        form: form.ok_or(DecodeError::Missing(2))?,
        commitment: commitment.ok_or(DecodeError::Missing(3))?,
    })
}

#[cfg(test)]
mod laws;
