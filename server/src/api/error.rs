//! The only map from what went wrong inside to what a gRPC client sees.
//!
//! etcd's clients tell errors apart by the exact message and decide by the code whether to try again,
//! so both are etcd's, including two accidents of etcd that clients have learned to live with: `too
//! many requests` and `re-configuration failed due to not enough started members` leave a real etcd
//! with code Unknown.

use state::{StateError, TuningError};
use tonic::{Code, Status};

use crate::door::RequestError;

/// The code that goes with an error of the state.
fn state_code(error: StateError) -> Code {
    use StateError as E;
    match error {
        E::EmptyKey
        | E::KeyNotFound
        | E::ValueProvided
        | E::LeaseProvided
        | E::TooManyOps
        | E::DuplicateKey
        | E::InvalidSortOption
        | E::RequestTooLarge => Code::InvalidArgument,
        E::Compacted | E::FutureRevision | E::LeaseTtlTooLarge => Code::OutOfRange,
        E::NoSpace => Code::ResourceExhausted,
        E::Corrupt => Code::DataLoss,
        E::LeaseNotFound | E::MemberNotFound => Code::NotFound,
        E::LeaseExists
        | E::MemberExists
        | E::PeerUrlExists
        | E::MemberNotLearner
        | E::TooManyLearners
        | E::NotCapable
        | E::Tuning(
            TuningError::Epoch { .. } | TuningError::Step { .. } | TuningError::Unsettled { .. },
        ) => Code::FailedPrecondition,
        E::Tuning(TuningError::Params(_) | TuningError::Text { .. }) => Code::InvalidArgument,
    }
}

/// The code that goes with an error of the node.
fn request_code(error: &RequestError) -> Code {
    use RequestError as E;
    match error {
        E::State(error) => state_code(*error),
        E::NoLeader
        | E::LeaderChanged
        | E::Timeout
        | E::TimeoutLeaderFailure
        | E::TimeoutConnectionLost
        | E::TimeoutAppliedIndex
        | E::Stopped
        | E::Unhealthy => Code::Unavailable,
        E::Plan(_)
        | E::NotLeader
        | E::LearnerNotSupported
        | E::BadLeaderTransferee
        | E::LearnerNotReady => Code::FailedPrecondition,
        E::Remote { code, .. } => Code::from(*code),
        E::TooLarge => Code::InvalidArgument,
        E::TooManyRequests | E::NotEnoughStarted | E::TimeoutLeaderTransfer | E::Other(_) => {
            Code::Unknown
        }
    }
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        Self::new(request_code(&error), error.to_string())
    }
}

/// The status of an error of the state.
pub(crate) fn state_status(error: StateError) -> Status {
    Status::new(state_code(error), error.to_string())
}

// What the api itself has to say.

/// The request is larger than gRPC accepts at all. grpc-go says ResourceExhausted.
pub(crate) fn message_too_large(bytes: u64, bytes_max: u64) -> Status {
    Status::resource_exhausted(format!(
        "grpc: received message larger than max ({bytes} vs. {bytes_max})"
    ))
}

/// How tonic's own refusal of an oversized message begins.
const TONIC_TOO_LARGE: &str = "Error, decoded message length too large: found ";

/// tonic's refusal of an oversized message in the words and with the code of grpc-go; other statuses
/// as they are.
pub(crate) fn stream_status(status: Status) -> Status {
    if status.code() != Code::OutOfRange {
        return status;
    }
    let Some(rest) = status.message().strip_prefix(TONIC_TOO_LARGE) else { return status };
    let mut numbers =
        rest.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(found), Some(limit)) => message_too_large(found, limit),
        _ => status,
    }
}

/// The metadata do not hold text.
pub(crate) fn invalid_client_api_version() -> Status {
    Status::invalid_argument("etcdserver: invalid client api version")
}

/// A peer URL that is none.
pub(crate) fn bad_member_urls() -> Status {
    Status::invalid_argument("etcdserver: given member URLs are invalid")
}

/// Users exist only with authentication on, and it is off.
pub(crate) fn auth_not_enabled() -> Status {
    Status::failed_precondition("etcdserver: authentication is not enabled")
}

