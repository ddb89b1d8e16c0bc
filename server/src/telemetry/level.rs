//! Which lines are wanted. The level can be told otherwise while the member runs.

use std::sync::atomic::{AtomicU8, Ordering};

use tracing::subscriber::Interest;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter};

use crate::config::LogLevel;

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);

/// The least severe level that is logged.
pub fn level() -> LogLevel {
    let held = LEVEL.load(Ordering::Relaxed);
    LogLevel::ALL.into_iter().find(|level| *level as u8 == held).unwrap_or(LogLevel::Info)
}

/// From now on this is it.
pub fn set_level(level: LogLevel) {
    if LEVEL.swap(level as u8, Ordering::Relaxed) != level as u8 {
        // Whether a line is wanted is asked once for each place in the code, until now.
        tracing::callsite::rebuild_interest_cache();
    }
}

fn max() -> LevelFilter {
    match level() {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    }
}

/// Lines of the level, and of libraries only warnings: their debug lines are about their own insides.
pub(super) struct Wanted;

impl Wanted {
    fn wants(metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_ours = ["server", "metastore", "member", "consensus", "state", "wal", "otlp"]
            .iter()
            .filter_map(|name| target.strip_prefix(name))
            .any(|rest| rest.is_empty() || rest.starts_with("::"));
        metadata.is_event()
            && *metadata.level() <= max()
            && (is_ours || *metadata.level() <= Level::WARN)
    }
}

impl<S> Filter<S> for Wanted {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        Self::wants(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(max())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use tracing::{Event, Subscriber};
    use tracing_subscriber::layer::{Layer, SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Counting(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Counting {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_level_holds_from_the_moment_it_is_told() {
        let counting = Counting::default();
        let count = || counting.0.swap(0, Ordering::Relaxed);
        let subscriber = tracing_subscriber::registry().with(counting.clone().with_filter(Wanted));
        let speak = || {
            tracing::error!("error");
            tracing::info!("info");
            tracing::debug!("debug");
            tracing::info!(target: "hyper", "of a library");
            tracing::warn!(target: "hyper", "of a library");
        };
        tracing::subscriber::with_default(subscriber, || {
            for (level, lines) in [
                (LogLevel::Info, 3),
                (LogLevel::Debug, 4),
                (LogLevel::Error, 1),
                (LogLevel::Warn, 2),
            ] {
                set_level(level);
                assert_eq!(super::level(), level);
                speak();
                assert_eq!(count(), lines, "{level:?}");
            }
        });
        set_level(LogLevel::Info);
    }
}
