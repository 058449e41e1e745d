//! The metrics page, made from the same status that `/status` shows. Names are in [`cartulary_compliance::names::metric`].

use cartulary_compliance::alarms;
use cartulary_compliance::config::AlarmSettings;
use cartulary_compliance::names::metric;
use cartulary_compliance::status::SidecarStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
use std::fmt;

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
        self.alarms(&mut encoder)
    }
}

impl Page {
    /// An alarm that is not raised is not on the page.
    fn alarms(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let SidecarStatus { node, cluster, .. } = &self.status;
        let (namespace, cluster) = cluster.split_once('/').unwrap_or_default();
        // One host that is not armed raises the same alarm as another.
        let raised: BTreeSet<(&str, String)> = alarms::of_node(&self.status, &self.settings, self.now_micros)
            .into_iter()
            .map(|raised| (raised.alarm.name, raised.endpoint.unwrap_or_default()))
            .collect();
        let one = ConstGauge::new(1i64);
        let mut metric = encoder.encode_descriptor(
            metric::ALARM,
            "1 while an alarm is raised",
            None,
            one.metric_type(),
        )?;
        for (alarm, endpoint) in &raised {
            let labels = [
                ("alarm", *alarm),
                ("namespace", namespace),
                ("cluster", cluster),
                ("node", node),
                ("endpoint", endpoint),
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
        let page = page(status, AlarmSettings::default(), 4_000_000).expect("text");
        for line in [
            "cartulary_recorded_total{kind=\"accepted\"} 3",
            "cartulary_refused_total{reason=\"queue-full\"} 2",
            "cartulary_waiting_records{endpoint=\"main\"} 7",
            "cartulary_waiting_oldest_seconds{endpoint=\"main\"} 2.5",
            "cartulary_endpoint_up{endpoint=\"main\"} 1",
            "cartulary_counted_total{class=\"said\"} 9",
            "cartulary_alarm{alarm=\"CountMismatch\",namespace=\"chat\",cluster=\"main\",node=\"pod-0\",endpoint=\"\"} 1",
            "cartulary_covered 0",
            "cartulary_events_total 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }
}
