//! The alerts that etcd's users know, under etcd's names and with its thresholds, asked of the labels
//! that members have here. Two differ, for what the store counts differs: the quota is of what lives in
//! it, so that is what is compared with it.

use super::cases::{POD, STORE, all, but, healthy, histogram, of, unheard, unscraped};
use super::rules::{Alert, Case};

type Series = Vec<(String, String)>;
type Labels = Vec<(&'static str, &'static str)>;

fn case(name: &'static str, series: Series, fires: Vec<(Labels, &'static str)>) -> Case {
    Case { name, step: "15s", series, at: "40m", fires }
}

fn with(labels: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]) -> Labels {
    let mut labels = labels.to_vec();
    labels.extend_from_slice(more);
    labels
}

/// Codes that etcd takes for failures.
const FAILED: &str =
    "Unknown|FailedPrecondition|ResourceExhausted|Internal|Unavailable|DataLoss|DeadlineExceeded";

const PUT: &str = "grpc_service=\"etcdserverpb.KV\",grpc_method=\"Put\",grpc_type=\"unary\"";
const OF_PUT: [(&str, &str); 2] = [("grpc_service", "etcdserverpb.KV"), ("grpc_method", "Put")];

/// Put, answered so often in each step, and failed so often.
fn puts(ok: &str, failed: &str) -> Series {
    vec![
        of(2, "grpc_server_handled_total", &format!("{PUT},grpc_code=\"OK\""), ok),
        of(2, "grpc_server_handled_total", &format!("{PUT},grpc_code=\"Unavailable\""), failed),
    ]
}

