//! The plan of timing, carried out: what this member uses, what it confirms, and, on the leader, when
//! the plan goes on.
//!
//! A plan goes through the log, so every member applies the same phases in the same order, each at its
//! own time. Having applied one, a member uses what it says and confirms it in its answers to the
//! leader. The leader takes the plan to the next phase when every voter has confirmed this one, not
//! when a quorum has: the one voter that still has the old election timeout is the one that would
//! depose a leader with the new heartbeat interval.
//!
//! What is confirmed must survive a restart, for others count on it. No file of its own is needed: a
//! phase is confirmed only once applied, and what is applied is durable in the own log or in the own
//! state. But a boot may find an older state and much log after it, and does not know at once how much
//! of that is committed. Until it does, the [`Floor`] holds: the longest election timeout, and the
//! shortest heartbeat interval, of any plan in state or log.

use std::collections::{BTreeMap, BTreeSet};

use autotune::{PLAN_FORMAT_BASE, Params, Phase, Plan, Timing};
use bytes::Bytes;
use consensus::Boot;
use prost::Message as _;
use proto::log::{
    self, Batch, Command, Member as MemberRow, TuningAdvance, TuningParams, TuningSubmit, command,
};
use proto::peer::TuningAck;
use state::TuningError;
use state::tuning::{UnknownFormat, check_format, check_submit, format_of, params_of, plan_of};

/// A voter that was silent for so long no longer keeps a plan from raising timeouts.
pub(crate) const ABSENT_US_MIN: u64 = 120_000_000;

/// Why a plan is not proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TuningRefusal {
    /// Only the leader judges and proposes.
    #[error("only the leader takes a plan")]
    NotLeader {
        /// Whom to ask.
        leader: Option<u64>,
    },
    /// The state would refuse it.
    #[error(transparent)]
    State(TuningError),
    /// A membership change is under way.
    #[error("no plan is taken while a membership change is under way")]
    MembershipChanging,
    /// A member that was added has not started.
    #[error("no plan is taken before member {0:x} has started")]
    Unstarted(u64),
    /// A learner is catching up.
    #[error("no plan is taken while learner {0:x} is catching up")]
    LearnerBehind(u64),
    /// The plan has a newer form than a member is known to read: it would stop, or take the plan for another.
    #[error(
        "no plan of format {format} is taken while member {member:x} is not known to read more than \
         format {knows}: its version may be older, or it has not answered this leader yet"
    )]
    Format {
        /// Of the plan.
        format: u32,
        /// The first one in the way.
        member: u64,
        /// The newest form it reads, as far as is known.
        knows: u32,
    },
    /// The plan has a newer form than this leader reads itself.
    #[error(transparent)]
    Unknown(UnknownFormat),
    /// Too much waits already.
    #[error("too many requests")]
    Busy,
}

/// What a member says of the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct TuningStatus {
    /// What its flags say.
    pub flags: Params,
    /// What it uses.
    pub in_force: Params,
    /// What flags and plan say, which is all it ever promises: timeouts lengthened after lost elections
    /// are not in it.
    pub promised: Params,
    /// The newest plan it has applied, and the phase of it.
    pub epoch: u64,
    /// See `epoch`.
    pub phase: Phase,
    /// What each member has confirmed, by id; empty where this member does not lead.
    pub confirmed: BTreeMap<u64, (u64, Phase)>,
    /// Why the plan does not go on, on the leader.
    pub held_by: Option<Held>,
    /// The newest form of plans this member reads.
    pub knows: u32,
    /// The newest form that all members are known to read, on the leader; 0 elsewhere.
    pub known_by_all: u32,
}

