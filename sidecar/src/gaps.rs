//! Messages that were delivered without the record they should have: noted at once, told once a second, put on record as soon as
//! the journal works again (P7).
//!
//! What has not reached the journal is kept beside it meanwhile ([`crate::kept`]), as far as the disk takes that. Rather twice than
//! never: a sidecar that dies between the record and the note that it is there says the same number again.

use crate::recorder::Recorder;
use cartulary_archive::record::{Body, Draft, Gap, GapReason};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often it is tried again, and told at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// Messages of one endpoint that are missing for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// Whose stream they are missing from; `None`: there was no configuration to say which.
    pub endpoint: Option<String>,
    /// Why.
    pub reason: GapReason,
    /// How many.
    pub count: u64,
}

/// What is missing and not yet on record.
#[derive(Debug, Default)]
pub struct Gaps {
    missing: Mutex<Vec<Missing>>,
    noted: Notify,
    /// One at a time writes, so that nothing is written twice.
    writing: tokio::sync::Mutex<()>,
}

impl Gaps {
    /// Notes that `count` messages which belong to `endpoint` have no record.
    pub fn note(&self, endpoint: Option<&str>, reason: GapReason, count: u64) {
        if count == 0 {
            return;
        }
        let mut missing = self.missing();
        // As many entries as endpoints and reasons: a handful.
        match missing.iter_mut().find(|m| m.endpoint.as_deref() == endpoint && m.reason == reason) {
            Some(known) => known.count = known.count.saturating_add(count),
            None => missing.push(Missing { endpoint: endpoint.map(str::to_owned), reason, count }),
        }
        self.noted.notify_one();
    }

    /// How many messages are missing and not yet on record.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.missing().iter().map(|missing| missing.count).fold(0, u64::saturating_add)
    }

    /// What is missing and not yet on record.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Missing> {
        self.missing().clone()
    }

    /// Writes what is noted into the streams it belongs to; what cannot be written stays noted, and is kept on disk.
    pub async fn write(&self, recorder: &Recorder) {
        let _writing = self.writing.lock().await;
        for Missing { endpoint, reason, count } in self.snapshot() {
            let Some(target) = endpoint.clone().or_else(|| recorder.endpoint()) else { continue };
            let gap = Gap { first: None, count, reason, incarnation: None };
            let draft = Draft { body: Body::Gap(gap), payloads: Vec::new() };
            match recorder.append(&target, draft).await {
                Ok(_) => {
                    self.written(endpoint.as_deref(), reason, count);
                    tracing::warn!(
                        endpoint = target,
                        count,
                        reason = reason.word(),
                        "messages without a record are on record as a gap"
                    );
                }
                Err(error) => tracing::error!(
                    endpoint = target,
                    count,
                    reason = reason.word(),
                    %error,
                    "messages were delivered without a record, and not even their number can be recorded yet"
                ),
            }
        }
        recorder.keep().await;
        if self.pending() > 0 {
            self.noted.notify_one();
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

    fn written(&self, endpoint: Option<&str>, reason: GapReason, count: u64) {
        let mut missing = self.missing();
        if let Some(known) =
            missing.iter_mut().find(|m| m.endpoint.as_deref() == endpoint && m.reason == reason)
        {
            known.count = known.count.saturating_sub(count);
        }
        missing.retain(|missing| missing.count > 0);
    }

    fn missing(&self) -> MutexGuard<'_, Vec<Missing>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
