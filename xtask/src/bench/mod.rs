//! `bench-vs-etcd`: both systems in turns on this machine, row by row of the goals.
//!
//! Absolute figures differ by tens of percent from machine to machine and from minute to minute, so
//! every round of a section runs etcd, then MetaStore, and what counts is the ratio of the medians.
//! Nothing is dropped. Syncing stays on in both. Sections stand alone: each keeps its figures in a file
//! of its own, and the document is written from the files that are there.

mod cluster;
mod goals;
mod limits;
mod memory_group;
mod plan;
mod record;
mod render;
mod sections;
mod stop;
mod tools;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::chores::{cargo, root, run as run_command};
use cluster::{Cluster, Setup};
use plan::Plan;
use record::{ETCD, METASTORE, Machine, Record};
use sections::{SECTIONS, Section};

/// Longest answer to `--version` or `--help`.
const SAY_TIMEOUT: Duration = Duration::from_secs(10);
/// Files one process may have open, where the system lets it: thousands of connections need as many.
const FILES: u64 = 65_536;
/// How the reason why a round is missing begins.
const ROUND_FAILED: &str = "round ";
/// etcd and MetaStore refuse writes above 2 GiB unless told otherwise.
const QUOTA_BYTES: &str = "8589934592";

/// What sections measure with.
struct Bench {
    etcd: PathBuf,
    etcdctl: PathBuf,
    /// etcd's load tool.
    load: PathBuf,
    metastore: PathBuf,
    metactl: PathBuf,
    echo: PathBuf,
    /// What the server says of its flags.
    metastore_help: String,
    scale: f64,
    long: bool,
}

impl Bench {
    /// So many of something, fewer when the tool is only tried.
    fn count(&self, full: u64, least: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(least).min(full)
    }

    /// Seconds of a load or a wait.
    fn seconds(&self, full: f64) -> f64 {
        const LEAST: f64 = 2.0;
        (full * self.scale).max(LEAST).min(full)
    }

    fn program(&self, system: &str) -> &Path {
        match system {
            ETCD => &self.etcd,
            METASTORE => &self.metastore,
            _ => unreachable!("{system} is no system"),
        }
    }

    fn setup(&self, system: &str, members: usize) -> Setup {
        Setup {
            program: self.program(system).to_path_buf(),
            members,
            flags: vec!["--quota-backend-bytes".to_owned(), QUOTA_BYTES.to_owned()],
            sync_delay_us: 0,
            memory_max_bytes: 0,
        }
    }

    fn start(&self, system: &str, members: usize) -> Result<Cluster> {
        Cluster::start(self.setup(system, members))
    }

