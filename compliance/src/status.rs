//! What a sidecar says of itself on its status port (`GET /status`): read by operator and command line.
//!
//! It holds counts, names, positions and reasons; never message text, JIDs of users, or secrets (P8).

use crate::link::Sums;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A sidecar's state at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SidecarStatus {
    /// Version of the sidecar.
    pub version: String,
    /// The pod.
    pub node: String,
    /// `namespace/name` of the XMPPCluster whose configuration it runs; empty while it has none.
    pub cluster: String,
    /// The configuration it runs.
    pub config: ConfigStatus,
    /// The server plugin's link.
    pub link: LinkStatus,
    /// The journal.
    pub journal: JournalStatus,
    /// The endpoints by name.
    pub endpoints: BTreeMap<String, EndpointStatus>,
    /// Endpoints of which an embedded archive lies beside this journal, former ones included; `None` when that is not known.
    pub embedded_archives: Option<Vec<String>>,
    /// How far each stream of this incarnation has got, signed by the journal.
    pub heads: Vec<Head>,
    /// What the plugin counted, today and on days not yet closed (EV-2).
    pub days: Vec<DayCount>,
    /// Sums since the process started.
    pub counts: Counts,
    /// The links to compliance servers, by name.
    pub compliance_servers: BTreeMap<String, ComplianceServerStatus>,
    /// What was asked of compliance servers and what became of it.
    pub questions: QuestionCounts,
    /// Messages refused within the last minute because they could not be recorded.
    pub refused_lately: u64,
    /// Whether `/readyz` answers 200; the reasons why not otherwise.
    pub ready: bool,
    /// Why it is not ready, or what promise is weaker: sentences for people.
    pub notes: Vec<String>,
}

/// The configuration a sidecar runs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigStatus {
    /// Generation in force.
    pub generation: i64,
    /// SHA-256 of the JSON in force, hex.
    pub hash: String,
    /// Why the newest file was not taken; the last good one stays.
    pub problem: Option<String>,
}

/// The server plugin's link.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinkStatus {
    /// Whether a plugin is connected, said hello, and was given its settings.
    pub connected: bool,
    /// Server name and version.
    pub server: String,
    /// Plugin version.
    pub plugin_version: String,
    /// Hosts and whether they are covered.
    pub hosts: Vec<HostCoverage>,
    /// Sessions known now.
    pub sessions: u64,
    /// Rooms with occupants known now.
    pub rooms: u64,
}

/// How far a link to a compliance server is (CS-3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LinkState {
    /// There is no connection.
    #[default]
    Gone,
    /// TCP (and TLS) stand; the handshake has not succeeded.
    Connected,
    /// The handshake has succeeded.
    Active,
}

/// Why a link to a compliance server is not in service, told apart (CS-3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LinkCause {
    /// It was not tried yet.
    NotTried,
    /// The name does not resolve.
    UnknownHost,
    /// The port refuses connections.
    Refused,
    /// Nothing came back in time.
    TimedOut,
    /// TLS failed: trust, name, time or protocol.
    Tls,
    /// The handshake was refused as not authorized: the password is wrong.
    WrongPassword,
    /// The stream was refused as for an unknown host: the component name is not configured there.
    WrongName,
    /// What came is not the protocol.
    Protocol,
    /// The peer ended the stream in order: it shuts down (FH-1).
    Closed,
    /// The connection broke (FH-2).
    Lost,
    /// The connection stands and nothing is answered.
    NotAnswering,
    /// The declaration changed; it connects again.
    Reconfigured,
}

