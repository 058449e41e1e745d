//! The webhooks' certificate and the authorities that sign it, all made by the operator.
//!
//! [`renew`] is a pure decision over what is stored. Invariants, with which no API server ever meets a certificate it cannot trust:
//! - a certificate or an authority is followed by the next one when two thirds of its life are over;
//! - a new authority is at first only trusted (it joins the bundle) and signs from the first certificate on that is due after
//!   [`Lives::settle`], so that every API server has been told by then;
//! - an authority is trusted until the last certificate it has signed has expired, for another replica may serve it still. Its key
//!   is forgotten as soon as a newer one signs.
//!
//! Nothing here talks to the cluster.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Clocks differ: what is made now is valid a little earlier.
const SKEW: Duration = Duration::from_secs(3600);

/// How long things live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// An authority.
    pub authority: Duration,
    /// A certificate; at most as long as the authority that signs it.
    pub certificate: Duration,
}

impl Lives {
    /// How often to see whether something is due: far more often than a life is long, because clocks jump, and replicas follow
    /// each other at this pace.
    #[must_use]
    pub fn check(&self) -> Duration {
        (self.certificate / 40).min(Duration::from_secs(60))
    }

    /// How long a new authority is only trusted before it signs.
    #[must_use]
    pub fn settle(&self) -> Duration {
        self.certificate / 12
    }
}

/// One authority.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PEM, as long as it may sign.
    pub key: Option<String>,
    /// When it was made, seconds since 1970.
    pub made: u64,
    /// When it expires, seconds since 1970.
    pub expires: u64,
    /// When the last certificate it has signed expires; 0 while there is none.
    pub needed_until: u64,
}

/// Everything there is to keep.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The authorities, oldest first; the API server is to trust all of them.
    pub authorities: Vec<Authority>,
    /// The webhooks' certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
    /// When it was made, seconds since 1970.
    pub made: u64,
    /// When it expires, seconds since 1970.
    pub expires: u64,
    /// The names it is for.
    pub names: Vec<String>,
}

impl Material {
    /// What the API server is to trust.
    #[must_use]
    pub fn bundle(&self) -> String {
        self.authorities.iter().map(|authority| authority.certificate.as_str()).collect()
    }

    /// The newest authority that everybody knows by now; `None` when none can sign any more.
    fn signer(&self, lives: Lives, now: u64) -> Option<usize> {
        let able = |authority: &Authority| authority.key.is_some() && now < authority.expires;
        let settled = |authority: &Authority| authority.made + lives.settle().as_secs() <= now;
        let known = self.authorities.iter().rposition(|authority| able(authority) && settled(authority));
        known.or_else(|| self.authorities.iter().position(able))
    }

    fn certify(
        &mut self,
        signer: usize,
        names: &[String],
        lives: Lives,
        now: u64,
    ) -> Result<(), rcgen::Error> {
        let Some(authority) = self.authorities.get_mut(signer) else { return Ok(()) };
        let authority_key = KeyPair::from_pem(authority.key.as_deref().unwrap_or_default())?;
        let key = KeyPair::generate()?;
        let expires = (now + lives.certificate.as_secs()).min(authority.expires);
        let mut params = CertificateParams::new(names.to_vec())?;
        params.not_before = (time(now) - SKEW).into();
        params.not_after = time(expires).into();
        params.distinguished_name.push(DnType::CommonName, "cartulary webhook");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::new(authority_params()?, &authority_key);
        self.certificate = params.signed_by(&key, &issuer)?.pem();
        self.key = key.serialize_pem();
        (self.made, self.expires, self.names) = (now, expires, names.to_vec());
        authority.needed_until = authority.needed_until.max(expires);
        for older in &mut self.authorities[..signer] {
            older.key = None;
        }
        Ok(())
    }
}

/// What is to be kept from now on; `None` when `stored` is good as it is. What cannot be used any more is made anew.
pub fn renew(
    stored: Option<&Material>,
    names: &[String],
    lives: Lives,
    now: SystemTime,
) -> Result<Option<Material>, rcgen::Error> {
    let now = seconds(now);
    let usable = stored.filter(|stored| is_whole(stored));
    let Some((stored, signer)) = usable.and_then(|stored| Some((stored, stored.signer(lives, now)?))) else {
        let mut material = Material {
            authorities: vec![authority(lives, now)?],
            certificate: String::new(),
            key: String::new(),
            made: 0,
            expires: 0,
            names: Vec::new(),
        };
        material.certify(0, names, lives, now)?;
        return Ok(Some(material));
    };
    let mut next = stored.clone();
    if stored.names != names || is_due(stored.made, stored.expires, now) {
        next.certify(signer, names, lives, now)?;
    }
    if stored.authorities.last().is_none_or(|newest| is_due(newest.made, newest.expires, now)) {
        next.authorities.push(authority(lives, now)?);
    }
    next.authorities.retain(|authority| {
        now < authority.expires && (authority.key.is_some() || now < authority.needed_until)
    });
    Ok((next != *stored).then_some(next))
}

/// Whether every key can be read.
fn is_whole(material: &Material) -> bool {
    let keys = material.authorities.iter().filter_map(|authority| authority.key.as_ref());
    keys.chain([&material.key]).all(|key| KeyPair::from_pem(key).is_ok())
}

/// Two thirds of a life are over.
fn is_due(made: u64, expires: u64, now: u64) -> bool {
    now >= expires.saturating_sub(expires.saturating_sub(made) / 3)
}

