//! What this member exports, in one table: every maker of a metric takes type, labels, buckets and help
//! from here, and `docs/reference/metrics.md` is written from it. So there is no metric without its
//! meaning, and none is described that does not exist (a test holds both against each other).

use std::fmt::Write as _;

use prometheus::{
    Counter as FloatCounter, Gauge as FloatGauge, GaugeVec, Histogram as OneHistogram,
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    exponential_buckets,
};

use self::Kind::{Counter, Gauge, Histogram};

/// Upper bounds of the buckets of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bounds {
    /// The first, and how many there are, each twice the one before.
    Doubling(f64, usize),
    /// These.
    These(&'static [f64]),
}

impl Bounds {
    fn list(self) -> Vec<f64> {
        match self {
            Bounds::Doubling(first, count) => {
                must("bounds", exponential_buckets(first, 2.0, count))
            }
            Bounds::These(bounds) => bounds.to_vec(),
        }
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram(Bounds),
}

/// One metric.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help }
}

const fn doubling(first: f64, count: usize) -> Kind {
    Histogram(Bounds::Doubling(first, count))
}

/// etcd's bounds, which are those of Prometheus' Go library, from 5 ms on; below them finer ones, for
/// most calls end there; and one at the bound of the objective the dashboards count by.
const CALL_BOUNDS: &[f64] = &[
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2048, 0.25,
    0.5, 1.0, 2.5, 5.0, 10.0,
];

