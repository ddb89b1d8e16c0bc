//! Leases: keys that go when nobody keeps them.

use std::time::Duration;

use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::Client;
use crate::call::Method;
use crate::error::{Error, Result};

const GRANT: Method<LeaseGrantRequest, LeaseGrantResponse> =
    Method::write("/etcdserverpb.Lease/LeaseGrant");
const REVOKE: Method<LeaseRevokeRequest, LeaseRevokeResponse> =
    Method::write("/etcdserverpb.Lease/LeaseRevoke");
// Renewing twice is renewing.
const KEEP_ALIVE: Method<LeaseKeepAliveRequest, LeaseKeepAliveResponse> =
    Method::read("/etcdserverpb.Lease/LeaseKeepAlive");
const TIME_TO_LIVE: Method<LeaseTimeToLiveRequest, LeaseTimeToLiveResponse> =
    Method::read("/etcdserverpb.Lease/LeaseTimeToLive");
const LEASES: Method<LeaseLeasesRequest, LeaseLeasesResponse> =
    Method::read("/etcdserverpb.Lease/LeaseLeases");

/// A lease is renewed this many times within its time to live.
const RENEWALS_PER_TTL: u32 = 3;
/// Shortest pause between two renewals.
const RENEWAL_PAUSE_MIN: Duration = Duration::from_millis(200);

impl Client {
    /// A lease of `ttl_s` seconds; `id` 0 lets the server choose. The server may raise the time.
    pub async fn lease_grant(&self, ttl_s: i64, id: i64) -> Result<LeaseGrantResponse> {
        self.route.unary(&GRANT, LeaseGrantRequest { ttl: ttl_s, id }).await
    }

    /// Ends a lease and deletes its keys.
    pub async fn lease_revoke(&self, id: i64) -> Result<LeaseRevokeResponse> {
        self.route.unary(&REVOKE, LeaseRevokeRequest { id }).await
    }

    /// What is left of a lease (-1: there is none), with its keys if wanted.
    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLiveResponse> {
        self.route.unary(&TIME_TO_LIVE, LeaseTimeToLiveRequest { id, keys }).await
    }

    /// All leases.
    pub async fn leases(&self) -> Result<LeaseLeasesResponse> {
        self.route.unary(&LEASES, LeaseLeasesRequest {}).await
    }

    /// Renews a lease once and returns its time to live in seconds, or [`Error::LeaseGone`].
    pub async fn lease_keep_alive_once(&self, id: i64) -> Result<i64> {
        let patience = self.route.caller.config.request_timeout;
        let deadline = Instant::now() + patience;
        let mut answers = self
            .route
            .stream(&KEEP_ALIVE, || futures::stream::iter([LeaseKeepAliveRequest { id }]))
            .await?;
        let answer = tokio::time::timeout_at(deadline, answers.next())
            .await
            .unwrap_or(Err(Error::Deadline { after: patience, sent: true }))?;
        match answer {
            Some(answer) if answer.ttl > 0 => Ok(answer.ttl),
            Some(_) => Err(Error::LeaseGone { id }),
            None => Err(Error::Protocol {
                endpoint: answers.endpoint.clone(),
                what: "a keep-alive stream ended without an answer".into(),
            }),
        }
    }

    /// Keeps a lease alive for as long as the returned keeper lives. The first renewal is made
    /// before this returns.
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> client::Result<()> {
    /// let lease = client.lease_grant(10, 0).await?.id;
    /// let keeper = client.lease_keep_alive(lease).await?;
    /// client.put(client::Put::new("here", "me").lease(lease)).await?;
    /// let why = keeper.lost().await;
    /// eprintln!("not the owner any more: {why}");
    /// # Ok(()) }
    /// ```
    pub async fn lease_keep_alive(&self, id: i64) -> Result<LeaseKeeper> {
        let mut ttl = seconds(self.lease_keep_alive_once(id).await?);
        let mut good_until = Instant::now() + ttl;
        let (lost, why) = watch::channel(None);
        let client = self.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep((ttl / RENEWALS_PER_TTL).max(RENEWAL_PAUSE_MIN)).await;
                match client.lease_keep_alive_once(id).await {
                    Ok(ttl_s) => {
                        ttl = seconds(ttl_s);
                        good_until = Instant::now() + ttl;
                    }
                    // Unreachable members may keep the lease; believe in it until its time is up.
                    Err(error)
                        if error.outcome_unknown() || error.code() == tonic::Code::Unavailable =>
                    {
                        if Instant::now() >= good_until {
                            drop(lost.send(Some(error)));
                            return;
                        }
                    }
                    Err(error) => {
                        drop(lost.send(Some(error)));
                        return;
                    }
                }
            }
        });
        Ok(LeaseKeeper { id, task, why })
    }
}

fn seconds(ttl_s: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl_s).unwrap_or(0))
}

/// Keeps one lease alive; dropping it stops that, and the lease runs out.
#[derive(Debug)]
pub struct LeaseKeeper {
    id: i64,
    task: JoinHandle<()>,
    why: watch::Receiver<Option<Error>>,
}

impl LeaseKeeper {
    /// The lease.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// Returns when the lease could not be kept, with the reason.
    pub async fn lost(&self) -> Error {
        let mut why = self.why.clone();
        match why.wait_for(Option::is_some).await {
            Ok(error) => error.clone().expect("waited for it"),
            // The task was ended from outside, with its runtime.
            Err(_) => Error::LeaseGone { id: self.id },
        }
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}
