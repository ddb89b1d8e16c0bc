//! Who applies what is committed: the apply thread; or, while that rests, whoever has stepped the
//! member and finds little. To wake a thread takes longer than to apply a put.
//!
//! Invariant: one applies at a time, and takes what waits only once it is the one; so entries are
//! applied in the order of the log, whoever does it.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use member::{ApplyTask, Effort};

use super::combining::Combining;
use super::stage_clock::Since;
use super::{Fatal, panic_text};

/// Batches that one helper applies in a row before it leaves the rest to the apply thread.
const HELP_BATCHES_MAX: usize = 4;

/// Tasks of some steps, and since when how many of the commands in them are committed.
#[derive(Debug, Default)]
pub(super) struct ApplyWork {
    pub(super) tasks: Vec<ApplyTask>,
    pub(super) since: Vec<Since>,
}

/// Whoever can apply. An error is final: nothing is to be applied after it.
pub(super) trait Apply: Send {
    /// Applies, shows, answers and tells. Reports are left for the member; whenever one has been,
    /// `reported` is called.
    fn apply(&mut self, work: ApplyWork, reported: &dyn Fn()) -> Result<(), String>;

    /// Goes a step on with what is done while nothing waits. False: there is nothing.
    fn sweep(&mut self) -> bool;
}

#[derive(Default)]
struct Waiting {
    work: ApplyWork,
    effort: Effort,
    /// The apply thread sleeps until it is woken.
    is_asleep: bool,
    /// Nothing comes any more.
    is_closed: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.work.tasks.is_empty()
    }

    /// There is something for whoever finds it.
    fn is_little(&self) -> bool {
        !self.is_empty() && !self.is_closed && self.effort.is_little()
    }

    fn take(&mut self) -> ApplyWork {
        self.effort = Effort::default();
        std::mem::take(&mut self.work)
    }
}

/// What waits to be applied, and the one that applies it.
pub(super) struct ApplyTurn<A> {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    applier: Combining<A>,
    /// Nothing is little: a value may have to be read from the disk.
    may_wait: bool,
    fatal: Fatal,
}

impl<A: Apply> ApplyTurn<A> {
    pub(super) fn new(applier: A, may_wait: bool, fatal: Fatal) -> Self {
        let applier = Combining::new(applier);
        ApplyTurn { waiting: Mutex::default(), filled: Condvar::new(), applier, may_wait, fatal }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        waiting.is_asleep = false;
        drop(waiting);
        self.filled.notify_one();
    }

    /// What is to be applied next. If it is little the apply thread may sleep on: whoever brings it is
    /// to call [`ApplyTurn::try_take`] once others may step the member again.
    pub(super) fn push(&self, tasks: Vec<ApplyTask>, since: Vec<Since>) {
        let effort = if self.may_wait { Effort::MUCH } else { Effort::of(&tasks) };
        let mut waiting = self.lock();
        if waiting.is_closed {
            return;
        }
        waiting.work.tasks.extend(tasks);
        waiting.work.since.extend(since);
        waiting.effort += effort;
        if waiting.is_asleep && !waiting.is_little() {
            self.wake(waiting);
        }
    }

    /// Applies what waits if it is little, unless somebody else does. What is then left to be told to
    /// the member is the caller's to see to.
    pub(super) fn try_take(&self) {
        let apply = |applier: &mut A| {
            let mut waiting = self.lock();
            if waiting.is_little() {
                let work = waiting.take();
                drop(waiting);
                self.guarded(|| applier.apply(work, &|| ()));
            }
            ControlFlow::Continue(())
        };
        if !self.applier.try_take(HELP_BATCHES_MAX, apply, || self.lock().is_little()) {
            let waiting = self.lock();
            if waiting.is_asleep && !waiting.is_empty() {
                self.wake(waiting);
            }
        }
    }

