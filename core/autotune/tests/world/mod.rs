//! A cluster that does what the planner says, and whatever a script says it suffers.

#![allow(dead_code, reason = "each test uses what it needs of it")]

use std::collections::{BTreeMap, BTreeSet};

use autotune::planner::{
    Context, Controller, Decision, Elections, Link, MemberRow, Mode, Observation, Policy, Settings,
    State, Step, Writes,
};
use autotune::{Params, Percentiles, Phase, Plan};

/// What is measured between two members, in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distance {
    pub(crate) srtt_us: u64,
    pub(crate) rttvar_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) gap_us: u64,
    pub(crate) samples: u64,
    pub(crate) reachable: bool,
}

impl Distance {
    pub(crate) fn of(rtt_us: u64) -> Distance {
        Distance {
            srtt_us: rtt_us,
            rttvar_us: rtt_us / 8,
            p99_us: rtt_us * 2,
            gap_us: 27_000 + rtt_us / 4,
            samples: 5_000,
            reachable: true,
        }
    }
}

/// A cluster as a script has made it.
pub(crate) struct World {
    pub(crate) controller: Controller,
    pub(crate) now_ms: u64,
    pub(crate) plan: Plan,
    pub(crate) own: Params,
    pub(crate) voters: Vec<u64>,
    pub(crate) links: BTreeMap<(u64, u64), Distance>,
    pub(crate) down: BTreeSet<u64>,
    pub(crate) unaware: BTreeSet<u64>,
    pub(crate) learner: bool,
    pub(crate) context: Context,
    pub(crate) boots: BTreeMap<u64, (u64, u64)>,
    pub(crate) false_elections: BTreeMap<u64, u64>,
    pub(crate) silence_us: u64,
    pub(crate) stall_us: u64,
    pub(crate) sync_us: BTreeMap<u64, u64>,
    pub(crate) writes: Option<Writes>,
    pub(crate) row_age_ms: u64,
    pub(crate) gap_samples: u64,
    /// Submissions fail.
    pub(crate) refuses: bool,
    /// Plans do not settle.
    pub(crate) stuck: bool,
}

impl World {
    pub(crate) fn new(policy: Policy, voters: u64) -> World {
        let settings = Settings { mode: Mode::Auto, ..Settings::of(policy) };
        let mut world = World {
            controller: Controller::new(settings, State::default()),
            now_ms: 1_000_000_000,
            plan: Plan::default(),
            own: Params::default(),
            voters: (1..=voters).collect(),
            links: BTreeMap::new(),
            down: BTreeSet::new(),
            unaware: BTreeSet::new(),
            learner: false,
            context: Context::default(),
            boots: BTreeMap::new(),
            false_elections: BTreeMap::new(),
            silence_us: 0,
            stall_us: 5_000,
            sync_us: BTreeMap::new(),
            writes: None,
            row_age_ms: 1_000,
            gap_samples: 20_000,
            refuses: false,
            stuck: false,
        };
        world.everywhere(|_| Distance::of(500));
        world
    }

    pub(crate) fn everywhere(&mut self, change: impl Fn(Distance) -> Distance) {
        for from in self.voters.clone() {
            for to in self.voters.clone() {
                if from != to {
                    let link = self.links.entry((from, to)).or_insert(Distance::of(500));
                    *link = change(*link);
                }
            }
        }
    }

    pub(crate) fn observation(&self) -> Observation {
        let in_force = self.plan.in_force(&self.own).timing;
        let percentiles = |samples, high_us: u64| Percentiles {
            samples,
            p50_us: high_us / 4,
            p99_us: high_us / 2,
            p999_us: high_us,
            p9999_us: high_us,
            max_us: high_us,
        };
        let members = self.voters.iter().filter(|id| !self.down.contains(id)).map(|id| {
            let leads = *id == self.voters[0];
            let (boot_id, booted_ms) = self.boots.get(id).copied().unwrap_or((*id, 0));
            let links = self.links.iter().filter(|((from, _), _)| from == id);
            MemberRow {
                id: *id,
                boot_id,
                uptime_ms: self.now_ms.saturating_sub(booted_ms),
                age_ms: self.row_age_ms,
                is_learner: false,
                leader_id: self.voters[0],
                knows_plans: !self.unaware.contains(id),
                plan_epoch: self.plan.epoch,
                plan_phase: Some(self.plan.phase),
                heartbeat_interval_us: in_force.heartbeat_interval_us,
                election_timeout_us: in_force.election_timeout_us,
                loop_stalls: percentiles(50_000, self.stall_us),
                loop_stall_us_max: self.stall_us,
                sync_times: percentiles(50_000, self.sync_us.get(id).copied().unwrap_or(4_000)),
                sync_us_max: self.sync_us.get(id).copied().unwrap_or(4_000),
                heartbeat_gaps: if leads {
                    Percentiles::default()
                } else {
                    let gap_us = in_force.heartbeat_interval_us + self.silence_us;
                    percentiles(10_000, gap_us)
                },
                elections: Elections {
                    false_elections: self.false_elections.get(id).copied().unwrap_or(0),
                    ..Elections::default()
                },
                append_bytes_mean: 0,
                writes: Writes::default(),
                writes_seen: 0,
                links: links.map(|((_, to), distance)| self.link(*to, distance)).collect(),
            }
        });
        let mut members: Vec<MemberRow> = members.collect();
        if self.learner {
            members.push(MemberRow { id: 99, is_learner: true, ..MemberRow::default() });
        }
        Observation {
            voters: self.voters.clone(),
            members,
            context: self.context,
            writes: self.writes,
        }
    }

    fn link(&self, to: u64, distance: &Distance) -> Link {
        let measured = |samples: u64, high_us: u64| Percentiles {
            samples,
            p50_us: high_us / 4,
            p99_us: high_us,
            p999_us: high_us,
            p9999_us: high_us,
            max_us: high_us,
        };
        Link {
            to,
            reachable: distance.reachable && !self.down.contains(&to),
            samples: distance.samples,
            srtt_us: distance.srtt_us,
            rttvar_us: distance.rttvar_us,
            rtt: measured(distance.samples, distance.p99_us),
            gaps: measured(self.gap_samples, distance.gap_us),
            probes_sent: distance.samples,
            probes_lost: 0,
            age_ms: 25,
        }
    }

    /// One evaluation, and what a cluster makes of it.
    pub(crate) fn evaluate(&mut self) -> Step {
        let observation = self.observation();
        let step = self.controller.step(self.now_ms, &observation, &self.plan, &self.own);
        if !self.stuck && self.plan.epoch > 0 {
            self.plan.phase = Phase::Settled;
        }
        let to = match step.decision {
            Decision::Apply { params, .. } => Some(Some(params)),
            Decision::Rollback { to, .. } => Some(to),
            Decision::Hold { .. } | Decision::Recommend { .. } | Decision::Frozen { .. } => None,
        };
        if let Some(to) = to
            && !self.refuses
        {
            self.plan = self.plan.succeeded_by(to);
        }
        step
    }
}
