//! Certificates of a test's compliance servers, and of those that connect to them.

use anyhow::{Context, Result};
use cartulary_compliance::config::{ClientTls, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// The name in the server's certificate.
pub const SERVER_NAME: &str = "policy.test";

/// Who signs.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Authority of the policy tests");
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// How the sidecar protects its connection: it trusts this authority, expects [`SERVER_NAME`], and shows a certificate of this
    /// authority if `identified`.
    pub fn client(&self, identified: bool) -> Result<ClientTls> {
        let identity = || -> Result<Identity> {
            let (certificate, key) = self.sign("sidecar.test", ExtendedKeyUsagePurpose::ClientAuth, 2100)?;
            Ok(Identity { certificate, key })
        };
        Ok(ClientTls {
            ca: Some(self.certificate.clone()),
            server_name: Some(SERVER_NAME.to_owned()),
            identity: identified.then(identity).transpose()?,
        })
    }

    /// A server for `name` whose certificate ends with the year `until` and that lets in nobody without a certificate of this
    /// authority.
    pub fn server(&self, name: &str, until: i32) -> Result<TlsAcceptor> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ServerAuth, until)?;
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .context("the server's certificate")?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose, until: i32) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages.push(usage);
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}
