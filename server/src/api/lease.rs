//! Leases. Grant and revoke go through the log; what is left of a lease only the leader knows.

use std::pin::{Pin, pin};
use std::sync::Arc;

use futures::{Stream, TryStreamExt as _};
use proto::etcdserverpb::lease_server::Lease;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use proto::log::command::Op;
use proto::log::{LeaseGrant, LeaseRevoke};
use state::lease::LEASE_QUOTA_BYTES;
use state::{Response as Applied, check};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::error::{state_status, stream_status};
use super::gate::requires_leader;
use crate::door::{Door, RequestError};

/// Answers of a keep-alive stream that wait for the client.
const ANSWERS_WAITING_MAX: usize = 16;
/// Renewals of one stream under way at a time. The leader proves once for all that wait that it still
/// leads, so a client with thousands of leases on a stream does not pay for each.
const RENEWALS_UNDER_WAY_MAX: usize = 64;

/// The service.
pub(super) struct LeaseService<D> {
    shared: Arc<Shared<D>>,
}

type Renewals = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

impl<D: Door> LeaseService<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl<D: Door> Lease for LeaseService<D> {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let request = request.into_inner();
        let ttl = check::lease_ttl(request.ttl, self.shared.settings.lease_ttl_min)
            .map_err(state_status)?;
        self.shared.refuse_over_quota(LEASE_QUOTA_BYTES).await?;
        let id = if request.id == 0 { self.shared.lease_ids.next() } else { request.id };
        let outcome = self.shared.propose(Op::LeaseGrant(LeaseGrant { id, ttl })).await?;
        let Applied::LeaseGrant(mut response) = outcome.response else {
            return Err(Shared::<D>::mismatch(&outcome));
        };
        self.shared.fill(&mut response.header, outcome.term);
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let revoke = LeaseRevoke { id: request.into_inner().id, expired: false };
        let outcome = self.shared.propose(Op::LeaseRevoke(revoke)).await?;
        let Applied::LeaseRevoke(mut response) = outcome.response else {
            return Err(Shared::<D>::mismatch(&outcome));
        };
        self.shared.fill(&mut response.header, outcome.term);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream = Renewals;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Renewals>, Status> {
        let must_have_leader = requires_leader(request.metadata().as_ref());
        let (sender, receiver) = mpsc::channel(ANSWERS_WAITING_MAX);
        let shared = Arc::clone(&self.shared);
        let requests = request.into_inner();
        tokio::spawn(async move {
            let end = tokio::select! {
                end = renew(&shared, requests, &sender) => end,
                status = shared.stream_over(must_have_leader) => Err(status),
                () = sender.closed() => Ok(()),
            };
            if let Err(status) = end {
                let failures = &shared.metrics.stream_failures;
                failures.with_label_values(&["receive", "lease-keepalive"]).inc();
                // The client may be gone; then nobody is left to tell.
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let left = self.shared.door.lease_time_to_live(request.id).await?;
        let view = self.shared.door.view();
        let mut response = LeaseTimeToLiveResponse {
            header: self.shared.header(view.revision()),
            id: request.id,
            ttl: -1,
            ..LeaseTimeToLiveResponse::default()
        };
        if let Some(left) = left {
            response.ttl = left.ttl;
            response.granted_ttl = left.granted_ttl;
            if request.keys {
                response.keys = view.lease_keys(request.id);
            }
        }
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let view = self.shared.door.linearizable_view().await?;
        let leases = view.leases().map(|lease| LeaseStatus { id: lease.id }).collect();
        let header = self.shared.header(view.revision());
        Ok(Response::new(LeaseLeasesResponse { header, leases }))
    }
}

/// Answers in the order of the requests.
async fn renew<D: Door>(
    shared: &Shared<D>,
    requests: Streaming<LeaseKeepAliveRequest>,
    sender: &mpsc::Sender<Result<LeaseKeepAliveResponse, Status>>,
) -> Result<(), Status> {
    let answers = requests
        .map_err(stream_status)
        .map_ok(|request| renew_one(shared, request.id))
        .try_buffered(RENEWALS_UNDER_WAY_MAX);
    let mut answers = pin!(answers);
    while let Some(answer) = answers.try_next().await? {
        if sender.send(Ok(answer)).await.is_err() {
            let failures = &shared.metrics.stream_failures;
            failures.with_label_values(&["send", "lease-keepalive"]).inc();
            break;
        }
    }
    Ok(())
}

async fn renew_one<D: Door>(shared: &Shared<D>, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
    // The header is made before the renewal, so that its revision is not later than one at which
    // the lease is known to have lived.
    let header = shared.header(shared.door.view().revision());
    let ttl = match shared.door.lease_keep_alive(id).await {
        Err(RequestError::State(state::StateError::LeaseNotFound)) => 0,
        answer => answer?,
    };
    Ok(LeaseKeepAliveResponse { header, id, ttl })
}
