//! Compliance servers in a cluster, some of them killed and some of them hanging while people talk: what was said adds up everywhere,
//! memory stays bounded, and operators are told what is wrong, where, and when it is over.
//!
//! The tests share a cluster; each has a namespace of its own. `KEEP=1` leaves it after a failure.

use anyhow::{Context, Result, ensure};
use cartulary_compliance::config::PendingLimit;
use cartulary_compliance::status::SidecarStatus;
use cartulary_tests::client::Client;
use cartulary_tests::kubernetes::Cluster;
use cartulary_tests::kubernetes::conversations::{Conversation, Conversations, Fate};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

const DOMAIN: &str = "chat.example";
const SERVERS: [&str; 3] = ["blue", "green", "red"];

fn shared() -> Result<Arc<Cluster>> {
    let cluster = Cluster::shared("e2e-compliance", &["operator.pollSeconds=2"])?;
    cluster.load_kit()?;
    Ok(cluster)
}

// The example `example` in a namespace of its own, on these pods, its messages asked about at three loggers that share a profile.
fn declare(
    cluster: &Cluster,
    namespace: &str,
    example: &str,
    nodes: &[&str],
    limits: PendingLimit,
) -> Result<Vec<SocketAddr>> {
    cluster.kubectl(&["create", "namespace", namespace])?;
    cluster.apply_in(
        namespace,
        "apiVersion: cartulary.dev/v1alpha1\nkind: Profile\nmetadata: {name: said}\nspec:\n  displayName: Said\n  \
         events: [{event: es_OUT, packetTypes: [message]}]\n",
    )?;
    for server in SERVERS {
        cluster.compliance_server(namespace, server, nodes, "logger", &[])?;
    }
    let assigned = SERVERS.map(|server| format!("{{server: {server}, profile: Said}}")).join(", ");
    let PendingLimit { max_events, max_bytes } = limits;
    let replicas = nodes.len();
    cluster.apply_example_with(
        example,
        &format!(
            "namespace: {namespace}\npatches:\n  - target: {{kind: StatefulSet, name: prosody}}\n    patch: |-\n      \
             - {{op: replace, path: /spec/replicas, value: {replicas}}}\n  - target: {{kind: XMPPCluster, name: chat}}\n    patch: |-\n      \
             - {{op: add, path: /spec/compliance, value: {{servers: [{assigned}], eventTimeout: 3s, dropAfter: 6s, \
             limits: {{maxEvents: {max_events}, maxBytes: \"{max_bytes}\"}}}}}}\n"
        ),
        &[],
    )?;
    let addresses = nodes.iter().map(|node| cluster.xmpp(namespace, node)).collect::<Result<Vec<_>>>()?;
    for server in SERVERS {
        in_service(cluster, namespace, nodes, server)?;
    }
    cluster.wait_condition(namespace, "xmppcluster/chat", "Ready", "True", "AsDeclared")?;
    Ok(addresses)
}

fn in_service(cluster: &Cluster, namespace: &str, nodes: &[&str], server: &str) -> Result<()> {
    cluster.links(namespace, nodes, server, "in service", |link| link.in_service)
}

// Not in service, and nothing waits for it any more.
fn out(cluster: &Cluster, namespace: &str, nodes: &[&str], server: &str) -> Result<()> {
    cluster.links(namespace, nodes, server, "out", |link| !link.in_service && !link.queueing)
}

#[tokio::test(flavor = "multi_thread")]
async fn fh_3_with_one_server_killed_and_one_hung_what_was_said_adds_up_and_no_conversation_is_split()
-> Result<()> {
    let cluster = shared()?;
    let (here, nodes) = ("adds-up", ["prosody-0", "prosody-1"]);
    let addresses = declare(&cluster, here, "postgresql", &nodes, PendingLimit::default())?;
    let served: Vec<_> = nodes.into_iter().zip(addresses).collect();
    let mut talks = Conversations::start(&served, DOMAIN, 8).await?;
    talks.go_on(4).await?;

    ensure!(cluster.kill_container(here, "red", "server")?, "there was nothing to kill");
    out(&cluster, here, &nodes, "red")?;
    talks.go_on(4).await?;
    let hung = cluster.freeze(here, "green", "server")?;
    out(&cluster, here, &nodes, "green")?;
    talks.go_on(4).await?;

    let mut seen = Seen::default();
    seen.take(&cluster, here, "red")?;
    cluster.thaw(&hung)?;
    cluster.start_compliance_server(here, "red", &nodes, "logger", &[])?;
    for server in ["green", "red"] {
        in_service(&cluster, here, &nodes, server)?;
    }
    talks.go_on(4).await?;
    let said = talks.end().await?;
    for server in SERVERS {
        seen.take(&cluster, here, server)?;
    }

    let mut statuses = BTreeMap::new();
    for node in nodes {
        statuses.insert(node.to_owned(), cluster.sidecar_status(here, node)?);
    }
    sidecars_agree(&said, &statuses)?;
    cluster.drained(here, nodes.len())?;
    let events = archive_agrees(&cluster, here, &said).await?;
    servers_agree(&said, &events, &seen, &statuses)
}

