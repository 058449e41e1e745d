//! `cartulary status`: what is recorded where, node by node, and what is wrong.
//!
//! Conditions come from the XMPPClusters as the operator last wrote them; everything about a node comes from its sidecar this very
//! moment. Whatever cannot be read is shown as such: a silent node is never counted as a good one. [`show`] puts it into words.

mod show;

use crate::Found;
use crate::args::StatusArgs;
use crate::kubernetes::Kubernetes;
use crate::output::{self, Format};
use crate::{pods, time};
use cartulary_compliance::alarms;
use cartulary_compliance::config::AlarmSettings;
use cartulary_compliance::names::{condition, reason};
use cartulary_compliance::status::SidecarStatus;
use futures::StreamExt;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use show::show;
use std::io::Write;

/// One XMPPCluster.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReport {
    pub namespace: String,
    pub name: String,
    pub conditions: Vec<Condition>,
    /// `metadata.generation`: what is declared.
    pub generation: Option<i64>,
    pub pods: Vec<PodReport>,
    /// Journal claims whose pod is gone: they may hold records that no archive has.
    pub retained_claims: Vec<String>,
    /// The journals, as the operator last saw them.
    journals: Vec<JournalReport>,
    /// Alarms that the operator raises: about what no sidecar can see, too.
    operator_alarms: Vec<OperatorAlarm>,
    /// Names of the compliance servers that are assigned; none while compliance is not enabled.
    pub compliance_servers: Vec<String>,
    /// Records that wait, over all nodes that answered.
    pub waiting: u64,
    /// Whether every node answered, so that `waiting` is the whole truth.
    pub complete: bool,
}

/// One pod under compliance.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    pub name: String,
    pub phase: String,
    /// Why the sidecar's status is not here.
    pub problem: Option<String>,
    pub status: Option<SidecarStatus>,
    /// Alarms, as the status raises them this moment.
    alarms: Vec<AlarmReport>,
}

/// One journal, as the XMPPCluster's status has it. Fields of another version are left out, not refused.
#[derive(Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct JournalReport {
    pod: String,
    state: String,
    message: Option<String>,
    waiting: Option<i64>,
    journal: Option<String>,
    claim: Option<String>,
    anchors: Vec<AnchorReport>,
}

/// How far a journal is anchored.
#[derive(Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct AnchorReport {
    endpoint: String,
    sequence: i64,
    at: String,
}

/// An alarm, as the XMPPCluster's status has it.
#[derive(Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
struct OperatorAlarm {
    alarm: String,
    severity: String,
    node: Option<String>,
    endpoint: Option<String>,
}

/// An alarm of one node.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct AlarmReport {
    alarm: &'static str,
    severity: &'static str,
    endpoint: Option<String>,
    /// The compliance server it is about.
    server: Option<String>,
    /// Raised, and declared not to be told.
    silenced: bool,
    message: String,
    /// What to do.
    action: &'static str,
}

/// A condition, as the Kubernetes API has it.
#[derive(Serialize, Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
    pub observed_generation: Option<i64>,
}

/// Runs the command.
pub async fn run(args: StatusArgs) -> anyhow::Result<Found> {
    let (kubernetes, reports) = collect(&args).await?;
    let mut out = output::stdout();
    match args.output {
        Format::Json => output::json_line(&mut out, &reports)?,
        Format::Text if reports.is_empty() => {
            writeln!(out, "There is no XMPPCluster in {}.", place(&args, &kubernetes))?;
        }
        Format::Text => {
            for (index, report) in reports.iter().enumerate() {
                if index > 0 {
                    writeln!(out)?;
                }
                show(&mut out, report)?;
            }
        }
    }
    out.flush()?;
    Ok(if reports.iter().all(ClusterReport::is_fine) { Found::Fine } else { Found::Wrong })
}

/// Everything about the XMPPClusters that are meant, as it is this moment.
pub async fn collect(args: &StatusArgs) -> anyhow::Result<(Kubernetes, Vec<ClusterReport>)> {
    let kubernetes = Kubernetes::connect(&args.kube).await?;
    let clusters = match &args.cluster {
        Some(name) => vec![kubernetes.cluster(Some(name)).await?],
        None => kubernetes.list("XMPPCluster", args.all_namespaces).await?,
    };
    let mut reports = Vec::new();
    for cluster in &clusters {
        reports.push(report(&kubernetes, cluster).await?);
    }
    Ok((kubernetes, reports))
}

fn place(args: &StatusArgs, kubernetes: &Kubernetes) -> String {
    if args.all_namespaces { "any namespace".into() } else { format!("namespace '{}'", kubernetes.namespace) }
}

