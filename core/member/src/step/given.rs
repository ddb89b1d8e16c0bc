//! Commands of callers here that have been given to a leader, and which of them are lost.
//!
//! Such a command is for the leader of one term: it becomes part of an entry of that term or of none. In
//! every log entries stand by their terms (Raft, §5.3). So when an entry of a later term is applied and
//! the command has not been, no log that counts has it, nor ever will: it may be given again.

use std::collections::BTreeMap;

/// Commands that are kept in mind; of more, the oldest are forgotten. Then their callers' deadlines answer.
const GIVEN_MAX: usize = 1 << 16;

#[derive(Clone, Copy, Debug)]
struct To {
    /// The term it is for.
    term: u64,
    deadline_us: u64,
    /// The state was replaced since, perhaps by one that has it.
    may_be_applied: bool,
}

/// What was given and is not applied, by the caller's ticket.
#[derive(Debug, Default)]
pub(super) struct Given(BTreeMap<u64, To>);

impl Given {
    /// Given to the leader of this term, who proposes it in this term or never.
    pub(super) fn note(&mut self, sequence: u64, term: u64, deadline_us: u64) {
        self.0.insert(sequence, To { term, deadline_us, may_be_applied: false });
        if self.0.len() > GIVEN_MAX {
            self.0.pop_first();
        }
    }

    /// Applied.
    pub(super) fn applied(&mut self, sequence: u64) {
        self.0.remove(&sequence);
    }

    /// It never left for the leader of this term. Returns its deadline; none: what became of it is known
    /// already, or it has been given to another since.
    pub(super) fn take_back(&mut self, sequence: u64, term: u64) -> Option<u64> {
        let deadline_us = self.0.get(&sequence).filter(|to| to.term == term)?.deadline_us;
        self.0.remove(&sequence);
        Some(deadline_us)
    }

    /// The same, of whatever term.
    pub(super) fn take_back_any(&mut self, sequence: u64) -> Option<u64> {
        self.0.remove(&sequence).map(|to| to.deadline_us)
    }

    /// An entry of this term is applied, and so is all that stands before it: what is lost.
    pub(super) fn lost_before(&mut self, term: u64, now_us: u64) -> Vec<u64> {
        let mut lost = Vec::new();
        self.0.retain(|sequence, to| {
            let is_over = to.term < term;
            if is_over && !to.may_be_applied {
                lost.push(*sequence);
            }
            !is_over || to.may_be_applied && to.deadline_us > now_us
        });
        lost
    }

    /// The state was replaced: whether they are in it, nobody says.
    pub(super) fn state_replaced(&mut self) {
        for to in self.0.values_mut() {
            to.may_be_applied = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE_US: u64 = 100;
    const NOTHING: [u64; 0] = [];

    #[test]
    fn what_was_not_applied_before_a_later_term_is_lost_once() {
        let mut given = Given::default();
        for (sequence, term) in [(4, 2), (1, 2), (3, 2), (2, 3)] {
            given.note(sequence, term, LATE_US);
        }
        given.applied(3);
        assert_eq!(given.lost_before(2, 0), NOTHING);
        assert_eq!(given.lost_before(3, 0), [1, 4]);
        assert_eq!(given.lost_before(3, 0), NOTHING);
        assert_eq!(given.lost_before(9, LATE_US), [2], "who waits for it is another's business");
    }

    #[test]
    fn what_is_handed_back_late_is_not_taken_back() {
        let mut given = Given::default();
        given.note(1, 2, LATE_US);
        assert_eq!(given.take_back(1, 3), None);
        assert_eq!(given.take_back(1, 2), Some(LATE_US));
        assert_eq!(given.take_back(1, 2), None);
        given.note(1, 4, LATE_US);
        assert_eq!(given.take_back(1, 2), None, "it went on to the next leader meanwhile");
        given.applied(1);
        assert_eq!(given.take_back(1, 4), None);
    }

    #[test]
    fn what_a_new_state_may_contain_is_not_lost_and_may_still_turn_out_not_to_have_left() {
        let mut given = Given::default();
        for sequence in [1, 2] {
            given.note(sequence, 2, LATE_US);
        }
        given.state_replaced();
        given.note(3, 2, LATE_US);
        assert_eq!(given.lost_before(5, 0), [3]);
        assert_eq!(given.take_back(1, 2), Some(LATE_US));
        assert_eq!(given.lost_before(6, LATE_US), NOTHING);
        assert_eq!(given.take_back(2, 2), None, "nobody waits any more");
    }

    #[test]
    fn the_oldest_are_forgotten_where_there_are_too_many() {
        let mut given = Given::default();
        for sequence in 0..=GIVEN_MAX as u64 {
            given.note(sequence, 1, LATE_US);
        }
        let lost = given.lost_before(2, 0);
        assert_eq!((lost.len(), lost[0]), (GIVEN_MAX, 1));
    }
}
