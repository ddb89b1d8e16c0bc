//! A round trip that has outgrown the election timeout: a leader is found again by itself, in a time
//! that goes by the new round trip, and kept.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod cluster;

use autotune::Timing;
use cluster::Cluster;
use consensus::{Config, Replica, Role};

const ROUND_TRIPS_MS: [u64; 5] = [80, 400, 1_000, 1_500, 2_000];
/// Heartbeat interval and election timeout, in ms.
const PLANS_MS: [(u64, u64); 2] = [(25, 315), (100, 1_000)];
const SEEDS: u64 = 4;

/// A cluster of so many, one ms apart, member 1 leading.
fn near(seed: u64, voters: u64, plan_ms: (u64, u64)) -> Cluster {
    let timing =
        Timing { heartbeat_interval_us: plan_ms.0 * 1_000, election_timeout_us: plan_ms.1 * 1_000 };
    let mut cluster = Cluster::new(Config { timing, ..Config::new(1, seed) });
    cluster.found(&(1..=voters).collect::<Vec<_>>());
    cluster.replica(1).campaign();
    cluster.pump(1);
    // Not all of them at the same place between two heartbeats.
    cluster.run(3_000_000 + seed * 7_919);
    assert_eq!(cluster.leader(), Some(1));
    cluster
}

fn leads(cluster: &Cluster, id: u64) -> bool {
    let status = cluster.members[&id].replica.as_ref().map(Replica::status);
    status.is_some_and(|status| status.role == Role::Leader)
}

/// A write by whoever leads and can be heard of: `true` once a quorum has it.
fn writes(cluster: &mut Cluster, name: &str, within_us: u64) -> bool {
    let until_us = cluster.now_us + within_us;
    while cluster.now_us < until_us {
        let leader = cluster.leader();
        if let Some(leader) = leader
            && cluster.propose(leader, name).is_ok()
        {
            cluster.pump(leader);
        }
        cluster.run(10_000);
        if cluster.committed_commands().iter().any(|command| command == name) {
            return true;
        }
    }
    false
}

fn terms(cluster: &Cluster) -> u64 {
    let status = cluster.members.values().filter_map(|it| it.replica.as_ref()).map(Replica::status);
    status.map(|status| status.term).max().unwrap()
}

/// All that is tried: seed, members, plan, round trip.
fn all() -> impl Iterator<Item = (u64, u64, (u64, u64), u64)> {
    (1..=SEEDS).flat_map(|seed| {
        [3, 5].into_iter().flat_map(move |voters| {
            PLANS_MS.into_iter().flat_map(move |plan_ms| {
                ROUND_TRIPS_MS.into_iter().map(move |trip_ms| (seed, voters, plan_ms, trip_ms))
            })
        })
    })
}

#[test]
fn a_leader_that_is_lost_has_a_successor_that_commits_within_a_few_round_trips() {
    for (seed, voters, plan_ms, trip_ms) in all() {
        for after_ms in [0, 10_000] {
            let mut cluster = near(seed, voters, plan_ms);
            cluster.quiet = true;
            cluster.latency_us = trip_ms * 500;
            cluster.run(after_ms * 1_000);
            let lost = cluster.leader().unwrap_or(1);
            cluster.stop(lost);
            let began_us = cluster.now_us;
            let case = format!("{seed} {voters} {plan_ms:?} {trip_ms} {after_ms}");
            assert!(writes(&mut cluster, "a", 60_000_000), "{case}");
            // Noticed after two timeouts at most, or two lengthened ones; asked, voted, committed.
            let most_ms = (2 * plan_ms.1).max(4 * trip_ms) + 4 * trip_ms;
            let took_ms = (cluster.now_us - began_us) / 1_000;
            assert!(took_ms <= most_ms, "{case}: {took_ms} of {most_ms} ms");
        }
    }
}

#[test]
fn what_a_new_leader_was_asked_for_is_committed_one_round_trip_after_its_election() {
    const ROUND_TRIP_US: u64 = 80_000;
    for seed in 1..=SEEDS {
        let mut cluster = near(seed, 3, PLANS_MS[0]);
        cluster.quiet = true;
        cluster.latency_us = ROUND_TRIP_US / 2;
        cluster.run(1_000_000);
        let lost = cluster.leader().unwrap();
        cluster.stop(lost);
        assert!(cluster.run_until(10_000_000, |cluster| cluster.leader().is_some()));
        let (leader, elected_us) = (cluster.leader().unwrap(), cluster.now_us);
        cluster.propose(leader, "asked").unwrap();
        cluster.pump(leader);
        let is_there = |cluster: &Cluster| cluster.committed_commands().contains(&"asked".into());
        assert!(cluster.run_until(10_000_000, is_there));
        let took_us = cluster.now_us - elected_us;
        assert!(took_us < ROUND_TRIP_US * 3 / 2, "{seed}: {took_us} us");
    }
}

#[test]
fn an_entry_is_sent_about_once_however_many_heartbeats_are_answered_meanwhile() {
    for (seed, trip_ms) in [(1, 400), (2, 1_500), (3, 2_000)] {
        let mut cluster = near(seed, 3, PLANS_MS[0]);
        cluster.quiet = true;
        cluster.latency_us = trip_ms * 500;
        cluster.stop(1);
        assert!(cluster.run_until(60_000_000, |cluster| cluster.leader().is_some()));
        let leader = cluster.leader().unwrap();
        let (before, mut proposed) = (cluster.bytes_sent, 0);
        let command = "x".repeat(1_000);
        for _ in 0..1_000 {
            cluster.propose(leader, &command).unwrap();
            cluster.pump(leader);
            proposed += command.len() as u64;
            cluster.run(10_000);
        }
        assert!(leads(&cluster, leader));
        let sent = cluster.bytes_sent - before;
        // To the follower there is; the one that is gone is sent the first of them.
        assert!(sent < proposed * 5 / 4, "{trip_ms} ms: {sent} bytes sent of {proposed}");
    }
}

#[test]
fn the_leader_there_is_in_the_end_is_kept() {
    for (seed, voters, plan_ms, trip_ms) in all() {
        for is_lost in [false, true] {
            let mut cluster = near(seed, voters, plan_ms);
            cluster.quiet = true;
            cluster.latency_us = trip_ms * 500;
            if is_lost {
                cluster.stop(1);
            }
            assert!(writes(&mut cluster, "a", 60_000_000));
            cluster.run(20 * trip_ms * 1_000);
            let (leader, term) = (cluster.leader().unwrap(), terms(&cluster));
            cluster.run(30_000_000);
            assert!(leads(&cluster, leader), "{seed} {voters} {plan_ms:?} {trip_ms} {is_lost}");
            assert_eq!(terms(&cluster), term, "{seed} {voters} {plan_ms:?} {trip_ms} {is_lost}");
        }
    }
}
