//! The chart, as Helm renders it with values of one's own. What it makes by default every other test here installs.

use crate::world::{World, render};
use anyhow::{Context, Result};
use serde_json::Value;

fn kinds<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_4_values_change_what_they_say_and_nonsense_is_refused() -> Result<()> {
    // Helm is there when the cluster is.
    let _world = World::without_operator("chart", 1).await?;
    let plain = render("r", &[])?;
    assert_eq!(kinds(&plain, "Deployment")[0]["spec"]["replicas"], 2);
    assert_eq!(kinds(&plain, "PodDisruptionBudget").len(), 1);
    for kind in ["PrometheusRule", "ServiceMonitor", "PodMonitor", "Certificate", "Issuer"] {
        assert!(kinds(&plain, kind).is_empty(), "{kind} needs definitions that may be missing");
    }
    assert!(kinds(&render("r", &["operator.replicas=1"])?, "PodDisruptionBudget").is_empty());

    let managed = render("r", &["webhook.certManager.enabled=true"])?;
    assert!(!kinds(&managed, "ClusterRole")[0].to_string().contains("mutatingwebhookconfigurations"));
    let webhooks = kinds(&managed, "MutatingWebhookConfiguration")[0];
    assert_eq!(
        webhooks["metadata"]["annotations"]["cert-manager.io/inject-ca-from"],
        "r/r-cartulary-webhook"
    );

    let silenced = r#"alerts={"enabled":true,"overrides":{"OutcomesLost":{"enabled":false},"JournalHighWater":{"severity":"info","for":"10m"}}}"#;
    let rendered = render("r", &[silenced])?;
    let rules = kinds(&rendered, "PrometheusRule")[0]["spec"]["groups"][0]["rules"].as_array().cloned();
    let rules = rules.context("rules")?;
    let of = |name: &str| rules.iter().find(|rule| rule["alert"] == name);
    assert!(of("OutcomesLost").is_none());
    let changed = of("JournalHighWater").context("still there")?;
    assert_eq!((&changed["for"], &changed["labels"]["severity"]), (&"10m".into(), &"info".into()));
    assert_eq!(rules.len() + 1, cartulary_compliance::alarms::ALL.len());

    for nonsense in [
        r#"alerts={"enabled":true,"overrides":{"NoSuchAlarm":{"enabled":false}}}"#,
        r#"alerts.overrides={"OutcomesLost":{"for":"soon"}}"#,
        "operator.replicas=0",
        "webhook.certManager.issuer=true",
        r#"watchNamespaces=["Upper"]"#,
        "noSuchValue=1",
    ] {
        assert!(render("r", &[nonsense]).is_err(), "{nonsense}");
    }
    Ok(())
}
