//! Reconciles Profiles, and keeps the one that is always there (PR-4).
//!
//! The object of the system default profile is for people to see: what sidecars are told of it never comes from the object. It is
//! kept in every namespace with an XMPPCluster or a ComplianceServer, and taken away when the last of these is gone.

pub mod resolve;

use crate::conditions::{Finding, Problem, merge};
use crate::context::{ClusterView, Context};
use crate::reasons as reason;
use crate::write::{self, MANAGER};
use cartulary_compliance::names::condition;
use cartulary_compliance::profile::SYSTEM_DEFAULT_RESOURCE;
use cartulary_crds::{Profile, ProfileStatus};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use resolve::{Profiles, rules, shown_name, system_default, warnings};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Looks at one profile.
pub async fn reconcile(profile: Arc<Profile>, context: Arc<Context>) -> Result<Action, kube::Error> {
    if profile.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = profile.namespace().unwrap_or_default();
    if profile.name_any() == SYSTEM_DEFAULT_RESOURCE {
        if !is_needed(&context, &namespace) {
            remove(&profile, &context).await?;
            return Ok(Action::await_change());
        }
        keep_system_default(&context, &namespace).await?;
    }
    let others = context.stores.profiles.state_filter(|other| other.namespace() == profile.namespace());
    let others = others.into_iter().map(|other| (other.name_any(), other)).collect();
    let old = profile.status.clone().unwrap_or_default();
    let new = status(&profile, &others, &context.views(&namespace), Timestamp::now());
    if new != old {
        write::status(&context, &*profile, &new).await?;
        write::events(&context, &*profile, &old.conditions, &new.conditions).await;
    }
    Ok(Action::await_change())
}

fn is_needed(context: &Context, namespace: &str) -> bool {
    let here = |of: Option<String>| of.as_deref() == Some(namespace);
    let stores = &context.stores;
    !stores.clusters.state_filter(|cluster| here(cluster.namespace())).is_empty()
        || !stores.servers.state_filter(|server| here(server.namespace())).is_empty()
}

/// Makes the system default profile, or what it has to be of it.
pub async fn keep_system_default(context: &Context, namespace: &str) -> Result<(), kube::Error> {
    let name = ObjectRef::new(SYSTEM_DEFAULT_RESOURCE).within(namespace);
    let spec = system_default();
    let there = context.stores.profiles.get(&name);
    if there.is_some_and(|there| there.spec == spec || there.metadata.deletion_timestamp.is_some()) {
        return Ok(());
    }
    let api = Api::<Profile>::namespaced(context.client.clone(), namespace);
    let params = PatchParams::apply(MANAGER).force();
    match api
        .patch(SYSTEM_DEFAULT_RESOURCE, &params, &Patch::Apply(Profile::new(SYSTEM_DEFAULT_RESOURCE, spec)))
        .await
    {
        Ok(_) => Ok(()),
        // A namespace that is being deleted takes nothing new; and a quota is no reason to leave everything else undone.
        Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => {
            tracing::info!(namespace, "the system default profile was not made: {}", status.message);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn remove(profile: &Profile, context: &Context) -> Result<(), kube::Error> {
    let api = Api::<Profile>::namespaced(context.client.clone(), &profile.namespace().unwrap_or_default());
    let this = Preconditions { uid: profile.uid(), resource_version: None };
    match api.delete(SYSTEM_DEFAULT_RESOURCE, &DeleteParams::default().preconditions(this)).await {
        Err(kube::Error::Api(status)) if [403, 404, 409].contains(&status.code) => Ok(()),
        result => result.map(|_| ()),
    }
}

/// What to write.
#[must_use]
pub fn status(
    profile: &Profile,
    others: &Profiles,
    views: &[(String, ClusterView)],
    now: Timestamp,
) -> ProfileStatus {
    let name = profile.metadata.name.as_deref().unwrap_or_default();
    let users = views.iter().map(|(cluster, view)| {
        let servers = view.assigned.iter().filter(|assigned| assigned.profile == name);
        (cluster, servers.map(|assigned| assigned.server.clone()).collect::<BTreeSet<_>>())
    });
    let users: Vec<_> = users.filter(|(_, servers)| !servers.is_empty()).collect();
    let ready = match conflict(name, profile, others) {
        Some(problem) => Finding::new(condition::READY, false, problem.reason, problem.message),
        None => {
            let mut warnings = warnings(&rules(Some(profile)));
            let messages: Vec<_> = warnings.iter().map(|warning| warning.message.clone()).collect();
            match warnings.drain(..).next() {
                None => Finding::good(condition::READY, "it can be assigned"),
                Some(first) => Finding::new(condition::READY, true, first.reason, messages.join(". Also: ")),
            }
        }
    };
    let old = profile.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    ProfileStatus {
        observed_generation: profile.metadata.generation,
        conditions: merge(old, &[ready], profile.metadata.generation, now),
        events: i64::try_from(profile.spec.events.len()).ok(),
        used_by: users.iter().map(|(cluster, _)| (*cluster).clone()).collect(),
        servers: users
            .into_iter()
            .flat_map(|(_, servers)| servers)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
    }
}

/// Another profile that goes by one of its names (PR-3).
#[must_use]
pub fn conflict(name: &str, profile: &Profile, others: &Profiles) -> Option<Problem> {
    let shown = shown_name(name, Some(profile));
    let (other, _) = others.iter().find(|(other, object)| {
        let theirs = shown_name(other, Some(object));
        other.as_str() != name && (theirs == shown || **other == shown || theirs == name)
    })?;
    let message =
        format!("the Profile {other} goes by the name {shown} or {name} too: choose another displayName");
    Some(Problem::new(reason::PROFILE_AMBIGUOUS, message))
}
