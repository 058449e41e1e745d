//! Leader election by a Lease in the operator's namespace: of several operators one reconciles, all of them admit pods (KO-4).
//!
//! Invariants:
//! - **Fencing by time.** A leader's claim is good for [`Timing::renew_deadline`] from *before* the renewal that was answered was
//!   sent. Another takes over only after it has seen the Lease unchanged for [`Timing::duration`], which is longer. Nobody's wall
//!   clock is compared with anybody else's.
//! - **No write without a claim.** The leader works with a client that asks [`Fence`] before each request that changes
//!   something. A process that was frozen, and wakes when another leads, is stopped there, before any timer of its own has run.
//! - A Lease is only ever replaced at the version that was read, so that of two who want it one gets it.
//!
//! What it does not do: stop a request that is under way. The time between the two deadlines is for those to arrive.

use crate::metrics::Metrics;
use crate::options::Options;
use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The Lease.
pub const LEASE: &str = "cartulary-operator";

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long others wait for a leader that says nothing; whole seconds.
    pub duration: Duration,
}

impl Timing {
    /// How long a claim is good.
    #[must_use]
    pub fn renew_deadline(self) -> Duration {
        self.duration * 2 / 3
    }

    /// The time between two attempts.
    #[must_use]
    pub fn retry(self) -> Duration {
        self.duration / 6
    }
}

/// Whether this process may write, at this moment.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// Whether the claim is good now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.until().is_some_and(|until| Instant::now() < until)
    }

    fn until(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// A client that reads as `client` does, and writes only while the claim is good.
    #[must_use]
    pub fn client(&self, client: Client) -> Client {
        let fence = self.clone();
        let namespace = client.default_namespace().to_owned();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (client, fence) = (client.clone(), fence.clone());
            async move {
                let reads = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
                if !reads && !fence.is_open() {
                    return Err(kube::Error::Service(Box::new(Fenced)));
                }
                client.send(request).await
            }
        });
        Client::new(service, namespace)
    }
}

/// Why a write was not sent.
#[derive(Debug)]
pub struct Fenced;

impl std::fmt::Display for Fenced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this operator does not lead any more: nothing is written")
    }
}

impl std::error::Error for Fenced {}

/// Campaigns for the Lease, keeps it, loses it, and campaigns again, until the future is dropped. `leading` tells of each change.
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    timing: Timing,
    election: bool,
    fence: Fence,
    leading: watch::Sender<bool>,
    metrics: Arc<Metrics>,
    seen: Option<Seen>,
}

/// The Lease as it was first seen at this version.
struct Seen {
    version: Option<String>,
    at: Instant,
}

