//! Whether a membership change is safe to propose, by etcd's rules (`server/etcdserver/server.go`,
//! `mayAddMember`, `mayPromoteMember`, `mayRemoveMember`; `--strict-reconfig-check`).
//!
//! What makes a change *wrong* (an unknown id, a duplicate URL) is for the state to judge at apply,
//! the same on every member. Here the leader judges what only it can see: who is started, who is in
//! touch, who has caught up.

use std::collections::{BTreeMap, BTreeSet};

use consensus::MembershipError;
use proto::log::{Member as MemberRow, MembershipChange, membership_change::Kind};
use state::TuningError;

/// Why a change is not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipRefusal {
    /// Only the leader judges and proposes.
    NotLeader {
        /// Whom to ask.
        leader: Option<u64>,
    },
    /// With the change, too few started members would be left to agree on anything.
    NotEnoughStarted,
    /// With the change, too few members in touch would be left.
    Unhealthy,
    /// The learner has not caught up with the leader.
    LearnerNotReady,
    /// The member to promote is none, or no learner.
    NotLearner,
    /// There is no such member.
    NotFound,
    /// The id is a member's already.
    Exists,
    /// A plan of timing is on its way, and nobody joins meanwhile.
    Tuning(TuningError),
    /// Too many changes wait already.
    Busy,
}

impl From<MembershipError> for MembershipRefusal {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::Exists(_) => MembershipRefusal::Exists,
            MembershipError::NotFound(_) | MembershipError::NoMember => MembershipRefusal::NotFound,
            MembershipError::NotLearner(_) => MembershipRefusal::NotLearner,
            MembershipError::LastVoter(_) => MembershipRefusal::NotEnoughStarted,
            MembershipError::TooMany(_) | MembershipError::Unreadable => MembershipRefusal::Busy,
        }
    }
}

/// Whom the leader is in touch with, itself included.
#[derive(Clone, Debug)]
pub(crate) struct Connectivity {
    own: u64,
    active: BTreeSet<u64>,
}

impl Connectivity {
    /// `heard_us`: when each member was last heard of; silent for `silence_us_max` is out of touch.
    pub(crate) fn of(
        own: u64,
        heard_us: &BTreeMap<u64, u64>,
        now_us: u64,
        silence_us_max: u64,
    ) -> Self {
        let in_touch = |at: &u64| now_us.saturating_sub(*at) < silence_us_max;
        let mut active: BTreeSet<u64> =
            heard_us.iter().filter(|(_, at)| in_touch(at)).map(|(id, _)| *id).collect();
        active.insert(own);
        Connectivity { own, active }
    }
}

pub(crate) fn check(
    change: &MembershipChange,
    members: &[MemberRow],
    connectivity: &Connectivity,
    strict: bool,
    learner_ready: impl Fn(u64) -> bool,
) -> Result<(), MembershipRefusal> {
    let voters: Vec<&MemberRow> = members.iter().filter(|m| !m.is_learner).collect();
    let started = voters.iter().filter(|m| !m.name.is_empty()).count();
    let id = change.member.as_ref().map_or(0, |m| m.id);
    let row = members.iter().find(|m| m.id == id);
    match Kind::try_from(change.kind).unwrap_or(Kind::Remove) {
        Kind::AddVoter => {
            if !strict {
                return Ok(());
            }
            // One started member may always grow: else no cluster could ever begin.
            if !(voters.len() == 1 && started == 1) && started < quorum_of(voters.len() + 1) {
                return Err(MembershipRefusal::NotEnoughStarted);
            }
            all_in_touch(&voters, connectivity)
        }
        Kind::AddLearner => {
            if strict {
                all_in_touch(&voters, connectivity)
            } else {
                Ok(())
            }
        }
        Kind::Promote => {
            let row = row.ok_or(MembershipRefusal::NotFound)?;
            if !row.is_learner {
                return Err(MembershipRefusal::NotLearner);
            }
            if !learner_ready(id) {
                return Err(MembershipRefusal::LearnerNotReady);
            }
            // The learner counts as a started voter of the configuration to come.
            if strict && started + 1 < quorum_of(voters.len() + 1) {
                return Err(MembershipRefusal::NotEnoughStarted);
            }
            Ok(())
        }
        Kind::Remove => {
            let Some(row) = row else { return Err(MembershipRefusal::NotFound) };
            if !strict || row.is_learner {
                return Ok(());
            }
            let started_after = started - usize::from(!row.name.is_empty());
            if started_after < quorum_of(voters.len() - 1) {
                return Err(MembershipRefusal::NotEnoughStarted);
            }
            // Who is not in touch is no part of the working quorum: removing it only helps.
            if id != connectivity.own && !connectivity.active.contains(&id) {
                return Ok(());
            }
            let active = voters.iter().filter(|m| connectivity.active.contains(&m.id)).count();
            if active - 1 < quorum_of(voters.len() - 1) {
                return Err(MembershipRefusal::Unhealthy);
            }
            Ok(())
        }
    }
}

