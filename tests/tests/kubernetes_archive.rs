//! What becomes known of an archive that fails, of a journal whose pod is gone, and of an archive that somebody changed. The tests
//! share a cluster; each has a namespace with a server and a database of its own.

use anyhow::{Context, Result, ensure};
use cartulary_tests::client::Client;
use cartulary_tests::kubernetes::Cluster;
use serde_json::Value;
use sqlx::Executor;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

const DOMAIN: &str = "chat.example";

fn shared() -> Result<Arc<Cluster>> {
    Cluster::shared("e2e-evidence", &["operator.pollSeconds=2"])
}

// A recorded server with a PostgreSQL of its own.
fn declare(cluster: &Cluster, namespace: &str, servers: usize, patches: &str) -> Result<()> {
    let overlay = format!(
        "namespace: {namespace}\npatches:\n  - target: {{kind: StatefulSet, name: prosody}}\n    patch: |-\n      \
         - {{op: replace, path: /spec/replicas, value: {servers}}}\n{patches}"
    );
    cluster.apply_example_with("postgresql", &overlay, &[])?;
    for server in 0..servers {
        cluster.xmpp(namespace, &format!("prosody-{server}"))?;
    }
    cluster.wait_condition(namespace, "xmppcluster/chat", "Ready", "True", "AsDeclared").map(drop)
}

async fn pair(server: SocketAddr) -> Result<[Client; 2]> {
    let mut clients = Vec::new();
    for user in ["anna", "ben"] {
        Client::register(server, DOMAIN, user, "secret").await?;
        let client = Client::connect(server, &format!("{user}@{DOMAIN}/desk"), "secret").await?;
        client.available().await?;
        clients.push(client);
    }
    clients.try_into().map_err(|_| anyhow::anyhow!("two clients"))
}

// Anna says `count` things to Ben, each of which arrives.
async fn talk(clients: &[Client; 2], first: usize, count: usize, said: &mut BTreeSet<String>) -> Result<()> {
    let [anna, ben] = clients;
    for n in first..first + count {
        let id = format!("m{n}");
        anna.message(ben.bare(), "chat", &id, &format!("text {n}")).await?;
        ben.answer_to(&id).await?;
        said.insert(id);
    }
    Ok(())
}

async fn archived_once(cluster: &Cluster, namespace: &str, said: &BTreeSet<String>) -> Result<()> {
    let archive = cluster.archive(namespace).await?;
    let mut found: Vec<_> =
        archive.accepted().filter_map(|(_, accepted)| accepted.stanza_id.clone()).collect();
    found.sort();
    ensure!(found.iter().eq(said), "said: {said:?}\narchived: {found:?}");
    Ok(())
}

fn database(cluster: &Cluster, namespace: &str, replicas: usize) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    cluster.kubectl(&["-n", namespace, "scale", "statefulset/postgres", &replicas]).map(drop)
}

// Alarms of an XMPPCluster's status.
fn alarms(cluster: &Cluster, namespace: &str) -> Result<BTreeSet<String>> {
    let object = cluster.get(namespace, "xmppcluster/chat")?;
    let listed = object["status"]["alarms"].as_array().cloned().unwrap_or_default();
    Ok(listed.iter().filter_map(|alarm| alarm["alarm"].as_str().map(str::to_owned)).collect())
}

fn metrics(cluster: &Cluster, namespace: &str, pod: &str, port: u16) -> Result<String> {
    cluster.kubectl(&[
        "get",
        "--raw",
        &format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics"),
    ])
}

// Whether an alarm stands in the metrics of a namespace's sidecar.
fn in_metrics(cluster: &Cluster, namespace: &str, alarm: &str) -> Result<bool> {
    let label = format!("alarm=\"{alarm}\"");
    let metrics = metrics(cluster, namespace, "prosody-0", 9467)?;
    Ok(metrics
        .lines()
        .any(|line| line.starts_with("cartulary_alarm{") && line.contains(&label) && line.ends_with(" 1")))
}

