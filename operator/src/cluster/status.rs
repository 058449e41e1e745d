//! The status of an XMPPCluster. Pure.

use super::alarms::{self, Raised};
use super::apply::Applied;
use super::compliance;
use super::coverage::{Observation, Sidecar, judge, recording};
use super::dereference::Gathered;
use super::drain::View;
use super::volumes::Volume;
use crate::anchors::Report;
use crate::conditions::{Finding, Problem, State, merge};
use crate::reasons as reason;
use cartulary_compliance::names::condition;
use cartulary_crds::{
    AnchorStatus, EndpointType, JournalStatus, NodeStatus, Omitted, XmppCluster, XmppClusterStatus,
};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;

/// Lists are cut where a status would otherwise not fit into an object: 1.5 MiB in all.
const MAX_NODES: usize = 200;
const MAX_CLAIMS: usize = 1000;
const MAX_JOURNALS: usize = 200;
const MAX_ALARMS: usize = 100;

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
    /// The alarms.
    pub raised: Vec<Raised>,
    /// The journals of its claims.
    pub journals: Vec<View>,
    /// The volumes behind these claims.
    pub volumes: BTreeMap<String, Volume>,
    /// What is anchored.
    pub anchors: Report,
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
    let recording = if alarms::is_silenced(condition::RECORDING, &outcome.raised) {
        Finding::good(condition::RECORDING, "what is wrong is silenced: see status.alarms")
    } else if recording.state == State::False {
        recording
    } else {
        alarms::judge(condition::RECORDING, &outcome.raised, recording)
    };
    let served = compliance::served(cluster, &outcome.observations, &outcome.raised);
    let ready = ready(&accepted, &covered, &served, outcome);
    let served = if served.state == State::False {
        served
    } else {
        alarms::judge(condition::COMPLIANCE_SERVED, &outcome.raised, served)
    };
    let findings = [
        ready,
        accepted,
        covered,
        recording,
        served,
        alarms::judge(condition::COUNTED, &outcome.raised, counted(outcome)),
        alarms::judge(condition::ANCHORED, &outcome.raised, anchored(outcome)),
        alarms::judge(condition::JOURNALS_ATTENDED, &outcome.raised, attended(outcome)),
        independent(gathered, outcome),
    ];
    let generation = cluster.metadata.generation;
    let total = outcome.observations.len();
    let recorded = outcome.observations.iter().filter(|pod| pod.uncovered().is_none()).count();
    let waiting: Vec<u64> = outcome.observations.iter().filter_map(Observation::waiting).collect();
    let mut nodes: Vec<NodeStatus> =
        outcome.observations.iter().map(|pod| node(pod, outcome.applied.as_ref())).collect();
    // Those with something wrong are the last to be left out.
    nodes.sort_by_key(|node| node.problems.is_empty());
    let mut claims = gathered.claims.clone();
    let mut journals = journals(outcome);
    let mut raised = alarms::listed(&outcome.raised);
    let omitted = Omitted {
        nodes: shorten(&mut nodes, MAX_NODES),
        journal_claims: shorten(&mut claims, MAX_CLAIMS),
        journals: shorten(&mut journals, MAX_JOURNALS),
        alarms: shorten(&mut raised, MAX_ALARMS),
    };
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    XmppClusterStatus {
        observed_generation: generation,
        conditions: merge(&old.conditions, &findings, generation, now),
        covered: Some(format!("{recorded}/{total}")),
        waiting: (!waiting.is_empty())
            .then(|| count(waiting.iter().fold(0, |sum: u64, n| sum.saturating_add(*n)))),
        configuration: outcome.applied.as_ref().map(|applied| applied.0.clone()),
        nodes,
        journal_claims: claims,
        journals,
        alarms: raised,
        omitted: (omitted != Omitted::default()).then_some(omitted),
    }
}

