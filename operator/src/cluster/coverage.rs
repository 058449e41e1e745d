//! Coverage is checked, not assumed: every pod under compliance is looked at, and its sidecar asked.
//!
//! [`observe`] asks; [`judge`] decides, purely. What a sidecar answers comes from a pod that anybody who may create pods can
//! have made: it is limited in size, never followed elsewhere, and only its numbers and cut sentences are repeated.

use crate::conditions::{Finding, State, cut};
use crate::context::Context;
use crate::endpoint;
use crate::inject::parts::JOURNAL_VOLUME;
use crate::reasons as reason;
use cartulary_compliance::names::{SIDECAR_CONTAINER, condition};
use cartulary_compliance::status::SidecarStatus;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 2;
const CONCURRENT: usize = 32;
const MAX_ANSWER: usize = 1 << 20;

/// What was seen of one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Its name.
    pub pod: String,
    /// Its journal goes with it.
    pub journal_in_pod: bool,
    /// Whether the pod gets its name back when it is made anew.
    pub name_is_stable: bool,
    /// Its sidecar.
    pub sidecar: Sidecar,
}

/// What was seen of a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub enum Sidecar {
    /// The pod has none.
    Missing,
    /// The pod has no address yet, or is being deleted.
    NotRunning,
    /// It does not answer; why.
    Unreachable(String),
    /// It answered as the sidecar of another XMPPCluster.
    Foreign(String),
    /// It answered while its pod is being deleted: it counts for its heads only.
    Ending(Box<SidecarStatus>),
    /// It answered.
    Answered(Box<SidecarStatus>),
}

/// Asks the sidecars of all pods at once.
pub async fn observe(cluster: &str, pods: &[Arc<Pod>], context: &Context) -> Vec<Observation> {
    let port = context.options.status_port;
    let looks: Vec<_> = pods.iter().map(|pod| look(pod.clone(), context.http.clone(), port)).collect();
    let mut observations: Vec<Observation> =
        futures::stream::iter(looks).buffer_unordered(CONCURRENT).collect().await;
    for observation in &mut observations {
        // Another label on the pod does not change whose configuration its sidecar runs.
        let foreign = |status: &SidecarStatus| !status.cluster.is_empty() && status.cluster != cluster;
        match &observation.sidecar {
            Sidecar::Answered(status) if foreign(status) => {
                observation.sidecar = Sidecar::Foreign(cut(&status.cluster));
            }
            Sidecar::Ending(status) if foreign(status) => observation.sidecar = Sidecar::NotRunning,
            _ => {}
        }
    }
    observations.sort_by(|a, b| a.pod.cmp(&b.pod));
    observations
}

async fn look(pod: Arc<Pod>, http: reqwest::Client, port: u16) -> Observation {
    let name = pod.name_any();
    let address =
        pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).and_then(|ip| ip.parse().ok());
    let sidecar = match address {
        _ if !has_sidecar(&pod) => Sidecar::Missing,
        Some(address) => match ask(&http, address, port, &name).await {
            answer if pod.metadata.deletion_timestamp.is_none() => answer,
            Sidecar::Answered(status) => Sidecar::Ending(status),
            _ => Sidecar::NotRunning,
        },
        None => Sidecar::NotRunning,
    };
    Observation {
        journal_in_pod: journal_in_pod(&pod),
        name_is_stable: is_of_stateful_set(&pod),
        pod: name,
        sidecar,
    }
}

async fn ask(http: &reqwest::Client, address: IpAddr, port: u16, pod: &str) -> Sidecar {
    let url = match address {
        IpAddr::V4(address) => format!("http://{address}:{port}/status"),
        IpAddr::V6(address) => format!("http://[{address}]:{port}/status"),
    };
    let mut last = String::new();
    // One lost packet is no reason to tell people that a node is not recorded.
    for _ in 0..ATTEMPTS {
        match tokio::time::timeout(TIMEOUT, fetch(http, &url)).await {
            Ok(Ok(status)) if status.node == pod => return Sidecar::Answered(Box::new(status)),
            Ok(Ok(status)) => {
                last = format!("its address is answered by the sidecar of {}", cut(&status.node))
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = format!("no answer within {} seconds", TIMEOUT.as_secs()),
        }
    }
    Sidecar::Unreachable(last)
}

async fn fetch(http: &reqwest::Client, url: &str) -> Result<SidecarStatus, String> {
    let mut response = http.get(url).send().await.map_err(|error| innermost(&error))?;
    if !response.status().is_success() {
        return Err(format!("{url} answered {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| innermost(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER {
            return Err("its status is larger than a status can be".to_owned());
        }
    }
    serde_json::from_slice(&body).map_err(|error| format!("its status cannot be read: {error}"))
}

/// The cause that says something; the outer ones only repeat the address.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn has_sidecar(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .any(|container| container.name == SIDECAR_CONTAINER)
}

/// Whether it gets its name back when it is made anew.
#[must_use]
pub fn is_of_stateful_set(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.kind == "StatefulSet" && owner.controller == Some(true))
}

fn journal_in_pod(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    volumes.into_iter().flatten().any(|volume| volume.name == JOURNAL_VOLUME && volume.empty_dir.is_some())
}

/// What is wrong with one pod, and how to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Out of [`reason`].
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

