//! What followers answer while writes come one by one, and what a lost answer costs.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod cluster;

use cluster::Cluster;
use consensus::Config;

const WRITES: u64 = 50;
const HEARTBEAT_US: u64 = 100_000;

/// Three members, the first leading.
fn three() -> Cluster {
    let mut cluster = Cluster::new(Config::new(1, 5));
    assert_eq!(cluster.config.timing.heartbeat_interval_us, HEARTBEAT_US);
    cluster.found(&[1, 2, 3]);
    cluster.replica(1).campaign();
    cluster.pump(1);
    cluster.run(500_000);
    cluster
}

fn write(cluster: &mut Cluster, command: &str) {
    cluster.propose(1, command).unwrap();
    cluster.pump(1);
    cluster.run(10 * cluster.latency_us);
}

fn sent(cluster: &Cluster, kind: &str) -> u64 {
    cluster.messages_by_type.get(kind).copied().unwrap_or(0)
}

#[test]
fn a_follower_answers_a_write_once_though_it_is_told_of_it_twice() {
    let mut cluster = three();
    let before = ["MSG_APPEND", "MSG_APPEND_RESPONSE"].map(|kind| sent(&cluster, kind));
    for n in 0..WRITES {
        write(&mut cluster, &format!("w{n}"));
    }
    let after = ["MSG_APPEND", "MSG_APPEND_RESPONSE"].map(|kind| sent(&cluster, kind));
    // The entry, and that it is committed, to each of two.
    assert_eq!(after[0] - before[0], 4 * WRITES);
    assert_eq!(after[1] - before[1], 2 * WRITES);
    for member in cluster.members.values() {
        assert_eq!(member.state.commands.len() as u64, WRITES);
    }
}

#[test]
fn a_leader_that_lacks_an_answer_has_it_after_the_next_heartbeat() {
    let mut cluster = three();
    cluster.cut_one_way(3, 1);
    write(&mut cluster, "a");
    assert_eq!(cluster.members[&3].state.commands, ["a"], "it is told of the commit all the same");
    cluster.heal();
    let knows = |cluster: &mut Cluster| {
        let status = cluster.replica(1).status();
        status.progress[&3].match_index == status.last_index
    };
    assert!(!knows(&mut cluster), "the answer was lost");
    cluster.run(HEARTBEAT_US + 10 * cluster.latency_us);
    assert!(knows(&mut cluster));
}
