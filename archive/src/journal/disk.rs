//! The little of a file system that a journal needs, so that tests can put one in its place that forgets like a real one.
//!
//! What may be relied on: bytes are there after a crash once [`DiskFile::sync`] returned; names, once [`Disk::sync_dir`] did.
//! Nothing else: unsynced writes may be there in part, in any order.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One folder.
pub trait Disk: Send + Sync {
    /// Names of its files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file, or empties the one that is there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// As [`Self::create`], for its owner alone to read.
    fn create_private(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, replacing what bears it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One file.
pub trait DiskFile: Send + Sync {
    /// Its size.
    fn size(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`; fewer bytes mean the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts or extends it.
    fn set_len(&self, size: u64) -> io::Result<()>;
    /// Makes its bytes and size durable.
    fn sync(&self) -> io::Result<()>;
    /// Bytes that are given back or refused together: a page, as files are read through the page cache.
    fn block(&self) -> u64 {
        4096
    }
}

/// Everything from `offset` on, at most `limit` bytes.
pub fn read(file: &dyn DiskFile, offset: u64, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.size()?.saturating_sub(offset).min(limit);
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let got = file.read_at(offset, &mut bytes)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// What a disk gives back of a file that it cannot read as a whole.
pub struct Salvaged {
    /// The bytes, zeros where it gives back nothing.
    pub bytes: Vec<u8>,
    /// Where it gives back nothing: beginnings and ends.
    pub holes: Vec<(usize, usize)>,
}

impl Salvaged {
    /// Whether a hole touches these bytes.
    pub fn is_torn(&self, from: usize, to: usize) -> bool {
        self.holes.iter().any(|hole| hole.0 < to && from < hole.1)
    }

    /// Whether nothing at all was given back.
    pub fn is_blank(&self) -> bool {
        self.holes.iter().map(|hole| hole.1 - hole.0).sum::<usize>() == self.bytes.len()
    }
}

/// As [`read`], block by block and without what cannot be read.
pub fn salvage(file: &dyn DiskFile, offset: u64, limit: u64) -> io::Result<Salvaged> {
    let size = file.size()?.saturating_sub(offset).min(limit);
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let mut holes = Vec::new();
    let mut from = 0;
    while from < bytes.len() {
        let at = offset + from as u64;
        let left = file.block() - at % file.block();
        let to = bytes.len().min(from.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)));
        match file.read_at(at, &mut bytes[from..to]) {
            Ok(got) if got < to - from => {
                bytes.truncate(from + got);
                break;
            }
            Ok(_) => {}
            Err(error) if is_damage(&error) => {
                bytes[from..to].fill(0);
                holes.push((from, to));
            }
            Err(error) => return Err(error),
        }
        from = to;
    }
    Ok(Salvaged { bytes, holes })
}

/// Whether an error says that a place cannot be read, rather than that something else is the matter: EIO, and what file systems and
/// block devices give for a medium error (ENODATA), a wrong check sum (EBADMSG, EILSEQ) and damaged structures (EUCLEAN).
pub fn is_damage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(5 | 61 | 74 | 84 | 117))
}

/// Replaces a small file durably: afterwards it has the old bytes or the new ones, whatever happens.
pub fn replace(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(&temporary(name))?;
    finish(disk, &*file, name, bytes)
}

/// As [`replace`], for the owner alone to read.
pub fn replace_private(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create_private(&temporary(name))?;
    finish(disk, &*file, name, bytes)
}

fn temporary(name: &str) -> String {
    format!("{name}.new")
}

fn finish(disk: &dyn Disk, file: &dyn DiskFile, name: &str, bytes: &[u8]) -> io::Result<()> {
    file.write_at(0, bytes)?;
    file.sync()?;
    disk.rename(&temporary(name), name)?;
    disk.sync_dir()
}

/// A folder of the operating system, locked against other processes while it is open.
pub struct RealDisk {
    dir: PathBuf,
    folder: File,
    _lock: File,
}

impl RealDisk {
    /// Opens or makes the folder. [`io::ErrorKind::WouldBlock`] means that another process has it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        // The folder's own name has to outlive a power cut, or every synced file in it is out of reach.
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Self { dir: dir.to_owned(), folder: File::open(dir)?, _lock: lock })
    }
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(RealFile(options.open(self.dir.join(name))?)))
    }

    fn create_private(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        // A file that is there keeps its permissions.
        match std::fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(RealFile(options.open(self.dir.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.folder.sync_all()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < buffer.len() {
            match self.0.read_at(&mut buffer[got..], offset + got as u64) {
                Ok(0) => break,
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(got)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
