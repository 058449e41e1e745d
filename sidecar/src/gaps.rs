//! Messages that were delivered without the record they should have: noted at once, told once a second, put on record as soon as
//! the journal works again (P7).
//!
//! What has not reached the journal lives in memory alone: a sidecar that dies before that leaves only its log lines, which is
//! why every second with a loss has one.

use crate::recorder::Recorder;
use cartulary_archive::record::{Body, Draft, Gap, GapReason};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often it is tried again, and told at most.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Missing {
    /// `None`: there was no configuration to say which.
    endpoint: Option<String>,
    reason: GapReason,
    count: u64,
}

/// What is missing and not yet on record.
#[derive(Debug, Default)]
pub struct Gaps {
    missing: Mutex<Vec<Missing>>,
    noted: Notify,
}

impl Gaps {
    /// Notes that `count` messages which belong to `endpoint` have no record.
    pub fn note(&self, endpoint: Option<&str>, reason: GapReason, count: u64) {
        if count == 0 {
            return;
        }
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        // As many entries as endpoints and reasons: a handful.
        match missing.iter_mut().find(|m| m.endpoint.as_deref() == endpoint && m.reason == reason) {
            Some(known) => known.count += count,
            None => missing.push(Missing { endpoint: endpoint.map(str::to_owned), reason, count }),
        }
        self.noted.notify_one();
    }

    /// How many messages are missing and not yet on record.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|missing| missing.count).sum()
    }

    /// Writes what is noted into the streams it belongs to; what cannot be written stays noted.
    pub async fn write(&self, recorder: &Recorder) {
        let all = std::mem::take(&mut *self.missing.lock().unwrap_or_else(PoisonError::into_inner));
        for Missing { endpoint, reason, count } in all {
            let Some(target) = endpoint.clone().or_else(|| recorder.endpoint()) else {
                self.note(endpoint.as_deref(), reason, count);
                continue;
            };
            let gap = Gap { first: None, count, reason, incarnation: None };
            let draft = Draft { body: Body::Gap(gap), payloads: Vec::new() };
            match recorder.append(&target, draft).await {
                Ok(_) => tracing::warn!(
                    endpoint = target,
                    count,
                    reason = reason.word(),
                    "messages without a record are on record as a gap"
                ),
                Err(error) => {
                    tracing::error!(
                        endpoint = target,
                        count,
                        reason = reason.word(),
                        %error,
                        "messages were delivered without a record, and not even their number can be recorded yet"
                    );
                    self.note(endpoint.as_deref(), reason, count);
                }
            }
        }
    }

    /// Writes whatever is noted, until `stop`; then once more.
    pub async fn run(&self, recorder: &Recorder, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.noted.notified() => {}
                () = stop.cancelled() => break,
            }
            self.write(recorder).await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stop.cancelled() => break,
            }
        }
        self.write(recorder).await;
    }
}
