//! What is said of a cluster's pods: a table from what was seen to what status and reason come out.

use cartulary_compliance::alarms::{ALL, DRAIN_FAILED};
use cartulary_compliance::config::{AlarmSettings, Silence};
use cartulary_compliance::names::condition;
use cartulary_compliance::status::{
    ComplianceServerStatus, ConfigStatus, EndpointStatus, HostCoverage, LinkCause, LinkStatus, SidecarStatus,
};
use cartulary_crds::{ConfigurationStatus, JournalClaim, XmppCluster, XmppClusterStatus};
use cartulary_operator::anchors::Report;
use cartulary_operator::cluster::alarms;
use cartulary_operator::cluster::apply::Applied;
use cartulary_operator::cluster::compliance;
use cartulary_operator::cluster::coverage::{Observation, Sidecar, judge, recording};
use cartulary_operator::cluster::dereference::Gathered;
use cartulary_operator::cluster::drain::View;
use cartulary_operator::cluster::status::{Outcome, status};
use cartulary_operator::conditions::{Finding, Problem, find};
use cartulary_operator::reasons as reason;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

/// A sidecar with which all is well.
fn well() -> SidecarStatus {
    SidecarStatus {
        version: "1".into(),
        config: ConfigStatus { generation: 3, hash: "new".into(), problem: None },
        link: LinkStatus {
            connected: true,
            server: "Prosody 13".into(),
            hosts: vec![HostCoverage { name: "example.org".into(), problem: None }],
            ..LinkStatus::default()
        },
        endpoints: [(
            "records".to_owned(),
            EndpointStatus { state: reason::CONNECTED.into(), waiting: 4, ..Default::default() },
        )]
        .into(),
        ready: true,
        ..SidecarStatus::default()
    }
}

fn pod(name: &str, sidecar: Sidecar) -> Observation {
    Observation { pod: name.to_owned(), journal_in_pod: false, name_is_stable: true, sidecar }
}

fn answered(name: &str, change: impl FnOnce(&mut SidecarStatus)) -> Observation {
    let mut status = well();
    change(&mut status);
    pod(name, Sidecar::Answered(Box::new(status)))
}

fn written(observations: Vec<Observation>, accepted: Result<Option<Problem>, Problem>) -> XmppClusterStatus {
    written_with(observations, accepted, Vec::new())
}

fn written_with(
    observations: Vec<Observation>,
    accepted: Result<Option<Problem>, Problem>,
    journals: Vec<View>,
) -> XmppClusterStatus {
    let mut cluster =
        XmppCluster::new("chat", serde_json::from_value(json!({ "server": "Prosody" })).expect("a spec"));
    cluster.metadata.generation = Some(3);
    let applied = Applied(ConfigurationStatus {
        secret: "cartulary-config-chat".into(),
        generation: 3,
        hash: "new".into(),
    });
    let now = Timestamp::UNIX_EPOCH.as_microsecond();
    let raised = alarms::raised(&observations, &journals, &Report::default(), &AlarmSettings::default(), now);
    let outcome = Outcome {
        accepted,
        applied: Some(applied),
        endpoints: vec!["records".into()],
        observations,
        raised,
        journals,
        volumes: Default::default(),
        anchors: Report::default(),
    };
    let claims = outcome.journals.iter().map(|view| JournalClaim { name: view.claim.clone(), in_use: false });
    let gathered = Gathered { claims: claims.collect(), ..Gathered::default() };
    status(&cluster, &XmppClusterStatus::default(), &gathered, &outcome, Timestamp::UNIX_EPOCH)
}

fn ready(status: &XmppClusterStatus) -> (&str, &str) {
    let ready = find(&status.conditions, condition::READY).expect("written");
    (&ready.status, &ready.reason)
}

