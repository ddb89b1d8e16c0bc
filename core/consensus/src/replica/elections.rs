//! Elections: when this member stands, how long it waits, and what lost ones teach.
//!
//! raft-rs draws its timeouts at random whenever it changes its role; after every call that may do so
//! the draw is overwritten (`settle`), always, so that a run can be repeated. What the answers to
//! candidacies say of the round trip goes to the clock ([`crate::timing`]).

use std::collections::BTreeMap;

use proto::peer::{RaftMessage, raft_message::Type};
use raft::StateRole;

use super::Replica;
use super::appends::Appends;
use super::roads::Roads;
use crate::output::{ElectionCause, ElectionCauses};
use crate::pace::Pace;
use crate::timing::{election_ticks, mix};

/// The candidacies of this member.
#[derive(Debug, Default)]
pub(super) struct Elections {
    pub(super) begun: u64,
    pub(super) pre_campaigns: u64,
    /// What made it stand the last time.
    pub(super) cause: ElectionCause,
    pub(super) stood: ElectionCauses,
    /// The last term in which it voted for itself.
    pub(super) stood_in: u64,
    pub(super) won: u64,
    pub(super) quorum_losses: u64,
    /// Somebody answered since the candidacy or the leadership began.
    pub(super) answered: bool,
    /// The term in which it led, committed nothing and stepped down unheard.
    pub(super) unheard_term: u64,
    /// The newest term for which it asked for votes or led, and since when it waits for an answer.
    pub(super) asked: (u64, u64),
    /// In the term it leads: how long each peer's answers to heartbeats took at most. It wears off.
    pub(super) answers_us: BTreeMap<u64, u64>,
    /// The last term in which it led and committed.
    pub(super) committed_in: u64,
    /// The last term in which it gave way, and when it did.
    pub(super) gave_way: Option<(u64, u64)>,
    /// When each peer says it sent the newest question of each kind, to be told with the answer.
    pub(super) asked_at_us: BTreeMap<(u64, Question), u64>,
}

/// Whether an election could be won, or a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    PreVote,
    Vote,
}

impl Question {
    fn of(kind: Type) -> Option<Question> {
        match kind {
            Type::MsgRequestPreVote | Type::MsgRequestPreVoteResponse => Some(Question::PreVote),
            Type::MsgRequestVote | Type::MsgRequestVoteResponse => Some(Question::Vote),
            _ => None,
        }
    }
}

impl Elections {
    /// When the question was sent which an answer of this kind to this peer belongs to; 0: unknown.
    pub(super) fn echo(&self, to: u64, kind: Type) -> u64 {
        let question = Question::of(kind).and_then(|it| self.asked_at_us.get(&(to, it)));
        question.copied().unwrap_or(0)
    }

    /// Who is no peer any more is not answered.
    pub(super) fn retain(&mut self, is_peer: impl Fn(u64) -> bool) {
        self.asked_at_us.retain(|(id, _), _| is_peer(*id));
    }
}

/// With each further answer so small a part of the longest one is forgotten: at 25 ms half of it in
/// eighteen seconds.
const ANSWER_WEARS: u64 = 1_024;

impl Replica {
    /// Stands for election now. A sole voter is called upon to at boot: a restart must not wait for
    /// a timeout nobody can win. Nothing happens where it would be unsafe or pointless.
    pub fn campaign(&mut self) {
        if self.raw.raft.state != StateRole::Follower || !self.may_campaign() {
            return;
        }
        let before = self.raw.raft.state;
        self.begin_candidacy(ElectionCause::Planned);
        // The only error is one of storage, and this storage has none to give.
        let _ = self.raw.campaign();
        self.settle(before);
    }

    /// What made this member stand for election the last time it did.
    pub fn election_cause(&self) -> ElectionCause {
        self.elections.cause
    }

