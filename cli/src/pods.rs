//! The archives of an XMPPCluster's pods: which can be read from here, and what else holds records of that cluster.
//!
//! An embedded archive lies on each pod's own volume, so it is read by our own binary, run in the sidecar of each pod; former ones
//! that still lie there too. A PostgreSQL archive is never read with the writer's password out of the cluster: that role cannot
//! read, and should not. Whatever is known to hold records and is not read is named, never passed over.

use crate::args::SourceArgs;
use crate::kubernetes::{Kubernetes, Remote};
use anyhow::bail;
use cartulary_archive::endpoint::embedded_file_name;
use cartulary_compliance::status::SidecarStatus;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DynamicObject;
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::AsyncReadExt;

/// Embedded archives of a cluster.
pub struct Pods {
    /// The Kubernetes cluster they are in.
    pub kubernetes: Kubernetes,
    /// `namespace/name` of the XMPPCluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    pods: Vec<Pod>,
    /// The archives that are read: in which pod, of which endpoint.
    pub archives: Vec<(Pod, String)>,
    /// Parts of the cluster's records that cannot be read this way, in words.
    pub unread: Vec<String>,
}

/// What of one pod's records is read here, and what is not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Selection {
    /// Endpoints whose embedded archive is read.
    embedded: BTreeSet<String>,
    /// Databases that hold records of it: name of the endpoint, URL to read it at.
    databases: BTreeMap<String, String>,
    /// What else is not read, in words.
    unread: Vec<String>,
}

impl Pods {
    /// Looks what there is.
    pub async fn of(args: &SourceArgs) -> anyhow::Result<Self> {
        let kubernetes = Kubernetes::connect(&args.kube).await?;
        let cluster = kubernetes.cluster(args.cluster.as_deref()).await?;
        let name = cluster.name_any();
        let namespace = kubernetes.namespace.clone();
        let endpoints = kubernetes.list("ArchiveEndpoint", false).await?;
        let endpoints: BTreeMap<String, &DynamicObject> =
            endpoints.iter().map(|e| (e.name_any(), e)).collect();
        let places: BTreeMap<String, Option<String>> =
            endpoints.iter().map(|(name, object)| (name.clone(), elsewhere_at(object))).collect();
        let mut unread: Vec<String> = retained(&cluster)
            .map(|claim| {
                format!("journal claim {claim}: its pod is gone; start a pod of that name to read it")
            })
            .collect();
        let pods = kubernetes.pods(&namespace, &name).await?;
        let statuses: Vec<_> = futures::stream::iter(&pods)
            .map(|pod| kubernetes.sidecar_status(pod))
            .buffered(16)
            .map(|status| status.map_err(|error| format!("{error:#}")))
            .collect()
            .await;
        let (mut archives, mut databases) = (Vec::new(), BTreeMap::new());
        for (pod, status) in pods.iter().zip(statuses) {
            let now = endpoint_of(&cluster, &pod.name_any(), &endpoints);
            let selection = select(&pod.name_any(), now.as_deref(), &places, status);
            archives.extend(selection.embedded.into_iter().map(|endpoint| (pod.clone(), endpoint)));
            databases.extend(selection.databases);
            unread.extend(selection.unread);
        }
        for (endpoint, url) in &databases {
            unread.push(format!("endpoint {endpoint}, a PostgreSQL database: read it as its reader role with --archive '{url}'"));
        }
        if archives.is_empty() {
            let why = if unread.is_empty() { "no pod of it has one".to_owned() } else { unread.join("; ") };
            bail!("no archive of XMPPCluster {namespace}/{name} can be read from here: {why}");
        }
        Ok(Self { kubernetes, cluster: format!("{namespace}/{name}"), name, pods, archives, unread })
    }

    /// Runs `cartulary ARGUMENT…` on an embedded archive of one pod, with `input` as its standard input.
    pub async fn run(
        &self,
        pod: &Pod,
        endpoint: &str,
        arguments: &[String],
        input: Option<Vec<u8>>,
    ) -> anyhow::Result<Remote> {
        let mut command = vec!["cartulary".to_owned()];
        command.extend_from_slice(arguments);
        command.push(format!("--archive=sqlite:{}", embedded_file(endpoint)));
        self.kubernetes.run_in_sidecar(pod, &command, input).await
    }

    /// The whole answer of such a run; a code of 2 or more is an error, one of 1 is not.
    pub async fn answer(
        &self,
        pod: &Pod,
        endpoint: &str,
        arguments: &[String],
        input: Option<Vec<u8>>,
    ) -> anyhow::Result<Vec<u8>> {
        let (mut stdout, end) = self.run(pod, endpoint, arguments, input).await?.split();
        let mut answer = Vec::new();
        stdout.read_to_end(&mut answer).await?;
        let (code, complaint) = end.wait().await?;
        match code {
            Some(0 | 1) => Ok(answer),
            Some(code) => bail!("the command there ended with code {code}: {}", complaint.trim()),
            None => bail!("the connection was lost before the command there ended"),
        }
    }

