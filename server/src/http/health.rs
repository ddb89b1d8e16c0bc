//! `/health`, `/livez` and `/readyz`.
//!
//! `/livez` asks this member alone, so that a cluster without a leader does not get all its members
//! restarted: it fails only when the raft thread hangs. `/readyz` asks whether the cluster answers
//! through this member: a leader is known and this member has applied what was committed when it was
//! asked. `/health` is etcd's older page with an answer in JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use axum::routing::any;
use http::{HeaderValue, Method, StatusCode, header};
use proto::etcdserverpb::AlarmType;
use serde_json::json;

use super::{TEXT, error, only_get, page};
use crate::api::Shared;
use crate::door::{Door, RequestError};

/// The raft thread hangs if it comes round so much later than it meant to. It waits for no disk, so
/// this is no slow disk; a machine that stood still for less is given time.
const RAFT_OVERDUE_MAX: Duration = Duration::from_secs(30);

/// One thing that can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    /// Makes the check.
    async fn run<D: Door>(self, shared: &Shared<D>) -> Result<(), String> {
        let door = &shared.door;
        match self {
            Self::DataCorruption if door.view().is_alarmed(AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Self::NonLearner if door.leadership().is_learner => {
                Err(String::from("not supported for learner"))
            }
            Self::LinearizableRead => linearizable_read(shared).await,
            // A view is always at hand; what can hang is the thread that keeps it moving.
            Self::SerializableRead => match door.raft_overdue() {
                overdue if overdue > RAFT_OVERDUE_MAX => {
                    Err(format!("the raft thread has not moved for {} s", overdue.as_secs()))
                }
                _ => Ok(()),
            },
            Self::DataCorruption | Self::NonLearner => Ok(()),
        }
    }
}

async fn linearizable_read<D: Door>(shared: &Shared<D>) -> Result<(), String> {
    let read = shared.door.linearizable_view();
    match tokio::time::timeout(shared.settings.request_timeout, read).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(RequestError::Timeout.to_string()),
    }
}

const LIVEZ: (&str, &[Check]) = ("livez", &[Check::SerializableRead]);
const READYZ: (&str, &[Check]) = (
    "readyz",
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner],
);

pub(super) fn router<D: Door>() -> Router<Arc<Shared<D>>> {
    let mut router = Router::new().route("/health", any(health::<D>));
    for (kind, checks) in [LIVEZ, READYZ] {
        let whole = move |State(shared): State<Arc<Shared<D>>>, method, RawQuery(query)| async move {
            let query = Query::parse(query.as_deref());
            answer(&shared, &method, kind, checks, &query).await
        };
        router = router.route(&format!("/{kind}"), any(whole));
        for check in checks {
            let one = move |State(shared): State<Arc<Shared<D>>>, method, RawQuery(query)| async move {
                let query = Query { excluded: Vec::new(), ..Query::parse(query.as_deref()) };
                answer(&shared, &method, kind, std::slice::from_ref(check), &query).await
            };
            router = router.route(&format!("/{kind}/{}", check.name()), any(one));
        }
    }
    router
}

/// What may stand behind the question mark.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    excluded: Vec<String>,
    is_verbose: bool,
    is_serializable: bool,
}

impl Query {
    fn parse(query: Option<&str>) -> Self {
        let mut parsed = Self::default();
        for pair in query.unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "exclude" if !value.is_empty() => parsed.excluded.push(value.to_owned()),
                "verbose" => parsed.is_verbose = true,
                "serializable" => parsed.is_serializable = value == "true",
                _ => {}
            }
        }
        parsed
    }
}

async fn answer<D: Door>(
    shared: &Shared<D>,
    method: &Method,
    kind: &str,
    checks: &[Check],
    query: &Query,
) -> Response {
    if let Some(refused) = only_get(method) {
        return refused;
    }
    let (mut lines, mut is_well) = (String::new(), true);
    // An exclusion that names no check is no error: probes outlive versions.
    for check in checks.iter().filter(|check| !query.excluded.iter().any(|e| e == check.name())) {
        let name = check.name();
        let result = check.run(shared).await;
        let status = if result.is_ok() { "success" } else { "error" };
        shared.metrics.healthcheck.with_label_values(&[kind, name]).set(result.is_ok().into());
        shared.metrics.healthchecks.with_label_values(&[kind, name, status]).inc();
        match result {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                is_well = false;
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    if !is_well {
        tracing::warn!(page = kind, reason = lines.trim_end(), "health check failed");
        return error(StatusCode::SERVICE_UNAVAILABLE, &lines);
    }
    let body = if query.is_verbose { lines + "ok\n" } else { "ok\n".to_owned() };
    let mut response = page(StatusCode::OK, TEXT, body);
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

async fn health<D: Door>(
    State(shared): State<Arc<Shared<D>>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    if let Some(refused) = only_get(&method) {
        return refused;
    }
    let query = Query::parse(query.as_deref());
    match ill_health(&shared, &query).await {
        None => {
            shared.metrics.health_successes.inc();
            page(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#)
        }
        Some(reason) => {
            shared.metrics.health_failures.inc();
            tracing::warn!(reason, "serving /health false");
            let reason = json!(reason);
            let body = format!(r#"{{"health":"false","reason":{reason}}}"#);
            error(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// What is wrong, by etcd's words and in etcd's order.
async fn ill_health<D: Door>(shared: &Shared<D>, query: &Query) -> Option<String> {
    for alarm in shared.door.view().alarms() {
        let name = match AlarmType::try_from(alarm.alarm) {
            Ok(AlarmType::Nospace) => "NOSPACE",
            Ok(AlarmType::Corrupt) => "CORRUPT",
            _ => "UNKNOWN",
        };
        if !query.excluded.iter().any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if query.is_serializable {
        return None;
    }
    if shared.door.leadership().leader.is_none() {
        return Some("RAFT NO LEADER".to_owned());
    }
    linearizable_read(shared).await.err().map(|error| format!("RANGE ERROR:{error}"))
}
