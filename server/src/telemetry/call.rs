//! One call through the api, as a span: from its headers to its answer.
//!
//! What a call does on its way finds the call by the task it runs in. Only calls that are traced have
//! such a place; for all others [`current`] is a look at a flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use http::HeaderMap;
use otlp::opentelemetry::trace::SpanKind;
use otlp::{Context, Span};
use tonic::Code;

tokio::task_local! {
    static CALL: Arc<TracedCall>;
}

/// A call whose trace is taken.
#[derive(Debug)]
pub(crate) struct TracedCall {
    context: Context,
    caller: Option<Context>,
    start: SystemTime,
    /// Length of the key that is asked about, plus one; 0: none is.
    key_bytes: AtomicU64,
}

/// A call begins. `None`: it is not traced.
pub(crate) fn begin(headers: &HeaderMap) -> Option<Arc<TracedCall>> {
    let tracer = super::tracer()?;
    let caller = Context::of_headers(headers);
    let context = tracer.begin(caller)?;
    let (start, key_bytes) = (SystemTime::now(), AtomicU64::new(0));
    Some(Arc::new(TracedCall { context, caller: caller.flatten(), start, key_bytes }))
}

/// Where the call that runs here stands, if it is traced.
pub(crate) fn current() -> Option<Context> {
    super::tracer()?;
    CALL.try_with(|call| call.context).ok()
}

/// The call that runs here is about this key.
pub(crate) fn note_key(key: &[u8]) {
    if super::tracer().is_some() {
        let note = |call: &Arc<TracedCall>| {
            call.key_bytes.store(key.len() as u64 + 1, Ordering::Relaxed);
        };
        // A task of the member's own is no call.
        let _ = CALL.try_with(note);
    }
}

/// Something the call that runs here has waited for since `start`, and now has.
pub(crate) fn note_wait(call: Context, name: &'static str, start: SystemTime, index: Option<u64>) {
    let Some(tracer) = super::tracer() else { return };
    let mut span = Span::new(call.child(), Some(call), name, (start, SystemTime::now()));
    if let Some(index) = index {
        span = span.with("metastore.raft.index", index.cast_signed());
    }
    tracer.emit(span);
}

/// Something rare is over: a span under the call that runs here, else a trace of its own.
pub(crate) fn note_rare(span: impl FnOnce(Context, Option<Context>) -> Span) {
    let Some(tracer) = super::tracer() else { return };
    let call = current();
    if let Some(context) = call.map(Context::child).or_else(|| tracer.begin_rare()) {
        tracer.emit(span(context, call));
    }
}

/// Something rare that the member did by itself is over: a trace of its own.
pub(crate) fn note_own(span: impl FnOnce(Context) -> Span) {
    let Some(tracer) = super::tracer() else { return };
    if let Some(context) = tracer.begin_rare() {
        tracer.emit(span(context));
    }
}

impl TracedCall {
    /// Everything in `call` finds this.
    pub(crate) async fn follow<F: Future>(self: Arc<Self>, call: F) -> F::Output {
        CALL.scope(self, call).await
    }

    /// The call to `path` is over.
    pub(crate) fn finish(&self, path: &'static str, code: Code) {
        let Some(tracer) = super::tracer() else { return };
        let name = path.trim_start_matches('/');
        let (service, method) = name.split_once('/').unwrap_or_default();
        let span = Span::new(self.context, self.caller, name, (self.start, SystemTime::now()));
        let mut span = Span { kind: SpanKind::Server, ..span }
            .with("rpc.system", "grpc")
            .with("rpc.service", service)
            .with("rpc.method", method)
            .with("rpc.grpc.status_code", i64::from(code as i32));
        if let Some(bytes) = self.key_bytes.load(Ordering::Relaxed).checked_sub(1) {
            span = span.with("metastore.key.bytes", bytes.cast_signed());
        }
        // Of the others the client is the cause, by the conventions for servers.
        let is_own = matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        );
        span.error = is_own.then(|| format!("{code:?}"));
        tracer.emit(span);
    }
}
