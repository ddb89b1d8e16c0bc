//! Is it healthy, and if not, why? One row for each member, with a column for each thing that can be
//! wrong with it.

use super::super::panel::{
    Board, Column, alert_list, ask, column, lines, quantile, row, stat, table, timeline,
};
use super::{MEMBERS_OF, POD, gauge_of_each, rate_of_each, slow_calls};

const GREEN_RED: (&str, &[(f64, &str)]) = ("green", &[]);

pub(super) fn board() -> Board {
    let members = "\
Is every member well? Up: scraped. Not heard: since a peer last heard it. Hears nobody: since it last heard \
a peer. Behind: entries the leader has and it has not. Sync: 99 of 100 syncs of its log are shorter. Sync \
under way: age of the one that has not ended. Clock: by how much it is off. Kept from running: share of time \
in which the machine did not let it. Nearest peer: round trip to it.";
    Board {
        uid: "metastore-overview",
        title: "MetaStore / Overview",
        about: "Is it healthy, and if not, why? Every row is a member; what is wrong is not green.",
        pods_of: MEMBERS_OF,
        panels: vec![
            stat(
                "Leader",
                "Whether any member knows a leader; without one nothing can be written.",
                "bool_yes_no",
                "metastore-no-leader",
                vec![ask(
                    "max by (@C) (etcd_server_has_leader{@K}) or max by (@C) (@UP)",
                    "{{namespace}}/{{cluster}}",
                )],
            )
            .steps("red", &[(1.0, "green")]),
            stat(
                "Members down",
                "Members that peers know, or that were scraped within a day, and that cannot be scraped.",
                "short",
                "metastore-member-down",
                vec![ask("sum by (@C) (@UP == bool 0)", "{{namespace}}/{{cluster}}")],
            )
            .steps("green", &[(1.0, "red")]),
            stat(
                "Losses it can stand",
                "How many more voters in touch with the leader may be lost before nothing can be written.",
                "short",
                "metastore-quorum-at-risk",
                vec![ask(
                    "(sum by (@C) (max by (@P) (etcd_server_has_leader{@K}) unless on (@P) \
                     max by (@P) (etcd_server_is_learner{@K} == 1)) or 0 * count by (@C) (@UP)) \
                     - on (@C) floor((count by (@C) (@UP) - on (@C) (sum by (@C) \
                     (etcd_server_is_learner{@K}) or 0 * count by (@C) (@UP))) / 2) - 1",
                    "{{namespace}}/{{cluster}}",
                )],
            )
            .steps("red", &[(0.0, "orange"), (1.0, "green")]),
            stat(
                "Quota used",
                "What lives in the store, as a share of the quota; at all of it writes are refused.",
                "percentunit",
                "metastore-quota-nearly-full",
                vec![ask(
                    "max by (@C) (etcd_mvcc_db_total_size_in_use_in_bytes{@K}) / min by (@C) \
                     (etcd_server_quota_backend_bytes{@K})",
                    "{{namespace}}/{{cluster}}",
                )],
            )
            .steps("green", &[(0.8, "orange"), (0.95, "red")]),
            stat(
                "Alarms",
                "Alarms of etcd's kind that are raised: nospace, corrupt.",
                "short",
                "metastore-no-space",
                vec![ask("max by (@C, alarm) (metastore_alarm{@K})", "{{namespace}}/{{cluster}} {{alarm}}")],
            )
            .steps("green", &[(1.0, "red")]),
            stat(
                "Operator",
                "Whether an operator holds the lease and works. Members go on without one.",
                "bool_yes_no",
                "metastore-operator-down",
                vec![ask(
                    "group by (namespace) (metastore_operator_leader == 1) or 0 * group by (namespace) \
                     (last_over_time(metastore_operator_leader[1d]))",
                    "{{namespace}}",
                )],
            )
            .steps("red", &[(1.0, "green")]),
            table("Members", members, "short", "README", member_columns()).columns(COLUMNS),
            timeline(
                "Members over time",
                "Which members could be scraped, and when.",
                "metastore-member-down",
                vec![ask("@UP", POD)],
            )
            .words(&[("0", "down", "red"), ("1", "up", "green")]),
            row("What clients see"),
            alert_list(
                "Alerts",
                "What fires, or is about to. Each alert has a link to the page that says what to do.",
            ),
            lines(
                "Requests",
                "Requests that were answered, by whether they succeeded.",
                "reqps",
                "etcd-high-number-of-failed-grpc-requests",
                vec![
                    ask(
                        "sum by (@C) (rate(grpc_server_handled_total{grpc_service=~\"etcdserverpb.*\", \
                         grpc_code=\"OK\", @S}[@W]))",
                        "{{namespace}}/{{cluster}} succeeded",
                    ),
                    ask(
                        "sum by (@C) (rate(grpc_server_handled_total{grpc_service=~\"etcdserverpb.*\", \
                         @S}[@W])) - sum by (@C) \
                         (rate(grpc_server_handled_total{grpc_service=~\"etcdserverpb.*\", \
                         grpc_code=\"OK\", @S}[@W]))",
                        "{{namespace}}/{{cluster}} failed",
                    ),
                ],
            ),
            slow_calls(
                "Slowest in a hundred",
                "99 of 100 puts and ranges are faster than this. Promised are 150 ms.",
            ),
            lines(
                "Leader changes",
                "Times members saw the leader change, in each interval.",
                "short",
                "etcd-high-number-of-leader-changes",
                vec![ask(
                    "max by (@C) (increase(etcd_server_leader_changes_seen_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}}",
                )],
            ),
            lines(
                "Processor",
                "Processors that members keep busy.",
                "short",
                "metastore-cpu-starved",
                rate_of_each("process_cpu_seconds_total"),
            ),
            lines(
                "Memory",
                "Memory of members that is in use.",
                "bytes",
                "README",
                gauge_of_each("process_resident_memory_bytes"),
            ),
        ],
    }
}

