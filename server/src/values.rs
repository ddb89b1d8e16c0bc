//! The bounded cache of values (`--value-cache-bytes`): the shell around [`state::ValueCache`].
//!
//! The cache decides what stays in memory; this file locks it, reads what is missing from the backend and
//! tells the metrics. A block is read by revision, its checksum checked, and the record found in it
//! compared with the entry that asks: key, revisions, lease and length.
//!
//! A value that cannot be read ends the member, as a failed log does: nothing can be answered in its
//! stead, and the generation cannot be built anew from a memory that lacks it. The next start reads the
//! whole backend, finds what is wrong with it and builds it from snapshot and log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use prometheus::{IntCounter, IntGauge};
use state::block::Block;
use state::{Record, ValueCache, ValueSource, Values};

use crate::backend::BlockReader;
use crate::metrics::Metrics;
use crate::node::Fatal;

/// The least `--value-cache-bytes` may be: as much may wait for the backend to be synced.
pub(crate) const VALUE_CACHE_BYTES_MIN: u64 = 8 << 20;

/// Values of fewer bytes stay with their keys: apart they would take more memory, not less.
const APART_BYTES_MIN: usize = 64;

/// How long apply waits for room. A backend that stands still for longer, because it is built anew or its
/// disk is slow, is not waited for again until it has synced something: it costs memory instead.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);

/// A read that fails because its generation has just been replaced is tried again, so often.
const READ_TRIES: usize = 3;

/// Where the values are, and what becomes of the member if one is lost.
#[derive(Debug)]
pub(crate) struct ValueStore {
    cache: Mutex<ValueCache>,
    /// The backend has synced something.
    followed: Condvar,
    /// Waited for in vain since it last did.
    stands_still: AtomicBool,
    /// The generation in use. `None`: there is none, and nothing has left memory.
    reader: RwLock<Option<Arc<BlockReader>>>,
    bytes: IntGauge,
    hits: IntCounter,
    misses: IntCounter,
    fatal: Fatal,
}

impl ValueStore {
    /// A cache of so many bytes, with nothing in it.
    pub(crate) fn new(bytes_max: u64, metrics: &Metrics, fatal: Fatal) -> Arc<Self> {
        Arc::new(ValueStore {
            cache: Mutex::new(ValueCache::new(usize::try_from(bytes_max).unwrap_or(usize::MAX))),
            followed: Condvar::new(),
            stands_still: AtomicBool::new(false),
            reader: RwLock::new(None),
            bytes: metrics.value_cache_bytes.clone(),
            hits: metrics.value_cache_hits.clone(),
            misses: metrics.value_cache_misses.clone(),
            fatal,
        })
    }

    /// What the state is told.
    pub(crate) fn values(self: &Arc<Self>) -> Values {
        Values::kept_by(Arc::<Self>::clone(self))
    }

    fn cache(&self) -> MutexGuard<'_, ValueCache> {
        // Its methods leave it whole or panic on a bug of their own.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self) -> Option<Arc<BlockReader>> {
        self.reader.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on values are read from this generation, which has all that is not in memory.
    pub(crate) fn attach(&self, reader: BlockReader) {
        let reader = Some(Arc::new(reader));
        let old = std::mem::replace(
            &mut *self.reader.write().unwrap_or_else(PoisonError::into_inner),
            reader,
        );
        drop(old);
    }