/// Why a plan does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// The leader has not applied an entry of its own term.
    NewLeader,
    /// These voters have not confirmed the phase.
    Unconfirmed {
        /// The phase.
        phase: Phase,
        /// The voters, and for how long each has been silent.
        voters: Vec<(u64, u64)>,
    },
    /// Leases of the length before may still run for so long.
    Lease {
        /// Time left.
        left_us: u64,
    },
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Held::NewLeader => f.write_str("the leader is new and has not committed anything yet"),
            Held::Unconfirmed { phase, voters } => {
                write!(f, "phase {} is not confirmed by", phase.as_str())?;
                for (n, (id, silent_us)) in voters.iter().enumerate() {
                    let comma = if n == 0 { "" } else { "," };
                    write!(f, "{comma} {id:x} (heard {} ms ago)", silent_us / 1_000)?;
                }
                Ok(())
            }
            Held::Lease { left_us } => {
                write!(f, "leases of before may run for another {} ms", left_us / 1_000)
            }
        }
    }
}

/// What holds from boot on until it is known how much of the log is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Floor {
    timing: Timing,
    /// The last entry of the log at boot that concerns a plan.
    through_index: u64,
    /// Term of the last entry of the log at boot.
    log_term: u64,
    /// One of the plans has a lease: a voter may have promised before this boot to elect nobody.
    with_lease: bool,
}

impl Floor {
    /// `None`: there never was a plan, neither in the state nor in the log.
    fn of(own: &Params, plan: &Plan, boot: &Boot) -> Option<Floor> {
        let mut through_index = 0;
        let mut timings = vec![own.timing];
        let mut with_lease = false;
        let mut seen = plan.epoch > 0;
        if seen {
            timings.extend([plan.from.params, plan.to].map(|p| p.unwrap_or(*own).timing));
            with_lease = plan.lease_before_us() > 0 || plan.to.is_some_and(|to| to.lease_us > 0);
        }
        for entry in boot.entries.iter().filter(|entry| entry.index > boot.applied) {
            for target in targets(entry) {
                seen = true;
                through_index = entry.index;
                timings.extend(target.map(|params| params.timing));
                with_lease |= target.is_some_and(|params| params.lease_us > 0);
            }
        }
        let election_us = timings.iter().map(|timing| timing.election_timeout_us).max()?;
        let heartbeat_us = timings.iter().map(|timing| timing.heartbeat_interval_us).min()?;
        seen.then(|| Floor {
            timing: Timing {
                heartbeat_interval_us: heartbeat_us,
                election_timeout_us: election_us.max(plan.from.election_us_min),
            },
            through_index,
            log_term: boot.entries.last().map_or(0, |entry| entry.term),
            with_lease,
        })
    }
}

/// Where the commands of an entry that concern a plan lead: a step leads nowhere new.
fn targets(entry: &log::Entry) -> Vec<Option<Params>> {
    // Read in full only where the field's number stands: most logs hold no plan at all.
    if !concerns_a_plan(&entry.data) || entry.r#type() != log::entry::Type::Normal {
        return Vec::new();
    }
    let batch = Batch::decode(entry.data.clone()).unwrap_or_default();
    let command = |bytes: &Bytes| Command::decode(bytes.clone()).ok()?.op;
    batch
        .commands
        .iter()
        .filter_map(|bytes| match command(bytes)? {
            command::Op::TuningSubmit(submit) => {
                let legal = submit.to.as_ref().map(params_of);
                Some(legal.filter(|params| params.validate().is_ok()))
            }
            command::Op::TuningAdvance(_) => Some(None),
            _ => None,
        })
        .collect()
}

/// Whether the bytes of a batch may hold one of the two commands: their tags, 21 and 22.
fn concerns_a_plan(data: &[u8]) -> bool {
    data.windows(2).any(|pair| matches!(pair, [0xaa | 0xb2, 0x01]))
}

/// What another member has confirmed.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    boot_id: u64,
    reached: (u64, Phase),
}

/// A step that was proposed and has not been applied yet.
#[derive(Clone, Copy, Debug)]
struct Offered {
    step: (u64, Phase),
    again_us: u64,
}

