//! The state machine: raft-rs, and everything around it that raft-rs leaves to its user.
//!
//! What raft-rs 0.7 does that we rely on, and what we keep it from doing:
//!
//! * **Async ready.** A `Ready` is handed out at once and confirmed later (`advance_append_async`,
//!   `on_persist_ready`); entries are committed only up to what is durable here.
//! * **Its random numbers.** It draws election timeouts from the thread's generator whenever it
//!   changes its role. After every call that may do so the draw is overwritten (`settle`), always.
//! * **raft-rs#557** (`next <= match`). A rejection that arrives late makes a leader probe below what
//!   the follower has long acknowledged, and sends it entries or even a snapshot again. Such
//!   rejections are ignored or corrected before raft sees them (`mend_append_response`).
//! * **raft-rs#543** (upper bound of the applied index). 0.7 panics at boot if the applied index is
//!   above the commit index on disk, which is normal; `boot` raises the commit index first.
//! * **raft-rs#537, #561** (applying what is not durable here). Not in 0.7 and not wanted.
//! * **raft-rs#530** (memory of the scan for membership changes before a campaign). The scan covers
//!   what is committed and not applied, which is in memory here anyway and only shares its data.
//! * **raft-rs#569** (reads dropped without a word by a leader that has not yet committed in its
//!   term, and by everyone without a leader). `reads` begins rounds only where they are answered,
//!   and begins them again.
//! * **A campaign while a snapshot is being installed** would look for entries below it and panic,
//!   and **a sole voter with entries not yet durable** would break an assertion of `become_leader`.
//!   Neither campaigns before its disk is done (`may_campaign`).
//! * **A leader that was removed** keeps leading and panics at the next acknowledgement, because its
//!   own progress is gone. It steps down as soon as the removal is applied.
//! * **A membership change while another is pending** is silently replaced by an empty entry;
//!   `propose_membership` answers so instead.
//! * **A requested snapshot** stays requested if it is acknowledged before it is reported as sent,
//!   and is then sent for ever. The request is taken back when the acknowledgement arrives.

mod appends;
mod commits;
mod durable;
mod elections;
mod hint;
mod leases;
mod outputs;
mod roads;
mod status;

use std::collections::{BTreeMap, BTreeSet};

use autotune::{Batching, BatchingError, Timing, TimingError};
use bytes::Bytes;
use prost::Message as _;
use proto::log::{self, MembershipChange, SnapshotMeta};
use proto::peer::{RaftMessage, raft_message::Type};
use raft::{RawNode, SnapshotStatus, StateRole, eraftpb};

use crate::batch::BatchMaking;
use crate::boot;
use crate::config::{
    Boot, COMMAND_BYTES_MAX, COMMANDS_MAKING_MAX, COMMITTED_BYTES_PER_OUTPUT, Config,
    ELECTION_TICKS, ELECTION_TICKS_MAX, ELECTION_TICKS_MIN, ENTRY_CONTEXT_BYTES_MAX,
    HEARTBEAT_TICKS, LOG_ALONE_BYTES_KEPT, PATIENCE_MAX, UNAPPLIED_BYTES_MAX,
};
use crate::convert;
use crate::durable::{Heard, Told};
use crate::error::{ConsensusError, ProposeError, Rejected, TransferError};
use crate::lease::Lease;
use crate::log_cache::LogCache;
use crate::membership;
use crate::outbox::Outbox;
use crate::output::{ElectionCause, Role};
use crate::pace::{Next, Pace};
use crate::reads::{Lead, PeerRead, Reads};
use crate::timing::ScaledClock;
use crate::validate::{self, Ourselves};
use appends::Appends;
use elections::Elections;
use roads::Roads;

/// A learner may be promoted when it has this many tenths of the leader's log, as in etcd.
const LEARNER_READY_TENTHS: u128 = 9;

