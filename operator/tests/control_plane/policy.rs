//! The ValidatingAdmissionPolicy: labelled pods are held to what the webhook promises while the webhook is not asked.

use crate::world::{World, until};
use anyhow::{Result, ensure};
use cartulary_crds::XmppCluster;
use cartulary_operator::reasons::{self as reason, refusal};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// A namespace in which pods of the XMPPCluster `chat` can be made.
async fn accepted(test: &str) -> Result<World> {
    let world = World::start(test).await?;
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OUTBOUND_OFF).await?;
    Ok(world)
}

fn bare(name: &str, labels: Value) -> Value {
    json!({
        "metadata": { "name": name, "labels": labels },
        "spec": { "containers": [{ "name": "prosody", "image": "localhost/prosody:13" }] },
    })
}

async fn label(world: &World, pod: &str, value: Value) -> Result<Pod, kube::Error> {
    let patch = json!({ "metadata": { "labels": { "cartulary.dev/cluster": value } } });
    world.api::<Pod>().patch(pod, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// Tries `pod` in dry runs until the policy has an opinion: the API server takes it up a moment after it was applied.
async fn refused_without_webhook(world: &World, pod: &Value) -> Result<String> {
    let pod: Pod = serde_json::from_value(pod.clone())?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    until("the policy is in force, and the webhook is not", || async {
        let error = world.api::<Pod>().create(&dry, &pod).await.err().map(|error| error.to_string());
        Ok(error.filter(|error| error.contains("ValidatingAdmissionPolicy")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_3_without_the_webhook_a_labelled_pod_is_refused_unless_it_is_whole() -> Result<()> {
    let world = accepted("policy").await?;
    let injected = world.pod("prosody-0").await?;
    let webhooks = Api::<MutatingWebhookConfiguration>::all(world.client.clone());
    webhooks.delete(&world.webhooks(), &DeleteParams::default()).await?;

    let labelled = bare("prosody-1", json!({ "cartulary.dev/cluster": "chat" }));
    let message = refused_without_webhook(&world, &labelled).await?;
    ensure!(message.contains(&format!("cartulary: {}: ", refusal::NOT_INJECTED)), "{message}");

    // What the webhook made passes, as long as nothing is missing from it.
    let mut whole = serde_json::to_value(&injected)?;
    whole["metadata"] = json!({ "name": "prosody-2", "labels": injected.metadata.labels });
    whole["spec"].as_object_mut().expect("a spec").remove("nodeName");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let attempt = async |pod: &Value| -> Result<Option<String>> {
        let pod: Pod = serde_json::from_value(pod.clone())?;
        Ok(world.api::<Pod>().create(&dry, &pod).await.err().map(|error| error.to_string()))
    };
    assert_eq!(attempt(&whole).await?, None);
    type Break = fn(&mut Value);
    let broken: [(&str, Break); 5] = [
        ("no sidecar", |pod| pod["spec"]["initContainers"] = json!([])),
        ("not a native one", |pod| pod["spec"]["initContainers"][0]["restartPolicy"] = Value::Null),
        ("another name", |pod| pod["spec"]["initContainers"][0]["name"] = json!("something")),
        ("the configuration of another cluster", |pod| {
            pod["metadata"]["labels"]["cartulary.dev/cluster"] = json!("other");
        }),
        ("the server knows no link", |pod| pod["spec"]["containers"][0]["env"] = json!([])),
    ];
    for (what, breaks) in broken {
        let mut pod = whole.clone();
        breaks(&mut pod);
        let sidecar = pod.pointer_mut("/spec/initContainers/0").and_then(Value::as_object_mut);
        if let Some(sidecar) = sidecar.filter(|sidecar| sidecar["restartPolicy"].is_null()) {
            // Kubernetes has probes for native sidecars only, which it would complain of first.
            sidecar.retain(|field, _| !field.ends_with("Probe"));
        }
        let message = attempt(&pod).await?.unwrap_or_default();
        ensure!(message.contains(refusal::NOT_INJECTED), "{what}: {message}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_3_the_label_of_a_pod_says_for_all_its_life_who_records_it() -> Result<()> {
    let world = accepted("label").await?;
    world.pod("prosody-0").await?;
    world.create::<Pod>(bare("other-0", json!({}))).await?;
    let message = until("the policy is in force", || async {
        let result = label(&world, "prosody-0", json!("elsewhere")).await;
        if result.is_ok() {
            label(&world, "prosody-0", json!("chat")).await?;
        }
        Ok(result.err().map(|error| error.to_string()))
    })
    .await?;
    ensure!(message.contains(refusal::LABEL_FIXED), "changed: {message}");

    let refused = async |pod: &str, value: Value| -> String {
        label(&world, pod, value).await.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let message = refused("prosody-0", Value::Null).await;
    ensure!(message.contains(refusal::LABEL_FIXED), "taken off: {message}");
    let message = refused("other-0", json!("chat")).await;
    ensure!(message.contains(refusal::NOT_INJECTED), "put on a pod that runs: {message}");

    let image = |list: &'static str, name: &'static str| {
        let containers = json!([{ "name": name, "image": "localhost/other:1" }]);
        let patch = json!({ "spec": { list: containers } });
        let pods = world.api::<Pod>();
        async move { pods.patch("prosody-0", &PatchParams::default(), &Patch::Strategic(patch)).await }
    };
    let message = image("initContainers", "cartulary-sidecar").await.err().map(|error| error.to_string());
    let message = message.unwrap_or_default();
    ensure!(message.contains(refusal::IMAGE_FIXED), "another image in the sidecar's place: {message}");
    image("containers", "prosody").await?;

    // Everything else about both may change.
    let note = json!({ "metadata": { "annotations": { "a": "b" }, "labels": { "mine": "c" } } });
    for pod in ["prosody-0", "other-0"] {
        world.api::<Pod>().patch(pod, &PatchParams::default(), &Patch::Merge(&note)).await?;
    }
    world.runs("prosody-0").await?;
    world.delete::<Pod>("prosody-0").await
}
