//! Scripts under `tests/golden`: the first line is the fact, lines that begin with `>` are what is
//! done, the lines after each are what then happens. `UPDATE_GOLDEN=1` writes what happens now.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod cluster;

use std::path::Path;

use autotune::{Batching, Timing};
use cluster::Cluster;
use consensus::Config;
use proto::log::membership_change::Kind;
use proto::peer::raft_message::Type;

fn config() -> Config {
    Config { log_entries_kept: 20, ..Config::new(1, 42) }
}

fn id(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is not a member"))
}

/// `250ms`, `3s`, `40us`.
fn duration_us(word: &str) -> u64 {
    let (number, unit_us) = match word {
        _ if word.ends_with("us") => (&word[..word.len() - 2], 1),
        _ if word.ends_with("ms") => (&word[..word.len() - 2], 1_000),
        _ if word.ends_with('s') => (&word[..word.len() - 1], 1_000_000),
        _ => panic!("{word:?} is not a duration"),
    };
    number.parse::<u64>().unwrap_or_else(|_| panic!("{word:?} is not a duration")) * unit_us
}

fn setting<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn message_type(word: &str) -> i32 {
    let name = format!("MSG_{}", word.to_uppercase());
    Type::from_str_name(&name).unwrap_or_else(|| panic!("{word:?} is not a message")).into()
}

fn report<T, E: std::fmt::Display>(cluster: &mut Cluster, id: u64, result: Result<T, E>) {
    if let Err(error) = result {
        cluster.say(&format!("{id} refuses: {error}"));
    }
}

fn perform(cluster: &mut Cluster, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let member = |at: usize| id(words[at]);
    match words[0] {
        "found" => {
            let voters: Vec<u64> = words[1..].iter().map(|word| id(word)).collect();
            cluster.found(&voters);
        }
        "join" => {
            cluster.fixed_membership = false;
            cluster.join(member(1));
        }
        "run" => cluster.run(duration_us(words[1])),
        "leader" => {
            let found = cluster.run_until(60_000_000, |cluster| cluster.leader().is_some());
            assert!(found, "no leader in a minute");
        }
        "campaign" => {
            cluster.replica(member(1)).campaign();
            cluster.pump(member(1));
        }
        "propose" => {
            for command in &words[2..] {
                let result = cluster.propose(member(1), command);
                report(cluster, member(1), result);
            }
            cluster.pump(member(1));
        }
        "forward" => {
            for command in &words[3..] {
                let result = cluster.forward(member(1), member(2), command);
                report(cluster, member(2), result);
            }
            cluster.pump(member(2));
        }
        // Taken, but not yet asked what to do with it.
        "gather" => {
            for command in &words[2..] {
                let result = cluster.propose(member(1), command);
                report(cluster, member(1), result);
            }
        }
        "fill" => {
            cluster.quiet = true;
            for n in 0..words[2].parse().unwrap() {
                cluster.propose(member(1), &format!("fill{n}")).unwrap();
                cluster.pump(member(1));
            }
            cluster.run(100_000);
            cluster.quiet = false;
        }
        "read" => {
            for ticket in &words[2..] {
                cluster.read(member(1), ticket.parse().unwrap());
            }
            cluster.pump(member(1));
        }
        "cut" => cluster.cut(member(1), member(2)),
        "mute" => cluster.cut_one_way(member(1), member(2)),
        "isolate" => cluster.isolate(member(1)),
        "lose" => {
            cluster.dropped_types.insert(message_type(words[1]));
        }
        "heal" => cluster.heal(),
        "disk" => cluster.members.get_mut(&member(1)).unwrap().disk_us = duration_us(words[2]),
        "hold" => cluster.members.get_mut(&member(1)).unwrap().disk_held = true,
        "sync" => {
            cluster.members.get_mut(&member(1)).unwrap().disk_held = false;
            cluster.sync(member(1));
        }
        "still" => {
            let until_us = cluster.now_us + duration_us(words[2]);
            cluster.members.get_mut(&member(1)).unwrap().still_until_us = until_us;
        }
        "stop" => cluster.stop(member(1)),
        "start" => cluster.start(member(1)),
        "transfer" => {
            let result = cluster.replica(member(1)).transfer_leader(member(2));
            report(cluster, member(1), result);
            cluster.pump(member(1));
        }
        "membership" => {
            cluster.fixed_membership = false;
            let kind = match words[2] {
                "add-voter" => Kind::AddVoter,
                "add-learner" => Kind::AddLearner,
                "promote" => Kind::Promote,
                "remove" => Kind::Remove,
                other => panic!("{other:?} is not a change"),
            };
            let change = Cluster::change(member(3), kind);
            let result = cluster.replica(member(1)).propose_membership(change);
            report(cluster, member(1), result);
            cluster.pump(member(1));
        }
        "learner-ready" => {
            let ready = cluster.replica(member(1)).learner_ready(member(2));
            cluster.say(&format!("learner {} is ready: {ready}", member(2)));
        }
        "snapshot" => cluster.snapshot(member(1)),
        "latency" => cluster.latency_us = duration_us(words[1]),
        "timing" => {
            let timing = Timing {
                heartbeat_interval_us: duration_us(setting(&words, "heartbeat").unwrap()),
                election_timeout_us: duration_us(setting(&words, "election").unwrap()),
            };
            let ids: Vec<u64> = match words[1] {
                "all" => cluster.members.keys().copied().collect(),
                one => vec![id(one)],
            };
            for id in ids {
                let result = cluster.replica(id).set_timing(timing);
                report(cluster, id, result);
            }
        }
        "batching" => {
            let mut batching = Batching::default();
            if let Some(word) = setting(&words, "commands") {
                batching.entry_commands_max = word.parse().unwrap();
            }
            if let Some(word) = setting(&words, "linger") {
                batching.linger_us = duration_us(word);
            }
            batching.enabled = setting(&words, "enabled") != Some("false");
            let result = cluster.replica(member(1)).set_batching(batching);
            report(cluster, member(1), result);
        }
        "quiet" => cluster.quiet = true,
        "loud" => cluster.quiet = false,
        "trace" => cluster.trace = words[1] == "on",
        "count" => {
            let counts = std::mem::take(&mut cluster.messages_by_type);
            let kind = Type::try_from(message_type(words[1])).unwrap().as_str_name();
            let count = counts.get(kind).copied().unwrap_or(0);
            cluster.say(&format!("{count} messages {}", words[1]));
        }
        "status" => {
            let status = cluster.replica(member(1)).status();
            cluster.say(&format!(
                "{} is {:?} in term {}, leader {:?}, log {}..{}, persisted {}, commit {}, \
                 applied {}, election timeout {} ms",
                status.id,
                status.role,
                status.term,
                status.leader,
                status.first_index,
                status.last_index,
                status.persisted,
                status.commit,
                status.applied,
                status.effective_timing.election_timeout_us / 1_000,
            ));
        }
        "progress" => {
            for (id, peer) in cluster.replica(member(1)).status().progress {
                cluster.say(&format!(
                    "{id}: match {} next {} {:?} inflight {}{}",
                    peer.match_index,
                    peer.next_index,
                    peer.state,
                    peer.inflight,
                    if peer.is_learner { " learner" } else { "" },
                ));
            }
        }
        "state" => {
            let state = cluster.members[&member(1)].state.clone();
            cluster.say(&format!("{} holds {}", member(1), state.commands.join(" ")));
        }
        other => panic!("{other:?} is not a command"),
    }
}

