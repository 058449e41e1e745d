//! P4 with anchors: whatever the owner of a database does to an archive, `verify` names it, also where everything was computed anew
//! afterwards; and what is only late is not called removed.

mod common;

use cartulary_archive::anchors::{Anchors, AnchorsFile, JournalAnchors};
use cartulary_archive::endpoint::{Archive, Endpoint, Roles, SqlEndpoint, Target, migrate};
use cartulary_archive::export::{ExportError, export};
use cartulary_archive::head::{Mark, Signer, Statement, sign};
use cartulary_archive::journal::{Journal, JournalOptions, Stored, system_clock};
use cartulary_archive::record::{Body, Content, Draft, Gap, GapReason, StreamEnd, StreamId};
use cartulary_archive::verify::{FindingKind, Judgement, Report, judge, read, verify_anchored};
use common::{Kept, accepted, draft};
use sqlx::Connection;
use std::collections::BTreeMap;

/// When the last head was signed.
const AT: i64 = 1_700_000_000_000_000_000;

/// Two journals of three incarnations each, as the archive has them all.
struct Recorded {
    records: Vec<Stored>,
    anchors: AnchorsFile,
}

impl Recorded {
    async fn two_journals() -> Self {
        let (mut records, mut journals) = (Vec::new(), Vec::new());
        for node in ["xmpp-0", "xmpp-1"] {
            let of_it = journal(node).await;
            journals.push(anchored(node, &of_it, |_, last| (last, Some(last))));
            records.extend(of_it);
        }
        let clusters = vec!["test/xmpp".to_owned()];
        Self { records, anchors: AnchorsFile { clusters, journals, ..AnchorsFile::default() } }
    }

    fn checked(&self) -> Anchors {
        Anchors::check(self.anchors.clone())
    }
}

/// What a journal of three incarnations holds; the last one runs still.
async fn journal(node: &str) -> Vec<Stored> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut records = Vec::new();
    for incarnation in 0..3 {
        let options = JournalOptions::new(dir.path().join("journal"), node, "test/xmpp", "test");
        let (journal, _) = Journal::open(options, system_clock()).expect("a journal");
        let said = (0..6).map(|n| draft(accepted(&format!("{incarnation}-{n}")), "said"));
        journal.append("main", said.collect()).await.expect("appended");
        records = journal.reader("main").try_next(10_000, u64::MAX).await.expect("read");
        journal.close().await.expect("closed");
    }
    records
}

fn signer(node: &str) -> Signer {
    Signer::from_seed(&[node.as_bytes()[5]; 32])
}

/// Heads of every incarnation in `records`; `how` says how far each is signed and confirmed, given its number and last sequence.
fn anchored(
    node: &str,
    records: &[Stored],
    how: impl Fn(usize, u64) -> (u64, Option<u64>),
) -> JournalAnchors {
    let mut streams: BTreeMap<StreamId, Vec<&Stored>> = BTreeMap::new();
    for stored in records {
        streams.entry(stored.record.header.stream.clone()).or_default().push(stored);
    }
    let signer = signer(node);
    let mut heads = Vec::new();
    for (number, (stream, of_it)) in streams.iter().enumerate() {
        let mark = |sequence: u64| {
            let at = usize::try_from(sequence).expect("small");
            Mark { sequence, hash: of_it[at].record.hash() }
        };
        let end = of_it.last().expect("not empty");
        let (last, confirmed) = how(number, end.record.header.sequence);
        let statement = Statement {
            journal: stream.journal,
            incarnation: stream.incarnation,
            endpoint: stream.endpoint.clone(),
            last: mark(last),
            confirmed: confirmed.map(mark),
            closed: last == end.record.header.sequence && matches!(end.record.header.content, Content::Close),
            at_nanos: AT - 1_000_000_000 * i64::try_from(streams.len() - 1 - number).expect("small"),
        };
        heads.push(sign(&signer, &statement));
    }
    JournalAnchors {
        journal: records[0].record.header.stream.journal.to_string(),
        node: node.to_owned(),
        cluster: "test/xmpp".to_owned(),
        public_key: hex::encode(signer.public_key()),
        heads,
    }
}

