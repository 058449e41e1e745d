//! Journals of pods that are gone: a Job mounts each and carries what waits to the archive.
//!
//! Invariants: a claim is never changed or deleted; no Job runs beside the pod it stands in for; a Job that failed is told, and tried
//! again with growing pauses for ever, at once when the configuration has changed; a finished Job stays as the note that nothing waits,
//! and goes when its pod comes back; what it carried is anchored before its
//! journal counts as drained. All that must survive the operator is in the Job.

use super::apply::Applied;
use super::build::owner;
use super::dereference::{Claim, Gathered};
use crate::anchors::Report;
use crate::conditions::cut;
use crate::context::Context;
use crate::inject::parts::{
    CONFIG_FOLDER, CONFIG_VOLUME, JOURNAL_FOLDER, JOURNAL_VOLUME, USER, config_secret,
};
use cartulary_compliance::alarms::{self, Alarm};
use cartulary_compliance::names::{SIDECAR_CONTAINER, label};
use cartulary_compliance::status::DrainReport;
use cartulary_crds::XmppCluster;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// On a claim, from when it was made: as whom its journal is written, as JSON of [`RunAs`].
pub const RUN_AS: &str = "cartulary.dev/run-as";
const ATTEMPT: &str = "cartulary.dev/attempt";
const HASH: &str = super::build::HASH;
/// A Job that has not ended by then is tried anew; what it carried stays carried.
const DEADLINE_SECONDS: i64 = 3600;
const SOON: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(1800);

/// As whom a journal is written, so that whoever drains it can read it, and its pod can go on afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunAs {
    /// The sidecar's user.
    pub user: i64,
    /// The pod's group for its volumes.
    pub fs_group: i64,
    /// What the image is pulled with.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
}

impl Default for RunAs {
    fn default() -> Self {
        Self { user: USER, fs_group: USER, image_pull_secrets: Vec::new() }
    }
}

impl RunAs {
    /// As whom the sidecar of an injected pod runs.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let of_pod = spec.security_context.as_ref();
        let sidecar =
            spec.init_containers.iter().flatten().find(|container| container.name == SIDECAR_CONTAINER);
        let own = sidecar.and_then(|container| container.security_context.as_ref()?.run_as_user);
        Self {
            user: own.or_else(|| of_pod?.run_as_user).unwrap_or(USER),
            fs_group: of_pod.and_then(|context| context.fs_group).unwrap_or(USER),
            image_pull_secrets: spec
                .image_pull_secrets
                .iter()
                .flatten()
                .map(|secret| secret.name.clone())
                .collect(),
        }
    }
}

/// What is known of one claim's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The claim.
    pub claim: String,
    /// The pod it is of.
    pub pod: String,
    /// As `status.journals[].state` has it.
    pub state: &'static str,
    /// What keeps it.
    pub message: Option<String>,
    /// Records that wait, where that is known.
    pub waiting: Option<u64>,
    /// Whom it worries.
    pub alarm: Option<Alarm>,
}

/// What the operator remembers between two looks. Losing it costs a grace period.
#[derive(Default)]
pub struct Memory {
    gone: Mutex<HashMap<(String, String), Gone>>,
    reports: Mutex<HashMap<String, DrainReport>>,
}

#[derive(Clone, Copy)]
struct Gone {
    since: Instant,
    attempts: u32,
}

/// What is anchored, and the reports of Jobs that went into it, by pod.
pub type Anchored<'a> = (&'a Report, &'a [(String, DrainReport)]);

/// Looks at all claims of a cluster. Also: when to look again, if nothing happens before.
pub async fn attend(
    cluster: &XmppCluster,
    gathered: &Gathered,
    applied: Option<&Applied>,
    anchors: Anchored<'_>,
    context: &Context,
) -> (Vec<View>, Option<Duration>) {
    let mut views = Vec::new();
    let mut again: Option<Duration> = None;
    for claim in &gathered.journals {
        let (view, soon) = one(cluster, claim, applied, anchors, context).await;
        views.push(view);
        again = [again, soon].into_iter().flatten().min();
    }
    (views, again)
}

