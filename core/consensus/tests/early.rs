//! A follower answers its own callers by what is durable at the leader and at itself: when, and when not.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod cluster;

use cluster::Cluster;
use consensus::Config;
use proto::log::membership_change::Kind;

const WAY_US: u64 = 40_000;
const DISK_US: u64 = 5_000;
/// After so long the leader believes that its followers are far.
const SETTLED_US: u64 = 25_000_000;

/// So many members, the first leading, each two so far apart.
fn apart(voters: u64, way_us: u64) -> Cluster {
    let mut cluster = Cluster::new(Config::new(1, 5));
    cluster.found(&(1..=voters).collect::<Vec<_>>());
    cluster.replica(1).campaign();
    cluster.pump(1);
    cluster.run(500_000);
    cluster.latency_us = way_us;
    cluster.run(SETTLED_US);
    assert_eq!(cluster.leader(), Some(1));
    for member in cluster.members.values_mut() {
        member.disk_us = DISK_US;
    }
    cluster
}

fn forward(cluster: &mut Cluster, follower: u64, command: &str) {
    cluster.forward(follower, 1, command).unwrap();
    cluster.pump(1);
}

/// How long from now until a member has applied a command.
fn applies_after(cluster: &mut Cluster, id: u64, command: &str) -> u64 {
    let began_us = cluster.now_us;
    let has_it = |cluster: &Cluster| {
        cluster.members[&id].state.commands.last().is_some_and(|last| last == command)
    };
    assert!(cluster.run_until(20 * WAY_US, has_it), "{id} never applies {command}");
    cluster.now_us - began_us
}

fn told(cluster: &mut Cluster) -> u64 {
    cluster.replica(1).status().durable_told
}

fn early(cluster: &mut Cluster, id: u64) -> u64 {
    cluster.replica(id).status().committed_early
}

#[test]
fn a_followers_caller_is_answered_half_a_round_trip_after_its_command_came_to_the_leader() {
    let mut cluster = apart(3, WAY_US);
    forward(&mut cluster, 2, "a");
    assert_eq!(applies_after(&mut cluster, 2, "a"), WAY_US + DISK_US);
    assert_eq!(cluster.replica(1).commit_index(), 1, "the leader does not know it yet");
    cluster.run(10 * WAY_US);
    assert_eq!((told(&mut cluster), early(&mut cluster, 2), early(&mut cluster, 3)), (1, 1, 0));
    // Nobody waits at 3, and it hears of it as ever.
    forward(&mut cluster, 2, "b");
    assert_eq!(applies_after(&mut cluster, 3, "b"), 3 * WAY_US + DISK_US);
}

#[test]
fn two_voters_are_a_quorum_with_learners_beside_them() {
    let mut cluster = apart(2, WAY_US);
    cluster.fixed_membership = false;
    cluster.join(3);
    let change = Cluster::change(3, Kind::AddLearner);
    cluster.replica(1).propose_membership(change).unwrap();
    cluster.pump(1);
    cluster.run(SETTLED_US);
    forward(&mut cluster, 3, "of the learner");
    cluster.run(10 * WAY_US);
    assert_eq!(told(&mut cluster), 0, "a learner is nobody's quorum");
    forward(&mut cluster, 2, "a");
    assert_eq!(applies_after(&mut cluster, 2, "a"), WAY_US + DISK_US);
}

#[test]
fn nothing_is_said_where_two_are_no_quorum() {
    for voters in [4, 5] {
        let mut cluster = apart(voters, WAY_US);
        forward(&mut cluster, 2, "a");
        assert_eq!(applies_after(&mut cluster, 2, "a"), 3 * WAY_US + DISK_US);
        assert_eq!((told(&mut cluster), early(&mut cluster, 2)), (0, 0));
    }
}

#[test]
fn nothing_is_said_to_a_follower_that_is_near() {
    let mut cluster = apart(3, 450);
    forward(&mut cluster, 2, "a");
    cluster.run(10 * WAY_US);
    assert_eq!((told(&mut cluster), early(&mut cluster, 2)), (0, 0));
}

#[test]
fn nothing_is_said_while_reads_are_served_by_lease() {
    let mut cluster = apart(3, WAY_US);
    cluster.replica(1).set_lease(240_000);
    forward(&mut cluster, 2, "a");
    assert_eq!(applies_after(&mut cluster, 2, "a"), 3 * WAY_US + DISK_US);
    cluster.replica(1).set_lease(0);
    forward(&mut cluster, 2, "b");
    assert_eq!(applies_after(&mut cluster, 2, "b"), WAY_US + DISK_US);
}

