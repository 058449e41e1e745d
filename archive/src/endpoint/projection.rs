//! Columns beside the header: copies for searching. One pure function makes them, for writing and for `verify` alike.
//!
//! No record is refused because of a column: text a database cannot store is replaced or left out here, and the header and
//! payload keep the truth.

use crate::record::{Accepted, Body, Content, Form, Header, Payload};
use cartulary_compliance::stanza::MessageFacts;
use uuid::Uuid;

/// Columns of type uuid beside the id.
pub const UUIDS: [&str; 3] = ["journal", "incarnation", "event"];
/// Columns of numbers; those named in [`TIMES`] are times.
pub const INTS: [&str; 3] = ["sequence", "recorded_at", "seen_at"];
/// Columns of time, microseconds since the epoch.
pub const TIMES: [&str; 2] = ["recorded_at", "seen_at"];
/// Columns of text.
pub const TEXTS: [&str; 24] = [
    "kind",
    "endpoint",
    "node",
    "cluster",
    "host",
    "ingress",
    "from_jid",
    "from_bare",
    "to_jid",
    "to_bare",
    "target",
    "room",
    "type",
    "stanza_id",
    "origin_id",
    "action",
    "condition",
    "session",
    "direction",
    "thread",
    "subject",
    "body",
    "html",
    "label",
];
/// Version of what [`project`] makes. A change of any column for a record that could be there already makes a new one; the former
/// stays, for [`project_as`].
pub const PARSER: i64 = 1;
/// The first of [`TEXTS`] that come from the payload.
pub const FROM_PAYLOAD: usize = 19;

/// An index entry of PostgreSQL holds at most about 2700 bytes; no JID is as long as this (RFC 7622).
const INDEXED_BYTES: usize = 2100;

/// A record's columns, in the order of the lists above.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Projection {
    /// Values of [`UUIDS`].
    pub uuids: [Option<Uuid>; UUIDS.len()],
    /// Values of [`INTS`].
    pub ints: [Option<i64>; INTS.len()],
    /// Values of [`TEXTS`].
    pub texts: [Option<String>; TEXTS.len()],
    /// Rows of the table `delivery`.
    pub deliveries: Vec<DeliveryRow>,
    /// Rows of the table `outcome`.
    pub outcomes: Vec<OutcomeRow>,
}

/// One intended recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// The real bare JID.
    pub bare: String,
    /// The occupant JID.
    pub occupant: Option<String>,
    /// Resources.
    pub resources: Vec<String>,
    /// `inbound`, `outbound` or `internal`.
    pub direction: String,
}

/// What became of one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeRow {
    /// The event it is of.
    pub event: Uuid,
    /// The real bare JID.
    pub bare: String,
    /// The occupant JID.
    pub occupant: Option<String>,
    /// Resources.
    pub resources: Vec<String>,
    /// The result's word.
    pub result: String,
    /// Why.
    pub reason: Option<String>,
}

/// A record's columns as version `parser` made them; `None` if this version of Cartulary does not know that one.
#[must_use]
pub fn project_as(parser: i64, header: &Header, payloads: &[Payload]) -> Option<Projection> {
    (parser == PARSER).then(|| project(header, payloads))
}