fn quorum_of(voters: usize) -> usize {
    voters / 2 + 1
}

fn all_in_touch(
    voters: &[&MemberRow],
    connectivity: &Connectivity,
) -> Result<(), MembershipRefusal> {
    let all = voters.iter().all(|m| connectivity.active.contains(&m.id));
    if all { Ok(()) } else { Err(MembershipRefusal::Unhealthy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64, name: &str, is_learner: bool) -> MemberRow {
        MemberRow { id, name: name.to_owned(), is_learner, ..MemberRow::default() }
    }

    fn change(kind: Kind, id: u64) -> MembershipChange {
        MembershipChange {
            kind: kind.into(),
            member: Some(row(id, "", false)),
            ..MembershipChange::default()
        }
    }

    fn in_touch(ids: &[u64]) -> Connectivity {
        Connectivity { own: 1, active: ids.iter().copied().collect() }
    }

    fn verdict(
        members: &[MemberRow],
        active: &[u64],
        kind: Kind,
        id: u64,
    ) -> Result<(), MembershipRefusal> {
        check(&change(kind, id), members, &in_touch(active), true, |_| true)
    }

    #[test]
    fn one_started_member_may_add_a_voter() {
        assert_eq!(verdict(&[row(1, "a", false)], &[1], Kind::AddVoter, 9), Ok(()));
    }

    #[test]
    fn a_second_unstarted_voter_is_refused_until_the_first_has_started() {
        let members = [row(1, "a", false), row(2, "", false)];
        assert_eq!(
            verdict(&members, &[1], Kind::AddVoter, 9),
            Err(MembershipRefusal::NotEnoughStarted)
        );
    }

    #[test]
    fn a_voter_is_not_added_while_another_is_out_of_touch() {
        let members = [row(1, "a", false), row(2, "b", false), row(3, "c", false)];
        assert_eq!(
            verdict(&members, &[1, 2], Kind::AddVoter, 9),
            Err(MembershipRefusal::Unhealthy)
        );
        assert_eq!(verdict(&members, &[1, 2, 3], Kind::AddVoter, 9), Ok(()));
    }

    #[test]
    fn a_member_out_of_touch_may_be_removed_but_not_one_that_the_quorum_needs() {
        let members = [row(1, "a", false), row(2, "b", false), row(3, "c", false)];
        assert_eq!(verdict(&members, &[1, 2], Kind::Remove, 3), Ok(()));
        assert_eq!(verdict(&members, &[1, 2], Kind::Remove, 2), Err(MembershipRefusal::Unhealthy));
    }

    #[test]
    fn the_last_voter_stays() {
        assert_eq!(
            verdict(&[row(1, "a", false)], &[1], Kind::Remove, 1),
            Err(MembershipRefusal::NotEnoughStarted)
        );
    }

    #[test]
    fn only_a_learner_that_has_caught_up_is_promoted() {
        let members = [row(1, "a", false), row(2, "b", true)];
        assert_eq!(verdict(&members, &[1, 2], Kind::Promote, 2), Ok(()));
        assert_eq!(
            verdict(&members, &[1, 2], Kind::Promote, 1),
            Err(MembershipRefusal::NotLearner)
        );
        assert_eq!(verdict(&members, &[1, 2], Kind::Promote, 7), Err(MembershipRefusal::NotFound));
        let behind =
            check(&change(Kind::Promote, 2), &members, &in_touch(&[1, 2]), true, |_| false);
        assert_eq!(behind, Err(MembershipRefusal::LearnerNotReady));
    }
}