// Sums of the clients and of each sidecar.
fn sidecars_agree(said: &[Conversation], statuses: &BTreeMap<String, SidecarStatus>) -> Result<()> {
    for (node, status) in statuses {
        let fates = || said.iter().filter(|talk| talk.node == *node).flat_map(|talk| talk.fates.values());
        let all = fates().count() as u64;
        let delivered = fates().filter(|fate| **fate == Fate::Delivered).count() as u64;
        let q = &status.questions;
        let sums =
            [q.stanzas, q.passed + q.undecided_bounced, q.passed, q.undecided_bounced, q.refused_messages];
        let expected = [all, all, delivered, all - delivered, all - delivered];
        ensure!(
            sums == expected && [q.modified, q.handled, q.bounced, q.undecided_passed, q.waiting] == [0; 5],
            "{node}: {all} said, {delivered} delivered: {q:#?}"
        );
        let of = |count: fn(&SidecarStatus) -> u64| count(status);
        let passed = of(|s| s.compliance_servers.values().map(|server| server.counts.passed).sum());
        let rerouted = of(|s| s.compliance_servers.values().map(|server| server.counts.rerouted).sum());
        ensure!(passed == delivered, "{node}: servers passed {passed} of {delivered} delivered messages");
        ensure!(rerouted == q.rerouted, "{node}: {rerouted} rerouted by server, {} in all", q.rerouted);
        ensure!(all > delivered, "{node}: nothing was refused while its server hung");
    }
    let rerouted: u64 = statuses.values().map(|status| status.questions.rerouted).sum();
    ensure!(rerouted > 0, "nothing that waited for a server was given to another one");
    Ok(())
}

// Each message is on record once, as what became of it. Returns the ids of events by those of messages.
async fn archive_agrees(
    cluster: &Cluster,
    namespace: &str,
    said: &[Conversation],
) -> Result<BTreeMap<String, String>> {
    let archive = cluster.archive(namespace).await?;
    let mut events = BTreeMap::new();
    for fates in said.iter().map(|talk| &talk.fates) {
        for (id, fate) in fates {
            let (_, accepted) = archive.message(id)?;
            let expected = if *fate == Fate::Delivered { "deliver" } else { "bounce" };
            ensure!(
                accepted.action.word() == expected,
                "{id}: {fate:?}, and on record: {:?}",
                accepted.action
            );
            events.insert(id.clone(), accepted.event.to_string());
        }
    }
    let recorded = archive.said().count();
    ensure!(recorded == events.len(), "{recorded} on record, {} said", events.len());
    Ok(events)
}

