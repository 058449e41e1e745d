//! What the operator is started with. Every option is also an environment variable, which is what the chart sets.

use crate::webhook::certificate::Lives;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Reconciles XMPPClusters and ArchiveEndpoints, and puts the sidecar into the pods of XMPP servers.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "cartulary-operator", version)]
pub struct Options {
    /// Image of the sidecar: the operator's own.
    #[arg(long, env = "CARTULARY_SIDECAR_IMAGE")]
    pub sidecar_image: String,

    /// When the sidecar's image is pulled: Always, IfNotPresent, Never.
    #[arg(long, env = "CARTULARY_SIDECAR_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub sidecar_image_pull_policy: String,

    /// The operator's own namespace, where its certificates are kept.
    #[arg(long, env = "CARTULARY_NAMESPACE")]
    pub namespace: String,

    /// Namespaces to look after, separated by commas; all of them if none is given.
    #[arg(long, env = "CARTULARY_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,

    /// Whether only the one of several operators that holds the Lease `cartulary-operator` reconciles.
    #[arg(long, env = "CARTULARY_LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,

    /// Seconds for which the others wait before they take over from a leader that says nothing.
    #[arg(long, env = "CARTULARY_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=300))]
    pub lease_seconds: u64,

    /// Where the webhooks are served, with TLS.
    #[arg(long, env = "CARTULARY_WEBHOOK_ADDRESS", default_value = "0.0.0.0:8443")]
    pub webhook_address: SocketAddr,

    /// The Service in front of the webhooks.
    #[arg(long, env = "CARTULARY_WEBHOOK_SERVICE", default_value = "cartulary-webhook")]
    pub webhook_service: String,

    /// Name of the MutatingWebhookConfiguration and the ValidatingWebhookConfiguration that call them.
    #[arg(long, env = "CARTULARY_WEBHOOK_CONFIGURATION", default_value = "cartulary")]
    pub webhook_configuration: String,

    /// Further host names or addresses the webhooks are called by.
    #[arg(long, env = "CARTULARY_WEBHOOK_HOSTS", value_delimiter = ',')]
    pub webhook_hosts: Vec<String>,

    /// A folder with the webhooks' certificate (`tls.crt`, `tls.key`), which something else renews and makes the API server trust,
    /// such as cert-manager. Without it the operator does both itself.
    #[arg(long, env = "CARTULARY_WEBHOOK_CERTIFICATE_FOLDER")]
    pub webhook_certificate_folder: Option<PathBuf>,

    /// Seconds that a certificate of the webhooks lives.
    #[arg(long, hide = true, default_value_t = 90 * 86_400, value_parser = clap::value_parser!(u64).range(12..))]
    pub webhook_certificate_seconds: u64,

    /// Seconds that the authority of the webhooks' certificates lives.
    #[arg(long, hide = true, default_value_t = 5 * 365 * 86_400, value_parser = clap::value_parser!(u64).range(24..))]
    pub webhook_authority_seconds: u64,

    /// Where health, readiness and metrics are served, without TLS.
    #[arg(long, env = "CARTULARY_HEALTH_ADDRESS", default_value = "0.0.0.0:8080")]
    pub health_address: SocketAddr,

    /// Port of the sidecars' status.
    #[arg(long, hide = true, default_value_t = cartulary_compliance::names::ADMIN_PORT)]
    pub status_port: u16,

    /// Seconds for which a pod may be gone before a Job drains its journal.
    #[arg(long, hide = true, default_value_t = 60)]
    pub drain_grace_seconds: u64,

    /// Seconds between two looks at the sidecars.
    #[arg(long, env = "CARTULARY_POLL_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub poll_seconds: u64,
}

impl Options {
    /// The time between two looks at the sidecars.
    #[must_use]
    pub fn poll_interval(&self) -> Duration {
        Duration::from_secs(self.poll_seconds)
    }

    /// The parts of Kubernetes to look after: `None` is all of it.
    #[must_use]
    pub fn scopes(&self) -> Vec<Option<String>> {
        let mut named: Vec<_> = self
            .watch_namespaces
            .iter()
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        named.sort();
        named.dedup();
        if named.is_empty() { vec![None] } else { named.into_iter().map(Some).collect() }
    }

    /// How long the webhooks' certificate and its authority live.
    #[must_use]
    pub fn lives(&self) -> Lives {
        Lives {
            authority: Duration::from_secs(self.webhook_authority_seconds),
            certificate: Duration::from_secs(self.webhook_certificate_seconds),
        }
    }

    /// Every name the webhooks are called by.
    #[must_use]
    pub fn webhook_names(&self) -> Vec<String> {
        let service = format!("{}.{}.svc", self.webhook_service, self.namespace);
        let mut names = vec![format!("{service}.cluster.local"), service];
        names.extend(
            self.webhook_hosts.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()),
        );
        names
    }
}
