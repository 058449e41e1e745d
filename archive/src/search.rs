//! Finding messages in an archive: by person, conversation, room and time (MA-14).
//!
//! Pages follow record ids, so that a search can go on where it stopped. Deliveries and outcomes come with each message.

use crate::endpoint::Bind;
use crate::endpoint::projection::{INTS, TEXTS, TIMES, UUIDS};
use crate::endpoint::{Archive, ArchivedRecord, EndpointError};
use crate::record::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// What is looked for. Everything given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// Bare JID of a sender or recipient.
    pub person: Option<String>,
    /// Bare JID of the other side of a conversation with `person`, either way round.
    pub with: Option<String>,
    /// Room JID.
    pub room: Option<String>,
    /// Seen at or after this, microseconds since the epoch.
    pub from_micros: Option<i64>,
    /// Seen before this, microseconds since the epoch.
    pub until_micros: Option<i64>,
    /// Part of the body, subject or HTML, upper and lower case alike as far as the database knows them.
    pub text: Option<String>,
    /// Kinds of record; accepted ones if none is named.
    pub kinds: Vec<Kind>,
    /// Only records after this id.
    pub after: Option<Uuid>,
}

/// One message with what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// The record's id.
    pub id: Uuid,
    /// The other uuids, by column.
    #[serde(flatten)]
    pub uuids: BTreeMap<&'static str, Uuid>,
    /// Sequence and times, by column; times in microseconds since the epoch.
    #[serde(flatten)]
    pub numbers: BTreeMap<&'static str, i64>,
    /// Text, by column.
    #[serde(flatten)]
    pub texts: BTreeMap<&'static str, String>,
    /// Who was meant to get it.
    pub deliveries: Vec<Recipient>,
    /// What became of it, in the order in which it was told.
    pub outcomes: Vec<Told>,
    /// The stanza as it came, where its payload is plain.
    pub stanza: Option<String>,
    /// The form that was delivered, where it differs.
    pub replacement: Option<String>,
}

/// Somebody who was meant to get a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipient {
    /// The real bare JID.
    pub bare: String,
    /// The occupant JID.
    pub occupant: Option<String>,
    /// Resources.
    pub resources: Vec<String>,
    /// `inbound`, `outbound` or `internal`.
    pub direction: String,
}

/// What was told of one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// When it happened, microseconds since the epoch.
    pub at_micros: Option<i64>,
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

/// One page: at most `limit` matches after `filter.after`, in the order of their ids. Fewer than `limit` means the last one.
pub async fn page(archive: &mut Archive, filter: &Filter, limit: u32) -> Result<Vec<Match>, EndpointError> {
    let (tail, binds) = query(filter, limit);
    let records = archive.records(&tail, &binds).await?;
    let mut outcomes = outcomes(archive, &records).await?;
    Ok(records
        .into_iter()
        .map(|record| {
            let event = uuid_of(&record, "event");
            let told = if text_of(&record, "kind") == Some("outcome") {
                told(&record)
            } else {
                event.and_then(|event| outcomes.remove(&event)).unwrap_or_default()
            };
            to_match(record, told)
        })
        .collect())
}

