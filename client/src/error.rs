//! What can go wrong with a call, told apart by what the caller may do about it.
//!
//! The question that matters after a failed write is "may it have happened?":
//! [`Error::outcome_unknown`] answers it. etcd's messages are kept word for word, since they are what
//! its users search for.

use std::time::Duration;

use tonic::Code;

/// Everything this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that cannot be dialled.
    #[error("endpoint {endpoint:?}: {problem}")]
    Endpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A configuration no client can be made of.
    #[error("client configuration: {problem}")]
    Config {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Certificates, a key or a name no TLS can be spoken with.
    #[error("TLS: {problem}")]
    Tls {
        /// Which, and what is wrong with it.
        problem: String,
    },
    /// A request no server would take, refused before it was sent.
    #[error("bad request: {problem}")]
    Request {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No byte of the request left this process.
    #[error("{endpoint}: cannot be reached: {reason}")]
    Unreachable {
        /// The endpoint tried last.
        endpoint: String,
        /// What the system said.
        reason: String,
    },
    /// The request left and no answer came back: it may have been carried out.
    #[error("{endpoint}: connection lost before the answer came: {reason}")]
    ConnectionLost {
        /// Where the request went.
        endpoint: String,
        /// What the connection said.
        reason: String,
    },
    /// The deadline passed.
    #[error("no answer within {after:?}")]
    Deadline {
        /// The call's whole patience.
        after: Duration,
        /// Whether the request had left: then it may have been carried out.
        sent: bool,
    },
    /// The server answered with an error.
    #[error("{message}")]
    Answered {
        /// gRPC's code.
        code: Code,
        /// etcd's message, word for word.
        message: String,
    },
    /// A watch asked for revisions that are no longer kept.
    #[error("watch: revisions before {compact_revision} have been compacted")]
    Compacted {
        /// The oldest revision a new watch may start from.
        compact_revision: i64,
    },
    /// The server ended a watch.
    #[error("watch canceled: {reason}")]
    WatchCanceled {
        /// In the server's words; may be empty.
        reason: String,
    },
    /// A lease to be kept alive does not exist any more.
    #[error("lease {id:x} is gone")]
    LeaseGone {
        /// The lease.
        id: i64,
    },
    /// The server said something the protocol does not allow.
    #[error("{endpoint}: broken answer: {what}")]
    Protocol {
        /// Who said it.
        endpoint: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Error {
    /// The gRPC code this failure has, or would have had.
    pub fn code(&self) -> Code {
        match self {
            Error::Endpoint { .. }
            | Error::Config { .. }
            | Error::Tls { .. }
            | Error::Request { .. } => Code::InvalidArgument,
            Error::Unreachable { .. } | Error::ConnectionLost { .. } => Code::Unavailable,
            Error::Deadline { .. } => Code::DeadlineExceeded,
            Error::Answered { code, .. } => *code,
            Error::Compacted { .. } => Code::OutOfRange,
            Error::WatchCanceled { .. } => Code::Cancelled,
            Error::LeaseGone { .. } => Code::NotFound,
            Error::Protocol { .. } => Code::Internal,
        }
    }

    /// The server's own words, where there are any.
    pub fn message(&self) -> Option<&str> {
        match self {
            Error::Answered { message, .. } => Some(message),
            Error::WatchCanceled { reason } => Some(reason),
            _ => None,
        }
    }

    /// The request may have been carried out although it failed: it left, and either no answer
    /// came or the server itself did not know.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Error::ConnectionLost { .. } | Error::Protocol { .. } => true,
            Error::Deadline { sent, .. } => *sent,
            // A server answers with these while the proposal may still be under way.
            Error::Answered { code, .. } => matches!(
                code,
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Unknown
                    | Code::Internal
            ),
            _ => false,
        }
    }
}

/// A learner refuses most calls; whichever call it was, it did not happen, and a voter may take it.
pub(crate) const LEARNER_REFUSES: &str = "etcdserver: rpc not supported for learner";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_left_this_process_can_have_an_unknown_outcome() {
        let lost = Error::ConnectionLost { endpoint: "a:1".into(), reason: "reset".into() };
        let refused = Error::Unreachable { endpoint: "a:1".into(), reason: "refused".into() };
        let compacted = Error::Answered {
            code: Code::OutOfRange,
            message: "etcdserver: mvcc: required revision has been compacted".into(),
        };
        let timeout = Error::Answered {
            code: Code::Unavailable,
            message: "etcdserver: request timed out".into(),
        };
        assert!(lost.outcome_unknown() && timeout.outcome_unknown());
        assert!(!refused.outcome_unknown() && !compacted.outcome_unknown());
        assert!(Error::Deadline { after: Duration::ZERO, sent: true }.outcome_unknown());
        assert!(!Error::Deadline { after: Duration::ZERO, sent: false }.outcome_unknown());
    }
}
