//! What comes of a command: an answer for the caller, events for watchers, changes of leases.

use proto::etcdserverpb::{
    AlarmResponse, CompactionResponse, DeleteRangeResponse, LeaseCheckpointResponse,
    LeaseGrantResponse, LeaseRevokeResponse, PutResponse, ResponseHeader, TxnResponse,
};
use proto::log::Member;

use crate::error::StateError;
use crate::record::Record;

/// What one command did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The answer. Only `header.revision` is filled; cluster, member and term are the server's.
    pub result: Result<Response, StateError>,
    /// The store's revision after the command.
    pub revision: i64,
    /// Changes of keys, all of one revision.
    pub events: Vec<Event>,
    /// Changes of leases, for whoever watches the clock.
    pub leases: Vec<LeaseChange>,
    /// The command took space and the store is now at its quota or above: whoever leads should raise
    /// the NOSPACE alarm. The command was carried out; only the alarm, which goes through the log, refuses commands.
    pub over_quota: bool,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a txn.
    Txn(TxnResponse),
    /// To a compaction.
    Compact(CompactionResponse),
    /// To a new lease.
    LeaseGrant(LeaseGrantResponse),
    /// To the end of a lease.
    LeaseRevoke(LeaseRevokeResponse),
    /// To a note of remaining times.
    LeaseCheckpoint(LeaseCheckpointResponse),
    /// To an alarm raised, lowered or asked for.
    Alarm(AlarmResponse),
    /// To a change of a member's own particulars: all members, by id.
    Members(Vec<Member>),
    /// To a change of the cluster version.
    ClusterVersion,
    /// To a plan of timing that was submitted or taken a step further.
    Tuning {
        /// The plan's.
        epoch: u64,
    },
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The new record; a tombstone if the key was deleted.
    pub record: Record,
    /// What lived under the key before the transaction, if anything did and it is still known.
    pub prev: Option<Record>,
}

/// A change of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// A lease began.
    Granted {
        /// Its id.
        id: i64,
        /// Seconds it lives without renewal.
        ttl: i64,
    },
    /// A lease ended, and its keys with it.
    Revoked {
        /// Its id.
        id: i64,
    },
    /// The time a lease had left was noted; 0 clears the note.
    Checkpointed {
        /// Its id.
        id: i64,
        /// Seconds left.
        remaining_ttl: i64,
    },
}

/// A header that tells the revision alone.
pub(crate) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}
