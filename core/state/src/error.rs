//! Everything a request can be refused for, one variant for each of etcd's answers.
//!
//! Codes and transport belong to the server; here is only what went wrong. The text of each variant
//! is what etcd says, since clients tell errors apart by exact message.

use thiserror::Error;

use crate::tuning::TuningError;

/// Why a request or command was refused. Refusing is deterministic: every member refuses alike.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum StateError {
    /// A request without a key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that is not there, or a txn operation that is none.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// More compares or operations than a txn may have.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// One txn changes a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// A sort order or target that does not exist.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// Longer than a record can be.
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    /// The revision asked for has been compacted.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// The revision asked for has not happened yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The NOSPACE alarm is on, or the quota would be exceeded.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The CORRUPT alarm is on.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    /// No such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// The lease id is taken.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// A lease of centuries.
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    /// No such member, or one that was removed.
    #[error("etcdserver: member not found")]
    MemberNotFound,
    /// The member is there already.
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    /// Another member has this peer URL.
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    /// Only learners are promoted.
    #[error("etcdserver: can only promote a learner member")]
    MemberNotLearner,
    /// As many learners as allowed are there already.
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    /// A command of a later version, or none at all.
    #[error("etcdserver: not capable")]
    NotCapable,
    /// A plan of timing, or what one stands in the way of.
    #[error(transparent)]
    Tuning(#[from] TuningError),
}
