//! From what raft wants to what the member is told to do.
//!
//! The order inside one output matters twice. Commands and reads come before raft's `Ready`, so
//! that what they make raft want leaves with the same output. And the log in memory has the new
//! entries before raft is told that they were handed out, because raft reads them back from there.

use bytes::Bytes;
use proto::log;
use proto::peer::{RaftMessage, raft_message::Type};

use raft::ReadState;
use raft::eraftpb::{self, MessageType};

use super::Replica;
use crate::convert;
use crate::outbox::Confirmed;
use crate::output::{Leadership, Output, Persist};
use crate::reads::Answered;

/// Rounds of reads one output may answer: a sole voter answers its own at once.
const READ_ROUNDS_PER_OUTPUT: usize = 2;

impl Replica {
    /// Everything that is to be done since the last time.
    pub fn take_output(&mut self, now_us: u64) -> Output {
        self.observe(now_us);
        let mut output = Output::default();
        self.flush_batch(&mut output);
        self.run_reads(&mut output);
        if self.raw.has_ready() {
            self.take_ready(&mut output);
        }
        output.messages = self.outbox.take_released();
        self.tell_durable(&mut output.messages);
        if self.disk_stalled(now_us) {
            output.messages.retain(|message| message.r#type() != Type::MsgHeartbeat);
        }
        output.reads_failed = self.reads.take_failed();
        output.leadership = self.take_leadership();
        output.snapshot_wanted = self.log().take_snapshot_wanted();
        output
    }

    /// Whether [`Replica::take_output`] has something to say already.
    pub fn has_output(&self) -> bool {
        let lead = self.lead();
        let reads = self.reads.deadline_us(self.clock.election_timeout_us(), lead.is_self);
        self.raw.has_ready()
            || reads.is_some_and(|due_us| due_us <= self.now_us)
            || self.outbox.has_released()
            || self.reads.has_failed()
            || self.reads.may_begin(lead)
            || self.reads.is_held_over(lead)
            || self.has_durable_to_tell()
            || self.log().snapshot_wanted()
            || self.reported != (lead.term, lead.leader)
            || if lead.is_self {
                self.batch_due_us().is_some_and(|due_us| due_us <= self.now_us)
            } else {
                self.making.len() > 0
            }
    }

    /// When [`Replica::tick`] and [`Replica::take_output`] must be called at the latest.
    pub fn next_deadline_us(&self, now_us: u64) -> u64 {
        if self.has_output() {
            return now_us;
        }
        let election_us = self.clock.election_timeout_us();
        let batch = self.batch_due_us();
        let reads = self.reads.deadline_us(election_us, self.is_leader());
        let clock = self.clock.deadline_us(self.is_leader());
        let due = batch.into_iter().chain(reads).chain(self.hint_due_us());
        due.fold(clock, u64::min).max(now_us)
    }

    /// Turns the batch in the making into entries, or gives its commands back.
    fn flush_batch(&mut self, output: &mut Output) {
        // What an earlier term was asked for is not this one's.
        if !self.is_leader() || !self.making.is_for(self.raw.raft.term) {
            output.dropped = self.making.take_commands();
            return;
        }
        self.pace.committed(self.now_us, self.raw.raft.raft_log.committed);
        if self.batch_due_us().is_none_or(|due_us| due_us > self.now_us) {
            return;
        }
        let Some(next) = self.next_batch() else { return };
        let followers = self.making.take_followers();
        let batching = self.fit_entries();
        let entries = self.making.take_entries(&batching);
        let before = self.raw.raft.state;
        for proposed in self.in_messages(entries) {
            self.raw
                .raft
                .step(convert::propose_message(self.config.id, proposed))
                .expect("a leader in its configuration that transfers nothing takes proposals");
        }
        self.send_behind_question();
        let last_index = self.raw.raft.raft_log.last_index();
        let raft = &self.raw.raft;
        for follower in followers.into_iter().filter(|id| raft.prs().get(*id).is_some()) {
            self.told.awaits(follower, last_index, raft.raft_log.committed);
        }
        self.pace.left(self.now_us, next, self.config.batching.gather_us_max, last_index);
        self.settle(before);
    }

    fn run_reads(&mut self, output: &mut Output) {
        for _ in 0..READ_ROUNDS_PER_OUTPUT {
            for answer in std::mem::take(&mut self.raw.raft.read_states) {
                self.answer_reads(&answer.request_ctx, answer.index, output);
            }
            let lead = self.lead();
            while let Some(answered) = self.reads.take_held(lead) {
                self.tell_readers(answered, output);
            }
            self.reads.check(self.now_us, lead, self.clock.election_timeout_us());
            if !self.reads.may_begin(lead) {
                break;
            }
            let context = self.reads.begin(self.now_us, lead);
            if self.holds_lease() {
                let index = self.raw.raft.raft_log.committed;
                self.raw.raft.read_states.push(ReadState { index, request_ctx: context.to_vec() });
            } else if lead.is_self {
                self.raw.read_index(context.to_vec());
            } else {
                let message = self.read_message(Type::MsgReadIndex, lead.leader, context);
                self.outbox.send_at_once(message);
            }
        }
    }

    /// The round of this context is proved, at this index.
    fn answer_reads(&mut self, context: &[u8], index: u64, output: &mut Output) {
        if self.reads.holds(context, index, self.lead()) {
            return;
        }
        if let Some(answered) = self.reads.complete(self.now_us, context, index) {
            self.tell_readers(answered, output);
        }
    }

    fn tell_readers(&mut self, answered: Answered, output: &mut Output) {
        let Answered { index, ready, peers } = answered;
        // Raft takes it for a commit index where it arrives.
        debug_assert!(peers.is_empty() || index <= self.raw.raft.raft_log.committed);
        output.reads.extend(ready);
        for peer in peers {
            let message = self.read_message(Type::MsgReadIndexResp, peer.from, peer.context);
            let message = RaftMessage { term: self.raw.raft.term, index, ..message };
            self.outbox.send(message, true);
        }
    }

    fn read_message(&self, kind: Type, to: u64, context: Bytes) -> RaftMessage {
        RaftMessage {
            r#type: kind.into(),
            to,
            from: self.config.id,
            entries: vec![log::Entry { data: context, ..Default::default() }],
            ..Default::default()
        }
    }

    /// A heartbeat and a question for votes say when they left, their answers which one they answer.
    /// With the word to a successor a lease is over.
    fn with_times(&mut self, mut message: RaftMessage) -> RaftMessage {
        match message.r#type() {
            Type::MsgHeartbeat | Type::MsgRequestPreVote | Type::MsgRequestVote => {
                message.sent_us = self.now_us;
            }
            kind @ (Type::MsgRequestPreVoteResponse | Type::MsgRequestVoteResponse) => {
                message.sent_us = self.elections.echo(message.to, kind);
            }
            Type::MsgHeartbeatResponse => {
                message.sent_us = self.lease.echo(message.to, message.term);
            }
            Type::MsgTimeoutNow => self.lease.end(),
            _ => {}
        }
        message
    }