#[test]
fn each_way_of_not_being_recorded_has_its_reason() {
    let cases = [
        (vec![], reason::NO_PODS),
        (vec![pod("a", Sidecar::Missing)], reason::SIDECAR_MISSING),
        (vec![pod("a", Sidecar::Foreign("team/other".into()))], reason::SIDECAR_MISSING),
        (vec![pod("a", Sidecar::NotRunning)], reason::PENDING),
        (vec![pod("a", Sidecar::Unreachable("refused".into()))], reason::SIDECAR_UNREACHABLE),
        (vec![answered("a", |status| status.link.connected = false)], reason::PLUGIN_NOT_CONNECTED),
        (vec![answered("a", |status| status.link.hosts.clear())], reason::HOST_NOT_ARMED),
        (
            vec![answered("a", |status| status.link.hosts[0].problem = Some("no".into()))],
            reason::HOST_NOT_ARMED,
        ),
        (
            vec![answered("a", |_| ()), pod("b", Sidecar::NotRunning), pod("c", Sidecar::Missing)],
            reason::SIDECAR_MISSING,
        ),
        (vec![answered("a", |_| ()), answered("b", |_| ())], reason::OK),
    ];
    for (observations, expected) in cases {
        assert_eq!(judge(&observations).reason, expected, "{observations:?}");
    }
}

#[test]
fn what_is_wrong_now_is_told_before_what_went_wrong() {
    let lost = |status: &mut SidecarStatus| status.counts.delivered_unrecorded = 2;
    assert_eq!(recording(&[answered("a", lost)]).reason, reason::DELIVERED_UNRECORDED);
    let obstructed = |status: &mut SidecarStatus| {
        status.endpoints.insert(
            "records".into(),
            EndpointStatus { state: reason::TLS_FAILED.into(), ..Default::default() },
        );
    };
    assert_eq!(recording(&[answered("a", lost), answered("b", obstructed)]).reason, reason::TLS_FAILED);
    let unwritable = |status: &mut SidecarStatus| status.journal.problem = Some("disk full".into());
    assert_eq!(recording(&[answered("a", unwritable)]).reason, reason::JOURNAL_UNWRITABLE);
    assert_eq!(recording(&[]).reason, reason::PENDING);
    assert_eq!(recording(&[answered("a", |_| ())]).reason, reason::OK);
}

#[test]
fn a_cluster_is_ready_when_all_that_is_declared_is_in_force_everywhere() {
    let both = written(vec![answered("a", |_| ()), answered("b", |_| ())], Ok(None));
    assert_eq!(ready(&both), ("True", reason::OK));
    assert_eq!((both.covered.as_deref(), both.waiting), (Some("2/2"), Some(8)));

    let outdated = written(
        vec![answered("a", |_| ()), answered("b", |status| status.config.hash = "old".into())],
        Ok(None),
    );
    assert_eq!(ready(&outdated), ("False", reason::NODE_OUTDATED));
    assert_eq!(outdated.covered.as_deref(), Some("2/2"), "a node with an older configuration records");
    assert_eq!(outdated.nodes.iter().map(|node| node.current).collect::<Vec<_>>(), [true, false]);

    let problem = Problem::new(reason::SECRET_MISSING, "no Secret");
    let refused = written(vec![answered("a", |_| ())], Err(problem));
    assert_eq!(ready(&refused), ("False", reason::SECRET_MISSING));
    let accepted = find(&refused.conditions, condition::ACCEPTED).expect("written");
    assert!(accepted.message.ends_with("the last good configuration stays in force"), "{}", accepted.message);

    let past = written(vec![answered("a", |status| status.journal.quarantined = 1)], Ok(None));
    assert_eq!(ready(&past), ("True", reason::OK));
    assert_eq!(past.nodes[0].problems.len(), 1);
}

#[test]
fn looking_again_at_the_same_changes_nothing() {
    let first = written(vec![answered("a", |_| ())], Ok(None));
    assert_eq!(first, written(vec![answered("a", |_| ())], Ok(None)));
    assert!(first.conditions.iter().all(|condition| condition.observed_generation == Some(3)));
}

