//! One cell: a system with one timing in one network, watched, loaded, and robbed of its leaders.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use autotune::{Params, Timing};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::column::{Column, System, Way};
use super::plan::{self, Seen};
use super::probe::{self, Answer, Prober};
use super::record::{Kind, Load, Loss, Machine, Record, Wanted, Watch, quantile};
use crate::measure::{RoundTrips, round_trips};
use crate::network::{Network, Place};
use crate::preset::{Preset, Trouble};
use crate::servers::{READY_TIMEOUT, Servers, Setup};

/// Members of every cell.
pub(super) const MEMBERS: usize = 3;
/// Longest wait for a cluster to agree on a leader, and for writes after a loss.
pub(super) const RECOVER_MAX: Duration = Duration::from_secs(60);
/// The same where the timing may be one that keeps no leader: that is a result, and known soon.
const UNSTEADY_MAX: Duration = Duration::from_secs(30);
/// A cluster agrees when it has for so long.
const SETTLED: Duration = Duration::from_millis(200);
/// How often what is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Packets of members that have nothing to do are counted for so long.
pub(super) const IDLE: Duration = Duration::from_secs(3);
/// After the last write members are idle.
const REST: Duration = Duration::from_secs(1);
/// Answers from the new leader that make writes acknowledged again.
const ANSWERS_AGAIN: usize = 20;
/// Answers are looked at from so long before a loss: the gap begins with the last one.
const BEFORE: Duration = Duration::from_secs(1);
/// Between the moment a loss could happen and the moment it does, at most: it must not keep step with
/// heartbeats.
pub(super) const APART_MS_MAX: u64 = 400;
/// Until members are asked often.
const MARKED: Duration = Duration::from_millis(120);
/// Puts on their way under load, for how long, and before that until windows have their size.
const LOAD_ON_WAY: usize = 4_000;
pub(super) const LOAD: Duration = Duration::from_secs(6);
pub(super) const LOAD_WARM: Duration = Duration::from_secs(4);
/// Round trips measured before there are servers.
const TRIPS: usize = 40;
/// Troubles come so often.
const TROUBLE_EVERY: Duration = Duration::from_secs(2);
/// How long leaders and disks stall.
const STALL_MS: (u64, u64) = (50, 400);
const FREEZE_MS: (u64, u64) = (100, 800);
/// A leader is lost so long after a step.
pub(super) const AFTER_STEP: Duration = Duration::from_secs(10);
/// After the last step the network is watched for so long.
pub(super) const AFTER_STEPS: Duration = Duration::from_secs(20);
/// Whose round trip is so long is far.
pub(super) const FAR: Duration = Duration::from_millis(10);
/// In that time members forget how near they were while they were filled (`core/consensus/src/durable.rs`).
pub(super) const FORGOTTEN: Duration = Duration::from_secs(20);
/// Of a round trip: so often members are written to where leaders are lost.
const ROUND_TRIP_PARTS: u32 = 8;
const PUT_EVERY_FAR_MAX: Duration = Duration::from_millis(20);
/// What members have seen is asked for so often.
const SEEN_EVERY: Duration = Duration::from_secs(10);

/// What cells are measured with.
#[derive(Clone)]
pub(super) struct Bench<'a> {
    pub(super) etcd: PathBuf,
    pub(super) metastore: PathBuf,
    /// Keys in the store; none: the preset's.
    pub(super) keys: Option<u64>,
    pub(super) wanted: Wanted,
    /// Members measure until the planner has all it asks for, at most so long.
    pub(super) see_max: Duration,
    /// Steps of the network, and what follows them, last no longer.
    pub(super) step_max: Duration,
    /// What is said begins with this.
    pub(super) name: String,
    /// What asks to stop.
    pub(super) asked: &'a AtomicBool,
}

