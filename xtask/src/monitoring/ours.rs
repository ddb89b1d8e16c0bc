//! What MetaStore alerts of by its own: members, the machines below them, the network between them,
//! tuning, and the operator. Where a plan of timing is in force, thresholds follow it.

use super::cases::{POD, STORE, all, but, healthy, histogram, of, unheard, unscraped};
use super::rules::{Alert, Case};

type Series = Vec<(String, String)>;

fn alert(
    name: &'static str,
    severity: &'static str,
    hold: &'static str,
    query: &str,
    summary: &'static str,
    description: &'static str,
    cases: Vec<Case>,
) -> Alert {
    let (query, labels) = (query.trim().to_owned(), Vec::new());
    Alert { name, query, hold, severity, labels, summary, description, cases }
}

/// It fires, of one member or cluster.
fn fires(
    name: &'static str,
    series: Series,
    labels: &[(&'static str, &'static str)],
    value: &'static str,
) -> Case {
    Case { name, step: "15s", series, at: "30m", fires: vec![(labels.to_vec(), value)] }
}

/// It does not.
fn quiet(name: &'static str, series: Series) -> Case {
    Case { name, step: "15s", series, at: "30m", fires: Vec::new() }
}

/// Members and what is below and between them.
pub(super) fn members() -> Vec<Alert> {
    let mut alerts = presence();
    alerts.extend(clusters());
    alerts.extend(machines());
    alerts.extend(network());
    alerts.extend(timing());
    alerts
}

fn presence() -> Vec<Alert> {
    let killed = || but(unscraped(healthy(), 2, "0.001"), unheard(2));
    let stalled = || but(unscraped(healthy(), 2, "10"), unheard(2));
    vec![
        alert(
            "MetaStoreMemberDown",
            "warning",
            "1m",
            "@UP == 0 unless on (@P) @STALLED",
            "A member is down.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} is not there: nothing \
             answers where its metrics should be, or its peers know it and it has no pod.",
            vec![
                fires("refused connections", killed(), &POD, "0"),
                fires(
                    "a pod that is gone with its target",
                    but(
                        unscraped(healthy(), 2, "0.001"),
                        [
                            unheard(2),
                            vec![
                                of(2, "up", "", "1+0x20 stale"),
                                of(2, "scrape_duration_seconds", "", "0.01+0x20 stale"),
                            ],
                        ]
                        .concat(),
                    ),
                    &POD,
                    "0",
                ),
                quiet("three that are well", healthy()),
                quiet("one that stands still has an alert of its own", stalled()),
            ],
        ),
        alert(
            "MetaStoreMemberStalled",
            "warning",
            "30s",
            "@STALLED",
            "A member stands still.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} takes connections and \
             answers nothing; its peers have not heard it for {{ $value | humanizeDuration }}.",
            vec![
                fires("scrapes that time out, silence for peers", stalled(), &POD, "25m 0s"),
                quiet("one that is gone is not stalled", killed()),
                quiet("three that are well", healthy()),
            ],
        ),
        alert(
            "MetaStoreMemberPartitioned",
            "warning",
            "30s",
            "@DEAF and on (@C) max by (@C) (etcd_server_has_leader{@S}) == 1",
            "A member is cut off from its peers.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} runs and is scraped, but \
             hears no peer, or none hears it, for {{ $value | humanizeDuration }}; the others have a leader.",
            vec![
                fires("nothing heard on either side", but(healthy(), cut_off()), &POD, "25m 0s"),
                fires(
                    "heard by nobody, though it hears them",
                    but(healthy(), unheard(2)),
                    &POD,
                    "25m 0s",
                ),
                quiet("one that is gone is not cut off", killed()),
                quiet("three that are well", healthy()),
            ],
        ),
    ]
}

/// Nothing goes from or to member 2.
fn cut_off() -> Series {
    let mut series = unheard(2);
    for peer in ["a0", "b1"] {
        let to = format!("To=\"{peer}\"");
        series.push(of(2, "metastore_peer_silent_seconds", &to, "0.05+0x20 15+15x380"));
    }
    series.push(of(2, "etcd_server_has_leader", "", "1+0x20 0+0x380"));
    series
}

