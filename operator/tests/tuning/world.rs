//! A settled cluster whose members measure round trips and carry out plans, without anything else that
//! could happen to it: what the simulated cluster (`tests/simulated`) is for pods, this is for timing.

use std::collections::BTreeMap;

use autotune::planner::{Elections, Link, MemberRow, PROBE_INTERVAL_US};
use autotune::{Params, Percentiles, Plan as TimingPlan, Timing};
use operator::crd::{AutotuneMode, AutotuneStatus, MetaStore, MetaStoreStatus};
use operator::observed::{
    Answer, Beginning, Claim, Member, Observed, Ordinal, Peer, Pod, Tuning, Workload,
};
use operator::plan::{Event, Plan, Step, plan};

const BEGAN_S: i64 = 1_700_000_000;
pub(crate) const FLAGS: Timing =
    Timing { heartbeat_interval_us: 100_000, election_timeout_us: 1_000_000 };

/// What somebody submitted, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Submitted {
    pub(crate) at_s: i64,
    pub(crate) to: Option<Params>,
    pub(crate) reason: String,
}

/// Where an operator ends in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Killed {
    BeforeTheReport,
    BeforeTheStep,
    /// It was submitted, and nobody heard.
    AfterTheStep,
}

pub(crate) struct World {
    /// Seconds since the cluster came about.
    pub(crate) now_s: i64,
    pub(crate) object: MetaStore,
    /// Between any two, by ordinal; none: they do not hear each other.
    pub(crate) rtt_us: Vec<Vec<Option<u64>>>,
    pub(crate) plan: TimingPlan,
    words: (String, String, i64),
    pub(crate) submitted: Vec<Submitted>,
    /// By ordinal: when it was started, which start it is, leaders it displaced by mistake.
    pub(crate) members: Vec<(i64, u64, u64)>,
    /// Ordinals that run a version without plans.
    pub(crate) unaware: Vec<Ordinal>,
    /// The newest form of plans that all members read.
    pub(crate) format_read: u32,
    /// Ordinals that do not confirm plans.
    pub(crate) deaf: Vec<Ordinal>,
    pub(crate) learner: bool,
    pub(crate) rotating: bool,
    pub(crate) outdated: bool,
    pub(crate) events: Vec<Event>,
    /// Writes of the status.
    pub(crate) reports: usize,
    /// Measurements are off by up to so many hundredths, in turns.
    pub(crate) jitter_percent: u64,
    looks: u64,
    next_pass_s: i64,
}

fn id(ordinal: usize) -> u64 {
    0x100 + ordinal as u64
}

impl World {
    /// Three members that have just come about, so far from each other.
    pub(crate) fn new(rtt_us: u64, mode: AutotuneMode) -> Self {
        let mut object = MetaStore::default();
        object.metadata.name = Some("demo".to_owned());
        object.metadata.generation = Some(1);
        object.spec.replicas = 3;
        object.spec.storage.size = "1Gi".to_owned();
        object.spec.autotune.mode = mode;
        object.status =
            Some(MetaStoreStatus { cluster_id: Some("c1".to_owned()), ..Default::default() });
        World {
            now_s: 0,
            object,
            rtt_us: vec![vec![Some(rtt_us); 3]; 3],
            plan: TimingPlan::default(),
            words: Default::default(),
            submitted: Vec::new(),
            members: vec![(0, 1, 0), (0, 2, 0), (0, 3, 0)],
            unaware: Vec::new(),
            format_read: autotune::PLAN_FORMAT,
            deaf: Vec::new(),
            learner: false,
            rotating: false,
            outdated: false,
            events: Vec::new(),
            reports: 0,
            jitter_percent: 10,
            looks: 0,
            next_pass_s: 0,
        }
    }

    /// The network becomes so long, between all.
    pub(crate) fn set_rtt(&mut self, rtt_us: u64) {
        self.rtt_us = vec![vec![Some(rtt_us); 3]; 3];
    }

    /// Two no longer hear each other.
    pub(crate) fn cut(&mut self, one: usize, other: usize) {
        (self.rtt_us[one][other], self.rtt_us[other][one]) = (None, None);
    }

    /// The user changes the spec, which is noticed at once.
    pub(crate) fn spec(&mut self, change: impl FnOnce(&mut operator::crd::MetaStoreSpec)) {
        self.next_pass_s = self.now_s;
        change(&mut self.object.spec);
        let generation = self.object.metadata.generation.unwrap_or(0);
        self.object.metadata.generation = Some(generation + 1);
    }

    fn own() -> Params {
        Params { timing: FLAGS, ..Params::default() }
    }

