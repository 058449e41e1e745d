//! PostgreSQL: one statement for each table and batch, arrays in binary.

use super::WriteReport;
use super::error::{EndpointError, classify};
use super::projection::{INTS, PARSER, Projection, TEXTS, TIMES, UUIDS, project};
use super::rows::list_text;
use crate::journal::Stored;
use crate::record::Form;
use cartulary_compliance::names::reason;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;
use uuid::Uuid;

/// Schema, durability and time zone of a session. Acknowledged means on the server's disk, whatever its default is.
const SESSION: &str = "SET search_path TO cartulary; SET TIME ZONE 'UTC'; \
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') IN ('off', 'local')";

static INSERT_RECORDS: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<&str> =
        ["id", "header", "hash", "previous"].into_iter().chain(UUIDS).chain(INTS).chain(TEXTS).collect();
    let types = ["uuid", "bytea", "bytea", "bytea"]
        .into_iter()
        .chain([("uuid"); UUIDS.len()])
        .chain([("bigint"); INTS.len()])
        .chain([("text"); TEXTS.len()]);
    let arrays: Vec<String> =
        types.enumerate().map(|(index, kind)| format!("${}::{kind}[]", index + 1)).collect();
    let values: Vec<String> = names
        .iter()
        .map(|name| match TIMES.contains(name) {
            true => format!("'epoch'::timestamptz + {name} * interval '1 microsecond'"),
            false => (*name).to_owned(),
        })
        .collect();
    format!(
        "INSERT INTO record ({names}, parser) SELECT {values}, {PARSER} FROM unnest({arrays}) AS new ({names}) \
         ON CONFLICT (id) DO NOTHING RETURNING id",
        names = names.join(", "),
        values = values.join(", "),
        arrays = arrays.join(", "),
    )
});

pub async fn open(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let options = options.clone().disable_statement_logging();
    let mut connection = PgConnection::connect_with(&options).await?;
    sqlx::raw_sql(SESSION).execute(&mut connection).await?;
    Ok(connection)
}

/// The oldest version whose partitions and indexes do what is asked of them here, as the server numbers it.
const OLDEST: i32 = 130_000;

/// What a database must be: one that stores every text, of a version that is known to do. Returns which one it is, for people.
pub async fn check_server(connection: &mut PgConnection, place: &str) -> Result<String, EndpointError> {
    let row = sqlx::query(
        "SELECT current_setting('server_encoding'), current_setting('server_version'), \
         current_setting('server_version_num')::integer",
    )
    .fetch_one(connection)
    .await
    .map_err(|error| classify(place, &error))?;
    let get = |index: usize| row.try_get::<String, _>(index).unwrap_or_default();
    let (encoding, version) = (get(0), format!("PostgreSQL {}", get(1)));
    let wrong = if encoding != "UTF8" {
        format!("{place} has encoding {encoding}: create the database with encoding UTF8")
    } else if row.try_get::<i32, _>(2).is_ok_and(|number| number < OLDEST) {
        format!("{place} is {version}: use PostgreSQL 13 or newer")
    } else {
        return Ok(version);
    };
    Err(EndpointError::misconfigured(reason::CONTRADICTION, wrong))
}

/// What a writer must be allowed to do.
pub async fn check_rights(connection: &mut PgConnection, place: &str) -> Result<(), EndpointError> {
    let row = sqlx::query(
        "SELECT current_user::text, \
         (SELECT string_agg(name, ', ') FROM unnest(ARRAY['record', 'payload', 'delivery', 'outcome']) AS name \
          WHERE NOT has_table_privilege(name, 'INSERT')), \
         (SELECT string_agg(name, ', ') FROM unnest(ARRAY['id', 'journal', 'incarnation', 'endpoint', 'sequence', 'hash']) AS name \
          WHERE NOT has_column_privilege('record', name, 'SELECT'))",
    )
    .fetch_one(connection)
    .await
    .map_err(|error| classify(place, &error))?;
    let get = |index: usize| row.try_get::<Option<String>, _>(index).ok().flatten();
    let user = get(0).unwrap_or_default();
    let lacks = match (get(1), get(2)) {
        (None, None) => return Ok(()),
        (Some(tables), _) => format!("insert into {tables}"),
        (None, Some(columns)) => format!("select {columns} of record"),
    };
    Err(EndpointError::misconfigured(
        reason::PERMISSION_DENIED,
        format!("{place} does not let {user} {lacks}: run cartulary migrate naming {user} as the writer"),
    ))
}

pub async fn write(connection: &mut PgConnection, records: &[Stored]) -> Result<WriteReport, sqlx::Error> {
    let columns: Vec<Projection> =
        records.iter().map(|stored| project(&stored.record.header, &stored.record.payloads)).collect();
    let mut transaction = connection.begin().await?;
    let new = insert_records(&mut transaction, records, &columns).await?;
    let fresh: Vec<(&Stored, &Projection)> =
        records.iter().zip(&columns).filter(|(stored, _)| new.contains(&stored.record.header.id)).collect();
    insert_payloads(&mut transaction, &fresh).await?;
    insert_deliveries(&mut transaction, &fresh).await?;
    insert_outcomes(&mut transaction, &fresh).await?;
    let mut report = WriteReport { inserted: new.len() as u64, ..WriteReport::default() };
    if new.len() < records.len() {
        compare(&mut transaction, records, &new, &mut report).await?;
    }
    transaction.commit().await?;
    Ok(report)
}

