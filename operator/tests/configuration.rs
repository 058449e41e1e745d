//! From a declaration to the configuration Secret: validation as a table, building as golden files.
//!
//! `UPDATE_GOLDEN=1 cargo test -p cartulary-operator --test configuration` rewrites what is expected; read the difference.

use cartulary_compliance::config::{SECRET_KEY, SidecarConfig};
use cartulary_compliance::events;
use cartulary_crds::{ArchiveEndpoint, ComplianceServer, EventName, Profile, XmppCluster};
use cartulary_operator::cluster::apply::fits;
use cartulary_operator::cluster::build::{Prepared, build};
use cartulary_operator::cluster::dereference::Gathered;
use cartulary_operator::cluster::validate::{validate, warning};
use cartulary_operator::conditions::Problem;
use cartulary_operator::reasons as reason;
use flate2::read::GzDecoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

fn cluster(spec: Value) -> XmppCluster {
    let mut spec = spec;
    spec["server"] = json!("Prosody");
    let mut cluster = XmppCluster::new("chat", serde_json::from_value(spec).expect("a spec"));
    cluster.metadata.namespace = Some("team".to_owned());
    cluster.metadata.generation = Some(7);
    cluster.metadata.uid = Some("11111111-2222-3333-4444-555555555555".to_owned());
    cluster
}

fn postgresql(default: bool) -> Value {
    json!({
        "type": "PostgreSQL",
        "default": default,
        "postgresql": {
            "host": "archive.db.svc",
            "database": "records",
            "credentialsSecret": { "name": "writer" },
            "tls": { "caSecret": { "name": "authority" } },
        },
    })
}

fn sqlite(default: bool) -> Value {
    json!({ "type": "SQLite", "default": default })
}

fn secret(pairs: &[(&str, &str)]) -> Arc<Secret> {
    let data =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect();
    Arc::new(Secret { data: Some(data), ..Secret::default() })
}

/// Everything a PostgreSQL endpoint refers to is there.
fn gathered(endpoints: &[(&str, Value)]) -> Gathered {
    let endpoint = |(name, spec): &(&str, Value)| {
        let spec = serde_json::from_value(spec.clone()).expect("a spec");
        ((*name).to_owned(), Arc::new(ArchiveEndpoint::new(name, spec)))
    };
    let mut gathered =
        Gathered { endpoints: endpoints.iter().map(endpoint).collect(), ..Gathered::default() };
    gathered
        .secrets
        .insert("writer".to_owned(), secret(&[("username", "writer"), ("password", "not a real one")]));
    gathered.secrets.insert("authority".to_owned(), secret(&[("ca.crt", "PEM")]));
    gathered
}

/// Three compliance servers and two profiles, of which one has a priority.
fn policed() -> Gathered {
    let mut gathered = gathered(&[]);
    for (name, tls) in [("wall", "VerifyFull"), ("other-wall", "Disable"), ("redactor", "Disable")] {
        let spec = json!({
            "host": format!("{name}.example"), "port": 5347, "passwordSecret": { "name": "shared" }, "tls": { "mode": tls },
        });
        declare(&mut gathered, name, spec);
    }
    gathered.secrets.insert("shared".to_owned(), secret(&[("password", "not a real one")]));
    let wall = json!({ "displayName": "Wall", "events": [
        { "event": "es_OUT", "packetTypes": ["message"], "handling": "bounce" }, { "event": "onBeforeInvite" },
    ] });
    profile(&mut gathered, "wall-profile", wall);
    profile(&mut gathered, "redaction", json!({ "priority": 1, "events": [{ "event": "es_OUT" }] }));
    gathered
}

fn declare(gathered: &mut Gathered, name: &str, spec: Value) {
    let server = ComplianceServer::new(name, serde_json::from_value(spec).expect("a spec"));
    gathered.servers.insert(name.to_owned(), Arc::new(server));
}

