//! Claims for the journals of StatefulSet pods.
//!
//! The operator makes a claim when it sees a pod that waits for one, not while the pod is being admitted: a pod that another
//! webhook or a quota then refuses would leave a claim behind, and a claim that somebody removed would never come back. The
//! scheduler takes the pod up again as soon as the claim is there.
//!
//! Invariant: a claim is never changed, owned or deleted (it may hold records that no archive has).

use super::drain::{RUN_AS, RunAs};
use super::validate::DEFAULT_CLAIM;
use crate::inject::parts::JOURNAL_VOLUME;
use cartulary_compliance::names::label;
use cartulary_crds::XmppCluster;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, Pod, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The claim that holds the pod's journal; `None` where the journal goes with the pod.
#[must_use]
pub fn claim_of(pod: &Pod) -> Option<&str> {
    let volume = pod.spec.as_ref()?.volumes.as_ref()?.iter().find(|volume| volume.name == JOURNAL_VOLUME)?;
    Some(&volume.persistent_volume_claim.as_ref()?.claim_name)
}

/// The claim `name` for the pod of `cluster`. It keeps as whom the journal is written, for when the pod is gone.
#[must_use]
pub fn claim(cluster: &XmppCluster, name: &str, pod: &Pod) -> PersistentVolumeClaim {
    let journal = &cluster.spec.journal;
    let size = journal.size.as_ref().map_or(DEFAULT_CLAIM, |size| size.0.as_str());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: cluster.metadata.namespace.clone(),
            labels: Some(
                [(label::CLUSTER.to_owned(), cluster.metadata.name.clone().unwrap_or_default())].into(),
            ),
            annotations: serde_json::to_string(&RunAs::of(pod))
                .ok()
                .map(|text| [(RUN_AS.to_owned(), text)].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(size.to_owned()))].into()),
                limits: None,
            }),
            storage_class_name: journal.storage_class_name.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