async fn insert_records(
    connection: &mut PgConnection,
    records: &[Stored],
    columns: &[Projection],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let headers = || records.iter().map(|stored| &stored.record);
    let mut query = sqlx::query(INSERT_RECORDS.as_str())
        .bind(headers().map(|record| record.header.id).collect::<Vec<_>>())
        .bind(headers().map(|record| record.header_bytes.clone()).collect::<Vec<_>>())
        .bind(headers().map(|record| record.hash().to_vec()).collect::<Vec<_>>())
        .bind(headers().map(|record| record.header.previous.to_vec()).collect::<Vec<_>>());
    for index in 0..UUIDS.len() {
        query = query.bind(columns.iter().map(|row| row.uuids[index]).collect::<Vec<_>>());
    }
    for index in 0..INTS.len() {
        query = query.bind(columns.iter().map(|row| row.ints[index]).collect::<Vec<_>>());
    }
    for index in 0..TEXTS.len() {
        query = query.bind(columns.iter().map(|row| row.texts[index].clone()).collect::<Vec<_>>());
    }
    query.fetch_all(connection).await?.iter().map(|row| row.try_get(0)).collect()
}

async fn insert_payloads(
    connection: &mut PgConnection,
    fresh: &[(&Stored, &Projection)],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = fresh
        .iter()
        .flat_map(|(stored, _)| {
            stored.record.payloads.iter().map(|payload| (stored.record.header.id, payload))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let salt = |form: &Form| match form {
        Form::Plain { salt } => Some(salt.to_vec()),
        Form::Sealed => None,
    };
    sqlx::query(
        "INSERT INTO payload (record_id, number, form, salt, bytes) \
         SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::bytea[], $5::bytea[])",
    )
    .bind(rows.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, payload)| i16::from(payload.number)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, payload)| i16::from(payload.form.code())).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, payload)| salt(&payload.form)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, payload)| payload.bytes.clone()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_deliveries(
    connection: &mut PgConnection,
    fresh: &[(&Stored, &Projection)],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = fresh
        .iter()
        .flat_map(|(stored, columns)| {
            (0i32..).zip(&columns.deliveries).map(|(ordinal, row)| (stored.record.header.id, ordinal, row))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO delivery (record_id, ordinal, bare, occupant, resources, direction) \
         SELECT i, o, b, c, r::jsonb, d FROM \
         unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[]) AS t (i, o, b, c, r, d)",
    )
    .bind(rows.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, ordinal, _)| *ordinal).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., row)| row.bare.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., row)| row.occupant.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., row)| list_text(&row.resources)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., row)| row.direction.clone()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_outcomes(
    connection: &mut PgConnection,
    fresh: &[(&Stored, &Projection)],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = fresh
        .iter()
        .flat_map(|(stored, columns)| {
            (0i32..).zip(&columns.outcomes).map(|(ordinal, row)| (&stored.record.header, ordinal, row))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO outcome (record_id, ordinal, event, bare, occupant, resources, result, reason) \
         SELECT i, o, e, b, c, r::jsonb, t, w FROM \
         unnest($1::uuid[], $2::integer[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[]) \
         AS t (i, o, e, b, c, r, t, w)",
    )
    .bind(rows.iter().map(|(header, ..)| header.id).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, ordinal, _)| *ordinal).collect::<Vec<_>>())
    .bind(rows.iter().map(|(header, ..)| header.event()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., row)| row.bare.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., row)| row.occupant.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., row)| list_text(&row.resources)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., row)| row.result.clone()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(.., row)| row.reason.clone()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// What was not new is a repeat, or something else under the same id.
async fn compare(
    connection: &mut PgConnection,
    records: &[Stored],
    new: &HashSet<Uuid>,
    report: &mut WriteReport,
) -> Result<(), sqlx::Error> {
    let old: Vec<&Stored> = records.iter().filter(|stored| !new.contains(&stored.record.header.id)).collect();
    let ids: Vec<Uuid> = old.iter().map(|stored| stored.record.header.id).collect();
    let mut hashes: HashMap<Uuid, Vec<u8>> = HashMap::new();
    for row in
        sqlx::query("SELECT id, hash FROM record WHERE id = ANY($1)").bind(ids).fetch_all(connection).await?
    {
        hashes.insert(row.try_get(0)?, row.try_get(1)?);
    }
    for stored in old {
        let id = stored.record.header.id;
        if hashes.get(&id).is_some_and(|hash| *hash == stored.record.hash()) {
            report.repeated += 1;
        } else {
            report.conflicting.push(id);
        }
    }
    Ok(())
}
