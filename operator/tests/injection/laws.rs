//! Laws of injection, on generated pods over every dimension that decides something.

use crate::{cluster, image, pod};
use cartulary_operator::inject::{SidecarImage, inject};
use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const SIDECAR: &str = "cartulary-sidecar";
const VOLUMES: [&str; 4] = ["cartulary-config", "cartulary-run", "cartulary-journal", "cartulary-no-token"];
const VARIABLES: [&str; 3] = ["PROSODY_CONFIG", "CARTULARY_SERVER_CONFIG", "CARTULARY_LINK"];

fn name() -> impl Strategy<Value = String> {
    let of_note = prop_oneof![
        4 => Just("prosody"),
        1 => Just(SIDECAR),
        1 => proptest::sample::select(VOLUMES.to_vec()),
    ];
    prop_oneof!["[a-z]{1,6}", of_note.prop_map(str::to_owned)]
}

fn variable() -> impl Strategy<Value = Value> {
    let names = prop_oneof![proptest::sample::select(VARIABLES.to_vec()), Just("HOME")];
    let value = prop_oneof![
        3 => "/?[a-z/$()]{0,8}".prop_map(|value| json!({ "value": value })),
        1 => Just(json!({ "value": "/run/cartulary/prosody/prosody.cfg.lua" })),
        1 => Just(json!({ "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } })),
        1 => Just(json!({})),
    ];
    (names, value).prop_map(|(name, mut variable)| {
        variable["name"] = json!(name);
        variable
    })
}

fn mount() -> impl Strategy<Value = Value> {
    let path = prop_oneof![
        4 => "/[a-z/]{0,8}",
        1 => "/(var/)?run(/cartulary)?(/[a-z.]{1,3})?",
    ];
    (name(), path, of("[a-z]{1,3}")).prop_map(|(name, path, sub)| {
        let mut mount = json!({ "name": name, "mountPath": path });
        if let Some(sub) = sub {
            mount["subPath"] = json!(sub);
        }
        mount
    })
}

prop_compose! {
    fn container()(
        name in name(),
        command in weighted(0.3, vec(prop_oneof![3 => Just("prosody"), 2 => Just("-F"), 1 => Just("--config=/x")], 0..3)),
        env in of(vec(variable(), 0..4)),
        mounts in of(vec(mount(), 0..3)),
        port in weighted(0.3, prop_oneof![9 => 1..65535_u32, 1 => Just(9467)]),
        restart in weighted(0.2, Just("Always")),
        security in weighted(0.3, (any::<bool>(), 0..3_u32)),
        tomorrow in of(any::<u8>()),
    ) -> Value {
        let mut container = json!({ "name": name, "image": "a" });
        let ports = port.map(|port| json!([{ "containerPort": port }]));
        let context = security.map(|(read_only, user)| json!({ "readOnlyRootFilesystem": read_only, "runAsUser": user }));
        let parts = [
            ("command", command.map(|command| json!(command))),
            ("env", env.map(|env| json!(env))),
            ("volumeMounts", mounts.map(|mounts| json!(mounts))),
            ("ports", ports),
            ("restartPolicy", restart.map(|restart| json!(restart))),
            ("securityContext", context),
            ("fieldOfTomorrow", tomorrow.map(|tomorrow| json!([{ "deep": tomorrow }]))),
        ];
        for (key, value) in parts {
            if let Some(value) = value {
                container[key] = value;
            }
        }
        container
    }
}

prop_compose! {
    fn any_spec()(
        containers in prop_oneof![3 => vec(container(), 1..2), 2 => vec(container(), 0..4)],
        init in of(vec(container(), 0..3)),
        volumes in of(vec(name(), 0..3)),
        security in of((of(0..3_u32), of(0..3_u32), any::<bool>())),
        shared in weighted(0.2, any::<bool>()),
        host in weighted(0.1, any::<bool>()),
        os in weighted(0.1, prop_oneof![Just("linux"), Just("windows")]),
        debugger in weighted(0.1, container()),
        tomorrow in of(any::<u8>()),
    ) -> Value {
        let mut spec = json!({ "containers": containers });
        let parts = [
            ("initContainers", init.map(|init| json!(init))),
            ("volumes", volumes.map(|names| names.iter().map(|name| json!({ "name": name, "emptyDir": {} })).collect())),
            ("securityContext", security.map(|(user, group, root)| {
                let mut context = json!({ "runAsNonRoot": root });
                user.into_iter().for_each(|user| context["runAsUser"] = json!(user));
                group.into_iter().for_each(|group| context["fsGroup"] = json!(group));
                context
            })),
            ("shareProcessNamespace", shared.map(|shared| json!(shared))),
            ("hostNetwork", host.map(|host| json!(host))),
            ("os", os.map(|os| json!({ "name": os }))),
            ("ephemeralContainers", debugger.map(|debugger| json!([debugger]))),
            ("fieldOfTomorrow", tomorrow.map(|tomorrow| json!({ "deep": tomorrow }))),
        ];
        for (key, value) in parts {
            if let Some(value) = value {
                spec[key] = value;
            }
        }
        spec
    }
}

prop_compose! {
    fn any_pod()(
        spec in any_spec(),
        stateful in any::<bool>(),
        named in any::<bool>(),
        old in weighted(0.2, "[0-9.]{1,5}"),
        note in of("[a-z]{1,4}"),
    ) -> Value {
        let mut pod = pod();
        pod["spec"] = spec;
        if !stateful {
            pod["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicaSet");
        }
        if !named {
            pod["metadata"].as_object_mut().expect("an object").remove("name");
        }
        old.into_iter().for_each(|old| pod["metadata"]["labels"]["cartulary.dev/injected"] = json!(old));
        note.into_iter().for_each(|note| pod["metadata"]["annotations"] = json!({ "mine": note }));
        pod
    }
}

prop_compose! {
    fn any_cluster()(named in any::<bool>(), ephemeral in any::<bool>(), block in any::<bool>()) -> Value {
        let mut spec = json!({ "journal": { "ephemeral": ephemeral }, "archiving": { "blockIfUnableToRecord": block } });
        if named {
            spec["container"] = json!("prosody");
        }
        spec
    }
}

/// Every list and object that is empty is as good as none.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let full = map.iter().map(|(key, value)| (key.clone(), without_empty(value)));
            Value::Object(full.filter(|(_, value)| !is_empty(value)).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value == &json!([]) || value == &json!({})
}

/// The pod without anything that is ours by its name.
fn users_own(pod: &Value, server: &Value, had_group: bool) -> Value {
    let mut pod = pod.clone();
    let drop = |list: &mut Value, names: &[&str]| {
        if let Some(list) = list.as_array_mut() {
            list.retain(|entry| !names.iter().any(|name| entry["name"] == *name));
        }
    };
    drop(&mut pod["spec"]["initContainers"], &[SIDECAR]);
    drop(&mut pod["spec"]["volumes"], &VOLUMES);
    pod["metadata"]["labels"]["cartulary.dev/injected"] = Value::Null;
    if !had_group {
        pod["spec"]["securityContext"]["fsGroup"] = Value::Null;
        pod["spec"]["securityContext"]["fsGroupChangePolicy"] = Value::Null;
    }
    let containers = pod["spec"]["containers"].as_array_mut().expect("a list");
    let prepared = containers.iter_mut().find(|container| container["name"] == *server).expect("the server");
    drop(&mut prepared["env"], &VARIABLES);
    drop(&mut prepared["volumeMounts"], &["cartulary-run", "cartulary-journal"]);
    let mut own = without_empty(&pod);
    // A container that is left with nothing is still there.
    own["spec"]["containers"] =
        pod["spec"]["containers"].as_array().expect("a list").iter().map(without_empty).collect();
    own
}

/// Parts of ours, as an older version may have left them in a copied pod.
fn leftovers(pod: &mut Value) {
    for (list, part) in [
        ("initContainers", json!({ "name": SIDECAR, "image": "old", "ports": [{ "containerPort": 9467 }] })),
        ("volumes", json!({ "name": "cartulary-journal", "emptyDir": {} })),
    ] {
        match pod["spec"][list].as_array_mut() {
            Some(list) => list.push(part),
            None => pod["spec"][list] = json!([part]),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn ko_3_injecting_twice_is_injecting_once(pod in any_pod(), spec in any_cluster()) {
        let cluster = cluster(spec);
        if let Ok(once) = inject(&pod, &cluster, &image()) {
            prop_assert_eq!(inject(&once, &cluster, &image()).expect("accepted once"), once.clone());
            let mut patched = pod.clone();
            json_patch::patch(&mut patched, &json_patch::diff(&pod, &once)).expect("it applies");
            prop_assert_eq!(patched, once);
        }
    }

    #[test]
    fn what_an_older_version_left_makes_no_difference(pod in any_pod(), spec in any_cluster()) {
        let cluster = cluster(spec);
        let older = SidecarImage { image: "localhost/cartulary:0".into(), version: "0.9".into(), ..image() };
        if let Ok(old) = inject(&pod, &cluster, &older) {
            prop_assert_eq!(inject(&old, &cluster, &image()), inject(&pod, &cluster, &image()));
        }
    }

    #[test]
    fn the_sidecar_is_the_first_and_the_only_one_of_its_name(pod in any_pod(), spec in any_cluster()) {
        if let Ok(injected) = inject(&pod, &cluster(spec), &image()) {
            let init = injected["spec"]["initContainers"].as_array().expect("a list");
            prop_assert_eq!(&init[0]["name"], SIDECAR);
            prop_assert_eq!(&init[0]["restartPolicy"], "Always");
            let all = init.iter().chain(injected["spec"]["containers"].as_array().expect("a list"));
            prop_assert_eq!(all.filter(|container| container["name"] == SIDECAR).count(), 1);
            prop_assert_eq!(&init[0]["securityContext"]["runAsNonRoot"], true);
            prop_assert!(init[0]["securityContext"]["runAsUser"] != 0);
        }
    }

    #[test]
    fn ko_3_what_the_user_wrote_stays(pod in any_pod(), spec in any_cluster()) {
        let server = spec.get("container").unwrap_or(&pod["spec"]["containers"][0]["name"]).clone();
        if let Ok(injected) = inject(&pod, &cluster(spec), &image()) {
            let had_group = !pod["spec"]["securityContext"]["fsGroup"].is_null();
            prop_assert_eq!(users_own(&injected, &server, had_group), users_own(&pod, &server, had_group));
        }
    }

    #[test]
    fn a_refusal_is_the_same_with_whatever_does_not_matter(pod in any_pod(), spec in any_cluster()) {
        let cluster = cluster(spec);
        if let Err(refusal) = inject(&pod, &cluster, &image()) {
            let mut other = pod.clone();
            other["spec"]["anotherFieldOfTomorrow"] = json!({ "hostNetwork": true });
            other["metadata"]["annotations"]["another"] = json!("x");
            leftovers(&mut other);
            prop_assert_eq!(inject(&other, &cluster, &image()), Err(refusal));
        }
    }
}
