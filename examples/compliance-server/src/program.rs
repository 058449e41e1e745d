//! What the three programs have in common: their options, and running until they are told to end. A vendor's own program may do it
//! differently.

use crate::server::{Policy, Server};
use anyhow::{Context, bail};
use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Where to listen, and whom to admit.
#[derive(Args, Debug)]
pub struct Listening {
    /// Address and port to listen on; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5347")]
    pub listen: String,
    /// Component name to admit, op-SERVER.POD; * admits any. May be given several times
    #[arg(long, value_name = "NAME", required = true)]
    pub component: Vec<String>,
    /// File that holds the password (a line end after it does not count); otherwise it is taken from COMPLIANCE_PASSWORD
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// PEM of the certificate chain: TLS from the first byte
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM of its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// PEM of the authorities of client certificates: only who has one is admitted
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,
}

impl Listening {
    /// Serves `policy` until SIGTERM or SIGINT, then ends in order. Progress goes to standard error.
    pub async fn run(&self, policy: impl Policy) -> anyhow::Result<()> {
        let mut server = Server::new(self.password()?).observe(|progress| eprintln!("{progress}"));
        for name in &self.component {
            server = server.component(name);
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            server = server.tls(tls(certificate, key, self.client_ca.as_deref())?);
        }
        // Before anybody can know that it listens: whoever ends it then ends it in order.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let listener = TcpListener::bind(&self.listen)
            .await
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        eprintln!("listening on {}", listener.local_addr()?);
        let stop = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            eprintln!("ending");
        };
        server.run(listener, policy, stop).await;
        eprintln!("ended");
        Ok(())
    }

    fn password(&self) -> anyhow::Result<String> {
        let text = match &self.password_file {
            Some(file) => std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the password file {}", file.display()))?,
            None => std::env::var("COMPLIANCE_PASSWORD")
                .context("no password: give --password-file, or set COMPLIANCE_PASSWORD")?,
        };
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            bail!("the password is empty");
        }
        Ok(password.to_owned())
    }
}

fn tls(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(file)? {
                roots.add(authority).with_context(|| format!("{} holds no authority", file.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("cannot read the key {}", key.display()))?;
    builder
        .with_single_cert(certificates(certificate)?, key)
        .context("the certificate and its key cannot be used")
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let found = read().with_context(|| format!("cannot read the certificates in {}", file.display()))?;
    if found.is_empty() {
        bail!("{} holds no certificate", file.display());
    }
    Ok(found)
}
