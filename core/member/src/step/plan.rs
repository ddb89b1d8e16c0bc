//! What the plan of timing makes the member do: judge a new one, take it on, and use what it says.

use autotune::{BatchBounds, Batching, Params, Phase};
use bytes::Bytes;
use consensus::{Config, ProposeError, Replica};
use prost::Message as _;
use proto::log::membership_change::Kind;
use proto::log::{self, Command, MembershipChange, RequestId, TuningSubmit, command};
use proto::peer::{RaftMessage, raft_message::Type};
use state::tuning::{params_of, params_said};

use super::Member;
use crate::door::{Effects, Reply};
use crate::membership::MembershipRefusal;
use crate::tuning::{Peers, TuningRefusal, TuningStatus};

impl Member {
    /// How the plan of timing stands, and what this member uses.
    pub fn tuning(&self, now_us: u64) -> TuningStatus {
        let (epoch, phase) = self.tuning.reached();
        let effective = self.replica.effective_timing();
        let promised = self.tuning.in_force();
        let mut in_force = promised;
        if effective.election_timeout_us > in_force.timing.election_timeout_us {
            // Lengthened after lost elections: nobody may count on leases then.
            in_force.lease_us = 0;
        }
        in_force.timing = effective;
        let (mut confirmed, mut held_by) = Default::default();
        if self.is_leader {
            confirmed = self.tuning.confirmations(self.id());
            held_by = if self.applied_term < self.term && !self.tuning.is_settled() {
                Some(crate::tuning::Held::NewLeader)
            } else {
                self.with_peers(|peers| self.tuning.held(now_us, &peers))
            };
        }
        let known_by_all =
            if self.is_leader { self.tuning.read_by_all(&self.members, self.id()) } else { 0 };
        TuningStatus {
            flags: *self.tuning.flags(),
            in_force,
            promised,
            epoch,
            phase,
            confirmed,
            held_by,
            knows: self.tuning.format(),
            known_by_all,
        }
    }

