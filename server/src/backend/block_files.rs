//! Where a generation's blocks lie: files beside sled that are only appended to. Under a block's key sled
//! has a *reference*, which says where.
//!
//! sled reads and copies pages of up to 16 values whole, so one value of a block in it took hundreds of
//! KiB. Here it takes its block, and the kernel can be asked whether that is in memory.
//!
//! Bytes are written before the reference to them, and synced before it where anybody syncs. A power cut
//! may come between: such a reference leads to what is no block, and the generation is dropped.
//!
//! What no reference leads to is room to be had back: files without any other are removed, once that is
//! synced, and the rest of those that are less than half needed is moved to the end.
//!
//! A reference, integers little endian: version 2, three zeroes, file 4, offset 4, bytes 4, CRC32C of key
//! and all before 4. A block, whose version is 1, is never as short: generations of an older version have
//! it in sled itself, where it stays until it is written anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::ops::Deref;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::io::ReadWriteFlags;
use state::Revision;
use state::backend::{BackendError, Write, block_first, block_key};

use super::engine::engine;

/// A file takes no more beyond this; a longer block has one of its own.
pub(super) const FILE_BYTES_MAX: u64 = 32 << 20;
/// Files whose rest is moved at a time: half of each at most.
const MOVED_FILES_MAX: usize = 2;
/// A longer block is left to who may wait, in memory or not: to copy, check and unpack this takes some
/// tens of microseconds.
const AT_HAND_BYTES_MAX: u32 = 128 << 10;
/// Directory of the files, in that of the generation.
const DIR: &str = "blocks";
const SUFFIX: &str = ".blocks";

const REFERENCE_VERSION: u8 = 2;
const REFERENCE_BYTES: usize = 20;
const CRC_BYTES: usize = 4;

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: u32,
    offset: u32,
    bytes: u32,
}

impl Place {
    /// What sled has under `key`.
    pub(super) fn reference(self, key: &[u8]) -> [u8; REFERENCE_BYTES] {
        let mut reference = [0; REFERENCE_BYTES];
        reference[0] = REFERENCE_VERSION;
        for (index, number) in [self.file, self.offset, self.bytes].into_iter().enumerate() {
            let at = 4 + 4 * index;
            reference[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let (body, crc) = reference.split_at_mut(REFERENCE_BYTES - CRC_BYTES);
        crc.copy_from_slice(&checksum(key, body).to_le_bytes());
        reference
    }

    /// `None` if it is no reference, or a damaged one: which is no block either.
    fn of(key: &[u8], stored: &[u8]) -> Option<Self> {
        let stored: &[u8; REFERENCE_BYTES] = stored.try_into().ok()?;
        let (body, crc) = stored.split_at(REFERENCE_BYTES - CRC_BYTES);
        if stored[..4] != [REFERENCE_VERSION, 0, 0, 0] || checksum(key, body).to_le_bytes() != crc {
            return None;
        }
        let [file, offset, bytes] = [4, 8, 12]
            .map(|at| u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes")));
        Some(Place { file, offset, bytes })
    }
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

/// A stored value, from wherever it lies.
pub(super) enum Stored {
    Inside(sled::IVec),
    Outside(Vec<u8>),
}

impl Deref for Stored {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Stored::Inside(value) => value,
            Stored::Outside(value) => value,
        }
    }
}

/// The files of one generation, and what is where. One thread writes, any may read.
#[derive(Debug)]
pub(super) struct BlockFiles {
    dir: PathBuf,
    /// [`FILE_BYTES_MAX`], but in tests.
    file_bytes_max: u64,
    index: RwLock<Index>,
    unsynced: Mutex<Unsynced>,
}

#[derive(Debug, Default)]
struct Index {
    /// By first revision; `None` for one in sled itself.
    blocks: BTreeMap<Revision, Option<Place>>,
    /// By number; the last one is appended to.
    files: BTreeMap<u32, BlockFile>,
    /// Whether every block is in it. Until then nothing is taken for room to be had back.
    is_whole: bool,
}

#[derive(Debug)]
struct BlockFile {
    file: Arc<File>,
    bytes: u64,
    /// Of blocks that a reference leads to.
    live_bytes: u64,
}

/// What was written since the last sync.
#[derive(Debug, Default)]
struct Unsynced {
    files: BTreeMap<u32, Arc<File>>,
    has_new_file: bool,
}

impl Index {
    fn insert(&mut self, first: Revision, place: Option<Place>) {
        let before = self.blocks.insert(first, place);
        self.count(before.flatten(), |live, bytes| live.saturating_sub(bytes));
        self.count(place, |live, bytes| live + bytes);
    }

    fn remove(&mut self, first: Revision) {
        let before = self.blocks.remove(&first);
        self.count(before.flatten(), |live, bytes| live.saturating_sub(bytes));
    }

    fn count(&mut self, place: Option<Place>, change: impl Fn(u64, u64) -> u64) {
        let Some(place) = place else { return };
        if let Some(file) = self.files.get_mut(&place.file) {
            file.live_bytes = change(file.live_bytes, place.bytes.into());
        }
    }

    /// Files that are not appended to any more.
    fn done(&self) -> impl Iterator<Item = (u32, &BlockFile)> {
        let last = self.files.keys().next_back().copied();
        self.files.iter().map(|(number, file)| (*number, file)).filter(move |it| Some(it.0) != last)
    }
}

impl BlockFiles {
    /// The files of the generation at `path`, which are made when they are needed.
    pub(super) fn open(path: &Path, file_bytes_max: u64) -> io::Result<Self> {
        let dir = path.join(DIR);
        fs::create_dir_all(&dir)?;
        let mut index = Index::default();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
            let Some(number) = number else { continue };
            let file = OpenOptions::new().read(true).write(true).open(entry.path())?;
            let bytes = file.metadata()?.len();
            let file = BlockFile { file: Arc::new(file), bytes, live_bytes: 0 };
            index.files.insert(number, file);
        }
        index.is_whole = index.files.is_empty();
        let (index, unsynced) = (RwLock::new(index), Mutex::default());
        Ok(BlockFiles { dir, file_bytes_max, index, unsynced })
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:08}{SUFFIX}"))
    }

