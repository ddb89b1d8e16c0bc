//! One member's disk, shared by those of its workers that write to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use member::wal::mem::{MemDisk, MemFile};
use member::wal::{Disk, DiskError};

/// A way to a disk in memory. Clones lead to the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedDisk(Arc<Mutex<MemDisk>>);

impl SharedDisk {
    /// The disk itself. The simulation has one thread: nobody ever waits here.
    pub(crate) fn get(&self) -> MutexGuard<'_, MemDisk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SharedDisk {
    type File = MemFile;

    fn create(&mut self, path: &str) -> Result<MemFile, DiskError> {
        self.get().create(path)
    }
    fn open(&mut self, path: &str) -> Result<MemFile, DiskError> {
        self.get().open(path)
    }
    fn len(&mut self, file: &MemFile) -> Result<u64, DiskError> {
        self.get().len(file)
    }
    fn read_at(&mut self, file: &MemFile, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        self.get().read_at(file, offset, buf)
    }
    fn write_at(&mut self, file: &MemFile, offset: u64, parts: &[&[u8]]) -> Result<(), DiskError> {
        self.get().write_at(file, offset, parts)
    }
    fn allocate(&mut self, file: &MemFile, len: u64) -> Result<(), DiskError> {
        self.get().allocate(file, len)
    }
    fn set_len(&mut self, file: &MemFile, len: u64) -> Result<(), DiskError> {
        self.get().set_len(file, len)
    }
    fn sync_data(&mut self, file: &MemFile) -> Result<(), DiskError> {
        self.get().sync_data(file)
    }
    fn sync_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        self.get().sync_dir(dir)
    }
    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.get().rename(from, to)
    }
    fn unlink(&mut self, path: &str) -> Result<(), DiskError> {
        self.get().unlink(path)
    }
    fn list(&mut self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.get().list(dir)
    }
    fn create_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        self.get().create_dir(dir)
    }
    fn drop_cache(&mut self, file: &MemFile) -> Result<(), DiskError> {
        self.get().drop_cache(file)
    }
}
