//! Spans on their way to a collector, for members and operator alike.
//!
//! Three decisions are made here. *Which traces are taken*: as etcd does it, those whose caller takes
//! them ([`Context`]), and of those that begin here a share, by trace id. *What a span is*: begin and
//! end are facts handed over when both are known ([`Tracer::emit`]), so that a span may begin on one
//! thread and end on another, and nothing is entered, held or looked up in between. *What tracing may
//! cost*: a span is put into a queue of a known length and forgotten; where no collector takes them,
//! spans are dropped and counted, and a warning says so once a minute.
//!
//! The queue is emptied by a thread of its own with a runtime of its own, over gRPC or HTTP. What the
//! OpenTelemetry specification says of `OTEL_EXPORTER_OTLP_*`, `OTEL_BSP_*` and
//! `OTEL_RESOURCE_ATTRIBUTES` holds where nothing else was given.

mod context;
mod export;
mod layer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, SpanId};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use prometheus::{IntCounter, IntCounterVec, Opts};
use tokio::sync::mpsc;

pub use context::Context;
pub use export::{Exporting, unread_variables};
pub use layer::{COLD, context_of, layer};
pub use opentelemetry;

/// A share is given in millionths.
pub const MILLION: u32 = 1_000_000;

/// How spans travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1.
    Http,
}

impl Protocol {
    /// By its name in the specification; `None`: another name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "grpc" => Some(Self::Grpc),
            "http/protobuf" => Some(Self::Http),
            _ => None,
        }
    }
}

/// Where spans go, whose they are and how many are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` or a URL; `None`: where `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin say.
    pub address: Option<String>,
    /// How they travel; `None`: as `OTEL_EXPORTER_OTLP_PROTOCOL` says, else gRPC.
    pub protocol: Option<Protocol>,
    /// `service.name`; `None`: as `OTEL_SERVICE_NAME` says.
    pub service_name: Option<String>,
    /// `service.instance.id`; none: the resource has none.
    pub instance_id: Option<String>,
    /// Further attributes of the resource.
    pub attributes: Vec<(&'static str, String)>,
    /// Of the traces that begin here, how many in a million are taken. A caller that takes its trace
    /// is followed in any case.
    pub sampling_per_million: u32,
}

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Settings or variables are not understood.
    #[error("distributed tracing: {0}")]
    Settings(String),
    /// No thread could be started.
    #[error("distributed tracing: {0}")]
    Thread(#[from] std::io::Error),
}

/// Takes spans. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Core>);

#[derive(Debug)]
struct Core {
    queue: mpsc::Sender<SpanData>,
    /// A trace that begins here is taken if the lower 63 bits of its id are less.
    sampled_below: u64,
    scope: InstrumentationScope,
    dropped: IntCounterVec,
    dropped_full: IntCounter,
    dropped_refused: IntCounter,
    exported: IntCounter,
    /// When a warning was last given, in seconds since 1970.
    /// When either reason was last told.
    warned_s: [AtomicU64; 2],
}

/// A span whose begin and end are known.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its own name and place.
    pub context: Context,
    /// The span it belongs under; `None`: it is the root.
    pub parent: Option<Context>,
    /// What it is called.
    pub name: &'static str,
    /// Which side of a call it is.
    pub kind: SpanKind,
    /// When it began.
    pub start: SystemTime,
    /// When it was over. Taken for `start` if earlier, for clocks may be set back.
    pub end: SystemTime,
    /// What else is known.
    pub attributes: Vec<KeyValue>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Span {
    /// A span inside a program.
    pub fn new(
        context: Context,
        parent: Option<Context>,
        name: &'static str,
        (start, end): (SystemTime, SystemTime),
    ) -> Self {
        let (kind, attributes, error) = (SpanKind::Internal, Vec::new(), None);
        Span { context, parent, name, kind, start, end, attributes, error }
    }

    /// With one attribute more.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<opentelemetry::Value>) -> Self {
        self.attributes.push(KeyValue::new(key, value));
        self
    }
}

impl Tracer {
    /// Begins to take spans and to hand them over. Nothing has been connected to yet: a collector may
    /// come, go and come back.
    pub fn start(settings: &Settings) -> Result<(Tracer, Exporting), TraceError> {
        let limits = export::Limits::of_environment();
        let exporter = export::Exporter::new(settings, &limits)?;
        let (queue, spans) = mpsc::channel(limits.queue_max);
        let tracer = Tracer::over(queue, settings.sampling_per_million);
        let exporting = export::start(&exporter, limits, spans, tracer.clone(), settings)?;
        Ok((tracer, exporting))
    }

    fn over(queue: mpsc::Sender<SpanData>, sampling_per_million: u32) -> Tracer {
        let dropped = IntCounterVec::new(
            Opts::new(
                "metastore_trace_spans_dropped_total",
                "Spans that were not handed over: no room in the queue, or the collector did not take them.",
            ),
            &["reason"],
        );
        let dropped = dropped.unwrap_or_else(|why| panic!("a valid name: {why}"));
        let exported = IntCounter::new(
            "metastore_trace_spans_exported_total",
            "Spans the collector has taken.",
        );
        let share = u128::from(sampling_per_million.min(MILLION));
        let sampled_below = ((share << 63) / u128::from(MILLION)) as u64;
        Tracer(Arc::new(Core {
            queue,
            sampled_below,
            scope: InstrumentationScope::builder("metastore")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            dropped_full: dropped.with_label_values(&["queue"]),
            dropped_refused: dropped.with_label_values(&["collector"]),
            dropped,
            exported: exported.unwrap_or_else(|why| panic!("a valid name: {why}")),
            warned_s: [const { AtomicU64::new(0) }; 2],
        }))
    }

