//! The whole product in a real cluster: what a platform team sees, and what happens when a part of it is away.
//!
//! Each test has a cluster of its own; `KEEP=1` leaves it after a failure.

use anyhow::{Context, Result, bail, ensure};
use cartulary_tests::client::Client;
use cartulary_tests::kubernetes::{Cluster, SYSTEM};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const CHAT: &str = "chat";
const DOMAIN: &str = "chat.example";

/// Installs the quickstart and waits until it is in force.
fn quickstart(name: &str) -> Result<Cluster> {
    let cluster = Cluster::with_product(name)?;
    cluster.kubectl(&["apply", "-k", "tests/quickstart"])?;
    ready(&cluster)?;
    Ok(cluster)
}

fn ready(cluster: &Cluster) -> Result<()> {
    cluster
        .kubectl(&["-n", CHAT, "wait", "--for=condition=Ready", "xmppcluster/chat", "--timeout=240s"])
        .map(drop)
}

async fn login(server: SocketAddr, user: &str) -> Result<Client> {
    Client::register(server, DOMAIN, user, "secret").await?;
    let client = Client::connect(server, &format!("{user}@{DOMAIN}/phone"), "secret").await?;
    client.available().await?;
    Ok(client)
}

/// Texts of all accepted messages in the cluster's archive, each as often as it is there.
fn archived(cluster: &Cluster) -> Result<Vec<String>> {
    let printed = cluster.cartulary(&["search", "-n", CHAT, "--cluster", "chat", "-o", "json"])?;
    let mut texts = Vec::new();
    for line in printed.lines().filter(|line| line.starts_with('{')) {
        let found: Value = serde_json::from_str(line)?;
        texts.extend(found["body"].as_str().map(str::to_owned));
    }
    Ok(texts)
}

