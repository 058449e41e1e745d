//! Who is asked before a stanza goes on: `spec.compliance` and what it refers to, as sidecars are told. Pure.

use super::alarms::Raised;
use super::coverage::{Observation, Sidecar, is_of_stateful_set};
use super::dereference::Gathered;
use super::validate::wrong;
use crate::conditions::{Finding, Problem, State, cut};
use crate::context::{Assigned, Link};
use crate::profile::resolve::{find, order, rules, shown_name, warnings as of_profile};
use crate::reasons as reason;
use crate::server::reason_of;
use crate::server::resolve::resolve;
use cartulary_compliance::config::{Compliance, PendingLimit};
use cartulary_compliance::names::condition;
use cartulary_compliance::profile::{Profile, Rule};
use cartulary_compliance::status::{ComplianceServerStatus, LinkCause, SidecarStatus};
use cartulary_crds::{AssignedServer, ComplianceServer, XmppCluster};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The servers that are assigned and asked: none while compliance is turned off, which loses no settings (CS-6).
pub fn assigned(cluster: &XmppCluster) -> impl Iterator<Item = &AssignedServer> {
    cluster.spec.compliance.servers.iter().filter(|_| cluster.spec.compliance.enabled)
}

/// What sidecars are told.
pub fn compliance(cluster: &XmppCluster, gathered: &Gathered) -> Result<Compliance, Problem> {
    let mut compliance = settings(cluster)?;
    let mut sets: BTreeMap<&str, Set> = BTreeMap::new();
    for assignment in assigned(cluster) {
        let name = &assignment.server;
        let server = gathered.servers.get(name).ok_or_else(|| {
            Problem::new(
                reason::SERVER_MISSING,
                format!(
                    "there is no ComplianceServer {name} in this namespace: create it, or name another one"
                ),
            )
        })?;
        if !compliance.servers.contains_key(name) {
            compliance.servers.insert(name.clone(), resolve(server, &gathered.secrets)?);
        }
        let (profile, object) = find(&gathered.profiles, &assignment.profile)?;
        let nodes: BTreeSet<&str> = assignment.nodes.iter().map(String::as_str).collect();
        let set = sets.entry(profile).or_insert_with(|| Set {
            profile: object,
            servers: BTreeSet::new(),
            nodes: nodes.clone(),
        });
        if set.nodes != nodes {
            let other = set.servers.first().copied().unwrap_or_default();
            return Err(split(profile, other, name));
        }
        set.servers.insert(name);
    }
    let mut sets: Vec<_> = sets.into_iter().collect();
    sets.sort_by_cached_key(|(name, _)| order(name, gathered.profiles.get(*name).map(AsRef::as_ref)));
    compliance.profiles = sets.into_iter().map(|(name, set)| set.told(name)).collect();
    let mut seen = BTreeSet::new();
    match compliance.profiles.iter().find(|profile| !seen.insert(&profile.name)) {
        Some(twice) => Err(Problem::new(
            reason::PROFILE_AMBIGUOUS,
            format!("two Profiles go by the name {}: change the displayName of one", twice.name),
        )),
        None => Ok(compliance),
    }
}

/// The assignments that are asked, with profiles by the name of their object; what a reference does not find stays as it is.
#[must_use]
pub fn resolved(cluster: &XmppCluster, gathered: &Gathered) -> Vec<Assigned> {
    let resolve = |assigned: &AssignedServer| Assigned {
        server: assigned.server.clone(),
        profile: find(&gathered.profiles, &assigned.profile)
            .map_or_else(|_| assigned.profile.clone(), |(name, _)| name.to_owned()),
        nodes: assigned.nodes.clone(),
    };
    assigned(cluster).map(resolve).collect()
}

/// What is told of a link.
#[must_use]
pub fn link(of: &ComplianceServerStatus) -> Link {
    Link { state: of.state, in_service: of.in_service, cause: of.cause, message: cut(&of.message) }
}

