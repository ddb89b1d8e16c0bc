//! sled as a [`Backend`]: one database with one tree, the blocks beside it in files (`block_files.rs`), and
//! how it is kept from holding on to memory.
//!
//! Its page cache looks at its limit only when one of its 256 shards has seen 64 accesses: hundreds of
//! MiB before anything is let go. Opening a database takes milliseconds and begins with empty pages, so it
//! is opened anew whenever enough has gone through it.

use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use state::backend::{
    Backend, BackendBatch, BackendError, Layout, LoadError, Loading, Pair, Write, block_at,
    block_key,
};
use state::block::Block;
use state::{Limits, Revision, State, Values};

use super::block_files::{BlockFiles, FILE_BYTES_MAX, Stored};
use crate::node::panic_text;

/// sled's page cache; most reads are served from memory, so a small one does. What really
/// bounds it is [`PAGED_IN_BYTES_MIN`].
const CACHE_BYTES: u64 = 16 << 20;
/// Bytes read and written before the database is opened anew, …
const PAGED_IN_BYTES_MIN: u64 = 32 << 20;
/// … or this part of a large one's size, since opening takes longer the larger it is.
const PAGED_IN_DIVISOR: u64 = 16;
/// The same for writing to one that is to save memory. Reads keep to the limits above: where blocks still
/// are in sled, one that pages in sixteen for a value is not to open anew every fifty.
const WRITTEN_BYTES_MIN: u64 = 8 << 20;
const WRITTEN_DIVISOR: u64 = 64;
/// While a state is loaded that keeps its values in memory, and so will take more than this part in any case.
const PAGED_IN_LOADING_DIVISOR: u64 = 8;
/// What is left behind a scan without opening anew.
const PAGED_IN_BYTES_IDLE: u64 = 1 << 20;
/// Pairs a page of sled holds half filled: as many are paged in for one that is asked for.
const PAGE_PAIRS: u64 = 8;
/// What sled keeps of a pair that is written, however short it is: a million leases, rows of 40 bytes
/// under random keys, left 1.2 GiB of copied pages and links behind.
const WRITTEN_PAIR_BYTES: u64 = 1 << 10;
/// Tries to open anew, [`REOPEN_PAUSE`] apart: sled's threads may hold the lock a little longer.
const REOPEN_TRIES: u32 = 100;
/// Between two of these tries.
const REOPEN_PAUSE: Duration = Duration::from_millis(10);
/// Pairs handed from one thread to the other at a time while a state is loaded: to wake it for each would
/// cost more than it has to do with one.
const PAIRS_AT_ONCE: usize = 16;
/// So many times as many wait at most: some MiB.
const PAIRS_WAITING_MAX: usize = 16;
/// Pairs read between two signs that a load goes on.
const PAIRS_A_SIGN: u64 = 64;
/// How long opening a generation may take, and reading it without another [`PAIRS_A_SIGN`]: sled has been
/// seen to hang on damaged files.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// Blocks moved in one batch.
const MOVED_AT_ONCE: usize = 64;

/// One sled database with one tree.
pub struct SledBackend(Arc<Database>);

/// Reads single blocks of a [`SledBackend`], from any thread.
pub(crate) struct BlockReader(Arc<Database>);

/// The database, and how much of it is in memory.
struct Database {
    path: PathBuf,
    files: BlockFiles,
    /// `None` only once it could not be opened anew. Held for writing while that is done.
    db: RwLock<Option<sled::Db>>,
    /// Bytes that went through it since it was opened, about.
    paged_in_bytes: AtomicU64,
    paged_in_bytes_max: AtomicU64,
    size_bytes: AtomicU64,
    /// Since that was looked at: sled looks at each of its files, which are thousands.
    has_written: AtomicBool,
    saves_memory: AtomicBool,
}

impl SledBackend {
    /// Opens the database at `path`, making it if need be.
    ///
    /// # Errors
    /// [`BackendError::Engine`]; sled may also panic on a damaged file.
    pub fn open(path: &Path) -> Result<Self, BackendError> {
        Self::open_with(path, FILE_BYTES_MAX)
    }

