//! Keeps the webhooks' certificate in a Secret, hands it to the server, and tells the API server whom to trust.
//!
//! Invariants: the API server is told of an authority before the server uses it; a configuration of webhooks is patched only
//! where it says something else; several operators agree, because who loses the race to write the Secret reads it again.

use super::certificate::{CHECK, Material, renew};
use crate::metrics::Metrics;
use crate::options::Options;
use anyhow::Context as _;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// The Secret.
pub const SECRET: &str = "cartulary-webhook-certs";
/// While something is missing, such as a configuration that is being installed beside us.
const SOON: Duration = Duration::from_secs(2);

/// What the server serves with; `None` until there is a certificate.
pub type Tls = Option<Arc<ServerConfig>>;

/// Keeps everything in order until the future is dropped.
pub async fn run(
    client: Client,
    options: Options,
    metrics: Arc<Metrics>,
    tls: watch::Sender<Tls>,
    trusted: watch::Sender<bool>,
) {
    let mut served = None;
    loop {
        let pause = match step(&client, &options, &mut served, &tls).await {
            Ok(expires) => {
                metrics.certificate_expires.set(i64::try_from(expires).unwrap_or(i64::MAX));
                trusted.send_replace(true);
                CHECK
            }
            Err(error) => {
                tracing::warn!("the webhooks' certificate: {error:#}; trying again");
                SOON
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn step(
    client: &Client,
    options: &Options,
    served: &mut Option<String>,
    tls: &watch::Sender<Tls>,
) -> anyhow::Result<u64> {
    let material = stored(client, options).await?;
    let bundle = material.bundle();
    // Serving starts with the first certificate, so that the API server never meets a closed port for longer than it must.
    if served.is_none() {
        serve(&material, served, tls)?;
    }
    let name = &options.webhook_configuration;
    tell::<MutatingWebhookConfiguration>(client, name, &bundle).await?;
    tell::<ValidatingWebhookConfiguration>(client, name, &bundle).await?;
    serve(&material, served, tls)?;
    Ok(material.expires)
}

fn serve(material: &Material, served: &mut Option<String>, tls: &watch::Sender<Tls>) -> anyhow::Result<()> {
    if served.as_ref() == Some(&material.certificate) {
        return Ok(());
    }
    tls.send_replace(Some(Arc::new(server_config(material)?)));
    tracing::info!(expires = material.expires, "serving the webhooks with this certificate");
    *served = Some(material.certificate.clone());
    Ok(())
}

/// What is in the Secret, renewed and written back where that is due.
async fn stored(client: &Client, options: &Options) -> anyhow::Result<Material> {
    let api = Api::<Secret>::namespaced(client.clone(), &options.namespace);
    let secret = api.get_opt(SECRET).await.with_context(|| format!("cannot read the Secret {SECRET}"))?;
    let found = secret.as_ref().and_then(read);
    let Some(next) = renew(found.as_ref(), &options.webhook_names(), SystemTime::now())? else {
        return found.context("nothing stored, and nothing made");
    };
    let mut write = secret.clone().unwrap_or_default();
    write.metadata.name = Some(SECRET.to_owned());
    write.metadata.managed_fields = None;
    write.data = Some(data(&next)?);
    let written = match secret {
        // With the version that was read: whoever wrote in between wins, and we read again.
        Some(_) => api.replace(SECRET, &PostParams::default(), &write).await,
        None => api.create(&PostParams::default(), &write).await,
    };
    written.with_context(|| format!("cannot write the Secret {SECRET}"))?;
    Ok(next)
}

const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const PREVIOUS: &str = "ca-previous.crt";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const DATES: &str = "dates.json";

fn data(material: &Material) -> anyhow::Result<BTreeMap<String, ByteString>> {
    let dates = json!({
        "authorityExpires": material.authority_expires,
        "previousExpires": material.previous.as_ref().map(|(_, expires)| expires),
        "expires": material.expires,
        "names": material.names,
    });
    let mut entries = vec![
        (AUTHORITY, material.authority.clone()),
        (AUTHORITY_KEY, material.authority_key.clone()),
        (CERTIFICATE, material.certificate.clone()),
        (KEY, material.key.clone()),
        (DATES, serde_json::to_string(&dates)?),
    ];
    entries.extend(material.previous.as_ref().map(|(certificate, _)| (PREVIOUS, certificate.clone())));
    Ok(entries.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect())
}

/// What the Secret holds; `None` where something is missing, which is then made anew.
fn read(secret: &Secret) -> Option<Material> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    let dates: Value = serde_json::from_str(&text(DATES)?).ok()?;
    Some(Material {
        authority: text(AUTHORITY)?,
        authority_key: text(AUTHORITY_KEY)?,
        authority_expires: dates["authorityExpires"].as_u64()?,
        previous: text(PREVIOUS).zip(dates["previousExpires"].as_u64()),
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
        expires: dates["expires"].as_u64()?,
        names: dates["names"]
            .as_array()?
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
    })
}

fn server_config(material: &Material) -> anyhow::Result<ServerConfig> {
    let certificates =
        CertificateDer::pem_slice_iter(material.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(material.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    Ok(config)
}

/// Puts the bundle into every webhook of a configuration that does not have it.
async fn tell<K>(client: &Client, name: &str, bundle: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    let kind = K::kind(&());
    let api = Api::<K>::all(client.clone());
    let found = api.get(name).await.with_context(|| format!("cannot read the {kind} {name}"))?;
    let found = serde_json::to_value(found)?;
    let patch = bundle_patch(&found, &STANDARD.encode(bundle));
    if patch.is_empty() {
        return Ok(());
    }
    let patch: json_patch::Patch = serde_json::from_value(Value::Array(patch))?;
    api.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch))
        .await
        .with_context(|| format!("cannot patch the {kind} {name}"))?;
    tracing::info!(%kind, name, "told the API server whom to trust");
    Ok(())
}

fn bundle_patch(configuration: &Value, bundle: &str) -> Vec<Value> {
    let webhooks = configuration["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let differing =
        webhooks.iter().enumerate().filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != bundle);
    differing
        .flat_map(|(index, webhook)| {
            // The position may have changed since it was read.
            let test = json!({ "op": "test", "path": format!("/webhooks/{index}/name"), "value": webhook["name"] });
            let add = json!({ "op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle });
            [test, add]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let names = vec!["a.svc".to_owned()];
        let mut material = renew(None, &names, SystemTime::now()).expect("made").expect("new");
        for previous in [None, Some(("old".to_owned(), 7))] {
            material.previous = previous;
            let secret = Secret { data: Some(data(&material).expect("plain data")), ..Secret::default() };
            assert!(read(&secret).expect("complete") == material);
        }
        assert!(server_config(&material).is_ok());
    }

    #[test]
    fn a_configuration_that_knows_the_bundle_is_left_alone() {
        let of =
            |bundle: &str| json!({ "webhooks": [{ "name": "a", "clientConfig": { "caBundle": bundle } }] });
        assert!(bundle_patch(&of("same"), "same").is_empty());
        assert_eq!(bundle_patch(&of("other"), "same").len(), 2);
    }
}