fn clusters() -> Vec<Alert> {
    let nobody = || all("etcd_server_has_leader", "", "1+0x20 0+0x380");
    let mut everybody_gone = healthy();
    for n in 0..3 {
        everybody_gone = unscraped(everybody_gone, n, "0.001");
    }
    vec![
        alert(
            "MetaStoreNoLeader",
            "critical",
            "30s",
            "(max by (@C) (etcd_server_has_leader{@S}) or max by (@C) (@UP)) == 0",
            "A cluster has no leader.",
            "No member of {{ $labels.namespace }}/{{ $labels.cluster }} knows a leader, or none can be \
             scraped: nothing can be written, nor read but for serializable reads.",
            vec![
                fires("members without a leader", but(healthy(), nobody()), &STORE, "0"),
                fires("no member at all", everybody_gone, &STORE, "0"),
                quiet("one that is cut off", but(healthy(), cut_off())),
            ],
        ),
        alert(
            "MetaStoreQuorumAtRisk",
            "warning",
            "3m",
            "\
count by (@C) (
  max by (@P) (etcd_server_has_leader{@S} == 1)
  unless on (@P) max by (@P) (etcd_server_is_learner{@S} == 1)
)
<= on (@C)
  floor((count by (@C) (@UP) - on (@C) sum by (@C) (etcd_server_is_learner{@S})) / 2) + 1
and on (@C) count by (@C) (@UP) >= 3",
            "One more loss stops a cluster.",
            "Of {{ $labels.namespace }}/{{ $labels.cluster }} only {{ $value }} voters are in touch with the \
             leader, which is a quorum and no more.",
            vec![
                fires(
                    "two of three",
                    but(unscraped(healthy(), 2, "0.001"), unheard(2)),
                    &STORE,
                    "2",
                ),
                quiet("three of three", healthy()),
            ],
        ),
        alert(
            "MetaStoreNoSpace",
            "critical",
            "30s",
            "max by (@C) (metastore_alarm{alarm=\"nospace\", @S}) == 1",
            "A cluster is full and refuses writes.",
            "{{ $labels.namespace }}/{{ $labels.cluster }} has outgrown its quota: the alarm NOSPACE is \
             raised, and every member refuses puts until it is disarmed.",
            vec![
                fires(
                    "the alarm on every member",
                    all("metastore_alarm", "alarm=\"nospace\"", "0+0x20 1+0x380"),
                    &STORE,
                    "1",
                ),
                quiet("no alarm", all("metastore_alarm", "alarm=\"nospace\"", "0+0x400")),
            ],
        ),
        alert(
            "MetaStoreQuotaNearlyFull",
            "warning",
            "5m",
            "\
max by (@C) (etcd_mvcc_db_total_size_in_use_in_bytes{@S})
/ on (@C)
min by (@C) (etcd_server_quota_backend_bytes{@S} > 0)
> 0.8",
            "A cluster is nearly full.",
            "{{ $labels.namespace }}/{{ $labels.cluster }} uses {{ $value | humanizePercentage }} of its \
             quota; at all of it every member refuses writes.",
            vec![
                fires("nine tenths", filled("900", "1000"), &STORE, "90%"),
                quiet("a tenth", filled("100", "1000")),
                quiet("no quota", filled("900", "0")),
            ],
        ),
        alert(
            "MetaStoreCorrupt",
            "critical",
            "",
            "max by (@C) (metastore_alarm{alarm=\"corrupt\", @S}) == 1",
            "A cluster is said to be corrupt.",
            "In {{ $labels.namespace }}/{{ $labels.cluster }} the alarm CORRUPT is raised: somebody holds that \
             members' data differ, and writes are refused.",
            vec![
                fires(
                    "the alarm",
                    all("metastore_alarm", "alarm=\"corrupt\"", "0+0x20 1+0x380"),
                    &STORE,
                    "1",
                ),
                quiet(
                    "a store that was rebuilt has an alert of its own",
                    but(all("metastore_alarm", "alarm=\"corrupt\"", "0+0x400"), rebuilt("0")),
                ),
            ],
        ),
        alert(
            "MetaStoreStoreRebuilt",
            "warning",
            "",
            "max by (@P) (metastore_hash_check_total{result=\"mismatch\", @S}) > 0 and on (@P) \
             time() - process_start_time_seconds{@S} < 3600",
            "A member's store was in doubt and has been rebuilt.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} started with a store that was \
             damaged or did not match its digest, and built it anew from snapshot and log: its disk may be \
             failing.",
            vec![
                fires("a mismatch at boot", rebuilt("0"), &POD, "1"),
                quiet(
                    "stores that were as they should be",
                    [
                        all("metastore_hash_check_total", "result=\"mismatch\"", "0+0x400"),
                        all("metastore_hash_check_total", "result=\"ok\"", "0+1x400"),
                    ]
                    .concat(),
                ),
                quiet("one that was rebuilt hours ago", rebuilt("-7200")),
            ],
        ),
        certificates("warning", "1h", "604800", "5d 0h 0m 0s", "432000"),
        certificates("critical", "5m", "86400", "1h 0m 0s", "3600"),
    ]
}

