//! Log lines on standard error, and a trace of each reconcile for whoever has a collector.
//!
//! A reconcile is a span with one under it for each look at the cluster and each step taken; lines
//! written meanwhile name them. SIGUSR1 turns the log to `debug`, and back.

use otlp::{COLD, Exporting, TraceError, Tracer};
use tracing::field::{Empty, display};
use tracing::{Level, Metadata, Span, info, info_span};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, LogFormat, LogLevel};

/// The log of this process.
pub(crate) struct Log {
    usual: LevelFilter,
    now: Handle<LevelFilter, Registry>,
}

impl Log {
    /// To `debug`, or back to what was asked for.
    pub(crate) fn toggle_debug(&self) {
        let mut to = self.usual;
        // Only a log that was never installed cannot be told: nobody reads it.
        let _ = self.now.modify(|level| {
            to = if *level == LevelFilter::DEBUG { self.usual } else { LevelFilter::DEBUG };
            *level = to;
        });
        info!(level = %to, "the level of the log was changed");
    }
}

/// What [`install`] leaves behind.
pub(crate) struct Telemetry {
    pub(crate) log: Log,
    pub(crate) tracer: Option<Tracer>,
    /// Hands over the last spans when it goes.
    pub(crate) _exporting: Option<Exporting>,
}

/// Installs log and traces of this process.
pub(crate) fn install(config: &Config) -> Result<Telemetry, TraceError> {
    let usual = match config.log_level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let (tracer, _exporting) = match &config.tracing {
        Some(settings) => {
            let (tracer, exporting) = Tracer::start(settings)?;
            (Some(tracer), Some(exporting))
        }
        None => (None, None),
    };
    let is_traced = tracer.is_some();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(is_traced)
            .boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    let (level, now) = reload::Layer::new(usual);
    let lines =
        lines.with_filter(FilterFn::new(move |it| is_wanted(it, is_traced))).with_filter(level);
    let share = config.tracing.as_ref().map_or(0, |settings| settings.sampling_per_million);
    let cold = tracer.as_ref().map(|tracer| otlp::layer(tracer, share));
    // A second call in one process keeps the first log; only tests do that.
    let _ = tracing_subscriber::registry().with(lines).with(cold).try_init();
    Ok(Telemetry { log: Log { usual, now }, tracer, _exporting })
}

/// Libraries speak up from warnings on; their debug lines are about their own insides. Spans are named
/// by lines where they lead to a trace.
fn is_wanted(metadata: &Metadata<'_>, is_traced: bool) -> bool {
    if metadata.is_span() {
        return is_traced && metadata.target() == COLD;
    }
    let is_ours = ["operator", "otlp"].iter().any(|name| metadata.target().starts_with(name));
    is_ours || *metadata.level() <= Level::WARN
}

/// One pass over one cluster.
pub(crate) fn reconcile(cluster: &str) -> Span {
    let span = info_span!(
        target: COLD,
        "reconcile",
        metastore = cluster,
        trace_id = Empty,
        span_id = Empty,
        otel.status_code = Empty,
        otel.status_description = Empty,
    );
    if let Some(context) = otlp::context_of(&span) {
        span.record("trace_id", display(context.trace_id));
        span.record("span_id", display(context.span_id));
    }
    span
}

/// How the pass went.
pub(crate) fn ended(span: &Span, error: Option<&impl std::fmt::Display>) {
    if let Some(error) = error {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", display(error));
    }
}