fn authority(lives: Lives, now: u64) -> Result<Authority, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = authority_params()?;
    let expires = now + lives.authority.as_secs();
    params.not_before = (time(now) - SKEW).into();
    params.not_after = time(expires).into();
    let certificate = params.self_signed(&key)?.pem();
    Ok(Authority { certificate, key: Some(key.serialize_pem()), made: now, expires, needed_until: 0 })
}

/// The same for each authority: its name and what it may do. The key tells them apart.
fn authority_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "cartulary webhook authority");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use std::sync::Arc;

    const DAY: u64 = 86_400;
    const LIVES: Lives =
        Lives { authority: Duration::from_secs(5 * 365 * DAY), certificate: Duration::from_secs(90 * DAY) };

    fn names() -> Vec<String> {
        vec!["cartulary-webhook.cartulary.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    fn day(n: u64) -> SystemTime {
        time((20_000 + n) * DAY)
    }

    fn made() -> Material {
        renew(None, &names(), LIVES, day(0)).expect("made").expect("new")
    }

    fn renewed(stored: &Material, now: SystemTime) -> Option<Material> {
        renew(Some(stored), &names(), LIVES, now).expect("renewed")
    }

    /// As an API server that knows `bundle` decides.
    fn trusts(bundle: &str, certificate: &str, now: SystemTime) -> bool {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root.expect("PEM")).expect("an authority");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("roots");
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
        let name = ServerName::try_from("cartulary-webhook.cartulary.svc").expect("a name");
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds(now)));
        verifier.verify_server_cert(&certificate, &[], &name, &[], now).is_ok()
    }

    #[test]
    fn what_is_fresh_is_left_as_it_is() {
        let material = made();
        assert!(renewed(&material, day(0)).is_none());
        assert!(renewed(&material, day(59)).is_none());
    }

    #[test]
    fn a_certificate_is_renewed_long_before_it_expires_by_the_same_authority() {
        let first = made();
        let second = renewed(&first, day(60)).expect("due");
        assert_ne!(first.certificate, second.certificate);
        assert_eq!(first.bundle(), second.bundle());
    }

    #[test]
    fn a_new_name_is_certified_at_once_by_an_authority_that_is_known() {
        let first = made();
        let others = vec!["elsewhere.svc".to_owned()];
        let second = renew(Some(&first), &others, LIVES, day(1)).expect("made").expect("due");
        assert!(second.names == others && second.bundle() == first.bundle());

        // Also in the days in which a new authority is known and does not sign yet.
        let joined = (1_000..2_000).map(day).find_map(|now| {
            let mut material = first.clone();
            (material.made, material.expires) = (seconds(now), seconds(now) + LIVES.certificate.as_secs());
            renewed(&material, now).map(|material| (material, now))
        });
        let (joined, now) = joined.expect("due some day");
        assert_eq!(joined.authorities.len(), 2);
        let named = renew(Some(&joined), &others, LIVES, now).expect("made").expect("due");
        assert!(named.authorities[0].needed_until > first.authorities[0].needed_until);
        assert_eq!(named.authorities[1].needed_until, 0);
    }

    #[test]
    fn ko_3_every_certificate_is_trusted_from_a_while_before_it_is_made_until_it_expires() {
        // With the second a certificate is due three days after an authority has joined.
        for days in [5 * 365, 1_795] {
            let lives = Lives { authority: Duration::from_secs(days * DAY), ..LIVES };
            rotate(lives, (1..3 * days).map(day));
        }
    }

    fn rotate(lives: Lives, times: impl Iterator<Item = SystemTime>) {
        let mut material = renew(None, &names(), lives, day(0)).expect("made").expect("new");
        let mut certificates = vec![(material.certificate.clone(), material.expires)];
        let mut bundles = vec![(seconds(day(0)), material.bundle())];
        let (mut most, first) = (0, material.bundle());
        for now in times {
            if let Some(next) = renew(Some(&material), &names(), lives, now).expect("renewed") {
                if next.certificate != material.certificate {
                    // Who was told days ago and not since trusts it too.
                    let long_ago = seconds(now) - lives.settle().as_secs();
                    let known = bundles.iter().rev().find(|(told, _)| *told <= long_ago).or(bundles.first());
                    assert!(trusts(&known.expect("told").1, &next.certificate, now));
                    certificates.push((next.certificate.clone(), next.expires));
                }
                bundles.push((seconds(now), next.bundle()));
                material = next;
            }
            most = most.max(material.authorities.len());
            certificates.retain(|(_, expires)| seconds(now) < *expires);
            for (certificate, _) in &certificates {
                assert!(trusts(&material.bundle(), certificate, now), "another replica serves it still");
            }
        }
        assert!(!material.bundle().contains(&first), "what nobody needs is forgotten");
        assert_eq!(most, 2);
        assert!(material.authorities.iter().filter(|authority| authority.key.is_some()).count() <= 2);
    }

    #[test]
    fn what_cannot_be_used_is_made_anew() {
        let mut damaged = made();
        damaged.authorities[0].key = Some("no key".to_owned());
        let mut keyless = made();
        keyless.authorities[0].key = None;
        for material in [damaged, keyless] {
            assert!(renewed(&material, day(1)).is_some());
        }
        let late = renewed(&made(), day(6 * 365)).expect("all has expired");
        assert!(trusts(&late.bundle(), &late.certificate, day(6 * 365)));
    }

    #[test]
    fn an_operator_that_was_away_for_long_goes_on_with_the_authority_that_is_known() {
        let first = made();
        let now = day(5 * 365 - 10);
        let late = renewed(&first, now).expect("due");
        assert!(trusts(&first.bundle(), &late.certificate, now));
        assert_eq!(late.authorities.len(), 2);
    }
}
