//! One operator acts at a time: who holds the lease.
//!
//! The rules are those of client-go, so that its users' habits carry over. Clocks of different machines
//! are never compared: a holder is given up when its record has not changed for the lease's duration
//! *as measured here*. Every write carries the resource version that it was decided on, so of two that
//! want the lease one is refused.
//!
//! Whoever can not renew stops: [`Hold::is_valid`] turns false before anybody else may take over, each
//! write of a step asks it first, and `keep` ends, which ends the process. Nothing that was decided
//! under a lost lease is carried out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::LEASE_NAME;

/// A holder that has not renewed for so long has lost the lease.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long stops. Less than the duration: it stops first.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks at the lease, held or not.
const RETRY: Duration = Duration::from_secs(3);
/// Longest one request about the lease may take.
const REQUEST: Duration = Duration::from_secs(3);

/// What this process has seen of the lease: its content, and since when it is like that.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    lease: Option<Lease>,
    since: Instant,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nobody ever held it: make it.
    Create,
    /// It is free, or its holder is gone: take it.
    Take,
    /// It is ours: say so again.
    Renew,
    /// Somebody else has it.
    Wait,
}

/// Decides.
fn evaluate(seen: &Seen, now: Instant, me: &str) -> Verdict {
    let Some(lease) = &seen.lease else { return Verdict::Create };
    let spec = lease.spec.as_ref();
    match spec.and_then(|spec| spec.holder_identity.as_deref()) {
        None | Some("") => Verdict::Take,
        Some(holder) if holder == me => Verdict::Renew,
        Some(_) => {
            let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
            let seconds = seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
            let duration = seconds.map_or(LEASE_DURATION, Duration::from_secs);
            let age = now.saturating_duration_since(seen.since);
            if age > duration { Verdict::Take } else { Verdict::Wait }
        }
    }
}

/// The record that says that `me` holds the lease.
fn held(before: Option<&Lease>, me: &str, wall: Timestamp) -> Lease {
    let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let is_mine = spec.holder_identity.as_deref() == Some(me);
    let changes = spec.lease_transitions.unwrap_or(0);
    Lease {
        metadata: before.map_or_else(
            || ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() },
            |lease| ObjectMeta { managed_fields: None, ..lease.metadata.clone() },
        ),
        spec: Some(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: if is_mine { spec.acquire_time } else { Some(MicroTime(wall)) },
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(if before.is_none() || is_mine {
                changes
            } else {
                changes.saturating_add(1)
            }),
            ..spec
        }),
    }
}

/// Whether this process may act.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    renewed: Arc<Mutex<Option<Instant>>>,
    is_needed: bool,
}

impl Hold {
    /// Without leader election: always.
    pub(crate) fn unneeded() -> Self {
        Hold { renewed: Arc::default(), is_needed: false }
    }

    /// Not yet.
    fn needed() -> Self {
        Hold { renewed: Arc::default(), is_needed: true }
    }

    /// Whether it may act now.
    pub(crate) fn is_valid(&self) -> bool {
        self.is_valid_at(Instant::now())
    }

    fn is_valid_at(&self, now: Instant) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_needed
            || renewed.is_some_and(|at| now.saturating_duration_since(at) < RENEW_DEADLINE)
    }

    fn set(&self, renewed: Option<Instant>) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
    }
}

/// Why the lease is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// Another holder is in the record.
    #[error("the lease {LEASE_NAME} was taken by {0}")]
    Taken(String),
    /// It could not be renewed in time.
    #[error("the lease {LEASE_NAME} could not be renewed for 10 s: {0}")]
    NotRenewed(String),
}

/// One that wants the lease, or has it.
pub(crate) struct Elector {
    api: Api<Lease>,
    me: String,
    seen: Seen,
    hold: Hold,
}

impl Elector {
    /// Wants the lease in the namespace of `api`.
    pub(crate) fn new(api: Api<Lease>, me: String) -> Self {
        Elector { api, me, seen: Seen { lease: None, since: Instant::now() }, hold: Hold::needed() }
    }

    /// Tells the acting part whether it may act.
    pub(crate) fn hold(&self) -> Hold {
        self.hold.clone()
    }

    /// Waits until the lease is ours. `stood_by` is called when somebody else is seen to have it.
    pub(crate) async fn acquire(&mut self, stood_by: impl Fn()) {
        let mut told: Option<String> = None;
        loop {
            match self.round().await {
                Ok(true) => {
                    info!(identity = self.me, "the lease is held");
                    return;
                }
                Ok(false) => {
                    stood_by();
                    let holder = self.holder();
                    if told.as_deref() != Some(&holder) {
                        info!(holder, "standing by");
                        told = Some(holder);
                    }
                }
                Err(error) => warn!(error, "the lease cannot be looked at"),
            }
            tokio::time::sleep(crate::clock::jittered(RETRY)).await;
        }
    }

