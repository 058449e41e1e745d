//! `/validate-archiveendpoints`: refuses a second default ArchiveEndpoint in a namespace.
//!
//! It only saves people a detour: two written at the same moment both pass, and the XMPPClusters then say `NoDefaultEndpoint`. Its
//! webhook may therefore fail open.

use super::Webhooks;
use crate::reasons as reason;
use cartulary_crds::ArchiveEndpoint;
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use kube::{Api, ResourceExt};

/// Answers a request.
pub async fn answer(webhooks: &Webhooks, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    let is_default = request.object.as_ref().is_some_and(|object| object.data["spec"]["default"] == true);
    if !is_default {
        return response;
    }
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let api = Api::<ArchiveEndpoint>::namespaced(webhooks.client.clone(), namespace);
    let Ok(others) = api.list(&ListParams::default()).await else { return response };
    match others.iter().find(|other| other.spec.default && other.name_any() != request.name) {
        None => response,
        Some(other) => {
            webhooks.count(reason::SECOND_DEFAULT);
            response.deny(format!(
                "cartulary: {}: the ArchiveEndpoint {} is the default of this namespace already: set default: false there first",
                reason::SECOND_DEFAULT,
                other.name_any()
            ))
        }
    }
}
