//! Metrics and health, over plain HTTP.
//!
//! * `/healthz` is about this process alone: no pass hangs. It says nothing about the API server, or
//!   every operator would be restarted when that is away.
//! * `/readyz` tells whether the operator would do its work: the API server answers, the definition is
//!   there, and it either watches or stands by without the lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// A pass that takes longer hangs: every call within it has a deadline of its own.
const PASS_HANGS_AFTER: Duration = Duration::from_secs(600);

/// How far the start has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Has not reached the API server yet.
    #[default]
    Starting,
    /// Waits, and says for what: the API server, the definition.
    Waiting(String),
    /// Somebody else holds the lease.
    StandingBy,
    /// Keeps clusters.
    Working,
}

/// What the two answers are made of.
#[derive(Debug, Default)]
pub(crate) struct Health {
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    phase: Phase,
    passes: BTreeMap<u64, Instant>,
    next_pass: u64,
}

/// A pass under way; it ends when this is dropped.
pub(crate) struct PassUnderWay<'a> {
    health: &'a Health,
    number: u64,
}

impl Drop for PassUnderWay<'_> {
    fn drop(&mut self) {
        self.health.with(|inside| inside.passes.remove(&self.number));
    }
}

impl Health {
    fn with<T>(&self, f: impl FnOnce(&mut Inside) -> T) -> T {
        f(&mut self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on so far.
    pub(crate) fn enter(&self, phase: Phase) {
        self.with(|inside| inside.phase = phase);
    }

    /// A pass begins.
    pub(crate) fn pass(&self) -> PassUnderWay<'_> {
        let number = self.with(|inside| {
            inside.next_pass += 1;
            inside.passes.insert(inside.next_pass, Instant::now());
            inside.next_pass
        });
        PassUnderWay { health: self, number }
    }

    fn live(&self, now: Instant) -> Result<(), String> {
        let oldest = self.with(|inside| inside.passes.values().min().copied());
        match oldest.map(|began| now.saturating_duration_since(began)) {
            Some(age) if age > PASS_HANGS_AFTER => {
                Err(format!("a pass has been under way for {} s", age.as_secs()))
            }
            _ => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        match self.with(|inside| inside.phase.clone()) {
            Phase::StandingBy | Phase::Working => Ok(()),
            Phase::Starting => Err("starting".to_owned()),
            Phase::Waiting(what) => Err(what),
        }
    }
}

/// What is served.
#[derive(Clone)]
pub(crate) struct Site {
    /// For `/metrics`.
    pub(crate) metrics: Arc<Metrics>,
    /// For the rest.
    pub(crate) health: Arc<Health>,
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, site: Site) -> std::io::Result<()> {
    axum::serve(listener, router(site)).await
}

fn router(site: Site) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route(
            "/healthz",
            get(|State(site): State<Site>| async move { say(site.health.live(Instant::now())) }),
        )
        .route("/readyz", get(|State(site): State<Site>| async move { say(site.health.ready()) }))
        .with_state(site)
}

async fn metrics(State(site): State<Site>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], site.metrics.text())
}

fn say(answer: Result<(), String>) -> (StatusCode, String) {
    match answer {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_by_is_ready_and_waiting_for_the_definition_is_not() {
        let health = Health::default();
        assert_eq!(health.ready(), Err("starting".to_owned()));
        health.enter(Phase::Waiting("the definition is not there".to_owned()));
        assert!(health.ready().unwrap_err().contains("definition"));
        for phase in [Phase::StandingBy, Phase::Working] {
            health.enter(phase);
            assert_eq!(health.ready(), Ok(()));
        }
    }

    #[test]
    fn only_a_pass_that_hangs_is_unhealthy() {
        let health = Health::default();
        let later = Instant::now() + PASS_HANGS_AFTER + Duration::from_secs(5);
        assert_eq!(health.live(later), Ok(()));
        let pass = health.pass();
        assert_eq!(health.live(Instant::now()), Ok(()));
        assert!(health.live(later).is_err());
        drop(pass);
        assert_eq!(health.live(later), Ok(()));
    }
}
