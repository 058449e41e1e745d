//! The names others depend on: labels, condition types, reasons of conditions and events, and metrics. Each is documented
//! once, here, and never changes its meaning. Reasons that only the operator gives are its own (`operator/src/reasons.rs`).

/// Labels.
pub mod label {
    /// On a pod: put it under compliance of the XMPPCluster with this name in its namespace.
    pub const CLUSTER: &str = "cartulary.dev/cluster";
    /// On what the operator keeps for an XMPPCluster outside its namespace: that namespace.
    pub const NAMESPACE: &str = "cartulary.dev/namespace";
    /// On a ConfigMap: it holds anchors; the value is the journal's id.
    pub const ANCHORS: &str = "cartulary.dev/anchors";
    /// On a Job and its pod: it drains the journal of a pod that is gone; the value is that pod's name.
    pub const DRAIN: &str = "cartulary.dev/drain";
    /// On a pod, set by injection: the version of what was injected.
    pub const INJECTED: &str = "cartulary.dev/injected";
}

/// The key of a ConfigMap that holds what is kept of one journal.
pub const ANCHORS_KEY: &str = "anchors.json";

/// The name under which the sidecar of `node` presents itself to the compliance server `server` (CS-2): stable, since the server has
/// to be configured with it.
#[must_use]
pub fn component_name(server: &str, node: &str) -> String {
    format!("op-{server}.{}", node.replace('.', "-"))
}

/// The container the webhook adds.
pub const SIDECAR_CONTAINER: &str = "cartulary-sidecar";
/// The sidecar's admin port: health, readiness, status, metrics.
pub const ADMIN_PORT: u16 = 9467;

/// Condition types.
pub mod condition {
    /// Everything declared is in force.
    pub const READY: &str = "Ready";
    /// The declaration makes sense and what it refers to is there.
    pub const ACCEPTED: &str = "Accepted";
    /// Every pod of the cluster has our sidecar and every host of its servers is armed.
    pub const COVERED: &str = "Covered";
    /// Every node reaches the archive endpoint.
    pub const REACHABLE: &str = "Reachable";
    /// The archive shares its fate with the XMPP server.
    pub const ARCHIVE_NOT_INDEPENDENT: &str = "ArchiveNotIndependent";
    /// Every compliance server that is assigned is in service on every node.
    pub const COMPLIANCE_SERVED: &str = "ComplianceServed";
    /// Nothing is held up, rejected, damaged, or was delivered without a record.
    pub const RECORDING: &str = "Recording";
    /// Journals are anchored, and what they say of themselves fits what they said before.
    pub const ANCHORED: &str = "Anchored";
    /// What was said, recorded and archived are equal in number (EV-2).
    pub const COUNTED: &str = "Counted";
    /// No journal is without a pod that carries its records to their archive.
    pub const JOURNALS_ATTENDED: &str = "JournalsAttended";
}

