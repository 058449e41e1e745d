//! The metrics page, made from the same status that `/status` shows. Names are in [`cartulary_compliance::names::metric`].

use cartulary_compliance::alarms;
use cartulary_compliance::config::AlarmSettings;
use cartulary_compliance::names::metric;
use cartulary_compliance::status::{ComplianceServerStatus, LinkState, ServerCounts, SidecarStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
use std::fmt;

/// Upper bounds of the answer times' classes, seconds, as the status has them.
const ANSWER_TIMES: [f64; 14] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// The page in the OpenMetrics text format. `now_micros` is the time, microseconds since the epoch.
pub fn page(status: SidecarStatus, settings: AlarmSettings, now_micros: i64) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page { status, settings, now_micros }));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

#[derive(Debug)]
struct Page {
    status: SidecarStatus,
    settings: AlarmSettings,
    now_micros: i64,
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let SidecarStatus { config, link, journal, endpoints, counts, .. } = &self.status;
        let mut counter =
            |name, help, value: u64| single(&mut encoder, name, help, &ConstCounter::new(value));
        counter(metric::EVENTS, "Events asked by the plugin", counts.events)?;
        counter(
            metric::DELIVERED_UNRECORDED,
            "Messages delivered without the record they should have",
            counts.delivered_unrecorded,
        )?;
        counter(metric::BAD_FRAMES, "Frames of the event link that could not be read", counts.bad_frames)?;
        counter(
            metric::UNKNOWN_FIELDS,
            "Frames and fields of the event link that are skipped",
            counts.unknown_fields,
        )?;
        counter(metric::FAILED_HOOKS, "Hook bodies of the plugin that threw", counts.failed_hooks)?;
        counter(
            metric::UNPARSEABLE,
            "Stanzas recorded as they came, unreadable as a message",
            counts.unparseable,
        )?;
        counter(
            metric::OUTCOMES_UNMATCHED,
            "Outcomes of unknown events, recorded all the same",
            counts.outcomes_unmatched,
        )?;
        counter(metric::OUTCOMES_LOST, "Outcomes that could not be recorded", counts.outcomes_lost)?;
        counter(
            metric::QUARANTINED,
            "Damaged places of the journal that were passed over",
            journal.damaged(),
        )?;

        let mut gauge = |name, help, value: i64| single(&mut encoder, name, help, &ConstGauge::new(value));
        gauge(metric::JOURNAL_BYTES, "Bytes of the journal", signed(journal.bytes))?;
        gauge(metric::SESSIONS, "Sessions of the server known now", signed(link.sessions))?;
        gauge(metric::CONFIG_GENERATION, "Generation of the configuration in force", config.generation)?;
        gauge(
            metric::CONFIG_PROBLEM,
            "1 while the newest configuration was not taken",
            config.problem.is_some().into(),
        )?;
        let covered =
            link.connected && !link.hosts.is_empty() && link.hosts.iter().all(|host| host.problem.is_none());
        gauge(metric::COVERED, "1 while a plugin is connected and every host armed", covered.into())?;
        if let Some(bytes) = resident_memory() {
            gauge(metric::RESIDENT_MEMORY, "Memory of the sidecar's process in bytes", bytes)?;
        }

        let kinds = [("accepted", counts.accepted), ("outcome", counts.outcomes)];
        let kinds = kinds.into_iter().map(|(kind, value)| (kind, ConstCounter::new(value)));
        family(&mut encoder, metric::RECORDED, "Records on disk in the journal", "kind", kinds)?;
        let reasons = counts.refused_by.iter().map(|(why, value)| (why.as_str(), ConstCounter::new(*value)));
        family(&mut encoder, metric::REFUSED, "Messages refused", "reason", reasons)?;
        let said = counts.counted;
        let classes = [
            ("said", said.said),
            ("recorded", said.recorded),
            ("unrecorded", said.unrecorded),
            ("refused", said.refused),
            ("refused-alone", said.refused_alone),
            ("delivered-alone", said.delivered_alone),
            ("ended-before", said.ended_before),
        ];
        let classes = classes.into_iter().map(|(class, value)| (class, ConstCounter::new(value)));
        family(
            &mut encoder,
            metric::COUNTED,
            "Messages as the server plugin counted them",
            "class",
            classes,
        )?;

