//! Nothing that an archive holds makes the judgement endless, and what is capped does not change it.

use super::super::{GapPlace, Predecessor};
use super::*;

const MANY: u64 = 30_000;

fn stream(journal: u64, incarnation: u64) -> StreamId {
    let [journal, incarnation] = [journal, incarnation].map(|n| Uuid::from_u128(u128::from(n)));
    StreamId { journal, endpoint: "main".to_owned(), incarnation }
}

fn held(stream: StreamId, predecessor: Option<Predecessor>) -> Held {
    let (node, cluster) = ("xmpp-0".to_owned(), "test/xmpp".to_owned());
    let (marks, resumes) = (Vec::new(), Vec::new());
    Held { stream, node, cluster, last: 0, closed: false, predecessor, marks, resumes }
}

fn anchored(streams: impl Iterator<Item = StreamId>) -> Anchors {
    let mut anchors = Anchors::default();
    for StreamId { journal, endpoint, incarnation } in streams {
        let mark = Mark { sequence: 3, hash: [3; 32] };
        let statement = Statement {
            journal,
            incarnation,
            endpoint: endpoint.clone(),
            last: mark,
            confirmed: Some(mark),
            closed: false,
            at_nanos: 5,
        };
        let of_it = anchors.journals.entry(journal).or_default().endpoints.entry(endpoint).or_default();
        of_it.entry(incarnation).or_default().push(statement);
    }
    anchors
}

#[test]
fn p4_many_streams_of_many_journals_are_judged_in_the_time_of_reading_them() {
    let incarnations = (0..MANY).map(|n| {
        let before = |n: u64| Predecessor { incarnation: stream(0, n).incarnation, sequence: 0 };
        held(stream(0, n), n.checked_sub(1).map(before))
    });
    let journals = (1..MANY).map(|n| held(stream(n, 0), None));
    let report = Report { held: incarnations.chain(journals).collect(), ..Report::default() };
    let anchors = anchored((0..MANY).map(|n| stream(0, n)).chain((1..MANY).map(|n| stream(n, 0))));
    let judgement = judge(&anchors, &[&report], true);
    // Each was cut off.
    assert!(!judgement.is_proven && judgement.findings.len() == MAX_FINDINGS);
    assert!(judgement.findings.len() as u64 + judgement.more_findings >= 2 * MANY - 1);
    assert!(judgement.verdict(true).starts_with("NOT consistent"));
}

#[test]
fn p4_gap_records_that_nobody_anchored_are_told_up_to_a_limit_and_prove_nothing() {
    let by = |sequence| Some(GapPlace { incarnation: stream(0, 0).incarnation, sequence });
    let gaps = (0..MANY).rev().map(|n| DeclaredGap {
        stream: stream(0, 0),
        first: Some(2 * n),
        count: 1,
        reason: "rejected".to_owned(),
        by: by(4 * MANY),
    });
    let mut of_it = held(stream(0, 0), None);
    (of_it.last, of_it.resumes) = (4 * MANY, (0..MANY).map(|n| 2 * n + 1).collect());
    let report = Report { held: vec![of_it], gaps: gaps.collect(), ..Report::default() };
    let mut anchors = anchored([stream(0, 0)].into_iter());
    let of_it = anchors.journals.values_mut().flat_map(|journal| journal.endpoints.values_mut());
    let statement = of_it.flat_map(BTreeMap::values_mut).flatten().next().expect("one");
    statement.confirmed = Some(Mark { sequence: 4 * MANY - 1, hash: [3; 32] });
    let judgement = judge(&anchors, &[&report], true);
    assert!(!judgement.is_proven && judgement.findings.is_empty(), "{:?}", judgement.findings.first());
    assert_eq!(judgement.not_verified.len(), MAX_FINDINGS + 1);
    let more = format!("and {} more like these", MANY - MAX_FINDINGS as u64);
    assert_eq!(judgement.not_verified.last(), Some(&more));
    // Every other record up to the last hole, and all that follow it.
    assert_eq!(judgement.journals[0].not_anchored, MANY + (4 * MANY + 1 - 2 * MANY));
}
