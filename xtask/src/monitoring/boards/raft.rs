//! Leadership, timing against the network it has to suit, and what crosses it.

use super::super::panel::{
    Board, Panel, ask, column, heat, lines, quantile, row, stat, table, timeline,
};
use super::{MEMBERS_OF, POD, gauge_of_cluster, gauge_of_each};

/// A line of a pair of members.
const PAIR: &str = "{{namespace}}/{{cluster}}/{{pod}} → {{To}}";

pub(super) fn board() -> Board {
    let mut panels = leadership();
    panels.extend(timing());
    panels.extend(network());
    panels.extend(proposals());
    Board {
        uid: "metastore-raft",
        title: "MetaStore / Raft and tuning",
        about: "Who leads, how soon a lost leader is missed, and whether timing suits the network.",
        pods_of: MEMBERS_OF,
        panels,
    }
}

fn leadership() -> Vec<Panel> {
    vec![
        row("Leadership"),
        timeline(
            "Who leads",
            "Which member led, and when.",
            "metastore-no-leader",
            gauge_of_each("etcd_server_is_leader"),
        )
        .words(&[("0", "follows", "text"), ("1", "leads", "blue")]),
        lines(
            "Elections",
            "Elections that members stood in in each interval, by what made them stand: the \
             timeout, a transfer, a hint that the leader's process was gone, or a plan.",
            "short",
            "metastore-spurious-elections",
            vec![
                ask(
                    "sum by (@C, cause) (increase(metastore_elections_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}} {{cause}}",
                ),
                ask(
                    "sum by (@C) (increase(metastore_false_elections_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}} deposed the living",
                ),
            ],
        ),
        lines(
            "Time without a leader",
            "Share of time in which a member knew no leader.",
            "percentunit",
            "metastore-no-leader",
            vec![ask("max by (@P) (rate(metastore_leaderless_seconds_total{@S}[@W]))", POD)],
        ),
        lines(
            "Asked before standing, and hints",
            "Times members asked whether an election could be won, and crash hints they followed.",
            "short",
            "metastore-spurious-elections",
            vec![
                ask(
                    "sum by (@C) (increase(metastore_precampaigns_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}} asked",
                ),
                ask(
                    "sum by (@C, result) (increase(metastore_crash_hints_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}} hints {{result}}",
                ),
            ],
        ),
    ]
}

