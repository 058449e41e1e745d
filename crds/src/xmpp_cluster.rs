//! `XMPPCluster`: a group of XMPP servers that is put under compliance.

use crate::{ByteSize, Compliance, TimeSpan};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// KO-1
/// What is recorded of these servers, where it goes, and what happens to messages that cannot be recorded.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cartulary.dev",
    version = "v1alpha1",
    kind = "XMPPCluster",
    root = "XmppCluster",
    plural = "xmppclusters",
    singular = "xmppcluster",
    namespaced,
    status = "XmppClusterStatus",
    shortname = "xc",
    category = "cartulary",
    derive = "PartialEq",
    doc = "A group of XMPP servers that is put under compliance. Pods belong to it by the label cartulary.dev/cluster with its name.",
    // Label values have 63 characters at most; names of objects may have 253.
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("the name must have 63 characters at most: it is a label's value on every pod"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(
        name = "Covered",
        type_ = "string",
        json_path = ".status.covered",
        description = "Pods whose messages are recorded, of all pods of the cluster"
    ),
    printcolumn(
        name = "Waiting",
        type_ = "integer",
        json_path = ".status.waiting",
        description = "Records that wait on the nodes for their archive"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.archiving.blockIfUnableToRecord || !has(self.link.unanswered) || self.link.unanswered == 'Refuse'")
    .message("blockIfUnableToRecord contradicts link.unanswered: Deliver"))]
pub struct XmppClusterSpec {
    /// Which XMPP server runs in the pods. Required. `Prosody` is the only one so far.
    pub server: Server,

    /// Particulars of Prosody.
    #[serde(default)]
    pub prosody: Prosody,

    /// Name of the container that runs the XMPP server. Default: the pod's only container; required where pods have several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub container: Option<String>,

    /// What is recorded, where, and what happens to messages that cannot be.
    #[serde(default)]
    pub archiving: Archiving,

    /// The journal: records are on its disk before a message is delivered, and stay there until their archive has confirmed them.
    #[serde(default)]
    pub journal: Journal,

    /// Which compliance servers are asked before anything goes on, and what happens when they fail.
    #[serde(default)]
    pub compliance: Compliance,

    /// The link between the XMPP server and our sidecar in the same pod.
    #[serde(default)]
    pub link: Link,

    /// When alarms are raised.
    #[serde(default)]
    pub alarms: Alarms,
}

/// An XMPP server we know how to record.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Server {
    /// Prosody.
    Prosody,
}

/// Particulars of Prosody.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prosody {
    /// Path of Prosody's configuration file in its container. Default `/etc/prosody/prosody.cfg.lua`. It must be absolute, without
    /// `..`. The file stays as it is: ours includes it. If the container sets PROSODY_CONFIG, that path is used instead.
    #[serde(default = "default_config_path")]
    #[schemars(length(min = 2, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/') && !self.split('/').exists(part, part == '..')")
        .message("configPath must be an absolute path without '..'"))]
    pub config_path: String,
}

impl Default for Prosody {
    fn default() -> Self {
        Self { config_path: default_config_path() }
    }
}

// MA-3, MA-6, MA-8
/// What is recorded and where.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.blockIfUnableToRecord || self.inbound || self.outbound")
    .message("blockIfUnableToRecord has nothing to block while inbound and outbound are both false"))]
pub struct Archiving {
    /// Record messages that are delivered to accounts and rooms of this cluster. Default true.
    #[serde(default = "yes")]
    pub inbound: bool,

    /// Record messages that are delivered to other servers (`Enable Outbound Message Logging`). Default false: the archive then
    /// holds only one half of conversations with other servers, which the condition Accepted says. Messages between two accounts of this
    /// cluster are recorded once, with either option.
    #[serde(default)]
    pub outbound: bool,

    /// Refuse messages that cannot be recorded, with an error to the sender, instead of delivering them and telling you. Default false.
    /// "Recorded" means on the journal's disk: an archive that is away refuses nothing until its queue is full. Pods that are not of
    /// a StatefulSet have no journal that outlives them: with this option they need `journal.ephemeral: true`.
    #[serde(default)]
    pub block_if_unable_to_record: bool,

    /// Name of the ArchiveEndpoint in the same namespace that records go to. Default: the namespace's default ArchiveEndpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub endpoint: Option<String>,

    /// Other ArchiveEndpoints for single pods. Default none; at most 100, one for each pod. Pods that take over for each other should
    /// have the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub node_endpoints: Vec<NodeEndpoint>,
}

