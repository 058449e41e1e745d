//! Watches everything one scope needs and says who is to be looked at again.
//!
//! Invariants: nothing is reconciled before every store is filled; what only the operator itself changes (a status) triggers
//! nobody; a relist triggers everybody once, since changes may have been missed.

use crate::cluster;
use crate::context::{Context, Stores};
use crate::endpoint;
use crate::endpoint::resolve::secret_names;
use crate::metrics::{Metrics, Reconcile};
use crate::options::Options;
use crate::{profile, server};
use cartulary_compliance::names::label;
use cartulary_compliance::profile::SYSTEM_DEFAULT_RESOURCE;
use cartulary_crds::{ArchiveEndpoint, ComplianceServer, Profile, XmppCluster};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::PartialObjectMeta;
use kube::core::NamespaceResourceScope;
use kube::runtime::controller::{Action, Config, ReconcileRequest, applier};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store, reflector, store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// Several changes at once are answered by one look.
const DEBOUNCE: Duration = Duration::from_millis(100);
const CONCURRENT: u16 = 32;
const RETRY: Duration = Duration::from_secs(5);

/// Looks after one scope, until the future is dropped. `ready` is called once everything is known.
pub async fn run(
    scope: Option<String>,
    client: Client,
    options: Options,
    metrics: Arc<Metrics>,
    ready: impl FnOnce(),
) {
    let (clusters, clusters_writer) = store();
    let (endpoints, endpoints_writer) = store();
    let (servers, servers_writer) = store();
    let (profiles, profiles_writer) = store();
    let (secrets, secrets_writer) = store();
    let (pods, pods_writer) = store();
    let (claims, claims_writer) = store();
    let (jobs, jobs_writer) = store();
    let (cluster_sender, cluster_queue) = unbounded();
    let (endpoint_sender, endpoint_queue) = unbounded();
    let (server_sender, server_queue) = unbounded();
    let (profile_sender, profile_queue) = unbounded();
    let trigger = Trigger {
        clusters: cluster_sender.clone(),
        endpoints: endpoint_sender.clone(),
        servers: server_sender.clone(),
        profiles: profile_sender.clone(),
        known_clusters: clusters.clone(),
        known_endpoints: endpoints.clone(),
        known_servers: servers.clone(),
        known_profiles: profiles.clone(),
    };
    let recorder = Recorder::new(
        client.clone(),
        Reporter { controller: "cartulary-operator".to_owned(), instance: std::env::var("POD_NAME").ok() },
    );
    let http = http_client();
    let watched = Stores {
        clusters: clusters.clone(),
        endpoints: endpoints.clone(),
        servers: servers.clone(),
        profiles: profiles.clone(),
        secrets,
        pods,
        claims,
        jobs,
    };
    let context = Arc::new(Context::new(
        client.clone(),
        options,
        watched,
        recorder,
        http,
        metrics,
        cluster_sender,
        endpoint_sender,
        server_sender,
        profile_sender,
    ));

    let everything = watcher::Config::default();
    let labelled = watcher::Config::default().labels(label::CLUSTER);
    let (mut cluster_generations, mut endpoint_generations) =
        (Generations::default(), Generations::default());
    let (view, of_cluster, of_endpoint) = (context.clone(), trigger.clone(), trigger.clone());
    let (of_secret, of_pod, of_claim) = (trigger.clone(), trigger.clone(), trigger.clone());
    let cluster_api = api::<XmppCluster>(&client, &scope);
    let (mut server_generations, mut profile_generations) = (Generations::default(), Generations::default());
    let (of_server, of_profile) = (trigger.clone(), trigger.clone());
    let asking = futures::future::join(
        follow(
            api(&client, &scope),
            everything.clone(),
            servers_writer,
            trigger.clone(),
            move |server, gone| {
                if gone || server_generations.changed(server) {
                    of_server.server(server);
                }
                if gone {
                    of_server.system_default(server.namespace());
                }
            },
        ),
        follow(
            api(&client, &scope),
            everything.clone(),
            profiles_writer,
            trigger.clone(),
            move |profile, gone| {
                if gone || profile_generations.changed(profile) {
                    of_profile.profile(profile);
                }
            },
        ),
    );
    let of_job = trigger.clone();
    let draining = follow(
        api(&client, &scope),
        watcher::Config::default().labels(label::DRAIN),
        jobs_writer,
        trigger.clone(),
        move |job: &Job, _| of_job.owned(job),
    );
    let watching = futures::future::join5(
        follow(
            cluster_api,
            everything.clone(),
            clusters_writer,
            trigger.clone(),
            move |cluster: &XmppCluster, gone| {
                if gone {
                    let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
                    view.observe(&namespace, &name, None);
                    view.show(&namespace, &name, Vec::new());
                    of_cluster.system_default(Some(namespace));
                } else if cluster_generations.changed(cluster) {
                    of_cluster.cluster(ObjectRef::from_obj(cluster));
                }
            },
        ),
        follow(
            api(&client, &scope),
            everything.clone(),
            endpoints_writer,
            trigger.clone(),
            move |endpoint, gone| {
                if gone || endpoint_generations.changed(endpoint) {
                    of_endpoint.endpoint(endpoint);
                }
            },
        ),
        follow(
            api(&client, &scope),
            everything.clone(),
            secrets_writer,
            trigger.clone(),
            move |secret, _| of_secret.secret(secret),
        ),
        follow(api(&client, &scope), labelled, pods_writer, trigger.clone(), move |pod: &Pod, _| {
            of_pod.labelled(pod)
        }),
        follow(api(&client, &scope), everything, claims_writer, trigger, move |claim, _| {
            of_claim.labelled(claim)
        }),
    );
    let working = async {
        let stores = &context.stores;
        // The writers live as long as the watches beside us, so waiting can only end well.
        let _ = stores.clusters.wait_until_ready().await;
        let _ = stores.endpoints.wait_until_ready().await;
        let _ = stores.servers.wait_until_ready().await;
        let _ = stores.profiles.wait_until_ready().await;
        let _ = stores.secrets.wait_until_ready().await;
        let _ = stores.pods.wait_until_ready().await;
        let _ = stores.claims.wait_until_ready().await;
        let _ = stores.jobs.wait_until_ready().await;
        tracing::info!(scope, clusters = clusters.len(), "everything is known, looking after it");
        ready();
        futures::join!(
            work(applier(
                |cluster, context| Box::pin(counted("XMPPCluster", context, |context| cluster::reconcile(
                    cluster, context
                ))),
                |_, error, _| retry(error),
                context.clone(),
                clusters,
                queue(cluster_queue),
                Config::default().debounce(DEBOUNCE).concurrency(CONCURRENT),
            )),
            work(applier(
                |endpoint, context| Box::pin(counted("ArchiveEndpoint", context, |context| {
                    endpoint::reconcile(endpoint, context)
                })),
                |_, error, _| retry(error),
                context.clone(),
                endpoints,
                queue(endpoint_queue),
                Config::default().debounce(DEBOUNCE).concurrency(CONCURRENT),
            )),
            work(applier(
                |found, context| Box::pin(counted("ComplianceServer", context, |context| server::reconcile(
                    found, context
                ))),
                |_, error, _| retry(error),
                context.clone(),
                servers,
                queue(server_queue),
                Config::default().debounce(DEBOUNCE).concurrency(CONCURRENT),
            )),
            work(applier(
                |found, context| Box::pin(counted("Profile", context, |context| profile::reconcile(
                    found, context
                ))),
                |_, error, _| retry(error),
                context.clone(),
                profiles,
                queue(profile_queue),
                Config::default().debounce(DEBOUNCE).concurrency(CONCURRENT),
            )),
        );
    };
    futures::join!(watching, asking, draining, working);
}

