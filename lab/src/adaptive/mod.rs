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
mod plan;
mod plot;
mod probe;
mod record;
mod render;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use autotune::Timing;
use autotune::planner::columns::oracle_grid;

use crate::measure::RoundTrips;
use crate::preset::{PRESETS, Preset, Trouble};
use cell::Bench;
use column::{COLUMNS, Column, Way};
use record::{Kind, Machine, Record, Tried, quantile};

const HELP: &str = "\
cargo xtask adaptive [flags]     needs root, /dev/net/tun, iproute2; etcd from .ci/tools.sh
  --only CELL,...      PRESET, COLUMN or PRESET/COLUMN (default: all, which takes many hours)
  --resume             keep what earlier runs of this commit measured of a cell, measure what it lacks
  --kills N            leaders lost of each kind in each cell (default: 30 for etcd and plans, else 10)
  --loss crash|host    one kind of loss (default: both)
  --watch SECONDS      how long nobody is killed (default 20; where leaders or disks stall 60)
  --keys N             keys in the store before anything else (default 10000)
  --no-load            no 4,000 writes on their way
  --render             measure nothing: write the document from the figures that are there
  --smoke              two losses each in two cells, judged as facts; no figures are kept
  --etcd PATH          etcd (default .cache/bin/etcd)
  --metastore PATH     the server (default target/release/metastore)
  --out PATH           the document; charts go beside it (default docs/adaptive.md)
Figures of each cell: target/adaptive/PRESET.COLUMN.json. Presets: cargo xtask lab help. Columns:
";

/// Most losses of a kind in a cell.
const KILLS_MAX: usize = 1_000;
/// Losses of each constant that the oracle tries, and constants it tries at most.
const TRIED_LOSSES: usize = 5;
const TRIED_MAX: usize = 8;
const WATCH: Duration = Duration::from_secs(20);
const WATCH_TROUBLE: Duration = Duration::from_secs(60);
const WATCH_SMOKE: Duration = Duration::from_secs(2);
/// Members measure for so long before there is a plan: enough for the 99.9th percentile of heartbeats.
const PLAN_AFTER: Duration = Duration::from_secs(45);
const PLAN_AFTER_SMOKE: Duration = Duration::from_secs(8);
const KEYS: u64 = 10_000;
const KEYS_MAX: u64 = 100_000_000;
/// Losses of the smoke's cells.
const SMOKE: [(&str, &str, Kind); 4] = [
    ("same-zone", "etcd", Kind::Crash),
    ("same-zone", "balanced", Kind::Crash),
    ("cross-region", "etcd", Kind::Host),
    ("cross-region", "balanced", Kind::Host),
];
const SMOKE_LOSSES: usize = 2;
const SMOKE_KEYS: u64 = 1_000;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder of the workspace").to_path_buf()
}

/// Where servers keep their files; on the disk the repository is on, since a directory for temporary
/// files may be memory.
pub fn folder() -> PathBuf {
    root().join("target/lab")
}

struct Plan {
    cells: Vec<(&'static Preset, &'static Column)>,
    is_resumed: bool,
    kills: Option<usize>,
    kinds: Vec<Kind>,
    watch: Option<Duration>,
    keys: u64,
    has_load: bool,
    render_only: bool,
    is_smoke: bool,
    etcd: PathBuf,
    metastore: PathBuf,
    out: PathBuf,
}

