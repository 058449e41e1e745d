//! `/mutate-pods`: puts the sidecar into a pod that is about to be made, or refuses the pod.
//!
//! The XMPPCluster and its configuration are looked up live, not in a cache: no order of applying things may start a server that
//! is not recorded. All it writes is an Event for a refusal, and in dry runs not even that.

use super::Webhooks;
use crate::cluster::journals;
use crate::inject::parts::config_secret;
use crate::inject::{Refusal, inject};
use crate::reasons::refusal as reason;
use cartulary_compliance::names::label;
use cartulary_crds::XmppCluster;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::PartialObjectMeta;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use serde_json::Value;

/// What is done with a pod.
pub struct Admitted {
    /// From the pod as it came to the pod as it is to be.
    pub patch: json_patch::Patch,
    /// What whoever makes the pod should know.
    pub warnings: Vec<String>,
}

/// Answers a request.
pub async fn answer(webhooks: &Webhooks, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    match admit(webhooks, request).await {
        Ok(None) => response,
        Ok(Some(admitted)) => {
            let patched = response.with_patch(admitted.patch);
            let mut response = match patched {
                Ok(response) => response,
                Err(error) => {
                    return AdmissionResponse::from(request)
                        .deny(format!("the patch cannot be written: {error}"));
                }
            };
            response.warnings = (!admitted.warnings.is_empty()).then_some(admitted.warnings);
            if !request.dry_run {
                webhooks.count("");
            }
            response
        }
        Err(refusal) => {
            if !request.dry_run {
                webhooks.count(refusal.reason);
                let pod = request.object.as_ref().and_then(|pod| serde_json::to_value(pod).ok());
                let namespace = request.namespace.as_deref().unwrap_or_default();
                webhooks.told.refusal(namespace, &pod.unwrap_or_default(), &refusal);
            }
            tracing::info!(
                reason = refusal.reason,
                namespace = request.namespace,
                "refused a pod: {}",
                refusal.message
            );
            response.deny(format!("cartulary: {refusal}"))
        }
    }
}

async fn admit(
    webhooks: &Webhooks,
    request: &AdmissionRequest<DynamicObject>,
) -> Result<Option<Admitted>, Refusal> {
    let malformed = |what: String| Refusal::new(reason::MALFORMED, what);
    let object = request.object.as_ref().ok_or_else(|| malformed("the request has no pod".to_owned()))?;
    let pod = serde_json::to_value(object).map_err(|error| malformed(error.to_string()))?;
    // A pod without the label is not ours, whatever the configuration of webhooks says.
    let Some(name) = pod["metadata"]["labels"][label::CLUSTER].as_str() else { return Ok(None) };
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let cluster = look_up(webhooks, namespace, name).await?;
    let injected = inject(&pod, &cluster, &webhooks.image)?;
    Ok(Some(Admitted { patch: json_patch::diff(&pod, &injected), warnings: warnings(&injected, &cluster) }))
}

/// The cluster, if a sidecar of it would have a configuration to run.
async fn look_up(webhooks: &Webhooks, namespace: &str, name: &str) -> Result<XmppCluster, Refusal> {
    let unavailable = |error: kube::Error| {
        Refusal::new(
            reason::CLUSTER_MISSING,
            format!(
                "the XMPPCluster {name} cannot be looked up, so the pod is not started unrecorded: {error}"
            ),
        )
    };
    let clusters = Api::<XmppCluster>::namespaced(webhooks.client.clone(), namespace);
    let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(webhooks.client.clone(), namespace);
    let secret = config_secret(name);
    let (cluster, secret) = futures::join!(clusters.get_opt(name), secrets.get_opt(&secret));
    let cluster = cluster.map_err(unavailable)?.ok_or_else(|| {
        Refusal::new(
            reason::CLUSTER_MISSING,
            format!(
                "the pod's label {} names the XMPPCluster {name}, which is not in this namespace: create it first, or correct \
                 the label",
                label::CLUSTER
            ),
        )
    })?;
    let owned = secret.map_err(unavailable)?.is_some_and(|secret| {
        // A Secret left by a cluster of the same name that was deleted does not count.
        let owners = secret.metadata.owner_references.unwrap_or_default();
        owners.iter().any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref())
    });
    if owned {
        return Ok(cluster);
    }
    Err(Refusal::new(
        reason::CLUSTER_NOT_ACCEPTED,
        format!(
            "the XMPPCluster {name} has no configuration yet: see its condition Accepted for what is missing"
        ),
    ))
}

fn warnings(pod: &Value, cluster: &XmppCluster) -> Vec<String> {
    let durable =
        serde_json::from_value::<Pod>(pod.clone()).is_ok_and(|pod| journals::claim_of(&pod).is_some());
    let mut warnings = Vec::new();
    if !durable && !cluster.spec.journal.ephemeral {
        warnings.push(
            "cartulary: the journal goes with this pod, because only pods of a StatefulSet have one that outlives them".to_owned(),
        );
    }
    warnings
}