/// Asks sidecars: never through a proxy, never somewhere else than at the pod.
fn http_client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_idle_timeout(Duration::from_secs(30))
        .build()
        .expect("nothing in it depends on the machine")
}

fn api<K>(client: &Client, scope: &Option<String>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Keeps a store up to date and tells of each change; of a relist as a whole.
async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    writer: Writer<K>,
    trigger: Trigger,
    mut changed: impl FnMut(&K, bool),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let objects = watch(api, config).default_backoff().modify(|object| {
        // Half of what an object takes, and nothing here reads it.
        object.meta_mut().managed_fields = None;
    });
    let mut events = std::pin::pin!(reflector(writer, objects));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object)) => changed(&object, false),
            Ok(Event::Delete(object)) => changed(&object, true),
            Ok(Event::InitDone) => trigger.everything(),
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => {
                tracing::warn!(kind = %K::kind(&K::DynamicType::default()), %error, "a watch was interrupted, going on")
            }
        }
    }
}

/// Which generations were seen, so that a status that was written triggers nobody.
#[derive(Default)]
struct Generations(HashMap<String, i64>);

impl Generations {
    fn changed<K: Resource>(&mut self, object: &K) -> bool {
        let generation = object.meta().generation.unwrap_or_default();
        let deleting = object.meta().deletion_timestamp.is_some();
        deleting
            || self.0.insert(object.meta().uid.clone().unwrap_or_default(), generation) != Some(generation)
    }
}

