//! Reading rows back, alike from both databases: the SQL is shared, the drivers' types are not.

use super::Connection;
use super::projection::{DeliveryRow, INTS, OutcomeRow, Projection, TEXTS, TIMES, UUIDS};
use crate::record::{Hash, StreamId};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, PgConnection, Row, SqliteConnection};
use std::collections::HashMap;
use uuid::Uuid;

/// A record as an archive holds it. Nothing of it is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedRecord {
    /// The column `id`.
    pub id: Uuid,
    /// The header's bytes.
    pub header: Vec<u8>,
    /// The column `hash`.
    pub hash: Vec<u8>,
    /// The column `previous`.
    pub previous: Vec<u8>,
    /// The column `parser`: which version of [`super::projection`] made the columns that follow.
    pub parser: i64,
    /// Every other column, and the rows of the tables beside.
    pub projection: Projection,
    /// The payloads.
    pub payloads: Vec<ArchivedPayload>,
}

/// A payload as an archive holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedPayload {
    /// Its number.
    pub number: i64,
    /// Its form.
    pub form: i64,
    /// Its salt, where plain.
    pub salt: Option<Vec<u8>>,
    /// Its bytes; `None` where it was erased.
    pub bytes: Option<Vec<u8>>,
}

/// A parameter.
#[derive(Debug, Clone)]
pub(crate) enum Bind {
    Uuid(Uuid),
    Text(String),
    Int(i64),
    Bytes(Vec<u8>),
}

/// A column as it is selected, so that both databases give the same types.
fn selected(postgres: bool, column: &str) -> String {
    if postgres && TIMES.contains(&column) {
        format!("(extract(epoch FROM r.{column}) * 1000000)::bigint")
    } else {
        format!("r.{column}")
    }
}

fn select(postgres: bool, tail: &str) -> String {
    let columns: Vec<String> =
        UUIDS.iter().chain(&INTS).chain(&TEXTS).map(|column| selected(postgres, column)).collect();
    format!(
        "SELECT r.id, r.header, r.hash, r.previous, CAST(r.parser AS bigint), {} FROM record r {}",
        columns.join(", "),
        times(postgres, tail)
    )
}

/// Writes `{time:$1}` in a condition as the database compares times.
fn times(postgres: bool, tail: &str) -> String {
    let mut out = String::new();
    let mut rest = tail;
    while let Some((before, after)) = rest.split_once("{time:") {
        let (value, after) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(before);
        match postgres {
            true => {
                out.push_str(&format!("'epoch'::timestamptz + {value}::bigint * interval '1 microsecond'"))
            }
            false => out.push_str(value),
        }
        rest = after;
    }
    out + rest
}

macro_rules! database {
    ($module:ident, $connection:ty, $row:ty) => {
        mod $module {
            use super::*;

            pub async fn fetch(
                connection: &mut $connection,
                sql: String,
                binds: &[Bind],
            ) -> Result<Vec<$row>, sqlx::Error> {
                let mut query = sqlx::query(AssertSqlSafe(sql));
                for bind in binds {
                    query = match bind {
                        Bind::Uuid(value) => query.bind(*value),
                        Bind::Text(value) => query.bind(value.clone()),
                        Bind::Int(value) => query.bind(*value),
                        Bind::Bytes(value) => query.bind(value.clone()),
                    };
                }
                query.fetch_all(connection).await
            }

            pub fn record(row: &$row) -> Result<ArchivedRecord, sqlx::Error> {
                let mut projection = Projection::default();
                let mut column = 5;
                for value in &mut projection.uuids {
                    *value = row.try_get(column)?;
                    column += 1;
                }
                for value in &mut projection.ints {
                    *value = row.try_get(column)?;
                    column += 1;
                }
                for value in &mut projection.texts {
                    *value = row.try_get(column)?;
                    column += 1;
                }
                Ok(ArchivedRecord {
                    id: row.try_get(0)?,
                    header: row.try_get(1)?,
                    hash: row.try_get(2)?,
                    previous: row.try_get(3)?,
                    parser: row.try_get(4)?,
                    projection,
                    payloads: Vec::new(),
                })
            }

            /// Adds what the tables beside hold for these records.
            pub async fn complete(
                connection: &mut $connection,
                records: &mut [ArchivedRecord],
                resources: &str,
            ) -> Result<(), sqlx::Error> {
                let ids: Vec<Bind> = records.iter().map(|record| Bind::Uuid(record.id)).collect();
                let places: HashMap<Uuid, usize> =
                    records.iter().enumerate().map(|(index, record)| (record.id, index)).collect();
                let among = (1..=ids.len()).map(|index| format!("${index}")).collect::<Vec<_>>().join(", ");
                let sql = |columns: &str, table: &str, order: &str| {
                    format!("SELECT record_id, {columns} FROM {table} WHERE record_id IN ({among}) ORDER BY record_id, {order}")
                };
                let payloads = sql("CAST(number AS bigint), CAST(form AS bigint), salt, bytes", "payload", "number");
                for row in fetch(connection, payloads, &ids).await? {
                    let Some(index) = places.get(&row.try_get(0)?) else { continue };
                    records[*index].payloads.push(ArchivedPayload {
                        number: row.try_get(1)?,
                        form: row.try_get(2)?,
                        salt: row.try_get(3)?,
                        bytes: row.try_get(4)?,
                    });
                }
                let deliveries = sql(&format!("bare, occupant, {resources}, direction"), "delivery", "ordinal");
                for row in fetch(connection, deliveries, &ids).await? {
                    let Some(index) = places.get(&row.try_get(0)?) else { continue };
                    records[*index].projection.deliveries.push(DeliveryRow {
                        bare: row.try_get(1)?,
                        occupant: row.try_get(2)?,
                        resources: list(row.try_get(3)?),
                        direction: row.try_get(4)?,
                    });
                }
                let outcomes = sql(&format!("bare, occupant, {resources}, result, reason, event"), "outcome", "ordinal");
                for row in fetch(connection, outcomes, &ids).await? {
                    let Some(index) = places.get(&row.try_get(0)?) else { continue };
                    records[*index].projection.outcomes.push(OutcomeRow {
                        bare: row.try_get(1)?,
                        occupant: row.try_get(2)?,
                        resources: list(row.try_get(3)?),
                        result: row.try_get(4)?,
                        reason: row.try_get(5)?,
                        event: row.try_get(6)?,
                    });
                }
                Ok(())
            }
        }
    };
}