    /// With files of other lengths, so that there are many.
    pub(crate) fn open_with(path: &Path, file_bytes_max: u64) -> Result<Self, BackendError> {
        let database = Database {
            path: path.to_owned(),
            db: RwLock::new(Some(open_sled(path).map_err(engine)?)),
            files: BlockFiles::open(path, file_bytes_max).map_err(engine)?,
            paged_in_bytes: AtomicU64::new(0),
            paged_in_bytes_max: AtomicU64::new(PAGED_IN_BYTES_MIN),
            size_bytes: AtomicU64::new(0),
            has_written: AtomicBool::new(true),
            saves_memory: AtomicBool::new(false),
        };
        database.with(|db| database.note_opened(db))?;
        Ok(SledBackend(Arc::new(database)))
    }

    /// Changes a stored value behind everyone's back.
    #[cfg(test)]
    pub(crate) fn tamper(&self, key: &[u8], value: &[u8]) {
        if self.0.files.tamper(key, value) {
            return;
        }
        self.0.with(|db| db.insert(key, value).map(drop).map_err(engine)).unwrap();
    }

    #[cfg(test)]
    pub(super) fn db(&self) -> sled::Db {
        self.0.db.read().unwrap().clone().unwrap()
    }

    #[cfg(test)]
    pub(super) fn files(&self) -> &BlockFiles {
        &self.0.files
    }

    /// It is opened anew more often while it is written to.
    pub(crate) fn save_memory(&self) {
        self.0.saves_memory.store(true, Ordering::Relaxed);
    }

    /// A way to its blocks.
    pub(crate) fn reader(&self) -> BlockReader {
        BlockReader(Arc::clone(&self.0))
    }
}

impl BlockReader {
    /// The block in which a revision lies, if it is anywhere; its checksum is checked.
    pub(crate) fn block_of(&self, revision: Revision) -> Result<Block, BackendError> {
        if let Some((first, value)) = self.0.files.block_of(revision)? {
            return block_at(revision, &block_key(first), &value);
        }
        if self.0.is_full() {
            self.0.reopen(false)?;
        }
        let through = block_key(revision);
        // One step, so that what compaction rewrites is seen whole, before it or after.
        let last =
            self.0.with(|db| db.range(..=through).next_back().transpose().map_err(engine))?;
        let (key, value) = last.ok_or(BackendError::BlockMissing(revision))?;
        self.0.paged_in(value.len() as u64 * PAGE_PAIRS);
        block_at(revision, &key, &self.0.files.value_of(&key, value)?)
    }

    /// The same, if that takes no disk. Any doubt is left to whoever may wait for one.
    pub(crate) fn block_at_hand(&self, revision: Revision) -> Option<Block> {
        let (first, value) = self.0.files.block_at_hand(revision)?;
        block_at(revision, &block_key(first), &value).ok()
    }
}

impl std::fmt::Debug for BlockReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockReader")
    }
}

impl Database {
    /// Does something with the database. It is not opened anew meanwhile, so no call may lie within
    /// another.
    fn with<T>(
        &self,
        work: impl FnOnce(&sled::Db) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        work(db.as_ref().ok_or_else(Self::closed)?)
    }

    fn closed() -> BackendError {
        BackendError::Engine(String::from("it could not be opened anew"))
    }

    fn note_opened(&self, db: &sled::Db) -> Result<(), BackendError> {
        self.paged_in_bytes.store(0, Ordering::Relaxed);
        if self.has_written.swap(false, Ordering::Relaxed) {
            self.size_bytes.store(db.size_on_disk().map_err(engine)?, Ordering::Relaxed);
            self.page_in_at_most(PAGED_IN_DIVISOR);
        }
        Ok(())
    }

    fn page_in_at_most(&self, divisor: u64) {
        let part = self.size_bytes.load(Ordering::Relaxed) / divisor;
        self.paged_in_bytes_max.store(part.max(PAGED_IN_BYTES_MIN), Ordering::Relaxed);
    }

    fn paged_in_bytes(&self) -> u64 {
        self.paged_in_bytes.load(Ordering::Relaxed)
    }

