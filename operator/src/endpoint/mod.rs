//! Reconciles ArchiveEndpoints: dereference → validate → status. Nothing is built from an endpoint alone.
//!
//! Whether it is reached is what the sidecars say: the operator itself never connects to a database.

pub mod resolve;
mod status;

pub use status::problem;

use crate::context::Context;
use crate::write;
use cartulary_crds::ArchiveEndpoint;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use resolve::{Secrets, resolve, secret_names};
use std::sync::Arc;

/// Looks at one endpoint.
pub async fn reconcile(endpoint: Arc<ArchiveEndpoint>, context: Arc<Context>) -> Result<Action, kube::Error> {
    if endpoint.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = endpoint.namespace().unwrap_or_default();
    // dereference
    let secrets = secrets(&context, &namespace, &endpoint).await?;
    let views = context.views(&namespace);
    // validate
    let accepted = resolve(&endpoint, &secrets).map(|_| ());
    // status
    let old = endpoint.status.clone().unwrap_or_default();
    let new = status::status(&endpoint, accepted, &views, Timestamp::now());
    if new != old {
        write::status(&context, &*endpoint, &new).await?;
        write::events(&context, &*endpoint, &old.conditions, &new.conditions).await;
    }
    Ok(Action::await_change())
}

/// The Secrets an endpoint refers to, those that are there.
pub async fn secrets(
    context: &Context,
    namespace: &str,
    endpoint: &ArchiveEndpoint,
) -> Result<Secrets, kube::Error> {
    let mut secrets = Secrets::new();
    for name in secret_names(endpoint) {
        if let Some(secret) = context.secret(namespace, &name).await? {
            secrets.insert(name, secret);
        }
    }
    Ok(secrets)
}
