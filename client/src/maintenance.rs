//! The state of single members, and what operators do to them.
//!
//! Most of these answer for the member that was asked: go through [`Client::at`] to choose it.

use bytes::Bytes;
use proto::admin::{
    LogLevelRequest, LogLevelResponse, ObserveRequest, ObserveResponse, SubmitTuningRequest,
    SubmitTuningResponse, TuningRequest, TuningResponse,
};
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, HashKvRequest,
    HashKvResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use proto::log::TuningSubmit;
use tonic::Code;

use crate::Client;
use crate::call::{Answers, Method};
use crate::error::{Error, Result};

const STATUS: Method<StatusRequest, StatusResponse> =
    Method::read("/etcdserverpb.Maintenance/Status");
const HASH_KV: Method<HashKvRequest, HashKvResponse> =
    Method::read("/etcdserverpb.Maintenance/HashKV");
const SNAPSHOT: Method<SnapshotRequest, SnapshotResponse> =
    Method::read("/etcdserverpb.Maintenance/Snapshot");
const MOVE_LEADER: Method<MoveLeaderRequest, MoveLeaderResponse> =
    Method::write("/etcdserverpb.Maintenance/MoveLeader");
const DEFRAGMENT: Method<DefragmentRequest, DefragmentResponse> =
    Method::write("/etcdserverpb.Maintenance/Defragment");
const ALARMS: Method<AlarmRequest, AlarmResponse> = Method::read("/etcdserverpb.Maintenance/Alarm");
const ALARM: Method<AlarmRequest, AlarmResponse> = Method::write("/etcdserverpb.Maintenance/Alarm");
const OBSERVE: Method<ObserveRequest, ObserveResponse> =
    Method::read("/metastore.admin.v1.Admin/Observe");
const TUNING: Method<TuningRequest, TuningResponse> =
    Method::read("/metastore.admin.v1.Admin/Tuning");
const LOG_LEVEL: Method<LogLevelRequest, LogLevelResponse> =
    Method::read("/metastore.admin.v1.Admin/LogLevel");
const SUBMIT_TUNING: Method<SubmitTuningRequest, SubmitTuningResponse> =
    Method::write("/metastore.admin.v1.Admin/SubmitTuning");

impl Client {
    /// How the asked member is.
    pub async fn status(&self) -> Result<StatusResponse> {
        self.route.unary(&STATUS, StatusRequest {}).await
    }

    /// The hash of the asked member's keys up to a revision (0: the newest). Equal on all members.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse> {
        self.route.unary(&HASH_KV, HashKvRequest { revision }).await
    }

    /// The asked member's whole state as a stream of pieces.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot { answers: self.route.answers(&SNAPSHOT, SnapshotRequest {}).await? })
    }

    /// Makes another member the leader. Only the leader takes this call, so it is looked for among
    /// the endpoints first.
    pub async fn move_leader(&self, target: u64) -> Result<MoveLeaderResponse> {
        let leader = self.leader().await?;
        leader.route.unary(&MOVE_LEADER, MoveLeaderRequest { target_id: target }).await
    }

    /// The client of the endpoint that leads the cluster.
    pub async fn leader(&self) -> Result<Client> {
        let mut failure = None;
        for client in self.each() {
            match client.status().await {
                Ok(status) => {
                    let member = status.header.map_or(0, |header| header.member_id);
                    if member != 0 && member == status.leader {
                        return Ok(client);
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or(Error::Answered {
            code: Code::Unavailable,
            message: "none of the given endpoints is the leader".into(),
        }))
    }

    /// Lets the asked member give back unused disk space.
    pub async fn defragment(&self) -> Result<DefragmentResponse> {
        self.route.unary(&DEFRAGMENT, DefragmentRequest {}).await
    }

    /// The alarms that are raised.
    pub async fn alarms(&self) -> Result<AlarmResponse> {
        self.route.unary(&ALARMS, alarm(AlarmAction::Get, 0, AlarmType::None)).await
    }

    /// Takes an alarm back. `member` 0 and type `None` stand for all.
    pub async fn alarm_disarm(&self, member: u64, kind: AlarmType) -> Result<AlarmResponse> {
        self.route.unary(&ALARM, alarm(AlarmAction::Deactivate, member, kind)).await
    }

    /// What the asked member observes of itself and its peers. MetaStore only: etcd answers
    /// `Unimplemented`.
    pub async fn observe(&self) -> Result<ObserveResponse> {
        self.route.unary(&OBSERVE, ObserveRequest {}).await
    }

    /// The plan of timing as the asked member has applied it. MetaStore only, as [`Client::observe`].
    pub async fn tuning(&self) -> Result<TuningResponse> {
        self.route.unary(&TUNING, TuningRequest {}).await
    }

    /// The least severe level the asked member logs; a level that is named holds until it restarts.
    /// MetaStore only, as [`Client::observe`].
    pub async fn log_level(&self, level: Option<&str>) -> Result<LogLevelResponse> {
        let level = level.unwrap_or_default().to_owned();
        self.route.unary(&LOG_LEVEL, LogLevelRequest { level }).await
    }

    /// Submits a plan of timing, through any member; the leader carries it out. It is refused where
    /// the newest plan is not the expected one.
    pub async fn submit_tuning(&self, submit: TuningSubmit) -> Result<SubmitTuningResponse> {
        let submit = Some(submit);
        self.route.unary(&SUBMIT_TUNING, SubmitTuningRequest { submit }).await
    }
}

fn alarm(action: AlarmAction, member_id: u64, kind: AlarmType) -> AlarmRequest {
    AlarmRequest { action: action.into(), member_id, alarm: kind.into() }
}

/// A snapshot on its way. It is whole only when [`Snapshot::next`] has returned `None`.
#[derive(Debug)]
pub struct Snapshot {
    answers: Answers<SnapshotResponse>,
}

impl Snapshot {
    /// The next piece and how many bytes are still to come. Never resumed: a failure means to
    /// start again.
    #[allow(clippy::should_implement_trait, reason = "it is async")]
    pub async fn next(&mut self) -> Result<Option<(Bytes, u64)>> {
        let answer = self.answers.next().await?;
        Ok(answer.map(|piece| (piece.blob, piece.remaining_bytes)))
    }
}