fn profile(gathered: &mut Gathered, name: &str, spec: Value) {
    let profile = Profile::new(name, serde_json::from_value(spec).expect("a spec"));
    gathered.profiles.insert(name.to_owned(), Arc::new(profile));
}

fn asking(servers: Value) -> Value {
    json!({ "archiving": { "inbound": false }, "compliance": { "servers": servers } })
}

fn problem(spec: Value, gathered: &Gathered) -> Problem {
    validate(&cluster(spec), gathered).expect_err("a problem")
}

fn made(spec: Value, gathered: &Gathered) -> Prepared {
    let cluster = cluster(spec);
    build(validate(&cluster, gathered).expect("valid"), &cluster)
}

fn unpacked(prepared: &Prepared) -> Vec<u8> {
    let data = prepared.secret.data.as_ref().expect("data");
    let mut json = Vec::new();
    GzDecoder::new(&*data[SECRET_KEY].0).read_to_end(&mut json).expect("gzip");
    json
}

#[test]
fn every_declaration_makes_the_configuration_written_down() {
    let everything = json!({
        "archiving": {
            "outbound": true,
            "blockIfUnableToRecord": true,
            "endpoint": "records",
            "nodeEndpoints": [{ "pod": "prosody-1", "endpoint": "local" }],
        },
        "journal": { "size": "10Gi", "maxBytes": "2Gi", "keepConfirmed": "2h" },
        "link": { "answerTimeout": "5s" },
    });
    let asking = json!({
        "archiving": { "inbound": false },
        "compliance": {
            "servers": [
                { "server": "wall", "profile": "Wall" },
                { "server": "redactor", "profile": "redaction" },
                { "server": "other-wall", "profile": "wall-profile" },
                { "server": "redactor", "profile": "SystemDefaultComplianceProfile", "nodes": ["prosody-0"] },
            ],
            "eventTimeout": "10s", "dropAfter": "1m", "statsEvery": "90s", "sendMissed": true,
            "limits": { "maxEvents": 5, "maxBytes": "1Mi" },
        },
        "link": { "unanswered": "Refuse" },
        "alarms": { "silenced": [{ "alarm": "JournalHighWater", "pods": ["prosody-0"] }, { "alarm": "QueueFull" }] },
    });
    let cases = [
        ("compliance", asking, policed()),
        ("least", json!({}), gathered(&[("records", postgresql(true))])),
        (
            "everything",
            everything,
            gathered(&[("records", postgresql(false)), ("local", sqlite(false)), ("other", sqlite(true))]),
        ),
        ("off", json!({ "archiving": { "inbound": false } }), gathered(&[])),
    ];
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/configuration");
    for (name, spec, gathered) in cases {
        let prepared = made(spec, &gathered);
        let mut shown = serde_json::to_value(&prepared.secret).expect("JSON");
        let content: Value = serde_json::from_slice(&unpacked(&prepared)).expect("JSON");
        shown["data"] = json!({ SECRET_KEY: content });
        let actual = serde_yaml_ng::to_string(&shown).expect("YAML");
        let path = folder.join(format!("{name}.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &actual).expect("written");
        }
        assert_eq!(actual, std::fs::read_to_string(&path).expect("its golden file"), "{name}");
    }
}

#[test]
fn what_is_made_can_be_read_by_the_sidecar_and_is_made_the_same_again() {
    let gathered = gathered(&[("records", postgresql(true))]);
    let (once, twice) = (made(json!({}), &gathered), made(json!({}), &gathered));
    assert_eq!(once, twice);
    assert_eq!(SidecarConfig::parse(&unpacked(&once)).expect("readable"), once.config);
}

#[test]
fn a_missing_secret_and_a_missing_key_are_named_and_their_content_never_is() {
    let mut gathered = gathered(&[("records", postgresql(true))]);
    gathered.secrets.insert("writer".to_owned(), secret(&[("username", "confidential"), ("password", "")]));
    let incomplete = problem(json!({}), &gathered);
    assert_eq!(incomplete.reason, reason::SECRET_INCOMPLETE);
    assert!(incomplete.message.contains("key password in the Secret writer"), "{}", incomplete.message);
    assert!(!incomplete.message.contains("confidential"));
    gathered.secrets.remove("authority");
    let missing = problem(json!({}), &gathered);
    assert_eq!(missing.reason, reason::SECRET_MISSING);
    assert!(missing.message.contains("authority"), "{}", missing.message);
}

#[test]
fn exactly_one_endpoint_is_the_default_where_none_is_named() {
    for endpoints in [vec![], vec![("a", sqlite(false))], vec![("a", sqlite(true)), ("b", sqlite(true))]] {
        assert_eq!(problem(json!({}), &gathered(&endpoints)).reason, reason::NO_DEFAULT_ENDPOINT);
    }
    let named = json!({ "archiving": { "endpoint": "b" } });
    let both = gathered(&[("a", sqlite(true)), ("b", sqlite(true))]);
    assert_eq!(made(named.clone(), &both).config.archiving.endpoint.as_deref(), Some("b"));
    assert_eq!(problem(named, &gathered(&[("a", sqlite(true))])).reason, reason::ENDPOINT_MISSING);
}

#[test]
fn a_contradiction_that_got_past_the_api_server_is_refused() {
    let gathered = gathered(&[("records", sqlite(true))]);
    let specs = [
        json!({ "archiving": { "inbound": false, "blockIfUnableToRecord": true } }),
        json!({ "journal": { "ephemeral": true, "size": "1Gi" } }),
        json!({ "journal": { "size": "1Gi", "maxBytes": "1Gi" } }),
        json!({ "journal": { "size": "99999999999999Ti" } }),
        json!({ "journal": { "keepConfirmed": "soon" } }),
        json!({ "link": { "answerTimeout": "99999999h" } }),
    ];
    for spec in specs {
        assert_eq!(problem(spec.clone(), &gathered).reason, reason::CONTRADICTION, "{spec}");
    }
}

#[test]
fn a_journal_leaves_room_on_its_claim_and_more_beside_an_archive() {
    let max_bytes = |spec, endpoint| made(spec, &gathered(&[("records", endpoint)])).config.journal.max_bytes;
    let gib = 1 << 30;
    assert_eq!(max_bytes(json!({ "journal": { "size": "10Gi" } }), postgresql(true)), 8 * gib);
    assert_eq!(max_bytes(json!({ "journal": { "size": "10Gi" } }), sqlite(true)), 5 * gib);
    assert_eq!(max_bytes(json!({ "journal": { "ephemeral": true } }), sqlite(true)), gib);
}

#[test]
fn an_archive_of_half_conversations_is_warned_about() {
    let reason_of = |archiving: Value| {
        warning(&cluster(json!({ "archiving": archiving })), &Gathered::default())
            .map(|problem| problem.reason)
    };
    assert_eq!(reason_of(json!({})), Some(reason::OUTBOUND_OFF));
    assert_eq!(reason_of(json!({ "inbound": false })), Some(reason::ARCHIVING_OFF));
    assert_eq!(reason_of(json!({ "outbound": true })), None);
}

#[test]
fn a_configuration_that_no_secret_can_hold_is_refused_before_it_is_written() {
    let endpoints = [("main", postgresql(true))];
    let mut gathered = gathered(&endpoints);
    assert!(fits(&made(json!({}), &gathered)).is_ok());
    // Digits of a generator: they hardly compress.
    let mut state = 1_u64;
    let noise: String = (0..300_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{:08x}", state >> 32)
        })
        .collect();
    gathered.secrets.insert("authority".to_owned(), secret(&[("ca.crt", &noise)]));
    let problem = fits(&made(json!({}), &gathered)).expect_err("too large");
    assert_eq!(problem.reason, reason::CONFIGURATION_TOO_LARGE);
    assert!(problem.message.contains("nodeEndpoints"), "{}", problem.message);
}