/// An archive that holds just these records.
async fn archive_of(records: &[Stored]) -> (Archive, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let target = Target::Sqlite(dir.path().join("archive.db"));
    migrate(&target, &Roles::default()).await.expect("migrated");
    let mut endpoint = SqlEndpoint::new(target.clone());
    endpoint.connect().await.expect("connected");
    endpoint.write(records).await.expect("written");
    (Archive::open(&target).await.expect("opened"), dir)
}

async fn verified(records: &[Stored], anchors: &Anchors) -> (Report, Judgement) {
    let (mut archive, _dir) = archive_of(records).await;
    verify_anchored(&mut archive, anchors).await.expect("verified")
}

/// The streams of the first journal, oldest first.
fn streams(records: &[Stored]) -> Vec<StreamId> {
    let mut streams: Vec<StreamId> = records.iter().map(|r| r.record.header.stream.clone()).collect();
    streams.dedup();
    streams.truncate(3);
    streams
}

fn at(records: &[Stored], stream: usize, sequence: u64) -> usize {
    let stream = &streams(records)[stream];
    let there = |r: &Stored| r.record.header.stream == *stream && r.record.header.sequence == sequence;
    records.iter().position(there).expect("there")
}

/// Computes a chain anew, as somebody does who can write everything and has read the format's description.
fn rehash(records: &mut [Stored]) {
    let mut ends: BTreeMap<StreamId, StreamEnd> = BTreeMap::new();
    for stored in records {
        let header = &mut stored.record.header;
        if let Some(end) = ends.get(&header.stream) {
            header.previous = end.hash;
        }
        if let Content::Open(open) = &mut header.content
            && let Some(end) = &mut open.predecessor
        {
            let before = StreamId { incarnation: end.incarnation, ..header.stream.clone() };
            *end = ends[&before];
        }
        stored.record.header_bytes = stored.record.header.encode();
        let StreamId { incarnation, .. } = stored.record.header.stream;
        let end =
            StreamEnd { incarnation, sequence: stored.record.header.sequence, hash: stored.record.hash() };
        ends.insert(stored.record.header.stream.clone(), end);
    }
}

type Deed = fn(&mut Vec<Stored>);

