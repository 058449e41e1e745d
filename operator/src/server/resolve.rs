//! From a ComplianceServer and its Secrets to what a sidecar is told. Pure.

use crate::conditions::Problem;
use crate::endpoint::resolve::{Secrets, value};
use crate::reasons as reason;
use cartulary_compliance::config;
use cartulary_crds::{ComplianceServer, ServerTls, StreamNamespace, TlsMode};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use std::net::Ipv6Addr;

/// The Secrets a server refers to.
#[must_use]
pub fn secret_names(server: &ComplianceServer) -> Vec<String> {
    let spec = &server.spec;
    let ca = spec.tls.ca_secret.as_ref().map(|secret| secret.name.clone());
    let own = spec.tls.client_certificate_secret.as_ref().map(|secret| secret.name.clone());
    [spec.password_secret.name.clone()].into_iter().chain(ca).chain(own).collect()
}

/// What a sidecar is told of the server.
pub fn resolve(server: &ComplianceServer, secrets: &Secrets) -> Result<config::ComplianceServer, Problem> {
    let spec = &server.spec;
    let owner = format!("ComplianceServer {}", server.metadata.name.as_deref().unwrap_or_default());
    if !is_host(&spec.host) {
        let message = format!(
            "{owner}: the host {:?} is none: letters, digits, '.', '\\', '-' and '_' may be used, or an IPv6 address without brackets",
            spec.host
        );
        return Err(Problem::new(reason::HOST_INVALID, message));
    }
    let keepalive = spec
        .keepalive
        .duration()
        .map_err(|error| Problem::new(reason::CONTRADICTION, format!("{owner}: keepalive: {error}")))?;
    Ok(config::ComplianceServer {
        host: spec.host.clone(),
        port: spec.port,
        password: value(&owner, secrets, &spec.password_secret.name, &spec.password_secret.key)?,
        stream: match spec.stream_namespace {
            StreamNamespace::Accept => config::StreamNamespace::Accept,
            StreamNamespace::Connect => config::StreamNamespace::Connect,
        },
        tls: match spec.tls.mode {
            TlsMode::Disable => None,
            TlsMode::VerifyFull => Some(tls(&owner, &spec.host, &spec.tls, secrets)?),
        },
        keepalive_seconds: u32::try_from(keepalive.as_secs()).unwrap_or(u32::MAX).max(1),
    })
}

/// CS-1: letters, digits, `.` `\` `-` `_`; or IPv6.
fn is_host(host: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '\\' | '-' | '_');
    !host.is_empty() && (host.chars().all(allowed) || host.parse::<Ipv6Addr>().is_ok())
}

/// Looks closely: what cannot be used is told here, once, and not by each node when it connects.
fn tls(owner: &str, host: &str, spec: &ServerTls, secrets: &Secrets) -> Result<config::ClientTls, Problem> {
    let unusable = |what: String| Problem::new(reason::TLS_UNUSABLE, format!("{owner}: {what}"));
    let name = spec.server_name.as_deref().unwrap_or(host);
    if ServerName::try_from(name).is_err() {
        let advice = "set tls.serverName to a name in its certificate";
        return Err(unusable(format!("no certificate can have the name {name:?}: {advice}")));
    }
    let ca = match &spec.ca_secret {
        Some(ca) => Some((value(owner, secrets, &ca.name, &ca.key)?, ca)),
        None => None,
    };
    if let Some((pem, ca)) = &ca {
        let mut roots = RootCertStore::empty();
        let certificates = certificates(pem).unwrap_or_default();
        if certificates.is_empty() || certificates.into_iter().any(|found| roots.add(found).is_err()) {
            let place = format!("the key {} in the Secret {}", ca.key, ca.name);
            return Err(unusable(format!("{place} holds no PEM certificates of authorities: correct it")));
        }
    }
    let identity = match &spec.client_certificate_secret {
        None => None,
        Some(secret) => {
            let identity = config::Identity {
                certificate: value(owner, secrets, &secret.name, "tls.crt")?,
                key: value(owner, secrets, &secret.name, "tls.key")?,
            };
            let name = &secret.name;
            check(&identity).map_err(|what| unusable(format!("the Secret {name}: {what}: correct it")))?;
            Some(identity)
        }
    };
    Ok(config::ClientTls { ca: ca.map(|(pem, _)| pem), server_name: spec.server_name.clone(), identity })
}

/// Whether key and certificate are ones, and of one another. What is wrong never quotes them.
fn check(identity: &config::Identity) -> Result<(), &'static str> {
    let chain = certificates(&identity.certificate).filter(|chain| !chain.is_empty());
    let chain = chain.ok_or("tls.crt holds no PEM certificate")?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes());
    let key = key.map_err(|_| "tls.key holds no PEM private key")?;
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("tls.key is not the key of tls.crt"),
        Err(_) => Err("tls.crt and tls.key cannot be used"),
    }
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()
}
