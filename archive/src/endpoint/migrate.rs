//! Making and changing an archive's schema. Run by people or a Job as the owner; by a sidecar only on its own SQLite file.

use super::error::{EndpointError, classify};
use super::postgres::check_server;
use super::rows::schema_version;
use super::{Connection, Target, close, open};
use cartulary_compliance::names::reason;
use sqlx::{AssertSqlSafe, PgConnection, Row};

/// The schema version this crate writes and reads.
pub const SCHEMA_VERSION: i64 = 2;

/// Steps by version: `MIGRATIONS[n]` leads from version n to n + 1.
const POSTGRES: [&str; 2] =
    [include_str!("../../migrations/postgres/0001.sql"), include_str!("../../migrations/postgres/0002.sql")];
const SQLITE: [&str; 2] =
    [include_str!("../../migrations/sqlite/0001.sql"), include_str!("../../migrations/sqlite/0002.sql")];

/// Months for which partitions are made ahead.
const MONTHS_AHEAD: i32 = 12;

/// Database roles that get rights. They must exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles {
    /// Sidecars: insert, and no more reading than recognising repeats needs.
    pub writer: Option<String>,
    /// Searching and verifying: select.
    pub reader: Option<String>,
}

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; 0 where there was no archive.
    pub from: i64,
    /// The version now.
    pub to: i64,
    /// Partitions that were made.
    pub partitions: u64,
}

/// Brings an archive to [`SCHEMA_VERSION`], makes partitions ahead and grants rights. Running it again is harmless.
pub async fn migrate(target: &Target, roles: &Roles) -> Result<Migrated, EndpointError> {
    let place = target.place();
    if let Target::Sqlite(path) = target {
        // The only place that makes a file: a reader must not make an empty archive out of a wrong path.
        std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(|error| {
            let message = format!("{place} cannot be made: {error}");
            EndpointError::misconfigured(reason::PERMISSION_DENIED, message)
        })?;
    }
    let mut connection = open(target).await?;
    let result = run(&mut connection, &place, roles).await;
    close(connection).await;
    result
}

async fn run(connection: &mut Connection, place: &str, roles: &Roles) -> Result<Migrated, EndpointError> {
    let failed = |error: sqlx::Error| classify(place, &error);
    begin(connection).await.map_err(failed)?;
    if let Connection::Postgres(postgres) = &mut *connection {
        check_server(postgres, place).await?;
        for role in [&roles.writer, &roles.reader].into_iter().flatten() {
            need_role(postgres, place, role).await?;
        }
    }
    let from = match version(connection).await.map_err(failed)? {
        from if from > SCHEMA_VERSION => {
            let message = format!(
                "{place} has schema version {from}, this version knows {SCHEMA_VERSION}: use a newer version of Cartulary"
            );
            return Err(EndpointError::misconfigured(reason::UNKNOWN_SCHEMA, message));
        }
        from => from,
    };
    let steps = match connection {
        Connection::Postgres(_) => &POSTGRES,
        Connection::Sqlite(_) => &SQLITE,
    };
    for (version, step) in (1..).zip(steps).skip(usize::try_from(from).unwrap_or(0)) {
        execute(connection, (*step).to_owned()).await.map_err(failed)?;
        let note = format!("INSERT INTO schema_version (version) VALUES ({version})");
        execute(connection, note).await.map_err(failed)?;
    }
    let mut partitions = 0;
    if let Connection::Postgres(postgres) = &mut *connection {
        partitions = make_partitions(postgres).await.map_err(failed)?;
        for statement in grants(roles) {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *postgres).await.map_err(failed)?;
        }
    }
    execute(connection, "COMMIT".to_owned()).await.map_err(failed)?;
    Ok(Migrated { from, to: SCHEMA_VERSION, partitions })
}

async fn begin(connection: &mut Connection) -> Result<(), sqlx::Error> {
    match connection {
        // Two migrations at once would both find an empty database.
        Connection::Postgres(_) => {
            execute(connection, "BEGIN; SELECT pg_advisory_xact_lock(hashtext('cartulary'))".to_owned()).await
        }
        Connection::Sqlite(_) => execute(connection, "BEGIN IMMEDIATE".to_owned()).await,
    }
}