#[tokio::test]
async fn p4_whatever_is_removed_rewritten_or_made_up_is_named_with_anchors() {
    use FindingKind::{
        ChainBroken, CutOff, Fork, JournalRemoved, PredecessorMissing, RecordsMissing, Rewritten,
        StreamRemoved,
    };
    let recorded = Recorded::two_journals().await;
    let anchors = recorded.checked();
    let (report, judgement) = verified(&recorded.records, &anchors).await;
    assert!(report.completeness_proven && judgement.is_proven, "{report}\n{judgement:#?}");
    assert_eq!(report.sentence, "consistent and complete up to 2023-11-14T22:13:20Z");
    let deeds: [(&str, Deed, FindingKind); 10] = [
        ("a middle row", |r| drop(r.remove(at(r, 1, 3))), RecordsMissing),
        ("the last row", |r| drop(r.remove(at(r, 2, 6))), CutOff),
        ("the last three rows", |r| drop(r.drain(at(r, 2, 4)..=at(r, 2, 6))), CutOff),
        ("the last stream", |r| drop(r.drain(at(r, 2, 0)..=at(r, 2, 6))), StreamRemoved),
        ("a stream between", |r| drop(r.drain(at(r, 1, 0)..=at(r, 1, 7))), PredecessorMissing),
        ("the first stream", |r| drop(r.drain(at(r, 0, 0)..=at(r, 0, 7))), PredecessorMissing),
        ("a journal", |r| drop(r.drain(..=at(r, 2, 6))), JournalRemoved),
        (
            "a change with everything after it computed anew",
            |r| {
                let changed = at(r, 1, 3);
                r[changed].record.header.recorded_at_nanos += 1_000_000;
                rehash(r);
            },
            Rewritten,
        ),
        (
            "two records at each other's place",
            |r| {
                let (a, b) = (at(r, 1, 2), at(r, 1, 3));
                let (one, other) = (r[a].record.clone(), r[b].record.clone());
                (r[a].record.payloads, r[b].record.payloads) = (other.payloads.clone(), one.payloads);
                (r[a].record.header.content, r[b].record.header.content) =
                    (other.header.content, one.header.content);
                (r[a].record.header.payloads, r[b].record.header.payloads) =
                    (other.header.payloads, one.header.payloads);
                for changed in [a, b] {
                    r[changed].record.header_bytes = r[changed].record.header.encode();
                }
            },
            ChainBroken,
        ),
        (
            "a stream that claims the place of another",
            |r| {
                let mut made_up = r[at(r, 1, 0)..=at(r, 1, 4)].to_vec();
                for stored in &mut made_up {
                    let header = &mut stored.record.header;
                    header.id = cartulary_archive::record::new_event_id();
                    header.stream.incarnation = uuid::Uuid::from_u128(u128::MAX - 1);
                    stored.record.header_bytes = header.encode();
                }
                let mut previous = [0; 32];
                for stored in &mut made_up {
                    stored.record.header.previous = previous;
                    stored.record.header_bytes = stored.record.header.encode();
                    previous = stored.record.hash();
                }
                r.extend(made_up);
            },
            Fork,
        ),
    ];
    for (what, deed, expected) in deeds {
        let mut records = recorded.records.clone();
        deed(&mut records);
        let (report, _) = verified(&records, &anchors).await;
        let kinds: Vec<FindingKind> = report.findings.iter().map(|finding| finding.kind).collect();
        assert!(kinds.contains(&expected), "{what}: {report}");
        assert!(!report.consistent && !report.completeness_proven, "{what}: {report}");
        assert!(report.sentence.starts_with("NOT consistent"), "{what}: {}", report.sentence);
        let told = report.findings.iter().find(|finding| finding.kind == expected).expect("found");
        assert!(told.sentence.contains(&told.stream.journal.to_string()), "{what}: {}", told.sentence);
    }
}

#[tokio::test]
async fn p4_a_made_up_archive_and_a_journal_nobody_anchored_are_never_called_complete() {
    let recorded = Recorded::two_journals().await;
    let anchors = recorded.checked();
    // Consistent in itself, of journals that never were.
    let made_up = Recorded::two_journals().await;
    let (report, _) = verified(&made_up.records, &anchors).await;
    let removed = report.findings.iter().filter(|finding| finding.kind == FindingKind::JournalRemoved);
    assert_eq!(removed.count(), 2, "{report}");
    // One slipped in beside what is true.
    let mut more = recorded.records.clone();
    more.extend(journal("xmpp-2").await);
    let (report, judgement) = verified(&more, &anchors).await;
    assert!(report.consistent && !report.completeness_proven, "{report}");
    assert_eq!(report.sentence, "consistent, completeness not proven: 1 journal(s) without anchors");
    let foreign = judgement.journals.iter().find(|state| state.anchored_at_nanos.is_none()).expect("named");
    assert!(foreign.sentence.contains("made up, or was never anchored"), "{}", foreign.sentence);
    // Without anchors nothing is proven, and nothing is wrong.
    let (report, _) = verified(&recorded.records, &Anchors::default()).await;
    assert!(report.consistent && !report.completeness_proven);
    assert!(report.sentence.starts_with("consistent, completeness not proven"), "{}", report.sentence);
}

