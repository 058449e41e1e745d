//! Laws with a name of their own; the first three were found by schedules.

use super::schedules::archived;
use super::simdisk::SimDisk;
use super::{Bench, draft, options};
use crate::head::{Mark, verify as verify_head};
use crate::journal::key;
use crate::journal::state::segment_name;
use crate::journal::{AppendError, Journal, JournalError, JournalOptions, Limits, Stored, system_clock};
use crate::record::{Body, Content, Gap, GapReason};
use crate::verify::{Checker, FindingKind, Report};
use cartulary_compliance::config::QueueLimit;
use std::time::Duration;

fn keep_nothing() -> JournalOptions {
    let mut options = options();
    options.limits.keep_confirmed = Duration::ZERO;
    options
}

fn confirm_all(bench: &Bench, endpoint: &str) {
    if let Some(last) = bench.waiting(endpoint).last() {
        bench.shared.confirm(endpoint, last.cursor()).expect("the disk is well");
    }
}

fn gaps(records: &[Stored]) -> Vec<Gap> {
    records
        .iter()
        .filter_map(|stored| match &stored.record.header.content {
            Content::Body(Body::Gap(gap)) => Some(gap.clone()),
            _ => None,
        })
        .collect()
}

fn verify(mut records: Vec<Stored>) -> Report {
    records.sort_by_key(|stored| (stored.record.header.stream.clone(), stored.record.header.sequence));
    let mut checker = Checker::default();
    for stored in &records {
        checker.record(&archived(stored));
    }
    checker.finish()
}

#[test]
fn a_key_is_made_once_and_its_loss_is_told() {
    let disk = SimDisk::new(20);
    let mut bench = Bench::open(&disk, options()).expect("open");
    assert!(!bench.recovery.key_replaced);
    bench.append("main", &["1"]).expect("append");
    let seed = bench.shared.seed();
    assert!(seed.is_some());
    drop(bench);
    disk.crash();
    assert_eq!(Bench::open(&disk, options()).expect("open").shared.seed(), seed);
    disk.damage(key::NAME, 25, b"\xff\xff");
    let bench = Bench::open(&disk, options()).expect("a damaged key does not keep it from opening");
    assert!(
        bench.recovery.key_replaced && bench.recovery.notes[0].contains("anchors"),
        "{:?}",
        bench.recovery
    );
    let second = bench.shared.seed();
    assert!(second.is_some() && second != seed);
    assert_eq!(bench.waiting_texts("main"), ["1"]);
    drop(bench);
    disk.crash();
    let bench = Bench::open(&disk, options()).expect("open");
    assert!(!bench.recovery.key_replaced && bench.shared.seed() == second);
}

#[test]
fn nothing_is_signed_before_the_key_is_durable() {
    let disk = SimDisk::new(21);
    disk.set_room(Some(40));
    let mut bench = Bench::open(&disk, options()).expect("a full disk does not keep it from opening");
    assert!(bench.shared.heads().is_empty());
    disk.set_room(None);
    bench.append("main", &["1"]).expect("append");
    let head = bench.shared.heads().pop().expect("the key could be stored");
    drop(bench);
    disk.crash();
    let mut bench = Bench::open(&disk, options()).expect("open");
    bench.append("main", &["2"]).expect("append");
    assert_eq!(bench.shared.heads()[0].public_key, head.public_key);
}

#[test]
fn ev_1_a_head_names_what_is_durable_and_confirmed_and_no_more() {
    let disk = SimDisk::new(22);
    let mut bench = Bench::open(&disk, options()).expect("open");
    assert!(bench.shared.heads().is_empty(), "a stream that was not begun has no head");
    let first = bench.append("main", &["1"]).expect("append").remove(0);
    let head = |bench: &Bench| verify_head(&bench.shared.heads()[0]).expect("signed").statement;
    assert_eq!(head(&bench).last, Mark { sequence: 1, hash: first.hash });
    assert_eq!(head(&bench).confirmed, None);
    assert_eq!(bench.shared.heads(), bench.shared.heads(), "what says the same is not signed again");
    disk.fail_syncs(1);
    bench.append("main", &["unsynced"]).expect_err("the sync fails");
    assert_eq!(head(&bench).last.sequence, 1);
    confirm_all(&bench, "main");
    assert_eq!(head(&bench).confirmed, Some(Mark { sequence: 1, hash: first.hash }));
    bench.shared.rewind("main", None).expect("rewind");
    assert_eq!(head(&bench).confirmed.map(|mark| mark.sequence), Some(1), "it was confirmed all the same");
    bench.writer.close().expect("close");
    let last = head(&bench);
    assert!(last.closed && last.last.sequence == 2);
}

