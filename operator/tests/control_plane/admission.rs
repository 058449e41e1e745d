//! Admission, asked by the API server itself over TLS.

use crate::world::{World, until};
use anyhow::Result;
use cartulary_crds::XmppCluster;
use cartulary_operator::reasons::{self as reason, refusal};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::PostParams;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn ko_3_no_order_of_applying_things_starts_a_server_that_is_not_recorded() -> Result<()> {
    let world = World::start("order").await?;
    let refused = |error: kube::Error| error.to_string();
    let without_cluster = refused(world.pod("prosody-0").await.expect_err("no XMPPCluster"));
    assert!(without_cluster.contains(refusal::CLUSTER_MISSING), "{without_cluster}");

    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "False", reason::NO_DEFAULT_ENDPOINT).await?;
    let without_endpoint = refused(world.pod("prosody-0").await.expect_err("no configuration"));
    assert!(without_endpoint.contains(refusal::CLUSTER_NOT_ACCEPTED), "{without_endpoint}");

    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OUTBOUND_OFF).await?;
    let pod = world.pod("prosody-0").await?;
    let spec = serde_json::to_value(pod.spec)?;
    assert_eq!(spec["initContainers"][0]["name"], "cartulary-sidecar");
    assert_eq!(spec["initContainers"][0]["restartPolicy"], "Always");
    assert_eq!(spec["initContainers"][0]["image"], "localhost/cartulary:test");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_without_the_label_are_not_looked_at_and_dry_runs_leave_nothing() -> Result<()> {
    let world = World::start("looked-at").await?;
    let other = json!({ "metadata": { "name": "database" }, "spec": { "containers": [{ "name": "a", "image": "a" }] } });
    let pod: Pod = world.create(other).await?;
    assert!(pod.spec.is_some_and(|spec| spec.init_containers.is_none()));

    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OUTBOUND_OFF).await?;
    let labelled: Pod = serde_json::from_value(json!({
        "metadata": { "name": "prosody-0", "labels": { "cartulary.dev/cluster": "chat" } },
        "spec": { "containers": [{ "name": "a", "image": "a" }] },
    }))?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let pod = world.api::<Pod>().create(&dry, &labelled).await?;
    assert!(pod.spec.is_some_and(|spec| spec.init_containers.is_some()));
    assert!(world.api::<PersistentVolumeClaim>().list(&Default::default()).await?.items.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_3_a_refusal_is_told_once_as_an_event_and_not_in_dry_runs() -> Result<()> {
    let world = World::start("refusals").await?;
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OUTBOUND_OFF).await?;
    let pod = |taken: Value| -> Result<Pod> {
        let mut pod = json!({
            "metadata": {
                "name": "prosody-0",
                "labels": { "cartulary.dev/cluster": "chat" },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "prosody", "uid": "1", "controller": true }],
            },
            "spec": { "containers": [{ "name": "a", "image": "a" }] },
        });
        for (field, value) in taken.as_object().into_iter().flatten() {
            pod["spec"][field] = value.clone();
        }
        Ok(serde_json::from_value(pod)?)
    };
    let on_the_host = pod(json!({ "hostNetwork": true }))?;
    let for_windows = pod(json!({ "nodeSelector": { "kubernetes.io/os": "windows" } }))?;
    let pods = world.api::<Pod>();
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    pods.create(&dry, &for_windows).await.expect_err("refused, and not told");
    for _ in 0..3 {
        pods.create(&PostParams::default(), &on_the_host).await.expect_err("refused");
    }
    let told = || async {
        let events = world.api::<Event>().list(&Default::default()).await?.items;
        let refusals = events.into_iter().filter(|event| event.action.as_deref() == Some("Injecting"));
        let mut told: Vec<_> = refusals
            .map(|event| (event.reason.unwrap_or_default(), event.regarding.and_then(|object| object.kind)))
            .collect();
        told.sort();
        Ok::<_, anyhow::Error>(told)
    };
    let both =
        ["StatefulSet", "XMPPCluster"].map(|kind| (refusal::HOST_NETWORK.to_owned(), Some(kind.to_owned())));
    until("both are told", || async { Ok((told().await? == both).then_some(())) }).await?;

    let metrics = world.metrics().await?;
    let counted = |reason: &str| {
        let line = format!("cartulary_operator_admissions_total{{refused=\"{reason}\"}} ");
        metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse::<u64>().ok())
    };
    assert_eq!((counted(refusal::HOST_NETWORK), counted(refusal::NOT_LINUX)), (Some(3), None), "{metrics}");
    // By now whatever the dry run would have told would be there: it came first.
    assert_eq!(told().await?, both);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_default_endpoint_is_refused() -> Result<()> {
    let world = World::start("second").await?;
    world.endpoint("one", json!({ "type": "SQLite", "default": true })).await?;
    // The API server takes up a changed webhook configuration a moment after it was patched, and this webhook may fail open.
    let error = until("the webhook is asked", || async {
        let name = format!("try-{:x}", rand());
        Ok(world.endpoint(&name, json!({ "type": "SQLite", "default": true })).await.err())
    })
    .await?;
    assert!(error.to_string().contains(reason::SECOND_DEFAULT), "{error}");
    world.endpoint("other", json!({ "type": "SQLite" })).await?;
    Ok(())
}

/// Something that was not there before.
fn rand() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map(|now| now.as_nanos()).unwrap_or_default()
}
