//! Alarms: what somebody must be told of, under names that never change their meaning (P7, MA-10, CS-8).
//!
//! [`of_node`] derives a node's alarms from what its sidecar says of itself, purely, so that the sidecar's own metrics, the
//! operator's conditions and events, and the command line never disagree. Alarms about what no sidecar can see (a pod that has none,
//! a journal without a pod, anchors) are the operator's to raise; they are in the same table. Alert rules and
//! `docs/alarms.md` are generated from it.

use crate::config::AlarmSettings;
use crate::names::reason;
use crate::status::{ComplianceServerStatus, EndpointStatus, LinkCause, SidecarStatus};

/// How soon somebody must act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// During working hours.
    Warning,
    /// Now: something is unrecorded, refused, or about to be.
    Critical,
}

impl Severity {
    /// The word in labels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// One row of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Alarm {
    /// Its name: label of the metric, reason of events and mostly of a condition, name of the alert.
    pub name: &'static str,
    /// How soon somebody must act.
    pub severity: Severity,
    /// Seconds it has to last before an alert rule fires; conditions and events show it at once.
    pub patience_seconds: u32,
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub action: &'static str,
}

macro_rules! catalogue {
    ($($constant:ident $name:literal $severity:ident $patience:literal $meaning:literal $action:literal)*) => {
        $(
            #[doc = $meaning]
            pub const $constant: Alarm = Alarm {
                name: $name,
                severity: Severity::$severity,
                patience_seconds: $patience,
                meaning: $meaning,
                action: $action,
            };
        )*
        /// All alarms, in the order in which they are listed.
        pub const ALL: &[Alarm] = &[$($constant),*];
    };
}

