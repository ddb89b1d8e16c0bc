//! The table of RPCs this member serves, and the numbers kept about each.
//!
//! Metrics are labelled by this table and not by what a client sends, so that nobody can fill the
//! registry with invented methods.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{Histogram, IntCounter};
use tonic::Code;

use crate::metrics::{Metrics, Request, Requests, catalogue};

/// The service a method belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Kv,
    Watch,
    Lease,
    Cluster,
    Maintenance,
    Auth,
    Health,
    Admin,
}

/// How many messages go which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// A method that is served without tonic's machinery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    Put,
    Range,
    DeleteRange,
    Txn,
}

/// One RPC.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) path: &'static str,
    pub(crate) service: Service,
    pub(crate) kind: Kind,
    /// A learner answers it too. Range is looked at again once it is known to be serializable.
    pub(crate) on_learner: bool,
    pub(crate) short: Option<Short>,
}

const fn method(path: &'static str, service: Service, kind: Kind) -> Method {
    Method { path, service, kind, on_learner: false, short: None }
}

const fn on_learner(path: &'static str, service: Service, kind: Kind) -> Method {
    Method { on_learner: true, ..method(path, service, kind) }
}

impl Method {
    const fn shortly(self, short: Short) -> Self {
        Self { short: Some(short), ..self }
    }
}

use Kind::{BidiStream, ServerStream, Unary};
use Service::{Admin, Auth, Cluster, Health, Kv, Lease, Maintenance, Watch};

/// By path, so that one is found by bisection.
static METHODS: &[Method] = &[
    method("/etcdserverpb.Auth/AuthDisable", Auth, Unary),
    method("/etcdserverpb.Auth/AuthEnable", Auth, Unary),
    method("/etcdserverpb.Auth/AuthStatus", Auth, Unary),
    method("/etcdserverpb.Auth/Authenticate", Auth, Unary),
    method("/etcdserverpb.Auth/RoleAdd", Auth, Unary),
    method("/etcdserverpb.Auth/RoleDelete", Auth, Unary),
    method("/etcdserverpb.Auth/RoleGet", Auth, Unary),
    method("/etcdserverpb.Auth/RoleGrantPermission", Auth, Unary),
    method("/etcdserverpb.Auth/RoleList", Auth, Unary),
    method("/etcdserverpb.Auth/RoleRevokePermission", Auth, Unary),
    method("/etcdserverpb.Auth/UserAdd", Auth, Unary),
    method("/etcdserverpb.Auth/UserChangePassword", Auth, Unary),
    method("/etcdserverpb.Auth/UserDelete", Auth, Unary),
    method("/etcdserverpb.Auth/UserGet", Auth, Unary),
    method("/etcdserverpb.Auth/UserGrantRole", Auth, Unary),
    method("/etcdserverpb.Auth/UserList", Auth, Unary),
    method("/etcdserverpb.Auth/UserRevokeRole", Auth, Unary),
    method("/etcdserverpb.Cluster/MemberAdd", Cluster, Unary),
    method("/etcdserverpb.Cluster/MemberList", Cluster, Unary),
    method("/etcdserverpb.Cluster/MemberPromote", Cluster, Unary),
    method("/etcdserverpb.Cluster/MemberRemove", Cluster, Unary),
    method("/etcdserverpb.Cluster/MemberUpdate", Cluster, Unary),
    method("/etcdserverpb.KV/Compact", Kv, Unary),
    method("/etcdserverpb.KV/DeleteRange", Kv, Unary).shortly(Short::DeleteRange),
    method("/etcdserverpb.KV/Put", Kv, Unary).shortly(Short::Put),
    on_learner("/etcdserverpb.KV/Range", Kv, Unary).shortly(Short::Range),
    method("/etcdserverpb.KV/RangeStream", Kv, ServerStream),
    method("/etcdserverpb.KV/Txn", Kv, Unary).shortly(Short::Txn),
    method("/etcdserverpb.Lease/LeaseGrant", Lease, Unary),
    method("/etcdserverpb.Lease/LeaseKeepAlive", Lease, BidiStream),
    method("/etcdserverpb.Lease/LeaseLeases", Lease, Unary),
    method("/etcdserverpb.Lease/LeaseRevoke", Lease, Unary),
    method("/etcdserverpb.Lease/LeaseTimeToLive", Lease, Unary),
    method("/etcdserverpb.Maintenance/Alarm", Maintenance, Unary),
    method("/etcdserverpb.Maintenance/Defragment", Maintenance, Unary),
    method("/etcdserverpb.Maintenance/Downgrade", Maintenance, Unary),
    method("/etcdserverpb.Maintenance/Hash", Maintenance, Unary),
    method("/etcdserverpb.Maintenance/HashKV", Maintenance, Unary),
    method("/etcdserverpb.Maintenance/MoveLeader", Maintenance, Unary),
    on_learner("/etcdserverpb.Maintenance/Snapshot", Maintenance, ServerStream),
    on_learner("/etcdserverpb.Maintenance/Status", Maintenance, Unary),
    method("/etcdserverpb.Watch/Watch", Watch, BidiStream),
    on_learner("/grpc.health.v1.Health/Check", Health, Unary),
    on_learner("/grpc.health.v1.Health/List", Health, Unary),
    on_learner("/grpc.health.v1.Health/Watch", Health, ServerStream),
    on_learner("/metastore.admin.v1.Admin/LogLevel", Admin, Unary),
    on_learner("/metastore.admin.v1.Admin/Observe", Admin, Unary),
    method("/metastore.admin.v1.Admin/SubmitTuning", Admin, Unary),
    on_learner("/metastore.admin.v1.Admin/Tuning", Admin, Unary),
];