impl Plan {
    /// `None`: help was asked for.
    fn parse(arguments: &[String]) -> Result<Option<Self>> {
        let root = root();
        let mut plan = Plan {
            cells: cells(&|_, _| true),
            is_resumed: false,
            kills: None,
            kinds: Kind::ALL.to_vec(),
            watch: None,
            keys: KEYS,
            has_load: true,
            render_only: false,
            is_smoke: false,
            etcd: root.join(".cache/bin/etcd"),
            metastore: root.join("target/release/metastore"),
            out: root.join("docs/adaptive.md"),
        };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            let mut value =
                || arguments.next().with_context(|| format!("{flag}: a value is missing"));
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                "--resume" => plan.is_resumed = true,
                "--no-load" => plan.has_load = false,
                "--render" => plan.render_only = true,
                "--smoke" => plan.is_smoke = true,
                "--only" => plan.cells = named(value()?)?,
                "--kills" => {
                    plan.kills = Some(number(flag, value()?, 1, KILLS_MAX as u64)? as usize);
                }
                "--watch" => {
                    let seconds = number(flag, value()?, 1, 86_400)?;
                    plan.watch = Some(Duration::from_secs(seconds));
                }
                "--keys" => plan.keys = number(flag, value()?, 0, KEYS_MAX)?,
                "--loss" => {
                    let name = value()?;
                    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
                    plan.kinds =
                        vec![kind.with_context(|| format!("--loss {name:?}: crash or host"))?];
                }
                "--etcd" => plan.etcd = value()?.into(),
                "--metastore" => plan.metastore = value()?.into(),
                "--out" => plan.out = value()?.into(),
                _ => bail!("adaptive: unknown flag {flag} (see --help)"),
            }
        }
        Ok(Some(plan))
    }
}

fn number(flag: &str, text: &str, least: u64, most: u64) -> Result<u64> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.with_context(|| format!("{flag} {text:?}: from {least} to {most}"))
}

fn cells(is_meant: &dyn Fn(&Preset, &Column) -> bool) -> Vec<(&'static Preset, &'static Column)> {
    let all = PRESETS.iter().flat_map(|preset| COLUMNS.iter().map(move |column| (preset, column)));
    all.filter(|(preset, column)| is_meant(preset, column)).collect()
}

/// The cells of a list, in their own order.
fn named(list: &str) -> Result<Vec<(&'static Preset, &'static Column)>> {
    let mut meant = Vec::new();
    for name in list.split(',') {
        match name.split_once('/') {
            Some((preset, column)) => {
                meant.push((Some(Preset::named(preset)?.name), Some(Column::named(column)?.name)));
            }
            None if Preset::named(name).is_ok() => meant.push((Some(name), None)),
            None if Column::named(name).is_ok() => meant.push((None, Some(name))),
            None => bail!("--only {name:?}: neither a preset nor a column"),
        }
    }
    Ok(cells(&|preset, column| {
        meant.iter().any(|(p, c)| {
            p.is_none_or(|name| name == preset.name) && c.is_none_or(|name| name == column.name)
        })
    }))
}

/// `cargo xtask adaptive`.
pub fn run(arguments: &[String], asked: &AtomicBool) -> Result<()> {
    let Some(plan) = Plan::parse(arguments)? else {
        let mut out = std::io::stdout();
        out.write_all(HELP.as_bytes())?;
        for Column { name, title, .. } in &COLUMNS {
            writeln!(out, "  {name:<20} {title}")?;
        }
        return Ok(());
    };
    if plan.render_only {
        return write_document(&plan);
    }
    crate::network::check()?;
    for program in [&plan.etcd, &plan.metastore] {
        if !program.is_file() {
            bail!("{}: not there", program.display());
        }
    }
    for lab in crate::network::clean()? {
        crate::servers::clean(&folder().join(lab.to_string()))?;
    }
    if plan.is_smoke {
        return smoke(&plan, asked);
    }
    let (mut failed, count) = (Vec::new(), plan.cells.len());
    for (number, (preset, column)) in plan.cells.iter().enumerate() {
        let name = format!("{}/{}", preset.name, column.name);
        say(&format!("{name}: cell {} of {count}", number + 1));
        let watch = if preset.trouble == Trouble::Nothing { WATCH } else { WATCH_TROUBLE };
        let bench = bench(&plan, plan.watch.unwrap_or(watch), asked);
        if let Err(error) = measure(&plan, &bench, preset, column) {
            bench.check()?;
            say(&format!("{name}: {error:#}"));
            failed.push(name);
        }
    }
    write_document(&plan)?;
    match &failed[..] {
        [] => Ok(()),
        failed => bail!("not measured to the end: {}", failed.join(", ")),
    }
}

fn bench<'a>(plan: &Plan, watch: Duration, asked: &'a AtomicBool) -> Bench<'a> {
    Bench {
        etcd: plan.etcd.clone(),
        metastore: plan.metastore.clone(),
        keys: plan.keys,
        watch,
        plan_after: PLAN_AFTER,
        has_load: plan.has_load,
        losses: plan.kills,
        kinds: plan.kinds.clone(),
        asked,
    }
}

