//! Whatever comes in, the planner keeps to its bounds.
//!
//! Clusters are put through random histories: distances of nothing and of hours, holes, liars, clocks
//! that jump, plans of others, submissions that fail. After every evaluation what must hold is
//! checked; and each history is run twice, for the same must come of it.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod world;

use autotune::planner::{Controller, Decision, Mode, Policy, Settings, Step, fit, grid_up, read};
use autotune::{Params, Phase, Timing};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};
use proptest::test_runner::Config;
use world::{Distance, World};

/// Something that happens to a cluster.
#[derive(Clone, Debug)]
enum Happening {
    Evaluate(u32),
    Distance {
        from: u64,
        to: u64,
        us: u64,
    },
    Everywhere(u64),
    /// Anything at all, in one direction.
    Garbage {
        from: u64,
        to: u64,
        srtt_us: u64,
        var_us: u64,
        p99_us: u64,
        gap_us: u64,
        samples: u64,
    },
    Reach {
        from: u64,
        to: u64,
        reachable: bool,
    },
    Down(u64),
    Up(u64),
    FalseElections(u64, u64),
    Silence(u64),
    Stall(u64),
    Sync(u64, u64),
    Age(u64),
    GapSamples(u64),
    Refuse(bool),
    Stuck(bool),
    Unaware(u64, bool),
    Learner(bool),
    Upgrade(bool),
    Clock(i64),
    Manual(u64, u64),
    Policy(u8),
}

/// Mostly what networks do, sometimes anything.
fn duration_us() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 200_u64..5_000,
        6 => 5_000_u64..400_000,
        2 => 400_000_u64..20_000_000,
        1 => Just(0),
        1 => any::<u64>(),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let id = || 1_u64..=3;
    prop_oneof![
        12 => (1_u32..25).prop_map(Happening::Evaluate),
        4 => duration_us().prop_map(Happening::Everywhere),
        3 => (id(), id(), duration_us())
            .prop_map(|(from, to, us)| Happening::Distance { from, to, us }),
        2 => (id(), id(), any::<[u64; 5]>()).prop_map(|(from, to, it)| Happening::Garbage {
            from, to, srtt_us: it[0], var_us: it[1], p99_us: it[2], gap_us: it[3], samples: it[4],
        }),
        2 => (id(), id(), any::<bool>())
            .prop_map(|(from, to, reachable)| Happening::Reach { from, to, reachable }),
        1 => id().prop_map(Happening::Down),
        2 => id().prop_map(Happening::Up),
        2 => (id(), prop_oneof![3 => 1_u64..3, 1 => any::<u64>()])
            .prop_map(|(member, count)| Happening::FalseElections(member, count)),
        1 => duration_us().prop_map(Happening::Silence),
        1 => duration_us().prop_map(Happening::Stall),
        1 => (id(), duration_us()).prop_map(|(member, us)| Happening::Sync(member, us)),
        1 => prop_oneof![Just(1_000_u64), 0_u64..90_000].prop_map(Happening::Age),
        1 => prop_oneof![Just(0_u64), Just(500), Just(5_000), Just(24_000)]
            .prop_map(Happening::GapSamples),
        1 => any::<bool>().prop_map(Happening::Refuse),
        1 => any::<bool>().prop_map(Happening::Stuck),
        1 => (id(), any::<bool>()).prop_map(|(member, is)| Happening::Unaware(member, is)),
        1 => any::<bool>().prop_map(Happening::Learner),
        1 => any::<bool>().prop_map(Happening::Upgrade),
        1 => (-10_000_000_i64..10_000_000).prop_map(Happening::Clock),
        1 => (1_u64..1_000, 5_u64..50).prop_map(|(beat, factor)| Happening::Manual(beat, factor)),
        1 => (0_u8..3).prop_map(Happening::Policy),
    ]
}

fn link(world: &mut World, from: u64, to: u64, change: impl FnOnce(&mut Distance)) {
    if let Some(distance) = world.links.get_mut(&(from, to)) {
        change(distance);
    }
}

