//! `cartulary dead-letters`: records that an archive refused alone. Sidecars keep them on the journal's disk until somebody has them tried
//! again; here they are listed, without what was said in them, and offered again.

use crate::Found;
use crate::args::{DeadLettersAction, DeadLettersArgs, DeadLettersTarget};
use crate::kubernetes::Kubernetes;
use crate::output::{self, Format};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;

/// One record kept aside, as a sidecar tells it.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Entry {
    id: String,
    sequence: u64,
    reason: String,
    at_nanos: i64,
}

/// What one pod keeps aside.
#[derive(Serialize, Debug)]
struct PodReport {
    pod: String,
    problem: Option<String>,
    /// By endpoint.
    endpoints: BTreeMap<String, Vec<Entry>>,
}

/// Runs the command.
pub async fn run(args: DeadLettersArgs) -> anyhow::Result<Found> {
    match args.action {
        DeadLettersAction::List(target) => list(target).await,
        DeadLettersAction::Retry(target) => retry(target).await,
    }
}

async fn list(target: DeadLettersTarget) -> anyhow::Result<Found> {
    let kubernetes = Kubernetes::connect(&target.kube).await?;
    let cluster = kubernetes.cluster(target.cluster.as_deref()).await?.name_any();
    let mut reports = Vec::new();
    for pod in kubernetes.pods(&kubernetes.namespace, &cluster).await? {
        let answer = kubernetes.ask_sidecar(&pod, http::Method::GET, "dead-letters").await;
        let read = answer.and_then(|answer| Ok(serde_json::from_str(&answer)?));
        let (endpoints, problem) = match read {
            Ok(endpoints) => (endpoints, None),
            Err(error) => (BTreeMap::new(), Some(format!("{error:#}"))),
        };
        reports.push(PodReport { pod: pod.name_any(), problem, endpoints });
    }
    let mut out = output::stdout();
    match target.output {
        Format::Json => output::json_line(&mut out, &reports)?,
        Format::Text => show(&mut out, &reports)?,
    }
    out.flush()?;
    let none = |report: &PodReport| report.problem.is_none() && report.endpoints.values().all(Vec::is_empty);
    Ok(if reports.iter().all(none) { Found::Fine } else { Found::Wrong })
}

fn show(out: &mut impl Write, reports: &[PodReport]) -> std::io::Result<()> {
    let mut count = 0;
    for report in reports {
        if let Some(problem) = &report.problem {
            writeln!(out, "pod {}: NOT READ: {}", report.pod, output::printable(problem))?;
        }
        for (endpoint, entries) in &report.endpoints {
            for entry in entries {
                count += 1;
                let at = jiff::Timestamp::from_nanosecond(i128::from(entry.at_nanos)).unwrap_or_default();
                writeln!(
                    out,
                    "pod {}, endpoint {endpoint}: record {} (sequence {}), refused {at:.0}: {}",
                    report.pod,
                    entry.id,
                    entry.sequence,
                    output::printable(&entry.reason)
                )?;
            }
        }
    }
    writeln!(out, "{count} dead letters")
}

async fn retry(target: DeadLettersTarget) -> anyhow::Result<Found> {
    let kubernetes = Kubernetes::connect(&target.kube).await?;
    let cluster = kubernetes.cluster(target.cluster.as_deref()).await?.name_any();
    let mut found = Found::Fine;
    for pod in kubernetes.pods(&kubernetes.namespace, &cluster).await? {
        match kubernetes.ask_sidecar(&pod, http::Method::POST, "dead-letters/retry").await {
            Ok(_) => println!(
                "pod {}: they are being tried again; cartulary dead-letters list shows what remains",
                pod.name_any()
            ),
            Err(error) => {
                found = Found::Wrong;
                println!("pod {}: {}", pod.name_any(), output::printable(&format!("{error:#}")));
            }
        }
    }
    Ok(found)
}
