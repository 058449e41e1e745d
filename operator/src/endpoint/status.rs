//! The status of an ArchiveEndpoint, out of what all sidecars say of it. Pure.

use crate::conditions::{Finding, Problem, State, merge};
use crate::context::ClusterView;
use crate::reasons as reason;
use cartulary_compliance::names::condition;
use cartulary_compliance::status::EndpointStatus;
use cartulary_crds::{ArchiveEndpoint, ArchiveEndpointStatus};
use k8s_openapi::jiff::Timestamp;

/// What to write.
#[must_use]
pub fn status(
    endpoint: &ArchiveEndpoint,
    accepted: Result<(), Problem>,
    views: &[(String, ClusterView)],
    now: Timestamp,
) -> ArchiveEndpointStatus {
    let name = endpoint.metadata.name.as_deref().unwrap_or_default();
    let users: Vec<_> =
        views.iter().filter(|(_, view)| view.endpoints.iter().any(|used| used == name)).collect();
    let seen: Vec<(&str, &EndpointStatus)> = users
        .iter()
        .flat_map(|(_, view)| &view.nodes)
        .filter_map(|(node, endpoints)| Some((node.as_str(), endpoints.get(name)?)))
        .collect();

    let accepted = match accepted {
        Ok(()) => Finding::good(condition::ACCEPTED, "everything it refers to is there"),
        Err(problem) => Finding::new(condition::ACCEPTED, false, problem.reason, problem.message),
    };
    let reachable = reachable(&seen);
    let findings = [ready(&accepted, &reachable), accepted, reachable];
    let old = endpoint.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let sum = |of: fn(&EndpointStatus) -> u64| {
        let sum = seen.iter().map(|(_, status)| of(status)).fold(0, u64::saturating_add);
        (!seen.is_empty()).then_some(i64::try_from(sum).unwrap_or(i64::MAX))
    };
    ArchiveEndpointStatus {
        observed_generation: endpoint.metadata.generation,
        conditions: merge(old, &findings, endpoint.metadata.generation, now),
        used_by: users.iter().map(|(cluster, _)| cluster.clone()).collect(),
        waiting: sum(|status| status.waiting),
        dead_letters: sum(|status| status.dead_letters),
    }
}

/// Whether every node that uses the endpoint reaches it.
fn reachable(seen: &[(&str, &EndpointStatus)]) -> Finding {
    let worst = seen.iter().find(|(_, status)| problem(status).is_some());
    let connected = seen.iter().filter(|(_, status)| status.state == reason::CONNECTED).count();
    match worst {
        Some((node, status)) => Finding::new(
            condition::REACHABLE,
            false,
            problem(status).unwrap_or(reason::UNREACHABLE),
            format!("{connected} of {} nodes reach it; {node}: {}", seen.len(), status.message),
        ),
        None if seen.is_empty() => Finding::new(
            condition::REACHABLE,
            State::Unknown,
            reason::UNUSED,
            "no running pod of an XMPPCluster uses it, so nobody has tried",
        ),
        None if connected < seen.len() => Finding::new(
            condition::REACHABLE,
            State::Unknown,
            reason::CONNECTING,
            format!("{connected} of {} nodes reach it, the others are trying", seen.len()),
        ),
        None => Finding::new(
            condition::REACHABLE,
            true,
            reason::CONNECTED,
            format!("{connected} of {} nodes reach it", seen.len()),
        ),
    }
}

/// An endpoint that nobody uses yet is ready to be used.
fn ready(accepted: &Finding, reachable: &Finding) -> Finding {
    match [accepted, reachable].into_iter().find(|finding| finding.state == State::False) {
        Some(finding) => Finding::new(condition::READY, false, finding.reason, finding.message.clone()),
        None => Finding::good(condition::READY, reachable.message.clone()),
    }
}

/// The reason a node gives for not reaching the endpoint. What it says comes from a pod: only reasons that we know are repeated.
#[must_use]
pub fn problem(status: &EndpointStatus) -> Option<&'static str> {
    const KNOWN: [&str; 10] = [
        reason::UNREACHABLE,
        reason::TLS_FAILED,
        reason::AUTHENTICATION_FAILED,
        reason::DATABASE_MISSING,
        reason::NOT_MIGRATED,
        reason::UNKNOWN_SCHEMA,
        reason::PERMISSION_DENIED,
        reason::REJECTED,
        reason::WENT_BACK,
        reason::PENDING,
    ];
    match status.state.as_str() {
        reason::CONNECTED | reason::CONNECTING => None,
        state => Some(KNOWN.into_iter().find(|known| *known == state).unwrap_or(reason::UNREACHABLE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::find;

    fn endpoint() -> ArchiveEndpoint {
        let spec = serde_json::from_value(serde_json::json!({ "type": "SQLite" })).expect("valid");
        ArchiveEndpoint::new("records", spec)
    }

    fn view(nodes: &[(&str, &str)]) -> Vec<(String, ClusterView)> {
        let nodes = nodes
            .iter()
            .map(|(node, state)| {
                let status = EndpointStatus { state: (*state).to_owned(), waiting: 2, ..Default::default() };
                ((*node).to_owned(), [("records".to_owned(), status)].into())
            })
            .collect();
        vec![(
            "chat".to_owned(),
            ClusterView { endpoints: vec!["records".to_owned()], nodes, ..Default::default() },
        )]
    }

    fn reason_of(status: &ArchiveEndpointStatus, kind: &str) -> (String, String) {
        let condition = find(&status.conditions, kind).expect("written");
        (condition.status.clone(), condition.reason.clone())
    }

    #[test]
    fn an_endpoint_nobody_uses_is_ready_and_its_reachability_unknown() {
        let status = status(&endpoint(), Ok(()), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(reason_of(&status, condition::READY), ("True".into(), reason::OK.into()));
        assert_eq!(reason_of(&status, condition::REACHABLE), ("Unknown".into(), reason::UNUSED.into()));
        assert_eq!(status.waiting, None);
    }

    #[test]
    fn one_node_that_is_refused_makes_the_endpoint_unreachable() {
        let views = view(&[("a", reason::CONNECTED), ("b", reason::AUTHENTICATION_FAILED)]);
        let status = status(&endpoint(), Ok(()), &views, Timestamp::UNIX_EPOCH);
        for kind in [condition::READY, condition::REACHABLE] {
            assert_eq!(reason_of(&status, kind), ("False".into(), reason::AUTHENTICATION_FAILED.into()));
        }
        assert_eq!((status.waiting, status.used_by), (Some(4), vec!["chat".to_owned()]));
    }

    #[test]
    fn a_reason_that_nobody_knows_is_not_repeated() {
        let views = view(&[("a", "<script>")]);
        let status = status(&endpoint(), Ok(()), &views, Timestamp::UNIX_EPOCH);
        assert_eq!(reason_of(&status, condition::REACHABLE).1, reason::UNREACHABLE);
    }
}