        let by = || endpoints.iter().map(|(name, endpoint)| (name.as_str(), endpoint));
        let archived = by().map(|(name, endpoint)| (name, ConstCounter::new(endpoint.archived)));
        family(&mut encoder, metric::ARCHIVED, "Records confirmed by their archive", "endpoint", archived)?;
        let waiting = by().map(|(name, endpoint)| (name, ConstGauge::new(signed(endpoint.waiting))));
        family(&mut encoder, metric::WAITING, "Records that wait", "endpoint", waiting)?;
        let age = by().map(|(name, endpoint)| {
            let micros = endpoint.oldest_waiting_micros.map_or(0, |oldest| (self.now_micros - oldest).max(0));
            (name, ConstGauge::new(micros as f64 / 1e6))
        });
        family(&mut encoder, metric::WAITING_AGE, "Age of the oldest waiting record", "endpoint", age)?;
        let dead = by().map(|(name, endpoint)| (name, ConstGauge::new(signed(endpoint.dead_letters))));
        family(
            &mut encoder,
            metric::DEAD_LETTERS,
            "Records an endpoint refused, kept aside",
            "endpoint",
            dead,
        )?;
        let up = by().map(|(name, endpoint)| {
            let connected = endpoint.state == cartulary_compliance::names::reason::CONNECTED;
            (name, ConstGauge::new(i64::from(connected)))
        });
        family(&mut encoder, metric::ENDPOINT_UP, "1 while the endpoint is connected", "endpoint", up)?;
        self.servers(&mut encoder)?;
        self.questions(&mut encoder)?;
        self.alarms(&mut encoder)
    }
}

