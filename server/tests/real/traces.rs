//! A small collector of ours, over gRPC and HTTP, gets what members hand over: the whole trace of a put
//! across three members, and nothing that nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{PutRequest, RangeRequest, StatusRequest};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::cluster::{Cluster, Process, Setup, free_port, until};
use crate::manners::page;

/// A span, and the resource it came with.
#[derive(Clone, Debug)]
struct Seen {
    instance: String,
    service: String,
    span: Span,
}

impl Seen {
    fn attribute(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|it| it.key == key).and_then(|it| it.value.clone());
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// Takes whatever comes.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Seen>>>);

impl Collector {
    fn take(&self, request: ExportTraceServiceRequest) {
        let mut seen = self.0.lock().expect("unpoisoned");
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap_or_default().attributes;
            for span in of_resource.scope_spans.into_iter().flat_map(|it| it.spans) {
                let instance = text(&resource, "service.instance.id");
                seen.push(Seen { instance, service: text(&resource, "service.name"), span });
            }
        }
    }

    /// Over gRPC; its address.
    async fn listen_grpc(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address
    }

    /// Over HTTP; its address.
    async fn listen_http(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let collector = self.clone();
        let take = move |body: Bytes| async move {
            collector.take(ExportTraceServiceRequest::decode(body).expect("a request"));
            ExportTraceServiceResponse::default().encode_to_vec()
        };
        tokio::spawn(
            axum::serve(listener, Router::new().route("/v1/traces", post(take))).into_future(),
        );
        address
    }

    fn all(&self) -> Vec<Seen> {
        self.0.lock().expect("unpoisoned").clone()
    }

