//! False elections by the simulated hour: `sim elections`.
//!
//! Three of the replicas that ship, on a network with the delays, the losses and the stalls of a
//! preset, with nobody killed and nothing asked: every leader but the first is a false one. What is
//! compared are timings: etcd's, those people use, Dynatune's, and what the planner makes of the same
//! network.
//!
//! A thousand hours are half a billion heartbeats, and hardly any of them matters. So there are two
//! gaits. The `scan` computes when each heartbeat arrives and when its answer does, and nothing else;
//! the network is a function of seed, link and time, so both gaits see the same. Where a member's
//! patience might end (a gap of nearly an election timeout, a disk that stands still for half of one),
//! it goes back a little, and the `cluster` of real replicas lives through that stretch until it is calm
//! again. Between two stretches the replicas stand still, and their clock with them.
//!
//! The model (`weather`): half the round trip and a lognormal jitter each way; a lost segment comes
//! after 200 ms or 1.5 round trips, twice as late if it is lost again, and holds up what is behind it.
//! That is harsher than TCP is between heartbeats 25 ms apart; `--loss next` has it repaired when the
//! segment behind it is acknowledged, as TCP does that knows what was received selectively.

mod cluster;
mod column;
mod scan;
mod weather;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use column::Column;
use member::autotune::Timing;
use weather::{Preset, Repair};

/// How it is called.
pub(crate) const USAGE: &str = "\
sim elections [--hours N] [--preset P] [--column C|H/E] [--loss timeout|next] [--seconds S]
              [--out FILE] [--jobs J] [--markdown]
                                          false elections in N simulated hours of each cell, at most
                                          S seconds of computing for it; FILE keeps what is done
";
const HOURS: u64 = 1_000;
/// A cell is computed in pieces of so many hours, each with a seed of its own.
const PIECE_HOURS: u64 = 50;
/// Seconds of computing for a cell; what takes longer is given for fewer hours.
const SECONDS: u64 = 120;
const JOBS: usize = 1;

/// What came of a piece, or of many.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    simulated_us: u64,
    /// Of these, with replicas.
    lived_us: u64,
    false_elections: u64,
    pre_campaigns: u64,
    /// Leaders that stepped down because no quorum was heard.
    quorum_losses: u64,
    leaderless_us: u64,
    wall: Duration,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.simulated_us += other.simulated_us;
        self.lived_us += other.lived_us;
        self.false_elections += other.false_elections;
        self.pre_campaigns += other.pre_campaigns;
        self.quorum_losses += other.quorum_losses;
        self.leaderless_us += other.leaderless_us;
        self.wall += other.wall;
    }

    fn hours(&self) -> f64 {
        self.simulated_us as f64 / 3.6e9
    }

    fn per_hour(&self, count: u64) -> f64 {
        if self.simulated_us == 0 { 0.0 } else { count as f64 / self.hours() }
    }
}

struct Options {
    hours: u64,
    presets: Vec<&'static Preset>,
    columns: Vec<Column>,
    seconds: u64,
    out: Option<PathBuf>,
    jobs: usize,
    repair: Repair,
    /// Print a table for a document instead of a line for each cell.
    markdown: bool,
}

