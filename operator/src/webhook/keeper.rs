//! Keeps the webhooks' certificate in a Secret, hands it to the server, and tells the API server whom to trust.
//!
//! Invariants:
//! - the API server is told of an authority before the server uses it;
//! - all replicas agree: who loses the race to write the Secret or a configuration reads it again, and a configuration is only
//!   ever told what was stored after it was read, so that no replica takes back what another has told;
//! - a Secret that somebody deletes or damages comes back as it was, for as long as a replica remembers it;
//! - a configuration of webhooks is patched only where it says something else.

use super::certificate::{Authority, Material, renew};
use super::folder;
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
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// The Secret.
pub const SECRET: &str = "cartulary-webhook-certs";
/// While something is missing, such as a configuration that is being installed beside us, or was written by somebody else.
const SOON: Duration = Duration::from_secs(2);

/// What the server serves with; `None` until there is a certificate.
pub type Tls = Option<Arc<ServerConfig>>;

/// Keeps everything in order until the future is dropped. Where something else makes the certificate, only follows that.
pub async fn run(
    client: Client,
    options: Options,
    metrics: Arc<Metrics>,
    tls: watch::Sender<Tls>,
    trusted: watch::Sender<bool>,
) {
    if let Some(folder) = &options.webhook_certificate_folder {
        return folder::run(folder, tls, trusted).await;
    }
    let check = options.lives().check();
    let mut keeper = Keeper { client, options, tls, known: None, served: None };
    loop {
        let pause = match keeper.step().await {
            Ok(expires) => {
                metrics.certificate_expires.set(i64::try_from(expires).unwrap_or(i64::MAX));
                trusted.send_replace(true);
                check
            }
            Err(error) if is_lost_race(&error) => {
                tracing::debug!("the webhooks' certificate: {error:#}; reading it again");
                SOON.min(check)
            }
            Err(error) => {
                tracing::warn!("the webhooks' certificate: {error:#}; trying again");
                SOON.min(check)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Another replica, or somebody else, wrote first.
fn is_lost_race(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 409 || status.code == 422)
}

struct Keeper {
    client: Client,
    options: Options,
    tls: watch::Sender<Tls>,
    /// What was stored last.
    known: Option<Material>,
    /// The certificate in use.
    served: Option<String>,
}

impl Keeper {
    async fn step(&mut self) -> anyhow::Result<u64> {
        // In this order: what these say is then not newer than what is stored.
        let mutating = self.look::<MutatingWebhookConfiguration>().await;
        let validating = self.look::<ValidatingWebhookConfiguration>().await;
        let material = self.stored().await?;
        let bundle = STANDARD.encode(material.bundle());
        self.tell::<MutatingWebhookConfiguration>(&mutating?, &bundle).await?;
        self.serve(&material)?;
        self.tell::<ValidatingWebhookConfiguration>(&validating?, &bundle).await?;
        Ok(material.expires)
    }

    fn serve(&mut self, material: &Material) -> anyhow::Result<()> {
        if self.served.as_ref() == Some(&material.certificate) {
            return Ok(());
        }
        self.tls.send_replace(Some(Arc::new(server_config(&material.certificate, &material.key)?)));
        tracing::info!(expires = material.expires, "serving the webhooks with this certificate");
        self.served = Some(material.certificate.clone());
        Ok(())
    }

    /// What is in the Secret, renewed and written back where that is due.
    async fn stored(&mut self) -> anyhow::Result<Material> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.options.namespace);
        let secret = api.get_opt(SECRET).await.with_context(|| format!("cannot read the Secret {SECRET}"))?;
        let found = secret.as_ref().and_then(read);
        let lost = found.is_none();
        let kept = found.or_else(|| self.known.clone());
        let (names, lives) = (self.options.webhook_names(), self.options.lives());
        let next = match (renew(kept.as_ref(), &names, lives, SystemTime::now())?, kept) {
            (None, Some(kept)) if !lost => {
                self.known = Some(kept.clone());
                return Ok(kept);
            }
            (None, kept) => kept.context("nothing stored, and nothing made")?,
            (Some(next), _) => next,
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
        self.known = Some(next.clone());
        Ok(next)
    }

    async fn look<K: Configuration>(&self) -> anyhow::Result<Value> {
        let name = &self.options.webhook_configuration;
        let found = Api::<K>::all(self.client.clone()).get(name).await;
        let found = found.with_context(|| format!("cannot read the {} {name}", K::kind(&())))?;
        Ok(serde_json::to_value(found)?)
    }

    /// Puts the bundle into every webhook of the configuration that does not have it.
    async fn tell<K: Configuration>(&self, found: &Value, bundle: &str) -> anyhow::Result<()> {
        let patch = bundle_patch(found, bundle);
        if patch.is_empty() {
            return Ok(());
        }
        let (kind, name) = (K::kind(&()), &self.options.webhook_configuration);
        let patch: json_patch::Patch = serde_json::from_value(Value::Array(patch))?;
        Api::<K>::all(self.client.clone())
            .patch(name, &PatchParams::default(), &Patch::<()>::Json(patch))
            .await
            .with_context(|| format!("cannot patch the {kind} {name}"))?;
        tracing::info!(%kind, name, "told the API server whom to trust");
        Ok(())
    }
}

/// What can hold webhooks.
trait Configuration:
    Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
    + Clone
    + DeserializeOwned
    + Serialize
    + std::fmt::Debug
{
}
impl Configuration for MutatingWebhookConfiguration {}
impl Configuration for ValidatingWebhookConfiguration {}

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// For people and tools; the authorities are read from [`STATE`].
const BUNDLE: &str = "ca.crt";
const STATE: &str = "state.json";

/// What [`STATE`] holds.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    authorities: Vec<Authority>,
    made: u64,
    expires: u64,
    names: Vec<String>,
}

fn data(material: &Material) -> anyhow::Result<BTreeMap<String, ByteString>> {
    let state = State {
        authorities: material.authorities.clone(),
        made: material.made,
        expires: material.expires,
        names: material.names.clone(),
    };
    let entries = [
        (CERTIFICATE, material.certificate.clone()),
        (KEY, material.key.clone()),
        (BUNDLE, material.bundle()),
        (STATE, serde_json::to_string(&state)?),
    ];
    Ok(entries.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).into())
}

