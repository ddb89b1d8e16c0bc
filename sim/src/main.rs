//! `sim`: replays a seed, runs swarms of them, and proves that seeded bugs are found.

mod elections;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use sim::{Mutant, Report, Verbosity, hunt, run};

const USAGE: &str = "\
sim SEED [--verbose] [--mutant NAME]      one run: plan, trace hash, verdict
sim swarm N [--from S] [--jobs J]         N seeds, each twice
sim mutants [--seeds N] [--jobs J]        every seeded bug must be found within N seeds
";
/// Seeds within which each mutant must be found: most are by the first, the rarest by the 577th.
const MUTANT_SEEDS: u64 = 1_500;
/// Threads of a swarm.
const JOBS: u64 = 2;

fn main() -> ExitCode {
    // Panics of the rooms are caught and reported with their seed.
    std::panic::set_hook(Box::new(|_| {}));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match command(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            drop(write!(std::io::stderr(), "sim: {why}\n{USAGE}{}", elections::USAGE));
            ExitCode::from(2)
        }
    }
}

fn command(arguments: &[String]) -> Result<bool, String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["swarm", count, rest @ ..] => {
            let options = Options::of(rest)?;
            Ok(swarm(number(count)?, &options))
        }
        ["elections", rest @ ..] => elections::command(rest),
        ["mutants", rest @ ..] => Ok(mutants(&Options::of(rest)?)),
        ["seed", seed, rest @ ..] | [seed, rest @ ..] => {
            let options = Options::of(rest)?;
            Ok(single(number(seed)?, &options))
        }
        [] => Err(String::from("what is to be simulated?")),
    }
}

struct Options {
    verbose: bool,
    mutant: Option<Mutant>,
    from: u64,
    jobs: u64,
    seeds: u64,
}

impl Options {
    fn of(words: &[&str]) -> Result<Options, String> {
        let mut options =
            Options { verbose: false, mutant: None, from: 1, jobs: JOBS, seeds: MUTANT_SEEDS };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            match *word {
                "--verbose" => options.verbose = true,
                "--mutant" => {
                    let name = value()?;
                    let mutant = Mutant::of(name).ok_or(format!("{name}: no such mutant"))?;
                    options.mutant = Some(mutant);
                }
                "--from" => options.from = number(value()?)?,
                "--jobs" => options.jobs = number(value()?)?.clamp(1, 64),
                "--seeds" => options.seeds = number(value()?)?,
                _ => return Err(format!("{word}: no such option")),
            }
        }
        Ok(options)
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word:?} is not a number"))
}

fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn single(seed: u64, options: &Options) -> bool {
    let verbosity = if options.verbose { Verbosity::Print } else { Verbosity::KeepLines };
    let began = Instant::now();
    let report = run(seed, options.mutant, verbosity);
    let seconds = began.elapsed().as_secs_f64();
    say(&format!("{:#?}", report.plan));
    for (name, count) in &report.figures.counts {
        say(&format!("{count:>8} {name}"));
    }
    say(&format!(
        "{} events, {:.1} virtual seconds in {seconds:.2} s",
        report.events,
        report.virtual_us as f64 / 1e6
    ));
    if report.violation.is_some() && !options.verbose {
        for line in &report.lines {
            say(line);
        }
    }
    say(&verdict(&report, options.mutant));
    report.violation.is_none()
}

fn verdict(report: &Report, mutant: Option<Mutant>) -> String {
    let hash = report.trace_hash;
    match &report.violation {
        None => format!("seed {}: trace {hash:016x}: all facts hold", report.seed),
        Some(fact) => {
            let mutant = mutant.map_or(String::new(), |it| format!(" --mutant {}", it.name()));
            format!(
                "seed {seed}: trace {hash:016x}: BROKEN\n{fact}\nreplay: cargo xtask sim {seed}{mutant}",
                seed = report.seed
            )
        }
    }
}

/// Runs `work` for each seed on some threads and hands the results on as they come.
fn spread<T: Send>(
    seeds: std::ops::Range<u64>,
    jobs: u64,
    work: impl Fn(u64) -> T + Sync,
    mut take: impl FnMut(T),
) {
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..jobs {
            let (sender, next, work) = (sender.clone(), &next, &work);
            let end = seeds.end;
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send(work(seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for result in receiver {
            take(result);
        }
    });
}

fn swarm(count: u64, options: &Options) -> bool {
    let began = Instant::now();
    let (mut done, mut virtual_us, mut events) = (0_u64, 0_u64, 0_u64);
    let mut broken: Vec<(Report, bool)> = Vec::new();
    let mut reached = std::collections::BTreeMap::<&'static str, u64>::new();
    let work = |seed| {
        let first = run(seed, options.mutant, Verbosity::Quiet);
        let second = run(seed, options.mutant, Verbosity::Quiet);
        let same = first == second;
        (first, same)
    };
    spread(options.from..options.from + count, options.jobs, work, |(report, same)| {
        done += 1;
        virtual_us += 2 * report.virtual_us;
        events += 2 * report.events;
        for (name, count) in &report.figures.counts {
            *reached.entry(name).or_default() += count;
        }
        if report.violation.is_some() || !same {
            say(&verdict(&report, options.mutant));
            if !same {
                say(&format!("seed {}: two runs differ", report.seed));
            }
            broken.push((report, same));
        }
        if done.is_multiple_of(50) || done == count {
            let seconds = began.elapsed().as_secs_f64();
            say(&format!(
                "{done}/{count} seeds, {} broken, {:.1} seeds/s, {:.0} times real time",
                broken.len(),
                done as f64 / seconds,
                virtual_us as f64 / 1e6 / seconds
            ));
        }
    });
    for (name, count) in &reached {
        say(&format!("{count:>9} {name}"));
    }
    say(&format!("{events} events, each seed twice"));
    if let Some((report, _)) = broken.iter().min_by_key(|(report, _)| report.events) {
        // The shortest run is the easiest to understand.
        let report = run(report.seed, options.mutant, Verbosity::KeepLines);
        for line in &report.lines {
            say(line);
        }
        say(&verdict(&report, options.mutant));
    }
    broken.is_empty()
}

fn mutants(options: &Options) -> bool {
    let mut results: Vec<(u64, Option<(u64, Report)>)> = Vec::new();
    let count = Mutant::ALL.len() as u64;
    let work = |at: u64| {
        let mutant = Mutant::ALL[usize::try_from(at).unwrap_or(0)];
        (at, hunt(mutant, options.from, options.seeds))
    };
    spread(0..count, options.jobs, work, |result| results.push(result));
    results.sort_by_key(|(at, _)| *at);
    let mut all_found = true;
    for (at, found) in &results {
        let name = Mutant::ALL[usize::try_from(*at).unwrap_or(0)].name();
        match found {
            Some((seeds, report)) => {
                let fact = report.violation.as_deref().unwrap_or_default();
                let fact: String = fact.chars().take(110).collect();
                say(&format!("{name:<26} {seeds:>4} seeds  {fact}"));
            }
            None => {
                all_found = false;
                say(&format!("{name:<26} NOT FOUND in {} seeds", options.seeds));
            }
        }
    }
    all_found
}