impl Default for Archiving {
    fn default() -> Self {
        Self {
            inbound: true,
            outbound: false,
            block_if_unable_to_record: false,
            endpoint: None,
            node_endpoints: Vec::new(),
        }
    }
}

/// Where one pod's records go.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEndpoint {
    /// Name of the pod, for example `prosody-0`. Required.
    #[schemars(length(min = 1, max = 253))]
    pub pod: String,

    /// Name of the ArchiveEndpoint in the same namespace. Required.
    #[schemars(length(min = 1, max = 253))]
    pub endpoint: String,
}

/// The journal.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.ephemeral || (!has(self.size) && !has(self.storageClassName))")
        .message("an ephemeral journal has no claim: remove size and storageClassName, or ephemeral"),
    validation = Rule::new("self.ephemeral || !has(self.maxBytes) || !isQuantity(self.maxBytes) || (has(self.size) ? !isQuantity(self.size) || quantity(self.maxBytes).compareTo(quantity(self.size)) < 0 : quantity(self.maxBytes).compareTo(quantity('1Gi')) < 0)")
        .message("maxBytes must be smaller than the claim's size (1Gi where none is given)")
)]
pub struct Journal {
    /// Size of the claim `cartulary-journal-POD` that each pod of a StatefulSet gets, for example `10Gi`. Default 1Gi. Claims that
    /// exist keep their size. Claims are never deleted for you: they may hold records that no archive has yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,

    /// Storage class of the claims. Default: the cluster's default class. It should give volumes that honour fsGroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,

    /// Keep the journal in a volume that goes with the pod. Default false. What waits there is lost with the pod, so the promise that
    /// a recorded message reaches its archive is weaker; the status says so. Not together with size or storageClassName.
    #[serde(default)]
    pub ephemeral: bool,

    /// How long records stay in the journal after their archive has confirmed them, so that an archive restored from a backup can be
    /// refilled. Default 1h; `0s` for not at all.
    #[serde(default = "default_keep_confirmed")]
    pub keep_confirmed: TimeSpan,

    /// How many bytes the journal may use, for example `800Mi`. Default: four fifths of the claim, half of it where the archive is a
    /// SQLite file on the same volume; 1Gi for an ephemeral journal. It must be smaller than the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteSize>,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            size: None,
            storage_class_name: None,
            ephemeral: false,
            keep_confirmed: default_keep_confirmed(),
            max_bytes: None,
        }
    }
}

/// The link between the XMPP server and the sidecar.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// How long the XMPP server waits for the sidecar's answer about one stanza before it acts alone, as `unanswered` says; where compliance
    /// servers are asked, at least five seconds longer than `compliance.eventTimeout`. Default 30s; from 1s to 5m.
    #[serde(default = "default_answer_timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('5m')")
        .message("answerTimeout must be between 1s and 5m"))]
    pub answer_timeout: TimeSpan,

    /// What happens to what the sidecar does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<WhenUnanswered>,
}

impl Default for Link {
    fn default() -> Self {
        Self { answer_timeout: default_answer_timeout(), unanswered: None }
    }
}

// FH-7
/// What happens to what the sidecar does not answer, because it is gone or too late. `Deliver` counts messages. Default: messages are
/// refused where `blockIfUnableToRecord` is on, and anything where a profile's handling of it is `bounce`; else delivered.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenUnanswered {
    /// It is refused.
    Refuse,
    /// It goes on; messages are counted.
    Deliver,
}

// MA-10
/// When alarms are raised.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alarms {
    /// How full a queue or a journal may be before it is an alarm, in percent of its limit. Default 80; from 1 to 100.
    #[serde(default = "default_high_water")]
    #[schemars(range(min = 1, max = 100))]
    pub high_water_percent: i64,

    /// How long a record may wait for its archive before it is an alarm. Default 15m; from 1s to 720h.
    #[serde(default = "default_waiting")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('720h')")
        .message("waitingTooLong must be between 1s and 720h"))]
    pub waiting_too_long: TimeSpan,

    /// Alarms that are not told: they stay in `status.alarms`, marked, and turn no condition, make no Event and are no metric. Default
    /// none; at most 100, each alarm once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["alarm"]))]
    pub silenced: Vec<Silence>,
}

impl Default for Alarms {
    fn default() -> Self {
        Self {
            high_water_percent: default_high_water(),
            waiting_too_long: default_waiting(),
            silenced: Vec::new(),
        }
    }
}

