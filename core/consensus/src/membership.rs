//! Changes of the membership, one member at a time.
//!
//! A change is an entry of type `CONF_CHANGE_V2` whose context is the encoded
//! `proto::log::MembershipChange`; its data is raft's own encoding, which only the proposing leader
//! ever reads. One step changes one member, so any two majorities before and after overlap and no
//! joint configuration is needed.
//!
//! The rules are checked twice: when the change is proposed, to answer the caller, and when it is
//! applied, because the configuration may have changed in between. The second check depends on
//! nothing but the configuration and the entry, so every member comes to the same verdict.

use prost::Message as _;
use proto::log::{ConfState, Entry, MembershipChange, entry, membership_change::Kind};
use raft::eraftpb::{ConfChangeType, ConfChangeV2};

use crate::config::MEMBERS_MAX;
use crate::convert;
use crate::error::MembershipError;

/// The change inside an entry.
pub(crate) fn change_of(entry: &Entry) -> Result<MembershipChange, MembershipError> {
    if entry.r#type() != entry::Type::ConfChangeV2 {
        return Err(MembershipError::Unreadable);
    }
    MembershipChange::decode(entry.context.clone()).map_err(|_| MembershipError::Unreadable)
}

/// The step raft takes for the change, if it fits the configuration.
pub(crate) fn step(
    conf: &ConfState,
    change: &MembershipChange,
) -> Result<ConfChangeV2, MembershipError> {
    let id = change.member.as_ref().map_or(0, |member| member.id);
    if id == 0 {
        return Err(MembershipError::NoMember);
    }
    let kind = Kind::try_from(change.kind).map_err(|_| MembershipError::Unreadable)?;
    let voter = conf.voters.contains(&id);
    let learner = conf.learners.contains(&id);
    let step = match kind {
        Kind::AddVoter | Kind::AddLearner => {
            if voter || learner {
                return Err(MembershipError::Exists(id));
            }
            let members = conf.voters.len() + conf.learners.len();
            if members >= MEMBERS_MAX {
                return Err(MembershipError::TooMany(members));
            }
            if kind == Kind::AddVoter {
                ConfChangeType::AddNode
            } else {
                ConfChangeType::AddLearnerNode
            }
        }
        Kind::Promote if learner => ConfChangeType::AddNode,
        Kind::Promote if voter => return Err(MembershipError::NotLearner(id)),
        Kind::Remove if conf.voters == [id] => return Err(MembershipError::LastVoter(id)),
        Kind::Remove if voter || learner => ConfChangeType::RemoveNode,
        Kind::Promote | Kind::Remove => return Err(MembershipError::NotFound(id)),
    };
    Ok(convert::conf_change(id, step))
}

#[cfg(test)]
mod tests {
    use proto::log::Member;

    use super::*;

    fn change(kind: Kind, id: u64) -> MembershipChange {
        MembershipChange {
            id: None,
            kind: kind.into(),
            member: Some(Member { id, ..Default::default() }),
        }
    }

    fn verdict(
        voters: &[u64],
        learners: &[u64],
        kind: Kind,
        id: u64,
    ) -> Result<(), MembershipError> {
        let conf = ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..Default::default()
        };
        step(&conf, &change(kind, id)).map(|_| ())
    }

    #[test]
    fn only_changes_that_fit_the_configuration_are_steps() {
        use MembershipError::*;
        assert_eq!(verdict(&[1], &[], Kind::AddVoter, 2), Ok(()));
        assert_eq!(verdict(&[1], &[], Kind::AddLearner, 2), Ok(()));
        assert_eq!(verdict(&[1], &[], Kind::AddVoter, 1), Err(Exists(1)));
        assert_eq!(verdict(&[1], &[2], Kind::AddVoter, 2), Err(Exists(2)));
        assert_eq!(verdict(&[1, 2], &[], Kind::AddLearner, 2), Err(Exists(2)));
        assert_eq!(verdict(&[1], &[2], Kind::Promote, 2), Ok(()));
        assert_eq!(verdict(&[1], &[2], Kind::Promote, 1), Err(NotLearner(1)));
        assert_eq!(verdict(&[1], &[2], Kind::Promote, 3), Err(NotFound(3)));
        assert_eq!(verdict(&[1, 2], &[], Kind::Remove, 2), Ok(()));
        assert_eq!(verdict(&[1], &[2], Kind::Remove, 2), Ok(()));
        assert_eq!(verdict(&[1], &[2], Kind::Remove, 1), Err(LastVoter(1)));
        assert_eq!(verdict(&[1], &[], Kind::Remove, 9), Err(NotFound(9)));
        assert_eq!(verdict(&[1], &[], Kind::AddVoter, 0), Err(NoMember));
        let full: Vec<u64> = (1..=MEMBERS_MAX as u64).collect();
        assert_eq!(verdict(&full, &[], Kind::AddLearner, 99), Err(TooMany(MEMBERS_MAX)));
    }

    #[test]
    fn a_change_that_cannot_be_read_is_an_error_and_no_panic() {
        let garbage = Entry {
            r#type: entry::Type::ConfChangeV2.into(),
            context: vec![0xff; 9].into(),
            ..Default::default()
        };
        assert_eq!(change_of(&garbage), Err(MembershipError::Unreadable));
        assert_eq!(change_of(&Entry::default()), Err(MembershipError::Unreadable));
        let unknown_kind = MembershipChange {
            kind: 77,
            member: Some(Member { id: 4, ..Default::default() }),
            id: None,
        };
        assert_eq!(step(&ConfState::default(), &unknown_kind), Err(MembershipError::Unreadable));
    }
}
