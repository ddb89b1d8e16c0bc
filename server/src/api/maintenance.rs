//! Status, alarms, hashes, snapshots and the leadership.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::downgrade_request::DowngradeAction;
use proto::etcdserverpb::maintenance_server::Maintenance;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeInfo, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use proto::log::command::Op;
use state::{Response as Applied, View, hash, portable};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Shared;
use super::error::state_status;
use super::kv::pinned;
use crate::door::{Door, RequestError};
use crate::version::{ETCD_STORAGE_VERSION, ETCD_VERSION, VERSION};

/// Bytes of one message of a snapshot.
const SNAPSHOT_BLOB_BYTES: usize = 32 * 1024;
/// Messages of a snapshot that wait for the client.
const BLOBS_WAITING_MAX: usize = 8;

/// The service.
pub(super) struct MaintenanceService<D> {
    shared: Arc<Shared<D>>,
}

type Blobs = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

impl<D: Door> MaintenanceService<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }
}

/// An alarm as etcd's Status names it.
fn alarm_text(alarm: &AlarmMember) -> String {
    let kind = match AlarmType::try_from(alarm.alarm) {
        Ok(AlarmType::None) => "NONE",
        Ok(AlarmType::Nospace) => "NOSPACE",
        Ok(AlarmType::Corrupt) => "CORRUPT",
        Err(_) => "UNKNOWN",
    };
    format!("memberID:{} alarm:{kind}", alarm.member_id)
}

/// Whether a text is a version as a downgrade wants it: two or three numbers.
fn is_version(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (2..=3).contains(&parts.len()) && parts.iter().all(is_number)
}

