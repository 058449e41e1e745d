//! Endurance: people talk on two recorded servers while a schedule drawn from a seed kills, deletes and freezes sidecars, servers,
//! the archive's database and the operators. Then what everybody was told is compared with the archive.
//!
//! The seed fixes the schedule and the talk, so that a run can be had again as far as a real system allows.

pub mod oracle;
pub mod people;
pub mod schedule;

use super::{Cluster, SYSTEM};
use anyhow::{Context, Result, bail, ensure};
use oracle::Verdict;
use people::{Counters, Person, Session};
use schedule::{Deed, Fault, Part, Schedule};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::node::Frozen;

const CHAT: &str = "chat";
const SERVERS: usize = 2;
const PEOPLE: [&str; 4] = ["anna", "ben", "cleo", "dora"];
const TURN: Duration = Duration::from_millis(50);
// Not a word heard for so long means that something does not come back, whatever was done to it.
const SILENCE: Duration = Duration::from_secs(180);

/// How long it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// So many faults.
    Faults(usize),
    /// So much time.
    Elapsed(Duration),
}

/// What it came to.
#[derive(Debug)]
pub struct Totals {
    /// The oracle's verdict.
    pub verdict: Verdict,
    /// Containers killed and pods deleted.
    pub kills: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { said, archived, lost, doubled, .. } = &self.verdict;
        let (lost, doubled) = (lost.len(), doubled.len());
        write!(
            f,
            "endurance: {said} said, {archived} archived, {} kills, {lost} lost, {doubled} doubled",
            self.kills
        )
    }
}

impl Totals {
    /// Nothing is lost, doubled or wrong; else it is told, seed included.
    pub fn holds(&self, seed: u64) -> Result<()> {
        let Verdict { lost, doubled, wrong, .. } = &self.verdict;
        let all: Vec<_> = lost.iter().chain(doubled).chain(wrong).map(String::as_str).collect();
        ensure!(
            all.is_empty(),
            "seed {seed}: {} things are wrong:\n{}",
            all.len(),
            all[..all.len().min(100)].join("\n")
        );
        ensure!(self.verdict.archived > 0 && self.kills > 0, "seed {seed}: nothing happened: {self}");
        Ok(())
    }
}

/// Runs it in a cluster of its own; `progress` is told what goes on, a line for each minute and for each end of a phase.
pub async fn run(
    name: &str,
    seed: u64,
    until: Until,
    progress: impl Fn(&str) + Send + Sync + 'static,
) -> Result<Totals> {
    let progress = Arc::new(progress);
    let cluster = Arc::new(tokio::task::block_in_place(|| set_up(name))?);
    let counters = Arc::new(Counters::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut people = everybody(&cluster, seed)?;
    for person in &people {
        person.register().await?;
    }
    progress(&format!("endurance: seed {seed}: {} people talk on {SERVERS} servers", people.len()));

    let kills = Arc::new(AtomicUsize::new(0));
    let faults = tokio::task::spawn_blocking({
        let (cluster, counters, kills, progress) =
            (cluster.clone(), counters.clone(), kills.clone(), progress.clone());
        move || strike(&cluster, seed, until, &counters, &kills, &*progress)
    });
    let lives = people.drain(..).map(|mut person| {
        let (stop, counters) = (stop.clone(), counters.clone());
        tokio::spawn(async move {
            let sessions = person.live(&stop, &counters).await;
            (person, sessions)
        })
    });
    let lives: Vec<_> = lives.collect();
    let outcome = faults.await?;
    stop.store(true, Ordering::Relaxed);
    let mut sessions: Vec<Session> = Vec::new();
    for life in lives {
        let (person, lived) = life.await?;
        people.push(person);
        sessions.extend(lived);
    }
    outcome.with_context(|| format!("seed {seed}"))?;

    progress("endurance: waiting until everything is mended and archived");
    tokio::task::block_in_place(|| mended(&cluster))?;
    for person in &people {
        sessions.push(person.last_call(&counters).await?);
    }
    tokio::task::block_in_place(|| cluster.drained(CHAT, SERVERS))?;
    let verdict = oracle::judge(&sessions, &cluster.archive(CHAT).await?)?;
    progress(&format!(
        "endurance: {} sessions, {} received, {} refused, {} with an unknown fate, {} things wrong besides",
        sessions.len(),
        verdict.heard,
        verdict.refused,
        verdict.unknown,
        verdict.wrong.len()
    ));
    let totals = Totals { verdict, kills: kills.load(Ordering::Relaxed) };
    totals.holds(seed)?;
    tokio::task::block_in_place(|| evidence(&cluster, &*progress)).with_context(|| format!("seed {seed}"))?;
    Ok(totals)
}

fn set_up(name: &str) -> Result<Cluster> {
    let cluster = Cluster::with_values(name, &["operator.replicas=2"])?;
    cluster.apply_example_with("postgresql", OVERLAY, &[])?;
    for server in 0..SERVERS {
        // An address that stays while pods come and go.
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: prosody-{server}, namespace: {CHAT}}}\nspec:\n  \
             selector: {{statefulset.kubernetes.io/pod-name: prosody-{server}}}\n  ports: [{{port: 5222}}]\n"
        ))?;
    }
    mended(&cluster)?;
    Ok(cluster)
}

