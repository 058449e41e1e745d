//! `ArchiveEndpoint`: a place that records are written to.

use crate::ByteSize;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// MA-8
/// What kind of archive it is, how it is reached, and how much may wait for it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cartulary.dev",
    version = "v1alpha1",
    kind = "ArchiveEndpoint",
    namespaced,
    status = "ArchiveEndpointStatus",
    shortname = "ae",
    category = "cartulary",
    derive = "PartialEq",
    doc = "A place that records are written to. XMPPClusters of the same namespace use it by name, or because it is the default.",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reachable",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Reachable')].status",
        description = "Whether every node that uses it reaches it"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(
        name = "Waiting",
        type_ = "integer",
        json_path = ".status.waiting",
        description = "Records that wait on the nodes to be written here"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'PostgreSQL') == has(self.postgresql)")
    .message("postgresql is required with type PostgreSQL, and only allowed with it"))]
pub struct ArchiveEndpointSpec {
    /// What kind of archive this is. `PostgreSQL` is a database of your own, described under `postgresql`. `SQLite` is one file
    /// for each pod on its journal's volume, for trials, demonstrations and small sites: it shares the fate of that volume,
    /// which the condition ArchiveNotIndependent of the XMPPCluster says. Required.
    #[serde(rename = "type")]
    pub kind: EndpointType,

    /// How the PostgreSQL database is reached. Required with type PostgreSQL, not allowed with any other.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "postgresql")]
    pub postgresql: Option<PostgreSql>,

    /// Whether XMPPClusters of this namespace that name no endpoint use this one. Default false. One endpoint of a namespace may be
    /// the default; a second one is refused at admission.
    #[serde(default)]
    pub default: bool,

    /// How many records may wait for this endpoint on each node.
    #[serde(default)]
    pub queue: Queue,
}

/// What kind of archive an endpoint is.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointType {
    /// A PostgreSQL database.
    PostgreSQL,
    /// One file for each pod, beside its journal.
    SQLite,
}

/// How a PostgreSQL database is reached, as its writer role.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostgreSql {
    /// Host name or IP address of the server. Required. With TLS it must be a name in the server's certificate.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[A-Za-z0-9._:-]+$"))]
    pub host: String,

    /// TCP port of the server. Default 5432.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,

    /// Name of the database. Required. `cartulary migrate` makes the tables in it; sidecars never change its schema.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,

    /// The Secret with the writer role's name and password. Required. The role needs insert, and select of id, stream,
    /// sequence and hash; it must not own the tables.
    pub credentials_secret: CredentialsSecret,

    /// How the connection is protected. Default: TLS with the server's certificate and name verified.
    #[serde(default)]
    pub tls: Tls,
}

/// A Secret with `username` and `password`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsSecret {
    /// Name of a Secret in the same namespace with the keys `username` and `password`. Required. A change of the Secret takes
    /// effect without a restart.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// How a database connection is protected.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode == 'VerifyFull' || !has(self.caSecret)")
    .message("caSecret has no meaning with mode Disable: remove it, or use mode VerifyFull"))]
pub struct Tls {
    /// `VerifyFull`: encrypted, the server's certificate and name are verified. `Disable`: neither, for databases inside the
    /// same trust boundary only. Default VerifyFull.
    #[serde(default)]
    pub mode: TlsMode,

    /// The Secret with the certificates of the authorities that may have signed the server's certificate. Default: the
    /// authorities in our image. Only with mode VerifyFull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaSecret>,
}

/// Whether a connection is protected.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    /// Encrypted, certificate and name verified.
    #[default]
    VerifyFull,
    /// Not protected.
    Disable,
}

/// A Secret with certificates of authorities.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaSecret {
    /// Name of a Secret in the same namespace. Required.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the Secret with one or more PEM certificates. Default `ca.crt`.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

// MA-7
/// How many records may wait (`Max Queue Size`).
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// How many records may wait on each node while the endpoint cannot be written to (`Max Queue Size`). Default 100000, at
    /// least 1. They wait on disk. When it is full, `blockIfUnableToRecord` of the XMPPCluster decides what happens.
    #[serde(default = "default_max_records")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_records: i64,

    /// How many bytes of records may wait on each node, for example `512Mi`. Default 1Gi. The journal's own `maxBytes` counts too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteSize>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { max_records: default_max_records(), max_bytes: None }
    }
}

/// What the operator found out about an ArchiveEndpoint.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveEndpointStatus {
    /// Which generation of the declaration this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: the declaration is complete and no node reports a problem with the endpoint. Accepted: what it refers to is
    /// there. Reachable: every node that uses it reaches it; Unknown while no node does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The XMPPClusters that use it, by name or as the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub used_by: Vec<String>,

    /// Records that wait on the nodes to be written here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<i64>,

    /// Records that the endpoint rejected alone; they are kept aside on the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<i64>,
}

fn default_port() -> u16 {
    5432
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

fn default_max_records() -> i64 {
    100_000
}
