//! Tuning by an operator that keeps nothing in its own memory: members with round trips between any two,
//! plans that are carried out phase by phase, an operator that may end between any two things it does.

mod world;

use autotune::Phase;
use operator::crd::{AutotuneMode, ChangeResult};

use world::{Killed, World};

const HOUR_S: i64 = 3_600;
const MS: u64 = 1_000;
/// The defaults of the guards: ten evaluations of half a minute, and ten minutes between changes.
const SUSTAIN_S: i64 = 300;
const COOLDOWN_S: i64 = 600;

fn lan() -> World {
    World::new(700, AutotuneMode::Auto)
}

/// A lan that has been lowered all the way.
fn lowered() -> World {
    let mut world = lan();
    world.run_until(HOUR_S, |world| {
        world.in_force_ms() == (25, 315) && world.ready() == (true, "Converged".to_owned())
    });
    world
}

#[test]
fn a_near_network_is_lowered_step_by_step_within_the_guards() {
    let mut world = lan();
    world.run(SUSTAIN_S);
    assert_eq!(world.submitted, [], "nothing in the first five minutes");
    assert_eq!(world.ready(), (false, "YoungMember".to_owned()));
    world.run_until(HOUR_S, |world| {
        world.in_force_ms() == (25, 315) && world.ready() == (true, "Converged".to_owned())
    });
    let submitted: Vec<(u64, u64)> = world
        .submitted
        .iter()
        .map(|plan| plan.to.expect("values").timing)
        .map(|timing| (timing.heartbeat_interval_us / MS, timing.election_timeout_us / MS))
        .collect();
    assert_eq!(submitted, [(25, 500), (25, 315)], "halfway at most");
    let apart_s = world.submitted[1].at_s - world.submitted[0].at_s;
    assert!(apart_s >= COOLDOWN_S, "{apart_s}");
    let tuning = world.tuning();
    assert_eq!((tuning.epoch, &tuning.phase[..]), (2, "Converged"));
    assert_eq!(tuning.applied, tuning.last_known_good);
    assert_eq!(tuning.history.len(), 1);
    let change = tuning.last_change.as_ref().expect("a change");
    assert_eq!((change.result, &change.planner[..]), (ChangeResult::Verified, "operator"));
    assert_eq!(change.from.as_ref().map(|from| from.election_ms), Some(500.0));
    assert_eq!(world.told("AutotuneApplied").len(), 2);
    assert_eq!(world.told("AutotuneVerified").len(), 2);
    let first = &world.told("AutotuneApplied")[0].note;
    assert!(first.starts_with("plan 1, 100/1000 ms to 25/500 ms: shorter: "), "{first}");
    assert!(world.told("AutotuneApplied")[1].note.starts_with("plan 2, 25/500 ms to 25/315 ms: "));
}

#[test]
fn nothing_is_reported_while_only_measurements_change() {
    let mut world = lowered();
    // What is remembered for an hour has passed.
    world.run(2 * HOUR_S);
    let (reports, events) = (world.reports, world.events.len());
    world.run(6 * HOUR_S);
    assert_eq!((world.reports, world.events.len()), (reports, events));
    let observed = world.tuning().observed.clone().expect("figures");
    assert_eq!((observed.samples, observed.loss_ppm), (300, 0));
    assert!(observed.max_rtt_ms.starts_with("0.7"), "{observed:?}");
}

#[test]
fn a_longer_network_raises_within_a_minute_and_a_shorter_one_comes_back_later() {
    let mut world = lowered();
    world.run(COOLDOWN_S);
    world.set_rtt(250 * MS);
    let took_s = world.run_until(90, |world| world.in_force_ms().1 >= 750);
    assert!(took_s <= 60, "{took_s}");
    assert_eq!(world.in_force_ms().0, 80, "{:?}", world.in_force_ms());
    world.run_until(90, |world| world.ready().1 == "Converged");
    assert_eq!(world.tuning().last_known_good, world.tuning().applied, "a raise is good at once");
    world.set_rtt(700);
    world.run_until(8 * HOUR_S, |world| world.in_force_ms() == (25, 315));
}

#[test]
fn a_hole_in_the_matrix_is_no_short_distance() {
    let mut world = lan();
    world.run(SUSTAIN_S - 60);
    world.cut(1, 2);
    world.run(2 * HOUR_S);
    assert_eq!(world.submitted, []);
    assert_eq!(world.ready(), (false, "MemberHealth".to_owned()));
}