database!(pg, PgConnection, PgRow);
database!(lite, SqliteConnection, SqliteRow);

/// A list as it is written into a column.
pub(crate) fn list_text(list: &[String]) -> String {
    serde_json::Value::from(list).to_string()
}

// What is no list is an altered column; it then differs from the header, which `verify` says.
fn list(text: String) -> Vec<String> {
    serde_json::from_str(&text).unwrap_or_else(|_| vec![text])
}

pub(crate) async fn records(
    connection: &mut Connection,
    tail: &str,
    binds: &[Bind],
) -> Result<Vec<ArchivedRecord>, sqlx::Error> {
    let mut records;
    match connection {
        Connection::Postgres(connection) => {
            let rows = pg::fetch(connection, select(true, tail), binds).await?;
            records = rows.iter().map(pg::record).collect::<Result<Vec<_>, _>>()?;
            if !records.is_empty() {
                pg::complete(connection, &mut records, "resources::text").await?;
            }
        }
        Connection::Sqlite(connection) => {
            let rows = lite::fetch(connection, select(false, tail), binds).await?;
            records = rows.iter().map(lite::record).collect::<Result<Vec<_>, _>>()?;
            if !records.is_empty() {
                lite::complete(connection, &mut records, "resources").await?;
            }
        }
    }
    Ok(records)
}

/// The record with the highest sequence not above `until`; where several stand there, the one with `hash`, if it is among them.
pub(crate) async fn position(
    connection: &mut Connection,
    stream: &StreamId,
    until: i64,
    hash: &Hash,
) -> Result<Option<(i64, Vec<u8>)>, sqlx::Error> {
    let mut binds = of_stream(stream, until);
    binds.push(Bind::Bytes(hash.to_vec()));
    let exactly = format!("SELECT sequence, hash {OF_STREAM} AND sequence = $4 AND hash = $5 LIMIT 1");
    if let Some(found) = place(connection, exactly, &binds).await? {
        return Ok(Some(found));
    }
    binds.pop();
    let before =
        format!("SELECT sequence, hash {OF_STREAM} AND sequence <= $4 ORDER BY sequence DESC LIMIT 1");
    place(connection, before, &binds).await
}

/// How many sequences up to `until` are there. Answered from an index.
pub(crate) async fn count_stream(
    connection: &mut Connection,
    stream: &StreamId,
    until: i64,
) -> Result<i64, sqlx::Error> {
    let sql = format!(
        "SELECT CAST(count(DISTINCT sequence) AS bigint) {OF_STREAM} AND sequence >= 0 AND sequence <= $4"
    );
    let binds = of_stream(stream, until);
    match connection {
        Connection::Postgres(connection) => {
            pg::fetch(connection, sql, &binds).await?.first().map_or(Ok(0), |row| row.try_get(0))
        }
        Connection::Sqlite(connection) => {
            lite::fetch(connection, sql, &binds).await?.first().map_or(Ok(0), |row| row.try_get(0))
        }
    }
}

const OF_STREAM: &str = "FROM record WHERE journal = $1 AND endpoint = $2 AND incarnation = $3";

fn of_stream(stream: &StreamId, until: i64) -> Vec<Bind> {
    vec![
        Bind::Uuid(stream.journal),
        Bind::Text(stream.endpoint.clone()),
        Bind::Uuid(stream.incarnation),
        Bind::Int(until),
    ]
}

async fn place(
    connection: &mut Connection,
    sql: String,
    binds: &[Bind],
) -> Result<Option<(i64, Vec<u8>)>, sqlx::Error> {
    match connection {
        Connection::Postgres(connection) => {
            let rows = pg::fetch(connection, sql, binds).await?;
            rows.first().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
        }
        Connection::Sqlite(connection) => {
            let rows = lite::fetch(connection, sql, binds).await?;
            rows.first().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose()
        }
    }
}

/// How many rows `table` has.
pub(crate) async fn count(connection: &mut Connection, table: &str) -> Result<i64, sqlx::Error> {
    let sql = format!("SELECT CAST(count(*) AS bigint) FROM {table}");
    match connection {
        Connection::Postgres(connection) => {
            pg::fetch(connection, sql, &[]).await?.first().map_or(Ok(0), |row| row.try_get(0))
        }
        Connection::Sqlite(connection) => {
            lite::fetch(connection, sql, &[]).await?.first().map_or(Ok(0), |row| row.try_get(0))
        }
    }
}

/// The highest version noted; `None` if none is.
pub(crate) async fn schema_version(connection: &mut Connection) -> Result<Option<i64>, sqlx::Error> {
    let sql = "SELECT CAST(max(version) AS bigint) FROM schema_version".to_owned();
    match connection {
        Connection::Postgres(connection) => match pg::fetch(connection, sql, &[]).await?.first() {
            Some(row) => row.try_get(0),
            None => Ok(None),
        },
        Connection::Sqlite(connection) => match lite::fetch(connection, sql, &[]).await?.first() {
            Some(row) => row.try_get(0),
            None => Ok(None),
        },
    }
}
