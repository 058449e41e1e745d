//! What every reconciler works with: the client, what was watched, what the sidecars said last, and who is to look again.
//!
//! One context for each scope (all of Kubernetes, or one namespace). Invariant: Secrets other than those that are referred to are
//! known by name and version only, and never fetched.

use crate::anchors::Keeper;
use crate::cluster::{drain, volumes};
use crate::metrics::{Alarm, Metrics};
use crate::options::Options;
use cartulary_compliance::status::{EndpointStatus, LinkCause, LinkState};
use cartulary_crds::{ArchiveEndpoint, ComplianceServer, Profile, XmppCluster};
use futures::channel::mpsc::UnboundedSender;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::PartialObjectMeta;
use kube::runtime::controller::ReconcileRequest;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// What was watched.
pub struct Stores {
    /// The XMPPClusters.
    pub clusters: Store<XmppCluster>,
    /// The ArchiveEndpoints.
    pub endpoints: Store<ArchiveEndpoint>,
    /// The ComplianceServers.
    pub servers: Store<ComplianceServer>,
    /// The Profiles.
    pub profiles: Store<Profile>,
    /// The Secrets, without their content.
    pub secrets: Store<PartialObjectMeta<Secret>>,
    /// The pods under compliance.
    pub pods: Store<Pod>,
    /// The claims that hold journals.
    pub claims: Store<PartialObjectMeta<PersistentVolumeClaim>>,
    /// The Jobs that drain journals.
    pub jobs: Store<Job>,
}

/// What an XMPPCluster declares, and its sidecars said last, of endpoints and compliance servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// The endpoints it uses.
    pub endpoints: Vec<String>,
    /// For each pod that answered, its endpoints by name.
    pub nodes: BTreeMap<String, BTreeMap<String, EndpointStatus>>,
    /// The compliance servers that are asked.
    pub assigned: Vec<Assigned>,
    /// The pods, whether they answer or not, with their links to compliance servers.
    pub pods: Vec<PodView>,
}

impl ClusterView {
    /// Whether the server is asked by this pod.
    #[must_use]
    pub fn is_assigned(&self, server: &str, pod: &str) -> bool {
        let on = |nodes: &[String]| nodes.is_empty() || nodes.iter().any(|node| node == pod);
        self.assigned.iter().any(|assigned| assigned.server == server && on(&assigned.nodes))
    }
}

/// A compliance server that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// The ComplianceServer.
    pub server: String,
    /// The Profile, by the name of its object.
    pub profile: String,
    /// On which pods; on all where empty.
    pub nodes: Vec<String>,
}

/// A pod and its links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub pod: String,
    /// Whether it gets its name back when it is made anew.
    pub name_is_stable: bool,
    /// Its links by server; none while its sidecar does not answer.
    pub links: BTreeMap<String, Link>,
}

/// A link to a compliance server: what of its status does not change with each event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// How far it is.
    pub state: LinkState,
    /// Whether events go to it.
    pub in_service: bool,
    /// Why not.
    pub cause: Option<LinkCause>,
    /// The same in words.
    pub message: String,
}

/// Everything a reconciler works with.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What the operator was started with.
    pub options: Options,
    /// What was watched.
    pub stores: Stores,
    /// For events.
    pub recorder: Recorder,
    /// For the sidecars' status.
    pub http: reqwest::Client,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who looks again at an XMPPCluster.
    pub clusters: UnboundedSender<ReconcileRequest<XmppCluster>>,
    /// Who looks again at an ArchiveEndpoint.
    pub endpoints: UnboundedSender<ReconcileRequest<ArchiveEndpoint>>,
    /// Who looks again at a ComplianceServer.
    pub servers: UnboundedSender<ReconcileRequest<ComplianceServer>>,
    /// Who looks again at a Profile.
    pub profiles: UnboundedSender<ReconcileRequest<Profile>>,
    /// Anchors.
    pub anchors: Keeper,
    /// What was seen of journals of pods that are gone.
    pub drains: drain::Memory,
    /// What was seen of the journals' volumes.
    pub volumes: volumes::Known,
    alarms: Mutex<BTreeMap<(String, String), Vec<Alarm>>>,
    secrets: Mutex<HashMap<ObjectRef<Secret>, Arc<Secret>>>,
    views: Mutex<BTreeMap<(String, String), ClusterView>>,
}