/// Who is to be looked at again.
#[derive(Clone)]
struct Trigger {
    clusters: UnboundedSender<ReconcileRequest<XmppCluster>>,
    endpoints: UnboundedSender<ReconcileRequest<ArchiveEndpoint>>,
    servers: UnboundedSender<ReconcileRequest<ComplianceServer>>,
    profiles: UnboundedSender<ReconcileRequest<Profile>>,
    known_clusters: Store<XmppCluster>,
    known_endpoints: Store<ArchiveEndpoint>,
    known_servers: Store<ComplianceServer>,
    known_profiles: Store<Profile>,
}

impl Trigger {
    // The receivers are gone only while the operator is shutting down: what cannot be sent then is not missed.

    fn cluster(&self, cluster: ObjectRef<XmppCluster>) {
        let _ = self.clusters.unbounded_send(cluster.into());
    }

    /// The cluster named by an object's label.
    fn labelled<K: Resource>(&self, object: &K) {
        if let (Some(cluster), Some(namespace)) = (object.labels().get(label::CLUSTER), object.namespace()) {
            let cluster = ObjectRef::new(cluster).within(&namespace);
            // Labels may name what does not exist.
            if self.known_clusters.get(&cluster).is_some() {
                self.cluster(cluster);
            }
        }
    }

    /// The cluster that owns an object.
    fn owned<K: Resource>(&self, object: &K) {
        let owners = object.owner_references().iter().filter(|owner| owner.kind == XmppCluster::kind(&()));
        for owner in owners {
            let cluster = ObjectRef::new(&owner.name).within(&object.namespace().unwrap_or_default());
            if self.known_clusters.get(&cluster).is_some() {
                self.cluster(cluster);
            }
        }
    }

    /// An endpoint, and the clusters of its namespace: any of them may use it, or want to.
    fn endpoint(&self, endpoint: &ArchiveEndpoint) {
        let reference = ObjectRef::from_obj(endpoint);
        if self.known_endpoints.get(&reference).is_some() {
            let _ = self.endpoints.unbounded_send(reference.into());
        }
        self.clusters_in(&endpoint.namespace());
    }

    fn clusters_in(&self, namespace: &Option<String>) {
        for cluster in self.known_clusters.state_filter(|cluster| cluster.namespace() == *namespace) {
            self.cluster(ObjectRef::from_obj(&*cluster));
        }
    }