    fn with_peers<T>(&self, ask: impl FnOnce(Peers<'_>) -> T) -> T {
        let voters = self.replica.voters();
        ask(Peers { own: self.id(), voters: &voters, heard_us: &self.heard_us })
    }

    // New plans ------------------------------------------------------------------------------

    pub(super) fn take_plan(
        &mut self,
        sequence: u64,
        mut submit: TuningSubmit,
        effects: &mut Effects,
    ) {
        let proposed = self.check_plan(&submit).and_then(|()| {
            // In the form that its values need, whatever whoever made it has said.
            submit.to = submit.to.map(|to| params_said(&params_of(&to)));
            let command = Command {
                id: Some(RequestId { member: self.config.origin, sequence }),
                op: Some(command::Op::TuningSubmit(submit)),
            };
            self.replica.propose(Bytes::from(command.encode_to_vec())).map_err(
                |error| match error {
                    ProposeError::NotLeader { leader } => TuningRefusal::NotLeader { leader },
                    _ => TuningRefusal::Busy,
                },
            )
        });
        if let Err(refusal) = proposed {
            effects.reply.push(Reply::TuningRefused { sequence, refusal });
        }
    }

    /// What only the leader can see; apply judges the rest once more.
    fn check_plan(&self, submit: &TuningSubmit) -> Result<(), TuningRefusal> {
        if !self.is_leader {
            return Err(TuningRefusal::NotLeader { leader: self.leader });
        }
        self.tuning.check_format(submit.to.as_ref(), &self.members, self.id())?;
        self.tuning.check(submit)?;
        if self.replica.membership_pending() || !self.waiting_changes.is_empty() {
            return Err(TuningRefusal::MembershipChanging);
        }
        for member in &self.members {
            if member.name.is_empty() && !submit.supersede {
                return Err(TuningRefusal::Unstarted(member.id));
            }
            if member.is_learner && !self.replica.learner_ready(member.id) && !submit.supersede {
                return Err(TuningRefusal::LearnerBehind(member.id));
            }
        }
        Ok(())
    }

    /// Nobody joins while a plan is on its way, and nobody votes who has not come as far.
    pub(super) fn check_membership_with_plan(
        &self,
        change: &MembershipChange,
    ) -> Result<(), MembershipRefusal> {
        if change.kind() == Kind::Remove {
            return Ok(());
        }
        self.tuning.check_settled().map_err(MembershipRefusal::Tuning)?;
        let (epoch, _) = self.tuning.reached();
        let id = change.member.as_ref().map_or(0, |member| member.id);
        let knows_it = || self.tuning.reached_by(id) >= Some((epoch, Phase::Settled));
        if change.kind() == Kind::Promote && epoch > 0 && !knows_it() {
            return Err(MembershipRefusal::LearnerNotReady);
        }
        Ok(())
    }

    // On the way -----------------------------------------------------------------------------

    /// Proposes the next step of the plan, if this member leads and the step is due.
    pub(super) fn take_plan_on(&mut self, now_us: u64) {
        self.leave_floor();
        if !self.is_leader || self.applied_term < self.term || self.tuning.is_settled() {
            return;
        }
        let voters = self.replica.voters();
        let peers = Peers { own: self.id(), voters: &voters, heard_us: &self.heard_us };
        let patience_us = self.tuning.in_force().timing.election_timeout_us;
        let Some(advance) = self.tuning.due(now_us, patience_us, &peers) else { return };
        self.own_sequence += 1;
        let command = Command {
            id: Some(RequestId { member: self.config.origin, sequence: self.own_sequence }),
            op: Some(command::Op::TuningAdvance(advance)),
        };
        // Refused for now: it is offered again.
        let _ = self.replica.propose(Bytes::from(command.encode_to_vec()));
    }

    pub(super) fn take_applied_plan(&mut self, record: log::Tuning) {
        self.tuning.take(record);
        self.use_plan();
    }

    fn use_plan(&mut self) {
        put_in_force(&mut self.replica, &self.config.consensus, &self.tuning.in_force());
    }

    /// The boot is over when a leader commits and this member has applied of its term.
    fn leave_floor(&mut self) {
        let is_led = self.leader.is_some() && self.applied_term == self.term;
        if is_led && self.tuning.release_floor(self.applied_index, self.applied_term) {
            self.use_plan();
        }
    }

    /// Answers to the leader say how far this member has come: heartbeats always, appends once after
    /// a change, so that a phase does not wait for the next heartbeat.
    pub(super) fn confirm_plan(&mut self, message: &mut RaftMessage) {
        match message.r#type() {
            Type::MsgHeartbeatResponse => message.tuning = self.tuning.ack(false),
            Type::MsgAppendResponse => message.tuning = self.tuning.ack(true),
            _ => {}
        }
    }
}

/// What the flags of a member say, as a plan would.
pub(super) fn own_params(config: &Config) -> Params {
    Params {
        timing: config.timing,
        lease_us: 0,
        bounds: BatchBounds {
            batch_commands_max: config.batching.entry_commands_max,
            linger_us_max: config.batching.linger_us,
            message_bytes_max: config.message_bytes_max,
            inflight_messages_max: config.inflight_max as u64,
            inflight_bytes_max: config.inflight_bytes_max,
            compression: true,
        },
    }
}

/// Every mixture of legal plans that a phase makes is legal, so none is refused.
pub(super) fn put_in_force(replica: &mut Replica, config: &Config, params: &Params) {
    let timed = replica.set_timing(params.timing);
    debug_assert_eq!(timed, Ok(()), "{params:?}");
    let bounds = params.bounds;
    let batching = Batching {
        entry_commands_max: bounds.batch_commands_max,
        linger_us: config.batching.linger_us.min(bounds.linger_us_max),
        ..config.batching
    };
    let batched = replica.set_batching(batching);
    debug_assert_eq!(batched, Ok(()), "{params:?}");
    let inflight = usize::try_from(bounds.inflight_messages_max).unwrap_or(usize::MAX);
    replica.set_lease(params.lease_us);
    let windowed =
        replica.set_window(bounds.message_bytes_max, inflight, bounds.inflight_bytes_max);
    debug_assert!(windowed.is_ok(), "{params:?}");
}