fn timing() -> Vec<Panel> {
    vec![
        row("Timing"),
        stat(
            "Plan",
            "Number of the newest plan of timing that members have applied; 0: their flags rule.",
            "short",
            "metastore-tuning-frozen",
            gauge_of_cluster("metastore_tuning_epoch"),
        ),
        stat(
            "How far the plan is",
            "Phase of the newest plan of timing; settled is the last.",
            "short",
            "metastore-tuning-frozen",
            vec![ask("min by (@C) (metastore_tuning_phase{@S})", "{{namespace}}/{{cluster}}")],
        )
        .words(&[
            ("0", "none", "text"),
            ("1", "raise", "blue"),
            ("2", "beat", "blue"),
            ("3", "lease", "blue"),
            ("4", "settle", "blue"),
            ("5", "settled", "green"),
        ]),
        stat(
            "Heartbeat in force",
            "Time between heartbeats of the leader.",
            "s",
            "metastore-tuning-frozen",
            vec![ask("max by (@C) (metastore_raft_timing_effective_seconds{timing=\"heartbeat\", @S})", "{{namespace}}/{{cluster}}")],
        ),
        stat(
            "Election timeout in force",
            "How long a follower waits for a sign of life before it asks for an election; drawn from once to twice that.",
            "s",
            "metastore-tuning-frozen",
            vec![ask("max by (@C) (metastore_raft_timing_effective_seconds{timing=\"election\", @S})", "{{namespace}}/{{cluster}}")],
        ),
        stat(
            "Predicted failover",
            "How long the operator expects a cluster to be without a leader when one is lost.",
            "s",
            "metastore-tuning-frozen",
            vec![ask("metastore_operator_autotune_predicted_failover_seconds{metastore_namespace=~\"$namespace\", metastore=~\"$cluster\"}", "{{metastore}}")],
        ),
        stat(
            "Measured failover",
            "From the last sign of the old leader until a new one was known: half of all since the members began were shorter.",
            "s",
            "metastore-no-leader",
            vec![ask("histogram_quantile(0.5, sum by (@C, le) (metastore_failover_duration_seconds_bucket{@S}))", "{{namespace}}/{{cluster}}")],
        ),
        lines(
            "Timing against round trips",
            "The election timeout has to be many times the longest round trip, the heartbeat about one. Lines \
             that cross mean that timing does not suit the network.",
            "s",
            "metastore-peer-far",
            vec![
                ask("max by (@C) (metastore_raft_timing_effective_seconds{timing=\"election\", @S})", "{{namespace}}/{{cluster}} election timeout"),
                ask("max by (@C) (metastore_raft_timing_effective_seconds{timing=\"heartbeat\", @S})", "{{namespace}}/{{cluster}} heartbeat"),
                ask("max by (@C) (metastore_peer_rtt_quantile_seconds{quantile=\"0.99\", @S})", "{{namespace}}/{{cluster}} round trip, slowest in a hundred"),
                ask("max by (@C) (metastore_peer_srtt_seconds{@S})", "{{namespace}}/{{cluster}} round trip, smoothed"),
            ],
        )
        .logarithmic()
        .size(12, 9),
        lines(
            "Flags against force",
            "What members' flags say, and what is in force.",
            "s",
            "metastore-tuning-frozen",
            vec![
                ask("max by (@C, timing) (metastore_raft_timing_flags_seconds{@S})", "{{namespace}}/{{cluster}} {{timing}} by flags"),
                ask("max by (@C, timing) (metastore_raft_timing_effective_seconds{@S})", "{{namespace}}/{{cluster}} {{timing}} in force"),
            ],
        )
        .logarithmic()
        .size(12, 9),
        lines(
            "Heartbeat gaps against the timeout",
            "The gap between the leader's signs of life that one in a thousand exceeds, as a share of the \
             election timeout. From 1 on elections begin.",
            "percentunit",
            "metastore-spurious-elections",
            gauge_of_each("metastore_heartbeat_slack_ratio"),
        )
        .steps("green", &[(0.8, "red")]),
        heat(
            "Heartbeat gaps",
            "Time between two signs of life of the leader, on its followers.",
            "s",
            "metastore-spurious-elections",
            "sum by (le) (increase(metastore_heartbeat_gap_seconds_bucket{@S}[@W]))",
        ),
        heat(
            "Failovers",
            "From the last sign of the old leader until a new one was known.",
            "s",
            "metastore-no-leader",
            "sum by (le) (increase(metastore_failover_duration_seconds_bucket{@S}[@W]))",
        ),
    ]
}