impl Observation {
    /// Why messages of this pod are not recorded; `None` when they are.
    #[must_use]
    pub fn uncovered(&self) -> Option<Fault> {
        let fault = |reason, message: String| Some(Fault { reason, message });
        let status = match &self.sidecar {
            Sidecar::Foreign(cluster) => {
                let message =
                    format!("its sidecar records for {cluster}: delete the pod, so that it is made anew");
                return fault(reason::SIDECAR_MISSING, cut(&message));
            }
            Sidecar::Missing => {
                return fault(
                    reason::SIDECAR_MISSING,
                    "it runs without our sidecar, because it was made before it was labelled or while the webhook was not asked: \
                     delete it, so that it is made anew"
                        .to_owned(),
                );
            }
            Sidecar::NotRunning | Sidecar::Ending(_) => {
                return fault(reason::PENDING, "it is not running".to_owned());
            }
            Sidecar::Unreachable(why) => {
                return fault(reason::SIDECAR_UNREACHABLE, format!("its sidecar does not answer: {why}"));
            }
            Sidecar::Answered(status) => status,
        };
        if !status.link.connected {
            return fault(
                reason::PLUGIN_NOT_CONNECTED,
                "the server plugin has not connected: see the XMPP server's log for why it did not load"
                    .to_owned(),
            );
        }
        if status.link.hosts.is_empty() {
            return fault(reason::HOST_NOT_ARMED, "the XMPP server has no hosts".to_owned());
        }
        let host = status.link.hosts.iter().find_map(|host| Some((host, host.problem.as_ref()?)));
        host.and_then(|(host, problem)| {
            fault(reason::HOST_NOT_ARMED, cut(&format!("the host {} is not recorded: {problem}", host.name)))
        })
    }

    /// Whether it runs the configuration with this hash; a pod that does not answer does not.
    #[must_use]
    pub fn runs(&self, hash: &str) -> bool {
        matches!(&self.sidecar, Sidecar::Answered(status) if status.config.hash == hash)
    }

    /// Why it cannot keep records now, or cannot bring them to its archive.
    #[must_use]
    pub fn obstructed(&self) -> Option<Fault> {
        let Sidecar::Answered(status) = &self.sidecar else { return None };
        if let Some(problem) = &status.journal.problem {
            return Some(Fault {
                reason: reason::JOURNAL_UNWRITABLE,
                message: cut(&format!("its journal cannot be appended to: {problem}")),
            });
        }
        status.endpoints.iter().find_map(|(name, endpoint)| {
            let reason = endpoint::problem(endpoint)?;
            let message = cut(&format!(
                "ArchiveEndpoint {name}: {} ({} records wait)",
                endpoint.message, endpoint.waiting
            ));
            Some(Fault { reason, message })
        })
    }

    /// What happened on this pod that cannot be undone.
    #[must_use]
    pub fn loss(&self) -> Option<Fault> {
        let Sidecar::Answered(status) = &self.sidecar else { return None };
        let (delivered, damaged) = (status.counts.delivered_unrecorded, status.journal.damaged());
        let dead: u64 = status.endpoints.values().map(|endpoint| endpoint.dead_letters).sum();
        if delivered > 0 {
            let message =
                format!("{delivered} messages were delivered that should have been recorded and were not");
            return Some(Fault { reason: reason::DELIVERED_UNRECORDED, message });
        }
        if dead > 0 {
            let message = format!("{dead} records were rejected by their archive and are kept aside");
            return Some(Fault { reason: reason::REJECTED, message });
        }
        (damaged > 0).then(|| Fault {
            reason: reason::JOURNAL_DAMAGED,
            message: format!("{damaged} places of its journal are damaged and were passed over"),
        })
    }

    /// Records that wait on it.
    #[must_use]
    pub fn waiting(&self) -> Option<u64> {
        let Sidecar::Answered(status) = &self.sidecar else { return None };
        Some(status.endpoints.values().map(|endpoint| endpoint.waiting).fold(0, u64::saturating_add))
    }
}

/// Whether every pod is recorded.
#[must_use]
pub fn judge(observations: &[Observation]) -> Finding {
    // The gravest first: a pod that never will be recorded before one that is only starting.
    const GRAVITY: [&str; 5] = [
        reason::SIDECAR_MISSING,
        reason::SIDECAR_UNREACHABLE,
        reason::PLUGIN_NOT_CONNECTED,
        reason::HOST_NOT_ARMED,
        reason::PENDING,
    ];
    if observations.is_empty() {
        return Finding::new(
            condition::COVERED,
            false,
            reason::NO_PODS,
            "no pod carries the label cartulary.dev/cluster with this name: set it in the pod template of the XMPP server",
        );
    }
    let faults: Vec<_> = observations.iter().filter_map(|pod| Some((&pod.pod, pod.uncovered()?))).collect();
    let worst = GRAVITY.iter().find_map(|reason| faults.iter().find(|(_, fault)| fault.reason == *reason));
    let count = format!("{} of {} pods are recorded", observations.len() - faults.len(), observations.len());
    match worst {
        Some((pod, fault)) => Finding::new(
            condition::COVERED,
            false,
            fault.reason,
            format!("{count}; {pod}: {}", fault.message),
        ),
        None => Finding::good(condition::COVERED, count),
    }
}

/// Whether nothing is lost, rejected or held up. What is wrong now comes before what went wrong.
#[must_use]
pub fn recording(observations: &[Observation]) -> Finding {
    let answered = observations.iter().any(|pod| matches!(pod.sidecar, Sidecar::Answered(_)));
    let now = observations.iter().find_map(|pod| Some((&pod.pod, pod.obstructed()?)));
    match now.or_else(|| observations.iter().find_map(|pod| Some((&pod.pod, pod.loss()?)))) {
        Some((pod, fault)) => {
            Finding::new(condition::RECORDING, false, fault.reason, format!("{pod}: {}", fault.message))
        }
        None if answered => Finding::good(condition::RECORDING, "records reach their archive"),
        None => {
            Finding::new(condition::RECORDING, State::Unknown, reason::PENDING, "no sidecar has answered yet")
        }
    }
}