#[tokio::test]
async fn p4_what_waits_in_the_journal_while_anchored_is_not_called_removed() {
    let records = journal("xmpp-0").await;
    let last = streams(&records)[2].clone();
    let in_last = |stored: &Stored| stored.record.header.stream == last;
    let file = |how: fn(usize, u64) -> (u64, Option<u64>)| {
        let journals = vec![anchored("xmpp-0", &records, how)];
        Anchors::check(AnchorsFile { journals, ..AnchorsFile::default() })
    };
    let ahead = file(|number, last| (last, if number == 2 { Some(2) } else { Some(last) }));
    // Of the last stream, 0 to 2 were confirmed, 3 to 6 wait; 3 was archived since.
    for (kept, waiting) in [(2, 4), (3, 3), (6, 0)] {
        let there: Vec<Stored> =
            records.iter().filter(|r| !in_last(r) || r.record.header.sequence <= kept).cloned().collect();
        let (report, judgement) = verified(&there, &ahead).await;
        assert!(report.consistent && report.completeness_proven, "{report}\n{judgement:#?}");
        assert_eq!(judgement.journals[0].waiting, waiting);
        assert_eq!(report.sentence.contains("not archived yet"), waiting > 0, "{}", report.sentence);
    }
    // Nothing at all of the last stream, or of the journal, is confirmed yet.
    let unconfirmed = file(|number, last| (last, if number == 2 { None } else { Some(last) }));
    let before: Vec<Stored> = records.iter().filter(|r| !in_last(r)).cloned().collect();
    let (report, judgement) = verified(&before, &unconfirmed).await;
    assert!(report.completeness_proven && judgement.journals[0].waiting == 7, "{report}\n{judgement:#?}");
    let (_, judgement) = verified(&[], &file(|_, last| (last, None))).await;
    assert!(judgement.findings.is_empty() && judgement.journals[0].waiting == 23, "{judgement:#?}");
    // But nothing else may stand where something waits.
    let mut other = records.clone();
    let changed = at(&other, 2, 4);
    other[changed].record.header.recorded_at_nanos += 1_000_000;
    rehash(&mut other);
    let (report, _) = verified(&other, &ahead).await;
    assert_eq!(
        report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(),
        [FindingKind::Rewritten],
        "{report}"
    );
}

#[tokio::test]
async fn records_after_the_last_anchor_are_counted_as_not_anchored_yet() {
    let records = journal("xmpp-0").await;
    let mut of_it = anchored("xmpp-0", &records, |_, last| (last.min(4), Some(last.min(4))));
    // Only the head of the incarnation between: the older one is covered by the chain, the newer one by nothing.
    of_it.heads = vec![of_it.heads.remove(1)];
    let anchors = Anchors::check(AnchorsFile { journals: vec![of_it], ..AnchorsFile::default() });
    let (report, judgement) = verified(&records, &anchors).await;
    assert!(report.completeness_proven, "{report}");
    assert_eq!(judgement.journals[0].not_anchored, 3 + 7);
    assert!(
        report.sentence.ends_with("outside of that: 10 record(s) not anchored yet"),
        "{}",
        report.sentence
    );
}

#[tokio::test]
async fn an_endpoint_that_no_archive_holds_is_not_verified_and_never_complete() {
    let recorded = Recorded::two_journals().await;
    let anchors = recorded.checked();
    let (report, judgement) = verified(&[], &anchors).await;
    assert_eq!(judgement.not_verified.len(), 2);
    assert!(!report.completeness_proven && report.sentence.starts_with("NOT VERIFIED"), "{report}");
    // Archives of one node each are judged together.
    let half = at(&recorded.records, 2, 6) + 1;
    let (mut one, _kept) = archive_of(&recorded.records[..half]).await;
    let (mut other, _kept_too) = archive_of(&recorded.records[half..]).await;
    let reports =
        [read(&mut one, &anchors).await.expect("read"), read(&mut other, &anchors).await.expect("read")];
    // A pod's answer comes as JSON.
    let told = serde_json::to_vec(&reports).expect("JSON");
    let reports: Vec<Report> = serde_json::from_slice(&told).expect("understood");
    assert!(judge(&anchors, &[&reports[0], &reports[1]], true).is_proven);
    // While one of them could not be read, nobody is accused.
    let part = judge(&anchors, &[&reports[0]], false);
    assert!(part.findings.is_empty() && part.not_verified.len() == 1 && !part.is_proven, "{part:#?}");
    let alone = judge(&anchors, &[&reports[0]], true);
    assert_eq!(alone.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::JournalRemoved]);
}