    /// Renews the lease until it is lost.
    pub(crate) async fn keep(&mut self) -> Lost {
        loop {
            tokio::time::sleep(RETRY).await;
            match self.round().await {
                Ok(true) => {}
                Ok(false) => {
                    self.hold.set(None);
                    return Lost::Taken(self.holder());
                }
                Err(error) if !self.hold.is_valid() => {
                    return Lost::NotRenewed(error);
                }
                Err(error) => warn!(error, "the lease could not be renewed; trying again"),
            }
        }
    }

    /// Gives the lease back, so that the next does not wait for it to run out. Once, bounded.
    pub(crate) async fn release(&mut self) {
        self.hold.set(None);
        let Some(lease) = self.seen.lease.clone() else { return };
        let mut lease = held(Some(&lease), &self.me, Timestamp::now());
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        if let Err(error) = self.replace(&lease).await {
            warn!(error, "the lease could not be given back; it runs out by itself");
        }
    }

    fn holder(&self) -> String {
        let spec = self.seen.lease.as_ref().and_then(|lease| lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default()
    }

    /// One look and at most one write. Whether the lease is ours now.
    async fn round(&mut self) -> Result<bool, String> {
        // Held from before the request was sent: the answer may have taken its time.
        let began = Instant::now();
        let found = bounded(self.api.get_opt(LEASE_NAME)).await?;
        if !is_same_record(found.as_ref(), self.seen.lease.as_ref()) {
            self.seen = Seen { lease: found, since: Instant::now() };
        }
        let verdict = evaluate(&self.seen, Instant::now(), &self.me);
        let record = held(self.seen.lease.as_ref(), &self.me, Timestamp::now());
        let written = match verdict {
            Verdict::Wait => return Ok(false),
            Verdict::Create => {
                match bounded(self.api.create(&PostParams::default(), &record)).await {
                    Ok(lease) => lease,
                    // Somebody was faster; the next round sees who.
                    Err(error) if error.contains("409") => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
            Verdict::Take | Verdict::Renew => match self.replace(&record).await {
                Ok(lease) => lease,
                Err(error) if error.contains("409") && verdict == Verdict::Take => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            },
        };
        self.seen = Seen { lease: Some(written), since: began };
        self.hold.set(Some(began));
        Ok(true)
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, String> {
        bounded(self.api.replace(LEASE_NAME, &PostParams::default(), lease)).await
    }
}

async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(REQUEST, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(format!("{}: {}", status.code, status.message)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer from the API server in 3 s".to_owned()),
    }
}

/// Any renewal changes the resource version, whoever wrote it.
fn is_same_record(a: Option<&Lease>, b: Option<&Lease>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            a.metadata.uid == b.metadata.uid
                && a.metadata.resource_version == b.metadata.resource_version
                && a.spec == b.spec
        }
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease_of(holder: &str, seconds: i32) -> Lease {
        Lease {
            metadata: ObjectMeta::default(),
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(seconds),
                lease_transitions: Some(4),
                ..LeaseSpec::default()
            }),
        }
    }

    fn seen(holder: &str, since: Instant) -> Seen {
        Seen { lease: Some(lease_of(holder, 15)), since }
    }

    #[test]
    fn a_free_lease_is_taken_and_an_own_one_renewed() {
        let now = Instant::now();
        assert_eq!(evaluate(&Seen { lease: None, since: now }, now, "me"), Verdict::Create);
        assert_eq!(evaluate(&seen("", now), now, "me"), Verdict::Take);
        assert_eq!(evaluate(&seen("me", now), now, "me"), Verdict::Renew);
    }

    #[test]
    fn another_holder_is_waited_for_until_its_record_stood_still_for_its_duration() {
        let since = Instant::now();
        let after = |seconds| since + Duration::from_secs(seconds);
        assert_eq!(evaluate(&seen("other", since), after(15), "me"), Verdict::Wait);
        assert_eq!(evaluate(&seen("other", since), after(16), "me"), Verdict::Take);
        // A nonsensical duration is not zero.
        let zero = Seen { lease: Some(lease_of("other", 0)), since };
        assert_eq!(evaluate(&zero, after(5), "me"), Verdict::Wait);
    }

    #[test]
    fn a_holder_stops_before_anybody_may_take_over() {
        const { assert!(RENEW_DEADLINE.as_secs() + REQUEST.as_secs() < LEASE_DURATION.as_secs()) };
        let hold = Hold::needed();
        let now = Instant::now();
        assert!(!hold.is_valid_at(now));
        hold.set(Some(now));
        assert!(hold.is_valid_at(now + Duration::from_secs(9)));
        assert!(!hold.is_valid_at(now + RENEW_DEADLINE));
        assert!(Hold::unneeded().is_valid_at(now));
    }

    #[test]
    fn a_change_of_holder_is_counted_and_a_renewal_is_not() {
        let wall = Timestamp::UNIX_EPOCH;
        let transitions = |lease: &Lease| lease.spec.clone().unwrap().lease_transitions;
        assert_eq!(transitions(&held(None, "me", wall)), Some(0));
        assert_eq!(transitions(&held(Some(&lease_of("other", 15)), "me", wall)), Some(5));
        assert_eq!(transitions(&held(Some(&lease_of("me", 15)), "me", wall)), Some(4));
    }
}