/// Whether every compliance server is in service on every node (CS-8). Pods that do not answer are told elsewhere, and links whose alarms
/// are silenced are not told.
#[must_use]
pub fn served(cluster: &XmppCluster, observations: &[Observation], raised: &[Raised]) -> Finding {
    let kind = condition::COMPLIANCE_SERVED;
    if assigned(cluster).next().is_none() {
        return Finding::good(kind, "no compliance server is assigned");
    }
    let (mut links, mut active, mut fault) = (0_u32, 0_u32, None);
    for pod in observations {
        let Sidecar::Answered(status) = &pod.sidecar else { continue };
        let silenced = |name: &str| {
            raised.iter().any(|raised| {
                raised.silenced && raised.node == pod.pod && raised.server.as_deref() == Some(name)
            })
        };
        for name in on(cluster, &pod.pod).into_iter().filter(|name| !silenced(name)) {
            links += 1;
            match status.compliance_servers.get(name) {
                Some(link) if link.in_service => active += 1,
                link => fault = fault.or(link.and_then(|link| Some((&pod.pod, fault_of(name, link)?)))),
            }
        }
    }
    let count = format!("{active} of {links} links to compliance servers are in service");
    match fault {
        Some((pod, (reason, message))) => {
            Finding::new(kind, false, reason, format!("{count}; {pod}: {message}"))
        }
        None if links == 0 => {
            Finding::new(kind, State::Unknown, reason::PENDING, "no sidecar has answered yet")
        }
        None if active < links => Finding::new(kind, State::Unknown, reason::CONNECTING, count),
        None => Finding::new(kind, true, reason::CONNECTED, count),
    }
}

/// What is wrong with the links of one pod, a sentence each.
#[must_use]
pub fn problems(status: &SidecarStatus) -> Vec<String> {
    let links = status.compliance_servers.iter().filter(|(_, link)| !link.in_service);
    links.filter_map(|(name, link)| Some(fault_of(name, link)?.1)).collect()
}

fn on<'a>(cluster: &'a XmppCluster, pod: &str) -> BTreeSet<&'a str> {
    let here = |of: &&AssignedServer| of.nodes.is_empty() || of.nodes.iter().any(|node| node == pod);
    assigned(cluster).filter(here).map(|assigned| assigned.server.as_str()).collect()
}

fn fault_of(server: &str, link: &ComplianceServerStatus) -> Option<(&'static str, String)> {
    let cause = link.cause.filter(|cause| !matches!(cause, LinkCause::NotTried | LinkCause::Reconfigured))?;
    let now = if link.queueing { "events wait for it" } else { "events go without it" };
    Some((reason_of(cause), cut(&format!("ComplianceServer {server}: {} ({now})", link.message))))
}

/// A profile with its servers.
struct Set<'a> {
    profile: Option<&'a cartulary_crds::Profile>,
    servers: BTreeSet<&'a str>,
    nodes: BTreeSet<&'a str>,
}

impl Set<'_> {
    fn told(self, name: &str) -> Profile {
        let owned = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        Profile {
            name: shown_name(name, self.profile),
            events: rules(self.profile),
            servers: owned(self.servers),
            nodes: Some(owned(self.nodes)).filter(|nodes| !nodes.is_empty()),
        }
    }
}

fn split(profile: &str, one: &str, other: &str) -> Problem {
    let message = format!(
        "the ComplianceServers {one} and {other} share the Profile {profile} and are assigned to different nodes, so that one conversation \
         would be seen by different servers: give them the same nodes, or none"
    );
    Problem::new(reason::PROFILE_SPLIT, message)
}