/// The part of a member that has to do with the plan.
#[derive(Debug)]
pub(crate) struct Tuning {
    own: Params,
    record: log::Tuning,
    plan: Plan,
    boot_id: u64,
    /// The newest form of plans that is read here.
    format: u32,
    floor: Option<Floor>,
    /// The phase has not been confirmed in an answer to an append yet.
    to_announce: bool,
    /// On the leader: what the others have confirmed.
    confirmed: BTreeMap<u64, Confirmed>,
    /// On the leader: the newest form of plans each of the others reads, as it last said in this term.
    reads: BTreeMap<u64, u32>,
    offered: Option<Offered>,
    /// On the leader: since when every voter has confirmed the phase.
    complete_since_us: Option<u64>,
    leads_since_us: u64,
}

/// The leader's view of the others, for one decision.
pub(crate) struct Peers<'a> {
    pub(crate) own: u64,
    pub(crate) voters: &'a BTreeSet<u64>,
    pub(crate) heard_us: &'a BTreeMap<u64, u64>,
}

impl Tuning {
    pub(crate) fn new(
        own: Params,
        record: &log::Tuning,
        boot: &Boot,
        boot_id: u64,
        format: u32,
    ) -> Tuning {
        let plan = plan_of(record);
        Tuning {
            own,
            record: record.clone(),
            plan,
            boot_id,
            format,
            floor: Floor::of(&own, &plan, boot),
            to_announce: plan.epoch > 0,
            confirmed: BTreeMap::new(),
            reads: BTreeMap::new(),
            offered: None,
            complete_since_us: None,
            leads_since_us: 0,
        }
    }

    /// What this member is to use now.
    pub(crate) fn in_force(&self) -> Params {
        let mut params = self.plan.in_force(&self.own);
        if let Some(floor) = &self.floor {
            let timing = &mut params.timing;
            timing.heartbeat_interval_us =
                timing.heartbeat_interval_us.min(floor.timing.heartbeat_interval_us);
            timing.election_timeout_us =
                timing.election_timeout_us.max(floor.timing.election_timeout_us);
            params.lease_us = 0;
        }
        params
    }

    /// Whether anybody may serve reads by a lease now, or will when the plan goes on. Every voter has
    /// confirmed a plan with a lease before the first leader uses it.
    pub(crate) fn may_lease(&self) -> bool {
        self.plan.to.is_some_and(|params| params.lease_us > 0)
            || (!self.is_settled() && self.plan.lease_before_us() > 0)
    }

    /// Whether a leader may hold a lease by a promise this member gave before its boot.
    pub(crate) fn may_have_promised(&self) -> bool {
        self.floor.as_ref().is_some_and(|floor| floor.with_lease)
    }

    pub(crate) fn flags(&self) -> &Params {
        &self.own
    }

    pub(crate) fn reached(&self) -> (u64, Phase) {
        (self.plan.epoch, self.plan.phase)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.plan.phase == Phase::Settled
    }

    /// The state has another plan now, or the plan another phase.
    pub(crate) fn take(&mut self, record: log::Tuning) {
        let plan = plan_of(&record);
        let before = self.reached();
        assert!((plan.epoch, plan.phase) >= before, "a plan goes forward: {before:?} to {plan:?}");
        self.record = record;
        self.plan = plan;
        self.to_announce = true;
        self.offered = None;
        self.complete_since_us = None;
    }

    /// A leader of this term commits, and this member has applied of it. Returns whether what is in
    /// force has changed.
    pub(crate) fn release_floor(&mut self, applied_index: u64, applied_term: u64) -> bool {
        // What was confirmed before the boot was committed then, so it stands before any entry of a
        // later term.
        let passed = |floor: &mut Floor| {
            applied_index >= floor.through_index || applied_term > floor.log_term
        };
        self.floor.take_if(passed).is_some()
    }