    fn take_ready(&mut self, output: &mut Output) {
        let mut ready = self.raw.ready();
        let leader = self.is_leader();
        let hard_state = ready.hs().map(convert::hard_state_from_raft);
        let snapshot =
            (!ready.snapshot().is_empty()).then(|| convert::snapshot_from_raft(ready.snapshot()));
        let entries: Vec<_> = ready.entries().iter().map(convert::entry_from_raft).collect();

        let vote = hard_state.map_or(self.vote, |state| (state.term, state.vote));
        let vote_changed = vote != self.vote;
        self.vote = vote;
        let confirmed = self.outbox.write(
            self.now_us,
            ready.number(),
            ready.must_sync(),
            vote_changed,
            snapshot.as_ref().map(|meta| meta.index),
        );
        let mut messages = ready.take_messages();
        messages.extend(ready.take_persisted_messages());
        for (at, message) in messages.iter().enumerate() {
            if is_said_with_entries(message, &messages[at + 1..]) {
                continue;
            }
            self.note_sent(message);
            let message = self.with_times(convert::message_from_raft(message));
            self.outbox.send(message, leader);
        }
        output.committed = ready.committed_entries().iter().map(convert::entry_from_raft).collect();
        if let Some(entry) = output.committed.last() {
            self.handed_out = entry.index;
        }

        // Raft reads what it has handed out from the log, so the log has it first.
        let number = ready.number();
        let must_sync = ready.must_sync();
        let log = self.raw.mut_store();
        if let Some(meta) = &snapshot {
            self.handed_out = meta.index;
            self.conf_index = meta.index;
            log.restore(meta.clone());
        }
        log.append(ready.entries());
        self.raw.advance_append_async(ready);
        self.commit_unwritten = hard_state.or(self.commit_unwritten);
        if must_sync {
            let hard_state = self.commit_unwritten.take();
            output.persist = Some(Persist { number, hard_state, entries, snapshot });
        }
        if let Some(confirmed) = confirmed {
            let before = self.raw.raft.state;
            self.confirm(confirmed);
            self.settle(before);
        }
    }

    pub(super) fn confirm(&mut self, confirmed: Confirmed) {
        self.raw.on_persist_ready(confirmed.through);
        self.commit_durable();
        if let Some(index) = confirmed.snapshot
            && index > self.raw.raft.raft_log.applied
        {
            // As far as raft goes a durable snapshot is applied; the state follows when it can.
            self.raw.advance_apply_to(index);
        }
    }

    fn take_leadership(&mut self) -> Option<Leadership> {
        let lead = self.lead();
        if self.reported == (lead.term, lead.leader) {
            return None;
        }
        self.reported = (lead.term, lead.leader);
        Some(Leadership { term: lead.term, leader: self.leader(), is_leader: lead.is_self })
    }
}

/// Whether a commit index that goes alone goes with one of the later messages, too.
fn is_said_with_entries(message: &eraftpb::Message, later: &[eraftpb::Message]) -> bool {
    let is_append = |message: &eraftpb::Message| message.get_msg_type() == MessageType::MsgAppend;
    is_append(message)
        && message.entries.is_empty()
        && later.iter().filter(|other| is_append(other) && other.to == message.to).any(|other| {
            (other.index, other.log_term) == (message.index, message.log_term)
                && other.commit >= message.commit
        })
}