    pub(crate) fn in_force(&self) -> Timing {
        self.plan.in_force(&World::own()).timing
    }

    pub(crate) fn in_force_ms(&self) -> (u64, u64) {
        let timing = self.in_force();
        (timing.heartbeat_interval_us / 1_000, timing.election_timeout_us / 1_000)
    }

    pub(crate) fn tuning(&self) -> &AutotuneStatus {
        let status = self.object.status.as_ref().expect("a status");
        status.autotune.as_ref().expect("a report on tuning")
    }

    /// Reason of the condition, if it holds or not.
    pub(crate) fn ready(&self) -> (bool, String) {
        let status = self.object.status.as_ref().expect("a status");
        let mut conditions = status.conditions.iter().filter(|c| c.type_ == "AutotuneReady");
        let condition = conditions.next().expect("a condition");
        (condition.status == "True", condition.reason.clone())
    }

    pub(crate) fn told(&self, reason: &str) -> Vec<&Event> {
        self.events.iter().filter(|event| event.reason == reason).collect()
    }

    fn jittered(&self, us: u64, salt: u64) -> u64 {
        let turn = (self.looks * 7 + salt * 3) % 11;
        us * (1_000 + self.jitter_percent * turn) / 1_000
    }

    /// One look.
    pub(crate) fn observe(&mut self) -> Observed {
        self.looks += 1;
        let mut members: Vec<Member> = (0..3).map(|n| self.row(n, false)).collect();
        if self.learner {
            members.push(Member { ordinal: None, started: false, ..self.row(7, true) });
        }
        let hash = |outdated| if outdated { "old" } else { "new" }.to_owned();
        let pod = |n: usize| Pod {
            uid: format!("pod-{n}"),
            ready: true,
            ready_since_s: Some(BEGAN_S - 100),
            running: true,
            hash: hash(self.outdated),
            claim_uid: Some(format!("claim-{n}")),
            ..Pod::default()
        };
        let claim = |n: usize| Claim {
            uid: format!("claim-{n}"),
            requested_bytes: 1 << 30,
            capacity_bytes: 1 << 30,
            expandable: true,
            deleting: false,
        };
        let by_ordinal = |n: usize| Ordinal::try_from(n).expect("small");
        Observed {
            now_s: BEGAN_S + self.now_s,
            object: self.object.clone(),
            workload: Some(Workload {
                replicas: 3,
                settled: true,
                template_hash: "new".to_owned(),
                beginning: Some(Beginning::Join { others: vec![0, 1, 2] }),
                deleting: false,
            }),
            pods: (0..3).map(|n| (by_ordinal(n), pod(n))).collect(),
            claims: (0..3).map(|n| (by_ordinal(n), claim(n))).collect(),
            answers: (0..3).map(|n| (by_ordinal(n), self.answer(n))).collect::<BTreeMap<_, _>>(),
            members: Some(members),
            rotating: self.rotating,
            wanted_hash: "new".to_owned(),
            ..Observed::default()
        }
    }

    fn row(&self, n: usize, learner: bool) -> Member {
        Member {
            id: id(n),
            name: format!("demo-{n}"),
            ordinal: Ordinal::try_from(n).ok(),
            learner,
            started: true,
        }
    }

