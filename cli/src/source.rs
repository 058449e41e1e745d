//! Which archives a command reads: one given by its URL, or those of an XMPPCluster's pods.
//!
//! An embedded archive lies on each pod's own volume, so it is read by our own binary, run in the sidecar of each pod. A PostgreSQL
//! archive is never read with the writer's password out of the cluster: that role cannot read, and should not.

use crate::args::SourceArgs;
use crate::kubernetes::{Kubernetes, Remote};
use crate::password;
use anyhow::{Context, anyhow, bail};
use cartulary_archive::endpoint::embedded_file_name;
use cartulary_compliance::config::{PostgreSql, TlsMode};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DynamicObject;
use sqlx::postgres::PgConnectOptions;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An archive that can be opened from here.
#[derive(Debug, PartialEq, Eq)]
pub enum Location {
    /// A file.
    Sqlite(PathBuf),
    /// A database.
    PostgreSql(PostgreSql),
}

/// What a command reads.
pub enum Source {
    /// One archive.
    Archive(Location),
    /// The embedded archives of a cluster's pods.
    Pods(Pods),
}

/// Embedded archives of a cluster.
pub struct Pods {
    kubernetes: Kubernetes,
    /// `namespace/name` of the XMPPCluster.
    pub cluster: String,
    /// The pods that have one, and the name of their endpoint.
    pub pods: Vec<(Pod, String)>,
    /// Parts of the cluster's records that cannot be read this way, in words.
    pub unread: Vec<String>,
}

impl Source {
    /// Finds out what `args` mean; asks for a password where one is needed.
    pub async fn of(args: &SourceArgs) -> anyhow::Result<Self> {
        match &args.archive {
            Some(url) => {
                Location::parse(url, |prompt| password::of(&args.password, prompt)).map(Self::Archive)
            }
            None => Ok(Self::Pods(Pods::of(args).await?)),
        }
    }
}

impl Location {
    /// Reads `sqlite:FILE` or `postgres://USER@HOST[:PORT]/DATABASE[?sslmode=…&sslrootcert=…]`.
    pub fn parse(
        url: &str,
        password: impl FnOnce(&str) -> anyhow::Result<Option<String>>,
    ) -> anyhow::Result<Self> {
        if let Some(file) = url.strip_prefix("sqlite:") {
            if file.is_empty() {
                bail!("sqlite: needs a file, as in sqlite:./archive.sqlite");
            }
            return Ok(Self::Sqlite(file.into()));
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            bail!("an archive is given as postgres://READER@HOST/DATABASE or sqlite:FILE");
        }
        postgresql(url, password).map(Self::PostgreSql)
    }
}

fn postgresql(
    url: &str,
    password: impl FnOnce(&str) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<PostgreSql> {
    // Neither the URL nor the parser's error is repeated: either may hold a password.
    let authority =
        url.split_once("://").and_then(|(_, rest)| rest.split(['/', '?']).next()).unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':')) || parameter(url, "password").is_some() {
        bail!(
            "a password has no place in the URL, where other users of this machine can see it: use PGPASSWORD, --password-file, or wait to be asked"
        );
    }
    let options: PgConnectOptions = url.parse().map_err(|_| {
        anyhow!("this is no PostgreSQL URL: it has the form postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full")
    })?;
    if user.is_none_or(str::is_empty) && parameter(url, "user").is_none() {
        bail!("the URL names no user: postgres://USER@HOST/DATABASE");
    }
    let database = options
        .get_database()
        .filter(|name| !name.is_empty())
        .context("the URL names no database: postgres://USER@HOST/DATABASE")?
        .to_owned();
    let socket = options.get_socket().map(|folder| folder.display().to_string());
    let tls = match parameter(url, "sslmode") {
        Some("disable") => TlsMode::Disable,
        // A socket of this machine leads to nobody else.
        None if socket.is_some() => TlsMode::Disable,
        None | Some("verify-full") => TlsMode::VerifyFull,
        Some(other) => bail!(
            "sslmode={other} does not prove whom you talk to: use verify-full (the default), or disable where the network is trusted"
        ),
    };
    let ca = match parameter(url, "sslrootcert") {
        Some(file) => {
            Some(std::fs::read_to_string(file).with_context(|| format!("cannot read sslrootcert {file}"))?)
        }
        None => None,
    };
    let username = options.get_username().to_owned();
    let host = socket.unwrap_or_else(|| options.get_host().to_owned());
    let password = password(&format!("Password of {username} at {host}: "))?.unwrap_or_default();
    Ok(PostgreSql { host, port: options.get_port(), database, username, password, tls, ca })
}