    /// Follows every call that may have changed raft's role or drawn a random number.
    pub(super) fn settle(&mut self, before: StateRole) {
        let raft = &mut self.raw.raft;
        let ticks =
            election_ticks(self.config.seed, self.config.id, raft.term, self.elections.begun);
        let has_not_stood = raft.state == StateRole::Follower;
        let ticks = if has_not_stood { self.clock.patient(ticks) } else { ticks };
        raft.set_randomized_election_timeout(ticks);
        if raft.vote == raft.id && raft.term > self.elections.stood_in {
            self.elections.stood_in = raft.term;
            self.elections.stood.count(self.elections.cause);
            self.elections.asked = (raft.term, self.now_us);
        }
        let commits = raft.leader_id != raft::INVALID_ID && raft.commit_to_current_term();
        let leads = raft.state == StateRole::Leader;
        let won = leads && before != StateRole::Leader;
        if won {
            self.elections.won += 1;
            self.elections.answered = false;
            self.elections.asked = (raft.term, self.now_us);
            self.elections.answers_us.clear();
            self.clock.became_leader(self.now_us);
            self.pace = Pace::default();
            self.roads = Roads::of_term(self.raw.raft.raft_log.last_index());
            self.appends = Appends::default();
            self.lease.begin_term();
            self.told.begin_term();
            self.open_windows();
        }
        if !leads {
            self.clock.led_with_answers_after(0);
        }
        if commits {
            if leads && self.elections.committed_in < self.raw.raft.term {
                // Until the first heartbeat is answered this is what is known of the way there and back.
                self.elections.committed_in = self.raw.raft.term;
                let (_, asked_us) = self.elections.asked;
                self.clock.led_with_answers_after(self.now_us.saturating_sub(asked_us));
            }
            self.clock.committed();
        }
    }

    /// Two that stand at about the same time are each granted the other's question, ask for votes,
    /// have given their own to themselves, and both lose; the farther apart they are, the surer. So
    /// one of them gives way as soon as it hears of the other: who has less in its log, else who comes
    /// later in an order that differs from term to term. Once a term only, for the other may be deaf
    /// and ask for ever.
    pub(super) fn give_way(&mut self, message: &RaftMessage) {
        let raft = &mut self.raw.raft;
        let (term, own, log) = (raft.term, raft.id, &raft.raft_log);
        let stands_too = raft.state == StateRole::PreCandidate && message.term == term + 1;
        let has_given_way = self.elections.gave_way.is_some_and(|(in_term, _)| in_term == term);
        if !stands_too || has_given_way || !log.is_up_to_date(message.index, message.log_term) {
            return;
        }
        let is_equal = (message.index, message.log_term) == (log.last_index(), log.last_term());
        let rank = |id: u64| mix(mix(id) ^ term);
        if is_equal && rank(own) < rank(message.from) {
            return;
        }
        self.elections.gave_way = Some((term, self.now_us));
        raft.become_follower(term, raft::INVALID_ID);
    }

    /// Whether this is the answer to a question of before this member gave way. It would stand
    /// again upon it, and lose with the one it gave way to.
    pub(super) fn is_given_up(&self, kind: Type, message: &RaftMessage) -> bool {
        let Some((term, at_us)) = self.elections.gave_way else { return false };
        kind == Type::MsgRequestPreVoteResponse
            && !message.reject
            && message.term == term + 1
            && (1..=at_us).contains(&message.sent_us)
    }

    /// A peer asks, at a time of its own clock which the answer is to tell it.
    pub(super) fn note_question(&mut self, kind: Type, from: u64, sent_us: u64) {
        let is_question = matches!(kind, Type::MsgRequestPreVote | Type::MsgRequestVote);
        if let Some(question) = Question::of(kind).filter(|_| is_question)
            && self.raw.raft.prs().get(from).is_some()
        {
            self.elections.asked_at_us.insert((from, question), sent_us);
        }
    }

