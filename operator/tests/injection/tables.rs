//! Single fields, and how each decides.

use crate::{cluster, image, pod};
use cartulary_operator::inject::{Refusal, inject};
use cartulary_operator::reasons::refusal as reason;
use serde_json::{Value, json};

fn refused(pod: &Value, spec: Value) -> &'static str {
    let refusal: Refusal = inject(pod, &cluster(spec), &image()).expect_err("refused");
    refusal.reason
}

#[test]
fn a_server_started_with_its_configuration_named_is_refused() {
    let lines = [
        json!({ "args": ["prosody", "--config", "/x"] }),
        json!({ "command": ["prosody", "--config=/x"] }),
        json!({ "command": ["prosody", "-config", "/x"] }),
        json!({ "command": ["sh", "-c", "exec prosody --config /x"] }),
        json!({ "command": ["env", "PROSODY_CONFIG=/x", "prosody"] }),
        json!({ "args": ["sh", "-c", "export LANG=C;PROSODY_CONFIG=/x prosody"] }),
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
        "/srv/../run/cartulary",
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

#[test]
fn a_pod_that_cannot_be_recorded_is_refused_whatever_else_it_says() {
    let with = |change: fn(&mut Value)| {
        let mut pod = pod();
        change(&mut pod);
        refused(&pod, json!({}))
    };
    assert_eq!(with(|pod| pod["spec"]["hostNetwork"] = json!(true)), reason::HOST_NETWORK);
    assert_eq!(with(|pod| pod["spec"]["os"] = json!({ "name": "windows" })), reason::NOT_LINUX);
    let selector = |pod: &mut Value| pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/os": "windows" });
    assert_eq!(with(selector), reason::NOT_LINUX);
    let mirror =
        |pod: &mut Value| pod["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    assert_eq!(with(mirror), reason::STATIC_POD);
    let name = |pod: &mut Value| pod["spec"]["containers"][0]["name"] = json!("cartulary-sidecar");
    assert_eq!(with(name), reason::NAME_TAKEN);
    for fine in [json!({ "hostNetwork": false }), json!({ "os": { "name": "linux" } })] {
        let mut pod = pod();
        for (key, value) in fine.as_object().expect("an object") {
            pod["spec"][key] = value.clone();
        }
        assert!(inject(&pod, &cluster(json!({})), &image()).is_ok(), "{fine}");
    }
}
