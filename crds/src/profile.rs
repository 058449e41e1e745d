//! `Profile`: which events go to the compliance servers that hold it, and what is done with their answers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// PR-1, PR-3, PR-6
/// Which events go to the compliance servers that hold it, and what is done with their answers.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cartulary.dev",
    version = "v1alpha1",
    kind = "Profile",
    namespaced,
    status = "ProfileStatus",
    category = "cartulary",
    derive = "PartialEq",
    doc = "Which events go to the compliance servers that hold it, and what is done with their answers. XMPPClusters of the same namespace assign it to ComplianceServers.",
    validation = Rule::new("(self.metadata.name == 'system-default-compliance-profile') == (has(self.spec.displayName) && self.spec.displayName == 'SystemDefaultComplianceProfile')")
        .message("the names system-default-compliance-profile and SystemDefaultComplianceProfile belong to the profile that the operator keeps"),
    printcolumn(name = "Display Name", type_ = "string", json_path = ".spec.displayName"),
    printcolumn(name = "Events", type_ = "integer", json_path = ".status.events", description = "How many events it has"),
    printcolumn(
        name = "Servers",
        type_ = "string",
        json_path = ".status.servers",
        description = "The ComplianceServers that share its events"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ProfileSpec {
    /// The profile's name as compliance servers see it, with capitals where you like: letters and digits, no spaces. No two of a
    /// namespace may have the same. References may use it. Default: the name of this object. It cannot be changed while the profile
    /// is assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]+$')")
        .message("displayName must be alphanumeric, without spaces"))]
    pub display_name: Option<String>,

    /// What it is for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,

    /// Routing priority: where several profiles have an event, the servers of the one with the higher number are asked first. Those
    /// without a priority come after all that have one, in the order of their creation. From 1 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub priority: Option<i32>,

    /// The events, each once. Required.
    #[schemars(length(min = 1, max = 40), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["event"]))]
    pub events: Vec<ProfileEvent>,
}

/// What is done about one event.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.packetTypes) || size(self.packetTypes) == 0 || !self.event.startsWith('on')")
        .message("packetTypes are for JSM events (e_… and es_…) only: remove them from this room event"),
    validation = Rule::new("!has(self.packetTypes) || size(self.packetTypes) < 2 || !self.packetTypes.exists(type, type == 'all')")
        .message("packetTypes has all and others: all alone says it")
)]
pub struct ProfileEvent {
    /// The event. Required. What each means is in docs/events.md.
    pub event: EventName,

    /// Which packets it is about: `iq`, `message`, `presence` (without subscriptions), `subscription`, or `all`. Only for JSM events,
    /// those that begin with `e_` or `es_`. Default `all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub packet_types: Vec<PacketType>,

    /// What errors of the server, and events that nobody decides, become.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handling: Option<Handling>,

    /// Send the event and do not wait for an answer. Default false. Together with `bounce` it discards what was sent: it is
    /// not processed further.
    #[serde(default)]
    pub fire_and_forget: bool,
}

/// A packet type.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PacketType {
    /// Every packet.
    All,
    /// `<iq/>`.
    Iq,
    /// `<message/>`.
    Message,
    /// `<presence/>` that is no subscription.
    Presence,
    /// `<presence/>` about a subscription.
    Subscription,
}

/// What errors of the server, and events that nobody decides, become. `bounce`: the sender gets the error. `pass`: the error is
/// discarded, and the event goes on unchanged. Default: `pass` with fireAndForget, and for sessions, presence and what cannot be
/// refused; else `bounce`, which is for messages and room events.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handling {
    /// The sender gets the error.
    Bounce,
    /// The event goes on unchanged.
    Pass,
}

