//! Log lines on standard error.

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogLevel};

/// Installs the log of this process.
pub(crate) fn install(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    let filter = FilterFn::new(is_wanted).with_max_level_hint(level);
    // A second call in one process keeps the first log; only tests do that.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter).with_filter(level))
        .try_init();
}

/// Libraries speak up from warnings on; their debug lines are about their own insides.
fn is_wanted(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("operator") || *metadata.level() <= Level::WARN
}
