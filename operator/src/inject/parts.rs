//! What injection adds to a pod: the sidecar's container, the volumes, and the names and paths that join them.
//!
//! These values are a contract with the sidecar and the plugins. Nothing here depends on the pod but the few facts in [`PodFacts`].

use cartulary_compliance::names::{ADMIN_PORT, SIDECAR_CONTAINER};
use serde_json::{Value, json};

/// User and group the sidecar runs as where the pod does not say.
pub const USER: i64 = 65532;
/// Volume of the configuration Secret.
pub const CONFIG_VOLUME: &str = "cartulary-config";
/// Volume of the link's socket and the plugin.
pub const RUN_VOLUME: &str = "cartulary-run";
/// Volume of the journal.
pub const JOURNAL_VOLUME: &str = "cartulary-journal";
/// An empty volume mounted where a service account's token would be: the sidecar needs no access to the API server (P8), and an
/// existing mount there keeps the ServiceAccount admission plugin from adding the token when it runs again after us.
pub const NO_TOKEN_VOLUME: &str = "cartulary-no-token";
/// Every volume that is ours.
pub const VOLUMES: [&str; 4] = [CONFIG_VOLUME, RUN_VOLUME, JOURNAL_VOLUME, NO_TOKEN_VOLUME];
/// Where [`CONFIG_VOLUME`] is mounted.
pub const CONFIG_FOLDER: &str = "/etc/cartulary/config";
/// Where [`RUN_VOLUME`] is mounted, in both containers.
pub const RUN_FOLDER: &str = "/run/cartulary";
/// Where [`JOURNAL_VOLUME`] is mounted.
pub const JOURNAL_FOLDER: &str = "/var/lib/cartulary";
/// The configuration Prosody is started with: made by the sidecar, it includes the user's own.
pub const PROSODY_CONFIG: &str = "/run/cartulary/prosody/prosody.cfg.lua";
/// The link's socket.
pub const LINK_SOCKET: &str = "/run/cartulary/link.sock";
/// Prosody's own variable for the path of its configuration.
pub const ENV_PROSODY_CONFIG: &str = "PROSODY_CONFIG";
/// Where the user's configuration is, for the one in [`PROSODY_CONFIG`] to include.
pub const ENV_SERVER_CONFIG: &str = "CARTULARY_SERVER_CONFIG";
/// Where the plugin finds the link.
pub const ENV_LINK: &str = "CARTULARY_LINK";

/// The image the sidecar runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SidecarImage {
    /// Its name.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: String,
    /// Version of what is injected, for the label on the pod.
    pub version: String,
}

/// What the sidecar's container depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The sidecar runs as [`USER`], because the pod does not say which user its containers run as, says root, or lets its
    /// containers see each other's processes. Otherwise it runs as the pod's user.
    pub own_user: bool,
}

/// Name of the configuration Secret of an XMPPCluster.
#[must_use]
pub fn config_secret(cluster: &str) -> String {
    format!("cartulary-config-{cluster}")
}

/// Name of the claim that holds the journal of a StatefulSet's pod.
#[must_use]
pub fn journal_claim(pod: &str) -> String {
    format!("cartulary-journal-{pod}")
}

/// The sidecar: a native one, so it is up before the XMPP server and stopped after it.
#[must_use]
pub fn container(image: &SidecarImage, facts: PodFacts) -> Value {
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": ADMIN_PORT },
            "periodSeconds": period,
            "timeoutSeconds": 2,
            "failureThreshold": failures,
        })
    };
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    if facts.own_user {
        security["runAsUser"] = json!(USER);
        security["runAsGroup"] = json!(USER);
    }
    json!({
        "name": SIDECAR_CONTAINER,
        "image": image.image,
        "imagePullPolicy": image.pull_policy,
        "restartPolicy": "Always",
        "command": ["cartulary-sidecar"],
        // All other paths are where the sidecar looks by itself.
        "args": ["--plugin-target", RUN_FOLDER],
        "env": [{ "name": "CARTULARY_NODE", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } }],
        "ports": [{ "name": "cartulary", "containerPort": ADMIN_PORT, "protocol": "TCP" }],
        // It may take two minutes to recover a large journal, and the XMPP server must not start before that.
        "startupProbe": probe("/startedz", 1, 120),
        "readinessProbe": probe("/readyz", 5, 2),
        "livenessProbe": probe("/healthz", 10, 6),
        "resources": { "requests": { "cpu": "50m", "memory": "64Mi" } },
        "securityContext": security,
        "volumeMounts": [
            { "name": CONFIG_VOLUME, "mountPath": CONFIG_FOLDER, "readOnly": true },
            { "name": RUN_VOLUME, "mountPath": RUN_FOLDER },
            { "name": JOURNAL_VOLUME, "mountPath": JOURNAL_FOLDER },
            { "name": NO_TOKEN_VOLUME, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true },
        ],
    })
}

/// The volumes; `claim` holds the journal, or the pod's own disk does.
#[must_use]
pub fn volumes(cluster: &str, claim: Option<&str>) -> Vec<Value> {
    let mut journal = match claim {
        Some(claim) => json!({ "persistentVolumeClaim": { "claimName": claim } }),
        None => json!({ "emptyDir": {} }),
    };
    journal["name"] = json!(JOURNAL_VOLUME);
    vec![
        json!({
            "name": CONFIG_VOLUME,
            "secret": { "secretName": config_secret(cluster), "defaultMode": 0o440, "optional": false },
        }),
        // Memory would be charged to the containers; a socket and a few small files need none.
        json!({ "name": RUN_VOLUME, "emptyDir": {} }),
        journal,
        json!({ "name": NO_TOKEN_VOLUME, "emptyDir": {} }),
    ]
}
