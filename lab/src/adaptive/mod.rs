//! The experiments of `docs/adaptive.md`: leader losses in many networks, MetaStore beside an etcd that
//! knows nothing of it.
//!
//! A cell is a network ([`crate::preset`]) and a column: a system with a timing. Two kinds of loss: the
//! process is killed and its host refuses connections, or the host is cut off first and nothing
//! answers. What counts is the longest time in which no prober on any member had a write acknowledged;
//! nothing is dropped. Each cell keeps its figures in a file of its own, written after everything that
//! is new, and the document is written from the files that are there.

mod cell;
mod column;
mod constants;
mod estimate;
mod flags;
mod goals;
mod oracle;
mod plan;
mod plot;
mod probe;
mod record;
mod render;
mod smoke;

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use autotune::{Params, Timing};

use crate::measure::RoundTrips;
use crate::preset::Preset;
use cell::Bench;
use column::{COLUMNS, Column, Way};
use flags::{Flags, HELP, Named, cells};
use plan::Seen;
use record::{Machine, Record};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder of the workspace").to_path_buf()
}

/// Where servers keep their files; on the disk the repository is on, since a directory for temporary
/// files may be memory.
pub fn folder() -> PathBuf {
    root().join("target/lab")
}

/// `cargo xtask adaptive`.
pub fn run(arguments: &[String], asked: &AtomicBool) -> Result<()> {
    let Some(flags) = Flags::parse(arguments)? else {
        let mut out = std::io::stdout();
        out.write_all(HELP.as_bytes())?;
        for Column { name, title, .. } in &COLUMNS {
            writeln!(out, "  {name:<20} {title}")?;
        }
        return Ok(());
    };
    record::take_over(&flags.out.with_extension("json"), &record::folder())?;
    if flags.render_only {
        return write_document(&flags);
    }
    if flags.plans_only {
        return Ok(std::io::stdout().write_all(lacking(&flags)?.as_bytes())?);
    }
    crate::network::check()?;
    for program in [&flags.etcd, &flags.metastore] {
        if !program.is_file() {
            bail!("{}: not there", program.display());
        }
    }
    for lab in crate::network::clean()? {
        crate::servers::clean(&folder().join(lab.to_string()))?;
    }
    if flags.is_smoke {
        return smoke::run(&flags, asked);
    }
    if !flags.see_only {
        say(lacking(&flags)?.trim_end());
    }
    let mut failed = see(&flags, asked)?;
    if flags.see_only {
        return match &failed[..] {
            [] => Ok(()),
            failed => bail!("not seen: {}", failed.join(", ")),
        };
    }
    let trips = Trips::default();
    failed.extend(beside_each_other(flags.side_by_side, &flags.cells, asked, |cell, number| {
        let (preset, column) = *cell;
        let name = format!("{}/{}", preset.name, column.name);
        let wanted = flags.wanted(preset, column);
        let bench = Bench { wanted, name: name.clone(), ..bench(&flags, asked) };
        if let Err(error) = measure(&flags, &bench, cell, &trips, number) {
            say(&format!("{name}: {error:#}"));
            return Some(name);
        }
        None
    }));
    write_document(&flags)?;
    if asked.load(std::sync::atomic::Ordering::Relaxed) {
        bail!("stopped by a signal");
    }
    match &failed[..] {
        [] => Ok(()),
        failed => bail!("not measured to the end: {}", failed.join(", ")),
    }
}

/// What the cells lack, and how long that takes.
fn lacking(flags: &Flags) -> Result<String> {
    let mut all = Vec::new();
    for (preset, column) in flags.cells.iter().copied() {
        let record = if flags.is_resumed { Record::load(preset.name, column.name)? } else { None };
        let wanted = flags.wanted(preset, column);
        if let Some((what, lasts)) = estimate::cell((preset, column), &wanted, record.as_ref()) {
            all.push(((preset, column), what, lasts));
        }
    }
    Ok(estimate::table(flags, &all, unseen(flags)?.len()))
}

/// Networks of which the planner lacks what it asks for, among those with a cell that needs it.
fn unseen(flags: &Flags) -> Result<Vec<&'static Preset>> {
    let mut unseen: Vec<&Preset> = Vec::new();
    for (preset, column) in flags.cells.iter().copied() {
        if !matches!(column.way, Way::Plan(_)) || unseen.contains(&preset.seen_in()) {
            continue;
        }
        let wanted = flags.wanted(preset, column);
        let record = Record::load(preset.name, column.name)?;
        let is_whole = !flags.see_only && record.is_some_and(|record| record.is_whole(&wanted));
        let is_kept = flags.is_resumed && (is_whole || Seen::of(preset)?.is_some());
        if !is_kept {
            unseen.push(preset.seen_in());
        }
    }
    Ok(unseen)
}