/// The link to one compliance server.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ComplianceServerStatus {
    /// `host:port`.
    pub address: String,
    /// Our name there, which it must be configured with (CS-2).
    pub component: String,
    /// How far the link is.
    pub state: LinkState,
    /// Whether events go to it: ACTIVE, and it has answered since.
    pub in_service: bool,
    /// Why it is not in service, or was last out of it.
    pub cause: Option<LinkCause>,
    /// The same in words, with the system's error.
    pub message: String,
    /// When it came into this state, microseconds since the epoch.
    pub since_micros: i64,
    /// Whether events queue for it, after an ungraceful loss (FH-2).
    pub queueing: bool,
    /// Events that wait for it, queued or unanswered, and the bytes of their stanzas.
    pub pending: u64,
    /// The same in bytes.
    pub pending_bytes: u64,
    /// Limits of the two.
    pub max_pending: u64,
    /// The same in bytes.
    pub max_pending_bytes: u64,
    /// Age of the oldest unanswered event, milliseconds.
    pub oldest_pending_ms: u64,
    /// Sums since the sidecar's process started.
    pub counts: ServerCounts,
    /// Answer times: how many took up to 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000 ms, and longer.
    pub answer_times: [u64; 15],
    /// Sum of the answer times, microseconds.
    pub answer_micros: u64,
}

/// What went to and came from one compliance server.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerCounts {
    /// Times it became ACTIVE.
    pub connected: u64,
    /// Times it went out of service.
    pub lost: u64,
    /// Events it was asked about; those asked again after a loss are counted again.
    pub asked: u64,
    /// Events it was told of.
    pub told: u64,
    /// Answers PASS.
    pub passed: u64,
    /// Answers PASS with another stanza.
    pub modified: u64,
    /// Answers HANDLE.
    pub handled: u64,
    /// Errors.
    pub errors: u64,
    /// Events whose time ran out while it had them.
    pub timed_out: u64,
    /// Events that did not fit any more.
    pub overflowed: u64,
    /// Events given to another server because it went out of service.
    pub rerouted: u64,
    /// Answers that came too late (FH-6).
    pub late: u64,
    /// Second answers to one event.
    pub doubled: u64,
    /// Answers to what was never asked.
    pub unknown: u64,
    /// Answers that could not be understood, or changed what may not be changed.
    pub malformed: u64,
    /// Answers that the event does not admit (PR-9).
    pub not_admitted: u64,
    /// Logins and logouts it has not seen (FH-8).
    pub missed: u64,
    /// Of these, sent later.
    pub sent_later: u64,
}

/// What became of the stanzas that compliance servers were asked about.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuestionCounts {
    /// Stanzas of which at least one event was in a profile.
    pub stanzas: u64,
    /// They went on as they were.
    pub passed: u64,
    /// They went on changed.
    pub modified: u64,
    /// A server answered HANDLE, or bounce with fire-and-forget discarded them.
    pub handled: u64,
    /// A server refused them.
    pub bounced: u64,
    /// Nobody decided, and they were refused.
    pub undecided_bounced: u64,
    /// Nobody decided at least once, and they went on.
    pub undecided_passed: u64,
    /// Questions given to another server.
    pub rerouted: u64,
    /// Conversations whose server changed (FH-3).
    pub conversations_moved: u64,
    /// Logins that wait for an answer now.
    pub waiting_logins: u64,
    /// Messages refused since the start, by a server or because nobody decided.
    pub refused_messages: u64,
    /// Room events refused likewise.
    pub refused_room_events: u64,
    /// Messages refused within the last minute because nobody decided.
    pub undecided_lately: u64,
    /// Stanzas that wait for an answer now, and their bytes.
    pub waiting: u64,
    /// The same in bytes.
    pub waiting_bytes: u64,
}

/// One host of the server.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostCoverage {
    /// Its name.
    pub name: String,
    /// Why messages there are not recorded; `None` when they are.
    pub problem: Option<String>,
}

/// The journal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JournalStatus {
    /// The journal's id, made when its folder was first used.
    pub id: String,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Why nothing can be appended.
    pub problem: Option<String>,
    /// Damaged places that were passed over since the journal was made.
    pub quarantined: u64,
    /// Endpoints that records of this journal went to or wait for, former ones included.
    pub endpoints: Vec<String>,
    /// The limit on its bytes.
    pub max_bytes: u64,
    /// Whether its volume goes with the pod.
    pub ephemeral: bool,
    /// Places that the disk no longer gave back since the journal was made; they were passed over too.
    pub unreadable: u64,
}

impl JournalStatus {
    /// Everything that was passed over, for whatever reason.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.quarantined.saturating_add(self.unreadable)
    }
}

