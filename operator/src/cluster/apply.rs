//! Writes what was built, where it differs from what is there.

use super::build::{GENERATION, HASH, Prepared};
use super::dereference::Gathered;
use super::journals;
use crate::conditions::Problem;
use crate::context::Context;
use crate::reasons as reason;
use crate::write::MANAGER;
use cartulary_crds::{ConfigurationStatus, XmppCluster};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};

/// The API server refuses Secrets with more than 1 MiB of data, and the whole request has a limit too.
const MAX_SECRET: usize = (1 << 20) - 4096;

/// The configuration that pods get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied(pub ConfigurationStatus);

/// Why it was not written.
pub enum ApplyError {
    /// Only a change of the declaration helps.
    Problem(Problem),
    /// The API server did not take it; worth trying again.
    Kube(kube::Error),
}

/// Writes the configuration Secret.
pub async fn apply(
    prepared: Prepared,
    gathered: &Gathered,
    context: &Context,
) -> Result<Applied, ApplyError> {
    fits(&prepared).map_err(ApplyError::Problem)?;
    let status = ConfigurationStatus {
        secret: prepared.secret.name_any(),
        generation: prepared.config.generation,
        hash: prepared.hash.clone(),
    };
    if gathered.written.as_ref().is_some_and(|written| is_same(written, &prepared.secret)) {
        return Ok(Applied(status));
    }
    let api = Api::<Secret>::namespaced(context.client.clone(), &prepared.config.cluster.namespace);
    // The Secret is ours alone, so fields that others hold are taken.
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&status.secret, &params, &Patch::Apply(&prepared.secret)).await.map_err(ApplyError::Kube)?;
    tracing::info!(
        secret = status.secret,
        generation = status.generation,
        hash = status.hash,
        "wrote the configuration"
    );
    Ok(Applied(status))
}

/// Whether a Secret can hold it.
pub fn fits(prepared: &Prepared) -> Result<(), Problem> {
    let data = prepared.secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum::<usize>();
    if data <= MAX_SECRET {
        return Ok(());
    }
    let message = format!(
        "the configuration has {data} bytes, and a Secret may have {MAX_SECRET}: name fewer nodeEndpoints or shorter certificates"
    );
    Err(Problem::new(reason::CONFIGURATION_TOO_LARGE, message))
}

/// The configuration that is in force where the declaration cannot be carried out: the last good one.
#[must_use]
pub fn last_good(gathered: &Gathered) -> Option<Applied> {
    let written = gathered.written.as_ref()?;
    let annotations = written.annotations();
    Some(Applied(ConfigurationStatus {
        secret: written.name_any(),
        generation: annotations.get(GENERATION)?.parse().ok()?,
        hash: annotations.get(HASH)?.clone(),
    }))
}

/// Makes the claims that pods wait for.
pub async fn claims(
    cluster: &XmppCluster,
    gathered: &Gathered,
    context: &Context,
) -> Result<(), kube::Error> {
    let api = Api::<PersistentVolumeClaim>::namespaced(
        context.client.clone(),
        &cluster.namespace().unwrap_or_default(),
    );
    let living = gathered.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let wanted = living.filter_map(|pod| Some((pod, journals::claim_of(pod)?)));
    for (pod, name) in wanted {
        if gathered.claim_names.contains(name) {
            continue;
        }
        match api.create(&PostParams::default(), &journals::claim(cluster, name, pod)).await {
            Ok(_) => tracing::info!(claim = name, "made a claim for a journal"),
            // It is there, and we have not seen it yet.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_same(written: &Secret, wanted: &Secret) -> bool {
    let owners = |secret: &Secret| secret.metadata.owner_references.clone().unwrap_or_default();
    let annotations = wanted.annotations();
    written.data == wanted.data
        && owners(written) == owners(wanted)
        && annotations.iter().all(|(key, value)| written.annotations().get(key) == Some(value))
}
