//! gRPC's standard health service, for load balancers: the server as a whole serves until it stops.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use proto::health::health_check_response::ServingStatus;
use proto::health::health_server::Health;
use proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::door::Door;
use crate::shutdown::stopped;

/// The service.
pub(super) struct HealthService<D> {
    shared: Arc<Shared<D>>,
}

type Changes = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

impl<D: Door> HealthService<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }

    /// As etcd, only the server as a whole has a status.
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let is_stopping = *self.shared.stopping.borrow();
        service.is_empty().then_some(if is_stopping {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        })
    }
}

#[tonic::async_trait]
impl<D: Door> Health for HealthService<D> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.status(&request.into_inner().service);
        status.map(response).map(Response::new).ok_or_else(|| Status::not_found("unknown service"))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let whole = self.status("").map(|status| (String::new(), response(status)));
        let statuses: BTreeMap<_, _> = whole.into_iter().collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Changes;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Changes>, Status> {
        let status = self.status(&request.into_inner().service);
        let (sender, receiver) = mpsc::channel(2);
        let first = response(status.unwrap_or(ServingStatus::ServiceUnknown));
        let mut stopping = self.shared.stopping.clone();
        tokio::spawn(async move {
            if sender.send(Ok(first)).await.is_err() {
                return;
            }
            tokio::select! {
                () = stopped(&mut stopping) => {
                    // The client may be gone; then nobody is left to tell.
                    let _ = sender.send(Ok(response(ServingStatus::NotServing))).await;
                }
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
