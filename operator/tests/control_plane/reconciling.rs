//! What becomes of a declaration, from applying it to deleting it.

use crate::world::{World, until};
use anyhow::{Context, Result};
use cartulary_compliance::config::{SECRET_KEY, SidecarConfig};
use cartulary_compliance::status::{ConfigStatus, EndpointStatus, HostCoverage, LinkStatus, SidecarStatus};
use cartulary_crds::{ArchiveEndpoint, XmppCluster};
use cartulary_operator::reasons as reason;
use flate2::read::GzDecoder;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::io::Read;

/// A sidecar with which all is well.
pub fn sidecar(node: &str, hash: &str) -> SidecarStatus {
    let host = HostCoverage { name: "example.org".to_owned(), problem: None };
    let endpoint =
        EndpointStatus { state: reason::CONNECTED.to_owned(), waiting: 3, ..EndpointStatus::default() };
    SidecarStatus {
        node: node.to_owned(),
        version: "test".to_owned(),
        config: ConfigStatus { generation: 1, hash: hash.to_owned(), problem: None },
        link: LinkStatus { connected: true, hosts: vec![host], ..LinkStatus::default() },
        endpoints: [("records".to_owned(), endpoint)].into(),
        ready: true,
        ..SidecarStatus::default()
    }
}

/// The configuration that pods get, and its Secret.
pub async fn configuration(world: &World) -> Result<(SidecarConfig, Secret)> {
    let secret = world.api::<Secret>().get("cartulary-config-chat").await?;
    let packed = secret.data.as_ref().and_then(|data| data.get(SECRET_KEY)).context("its key")?;
    let mut json = Vec::new();
    GzDecoder::new(&*packed.0).read_to_end(&mut json)?;
    Ok((SidecarConfig::parse(&json)?, secret))
}

