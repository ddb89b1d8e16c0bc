//! What peers bring, put where the member finds it.

use std::sync::{Arc, OnceLock};

use futures::future::try_join_all;
use member::Input;
use proto::log::Member;
use proto::peer::{
    Error, Forward, LeaderReply, LeaderRequest, LeaseTtl, RaftMessage, ReadIndexReply,
    TraceContext, TuningReply, leader_reply, leader_request, raft_message::Type,
};
use tonic::Status;

use super::{Fatal, REMOVED};
use crate::door::RequestError;
use crate::leases::renewal;
use crate::peers::{Inbound, Refusal, Versions};
use crate::propose::{Handle, Shared};
use crate::renewals::RENEWALS_PER_CALL_MAX;
use crate::version;

/// The node, as the transport sees it.
#[derive(Clone)]
pub(crate) struct NodeInbound {
    shared: Arc<Shared>,
    handle: Arc<OnceLock<Handle>>,
    fatal: Fatal,
}

impl NodeInbound {
    pub(crate) fn new(shared: Arc<Shared>, fatal: Fatal) -> Self {
        NodeInbound { shared, handle: Arc::default(), fatal }
    }

    /// What a leader says keeps its followers from standing for election.
    fn note_sign_of_life(&self, message: &RaftMessage) {
        // One that only tells what is durable is none: it is no answer to silence.
        let tells_only = message.durable_index > 0 && message.entries.is_empty();
        if matches!(message.r#type(), Type::MsgAppend | Type::MsgHeartbeat)
            && !tells_only
            && self.shared.led.borrow().leader == Some(message.from)
        {
            self.shared.vitals.note_leader_heard(self.shared.now_us(), message.from);
        }
    }

    /// From now on questions for the leader can be answered.
    pub(crate) fn open(&self, handle: Handle) {
        drop(self.handle.set(handle));
    }

    async fn answer(
        &self,
        call: leader_request::Call,
    ) -> Result<leader_reply::Reply, RequestError> {
        let handle = self.handle.get().ok_or(RequestError::NotLeader)?;
        match call {
            leader_request::Call::LeaseKeepAlive(call) => {
                if call.more.len() >= RENEWALS_PER_CALL_MAX {
                    let many = call.more.len() + 1;
                    let why = format!("{many} leases in one call, at most {RENEWALS_PER_CALL_MAX}");
                    return Err(RequestError::Other(why));
                }
                let ids = std::iter::once(call.id).chain(call.more);
                let leases = ids.map(|id| lease(handle, renewal(id)));
                let mut leases = try_join_all(leases).await?;
                let renewed = leases.iter().filter(|lease| lease.ttl >= 0).count();
                self.shared.metrics.leases_renewed.inc_by(renewed as u64);
                let more = leases.split_off(1);
                let first = LeaseTtl { more, ..leases.remove(0) };
                Ok(leader_reply::Reply::LeaseTtl(first))
            }
            leader_request::Call::LeaseTimeToLive(call) => {
                let id = call.id;
                let asked = lease(handle, |ticket| Input::LeaseTimeToLive { ticket, id });
                Ok(leader_reply::Reply::LeaseTtl(asked.await?))
            }
            leader_request::Call::Membership(call) => {
                let change = call.change.unwrap_or_default();
                let index = handle.change_membership_by_leader(change).await?;
                Ok(leader_reply::Reply::ReadIndex(ReadIndexReply { index }))
            }
            leader_request::Call::Tuning(call) => {
                let submit = call.submit.unwrap_or_default();
                let (epoch, index) = handle.submit_plan_here(submit).await?;
                Ok(leader_reply::Reply::Tuning(TuningReply { epoch, index }))
            }
            leader_request::Call::MemberPromote(_) | leader_request::Call::ReadIndex(_) => {
                Err(RequestError::Other(String::from("this member does not answer that question")))
            }
        }
    }
}

async fn lease(
    handle: &Handle,
    input: impl FnOnce(u64) -> Input,
) -> Result<LeaseTtl, RequestError> {
    // Only once: whoever is no leader any more says so, and the asker looks for the new one.
    let lease = handle.ask_lease_here(input).await?.map_err(|_| RequestError::NotLeader)?;
    let (ttl, granted_ttl) = lease.map_or((-1, 0), |lease| (lease.ttl, lease.granted_ttl));
    Ok(LeaseTtl { ttl, granted_ttl, more: Vec::new() })
}

impl Inbound for NodeInbound {
    async fn append(&self, message: RaftMessage) -> bool {
        self.note_sign_of_life(&message);
        self.shared.inbox.bulk(Input::Message(message)).await
    }

    fn urgent(&self, message: RaftMessage) -> bool {
        self.note_sign_of_life(&message);
        self.shared.inbox.urgent(Input::Message(message))
    }

    async fn forwarded(&self, from: u64, forward: Forward) -> bool {
        let Forward { term, commands } = forward;
        self.shared.inbox.bulk(Input::Forwarded { from, term, commands }).await
    }

    fn traces(&self, contexts: &[TraceContext], is_forward: bool) {
        self.shared.flights.told(contexts, is_forward);
    }

    fn not_forwarded(&self, forward: Forward) {
        let Forward { term, commands } = forward;
        self.shared.inbox.urgent(Input::NotForwarded { term, commands });
    }

    fn unreachable(&self, to: u64) {
        self.shared.inbox.urgent(Input::PeerUnreachable { to });
    }

    fn snapshot_sent(&self, to: u64, ok: bool) {
        self.shared.inbox.urgent(Input::SnapshotSent { to, ok });
    }

    async fn leader_call(&self, _from: u64, request: LeaderRequest) -> LeaderReply {
        let answer = match request.call {
            Some(call) => self.answer(call).await,
            None => Err(RequestError::Other(String::from("the question is missing"))),
        };
        let reply = answer.unwrap_or_else(|error| {
            let status = Status::from(error);
            leader_reply::Reply::Error(Error {
                kind: (status.code() as i32).to_string(),
                message: status.message().to_owned(),
            })
        });
        LeaderReply { reply: Some(reply) }
    }

    fn members(&self) -> Vec<Member> {
        self.shared.view.load().members()
    }

    fn is_removed(&self, member: u64) -> bool {
        self.shared.view.load().is_member_removed(member)
    }

    fn refused(&self, _by: u64, refusal: Refusal) {
        if refusal == Refusal::Removed {
            self.fatal.raise_of_data(REMOVED.to_owned());
        }
    }

    fn greeted(&self, peer: u64, boot_id: u64) {
        self.shared.inbox.urgent(Input::PeerGreeted { peer, boot_id });
    }

    fn gone(&self, peer: u64, boot_id: u64) {
        self.shared.inbox.urgent(Input::LeaderGone { peer, boot_id });
    }

    fn versions(&self) -> Versions {
        Versions {
            server: version::ETCD_VERSION.to_owned(),
            cluster: self.shared.view.load().cluster_version().unwrap_or_default().to_owned(),
            storage: version::ETCD_STORAGE_VERSION.to_owned(),
        }
    }
}