    /// What goes along with an answer to the leader. Without a plan there is nothing to confirm, but what is
    /// read here must be known before there can be one.
    pub(crate) fn ack(&mut self, to_append: bool) -> Option<TuningAck> {
        if to_append && !std::mem::take(&mut self.to_announce) {
            return None;
        }
        let (epoch, boot_id, knows) = (self.plan.epoch, self.boot_id, self.format);
        let phase = if epoch == 0 { 0 } else { self.plan.phase as u32 };
        Some(TuningAck { epoch, phase, boot_id, knows })
    }

    pub(crate) fn begin_term(&mut self, now_us: u64) {
        self.confirmed.clear();
        self.reads.clear();
        self.offered = None;
        self.complete_since_us = None;
        self.leads_since_us = now_us;
    }

    /// A member has answered a heartbeat: what it reads is what it says now, for it may have been restarted
    /// as an older version since. Who says nothing reads the first form.
    pub(crate) fn note_reads(&mut self, from: u64, ack: Option<TuningAck>) {
        let knows = ack.map_or(0, |ack| ack.knows).max(PLAN_FORMAT_BASE);
        self.reads.insert(from, knows);
    }

    /// Whether all members, the learners among them, read the form of a plan. The first form is read by all that
    /// ever were, so a member that is away keeps nobody from it.
    pub(crate) fn check_format(
        &self,
        to: Option<&TuningParams>,
        members: &[MemberRow],
        own: u64,
    ) -> Result<(), TuningRefusal> {
        check_format(to, self.format).map_err(TuningRefusal::Unknown)?;
        let format = to.map_or(PLAN_FORMAT_BASE, format_of);
        let reads = |id: u64| {
            let said = if id == own { Some(self.format) } else { self.reads.get(&id).copied() };
            said.unwrap_or(PLAN_FORMAT_BASE)
        };
        match members.iter().find(|member| reads(member.id) < format) {
            Some(MemberRow { id, .. }) => {
                Err(TuningRefusal::Format { format, member: *id, knows: reads(*id) })
            }
            None => Ok(()),
        }
    }

    /// The newest form that is read here.
    pub(crate) fn format(&self) -> u32 {
        self.format
    }

    /// The newest form all of these read, as far as is known; on the leader.
    pub(crate) fn read_by_all(&self, members: &[MemberRow], own: u64) -> u32 {
        let others = members.iter().filter(|member| member.id != own);
        let said = |id: u64| self.reads.get(&id).copied().unwrap_or(PLAN_FORMAT_BASE);
        others.map(|member| said(member.id)).fold(self.format, u32::min)
    }

    /// A member has confirmed something.
    pub(crate) fn confirm(&mut self, from: u64, ack: TuningAck) {
        let Some(phase) = Phase::of(u64::from(ack.phase)) else { return };
        let TuningAck { epoch, boot_id, .. } = ack;
        let reached = (epoch, phase);
        match self.confirmed.get_mut(&from) {
            // Messages of one boot may overtake each other; what an earlier one confirmed is void.
            Some(before) if before.boot_id == boot_id => {
                before.reached = before.reached.max(reached);
            }
            _ => drop(self.confirmed.insert(from, Confirmed { boot_id, reached })),
        }
    }

    /// Whether a voter that says this keeps a leader's lease. It may be so new that it does not know the
    /// plan, and elect by the shorter timeout of its flags.
    pub(crate) fn backs_lease(&self, ack: Option<TuningAck>) -> bool {
        ack.is_some_and(|ack| ack.epoch == self.plan.epoch)
    }

    /// What a member has confirmed.
    pub(crate) fn reached_by(&self, id: u64) -> Option<(u64, Phase)> {
        self.confirmed.get(&id).map(|confirmed| confirmed.reached)
    }

    /// What every member has confirmed, as the leader knows.
    pub(crate) fn confirmations(&self, own: u64) -> BTreeMap<u64, (u64, Phase)> {
        let others = self.confirmed.iter().map(|(id, confirmed)| (*id, confirmed.reached));
        others.chain([(own, self.reached())]).collect()
    }

