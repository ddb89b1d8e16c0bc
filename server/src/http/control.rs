//! What the socket in the data directory answers: `metastore pre-stop`, which has no certificate and
//! needs none, since the socket is for whoever may read the data directory anyway (docs/adr/0006).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use axum::routing::post;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{JSON, error, health, not_found, page};
use crate::api::Shared;
use crate::door::Door;
use crate::shutdown::{HandedOver, hand_over};

/// The page that hands the leadership over; `?timeout_ms=` bounds it.
pub(crate) const ASK_HAND_OVER: &str = "/leadership/hand-over";
/// Longest wait for a hand-over.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Between two attempts at one.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(100);

/// How a hand-over went.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandOverAnswer {
    /// In a few words, for people.
    pub(crate) outcome: String,
}

pub(crate) fn router<D: Door>(shared: &Arc<Shared<D>>) -> Router {
    Router::new()
        .route(ASK_HAND_OVER, post(hand_over_page::<D>))
        .merge(health::router())
        .fallback(not_found)
        .with_state(Arc::clone(shared))
}

/// Whoever could take the leadership may be away for a moment only.
async fn hand_over_patiently<D: Door>(door: &D, timeout: Duration) -> Result<HandedOver, String> {
    let deadline = Instant::now() + timeout;
    loop {
        let outcome = hand_over(door, deadline.saturating_duration_since(Instant::now())).await;
        if outcome.is_ok() || Instant::now() + HAND_OVER_PAUSE >= deadline {
            return outcome;
        }
        tokio::time::sleep(HAND_OVER_PAUSE).await;
    }
}

async fn hand_over_page<D: Door>(
    State(shared): State<Arc<Shared<D>>>,
    RawQuery(query): RawQuery,
) -> Response {
    let timeout_ms = query.as_deref().and_then(|query| query.strip_prefix("timeout_ms="));
    let Some(timeout_ms) = timeout_ms.and_then(|text| text.parse().ok()) else {
        return error(StatusCode::BAD_REQUEST, "?timeout_ms= is missing");
    };
    let timeout = Duration::from_millis(timeout_ms).min(TIMEOUT_MAX);
    let (status, outcome) = match hand_over_patiently(&shared.door, timeout).await {
        Ok(HandedOver::NotLeader) => (StatusCode::OK, "this member does not lead".to_owned()),
        Ok(HandedOver::NobodyElse) => (StatusCode::OK, "there is no other voter".to_owned()),
        Ok(HandedOver::To(to)) => (StatusCode::OK, format!("member {to:x} leads now")),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let answer = serde_json::to_string(&HandOverAnswer { outcome }).unwrap_or_default();
    page(status, JSON, answer)
}
