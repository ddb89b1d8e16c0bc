//! The lab's command line: `cargo xtask lab help`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lab::console::{self, Lab};
use lab::network::{self, Names, Network, Place};
use lab::preset::{PRESETS, Preset};
use lab::servers::{Servers, Setup};
use lab::{adaptive, measure, servers};

const HELP: &str = "\
cargo xtask lab up [flags]       a network and servers in it, until Ctrl-C or `lab down`; needs root
  --preset NAME                  how the network is (default same-zone)
  --members N                    from 1 to 9 (default 3)
  --etcd [PATH]                  etcd instead of MetaStore (default .cache/bin/etcd)
  --server PATH                  the MetaStore to start (default target/release/metastore)
  --no-servers                   the network alone: enter with nsenter --net=/run/netns/NAME
  --disks                        each data directory is a file system of its own, for `freeze`
  --seed N                       of loss and jitter (default 1)
  -- FLAG...                     for the servers, such as --heartbeat-interval=25
cargo xtask lab show             every direction of the lab that is up: rule and counters
cargo xtask lab set ...          set m1 m2 delay=40ms jitter=5ms loss=1%    both directions
                                 set m1 to m2 cut | heal | rate=10mbit      one direction
                                 set all delay=1ms                          all between members
cargo xtask lab isolate|rejoin m1, kill|start m1, stall m1 200ms, freeze m1|all 400ms, preset NAME
cargo xtask lab down             ends it
cargo xtask lab clean            removes what killed labs have left
cargo xtask lab measure          how exact delays are here, and what the router carries
  With several labs up: --lab N before the verb.
cargo xtask adaptive [flags]     the experiments of docs/adaptive.md (--help: how)
Presets:
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "lab: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let (lab, arguments) = match arguments {
        [flag, number, rest @ ..] if flag == "--lab" => {
            let lab = number.parse().ok().with_context(|| format!("--lab {number:?}: a number"))?;
            (Some(Names { lab }), rest)
        }
        all => (None, all),
    };
    let (verb, rest) = match arguments.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("help", &[][..]),
    };
    match (verb, rest) {
        ("up", rest) => up(rest),
        ("measure", []) => measure_all(),
        ("clean", []) => {
            let removed = network::clean()?;
            for lab in &removed {
                servers::clean(&adaptive::folder().join(lab.to_string()))?;
            }
            tell(&format!("removed what {} labs have left", removed.len()))
        }
        ("adaptive", rest) => adaptive::run(rest, listen()?.as_ref()),
        ("help" | "--help" | "-h", _) => help(),
        (
            "show" | "set" | "isolate" | "rejoin" | "kill" | "start" | "stall" | "freeze"
            | "preset" | "down",
            rest,
        ) => {
            let names = match lab {
                Some(names) => names,
                None => the_one()?,
            };
            let line = [&[verb.to_owned()][..], rest].concat().join(" ");
            let said = console::say(names, &line)?;
            Ok(std::io::stdout().write_all(said.as_bytes())?)
        }
        ("measure" | "clean", [surplus, ..]) => bail!("{verb}: what is {surplus:?} for?"),
        _ => bail!("{verb}: no such command (see cargo xtask lab help)"),
    }
}

fn help() -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(HELP.as_bytes())?;
    for Preset { name, about, .. } in &PRESETS {
        writeln!(out, "  {name:<20} {about}")?;
    }
    Ok(())
}

/// The lab that is up.
fn the_one() -> Result<Names> {
    match network::running()?[..] {
        [lab] => Ok(Names { lab }),
        [] => bail!("no lab is up"),
        ref labs => bail!("labs {labs:?} are up: which one? (--lab N before the verb)"),
    }
}

/// From here on signals are a mark.
fn listen() -> Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in
        [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
    {
        let _id = signal_hook::flag::register(signal, Arc::clone(&asked))?;
    }
    Ok(asked)
}