/// Ready: accepted, covered, the newest configuration on every node, and nothing wrong now. What went wrong in the past is told
/// by Recording and is no reason to wait.
fn ready(accepted: &Finding, covered: &Finding, served: &Finding, outcome: &Outcome) -> Finding {
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
        None if served.state != State::True => Finding { kind: condition::READY, ..served.clone() },
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

fn counted(outcome: &Outcome) -> Finding {
    if outcome.observations.iter().any(|pod| matches!(pod.sidecar, Sidecar::Answered(_))) {
        return Finding::good(condition::COUNTED, "every message that was counted was asked about");
    }
    Finding::new(condition::COUNTED, State::Unknown, reason::PENDING, "no sidecar has answered yet")
}

fn anchored(outcome: &Outcome) -> Finding {
    let heads = outcome.anchors.journals.values().flat_map(|journal| &journal.heads);
    match heads.map(|head| head.at_nanos).max() {
        Some(newest) => Finding::good(
            condition::ANCHORED,
            format!(
                "{} journals are anchored, the newest head is of {}",
                outcome.anchors.journals.len(),
                minute(newest)
            ),
        ),
        None => Finding::new(
            condition::ANCHORED,
            State::Unknown,
            reason::PENDING,
            "no sidecar has shown a head yet",
        ),
    }
}

fn attended(outcome: &Outcome) -> Finding {
    let drained = outcome.journals.iter().filter(|view| view.state == "Drained").count();
    let message = match drained {
        0 => "no journal is without its pod".to_owned(),
        drained => format!("nothing waits in the {drained} journals whose pods are gone"),
    };
    let unsafe_ones = outcome
        .journals
        .iter()
        .filter(|view| outcome.volumes.get(&view.claim).is_none_or(|volume| volume.retained != Some(true)));
    match unsafe_ones.count() {
        0 => Finding::good(condition::JOURNALS_ATTENDED, message),
        count => Finding::good(
            condition::JOURNALS_ATTENDED,
            format!("{message}; {count} volumes may go with their claims, see status.journals"),
        ),
    }
}

/// All journals, those first that need somebody.
fn journals(outcome: &Outcome) -> Vec<JournalStatus> {
    let mut all: Vec<JournalStatus> = outcome
        .journals
        .iter()
        .map(|view| {
            let volume = outcome.volumes.get(&view.claim).cloned().unwrap_or_default();
            JournalStatus {
                pod: view.pod.clone(),
                state: view.state.to_owned(),
                message: view.message.as_deref().map(brief),
                waiting: view.waiting.map(count),
                claim: Some(view.claim.clone()),
                volume: volume.name,
                retained: volume.retained,
                ..JournalStatus::default()
            }
        })
        .collect();
    for pod in &outcome.observations {
        let Sidecar::Answered(status) = &pod.sidecar else { continue };
        let index = all.iter().position(|journal| journal.pod == pod.pod).unwrap_or_else(|| {
            all.push(JournalStatus {
                pod: pod.pod.clone(),
                state: "InUse".to_owned(),
                ..JournalStatus::default()
            });
            all.len() - 1
        });
        all[index].journal = Some(short(&status.journal.id)).filter(|id| !id.is_empty());
    }
    for anchors in outcome.anchors.journals.values() {
        // A pod may have had several journals; its own is the one it shows, or else the one that was anchored last.
        let Some(journal) = all.iter_mut().find(|journal| journal.pod == anchors.node) else { continue };
        if journal.journal.as_ref().is_some_and(|id| *id != anchors.journal) {
            continue;
        }
        journal.journal = Some(anchors.journal.clone());
        let newest = anchors.newest();
        journal.anchors = newest
            .into_iter()
            .take(8)
            .map(|head| AnchorStatus {
                endpoint: head.endpoint.clone(),
                sequence: count(head.sequence),
                at: minute(head.at_nanos),
            })
            .collect();
    }
    all.sort_by_key(|journal| (journal.state == "InUse", journal.state == "Drained", journal.pod.clone()));
    all
}

/// To the minute: anchors are written no oftener.
fn minute(nanos: i64) -> String {
    let seconds = nanos.div_euclid(60_000_000_000) * 60;
    Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn shorten<T>(list: &mut Vec<T>, most: usize) -> i64 {
    let over = list.len().saturating_sub(most);
    list.truncate(most);
    i64::try_from(over).unwrap_or(i64::MAX)
}

fn brief(text: &str) -> String {
    if text.chars().count() <= 256 {
        text.to_owned()
    } else {
        text.chars().take(255).chain(['…']).collect()
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
        problems.extend(compliance::problems(status));
        node.generation = Some(status.config.generation);
        node.version = Some(short(&status.version));
        node.server = Some(short(&status.link.server)).filter(|server| !server.is_empty());
        node.waiting = pod.waiting().map(count);
    }
    node.problems = problems.iter().map(|problem| brief(problem)).collect();
    node
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Names and versions as they fit into a table.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
