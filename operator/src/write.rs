//! Writing statuses and events. Callers compare first: what has not changed is not written.

use crate::conditions::transitions;
use crate::context::Context;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

/// The field manager of everything the operator writes.
pub const MANAGER: &str = "cartulary-operator";

/// Applies a status, which is the operator's alone.
pub async fn status<K, S>(context: &Context, object: &K, status: &S) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let name = object.name_any();
    let api = Api::<K>::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // With the uid a status never lands on another object of the same name.
        "metadata": { "name": name, "uid": object.uid() },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api.patch_status(&name, &params, &Patch::Apply(patch)).await {
        // It is gone, or another one has taken its name: there is nothing to write on.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            context.metrics.status_writes.inc();
            Ok(())
        }
    }
}

/// Tells what changed as events. An event that cannot be written is logged, and keeps nothing else from happening.
pub async fn events<K>(context: &Context, object: &K, old: &[Condition], new: &[Condition])
where
    K: Resource<DynamicType = ()>,
{
    let reference = object.object_ref(&());
    for transition in transitions(old, new) {
        let event = Event {
            type_: if transition.warning { EventType::Warning } else { EventType::Normal },
            reason: transition.reason,
            note: Some(transition.message),
            action: transition.kind,
            secondary: None,
        };
        if let Err(error) = context.recorder.publish(&event, &reference).await {
            tracing::warn!(%error, reason = event.reason, "an event could not be written");
        }
    }
}
