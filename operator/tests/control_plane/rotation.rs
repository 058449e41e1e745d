//! Two operators and their certificates: while everything is rotated, pods go on being admitted.

use crate::world::{World, until};
use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cartulary_crds::XmppCluster;
use cartulary_operator::options::Options;
use cartulary_operator::reasons as reason;
use cartulary_operator::webhook::certificate::{Lives, Material, renew};
use cartulary_operator::webhook::keeper::SECRET;
use cartulary_operator::{Listeners, run_on};
use clap::Parser;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Config};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Takes each connection to the next of the addresses, as a Service does; they end with it.
pub async fn in_turn(service: TcpListener, addresses: [SocketAddr; 2]) {
    let (mut next, mut connections) = (addresses.iter().cycle(), JoinSet::new());
    while let (Ok((mut from, _)), Some(address)) = (service.accept().await, next.next().copied()) {
        connections.spawn(async move {
            if let Ok(mut to) = TcpStream::connect(address).await {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

/// An operator for the namespace, for as long as it is not dropped; where it serves the webhooks.
pub async fn operator(world: &World, options: &[&str]) -> Result<(JoinSet<Result<()>>, SocketAddr)> {
    let here = || TcpListener::bind("127.0.0.1:0");
    let listeners = Listeners { webhook: here().await?, health: here().await? };
    let (webhook, health) = (listeners.webhook.local_addr()?, listeners.health.local_addr()?);
    let own = world.arguments().into_iter().chain(options.iter().map(|&option| option.to_owned()));
    let mut config =
        Config::from_custom_kubeconfig(Kubeconfig::read_from(world.kubeconfig())?, &Default::default())
            .await?;
    config.auth_info.impersonate = Some(world.account());
    let mut running = JoinSet::new();
    running.spawn(run_on(listeners, Options::parse_from(own), config.try_into()?, std::future::pending()));
    until("the operator is ready", || async {
        let answer = reqwest::get(format!("http://{health}/readyz")).await?;
        Ok(answer.status().is_success().then_some(()))
    })
    .await?;
    Ok((running, webhook))
}

/// What the API server is told to trust.
async fn bundle(world: &World) -> Result<String> {
    let webhooks = Api::<MutatingWebhookConfiguration>::all(world.client.clone());
    let configuration = webhooks.get(&world.webhooks()).await?;
    let bundle =
        configuration.webhooks.into_iter().flatten().find_map(|webhook| webhook.client_config.ca_bundle);
    Ok(String::from_utf8(bundle.context("no bundle yet")?.0)?)
}

async fn point(world: &World, patch: serde_json::Value) -> Result<()> {
    let webhooks = Api::<MutatingWebhookConfiguration>::all(world.client.clone());
    let patch: json_patch::Patch = serde_json::from_value(patch)?;
    webhooks.patch(&world.webhooks(), &PatchParams::default(), &Patch::<()>::Json(patch)).await?;
    Ok(())
}

/// Connects as an API server that knows `bundle`; the certificate it was shown.
async fn shown(address: SocketAddr, bundle: &str) -> Result<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::IpAddress(address.ip().into()), connection)
        .await
        .with_context(|| format!("{address} shows a certificate that is not trusted"))?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(certificates.first().context("no certificate")?.to_vec())
}

/// Tries a pod in a dry run, and sees that it would be recorded.
async fn admitted(world: &World) -> Result<()> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "prosody-0", "labels": { "cartulary.dev/cluster": "chat" } },
        "spec": { "containers": [{ "name": "prosody", "image": "localhost/prosody:13" }] },
    }))?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let pod = world.api::<Pod>().create(&dry, &pod).await?;
    ensure!(pod.spec.is_some_and(|spec| spec.init_containers.is_some()), "not injected");
    Ok(())
}

async fn accepted(world: &World) -> Result<()> {
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OUTBOUND_OFF).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_3_while_authorities_and_certificates_are_rotated_both_replicas_admit_pods() -> Result<()> {
    let lives = ["--webhook-certificate-seconds=24", "--webhook-authority-seconds=48"];
    let service = TcpListener::bind("127.0.0.1:0").await?;
    let world = World::without_operator("rotation", service.local_addr()?.port()).await?;
    let (_one, first) = operator(&world, &lives).await?;
    let (_other, second) = operator(&world, &lives).await?;
    let addresses = [first, second];
    tokio::spawn(in_turn(service, addresses));
    accepted(&world).await?;

    let secrets = world.api::<Secret>();
    let oldest = bundle(&world).await?;
    let (mut served, mut versions, mut contents) =
        (vec![BTreeSet::new(); addresses.len()], BTreeSet::new(), BTreeSet::new());
    let mut removed = false;
    let begin = std::time::Instant::now();
    loop {
        let bundle = bundle(&world).await?;
        for (address, served) in addresses.iter().zip(&mut served) {
            served.insert(shown(*address, &bundle).await?);
        }
        admitted(&world).await?;

        let secret = secrets.get_opt(SECRET).await?;
        if let Some(secret) = secret.filter(|_| !removed) {
            versions.insert(secret.metadata.resource_version);
            contents.insert(format!("{:?}", secret.data));
            if served[0].len() == 2 {
                // What somebody deletes comes back, and nobody notices.
                secrets.delete(SECRET, &DeleteParams::default()).await?;
                removed = true;
            }
        }
        let forgotten = !bundle.contains(oldest.trim()) && !bundle.is_empty();
        if forgotten && served.iter().all(|served| served.len() >= 3) {
            break;
        }
        ensure!(begin.elapsed() < Duration::from_secs(300), "the first authority is never forgotten");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(removed && secrets.get_opt(SECRET).await?.is_some());
    assert_eq!(versions.len(), contents.len(), "replicas write only what is new");
    Ok(())
}

fn write(folder: &Path, material: &Material) -> Result<()> {
    // As a kubelet does with a changed Secret, one file after the other.
    std::fs::write(folder.join("tls.key"), &material.key)?;
    std::fs::write(folder.join("tls.crt"), &material.certificate)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_3_a_certificate_that_something_else_keeps_is_taken_up_without_a_restart() -> Result<()> {
    let make = || -> Result<Material> {
        let lives = Lives { authority: Duration::from_secs(9000), certificate: Duration::from_secs(900) };
        let made = renew(None, &["127.0.0.1".to_owned()], lives, SystemTime::now())?;
        made.context("nothing stored, so it is made")
    };
    let folder = std::env::temp_dir().join(format!("cartulary-folder-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let first = make()?;
    write(&folder, &first)?;
    let option = format!("--webhook-certificate-folder={}", folder.display());
    let webhook = TcpListener::bind("127.0.0.1:0").await?;
    let world = World::without_operator("folder", webhook.local_addr()?.port()).await?;
    let (_operator, address) = operator(&world, &[&option]).await?;
    tokio::spawn(in_turn(webhook, [address; 2]));
    let tell = async |bundle: String| -> Result<()> {
        let bundle = STANDARD.encode(bundle);
        let add = json!([{ "op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle }]);
        point(&world, add).await
    };
    tell(first.bundle()).await?;
    accepted(&world).await?;
    until("the API server has taken up the bundle", || async { Ok(admitted(&world).await.ok()) }).await?;
    assert!(world.api::<Secret>().get_opt(SECRET).await?.is_none(), "the operator makes none of its own");

    let second = make()?;
    tell(format!("{}{}", first.bundle(), second.bundle())).await?;
    write(&folder, &second)?;
    let only_new = second.bundle();
    until("the new one is served", || async { Ok(shown(address, &only_new).await.ok()) }).await?;
    admitted(&world).await?;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