catalogue! {
    SIDECAR_MISSING "SidecarMissing" Critical 0
        "A pod carries the cluster's label and has no sidecar: what is said there is not recorded."
        "Delete the pod, so that it is made anew; if it comes back without one, see whether the operator's webhook is in force."
    SIDECAR_UNREACHABLE "SidecarUnreachable" Warning 120
        "A sidecar does not answer the operator."
        "Let the operator reach port 9467 of the pods (network policies); if it can, read the sidecar's log."
    PLUGIN_NOT_CONNECTED "PluginNotConnected" Critical 60
        "The server's plugin has no link to the sidecar: messages are refused, or delivered and counted."
        "Read the XMPP server's log: our plugin did not load, or the server does not run."
    HOST_NOT_ARMED "HostNotArmed" Critical 0
        "A host of the server takes no messages, because they would not be recorded."
        "The message says which host and why."
    HOOK_FAILED "HookFailed" Critical 0
        "A hook of the plugin failed: that message was refused."
        "Report it with the line of the sidecar's log that names the place; restart the server's pod to clear the alarm."
    DELIVERED_UNRECORDED "DeliveredUnrecorded" Critical 0
        "Messages were delivered that should have been recorded and were not."
        "Mend what kept them out (the other alarms say what); set blockIfUnableToRecord if it must not happen again. A gap record in the archive has the number for ever; the alarm ends with the sidecar's process."
    REFUSED_UNRECORDED "RefusedUnrecorded" Critical 0
        "Messages are being refused because they cannot be recorded."
        "Mend the journal or the archive, as the other alarms say; senders were told, nothing was lost."
    COUNT_MISMATCH "CountMismatch" Critical 300
        "More or fewer messages came in than were asked about: something passes the plugin by."
        "Look for another module of the server that takes messages before ours; cartulary report shows day and node."
    JOURNAL_UNWRITABLE "JournalUnwritable" Critical 0
        "A journal cannot be appended to."
        "Give the volume room, or replace it; the message says what the disk answered."
    JOURNAL_DAMAGED "JournalDamaged" Critical 0
        "Records of a journal are damaged and were passed over, or the disk does not give them back."
        "Replace the volume; cartulary verify names the hole for ever, the quarantine files hold what was found."
    JOURNAL_HIGH_WATER "JournalHighWater" Warning 60
        "A journal is nearly full."
        "Mend the archive so that it drains, or give journal.size and journal.maxBytes more room."
    JOURNAL_EPHEMERAL "JournalEphemeral" Warning 0
        "Records have waited for a minute in a journal that goes with its pod."
        "Mend the archive before that pod is deleted; run the server as a StatefulSet with a durable journal."
    JOURNAL_UNATTENDED "JournalUnattended" Warning 300
        "The journal of a pod that is gone holds records that are not known to be archived."
        "Wait for the Job that drains it; cartulary status shows what keeps it."
    DRAIN_FAILED "DrainFailed" Critical 0
        "The Job that drains the journal of a pod that is gone has failed."
        "Read the Job's message in cartulary status; mend the archive or the volume. It is tried again by itself, at once when you delete the Job."
    QUEUE_HIGH_WATER "QueueHighWater" Warning 60
        "Nearly as many records wait for an archive as may."
        "Mend the archive, or raise the endpoint's queue limits, before it is full."
    QUEUE_FULL "QueueFull" Critical 0
        "As many records wait for an archive as may: messages are refused, or delivered unrecorded and counted."
        "Mend the archive, or raise the endpoint's queue limits: they take effect at once."
    WAITING_TOO_LONG "WaitingTooLong" Warning 0
        "A record has waited for its archive longer than declared."
        "Mend the archive; the endpoint's condition Reachable says what is wrong."
    ARCHIVE_UNREACHABLE "ArchiveUnreachable" Critical 60
        "An archive cannot be used: no connection, no trust, wrong password, missing database or tables, missing rights. Records wait in the journal."
        "The condition Reachable of the ArchiveEndpoint has the reason; operate.md says what to do for each."
    ARCHIVE_WENT_BACK "ArchiveWentBack" Critical 0
        "An archive holds less than it had confirmed, as after a restore, or another record than was written."
        "While it is being refilled, wait; what is lost for good is told with its range. Run cartulary verify."
    RECORDS_REJECTED "RecordsRejected" Critical 0
        "An archive refuses single records; they are kept aside on the node."
        "cartulary dead-letters list shows which and why; mend the cause, then cartulary dead-letters retry."
    OUTCOMES_LOST "OutcomesLost" Warning 0
        "What became of some messages could not be recorded; the messages themselves were."
        "Mend the journal; the alarm ends with the sidecar's process."
    COMPLIANCE_SERVER_LOST "ComplianceServerLost" Critical 0
        "A compliance server is not in service for a node: what is asked of it is decided by others, or as its profile says for the undecided."
        "The message has host, port and the system's error; mend the server, the network or the certificate. The alarm ends when the server answers again."
    COMPLIANCE_SERVER_NOT_ANSWERING "ComplianceServerNotAnswering" Critical 0
        "A compliance server has a connection and answers nothing on it."
        "See what holds the server up, or restart it; what it was asked is asked again when it answers."
    COMPLIANCE_SERVER_REFUSES_US "ComplianceServerRefusesUs" Critical 0
        "A compliance server refuses the password or does not know the component's name."
        "Compare the password's Secret with the server's; give the server the component name that the ComplianceServer's status shows for each pod."
    COMPLIANCE_SERVER_OVERFLOWING "ComplianceServerOverflowing" Warning 60
        "Nearly as many events wait for a compliance server as may; what does not fit is undecided at once."
        "Make the server faster or share its profile with another one; a server that is away for long is dropped sooner with a shorter dropAfter."
    EVENTS_UNDECIDED "EventsUndecided" Critical 0
        "Messages are being refused because no compliance server decided about them."
        "Bring the servers back, as the other alarms say; where messages should rather go on, set the event's handling to pass."
    COMPLIANCE_ANSWERS_UNFIT "ComplianceAnswersUnfit" Warning 0
        "A compliance server has given answers that cannot be used: malformed, or not admitted for the event."
        "Run cartulary conformance against the server and tell its vendor; the alarm ends with the sidecar's process."
    EVENTS_MISSED "EventsMissed" Warning 0
        "A compliance server has not seen logins or logouts; they are on record as missed."
        "Let them be sent later, or hand the server what the archive has; the alarm ends when they were sent, or with the sidecar's process."
    CONFIGURATION_NOT_TAKEN "ConfigurationNotTaken" Critical 0
        "A sidecar does not take its newest configuration and goes on with the last good one."
        "The message says why; use operator and sidecar of one version."
    ANCHOR_CONFLICT "AnchorConflict" Critical 0
        "A journal says something of itself that does not fit what it said before: another key, or a stream that went back."
        "A volume was restored from a copy, or replaced: find out who did. Both heads are kept; cartulary verify shows what they mean."
    ANCHORS_UNWRITABLE "AnchorsUnwritable" Warning 300
        "The operator cannot keep anchors: what is archived now can be shown to be consistent, not complete."
        "See the message: a quota or a right in the operator's namespace is in the way."
    CERTIFICATE_EXPIRING "CertificateExpiring" Critical 0
        "The webhook's certificate is about to expire and was not renewed: labelled pods will be refused."
        "Read the operator's log; it renews by itself unless it may not write its Secret."
    OPERATOR_ABSENT "OperatorAbsent" Critical 300
        "No operator leads: recording goes on, but nobody watches it, anchors it or admits pods."
        "Start the operator again."
}