/// One replica of the cluster's log.
pub struct Replica {
    config: Config,
    raw: RawNode<LogCache>,
    clock: ScaledClock,
    now_us: u64,
    making: BatchMaking,
    pace: Pace,
    roads: Roads,
    appends: Appends,
    lease: Lease,
    told: Told,
    heard: Heard,
    /// Until then no vote is given: one may have been promised before this boot.
    mute_until_us: u64,
    reads: Reads,
    outbox: Outbox,
    /// What the state contains.
    applied: u64,
    /// What was handed out to be applied.
    handed_out: u64,
    /// The configuration in force includes every change up to here.
    conf_index: u64,
    /// Term and vote of the newest hard state handed out.
    vote: (u64, u64),
    /// With a commit index that no hard state handed out has yet.
    commit_unwritten: Option<log::HardState>,
    /// What the last output said of the leadership: term and leader.
    reported: (u64, u64),
    /// When each peer was last heard.
    heard_us: BTreeMap<u64, u64>,
    elections: Elections,
    /// The leader's process was found to be gone.
    gone: Option<hint::Gone>,
}

impl Replica {
    /// A replica from what its disk remembers.
    pub fn new(config: Config, boot: Boot, now_us: u64) -> Result<Replica, ConsensusError> {
        config.validate()?;
        let hard_state = boot.hard_state.unwrap_or_default();
        let boot::Opened { log, applied, joining } = boot::open(boot)?;
        let raft_config = raft::Config {
            id: config.id,
            election_tick: ELECTION_TICKS as usize,
            min_election_tick: ELECTION_TICKS_MIN as usize,
            max_election_tick: (ELECTION_TICKS_MAX * PATIENCE_MAX) as usize,
            heartbeat_tick: HEARTBEAT_TICKS as usize,
            applied,
            max_size_per_msg: config.message_bytes_max,
            max_inflight_msgs: config.inflight_max,
            check_quorum: true,
            pre_vote: config.pre_vote,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_OUTPUT,
            ..Default::default()
        };
        let silent = slog::Logger::root(slog::Discard, slog::o!());
        let mut raw = RawNode::new(&raft_config, log, &silent)
            .map_err(|error| ConsensusError::Boot(error.to_string()))?;
        if joining {
            // Any snapshot will do, and nothing but a snapshot: the log alone does not tell the
            // configuration it starts from.
            raw.raft.pending_request_snapshot = 1;
        }
        let mut replica = Replica {
            clock: ScaledClock::new(config.timing, now_us),
            reads: Reads::new(config.id, config.seed),
            raw,
            now_us,
            making: BatchMaking::default(),
            pace: Pace::default(),
            roads: Roads::default(),
            appends: Appends::default(),
            lease: Lease::default(),
            told: Told::default(),
            heard: Heard::default(),
            mute_until_us: 0,
            outbox: Outbox::default(),
            applied,
            handed_out: applied,
            conf_index: applied,
            vote: (hard_state.term, hard_state.vote),
            commit_unwritten: None,
            reported: (0, 0),
            heard_us: BTreeMap::new(),
            elections: Elections { stood_in: hard_state.term, ..Elections::default() },
            gone: None,
            config,
        };
        replica.settle(StateRole::Follower);
        Ok(replica)
    }

    /// Lets time pass. To be called at [`Replica::next_deadline_us`] at the latest, and after all
    /// messages that have arrived were given to [`Replica::receive`].
    pub fn tick(&mut self, now_us: u64) {
        self.observe(now_us);
        let role = self.raw.raft.state;
        for _ in 0..self.clock.advance(self.now_us, role == StateRole::Leader) {
            self.tick_once();
            if self.raw.raft.state != role {
                // What is left of the time was spent in the old role.
                break;
            }
        }
        if self.is_leader() && self.clock.heartbeat_due(self.now_us) {
            self.raw.ping();
        }
        self.follow_hint();
    }

