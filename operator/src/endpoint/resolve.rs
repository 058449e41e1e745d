//! From an ArchiveEndpoint and its Secrets to what a sidecar is told. Pure.

use crate::conditions::Problem;
use crate::reasons as reason;
use cartulary_compliance::config;
use cartulary_crds::{ArchiveEndpoint, EndpointType, PostgreSql, TlsMode};
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Secrets by name; one that was looked for and is not there has no entry.
pub type Secrets = BTreeMap<String, Arc<Secret>>;

/// The Secrets an endpoint refers to.
#[must_use]
pub fn secret_names(endpoint: &ArchiveEndpoint) -> Vec<String> {
    let Some(postgresql) = &endpoint.spec.postgresql else { return Vec::new() };
    let ca = postgresql.tls.ca_secret.as_ref().map(|secret| secret.name.clone());
    [postgresql.credentials_secret.name.clone()].into_iter().chain(ca).collect()
}

/// What a sidecar is told of the endpoint.
pub fn resolve(endpoint: &ArchiveEndpoint, secrets: &Secrets) -> Result<config::Endpoint, Problem> {
    let name = endpoint.metadata.name.as_deref().unwrap_or_default();
    let contradiction =
        |what: String| Problem::new(reason::CONTRADICTION, format!("ArchiveEndpoint {name}: {what}"));
    let target = match (endpoint.spec.kind, &endpoint.spec.postgresql) {
        (EndpointType::SQLite, _) => config::EndpointTarget::Sqlite,
        (EndpointType::PostgreSQL, Some(postgresql)) => {
            config::EndpointTarget::PostgreSql(resolve_postgresql(name, postgresql, secrets)?)
        }
        (EndpointType::PostgreSQL, None) => return Err(contradiction("postgresql is missing".to_owned())),
    };
    let queue = &endpoint.spec.queue;
    let max_bytes = match &queue.max_bytes {
        Some(size) => size.bytes().map_err(|error| contradiction(format!("queue.maxBytes: {error}")))?,
        None => config::QueueLimit::default().max_bytes,
    };
    let max_records = u64::try_from(queue.max_records).unwrap_or(1).max(1);
    Ok(config::Endpoint { target, queue: config::QueueLimit { max_records, max_bytes } })
}

fn resolve_postgresql(
    endpoint: &str,
    spec: &PostgreSql,
    secrets: &Secrets,
) -> Result<config::PostgreSql, Problem> {
    let owner = &format!("ArchiveEndpoint {endpoint}");
    let credentials = &spec.credentials_secret.name;
    let ca = match &spec.tls.ca_secret {
        Some(ca) => Some(value(owner, secrets, &ca.name, &ca.key)?),
        None => None,
    };
    Ok(config::PostgreSql {
        host: spec.host.clone(),
        port: spec.port,
        database: spec.database.clone(),
        username: value(owner, secrets, credentials, "username")?,
        password: value(owner, secrets, credentials, "password")?,
        tls: match spec.tls.mode {
            TlsMode::VerifyFull => config::TlsMode::VerifyFull,
            TlsMode::Disable => config::TlsMode::Disable,
        },
        ca,
    })
}

/// The text under `key`, which must be there; the problem names `owner`, Secret and key, never the content.
pub fn value(owner: &str, secrets: &Secrets, name: &str, key: &str) -> Result<String, Problem> {
    let secret = secrets.get(name).ok_or_else(|| {
        Problem::new(
            reason::SECRET_MISSING,
            format!("{owner} refers to the Secret {name}, which is not there: create it"),
        )
    })?;
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes
        .and_then(|bytes| std::str::from_utf8(&bytes.0).ok())
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| {
            Problem::new(
                reason::SECRET_INCOMPLETE,
                format!("{owner} needs the key {key} in the Secret {name}, with some text: add it"),
            )
        })
}
