//! `/validate-profiles`, `/validate-complianceservers`, `/validate-xmppclusters`: keeps what is assigned from being deleted or renamed
//! (PR-3), the system default profile as it is (PR-4), and warns of what is allowed and perhaps not meant (PR-2).
//!
//! They look things up live and fail open: what slips by while nobody answers is told by the objects' conditions, the system default
//! profile comes back, and sidecars go on with the last good configuration. What goes with its namespace, or with its XMPPCluster, is never kept.

use super::Webhooks;
use crate::cluster::compliance::{shared_addresses, warnings};
use crate::cluster::dereference::Gathered;
use crate::profile::conflict;
use crate::profile::resolve::{Profiles, find, rules, shown_name, system_default, warnings as of_profile};
use crate::reasons::refusal;
use cartulary_compliance::names::label;
use cartulary_compliance::profile::SYSTEM_DEFAULT_RESOURCE;
use cartulary_crds::{ComplianceServer, Profile, XmppCluster};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::ListParams;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use kube::core::{DynamicObject, NamespaceResourceScope};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;

type Request = AdmissionRequest<DynamicObject>;
/// Why not, out of [`refusal`], and in words.
type Refused = (&'static str, String);

/// Answers a request about a Profile.
pub async fn profile(webhooks: &Webhooks, request: &Request) -> AdmissionResponse {
    let looked = look_at_profile(webhooks, request).await;
    answer(webhooks, request, looked)
}

/// Answers a request about a ComplianceServer.
pub async fn server(webhooks: &Webhooks, request: &Request) -> AdmissionResponse {
    let looked = look_at_server(webhooks, request).await;
    answer(webhooks, request, looked)
}

/// Answers a request about an XMPPCluster, with warnings at most.
pub async fn cluster(webhooks: &Webhooks, request: &Request) -> AdmissionResponse {
    let looked = look_at_cluster(webhooks, request).await;
    answer(webhooks, request, looked)
}

fn answer(
    webhooks: &Webhooks,
    request: &Request,
    looked: Result<Result<Vec<String>, Refused>, kube::Error>,
) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request);
    match looked {
        // The API server cannot be asked: as if nobody had answered.
        Err(error) => tracing::warn!(%error, name = request.name, "an admission request was not looked at"),
        Ok(Err((reason, message))) => {
            if !request.dry_run {
                webhooks.count(reason);
            }
            return response.deny(format!("cartulary: {reason}: {message}"));
        }
        Ok(Ok(warnings)) => {
            let warnings: Vec<_> = warnings.into_iter().map(|text| format!("cartulary: {text}")).collect();
            response.warnings = (!warnings.is_empty()).then_some(warnings);
        }
    }
    response
}

async fn look_at_profile(
    webhooks: &Webhooks,
    request: &Request,
) -> Result<Result<Vec<String>, Refused>, kube::Error> {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let is_default = request.name == SYSTEM_DEFAULT_RESOURCE;
    let (old, new) = (parsed::<Profile>(&request.old_object), parsed::<Profile>(&request.object));
    if is_default && new.as_ref().is_some_and(|new| new.spec != system_default()) {
        let message = "the system default profile cannot be changed: make a Profile of your own";
        return Ok(Err((refusal::PROFILE_READ_ONLY, message.to_owned())));
    }
    let profiles: Profiles = list::<Profile>(webhooks, namespace).await?;
    if let Some(new) = new.as_ref().filter(|_| !is_default)
        && let Some(problem) = conflict(&request.name, new, &profiles)
        && old.as_ref().is_none_or(|old| old.spec.display_name != new.spec.display_name)
    {
        return Ok(Err((refusal::DISPLAY_NAME_TAKEN, problem.message)));
    }
    let deleted = request.operation == Operation::Delete;
    let renamed = old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| {
        shown_name(&request.name, Some(old)) != shown_name(&request.name, Some(new))
    });
    if (deleted || renamed) && !is_ending(webhooks, namespace).await? {
        let clusters = list::<XmppCluster>(webhooks, namespace).await?;
        let in_use = clusters.values().find(|cluster| {
            let here =
                |reference: &str| find(&profiles, reference).is_ok_and(|(name, _)| name == request.name);
            is_there(&***cluster)
                && cluster.spec.compliance.servers.iter().any(|assigned| here(&assigned.profile))
        });
        if let Some(cluster) = in_use {
            let message = format!(
                "the XMPPCluster {} assigns the Profile {}: take it out of spec.compliance.servers there first",
                cluster.name_any(),
                request.name
            );
            return Ok(Err((refusal::PROFILE_IN_USE, message)));
        }
        let needed = clusters.values().any(|cluster| is_there(&**cluster))
            || is_default
                && list::<ComplianceServer>(webhooks, namespace)
                    .await?
                    .values()
                    .any(|server| is_there(&**server));
        if is_default && needed {
            let message = "the system default profile is kept for as long as the namespace has an XMPPCluster or a ComplianceServer";
            return Ok(Err((refusal::PROFILE_READ_ONLY, message.to_owned())));
        }
    }
    let told = new.filter(|_| !is_default).map(|new| of_profile(&rules(Some(&new)))).unwrap_or_default();
    Ok(Ok(told.into_iter().map(|warning| warning.message).collect()))
}

