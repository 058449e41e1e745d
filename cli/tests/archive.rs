//! The binary itself on a real archive file, written by journal and drain as a sidecar does.

use cartulary_archive::anchors::{AnchorsFile, JournalAnchors};
use cartulary_archive::drain::{Drain, DrainOptions};
use cartulary_archive::endpoint::{Roles, SqlEndpoint, Target, migrate};
use cartulary_archive::head::{Mark, Signer, Statement, sign};
use cartulary_archive::journal::{Journal, JournalOptions, system_clock};
use cartulary_archive::record::{Accepted, ActionCode, Body, Draft, Outcome, RecipientEntry, new_event_id};
use cartulary_compliance::direction::Direction;
use cartulary_compliance::link::{Delivery, DeliveryResult, Ingress, Recipient, Target as Addressee};
use sqlx::{Connection, Row};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);

fn said(from: &str, to: &str, text: &str, seen_at_nanos: i64) -> [Draft; 2] {
    let event = new_event_id();
    let recipient = Recipient { bare: to.to_owned(), occupant: None, resources: vec!["desk".into()] };
    let accepted = Accepted {
        event,
        seen_at_nanos,
        ingress: Ingress::Client,
        from: format!("{from}/phone"),
        to: Some(to.to_owned()),
        target: Addressee::LocalUser,
        room: None,
        message_type: "chat".into(),
        stanza_id: Some(text.to_lowercase()),
        origin_id: None,
        host: "chat.example".into(),
        recipients: vec![RecipientEntry::new(recipient, Direction::Internal)],
        action: ActionCode::Deliver,
        condition: None,
        session: None,
        exceptions: vec![],
    };
    let delivery = Delivery {
        bare: to.to_owned(),
        occupant: None,
        resources: vec!["desk".into()],
        result: DeliveryResult::Delivered,
        reason: None,
    };
    let outcome = Outcome { event, seen_at_nanos, deliveries: vec![delivery], is_final: true };
    let stanza = format!("<message type='chat'><body>{text}</body></message>");
    [
        Draft { body: Body::Accepted(accepted), payloads: vec![(1, stanza.into_bytes())] },
        Draft { body: Body::Outcome(outcome), payloads: vec![] },
    ]
}

