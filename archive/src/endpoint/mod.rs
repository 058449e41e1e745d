//! Archive endpoints: databases that take records and are read back by `verify` and `search`.
//!
//! Writing is idempotent: a record is known by its id, and one that is there already is compared by hash. A batch is written
//! whole or not at all. Nothing here retries, bisects or remembers; [`crate::drain`] does.

mod error;
mod migrate;
mod postgres;
pub mod projection;
mod rows;
mod sqlite;
mod target;

pub use error::EndpointError;
pub use migrate::{Migrated, Roles, SCHEMA_VERSION, migrate};
pub use rows::{ArchivedPayload, ArchivedRecord};
pub(crate) use sqlite::insert_rows;
pub use sqlite::{embedded_archives, embedded_file_name};
pub use target::Target;

use crate::journal::Stored;
use crate::record::{Hash, StreamId};
use error::classify;
pub(crate) use error::classify as classified;
pub(crate) use rows::Bind;
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use std::future::Future;
use std::time::Duration;
use tokio::time::error::Elapsed;
use uuid::Uuid;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a batch may take. A database that hangs longer counts as unreachable.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteReport {
    /// Records that were new.
    pub inserted: u64,
    /// Records that were there already, equal.
    pub repeated: u64,
    /// Records whose id is there with another hash: what the archive holds was changed, or made up.
    pub conflicting: Vec<Uuid>,
}

/// Something that takes records.
pub trait Endpoint: Send + 'static {
    /// Connects, and checks schema version and rights.
    fn connect(&mut self) -> impl Future<Output = Result<(), EndpointError>> + Send;
    /// What it is, once connected: product and version, for people.
    fn about(&self) -> String;
    /// The highest sequence of a stream there that is not above `until`, and that record's hash; where several records stand at one
    /// place, the one with `hash` if it is among them. What stands above `until` was not written by whoever asks.
    fn position(
        &mut self,
        stream: &StreamId,
        until: u64,
        hash: &Hash,
    ) -> impl Future<Output = Result<Option<(u64, Hash)>, EndpointError>> + Send;
    /// How many sequences of a stream up to `until` are there.
    fn count(
        &mut self,
        stream: &StreamId,
        until: u64,
    ) -> impl Future<Output = Result<u64, EndpointError>> + Send;
    /// Writes a batch, whole or not at all; returns when it is durable there.
    fn write(
        &mut self,
        records: &[Stored],
    ) -> impl Future<Output = Result<WriteReport, EndpointError>> + Send;
}

/// A connection to either database.
pub(crate) enum Connection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// An archive in a SQL database, written to.
pub struct SqlEndpoint {
    target: Target,
    connection: Option<Connection>,
    about: String,
}

impl SqlEndpoint {
    /// An endpoint that is not connected yet.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, connection: None, about: String::new() }
    }

    async fn connect_checked(&self) -> Result<(Connection, String), EndpointError> {
        let mut connection = open(&self.target).await?;
        let place = self.target.place();
        let about = match &mut connection {
            Connection::Postgres(postgres) => postgres::check_server(postgres, &place).await?,
            Connection::Sqlite(_) => "SQLite".to_owned(),
        };
        check_version(&mut connection, &place).await?;
        if let Connection::Postgres(postgres) = &mut connection {
            postgres::check_rights(postgres, &place).await?;
        }
        Ok((connection, about))
    }

    fn connected(&mut self) -> Result<&mut Connection, EndpointError> {
        self.connection.as_mut().ok_or_else(|| EndpointError::unreachable("not connected"))
    }

    /// What came of a question. A peer that vanished without a word says nothing for ever: its connection is not used again.
    fn answered<T>(&mut self, asked: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, EndpointError> {
        let place = self.target.place();
        match asked {
            Ok(answer) => answer.map_err(|error| classify(&place, &error)),
            Err(_) => {
                self.connection = None;
                let seconds = WRITE_TIMEOUT.as_secs();
                Err(EndpointError::unreachable(format!("{place} did not answer within {seconds} seconds")))
            }
        }
    }
}

impl Endpoint for SqlEndpoint {
    async fn connect(&mut self) -> Result<(), EndpointError> {
        self.connection = None;
        let (connection, about) = self.connect_checked().await?;
        (self.connection, self.about) = (Some(connection), about);
        Ok(())
    }

    fn about(&self) -> String {
        self.about.clone()
    }

    async fn position(
        &mut self,
        stream: &StreamId,
        until: u64,
        hash: &Hash,
    ) -> Result<Option<(u64, Hash)>, EndpointError> {
        let until = i64::try_from(until).unwrap_or(i64::MAX);
        let asking = rows::position(self.connected()?, stream, until, hash);
        let found = tokio::time::timeout(WRITE_TIMEOUT, asking).await;
        let found = self.answered(found)?;
        Ok(found.and_then(|(sequence, hash)| Some((u64::try_from(sequence).ok()?, hash.try_into().ok()?))))
    }

    async fn count(&mut self, stream: &StreamId, until: u64) -> Result<u64, EndpointError> {
        let until = i64::try_from(until).unwrap_or(i64::MAX);
        let count =
            tokio::time::timeout(WRITE_TIMEOUT, rows::count_stream(self.connected()?, stream, until)).await;
        Ok(self.answered(count)?.unsigned_abs())
    }

