//! A disk that loses what it may lose: unsynced bytes in any part, unsynced names, whole writes when it is full.

use crate::journal::disk::{Disk, DiskFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes that are read or refused together: smaller than a page, so that small segments have several.
const BLOCK: u64 = 512;

/// Numbers from a seed (SplitMix64), so that a schedule can be run again.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

/// A file's bytes: those that survive, and those the running system sees.
#[derive(Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    cached: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum NameChange {
    Set(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

struct State {
    inodes: Vec<Inode>,
    durable_names: BTreeMap<String, usize>,
    names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    random: Random,
    /// Operations until the power goes.
    power: Option<u64>,
    off: bool,
    fail_syncs: u32,
    /// The next reads fail, wherever they are.
    fail_reads: u32,
    /// Places that cannot be read any more: file, beginning and end.
    bad: Vec<(usize, u64, u64)>,
    /// Bytes that may still be written.
    room: Option<u64>,
    now: i64,
}

pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Arc::new(Mutex::new(State {
            inodes: Vec::new(),
            durable_names: BTreeMap::new(),
            names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            random: Random::new(seed),
            power: None,
            off: false,
            fail_syncs: 0,
            fail_reads: 0,
            bad: Vec::new(),
            room: None,
            now: 1_700_000_000_000_000_000,
        }))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    pub fn now(&self) -> i64 {
        let mut state = self.lock();
        state.now += 1_000;
        state.now
    }

    /// Lets time pass.
    pub fn later(&self, nanos: i64) {
        self.lock().now += nanos;
    }

    /// The power goes after this many operations.
    pub fn cut_power_after(&self, operations: u64) {
        self.lock().power = Some(operations);
    }

    /// The next syncs fail.
    pub fn fail_syncs(&self, count: u32) {
        self.lock().fail_syncs = count;
    }

    /// The next reads fail; `u32::MAX` until the power goes off and on.
    pub fn fail_reads(&self, count: u32) {
        self.lock().fail_reads = count;
    }

    /// A block of a file whose name ends so cannot be read any more; returns whether there is one.
    pub fn spoil(&self, suffix: &str) -> bool {
        let mut state = self.lock();
        let inodes: Vec<usize> = state
            .names
            .iter()
            .filter(|(name, inode)| name.ends_with(suffix) && !state.inodes[**inode].cached.is_empty())
            .map(|(_, inode)| *inode)
            .collect();
        let pick = state.random.below(inodes.len() as u64) as usize;
        let Some(inode) = inodes.get(pick).copied() else { return false };
        let size = state.inodes[inode].cached.len() as u64;
        let from = state.random.below(size) / BLOCK * BLOCK;
        state.bad.push((inode, from, from + BLOCK));
        true
    }

    /// Bytes of one file cannot be read any more.
    pub fn spoil_at(&self, name: &str, from: u64, to: u64) {
        let mut state = self.lock();
        let inode = state.names[name];
        state.bad.push((inode, from, to));
    }

    /// Everything can be read again.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.bad.clear();
        state.fail_reads = 0;
    }

    /// How many bytes may still be written.
    pub fn set_room(&self, room: Option<u64>) {
        self.lock().room = room;
    }

    /// Power off and on: what was not synced is there in part, in any order, or not at all.
    pub fn crash(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        for inode in &mut state.inodes {
            for change in std::mem::take(&mut inode.unsynced) {
                persist_partly(&mut inode.durable, change, &mut state.random);
            }
            inode.cached = inode.durable.clone();
        }
        for change in std::mem::take(&mut state.unsynced_names) {
            if state.random.chance(50) {
                apply_name(&mut state.durable_names, &change);
            }
        }
        state.names = state.durable_names.clone();
        (state.power, state.off, state.fail_syncs, state.fail_reads) = (None, false, 0, 0);
    }

    /// Changes one durable byte of a file whose name ends so; returns where.
    pub fn flip(&self, suffix: &str) -> Option<(String, u64)> {
        let mut state = self.lock();
        let names: Vec<(String, usize)> = state
            .durable_names
            .iter()
            .filter(|(name, inode)| name.ends_with(suffix) && !state.inodes[**inode].durable.is_empty())
            .map(|(name, inode)| (name.clone(), *inode))
            .collect();
        let pick = state.random.below(names.len() as u64) as usize;
        let (name, inode) = names.get(pick)?.clone();
        let size = state.inodes[inode].durable.len() as u64;
        let at = state.random.below(size);
        let mask = 1 << state.random.below(8);
        state.inodes[inode].durable[at as usize] ^= mask;
        state.inodes[inode].cached = state.inodes[inode].durable.clone();
        Some((name, at))
    }

    /// Changes durable bytes of one file.
    pub fn damage(&self, name: &str, at: u64, bytes: &[u8]) {
        let mut state = self.lock();
        let inode = state.durable_names[name];
        let at = at as usize;
        state.inodes[inode].durable[at..at + bytes.len()].copy_from_slice(bytes);
        state.inodes[inode].cached = state.inodes[inode].durable.clone();
    }

    /// Files whose names begin so.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.lock().names.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// A copy of everything durable, as a volume's snapshot is.
    pub fn snapshot(&self, seed: u64) -> Arc<Self> {
        let copy = Self::new(seed);
        {
            let (from, mut to) = (self.lock(), copy.lock());
            to.inodes = from
                .inodes
                .iter()
                .map(|inode| Inode {
                    durable: inode.durable.clone(),
                    cached: inode.durable.clone(),
                    unsynced: Vec::new(),
                })
                .collect();
            to.durable_names = from.durable_names.clone();
            to.names = from.durable_names.clone();
            to.now = from.now;
        }
        copy
    }
}

