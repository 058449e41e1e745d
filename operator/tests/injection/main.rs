//! Injection: shown by pairs of files, held to its laws on pods nobody thought of, and asked about single fields.

mod golden;
mod laws;
mod tables;

use cartulary_crds::XmppCluster;
use cartulary_operator::inject::SidecarImage;
use serde_json::{Value, json};

fn image() -> SidecarImage {
    SidecarImage {
        image: "localhost/cartulary:1".into(),
        pull_policy: "IfNotPresent".into(),
        version: "1.0.0+x".into(),
    }
}

fn cluster(spec: Value) -> XmppCluster {
    let mut spec = spec;
    spec["server"] = json!("Prosody");
    XmppCluster::new("chat", serde_json::from_value(spec).expect("a spec"))
}

/// A StatefulSet's pod as the API server hands it to the webhook.
fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "prosody-0",
            "labels": { "cartulary.dev/cluster": "chat" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "prosody", "uid": "1", "controller": true }],
        },
        "spec": { "containers": [{ "name": "prosody", "image": "prosody:13" }] },
    })
}