#[test]
fn p7_each_alarm_turns_one_condition_and_is_listed() {
    type Change = fn(&mut SidecarStatus);
    let table: [(&str, &str, Change); 5] = [
        ("HookFailed", condition::RECORDING, |s| s.counts.failed_hooks = 1),
        ("RefusedUnrecorded", condition::RECORDING, |s| s.refused_lately = 1),
        ("CountMismatch", condition::COUNTED, |s| s.counts.passed_by = 1),
        ("OutcomesLost", condition::RECORDING, |s| s.counts.outcomes_lost = 1),
        ("PluginNotConnected", condition::COVERED, |s| s.link.connected = false),
    ];
    for (alarm, kind, change) in table {
        let status = written(vec![answered("a", change)], Ok(None));
        let found = find(&status.conditions, kind).expect("written");
        assert_eq!((found.status.as_str(), found.reason.as_str()), ("False", alarm));
        assert_eq!((status.alarms[0].alarm.as_str(), status.alarms[0].node.as_deref()), (alarm, Some("a")));
    }
    let page = include_str!("../../docs/resources.md");
    let (_, table) = page.split_once("## Alarms").expect("a section");
    let (table, _) = table.split_once("## ").expect("another");
    for alarm in ALL {
        let row =
            table.lines().find(|line| line.contains(&format!("`{}`", alarm.name)) && line.starts_with('|'));
        let row = row.unwrap_or_else(|| panic!("{} is not in docs/resources.md", alarm.name));
        let kind = alarms::condition_of(alarm).map_or("none".to_owned(), |kind| format!("`{kind}`"));
        assert!(row.starts_with(&format!("| {kind}")), "{row}");
    }
}

#[test]
fn an_alarm_s_beginning_and_end_are_told_once() {
    let observations = vec![answered("a", |s| s.counts.passed_by = 1), pod("b", Sidecar::Missing)];
    let raised = alarms::raised(&observations, &[], &Report::default(), &AlarmSettings::default(), 0);
    let now = alarms::listed(&raised);
    let names = |told: Vec<alarms::Told>| {
        told.into_iter().map(|told| (told.reason, told.warning)).collect::<Vec<_>>()
    };
    assert_eq!(names(alarms::told(&[], &now, &raised)), [("SidecarMissing", true), ("CountMismatch", true)]);
    assert_eq!(names(alarms::told(&now, &now, &raised)), []);
    let cleared = alarms::told(&now, &now[..1], &raised);
    assert!(cleared[0].message.contains("CountMismatch"), "{cleared:?}");
    assert_eq!(names(cleared), [(reason::ALARM_CLEARED, false)]);
}

/// An XMPPCluster that asks two servers, one of them on the pod `a` only.
fn asked(observations: &[Observation], settings: &AlarmSettings) -> (String, String, usize) {
    let spec = json!({ "server": "Prosody", "compliance": { "servers": [
        { "server": "wall", "profile": "p" }, { "server": "logger", "profile": "q", "nodes": ["a"] },
    ] } });
    let cluster = XmppCluster::new("chat", serde_json::from_value(spec).expect("a spec"));
    let raised = alarms::raised(observations, &[], &Report::default(), settings, 0);
    let finding = compliance::served(&cluster, observations, &raised);
    (format!("{:?}", finding.state), finding.reason.to_owned(), alarms::labels(&raised, "n", "c").len())
}

fn linked(pod: &str, links: &[(&str, Option<LinkCause>)]) -> Observation {
    answered(pod, |status| {
        for (name, cause) in links {
            let link = ComplianceServerStatus {
                in_service: cause.is_none(),
                cause: *cause,
                ..ComplianceServerStatus::default()
            };
            status.compliance_servers.insert((*name).to_owned(), link);
        }
    })
}

