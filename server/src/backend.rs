//! The on-disk home of the state: sled, behind [`state::backend::Backend`], written behind apply's
//! back by a thread of its own.
//!
//! Nothing waits for it and nothing is promised on it. It spares a member reading a whole snapshot at
//! boot; whenever it fails, falls too far behind or can not be read back, its generation (a
//! directory `sled-N`) is dropped and the next one is filled from the state in memory. `Defragment`
//! does just that too: sled does not give back the room that deleted data took.
//!
//! With a bounded cache of values (`values.rs`) memory lacks what the generation has. Then it is
//! synced before a value leaves memory, an older one stays until the next has everything, what readers
//! have pinned is not compacted away, and a generation that fails ends the member.

mod block_files;
mod engine;

use std::fs;
use std::io::Write as _;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use state::backend::{Backend, BackendError, Layout, Writeback, WritebackLimits};
use state::parts::Changes;
use state::{Limits, Record, State, Values, View};
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::node::panic_text;
use crate::values::ValueStore;
pub(crate) use engine::BlockReader;
pub use engine::SledBackend;
use engine::{Apart, OPEN_TIMEOUT, engine};

/// Changes that may wait for the thread. Beyond, the generation is given up and rebuilt.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// Changes gathered before the thread is woken: sixteen blocks. A crash costs no more than reading
/// these from the log, which holds all that is not here.
const GATHERED_CHANGES_MAX: usize = 1_024;
/// The same in bytes of records.
const GATHERED_BYTES_MAX: usize = 256 << 10;
/// Between two asynchronous flushes, and the longest an idle thread leaves a tail unsealed.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// Between two rebuilds after failures: a disk that fails is not beaten.
const REBUILD_PAUSE: Duration = Duration::from_secs(10);
/// How long a member that ends waits for the thread. What is not written by then, the log has.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a rebuild waits for those who read values of older views, and between two looks at them.
const PINS_TIMEOUT: Duration = Duration::from_secs(60);
const PINS_POLL: Duration = Duration::from_millis(5);
/// File that names the generation in use.
const CURRENT: &str = "CURRENT";
const PREFIX: &str = "sled-";
/// Where a cluster begins, before the first write.
const REVISION_OF_NOTHING: i64 = 1;

/// The directory with the generations.
#[derive(Clone, Debug)]
pub(crate) struct Generations {
    dir: PathBuf,
}

type Read = Result<(SledBackend, Option<(State, Layout)>), String>;

/// A generation that is being read.
pub(crate) struct ReadingState {
    /// Of the log; told again while there is more to read.
    position: Receiver<u64>,
    reading: Option<(u64, Result<Apart<Read>, String>)>,
    store: Option<Arc<ValueStore>>,
}

impl ReadingState {
    /// Waits until it is known where in the log the state stands, if it can be read; 0 where there
    /// is none.
    pub(crate) fn position(&self) -> u64 {
        // The sender goes with the thread, in whatever way that ends.
        self.position.recv_timeout(OPEN_TIMEOUT).unwrap_or(0)
    }

    /// Whether there is a generation to read.
    pub(crate) fn is_begun(&self) -> bool {
        self.reading.is_some()
    }