    /// The spans of a trace, once as many of each name have come as are expected.
    async fn trace(&self, trace_id: u128, expected: &[(&str, usize)]) -> Vec<Seen> {
        let expected: BTreeMap<_, _> = expected.iter().copied().collect();
        let of_trace = || {
            let trace_id = trace_id.to_be_bytes();
            self.all().into_iter().filter(move |seen| seen.span.trace_id == trace_id)
        };
        until("the whole trace", || async {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for seen in of_trace() {
                *counts.entry(seen.span.name.clone()).or_default() += 1;
            }
            let is_whole = expected.iter().all(|(name, count)| counts.get(*name) >= Some(count));
            is_whole.then(|| of_trace().collect())
        })
        .await
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn tracing_to(address: &str, rate: u32, more: &[&str]) -> Setup {
    let mut flags = vec![
        String::from("--enable-distributed-tracing"),
        format!("--distributed-tracing-address={address}"),
        String::from("--distributed-tracing-service-name=store"),
        String::from("--distributed-tracing-instance-id=of-{name}"),
        format!("--distributed-tracing-sampling-rate={rate}"),
    ];
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    let env = vec![("OTEL_BSP_SCHEDULE_DELAY", String::from("50"))];
    Setup { flags, env, ..Setup::default() }
}

async fn channel(member: &Process) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", member.endpoint())).expect("a URL");
    endpoint.connect().await.expect("connected")
}

/// A put whose caller takes its trace.
async fn put_traced(member: &Process, trace_id: u128, key: &str) {
    let mut request = Request::new(PutRequest {
        key: key.to_owned().into(),
        value: "secret".into(),
        ..PutRequest::default()
    });
    let traceparent = format!("00-{trace_id:032x}-{CALLER:016x}-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("ASCII"));
    KvClient::new(channel(member).await).put(request).await.expect("put");
}

/// The caller's own span.
const CALLER: u64 = 0xca11;

/// The leader first.
async fn by_role(cluster: &Cluster) -> Vec<&Process> {
    let mut members = Vec::new();
    for member in &cluster.members {
        let mut maintenance = MaintenanceClient::new(channel(member).await);
        let status = maintenance.status(StatusRequest::default()).await;
        let status = status.expect("a status").into_inner();
        let is_leader = status.header.expect("a header").member_id == status.leader;
        members.insert(if is_leader { 0 } else { members.len() }, member);
    }
    members
}

fn instance(member: &Process) -> String {
    let name = member.data_dir();
    format!("of-{}", name.file_name().expect("a name").to_string_lossy())
}

/// Parents, as `name@instance > name@instance`, and what must hold for the times of every span.
fn shape(trace: &[Seen]) -> BTreeSet<String> {
    let by_id: BTreeMap<_, _> = trace.iter().map(|seen| (&seen.span.span_id[..], seen)).collect();
    assert_eq!(by_id.len(), trace.len(), "no span comes twice");
    let shown = |seen: &Seen| format!("{}@{}", seen.span.name, seen.instance);
    let mut shape = BTreeSet::new();
    for seen in trace {
        let span = &seen.span;
        assert_eq!(seen.service, "store");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{seen:?}");
        if span.parent_span_id == CALLER.to_be_bytes() {
            shape.insert(format!("caller > {}", shown(seen)));
            continue;
        }
        let parent = by_id.get(&span.parent_span_id[..]);
        let parent = parent.unwrap_or_else(|| panic!("{seen:?} has no parent in {trace:#?}"));
        shape.insert(format!("{} > {}", shown(parent), shown(seen)));
        assert!(
            parent.span.start_time_unix_nano <= span.start_time_unix_nano,
            "{} began before {}: {seen:?} {parent:?}",
            shown(seen),
            shown(parent)
        );
        // A follower may be at it when the caller has long had its answer.
        if seen.instance == parent.instance && seen.span.name != "apply" {
            assert!(
                span.end_time_unix_nano <= parent.span.end_time_unix_nano,
                "{} ended after {}",
                shown(seen),
                shown(parent)
            );
        }
    }
    shape
}

fn expected(lines: &[&str], members: &[&Process]) -> BTreeSet<String> {
    let named = |line: &&str| {
        let mut line = (*line).to_owned();
        for (role, member) in ["L", "F", "G"].iter().zip(members) {
            line = line.replace(&format!("@{role}"), &format!("@{}", instance(member)));
        }
        line.replace("Put", "etcdserverpb.KV/Put")
    };
    lines.iter().map(named).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_across_three_members_is_one_trace_wherever_it_is_asked_for() {
    let collector = Collector::default();
    let address = collector.listen_grpc().await;
    // No trace begins here: what comes is what callers take.
    let cluster = Cluster::start_with(3, &tracing_to(&address, 0, &[]).calm()).await;
    cluster.accepts_writes().await;
    let members = by_role(&cluster).await;

    put_traced(members[0], 0xa, "four").await;
    let names = [("append", 2), ("log_sync", 3), ("apply", 3), ("replicate", 1), ("reply", 1)];
    let whole: Vec<_> = names
        .into_iter()
        .chain([("queue", 1), ("propose", 1), ("etcdserverpb.KV/Put", 1)])
        .collect();
    let trace = collector.trace(0xa, &whole).await;
    let lines = [
        "caller > Put@L",
        "Put@L > propose@L",
        "propose@L > queue@L",
        "propose@L > log_sync@L",
        "propose@L > replicate@L",
        "replicate@L > append@F",
        "append@F > log_sync@F",
        "replicate@L > apply@F",
        "replicate@L > append@G",
        "append@G > log_sync@G",
        "replicate@L > apply@G",
        "propose@L > apply@L",
        "propose@L > reply@L",
    ];
    assert_eq!(shape(&trace), expected(&lines, &members));
    let put = trace.iter().find(|seen| seen.span.name.ends_with("/Put")).expect("the call");
    assert_eq!(put.attribute("metastore.key.bytes"), "4");
    assert_eq!(put.attribute("rpc.grpc.status_code"), "0");
    assert_eq!(put.attribute("rpc.service"), "etcdserverpb.KV");
    let indices: BTreeSet<_> =
        trace.iter().map(|it| it.attribute("metastore.raft.index")).collect();
    assert_eq!(indices.len(), 2, "one index, or none: {indices:?}");

    put_traced(members[1], 0xb, "forwarded").await;
    let whole: Vec<_> = whole
        .into_iter()
        .filter(|(name, _)| *name != "queue")
        .chain([("queue", 2), ("lead", 1)])
        .collect();
    let trace = collector.trace(0xb, &whole).await;
    let lines = [
        "caller > Put@F",
        "Put@F > propose@F",
        "propose@F > queue@F",
        "propose@F > lead@L",
        "lead@L > queue@L",
        "lead@L > log_sync@L",
        "lead@L > replicate@L",
        "replicate@L > append@F",
        "append@F > log_sync@F",
        "propose@F > apply@F",
        "replicate@L > append@G",
        "append@G > log_sync@G",
        "replicate@L > apply@G",
        "lead@L > apply@L",
        "propose@F > reply@F",
    ];
    assert_eq!(shape(&trace), expected(&lines, &members));

    // Of all the other calls, and of what members do by themselves, nobody took a trace.
    let traces: BTreeSet<_> = collector.all().into_iter().map(|it| it.span.trace_id).collect();
    assert_eq!(traces.len(), 2);
    let all = format!("{:?}", collector.all());
    assert!(!all.contains("secret") && !all.contains("four"), "neither keys nor values are told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traces_begin_here_and_travel_over_http_and_lines_name_them() {
    let collector = Collector::default();
    let address = collector.listen_http().await;
    let more =
        ["--distributed-tracing-protocol=http/protobuf", "--warning-unary-request-duration=1ns"];
    let mut cluster = Cluster::start_with(1, &tracing_to(&address, 1_000_000, &more)).await;
    let mut kv = KvClient::new(channel(&cluster.members[0]).await);
    let get = RangeRequest { key: "k".into(), ..RangeRequest::default() };
    kv.range(get).await.expect("a range");
    let range = until("the trace of a range", || async {
        collector.all().into_iter().find(|it| it.span.name == "etcdserverpb.KV/Range")
    })
    .await;
    assert!(range.span.parent_span_id.is_empty(), "it begins here");
    let trace_id = u128::from_be_bytes(range.span.trace_id.clone().try_into().expect("16 bytes"));
    let trace = collector.trace(trace_id, &[("read_index", 1)]).await;
    assert!(trace.iter().any(|it| it.span.parent_span_id == range.span.span_id));

    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let is_about_it = |line: &&str| {
        line.contains("request took too long")
            && line.contains(&format!("\"trace-id\":\"{}\"", hex(&range.span.trace_id)))
            && line.contains(&format!("\"span-id\":\"{}\"", hex(&range.span.span_id)))
    };
    let lines = || cluster.members[0].said().lines().filter(is_about_it).count();
    until("its line", || async { (lines() > 0).then_some(()) }).await;
    assert_eq!(lines(), 1);
    // What is left is handed over at the end.
    let before = collector.all().len();
    kv.put(PutRequest { key: "k".into(), ..PutRequest::default() }).await.expect("put");
    assert_eq!(cluster.members[0].terminate(), Some(0));
    assert!(collector.all().len() > before);
    assert!(collector.all().iter().any(|it| it.span.name == "etcdserverpb.KV/Put"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let begun = std::time::Instant::now();
    let away = format!("127.0.0.1:{}", free_port());
    let cluster = Cluster::start_with(1, &tracing_to(&away, 1_000_000, &[])).await;
    cluster.accepts_writes().await;
    let member = &cluster.members[0];
    until("dropped spans to be counted", || async {
        let (_, text) = page(&member.endpoint(), "/metrics")?;
        let count = text.lines().find_map(|line| {
            line.strip_prefix("metastore_trace_spans_dropped_total{reason=\"collector\"} ")
        })?;
        (count.parse::<f64>().ok()? > 0.0).then_some(())
    })
    .await;
    let warnings = || member.said().matches("spans are dropped").count() as u64;
    until("a warning", || async { (warnings() > 0).then_some(()) }).await;
    cluster.accepts_writes().await;
    let minutes = begun.elapsed().as_secs() / 60;
    assert!(warnings() <= 1 + minutes, "once a minute, and not for each of them");
}
