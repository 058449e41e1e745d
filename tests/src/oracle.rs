//! The oracle: compares what clients said and heard with what the archive holds.
//!
//! It reads the header's verbatim bytes and the payloads, not the columns made from them, and counts records itself; whether the
//! streams hold is asked of `verify`.

use crate::postgres::{PASSWORD, Postgres, SUPERUSER};
use crate::transcript::Transcript;
use crate::world::{DATABASE, WRITER, endpoint};
use anyhow::{Context, Result, anyhow, bail, ensure};
use cartulary_archive::count::{Days, Known};
use cartulary_archive::endpoint::{Roles, Target, migrate};
use cartulary_archive::record::{
    Accepted, ActionCode, Body, Content, Form, Gap, Header, Missed, Outcome, Payload, Record, Tally,
};
use cartulary_archive::verify::Report;
use cartulary_compliance::config::EndpointTarget;
use cartulary_compliance::link::Delivery;
use minidom::Element;
use sqlx::{PgConnection, Row};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Everything in an archive, in the order of streams and sequence.
#[derive(Debug, Default)]
pub struct Archive {
    /// All records.
    pub records: Vec<Record>,
}

impl Archive {
    /// Reads the archive in a database.
    pub async fn read(postgres: &Postgres, database: &str) -> Result<Self> {
        Self::read_from(&mut postgres.connect(database).await?).await
    }

    /// Reads the archive at the other end of a connection.
    pub async fn read_from(connection: &mut PgConnection) -> Result<Self> {
        let mut payloads = BTreeMap::<Uuid, Vec<Payload>>::new();
        for row in sqlx::query("SELECT record_id, number, salt, bytes FROM cartulary.payload ORDER BY 1, 2")
            .fetch_all(&mut *connection)
            .await?
        {
            let (number, salt): (i16, Vec<u8>) = (row.try_get(1)?, row.try_get(2)?);
            let form = Form::Plain { salt: salt.try_into().map_err(|_| anyhow!("a salt has 16 bytes"))? };
            let payload = Payload { number: u8::try_from(number)?, form, bytes: row.try_get(3)? };
            payloads.entry(row.try_get(0)?).or_default().push(payload);
        }
        let sql =
            "SELECT id, header FROM cartulary.record ORDER BY journal, endpoint, incarnation, sequence, id";
        let mut records = Vec::new();
        for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
            let (id, header_bytes): (Uuid, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            let header = Header::decode(&header_bytes)?;
            records.push(Record { header_bytes, header, payloads: payloads.remove(&id).unwrap_or_default() });
        }
        Ok(Self { records })
    }

    /// Every accepted record.
    pub fn accepted(&self) -> impl Iterator<Item = (&Record, &Accepted)> {
        self.records.iter().filter_map(|record| match &record.header.content {
            Content::Body(Body::Accepted(accepted)) => Some((record, accepted)),
            _ => None,
        })
    }

    /// Every accepted record of something that was said: an error that another server sends back bears the id of what it answers.
    pub fn said(&self) -> impl Iterator<Item = (&Record, &Accepted)> {
        self.accepted().filter(|(_, accepted)| accepted.message_type != "error")
    }

    /// The one accepted record of the stanza with this id; more or fewer are an error.
    pub fn message(&self, stanza_id: &str) -> Result<(&Record, &Accepted)> {
        let found: Vec<_> = self.said().filter(|(_, a)| a.stanza_id.as_deref() == Some(stanza_id)).collect();
        match found.as_slice() {
            [one] => Ok(*one),
            many => bail!("the archive holds the message {stanza_id} {} times: {many:#?}", many.len()),
        }
    }

    /// The outcomes told of an event, in order.
    #[must_use]
    pub fn outcomes(&self, event: Uuid) -> Vec<&Outcome> {
        let of = |record: &&'_ Record| record.header.event() == Some(event);
        self.records
            .iter()
            .filter(of)
            .filter_map(|record| match &record.header.content {
                Content::Body(Body::Outcome(outcome)) => Some(outcome),
                _ => None,
            })
            .collect()
    }

    /// Stanza ids of what a sender (full JID) said, in the order of records.
    #[must_use]
    pub fn said_by(&self, sender: &str) -> Vec<&str> {
        let by_them = |accepted: &&Accepted| accepted.from == sender;
        let ids = self.said().map(|(_, accepted)| accepted).filter(by_them);
        ids.filter_map(|accepted| accepted.stanza_id.as_deref()).collect()
    }

