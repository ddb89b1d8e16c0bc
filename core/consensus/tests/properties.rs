//! What holds whatever happens: messages lost, doubled, late and out of order, members killed at any
//! moment with any part of their last writes on disk, disks that stall, leaders moved about.
//!
//! The cluster itself checks safety while it runs (see `cluster`). At the end the faults stop, and
//! everything must come together again: one leader, every member with the same commands, nothing
//! lost that was ever committed.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod cluster;

use std::collections::BTreeMap;

use autotune::Timing;
use cluster::Cluster;
use consensus::Config;
use proto::log::membership_change::Kind;

/// Faults are over and everyone must agree again within this time.
const RECOVERY_US: u64 = 60_000_000;

/// splitmix64, so that a failing case is one number.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Faults {
    loss_percent: u64,
    copy_percent: u64,
    latency_us: u64,
}

impl Faults {
    fn any(dice: &mut Dice) -> Faults {
        Faults {
            loss_percent: [0, 1, 10, 30][dice.below(4) as usize],
            copy_percent: [0, 5, 30][dice.below(3) as usize],
            latency_us: [1_000, 20_000, 300_000][dice.below(3) as usize],
        }
    }

    fn install(self, cluster: &mut Cluster, dice: &mut Dice) {
        let mut dice = Dice(dice.roll());
        cluster.fate = Some(Box::new(move || {
            let copies = 1 + u64::from(dice.percent(self.copy_percent));
            let copies = if dice.percent(self.loss_percent) { 0 } else { copies };
            (0..copies).map(|_| 200 + dice.below(self.latency_us)).collect()
        }));
    }
}

struct Run {
    cluster: Cluster,
    dice: Dice,
    next: u64,
    voters: Vec<u64>,
    membership: bool,
}

impl Run {
    fn new(seed: u64, membership: bool) -> Run {
        let mut dice = Dice(seed);
        let config = Config {
            seed,
            log_entries_kept: [5, 50, 10_000][dice.below(3) as usize],
            inflight_max: [1, 4, 256][dice.below(3) as usize],
            message_bytes_max: [1 << 10, 1 << 20][dice.below(2) as usize],
            pre_vote: !dice.percent(20),
            ..Config::new(1, seed)
        };
        let mut cluster = Cluster::new(config);
        cluster.quiet = true;
        cluster.fixed_membership = !membership;
        let voters: Vec<u64> = (1..=[3, 5, 4, 1][dice.below(4) as usize]).collect();
        cluster.found(&voters);
        Run { cluster, dice, next: 0, voters, membership }
    }

    fn any_member(&mut self) -> u64 {
        let members: Vec<u64> = self.cluster.members.keys().copied().collect();
        members[self.dice.below(members.len() as u64) as usize]
    }

    fn act(&mut self) {
        let id = self.any_member();
        let runs = self.cluster.runs(id);
        let now_us = self.cluster.now_us;
        match self.dice.below(40) {
            0 | 1 if runs => {
                let writes = self.dice.below(4) as usize;
                self.cluster.stop_after(id, writes);
            }
            0..=4 if !runs => self.cluster.start(id),
            2 => {
                let other = self.any_member();
                self.cluster.cut(id, other);
            }
            3 => {
                let other = self.any_member();
                self.cluster.cut_one_way(id, other);
            }
            4 => self.cluster.isolate(id),
            5..=7 => self.cluster.heal(),
            8 => Faults::any(&mut self.dice).install(&mut self.cluster, &mut self.dice),
            9 => self.cluster.members.get_mut(&id).unwrap().disk_held = true,
            10..=12 => {
                self.cluster.members.get_mut(&id).unwrap().disk_held = false;
                self.cluster.sync(id);
            }
            13 => {
                let disk_us = [0, 500, 20_000, 400_000][self.dice.below(4) as usize];
                self.cluster.members.get_mut(&id).unwrap().disk_us = disk_us;
            }
            14 if runs => self.cluster.snapshot(id),
            15 if runs => {
                let to = self.any_member();
                let _ = self.cluster.replica(id).transfer_leader(to);
                self.cluster.pump(id);
            }
            16 if runs => {
                self.cluster.replica(id).campaign();
                self.cluster.pump(id);
            }
            17 if runs => {
                let election_timeout_us =
                    [100_000, 500_000, 1_000_000][self.dice.below(3) as usize];
                let timing = Timing { heartbeat_interval_us: 20_000, election_timeout_us };
                self.cluster.replica(id).set_timing(timing).unwrap();
            }
            18 if runs => {
                let to = self.any_member();
                self.cluster.replica(id).report_unreachable(to);
            }
            19 if self.membership => self.change_membership(),
            20..=24 if runs => {
                self.next += 1;
                self.cluster.read(id, self.next);
                if self.dice.percent(50) {
                    self.cluster.pump(id);
                }
            }
            25..=39 => {
                let target = if self.dice.percent(80) { self.cluster.leader() } else { Some(id) };
                let Some(target) = target.filter(|target| self.cluster.runs(*target)) else {
                    return;
                };
                for _ in 0..=self.dice.below(5) {
                    self.next += 1;
                    let command = format!("c{}", self.next);
                    // Two in three came through a follower, or through one that was none.
                    let through = 1 + self.next % 3;
                    let _ = if through == target {
                        self.cluster.propose(target, &command)
                    } else {
                        self.cluster.forward(through, target, &command)
                    };
                }
                if self.dice.percent(80) {
                    self.cluster.pump(target);
                }
            }
            _ => {}
        }
        debug_assert!(self.cluster.now_us >= now_us);
    }

