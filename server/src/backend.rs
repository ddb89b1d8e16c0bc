//! The on-disk home of the state: sled, behind [`state::backend::Backend`], written behind apply's
//! back by a thread of its own.
//!
//! Nothing waits for it and nothing is promised on it. It spares a member reading a whole snapshot at
//! boot; whenever it fails, falls too far behind or can not be read back, its generation (a
//! directory `sled-N`) is dropped and the next one is filled from the state in memory. `Defragment`
//! does just that too: sled does not give back the room that deleted data took.
//!
//! Nor does it give back memory in time. Its page cache looks at its limit only when one of its 256
//! shards has seen 64 accesses, and a page of ours holds up to 16 blocks: hundreds of MiB before
//! anything is let go. Opening a database takes milliseconds and begins with empty pages, so it is
//! opened anew whenever enough has gone through it.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::Write as _;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use state::backend::{
    Backend, BackendBatch, BackendError, Layout, Loaded, Loading, Pair, Writeback, WritebackLimits,
};
use state::parts::Changes;
use state::{Limits, State, View};
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::node::panic_text;

/// sled's page cache; reads are served from the state in memory, so a small one does. What really
/// bounds it is [`PAGED_IN_BYTES_MIN`].
const CACHE_BYTES: u64 = 16 << 20;
/// Bytes read and written before the database is opened anew, …
const PAGED_IN_BYTES_MIN: u64 = 32 << 20;
/// … or this part of a large one's size, since opening takes longer the larger it is.
const PAGED_IN_DIVISOR: u64 = 16;
/// What is left behind a scan without opening anew.
const PAGED_IN_BYTES_IDLE: u64 = 1 << 20;
/// Pairs a page of sled holds half filled: as many are paged in for one that is asked for.
const PAGE_PAIRS: u64 = 8;
/// Tries to open anew, [`REOPEN_PAUSE`] apart: sled's threads may hold the lock a little longer.
const REOPEN_TRIES: u32 = 100;
/// Between two of these tries.
const REOPEN_PAUSE: Duration = Duration::from_millis(10);
/// Pairs read and not yet unpacked while a state is loaded: some MiB.
const PAIRS_WAITING_MAX: usize = 256;
/// Changes that may wait for the thread. Beyond, the generation is given up and rebuilt.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// How long opening a generation may take: sled has been seen to hang on damaged files.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two asynchronous flushes, and the longest an idle thread leaves a tail unsealed.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Between two rebuilds after failures: a disk that fails is not beaten.
const REBUILD_PAUSE: Duration = Duration::from_secs(10);
/// File that names the generation in use.
const CURRENT: &str = "CURRENT";
const PREFIX: &str = "sled-";

/// One sled database with one tree.
pub struct SledBackend {
    path: PathBuf,
    /// `None` only once it could not be opened anew.
    db: RefCell<Option<sled::Db>>,
    /// Bytes that went through it since it was opened, about.
    paged_in_bytes: Cell<u64>,
    paged_in_bytes_max: Cell<u64>,
}

impl SledBackend {
    /// Opens the database at `path`, making it if need be.
    ///
    /// # Errors
    /// [`BackendError::Engine`]; sled may also panic on a damaged file.
    pub fn open(path: &Path) -> Result<Self, BackendError> {
        let backend = SledBackend {
            path: path.to_owned(),
            db: RefCell::new(Some(open_sled(path).map_err(engine)?)),
            paged_in_bytes: Cell::new(0),
            paged_in_bytes_max: Cell::new(PAGED_IN_BYTES_MIN),
        };
        backend.note_opened()?;
        Ok(backend)
    }

    fn db(&self) -> Result<sled::Db, BackendError> {
        let db = self.db.borrow().clone();
        db.ok_or_else(|| BackendError::Engine(String::from("it could not be opened anew")))
    }

    fn note_opened(&self) -> Result<(), BackendError> {
        self.paged_in_bytes.set(0);
        let part = self.size_bytes()? / PAGED_IN_DIVISOR;
        self.paged_in_bytes_max.set(part.max(PAGED_IN_BYTES_MIN));
        Ok(())
    }

    fn paged_in(&self, bytes: u64) {
        self.paged_in_bytes.set(self.paged_in_bytes.get().saturating_add(bytes));
    }

    fn is_full(&self) -> bool {
        self.paged_in_bytes.get() >= self.paged_in_bytes_max.get()
    }

