//! What one thread at a time works on, and none waits for: whoever finds it taken leaves what it
//! brought to the one that has it, which looks again after it has let go (flat combining: Hendler,
//! Incze, Shavit, Tzafrir, SPAA 2010).

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// Work and the one that does it.
pub(super) struct Combining<T> {
    /// `None`: over.
    worker: Mutex<Option<T>>,
}

impl<T> Combining<T> {
    pub(super) fn new(worker: T) -> Self {
        Combining { worker: Mutex::new(Some(worker)) }
    }

    /// Waits for the worker. `None`: over.
    pub(super) fn take<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }

    /// Works unless somebody does, and once more as long as there is something left for whoever comes,
    /// `times_max` in all; a break ends it for everybody. False: something may still be left.
    pub(super) fn try_take(
        &self,
        times_max: usize,
        mut work: impl FnMut(&mut T) -> ControlFlow<()>,
        is_left: impl Fn() -> bool,
    ) -> bool {
        for _ in 0..times_max {
            let Ok(mut held) = self.worker.try_lock() else { return true };
            let Some(worker) = held.as_mut() else { return true };
            if work(worker).is_break() {
                *held = None;
                return true;
            }
            drop(held);
            // Invariant: looked for after letting go. Whoever came before that has left it here, and
            // whoever comes later finds the worker free.
            if !is_left() {
                return true;
            }
        }
        false
    }

    /// Nobody works any more.
    pub(super) fn end(&self) {
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const TIMES_MAX: usize = 3;

    #[test]
    fn what_comes_while_the_worker_is_held_is_seen_to_though_there_was_nothing_to_do() {
        let combining = Combining::new(());
        let (waiting, done) = (Cell::new(0), Cell::new(0));
        let is_left = || waiting.get() > 0;
        let seen_to = combining.try_take(
            TIMES_MAX,
            |()| {
                done.set(done.get() + waiting.take());
                if done.get() == 0 {
                    // Another brings something now, finds the worker held and leaves.
                    waiting.set(1);
                    let other = combining.try_take(TIMES_MAX, |()| panic!("held"), is_left);
                    assert!(other, "it is nothing for the other to care for");
                }
                ControlFlow::Continue(())
            },
            is_left,
        );
        assert_eq!((seen_to, done.get(), waiting.get()), (true, 1, 0));
    }

    #[test]
    fn whoever_helps_goes_after_a_while_and_says_that_something_is_left() {
        let combining = Combining::new(0);
        let count = |times: &mut usize| {
            *times += 1;
            ControlFlow::Continue(())
        };
        assert!(!combining.try_take(TIMES_MAX, count, || true));
        assert_eq!(combining.take(|times| *times), Some(TIMES_MAX));
    }

    #[test]
    fn after_a_break_nobody_works() {
        let combining = Combining::new(());
        assert!(combining.try_take(TIMES_MAX, |()| ControlFlow::Break(()), || true));
        assert!(combining.try_take(TIMES_MAX, |()| panic!("over"), || true));
        assert_eq!(combining.take(|()| ()), None);
    }
}