    /// A tracer whose spans end in the returned queue, for tests.
    pub fn to_queue(
        sampling_per_million: u32,
        spans_max: usize,
    ) -> (Tracer, mpsc::Receiver<SpanData>) {
        let (queue, spans) = mpsc::channel(spans_max);
        (Tracer::over(queue, sampling_per_million), spans)
    }

    /// The place of a new span: under the caller's, if the caller takes its trace, or at the root of a
    /// trace that is taken by lot. `None`: it is not to be traced.
    pub fn begin(&self, caller: Option<Option<Context>>) -> Option<Context> {
        match caller {
            Some(taken) => taken.map(Context::child),
            None => Context::root_below(self.0.sampled_below),
        }
    }

    /// The root of a trace of something rare, which is taken unless no trace may begin here.
    pub fn begin_rare(&self) -> Option<Context> {
        (self.0.sampled_below > 0).then(Context::root)
    }

    /// Hands a span over. Never waits: without room it is dropped.
    pub fn emit(&self, span: Span) {
        let Span { context, parent, name, kind, start, end, attributes, error } = span;
        let span = SpanData {
            span_context: SpanContext::new(
                context.trace_id,
                context.span_id,
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.span_id),
            parent_span_is_remote: parent.is_some_and(|parent| parent.is_remote),
            span_kind: kind,
            name: name.into(),
            start_time: start,
            end_time: end.max(start),
            attributes,
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.0.scope.clone(),
        };
        self.put(span);
    }

    fn put(&self, span: SpanData) {
        if self.0.queue.try_send(span).is_err() {
            self.0.dropped_full.inc();
            self.warn(0, "spans come faster than they are handed over");
        }
    }

    /// What a registry of metrics takes.
    pub fn collectors(&self) -> Vec<Box<dyn prometheus::core::Collector>> {
        vec![Box::new(self.0.dropped.clone()), Box::new(self.0.exported.clone())]
    }

    /// Spans dropped so far, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.0.dropped_full.get() + self.0.dropped_refused.get()
    }

    fn handed_over(&self, spans: usize) {
        self.0.exported.inc_by(spans as u64);
    }

    fn refused(&self, spans: usize, why: &str) {
        self.0.dropped_refused.inc_by(spans as u64);
        self.warn(1, why);
    }

    /// Once a minute for each of two reasons: a collector that is away is no reason to fill the log,
    /// nor is the queue it leaves full one to say nothing of it.
    fn warn(&self, reason: usize, why: &str) {
        const INTERVAL_S: u64 = 60;
        let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_s = now_s.unwrap_or(Duration::ZERO).as_secs();
        let warned = &self.0.warned_s[reason];
        let warned_s = warned.load(Ordering::Relaxed);
        let is_due = now_s >= warned_s + INTERVAL_S;
        let relaxed = Ordering::Relaxed;
        let took = || warned.compare_exchange(warned_s, now_s, relaxed, relaxed).is_ok();
        if is_due && took() {
            tracing::warn!(dropped_total = self.dropped(), "spans are dropped: {why}");
        }
    }
}

fn resource(settings: &Settings) -> Resource {
    let mut resource = Resource::builder();
    if let Some(name) = &settings.service_name {
        resource = resource.with_service_name(name.clone());
    }
    if let Some(id) = &settings.instance_id {
        resource = resource.with_attribute(KeyValue::new("service.instance.id", id.clone()));
    }
    let further = settings.attributes.iter().map(|(key, value)| KeyValue::new(*key, value.clone()));
    resource.with_attributes(further).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn span(tracer: &Tracer, error: Option<&str>) -> Span {
        let context = tracer.begin(None).expect("all are taken");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        let before = SystemTime::UNIX_EPOCH;
        let mut span = Span::new(context, None, "test", (at, before)).with("key", 1);
        span.error = error.map(str::to_owned);
        span
    }

    #[test]
    fn a_full_queue_drops_what_comes_and_counts_it() {
        let (tracer, mut spans) = Tracer::to_queue(MILLION, 2);
        for _ in 0..5 {
            tracer.emit(span(&tracer, None));
        }
        assert_eq!(tracer.dropped(), 3);
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok());
        assert!(spans.try_recv().is_err());
    }

    #[test]
    fn a_span_does_not_end_before_it_began() {
        let (tracer, mut spans) = Tracer::to_queue(MILLION, 2);
        tracer.emit(span(&tracer, Some("no")));
        let span = spans.try_recv().expect("a span");
        assert_eq!(span.start_time, span.end_time);
        assert_eq!(span.status, Status::error("no"));
    }

    #[test]
    fn the_caller_decides_where_there_is_one() {
        for share in [0, MILLION] {
            let (tracer, _spans) = Tracer::to_queue(share, 1);
            assert_eq!(tracer.begin(Some(None)), None, "the caller does not take its trace");
            let caller = Context::root();
            let taken = tracer.begin(Some(Some(caller))).expect("the caller takes its trace");
            assert_eq!(taken.trace_id, caller.trace_id);
            assert_ne!(taken.span_id, caller.span_id);
            assert_eq!(tracer.begin(None).is_some(), share > 0);
            assert_eq!(tracer.begin_rare().is_some(), share > 0);
        }
    }

    #[test]
    fn about_as_many_traces_begin_as_were_asked_for() {
        let (tracer, _spans) = Tracer::to_queue(MILLION / 4, 1);
        let taken = (0..40_000).filter(|_| tracer.begin(None).is_some()).count();
        // Twenty standard deviations.
        assert!((8_300..11_700).contains(&taken), "{taken}");
    }
}
