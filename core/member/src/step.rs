//! The member itself: inputs in, effects out, nothing awaited.
//!
//! [`Member`] owns the replica (what the cluster agrees), the lease clock (when a lease runs out on
//! the leader) and the decisions that join rooms: which entries go to apply and when, when to take a
//! snapshot, how far the log may be released, whether a membership change is safe to propose.

mod changes;
mod given;
mod lease_rounds;
mod plan;
mod proposals;

use std::collections::{BTreeMap, VecDeque};

use consensus::{Boot, Output, Replica, Status};
use proto::log::{Member as MemberRow, MembershipChange, SnapshotMeta};
use proto::peer::raft_message::Type;
use wal::{LogBatch, SnapshotMark};

use crate::apply::{ApplyReport, ApplyTask};
use crate::door::{Effects, Input, MemberConfig, Reply};
use crate::hints::{HintStatus, Hints};
use crate::lease_clock::LeaseClock;
use crate::log_worker::DiskTask;
use crate::snapshot_policy::SnapshotDecision;
use crate::tuning::Tuning;
use given::Given;
use lease_rounds::{LeaseQuestion, LeaseRound};
use proposals::{ANY_TERM, Waiting};

/// How many outputs of the replica one step takes at most; a ready replica is stepped again at once.
const OUTPUTS_PER_STEP_MAX: usize = 16;
/// After commands were handed back, for no connection to the leader stands, so long none are sent to it.
const FORWARDS_REST_US: u64 = 10_000;
/// Committed entries handed to apply and not reported back, in bytes, before more are held back.
const APPLY_OUTSTANDING_BYTES_MAX: u64 = 64 << 20;

/// One member of a cluster, stepped by its shell.
pub struct Member {
    config: MemberConfig,
    replica: Replica,
    leases: LeaseClock,
    members: Vec<MemberRow>,
    leader: Option<u64>,
    is_leader: bool,
    term: u64,
    applied_term: u64,
    applied_index: u64,
    /// When each other member was last heard of.
    heard_us: BTreeMap<u64, u64>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    given: Given,
    forwards_rest_until_us: u64,
    /// The newest term whose leader binds forwards to it, and that leader.
    binding: Option<(u64, u64)>,
    waiting_changes: VecDeque<MembershipChange>,
    waiting_leases: VecDeque<LeaseQuestion>,
    lease_round: Option<LeaseRound>,
    /// Until then a round that is not full waits for more questions.
    lease_round_gathers_until_us: u64,
    /// Revocations of expired leases number themselves below the callers' tickets.
    own_sequence: u64,
    /// A received snapshot: the persist it belongs to, and where the log then restarts.
    restoring: Option<(u64, SnapshotMeta)>,
    /// Committed while a snapshot was being installed, or while apply has enough to do.
    apply_held: VecDeque<ApplyTask>,
    apply_outstanding_bytes: u64,
    snapshots: SnapshotDecision,
    tuning: Tuning,
    hints: Hints,
    removed: bool,
}

impl Member {
    /// A member that continues from what [`crate::recover`] found.
    pub fn new(
        config: MemberConfig,
        boot: Boot,
        state: &state::View,
        snapshots_held: crate::SnapshotsHeld,
        now_us: u64,
    ) -> Result<Member, consensus::ConsensusError> {
        let id = config.consensus.id;
        let members = state.members();
        let mut leases = LeaseClock::new(now_us);
        leases.replace(state.leases().map(|lease| (lease.id, lease.remaining_ttl)), now_us);
        let own = plan::own_params(&config.consensus);
        let format = config.plan_format;
        let tuning = Tuning::new(own, state.tuning(), &boot, config.origin, format);
        let mut replica = Replica::new(config.consensus.clone(), boot, now_us)?;
        plan::put_in_force(&mut replica, &config.consensus, &tuning.in_force());
        if tuning.may_have_promised() {
            replica.keep_promises();
        }
        if let Some(meta) = &snapshots_held.newest {
            replica.snapshot_available(meta.clone());
        }
        let voters: Vec<u64> = members.iter().filter(|m| !m.is_learner).map(|m| m.id).collect();
        if voters == [id] {
            // Nobody can win against a sole voter: waiting for a timeout would only cost the user time.
            replica.campaign();
        }
        Ok(Member {
            snapshots: SnapshotDecision::new(config.snapshots.clone(), snapshots_held),
            config,
            replica,
            leases,
            members,
            leader: None,
            is_leader: false,
            term: 0,
            applied_term: state.applied_term(),
            applied_index: state.applied_index(),
            heard_us: BTreeMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            given: Given::default(),
            forwards_rest_until_us: 0,
            binding: None,
            waiting_changes: VecDeque::new(),
            waiting_leases: VecDeque::new(),
            lease_round: None,
            lease_round_gathers_until_us: 0,
            own_sequence: OWN_SEQUENCES_FROM,
            restoring: None,
            apply_held: VecDeque::new(),
            apply_outstanding_bytes: 0,
            tuning,
            hints: Hints::default(),
            removed: false,
        })
    }

