//! What became of an event, put on record. Nobody waits for it.
//!
//! An outcome goes into the stream of its accepted record and names the same copies. That of an event this process does not know
//! (the sidecar was restarted meanwhile, or a message waited long in offline storage) is recorded too, in the node's current stream, and counted.

use crate::recorder::{Pending, Recorder};
use cartulary_archive::record::{Body, Draft, Outcome as Record};
use cartulary_compliance::link::Outcome;
use uuid::Uuid;

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
