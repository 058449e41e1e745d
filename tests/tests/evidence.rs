//! P4, as the superuser of a real database: whatever is changed in an archive, taken from it or put into it, `verify` names, with
//! anchors also what was computed anew, cut off or removed as a whole; and EV-1, offline from a copy.

use anyhow::{Context, Result, ensure};
use cartulary_archive::anchors::{Anchors, AnchorsFile, JournalAnchors};
use cartulary_archive::drain::{Drain, DrainOptions};
use cartulary_archive::endpoint::SqlEndpoint;
use cartulary_archive::export::export;
use cartulary_archive::journal::{Journal, JournalOptions, system_clock};
use cartulary_archive::record::{Body, Content, Draft, StreamEnd, StreamId, Tally};
use cartulary_archive::verify::{FindingKind, Judgement, verify_anchored};
use cartulary_compliance::link::Sums;
use cartulary_compliance::status::Head;
use cartulary_tests::oracle::{Archive, Verified, open, owner, verify};
use cartulary_tests::process::until;
use cartulary_tests::prosody::ROOMS;
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::{DATABASE, ENDPOINT, World};
use sqlx::Row;
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const TABLES: [&str; 4] = ["record", "payload", "delivery", "outcome"];

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
async fn p4_verify_names_whatever_a_superuser_changes_removes_or_adds_inside_a_stream() -> Result<()> {
    let world = World::start().await?;
    let transcript = converse(&world, 20).await?;
    verify(&world.postgres).await?.holds()?;

    world.postgres.sql(DATABASE, "CREATE EXTENSION IF NOT EXISTS hstore").await?;
    let id = record_of(&world, &transcript.said[10].id).await?;
    keep(&world).await?;
    for (deed, expected) in DEEDS {
        world.postgres.sql(DATABASE, &deed.replace("$id", &format!("'{id}'"))).await?;
        let verified = verify(&world.postgres).await?;
        ensure!(!verified.0.consistent, "not found: {deed}");
        let finding = verified.0.findings.iter().find(|finding| expected.contains(&finding.kind));
        let finding =
            finding.with_context(|| format!("{deed}: found something else: {}", verified.text()))?;
        // It says where: the record itself, or the place in its stream.
        ensure!(finding.id.is_some() || finding.sequence.is_some(), "{deed}: {finding:?}");
        restore(&world).await?;
        verify(&world.postgres).await?.holds().with_context(|| format!("after what was undone: {deed}"))?;
    }
    Ok(())
}

/// Removes records with everything that belongs to them; `$where` says which.
const REMOVE: &str = "CREATE TEMP TABLE gone AS SELECT id FROM cartulary.record r WHERE $where; \
    DELETE FROM cartulary.payload WHERE record_id IN (SELECT id FROM gone); \
    DELETE FROM cartulary.delivery WHERE record_id IN (SELECT id FROM gone); \
    DELETE FROM cartulary.outcome WHERE record_id IN (SELECT id FROM gone); \
    DELETE FROM cartulary.record WHERE id IN (SELECT id FROM gone)";