    /// Takes a message of a peer. A rejected one leaves no trace.
    pub fn receive(&mut self, now_us: u64, message: RaftMessage) -> Result<(), Rejected> {
        self.observe(now_us);
        let kind = validate::check(&message, &self.ourselves())?;
        let from = message.from;
        match kind {
            Type::MsgReadIndex => return self.receive_read(message),
            // Not the answer to what we wait for now.
            Type::MsgReadIndexResp if !self.reads.expects(&message.entries[0].data) => {
                return Ok(());
            }
            // The leader gives the transfer up after an election timeout.
            Type::MsgTimeoutNow if !self.may_campaign() => return Ok(()),
            Type::MsgAppend if message.durable_index > 0 && message.entries.is_empty() => {
                self.receive_durable(&message);
                return Ok(());
            }
            _ => {}
        }
        self.weigh_hint(kind, &message);
        if matches!(kind, Type::MsgRequestVote | Type::MsgRequestPreVote)
            && self.now_us < self.mute_until_us
        {
            return Ok(());
        }
        let before = self.raw.raft.state;
        let term = message.term;
        let sent_us = message.sent_us;
        self.note_question(kind, from, sent_us);
        if kind == Type::MsgRequestPreVote {
            self.give_way(&message);
        }
        if self.is_given_up(kind, &message) {
            // Raft need not hear it; how long it took is worth knowing.
            if self.raw.raft.prs().get(from).is_some() {
                self.heard_us.insert(from, self.now_us);
                self.note_answer(kind, term, sent_us);
            }
            return Ok(());
        }
        let is_no_sign = self.is_no_sign_of_loss(kind, &message);
        if kind == Type::MsgAppendResponse && self.is_of_newest_append(&message) {
            self.appends.over(from);
        }
        let durable_index = message.durable_index;
        let mut message = convert::message_to_raft(message);
        if kind == Type::MsgAppendResponse && !self.mend_append_response(&mut message) {
            return Ok(());
        }
        let acknowledged = message.index;
        let accepted = kind == Type::MsgAppendResponse && !message.reject;
        let carries_nothing = kind == Type::MsgAppend && message.entries.is_empty();
        let committed = self.raw.raft.raft_log.committed;
        let names = commits::named(kind, &message);
        let stepped =
            if is_no_sign { self.step_without_sending(message) } else { self.raw.step(message) };
        stepped.map_err(|_| Rejected::UnknownPeer { from })?;
        let is_news = names.is_some_and(|commit| self.is_named(term, commit, committed));
        if carries_nothing && is_news {
            self.leave_unanswered(from, acknowledged);
        }
        self.hear_durable(from, term, durable_index);
        if accepted {
            self.note_acknowledged(from, acknowledged);
        }
        self.note_lease(kind, from, term, sent_us);
        if self.raw.raft.prs().get(from).is_some() {
            self.heard_us.insert(from, self.now_us);
            self.note_answer(kind, term, sent_us);
        }
        if kind == Type::MsgTimeoutNow && self.raw.raft.state != StateRole::Follower {
            self.begin_candidacy(ElectionCause::Transfer);
        }
        self.note_refusal(kind, before, term);
        self.settle(before);
        self.retry_hint(kind);
        Ok(())
    }