    /// Whether a plan may be proposed now, as far as the plan before it goes.
    pub(crate) fn check(&self, submit: &TuningSubmit) -> Result<(), TuningRefusal> {
        check_submit(&self.record, submit).map_err(TuningRefusal::State)
    }

    /// No member joins while a plan is on its way.
    pub(crate) fn check_settled(&self) -> Result<(), TuningError> {
        match self.reached() {
            (_, Phase::Settled) => Ok(()),
            (epoch, phase) => Err(TuningError::Unsettled { epoch, phase: phase.as_str() }),
        }
    }

    /// Why the plan does not go on; `None`: it is settled, or goes on.
    pub(crate) fn held(&self, now_us: u64, peers: &Peers<'_>) -> Option<Held> {
        if self.is_settled() {
            return None;
        }
        let missing = self.unconfirmed(now_us, peers);
        if !self.may_pass_without(&missing, peers) {
            return Some(Held::Unconfirmed { phase: self.plan.phase, voters: missing });
        }
        if self.plan.phase == Phase::Lease {
            let since_us = self.complete_since_us.unwrap_or(now_us);
            let over_us = since_us.saturating_add(self.plan.lease_before_us());
            if now_us < over_us {
                return Some(Held::Lease { left_us: over_us - now_us });
            }
        }
        None
    }

    /// Voters that have not confirmed the phase, and for how long each has been silent.
    fn unconfirmed(&self, now_us: u64, peers: &Peers<'_>) -> Vec<(u64, u64)> {
        let lacks = |id: &&u64| {
            **id != peers.own && self.reached_by(**id).is_none_or(|by| by < self.reached())
        };
        let silent_us = |id: &u64| {
            let heard_us = peers.heard_us.get(id).copied().unwrap_or(0).max(self.leads_since_us);
            now_us.saturating_sub(heard_us)
        };
        peers.voters.iter().filter(lacks).map(|id| (*id, silent_us(id))).collect()
    }

    /// Nobody is missing, or a raise goes on without a few voters that have been gone for long: timeouts that are too short
    /// for the network may be why they are gone, and when they come back they are behind a leader
    /// whose followers do not vote for them.
    fn may_pass_without(&self, missing: &[(u64, u64)], peers: &Peers<'_>) -> bool {
        let quorum = peers.voters.len() / 2 + 1;
        missing.is_empty()
            || self.plan.may_leave_absent_behind(&self.own)
                && missing.iter().all(|(_, silent_us)| *silent_us >= ABSENT_US_MIN)
                && peers.voters.len() - missing.len() >= quorum
    }

    /// The step to propose now, if one is due. Proposed again if nothing came of it for
    /// `patience_us`.
    pub(crate) fn due(
        &mut self,
        now_us: u64,
        patience_us: u64,
        peers: &Peers<'_>,
    ) -> Option<TuningAdvance> {
        if self.is_settled() {
            return None;
        }
        if self.may_pass_without(&self.unconfirmed(now_us, peers), peers) {
            self.complete_since_us.get_or_insert(now_us);
        } else {
            self.complete_since_us = None;
        }
        let step = self.reached();
        let waits = |offered: &Offered| offered.step == step && now_us < offered.again_us;
        if self.offered.as_ref().is_some_and(waits) || self.held(now_us, peers).is_some() {
            return None;
        }
        self.offered = Some(Offered { step, again_us: now_us.saturating_add(patience_us) });
        Some(TuningAdvance { epoch: step.0, phase: step.1 as u32 })
    }
}

#[cfg(test)]
mod tests {
    use autotune::{BatchBounds, PLAN_FORMAT};
    use proto::log::{Entry, TuningOrigin};
    use state::tuning::params_said;

    use super::*;

    const SECOND_US: u64 = 1_000_000;