    /// Lets go of every page in memory. Nobody else may hold the database.
    fn reopen(&self) -> Result<(), BackendError> {
        let db = self.db()?;
        db.flush().map_err(engine)?;
        drop(db);
        drop(self.db.take());
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
        let opened = opened.and_then(Apart::wait).map_err(BackendError::Engine)?;
        self.db.replace(Some(opened.map_err(engine)?));
        self.note_opened()
    }
}

impl SledBackend {
    /// [`Backend::scan`], the pairs not copied.
    fn scan_pairs(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(sled::IVec, sled::IVec) -> ControlFlow<()>,
    ) -> Result<(), BackendError> {
        let mut from = Bound::Included(prefix.to_vec());
        loop {
            let mut left_off = None;
            for pair in self.db()?.range((from, Bound::Unbounded)) {
                let (key, value) = pair.map_err(engine)?;
                if !key.starts_with(prefix) {
                    break;
                }
                self.paged_in((key.len() + value.len()) as u64);
                if self.is_full() {
                    left_off = Some(key.to_vec());
                }
                if visit(key, value).is_break() {
                    left_off = None;
                    break;
                }
                if left_off.is_some() {
                    break;
                }
            }
            if left_off.is_some() || self.paged_in_bytes.get() > PAGED_IN_BYTES_IDLE {
                self.reopen()?;
            }
            let Some(key) = left_off else { return Ok(()) };
            from = Bound::Excluded(key);
        }
    }

    /// Reads the whole key space and makes the state of it: pairs come from sled in one thread, are
    /// checked and unpacked in another. `position` is told first where the state stands.
    fn load_state(
        &self,
        limits: Limits,
        position: &Sender<u64>,
    ) -> Result<Option<(State, Layout)>, String> {
        let said = |error: BackendError| error.to_string();
        let Some(mut loading) = Loading::begin(self).map_err(said)? else { return Ok(None) };
        // Nobody waits any more only if the boot has failed.
        let _ = position.send(loading.applied().index);
        let (pairs, received) =
            std::sync::mpsc::sync_channel::<(sled::IVec, sled::IVec)>(PAIRS_WAITING_MAX);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(String::from("backend-load"));
            let built = thread.spawn_scoped(scope, move || {
                for (key, value) in received {
                    Pair::read(&key, &value).and_then(|pair| loading.add(pair)).map_err(said)?;
                }
                let Loaded { parts, layout } = loading.finish().map_err(said)?;
                let state = State::from_parts(parts, limits).map_err(|error| error.to_string())?;
                Ok((state, layout))
            });
            let built = built.map_err(|error| error.to_string())?;
            let scanned = self.scan_pairs(b"", &mut |key, value| match pairs.send((key, value)) {
                Ok(()) => ControlFlow::Continue(()),
                // The other thread has found something wrong.
                Err(_) => ControlFlow::Break(()),
            });
            drop(pairs);
            let built = built.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            scanned.map_err(said)?;
            built.map(Some)
        })
    }
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
struct Apart<T> {
    answer: Receiver<Result<T, String>>,
    deadline: Instant,
}

impl<T: Send + 'static> Apart<T> {
    fn begin(
        work: impl FnOnce() -> T + Send + std::panic::UnwindSafe + 'static,
    ) -> Result<Self, String> {
        let (sender, answer) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name(String::from("backend-open"))
            .spawn(move || {
                let done = catch_unwind(work);
                drop(sender.send(done.map_err(|panic| panic_text(panic.as_ref()))));
            })
            .map_err(|error| error.to_string())?;
        Ok(Apart { answer, deadline: Instant::now() + OPEN_TIMEOUT })
    }

    fn wait(self) -> Result<T, String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let done = self.answer.recv_timeout(left);
        done.unwrap_or_else(|_| Err(format!("no answer in {OPEN_TIMEOUT:?}")))
    }
}

fn engine(error: impl std::fmt::Display) -> BackendError {
    BackendError::Engine(error.to_string())
}

impl std::fmt::Debug for SledBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SledBackend")
    }
}