    /// Takes what happened since the last step and says what is to be done about it.
    pub fn step(&mut self, now_us: u64, inputs: impl IntoIterator<Item = Input>) -> Effects {
        let mut effects = Effects::default();
        self.leases.pass_time(now_us);
        for input in inputs {
            self.take(now_us, input, &mut effects);
        }
        self.replica.tick(now_us);
        self.revoke_expired(now_us);
        self.take_plan_on(now_us);
        self.give_waiting(now_us, &mut effects);
        self.prove_leadership(now_us);
        for round in 0.. {
            let output = self.replica.take_output(now_us);
            self.carry(now_us, output, &mut effects);
            if !self.replica.has_output() {
                break;
            }
            if round + 1 == OUTPUTS_PER_STEP_MAX {
                effects.again = true;
                break;
            }
        }
        self.answer_leases(now_us, &mut effects);
        self.pass_leases_on(&mut effects);
        self.feed_apply(&mut effects);
        effects.removed = self.removed;
        effects.wake_at_us = self.next_deadline_us(now_us);
        effects
    }

    /// How the replica stands.
    pub fn status(&self) -> Status {
        self.replica.status()
    }

    /// Crash hints and false elections.
    pub fn hints(&self, now_us: u64) -> HintStatus {
        self.hints.status(now_us)
    }

    /// The members as of the applied index.
    pub fn members(&self) -> &[MemberRow] {
        &self.members
    }

    /// Index of the newest durable snapshot of the own state; 0 if there is none.
    pub fn snapshot_index(&self) -> u64 {
        self.snapshots.newest_index()
    }

    /// Highest index known to be committed.
    pub fn commit_index(&self) -> u64 {
        self.replica.commit_index()
    }

    /// Commands that are here and in no entry yet.
    pub fn commands_waiting(&self) -> usize {
        self.waiting.len() + self.replica.commands_making()
    }

    /// How long leases had been over when they were really gone, since this was last asked: only the
    /// leader, which ends them, knows.
    pub fn take_lease_lags_us(&mut self) -> Vec<u64> {
        self.leases.take_lags_us()
    }

    /// Proposals waiting for a leader.
    pub fn waiting_proposals(&self) -> usize {
        self.waiting.len()
    }

    fn id(&self) -> u64 {
        self.config.consensus.id
    }

    fn next_deadline_us(&self, now_us: u64) -> u64 {
        let mut at = self.replica.next_deadline_us(now_us);
        if self.is_leader
            && let Some(turn) = self.leases.next_turn_us()
        {
            at = at.min(turn.max(now_us + 1));
        }
        if !self.waiting.is_empty() && self.forwards_rest(now_us) {
            at = at.min(self.forwards_rest_until_us);
        }
        if self.wants_lease_round() {
            at = at.min(self.lease_round_gathers_until_us.max(now_us + 1));
        }
        at
    }

