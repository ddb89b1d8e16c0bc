//! What clients ask, how long they wait and for what, and how watchers fare.

use super::super::panel::{Board, ask, heat, lines, quantile, row};
use super::{MEMBERS_OF, POD, gauge_of_each, rate_of_each};

const CALLS: &str = "grpc_service=~\"etcdserverpb.*\", grpc_type=\"unary\"";

#[allow(clippy::too_many_lines, reason = "a list")]
pub(super) fn board() -> Board {
    let rate = |by: &str, metric: &str, more: &str| {
        format!("sum by ({by}) (rate({metric}{{{more}, @S}}[@W]))")
    };
    let streams = |service: &str| {
        let of = format!("grpc_service=\"etcdserverpb.{service}\", grpc_type=\"bidi_stream\"");
        format!(
            "sum by (@C) (grpc_server_started_total{{{of}, @S}}) - sum by (@C) \
             (grpc_server_handled_total{{{of}, @S}})"
        )
    };
    let handling = "grpc_server_handling_seconds";
    Board {
        uid: "metastore-clients",
        title: "MetaStore / Clients and watches",
        about: "What clients ask, how long they wait and for what, and how watchers fare.",
        pods_of: MEMBERS_OF,
        panels: vec![
            row("Requests"),
            lines(
                "Requests by method",
                "Requests that were answered.",
                "reqps",
                "etcd-grpc-requests-slow",
                vec![ask(&rate("@C, grpc_method", "grpc_server_handled_total", CALLS), "{{namespace}}/{{cluster}} {{grpc_method}}")],
            ),
            lines(
                "Requests by answer",
                "Requests that were answered, by code. OK is well; OutOfRange and InvalidArgument are the caller's.",
                "reqps",
                "etcd-high-number-of-failed-grpc-requests",
                vec![ask(&rate("@C, grpc_code", "grpc_server_handled_total", CALLS), "{{namespace}}/{{cluster}} {{grpc_code}}")],
            ),
            lines(
                "Slowest in a hundred, by method",
                "99 of 100 requests are faster.",
                "s",
                "etcd-grpc-requests-slow",
                vec![ask(&quantile("0.99", "@C, grpc_method", handling, CALLS), "{{namespace}}/{{cluster}} {{grpc_method}}")],
            ),
            heat(
                "All puts",
                "How long puts take.",
                "s",
                "etcd-grpc-requests-slow",
                "sum by (le) (increase(grpc_server_handling_seconds_bucket{grpc_service=\"etcdserverpb.KV\", \
                 grpc_method=\"Put\", @S}[@W]))",
            ),
            lines(
                "Where a put's time goes",
                "Time of a put by stage, on average: waiting for its turn, until the log is synced, until a \
                 quorum has it, until it is applied, until the answer is handed over. Sync and replication \
                 run side by side.",
                "s",
                "etcd-grpc-requests-slow",
                vec![ask(
                    "sum by (@C, stage) (rate(metastore_put_stage_duration_seconds_sum{@S}[@W])) / sum by (@C, \
                     stage) (rate(metastore_put_stage_duration_seconds_count{@S}[@W]))",
                    "{{namespace}}/{{cluster}} {{stage}}",
                )],
            )
            .stacked(),
            lines(
                "Slowest puts, by stage",
                "99 of 100 puts pass each stage faster.",
                "s",
                "etcd-grpc-requests-slow",
                vec![ask(
                    &quantile("0.99", "@C, stage", "metastore_put_stage_duration_seconds", ""),
                    "{{namespace}}/{{cluster}} {{stage}}",
                )],
            )
            .logarithmic(),
            lines(
                "Applied",
                "Puts, deletes and transactions that members applied, and ranges they answered.",
                "ops",
                "etcd-grpc-requests-slow",
                vec![
                    ask("max by (@C) (rate(etcd_mvcc_put_total{@S}[@W]))", "{{namespace}}/{{cluster}} put"),
                    ask("max by (@C) (rate(etcd_mvcc_delete_total{@S}[@W]))", "{{namespace}}/{{cluster}} delete"),
                    ask("max by (@C) (rate(etcd_mvcc_txn_total{@S}[@W]))", "{{namespace}}/{{cluster}} txn"),
                    ask("sum by (@C) (rate(etcd_mvcc_range_total{@S}[@W]))", "{{namespace}}/{{cluster}} range"),
                ],
            ),
            lines(
                "Connections",
                "Connections of clients that are open.",
                "short",
                "README",
                gauge_of_each("metastore_client_connections"),
            ),
            lines(
                "Traffic of clients",
                "Bytes from and to clients.",
                "Bps",
                "README",
                vec![
                    ask("sum by (@P) (rate(etcd_network_client_grpc_received_bytes_total{@S}[@W]))", "{{namespace}}/{{cluster}}/{{pod}} in"),
                    ask("sum by (@P) (rate(etcd_network_client_grpc_sent_bytes_total{@S}[@W]))", "{{namespace}}/{{cluster}}/{{pod}} out"),
                ],
            ),
            lines(
                "Linearizable reads in trouble",
                "Rounds that confirm a leader for reads, and failed or were slow.",
                "cps",
                "metastore-no-leader",
                vec![
                    ask("sum by (@P) (rate(etcd_server_read_indexes_failed_total{@S}[@W]))", "{{namespace}}/{{cluster}}/{{pod}} failed"),
                    ask("sum by (@P) (rate(etcd_server_slow_read_indexes_total{@S}[@W]))", "{{namespace}}/{{cluster}}/{{pod}} slow"),
                ],
            ),
            lines(
                "Refused for want of rights",
                "Requests that were refused because the caller may not.",
                "reqps",
                "etcd-high-number-of-failed-grpc-requests",
                rate_of_each("metastore_auth_denied_total"),
            ),
            row("Watches"),
            lines(
                "Streams",
                "Streams of watches and of leases that are open.",
                "short",
                "README",
                vec![
                    ask(&streams("Watch"), "{{namespace}}/{{cluster}} watch"),
                    ask(&streams("Lease"), "{{namespace}}/{{cluster}} lease"),
                ],
            ),
            lines(
                "Watchers",
                "Watchers, and those of them that read history to catch up.",
                "short",
                "metastore-error-budget-burn",
                vec![
                    ask("max by (@P) (etcd_debugging_mvcc_watcher_total{@S})", "{{namespace}}/{{cluster}}/{{pod}} all"),
                    ask("max by (@P) (etcd_debugging_mvcc_slow_watcher_total{@S})", "{{namespace}}/{{cluster}}/{{pod}} catching up"),
                ],
            ),
            lines(
                "Events",
                "Events handed to watchers.",
                "cps",
                "metastore-error-budget-burn",
                rate_of_each("etcd_debugging_mvcc_events_total"),
            ),
            lines(
                "Events on their way",
                "From when a change was applied until it was handed to its watcher's stream: 99 of 100 are faster.",
                "s",
                "metastore-error-budget-burn",
                vec![ask(&quantile("0.99", "@P", "metastore_watch_delivery_lag_seconds", ""), POD)],
            )
            .steps("green", &[(0.15, "red")]),
            lines(
                "Events that wait",
                "Events that wait for watchers who do not read.",
                "short",
                "metastore-error-budget-burn",
                gauge_of_each("etcd_debugging_mvcc_pending_events_total"),
            ),
            lines(
                "Memory of watches",
                "Bytes of events that wait for watchers who do not read.",
                "bytes",
                "metastore-error-budget-burn",
                gauge_of_each("metastore_watch_buffer_bytes"),
            ),
            row("Leases"),
            lines(
                "Leases that ran out",
                "Leases that ran out and were revoked.",
                "cps",
                "metastore-error-budget-burn",
                vec![ask("max by (@C) (rate(etcd_debugging_server_lease_expired_total{@S}[@W]))", "{{namespace}}/{{cluster}}")],
            ),
            lines(
                "How late leases end",
                "From when a lease ran out until its keys were gone: 99 of 100 are faster.",
                "s",
                "metastore-no-leader",
                vec![ask(&quantile("0.99", "@C", "metastore_lease_expiry_lag_seconds", ""), "{{namespace}}/{{cluster}}")],
            ),
        ],
    }
}
