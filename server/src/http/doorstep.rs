//! The metrics port from the first moment on.
//!
//! A member that replays a long log is alive and not ready, and whoever probes it must be able to tell
//! that from a member that hangs: so this port answers before there is a member, and hands over to
//! the member's own pages once there is one.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::response::Response;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use tonic::body::Body;

use super::{TEXT, error, only_get, page, scrape};
use crate::api::unary::Answer;
use crate::door::NodeStatus;
use crate::metrics::{Metrics, StateFigures};
use crate::serve::{Answers, Content, ask};

/// What is wrong with a member that is not there yet.
const REPLAYING: &str = "replaying the log";

/// Answers for a member until it can answer itself.
#[derive(Clone, Debug)]
pub(crate) struct Doorstep {
    metrics: Arc<Metrics>,
    inside: Arc<OnceLock<Router>>,
}

impl Doorstep {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        Doorstep { metrics: Arc::clone(metrics), inside: Arc::default() }
    }

    /// From now on the member answers itself.
    pub(crate) fn open(&self, pages: Router) {
        // There is one member in a process.
        let _ = self.inside.set(pages);
    }

    fn alone(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response {
        if let Some(refused) = only_get(method) {
            return refused;
        }
        let not_ready = |text: &str| error(StatusCode::SERVICE_UNAVAILABLE, text);
        match path {
            "/livez" => page(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => not_ready(&format!("[-]replay failed: {REPLAYING}\n")),
            "/health" => not_ready(&format!(r#"{{"health":"false","reason":"{REPLAYING}"}}"#)),
            "/metrics" => {
                let nothing = (NodeStatus::default(), StateFigures::default());
                let render = || self.metrics.scrape(&nothing.0, &nothing.1);
                scrape::answer(&self.metrics.scrapes, headers, render)
            }
            _ => error(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }
}

impl Answers for Doorstep {
    async fn answer(&self, _: Content, request: Request<Incoming>) -> http::Response<Answer> {
        match self.inside.get() {
            Some(pages) => ask(pages.clone(), request).await,
            None => self
                .alone(request.method(), request.uri().path(), request.headers())
                .map(|page| Body::new(page).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_member_that_replays_its_log_is_alive_and_not_ready() {
        let doorstep = Doorstep::new(&Arc::new(Metrics::new()));
        let ask = |method, path| doorstep.alone(&method, path, &HeaderMap::new()).status().as_u16();
        let status = |path| ask(Method::GET, path);
        assert_eq!([status("/livez"), status("/metrics")], [200, 200]);
        assert_eq!([status("/readyz"), status("/health"), status("/version")], [503, 503, 404]);
        assert_eq!(ask(Method::POST, "/livez"), 405);
    }
}
