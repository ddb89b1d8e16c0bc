//! Every number this member exports, under the names and in the buckets of etcd, so that dashboards
//! and alerts written for etcd work unchanged; `metastore_*` only for what etcd does not know.
//!
//! Threads hold an [`Arc<Metrics>`](std::sync::Arc) and touch plain atomic counters. What can be read
//! off a [`NodeStatus`] or a [`View`](state::View) is not kept at all but set when somebody scrapes.
//! Label values come from fixed sets or from member ids, never from what a client sent as it is.

pub(crate) mod catalogue;
mod cgroup;
mod durations;
mod scraped;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use member::TuningStatus;
use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};
use tokio::sync::Semaphore;

pub use self::catalogue::reference;
pub(crate) use self::durations::{Applies, Batch, Ranges, Request, Requests, Stage, Stages};
use self::scraped::Scraped;
pub use self::scraped::StateFigures;
use crate::door::{NodeStatus, RequestError};
use crate::http::SCRAPES_MAX;
use crate::version;

/// The numbers, by who moves them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Held while somebody renders: what is set for a scrape is set before it is read, by one at a time.
    rendering: Mutex<()>,
    /// Places for those that scrape.
    pub(crate) scrapes: Arc<Semaphore>,

    // Moved by the Raft thread.
    /// Leaders seen to change.
    pub leader_changes: IntCounter,
    /// Proposals that were refused or lost.
    pub proposals_failed: IntCounter,
    /// Proposals that went down with a leader and were proposed again.
    pub proposals_repeated: IntCounter,
    /// Proposals under way.
    pub proposals_pending: IntGauge,
    /// Heartbeats that could not be sent.
    pub heartbeat_send_failures: IntCounter,
    /// ReadIndex rounds that failed.
    pub read_indexes_failed: IntCounter,
    /// ReadIndex rounds that were slow.
    pub slow_read_indexes: IntCounter,
    /// Learners promoted while this member led.
    pub learner_promotes: IntCounter,
    /// Promotions refused, by reason.
    pub learner_promote_failures: IntCounterVec,
    /// Commands in one entry.
    pub batch_commands: Histogram,
    /// Where the time of puts goes; moved by all of them.
    pub(crate) stages: Arc<Stages>,
    /// How long applying takes.
    pub(crate) applies: Arc<Applies>,
    /// How long requests take; moved by the api.
    pub(crate) requests: Arc<Requests>,
    /// How long reading ranges takes; moved by the api.
    pub(crate) ranges: Arc<Ranges>,
    /// Leases granted.
    pub leases_granted: IntCounter,
    /// Leases ended, in whatever way.
    pub leases_revoked: IntCounter,
    /// Leases renewed by this leader.
    pub leases_renewed: IntCounter,
    /// For how long leases are granted.
    pub lease_ttl_seconds: Histogram,
    /// Compactions.
    pub(crate) compaction: Compaction,
    /// Bytes of records applied.
    pub put_bytes: IntGauge,
    /// Snapshots of the own state.
    pub snapshot_save_seconds: Histogram,
    /// Snapshots received.
    pub snapshot_commit_seconds: Histogram,
    /// Streams of clients that failed.
    pub stream_failures: IntCounterVec,
    /// How late leases end.
    pub lease_expiry_lag_seconds: Histogram,

    // Moved at boot.
    /// Ends of the log that no sync had covered, cut off.
    pub wal_torn_tails: IntCounter,
    /// Entries written again because no sync was known to have covered them.
    pub wal_repaired_entries: IntCounter,
    /// Comparisons of the store on disk with its own digest, by result.
    pub hash_checks: IntCounterVec,

    // Moved by the log thread.
    /// `fdatasync` of the log.
    pub wal_fsync_seconds: Histogram,
    /// Writes to the log.
    pub wal_write_seconds: Histogram,
    /// Bytes written to the log.
    pub wal_write_bytes: IntGauge,
    /// Entries in one sync.
    pub wal_batch_entries: Histogram,

    // Moved by the apply thread.
    /// Applies that took longer than `--warning-apply-duration`.
    pub slow_applies: IntCounter,
    /// A snapshot is being applied.
    pub snapshot_applies: IntGauge,
    /// Puts applied.
    pub mvcc_puts: IntCounter,
    /// Deletes applied.
    pub mvcc_deletes: IntCounter,
    /// Txns applied.
    pub mvcc_txns: IntCounter,
    /// Leases that ran out.
    pub lease_expired: IntCounter,

    // Moved by the backend thread.
    /// Commits of the store on disk.
    pub backend_commit_seconds: Histogram,
    /// Defragmentations.
    pub backend_defrag_seconds: Histogram,
    /// One is under way.
    pub defrag_inflight: IntGauge,
    /// Times the store on disk was thrown away and built again.
    pub statestore_rebuilds: IntCounter,

    // Moved by whoever reads or writes values, where there is a bounded cache of them.
    /// Bytes in it.
    pub value_cache_bytes: IntGauge,
    /// Values that were in memory.
    pub value_cache_hits: IntCounter,
    /// Values that were read from the backend.
    pub value_cache_misses: IntCounter,

    // Moved by the api.
    /// Ranges answered.
    pub mvcc_ranges: IntCounter,
    /// Bytes received from clients.
    pub client_received_bytes: IntCounter,
    /// Bytes sent to clients.
    pub client_sent_bytes: IntCounter,
    /// Client connections open.
    pub client_connections: IntGauge,
    /// Requests by kind and by the version the client says it speaks.
    pub client_requests: IntCounterVec,
    /// Calls about users and roles that were refused.
    pub auth_denied: IntCounter,
    /// Positive answers of /health.
    pub health_successes: IntCounter,
    /// Negative answers of /health.
    pub health_failures: IntCounter,
    /// Result of each check of /livez and /readyz.
    pub healthcheck: IntGaugeVec,
    /// Checks made.
    pub healthchecks: IntCounterVec,
    /// Snapshots sent to clients.
    pub backend_snapshot_seconds: Histogram,
    /// Hashes over everything.
    pub hash_seconds: Histogram,
    /// Hashes over a revision.
    pub hash_rev_seconds: Histogram,

    // Moved by the watch fan-out.
    /// Watch streams open.
    pub watch_streams: IntGauge,
    /// Watchers.
    pub watchers: IntGauge,
    /// Watchers that read history to catch up.
    pub slow_watchers: IntGauge,
    /// Events sent.
    pub watch_events: IntCounter,
    /// Events waiting to be sent.
    pub pending_events: IntGauge,
    /// Bytes of events waiting to be sent.
    pub watch_buffer_bytes: IntGauge,
    /// From apply to the streams.
    pub watch_delivery_lag_seconds: Histogram,

    // Moved by TLS. `scope` is client or peer.
    /// When the certificate runs out, in seconds since 1970.
    pub tls_certificate_expiry: IntGaugeVec,
    /// Times changed files were looked at, by result.
    pub tls_reloads: IntCounterVec,
    /// Connections that did not come about, by reason.
    pub tls_handshake_failures: IntCounterVec,

    // Set at each scrape.
    scraped: Scraped,
}

