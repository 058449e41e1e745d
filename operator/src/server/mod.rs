//! Reconciles ComplianceServers: dereference → validate → status. Nothing is built from a server alone.
//!
//! Whether it is in service is what the sidecars say: the operator itself never connects to one.

pub mod resolve;
mod status;

pub use status::reason_of;

use crate::context::Context;
use crate::endpoint::resolve::Secrets;
use crate::{profile, write};
use cartulary_crds::ComplianceServer;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use resolve::{resolve, secret_names};
use std::sync::Arc;

/// Looks at one server.
pub async fn reconcile(server: Arc<ComplianceServer>, context: Arc<Context>) -> Result<Action, kube::Error> {
    if server.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = server.namespace().unwrap_or_default();
    profile::keep_system_default(&context, &namespace).await?;
    // dereference
    let secrets = secrets(&context, &namespace, &server).await?;
    let views = context.views(&namespace);
    // validate
    let accepted = resolve(&server, &secrets).map(|_| ());
    // status
    let old = server.status.clone().unwrap_or_default();
    let new = status::status(&server, accepted, &views, Timestamp::now());
    if new != old {
        write::status(&context, &*server, &new).await?;
        write::events(&context, &*server, &old.conditions, &new.conditions).await;
        write::told(&context, &*server, status::told(&old.nodes, &new.nodes)).await;
    }
    Ok(Action::await_change())
}

/// The Secrets a server refers to, those that are there.
pub async fn secrets(
    context: &Context,
    namespace: &str,
    server: &ComplianceServer,
) -> Result<Secrets, kube::Error> {
    let mut secrets = Secrets::new();
    for name in secret_names(server) {
        if let Some(secret) = context.secret(namespace, &name).await? {
            secrets.insert(name, secret);
        }
    }
    Ok(secrets)
}
