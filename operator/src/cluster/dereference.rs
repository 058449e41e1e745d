//! Gathers what an XMPPCluster refers to. It decides nothing: what is missing is missing in the result.

use super::drain::{RUN_AS, RunAs};
use crate::context::Context;
use crate::endpoint;
use crate::endpoint::resolve::Secrets;
use crate::inject::parts::{config_secret, journal_claim};
use crate::profile::resolve::Profiles;
use crate::server;
use cartulary_compliance::names::label;
use cartulary_crds::{ArchiveEndpoint, ComplianceServer, JournalClaim, XmppCluster};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What an XMPPCluster refers to, as it is now.
#[derive(Default)]
pub struct Gathered {
    /// The ArchiveEndpoints of the namespace.
    pub endpoints: BTreeMap<String, Arc<ArchiveEndpoint>>,
    /// The ComplianceServers of the namespace.
    pub servers: BTreeMap<String, Arc<ComplianceServer>>,
    /// The Profiles of the namespace.
    pub profiles: Profiles,
    /// The Secrets of the endpoints that may be used and of the servers that are asked.
    pub secrets: Secrets,
    /// The configuration Secret as it is now.
    pub written: Option<Arc<Secret>>,
    /// The pods under compliance of the cluster, those that have ended left out.
    pub pods: Vec<Arc<Pod>>,
    /// The claims that hold its journals.
    pub claims: Vec<JournalClaim>,
    /// The same, with what draining them needs.
    pub journals: Vec<Claim>,
    /// The names of all claims of the namespace.
    pub claim_names: BTreeSet<String>,
}

/// A claim that holds a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The pod it is of.
    pub pod: String,
    /// Whether there is a pod of that name, in whatever state.
    pub has_pod: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// As whom its journal is written.
    pub run_as: RunAs,
}

/// Gathers it.
pub async fn dereference(cluster: &XmppCluster, context: &Context) -> Result<Gathered, kube::Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let name = cluster.name_any();
    let here = |of: Option<String>| of.as_deref() == Some(&*namespace);
    let mut gathered =
        Gathered { written: context.secret(&namespace, &config_secret(&name)).await?, ..Default::default() };
    for endpoint in context.stores.endpoints.state_filter(|endpoint| here(endpoint.namespace())) {
        if may_be_used(cluster, &endpoint) {
            gathered.secrets.extend(endpoint::secrets(context, &namespace, &endpoint).await?);
        }
        gathered.endpoints.insert(endpoint.name_any(), endpoint);
    }
    for server in context.stores.servers.state_filter(|server| here(server.namespace())) {
        if super::compliance::assigned(cluster).any(|assigned| assigned.server == server.name_any()) {
            gathered.secrets.extend(server::secrets(context, &namespace, &server).await?);
        }
        gathered.servers.insert(server.name_any(), server);
    }
    let profiles = context.stores.profiles.state_filter(|profile| here(profile.namespace()));
    gathered.profiles.extend(profiles.into_iter().map(|profile| (profile.name_any(), profile)));
    gathered.pods = context.stores.pods.state_filter(|pod| {
        here(pod.namespace()) && pod.labels().get(label::CLUSTER) == Some(&name) && !has_ended(pod)
    });
    gathered.pods.sort_by_key(|pod| pod.name_any());
    for claim in context.stores.claims.state_filter(|claim| here(claim.namespace())) {
        let claim_name = claim.name_any();
        if claim.labels().get(label::CLUSTER) == Some(&name) {
            let in_use = gathered.pods.iter().any(|pod| super::journals::claim_of(pod) == Some(&claim_name));
            gathered.claims.push(JournalClaim { name: claim_name.clone(), in_use });
            if let Some(pod) = claim_name.strip_prefix(&*journal_claim("")) {
                let run_as = claim.annotations().get(RUN_AS).and_then(|text| serde_json::from_str(text).ok());
                gathered.journals.push(Claim {
                    uid: claim.uid().unwrap_or_default(),
                    pod: pod.to_owned(),
                    has_pod: in_use
                        || context.stores.pods.get(&ObjectRef::new(pod).within(&namespace)).is_some(),
                    deleting: claim.metadata.deletion_timestamp.is_some(),
                    run_as: run_as.unwrap_or_default(),
                    name: claim_name.clone(),
                });
            }
        }
        gathered.claim_names.insert(claim_name);
    }
    gathered.journals.sort_by(|a, b| a.name.cmp(&b.name));
    gathered.claims.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(gathered)
}

fn may_be_used(cluster: &XmppCluster, endpoint: &ArchiveEndpoint) -> bool {
    let name = endpoint.name_any();
    let archiving = &cluster.spec.archiving;
    endpoint.spec.default
        || archiving.endpoint.as_ref() == Some(&name)
        || archiving.node_endpoints.iter().any(|node| node.endpoint == name)
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