// The catalogue of events is `compliance`'s, which this crate does not depend on; a test of the operator compares the two.
/// An event.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EventName {
    /// A session is about to be made: a client that has logged in binds a resource.
    #[serde(rename = "e_SESSION")]
    ESession,
    /// A packet for a user of this server who has no session.
    #[serde(rename = "e_OFFLINE")]
    EOffline,
    /// A packet to the server itself.
    #[serde(rename = "e_SERVER")]
    EServer,
    /// A packet for a user of this server: the first event of what comes from another server, the second of what a local user sends.
    #[serde(rename = "e_DELIVER")]
    EDeliver,
    /// A client has proved who it is; rendered as an IQ without secrets.
    #[serde(rename = "e_AUTH")]
    EAuth,
    /// An account was registered.
    #[serde(rename = "e_REGISTER")]
    ERegister,
    /// Statistics of the server, every so often.
    #[serde(rename = "e_STATS")]
    EStats,
    /// A user asks for disco#info.
    #[serde(rename = "e_DISCOFEAT")]
    EDiscofeat,
    /// A user with several sessions changes their order; the answer may name the session that gets what is sent to the bare address.
    #[serde(rename = "e_PRISESSION")]
    EPrisession,
    /// A packet is about to be received: one question with everybody who would get it, of whom some may be excepted.
    #[serde(rename = "es_IN")]
    EsIn,
    /// A packet was sent from a session.
    #[serde(rename = "es_OUT")]
    EsOut,
    /// A session has ended.
    #[serde(rename = "es_END")]
    EsEnd,
    /// A packet to the service of rooms, or to a room that is not there.
    #[serde(rename = "onServicePacket")]
    OnServicePacket,
    /// A room is about to be made.
    #[serde(rename = "onBeforeRoomCreate")]
    OnBeforeRoomCreate,
    /// A room was made.
    #[serde(rename = "onAfterRoomCreate")]
    OnAfterRoomCreate,
    /// Somebody asks the service of rooms for disco#info.
    #[serde(rename = "onServiceDiscoInfo")]
    OnServiceDiscoInfo,
    /// The service of rooms has read its settings again.
    #[serde(rename = "onServiceReconfig")]
    OnServiceReconfig,
    /// A room was closed.
    #[serde(rename = "onDestroy")]
    OnDestroy,
    /// A room is about to be closed; where a part of the server closes it, it is told.
    #[serde(rename = "onClose")]
    OnClose,
    /// A packet to a room or to somebody in it.
    #[serde(rename = "onPacket")]
    OnPacket,
    /// Somebody reads the settings of a room.
    #[serde(rename = "onMetaInfoGet")]
    OnMetaInfoGet,
    /// Settings of a room are about to change.
    #[serde(rename = "onBeforeMetaInfoSet")]
    OnBeforeMetaInfoSet,
    /// Settings of a room were changed.
    #[serde(rename = "onAfterMetaInfoSet")]
    OnAfterMetaInfoSet,
    /// Somebody asks a room what it is or who is there (disco).
    #[serde(rename = "onExamineRoom")]
    OnExamineRoom,
    /// Somebody in a room is about to enter, leave, change nickname, availability or role.
    #[serde(rename = "onBeforeChangeUser")]
    OnBeforeChangeUser,
    /// Somebody in a room has entered, left, changed nickname, availability or role.
    #[serde(rename = "onAfterChangeUser")]
    OnAfterChangeUser,
    /// Somebody's affiliation to a room is about to change.
    #[serde(rename = "onBeforeChangeAffiliation")]
    OnBeforeChangeAffiliation,
    /// Somebody's affiliation to a room was changed.
    #[serde(rename = "onAfterChangeAffiliation")]
    OnAfterChangeAffiliation,
    /// Somebody's affiliation to a room is about to be taken away.
    #[serde(rename = "onBeforeRemoveAffiliation")]
    OnBeforeRemoveAffiliation,
    /// Somebody's affiliation to a room was taken away.
    #[serde(rename = "onAfterRemoveAffiliation")]
    OnAfterRemoveAffiliation,
    /// Somebody is about to join a room.
    #[serde(rename = "onBeforeJoin")]
    OnBeforeJoin,
    /// Somebody has joined a room.
    #[serde(rename = "onAfterJoin")]
    OnAfterJoin,
    /// Somebody has left a room.
    #[serde(rename = "onLeave")]
    OnLeave,
    /// The subject of a room is about to change.
    #[serde(rename = "onBeforeSubject")]
    OnBeforeSubject,
    /// The subject of a room was changed.
    #[serde(rename = "onAfterSubject")]
    OnAfterSubject,
    /// An invitation to a room is about to go out.
    #[serde(rename = "onBeforeInvite")]
    OnBeforeInvite,
    /// Somebody was invited to a room.
    #[serde(rename = "onAfterInvite")]
    OnAfterInvite,
    /// The history of a room is asked for: by joining, or as an archive query.
    #[serde(rename = "onHistory")]
    OnHistory,
    /// Something is about to be said in a room.
    #[serde(rename = "onBeforeSend")]
    OnBeforeSend,
    /// Something said in a room is about to go to everybody in it.
    #[serde(rename = "onBeforeBroadcast")]
    OnBeforeBroadcast,
}

impl EventName {
    /// The event's name, as in declarations and on the wire.
    #[must_use]
    pub fn name(self) -> String {
        // The variants are renamed to text and nothing else.
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The event with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }
}

/// What the operator found out about a Profile.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileStatus {
    /// Which generation of the declaration this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: it can be assigned. Its reason and message tell what to look out for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// How many events it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<i64>,

    /// The XMPPClusters that assign it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub used_by: Vec<String>,

    /// The ComplianceServers it is assigned to: they share its events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub servers: Vec<String>,
}