impl Page {
    /// The links to compliance servers (CS-3).
    fn servers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let servers = &self.status.compliance_servers;
        let by = || servers.iter().map(|(name, server)| (name.as_str(), server));
        let states =
            [(LinkState::Gone, "GONE"), (LinkState::Connected, "CONNECTED"), (LinkState::Active, "ACTIVE")];
        let states = by().flat_map(|(name, server)| {
            states.map(|(state, word)| ([name, word], ConstGauge::new(i64::from(server.state == state))))
        });
        pairs(encoder, metric::SERVER_STATE, "1 for the state of the link", ["server", "state"], states)?;
        type Gauge = (&'static str, &'static str, fn(&ComplianceServerStatus) -> u64);
        let gauges: [Gauge; 6] = [
            (metric::SERVER_IN_SERVICE, "1 while events go to the server", |s| s.in_service.into()),
            (metric::SERVER_QUEUEING, "1 while events queue for a server that is away", |s| {
                s.queueing.into()
            }),
            (metric::SERVER_PENDING, "Events that wait for the server", |s| s.pending),
            (metric::SERVER_PENDING_LIMIT, "How many may", |s| s.max_pending),
            (metric::SERVER_PENDING_BYTES, "Bytes of events that wait for the server", |s| s.pending_bytes),
            (metric::SERVER_PENDING_BYTES_LIMIT, "How many may", |s| s.max_pending_bytes),
        ];
        for (name, help, value) in gauges {
            let values = by().map(|(server, status)| (server, ConstGauge::new(signed(value(status)))));
            family(encoder, name, help, "server", values)?;
        }
        let ages =
            by().map(|(name, server)| (name, ConstGauge::new(server.oldest_pending_ms as f64 / 1000.0)));
        family(encoder, metric::SERVER_PENDING_AGE, "Age of the oldest of them", "server", ages)?;
        let transitions = by().flat_map(|(name, ComplianceServerStatus { counts, .. })| {
            let both = [("active", counts.connected), ("lost", counts.lost)];
            both.map(|(change, count)| ([name, change], ConstCounter::new(count)))
        });
        let labels = ["server", "change"];
        pairs(
            encoder,
            metric::SERVER_CHANGES,
            "Times the link became active or was lost",
            labels,
            transitions,
        )?;
        let asked = by().flat_map(|(name, ComplianceServerStatus { counts, .. })| {
            let both = [("asked", counts.asked), ("told", counts.told)];
            both.map(|(kind, count)| ([name, kind], ConstCounter::new(count)))
        });
        pairs(encoder, metric::SERVER_EVENTS, "Events the server was sent", ["server", "kind"], asked)?;
        let answers = by().flat_map(|(name, server)| {
            answers(&server.counts).map(|(kind, count)| ([name, kind], ConstCounter::new(count)))
        });
        pairs(encoder, metric::SERVER_ANSWERS, "What came of events", ["server", "kind"], answers)?;
        let missed = by().flat_map(|(name, ComplianceServerStatus { counts, .. })| {
            let both = [("missed", counts.missed), ("sent-later", counts.sent_later)];
            both.map(|(kind, count)| ([name, kind], ConstCounter::new(count)))
        });
        let help = "Logins and logouts the server has not seen, and those sent later";
        pairs(encoder, metric::SERVER_MISSED, help, ["server", "kind"], missed)?;
        self.answer_times(encoder)
    }

    fn answer_times(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let servers = &self.status.compliance_servers;
        if servers.is_empty() {
            return Ok(());
        }
        let help = "How long the server took to answer";
        let mut metric =
            encoder.encode_descriptor(metric::SERVER_ANSWER_TIME, help, None, MetricType::Histogram)?;
        for (name, server) in servers {
            let bounds = ANSWER_TIMES.into_iter().chain([f64::INFINITY]);
            let classes: Vec<(f64, u64)> = bounds.zip(server.answer_times).collect();
            let (sum, count) = (server.answer_micros as f64 / 1e6, server.answer_times.iter().sum());
            metric
                .encode_family(&[("server", name.as_str())])?
                .encode_histogram::<NoLabelSet>(sum, count, &classes, None)?;
        }
        Ok(())
    }

    /// What became of what compliance servers were asked about.
    fn questions(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let questions = &self.status.questions;
        let results = [
            ("passed", questions.passed),
            ("modified", questions.modified),
            ("handled", questions.handled),
            ("bounced", questions.bounced),
            ("undecided-bounced", questions.undecided_bounced),
            ("undecided-passed", questions.undecided_passed),
        ];
        let results = results.into_iter().map(|(result, count)| (result, ConstCounter::new(count)));
        let help = "Stanzas that compliance servers were asked about, by what became of them";
        family(encoder, metric::QUESTIONS, help, "result", results)?;
        let refused =
            [("message", questions.refused_messages), ("room-event", questions.refused_room_events)];
        let refused = refused.into_iter().map(|(kind, count)| (kind, ConstCounter::new(count)));
        let help = "Refused by a compliance server, or because nobody decided";
        family(encoder, metric::QUESTIONS_REFUSED, help, "kind", refused)?;
        let moved = ConstCounter::new(questions.conversations_moved);
        single(encoder, metric::CONVERSATIONS_MOVED, "Conversations whose server changed", &moved)?;
        let gauges = [
            (metric::WAITING_STANZAS, "Stanzas that wait for a decision", questions.waiting),
            (metric::WAITING_BYTES, "Bytes of stanzas that wait for a decision", questions.waiting_bytes),
            (metric::WAITING_LOGINS, "Logins that wait for a decision", questions.waiting_logins),
        ];
        for (name, help, value) in gauges {
            single(encoder, name, help, &ConstGauge::new(signed(value)))?;
        }
        Ok(())
    }

    /// An alarm that is not raised, or silenced, is not on the page.
    fn alarms(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let SidecarStatus { node, cluster, .. } = &self.status;
        let (namespace, cluster) = cluster.split_once('/').unwrap_or_default();
        // One host that is not armed raises the same alarm as another.
        let raised: BTreeSet<(&str, String, String)> =
            alarms::of_node(&self.status, &self.settings, self.now_micros)
                .into_iter()
                .filter(|raised| !raised.silenced)
                .map(|raised| {
                    (
                        raised.alarm.name,
                        raised.endpoint.unwrap_or_default(),
                        raised.server.unwrap_or_default(),
                    )
                })
                .collect();
        let one = ConstGauge::new(1i64);
        let mut metric = encoder.encode_descriptor(
            metric::ALARM,
            "1 while an alarm is raised",
            None,
            one.metric_type(),
        )?;
        for (alarm, endpoint, server) in &raised {
            let labels = [
                ("alarm", *alarm),
                ("namespace", namespace),
                ("cluster", cluster),
                ("node", node),
                ("endpoint", endpoint),
                ("server", server),
            ];
            one.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn single(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeMetric,
) -> fmt::Result {
    value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
}

/// What the kernel says of this process (proc(5), `VmRSS`); `None` where it says nothing.
fn resident_memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    kilobytes.trim().parse::<i64>().ok()?.checked_mul(1024)
}

fn family<'a, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: impl Iterator<Item = (&'a str, M)>,
) -> fmt::Result {
    let mut values = values.peekable();
    let Some((_, first)) = values.peek() else { return Ok(()) };
    let kind: MetricType = first.metric_type();
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (word, value) in values {
        value.encode(metric.encode_family(&[(label, word)])?)?;
    }
    Ok(())
}