    /// Waits for the end. Any doubt about the generation: `None`, and it will be replaced.
    pub(crate) fn finish(self) -> Option<(Opened, Option<State>)> {
        let (generation, reading) = self.reading?;
        // A large state may take minutes on a slow disk; one that hangs gives no sign.
        let read = loop {
            match self.position.recv_timeout(OPEN_TIMEOUT) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break reading.and_then(Apart::wait),
                Err(RecvTimeoutError::Timeout) => {
                    break Err(format!("nothing was read for {OPEN_TIMEOUT:?}"));
                }
            }
        };
        let reason = match read {
            Ok(Ok((backend, loaded))) => {
                // Not before: a thread that was given up must not take the place of its successor.
                if let Some(store) = &self.store {
                    store.attach(backend.reader());
                }
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

    /// Begins to read the generation in use, in threads of its own. Values that `store` keeps apart stay
    /// there.
    pub(crate) fn read_current(
        &self,
        limits: Limits,
        store: Option<Arc<ValueStore>>,
    ) -> ReadingState {
        let (sender, position) = std::sync::mpsc::channel();
        let kept = store.clone();
        let reading = self.current().map(|generation| {
            let path = self.path(generation);
            let reading = Apart::begin(move || {
                let backend = SledBackend::open(&path).map_err(|error| error.to_string())?;
                if store.is_some() {
                    backend.save_memory();
                }
                let values = store.as_ref().map_or_else(Values::default, ValueStore::values);
                let loaded = backend.load_state(limits, &values, &sender)?;
                Ok((backend, loaded))
            });
            (generation, reading)
        });
        ReadingState { position, reading, store: kept }
    }

    /// A generation after all there ever were, empty.
    fn begin_next(&self) -> Result<(u64, SledBackend), BackendError> {
        let last = self.all().into_iter().max().unwrap_or(0).max(self.current().unwrap_or(0));
        let backend = SledBackend::open(&self.path(last + 1))?;
        Ok((last + 1, backend))
    }

    /// Makes `generation` the one in use, durably.
    fn switch_to(&self, generation: u64) -> std::io::Result<()> {
        let temporary = self.dir.join(format!("{CURRENT}.tmp"));
        let mut file = fs::File::create(&temporary)?;
        writeln!(file, "{generation}")?;
        file.sync_data()?;
        fs::rename(&temporary, self.dir.join(CURRENT))?;
        fs::File::open(&self.dir)?.sync_all()
    }

    /// Removes all generations but this one.
    fn remove_others(&self, generation: u64) -> std::io::Result<()> {
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
    Applied(Gathered),
    Replace(View),
    Rebuild(oneshot::Sender<Result<(), String>>),
    Stop,
}

/// What apply did, in order, and the view it led to.
#[derive(Debug)]
struct Gathered {
    view: View,
    changes: Vec<Changes>,
    count: usize,
    bytes: usize,
}

impl Gathered {
    fn add(&mut self, view: &View, changes: Changes) {
        self.view = view.clone();
        self.count += changes.records.len() + changes.rows.len() + changes.removed.len();
        self.bytes += changes.records.iter().map(Record::bytes_len).sum::<usize>();
        self.changes.push(changes);
    }

    fn is_enough(&self) -> bool {
        self.count >= GATHERED_CHANGES_MAX || self.bytes >= GATHERED_BYTES_MAX
    }
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

/// What apply hands its changes to. Waits only in [`BackendWriter::wait_for_room`].
#[derive(Debug)]
pub(crate) struct BackendWriter {
    control: Control,
    thread: Option<JoinHandle<()>>,
    /// Hears nothing but the end of the thread.
    ended: Receiver<()>,
    gathered: Option<Gathered>,
    behind: bool,
    values: Option<Arc<ValueStore>>,
}

impl BackendWriter {
    /// Starts the thread. `opened` holds the state that `view` was built from, or nothing usable.
    pub(crate) fn start(
        generations: Generations,
        opened: Option<Opened>,
        view: &View,
        metrics: Arc<Metrics>,
        values: Option<Arc<ValueStore>>,
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
            unsynced_bytes: 0,
            values: values.clone(),
        };
        let view = view.clone();
        let (ends, ended) = std::sync::mpsc::channel();
        let thread =
            std::thread::Builder::new().name(String::from("backend")).spawn(move || {
                let _ends: Sender<()> = ends;
                worker.begin(opened, &view);
                // Kept, it would keep alive all that was there when the member started.
                drop(view);
                worker.run(&received);
            })?;
        let control = Control { tasks, figures };
        let (thread, gathered) = (Some(thread), None);
        Ok(BackendWriter { control, thread, ended, gathered, behind: false, values })
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
            self.gathered = None;
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
        let fresh = || Gathered { view: view.clone(), changes: Vec::new(), count: 0, bytes: 0 };
        let gathered = self.gathered.get_or_insert_with(fresh);
        gathered.add(view, changes);
        if gathered.is_enough() {
            self.hand_over();
        }
    }

    /// Waits a little where too many values are in memory because the thread has not synced them: before
    /// more are applied. Nobody else waits, neither for the log nor for a leader; but answers come later,
    /// and so does the next request of who waits for them.
    pub(crate) fn wait_for_room(&mut self) {
        if self.behind {
            // What it lacks it gets with what is applied next.
            return;
        }
        let Some(values) = self.values.clone().filter(|values| values.is_crowded()) else { return };
        self.hand_over();
        values.wait_for_room();
    }

    fn hand_over(&mut self) {
        let Some(gathered) = self.gathered.take() else { return };
        let (waiting, bytes) = (&self.control.figures.waiting_bytes, gathered.bytes);
        if waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_BYTES_MAX {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            tracing::warn!("the backend can not follow: its generation is given up");
            self.behind = true;
            return;
        }
        drop(self.control.tasks.send(Task::Applied(gathered)));
    }
}

impl Drop for BackendWriter {
    fn drop(&mut self) {
        self.hand_over();
        drop(self.control.tasks.send(Task::Stop));
        let Some(thread) = self.thread.take() else { return };
        match self.ended.recv_timeout(STOP_TIMEOUT) {
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!("the backend does not end and is left to itself");
            }
            _ => drop(thread.join()),
        }
    }
}

/// Closing a broken engine may panic once more, or wait for ever for writes that failed: nobody waits
/// for it.
fn let_go(open: Open) {
    let open = ManuallyDrop::new(open);
    let close = || drop(catch_unwind(AssertUnwindSafe(|| drop(ManuallyDrop::into_inner(open)))));
    // Without a thread it stays open, which costs its memory and no more.
    drop(std::thread::Builder::new().name(String::from("backend-close")).spawn(close));
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
    /// Bytes of records taken in since the last sync.
    unsynced_bytes: usize,
    /// Where the state's values are, if not all are in memory.
    values: Option<Arc<ValueStore>>,
}

impl Worker {
    fn begin(&mut self, opened: Option<Opened>, view: &View) {
        match opened {
            Some(Opened { generation, backend, layout: Some(layout) }) => {
                let writeback = Writeback::resume(WritebackLimits::default(), layout, view);
                self.open = Some(Open { generation, backend, writeback });
                self.note_size();
            }
            _ => {
                // What could be opened does not fit the log: everything is in memory.
                if let Some(values) = &self.values {
                    values.detach();
                }
                drop(self.rebuild(view));
            }
        }
    }

    fn run(&mut self, tasks: &Receiver<Task>) {
        let mut flushed = Instant::now();
        loop {
            match tasks.recv_timeout(FLUSH_INTERVAL) {
                Ok(Task::Applied(Gathered { view, changes, count: _, bytes })) => {
                    let began = Instant::now();
                    let values = self.values.clone();
                    let committed =
                        self.guarded(|open| open.feed(&changes, &view, values.as_deref()));
                    if committed == Some(true) {
                        let seconds = began.elapsed().as_secs_f64();
                        self.metrics.backend_commit_seconds.observe(seconds);
                    }
                    self.latest = view;
                    self.figures.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    self.unsynced_bytes += bytes;
                    let unsynced = self.unsynced_bytes;
                    if self.values.as_ref().is_some_and(|values| values.wants_sync(unsynced)) {
                        self.sync();
                    }
                }
                Ok(Task::Replace(view)) => drop(self.rebuild(&view)),
                Ok(Task::Rebuild(reply)) => {
                    let latest = self.latest.clone();
                    drop(reply.send(self.rebuild(&latest)));
                }
                Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.guarded(Open::close);
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let values = self.values.clone();
                    self.guarded(|open| open.tidy(values.as_deref()));
                }
            }
            if flushed.elapsed() >= FLUSH_INTERVAL {
                flushed = Instant::now();
                self.sync();
                self.note_size();
                if self.rebuild_at.is_some_and(|at| at <= flushed) {
                    let latest = self.latest.clone();
                    drop(self.rebuild(&latest));
                }
            }
        }
    }

    /// What is committed becomes durable, and its values may leave memory.
    fn sync(&mut self) {
        self.unsynced_bytes = 0;
        let through = self.guarded(|open| {
            open.backend.flush()?;
            Ok(open.writeback.sealed_applied().revision)
        });
        if let (Some(through), Some(values)) = (through, &self.values) {
            values.synced(through);
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
        self.give_up(&reason);
        None
    }

    fn give_up(&mut self, reason: &str) {
        if let Some(values) = self.values.as_ref().filter(|values| values.is_attached()) {
            values.lost(reason);
        }
        if let Some(open) = self.open.take() {
            let_go(open);
        }
        self.rebuild_at = Some(Instant::now() + REBUILD_PAUSE);
    }

    /// Waits until nobody reads values that a generation of `view` would not have.
    fn wait_for_pins(&self, view: &View) -> bool {
        let Some(values) = &self.values else { return true };
        let until = Instant::now() + PINS_TIMEOUT;
        while !values.may_drop(view.compact_revision()) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(PINS_POLL);
        }
        true
    }

    /// Fills a new generation with the state of `view` and drops the old one.
    fn rebuild(&mut self, view: &View) -> Result<(), String> {
        // As long as values are in it, the old one is as good as ever: `Defragment` may be asked again.
        let can_stay = self.values.is_some()
            && self.open.is_some()
            && self.latest.applied_index() == view.applied_index();
        if !self.wait_for_pins(view) {
            let reason = "values of an older revision are being read for too long";
            tracing::warn!(reason, "the backend was not built anew");
            if !can_stay {
                self.give_up(reason);
            }
            return Err(reason.to_owned());
        }
        // The first store of a member is built, and nothing is built anew; nor is one without content
        // that gives way to a snapshot.
        let is_first = self.generations.current().is_none()
            || (self.open.is_some() && self.latest.revision() <= REVISION_OF_NOTHING);
        self.latest = view.clone();
        let (generations, values) = (self.generations.clone(), self.values.clone());
        let built = catch_unwind(AssertUnwindSafe(|| {
            let (generation, mut backend) = generations.begin_next()?;
            if values.is_some() {
                backend.save_memory();
            }
            let writeback = Writeback::rebuild(
                WritebackLimits::default(),
                &mut backend,
                view.applied(),
                view.rows(),
                view.whole_records(),
            )?;
            generations.switch_to(generation).map_err(engine)?;
            if let Some(values) = &values {
                values.attach(backend.reader());
                values.synced(view.revision());
            }
            if let Err(error) = generations.remove_others(generation) {
                tracing::warn!(%error, "an older generation of the backend is left behind");
            }
            Ok::<_, BackendError>(Open { generation, backend, writeback })
        }));
        let reason = match built {
            Ok(Ok(open)) => {
                tracing::info!(generation = open.generation, "the backend was built anew");
                let old = self.open.replace(open);
                drop(catch_unwind(AssertUnwindSafe(|| drop(old))));
                self.rebuild_at = None;
                if !is_first {
                    self.metrics.statestore_rebuilds.inc();
                }
                self.note_size();
                return Ok(());
            }
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(panic.as_ref()),
        };
        tracing::warn!(reason, "the backend could not be built anew");
        if !can_stay {
            self.give_up(&reason);
        }
        Err(String::from("the backend could not be rebuilt"))
    }

    fn note_size(&self) {
        if let Some(Ok(bytes)) = self.open.as_ref().map(|open| open.backend.size_bytes()) {
            self.figures.size_bytes.store(bytes, Ordering::Relaxed);
        }
    }
}

impl Open {
    /// Whether anything was committed.
    fn feed(
        &mut self,
        changes: &[Changes],
        view: &View,
        values: Option<&ValueStore>,
    ) -> Result<bool, BackendError> {
        self.writeback.feed(changes, view);
        let mut committed = self.commit_sealed()?;
        if self.wants_compaction(values)
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

    /// Whether there is something to clear out, and nobody reads it.
    fn wants_compaction(&self, values: Option<&ValueStore>) -> bool {
        let through = self.writeback.sealed_applied().compact_revision;
        self.writeback.wants_compaction() && values.is_none_or(|values| values.may_drop(through))
    }

    /// Work for idle times: what compaction left, in bounded steps.
    fn tidy(&mut self, values: Option<&ValueStore>) -> Result<(), BackendError> {
        while self.wants_compaction(values) {
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