/// An alarm that is raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    /// Which.
    pub alarm: Alarm,
    /// The endpoint it is about, if one.
    pub endpoint: Option<String>,
    /// The compliance server it is about, if one.
    pub server: Option<String>,
    /// What exactly, for people; no text of messages and no names of users.
    pub message: String,
    /// Whether it is silenced on this node: it is listed, and gives no condition, Event, metric or line in the log (CS-8).
    pub silenced: bool,
}

/// How long a record may wait in a journal that goes with its pod; every record does for a moment.
const EPHEMERAL_SECONDS: i64 = 60;

/// Endpoint states that are an archive that cannot be used.
const UNUSABLE: [&str; 8] = [
    reason::UNREACHABLE,
    reason::TLS_FAILED,
    reason::AUTHENTICATION_FAILED,
    reason::DATABASE_MISSING,
    reason::NOT_MIGRATED,
    reason::UNKNOWN_SCHEMA,
    reason::PERMISSION_DENIED,
    reason::ENDPOINT_MISSING,
];

/// The alarms of one node. `now_micros` is the time, microseconds since the epoch.
#[must_use]
pub fn of_node(status: &SidecarStatus, settings: &AlarmSettings, now_micros: i64) -> Vec<Raised> {
    let SidecarStatus { config, link, journal, endpoints, counts, .. } = status;
    let mut raised = Vec::new();
    let raised_is = |alarm: Alarm, endpoint: Option<&String>, server: Option<&String>, message: String| {
        let silenced = settings.is_silenced(alarm.name, &status.node);
        Raised { alarm, endpoint: endpoint.cloned(), server: server.cloned(), message, silenced }
    };
    let mut raise = |alarm, message: String| raised.push(raised_is(alarm, None, None, message));
    if !link.connected {
        raise(PLUGIN_NOT_CONNECTED, "the server's plugin is not connected".into());
    }
    for host in &link.hosts {
        if let Some(problem) = &host.problem {
            raise(HOST_NOT_ARMED, format!("{}: {problem}", host.name));
        }
    }
    let mut count = |alarm, count: u64, what: &str| {
        if count > 0 {
            raise(alarm, format!("{count} {what}"));
        }
    };
    count(HOOK_FAILED, counts.failed_hooks, "hook bodies of the plugin failed");
    count(DELIVERED_UNRECORDED, counts.delivered_unrecorded, "messages were delivered without a record");
    count(
        REFUSED_UNRECORDED,
        status.refused_lately,
        "messages were refused within a minute because they could not be recorded",
    );
    count(
        EVENTS_UNDECIDED,
        status.questions.undecided_lately,
        "messages were refused within a minute because no compliance server decided",
    );
    count(
        OUTCOMES_LOST,
        counts.outcomes_lost.saturating_add(counts.plugin_outcomes_lost),
        "outcomes are not on record",
    );
    count(
        COUNT_MISMATCH,
        counts.passed_by,
        "messages came in and nobody was asked about them, or the reverse",
    );
    count(JOURNAL_DAMAGED, journal.damaged(), "damaged places were passed over");
    if let Some(problem) = &journal.problem {
        raise(JOURNAL_UNWRITABLE, problem.clone());
    }
    if let Some(problem) = &config.problem {
        raise(CONFIGURATION_NOT_TAKEN, problem.clone());
    }
    if is_high(journal.bytes, journal.max_bytes, settings) {
        raise(JOURNAL_HIGH_WATER, format!("{} of {} bytes are used", journal.bytes, journal.max_bytes));
    }
    let oldest = endpoints.values().filter_map(|endpoint| endpoint.oldest_waiting_micros).min();
    if journal.ephemeral
        && oldest.is_some_and(|oldest| seconds_since(oldest, now_micros) >= EPHEMERAL_SECONDS)
    {
        let message = "records have waited for a minute in a journal that goes with the pod";
        raise(JOURNAL_EPHEMERAL, message.into());
    }
    for (name, endpoint) in endpoints {
        for (alarm, message) in of_endpoint(endpoint, settings, now_micros) {
            raised.push(raised_is(alarm, Some(name), None, message));
        }
    }
    for (name, server) in &status.compliance_servers {
        for (alarm, message) in of_server(server, settings) {
            raised.push(raised_is(alarm, None, Some(name), message));
        }
    }
    raised
}

