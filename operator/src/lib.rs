//! The operator: reconciles XMPPClusters and ArchiveEndpoints, and puts the sidecar into the pods of XMPP servers.
//!
//! | module | what it does |
//! |---|---|
//! | [`watch`] | watches, and says who is to be looked at again |
//! | [`cluster`] | XMPPCluster: dereference → validate → build → apply → coverage → status |
//! | [`endpoint`] | ArchiveEndpoint: dereference → validate → status |
//! | [`inject`] | from a pod to a recorded pod, purely |
//! | [`webhook`] | admission: server, certificates, answers |
//! | [`conditions`], [`reasons`], [`write`] | what is said, by which names, and how it is written |
//!
//! Invariants: idle means no writes; a declaration that cannot be carried out leaves the last good one in force; whatever
//! cannot be recorded is refused at admission. It needs no leader yet: everything it writes is applied, and two operators write
//! the same. What a leader would be for is where [`run`] starts [`watch::run`]; the webhooks serve on every replica.
//!
//! What it does not do: connect to archives or read the journals.

pub mod cluster;
pub mod conditions;
pub mod context;
pub mod endpoint;
pub mod health;
pub mod inject;
pub mod metrics;
pub mod options;
pub mod reasons;
pub mod watch;
pub mod webhook;
pub mod write;

use anyhow::Context as _;
use cartulary_crds::{ArchiveEndpoint, XmppCluster};
use health::Readiness;
use inject::SidecarImage;
use kube::api::ListParams;
use kube::{Api, Client};
use metrics::Metrics;
use options::Options;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch::channel;
use webhook::Webhooks;

/// Where the operator is reached.
pub struct Listeners {
    /// For the API server, with TLS.
    pub webhook: TcpListener,
    /// For kubelets and scrapers.
    pub health: TcpListener,
}

/// Runs until the future is dropped, or something that cannot be mended happens.
pub async fn run(options: Options, client: Client) -> anyhow::Result<()> {
    let listen = |address| async move {
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
    };
    let listeners = Listeners {
        webhook: listen(options.webhook_address).await?,
        health: listen(options.health_address).await?,
    };
    run_on(listeners, options, client).await
}

/// [`run`] with listeners that are there already.
pub async fn run_on(listeners: Listeners, options: Options, client: Client) -> anyhow::Result<()> {
    for scope in options.scopes() {
        check_definitions(&client, scope).await?;
    }
    let metrics = Arc::new(Metrics::default());
    let (tls, tls_receiver) = channel(None);
    let (trusted, trusted_receiver) = channel(false);
    let scopes = options.scopes();
    let readiness = Readiness::new(scopes.len(), trusted_receiver);
    let image = SidecarImage {
        image: options.sidecar_image.clone(),
        pull_policy: options.sidecar_image_pull_policy.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let webhooks = Arc::new(Webhooks::new(client.clone(), image, metrics.clone()));
    let looking = scopes.into_iter().map(|scope| {
        let readiness = readiness.clone();
        watch::run(scope, client.clone(), options.clone(), metrics.clone(), move || readiness.scope_known())
    });
    tokio::select! {
        _ = futures::future::join_all(looking) => anyhow::bail!("the watches ended"),
        () = webhook::keeper::run(client.clone(), options.clone(), metrics.clone(), tls, trusted) => {}
        () = webhook::serve(listeners.webhook, tls_receiver, webhooks) => {}
        result = health::serve(listeners.health, readiness.clone(), metrics.clone()) => result?,
    }
    Ok(())
}

/// Says at once, and once, what is missing, instead of failing in every watch.
async fn check_definitions(client: &Client, scope: Option<String>) -> anyhow::Result<()> {
    let advice = "install the definitions of the kinds first: kubectl apply -f crds/yaml, or the chart with crds.install=true";
    let one = ListParams::default().limit(1);
    match scope {
        Some(namespace) => {
            Api::<XmppCluster>::namespaced(client.clone(), &namespace)
                .list_metadata(&one)
                .await
                .context(advice)?;
            Api::<ArchiveEndpoint>::namespaced(client.clone(), &namespace)
                .list_metadata(&one)
                .await
                .context(advice)?;
        }
        None => {
            Api::<XmppCluster>::all(client.clone()).list_metadata(&one).await.context(advice)?;
            Api::<ArchiveEndpoint>::all(client.clone()).list_metadata(&one).await.context(advice)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_can_be_spawned() {
        fn sendable<T: Send>(_: fn(Listeners, Options, Client) -> T) {}
        sendable(run_on);
    }
}
