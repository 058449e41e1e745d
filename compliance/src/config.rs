//! What a sidecar is told to do: the one configuration the operator makes for an XMPPCluster.
//!
//! It is written as JSON, compressed, into a Secret (it holds passwords) and mounted into every pod of the cluster. A sidecar
//! takes it in whole or not at all. Unknown fields are refused: a sidecar older than its operator must say so, not half obey.

use crate::profile::Profile;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The format this crate reads and writes.
pub const FORMAT: u32 = 1;
/// The configuration Secret's only key: gzip of the JSON of [`SidecarConfig`].
pub const SECRET_KEY: &str = "config.json.gz";

/// Everything a sidecar needs to know, for every node of one XMPPCluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SidecarConfig {
    /// Always [`FORMAT`].
    pub format: u32,
    /// Which XMPPCluster this is of.
    pub cluster: ClusterRef,
    /// `metadata.generation` of the XMPPCluster it was made from.
    pub generation: i64,
    /// What is recorded and where.
    pub archiving: Archiving,
    /// The archive endpoints by name.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Limits of the journal.
    pub journal: JournalSettings,
    /// Limits of the event link.
    pub link: LinkSettings,
    /// When alarms are raised.
    #[serde(default)]
    pub alarms: AlarmSettings,
    /// Who is asked before a stanza goes on; nobody where absent.
    #[serde(default)]
    pub compliance: Compliance,
}

/// An XMPPCluster's name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct ClusterRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ClusterRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is recorded and where (MA-3, MA-6, MA-8).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Archiving {
    /// Record what is delivered to accounts and rooms here.
    pub inbound: bool,
    /// Record what is delivered to other servers (`Enable Outbound Message Logging`).
    pub outbound: bool,
    /// Refuse what cannot be recorded, instead of delivering it and raising an alarm.
    pub block_if_unable_to_record: bool,
    /// The endpoint of every node not named in `node_endpoints`; `None` when archiving is off.
    pub endpoint: Option<String>,
    /// Endpoints of single nodes, by pod name.
    pub node_endpoints: BTreeMap<String, String>,
}

impl Archiving {
    /// The endpoint records of `node` go to.
    #[must_use]
    pub fn endpoint_of(&self, node: &str) -> Option<&str> {
        self.node_endpoints.get(node).or(self.endpoint.as_ref()).map(String::as_str)
    }
}

/// An archive endpoint.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// What it is and how it is reached.
    pub target: EndpointTarget,
    /// How much may wait for it.
    pub queue: QueueLimit,
}

/// What an endpoint is and how it is reached.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields, tag = "type")]
pub enum EndpointTarget {
    /// A PostgreSQL database.
    #[serde(rename = "PostgreSQL")]
    PostgreSql(PostgreSql),
    /// A file beside the journal: trial, demo and small sites.
    #[serde(rename = "SQLite")]
    Sqlite,
}

/// How a PostgreSQL database is reached, as its writer role.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgreSql {
    /// Host name, address, or the folder of a Unix socket (starts with `/`).
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name.
    pub database: String,
    /// Role with the writer's rights only.
    pub username: String,
    /// Its password.
    pub password: String,
    /// How the connection is protected.
    pub tls: TlsMode,
    /// PEM of the authorities that may have signed the server's certificate; the system's when `None`.
    pub ca: Option<String>,
}

// Passwords are never printed, not even by a failing assertion or a trace line.
impl fmt::Debug for PostgreSql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgreSql")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("username", &self.username)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// How a database connection is protected.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub enum TlsMode {
    /// Not at all; only where it was asked for.
    Disable,
    /// Encrypted, certificate and name verified.
    #[default]
    VerifyFull,
}

/// How many records may wait for an endpoint (`Max Queue Size`, MA-7).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueueLimit {
    /// Records, on each node.
    pub max_records: u64,
    /// Bytes, on each node.
    pub max_bytes: u64,
}

impl Default for QueueLimit {
    fn default() -> Self {
        Self { max_records: 100_000, max_bytes: 1 << 30 }
    }
}

/// Limits of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JournalSettings {
    /// Bytes of all segments together.
    pub max_bytes: u64,
    /// How long confirmed segments stay, so that an archive restored from a backup can be refilled; seconds.
    pub keep_confirmed_seconds: u64,
    /// Whether the volume goes with the pod.
    pub ephemeral: bool,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { max_bytes: 2 << 30, keep_confirmed_seconds: 3600, ephemeral: false }
    }
}

/// Compliance servers, the profiles they hold, and what happens when they fail (CS-6, PR-6, FH-1 to FH-8).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compliance {
    /// The servers by name.
    pub servers: BTreeMap<String, ComplianceServer>,
    /// The profiles in the order in which they are asked: routing priority first (PR-6).
    pub profiles: Vec<Profile>,
    /// How long all servers together may take for one stanza, milliseconds.
    pub event_timeout_ms: u32,
    /// How long events queue for a server that failed before they go to others or are decided at once, milliseconds (FH-2, FH-3).
    pub drop_after_ms: u32,
    /// How often e_STATS is sent, seconds.
    pub stats_every_seconds: u32,
    /// Whether logins and logouts that a server missed are sent to it when it is back (FH-8).
    pub send_missed: bool,
    /// Limits for each server.
    pub limits: PendingLimit,
}

