//! The kinds users declare: group `cartulary.dev`, version `v1alpha1`, namespaced, references within the namespace.
//!
//! Doc comments of fields are what `kubectl explain` shows: meaning, default, constraint. Rules that can be checked in one
//! object are CEL rules beside the field they are about; rules across objects are the operator's.
//! The YAML under `crds/yaml` and in the chart is made from these types by `crdgen` and never edited.
//!
//! What this crate does not do: talk to a cluster, or decide what a declaration means.

mod archive_endpoint;
mod compliance;
mod compliance_server;
mod profile;
mod scalar;
mod xmpp_cluster;

pub use archive_endpoint::{
    ArchiveEndpoint, ArchiveEndpointSpec, ArchiveEndpointStatus, CaSecret, CredentialsSecret, EndpointType,
    PostgreSql, Queue, Tls, TlsMode,
};
pub use compliance::{AssignedServer, Compliance, PendingLimits};
pub use compliance_server::{
    ClientCertificateSecret, ComplianceServer, ComplianceServerSpec, ComplianceServerStatus, PasswordSecret,
    ServerNode, ServerTls, StreamNamespace,
};
pub use profile::{EventName, Handling, PacketType, Profile, ProfileEvent, ProfileSpec, ProfileStatus};
pub use scalar::{ByteSize, ScalarError, TimeSpan};
pub use xmpp_cluster::{
    AlarmStatus, Alarms, AnchorStatus, Archiving, ConfigurationStatus, Journal, JournalClaim, JournalStatus,
    Link, NodeEndpoint, NodeStatus, Omitted, Prosody, Server, Silence, WhenUnanswered, XmppCluster,
    XmppClusterSpec, XmppClusterStatus,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

/// The API group of every kind.
pub const GROUP: &str = "cartulary.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";

/// Every kind's definition, in the order in which they are best read.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [XmppCluster::crd(), ArchiveEndpoint::crd(), ComplianceServer::crd(), Profile::crd()]
        .into_iter()
        .map(tidy)
        .collect()
}

/// What the derive makes, as the API server and `kubectl explain` want it.
///
/// Fields that may be left out need not be `nullable` too: the API server drops nulls of fields that are not, while `has()` in
/// CEL rules is true for those that are. Descriptions are wrapped by whoever shows them, not where our source is.
fn tidy(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    fn walk(schema: &mut JSONSchemaProps) {
        schema.nullable = None;
        schema.format = schema.format.take().filter(|format| !format.starts_with("uint"));
        schema.description = schema.description.take().map(|text| text.replace('\n', " "));
        schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(walk);
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
            walk(items);
        }
    }
    let mut definition = definition;
    let versions = definition.spec.versions.iter_mut();
    versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut()).for_each(walk);
    definition
}