async fn hash(world: &World) -> Result<String> {
    let cluster = world.api::<XmppCluster>().get("chat").await?;
    Ok(cluster.status.and_then(|status| status.configuration).context("a configuration")?.hash)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_ready_when_every_pod_is_recorded_and_then_nothing_is_written() -> Result<()> {
    let mut world = World::start("ready").await?;
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({ "archiving": { "outbound": true } })).await?;
    world.condition::<XmppCluster>("chat", "Covered", "False", reason::NO_PODS).await?;
    world.condition::<XmppCluster>("chat", "ArchiveNotIndependent", "True", reason::ARCHIVE_IN_POD).await?;

    world.stateful_set().await?;
    world.condition::<XmppCluster>("chat", "Covered", "False", reason::PENDING).await?;
    let claim = until("the claim is made", || async {
        Ok(world.api::<PersistentVolumeClaim>().get_opt("cartulary-journal-prosody-0").await?)
    })
    .await?;
    assert!(claim.metadata.owner_references.is_none(), "a claim is never collected with anything");
    assert_eq!(claim.labels().get("cartulary.dev/cluster").map(String::as_str), Some("chat"));

    world.runs("prosody-0").await?;
    world.condition::<XmppCluster>("chat", "Covered", "False", reason::SIDECAR_UNREACHABLE).await?;
    let fake = world.sidecar(sidecar("prosody-0", "old")).await?;
    world.condition::<XmppCluster>("chat", "Ready", "False", reason::NODE_OUTDATED).await?;
    let hash = hash(&world).await?;
    fake.change(|status| status.config.hash = hash);
    world.condition::<XmppCluster>("chat", "Ready", "True", reason::OK).await?;
    world.condition::<ArchiveEndpoint>("records", "Reachable", "True", reason::CONNECTED).await?;

    let status = world.api::<XmppCluster>().get_status("chat").await?.status.context("a status")?;
    assert_eq!((status.covered.as_deref(), status.waiting), (Some("1/1"), Some(3)));
    assert!(status.journal_claims[0].in_use);

    let versions = || async {
        let cluster = world.api::<XmppCluster>().get("chat").await?.resource_version();
        let endpoint = world.api::<ArchiveEndpoint>().get("records").await?.resource_version();
        let secret = world.api::<Secret>().get("cartulary-config-chat").await?.resource_version();
        let events = world.api::<Event>().list(&ListParams::default()).await?.items.len();
        anyhow::Ok((cluster, endpoint, secret, events))
    };
    fake.asked(2).await?;
    let before = versions().await?;
    fake.asked(4).await?;
    assert_eq!(before, versions().await?, "idle means no writes");

    fake.change(|status| status.link.connected = false);
    world.condition::<XmppCluster>("chat", "Ready", "False", reason::PLUGIN_NOT_CONNECTED).await?;
    until("an event tells it", || async {
        let events = world.api::<Event>().list(&ListParams::default()).await?;
        let told = |event: &Event| {
            event.reason.as_deref() == Some(reason::PLUGIN_NOT_CONNECTED)
                && event.type_.as_deref() == Some("Warning")
        };
        Ok(events.iter().any(told).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_s_problem_is_told_by_endpoint_and_cluster() -> Result<()> {
    let mut world = World::start("problem").await?;
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OUTBOUND_OFF).await?;
    world.condition::<ArchiveEndpoint>("records", "Reachable", "Unknown", reason::UNUSED).await?;
    world.condition::<ArchiveEndpoint>("records", "Ready", "True", reason::OK).await?;
    world.stateful_set().await?;
    world.runs("prosody-0").await?;
    let mut status = sidecar("prosody-0", &hash(&world).await?);
    let endpoint = status.endpoints.get_mut("records").context("it")?;
    endpoint.state = reason::AUTHENTICATION_FAILED.to_owned();
    endpoint.message = "the database refuses the password".to_owned();
    world.sidecar(status).await?;
    world
        .condition::<ArchiveEndpoint>("records", "Reachable", "False", reason::AUTHENTICATION_FAILED)
        .await?;
    world.condition::<ArchiveEndpoint>("records", "Ready", "False", reason::AUTHENTICATION_FAILED).await?;
    world.condition::<XmppCluster>("chat", "Recording", "False", reason::AUTHENTICATION_FAILED).await?;
    let endpoint = world.api::<ArchiveEndpoint>().get("records").await?.status.context("a status")?;
    assert_eq!((endpoint.used_by, endpoint.waiting), (vec!["chat".to_owned()], Some(3)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_cannot_be_carried_out_leaves_the_last_good_configuration() -> Result<()> {
    let world = World::start("last-good").await?;
    let database = json!({ "host": "db", "database": "records", "credentialsSecret": { "name": "writer" } });
    world.endpoint("records", json!({ "type": "PostgreSQL", "postgresql": database })).await?;
    world.cluster(json!({ "archiving": { "outbound": true, "endpoint": "records" } })).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "False", reason::SECRET_MISSING).await?;
    world.condition::<ArchiveEndpoint>("records", "Ready", "False", reason::SECRET_MISSING).await?;
    assert!(world.api::<Secret>().get_opt("cartulary-config-chat").await?.is_none());

    let writer = |password: &str| json!({ "metadata": { "name": "writer" }, "stringData": { "username": "w", "password": password } });
    world.create::<Secret>(writer("")).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "False", reason::SECRET_INCOMPLETE).await?;
    let apply = |object: Value| async {
        let params = PatchParams::apply("test").force();
        let mut object = object;
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Secret");
        world.api::<Secret>().patch("writer", &params, &Patch::Apply(object)).await
    };
    apply(writer("first")).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OK).await?;
    let (config, good) = configuration(&world).await?;
    assert_eq!(config.cluster.to_string(), "last-good/chat");

    world.delete::<Secret>("writer").await?;
    world.condition::<XmppCluster>("chat", "Accepted", "False", reason::SECRET_MISSING).await?;
    assert_eq!(configuration(&world).await?.1.resource_version(), good.resource_version());

    apply(writer("second")).await?;
    until("the new password is in the configuration", || async {
        let (config, _) = configuration(&world).await?;
        Ok(serde_json::to_string(&config)?.contains("second").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_slipped_through_is_told() -> Result<()> {
    let world = World::start("slipped").await?;
    // Made before it was labelled, so that the webhook was not asked; and somebody took the policy out.
    let policies = Api::<ValidatingAdmissionPolicyBinding>::all(world.client.clone());
    policies.delete(&world.webhooks(), &DeleteParams::default()).await?;
    let pod =
        json!({ "metadata": { "name": "old" }, "spec": { "containers": [{ "name": "a", "image": "a" }] } });
    world.create::<Pod>(pod).await?;
    let label = json!({ "metadata": { "labels": { "cartulary.dev/cluster": "chat" } } });
    until("the policy is not asked any more", || async {
        Ok(world.api::<Pod>().patch("old", &PatchParams::default(), &Patch::Merge(&label)).await.ok())
    })
    .await?;
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Covered", "False", reason::SIDECAR_MISSING).await
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_leaves_the_journals_and_nothing_else_and_nothing_stuck() -> Result<()> {
    let world = World::start("deleting").await?;
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OUTBOUND_OFF).await?;
    world.stateful_set().await?;
    let claims = world.api::<PersistentVolumeClaim>();
    until("the claim is made", || async { Ok(claims.get_opt("cartulary-journal-prosody-0").await?) }).await?;

    world.delete::<ArchiveEndpoint>("records").await?;
    world.condition::<XmppCluster>("chat", "Accepted", "False", reason::NO_DEFAULT_ENDPOINT).await?;
    world.delete::<StatefulSet>("prosody").await?;
    until("the journal is listed without its pod", || async {
        let status = world.api::<XmppCluster>().get("chat").await?.status.context("a status")?;
        Ok((status.journal_claims.len() == 1 && !status.journal_claims[0].in_use).then_some(()))
    })
    .await?;
    world.delete::<XmppCluster>("chat").await?;
    let secrets = world.api::<Secret>();
    until("the configuration goes with it", || async {
        Ok(secrets.get_opt("cartulary-config-chat").await?.is_none().then_some(()))
    })
    .await?;
    assert!(claims.get_opt("cartulary-journal-prosody-0").await?.is_some());

    let namespaces = Api::<Namespace>::all(world.client.clone());
    namespaces.delete(&world.namespace, &DeleteParams::default()).await?;
    until("the namespace is gone", || async {
        Ok(namespaces.get_opt(&world.namespace).await?.is_none().then_some(()))
    })
    .await
}
