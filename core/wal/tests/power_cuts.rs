//! A writer whose power fails, thousands of times, at any step and in the middle of recovery.
//!
//! The rule that is checked after every cut: the log opens, and what it holds is the log after
//! some batch the writer appended, no earlier than the last one it was told is durable. Equality
//! with such a state excludes lost promises and risen dead alike. The same harness must find each
//! seeded bug, or it would prove nothing.

mod common;

use bytes::Bytes;
use common::{Model, OWNER, Rng, SMALL_SEGMENT_BYTES, entries, hard_state, mark, options};
use wal::mem::MemDisk;
use wal::{Entry, HardState, Log, LogBatch, LogError, LogFaults, LogOptions, SnapshotMark};

/// A disk, the states its log may be in, and what may be gone from the front.
struct Torture {
    rng: Rng,
    disk: MemDisk,
    faults: LogFaults,
    /// The log after each batch since the last promise; the first is the promise.
    candidates: Vec<Model>,
    released: u64,
    cuts: u64,
    rewritten: u64,
    torn: u64,
    rollovers: u64,
    removed: u64,
}

impl Torture {
    fn new(seed: u64, faults: LogFaults) -> Self {
        let mut rng = Rng(seed);
        let mut disk = MemDisk::new();
        disk.faults.stale_blocks = rng.one_in(2);
        let options = LogOptions { faults, ..options(rng.next()) };
        drop(Log::create(&mut disk, OWNER, options).expect("a new disk takes a log"));
        Self {
            rng,
            disk,
            faults,
            candidates: vec![Model::new()],
            released: 0,
            cuts: 0,
            rewritten: 0,
            torn: 0,
            rollovers: 0,
            removed: 0,
        }
    }

    /// Some life, then a crash, then recovery, which may itself be cut.
    fn cycle(&mut self) -> Result<(), String> {
        self.live()?;
        self.crash();
        while self.rng.one_in(4) {
            // The power fails during recovery: that must change nothing that matters.
            self.disk.faults.power_off_after = Some(self.rng.below(12));
            let options = LogOptions { faults: self.faults, ..options(self.rng.next()) };
            match Log::open(&mut self.disk, Some(OWNER), options) {
                Err(LogError::Disk(_)) => {}
                Ok((_, recovered)) => self.accept(&recovered)?,
                Err(error) => return Err(format!("does not open: {error}")),
            }
            self.disk.faults.power_off_after = None;
            self.crash();
        }
        Ok(())
    }

    /// What was recovered must be a state the log may be in; from now on it is a promise.
    fn accept(&mut self, recovered: &wal::Recovered) -> Result<(), String> {
        let found =
            self.candidates.iter().rposition(|model| model.matches(recovered, self.released));
        let Some(position) = found else {
            return Err(format!(
                "recovered {}..={} {:?}, which is none of the {} states from the last promise on",
                recovered.first_index,
                recovered.last_index,
                recovered.hard_state,
                self.candidates.len()
            ));
        };
        self.candidates = vec![self.candidates.swap_remove(position)];
        self.rewritten += recovered.rewritten_entries;
        self.torn += u64::from(recovered.torn_bytes > 0);
        Ok(())
    }

    fn live(&mut self) -> Result<(), String> {
        let options = LogOptions { faults: self.faults, ..options(self.rng.next()) };
        let mut disk = std::mem::take(&mut self.disk);
        let opened = Log::open(&mut disk, Some(OWNER), options);
        let (mut log, recovered) = opened.map_err(|error| format!("does not open: {error}"))?;
        self.accept(&recovered)?;
        if self.rng.one_in(2) {
            log.disk().faults.power_off_after = Some(self.rng.below(60));
        }
        for _ in 0..self.rng.below(30) {
            if self.step(&mut log).is_err() {
                break;
            }
        }
        let stats = log.stats();
        self.rollovers += stats.rollovers;
        drop(log);
        self.disk = disk;
        Ok(())
    }

    fn step(&mut self, log: &mut Log<&mut MemDisk>) -> Result<(), LogError> {
        match self.rng.below(10) {
            0..5 => {
                let batch = self.batch();
                // Before the attempt: even a failed append may have reached the disk.
                let mut next = self.candidates[self.candidates.len() - 1].clone();
                next.apply(&batch);
                self.candidates.push(next);
                log.append(&batch)
            }
            5..8 => {
                log.sync()?;
                self.candidates.drain(..self.candidates.len() - 1);
                Ok(())
            }
            8 => {
                log.mark_synced_when_idle()?;
                log.prepare().map(drop)
            }
            _ => {
                // Only what is promised may be released, and only what is committed is.
                let promised = &self.candidates[0];
                let last = promised.next_index - 1;
                let through = last.saturating_sub(self.rng.below(10));
                let lowest = self.candidates.iter().map(|model| model.next_index - 1).min();
                let through = through.min(lowest.unwrap_or(0));
                self.released = self.released.max(through);
                self.removed += log.release(through)?;
                Ok(())
            }
        }
    }

