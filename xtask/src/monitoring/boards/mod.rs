//! The dashboards, a file each.

mod clients;
mod objectives;
mod operator;
mod overview;
mod raft;
mod storage;

use super::panel::{Board, Panel, Target, ask, lines, quantile};

/// All, with the paths of their files.
pub(super) fn all() -> Vec<(&'static str, Board)> {
    vec![
        ("charts/metastore/dashboards/metastore-overview.json", overview::board()),
        ("charts/metastore/dashboards/metastore-raft.json", raft::board()),
        ("charts/metastore/dashboards/metastore-storage.json", storage::board()),
        ("charts/metastore/dashboards/metastore-clients.json", clients::board()),
        ("charts/metastore/dashboards/metastore-operator.json", operator::board()),
        ("charts/metastore/dashboards/metastore-slo.json", objectives::board()),
    ]
}

/// Metric whose series say which members there are.
const MEMBERS_OF: &str = "metastore_build_info";
/// A line of a member.
const POD: &str = "{{namespace}}/{{cluster}}/{{pod}}";

/// A gauge, for each member.
fn gauge_of_each(metric: &str) -> Vec<Target> {
    vec![ask(&format!("max by (@P) ({metric}{{@S}})"), POD)]
}

/// What a counter gains in a second, for each member.
fn rate_of_each(metric: &str) -> Vec<Target> {
    vec![ask(&format!("sum by (@P) (rate({metric}{{@S}}[@W]))"), POD)]
}

/// A gauge, of the member of a cluster that says most.
fn gauge_of_cluster(metric: &str) -> Vec<Target> {
    vec![ask(&format!("max by (@C) ({metric}{{@S}})"), "{{namespace}}/{{cluster}}")]
}

/// The slowest puts and ranges against what is promised of them.
fn slow_calls(title: &str, about: &str) -> Panel {
    let slowest = quantile(
        "0.99",
        "@C, grpc_method",
        "grpc_server_handling_seconds",
        "grpc_service=\"etcdserverpb.KV\", grpc_method=~\"Put|Range\"",
    );
    let targets = vec![ask(&slowest, "{{namespace}}/{{cluster}} {{grpc_method}}")];
    lines(title, about, "s", "etcd-grpc-requests-slow", targets).steps("green", &[(0.15, "red")])
}
