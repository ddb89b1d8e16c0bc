//! Spans of `tracing` on the same way as all others: for what is rare and long, a reconcile or a
//! snapshot, where to enter a span costs nothing that counts.

use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::{Context, Tracer};

/// Spans of this target are handed over, and no others.
pub const COLD: &str = "trace";

/// Hands spans of the target [`COLD`] over. They are never lines of the log.
pub fn layer<S>(tracer: &Tracer, sampling_per_million: u32) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let share = f64::from(sampling_per_million) / f64::from(crate::MILLION);
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_span_processor(Queue(tracer.clone()))
        .build();
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("metastore"))
        .with_location(false)
        .with_threads(false)
        .with_filter(FilterFn::new(|metadata| metadata.is_span() && metadata.target() == COLD))
}

/// Where a span of [`COLD`] stands. `None`: it is not taken, or nothing is traced.
pub fn context_of(span: &tracing::Span) -> Option<Context> {
    let held = span.context();
    let span = held.span();
    let said = span.span_context();
    (said.is_valid() && said.is_sampled()).then(|| Context {
        trace_id: said.trace_id(),
        span_id: said.span_id(),
        is_remote: said.is_remote(),
    })
}

/// The queue, as the library sees it. The resource is the exporter's.
#[derive(Debug)]
struct Queue(Tracer);

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.put(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::MILLION;

    #[test]
    fn spans_of_the_target_are_handed_over_with_their_parents_and_others_are_not() {
        let (tracer, mut spans) = Tracer::to_queue(MILLION, 8);
        let subscriber = tracing_subscriber::registry().with(layer(&tracer, MILLION));
        tracing::subscriber::with_default(subscriber, || {
            let outer = tracing::info_span!(target: COLD, "outer").entered();
            assert!(context_of(&outer).is_some());
            tracing::info_span!("of another target").in_scope(|| {
                tracing::info_span!(target: COLD, "inner", index = 7).in_scope(|| ());
            });
            drop(outer);
        });
        let (inner, outer) = (spans.try_recv().unwrap(), spans.try_recv().unwrap());
        assert_eq!((inner.name.as_ref(), outer.name.as_ref()), ("inner", "outer"));
        assert_eq!(inner.parent_span_id, outer.span_context.span_id());
        assert!(spans.try_recv().is_err());
    }
}