/// Waits until nothing waits for the archive any more.
fn drained(cluster: &Cluster) -> Result<()> {
    cluster.eventually("every record archived", || {
        let status = cluster.get(CHAT, "xmppcluster/chat")?;
        let current = status["status"]["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.iter().all(|n| n["covered"] == true));
        Ok((current && status["status"]["waiting"] == 0).then_some(()))
    })
}

/// Every text is in the archive exactly once.
fn archived_once(cluster: &Cluster, texts: &BTreeSet<String>) -> Result<()> {
    cluster.eventually("what was said is in the archive", || {
        let found = archived(cluster)?;
        Ok(texts.iter().all(|text| found.contains(text)).then_some(()))
    })?;
    let found = archived(cluster)?;
    for text in texts {
        let copies = found.iter().filter(|body| *body == text).count();
        ensure!(copies == 1, "{text:?} is {copies} times in the archive");
    }
    Ok(())
}

#[test]
fn a_pod_cannot_start_unrecorded_while_the_operator_is_away_and_others_can() -> Result<()> {
    let cluster = Cluster::with_product("e2e-away")?;
    // The server first: its pods must wait for the declaration.
    cluster.kubectl(&["create", "namespace", CHAT])?;
    let all = cluster.kubectl(&["kustomize", "tests/quickstart"])?;
    let (recording, server): (Vec<&str>, Vec<&str>) =
        all.split("\n---\n").partition(|document| document.contains("apiVersion: cartulary.dev/"));
    cluster.apply(&server.join("\n---\n"))?;
    cluster.eventually("the pod is refused, and the refusal names what is missing", || {
        Ok(cluster
            .events(CHAT)?
            .lines()
            .any(|e| e.contains("FailedCreate") && e.contains("XMPPCluster"))
            .then_some(()))
    })?;
    cluster.apply(&recording.join("\n---\n"))?;
    ready(&cluster)?;

    cluster.kubectl(&["-n", SYSTEM, "scale", "deployment", "--all", "--replicas=0"])?;
    cluster.kubectl(&["-n", SYSTEM, "wait", "--for=delete", "pod", "--all", "--timeout=120s"])?;
    let pod = |name: &str, labels: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {CHAT}, labels: {labels}}}\nspec:\n  \
             containers: [{{name: c, image: 'localhost/prosody:13', command: [sleep, '600']}}]\n"
        )
    };
    let refused = cluster.apply(&pod("labelled", "{cartulary.dev/cluster: chat}"));
    ensure!(refused.is_err(), "a labelled pod started although nobody could inject the sidecar");
    cluster.apply(&pod("unlabelled", "{app: other}"))?;
    cluster.kubectl(&["-n", CHAT, "wait", "--for=condition=Ready", "pod/unlabelled", "--timeout=120s"])?;
    cluster.kubectl(&["-n", CHAT, "delete", "pod", "prosody-0", "--wait=false"])?;
    cluster.eventually("the server's pod is gone and refused", || {
        let gone = cluster.get(CHAT, "pod/prosody-0").is_err();
        let refused =
            cluster.events(CHAT)?.lines().any(|e| e.contains("FailedCreate") && e.contains("webhook"));
        Ok((gone && refused).then_some(()))
    })?;

    cluster.kubectl(&["-n", SYSTEM, "scale", "deployment", "--all", "--replicas=1"])?;
    cluster.xmpp(CHAT, "prosody-0")?;
    ready(&cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sidecar_means_refused_messages_and_none_lost() -> Result<()> {
    let cluster = quickstart("e2e-kill")?;
    let server = cluster.xmpp(CHAT, "prosody-0")?;
    let (anna, ben) = (login(server, "anna").await?, login(server, "ben").await?);
    let mut said = 0;
    let mut refused = BTreeSet::new();
    let mut received = BTreeSet::new();
    let mut killed_at = None;
    // Until messages were refused and delivered again after that; each waits for its own fate, so that the loop paces itself.
    while killed_at.is_none_or(|at| received.last().is_none_or(|last| *last <= at)) || refused.is_empty() {
        said += 1;
        ensure!(
            said < 20_000,
            "after the kill: {} refused, the last delivered {:?}",
            refused.len(),
            received.last()
        );
        if said == 20 {
            cluster.kill("cartulary-sidecar")?;
            killed_at = Some(said);
        }
        let id = format!("m{said}");
        anna.message("ben@chat.example", "chat", &id, &text(said)).await?;
        tokio::select! {
            answer = anna.answer_to(&id) => {
                let answer = answer?;
                ensure!(answer.is_error(), "anna was given {answer:?}");
                refused.insert(said);
                // The sender reads that the message can be sent again.
                ensure!(answer.condition.is_some(), "an error without a condition: {answer:?}");
            }
            got = ben.answer_to(&id) => {
                ensure!(got?.body == Some(text(said)), "{id} arrived with another text");
                received.insert(said);
            }
        }
    }
    anna.settle().await?;
    ben.settle().await?;
    let heard: BTreeSet<_> = ben.messages().into_iter().filter_map(|m| m.body).collect();
    ensure!(refused.iter().all(|n| !heard.contains(&text(*n))), "a refused message was delivered");
    drained(&cluster)?;
    archived_once(&cluster, &heard)
}

fn text(number: u32) -> String {
    format!("message {number} of the conversation")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_away_is_named_and_what_waits_survives_the_pod() -> Result<()> {
    let cluster = Cluster::with_product("e2e-archive")?;
    cluster.apply_example("postgresql")?;
    ready(&cluster)?;
    let condition =
        |kind, status, reason| cluster.wait_condition(CHAT, "archiveendpoint/archive", kind, status, reason);

    let server = cluster.xmpp(CHAT, "prosody-0")?;
    let (anna, ben) = (login(server, "anna").await?, login(server, "ben").await?);
    let mut said = BTreeSet::new();
    let talk = async |from: u32, said: &mut BTreeSet<String>, anna: &Client, ben: &Client| -> Result<()> {
        for n in from..from + 25 {
            anna.message("ben@chat.example", "chat", &format!("m{n}"), &text(n)).await?;
            let got = ben.answer_to(&format!("m{n}")).await?;
            said.extend(got.body);
        }
        Ok(())
    };
    talk(0, &mut said, &anna, &ben).await?;

    // Each way in which an archive can be out of reach is told apart.
    let password = cluster.get(CHAT, "secret/archive-writer")?["data"]["password"]
        .as_str()
        .context("password")?
        .to_owned();
    let set_password = |base64: &str| {
        let patch = format!("{{\"data\":{{\"password\":\"{base64}\"}}}}");
        cluster.kubectl(&["-n", CHAT, "patch", "secret", "archive-writer", "-p", &patch]).map(drop)
    };
    set_password("d3Jvbmc=")?;
    condition("Reachable", "False", "AuthenticationFailed")?;
    talk(100, &mut said, &anna, &ben).await?;
    set_password(&password)?;
    condition("Reachable", "True", "Connected")?;

    let take_credentials_from = |secret: &str| {
        let patch =
            format!("{{\"spec\":{{\"postgresql\":{{\"credentialsSecret\":{{\"name\":\"{secret}\"}}}}}}}}");
        let object = "archiveendpoint/archive";
        cluster.kubectl(&["-n", CHAT, "patch", object, "--type=merge", "-p", &patch]).map(drop)
    };
    take_credentials_from("nowhere")?;
    let message = condition("Ready", "False", "SecretMissing")?;
    ensure!(message.contains("nowhere"), "the message does not name the Secret: {message}");
    // The last good configuration is still in force.
    talk(200, &mut said, &anna, &ben).await?;
    take_credentials_from("archive-writer")?;
    condition("Ready", "True", "AsDeclared")?;

    // The database goes, messages go on; then the pod goes with what waits, and comes back to it.
    cluster.kubectl(&["-n", CHAT, "scale", "statefulset/postgres", "--replicas=0"])?;
    cluster.kubectl(&["-n", CHAT, "wait", "--for=delete", "pod/postgres-0", "--timeout=120s"])?;
    condition("Reachable", "False", "Unreachable")?;
    talk(300, &mut said, &anna, &ben).await?;
    let waiting = cluster.eventually("the status counts what waits", || {
        Ok(cluster.get(CHAT, "xmppcluster/chat")?["status"]["waiting"]
            .as_i64()
            .filter(|waiting| *waiting >= 25))
    })?;
    cluster.kubectl(&["-n", CHAT, "delete", "pod", "prosody-0", "--timeout=120s"])?;
    cluster.kubectl(&["-n", CHAT, "scale", "statefulset/postgres", "--replicas=1"])?;
    let server = cluster.xmpp(CHAT, "prosody-0")?;
    let (anna, ben) = (login(server, "anna").await?, login(server, "ben").await?);
    talk(400, &mut said, &anna, &ben).await?;
    condition("Reachable", "True", "Connected")?;
    drained(&cluster).with_context(|| format!("{waiting} records waited"))?;

    ensure!(said.len() == 125, "{} of 125 were delivered", said.len());
    let sql = |query: &str| {
        cluster.kubectl(&[
            "-n",
            CHAT,
            "exec",
            "postgres-0",
            "--",
            "psql",
            "-U",
            "postgres",
            "-d",
            "archive",
            "-Atc",
            query,
        ])
    };
    cluster.eventually("every message in PostgreSQL", || {
        let found = sql("select count(distinct body) || ' ' || count(*) from cartulary.record where body like 'message %'")?;
        Ok((found.trim() == "125 125").then_some(()))
    })?;

    // A schema nobody knows is refused by name, and nothing is written into it.
    sql("update cartulary.schema_version set version = version + 1000")?;
    sql("select pg_terminate_backend(pid) from pg_stat_activity where usename <> 'postgres'")?;
    condition("Reachable", "False", "UnknownSchemaVersion")?;
    sql("update cartulary.schema_version set version = version - 1000")?;
    condition("Reachable", "True", "Connected").map(drop)
}

#[test]
fn kubectl_explains_waits_and_lists_in_words_a_person_reads() -> Result<()> {
    let cluster = quickstart("e2e-kubectl")?;
    let explained = cluster.kubectl(&["explain", "xmppcluster.spec.archiving"])?;
    for field in ["inbound", "outbound", "blockIfUnableToRecord", "endpoint", "nodeEndpoints"] {
        ensure!(explained.contains(field), "kubectl explain does not tell of {field}:\n{explained}");
    }
    ensure!(explained.contains("Default"), "kubectl explain tells no defaults:\n{explained}");

    let listed = cluster.kubectl(&["get", "cartulary", "-n", CHAT])?;
    for word in [
        "READY",
        "REASON",
        "COVERED",
        "WAITING",
        "AsDeclared",
        "1/1",
        "xmppcluster.cartulary.dev/chat",
        "archiveendpoint",
    ] {
        ensure!(listed.contains(word), "kubectl get cartulary shows no {word}:\n{listed}");
    }
    for short in ["xc", "ae"] {
        cluster.kubectl(&["get", short, "-n", CHAT])?;
    }
    let coverage = cluster.wait_condition(CHAT, "xmppcluster/chat", "Covered", "True", "AsDeclared")?;
    ensure!(!coverage.is_empty(), "Covered says nothing");
    match cluster.condition(CHAT, "xmppcluster/chat", "ArchiveNotIndependent")? {
        Some([status, _, message]) if status == "True" && !message.is_empty() => {}
        other => bail!("a SQLite archive beside the journal is not called out: {other:?}"),
    }

    // Mistakes are refused at once, with the field that is wrong.
    let mistakes = [
        ("spec: {server: Prosody, archivng: {}}", "archivng"),
        ("spec: {server: Openfire}", "server"),
        ("spec: {server: Prosody, journal: {ephemeral: true, size: 1Gi}}", "ephemeral"),
        ("spec: {server: Prosody, prosody: {configPath: relative.lua}}", "configPath"),
    ];
    for (spec, named) in mistakes {
        let yaml = format!(
            "apiVersion: cartulary.dev/v1alpha1\nkind: XMPPCluster\nmetadata: {{name: wrong, namespace: {CHAT}}}\n{spec}\n"
        );
        match cluster.apply(&yaml) {
            Ok(_) => bail!("this was accepted: {spec}"),
            Err(error) => ensure!(
                format!("{error:#}").contains(named),
                "{spec}: the error does not name {named}: {error:#}"
            ),
        }
    }
    Ok(())
}