    fn answer(&self, n: usize) -> Answer {
        let timing = self.in_force();
        let (since_s, boot_id, false_elections) = self.members[n];
        let ordinal = Ordinal::try_from(n).expect("small");
        let aware = !self.unaware.contains(&ordinal);
        let others = || (0..3).filter(move |other| *other != n);
        let seconds = u64::try_from(self.now_s - since_s).unwrap_or(0);
        let samples = seconds * 1_000_000 / PROBE_INTERVAL_US;
        let spread = |us: u64, samples: u64| Percentiles {
            samples,
            p50_us: us,
            p99_us: us * 2,
            p999_us: us * 2,
            p9999_us: us * 2,
            max_us: us * 2,
        };
        let link = |other: usize| {
            let rtt_us = self.rtt_us[n][other];
            let us = self.jittered(rtt_us.unwrap_or(0), (n * 3 + other) as u64);
            Link {
                to: id(other),
                reachable: rtt_us.is_some(),
                samples: if rtt_us.is_some() { samples } else { 0 },
                srtt_us: us,
                rttvar_us: us / 8,
                rtt: spread(us, samples),
                gaps: spread(PROBE_INTERVAL_US + us / 2, samples),
                probes_sent: samples,
                probes_lost: 0,
                age_ms: 25,
            }
        };
        let row = MemberRow {
            id: id(n),
            boot_id,
            uptime_ms: seconds * 1_000,
            leader_id: id(0),
            knows_plans: aware,
            plan_epoch: self.plan.epoch,
            plan_phase: Some(self.plan.phase),
            heartbeat_interval_us: timing.heartbeat_interval_us,
            election_timeout_us: timing.election_timeout_us,
            loop_stalls: spread(500, samples),
            loop_stall_us_max: 4_000,
            sync_times: spread(2_000, samples),
            sync_us_max: 9_000,
            elections: Elections { false_elections, ..Elections::default() },
            append_bytes_mean: 4_096,
            links: others().map(link).collect(),
            ..MemberRow::default()
        };
        let (planner, reason, at_ms) = self.words.clone();
        let tuning = Tuning {
            plan: self.plan,
            planner,
            reason,
            at_ms,
            flags: World::own(),
            in_force: self.plan.in_force(&World::own()),
            held_by: if self.deaf.is_empty() { "" } else { "waiting for member 102" }.to_owned(),
            known_by_all: self.format_read,
        };
        Answer {
            member_id: id(n),
            cluster_id: 0xc1,
            leader_id: id(0),
            term: 5,
            commit_index: 100,
            applied_index: 100,
            version: "0.1.0".to_owned(),
            heartbeat_interval_us: timing.heartbeat_interval_us,
            election_timeout_us: timing.election_timeout_us,
            peers: others()
                .map(|other| Peer {
                    member_id: id(other),
                    reachable: true,
                    rtt_us: self.rtt_us[n][other].unwrap_or(0),
                    match_index: 100,
                })
                .collect(),
            alarms: Vec::new(),
            row,
            tuning: aware.then_some(tuning),
        }
    }

    /// The leader's compare and set.
    pub(crate) fn submit(
        &mut self,
        expected: u64,
        to: Option<Params>,
        planner: &str,
        reason: &str,
    ) {
        if expected != self.plan.epoch {
            return;
        }
        if let Some(to) = &to {
            to.validate().expect("a legal plan");
        }
        self.plan = self.plan.succeeded_by(to);
        self.words = (planner.to_owned(), reason.to_owned(), (BEGAN_S + self.now_s) * 1_000);
        let submitted = Submitted { at_s: self.now_s, to, reason: reason.to_owned() };
        self.submitted.push(submitted);
    }

    /// One pass of an operator that remembers nothing.
    pub(crate) fn pass(&mut self, killed: Option<Killed>) -> Plan {
        let planned = plan(&self.observe());
        if killed == Some(Killed::BeforeTheReport) {
            return planned;
        }
        if self.object.status.as_ref() != Some(&planned.status) {
            self.reports += 1;
        }
        self.object.status = Some(planned.status.clone());
        self.events.extend(planned.events.clone());
        for step in &planned.steps {
            let Step::SubmitTuning { expected_epoch, to, reason, .. } = step else { continue };
            if killed == Some(Killed::BeforeTheStep) {
                return planned;
            }
            if plan(&self.observe()).steps.contains(step) {
                self.submit(*expected_epoch, *to, "operator", reason);
            }
        }
        planned
    }

    /// Time passes: second by second the leader takes the plan a phase further, and the operator looks
    /// as often as it means to.
    pub(crate) fn run(&mut self, seconds: i64) {
        self.run_killed(seconds, |_| None);
    }

    pub(crate) fn run_killed(&mut self, seconds: i64, kill: impl Fn(i64) -> Option<Killed>) {
        /// Until a successor has the lease.
        const SUCCESSION_S: i64 = 15;
        for _ in 0..seconds {
            if self.now_s >= self.next_pass_s {
                let killed = kill(self.now_s);
                let planned = self.pass(killed);
                let again_s = i64::from(planned.again_s);
                self.next_pass_s = self.now_s + killed.map_or(again_s, |_| SUCCESSION_S);
            }
            self.now_s += 1;
            if self.deaf.is_empty()
                && let Some(phase) = self.plan.phase.next()
            {
                self.plan.phase = phase;
            }
        }
    }

    /// Runs until it is so, for so long at most; for how long.
    pub(crate) fn run_until(&mut self, most_s: i64, is: impl Fn(&World) -> bool) -> i64 {
        let began_s = self.now_s;
        self.run(1);
        while !is(self) {
            assert!(
                self.now_s - began_s < most_s,
                "not within {most_s} s: {:?} {:#?}",
                self.in_force_ms(),
                self.object.status
            );
            self.run(1);
        }
        self.now_s - began_s
    }
}