/// The script with what happens now in place of what it expects.
fn play(script: &str) -> String {
    let mut cluster = Cluster::new(config());
    let mut lines = script.lines();
    let fact = lines.next().unwrap_or_default();
    assert!(fact.ends_with('.'), "the first line is a sentence: {fact:?}");
    let mut out = format!("{fact}\n");
    for line in lines.filter(|line| line.starts_with(['>', '#'])) {
        if line.starts_with('#') {
            out.push_str(&format!("\n{line}\n"));
            continue;
        }
        perform(&mut cluster, line[1..].trim());
        out.push_str(&format!("{line}\n{}", std::mem::take(&mut cluster.out)));
    }
    out
}

#[test]
fn every_script_tells_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut scripts: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 15, "scripts are missing");
    let mut wrong = Vec::new();
    for path in scripts {
        let script = std::fs::read_to_string(&path).unwrap();
        let played = play(&script);
        if played == script {
            continue;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, played).unwrap();
        } else {
            wrong.push(format!("{}:\n{played}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "these scripts tell something else now:\n{}", wrong.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_transcript_and_another_seed_another() {
    let transcript = |seed: u64| {
        let mut cluster = Cluster::new(Config { seed, ..config() });
        cluster.trace = true;
        cluster.found(&[1, 2, 3, 4, 5]);
        cluster.run(3_000_000);
        let leader = cluster.leader().unwrap();
        for n in 0..20 {
            cluster.propose(leader, &format!("c{n}")).unwrap();
            cluster.read(1 + n % 5, n);
            cluster.run(7_000);
        }
        cluster.isolate(leader);
        cluster.run(5_000_000);
        cluster.heal();
        cluster.run(3_000_000);
        cluster.out
    };
    assert_eq!(transcript(1), transcript(1));
    assert_ne!(transcript(1), transcript(2));
}
