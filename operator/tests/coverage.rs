//! What is said of a cluster's pods: a table from what was seen to what status and reason come out.

use cartulary_compliance::config::AlarmSettings;
use cartulary_compliance::names::condition;
use cartulary_compliance::status::{ConfigStatus, EndpointStatus, HostCoverage, LinkStatus, SidecarStatus};
use cartulary_crds::{ConfigurationStatus, XmppCluster, XmppClusterStatus};
use cartulary_operator::anchors::Report;
use cartulary_operator::cluster::alarms;
use cartulary_operator::cluster::apply::Applied;
use cartulary_operator::cluster::coverage::{Observation, Sidecar, judge, recording};
use cartulary_operator::cluster::dereference::Gathered;
use cartulary_operator::cluster::status::{Outcome, status};
use cartulary_operator::conditions::{Problem, find};
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
    Observation { pod: name.to_owned(), journal_in_pod: false, sidecar }
}

fn answered(name: &str, change: impl FnOnce(&mut SidecarStatus)) -> Observation {
    let mut status = well();
    change(&mut status);
    pod(name, Sidecar::Answered(Box::new(status)))
}

fn written(observations: Vec<Observation>, accepted: Result<Option<Problem>, Problem>) -> XmppClusterStatus {
    let mut cluster =
        XmppCluster::new("chat", serde_json::from_value(json!({ "server": "Prosody" })).expect("a spec"));
    cluster.metadata.generation = Some(3);
    let applied = Applied(ConfigurationStatus {
        secret: "cartulary-config-chat".into(),
        generation: 3,
        hash: "new".into(),
    });
    let now = Timestamp::UNIX_EPOCH.as_microsecond();
    let raised = alarms::raised(&observations, &[], &Report::default(), AlarmSettings::default(), now);
    let outcome = Outcome {
        accepted,
        applied: Some(applied),
        endpoints: vec!["records".into()],
        observations,
        raised,
        journals: Vec::new(),
        volumes: Default::default(),
        anchors: Report::default(),
    };
    status(&cluster, &XmppClusterStatus::default(), &Gathered::default(), &outcome, Timestamp::UNIX_EPOCH)
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