    fn params(heartbeat_ms: u64, election_ms: u64, lease_ms: u64) -> Params {
        Params {
            timing: Timing {
                heartbeat_interval_us: heartbeat_ms * 1_000,
                election_timeout_us: election_ms * 1_000,
            },
            lease_us: lease_ms * 1_000,
            ..Params::default()
        }
    }

    fn record(plan: &Plan) -> log::Tuning {
        log::Tuning {
            epoch: plan.epoch,
            phase: plan.phase as u32,
            from: Some(TuningOrigin {
                params: plan.from.params.as_ref().map(params_said),
                election_us_min: plan.from.election_us_min,
                flags: plan.from.flags,
            }),
            to: plan.to.as_ref().map(params_said),
            ..log::Tuning::default()
        }
    }

    fn ack(epoch: u64, phase: Phase, boot_id: u64) -> TuningAck {
        TuningAck { epoch, phase: phase as u32, boot_id, knows: PLAN_FORMAT }
    }

    /// Member 1 of three, which leads, with a plan in its first phase.
    struct Stage {
        tuning: Tuning,
        voters: BTreeSet<u64>,
        heard_us: BTreeMap<u64, u64>,
        now_us: u64,
    }

    impl Stage {
        fn new(from: Option<Params>, to: Params) -> Stage {
            let own = params(100, 1_000, 0);
            let settled = Plan { epoch: 6, phase: Phase::Settled, to: from, ..Plan::default() };
            let plan = settled.succeeded_by(Some(to));
            let mut tuning =
                Tuning::new(own, &log::Tuning::default(), &Boot::default(), 9, PLAN_FORMAT);
            tuning.begin_term(0);
            tuning.take(record(&plan));
            Stage { tuning, voters: [1, 2, 3].into(), heard_us: BTreeMap::new(), now_us: 0 }
        }

        fn due(&mut self) -> Option<(u64, u32)> {
            let Stage { tuning, voters, heard_us, now_us } = self;
            let peers = Peers { own: 1, voters, heard_us };
            tuning.due(*now_us, SECOND_US, &peers).map(|it| (it.epoch, it.phase))
        }

        fn confirm(&mut self, from: u64, ack: TuningAck) {
            self.heard_us.insert(from, self.now_us);
            self.tuning.confirm(from, ack);
        }

        /// Everybody confirms the phase, and it is left.
        fn pass(&mut self) {
            let (epoch, phase) = self.tuning.reached();
            for from in [2, 3] {
                self.confirm(from, ack(epoch, phase, from));
            }
            assert_eq!(self.due(), Some((epoch, phase as u32)));
            let phase = phase.next().expect("not the last");
            self.tuning.take(log::Tuning { phase: phase as u32, ..self.tuning.record.clone() });
        }

        fn held(&self) -> String {
            let peers = Peers { own: 1, voters: &self.voters, heard_us: &self.heard_us };
            self.tuning.held(self.now_us, &peers).expect("it is held").to_string()
        }
    }

    #[test]
    fn a_phase_is_left_when_every_voter_has_confirmed_it_and_not_when_a_quorum_has() {
        let mut stage = Stage::new(None, params(25, 315, 0));
        stage.confirm(2, ack(7, Phase::Raise, 20));
        assert_eq!(stage.due(), None);
        assert_eq!(stage.held(), "phase raise is not confirmed by 3 (heard 0 ms ago)");
        stage.confirm(3, ack(7, Phase::Raise, 30));
        assert_eq!(stage.due(), Some((7, 1)));
        // Once, and again when nothing came of it.
        assert_eq!(stage.due(), None);
        stage.now_us = SECOND_US;
        assert_eq!(stage.due(), Some((7, 1)));
    }