#[tokio::test]
async fn p4_what_was_cut_off_removed_or_computed_anew_is_named_with_anchors() -> Result<()> {
    let mut world = World::start().await?;
    let mut anchors = AnchorsFile::default();
    let transcript = converse(&world, 10).await?;
    keep_heads(&mut anchors, confirmed(&world).await?);
    // Another start makes another stream; another node another journal.
    world.sidecar.stop().await?;
    world.sidecar.resume().await?;
    world.sidecar.covered().await?;
    converse(&world, 10).await?;
    keep_heads(&mut anchors, confirmed(&world).await?);
    keep_heads(&mut anchors, other_journal(&world, "xmpp-9").await?);
    let anchors = Anchors::check(anchors);
    let (verified, judgement) = held_against(&world, &anchors).await?;
    verified.holds()?;
    ensure!(
        judgement.is_proven && verified.text().contains("consistent and complete up to"),
        "{judgement:#?}"
    );

    let head = world.sidecar.status().await?.heads.into_iter().next().context("a head")?;
    let (journal, last) = (head.journal, head.incarnation);
    // It would refill what is removed.
    world.sidecar.kill()?;
    keep(&world).await?;
    let in_last = format!("incarnation = '{last}'");
    let ends =
        format!("{in_last} AND sequence > (SELECT max(sequence) - 3 FROM cartulary.record WHERE {in_last})");
    let middle = record_of(&world, &transcript.said[5].id).await?;
    let next = record_of(&world, &transcript.said[6].id).await?;
    use FindingKind::{
        ColumnChanged, CutOff, HeaderChanged, JournalRemoved, PayloadChanged, RecordsMissing, Rewritten,
        StreamRemoved,
    };
    let removals = [
        ("a middle row", format!("id = '{middle}'"), RecordsMissing),
        ("the last rows", ends, CutOff),
        ("a stream", in_last, StreamRemoved),
        ("a journal", format!("journal = '{journal}'"), JournalRemoved),
    ];
    for (what, records, expected) in removals {
        world.postgres.sql(DATABASE, &REMOVE.replace("$where", &records)).await?;
        named(&world, &anchors, what, expected).await?;
    }
    let swap = |table: &str, key: &str, columns: &str| {
        format!(
            "CREATE TEMP TABLE pair AS SELECT * FROM cartulary.{table} WHERE {key} IN ('{middle}', '{next}'); \
             UPDATE cartulary.{table} r SET ({columns}) = (SELECT {columns} FROM pair p WHERE p.{key} <> r.{key}) \
             WHERE r.{key} IN ('{middle}', '{next}')"
        )
    };
    let changes = [
        (
            "a changed column",
            format!("UPDATE cartulary.record SET body = 'no' WHERE id = '{middle}'"),
            ColumnChanged,
        ),
        (
            "a changed header",
            format!(
                "UPDATE cartulary.record SET header = set_byte(header, 20, 255 - get_byte(header, 20)) WHERE id = '{middle}'"
            ),
            HeaderChanged,
        ),
        ("two texts at each other's place", swap("payload", "record_id", "salt, bytes"), PayloadChanged),
        ("two places exchanged", swap("record", "id", "sequence, previous"), ColumnChanged),
    ];
    for (what, sql, expected) in changes {
        world.postgres.sql(DATABASE, &sql).await?;
        named(&world, &anchors, what, expected).await?;
    }
    // Everything after the change made to fit, over the end of its stream and into the next one: consistent in itself.
    compute_anew(&world, middle).await?;
    let alone = verify(&world.postgres).await?;
    alone.holds().context("whoever computes everything anew is found by anchors alone")?;
    named(&world, &anchors, "a change with everything after it computed anew", Rewritten).await?;

    // A journal that nobody anchored, and an archive that was made up as a whole.
    other_journal(&world, "xmpp-1").await?;
    let (verified, judgement) = held_against(&world, &anchors).await?;
    verified.holds()?;
    let foreign: Vec<_> =
        judgement.journals.iter().filter(|state| state.anchored_at_nanos.is_none()).collect();
    ensure!(foreign.len() == 1 && foreign[0].node == "xmpp-1" && !judgement.is_proven, "{judgement:#?}");
    ensure!(verified.text().contains("completeness not proven"), "{}", verified.text());
    let made_up = format!("journal <> '{}'", foreign[0].journal);
    world.postgres.sql(DATABASE, &REMOVE.replace("$where", &made_up)).await?;
    verify(&world.postgres).await?.holds()?;
    let (verified, _) = held_against(&world, &anchors).await?;
    let removed = verified.0.findings.iter().filter(|finding| finding.kind == JournalRemoved);
    ensure!(removed.count() == 2, "{}", verified.text());
    Ok(())
}

#[tokio::test]
async fn p4_what_is_anchored_and_still_waits_is_not_called_removed() -> Result<()> {
    let mut world = World::start().await?;
    converse(&world, 4).await?;
    confirmed(&world).await?;
    world.postgres.stop().await?;
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    anna.message(ben.bare(), "chat", "late", "while the archive is away").await?;
    ben.answer_to("late").await?;
    let waits =
        |head: &Head| head.confirmed.as_ref().is_some_and(|confirmed| confirmed.sequence < head.sequence);
    let status = world.sidecar.until("a head ahead of its archive", |s| s.heads.iter().any(waits)).await?;
    world.sidecar.kill()?;
    world.postgres.resume().await?;
    let mut anchors = AnchorsFile::default();
    keep_heads(&mut anchors, status.heads);
    let (verified, judgement) = held_against(&world, &Anchors::check(anchors)).await?;
    verified.holds()?;
    ensure!(judgement.is_proven && judgement.journals[0].waiting > 0, "{judgement:#?}");
    ensure!(verified.text().contains("record(s) not archived yet"), "{}", verified.text());
    Ok(())
}

