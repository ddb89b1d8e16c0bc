//! What is below a member: its disk, its processors, its clock, and how far behind these leave it.

use super::{Series, alert, fires, quiet};
use crate::monitoring::cases::{POD, all, but, healthy, histogram, of, unscraped};
use crate::monitoring::rules::Alert;

pub(super) fn machines() -> Vec<Alert> {
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
