//! What waits for the member, in bounds.
//!
//! Producers push under a lock that is held for one push; whoever takes the member's turn takes
//! everything there is with one lock. What keeps the cluster alive (heartbeats, votes, reports of disk
//! and apply) has a lane of its own and is never refused for lack of room that client load has taken.
//!
//! The turn is the raft thread's, but to wake a thread costs more than a step. So whoever brings a
//! little to a member at rest takes the turn itself (flat combining: Hendler et al., SPAA 2010): a
//! thread that is done with what it brought at once; one that serves many connections when it has
//! looked after all that are ready, so that what came in together still shares a step. Much at once,
//! and whatever time alone brings, stays with the raft thread.

use std::cell::RefCell;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use member::{Input, Proposal};
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::door::RequestError;

/// Proposals that may wait here; the raft thread takes all of them at each turn.
const PROPOSALS_MAX: usize = 20_000;
/// The same in bytes.
const PROPOSAL_BYTES_MAX: usize = 64 << 20;
/// Read tickets that may wait here.
const READS_MAX: usize = 100_000;
/// Appends and forwards of peers that may wait here.
const BULK_MAX: usize = 4_096;
/// Reports, control messages and questions: their producers are few, so this is never reached
/// unless the raft thread stands still.
const URGENT_MAX: usize = 200_000;
/// With more than this waiting, the turn is the raft thread's: whoever brought it has other things to
/// do.
const HELP_INPUTS_MAX: usize = 64;
/// The same in bytes of proposals.
const HELP_BYTES_MAX: usize = 64 << 10;

thread_local! {
    /// The turns this thread will take when it has looked after its connections.
    static LEFT: RefCell<Vec<Weak<dyn Turn>>> = const { RefCell::new(Vec::new()) };
}

/// Held by the task that will take them; where its runtime ends before it ran, they are forgotten, and
/// the raft thread finds what was left when it is due.
struct Later;

impl Later {
    fn turns(&self) -> Vec<Weak<dyn Turn>> {
        LEFT.try_with(RefCell::take).unwrap_or_default()
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        drop(self.turns());
    }
}

/// Whoever can step the member.
pub(crate) trait Turn: Send + Sync {
    /// Takes the turn, unless somebody has it: that one looks again when done.
    fn try_take(&self);
}

#[derive(Default)]
struct Lanes {
    urgent: Vec<Input>,
    bulk: Vec<Input>,
    proposals: Vec<Proposal>,
    proposal_bytes: usize,
    reads: Vec<u64>,
    closed: bool,
    /// When the member is to be stepped at the latest, whether anything came or not.
    due: Option<Instant>,
    /// The raft thread waits, until then.
    asleep_until: Option<Instant>,
}

impl Lanes {
    fn len(&self) -> usize {
        self.urgent.len() + self.bulk.len() + self.proposals.len() + self.reads.len()
    }

    fn may_help(&self) -> bool {
        self.len() <= HELP_INPUTS_MAX && self.proposal_bytes <= HELP_BYTES_MAX
    }

    /// Everything there is: reads before proposals, for a read waits for nothing that came with it.
    fn take(&mut self) -> Vec<Input> {
        let mut inputs = std::mem::take(&mut self.urgent);
        inputs.append(&mut self.bulk);
        inputs.extend(self.reads.drain(..).map(|ticket| Input::Read { ticket }));
        let proposals = std::mem::take(&mut self.proposals);
        self.proposal_bytes = 0;
        if !proposals.is_empty() {
            inputs.push(Input::Propose(proposals));
        }
        inputs
    }
}

/// The member's queue.
#[derive(Default)]
pub(crate) struct Inbox {
    lanes: Mutex<Lanes>,
    filled: Condvar,
    drained: tokio::sync::Notify,
    turn: OnceLock<Weak<dyn Turn>>,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on whoever pushes may take the turn.
    pub(crate) fn open(&self, turn: Weak<dyn Turn>) {
        drop(self.turn.set(turn));
    }

    fn push(&self, put: impl FnOnce(&mut Lanes) -> bool) -> bool {
        let mut lanes = self.lock();
        if lanes.closed || !put(&mut lanes) {
            return false;
        }
        if lanes.asleep_until.is_some() {
            match self.turn.get().filter(|_| lanes.may_help()) {
                Some(turn) => {
                    drop(lanes);
                    take_turn_soon(turn);
                }
                None => self.wake_raft_thread(lanes),
            }
        }
        true
    }

    fn wake_raft_thread(&self, mut lanes: MutexGuard<'_, Lanes>) {
        lanes.asleep_until = None;
        drop(lanes);
        self.filled.notify_one();
    }

    /// A caller's command. False: no room, or closed.
    pub(crate) fn propose(&self, proposal: Proposal) -> bool {
        self.push(|lanes| {
            let bytes = lanes.proposal_bytes + proposal.command.len();
            let room = lanes.proposals.len() < PROPOSALS_MAX && bytes <= PROPOSAL_BYTES_MAX;
            if room {
                lanes.proposal_bytes = bytes;
                lanes.proposals.push(proposal);
            }
            room
        })
    }

