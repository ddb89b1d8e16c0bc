//! Where a simulated member has its values when not all of them fit its memory: a tiny cache over the
//! backend, so that nearly every one is read back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use member::state::backend::{Backend, BackendBatch, BackendError, MemBackend, Visit};
use member::state::{Record, ValueCache, ValueSource, Values};

/// A way to a backend in memory. Clones lead to the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedBackend(Arc<Mutex<MemBackend>>);

impl SharedBackend {
    /// The backend itself. The simulation has one thread: nobody ever waits here.
    pub(crate) fn get(&self) -> MutexGuard<'_, MemBackend> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for SharedBackend {
    fn commit(&mut self, batch: &BackendBatch) -> Result<(), BackendError> {
        self.get().commit(batch)
    }
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Backend::get(&*self.get(), key)
    }
    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), BackendError> {
        self.get().scan(prefix, visit)
    }
    fn flush(&mut self) -> Result<(), BackendError> {
        self.get().flush()
    }
    fn size_bytes(&self) -> Result<u64, BackendError> {
        self.get().size_bytes()
    }
    fn clear(&mut self) -> Result<(), BackendError> {
        self.get().clear()
    }
}

/// The values of one process.
#[derive(Debug)]
pub(crate) struct ValueStore {
    cache: Mutex<ValueCache>,
    backend: SharedBackend,
}

impl ValueStore {
    pub(crate) fn new(bytes_max: usize, backend: SharedBackend) -> Arc<Self> {
        Arc::new(ValueStore { cache: Mutex::new(ValueCache::new(bytes_max)), backend })
    }

    pub(crate) fn values(self: &Arc<Self>) -> Values {
        Values::kept_by(Arc::<Self>::clone(self))
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, ValueCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ValueSource for ValueStore {
    fn apart_bytes_min(&self) -> usize {
        1
    }

    fn hold(&self, record: &Record) {
        self.cache().hold(record);
    }

    fn at_hand(&self, entry: &Record) -> Option<Record> {
        self.cache().find(entry)
    }

    fn read(&self, entry: &Record, reuse: bool) -> Record {
        if let Some(found) = self.at_hand(entry) {
            return found;
        }
        let read = self.backend.get().block_of(entry.revision());
        let block = read.unwrap_or_else(|error| panic!("value of {entry:?}: {error}"));
        let found = block.iter().find(|record| *record == entry).cloned();
        let found = found.unwrap_or_else(|| panic!("value of {entry:?}: gone from the backend"));
        if reuse {
            self.cache().insert(found.clone());
        }
        found
    }

    fn pin(&self, compact_revision: i64) -> bool {
        self.cache().pin(compact_revision)
    }

    fn unpin(&self, compact_revision: i64) {
        self.cache().unpin(compact_revision);
    }
}