    fn change_membership(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        let id = 1 + self.dice.below(7);
        let kind = [Kind::AddVoter, Kind::AddLearner, Kind::Promote, Kind::Remove]
            [self.dice.below(4) as usize];
        let change = Cluster::change(id, kind);
        if self.cluster.replica(leader).propose_membership(change).is_ok()
            && !self.cluster.members.contains_key(&id)
        {
            self.cluster.join(id);
        }
        self.cluster.pump(leader);
    }

    fn faults(&mut self, steps: u64) {
        for _ in 0..steps {
            self.act();
            let for_us = [0, 1_000, 30_000, 200_000, 1_500_000][self.dice.below(5) as usize];
            self.cluster.run(for_us);
        }
    }

    fn stop_faults(&mut self) {
        self.cluster.heal();
        self.cluster.fate = None;
        let ids: Vec<u64> = self.cluster.members.keys().copied().collect();
        for id in ids {
            let member = self.cluster.members.get_mut(&id).unwrap();
            member.disk_held = false;
            member.disk_us = 0;
            if self.cluster.runs(id) {
                self.cluster.sync(id);
                self.cluster.replica(id).set_timing(Timing::default()).unwrap();
            } else {
                self.cluster.start(id);
            }
        }
    }

    /// A command proposed after the faults is applied by everyone in the configuration.
    fn recovers(&mut self) -> bool {
        let mut proposed_us = 0;
        self.cluster.run_until(RECOVERY_US, |_| false);
        let mark = format!("mark{}", self.next);
        for _ in 0..100 {
            if let Some(leader) = self.cluster.leader()
                && self.cluster.now_us >= proposed_us
                && self.cluster.propose(leader, &mark).is_ok()
            {
                self.cluster.pump(leader);
                proposed_us = self.cluster.now_us + 5_000_000;
            }
            self.cluster.run(200_000);
            if self
                .in_force()
                .iter()
                .all(|id| self.cluster.members[id].state.commands.contains(&mark))
            {
                return true;
            }
        }
        false
    }

    /// Members of the configuration, as the leader has it.
    fn in_force(&mut self) -> Vec<u64> {
        let Some(leader) = self.cluster.leader() else { return self.voters.clone() };
        let conf = self.cluster.replica(leader).status().conf_state;
        let known = |id: &u64| self.cluster.members.contains_key(id);
        conf.voters.iter().chain(&conf.learners).copied().filter(known).collect()
    }
}

/// Names the seed of a run that failed.
struct Seed(u64);

impl Drop for Seed {
    #[allow(clippy::print_stderr, reason = "tells how to run the failure again")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with SEED={}", self.0);
        }
    }
}

/// `SEED=n` runs that one, `SEEDS=n` so many.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(default),
    }
}

/// A fault or event that never happens is not tested.
fn count(total: &mut BTreeMap<&'static str, u64>, run: &Run) {
    for (what, times) in &run.cluster.reached {
        *total.entry(what).or_default() += times;
    }
}

fn assert_reached(total: &BTreeMap<&'static str, u64>, least: &[(&'static str, u64)]) {
    if std::env::var_os("SEED").is_some() || std::env::var_os("SEEDS").is_some() {
        // What happens often enough is known for the default number only.
        return;
    }
    for (what, least) in least {
        let times = total.get(what).copied().unwrap_or(0);
        assert!(times >= *least, "{what}: {times} times, of all: {total:?}");
    }
}

#[test]
fn agreement_survives_every_fault_and_the_cluster_recovers() {
    let mut total = BTreeMap::new();
    for seed in seeds(200) {
        let _seed = Seed(seed);
        let mut run = Run::new(seed, false);
        run.faults(150);
        run.stop_faults();
        assert!(run.recovers(), "no recovery");
        let committed = run.cluster.committed_commands();
        for (id, member) in &run.cluster.members {
            assert_eq!(member.state.commands, committed, "member {id}");
        }
        assert_eq!(run.cluster.reads_waiting(), 0, "reads neither answered nor failed");
        count(&mut total, &run);
    }
    let least = [
        ("leader elected", 500),
        ("entry committed", 3_000),
        ("snapshot restored", 25),
        ("read answered", 1_000),
        ("read failed", 100),
        ("command given back", 3),
        ("durable index heard", 200),
        ("committed ahead of the leader", 50),
    ];
    assert_reached(&total, &least);
}

#[test]
fn agreement_survives_changes_of_the_membership() {
    let mut total = BTreeMap::new();
    for seed in seeds(200) {
        let _seed = Seed(seed);
        let mut run = Run::new(seed, true);
        run.faults(150);
        run.stop_faults();
        // Changes may have left voters that do not exist; only agreement is asked for.
        run.cluster.run(10_000_000);
        let committed = run.cluster.committed_commands();
        for (id, member) in &run.cluster.members {
            let prefix = &committed[..member.state.commands.len().min(committed.len())];
            assert_eq!(&member.state.commands[..], prefix, "member {id}");
        }
        count(&mut total, &run);
    }
    assert_reached(&total, &[("membership changed", 200)]);
}
