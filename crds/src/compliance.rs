//! `XMPPCluster.spec.compliance`: which ComplianceServers are asked, and what happens when they fail.

use crate::{ByteSize, TimeSpan};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

// CS-6, FH-1 to FH-8
/// Which compliance servers are asked before anything goes on, and what happens when they fail.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compliance {
    /// Whether the servers are asked at all. Default true. Turning it off keeps all settings.
    #[serde(default = "yes")]
    pub enabled: bool,

    /// The servers, each with the profile it holds. Default none; at most 64. Servers with one profile share its events. A server may be
    /// there several times, with several profiles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["server", "profile"]))]
    pub servers: Vec<AssignedServer>,

    /// How long all servers together may take for one stanza; then it is undecided, and the handling of the event says what happens.
    /// Default 30s; from 100ms to 5m.
    #[serde(default = "default_event_timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('5m')")
        .message("eventTimeout must be between 100ms and 5m"))]
    pub event_timeout: TimeSpan,

    /// How long events wait for a server that was lost ungracefully, before the other servers with its profile get its share, or
    /// events are decided at once. Default 5m; from 0s to 24h.
    #[serde(default = "default_drop_after")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('24h')").message("dropAfter must be 24h at most"))]
    pub drop_after: TimeSpan,

    /// How often statistics (e_STATS) are sent. Default 5m; from 1s to 24h.
    #[serde(default = "default_stats_every")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("statsEvery must be between 1s and 24h"))]
    pub stats_every: TimeSpan,

    /// Send logins and logouts that a server missed when it is back. Default false. They are on record either way.
    #[serde(default)]
    pub send_missed: bool,

    /// How much may wait for each server on each node, queued or unanswered. What does not fit is undecided at once.
    #[serde(default)]
    pub limits: PendingLimits,
}

impl Default for Compliance {
    fn default() -> Self {
        Self {
            enabled: true,
            servers: Vec::new(),
            event_timeout: default_event_timeout(),
            drop_after: default_drop_after(),
            stats_every: default_stats_every(),
            send_missed: false,
            limits: PendingLimits::default(),
        }
    }
}

/// A compliance server and the profile it holds.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedServer {
    /// Name of the ComplianceServer in the same namespace. Required.
    #[schemars(length(min = 1, max = 253))]
    pub server: String,

    /// Name or displayName of the Profile in the same namespace. Required. `SystemDefaultComplianceProfile` is always there.
    #[schemars(length(min = 1, max = 253))]
    pub profile: String,

    /// Only on these pods, for example `prosody-0`. Default: on all, which keeps conversations whole. All servers with one profile must
    /// have the same pods here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub nodes: Vec<String>,
}

// P6
/// How much may wait for one server on one node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingLimits {
    /// Events. Default 10000; at most 1000000.
    #[serde(default = "default_max_events")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_events: i64,

    /// Bytes of their stanzas, for example `16Mi`. Default 32Mi; less than 4Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!isQuantity(self) || quantity(self).compareTo(quantity('4Gi')) < 0")
        .message("maxBytes must be less than 4Gi"))]
    pub max_bytes: Option<ByteSize>,
}

impl Default for PendingLimits {
    fn default() -> Self {
        Self { max_events: default_max_events(), max_bytes: None }
    }
}

fn yes() -> bool {
    true
}

fn default_event_timeout() -> TimeSpan {
    "30s".into()
}

fn default_drop_after() -> TimeSpan {
    "5m".into()
}

fn default_stats_every() -> TimeSpan {
    "5m".into()
}

fn default_max_events() -> i64 {
    10_000
}