async fn execute(connection: &mut Connection, sql: String) -> Result<(), sqlx::Error> {
    match connection {
        Connection::Postgres(postgres) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(postgres).await.map(drop),
        Connection::Sqlite(sqlite) => sqlx::raw_sql(AssertSqlSafe(sql)).execute(sqlite).await.map(drop),
    }
}

async fn version(connection: &mut Connection) -> Result<i64, sqlx::Error> {
    let exists = match connection {
        Connection::Postgres(postgres) => sqlx::query(
            "SELECT 1 FROM pg_tables WHERE schemaname = 'cartulary' AND tablename = 'schema_version'",
        )
        .fetch_optional(postgres)
        .await?
        .is_some(),
        Connection::Sqlite(sqlite) => {
            sqlx::query("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'")
                .fetch_optional(sqlite)
                .await?
                .is_some()
        }
    };
    if exists { Ok(schema_version(connection).await?.unwrap_or(0)) } else { Ok(0) }
}

async fn need_role(connection: &mut PgConnection, place: &str, role: &str) -> Result<(), EndpointError> {
    let found = sqlx::query("SELECT 1 FROM pg_roles WHERE rolname = $1")
        .bind(role.to_owned())
        .fetch_optional(connection)
        .await
        .map_err(|error| classify(place, &error))?;
    match found {
        Some(_) => Ok(()),
        None => Err(EndpointError::misconfigured(
            reason::PERMISSION_DENIED,
            format!(
                "{place} has no role {role}: create it first, for instance CREATE ROLE {} LOGIN PASSWORD '…'",
                quoted(role)
            ),
        )),
    }
}

/// Month partitions of every table, as far as they are missing. A month whose rows are in the default partition stays there.
async fn make_partitions(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let months = sqlx::query(
        "SELECT to_char(month, 'YYYY_MM'), extract(epoch FROM month)::bigint, \
         extract(epoch FROM month + interval '1 month')::bigint \
         FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'), \
         date_trunc('month', now() AT TIME ZONE 'UTC') + $1 * interval '1 month', interval '1 month') AS month",
    )
    .bind(MONTHS_AHEAD)
    .fetch_all(&mut *connection)
    .await?;
    let mut made = 0;
    for row in months {
        let (name, from, to): (String, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        for (table, key) in
            [("record", "id"), ("payload", "record_id"), ("delivery", "record_id"), ("outcome", "record_id")]
        {
            let (from, to) = (bound(from), bound(to));
            let taken = sqlx::query(AssertSqlSafe(format!(
                "SELECT 1 WHERE to_regclass('cartulary.{table}_{name}') IS NOT NULL OR EXISTS \
                 (SELECT 1 FROM cartulary.{table}_default WHERE {key} >= '{from}' AND {key} < '{to}')"
            )))
            .fetch_optional(&mut *connection)
            .await?;
            if taken.is_some() {
                continue;
            }
            let sql = format!(
                "CREATE TABLE cartulary.{table}_{name} PARTITION OF cartulary.{table} FOR VALUES FROM ('{from}') TO ('{to}')"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await?;
            made += 1;
        }
    }
    Ok(made)
}

/// The smallest UUIDv7 of a second.
fn bound(seconds: i64) -> uuid::Uuid {
    uuid::Uuid::from_u128((u128::from(seconds.unsigned_abs()) * 1000) << 80)
}

fn grants(roles: &Roles) -> Vec<String> {
    let mut statements = Vec::new();
    if let Some(writer) = &roles.writer {
        let role = quoted(writer);
        statements.push(format!("GRANT USAGE ON SCHEMA cartulary TO {role}"));
        statements.push(format!("GRANT SELECT ON cartulary.schema_version TO {role}"));
        statements.push(format!(
            "GRANT INSERT ON cartulary.record, cartulary.payload, cartulary.delivery, cartulary.outcome TO {role}"
        ));
        statements.push(format!(
            "GRANT SELECT (id, journal, incarnation, endpoint, sequence, hash) ON cartulary.record TO {role}"
        ));
    }
    if let Some(reader) = &roles.reader {
        let role = quoted(reader);
        statements.push(format!("GRANT USAGE ON SCHEMA cartulary TO {role}"));
        statements.push(format!(
            "GRANT SELECT ON cartulary.schema_version, cartulary.record, cartulary.payload, cartulary.delivery, \
             cartulary.outcome TO {role}"
        ));
    }
    statements
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