async fn one(
    cluster: &XmppCluster,
    claim: &Claim,
    applied: Option<&Applied>,
    anchors: Anchored<'_>,
    context: &Context,
) -> (View, Option<Duration>) {
    let namespace = cluster.namespace().unwrap_or_default();
    let key = (namespace.clone(), claim.name.clone());
    let view = |state, message: Option<String>, alarm| View {
        claim: claim.name.clone(),
        pod: claim.pod.clone(),
        state,
        message: message.map(|message| cut(&message)),
        waiting: None,
        alarm,
    };
    let memory = &context.drains;
    let api = Api::<Job>::namespaced(context.client.clone(), &namespace);
    let job = context.stores.jobs.get(&ObjectRef::new(&job_name(&claim.pod)).within(&namespace));
    if claim.has_pod || claim.deleting {
        memory.gone.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        if let Some(job) = &job {
            remove(&api, job).await;
        }
        return (view("InUse", None, None), None);
    }
    let attempts = job.as_ref().map_or(0, |job| attempt(job));
    let gone = {
        let mut all = memory.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = all.entry(key).or_insert(Gone { since: Instant::now(), attempts });
        gone.attempts = gone.attempts.max(attempts);
        *gone
    };
    let Some(job) = job else {
        let grace = Duration::from_secs(context.options.drain_grace_seconds);
        if let Some(rest) = grace.checked_sub(gone.since.elapsed()).filter(|rest| !rest.is_zero()) {
            return (view("Left", None, None), Some(rest));
        }
        let Some(applied) = applied else {
            let message = "there is no configuration that the Job which drains it could run with: see the condition Accepted";
            return (view("Waiting", Some(message.to_owned()), Some(alarms::JOURNAL_UNATTENDED)), None);
        };
        let job = build(cluster, claim, applied, &context.options, gone.attempts + 1);
        return match api.create(&PostParams::default(), &job).await {
            Ok(_) => {
                tracing::info!(claim = claim.name, "a Job drains the journal of a pod that is gone");
                (view("Draining", Some(DRAINS.to_owned()), Some(alarms::JOURNAL_UNATTENDED)), None)
            }
            // Our watch has not seen it yet.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                (view("Draining", Some(DRAINS.to_owned()), Some(alarms::JOURNAL_UNATTENDED)), None)
            }
            Err(error) => {
                let message = format!("the Job that drains it cannot be made, which is tried again: {error}");
                (view("Failed", Some(message), Some(alarms::DRAIN_FAILED)), Some(FIRST_PAUSE))
            }
        };
    };
    let Some((condition, completed)) = ended(&job) else {
        return (view("Draining", Some(DRAINS.to_owned()), Some(alarms::JOURNAL_UNATTENDED)), None);
    };
    let report = match report(context, &namespace, &job).await {
        Ok(report) => report,
        Err(error) => {
            let message =
                format!("what the Job that drained it said cannot be read, which is tried again: {error}");
            return (view("Draining", Some(message), Some(alarms::JOURNAL_UNATTENDED)), Some(FIRST_PAUSE));
        }
    };
    if completed {
        let unsettled = |report: &DrainReport| {
            let is_shown =
                anchors.1.iter().any(|(pod, shown)| *pod == claim.pod && shown.heads == report.heads);
            !is_shown || !anchors.0.settled(&report.heads)
        };
        if report.as_ref().is_some_and(unsettled) {
            let message = "nothing waits; its anchors are not written yet: see the condition Anchored";
            return (view("Draining", Some(message.to_owned()), None), Some(SOON));
        }
        return (View { waiting: Some(0), ..view("Drained", None, None) }, None);
    }
    let pause = retry_pause(condition, attempt(&job));
    let outdated = applied.is_some_and(|applied| job.annotations().get(HASH) != Some(&applied.0.hash));
    if pause.is_zero() || outdated {
        remove(&api, &job).await;
    }
    let mut found = match report {
        Some(report) if !report.waiting.is_empty() => {
            let (endpoint, first) = report
                .waiting
                .iter()
                .next()
                .map(|(name, waiting)| (name.clone(), waiting.clone()))
                .unwrap_or_default();
            let count = report.waiting.values().map(|waiting| waiting.records).fold(0, u64::saturating_add);
            let message = format!("ArchiveEndpoint {endpoint}: {} ({count} records wait)", first.message);
            View { waiting: Some(count), ..view("Waiting", Some(message), Some(alarms::JOURNAL_UNATTENDED)) }
        }
        Some(DrainReport { problem: Some(problem), .. }) => {
            view("Failed", Some(problem), Some(alarms::DRAIN_FAILED))
        }
        _ => {
            let message = condition.message.clone().unwrap_or_else(|| "it ended without a word".to_owned());
            view("Failed", Some(message), Some(alarms::DRAIN_FAILED))
        }
    };
    found.message =
        found.message.map(|message| format!("{message}; tried {} times, and again by itself", attempt(&job)));
    (found, Some(pause.max(Duration::from_secs(1))))
}

