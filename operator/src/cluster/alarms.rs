//! The alarms of an XMPPCluster: what its sidecars' states mean, and what only the operator sees (MA-10, P7). Pure.

use super::coverage::{Observation, Sidecar};
use super::drain::View;
use crate::anchors::Report;
use crate::conditions::Finding;
use crate::metrics;
use crate::reasons as reason;
use cartulary_compliance::alarms::{self, ALL, Alarm, Severity, of_node};
use cartulary_compliance::config::AlarmSettings;
use cartulary_compliance::names::condition;
use cartulary_crds::AlarmStatus;

/// An alarm that is raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Which.
    pub alarm: Alarm,
    /// The pod it is about; empty where it is about none.
    pub node: String,
    /// The endpoint it is about.
    pub endpoint: Option<String>,
    /// The compliance server it is about.
    pub server: Option<String>,
    /// Whether it is silenced: then it is listed and nothing else (CS-8).
    pub silenced: bool,
    /// What exactly.
    pub message: String,
}

/// Those about compliance servers and what is asked of them.
const ASKING: [Alarm; 7] = [
    alarms::COMPLIANCE_SERVER_LOST,
    alarms::COMPLIANCE_SERVER_NOT_ANSWERING,
    alarms::COMPLIANCE_SERVER_REFUSES_US,
    alarms::COMPLIANCE_SERVER_OVERFLOWING,
    alarms::EVENTS_UNDECIDED,
    alarms::COMPLIANCE_ANSWERS_UNFIT,
    alarms::EVENTS_MISSED,
];
/// Those whose messages have numbers that change with each look.
const COUNTING: [Alarm; 6] = [
    alarms::WAITING_TOO_LONG,
    alarms::REFUSED_UNRECORDED,
    alarms::COMPLIANCE_SERVER_OVERFLOWING,
    alarms::EVENTS_UNDECIDED,
    alarms::COMPLIANCE_ANSWERS_UNFIT,
    alarms::EVENTS_MISSED,
];

/// The condition that an alarm turns; none where it is about the operator itself, or comes and goes with each message.
#[must_use]
pub fn condition_of(alarm: &Alarm) -> Option<&'static str> {
    Some(match alarm.name {
        name if name == alarms::SIDECAR_MISSING.name => condition::COVERED,
        name if name == alarms::SIDECAR_UNREACHABLE.name => condition::COVERED,
        name if name == alarms::PLUGIN_NOT_CONNECTED.name => condition::COVERED,
        name if name == alarms::HOST_NOT_ARMED.name => condition::COVERED,
        name if name == alarms::COUNT_MISMATCH.name => condition::COUNTED,
        name if name == alarms::JOURNAL_UNATTENDED.name => condition::JOURNALS_ATTENDED,
        name if name == alarms::DRAIN_FAILED.name => condition::JOURNALS_ATTENDED,
        name if name == alarms::ANCHOR_CONFLICT.name => condition::ANCHORED,
        name if name == alarms::ANCHORS_UNWRITABLE.name => condition::ANCHORED,
        name if name == alarms::CONFIGURATION_NOT_TAKEN.name => condition::READY,
        name if ASKING.iter().any(|alarm| alarm.name == name) => condition::COMPLIANCE_SERVED,
        name if name == alarms::CERTIFICATE_EXPIRING.name => return None,
        name if name == alarms::OPERATOR_ABSENT.name => return None,
        _ => condition::RECORDING,
    })
}

/// All alarms, the gravest first, in an order that does not change while they do not.
#[must_use]
pub fn raised(
    observations: &[Observation],
    journals: &[View],
    anchors: &Report,
    settings: &AlarmSettings,
    now_micros: i64,
) -> Vec<Raised> {
    let mut raised = Vec::new();
    let mut add = |alarm: Alarm, node: &str, endpoint, server, message: String| {
        let silenced = settings.is_silenced(alarm.name, node);
        raised.push(Raised { alarm, node: node.to_owned(), endpoint, server, silenced, message });
    };
    let mut raise = |alarm, node: &str, message: String| add(alarm, node, None, None, message);
    for view in journals {
        if let Some(alarm) = view.alarm {
            raise(alarm, &view.pod, view.message.clone().unwrap_or_default());
        }
    }
    for (node, message) in &anchors.conflicts {
        raise(alarms::ANCHOR_CONFLICT, node, message.clone());
    }
    for (node, message) in &anchors.unwritable {
        raise(alarms::ANCHORS_UNWRITABLE, node, message.clone());
    }
    for pod in observations {
        match &pod.sidecar {
            Sidecar::Missing => {
                raise(alarms::SIDECAR_MISSING, &pod.pod, "it runs without our sidecar".into())
            }
            Sidecar::Foreign(cluster) => {
                raise(alarms::SIDECAR_MISSING, &pod.pod, format!("its sidecar records for {cluster}"));
            }
            Sidecar::Unreachable(why) => raise(alarms::SIDECAR_UNREACHABLE, &pod.pod, why.clone()),
            Sidecar::NotRunning | Sidecar::Ending(_) | Sidecar::Answered(_) => {}
        }
    }
    for pod in observations {
        let Sidecar::Answered(status) = &pod.sidecar else { continue };
        for found in of_node(status, settings, now_micros) {
            add(found.alarm, &pod.pod, found.endpoint, found.server, found.message);
        }
    }
    let place = |alarm: &Alarm| ALL.iter().position(|known| known.name == alarm.name);
    raised.sort_by(|a, b| {
        let place = |of: &Raised| (place(&of.alarm), of.node.clone(), of.endpoint.clone(), of.server.clone());
        b.alarm.severity.cmp(&a.alarm.severity).then_with(|| place(a).cmp(&place(b)))
    });
    raised.dedup_by(|a, b| {
        a.alarm.name == b.alarm.name && (&a.node, &a.endpoint, &a.server) == (&b.node, &b.endpoint, &b.server)
    });
    raised
}

