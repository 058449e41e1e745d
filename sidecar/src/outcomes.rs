//! What became of an event, put on record. Nobody waits for it.
//!
//! When the server's process ends, nobody will tell any more what became of the events it had open: each gets a last outcome that
//! says so of its addressee, for all copies that no outcome before it names.
//!
//! An outcome goes into the stream of its accepted record and names the same copies. That of an event this process does not know
//! (the sidecar was restarted meanwhile, or a message waited long in offline storage) is recorded too, in the node's current stream, and counted.

use crate::recorder::{Pending, Recorder};
use cartulary_archive::record::{Body, Draft, Outcome as Record};
use cartulary_compliance::link::{Delivery, DeliveryResult, Outcome};
use futures::future::join_all;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Why an outcome is unknown whose server process has ended.
pub const SERVER_ENDED: &str = "the server ended";
/// Outcomes of ended processes that are appended before their syncs are waited for.
const AT_ONCE: usize = 1000;

/// Gives an outcome its place in the order; `None` when there is nothing to record.
pub fn begin(recorder: &Recorder, outcome: Outcome) -> Option<Pending> {
    let id = Uuid::from_bytes(outcome.event_id);
    let mut deliveries = outcome.deliveries;
    let known = recorder.open_events().outcome(id, outcome.is_final);
    let endpoint = if let Some(open) = known {
        let hosts = recorder.hosts();
        deliveries.retain(|delivery| {
            open.scope.recorded(&delivery.bare, |domain| hosts.contains(domain)).is_some()
        });
        open.endpoint.to_string()
    } else {
        recorder.counts.add(|counts| counts.outcomes_unmatched += 1);
        tracing::debug!(event = %id, "an outcome of an event that this process does not know");
        let Some(endpoint) = recorder.endpoint() else {
            recorder.counts.add(|counts| counts.outcomes_lost += 1);
            return None;
        };
        endpoint
    };
    if deliveries.is_empty() && !outcome.is_final {
        return None;
    }
    let record = Record {
        event: id,
        seen_at_nanos: outcome.at_micros.saturating_mul(1000),
        deliveries,
        is_final: outcome.is_final,
    };
    Some(recorder.append(&endpoint, Draft { body: Body::Outcome(record), payloads: Vec::new() }))
}

/// Waits for the record and counts.
pub async fn finish(recorder: &Recorder, pending: Pending) {
    match pending.await {
        Ok(_) => recorder.counts.add(|counts| counts.outcomes += 1),
        Err(error) => {
            recorder.note_failure(&error);
            recorder.counts.add(|counts| counts.outcomes_lost += 1);
            tracing::error!(%error, "an outcome could not be recorded");
        }
    }
}

/// Puts on record that nobody will tell what became of the events that other processes than `instance` had open.
pub async fn end_others(recorder: &Recorder, instance: &str) {
    let ended = recorder.open_events().end_others(instance);
    if ended.is_empty() {
        return;
    }
    tracing::warn!(events = ended.len(), "the server ended before it told what became of these messages");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_nanos = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
    for some in ended.chunks(AT_ONCE) {
        let pending = some.iter().map(|(id, open)| {
            let unknown = Delivery {
                bare: open.addressee.clone(),
                occupant: None,
                resources: Vec::new(),
                result: DeliveryResult::Unknown,
                reason: Some(SERVER_ENDED.to_owned()),
            };
            let record =
                Record { event: *id, seen_at_nanos: now_nanos, deliveries: vec![unknown], is_final: true };
            let draft = Draft { body: Body::Outcome(record), payloads: Vec::new() };
            finish(recorder, recorder.append(&open.endpoint, draft))
        });
        join_all(pending).await;
    }
}