/// By name.
#[rustfmt::skip]
pub(crate) static METRICS: &[Metric] = &[
    metric("etcd_cluster_version", Gauge, &["cluster_version"], "Which version the cluster has."),
    metric("etcd_debugging_lease_granted_total", Counter, &[], "Leases granted."),
    metric("etcd_debugging_lease_renewed_total", Counter, &[], "Leases renewed by this leader."),
    metric("etcd_debugging_lease_revoked_total", Counter, &[], "Leases ended, whether they ran out or were revoked."),
    metric("etcd_debugging_lease_ttl_total", doubling(1.0, 24), &[], "Seconds leases were granted for."),
    metric("etcd_debugging_mvcc_compact_revision", Gauge, &[], "Revision of the last compaction."),
    metric("etcd_debugging_mvcc_current_revision", Gauge, &[], "Revision of the store."),
    metric("etcd_debugging_mvcc_db_compaction_keys_total", Counter, &[], "Records compaction has dropped from history."),
    metric("etcd_debugging_mvcc_db_compaction_last", Gauge, &[], "When a compaction last ended, in seconds since 1970; 0: none since the start."),
    metric("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", doubling(1.0, 13), &[], "Durations of single steps of a compaction, between which commands are applied."),
    metric("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", doubling(100.0, 14), &[], "Durations of whole compactions."),
    metric("etcd_debugging_mvcc_events_total", Counter, &[], "Events sent."),
    metric("etcd_debugging_mvcc_keys_total", Gauge, &[], "Keys."),
    metric("etcd_debugging_mvcc_pending_events_total", Gauge, &[], "Events waiting to be sent."),
    metric("etcd_debugging_mvcc_slow_watcher_total", Gauge, &[], "Watchers that read history to catch up."),
    metric("etcd_debugging_mvcc_total_put_size_in_bytes", Gauge, &[], "Bytes of the records this member has applied since it began."),
    metric("etcd_debugging_mvcc_watch_stream_total", Gauge, &[], "Watch streams."),
    metric("etcd_debugging_mvcc_watcher_total", Gauge, &[], "Watchers."),
    metric("etcd_debugging_server_alarms", Gauge, &["server_id", "alarm_type"], "1 for each alarm that is on, as this member knows it."),
    metric("etcd_debugging_server_lease_expired_total", Counter, &[], "Leases that ran out and were ended by this leader."),
    metric("etcd_debugging_snap_save_total_duration_seconds", doubling(0.001, 14), &[], "Durations of saving snapshots of the own state."),
    metric("etcd_disk_backend_commit_duration_seconds", doubling(0.001, 14), &[], "Durations of commits of the store on disk."),
    metric("etcd_disk_backend_defrag_duration_seconds", doubling(0.1, 13), &[], "Durations of defragmentations."),
    metric("etcd_disk_backend_snapshot_duration_seconds", doubling(0.01, 17), &[], "Durations of sending the store to a client."),
    metric("etcd_disk_defrag_inflight", Gauge, &[], "1 while a defragmentation is under way."),
    metric("etcd_disk_wal_fsync_duration_seconds", doubling(0.001, 14), &[], "Durations of fdatasync on the log."),
    metric("etcd_disk_wal_write_bytes_total", Gauge, &[], "Bytes written to the log."),
    metric("etcd_disk_wal_write_duration_seconds", doubling(0.001, 14), &[], "Durations of writes to the log."),
    metric("etcd_mvcc_db_total_size_in_bytes", Gauge, &[], "Size of the store on disk."),
    metric("etcd_mvcc_db_total_size_in_use_in_bytes", Gauge, &[], "Size of what lives in the store."),
    metric("etcd_mvcc_delete_total", Counter, &[], "Deletes applied by this member."),
    metric("etcd_mvcc_hash_duration_seconds", doubling(0.01, 15), &[], "Durations of hashing everything."),
    metric("etcd_mvcc_hash_rev_duration_seconds", doubling(0.01, 15), &[], "Durations of hashing at a revision."),
    metric("etcd_mvcc_put_total", Counter, &[], "Puts applied by this member."),
    metric("etcd_mvcc_range_total", Counter, &[], "Ranges answered by this member."),
    metric("etcd_mvcc_txn_total", Counter, &[], "Txns applied by this member."),
    metric("etcd_network_active_peers", Gauge, &["Local", "Remote"], "1 while the peer is connected and heard from."),
    metric("etcd_network_client_grpc_received_bytes_total", Counter, &[], "Bytes received from clients."),
    metric("etcd_network_client_grpc_sent_bytes_total", Counter, &[], "Bytes sent to clients."),
    metric("etcd_network_disconnected_peers_total", Counter, &["Local", "Remote"], "Connections to peers that were lost."),
    metric("etcd_network_known_peers", Gauge, &["Local", "Remote"], "1 for each member this member knows, itself among them."),
    metric("etcd_network_peer_received_bytes_total", Counter, &["From"], "Bytes received from peers, as on the wire."),
    metric("etcd_network_peer_received_failures_total", Counter, &["From"], "Streams from peers that broke or were refused."),
    metric("etcd_network_peer_round_trip_time_seconds", doubling(0.0001, 16), &["To"], "Round trips between peers."),
    metric("etcd_network_peer_sent_bytes_total", Counter, &["To"], "Bytes sent to peers, as on the wire."),
    metric("etcd_network_peer_sent_failures_total", Counter, &["To"], "Messages to peers not sent, for want of a connection or of room."),
    metric("etcd_network_server_stream_failures_total", Counter, &["Type", "API"], "Streams of clients that failed, by what failed."),
    metric("etcd_network_snapshot_receive_failures", Counter, &["From"], "Snapshots from peers that were not taken."),
    metric("etcd_network_snapshot_receive_inflights_total", Gauge, &["From"], "Snapshots on their way from a peer."),
    metric("etcd_network_snapshot_receive_success", Counter, &["From"], "Snapshots received from peers."),
    metric("etcd_network_snapshot_receive_total_duration_seconds", doubling(0.1, 10), &["From"], "Durations of receiving snapshots from peers."),
    metric("etcd_network_snapshot_send_failures", Counter, &["To"], "Snapshots that could not be sent to peers."),
    metric("etcd_network_snapshot_send_inflights_total", Gauge, &["To"], "Snapshots on their way to a peer."),
    metric("etcd_network_snapshot_send_success", Counter, &["To"], "Snapshots sent to peers."),
    metric("etcd_network_snapshot_send_total_duration_seconds", doubling(0.1, 10), &["To"], "Durations of sending snapshots to peers."),
    metric("etcd_server_apply_duration_seconds", doubling(0.0001, 20), &["version", "op", "success"], "Durations of applying a command; each counts with its share of its batch."),
    metric("etcd_server_client_requests_total", Counter, &["type", "client_api_version"], "Requests by kind and client version."),
    metric("etcd_server_has_leader", Gauge, &[], "1 while a leader is known."),
    metric("etcd_server_health_failures", Counter, &[], "Negative answers of /health."),
    metric("etcd_server_health_success", Counter, &[], "Positive answers of /health."),
    metric("etcd_server_healthcheck", Gauge, &["type", "name"], "Result of each check of /livez and /readyz."),
    metric("etcd_server_healthchecks_total", Counter, &["type", "name", "status"], "Checks made for /livez and /readyz."),
    metric("etcd_server_heartbeat_send_failures_total", Counter, &[], "Heartbeats of this leader that could not be sent."),
    metric("etcd_server_id", Gauge, &["server_id"], "Member id in hexadecimal."),
    metric("etcd_server_is_leader", Gauge, &[], "1 while this member leads."),
    metric("etcd_server_is_learner", Gauge, &[], "1 while this member is a learner."),
    metric("etcd_server_leader_changes_seen_total", Counter, &[], "Leader changes seen."),
    metric("etcd_server_learner_promote_failures", Counter, &["Reason"], "Promotions that failed while this member led."),
    metric("etcd_server_learner_promote_successes", Counter, &[], "Learners promoted while this member led."),
    metric("etcd_server_proposals_applied_total", Gauge, &[], "Consensus proposals applied."),
    metric("etcd_server_proposals_committed_total", Gauge, &[], "Consensus proposals committed."),
    metric("etcd_server_proposals_failed_total", Counter, &[], "Proposals that failed."),
    metric("etcd_server_proposals_pending", Gauge, &[], "Proposals under way."),
    metric("etcd_server_quota_backend_bytes", Gauge, &[], "Size of the store above which writes are refused."),
    metric("etcd_server_range_duration_seconds", doubling(0.0001, 20), &["success"], "Durations of reading ranges, without waiting for a linearizable view."),
    metric("etcd_server_read_indexes_failed_total", Counter, &[], "ReadIndex rounds that failed."),
    metric("etcd_server_request_duration_seconds", doubling(0.001, 14), &["type", "success"], "Durations of requests, by kind."),
    metric("etcd_server_slow_apply_total", Counter, &[], "Applies slower than --warning-apply-duration."),
    metric("etcd_server_slow_read_indexes_total", Counter, &[], "ReadIndex rounds that were slow."),
    metric("etcd_server_snapshot_apply_in_progress_total", Gauge, &[], "1 while a snapshot is applied."),
    metric("etcd_server_version", Gauge, &["server_version"], "Which version of etcd's API is served."),
    metric("etcd_snap_db_save_total_duration_seconds", doubling(0.1, 10), &[], "Durations of making a received snapshot durable."),
    metric("grpc_server_handled_total", Counter, &["grpc_type", "grpc_service", "grpc_method", "grpc_code"], "RPCs completed on the server, whatever came of them."),
    metric("grpc_server_handling_seconds", Histogram(Bounds::These(CALL_BOUNDS)), &["grpc_type", "grpc_service", "grpc_method"], "Durations of RPCs on the server."),
    metric("grpc_server_msg_received_total", Counter, &["grpc_type", "grpc_service", "grpc_method"], "Messages received by RPCs."),
    metric("grpc_server_msg_sent_total", Counter, &["grpc_type", "grpc_service", "grpc_method"], "Messages sent by RPCs."),
    metric("grpc_server_started_total", Counter, &["grpc_type", "grpc_service", "grpc_method"], "RPCs started on the server."),
    metric("metastore_alarm", Gauge, &["alarm"], "1 while the alarm is on, as this member knows it."),
    metric("metastore_auth_denied_total", Counter, &[], "Calls about users and roles that were refused."),
    metric("metastore_build_info", Gauge, &["version"], "Which version of MetaStore runs."),
    metric("metastore_client_connections", Gauge, &[], "Client connections open."),
    metric("metastore_crash_hints_off", Gauge, &[], "1 while crash hints are switched off because too many were false."),
    metric("metastore_crash_hints_total", Counter, &["result"], "Crash hints that were followed, and of these the ones after which the leader turned out alive."),
    metric("metastore_elections_total", Counter, &["cause"], "Elections this member stood in, by what made it stand."),
    metric("metastore_failover_duration_seconds", doubling(0.005, 14), &[], "From the last sign of a leader until another is known, or the same one anew, as this member saw it."),
    metric("metastore_false_elections_total", Counter, &[], "Elections this member won although the leader before was alive and had not handed over."),
    metric("metastore_hash_check_total", Counter, &["result"], "Comparisons of the store on disk with its digest, at boot; skipped: there was none."),
    metric("metastore_heartbeat_gap_seconds", doubling(0.0001, 18), &[], "Between two signs of life of the leader, on its followers."),
    metric("metastore_heartbeat_slack_ratio", Gauge, &[], "Longest but one in a thousand of the gaps between the leader's signs of life, as a share of the election timeout. From 1 on elections begin."),
    metric("metastore_leaderless_seconds_total", Counter, &[], "For how long this member knew of no leader."),
    metric("metastore_lease_expiry_lag_seconds", doubling(0.0001, 16), &[], "How long leases had been over when their keys were gone, on the leader."),
    metric("metastore_log_commands_total", Counter, &[], "Commands given to the log."),
    metric("metastore_log_entries_total", Counter, &[], "Entries given to the log."),
    metric("metastore_log_memory_bytes", Gauge, &[], "Bytes of entries kept in memory for followers."),
    metric("metastore_log_synced_bytes_total", Counter, &[], "Bytes of the log that were synced."),
    metric("metastore_log_syncs_total", Counter, &[], "Syncs of the log."),
    metric("metastore_network_peer_received_plain_bytes_total", Counter, &["From"], "Bytes received from peers, after decompression."),
    metric("metastore_network_peer_sent_plain_bytes_total", Counter, &["To"], "Bytes sent to peers, before compression."),
    metric("metastore_peer_append_rejected_total", Counter, &["To"], "Appends which the peer refused, for its log was another or ended before."),
    metric("metastore_peer_clock_offset_seconds", Gauge, &["To"], "How far the peer's wall clock is ahead of this member's, by the probe of the least round trip of the last seconds."),
    metric("metastore_peer_compression", Gauge, &["To", "codec"], "1 for how what is sent to a peer is compressed: none, lz4 or zstd."),
    metric("metastore_peer_inflight_bytes", Gauge, &["To"], "Entry bytes on their way to a follower; only the leader has it."),
    metric("metastore_peer_inflight_window", Gauge, &["To"], "Append messages that may be on their way to a follower; only the leader has it."),
    metric("metastore_peer_lag_entries", Gauge, &["To"], "Entries of the leader's log that a follower is not known to have; only the leader has it, and of one it has not reached since its election none."),
    metric("metastore_peer_link_up", Gauge, &["To", "Link"], "1 while a connection this member made to a peer stands."),
    metric("metastore_peer_loss_ratio", Gauge, &["To"], "Share of the probes of the last minute that were never answered."),
    metric("metastore_peer_rtt_quantile_seconds", Gauge, &["To", "quantile"], "Round trips to peers of the last minutes, by quantile."),
    metric("metastore_peer_rttvar_seconds", Gauge, &["To"], "Mean deviation of round trips, as in RFC 6298."),
    metric("metastore_peer_silent_seconds", Gauge, &["To"], "Since anything was heard from the peer."),
    metric("metastore_peer_srtt_seconds", Gauge, &["To"], "Round trips to peers, smoothed as in RFC 6298."),
    metric("metastore_precampaigns_total", Counter, &[], "Times this member asked whether an election could be won."),
    metric("metastore_process_cpu_pressure_seconds_total", Counter, &[], "For how long something in this process's control group waited for a processor. Absent where the kernel does not say."),
    metric("metastore_process_cpu_throttled_seconds_total", Counter, &[], "For how long this process's control group had used up its quota of processor time. Absent where the kernel does not say."),
    metric("metastore_proposals_repeated_total", Counter, &[], "Commands proposed again, because the leader they were given to was lost before it had them committed."),
    metric("metastore_put_stage_duration_seconds", doubling(0.0001, 16), &["stage"], "Where the time of commands goes (puts, deletes, txns), on the member where it goes there."),
    metric("metastore_raft_batch_size", doubling(1.0, 12), &[], "Commands carried by one Raft entry."),
    metric("metastore_raft_durable_told_total", Counter, &[], "Times this leader told a follower what is on its disk, so that the follower answers its callers one round trip sooner."),
    metric("metastore_raft_early_commits_total", Counter, &[], "Entries this follower committed by what is on its leader's disk and its own, before the leader said so."),
    metric("metastore_raft_first_index", Gauge, &[], "First index of the log in memory."),
    metric("metastore_raft_loop_stall_seconds", doubling(0.0001, 18), &[], "By how much passes of the loop that carries the protocol were late."),
    metric("metastore_raft_term", Gauge, &[], "Raft's term."),
    metric("metastore_raft_timing_effective_seconds", Gauge, &["timing"], "Heartbeat interval and election timeout in force."),
    metric("metastore_raft_timing_flags_seconds", Gauge, &["timing"], "Heartbeat interval and election timeout of this member's flags, which rule where no plan does."),
    metric("metastore_snapshot_bytes", Gauge, &[], "Bytes of state in the newest snapshot on disk."),
    metric("metastore_snapshot_index", Gauge, &[], "Index of the newest snapshot on disk; 0: none."),
    metric("metastore_statestore_rebuild_total", Counter, &[], "Times the store on disk was built anew from snapshot and log; not the first of an empty member."),
    metric("metastore_tls_certificate_expiry_seconds", Gauge, &["scope"], "When the certificate in use runs out, in seconds since 1970."),
    metric("metastore_tls_handshake_failures_total", Counter, &["scope", "reason"], "Connections whose TLS handshake failed."),
    metric("metastore_tls_reloads_total", Counter, &["scope", "result"], "Changed TLS files that were taken up, or could not be used."),
    metric("metastore_tuning_epoch", Gauge, &[], "Epoch of the newest plan of timing this member has applied; 0: none, the flags rule."),
    metric("metastore_tuning_phase", Gauge, &[], "Its phase: 1 raise, 2 beat, 3 lease, 4 settle, 5 settled; 0 while flags rule."),
    metric("metastore_value_cache_bytes", Gauge, &[], "Bytes of values kept in memory under --value-cache-bytes, those that wait for the store on disk among them; 0 where all are."),
    metric("metastore_value_cache_hits_total", Counter, &[], "Values asked for under --value-cache-bytes that were in memory."),
    metric("metastore_value_cache_misses_total", Counter, &[], "Values asked for under --value-cache-bytes that were read from the store on disk."),
    metric("metastore_wal_batch_entries", doubling(1.0, 12), &[], "Entries made durable by one sync."),
    metric("metastore_wal_bytes", Gauge, &[], "Bytes of the log on disk."),
    metric("metastore_wal_repaired_entries_total", Counter, &[], "Entries no sync was known to have covered, found whole and written again at boot."),
    metric("metastore_wal_segments", Gauge, &[], "Segments of the log on disk."),
    metric("metastore_wal_sync_pending_seconds", Gauge, &[], "For how long the write and sync of the log under way has lasted; 0: none is under way."),
    metric("metastore_wal_torn_tail_total", Counter, &[], "Ends of the log that no sync had covered and that were cut off at boot."),
    metric("metastore_watch_buffer_bytes", Gauge, &[], "Bytes of events waiting to be sent."),
    metric("metastore_watch_delivery_lag_seconds", doubling(0.0001, 16), &[], "From apply until events were handed to the streams of their watchers."),
    metric("os_fd_limit", Gauge, &[], "File descriptors this process may use."),
    metric("os_fd_used", Gauge, &[], "File descriptors in use."),
    metric("process_cpu_seconds_total", Counter, &[], "Processor time of this process, user and system."),
    metric("process_max_fds", Gauge, &[], "File descriptors this process may have open."),
    metric("process_open_fds", Gauge, &[], "Open file descriptors."),
    metric("process_resident_memory_bytes", Gauge, &[], "Resident memory."),
    metric("process_start_time_seconds", Gauge, &[], "When this process began, in seconds since 1970."),
    metric("process_threads", Gauge, &[], "Threads."),
    metric("process_virtual_memory_bytes", Gauge, &[], "Virtual memory."),
];

