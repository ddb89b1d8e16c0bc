//! Renewals of leases which another member leads: gathered here, and asked for together.
//!
//! A call to the leader costs both members the same however many leases it names, and the leader
//! proves only once for all of them that it still leads. So while one call is under way the next
//! gathers, without a timer: a lone renewal leaves at once, a crowd shares few calls.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::door::{LeaseTtl, RequestError};

/// Leases named in one call.
pub(crate) const RENEWALS_PER_CALL_MAX: usize = 1024;
/// Renewals that wait for a call; further ones are refused.
const RENEWALS_WAITING_MAX: usize = 100_000;

/// What became of a renewal; `None`: there is no such lease.
pub(crate) type Renewed = Result<Option<LeaseTtl>, RequestError>;

/// Who waits to be renewed.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    gathered: Mutex<Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    waiting: VecDeque<(i64, oneshot::Sender<Renewed>)>,
    /// A task is calling, and will ask for what gathers meanwhile.
    is_called_for: bool,
}

impl Renewals {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a lease renewed. `ask` puts leases to the leader and answers for each of them, in their
    /// order.
    pub(crate) async fn renew<F>(
        self: &Arc<Self>,
        id: i64,
        ask: impl Fn(Vec<i64>) -> F + Send + 'static,
    ) -> Renewed
    where
        F: Future<Output = Vec<Renewed>> + Send,
    {
        let (answer, renewed) = oneshot::channel();
        if let Some(mut caller) = self.gather(id, answer)? {
            // Behind the tasks that are ready: what came in together is asked for together.
            drop(tokio::spawn(async move {
                while let Some((ids, answers)) = caller.next_call() {
                    for (answer, renewed) in answers.into_iter().zip(ask(ids).await) {
                        // Whoever has left needs no answer.
                        let _ = answer.send(renewed);
                    }
                }
            }));
        }
        renewed.await.unwrap_or(Err(RequestError::Stopped))
    }

    /// Whoever is given a caller lets it call.
    fn gather(
        self: &Arc<Self>,
        id: i64,
        answer: oneshot::Sender<Renewed>,
    ) -> Result<Option<Caller>, RequestError> {
        let mut gathered = self.lock();
        if gathered.waiting.len() >= RENEWALS_WAITING_MAX {
            return Err(RequestError::TooManyRequests);
        }
        gathered.waiting.push_back((id, answer));
        let is_first = !std::mem::replace(&mut gathered.is_called_for, true);
        Ok(is_first.then(|| Caller { renewals: Arc::clone(self), is_over: false }))
    }
}

/// The task that calls. If its runtime ends before it does, those who wait are told so.
struct Caller {
    renewals: Arc<Renewals>,
    /// Nobody waited any more: the next renewal has a caller of its own.
    is_over: bool,
}