    /// A caller's read. False: no room, or closed.
    pub(crate) fn read(&self, ticket: u64) -> bool {
        self.push(|lanes| {
            let room = lanes.reads.len() < READS_MAX;
            if room {
                lanes.reads.push(ticket);
            }
            room
        })
    }

    /// A report, a control message, a question. False: closed.
    pub(crate) fn urgent(&self, input: Input) -> bool {
        self.push(|lanes| {
            let room = lanes.urgent.len() < URGENT_MAX;
            if room {
                lanes.urgent.push(input);
            }
            room
        })
    }

    /// A report that is found with whatever comes next, or after [`Inbox::wake`].
    pub(crate) fn leave(&self, report: Input) {
        let mut lanes = self.lock();
        if !lanes.closed {
            debug_assert!(lanes.urgent.len() < URGENT_MAX, "whoever leaves reports leaves few");
            lanes.urgent.push(report);
        }
    }

    /// Sees to what has been left.
    pub(crate) fn wake(&self) {
        self.push(|lanes| lanes.len() > 0);
    }

    /// An append or a forward of a peer; waits for room. False: closed.
    pub(crate) async fn bulk(&self, input: Input) -> bool {
        let mut input = Some(input);
        loop {
            let drained = self.drained.notified();
            let mut closed = false;
            let pushed = self.push(|lanes| {
                let room = lanes.bulk.len() < BULK_MAX;
                if room {
                    lanes.bulk.extend(input.take());
                }
                room
            });
            if !pushed {
                closed = self.lock().closed;
            }
            if pushed || closed {
                return pushed;
            }
            drained.await;
        }
    }

    /// Why a push was refused.
    pub(crate) fn refusal(&self) -> RequestError {
        if self.lock().closed { RequestError::Stopped } else { RequestError::TooManyRequests }
    }

    /// Waits until there is something, or until the member is due. False: closed.
    pub(crate) fn wait(&self) -> bool {
        let mut lanes = self.lock();
        while lanes.len() == 0 && !lanes.closed {
            let now = Instant::now();
            let Some(due) = lanes.due.filter(|due| now < *due) else { break };
            lanes.asleep_until = Some(due);
            lanes = self
                .filled
                .wait_timeout(lanes, due - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            lanes.asleep_until = None;
        }
        !lanes.closed
    }

    /// The member was stepped, and is to be again at `due` at the latest.
    pub(crate) fn set_due(&self, due: Instant) {
        let mut lanes = self.lock();
        lanes.due = Some(due);
        if lanes.asleep_until.is_some_and(|until| due < until) {
            self.wake_raft_thread(lanes);
        }
    }

    /// Takes everything there is. `None`: closed.
    pub(crate) fn take(&self) -> Option<Vec<Input>> {
        self.take_if(|_| true)
    }

    /// Takes everything there is, unless it is nothing or much. Much is for the raft thread, which is
    /// woken.
    pub(crate) fn take_little(&self) -> Option<Vec<Input>> {
        let inputs = self.take_if(|lanes| lanes.len() > 0 && lanes.may_help());
        if inputs.is_none() {
            self.pass_on();
        }
        inputs
    }

    /// Wakes the raft thread if anything waits.
    pub(crate) fn pass_on(&self) {
        let lanes = self.lock();
        if lanes.len() > 0 && lanes.asleep_until.is_some() {
            self.wake_raft_thread(lanes);
        }
    }

    /// Something waits, and little enough for whoever finds it.
    pub(crate) fn is_little(&self) -> bool {
        let lanes = self.lock();
        lanes.len() > 0 && lanes.may_help()
    }

    /// Nothing waits, and the raft thread sleeps.
    #[cfg(test)]
    pub(crate) fn is_at_rest(&self) -> bool {
        let lanes = self.lock();
        lanes.len() == 0 && lanes.asleep_until.is_some()
    }

    fn take_if(&self, wanted: impl FnOnce(&Lanes) -> bool) -> Option<Vec<Input>> {
        let mut lanes = self.lock();
        if lanes.closed || !wanted(&lanes) {
            return None;
        }
        let had_bulk = !lanes.bulk.is_empty();
        let inputs = lanes.take();
        drop(lanes);
        if had_bulk {
            self.drained.notify_waiters();
        }
        Some(inputs)
    }

    /// Refuses everything from now on and wakes the raft thread.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.drained.notify_waiters();
    }
}

