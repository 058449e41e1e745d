//! The rules of the definitions, as the API server enforces them.

use crate::world::{World, manifest};
use anyhow::{Context, Result};
use cartulary_crds::XmppCluster;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Resource};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_that_one_object_can_show_is_enforced_with_a_sentence() -> Result<()> {
    let world = World::start("definitions").await?;
    let cluster = |spec: Value| {
        let mut spec = spec;
        spec["server"] = spec.get("server").cloned().unwrap_or(json!("Prosody"));
        ("XMPPCluster", spec)
    };
    let endpoint = |spec| ("ArchiveEndpoint", spec);
    let database = json!({ "host": "db", "database": "records", "credentialsSecret": { "name": "writer" } });
    let refused = [
        (cluster(json!({ "server": "Openfire" })), "Unsupported value"),
        (cluster(json!({ "prosody": { "configPath": "prosody.cfg.lua" } })), "absolute path"),
        (cluster(json!({ "prosody": { "configPath": "/etc/../x" } })), "without '..'"),
        (cluster(json!({ "container": "Upper" })), "should match"),
        (
            cluster(json!({ "archiving": { "inbound": false, "blockIfUnableToRecord": true } })),
            "nothing to block",
        ),
        (
            cluster(
                json!({ "archiving": { "nodeEndpoints": [{ "pod": "a", "endpoint": "x" }, { "pod": "a", "endpoint": "y" }] } }),
            ),
            "Duplicate value",
        ),
        (
            cluster(json!({ "journal": { "ephemeral": true, "size": "1Gi" } })),
            "an ephemeral journal has no claim",
        ),
        (cluster(json!({ "journal": { "size": "1Gi", "maxBytes": "1Gi" } })), "smaller than the claim"),
        (cluster(json!({ "journal": { "maxBytes": "2Gi" } })), "smaller than the claim"),
        (cluster(json!({ "journal": { "size": "much" } })), "should match"),
        (cluster(json!({ "journal": { "keepConfirmed": "1 day" } })), "should match"),
        (cluster(json!({ "link": { "answerTimeout": "10m" } })), "between 1s and 5m"),
        (
            cluster(
                json!({ "archiving": { "blockIfUnableToRecord": true }, "link": { "unanswered": "Deliver" } }),
            ),
            "contradicts link.unanswered",
        ),
        (cluster(json!({ "compliance": { "eventTimeout": "10ms" } })), "between 100ms and 5m"),
        (cluster(json!({ "compliance": { "dropAfter": "25h" } })), "24h at most"),
        (cluster(json!({ "compliance": { "statsEvery": "0s" } })), "between 1s and 24h"),
        (cluster(json!({ "compliance": { "limits": { "maxBytes": "4Gi" } } })), "less than 4Gi"),
        (cluster(json!({ "compliance": { "servers": [{ "server": "a" }] } })), "profile"),
        (
            cluster(json!({ "alarms": { "silenced": [{ "alarm": "A" }, { "alarm": "A" }] } })),
            "Duplicate value",
        ),
        (endpoint(json!({ "type": "Oracle" })), "Unsupported value"),
        (endpoint(json!({ "type": "PostgreSQL" })), "postgresql is required"),
        (endpoint(json!({ "type": "SQLite", "postgresql": database })), "only allowed with it"),
        (endpoint(json!({ "type": "SQLite", "queue": { "maxRecords": 0 } })), "greater than or equal to 1"),
    ];
    for ((kind, spec), sentence) in refused {
        let error = create(&world, kind, spec.clone()).await.expect_err(&spec.to_string()).to_string();
        assert!(error.contains(sentence), "{spec}: {error}");
    }
    let mut unprotected = database.clone();
    unprotected["tls"] = json!({ "mode": "Disable", "caSecret": { "name": "authority" } });
    let error =
        create(&world, "ArchiveEndpoint", json!({ "type": "PostgreSQL", "postgresql": unprotected })).await;
    assert!(error.expect_err("a contradiction").to_string().contains("caSecret has no meaning"));

    let mut plain = json!({ "host": "h", "port": 1, "passwordSecret": { "name": "s" } });
    plain["tls"] = json!({ "mode": "Disable", "serverName": "h" });
    let error = create(&world, "ComplianceServer", plain.clone()).await.expect_err("a contradiction");
    assert!(error.to_string().contains("serverName and clientCertificateSecret have no meaning"), "{error}");
    plain["tls"] = json!({});
    plain["keepalive"] = json!("11m");
    let error = create(&world, "ComplianceServer", plain).await.expect_err("too long");
    assert!(error.to_string().contains("between 1s and 10m"), "{error}");

    let accepted = [
        cluster(json!({})),
        cluster(
            json!({ "journal": { "size": null, "ephemeral": true, "maxBytes": "5Gi" }, "container": "prosody" }),
        ),
        cluster(
            json!({ "journal": { "size": "10Gi", "maxBytes": "8Gi" }, "link": { "answerTimeout": "1m30s" } }),
        ),
        endpoint(json!({ "type": "SQLite" })),
        endpoint(json!({ "type": "PostgreSQL", "postgresql": database })),
    ];
    for (kind, spec) in accepted {
        create(&world, kind, spec.clone()).await.with_context(|| spec.to_string())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_has_the_default_that_the_description_says() -> Result<()> {
    let world = World::start("defaults").await?;
    let cluster = serde_json::to_value(world.cluster(json!({})).await?.spec)?;
    let expected = json!({
        "server": "Prosody",
        "prosody": { "configPath": "/etc/prosody/prosody.cfg.lua" },
        "archiving": { "inbound": true, "outbound": false, "blockIfUnableToRecord": false },
        "journal": { "ephemeral": false, "keepConfirmed": "1h" },
        "compliance": {
            "enabled": true, "eventTimeout": "30s", "dropAfter": "5m", "statsEvery": "5m", "sendMissed": false,
            "limits": { "maxEvents": 10_000 },
        },
        "link": { "answerTimeout": "30s" },
        "alarms": { "highWaterPercent": 80, "waitingTooLong": "15m" },
    });
    assert_eq!(cluster, expected);
    let endpoint = serde_json::to_value(world.endpoint("records", json!({ "type": "SQLite" })).await?.spec)?;
    assert_eq!(endpoint, json!({ "type": "SQLite", "default": false, "queue": { "maxRecords": 100_000 } }));
    Ok(())
}

/// As JSON, so that what our types cannot say can be tried; nothing is kept.
pub async fn create(world: &World, kind: &str, spec: Value) -> Result<(), kube::Error> {
    let mut resource = ApiResource::erase::<XmppCluster>(&());
    resource.kind = kind.to_owned();
    resource.plural = format!("{}s", kind.to_lowercase());
    assert_eq!(resource.group, XmppCluster::group(&()));
    let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
    let object: DynamicObject = serde_json::from_value(manifest(kind, "try", spec)).expect("a manifest");
    api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await.map(|_| ())
}