/// Compactions, as the apply thread carries them out in steps.
#[derive(Debug)]
pub(crate) struct Compaction {
    records: IntCounter,
    last: IntGauge,
    step_ms: Histogram,
    total_ms: Histogram,
}

impl Compaction {
    fn new(m: &Maker) -> Self {
        Compaction {
            records: m.counter("etcd_debugging_mvcc_db_compaction_keys_total"),
            last: m.gauge("etcd_debugging_mvcc_db_compaction_last"),
            step_ms: m.histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds"),
            total_ms: m.histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds"),
        }
    }

    /// A step dropped so many records.
    pub(crate) fn note_step(&self, us: u64, records: usize) {
        self.step_ms.observe(us as f64 / 1e3);
        self.records.inc_by(records as u64);
    }

    /// A compaction has ended, which began so long ago.
    pub(crate) fn note_end(&self, us: u64) {
        self.total_ms.observe(us as f64 / 1e3);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last.set(now.as_secs().cast_signed());
    }
}

/// Registers what the table describes.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn add<M: Collector + Clone + 'static>(&self, metric: M) -> M {
        self.take(Box::new(metric.clone()));
        metric
    }

    /// Names are constants, so failing here is a mistake in this file.
    fn take(&self, collector: Box<dyn Collector>) {
        let registered = self.registry.register(collector);
        registered.unwrap_or_else(|error| panic!("metric: {error}"));
    }

    fn counter(&self, name: &str) -> IntCounter {
        self.add(catalogue::counter(name))
    }

    fn counters(&self, name: &str) -> IntCounterVec {
        self.add(catalogue::counters(name))
    }

    fn gauge(&self, name: &str) -> IntGauge {
        self.add(catalogue::gauge(name))
    }

    fn gauges(&self, name: &str) -> IntGaugeVec {
        self.add(catalogue::gauges(name))
    }

    fn float_gauges(&self, name: &str) -> GaugeVec {
        self.add(catalogue::float_gauges(name))
    }

    fn histogram(&self, name: &str) -> Histogram {
        self.add(catalogue::histogram(name))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All numbers at their beginning, in a registry of their own.
    #[allow(clippy::too_many_lines, reason = "a list")]
    pub fn new() -> Self {
        let make = Maker { registry: Registry::new() };
        let m = &make;
        m.take(Box::new(process::Process::of_self()));
        m.take(Box::new(cgroup::Cpu::of_self()));
        let stages = Arc::<Stages>::default();
        m.take(durations::collector(&stages));
        let applies = Arc::<Applies>::default();
        m.take(durations::collector(&applies));
        let requests = Arc::<Requests>::default();
        m.take(durations::collector(&requests));
        let ranges = Arc::<Ranges>::default();
        m.take(durations::collector(&ranges));
        m.gauges("etcd_server_version").with_label_values(&[version::ETCD_VERSION]).set(1);
        m.gauges("etcd_cluster_version")
            .with_label_values(&[version::ETCD_CLUSTER_VERSION.trim_end_matches(".0")])
            .set(1);
        m.gauges("metastore_build_info").with_label_values(&[version::VERSION]).set(1);
        Self {
            leader_changes: m.counter("etcd_server_leader_changes_seen_total"),
            proposals_failed: m.counter("etcd_server_proposals_failed_total"),
            proposals_repeated: m.counter("metastore_proposals_repeated_total"),
            proposals_pending: m.gauge("etcd_server_proposals_pending"),
            heartbeat_send_failures: m.counter("etcd_server_heartbeat_send_failures_total"),
            read_indexes_failed: m.counter("etcd_server_read_indexes_failed_total"),
            slow_read_indexes: m.counter("etcd_server_slow_read_indexes_total"),
            learner_promotes: m.counter("etcd_server_learner_promote_successes"),
            learner_promote_failures: m.counters("etcd_server_learner_promote_failures"),
            batch_commands: m.histogram("metastore_raft_batch_size"),
            stages,
            applies,
            requests,
            ranges,
            leases_granted: m.counter("etcd_debugging_lease_granted_total"),
            leases_revoked: m.counter("etcd_debugging_lease_revoked_total"),
            leases_renewed: m.counter("etcd_debugging_lease_renewed_total"),
            lease_ttl_seconds: m.histogram("etcd_debugging_lease_ttl_total"),
            compaction: Compaction::new(m),
            put_bytes: m.gauge("etcd_debugging_mvcc_total_put_size_in_bytes"),
            snapshot_save_seconds: m.histogram("etcd_debugging_snap_save_total_duration_seconds"),
            snapshot_commit_seconds: m.histogram("etcd_snap_db_save_total_duration_seconds"),
            stream_failures: m.counters("etcd_network_server_stream_failures_total"),
            lease_expiry_lag_seconds: m.histogram("metastore_lease_expiry_lag_seconds"),
            wal_torn_tails: m.counter("metastore_wal_torn_tail_total"),
            wal_repaired_entries: m.counter("metastore_wal_repaired_entries_total"),
            hash_checks: m.counters("metastore_hash_check_total"),
            wal_fsync_seconds: m.histogram("etcd_disk_wal_fsync_duration_seconds"),
            wal_write_seconds: m.histogram("etcd_disk_wal_write_duration_seconds"),
            wal_write_bytes: m.gauge("etcd_disk_wal_write_bytes_total"),
            wal_batch_entries: m.histogram("metastore_wal_batch_entries"),
            slow_applies: m.counter("etcd_server_slow_apply_total"),
            snapshot_applies: m.gauge("etcd_server_snapshot_apply_in_progress_total"),
            mvcc_puts: m.counter("etcd_mvcc_put_total"),
            mvcc_deletes: m.counter("etcd_mvcc_delete_total"),
            mvcc_txns: m.counter("etcd_mvcc_txn_total"),
            lease_expired: m.counter("etcd_debugging_server_lease_expired_total"),
            backend_commit_seconds: m.histogram("etcd_disk_backend_commit_duration_seconds"),
            backend_defrag_seconds: m.histogram("etcd_disk_backend_defrag_duration_seconds"),
            defrag_inflight: m.gauge("etcd_disk_defrag_inflight"),
            statestore_rebuilds: m.counter("metastore_statestore_rebuild_total"),
            value_cache_bytes: m.gauge("metastore_value_cache_bytes"),
            value_cache_hits: m.counter("metastore_value_cache_hits_total"),
            value_cache_misses: m.counter("metastore_value_cache_misses_total"),
            mvcc_ranges: m.counter("etcd_mvcc_range_total"),
            client_received_bytes: m.counter("etcd_network_client_grpc_received_bytes_total"),
            client_sent_bytes: m.counter("etcd_network_client_grpc_sent_bytes_total"),
            client_connections: m.gauge("metastore_client_connections"),
            client_requests: m.counters("etcd_server_client_requests_total"),
            auth_denied: m.counter("metastore_auth_denied_total"),
            health_successes: m.counter("etcd_server_health_success"),
            health_failures: m.counter("etcd_server_health_failures"),
            healthcheck: m.gauges("etcd_server_healthcheck"),
            healthchecks: m.counters("etcd_server_healthchecks_total"),
            backend_snapshot_seconds: m.histogram("etcd_disk_backend_snapshot_duration_seconds"),
            hash_seconds: m.histogram("etcd_mvcc_hash_duration_seconds"),
            hash_rev_seconds: m.histogram("etcd_mvcc_hash_rev_duration_seconds"),
            watch_streams: m.gauge("etcd_debugging_mvcc_watch_stream_total"),
            watchers: m.gauge("etcd_debugging_mvcc_watcher_total"),
            slow_watchers: m.gauge("etcd_debugging_mvcc_slow_watcher_total"),
            watch_events: m.counter("etcd_debugging_mvcc_events_total"),
            pending_events: m.gauge("etcd_debugging_mvcc_pending_events_total"),
            watch_buffer_bytes: m.gauge("metastore_watch_buffer_bytes"),
            watch_delivery_lag_seconds: m.histogram("metastore_watch_delivery_lag_seconds"),
            tls_certificate_expiry: m.gauges("metastore_tls_certificate_expiry_seconds"),
            tls_reloads: m.counters("metastore_tls_reloads_total"),
            tls_handshake_failures: m.counters("metastore_tls_handshake_failures_total"),
            scraped: Scraped::new(m),
            registry: make.registry,
            rendering: Mutex::default(),
            scrapes: Arc::new(Semaphore::new(SCRAPES_MAX)),
        }
    }

    /// Adds a collector that lives elsewhere, such as the one of the gRPC methods.
    pub fn register(&self, collector: Box<dyn Collector>) {
        let registered = self.registry.register(collector);
        registered.unwrap_or_else(|error| panic!("metric: {error}"));
    }

    /// The leader was asked to promote a learner.
    pub fn note_promotion(&self, refused: Option<&RequestError>) {
        let Some(error) = refused else { return self.learner_promotes.inc() };
        let reason = match error {
            RequestError::LearnerNotReady => "learner not ready",
            RequestError::NotLeader | RequestError::LeaderChanged => "not leader",
            RequestError::State(_) => "no such learner",
            RequestError::Unhealthy | RequestError::NotEnoughStarted => "unhealthy cluster",
            _ => "other",
        };
        self.learner_promote_failures.with_label_values(&[reason]).inc();
    }

    /// How the plan of timing stands.
    pub fn note_tuning(&self, tuning: &TuningStatus) {
        self.scraped.note_tuning(tuning);
    }

    /// Everything in the text format of Prometheus.
    pub fn scrape(&self, status: &NodeStatus, figures: &StateFigures) -> String {
        let _alone = self.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        self.scraped.set(status, figures);
        let mut text = Vec::new();
        // Writing to memory fails only on a metric without samples, and those are left out.
        let families: Vec<_> = self
            .registry
            .gather()
            .into_iter()
            .filter(|family| !family.get_metric().is_empty())
            .collect();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::warn!(%error, "metrics cannot be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::AlarmType;

    use super::*;
    use crate::door::{Identity, PeerStatus, Road};

    #[test]
    fn a_scrape_has_etcds_names_and_follows_the_status() {
        let metrics = Metrics::new();
        metrics.wal_fsync_seconds.observe(0.003);
        let mut status = NodeStatus {
            identity: Identity { cluster_id: 1, member_id: 0xabc },
            leader: Some(7),
            is_leader: true,
            commit_index: 9,
            last_index: 11,
            peers: vec![PeerStatus {
                member_id: 0xdef,
                match_index: 4,
                road: Some(Road { window: 16, inflight_bytes: 300 }),
                ..PeerStatus::default()
            }],
            ..NodeStatus::default()
        };
        let figures = StateFigures {
            keys: 5,
            revision: 6,
            compact_revision: 3,
            quota_bytes: 8,
            alarms: vec![(0xdef, AlarmType::Nospace)],
        };
        let text = metrics.scrape(&status, &figures);
        for line in [
            "etcd_server_has_leader 1",
            "etcd_server_is_leader 1",
            "etcd_server_proposals_committed_total 9",
            "etcd_debugging_mvcc_keys_total 5",
            "etcd_debugging_mvcc_current_revision 6",
            "etcd_debugging_mvcc_compact_revision 3",
            "etcd_server_quota_backend_bytes 8",
            "etcd_server_id{server_id=\"abc\"} 1",
            "etcd_network_known_peers{Local=\"abc\",Remote=\"def\"} 1",
            "metastore_peer_inflight_window{To=\"def\"} 16",
            "metastore_peer_inflight_bytes{To=\"def\"} 300",
            "metastore_peer_lag_entries{To=\"def\"} 7",
            "metastore_alarm{alarm=\"nospace\"} 1",
            "etcd_debugging_server_alarms{alarm_type=\"NOSPACE\",server_id=\"def\"} 1",
            "metastore_alarm{alarm=\"corrupt\"} 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 0",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.004\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 1",
            "etcd_disk_wal_fsync_duration_seconds_count 1",
            "etcd_cluster_version{cluster_version=\"3.6\"} 1",
            "etcd_server_proposals_pending 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
        let cpu = text.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
        assert!(cpu.is_some_and(|seconds| seconds.contains('.')), "{cpu:?}: not in whole seconds");
        for name in ["process_resident_memory_bytes ", "os_fd_used ", "os_fd_limit "] {
            assert!(text.lines().any(|have| have.starts_with(name)), "{name}");
        }
        status.peers[0].match_index = 0;
        let lag = "metastore_peer_lag_entries{To=\"def\"}";
        assert!(!metrics.scrape(&status, &figures).contains(lag), "silent since the election");
        status.peers[0].reachable = true;
        assert!(metrics.scrape(&status, &figures).contains(&format!("{lag} 11\n")));
        status.leader = None;
        status.peers.clear();
        let text = metrics.scrape(&status, &figures);
        assert!(text.lines().any(|line| line == "etcd_server_has_leader 0"));
        assert!(!text.contains("Remote=\"def\""), "a peer that left is not known any more");
    }
}