fn persist_partly(bytes: &mut Vec<u8>, change: Change, random: &mut Random) {
    match change {
        Change::SetLen(size) => {
            if random.chance(50) {
                bytes.resize(size as usize, 0);
            }
        }
        Change::Write(offset, written) => {
            let size = written.len() as u64;
            let ranges: Vec<(u64, u64)> = match random.below(4) {
                0 => vec![],
                1 => vec![(0, size)],
                2 => vec![(0, random.below(size + 1))],
                _ => (0..random.below(4))
                    .map(|_| {
                        let from = random.below(size + 1);
                        (from, from + random.below(size - from + 1))
                    })
                    .collect(),
            };
            for (from, to) in ranges {
                write(bytes, offset + from, &written[from as usize..to as usize]);
            }
        }
    }
}

fn write(bytes: &mut Vec<u8>, offset: u64, written: &[u8]) {
    if written.is_empty() {
        return;
    }
    let end = offset as usize + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset as usize..end].copy_from_slice(written);
}

fn apply_name(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Set(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
        NameChange::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
    }
}

impl State {
    /// Every operation passes here; it fails once the power is gone.
    fn operation(&mut self) -> io::Result<()> {
        if let Some(power) = &mut self.power {
            match power.checked_sub(1) {
                Some(left) => *power = left,
                None => self.off = true,
            }
        }
        if self.off { Err(io::Error::other("the power is gone")) } else { Ok(()) }
    }

    fn name(&mut self, change: NameChange) {
        apply_name(&mut self.names, &change);
        self.unsynced_names.push(change);
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

struct SimFile {
    disk: Arc<Mutex<State>>,
    inode: usize,
}

impl SimFile {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.disk.lock().expect("no test panics while it holds the disk")
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        state.operation()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.operation()?;
        let inode = match state.names.get(name).copied() {
            Some(inode) => {
                state.inodes[inode].cached.clear();
                state.inodes[inode].unsynced.push(Change::SetLen(0));
                inode
            }
            None => {
                if state.room == Some(0) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                state.inodes.push(Inode::default());
                let inode = state.inodes.len() - 1;
                state.name(NameChange::Set(name.to_owned(), inode));
                inode
            }
        };
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.0), inode }))
    }

    fn create_private(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.operation()?;
        let inode = state.inode(name)?;
        Ok(Arc::new(SimFile { disk: Arc::clone(&self.0), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        let inode = state.inode(from)?;
        state.name(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        state.inode(name)?;
        state.name(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        if state.fail_syncs > 0 {
            state.fail_syncs -= 1;
            return Err(io::Error::other("the directory could not be synced"));
        }
        for change in std::mem::take(&mut state.unsynced_names) {
            apply_name(&mut state.durable_names, &change);
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().inodes[self.inode].cached.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        state.operation()?;
        let end = offset + buffer.len() as u64;
        let spoiled = state.bad.iter().any(|(inode, from, to)| {
            *inode == self.inode
                && *from < end
                && offset < *to
                && *from < state.inodes[*inode].cached.len() as u64
        });
        if state.fail_reads > 0 || spoiled {
            state.fail_reads = match state.fail_reads {
                u32::MAX => u32::MAX,
                count => count.saturating_sub(1),
            };
            return Err(io::Error::from_raw_os_error(5));
        }
        let bytes = state.inodes[self.inode].cached.get(offset as usize..).unwrap_or_default();
        let size = bytes.len().min(buffer.len());
        buffer[..size].copy_from_slice(&bytes[..size]);
        Ok(size)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        let fits = state.room.map_or(bytes.len(), |room| bytes.len().min(room as usize));
        if let Some(room) = &mut state.room {
            *room -= fits as u64;
        }
        let inode = &mut state.inodes[self.inode];
        write(&mut inode.cached, offset, &bytes[..fits]);
        inode.unsynced.push(Change::Write(offset, bytes[..fits].to_vec()));
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn block(&self) -> u64 {
        BLOCK
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        let inode = &mut state.inodes[self.inode];
        inode.cached.resize(size as usize, 0);
        inode.unsynced.push(Change::SetLen(size));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock();
        let result = state.operation();
        let state = &mut *state;
        result?;
        let inode = &mut state.inodes[self.inode];
        if state.fail_syncs > 0 {
            state.fail_syncs -= 1;
            // What a failed sync leaves behind is marked clean: later syncs do not write it again.
            for change in std::mem::take(&mut inode.unsynced) {
                persist_partly(&mut inode.durable, change, &mut state.random);
            }
            return Err(io::Error::other("the file could not be synced"));
        }
        for change in std::mem::take(&mut inode.unsynced) {
            match change {
                Change::SetLen(size) => inode.durable.resize(size as usize, 0),
                Change::Write(offset, bytes) => write(&mut inode.durable, offset, &bytes),
            }
        }
        Ok(())
    }
}