#[tokio::test]
async fn ev_1_a_copy_verified_offline_names_the_first_record_that_does_not_fit() -> Result<()> {
    let world = World::start().await?;
    let transcript = converse(&world, 6).await?;
    let mut anchors = AnchorsFile::default();
    keep_heads(&mut anchors, confirmed(&world).await?);
    // As they are carried: as JSON.
    let anchors = Anchors::check(AnchorsFile::read(serde_json::to_vec(&anchors)?.as_slice())?);
    let dir = tempfile::tempdir()?;
    let offline = async |name: &str| -> Result<Verified> {
        let file = dir.path().join(name);
        export(&mut open(&world.postgres).await?, &file, |_| ()).await?;
        let target = cartulary_archive::endpoint::Target::Sqlite(file);
        let mut copy = cartulary_archive::endpoint::Archive::open(&target).await?;
        Ok(Verified(verify_anchored(&mut copy, &anchors).await?.0))
    };
    let whole = offline("whole.sqlite").await?;
    whole.holds()?;
    ensure!(whole.0.completeness_proven, "{}", whole.text());
    let ids =
        [record_of(&world, &transcript.said[2].id).await?, record_of(&world, &transcript.said[4].id).await?];
    let sql = "UPDATE cartulary.record SET from_jid = 'mallory@example.test/x' WHERE id IN ('$0', '$1')";
    let sql = sql.replace("$0", &ids[0].to_string()).replace("$1", &ids[1].to_string());
    world.postgres.sql(DATABASE, &sql).await?;
    let changed = offline("changed.sqlite").await?;
    ensure!(changed.0.findings.first().context("found")?.id == Some(ids[0]), "{}", changed.text());
    Ok(())
}

