//! Heads: how far a stream had got, signed by its journal. `docs/record.md`, section "A head and its anchor", is the specification.
//!
//! Invariants: there is one way to write the signed bytes and one way to write the JSON of them; [`verify`] takes no other. A head
//! proves only that the holder of its key said so: which key belongs to which journal is for whoever keeps anchors to know.

use crate::record::Hash;
use cartulary_compliance::status::{Head, Place};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use uuid::Uuid;

const DOMAIN: &[u8] = b"cartulary-head-1";

/// What a head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The journal.
    pub journal: Uuid,
    /// The incarnation.
    pub incarnation: Uuid,
    /// The endpoint's name.
    pub endpoint: String,
    /// The last durable record of the stream in its journal.
    pub last: Mark,
    /// The last record of this incarnation that the archive had confirmed.
    pub confirmed: Option<Mark>,
    /// Whether `last` is the closing record.
    pub closed: bool,
    /// When it was signed, nanoseconds since the epoch.
    pub at_nanos: i64,
}

/// A record's place in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its sequence.
    pub sequence: u64,
    /// Its hash.
    pub hash: Hash,
}

/// A head whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedHead {
    /// What it says.
    pub statement: Statement,
    /// Under which key.
    pub public_key: [u8; 32],
}

/// Why a head is not believed. Messages quote nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The journal's or incarnation's id.
    #[error("the head's journal or incarnation is not a UUID in its usual form")]
    Uuid,
    /// A hash, the key or the signature.
    #[error("a hash, the key or the signature of the head is not lower-case hex of the right length")]
    Hex,
    /// The endpoint's name.
    #[error("the endpoint's name in the head is longer than 65535 bytes")]
    Endpoint,
    /// Confirmed is ahead of what was written.
    #[error("the head names a confirmed record that comes after its last one")]
    Order,
    /// The key is none.
    #[error("the head's key is not an Ed25519 public key")]
    Key,
    /// The signature does not fit.
    #[error("the head's signature does not fit what it says: it was changed, or another key signed it")]
    Signature,
}

/// A journal's key. It is shown to nobody.
pub struct Signer(SigningKey);

impl Signer {
    /// The key of a seed (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Its public half.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }
}

/// Signs a statement. An endpoint's name has at most 65535 bytes, which Kubernetes sees to; a longer one gives a head that
/// [`verify`] refuses.
#[must_use]
pub fn sign(signer: &Signer, statement: &Statement) -> Head {
    let place = |mark: Mark| Place { sequence: mark.sequence, hash: hex::encode(mark.hash) };
    Head {
        journal: statement.journal.to_string(),
        incarnation: statement.incarnation.to_string(),
        endpoint: statement.endpoint.clone(),
        sequence: statement.last.sequence,
        hash: hex::encode(statement.last.hash),
        confirmed: statement.confirmed.map(place),
        closed: statement.closed,
        at_nanos: statement.at_nanos,
        public_key: hex::encode(signer.public_key()),
        signature: hex::encode(signer.0.sign(&signed_bytes(statement)).to_bytes()),
    }
}

/// Reads a head and checks its signature.
///
/// # Errors
/// A [`HeadError`] for whatever is not written as the specification says, or not signed by the key it names.
pub fn verify(head: &Head) -> Result<VerifiedHead, HeadError> {
    if u16::try_from(head.endpoint.len()).is_err() {
        return Err(HeadError::Endpoint);
    }
    let mark = |sequence, hash: &str| Ok(Mark { sequence, hash: unhex(hash)? });
    let statement = Statement {
        journal: uuid(&head.journal)?,
        incarnation: uuid(&head.incarnation)?,
        endpoint: head.endpoint.clone(),
        last: mark(head.sequence, &head.hash)?,
        confirmed: head.confirmed.as_ref().map(|place| mark(place.sequence, &place.hash)).transpose()?,
        closed: head.closed,
        at_nanos: head.at_nanos,
    };
    let public_key = unhex(&head.public_key)?;
    let key = VerifyingKey::from_bytes(&public_key).map_err(|_| HeadError::Key)?;
    let signature = Signature::from_bytes(&unhex(&head.signature)?);
    // Strict: a key of small order would let one signature fit many statements.
    key.verify_strict(&signed_bytes(&statement), &signature).map_err(|_| HeadError::Signature)?;
    if statement.confirmed.is_some_and(|confirmed| confirmed.sequence > statement.last.sequence) {
        return Err(HeadError::Order);
    }
    Ok(VerifiedHead { statement, public_key })
}