#[test]
fn a_pause_holds_everything_and_its_end_goes_on() {
    let mut world = lan();
    world.spec(|spec| spec.autotune.paused = true);
    world.run(2 * HOUR_S);
    assert_eq!(world.submitted, []);
    assert_eq!(world.ready(), (false, "Paused".to_owned()));
    world.spec(|spec| spec.autotune.paused = false);
    world.run_until(HOUR_S, |world| world.in_force_ms() == (25, 315));
}

#[test]
fn observing_tells_what_would_be_right_once_and_does_nothing() {
    let mut world = World::new(700, AutotuneMode::Observe);
    world.run(2 * HOUR_S);
    assert_eq!(world.submitted, []);
    assert_eq!(world.in_force_ms(), (100, 1_000));
    assert_eq!(world.ready(), (true, "Recommended".to_owned()));
    assert_eq!(world.tuning().phase, "Recommending");
    let recommended = world.tuning().recommended.clone().expect("a recommendation");
    assert_eq!(recommended.heartbeat_ms, 25.0);
    assert_eq!(world.told("AutotuneRecommended").len(), 1, "{:#?}", world.events);
    assert!(world.told("AutotuneRecommended")[0].note.starts_with("25/"));
}

#[test]
fn a_leader_lost_by_mistake_takes_the_change_back() {
    let mut world = lan();
    world.run_until(HOUR_S, |world| world.tuning().phase == "Verifying");
    assert_eq!(world.in_force_ms(), (25, 500));
    world.members[1].2 += 1;
    world.run_until(60, |world| world.in_force_ms() == (100, 1_000));
    assert_eq!(world.submitted[1].to, None, "back to what was before: the members' flags");
    world.run(60);
    let tuning = world.tuning();
    assert_eq!(tuning.history[0].result, ChangeResult::RolledBack);
    assert_eq!(tuning.last_change.as_ref().map(|c| c.result), Some(ChangeResult::Verified));
    assert!(world.told("AutotuneRolledBack")[0].warning);
    assert!(
        world.told("AutotuneRolledBack")[0].note.contains("a leader was deposed that was alive")
    );
    assert_eq!(world.told("AutotuneVerified").len(), 1, "of the way back only");
    // The next attempt waits twice as long.
    let before = world.submitted.len();
    world.run(COOLDOWN_S);
    assert_eq!(world.submitted.len(), before);
}

#[test]
fn a_member_that_was_started_anew_is_not_counted_twice_and_not_blamed() {
    let mut world = lan();
    world.members[1].2 = 3;
    world.run_until(HOUR_S, |world| world.tuning().phase == "Verifying");
    // A new process counts from the beginning, and its first minutes do not count.
    world.members[1] = (world.now_s, 99, 0);
    world.run(10);
    world.members[1].2 = 1;
    world.run(120);
    assert!(world.told("AutotuneRolledBack").is_empty(), "{:#?}", world.events);
}

#[test]
fn after_three_changes_taken_back_nothing_is_done_until_the_spec_changes() {
    let mut world = lan();
    world.spec(|spec| spec.autotune.guards.cooldown_seconds = 60);
    for _ in 0..3 {
        world.run_until(2 * HOUR_S, |world| world.tuning().phase == "Verifying");
        world.members[2].2 += 1;
        world.run_until(60, |world| world.in_force_ms() == (100, 1_000));
    }
    world.run(60);
    assert_eq!(world.ready(), (false, "Unstable".to_owned()));
    assert_eq!(world.told("AutotuneHeld").len(), 1);
    let before = world.submitted.len();
    world.run(3 * HOUR_S);
    assert_eq!(world.submitted.len(), before);
    world.spec(|spec| spec.autotune.guards.cooldown_seconds = 120);
    world.run_until(HOUR_S, |world| world.submitted.len() > before);
}

/// Kills an operator at one place of one pass after another, for as long as a pass is there.
#[test]
fn an_operator_that_ends_anywhere_has_a_successor_that_goes_on() {
    let mut reference = lowered();
    reference.run(60);
    let expected: Vec<_> = reference.submitted.iter().map(|plan| plan.to).collect();
    for place in [Killed::BeforeTheReport, Killed::BeforeTheStep, Killed::AfterTheStep] {
        for first_s in (SUSTAIN_S - 60..SUSTAIN_S + 2 * COOLDOWN_S).step_by(20) {
            let mut world = lan();
            // Whoever comes in the half minute from then on ends there.
            let kill = |now_s: i64| (first_s..first_s + 30).contains(&now_s).then_some(place);
            world.run_killed(HOUR_S, kill);
            let submitted: Vec<_> = world.submitted.iter().map(|plan| plan.to).collect();
            assert_eq!(submitted, expected, "{place:?} at {first_s} s");
            assert_eq!(world.tuning().phase, "Converged", "{place:?} at {first_s} s");
            assert!(world.tuning().memory.pending.is_none());
        }
    }
}