    /// Takes a command into the batch in the making. It becomes part of an entry of this term, or comes
    /// out as `dropped`, or is lost with the leadership.
    pub fn propose(&mut self, command: Bytes) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        let bytes = command.len() as u64;
        if bytes > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, max: COMMAND_BYTES_MAX });
        }
        let term = self.raw.raft.term;
        if !self.making.is_for(term)
            || self.making.len() >= COMMANDS_MAKING_MAX
            || self.making.bytes() + bytes + self.log().bytes_unapplied() > UNAPPLIED_BYTES_MAX
        {
            return Err(ProposeError::Busy);
        }
        self.making.push(self.now_us, term, command);
        Ok(())
    }

    /// Proposes a change of the membership. One at a time: the next one waits until this one is
    /// applied, and a new leader's first until everything it inherited is.
    #[allow(clippy::needless_pass_by_value, reason = "a proposal is given away")]
    pub fn propose_membership(&mut self, change: MembershipChange) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        if let Some(to) = self.raw.raft.lead_transferee {
            return Err(ProposeError::Transferring { to });
        }
        if self.raw.raft.has_pending_conf() {
            return Err(ProposeError::ChangePending);
        }
        let step = membership::step(&self.conf_state(), &change)?;
        let context = change.encode_to_vec();
        let (bytes, max) = (context.len() as u64, ENTRY_CONTEXT_BYTES_MAX as u64);
        if bytes > max {
            return Err(ProposeError::TooLarge { bytes, max });
        }
        let before = self.raw.raft.state;
        let proposed = self.raw.propose_conf_change(context, step);
        self.settle(before);
        proposed.map_err(|_| ProposeError::NotLeader { leader: self.leader() })
    }

    /// Asks for the index at which a read begun now is linearizable. The answer is in the `reads`
    /// or the `reads_failed` of a later output; it works on every member.
    pub fn read(&mut self, ticket: u64) {
        self.reads.push(self.now_us, ticket);
    }

    /// Begins to hand the leadership over. Commands wait meanwhile: if it succeeds they come out as
    /// `dropped`, if it does not within an election timeout they are proposed.
    pub fn transfer_leader(&mut self, to: u64) -> Result<(), TransferError> {
        if !self.is_leader() {
            return Err(TransferError::NotLeader { leader: self.leader() });
        }
        if to == self.config.id {
            return Ok(());
        }
        if !self.raw.raft.prs().conf().voters().contains(to) {
            return Err(TransferError::NotVoter(to));
        }
        match self.raw.raft.lead_transferee {
            Some(already) if already == to => return Ok(()),
            Some(to) => return Err(TransferError::Transferring { to }),
            None => {}
        }
        let before = self.raw.raft.state;
        self.raw.transfer_leader(to);
        self.settle(before);
        Ok(())
    }

    /// Everything up to [`crate::Persist::number`] is durable.
    pub fn persisted(&mut self, number: u64) {
        let before = self.raw.raft.state;
        let confirmed = self.outbox.persisted(self.now_us, number);
        self.confirm(confirmed);
        self.settle(before);
    }

    /// The state contains everything up to this index.
    pub fn applied(&mut self, index: u64) {
        if index <= self.applied {
            return;
        }
        assert!(
            index <= self.handed_out,
            "applied {index}, but only {} was handed out",
            self.handed_out
        );
        self.applied = index;
        if index > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index);
        }
        self.raw.mut_store().set_applied(index);
        self.trim();
        if self.raw.raft.prs().is_singleton() && self.raw.raft.promotable() {
            // All other voters have left: there is nobody to wait for.
            self.campaign();
        }
    }

    /// The entry's change takes effect, or, if the state refuses it, does not. To be called for
    /// every entry that is not normal, in order, before it is reported as applied. An error means
    /// that the change does not fit; it is the same on every member, and nothing has changed.
    pub fn apply_membership(
        &mut self,
        entry: &log::Entry,
        accept: bool,
    ) -> Result<log::ConfState, ConsensusError> {
        if entry.index <= self.conf_index {
            // A snapshot that came in between has brought the change already, and later ones too.
            return Ok(self.conf_state());
        }
        self.conf_index = entry.index;
        if !accept {
            return Ok(self.conf_state());
        }
        let refused = |reason| ConsensusError::Membership { index: entry.index, reason };
        let change = membership::change_of(entry).map_err(refused)?;
        let step = membership::step(&self.conf_state(), &change).map_err(refused)?;
        let before = self.raw.raft.state;
        self.raw
            .apply_conf_change(&step)
            .expect("a step that was checked against the configuration fits it");
        self.open_windows();
        if self.is_leader() && self.raw.raft.prs().get(self.config.id).is_none() {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
        }
        let peers = self.raw.raft.prs();
        self.heard_us.retain(|id, _| peers.get(*id).is_some());
        self.elections.retain(|id| peers.get(id).is_some());
        self.appends.retain(|id| peers.get(id).is_some());
        self.told.retain(|id| peers.get(id).is_some());
        self.settle(before);
        Ok(self.conf_state())
    }

    /// A snapshot of the state is on disk: it may be sent, and the log below it may go.
    pub fn snapshot_available(&mut self, meta: SnapshotMeta) {
        debug_assert!(!meta.chunks.is_empty(), "a snapshot has chunks");
        self.raw.mut_store().snapshot_available(meta);
        self.trim();
    }

    /// The snapshot for a peer has been delivered, or has not. Must follow every message of type
    /// `MSG_SNAPSHOT`: until then nothing else is sent to the peer.
    pub fn report_snapshot(&mut self, to: u64, ok: bool) {
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to, status);
    }

    /// A message to a peer was probably lost.
    pub fn report_unreachable(&mut self, to: u64) {
        self.appends.over(to);
        self.raw.report_unreachable(to);
    }

    /// Changes heartbeats and election timeout from now on; a wait in progress keeps its share.
    pub fn set_timing(&mut self, timing: Timing) -> Result<(), TimingError> {
        timing.validate()?;
        self.clock.set_timing(timing, self.now_us);
        Ok(())
    }

    /// Changes the batching from now on.
    pub fn set_batching(&mut self, batching: Batching) -> Result<(), BatchingError> {
        batching.validate()?;
        self.config.batching = batching;
        Ok(())
    }

    /// The term this member is in.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Who votes now, in either configuration.
    pub fn voters(&self) -> BTreeSet<u64> {
        let conf_state = self.conf_state();
        conf_state.voters.into_iter().chain(conf_state.voters_outgoing).collect()
    }

    /// Whether a membership change is in the log and not applied yet, as far as a leader knows.
    pub fn membership_pending(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// The disk gate: whether writes have been waiting for half an election timeout without any
    /// progress. A leader sends no heartbeats and proposes nothing then, so that others may take
    /// over; its peers would otherwise follow a leader that cannot apply. What it was asked to
    /// propose comes out as `dropped` when they do.
    pub fn disk_stalled(&mut self, now_us: u64) -> bool {
        self.observe(now_us);
        self.stalled()
    }

    /// Whether a learner has enough of the log to be promoted. Only a leader knows.
    pub fn learner_ready(&self, id: u64) -> bool {
        let raft = &self.raw.raft;
        let progress = raft
            .prs()
            .get(id)
            .filter(|_| self.is_leader() && raft.prs().conf().learners().contains(&id));
        progress.is_some_and(|progress| {
            u128::from(progress.matched) * 10
                >= u128::from(raft.raft_log.last_index()) * LEARNER_READY_TENTHS
        })
    }

    fn stalled(&self) -> bool {
        self.outbox.stalled(self.now_us, self.clock.election_timeout_us() / 2)
    }

    /// When the batch in the making leaves, unless something holds it back.
    fn batch_due_us(&self) -> Option<u64> {
        let held = self.raw.raft.lead_transferee.is_some() || self.stalled();
        let next = self.next_batch().filter(|_| !held)?;
        let batching = &self.config.batching;
        let is_full = self.making.is_full(batching);
        Some(if is_full { next.due_us } else { self.pace.next_us(next, batching.gather_us_max) })
    }

    /// The batch in the making, if there is one.
    fn next_batch(&self) -> Option<Next> {
        let due_us = self.making.due_us(&self.config.batching)?;
        let is_disk_busy = self.outbox.outstanding() > 0;
        Some(Next { commands: self.making.len(), due_us, is_disk_busy })
    }

    fn observe(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
    }

    fn log(&self) -> &LogCache {
        self.raw.store()
    }

    fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    fn leader(&self) -> Option<u64> {
        let leader = self.raw.raft.leader_id;
        (leader != raft::INVALID_ID).then_some(leader)
    }

    fn conf_state(&self) -> log::ConfState {
        convert::conf_state_from_raft(&self.raw.raft.prs().conf().to_conf_state())
    }

    fn lead(&self) -> Lead {
        let raft = &self.raw.raft;
        Lead {
            term: raft.term,
            leader: raft.leader_id,
            is_self: self.is_leader(),
            may_answer: raft.commit_to_current_term(),
            told: self.told.index(),
            committed: raft.raft_log.committed,
        }
    }

    fn ourselves(&self) -> Ourselves {
        let raft = &self.raw.raft;
        Ourselves {
            id: raft.id,
            term: raft.term,
            leader: raft.leader_id,
            role: role(raft.state),
            last_index: raft.raft_log.last_index(),
            persisted: raft.raft_log.persisted,
        }
    }

    /// Another member's read round: it rides on this leader's next one.
    fn receive_read(&mut self, mut message: RaftMessage) -> Result<(), Rejected> {
        if !self.is_leader() {
            // Raft would pass it on to whom it takes for the leader, perhaps back. Its sender asks
            // again, and knows better by then.
            return Ok(());
        }
        let context = std::mem::take(&mut message.entries[0].data);
        if self.reads.push_peer(PeerRead { from: message.from, context }) {
            Ok(())
        } else {
            Err(Rejected::ReadsBusy)
        }
    }

    /// Keeps outdated answers from moving a follower's progress back. False: nothing is left to do.
    fn mend_append_response(&mut self, message: &mut eraftpb::Message) -> bool {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader || message.term != raft.term {
            return true;
        }
        let probed = if message.reject && message.log_term > 0 {
            raft.raft_log.find_conflict_by_term(message.reject_hint, message.log_term).0
        } else {
            message.reject_hint
        };
        let Some(progress) = raft.mut_prs().get_mut(message.from) else { return true };
        if !message.reject {
            if message.index >= progress.pending_request_snapshot {
                progress.pending_request_snapshot = raft::INVALID_INDEX;
            }
            return true;
        }
        let outdated = if message.request_snapshot != raft::INVALID_INDEX {
            message.request_snapshot <= progress.matched
        } else {
            message.index <= progress.matched
        };
        if outdated {
            progress.recent_active = true;
            return false;
        }
        if message.index.min(probed + 1) <= progress.matched {
            message.reject_hint = progress.matched;
            message.log_term = 0;
        }
        true
    }

    /// Lets go of the log below the applied index, but keeps what peers that are alive still need.
    fn trim(&mut self) {
        let mut held_above = None;
        if self.is_leader() {
            let alive_us = self.now_us.saturating_sub(2 * self.clock.election_timeout_us());
            let alive = |id: &u64| self.heard_us.get(id).is_some_and(|heard| *heard >= alive_us);
            held_above = self
                .raw
                .raft
                .prs()
                .iter()
                .filter(|(id, _)| alive(id))
                .map(|(_, progress)| progress.matched.max(progress.pending_snapshot))
                .min();
        }
        let is_alone = self.raw.raft.prs().iter().all(|(id, _)| *id == self.config.id);
        let bytes_max = if is_alone { LOG_ALONE_BYTES_KEPT } else { u64::MAX };
        let bytes = self.config.log_bytes_kept.min(bytes_max);
        let entries = self.config.log_entries_kept;
        let log = self.raw.mut_store();
        log.hold_above(held_above);
        log.trim(bytes, entries);
    }
}

fn role(state: StateRole) -> Role {
    match state {
        StateRole::Follower => Role::Follower,
        StateRole::PreCandidate => Role::PreCandidate,
        StateRole::Candidate => Role::Candidate,
        StateRole::Leader => Role::Leader,
    }
}
