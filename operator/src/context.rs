//! What every reconciler works with: the client, what was watched, what the sidecars said last, and who is to look again.
//!
//! One context for each scope (all of Kubernetes, or one namespace). Invariant: Secrets other than those that are referred to are
//! known by name and version only, and never fetched.

use crate::anchors::Keeper;
use crate::cluster::{drain, volumes};
use crate::metrics::{Alarm, Metrics};
use crate::options::Options;
use cartulary_compliance::status::EndpointStatus;
use cartulary_crds::{ArchiveEndpoint, XmppCluster};
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
    /// The Secrets, without their content.
    pub secrets: Store<PartialObjectMeta<Secret>>,
    /// The pods under compliance.
    pub pods: Store<Pod>,
    /// The claims that hold journals.
    pub claims: Store<PartialObjectMeta<PersistentVolumeClaim>>,
    /// The Jobs that drain journals.
    pub jobs: Store<Job>,
}

/// What the sidecars of one XMPPCluster said last of their endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterView {
    /// The endpoints it uses.
    pub endpoints: Vec<String>,
    /// For each pod that answered, its endpoints by name.
    pub nodes: BTreeMap<String, BTreeMap<String, EndpointStatus>>,
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

    /// Remembers what the sidecars of a cluster said; the endpoints it concerns are looked at again if it is something new.
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
