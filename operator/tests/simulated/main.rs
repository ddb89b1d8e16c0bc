//! The plan against a simulated cluster: by seed, with the operator killed at any point, and laws that
//! hold after everything that happens. A failing seed prints what happened, and is run again with
//! `SIMULATED_SEED=17 cargo test -p operator --test simulated`.

mod act;
mod mutants;
mod storm;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use operator::plan::{Plan, plan};

use act::Planner;
use world::World;

/// Seeds of every run.
const SEEDS: u64 = 500;
/// Events while faults happen.
const STORM_EVENTS: usize = 400;
/// Passes in which a cluster has to become what its spec says, once faults stop.
const PASSES_MAX: usize = 1_500;
/// Lines of a failing seed's trace that are printed.
const TRACE_LINES: usize = 120;

fn storm(world: &mut World, planner: Planner) {
    let faults = 2 + world.dice.below(10);
    for _ in 0..STORM_EVENTS {
        if world.dice.percent(faults) {
            world.fault();
        }
        if world.dice.percent(25) {
            world.pass(planner);
        } else {
            world.happen();
        }
    }
}

fn calm(world: &mut World, planner: Planner) {
    world.stormy = false;
    world.object.spec.paused = false;
    world.object.spec.hibernate = world.dice.percent(10);
    if world.image.starts_with("bad") {
        world.image = "good-at-last".to_owned();
    }
    world.object.metadata.generation = Some(1_000_000);
    world.note("-- calm --");
    let mut last: Option<Plan> = None;
    for _ in 0..PASSES_MAX {
        for _ in 0..12 {
            world.happen();
        }
        world.now_s += 5;
        delete_retained_claim(world);
        let planned = world.pass(planner);
        if planned.steps.is_empty()
            && last.as_ref().is_some_and(|last| last.status == planned.status)
            && as_wanted(world)
        {
            return;
        }
        last = Some(planned);
    }
    let status = &world.object.status;
    panic!("it never becomes as wanted: {:#?}\n{:?}", status, world.table);
}

/// A user who reads what the condition says.
fn delete_retained_claim(world: &mut World) {
    let status = world.object.status.as_ref();
    let blocked = status.is_some_and(|s| s.reason.as_deref() == Some("RetainedClaim"));
    if !blocked {
        return;
    }
    let replicas = world.set.as_ref().map_or(0, |set| set.told.replicas);
    if !world.pods.contains_key(&replicas) && world.row_at(replicas).is_none() {
        world.volumes.remove(&replicas);
        world.note(format!("USER: deletes data-demo-{replicas}, as told"));
    }
}

fn as_wanted(world: &World) -> bool {
    let wanted = world.object.spec.replicas;
    let status = world.object.status.as_ref().expect("written");
    if status.operation.is_some() || world.children_stale {
        return false;
    }
    let replicas = world.set.as_ref().map_or(0, |set| set.told.replicas);
    if world.object.spec.hibernate {
        return replicas == 0 && world.pods.is_empty();
    }
    let mut ordinals: Vec<i32> = world.voters().iter().map(|row| row.ordinal).collect();
    ordinals.sort_unstable();
    let holds = |kind: &str, text: &str| {
        status.conditions.iter().any(|c| c.type_ == kind && c.status == text)
    };
    replicas == wanted
        && world.table.len() == ordinals.len()
        && ordinals == (0..wanted).collect::<Vec<_>>()
        && world.pods.keys().copied().collect::<Vec<_>>() == ordinals
        && world.pods.values().all(|pod| pod.hash == world.image && pod.ready_since.is_some())
        && holds("Available", "True")
        && holds("Progressing", "False")
        && holds("Degraded", "False")
}

/// Runs one seed; what went wrong, with its trace.
fn run(seed: u64, planner: Planner) -> Result<(), String> {
    let mut world = World::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        storm(&mut world, planner);
        calm(&mut world, planner);
    }));
    let Err(panic) = outcome else { return Ok(()) };
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default();
    let calm = world.trace.iter().position(|line| line.ends_with("-- calm --"));
    let from = calm.unwrap_or(world.trace.len()).saturating_sub(TRACE_LINES);
    Err(format!(
        "seed {seed}: {text}\n{}",
        world.trace[from..world.trace.len().min(from + 2 * TRACE_LINES)].join("\n")
    ))
}

#[test]
fn every_cluster_becomes_what_its_spec_says_and_no_law_is_broken_on_the_way() {
    let seeds = match std::env::var("SIMULATED_SEED") {
        Ok(seed) => vec![seed.parse().expect("SIMULATED_SEED is a number")],
        Err(_) => {
            let seeds = std::env::var("SIMULATED_SEEDS").ok();
            let seeds = seeds.map_or(SEEDS, |n| n.parse().expect("SIMULATED_SEEDS is a number"));
            (0..seeds).collect()
        }
    };
    let failures: Vec<String> =
        seeds.into_iter().filter_map(|seed| run(seed, plan).err()).take(1).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