/// What keeps the values of a label few.
const LABELS: &[(&str, &str)] = &[
    ("API", "`watch`, `lease-keepalive`"),
    ("From", "members there are: the series goes with the member"),
    ("Link", "`control`, `append`"),
    ("Local", "this member"),
    ("Reason", "fixed words"),
    ("Remote", "members there are: the series goes with the member"),
    ("To", "members there are: the series goes with the member"),
    ("Type", "`send`, `receive`"),
    ("alarm", "`nospace`, `corrupt`"),
    ("alarm_type", "`NOSPACE`, `CORRUPT`"),
    ("cause", "`planned`, `timeout`, `transfer`, `hint`"),
    ("client_api_version", "versions 3.x, `unknown` and `other`: at most 64"),
    ("cluster_version", "one"),
    ("codec", "`none`, `lz4`, `zstd`"),
    ("grpc_code", "codes of gRPC"),
    ("grpc_method", "methods served; calls of others are not counted"),
    ("grpc_service", "services served"),
    ("grpc_type", "`unary`, `server_stream`, `bidi_stream`"),
    ("name", "checks of health"),
    ("op", "kinds of commands"),
    ("quantile", "`0.5`, `0.99`, `0.999`"),
    ("reason", "fixed words"),
    ("result", "fixed words"),
    ("scope", "`client`, `peer`"),
    ("server_id", "members there are"),
    ("server_version", "one"),
    ("stage", "`queue`, `log_sync`, `replication`, `apply`, `reply`"),
    ("status", "`success`, `error`"),
    ("success", "`true`, `false`"),
    ("timing", "`heartbeat`, `election`"),
    ("type", "kinds of requests, or `livez` and `readyz`"),
    ("version", "one"),
];