impl Default for Compliance {
    fn default() -> Self {
        Self {
            servers: BTreeMap::new(),
            profiles: Vec::new(),
            event_timeout_ms: 30_000,
            drop_after_ms: 300_000,
            stats_every_seconds: 300,
            send_missed: false,
            limits: PendingLimit::default(),
        }
    }
}

impl Compliance {
    fn check(&self) -> Result<(), ConfigError> {
        for profile in &self.profiles {
            if let Some(server) = profile.servers.iter().find(|server| !self.servers.contains_key(*server)) {
                return Err(ConfigError::UnknownServer(server.clone()));
            }
            let mut seen = BTreeSet::new();
            for rule in &profile.events {
                if crate::events::by_name(&rule.event).is_none() || !seen.insert(&rule.event) {
                    let (profile, event) = (profile.name.clone(), rule.event.clone());
                    return Err(ConfigError::BadEvent { profile, event });
                }
            }
        }
        Ok(())
    }
}

/// How much may wait for one compliance server on one node: queued or unanswered (P6).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PendingLimit {
    /// Events.
    pub max_events: u32,
    /// Bytes of their stanzas.
    pub max_bytes: u32,
}

impl Default for PendingLimit {
    fn default() -> Self {
        Self { max_events: 10_000, max_bytes: 32 << 20 }
    }
}

/// A compliance server: where it listens and how it is spoken to (CS-1, CS-5).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComplianceServer {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The secret of the handshake (XEP-0114).
    pub password: String,
    /// Namespace of the stream.
    pub stream: StreamNamespace,
    /// How the connection is protected; plain TCP where absent, which has to be asked for.
    pub tls: Option<ClientTls>,
    /// When nothing was heard for so long, a ping is sent; when that is not answered for as long again, the peer is dead. Seconds.
    pub keepalive_seconds: u32,
}

// Passwords and keys are never printed.
impl fmt::Debug for ComplianceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComplianceServer")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("stream", &self.stream)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Which of XEP-0114's two namespaces the stream has; the exchange is the same.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub enum StreamNamespace {
    /// `jabber:component:accept`.
    #[default]
    Accept,
    /// `jabber:component:connect`.
    Connect,
}

impl StreamNamespace {
    /// The namespace.
    #[must_use]
    pub fn uri(self) -> &'static str {
        match self {
            Self::Accept => "jabber:component:accept",
            Self::Connect => "jabber:component:connect",
        }
    }
}

/// TLS from the first byte, certificate and name of the server verified.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientTls {
    /// PEM of the authorities that may have signed the server's certificate; the system's where absent.
    pub ca: Option<String>,
    /// The name its certificate must have; the host where absent.
    pub server_name: Option<String>,
    /// PEM of our own certificate chain and its key, where the server wants to see one.
    pub identity: Option<Identity>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("ca", &self.ca.is_some())
            .field("server_name", &self.server_name)
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// A client certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// PEM of the chain.
    pub certificate: String,
    /// PEM of the key.
    pub key: String,
}

/// Limits of the event link.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LinkSettings {
    /// How long the plugin waits for an answer, milliseconds.
    pub answer_timeout_ms: u32,
    /// How many events may wait at once.
    pub max_waiting: u32,
    /// What happens to what gets no answer, where that is chosen; else it follows from what is recorded and asked (FH-7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<WhenUnanswered>,
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self { answer_timeout_ms: 30_000, max_waiting: 10_000, unanswered: None }
    }
}

/// What happens to what the sidecar does not answer (FH-7).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum WhenUnanswered {
    /// It is refused.
    Refuse,
    /// It goes on and is counted.
    Deliver,
}

/// When alarms are raised (MA-10).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AlarmSettings {
    /// How full a queue or the journal may be, percent of its limit.
    pub high_water_percent: u32,
    /// How long a record may wait for its archive, seconds.
    pub waiting_too_long_seconds: u32,
    /// What is not told (CS-8).
    #[serde(default)]
    pub silenced: Vec<Silence>,
}

impl Default for AlarmSettings {
    fn default() -> Self {
        Self { high_water_percent: 80, waiting_too_long_seconds: 900, silenced: Vec::new() }
    }
}

impl AlarmSettings {
    /// Whether this alarm is told on this node: it stays in lists, marked, and gives no condition, Event or metric.
    #[must_use]
    pub fn is_silenced(&self, alarm: &str, node: &str) -> bool {
        let here =
            |silence: &Silence| silence.nodes.is_empty() || silence.nodes.iter().any(|name| name == node);
        self.silenced.iter().any(|silence| silence.alarm == alarm && here(silence))
    }
}