    /// There is no generation: everything is in memory.
    pub(crate) fn detach(&self) {
        self.reader.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether values are in a generation and perhaps nowhere else in reach.
    pub(crate) fn is_attached(&self) -> bool {
        self.reader().is_some()
    }

    /// The generation has synced every record up to a revision.
    pub(crate) fn synced(&self, through_revision: i64) {
        while self.cache().synced(through_revision) {}
        self.note(&self.cache());
        self.stands_still.store(false, Ordering::Relaxed);
        self.followed.notify_all();
    }

    /// Whether so many values wait for the generation that apply is to [`ValueStore::wait_for_room`].
    pub(crate) fn is_crowded(&self) -> bool {
        self.cache().is_crowded() && !self.stands_still.load(Ordering::Relaxed)
    }

    /// Waits until fewer values wait for the generation, for a while at most. Everything must have been
    /// handed over to it.
    pub(crate) fn wait_for_room(&self) {
        let until = Instant::now() + ROOM_WAIT_MAX;
        let mut cache = self.cache();
        while cache.is_crowded() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.stands_still.store(true, Ordering::Relaxed);
                return;
            }
            let waited = self.followed.wait_timeout(cache, left);
            (cache, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether so many bytes that the generation has taken in should be synced, to make room.
    pub(crate) fn wants_sync(&self, unsynced_bytes: usize) -> bool {
        self.cache().wants_sync(unsynced_bytes)
    }

    /// Whether the generation may drop what compactions up to this revision dropped.
    pub(crate) fn may_drop(&self, compact_revision: i64) -> bool {
        self.cache().may_drop(compact_revision)
    }

    /// The generation can not be used any more.
    pub(crate) fn lost(&self, reason: &str) {
        self.fatal.raise(format!(
            "the backend failed, and values are in it that are not in memory: {reason}; the next start \
             builds it from snapshot and log"
        ));
    }

    fn note(&self, cache: &ValueCache) {
        let figures = cache.figures();
        let bytes = figures.waiting_bytes + figures.cached_bytes;
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A record that was read may be wanted again, and its neighbours by whoever reads on.
    fn keep(&self, found: &Record, block: Block) {
        let mut cache = self.cache();
        cache.note_block(block);
        cache.insert(found.clone());
        self.note(&cache);
    }

    /// Reads the block of an entry, and its record out of it.
    fn fetch(&self, entry: &Record) -> Result<(Record, Block), String> {
        let mut tried: Option<Arc<BlockReader>> = None;
        let mut reason = String::from("there is no backend");
        for _ in 0..READ_TRIES {
            let reader = self.reader();
            let is_same = match (&tried, &reader) {
                (Some(tried), Some(reader)) => Arc::ptr_eq(tried, reader),
                (_, None) => true,
                (None, Some(_)) => false,
            };
            let Some(reader) = reader.filter(|_| !is_same) else { break };
            match found_in(&reader, entry) {
                Ok(found) => return Ok(found),
                Err(error) => reason = error,
            }
            tried = Some(reader);
        }
        Err(format!("value of revision {}: {reason}", entry.revision()))
    }
}

/// The record of an entry, and the block it was in.
fn found_in(reader: &BlockReader, entry: &Record) -> Result<(Record, Block), String> {
    let block = reader.block_of(entry.revision()).map_err(|error| error.to_string())?;
    let found = block.find(entry.revision()).map_err(|error| error.to_string())?;
    let missing = || format!("the block at {} does not have it", block.first());
    Ok((found.filter(|found| found == entry).ok_or_else(missing)?, block))
}

impl ValueSource for ValueStore {
    fn apart_bytes_min(&self) -> usize {
        APART_BYTES_MIN
    }

    fn hold(&self, record: &Record) {
        let mut cache = self.cache();
        cache.hold(record);
        self.note(&cache);
    }

    fn at_hand(&self, entry: &Record) -> Option<Record> {
        let found = self.cache().find(entry);
        self.hits.inc_by(u64::from(found.is_some()));
        found
    }

    fn near(&self, entry: &Record) -> Option<Record> {
        if let Some(found) = self.at_hand(entry) {
            return Some(found);
        }
        // Held meanwhile: whoever replaces the generation waits, and closes the old one.
        let reader = self.reader.read().unwrap_or_else(PoisonError::into_inner);
        let block = reader.as_ref()?.block_at_hand(entry.revision())?;
        drop(reader);
        // In doubt whoever may wait looks closer: a view that is not pinned may be overtaken.
        let found = block.find(entry.revision()).ok()?.filter(|found| found == entry)?;
        self.misses.inc();
        self.keep(&found, block);
        Some(found)
    }

    fn read(&self, entry: &Record, reuse: bool) -> Record {
        // Walks over everything would hide how it is with what is asked for.
        let found = if reuse { self.at_hand(entry) } else { self.cache().find(entry) };
        if let Some(found) = found {
            return found;
        }
        self.misses.inc_by(u64::from(reuse));
        match self.fetch(entry) {
            Ok((found, block)) => {
                if reuse {
                    self.keep(&found, block);
                } else {
                    self.cache().note_block(block);
                }
                found
            }
            Err(reason) => {
                self.lost(&reason);
                panic!("{reason}");
            }
        }
    }

    fn pin(&self, compact_revision: i64) -> bool {
        self.cache().pin(compact_revision)
    }

    fn unpin(&self, compact_revision: i64) {
        self.cache().unpin(compact_revision);
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest};
    use proto::log::{Command, command::Op};
    use state::backend::{Backend as _, Writeback, WritebackLimits};
    use state::{Limits, State, View, hash};

    use super::*;
    use crate::backend::SledBackend;

    const KEYS: u64 = 500;
    const VALUE_BYTES: usize = 1_000;
    /// A few blocks.
    const FILE_BYTES_MAX: u64 = 32 << 10;
    const ROUNDS: u8 = 6;
    /// Where the one that writes fails, readers end all the same.
    const READS_MAX: u64 = 1_000_000;
    /// Looks at whether somebody still reads an older view.
    const LOOKS_MAX: usize = 100_000;

    /// A member's state with a tiny cache, the same state with all values in memory, and the backend.
    struct Stage {
        store: Arc<ValueStore>,
        fatal: Fatal,
        apart: State,
        whole: State,
        backend: SledBackend,
        writeback: Writeback,
        index: u64,
        dir: tempfile::TempDir,
    }

    impl Stage {
        fn new() -> Stage {
            let dir = tempfile::tempdir().unwrap();
            let backend =
                SledBackend::open_with(&dir.path().join("sled-1"), FILE_BYTES_MAX).unwrap();
            let fatal = Fatal::default();
            let store = ValueStore::new(20 * VALUE_BYTES as u64, &Metrics::new(), fatal.clone());
            store.attach(backend.reader());
            Stage {
                apart: State::new_with(Limits::default(), store.values()),
                whole: State::new(Limits::default()),
                writeback: Writeback::new(WritebackLimits::default()),
                store,
                fatal,
                backend,
                index: 0,
                dir,
            }
        }

        fn apply(&mut self, op: Op) {
            self.index += 1;
            let command = Command { id: None, op: Some(op) };
            for state in [&mut self.apart, &mut self.whole] {
                state.apply(self.index, 1, &command).result.unwrap();
            }
            let view = self.apart.publish();
            self.writeback.feed([&self.apart.take_changes()], &view);
        }

        fn put_all(&mut self, round: u8) {
            for n in 0..KEYS {
                let value: Vec<u8> =
                    (0..VALUE_BYTES).map(|at| (at as u64 * n) as u8 ^ round).collect();
                let key = format!("{n:04}").into();
                self.apply(Op::Put(PutRequest {
                    key,
                    value: value.into(),
                    ..PutRequest::default()
                }));
            }
        }

        fn commit(&mut self) {
            self.writeback.seal();
            while let Some(batch) = self.writeback.take_batch() {
                self.backend.commit(&batch).unwrap();
            }
        }

        fn sync(&mut self) {
            self.commit();
            self.backend.flush().unwrap();
            self.store.synced(self.writeback.sealed_applied().revision);
        }

        fn first_file(&self) -> std::path::PathBuf {
            self.dir.path().join("sled-1/blocks/00000001.blocks")
        }

        fn views(&mut self) -> [View; 2] {
            while self.apart.sweep(64) || self.whole.sweep(64) {}
            [self.apart.publish(), self.whole.publish()]
        }

        fn are_alike(&mut self) {
            let [apart, whole] = self.views();
            assert_eq!(apart.range(&everything()), whole.range(&everything()));
            assert_eq!(hash::hash_kv(&apart, 0), hash::hash_kv(&whole, 0));
            assert_eq!(hash::hash_all(&apart), hash::hash_all(&whole));
        }
    }

    fn everything() -> RangeRequest {
        RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() }
    }

    #[test]
    fn values_leave_memory_when_the_backend_has_synced_them_and_are_read_back() {
        let mut stage = Stage::new();
        stage.put_all(0);
        stage.commit();
        let [apart, _] = stage.views();
        assert!(apart.range_at_hand(&everything()).is_some(), "committed is not synced");
        stage.sync();
        assert!(apart.range_at_hand(&everything()).is_none());
        let keys_only = RangeRequest { keys_only: true, ..everything() };
        assert!(apart.range_at_hand(&keys_only).is_some());
        assert_eq!(stage.store.misses.get(), 0);
        stage.are_alike();
        // A block has 64 of them, and a walk takes the neighbours along.
        let misses = stage.store.misses.get();
        assert!((KEYS / 64..KEYS).contains(&misses), "{misses}");
        let held = stage.store.bytes.get();
        assert!(held > 0 && held <= 20 * VALUE_BYTES as i64, "{held}");
    }

    #[test]
    fn one_value_is_read_where_it_is_asked_for_if_that_takes_no_disk() {
        let mut stage = Stage::new();
        stage.put_all(0);
        stage.sync();
        let [apart, whole] = stage.views();
        let one =
            |n: u64| RangeRequest { key: format!("{n:04}").into(), ..RangeRequest::default() };
        for n in [0, 1, 250] {
            let found = apart.range_at_hand(&one(n)).expect("written just now").unwrap();
            assert_eq!(found, whole.range(&one(n)).unwrap());
        }
        assert_eq!(stage.store.misses.get(), 2, "the second is the first one's neighbour");

        // What compaction has taken from the backend is not at hand for a view that it has overtaken.
        stage.put_all(1);
        let compaction = CompactionRequest { revision: apart.revision() + 400, physical: false };
        stage.apply(Op::Compact(compaction));
        stage.sync();
        let [newer, _] = stage.views();
        stage.writeback.feed([&stage.apart.take_changes()], &newer);
        stage.sync();
        let through = stage.writeback.sealed_applied().compact_revision;
        assert!(stage.writeback.wants_compaction() && stage.store.may_drop(through));
        while let Some(batch) = stage.writeback.compact(&stage.backend).unwrap() {
            stage.backend.commit(&batch).unwrap();
        }
        assert!(apart.range_at_hand(&one(100)).is_none());
        assert!(newer.range_at_hand(&one(100)).is_some());
        assert_eq!(stage.fatal.reason(), None);
    }

    #[test]
    fn readers_find_every_value_while_blocks_are_written_anew_and_files_go() {
        let mut stage = Stage::new();
        stage.put_all(0);
        stage.sync();
        let first = stage.first_file();
        assert!(first.exists());
        let newest = Mutex::new(stage.views());
        let has_ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reading = |step: u64| {
                let mut n = 0;
                while n < KEYS || n < READS_MAX && !has_ended.load(Ordering::Relaxed) {
                    n += step;
                    let [apart, whole] = newest.lock().unwrap().clone();
                    let Some(_pin) = apart.pin() else { continue };
                    let key = format!("{:04}", n * 77 % KEYS).into();
                    let one = RangeRequest { key, ..RangeRequest::default() };
                    let at_hand = apart.range_at_hand(&one).filter(|_| n.is_multiple_of(2));
                    let found = at_hand.unwrap_or_else(|| apart.range(&one));
                    assert_eq!(found, whole.range(&one));
                }
            };
            let readers = [1, 3].map(|step| scope.spawn(move || reading(step)));
            for round in 1..=ROUNDS {
                stage.put_all(round);
                let revision = newest.lock().unwrap()[0].revision() + 300;
                stage.apply(Op::Compact(CompactionRequest { revision, physical: false }));
                let views = stage.views();
                stage.writeback.feed([&stage.apart.take_changes()], &views[0]);
                *newest.lock().unwrap() = views;
                stage.sync();
                let through = stage.writeback.sealed_applied().compact_revision;
                let mut looks = 0;
                while !stage.store.may_drop(through) && looks < LOOKS_MAX {
                    looks += 1;
                    std::thread::yield_now();
                }
                assert!(looks < LOOKS_MAX, "whoever reads takes the newest view");
                while let Some(batch) = stage.writeback.compact(&stage.backend).unwrap() {
                    stage.backend.commit(&batch).unwrap();
                }
                stage.sync();
            }
            has_ended.store(true, Ordering::Relaxed);
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
        assert!(!first.exists(), "its blocks were written anew");
        assert_eq!(stage.fatal.reason(), None);
        stage.are_alike();
    }

    #[test]
    fn apply_waits_for_a_backend_that_has_too_much_to_sync_and_once_for_one_that_stands_still() {
        let mut stage = Stage::new();
        assert!(!stage.store.is_crowded());
        stage.put_all(0);
        assert!(stage.store.is_crowded());
        let store = Arc::clone(&stage.store);
        let waiting = std::thread::spawn(move || store.wait_for_room());
        stage.sync();
        waiting.join().unwrap();
        assert!(!stage.store.is_crowded());

        stage.put_all(1);
        assert!(stage.store.is_crowded());
        stage.store.wait_for_room();
        assert!(!stage.store.is_crowded(), "nobody has synced anything, and nobody waits any more");
        stage.sync();
        stage.put_all(2);
        assert!(stage.store.is_crowded(), "it has followed, and is waited for again");
    }

    #[test]
    fn compaction_leaves_what_a_pinned_view_has_and_no_older_view_is_pinned_after_it() {
        let mut stage = Stage::new();
        stage.put_all(0);
        stage.sync();
        let [before, _] = stage.views();
        let pin = before.pin().unwrap();
        stage.put_all(1);
        let compaction = CompactionRequest { revision: before.revision() + 400, physical: false };
        stage.apply(Op::Compact(compaction));
        let [apart, _] = stage.views();
        stage.writeback.feed([&stage.apart.take_changes()], &apart);
        stage.sync();
        assert!(stage.writeback.wants_compaction());
        let through = stage.writeback.sealed_applied().compact_revision;
        assert!(!stage.store.may_drop(through));
        assert_eq!(before.range(&everything()).unwrap().kvs.len() as u64, KEYS);
        drop(pin);
        assert!(stage.store.may_drop(through));
        while let Some(batch) = stage.writeback.compact(&stage.backend).unwrap() {
            stage.backend.commit(&batch).unwrap();
        }
        assert!(before.pin().is_none() && apart.pin().is_some());
        stage.are_alike();
    }

    #[test]
    fn a_value_that_can_not_be_read_ends_the_member() {
        let mut stage = Stage::new();
        stage.put_all(0);
        stage.sync();
        let [apart, _] = stage.views();
        let mut blocks = Vec::new();
        stage
            .backend
            .scan(b"b/", &mut |key, value| {
                blocks.push((key.to_vec(), value.to_vec()));
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        let (key, mut rotten) = blocks.swap_remove(0);
        rotten[200] ^= 1;
        stage.backend.tamper(&key, &rotten);
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            drop(apart.range(&everything()));
        }));
        assert!(asked.is_err());
        let reason = stage.fatal.reason().expect("raised");
        assert!(
            reason.contains("block checksum") && reason.contains("snapshot and log"),
            "{reason}"
        );
    }
}
