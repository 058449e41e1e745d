//! The operator's own metrics (Prometheus). They hold no names of users, no text, no secrets (P8).

use cartulary_compliance::names::metric;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::Mutex;

/// Labels of [`Metrics::reconciles`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reconcile {
    /// `XMPPCluster`, `ArchiveEndpoint`, `ComplianceServer` or `Profile`.
    pub kind: &'static str,
    /// `ok` or `error`.
    pub result: &'static str,
}

/// Labels of [`Metrics::admissions`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Admission {
    /// Empty where the object was admitted, else out of [`crate::reasons::refusal`].
    pub refused: &'static str,
}

/// Labels of [`Metrics::alarms`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub struct Alarm {
    /// Out of [`cartulary_compliance::alarms`].
    pub alarm: &'static str,
    /// Of the XMPPCluster.
    pub namespace: String,
    /// The XMPPCluster.
    pub cluster: String,
    /// The pod; empty where it is about none.
    pub node: String,
    /// The ArchiveEndpoint; empty where it is about none.
    pub endpoint: String,
    /// The ComplianceServer; empty where it is about none.
    pub server: String,
}

/// Everything the operator counts.
#[derive(Debug)]
pub struct Metrics {
    /// Reconciliations, by kind and result.
    pub reconciles: Family<Reconcile, Counter>,
    /// Writes of a status, by kind: none while nothing changes.
    pub status_writes: Counter,
    /// Admission requests, by reason of refusal.
    pub admissions: Family<Admission, Counter>,
    /// When the webhooks' certificate expires, seconds since 1970.
    pub certificate_expires: Gauge,
    /// 1 while this replica leads.
    pub leader: Gauge,
    /// 1 for each alarm that is raised, for as long as this replica leads.
    pub alarms: Family<Alarm, Gauge>,
    registry: Mutex<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let reconciles = Family::<Reconcile, Counter>::default();
        let status_writes = Counter::default();
        let admissions = Family::<Admission, Counter>::default();
        let certificate_expires: Gauge = Gauge::default();
        let leader: Gauge = Gauge::default();
        let alarms = Family::<Alarm, Gauge>::default();
        let mut all = Registry::default();
        // Sidecars have it under the same name, so that one rule is for both.
        all.register(metric::ALARM, "1 while an alarm is raised", alarms.clone());
        let registry = all.sub_registry_with_prefix("cartulary_operator");
        registry.register("leader", "1 while this replica leads", leader.clone());
        registry.register("reconciles", "Reconciliations", reconciles.clone());
        registry.register("status_writes", "Writes of a status", status_writes.clone());
        registry.register("admissions", "Admission requests", admissions.clone());
        registry.register(
            "webhook_certificate_expires_seconds",
            "When the webhooks' certificate expires, seconds since 1970",
            certificate_expires.clone(),
        );
        Self {
            reconciles,
            status_writes,
            admissions,
            certificate_expires,
            leader,
            alarms,
            registry: Mutex::new(all),
        }
    }
}

impl Metrics {
    /// The text a scraper reads.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        encode(&mut text, &registry)?;
        Ok(text)
    }
}