#[test]
fn a_bad_block_costs_only_what_was_in_it() {
    let disk = SimDisk::new(23);
    let mut bench = Bench::open(&disk, options()).expect("open");
    let long = "x".repeat(900);
    let first = bench.append("main", &["1", &long, "3"]).expect("append")[0].position;
    drop(bench);
    // In the middle of the second record, which is longer than two blocks.
    disk.spoil_at(&segment_name(first.segment), first.offset + 1000, first.offset + 1010);
    for _ in 0..2 {
        let bench = Bench::open(&disk, options()).expect("a bad block does not keep it from opening");
        assert_eq!(bench.waiting_texts("main"), ["1", "3"]);
        let gaps = gaps(&bench.waiting("main"));
        // Said once, however often it is opened.
        assert_eq!(gaps.len(), 1);
        assert_eq!((gaps[0].first, gaps[0].count), (Some(2), 1));
        assert_eq!(bench.shared.state().unreadable, 1);
        assert!(verify(bench.waiting("main")).consistent);
    }
}

#[test]
fn a_bad_block_at_the_very_end_is_no_unfinished_write() {
    let disk = SimDisk::new(24);
    let mut bench = Bench::open(&disk, options()).expect("open");
    let padding = "x".repeat(900);
    bench.append("main", &["1", &padding]).expect("append");
    let end = bench.append("main", &["2"]).expect("append")[0].position;
    drop(bench);
    disk.spoil_at(&segment_name(end.segment), end.offset - 10, end.offset);
    let bench = Bench::open(&disk, options()).expect("open");
    assert_eq!((bench.recovery.torn_bytes, bench.recovery.unreadable), (0, 1));
    assert!(bench.recovery.lost >= 1, "{:?}", bench.recovery);
}

#[test]
fn a_disk_that_stutters_loses_nothing() {
    let disk = SimDisk::new(25);
    let mut bench = Bench::open(&disk, options()).expect("open");
    bench.append("main", &["1", "2"]).expect("append");
    drop(bench);
    disk.fail_reads(4);
    let bench = Bench::open(&disk, options()).expect("the fifth attempt reads");
    assert!(bench.recovery.notes.is_empty(), "{:?}", bench.recovery);
    assert_eq!(bench.waiting_texts("main"), ["1", "2"]);
}

#[test]
fn a_disk_that_gives_back_nothing_is_away_and_not_damaged() {
    let disk = SimDisk::new(26);
    let mut bench = Bench::open(&disk, options()).expect("open");
    bench.append("main", &["1", "2"]).expect("append");
    disk.fail_reads(u32::MAX);
    assert!(!bench.shared.gives_back());
    drop(bench);
    assert!(matches!(Bench::open(&disk, options()), Err(JournalError::Io { .. })));
    disk.heal();
    let bench = Bench::open(&disk, options()).expect("open");
    assert_eq!(bench.waiting_texts("main"), ["1", "2"]);
    assert_eq!(bench.recovery.quarantined, 0);
    assert_eq!(bench.shared.state().unreadable, 0);
}

#[test]
fn a_segment_never_gets_a_number_that_a_cursor_has_passed() {
    let disk = SimDisk::new(1);
    let mut bench = Bench::open(&disk, keep_nothing()).expect("open");
    bench.append("main", &["1"]).expect("append");
    confirm_all(&bench, "main");
    disk.fail_syncs(1);
    bench.append("main", &["lost"]).expect_err("the sync fails");
    bench.shared.reap(false);
    drop(bench);
    disk.crash();
    let mut bench = Bench::open(&disk, keep_nothing()).expect("open");
    bench.append("main", &["2"]).expect("append");
    assert_eq!(bench.waiting_texts("main"), ["2"]);
}

#[test]
fn rewinding_does_not_forget_where_a_stream_ended() {
    let disk = SimDisk::new(2);
    let mut records = Vec::new();
    for text in ["1", "2", "3"] {
        let mut bench = Bench::open(&disk, keep_nothing()).expect("open");
        bench.append("main", &[text]).expect("append");
        bench.shared.rewind("main", None).expect("rewind");
        records.extend(bench.waiting("main"));
        confirm_all(&bench, "main");
        bench.shared.rewind("main", None).expect("rewind");
        disk.crash();
    }
    records.sort_by_key(|stored| stored.record.header.id);
    records.dedup_by_key(|stored| stored.record.header.id);
    let report = verify(records);
    assert!(report.consistent && report.gaps.is_empty(), "{report}");
}

