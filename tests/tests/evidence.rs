//! P4 as far as streams alone can show it: whatever a database superuser changes in, takes from or adds to the middle of an
//! archive, `verify` names it.

use anyhow::{Context, Result, ensure};
use cartulary_archive::verify::FindingKind;
use cartulary_tests::oracle::verify;
use cartulary_tests::prosody::ROOMS;
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::{DATABASE, World};
use sqlx::Row;
use uuid::Uuid;

/// What a superuser does to the record whose id is `$id`, and what must be found.
const DEEDS: &[(&str, &[FindingKind])] = {
    use FindingKind::{
        ChainBroken, ColumnChanged, Doubled, HeaderChanged, PayloadChanged, PayloadMissing, RecordsMissing,
    };
    &[
        (
            "UPDATE cartulary.record SET from_jid = 'mallory@example.test/desk' WHERE id = $id",
            &[ColumnChanged],
        ),
        ("UPDATE cartulary.record SET body = 'something else' WHERE id = $id", &[ColumnChanged]),
        (
            "UPDATE cartulary.record SET seen_at = seen_at - interval '1 hour' WHERE id = $id",
            &[ColumnChanged],
        ),
        (
            "UPDATE cartulary.delivery SET bare = 'mallory@example.test' WHERE record_id = $id",
            &[ColumnChanged],
        ),
        ("DELETE FROM cartulary.delivery WHERE record_id = $id", &[ColumnChanged]),
        (
            "UPDATE cartulary.record SET header = set_byte(header, length(header) - 40, 1 + get_byte(header, length(header) - 40) % 200) WHERE id = $id",
            &[HeaderChanged, ChainBroken],
        ),
        // With the hash made to fit, as somebody does who has read the manual.
        (
            "UPDATE cartulary.record SET header = overlay(header placing '\\x4d414c' from length(header) - 20), \
          hash = sha256(overlay(header placing '\\x4d414c' from length(header) - 20)) WHERE id = $id",
            &[HeaderChanged, ChainBroken, PayloadChanged],
        ),
        (
            "UPDATE cartulary.payload SET bytes = convert_to(replace(convert_from(bytes, 'UTF8'), 'message', 'massage'), 'UTF8') WHERE record_id = $id",
            &[PayloadChanged],
        ),
        ("DELETE FROM cartulary.payload WHERE record_id = $id", &[PayloadMissing]),
        ("DELETE FROM cartulary.record WHERE id = $id", &[RecordsMissing]),
        (
            "INSERT INTO cartulary.record SELECT (r).* FROM (SELECT r #= hstore('id', gen_random_uuid()::text) AS r FROM cartulary.record r WHERE id = $id) s",
            &[Doubled, ColumnChanged],
        ),
    ]
};

#[tokio::test]
async fn verify_names_whatever_a_superuser_changes_removes_or_adds() -> Result<()> {
    let world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    anna.join(&format!("lobby@{ROOMS}"), "anna").await?;
    let mut transcript = Transcript::default();
    for n in 0..20 {
        let (kind, to) = if n % 2 == 0 {
            (Kind::OneToOne, ben.bare().to_owned())
        } else {
            (Kind::Room, format!("lobby@{ROOMS}"))
        };
        transcript.say(&anna, kind, &to, &format!("message {n}")).await?;
    }
    anna.settle().await?;
    world.sidecar.drained().await?;
    verify(&world.postgres).await?.holds()?;

    world.postgres.sql(DATABASE, "CREATE EXTENSION IF NOT EXISTS hstore").await?;
    let sql = "SELECT id FROM cartulary.record WHERE stanza_id = $1";
    let middle = &transcript.said[10].id;
    let row = sqlx::query(sql).bind(middle).fetch_one(&mut world.postgres.connect(DATABASE).await?).await?;
    let id: Uuid = row.try_get(0)?;
    let tables = ["record", "payload", "delivery", "outcome"];
    for table in tables {
        world
            .postgres
            .sql(DATABASE, &format!("CREATE TABLE kept_{table} AS TABLE cartulary.{table}"))
            .await?;
    }
    for (deed, expected) in DEEDS {
        world.postgres.sql(DATABASE, &deed.replace("$id", &format!("'{id}'"))).await?;
        let verified = verify(&world.postgres).await?;
        ensure!(!verified.0.consistent, "not found: {deed}");
        let finding = verified.0.findings.iter().find(|finding| expected.contains(&finding.kind));
        let finding =
            finding.with_context(|| format!("{deed}: found something else: {}", verified.text()))?;
        // It says where: the record itself, or the place in its stream.
        ensure!(finding.id.is_some() || finding.sequence.is_some(), "{deed}: {finding:?}");
        for table in tables {
            let restore = format!(
                "DELETE FROM cartulary.{table}; INSERT INTO cartulary.{table} SELECT * FROM kept_{table}"
            );
            world.postgres.sql(DATABASE, &restore).await?;
        }
        verify(&world.postgres).await?.holds().with_context(|| format!("after what was undone: {deed}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn verify_says_what_it_cannot_prove() -> Result<()> {
    let world = World::start().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    anna.message(ben.bare(), "chat", "m-1", "hello").await?;
    ben.answer_to("m-1").await?;
    world.sidecar.drained().await?;
    let verified = verify(&world.postgres).await?;
    assert!(verified.0.consistent && !verified.0.completeness_proven);
    assert!(verified.text().contains("completeness not proven"), "{}", verified.text());
    Ok(())
}