    /// A server, and the clusters of its namespace.
    fn server(&self, server: &ComplianceServer) {
        let reference = ObjectRef::from_obj(server);
        if self.known_servers.get(&reference).is_some() {
            let _ = self.servers.unbounded_send(reference.into());
        }
        self.clusters_in(&server.namespace());
    }

    /// A profile, the others of its namespace, which may go by its name, and the clusters.
    fn profile(&self, profile: &Profile) {
        for other in self.known_profiles.state_filter(|other| other.namespace() == profile.namespace()) {
            let _ = self.profiles.unbounded_send(ObjectRef::from_obj(&*other).into());
        }
        self.clusters_in(&profile.namespace());
        // Where there is no cluster, a server's look brings back what somebody has taken away.
        if profile.name_any() == SYSTEM_DEFAULT_RESOURCE {
            for server in self.known_servers.state_filter(|server| server.namespace() == profile.namespace())
            {
                let _ = self.servers.unbounded_send(ObjectRef::from_obj(&*server).into());
            }
        }
    }

    /// The profile that may have become superfluous.
    fn system_default(&self, namespace: Option<String>) {
        let profile = ObjectRef::new(SYSTEM_DEFAULT_RESOURCE).within(&namespace.unwrap_or_default());
        if self.known_profiles.get(&profile).is_some() {
            let _ = self.profiles.unbounded_send(profile.into());
        }
    }

    /// Whoever refers to a Secret, or had it made.
    fn secret(&self, secret: &PartialObjectMeta<Secret>) {
        let name = secret.name_any();
        let here = secret.namespace();
        for endpoint in self.known_endpoints.state_filter(|endpoint| endpoint.namespace() == here) {
            if secret_names(&endpoint).contains(&name) {
                self.endpoint(&endpoint);
            }
        }
        for server in self.known_servers.state_filter(|server| server.namespace() == here) {
            if server::resolve::secret_names(&server).contains(&name) {
                self.server(&server);
            }
        }
        for cluster in self.known_clusters.state_filter(|cluster| cluster.namespace() == here) {
            if crate::inject::parts::config_secret(&cluster.name_any()) == name {
                self.cluster(ObjectRef::from_obj(&*cluster));
            }
        }
    }

    fn everything(&self) {
        for cluster in self.known_clusters.state() {
            self.cluster(ObjectRef::from_obj(&*cluster));
        }
        for endpoint in self.known_endpoints.state() {
            let _ = self.endpoints.unbounded_send(ObjectRef::from_obj(&*endpoint).into());
        }
        for server in self.known_servers.state() {
            let _ = self.servers.unbounded_send(ObjectRef::from_obj(&*server).into());
        }
        for profile in self.known_profiles.state() {
            let _ = self.profiles.unbounded_send(ObjectRef::from_obj(&*profile).into());
        }
    }
}

fn queue<K: Resource>(
    receiver: UnboundedReceiver<ReconcileRequest<K>>,
) -> impl Stream<Item = Result<ReconcileRequest<K>, Infallible>> {
    receiver.map(Ok)
}

async fn counted<F>(
    kind: &'static str,
    context: Arc<Context>,
    reconcile: impl FnOnce(Arc<Context>) -> F,
) -> Result<Action, kube::Error>
where
    F: Future<Output = Result<Action, kube::Error>>,
{
    let metrics = context.metrics.clone();
    let result = reconcile(context).await;
    let label = if result.is_ok() { "ok" } else { "error" };
    metrics.reconciles.get_or_create(&Reconcile { kind, result: label }).inc();
    result
}

fn retry(error: &kube::Error) -> Action {
    tracing::warn!(%error, "reconciling failed, trying again in {} seconds", RETRY.as_secs());
    Action::requeue(RETRY)
}

async fn work<T, E: std::error::Error>(results: impl Stream<Item = Result<T, E>>) {
    // Failures are logged where they are retried; what is left is objects that are gone, which is nothing to tell.
    results
        .inspect_err(|error| tracing::debug!(%error, "a reconciliation ended"))
        .for_each(|_| async {})
        .await;
}