fn signed_bytes(statement: &Statement) -> Vec<u8> {
    let mut out = DOMAIN.to_vec();
    out.extend_from_slice(statement.journal.as_bytes());
    out.extend_from_slice(statement.incarnation.as_bytes());
    out.extend_from_slice(&u16::try_from(statement.endpoint.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(statement.endpoint.as_bytes());
    put_mark(&mut out, statement.last);
    out.push(u8::from(statement.confirmed.is_some()));
    if let Some(confirmed) = statement.confirmed {
        put_mark(&mut out, confirmed);
    }
    out.push(u8::from(statement.closed));
    out.extend_from_slice(&statement.at_nanos.to_be_bytes());
    out
}

fn put_mark(out: &mut Vec<u8>, mark: Mark) {
    out.extend_from_slice(&mark.sequence.to_be_bytes());
    out.extend_from_slice(&mark.hash);
}

fn uuid(text: &str) -> Result<Uuid, HeadError> {
    let uuid = Uuid::try_parse(text).map_err(|_| HeadError::Uuid)?;
    // One way to write it: heads are compared as text where they are kept.
    if uuid.to_string() == text { Ok(uuid) } else { Err(HeadError::Uuid) }
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], HeadError> {
    let bytes: [u8; N] =
        hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(HeadError::Hex)?;
    if hex::encode(bytes) == text { Ok(bytes) } else { Err(HeadError::Hex) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement() -> Statement {
        Statement {
            journal: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
            incarnation: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002),
            endpoint: "main".to_owned(),
            last: Mark { sequence: 7, hash: [0xab; 32] },
            confirmed: Some(Mark { sequence: 5, hash: [0xcd; 32] }),
            closed: false,
            at_nanos: 1_700_000_000_123_456_789,
        }
    }

    fn signer() -> Signer {
        Signer::from_seed(&std::array::from_fn(|index| u8::try_from(index).unwrap_or_default()))
    }

    /// `docs/record.md` prints this vector, so that another implementation can check itself.
    #[test]
    fn a_head_is_signed_as_the_specification_says() {
        let bytes = signed_bytes(&statement());
        assert_eq!(
            hex::encode(&bytes),
            format!(
                "{}{}{}{}{}{}{}{}{}{}{}{}",
                "63617274756c6172792d686561642d31",
                "01900000000070008000000000000001",
                "01900000000070008000000000000002",
                "0004",
                "6d61696e",
                "0000000000000007",
                "ab".repeat(32),
                "01",
                "0000000000000005",
                "cd".repeat(32),
                "00",
                "17979cfe3d85cd15",
            )
        );
        let head = sign(&signer(), &statement());
        assert_eq!(head.public_key, GOLDEN_KEY);
        assert_eq!(head.signature, GOLDEN_SIGNATURE);
    }

    const GOLDEN_KEY: &str = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8";
    /// Computed with OpenSSL.
    const GOLDEN_SIGNATURE: &str = "981173c2df8f0ffcd0ecdccade54d4ca4d24ec14920826a05bda45c2ba1578d13407311c2e6f7b95d52a4d576330bfe0cc0e39f3312a9c5c102bdc7c3de9140e";

    #[test]
    fn a_signed_head_comes_back_as_it_was() {
        let mut statement = statement();
        for confirmed in [statement.confirmed, None] {
            statement.confirmed = confirmed;
            let head = sign(&signer(), &statement);
            let json = serde_json::to_string(&head).expect("a head is plain JSON");
            let head = serde_json::from_str(&json).expect("its own JSON");
            let verified = verify(&head).expect("it fits");
            assert_eq!(
                verified,
                VerifiedHead { statement: statement.clone(), public_key: signer().public_key() }
            );
        }
    }

    #[test]
    fn nothing_of_a_head_can_be_changed() {
        let good = sign(&signer(), &statement());
        type Change = fn(&mut Head);
        let changes: [(Change, HeadError); 16] = [
            (|head| head.journal = head.incarnation.clone(), HeadError::Signature),
            (|head| head.incarnation = head.journal.clone(), HeadError::Signature),
            (|head| head.endpoint.push('x'), HeadError::Signature),
            (|head| head.sequence += 1, HeadError::Signature),
            (|head| head.hash = "00".repeat(32), HeadError::Signature),
            (|head| head.confirmed = None, HeadError::Signature),
            (|head| head.confirmed.as_mut().expect("there").sequence = 9, HeadError::Signature),
            (|head| head.closed = true, HeadError::Signature),
            (|head| head.at_nanos += 1, HeadError::Signature),
            (
                |head| head.public_key = hex::encode(Signer::from_seed(&[9; 32]).public_key()),
                HeadError::Signature,
            ),
            (|head| head.signature = "00".repeat(64), HeadError::Signature),
            (|head| head.journal = head.journal.to_uppercase() + "A", HeadError::Uuid),
            (|head| head.journal = head.journal.replace('-', ""), HeadError::Uuid),
            (|head| head.hash = head.hash.to_uppercase(), HeadError::Hex),
            (|head| head.signature.truncate(126), HeadError::Hex),
            (|head| head.endpoint = "x".repeat(65_536), HeadError::Endpoint),
        ];
        for (index, (change, expected)) in changes.into_iter().enumerate() {
            let mut head = good.clone();
            change(&mut head);
            assert_eq!(verify(&head), Err(expected), "change {index}");
        }
        let mut ahead = statement();
        ahead.confirmed = Some(Mark { sequence: 8, hash: [1; 32] });
        assert_eq!(verify(&sign(&signer(), &ahead)), Err(HeadError::Order));
    }
}