    async fn write(&mut self, records: &[Stored]) -> Result<WriteReport, EndpointError> {
        let place = self.target.place();
        // A connection that was given up in the middle of a batch is not used again.
        let mut connection =
            self.connection.take().ok_or_else(|| EndpointError::unreachable("not connected"))?;
        let writing = async {
            match &mut connection {
                Connection::Postgres(postgres) => postgres::write(postgres, records).await,
                Connection::Sqlite(sqlite) => sqlite::write(sqlite, records).await,
            }
        };
        match tokio::time::timeout(WRITE_TIMEOUT, writing).await {
            Ok(Ok(report)) => {
                self.connection = Some(connection);
                Ok(report)
            }
            Ok(Err(error)) => {
                let error = classify(&place, &error);
                if matches!(error, EndpointError::Rejected { .. }) {
                    self.connection = Some(connection);
                }
                Err(error)
            }
            Err(_) => Err(EndpointError::unreachable(format!(
                "{place} did not take a batch within {} seconds",
                WRITE_TIMEOUT.as_secs()
            ))),
        }
    }
}

/// An archive that is read: by the reader role, or from a copy of a SQLite file.
pub struct Archive {
    pub(crate) connection: Connection,
    place: String,
}

impl Archive {
    /// Connects for reading.
    pub async fn open(target: &Target) -> Result<Self, EndpointError> {
        let place = target.place();
        let mut connection = open(target).await?;
        check_version(&mut connection, &place).await?;
        Ok(Self { connection, place })
    }

    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Begins a view of the archive in which later writes do not show, so that many pages fit together.
    pub(crate) async fn freeze(&mut self) -> Result<(), EndpointError> {
        let result = match &mut self.connection {
            Connection::Postgres(postgres) => {
                sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    .execute(postgres)
                    .await
                    .map(drop)
            }
            Connection::Sqlite(sqlite) => sqlx::raw_sql("BEGIN").execute(sqlite).await.map(drop),
        };
        result.map_err(|error| classify(&self.place, &error))
    }

    /// Ends what [`Self::freeze`] began.
    pub(crate) async fn thaw(&mut self) -> Result<(), EndpointError> {
        let result = match &mut self.connection {
            Connection::Postgres(postgres) => sqlx::raw_sql("COMMIT").execute(postgres).await.map(drop),
            Connection::Sqlite(sqlite) => sqlx::raw_sql("COMMIT").execute(sqlite).await.map(drop),
        };
        result.map_err(|error| classify(&self.place, &error))
    }

    /// Records with everything that belongs to them. `tail` follows `FROM record r` and names its parameters `$1`, `$2`, …
    pub(crate) async fn records(
        &mut self,
        tail: &str,
        binds: &[Bind],
    ) -> Result<Vec<ArchivedRecord>, EndpointError> {
        rows::records(&mut self.connection, tail, binds).await.map_err(|error| classify(&self.place, &error))
    }

    /// How many rows a table of the archive has.
    pub(crate) async fn count(&mut self, table: &str) -> Result<u64, EndpointError> {
        let count = rows::count(&mut self.connection, table).await;
        Ok(count.map_err(|error| classify(&self.place, &error))?.unsigned_abs())
    }
}

async fn open(target: &Target) -> Result<Connection, EndpointError> {
    let place = target.place();
    let connecting = async {
        match target {
            Target::Postgres(options) => postgres::open(options).await.map(Connection::Postgres),
            Target::Sqlite(path) => sqlite::open(path).await.map(Connection::Sqlite),
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(classify(&place, &error)),
        Err(_) => Err(EndpointError::unreachable(format!(
            "{place} did not answer within {} seconds",
            CONNECT_TIMEOUT.as_secs()
        ))),
    }
}

async fn check_version(connection: &mut Connection, place: &str) -> Result<(), EndpointError> {
    use cartulary_compliance::names::reason::{NOT_MIGRATED, UNKNOWN_SCHEMA};
    let found = rows::schema_version(connection).await.map_err(|error| classify(place, &error))?;
    let message = match found {
        Some(SCHEMA_VERSION) => return Ok(()),
        None => {
            let message = format!("{place} holds no archive: run cartulary migrate");
            return Err(EndpointError::misconfigured(NOT_MIGRATED, message));
        }
        Some(newer) if newer > SCHEMA_VERSION => format!(
            "{place} has schema version {newer}, this version knows {SCHEMA_VERSION}: use a newer version of Cartulary"
        ),
        Some(older) => format!(
            "{place} has schema version {older}, this version needs {SCHEMA_VERSION}: run cartulary migrate"
        ),
    };
    Err(EndpointError::misconfigured(UNKNOWN_SCHEMA, message))
}

/// Ends a connection in an orderly way where that is possible.
pub(crate) async fn close(connection: Connection) {
    let _ = match connection {
        Connection::Postgres(postgres) => postgres.close().await,
        Connection::Sqlite(sqlite) => sqlite.close().await,
    };
}