/// How far a stream had got, signed: `docs/record.md`, section "A head and its anchor".
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// The journal, UUID.
    pub journal: String,
    /// The incarnation, UUID.
    pub incarnation: String,
    /// The endpoint's name.
    pub endpoint: String,
    /// Sequence of the last durable record of the stream.
    pub sequence: u64,
    /// Its hash, hex.
    pub hash: String,
    /// The last record of this incarnation that the archive had confirmed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub confirmed: Option<Place>,
    /// Whether `sequence` is the closing record.
    pub closed: bool,
    /// When this was signed, nanoseconds since the epoch.
    pub at_nanos: i64,
    /// The journal's Ed25519 public key, hex.
    pub public_key: String,
    /// Over the bytes that `docs/record.md` lists, hex.
    pub signature: String,
}

/// A record's place in its stream.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Its sequence.
    pub sequence: u64,
    /// Its hash, hex.
    pub hash: String,
}

/// What the plugin counted of a day, all processes of the server since this sidecar's journal first heard of the day.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DayCount {
    /// `YYYY-MM-DD`, UTC.
    pub day: String,
    /// The sums.
    pub sums: Sums,
}

/// One endpoint as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointStatus {
    /// `Connected`, `Connecting`, or a reason out of [`crate::names::reason`].
    pub state: String,
    /// The reason in words, with what to do.
    pub message: String,
    /// Records that wait.
    pub waiting: u64,
    /// When the oldest of them was recorded, microseconds since the epoch.
    pub oldest_waiting_micros: Option<i64>,
    /// Records confirmed since the process started.
    pub archived: u64,
    /// Records rejected alone, kept aside.
    pub dead_letters: u64,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// The limit on waiting records (`Max Queue Size`, MA-7).
    pub max_records: u64,
    /// The limit on waiting bytes.
    pub max_bytes: u64,
}

/// Sums since the process started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Events asked.
    pub events: u64,
    /// Accepted records written.
    pub accepted: u64,
    /// Outcome records written.
    pub outcomes: u64,
    /// Events refused because they could not be recorded.
    pub refused: u64,
    /// Messages delivered that should have been recorded and were not.
    pub delivered_unrecorded: u64,
    /// Frames that could not be read.
    pub bad_frames: u64,
    /// Hook bodies that threw.
    pub failed_hooks: u64,
    /// `refused` by why: `queue-full`, `too-large`, `journal-failed`, `no-configuration`, `malformed`, and `no-link` for what the
    /// plugin refused alone.
    pub refused_by: BTreeMap<String, u64>,
    /// Stanzas recorded as they came, because they could not be read as a message.
    pub unparseable: u64,
    /// Outcomes of events this process does not know, recorded all the same.
    pub outcomes_unmatched: u64,
    /// Outcomes that could not be recorded.
    pub outcomes_lost: u64,
    /// Frames and fields of the event link that this version skips.
    pub unknown_fields: u64,
    /// Messages that the plugin read and that nobody was asked about (EV-2).
    pub passed_by: u64,
    /// Outcomes and notices the plugin had no room to keep while there was no link.
    pub plugin_outcomes_lost: u64,
    /// What the plugin counted, all days and processes of the server that this sidecar knows of (EV-2).
    pub counted: Sums,
}

/// What became of the journal of a pod that is gone: printed by `cartulary-sidecar drain`, and its Job's termination message.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DrainReport {
    /// The pod.
    pub node: String,
    /// The journal's id; empty when it could not be opened.
    pub journal: String,
    /// How far the streams of this run have got, signed by the journal: they cover all that was carried.
    pub heads: Vec<Head>,
    /// Records that archives confirmed in this run.
    pub carried: u64,
    /// Endpoints whose records are not all archived; empty when nothing waits.
    pub waiting: BTreeMap<String, DrainWaiting>,
    /// Why it could not run, or ended before its time.
    pub problem: Option<String>,
}

/// What waits for an endpoint in the journal of a pod that is gone, and why.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DrainWaiting {
    /// Records that wait.
    pub records: u64,
    /// Records the archive refused alone, kept aside.
    pub dead_letters: u64,
    /// The endpoint's state, as in [`EndpointStatus`].
    pub state: String,
    /// The reason in words.
    pub message: String,
}
