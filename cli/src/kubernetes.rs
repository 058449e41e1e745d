//! What the command line reads of a Kubernetes cluster: XMPPClusters, pods, what their sidecars say, and the output of our own
//! binary run in them. Everything happens with the caller's rights; nothing is changed.

use crate::args::KubeArgs;
use anyhow::{Context, anyhow, bail};
use cartulary_compliance::names::{ADMIN_PORT, SIDECAR_CONTAINER, label};
use cartulary_compliance::status::SidecarStatus;
use cartulary_crds::{GROUP, VERSION};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, ApiResource, AttachParams, DynamicObject, GroupVersionKind, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// How long one sidecar may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Of what a remote command complains, so much is shown.
const COMPLAINT: u64 = 16 * 1024;

/// A Kubernetes cluster and the namespace looked at.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    /// The namespace commands look at.
    pub namespace: String,
}

impl Kubernetes {
    /// Connects as the kubeconfig (or the pod's service account) says.
    pub async fn connect(args: &KubeArgs) -> anyhow::Result<Self> {
        let config = match &args.context {
            Some(context) => {
                let kubeconfig = Kubeconfig::read().context("cannot read the kubeconfig")?;
                let options = KubeConfigOptions { context: Some(context.clone()), ..Default::default() };
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .with_context(|| format!("the kubeconfig's context '{context}' cannot be used"))?
            }
            None => Config::infer().await.context(
                "no Kubernetes cluster is known here: set KUBECONFIG, or name an archive with --archive",
            )?,
        };
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("cannot make a connection to the Kubernetes API")?;
        Ok(Self { client, namespace })
    }

    /// Objects of one of our kinds, in `namespace` or everywhere. They are read untyped, so that a tool older than the cluster still
    /// shows what it knows.
    pub async fn list(&self, kind: &str, everywhere: bool) -> anyhow::Result<Vec<DynamicObject>> {
        let api = self.ours(kind, everywhere);
        let list = api.list(&ListParams::default()).await.map_err(|error| explain(error, kind))?;
        Ok(list.items)
    }

    /// One object of one of our kinds.
    pub async fn named(&self, kind: &str, name: &str) -> anyhow::Result<Option<DynamicObject>> {
        self.ours(kind, false).get_opt(name).await.map_err(|error| explain(error, kind))
    }

