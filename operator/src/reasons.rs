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
    /// The request is not one the webhook understands.
    pub const MALFORMED: &str = "MalformedRequest";
}