impl Candidate {
    /// Somebody who does not lead yet.
    pub fn new(
        client: Client,
        options: &Options,
        fence: Fence,
        leading: watch::Sender<bool>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        // New with each process: one that was started in the place of another has no claim to its Lease.
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).context("the system gives no random numbers")?;
        let pod = std::env::var("POD_NAME").unwrap_or_else(|_| "cartulary-operator".to_owned());
        Ok(Self {
            api: Api::namespaced(client, &options.namespace),
            identity: format!("{pod}_{:016x}", u64::from_be_bytes(random)),
            timing: Timing { duration: Duration::from_secs(options.lease_seconds) },
            election: options.leader_election,
            fence,
            leading,
            metrics,
            seen: None,
        })
    }

    /// Under which name it holds the Lease.
    #[must_use]
    pub fn identity(&self) -> String {
        self.identity.clone()
    }

    /// Never returns.
    pub async fn run(mut self) {
        if !self.election {
            // Longer than any process lives.
            self.say(Some(Instant::now() + Duration::from_secs(100 * 365 * 24 * 3600)));
            return std::future::pending().await;
        }
        let mut held = None;
        loop {
            let begin = Instant::now();
            // An answer that comes after the claim has ended is worth nothing.
            let patience = self.fence.until().map_or(self.timing.renew_deadline(), |until| until - begin);
            let result = tokio::time::timeout(patience, self.attempt(held.take())).await;
            match result.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time"))) {
                Ok(lease) => {
                    let until = lease.is_some().then(|| begin + self.timing.renew_deadline());
                    let until = until.filter(|until| Instant::now() < *until);
                    held = lease;
                    self.say(until);
                }
                Err(error) => {
                    tracing::warn!("the Lease {LEASE}: {error:#}; trying again");
                    if !self.fence.is_open() {
                        self.say(None);
                    }
                }
            }
            let pause = self.timing.retry();
            let until =
                self.fence.until().map_or(pause, |until| until.saturating_duration_since(Instant::now()));
            tokio::time::sleep(pause.min(until)).await;
        }
    }

    /// One look at the Lease: what we hold now, if we do.
    async fn attempt(&mut self, held: Option<Lease>) -> anyhow::Result<Option<Lease>> {
        let lease = match held {
            Some(lease) => Some(lease),
            None => self.api.get_opt(LEASE).await?,
        };
        let Some(lease) = lease else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
                spec: Some(self.spec(None)),
            };
            return taken(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder != self.identity && !holder.is_empty() && !self.is_stale(&lease, &spec) {
            return Ok(None);
        }
        let lease = Lease { spec: Some(self.spec(Some(&spec))), ..lease };
        taken(self.api.replace(LEASE, &PostParams::default(), &lease).await)
    }

    /// Whether nobody has renewed it for as long as its holder said.
    fn is_stale(&mut self, lease: &Lease, spec: &LeaseSpec) -> bool {
        let version = &lease.metadata.resource_version;
        if self.seen.as_ref().is_none_or(|seen| seen.version != *version) {
            self.seen = Some(Seen { version: version.clone(), at: Instant::now() });
        }
        let said = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        let duration = Duration::from_secs(said).max(self.timing.duration);
        self.seen.as_ref().is_some_and(|seen| seen.at.elapsed() >= duration)
    }

    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let ours = old.filter(|old| old.holder_identity.as_deref() == Some(&*self.identity));
        let before = old.and_then(|old| old.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: ours.map_or(now.clone(), |ours| ours.acquire_time.clone()),
            renew_time: now,
            lease_transitions: Some(if ours.is_some() { before } else { before.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    fn say(&self, until: Option<Instant>) {
        self.fence.set(until);
        let leads = until.is_some();
        self.metrics.leader.set(i64::from(leads));
        self.leading.send_if_modified(|led| {
            if *led != leads {
                tracing::info!(identity = self.identity, leads, "the lead has changed");
            }
            std::mem::replace(led, leads) != leads
        });
    }
}

/// Who lost a race is told by the next look who has won it.
fn taken(result: Result<Lease, kube::Error>) -> anyhow::Result<Option<Lease>> {
    match result {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives the Lease back at an orderly end, so that nobody has to wait. Whatever writes must have ended before.
pub async fn release(client: Client, namespace: &str, identity: &str, fence: &Fence) -> anyhow::Result<()> {
    if !fence.is_open() {
        return Ok(());
    }
    fence.set(None);
    let api = Api::<Lease>::namespaced(client, namespace);
    let mut lease = api.get(LEASE).await?;
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(identity) {
        return Ok(());
    }
    spec.holder_identity = Some(String::new());
    api.replace(LEASE, &PostParams::default(), &lease).await?;
    tracing::info!(identity, "gave the lead back");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn ko_4_who_does_not_lead_reads_and_does_not_write() {
        let sent = Arc::new(AtomicU32::new(0));
        let counted = sent.clone();
        let server = tower::service_fn(move |_: http::Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(b"{}".to_vec()))) }
        });
        let fence = Fence::default();
        let client = fence.client(Client::new(server, "default"));
        let send = async |method| {
            let request = http::Request::builder().method(method).uri("/").body(Body::empty());
            client.send(request.expect("a request")).await.is_ok()
        };
        let writes = [http::Method::POST, http::Method::PUT, http::Method::PATCH, http::Method::DELETE];
        for method in &writes {
            assert!(!send(method).await, "{method}");
        }
        assert_eq!(sent.load(Ordering::Relaxed), 0, "nothing has left the process");
        assert!(send(&http::Method::GET).await);

        fence.set(Some(Instant::now() + Duration::from_secs(60)));
        for method in &writes {
            assert!(send(method).await, "{method}");
        }
        fence.set(Some(Instant::now()));
        assert!(!send(&http::Method::PATCH).await, "a claim that has ended is none");
    }

    #[test]
    fn a_claim_ends_before_another_can_begin() {
        for seconds in [3, 15, 60] {
            let timing = Timing { duration: Duration::from_secs(seconds) };
            assert!(timing.renew_deadline() + timing.retry() < timing.duration);
            assert!(timing.retry() * 3 < timing.renew_deadline());
        }
    }
}
