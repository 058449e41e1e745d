//! Taking things away in every order (KO-2): nothing is stuck on its way out, and what may hold records stays.

use anyhow::{Result, ensure};
use cartulary_tests::kubernetes::{Cluster, SYSTEM};

const CHAT: &str = "chat";

fn install(cluster: &Cluster) -> Result<()> {
    cluster.install(&[])?;
    cluster.kubectl(&["apply", "-k", "tests/quickstart"])?;
    cluster.wait_condition(CHAT, "xmppcluster/chat", "Ready", "True", "AsDeclared").map(drop)
}

fn delete(cluster: &Cluster, what: &[&str]) -> Result<()> {
    let mut arguments = vec!["delete", "--timeout=120s"];
    arguments.extend(what);
    cluster.kubectl(&arguments).map(drop)
}

// The journal's claim is bound, and not on its way out.
fn journal_stays(cluster: &Cluster, after: &str) -> Result<()> {
    let claim = cluster.get(CHAT, "pvc/cartulary-journal-prosody-0")?;
    ensure!(
        claim["status"]["phase"] == "Bound" && claim["metadata"].get("deletionTimestamp").is_none(),
        "{after}: the journal's claim does not stay: {claim}"
    );
    Ok(())
}

fn nothing_is_stuck(cluster: &Cluster, after: &str) -> Result<()> {
    for kind in ["namespaces", "pods", "xmppclusters", "archiveendpoints", "crds", "pv"] {
        let Ok(listed) = cluster.kubectl(&["get", kind, "-A", "-o", "json"]) else {
            continue; // The kind itself is gone.
        };
        let listed: serde_json::Value = serde_json::from_str(&listed)?;
        for object in listed["items"].as_array().into_iter().flatten() {
            ensure!(
                object["metadata"].get("deletionTimestamp").is_none() || kind == "pods",
                "{after}: still on its way out: {}",
                object["metadata"]
            );
        }
    }
    Ok(())
}

#[test]
fn what_is_taken_away_in_any_order_is_gone_and_journals_stay() -> Result<()> {
    let cluster = Cluster::up("e2e-uninstall")?;
    cluster.load_product()?;
    let pod_goes =
        || cluster.kubectl(&["-n", CHAT, "wait", "--for=delete", "pod/prosody-0", "--timeout=120s"]);

    // The declaration first, under a running server: it goes at once, the server stays, and its journal with it.
    install(&cluster)?;
    delete(&cluster, &["-n", CHAT, "xmppcluster/chat"])?;
    cluster.xmpp(CHAT, "prosody-0")?;
    journal_stays(&cluster, "the XMPPCluster deleted")?;

    // The server.
    install(&cluster)?;
    delete(&cluster, &["-n", CHAT, "statefulset/prosody"])?;
    pod_goes()?;
    journal_stays(&cluster, "the StatefulSet deleted")?;

    // The chart while all runs; then the declarations and their kinds, with nobody there who could answer for them.
    install(&cluster)?;
    cluster.uninstall()?;
    cluster.xmpp(CHAT, "prosody-0")?;
    journal_stays(&cluster, "the chart uninstalled")?;
    ensure!(
        cluster.get(CHAT, "xmppcluster/chat").is_ok(),
        "declarations went with the chart: helm must leave the CRDs"
    );
    delete(&cluster, &["crd", "xmppclusters.cartulary.dev", "archiveendpoints.cartulary.dev"])?;
    cluster.xmpp(CHAT, "prosody-0")?;
    journal_stays(&cluster, "the kinds deleted")?;
    nothing_is_stuck(&cluster, "the kinds deleted")?;

    // The kinds while the operator runs: it says what is missing and works again when they are back.
    install(&cluster)?;
    delete(&cluster, &["crd", "xmppclusters.cartulary.dev", "archiveendpoints.cartulary.dev"])?;
    cluster.uninstall()?;
    journal_stays(&cluster, "the kinds deleted under the operator")?;

    // The whole namespace while all runs. The volume is told to outlive its claim, as it would be by its class.
    install(&cluster)?;
    let claim = cluster.get(CHAT, "pvc/cartulary-journal-prosody-0")?;
    let volume = format!("pv/{}", claim["spec"]["volumeName"].as_str().unwrap_or_default());
    let retain = "{\"spec\":{\"persistentVolumeReclaimPolicy\":\"Retain\"}}";
    cluster.kubectl(&["patch", &volume, "-p", retain])?;
    delete(&cluster, &["namespace", CHAT])?;
    cluster.eventually("the journal's volume is kept", || {
        let volume: serde_json::Value =
            serde_json::from_str(&cluster.kubectl(&["get", &volume, "-o", "json"])?)?;
        Ok((volume["status"]["phase"] == "Released").then_some(()))
    })?;
    nothing_is_stuck(&cluster, "the namespace deleted")?;

    // Last the operator's own namespace, with everything in it.
    cluster.uninstall()?;
    delete(&cluster, &["namespace", SYSTEM])?;
    nothing_is_stuck(&cluster, "the operator's namespace deleted")
}
