//! A real API server with our kinds, the operator running beside it with the chart's own rights, and sidecars that say what a
//! test wants. Pods are never started: a test writes the status a kubelet would.

use anyhow::{Context, Result, bail, ensure};
use axum::Router;
use axum::routing::get;
use cartulary_compliance::status::SidecarStatus;
use cartulary_crds::{ArchiveEndpoint, ComplianceServer, Profile, XmppCluster};
use cartulary_operator::options::Options;
use cartulary_operator::{Listeners, run_on};
use clap::Parser;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{DynamicObject, NamespaceResourceScope};
use kube::discovery::{ApiResource, Discovery};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt::Debug;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Far more than anything takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// Whoever runs these tests twice at once gives the second run another name: the first to end takes the cluster with it.
static NAME: LazyLock<String> =
    LazyLock::new(|| std::env::var("CARTULARY_TEST_CLUSTER").unwrap_or_else(|_| "operator-tests".to_owned()));

/// The API server; it goes with the last test that uses it.
pub struct ControlPlane {
    kubeconfig: PathBuf,
}

static RUNNING: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());

impl ControlPlane {
    fn start() -> Arc<Self> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plane) = running.upgrade() {
            return plane;
        }
        let kubeconfig = harness(&["up", &NAME, "--control-plane"])
            .expect("the test cluster: tests/cluster/setup makes it");
        let plane = Arc::new(Self { kubeconfig: kubeconfig.lines().last().unwrap_or_default().into() });
        *running = Arc::downgrade(&plane);
        plane
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Nobody starts another one of the same name meanwhile.
        let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = harness(&["down", &NAME]) {
            eprintln!("{error:#}");
        }
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a script of the harness. A cluster of the user's own cannot call webhooks on this machine, so it is not used here.
fn harness(words: &[&str]) -> Result<String> {
    let script = repository().join("tests/cluster").join(words[0]);
    let output = Command::new(&script)
        .args(&words[1..])
        .env_remove("CLUSTER_KUBECONFIG")
        .output()
        .with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A namespace with an operator of its own.
pub struct World {
    /// As the cluster's administrator.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
    /// The port on which the operator asks sidecars.
    pub status_port: u16,
    health: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
    plane: Arc<ControlPlane>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl World {
    /// Installs the chart for a namespace called after the test, with the webhooks' addresses here, and starts the operator as
    /// the chart's service account.
    pub async fn start(test: &str) -> Result<Self> {
        Self::start_with(test, &[]).await
    }

    /// [`Self::start`] with further words on the operator's command line.
    pub async fn start_with(test: &str, words: &[&str]) -> Result<Self> {
        let webhook = TcpListener::bind("127.0.0.1:0").await?;
        let world = Self::without_operator(test, webhook.local_addr()?.port()).await?;
        world.operate_on(webhook, words).await
    }

    /// Starts the operator where nobody asks its webhooks.
    pub async fn operate(self, words: &[&str]) -> Result<Self> {
        self.operate_on(TcpListener::bind("127.0.0.1:0").await?, words).await
    }

    async fn operate_on(self, webhook: TcpListener, words: &[&str]) -> Result<Self> {
        let mut world = self;
        let listeners = Listeners { webhook, health: TcpListener::bind("127.0.0.1:0").await? };
        let health = listeners.health.local_addr()?;
        let options =
            Options::parse_from(world.arguments().iter().map(String::as_str).chain(words.iter().copied()));
        let client = client(&world.plane, Some(world.account())).await?;
        let operator = tokio::spawn(async {
            let ended = run_on(listeners, options, client, std::future::pending()).await;
            panic!("the operator ended: {ended:?}");
        });
        until("the operator is ready", || async {
            if operator.is_finished() {
                bail!("the operator ended");
            }
            let answer = reqwest::get(format!("http://{health}/readyz")).await?;
            Ok(answer.status().is_success().then_some(()))
        })
        .await?;
        world.tasks.push(operator);
        world.health = Some(health);
        Ok(world)
    }

    /// A namespace with the chart and no operator. Its webhooks are expected at the port.
    pub async fn without_operator(test: &str, webhook: u16) -> Result<Self> {
        let plane = tokio::task::spawn_blocking(ControlPlane::start).await?;
        let client = client(&plane, None).await?;
        let namespace = test.to_owned();
        let object: Namespace = serde_json::from_value(json!({ "metadata": { "name": namespace } }))?;
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object).await?;
        install(&client, &namespace, webhook).await?;
        let status_port = free_port().await?;
        Ok(Self { client, namespace, status_port, health: None, tasks: Vec::new(), plane })
    }

    /// The operator's command line.
    pub fn arguments(&self) -> Vec<String> {
        let namespace = &self.namespace;
        vec![
            "cartulary-operator".to_owned(),
            "--sidecar-image=localhost/cartulary:test".to_owned(),
            format!("--namespace={namespace}"),
            format!("--watch-namespaces={namespace}"),
            format!("--webhook-configuration={namespace}-cartulary-{namespace}"),
            "--webhook-hosts=127.0.0.1".to_owned(),
            format!("--status-port={}", self.status_port),
            "--poll-seconds=1".to_owned(),
            "--lease-seconds=3".to_owned(),
        ]
    }

    /// Name of the webhooks' configurations and of the policy.
    pub fn webhooks(&self) -> String {
        format!("{0}-cartulary-{0}", self.namespace)
    }

    /// What a scraper reads of the operator.
    pub async fn metrics(&self) -> Result<String> {
        let health = self.health.context("there is no operator")?;
        Ok(reqwest::get(format!("http://{health}/metrics")).await?.text().await?)
    }

    /// The chart's service account.
    pub fn account(&self) -> String {
        format!("system:serviceaccount:{0}:{0}-cartulary", self.namespace)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.plane.kubeconfig
    }

    /// The namespace's objects of one kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object.
    pub async fn create<K>(&self, object: Value) -> Result<K, kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        let object: K = serde_json::from_value(object).expect("a manifest of this kind");
        self.api().create(&PostParams::default(), &object).await
    }

    /// Creates the XMPPCluster `chat`.
    pub async fn cluster(&self, spec: Value) -> Result<XmppCluster, kube::Error> {
        let mut spec = spec;
        spec["server"] = json!("Prosody");
        self.create(manifest("XMPPCluster", "chat", spec)).await
    }

    /// Creates an ArchiveEndpoint.
    pub async fn endpoint(&self, name: &str, spec: Value) -> Result<ArchiveEndpoint, kube::Error> {
        self.create(manifest("ArchiveEndpoint", name, spec)).await
    }

    /// Creates a pod of the cluster `chat`.
    pub async fn pod(&self, name: &str) -> Result<Pod, kube::Error> {
        let mut pod = template();
        pod["metadata"]["name"] = json!(name);
        self.create(pod).await
    }

    /// Creates a StatefulSet of the cluster `chat`, and waits for its pod `prosody-0`.
    pub async fn stateful_set(&self) -> Result<()> {
        let set = json!({
            "metadata": { "name": "prosody" },
            "spec": {
                "serviceName": "prosody",
                "selector": { "matchLabels": { "cartulary.dev/cluster": "chat" } },
                "template": template(),
            },
        });
        self.create::<StatefulSet>(set).await?;
        let pods = self.api::<Pod>();
        until("the pod is made", || async { Ok(pods.get_opt("prosody-0").await?.map(|_| ())) }).await
    }

    /// Writes what a kubelet would write of a pod that runs.
    pub async fn runs(&self, pod: &str) -> Result<()> {
        let status = json!({ "status": { "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{ "ip": "127.0.0.1" }] } });
        self.api::<Pod>().patch_status(pod, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// A sidecar that answers the operator, and counts how often it was asked.
    pub async fn sidecar(&mut self, status: SidecarStatus) -> Result<FakeSidecar> {
        let sidecar = FakeSidecar { status: Arc::new(Mutex::new(status)), asked: Arc::default() };
        let listener = TcpListener::bind(("127.0.0.1", self.status_port)).await?;
        let answering = sidecar.clone();
        let answer = move || async move {
            answering.asked.fetch_add(1, Ordering::Relaxed);
            axum::Json(answering.status.lock().unwrap_or_else(PoisonError::into_inner).clone())
        };
        let router = Router::new().route("/status", get(answer));
        self.tasks.push(tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        }));
        Ok(sidecar)
    }

    /// Waits until the condition has the status and the reason.
    pub async fn condition<K>(&self, name: &str, kind: &str, status: &str, reason: &str) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Serialize
            + Debug,
    {
        let api = self.api::<K>();
        let last = Mutex::new(Value::Null);
        let reached = until("the condition", || async {
            let object = serde_json::to_value(api.get(name).await?)?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found =
                conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
            let fits = found["status"] == status && found["reason"] == reason;
            *last.lock().unwrap_or_else(PoisonError::into_inner) = found;
            Ok(fits.then_some(()))
        });
        reached.await.with_context(|| {
            let last = last.lock().unwrap_or_else(PoisonError::into_inner);
            format!("{kind}={status}/{reason} of {name}; last seen: {last}")
        })
    }

    /// What kubectl prints when it is given `input`, warnings included.
    pub fn kubectl(&self, words: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(repository().join("tests/cluster/kubectl"));
        command.args([&NAME, "-n", &self.namespace]).args(words).env_remove("CLUSTER_KUBECONFIG");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a pipe")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        ensure!(output.status.success(), "{words:?}: {said}");
        Ok(said)
    }

    /// Deletes an object and waits until it is gone.
    pub async fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api = self.api::<K>();
        api.delete(name, &DeleteParams::default().grace_period(0)).await?;
        until("it is gone", || async { Ok(api.get_opt(name).await?.is_none().then_some(())) }).await
    }
}

/// A sidecar's status port.
#[derive(Clone)]
pub struct FakeSidecar {
    status: Arc<Mutex<SidecarStatus>>,
    asked: Arc<AtomicU64>,
}

impl FakeSidecar {
    /// Says something else from now on.
    pub fn change(&self, change: impl FnOnce(&mut SidecarStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits until it was asked so many times more.
    pub async fn asked(&self, times: u64) -> Result<()> {
        let before = self.asked.load(Ordering::Relaxed);
        until("it is asked", || async {
            Ok((self.asked.load(Ordering::Relaxed) >= before + times).then_some(()))
        })
        .await
    }
}

fn template() -> Value {
    json!({
        "metadata": { "labels": { "cartulary.dev/cluster": "chat" } },
        "spec": { "containers": [{ "name": "prosody", "image": "localhost/prosody:13" }] },
    })
}

/// A port that nobody listens on.
pub async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

/// An object of ours.
pub fn manifest(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "cartulary.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// Tries again until there is something, or the deadline has passed.
pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    let begin = Instant::now();
    loop {
        let last = match attempt().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if begin.elapsed() > DEADLINE {
            bail!("waited in vain until {what}: {last:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The administrator's client, or one that acts as `account`.
async fn client(plane: &ControlPlane, account: Option<String>) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(&plane.kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = account;
    Ok(Client::try_from(config)?)
}

/// The chart's objects as Helm renders them for a release and a namespace of one name; an error with what Helm says.
pub fn render(namespace: &str, values: &[&str]) -> Result<Vec<Value>> {
    let script = r#"eval "$("$1/tests/cluster/env" "$2")" && helm template "$3" "$1/charts/cartulary" --namespace "$3" "${@:4}""#;
    let root = repository();
    let output = Command::new("bash")
        .args(["-euc", script, "bash", &root.display().to_string(), &NAME, namespace])
        .args(values.iter().flat_map(|value| ["--set-json", value]))
        .env_remove("CLUSTER_KUBECONFIG")
        .output()?;
    ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let objects = documents.map(<Value as serde::Deserialize>::deserialize).collect::<Result<Vec<_>, _>>()?;
    Ok(objects.into_iter().filter(Value::is_object).collect())
}

/// Applies the chart, but for what would need pods.
async fn install(client: &Client, namespace: &str, webhook_port: u16) -> Result<()> {
    let mut objects = render(namespace, &[&format!(r#"watchNamespaces=["{namespace}"]"#)])?;
    // The kinds first, so that the API server serves them by the time they are used.
    objects.sort_by_key(|object| object["kind"] != "CustomResourceDefinition");
    let discovery = Discovery::new(client.clone()).run().await?;
    for mut object in objects.into_iter().filter(|object| object["kind"] != "Deployment") {
        for webhook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
            let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap_or_default().to_owned();
            webhook["clientConfig"] = json!({ "url": format!("https://127.0.0.1:{webhook_port}{path}") });
        }
        apply(client, &discovery, object).await?;
    }
    until("our kinds are served", || async {
        let served = is_served::<XmppCluster>(client, namespace).await
            && is_served::<ArchiveEndpoint>(client, namespace).await
            && is_served::<ComplianceServer>(client, namespace).await
            && is_served::<Profile>(client, namespace).await;
        Ok(served.then_some(()))
    })
    .await
}

async fn is_served<K>(client: &Client, namespace: &str) -> bool
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    Api::<K>::namespaced(client.clone(), namespace).list(&Default::default()).await.is_ok()
}

async fn apply(client: &Client, discovery: &Discovery, object: Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let types = object.types.clone().context("a manifest has a kind")?;
    let kind = (&types).try_into().map_err(|_| anyhow::anyhow!("{types:?}"))?;
    let (resource, capabilities): (ApiResource, _) =
        discovery.resolve_gvk(&kind).with_context(|| format!("{types:?}"))?;
    let api: Api<DynamicObject> = match (&capabilities.scope, object.namespace()) {
        (kube::discovery::Scope::Namespaced, Some(namespace)) => {
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
        _ => Api::all_with(client.clone(), &resource),
    };
    api.patch(&object.name_any(), &PatchParams::apply("helm").force(), &Patch::Apply(&object)).await?;
    Ok(())
}