fn up(arguments: &[String]) -> Result<()> {
    let root = adaptive::root();
    let (mut preset, mut members, mut seed) = (&PRESETS[0], 3, 1);
    let mut program = Some(root.join("target/release/metastore"));
    let (mut own_disks, mut flags) = (false, Vec::new());
    let mut arguments = arguments.iter().peekable();
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{flag}: a value is missing"));
        match flag.as_str() {
            "--preset" => preset = Preset::named(value()?)?,
            "--members" => {
                let text = value()?;
                members = text.parse().ok().with_context(|| format!("--members {text:?}"))?;
            }
            "--seed" => {
                let text = value()?;
                seed = text.parse().ok().with_context(|| format!("--seed {text:?}"))?;
            }
            "--server" => program = Some(PathBuf::from(value()?)),
            "--etcd" => {
                let path = arguments.next_if(|next| !next.starts_with("--"));
                program = Some(path.map_or_else(|| root.join(".cache/bin/etcd"), PathBuf::from));
            }
            "--no-servers" => program = None,
            "--disks" => own_disks = true,
            "--" => flags = arguments.by_ref().cloned().collect(),
            _ => bail!("up: unknown flag {flag} (see cargo xtask lab help)"),
        }
    }
    if let Some(program) = program.as_ref().filter(|program| !program.is_file()) {
        bail!("{}: not there", program.display());
    }
    let asked = listen()?;
    let network = Network::create(members, seed)?;
    let names = network.names();
    let mut lab = match program {
        Some(program) => {
            let setup = Setup { program, flags, own_disks, ready_timeout: servers::READY_TIMEOUT };
            // Members found each other before distances grow.
            let servers = Servers::start(network, setup, &adaptive::folder())?;
            tell(&format!("lab {}: endpoints {}", names.lab, servers.endpoints()))?;
            Lab::Servers(servers)
        }
        None => {
            let places = (0..members)
                .map(|member| format!("{} ({})", names.namespace(member), names.address(member)));
            tell(&format!("lab {}: {}", names.lab, places.collect::<Vec<_>>().join(", ")))?;
            Lab::Network(network)
        }
    };
    preset.apply(lab.network())?;
    if !lab.network().is_realtime() {
        tell("the router is an ordinary process here: delays are longer under load")?;
    }
    tell(&format!("{}: {}; Ctrl-C or `lab down` ends it", preset.name, preset.about))?;
    let began = Instant::now();
    let mut due = Duration::ZERO;
    let mut steps = preset.steps.iter().enumerate();
    // Steps are brought into force between what the console is asked.
    loop {
        let next = steps.next();
        due += next.map_or(Duration::MAX / 4, |(_, (after, _))| *after);
        let is_over = || asked.load(Ordering::Relaxed);
        let is_due = || is_over() || began.elapsed() >= due;
        let ends = console::serve(&mut lab, &is_due)?;
        if ends || is_over() {
            return Ok(());
        }
        if let Some((number, (_, rule))) = next {
            preset.step(lab.network(), number)?;
            tell(&format!("after {} s: {rule}", due.as_secs()))?;
        }
    }
}

/// Round trips at several delays, and full streams; for the error and the cost that the lab has here.
fn measure_all() -> Result<()> {
    const TRIPS: usize = 1_000;
    const EVERY: Duration = Duration::from_millis(1);
    const LASTS: Duration = Duration::from_secs(3);
    let network = Network::create(2, 1)?;
    tell(&format!("router before ordinary processes: {}", network.is_realtime()))?;
    tell("| one way ms | round trip ms: set | least | median | p99 | most |")?;
    tell("|---|---|---|---|---|---|")?;
    let ms = |it: Duration| it.as_secs_f64() * 1e3;
    for rule in ["delay=0ms", "delay=0.25ms", "delay=1ms", "delay=5ms", "delay=40ms"] {
        let words = [&["all", "clear"][..], &rule.split(' ').collect::<Vec<_>>()].concat();
        console::set(&network, &words)?;
        let count = if rule == "delay=40ms" { TRIPS / 10 } else { TRIPS };
        let trips =
            measure::round_trips(&network, Place::Member(0), Place::Member(1), count, EVERY)?;
        let one_way = ms(lab::rule::duration(rule.trim_start_matches("delay="))?);
        tell(&format!(
            "| {one_way} | {} | {:.3} | {:.3} | {:.3} | {:.3} |",
            2.0 * one_way,
            ms(trips.quantile(0.0)),
            ms(trips.quantile(0.5)),
            ms(trips.quantile(0.99)),
            ms(trips.quantile(1.0)),
        ))?;
    }
    for rule in ["delay=0ms", "delay=1ms", "delay=1ms rate=100mbit"] {
        let words = [&["all", "clear"][..], &rule.split(' ').collect::<Vec<_>>()].concat();
        console::set(&network, &words)?;
        let it = measure::stream(&network, Place::Member(0), Place::Member(1), LASTS)?;
        tell(&format!(
            "one stream, {rule}: {:.1} MB/s, {:.0} packets/s, router {:.0} % of a processor",
            it.bytes_per_s / 1e6,
            it.packets_per_s,
            it.router_cpu * 100.0
        ))?;
    }
    Ok(())
}

fn tell(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
