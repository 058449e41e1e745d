//! Reconciles XMPPClusters: dereference → validate → build → apply → coverage → status, one module each.
//!
//! Invariants: a declaration that cannot be carried out leaves the last good configuration running and says why; validation
//! errors wait for a change; an idle cluster is asked for its status again and again, and written about only when that changed.

pub mod alarms;
pub mod apply;
pub mod build;
pub mod compliance;
pub mod coverage;
pub mod dereference;
pub mod drain;
pub mod journals;
pub mod status;
pub mod validate;
pub mod volumes;

use crate::anchors::Shown;
use crate::conditions::Problem;
use crate::context::{ClusterView, Context, PodView};
use crate::profile;
use crate::reasons as reason;
use crate::write;
use apply::{Applied, ApplyError};
use cartulary_compliance::status::DrainReport;
use cartulary_crds::{XmppCluster, XmppClusterStatus};
use coverage::{Observation, Sidecar};
use dereference::Gathered;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use status::Outcome;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Looks at one cluster.
pub async fn reconcile(cluster: Arc<XmppCluster>, context: Arc<Context>) -> Result<Action, kube::Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    if cluster.metadata.deletion_timestamp.is_some() {
        context.observe(&namespace, &cluster.name_any(), None);
        context.show(&namespace, &cluster.name_any(), Vec::new());
        return Ok(Action::await_change());
    }
    let old = touch(&cluster, &context).await?;
    profile::keep_system_default(&context, &namespace).await?;

    let gathered = dereference::dereference(&cluster, &context).await?;
    let (accepted, applied, endpoints, mut failed) = carry_out(&cluster, &gathered, &context).await;
    // Claims also for a declaration that cannot be carried out: the pods of the last good one need them all the same.
    if let Err(error) = apply::claims(&cluster, &gathered, &context).await {
        failed = failed.or(Some(error));
    }
    let name = format!("{namespace}/{}", cluster.name_any());
    let observations = coverage::observe(&name, &gathered.pods, &context).await;
    context.observe(
        &namespace,
        &cluster.name_any(),
        Some(view(&cluster, &gathered, &endpoints, &observations)),
    );
    let drained = drain::reports(&namespace, &gathered, &context).await;
    let shown = shown(&observations, &drained);
    let anchors = context.anchors.look(&namespace, &cluster.name_any(), &shown).await;
    let (journals, soon) =
        drain::attend(&cluster, &gathered, applied.as_ref(), (&anchors, &drained), &context).await;
    let volumes = volumes::retain(&namespace, &gathered.journals, &context).await;
    let settings = validate::alarms(&cluster).unwrap_or_default();
    let now = Timestamp::now();
    let raised = alarms::raised(&observations, &journals, &anchors, &settings, now.as_microsecond());
    context.show(&namespace, &cluster.name_any(), alarms::labels(&raised, &namespace, &cluster.name_any()));
    let pending = anchors.pending || volumes.len() < gathered.journals.len();
    let outcome = Outcome { accepted, applied, endpoints, observations, raised, journals, volumes, anchors };

    let new = status::status(&cluster, &old, &gathered, &outcome, now);
    if new != old {
        write::status(&context, &*cluster, &new).await?;
        write::events(&context, &*cluster, &old.conditions, &new.conditions).await;
        let told = alarms::told(&old.alarms, &new.alarms, &outcome.raised);
        write::told(&context, &*cluster, told).await;
    }
    let poll = (pending || !gathered.pods.is_empty()).then(|| context.options.poll_interval());
    match (failed, [poll, soon].into_iter().flatten().min()) {
        (Some(error), _) => Err(error),
        (None, None) => Ok(Action::await_change()),
        (None, Some(pause)) => Ok(Action::requeue(pause)),
    }
}

/// What pods show of their journals, and the Jobs that drained those of pods that are gone.
fn shown<'a>(observations: &'a [Observation], drained: &'a [(String, DrainReport)]) -> Vec<Shown<'a>> {
    let answered = observations.iter().filter_map(|pod| match &pod.sidecar {
        Sidecar::Answered(status) | Sidecar::Ending(status) => {
            Some(Shown { pod: &pod.pod, journal: &status.journal.id, heads: &status.heads })
        }
        _ => None,
    });
    let of_jobs =
        drained.iter().map(|(pod, report)| Shown { pod, journal: &report.journal, heads: &report.heads });
    answered.chain(of_jobs).collect()
}

/// Writes Ready=Unknown on what was never looked at, so that tools that wait for a status do not take its absence for success.
async fn touch(cluster: &XmppCluster, context: &Context) -> Result<XmppClusterStatus, kube::Error> {
    if let Some(status) = cluster.status.clone().filter(|status| !status.conditions.is_empty()) {
        return Ok(status);
    }
    let status = status::pending(cluster, Timestamp::now());
    write::status(context, cluster, &status).await?;
    Ok(status)
}

type CarriedOut = (Result<Option<Problem>, Problem>, Option<Applied>, Vec<String>, Option<kube::Error>);

async fn carry_out(cluster: &XmppCluster, gathered: &Gathered, context: &Context) -> CarriedOut {
    let validated = match validate::validate(cluster, gathered) {
        Ok(validated) => validated,
        Err(problem) => return (Err(problem), apply::last_good(gathered), Vec::new(), None),
    };
    let prepared = build::build(validated, cluster);
    let endpoints = prepared.config.endpoints.keys().cloned().collect();
    match apply::apply(prepared, gathered, context).await {
        Ok(applied) => (Ok(validate::warning(cluster, gathered)), Some(applied), endpoints, None),
        Err(ApplyError::Problem(problem)) => (Err(problem), apply::last_good(gathered), endpoints, None),
        Err(ApplyError::Kube(error)) => {
            let problem = Problem::new(
                reason::APPLY_FAILED,
                format!("the configuration Secret could not be written, which is tried again: {error}"),
            );
            (Err(problem), apply::last_good(gathered), endpoints, Some(error))
        }
    }
}

/// What is told to endpoints, compliance servers and profiles. Endpoints that only an older configuration uses are still spoken of by its
/// sidecars.
fn view(
    cluster: &XmppCluster,
    gathered: &Gathered,
    endpoints: &[String],
    observations: &[Observation],
) -> ClusterView {
    let mut used: BTreeSet<String> = endpoints.iter().cloned().collect();
    let mut view =
        ClusterView { assigned: compliance::resolved(cluster, gathered), ..ClusterView::default() };
    for pod in observations {
        let answered = match &pod.sidecar {
            Sidecar::Answered(status) => Some(status),
            _ => None,
        };
        if let Some(status) = answered {
            used.extend(status.endpoints.keys().cloned());
            view.nodes.insert(pod.pod.clone(), status.endpoints.clone());
        }
        if !matches!(pod.sidecar, Sidecar::Ending(_)) {
            let links = answered.into_iter().flat_map(|status| &status.compliance_servers);
            view.pods.push(PodView {
                pod: pod.pod.clone(),
                name_is_stable: pod.name_is_stable,
                links: links.map(|(name, link)| (name.clone(), compliance::link(link))).collect(),
            });
        }
    }
    view.endpoints = used.into_iter().collect();
    view
}