    fn metastore_has(&self, flag: &str) -> bool {
        self.metastore_help.split_ascii_whitespace().any(|word| word == flag)
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some(plan) = Plan::parse(arguments)? else {
        use std::io::Write;
        let mut out = std::io::stdout();
        out.write_all(plan::HELP.as_bytes())?;
        for Section { name, about, .. } in &SECTIONS {
            writeln!(out, "  {name:<20} {about}")?;
        }
        return Ok(());
    };
    if plan.render_only {
        return write_document(&plan);
    }
    stop::listen()?;
    let bench = prepare(&plan)?;
    let fresh = Record {
        machine: Machine::here(),
        profile: plan.profile.clone(),
        scale: plan.scale,
        etcd: version(&bench.etcd)?,
        metastore: version(&bench.metastore)?,
        ..Record::default()
    };
    let mut failed = Vec::new();
    for section in &plan.sections {
        let record = Record { section: section.name.to_owned(), ..fresh.clone() };
        if let Err(error) = measure(&plan, &bench, section, record) {
            stop::check()?;
            say(&format!("{}: {error:#}", section.name));
            failed.push(section.name);
        }
    }
    write_document(&plan)?;
    match &failed[..] {
        [] => Ok(()),
        failed => bail!("not measured to the end: {}", failed.join(", ")),
    }
}

/// All rounds of one section; each that is whole is kept.
fn measure(plan: &Plan, bench: &Bench, section: &Section, mut record: Record) -> Result<()> {
    if plan.resume
        && let Some(before) = Record::load(section.name)?
        && before.goes_with(&record)
    {
        record = before;
        // It is tried again.
        record.missing.retain(|it| !it.starts_with(ROUND_FAILED));
    }
    while record.rounds < plan.rounds {
        let number = record.rounds + 1;
        say(&format!("{}: round {number} of {}", section.name, plan.rounds));
        let began = Instant::now();
        let mut with = record.clone();
        if let Err(error) = (section.round)(bench, &mut with) {
            stop::check()?;
            // What the rounds before it showed stays, with the reason why there are no more.
            record.miss(format!("{ROUND_FAILED}{number}: {error:#}"));
            record.save()?;
            return Err(error);
        }
        with.rounds = number;
        with.took_s += began.elapsed().as_secs_f64();
        with.save()?;
        say(&format!("{}: round {number} took {:.0} s", section.name, with.took_s - record.took_s));
        record = with;
    }
    Ok(())
}

/// Builds what is measured and finds what it is measured with.
fn prepare(plan: &Plan) -> Result<Bench> {
    let etcdctl = plan.etcd.with_file_name("etcdctl");
    for (program, flag) in [(&plan.etcd, "--etcd"), (&plan.load, "--load"), (&etcdctl, "--etcd")] {
        if !program.is_file() {
            let program = program.display();
            bail!("{program}: not there; build it with .ci/tools.sh load, or give {flag}");
        }
    }
    if plan.build {
        // One by one: built together they would share features that none has by itself.
        for package in
            [&["-p", "metactl"][..], &["-p", "server"], &["-p", "server", "--example", "echo"]]
        {
            say(&format!("building {}", package.join(" ")));
            let words = [&["build", "--quiet", "--profile", &plan.profile][..], package].concat();
            run_command(&mut cargo(&words))?;
        }
    }
    let built = root().join("target").join(&plan.profile);
    let metastore = plan.metastore.clone().unwrap_or_else(|| built.join("metastore"));
    let (metactl, echo) = (built.join("metactl"), built.join("examples/echo"));
    for program in [&metastore, &metactl, &echo] {
        if !program.is_file() {
            bail!("{}: not there (run without --no-build)", program.display());
        }
    }
    cluster::tidy();
    memory_group::tidy();
    allow_files();
    let help = words(&metastore, "--help")?;
    Ok(Bench {
        etcd: plan.etcd.clone(),
        etcdctl,
        load: plan.load.clone(),
        metastore_help: help,
        metastore,
        metactl,
        echo,
        scale: plan.scale,
        long: plan.long,
    })
}

/// As many open files as the system lets this program and its children have, up to [`FILES`].
fn allow_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = Some(limit.maximum.map_or(FILES, |most| most.min(FILES)));
    // Less is noticed where it does not do.
    let _refused = setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum });
}

fn write_document(plan: &Plan) -> Result<()> {
    let raw = plan.out.with_extension("json");
    let records: Vec<Record> = SECTIONS
        .iter()
        .filter_map(|section| Record::last(section.name, &raw).transpose())
        .collect::<Result<_>>()?;
    let limits = limits::Limits::read()?;
    let text = render::markdown(&records, &limits)?;
    std::fs::write(&plan.out, &text).with_context(|| plan.out.display().to_string())?;
    let json = serde_json::to_string(&records)? + "\n";
    std::fs::write(&raw, json).with_context(|| raw.display().to_string())?;
    say(&format!("{} of {} sections: {}", records.len(), SECTIONS.len(), plan.out.display()));
    Ok(())
}

fn say(line: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn words(program: &Path, flag: &str) -> Result<String> {
    let mut command: Command = stop::command(program);
    command.arg(flag);
    stop::run(command, SAY_TIMEOUT)
}

fn version(program: &Path) -> Result<String> {
    let text = words(program, "--version")?;
    // etcd's line is the first; a server with a version of its own has that on the second.
    let lines: Vec<&str> = text.lines().take(2).filter(|line| line.contains("ersion")).collect();
    Ok(lines.join(", "))
}