/// An alarm that is not told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Silence {
    /// Its name.
    pub alarm: String,
    /// On these nodes; everywhere where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not JSON of this shape. The text holds no value of the configuration.
    #[error("the configuration cannot be read: {0}")]
    Malformed(String),
    /// It is of another format.
    #[error(
        "the configuration has format {found}, this version reads format {FORMAT}: use operator and sidecar of one version"
    )]
    Format {
        /// What it says.
        found: u32,
    },
    /// It names an endpoint that it does not hold.
    #[error("the configuration sends records to the endpoint {0}, which it does not describe")]
    UnknownEndpoint(String),
    /// A profile names a compliance server that it does not hold.
    #[error("the configuration asks the compliance server {0}, which it does not describe")]
    UnknownServer(String),
    /// A profile names an event that is none, or one twice.
    #[error(
        "the profile {profile} names the event {event}, which is none or is there twice: use operator and sidecar of one version"
    )]
    BadEvent {
        /// The profile.
        profile: String,
        /// The event.
        event: String,
    },
}

impl From<serde_json::Error> for ConfigError {
    fn from(error: serde_json::Error) -> Self {
        let (text, place) = (error.to_string(), format!("line {}, column {}", error.line(), error.column()));
        // Other messages quote the value that was found, which may be a password (P8).
        let quotes_names_only = ["unknown field", "missing field", "duplicate field"];
        if quotes_names_only.iter().any(|start| text.starts_with(start)) {
            return Self::Malformed(text);
        }
        Self::Malformed(match error.classify() {
            serde_json::error::Category::Data => format!("a value at {place} is not of its field's type"),
            _ => format!("it is not JSON, from {place} on"),
        })
    }
}

impl SidecarConfig {
    /// Reads and checks a configuration from its JSON.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        // The format first: fields of a newer one must not be reported as typing mistakes.
        let FormatOnly { format } = serde_json::from_slice(json)?;
        if format != FORMAT {
            return Err(ConfigError::Format { found: format });
        }
        let config: Self = serde_json::from_slice(json)?;
        let named = config.archiving.endpoint.iter().chain(config.archiving.node_endpoints.values());
        match named.into_iter().find(|name| !config.endpoints.contains_key(*name)) {
            Some(name) => Err(ConfigError::UnknownEndpoint(name.clone())),
            None => config.compliance.check().map(|()| config),
        }
    }

    /// The JSON that [`Self::parse`] reads.
    pub fn to_json(&self) -> Result<Vec<u8>, ConfigError> {
        Ok(serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> serde_json::Value {
        serde_json::json!({
            "format": 1, "cluster": {"namespace": "chat", "name": "main"}, "generation": 3,
            "archiving": {"inbound": true, "outbound": true, "blockIfUnableToRecord": true, "endpoint": "pg", "nodeEndpoints": {}},
            "endpoints": {"pg": {
                "target": {
                    "type": "PostgreSQL", "host": "db", "port": 5432, "database": "archive", "username": "writer",
                    "password": "secret", "tls": "VerifyFull", "ca": null
                },
                "queue": {"maxRecords": 10, "maxBytes": 1000},
            }},
            "journal": {"maxBytes": 1000, "keepConfirmedSeconds": 1, "ephemeral": false},
            "link": {"answerTimeoutMs": 1, "maxWaiting": 1},
        })
    }

    fn parse(json: &serde_json::Value) -> Result<SidecarConfig, ConfigError> {
        SidecarConfig::parse(json.to_string().as_bytes())
    }

    #[test]
    fn a_configuration_is_written_and_read_the_same() {
        let config = parse(&example()).expect("good");
        assert_eq!(SidecarConfig::parse(&config.to_json().expect("JSON")).expect("good"), config);
        assert_eq!(config.archiving.endpoint_of("any"), Some("pg"));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_value_is_quoted() {
        let table: [(&str, &str, serde_json::Value, &str); 6] = [
            ("", "format", 2.into(), "format 2"),
            ("", "extra", 1.into(), "unknown field `extra`"),
            ("/endpoints/pg/target", "password", 271_828.into(), "not of its field's type"),
            ("/endpoints/pg/target", "port", "271828".into(), "not of its field's type"),
            ("/endpoints/pg/target", "type", "271828".into(), "not of its field's type"),
            ("/archiving", "endpoint", "elsewhere".into(), "the endpoint elsewhere"),
        ];
        for (place, field, value, expected) in table {
            let mut json = example();
            json.pointer_mut(place).expect("there")[field] = value;
            let error = parse(&json).expect_err(field).to_string();
            assert!(error.contains(expected) && !error.contains("271828"), "{field}: {error}");
        }
        let error = SidecarConfig::parse(b"{\"format\":1,").expect_err("cut off").to_string();
        assert!(error.contains("it is not JSON"), "{error}");
    }

    #[test]
    fn a_password_is_never_printed() {
        assert!(!format!("{:?}", parse(&example()).expect("good")).contains("secret"));
    }
}