fn member_columns() -> Vec<super::super::panel::Target> {
    vec![
        column("up", "@UP"),
        column("leader", "max by (@P) (etcd_server_is_leader{@S})"),
        column("silent", "@SILENT"),
        column("hears", "min by (@P) (metastore_peer_silent_seconds{@S})"),
        column("lag", "@LAG"),
        // Where nothing is written there is no share of nothing.
        column(
            "disk",
            &(quantile("0.99", "@P", "etcd_disk_wal_fsync_duration_seconds", "") + " >= 0"),
        ),
        column("sync", "max by (@P) (metastore_wal_sync_pending_seconds{@S})"),
        column("clock", "@OFFSET"),
        column("cpu", "@STARVED"),
        column(
            "quota",
            "max by (@P) (etcd_mvcc_db_total_size_in_use_in_bytes{@S}) / max by (@P) \
             (etcd_server_quota_backend_bytes{@S})",
        ),
        column("rtt", "@NEAREST"),
    ]
}

const COLUMNS: &[Column] = &[
    Column {
        name: "up",
        title: "Up",
        unit: "short",
        steps: ("red", &[(1.0, "green")]),
        words: &[("0", "down", "red"), ("1", "up", "green")],
    },
    Column {
        name: "leader",
        title: "Leader",
        unit: "short",
        steps: GREEN_RED,
        words: &[("0", "", "text"), ("1", "leader", "blue")],
    },
    Column {
        name: "silent",
        title: "Not heard",
        unit: "s",
        steps: ("green", &[(1.0, "orange"), (3.0, "red")]),
        words: &[],
    },
    Column {
        name: "hears",
        title: "Hears nobody",
        unit: "s",
        steps: ("green", &[(1.0, "orange"), (3.0, "red")]),
        words: &[],
    },
    Column {
        name: "lag",
        title: "Behind",
        unit: "short",
        steps: ("green", &[(100.0, "orange"), (1000.0, "red")]),
        words: &[],
    },
    Column {
        name: "disk",
        title: "Sync",
        unit: "s",
        steps: ("green", &[(0.03, "orange"), (0.1, "red")]),
        words: &[],
    },
    Column {
        name: "sync",
        title: "Sync under way",
        unit: "s",
        steps: ("green", &[(0.3, "orange"), (1.0, "red")]),
        words: &[],
    },
    Column {
        name: "clock",
        title: "Clock",
        unit: "s",
        steps: ("green", &[(0.1, "orange"), (0.5, "red")]),
        words: &[],
    },
    Column {
        name: "cpu",
        title: "Kept from running",
        unit: "percentunit",
        steps: ("green", &[(0.2, "orange"), (0.5, "red")]),
        words: &[],
    },
    Column {
        name: "quota",
        title: "Quota",
        unit: "percentunit",
        steps: ("green", &[(0.8, "orange"), (0.95, "red")]),
        words: &[],
    },
    Column {
        name: "rtt",
        title: "Nearest peer",
        unit: "s",
        steps: ("green", &[(0.05, "orange"), (0.15, "red")]),
        words: &[],
    },
];
