//! Payloads and the commitments that bind them to a header.

use super::Hash;
use sha2::{Digest, Sha256};

const CONTEXT: &[u8] = b"cartulary-payload-1";

/// How a payload is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// As it is, with the random salt that its commitment needs.
    Plain {
        /// Without it a short text cannot be guessed from the commitment.
        salt: [u8; 16],
    },
    /// Sealed with a key.
    Sealed,
}

impl Form {
    /// The code in records.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Plain { .. } => 1,
            Self::Sealed => 2,
        }
    }
}

/// A payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// 1 the stanza as it came, 2 the form that was delivered.
    pub number: u8,
    /// How it is kept.
    pub form: Form,
    /// Its bytes, sealed or plain.
    pub bytes: Vec<u8>,
}

/// What a header says of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadRef {
    /// The payload's number.
    pub number: u8,
    /// [`Form::code`].
    pub form: u8,
    /// [`Payload::commitment`].
    pub commitment: Hash,
}

impl Payload {
    /// What a header holds in its stead.
    #[must_use]
    pub fn commitment(&self) -> Hash {
        match &self.form {
            Form::Plain { salt } => Sha256::new()
                .chain_update(CONTEXT)
                .chain_update([self.number])
                .chain_update(salt)
                .chain_update(&self.bytes)
                .finalize()
                .into(),
            Form::Sealed => Sha256::digest(&self.bytes).into(),
        }
    }

    /// The header's entry for it.
    #[must_use]
    pub fn reference(&self) -> PayloadRef {
        PayloadRef { number: self.number, form: self.form.code(), commitment: self.commitment() }
    }
}