#[tokio::test(flavor = "multi_thread")]
async fn ma_10_the_loss_of_a_database_a_filling_queue_and_its_return_are_told_everywhere() -> Result<()> {
    let cluster = shared()?;
    let here = "alarmed";
    let queue = "  - target: {kind: ArchiveEndpoint, name: archive}\n    patch: |-\n      \
                 - {op: replace, path: /spec/queue/maxRecords, value: 60}\n";
    declare(&cluster, here, 1, queue)?;
    let clients = pair(cluster.xmpp(here, "prosody-0")?).await?;
    let mut said = BTreeSet::new();
    talk(&clients, 0, 5, &mut said).await?;

    database(&cluster, here, 0)?;
    cluster.wait_condition(here, "archiveendpoint/archive", "Reachable", "False", "Unreachable")?;
    cluster.wait_condition(here, "xmppcluster/chat", "Recording", "False", "Unreachable")?;
    let told = |alarm: &str| {
        cluster.eventually(&format!("{alarm} is told in status, event and metric"), || {
            let event = cluster.events(here)?.lines().any(|line| line.starts_with(alarm));
            let status = alarms(&cluster, here)?.contains(alarm);
            Ok((event && status && in_metrics(&cluster, here, alarm)?).then_some(()))
        })
    };
    told("ArchiveUnreachable")?;
    talk(&clients, 100, 26, &mut said).await?;
    told("QueueHighWater")?;

    database(&cluster, here, 1)?;
    cluster.wait_condition(here, "archiveendpoint/archive", "Reachable", "True", "Connected")?;
    cluster.wait_condition(here, "xmppcluster/chat", "Ready", "True", "AsDeclared")?;
    cluster.eventually("the return is told, and no alarm is left", || {
        let event = cluster.events(here)?.lines().any(|line| line.starts_with("Connected"));
        let quiet = alarms(&cluster, here)?.is_empty() && !in_metrics(&cluster, here, "ArchiveUnreachable")?;
        Ok((event && quiet).then_some(()))
    })?;
    cluster.drained(here, 1)?;
    archived_once(&cluster, here, &said).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_journal_of_a_pod_that_is_gone_is_told_and_carried_to_the_archive() -> Result<()> {
    let cluster = shared()?;
    let here = "vanished";
    declare(&cluster, here, 2, "")?;
    let mut said = BTreeSet::new();
    let clients = pair(cluster.xmpp(here, "prosody-1")?).await?;
    talk(&clients, 0, 5, &mut said).await?;
    cluster.drained(here, 2)?;
    database(&cluster, here, 0)?;
    cluster.wait_condition(here, "archiveendpoint/archive", "Reachable", "False", "Unreachable")?;
    talk(&clients, 50, 25, &mut said).await?;

    let scale =
        |servers: &str| cluster.kubectl(&["-n", here, "scale", "statefulset/prosody", servers]).map(drop);
    scale("--replicas=1")?;
    cluster.kubectl(&["-n", here, "wait", "--for=delete", "pod/prosody-1", "--timeout=120s"])?;
    cluster.eventually("the journal that nobody attends is told", || {
        let [status, _, message] =
            cluster.condition(here, "xmppcluster/chat", "JournalsAttended")?.context("no such condition")?;
        let alarmed = alarms(&cluster, here)?.contains("JournalUnattended");
        Ok((status == "False" && message.contains("prosody-1") && alarmed).then_some(()))
    })?;
    let shown = cluster.cartulary_command(&["status", "-n", here])?.output()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(shown.contains("prosody-1"), "cartulary status does not name the journal:\n{shown}");

    database(&cluster, here, 1)?;
    cluster.eventually("nothing waits in it any more", || {
        let condition = cluster.condition(here, "xmppcluster/chat", "JournalsAttended")?;
        Ok(condition.filter(|[status, _, _]| status == "True").map(drop))
    })?;
    archived_once(&cluster, here, &said).await?;
    ensure!(
        cluster.get(here, "pvc/cartulary-journal-prosody-1")?["metadata"].get("deletionTimestamp").is_none(),
        "the drained journal is deleted"
    );

    scale("--replicas=2")?;
    let clients = pair(cluster.xmpp(here, "prosody-1")?).await?;
    cluster.wait_condition(here, "xmppcluster/chat", "Ready", "True", "AsDeclared")?;
    talk(&clients, 100, 5, &mut said).await?;
    cluster.drained(here, 2)?;
    archived_once(&cluster, here, &said).await?;
    let (code, printed) = cluster.cartulary_as_reader(here, "verify", &[])?;
    ensure!(code == 0, "cartulary verify ends with {code}:\n{printed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ev_1_anchors_of_the_cluster_prove_an_archive_complete_and_name_last_rows_that_were_deleted()
-> Result<()> {
    let cluster = shared()?;
    let here = "proven";
    declare(&cluster, here, 1, "")?;
    let clients = pair(cluster.xmpp(here, "prosody-0")?).await?;
    let mut said = BTreeSet::new();
    talk(&clients, 0, 20, &mut said).await?;
    cluster.drained(here, 1)?;
    cluster.wait_condition(here, "xmppcluster/chat", "Anchored", "True", "AsDeclared")?;

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("anchors.json");
    let anchors = file.to_string_lossy().into_owned();
    let verify = || cluster.cartulary_as_reader(here, "verify", &["--anchors", &anchors]);
    // Until an anchor covers what was said: they are written once a minute.
    let mut archive = cluster.archive_connection(here).await?;
    let last: i64 =
        sqlx::query_scalar("SELECT max(sequence) FROM cartulary.record").fetch_one(&mut archive).await?;
    cluster.eventually("an anchor covers the last record", || {
        let printed = cluster.cartulary(&["anchors", "-n", here])?;
        let kept: Value = serde_json::from_str(&printed)?;
        let heads: Vec<_> = kept["journals"].as_array().into_iter().flatten().collect();
        let heads = heads.iter().filter_map(|journal| journal["heads"].as_array()).flatten();
        let covered =
            heads.filter_map(|head| head["confirmed"]["sequence"].as_i64()).any(|sequence| sequence >= last);
        std::fs::write(&file, printed)?;
        Ok(covered.then_some(()))
    })?;
    let (code, printed) = verify()?;
    ensure!(
        code == 0
            && printed.trim_end().lines().last().is_some_and(|line| line.contains("consistent and complete")),
        "verify ends with {code}:\n{printed}"
    );

    // The superuser cuts the last rows off; nothing follows them, so only the anchor knows.
    for table in ["payload WHERE record_id IN (SELECT id FROM cartulary.record WHERE", "record WHERE"] {
        let end = if table.starts_with("payload") { ")" } else { "" };
        let sql = format!("DELETE FROM cartulary.{table} sequence > {}{end}", last - 3);
        archive.execute(sqlx::AssertSqlSafe(sql)).await?;
    }
    let (code, printed) = verify()?;
    ensure!(
        code == 1 && printed.contains(&format!("{}", last - 2)),
        "three deleted rows, of which {} is the first, are not named (exit code {code}):\n{printed}",
        last - 2
    );
    Ok(())
}