/// The metric of that name. Names are constants, so a wrong one is a mistake where it is written.
pub(crate) fn find(name: &str) -> &'static Metric {
    let at = METRICS.binary_search_by(|metric| metric.name.cmp(name));
    &METRICS[at.unwrap_or_else(|_| panic!("{name} is not in the table of metrics"))]
}

fn must<T>(name: &str, made: prometheus::Result<T>) -> T {
    made.unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn one(name: &str, kind: Kind) -> Opts {
    let metric = find(name);
    assert!(metric.kind == kind && metric.labels.is_empty(), "{name} is a {:?}", metric.kind);
    Opts::new(metric.name, metric.help)
}

fn many(name: &str, kind: Kind) -> (Opts, &'static [&'static str]) {
    let metric = find(name);
    assert!(metric.kind == kind && !metric.labels.is_empty(), "{name} is a {:?}", metric.kind);
    (Opts::new(metric.name, metric.help), metric.labels)
}

pub(crate) fn counter(name: &str) -> IntCounter {
    must(name, IntCounter::with_opts(one(name, Counter)))
}

pub(crate) fn float_counter(name: &str) -> FloatCounter {
    must(name, FloatCounter::with_opts(one(name, Counter)))
}

pub(crate) fn counters(name: &str) -> IntCounterVec {
    let (opts, labels) = many(name, Counter);
    must(name, IntCounterVec::new(opts, labels))
}