fn happen(world: &mut World, happening: &Happening) {
    match *happening {
        Happening::Evaluate(_) => {}
        Happening::Distance { from, to, us } => link(world, from, to, |it| *it = distance(us)),
        Happening::Everywhere(us) => world.everywhere(|_| distance(us)),
        Happening::Garbage { from, to, srtt_us, var_us, p99_us, gap_us, samples } => {
            let reachable = true;
            link(world, from, to, |it| {
                *it = Distance { srtt_us, rttvar_us: var_us, p99_us, gap_us, samples, reachable };
            });
        }
        Happening::Reach { from, to, reachable } => {
            link(world, from, to, |it| it.reachable = reachable);
        }
        Happening::Down(id) => drop(world.down.insert(id)),
        Happening::Up(id) => {
            if world.down.remove(&id) {
                world.boots.insert(id, (world.now_ms, world.now_ms));
            }
        }
        Happening::FalseElections(id, count) => {
            let counter = world.false_elections.entry(id).or_default();
            *counter = counter.wrapping_add(count);
        }
        Happening::Silence(us) => world.silence_us = us.min(1 << 40),
        Happening::Stall(us) => world.stall_us = us,
        Happening::Sync(id, us) => drop(world.sync_us.insert(id, us)),
        Happening::Age(ms) => world.row_age_ms = ms,
        Happening::GapSamples(samples) => world.gap_samples = samples,
        Happening::Refuse(on) => world.refuses = on,
        Happening::Stuck(on) => world.stuck = on,
        Happening::Unaware(id, true) => drop(world.unaware.insert(id)),
        Happening::Unaware(id, false) => drop(world.unaware.remove(&id)),
        Happening::Learner(on) => world.learner = on,
        Happening::Upgrade(on) => world.context.upgrade = on,
        Happening::Clock(ms) => world.now_ms = world.now_ms.saturating_add_signed(ms),
        Happening::Manual(beat_ms, factor) => {
            let timing = Timing {
                heartbeat_interval_us: beat_ms * 1_000,
                election_timeout_us: beat_ms * factor * 1_000,
            };
            let params = Params { timing, ..Params::default() };
            if params.validate().is_ok() {
                world.plan = world.plan.succeeded_by(Some(params));
                world.plan.phase = Phase::Settled;
            }
        }
        Happening::Policy(which) => {
            let policy = Policy::ALL[usize::from(which)];
            let mut settings = Settings { mode: Mode::Auto, ..Settings::of(policy) };
            if policy == Policy::Stability {
                // A bound that is no number of the series.
                settings.bounds.election_us_max = 1_777_777;
            }
            world.controller.reconfigure(settings);
        }
    }
}

fn distance(us: u64) -> Distance {
    Distance {
        srtt_us: us,
        rttvar_us: us / 8,
        p99_us: us.saturating_mul(2),
        gap_us: (us / 4).saturating_add(27_000),
        samples: 5_000,
        reachable: true,
    }
}

/// What must hold of a decision. `plans_ms` are the times of plans, as the planner's clock went.
fn check(before: &World, step: &Step, plans_ms: &mut Vec<u64>, passed_ms: u64) {
    let settings = *before.controller.settings();
    let params = match step.decision {
        Decision::Apply { params, .. } | Decision::Recommend { params, .. } => Some(params),
        Decision::Rollback { to, .. } => to,
        Decision::Hold { .. } | Decision::Frozen { .. } => None,
    };
    if let Some(params) = params {
        assert_eq!(params.validate(), Ok(()), "{:?}", step.decision);
    }
    if let Some(target) = step.target {
        assert!(settings.bounds.hold(&target.params), "{target:?}");
    }
    if let Decision::Apply { params, .. } | Decision::Recommend { params, .. } = step.decision {
        assert!(settings.bounds.hold(&params), "{params:?} is out of bounds");
        let Timing { heartbeat_interval_us, election_timeout_us } = params.timing;
        let bounds = &settings.bounds;
        for (us, min, max) in [
            (election_timeout_us, bounds.election_us_min, bounds.election_us_max),
            (heartbeat_interval_us, bounds.heartbeat_us_min, bounds.heartbeat_us_max),
        ] {
            assert!(grid_up(us) == us || fit(us, min, max) == us, "{us} is not on the grid");
        }
        let base = before.plan.to.unwrap_or(before.own);
        let base_us = base.timing.election_timeout_us;
        if election_timeout_us < base_us {
            let reading = read(&before.observation(), &settings.guards);
            assert!(reading.holes.is_empty() && reading.missing.is_empty(), "{:?}", reading.holes);
            assert!(reading.lowerable && before.plan.phase == Phase::Settled);
            assert!(
                election_timeout_us >= base_us / 2 || base_us > bounds.election_us_max,
                "{base_us} to {election_timeout_us}"
            );
        }
        assert!(!before.learner && !before.context.upgrade);
    }
    if matches!(step.decision, Decision::Apply { .. } | Decision::Rollback { .. }) {
        assert!(
            before.unaware.is_empty()
                || params.is_none()
                || matches!(step.decision, Decision::Rollback { .. })
                || before
                    .unaware
                    .iter()
                    .all(|id| before.down.contains(id) || before.row_age_ms > 60_000)
        );
        plans_ms.push(passed_ms);
        let hour = plans_ms.iter().filter(|at| passed_ms - **at < 3_600_000).count();
        assert!(hour <= settings.guards.plans_per_hour, "{hour} plans in an hour");
    }
}

