//! Writing statuses and events. Callers compare first: what has not changed is not written.

use crate::cluster::alarms::{Told, is_alarm};
use crate::conditions::{cut, transitions};
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
    // With the uid a status never lands on another object of the same name; with the version one that a former leader had sent
    // before it was cut off never lands on what the present one wrote.
    let patch = |version: Option<String>| {
        json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": { "name": name, "uid": object.uid(), "resourceVersion": version },
            "status": status,
        })
    };
    let params = PatchParams::apply(MANAGER).force();
    let mut result = api.patch_status(&name, &params, &Patch::Apply(patch(object.resource_version()))).await;
    if matches!(&result, Err(kube::Error::Api(status)) if status.code == 409) {
        // What we were given was a moment old.
        let there = api.get_opt(&name).await?.filter(|there| there.uid() == object.uid());
        let Some(there) = there else { return Ok(()) };
        result = api.patch_status(&name, &params, &Patch::Apply(patch(there.resource_version()))).await;
    }
    match result {
        // It is gone: there is nothing to write on.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
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
    // What an alarm says is told by its own event.
    for transition in transitions(old, new).into_iter().filter(|transition| !is_alarm(&transition.reason)) {
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

/// Tells which alarms have begun and ended, or which nodes have lost a compliance server.
pub async fn told<K>(context: &Context, object: &K, told: Vec<Told>)
where
    K: Resource<DynamicType = ()>,
{
    let reference = object.object_ref(&());
    for told in told {
        let event = Event {
            type_: if told.warning { EventType::Warning } else { EventType::Normal },
            reason: told.reason.to_owned(),
            note: Some(cut(&told.message)),
            // Events that differ in this alone are not counted as one.
            action: told.about.chars().take(128).collect(),
            secondary: None,
        };
        if let Err(error) = context.recorder.publish(&event, &reference).await {
            tracing::warn!(%error, reason = event.reason, "an event could not be written");
        }
    }
}
