//! Several operators: one leads, and never two write (KO-4).

use crate::world::{World, free_port, until};
use anyhow::{Context, Result, ensure};
use cartulary_crds::XmppCluster;
use cartulary_operator::leader::LEASE;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// An operator that runs as a process of its own, behind a network that can be cut.
struct Replica {
    name: &'static str,
    child: Child,
    health: u16,
    cut: watch::Sender<bool>,
    _folder: tempfile::TempDir,
}

impl Replica {
    async fn start(world: &World, name: &'static str) -> Result<Self> {
        let (cut, receiver) = watch::channel(false);
        let folder = tempfile::tempdir()?;
        let kubeconfig = through_a_network(world, folder.path().join("kubeconfig"), receiver).await?;
        let health = free_port().await?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_cartulary-operator")])
            .args(&world.arguments()[1..])
            .args(["--webhook-address=127.0.0.1:0", &format!("--health-address=127.0.0.1:{health}")])
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAME", name)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let replica = Self { name, child, health, cut, _folder: folder };
        until("it admits pods", || async { Ok(replica.get("readyz").await.ok().map(|_| ())) }).await?;
        Ok(replica)
    }

    async fn get(&self, path: &str) -> Result<String> {
        let answer = reqwest::get(format!("http://127.0.0.1:{}/{path}", self.health)).await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    async fn metric(&self, name: &str) -> Result<u64> {
        let text = self.get("metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no {name}"))?.parse()?)
    }

    async fn leads(&self) -> Result<bool> {
        Ok(self.metric("cartulary_operator_leader").await? == 1)
    }

    async fn writes(&self) -> Result<u64> {
        self.metric("cartulary_operator_status_writes_total").await
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.child.id().context("it runs")?.to_string();
        ensure!(Command::new("kill").args([signal, &pid]).status().await?.success(), "{signal}");
        Ok(())
    }

    async fn comes_to_lead(&self) -> Result<()> {
        until("it leads", || async { Ok(self.leads().await?.then_some(())) }).await.context(self.name)
    }

    async fn comes_to_follow(&self) -> Result<()> {
        until("it follows", || async { Ok((!self.leads().await?).then_some(())) }).await.context(self.name)
    }
}

/// A kubeconfig of the operator's account that leads through a relay. While that is cut nothing comes through; what was
/// sent meanwhile comes through afterwards, as with real networks.
async fn through_a_network(world: &World, path: PathBuf, cut: watch::Receiver<bool>) -> Result<PathBuf> {
    let mut config: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(world.kubeconfig())?)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str().context("a server")?.to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    config["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", listener.local_addr()?));
    config["users"][0]["user"]["as"] = json!(world.account());
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    let server = server.trim_start_matches("https://").to_owned();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (server, cut) = (server.clone(), cut.clone());
            tokio::spawn(async move {
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = TcpStream::connect(server).await?.into_split();
                tokio::try_join!(carry(near_in, far_out, cut.clone()), carry(far_in, near_out, cut))
            });
        }
    });
    Ok(path)
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut cut: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let size = from.read(&mut buffer).await?;
        // The sender is gone when the test is over.
        if size == 0 || cut.wait_for(|cut| !*cut).await.is_err() {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..size]).await?;
    }
}

/// Changes the declaration, and waits until whoever leads has written about it. The generation it is of.
async fn change(world: &World, outbound: bool) -> Result<i64> {
    let spec = json!({ "spec": { "archiving": { "outbound": outbound } } });
    let api = world.api::<XmppCluster>();
    let generation =
        api.patch("chat", &PatchParams::default(), &Patch::Merge(spec)).await?.metadata.generation;
    until("it is written about", || async {
        let status = api.get("chat").await?.status.unwrap_or_default();
        Ok((status.observed_generation == generation).then_some(()))
    })
    .await?;
    generation.context("a generation")
}

async fn two(test: &str) -> Result<(World, Replica, Replica)> {
    let world = World::without_operator(test, free_port().await?).await?;
    world.cluster(json!({})).await?;
    let first = Replica::start(&world, "first").await?;
    first.comes_to_lead().await?;
    let second = Replica::start(&world, "second").await?;
    change(&world, true).await?;
    assert!(!second.leads().await?);
    assert_eq!(second.writes().await?, 0, "who follows writes nothing");
    Ok((world, first, second))
}

async fn holder(world: &World) -> Result<String> {
    let lease = world.api::<Lease>().get(LEASE).await?;
    Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_4_another_operator_takes_over_from_one_that_was_killed() -> Result<()> {
    let (world, first, second) = two("killed").await?;
    first.signal("-KILL").await?;
    second.comes_to_lead().await?;
    change(&world, false).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_4_an_operator_that_ends_in_order_gives_the_lead_back() -> Result<()> {
    let (world, mut first, second) = two("ended").await?;
    second.signal("-STOP").await?;
    first.signal("-TERM").await?;
    assert!(first.child.wait().await?.success());
    assert_eq!(holder(&world).await?, "");
    second.signal("-CONT").await?;
    second.comes_to_lead().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_4_a_frozen_operator_wakes_as_a_follower_and_writes_nothing() -> Result<()> {
    let (world, first, second) = two("frozen").await?;
    let before = first.writes().await?;
    first.signal("-STOP").await?;
    second.comes_to_lead().await?;
    change(&world, false).await?;
    // It has missed a change, and finds it in its watch as it wakes.
    first.signal("-CONT").await?;
    first.comes_to_follow().await?;
    change(&world, true).await?;
    assert_eq!(first.writes().await?, before);
    assert!(second.leads().await? && holder(&world).await?.starts_with("second"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ko_4_an_operator_that_is_cut_off_stops_before_another_begins() -> Result<()> {
    let (world, first, second) = two("partition").await?;
    first.cut.send_replace(true);
    first.comes_to_follow().await?;
    assert!(!second.leads().await?, "its claim ends first");
    let before = first.writes().await?;
    second.comes_to_lead().await?;
    let generation = change(&world, false).await?;
    first.cut.send_replace(false);
    // What it had sent meanwhile has arrived by the time that it answers again.
    let seen = world.api::<XmppCluster>().get("chat").await?;
    assert_eq!(seen.status.clone().and_then(|status| status.observed_generation), Some(generation));
    change(&world, true).await?;
    assert_eq!(first.writes().await?, before, "{}", seen.name_any());
    assert!(!first.leads().await? && second.leads().await?);
    Ok(())
}
