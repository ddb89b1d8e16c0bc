//! What this member observes of itself and of its peers, for metactl, the operator and the planner of
//! timings; and the plan of timing, to be seen and to be changed.

use std::sync::Arc;

use proto::admin::admin_server::Admin;
use proto::admin::{
    ObserveRequest, ObserveResponse, SubmitTuningRequest, SubmitTuningResponse, TuningRequest,
    TuningResponse,
};
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

    async fn tuning(&self, _: Request<TuningRequest>) -> Result<Response<TuningResponse>, Status> {
        Ok(Response::new(self.shared.door.tuning()))
    }

    async fn submit_tuning(
        &self,
        request: Request<SubmitTuningRequest>,
    ) -> Result<Response<SubmitTuningResponse>, Status> {
        let submit = request.into_inner().submit;
        let submit = submit.ok_or_else(|| Status::invalid_argument("plan is missing"))?;
        let epoch = self.shared.door.submit_tuning(submit).await?;
        Ok(Response::new(SubmitTuningResponse { epoch }))
    }
}
