//! Servers that federate on this machine: an address of 127.0.0.0/8 and a certificate for each, and names that resolve without DNS.
//!
//! Each server's resolver is told the addresses by a hosts file and knows nothing else of `.test`, so it falls back to the standard
//! port; streams are encrypted and each side shows a certificate of the same authority (SASL EXTERNAL).

use crate::process::folder;
use crate::prosody::own_address;
use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tempfile::TempDir;

/// Who federates with whom.
#[derive(Debug)]
pub struct Federation {
    dir: TempDir,
    members: Vec<Member>,
}

/// What one server needs to know.
#[derive(Debug, Clone)]
pub struct Member {
    /// The virtual host; its services are below it.
    pub domain: String,
    pub(crate) address: Ipv4Addr,
    dir: PathBuf,
}

impl Federation {
    /// Of servers for these domains, none of them running yet.
    pub fn of(domains: &[&str]) -> Result<Self> {
        let dir = folder()?;
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Named apart from what it signs, or that would look signed by itself.
        authority.distinguished_name.push(DnType::CommonName, "Authority of the tests");
        fs::write(dir.path().join("ca.crt"), authority.self_signed(&authority_key)?.pem())?;
        let issuer = Issuer::new(authority, authority_key);
        let mut hosts = String::new();
        let mut members = Vec::new();
        for domain in domains {
            let names = names(domain);
            let key = KeyPair::generate()?;
            let mut certificate = CertificateParams::new(names.to_vec())?;
            certificate.distinguished_name.push(DnType::CommonName, *domain);
            let certificate = certificate.signed_by(&key, &issuer)?;
            fs::write(dir.path().join(format!("{domain}.crt")), certificate.pem())?;
            fs::write(dir.path().join(format!("{domain}.key")), key.serialize_pem())?;
            let address = own_address()?;
            hosts += &format!("{address} {}\n", names.join(" "));
            members.push(Member { domain: (*domain).to_owned(), address, dir: dir.path().to_owned() });
        }
        fs::write(dir.path().join("hosts"), hosts)?;
        Ok(Self { dir, members })
    }

    /// The server of this domain.
    pub fn member(&self, domain: &str) -> Result<Member> {
        let found = self.members.iter().find(|member| member.domain == domain);
        found.cloned().with_context(|| format!("{domain} is not in {}", self.dir.path().display()))
    }
}

impl Member {
    // Lines of its server's configuration.
    pub(crate) fn config(&self) -> String {
        let file = |name: String| self.dir.join(name).display().to_string();
        let Self { domain, address, .. } = self;
        format!(
            r#"s2s_interfaces = {{ "{address}" }}
s2s_require_encryption = true
s2s_secure_auth = true
ssl = {{ certificate = "{}", key = "{}", cafile = "{}" }}
unbound = {{ resolvconf = false, hoststxt = "{}", options = {{ ["local-zone:"] = "test. static" }} }}
"#,
            file(format!("{domain}.crt")),
            file(format!("{domain}.key")),
            file("ca.crt".to_owned()),
            file("hosts".to_owned()),
        )
    }
}

fn names(domain: &str) -> [String; 3] {
    [domain.to_owned(), format!("rooms.{domain}"), format!("bot.{domain}")]
}