impl Bench<'_> {
    pub(super) fn program(&self, system: System) -> &Path {
        match system {
            System::Etcd => &self.etcd,
            System::MetaStore => &self.metastore,
        }
    }

    /// How many keys, and bytes of a value.
    pub(super) fn store(&self, preset: &Preset) -> (u64, usize) {
        (self.keys.unwrap_or(preset.store.0), preset.store.1)
    }

    fn say(&self, line: &str) {
        super::say(&format!("{}: {line}", self.name));
    }

    /// Fails once a signal has asked to stop.
    pub(super) fn check(&self) -> Result<()> {
        if self.asked.load(Ordering::Relaxed) {
            bail!("stopped by a signal");
        }
        Ok(())
    }

    fn pause(&self, lasts: Duration) -> Result<()> {
        let until = Instant::now() + lasts;
        loop {
            self.check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK_EVERY));
        }
    }

    /// Round trips of the two members farthest apart.
    pub(super) fn trips(&self, preset: &Preset) -> Result<RoundTrips> {
        let network = Network::create(MEMBERS, 1)?;
        preset.apply(&network)?;
        let mut farthest = RoundTrips::default();
        for (from, to) in [(0, 1), (0, 2), (1, 2)] {
            self.check()?;
            let (from, to) = (Place::Member(from), Place::Member(to));
            let trips = round_trips(&network, from, to, TRIPS, Duration::from_millis(1))?;
            if trips.quantile(0.5) > farthest.quantile(0.5) {
                farthest = trips;
            }
        }
        Ok(farthest)
    }

    /// Lets members measure each other, a few writes going through them, until the planner has all it
    /// asks for.
    pub(super) fn see(&self, preset: &Preset, machine: Machine, beside: usize) -> Result<Seen> {
        let column = Column::named("static")?;
        let timing = autotune::planner::columns::ETCD;
        let small = Bench { keys: Some(0), ..self.clone() };
        let mut cell = Cell::start(&small, preset, column, timing, None, 1)?;
        cell.prober.pace(probe::PUT_EVERY_LIGHT);
        let began = Instant::now();
        let mut due = SEEN_EVERY.min(self.see_max);
        loop {
            cell.trouble()?;
            let left = due.saturating_sub(began.elapsed());
            self.pause(left.min(TROUBLE_EVERY))?;
            if began.elapsed() < due {
                continue;
            }
            let is_last = began.elapsed() >= self.see_max;
            due += SEEN_EVERY;
            match plan::ask(&cell.servers.endpoints()) {
                Ok(asked) if asked.evidence.gaps_measured || is_last => {
                    return Ok(Seen {
                        preset: preset.name.to_owned(),
                        machine,
                        seconds: began.elapsed().as_secs_f64(),
                        beside,
                        gaps: asked.gaps,
                        evidence: asked.evidence,
                    });
                }
                // A member that stands still does not answer just now.
                Ok(_) => {}
                Err(error) if is_last => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Measures what a record lacks, and saves it after everything new.
    pub(super) fn measure(
        &self,
        preset: &Preset,
        column: &Column,
        (timing, plan): (Timing, Option<&(Params, String)>),
        record: &mut Record,
        save: &dyn Fn(&Record) -> Result<()>,
    ) -> Result<()> {
        let measured = self.measure_with(preset, column, (timing, plan), record, save);
        let Err(error) = measured else { return Ok(()) };
        self.check()?;
        // With a timing nobody vouches for it is a result.
        if column.is_unsteady() {
            record.keeps_no_leader = true;
            record.missing = Some(format!("{error:#}"));
            save(record)?;
            self.say(&format!("keeps no leader: {error:#}"));
            return Ok(());
        }
        Err(error)
    }

    fn measure_with(
        &self,
        preset: &Preset,
        column: &Column,
        (timing, plan): (Timing, Option<&(Params, String)>),
        record: &mut Record,
        save: &dyn Fn(&Record) -> Result<()>,
    ) -> Result<()> {
        let ms = |us: u64| us / 1_000;
        let in_force = plan.map_or(timing, |(params, _)| params.timing);
        (record.heartbeat_ms, record.election_ms) =
            (ms(in_force.heartbeat_interval_us), ms(in_force.election_timeout_us));
        record.binding = plan.map(|(_, binding)| binding.clone());
        let seed = record.losses.len() as u64 + 1;
        let mut cell = Cell::start(self, preset, column, timing, plan, seed)?;
        if record.idle_packets_per_s.is_none() && !self.wanted.is_light {
            record.idle_packets_per_s = Some(cell.idle()?);
        }
        let watched = record.watch.as_ref().map_or(0.0, |watch| watch.seconds.ceil());
        if watched < self.wanted.watch.as_secs_f64() {
            record.watch = Some(cell.watch(column.system)?);
            save(record)?;
        }
        if self.wanted.load && record.load.is_none() {
            record.load = Some(cell.load()?);
            save(record)?;
        }
        for (kind, wanted) in self.wanted.losses.iter().copied() {
            while record.count(kind) < wanted {
                let number = record.count(kind) + 1;
                let loss = cell.lose(kind)?;
                self.say(&format!(
                    "{} {number} of {wanted}: noticed after {}, {:.0} ms without writes{}",
                    kind.name(),
                    loss.detection_ms.map_or("–".to_owned(), |ms| format!("{ms:.0} ms")),
                    loss.gap_ms,
                    if loss.recovered { "" } else { ", and no longer waited for" }
                ));
                record.losses.push(loss);
                save(record)?;
            }
        }
        Ok(())
    }
}

struct Cell<'a> {
    bench: &'a Bench<'a>,
    preset: &'a Preset,
    servers: Servers,
    /// Since when members are as far from each other as the network says.
    far_since: Instant,
    prober: Prober,
    random: SmallRng,
    /// Longest wait for an agreement.
    settle_max: Duration,
}

/// A cluster of one mind: who leads, its id, the term.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Agreed {
    member: usize,
    id: u64,
    term: u64,
}

