//! The door of a member: what goes in, what comes out.

use bytes::Bytes;
use consensus::{Config, TransferError};
use proto::log::{MembershipChange, SnapshotMeta, TuningSubmit};
use proto::peer::RaftMessage;

use crate::apply::{ApplyReport, ApplyTask};
use crate::log_worker::DiskTask;
use crate::membership::MembershipRefusal;
use crate::snapshot_policy::SnapshotPolicy;
use crate::tuning::TuningRefusal;

/// What a member is told once, at its start.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// The cluster this member belongs to.
    pub cluster_id: u64,
    /// Origin of this boot's own proposals: unique to one boot of one member.
    pub origin: u64,
    /// How the replica behaves.
    pub consensus: Config,
    /// When to take a snapshot.
    pub snapshots: SnapshotPolicy,
    /// Refuse membership changes which the cluster, as it is now, could not survive.
    pub strict_reconfig_check: bool,
    /// Newest form of plans of timing this member reads, and says so. That of [`state::Limits`].
    pub plan_format: u32,
}

/// One command of a caller on this member, encoded once.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The caller's ticket; with the origin it is the command's request id.
    pub sequence: u64,
    /// After this time nobody waits any more, and a command not yet proposed is not proposed.
    pub deadline_us: u64,
    /// An encoded [`proto::log::Command`] whose id is `(origin, sequence)`.
    pub command: Bytes,
}

/// What can happen to a member.
#[derive(Debug)]
pub enum Input {
    /// Nothing but time.
    Tick,
    /// From another member.
    Message(RaftMessage),
    /// Commands which another member, thinking this one the leader, sent on.
    Forwarded {
        /// The other member; its callers wait for them.
        from: u64,
        /// Of [`Forward::term`].
        term: u64,
        /// Encoded commands.
        commands: Vec<Bytes>,
    },
    /// Commands of callers on this member.
    Propose(Vec<Proposal>),
    /// A forward of which not a byte has left: it may be proposed again.
    NotForwarded {
        /// Of [`Forward::term`].
        term: u64,
        /// Encoded commands.
        commands: Vec<Bytes>,
    },
    /// A change of the membership; `change.id` is `(origin, sequence)`.
    ProposeMembership(MembershipChange),
    /// A caller wants to know from which applied index on a read is linearizable.
    Read {
        /// The caller's ticket.
        ticket: u64,
    },
    /// Hand the leadership to another voter.
    TransferLeader {
        /// The caller's ticket.
        ticket: u64,
        /// The voter that is to lead; 0 picks the most caught-up one.
        to: u64,
    },
    /// Renew a lease; only the leader can.
    LeaseKeepAlive {
        /// The caller's ticket.
        ticket: u64,
        /// The lease.
        id: i64,
    },
    /// What is left of a lease; only the leader knows.
    LeaseTimeToLive {
        /// The caller's ticket.
        ticket: u64,
        /// The lease.
        id: i64,
    },
    /// Everything up to this disk task is durable.
    Persisted {
        /// [`DiskTask::Append`]'s number.
        number: u64,
    },
    /// The apply worker is through with a task.
    Applied(Box<ApplyReport>),
    /// A snapshot of the own state is durable.
    SnapshotSaved(SnapshotMeta),
    /// Taking a snapshot failed for a reason that does not stop the member.
    SnapshotFailed,
    /// The stream that carried a snapshot to a follower ended.
    SnapshotSent {
        /// The follower.
        to: u64,
        /// It holds the snapshot.
        ok: bool,
    },
    /// No message reaches this peer at the moment.
    PeerUnreachable {
        /// The peer.
        to: u64,
    },
    /// A new plan of timing, for the leader to judge and to propose.
    SubmitTuning {
        /// The caller's ticket; with the origin it is the command's request id.
        sequence: u64,
        /// The plan.
        submit: TuningSubmit,
    },
    /// A peer has greeted, and is this process of it.
    PeerGreeted {
        /// The peer.
        peer: u64,
        /// Differs between two of its boots.
        boot_id: u64,
    },
    /// The process of this peer is gone: the connection to it was closed, and where it was reached
    /// before nobody listens any more, which its machine itself said. Never to be told upon a reset or
    /// a time-out alone.
    LeaderGone {
        /// The peer, a leader or not.
        peer: u64,
        /// The boot of it that is gone.
        boot_id: u64,
    },
}

/// What a lease question is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTtl {
    /// Seconds left; after a renewal the whole time to live.
    pub ttl: i64,
    /// Seconds granted.
    pub granted_ttl: i64,
}

/// An answer to a caller which apply has no part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The read may be served once `index` is applied.
    ReadAt {
        /// Ticket of [`Input::Read`].
        ticket: u64,
        /// The index.
        index: u64,
    },
    /// No leader confirmed the read in time.
    ReadFailed {
        /// Ticket of [`Input::Read`].
        ticket: u64,
    },
    /// The command was not proposed and never will be.
    NotProposed {
        /// [`Proposal::sequence`].
        sequence: u64,
        /// Too much waits already (`true`), or its deadline passed without a leader.
        busy: bool,
    },
    /// The command was given to a leader that is none any more, and stands in no log that counts, now or
    /// later: it may be proposed again, under the same request id.
    Lost {
        /// [`Proposal::sequence`].
        sequence: u64,
    },
    /// The membership change was not proposed and never will be.
    MembershipRefused {
        /// Sequence of the change's request id.
        sequence: u64,
        /// Why.
        refusal: MembershipRefusal,
    },
    /// The plan of timing was not proposed and never will be.
    TuningRefused {
        /// Sequence of [`Input::SubmitTuning`].
        sequence: u64,
        /// Why.
        refusal: TuningRefusal,
    },
    /// The transfer was not begun.
    TransferRefused {
        /// Ticket of [`Input::TransferLeader`].
        ticket: u64,
        /// Why.
        error: TransferError,
    },
    /// The transfer was begun; the change of leadership tells its end.
    TransferBegun {
        /// Ticket of [`Input::TransferLeader`].
        ticket: u64,
    },
    /// The leader's answer about a lease; `None`: there is no such lease.
    Lease {
        /// The ticket.
        ticket: u64,
        /// What is left, if the lease exists.
        lease: Option<LeaseTtl>,
    },
    /// Ask the leader, if there is one.
    LeaseAskLeader {
        /// The ticket.
        ticket: u64,
        /// The leader this member knows.
        leader: Option<u64>,
    },
}

/// Commands for the leader, to be sent once and never again after the first byte left.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The leader.
    pub to: u64,
    /// Who gets it may propose the commands in this term only. 0: at any time, for this leader does not
    /// know of such bounds.
    pub term: u64,
    /// Encoded commands.
    pub commands: Vec<Bytes>,
}

/// What the shell is to do, in this order: disk and net may go at the same time, for whatever must
/// wait for the disk is held inside the member.
#[derive(Debug, Default)]
pub struct Effects {
    /// For the log worker, in order.
    pub disk: Vec<DiskTask>,
    /// Messages for other members; `to` is in each.
    pub net: Vec<RaftMessage>,
    /// Commands for the leader.
    pub forward: Option<Forward>,
    /// For the apply worker, in order.
    pub apply: Vec<ApplyTask>,
    /// For callers.
    pub reply: Vec<Reply>,
    /// Who leads has changed.
    pub leadership: Option<consensus::Leadership>,
    /// This member has been removed from the cluster: it must stop and not come back.
    pub removed: bool,
    /// Step again at once: more output was ready than one step takes.
    pub again: bool,
    /// Step again at this time at the latest.
    pub wake_at_us: u64,
}