/// What the Secret holds; `None` where something is missing.
fn read(secret: &Secret) -> Option<Material> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    let State { authorities, made, expires, names } = serde_json::from_str(&text(STATE)?).ok()?;
    Some(Material { authorities, certificate: text(CERTIFICATE)?, key: text(KEY)?, made, expires, names })
}

/// A certificate and its key, both PEM, as the server serves them; an error when they do not fit.
pub fn server_config(certificate: &str, key: &str) -> anyhow::Result<ServerConfig> {
    let certificates =
        CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    Ok(config)
}

fn bundle_patch(configuration: &Value, bundle: &str) -> Vec<Value> {
    let webhooks = configuration["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let differing =
        webhooks.iter().enumerate().filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != bundle);
    let adds = differing.map(|(index, _)| {
        json!({ "op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle })
    });
    let mut patch: Vec<_> = adds.collect();
    if !patch.is_empty() {
        // Nothing has been written since it was read: neither are the webhooks in another order, nor is the bundle a newer one.
        let version = &configuration["metadata"]["resourceVersion"];
        patch.insert(0, json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }));
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::certificate::Lives;

    #[test]
    fn what_is_written_is_what_is_read() {
        let lives =
            Lives { authority: Duration::from_secs(900_000), certificate: Duration::from_secs(90_000) };
        let names = vec!["a.svc".to_owned()];
        let mut now = SystemTime::now();
        let mut material = renew(None, &names, lives, now).expect("made").expect("new");
        while material.authorities.len() < 2 {
            let secret = Secret { data: Some(data(&material).expect("plain data")), ..Secret::default() };
            assert!(read(&secret).expect("complete") == material);
            assert!(server_config(&material.certificate, &material.key).is_ok());
            now += Duration::from_secs(30_000);
            material = renew(Some(&material), &names, lives, now).expect("renewed").unwrap_or(material);
        }
    }

    #[test]
    fn a_key_that_does_not_fit_is_not_served() {
        let lives = Lives { authority: Duration::from_secs(900), certificate: Duration::from_secs(90) };
        let make =
            || renew(None, &["a.svc".to_owned()], lives, SystemTime::now()).expect("made").expect("new");
        assert!(server_config(&make().certificate, &make().key).is_err());
    }

    #[test]
    fn a_configuration_that_knows_the_bundle_is_left_alone() {
        let of = |bundle: &str| {
            json!({
                "metadata": { "resourceVersion": "7" },
                "webhooks": [{ "name": "a", "clientConfig": { "caBundle": bundle } }],
            })
        };
        assert!(bundle_patch(&of("same"), "same").is_empty());
        assert_eq!(bundle_patch(&of("other"), "same").len(), 2);
    }
}
