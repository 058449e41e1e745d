//! `cartulary verify`: whether archives hold what was written, unchanged and without holes (P4, EV-1).
//!
//! It reads and computes; it never repairs. What it could not read counts as something wrong. The last line is the verdict.

use crate::args::VerifyArgs;
use crate::kubernetes::Remote;
use crate::output::{self, Format};
use crate::pods::Pods;
use crate::source::Source;
use crate::{Found, archive};
use anyhow::{Context, bail};
use cartulary_archive::verify::{Report, Unclosed};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::io::Write;
use tokio::io::AsyncReadExt;

/// What was found in one archive.
#[derive(Serialize, Deserialize, Debug)]
struct Verified {
    /// Which archive.
    archive: String,
    /// Why it could not be verified.
    problem: Option<String>,
    /// What the verification said.
    report: Option<Report>,
}

/// Runs the command.
pub async fn run(args: VerifyArgs) -> anyhow::Result<Found> {
    let verified = match Source::of(&args.source).await? {
        Source::Archive(location) => {
            let mut archive = archive::open(&location).await?;
            let report = cartulary_archive::verify::verify(&mut archive).await?;
            vec![Verified { archive: archive.place().to_owned(), problem: None, report: Some(report) }]
        }
        Source::Pods(pods) => of_pods(&pods).await,
    };
    let mut out = output::stdout();
    match args.output {
        Format::Json => output::json_line(&mut out, &verified)?,
        Format::Text => {
            for verified in &verified {
                show(&mut out, verified)?;
            }
            writeln!(out, "{}", verdict(&verified))?;
        }
    }
    out.flush()?;
    let fine = |verified: &Verified| verified.report.as_ref().is_some_and(|report| report.consistent);
    Ok(if verified.iter().all(fine) { Found::Fine } else { Found::Wrong })
}

async fn of_pods(pods: &Pods) -> Vec<Verified> {
    let mut all = Vec::new();
    for (pod, endpoint) in &pods.archives {
        let archive = format!("pod {}, endpoint {endpoint}", pod.name_any());
        all.push(match in_pod(pods, pod, endpoint).await {
            Ok(report) => Verified { archive, problem: None, report: Some(report) },
            Err(error) => Verified { archive, problem: Some(format!("{error:#}")), report: None },
        });
    }
    let unread = |part: &String| Verified {
        archive: part.clone(),
        problem: Some("it cannot be read from here".into()),
        report: None,
    };
    all.extend(pods.unread.iter().map(unread));
    all
}

async fn in_pod(pods: &Pods, pod: &Pod, endpoint: &str) -> anyhow::Result<Report> {
    let remote: Remote = pods.run(pod, endpoint, &["verify".to_owned(), "--output=json".to_owned()]).await?;
    let (mut stdout, end) = remote.split();
    let mut answer = Vec::new();
    stdout.read_to_end(&mut answer).await?;
    let (code, complaint) = end.wait().await?;
    match code {
        Some(0 | 1) => {}
        Some(code) => bail!("the verification there ended with code {code}: {}", complaint.trim()),
        None => bail!("the connection was lost before the verification there ended"),
    }
    let verified: Vec<Verified> =
        serde_json::from_slice(&answer).context("the pod's answer cannot be read")?;
    verified.into_iter().find_map(|verified| verified.report).context("the pod's answer holds no report")
}

fn show(out: &mut impl Write, verified: &Verified) -> std::io::Result<()> {
    let name = output::printable(&verified.archive);
    let Some(report) = &verified.report else {
        let problem = verified.problem.as_deref().unwrap_or("nothing is known of it");
        return writeln!(out, "{name}: NOT VERIFIED: {}", output::printable(problem));
    };
    writeln!(out, "{name}: {} records in {} streams", report.records, report.streams)?;
    for finding in &report.findings {
        writeln!(out, "  WRONG: {}", output::printable(&finding.sentence))?;
    }
    if report.more_findings > 0 {
        writeln!(out, "  WRONG: and {} more findings", report.more_findings)?;
    }
    for gap in &report.gaps {
        let what = match gap.first {
            Some(first) => format!("{} records from {first} on are missing", gap.count),
            None => format!("{} messages were not recorded", gap.count),
        };
        let reason = output::printable(&gap.reason);
        writeln!(out, "  gap: {what}, and the stream says so itself ({reason}); {}", gap.stream)?;
    }
    for Unclosed { stream, last_sequence } in &report.unclosed {
        writeln!(out, "  unclosed after record {last_sequence}: its sidecar runs, or died; {stream}")?;
    }
    Ok(())
}

fn verdict(all: &[Verified]) -> &'static str {
    let reports: Vec<&Report> = all.iter().filter_map(|verified| verified.report.as_ref()).collect();
    if reports.iter().any(|report| !report.consistent) {
        "NOT consistent: the archive is not what was written"
    } else if reports.len() < all.len() {
        "not verified as a whole: what could be read is consistent, the rest is named above"
    } else if reports.iter().all(|report| report.completeness_proven) {
        "consistent and complete"
    } else {
        "consistent, completeness not proven: no anchors are kept yet"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_archive::record::StreamId;
    use cartulary_archive::verify::{DeclaredGap, Finding, FindingKind};

    fn verified(report: Option<Report>) -> Verified {
        Verified { archive: "a".into(), problem: report.is_none().then(|| "away".into()), report }
    }

    #[test]
    fn the_verdict_is_never_better_than_the_worst_part() {
        let good = || Some(Report { consistent: true, ..Default::default() });
        let bad = || Some(Report::default());
        assert!(verdict(&[verified(good())]).contains("completeness not proven: no anchors are kept yet"));
        assert!(verdict(&[verified(good()), verified(None)]).starts_with("not verified as a whole"));
        assert!(verdict(&[verified(good()), verified(None), verified(bad())]).starts_with("NOT consistent"));
    }

    #[test]
    fn everything_a_report_tells_is_shown_also_when_it_came_from_a_pod() {
        let stream =
            StreamId { journal: Default::default(), endpoint: "e".into(), incarnation: Default::default() };
        let report = Report {
            consistent: false,
            completeness_proven: false,
            records: 3,
            streams: 1,
            findings: vec![Finding {
                kind: FindingKind::Fork,
                stream: stream.clone(),
                sequence: Some(1),
                id: None,
                sentence: "two follow one".into(),
            }],
            more_findings: 2,
            gaps: vec![DeclaredGap {
                stream: stream.clone(),
                first: None,
                count: 4,
                reason: "no-link".into(),
            }],
            unclosed: vec![Unclosed { stream, last_sequence: 2 }],
            sentence: String::new(),
        };
        let value = serde_json::to_value(report).expect("JSON");
        let mut out = Vec::new();
        show(&mut out, &verified(Some(serde_json::from_value(value).expect("understood")))).expect("memory");
        let text = String::from_utf8(out).expect("text");
        for part in [
            "3 records in 1 streams",
            "WRONG: two follow one",
            "2 more",
            "4 messages were not",
            "after record 2",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