impl Options {
    fn of(words: &[&str]) -> Result<Options, String> {
        let mut options = Options {
            hours: HOURS,
            presets: weather::PRESETS.iter().collect(),
            columns: Column::ALL.to_vec(),
            seconds: SECONDS,
            out: None,
            jobs: JOBS,
            repair: Repair::Timeout,
            markdown: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if *word == "--markdown" {
                options.markdown = true;
                continue;
            }
            let value = *words.next().ok_or(format!("{word} wants a value"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{value:?} is not a number"));
            match *word {
                "--hours" => options.hours = number()?.clamp(1, 1_000_000),
                "--seconds" => options.seconds = number()?.clamp(1, 86_400),
                "--jobs" => options.jobs = number()?.clamp(1, 64) as usize,
                "--out" => options.out = Some(PathBuf::from(value)),
                "--preset" if value == "all" => {}
                "--preset" => {
                    let found = weather::PRESETS.iter().find(|preset| preset.name == value);
                    let names: Vec<_> = weather::PRESETS.iter().map(|it| it.name).collect();
                    let all = names.join(", ");
                    options.presets =
                        vec![found.ok_or(format!("{value:?}: no such preset (there are {all})"))?];
                }
                "--column" if value == "all" => {}
                "--loss" => {
                    options.repair = match value {
                        "timeout" => Repair::Timeout,
                        "next" => Repair::NextSegment(0),
                        _ => return Err(format!("{value:?} is not timeout or next")),
                    };
                }
                "--column" => {
                    let found = Column::of(value);
                    let names: Vec<_> = Column::ALL.iter().map(|it| it.name()).collect();
                    let all = names.join(", ");
                    options.columns = vec![found.ok_or(format!(
                        "{value:?}: no such column (there are {all}, and H/E in ms)"
                    ))?];
                }
                _ => return Err(format!("{word}: no such option")),
            }
        }
        Ok(options)
    }
}

/// Runs what the command line asks for.
pub(crate) fn command(words: &[&str]) -> Result<bool, String> {
    let options = Options::of(words)?;
    let book = Mutex::new(Book::open(options.out.as_ref())?);
    let cells: Vec<(&'static Preset, Column)> = options
        .presets
        .iter()
        .flat_map(|preset| options.columns.iter().map(move |column| (*preset, *column)))
        .collect();
    let next = AtomicUsize::new(0);
    let (failure, done) = (Mutex::new(None), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while let Some((preset, column)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match cell(&options, &book, preset, *column) {
                        Ok(cell) if options.markdown => lock(&done).push(cell),
                        Ok(cell) => crate::say(&cell.line()),
                        Err(why) => {
                            *lock(&failure) = Some(why);
                            return;
                        }
                    }
                }
            });
        }
    });
    if options.markdown {
        table(&options, &lock(&done)).iter().for_each(|line| crate::say(line));
    }
    lock(&failure).take().map_or(Ok(true), Err)
}

/// A timing on a network, and what came of it.
struct Cell {
    preset: &'static str,
    column: &'static str,
    timing: Timing,
    tally: Tally,
}

impl Cell {
    fn timing(&self) -> String {
        let Timing { heartbeat_interval_us, election_timeout_us } = self.timing;
        format!("{}/{}", heartbeat_interval_us / 1_000, election_timeout_us / 1_000)
    }

    fn line(&self) -> String {
        let tally = &self.tally;
        let minutes = (tally.wall.as_secs_f64() / 60.0).max(1e-9);
        format!(
            "{:<20} {:<10} {:>9} ms {:>8.1} h  {:>9.4} false/h  {:>10.3} pre-campaigns/h  \
             {:>7.0} h/min",
            self.preset,
            self.column,
            self.timing(),
            tally.hours(),
            tally.per_hour(tally.false_elections),
            tally.per_hour(tally.pre_campaigns),
            tally.hours() / minutes
        )
    }
}

/// A row for each network: the timing, false elections and pre-campaigns in an hour, and in how many
/// hours if they are fewer than asked for.
fn table(options: &Options, cells: &[Cell]) -> Vec<String> {
    let names: Vec<&str> = options.columns.iter().map(|column| column.name()).collect();
    let mut lines = vec![
        format!("| | {} |", names.join(" | ")),
        format!("|---|{}", "---|".repeat(names.len())),
    ];
    for preset in &options.presets {
        let mut row = format!("| {} |", preset.name);
        for name in &names {
            let found = cells.iter().find(|it| it.preset == preset.name && it.column == *name);
            let Some(cell) = found else { continue };
            let tally = &cell.tally;
            let (falsely, asked) =
                (tally.per_hour(tally.false_elections), tally.per_hour(tally.pre_campaigns));
            let short = tally.hours() < options.hours as f64 - 1.0;
            let hours = if short { format!(" in {:.0} h", tally.hours()) } else { String::new() };
            let cell = format!(" {}: {falsely:.3}, {asked:.3}{hours} |", cell.timing());
            row.push_str(&cell);
        }
        lines.push(row);
    }
    lines
}

