//! The status of a ComplianceServer, out of what all sidecars say of it (CS-2, CS-3, CS-8). Pure.
//!
//! Only what changes seldom is in it: how much waits and how long answers take is in the sidecars' own status and metrics.

use crate::cluster::alarms::Told;
use crate::conditions::{Finding, Problem, State, merge};
use crate::context::{ClusterView, Link};
use crate::reasons as reason;
use cartulary_compliance::names::{component_name, condition};
use cartulary_compliance::status::{LinkCause, LinkState};
use cartulary_crds::{ComplianceServer, ComplianceServerStatus, ServerNode};
use k8s_openapi::jiff::Timestamp;

const MAX_NODES: usize = 200;
const MAX_FORMER: usize = 20;

/// What to write.
#[must_use]
pub fn status(
    server: &ComplianceServer,
    accepted: Result<(), Problem>,
    views: &[(String, ClusterView)],
    now: Timestamp,
) -> ComplianceServerStatus {
    let name = server.metadata.name.as_deref().unwrap_or_default();
    let old = server.status.clone().unwrap_or_default();
    let users: Vec<_> = views
        .iter()
        .filter(|(_, view)| view.assigned.iter().any(|assigned| assigned.server == name))
        .collect();
    let mut nodes: Vec<ServerNode> = users
        .iter()
        .flat_map(|(cluster, view)| {
            view.pods.iter().filter(|pod| view.is_assigned(name, &pod.pod)).map(|pod| {
                let mut node = node(cluster, name, &pod.pod, pod.links.get(name));
                node.stable = pod.name_is_stable;
                since(&mut node, &old.nodes, now);
                node
            })
        })
        .collect();

    let accepted = match accepted {
        Ok(()) => Finding::good(condition::ACCEPTED, "everything it refers to is there"),
        Err(problem) => Finding::new(condition::ACCEPTED, false, problem.reason, problem.message),
    };
    let reachable = reachable(&nodes);
    let findings = [ready(&accepted, &reachable), accepted, reachable];
    let active = nodes.iter().filter(|node| node.in_service).count();
    let active = (!users.is_empty()).then(|| format!("{active}/{}", nodes.len()));
    let former_components = former(&old, &nodes);
    // Those with something wrong are the last to be left out.
    nodes.sort_by_key(|node| node.in_service);
    let omitted = nodes.len().saturating_sub(MAX_NODES);
    nodes.truncate(MAX_NODES);
    nodes.sort_by(|a, b| (&a.cluster, &a.pod).cmp(&(&b.cluster, &b.pod)));
    ComplianceServerStatus {
        observed_generation: server.metadata.generation,
        conditions: merge(&old.conditions, &findings, server.metadata.generation, now),
        used_by: users.iter().map(|(cluster, _)| cluster.clone()).collect(),
        active,
        nodes,
        former_components,
        omitted_nodes: i64::try_from(omitted).ok().filter(|omitted| *omitted > 0),
    }
}

fn node(cluster: &str, server: &str, pod: &str, link: Option<&Link>) -> ServerNode {
    let mut node = ServerNode {
        cluster: cluster.to_owned(),
        pod: pod.to_owned(),
        component: component_name(server, pod),
        ..ServerNode::default()
    };
    let Some(link) = link else { return node };
    node.state = Some(state(link.state).to_owned());
    node.in_service = link.in_service;
    if !link.in_service {
        node.cause = link.cause.map(|cause| reason_of(cause).to_owned());
        node.message = Some(link.message.clone()).filter(|message| !message.is_empty());
    }
    node
}

/// Since when a node has the server in service, or has not: attempts in between are no change.
fn since(node: &mut ServerNode, old: &[ServerNode], now: Timestamp) {
    let before = old.iter().find(|before| before.cluster == node.cluster && before.pod == node.pod);
    let same = before.filter(|before| {
        before.in_service == node.in_service && before.state.is_some() == node.state.is_some()
    });
    let now = || Timestamp::from_second(now.as_second()).map(|now| now.to_string()).ok();
    node.since = same.and_then(|before| before.since.clone()).or_else(now);
}

fn state(of: LinkState) -> &'static str {
    match of {
        LinkState::Gone => "GONE",
        LinkState::Connected => "CONNECTED",
        LinkState::Active => "ACTIVE",
    }
}

/// Names of pods that are gone and will not come back by that name (CS-2).
fn former(old: &ComplianceServerStatus, nodes: &[ServerNode]) -> Vec<String> {
    let gone = old.nodes.iter().filter(|node| !node.stable).map(|node| &node.component);
    let mut former: Vec<String> = Vec::new();
    for component in old.former_components.iter().chain(gone) {
        let used = nodes.iter().any(|node| node.component == *component);
        if !used && !former.contains(component) {
            former.push(component.clone());
        }
    }
    former.split_off(former.len().saturating_sub(MAX_FORMER))
}