#[tokio::test]
async fn a_record_kept_aside_is_not_called_cut_off_while_its_gap_record_waits() {
    let kept = Kept::open();
    kept.append((0..4).map(|n| draft(accepted(&n.to_string()), "said")).collect()).await;
    let records = kept.waiting().await;
    let anchors = async || {
        let heads = kept.journal.heads();
        let journals = vec![JournalAnchors {
            journal: kept.journal.id().to_string(),
            node: "node-0".to_owned(),
            cluster: "test/xmpp".to_owned(),
            public_key: heads[0].public_key.clone(),
            heads,
        }];
        Anchors::check(AnchorsFile { journals, ..AnchorsFile::default() })
    };
    // The archive takes three and refuses two; the gap records wait.
    kept.journal.confirm("main", &records[2]).await.expect("confirmed");
    for refused in &records[3..] {
        kept.journal.dead_letter("main", refused, "no").await.expect("kept aside");
        kept.journal.confirm("main", refused).await.expect("confirmed");
    }
    let (report, judgement) = verified(&records[..3], &anchors().await).await;
    assert!(report.consistent && judgement.is_proven, "{report}");
    assert_eq!(judgement.journals[0].waiting, 4, "both, and what tells of them");
    // And what the archive did take must be there.
    let (report, _) = verified(&records[..2], &anchors().await).await;
    assert_eq!(report.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [FindingKind::CutOff], "{report}");
    // They come.
    let gaps = kept.waiting().await;
    kept.journal.confirm("main", &gaps[1]).await.expect("confirmed");
    let there: Vec<Stored> = records[..3].iter().chain(&gaps).cloned().collect();
    let (report, judgement) = verified(&there, &anchors().await).await;
    assert!(report.consistent && judgement.is_proven && report.gaps.len() == 2, "{report}\n{judgement:#?}");
}

#[tokio::test]
async fn a_gap_record_explains_a_hole_only_when_it_is_anchored_itself() {
    let kept = Kept::open();
    kept.append((0..4).map(|n| draft(accepted(&n.to_string()), "said")).collect()).await;
    let gap = Gap { first: Some(2), count: 1, reason: GapReason::Rejected, incarnation: None };
    kept.append(vec![Draft { body: Body::Gap(gap), payloads: vec![] }]).await;
    let records = kept.waiting().await;
    let there: Vec<Stored> = records.iter().filter(|r| r.record.header.sequence != 2).cloned().collect();
    for (confirmed, is_proven) in [(5, true), (3, false), (2, false)] {
        let journals = vec![anchored("xmpp-0", &records, |_, _| (confirmed, Some(confirmed)))];
        let anchors = Anchors::check(AnchorsFile { journals, ..AnchorsFile::default() });
        let (report, judgement) = verified(&there, &anchors).await;
        assert!(report.consistent && report.gaps.len() == 1, "{report}");
        assert_eq!(judgement.is_proven, is_proven, "{confirmed}: {judgement:#?}");
    }
}

