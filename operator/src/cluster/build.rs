//! Makes the configuration Secret out of a validated declaration. Pure, and cannot fail: the same declaration gives the same
//! bytes, whoever builds it and whenever, so that a Secret that is right is never written again.

use super::validate::Validated;
use crate::inject::parts::config_secret;
use cartulary_compliance::config::{FORMAT, SECRET_KEY, SidecarConfig};
use cartulary_crds::XmppCluster;
use flate2::{Compression, GzBuilder};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use sha2::{Digest, Sha256};
use std::io::Write;

/// On the configuration Secret: `metadata.generation` of the XMPPCluster it was made from.
pub const GENERATION: &str = "cartulary.dev/generation";
/// On the configuration Secret: SHA-256 of the JSON in it, hex, as sidecars report it.
pub const HASH: &str = "cartulary.dev/config-hash";

/// What was made and is not applied yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// The configuration, for those who want to look into it.
    pub config: SidecarConfig,
    /// The Secret that holds it.
    pub secret: Secret,
    /// SHA-256 of its JSON, hex.
    pub hash: String,
}

/// Makes it.
#[must_use]
pub fn build(validated: Validated, cluster: &XmppCluster) -> Prepared {
    let config = SidecarConfig {
        format: FORMAT,
        cluster: validated.cluster,
        generation: validated.generation,
        archiving: validated.archiving,
        endpoints: validated.endpoints,
        journal: validated.journal,
        link: validated.link,
        alarms: validated.alarms,
        compliance: validated.compliance,
    };
    let json = config.to_json().expect("maps have text as keys, and nothing else can fail");
    let hash = hex(&Sha256::digest(&json));
    let metadata = ObjectMeta {
        name: Some(config_secret(&config.cluster.name)),
        namespace: Some(config.cluster.namespace.clone()),
        annotations: Some(
            [(GENERATION.to_owned(), config.generation.to_string()), (HASH.to_owned(), hash.clone())].into(),
        ),
        owner_references: Some(vec![owner(cluster)]),
        ..ObjectMeta::default()
    };
    let secret = Secret {
        metadata,
        type_: Some("Opaque".to_owned()),
        data: Some([(SECRET_KEY.to_owned(), ByteString(gzip(&json)))].into()),
        ..Secret::default()
    };
    Prepared { config, secret, hash }
}

/// Without `blockOwnerDeletion`, which would need the right to update finalizers.
#[must_use]
pub fn owner(cluster: &XmppCluster) -> OwnerReference {
    OwnerReference {
        api_version: XmppCluster::api_version(&()).into_owned(),
        kind: XmppCluster::kind(&()).into_owned(),
        name: cluster.metadata.name.clone().unwrap_or_default(),
        uid: cluster.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    // No time and no operating system in the header: the same content must give the same bytes.
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory cannot fail")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