/// Place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MethodId(usize);

impl MethodId {
    /// The method of a path.
    pub(crate) fn find(path: &str) -> Option<Self> {
        METHODS.binary_search_by(|method| method.path.cmp(path)).ok().map(Self)
    }

    /// What is known of it.
    pub(crate) fn info(self) -> &'static Method {
        &METHODS[self.0]
    }
}

/// Why there is no such method, in the words of grpc-go.
pub(crate) fn unknown(path: &str) -> String {
    let unprefixed = path.strip_prefix('/').unwrap_or(path);
    let Some((service, method)) = unprefixed.rsplit_once('/') else {
        return format!("malformed method name: {path:?}");
    };
    let prefix = format!("/{service}/");
    if METHODS.iter().any(|known| known.path.starts_with(&prefix)) {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    }
}

/// Codes of gRPC, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Numbers of one method.
#[derive(Debug)]
struct MethodMetrics {
    started: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    handled: Vec<IntCounter>,
    seconds: Histogram,
    request: Option<Request>,
}

/// Numbers of all methods, under the names of go-grpc-prometheus.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    methods: Vec<MethodMetrics>,
    requests: Arc<Requests>,
}

impl CallMetrics {
    /// Registers them, all at zero.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let counters = |name: &str| {
            let counters = catalogue::counters(name);
            metrics.register(Box::new(counters.clone()));
            counters
        };
        let started = counters("grpc_server_started_total");
        let received = counters("grpc_server_msg_received_total");
        let sent = counters("grpc_server_msg_sent_total");
        let handled = counters("grpc_server_handled_total");
        let seconds = catalogue::histograms("grpc_server_handling_seconds");
        metrics.register(Box::new(seconds.clone()));
        let methods = METHODS
            .iter()
            .map(|method| {
                let (service, name) =
                    method.path[1..].rsplit_once('/').unwrap_or((method.path, ""));
                let kind = method.kind.label();
                let labels = [kind, service, name];
                MethodMetrics {
                    started: started.with_label_values(&labels),
                    received: received.with_label_values(&labels),
                    sent: sent.with_label_values(&labels),
                    handled: CODES
                        .iter()
                        .map(|code| handled.with_label_values(&[kind, service, name, *code]))
                        .collect(),
                    seconds: seconds.with_label_values(&labels),
                    request: Request::of(method.path),
                }
            })
            .collect();
        Self { methods, requests: Arc::clone(&metrics.requests) }
    }

    fn of(&self, method: MethodId) -> &MethodMetrics {
        &self.methods[method.0]
    }

    /// A call begins.
    pub(crate) fn start(&self, method: MethodId) -> Instant {
        let metrics = self.of(method);
        metrics.started.inc();
        if method.info().kind == Unary {
            metrics.received.inc();
        }
        Instant::now()
    }

    /// A message of a stream came in.
    pub(crate) fn message_received(&self, method: MethodId) {
        self.of(method).received.inc();
    }

    /// A message of a stream went out.
    pub(crate) fn message_sent(&self, method: MethodId) {
        self.of(method).sent.inc();
    }

    /// A call has ended. Tells how long it took.
    pub(crate) fn finish(&self, method: MethodId, started: Instant, code: Code) -> Duration {
        let metrics = self.of(method);
        let took = started.elapsed();
        metrics.seconds.observe(took.as_secs_f64());
        metrics.handled[code as usize].inc();
        if let Some(request) = metrics.request {
            let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.requests.note(request, us, code == Code::Ok);
        }
        if method.info().kind == Unary && code == Code::Ok {
            metrics.sent.inc();
        }
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_bisection_needs() {
        assert!(METHODS.is_sorted_by(|a, b| a.path < b.path));
        for method in METHODS {
            let found = MethodId::find(method.path).expect("found");
            assert_eq!(found.info().path, method.path);
        }
    }

    #[test]
    fn strangers_are_refused_as_grpc_go_does() {
        assert_eq!(MethodId::find("/etcdserverpb.KV/Nope"), None);
        assert_eq!(
            unknown("/etcdserverpb.KV/Nope"),
            "unknown method Nope for service etcdserverpb.KV"
        );
        assert_eq!(unknown("/v3lockpb.Lock/Lock"), "unknown service v3lockpb.Lock");
        assert_eq!(unknown("/nothing"), "malformed method name: \"/nothing\"");
    }

    #[test]
    fn codes_are_numbered_as_in_grpc() {
        assert_eq!(CODES[Code::Ok as usize], "OK");
        assert_eq!(CODES[Code::OutOfRange as usize], "OutOfRange");
        assert_eq!(CODES[Code::Unauthenticated as usize], "Unauthenticated");
    }

    #[test]
    fn calls_are_counted_by_method_and_code() {
        let metrics = Metrics::new();
        let calls = CallMetrics::new(&metrics);
        let put = MethodId::find("/etcdserverpb.KV/Put").expect("served");
        let started = calls.start(put);
        calls.finish(put, started, Code::Unavailable);
        let text = metrics.scrape(&Default::default(), &Default::default());
        let labels = "grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        for line in [
            format!("grpc_server_started_total{{{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"Unavailable\",{labels}}} 1"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 0"),
            format!("grpc_server_handling_seconds_count{{{labels}}} 1"),
            format!("grpc_server_msg_received_total{{{labels}}} 1"),
            format!("grpc_server_msg_sent_total{{{labels}}} 0"),
        ] {
            assert!(text.lines().any(|have| have == line), "{line}");
        }
    }
}