/// Whoever may write everything puts gap records in the place of what they remove. The chain could give them away, so they remove what
/// follows them, too, and explain that in the same way.
#[tokio::test]
async fn p4_gap_records_before_a_hole_are_not_proved_by_an_anchor_after_it() {
    let kept = Kept::open();
    kept.append((0..12).map(|n| draft(accepted(&n.to_string()), "said")).collect()).await;
    let records = kept.waiting().await;
    let journals = vec![anchored("xmpp-0", &records, |_, last| (last, Some(last)))];
    let anchors = Anchors::check(AnchorsFile { journals, ..AnchorsFile::default() });
    let mut forged = records.clone();
    for (sequence, first, count) in [(5, 2, 2), (6, 7, 2)] {
        let gap = Gap { first: Some(first), count, reason: GapReason::Rejected, incarnation: None };
        let record = &mut forged[sequence].record;
        record.header.content = Content::Body(Body::Gap(gap));
        (record.header.payloads, record.payloads) = (Vec::new(), Vec::new());
    }
    rehash(&mut forged[..7]);
    // The removed records 2 and 3 are named by what now follows record 1.
    let gone = [2, 3, 7, 8];
    forged.retain(|stored| !gone.contains(&stored.record.header.sequence));
    let (report, judgement) = verified(&forged, &anchors).await;
    assert!(report.consistent && report.gaps.len() == 2, "{report}");
    assert!(!judgement.is_proven && judgement.not_verified.len() == 2, "{judgement:#?}");
    assert_eq!(judgement.journals[0].not_anchored, 5, "0, 1, 4, 5, 6: {judgement:#?}");
}

#[tokio::test]
async fn p4_a_whole_copy_does_not_excuse_an_archive_that_was_rewritten() {
    let recorded = Recorded::two_journals().await;
    let anchors = recorded.checked();
    let mut changed = recorded.records.clone();
    let place = at(&changed, 1, 3);
    changed[place].record.header.recorded_at_nanos += 1_000_000;
    rehash(&mut changed);
    let (mut whole, _a) = archive_of(&recorded.records).await;
    let (mut rewritten, _b) = archive_of(&changed).await;
    let reports = [
        read(&mut whole, &anchors).await.expect("read"),
        read(&mut rewritten, &anchors).await.expect("read"),
    ];
    let judgement = judge(&anchors, &[&reports[0], &reports[1]], true);
    let kinds: Vec<_> = judgement.findings.iter().map(|finding| finding.kind).collect();
    assert!(kinds.contains(&FindingKind::Rewritten) && !judgement.is_proven, "{judgement:#?}");
}

#[tokio::test]
async fn a_volume_that_was_put_back_or_copied_is_told() {
    let records = journal("xmpp-0").await;
    let anchors = |change: &dyn Fn(&mut Vec<cartulary_compliance::status::Head>)| {
        let mut of_it = anchored("xmpp-0", &records, |_, last| (last, Some(last)));
        change(&mut of_it.heads);
        Anchors::check(AnchorsFile { journals: vec![of_it], ..AnchorsFile::default() })
    };
    let statement = |incarnation: usize, sequence: u64, hash: u8, closed: bool| {
        let stream = streams(&records)[incarnation].clone();
        let last = Mark { sequence, hash: [hash; 32] };
        let StreamId { journal, endpoint, incarnation } = stream;
        sign(
            &signer("xmpp-0"),
            &Statement { journal, incarnation, endpoint, last, confirmed: None, closed, at_nanos: AT },
        )
    };
    // The journal had signed more of an incarnation than its next one knows of.
    let (report, _) = verified(&records, &anchors(&|heads| heads.push(statement(1, 20, 7, false)))).await;
    let kinds: Vec<_> = report.findings.iter().map(|finding| finding.kind).collect();
    assert!(kinds.contains(&FindingKind::WentBack), "{report}");
    // It signed two different ends of one stream, or more after its end.
    for two in [
        [statement(2, 9, 7, false), statement(2, 9, 8, false)],
        [statement(2, 9, 7, false), statement(2, 8, 7, true)],
    ] {
        let (report, _) = verified(&records, &anchors(&|heads| heads.extend(two.clone()))).await;
        let kinds: Vec<_> = report.findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [FindingKind::AnchorsContradict], "{report}");
    }
}