/// Reasons of conditions and events.
pub mod reason {
    /// All is well.
    pub const OK: &str = "AsDeclared";
    /// Not looked at yet.
    pub const PENDING: &str = "Pending";
    /// A Secret that is referred to is missing.
    pub const SECRET_MISSING: &str = "SecretMissing";
    /// A Secret lacks a key.
    pub const SECRET_INCOMPLETE: &str = "SecretIncomplete";
    /// An ArchiveEndpoint that is referred to is missing.
    pub const ENDPOINT_MISSING: &str = "EndpointMissing";
    /// No endpoint is named and none, or more than one, is the default.
    pub const NO_DEFAULT_ENDPOINT: &str = "NoDefaultEndpoint";
    /// The declaration contradicts itself.
    pub const CONTRADICTION: &str = "Contradiction";
    /// The configuration is larger than a Secret may be.
    pub const CONFIGURATION_TOO_LARGE: &str = "ConfigurationTooLarge";
    /// No pod carries the cluster's label.
    pub const NO_PODS: &str = "NoPods";
    /// A labelled pod runs without our sidecar.
    pub const SIDECAR_MISSING: &str = "SidecarMissing";
    /// A sidecar does not answer the operator.
    pub const SIDECAR_UNREACHABLE: &str = "SidecarUnreachable";
    /// The server plugin has not connected.
    pub const PLUGIN_NOT_CONNECTED: &str = "PluginNotConnected";
    /// A host of the server is not armed.
    pub const HOST_NOT_ARMED: &str = "HostNotArmed";
    /// A node runs an older configuration.
    pub const NODE_OUTDATED: &str = "NodeOutdated";
    /// The endpoint cannot be reached over the network.
    pub const UNREACHABLE: &str = "Unreachable";
    /// The endpoint's certificate cannot be trusted, or TLS failed otherwise.
    pub const TLS_FAILED: &str = "TlsFailed";
    /// The endpoint refuses the user name or password.
    pub const AUTHENTICATION_FAILED: &str = "AuthenticationFailed";
    /// The database does not exist.
    pub const DATABASE_MISSING: &str = "DatabaseMissing";
    /// The archive's tables are missing: nobody ran the migrations.
    pub const NOT_MIGRATED: &str = "NotMigrated";
    /// The archive's schema has a version this sidecar does not know.
    pub const UNKNOWN_SCHEMA: &str = "UnknownSchemaVersion";
    /// The writer role may not do what it must.
    pub const PERMISSION_DENIED: &str = "PermissionDenied";
    /// The endpoint refuses some records.
    pub const REJECTED: &str = "RecordsRejected";
    /// The archive holds less than it had confirmed: it was restored from a backup. It is being refilled.
    pub const WENT_BACK: &str = "ArchiveWentBack";
    /// Connected and archiving.
    pub const CONNECTED: &str = "Connected";
    /// Not tried yet.
    pub const CONNECTING: &str = "Connecting";
}

