//! The configuration: read from the mounted file, checked whole, swapped whole (MA-11).
//!
//! Invariants: a file is taken completely or not at all; a bad one leaves the last good one in force and says why; whoever holds
//! an [`Arc`] of one finishes under it. The file is looked at once a second and compared by content, because a mounted Secret is
//! replaced by swapping symbolic links, of which a watch on the file itself would see nothing.

use cartulary_compliance::config::{ConfigError, SidecarConfig};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// More than any Secret can hold, compressed or not; a file that unpacks to more is refused before it fills the memory.
const MAX_BYTES: u64 = 64 << 20;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A configuration that was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What it says.
    pub config: SidecarConfig,
    /// SHA-256 of its JSON, hex.
    pub hash: String,
}

/// What is in force, and what is wrong with the newest file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigState {
    /// The last good configuration.
    pub current: Option<Arc<Loaded>>,
    /// Why the newest file was not taken.
    pub problem: Option<String>,
}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is missing or cannot be read.
    #[error("the configuration file cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is larger than a configuration can be.
    #[error("the configuration has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// It was read and is no configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Reads the JSON in `bytes`, which may be compressed with gzip, and checks it.
pub fn parse(bytes: &[u8]) -> Result<Loaded, LoadError> {
    let unpacked;
    let json = if bytes.starts_with(&GZIP) {
        unpacked = read_limited(flate2::read::MultiGzDecoder::new(bytes))?;
        unpacked.as_slice()
    } else {
        bytes
    };
    let config = SidecarConfig::parse(json)?;
    Ok(Loaded { config, hash: hex::encode(Sha256::digest(json)) })
}

/// Looks at the file once and says what to put in force; `None` when nothing changed. `seen` remembers the last content.
pub fn look(path: &Path, seen: &mut Option<Vec<u8>>, state: &ConfigState) -> Option<ConfigState> {
    let read = std::fs::File::open(path).map_err(LoadError::from).and_then(read_limited);
    let result = match read {
        Ok(bytes) => {
            let digest = Sha256::digest(&bytes).to_vec();
            if seen.as_ref() == Some(&digest) {
                return None;
            }
            *seen = Some(digest);
            parse(&bytes)
        }
        // Whatever comes back is looked at anew, even if it is what was there before.
        Err(error) => {
            *seen = None;
            Err(error)
        }
    };
    let next = match result {
        Ok(loaded) => ConfigState { current: Some(Arc::new(loaded)), problem: None },
        Err(error) => ConfigState { current: state.current.clone(), problem: Some(error.to_string()) },
    };
    (next != *state).then_some(next)
}

/// Keeps `sender` up to date with the file until `stop`.
pub async fn watch(path: &Path, sender: watch::Sender<ConfigState>, stop: CancellationToken) {
    let mut seen = None;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let next = look(path, &mut seen, &sender.borrow());
        if let Some(next) = next {
            match (&next.problem, &next.current) {
                (Some(problem), current) => tracing::error!(
                    problem,
                    in_force = current.as_ref().map(|loaded| loaded.config.generation),
                    "the configuration was not taken"
                ),
                (None, Some(loaded)) => tracing::info!(
                    generation = loaded.config.generation,
                    hash = loaded.hash,
                    "the configuration is in force"
                ),
                (None, None) => {}
            }
            sender.send_replace(next);
        }
    }
}

fn read_limited(reader: impl Read) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES { Err(LoadError::TooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("to memory");
        encoder.finish().expect("to memory")
    }

    #[test]
    fn a_configuration_is_read_compressed_or_plain_and_hashed_as_json() {
        let json = testing::config().to_json().expect("serialisable");
        let plain = parse(&json).expect("plain");
        assert_eq!(plain, parse(&gzip(&json)).expect("compressed"));
        assert_eq!(plain.hash, hex::encode(Sha256::digest(&json)));
    }

    #[test]
    fn a_bad_file_leaves_the_last_good_one_in_force_and_says_why() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("config.json.gz");
        let (mut state, mut seen) = (ConfigState::default(), None);
        let mut step = |content: Option<&[u8]>| {
            match content {
                Some(content) => std::fs::write(&path, content).expect("written"),
                None => _ = std::fs::remove_file(&path),
            }
            if let Some(next) = look(&path, &mut seen, &state) {
                state = next;
            }
            (state.current.as_ref().map(|loaded| loaded.config.generation), state.problem.clone())
        };
        let mut config = testing::config();
        config.generation = 1;
        let first = config.to_json().expect("serialisable");
        config.generation = 2;
        let second = config.to_json().expect("serialisable");

        let (generation, problem) = step(None);
        assert!(generation.is_none() && problem.is_some());
        assert_eq!(step(Some(&first)), (Some(1), None));
        for bad in [&first[..first.len() - 1], b"", b"{}", b"\x1f\x8bnot gzip", br#"{"format":99}"#] {
            let (generation, problem) = step(Some(bad));
            assert_eq!(generation, Some(1));
            assert!(problem.is_some(), "{bad:?}");
        }
        assert_eq!(step(Some(&gzip(&second))), (Some(2), None));
        let (generation, problem) = step(None);
        assert!(generation == Some(2) && problem.is_some());
        assert_eq!(step(Some(&second)), (Some(2), None));
    }

    #[test]
    fn a_file_that_unpacks_without_end_is_refused() {
        let bomb = gzip(&vec![b' '; MAX_BYTES as usize + 1]);
        assert!(matches!(parse(&bomb), Err(LoadError::TooLarge)));
    }
}