#[test]
fn a_journal_keeps_its_id_when_every_segment_is_gone() {
    let disk = SimDisk::new(3);
    let mut bench = Bench::open(&disk, keep_nothing()).expect("open");
    bench.append("main", &["1"]).expect("append");
    let id = bench.shared.journal;
    confirm_all(&bench, "main");
    disk.fail_syncs(2);
    bench.append("main", &["2"]).expect_err("the sync fails");
    bench.shared.reap(true);
    drop(bench);
    disk.crash();
    assert_eq!(Bench::open(&disk, keep_nothing()).expect("open").shared.journal, id);
}

#[test]
fn what_a_failed_sync_left_is_void_and_the_chain_goes_on_from_what_is_durable() {
    let disk = SimDisk::new(4);
    let mut bench = Bench::open(&disk, options()).expect("open");
    bench.append("main", &["1"]).expect("append");
    disk.fail_syncs(1);
    assert!(matches!(bench.append("main", &["void"]), Err(AppendError::Failed(_))));
    bench.append("main", &["2"]).expect("a new segment takes it");
    disk.crash();
    let bench = Bench::open(&disk, options()).expect("open");
    assert_eq!(bench.waiting_texts("main"), ["1", "2"]);
    assert!(verify(bench.waiting("main")).consistent);
}

#[test]
fn a_damaged_record_costs_only_itself_and_its_stream_says_so() {
    let disk = SimDisk::new(5);
    let mut bench = Bench::open(&disk, options()).expect("open");
    let middle = bench.append("main", &["1", "2", "3"]).expect("append")[0].position;
    drop(bench);
    disk.damage(&segment_name(middle.segment), middle.offset + 40, b"\xff\xff\xff");
    for _ in 0..3 {
        let bench = Bench::open(&disk, options()).expect("damage does not keep it from opening");
        assert_eq!(bench.waiting_texts("main"), ["1", "3"]);
        let waiting = bench.waiting("main");
        let gaps = gaps(&waiting);
        // Said once, however often it is opened.
        assert_eq!(gaps.len(), 1);
        assert_eq!((gaps[0].first, gaps[0].count, gaps[0].reason), (Some(2), 1, GapReason::Quarantined));
        assert_eq!(bench.shared.state().quarantined, 1);
        let report = verify(waiting);
        assert!(report.consistent, "{report}");
        assert_eq!(report.gaps.len(), 1);
    }
}

#[test]
fn a_damaged_segment_header_costs_nothing() {
    let disk = SimDisk::new(6);
    let mut bench = Bench::open(&disk, options()).expect("open");
    bench.append("main", &["1"]).expect("append");
    drop(bench);
    disk.damage(&segment_name(1), 9, &[0xff; 20]);
    assert_eq!(Bench::open(&disk, options()).expect("open").waiting_texts("main"), ["1"]);
}

#[test]
fn an_unfinished_write_is_cut_off_and_told() {
    let disk = SimDisk::new(7);
    let mut bench = Bench::open(&disk, options()).expect("open");
    let last = bench.append("main", &["1", "2"]).expect("append")[0].position;
    drop(bench);
    disk.damage(&segment_name(last.segment), last.offset + 30, &[0; 8]);
    let bench = Bench::open(&disk, options()).expect("open");
    assert_eq!(bench.waiting_texts("main"), ["1"]);
    assert!(bench.recovery.torn_bytes > 0);
    assert!(bench.recovery.notes[0].contains("cut off"), "{:?}", bench.recovery.notes);
    // The bytes are kept aside all the same: a damaged last record looks like this too.
    assert_eq!(disk.names("quarantine-").len(), 1);
}

#[test]
fn a_record_whose_payload_is_damaged_is_named_in_a_gap_even_at_the_end() {
    let disk = SimDisk::new(13);
    let mut bench = Bench::open(&disk, options()).expect("open");
    let end = bench.append("main", &["1", "2"]).expect("append")[1].position;
    drop(bench);
    disk.damage(&segment_name(end.segment), end.offset - 5, &[0; 5]);
    let bench = Bench::open(&disk, options()).expect("open");
    assert_eq!(bench.waiting_texts("main"), ["1"]);
    assert_eq!(gaps(&bench.waiting("main"))[0].first, Some(2));
}

