//! A few seeds of the swarm, as part of every test run: what the simulator promises of itself, and
//! that it still finds what it is there to find.

use sim::{Mutant, Verbosity, hunt, run};

/// Seeds a mutant is hunted over here: those picked are found within a few.
const HUNTED_SEEDS: u64 = 64;

#[test]
fn all_facts_hold_for_the_first_seeds_and_each_runs_twice_alike() {
    for seed in 1..=8 {
        let first = run(seed, None, Verbosity::Quiet);
        assert_eq!(first.violation, None, "replay: cargo xtask sim {seed}");
        let second = run(seed, None, Verbosity::Quiet);
        assert_eq!(first, second, "seed {seed} went another way the second time");
    }
}

#[test]
fn what_is_kept_for_a_report_changes_nothing_of_the_run() {
    let quiet = run(3, None, Verbosity::Quiet);
    let kept = run(3, None, Verbosity::KeepLines);
    assert_eq!(quiet.trace_hash, kept.trace_hash);
    assert!(quiet.lines.is_empty() && !kept.lines.is_empty());
}

#[test]
fn another_seed_is_another_run() {
    let hashes: Vec<u64> =
        (20..24).map(|seed| run(seed, None, Verbosity::Quiet).trace_hash).collect();
    for (at, hash) in hashes.iter().enumerate() {
        assert!(!hashes[at + 1..].contains(hash));
    }
}

#[test]
fn runs_do_work_and_meet_faults() {
    let mut reached = std::collections::BTreeMap::<&'static str, u64>::new();
    for seed in 1..=8 {
        for (name, count) in run(seed, None, Verbosity::Quiet).figures.counts {
            *reached.entry(name).or_default() += count;
        }
    }
    for name in [
        "writes acknowledged",
        "reads answered",
        "forwards",
        "process deaths",
        "power losses",
        "partitions",
        "snapshots taken",
        "snapshots received",
        "membership changes",
        "leases renewed",
        "plans taken",
        "durable indexes told",
        "entries committed early",
        "commands proposed again",
        "forwards handed back late",
    ] {
        assert!(reached.get(name).is_some_and(|count| *count > 0), "{name}: never reached");
    }
}

#[test]
fn seeded_bugs_are_found() {
    for mutant in [
        Mutant::SkipDataSync,
        Mutant::SkipDirSync,
        Mutant::ForgetVote,
        Mutant::AckBeforeQuorum,
        Mutant::AppliedAhead,
        Mutant::ForwardTwice,
        Mutant::ForwardAnyTerm,
        Mutant::HandedBackAnyTerm,
        Mutant::GivenAgainEarly,
        Mutant::LocalReads,
        Mutant::LeaseEarly,
        Mutant::StaleEpoch,
        Mutant::NoHeartbeatGate,
        Mutant::DurableEarly,
        Mutant::DurableUntold,
    ] {
        let found = hunt(mutant, 1, HUNTED_SEEDS);
        assert!(found.is_some(), "{}: not found in {HUNTED_SEEDS} seeds", mutant.name());
    }
}

#[test]
fn a_mutant_is_found_by_its_name() {
    for mutant in Mutant::ALL {
        assert_eq!(Mutant::of(mutant.name()), Some(mutant));
    }
    assert_eq!(Mutant::of("none such"), None);
}