/// Whether every node has it in service.
fn reachable(nodes: &[ServerNode]) -> Finding {
    let active = nodes.iter().filter(|node| node.in_service).count();
    let count = format!("{active} of {} nodes have it in service", nodes.len());
    let troubled = nodes.iter().filter(|node| is_trouble(node.cause.as_deref()));
    if nodes.is_empty() {
        let message = "no running pod of an XMPPCluster has it assigned, so nobody has tried";
        return Finding::new(condition::REACHABLE, State::Unknown, reason::UNUSED, message);
    }
    if let Some(node) = troubled.clone().next() {
        let why = node.message.clone().unwrap_or_default();
        let message = format!("{count}; {}: {why}", node.pod);
        return Finding::new(condition::REACHABLE, false, known(node.cause.as_deref()), message);
    }
    if active < nodes.len() {
        return Finding::new(condition::REACHABLE, State::Unknown, reason::CONNECTING, count);
    }
    Finding::new(condition::REACHABLE, true, reason::CONNECTED, count)
}

/// A server that nobody has assigned yet is ready to be assigned; one that is assigned has to be in service everywhere.
fn ready(accepted: &Finding, reachable: &Finding) -> Finding {
    let unused = reachable.reason == reason::UNUSED;
    match [accepted, reachable].into_iter().find(|finding| finding.state != State::True) {
        Some(finding) if !(unused && finding.kind == condition::REACHABLE) => {
            Finding { kind: condition::READY, ..finding.clone() }
        }
        _ => Finding::good(condition::READY, reachable.message.clone()),
    }
}

/// What is told of each node that lost the server, has it back, or lacks it for another reason than before (CS-8).
#[must_use]
pub fn told(old: &[ServerNode], new: &[ServerNode]) -> Vec<Told> {
    let before = |node: &ServerNode| {
        old.iter().find(|before| before.pod == node.pod && before.cluster == node.cluster).cloned()
    };
    let tell = |node: &ServerNode| {
        let before = before(node).unwrap_or_default();
        let about = format!("{} {}", node.pod, node.component);
        let lost = !node.in_service && is_trouble(node.cause.as_deref());
        if lost && (before.in_service || before.cause != node.cause) {
            let why = node.message.clone().unwrap_or_default();
            let message = format!("{} does not have it in service: {why}", node.pod);
            return Some(Told { warning: true, reason: known(node.cause.as_deref()), about, message });
        }
        let back = node.in_service && before.state.is_some() && !before.in_service;
        let message = format!("{} has it in service as {}", node.pod, node.component);
        back.then_some(Told { warning: false, reason: reason::SERVER_IN_SERVICE, about, message })
    };
    new.iter().filter_map(tell).collect()
}

/// Whether it is more than not having been tried yet.
fn is_trouble(cause: Option<&str>) -> bool {
    cause.is_some_and(|cause| ![reason::NOT_TRIED, reason::RECONFIGURED].contains(&cause))
}

fn known(cause: Option<&str>) -> &'static str {
    ALL.into_iter().map(reason_of).find(|known| Some(*known) == cause).unwrap_or(reason::CONNECTING)
}

const ALL: [LinkCause; 12] = [
    LinkCause::NotTried,
    LinkCause::UnknownHost,
    LinkCause::Refused,
    LinkCause::TimedOut,
    LinkCause::Tls,
    LinkCause::WrongPassword,
    LinkCause::WrongName,
    LinkCause::Protocol,
    LinkCause::Closed,
    LinkCause::Lost,
    LinkCause::NotAnswering,
    LinkCause::Reconfigured,
];

