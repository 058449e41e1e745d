//! Says in the log when an alarm is raised and when it is over (P7, MA-10): which ones there are, [`cartulary_compliance::alarms`]
//! knows.
//!
//! A line for each change and none in between, with the fields `alarm`, `severity`, `endpoint` and `server`, which never change their
//! meaning; none about what is silenced (CS-8). What it does not do: decide what an alarm is, or wait until one has lasted; alert rules do that.

use crate::app::App;
use cartulary_compliance::alarms::{PLUGIN_NOT_CONNECTED, Raised, Severity, of_node};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is raised, by alarm, endpoint and compliance server.
type Known = BTreeMap<(&'static str, Option<String>, Option<String>), Raised>;

/// Tells of every change until `stop`.
pub async fn run(app: &App, stop: CancellationToken) {
    let begun = Instant::now();
    let (mut known, mut was_linked) = (Known::new(), false);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let status = app.state();
        was_linked |= status.link.connected;
        // The server starts after its sidecar: that it is not there yet is no alarm for a while.
        let patience = Duration::from_secs(PLUGIN_NOT_CONNECTED.patience_seconds.into());
        let is_start = !was_linked && begun.elapsed() < patience;
        let raised = of_node(&status, &app.alarm_settings(), now_micros())
            .into_iter()
            .filter(|raised| !raised.silenced)
            .filter(|raised| !is_start || raised.alarm != PLUGIN_NOT_CONNECTED);
        let (new, over) = follow(&mut known, raised);
        new.iter().for_each(tell);
        for Raised { alarm, endpoint, server, .. } in over {
            tracing::info!(
                alarm = alarm.name,
                severity = alarm.severity.word(),
                endpoint,
                server,
                "an alarm is over"
            );
        }
    }
}

fn tell(raised: &Raised) {
    let Raised { alarm, endpoint, server, message, .. } = raised;
    let (name, severity) = (alarm.name, alarm.severity.word());
    match alarm.severity {
        Severity::Critical => {
            tracing::error!(alarm = name, severity, endpoint, server, detail = message, "an alarm is raised");
        }
        Severity::Warning => {
            tracing::warn!(alarm = name, severity, endpoint, server, detail = message, "an alarm is raised");
        }
    }
}

/// What is raised that was not, and what is not raised any more.
fn follow(known: &mut Known, raised: impl Iterator<Item = Raised>) -> (Vec<Raised>, Vec<Raised>) {
    let mut now = Known::new();
    for raised in raised {
        now.entry((raised.alarm.name, raised.endpoint.clone(), raised.server.clone())).or_insert(raised);
    }
    let missing_in = |other: &Known, these: &Known| {
        these.iter().filter(|(key, _)| !other.contains_key(*key)).map(|(_, raised)| raised.clone()).collect()
    };
    let changes = (missing_in(known, &now), missing_in(&now, known));
    *known = now;
    changes
}

/// The time, microseconds since the epoch.
#[must_use]
pub fn now_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_compliance::alarms::{ARCHIVE_UNREACHABLE, QUEUE_HIGH_WATER};

    #[test]
    fn each_change_is_told_once() {
        let raised = |alarm, endpoint: &str, message: &str| Raised {
            alarm,
            endpoint: Some(endpoint.into()),
            server: None,
            message: message.into(),
            silenced: false,
        };
        let mut known = Known::new();
        let mut names = |raised: Vec<Raised>| {
            let (new, over) = follow(&mut known, raised.into_iter());
            let names = |raised: Vec<Raised>| -> Vec<(&str, String)> {
                raised.into_iter().map(|r| (r.alarm.name, r.endpoint.unwrap_or_default())).collect()
            };
            (names(new), names(over))
        };
        let lost = |endpoint: &str| ("ArchiveUnreachable", endpoint.to_owned());
        assert_eq!(names(vec![raised(ARCHIVE_UNREACHABLE, "a", "1")]), (vec![lost("a")], vec![]));
        let both = vec![raised(ARCHIVE_UNREACHABLE, "a", "2"), raised(ARCHIVE_UNREACHABLE, "b", "1")];
        assert_eq!(names(both), (vec![lost("b")], vec![]));
        let high = vec![raised(QUEUE_HIGH_WATER, "b", "1"), raised(QUEUE_HIGH_WATER, "b", "2")];
        assert_eq!(names(high), (vec![("QueueHighWater", "b".into())], vec![lost("a"), lost("b")]));
    }
}