/// Member 2 found its store in doubt when it started.
/// A mismatch found at boot, which is counted before anyone can have scraped the member.
fn rebuilt(started_s: &str) -> Series {
    vec![
        of(2, "metastore_hash_check_total", "result=\"mismatch\"", "1+0x400"),
        of(2, "process_start_time_seconds", "", &format!("{started_s}+0x400")),
    ]
}

fn filled(used: &str, quota: &str) -> Series {
    let used = format!("{used}+0x400");
    let quota = format!("{quota}+0x400");
    [
        all("etcd_mvcc_db_total_size_in_use_in_bytes", "", &used),
        all("etcd_server_quota_backend_bytes", "", &quota),
    ]
    .concat()
}

/// A certificate that runs out within `seconds`; in the test, one that has `left` more of them.
fn certificates(
    severity: &'static str,
    hold: &'static str,
    seconds: &str,
    value: &'static str,
    left: &str,
) -> Alert {
    let expires = |after: &str| {
        let after: u64 = after.parse::<u64>().expect("seconds") + 7200;
        let samples = format!("{after}+0x500");
        vec![of(0, "metastore_tls_certificate_expiry_seconds", "scope=\"peer\"", &samples)]
    };
    let labels = |severity| {
        let mut labels = POD.to_vec();
        labels[2].1 = "demo-0";
        labels.extend([("scope", "peer"), ("severity", severity)]);
        labels
    };
    let mut ends_soon = fires("one that ends soon", expires(left), &[], value);
    ends_soon.fires = vec![(labels("warning"), value)];
    if severity == "critical" {
        ends_soon.fires.push((labels("critical"), value));
    }
    let mut cases = vec![ends_soon, quiet("one that lasts for a month", expires("2592000"))];
    for case in &mut cases {
        case.at = "2h";
    }
    alert(
        "MetaStoreCertificateExpiry",
        severity,
        hold,
        &format!(
            "min by (@P, scope) (metastore_tls_certificate_expiry_seconds{{@S}} > 0) - time() < {seconds}"
        ),
        "A certificate runs out.",
        "The {{ $labels.scope }} certificate of {{ $labels.pod }} in {{ $labels.namespace }}/{{ $labels.cluster }} \
         runs out in {{ $value | humanizeDuration }} and has not been renewed.",
        cases,
    )
}