pub(crate) fn gauge(name: &str) -> IntGauge {
    must(name, IntGauge::with_opts(one(name, Gauge)))
}

pub(crate) fn float_gauge(name: &str) -> FloatGauge {
    must(name, FloatGauge::with_opts(one(name, Gauge)))
}

pub(crate) fn gauges(name: &str) -> IntGaugeVec {
    let (opts, labels) = many(name, Gauge);
    must(name, IntGaugeVec::new(opts, labels))
}

pub(crate) fn float_gauges(name: &str) -> GaugeVec {
    let (opts, labels) = many(name, Gauge);
    must(name, GaugeVec::new(opts, labels))
}

fn histogram_opts(name: &str) -> (HistogramOpts, &'static [&'static str]) {
    let metric = find(name);
    let Histogram(bounds) = metric.kind else { panic!("{name} is a {:?}", metric.kind) };
    (HistogramOpts::new(metric.name, metric.help).buckets(bounds.list()), metric.labels)
}

pub(crate) fn histogram(name: &str) -> OneHistogram {
    let (opts, labels) = histogram_opts(name);
    assert!(labels.is_empty(), "{name} has labels");
    must(name, OneHistogram::with_opts(opts))
}

pub(crate) fn histograms(name: &str) -> HistogramVec {
    let (opts, labels) = histogram_opts(name);
    must(name, HistogramVec::new(opts, labels))
}