fn parameter<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = url.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Pods {
    async fn of(args: &SourceArgs) -> anyhow::Result<Self> {
        let kubernetes = Kubernetes::connect(&args.kube).await?;
        let cluster = kubernetes.cluster(args.cluster.as_deref()).await?;
        let name = cluster.name_any();
        let namespace = kubernetes.namespace.clone();
        let endpoints = kubernetes.list("ArchiveEndpoint", false).await?;
        let endpoints: BTreeMap<String, &DynamicObject> =
            endpoints.iter().map(|e| (e.name_any(), e)).collect();
        let mut unread: Vec<String> = retained(&cluster)
            .map(|claim| {
                format!("journal claim {claim}: its pod is gone; start a pod of that name to read it")
            })
            .collect();
        let mut pods = Vec::new();
        let mut elsewhere = BTreeMap::new();
        for pod in kubernetes.pods(&namespace, &name).await? {
            let Some(endpoint) = endpoint_of(&cluster, &pod.name_any(), &endpoints) else {
                unread
                    .push(format!("pod {}: it is not known which archive its records go to", pod.name_any()));
                continue;
            };
            match endpoints.get(&endpoint).and_then(|object| elsewhere_at(object)) {
                Some(url) => _ = elsewhere.insert(endpoint, url),
                None => pods.push((pod, endpoint)),
            }
        }
        for (endpoint, url) in &elsewhere {
            unread.push(format!("endpoint {endpoint}, a PostgreSQL database: read it as its reader role with --archive '{url}'"));
        }
        if pods.is_empty() {
            let why = if unread.is_empty() { "it has no pods".to_owned() } else { unread.join("; ") };
            bail!("nothing of XMPPCluster {namespace}/{name} can be read from here: {why}");
        }
        Ok(Self { kubernetes, cluster: format!("{namespace}/{name}"), pods, unread })
    }

    /// Runs `cartulary ARGUMENT…` on the embedded archive of one pod.
    pub async fn run(&self, pod: &Pod, endpoint: &str, arguments: &[String]) -> anyhow::Result<Remote> {
        let mut command = vec!["cartulary".to_owned()];
        command.extend_from_slice(arguments);
        command.push(format!("--archive=sqlite:{}", embedded_file(endpoint)));
        self.kubernetes.run_in_sidecar(pod, &command).await
    }

    /// How many records wait on the pods' disks, not archived yet; `None` when a pod does not say.
    pub async fn waiting(&self) -> Option<u64> {
        let mut sum = 0;
        for (pod, _) in &self.pods {
            let status = self.kubernetes.sidecar_status(pod).await.ok()?;
            sum += status.endpoints.values().map(|endpoint| endpoint.waiting).sum::<u64>();
        }
        Some(sum)
    }
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
    use serde_json::json;

    fn parse(url: &str) -> anyhow::Result<Location> {
        Location::parse(url, |_| Ok(Some("secret".into())))
    }

    #[test]
    fn connections_are_verified_unless_the_url_says_otherwise() {
        for (url, tls) in [
            ("postgres://r@db/archive", TlsMode::VerifyFull),
            ("postgres://r@db/archive?sslmode=verify-full", TlsMode::VerifyFull),
            ("postgres://r@db:6432/archive?sslmode=disable", TlsMode::Disable),
            ("postgres://r@localhost/archive?host=/run/postgresql", TlsMode::Disable),
        ] {
            let Location::PostgreSql(found) = parse(url).expect(url) else { panic!("{url}") };
            assert_eq!((found.tls, found.username.as_str()), (tls, "r"), "{url}");
        }
        let error = parse("postgres://r@db/archive?sslmode=require").expect_err("not verified");
        assert!(error.to_string().contains("verify-full"), "{error}");
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        for url in
            ["postgres://r:hunter2@db/a", "postgres://r@db/a?password=hunter2", "postgres://r:hunter2@[bad/a"]
        {
            let error = format!("{:#}", parse(url).expect_err(url));
            assert!(error.contains("PGPASSWORD") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused_with_the_forms_there_are() {
        for url in [
            "",
            "mysql://x",
            "sqlite:",
            "postgres://",
            "postgres://db/a",
            "postgres://r@db",
            "archive.sqlite",
        ] {
            let error = format!("{:#}", parse(url).expect_err(url));
            assert!(error.contains("postgres://") || error.contains("sqlite:"), "{url}: {error}");
        }
    }

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
}
