//! The webhooks' certificate and the authority that signed it, both made by the operator.
//!
//! [`renew`] is a pure decision over what is stored: what is missing, unreadable, or two thirds through its life is made anew.
//! A new authority is first only trusted (it joins the bundle) and signs from the next renewal of the certificate on, so that no
//! API server meets a certificate whose authority it has not been told of. Nothing here talks to the cluster.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const AUTHORITY_LIFE: Duration = Duration::from_secs(5 * 365 * 86_400);
const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// Clocks differ: what is made now is valid a little earlier.
const SKEW: Duration = Duration::from_secs(3600);

/// Everything there is to keep, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The authority that signs.
    pub authority: String,
    /// Its key.
    pub authority_key: String,
    /// When it expires, seconds since 1970.
    pub authority_expires: u64,
    /// The authority before it, and when it expires; trusted until then.
    pub previous: Option<(String, u64)>,
    /// The webhooks' certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// When it expires, seconds since 1970.
    pub expires: u64,
    /// The names it is for.
    pub names: Vec<String>,
}

impl Material {
    /// What the API server is to trust.
    #[must_use]
    pub fn bundle(&self) -> String {
        let previous =
            self.previous.as_ref().map(|(certificate, _)| certificate.as_str()).unwrap_or_default();
        format!("{}{previous}", self.authority)
    }
}

/// What is to be kept from now on; `None` when `stored` is good as it is.
pub fn renew(
    stored: Option<&Material>,
    names: &[String],
    now: SystemTime,
) -> Result<Option<Material>, rcgen::Error> {
    let Some(stored) = stored else { return fresh(names, now).map(Some) };
    let Ok(authority_key) = KeyPair::from_pem(&stored.authority_key) else {
        return fresh(names, now).map(Some);
    };
    if KeyPair::from_pem(&stored.key).is_err() || seconds(now) >= stored.authority_expires {
        return fresh(names, now).map(Some);
    }
    let mut next = stored.clone();
    if next.previous.as_ref().is_some_and(|(_, expires)| seconds(now) >= *expires) {
        next.previous = None;
    }
    // The certificate first, by the authority that is known already.
    let mut signer = authority_key;
    if stored.names != names || due(stored.expires, CERTIFICATE_LIFE, now) {
        certify(&mut next, &signer, names, now)?;
    }
    if due(stored.authority_expires, AUTHORITY_LIFE, now) && seconds(now) < next.expires {
        signer = KeyPair::generate()?;
        let (authority, expires) = authority(&signer, now)?;
        next.previous = Some((next.authority, next.authority_expires));
        (next.authority, next.authority_key, next.authority_expires) =
            (authority, signer.serialize_pem(), expires);
    }
    Ok((next != *stored).then_some(next))
}

fn fresh(names: &[String], now: SystemTime) -> Result<Material, rcgen::Error> {
    let key = KeyPair::generate()?;
    let (authority, authority_expires) = authority(&key, now)?;
    let mut material = Material {
        authority,
        authority_key: key.serialize_pem(),
        authority_expires,
        previous: None,
        certificate: String::new(),
        key: String::new(),
        expires: 0,
        names: Vec::new(),
    };
    certify(&mut material, &key, names, now)?;
    Ok(material)
}

/// Two thirds of a life are over.
fn due(expires: u64, life: Duration, now: SystemTime) -> bool {
    seconds(now) + life.as_secs() / 3 >= expires
}

fn authority(key: &KeyPair, now: SystemTime) -> Result<(String, u64), rcgen::Error> {
    let mut params = authority_params()?;
    let expires = now + AUTHORITY_LIFE;
    params.not_before = (now - SKEW).into();
    params.not_after = expires.into();
    Ok((params.self_signed(key)?.pem(), seconds(expires)))
}

/// The same for each authority: its name and what it may do. The key tells them apart.
fn authority_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "cartulary webhook authority");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn certify(
    material: &mut Material,
    authority: &KeyPair,
    names: &[String],
    now: SystemTime,
) -> Result<(), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    let expires = now + CERTIFICATE_LIFE;
    params.not_before = (now - SKEW).into();
    params.not_after = expires.into();
    params.distinguished_name.push(DnType::CommonName, "cartulary webhook");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let issuer = Issuer::new(authority_params()?, authority);
    material.certificate = params.signed_by(&key, &issuer)?.pem();
    material.key = key.serialize_pem();
    material.expires = seconds(expires);
    material.names = names.to_vec();
    Ok(())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How often to see whether something is due; far more often than a life is long, because clocks jump.
pub const CHECK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn names() -> Vec<String> {
        vec!["cartulary-webhook.cartulary.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    fn day(n: u64) -> SystemTime {
        UNIX_EPOCH + DAY * (20_000 + u32::try_from(n).expect("small"))
    }

    fn renewed(stored: &Material, now: SystemTime) -> Option<Material> {
        renew(Some(stored), &names(), now).expect("renewed")
    }

    #[test]
    fn what_is_fresh_is_left_as_it_is() {
        let material = renew(None, &names(), day(0)).expect("made").expect("new");
        assert!(renewed(&material, day(0)).is_none());
        assert!(renewed(&material, day(59)).is_none());
    }

    #[test]
    fn a_certificate_is_renewed_long_before_it_expires_by_the_same_authority() {
        let first = renew(None, &names(), day(0)).expect("made").expect("new");
        let second = renewed(&first, day(60)).expect("due");
        assert_ne!(first.certificate, second.certificate);
        assert_eq!(first.bundle(), second.bundle());
    }

    #[test]
    fn a_new_name_is_certified_at_once() {
        let first = renew(None, &names(), day(0)).expect("made").expect("new");
        let others = vec!["elsewhere.svc".to_owned()];
        let second = renew(Some(&first), &others, day(1)).expect("made").expect("due");
        assert_eq!((second.names, first.authority), (others, second.authority));
    }

    #[test]
    fn a_new_authority_is_trusted_before_it_signs_and_the_old_one_as_long_as_it_lives() {
        let mut material = renew(None, &names(), day(0)).expect("made").expect("new");
        let first = material.authority.clone();
        let mut signed_by_new = false;
        for now in (0..5 * 365 + 90).map(day) {
            let Some(next) = renewed(&material, now) else { continue };
            if next.authority != material.authority {
                assert!(next.bundle().contains(&first), "the old one is still trusted");
                // In the same step the certificate is at most renewed by the old one.
                assert!(next.expires <= material.authority_expires);
            } else if next.authority != first && next.certificate != material.certificate {
                signed_by_new = true;
            }
            assert!(next.expires > seconds(now));
            material = next;
        }
        assert!(signed_by_new);
        assert!(material.previous.is_none(), "an authority that has expired is forgotten");
    }

    #[test]
    fn what_cannot_be_read_is_made_anew() {
        let mut material = renew(None, &names(), day(0)).expect("made").expect("new");
        material.authority_key = "no key".to_owned();
        assert!(renewed(&material, day(1)).is_some());
    }
}
