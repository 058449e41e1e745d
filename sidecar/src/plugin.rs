//! Puts the server plugin where the server's container can load it.
//!
//! The folder is complete or not there: it is filled under another name and then put in place with one rename. Several versions
//! of a plugin may so follow one another in a volume that outlives the sidecar's container.

use anyhow::{Context, Result};
use rustix::fs::{CWD, RenameFlags};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The folder that is copied out of `--plugin-source`.
const FOLDER: &str = "prosody";

/// Copies the plugin's folder from `source` to `target`. Returns whether there was one to copy.
pub fn install(source: &Path, target: &Path) -> Result<bool> {
    let from = source.join(FOLDER);
    if !from.is_dir() {
        return Ok(false);
    }
    let (fresh, place) = (target.join(format!(".{FOLDER}.new")), target.join(FOLDER));
    remove(&fresh)?;
    copy(&from, &fresh).with_context(|| format!("the plugin cannot be copied to {}", target.display()))?;
    let flags = if place.exists() { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
    rustix::fs::renameat_with(CWD, &fresh, CWD, &place, flags)
        .with_context(|| format!("the plugin cannot be put in place as {}", place.display()))?;
    remove(&fresh)?;
    Ok(true)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    // The server runs as another user.
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_replaces_the_one_before_it_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        fs::create_dir_all(&target).expect("a folder");
        assert!(!install(&source, &target).expect("nothing to copy"));
        for (names, gone) in [(["a.lua", "sub/b.lua"], "c.lua"), (["c.lua", "sub/d.lua"], "a.lua")] {
            remove(&source).expect("removed");
            fs::create_dir_all(source.join("prosody/sub")).expect("a folder");
            for name in names {
                fs::write(source.join("prosody").join(name), name).expect("written");
            }
            assert!(install(&source, &target).expect("copied"));
            for name in names {
                assert_eq!(fs::read_to_string(target.join("prosody").join(name)).expect("there"), name);
            }
            assert!(!target.join("prosody").join(gone).exists());
            assert_eq!(fs::read_dir(&target).expect("a folder").count(), 1);
        }
    }
}