fn measure(plan: &Plan, bench: &Bench<'_>, preset: &Preset, column: &Column) -> Result<()> {
    let trips = bench.trips(preset)?;
    let fresh = fresh(plan, bench, preset, column, &trips);
    let before = if plan.is_resumed { Record::load(preset.name, column.name)? } else { None };
    let mut record = before.filter(|before| before.goes_with(&fresh)).unwrap_or(fresh);
    record.missing = None;
    let timing = match column.way {
        // What a resumed cell began with: round trips are measured anew. A plan is submitted.
        Way::Fixed(_) | Way::Dynatune | Way::Oracle if record.election_ms != 0 => {
            milliseconds(record.heartbeat_ms, record.election_ms)
        }
        Way::Oracle => oracle(bench, preset, column, &trips, &mut record)?,
        way => way.timing(preset, &trips).context("a timing that is known")?,
    };
    let measured = bench.measure(preset, column, timing, &mut record, &Record::save);
    if let Err(error) = &measured
        && bench.check().is_ok()
    {
        record.missing = Some(format!("{error:#}"));
        record.save()?;
    }
    measured
}

/// The constant with the shortest outage among those that keep their leader.
fn oracle(
    bench: &Bench<'_>,
    preset: &Preset,
    column: &Column,
    trips: &RoundTrips,
    record: &mut Record,
) -> Result<Timing> {
    let rtt_us = u64::try_from(trips.quantile(0.5).as_micros()).unwrap_or(u64::MAX);
    let grid = oracle_grid(rtt_us);
    let every = grid.len().div_ceil(TRIED_MAX);
    let trying = Bench {
        etcd: bench.etcd.clone(),
        metastore: bench.metastore.clone(),
        losses: Some(TRIED_LOSSES),
        kinds: vec![Kind::Host],
        has_load: false,
        ..*bench
    };
    for timing in grid.into_iter().step_by(every) {
        let ms = (timing.heartbeat_interval_us / 1_000, timing.election_timeout_us / 1_000);
        if record.tried.iter().any(|tried| (tried.heartbeat_ms, tried.election_ms) == ms) {
            continue;
        }
        say(&format!("  the oracle tries {}/{}", ms.0, ms.1));
        let mut of_it = Record { preset: record.preset.clone(), ..Record::default() };
        let measured =
            trying.measure(preset, column, milliseconds(ms.0, ms.1), &mut of_it, &|_| Ok(()));
        trying.check()?;
        let gaps = of_it.gaps(Kind::Host);
        let watch = of_it.watch.unwrap_or_default();
        // Where nobody is killed, what a stall costs is the outage.
        let gap_ms = quantile(&gaps, 0.5).or(Some(watch.gap_ms));
        record.tried.push(Tried {
            heartbeat_ms: ms.0,
            election_ms: ms.1,
            gap_ms: gap_ms.filter(|_| measured.is_ok()),
            false_elections: watch.false_elections,
        });
        record.save()?;
    }
    let kept = record.tried.iter().filter(|it| it.false_elections == 0 && it.gap_ms.is_some());
    let best = kept.min_by(|one, other| {
        one.gap_ms.unwrap_or_default().total_cmp(&other.gap_ms.unwrap_or_default())
    });
    let best = best.or_else(|| record.tried.iter().min_by_key(|it| it.false_elections));
    let best = best.context("the oracle tried nothing")?;
    Ok(milliseconds(best.heartbeat_ms, best.election_ms))
}

fn milliseconds(heartbeat_ms: u64, election_ms: u64) -> Timing {
    Timing { heartbeat_interval_us: heartbeat_ms * 1_000, election_timeout_us: election_ms * 1_000 }
}

fn fresh(
    plan: &Plan,
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
        keys: plan.keys,
        rtt_ms_p50: ms(0.5),
        rtt_ms_p99: ms(0.99),
        ..Record::default()
    }
}

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
        commit: words("git", &["rev-parse", "--short", "HEAD"]),
        load: load.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default(),
    }
}

fn version(program: &Path) -> String {
    let said = Command::new(program).arg("--version").output();
    let text = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().find(|line| line.contains("ersion")).unwrap_or_default().trim().to_owned()
}

