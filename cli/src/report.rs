//! `cartulary report`: said = recorded = archived, counted for each node and day (EV-2).
//!
//! It counts by the archive's columns; whether those are true, `verify` says. A part that could not be counted is named, and the exit
//! code is 1: a report with a hole never looks like a whole one.

use crate::args::ReportArgs;
use crate::output::{self, Format};
use crate::pods::Pods;
use crate::source::Source;
use crate::{Found, anchors, archive};
use anyhow::Context;
use cartulary_archive::anchors::Anchors;
use cartulary_archive::count::{Counted, DAY_MICROS, Days, Known, NodeDay, Report, judge, read};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::io::Write;

/// The whole answer.
#[derive(Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(flatten)]
    report: Report,
    /// Parts that could not be counted, in words.
    not_counted: Vec<String>,
    /// What the archives hold, from which the report is made.
    counted: Vec<Counted>,
}

/// Runs the command.
pub async fn run(args: ReportArgs) -> anyhow::Result<Found> {
    let source = Source::of(&args.source).await?;
    let (file, mut not_counted) = anchors::given(&args.anchors, &source).await?;
    let day = |time: Timestamp| time.as_microsecond().div_euclid(DAY_MICROS);
    let mut days = Days::default();
    if let Some(since) = args.since {
        days.first = day(since);
    }
    if let Some(until) = args.until {
        days.last = day(until);
    }
    let mut known = Known {
        anchors: file.map(Anchors::check).unwrap_or_default(),
        today: day(Timestamp::now()),
        ..Default::default()
    };
    let mut counted = Vec::new();
    match &source {
        Source::Archives(locations) => {
            for location in locations {
                counted.push(read(&mut archive::open(location).await?, days).await?);
            }
        }
        Source::Pods(pods) => {
            let (waiting, silent) = pods.waiting_by_pod().await;
            let waiting = waiting.into_iter().map(|(pod, count)| ((pods.cluster.clone(), pod), count));
            known.waiting = waiting.collect();
            not_counted.extend(
                silent.iter().map(|pod| format!("pod {pod}: its sidecar does not say how much waits there")),
            );
            not_counted.extend_from_slice(&pods.unread);
            of_pods(pods, &args, &mut counted, &mut not_counted).await;
        }
    }
    let answer = Answer { report: judge(&counted, &known), not_counted, counted };
    let mut out = output::stdout();
    match args.output {
        Format::Json => output::json_line(&mut out, &answer)?,
        Format::Text => show(&mut out, &answer)?,
    }
    out.flush()?;
    Ok(if answer.is_fine() { Found::Fine } else { Found::Wrong })
}

impl Answer {
    fn is_fine(&self) -> bool {
        self.report.is_equal && self.not_counted.is_empty()
    }
}

async fn of_pods(pods: &Pods, args: &ReportArgs, counted: &mut Vec<Counted>, not_counted: &mut Vec<String>) {
    let mut arguments = vec!["report".to_owned(), "--output=json".to_owned()];
    arguments.extend(args.since.map(|time| format!("--since={time}")));
    arguments.extend(args.until.map(|time| format!("--until={time}")));
    for (pod, endpoint) in &pods.archives {
        let answer = pods.answer(pod, endpoint, &arguments, None).await;
        let answer = answer.and_then(|answer| {
            serde_json::from_slice::<Answer>(&answer).context("the pod's answer cannot be read")
        });
        match answer {
            Ok(answer) => counted.extend(answer.counted),
            Err(error) => not_counted.push(format!("pod {}, endpoint {endpoint}: {error:#}", pod.name_any())),
        }
    }
}

