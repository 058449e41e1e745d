//! `ComplianceServer`: a policy server that is asked about events before they go on.

use crate::{CaSecret, TimeSpan, TlsMode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// CS-1, CS-5
/// Where it listens and how it is spoken to. The address, the port and the password must be those of the server itself.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "cartulary.dev",
    version = "v1alpha1",
    kind = "ComplianceServer",
    namespaced,
    status = "ComplianceServerStatus",
    shortname = "cps",
    category = "cartulary",
    derive = "PartialEq",
    doc = "A policy server that sees events in time to log, stop or change them. XMPPClusters of the same namespace assign it, with a Profile.",
    // It is one label of the domain name that the sidecars go by: op-NAME.POD.
    validation = Rule::new("size(self.metadata.name) <= 60 && !self.metadata.name.contains('.')")
        .message("the name must have 60 characters at most and no dots: it is part of the component name op-NAME.POD"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host"),
    printcolumn(name = "Port", type_ = "integer", json_path = ".spec.port"),
    printcolumn(
        name = "Active",
        type_ = "string",
        json_path = ".status.active",
        description = "Nodes on which it is in service, of all nodes that it is assigned to"
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
pub struct ComplianceServerSpec {
    /// Host name or IP address of the server. Required. Letters, digits, `.`, `\`, `-` and `_`, or an IPv6 address without brackets.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(r"self.matches(r'^[A-Za-z0-9._\\-]+$') || (self.contains(':') && isIP(self))")
        .message(r"host may have letters, digits, '.', '\', '-' and '_', or be an IPv6 address without brackets"))]
    pub host: String,

    /// TCP port of the server. Required.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,

    /// The Secret with the password of the handshake. Required. A change of the Secret takes effect without a restart.
    pub password_secret: PasswordSecret,

    /// How the connection is protected. Default: TLS from the first byte, the server's certificate and name verified.
    #[serde(default)]
    pub tls: ServerTls,

    /// Which of the two stream namespaces of XEP-0114 the server wants: `Accept` for `jabber:component:accept`, `Connect` for
    /// `jabber:component:connect`. The sidecar connects either way. Default Accept.
    #[serde(default)]
    pub stream_namespace: StreamNamespace,

    /// When nothing was heard for so long, the server is asked whether it is there; when it does not answer for as long again, it
    /// is taken for dead. Default 30s; from 1s to 10m.
    #[serde(default = "default_keepalive")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('10m')")
        .message("keepalive must be between 1s and 10m"))]
    pub keepalive: TimeSpan,
}

/// A Secret with a password.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordSecret {
    /// Name of a Secret in the same namespace. Required.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Key in the Secret. Default `password`.
    #[serde(default = "default_password_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// How the connection to a compliance server is protected.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode == 'VerifyFull' || !(has(self.caSecret) || has(self.serverName) || has(self.clientCertificateSecret))")
    .message("caSecret, serverName and clientCertificateSecret have no meaning with mode Disable: remove them, or use mode VerifyFull"))]
pub struct ServerTls {
    /// `VerifyFull`: encrypted, the server's certificate and name are verified. `Disable`: plain TCP, for servers inside the same
    /// trust boundary only. Default VerifyFull.
    #[serde(default)]
    pub mode: TlsMode,

    /// The Secret with the certificates of the authorities that may have signed the server's certificate. Default: the
    /// authorities in our image. Only with mode VerifyFull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaSecret>,

    /// The name that the server's certificate must have. Default: the host. Only with mode VerifyFull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub server_name: Option<String>,

    /// The Secret of type `kubernetes.io/tls` with the certificate (`tls.crt`) and key (`tls.key`) that we show, where the server
    /// wants to see one. Default none. Only with mode VerifyFull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret: Option<ClientCertificateSecret>,
}

/// A Secret with `tls.crt` and `tls.key`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificateSecret {
    /// Name of a Secret in the same namespace. Required.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A stream namespace of XEP-0114.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamNamespace {
    /// `jabber:component:accept`.
    #[default]
    Accept,
    /// `jabber:component:connect`.
    Connect,
}

/// What the operator found out about a ComplianceServer.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComplianceServerStatus {
    /// Which generation of the declaration this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: the declaration is complete and every node that it is assigned to has it in service. Accepted: what it refers to is
    /// there and can be used. Reachable: every node has it in service; Unknown while it is assigned to none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// The XMPPClusters that assign it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub used_by: Vec<String>,

    /// Nodes on which it is in service, of all nodes that it is assigned to: `1/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,

    /// The nodes that it is assigned to. At most 200, those on which it is not in service first left in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["cluster", "pod"]))]
    pub nodes: Vec<ServerNode>,

    /// Component names of pods that are gone and whose successors have other ones: what the server need no longer be configured
    /// with. The newest last, at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub former_components: Vec<String>,

    /// How many nodes were left out of the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted_nodes: Option<i64>,
}

/// The link between one node and a compliance server.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerNode {
    /// The XMPPCluster.
    pub cluster: String,
    /// The pod.
    pub pod: String,
    /// The name by which the pod presents itself (`Open-port Component Name`): the server has to be configured with it.
    pub component: String,
    /// Whether this name outlives the pod. Only pods of a StatefulSet keep their names.
    pub stable: bool,
    /// `GONE`: there is no connection. `CONNECTED`: it stands, and the handshake has not succeeded. `ACTIVE`: the handshake has
    /// succeeded. Not there while the sidecar has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Whether events go to it: it is ACTIVE, and has answered since.
    pub in_service: bool,
    /// Why it is not in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when it is in service, or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

fn default_keepalive() -> TimeSpan {
    "30s".into()
}

fn default_password_key() -> String {
    "password".to_owned()
}
