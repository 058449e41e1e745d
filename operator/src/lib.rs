//! The operator: reconciles XMPPClusters and what they refer to, and puts the sidecar into the pods of XMPP servers.
//!
//! | module | what it does |
//! |---|---|
//! | [`watch`] | watches, and says who is to be looked at again |
//! | [`cluster`] | XMPPCluster: dereference → validate → build → apply → coverage → status |
//! | [`endpoint`], [`server`] | ArchiveEndpoint, ComplianceServer: dereference → validate → status |
//! | [`profile`] | Profile: status, order, and the one that is always there |
//! | [`inject`] | from a pod to a recorded pod, purely |
//! | [`webhook`] | admission: server, certificates, answers |
//! | [`anchors`] | heads of journals, kept outside the archive |
//! | [`leader`] | which of several operators writes |
//! | [`conditions`], [`reasons`], [`write`] | what is said, by which names, and how it is written |
//!
//! Invariants: idle means no writes; a declaration that cannot be carried out leaves the last good one in force; whatever
//! cannot be recorded is refused at admission; only the leader writes, while admission, health and metrics are every replica's.
//!
//! What it does not do: connect to archives or read the journals. Jobs drain those of pods that are gone ([`cluster::drain`]).

pub mod anchors;
pub mod cluster;
pub mod conditions;
pub mod context;
pub mod endpoint;
pub mod health;
pub mod inject;
pub mod leader;
pub mod metrics;
pub mod options;
pub mod profile;
pub mod reasons;
pub mod server;
pub mod watch;
pub mod webhook;
pub mod write;

use anyhow::Context as _;
use cartulary_compliance::alarms::CERTIFICATE_EXPIRING;
use cartulary_crds::{ArchiveEndpoint, ComplianceServer, Profile, XmppCluster};
use health::Readiness;
use inject::SidecarImage;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use leader::{Candidate, Fence};
use metrics::Metrics;
use options::Options;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch::{Receiver, channel};
use webhook::Webhooks;

/// How long before its end a certificate that was not renewed is an alarm.
const EXPIRING_SECONDS: i64 = 7 * 24 * 3600;
/// How long giving the lead back may hold up the end.
const RELEASE: Duration = Duration::from_secs(3);

/// Where the operator is reached.
pub struct Listeners {
    /// For the API server, with TLS.
    pub webhook: TcpListener,
    /// For kubelets and scrapers.
    pub health: TcpListener,
}

/// Runs until `stop`, or until something that cannot be mended happens.
pub async fn run(
    options: Options,
    client: Client,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let listen = |address| async move {
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
    };
    let listeners = Listeners {
        webhook: listen(options.webhook_address).await?,
        health: listen(options.health_address).await?,
    };
    run_on(listeners, options, client, stop).await
}

/// [`run`] with listeners that are there already.
pub async fn run_on(
    listeners: Listeners,
    options: Options,
    client: Client,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let scopes = options.scopes();
    for scope in &scopes {
        check_definitions(&client, scope.clone()).await?;
    }
    let metrics = Arc::new(Metrics::default());
    let (tls, tls_receiver) = channel(None);
    let (trusted, trusted_receiver) = channel(false);
    let (leading, leading_receiver) = channel(false);
    let readiness = Readiness::new(scopes.len(), trusted_receiver, leading_receiver.clone());
    let image = SidecarImage {
        image: options.sidecar_image.clone(),
        pull_policy: options.sidecar_image_pull_policy.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let webhooks = Arc::new(Webhooks::new(client.clone(), image, metrics.clone()));
    let fence = Fence::default();
    let candidate = Candidate::new(client.clone(), &options, fence.clone(), leading, metrics.clone())?;
    let identity = candidate.identity();
    tokio::select! {
        result = lead(leading_receiver, fence.client(client.clone()), &options, &metrics, &readiness) => result?,
        () = candidate.run() => {}
        () = webhook::keeper::run(client.clone(), options.clone(), metrics.clone(), tls, trusted) => {}
        () = webhook::serve(listeners.webhook, tls_receiver, webhooks) => {}
        result = health::serve(listeners.health, readiness.clone(), metrics.clone()) => result?,
        () = stop => {}
    }
    // Whatever wrote has ended with the futures above.
    let released = leader::release(client, &options.namespace, &identity, &fence);
    match tokio::time::timeout(RELEASE, released).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("the lead could not be given back: {error:#}"),
        Err(_) => tracing::warn!("the lead could not be given back in time"),
    }
    Ok(())
}

/// Looks after everything for as long as this replica leads, and again when it leads again.
async fn lead(
    mut leading: Receiver<bool>,
    client: Client,
    options: &Options,
    metrics: &Arc<Metrics>,
    readiness: &Readiness,
) -> anyhow::Result<()> {
    loop {
        leading.wait_for(|leads| *leads).await?;
        let looking = options.scopes().into_iter().map(|scope| {
            let known = || readiness.scope_known();
            watch::run(scope, client.clone(), options.clone(), metrics.clone(), known)
        });
        tokio::select! {
            _ = futures::future::join_all(looking) => anyhow::bail!("the watches ended"),
            result = leading.wait_for(|leads| !*leads) => drop(result?),
            () = watch_certificate(metrics, &options.namespace) => {}
        }
        metrics.alarms.clear();
    }
}

/// Raises the alarm that is about no XMPPCluster. A certificate is renewed long before it expires, if nothing is in the way.
async fn watch_certificate(metrics: &Metrics, namespace: &str) {
    let alarm = metrics::Alarm {
        alarm: CERTIFICATE_EXPIRING.name,
        namespace: namespace.to_owned(),
        ..metrics::Alarm::default()
    };
    loop {
        let expires = metrics.certificate_expires.get();
        if expires > 0 && expires < Timestamp::now().as_second() + EXPIRING_SECONDS {
            metrics.alarms.get_or_create(&alarm).set(1);
        } else {
            metrics.alarms.remove(&alarm);
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Says at once, and once, what is missing, instead of failing in every watch.
async fn check_definitions(client: &Client, scope: Option<String>) -> anyhow::Result<()> {
    let advice = "install the definitions of the kinds first: kubectl apply -f crds/yaml, or the chart with crds.install=true";
    let one = ListParams::default().limit(1);
    let scope = scope.as_deref();
    definition::<XmppCluster>(client, scope, &one).await.context(advice)?;
    definition::<ArchiveEndpoint>(client, scope, &one).await.context(advice)?;
    definition::<ComplianceServer>(client, scope, &one).await.context(advice)?;
    definition::<Profile>(client, scope, &one).await.context(advice)
}

async fn definition<K>(client: &Client, scope: Option<&str>, one: &ListParams) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api = match scope {
        Some(namespace) => Api::<K>::namespaced(client.clone(), namespace),
        None => Api::<K>::all(client.clone()),
    };
    api.list_metadata(one).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_can_be_spawned() {
        fn sendable<T: Send>(_: fn(Listeners, Options, Client, std::future::Pending<()>) -> T) {}
        sendable(run_on);
    }
}
