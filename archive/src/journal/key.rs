//! The journal's key: made with it, kept over restarts, shown to nobody. `docs/journal.md` describes its file.
//!
//! Invariant: nothing is signed with a key that is not durable. A journal whose key changes looks to whoever keeps anchors as if
//! another had taken its place.

use super::disk;
use super::state::Shared;
use crate::head::{Mark, Signer, Statement, sign};
use cartulary_compliance::status::Head;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

/// Its file's name.
pub const NAME: &str = "anchor-key";
const MAGIC: &[u8; 4] = b"CTJK";

/// What an Ed25519 key is made of (RFC 8032).
pub type Seed = [u8; 32];

/// The key, as soon as it is durable, and what was signed last of each stream.
pub struct Key(Mutex<Kept>);

struct Kept {
    seed: Option<Seed>,
    signed: BTreeMap<String, (Statement, Head)>,
}

impl Key {
    pub fn new(seed: Option<Seed>) -> Self {
        Self(Mutex::new(Kept { seed, signed: BTreeMap::new() }))
    }
}

impl Shared {
    /// The key's seed; makes it if there is none. `None` while it cannot be stored.
    pub fn seed(&self) -> Option<Seed> {
        let mut key = self.key.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.made(&mut key)
    }

    fn made(&self, key: &mut Kept) -> Option<Seed> {
        if key.seed.is_none() {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).ok()?;
            disk::replace_private(&*self.disk, NAME, &encode(self.journal, &seed)).ok()?;
            key.seed = Some(seed);
        }
        key.seed
    }

    /// What can be said of every stream of this incarnation: only what is durable. A record that was kept aside is confirmed, but not in
    /// the archive, and the gap record that explains it still waits: as confirmed is named the one before it that the archive took.
    pub fn statements(&self) -> Vec<Statement> {
        let at_nanos = self.now();
        let state = self.state();
        let statement = |(endpoint, queue): (&String, &super::state::EndpointState)| {
            let head = queue.head?;
            let taken = queue.taken.filter(|end| end.incarnation == self.incarnation);
            Some(Statement {
                journal: self.journal,
                incarnation: self.incarnation,
                endpoint: endpoint.clone(),
                last: head.last,
                confirmed: taken.map(|end| Mark { sequence: end.sequence, hash: end.hash }),
                closed: head.closed,
                at_nanos,
            })
        };
        state.endpoints.iter().filter_map(statement).collect()
    }

    /// The statements, signed. One that says the same as before keeps its time and signature.
    pub fn heads(&self) -> Vec<Head> {
        let statements = self.statements();
        let mut key = self.key.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seed) = self.made(&mut key) else { return Vec::new() };
        statements
            .into_iter()
            .map(|statement| {
                if let Some((before, head)) = key.signed.get(&statement.endpoint)
                    && *before == (Statement { at_nanos: before.at_nanos, ..statement.clone() })
                {
                    return head.clone();
                }
                let head = sign(&Signer::from_seed(&seed), &statement);
                key.signed.insert(statement.endpoint.clone(), (statement, head.clone()));
                head
            })
            .collect()
    }
}

fn encode(journal: Uuid, seed: &Seed) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(journal.as_bytes());
    out.extend_from_slice(seed);
    out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
    out
}

/// The journal's id and the seed; `None` if the bytes are damaged.
pub fn decode(bytes: &[u8]) -> Option<(Uuid, Seed)> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    let rest = body.strip_prefix(MAGIC)?;
    if crc32c::crc32c(body).to_be_bytes() != *sum {
        return None;
    }
    let (journal, rest) = rest.split_first_chunk::<16>()?;
    Some((Uuid::from_bytes(*journal), rest.try_into().ok()?))
}