fn settings(cluster: &XmppCluster) -> Result<Compliance, Problem> {
    let spec = &cluster.spec.compliance;
    let field = |name: &str| format!("compliance.{name}");
    let milliseconds = |name: &str, span: &cartulary_crds::TimeSpan| {
        let span = span.duration().map_err(|error| wrong(&field(name), &error))?;
        u32::try_from(span.as_millis())
            .map_err(|_| Problem::new(reason::CONTRADICTION, format!("{} is too long", field(name))))
    };
    let event_timeout_ms = milliseconds("eventTimeout", &spec.event_timeout)?;
    if event_timeout_ms < 100 {
        let message = "compliance.eventTimeout is shorter than a server can answer: 100ms is the least";
        return Err(Problem::new(reason::CONTRADICTION, message));
    }
    let defaults = PendingLimit::default();
    let max_bytes = match &spec.limits.max_bytes {
        None => defaults.max_bytes,
        Some(size) => {
            let bytes = size.bytes().map_err(|error| wrong("compliance.limits.maxBytes", &error))?;
            u32::try_from(bytes).map_err(|_| {
                Problem::new(reason::CONTRADICTION, "compliance.limits.maxBytes must be less than 4Gi")
            })?
        }
    };
    Ok(Compliance {
        event_timeout_ms,
        drop_after_ms: milliseconds("dropAfter", &spec.drop_after)?,
        stats_every_seconds: (milliseconds("statsEvery", &spec.stats_every)? / 1000).max(1),
        send_missed: spec.send_missed,
        limits: PendingLimit {
            max_events: u32::try_from(spec.limits.max_events).unwrap_or(1).max(1),
            max_bytes,
        },
        ..Compliance::default()
    })
}

/// What is allowed and perhaps not meant.
#[must_use]
pub fn warnings(cluster: &XmppCluster, gathered: &Gathered) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut seen: BTreeMap<&str, Vec<(&str, Vec<Rule>)>> = BTreeMap::new();
    let (mut told, mut restricted) = (BTreeSet::new(), BTreeSet::new());
    for assignment in assigned(cluster) {
        let Ok((profile, object)) = find(&gathered.profiles, &assignment.profile) else { continue };
        let rules = rules(object);
        if told.insert(profile) {
            warnings.extend(of_profile(&rules).into_iter().map(|warning| {
                Problem::new(warning.reason, format!("Profile {profile}: {}", warning.message))
            }));
        }
        if !assignment.nodes.is_empty() && restricted.insert(profile) {
            let message = format!(
                "the Profile {profile} is in force on {} only: conversations that reach other nodes are asked about in part",
                assignment.nodes.join(", ")
            );
            warnings.push(Problem::new(reason::NODES_RESTRICTED, message));
        }
        let earlier = seen.entry(&assignment.server).or_default();
        for (other, theirs) in earlier.iter().filter(|(other, _)| *other != profile) {
            let twice = rules.iter().find(|rule| theirs.iter().any(|their| overlap(rule, their)));
            if let Some(rule) = twice {
                let message = format!(
                    "the ComplianceServer {} gets {} twice, by the Profiles {other} and {profile}",
                    assignment.server, rule.event
                );
                warnings.push(Problem::new(reason::EVENT_TWICE, message));
            }
        }
        earlier.push((profile, rules));
    }
    let servers: BTreeSet<&str> = seen.into_keys().collect();
    warnings.extend(shared_addresses(servers.iter().filter_map(|name| gathered.servers.get(*name))));
    let passing = gathered.pods.iter().find(|pod| !is_of_stateful_set(pod));
    if let (Some(pod), false) = (passing, servers.is_empty()) {
        let message = format!(
            "the pod {} is not of a StatefulSet, so that compliance servers have to be configured with another component name for each new pod",
            pod.name_any()
        );
        warnings.push(Problem::new(reason::NAMES_UNSTABLE, message));
    }
    warnings
}

/// Servers that are declared twice, most likely.
pub fn shared_addresses<'a>(servers: impl Iterator<Item = &'a Arc<ComplianceServer>>) -> Vec<Problem> {
    let mut seen: BTreeMap<(String, u16), String> = BTreeMap::new();
    let mut warnings = Vec::new();
    for server in servers {
        let address = (server.spec.host.to_ascii_lowercase(), server.spec.port);
        match seen.get(&address) {
            None => drop(seen.insert(address, server.name_any())),
            Some(other) => {
                let message = format!(
                    "the ComplianceServers {other} and {} have one address, {} port {}",
                    server.name_any(),
                    address.0,
                    address.1
                );
                warnings.push(Problem::new(reason::ADDRESS_SHARED, message));
            }
        }
    }
    warnings
}

fn overlap(one: &Rule, other: &Rule) -> bool {
    let all = one.packets.is_empty() || other.packets.is_empty();
    one.event == other.event && (all || one.packets.iter().any(|packet| other.packets.contains(packet)))
}
