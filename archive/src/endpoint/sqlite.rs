//! SQLite: one transaction for each batch, synced when it commits.

use super::WriteReport;
use super::projection::{INTS, PARSER, Projection, TEXTS, UUIDS, project};
use super::rows::list_text;
use crate::journal::Stored;
use crate::record::{Form, Record};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;
use uuid::Uuid;

static INSERT_RECORD: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<&str> =
        ["id", "header", "hash", "previous"].into_iter().chain(UUIDS).chain(INTS).chain(TEXTS).collect();
    let values: Vec<String> = (1..=names.len()).map(|index| format!("${index}")).collect();
    format!(
        "INSERT INTO record ({}, parser) VALUES ({}, {PARSER}) ON CONFLICT (id) DO NOTHING",
        names.join(", "),
        values.join(", ")
    )
});

/// The name of an endpoint's file in the folder of a sidecar's embedded archives: sidecars write it, the command line finds it.
#[must_use]
pub fn embedded_file_name(endpoint: &str) -> String {
    format!("{}.sqlite", crate::file_name::escape(endpoint))
}

/// The endpoints whose files lie in such a folder, in order of their names. A folder that was not made yet has none.
pub fn embedded_archives(folder: &Path) -> std::io::Result<Vec<String>> {
    let files = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files?,
    };
    let mut endpoints = Vec::new();
    for file in files {
        let name = file?.file_name();
        let endpoint = name.to_str().and_then(|name| name.strip_suffix(".sqlite"));
        endpoints.extend(endpoint.and_then(crate::file_name::unescape));
    }
    endpoints.sort_unstable();
    Ok(endpoints)
}

pub async fn open(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging();
    SqliteConnection::connect_with(&options).await
}

pub async fn write(
    connection: &mut SqliteConnection,
    records: &[Stored],
) -> Result<WriteReport, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut report = WriteReport::default();
    for stored in records {
        let record = &stored.record;
        let columns = project(&record.header, &record.payloads);
        if insert_record(&mut transaction, record, &columns).await? {
            insert_beside(&mut transaction, record, &columns).await?;
            report.inserted += 1;
            continue;
        }
        let row = sqlx::query("SELECT hash FROM record WHERE id = $1")
            .bind(record.header.id)
            .fetch_one(&mut *transaction)
            .await?;
        if row.try_get::<Vec<u8>, _>(0)? == record.hash() {
            report.repeated += 1;
        } else {
            report.conflicting.push(record.header.id);
        }
    }
    transaction.commit().await?;
    Ok(report)
}

async fn insert_record(
    connection: &mut SqliteConnection,
    record: &Record,
    columns: &Projection,
) -> Result<bool, sqlx::Error> {
    let mut query = sqlx::query(INSERT_RECORD.as_str())
        .bind(record.header.id)
        .bind(record.header_bytes.clone())
        .bind(record.hash().to_vec())
        .bind(record.header.previous.to_vec());
    for value in columns.uuids {
        query = query.bind(value);
    }
    for value in columns.ints {
        query = query.bind(value);
    }
    for value in &columns.texts {
        query = query.bind(value.clone());
    }
    Ok(query.execute(connection).await?.rows_affected() == 1)
}

async fn insert_beside(
    connection: &mut SqliteConnection,
    record: &Record,
    columns: &Projection,
) -> Result<(), sqlx::Error> {
    let id = record.header.id;
    for payload in &record.payloads {
        let salt = match &payload.form {
            Form::Plain { salt } => Some(salt.to_vec()),
            Form::Sealed => None,
        };
        sqlx::query("INSERT INTO payload (record_id, number, form, salt, bytes) VALUES ($1, $2, $3, $4, $5)")
            .bind(id)
            .bind(i64::from(payload.number))
            .bind(i64::from(payload.form.code()))
            .bind(salt)
            .bind(payload.bytes.clone())
            .execute(&mut *connection)
            .await?;
    }
    insert_rows(connection, id, columns).await
}

/// Writes the rows of a record's deliveries and outcomes.
pub(crate) async fn insert_rows(
    connection: &mut SqliteConnection,
    id: Uuid,
    columns: &Projection,
) -> Result<(), sqlx::Error> {
    for (ordinal, row) in (0i64..).zip(&columns.deliveries) {
        sqlx::query(
            "INSERT INTO delivery (record_id, ordinal, bare, occupant, resources, direction) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(id)
        .bind(ordinal)
        .bind(row.bare.clone())
        .bind(row.occupant.clone())
        .bind(list_text(&row.resources))
        .bind(row.direction.clone())
        .execute(&mut *connection)
        .await?;
    }
    for (ordinal, row) in (0i64..).zip(&columns.outcomes) {
        sqlx::query(
            "INSERT INTO outcome (record_id, ordinal, event, bare, occupant, resources, result, reason) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(id)
        .bind(ordinal)
        .bind(row.event)
        .bind(row.bare.clone())
        .bind(row.occupant.clone())
        .bind(list_text(&row.resources))
        .bind(row.result.clone())
        .bind(row.reason.clone())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
