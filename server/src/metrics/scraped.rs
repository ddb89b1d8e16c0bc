//! What is not kept but set when somebody scrapes, because it can be read off the member and its state.

use std::time::Duration;

use member::TuningStatus;
use prometheus::{GaugeVec, IntGauge, IntGaugeVec};
use proto::etcdserverpb::AlarmType;

use super::Maker;
use crate::door::NodeStatus;

/// What a scrape reads off the state.
#[derive(Clone, Debug, Default)]
pub struct StateFigures {
    /// Keys that live.
    pub keys: u64,
    /// Revision of the store.
    pub revision: i64,
    /// Revision of the last compaction.
    pub compact_revision: i64,
    /// The quota; 0: none.
    pub quota_bytes: u64,
    /// Alarms that are on, and which member raised each.
    pub alarms: Vec<(u64, AlarmType)>,
}

/// The metrics that are set.
#[derive(Debug)]
pub(super) struct Scraped {
    has_leader: IntGauge,
    is_leader: IntGauge,
    is_learner: IntGauge,
    proposals_committed: IntGauge,
    proposals_applied: IntGauge,
    quota_bytes: IntGauge,
    db_size_bytes: IntGauge,
    db_size_in_use_bytes: IntGauge,
    keys: IntGauge,
    current_revision: IntGauge,
    compact_revision: IntGauge,
    known_peers: IntGaugeVec,
    peer_window: IntGaugeVec,
    peer_inflight_bytes: IntGaugeVec,
    peer_lag_entries: IntGaugeVec,
    alarms: IntGaugeVec,
    etcd_alarms: IntGaugeVec,
    id: IntGaugeVec,
    heartbeat_effective_seconds: GaugeVec,
    timing_flags_seconds: GaugeVec,
    tuning_epoch: IntGauge,
    tuning_phase: IntGauge,
    fd_used: IntGauge,
    fd_limit: IntGauge,
}

impl Scraped {
    pub(super) fn new(m: &Maker) -> Self {
        Scraped {
            has_leader: m.gauge("etcd_server_has_leader"),
            is_leader: m.gauge("etcd_server_is_leader"),
            is_learner: m.gauge("etcd_server_is_learner"),
            proposals_committed: m.gauge("etcd_server_proposals_committed_total"),
            proposals_applied: m.gauge("etcd_server_proposals_applied_total"),
            quota_bytes: m.gauge("etcd_server_quota_backend_bytes"),
            db_size_bytes: m.gauge("etcd_mvcc_db_total_size_in_bytes"),
            db_size_in_use_bytes: m.gauge("etcd_mvcc_db_total_size_in_use_in_bytes"),
            keys: m.gauge("etcd_debugging_mvcc_keys_total"),
            current_revision: m.gauge("etcd_debugging_mvcc_current_revision"),
            compact_revision: m.gauge("etcd_debugging_mvcc_compact_revision"),
            known_peers: m.gauges("etcd_network_known_peers"),
            peer_window: m.gauges("metastore_peer_inflight_window"),
            peer_inflight_bytes: m.gauges("metastore_peer_inflight_bytes"),
            peer_lag_entries: m.gauges("metastore_peer_lag_entries"),
            alarms: m.gauges("metastore_alarm"),
            etcd_alarms: m.gauges("etcd_debugging_server_alarms"),
            id: m.gauges("etcd_server_id"),
            heartbeat_effective_seconds: m.float_gauges("metastore_raft_timing_effective_seconds"),
            timing_flags_seconds: m.float_gauges("metastore_raft_timing_flags_seconds"),
            tuning_epoch: m.gauge("metastore_tuning_epoch"),
            tuning_phase: m.gauge("metastore_tuning_phase"),
            fd_used: m.gauge("os_fd_used"),
            fd_limit: m.gauge("os_fd_limit"),
        }
    }

    /// How the plan of timing stands; told when that changes.
    pub(super) fn note_tuning(&self, tuning: &TuningStatus) {
        self.tuning_epoch.set(tuning.epoch.cast_signed());
        self.tuning_phase.set(if tuning.epoch == 0 { 0 } else { tuning.phase as i64 });
        let flags = tuning.flags.timing;
        for (timing, us) in
            [("heartbeat", flags.heartbeat_interval_us), ("election", flags.election_timeout_us)]
        {
            let seconds = Duration::from_micros(us).as_secs_f64();
            self.timing_flags_seconds.with_label_values(&[timing]).set(seconds);
        }
    }

    pub(super) fn set(&self, status: &NodeStatus, figures: &StateFigures) {
        self.has_leader.set(i64::from(status.leader.is_some()));
        self.is_leader.set(i64::from(status.is_leader));
        self.is_learner.set(i64::from(status.is_learner));
        self.proposals_committed.set(status.commit_index.cast_signed());
        self.proposals_applied.set(status.applied_index.cast_signed());
        self.quota_bytes.set(figures.quota_bytes.cast_signed());
        self.db_size_bytes.set(status.db_size_bytes.cast_signed());
        self.db_size_in_use_bytes.set(status.db_size_in_use_bytes.cast_signed());
        self.keys.set(figures.keys.cast_signed());
        self.current_revision.set(figures.revision);
        self.compact_revision.set(figures.compact_revision);
        let local = format!("{:x}", status.identity.member_id);
        self.id.with_label_values(&[&local]).set(1);
        self.known_peers.reset();
        // etcd counts itself.
        self.known_peers.with_label_values(&[&local, &local]).set(1);
        self.peer_window.reset();
        self.peer_inflight_bytes.reset();
        self.peer_lag_entries.reset();
        self.etcd_alarms.reset();
        for (kind, etcds) in [(AlarmType::Nospace, "nospace"), (AlarmType::Corrupt, "corrupt")] {
            let raised = || figures.alarms.iter().filter(|(_, raised)| *raised == kind);
            self.alarms.with_label_values(&[etcds]).set(i64::from(raised().next().is_some()));
            for (member, _) in raised() {
                let labels = [&format!("{member:x}"), kind.as_str_name()];
                self.etcd_alarms.with_label_values(&labels).set(1);
            }
        }
        for peer in &status.peers {
            let remote = format!("{:x}", peer.member_id);
            self.known_peers.with_label_values(&[&local, &remote]).set(1);
            if let Some(road) = peer.road {
                self.peer_window.with_label_values(&[&remote]).set(road.window as i64);
                let bytes = road.inflight_bytes.cast_signed();
                self.peer_inflight_bytes.with_label_values(&[&remote]).set(bytes);
                // A new leader knows of nobody what he has until he has answered; who is away may have
                // it all.
                if peer.match_index > 0 || peer.reachable {
                    let lag = status.last_index.saturating_sub(peer.match_index);
                    self.peer_lag_entries.with_label_values(&[&remote]).set(lag.cast_signed());
                }
            }
        }
        for (timing, us) in
            [("heartbeat", status.heartbeat_interval_us), ("election", status.election_timeout_us)]
        {
            let seconds = Duration::from_micros(us).as_secs_f64();
            self.heartbeat_effective_seconds.with_label_values(&[timing]).set(seconds);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.fd_used.set(i64::try_from(entries.count()).unwrap_or(i64::MAX));
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.fd_limit.set(limit.map_or(i64::MAX, u64::cast_signed));
    }
}