#[tonic::async_trait]
impl<D: Door> Maintenance for MaintenanceService<D> {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let request = request.into_inner();
        if request.action() == AlarmAction::Get {
            let view = self.shared.door.linearizable_view().await?;
            let is_wanted =
                |alarm: &AlarmMember| request.alarm == 0 || alarm.alarm == request.alarm;
            let alarms = view.alarms().into_iter().filter(is_wanted).collect();
            let header = self.shared.header(view.revision());
            return Ok(Response::new(AlarmResponse { header, alarms }));
        }
        let outcome = self.shared.propose(Op::Alarm(request)).await?;
        let Applied::Alarm(mut response) = outcome.response else {
            return Err(Shared::<D>::mismatch(&outcome));
        };
        self.shared.fill(&mut response.header, outcome.term);
        Ok(Response::new(response))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let status = self.shared.door.status();
        let view = self.shared.door.view();
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push(RequestError::NoLeader.to_string());
        }
        errors.extend(view.alarms().iter().map(alarm_text));
        Ok(Response::new(StatusResponse {
            header: self.shared.header_of_term(view.revision(), status.term),
            version: ETCD_VERSION.to_owned(),
            db_size: status.db_size_bytes.cast_signed(),
            leader: status.leader.unwrap_or(0),
            raft_index: status.commit_index,
            raft_term: status.term,
            raft_applied_index: status.applied_index,
            errors,
            db_size_in_use: status.db_size_in_use_bytes.cast_signed(),
            is_learner: status.is_learner,
            storage_version: ETCD_STORAGE_VERSION.to_owned(),
            db_size_quota: self.shared.settings.quota_bytes.cast_signed(),
            downgrade_info: Some(DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        _: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        let metrics = &self.shared.metrics;
        metrics.defrag_inflight.inc();
        let timer = metrics.backend_defrag_seconds.start_timer();
        let done = self.shared.door.defragment().await;
        timer.observe_duration();
        metrics.defrag_inflight.dec();
        done?;
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let view = self.shared.door.view();
        let timer = self.shared.metrics.hash_seconds.start_timer();
        let hashed = |view: &View| (view.revision(), hash::hash_all(view));
        let (revision, hash) = self.shared.read_beside(view, hashed).await?;
        timer.observe_duration();
        Ok(Response::new(HashResponse { header: self.shared.header(revision), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let asked = request.into_inner().revision;
        let view = self.shared.door.view();
        let timer = self.shared.metrics.hash_rev_seconds.start_timer();
        let hashed = move |view: &View| (view.revision(), hash::hash_kv(view, asked));
        let (revision, hashed) = self.shared.read_beside(view, hashed).await?;
        timer.observe_duration();
        let hashed = hashed.map_err(state_status)?;
        Ok(Response::new(HashKvResponse {
            header: self.shared.header(revision),
            hash: hashed.hash,
            compact_revision: hashed.compact_revision,
            hash_revision: hashed.hash_revision,
        }))
    }

    type SnapshotStream = Blobs;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Blobs>, Status> {
        let place = Arc::clone(&self.shared.snapshots)
            .try_acquire_owned()
            .map_err(|_| Status::from(RequestError::TooManyRequests))?;
        let (sender, receiver) = mpsc::channel(BLOBS_WAITING_MAX);
        let view = self.shared.door.view();
        let cluster_id = self.shared.door.identity().cluster_id;
        let timer = self.shared.metrics.backend_snapshot_seconds.start_timer();
        let door = self.shared.door.clone();
        tokio::task::spawn_blocking(move || {
            match pinned(view, &door) {
                Ok((view, _pin)) => send_snapshot(&view, cluster_id, &sender),
                // The client may be gone; then nobody is left to tell.
                Err(error) => drop(sender.blocking_send(Err(error.into()))),
            }
            timer.observe_duration();
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        self.shared.door.move_leader(request.into_inner().target_id).await?;
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let request = request.into_inner();
        Err(match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Cancel) => {
                Status::failed_precondition("etcdserver: no inflight downgrade job")
            }
            Ok(_) if !is_version(&request.version) => {
                Status::invalid_argument("etcdserver: wrong downgrade target version format")
            }
            // There is no older version whose disks this one could write.
            Ok(_) => Status::invalid_argument("etcdserver: invalid downgrade target version"),
            Err(_) => Status::unknown("etcdserver: unknown method"),
        })
    }
}

/// Sends the portable file in messages of 32 KiB, and its SHA-256 in a last one. The file is made
/// twice, since the first message tells how long it is; once would mean to keep it all in memory.
fn send_snapshot(
    view: &View,
    cluster_id: u64,
    sender: &mpsc::Sender<Result<SnapshotResponse, Status>>,
) {
    let total: usize = portable::write(view, cluster_id, VERSION).map(|piece| piece.len()).sum();
    let mut remaining = total - portable::SUM_BYTES;
    let send = |blob: Bytes, remaining: usize| {
        let message = SnapshotResponse {
            header: None,
            remaining_bytes: remaining as u64,
            blob,
            version: ETCD_STORAGE_VERSION.to_owned(),
        };
        // A client that went away needs no more.
        sender.blocking_send(Ok(message)).is_ok()
    };
    let mut waiting = BytesMut::new();
    for piece in portable::write(view, cluster_id, VERSION) {
        waiting.extend_from_slice(&piece);
        while waiting.len() >= SNAPSHOT_BLOB_BYTES && remaining >= SNAPSHOT_BLOB_BYTES {
            remaining -= SNAPSHOT_BLOB_BYTES;
            if !send(waiting.split_to(SNAPSHOT_BLOB_BYTES).freeze(), remaining) {
                return;
            }
        }
    }
    let rest = waiting.split_to(remaining).freeze();
    if (rest.is_empty() || send(rest, 0)) && !send(waiting.freeze(), 0) {
        tracing::debug!("client left before the end of its snapshot");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_two_or_three_numbers() {
        assert!(is_version("3.5") && is_version("3.5.1"));
        for odd in ["", "3", "3.x", "v3.5", "3.5.1.2", "3..5"] {
            assert!(!is_version(odd), "{odd}");
        }
    }

    #[test]
    fn alarms_are_written_as_etcd_writes_them() {
        let alarm = AlarmMember { member_id: 7, alarm: AlarmType::Nospace.into() };
        assert_eq!(alarm_text(&alarm), "memberID:7 alarm:NOSPACE");
    }
}