#[tokio::test]
async fn a_clock_that_steps_back_between_two_files_of_anchors_contradicts_nothing() {
    let records = journal("xmpp-0").await;
    let file = |last: u64, confirmed: u64, at: i64| {
        let mut of_it =
            anchored(
                "xmpp-0",
                &records,
                |n, end| if n == 2 { (last, Some(confirmed)) } else { (end, Some(end)) },
            );
        let head = of_it.heads.pop().expect("the last incarnation's");
        let mut statement = cartulary_archive::head::verify(&head).expect("it verifies").statement;
        statement.at_nanos = at;
        of_it.heads.push(sign(&signer("xmpp-0"), &statement));
        AnchorsFile { journals: vec![of_it], ..AnchorsFile::default() }
    };
    let (earlier, later) = (file(4, 3, AT + 9_000_000_000), file(6, 6, AT));
    for (mut whole, more) in [(earlier.clone(), later.clone()), (later, earlier)] {
        whole.merge(more);
        let (report, judgement) = verified(&records, &Anchors::check(whole)).await;
        assert!(report.findings.is_empty() && judgement.is_proven, "{report}");
        assert_eq!((judgement.up_to_nanos, judgement.journals[0].waiting), (Some(AT), 0));
    }
}

#[tokio::test]
async fn ev_1_a_copy_in_one_file_proves_what_the_original_proves_and_names_the_first_record_that_does_not_fit()
 {
    let recorded = Recorded::two_journals().await;
    let anchors = recorded.checked();
    let changed = at(&recorded.records, 1, 3);
    for (sql, kinds) in [
        ("", vec![]),
        ("UPDATE record SET body = 'changed' WHERE id = $id", vec![FindingKind::ColumnChanged]),
        ("UPDATE payload SET bytes = x'00' WHERE record_id = $id", vec![FindingKind::PayloadChanged]),
    ] {
        let (archive, dir) = archive_of(&recorded.records).await;
        drop(archive);
        let file = dir.path().join("archive.db");
        let id = recorded.records[changed].record.header.id;
        let url = format!("sqlite:{}", file.display());
        let mut connection = sqlx::SqliteConnection::connect(&url).await.expect("the file opens");
        let sql = sql.replace("$id", &format!("x'{}'", id.simple()));
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.expect("changed");
        connection.close().await.expect("closed");

        let mut archive = Archive::open(&Target::Sqlite(file)).await.expect("opened");
        let copy = dir.path().join("copy.sqlite");
        let (mut heard, all) = (0, recorded.records.len() as u64);
        let copied = export(&mut archive, &copy, |count| heard = count).await.expect("copied");
        assert_eq!((copied, heard), (all, all));
        let (original, _) = verify_anchored(&mut archive, &anchors).await.expect("verified");
        drop(archive);
        // Carried elsewhere: one file, and the anchors.
        let elsewhere = tempfile::tempdir().expect("a folder");
        let carried = elsewhere.path().join("evidence.sqlite");
        std::fs::rename(&copy, &carried).expect("carried");
        let mut archive = Archive::open(&Target::Sqlite(carried)).await.expect("opened");
        let (report, _) = verify_anchored(&mut archive, &anchors).await.expect("verified");
        assert_eq!(report, original);
        assert_eq!(report.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), kinds, "{report}");
        assert_eq!(report.completeness_proven, kinds.is_empty());
        let first = report.findings.first();
        assert_eq!(first.map(|finding| (finding.sequence, finding.id)), first.map(|_| (Some(3), Some(id))));
    }
}

#[tokio::test]
async fn a_copy_never_overwrites_and_an_unfinished_one_does_not_bear_its_name() {
    let records = journal("xmpp-0").await;
    let (mut archive, dir) = archive_of(&records).await;
    let copy = dir.path().join("copy.sqlite");
    std::fs::write(dir.path().join("copy.sqlite.unfinished"), "left by a crash").expect("written");
    export(&mut archive, &copy, |_| assert!(!copy.exists())).await.expect("copied");
    assert!(!dir.path().join("copy.sqlite.unfinished").exists());
    let before = std::fs::read(&copy).expect("there");
    let refused = export(&mut archive, &copy, |_| ()).await;
    assert!(matches!(refused, Err(ExportError::Exists(_))), "{refused:?}");
    assert_eq!(std::fs::read(&copy).expect("there"), before);
}