    /// Records that wait by pod, for those whose sidecars answer; and the names of those whose do not.
    pub async fn waiting_by_pod(&self) -> (BTreeMap<String, u64>, Vec<String>) {
        let (mut waiting, mut silent) = (BTreeMap::new(), Vec::new());
        for pod in &self.pods {
            match self.kubernetes.sidecar_status(pod).await {
                Ok(status) => {
                    let sum = status.endpoints.values().map(|endpoint| endpoint.waiting).sum();
                    waiting.insert(pod.name_any(), sum);
                }
                Err(_) => silent.push(pod.name_any()),
            }
        }
        (waiting, silent)
    }

    /// How many records wait on the pods' disks, not archived yet; `None` when a pod does not say.
    pub async fn waiting(&self) -> Option<u64> {
        let (waiting, silent) = self.waiting_by_pod().await;
        silent.is_empty().then(|| waiting.values().sum())
    }
}

/// What is read of `pod`, whose records go to `now`. `places` are the endpoints that are declared, with the URL of those that are
/// databases; `status` is what its sidecar says, or why it says nothing.
fn select(
    pod: &str,
    now: Option<&str>,
    places: &BTreeMap<String, Option<String>>,
    status: Result<SidecarStatus, String>,
) -> Selection {
    let mut selection = Selection::default();
    let mut names: BTreeSet<String> = now.map(str::to_owned).into_iter().collect();
    let known = status.and_then(|status| {
        names.extend(status.journal.endpoints);
        status.embedded_archives.ok_or_else(|| {
            "its sidecar does not say; its status tells why, or it is of another version".into()
        })
    });
    let is_known = known.is_ok();
    match known {
        Ok(archives) => selection.embedded.extend(archives),
        Err(why) => {
            selection.unread.push(format!("pod {pod}: which former archives it has is not known: {why}"))
        }
    }
    for name in names {
        match places.get(&name) {
            Some(Some(url)) => _ = selection.databases.insert(name, url.clone()),
            _ if selection.embedded.contains(&name) => {}
            // Tried all the same: whoever may not ask the sidecar may still be allowed to run commands there.
            Some(None) if !is_known => _ = selection.embedded.insert(name),
            Some(None) => selection.unread.push(format!(
                "pod {pod}: the embedded archive of endpoint {name} is not there: nothing reached it yet, or it was moved away"
            )),
            None => selection.unread.push(format!(
                "pod {pod}: records of it went to endpoint {name}, which is not declared here any more: if it was a database, read it \
                 as its reader role with --archive"
            )),
        }
    }
    selection
}

/// Where a sidecar keeps an endpoint's file.
fn embedded_file(endpoint: &str) -> String {
    format!("/var/lib/cartulary/archive/{}", embedded_file_name(endpoint))
}

/// Names of the cluster's journal claims whose pod is gone, as the operator last saw them.
pub fn retained(cluster: &DynamicObject) -> impl Iterator<Item = String> + '_ {
    let claims = cluster.data.pointer("/status/journalClaims").and_then(|claims| claims.as_array());
    claims
        .into_iter()
        .flatten()
        .filter(|claim| claim.get("inUse").and_then(|used| used.as_bool()) == Some(false))
        .filter_map(|claim| claim.get("name")?.as_str().map(str::to_owned))
}

/// Which endpoint a pod's records go to: one of its own, the cluster's, or the namespace's default.
fn endpoint_of(
    cluster: &DynamicObject,
    pod: &str,
    endpoints: &BTreeMap<String, &DynamicObject>,
) -> Option<String> {
    let archiving = cluster.data.pointer("/spec/archiving");
    let own = archiving.and_then(|archiving| archiving.get("nodeEndpoints")?.as_array()).and_then(|nodes| {
        let node = nodes.iter().find(|node| node.get("pod").and_then(|name| name.as_str()) == Some(pod))?;
        node.get("endpoint")?.as_str()
    });
    let named = own.or_else(|| archiving?.get("endpoint")?.as_str());
    named.map(str::to_owned).or_else(|| {
        let default = |object: &&DynamicObject| {
            object.data.pointer("/spec/default") == Some(&serde_json::Value::Bool(true))
        };
        endpoints.values().copied().find(|object| default(object)).map(ResourceExt::name_any)
    })
}

