//! Nothing that is in an archive makes its verification endless: these take a moment, or hours where time grows with a square.

use super::*;
use crate::record::GapReason;

const MANY: u64 = 30_000;

fn stream(incarnation: u64) -> StreamId {
    StreamId {
        journal: Uuid::from_u128(1),
        endpoint: "main".to_owned(),
        incarnation: Uuid::from_u128(u128::from(incarnation)),
    }
}

#[test]
fn p4_many_streams_and_an_archive_full_of_holes_take_the_time_of_reading_them() {
    let mut checker = Checker::default();
    let end = |of: u64| StreamEnd { incarnation: stream(of).incarnation, sequence: 0, hash: [1; 32] };
    for number in 0..MANY {
        let seen = Seen {
            last: 0,
            hashes: [[1; 32]; 2],
            closed: false,
            node: String::new(),
            cluster: String::new(),
        };
        checker.streams.insert(stream(number), seen);
        checker.successors.push((stream(number), number.checked_sub(1).map(end)));
    }
    // Every second record of one stream is missing; of every fourth a gap record tells, the last one first.
    checker.missing.insert(stream(7), (1..=MANY).map(|n| (2 * n, 2 * n)).collect());
    for number in (1..=MANY / 2).rev() {
        let gap = Gap { first: Some(4 * number), count: 1, reason: GapReason::Rejected, incarnation: None };
        let by = GapPlace { incarnation: stream(7).incarnation, sequence: 4 * MANY };
        checker.gaps.push(Told { stream: stream(7), gap, by });
    }
    // What many streams call the one before them is looked up as fast.
    let before = StreamEnd { sequence: 4 * MANY, ..end(7) };
    checker.successors.extend((MANY..2 * MANY).map(|number| (stream(number), Some(before))));
    let report = checker.finish();
    assert!(!report.consistent && report.findings.len() == MAX_FINDINGS);
    // Forks, and what stands between the gap records up to the end that all of them name.
    assert_eq!(report.findings.len() as u64 + report.more_findings, MANY + MANY / 2 + 1);
    assert_eq!(
        report.unclosed.iter().map(|open| open.stream.clone()).collect::<Vec<_>>(),
        [stream(MANY - 1)]
    );
}
