//! A whole cluster in one thread, from one number.
//!
//! What ships is what is simulated: [`member::Member`] and its workers, the log on `wal`'s disk in
//! memory, the state and its backend. Around them are a virtual clock, a network that loses, doubles,
//! delays and cuts, disks that forget what was never synced, and clients who remember everything.
//! The same seed gives the same run, bit for bit, so that what was found once can be looked at for
//! as long as it takes.
//!
//! | where | what |
//! |---|---|
//! | `world` | the event loop, and the two halves of a run |
//! | `steps`, `workers`, `transport`, `watchers` | what the server's threads do, by events |
//! | `node`, `disk`, `values`, `process` | a machine, what it remembers, and how it begins and ends |
//! | `network`, `nemesis` | what goes wrong |
//! | `clients`, `history` | what is asked, and whether the answers fit together |
//! | `truth` | what must hold at every step |
//! | `durable` | what leaders tell of their disks, and what is committed by it |
//! | `tunings` | plans of timing, and what must hold between any two members |
//! | [`Plan`] | what a seed stands for |
//! | [`Mutant`] | bugs on demand, to prove that all this finds them |
//!
//! A run is deterministic because nothing in it asks the machine for anything: no clock, no thread,
//! no hash map's order, and random numbers only from [`Random`].

mod clients;
mod disk;
mod durable;
mod hints;
mod history;
mod mutant;
mod nemesis;
mod network;
mod node;
mod plan;
mod process;
mod random;
mod steps;
mod trace;
mod transport;
mod truth;
mod tunings;
mod values;
mod watchers;
mod workers;
mod world;

use std::any::Any;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use mutant::Mutant;
pub use plan::{Faults, Plan};
pub use random::Random;
pub use world::Figures;

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What it stood for.
    pub plan: Plan,
    /// Hash over every event.
    pub trace_hash: u64,
    /// How many events there were.
    pub events: u64,
    /// Virtual time from beginning to end.
    pub virtual_us: u64,
    /// What happened how often.
    pub figures: Figures,
    /// The fact found broken, if one was.
    pub violation: Option<String>,
    /// The last events before that, if they were kept.
    pub lines: Vec<String>,
}

/// How much a run says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Only the report.
    Quiet,
    /// The report has the last events.
    KeepLines,
    /// Each event is printed as it happens.
    Print,
}

/// Runs a seed, with a seeded bug if one is given.
pub fn run(seed: u64, mutant: Option<Mutant>, verbosity: Verbosity) -> Report {
    let trace = trace::Trace::new(verbosity == Verbosity::KeepLines, verbosity == Verbosity::Print);
    let mut world = world::World::new(seed, mutant, trace);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = ended {
        // An assertion of a room counts like a broken fact.
        world.broken(format!("assertion: {}", panic_text(panic.as_ref())));
    }
    let mut figures = world.figures.clone();
    figures.counts.insert("writes acknowledged", world.history.writes_done() as u64);
    figures.counts.insert("reads answered", world.history.reads_done() as u64);
    Report {
        seed,
        plan: world.plan.clone(),
        trace_hash: world.trace.hash(),
        events: world.trace.events(),
        virtual_us: world.now_us,
        figures,
        violation: world.truth.violation().map(str::to_owned),
        lines: world.trace.lines(),
    }
}

/// Seeds tried until a mutant was found; `None` if it was not.
pub fn hunt(mutant: Mutant, from: u64, seeds: u64) -> Option<(u64, Report)> {
    (from..from + seeds).enumerate().find_map(|(tried, seed)| {
        let report = run(seed, Some(mutant), Verbosity::Quiet);
        report.violation.is_some().then_some((tried as u64 + 1, report))
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| String::from("unknown panic"))
}

/// Prints a line; a reader that has gone away is no reason to stop.
pub(crate) fn print_line(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}
