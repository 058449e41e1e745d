//! The operator in production: one that leads and others that admit, upgrades and certificates that change under way, and the way
//! out when none is left (KO-3, KO-4).

use anyhow::{Context, Result, ensure};
use cartulary_tests::kubernetes::{Cluster, SYSTEM};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

const CHAT: &str = "chat";
const LEASE: &str = "lease/cartulary-operator";
const CERTIFICATES: &str = "secret/cartulary-webhook-certs";
const DEPLOYMENT: &str = "deployment/cartulary-operator";

fn ready(cluster: &Cluster) -> Result<()> {
    cluster.wait_condition(CHAT, "xmppcluster/chat", "Ready", "True", "AsDeclared").map(drop)
}

// Asks for labelled pods as fast as answers come, without making them, until stopped: how many were asked for, and the first that
// was refused.
struct Admissions {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(usize, Option<anyhow::Error>)>>,
}

impl Admissions {
    fn start(cluster: &Arc<Cluster>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (cluster, stopped) = (cluster.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut asked = 0;
            while !stopped.load(Ordering::Relaxed) {
                match admitted(&cluster) {
                    Ok(()) => asked += 1,
                    Err(error) => return (asked, Some(error)),
                }
            }
            (asked, None)
        });
        Self { stop, thread: Some(thread) }
    }

    fn none_was_refused(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("asked twice")?;
        let (asked, refused) =
            thread.join().map_err(|_| anyhow::anyhow!("the thread that asks for pods panicked"))?;
        match refused {
            None => Ok(asked),
            Some(error) => Err(error.context(format!("after {asked} pods that were admitted"))),
        }
    }
}

// Also where a test fails: the cluster goes with the last who holds it.
impl Drop for Admissions {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// A pod that the API server would make, with our sidecar.
fn admitted(cluster: &Cluster) -> Result<()> {
    let pod = cluster.dry_run(&pod("asked", "{cartulary.dev/cluster: chat}"))?;
    ensure!(
        pod["spec"]["initContainers"][0]["name"] == "cartulary-sidecar",
        "a pod came back without our sidecar: {pod}"
    );
    Ok(())
}

fn pod(name: &str, labels: &str) -> String {
    // As the StatefulSet's own: others have no journal that would outlive them, and are refused for that.
    let owner = "{apiVersion: apps/v1, kind: StatefulSet, name: prosody, controller: true, uid: 0b2c7b4e-5b1c-4f0e-9d0a-6d1b1c0f5a11}";
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {CHAT}, labels: {labels}, ownerReferences: [{owner}]}}\nspec:\n  \
         containers: [{{name: prosody, image: 'localhost/prosody:13'}}]\n"
    )
}

fn holder(cluster: &Cluster) -> Result<String> {
    let lease = cluster.get(SYSTEM, LEASE)?;
    Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
}

// The pod that leads: a holder's name begins with its pod's.
fn leader(cluster: &Cluster) -> Result<Option<String>> {
    let holder = holder(cluster)?;
    Ok(cluster.operators()?.into_iter().find(|pod| holder.starts_with(pod.as_str())))
}

// A change of the declaration is told in the status: somebody reconciles.
fn statuses_go_on(cluster: &Cluster, timeout: &str) -> Result<()> {
    let patch = format!("{{\"spec\":{{\"link\":{{\"answerTimeout\":\"{timeout}\"}}}}}}");
    cluster.kubectl(&["-n", CHAT, "patch", "xmppcluster/chat", "--type=merge", "-p", &patch])?;
    cluster.eventually("the status is about the newest declaration", || {
        let object = cluster.get(CHAT, "xmppcluster/chat")?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let newest =
            |c: &Value| c["observedGeneration"] == object["metadata"]["generation"] && c["status"] == "True";
        Ok(conditions.iter().any(|c| c["type"] == "Ready" && newest(c)).then_some(()))
    })
}