/// The URL to read an endpoint at, when that is not the pod itself.
fn elsewhere_at(endpoint: &DynamicObject) -> Option<String> {
    let database = endpoint.data.pointer("/spec/postgresql")?;
    let text = |name: &str| database.get(name).and_then(|value| value.as_str()).unwrap_or_default();
    let port = database.get("port").and_then(|port| port.as_u64()).unwrap_or(5432);
    let host = text("host");
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let plain = database.pointer("/tls/mode").and_then(|mode| mode.as_str()) == Some("Disable");
    Some(format!(
        "postgres://READER@{host}:{port}/{}{}",
        text("database"),
        if plain { "?sslmode=disable" } else { "" }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_compliance::status::JournalStatus;
    use serde_json::json;

    #[test]
    fn a_pods_endpoint_is_its_own_then_the_clusters_then_the_default() {
        let object = |value| serde_json::from_value::<DynamicObject>(value).expect("an object");
        let embedded =
            object(json!({"metadata": {"name": "embedded"}, "spec": {"type": "SQLite", "default": true}}));
        let database = object(json!({"metadata": {"name": "db"},
            "spec": {"type": "PostgreSQL", "postgresql": {"host": "::1", "database": "a", "tls": {"mode": "Disable"}}}}));
        let endpoints = BTreeMap::from([("embedded".to_owned(), &embedded), ("db".to_owned(), &database)]);
        let cluster =
            |archiving| object(json!({"metadata": {"name": "c"}, "spec": {"archiving": archiving}}));
        let of = |archiving, pod| endpoint_of(&cluster(archiving), pod, &endpoints);
        let own = json!({"endpoint": "db", "nodeEndpoints": [{"pod": "p-1", "endpoint": "other"}]});
        assert_eq!(of(own.clone(), "p-1").as_deref(), Some("other"));
        assert_eq!(of(own, "p-0").as_deref(), Some("db"));
        assert_eq!(of(json!({}), "p-0").as_deref(), Some("embedded"));
        assert_eq!(elsewhere_at(&embedded), None);
        assert_eq!(
            elsewhere_at(&database).as_deref(),
            Some("postgres://READER@[::1]:5432/a?sslmode=disable")
        );
    }

    /// What is read and not read of a pod: `file` and `other` are declared as embedded, `db` as a database.
    fn selected(now: Option<&str>, known: Result<(Option<&[&str]>, &[&str]), &str>) -> Selection {
        let places =
            [("file", None), ("other", None), ("db", Some("postgres://READER@db:5432/a".to_owned()))];
        let places = places.map(|(name, url)| (name.to_owned(), url)).into();
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let status = known.map_err(str::to_owned).map(|(archives, endpoints)| SidecarStatus {
            embedded_archives: archives.map(texts),
            journal: JournalStatus { endpoints: texts(endpoints), ..Default::default() },
            ..Default::default()
        });
        select("p-0", now, &places, status)
    }

    fn read(selection: &Selection) -> Vec<&str> {
        selection.embedded.iter().map(String::as_str).collect()
    }

    #[test]
    fn former_archives_in_a_pod_are_read_even_when_nobody_declares_them_any_more() {
        let selection = selected(Some("file"), Ok((Some(&["file", "gone", "other"]), &["file", "other"])));
        assert_eq!(read(&selection), ["file", "gone", "other"]);
        assert!(selection.unread.is_empty() && selection.databases.is_empty(), "{selection:?}");
    }

    #[test]
    fn databases_of_now_and_of_before_are_named_as_unread() {
        for now in ["db", "file"] {
            let selection = selected(Some(now), Ok((Some(&["file"]), &["db", "file"])));
            assert_eq!(read(&selection), ["file"]);
            assert_eq!(selection.databases.keys().collect::<Vec<_>>(), ["db"]);
        }
        // One that was a file before it became a database is both.
        let selection = selected(Some("db"), Ok((Some(&["db"]), &["db"])));
        assert_eq!((read(&selection), selection.databases.len()), (vec!["db"], 1));
    }

    #[test]
    fn where_records_went_and_nothing_can_be_read_is_named() {
        let selection = selected(Some("file"), Ok((Some(&["file"]), &["file", "gone", "other"])));
        assert_eq!(read(&selection), ["file"]);
        assert!(
            selection.unread[0].contains("gone") && selection.unread[1].contains("other"),
            "{selection:?}"
        );
    }

    #[test]
    fn a_sidecar_that_does_not_say_what_it_has_is_never_taken_for_read_whole() {
        for known in [Err("forbidden"), Ok((None, ["file"].as_slice()))] {
            let selection = selected(Some("file"), known);
            assert_eq!(read(&selection), ["file"]);
            assert!(selection.unread[0].contains("not known"), "{selection:?}");
        }
        assert_eq!(selected(None, Ok((Some(&[]), &[]))), Selection::default());
        assert_eq!(selected(None, Err("away")).unread.len(), 1);
    }
}