async fn report(kubernetes: &Kubernetes, cluster: &DynamicObject) -> anyhow::Result<ClusterReport> {
    let name = cluster.name_any();
    let namespace = cluster.namespace().unwrap_or_else(|| kubernetes.namespace.clone());
    let pods = kubernetes.pods(&namespace, &name).await?;
    let settings = alarm_settings(cluster);
    let reports: Vec<PodReport> = futures::stream::iter(&pods)
        .map(|pod| async {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            let (status, problem) = match kubernetes.sidecar_status(pod).await {
                Ok(status) => (Some(status), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            };
            let alarms = status.as_ref().map(|status| alarms_of(status, &settings)).unwrap_or_default();
            PodReport { name: pod.name_any(), phase, problem, status, alarms }
        })
        .buffered(16)
        .collect()
        .await;
    let endpoints = reports.iter().filter_map(|pod| pod.status.as_ref()).flat_map(|s| s.endpoints.values());
    Ok(ClusterReport {
        conditions: in_status(cluster, "/status/conditions"),
        generation: cluster.metadata.generation,
        retained_claims: pods::retained(cluster).collect(),
        journals: in_status(cluster, "/status/journals"),
        operator_alarms: in_status(cluster, "/status/alarms"),
        compliance_servers: assigned(cluster),
        waiting: endpoints.map(|endpoint| endpoint.waiting).sum(),
        complete: reports.iter().all(|pod| pod.status.is_some()),
        namespace,
        name,
        pods: reports,
    })
}

/// A list in the status, without what this version cannot read of it.
fn in_status<T: serde::de::DeserializeOwned>(cluster: &DynamicObject, place: &str) -> Vec<T> {
    let list = cluster.data.pointer(place).and_then(|list| list.as_array());
    list.into_iter().flatten().filter_map(|item| serde_json::from_value(item.clone()).ok()).collect()
}

/// Names of the compliance servers that are assigned, each once.
fn assigned(cluster: &DynamicObject) -> Vec<String> {
    let compliance = |place: &str| cluster.data.pointer(&format!("/spec/compliance/{place}"));
    if compliance("enabled").and_then(|value| value.as_bool()) == Some(false) {
        return Vec::new();
    }
    let servers = compliance("servers").and_then(|servers| servers.as_array()).into_iter().flatten();
    let mut names: Vec<String> =
        servers.filter_map(|server| server.get("server")?.as_str().map(str::to_owned)).collect();
    names.sort();
    names.dedup();
    names
}

/// From when on something is an alarm there, as far as the declaration says so in a way known here.
fn alarm_settings(cluster: &DynamicObject) -> AlarmSettings {
    let mut settings = AlarmSettings::default();
    let alarms = |key: &str| cluster.data.pointer(&format!("/spec/alarms/{key}"));
    let percent =
        alarms("highWaterPercent").and_then(|value| value.as_u64()).and_then(|p| u32::try_from(p).ok());
    settings.high_water_percent = percent.unwrap_or(settings.high_water_percent);
    let waiting = alarms("waitingTooLong").and_then(|value| value.as_str()).and_then(time::seconds);
    settings.waiting_too_long_seconds = waiting.unwrap_or(settings.waiting_too_long_seconds);
    let silenced = alarms("silenced").and_then(|list| list.as_array()).into_iter().flatten();
    settings.silenced = silenced.filter_map(|item| serde_json::from_value(item.clone()).ok()).collect();
    settings
}

fn alarms_of(status: &SidecarStatus, settings: &AlarmSettings) -> Vec<AlarmReport> {
    let raised = alarms::of_node(status, settings, jiff::Timestamp::now().as_microsecond());
    raised
        .into_iter()
        .map(|alarms::Raised { alarm, endpoint, server, message, silenced }| AlarmReport {
            alarm: alarm.name,
            severity: alarm.severity.word(),
            endpoint,
            server,
            silenced,
            message,
            action: alarm.action,
        })
        .collect()
}

impl ClusterReport {
    fn is_fine(&self) -> bool {
        self.conditions.iter().any(|c| c.kind == condition::READY && c.status == "True" && !self.is_old(c))
            && !self.pods.is_empty()
            && self.pods.iter().all(PodReport::is_fine)
            && self.operator_alarms.is_empty()
    }

    /// Whether a condition is about an older declaration.
    pub fn is_old(&self, condition: &Condition) -> bool {
        condition.observed_generation < self.generation
    }
}

impl PodReport {
    fn is_fine(&self) -> bool {
        self.status.as_ref().is_some_and(|status| {
            status.ready
                && self.alarms.iter().all(|alarm| alarm.silenced)
                && status.config.problem.is_none()
                && status.journal.problem.is_none()
                && status.endpoints.values().all(|e| e.state == reason::CONNECTED && e.dead_letters == 0)
                && status.compliance_servers.values().all(|server| server.in_service)
        })
    }
}

/// A cluster with one node where all is well.
#[cfg(test)]
pub fn healthy() -> ClusterReport {
    let endpoint = cartulary_compliance::status::EndpointStatus {
        state: reason::CONNECTED.into(),
        ..Default::default()
    };
    let status = SidecarStatus {
        ready: true,
        endpoints: [("embedded".to_owned(), endpoint)].into(),
        ..Default::default()
    };
    ClusterReport {
        namespace: "chat".into(),
        name: "chat".into(),
        conditions: vec![Condition {
            kind: condition::READY.into(),
            status: "True".into(),
            reason: reason::OK.into(),
            observed_generation: Some(2),
            ..Default::default()
        }],
        generation: Some(2),
        pods: vec![PodReport {
            name: "prosody-0".into(),
            phase: "Running".into(),
            problem: None,
            status: Some(status),
            alarms: Vec::new(),
        }],
        retained_claims: Vec::new(),
        journals: Vec::new(),
        compliance_servers: Vec::new(),
        operator_alarms: Vec::new(),
        waiting: 0,
        complete: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_compliance::status::EndpointStatus;

    #[test]
    fn a_node_that_does_not_answer_is_never_counted_as_good() {
        assert!(healthy().is_fine());
        let mut report = healthy();
        report.pods[0].status = None;
        report.complete = false;
        assert!(!report.is_fine());
        let mut out = Vec::new();
        show(&mut out, &report).expect("memory");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("needs attention") && text.contains("at least 0 records"), "{text}");
    }

    #[test]
    fn alarms_journals_heads_and_days_are_shown_and_an_alarm_needs_attention() {
        let cluster: DynamicObject = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "chat"},
            "spec": {"alarms": {"highWaterPercent": 50, "waitingTooLong": "2h"}},
            "status": {
                "journals": [{"pod": "prosody-1", "state": "Draining", "waiting": 4, "journal": "j",
                    "anchors": [{"endpoint": "e", "sequence": 7, "at": "2026-03-01T00:00:00Z"}]}],
                "alarms": [{"alarm": "AnchorConflict", "severity": "critical", "node": "prosody-1"}]
            }
        }))
        .expect("an object");
        let settings = alarm_settings(&cluster);
        assert_eq!((settings.high_water_percent, settings.waiting_too_long_seconds), (50, 7200));
        let mut report = healthy();
        let status = report.pods[0].status.as_mut().expect("a status");
        status.link.connected = true;
        status.counts.passed_by = 2;
        status.heads = vec![cartulary_compliance::status::Head {
            endpoint: "e".into(),
            sequence: 9,
            ..Default::default()
        }];
        status.days =
            vec![cartulary_compliance::status::DayCount { day: "2026-03-01".into(), ..Default::default() }];
        report.pods[0].alarms = alarms_of(status, &settings);
        assert!(!report.is_fine());
        report.journals = in_status(&cluster, "/status/journals");
        report.operator_alarms = in_status(&cluster, "/status/alarms");
        let mut out = Vec::new();
        show(&mut out, &report).expect("memory");
        let text = String::from_utf8(out).expect("text");
        for part in [
            "ALARM CountMismatch (critical): 2 messages came in",
            "ALARM AnchorConflict (critical) pod prosody-1: A journal says",
            "journal j of pod prosody-1: Draining, 4 records wait",
            "anchored for endpoint e: up to record 7",
            "stream of endpoint e: recorded up to 9, nothing of this start archived yet",
            "2026-03-01: 0 said",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_condition_of_an_older_declaration_proves_nothing() {
        let mut report = healthy();
        report.generation = Some(3);
        assert!(!report.is_fine());
    }

    #[test]
    fn no_pods_dead_letters_and_lost_endpoints_need_attention() {
        let mut report = healthy();
        report.pods.clear();
        assert!(!report.is_fine());
        let spoilers: [fn(&mut EndpointStatus); 2] =
            [|e| e.dead_letters = 1, |e| e.state = reason::UNREACHABLE.into()];
        for spoil in spoilers {
            let mut report = healthy();
            let status = report.pods[0].status.as_mut().expect("a status");
            spoil(status.endpoints.get_mut("embedded").expect("an endpoint"));
            assert!(!report.is_fine());
        }
    }
}
