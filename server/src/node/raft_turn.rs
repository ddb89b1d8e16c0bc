//! Who steps the member: the raft thread; or, while that rests, whoever brings a little. And who applies
//! what the step has found, if that is little too (`apply_turn`).

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use member::Input;

use super::apply_turn::{Apply, ApplyTurn};
use super::combining::Combining;
use super::{Fatal, panic_text};
use crate::inbox::{Inbox, Turn};

/// Turns that one helper takes in a row before it leaves the rest to the raft thread.
const HELP_TURNS_MAX: usize = 4;

/// Whoever can step the member.
pub(super) trait Step: Send {
    /// One step and what it asks for. Returns when the next one is due.
    fn step(&mut self, inputs: Vec<Input>) -> Instant;
}

/// The member and who may step it: one at a time.
pub(super) struct RaftTurn<S, A> {
    stepper: Combining<S>,
    inbox: Arc<Inbox>,
    apply: Arc<ApplyTurn<A>>,
    fatal: Fatal,
}

impl<S: Step, A: Apply> RaftTurn<S, A> {
    pub(super) fn new(
        stepper: S,
        inbox: Arc<Inbox>,
        apply: Arc<ApplyTurn<A>>,
        fatal: Fatal,
    ) -> Self {
        RaftTurn { stepper: Combining::new(stepper), inbox, apply, fatal }
    }

    /// The raft thread: whatever nobody else has taken, and whatever time brings.
    pub(super) fn run(&self) {
        while self.inbox.wait() {
            let stepped = self.stepper.take(|stepper| {
                let inputs = self.inbox.take()?;
                self.inbox.set_due(stepper.step(inputs));
                Some(())
            });
            if stepped.flatten().is_none() {
                break;
            }
            self.apply.try_take();
        }
        // Whom it spoke to ends with it.
        self.stepper.end();
    }
}

impl<S: Step, A: Apply> Turn for RaftTurn<S, A> {
    fn try_take(&self) {
        let step = |stepper: &mut S| {
            let Some(inputs) = self.inbox.take_little() else { return ControlFlow::Continue(()) };
            match catch_unwind(AssertUnwindSafe(|| stepper.step(inputs))) {
                Ok(due) => self.inbox.set_due(due),
                Err(panic) => {
                    let why = panic_text(panic.as_ref());
                    self.fatal.raise(format!("a step of the member failed: {why}"));
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        };
        let is_left = || {
            // What the step has found to apply; the report of it is then left for the next turn.
            self.apply.try_take();
            self.inbox.is_little()
        };
        if !self.stepper.try_take(HELP_TURNS_MAX, step, is_left) {
            self.inbox.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread::{self, JoinHandle, ThreadId};
    use std::time::Duration;

    use member::ApplyTask;
    use proto::log::Entry;

    use super::super::apply_turn::ApplyWork;
    use super::*;

    const FAR: Duration = Duration::from_secs(3_600);
    /// Nothing here takes longer unless it is broken.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Done {
        Stepped { reports: usize },
        Applied,
    }

    /// What was done, and by whom.
    #[derive(Clone, Default)]
    struct Record(Arc<Mutex<Vec<(Done, ThreadId)>>>);

    impl Record {
        fn note(&self, done: Done) {
            self.0.lock().unwrap().push((done, thread::current().id()));
        }

        fn take(&self) -> Vec<(Done, ThreadId)> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    /// A member that finds an entry committed whenever it is stepped, but for reports alone.
    struct Finding {
        record: Record,
        apply: Arc<ApplyTurn<Reporting>>,
    }

    impl Step for Finding {
        fn step(&mut self, inputs: Vec<Input>) -> Instant {
            let reports = inputs.iter().filter(|it| matches!(it, Input::Applied(_))).count();
            self.record.note(Done::Stepped { reports });
            if reports == 0 {
                let entries = vec![Entry::default()];
                self.apply.push(vec![ApplyTask::Entries { entries, bytes: 0 }], Vec::new());
            }
            Instant::now() + FAR
        }
    }

    impl Drop for Finding {
        fn drop(&mut self) {
            self.apply.close();
        }
    }

    /// Leaves a report of what it has applied.
    struct Reporting {
        record: Record,
        inbox: Arc<Inbox>,
    }

    impl Apply for Reporting {
        fn apply(&mut self, _: ApplyWork, reported: &dyn Fn()) -> Result<(), String> {
            self.record.note(Done::Applied);
            self.inbox.leave(Input::Applied(Box::default()));
            reported();
            Ok(())
        }

        fn sweep(&mut self) -> bool {
            false
        }
    }

    struct Running {
        inbox: Arc<Inbox>,
        record: Record,
        threads: Vec<JoinHandle<()>>,
    }

    /// A member that is due at some time, and whose threads sleep until there is something.
    fn running(due: Instant) -> Running {
        let (inbox, record, fatal) =
            (Arc::new(Inbox::default()), Record::default(), Fatal::default());
        let reporting = Reporting { record: record.clone(), inbox: Arc::clone(&inbox) };
        let apply = Arc::new(ApplyTurn::new(reporting, false, fatal.clone()));
        let applying = thread::spawn({
            let (apply, inbox) = (Arc::clone(&apply), Arc::clone(&inbox));
            move || apply.run(&|| inbox.wake())
        });
        apply.at_rest();
        let finding = Finding { record: record.clone(), apply: Arc::clone(&apply) };
        let turn = RaftTurn::new(finding, Arc::clone(&inbox), Arc::clone(&apply), fatal);
        let turn = Arc::new(turn);
        let helpers = Arc::downgrade(&turn);
        inbox.open(helpers);
        inbox.set_due(due);
        let stepping = thread::spawn(move || turn.run());
        Running { inbox, record, threads: vec![stepping, applying] }
    }

    impl Running {
        fn end(self) {
            self.inbox.close();
            for thread in self.threads {
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn whoever_steps_a_member_at_rest_applies_what_it_finds_and_reports_it_in_a_turn_of_its_own() {
        let running = running(Instant::now() + FAR);
        while !running.inbox.is_at_rest() {
            thread::yield_now();
        }
        assert!(running.inbox.urgent(Input::Tick));
        let own = thread::current().id();
        let done = [Done::Stepped { reports: 0 }, Done::Applied, Done::Stepped { reports: 1 }];
        assert_eq!(running.record.take(), done.map(|done| (done, own)));
        assert!(running.inbox.is_at_rest(), "nobody woke the raft thread");
        running.end();
    }

    #[test]
    fn the_raft_thread_applies_what_it_finds_when_time_alone_makes_it_step() {
        let running = running(Instant::now());
        let by = running.threads[0].thread().id();
        let deadline = Instant::now() + PATIENCE;
        let mut done = Vec::new();
        while done.len() < 3 {
            assert!(Instant::now() < deadline, "something is left: {done:?}");
            done.extend(running.record.take());
            thread::yield_now();
        }
        let all = [Done::Stepped { reports: 0 }, Done::Applied, Done::Stepped { reports: 1 }];
        assert_eq!(done, all.map(|done| (done, by)));
        running.end();
    }
}
