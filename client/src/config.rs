//! Every limit a client keeps, by name.
//!
//! Nothing in this crate waits, retries or buffers without a number from here. The defaults suit a
//! cluster within one region; the timeouts of connecting and keeping alive are those Kubernetes
//! uses towards etcd.

use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::tls::{Ready, Tls};

/// Most endpoints one client takes.
pub const ENDPOINTS_MAX: usize = 64;
/// Largest answer accepted, as etcd's own client: lists and watch batches may be big.
pub const ANSWER_BYTES_MAX: usize = i32::MAX as usize;
/// Bytes one answer stream may have under way before the caller has read them.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes all answer streams of one connection may have under way together.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Requests that may wait inside one open watch or keep-alive stream.
pub const STREAM_REQUESTS_MAX: usize = 16;

/// How to reach a cluster and how long to be patient with it.
///
/// ```
/// use std::time::Duration;
/// let config = client::Config::new(["127.0.0.1:2379", "http://127.0.0.1:22379"])
///     .request_timeout(Duration::from_secs(2));
/// assert!(config.check().is_ok());
/// assert!(client::Config::new(["ftp://127.0.0.1"]).check().is_err());
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) endpoints: Vec<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) require_leader: bool,
    pub(crate) retry: RetryPolicy,
    pub(crate) tls: Option<Tls>,
}

impl Config {
    /// `host:port`, `http://host:port` or `https://host:port`, one for each member that may be
    /// asked.
    pub fn new<I, S>(endpoints: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Config {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            connect_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            require_leader: true,
            retry: RetryPolicy::default(),
            tls: None,
        }
    }

    /// How to speak TLS, with the endpoints that ask for it by `https` or name no scheme.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The same patience towards other endpoints.
    pub fn endpoints<I, S>(mut self, endpoints: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// Longest wait for one TCP connection (default 5 s).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// A connection is pinged after so long without traffic (default 30 s), and given up when the
    /// ping has gone unanswered for `timeout` (default 10 s). Servers refuse intervals below 5 s.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive_interval = interval;
        self.keepalive_timeout = timeout;
        self
    }

    /// Deadline of one unary call, all its attempts together (default 10 s). It also bounds how
    /// long opening a stream may take; an open stream has no deadline.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Streams ask the member to end them when it has lost its leader, so that they move to a
    /// member that has one (default true).
    pub fn require_leader(mut self, require: bool) -> Self {
        self.require_leader = require;
        self
    }

    /// When a failed call is made again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Whether a client can be made of this, without making one.
    pub fn check(&self) -> Result<()> {
        self.ready_tls()?;
        self.parse().map(drop)
    }

    pub(crate) fn ready_tls(&self) -> Result<Option<Ready>> {
        self.tls.as_ref().map(Tls::ready).transpose()
    }

    pub(crate) fn parse(&self) -> Result<Vec<Endpoint>> {
        if self.endpoints.is_empty() {
            return Err(Error::Config { problem: "no endpoint is given" });
        }
        if self.endpoints.len() > ENDPOINTS_MAX {
            return Err(Error::Config { problem: "more endpoints than a client takes (64)" });
        }
        if self.retry.attempts_max == 0 {
            return Err(Error::Config { problem: "a call needs at least one attempt" });
        }
        let has_tls = self.tls.is_some();
        self.endpoints.iter().map(|text| Endpoint::parse(text, has_tls)).collect()
    }
}

/// When and how often a failed call is made again.
///
/// What may be repeated is fixed, because it decides whether a write can happen twice:
///
/// * a **read** (Range, Status, MemberList, …) is made again after any failure of code
///   `Unavailable`: no connection, a lost one, no leader;
/// * a **write** is made again only when its bytes never left this process, or when a learner
///   refused to serve it. A write whose answer was lost comes back as an error for which
///   [`Error::outcome_unknown`] holds, and the caller decides.
///
/// A round goes through all endpoints without waiting; between rounds there is a pause that doubles
/// from `pause_min` to `pause_max`, shortened at random by up to a quarter.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Attempts of one call in all, the first included. All stay within the call's deadline.
    pub attempts_max: u32,
    /// Pause after the first round of endpoints.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts_max: 20,
            pause_min: Duration::from_millis(25),
            pause_max: Duration::from_secs(1),
        }
    }
}

impl RetryPolicy {
    /// Every failure goes straight to the caller.
    pub fn never() -> Self {
        RetryPolicy { attempts_max: 1, ..RetryPolicy::default() }
    }

    /// The pause after `round` full rounds (counted from 1), before it is shortened at random.
    pub(crate) fn pause(&self, round: u32) -> Duration {
        let doubled = self.pause_min.saturating_mul(1_u32 << round.saturating_sub(1).min(16));
        doubled.min(self.pause_max)
    }

    /// Shortened by up to a quarter: callers that failed together must not return together.
    pub(crate) fn pause_with_jitter(&self, round: u32) -> Duration {
        use std::hash::{BuildHasher, Hasher};
        let pause = self.pause(round);
        let random = std::hash::RandomState::new().build_hasher().finish() % 1024;
        pause - pause.mul_f64(random as f64 / 4096.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = RetryPolicy::default();
        let ms: Vec<u128> = (1..=8).map(|round| policy.pause(round).as_millis()).collect();
        assert_eq!(ms, [25, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(policy.pause(u32::MAX).as_millis(), 1000);
    }

    #[test]
    fn jitter_only_ever_shortens_by_a_quarter() {
        let policy = RetryPolicy::default();
        for round in 1..=8 {
            let pause = policy.pause_with_jitter(round);
            assert!(pause <= policy.pause(round) && pause >= policy.pause(round).mul_f64(0.75));
        }
    }

    #[test]
    fn a_client_without_endpoints_or_attempts_is_refused() {
        assert!(Config::new([""; 0]).check().is_err());
        assert!(Config::new(vec!["127.0.0.1:1"; ENDPOINTS_MAX + 1]).check().is_err());
        let never = RetryPolicy { attempts_max: 0, ..RetryPolicy::default() };
        assert!(Config::new(["127.0.0.1:1"]).retry(never).check().is_err());
    }
}
