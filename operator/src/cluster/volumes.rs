//! Volumes that hold journals are made to outlive their claims: people may delete claims and namespaces, and what waits in a journal
//! must not go with them.
//!
//! Invariants: only a volume that says itself that it is bound to the claim of a journal is touched, and only its reclaim policy;
//! once that is right it is not looked at again. Without the right to do so (volumes belong to no namespace) it is told, not tried on.

use super::dereference::Claim;
use crate::context::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const RETAIN: &str = "Retain";
const CONCURRENT: usize = 8;
/// How often a claim is looked at that has no volume yet, or whose volume may not be touched.
const PAUSE: Duration = Duration::from_secs(30);
/// Claims that are looked at in one pass, so that a thousand of them do not hold everything else up.
const AT_ONCE: usize = 64;

/// What is known of a claim's volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Its name; none while the claim has none.
    pub name: Option<String>,
    /// Whether it stays; `None` where nobody may look.
    pub retained: Option<bool>,
}

/// What is known already, by the claim's uid.
#[derive(Default)]
pub struct Known(Mutex<HashMap<String, (Volume, Instant)>>);

/// Sees to all claims of a cluster.
pub async fn retain(namespace: &str, claims: &[Claim], context: &Context) -> BTreeMap<String, Volume> {
    let known = |uid: &str| {
        let all = context.volumes.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(uid).cloned()
    };
    let open = claims.iter().filter(|claim| {
        known(&claim.uid).is_none_or(|(volume, at)| volume.retained != Some(true) && at.elapsed() >= PAUSE)
    });
    let looks: Vec<_> = open.take(AT_ONCE).map(|claim| one(namespace, claim.clone(), context)).collect();
    let found: Vec<_> = futures::stream::iter(looks).buffer_unordered(CONCURRENT).collect().await;
    let mut all = context.volumes.0.lock().unwrap_or_else(PoisonError::into_inner);
    for (uid, volume) in found {
        all.insert(uid, (volume, Instant::now()));
    }
    let seen = claims.iter().filter_map(|claim| Some((claim.name.clone(), all.get(&claim.uid)?.0.clone())));
    seen.collect()
}

async fn one(namespace: &str, claim: Claim, context: &Context) -> (String, Volume) {
    let name = match Api::<PersistentVolumeClaim>::namespaced(context.client.clone(), namespace)
        .get(&claim.name)
        .await
    {
        Ok(there) => there.spec.and_then(|spec| spec.volume_name).filter(|name| !name.is_empty()),
        Err(_) => None,
    };
    let retained = match &name {
        Some(volume) => keep(namespace, &claim, volume, context).await.unwrap_or_else(|error| {
            tracing::warn!(volume, %error, "a volume with a journal could not be made to outlive its claim");
            None
        }),
        None => None,
    };
    (claim.uid, Volume { name, retained })
}

async fn keep(
    namespace: &str,
    claim: &Claim,
    name: &str,
    context: &Context,
) -> Result<Option<bool>, kube::Error> {
    let api = Api::<PersistentVolume>::all(context.client.clone());
    let volume = match api.get(name).await {
        Ok(volume) => volume,
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(spec) = &volume.spec else { return Ok(Some(false)) };
    let bound = spec.claim_ref.as_ref().is_some_and(|bound| {
        bound.namespace.as_deref() == Some(namespace)
            && bound.name.as_deref() == Some(&*claim.name)
            && bound.uid.as_deref() == Some(&*claim.uid)
    });
    if !bound {
        return Ok(Some(false));
    }
    if spec.persistent_volume_reclaim_policy.as_deref() == Some(RETAIN) {
        return Ok(Some(true));
    }
    let patch = json!({
        "metadata": { "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version },
        "spec": { "persistentVolumeReclaimPolicy": RETAIN },
    });
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    tracing::info!(
        volume = name,
        claim = claim.name,
        "a volume with a journal stays when its claim is deleted"
    );
    Ok(Some(true))
}
