//! The queries behind the panels of etcd's own dashboard (its mixin), by the metrics that they name: with
//! the selector that its configuration has a place for.

/// Of one cluster, with rates over a window.
pub(super) fn queries(selector: &str, window: &str) -> Vec<String> {
    let rate = |metric: &str, more: &str| format!("rate({metric}{{{selector}{more}}}[{window}])");
    let p99 = |metric: &str| {
        let rate = rate(&format!("{metric}_bucket"), "");
        format!("histogram_quantile(0.99, sum by (instance, le) ({rate}))")
    };
    let streams = |service: &str| {
        let more = format!(",grpc_service=\"etcdserverpb.{service}\",grpc_type=\"bidi_stream\"");
        let of = |what: &str| format!("sum(grpc_server_{what}_total{{{selector}{more}}})");
        format!("{} - {}", of("started"), of("handled"))
    };
    let failures = ",grpc_type=\"unary\",grpc_code=~\"Unknown|FailedPrecondition|ResourceExhausted|\
                    Internal|Unavailable|DataLoss|DeadlineExceeded\"";
    let mut all = vec![
        format!("sum(etcd_server_has_leader{{{selector}}})"),
        format!("sum({})", rate("grpc_server_started_total", ",grpc_type=\"unary\"")),
        format!("sum({})", rate("grpc_server_handled_total", failures)),
        streams("Watch"),
        streams("Lease"),
        format!("sum(etcd_server_proposals_pending{{{selector}}})"),
        format!("changes(etcd_server_leader_changes_seen_total{{{selector}}}[1d])"),
    ];
    for gauge in ["etcd_mvcc_db_total_size_in_bytes", "process_resident_memory_bytes"] {
        all.push(format!("{gauge}{{{selector}}}"));
    }
    for histogram in [
        "etcd_disk_wal_fsync_duration_seconds",
        "etcd_disk_backend_commit_duration_seconds",
        "etcd_network_peer_round_trip_time_seconds",
    ] {
        all.push(p99(histogram));
    }
    for bytes in ["client_grpc_received", "client_grpc_sent", "peer_received", "peer_sent"] {
        all.push(rate(&format!("etcd_network_{bytes}_bytes_total"), ""));
    }
    for proposals in ["failed", "committed", "applied"] {
        all.push(format!("sum({})", rate(&format!("etcd_server_proposals_{proposals}_total"), "")));
    }
    all
}