    /// The XMPPCluster meant: the one named, or the only one.
    pub async fn cluster(&self, name: Option<&str>) -> anyhow::Result<DynamicObject> {
        if let Some(name) = name {
            return self.named("XMPPCluster", name).await?.ok_or_else(|| {
                anyhow!("there is no XMPPCluster '{name}' in namespace '{}'", self.namespace)
            });
        }
        let mut all = self.list("XMPPCluster", false).await?;
        match all.len() {
            1 => Ok(all.remove(0)),
            0 => bail!(
                "there is no XMPPCluster in namespace '{}': give another one with -n, or an archive with --archive",
                self.namespace
            ),
            _ => bail!(
                "namespace '{}' has several XMPPClusters, give one with --cluster: {}",
                self.namespace,
                all.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// The pods under compliance of a cluster, by name.
    pub async fn pods(&self, namespace: &str, cluster: &str) -> anyhow::Result<Vec<Pod>> {
        let labelled = ListParams::default().labels(&format!("{}={cluster}", label::CLUSTER));
        let mut pods = Api::<Pod>::namespaced(self.client.clone(), namespace)
            .list(&labelled)
            .await
            .map_err(|error| explain(error, "Pod"))?
            .items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// ConfigMaps with these labels, in any namespace.
    pub async fn config_maps(&self, namespace: &str, labels: &str) -> anyhow::Result<Vec<ConfigMap>> {
        let mut maps = Api::<ConfigMap>::namespaced(self.client.clone(), namespace)
            .list(&ListParams::default().labels(labels))
            .await
            .map_err(|error| explain(error, "ConfigMap"))?
            .items;
        maps.sort_by_key(ResourceExt::name_any);
        Ok(maps)
    }

    /// What a pod's sidecar says of itself.
    pub async fn sidecar_status(&self, pod: &Pod) -> anyhow::Result<SidecarStatus> {
        let answer = self.ask_sidecar(pod, http::Method::GET, "status").await?;
        serde_json::from_str(&answer).context("the sidecar's status cannot be read: it is of another version")
    }

    /// One request to a sidecar's admin port, through the API server's proxy: needs `get` on `pods/proxy`, for POST `create`.
    pub async fn ask_sidecar(&self, pod: &Pod, method: http::Method, path: &str) -> anyhow::Result<String> {
        sidecar_runs(pod)?;
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let uri = format!("/api/v1/namespaces/{namespace}/pods/http:{name}:{ADMIN_PORT}/proxy/{path}");
        let request = http::Request::builder().method(method).uri(uri).body(Vec::new())?;
        tokio::time::timeout(ANSWER, self.client.request_text(request))
            .await
            .map_err(|_| anyhow!("the sidecar does not answer within {} s", ANSWER.as_secs()))?
            .map_err(|error| match error {
                kube::Error::Api(status) if status.code == 403 => {
                    anyhow!("you may not ask the sidecar: it needs a right on pods/proxy")
                }
                kube::Error::Api(status) if status.code == 404 => {
                    anyhow!("the sidecar does not know /{path}: it is of another version")
                }
                kube::Error::Api(status) => anyhow!("the sidecar cannot be reached: {}", status.message),
                error => anyhow!("the sidecar cannot be reached: {error}"),
            })
    }

    /// Runs our binary in a pod's sidecar, with `input` as its standard input. Needs `get` or `create` on `pods/exec`: which one depends on the version of Kubernetes.
    pub async fn run_in_sidecar(
        &self,
        pod: &Pod,
        command: &[String],
        input: Option<Vec<u8>>,
    ) -> anyhow::Result<Remote> {
        sidecar_runs(pod)?;
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let params = AttachParams::default()
            .container(SIDECAR_CONTAINER)
            .stdin(input.is_some())
            .stdout(true)
            .stderr(true);
        let mut process = api
            .exec(&pod.name_any(), command, &params)
            .await
            .with_context(|| format!("cannot run '{}' in the sidecar", command.join(" ")))?;
        let (Some(stdout), Some(stderr), Some(status)) =
            (process.stdout(), process.stderr(), process.take_status())
        else {
            bail!("the API server gave no output of the command in the sidecar");
        };
        if let (Some(input), Some(mut stdin)) = (input, process.stdin()) {
            // What cannot be written, the command complains of; not every server passes the end of it on, so nobody waits for one.
            tokio::spawn(async move {
                let _ = stdin.write_all(&input).await;
                let _ = stdin.flush().await;
            });
        }
        let complaint = tokio::spawn(async move {
            let mut text = String::new();
            let mut stderr = stderr;
            // Only the beginning is kept, but all of it is read: a full pipe would stop the command.
            let _ = (&mut stderr).take(COMPLAINT).read_to_string(&mut text).await;
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            text
        });
        let end = tokio::spawn(async move {
            let status = status.await;
            drop(process);
            (exit_code(status.as_ref()), complaint.await.unwrap_or_default())
        });
        Ok(Remote { stdout: Box::new(stdout), end: End(end) })
    }

    fn ours(&self, kind: &str, everywhere: bool) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, kind));
        if everywhere {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        }
    }
}

/// A command running in a pod.
pub struct Remote {
    stdout: Box<dyn AsyncRead + Send + Unpin>,
    end: End,
}

/// The end of a command that runs in a pod.
pub struct End(tokio::task::JoinHandle<(Option<i32>, String)>);

impl Remote {
    /// Its output, and its end, to be waited for when all output was read.
    pub fn split(self) -> (Box<dyn AsyncRead + Send + Unpin>, End) {
        (self.stdout, self.end)
    }
}

impl End {
    /// The exit code (`None` when the connection was lost), and what the command complained of.
    pub async fn wait(self) -> anyhow::Result<(Option<i32>, String)> {
        Ok(self.0.await?)
    }
}

fn exit_code(status: Option<&Status>) -> Option<i32> {
    let status = status?;
    if status.status.as_deref() == Some("Success") {
        return Some(0);
    }
    let causes = status.details.as_ref()?.causes.as_ref()?;
    causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"))?.message.as_ref()?.parse().ok()
}

/// Fails with the reason when a pod has no running sidecar.
fn sidecar_runs(pod: &Pod) -> anyhow::Result<()> {
    let spec = pod.spec.as_ref();
    let has = spec
        .and_then(|spec| spec.init_containers.as_ref())
        .is_some_and(|containers| containers.iter().any(|container| container.name == SIDECAR_CONTAINER));
    if !has {
        bail!(
            "the pod runs without our sidecar: it was created before the label or past the webhook; delete it, its controller makes a recorded one"
        );
    }
    let state = pod
        .status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_ref())
        .and_then(|statuses| statuses.iter().find(|status| status.name == SIDECAR_CONTAINER))
        .and_then(|status| status.state.as_ref());
    if state.is_some_and(|state| state.running.is_some()) {
        return Ok(());
    }
    let reason = state
        .and_then(|state| {
            let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
            waiting.or_else(|| state.terminated.as_ref().and_then(|terminated| terminated.reason.clone()))
        })
        .unwrap_or_else(|| "it was not started yet".to_owned());
    bail!("the sidecar does not run: {reason}")
}

fn explain(error: kube::Error, kind: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            anyhow!("you may not read {kind} objects here: {}", status.message)
        }
        kube::Error::Api(status) if status.code == 404 => {
            anyhow!("this Kubernetes cluster does not know the kind {kind}: is Cartulary's chart installed?")
        }
        error => anyhow!("cannot read {kind} objects: {error}"),
    }
}
