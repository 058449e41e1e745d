//! ComplianceServers and Profiles, from applying them to taking them away.

use crate::definitions::create;
use crate::reconciling::{configuration, sidecar};
use crate::world::{World, manifest, until};
use anyhow::{Context, Result, ensure};
use cartulary_compliance::profile::{SYSTEM_DEFAULT, SYSTEM_DEFAULT_RESOURCE};
use cartulary_compliance::status::{ComplianceServerStatus, LinkCause, LinkState};
use cartulary_crds::{ArchiveEndpoint, ComplianceServer, Profile, XmppCluster};
use cartulary_operator::reasons::{self as reason, refusal};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use rcgen::{CertificateParams, KeyPair};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A namespace with an archive, and ComplianceServers that have their Secrets.
async fn world(test: &str, servers: &[&str]) -> Result<World> {
    let world = World::start(test).await?;
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    for name in servers {
        secret(&world, name, json!({ "password": "not a real one" })).await?;
        world.create::<ComplianceServer>(manifest("ComplianceServer", name, server(name))).await?;
    }
    Ok(world)
}

fn server(host: &str) -> Value {
    json!({ "host": host, "port": 5347, "passwordSecret": { "name": host }, "tls": { "mode": "Disable" } })
}

async fn secret(world: &World, name: &str, data: Value) -> Result<()> {
    let secret =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data });
    world.api::<Secret>().patch(name, &PatchParams::apply("test").force(), &Patch::Apply(secret)).await?;
    Ok(())
}

async fn profile(world: &World, name: &str, spec: Value) -> Result<Profile, kube::Error> {
    world.create(manifest("Profile", name, spec)).await
}

/// An XMPPCluster that assigns these, and nothing to complain of besides.
fn assigning(servers: Value) -> Value {
    json!({ "archiving": { "outbound": true }, "compliance": { "servers": servers } })
}

async fn change(world: &World, patch: Value) -> Result<XmppCluster, kube::Error> {
    world.api::<XmppCluster>().patch("chat", &PatchParams::default(), &Patch::Merge(patch)).await
}

async fn accepted(world: &World, status: &str, reason: &str) -> Result<()> {
    world.condition::<XmppCluster>("chat", "Accepted", status, reason).await
}

