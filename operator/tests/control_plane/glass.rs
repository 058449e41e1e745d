//! Breaking the glass, as docs/operate.md says it: the operator is away, a server has to start, unrecorded and knowingly so.

use crate::rotation::{in_turn, operator};
use crate::world::{World, until};
use anyhow::{Result, ensure};
use cartulary_crds::XmppCluster;
use cartulary_operator::reasons as reason;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What `kubectl patch` without a type sends.
async fn patch(world: &World, patch: Value) -> Result<()> {
    world.api::<StatefulSet>().patch("prosody", &PatchParams::default(), &Patch::Strategic(patch)).await?;
    Ok(())
}

fn label(value: Value) -> Value {
    json!({ "spec": { "template": { "metadata": { "labels": { "cartulary.dev/cluster": value } } } } })
}

/// Waits for the pod; whether it has our sidecar.
async fn is_recorded(world: &World, deleted: Option<&Pod>) -> Result<bool> {
    let gone = deleted.and_then(|pod| pod.metadata.uid.clone());
    let pod = until("the pod is made", || async {
        let pod = world.api::<Pod>().get_opt("prosody-0").await?;
        Ok(pod.filter(|pod| gone.is_none() || pod.metadata.uid != gone))
    })
    .await?;
    Ok(pod.spec.is_some_and(|spec| spec.init_containers.is_some()))
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_3_with_the_operator_away_a_server_starts_unrecorded_only_knowingly() -> Result<()> {
    let service = TcpListener::bind("127.0.0.1:0").await?;
    let port = service.local_addr()?.port();
    let world = World::without_operator("glass", port).await?;
    let (first, address) = operator(&world, &[]).await?;
    let serving = tokio::spawn(in_turn(service, [address; 2]));
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OUTBOUND_OFF).await?;
    let set = json!({
        "metadata": { "name": "prosody" },
        "spec": {
            "serviceName": "prosody",
            "selector": { "matchLabels": { "app": "prosody" } },
            "template": {
                "metadata": { "labels": { "app": "prosody", "cartulary.dev/cluster": "chat" } },
                "spec": { "containers": [{ "name": "prosody", "image": "localhost/prosody:13" }] },
            },
        },
    });
    world.create::<StatefulSet>(set).await?;
    ensure!(is_recorded(&world, None).await?);

    // The operator goes, and the server's pod with it.
    drop(first);
    serving.abort();
    let before = world.api::<Pod>().get("prosody-0").await?;
    world.api::<Pod>().delete("prosody-0", &kube::api::DeleteParams::default().grace_period(0)).await?;
    until("the StatefulSet says why there is none", || async {
        let events = world.api::<Event>().list(&Default::default()).await?.items;
        let said =
            |event: &Event| event.message.as_deref().is_some_and(|text| text.contains("pods.cartulary.dev"));
        Ok(events.iter().any(said).then_some(()))
    })
    .await?;
    ensure!(world.api::<Pod>().get_opt("prosody-0").await?.is_none(), "nothing starts unrecorded by itself");

    patch(&world, json!({ "spec": { "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } } }))
        .await?;
    patch(&world, label(Value::Null)).await?;
    ensure!(!is_recorded(&world, Some(&before)).await?, "it runs, unrecorded");

    // The operator is back and tells what it finds.
    let service = TcpListener::bind(("127.0.0.1", port)).await?;
    let (_second, address) = operator(&world, &[]).await?;
    tokio::spawn(in_turn(service, [address; 2]));
    world.condition::<XmppCluster>("chat", "Covered", "False", reason::NO_PODS).await?;
    until("an event tells it", || async {
        let events = world.api::<Event>().list(&Default::default()).await?.items;
        Ok(events.iter().any(|event| event.reason.as_deref() == Some(reason::NO_PODS)).then_some(()))
    })
    .await?;

    // And back again.
    patch(&world, label(json!("chat"))).await?;
    let unrecorded = world.api::<Pod>().get("prosody-0").await?;
    world.api::<Pod>().delete("prosody-0", &kube::api::DeleteParams::default().grace_period(0)).await?;
    ensure!(is_recorded(&world, Some(&unrecorded)).await?);
    Ok(())
}