#[test]
fn nothing_is_said_while_a_change_of_the_membership_is_pending() {
    let mut cluster = apart(3, WAY_US);
    cluster.fixed_membership = false;
    cluster.join(4);
    let change = Cluster::change(4, Kind::AddLearner);
    cluster.replica(1).propose_membership(change).unwrap();
    forward(&mut cluster, 2, "a");
    assert_eq!(applies_after(&mut cluster, 2, "a"), 3 * WAY_US + DISK_US);
    assert_eq!(told(&mut cluster), 0);
    cluster.run(10 * WAY_US);
    forward(&mut cluster, 2, "b");
    assert_eq!(applies_after(&mut cluster, 2, "b"), WAY_US + DISK_US);
}

#[test]
fn nothing_is_said_before_it_is_on_the_leaders_disk_nor_believed_before_it_is_on_the_own() {
    let mut cluster = apart(3, WAY_US);
    cluster.isolate(3);
    cluster.members.get_mut(&1).unwrap().disk_held = true;
    forward(&mut cluster, 2, "a");
    cluster.run(5 * WAY_US);
    assert_eq!(told(&mut cluster), 0);
    cluster.members.get_mut(&2).unwrap().disk_held = true;
    forward(&mut cluster, 2, "b");
    cluster.members.get_mut(&1).unwrap().disk_held = false;
    cluster.sync(1);
    cluster.run(5 * WAY_US);
    assert!(told(&mut cluster) > 0);
    let status = cluster.replica(2).status();
    assert_eq!((status.last_index, status.persisted, status.commit), (3, 2, 2), "{status:?}");
    cluster.members.get_mut(&2).unwrap().disk_held = false;
    cluster.sync(2);
    assert_eq!(cluster.members[&2].state.commands, ["a", "b"]);
}

#[test]
fn with_many_under_way_each_confirmed_write_is_told_of_once_at_most() {
    let mut cluster = apart(3, WAY_US);
    let before = cluster.messages_by_type["MSG_APPEND"];
    let mut batches = 0;
    for n in 0..100 {
        forward(&mut cluster, 2 + n % 2, &format!("c{n}"));
        cluster.run(1_000);
        batches = cluster.replica(1).status().last_index - 1;
    }
    cluster.run(10 * WAY_US);
    let told = told(&mut cluster);
    assert!(told >= batches && told <= 2 * batches + 2, "{told} of {batches} to each of two");
    // What is said goes along with the next batch wherever one leaves then.
    let sent = cluster.messages_by_type["MSG_APPEND"] - before;
    assert!(sent <= 5 * batches, "{sent} of {batches}");
    assert!(cluster.members.values().all(|member| member.state.commands.len() == 100));
}

#[test]
fn a_follower_of_an_older_version_takes_it_for_an_append_of_nothing() {
    let sent = |is_old: bool| {
        let mut cluster = apart(3, WAY_US);
        if is_old {
            cluster.old.insert(2);
        }
        for n in 0..20 {
            forward(&mut cluster, 2, &format!("c{n}"));
            cluster.run(7_000);
        }
        cluster.run(10 * WAY_US);
        assert!(!cluster.reached.contains_key("message rejected"));
        assert_eq!(cluster.members[&2].state.commands.len(), 20);
        assert!(told(&mut cluster) > 0);
        assert_eq!(early(&mut cluster, 2) == 0, is_old);
        let progress = cluster.replica(1).status().progress[&2];
        assert_eq!(progress.state, consensus::ProgressState::Replicate);
        assert_eq!((progress.match_index, progress.inflight), (progress.next_index - 1, 0));
        cluster.bytes_sent
    };
    assert_eq!(sent(true), sent(false), "nothing is sent twice");
}

#[test]
fn an_old_follower_that_lacks_the_entries_refuses_and_is_sent_them() {
    let mut cluster = apart(3, WAY_US);
    cluster.old.insert(2);
    cluster.cut_one_way(1, 2);
    forward(&mut cluster, 2, "a");
    // The entries are lost, what is said of them arrives.
    cluster.run(WAY_US + DISK_US / 2);
    cluster.heal();
    cluster.run(20 * WAY_US);
    assert_eq!(cluster.members[&2].state.commands, ["a"]);
}

#[test]
fn the_leader_dies_when_a_follower_has_answered_and_nothing_is_lost() {
    let mut cluster = apart(3, WAY_US);
    cluster.cut_one_way(1, 3);
    forward(&mut cluster, 2, "a");
    applies_after(&mut cluster, 2, "a");
    cluster.stop(1);
    cluster.heal();
    cluster.run(10_000_000);
    assert_eq!(cluster.leader(), Some(2));
    assert_eq!(cluster.members[&3].state.commands, ["a"]);
    // And when the follower dies, the leader has it.
    cluster.start(1);
    cluster.run(SETTLED_US);
    cluster.cut_one_way(2, 3);
    cluster.forward(1, 2, "b").unwrap();
    cluster.pump(2);
    applies_after(&mut cluster, 1, "b");
    cluster.stop(1);
    cluster.heal();
    cluster.run(10_000_000);
    assert_eq!(cluster.members[&3].state.commands, ["a", "b"]);
}
