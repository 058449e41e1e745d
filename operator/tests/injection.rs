//! Injection, shown by golden pairs and held to its laws on pods nobody thought of.
//!
//! `UPDATE_GOLDEN=1 cargo test -p cartulary-operator --test injection` rewrites what is expected; read the difference.

use cartulary_crds::XmppCluster;
use cartulary_operator::inject::{Refusal, SidecarImage, inject};
use cartulary_operator::reasons::refusal as reason;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;

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

fn refused(pod: &Value, spec: Value) -> &'static str {
    let refusal: Refusal = inject(pod, &cluster(spec), &image()).expect_err("refused");
    refusal.reason
}

#[test]
fn every_golden_pod_is_injected_as_written_down() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/inject");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("golden files") {
        let path = entry.expect("readable").path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".pod.yaml")) else {
            continue;
        };
        let text = std::fs::read_to_string(&path).expect("readable");
        let mut documents = serde_yaml_ng::Deserializer::from_str(&text)
            .map(|document| <Value as serde::Deserialize>::deserialize(document).expect("YAML"));
        let spec = documents.next().expect("first the XMPPCluster's spec");
        let pod = documents.next().expect("then the pod");
        let injected = inject(&pod, &cluster(spec), &image()).expect(name);
        let expected = folder.join(format!("{name}.injected.yaml"));
        let actual = serde_yaml_ng::to_string(&injected).expect("YAML");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &actual).expect("written");
        }
        assert_eq!(actual, std::fs::read_to_string(&expected).expect("its golden file"), "{name}");
        seen += 1;
    }
    assert!(seen >= 3);
}

#[test]
fn a_server_started_with_its_configuration_named_is_refused() {
    let lines = [
        json!({ "args": ["prosody", "--config", "/x"] }),
        json!({ "command": ["prosody", "--config=/x"] }),
        json!({ "command": ["prosody", "-config", "/x"] }),
        json!({ "command": ["sh", "-c", "exec prosody --config /x"] }),
    ];
    for line in lines {
        let mut pod = pod();
        for (key, value) in line.as_object().expect("an object") {
            pod["spec"]["containers"][0][key] = value.clone();
        }
        assert_eq!(refused(&pod, json!({})), reason::CONFIG_ON_COMMAND_LINE);
    }
}

#[test]
fn several_containers_need_a_name_and_the_name_must_fit() {
    let mut pod = pod();
    pod["spec"]["containers"] = json!([{ "name": "metrics" }, { "name": "prosody" }]);
    assert_eq!(refused(&pod, json!({})), reason::CONTAINER_NOT_NAMED);
    assert_eq!(refused(&pod, json!({ "container": "prosdy" })), reason::CONTAINER_MISSING);
    let injected = inject(&pod, &cluster(json!({ "container": "prosody" })), &image()).expect("named");
    assert!(injected["spec"]["containers"][0].get("env").is_none(), "the other container is left alone");
    assert!(injected["spec"]["containers"][1]["env"].is_array());
}

#[test]
fn blocking_needs_a_journal_that_outlives_the_pod_or_consent() {
    let mut pod = pod();
    pod["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicaSet");
    let block = json!({ "blockIfUnableToRecord": true });
    assert_eq!(refused(&pod, json!({ "archiving": block })), reason::JOURNAL_NOT_DURABLE);
    let consent = cluster(json!({ "archiving": block, "journal": { "ephemeral": true } }));
    assert!(inject(&pod, &consent, &image()).is_ok());
    assert!(inject(&pod, &cluster(json!({})), &image()).is_ok());
}

#[test]
fn what_the_sidecar_needs_may_not_be_taken() {
    let mut port = pod();
    port["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 9467 }]);
    assert_eq!(refused(&port, json!({})), reason::PORT_TAKEN);
    let mounting = |path: &str| {
        let mut pod = pod();
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "mine", "mountPath": path }]);
        pod
    };
    for path in [
        "/run/cartulary/",
        "/run/cartulary/prosody/prosody.cfg.lua",
        "/run//cartulary/./prosody",
        "/var/run/cartulary",
    ] {
        assert_eq!(refused(&mounting(path), json!({})), reason::MOUNT_TAKEN, "{path}");
    }
    for path in ["/run", "/run/cartulary-of-mine", "/var/lib/prosody"] {
        assert!(inject(&mounting(path), &cluster(json!({})), &image()).is_ok(), "{path}");
    }
    let mut elsewhere = pod();
    elsewhere["spec"]["containers"][0]["env"] = json!([{ "name": "PROSODY_CONFIG", "valueFrom": { "configMapKeyRef": { "name": "a", "key": "b" } } }]);
    assert_eq!(refused(&elsewhere, json!({})), reason::CONFIG_PATH_UNKNOWN);
}

