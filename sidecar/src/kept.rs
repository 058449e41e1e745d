//! What must outlive the process and has no place in the journal yet: messages that are missing and not on record, and what the
//! plugin counted. A small file beside the journal, replaced whole.
//!
//! Best effort, since it lies on the disk that may be what is wrong: what cannot be stored is in memory still, and tried again.
//! Nothing here is evidence; the records made from it are.

use crate::gaps::Missing;
use crate::tallies::Told;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The file's name in the data folder.
pub const FILE: &str = "unrecorded.json";

/// What is in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// What is missing and not yet on record.
    pub missing: Vec<Missing>,
    /// What the plugin counted of days that are not over, or not yet on record.
    pub counted: Vec<Told>,
}

/// Where it is kept, once that is known.
#[derive(Debug, Default)]
pub struct Kept {
    path: OnceLock<PathBuf>,
    last: tokio::sync::Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    stored: State,
    is_failing: bool,
}

impl Kept {
    /// Reads what a former process kept in the folder `dir`, and keeps there from now on. A file that cannot be read is told of and put
    /// aside.
    pub async fn open(&self, dir: &Path) -> State {
        let path = dir.join(FILE);
        let read = std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        let state = read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                // Also what a disk does not give back just now: the next store would replace it.
                tracing::error!(%error, file = %path.display(), "what a former process had not put on record cannot be read; it is put aside");
                _ = std::fs::rename(&path, path.with_extension("unreadable"));
            }
            State::default()
        });
        self.last.lock().await.stored = state.clone();
        _ = self.path.set(path);
        state
    }

    /// Stores what `now` gives, if it is not what was stored last. Durable when it returns, unless the disk refuses, which is told once.
    pub async fn store(&self, now: impl FnOnce() -> State) {
        let Some(path) = self.path.get().cloned() else { return };
        let mut last = self.last.lock().await;
        let state = now();
        if state == last.stored {
            return;
        }
        let bytes = serde_json::to_vec(&state).map_err(io::Error::other);
        let stored = tokio::task::spawn_blocking(move || replace(&path, &bytes?)).await;
        match stored.map_err(io::Error::other).flatten() {
            Ok(()) => *last = Last { stored: state, is_failing: false },
            Err(error) => {
                if !std::mem::replace(&mut last.is_failing, true) {
                    tracing::error!(%error, "what is not yet on record cannot be kept for the next start either");
                }
            }
        }
    }
}

/// Afterwards the file has the old bytes or the new ones, whatever happens.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cartulary_archive::record::GapReason;
    use cartulary_compliance::link::Sums;

    #[tokio::test]
    async fn what_is_kept_is_there_for_the_next_process_and_garbage_is_put_aside() {
        let dir = tempfile::tempdir().expect("a folder");
        let missing = vec![
            Missing { endpoint: None, reason: GapReason::NoLink, count: 3 },
            Missing { endpoint: Some("main".into()), reason: GapReason::QueueFull, count: u64::MAX },
        ];
        let told = Told {
            day: 20_000,
            instance: "first".into(),
            sums: Sums { said: 1, ..Sums::default() },
            is_final: true,
            is_recorded: false,
        };
        let state = State { missing, counted: vec![told] };
        let kept = Kept::default();
        assert_eq!(kept.open(dir.path()).await, State::default());
        kept.store(|| state.clone()).await;
        assert_eq!(Kept::default().open(dir.path()).await, state);
        kept.store(State::default).await;
        assert_eq!(Kept::default().open(dir.path()).await, State::default());
        std::fs::write(dir.path().join(FILE), "{").expect("written");
        assert_eq!(Kept::default().open(dir.path()).await, State::default());
        assert!(dir.path().join("unrecorded.unreadable").exists());
    }

    #[tokio::test]
    async fn what_the_disk_does_not_give_back_is_not_replaced() {
        let dir = tempfile::tempdir().expect("a folder");
        // Reading a folder fails with something else than "not found", as a failing disk does.
        std::fs::create_dir(dir.path().join(FILE)).expect("a folder in its place");
        assert_eq!(Kept::default().open(dir.path()).await, State::default());
        assert!(dir.path().join("unrecorded.unreadable").is_dir() && !dir.path().join(FILE).exists());
    }
}
