//! The status of an XMPPCluster. Pure.

use super::apply::Applied;
use super::coverage::{Observation, Sidecar, judge, recording};
use super::dereference::Gathered;
use crate::conditions::{Finding, Problem, State, merge};
use crate::reasons as reason;
use cartulary_compliance::names::condition;
use cartulary_crds::{EndpointType, NodeStatus, XmppCluster, XmppClusterStatus};
use k8s_openapi::jiff::Timestamp;

/// What was found out in one look.
pub struct Outcome {
    /// Whether the declaration can be carried out, and what it leaves to be desired if it can.
    pub accepted: Result<Option<Problem>, Problem>,
    /// The configuration in force.
    pub applied: Option<Applied>,
    /// The endpoints it uses.
    pub endpoints: Vec<String>,
    /// The pods.
    pub observations: Vec<Observation>,
}

/// What is written at the first touch, before anything was looked at.
#[must_use]
pub fn pending(cluster: &XmppCluster, now: Timestamp) -> XmppClusterStatus {
    let finding = Finding::new(condition::READY, State::Unknown, reason::PENDING, "not looked at yet");
    XmppClusterStatus {
        observed_generation: cluster.metadata.generation,
        conditions: merge(&[], &[finding], cluster.metadata.generation, now),
        ..XmppClusterStatus::default()
    }
}

/// What to write; `old` gives the times of what has not changed.
#[must_use]
pub fn status(
    cluster: &XmppCluster,
    old: &XmppClusterStatus,
    gathered: &Gathered,
    outcome: &Outcome,
    now: Timestamp,
) -> XmppClusterStatus {
    let accepted = match &outcome.accepted {
        Ok(None) => Finding::good(condition::ACCEPTED, "the configuration for the sidecars is written"),
        Ok(Some(warning)) => Finding::new(condition::ACCEPTED, true, warning.reason, warning.message.clone()),
        Err(problem) => {
            let rest =
                if outcome.applied.is_some() { "; the last good configuration stays in force" } else { "" };
            Finding::new(condition::ACCEPTED, false, problem.reason, format!("{}{rest}", problem.message))
        }
    };
    let covered = judge(&outcome.observations);
    let recording = recording(&outcome.observations);
    let ready = ready(&accepted, &covered, outcome);
    let findings = [ready, accepted, covered, recording, independent(gathered, outcome)];
    let generation = cluster.metadata.generation;
    let total = outcome.observations.len();
    let recorded = outcome.observations.iter().filter(|pod| pod.uncovered().is_none()).count();
    let waiting: Vec<u64> = outcome.observations.iter().filter_map(Observation::waiting).collect();
    XmppClusterStatus {
        observed_generation: generation,
        conditions: merge(&old.conditions, &findings, generation, now),
        covered: Some(format!("{recorded}/{total}")),
        waiting: (!waiting.is_empty())
            .then(|| count(waiting.iter().fold(0, |sum: u64, n| sum.saturating_add(*n)))),
        configuration: outcome.applied.as_ref().map(|applied| applied.0.clone()),
        nodes: outcome.observations.iter().map(|pod| node(pod, outcome.applied.as_ref())).collect(),
        journal_claims: gathered.claims.clone(),
    }
}

/// Ready: accepted, covered, the newest configuration on every node, and nothing wrong now. What went wrong in the past is told
/// by Recording and is no reason to wait.
fn ready(accepted: &Finding, covered: &Finding, outcome: &Outcome) -> Finding {
    if let Some(finding) = [accepted, covered].into_iter().find(|finding| finding.state != State::True) {
        return Finding { kind: condition::READY, ..finding.clone() };
    }
    let hash = outcome.applied.as_ref().map(|applied| applied.0.hash.as_str()).unwrap_or_default();
    if let Some(pod) = outcome.observations.iter().find(|pod| !pod.runs(hash)) {
        let Sidecar::Answered(status) = &pod.sidecar else {
            return Finding { kind: condition::READY, ..covered.clone() };
        };
        let message = match &status.config.problem {
            Some(problem) => format!("{}: the newest configuration was not taken: {problem}", pod.pod),
            None => format!(
                "{} runs an older configuration (generation {}); kubelets bring the new one within about two minutes",
                pod.pod, status.config.generation
            ),
        };
        return Finding::new(condition::READY, false, reason::NODE_OUTDATED, message);
    }
    match outcome.observations.iter().find_map(|pod| Some((&pod.pod, pod.obstructed()?))) {
        Some((pod, fault)) => {
            Finding::new(condition::READY, false, fault.reason, format!("{pod}: {}", fault.message))
        }
        None => Finding::good(condition::READY, covered.message.clone()),
    }
}

fn independent(gathered: &Gathered, outcome: &Outcome) -> Finding {
    let beside = outcome.endpoints.iter().find(|name| {
        gathered.endpoints.get(*name).is_some_and(|endpoint| endpoint.spec.kind == EndpointType::SQLite)
    });
    match beside {
        Some(name) => Finding::new(
            condition::ARCHIVE_NOT_INDEPENDENT,
            true,
            reason::ARCHIVE_IN_POD,
            format!(
                "ArchiveEndpoint {name} is a file on the volume of each pod's journal: whoever loses that volume loses the archive"
            ),
        ),
        None => Finding::new(
            condition::ARCHIVE_NOT_INDEPENDENT,
            false,
            reason::OK,
            "the archive is apart from the XMPP server",
        ),
    }
}

fn node(pod: &Observation, applied: Option<&Applied>) -> NodeStatus {
    let faults = [pod.uncovered(), pod.obstructed(), pod.loss()];
    let mut problems: Vec<String> = faults.into_iter().flatten().map(|fault| fault.message).collect();
    if pod.journal_in_pod {
        problems.push("its journal goes with the pod: what waits is lost when the pod is deleted".to_owned());
    }
    let mut node = NodeStatus {
        name: pod.pod.clone(),
        covered: pod.uncovered().is_none(),
        current: applied.is_some_and(|applied| pod.runs(&applied.0.hash)),
        ..NodeStatus::default()
    };
    if let Sidecar::Answered(status) = &pod.sidecar {
        problems.extend(status.config.problem.clone());
        node.generation = Some(status.config.generation);
        node.version = Some(short(&status.version));
        node.server = Some(short(&status.link.server)).filter(|server| !server.is_empty());
        node.waiting = pod.waiting().map(count);
    }
    node.problems = problems.iter().map(|problem| crate::conditions::cut(problem)).collect();
    node
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Names and versions as they fit into a table.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