    fn paged_in(&self, bytes: u64) {
        self.paged_in_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn is_full(&self) -> bool {
        self.paged_in_bytes() >= self.paged_in_bytes_max.load(Ordering::Relaxed)
    }

    fn is_full_for_writing(&self) -> bool {
        if !self.saves_memory.load(Ordering::Relaxed) {
            return self.is_full();
        }
        let part = self.size_bytes.load(Ordering::Relaxed) / WRITTEN_DIVISOR;
        self.paged_in_bytes() >= part.max(WRITTEN_BYTES_MIN)
    }

    /// Makes what was written durable, the blocks before what leads to them.
    fn flush(&self) -> Result<(), BackendError> {
        self.with(|db| {
            self.files.sync().map_err(engine)?;
            db.flush().map(drop).map_err(engine)
        })
    }

    /// Lets go of every page in memory; unless `always`, only if there are still many.
    fn reopen(&self, always: bool) -> Result<(), BackendError> {
        // Most of it while others still read.
        self.flush()?;
        let mut held = self.db.write().unwrap_or_else(PoisonError::into_inner);
        if !always && !self.is_full() {
            return Ok(());
        }
        let db = held.take().ok_or_else(Self::closed)?;
        self.files.sync().map_err(engine)?;
        db.flush().map_err(engine)?;
        drop(db);
        let path = self.path.clone();
        let opened = Apart::begin(move || {
            let mut tries = 1;
            loop {
                match open_sled(&path) {
                    Err(sled::Error::Io(_)) if tries < REOPEN_TRIES => {
                        tries += 1;
                        std::thread::sleep(REOPEN_PAUSE);
                    }
                    opened => return opened,
                }
            }
        });
        let opened = opened.and_then(Apart::wait).map_err(BackendError::Engine)?.map_err(engine)?;
        self.note_opened(held.insert(opened))
    }
}

impl SledBackend {
    /// [`Backend::scan`], the pairs not copied.
    fn scan_pairs(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(sled::IVec, Stored) -> ControlFlow<()>,
    ) -> Result<(), BackendError> {
        let mut from = Bound::Included(prefix.to_vec());
        loop {
            let left_off = self.0.with(|db| {
                for pair in db.range((from, Bound::Unbounded)) {
                    let (key, value) = pair.map_err(engine)?;
                    if !key.starts_with(prefix) {
                        break;
                    }
                    self.0.paged_in((key.len() + value.len()) as u64);
                    self.0.files.found(&key, &value);
                    let value = self.0.files.value_of(&key, value)?;
                    let left_off = self.0.is_full().then(|| key.to_vec());
                    if visit(key, value).is_break() {
                        break;
                    }
                    if left_off.is_some() {
                        return Ok(left_off);
                    }
                }
                Ok(None)
            })?;
            let Some(key) = left_off else { return Ok(()) };
            self.0.reopen(true)?;
            from = Bound::Excluded(key);
        }
    }

    /// Lets go of what a scan has left.
    fn rest(&self) -> Result<(), BackendError> {
        if self.0.paged_in_bytes() > PAGED_IN_BYTES_IDLE {
            self.0.reopen(true)?;
        }
        Ok(())
    }

    /// Blocks go to their files, everything else to sled, at once.
    fn write(&self, all: &[Write]) -> Result<(), BackendError> {
        let places = self.0.files.append(all).map_err(engine)?;
        let mut writes = sled::Batch::default();
        let mut bytes = 0;
        for (Write { key, value }, place) in all.iter().zip(&places) {
            bytes += key.len() as u64 + WRITTEN_PAIR_BYTES;
            match (place, value) {
                (Some(place), _) => writes.insert(key.as_slice(), &place.reference(key)),
                (None, Some(value)) => {
                    bytes += value.len() as u64;
                    writes.insert(key.as_slice(), value.as_slice());
                }
                (None, None) => writes.remove(key.as_slice()),
            }
        }
        self.0.paged_in(bytes);
        self.0.has_written.store(true, Ordering::Relaxed);
        self.0.with(|db| db.apply_batch(writes).map_err(engine))?;
        self.0.files.written(all, &places);
        Ok(())
    }