/// An archive of three messages, closed and complete.
async fn archive(dir: &Path) -> PathBuf {
    let file = dir.join("archive.sqlite");
    let target = Target::Sqlite(file.clone());
    migrate(&target, &Roles::default()).await.expect("tables");
    let options = JournalOptions::new(dir.join("journal"), "prosody-0", "chat/chat", "test");
    let (journal, _) = Journal::open(options, system_clock()).expect("a journal");
    let day = 86_400_000_000_000;
    let drafts = [
        said("ada@chat.example", "brahe@chat.example", "Hello", 0),
        said("brahe@chat.example", "ada@chat.example", "Answer", day),
        said("ada@chat.example", "curie@chat.example", "Other", 2 * day),
    ];
    for drafts in drafts {
        journal.append("e", drafts.into()).await.expect("recorded");
    }
    journal.close().await.expect("closed");

    // The folder is free when the writer's thread has ended, a moment after the last record is on disk.
    let begin = Instant::now();
    let journal = loop {
        let options = JournalOptions::new(dir.join("journal"), "prosody-0", "chat/chat", "test");
        match Journal::open(options, system_clock()) {
            Ok((journal, _)) => break journal,
            Err(error) => assert!(begin.elapsed() < DEADLINE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let (drain, handle) = Drain::new(journal, "e", SqlEndpoint::new(target), DrainOptions::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(drain.run(stop.clone()));
    while handle.status().waiting > 0 {
        assert!(begin.elapsed() < DEADLINE, "not archived: {:?}", handle.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    running.await.expect("the drain");
    file
}

fn cartulary(file: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cartulary"))
        .args(arguments)
        .arg(format!("--archive=sqlite:{}", file.display()))
        .output()
        .expect("the binary runs")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

#[tokio::test]
async fn what_was_said_is_found_by_person_conversation_time_and_text() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = archive(dir.path()).await;
    for (terms, found) in [
        (vec![], vec!["Hello", "Answer", "Other"]),
        (vec!["--person=Ada@chat.example/desk"], vec!["Hello", "Answer", "Other"]),
        (vec!["--person=ada@chat.example", "--with=brahe@chat.example"], vec!["Hello", "Answer"]),
        (vec!["--since=1970-01-02", "--until=1970-01-03"], vec!["Answer"]),
        (vec!["--text=ELLO"], vec!["Hello"]),
        (vec!["--limit=1"], vec!["Hello"]),
        (vec!["--room=lobby@rooms.chat.example"], vec![]),
    ] {
        let output = cartulary(&file, &[vec!["search", "-o", "json"], terms.clone()].concat());
        assert_eq!(output.status.code(), Some(0), "{terms:?}: {output:?}");
        let messages: Vec<serde_json::Value> =
            text(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let bodies: Vec<_> =
            messages.iter().map(|message| message["body"].as_str().expect("a body")).collect();
        assert_eq!(bodies, found, "{terms:?}");
        for message in messages {
            assert_eq!(message["copies"][0]["result"], "delivered");
            assert_eq!(message["copies"][0]["direction"], "internal");
            assert!(message["stanza"].as_str().is_some_and(|stanza| stanza.starts_with("<message")));
        }
    }
    let shown = text(&cartulary(&file, &["search", "--text=answer"]));
    assert!(
        shown.contains("1970-01-02 00:00:00.000Z  brahe@chat.example/phone → ada@chat.example"),
        "{shown}"
    );
    assert!(shown.contains("ada@chat.example (desk): delivered"), "{shown}");
}

#[tokio::test]
async fn an_untouched_archive_is_consistent_and_a_changed_word_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = archive(dir.path()).await;
    let output = cartulary(&file, &["verify"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let last = "consistent, completeness not proven: no anchors were given";
    assert_eq!(text(&output).lines().last(), Some(last));

    let mut database =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.expect("a file");
    sqlx::query("UPDATE record SET body = 'Goodbye' WHERE body = 'Hello'")
        .execute(&mut database)
        .await
        .expect("changed");
    database.close().await.expect("closed");
    let output = cartulary(&file, &["verify"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output).contains("WRONG: ") && text(&output).contains("NOT consistent"),
        "{}",
        text(&output)
    );
}

/// A file of anchors for the last record of the archive.
async fn anchors(dir: &Path, archive: &Path) -> PathBuf {
    let mut database =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", archive.display())).await.expect("a file");
    let sql = "SELECT journal, incarnation, endpoint, sequence, hash FROM record ORDER BY id DESC LIMIT 1";
    let last = sqlx::query(sql).fetch_one(&mut database).await.expect("a record");
    let sequence: i64 = last.get(3);
    let mark = Mark {
        sequence: sequence.unsigned_abs(),
        hash: last.get::<Vec<u8>, _>(4).try_into().expect("32 bytes"),
    };
    let statement = Statement {
        journal: last.get(0),
        incarnation: last.get(1),
        endpoint: last.get(2),
        last: mark,
        confirmed: Some(mark),
        closed: true,
        at_nanos: 0,
    };
    let signer = Signer::from_seed(&[1; 32]);
    let journal = JournalAnchors {
        journal: statement.journal.to_string(),
        node: "prosody-0".into(),
        cluster: "chat/chat".into(),
        public_key: hex(&signer.public_key()),
        heads: vec![sign(&signer, &statement)],
    };
    let file = AnchorsFile { journals: vec![journal], ..Default::default() };
    let path = dir.join("anchors.json");
    std::fs::write(&path, serde_json::to_vec(&file).expect("JSON")).expect("written");
    path
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn ev_1_a_copy_is_verified_offline_with_anchors_and_a_cut_off_end_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = archive(dir.path()).await;
    let anchors = format!("--anchors={}", anchors(dir.path(), &file).await.display());
    let copy = dir.path().join("copy.sqlite");
    let to = format!("--to={}", copy.display());
    let output = cartulary(&file, &["export", &to]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(cartulary(&file, &["export", &to]).status.code(), Some(2), "it is there already");

    let output = cartulary(&copy, &["verify", &anchors]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output).lines().last(), Some("consistent and complete up to 1970-01-01T00:00:00Z"));

    let mut database =
        sqlx::SqliteConnection::connect(&format!("sqlite:{}", copy.display())).await.expect("a file");
    let cut = "DELETE FROM record WHERE sequence = (SELECT max(sequence) FROM record)";
    sqlx::query(cut).execute(&mut database).await.expect("deleted");
    database.close().await.expect("closed");
    // Without anchors nobody can tell.
    assert_eq!(cartulary(&copy, &["verify"]).status.code(), Some(0));
    let output = cartulary(&copy, &["verify", &anchors]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = text(&output);
    assert!(shown.contains("cut off after record") && shown.contains("NOT consistent"), "{shown}");
    let output = cartulary(&copy, &["verify", &anchors, "--output=json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told[1]["judgement"]["findings"][0]["kind"], "cut-off", "{told}");
}

#[tokio::test]
async fn ev_2_messages_that_nobody_counted_are_a_mismatch() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = archive(dir.path()).await;
    let output = cartulary(&file, &["report"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = text(&output);
    assert!(
        shown.contains("WRONG: 1970-01-02 prosody-0: 1 message(s) are archived, and nothing was counted"),
        "{shown}"
    );
    assert!(shown.trim_end().lines().last().is_some_and(|line| line.starts_with("NOT EQUAL")), "{shown}");
    let output = cartulary(&file, &["report", "--since=1980-01-01"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn what_cannot_be_looked_at_is_an_error_that_says_so() {
    for (arguments, file, hint) in [
        (vec!["verify"], "/nonexistent/archive.sqlite", "/nonexistent/archive.sqlite"),
        (vec!["search", "--person=@"], "x", "ada@chat.example"),
        (vec!["search", "--since=yesterday"], "x", "2026-03-01"),
    ] {
        let output = cartulary(Path::new(file), &arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(complaint.contains(hint), "{complaint}");
    }
    assert!(!Path::new("/nonexistent/archive.sqlite").exists());
}