    /// The apply thread: whatever nobody else takes. `reported` as in [`Apply::apply`].
    pub(super) fn run(&self, reported: &dyn Fn()) {
        while self.wait() {
            // Until it sleeps again it sees to everything; when nothing waits, to what is left of a
            // compaction.
            let worked = self.applier.take(|applier| {
                loop {
                    let mut waiting = self.lock();
                    let (work, is_closed) = (waiting.take(), waiting.is_closed);
                    drop(waiting);
                    let goes_on = if work.tasks.is_empty() {
                        !is_closed && self.guarded(|| Ok(applier.sweep())) == Some(true)
                    } else {
                        self.guarded(|| applier.apply(work, reported)).is_some()
                    };
                    if !goes_on {
                        break;
                    }
                }
            });
            if worked.is_none() {
                break;
            }
        }
        // Whom it spoke to ends with it.
        self.applier.end();
    }

    /// Sleeps until there is something for the apply thread. False: over.
    fn wait(&self) -> bool {
        let mut waiting = self.lock();
        while waiting.is_empty() && !waiting.is_closed {
            waiting.is_asleep = true;
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_asleep = false;
        !waiting.is_empty()
    }

    /// Waits until the apply thread has done everything and sleeps.
    #[cfg(test)]
    pub(super) fn at_rest(&self) {
        while !self.lock().is_asleep {
            std::thread::yield_now();
        }
    }

    /// `None`: it failed, and with it the member; nothing is applied any more.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, String>) -> Option<T> {
        let reason = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(reason)) => reason,
            Err(panic) => format!("applying failed: {}", panic_text(panic.as_ref())),
        };
        self.fatal.raise(reason);
        // The apply thread ends, and the applier with it.
        let mut waiting = self.lock();
        drop(waiting.take());
        waiting.is_closed = true;
        self.wake(waiting);
        None
    }

    /// Nothing comes any more: the apply thread applies what is there and ends.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.is_closed = true;
        self.wake(waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::RangeInclusive;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, OnceLock, Weak};
    use std::thread::{self, JoinHandle, ThreadId};
    use std::time::{Duration, Instant};

    use proto::log::Entry;

    use super::*;

    /// Remembers who applied which entries, and how often a compaction was gone on with.
    #[derive(Default)]
    struct Record {
        applied: Mutex<Vec<(u64, ThreadId)>>,
        sweeps: Mutex<usize>,
    }

    impl Record {
        fn applied(&self) -> Vec<(u64, ThreadId)> {
            self.applied.lock().unwrap().clone()
        }
    }

    /// At these entries it does not go on.
    const WRONG: u64 = 1_000_001;
    const WORSE: u64 = 1_000_002;
    /// Steps of the compaction that follows every batch.
    const SWEEPS: usize = 3;
    /// When one of these is applied the next has come, but for the last.
    const CHAIN: RangeInclusive<u64> = 2_000_001..=2_000_010;

    struct Recording {
        record: Arc<Record>,
        sweeps_left: usize,
        /// Where the next of the chain comes.
        turn: Arc<OnceLock<Weak<ApplyTurn<Recording>>>>,
    }

    impl Apply for Recording {
        fn apply(&mut self, work: ApplyWork, reported: &dyn Fn()) -> Result<(), String> {
            for task in work.tasks {
                let ApplyTask::Entries { entries: these, .. } = task else { continue };
                for Entry { index, .. } in these {
                    match index {
                        WRONG => return Err(String::from("wrong")),
                        WORSE => panic!("worse"),
                        _ => self
                            .record
                            .applied
                            .lock()
                            .unwrap()
                            .push((index, thread::current().id())),
                    }
                    if CHAIN.contains(&index) && index < *CHAIN.end() {
                        let turn = self.turn.get().and_then(Weak::upgrade).unwrap();
                        turn.push(vec![entries([index + 1])], Vec::new());
                    }
                }
            }
            self.sweeps_left = SWEEPS;
            reported();
            Ok(())
        }

        fn sweep(&mut self) -> bool {
            let goes_on = self.sweeps_left > 0;
            self.sweeps_left = self.sweeps_left.saturating_sub(1);
            *self.record.sweeps.lock().unwrap() += usize::from(goes_on);
            goes_on
        }
    }

    struct Applying {
        turn: Arc<ApplyTurn<Recording>>,
        record: Arc<Record>,
        fatal: Fatal,
        reports: Arc<AtomicU64>,
        thread: JoinHandle<()>,
    }

    impl Applying {
        fn start() -> Applying {
            Applying::start_where(false)
        }

        fn start_where(may_wait: bool) -> Applying {
            let (record, fatal) = (Arc::new(Record::default()), Fatal::default());
            let way = Arc::new(OnceLock::new());
            let (sweeps_left, its) = (0, Arc::clone(&way));
            let recording = Recording { record: Arc::clone(&record), sweeps_left, turn: its };
            let turn = Arc::new(ApplyTurn::new(recording, may_wait, fatal.clone()));
            way.set(Arc::downgrade(&turn)).unwrap();
            let reports = Arc::new(AtomicU64::new(0));
            let thread = thread::spawn({
                let (turn, reports) = (Arc::clone(&turn), Arc::clone(&reports));
                let reported = move || {
                    reports.fetch_add(1, Ordering::Relaxed);
                };
                move || turn.run(&reported)
            });
            Applying { turn, record, fatal, reports, thread }
        }

        fn push(&self, indexes: impl IntoIterator<Item = u64>) {
            self.turn.push(vec![entries(indexes)], Vec::new());
        }

        fn reason(&self) -> String {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(self.fatal.raised()).reason
        }

        /// Nothing comes any more: who applied what.
        fn end(self) -> (Vec<(u64, ThreadId)>, ThreadId) {
            let thread = self.thread.thread().id();
            self.turn.close();
            self.thread.join().unwrap();
            (self.record.applied(), thread)
        }
    }

    fn entries(indexes: impl IntoIterator<Item = u64>) -> ApplyTask {
        let entry = |index| Entry { index, ..Entry::default() };
        ApplyTask::Entries { entries: indexes.into_iter().map(entry).collect(), bytes: 0 }
    }

    /// Nothing here takes longer unless it is broken.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// More than is little.
    const MANY: u64 = 1_000;

    #[test]
    fn a_little_is_applied_by_whoever_brings_it_and_the_apply_thread_sleeps_on() {
        let applying = Applying::start();
        applying.turn.at_rest();
        applying.push([1]);
        assert!(applying.record.applied().is_empty(), "the member may not be stepped yet");
        applying.turn.try_take();
        assert_eq!(applying.record.applied(), [(1, thread::current().id())]);
        assert!(applying.turn.lock().is_asleep, "nobody woke the apply thread");
        assert_eq!(applying.reports.load(Ordering::Relaxed), 0, "that is for the caller to see to");
        applying.end();
    }

    #[test]
    fn much_is_applied_by_the_apply_thread() {
        let applying = Applying::start();
        applying.turn.at_rest();
        applying.push(1..=MANY);
        applying.turn.try_take();
        let reports = Arc::clone(&applying.reports);
        let (applied, thread) = applying.end();
        assert_eq!(applied, (1..=MANY).map(|index| (index, thread)).collect::<Vec<_>>());
        assert_eq!(reports.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn nothing_is_little_where_the_disk_may_have_to_be_waited_for() {
        let applying = Applying::start_where(true);
        applying.turn.at_rest();
        applying.push([1]);
        applying.turn.try_take();
        let (applied, thread) = applying.end();
        assert_eq!(applied, [(1, thread)]);
    }

    #[test]
    fn whoever_helps_leaves_what_keeps_coming_to_the_apply_thread() {
        let applying = Applying::start();
        applying.turn.at_rest();
        applying.push([*CHAIN.start()]);
        applying.turn.try_take();
        // Without another word.
        let deadline = Instant::now() + PATIENCE;
        while applying.record.applied.lock().unwrap().len() < CHAIN.count() {
            assert!(Instant::now() < deadline, "something was forgotten");
            thread::yield_now();
        }
        let own = thread::current().id();
        let (applied, thread) = applying.end();
        assert!(applied.iter().map(|(index, _)| *index).eq(CHAIN));
        let (helped, left) = applied.split_at(HELP_BATCHES_MAX);
        assert!(
            helped.iter().all(|(_, by)| *by == own) && left.iter().all(|(_, by)| *by == thread)
        );
    }

    #[test]
    fn many_littles_that_nobody_has_taken_are_much() {
        let applying = Applying::start();
        applying.turn.at_rest();
        (1..=MANY).for_each(|index| applying.push([index]));
        let (applied, thread) = applying.end();
        assert_eq!(applied, (1..=MANY).map(|index| (index, thread)).collect::<Vec<_>>());
    }

    #[test]
    fn entries_keep_their_order_whoever_applies_them() {
        let applying = Applying::start();
        let own = thread::current().id();
        for round in 0..100 {
            applying.turn.at_rest();
            let first = round * (MANY + 1) + 1;
            applying.push([first]);
            applying.turn.try_take();
            applying.push(first + 1..=first + MANY);
            applying.turn.try_take();
        }
        let (applied, thread) = applying.end();
        assert!(applied.iter().map(|(index, _)| *index).eq(1..=100 * (MANY + 1)));
        let whose = |index: u64| if index % (MANY + 1) == 1 { own } else { thread };
        assert!(applied.iter().all(|(index, by)| *by == whose(*index)));
    }

    #[test]
    fn entries_keep_their_order_and_none_is_forgotten_where_many_bring_them() {
        const EACH: u64 = 2_000;
        let applying = Applying::start();
        // As the member is stepped: one at a time, and numbered in this order.
        let last = Mutex::new(0);
        thread::scope(|scope| {
            for helper in 0..4 {
                let (applying, last) = (&applying, &last);
                scope.spawn(move || {
                    for round in 0..EACH {
                        let mut last = last.lock().unwrap();
                        let first = *last + 1;
                        *last += if (round + helper) % 16 == 0 { MANY } else { 1 };
                        applying.push(first..=*last);
                        drop(last);
                        applying.turn.try_take();
                    }
                });
            }
        });
        let last = last.into_inner().unwrap();
        // Without another word: nothing waits for something else to come.
        let deadline = Instant::now() + PATIENCE;
        while applying.record.applied.lock().unwrap().len() < last as usize {
            assert!(Instant::now() < deadline, "something was forgotten");
            thread::yield_now();
        }
        let (applied, _) = applying.end();
        assert!(applied.iter().map(|(index, _)| *index).eq(1..=last));
    }

    #[test]
    fn what_waits_at_the_end_is_applied_by_the_apply_thread() {
        let applying = Applying::start();
        applying.turn.at_rest();
        applying.push([1]);
        let (applied, thread) = applying.end();
        assert_eq!(applied, [(1, thread)]);
    }

    #[test]
    fn a_compaction_goes_on_while_nothing_waits() {
        let applying = Applying::start();
        applying.turn.at_rest();
        applying.push(1..=MANY);
        applying.turn.at_rest();
        assert_eq!(*applying.record.sweeps.lock().unwrap(), SWEEPS);
        applying.end();
    }

    #[test]
    fn an_error_or_a_panic_of_whoever_applies_stops_the_member_and_nothing_is_applied_after_it() {
        for (index, reason) in [(WRONG, "wrong"), (WORSE, "applying failed: worse")] {
            for is_little in [true, false] {
                let applying = Applying::start();
                applying.turn.at_rest();
                applying.push([1, index]);
                if !is_little {
                    applying.push(3..=MANY);
                }
                applying.turn.try_take();
                assert_eq!(applying.reason(), reason);
                applying.push([2]);
                applying.turn.try_take();
                let (applied, _) = applying.end();
                assert_eq!(applied.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1]);
            }
        }
    }
}