const DRAINS: &str = "a Job carries what waits to the archive";

/// How the Job ended, and whether it is done.
fn ended(job: &Job) -> Option<(&JobCondition, bool)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().filter(|condition| condition.status == "True").find_map(|condition| {
        match condition.type_.as_str() {
            "Complete" => Some((condition, true)),
            "Failed" => Some((condition, false)),
            _ => None,
        }
    })
}

/// How long a Job that failed stays before it is tried again.
fn retry_pause(failed: &JobCondition, attempt: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    let since = failed.last_transition_time.as_ref().map_or(pause, |time| {
        Duration::try_from(Timestamp::now().duration_since(time.0)).unwrap_or_default()
    });
    pause.saturating_sub(since)
}

fn attempt(job: &Job) -> u32 {
    job.annotations().get(ATTEMPT).and_then(|number| number.parse().ok()).unwrap_or(1)
}

async fn remove(api: &Api<Job>, job: &Job) {
    if job.metadata.deletion_timestamp.is_some() {
        return;
    }
    let uid = job.uid();
    // Without its pod: that goes by itself, and quickly. Never another Job that has taken its name.
    let params = DeleteParams::background().preconditions(Preconditions { uid, resource_version: None });
    match api.delete(&job.name_any(), &params).await {
        Ok(_) => tracing::info!(job = job.name_any(), "removed a Job that drained a journal"),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
        Err(error) => {
            tracing::warn!(job = job.name_any(), %error, "a Job could not be removed, trying again")
        }
    }
}

/// What the Jobs that have ended said of the journals of pods that are gone, by pod.
pub async fn reports(namespace: &str, gathered: &Gathered, context: &Context) -> Vec<(String, DrainReport)> {
    let mut all = Vec::new();
    for claim in gathered.journals.iter().filter(|claim| !claim.has_pod && !claim.deleting) {
        let job = context.stores.jobs.get(&ObjectRef::new(&job_name(&claim.pod)).within(namespace));
        if let Some(job) = job.filter(|job| ended(job).is_some())
            && let Ok(Some(report)) = report(context, namespace, &job).await
        {
            all.push((claim.pod.clone(), report));
        }
    }
    all
}

