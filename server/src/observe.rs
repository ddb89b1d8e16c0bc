//! What this member observes of itself and of its peers, as the Admin API tells it.

use member::consensus::{PeerProgress, ProgressState};
use proto::admin::{Alarm, ObserveResponse, PeerObservation};
use proto::etcdserverpb::AlarmMember;

use crate::door::Door;
use crate::peers::{LinkState, PeerLink};
use crate::propose::{Handle, duration_us};
use crate::vitals;

impl Handle {
    /// What it observes at this moment.
    pub(crate) fn observed(&self) -> ObserveResponse {
        let shared = &self.shared;
        let view = Door::view(self);
        let now_us = shared.now_us();
        let signs = shared.vitals.signs(now_us);
        let mut response = ObserveResponse {
            member_id: shared.identity.member_id,
            cluster_id: shared.identity.cluster_id,
            version: crate::version::VERSION.to_owned(),
            revision: view.revision(),
            state_bytes: view.size_in_use_bytes(),
            batches: Some(shared.figures.batches()),
            syncs: Some(shared.figures.syncs()),
            alarms: view.alarms().iter().map(alarm).collect(),
            tuning_epoch: view.tuning().epoch,
            tuning_phase: view.tuning().phase,
            boot_id: shared.origin,
            uptime_us: now_us,
            is_learner: shared.leadership.borrow().is_learner,
            loop_stalls: Some(vitals::distribution(signs.loop_stalls)),
            loop_stall_max_us: signs.loop_stall_max_us,
            sync_times: Some(vitals::distribution(signs.syncs)),
            sync_max_us: signs.sync_max_us,
            heartbeat_gaps: Some(vitals::distribution(signs.heartbeat_gaps)),
            writes: Some(vitals::distribution(signs.writes)),
            writes_per_second: signs.writes_per_second,
            ..ObserveResponse::default()
        };
        let links = self.peers.links();
        let status = shared.replica.load();
        if let Some(status) = status.as_ref() {
            response.leader_id = status.leader.unwrap_or_default();
            response.term = status.term;
            response.commit_index = status.commit;
            response.applied_index = status.applied;
            response.first_log_index = status.first_index;
            response.log_bytes = status.log_bytes_in_memory;
            response.snapshot_index = status.snapshot_index;
            response.elections = Some(vitals::election_stats(status, &shared.vitals.hints()));
            response.heartbeat_interval_us = status.effective_timing.heartbeat_interval_us;
            response.election_timeout_us = status.effective_timing.election_timeout_us;
        }
        response.peers = links
            .values()
            .map(|link| {
                let progress = status.as_ref().and_then(|s| s.progress.get(&link.id));
                peer_observation(link, progress)
            })
            .collect();
        response
    }
}

fn alarm(on: &AlarmMember) -> Alarm {
    Alarm { member_id: on.member_id, kind: on.alarm().as_str_name().to_owned() }
}

fn peer_observation(link: &PeerLink, progress: Option<&PeerProgress>) -> PeerObservation {
    let state = progress.map(|progress| match progress.state {
        ProgressState::Probe => "probe",
        ProgressState::Replicate => "replicate",
        ProgressState::Snapshot => "snapshot",
    });
    let rtt = &link.rtt;
    PeerObservation {
        member_id: link.id,
        reachable: link.state == LinkState::Healthy,
        rtt_srtt_us: rtt.srtt_us(),
        rtt_var_us: rtt.rttvar_us(),
        rtt_min_us: rtt.min_us(),
        rtt_samples: rtt.samples(),
        match_index: progress.map_or(0, |progress| progress.match_index),
        next_index: progress.map_or(0, |progress| progress.next_index),
        state: state.unwrap_or_default().to_owned(),
        inflight: progress.map_or(0, |progress| progress.inflight as u64),
        last_contact_us: link.last_contact.map_or(u64::MAX, duration_us),
        rtt: Some(vitals::distribution(link.round_trips)),
        rtt_age_us: link.rtt_age.map_or(u64::MAX, duration_us),
        rtt_marked: link.rtt_marked,
        gaps: Some(vitals::distribution(link.gaps)),
        probes_sent: link.probes_sent,
        probes_lost: link.probes_lost,
        link: link.state.as_str().to_owned(),
        boot_id: link.boot_id.unwrap_or_default(),
    }
}
