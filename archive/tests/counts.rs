//! EV-2: said = recorded = archived, for each node and day, on both databases; whatever is not equal is told and nothing else is.

mod common;

use cartulary_archive::anchors::{Anchored, Anchors};
use cartulary_archive::count::{Days, Known, NodeDay, Report, judge, read};
use cartulary_archive::endpoint::Endpoint;
use cartulary_archive::head::{Mark, Statement};
use cartulary_archive::record::{Body, Draft, Gap, GapReason, Tally};
use cartulary_compliance::link::{Ingress, Sums};
use common::place::Place;
use common::{Kept, accepted, draft};
use std::collections::BTreeMap;
use uuid::Uuid;

const DAY: i64 = 20_000;
const NANOS: i64 = 86_400_000_000_000;

fn said(day: i64, count: u64) -> Vec<Draft> {
    let one = |n: u64| {
        let mut message = accepted(&n.to_string());
        message.seen_at_nanos = day * NANOS + i64::try_from(n).expect("small");
        draft(message, "said")
    };
    (0..count).map(one).collect()
}

fn tally(day: i64, instance: &str, sums: Sums, is_final: bool) -> Draft {
    let day = u32::try_from(day).expect("a day");
    Draft {
        body: Body::Tally(Tally { day, instance: instance.to_owned(), sums, is_final }),
        payloads: vec![],
    }
}

fn recorded(recorded: u64) -> Sums {
    Sums { said: recorded, recorded, ..Sums::default() }
}

/// What is found where these drafts were archived, on both databases alike.
async fn counted(drafts: Vec<Draft>, known: &Known) -> Report {
    let kept = Kept::open();
    kept.append(drafts).await;
    let records = kept.waiting().await;
    let mut reports = Vec::new();
    for place in Place::both().await {
        place.connected().await.write(&records).await.expect("written");
        let part = read(&mut place.archive().await, Days::default()).await.expect("counted");
        // A pod's answer comes as JSON.
        let told = serde_json::to_vec(&part).expect("JSON");
        reports.push(judge(&[serde_json::from_slice(&told).expect("understood")], known));
    }
    assert_eq!(reports[0], reports[1]);
    reports.remove(0)
}

fn known() -> Known {
    Known { today: DAY + 10, ..Known::default() }
}

fn whole(report: &Report) -> &NodeDay {
    assert_eq!(report.days.len(), 1, "{report:#?}");
    &report.days[0]
}

#[tokio::test]
async fn ev_2_what_was_said_is_what_is_archived_by_node_and_day() {
    let mut drafts = said(DAY, 5);
    let mut made = accepted("announcement");
    (made.seen_at_nanos, made.ingress) = (DAY * NANOS, Ingress::Internal);
    drafts.push(draft(made, "made by the server"));
    drafts.extend(said(DAY + 1, 2));
    let all = Sums { said: 9, recorded: 3, unrecorded: 2, refused: 1, ended_before: 3, ..Sums::default() };
    drafts.extend([
        // Of each process the last one counts.
        tally(DAY, "one", recorded(1), false),
        tally(DAY, "one", all, true),
        tally(DAY, "two", recorded(2), true),
        tally(DAY + 1, "two", recorded(2), true),
    ]);
    let report = counted(drafts, &known()).await;
    assert!(report.is_equal, "{report:#?}");
    let [first, second] = report.days.as_slice() else { panic!("{report:#?}") };
    assert_eq!(
        (first.day.as_str(), first.node.as_str(), first.cluster.as_str()),
        ("2024-10-04", "node-0", "test/xmpp")
    );
    assert_eq!((first.sums.said, first.sums.recorded, first.archived, first.server_made), (11, 5, 5, 1));
    assert_eq!((second.day.as_str(), second.sums.recorded, second.archived), ("2024-10-05", 2, 2));
    assert!(first.notes.is_empty() && first.missing == 0, "{first:#?}");
}