    /// A random continuation of the log, as a follower might be told to write it.
    fn batch(&mut self) -> LogBatch {
        let model = &self.candidates[self.candidates.len() - 1];
        let rng = &mut self.rng;
        let mut batch = LogBatch::default();
        let term = model.hard_state.map_or(1, |hard_state| hard_state.term) + rng.below(2);
        if rng.one_in(3) {
            let hard_state = HardState { term, vote: rng.below(4), commit: model.next_index - 1 };
            batch.hard_state = Some(hard_state);
        }
        let mut first = model.next_index;
        if rng.one_in(40) {
            let index = first + rng.below(50);
            batch.snapshot = Some(SnapshotMark { index, term });
            first = index + 1;
        } else if rng.one_in(4) {
            // A new leader replaces what is neither released nor behind a mark.
            let behind_mark = model.snapshot.map_or(0, |mark| mark.index);
            let lowest = first.saturating_sub(5).max(self.released + 1).max(behind_mark + 1);
            first = lowest.min(first);
        }
        for index in first..first + rng.below(6) {
            let bytes = match rng.below(20) {
                0 => rng.below(6000),
                1..6 => rng.below(700),
                _ => rng.below(60),
            };
            batch.entries.push(Entry {
                term,
                index,
                kind: rng.below(3) as u8,
                context: Bytes::from(vec![0xc0; rng.below(20) as usize]),
                data: Bytes::from(vec![rng.next() as u8; bytes as usize]),
            });
        }
        batch
    }

    fn crash(&mut self) {
        self.cuts += 1;
        let rng = &mut self.rng;
        match rng.below(8) {
            0 | 1 => self.disk.process_crash(),
            2 => self.disk.power_loss_keep_nothing(),
            3 => self.disk.power_loss_keep_all(),
            _ => self.disk.power_loss(&mut |n| rng.below(n)),
        }
    }
}

#[test]
fn ten_thousand_cuts_lose_no_promise_and_raise_no_dead() {
    let (mut cuts, mut torn, mut rewritten, mut rollovers, mut removed) = (0, 0, 0, 0, 0);
    let mut seed = 0;
    while cuts < 10_000 {
        let mut torture = Torture::new(seed, LogFaults::default());
        for _ in 0..8 {
            torture.cycle().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        cuts += torture.cuts;
        torn += torture.torn;
        rewritten += torture.rewritten;
        rollovers += torture.rollovers;
        removed += torture.removed;
        seed += 1;
    }
    // The run must have been where it hurts.
    println!("{cuts} cuts, {torn} torn tails, {rewritten} rewritten, {rollovers} rollovers");
    assert!(torn > 500 && rewritten > 1000 && rollovers > 500 && removed > 500);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut torture = Torture::new(seed, LogFaults::default());
        for _ in 0..5 {
            torture.cycle().unwrap();
        }
        let files = torture.disk.files();
        let content: Vec<_> = files.iter().map(|path| torture.disk.content(path)).collect();
        (torture.rng.next(), files, content)
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
    }
}

/// How many of 200 runs break the rule.
fn violations(faults: LogFaults) -> usize {
    let broken = |seed: &u64| {
        let mut torture = Torture::new(*seed, faults);
        (0..8).any(|_| torture.cycle().is_err())
    };
    (0..200).filter(broken).count()
}

#[test]
fn a_skipped_data_sync_is_found() {
    assert!(violations(LogFaults { skip_data_sync: true, ..LogFaults::default() }) > 0);
}

#[test]
fn a_skipped_recovery_sync_is_found() {
    assert!(violations(LogFaults { skip_recovery_sync: true, ..LogFaults::default() }) > 0);
}

#[test]
fn a_skipped_directory_sync_is_found() {
    assert!(violations(LogFaults { skip_dir_sync: true, ..LogFaults::default() }) > 0);
}

#[test]
fn a_skipped_sync_at_rollover_is_found() {
    assert!(violations(LogFaults { skip_rollover_sync: true, ..LogFaults::default() }) > 0);
}

#[test]
fn a_disk_that_lies_about_syncs_is_found() {
    let mut found = (0, 0);
    for seed in 0..100 {
        let mut torture = Torture::new(seed, LogFaults::default());
        torture.disk.faults.ignore_sync_data = true;
        found.0 += usize::from((0..8).any(|_| torture.cycle().is_err()));
        let mut torture = Torture::new(seed, LogFaults::default());
        torture.disk.faults.ignore_sync_dir = true;
        found.1 += usize::from((0..8).any(|_| torture.cycle().is_err()));
    }
    assert!(found.0 > 0 && found.1 > 0);
}

