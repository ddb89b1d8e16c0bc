//! What this member observes of itself and of its peers, for metactl, the operator and the planner of
//! timings.

use std::sync::Arc;

use proto::admin::admin_server::Admin;
use proto::admin::{ObserveRequest, ObserveResponse};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::door::Door;

/// The service.
pub(super) struct AdminService<D> {
    shared: Arc<Shared<D>>,
}

impl<D: Door> AdminService<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl<D: Door> Admin for AdminService<D> {
    async fn observe(
        &self,
        _: Request<ObserveRequest>,
    ) -> Result<Response<ObserveResponse>, Status> {
        Ok(Response::new(self.shared.door.observe()))
    }
}
