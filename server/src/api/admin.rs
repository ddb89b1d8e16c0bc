//! What this member observes of itself and of its peers, for metactl, the operator and the planner of
//! timings; the plan of timing, to be seen and to be changed; and the level of the log.

use std::sync::Arc;

use proto::admin::admin_server::Admin;
use proto::admin::{
    LogLevelRequest, LogLevelResponse, ObserveRequest, ObserveResponse, SubmitTuningRequest,
    SubmitTuningResponse, TuningRequest, TuningResponse,
};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::config::LogLevel;
use crate::door::Door;
use crate::telemetry;

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

    async fn log_level(
        &self,
        request: Request<LogLevelRequest>,
    ) -> Result<Response<LogLevelResponse>, Status> {
        let asked = request.into_inner().level;
        if !asked.is_empty() {
            let level = LogLevel::named(&asked).ok_or_else(|| {
                Status::invalid_argument(format!(
                    "log level {asked:?}: none of debug, info, warn, error"
                ))
            })?;
            let before = telemetry::level().as_str();
            telemetry::set_level(level);
            // Whoever reads the log later should know why it says more, or less.
            tracing::warn!(before, now = level.as_str(), "the level of the log was changed");
        }
        let member_id = self.shared.door.identity().member_id;
        let level = telemetry::level().as_str().to_owned();
        Ok(Response::new(LogLevelResponse { member_id, level }))
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
