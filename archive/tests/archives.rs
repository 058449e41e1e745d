//! Both databases keep the same promises: idempotent writing, faithful columns, and changes that `verify` finds.

mod common;

use cartulary_archive::drain::{Drain, DrainOptions};
use cartulary_archive::endpoint::{Endpoint, WriteReport};
use cartulary_archive::journal::Stored;
use cartulary_archive::record::Header;
use cartulary_archive::search::{Filter, page};
use cartulary_archive::verify::FindingKind;
use cartulary_compliance::names::reason;
use common::place::Place;
use common::{Kept, accepted, draft, eventually, outcome};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

async fn conversation() -> (Kept, Vec<Stored>) {
    let kept = Kept::open();
    for number in 0..5 {
        let message = accepted(&format!("m{number}"));
        let told = outcome(&message);
        kept.append(vec![draft(message, &format!("hello {number}")), told]).await;
    }
    let records = kept.waiting().await;
    (kept, records)
}

#[tokio::test]
async fn writing_again_changes_nothing() {
    let (_kept, records) = conversation().await;
    for place in Place::both().await {
        let mut endpoint = place.connected().await;
        let all = records.len() as u64;
        let first = endpoint.write(&records[..4]).await.expect("written");
        assert_eq!(first, WriteReport { inserted: 4, ..WriteReport::default() });
        let second = endpoint.write(&records).await.expect("written");
        assert_eq!(second, WriteReport { inserted: all - 4, repeated: 4, conflicting: vec![] });
        let report = place.verify().await;
        assert!(report.consistent, "{report}");
        assert_eq!((report.records, report.streams, report.unclosed.len()), (all, 1, 1));
        assert!(report.sentence.contains("completeness not proven"));
    }
}

#[tokio::test]
async fn another_record_under_the_same_id_is_a_conflict_and_not_a_repeat() {
    let (_kept, records) = conversation().await;
    for place in Place::both().await {
        let mut endpoint = place.connected().await;
        endpoint.write(&records[..3]).await.expect("written");
        let mut other = records[1].clone();
        other.record.header.node = "elsewhere".to_owned();
        other.record.header_bytes = other.record.header.encode();
        let report = endpoint.write(&[other, records[2].clone(), records[3].clone()]).await.expect("written");
        assert_eq!(
            report,
            WriteReport { inserted: 1, repeated: 1, conflicting: vec![records[1].record.header.id] }
        );
    }
}

#[tokio::test]
async fn a_streams_position_is_its_last_record() {
    let (_kept, records) = conversation().await;
    for place in Place::both().await {
        let mut endpoint = place.connected().await;
        let stream = &records[0].record.header.stream;
        assert_eq!(endpoint.position(stream, 9, &[0; 32]).await.expect("asked"), None);
        endpoint.write(&records[..3]).await.expect("written");
        let last = &records[2].record;
        assert_eq!(
            endpoint.position(stream, 9, &[0; 32]).await.expect("asked"),
            Some((last.header.sequence, last.hash()))
        );
    }
}

#[tokio::test]
async fn no_record_is_refused_for_what_a_column_cannot_hold() {
    let kept = Kept::open();
    let mut odd = accepted("nul \0 in an id");
    odd.from = format!("{}@example.org/\0", "ü".repeat(3000));
    odd.session = Some("\0".to_owned());
    odd.seen_at_nanos = i64::MIN;
    odd.recipients[0].bare = "x".repeat(9000);
    odd.recipients[0].resources = vec!["\0 \u{1F600} \u{202e}".to_owned()];
    let mut broken = draft(accepted("broken"), "");
    broken.payloads = vec![(1, b"<message>\0\xff not XML".to_vec()), (2, vec![])];
    let long = "\u{1F600}\u{202e}שלום".repeat(20_000);
    kept.append(vec![draft(odd, "a\u{301}"), broken, draft(accepted("long"), &long)]).await;
    let records = kept.waiting().await;
    for place in Place::both().await {
        let report = place.connected().await.write(&records).await.expect("nothing is refused");
        assert_eq!(report.inserted, records.len() as u64);
        let report = place.verify().await;
        assert!(report.consistent, "{report}");
        let found = page(&mut place.archive().await, &Filter::default(), 10).await.expect("found");
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].texts["stanza_id"], "nul \u{fffd} in an id");
        assert_eq!(found[2].texts["body"], long);
        for (found, stored) in found.iter().zip(&records[1..]) {
            assert_eq!(found.id, stored.record.header.id);
        }
    }
}