#[tokio::test]
async fn ev_2_whatever_is_not_equal_is_told_with_node_and_day() {
    let cases: [(u64, Sums, &str); 5] = [
        (3, recorded(5), "2 message(s) were recorded and are not in the archive"),
        (5, recorded(3), "2 message(s) more are archived than were counted"),
        (4, Sums { said: 6, ..recorded(4) }, "2 message(s) came in, and nobody was asked about them"),
        (4, Sums { said: 3, ..recorded(4) }, "1 message(s) more were asked about than came in"),
        (
            5,
            Sums { said: 4, refused_alone: 1, ..recorded(3) },
            "1 message(s) more are archived than were counted",
        ),
    ];
    for (archived, sums, problem) in cases {
        let mut drafts = said(DAY, archived);
        drafts.push(tally(DAY, "one", sums, true));
        let report = counted(drafts, &known()).await;
        assert!(!report.is_equal, "{problem}");
        let day = whole(&report);
        assert!(day.problems.len() == 1 && day.problems[0].starts_with(problem), "{day:#?}");
    }
    let report = counted(said(DAY, 3), &known()).await;
    assert_eq!(whole(&report).problems, ["3 message(s) are archived, and nothing was counted"]);
}

#[tokio::test]
async fn ev_2_what_may_differ_is_explained_and_no_mismatch() {
    // A verdict that came too late is a record of a message that the plugin had ended alone, or had delivered.
    let sums = Sums { said: 5, refused_alone: 1, delivered_alone: 1, ..recorded(3) };
    let mut drafts = said(DAY, 5);
    let gap = Gap { first: None, count: 1, reason: GapReason::NoLink, incarnation: None };
    drafts.extend([tally(DAY, "one", sums, true), Draft { body: Body::Gap(gap), payloads: vec![] }]);
    let report = counted(drafts, &known()).await;
    assert!(report.is_equal && report.gaps.len() == 1, "{report:#?}");
    assert_eq!((report.gaps[0].count, report.gaps[0].reason.as_str()), (1, "no-link"));

    // A process that was killed did not count its last seconds; it is named.
    let mut drafts = said(DAY, 5);
    drafts.push(tally(DAY, "killed", recorded(3), false));
    let report = counted(drafts, &known()).await;
    assert!(report.is_equal, "{report:#?}");
    assert!(whole(&report).notes.iter().any(|note| note.contains("killed")), "{report:#?}");
    // That explains a count that is too small and never one that is too large.
    let mut drafts = said(DAY, 2);
    drafts.push(tally(DAY, "killed", recorded(3), false));
    assert!(!counted(drafts, &known()).await.is_equal);

    // What waits on the node is not missing, as far as it goes.
    for (waits, missing) in [(2, 0), (7, 0), (1, 1)] {
        let mut drafts = said(DAY, 3);
        drafts.push(tally(DAY, "one", recorded(5), true));
        let node = ("test/xmpp".to_owned(), "node-0".to_owned());
        let known = Known { waiting: [(node, waits)].into(), ..known() };
        let report = counted(drafts, &known).await;
        assert_eq!((whole(&report).missing, report.is_equal), (missing, missing == 0), "{report:#?}");
    }
}

#[tokio::test]
async fn ev_2_a_journal_that_anchors_know_and_no_archive_holds_is_told() {
    let mark = Mark { sequence: 3, hash: [1; 32] };
    let (journal, incarnation) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let endpoint = "main".to_owned();
    let statement = Statement {
        journal,
        incarnation,
        endpoint: endpoint.clone(),
        last: mark,
        confirmed: Some(mark),
        closed: false,
        at_nanos: 0,
    };
    let anchored = Anchored {
        node: "gone-0".to_owned(),
        cluster: "test/xmpp".to_owned(),
        endpoints: [(endpoint, BTreeMap::from([(incarnation, vec![statement])]))].into(),
    };
    let anchors = Anchors { journals: [(journal, anchored)].into(), ..Anchors::default() };
    let report = counted(said(DAY, 0), &Known { anchors, ..known() }).await;
    assert!(!report.is_equal && report.problems[0].contains("gone-0"), "{report:#?}");
}

#[tokio::test]
async fn only_the_days_asked_for_are_counted() {
    let kept = Kept::open();
    let mut drafts = [said(DAY, 1), said(DAY + 1, 2), said(DAY + 2, 4)].concat();
    drafts.extend((0..3).map(|n| tally(DAY + n, "one", recorded(1 << n), true)));
    kept.append(drafts).await;
    for place in Place::both().await {
        place.connected().await.write(&kept.waiting().await).await.expect("written");
        let days = Days { first: DAY + 1, last: DAY + 1 };
        let part = read(&mut place.archive().await, days).await.expect("counted");
        let report = judge(&[part], &known());
        assert_eq!((whole(&report).archived, report.is_equal), (2, true), "{report:#?}");
    }
}