fn machines() -> Vec<Alert> {
    let disk = |what: &str, from, to| {
        let metric = format!("etcd_disk_wal_{what}_duration_seconds_bucket");
        histogram(&metric, "", from, to)
    };
    vec![
        alert(
            "MetaStoreDiskSlow",
            "warning",
            "2m",
            "\
max by (@P) (
  label_replace(
    histogram_quantile(0.99, sum by (@P, le) (rate(etcd_disk_wal_fsync_duration_seconds_bucket{@S}[2m]))),
    \"of\", \"sync\", \"\", \"\"
  )
  or
  label_replace(
    histogram_quantile(0.99, sum by (@P, le) (rate(etcd_disk_wal_write_duration_seconds_bucket{@S}[2m]))),
    \"of\", \"write\", \"\", \"\"
  )
)
> 0.1",
            "A member's disk is slow.",
            "One in a hundred syncs, or writes, of the log of {{ $labels.pod }} in \
             {{ $labels.namespace }}/{{ $labels.cluster }} takes {{ $value | humanizeDuration }} or more.",
            vec![
                fires("syncs of a fifth of a second", disk("fsync", "0.128", "0.256"), &POD, "254.7ms"),
                fires("writes of a fifth of a second", disk("write", "0.128", "0.256"), &POD, "254.7ms"),
                quiet("syncs below 64 ms", disk("fsync", "0.032", "0.064")),
            ],
        ),
        alert(
            "MetaStoreDiskStalled",
            "critical",
            "15s",
            "\
max by (@P) (metastore_wal_sync_pending_seconds{@S})
> on (@P)
clamp_min(max by (@P) (metastore_raft_timing_effective_seconds{timing=\"election\", @S}), 1)",
            "A member's disk stands still.",
            "One sync of the log of {{ $labels.pod }} in {{ $labels.namespace }}/{{ $labels.cluster }} has been \
             under way for {{ $value | humanizeDuration }}, longer than the election timeout in force.",
            vec![
                fires(
                    "a sync that does not end",
                    but(
                        healthy(),
                        vec![of(2, "metastore_wal_sync_pending_seconds", "", "0+0x20 15+15x380")],
                    ),
                    &POD,
                    "25m 0s",
                ),
                quiet(
                    "syncs that end",
                    but(healthy(), all("metastore_wal_sync_pending_seconds", "", "0.02+0x400")),
                ),
            ],
        ),
        alert(
            "MetaStoreCpuStarved",
            "warning",
            "1m",
            "@STARVED > 0.5",
            "The machine does not let a member run.",
            "For {{ $value | humanize }} seconds of each second {{ $labels.pod }} of \
             {{ $labels.namespace }}/{{ $labels.cluster }} is kept from running: by its limit of CPU, by its \
             neighbours, or by a machine that stands still.",
            vec![
                fires(
                    "a limit of CPU",
                    vec![of(2, "metastore_process_cpu_throttled_seconds_total", "", "0+12x400")],
                    &POD,
                    "800m",
                ),
                fires(
                    "neighbours",
                    vec![of(2, "metastore_process_cpu_pressure_seconds_total", "", "0+12x400")],
                    &POD,
                    "800m",
                ),
                fires(
                    "a loop that comes round late",
                    vec![of(2, "metastore_raft_loop_stall_seconds_sum", "", "0+12x400")],
                    &POD,
                    "800m",
                ),
                quiet(
                    "a little of each",
                    [
                        all("metastore_process_cpu_throttled_seconds_total", "", "0+0x400"),
                        all("metastore_process_cpu_pressure_seconds_total", "", "0+1x400"),
                        all("metastore_raft_loop_stall_seconds_sum", "", "0+0.1x400"),
                    ]
                    .concat(),
                ),
            ],
        ),
        alert(
            "MetaStoreMemberLagging",
            "warning",
            "1m",
            "\
(
  @LAG > 100
  and on (@P) @UP == 1
  and on (@C) @LAG > on (@C) group_left () 5 * max by (@C) (rate(etcd_server_proposals_committed_total{@S}[1m]))
)
or
max by (@P) (etcd_server_proposals_committed_total{@S} - etcd_server_proposals_applied_total{@S}) > 1000",
            "A member lags behind.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} is {{ $value | humanize }} \
             entries behind: more than five seconds of writes that the leader has, or a thousand it has and \
             has not applied.",
            vec![
                fires("entries that do not arrive", but(healthy(), lag("3000+0x400")), &POD, "3k"),
                fires(
                    "entries that are not applied",
                    vec![
                        of(2, "etcd_server_proposals_committed_total", "", "5000+0x400"),
                        of(2, "etcd_server_proposals_applied_total", "", "3000+0x400"),
                    ],
                    &POD,
                    "2k",
                ),
                quiet("a burst on its way", but(healthy(), lag("300+0x400"))),
                quiet(
                    "one that is down",
                    unscraped(but(healthy(), lag("3000+0x400")), 2, "0.001"),
                ),
            ],
        ),
        alert(
            "MetaStoreClockSkew",
            "warning",
            "1m",
            "@OFFSET > 0.5",
            "A member's clock is off.",
            "The wall clock of {{ $labels.pod }} in {{ $labels.namespace }}/{{ $labels.cluster }} is \
             {{ $value | humanizeDuration }} off from that of every peer.",
            vec![
                fires("one clock is ahead", but(healthy(), clock()), &POD, "2s"),
                quiet("clocks that agree", healthy()),
            ],
        ),
    ]
}

/// Member 2 lags, as the leader says; 100 entries are committed each second.
fn lag(samples: &str) -> Series {
    let mut series = all("etcd_server_proposals_committed_total", "", "0+1500x400");
    series.extend(all("etcd_server_proposals_applied_total", "", "0+1500x400"));
    series.push(of(0, "metastore_peer_lag_entries", "To=\"c2\"", samples));
    series.push(of(0, "metastore_peer_lag_entries", "To=\"b1\"", "0+0x400"));
    series
}

/// Member 2's clock is two seconds ahead.
fn clock() -> Series {
    let metric = "metastore_peer_clock_offset_seconds";
    vec![
        of(0, metric, "To=\"c2\"", "2+0x400"),
        of(1, metric, "To=\"c2\"", "2+0x400"),
        of(2, metric, "To=\"a0\"", "-2+0x400"),
        of(2, metric, "To=\"b1\"", "-2+0x400"),
    ]
}

fn network() -> Vec<Alert> {
    // From the 60th sample on member 2 is so far from both.
    let far = |samples: &str| {
        let metric = "metastore_peer_srtt_seconds";
        vec![
            of(0, metric, "To=\"c2\"", samples),
            of(1, metric, "To=\"c2\"", samples),
            of(2, metric, "To=\"a0\"", samples),
            of(2, metric, "To=\"b1\"", samples),
        ]
    };
    let link = |quantile: &str, samples: &str| {
        let more = format!("To=\"c2\",quantile=\"{quantile}\"");
        of(0, "metastore_peer_rtt_quantile_seconds", &more, samples)
    };
    let mut link_labels = POD.to_vec();
    link_labels[2].1 = "demo-0";
    link_labels.push(("To", "c2"));
    vec![
        alert(
            "MetaStorePeerFar",
            "warning",
            "1m",
            "\
(
  @NEAREST * 5
  > on (@P) max by (@P) (metastore_raft_timing_effective_seconds{timing=\"election\", @S})
)
or
(
  @NEAREST > 0.01
  and on (@P) @NEAREST > on (@C) group_left () 4 * quantile by (@C) (0.5, @NEAREST)
  and on (@P) @NEAREST > on (@P) 2 * quantile_over_time(0.5, metastore:member_nearest_rtt_seconds[1d])
)",
            "A member is far from its peers.",
            "Even to its nearest peer {{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} has a \
             round trip that the election timeout in force is too short for, or one that became four times \
             what members of this cluster have.",
            vec![
                fires(
                    "forty times as far as before",
                    but(healthy(), far("0.0005+0x80 0.04+0x320")),
                    &POD,
                    "0.04",
                ),
                fires(
                    "too far for the election timeout",
                    but(healthy(), far("0.3+0x400")),
                    &POD,
                    "1.5",
                ),
                quiet("one that has always been in another region", but(healthy(), far("0.04+0x400"))),
                quiet("three that are well", healthy()),
            ],
        ),
        alert(
            "MetaStoreSlowPeerLink",
            "warning",
            "5m",
            "\
(
  max by (@P, To) (metastore_peer_loss_ratio{@S}) > 0.02
  or
  (
    max by (@P, To) (metastore_peer_rtt_quantile_seconds{quantile=\"0.99\", @S}) > 0.05
    and on (@P, To)
    max by (@P, To) (metastore_peer_rtt_quantile_seconds{quantile=\"0.99\", @S})
    > on (@P, To) 10 * max by (@P, To) (metastore_peer_rtt_quantile_seconds{quantile=\"0.5\", @S})
  )
)
unless on (@P, To) metastore_peer_silent_seconds{@S} > 3",
            "The network between two members is bad.",
            "From {{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} to the member \
             {{ $labels.To }} more than one probe in fifty is lost, or one in a hundred takes more than ten \
             times as long as most.",
            vec![
                fires(
                    "losses",
                    but(healthy(), vec![of(0, "metastore_peer_loss_ratio", "To=\"c2\"", "0.05+0x400")]),
                    &link_labels,
                    "0.05",
                ),
                fires(
                    "late packets",
                    but(healthy(), vec![link("0.99", "0.2+0x400"), link("0.5", "0.001+0x400")]),
                    &link_labels,
                    "0.2",
                ),
                quiet(
                    "far, but even",
                    but(healthy(), vec![
                        link("0.99", "0.09+0x400"),
                        link("0.5", "0.08+0x400"),
                        of(0, "metastore_peer_loss_ratio", "To=\"c2\"", "0.001+0x400"),
                    ]),
                ),
                quiet(
                    "one that is not there at all",
                    but(but(healthy(), unheard(2)), vec![
                        of(0, "metastore_peer_loss_ratio", "To=\"c2\"", "0+0x20 1+0x380"),
                    ]),
                ),
            ],
        ),
    ]
}

fn timing() -> Vec<Alert> {
    vec![alert(
        "MetaStoreSpuriousElections",
        "warning",
        "5m",
        "\
sum by (@C) (increase(metastore_false_elections_total{@S}[1h])) > 1.5
or
max by (@C) (metastore_heartbeat_slack_ratio{@S}) > 0.8",
        "Leaders that are alive are deposed, or nearly.",
        "In {{ $labels.namespace }}/{{ $labels.cluster }} elections deposed a living leader twice within an \
         hour, or gaps between its signs of life come close to the election timeout in force.",
        vec![
            fires(
                "three within half an hour",
                all("metastore_false_elections_total", "", "0+0x60 1+0x340"),
                &STORE,
                "3.01",
            ),
            fires(
                "gaps as long as the timeout",
                all("metastore_heartbeat_slack_ratio", "", "0.9+0x400"),
                &STORE,
                "0.9",
            ),
            quiet(
                "one, once",
                [
                    vec![of(0, "metastore_false_elections_total", "", "0+0x60 1+0x340")],
                    all("metastore_heartbeat_slack_ratio", "", "0.3+0x400"),
                ]
                .concat(),
            ),
        ],
    )]
}

/// Of one MetaStore, as the operator says it: under the labels members have.
fn of_store(query: &str) -> String {
    format!(
        "label_replace(\n  label_replace(\n    {query},\n    \"namespace\", \"$1\", \"metastore_namespace\", \"(.*)\"\n  ),\n  \
         \"cluster\", \"$1\", \"metastore\", \"(.*)\"\n)"
    )
}

const OPERATOR: [(&str, &str); 3] =
    [("namespace", "system"), ("pod", "operator-0"), ("container", "operator")];

/// A series of the operator.
fn said(metric: &str, more: &str, samples: &str) -> (String, String) {
    let labels: Vec<String> =
        OPERATOR.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let comma = if more.is_empty() { "" } else { "," };
    (format!("{metric}{{{}{comma}{more}}}", labels.join(",")), samples.to_owned())
}

/// A series of the operator about one MetaStore.
fn said_of(metric: &str, more: &str, samples: &str) -> (String, String) {
    let comma = if more.is_empty() { "" } else { "," };
    said(metric, &format!("metastore_namespace=\"ns\",metastore=\"demo\"{comma}{more}"), samples)
}

const STORE_SAID: [(&str, &str); 4] = [
    ("namespace", "ns"),
    ("cluster", "demo"),
    ("metastore_namespace", "ns"),
    ("metastore", "demo"),
];

/// The operator, and what it does to clusters.
pub(super) fn operator() -> Vec<Alert> {
    let leads = || said("metastore_operator_leader", "", "1+0x400");
    let mut frozen = STORE_SAID.to_vec();
    frozen.push(("reason", "Rollbacks"));
    let frozen_at = |samples: &str| {
        vec![said_of("metastore_operator_autotune_frozen", "reason=\"Rollbacks\"", samples)]
    };
    let passed = |samples: &str| {
        vec![leads(), said_of("metastore_operator_last_reconcile_timestamp_seconds", "", samples)]
    };
    let passes = |ok: &str, error: &str| {
        let metric = "metastore_operator_reconciles_total";
        vec![leads(), said(metric, "result=\"ok\"", ok), said(metric, "result=\"error\"", error)]
    };
    vec![
        alert(
            "MetaStoreOperatorDown",
            "warning",
            "1m",
            "\
(
  group by (namespace) (last_over_time(metastore_operator_leader[1d]))
  unless on (namespace) group by (namespace) (metastore_operator_leader == 1)
)
or
absent(last_over_time(metastore_operator_leader[1d]))",
            "No operator works.",
            "No operator{{ if $labels.namespace }} in {{ $labels.namespace }}{{ end }} can be scraped and holds the lease. Members go on; nothing \
             is repaired, scaled, upgraded or tuned.",
            vec![
                fires(
                    "an operator that is gone",
                    vec![said("metastore_operator_leader", "", "1+0x20 stale")],
                    &[("namespace", "system")],
                    "1",
                ),
                fires(
                    "one that never gets the lease",
                    vec![said("metastore_operator_leader", "", "0+0x400")],
                    &[("namespace", "system")],
                    "1",
                ),
                Case {
                    name: "nobody has ever seen one",
                    step: "15s",
                    series: healthy(),
                    at: "30m",
                    fires: vec![(vec![("namespace", "")], "1")],
                },
                quiet("one that works", vec![leads()]),
            ],
        ),
        alert(
            "MetaStoreOperatorNotReconciling",
            "warning",
            "5m",
            &format!(
                "{} > 900\nor\n\
                 sum by (namespace) (rate(metastore_operator_reconciles_total{{result=\"error\"}}[10m]))\n\
                 / on (namespace)\n\
                 sum by (namespace) (rate(metastore_operator_reconciles_total[10m]))\n> 0.5",
                of_store(
                    "time() - max by (metastore_namespace, metastore) \
                     (metastore_operator_last_reconcile_timestamp_seconds)"
                )
            ),
            "The operator does not get on.",
            "In {{ $labels.namespace }} the operator has not looked at a MetaStore for a quarter of an hour, or \
             more than half of its passes fail.",
            vec![
                fires("no pass for 25 minutes", passed("300+0x400"), &STORE_SAID, "1500"),
                fires(
                    "passes that fail",
                    passes("0+1x400", "0+3x400"),
                    &[("namespace", "system")],
                    "0.75",
                ),
                quiet("passes as they should be", passed("0+15x400")),
                quiet("few that fail", passes("0+9x400", "0+1x400")),
            ],
        ),
        alert(
            "MetaStoreTuningFrozen",
            "warning",
            "15m",
            &of_store(
                "max by (metastore_namespace, metastore, reason) (metastore_operator_autotune_frozen) == 1",
            ),
            "Timing does not follow the network.",
            "Tuning of {{ $labels.namespace }}/{{ $labels.cluster }} is held: {{ $labels.reason }}. The timing \
             in force stays, whatever the network does.",
            vec![
                fires("held for longer", frozen_at("1+0x400"), &frozen, "1"),
                quiet("held for a moment", frozen_at("0+0x100 1+0x20 0+0x280")),
            ],
        ),
        alert(
            "MetaStoreTuningRolledBack",
            "warning",
            "",
            "sum by (namespace) (increase(metastore_operator_autotune_rollbacks_total[1h])) > 0",
            "A plan of timing was taken back.",
            "The operator in {{ $labels.namespace }} took back a plan of timing within the last hour: leaders \
             were lost under it, or a member refused it.",
            vec![
                fires(
                    "one was",
                    vec![said("metastore_operator_autotune_rollbacks_total", "", "0+0x60 1+0x340")],
                    &[("namespace", "system")],
                    "1.0",
                ),
                quiet(
                    "none was",
                    vec![said("metastore_operator_autotune_rollbacks_total", "", "3+0x400")],
                ),
            ],
        ),
    ]
}