impl Backend for SledBackend {
    fn commit(&mut self, batch: &BackendBatch) -> Result<(), BackendError> {
        if self.is_full() {
            self.reopen()?;
        }
        let mut writes = sled::Batch::default();
        for write in batch.writes() {
            match &write.value {
                Some(value) => writes.insert(write.key.as_slice(), value.as_slice()),
                None => writes.remove(write.key.as_slice()),
            }
        }
        self.paged_in(batch.size_bytes() as u64);
        self.db()?.apply_batch(writes).map_err(engine)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        let found = self.db()?.get(key).map_err(engine)?;
        self.paged_in(found.as_ref().map_or(0, |value| value.len() as u64) * PAGE_PAIRS);
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), BackendError> {
        self.scan_pairs(prefix, &mut |key, value| visit(&key, &value))
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        self.db()?.flush().map(drop).map_err(engine)
    }

    fn size_bytes(&self) -> Result<u64, BackendError> {
        self.db()?.size_on_disk().map_err(engine)
    }

    fn clear(&mut self) -> Result<(), BackendError> {
        let db = self.db()?;
        db.clear().map_err(engine)?;
        db.flush().map(drop).map_err(engine)
    }
}

/// The directory with the generations.
#[derive(Clone, Debug)]
pub(crate) struct Generations {
    dir: PathBuf,
}

type Read = Result<(SledBackend, Option<(State, Layout)>), String>;

/// A generation that is being read.
pub(crate) struct ReadingState {
    position: Receiver<u64>,
    reading: Option<(u64, Result<Apart<Read>, String>)>,
}

impl ReadingState {
    /// Waits until it is known where in the log the state stands, if it can be read; 0 where there
    /// is none.
    pub(crate) fn position(&self) -> u64 {
        // The sender goes with the thread, in whatever way that ends.
        self.position.recv_timeout(OPEN_TIMEOUT).unwrap_or(0)
    }

    /// Waits for the end. Any doubt about the generation: `None`, and it will be replaced.
    pub(crate) fn finish(self) -> Option<(Opened, Option<State>)> {
        let (generation, reading) = self.reading?;
        let reason = match reading.and_then(Apart::wait) {
            Ok(Ok((backend, loaded))) => {
                let (state, layout) = loaded.unzip();
                return Some((Opened { generation, backend, layout }, state));
            }
            Ok(Err(reason)) | Err(reason) => reason,
        };
        tracing::warn!(generation, reason, "the backend can not be used and is built anew");
        None
    }
}

/// A generation that could be opened, and what was in it.
pub(crate) struct Opened {
    generation: u64,
    backend: SledBackend,
    layout: Option<Layout>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Generations {
    /// `dir` is made if need be.
    pub(crate) fn new(dir: PathBuf) -> std::io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Generations { dir })
    }

    fn path(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{generation}"))
    }

    fn current(&self) -> Option<u64> {
        fs::read_to_string(self.dir.join(CURRENT)).ok()?.trim().parse().ok()
    }

    /// Begins to read the generation in use, in threads of its own.
    pub(crate) fn read_current(&self, limits: Limits) -> ReadingState {
        let (sender, position) = std::sync::mpsc::channel();
        let reading = self.current().map(|generation| {
            let path = self.path(generation);
            let reading = Apart::begin(move || {
                let backend = SledBackend::open(&path).map_err(|error| error.to_string())?;
                let loaded = backend.load_state(limits, &sender)?;
                Ok((backend, loaded))
            });
            (generation, reading)
        });
        ReadingState { position, reading }
    }

    /// A generation after all there ever were, empty.
    fn begin_next(&self) -> Result<(u64, SledBackend), BackendError> {
        let last = self.all().into_iter().max().unwrap_or(0).max(self.current().unwrap_or(0));
        let backend = SledBackend::open(&self.path(last + 1))?;
        Ok((last + 1, backend))
    }

    /// Makes `generation` the one in use, durably, and removes the others.
    fn switch_to(&self, generation: u64) -> std::io::Result<()> {
        let temporary = self.dir.join(format!("{CURRENT}.tmp"));
        let mut file = fs::File::create(&temporary)?;
        writeln!(file, "{generation}")?;
        file.sync_data()?;
        fs::rename(&temporary, self.dir.join(CURRENT))?;
        fs::File::open(&self.dir)?.sync_all()?;
        for other in self.all().into_iter().filter(|other| *other != generation) {
            fs::remove_dir_all(self.path(other))?;
        }
        Ok(())
    }

    fn all(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        entries
            .filter_map(|entry| {
                entry.ok()?.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok()
            })
            .collect()
    }
}