    /// A quorum has refused its votes, for others have more in their logs, or another was first. Without
    /// the question beforehand such a candidacy costs everybody a term and begins their waits anew: who
    /// stood again and again at its usual time would starve those whose timeouts are lengthened.
    pub(super) fn note_refusal(&mut self, kind: Type, before: StateRole, term: u64) {
        let raft = &self.raw.raft;
        let is_refused = kind == Type::MsgRequestVoteResponse
            && (before, raft.state) == (StateRole::Candidate, StateRole::Follower)
            && raft.term == term;
        if is_refused {
            self.clock.lost();
        }
    }

    /// A heartbeat of this term that was sent at this time is answered.
    pub(super) fn note_heartbeat_answer(&mut self, from: u64, sent_us: u64) {
        // 0: by one that does not say what it answers.
        if sent_us == 0 || sent_us > self.now_us {
            return;
        }
        let longest_us = self.elections.answers_us.entry(from).or_default();
        let worn_us = *longest_us - *longest_us / ANSWER_WEARS;
        *longest_us = worn_us.max(self.now_us - sent_us);
        // This member answers itself at once; until a quorum has, what the commit took counts.
        let voters = self.voters();
        let others = self.elections.answers_us.iter().filter(|(id, _)| voters.contains(id));
        let mut answers_us: Vec<u64> = others.map(|(_, us)| *us).chain([0]).collect();
        answers_us.sort_unstable();
        if let Some(quorum_us) = answers_us.get(voters.len() / 2) {
            self.clock.led_with_answers_after(*quorum_us);
        }
    }

    pub(super) fn tick_once(&mut self) {
        let before = self.raw.raft.state;
        if before != StateRole::Leader && !self.may_campaign() {
            // Waits at the brink, and campaigns as soon as it may.
            let brink = self.raw.raft.randomized_election_timeout() - 2;
            self.raw.raft.election_elapsed = self.raw.raft.election_elapsed.min(brink);
        }
        let fired = self.raw.tick();
        if before != StateRole::Leader && fired {
            if before != StateRole::Follower && self.elections.answered {
                self.clock.lost();
            }
            self.begin_candidacy(ElectionCause::Timeout);
        }
        if before == StateRole::Leader && self.raw.raft.state == StateRole::Follower {
            self.elections.quorum_losses += 1;
            if !self.raw.raft.commit_to_current_term() {
                if self.elections.answered {
                    self.clock.lost();
                } else {
                    self.elections.unheard_term = self.raw.raft.term;
                }
            }
        }
        self.settle(before);
    }

    pub(super) fn may_campaign(&self) -> bool {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        raft.promotable()
            && !self.outbox.snapshot_outstanding()
            && (!raft.prs().is_singleton() || log.persisted == log.last_index())
    }

    pub(super) fn begin_candidacy(&mut self, cause: ElectionCause) {
        self.elections.begun += 1;
        self.elections.cause = cause;
        // Whom the leader calls upon asks nobody first.
        let asks = self.config.pre_vote && cause != ElectionCause::Transfer;
        self.elections.pre_campaigns += u64::from(asks);
        self.elections.answered = false;
    }

    /// Evidence on whether lost elections are a matter of time: answers do come.
    pub(super) fn note_answer(&mut self, kind: Type, term: u64, sent_us: u64) {
        let vote = matches!(kind, Type::MsgRequestVoteResponse | Type::MsgRequestPreVoteResponse);
        let answer = matches!(kind, Type::MsgAppendResponse | Type::MsgHeartbeatResponse);
        if vote || (answer && self.is_leader()) {
            self.elections.answered = true;
        }
        if vote && (1..=self.now_us).contains(&sent_us) {
            // It says which question it answers.
            self.clock.answered_after(self.now_us - sent_us);
        }
        let (asked_term, asked_us) = self.elections.asked;
        let is_first = answer && term == self.elections.unheard_term;
        if term == asked_term && (kind == Type::MsgRequestVoteResponse || is_first) {
            self.clock.answered_after(self.now_us.saturating_sub(asked_us));
        }
        if answer && term == self.elections.unheard_term {
            self.elections.unheard_term = 0;
            self.clock.lost();
        }
    }
}
