//! Who may pass, and how much: metadata, learners, size and number of requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, AlarmType};
use proto::log::command::Op;
use state::StateError;
use tonic::Status;

use super::error::{invalid_client_api_version, state_status};
use super::method::{Kind, Method};
use super::{PROPOSALS_IN_FLIGHT_MAX, Shared};
use crate::door::{AppliedOutcome, Door, RequestError};

/// Minor versions of clients that are told apart in the metrics: 3.0 and so many after it.
const CLIENT_MINORS_MAX: u8 = 63;

impl<D: Door> Shared<D> {
    /// Whether the call may begin, by what is known before its message is read.
    pub(super) fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), Status> {
        let leadership = self.door.leadership();
        if leadership.is_learner && !method.on_learner {
            return Err(RequestError::LearnerNotSupported.into());
        }
        let version = match headers.get("client-api-version") {
            Some(version) => {
                std::str::from_utf8(version.as_bytes()).map_err(|_| invalid_client_api_version())?
            }
            None => "unknown",
        };
        let kind = if method.kind == Kind::Unary { "unary" } else { "stream" };
        let version = version_label(version);
        self.metrics.client_requests.with_label_values(&[kind, version]).inc();
        if requires_leader(headers) && leadership.leader.is_none() {
            return Err(RequestError::NoLeader.into());
        }
        Ok(())
    }

    /// Refuses on a learner what `admit` could not judge.
    pub(super) fn refuse_on_learner(&self) -> Result<(), Status> {
        if self.door.leadership().is_learner {
            return Err(RequestError::LearnerNotSupported.into());
        }
        Ok(())
    }

    /// Proposes a command that has been checked, if it is small enough and not one too many.
    pub(crate) async fn propose(&self, op: Op) -> Result<AppliedOutcome, Status> {
        if encoded_len(&op) > self.settings.request_bytes_max {
            return Err(RequestError::TooLarge.into());
        }
        let _place = InFlight::enter(&self.proposals_in_flight)?;
        Ok(self.door.propose(op).await?)
    }

    /// Refuses what the quota has no room for, and raises the alarm that makes all members refuse.
    pub(crate) async fn refuse_over_quota(&self, cost_bytes: u64) -> Result<(), Status> {
        if self.door.view().has_quota_for(cost_bytes) {
            return Ok(());
        }
        let alarm = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: self.door.identity().member_id,
            alarm: AlarmType::Nospace.into(),
        };
        // The request is refused whether or not the others can be told.
        if let Err(error) = self.propose(Op::Alarm(alarm)).await {
            tracing::warn!(%error, "cannot raise the NOSPACE alarm");
        }
        Err(state_status(StateError::NoSpace))
    }
}

/// Whether the client wants to be refused rather than wait for a leader.
pub(crate) fn requires_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}

/// Length of the command's operation as it goes into the log.
fn encoded_len(op: &Op) -> usize {
    match op {
        Op::Put(request) => request.encoded_len(),
        Op::DeleteRange(request) => request.encoded_len(),
        Op::Txn(request) => request.encoded_len(),
        Op::Compact(request) => request.encoded_len(),
        Op::LeaseGrant(request) => request.encoded_len(),
        Op::LeaseRevoke(request) => request.encoded_len(),
        Op::LeaseCheckpoint(request) => request.encoded_len(),
        Op::Alarm(request) => request.encoded_len(),
        Op::MemberPublish(request) => request.encoded_len(),
        Op::MemberUpdate(request) => request.encoded_len(),
        Op::ClusterVersionSet(request) => request.encoded_len(),
        Op::TuningSubmit(request) => request.encoded_len(),
        Op::TuningAdvance(request) => request.encoded_len(),
    }
}

/// A version a metric may be labelled with: `3.6` for itself and `3.6.0`, not what somebody made up.
fn version_label(version: &str) -> &str {
    let Some(rest) = version.strip_prefix("3.") else {
        return if version == "unknown" { version } else { "other" };
    };
    let digits = rest.find('.').unwrap_or(rest.len());
    let is_plain = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && !part.starts_with("00")
    };
    let known = rest[..digits].parse().is_ok_and(|minor: u8| minor <= CLIENT_MINORS_MAX);
    let is_short = &rest[..digits] == "0" || !rest.starts_with('0');
    if known && is_short && rest.split('.').all(is_plain) {
        &version[..2 + digits]
    } else {
        "other"
    }
}

/// A place among the proposals under way, given back when dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicUsize) -> Result<Self, Status> {
        let place = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) >= PROPOSALS_IN_FLIGHT_MAX {
            return Err(RequestError::TooManyRequests.into());
        }
        Ok(place)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The deadline a client sent: up to eight digits and a unit.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let timeout = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("ASCII"));
            grpc_timeout(&headers)
        };
        assert_eq!(timeout("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(timeout("3M"), Some(Duration::from_secs(180)));
        assert_eq!(timeout("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(timeout("5m"), Some(Duration::from_millis(5)));
        assert_eq!(timeout("7u"), Some(Duration::from_micros(7)));
        assert_eq!(timeout("0n"), Some(Duration::ZERO));
        for odd in ["", "S", "5", "5x", "-5S", "123456789S", "1.5S"] {
            assert_eq!(timeout(odd), None, "{odd}");
        }
    }

    #[test]
    fn labels_are_versions_and_nothing_else() {
        assert_eq!(version_label("3.6"), "3.6");
        assert_eq!(version_label("3.5.24"), "3.5");
        assert_eq!(version_label("3.0.1"), "3.0");
        assert_eq!(version_label("unknown"), "unknown");
        for odd in [
            "",
            "4.0",
            "3.6-evil",
            "3.1234567890",
            "3.06",
            "3.64",
            "3.+6",
            "3.",
            "3.6.",
            "3.6\u{e9}",
        ] {
            assert_eq!(version_label(odd), "other", "{odd}");
        }
    }

    #[test]
    fn one_too_many_is_refused_and_places_come_back() {
        let count = AtomicUsize::new(PROPOSALS_IN_FLIGHT_MAX - 1);
        let last = InFlight::enter(&count).map_err(|status| status.code());
        assert!(last.is_ok());
        let refused = InFlight::enter(&count).map(drop).expect_err("one too many");
        assert_eq!(refused.message(), "etcdserver: too many requests");
        drop(last);
        assert_eq!(count.load(Ordering::Relaxed), PROPOSALS_IN_FLIGHT_MAX - 1);
    }
}
