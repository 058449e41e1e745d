//! `cartulary verify`: whether archives hold what was written, unchanged and without holes (P4, EV-1).
//!
//! It reads and computes; it never repairs. Several archives are judged together: what anchors speak of may be in any of them. What it
//! could not read counts as something wrong. The last line is the verdict.

use crate::args::VerifyArgs;
use crate::output::{self, Format};
use crate::pods::Pods;
use crate::source::{Location, Source};
use crate::{Found, anchors, archive};
use anyhow::Context;
use cartulary_archive::anchors::{Anchors, AnchorsFile};
use cartulary_archive::verify::{Judgement, Report, Unclosed, judge, read};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::io::Write;

/// What was found in one archive, or, in the last element, what anchors show of all of them together.
#[derive(Serialize, Deserialize, Debug, Default)]
struct Verified {
    /// Which archive.
    archive: String,
    /// Why it could not be verified.
    problem: Option<String>,
    /// What the verification said.
    report: Option<Report>,
    /// What anchors show.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    judgement: Option<Judgement>,
}

/// Runs the command.
pub async fn run(args: VerifyArgs) -> anyhow::Result<Found> {
    let source = Source::of(&args.source).await?;
    let (file, problems) = anchors::given(&args.anchors, &source).await?;
    let checked = file.clone().map(Anchors::check);
    let mut verified = match &source {
        Source::Archives(locations) => of_archives(locations, &checked.clone().unwrap_or_default()).await?,
        Source::Pods(pods) => of_pods(pods, file.as_ref()).await,
    };
    let is_whole = verified.iter().all(|verified| verified.report.is_some());
    for problem in problems {
        verified.push(Verified { archive: "anchors".into(), problem: Some(problem), ..Default::default() });
    }
    if let Some(anchors) = &checked {
        let reports: Vec<&Report> = verified.iter().filter_map(|verified| verified.report.as_ref()).collect();
        let judgement = Some(judge(anchors, &reports, is_whole));
        verified.push(Verified { archive: "anchors".into(), judgement, ..Default::default() });
    }
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
    Ok(if verified.iter().all(Verified::is_fine) { Found::Fine } else { Found::Wrong })
}

impl Verified {
    fn is_fine(&self) -> bool {
        let consistent = self.report.as_ref().is_none_or(|report| report.consistent);
        // Whoever brings anchors wants to know whether everything is there.
        let proven = self.judgement.as_ref().is_none_or(|judgement| judgement.is_proven);
        self.problem.is_none() && consistent && proven
    }
}

async fn of_archives(locations: &[Location], anchors: &Anchors) -> anyhow::Result<Vec<Verified>> {
    let mut all = Vec::new();
    for location in locations {
        let mut archive = archive::open(location).await?;
        let report = read(&mut archive, anchors).await?;
        all.push(Verified {
            archive: archive.place().to_owned(),
            report: Some(report),
            ..Default::default()
        });
    }
    Ok(all)
}

async fn of_pods(pods: &Pods, anchors: Option<&AnchorsFile>) -> Vec<Verified> {
    let mut all = Vec::new();
    for (pod, endpoint) in &pods.archives {
        let archive = format!("pod {}, endpoint {endpoint}", pod.name_any());
        all.push(match in_pod(pods, pod, endpoint, anchors).await {
            Ok(report) => Verified { archive, report: Some(report), ..Default::default() },
            Err(error) => Verified { archive, problem: Some(format!("{error:#}")), ..Default::default() },
        });
    }
    let unread = |part: &String| Verified {
        archive: part.clone(),
        problem: Some("it cannot be read from here".into()),
        ..Default::default()
    };
    all.extend(pods.unread.iter().map(unread));
    all
}