impl<'a> Cell<'a> {
    fn start(
        bench: &'a Bench<'a>,
        preset: &'a Preset,
        column: &Column,
        timing: Timing,
        plan: Option<&(Params, String)>,
        seed: u64,
    ) -> Result<Self> {
        let (heartbeat_ms, election_ms) =
            (timing.heartbeat_interval_us / 1_000, timing.election_timeout_us / 1_000);
        let own_disks = matches!(preset.trouble, Trouble::DiskOfOne | Trouble::DiskOfAll);
        let unsteady = |or: Duration| if column.is_unsteady() { UNSTEADY_MAX } else { or };
        let setup = Setup {
            program: bench.program(column.system).to_path_buf(),
            flags: vec![
                format!("--heartbeat-interval={heartbeat_ms}"),
                format!("--election-timeout={election_ms}"),
                "--quota-backend-bytes=8589934592".to_owned(),
            ],
            own_disks,
            ready_timeout: unsteady(READY_TIMEOUT),
        };
        let servers = Servers::start(Network::create(MEMBERS, seed)?, setup, &super::folder())?;
        let clients: Vec<_> = (0..MEMBERS).map(|member| servers.client(member)).collect();
        probe::fill(&clients, bench.store(preset)).context("filling the store")?;
        preset.apply(servers.network())?;
        let far_since = Instant::now();
        let prober = Prober::start(clients)?;
        let random = SmallRng::seed_from_u64(seed);
        let settle_max = unsteady(RECOVER_MAX);
        let mut cell = Cell { bench, preset, servers, far_since, prober, random, settle_max };
        let _leader = cell.settle()?;
        if let (Way::Plan(_), Some((params, binding))) = (column.way, plan) {
            plan::apply(&cell.servers.endpoints(), *params, binding)?;
        }
        let _leader = cell.ready()?;
        Ok(cell)
    }

    /// Packets a second between members that nobody writes to.
    fn idle(&mut self) -> Result<f64> {
        self.prober.rest(true);
        self.bench.pause(REST)?;
        let before = packets(self.servers.network())?;
        self.bench.pause(IDLE)?;
        let packets = packets(self.servers.network())? - before;
        self.prober.rest(false);
        Ok(packets as f64 / IDLE.as_secs_f64())
    }