// Two servers, a plugin that soon stops waiting for its sidecar, and a queue that a database gone for seconds fills.
const OVERLAY: &str = r#"patches:
  - target: {kind: StatefulSet, name: prosody}
    patch: |-
      - {op: replace, path: /spec/replicas, value: 2}
      - {op: add, path: /spec/podManagementPolicy, value: Parallel}
  - target: {kind: XMPPCluster, name: chat}
    patch: |-
      - {op: add, path: /spec/link, value: {answerTimeout: 5s}}
  - target: {kind: ArchiveEndpoint, name: archive}
    patch: |-
      - {op: replace, path: /spec/queue/maxRecords, value: 300}
"#;

fn everybody(cluster: &Cluster, seed: u64) -> Result<Vec<Person>> {
    let mut people = Vec::new();
    for server in 0..SERVERS {
        let address: IpAddr = cluster.service_address(CHAT, &format!("prosody-{server}"))?.parse()?;
        let names: Vec<_> = PEOPLE.iter().map(|name| format!("{name}{server}")).collect();
        for (n, name) in names.iter().enumerate() {
            let others = names.iter().filter(|other| *other != name).cloned().collect();
            let own_seed = seed ^ ((server * PEOPLE.len() + n + 1) as u64).wrapping_mul(0x9e37_79b9);
            people.push(Person::new(name, SocketAddr::new(address, 5222), others, own_seed));
        }
    }
    Ok(people)
}

// Carries the schedule out. Returns when it is through and everything that was stopped goes on again.
fn strike(
    cluster: &Cluster,
    seed: u64,
    until: Until,
    counters: &Counters,
    kills: &AtomicUsize,
    progress: &(impl Fn(&str) + ?Sized),
) -> Result<()> {
    let begin = Instant::now();
    let mut frozen: Vec<(Instant, Frozen)> = Vec::new();
    let mut schedule = Schedule::new(seed);
    let mut next: Option<(Instant, Fault)> = None;
    let (mut done, mut minutes) = (0, 0);
    let mut heard = (Instant::now(), 0);
    loop {
        let over = match until {
            Until::Faults(count) => done >= count,
            Until::Elapsed(time) => begin.elapsed() >= time,
        };
        let (due, still): (Vec<_>, Vec<_>) = frozen.into_iter().partition(|(at, _)| *at <= Instant::now());
        frozen = still;
        for (_, processes) in due {
            cluster.thaw(&processes)?;
        }
        if over && frozen.is_empty() {
            return Ok(());
        }
        if !over {
            let (at, fault) = *next.get_or_insert_with(|| draw(&mut schedule));
            if at <= Instant::now() {
                next = None;
                done += 1;
                inflict(cluster, fault, kills, &mut frozen)?;
            }
        }
        let now_heard = counters.heard.load(Ordering::Relaxed);
        if now_heard != heard.1 {
            heard = (Instant::now(), now_heard);
        } else if heard.0.elapsed() > SILENCE {
            bail!("nobody heard a word for {SILENCE:?}, after {done} faults");
        }
        if begin.elapsed().as_secs() / 60 > minutes {
            minutes = begin.elapsed().as_secs() / 60;
            progress(&format!(
                "endurance: {minutes} min: {} said, {now_heard} received, {} refused, {} sessions, {} kills",
                counters.said.load(Ordering::Relaxed),
                counters.refused.load(Ordering::Relaxed),
                counters.sessions.load(Ordering::Relaxed),
                kills.load(Ordering::Relaxed)
            ));
        }
        std::thread::sleep(TURN);
    }
}