async fn look_at_server(
    webhooks: &Webhooks,
    request: &Request,
) -> Result<Result<Vec<String>, Refused>, kube::Error> {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    if request.operation == Operation::Delete {
        if is_ending(webhooks, namespace).await? {
            return Ok(Ok(Vec::new()));
        }
        let clusters = list::<XmppCluster>(webhooks, namespace).await?;
        let in_use = clusters.values().filter(|cluster| is_there(&***cluster)).find(|cluster| {
            cluster.spec.compliance.servers.iter().any(|assigned| assigned.server == request.name)
        });
        return Ok(match in_use {
            None => Ok(Vec::new()),
            Some(cluster) => Err((
                refusal::SERVER_IN_USE,
                format!(
                    "the XMPPCluster {} assigns the ComplianceServer {}: take it out of spec.compliance.servers there first",
                    cluster.name_any(),
                    request.name
                ),
            )),
        });
    }
    let Some(mut new) = parsed::<ComplianceServer>(&request.object) else { return Ok(Ok(Vec::new())) };
    new.metadata.name = Some(request.name.clone());
    let new = Arc::new(new);
    let servers = list::<ComplianceServer>(webhooks, namespace).await?;
    let others = servers.iter().filter(|(name, _)| **name != request.name).map(|(_, server)| server);
    let shared = others.flat_map(|other| shared_addresses([other, &new].into_iter()));
    Ok(Ok(shared.map(|warning| warning.message).collect()))
}

async fn look_at_cluster(
    webhooks: &Webhooks,
    request: &Request,
) -> Result<Result<Vec<String>, Refused>, kube::Error> {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let Some(cluster) = parsed::<XmppCluster>(&request.object).filter(is_there) else {
        return Ok(Ok(Vec::new()));
    };
    if cluster.spec.compliance.servers.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let pods = Api::<Pod>::namespaced(webhooks.client.clone(), namespace);
    let labelled = ListParams::default().labels(&format!("{}={}", label::CLUSTER, request.name));
    let gathered = Gathered {
        servers: list(webhooks, namespace).await?,
        profiles: list(webhooks, namespace).await?,
        pods: pods.list(&labelled).await?.items.into_iter().map(Arc::new).collect(),
        ..Gathered::default()
    };
    Ok(Ok(warnings(&cluster, &gathered).into_iter().map(|warning| warning.message).collect()))
}

/// What is no object of its kind is the API server's to refuse.
fn parsed<K: DeserializeOwned>(object: &Option<DynamicObject>) -> Option<K> {
    serde_json::from_value(serde_json::to_value(object.as_ref()?).ok()?).ok()
}

fn is_there<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_none()
}

async fn is_ending(webhooks: &Webhooks, namespace: &str) -> Result<bool, kube::Error> {
    let found = Api::<Namespace>::all(webhooks.client.clone()).get_metadata_opt(namespace).await?;
    Ok(found.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

async fn list<K>(
    webhooks: &Webhooks,
    namespace: &str,
) -> Result<std::collections::BTreeMap<String, Arc<K>>, kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api = Api::<K>::namespaced(webhooks.client.clone(), namespace);
    let objects = api.list(&ListParams::default()).await?;
    Ok(objects.into_iter().map(|object| (object.name_any(), Arc::new(object))).collect())
}