// CS-8
/// An alarm that is not told.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Name of the alarm, as docs/alarms.md lists them. Required.
    #[schemars(length(min = 1, max = 63))]
    pub alarm: String,

    /// Only of these pods. Default: of all, and of none in particular.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub pods: Vec<String>,
}

/// What the operator found out about an XMPPCluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XmppClusterStatus {
    /// Which generation of the declaration this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: all that is declared is in force on every pod. Accepted: the declaration makes sense and what it refers to is there.
    /// Covered: every pod has our sidecar and every host of its servers is recorded. Recording: nothing is lost, rejected or held up.
    /// ComplianceServed: every compliance server is in service on every node. Counted: no message passed by those who record. Anchored: journals are anchored and fit their anchors. JournalsAttended: nothing
    /// waits in the journal of a pod that is gone. ArchiveNotIndependent: the archive shares its fate with the XMPP server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Pods whose messages are recorded, of all pods of the cluster: `2/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covered: Option<String>,

    /// Records that wait on the nodes for their archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<i64>,

    /// The configuration that was last made for the sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<ConfigurationStatus>,

    /// The cluster's pods, as their sidecars describe themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub nodes: Vec<NodeStatus>,

    /// The claims that hold journals of this cluster, those of pods that are gone included. They are never deleted for you.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub journal_claims: Vec<JournalClaim>,

    /// The journals, those of pods that are gone first. At most 200.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub journals: Vec<JournalStatus>,

    /// The alarms that are raised, the gravest first. At most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub alarms: Vec<AlarmStatus>,

    /// How many entries were left out of lists that would be too long for a status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<Omitted>,
}

/// One journal.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalStatus {
    /// The pod it is of.
    pub pod: String,
    /// `InUse`: its pod is there. `Left`: its pod has just gone. `Draining`: a Job carries what waits to the archive. `Drained`: nothing
    /// waits. `Waiting`: something waits, and the Job could not carry it. `Failed`: the Job could not run.
    pub state: String,
    /// What keeps it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Records that wait, where the pod is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<i64>,
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<String>,
    /// The claim that holds it; none where it goes with its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// The volume behind the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// Whether that volume stays when its claim is deleted; not there where the operator may not look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained: Option<bool>,
    /// How far its streams are anchored, by endpoint. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["endpoint"]))]
    pub anchors: Vec<AnchorStatus>,
}

/// How far a stream is anchored.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnchorStatus {
    /// The endpoint the stream goes to.
    pub endpoint: String,
    /// Sequence of the last record that is covered.
    pub sequence: i64,
    /// When its journal signed that.
    pub at: String,
}

/// An alarm that is raised.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlarmStatus {
    /// Its name.
    pub alarm: String,
    /// `critical` or `warning`.
    pub severity: String,
    /// The pod it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The endpoint it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The compliance server it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Whether it is silenced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silenced: bool,
}

/// How many entries were left out of lists.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Omitted {
    /// Of nodes.
    pub nodes: i64,
    /// Of journalClaims.
    pub journal_claims: i64,
    /// Of journals.
    pub journals: i64,
    /// Of alarms.
    pub alarms: i64,
}

/// The configuration that was last made for the sidecars.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// The Secret that holds it.
    pub secret: String,
    /// The generation of the XMPPCluster it was made from.
    pub generation: i64,
    /// SHA-256 of its JSON, in hexadecimal digits.
    pub hash: String,
}

/// One pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Name of the pod.
    pub name: String,
    /// Whether its messages are recorded.
    pub covered: bool,
    /// Whether its sidecar runs the newest configuration.
    pub current: bool,
    /// Generation of the configuration its sidecar runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Version of its sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The XMPP server in it, with its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Records that wait on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<i64>,
    /// What is wrong, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A claim that holds a journal.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalClaim {
    /// Name of the claim.
    pub name: String,
    /// Whether a pod uses it now. What waits in a claim without a pod is carried to its archive by a Job.
    pub in_use: bool,
}

fn default_config_path() -> String {
    "/etc/prosody/prosody.cfg.lua".to_owned()
}

fn default_keep_confirmed() -> TimeSpan {
    "1h".into()
}

fn default_answer_timeout() -> TimeSpan {
    "30s".into()
}

fn default_high_water() -> i64 {
    80
}

fn default_waiting() -> TimeSpan {
    "15m".into()
}

fn yes() -> bool {
    true
}