    #[test]
    fn what_an_earlier_plan_or_an_earlier_boot_confirmed_counts_no_more() {
        let mut stage = Stage::new(None, params(25, 315, 0));
        stage.confirm(2, ack(7, Phase::Raise, 20));
        stage.confirm(3, ack(6, Phase::Settled, 30));
        assert_eq!(stage.due(), None);
        stage.confirm(3, ack(7, Phase::Raise, 30));
        stage.confirm(3, ack(6, Phase::Settled, 31));
        assert_eq!(stage.due(), None);
        stage.confirm(3, ack(7, Phase::Raise, 31));
        // Two messages of one boot that changed places.
        stage.confirm(3, ack(6, Phase::Settled, 31));
        assert_eq!(stage.due(), Some((7, 1)));
    }

    #[test]
    fn a_new_leader_hears_everybody_before_it_goes_on() {
        let mut stage = Stage::new(None, params(25, 315, 0));
        for from in [2, 3] {
            stage.confirm(from, ack(7, Phase::Raise, from));
        }
        stage.tuning.begin_term(5);
        assert_eq!(stage.due(), None);
    }

    #[test]
    fn a_raise_leaves_a_voter_behind_that_was_silent_for_long_and_a_fall_never_does() {
        for (to, passes) in [(params(250, 2_500, 0), true), (params(25, 315, 0), false)] {
            let mut stage = Stage::new(None, to);
            stage.now_us = ABSENT_US_MIN - 1;
            stage.confirm(2, ack(7, Phase::Raise, 20));
            assert_eq!(stage.due(), None);
            stage.now_us = ABSENT_US_MIN;
            assert_eq!(stage.due().is_some(), passes);
        }
        // Two of three are no minority.
        let mut stage = Stage::new(None, params(250, 2_500, 0));
        stage.now_us = 2 * ABSENT_US_MIN;
        assert_eq!(stage.due(), None);
    }

    #[test]
    fn election_timeouts_fall_when_the_leases_of_before_have_ended() {
        let mut stage = Stage::new(Some(params(100, 1_000, 760)), params(25, 315, 200));
        stage.pass();
        stage.pass();
        stage.now_us = 1;
        for from in [2, 3] {
            stage.confirm(from, ack(7, Phase::Lease, from));
        }
        assert_eq!(stage.due(), None);
        assert_eq!(stage.held(), "leases of before may run for another 760 ms");
        stage.now_us = 760_000;
        assert_eq!(stage.due(), None);
        stage.now_us += 1;
        assert_eq!(stage.due(), Some((7, 3)));
    }

    #[test]
    fn who_does_not_know_the_plan_keeps_nobodys_lease() {
        let stage = Stage::new(None, params(250, 2_500, 1_900));
        assert!(stage.tuning.backs_lease(Some(ack(7, Phase::Raise, 2))));
        assert!(!stage.tuning.backs_lease(Some(ack(6, Phase::Settled, 2))));
        assert!(!stage.tuning.backs_lease(None));
    }

    #[test]
    fn a_phase_is_confirmed_with_every_heartbeat_and_once_with_an_append() {
        let mut stage = Stage::new(None, params(25, 315, 0));
        let confirmed = Some(ack(7, Phase::Raise, 9));
        assert_eq!(stage.tuning.ack(true), confirmed);
        assert_eq!(stage.tuning.ack(true), None);
        assert_eq!(stage.tuning.ack(false), confirmed);
        // Before there is a plan, that its form would be read.
        let record = log::Tuning::default();
        let mut none = Tuning::new(params(100, 1_000, 0), &record, &Boot::default(), 9, 2);
        let knows = Some(TuningAck { boot_id: 9, knows: 2, ..TuningAck::default() });
        assert_eq!((none.ack(true), none.ack(false)), (None, knows));
    }