/// Members that only measure each other cost little: so many clusters do at least, whatever stands side by
/// side otherwise.
const SEEING_MIN: usize = 6;

fn bench<'a>(flags: &Flags, asked: &'a AtomicBool) -> Bench<'a> {
    Bench {
        etcd: flags.etcd.clone(),
        metastore: flags.metastore.clone(),
        keys: flags.keys,
        wanted: record::Wanted::default(),
        see_max: flags.see_max,
        step_max: Duration::MAX,
        name: String::new(),
        asked,
    }
}

/// Does something with all of them, so many at a time, in their order; what that gave. The number is that
/// of the thread. No more are begun once a signal has asked to stop.
fn beside_each_other<T: Sync, R: Send>(
    side_by_side: usize,
    all: &[T],
    asked: &AtomicBool,
    work: impl Fn(&T, usize) -> Option<R> + Sync,
) -> Vec<R> {
    let left: Mutex<VecDeque<&T>> = Mutex::new(all.iter().collect());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..side_by_side.min(all.len()) {
            let (left, done, work) = (&left, &done, &work);
            scope.spawn(move || {
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(next) = next else { return };
                    if asked.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    let result = work(next, number);
                    done.lock().unwrap_or_else(PoisonError::into_inner).extend(result);
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Lets members measure each other in every network whose plans need it; those where that failed.
fn see(flags: &Flags, asked: &AtomicBool) -> Result<Vec<String>> {
    let unseen = unseen(flags)?;
    let beside = flags.side_by_side.max(SEEING_MIN).min(unseen.len());
    Ok(beside_each_other(beside, &unseen, asked, |preset, _| {
        let name = format!("{}, seen", preset.name);
        say(&format!("{name}: at most {:.0} s", flags.see_max.as_secs_f64()));
        let bench = Bench { name: name.clone(), ..bench(flags, asked) };
        let seen = bench.see(preset, machine(), beside).and_then(|seen| {
            seen.save()?;
            Ok(seen)
        });
        match seen {
            Ok(seen) => {
                say(&format!("{name}: {} gaps in {:.0} s", seen.gaps, seen.seconds));
                None
            }
            Err(error) => {
                say(&format!("{name}: {error:#}"));
                Some(name)
            }
        }
    }))
}

/// Round trips of networks, measured once.
#[derive(Default)]
struct Trips(Mutex<BTreeMap<&'static str, RoundTrips>>);

impl Trips {
    fn of(&self, bench: &Bench<'_>, preset: &'static Preset) -> Result<RoundTrips> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(preset.name).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let trips = bench.trips(preset)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.entry(preset.name).or_insert(trips).clone())
    }
}

fn measure(
    flags: &Flags,
    bench: &Bench<'_>,
    &(preset, column): &Named,
    trips: &Trips,
    number: usize,
) -> Result<()> {
    let before = if flags.is_resumed { Record::load(preset.name, column.name)? } else { None };
    if before.as_ref().is_some_and(|before| before.is_whole(&bench.wanted)) {
        return Ok(());
    }
    // Those that begin together do not do so at once: their servers' starts are the busiest time.
    std::thread::sleep(Duration::from_secs(number as u64));
    let trips = trips.of(bench, preset)?;
    let fresh = fresh(flags, bench, preset, column, &trips);
    let mut record = before.filter(|before| before.goes_with(&fresh)).unwrap_or(fresh);
    record.missing = None;
    record.side_by_side = record.side_by_side.max(flags.side_by_side);
    let seen = Seen::of(preset)?;
    let plan = plan_of(column, seen.as_ref(), &record)?;
    let (began, spent_s) = (Instant::now(), record.spent_s);
    let timing = match column.way {
        // What a resumed cell began with: round trips are measured anew. A plan is submitted.
        Way::Fixed(_) | Way::Dynatune | Way::Oracle if record.election_ms != 0 => {
            milliseconds(record.heartbeat_ms, record.election_ms)
        }
        Way::Oracle => oracle::find(bench, preset, column, &trips, &mut record)?,
        way => way.timing(preset, &trips).context("a timing that is known")?,
    };
    let save = |record: &Record| {
        let spent_s = spent_s + began.elapsed().as_secs_f64();
        Record { spent_s, ..record.clone() }.save()
    };
    let measured = bench.measure(preset, column, (timing, plan.as_ref()), &mut record, &save);
    if let Err(error) = &measured
        && bench.check().is_ok()
    {
        record.missing = Some(format!("{error:#}"));
        save(&record)?;
    }
    let spent = began.elapsed().as_secs_f64();
    say(&format!("{}: {spent:.0} s", bench.name));
    measured
}

/// What is submitted in a column with a plan: what the planner makes of what members saw, and why. A
/// cell's figures belong together: what it began with is what it goes on with.
fn plan_of(
    column: &Column,
    seen: Option<&Seen>,
    record: &Record,
) -> Result<Option<(Params, String)>> {
    let Way::Plan(policy) = column.way else { return Ok(None) };
    let seen = seen.context("members have not measured this network for the planner")?;
    let target = seen.target(policy);
    let mut params = target.params;
    let mut binding = target.binding.as_str().to_owned();
    if record.election_ms != 0 {
        params.timing = milliseconds(record.heartbeat_ms, record.election_ms);
        binding = record.binding.clone().unwrap_or(binding);
    }
    Ok(Some((params, binding)))
}

fn milliseconds(heartbeat_ms: u64, election_ms: u64) -> Timing {
    Timing { heartbeat_interval_us: heartbeat_ms * 1_000, election_timeout_us: election_ms * 1_000 }
}

fn fresh(
    flags: &Flags,
    bench: &Bench<'_>,
    preset: &Preset,
    column: &Column,
    trips: &RoundTrips,
) -> Record {
    let ms = |part| trips.quantile(part).as_secs_f64() * 1e3;
    Record {
        preset: preset.name.to_owned(),
        column: column.name.to_owned(),
        machine: machine(),
        version: version(bench.program(column.system)),
        keys: bench.store(preset).0,
        side_by_side: flags.side_by_side,
        rtt_ms_p50: ms(0.5),
        rtt_ms_p99: ms(0.99),
        ..Record::default()
    }
}

/// What the server is built from. A commit that changes nothing there leaves figures as they are.
const SERVER: [&str; 4] = ["core", "proto", "server", "Cargo.lock"];

fn machine() -> Machine {
    let words = |program: &str, words: &[&str]| {
        let said = Command::new(program).args(words).current_dir(root()).output();
        said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default()
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Machine {
        date: words("date", &["-u", "+%Y-%m-%d"]),
        cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        kernel: words("uname", &["-r"]),
        commit: words("git", &[&["log", "-1", "--format=%h", "--"][..], &SERVER].concat()),
        load: load.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default(),
    }
}

fn version(program: &Path) -> String {
    let said = Command::new(program).arg("--version").output();
    let text = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().find(|line| line.contains("ersion")).unwrap_or_default().trim().to_owned()
}

fn write_document(flags: &Flags) -> Result<()> {
    let mut records = Vec::new();
    for (preset, column) in cells(&|_, _| true) {
        records.extend(Record::load(preset.name, column.name)?);
    }
    let charts = flags.out.with_extension("");
    std::fs::create_dir_all(&charts).with_context(|| charts.display().to_string())?;
    let name = charts.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut seen = Vec::new();
    for preset in &crate::preset::PRESETS {
        seen.extend(Seen::load(preset.name)?);
    }
    let document = render::document(&records, &seen, &name);
    for (file, text) in document.charts {
        let path = charts.join(file);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    std::fs::write(&flags.out, document.text).with_context(|| flags.out.display().to_string())?;
    let raw = flags.out.with_extension("json");
    let json = serde_json::json!({ "cells": records, "seen": seen }).to_string() + "\n";
    std::fs::write(&raw, json).with_context(|| raw.display().to_string())?;
    say(&format!("{} cells: {}", records.len(), flags.out.display()));
    Ok(())
}

fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_done_once_whatever_stands_side_by_side() {
        for side_by_side in [1, 3, 50] {
            let all: Vec<u32> = (0..20).collect();
            let asked = AtomicBool::new(false);
            let mut done = beside_each_other(side_by_side, &all, &asked, |it, _| Some(*it));
            done.sort_unstable();
            assert_eq!(done, all);
            let asked = AtomicBool::new(true);
            assert!(beside_each_other(side_by_side, &all, &asked, |it, _| Some(*it)).is_empty());
        }
    }
}
