//! Where commands are on their way through the leader, as far as whoever steps the member sees it: in
//! its order, so that what is counted of a stage is found at one end of a queue.
//!
//! Commands have no names here. They enter entries in the order they came, and entries are committed in
//! the order of the log; so it is enough to know how many wait. Where the order is broken, when the
//! leadership is lost, everything is forgotten, and what is in between counts in no stage.

use std::collections::VecDeque;
use std::sync::Arc;

use member::Input;

use crate::metrics::{Stage, Stages};

/// Commands followed until they are in an entry; those beyond are not counted.
const ARRIVALS_MAX: usize = 50_000;
/// Entries followed until they are applied.
const ENTRIES_MAX: usize = 10_000;

/// So many commands since some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since {
    pub(super) at_us: u64,
    pub(super) commands: u64,
}

/// Follows commands while this member leads.
#[derive(Debug)]
pub(super) struct StageClock {
    stages: Arc<Stages>,
    /// How long a request waits: its deadline tells when it came.
    request_timeout_us: u64,
    is_leader: bool,
    arrivals: VecDeque<u64>,
    uncommitted: VecDeque<(u64, Since)>,
    unapplied: VecDeque<(u64, Since)>,
}

impl StageClock {
    pub(super) fn new(stages: Arc<Stages>, request_timeout_us: u64) -> Self {
        StageClock {
            stages,
            request_timeout_us,
            is_leader: false,
            arrivals: VecDeque::new(),
            uncommitted: VecDeque::new(),
            unapplied: VecDeque::new(),
        }
    }

    /// What the member is about to be told.
    pub(super) fn arrived(&mut self, inputs: &[Input], now_us: u64) {
        for input in inputs {
            match input {
                Input::Propose(proposals) => {
                    // Nobody waits for one without a deadline: it has just come.
                    let came = proposals.iter().map(|proposal| {
                        proposal.deadline_us.saturating_sub(self.request_timeout_us).min(now_us)
                    });
                    self.arrivals.extend(came);
                }
                Input::Forwarded { commands, .. } => {
                    self.arrivals.extend(std::iter::repeat_n(now_us, commands.len()));
                }
                _ => {}
            }
        }
    }

    /// After a step: so many commands still wait for an entry, and the leader is this member or not.
    pub(super) fn stepped(&mut self, now_us: u64, waiting: usize, is_leader: bool) {
        let gone = self.arrivals.len().saturating_sub(waiting);
        for came_us in self.arrivals.drain(..gone) {
            if is_leader {
                self.stages.note(Stage::Queue, now_us.saturating_sub(came_us), 1);
            }
        }
        self.arrivals.truncate(ARRIVALS_MAX);
        if !is_leader || !self.is_leader {
            self.uncommitted.clear();
            self.unapplied.clear();
        }
        self.is_leader = is_leader;
    }

    /// An entry is in the log in memory.
    pub(super) fn logged(&mut self, index: u64, since: Since) {
        if self.is_leader && since.commands > 0 && self.uncommitted.len() < ENTRIES_MAX {
            self.uncommitted.push_back((index, since));
        }
    }

    /// Everything up to here is committed.
    pub(super) fn committed(&mut self, now_us: u64, commit_index: u64) {
        while let Some((index, since)) =
            self.uncommitted.pop_front_if(|(index, _)| *index <= commit_index)
        {
            let took_us = now_us.saturating_sub(since.at_us);
            self.stages.note(Stage::Replication, took_us, since.commands);
            if self.unapplied.len() < ENTRIES_MAX {
                self.unapplied.push_back((index, Since { at_us: now_us, ..since }));
            }
        }
    }

    /// Everything up to here is given to apply: what apply needs to know of it.
    pub(super) fn given_to_apply(&mut self, last_index: u64) -> Vec<Since> {
        let mut given = Vec::new();
        while let Some((_, since)) = self.unapplied.pop_front_if(|(index, _)| *index <= last_index)
        {
            given.push(since);
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use member::Proposal;

    use super::*;

    const TIMEOUT_US: u64 = 7_000_000;

    fn clock() -> StageClock {
        let mut clock = StageClock::new(Arc::default(), TIMEOUT_US);
        clock.stepped(0, 0, true);
        clock
    }

    fn propose(came_us: &[u64]) -> Input {
        let proposal = |came_us: &u64| Proposal {
            sequence: 1,
            deadline_us: came_us + TIMEOUT_US,
            command: Bytes::new(),
        };
        Input::Propose(came_us.iter().map(proposal).collect())
    }

    fn count(clock: &StageClock, stage: Stage) -> (u64, u64) {
        clock.stages.count_and_sum_us(stage)
    }

    #[test]
    fn a_command_queues_from_its_arrival_until_it_waits_no_more() {
        let mut clock = clock();
        let forwarded = Input::Forwarded { from: 2, term: 1, commands: vec![Bytes::new()] };
        clock.arrived(&[propose(&[100, 150]), forwarded], 200);
        clock.stepped(200, 3, true);
        assert_eq!(count(&clock, Stage::Queue), (0, 0), "all of them wait for an entry");
        clock.stepped(300, 1, true);
        assert_eq!(count(&clock, Stage::Queue), (2, 200 + 150));
        clock.stepped(400, 0, true);
        assert_eq!(count(&clock, Stage::Queue), (3, 350 + 200));
    }

    #[test]
    fn what_a_follower_sends_on_does_not_queue_here() {
        let mut clock = StageClock::new(Arc::default(), TIMEOUT_US);
        clock.arrived(&[propose(&[100])], 200);
        clock.stepped(200, 0, false);
        assert_eq!(count(&clock, Stage::Queue), (0, 0));
    }

    #[test]
    fn entries_are_replicated_and_given_to_apply_in_the_order_of_the_log() {
        let mut clock = clock();
        clock.logged(5, Since { at_us: 100, commands: 10 });
        clock.logged(6, Since { at_us: 150, commands: 0 });
        clock.logged(7, Since { at_us: 200, commands: 2 });
        clock.committed(400, 6);
        assert_eq!(count(&clock, Stage::Replication), (10, 3_000));
        clock.committed(500, 7);
        assert_eq!(count(&clock, Stage::Replication), (12, 3_600));
        assert_eq!(clock.given_to_apply(6), [Since { at_us: 400, commands: 10 }]);
        assert_eq!(clock.given_to_apply(9), [Since { at_us: 500, commands: 2 }]);
    }

    #[test]
    fn with_the_leadership_everything_under_way_is_forgotten() {
        let mut clock = clock();
        clock.logged(5, Since { at_us: 100, commands: 10 });
        clock.stepped(200, 0, false);
        clock.logged(6, Since { at_us: 250, commands: 10 });
        clock.stepped(300, 0, true);
        clock.committed(400, 9);
        assert_eq!(count(&clock, Stage::Replication), (0, 0));
        assert!(clock.given_to_apply(9).is_empty());
    }
}