/// What the alarms that turn `kind` say of it; `good` while there are none but silenced ones.
#[must_use]
pub fn judge(kind: &'static str, raised: &[Raised], good: Finding) -> Finding {
    let turns = |raised: &&Raised| condition_of(&raised.alarm) == Some(kind) && !raised.silenced;
    let ours: Vec<_> = raised.iter().filter(turns).collect();
    let Some(first) = ours.first() else { return good };
    let rest = if ours.len() > 1 { format!(" (and {} more)", ours.len() - 1) } else { String::new() };
    // Numbers that change with each look would be written with each look.
    let counts = COUNTING.iter().any(|alarm| alarm.name == first.alarm.name);
    let message = if counts { first.alarm.meaning.to_owned() } else { first.message.clone() };
    let about =
        first.server.as_ref().map(|server| format!("ComplianceServer {server}: ")).unwrap_or_default();
    let node = if first.node.is_empty() { String::new() } else { format!("{}: ", first.node) };
    Finding::new(kind, false, first.alarm.name, format!("{node}{about}{message}{rest}"))
}

/// Whether alarms that turn `kind` are raised, and all of them silenced: then it is not told.
#[must_use]
pub fn is_silenced(kind: &'static str, raised: &[Raised]) -> bool {
    let mut ours = raised.iter().filter(|raised| condition_of(&raised.alarm) == Some(kind)).peekable();
    ours.peek().is_some() && ours.all(|raised| raised.silenced)
}

/// Whether a reason is the name of an alarm, whose beginning and end are told by themselves.
#[must_use]
pub fn is_alarm(of: &str) -> bool {
    ALL.iter().any(|alarm| alarm.name == of)
}

/// As the status lists them.
#[must_use]
pub fn listed(raised: &[Raised]) -> Vec<AlarmStatus> {
    raised
        .iter()
        .map(|raised| AlarmStatus {
            alarm: raised.alarm.name.to_owned(),
            severity: raised.alarm.severity.word().to_owned(),
            node: Some(raised.node.clone()).filter(|node| !node.is_empty()),
            endpoint: raised.endpoint.clone(),
            server: raised.server.clone(),
            silenced: raised.silenced,
        })
        .collect()
}

/// As the metric has them.
#[must_use]
pub fn labels(raised: &[Raised], namespace: &str, cluster: &str) -> Vec<metrics::Alarm> {
    raised
        .iter()
        .filter(|raised| !raised.silenced)
        .map(|raised| metrics::Alarm {
            alarm: raised.alarm.name,
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            node: raised.node.clone(),
            endpoint: raised.endpoint.clone().unwrap_or_default(),
            server: raised.server.clone().unwrap_or_default(),
        })
        .collect()
}

/// An event to tell: whether it is for the worse, its reason, the pod, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// For the worse.
    pub warning: bool,
    /// The alarm's name, or `AlarmCleared`.
    pub reason: &'static str,
    /// Pod and endpoint or server, which tell events of one reason apart.
    pub about: String,
    /// What exactly.
    pub message: String,
}

/// What has begun and what has ended since `old` was written. What is silenced does neither.
#[must_use]
pub fn told(old: &[AlarmStatus], new: &[AlarmStatus], raised: &[Raised]) -> Vec<Told> {
    let about = |alarm: &AlarmStatus| {
        let parts = [alarm.node.as_deref(), alarm.endpoint.as_deref(), alarm.server.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    let begun = new.iter().filter(|alarm| !alarm.silenced && !old.contains(alarm)).filter_map(|alarm| {
        let found = raised.iter().find(|raised| {
            raised.alarm.name == alarm.alarm
                && raised.node == alarm.node.as_deref().unwrap_or_default()
                && raised.endpoint == alarm.endpoint
                && raised.server == alarm.server
        })?;
        let about = about(alarm);
        let severity = if found.alarm.severity == Severity::Critical { "" } else { " (not urgent)" };
        let message = format!("{about}: {}{severity}. {}", found.message, found.alarm.action);
        Some(Told { warning: true, reason: found.alarm.name, about, message })
    });
    let stays = |alarm: &AlarmStatus| {
        new.iter().any(|other| AlarmStatus { silenced: false, ..other.clone() } == *alarm)
    };
    let ended = old.iter().filter(|alarm| !alarm.silenced && !stays(alarm)).map(|alarm| {
        let about = about(alarm);
        Told {
            warning: false,
            reason: reason::ALARM_CLEARED,
            message: format!("{} is over: {about}", alarm.alarm),
            about: format!("{} {about}", alarm.alarm),
        }
    });
    begun.chain(ended).collect()
}