impl Caller {
    /// What the next call asks for.
    fn next_call(&mut self) -> Option<(Vec<i64>, Vec<oneshot::Sender<Renewed>>)> {
        let mut gathered = self.renewals.lock();
        let many = gathered.waiting.len().min(RENEWALS_PER_CALL_MAX);
        if many == 0 {
            gathered.is_called_for = false;
            self.is_over = true;
            return None;
        }
        Some(gathered.waiting.drain(..many).unzip())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let mut gathered = self.renewals.lock();
        let left = std::mem::take(&mut gathered.waiting);
        gathered.is_called_for = false;
        drop(gathered);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::runtime::Runtime;
    use tokio::sync::Semaphore;

    use super::*;

    fn lease(id: i64) -> LeaseTtl {
        LeaseTtl { ttl: id, granted_ttl: id }
    }

    /// Answers every lease with its own number as its time to live, one call for each permit.
    #[derive(Clone)]
    struct Leader {
        permits: Arc<Semaphore>,
        calls: Arc<Mutex<Vec<usize>>>,
    }

    impl Leader {
        fn with_permits(permits: usize) -> Self {
            Leader { permits: Arc::new(Semaphore::new(permits)), calls: Arc::default() }
        }

        fn calls(&self) -> Vec<usize> {
            self.calls.lock().expect("no test panicked").clone()
        }

        async fn ask(self, ids: Vec<i64>) -> Vec<Renewed> {
            self.calls.lock().expect("no test panicked").push(ids.len());
            self.permits.acquire().await.expect("it is open").forget();
            ids.into_iter().map(|id| Ok(Some(lease(id)))).collect()
        }

        async fn renew(&self, renewals: &Arc<Renewals>, id: i64) -> Renewed {
            let leader = self.clone();
            renewals.renew(id, move |ids| leader.clone().ask(ids)).await
        }
    }

    #[tokio::test]
    async fn each_renewal_gets_the_answer_of_its_own_lease() {
        let (renewals, leader) = (Arc::default(), Leader::with_permits(100));
        let answers = join_all((1..=50).map(|id| leader.renew(&renewals, id))).await;
        for (id, answer) in (1..).zip(answers) {
            assert_eq!(answer, Ok(Some(lease(id))));
        }
        assert_eq!(leader.calls(), [50]);
    }

    #[tokio::test]
    async fn renewals_that_come_while_a_call_is_under_way_share_the_next() {
        let (renewals, leader) = (Arc::default(), Leader::with_permits(0));
        let first = leader.renew(&renewals, 1);
        let more = async {
            while leader.calls().is_empty() {
                tokio::task::yield_now().await;
            }
            let rest = RENEWALS_PER_CALL_MAX as i64 + 3;
            let all = join_all((2..2 + rest).map(|id| leader.renew(&renewals, id)));
            let permits = async { leader.permits.add_permits(3) };
            tokio::join!(all, permits).0
        };
        let (first, more) = tokio::join!(first, more);
        assert_eq!(first, Ok(Some(lease(1))));
        assert!(more.iter().all(Result::is_ok));
        assert_eq!(leader.calls(), [1, RENEWALS_PER_CALL_MAX, 3]);
    }

    #[tokio::test]
    async fn after_a_pause_a_lone_renewal_calls_again() {
        let (renewals, leader) = (Arc::default(), Leader::with_permits(9));
        for id in 1..=3 {
            assert_eq!(leader.renew(&renewals, id).await, Ok(Some(lease(id))));
        }
        assert_eq!(leader.calls(), [1, 1, 1]);
    }

    /// A runtime on which a renewal calls, and gets no answer.
    fn runtime_that_calls(renewals: &Arc<Renewals>, leader: &Leader) -> Runtime {
        let runtime = runtime();
        let (renewals, asked) = (Arc::clone(renewals), leader.clone());
        drop(runtime.spawn(async move { asked.renew(&renewals, 1).await }));
        runtime.block_on(async {
            while leader.calls().is_empty() {
                tokio::task::yield_now().await;
            }
        });
        runtime
    }

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn those_who_wait_are_told_when_the_runtime_of_the_calling_task_ends() {
        let (renewals, leader) = (Arc::default(), Leader::with_permits(0));
        let ending = runtime_that_calls(&renewals, &leader);
        let late = async {
            let mut late = std::pin::pin!(leader.renew(&renewals, 2));
            assert!(futures::poll!(&mut late).is_pending());
            ending.shutdown_background();
            late.await
        };
        assert_eq!(runtime().block_on(late), Err(RequestError::Stopped));
    }

    #[test]
    fn a_call_whose_runtime_ended_holds_no_later_renewal_up() {
        let (renewals, leader) = (Arc::default(), Leader::with_permits(0));
        drop(runtime_that_calls(&renewals, &leader));
        leader.permits.add_permits(1);
        assert_eq!(runtime().block_on(leader.renew(&renewals, 3)), Ok(Some(lease(3))));
        assert_eq!(leader.calls(), [1, 1]);
    }
}
