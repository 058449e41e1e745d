//! An archive of either kind, migrated and empty, and what somebody with all rights may do to it.

use super::postgres::{Database, Server};
use cartulary_archive::endpoint::{Archive, Endpoint, Roles, SqlEndpoint, Target, migrate};
use cartulary_archive::verify::{Report, verify};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use std::path::PathBuf;
use tempfile::TempDir;

/// A migrated archive of either kind.
pub enum Place {
    Postgres(Database),
    Sqlite(PathBuf, #[expect(dead_code, reason = "removed when dropped")] TempDir),
}

impl Place {
    pub async fn both() -> [Self; 2] {
        [Self::postgres().await, Self::sqlite().await]
    }

    pub async fn postgres() -> Self {
        let database = Server::get().database().await;
        let roles = Roles { writer: Some(database.writer()), reader: Some(database.reader()) };
        migrate(&database.owner(), &roles).await.expect("migrated");
        Self::Postgres(database)
    }

    pub async fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("archive.db");
        migrate(&Target::Sqlite(path.clone()), &Roles::default()).await.expect("migrated");
        Self::Sqlite(path, dir)
    }

    pub fn writer(&self) -> SqlEndpoint {
        SqlEndpoint::new(match self {
            Self::Postgres(database) => database.target(database.config(&database.writer())),
            Self::Sqlite(path, _) => Target::Sqlite(path.clone()),
        })
    }

    pub async fn connected(&self) -> SqlEndpoint {
        let mut endpoint = self.writer();
        endpoint.connect().await.expect("connected");
        endpoint
    }

    pub async fn archive(&self) -> Archive {
        let target = match self {
            Self::Postgres(database) => database.target(database.config(&database.reader())),
            Self::Sqlite(path, _) => Target::Sqlite(path.clone()),
        };
        Archive::open(&target).await.expect("the reader reads")
    }

    /// Whatever somebody with all rights might do.
    pub async fn tamper(&self, sql: &str) {
        match self {
            Self::Postgres(database) => {
                database.superuser(&format!("SET search_path TO cartulary; {sql}")).await
            }
            Self::Sqlite(path, _) => {
                let url = format!("sqlite:{}", path.display());
                let mut connection = SqliteConnection::connect(&url).await.expect("the file opens");
                let sql = sql.replace("'\\x", "x'");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("changed");
            }
        }
    }

    pub async fn verify(&self) -> Report {
        verify(&mut self.archive().await).await.expect("verified")
    }
}