    /// Puts the blocks among `writes` into files: where, for each that is one.
    pub(super) fn append(&self, writes: &[Write]) -> io::Result<Vec<Option<Place>>> {
        let place = |write: &Write| {
            let value = write.value.as_ref().filter(|_| block_first(&write.key).is_some());
            value.map(|value| self.append_one(value)).transpose()
        };
        writes.iter().map(place).collect()
    }

    fn append_one(&self, value: &[u8]) -> io::Result<Place> {
        let too_long = |_| io::Error::other("a block beyond 4 GiB");
        let bytes = u32::try_from(value.len()).map_err(too_long)?;
        let last = self.index().files.iter().next_back().map(|(number, last)| {
            (*number, Arc::clone(&last.file), last.bytes, last.bytes + u64::from(bytes))
        });
        let (number, file, offset) = match last {
            Some((number, file, offset, end)) if offset == 0 || end <= self.file_bytes_max => {
                (number, file, offset)
            }
            _ => {
                let number = last.map_or(1, |(number, ..)| number + 1);
                let path = self.path(number);
                let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
                let file = Arc::new(file);
                let entry = BlockFile { file: Arc::clone(&file), bytes: 0, live_bytes: 0 };
                self.index_mut().files.insert(number, entry);
                (number, file, 0)
            }
        };
        file.write_all_at(value, offset)?;
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        unsynced.has_new_file |= offset == 0;
        unsynced.files.insert(number, file);
        drop(unsynced);
        if let Some(file) = self.index_mut().files.get_mut(&number) {
            file.bytes = offset + u64::from(bytes);
        }
        let offset = u32::try_from(offset).map_err(too_long)?;
        Ok(Place { file: number, offset, bytes })
    }

    /// sled has these writes, and references to these places where they are blocks.
    pub(super) fn written(&self, writes: &[Write], places: &[Option<Place>]) {
        let mut index = self.index_mut();
        for (write, place) in writes.iter().zip(places) {
            match block_first(&write.key) {
                Some(first) if place.is_some() => index.insert(first, *place),
                Some(first) => index.remove(first),
                None => {}
            }
        }
    }

    /// Takes note of a pair that the one who writes has found in sled.
    pub(super) fn found(&self, key: &[u8], stored: &[u8]) {
        let Some(first) = block_first(key) else { return };
        if !self.index().blocks.contains_key(&first) {
            self.index_mut().insert(first, Place::of(key, stored));
        }
    }

    /// The value of a pair that was found in sled.
    pub(super) fn value_of(&self, key: &[u8], stored: sled::IVec) -> Result<Stored, BackendError> {
        let found = block_first(key).zip(Place::of(key, &stored));
        let Some((first, place)) = found else { return Ok(Stored::Inside(stored)) };
        let file = self.index().files.get(&place.file).map(|it| Arc::clone(&it.file));
        let missing = || BackendError::Engine(format!("the file of block {first} is missing"));
        let file = file.ok_or_else(missing)?;
        read(&file, first, place).map(Stored::Outside)
    }