/// Two losses in each of a few cells: what must hold whatever the machine.
fn smoke(plan: &Plan, asked: &AtomicBool) -> Result<()> {
    let mut out = std::io::stdout();
    let mut failures = 0;
    for (preset, column, kind) in SMOKE {
        let (preset, column) = (Preset::named(preset)?, Column::named(column)?);
        let bench = Bench {
            keys: SMOKE_KEYS,
            plan_after: PLAN_AFTER_SMOKE,
            has_load: false,
            losses: Some(SMOKE_LOSSES),
            kinds: vec![kind],
            ..bench(plan, WATCH_SMOKE, asked)
        };
        let trips = bench.trips(preset)?;
        let timing = column.way.timing(preset, &trips).context("a timing that is known")?;
        let mut record = Record::default();
        let measured = bench.measure(preset, column, timing, &mut record, &|_| Ok(()));
        bench.check()?;
        let mut fact = |holds: bool, text: &str| -> Result<()> {
            failures += usize::from(!holds);
            let verdict = if holds { "ok" } else { "FAIL" };
            let (preset, column, kind) = (preset.name, column.name, kind.name());
            Ok(writeln!(out, "{verdict} {preset}/{column}, {kind}: {text}")?)
        };
        if let Err(error) = measured {
            fact(false, &format!("{error:#}"))?;
            continue;
        }
        let all = |holds: &dyn Fn(&record::Loss) -> bool| record.losses.iter().all(holds);
        fact(record.losses.len() == SMOKE_LOSSES, "every leader that was taken was replaced")?;
        fact(all(&|loss| loss.recovered), "writes are acknowledged again")?;
        fact(all(&|loss| loss.terms >= 1), "by a leader of a later term")?;
        fact(all(&|loss| loss.detection_ms.is_some()), "a survivor left the lost leader")?;
        fact(record.watch.is_some_and(|it| it.ops_per_s > 0.0), "writes pass before that")?;
    }
    if failures > 0 {
        bail!("{failures} facts do not hold");
    }
    Ok(())
}

fn write_document(plan: &Plan) -> Result<()> {
    let mut records = Vec::new();
    for (preset, column) in cells(&|_, _| true) {
        records.extend(Record::load(preset.name, column.name)?);
    }
    let charts = plan.out.with_extension("");
    std::fs::create_dir_all(&charts).with_context(|| charts.display().to_string())?;
    let name = charts.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let document = render::document(&records, &name);
    for (file, text) in document.charts {
        let path = charts.join(file);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    std::fs::write(&plan.out, document.text).with_context(|| plan.out.display().to_string())?;
    let raw = plan.out.with_extension("json");
    let json = serde_json::to_string(&records)? + "\n";
    std::fs::write(&raw, json).with_context(|| raw.display().to_string())?;
    say(&format!("{} cells: {}", records.len(), plan.out.display()));
    Ok(())
}

fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Plan>> {
        let words: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
        Plan::parse(&words)
    }

    #[test]
    fn cells_are_chosen_by_preset_by_column_or_by_both() {
        let cells = |line: &str| {
            let plan = parse(line).unwrap().unwrap();
            plan.cells.iter().map(|(p, c)| format!("{}/{}", p.name, c.name)).collect::<Vec<_>>()
        };
        assert_eq!(cells("").len(), PRESETS.len() * COLUMNS.len());
        assert_eq!(cells("--only metro").len(), COLUMNS.len());
        assert_eq!(cells("--only etcd").len(), PRESETS.len());
        assert_eq!(
            cells("--only metro/balanced,same-zone/etcd"),
            ["same-zone/etcd", "metro/balanced"]
        );
    }

    #[test]
    fn nonsense_is_refused_in_one_line_that_names_it() {
        for (line, named) in [
            ("--only nope", "nope"),
            ("--only metro/nope", "nope"),
            ("--kills 0", "--kills \"0\""),
            ("--kills", "a value is missing"),
            ("--loss fire", "fire"),
            ("--watch x", "--watch"),
            ("--nope", "--nope"),
        ] {
            let error = format!("{:#}", parse(line).map(drop).unwrap_err());
            assert!(error.contains(named) && !error.contains('\n'), "{line}: {error}");
        }
        assert!(parse("--help").unwrap().is_none());
    }
}