#[tokio::test]
async fn messages_are_found_by_person_conversation_room_time_and_text() {
    let kept = Kept::open();
    let first = accepted("first");
    let mut reply = accepted("reply");
    (reply.from, reply.to) = ("b@example.org/phone".to_owned(), Some("a@example.org/desk".to_owned()));
    reply.recipients[0].bare = "a@example.org".to_owned();
    reply.seen_at_nanos += 10_000_000_000;
    let mut to_room = accepted("room");
    (to_room.from, to_room.room) = ("c@example.org/x".to_owned(), Some("room@muc.example.org".to_owned()));
    to_room.recipients.push(to_room.recipients[0].clone());
    to_room.recipients[1].bare = "a@example.org".to_owned();
    let told = outcome(&first);
    let (early, late) = (first.seen_at_nanos / 1000, reply.seen_at_nanos / 1000);
    kept.append(vec![draft(first, "Lunch 100%_?"), told, draft(reply, "yes"), draft(to_room, "hello all")])
        .await;
    let records = kept.waiting().await;
    let jid = |name: &str| Some(format!("{name}@example.org"));
    let cases: [(Filter, &[&str]); 9] = [
        (Filter { person: jid("a"), ..Filter::default() }, &["first", "reply", "room"]),
        (Filter { person: jid("c"), ..Filter::default() }, &["room"]),
        (Filter { person: jid("a"), with: jid("b"), ..Filter::default() }, &["first", "reply"]),
        (Filter { room: Some("room@muc.example.org".to_owned()), ..Filter::default() }, &["room"]),
        (Filter { from_micros: Some(late), ..Filter::default() }, &["reply"]),
        (
            Filter { from_micros: Some(early), until_micros: Some(late), ..Filter::default() },
            &["first", "room"],
        ),
        (Filter { text: Some("lunch 100%_".to_owned()), ..Filter::default() }, &["first"]),
        (Filter { text: Some("%".to_owned()), ..Filter::default() }, &["first"]),
        (Filter { person: jid("nobody"), ..Filter::default() }, &[]),
    ];
    for place in Place::both().await {
        place.connected().await.write(&records).await.expect("written");
        let mut archive = place.archive().await;
        for (filter, expected) in &cases {
            let (mut found, mut filter) = (Vec::new(), filter.clone());
            // One at a time, so that every search goes on where it stopped.
            while let Some(next) = page(&mut archive, &filter, 1).await.expect("found").pop() {
                filter.after = Some(next.id);
                found.push(next);
            }
            let ids: Vec<&str> = found.iter().map(|found| found.texts["stanza_id"].as_str()).collect();
            assert_eq!(&ids, expected, "{filter:?}");
        }
        let first = page(&mut archive, &Filter::default(), 1).await.expect("found").remove(0);
        assert_eq!(first.numbers["seen_at"], 1_700_000_000_123_456);
        assert_eq!((first.texts["body"].as_str(), first.texts["thread"].as_str()), ("Lunch 100%_?", "t1"));
        assert_eq!(first.deliveries[0].resources, ["phone", "dés\"k"]);
        assert_eq!((first.outcomes[0].result.as_str(), first.outcomes[0].resources.len()), ("delivered", 1));
        assert!(
            serde_json::to_value(&first).expect("JSON")["stanza"].as_str().expect("plain").contains("Lunch")
        );
    }
}