    /// Waits until all members agree on a leader and each has acknowledged a write that was asked of it
    /// since: then it has what the others have, and none is still catching up.
    fn ready(&mut self) -> Result<Agreed> {
        let deadline = Instant::now() + self.settle_max;
        let mut agreed = self.settle()?;
        let mut since_us = self.prober.now_us();
        while Instant::now() < deadline {
            self.bench.check()?;
            self.prober.check()?;
            if self.agreed(None).is_none_or(|now| now != agreed) {
                agreed = self.settle()?;
                since_us = self.prober.now_us();
            }
            let answers = self.answers(since_us);
            let asked_since = answers.iter().filter(|it| it.at_us - it.took_us >= since_us);
            let have: std::collections::BTreeSet<usize> = asked_since.map(|it| it.member).collect();
            if have.len() == MEMBERS {
                return Ok(agreed);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        bail!("not every member acknowledges writes within {} s", self.settle_max.as_secs())
    }

    /// Waits until all members agree on a leader.
    fn settle(&mut self) -> Result<Agreed> {
        let deadline = Instant::now() + self.settle_max;
        let mut since: Option<(Agreed, Instant)> = None;
        while Instant::now() < deadline {
            self.bench.check()?;
            self.prober.check()?;
            match (self.agreed(None), since) {
                (Some(now), Some((before, at))) if now == before => {
                    if at.elapsed() >= SETTLED {
                        return Ok(now);
                    }
                }
                (Some(now), _) => since = Some((now, Instant::now())),
                (None, _) => since = None,
            }
            std::thread::sleep(LOOK_EVERY);
        }
        bail!("no leader that all members agree on within {} s", self.settle_max.as_secs())
    }

    /// Whom all members follow, or all but one; none: they do not agree, or have not said so lately.
    fn agreed(&self, but: Option<usize>) -> Option<Agreed> {
        const LATELY_US: u64 = 1_500_000;
        let said = self.prober.said();
        let now_us = self.prober.now_us();
        let mut asked = (0..MEMBERS).filter(|member| Some(*member) != but);
        let first = *said.get(&asked.next()?)?;
        let is_same = |member: usize| {
            said.get(&member).is_some_and(|it| {
                (it.leader, it.term) == (first.leader, first.term)
                    && now_us.saturating_sub(it.at_us) < LATELY_US
            })
        };
        let is_agreed = first.leader != 0
            && now_us.saturating_sub(first.at_us) < LATELY_US
            && asked.all(is_same);
        let (member, _) = said.iter().find(|(_, it)| it.id == first.leader)?;
        let agreed = Agreed { member: *member, id: first.leader, term: first.term };
        is_agreed.then_some(agreed)
    }

    fn answers(&self, from_us: u64) -> Vec<Answer> {
        self.prober.answers(from_us, self.prober.now_us())
    }

    /// Nobody is killed; but leaders may stall, disks freeze and distances change.
    fn watch(&mut self, system: System) -> Result<Watch> {
        let put_every =
            if self.bench.wanted.is_light { probe::PUT_EVERY_LIGHT } else { probe::PUT_EVERY };
        self.prober.pace(put_every);
        if !self.bench.wanted.is_light {
            self.forget_nearness()?;
        }
        let before = self.settle()?;
        let asked_before = self.pre_campaigns(system);
        let (began, from_us) = (Instant::now(), self.prober.now_us());
        let cpu = self.servers.cpu()?;
        let lasts = self.bench.wanted.watch;
        if self.preset.steps.is_empty() {
            while began.elapsed() < lasts {
                self.trouble()?;
                let left = lasts.saturating_sub(began.elapsed());
                self.bench.pause(left.min(TROUBLE_EVERY))?;
            }
        } else {
            // As often as they fit, once at least.
            loop {
                let round = Instant::now();
                for (number, (after, _)) in self.preset.steps.iter().enumerate() {
                    self.bench.pause((*after).min(self.bench.step_max))?;
                    self.preset.step(self.servers.network(), number)?;
                }
                self.bench.pause(AFTER_STEPS.min(self.bench.step_max))?;
                self.preset.apply(self.servers.network())?;
                if began.elapsed() + round.elapsed() > lasts {
                    break;
                }
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let cpu = (self.servers.cpu()? - cpu).as_secs_f64() / seconds;
        let until_us = self.prober.now_us();
        let answers = self.prober.answers(from_us, until_us);
        // A cluster that lost its leader for good is a result, too.
        let term = self.prober.said().values().map(|said| said.term).max().unwrap_or_default();
        let mut took: Vec<f64> = answers.iter().map(|it| it.took_us as f64 / 1e3).collect();
        took.sort_by(f64::total_cmp);
        Ok(Watch {
            seconds,
            false_elections: term.saturating_sub(before.term),
            gap_ms: longest_gap_ms(&answers, from_us, until_us),
            p50_ms: quantile(&took, 0.5).unwrap_or_default(),
            p99_ms: quantile(&took, 0.99).unwrap_or_default(),
            ops_per_s: answers.len() as f64 / seconds,
            cpu,
            put_every_ms: u64::try_from(put_every.as_millis()).unwrap_or_default(),
            pre_campaigns: asked_before
                .zip(self.pre_campaigns(system))
                .map(|(before, after)| after.saturating_sub(before)),
        })
    }

    /// Waits until far members do not go by how near they were while they were filled.
    fn forget_nearness(&self) -> Result<()> {
        let wait = if self.preset.rtt() >= FAR { FORGOTTEN } else { Duration::ZERO };
        self.bench.pause(wait.saturating_sub(self.far_since.elapsed()))
    }

    /// How often members have asked whether they would win; etcd does not tell.
    fn pre_campaigns(&self, system: System) -> Option<u64> {
        let asked = (system == System::MetaStore).then(|| plan::ask(&self.servers.endpoints()));
        asked.and_then(Result::ok).map(|asked| asked.pre_campaigns)
    }

    fn trouble(&mut self) -> Result<()> {
        let mut between = |(least, most): (u64, u64)| {
            Duration::from_millis(self.random.random_range(least..=most))
        };
        match self.preset.trouble {
            Trouble::Nothing => Ok(()),
            Trouble::LeaderStalls => {
                let lasts = between(STALL_MS);
                let Some(leader) = self.agreed(None) else { return Ok(()) };
                self.servers.stall(leader.member, lasts)
            }
            Trouble::DiskOfOne => {
                let lasts = between(FREEZE_MS);
                let member = self.random.random_range(0..MEMBERS);
                self.servers.freeze(&[member], lasts)
            }
            Trouble::DiskOfAll => {
                let lasts = between(FREEZE_MS);
                self.servers.freeze(&[0, 1, 2], lasts)
            }
        }
    }

    fn load(&mut self) -> Result<Load> {
        self.forget_nearness()?;
        let _leader = self.settle()?;
        let clients: Vec<_> = (0..MEMBERS).map(|member| self.servers.client(member)).collect();
        self.prober.rest(true);
        let loaded = probe::load(&clients, LOAD_ON_WAY, LOAD_WARM, LOAD);
        self.prober.rest(false);
        let mut took: Vec<f64> = loaded?.into_iter().map(|us| us as f64 / 1e3).collect();
        took.sort_by(f64::total_cmp);
        Ok(Load {
            on_way: LOAD_ON_WAY,
            ops_per_s: took.len() as f64 / LOAD.as_secs_f64(),
            p50_ms: quantile(&took, 0.5).unwrap_or_default(),
            p99_ms: quantile(&took, 0.99).unwrap_or_default(),
        })
    }

    /// Takes the leader away, waits for writes, and brings the member back.
    fn lose(&mut self, kind: Kind) -> Result<Loss> {
        self.prober.pace(put_every_of_losses(self.preset));
        let mut leader = self.ready()?;
        if !self.preset.steps.is_empty() {
            // Near at first, then far, and only then lost; if it led no longer, whoever leads by now.
            self.preset.step(self.servers.network(), 0)?;
            self.bench.pause(AFTER_STEP.min(self.bench.step_max))?;
            leader = self.agreed(None).unwrap_or(leader);
        }
        self.bench.pause(Duration::from_millis(self.random.random_range(0..APART_MS_MAX)))?;
        self.prober.mark(leader.id);
        self.bench.pause(MARKED)?;
        let at_us = self.prober.now_us();
        let mut is_taken = true;
        match kind {
            Kind::Crash => self.servers.signal_kill(leader.member)?,
            Kind::Host => {
                self.servers.network().isolate(leader.member, true)?;
                self.servers.signal_kill(leader.member)?;
            }
            Kind::Restart => self.servers.signal_end(leader.member)?,
            Kind::Move => {
                let said = self.prober.said();
                let to = said.iter().find(|(member, _)| **member != leader.member);
                let (_, to) = to.context("nobody to hand over to")?;
                is_taken = probe::move_leader(self.servers.client(leader.member), to.id)?;
            }
        }
        let recovered = is_taken && self.wait_writes(leader)?;
        let until_us = self.prober.now_us();
        let answers = self.prober.answers(at_us.saturating_sub(microseconds(BEFORE)), until_us);
        let gap_ms = longest_gap_ms(&answers, at_us, until_us);
        let left_us = self.prober.unmark();
        // Gone, and back as it was.
        match kind {
            Kind::Crash | Kind::Host => self.servers.kill(leader.member)?,
            Kind::Restart => self.servers.wait_end(leader.member)?,
            Kind::Move => {}
        }
        if kind == Kind::Host {
            self.servers.network().isolate(leader.member, false)?;
        }
        if !self.preset.steps.is_empty() {
            self.preset.apply(self.servers.network())?;
        }
        if kind != Kind::Move {
            self.servers.restart(leader.member)?;
            self.servers.wait_healthy(leader.member)?;
        }
        // Only now: etcd says its term as of what it has applied.
        let after = self.settle()?;
        Ok(Loss {
            kind,
            detection_ms: left_us.map(|left| left.saturating_sub(at_us) as f64 / 1e3),
            gap_ms,
            recovered,
            terms: after.term.saturating_sub(leader.term),
        })
    }

    /// Until the survivors follow another and acknowledge writes.
    fn wait_writes(&self, lost: Agreed) -> Result<bool> {
        let deadline = Instant::now() + RECOVER_MAX;
        let mut since_us = None;
        while Instant::now() < deadline {
            self.bench.check()?;
            self.prober.check()?;
            match self.agreed(Some(lost.member)).filter(|agreed| agreed.id != lost.id) {
                Some(_) => {
                    let since_us = *since_us.get_or_insert_with(|| self.prober.now_us());
                    if self.answers(since_us).len() >= ANSWERS_AGAIN {
                        return Ok(true);
                    }
                }
                None => since_us = None,
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(false)
    }
}

/// Far members take long to notice anything, and are written to less often: more clusters fit.
fn put_every_of_losses(preset: &Preset) -> Duration {
    (preset.rtt_of_losses() / ROUND_TRIP_PARTS).clamp(probe::PUT_EVERY, PUT_EVERY_FAR_MAX)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Packets between members so far.
fn packets(network: &Network) -> Result<u64> {
    let all = network.directions()?;
    let between = all.iter().filter(|(from, to, _)| *from != Place::Host && *to != Place::Host);
    Ok(between.map(|(_, _, it)| it.counters.packets).sum())
}

/// Longest time without an answer, until the end of the time looked at.
fn longest_gap_ms(answers: &[Answer], from_us: u64, until_us: u64) -> f64 {
    let mut last_us = answers.first().map_or(from_us, |first| first.at_us.min(from_us));
    let mut longest_us = 0;
    for at_us in answers.iter().map(|answer| answer.at_us).chain([until_us]) {
        longest_us = longest_us.max(at_us.saturating_sub(last_us));
        last_us = at_us;
    }
    longest_us as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_members_are_written_to_less_often_when_leaders_are_lost() {
        let every =
            |name| put_every_of_losses(Preset::named(name).unwrap()).as_micros() as f64 / 1e3;
        assert_eq!(["same-zone", "cross-zone", "metro", "mixed"].map(every), [5.0; 4]);
        assert_eq!(["cross-region", "step-80"].map(every), [10.0; 2]);
        assert_eq!(["far-loss", "step-400", "step-1500"].map(every), [20.0; 3]);
    }

    #[test]
    fn the_longest_gap_may_be_at_either_end() {
        let answers = |at: &[u64]| -> Vec<Answer> {
            at.iter().map(|at_us| Answer { at_us: *at_us * 1_000, took_us: 1, member: 0 }).collect()
        };
        let gap = |at: &[u64], from: u64, until: u64| {
            longest_gap_ms(&answers(at), from * 1_000, until * 1_000)
        };
        assert_eq!(gap(&[5, 10, 90, 95], 0, 100), 80.0);
        assert_eq!(gap(&[40, 45], 0, 50), 40.0);
        assert_eq!(gap(&[5, 10], 0, 100), 90.0);
        assert_eq!(gap(&[], 0, 100), 100.0);
        // An answer before the loss begins the gap.
        assert_eq!(gap(&[5, 50], 7, 52), 45.0);
    }
}