/// All of them.
#[allow(clippy::too_many_lines, reason = "a list")]
pub(super) fn alerts() -> Vec<Alert> {
    let down = || but(unscraped(healthy(), 2, "0.001"), unheard(2));
    let two_down = || unscraped(unscraped(healthy(), 2, "0.001"), 1, "0.001");
    let alert = |name, severity, hold, query: &str, summary, description, cases| Alert {
        name,
        query: query.to_owned(),
        hold,
        severity,
        labels: Vec::new(),
        summary,
        description,
        cases,
    };
    let failed_calls = |severity, hold, percent: &str, cases| {
        let of_code = |code: &str| {
            format!(
                "sum by (@P, grpc_service, grpc_method) (rate(grpc_server_handled_total{{{code}\
                 grpc_service=~\"etcdserverpb.*\", @S}}[5m]))"
            )
        };
        let failed = of_code(&format!("grpc_code=~\"{FAILED}\", "));
        alert(
            "etcdHighNumberOfFailedGRPCRequests",
            severity,
            hold,
            &format!("100 * {failed}\n/\n{}\n> {percent}", of_code("")),
            "Many requests fail.",
            "{{ $value | humanize }} % of requests for {{ $labels.grpc_method }} fail on {{ $labels.pod }} of \
             {{ $labels.namespace }}/{{ $labels.cluster }}.",
            cases,
        )
    };
    let failing = |severity| with(&with(&POD, &OF_PUT), &[("severity", severity)]);
    let syncs = |severity, seconds: &str, cases| {
        alert(
            "etcdHighFsyncDurations",
            severity,
            "10m",
            &format!(
                "histogram_quantile(0.99, sum by (@P, le) \
                 (rate(etcd_disk_wal_fsync_duration_seconds_bucket{{@S}}[5m]))) > {seconds}"
            ),
            "Syncs of the log take very long.",
            "One in a hundred syncs of the log takes {{ $value | humanizeDuration }} or more on \
             {{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }}.",
            cases,
        )
    };
    let slow_syncs =
        |from, to| histogram("etcd_disk_wal_fsync_duration_seconds_bucket", "", from, to);
    let of_severity = |severity| with(&POD, &[("severity", severity)]);
    let handling = |from, to| histogram("grpc_server_handling_seconds_bucket", PUT, from, to);
    let commits =
        |from, to| histogram("etcd_disk_backend_commit_duration_seconds_bucket", "", from, to);
    let trips = |from, to| {
        histogram("etcd_network_peer_round_trip_time_seconds_bucket", "To=\"a0\"", from, to)
    };
    let sizes = |in_use: &str, total: &str, quota: &str| {
        vec![
            of(2, "etcd_mvcc_db_total_size_in_use_in_bytes", "", in_use),
            of(2, "etcd_mvcc_db_total_size_in_bytes", "", total),
            of(2, "etcd_server_quota_backend_bytes", "", quota),
        ]
    };
    let changes = |samples: &str| all("etcd_server_leader_changes_seen_total", "", samples);
    let failed_proposals =
        |samples: &str| vec![of(2, "etcd_server_proposals_failed_total", "", samples)];
    vec![
        alert(
            "etcdMembersDown",
            "warning",
            "20m",
            "\
(sum by (@C) (@UP == bool 0) > 0)
or
(count by (@C) (sum by (@C, To) (rate(etcd_network_peer_sent_failures_total{@S}[2m])) > 0.01) > 0)",
            "Members have been down for long.",
            "{{ $value }} members of {{ $labels.namespace }}/{{ $labels.cluster }} are down, or cannot be sent to.",
            vec![
                case("one is", down(), vec![(STORE.to_vec(), "1")]),
                case(
                    "one cannot be sent to",
                    but(healthy(), vec![
                        of(0, "etcd_network_peer_sent_failures_total", "To=\"c2\"", "0+15x400"),
                    ]),
                    vec![(STORE.to_vec(), "1")],
                ),
                case("none is", healthy(), Vec::new()),
            ],
        ),
        alert(
            "etcdInsufficientMembers",
            "critical",
            "3m",
            "sum by (@C) (@UP) < (count by (@C) (@UP) + 1) / 2",
            "Too few members are up.",
            "Only {{ $value }} members of {{ $labels.namespace }}/{{ $labels.cluster }} are up: less than a quorum.",
            vec![
                case("one of three", two_down(), vec![(STORE.to_vec(), "1")]),
                case("two of three", down(), Vec::new()),
            ],
        ),
        alert(
            "etcdNoLeader",
            "critical",
            "1m",
            "max by (@P) (etcd_server_has_leader{@S}) == 0",
            "A member has no leader.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} knows no leader.",
            vec![
                case(
                    "one that knows none",
                    but(healthy(), vec![of(2, "etcd_server_has_leader", "", "1+0x20 0+0x380")]),
                    vec![(POD.to_vec(), "0")],
                ),
                case("all know one", healthy(), Vec::new()),
            ],
        ),
        alert(
            "etcdHighNumberOfLeaderChanges",
            "warning",
            "5m",
            "increase(max by (@C) (etcd_server_leader_changes_seen_total{@S})[15m:1m]) >= 4",
            "Leaders change often.",
            "{{ $value | humanize }} leader changes in {{ $labels.namespace }}/{{ $labels.cluster }} within 15 minutes.",
            vec![
                case("one every two minutes", changes("0+0.125x400"), vec![(STORE.to_vec(), "7.5")]),
                case("one", changes("1+0x80 2+0x320"), Vec::new()),
            ],
        ),
        failed_calls(
            "warning",
            "10m",
            "1",
            vec![
                case("3 of 100", puts("0+97x400", "0+3x400"), vec![(failing("warning"), "3")]),
                case("1 of 200", puts("0+199x400", "0+1x400"), Vec::new()),
            ],
        ),
        failed_calls(
            "critical",
            "5m",
            "5",
            vec![
                case(
                    "20 of 100",
                    puts("0+80x400", "0+20x400"),
                    vec![(failing("warning"), "20"), (failing("critical"), "20")],
                ),
                case("none", puts("0+100x400", "0+0x400"), Vec::new()),
            ],
        ),
        alert(
            "etcdGRPCRequestsSlow",
            "critical",
            "10m",
            "\
histogram_quantile(0.99, sum by (@P, grpc_service, grpc_method, le) (
  rate(grpc_server_handling_seconds_bucket{grpc_service=~\"etcdserverpb.*\", grpc_method!=\"Defragment\", \
grpc_type=\"unary\", @S}[5m])
))
> 0.15",
            "Requests are slow.",
            "One in a hundred requests for {{ $labels.grpc_method }} takes {{ $value | humanizeDuration }} or more on \
             {{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }}.",
            vec![
                case(
                    "a fifth of a second and more",
                    handling("0.2048", "0.4096"),
                    vec![(with(&POD, &OF_PUT), "407.6ms")],
                ),
                case("below a tenth", handling("0.0512", "0.1024"), Vec::new()),
            ],
        ),
        alert(
            "etcdMemberCommunicationSlow",
            "warning",
            "10m",
            "\
histogram_quantile(0.99, sum by (@P, To, le) (rate(etcd_network_peer_round_trip_time_seconds_bucket{@S}[5m])))
> 0.15",
            "Round trips between members are long.",
            "One in a hundred round trips from {{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} to \
             {{ $labels.To }} takes {{ $value | humanizeDuration }} or more.",
            vec![
                case(
                    "a fifth of a second and more",
                    trips("0.2048", "0.4096"),
                    vec![(with(&POD, &[("To", "a0")]), "407.6ms")],
                ),
                case("below a tenth", trips("0.0512", "0.1024"), Vec::new()),
            ],
        ),
        alert(
            "etcdHighNumberOfFailedProposals",
            "warning",
            "15m",
            "max by (@P) (rate(etcd_server_proposals_failed_total{@S}[15m])) > 5",
            "Many proposals fail.",
            "{{ $value | humanize }} proposals a second fail on {{ $labels.pod }} of \
             {{ $labels.namespace }}/{{ $labels.cluster }}.",
            vec![
                case("ten a second", failed_proposals("0+150x400"), vec![(POD.to_vec(), "10")]),
                case("one a second", failed_proposals("0+15x400"), Vec::new()),
            ],
        ),
        syncs(
            "warning",
            "0.5",
            vec![
                case("half a second", slow_syncs("0.512", "0.8"), vec![(of_severity("warning"), "797.1ms")]),
                case("a quarter of a second", slow_syncs("0.128", "0.256"), Vec::new()),
            ],
        ),
        syncs(
            "critical",
            "1",
            vec![
                case(
                    "two seconds",
                    slow_syncs("1.024", "2.048"),
                    vec![(of_severity("warning"), "2.038s"), (of_severity("critical"), "2.038s")],
                ),
                case("an eighth of a second", slow_syncs("0.064", "0.128"), Vec::new()),
            ],
        ),
        alert(
            "etcdHighCommitDurations",
            "warning",
            "10m",
            "\
histogram_quantile(0.99, sum by (@P, le) (rate(etcd_disk_backend_commit_duration_seconds_bucket{@S}[5m])))
> 0.25",
            "Commits of the store on disk take long.",
            "One in a hundred commits of the store on disk takes {{ $value | humanizeDuration }} or more on \
             {{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }}.",
            vec![
                case("half a second", commits("0.256", "0.512"), vec![(POD.to_vec(), "509.4ms")]),
                case("an eighth of a second", commits("0.064", "0.128"), Vec::new()),
            ],
        ),
        alert(
            "etcdDatabaseQuotaLowSpace",
            "critical",
            "10m",
            "\
100
* max by (@P) (last_over_time(etcd_mvcc_db_total_size_in_use_in_bytes{@S}[5m]))
/ (max by (@P) (last_over_time(etcd_server_quota_backend_bytes{@S}[5m])) > 0)
> 95",
            "A store is all but full.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} uses {{ $value | humanize }} % of its \
             quota; at all of it writes are refused.",
            vec![
                case(
                    "97 %",
                    sizes("970+0x400", "2000+0x400", "1000+0x400"),
                    vec![(POD.to_vec(), "97")],
                ),
                case(
                    "files beyond the quota, most of them free",
                    sizes("100+0x400", "2000+0x400", "1000+0x400"),
                    Vec::new(),
                ),
            ],
        ),
        alert(
            "etcdExcessiveDatabaseGrowth",
            "warning",
            "10m",
            "\
max by (@P) (predict_linear(etcd_mvcc_db_total_size_in_use_in_bytes{@S}[4h], 4 * 60 * 60))
> on (@P)
(max by (@P) (etcd_server_quota_backend_bytes{@S}) > 0)",
            "A store grows very fast.",
            "As it grew in the last four hours, {{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} is \
             full within the next four.",
            vec![
                case(
                    "a hundredth each step",
                    sizes("0+10x400", "0+10x400", "5000+0x400"),
                    vec![(POD.to_vec(), "11200")],
                ),
                case("none", sizes("100+0x400", "100+0x400", "5000+0x400"), Vec::new()),
            ],
        ),
        alert(
            "etcdDatabaseHighFragmentationRatio",
            "warning",
            "10m",
            "\
max by (@P) (last_over_time(etcd_mvcc_db_total_size_in_use_in_bytes{@S}[5m]))
/ max by (@P) (last_over_time(etcd_mvcc_db_total_size_in_bytes{@S}[5m]))
< 0.5
and on (@P) max by (@P) (etcd_mvcc_db_total_size_in_use_in_bytes{@S}) > 104857600",
            "Most of a store's files is free.",
            "Only {{ $value | humanizePercentage }} of the files of {{ $labels.pod }} in \
             {{ $labels.namespace }}/{{ $labels.cluster }} is in use.",
            vec![
                case(
                    "a fifth of a gigabyte",
                    sizes("200000000+0x400", "1000000000+0x400", "8000000000+0x400"),
                    vec![(POD.to_vec(), "20%")],
                ),
                case(
                    "a small store",
                    sizes("2000+0x400", "10000+0x400", "8000000000+0x400"),
                    Vec::new(),
                ),
            ],
        ),
    ]
}