/// The columns of a record.
#[must_use]
pub fn project(header: &Header, payloads: &[Payload]) -> Projection {
    let mut texts: [Option<String>; TEXTS.len()] = Default::default();
    let mut set = |name: &str, value: Option<&str>| {
        if let Some(index) = TEXTS.iter().position(|column| *column == name) {
            texts[index] = value.map(clean);
        }
    };
    set("kind", Some(header.kind().word()));
    set("endpoint", Some(&header.stream.endpoint));
    set("node", Some(&header.node));
    set("cluster", Some(&header.cluster));
    let (mut seen_at, mut deliveries, mut outcomes) = (None, Vec::new(), Vec::new());
    match &header.content {
        Content::Body(Body::Accepted(accepted)) => {
            seen_at = Some(accepted.seen_at_nanos);
            set_accepted(&mut set, accepted);
            set_payload(&mut set, payloads);
            deliveries = delivery_rows(accepted);
        }
        Content::Body(Body::Outcome(outcome)) => {
            seen_at = Some(outcome.seen_at_nanos);
            outcomes = outcome
                .deliveries
                .iter()
                .map(|delivery| OutcomeRow {
                    event: outcome.event,
                    bare: indexed(&delivery.bare),
                    occupant: delivery.occupant.as_deref().map(clean),
                    resources: delivery.resources.iter().map(|resource| clean(resource)).collect(),
                    result: delivery.result.word().to_owned(),
                    reason: delivery.reason.as_deref().map(clean),
                })
                .collect();
        }
        Content::Body(Body::Gap(gap)) => set("condition", Some(gap.reason.word())),
        Content::Body(Body::Missed(missed)) => {
            seen_at = Some(missed.seen_at_nanos);
            set("from_jid", Some(&missed.jid));
            set("from_bare", Some(&indexed(bare(&missed.jid))));
            set("type", Some(&missed.event));
        }
        Content::Body(Body::Tally(_)) | Content::Open(_) | Content::Close => {}
    }
    Projection {
        uuids: [Some(header.stream.journal), Some(header.stream.incarnation), header.event()],
        ints: [
            Some(i64::try_from(header.sequence).unwrap_or(i64::MAX)),
            Some(micros(header.recorded_at_nanos)),
            seen_at.map(micros),
        ],
        texts,
        deliveries,
        outcomes,
    }
}

fn set_accepted(set: &mut impl FnMut(&str, Option<&str>), accepted: &Accepted) {
    set("host", Some(&accepted.host));
    set("ingress", Some(accepted.ingress.word()));
    set("from_jid", Some(&accepted.from));
    set("from_bare", Some(&indexed(bare(&accepted.from))));
    set("to_jid", accepted.to.as_deref());
    set("to_bare", accepted.to.as_deref().map(|to| indexed(bare(to))).as_deref());
    set("target", Some(accepted.target.word()));
    set("room", accepted.room.as_deref().map(indexed).as_deref());
    set("type", Some(&accepted.message_type));
    set("stanza_id", accepted.stanza_id.as_deref());
    set("origin_id", accepted.origin_id.as_deref());
    set("action", Some(accepted.action.word()));
    set("condition", accepted.condition.as_deref());
    set("session", accepted.session.as_deref());
    let mut directions = accepted.recipients.iter().map(|recipient| recipient.direction);
    if let Some(first) = directions.next() {
        set("direction", Some(if directions.all(|other| other == first) { first.word() } else { "mixed" }));
    }
}

fn set_payload(set: &mut impl FnMut(&str, Option<&str>), payloads: &[Payload]) {
    let plain =
        payloads.iter().find(|payload| payload.number == 1 && matches!(payload.form, Form::Plain { .. }));
    let Some(facts) = plain
        .and_then(|payload| std::str::from_utf8(&payload.bytes).ok())
        .and_then(|stanza| MessageFacts::parse(stanza).ok())
    else {
        return;
    };
    set("thread", facts.thread.as_deref());
    set("subject", facts.subject.as_deref());
    set("body", facts.body.as_deref());
    set("html", facts.html.as_deref());
    set("label", facts.label.as_deref());
}

fn delivery_rows(accepted: &Accepted) -> Vec<DeliveryRow> {
    accepted
        .recipients
        .iter()
        .map(|recipient| DeliveryRow {
            bare: indexed(&recipient.bare),
            occupant: recipient.occupant.as_deref().map(clean),
            resources: recipient.resources.iter().map(|resource| clean(resource)).collect(),
            direction: recipient.direction.word().to_owned(),
        })
        .collect()
}

/// The columns of the payload are left out of comparison where the payload was erased or sealed.
pub fn without_payload(mut projection: Projection) -> Projection {
    projection.texts[FROM_PAYLOAD..].fill(None);
    projection
}

/// The bare part of a JID as a server writes it.
#[must_use]
pub fn bare(jid: &str) -> &str {
    jid.split_once('/').map_or(jid, |(bare, _)| bare)
}

/// U+0000 is no text to PostgreSQL.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn indexed(text: &str) -> String {
    let mut end = text.len().min(INDEXED_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    clean(&text[..end])
}

fn micros(nanos: i64) -> i64 {
    nanos.div_euclid(1000)
}