    /// Moves blocks out of files that are mostly not needed any more; the next flush removes those.
    fn move_sparse(&self) -> Result<(), BackendError> {
        for keys in self.0.files.sparse().chunks(MOVED_AT_ONCE) {
            let moved = |key: &Vec<u8>| {
                let value = Backend::get(self, key)?.map(Vec::from);
                Ok::<_, BackendError>(Write { key: key.clone(), value })
            };
            self.write(&keys.iter().map(moved).collect::<Result<Vec<Write>, _>>()?)?;
        }
        Ok(())
    }

    /// Reads the whole key space and makes the state of it: pairs come from sled in one thread, and are
    /// put together in another. Both check and unpack them, whoever is ahead of the other. `position` is
    /// told first where the state stands, and then again as a sign that there is more of it.
    pub(super) fn load_state(
        &self,
        limits: Limits,
        values: &Values,
        position: &Sender<u64>,
    ) -> Result<Option<(State, Layout)>, String> {
        let said = |error: BackendError| error.to_string();
        let Some(mut loading) = Loading::begin(self, values.clone()).map_err(said)? else {
            return Ok(None);
        };
        let index = loading.applied().index;
        // Nobody waits any more only if the boot has failed.
        let _ = position.send(index);
        loading.list_dead(self).map_err(said)?;
        let (pairs, received) = std::sync::mpsc::sync_channel::<Vec<Handed>>(PAIRS_WAITING_MAX);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(String::from("backend-load"));
            let built = thread.spawn_scoped(scope, move || {
                for handed in received.into_iter().flatten() {
                    handed.read().and_then(|pair| loading.add(pair)).map_err(said)?;
                }
                loading.into_state(limits, &both).map_err(|error: LoadError| error.to_string())
            });
            let built = built.map_err(|error| error.to_string())?;
            if values.are_in_memory() {
                self.0.page_in_at_most(PAGED_IN_LOADING_DIVISOR);
            }
            let mut some = Vec::with_capacity(PAIRS_AT_ONCE);
            let mut pairs_read = 0_u64;
            let scanned = self.scan_pairs(b"", &mut |key, value| {
                pairs_read += 1;
                if pairs_read.is_multiple_of(PAIRS_A_SIGN) {
                    let _ = position.send(index);
                }
                some.push(Handed::Stored(key, value));
                if some.len() < PAIRS_AT_ONCE {
                    return ControlFlow::Continue(());
                }
                hand_over(&pairs, std::mem::replace(&mut some, Vec::with_capacity(PAIRS_AT_ONCE)))
            });
            // In vain only if there is something wrong.
            let _ = hand_over(&pairs, some);
            drop(pairs);
            self.0.page_in_at_most(PAGED_IN_DIVISOR);
            // While the other thread builds.
            let scanned = scanned.and_then(|()| self.rest());
            let built = built.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            scanned.map_err(said)?;
            let built = built?;
            self.0.files.is_read();
            Ok(Some(built))
        })
    }
}

/// A pair on its way from the thread that gets them to the one that puts them together.
enum Handed {
    Stored(sled::IVec, Stored),
    Read(Result<Pair, BackendError>),
}

impl Handed {
    fn read(self) -> Result<Pair, BackendError> {
        match self {
            Handed::Stored(key, value) => Pair::read(&key, &value),
            Handed::Read(pair) => pair,
        }
    }
}