#[test]
fn a_plan_lost_between_report_and_submission_is_submitted_by_the_successor() {
    let mut world = lan();
    while world.tuning_pending().is_none() {
        world.run_killed(1, |_| Some(Killed::BeforeTheStep));
        assert!(world.now_s < HOUR_S);
    }
    assert_eq!(world.submitted, []);
    world.run(20);
    assert_eq!(world.submitted.len(), 1);
    assert_eq!(world.submitted[0].reason, "shorter: least bound");
}

impl World {
    fn tuning_pending(&self) -> Option<&operator::crd::PendingStatus> {
        let status = self.object.status.as_ref()?;
        status.autotune.as_ref()?.memory.pending.as_ref()
    }
}

#[test]
fn values_by_hand_are_submitted_once_and_stay() {
    let mut world = World::new(700, AutotuneMode::Off);
    world.spec(|spec| (spec.raft.heartbeat_ms, spec.raft.election_ms) = (Some(50), Some(500)));
    world.run(20);
    assert_eq!(world.in_force_ms(), (50, 500), "at once, whoever was started when");
    assert_eq!(world.tuning().phase, "Manual");
    assert_eq!(world.ready(), (true, "Manual".to_owned()));
    world.run(2 * HOUR_S);
    assert_eq!(world.submitted.len(), 1);
    assert_eq!(world.submitted[0].reason, "set by hand");
    // Somebody changes it by metactl: the spec is what holds.
    let epoch = world.plan.epoch;
    world.submit(epoch, None, "metactl", "to see what happens");
    world.run(60);
    assert_eq!(world.in_force_ms(), (50, 500));
    // Taken out of the spec, it stays as it is.
    world.spec(|spec| (spec.raft.heartbeat_ms, spec.raft.election_ms) = (None, None));
    world.run(2 * HOUR_S);
    assert_eq!(world.in_force_ms(), (50, 500));
    assert_eq!(world.tuning().phase, "Off");
}

#[test]
fn off_leaves_the_plan_and_tells_nothing() {
    let mut world = lowered();
    world.spec(|spec| spec.autotune.mode = AutotuneMode::Off);
    world.run(60);
    let events = world.events.len();
    world.set_rtt(80 * MS);
    world.run(2 * HOUR_S);
    assert_eq!(world.in_force_ms(), (25, 315));
    assert_eq!(world.tuning().phase, "Off");
    assert!(world.tuning().recommended.is_none());
    assert_eq!(world.events.len(), events);
    let status = world.object.status.as_ref().expect("a status");
    assert!(status.conditions.iter().all(|condition| condition.type_ != "AutotuneReady"));
}

#[test]
fn nothing_is_changed_while_something_else_is() {
    type Change = fn(&mut World, bool);
    let table: [(&str, Change); 4] = [
        ("CertificateRotation", |world, on| world.rotating = on),
        ("MembershipChange", |world, on| world.learner = on),
        ("Upgrade", |world, on| world.outdated = on),
        ("Paused", |world, on| world.object.spec.paused = on),
    ];
    for (reason, change) in table {
        let mut world = lan();
        world.run(SUSTAIN_S - 60);
        change(&mut world, true);
        world.run(HOUR_S);
        assert_eq!(world.submitted, [], "{reason}");
        assert_eq!(world.ready(), (false, reason.to_owned()));
        change(&mut world, false);
        world.run_until(HOUR_S, |world| world.in_force_ms() == (25, 315));
    }
}

#[test]
fn a_young_member_holds_lowering_up_and_not_raising() {
    let mut world = lan();
    world.run(SUSTAIN_S - 60);
    for _ in 0..20 {
        world.members[2] = (world.now_s, world.members[2].1 + 1, 0);
        world.run(SUSTAIN_S - 30);
    }
    assert_eq!(world.submitted, []);
    assert_eq!(world.ready(), (false, "YoungMember".to_owned()));
    world.set_rtt(400 * MS);
    world.run_until(90, |world| world.in_force_ms().1 >= 1_600);
}