/// A short life that goes through every kind of step; returns what was promised before the cut.
fn short_life(disk: &mut MemDisk) -> (Vec<Model>, u64) {
    let mut states = vec![Model::new()];
    let mut released = 0;
    // `Err` is the cut; what was promised before it stands.
    let _ = (|| -> Result<(), LogError> {
        let mut log = match Log::open(&mut *disk, Some(OWNER), options(1)) {
            Err(LogError::NotFound { .. }) => Log::create(&mut *disk, OWNER, options(1))?,
            opened => opened?.0,
        };
        let large = "d".repeat(SMALL_SEGMENT_BYTES as usize / 3);
        let mut add = |log: &mut Log<&mut MemDisk>, batch: &LogBatch, sync: bool| {
            let mut next = states[states.len() - 1].clone();
            next.apply(batch);
            states.push(next);
            log.append(batch)?;
            if sync {
                log.sync()?;
                states.drain(..states.len() - 1);
            }
            Ok::<(), LogError>(())
        };
        let mut first = entries(1, 1, 2);
        first.hard_state = hard_state(1, 1, 0).hard_state;
        add(&mut log, &first, true)?;
        add(&mut log, &entries(1, 3, 5), false)?;
        add(&mut log, &entries(2, 4, 4), true)?;
        log.mark_synced_when_idle()?;
        for index in 5..8 {
            let mut batch = entries(2, index, index);
            batch.entries[0].data = Bytes::from(large.clone());
            add(&mut log, &batch, index % 2 == 0)?;
        }
        log.sync()?;
        released = 4;
        log.release(4)?;
        log.prepare()?;
        add(&mut log, &mark(50, 3), true)?;
        released = 50;
        add(&mut log, &entries(3, 51, 53), true)?;
        log.release(50)?;
        add(&mut log, &hard_state(4, 2, 52), false)?;
        log.sync()
    })();
    (states, released)
}

#[test]
fn a_cut_after_any_step_of_a_short_life_keeps_the_promise() {
    let mut whole = MemDisk::new();
    short_life(&mut whole);
    let steps = whole.changes();
    assert!(steps > 40);
    let mut rng = Rng(5);
    for step in 0..=steps {
        for way in 0..40 {
            let mut disk = MemDisk::new();
            disk.faults.power_off_after = Some(step);
            let (states, released) = short_life(&mut disk);
            match way {
                0 => disk.process_crash(),
                1 => disk.power_loss_keep_nothing(),
                2 => disk.power_loss_keep_all(),
                _ => disk.power_loss(&mut |n| rng.below(n)),
            }
            // Recovery is cut after each of its own steps, too.
            let mut recovered = None;
            for recovery_step in 0..40 {
                let mut image = disk.clone();
                image.faults.power_off_after = Some(recovery_step);
                match Log::open(&mut image, Some(OWNER), options(2)) {
                    Ok((_, found)) => {
                        // Nothing of what recovery returned may need another sync.
                        image.power_loss_keep_nothing();
                        recovered = Some(found);
                        disk = image;
                        break;
                    }
                    Err(LogError::Disk(_)) => {
                        disk = {
                            image.power_loss(&mut |n| rng.below(n));
                            image
                        }
                    }
                    Err(LogError::NotFound { .. }) => break,
                    Err(error) => panic!("step {step} way {way}: {error}"),
                }
            }
            let again = Log::open(&mut disk, Some(OWNER), options(3));
            match (recovered, again) {
                (Some(first), Ok((_, second))) => {
                    let state = states.iter().find(|state| state.matches(&first, released));
                    let state = state.unwrap_or_else(|| panic!("step {step} way {way}: lost"));
                    assert!(state.matches(&second, released), "step {step} way {way}: not durable");
                }
                // The cut was before the log existed.
                (None, Err(LogError::NotFound { .. })) => {
                    assert_eq!(states[0], Model::new());
                    Log::create(&mut disk, OWNER, options(4)).expect("what is left is no log");
                }
                (first, second) => panic!("step {step} way {way}: {first:?}, {:?}", second.err()),
            }
        }
    }
}

#[test]
fn what_a_restart_read_from_the_cache_survives_the_next_power_failure() {
    let mut disk = MemDisk::new();
    let mut log = Log::create(&mut disk, OWNER, options(1)).unwrap();
    log.append(&entries(1, 1, 2)).unwrap();
    log.sync().unwrap();
    log.append(&entries(1, 3, 4)).unwrap();
    drop(log);
    // kill -9: the un-synced batch reads back well.
    disk.process_crash();
    let (_, recovered) = Log::open(&mut disk, Some(OWNER), options(2)).unwrap();
    assert_eq!(recovered.last_index, 4);
    assert_eq!(recovered.rewritten_entries, 2);
    disk.power_loss_keep_nothing();
    let (_, again) = Log::open(&mut disk, Some(OWNER), options(3)).unwrap();
    assert_eq!(again.entries, recovered.entries);
}