/// Breaks off when the other thread has found something wrong. If that has more to do than it can, some of
/// it is done here.
fn hand_over(to: &SyncSender<Vec<Handed>>, some: Vec<Handed>) -> ControlFlow<()> {
    let gone = match to.try_send(some) {
        Ok(()) => false,
        Err(TrySendError::Disconnected(_)) => true,
        Err(TrySendError::Full(some)) => {
            let read = some.into_iter().map(|it| Handed::Read(it.read()));
            to.send(read.collect()).is_err()
        }
    };
    if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Two pieces of work, one of them in a thread of its own if there can be one.
fn both(one: &mut (dyn FnMut() + Send), other: &mut (dyn FnMut() + Send)) {
    let other = Mutex::new(other);
    let other = || (other.lock().unwrap_or_else(PoisonError::into_inner))();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(String::from("backend-build"));
        let Ok(thread) = thread.spawn_scoped(scope, other) else {
            one();
            return other();
        };
        one();
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn open_sled(path: &Path) -> sled::Result<sled::Db> {
    sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .mode(sled::Mode::HighThroughput)
        .open()
}

/// Work done in a thread of its own: a panic or a hang of sled must not be the caller's.
pub(super) struct Apart<T> {
    answer: Receiver<Result<T, String>>,
}

impl<T: Send + 'static> Apart<T> {
    pub(super) fn begin(work: impl FnOnce() -> T + Send + 'static) -> Result<Self, String> {
        let (sender, answer) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name(String::from("backend-open"))
            .spawn(move || {
                // What it leaves behind after a panic is not used.
                let done = catch_unwind(AssertUnwindSafe(work));
                drop(sender.send(done.map_err(|panic| panic_text(panic.as_ref()))));
            })
            .map_err(|error| error.to_string())?;
        Ok(Apart { answer })
    }

    pub(super) fn wait(self) -> Result<T, String> {
        let done = self.answer.recv_timeout(OPEN_TIMEOUT);
        done.unwrap_or_else(|_| Err(format!("no answer in {OPEN_TIMEOUT:?}")))
    }
}

pub(super) fn engine(error: impl std::fmt::Display) -> BackendError {
    BackendError::Engine(error.to_string())
}

impl std::fmt::Debug for SledBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SledBackend")
    }
}