    /// What became of a message for one account, in the order it was told.
    pub fn results(&self, stanza_id: &str, bare: &str) -> Result<Vec<&Delivery>> {
        let (_, accepted) = self.message(stanza_id)?;
        let told = self.outcomes(accepted.event).into_iter().flat_map(|outcome| &outcome.deliveries);
        Ok(told.filter(|delivery| delivery.bare == bare).collect())
    }

    /// What each process of the server last counted of each day.
    #[must_use]
    pub fn tallies(&self) -> Vec<&Tally> {
        let mut last = BTreeMap::new();
        for record in &self.records {
            if let Content::Body(Body::Tally(tally)) = &record.header.content {
                last.insert((tally.instance.as_str(), tally.day), tally);
            }
        }
        last.into_values().collect()
    }

    /// Every gap record.
    pub fn gaps(&self) -> impl Iterator<Item = &Gap> {
        self.records.iter().filter_map(|record| match &record.header.content {
            Content::Body(Body::Gap(gap)) => Some(gap),
            _ => None,
        })
    }

    /// Every login and logout that a compliance server has not seen, in order.
    pub fn missed(&self) -> impl Iterator<Item = &Missed> {
        self.records.iter().filter_map(|record| match &record.header.content {
            Content::Body(Body::Missed(missed)) => Some(missed),
            _ => None,
        })
    }
}

/// The text of a message as it was delivered.
pub fn text_of(record: &Record) -> Result<String> {
    let payload = record
        .payloads
        .iter()
        .max_by_key(|payload| payload.number)
        .context("an accepted record without payload")?;
    let stanza = stanza_of(&payload.bytes)?;
    Ok(stanza.get_child("body", "jabber:client").map(Element::text).unwrap_or_default())
}

/// A payload's stanza.
pub fn stanza_of(payload: &[u8]) -> Result<Element> {
    Element::from_reader_with_prefixes(payload, "jabber:client".to_owned())
        .with_context(|| format!("the archived stanza is not XML: {}", String::from_utf8_lossy(payload)))
}

/// What must hold whatever happened: whatever a session received is archived exactly once, as delivered, with the same text; and
/// what came back to its sender as refused reached nobody.
pub fn nothing_is_unrecorded(transcript: &Transcript, archive: &Archive) -> Result<()> {
    let archived = by_stanza_id(archive)?;
    let mut wrong = Vec::new();
    for (jid, heard) in
        transcript.received.iter().flat_map(|(jid, heard)| heard.iter().map(move |h| (jid, h)))
    {
        match archived.get(heard.id.as_str()).map(Vec::as_slice) {
            None => wrong.push(format!("{jid} received {}, and it is not archived", heard.id)),
            Some([one]) if !one.delivered => {
                wrong.push(format!("{jid} received {}, archived as not delivered", heard.id))
            }
            Some([one]) if one.text != heard.text => {
                wrong
                    .push(format!("{jid} received {}: {:?}, archived: {:?}", heard.id, heard.text, one.text));
            }
            Some([_]) => {}
            Some(many) => {
                wrong.push(format!("{jid} received {}, and it is archived {} times", heard.id, many.len()))
            }
        }
        if let Some(condition) = transcript.refused.get(&heard.id) {
            wrong.push(format!("{jid} received {}, though its sender was told {condition}", heard.id));
        }
    }
    let doubled = archived.iter().filter(|(_, times)| times.len() > 1);
    wrong.extend(doubled.map(|(id, times)| format!("{id} is archived {} times", times.len())));
    report(wrong)
}

/// What P3 promises: the records of each sender are in the order in which they spoke.
pub fn each_sender_is_in_order(transcript: &Transcript, archive: &Archive) -> Result<()> {
    let mut spoken = BTreeMap::<&str, Vec<&str>>::new();
    for said in &transcript.said {
        spoken.entry(&said.from).or_default().push(&said.id);
    }
    let mut wrong = Vec::new();
    for (sender, ids) in spoken {
        let archived = archive.said_by(sender);
        if archived != ids {
            wrong.push(format!("{sender} said {ids:?}, and the records are {archived:?}"));
        }
    }
    report(wrong)
}