#[test]
fn pr_7_pr_8_the_kind_and_the_catalogue_know_the_same_events() {
    for event in events::ALL {
        let known = EventName::by_name(event.name).expect(event.name);
        assert_eq!(known.name(), event.name);
    }
    let schema =
        std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml/profiles.yaml"));
    let schema: Value = serde_yaml_ng::from_str(&schema.expect("made")).expect("YAML");
    let names = schema.pointer(
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/events/items/properties/event/enum",
    );
    assert_eq!(names.and_then(Value::as_array).map(Vec::len), Some(events::ALL.len()));
}

#[test]
fn what_cannot_be_asked_is_refused_and_named() {
    let shared = |nodes: [&[&str]; 2]| {
        asking(json!([
            { "server": "wall", "profile": "Wall", "nodes": nodes[0] },
            { "server": "other-wall", "profile": "wall-profile", "nodes": nodes[1] },
        ]))
    };
    let wall = || asking(json!([{ "server": "wall", "profile": "Wall" }]));
    let timing = |field: &str, value: &str| {
        let mut spec = wall();
        spec["compliance"][field] = json!(value);
        spec
    };
    let plain = json!({ "host": "wall", "port": 1, "passwordSecret": { "name": "shared" } });
    let with = |pointer: &str, value: Value| {
        let mut spec = plain.clone();
        spec[pointer] = value;
        spec
    };
    type Change = Box<dyn Fn(&mut Gathered)>;
    let none = || -> Change { Box::new(|_| {}) };
    let wall_is =
        |spec: Value| -> Change { Box::new(move |gathered| declare(gathered, "wall", spec.clone())) };
    let named =
        |spec: Value| -> Change { Box::new(move |gathered| profile(gathered, "second", spec.clone())) };
    let table: Vec<(&str, &str, Value, Change)> = vec![
        ("three", reason::SERVER_MISSING, asking(json!([{ "server": "three", "profile": "Wall" }])), none()),
        (
            "Unknown",
            reason::PROFILE_MISSING,
            asking(json!([{ "server": "wall", "profile": "Unknown" }])),
            none(),
        ),
        (
            "second",
            reason::PROFILE_AMBIGUOUS,
            wall(),
            named(json!({ "displayName": "Wall", "events": [{ "event": "es_IN" }] })),
        ),
        ("other-wall", reason::PROFILE_SPLIT, shared([&[], &["a"]]), none()),
        ("other-wall", reason::PROFILE_SPLIT, shared([&["a"], &["a", "b"]]), none()),
        (
            "elsewhere",
            reason::SECRET_MISSING,
            wall(),
            wall_is(with("passwordSecret", json!({ "name": "elsewhere" }))),
        ),
        (
            "key pw",
            reason::SECRET_INCOMPLETE,
            wall(),
            wall_is(with("passwordSecret", json!({ "name": "shared", "key": "pw" }))),
        ),
        ("host", reason::HOST_INVALID, wall(), wall_is(with("host", json!("wall example")))),
        ("host", reason::HOST_INVALID, wall(), wall_is(with("host", json!("2001:db8::x")))),
        ("tls.serverName", reason::TLS_UNUSABLE, wall(), wall_is(with("host", json!(r"site\wall")))),
        (
            "ca.crt",
            reason::TLS_UNUSABLE,
            wall(),
            wall_is(with("tls", json!({ "caSecret": { "name": "authority" } }))),
        ),
        (
            "authority",
            reason::SECRET_INCOMPLETE,
            wall(),
            wall_is(with("tls", json!({ "clientCertificateSecret": { "name": "authority" } }))),
        ),
        ("eventTimeout", reason::CONTRADICTION, timing("eventTimeout", "99ms"), none()),
        ("dropAfter", reason::CONTRADICTION, timing("dropAfter", "9999h"), none()),
        (
            "maxBytes",
            reason::CONTRADICTION,
            {
                let mut spec = wall();
                spec["compliance"]["limits"] = json!({ "maxBytes": "4Gi" });
                spec
            },
            none(),
        ),
        (
            "unanswered",
            reason::CONTRADICTION,
            json!({ "archiving": { "blockIfUnableToRecord": true, "endpoint": "x" }, "link": { "unanswered": "Deliver" } }),
            Box::new(|gathered| {
                let endpoint =
                    ArchiveEndpoint::new("x", serde_json::from_value(sqlite(false)).expect("a spec"));
                gathered.endpoints.insert("x".into(), Arc::new(endpoint));
            }),
        ),
        (
            "Misspelt",
            reason::CONTRADICTION,
            json!({ "archiving": { "inbound": false }, "alarms": { "silenced": [{ "alarm": "Misspelt" }] } }),
            none(),
        ),
    ];
    for (word, expected, spec, change) in table {
        let mut gathered = policed();
        change(&mut gathered);
        let problem = problem(spec.clone(), &gathered);
        assert_eq!(problem.reason, expected, "{spec}: {}", problem.message);
        assert!(
            problem.message.contains(word) && !problem.message.contains("not a real one"),
            "{}",
            problem.message
        );
    }
}

