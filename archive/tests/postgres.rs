//! What only PostgreSQL has: roles, partitions, and many ways not to get in.

mod common;

use cartulary_archive::drain::{Drain, DrainOptions};
use cartulary_archive::endpoint::{Endpoint, EndpointError, Roles, SqlEndpoint, Target, migrate};
use cartulary_compliance::config::TlsMode;
use cartulary_compliance::names::reason;
use common::postgres::{Database, Server};
use common::{Kept, accepted, draft, eventually};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio_util::sync::CancellationToken;

async fn migrated() -> Database {
    let database = Server::get().database().await;
    let roles = Roles { writer: Some(database.writer()), reader: Some(database.reader()) };
    migrate(&database.owner(), &roles).await.expect("migrated");
    database
}

fn version_is(version: i64) -> String {
    format!(
        "DELETE FROM cartulary.schema_version; INSERT INTO cartulary.schema_version (version) VALUES ({version})"
    )
}

async fn refusal(target: Target) -> EndpointError {
    SqlEndpoint::new(target).connect().await.expect_err("it cannot be used")
}

#[tokio::test]
async fn every_way_not_to_get_in_has_its_own_reason() {
    let database = migrated().await;
    let good = database.config(&database.writer());
    let mut cases = Vec::new();
    let mut config = good.clone();
    config.password = "wrong".to_owned();
    cases.push((config, reason::AUTHENTICATION_FAILED, "password"));
    let mut config = good.clone();
    config.database = "nowhere".to_owned();
    cases.push((config, reason::DATABASE_MISSING, "create it"));
    let mut config = good.clone();
    config.port = 1;
    cases.push((config, reason::UNREACHABLE, "cannot be reached"));
    let mut config = good.clone();
    config.host = "no-such-host.invalid".to_owned();
    cases.push((config, reason::UNREACHABLE, "cannot be reached"));
    let mut config = good.clone();
    config.tls = TlsMode::VerifyFull;
    cases.push((config, reason::TLS_FAILED, "certificate"));
    let mut config = good.clone();
    config.username = database.reader();
    cases.push((config, reason::PERMISSION_DENIED, "naming"));
    for (config, expected, advice) in cases {
        let error = refusal(database.target(config)).await;
        assert_eq!(error.reason(), expected, "{error}");
        assert!(error.to_string().contains(advice), "{error}");
        assert!(!error.to_string().contains(common::postgres::PASSWORD), "{error}");
    }
    SqlEndpoint::new(database.target(good)).connect().await.expect("and one way in");
}

#[tokio::test]
async fn an_archive_that_is_missing_older_or_newer_says_which() {
    let database = Server::get().database().await;
    let writer = || database.target(database.config(&database.writer()));
    let error = refusal(writer()).await;
    assert_eq!(error.reason(), reason::NOT_MIGRATED, "{error}");
    let roles = Roles { writer: Some(database.writer()), reader: None };
    migrate(&database.owner(), &roles).await.expect("migrated");
    for (version, advice) in [(99, "newer version"), (1, "run cartulary migrate")] {
        database.superuser(&version_is(version)).await;
        let error = refusal(writer()).await;
        assert_eq!(error.reason(), reason::UNKNOWN_SCHEMA, "{error}");
        let message = error.to_string();
        assert!(message.contains(advice) && message.contains(&version.to_string()), "{message}");
    }
    database.superuser(&version_is(99)).await;
    let error = migrate(&database.owner(), &roles).await.expect_err("a newer archive is left alone");
    assert_eq!(error.reason(), reason::UNKNOWN_SCHEMA, "{error}");
}

#[tokio::test]
async fn an_archive_of_the_first_version_is_refused_until_it_is_migrated_and_keeps_what_it_holds() {
    let database = Server::get().database().await;
    database.superuser(include_str!("../migrations/postgres/0001.sql")).await;
    database.superuser("INSERT INTO cartulary.schema_version (version) VALUES (1)").await;
    database
        .superuser(
            "INSERT INTO cartulary.record (id, header, hash, previous, journal, incarnation, sequence, recorded_at, kind, endpoint) \
             VALUES (gen_random_uuid(), '', '', '', gen_random_uuid(), gen_random_uuid(), 0, now(), 'open', 'main')",
        )
        .await;
    let writer = || database.target(database.config(&database.writer()));
    let roles = Roles { writer: Some(database.writer()), reader: None };
    // The writer may look at the version, as after the first migration.
    let grant = format!(
        "GRANT USAGE ON SCHEMA cartulary TO {0}; GRANT SELECT ON cartulary.schema_version TO {0}",
        database.writer()
    );
    database.superuser(&grant).await;
    let error = refusal(writer()).await;
    assert_eq!(error.reason(), reason::UNKNOWN_SCHEMA, "{error}");
    assert!(error.to_string().contains("run cartulary migrate"), "{error}");
    let migrated = migrate(&database.owner(), &roles).await.expect("migrated");
    assert_eq!((migrated.from, migrated.to), (1, 2));
    database.superuser("DO $$ BEGIN ASSERT (SELECT parser FROM cartulary.record) = 1; END $$").await;
    SqlEndpoint::new(writer()).connect().await.expect("it is known now");
}