/// What the Job's pod said at its end; `None` when that is gone.
async fn report(context: &Context, namespace: &str, job: &Job) -> Result<Option<DrainReport>, kube::Error> {
    let Some(uid) = job.uid() else { return Ok(None) };
    if let Some(report) = context.drains.reports.lock().unwrap_or_else(PoisonError::into_inner).get(&uid) {
        return Ok(Some(report.clone()));
    }
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", job.name_any()));
    let pods = Api::<Pod>::namespaced(context.client.clone(), namespace).list(&of_job).await?;
    let message = pods.items.iter().find_map(|pod| {
        pod.owner_references().iter().find(|owner| owner.uid == uid)?;
        let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
        containers.iter().find_map(|container| container.state.as_ref()?.terminated.as_ref()?.message.clone())
    });
    let Some(message) = message else { return Ok(None) };
    let report: DrainReport = serde_json::from_str(&message)
        .unwrap_or_else(|_| DrainReport { problem: Some(cut(&message)), ..DrainReport::default() });
    let mut reports = context.drains.reports.lock().unwrap_or_else(PoisonError::into_inner);
    if reports.len() >= 10_000 {
        reports.clear();
    }
    reports.insert(uid, report.clone());
    Ok(Some(report))
}

/// Name of the Job for a pod's journal: the same for each attempt, so that there is never more than one.
#[must_use]
pub fn job_name(pod: &str) -> String {
    let name = format!("cartulary-drain-{pod}");
    if name.len() <= 63 {
        return name;
    }
    let end = pod.floor_char_boundary(36);
    format!("cartulary-drain-{}-{:08x}", pod[..end].trim_end_matches(['-', '.']), fingerprint(pod))
}

/// Enough to tell long names apart; FNV-1a.
fn fingerprint(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The Job. It passes the restricted Pod Security Standard, and its pod is not one of the cluster's.
#[must_use]
pub fn build(
    cluster: &XmppCluster,
    claim: &Claim,
    applied: &Applied,
    options: &crate::options::Options,
    attempt: u32,
) -> Job {
    let name = cluster.name_any();
    let as_whom = &claim.run_as;
    let mut labels = json!({});
    if claim.pod.len() <= 63 {
        labels[label::DRAIN] = json!(claim.pod);
    } else {
        labels[label::DRAIN] = json!(job_name(&claim.pod));
    }
    let pull: Vec<Value> = as_whom.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    let job = json!({
        "metadata": {
            "name": job_name(&claim.pod),
            "namespace": cluster.namespace(),
            "labels": labels,
            "annotations": { ATTEMPT: attempt.to_string(), HASH: applied.0.hash },
            "ownerReferences": [owner(cluster)],
        },
        "spec": {
            // Retried by the operator, which tells why it failed and waits in between.
            "backoffLimit": 0,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    // Its pod may come back any moment and waits for the volume; what is under way is carried again.
                    "terminationGracePeriodSeconds": 5,
                    "imagePullSecrets": pull,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": as_whom.user,
                        "fsGroup": as_whom.fs_group,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [{
                        "name": "drain",
                        "image": options.sidecar_image,
                        "imagePullPolicy": options.sidecar_image_pull_policy,
                        "command": ["cartulary-sidecar"],
                        "args": [
                            "drain",
                            "--data-dir", JOURNAL_FOLDER,
                            "--config", format!("{CONFIG_FOLDER}/{}", cartulary_compliance::config::SECRET_KEY),
                            "--node", claim.pod,
                            "--termination-log", "/dev/termination-log",
                        ],
                        "resources": { "requests": { "cpu": "50m", "memory": "64Mi" } },
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "capabilities": { "drop": ["ALL"] },
                            "readOnlyRootFilesystem": true,
                        },
                        "volumeMounts": [
                            { "name": CONFIG_VOLUME, "mountPath": CONFIG_FOLDER, "readOnly": true },
                            { "name": JOURNAL_VOLUME, "mountPath": JOURNAL_FOLDER },
                        ],
                    }],
                    "volumes": [
                        { "name": CONFIG_VOLUME, "secret": { "secretName": config_secret(&name), "defaultMode": 0o440 } },
                        { "name": JOURNAL_VOLUME, "persistentVolumeClaim": { "claimName": claim.name } },
                    ],
                },
            },
        },
    });
    serde_json::from_value(job).expect("it is a Job, whatever the names are")
}