fn of_server(server: &ComplianceServerStatus, settings: &AlarmSettings) -> Vec<(Alarm, String)> {
    let mut raised = Vec::new();
    let why = if server.in_service { None } else { server.cause };
    let away = match why {
        // It is just being connected to, for the first time or anew.
        None | Some(LinkCause::NotTried | LinkCause::Reconfigured) => None,
        Some(LinkCause::NotAnswering) => Some(COMPLIANCE_SERVER_NOT_ANSWERING),
        Some(LinkCause::WrongPassword | LinkCause::WrongName) => Some(COMPLIANCE_SERVER_REFUSES_US),
        Some(_) => Some(COMPLIANCE_SERVER_LOST),
    };
    raised.extend(away.map(|alarm| (alarm, server.message.clone())));
    let ComplianceServerStatus { pending, max_pending, pending_bytes, max_pending_bytes, counts, .. } =
        server;
    if is_high(*pending, *max_pending, settings) || is_high(*pending_bytes, *max_pending_bytes, settings) {
        let may = format!("{max_pending} ({max_pending_bytes} bytes) may");
        raised.push((
            COMPLIANCE_SERVER_OVERFLOWING,
            format!("{pending} events ({pending_bytes} bytes) wait, {may}"),
        ));
    }
    if counts.malformed + counts.not_admitted > 0 {
        let message = format!(
            "{} answers were malformed, {} were not admitted for their event",
            counts.malformed, counts.not_admitted
        );
        raised.push((COMPLIANCE_ANSWERS_UNFIT, message));
    }
    if counts.missed > counts.sent_later {
        let unseen = counts.missed - counts.sent_later;
        raised.push((EVENTS_MISSED, format!("{unseen} logins or logouts were not seen")));
    }
    raised
}

fn of_endpoint(endpoint: &EndpointStatus, settings: &AlarmSettings, now_micros: i64) -> Vec<(Alarm, String)> {
    let mut raised = Vec::new();
    let EndpointStatus { waiting, waiting_bytes, max_records, max_bytes, .. } = *endpoint;
    let full = |used: u64, limit: u64| limit > 0 && used >= limit;
    if full(waiting, max_records) || full(waiting_bytes, max_bytes) {
        raised.push((
            QUEUE_FULL,
            format!("{waiting} records ({waiting_bytes} bytes) wait, {max_records} ({max_bytes} bytes) may"),
        ));
    } else if is_high(waiting, max_records, settings) || is_high(waiting_bytes, max_bytes, settings) {
        raised.push((
            QUEUE_HIGH_WATER,
            format!("{waiting} records ({waiting_bytes} bytes) wait, {max_records} ({max_bytes} bytes) may"),
        ));
    }
    if let Some(oldest) = endpoint.oldest_waiting_micros {
        let seconds = seconds_since(oldest, now_micros);
        if seconds >= i64::from(settings.waiting_too_long_seconds) {
            raised.push((
                WAITING_TOO_LONG,
                format!("the oldest of {waiting} records waits for {seconds} seconds"),
            ));
        }
    }
    if UNUSABLE.contains(&endpoint.state.as_str()) {
        raised.push((ARCHIVE_UNREACHABLE, format!("{}: {}", endpoint.state, endpoint.message)));
    } else if endpoint.state == reason::WENT_BACK {
        raised.push((ARCHIVE_WENT_BACK, endpoint.message.clone()));
    }
    if endpoint.dead_letters > 0 {
        raised.push((RECORDS_REJECTED, format!("{} records are kept aside", endpoint.dead_letters)));
    }
    raised
}