fn live(history: &[Happening]) -> Vec<Step> {
    let mut world = World::new(Policy::Balanced, 3);
    let mut steps = Vec::new();
    let (mut plans_ms, mut passed_ms) = (Vec::new(), 0_u64);
    for happening in history {
        let at_ms = world.now_ms;
        happen(&mut world, happening);
        // A clock that goes back stands still for the planner.
        passed_ms += world.now_ms.saturating_sub(at_ms);
        let Happening::Evaluate(times) = happening else { continue };
        for _ in 0..*times {
            world.now_ms += 30_000;
            passed_ms += 30_000;
            let before = World {
                controller: Controller::new(
                    *world.controller.settings(),
                    world.controller.state().clone(),
                ),
                links: world.links.clone(),
                down: world.down.clone(),
                unaware: world.unaware.clone(),
                boots: world.boots.clone(),
                false_elections: world.false_elections.clone(),
                sync_us: world.sync_us.clone(),
                voters: world.voters.clone(),
                ..world
            };
            let epoch = world.plan.epoch;
            let step = world.evaluate();
            check(&before, &step, &mut plans_ms, passed_ms);
            assert!(world.plan.epoch <= epoch + 1);
            // The successor of a planner that died decides as it would have.
            world.controller =
                Controller::new(*world.controller.settings(), world.controller.state().clone());
            steps.push(step);
        }
    }
    let state = world.controller.state();
    assert!(state.silences_us.len() <= 48 && state.false_elections_ms.len() <= 64);
    assert!(state.plans_ms.len() <= 64 && state.counted.len() <= 3);
    steps
}

proptest! {
    #![proptest_config(Config { cases: 400, ..Config::default() })]

    #[test]
    fn no_history_moves_a_plan_out_of_its_bounds(
        history in prop::collection::vec(happening(), 1..60),
    ) {
        let once = live(&history);
        assert!(once == live(&history), "the same history went another way");
    }

    #[test]
    fn a_liar_raises_to_the_bound_at_most_and_never_lowers(
        claims in prop::collection::vec(any::<[u64; 5]>(), 1..40),
        rtt_us in 500_u64..60_000,
    ) {
        let mut world = World::new(Policy::Balanced, 3);
        world.everywhere(|_| distance(rtt_us));
        let settings = *world.controller.settings();
        for claim in claims {
            for to in [1, 3] {
                link(&mut world, 2, to, |it| *it = Distance {
                    srtt_us: claim[0], rttvar_us: claim[1], p99_us: claim[2], gap_us: claim[3],
                    samples: claim[4], reachable: true,
                });
            }
            world.now_ms += 30_000;
            let step = world.evaluate();
            let honest_us = settings.policy.round_trips() * rtt_us;
            if let Decision::Apply { params, .. } = step.decision {
                assert!(settings.bounds.hold(&params));
                assert!(params.timing.election_timeout_us >= honest_us);
            }
        }
    }
}
