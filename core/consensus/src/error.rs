//! Everything this room refuses, and why. Each error is one line that names the thing.

use autotune::{BatchingError, TimingError};
use thiserror::Error;

/// A replica that cannot be made, or a change that cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConsensusError {
    /// A setting is wrong.
    #[error("consensus configuration: {0}")]
    Config(&'static str),
    /// The timing is wrong.
    #[error("consensus configuration: {0}")]
    Timing(#[from] TimingError),
    /// The batching is wrong.
    #[error("consensus configuration: {0}")]
    Batching(#[from] BatchingError),
    /// What the disk remembers contradicts itself.
    #[error("log on disk: {0}")]
    Boot(String),
    /// A membership change does not fit the configuration. The configuration is as before, on
    /// every member alike.
    #[error("membership change at index {index}: {reason}")]
    Membership {
        /// Index of the entry that holds the change.
        index: u64,
        /// What does not fit.
        reason: MembershipError,
    },
}

/// Why a membership change does not fit the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MembershipError {
    /// The entry's context is not a membership change.
    #[error("the change cannot be read")]
    Unreadable,
    /// No member is named.
    #[error("no member is named")]
    NoMember,
    /// The member is there already.
    #[error("member {0:x} is in the configuration already")]
    Exists(u64),
    /// Nobody of that id.
    #[error("member {0:x} is not in the configuration")]
    NotFound(u64),
    /// Only learners are promoted.
    #[error("member {0:x} is not a learner")]
    NotLearner(u64),
    /// The last voter stays.
    #[error("member {0:x} is the last voter")]
    LastVoter(u64),
    /// The configuration is full.
    #[error("the configuration has {0} members already")]
    TooMany(usize),
}

/// A proposal that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Only a leader proposes.
    #[error("not the leader; the leader is {leader:x?}")]
    NotLeader {
        /// The leader as far as known.
        leader: Option<u64>,
    },
    /// Too much is proposed and not yet applied.
    #[error("too many proposals wait to be applied")]
    Busy,
    /// The command is larger than any entry may be.
    #[error("a command of {bytes} bytes is above {max} bytes")]
    TooLarge {
        /// Size of the command.
        bytes: u64,
        /// Largest size.
        max: u64,
    },
    /// An earlier membership change, or a new leader's inheritance, is not yet applied.
    #[error("a membership change is pending")]
    ChangePending,
    /// The change does not fit the configuration.
    #[error("membership change: {0}")]
    Membership(#[from] MembershipError),
    /// The leadership is being handed over.
    #[error("the leadership is being transferred to {to:x}")]
    Transferring {
        /// The next leader.
        to: u64,
    },
}

/// A transfer of the leadership that was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// Only a leader hands its leadership over.
    #[error("not the leader; the leader is {leader:x?}")]
    NotLeader {
        /// The leader as far as known.
        leader: Option<u64>,
    },
    /// The target does not vote.
    #[error("member {0:x} is not a voter")]
    NotVoter(u64),
    /// Another transfer is under way.
    #[error("the leadership is being transferred to {to:x}")]
    Transferring {
        /// The next leader.
        to: u64,
    },
}

/// A message from a peer that was thrown away. The replica is as before.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// Sent to someone else.
    #[error("message is for member {to:x}")]
    NotForUs {
        /// Who it is for.
        to: u64,
    },
    /// The sender is nobody, or says it is us.
    #[error("message is from member {from:x}")]
    BadSender {
        /// Who it says it is from.
        from: u64,
    },
    /// A response from a member that is not in the configuration.
    #[error("member {from:x} is not in the configuration")]
    UnknownPeer {
        /// Who it is from.
        from: u64,
    },
    /// A type of message this release does not know.
    #[error("message type {0} is unknown")]
    UnknownType(i32),
    /// A type of message that never travels.
    #[error("message type {0} is not for the wire")]
    NotForTheWire(&'static str),
    /// A term that is missing, not allowed, or absurd.
    #[error("term {term} is not valid in {kind}")]
    Term {
        /// Type of the message.
        kind: &'static str,
        /// The term found.
        term: u64,
    },
    /// An absurd number.
    #[error("{field} {value} is out of range")]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// More bytes than a message may carry.
    #[error("{field} of {bytes} bytes is above {max} bytes")]
    TooLarge {
        /// What is too large.
        field: &'static str,
        /// Its size.
        bytes: u64,
        /// Largest size.
        max: u64,
    },
    /// A field the type of message does not have.
    #[error("{kind} carries {field}")]
    Unexpected {
        /// Type of the message.
        kind: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// A field the type of message needs.
    #[error("{kind} lacks {field}")]
    Missing {
        /// Type of the message.
        kind: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// Entries are not in line.
    #[error("entry {found} follows entry {previous}")]
    Gap {
        /// Index of the entry before.
        previous: u64,
        /// Index found.
        found: u64,
    },
    /// Terms of entries go backwards or beyond the message's term.
    #[error("entry {index} has term {term}, not within {least} to {most}")]
    EntryTerm {
        /// Index of the entry.
        index: u64,
        /// Its term.
        term: u64,
        /// Term of the entry before.
        least: u64,
        /// Term of the message.
        most: u64,
    },
    /// An entry of a type this release does not know.
    #[error("entry {index} has the unknown type {kind}")]
    EntryType {
        /// Index of the entry.
        index: u64,
        /// The type found.
        kind: i32,
    },
    /// The manifest of a snapshot is not in order.
    #[error("snapshot: {0}")]
    Snapshot(&'static str),
    /// The peer believes that we have what we do not have. If the peer is right, this member has
    /// lost a part of its log.
    #[error("commit index {commit} is beyond the last entry {last}")]
    CommitBeyondLog {
        /// The commit index sent.
        commit: u64,
        /// Our last entry.
        last: u64,
    },
    /// The peer says it has what the leader does not have.
    #[error("match index {matched} is beyond the leader's last entry {last}")]
    MatchBeyondLog {
        /// The index sent.
        matched: u64,
        /// Our last entry.
        last: u64,
    },
    /// A vote for a candidacy whose request cannot have been sent yet.
    #[error("vote of member {from:x} before it was asked for")]
    VoteUnasked {
        /// Who voted.
        from: u64,
    },
    /// A call to campaign from someone who does not lead.
    #[error("member {from:x} does not lead and cannot hand over")]
    NotFromLeader {
        /// Who it is from.
        from: u64,
    },
    /// More read rounds of other members wait than the leader keeps.
    #[error("too many reads of other members wait")]
    ReadsBusy,
}