#[test]
fn compliance_is_served_when_every_server_is_in_service_on_every_node_it_is_assigned_to() {
    let lost = Some(LinkCause::Lost);
    type Links = [(&'static str, Option<LinkCause>)];
    let table: [(&Links, &Links, &str, &str); 5] = [
        (&[("wall", None), ("logger", None)], &[("wall", None)], "True", reason::CONNECTED),
        (&[("wall", None), ("logger", lost)], &[("wall", None)], "False", reason::LOST),
        (
            &[("wall", None), ("logger", None)],
            &[("wall", Some(LinkCause::WrongName))],
            "False",
            reason::WRONG_NAME,
        ),
        // Not tried yet, or not in the pod's configuration yet.
        (
            &[("wall", None), ("logger", Some(LinkCause::NotTried))],
            &[("wall", None)],
            "Unknown",
            reason::CONNECTING,
        ),
        (&[("wall", None)], &[("wall", None)], "Unknown", reason::CONNECTING),
    ];
    for (a, b, state, expected) in table {
        let (found, reason, _) = asked(&[linked("a", a), linked("b", b)], &AlarmSettings::default());
        assert_eq!((found.as_str(), reason.as_str()), (state, expected));
    }
    let (found, reason, _) = asked(&[pod("a", Sidecar::NotRunning)], &AlarmSettings::default());
    assert_eq!((found.as_str(), reason.as_str()), ("Unknown", reason::PENDING));
}

#[test]
fn cs_8_a_silenced_alarm_is_listed_and_turns_no_condition_makes_no_event_and_is_no_metric() {
    let mut settings = AlarmSettings::default();
    let silence = |alarm: &str, nodes: &[&str]| Silence {
        alarm: alarm.to_owned(),
        nodes: nodes.iter().map(|node| (*node).to_owned()).collect(),
    };
    settings.silenced = vec![silence("ComplianceServerLost", &["a"]), silence("CountMismatch", &[])];
    let lost = || linked("a", &[("wall", Some(LinkCause::Lost)), ("logger", None)]);
    let there = linked("b", &[("wall", None)]);
    assert_eq!(asked(&[lost(), there.clone()], &settings), ("True".into(), reason::CONNECTED.into(), 0));
    let both = [lost(), linked("b", &[("wall", Some(LinkCause::Lost))])];
    assert_eq!(
        asked(&both, &settings),
        ("False".into(), reason::LOST.into(), 1),
        "on the other node it is told"
    );

    let observations = [lost(), answered("b", |status| status.counts.passed_by = 1)];
    let loud = alarms::raised(&observations, &[], &Report::default(), &AlarmSettings::default(), 0);
    let quiet = alarms::raised(&observations, &[], &Report::default(), &settings, 0);
    let (before, after) = (alarms::listed(&loud), alarms::listed(&quiet));
    assert!(after.len() == 2 && after.iter().all(|alarm| alarm.silenced));
    assert_eq!(after[1].server.as_deref(), Some("wall"));
    assert_eq!(alarms::told(&[], &after, &quiet), []);
    assert_eq!(alarms::told(&before, &after, &quiet), [], "being silenced is not being over");
    assert_eq!(alarms::told(&after, &[], &[]), []);
    assert_eq!(alarms::told(&after, &before, &loud).len(), 2, "what is no longer silenced is told");
    let good = || Finding::good(condition::COUNTED, "");
    assert_eq!(alarms::judge(condition::COUNTED, &quiet, good()), good());
    assert_ne!(alarms::judge(condition::COUNTED, &loud, good()), good());
}

#[test]
fn a_status_stays_small_with_a_thousand_pods_and_claims_that_complain() {
    let long = "x".repeat(5000);
    let observations = (0..1000)
        .map(|n| {
            answered(&format!("prosody-{n:04}"), |status| {
                status.journal.problem = Some(long.clone());
                status.config.problem = Some(long.clone());
                status.link.connected = false;
                status.counts.delivered_unrecorded = 1;
            })
        })
        .collect();
    let journals = (0..1000)
        .map(|n| View {
            claim: format!("cartulary-journal-prosody-{n:04}"),
            pod: format!("prosody-{n:04}"),
            state: "Failed",
            message: Some(long.clone()),
            waiting: None,
            alarm: Some(DRAIN_FAILED),
        })
        .collect();
    let status = written_with(observations, Ok(None), journals);
    let size = serde_json::to_vec(&status).expect("JSON").len();
    assert!(size < 1 << 20, "{size} bytes");
    let omitted = status.omitted.expect("it says so");
    assert_eq!((omitted.nodes, omitted.journals, omitted.journal_claims), (800, 800, 0));
    assert!(omitted.alarms > 0 && status.alarms.len() == 100);
}
