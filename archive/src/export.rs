//! A copy of an archive in one SQLite file: every record as it stands there, header bytes, columns and payloads alike, so that
//! `verify` finds in the copy what it finds in the original (EV-1).
//!
//! It repairs nothing and leaves nothing out of what belongs to a record. Rows that belong to none are not copied; verifying the
//! original names them. A file that exists is never touched; a copy that was not finished does not bear the file's name.

use crate::endpoint::projection::{INTS, TEXTS, UUIDS};
use crate::endpoint::{Archive, ArchivedRecord, EndpointError, Roles, Target, insert_rows, migrate};
use crate::pages::Pages;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Why an archive was not copied.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file is there already.
    #[error("{0} exists already: name another file, or remove it first")]
    Exists(PathBuf),
    /// The archive cannot be read, or the copy cannot be made.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The copy cannot be written.
    #[error("{file} cannot be written: {error}", file = file.display())]
    Write {
        /// Which file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A row does not fit into the copy, because it lacks what no record lacks.
    #[error(
        "record {id} cannot be copied ({error}): it was altered; cartulary verify on the original tells how"
    )]
    Row {
        /// Which record.
        id: uuid::Uuid,
        /// What the copy said of it.
        error: sqlx::Error,
    },
}

/// Copies `archive` into a new file; `progress` hears after each page how many records were copied. Returns how many.
pub async fn export(
    archive: &mut Archive,
    file: &Path,
    mut progress: impl FnMut(u64),
) -> Result<u64, ExportError> {
    if file.try_exists().map_err(|error| ExportError::Write { file: file.to_owned(), error })? {
        return Err(ExportError::Exists(file.to_owned()));
    }
    let mut unfinished = OsString::from(file);
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let failed = |error| ExportError::Write { file: unfinished.clone(), error };
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    migrate(&Target::Sqlite(unfinished.clone()), &Roles::default()).await?;
    let database = |error: sqlx::Error| failed(std::io::Error::other(error));
    let options = SqliteConnectOptions::new()
        .filename(&unfinished)
        // One file and nothing beside it, to be carried elsewhere.
        .journal_mode(SqliteJournalMode::Delete)
        .disable_statement_logging();
    let mut copy = SqliteConnection::connect_with(&options).await.map_err(database)?;
    archive.freeze().await?;
    let (mut pages, mut copied) = (Pages::default(), 0);
    while let Some(records) = pages.next(archive).await? {
        let mut transaction = copy.begin().await.map_err(database)?;
        for record in &records {
            let row = |error| ExportError::Row { id: record.id, error };
            insert(&mut transaction, record).await.map_err(row)?;
        }
        transaction.commit().await.map_err(database)?;
        copied += records.len() as u64;
        progress(copied);
    }
    archive.thaw().await?;
    copy.close().await.map_err(database)?;
    // A hard link is refused where the name is taken meanwhile, which a rename would not be.
    match std::fs::hard_link(&unfinished, file) {
        Ok(()) => std::fs::remove_file(&unfinished).map_err(failed)?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(ExportError::Exists(file.to_owned()));
        }
        // Not every file system has links.
        Err(_) => std::fs::rename(&unfinished, file).map_err(failed)?,
    }
    Ok(copied)
}

async fn insert(copy: &mut SqliteConnection, record: &ArchivedRecord) -> Result<(), sqlx::Error> {
    let columns = &record.projection;
    let names: Vec<&str> = ["id", "header", "hash", "previous", "parser"]
        .into_iter()
        .chain(UUIDS)
        .chain(INTS)
        .chain(TEXTS)
        .collect();
    let sql = statement("record", &names);
    let mut query = sqlx::query(AssertSqlSafe(sql))
        .bind(record.id)
        .bind(record.header.clone())
        .bind(record.hash.clone())
        .bind(record.previous.clone())
        .bind(record.parser);
    for value in columns.uuids {
        query = query.bind(value);
    }
    for value in columns.ints {
        query = query.bind(value);
    }
    for value in &columns.texts {
        query = query.bind(value.clone());
    }
    query.execute(&mut *copy).await?;
    for payload in &record.payloads {
        sqlx::query(AssertSqlSafe(statement("payload", &["record_id", "number", "form", "salt", "bytes"])))
            .bind(record.id)
            .bind(payload.number)
            .bind(payload.form)
            .bind(payload.salt.clone())
            .bind(payload.bytes.clone())
            .execute(&mut *copy)
            .await?;
    }
    insert_rows(copy, record.id, columns).await
}

fn statement(table: &str, names: &[&str]) -> String {
    let values: Vec<String> = (1..=names.len()).map(|index| format!("${index}")).collect();
    format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "))
}