#[test]
fn a_voter_of_an_older_version_makes_it_a_recommendation() {
    let mut world = lan();
    world.unaware = vec![2];
    world.run(2 * HOUR_S);
    assert_eq!(world.submitted, []);
    assert_eq!(world.ready(), (false, "MixedVersions".to_owned()));
    assert_eq!(world.told("AutotuneHeld").len(), 1);
    world.unaware = Vec::new();
    world.run_until(HOUR_S, |world| world.in_force_ms() == (25, 315));
}

#[test]
fn a_plan_in_a_form_that_a_voter_does_not_read_waits_for_its_upgrade() {
    let mut world = lan();
    world.object.spec.autotune.batching.compression = false;
    world.format_read = autotune::PLAN_FORMAT_BASE;
    world.run(2 * HOUR_S);
    assert_eq!(world.submitted, []);
    assert_eq!(world.ready(), (false, "MixedVersions".to_owned()));
    world.format_read = autotune::PLAN_FORMAT;
    world.run_until(HOUR_S, |world| world.in_force_ms() == (25, 315));
    let to = world.submitted[0].to.expect("values");
    assert!(!to.bounds.compression);
}

#[test]
fn a_plan_that_does_not_arrive_everywhere_is_told_and_not_followed_by_another() {
    let mut world = lan();
    world.deaf = vec![2];
    world.run(HOUR_S);
    assert_eq!(world.submitted.len(), 1);
    assert_eq!(world.plan.phase, Phase::Raise);
    assert_eq!(world.ready(), (false, "PartialApply".to_owned()));
    assert_eq!(world.told("AutotuneHeld").len(), 1);
    assert!(world.told("AutotuneHeld")[0].note.contains("waiting for member 102"));
    world.deaf = Vec::new();
    world.run_until(HOUR_S, |world| world.in_force_ms() == (25, 315));
}

#[test]
fn a_plan_of_somebody_else_is_taken_for_good_and_noted() {
    let mut world = lowered();
    let by_metactl = autotune::Params {
        timing: autotune::Timing { heartbeat_interval_us: 40_000, election_timeout_us: 400_000 },
        ..world.submitted[1].to.expect("values")
    };
    world.submit(world.plan.epoch, Some(by_metactl), "metactl", "because");
    world.run(60);
    let change = world.tuning().last_change.clone().expect("a change");
    assert_eq!((&change.planner[..], &change.reason[..]), ("metactl", "because"));
    assert_eq!(change.result, ChangeResult::Verified);
    assert_eq!(world.tuning().last_known_good.as_ref().map(|good| good.election_ms), Some(400.0));
}

#[test]
fn a_member_far_from_all_others_is_named_once() {
    let mut world = lowered();
    world.rtt_us[2][0] = Some(40 * MS);
    world.rtt_us[2][1] = Some(40 * MS);
    world.rtt_us[0][2] = Some(40 * MS);
    world.rtt_us[1][2] = Some(40 * MS);
    world.run(HOUR_S);
    let told = world.told("SlowMember");
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].note.starts_with("demo-2 is "), "{}", told[0].note);
    let observed = world.tuning().observed.clone().expect("figures");
    assert!(observed.worst_pair.is_some_and(|pair| pair.contains("demo-2")));
}

#[test]
fn history_holds_five_changes_before_the_newest() {
    let mut world = World::new(700, AutotuneMode::Off);
    for heartbeat_ms in 20..30 {
        world.spec(|spec| {
            (spec.raft.heartbeat_ms, spec.raft.election_ms) = (Some(heartbeat_ms), Some(500));
        });
        world.run(60);
    }
    let epochs: Vec<i64> = world.tuning().history.iter().map(|change| change.epoch).collect();
    assert_eq!((world.tuning().epoch, epochs), (10, vec![9, 8, 7, 6, 5]));
}

#[test]
fn one_member_has_nothing_to_be_tuned() {
    let mut world = lan();
    world.object.spec.replicas = 1;
    let mut seen = world.observe();
    for ordinal in [1, 2] {
        seen.pods.remove(&ordinal);
        seen.claims.remove(&ordinal);
        seen.answers.remove(&ordinal);
    }
    seen.members.as_mut().expect("a table").truncate(1);
    seen.workload.as_mut().expect("a set").replicas = 1;
    let status = operator::plan::plan(&seen).status;
    assert_eq!(status.autotune.map(|tuning| tuning.phase).as_deref(), Some("Off"));
}