#[test]
fn a_pod_of_the_wrong_shape_is_refused_and_never_a_panic() {
    for pod in
        [json!(null), json!([]), json!({ "metadata": {}, "spec": 7 }), json!({ "metadata": 1, "spec": {} })]
    {
        assert_eq!(refused(&pod, json!({})), reason::MALFORMED);
    }
    let mut list = pod();
    list["spec"]["containers"] = json!({ "name": "prosody" });
    assert_eq!(refused(&list, json!({})), reason::MALFORMED);
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,6}",
        Just("prosody".to_owned()),
        Just("cartulary-sidecar".to_owned()),
        Just("cartulary-run".to_owned())
    ]
}

fn variable() -> impl Strategy<Value = Value> {
    (prop_oneof![Just("PROSODY_CONFIG"), Just("CARTULARY_SERVER_CONFIG"), Just("HOME")], "/?[a-z/$()]{0,8}")
        .prop_map(|(name, value)| json!({ "name": name, "value": value }))
}

fn container() -> impl Strategy<Value = Value> {
    let mount = (name(), "/[a-z/]{0,8}").prop_map(|(name, path)| json!({ "name": name, "mountPath": path }));
    (
        name(),
        proptest::option::of(proptest::collection::vec(variable(), 0..4)),
        proptest::option::of(proptest::collection::vec(mount, 0..3)),
        proptest::option::of(any::<u8>()),
    )
        .prop_map(|(name, env, mounts, new_field)| {
            json!({ "name": name, "env": env, "volumeMounts": mounts, "fieldOfTomorrow": new_field })
        })
}

prop_compose! {
    fn any_pod()(
        stateful in any::<bool>(),
        containers in proptest::collection::vec(container(), 0..3),
        init in proptest::option::of(proptest::collection::vec(container(), 0..3)),
        volumes in proptest::option::of(proptest::collection::vec(name().prop_map(|name| json!({ "name": name })), 0..3)),
        security in proptest::option::of((proptest::option::of(0..3), proptest::option::of(0..3))),
    ) -> Value {
        let mut pod = pod();
        if !stateful {
            pod["metadata"].as_object_mut().expect("an object").remove("ownerReferences");
        }
        pod["spec"] = json!({
            "containers": containers,
            "initContainers": init,
            "volumes": volumes,
            "securityContext": security.map(|(user, group)| json!({ "runAsUser": user, "fsGroup": group })),
        });
        pod
    }
}

proptest! {
    #[test]
    fn injecting_twice_is_injecting_once(pod in any_pod(), named in any::<bool>(), ephemeral in any::<bool>()) {
        let mut spec = json!({ "journal": { "ephemeral": ephemeral } });
        if named {
            spec["container"] = json!("prosody");
        }
        let cluster = cluster(spec);
        if let Ok(once) = inject(&pod, &cluster, &image()) {
            prop_assert_eq!(inject(&once, &cluster, &image()).expect("accepted once"), once.clone());
            prop_assert_eq!(&once["spec"]["initContainers"][0]["name"], "cartulary-sidecar");
            let mut patched = pod.clone();
            json_patch::patch(&mut patched, &json_patch::diff(&pod, &once)).expect("it applies");
            prop_assert_eq!(patched, once);
        }
    }

    #[test]
    fn what_the_user_wrote_stays(pod in any_pod()) {
        let cluster = cluster(json!({}));
        if let Ok(injected) = inject(&pod, &cluster, &image()) {
            for (before, after) in pod["spec"]["containers"].as_array().expect("a list").iter()
                .zip(injected["spec"]["containers"].as_array().expect("a list")) {
                prop_assert_eq!(&before["name"], &after["name"]);
                prop_assert_eq!(&before["fieldOfTomorrow"], &after["fieldOfTomorrow"]);
            }
        }
    }
}