#[test]
fn a_full_disk_refuses_and_is_forgiven() {
    let disk = SimDisk::new(8);
    let mut bench = Bench::open(&disk, options()).expect("open");
    bench.append("main", &["1"]).expect("append");
    disk.set_room(Some(100));
    assert_eq!(bench.append("main", &["2"]), Err(AppendError::JournalFull));
    assert!(bench.shared.state().problem.is_some());
    disk.set_room(None);
    bench.append("main", &["3"]).expect("append");
    assert_eq!(bench.shared.state().problem, None);
    assert_eq!(bench.waiting_texts("main"), ["1", "3"]);
}

#[test]
fn a_full_queue_refuses_only_its_own_endpoint() {
    let disk = SimDisk::new(9);
    let mut bench = Bench::open(&disk, options()).expect("open");
    let mut limits = Limits::default();
    limits.queues.insert("main".to_owned(), QueueLimit { max_records: 3, max_bytes: 1 << 20 });
    bench.shared.state().limits = limits;
    bench.append("main", &["1", "2"]).expect("the open record and two more fit");
    let full = AppendError::QueueFull { endpoint: "main".to_owned() };
    assert_eq!(bench.append("main", &["3"]), Err(full));
    bench.append("second", &["4"]).expect("another endpoint's queue is its own");
    confirm_all(&bench, "main");
    bench.append("main", &["5"]).expect("there is room again");
}

#[test]
fn a_volume_restored_from_a_copy_is_a_fork() {
    let disk = SimDisk::new(10);
    let mut bench = Bench::open(&disk, options()).expect("open");
    bench.append("main", &["1"]).expect("append");
    drop(bench);
    let copy = disk.snapshot(11);
    let mut records = Vec::new();
    for disk in [&disk, &copy] {
        let mut bench = Bench::open(disk, options()).expect("open");
        bench.append("main", &["2"]).expect("append");
        records.extend(bench.waiting("main"));
    }
    records.sort_by_key(|stored| stored.record.header.id);
    records.dedup_by_key(|stored| stored.record.header.id);
    let report = verify(records);
    assert_eq!(report.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::Fork]);
}

#[test]
fn refilling_says_what_no_segment_holds_any_more() {
    let disk = SimDisk::new(12);
    let mut options = keep_nothing();
    options.segment_bytes = 200;
    let mut bench = Bench::open(&disk, options).expect("open");
    let first = bench.append("main", &["1"]).expect("append")[0].clone();
    confirm_all(&bench, "main");
    bench.append("main", &["2"]).expect("append");
    confirm_all(&bench, "main");
    bench.append("main", &["3"]).expect("append");
    bench.shared.state().limits.keep_confirmed = Duration::from_secs(3600);
    confirm_all(&bench, "main");
    let incarnation = bench.shared.incarnation;
    let report = bench.shared.rewind("main", Some((incarnation, first.sequence))).expect("rewind");
    assert_eq!(report.available, 1);
    let missing = report.missing.expect("record 2 is gone");
    assert_eq!((missing.first, missing.last), (2, Some(2)));
    assert_eq!(bench.waiting_texts("main"), ["3"]);
}

#[tokio::test]
async fn appends_that_wait_together_share_syncs_and_survive_reopening() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let options = JournalOptions::new(dir.path(), "node-0", "test/xmpp", "test");
    let (journal, _) = Journal::open(options.clone(), system_clock()).expect("open");
    let second = Journal::open(options.clone(), system_clock());
    assert!(matches!(second, Err(JournalError::InUse(_))));
    let appends = (0..200).map(|number| {
        let journal = journal.clone();
        async move { journal.append("main", vec![draft(&number.to_string())]).await.expect("append") }
    });
    let appended = futures::future::join_all(appends).await;
    let mut sequences: Vec<u64> = appended.iter().map(|records| records[0].sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=200).collect::<Vec<_>>());
    let mut reader = journal.reader("main");
    let first = reader.next(10, 1 << 20).await.expect("read");
    journal.confirm("main", &first[9]).await.expect("confirm");
    let clone = journal.clone();
    journal.close().await.expect("close");
    assert_eq!(clone.append("main", vec![draft("late")]).await, Err(AppendError::Closed));
    drop((clone, reader));
    let (journal, recovery) = Journal::open(options, system_clock()).expect("open");
    // The open record, 200 messages and the close record, less the ten confirmed.
    assert_eq!(recovery.waiting, 192);
    assert!(recovery.notes.is_empty());
    assert_eq!(journal.queue("main").waiting, 192);
}