    fn take(&mut self, now_us: u64, input: Input, effects: &mut Effects) {
        match input {
            Input::Tick => {}
            // A message that is not valid is the sender's fault; the replica counts it.
            Input::Message(mut message) => {
                let from = message.from;
                let ack = message.tuning.take();
                if message.r#type() == Type::MsgHeartbeatResponse && !self.tuning.backs_lease(ack) {
                    message.sent_us = 0;
                }
                self.hints.heard(now_us, &message);
                let answers = message.r#type() == Type::MsgHeartbeatResponse;
                let binding = message.binds_forwards.then_some((message.term, from));
                if self.replica.receive(now_us, message).is_ok() {
                    self.heard_us.insert(from, now_us);
                    self.binding = self.binding.max(binding);
                    if answers {
                        self.tuning.note_reads(from, ack);
                    }
                    if let Some(ack) = ack {
                        self.tuning.confirm(from, ack);
                    }
                }
            }
            Input::Forwarded { from, term, commands } => {
                self.take_forwarded(from, term, commands, effects);
            }
            Input::Propose(proposals) => {
                for proposal in proposals {
                    self.wait_for_leader(proposal.into(), effects);
                }
            }
            Input::NotForwarded { term, commands } => {
                self.take_back(now_us, term, commands, effects);
                self.forwards_rest_until_us = now_us + FORWARDS_REST_US;
            }
            Input::ProposeMembership(change) => self.take_membership(now_us, change, effects),
            Input::Read { ticket } => self.replica.read(ticket),
            Input::TransferLeader { ticket, to } => self.transfer(ticket, to, effects),
            Input::LeaseKeepAlive { ticket, id } => {
                self.ask_lease(LeaseQuestion::KeepAlive { ticket, id }, effects);
            }
            Input::LeaseTimeToLive { ticket, id } => {
                self.ask_lease(LeaseQuestion::TimeToLive { ticket, id }, effects);
            }
            Input::Persisted { number } => self.take_persisted(number),
            Input::Applied(report) => self.take_applied(now_us, *report, effects),
            Input::SnapshotSaved(meta) => {
                let release = self.snapshots.saved(&meta);
                self.replica.snapshot_available(meta);
                if let Some(through_index) = release {
                    effects.disk.push(DiskTask::Release { through_index });
                }
            }
            Input::SnapshotFailed => self.snapshots.failed(),
            Input::SnapshotSent { to, ok } => self.replica.report_snapshot(to, ok),
            Input::PeerUnreachable { to } => self.replica.report_unreachable(to),
            Input::SubmitTuning { sequence, submit } => {
                self.take_plan(sequence, submit, effects);
            }
            Input::PeerGreeted { peer, boot_id } => self.hints.greeted(peer, boot_id),
            Input::LeaderGone { peer, boot_id } => self.take_hint(now_us, peer, boot_id),
        }
    }

    /// The leader's process may be gone. Not believed while leases are on: whoever serves reads by a
    /// lease counts on nobody voting within an election timeout.
    fn take_hint(&mut self, now_us: u64, peer: u64, boot_id: u64) {
        let is_led = self.leader == Some(peer) && !self.tuning.may_lease();
        if !is_led || !self.hints.believes(now_us, peer, boot_id) {
            return;
        }
        if self.replica.leader_gone(now_us, peer) {
            let election_us = self.replica.status().effective_timing.election_timeout_us;
            self.hints.take(peer, self.term, now_us.saturating_add(election_us));
        }
    }

    fn take_persisted(&mut self, number: u64) {
        self.replica.persisted(number);
        if let Some((of, meta)) = &self.restoring
            && *of <= number
        {
            // The log has durably restarted at the snapshot: now the state may. What was held stands before it.
            self.apply_held.retain(|task| !is_before(task, meta.index));
            self.apply_held.push_front(ApplyTask::Restore(meta.clone()));
            self.restoring = None;
        }
    }

    fn take_applied(&mut self, now_us: u64, report: ApplyReport, effects: &mut Effects) {
        let ApplyReport {
            index,
            term,
            bytes,
            own,
            memberships,
            members,
            tuning,
            leases,
            restored,
            snapshot_begun,
            snapshot_bytes,
        } = report;
        self.apply_outstanding_bytes = self.apply_outstanding_bytes.saturating_sub(bytes);
        for (entry, accept) in &memberships {
            self.replica
                .apply_membership(entry, *accept)
                .unwrap_or_else(|error| panic!("membership change at {}: {error}", entry.index));
        }
        for sequence in own {
            self.given.applied(sequence);
        }
        if let Some(restored) = restored {
            self.given.state_replaced();
            self.leases.replace(restored.leases, now_us);
            self.snapshots.restored(restored.meta);
        }
        if let Some(members) = members {
            // A member that never was part of the table is one that still waits to be told of itself.
            let was = self.members.iter().any(|m| m.id == self.id());
            let is = members.iter().any(|m| m.id == self.id());
            self.removed |= was && !is;
            self.heard_us.retain(|id, _| members.iter().any(|m| m.id == *id));
            self.members = members;
        }
        if let Some(tuning) = tuning {
            self.take_applied_plan(tuning);
        }
        for change in leases {
            self.leases.take(&change, now_us);
        }
        if snapshot_begun {
            self.snapshots.begun();
        }
        if term > self.applied_term {
            self.find_lost(now_us, term, effects);
        }
        if index > self.applied_index {
            self.applied_index = index;
            self.applied_term = term;
            self.replica.applied(index);
        }
        self.snapshots.applied(index, bytes, snapshot_bytes);
    }

    /// Carries one output of the replica over into effects.
    fn carry(&mut self, now_us: u64, output: Output, effects: &mut Effects) {
        let Output {
            persist,
            messages,
            committed,
            reads,
            reads_failed,
            dropped,
            leadership,
            snapshot_wanted,
        } = output;
        // For whoever leads now. They reached no entry: none of a later term is applied before they come out.
        self.take_back(now_us, ANY_TERM, dropped, effects);
        if let Some(leadership) = leadership {
            self.take_leadership(now_us, leadership, effects);
        }
        if let Some(persist) = persist {
            let number = persist.number;
            if let Some(meta) = &persist.snapshot {
                self.restoring = Some((number, meta.clone()));
            }
            effects.disk.push(DiskTask::Append {
                number,
                batch: LogBatch {
                    hard_state: persist.hard_state.map(|h| wal::HardState {
                        term: h.term,
                        vote: h.vote,
                        commit: h.commit,
                    }),
                    entries: persist.entries.into_iter().map(to_log).collect(),
                    snapshot: persist
                        .snapshot
                        .map(|meta| SnapshotMark { index: meta.index, term: meta.term }),
                },
            });
        }
        effects.net.extend(messages.into_iter().map(|mut message| {
            self.confirm_plan(&mut message);
            message.binds_forwards = matches!(
                message.r#type(),
                Type::MsgAppend | Type::MsgHeartbeat | Type::MsgSnapshot
            );
            if let Some(meta) = &mut message.snapshot {
                // Whoever receives it takes no other cluster's.
                meta.cluster_id = self.config.cluster_id;
            }
            message
        }));
        if !committed.is_empty() {
            let bytes = committed.iter().map(|e| e.data.len() as u64).sum();
            self.apply_held.push_back(ApplyTask::Entries { entries: committed, bytes });
        }
        for read in reads {
            if read.ticket <= OWN_SEQUENCES_FROM {
                effects.reply.push(Reply::ReadAt { ticket: read.ticket, index: read.index });
            } else {
                self.prove_lease_round(read.ticket, read.index);
            }
        }
        for ticket in reads_failed {
            if ticket <= OWN_SEQUENCES_FROM {
                effects.reply.push(Reply::ReadFailed { ticket });
            } else {
                self.drop_lease_round(ticket);
            }
        }
        if snapshot_wanted {
            self.snapshots.wanted();
        }
    }

    fn take_leadership(
        &mut self,
        now_us: u64,
        leadership: consensus::Leadership,
        effects: &mut Effects,
    ) {
        if leadership.is_leader && !self.is_leader {
            // Whoever led before may have renewed leases this member was not told of.
            self.leases.begin_term(now_us);
            self.tuning.begin_term(now_us);
        }
        self.term = leadership.term;
        self.leader = leadership.leader;
        self.is_leader = leadership.is_leader;
        self.hints.led_by(self.id(), leadership.leader, self.replica.election_cause());
        effects.leadership = Some(leadership);
        self.give_waiting(now_us, effects);
        self.give_membership(effects);
    }

    /// Gives apply what it may have, in order, as long as it is not behind by too much.
    fn feed_apply(&mut self, effects: &mut Effects) {
        while self.restoring.is_none() && self.apply_outstanding_bytes < APPLY_OUTSTANDING_BYTES_MAX
        {
            let Some(task) = self.apply_held.pop_front() else { break };
            if let ApplyTask::Entries { bytes, .. } = &task {
                self.apply_outstanding_bytes += bytes;
            }
            effects.apply.push(task);
        }
        if self.restoring.is_none()
            && self.apply_held.is_empty()
            && self.snapshots.due(self.applied_index)
        {
            self.snapshots.asked();
            effects.apply.push(ApplyTask::BeginSnapshot);
        }
        self.give_membership(effects);
    }
}

/// Sequences of the member's own proposals lie above any that a shell hands to callers.
pub(crate) const OWN_SEQUENCES_FROM: u64 = 1 << 62;

/// Whether these are entries that a snapshot of this index has.
fn is_before(task: &ApplyTask, index: u64) -> bool {
    let ApplyTask::Entries { entries, .. } = task else { return false };
    entries.last().is_none_or(|last| last.index <= index)
}

fn to_log(entry: proto::log::Entry) -> wal::Entry {
    wal::Entry {
        term: entry.term,
        index: entry.index,
        kind: u8::try_from(entry.r#type).unwrap_or(u8::MAX),
        context: entry.context,
        data: entry.data,
    }
}