fn network() -> Vec<Panel> {
    // Peers are known by id; a column is the pod that has it, with its cluster: another's may be of that name.
    let by_name = |metric: &str| {
        format!(
            "max by (namespace, cluster, from, to) (label_join(label_replace({metric}, \"server_id\", \
             \"$1\", \"To\", \"(.*)\"), \"from\", \"/\", \"namespace\", \"cluster\", \"pod\") * on (@I) \
             group_left (to) label_join(@MEMBERS, \"to\", \"/\", \"namespace\", \"cluster\", \"pod\"))"
        )
    };
    vec![
        row("Network between members"),
        table(
            "Round trips",
            "Round trip from each member (row) to each other (column), smoothed.",
            "s",
            "metastore-peer-far",
            vec![column("A", &by_name("metastore_peer_srtt_seconds{@S}"))],
        )
        .matrix("from", "to")
        .size(8, 8),
        table(
            "Silence",
            "How long ago each member (row) last heard each other (column).",
            "s",
            "metastore-member-partitioned",
            vec![column("A", &by_name("metastore_peer_silent_seconds{@S}"))],
        )
        .matrix("from", "to")
        .size(8, 8),
        table(
            "Losses",
            "Share of probes from each member (row) to each other (column) that were not answered.",
            "percentunit",
            "metastore-slow-peer-link",
            vec![column("A", &by_name("metastore_peer_loss_ratio{@S}"))],
        )
        .matrix("from", "to")
        .size(8, 8),
        heat(
            "All round trips",
            "Round trips of probes between all members.",
            "s",
            "etcd-member-communication-slow",
            "sum by (le) (increase(etcd_network_peer_round_trip_time_seconds_bucket{@S}[@W]))",
        ),
        lines(
            "Slowest round trips in a hundred",
            "99 of 100 round trips between two members are shorter.",
            "s",
            "metastore-slow-peer-link",
            vec![ask(
                "max by (@P, To) (metastore_peer_rtt_quantile_seconds{quantile=\"0.99\", @S})",
                PAIR,
            )],
        ),
        lines(
            "Links",
            "Connections between members that stand, of each kind.",
            "short",
            "metastore-member-partitioned",
            vec![ask(
                "sum by (@P, Link) (metastore_peer_link_up{@S})",
                "{{namespace}}/{{cluster}}/{{pod}} {{Link}}",
            )],
        ),
        lines(
            "Sent to peers",
            "Bytes to peers, as on the wire, and what they were before compression.",
            "Bps",
            "metastore-slow-peer-link",
            vec![
                ask(
                    "sum by (@P) (rate(etcd_network_peer_sent_bytes_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}}/{{pod}} on the wire",
                ),
                ask(
                    "sum by (@P) (rate(metastore_network_peer_sent_plain_bytes_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}}/{{pod}} before compression",
                ),
            ],
        ),
        lines(
            "Clocks",
            "By how much a peer's wall clock is ahead.",
            "s",
            "metastore-clock-skew",
            vec![ask("max by (@P, To) (metastore_peer_clock_offset_seconds{@S})", PAIR)],
        ),
        lines(
            "Not sent",
            "Messages that could not be sent, and connections that were lost.",
            "cps",
            "etcd-members-down",
            vec![
                ask(
                    "sum by (@P) (rate(etcd_network_peer_sent_failures_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}}/{{pod}} not sent",
                ),
                ask(
                    "sum by (@P) (rate(etcd_network_disconnected_peers_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}}/{{pod}} connections lost",
                ),
            ],
        ),
    ]
}

fn proposals() -> Vec<Panel> {
    vec![
        row("Replication"),
        lines(
            "Entries committed and applied",
            "Entries that each member knows to be committed, and those it has applied.",
            "ops",
            "metastore-member-lagging",
            vec![
                ask(
                    "sum by (@P) (rate(etcd_server_proposals_committed_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}}/{{pod}} committed",
                ),
                ask(
                    "sum by (@P) (rate(etcd_server_proposals_applied_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}}/{{pod}} applied",
                ),
            ],
        ),
        lines(
            "Behind the leader",
            "Entries that the leader has and a follower has not.",
            "short",
            "metastore-member-lagging",
            vec![ask("max by (@P, To) (metastore_peer_lag_entries{@S})", PAIR)],
        ),
        lines(
            "Proposals pending and failed",
            "Proposals under way, and those that failed in a second.",
            "short",
            "etcd-high-number-of-failed-proposals",
            vec![
                ask(
                    "max by (@P) (etcd_server_proposals_pending{@S})",
                    "{{namespace}}/{{cluster}}/{{pod}} pending",
                ),
                ask(
                    "sum by (@P) (rate(etcd_server_proposals_failed_total{@S}[@W]))",
                    "{{namespace}}/{{cluster}}/{{pod}} failed per second",
                ),
            ],
        ),
        lines(
            "Commands in one entry",
            "How many commands share an entry of the log.",
            "short",
            "metastore-disk-slow",
            vec![ask(
                "sum by (@P) (rate(metastore_raft_batch_size_sum{@S}[@W])) / sum by (@P) (rate(metastore_raft_batch_size_count{@S}[@W]))",
                POD,
            )],
        ),
        lines(
            "On their way to followers",
            "Bytes of entries that were sent and not answered.",
            "bytes",
            "metastore-member-lagging",
            vec![ask("max by (@P, To) (metastore_peer_inflight_bytes{@S})", PAIR)],
        ),
        lines(
            "Refused appends",
            "Appends that a follower refused, for what is before them was missing.",
            "cps",
            "metastore-member-lagging",
            vec![ask("sum by (@P, To) (rate(metastore_peer_append_rejected_total{@S}[@W]))", PAIR)],
        ),
        lines(
            "How late the loop comes round",
            "99 of 100 passes of the loop that carries the protocol are less late.",
            "s",
            "metastore-cpu-starved",
            vec![ask(&quantile("0.99", "@P", "metastore_raft_loop_stall_seconds", ""), POD)],
        ),
    ]
}
