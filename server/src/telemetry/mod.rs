//! What a member tells of itself while it runs, line by line and call by call.
//!
//! `log` writes lines; how many of them, `level` decides, and may be told otherwise while the
//! member runs. `call` follows one call through the api, `flight` one command through the queue,
//! the logs of all members, and apply (docs/adr/0020). Where tracing is off there is no tracer, and
//! every question about it ends at one look at a pointer that is null.

pub(crate) mod call;
pub(crate) mod flight;
mod level;
mod log;

use std::sync::OnceLock;

use otlp::{Exporting, Tracer};
use tracing_subscriber::layer::{Layer as _, SubscriberExt};

use crate::config::Config;

pub use level::{level, set_level};
pub use log::TelemetryError;

/// The tracer of this process, if it traces.
static TRACER: OnceLock<Tracer> = OnceLock::new();

pub(crate) fn tracer() -> Option<&'static Tracer> {
    TRACER.get()
}

/// Why there is no telemetry.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A log that cannot be written.
    #[error(transparent)]
    Log(#[from] TelemetryError),
    /// Traces that cannot be handed over.
    #[error(transparent)]
    Trace(#[from] otlp::TraceError),
}

/// Installs log and traces of this process. What is returned hands over the last spans when it goes.
pub fn install(config: &Config) -> Result<Option<Exporting>, InstallError> {
    let lines = log::Lines::open(&config.log_outputs, config.log_format)?;
    set_level(config.log_level);
    // A second call in one process keeps the first log; only tests do that.
    let Some(settings) = &config.tracing else {
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(level::Wanted));
        let _ = tracing::subscriber::set_global_default(subscriber);
        return Ok(None);
    };
    let (tracer, exporting) = Tracer::start(settings)?;
    let cold = otlp::layer(&tracer, settings.sampling_per_million);
    let subscriber =
        tracing_subscriber::registry().with(cold).with(lines.with_filter(level::Wanted));
    let _ = tracing::subscriber::set_global_default(subscriber);
    let _ = TRACER.set(tracer);
    tracing::info!(
        address = settings.address,
        service_name = settings.service_name,
        service_instance_id = settings.instance_id,
        sampling_rate = settings.sampling_per_million,
        "distributed tracing enabled"
    );
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let unread = otlp::unread_variables(names);
    if !unread.is_empty() {
        tracing::warn!(
            variables = unread.join(", "),
            "these mean nothing here; are they misspelt?"
        );
    }
    Ok(Some(exporting))
}