fn show(out: &mut impl Write, answer: &Answer) -> std::io::Result<()> {
    let Answer { report, not_counted, .. } = answer;
    let heading = [
        "day (UTC)",
        "cluster",
        "node",
        "said",
        "recorded",
        "unrecorded",
        "refused",
        "alone",
        "before",
        "archived",
        "waiting",
        "missing",
        "server-made",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(report.days.iter().map(row));
    output::table(out, "", &rows)?;
    for day in &report.days {
        for problem in &day.problems {
            writeln!(out, "WRONG: {} {}: {}", day.day, day.node, output::printable(problem))?;
        }
        for note in &day.notes {
            writeln!(out, "note: {} {}: {}", day.day, day.node, output::printable(note))?;
        }
    }
    for gap in &report.gaps {
        let what = if gap.is_records { "record(s) are missing" } else { "message(s) were not recorded" };
        let at = Timestamp::from_nanosecond(i128::from(gap.at_nanos)).unwrap_or_default();
        writeln!(
            out,
            "gap: {at:.0} {}: {} {what}, and the stream says so itself ({})",
            output::printable(&gap.node),
            gap.count,
            output::printable(&gap.reason)
        )?;
    }
    for problem in &report.problems {
        writeln!(out, "WRONG: {}", output::printable(problem))?;
    }
    for part in not_counted {
        writeln!(out, "NOT COUNTED: {}", output::printable(part))?;
    }
    let verdict = match (report.is_equal, not_counted.is_empty()) {
        (false, _) => "NOT EQUAL: what was said, recorded and archived differ as shown",
        (true, false) => "not counted as a whole: what could be counted is equal, the rest is named above",
        (true, true) if report.days.is_empty() => "nothing was said on these days, as far as anybody counted",
        (true, true) => "equal: what was said is what was recorded and archived, but for what is shown above",
    };
    writeln!(out, "{verdict}")
}

fn row(day: &NodeDay) -> Vec<String> {
    let sums = day.sums;
    let alone = sums.refused_alone.saturating_add(sums.delivered_alone);
    let numbers = [
        sums.said,
        sums.recorded,
        sums.unrecorded,
        sums.refused,
        alone,
        sums.ended_before,
        day.archived,
        day.waiting,
        day.missing,
        day.server_made,
    ];
    let names = [day.day.clone(), output::printable(&day.cluster), output::printable(&day.node)];
    names.into_iter().chain(numbers.map(|number| number.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_archive::count::ToldGap;
    use cartulary_compliance::link::Sums;

    #[test]
    fn ev_2_a_report_with_a_mismatch_or_a_hole_never_looks_equal() {
        let sums = Sums { said: 7, recorded: 7, ..Default::default() };
        let day = NodeDay {
            day: "2026-03-01".into(),
            node: "xmpp-0".into(),
            sums,
            archived: 5,
            missing: 2,
            problems: vec!["2 message(s) are missing".into()],
            ..Default::default()
        };
        let gap = ToldGap {
            cluster: "c".into(),
            node: "xmpp-0".into(),
            at_nanos: 0,
            count: 3,
            is_records: false,
            reason: "no-link".into(),
        };
        let report =
            Report { is_equal: false, days: vec![day], gaps: vec![gap], problems: vec!["gone".into()] };
        let mut answer = Answer { report, not_counted: vec!["pod b: away".into()], counted: vec![] };
        let text = |answer: &Answer| {
            let mut out = Vec::new();
            show(&mut out, answer).expect("memory");
            String::from_utf8(out).expect("text")
        };
        let shown = text(&answer);
        for part in [
            "WRONG: 2026-03-01 xmpp-0: 2 message(s)",
            "3 message(s) were not",
            "WRONG: gone",
            "NOT COUNTED: pod b",
            "NOT EQUAL",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!answer.is_fine());
        // Over the wire and back, as from a pod.
        let again: Answer =
            serde_json::from_slice(&serde_json::to_vec(&answer).expect("JSON")).expect("understood");
        assert_eq!(text(&again), shown);
        answer.report = Report { is_equal: true, ..Default::default() };
        assert!(!answer.is_fine() && text(&answer).contains("not counted as a whole"));
    }
}