/// Metric names of the sidecar (Prometheus). Counters get `_total` when they are exposed.
pub mod metric {
    /// Events asked by the plugin.
    pub const EVENTS: &str = "cartulary_events";
    /// Records on disk in the journal, by `kind`.
    pub const RECORDED: &str = "cartulary_recorded";
    /// Records confirmed by their archive, by `endpoint`.
    pub const ARCHIVED: &str = "cartulary_archived";
    /// Messages refused, by `reason`.
    pub const REFUSED: &str = "cartulary_refused";
    /// Messages delivered without the record they should have.
    pub const DELIVERED_UNRECORDED: &str = "cartulary_delivered_unrecorded";
    /// Records that wait, by `endpoint`.
    pub const WAITING: &str = "cartulary_waiting_records";
    /// Age of the oldest waiting record in seconds, by `endpoint`.
    pub const WAITING_AGE: &str = "cartulary_waiting_oldest_seconds";
    /// Bytes of the journal.
    pub const JOURNAL_BYTES: &str = "cartulary_journal_bytes";
    /// Records that recovery passed over.
    pub const QUARANTINED: &str = "cartulary_quarantined";
    /// Records an endpoint refused, kept aside, by `endpoint`.
    pub const DEAD_LETTERS: &str = "cartulary_dead_letters";
    /// Sessions of the server known now.
    pub const SESSIONS: &str = "cartulary_sessions";
    /// Generation of the configuration in force; 0 while there is none.
    pub const CONFIG_GENERATION: &str = "cartulary_config_generation";
    /// 1 while the newest configuration was not taken.
    pub const CONFIG_PROBLEM: &str = "cartulary_config_problem";
    /// Stanzas recorded as they came, because they could not be read as a message.
    pub const UNPARSEABLE: &str = "cartulary_unparseable";
    /// Outcomes of events this process does not know, recorded all the same.
    pub const OUTCOMES_UNMATCHED: &str = "cartulary_outcomes_unmatched";
    /// Outcomes that could not be recorded.
    pub const OUTCOMES_LOST: &str = "cartulary_outcomes_lost";
    /// Frames and fields of the event link that this version skips.
    pub const UNKNOWN_FIELDS: &str = "cartulary_unknown_fields";
    /// Frames of the event link that could not be read.
    pub const BAD_FRAMES: &str = "cartulary_bad_frames";
    /// Hook bodies of the plugin that threw.
    pub const FAILED_HOOKS: &str = "cartulary_failed_hooks";
    /// 1 while the endpoint is connected, by `endpoint`.
    pub const ENDPOINT_UP: &str = "cartulary_endpoint_up";
    /// 1 while a plugin is connected and every host armed.
    pub const COVERED: &str = "cartulary_covered";
    /// Memory of the sidecar's process, bytes, under the name that Prometheus' own clients give it.
    pub const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
    /// 1 while an alarm is raised, by `alarm`, `namespace`, `cluster`, `node`, `endpoint`, `server` (empty where it is about none); of
    /// sidecar and operator alike.
    pub const ALARM: &str = "cartulary_alarm";
    /// Messages the plugin counted where streams are read, by `class` (EV-2).
    pub const COUNTED: &str = "cartulary_counted";
    /// 1 for the state of the link to a compliance server, by `server` and `state`: `GONE`, `CONNECTED`, `ACTIVE` (CS-3).
    pub const SERVER_STATE: &str = "cartulary_compliance_server_state";
    /// 1 while events go to it, by `server`.
    pub const SERVER_IN_SERVICE: &str = "cartulary_compliance_server_in_service";
    /// 1 while events queue for it, by `server`.
    pub const SERVER_QUEUEING: &str = "cartulary_compliance_server_queueing";
    /// Events that wait for it, by `server`.
    pub const SERVER_PENDING: &str = "cartulary_compliance_server_pending";
    /// How many may, by `server`.
    pub const SERVER_PENDING_LIMIT: &str = "cartulary_compliance_server_pending_limit";
    /// Their bytes, by `server`.
    pub const SERVER_PENDING_BYTES: &str = "cartulary_compliance_server_pending_bytes";
    /// How many may, by `server`.
    pub const SERVER_PENDING_BYTES_LIMIT: &str = "cartulary_compliance_server_pending_bytes_limit";
    /// Age of the oldest in seconds, by `server`.
    pub const SERVER_PENDING_AGE: &str = "cartulary_compliance_server_pending_oldest_seconds";
    /// Changes of its link, by `server` and `change`.
    pub const SERVER_CHANGES: &str = "cartulary_compliance_server_changes";
    /// Events it was sent, by `server` and `kind`.
    pub const SERVER_EVENTS: &str = "cartulary_compliance_events";
    /// What came of them, by `server` and `kind`.
    pub const SERVER_ANSWERS: &str = "cartulary_compliance_answers";
    /// Logins and logouts it has not seen, by `server` and `kind` (FH-8).
    pub const SERVER_MISSED: &str = "cartulary_compliance_missed";
    /// How long it took to answer, seconds, by `server`: a histogram.
    pub const SERVER_ANSWER_TIME: &str = "cartulary_compliance_answer_seconds";
    /// Stanzas that compliance servers were asked about, by `result`.
    pub const QUESTIONS: &str = "cartulary_compliance_stanzas";
    /// Refused by a compliance server or because nobody decided, by `kind`.
    pub const QUESTIONS_REFUSED: &str = "cartulary_compliance_refused";
    /// Conversations whose compliance server changed (FH-3).
    pub const CONVERSATIONS_MOVED: &str = "cartulary_compliance_conversations_moved";
    /// Stanzas that wait for a decision.
    pub const WAITING_STANZAS: &str = "cartulary_compliance_waiting";
    /// Their bytes.
    pub const WAITING_BYTES: &str = "cartulary_compliance_waiting_bytes";
    /// Logins that wait for a decision.
    pub const WAITING_LOGINS: &str = "cartulary_compliance_waiting_logins";
}