/// The reason that says a cause.
#[must_use]
pub fn reason_of(cause: LinkCause) -> &'static str {
    match cause {
        LinkCause::NotTried => reason::NOT_TRIED,
        LinkCause::UnknownHost => reason::UNKNOWN_HOST,
        LinkCause::Refused => reason::REFUSED,
        LinkCause::TimedOut => reason::TIMED_OUT,
        LinkCause::Tls => reason::TLS,
        LinkCause::WrongPassword => reason::WRONG_PASSWORD,
        LinkCause::WrongName => reason::WRONG_NAME,
        LinkCause::Protocol => reason::PROTOCOL,
        LinkCause::Closed => reason::CLOSED,
        LinkCause::Lost => reason::LOST,
        LinkCause::NotAnswering => reason::NOT_ANSWERING,
        LinkCause::Reconfigured => reason::RECONFIGURED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::find;
    use crate::context::{Assigned, PodView};

    fn server(old: ComplianceServerStatus) -> ComplianceServer {
        let spec = serde_json::json!({ "host": "wall", "port": 5347, "passwordSecret": { "name": "wall" } });
        let mut server = ComplianceServer::new("wall", serde_json::from_value(spec).expect("a spec"));
        server.status = Some(old);
        server
    }

    fn link(cause: Option<LinkCause>) -> Option<Link> {
        let state = if cause.is_none() { LinkState::Active } else { LinkState::Gone };
        Some(Link { state, in_service: cause.is_none(), cause, message: "why".into() })
    }

    fn seen(pods: &[(&str, bool, Option<Link>)]) -> Vec<(String, ClusterView)> {
        let pods = pods.iter().map(|(pod, stable, link)| PodView {
            pod: (*pod).to_owned(),
            name_is_stable: *stable,
            links: link.iter().map(|link| ("wall".to_owned(), link.clone())).collect(),
        });
        let assigned = Assigned { server: "wall".into(), profile: "p".into(), nodes: Vec::new() };
        let view = ClusterView { assigned: vec![assigned], pods: pods.collect(), ..ClusterView::default() };
        vec![("chat".to_owned(), view)]
    }

    fn look(old: &ComplianceServerStatus, pods: &[(&str, bool, Option<Link>)]) -> ComplianceServerStatus {
        status(&server(old.clone()), Ok(()), &seen(pods), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn cs_3_one_node_that_cannot_log_in_makes_it_unready_and_says_why() {
        let pods = [("a-0", true, link(None)), ("a-1", true, link(Some(LinkCause::WrongPassword)))];
        let status = look(&ComplianceServerStatus::default(), &pods);
        assert_eq!(status.active.as_deref(), Some("1/2"));
        for kind in [condition::READY, condition::REACHABLE] {
            let found = find(&status.conditions, kind).expect("written");
            assert_eq!((&*found.status, &*found.reason), ("False", reason::WRONG_PASSWORD));
        }
        assert_eq!(status.nodes[1].component, "op-wall.a-1");
        assert_eq!(status.nodes[1].state.as_deref(), Some("GONE"));
    }

    #[test]
    fn cs_2_a_component_name_that_nobody_has_any_more_is_shown_beside_its_successor() {
        let first =
            look(&ComplianceServerStatus::default(), &[("x-1", false, link(None)), ("a.0", true, None)]);
        assert!(first.former_components.is_empty());
        let second = look(&first, &[("x-2", false, link(None))]);
        assert_eq!(second.nodes[0].component, "op-wall.x-2");
        assert_eq!(second.former_components, ["op-wall.x-1"], "a-0 comes back by its name");
        assert!(look(&second, &[("x-1", false, link(None))]).former_components == ["op-wall.x-2"]);
    }

    #[test]
    fn cs_8_each_loss_and_each_return_is_told_once_for_each_node() {
        let told_between = |before: Option<Link>, after: Option<Link>| {
            let before = look(&ComplianceServerStatus::default(), &[("a-0", true, before)]);
            let after = look(&before, &[("a-0", true, after)]);
            told(&before.nodes, &after.nodes)
                .iter()
                .map(|told| (told.warning, told.reason))
                .collect::<Vec<_>>()
        };
        let (lost, hung) = (Some(LinkCause::Lost), Some(LinkCause::NotAnswering));
        assert_eq!(told_between(link(None), link(lost)), [(true, reason::LOST)]);
        assert_eq!(told_between(link(lost), link(lost)), []);
        assert_eq!(told_between(link(lost), link(hung)), [(true, reason::NOT_ANSWERING)]);
        assert_eq!(told_between(link(lost), link(None)), [(false, reason::SERVER_IN_SERVICE)]);
        // A pod that starts, or a sidecar that is not asked in time, says nothing about the server.
        assert_eq!(told_between(None, link(None)), []);
        assert_eq!(told_between(link(None), None), []);
        assert_eq!(told_between(link(None), link(Some(LinkCause::NotTried))), []);
    }

    #[test]
    fn the_time_changes_with_what_matters_and_not_with_each_attempt() {
        let first =
            look(&ComplianceServerStatus::default(), &[("a-0", true, link(Some(LinkCause::Refused)))]);
        let later = Timestamp::from_second(99).expect("small");
        let mut tried = link(Some(LinkCause::TimedOut)).expect("a link");
        tried.state = LinkState::Connected;
        let second = status(&server(first.clone()), Ok(()), &seen(&[("a-0", true, Some(tried))]), later);
        assert_eq!(second.nodes[0].since, first.nodes[0].since);
        let third = status(&server(second.clone()), Ok(()), &seen(&[("a-0", true, link(None))]), later);
        assert_ne!(third.nodes[0].since, first.nodes[0].since);
    }
}