fn refusal_of<T: std::fmt::Debug>(result: Result<T, kube::Error>) -> String {
    result.expect_err("it is refused").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn cs_1_a_host_has_the_characters_of_the_source_or_is_an_address() -> Result<()> {
    let world = world("hosts", &[]).await?;
    for host in ["wall.example", "10.0.0.7", r"site\wall-1_b", "2001:db8::7", "::1"] {
        let mut spec = server("wall");
        spec["host"] = json!(host);
        world.create::<ComplianceServer>(manifest("ComplianceServer", "wall", spec)).await.context(host)?;
        world.delete::<ComplianceServer>("wall").await?;
    }
    for host in ["wall example", "wall/x", "wäll", "[::1]", "2001:db8::x", "wall:5347", "user@wall", ""] {
        let mut spec = server("wall");
        spec["host"] = json!(host);
        let error =
            refusal_of(world.create::<ComplianceServer>(manifest("ComplianceServer", "wall", spec)).await);
        assert!(error.contains("host"), "{host}: {error}");
    }
    let dotted = manifest("ComplianceServer", "wall.example", server("wall"));
    assert!(refusal_of(world.create::<ComplianceServer>(dotted).await).contains("op-NAME.POD"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cs_6_turning_compliance_off_and_on_loses_no_settings() -> Result<()> {
    let world = world("off-and-on", &["wall", "other"]).await?;
    profile(&world, "wall", json!({ "events": [{ "event": "es_OUT" }] })).await?;
    let mut spec = assigning(json!([
        { "server": "wall", "profile": "wall" }, { "server": "other", "profile": "wall" },
    ]));
    spec["compliance"]["eventTimeout"] = json!("7s");
    let made = world.cluster(spec).await?;
    accepted(&world, "True", reason::OK).await?;
    let on = configuration(&world).await?.0.compliance;
    assert_eq!((on.servers.len(), on.profiles[0].servers.len(), on.event_timeout_ms), (2, 2, 7000));

    change(&world, json!({ "spec": { "compliance": { "enabled": false } } })).await?;
    until("nobody is asked", || async {
        let compliance = configuration(&world).await?.0.compliance;
        Ok((compliance.servers.is_empty() && compliance.profiles.is_empty()).then_some(()))
    })
    .await?;
    // Settings that are kept need what they refer to.
    let api = world.api::<Profile>();
    let refused = refusal_of(api.delete("wall", &DeleteParams::default()).await);
    assert!(refused.contains(refusal::PROFILE_IN_USE), "{refused}");

    let back = change(&world, json!({ "spec": { "compliance": { "enabled": true } } })).await?;
    assert_eq!(back.spec, made.spec);
    until("they are asked again", || async {
        Ok((configuration(&world).await?.0.compliance == on).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn cs_5_a_password_and_certificates_that_are_rotated_take_effect() -> Result<()> {
    let world = world("rotated", &["wall"]).await?;
    let mut spec = server("wall");
    spec["tls"] = json!({ "mode": "VerifyFull", "caSecret": { "name": "ca" }, "clientCertificateSecret": { "name": "own" }, "serverName": "wall.example" });
    let update = json!({ "spec": spec });
    world.api::<ComplianceServer>().patch("wall", &PatchParams::default(), &Patch::Merge(&update)).await?;
    let (one, other) = (KeyPair::generate()?, KeyPair::generate()?);
    let certificate =
        |key: &KeyPair| anyhow::Ok(CertificateParams::new(["x".to_owned()])?.self_signed(key)?.pem());
    world.cluster(assigning(json!([{ "server": "wall", "profile": SYSTEM_DEFAULT }]))).await?;
    accepted(&world, "False", reason::SECRET_MISSING).await?;
    secret(&world, "ca", json!({ "ca.crt": "nonsense" })).await?;
    secret(&world, "own", json!({ "tls.crt": certificate(&one)?, "tls.key": other.serialize_pem() })).await?;
    accepted(&world, "False", reason::TLS_UNUSABLE).await?;
    secret(&world, "ca", json!({ "ca.crt": certificate(&one)? })).await?;
    until("the key is looked at", || async {
        let server = world.api::<ComplianceServer>().get("wall").await?;
        let conditions = server.status.unwrap_or_default().conditions;
        let told = conditions
            .iter()
            .any(|condition| condition.message.contains("tls.key is not the key of tls.crt"));
        Ok(told.then_some(()))
    })
    .await?;
    secret(&world, "own", json!({ "tls.crt": certificate(&one)?, "tls.key": one.serialize_pem() })).await?;
    accepted(&world, "True", reason::TOLD_ONLY).await?;
    world.condition::<ComplianceServer>("wall", "Accepted", "True", reason::OK).await?;

    let old = configuration(&world).await?.0;
    secret(&world, "wall", json!({ "password": "another one" })).await?;
    until("the new password is in the configuration", || async {
        let new = configuration(&world).await?.0;
        let changed = new.compliance.servers["wall"].password == "another one";
        ensure!(new.generation == old.generation, "the declaration is the same");
        Ok(changed.then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pr_1_a_profile_has_events_with_packet_types_and_handling_and_says_what_is_none() -> Result<()> {
    let world = world("profiles", &["wall"]).await?;
    let refused = [
        (json!([]), "should have at least 1 items"),
        (json!([{ "event": "e_OTHER" }]), "Unsupported value"),
        (json!([{ "event": "es_OUT" }, { "event": "es_OUT" }]), "Duplicate value"),
        (json!([{ "event": "es_OUT", "packetTypes": ["mail"] }]), "Unsupported value"),
        (json!([{ "event": "es_OUT", "packetTypes": ["all", "iq"] }]), "all alone says it"),
        (json!([{ "event": "onLeave", "packetTypes": ["message"] }]), "JSM events"),
        (json!([{ "event": "es_OUT", "handling": "drop" }]), "Unsupported value"),
    ];
    for (events, sentence) in refused {
        let error = refusal_of(create(&world, "Profile", json!({ "events": events })).await);
        assert!(error.contains(sentence), "{events}: {error}");
    }
    let events = json!([
        { "event": "es_OUT", "packetTypes": ["message", "iq"], "handling": "pass" },
        { "event": "e_DELIVER", "packetTypes": ["all"] },
        { "event": "es_IN", "fireAndForget": true },
        { "event": "onBeforeJoin", "handling": "bounce" },
    ]);
    profile(&world, "mine", json!({ "displayName": "MineToo", "events": events })).await?;
    world.cluster(assigning(json!([{ "server": "wall", "profile": "MineToo" }]))).await?;
    accepted(&world, "True", reason::OK).await?;
    let told = serde_json::to_value(&configuration(&world).await?.0.compliance.profiles)?;
    let expected = json!([{ "name": "MineToo", "servers": ["wall"], "events": [
        { "event": "es_OUT", "packets": ["message", "iq"], "handling": "pass", "fireAndForget": false },
        { "event": "e_DELIVER", "fireAndForget": false },
        // Nothing is discarded but where somebody says so.
        { "event": "es_IN", "handling": "pass", "fireAndForget": true },
        { "event": "onBeforeJoin", "handling": "bounce", "fireAndForget": false },
    ] }]);
    assert_eq!(told, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pr_2_bounce_with_fire_and_forget_is_allowed_and_warned_of() -> Result<()> {
    let world = world("discards", &["wall"]).await?;
    let events = json!([{ "event": "es_OUT", "handling": "bounce", "fireAndForget": true }]);
    let yaml = manifest("Profile", "silent", json!({ "events": events })).to_string();
    let said = world.kubectl(&["apply", "-f", "-"], &yaml)?;
    ensure!(said.contains("Warning: cartulary: bounce with fireAndForget discards es_OUT"), "{said}");
    world.condition::<Profile>("silent", "Ready", "True", reason::DISCARDS).await?;

    let cluster = manifest("XMPPCluster", "chat", {
        let mut spec = assigning(json!([{ "server": "wall", "profile": "silent" }]));
        spec["server"] = json!("Prosody");
        spec
    });
    let said = world.kubectl(&["apply", "-f", "-"], &cluster.to_string())?;
    ensure!(said.contains("Warning: cartulary: Profile silent: bounce with fireAndForget"), "{said}");
    accepted(&world, "True", reason::DISCARDS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pr_3_what_is_in_use_is_neither_deleted_nor_renamed_but_goes_with_its_namespace() -> Result<()> {
    let world = world("in-use", &["wall"]).await?;
    let events = json!([{ "event": "es_OUT" }]);
    profile(&world, "wall-profile", json!({ "displayName": "Wall", "events": events })).await?;
    profile(&world, "spare", json!({ "events": events })).await?;
    for (name, spaced) in [("a", "With Space"), ("b", "With-Dash"), ("c", "")] {
        let error =
            refusal_of(profile(&world, name, json!({ "displayName": spaced, "events": events })).await);
        assert!(error.contains("displayName"), "{error}");
    }
    for taken in ["Wall", "spare"] {
        let error =
            refusal_of(profile(&world, "other", json!({ "displayName": taken, "events": events })).await);
        assert!(error.contains(refusal::DISPLAY_NAME_TAKEN), "{error}");
    }
    world.cluster(assigning(json!([{ "server": "wall", "profile": "Wall" }]))).await?;
    accepted(&world, "True", reason::OK).await?;

    let (profiles, servers) = (world.api::<Profile>(), world.api::<ComplianceServer>());
    let delete = DeleteParams::default();
    let error = refusal_of(profiles.delete("wall-profile", &delete).await);
    assert!(error.contains(refusal::PROFILE_IN_USE) && error.contains("chat"), "{error}");
    let error = refusal_of(servers.delete("wall", &delete).await);
    assert!(error.contains(refusal::SERVER_IN_USE), "{error}");
    for rename in [json!("Walls"), Value::Null] {
        let patch = json!({ "spec": { "displayName": rename } });
        let error =
            refusal_of(profiles.patch("wall-profile", &PatchParams::default(), &Patch::Merge(patch)).await);
        assert!(error.contains(refusal::PROFILE_IN_USE), "{error}");
    }
    // Everything else about it may change, and what nobody uses may go.
    let patch = json!({ "spec": { "description": "x", "events": [{ "event": "es_IN" }] } });
    profiles.patch("wall-profile", &PatchParams::default(), &Patch::Merge(patch)).await?;
    until("the change is told", || async {
        let profiles = configuration(&world).await?.0.compliance.profiles;
        Ok((profiles[0].events[0].event == "es_IN").then_some(()))
    })
    .await?;
    world.delete::<Profile>("spare").await?;

    let namespaces = Api::<Namespace>::all(world.client.clone());
    namespaces.delete(&world.namespace, &delete).await?;
    until("the namespace is gone", || async {
        Ok(namespaces.get_opt(&world.namespace).await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pr_4_the_system_default_profile_is_always_there_and_read_only() -> Result<()> {
    let world = world("always", &["wall"]).await?;
    let profiles = world.api::<Profile>();
    let there = || async { Ok(profiles.get_opt(SYSTEM_DEFAULT_RESOURCE).await?) };
    let made = until("the operator makes it", there).await?;
    assert_eq!(made.spec.display_name.as_deref(), Some(SYSTEM_DEFAULT));
    assert_eq!(made.spec.events.len(), 9);

    for patch in [
        json!({ "spec": { "events": [{ "event": "es_OUT" }] } }),
        json!({ "spec": { "priority": 5 } }),
        json!({ "spec": { "description": "mine" } }),
    ] {
        let error = refusal_of(
            profiles.patch(SYSTEM_DEFAULT_RESOURCE, &PatchParams::default(), &Patch::Merge(patch)).await,
        );
        assert!(error.contains(refusal::PROFILE_READ_ONLY), "{error}");
    }
    let delete = DeleteParams::default();
    let error = refusal_of(profiles.delete(SYSTEM_DEFAULT_RESOURCE, &delete).await);
    assert!(error.contains(refusal::PROFILE_READ_ONLY), "{error}");
    let spec = json!({ "displayName": SYSTEM_DEFAULT, "events": [{ "event": "es_OUT" }] });
    let error = refusal_of(profile(&world, "imposter", spec).await);
    assert!(error.contains("belong to the profile that the operator keeps"), "{error}");

    // Assigned and unassigned like any other, by either name.
    world.cluster(assigning(json!([{ "server": "wall", "profile": SYSTEM_DEFAULT }]))).await?;
    // Prosody only tells that a session has ended, which is said.
    accepted(&world, "True", reason::TOLD_ONLY).await?;
    let told = configuration(&world).await?.0.compliance.profiles;
    assert_eq!(
        (told[0].name.as_str(), &told[0].events),
        (SYSTEM_DEFAULT, &cartulary_compliance::profile::system_default())
    );
    change(&world, assigned(json!([{ "server": "wall", "profile": SYSTEM_DEFAULT_RESOURCE }]))).await?;
    let error = refusal_of(profiles.delete(SYSTEM_DEFAULT_RESOURCE, &delete).await);
    assert!(error.contains(refusal::PROFILE_IN_USE), "{error}");
    change(&world, assigned(json!([]))).await?;
    accepted(&world, "True", reason::OK).await?;

    // It goes with the last that could use it.
    world.delete::<XmppCluster>("chat").await?;
    world.delete::<ComplianceServer>("wall").await?;
    until("it is gone", || async {
        Ok(profiles.get_opt(SYSTEM_DEFAULT_RESOURCE).await?.is_none().then_some(()))
    })
    .await
}

fn assigned(servers: Value) -> Value {
    json!({ "spec": { "compliance": { "servers": servers } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn pr_6_profiles_are_asked_by_priority_and_then_in_the_order_of_their_creation() -> Result<()> {
    let world = world("order-of-profiles", &["wall"]).await?;
    let spec = |priority: Value| json!({ "events": [{ "event": "es_OUT" }], "priority": priority });
    // Created within the same second or not: names are in the same order as creation.
    for (name, priority) in [("a", Value::Null), ("b", json!(5)), ("c", Value::Null), ("d", json!(7))] {
        profile(&world, name, spec(priority)).await?;
    }
    let servers: Vec<_> =
        ["c", "a", "b", "d"].map(|profile| json!({ "server": "wall", "profile": profile })).into();
    world.cluster(assigning(json!(servers))).await?;
    let order = || async {
        let profiles = configuration(&world).await?.0.compliance.profiles;
        anyhow::Ok(profiles.into_iter().map(|profile| profile.name).collect::<Vec<_>>())
    };
    // One server gets one event from all of them.
    accepted(&world, "True", reason::EVENT_TWICE).await?;
    assert_eq!(order().await?, ["d", "b", "a", "c"]);
    let patch = json!({ "spec": { "priority": 6 } });
    world.api::<Profile>().patch("c", &PatchParams::default(), &Patch::Merge(patch)).await?;
    until("the order has changed", || async { Ok((order().await? == ["d", "c", "b", "a"]).then_some(())) })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn fh_5_an_assignment_that_would_split_a_profile_s_servers_is_refused() -> Result<()> {
    let world = world("split", &["one", "two"]).await?;
    profile(&world, "shared", json!({ "displayName": "Shared", "events": [{ "event": "es_OUT" }] })).await?;
    world
        .cluster(assigning(json!([
            { "server": "one", "profile": "shared" }, { "server": "two", "profile": "Shared" },
        ])))
        .await?;
    accepted(&world, "True", reason::OK).await?;
    let good = configuration(&world).await?.1.resource_version();
    let split = json!([
        { "server": "one", "profile": "shared", "nodes": ["prosody-0"] }, { "server": "two", "profile": "Shared" },
    ]);
    change(&world, assigned(split)).await?;
    accepted(&world, "False", reason::PROFILE_SPLIT).await?;
    assert_eq!(configuration(&world).await?.1.resource_version(), good, "the last good one stays");
    // The same nodes for both split no set; that it is not in force everywhere is warned of.
    let alike = json!([
        { "server": "one", "profile": "shared", "nodes": ["prosody-0"] },
        { "server": "two", "profile": "Shared", "nodes": ["prosody-0"] },
    ]);
    change(&world, assigned(alike)).await?;
    accepted(&world, "True", reason::NODES_RESTRICTED).await?;
    assert_eq!(
        configuration(&world).await?.0.compliance.profiles[0].nodes,
        Some(vec!["prosody-0".to_owned()])
    );
    for (servers, expected) in [
        (json!([{ "server": "three", "profile": "shared" }]), reason::SERVER_MISSING),
        (json!([{ "server": "one", "profile": "unknown" }]), reason::PROFILE_MISSING),
    ] {
        change(&world, assigned(servers)).await?;
        accepted(&world, "False", expected).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cs_8_a_link_that_is_lost_and_back_shows_everywhere() -> Result<()> {
    let mut world = world("links", &["wall"]).await?;
    world.cluster(assigning(json!([{ "server": "wall", "profile": SYSTEM_DEFAULT }]))).await?;
    accepted(&world, "True", reason::TOLD_ONLY).await?;
    world.condition::<ComplianceServer>("wall", "Reachable", "Unknown", reason::UNUSED).await?;
    world.stateful_set().await?;
    world.runs("prosody-0").await?;
    let (_, secret) = configuration(&world).await?;
    let hash = secret.annotations()[cartulary_operator::cluster::build::HASH].clone();
    let mut status = sidecar("prosody-0", &hash);
    let link = ComplianceServerStatus { state: LinkState::Active, in_service: true, ..Default::default() };
    status.compliance_servers.insert("wall".into(), link);
    let fake = world.sidecar(status).await?;
    world.condition::<XmppCluster>("chat", "ComplianceServed", "True", reason::CONNECTED).await?;
    world.condition::<XmppCluster>("chat", "Ready", "True", reason::OK).await?;
    world.condition::<ComplianceServer>("wall", "Reachable", "True", reason::CONNECTED).await?;
    world.condition::<ComplianceServer>("wall", "Ready", "True", reason::OK).await?;
    let server = world.api::<ComplianceServer>().get("wall").await?.status.context("a status")?;
    assert_eq!(server.active.as_deref(), Some("1/1"));
    assert_eq!((server.nodes[0].component.as_str(), server.nodes[0].stable), ("op-wall.prosody-0", true));
    let profile = world.api::<Profile>().get(SYSTEM_DEFAULT_RESOURCE).await?.status.context("a status")?;
    assert_eq!((profile.servers, profile.used_by), (vec!["wall".to_owned()], vec!["chat".to_owned()]));

    let set = |state, in_service, cause| {
        fake.change(|status| {
            let link = status.compliance_servers.get_mut("wall").expect("there");
            (link.state, link.in_service, link.cause) = (state, in_service, cause);
            link.message = "wall:5347: connection refused".into();
        });
    };
    set(LinkState::Gone, false, Some(LinkCause::Refused));
    world.condition::<ComplianceServer>("wall", "Ready", "False", reason::REFUSED).await?;
    world.condition::<XmppCluster>("chat", "ComplianceServed", "False", reason::REFUSED).await?;
    world.condition::<XmppCluster>("chat", "Ready", "False", reason::REFUSED).await?;
    set(LinkState::Active, true, None);
    world.condition::<XmppCluster>("chat", "ComplianceServed", "True", reason::CONNECTED).await?;
    let events = world.api::<Event>();
    for (expected, kind) in [(reason::REFUSED, "Warning"), (reason::SERVER_IN_SERVICE, "Normal")] {
        until("an event of the server tells it", || async {
            let told = events.list(&ListParams::default()).await?.into_iter().any(|event| {
                let about = event.regarding.as_ref().and_then(|of| of.kind.clone());
                event.reason.as_deref() == Some(expected)
                    && event.type_.as_deref() == Some(kind)
                    && about.as_deref() == Some("ComplianceServer")
            });
            Ok(told.then_some(()))
        })
        .await?;
    }
    let version = world.api::<ComplianceServer>().get("wall").await?.resource_version();
    fake.asked(3).await?;
    assert_eq!(
        world.api::<ComplianceServer>().get("wall").await?.resource_version(),
        version,
        "idle means no writes"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_taken_and_can_be_carried_out() -> Result<()> {
    let world = World::start("examples").await?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["x".to_owned()])?.self_signed(&key)?.pem();
    for name in ["wall", "redactor", "logger"] {
        secret(&world, name, json!({ "password": "not a real one" })).await?;
    }
    secret(&world, "logger-ca", json!({ "ca.crt": certificate })).await?;
    secret(&world, "logger-client", json!({ "tls.crt": certificate, "tls.key": key.serialize_pem() }))
        .await?;
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for file in ["quickstart/recording.yaml", "compliance/servers.yaml", "compliance/profiles.yaml"] {
        apply(&world, &examples.join(file)).await?;
    }
    accepted(&world, "True", reason::OK).await?;
    apply(&world, &examples.join("compliance/chat.yaml")).await?;
    accepted(&world, "True", reason::TOLD_ONLY).await?;
    let compliance = until("it is in the configuration", || async {
        let compliance = configuration(&world).await?.0.compliance;
        Ok((!compliance.profiles.is_empty()).then_some(compliance))
    })
    .await?;
    let names: Vec<_> = compliance.profiles.iter().map(|profile| profile.name.as_str()).collect();
    assert_eq!(names[..2], ["EthicalWall", "Redaction"]);
    assert_eq!((names.len(), compliance.servers.len()), (4, 3));
    assert!(compliance.servers["logger"].tls.as_ref().is_some_and(|tls| tls.identity.is_some()));
    Ok(())
}

async fn apply(world: &World, file: &PathBuf) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let object = Value::deserialize(document)?;
        let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
        let params = PatchParams::apply("examples").force();
        let patch = Patch::Apply(&object);
        match object["kind"].as_str() {
            Some("XMPPCluster") => drop(world.api::<XmppCluster>().patch(&name, &params, &patch).await?),
            Some("ArchiveEndpoint") => {
                drop(world.api::<ArchiveEndpoint>().patch(&name, &params, &patch).await?)
            }
            Some("ComplianceServer") => {
                drop(world.api::<ComplianceServer>().patch(&name, &params, &patch).await?)
            }
            Some("Profile") => drop(world.api::<Profile>().patch(&name, &params, &patch).await?),
            kind => anyhow::bail!("{kind:?} in {}", file.display()),
        }
    }
    Ok(())
}