/// What a number counts in, as its name says.
fn unit(metric: &Metric) -> &'static str {
    let stem = metric.name.trim_end_matches("_total");
    let says = |unit: &str| stem.ends_with(unit);
    if says("_milliseconds") {
        "milliseconds"
    } else if says("_seconds") || says("_lease_ttl") || says("_compaction_last") {
        "seconds"
    } else if says("_bytes") {
        "bytes"
    } else if says("_ratio") {
        "ratio"
    } else {
        ""
    }
}

/// The table of metrics, for the reference.
pub fn reference() -> String {
    let mut text =
        String::from("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for metric in METRICS {
        let kind = match metric.kind {
            Counter => "counter".to_owned(),
            Gauge => "gauge".to_owned(),
            Histogram(bounds) => {
                let bounds = bounds.list();
                let (first, last) = (bounds[0], bounds[bounds.len() - 1]);
                format!("histogram, {} buckets from {first} to {last}", bounds.len())
            }
        };
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, unit, help) = (metric.name, unit(metric), metric.help.replace('|', "\\|"));
        let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {} | {help} |", labels.join(", "));
    }
    text.push_str("\n| label | what keeps its values few |\n|---|---|\n");
    for (label, bound) in LABELS {
        let _ = writeln!(text, "| `{label}` | {bound} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_in_the_order_bisection_needs_and_names_nothing_twice() {
        assert!(METRICS.is_sorted_by(|one, next| one.name < next.name));
        assert!(LABELS.is_sorted_by(|one, next| one.0 < next.0));
    }

    #[test]
    fn every_label_has_a_bound_and_every_bound_a_label() {
        let used: BTreeSet<&str> =
            METRICS.iter().flat_map(|metric| metric.labels).copied().collect();
        let bounded: BTreeSet<&str> = LABELS.iter().map(|(label, _)| *label).collect();
        assert_eq!(used, bounded);
    }

    #[test]
    fn counters_end_in_total_unless_etcd_says_otherwise() {
        for metric in METRICS.iter().filter(|metric| metric.name.starts_with("metastore_")) {
            let is_counter = metric.kind == Counter;
            assert_eq!(metric.name.ends_with("_total"), is_counter, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }
}