#[tokio::test]
async fn a_database_that_cannot_store_every_text_is_refused_before_it_holds_any() {
    let mut database = Server::get().database().await;
    let name = format!("{}_ascii", database.name);
    database
        .superuser(&format!(
            "CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        ))
        .await;
    let writer = database.writer();
    database.name = name;
    let error = refusal(database.target(database.config(&writer))).await;
    assert!(error.to_string().contains("SQL_ASCII: create the database with encoding UTF8"), "{error}");
    let error = migrate(&database.owner(), &Roles::default()).await.expect_err("nor is it migrated");
    assert_eq!(error.reason(), reason::CONTRADICTION, "{error}");
}

#[tokio::test]
async fn a_record_that_a_trigger_refuses_holds_up_no_other() {
    let database = migrated().await;
    database
        .superuser(
            "CREATE FUNCTION cartulary.odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$; \
             CREATE TRIGGER odd BEFORE INSERT ON cartulary.record FOR EACH ROW WHEN (NEW.body = 'odd') \
             EXECUTE FUNCTION cartulary.odd()",
        )
        .await;
    let kept = Kept::open();
    let bodies = ["a", "b", "odd", "c", "d"];
    kept.append(bodies.iter().map(|body| draft(accepted(body), body)).collect()).await;
    let endpoint = SqlEndpoint::new(database.target(database.config(&database.writer())));
    let stop = CancellationToken::new();
    let (drain, handle) = Drain::new(kept.journal.clone(), "main", endpoint, DrainOptions::default());
    let task = tokio::spawn(drain.run(stop.clone()));
    eventually("the others are archived", async || {
        let status = handle.status();
        status.waiting == 0 && status.dead_letters == 1
    })
    .await;
    // The open record, four messages, and the gap record that tells of the fifth.
    database.superuser("DO $$ BEGIN ASSERT (SELECT count(*) FROM cartulary.record) = 6; END $$").await;
    eventually("it is told", async || handle.status().message.contains("PostgreSQL 1")).await;
    stop.cancel();
    task.await.expect("the drain ends");
}

#[tokio::test]
async fn a_position_is_looked_for_up_to_what_was_confirmed_and_gaps_are_counted() {
    let database = migrated().await;
    let kept = Kept::open();
    kept.append(vec![draft(accepted("1"), "1"), draft(accepted("2"), "2")]).await;
    let records = kept.waiting().await;
    let mut endpoint = SqlEndpoint::new(database.target(database.config(&database.writer())));
    endpoint.connect().await.expect("connected");
    endpoint.write(&records).await.expect("written");
    database
        .superuser(
            "INSERT INTO cartulary.record (id, header, hash, previous, journal, incarnation, sequence, recorded_at, kind, endpoint) \
             SELECT gen_random_uuid(), header, sha256(header || 'x'), previous, journal, incarnation, new, recorded_at, kind, endpoint \
             FROM cartulary.record, (VALUES (2::bigint), (9223372036854775807)) AS news (new) WHERE sequence = 0",
        )
        .await;
    let last = &records[2].record;
    let stream = &last.header.stream;
    let there = endpoint.position(stream, 2, &last.hash()).await.expect("asked");
    assert_eq!(there, Some((2, last.hash())));
    assert_eq!(endpoint.count(stream, 2).await.expect("counted"), 3);
    database.superuser("DELETE FROM cartulary.record WHERE sequence = 1").await;
    assert_eq!(endpoint.count(stream, 2).await.expect("counted"), 2);
    assert_eq!(
        endpoint.position(stream, 1, &[0; 32]).await.expect("asked"),
        Some((0, records[0].record.hash()))
    );
}

#[tokio::test]
async fn migrating_again_is_harmless_and_a_missing_role_is_named() {
    let database = migrated().await;
    let again = migrate(&database.owner(), &Roles::default()).await.expect("migrated");
    assert_eq!((again.from, again.to, again.partitions), (2, 2, 0));
    let roles = Roles { writer: Some("nobody \"here\"".to_owned()), reader: None };
    let error = migrate(&database.owner(), &roles).await.expect_err("there is no such role");
    assert!(error.to_string().contains("CREATE ROLE \"nobody \"\"here\"\"\""), "{error}");
}

#[tokio::test]
async fn a_writer_can_neither_change_nor_read_what_it_wrote() {
    let database = migrated().await;
    let kept = Kept::open();
    kept.append(vec![draft(accepted("m"), "secret")]).await;
    let mut endpoint = SqlEndpoint::new(database.target(database.config(&database.writer())));
    endpoint.connect().await.expect("connected");
    endpoint.write(&kept.waiting().await).await.expect("written");
    let Target::Postgres(options) = database.target(database.config(&database.writer())) else {
        panic!("a PostgreSQL target")
    };
    let mut connection = PgConnection::connect_with(&options).await.expect("connected");
    for forbidden in [
        "SELECT body FROM cartulary.record",
        "SELECT header FROM cartulary.record",
        "SELECT bytes FROM cartulary.payload",
        "SELECT bare FROM cartulary.delivery",
        "UPDATE cartulary.record SET body = ''",
        "DELETE FROM cartulary.record",
        "TRUNCATE cartulary.payload",
        "UPDATE cartulary.schema_version SET version = 2",
        "CREATE TABLE cartulary.mine ()",
    ] {
        let error =
            sqlx::raw_sql(AssertSqlSafe(forbidden)).execute(&mut connection).await.expect_err(forbidden);
        assert_eq!(
            error.as_database_error().and_then(|error| error.code()).as_deref(),
            Some("42501"),
            "{forbidden}"
        );
    }
}

#[tokio::test]
async fn what_a_database_says_of_a_record_it_refuses_is_not_repeated() {
    let kept = Kept::open();
    let mut message = accepted("m");
    message.message_type = "my secret".to_owned();
    kept.append(vec![draft(message, "my secret")]).await;
    let records = kept.waiting().await;
    let trigger = |code: &str| {
        format!(
            "CREATE FUNCTION cartulary.odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             RAISE EXCEPTION 'odd: %', NEW.body USING ERRCODE = '{code}'; END $$; \
             CREATE TRIGGER odd BEFORE INSERT ON cartulary.record FOR EACH ROW WHEN (NEW.body IS NOT NULL) EXECUTE FUNCTION cartulary.odd()"
        )
    };
    for (change, expected, word) in [
        (trigger("P0001"), reason::REJECTED, "P0001"),
        (trigger("39P01"), reason::UNREACHABLE, "39P01"),
        (trigger("22000"), reason::REJECTED, "22000"),
        (
            "ALTER TABLE cartulary.record ALTER type TYPE integer USING 0".to_owned(),
            reason::UNREACHABLE,
            "42804",
        ),
        (
            "ALTER TABLE cartulary.record ADD CONSTRAINT short CHECK (length(body) < 3)".to_owned(),
            reason::REJECTED,
            "short",
        ),
    ] {
        let database = migrated().await;
        let mut endpoint = SqlEndpoint::new(database.target(database.config(&database.writer())));
        endpoint.connect().await.expect("connected");
        database.superuser(&change).await;
        let error = endpoint.write(&records).await.expect_err("it refuses");
        assert_eq!(error.reason(), expected, "{error}");
        assert!(error.to_string().contains(word) && !error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn records_go_to_their_months_partition_and_to_the_default_one_otherwise() {
    let database = migrated().await;
    let kept = Kept::open();
    kept.append(vec![draft(accepted("now"), "now")]).await;
    let mut records = kept.waiting().await;
    let stray = records.len() - 1;
    let mut old = records[stray].clone();
    old.record.header.id = uuid::Uuid::from_u128(7 << 76 | 2 << 62);
    old.record.header_bytes = old.record.header.encode();
    records.push(old);
    let mut endpoint = SqlEndpoint::new(database.target(database.config(&database.writer())));
    endpoint.connect().await.expect("connected");
    endpoint.write(&records).await.expect("written");
    database
        .superuser(
            "DO $$ BEGIN \
             ASSERT (SELECT count(*) FROM cartulary.record_default) = 1; \
             ASSERT (SELECT count(*) FROM cartulary.record) = 3; \
             ASSERT (SELECT count(DISTINCT tableoid) FROM cartulary.record) = 2; END $$",
        )
        .await;
}

#[tokio::test]
async fn a_missing_partition_is_not_the_fault_of_the_records() {
    let database = migrated().await;
    database
        .superuser(
            "DO $$ DECLARE part regclass; BEGIN
               FOR part IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'cartulary.record'::regclass LOOP
                 EXECUTE format('DROP TABLE %s', part);
               END LOOP;
             END $$",
        )
        .await;
    let kept = Kept::open();
    kept.append(vec![draft(accepted("m"), "kept waiting")]).await;
    let mut endpoint = SqlEndpoint::new(database.target(database.config(&database.writer())));
    endpoint.connect().await.expect("connected");
    let error = endpoint.write(&kept.waiting().await).await.expect_err("no partition takes it");
    assert_eq!(error.reason(), reason::NOT_MIGRATED, "{error}");
}