fn seconds_since(then_micros: i64, now_micros: i64) -> i64 {
    now_micros.saturating_sub(then_micros) / 1_000_000
}

fn is_high(used: u64, limit: u64, settings: &AlarmSettings) -> bool {
    limit > 0 && u128::from(used) * 100 >= u128::from(limit) * u128::from(settings.high_water_percent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Silence;
    use crate::link::Sums;
    use crate::status::{DayCount, HostCoverage};

    const NOW: i64 = 3_600_000_000;

    fn quiet() -> SidecarStatus {
        let mut status = SidecarStatus::default();
        status.link.connected = true;
        status.link.hosts = vec![HostCoverage { name: "chat.example".into(), problem: None }];
        status.journal.max_bytes = 1000;
        status.days = vec![DayCount { day: "2026-01-01".into(), sums: Sums::default() }];
        let endpoint = EndpointStatus {
            state: reason::CONNECTED.into(),
            max_records: 10,
            max_bytes: 100,
            ..EndpointStatus::default()
        };
        status.endpoints.insert("main".into(), endpoint);
        let wall = ComplianceServerStatus {
            in_service: true,
            cause: Some(LinkCause::Lost),
            max_pending: 10,
            max_pending_bytes: 100,
            ..ComplianceServerStatus::default()
        };
        status.compliance_servers.insert("wall".into(), wall);
        status
    }

    fn names(change: impl FnOnce(&mut SidecarStatus)) -> Vec<&'static str> {
        let mut status = quiet();
        change(&mut status);
        of_node(&status, &AlarmSettings::default(), NOW).iter().map(|raised| raised.alarm.name).collect()
    }

    fn main(status: &mut SidecarStatus) -> &mut EndpointStatus {
        status.endpoints.get_mut("main").expect("there")
    }

    #[test]
    fn each_trouble_raises_its_alarm_and_nothing_else() {
        assert_eq!(names(|_| {}), [""; 0]);
        type Change = fn(&mut SidecarStatus);
        let table: [(&str, Change); 19] = [
            ("PluginNotConnected", |s| s.link.connected = false),
            ("HostNotArmed", |s| s.link.hosts[0].problem = Some("why".into())),
            ("HookFailed", |s| s.counts.failed_hooks = 1),
            ("DeliveredUnrecorded", |s| s.counts.delivered_unrecorded = 1),
            ("RefusedUnrecorded", |s| s.refused_lately = 1),
            ("OutcomesLost", |s| s.counts.plugin_outcomes_lost = 1),
            ("CountMismatch", |s| s.counts.passed_by = 1),
            ("JournalDamaged", |s| s.journal.unreadable = 1),
            ("JournalUnwritable", |s| s.journal.problem = Some("full".into())),
            ("ConfigurationNotTaken", |s| s.config.problem = Some("bad".into())),
            ("JournalHighWater", |s| s.journal.bytes = 800),
            ("JournalEphemeral", |s| {
                s.journal.ephemeral = true;
                main(s).oldest_waiting_micros = Some(NOW - 60_000_000);
            }),
            ("QueueHighWater", |s| main(s).waiting = 8),
            ("QueueHighWater", |s| main(s).waiting_bytes = 80),
            ("QueueFull", |s| main(s).waiting = 10),
            ("WaitingTooLong", |s| main(s).oldest_waiting_micros = Some(0)),
            ("ArchiveUnreachable", |s| main(s).state = reason::AUTHENTICATION_FAILED.into()),
            ("ArchiveWentBack", |s| main(s).state = reason::WENT_BACK.into()),
            ("RecordsRejected", |s| main(s).dead_letters = 1),
        ];
        for (alarm, change) in table {
            assert_eq!(names(change), [alarm], "{alarm}");
        }
    }

    fn wall(status: &mut SidecarStatus) -> &mut ComplianceServerStatus {
        status.compliance_servers.get_mut("wall").expect("there")
    }

    fn away(status: &mut SidecarStatus, cause: LinkCause) {
        (wall(status).in_service, wall(status).cause) = (false, Some(cause));
        wall(status).message = "wall.example:5275: connection refused".into();
    }

    #[test]
    fn cs_8_the_loss_of_a_compliance_server_is_an_alarm_of_its_kind_until_it_is_back() {
        let table = [
            (LinkCause::NotTried, None),
            (LinkCause::Reconfigured, None),
            (LinkCause::UnknownHost, Some("ComplianceServerLost")),
            (LinkCause::Refused, Some("ComplianceServerLost")),
            (LinkCause::TimedOut, Some("ComplianceServerLost")),
            (LinkCause::Tls, Some("ComplianceServerLost")),
            (LinkCause::Protocol, Some("ComplianceServerLost")),
            (LinkCause::Closed, Some("ComplianceServerLost")),
            (LinkCause::Lost, Some("ComplianceServerLost")),
            (LinkCause::NotAnswering, Some("ComplianceServerNotAnswering")),
            (LinkCause::WrongPassword, Some("ComplianceServerRefusesUs")),
            (LinkCause::WrongName, Some("ComplianceServerRefusesUs")),
        ];
        for (cause, alarm) in table {
            assert_eq!(names(|s| away(s, cause)), alarm.into_iter().collect::<Vec<_>>(), "{cause:?}");
        }
        let mut status = quiet();
        away(&mut status, LinkCause::Refused);
        let raised = of_node(&status, &AlarmSettings::default(), NOW).remove(0);
        assert_eq!(raised.server.as_deref(), Some("wall"));
        assert_eq!(raised.message, "wall.example:5275: connection refused");
        assert_eq!((raised.alarm.severity, raised.alarm.patience_seconds), (Severity::Critical, 0));
        wall(&mut status).in_service = true;
        assert_eq!(of_node(&status, &AlarmSettings::default(), NOW), []);
    }

    #[test]
    fn cs_8_what_goes_wrong_with_questions_has_alarms() {
        type Change = fn(&mut SidecarStatus);
        let table: [(&str, Change); 6] = [
            ("ComplianceServerOverflowing", |s| wall(s).pending = 8),
            ("ComplianceServerOverflowing", |s| wall(s).pending_bytes = 80),
            ("EventsUndecided", |s| s.questions.undecided_lately = 1),
            ("ComplianceAnswersUnfit", |s| wall(s).counts.malformed = 1),
            ("ComplianceAnswersUnfit", |s| wall(s).counts.not_admitted = 1),
            ("EventsMissed", |s| wall(s).counts.missed = 1),
        ];
        for (alarm, change) in table {
            assert_eq!(names(change), [alarm], "{alarm}");
        }
        let sent = |s: &mut SidecarStatus| (wall(s).counts.missed, wall(s).counts.sent_later) = (2, 2);
        assert_eq!(names(sent), [""; 0]);
    }

    #[test]
    fn cs_8_an_alarm_that_is_silenced_on_a_node_is_listed_and_marked_there_alone() {
        let mut status = quiet();
        away(&mut status, LinkCause::Lost);
        status.link.connected = false;
        let mut settings = AlarmSettings::default();
        let nodes = vec!["prosody-1".to_owned()];
        settings.silenced = vec![Silence { alarm: "ComplianceServerLost".into(), nodes }];
        let mut silenced = |node: &str| -> Vec<(&str, bool)> {
            status.node = node.into();
            let raised = of_node(&status, &settings, NOW);
            raised.iter().map(|raised| (raised.alarm.name, raised.silenced)).collect()
        };
        let with = |lost| vec![("PluginNotConnected", false), ("ComplianceServerLost", lost)];
        assert_eq!(silenced("prosody-1"), with(true));
        assert_eq!(silenced("prosody-0"), with(false));
    }

    #[test]
    fn limits_that_are_not_known_raise_nothing() {
        let unknown = |s: &mut SidecarStatus| {
            s.journal.max_bytes = 0;
            s.journal.bytes = 1;
            *main(s) =
                EndpointStatus { state: reason::CONNECTED.into(), waiting: 5, ..EndpointStatus::default() };
        };
        assert_eq!(names(unknown), [""; 0]);
    }

    #[test]
    fn names_are_unique_and_fit_for_labels_and_reasons() {
        let mut seen = std::collections::BTreeSet::new();
        for alarm in ALL {
            assert!(seen.insert(alarm.name), "{} twice", alarm.name);
            assert!(alarm.name.chars().all(|c| c.is_ascii_alphanumeric()), "{}", alarm.name);
            assert!(alarm.meaning.ends_with('.') && alarm.action.ends_with('.'), "{}", alarm.name);
        }
    }
}