// What servers saw: by event, the servers and the moment.
#[derive(Default)]
struct Seen(BTreeMap<String, (String, BTreeSet<&'static str>)>);

impl Seen {
    fn take(&mut self, cluster: &Cluster, namespace: &str, server: &'static str) -> Result<()> {
        for line in cluster.compliance_log(namespace, server)? {
            let text = |field: &str| line[field].as_str().map(str::to_owned).context("a line without it");
            ensure!(line["name"] == "es_OUT" && line["packet"] == "message", "{server} saw {line}");
            let (_, servers) = self.0.entry(text("id")?).or_insert((text("stamp")?, BTreeSet::new()));
            servers.insert(server);
        }
        Ok(())
    }
}

// Every delivered message was seen by a server, nothing else was, and each conversation was with one server on all nodes, but for the
// failover; and the sidecars counted those that moved.
fn servers_agree(
    said: &[Conversation],
    events: &BTreeMap<String, String>,
    seen: &Seen,
    statuses: &BTreeMap<String, SidecarStatus>,
) -> Result<()> {
    let all: BTreeSet<_> = events.values().collect();
    ensure!(seen.0.keys().all(|event| all.contains(event)), "a server saw what nobody said");
    let mut homes = BTreeMap::<_, BTreeSet<_>>::new();
    let mut moved = BTreeMap::<_, u64>::new();
    for talk in said {
        let unseen: Vec<_> = talk
            .fates
            .iter()
            .filter(|(id, fate)| **fate == Fate::Delivered && !seen.0.contains_key(&events[*id]))
            .collect();
        ensure!(unseen.is_empty(), "{}: delivered, and seen by no server: {unseen:?}", talk.node);
        let mut course: Vec<_> = talk.fates.keys().filter_map(|id| seen.0.get(&events[id])).collect();
        course.sort();
        let home = *course.first().and_then(|(_, servers)| servers.first()).context("nothing was seen")?;
        ensure!(
            course.first().zip(course.last()).is_some_and(|(a, b)| a.1 == b.1),
            "{} {:?}: another server at the end than at the beginning",
            talk.node,
            talk.pair
        );
        homes.entry(&talk.pair).or_default().insert(home);
        // What two saw was given from the one to the other: it ends the one's run and begins the other's.
        let mut runs = vec![home];
        for (_, servers) in course {
            let last = runs[runs.len() - 1];
            runs.extend(
                servers
                    .iter()
                    .find(|server| **server != last && (servers.len() > 1 || !servers.contains(last))),
            );
        }
        let allowed: &[&[&str]] = match home {
            "blue" => &[&["blue"]],
            "green" => &[&["green", "blue", "green"], &["green", "blue", "red", "green"]],
            _ => &[
                &["red", "blue", "red"],
                &["red", "green", "blue", "red"],
                &["red", "green", "blue", "green", "red"],
            ],
        };
        ensure!(allowed.contains(&runs.as_slice()), "{} {:?}: it was with {runs:?}", talk.node, talk.pair);
        *moved.entry(talk.node.clone()).or_default() += runs.len() as u64 - 1;
    }
    ensure!(homes.values().all(|servers| servers.len() == 1), "split between nodes: {homes:?}");
    let used: BTreeSet<_> = homes.values().flatten().copied().collect();
    ensure!(used.len() == SERVERS.len(), "only {used:?} had a share");
    let counted: BTreeMap<_, _> =
        statuses.iter().map(|(node, status)| (node.clone(), status.questions.conversations_moved)).collect();
    ensure!(counted == moved, "moved: {moved:?}, counted: {counted:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cs_8_the_loss_of_a_server_and_its_return_show_in_columns_conditions_events_alarms_and_metrics()
-> Result<()> {
    let cluster = shared()?;
    let (here, nodes) = ("told", ["prosody-0"]);
    declare(&cluster, here, "quickstart", &nodes, PendingLimit::default())?;
    columns(&cluster, here, &[("blue", "1/1", "True"), ("green", "1/1", "True"), ("red", "1/1", "True")])?;

    ensure!(cluster.kill_container(here, "red", "server")?, "there was nothing to kill");
    columns(&cluster, here, &[("blue", "1/1", "True"), ("green", "1/1", "True"), ("red", "0/1", "False")])?;
    cluster.eventually("the cluster's condition names the server", || {
        let served = cluster.condition(here, "xmppcluster/chat", "ComplianceServed")?;
        Ok(served.filter(|[status, _, message]| status == "False" && message.contains("red")).map(drop))
    })?;
    cluster.eventually("the loss is told as event, alarm and metric", || {
        let event = events_of(&cluster, here, "red")?.iter().any(|reason| reason != IN_SERVICE);
        Ok((event && alarmed(&cluster, here)? == ["red"] && in_metrics(&cluster, here, "red")?).then_some(()))
    })?;
    let before = returns(&cluster, here)?;

    cluster.start_compliance_server(here, "red", &nodes, "logger", &[])?;
    columns(&cluster, here, &[("blue", "1/1", "True"), ("green", "1/1", "True"), ("red", "1/1", "True")])?;
    cluster.wait_condition(here, "xmppcluster/chat", "Ready", "True", "AsDeclared")?;
    cluster.eventually("the return is told, and no alarm is left", || {
        let told = returns(&cluster, here)? > before;
        Ok((told && alarmed(&cluster, here)?.is_empty() && !in_metrics(&cluster, here, "red")?).then_some(()))
    })
}

// `kubectl get complianceservers`: on how many nodes each is active, and whether it is ready.
fn columns(cluster: &Cluster, namespace: &str, wanted: &[(&str, &str, &str)]) -> Result<()> {
    let mut last = String::new();
    let found = cluster.eventually("the columns of kubectl get complianceservers", || {
        last = cluster.kubectl(&["-n", namespace, "get", "complianceservers"])?;
        let mut lines = last.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let header = lines.next().context("no header")?;
        let place = |name| header.iter().position(|title| *title == name).context("a column is missing");
        let (active, ready) = (place("ACTIVE")?, place("READY")?);
        let rows: Vec<_> = lines.map(|row| (row[0], row[active], row[ready])).collect();
        Ok((rows == wanted).then_some(()))
    });
    found.with_context(|| format!("they were:\n{last}"))
}

const IN_SERVICE: &str = "ComplianceServerInService";

// Reasons of the events about a compliance server.
fn events_of(cluster: &Cluster, namespace: &str, server: &str) -> Result<Vec<String>> {
    let events = cluster.get(namespace, "events")?;
    let about = |event: &&Value| {
        event["involvedObject"]["kind"] == "ComplianceServer" && event["involvedObject"]["name"] == server
    };
    let events = events["items"].as_array().cloned().unwrap_or_default();
    Ok(events.iter().filter(about).filter_map(|e| e["reason"].as_str().map(str::to_owned)).collect())
}

// How often it was told that red is in service.
fn returns(cluster: &Cluster, namespace: &str) -> Result<u64> {
    let events = cluster.get(namespace, "events")?;
    let told = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|event| event["reason"] == IN_SERVICE && event["involvedObject"]["name"] == "red");
    Ok(told.map(|event| event["count"].as_u64().or(event["series"]["count"].as_u64()).unwrap_or(1)).sum())
}

// The servers that alarms of the status are about.
fn alarmed(cluster: &Cluster, namespace: &str) -> Result<Vec<String>> {
    let object = cluster.get(namespace, "xmppcluster/chat")?;
    let alarms = object["status"]["alarms"].as_array().cloned().unwrap_or_default();
    Ok(alarms.iter().filter_map(|alarm| alarm["server"].as_str().map(str::to_owned)).collect())
}

fn in_metrics(cluster: &Cluster, namespace: &str, server: &str) -> Result<bool> {
    let label = format!("server=\"{server}\"");
    let page = cluster.sidecar_page(namespace, "prosody-0", "metrics")?;
    Ok(page
        .lines()
        .any(|line| line.starts_with("cartulary_alarm{") && line.contains(&label) && line.ends_with(" 1")))
}

#[tokio::test(flavor = "multi_thread")]
async fn cs_3_troubleshoot_names_the_killed_and_the_hung_server_and_what_to_check_next() -> Result<()> {
    let cluster = shared()?;
    let (here, nodes) = ("troubled", ["prosody-0"]);
    declare(&cluster, here, "quickstart", &nodes, PendingLimit::default())?;
    let (code, printed) = troubleshoot(&cluster, here)?;
    ensure!(code == 0, "all is well, and troubleshoot ends with {code}:\n{printed}");

    ensure!(cluster.kill_container(here, "red", "server")?, "there was nothing to kill");
    let hung = cluster.freeze(here, "green", "server")?;
    for server in ["green", "red"] {
        out(&cluster, here, &nodes, server)?;
    }
    let (code, printed) = troubleshoot(&cluster, here)?;
    let about = |server: &str| {
        let lines = printed.lines().filter(|line| line.contains(server));
        lines.collect::<Vec<_>>().join("\n")
    };
    ensure!(code != 0, "two servers are away, and troubleshoot ends with 0:\n{printed}");
    ensure!(about("red:5347").contains("refused"), "the killed server:\n{printed}");
    ensure!(about("green:5347").contains("answer"), "the hung server:\n{printed}");
    cluster.thaw(&hung)?;
    cluster.start_compliance_server(here, "red", &nodes, "logger", &[])?;
    for server in ["green", "red"] {
        in_service(&cluster, here, &nodes, server)?;
    }
    let (code, printed) = troubleshoot(&cluster, here)?;
    ensure!(code == 0, "all is well again, and troubleshoot ends with {code}:\n{printed}");
    Ok(())
}

fn troubleshoot(cluster: &Cluster, namespace: &str) -> Result<(i32, String)> {
    let output = cluster.cartulary_command(&["troubleshoot", "-n", namespace])?.output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((output.status.code().unwrap_or(-1), text))
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_while_every_server_hangs_memory_is_bounded_messages_are_refused_and_the_server_stays_up()
-> Result<()> {
    let cluster = shared()?;
    let (here, nodes) = ("bounded", ["prosody-0"]);
    let limits = PendingLimit { max_events: 3, max_bytes: 4096 };
    let addresses = declare(&cluster, here, "quickstart", &nodes, limits)?;
    let mut people = Vec::new();
    for n in 0..PEOPLE {
        people.push(login(addresses[0], &format!("person{n}")).await?);
    }
    let memory = Gauges::read(&cluster, here)?.memory;
    let hung = SERVERS.map(|server| cluster.freeze(here, server, "server"));

    // Everybody talks to the next one, much at once.
    let mut ids = Vec::new();
    for (n, one) in people.iter().enumerate() {
        let other = people[(n + 1) % PEOPLE].bare();
        for m in 0..MESSAGES {
            let id = format!("{n}-{m}");
            one.message(other, "chat", &id, &"lorem ipsum ".repeat(50)).await?;
            ids.push((n, id));
        }
    }
    let (mut most, mut told) = (Gauges::default(), 0);
    while told < ids.len() {
        most = most.max(Gauges::read(&cluster, here)?);
        told = people.iter().map(|one| one.messages().iter().filter(|m| m.is_error()).count()).sum();
        let delivered = people.iter().flat_map(Client::messages).find(|message| !message.is_error());
        ensure!(delivered.is_none(), "a message was delivered that nobody had let pass: {delivered:?}");
    }
    ensure!(most.pending > 0 && most.pending <= u64::from(limits.max_events), "{most:?}");
    ensure!(most.pending_bytes > 0 && most.pending_bytes <= u64::from(limits.max_bytes), "{most:?}");
    ensure!(most.memory <= memory + (32 << 20), "{memory} bytes of memory became {most:?}");
    for (n, id) in &ids {
        let told = people[*n].answer_to(id).await?;
        ensure!(told.condition.as_deref() == Some("service-unavailable"), "{id}: {told:?}");
    }
    let status = cluster.sidecar_status(here, nodes[0])?;
    let overflowed: u64 = status.compliance_servers.values().map(|server| server.counts.overflowed).sum();
    ensure!(overflowed > 0, "nothing was too much: {:#?}", status.questions);
    ensure!(status.questions.undecided_bounced == ids.len() as u64, "{:#?}", status.questions);

    // The server has been there all the time, and goes on when the others do.
    let pod = cluster.get(here, "pod/prosody-0")?;
    for field in ["initContainerStatuses", "containerStatuses"] {
        let restarts = pod["status"][field].as_array().cloned().unwrap_or_default();
        ensure!(restarts.iter().all(|status| status["restartCount"] == 0), "{field}: {restarts:#?}");
    }
    for frozen in hung {
        cluster.thaw(&frozen?)?;
    }
    for server in SERVERS {
        in_service(&cluster, here, &nodes, server)?;
    }
    people[0].message(people[1].bare(), "chat", "at last", "hello").await?;
    people[1].answer_to("at last").await.map(drop)
}

const PEOPLE: usize = 30;
const MESSAGES: usize = 20;

// What a sidecar's metrics say of its memory: of the server for which most waits, and of its whole process.
#[derive(Debug, Default, Clone, Copy)]
struct Gauges {
    pending: u64,
    pending_bytes: u64,
    memory: u64,
}

impl Gauges {
    fn read(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let page = cluster.sidecar_page(namespace, "prosody-0", "metrics")?;
        let most = |name: &str| -> Result<u64> {
            let of = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
            let values = of.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
            let values = values.filter_map(|(_, value)| value.parse::<f64>().ok());
            Ok(values.reduce(f64::max).with_context(|| format!("no {name} in\n{page}"))? as u64)
        };
        Ok(Self {
            pending: most("cartulary_compliance_server_pending")?,
            pending_bytes: most("cartulary_compliance_server_pending_bytes")?,
            memory: most("process_resident_memory_bytes")?,
        })
    }

    fn max(self, other: Self) -> Self {
        Self {
            pending: self.pending.max(other.pending),
            pending_bytes: self.pending_bytes.max(other.pending_bytes),
            memory: self.memory.max(other.memory),
        }
    }
}

async fn login(server: SocketAddr, user: &str) -> Result<Client> {
    Client::register(server, DOMAIN, user, "secret").await?;
    let client = Client::connect(server, &format!("{user}@{DOMAIN}/desk"), "secret").await?;
    client.available().await?;
    Ok(client)
}