#[tokio::test]
async fn p4_verify_says_what_it_cannot_prove_without_anchors() -> Result<()> {
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

/// Says so many messages, to a user and into a room, and waits until all of it is archived.
async fn converse(world: &World, count: usize) -> Result<Transcript> {
    let (anna, ben) = (world.client("anna/desk").await?, world.client("ben/desk").await?);
    anna.join(&format!("lobby@{ROOMS}"), "anna").await?;
    let mut transcript = Transcript::default();
    for n in 0..count {
        let (kind, to) = if n % 2 == 0 {
            (Kind::OneToOne, ben.bare().to_owned())
        } else {
            (Kind::Room, format!("lobby@{ROOMS}"))
        };
        transcript.say(&anna, kind, &to, &format!("message {n}")).await?;
    }
    anna.settle().await?;
    world.sidecar.drained().await?;
    Ok(transcript)
}

async fn record_of(world: &World, stanza_id: &str) -> Result<Uuid> {
    let sql = "SELECT id FROM cartulary.record WHERE stanza_id = $1";
    let mut connection = world.postgres.connect(DATABASE).await?;
    Ok(sqlx::query(sql).bind(stanza_id).fetch_one(&mut connection).await?.try_get(0)?)
}

/// The sidecar's heads when everything it has is confirmed.
async fn confirmed(world: &World) -> Result<Vec<Head>> {
    let all =
        |head: &Head| head.confirmed.as_ref().is_some_and(|confirmed| confirmed.sequence == head.sequence);
    let what = "heads, with everything confirmed";
    Ok(world.sidecar.until(what, |s| !s.heads.is_empty() && s.heads.iter().all(all)).await?.heads)
}

/// Keeps heads as the operator does.
fn keep_heads(anchors: &mut AnchorsFile, heads: Vec<Head>) {
    for head in heads {
        let journal = JournalAnchors {
            journal: head.journal.clone(),
            node: "xmpp-0".to_owned(),
            cluster: "test/xmpp".to_owned(),
            public_key: head.public_key.clone(),
            heads: vec![head],
        };
        anchors.merge(AnchorsFile { journals: vec![journal], ..AnchorsFile::default() });
    }
}

/// What another node has recorded into the same archive, and its heads.
async fn other_journal(world: &World, node: &str) -> Result<Vec<Head>> {
    let dir = tempfile::tempdir()?;
    let options = JournalOptions::new(dir.path().to_owned(), node, "test/xmpp", "test");
    let (journal, _) = Journal::open(options, system_clock())?;
    let tally = Tally { day: 0, instance: "server".to_owned(), sums: Sums::default(), is_final: true };
    journal.append(ENDPOINT, vec![Draft { body: Body::Tally(tally), payloads: vec![] }]).await?;
    let endpoint = SqlEndpoint::new(owner(&world.postgres, DATABASE));
    let (drain, handle) = Drain::new(journal.clone(), ENDPOINT, endpoint, DrainOptions::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(drain.run(stop.clone()));
    until("the other journal is archived", async || handle.status().waiting == 0).await?;
    stop.cancel();
    running.await?;
    Ok(journal.heads())
}

async fn held_against(world: &World, anchors: &Anchors) -> Result<(Verified, Judgement)> {
    let (report, judgement) = verify_anchored(&mut open(&world.postgres).await?, anchors).await?;
    Ok((Verified(report), judgement))
}

/// What was done must be found as this, with its place; then it is undone.
async fn named(world: &World, anchors: &Anchors, what: &str, expected: FindingKind) -> Result<()> {
    let (verified, _) = held_against(world, anchors).await?;
    let found = verified.0.findings.iter().find(|finding| finding.kind == expected);
    let found = found.with_context(|| format!("{what}: not found: {}", verified.text()))?;
    ensure!(found.sequence.is_some() && !found.stream.journal.is_nil(), "{what}: {found:?}");
    ensure!(!verified.0.consistent && !verified.0.completeness_proven, "{what}: {}", verified.text());
    restore(world).await?;
    verify(&world.postgres).await?.holds().with_context(|| format!("after what was undone: {what}"))
}

async fn keep(world: &World) -> Result<()> {
    for table in TABLES {
        let sql = format!("CREATE TABLE kept_{table} AS TABLE cartulary.{table}");
        world.postgres.sql(DATABASE, &sql).await?;
    }
    Ok(())
}

async fn restore(world: &World) -> Result<()> {
    for table in TABLES {
        let sql = format!(
            "DELETE FROM cartulary.{table}; INSERT INTO cartulary.{table} SELECT * FROM kept_{table}"
        );
        world.postgres.sql(DATABASE, &sql).await?;
    }
    Ok(())
}

/// Changes a record and makes all that follows it fit, as somebody does who has the superuser's rights and the format's description.
async fn compute_anew(world: &World, id: Uuid) -> Result<()> {
    let mut connection = world.postgres.connect(DATABASE).await?;
    let mut ends: BTreeMap<StreamId, StreamEnd> = BTreeMap::new();
    for mut record in Archive::read(&world.postgres, DATABASE).await?.records {
        let header = &mut record.header;
        if header.id == id {
            header.recorded_at_nanos += 1_000_000_000;
        }
        if let Some(end) = ends.get(&header.stream) {
            header.previous = end.hash;
        }
        if let Content::Open(open) = &mut header.content
            && let Some(end) = &mut open.predecessor
            && let Some(new) = ends.get(&StreamId { incarnation: end.incarnation, ..header.stream.clone() })
        {
            *end = *new;
        }
        record.header_bytes = record.header.encode();
        let hash = record.hash();
        let sql = "UPDATE cartulary.record SET header = $2, hash = $3, previous = $4, \
            recorded_at = 'epoch'::timestamptz + $5::bigint * interval '1 microsecond' WHERE id = $1";
        sqlx::query(sql)
            .bind(record.header.id)
            .bind(record.header_bytes)
            .bind(hash.to_vec())
            .bind(record.header.previous.to_vec())
            .bind(record.header.recorded_at_nanos / 1000)
            .execute(&mut connection)
            .await?;
        let (incarnation, sequence) = (record.header.stream.incarnation, record.header.sequence);
        ends.insert(record.header.stream, StreamEnd { incarnation, sequence, hash });
    }
    Ok(())
}