    fn place_of(&self, revision: Revision) -> Option<(Revision, Place, Arc<File>)> {
        let index = self.index();
        let (first, place) = index.blocks.range(..=revision).next_back()?;
        let place = (*place)?;
        Some((*first, place, Arc::clone(&index.files.get(&place.file)?.file)))
    }

    /// The last block that does not begin behind a revision, and what it begins with. `None`: sled knows.
    pub(super) fn block_of(
        &self,
        revision: Revision,
    ) -> Result<Option<(Revision, Vec<u8>)>, BackendError> {
        let Some((first, place, file)) = self.place_of(revision) else { return Ok(None) };
        Ok(Some((first, read(&file, first, place)?)))
    }

    /// The same, if it is in the kernel's memory and not long.
    pub(super) fn block_at_hand(&self, revision: Revision) -> Option<(Revision, Vec<u8>)> {
        let found =
            self.place_of(revision).filter(|(_, place, _)| place.bytes <= AT_HAND_BYTES_MAX);
        let (first, place, file) = found?;
        let mut value = vec![0; place.bytes as usize];
        let into = &mut [IoSliceMut::new(&mut value)];
        let flags = ReadWriteFlags::NOWAIT;
        let read = rustix::io::preadv2(&file, into, place.offset.into(), flags).ok()?;
        (read == value.len()).then_some((first, value))
    }

    /// What was written becomes durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        let unsynced =
            std::mem::take(&mut *self.unsynced.lock().unwrap_or_else(PoisonError::into_inner));
        for file in unsynced.files.values() {
            file.sync_data()?;
        }
        if unsynced.has_new_file {
            File::open(&self.dir)?.sync_all()?;
            self.dir.parent().map_or(Ok(()), |path| File::open(path)?.sync_all())?;
        }
        Ok(())
    }

    /// Every pair has been found: what was not is not needed.
    pub(super) fn is_read(&self) {
        self.index_mut().is_whole = true;
    }

    /// Removes files that nothing leads to, which must be synced in sled.
    pub(super) fn remove_dead(&self) {
        let mut index = self.index_mut();
        if !index.is_whole {
            return;
        }
        let dead: Vec<u32> =
            index.done().filter(|(_, file)| file.live_bytes == 0).map(|it| it.0).collect();
        dead.iter().for_each(|number| drop(index.files.remove(number)));
        drop(index);
        for number in dead {
            if let Err(error) = fs::remove_file(self.path(number)) {
                tracing::warn!(number, %error, "a file without blocks is left behind");
            }
        }
    }

    /// Blocks in files that are less than half needed, by key, in order: some of them, to be written
    /// again.
    pub(super) fn sparse(&self) -> Vec<Vec<u8>> {
        let index = self.index();
        let is_sparse = |file: &BlockFile| file.live_bytes * 2 < file.bytes;
        let done = index.done().filter(|(_, file)| index.is_whole && is_sparse(file));
        let files: BTreeSet<u32> = done.map(|it| it.0).take(MOVED_FILES_MAX).collect();
        if files.is_empty() {
            return Vec::new();
        }
        let is_in = |place: &Option<Place>| place.is_some_and(|place| files.contains(&place.file));
        index.blocks.iter().filter(|it| is_in(it.1)).map(|it| block_key(*it.0)).collect()
    }

    /// Forgets everything; sled is empty, durably.
    pub(super) fn clear(&self) -> io::Result<()> {
        let cleared = std::mem::take(&mut *self.index_mut());
        self.index_mut().is_whole = true;
        std::mem::take(&mut *self.unsynced.lock().unwrap_or_else(PoisonError::into_inner));
        cleared.files.keys().try_for_each(|number| fs::remove_file(self.path(*number)))
    }

    /// Bytes of all files.
    pub(super) fn size_bytes(&self) -> u64 {
        self.index().files.values().map(|file| file.bytes).sum()
    }

    /// Changes a block behind everyone's back; false if it is not here.
    #[cfg(test)]
    pub(super) fn tamper(&self, key: &[u8], value: &[u8]) -> bool {
        let first = block_first(key);
        let Some((_, place, file)) = first.and_then(|first| self.place_of(first)) else {
            return false;
        };
        assert_eq!(value.len(), place.bytes as usize);
        file.write_all_at(value, place.offset.into()).unwrap();
        true
    }
}

fn read(file: &File, first: Revision, place: Place) -> Result<Vec<u8>, BackendError> {
    let mut value = vec![0; place.bytes as usize];
    let done = file.read_exact_at(&mut value, place.offset.into());
    done.map_err(|error| engine(format!("block {first}: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests;