    #[test]
    fn a_newer_form_is_taken_when_every_member_has_said_in_this_term_that_it_reads_it() {
        let mut stage = Stage::new(None, params(25, 315, 0));
        let members: Vec<MemberRow> =
            (1..=3).map(|id| MemberRow { id, ..MemberRow::default() }).collect();
        let bounds = BatchBounds { compression: false, ..BatchBounds::default() };
        let plain = params_said(&Params { bounds, ..params(25, 315, 0) });
        let check = |tuning: &Tuning, to: &TuningParams| {
            tuning.check_format(Some(to), &members, 1).map_err(|refusal| refusal.to_string())
        };
        let said = |knows| Some(TuningAck { knows, ..TuningAck::default() });
        let tuning = &mut stage.tuning;
        assert!(check(tuning, &plain).is_err());
        tuning.note_reads(2, said(2));
        assert_eq!(
            check(tuning, &plain).unwrap_err(),
            "no plan of format 2 is taken while member 3 is not known to read more than format 1: its \
             version may be older, or it has not answered this leader yet"
        );
        assert_eq!(check(tuning, &params_said(&params(25, 315, 0))), Ok(()), "all read this one");
        tuning.note_reads(3, said(7));
        assert_eq!((check(tuning, &plain), tuning.read_by_all(&members, 1)), (Ok(()), 2));
        // Restarted as a version that says nothing of forms.
        tuning.note_reads(3, None);
        assert!(check(tuning, &plain).is_err());
        assert_eq!(tuning.read_by_all(&members, 1), 1);
        tuning.note_reads(3, said(2));
        assert_eq!(check(tuning, &plain), Ok(()));
        let newer = TuningParams { format: 3, ..plain };
        assert!(check(tuning, &newer).unwrap_err().contains("reads formats up to 2"));
        tuning.begin_term(9);
        assert!(check(tuning, &plain).is_err(), "nobody has said anything to this leader");
    }

    fn entry(index: u64, op: command::Op) -> Entry {
        let command = Command { id: None, op: Some(op) }.encode_to_vec();
        let data = Batch { commands: vec![command.into()] }.encode_to_vec().into();
        Entry { index, term: 4, data, ..Entry::default() }
    }

    #[test]
    fn a_boot_uses_no_less_than_any_plan_in_state_or_log_until_a_leader_commits() {
        let own = params(100, 1_000, 0);
        let before = Plan {
            epoch: 3,
            phase: Phase::Settled,
            to: Some(params(50, 600, 400)),
            ..Plan::default()
        };
        let submit = |to: Params| {
            command::Op::TuningSubmit(TuningSubmit {
                to: Some(params_said(&to)),
                ..TuningSubmit::default()
            })
        };
        let boot = Boot {
            applied: 10,
            entries: vec![
                entry(10, submit(params(900, 40_000, 0))),
                entry(11, submit(params(250, 2_500, 0))),
                entry(12, command::Op::TuningAdvance(TuningAdvance { epoch: 4, phase: 1 })),
                entry(13, command::Op::Put(proto::etcdserverpb::PutRequest::default())),
            ],
            ..Boot::default()
        };
        let mut tuning = Tuning::new(own, &record(&before), &boot, 9, PLAN_FORMAT);
        let floor = params(50, 2_500, 0);
        assert_eq!(tuning.in_force(), floor);
        // In the leader's old term every plan must have been applied first.
        assert!(!tuning.release_floor(11, 4));
        assert_eq!(tuning.in_force(), floor);
        assert!(tuning.release_floor(12, 4));
        assert_eq!(tuning.in_force(), params(50, 600, 400));
        // What stands before an entry of a later term is all there ever was.
        let mut tuning = Tuning::new(own, &record(&before), &boot, 9, PLAN_FORMAT);
        assert!(tuning.release_floor(11, 5));
    }

    #[test]
    fn a_boot_without_any_plan_uses_its_flags() {
        let own = params(100, 1_000, 0);
        let put = command::Op::Put(proto::etcdserverpb::PutRequest {
            value: vec![0xaa, 0x01, 0xb2, 0x01].into(),
            ..Default::default()
        });
        let boot = Boot { entries: vec![entry(1, put)], ..Boot::default() };
        let tuning = Tuning::new(own, &log::Tuning::default(), &boot, 9, PLAN_FORMAT);
        assert_eq!((tuning.in_force(), tuning.floor), (own, None));
    }
}