#[test]
fn admission_and_statuses_go_on_while_leaders_are_killed_the_chart_is_upgraded_and_certificates_rotate()
-> Result<()> {
    let cluster = Arc::new(Cluster::with_product("e2e-operators")?);
    cluster.kubectl(&["apply", "-k", "tests/quickstart"])?;
    ready(&cluster)?;

    // The leader dies: the other takes over. What was asked of it in that moment is answered with an error by the API server, and has
    // to be asked again, as every controller does.
    let before = holder(&cluster)?;
    let first = cluster.eventually("somebody leads", || leader(&cluster))?;
    cluster.kill_container(SYSTEM, &first, "operator")?;
    cluster.eventually("pods are admitted by the one that is left", || Ok(admitted(&cluster).ok()))?;
    cluster.eventually("another leads", || Ok((holder(&cluster)? != before).then_some(())))?;
    statuses_go_on(&cluster, "20s")?;
    cluster.kubectl(&["-n", SYSTEM, "rollout", "status", DEPLOYMENT, "--timeout=120s"])?;
    // One that goes in order hands the lead over, and nobody who asks for a pod notices.
    let admissions = Admissions::start(&cluster);
    let (before, second) = (holder(&cluster)?, cluster.eventually("somebody leads", || leader(&cluster))?);
    cluster.kubectl(&["-n", SYSTEM, "delete", "pod", &second, "--wait=false"])?;
    cluster.eventually("another leads", || Ok((holder(&cluster)? != before).then_some(())))?;
    statuses_go_on(&cluster, "21s")?;

    // An upgrade.
    cluster.install(&["operator.pollSeconds=2"])?;
    statuses_go_on(&cluster, "22s")?;
    let asked = admissions.none_was_refused().context("a leader that goes and an upgrade")?;
    ensure!(asked > 10, "only {asked} pods were asked for");

    // Certificates that live for seconds: several follow each other while pods are asked for.
    let arguments = "[\"--webhook-certificate-seconds=45\", \"--webhook-authority-seconds=135\"]";
    let patch = format!(
        "[{{\"op\":\"add\",\"path\":\"/spec/template/spec/containers/0/args\",\"value\":{arguments}}}]"
    );
    // The one in use is good for months: it goes, and who serves it.
    cluster.kubectl(&["-n", SYSTEM, "scale", DEPLOYMENT, "--replicas=0"])?;
    cluster.kubectl(&["-n", SYSTEM, "wait", "--for=delete", "pod", "--all", "--timeout=120s"])?;
    cluster.kubectl(&["-n", SYSTEM, "delete", CERTIFICATES])?;
    cluster.kubectl(&["-n", SYSTEM, "patch", DEPLOYMENT, "--type=json", "-p", &patch])?;
    cluster.kubectl(&["-n", SYSTEM, "scale", DEPLOYMENT, "--replicas=2"])?;
    cluster.kubectl(&["-n", SYSTEM, "rollout", "status", DEPLOYMENT, "--timeout=120s"])?;
    cluster.eventually("pods are admitted with the first of them", || Ok(admitted(&cluster).ok()))?;
    let admissions = Admissions::start(&cluster);
    let mut seen = std::collections::BTreeSet::new();
    cluster.eventually("three certificates were in use", || {
        let secret = cluster.get(SYSTEM, CERTIFICATES)?;
        seen.extend(secret["data"]["tls.crt"].as_str().map(str::to_owned));
        Ok((seen.len() >= 3).then_some(()))
    })?;
    admissions.none_was_refused().context("certificates rotated")?;
    Ok(())
}

#[test]
fn with_the_operator_gone_the_glass_can_be_broken_and_mended_and_it_shows() -> Result<()> {
    let cluster = Cluster::with_product("e2e-glass")?;
    cluster.kubectl(&["apply", "-k", "tests/quickstart"])?;
    ready(&cluster)?;
    let claim = cluster.get(CHAT, "pvc/cartulary-journal-prosody-0")?["metadata"]["uid"].clone();

    // Nobody answers: a labelled pod is refused by the webhook, and with the webhook gone by the policy.
    cluster.kubectl(&["-n", SYSTEM, "scale", DEPLOYMENT, "--replicas=0"])?;
    cluster.kubectl(&["-n", SYSTEM, "wait", "--for=delete", "pod", "--all", "--timeout=120s"])?;
    let refused = |named: &str| -> Result<()> {
        let Err(error) = cluster.dry_run(&pod("labelled", "{cartulary.dev/cluster: chat}")) else {
            anyhow::bail!("a labelled pod was admitted although nobody could put the sidecar into it");
        };
        ensure!(format!("{error:#}").contains(named), "the refusal does not name {named}: {error:#}");
        Ok(())
    };
    refused("pods.cartulary.dev")?;
    let webhook =
        cluster.kubectl(&["get", "mutatingwebhookconfiguration/cartulary-cartulary-system", "-o", "json"])?;
    cluster.kubectl(&["delete", "mutatingwebhookconfiguration/cartulary-cartulary-system"])?;
    cluster.eventually("the policy refuses in its place", || Ok(refused("NotInjected").ok()))?;
    cluster.apply(&without_server_fields(&webhook)?)?;

    // Broken: the server starts without the label, unrecorded.
    let patch = |labels: &str| {
        let patch = format!("{{\"spec\":{{\"template\":{{\"metadata\":{{\"labels\":{labels}}}}}}}}}");
        cluster.kubectl(&["-n", CHAT, "patch", "statefulset/prosody", "-p", &patch]).map(drop)
    };
    patch("{\"cartulary.dev/cluster\":null}")?;
    cluster.kubectl(&["-n", CHAT, "rollout", "status", "statefulset/prosody", "--timeout=120s"])?;
    cluster.xmpp(CHAT, "prosody-0")?;
    let bare = cluster.get(CHAT, "pod/prosody-0")?;
    ensure!(bare["spec"].get("initContainers").is_none(), "the pod has a sidecar: {bare}");

    // Seen, as soon as somebody is there to see.
    cluster.kubectl(&["-n", SYSTEM, "scale", DEPLOYMENT, "--replicas=2"])?;
    cluster.wait_condition(CHAT, "xmppcluster/chat", "Covered", "False", "NoPods")?;
    ensure!(cluster.events(CHAT)?.contains("NoPods"), "no event tells that nothing is recorded");

    // Mended: recorded again, into the same journal.
    patch("{\"cartulary.dev/cluster\":\"chat\"}")?;
    cluster.wait_condition(CHAT, "xmppcluster/chat", "Covered", "True", "AsDeclared")?;
    ready(&cluster)?;
    let now = cluster.get(CHAT, "pvc/cartulary-journal-prosody-0")?["metadata"]["uid"].clone();
    ensure!(now == claim, "the journal's claim is another one");
    Ok(())
}

// What can be applied again of an object that was deleted.
fn without_server_fields(object: &str) -> Result<String> {
    let mut object: Value = serde_json::from_str(object)?;
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
            metadata.remove(field);
        }
    }
    Ok(object.to_string())
}
