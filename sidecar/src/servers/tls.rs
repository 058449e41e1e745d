//! TLS to a compliance server, from the first byte (CS-5): who is trusted, under which name, and what went wrong in words.

use super::connect::Broken;
use cartulary_compliance::config::ClientTls;
use cartulary_compliance::status::LinkCause;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A declaration made ready; what is wrong with it is found before anybody is spoken to.
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// The same for people.
    named: String,
}

impl Tls {
    /// Reads certificates and key. `host` is the name that is expected where none is declared.
    pub fn new(declared: &ClientTls, host: &str) -> Result<Self, Broken> {
        let wrong = |message: String| Broken { cause: LinkCause::Tls, message };
        let named = declared.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(named.clone())
            .map_err(|_| wrong(format!("{named} cannot be a certificate's name: set tls.serverName")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(format!("TLS cannot be used: {error}")))?
            .with_root_certificates(roots(declared.ca.as_deref()).map_err(wrong)?);
        let config = match &declared.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates(&identity.certificate)
                    .map_err(|error| wrong(format!("the client certificate cannot be read: {error}")))?;
                // What a key's reader complains of may quote it.
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())
                    .map_err(|_| wrong("the client certificate's key cannot be read as PEM".into()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    wrong(format!("client certificate and key do not fit or cannot be used: {error}"))
                })?
            }
        };
        Ok(Self { config: Arc::new(config), name, named })
    }

    /// Speaks TLS on a fresh connection.
    pub async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Broken> {
        let connecting = TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream);
        connecting.await.map_err(|error| match in_words(&error, &self.named) {
            Some(message) => Broken { cause: LinkCause::Tls, message },
            None => Broken { cause: LinkCause::Tls, message: format!("TLS could not be set up: {error}") },
        })
    }
}

fn roots(ca: Option<&str>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in certificates(pem).map_err(|error| format!("the CA cannot be read: {error}"))? {
                roots.add(certificate).map_err(|error| format!("the CA cannot be used: {error}"))?;
            }
        }
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    if roots.is_empty() {
        return Err("no authority is trusted: the image has none, set tls.ca".into());
    }
    Ok(roots)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => Err("it holds no certificate in PEM".into()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(error.to_string()),
    }
}

/// What TLS complains of, if this is of TLS.
pub fn in_words(error: &std::io::Error, name: &str) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet: compare the clocks".into()
            }
            // A bad signature: an authority of the same name and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the server's certificate is of an authority that is not trusted: set tls.ca".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("the server's certificate is not for {name}: set tls.serverName or renew it")
            }
            other => format!("the server's certificate cannot be used: {other}"),
        },
        rustls::Error::AlertReceived(alert) => {
            format!("the server refused TLS: {alert:?}; it may want a client certificate, or another one")
        }
        rustls::Error::InvalidMessage(_) => "what listens there does not speak TLS".into(),
        other => format!("TLS failed: {other}"),
    })
}
