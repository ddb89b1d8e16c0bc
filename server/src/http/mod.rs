//! Plain HTTP beside gRPC: health for probes, the version, the metrics, before and after the log has
//! been replayed; and what the control socket answers. (The peer port has its own few.)
//!
//! Formats are etcd's to the byte, trailing newlines and their absence included, since probes and
//! scripts compare them.

mod control;
mod doorstep;
mod health;
mod scrape;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::any;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::json;

pub(crate) use control::{ASK_HAND_OVER, HandOverAnswer, router as control_router};
pub(crate) use doorstep::Doorstep;
pub(crate) use scrape::SCRAPES_MAX;

use crate::api::Shared;
use crate::door::Door;
use crate::metrics::StateFigures;
use crate::version::{ETCD_STORAGE_VERSION, ETCD_VERSION};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The pages of the client port.
pub fn client_router<D: Door>(shared: &Arc<Shared<D>>) -> Router {
    Router::new()
        .route("/version", any(version::<D>))
        .merge(metrics_router_without_state())
        .merge(health::router())
        .fallback(not_found)
        .with_state(Arc::clone(shared))
}

/// The pages of `--listen-metrics-urls`.
pub fn metrics_router<D: Door>(shared: &Arc<Shared<D>>) -> Router {
    metrics_router_without_state()
        .merge(health::router())
        .fallback(not_found)
        .with_state(Arc::clone(shared))
}

fn metrics_router_without_state<D: Door>() -> Router<Arc<Shared<D>>> {
    Router::new().route("/metrics", any(metrics::<D>))
}

/// An answer with a status, a type and a body.
fn page(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An error as Go's `http.Error` writes it.
fn error(status: StatusCode, text: &str) -> Response {
    let mut response = page(status, TEXT, format!("{text}\n"));
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

async fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// Refuses everything but GET.
fn only_get(method: &Method) -> Option<Response> {
    if *method == Method::GET {
        return None;
    }
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    Some(response)
}

fn version_page<D: Door>(door: &D) -> Response {
    let view = door.view();
    let cluster = view.cluster_version().unwrap_or("not_decided");
    // In etcd's order, which a JSON object made from a map would not keep.
    let (server, cluster) = (json!(ETCD_VERSION), json!(cluster));
    let storage = json!(ETCD_STORAGE_VERSION);
    let body = format!(r#"{{"etcdserver":{server},"etcdcluster":{cluster},"storage":{storage}}}"#);
    page(StatusCode::OK, JSON, body)
}

async fn version<D: Door>(State(shared): State<Arc<Shared<D>>>, method: Method) -> Response {
    only_get(&method).unwrap_or_else(|| version_page(&shared.door))
}

async fn metrics<D: Door>(
    State(shared): State<Arc<Shared<D>>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = only_get(&method) {
        return refused;
    }
    scrape::answer(&shared.metrics.scrapes, &headers, || {
        let view = shared.door.view();
        let figures = StateFigures {
            keys: view.keys_total() as u64,
            revision: view.revision(),
            compact_revision: view.compact_revision(),
            quota_bytes: shared.settings.quota_bytes,
            alarms: view.alarms().iter().map(|alarm| (alarm.member_id, alarm.alarm())).collect(),
        };
        shared.metrics.scrape(&shared.door.status(), &figures)
    })
}

#[cfg(test)]
mod tests;