#[tokio::test]
async fn whatever_a_superuser_changes_is_found() {
    let (_kept, records) = conversation().await;
    let at = |index: usize| records[index].record.header.sequence;
    let mut forged: Header = records[3].record.header.clone();
    forged.node = "elsewhere".to_owned();
    let (forged_header, forged_hash) =
        (hex::encode(forged.encode()), hex::encode(cartulary_archive::record::hash(&forged.encode())));
    let payload = |index: usize| format!("(SELECT id FROM record WHERE sequence = {})", at(index));
    let cases: Vec<(String, FindingKind)> = vec![
        (
            format!("UPDATE record SET body = 'changed' WHERE sequence = {}", at(3)),
            FindingKind::ColumnChanged,
        ),
        (
            format!("UPDATE record SET from_bare = 'x@example.org' WHERE sequence = {}", at(3)),
            FindingKind::ColumnChanged,
        ),
        ("UPDATE delivery SET bare = 'x@example.org'".to_owned(), FindingKind::ColumnChanged),
        ("DELETE FROM outcome".to_owned(), FindingKind::ColumnChanged),
        (
            format!("UPDATE record SET header = '\\x{forged_header}' WHERE sequence = {}", at(3)),
            FindingKind::HeaderChanged,
        ),
        (
            format!(
                "UPDATE record SET header = '\\x{forged_header}', hash = '\\x{forged_hash}', node = 'elsewhere' WHERE sequence = {}",
                at(3)
            ),
            FindingKind::ChainBroken,
        ),
        (format!("DELETE FROM record WHERE sequence = {}", at(4)), FindingKind::RecordsMissing),
        ("DELETE FROM record WHERE sequence = 0".to_owned(), FindingKind::RecordsMissing),
        (
            format!(
                "UPDATE payload SET number = 9 WHERE record_id = {one}; UPDATE payload SET record_id = {one} WHERE record_id = {two}; \
                 UPDATE payload SET record_id = {two}, number = 1 WHERE record_id = {one} AND number = 9",
                one = payload(1),
                two = payload(3)
            ),
            FindingKind::PayloadChanged,
        ),
        (format!("DELETE FROM payload WHERE record_id = {}", payload(1)), FindingKind::PayloadMissing),
        ("UPDATE payload SET bytes = NULL".to_owned(), FindingKind::PayloadMissing),
        (format!("UPDATE outcome SET event = {}", payload(1)), FindingKind::ColumnChanged),
        // Rows that no record names, where a search or somebody's own query finds them.
        (
            format!(
                "INSERT INTO outcome SELECT event, ordinal, event, bare, occupant, resources, 'bounced', reason FROM outcome \
                 WHERE record_id = {}",
                payload(2)
            ),
            FindingKind::Foreign,
        ),
        ("INSERT INTO delivery SELECT event, 0, 'x@example.org', NULL, '[]', 'internal' FROM record WHERE sequence = 1".to_owned(),
            FindingKind::Foreign),
        ("INSERT INTO payload SELECT event, 1, 1, NULL, NULL FROM record WHERE sequence = 1".to_owned(), FindingKind::Foreign),
    ];
    for (change, expected) in cases {
        for place in Place::both().await {
            place.connected().await.write(&records).await.expect("written");
            place.tamper(&change).await;
            let report = place.verify().await;
            let kinds: Vec<FindingKind> = report.findings.iter().map(|finding| finding.kind).collect();
            assert!(kinds.contains(&expected), "{change}\n{report}");
            assert!(!report.consistent && report.sentence.starts_with("not consistent"), "{report}");
        }
    }
}

#[tokio::test]
async fn a_record_put_in_outside_the_order_of_reading_is_found() {
    let kept = Kept::open();
    let messages = (0..300).map(|number| draft(accepted(&number.to_string()), "said"));
    kept.append(messages.collect()).await;
    let records = kept.waiting().await;
    let place = Place::postgres().await;
    place.connected().await.write(&records).await.expect("written");
    place
        .tamper(
            "ALTER TABLE record ALTER journal DROP NOT NULL, ALTER sequence DROP NOT NULL; \
             INSERT INTO record SELECT (json_populate_record(r, json_build_object('id', r.event, 'journal', NULL, 'sequence', NULL, \
             'body', 'never said'))).* FROM record r WHERE sequence = 5",
        )
        .await;
    let filter = Filter { text: Some("never".to_owned()), ..Filter::default() };
    assert_eq!(page(&mut place.archive().await, &filter, 10).await.expect("found").len(), 1);
    let report = place.verify().await;
    assert!(!report.consistent && report.findings[0].kind == FindingKind::Foreign, "{report}");
}

#[tokio::test]
async fn an_archive_restored_from_a_backup_is_refilled() {
    for place in Place::both().await {
        let (kept, records) = conversation().await;
        let all = records.len() as u64;
        let start = |stop: &CancellationToken| {
            let options = DrainOptions { pause_min: Duration::from_millis(10), ..DrainOptions::default() };
            let (drain, handle) = Drain::new(kept.journal.clone(), "main", place.writer(), options);
            (tokio::spawn(drain.run(stop.clone())), handle)
        };
        let stop = CancellationToken::new();
        let (running, handle) = start(&stop);
        eventually("everything is archived", async || handle.status().waiting == 0).await;
        assert_eq!(handle.status().state, reason::CONNECTED);
        stop.cancel();
        running.await.expect("the drain ends");
        let gone = "WHERE record_id IN (SELECT id FROM record WHERE sequence > 4)";
        place
            .tamper(&format!(
                "DELETE FROM payload {gone}; DELETE FROM delivery {gone}; DELETE FROM outcome {gone}; \
                 DELETE FROM record WHERE sequence > 4"
            ))
            .await;
        kept.append(vec![draft(accepted("after"), "after the restore")]).await;
        let stop = CancellationToken::new();
        let (running, handle) = start(&stop);
        eventually("everything is there again", async || {
            handle.status().waiting == 0 && handle.status().state == reason::CONNECTED
        })
        .await;
        stop.cancel();
        running.await.expect("the drain ends");
        let report = place.verify().await;
        assert!(report.consistent, "{report}");
        assert_eq!(report.records, all + 1);
    }
}