fn cell(
    options: &Options,
    book: &Mutex<Book>,
    preset: &'static Preset,
    column: Column,
) -> Result<Cell, String> {
    let timing = column.timing(preset, options.repair);
    let repair = options.repair.on(column.next_segment_us(timing));
    let loss = if repair == Repair::Timeout { "timeout" } else { "next" };
    let pieces = options.hours.div_ceil(PIECE_HOURS);
    let mut sum = Tally::default();
    for piece in 0..pieces {
        let hours = PIECE_HOURS.min(options.hours - piece * PIECE_HOURS);
        let key = format!(
            "\"preset\":\"{}\",\"loss\":\"{loss}\",\"column\":\"{}\",\"heartbeat_us\":{},\"election_us\":{},\"piece\":{piece},",
            preset.name,
            column.name(),
            timing.heartbeat_interval_us,
            timing.election_timeout_us
        );
        if let Some(tally) = lock(book).done(&key) {
            sum.add(&tally);
            continue;
        }
        let left = Duration::from_secs(options.seconds).saturating_sub(sum.wall);
        if left.is_zero() {
            break;
        }
        let began = Instant::now();
        let mut tally = scan::run(preset, timing, repair, piece, hours * 3_600_000_000, || {
            began.elapsed() >= left
        });
        tally.wall = began.elapsed();
        sum.add(&tally);
        lock(book).write(&key, &tally)?;
    }
    Ok(Cell { preset: preset.name, column: column.name(), timing, tally: sum })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What is done, one JSON object to a line.
#[derive(Default)]
struct Book {
    file: Option<File>,
    lines: BTreeSet<String>,
}

impl Book {
    fn open(path: Option<&PathBuf>) -> Result<Book, String> {
        let Some(path) = path else { return Ok(Book::default()) };
        let named = |error: std::io::Error| format!("{}: {error}", path.display());
        let file = OpenOptions::new().create(true).read(true).append(true).open(path);
        let file = file.map_err(named)?;
        let reader = BufReader::new(file.try_clone().map_err(named)?);
        let lines = reader.lines().collect::<Result<_, _>>().map_err(named)?;
        Ok(Book { file: Some(file), lines })
    }

    fn done(&self, key: &str) -> Option<Tally> {
        let line = self.lines.iter().find(|line| line.contains(key) && line.ends_with('}'))?;
        let number = |name: &str| {
            let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().ok()
        };
        Some(Tally {
            simulated_us: number("simulated_us")?,
            lived_us: number("lived_us")?,
            false_elections: number("false_elections")?,
            pre_campaigns: number("pre_campaigns")?,
            quorum_losses: number("quorum_losses")?,
            leaderless_us: number("leaderless_us")?,
            wall: Duration::from_millis(number("wall_ms")?),
        })
    }

    fn write(&mut self, key: &str, tally: &Tally) -> Result<(), String> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = format!("{{{key}");
        let Tally {
            simulated_us,
            lived_us,
            false_elections,
            pre_campaigns,
            quorum_losses,
            leaderless_us,
            wall,
        } = tally;
        let wall_ms = wall.as_millis();
        let written = write!(
            line,
            "\"simulated_us\":{simulated_us},\"lived_us\":{lived_us},\
             \"false_elections\":{false_elections},\"pre_campaigns\":{pre_campaigns},\
             \"quorum_losses\":{quorum_losses},\"leaderless_us\":{leaderless_us},\
             \"wall_ms\":{wall_ms}}}"
        );
        written.expect("a string takes what is written");
        writeln!(file, "{line}").map_err(|error| format!("results: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(preset: &str, heartbeat_ms: u64, election_ms: u64, minutes: u64) -> Tally {
        let preset = weather::PRESETS.iter().find(|it| it.name == preset).unwrap();
        let timing = Timing {
            heartbeat_interval_us: heartbeat_ms * 1_000,
            election_timeout_us: election_ms * 1_000,
        };
        scan::run(preset, timing, Repair::Timeout, 0, minutes * 60_000_000, || false)
    }

    #[test]
    fn a_calm_zone_elects_nobody_and_is_hardly_lived_through() {
        let tally = run("same-zone", 25, 315, 120);
        assert_eq!((tally.false_elections, tally.pre_campaigns), (0, 0));
        assert!(tally.simulated_us >= 7_200_000_000 && tally.lived_us < tally.simulated_us / 100);
    }

    #[test]
    fn stalls_longer_than_patience_depose_leaders_and_shorter_ones_do_not() {
        let short = run("leader-stalls", 25, 160, 240);
        assert!(short.false_elections >= 3, "{short:?}");
        let long = run("leader-stalls", 25, 630, 240);
        assert_eq!(long.false_elections, 0, "{long:?}");
    }

    #[test]
    fn a_disk_that_stands_still_for_half_the_timeout_costs_its_member_the_leadership() {
        let one = run("disk-of-one", 25, 315, 120);
        assert!(
            (1..4).contains(&one.false_elections),
            "the disk of another leader is well: {one:?}"
        );
        assert_eq!(run("disk-of-all", 25, 2_000, 120).false_elections, 0);
    }

    #[test]
    fn the_same_piece_gives_the_same_numbers() {
        let (one, other) =
            (run("cross-zone-loss", 25, 160, 60), run("cross-zone-loss", 25, 160, 60));
        assert_eq!(
            (one.false_elections, one.pre_campaigns, one.lived_us),
            (other.false_elections, other.pre_campaigns, other.lived_us)
        );
        assert!(one.pre_campaigns > 0, "{one:?}");
    }
}