enum Task {
    Applied { view: View, changes: Changes, bytes: usize },
    Replace(View),
    Rebuild(oneshot::Sender<Result<(), String>>),
    Stop,
}

/// Figures of the backend, and the way to ask for a rebuild.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    tasks: Sender<Task>,
    figures: Arc<Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    size_bytes: AtomicU64,
    waiting_bytes: AtomicUsize,
}

impl Control {
    /// Builds a new generation from the newest state and drops the old one.
    pub(crate) async fn rebuild(&self) -> Result<(), String> {
        let (sender, receiver) = oneshot::channel();
        drop(self.tasks.send(Task::Rebuild(sender)));
        receiver.await.map_err(|_| String::from("the backend has stopped"))?
    }

    /// Bytes of the generation in use.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.figures.size_bytes.load(Ordering::Relaxed)
    }
}

/// What apply hands its changes to. Never waits.
#[derive(Debug)]
pub(crate) struct BackendWriter {
    control: Control,
    thread: Option<JoinHandle<()>>,
    behind: bool,
}

impl BackendWriter {
    /// Starts the thread. `opened` holds the state that `view` was built from, or nothing usable.
    pub(crate) fn start(
        generations: Generations,
        opened: Option<Opened>,
        view: &View,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<BackendWriter> {
        let (tasks, received) = std::sync::mpsc::channel();
        let figures = Arc::new(Figures::default());
        let mut worker = Worker {
            generations,
            open: None,
            figures: Arc::clone(&figures),
            latest: view.clone(),
            rebuild_at: None,
            metrics,
        };
        let view = view.clone();
        let thread = std::thread::Builder::new()
            .name(String::from("backend"))
            .spawn(move || worker.run(opened, &view, &received))?;
        let control = Control { tasks, figures };
        Ok(BackendWriter { control, thread: Some(thread), behind: false })
    }

    /// A way to the thread for others.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// `changes` led to `view`; after `replaced` the view stands alone.
    pub(crate) fn applied(&mut self, view: &View, changes: Changes, replaced: bool) {
        let waiting = &self.control.figures.waiting_bytes;
        if replaced {
            self.behind = false;
            drop(self.control.tasks.send(Task::Replace(view.clone())));
            return;
        }
        if self.behind {
            // What it missed it can only get from a whole view, once it has caught up.
            if waiting.load(Ordering::Relaxed) == 0 {
                self.behind = false;
                drop(self.control.tasks.send(Task::Replace(view.clone())));
            }
            return;
        }
        let bytes = changes.records.iter().map(|record| record.as_bytes().len()).sum();
        if waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_BYTES_MAX {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            tracing::warn!("the backend can not follow: its generation is given up");
            self.behind = true;
            return;
        }
        drop(self.control.tasks.send(Task::Applied { view: view.clone(), changes, bytes }));
    }
}

impl Drop for BackendWriter {
    fn drop(&mut self) {
        drop(self.control.tasks.send(Task::Stop));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Open {
    generation: u64,
    backend: SledBackend,
    writeback: Writeback,
}

struct Worker {
    generations: Generations,
    open: Option<Open>,
    figures: Arc<Figures>,
    latest: View,
    /// No generation is in use; not before this is a new one begun.
    rebuild_at: Option<Instant>,
    metrics: Arc<Metrics>,
}

impl Worker {
    fn run(&mut self, opened: Option<Opened>, view: &View, tasks: &Receiver<Task>) {
        match opened {
            Some(Opened { generation, backend, layout: Some(layout) }) => {
                let writeback = Writeback::resume(WritebackLimits::default(), layout, view);
                self.open = Some(Open { generation, backend, writeback });
                self.note_size();
            }
            _ => self.rebuild(view),
        }
        let mut flushed = Instant::now();
        loop {
            match tasks.recv_timeout(FLUSH_INTERVAL) {
                Ok(Task::Applied { view, changes, bytes }) => {
                    let began = Instant::now();
                    let committed = self.guarded(|open| open.feed(&changes, &view));
                    if committed == Some(true) {
                        let seconds = began.elapsed().as_secs_f64();
                        self.metrics.backend_commit_seconds.observe(seconds);
                    }
                    self.latest = view;
                    self.figures.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Ok(Task::Replace(view)) => self.rebuild(&view),
                Ok(Task::Rebuild(reply)) => {
                    let latest = self.latest.clone();
                    self.rebuild(&latest);
                    let done = self.open.is_some();
                    let failed = || String::from("the backend could not be rebuilt");
                    drop(reply.send(if done { Ok(()) } else { Err(failed()) }));
                }
                Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.guarded(Open::close);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => drop(self.guarded(Open::tidy)),
            }
            if flushed.elapsed() >= FLUSH_INTERVAL {
                flushed = Instant::now();
                self.guarded(|open| open.backend.flush());
                self.note_size();
                if self.rebuild_at.is_some_and(|at| at <= flushed) {
                    let latest = self.latest.clone();
                    self.rebuild(&latest);
                }
            }
        }
    }

    /// Whatever goes wrong in the engine costs its generation and nothing else.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Open) -> Result<T, BackendError>) -> Option<T> {
        let open = self.open.as_mut()?;
        let reason = match catch_unwind(AssertUnwindSafe(|| work(open))) {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(panic.as_ref()),
        };
        tracing::warn!(generation = open.generation, reason, "the backend is given up");
        self.give_up();
        None
    }

    fn give_up(&mut self) {
        let open = self.open.take();
        // Closing a broken engine may panic once more.
        drop(catch_unwind(AssertUnwindSafe(|| drop(open))));
        self.rebuild_at = Some(Instant::now() + REBUILD_PAUSE);
    }

    fn rebuild(&mut self, view: &View) {
        self.latest = view.clone();
        let generations = self.generations.clone();
        let built = catch_unwind(AssertUnwindSafe(|| {
            let (generation, mut backend) = generations.begin_next()?;
            let writeback = Writeback::rebuild(
                WritebackLimits::default(),
                &mut backend,
                view.applied(),
                view.rows(),
                view.records().cloned(),
            )?;
            generations.switch_to(generation).map_err(engine)?;
            Ok::<_, BackendError>(Open { generation, backend, writeback })
        }));
        let reason = match built {
            Ok(Ok(open)) => {
                tracing::info!(generation = open.generation, "the backend was built anew");
                let old = self.open.replace(open);
                drop(catch_unwind(AssertUnwindSafe(|| drop(old))));
                self.rebuild_at = None;
                self.metrics.statestore_rebuilds.inc();
                self.note_size();
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(panic.as_ref()),
        };
        tracing::warn!(reason, "the backend could not be built anew");
        self.give_up();
    }

    fn note_size(&self) {
        if let Some(Ok(bytes)) = self.open.as_ref().map(|open| open.backend.size_bytes()) {
            self.figures.size_bytes.store(bytes, Ordering::Relaxed);
        }
    }
}

impl Open {
    /// Whether anything was committed.
    fn feed(&mut self, changes: &Changes, view: &View) -> Result<bool, BackendError> {
        self.writeback.feed([changes], view);
        let mut committed = self.commit_sealed()?;
        if self.writeback.wants_compaction()
            && let Some(batch) = self.writeback.compact(&self.backend)?
        {
            self.backend.commit(&batch)?;
            committed = true;
        }
        Ok(committed)
    }

    fn commit_sealed(&mut self) -> Result<bool, BackendError> {
        let mut committed = false;
        while let Some(batch) = self.writeback.take_batch() {
            self.backend.commit(&batch)?;
            committed = true;
        }
        Ok(committed)
    }

    /// Work for idle times: what compaction left, in bounded steps.
    fn tidy(&mut self) -> Result<(), BackendError> {
        while self.writeback.wants_compaction() {
            match self.writeback.compact(&self.backend)? {
                Some(batch) => self.backend.commit(&batch)?,
                None => break,
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), BackendError> {
        self.writeback.seal();
        self.commit_sealed()?;
        self.backend.flush()
    }
}

#[cfg(test)]
mod tests {
    use state::backend::{Mark, Write};

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
            assert!(backend.paged_in_bytes.get() <= 2 * PAGED_IN_BYTES_MIN);
        }
        let mut found = Vec::new();
        let scanned = backend.scan(b"b/", &mut |key, stored| {
            assert_eq!(stored, value);
            assert!(backend.paged_in_bytes.get() <= 2 * PAGED_IN_BYTES_MIN);
            found.push(key.to_vec());
            ControlFlow::Continue(())
        });
        scanned.unwrap();
        assert_eq!(found, keys);
        assert_eq!(backend.paged_in_bytes.get(), 0, "nothing stays behind a scan");
    }
}