fn query(filter: &Filter, limit: u32) -> (String, Vec<Bind>) {
    let mut binds = Vec::new();
    let mut bind = |value: Bind| {
        binds.push(value);
        format!("${}", binds.len())
    };
    let mut terms = Vec::new();
    let after = bind(Bind::Uuid(filter.after.unwrap_or_default()));
    terms.push(format!("r.id > {after}"));
    let kinds = if filter.kinds.is_empty() { &[Kind::Accepted] } else { filter.kinds.as_slice() };
    let kinds: Vec<String> = kinds.iter().map(|kind| bind(Bind::Text(kind.word().to_owned()))).collect();
    terms.push(format!("r.kind IN ({})", kinds.join(", ")));
    for person in [&filter.person, &filter.with].into_iter().flatten() {
        let person = bind(Bind::Text(person.clone()));
        terms.push(format!(
            "r.id IN (SELECT id FROM record WHERE from_bare = {person} AND id > {after} \
             UNION SELECT id FROM record WHERE to_bare = {person} AND id > {after} \
             UNION SELECT record_id FROM delivery WHERE bare = {person} AND record_id > {after} \
             UNION SELECT record_id FROM outcome WHERE bare = {person} AND record_id > {after})"
        ));
    }
    if let Some(with) = filter.with.as_ref().filter(|_| filter.person.is_some()) {
        // Two who both got a message of a third are not in conversation.
        let person = bind(Bind::Text(filter.person.clone().unwrap_or_default()));
        let with = bind(Bind::Text(with.clone()));
        terms.push(format!("r.from_bare IN ({person}, {with})"));
    }
    if let Some(room) = &filter.room {
        let room = bind(Bind::Text(room.clone()));
        terms.push(format!("r.room = {room}"));
    }
    for (operator, micros) in [(">=", filter.from_micros), ("<", filter.until_micros)] {
        if let Some(micros) = micros {
            let micros = bind(Bind::Int(micros));
            terms.push(format!("r.seen_at {operator} {{time:{micros}}}"));
        }
    }
    if let Some(text) = &filter.text {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let text = bind(Bind::Text(format!("%{escaped}%")));
        let like = |column| format!("lower(r.{column}) LIKE lower({text}) ESCAPE '\\'");
        terms.push(format!("({} OR {} OR {})", like("body"), like("subject"), like("html")));
    }
    (format!("WHERE {} ORDER BY r.id LIMIT {limit}", terms.join(" AND ")), binds)
}

/// What was told of the events of these records, by event.
async fn outcomes(
    archive: &mut Archive,
    records: &[ArchivedRecord],
) -> Result<BTreeMap<Uuid, Vec<Told>>, EndpointError> {
    let events: Vec<Bind> = records
        .iter()
        .filter(|record| text_of(record, "kind") == Some("accepted"))
        .filter_map(|record| uuid_of(record, "event"))
        .map(Bind::Uuid)
        .collect();
    let mut found: BTreeMap<Uuid, Vec<Told>> = BTreeMap::new();
    if events.is_empty() {
        return Ok(found);
    }
    let among = (1..=events.len()).map(|index| format!("${index}")).collect::<Vec<_>>().join(", ");
    let tail = format!("WHERE r.event IN ({among}) AND r.kind = 'outcome' ORDER BY r.id");
    for record in archive.records(&tail, &events).await? {
        if let Some(event) = uuid_of(&record, "event") {
            found.entry(event).or_default().extend(told(&record));
        }
    }
    Ok(found)
}

fn told(record: &ArchivedRecord) -> Vec<Told> {
    let at_micros =
        INTS.iter().position(|column| *column == TIMES[1]).and_then(|index| record.projection.ints[index]);
    record
        .projection
        .outcomes
        .iter()
        .map(|row| Told {
            at_micros,
            bare: row.bare.clone(),
            occupant: row.occupant.clone(),
            resources: row.resources.clone(),
            result: row.result.clone(),
            reason: row.reason.clone(),
        })
        .collect()
}

fn to_match(record: ArchivedRecord, outcomes: Vec<Told>) -> Match {
    let payload = |number| {
        let payload = record.payloads.iter().find(|payload| payload.number == number && payload.form == 1)?;
        Some(String::from_utf8_lossy(payload.bytes.as_ref()?).into_owned())
    };
    let (stanza, replacement) = (payload(1), payload(2));
    let projection = record.projection;
    Match {
        id: record.id,
        uuids: named(UUIDS, projection.uuids),
        numbers: named(INTS, projection.ints),
        texts: named(TEXTS, projection.texts),
        deliveries: projection
            .deliveries
            .into_iter()
            .map(|row| Recipient {
                bare: row.bare,
                occupant: row.occupant,
                resources: row.resources,
                direction: row.direction,
            })
            .collect(),
        outcomes,
        stanza,
        replacement,
    }
}

fn named<T, const N: usize>(names: [&'static str; N], values: [Option<T>; N]) -> BTreeMap<&'static str, T> {
    names.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
}

fn uuid_of(record: &ArchivedRecord, name: &str) -> Option<Uuid> {
    record.projection.uuids[UUIDS.iter().position(|column| *column == name)?]
}

fn text_of<'a>(record: &'a ArchivedRecord, name: &str) -> Option<&'a str> {
    record.projection.texts[TEXTS.iter().position(|column| *column == name)?].as_deref()
}