impl Context {
    /// A context without any knowledge of sidecars yet.
    #[allow(clippy::too_many_arguments, reason = "each is a different thing, and it is called once")]
    #[must_use]
    pub fn new(
        client: Client,
        options: Options,
        stores: Stores,
        recorder: Recorder,
        http: reqwest::Client,
        metrics: Arc<Metrics>,
        clusters: UnboundedSender<ReconcileRequest<XmppCluster>>,
        endpoints: UnboundedSender<ReconcileRequest<ArchiveEndpoint>>,
        servers: UnboundedSender<ReconcileRequest<ComplianceServer>>,
        profiles: UnboundedSender<ReconcileRequest<Profile>>,
    ) -> Self {
        Self {
            anchors: Keeper::new(client.clone(), &options.namespace),
            drains: drain::Memory::default(),
            volumes: volumes::Known::default(),
            alarms: Mutex::default(),
            client,
            options,
            stores,
            recorder,
            http,
            metrics,
            clusters,
            endpoints,
            servers,
            profiles,
            secrets: Mutex::default(),
            views: Mutex::default(),
        }
    }

    /// The Secret as it is now; `None` when there is none. It is fetched once for each of its versions.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, kube::Error> {
        let key = ObjectRef::<Secret>::new(name).within(namespace);
        let watched = self.stores.secrets.get(&ObjectRef::new(name).within(namespace));
        let Some(watched) = watched else {
            self.secrets.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            return Ok(None);
        };
        let version = &watched.metadata.resource_version;
        let cached = self.secrets.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(secret) = cached.filter(|secret| secret.metadata.resource_version == *version) {
            return Ok(Some(secret));
        }
        let secret =
            Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name).await?.map(Arc::new);
        let mut cache = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        match &secret {
            Some(secret) => cache.insert(key, secret.clone()),
            None => cache.remove(&key),
        };
        Ok(secret)
    }

    /// Remembers what a cluster declares and its sidecars said; the endpoints, servers and profiles it concerns are looked at again
    /// if it is something new.
    pub fn observe(&self, namespace: &str, cluster: &str, view: Option<ClusterView>) {
        let key = (namespace.to_owned(), cluster.to_owned());
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let old = match &view {
            Some(view) => views.insert(key, view.clone()),
            None => views.remove(&key),
        };
        drop(views);
        if old == view {
            return;
        }
        let named = old.iter().chain(&view).flat_map(|view| &view.endpoints);
        for endpoint in named {
            // The receiver is gone only when the operator is shutting down.
            let _ = self.endpoints.unbounded_send(ObjectRef::new(endpoint).within(namespace).into());
        }
        for assigned in old.iter().chain(&view).flat_map(|view| &view.assigned) {
            let _ = self.servers.unbounded_send(ObjectRef::new(&assigned.server).within(namespace).into());
            let _ = self.profiles.unbounded_send(ObjectRef::new(&assigned.profile).within(namespace).into());
        }
    }

    /// Shows the alarms of a cluster in the metrics, and no others of it.
    pub fn show(&self, namespace: &str, cluster: &str, alarms: Vec<Alarm>) {
        let key = (namespace.to_owned(), cluster.to_owned());
        let mut shown = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let old = shown.insert(key, alarms.clone()).unwrap_or_default();
        for alarm in old.iter().filter(|alarm| !alarms.contains(alarm)) {
            self.metrics.alarms.remove(alarm);
        }
        for alarm in alarms {
            self.metrics.alarms.get_or_create(&alarm).set(1);
        }
    }

    /// What the sidecars of each cluster of the namespace said last.
    #[must_use]
    pub fn views(&self, namespace: &str) -> Vec<(String, ClusterView)> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views
            .iter()
            .filter(|((of, _), _)| of == namespace)
            .map(|((_, name), view)| (name.clone(), view.clone()))
            .collect()
    }
}