/// The deadline the client set has passed.
pub(crate) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// A feature of etcd that is not built yet.
pub(crate) fn not_supported(what: &str) -> Status {
    Status::unimplemented(format!("metastore: {what} is not supported in this version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_messages_are_etcds() {
        use RequestError as R;
        use StateError as S;
        let table: &[(RequestError, Code, &str)] = &[
            (S::EmptyKey.into(), Code::InvalidArgument, "etcdserver: key is not provided"),
            (S::KeyNotFound.into(), Code::InvalidArgument, "etcdserver: key not found"),
            (S::ValueProvided.into(), Code::InvalidArgument, "etcdserver: value is provided"),
            (S::LeaseProvided.into(), Code::InvalidArgument, "etcdserver: lease is provided"),
            (
                S::TooManyOps.into(),
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
            ),
            (
                S::DuplicateKey.into(),
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
            ),
            (S::InvalidSortOption.into(), Code::InvalidArgument, "etcdserver: invalid sort option"),
            (S::RequestTooLarge.into(), Code::InvalidArgument, "etcdserver: request is too large"),
            (R::TooLarge, Code::InvalidArgument, "etcdserver: request is too large"),
            (
                S::Compacted.into(),
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (
                S::FutureRevision.into(),
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            (S::LeaseTtlTooLarge.into(), Code::OutOfRange, "etcdserver: too large lease TTL"),
            (
                S::NoSpace.into(),
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            (S::Corrupt.into(), Code::DataLoss, "etcdserver: corrupt cluster"),
            (S::LeaseNotFound.into(), Code::NotFound, "etcdserver: requested lease not found"),
            (S::MemberNotFound.into(), Code::NotFound, "etcdserver: member not found"),
            (S::LeaseExists.into(), Code::FailedPrecondition, "etcdserver: lease already exists"),
            (
                S::MemberExists.into(),
                Code::FailedPrecondition,
                "etcdserver: member ID already exist",
            ),
            (
                S::PeerUrlExists.into(),
                Code::FailedPrecondition,
                "etcdserver: Peer URLs already exists",
            ),
            (
                S::MemberNotLearner.into(),
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member",
            ),
            (
                S::TooManyLearners.into(),
                Code::FailedPrecondition,
                "etcdserver: too many learner members in cluster",
            ),
            (S::NotCapable.into(), Code::FailedPrecondition, "etcdserver: not capable"),
            (
                R::LearnerNotReady,
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            (R::NotLeader, Code::FailedPrecondition, "etcdserver: not leader"),
            (
                R::LearnerNotSupported,
                Code::FailedPrecondition,
                "etcdserver: rpc not supported for learner",
            ),
            (R::BadLeaderTransferee, Code::FailedPrecondition, "etcdserver: bad leader transferee"),
            (R::NoLeader, Code::Unavailable, "etcdserver: no leader"),
            (R::LeaderChanged, Code::Unavailable, "etcdserver: leader changed"),
            (R::Stopped, Code::Unavailable, "etcdserver: server stopped"),
            (R::Unhealthy, Code::Unavailable, "etcdserver: unhealthy cluster"),
            (R::Timeout, Code::Unavailable, "etcdserver: request timed out"),
            (
                R::TimeoutLeaderFailure,
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            (
                R::TimeoutConnectionLost,
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
            ),
            (
                R::TimeoutAppliedIndex,
                Code::Unavailable,
                "etcdserver: request timed out, waiting for the applied index took too long",
            ),
            (R::TooManyRequests, Code::Unknown, "etcdserver: too many requests"),
            (
                R::NotEnoughStarted,
                Code::Unknown,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            (
                R::TimeoutLeaderTransfer,
                Code::Unknown,
                "etcdserver: request timed out, leader transfer took too long",
            ),
            (R::Other("odd".to_owned()), Code::Unknown, "odd"),
        ];
        for (error, code, message) in table {
            let status = Status::from(error.clone());
            assert_eq!((status.code(), status.message()), (*code, *message));
        }
    }

    #[test]
    fn an_oversized_message_is_refused_as_by_grpc_go() {
        let refused = Status::out_of_range(
            "Error, decoded message length too large: found 2097200 bytes, the limit is: 2097152 bytes",
        );
        let status = stream_status(refused);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status.message(),
            "grpc: received message larger than max (2097200 vs. 2097152)"
        );
        let other = stream_status(state_status(StateError::Compacted));
        assert_eq!(other.code(), Code::OutOfRange);
    }

    #[test]
    fn what_the_api_says_itself_is_etcds_too() {
        let table = [
            (
                message_too_large(3, 2),
                Code::ResourceExhausted,
                "grpc: received message larger than max (3 vs. 2)",
            ),
            (
                invalid_client_api_version(),
                Code::InvalidArgument,
                "etcdserver: invalid client api version",
            ),
            (bad_member_urls(), Code::InvalidArgument, "etcdserver: given member URLs are invalid"),
            (
                auth_not_enabled(),
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
            ),
            (deadline_exceeded(), Code::DeadlineExceeded, "context deadline exceeded"),
            (
                not_supported("x"),
                Code::Unimplemented,
                "metastore: x is not supported in this version",
            ),
        ];
        for (status, code, message) in table {
            assert_eq!((status.code(), status.message()), (code, message));
        }
    }
}