impl Backend for SledBackend {
    fn commit(&mut self, batch: &BackendBatch) -> Result<(), BackendError> {
        if self.0.is_full_for_writing() {
            self.0.reopen(true)?;
        }
        self.write(batch.writes())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        let Some(found) = self.0.with(|db| db.get(key).map_err(engine))? else { return Ok(None) };
        self.0.paged_in(found.len() as u64 * PAGE_PAIRS);
        Ok(Some(match self.0.files.value_of(key, found)? {
            Stored::Inside(value) => Bytes::copy_from_slice(&value),
            Stored::Outside(value) => value.into(),
        }))
    }

    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), BackendError> {
        self.scan_pairs(prefix, &mut |key, value| visit(&key, &value))?;
        self.rest()
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        self.0.flush()?;
        self.0.files.remove_dead();
        self.move_sparse()
    }

    fn size_bytes(&self) -> Result<u64, BackendError> {
        let of_sled = self.0.with(|db| db.size_on_disk().map_err(engine))?;
        Ok(of_sled + self.0.files.size_bytes())
    }

    fn clear(&mut self) -> Result<(), BackendError> {
        self.0.has_written.store(true, Ordering::Relaxed);
        self.0.with(|db| {
            db.clear().map_err(engine)?;
            db.flush().map(drop).map_err(engine)
        })?;
        self.0.files.clear().map_err(engine)
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::PutRequest;
    use proto::log::{Command, command::Op};
    use state::StateParts;
    use state::backend::{Mark, Write, Writeback, WritebackLimits};

    use super::*;

    #[test]
    fn sled_keeps_the_promises_of_a_backend() {
        let dir = tempfile::tempdir().unwrap();
        let mut backend = SledBackend::open(&dir.path().join("sled-1")).unwrap();
        state::backend::conformance(&mut backend).unwrap();
    }

    #[test]
    fn a_scan_that_lets_its_pages_go_gives_every_pair_once_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut backend = SledBackend::open(&dir.path().join("sled-1")).unwrap();
        let keys: Vec<Vec<u8>> = (0..80).map(|n| format!("b/{n:02}").into_bytes()).collect();
        let value = vec![7; 1 << 20];
        for key in &keys {
            let write = Write { key: key.clone(), value: Some(value.clone()) };
            backend.commit(&BackendBatch::new(Mark::default(), vec![write])).unwrap();
            assert!(backend.0.paged_in_bytes() <= 2 * PAGED_IN_BYTES_MIN);
        }
        let mut found = Vec::new();
        let scanned = backend.scan(b"b/", &mut |key, stored| {
            assert_eq!(stored, value);
            assert!(backend.0.paged_in_bytes() <= 2 * PAGED_IN_BYTES_MIN);
            found.push(key.to_vec());
            ControlFlow::Continue(())
        });
        scanned.unwrap();
        assert_eq!(found, keys);
        assert_eq!(backend.0.paged_in_bytes(), 0, "nothing stays behind a scan");
    }

    #[test]
    fn many_short_pairs_make_it_let_its_pages_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut backend = SledBackend::open(&dir.path().join("sled-1")).unwrap();
        const BATCH: u64 = 1_024;
        let batches = 2 * PAGED_IN_BYTES_MIN / WRITTEN_PAIR_BYTES / BATCH;
        let mut bytes = 0;
        for batch in 0..batches {
            let write = |n: u64| Write {
                key: (batch * BATCH + n).reverse_bits().to_be_bytes().to_vec(),
                value: Some(vec![7; 16]),
            };
            let batch = BackendBatch::new(Mark::default(), (0..BATCH).map(write).collect());
            bytes += batch.size_bytes() as u64;
            backend.commit(&batch).unwrap();
            assert!(backend.0.paged_in_bytes() <= 2 * PAGED_IN_BYTES_MIN);
        }
        assert!(bytes < PAGED_IN_BYTES_MIN, "what was written alone would not have done it");
        assert!(backend.0.paged_in_bytes() < 2 * PAGED_IN_BYTES_MIN, "opened anew");
        let mut found = 0;
        let scanned = backend.scan(b"", &mut |_, _| {
            found += 1;
            ControlFlow::Continue(())
        });
        scanned.unwrap();
        assert!(found >= batches * BATCH);
    }

    /// A backend with the state of so many puts, 64 to a block.
    fn filled(path: &Path, puts: u64) -> (SledBackend, StateParts) {
        let mut backend = SledBackend::open(path).unwrap();
        let mut state = State::new(Limits::default());
        let put = |n: u64| PutRequest {
            key: format!("{:04}", n * 7 % puts).into(),
            value: vec![7; 300].into(),
            ..PutRequest::default()
        };
        for n in 0..puts {
            let command = Command { id: None, op: Some(Op::Put(put(n))) };
            state.apply(n + 1, 1, &command).result.unwrap();
        }
        let view = state.publish();
        let (rows, records) = (view.rows(), view.whole_records());
        let limits = WritebackLimits::default();
        Writeback::rebuild(limits, &mut backend, view.applied(), rows, records).unwrap();
        (backend, view.parts())
    }

    #[test]
    fn a_state_read_in_threads_is_the_one_that_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (backend, parts) = filled(&dir.path().join("sled-1"), 5_000);
        let (sender, position) = std::sync::mpsc::channel();
        let (mut state, layout) =
            backend.load_state(Limits::default(), &Values::default(), &sender).unwrap().unwrap();
        assert_eq!(state.publish().parts(), parts);
        assert_eq!(position.try_recv(), Ok(parts.applied.index));
        assert_eq!(position.try_recv(), Ok(parts.applied.index), "it goes on");
        assert_eq!(layout, state::backend::load(&backend).unwrap().unwrap().layout);
    }

    #[test]
    fn an_empty_backend_has_no_state_and_one_in_doubt_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, position) = std::sync::mpsc::channel();
        let empty = SledBackend::open(&dir.path().join("sled-1")).unwrap();
        assert!(
            empty.load_state(Limits::default(), &Values::default(), &sender).unwrap().is_none()
        );
        assert!(position.try_recv().is_err());

        let (backend, _) = filled(&dir.path().join("sled-2"), 50_000);
        let mut blocks = Vec::new();
        let noted = backend.scan(b"b/", &mut |key, _| {
            blocks.push(key.to_vec());
            ControlFlow::Continue(())
        });
        noted.unwrap();
        // Early, so that the one that reads has far to go when the one that judges is done.
        let block = &blocks[3];
        let mut rotten = backend.get(block).unwrap().unwrap().to_vec();
        rotten[100] ^= 1;
        for damage in [Some(rotten), None] {
            match damage {
                Some(rotten) => backend.tamper(block, &rotten),
                None => drop(backend.db().remove(block).unwrap()),
            }
            let refused =
                backend.load_state(Limits::default(), &Values::default(), &sender).unwrap_err();
            let named = ["block checksum", "its applied position counts"];
            assert!(named.iter().any(|reason| refused.contains(reason)), "{refused}");
        }
    }
}