/// A metric with two labels.
fn pairs<'a, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    [first, second]: [&str; 2],
    values: impl Iterator<Item = ([&'a str; 2], M)>,
) -> fmt::Result {
    let mut values = values.peekable();
    let Some((_, value)) = values.peek() else { return Ok(()) };
    let kind: MetricType = value.metric_type();
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (words, value) in values {
        value.encode(metric.encode_family(&[(first, words[0]), (second, words[1])])?)?;
    }
    Ok(())
}

/// What came of events, each once.
fn answers(counts: &ServerCounts) -> [(&'static str, u64); 12] {
    [
        ("pass", counts.passed),
        ("modified", counts.modified),
        ("handle", counts.handled),
        ("error", counts.errors),
        ("timed-out", counts.timed_out),
        ("overflowed", counts.overflowed),
        ("rerouted", counts.rerouted),
        ("late", counts.late),
        ("doubled", counts.doubled),
        ("unknown", counts.unknown),
        ("malformed", counts.malformed),
        ("not-admitted", counts.not_admitted),
    ]
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_compliance::status::EndpointStatus;

    #[test]
    fn every_figure_of_the_status_is_on_the_page_under_its_name() {
        let mut status = SidecarStatus::default();
        status.counts.accepted = 3;
        status.counts.refused_by.insert("queue-full".into(), 2);
        let endpoint = EndpointStatus {
            state: "Connected".into(),
            waiting: 7,
            oldest_waiting_micros: Some(1_500_000),
            ..EndpointStatus::default()
        };
        status.endpoints.insert("main".into(), endpoint);
        status.cluster = "chat/main".into();
        status.node = "pod-0".into();
        status.counts.counted.said = 9;
        status.counts.passed_by = 1;
        let mut wall = ComplianceServerStatus { state: LinkState::Active, pending: 3, ..Default::default() };
        (wall.in_service, wall.max_pending, wall.oldest_pending_ms) = (true, 10_000, 1500);
        (wall.counts.late, wall.counts.passed, wall.counts.lost) = (2, 5, 1);
        (wall.answer_times[1], wall.answer_times[14], wall.answer_micros) = (4, 1, 40_004_000);
        status.compliance_servers.insert("wall".into(), wall);
        status.questions.undecided_bounced = 6;
        let page = page(status, AlarmSettings::default(), 4_000_000).expect("text");
        for line in [
            "cartulary_recorded_total{kind=\"accepted\"} 3",
            "cartulary_refused_total{reason=\"queue-full\"} 2",
            "cartulary_waiting_records{endpoint=\"main\"} 7",
            "cartulary_waiting_oldest_seconds{endpoint=\"main\"} 2.5",
            "cartulary_endpoint_up{endpoint=\"main\"} 1",
            "cartulary_counted_total{class=\"said\"} 9",
            "cartulary_alarm{alarm=\"CountMismatch\",namespace=\"chat\",cluster=\"main\",node=\"pod-0\",endpoint=\"\",server=\"\"} 1",
            "cartulary_compliance_server_state{server=\"wall\",state=\"ACTIVE\"} 1",
            "cartulary_compliance_server_state{server=\"wall\",state=\"GONE\"} 0",
            "cartulary_compliance_server_in_service{server=\"wall\"} 1",
            "cartulary_compliance_server_pending{server=\"wall\"} 3",
            "cartulary_compliance_server_pending_limit{server=\"wall\"} 10000",
            "cartulary_compliance_server_pending_oldest_seconds{server=\"wall\"} 1.5",
            "cartulary_compliance_server_changes_total{server=\"wall\",change=\"lost\"} 1",
            "cartulary_compliance_answers_total{server=\"wall\",kind=\"late\"} 2",
            "cartulary_compliance_answer_seconds_count{server=\"wall\"} 5",
            "cartulary_compliance_answer_seconds_bucket{le=\"0.002\",server=\"wall\"} 4",
            "cartulary_compliance_answer_seconds_bucket{le=\"+Inf\",server=\"wall\"} 5",
            "cartulary_compliance_stanzas_total{result=\"undecided-bounced\"} 6",
            "cartulary_covered 0",
            "cartulary_events_total 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }
}