#[test]
fn what_is_allowed_and_perhaps_not_meant_is_warned_of() {
    let told = |servers: Value, change: &dyn Fn(&mut Gathered)| {
        let mut gathered = policed();
        change(&mut gathered);
        let mut spec = asking(servers);
        spec["archiving"] = json!({ "outbound": true });
        let warning = warning(&cluster(spec), &gathered);
        warning.map(|warning| (warning.reason, warning.message))
    };
    let wall = || json!([{ "server": "wall", "profile": "Wall" }]);
    assert_eq!(told(wall(), &|_| {}), None);
    assert_eq!(told(json!([]), &|gathered| gathered.pods.push(Arc::default())), None);
    type Case = (&'static str, Value, &'static str, fn(&mut Gathered));
    let table: [Case; 6] = [
        (reason::DISCARDS, wall(), "discards es_OUT", |gathered| {
            let events = json!([{ "event": "es_OUT", "handling": "bounce", "fireAndForget": true }, { "event": "es_IN", "fireAndForget": true }]);
            profile(gathered, "wall-profile", json!({ "displayName": "Wall", "events": events }));
        }),
        (reason::TOLD_ONLY, wall(), "es_END, onLeave", |gathered| {
            let events = json!([{ "event": "es_END" }, { "event": "onLeave", "handling": "bounce" }, { "event": "onAfterJoin" }, { "event": "e_AUTH", "fireAndForget": true }]);
            profile(gathered, "wall-profile", json!({ "displayName": "Wall", "events": events }));
        }),
        (reason::NAMES_UNSTABLE, wall(), "StatefulSet", |gathered| gathered.pods.push(Arc::default())),
        (
            reason::ADDRESS_SHARED,
            json!([{ "server": "wall", "profile": "Wall" }, { "server": "redactor", "profile": "redaction" }]),
            "redactor and wall",
            |gathered| {
                let spec = json!({ "host": "REDACTOR.example", "port": 5347, "passwordSecret": { "name": "shared" } });
                declare(gathered, "wall", spec);
            },
        ),
        (
            reason::NODES_RESTRICTED,
            json!([{ "server": "wall", "profile": "Wall", "nodes": ["a"] }]),
            "on a only",
            |_| {},
        ),
        (
            reason::EVENT_TWICE,
            json!([{ "server": "wall", "profile": "Wall" }, { "server": "wall", "profile": "redaction" }]),
            "es_OUT twice",
            |_| {},
        ),
    ];
    for (expected, servers, words, change) in table {
        let (reason, message) = told(servers, &change).expect(expected);
        assert_eq!(reason, expected, "{message}");
        assert!(message.contains(words), "{message}");
    }
}