/// On a thread that serves many connections, behind all of them that are ready now.
fn take_turn_soon(turn: &Weak<dyn Turn>) {
    let take = |turn: Weak<dyn Turn>| {
        if let Some(turn) = turn.upgrade() {
            turn.try_take();
        }
    };
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread => {
            let is_first = LEFT.with_borrow_mut(|left| {
                let is_first = left.is_empty();
                if !left.iter().any(|other| other.ptr_eq(turn)) {
                    left.push(Weak::clone(turn));
                }
                is_first
            });
            if is_first {
                let later = Later;
                runtime.spawn(async move { later.turns().into_iter().for_each(take) });
            }
        }
        _ => take(Weak::clone(turn)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// Takes turns and remembers how many inputs there were in each.
    struct Counting {
        inbox: Arc<Inbox>,
        turns: Mutex<Vec<usize>>,
    }

    impl Turn for Counting {
        fn try_take(&self) {
            if let Some(inputs) = self.inbox.take_little() {
                self.turns.lock().unwrap().push(inputs.len());
            }
        }
    }

    const FAR: Duration = Duration::from_secs(3_600);

    /// An inbox whose member is at rest until far in the future, and the thread that waits.
    fn at_rest() -> (Arc<Inbox>, Arc<Counting>, std::thread::JoinHandle<bool>) {
        let inbox = Arc::new(Inbox::default());
        let turn = Arc::new(Counting { inbox: Arc::clone(&inbox), turns: Mutex::default() });
        let weak = Arc::downgrade(&turn);
        inbox.open(weak);
        inbox.set_due(Instant::now() + FAR);
        let waiting = {
            let inbox = Arc::clone(&inbox);
            std::thread::spawn(move || inbox.wait())
        };
        while inbox.lock().asleep_until.is_none() {
            std::thread::yield_now();
        }
        (inbox, turn, waiting)
    }

    fn end(inbox: &Inbox, waiting: std::thread::JoinHandle<bool>) {
        inbox.close();
        assert!(!waiting.join().unwrap(), "an inbox that is closed has nothing to wait for");
    }

    #[test]
    fn whoever_brings_one_thing_to_a_member_at_rest_takes_the_turn() {
        let (inbox, turn, waiting) = at_rest();
        assert!(inbox.urgent(Input::Tick));
        assert!(inbox.read(1));
        assert_eq!(*turn.turns.lock().unwrap(), [1, 1]);
        assert!(!waiting.is_finished(), "nobody woke the raft thread");
        end(&inbox, waiting);
    }

    #[test]
    fn connections_that_are_ready_together_share_one_turn() {
        let (inbox, turn, waiting) = at_rest();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let calls: Vec<_> = (0..10)
                .map(|ticket| {
                    let inbox = Arc::clone(&inbox);
                    tokio::spawn(async move { inbox.read(ticket) })
                })
                .collect();
            for call in calls {
                assert!(call.await.unwrap());
            }
            tokio::task::yield_now().await;
        });
        assert_eq!(*turn.turns.lock().unwrap(), [10]);
        end(&inbox, waiting);
    }

    #[test]
    fn a_runtime_that_ends_before_it_took_the_turn_leaves_the_next_one_free_to() {
        let (inbox, turn, waiting) = at_rest();
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ended = runtime();
        // Its task is never polled.
        ended.block_on(async { assert!(inbox.read(1)) });
        drop(ended);
        assert!(turn.turns.lock().unwrap().is_empty());
        runtime().block_on(async {
            assert!(inbox.read(2));
            tokio::task::yield_now().await;
        });
        assert_eq!(*turn.turns.lock().unwrap(), [2]);
        end(&inbox, waiting);
    }

    #[test]
    fn two_members_on_one_thread_are_both_seen_to() {
        let (first, second) = (at_rest(), at_rest());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            assert!(first.0.read(1));
            assert!(second.0.read(2));
            tokio::task::yield_now().await;
        });
        for (inbox, turn, waiting) in [first, second] {
            assert_eq!(*turn.turns.lock().unwrap(), [1]);
            end(&inbox, waiting);
        }
    }

    #[test]
    fn much_at_once_is_for_the_raft_thread() {
        let (inbox, turn, waiting) = at_rest();
        for _ in 0..HELP_INPUTS_MAX {
            inbox.leave(Input::Tick);
        }
        assert!(inbox.urgent(Input::Tick));
        assert!(waiting.join().unwrap());
        assert_eq!(inbox.take().unwrap().len(), HELP_INPUTS_MAX + 1);
        assert!(turn.turns.lock().unwrap().is_empty());
    }

    #[test]
    fn a_turn_that_makes_the_member_due_earlier_wakes_the_raft_thread() {
        let (inbox, _turn, waiting) = at_rest();
        inbox.set_due(Instant::now() + 2 * FAR);
        assert!(inbox.lock().asleep_until.is_some(), "later than it sleeps anyway");
        inbox.set_due(Instant::now());
        assert!(waiting.join().unwrap());
    }

    #[test]
    fn what_comes_while_the_turn_is_taken_is_passed_on() {
        let (inbox, _turn, waiting) = at_rest();
        inbox.pass_on();
        assert!(inbox.lock().asleep_until.is_some(), "there is nothing to pass on");
        inbox.leave(Input::Tick);
        inbox.pass_on();
        assert!(waiting.join().unwrap());
    }
}
