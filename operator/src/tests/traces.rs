//! What a collector is told of a pass.

use serde_json::json;
use tracing_subscriber::layer::SubscriberExt;

use super::fake_api::FakeApi;
use super::fake_members::FakeMembers;
use super::passes::{keeper, key, put};
use crate::plan::plan;

/// More spans than one pass has.
const SPANS_MAX: usize = 256;

#[tokio::test]
async fn a_pass_is_one_trace_of_its_looks_and_its_steps() {
    let (tracer, mut spans) = otlp::Tracer::to_queue(otlp::MILLION, SPANS_MAX);
    // While there is one subscriber only, whoever meets a span first decides for all threads whether
    // anybody wants it: another test, which has none, would say no.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let subscriber = tracing_subscriber::registry().with(otlp::layer(&tracer, otlp::MILLION));
    let _traced = tracing::subscriber::set_default(subscriber);
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    put(&api, &json!({ "replicas": 3 }));
    let keeper = keeper(&api, &members, plan);
    keeper.counted_pass(&key()).await.expect("a pass");

    let mut seen = Vec::new();
    while let Ok(span) = spans.try_recv() {
        seen.push(span);
    }
    let root = seen.last().expect("the pass ends last");
    assert_eq!(root.name, "reconcile");
    let of = |span: &opentelemetry_sdk::trace::SpanData, key: &str| {
        let found = span.attributes.iter().find(|it| it.key.as_str() == key);
        found.map(|it| it.value.to_string())
    };
    assert_eq!(of(root, "metastore").as_deref(), Some("ns/demo"));
    let (below, steps) = (&seen[..seen.len() - 1], api.writes().len());
    assert!(steps > 0 && !below.is_empty());
    for span in below {
        assert_eq!(span.parent_span_id, root.span_context.span_id(), "{}", span.name);
        assert_eq!(span.span_context.trace_id(), root.span_context.trace_id());
        assert!(root.start_time <= span.start_time && span.end_time <= root.end_time);
    }
    assert_eq!(below[0].name, "observe");
    let acts: Vec<_> = below.iter().filter(|span| span.name == "act").collect();
    assert!(!acts.is_empty());
    assert!(acts.iter().all(|act| of(act, "step").is_some()));
}