fn draw(schedule: &mut Schedule) -> (Instant, Fault) {
    let fault = schedule.next().unwrap_or_else(|| unreachable!("a schedule has no end"));
    (Instant::now() + fault.after, fault)
}

// A part that is down already, because of an earlier fault, cannot be hit: then nothing is counted.
fn inflict(
    cluster: &Cluster,
    fault: Fault,
    kills: &AtomicUsize,
    frozen: &mut Vec<(Instant, Frozen)>,
) -> Result<()> {
    let (namespace, pod, container) = match fault.part {
        Part::Sidecar(n) => (CHAT, format!("prosody-{n}"), "cartulary-sidecar"),
        Part::Server(n) => (CHAT, format!("prosody-{n}"), "prosody"),
        Part::Database => (CHAT, "postgres-0".to_owned(), "postgres"),
        Part::Operator(n) => {
            let pods = cluster.operators()?;
            let Some(pod) = pods.get(n % pods.len().max(1)) else { return Ok(()) };
            (SYSTEM, pod.clone(), "operator")
        }
    };
    let hit = match fault.deed {
        Deed::Kill => cluster.kill_container(namespace, &pod, container),
        Deed::Delete => {
            cluster.kubectl(&["-n", namespace, "delete", "pod", &pod, "--wait=false"]).map(|_| true)
        }
        Deed::Freeze(time) => cluster.freeze(namespace, &pod, container).map(|processes| {
            frozen.push((Instant::now() + time, processes));
            false
        }),
    };
    match hit {
        Ok(true) => {
            kills.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        Ok(false) => Ok(()),
        // Between deletion and its coming back a pod is not there.
        Err(error)
            if format!("{error:#}").contains("NotFound")
                || format!("{error:#}").contains("has no container") =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn mended(cluster: &Cluster) -> Result<()> {
    for server in 0..SERVERS {
        cluster.xmpp(CHAT, &format!("prosody-{server}"))?;
    }
    cluster.eventually("the database is back", || {
        Ok((cluster.get(CHAT, "statefulset/postgres")?["status"]["readyReplicas"] == 1).then_some(()))
    })?;
    cluster.wait_condition(CHAT, "xmppcluster/chat", "Ready", "True", "AsDeclared").map(drop)
}

// The archive is proved complete by what the operator kept, and counted: what was said is what is archived.
fn evidence(cluster: &Cluster, progress: &(impl Fn(&str) + ?Sized)) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("anchors.json").to_string_lossy().into_owned();
    cluster.eventually("anchors of every journal are kept", || {
        std::fs::write(&file, cluster.cartulary(&["anchors", "-n", CHAT])?)?;
        Ok(Some(()))
    })?;
    let (code, printed) = cluster.cartulary_as_reader(CHAT, "verify", &["--anchors", &file])?;
    let verdict = printed.trim_end().lines().last().unwrap_or_default();
    ensure!(
        code == 0 && verdict.contains("consistent and complete"),
        "cartulary verify ends with {code}:\n{printed}"
    );
    progress(&format!("endurance: {verdict}"));
    let (code, printed) = cluster.cartulary_as_reader(CHAT, "report", &["--anchors", &file])?;
    ensure!(code == 0, "cartulary report ends with {code}:\n{printed}");
    progress(&printed);
    Ok(())
}
