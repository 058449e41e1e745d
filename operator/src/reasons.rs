//! Reasons that only the operator gives, beside those in [`cartulary_compliance::names::reason`], which it gives too.
//! Each is documented once, here or there, and never changes its meaning; `docs/resources.md` lists both.

pub use cartulary_compliance::names::reason::*;

/// Messages to other servers are not recorded: the archive holds one half of conversations with them (MA-3).
pub const OUTBOUND_OFF: &str = "OutboundNotRecorded";
/// Neither direction is recorded.
pub const ARCHIVING_OFF: &str = "ArchivingOff";
/// The archive is a file on the journal's volume.
pub const ARCHIVE_IN_POD: &str = "ArchiveInPod";
/// What was made from the declaration could not be written to the API server.
pub const APPLY_FAILED: &str = "ApplyFailed";
/// A journal cannot be appended to.
pub const JOURNAL_UNWRITABLE: &str = "JournalUnwritable";
/// Messages were delivered that should have been recorded and were not.
pub const DELIVERED_UNRECORDED: &str = "DeliveredUnrecorded";
/// Records of a journal are damaged, or not given back by the disk, and were passed over.
pub const JOURNAL_DAMAGED: &str = "JournalDamaged";
/// No XMPPCluster with running pods uses the endpoint.
pub const UNUSED: &str = "Unused";
/// More than one ArchiveEndpoint would be the default.
pub const SECOND_DEFAULT: &str = "SecondDefaultEndpoint";

/// A ComplianceServer that is referred to is missing.
pub const SERVER_MISSING: &str = "ComplianceServerMissing";
/// A Profile that is referred to is missing.
pub const PROFILE_MISSING: &str = "ProfileMissing";
/// A displayName is that of several Profiles.
pub const PROFILE_AMBIGUOUS: &str = "ProfileAmbiguous";
/// The servers of one profile are not assigned to the same nodes, which would split conversations (FH-5).
pub const PROFILE_SPLIT: &str = "ProfileSplit";
/// A host is none.
pub const HOST_INVALID: &str = "HostInvalid";
/// Certificates or a key cannot be used.
pub const TLS_UNUSABLE: &str = "TlsMaterialUnusable";

/// An event is sent without waiting and then discarded (PR-2).
pub const DISCARDS: &str = "DiscardsEvents";
/// An answer is awaited to what the XMPP server only tells.
pub const TOLD_ONLY: &str = "ToldOnly";
/// Pods that are not of a StatefulSet present themselves by another component name each time (CS-2).
pub const NAMES_UNSTABLE: &str = "ComponentNamesUnstable";
/// Two compliance servers have one address.
pub const ADDRESS_SHARED: &str = "AddressShared";
/// A profile is in force on some nodes only, which splits conversations between those that are asked about and those that are not.
pub const NODES_RESTRICTED: &str = "NodesRestricted";
/// A server gets an event twice, by two profiles.
pub const EVENT_TWICE: &str = "EventTwice";

/// A compliance server was not tried yet.
pub const NOT_TRIED: &str = "NotTried";
/// Its name does not resolve.
pub const UNKNOWN_HOST: &str = "UnknownHost";
/// Its port refuses connections.
pub const REFUSED: &str = "Refused";
/// Nothing came back in time.
pub const TIMED_OUT: &str = "TimedOut";
/// TLS to it failed.
pub const TLS: &str = "Tls";
/// It refuses the password.
pub const WRONG_PASSWORD: &str = "WrongPassword";
/// It does not know the component name.
pub const WRONG_NAME: &str = "WrongName";
/// What it sends is not the protocol.
pub const PROTOCOL: &str = "Protocol";
/// It has ended the stream in order.
pub const CLOSED: &str = "Closed";
/// The connection to it broke.
pub const LOST: &str = "Lost";
/// The connection stands and nothing is answered.
pub const NOT_ANSWERING: &str = "NotAnswering";
/// Its declaration changed, and it is connected to again.
pub const RECONFIGURED: &str = "Reconfigured";
/// A node has a compliance server in service again.
pub const SERVER_IN_SERVICE: &str = "ComplianceServerInService";

/// An alarm is over; the event's message names it.
pub const ALARM_CLEARED: &str = "AlarmCleared";

/// Reasons for which a pod is refused.
pub mod refusal {
    /// The XMPPCluster named by the pod's label does not exist.
    pub const CLUSTER_MISSING: &str = "ClusterMissing";
    /// The XMPPCluster has no configuration yet that a sidecar could run.
    pub const CLUSTER_NOT_ACCEPTED: &str = "ClusterNotAccepted";
    /// The pod has several containers, and the XMPPCluster does not say which one runs the XMPP server.
    pub const CONTAINER_NOT_NAMED: &str = "ContainerNotNamed";
    /// The pod has no container of the name the XMPPCluster says.
    pub const CONTAINER_MISSING: &str = "ContainerMissing";
    /// The XMPP server is started with `--config`, which overrides what injection sets.
    pub const CONFIG_ON_COMMAND_LINE: &str = "ConfigOnCommandLine";
    /// The path of the server's configuration comes from somewhere the webhook cannot see.
    pub const CONFIG_PATH_UNKNOWN: &str = "ConfigPathUnknown";
    /// `blockIfUnableToRecord` needs a journal that outlives the pod, and this pod cannot have one.
    pub const JOURNAL_NOT_DURABLE: &str = "JournalNotDurable";
    /// Another container of the pod uses the sidecar's port.
    pub const PORT_TAKEN: &str = "PortTaken";
    /// The XMPP container has something of its own mounted where the link must be.
    pub const MOUNT_TAKEN: &str = "MountTaken";
    /// The pod's containers and the sidecar's have one name.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The pod uses the network of its node, where the sidecar's port would be open.
    pub const HOST_NETWORK: &str = "HostNetwork";
    /// The pod is for nodes that do not run Linux.
    pub const NOT_LINUX: &str = "NotLinux";
    /// The pod is the image of one that a kubelet starts from a file.
    pub const STATIC_POD: &str = "StaticPod";
    /// A labelled pod comes to the API server's own check without the sidecar: nobody has injected it.
    pub const NOT_INJECTED: &str = "NotInjected";
    /// The label of a pod that is recorded would be taken off or changed.
    pub const LABEL_FIXED: &str = "LabelFixed";
    /// The image of a recorded pod's sidecar would be changed in place.
    pub const IMAGE_FIXED: &str = "ImageFixed";
    /// A Profile that an XMPPCluster assigns would be deleted or renamed (PR-3).
    pub const PROFILE_IN_USE: &str = "ProfileInUse";
    /// A ComplianceServer that an XMPPCluster assigns would be deleted.
    pub const SERVER_IN_USE: &str = "ComplianceServerInUse";
    /// The system default profile would be changed or deleted (PR-4).
    pub const PROFILE_READ_ONLY: &str = "ProfileReadOnly";
    /// Another Profile has that name or displayName.
    pub const DISPLAY_NAME_TAKEN: &str = "DisplayNameTaken";
    /// The request is not one the webhook understands.
    pub const MALFORMED: &str = "MalformedRequest";
}