/// What must hold where nothing failed: whatever was said is archived exactly once, nothing else is, and nothing was refused.
pub fn everything_is_archived_once(transcript: &Transcript, archive: &Archive) -> Result<()> {
    nothing_is_unrecorded(transcript, archive)?;
    let mut archived = by_stanza_id(archive)?;
    let mut wrong = Vec::new();
    for said in &transcript.said {
        let times = archived.remove(said.id.as_str()).map_or(0, |times| times.len());
        if times != 1 {
            wrong.push(format!(
                "{} said {} to {}, and it is archived {times} times",
                said.from, said.id, said.to
            ));
        }
    }
    wrong.extend(archived.keys().map(|id| format!("{id} is archived, and nobody said it")));
    wrong.extend(transcript.refused.iter().map(|(id, condition)| format!("{id} was refused: {condition}")));
    report(wrong)
}

struct Message {
    text: String,
    delivered: bool,
}

fn by_stanza_id(archive: &Archive) -> Result<BTreeMap<&str, Vec<Message>>> {
    let mut messages = BTreeMap::<&str, Vec<Message>>::new();
    for (record, accepted) in archive.said() {
        let id = accepted.stanza_id.as_deref().unwrap_or_default();
        let delivered = matches!(accepted.action, ActionCode::Deliver | ActionCode::Replace);
        messages.entry(id).or_default().push(Message { text: text_of(record)?, delivered });
    }
    Ok(messages)
}

fn report(wrong: Vec<String>) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{} things are wrong:\n{}", wrong.len(), wrong.join("\n"))
}

/// Makes a database for an archive, with the writer's role, and the archive's tables in it if `migrated`.
pub async fn create_database(postgres: &Postgres, database: &str, migrated: bool) -> Result<()> {
    let role = format!(
        "DO $$ BEGIN CREATE ROLE {WRITER} LOGIN PASSWORD '{PASSWORD}'; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    );
    postgres.sql("postgres", &role).await?;
    postgres.sql("postgres", &format!("CREATE DATABASE {database}")).await?;
    if migrated {
        migrate(&owner(postgres, database), &Roles { writer: Some(WRITER.to_owned()), reader: None }).await?;
    }
    Ok(())
}

/// Makes an archive look as if a later version had migrated it.
pub async fn pretend_newer_schema(postgres: &Postgres, database: &str) -> Result<()> {
    postgres.sql(database, "INSERT INTO cartulary.schema_version (version) VALUES (999)").await
}

/// The archive's tables, with their schema, partitions not among them.
pub async fn tables(postgres: &Postgres, database: &str) -> Result<Vec<String>> {
    let sql = "SELECT 'cartulary.' || relname FROM pg_class WHERE relnamespace = 'cartulary'::regnamespace \
        AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1";
    let rows = sqlx::query(sql).fetch_all(&mut postgres.connect(database).await?).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// The archive in [`DATABASE`], with all rights.
pub async fn open(postgres: &Postgres) -> Result<cartulary_archive::endpoint::Archive> {
    Ok(cartulary_archive::endpoint::Archive::open(&owner(postgres, DATABASE)).await?)
}

/// The database as its superuser reaches it.
#[must_use]
pub fn owner(postgres: &Postgres, database: &str) -> Target {
    let EndpointTarget::PostgreSql(mut target) = endpoint(postgres, database).target else {
        unreachable!("the tests' endpoints are PostgreSQL");
    };
    SUPERUSER.clone_into(&mut target.username);
    Target::from_config(&EndpointTarget::PostgreSql(target), std::path::Path::new(""))
}

/// What `verify` found in the tests' archive.
#[derive(Debug)]
pub struct Verified(pub Report);

impl Verified {
    /// Nothing is wrong, and nothing is known to be missing.
    pub fn holds(&self) -> Result<()> {
        self.holds_but_for_gaps()?;
        ensure!(self.0.gaps.is_empty(), "{}", self.text());
        Ok(())
    }

    /// Nothing is wrong but what gap records tell.
    pub fn holds_but_for_gaps(&self) -> Result<()> {
        ensure!(self.0.consistent && self.0.findings.is_empty() && self.0.records > 0, "{}", self.text());
        Ok(())
    }

    /// The report as people read it.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.to_string()
    }
}

/// What the archive in [`DATABASE`] says was said, recorded and archived, once every server has counted its last.
pub async fn counts(postgres: &Postgres) -> Result<cartulary_archive::count::Report> {
    let mut archive = cartulary_archive::endpoint::Archive::open(&owner(postgres, DATABASE)).await?;
    let counted = cartulary_archive::count::read(&mut archive, Days::default()).await?;
    Ok(cartulary_archive::count::judge(&[counted], &Known::default()))
}

/// Verifies the archive in [`DATABASE`].
pub async fn verify(postgres: &Postgres) -> Result<Verified> {
    Ok(Verified(cartulary_archive::verify::verify(&mut open(postgres).await?).await?))
}