async fn in_pod(
    pods: &Pods,
    pod: &Pod,
    endpoint: &str,
    anchors: Option<&AnchorsFile>,
) -> anyhow::Result<Report> {
    let mut arguments = vec!["verify".to_owned(), "--output=json".to_owned()];
    let input = anchors.map(serde_json::to_vec).transpose()?;
    if input.is_some() {
        arguments.push("--anchors=-".to_owned());
    }
    let answer = pods.answer(pod, endpoint, &arguments, input).await?;
    let verified: Vec<Verified> =
        serde_json::from_slice(&answer).context("the pod's answer cannot be read")?;
    verified.into_iter().find_map(|verified| verified.report).context("the pod's answer holds no report")
}

fn show(out: &mut impl Write, verified: &Verified) -> std::io::Result<()> {
    let name = output::printable(&verified.archive);
    if let Some(judgement) = &verified.judgement {
        return show_judgement(out, judgement);
    }
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

fn show_judgement(out: &mut impl Write, judgement: &Judgement) -> std::io::Result<()> {
    writeln!(out, "anchors: {} journals", judgement.journals.len())?;
    for finding in &judgement.findings {
        writeln!(out, "  WRONG: {}", output::printable(&finding.sentence))?;
    }
    if judgement.more_findings > 0 {
        writeln!(out, "  WRONG: and {} more findings", judgement.more_findings)?;
    }
    for part in &judgement.not_verified {
        writeln!(out, "  NOT VERIFIED: {}", output::printable(part))?;
    }
    for state in &judgement.journals {
        writeln!(out, "  {}", output::printable(&state.sentence))?;
    }
    Ok(())
}

fn verdict(all: &[Verified]) -> String {
    let reports: Vec<&Report> = all.iter().filter_map(|verified| verified.report.as_ref()).collect();
    let judgement = all.iter().find_map(|verified| verified.judgement.as_ref());
    let is_consistent = reports.iter().all(|report| report.consistent);
    if !is_consistent || judgement.is_some_and(|judgement| !judgement.findings.is_empty()) {
        "NOT consistent: the archive is not what was written".into()
    } else if all.iter().any(|verified| verified.problem.is_some()) {
        "not verified as a whole: what could be read is consistent, the rest is named above".into()
    } else if let Some(judgement) = judgement {
        judgement.verdict(true)
    } else {
        "consistent, completeness not proven: no anchors were given".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_archive::record::StreamId;
    use cartulary_archive::verify::{DeclaredGap, Finding, FindingKind};

    fn verified(report: Option<Report>) -> Verified {
        let problem = report.is_none().then(|| "away".into());
        Verified { archive: "a".into(), problem, report, judgement: None }
    }

    fn judged(judgement: Judgement) -> Verified {
        Verified { archive: "anchors".into(), judgement: Some(judgement), ..Default::default() }
    }

    #[test]
    fn the_verdict_is_never_better_than_the_worst_part() {
        let good = || Some(Report { consistent: true, ..Default::default() });
        let bad = || Some(Report::default());
        assert!(verdict(&[verified(good())]).contains("completeness not proven: no anchors were given"));
        assert!(verdict(&[verified(good()), verified(None)]).starts_with("not verified as a whole"));
        assert!(verdict(&[verified(good()), verified(None), verified(bad())]).starts_with("NOT consistent"));
        let proven = || Judgement { is_proven: true, up_to_nanos: Some(0), ..Default::default() };
        let all = |judgement| [verified(good()), judged(judgement)];
        assert_eq!(verdict(&all(proven())), "consistent and complete up to 1970-01-01T00:00:00Z");
        let unproven = all(Judgement { is_proven: false, ..proven() });
        assert!(verdict(&unproven).starts_with("consistent, completeness not proven"));
        assert!(!unproven.iter().all(Verified::is_fine));
        let elsewhere = Judgement { not_verified: vec!["db".into()], is_proven: false, ..proven() };
        assert!(verdict(&all(elsewhere)).starts_with("NOT VERIFIED"));
        let cannot = [verified(good()), judged(proven()), verified(None)];
        assert!(
            verdict(&cannot).starts_with("not verified as a whole") && !cannot.iter().all(Verified::is_fine)
        );
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
                by: None,
            }],
            unclosed: vec![Unclosed { stream, last_sequence: 2 }],
            held: vec![],
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
