//! `bench-vs-etcd`: both systems under etcd's own load tool, in turns, on this machine.
//!
//! Absolute figures differ by tens of percent from machine to machine and from minute to minute, so
//! every round runs both systems, in alternating order, and what counts is the ratio of the
//! medians. Nothing is dropped. Syncing stays on in both.

mod cluster;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::chores::{cargo, root, run as run_command};
use cluster::Cluster;

const HELP: &str = "\
cargo xtask bench-vs-etcd [flags]
  --rounds N           rounds, each with both systems (default 3)
  --total N            puts and reads of a round with 1,000 clients (default 100000)
  --memory-keys N      keys of the memory row, 0: leave it out (default 1000000)
  --memory-members N   members in the memory row (default 1)
  --etcd PATH          etcd to compare with (default .cache/bin/etcd, as .ci/tools.sh builds it)
  --load PATH          etcd's load tool (default .cache/bin/benchmark)
  --metastore PATH     the server to measure (default: built from this tree)
  --out PATH           the report; raw figures go beside it as .json (default docs/benchmarks.md)
";

/// Longest run of the load tool.
const LOAD_TIMEOUT: Duration = Duration::from_secs(900);
/// How often a running tool is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Members in the rows that are not about memory.
const MEMBERS: usize = 3;
/// What is put.
const VALUE_BYTES: &str = "256";
const KEY_SPACE: &str = "1000000";

/// What is run.
#[derive(Debug)]
struct Plan {
    rounds: usize,
    total: u64,
    memory_keys: u64,
    memory_members: usize,
    etcd: PathBuf,
    load: PathBuf,
    metastore: Option<PathBuf>,
    out: PathBuf,
}

/// One run of the load tool on one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct LoadFigures {
    ops_per_s: f64,
    mean_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// All members together.
    server_cpu_us_per_op: f64,
}

/// The memory row of one system. Bytes are the mean of its members.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct MemoryFigures {
    members: usize,
    keys: u64,
    puts_per_s: f64,
    rss_anon_bytes: u64,
    rss_file_bytes: u64,
    rss_peak_bytes: u64,
    disk_bytes: u64,
    restart_s: f64,
    rss_anon_after_restart_bytes: u64,
    rss_file_after_restart_bytes: u64,
}

/// Everything one system showed.
#[derive(Debug, Default, Serialize)]
struct SystemFigures {
    version: String,
    put_1_client: Vec<LoadFigures>,
    put: Vec<LoadFigures>,
    range_linearizable: Vec<LoadFigures>,
    range_serializable: Vec<LoadFigures>,
    memory: Option<MemoryFigures>,
}

impl Plan {
    fn parse(arguments: &[String]) -> Result<Option<Self>> {
        let root = root();
        let mut plan = Plan {
            rounds: 3,
            total: 100_000,
            memory_keys: 1_000_000,
            memory_members: 1,
            etcd: root.join(".cache/bin/etcd"),
            load: root.join(".cache/bin/benchmark"),
            metastore: None,
            out: root.join("docs/benchmarks.md"),
        };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            if flag == "--help" || flag == "-h" {
                return Ok(None);
            }
            let value = arguments.next().with_context(|| format!("{flag}: a value is missing"))?;
            let number =
                || value.parse().with_context(|| format!("{flag} {value:?}: not a number"));
            match flag.as_str() {
                "--rounds" => plan.rounds = number()? as usize,
                "--total" => plan.total = number()?,
                "--memory-keys" => plan.memory_keys = number()?,
                "--memory-members" => plan.memory_members = number()? as usize,
                "--etcd" => plan.etcd = value.into(),
                "--load" => plan.load = value.into(),
                "--metastore" => plan.metastore = Some(value.into()),
                "--out" => plan.out = value.into(),
                _ => bail!("bench-vs-etcd: unknown flag {flag}"),
            }
        }
        if plan.rounds == 0 || plan.total == 0 || !(1..=9).contains(&plan.memory_members) {
            bail!("bench-vs-etcd: --rounds, --total and --memory-members (to 9) start at 1");
        }
        for (program, flag) in [(&plan.etcd, "--etcd"), (&plan.load, "--load")] {
            if !program.is_file() {
                bail!(
                    "{}: not there; build it with .ci/tools.sh load, or give {flag}",
                    program.display()
                );
            }
        }
        Ok(Some(plan))
    }
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some(plan) = Plan::parse(arguments)? else {
        use std::io::Write;
        return Ok(std::io::stdout().write_all(HELP.as_bytes())?);
    };
    say("building");
    run_command(&mut cargo(&["build", "--profile", "dist", "--quiet", "-p", "metactl"]))?;
    let built = root().join("target/dist");
    let metactl = built.join("metactl");
    let metastore = match &plan.metastore {
        Some(path) => path.clone(),
        None => {
            run_command(&mut cargo(&["build", "--profile", "dist", "--quiet", "-p", "server"]))?;
            built.join("metastore")
        }
    };
    let systems = [plan.etcd.clone(), metastore];
    let mut figures = [SystemFigures::default(), SystemFigures::default()];
    for (program, figures) in systems.iter().zip(&mut figures) {
        figures.version = version(program)?;
    }
    for round in 0..plan.rounds {
        for system in alternating(round) {
            let name = ["etcd", "metastore"][system];
            say(&format!("round {} of {}: {name}", round + 1, plan.rounds));
            measure_load(&plan, &metactl, &systems[system], &mut figures[system])?;
        }
    }
    if plan.memory_keys > 0 {
        for system in alternating(0) {
            say(&format!("memory: {}", ["etcd", "metastore"][system]));
            let memory = measure_memory(&plan, &metactl, &systems[system])?;
            figures[system].memory = Some(memory);
        }
    }
    let text = report::markdown(&plan, &figures)?;
    std::fs::write(&plan.out, &text).with_context(|| plan.out.display().to_string())?;
    let raw = plan.out.with_extension("json");
    std::fs::write(&raw, report::json(&figures)?).with_context(|| raw.display().to_string())?;
    say(&text);
    Ok(())
}

/// Both systems, the first one changing from round to round.
fn alternating(round: usize) -> [usize; 2] {
    if round.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

fn say(line: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn version(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| program.display().to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    // etcd's line is the first; a server with a version of its own has that on the second.
    let lines: Vec<&str> = text.lines().take(2).filter(|line| line.contains("ersion")).collect();
    Ok(lines.join(", "))
}

/// One round of one system: a fresh cluster, all rows one after the other.
fn measure_load(
    plan: &Plan,
    metactl: &Path,
    program: &Path,
    figures: &mut SystemFigures,
) -> Result<()> {
    let cluster = Cluster::start(program, MEMBERS)?;
    let one = (plan.total / 20).clamp(1, 5_000).to_string();
    let total = plan.total.to_string();
    let put =
        ["put", "--val-size", VALUE_BYTES, "--sequential-keys", "--key-space-size", KEY_SPACE];
    let few = ["--conns", "1", "--clients", "1"];
    let many = ["--conns", "100", "--clients", "1000"];
    let load = |clients: &[&str], what: &[&str], total: &str, ops: u64| {
        drive(plan, &cluster, &[clients, what, &["--total", total]].concat(), ops)
    };
    let single = one.parse()?;
    figures.put_1_client.push(load(&few, &put, &one, single)?);
    figures.put.push(load(&many, &put, &total, plan.total)?);
    // The tool's own keys hold zero bytes, which no command line can carry: read another one.
    let value = "v".repeat(VALUE_BYTES.parse()?);
    let endpoints = cluster.endpoints();
    let mut write = Command::new(metactl);
    run_command(
        write.args(["--endpoints", &endpoints, "put", "one", &value]).stdout(Stdio::null()),
    )?;
    let range = ["range", "one"];
    let linearizable = [&range[..], &["--consistency", "l"]].concat();
    let serializable = [&range[..], &["--consistency", "s"]].concat();
    figures.range_linearizable.push(load(&many, &linearizable, &total, plan.total)?);
    figures.range_serializable.push(load(&many, &serializable, &total, plan.total)?);
    cluster.stop()
}

/// Runs the load tool once and reads its report.
fn drive(plan: &Plan, cluster: &Cluster, words: &[&str], ops: u64) -> Result<LoadFigures> {
    let before = cluster.cpu_us()?;
    let mut tool = Command::new(&plan.load)
        .args(["--endpoints", &cluster.endpoints()])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| plan.load.display().to_string())?;
    // Read elsewhere, or a full pipe would hold the tool up.
    let mut pipe = tool.stdout.take().context("the load tool's output")?;
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut pipe, &mut text).map(|_| text)
    });
    let deadline = Instant::now() + LOAD_TIMEOUT;
    let status = loop {
        if let Some(status) = tool.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            tool.kill()?;
            tool.wait()?;
            bail!("the load tool was not done after {LOAD_TIMEOUT:?}: {}", words.join(" "));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let after = cluster.cpu_us()?;
    let text = reader.join().map_err(|_| anyhow::anyhow!("reading the load tool's output"))??;
    let text = String::from_utf8_lossy(&text);
    if !status.success() {
        bail!("the load tool failed ({status}): {}", text.lines().next_back().unwrap_or_default());
    }
    let mut figures = read_tool(&text).with_context(|| format!("the load tool said: {text}"))?;
    figures.server_cpu_us_per_op = (after - before) as f64 / ops as f64;
    Ok(figures)
}

/// The figures in the load tool's report. A run with refused requests is no measurement.
fn read_tool(text: &str) -> Result<LoadFigures> {
    let after = |label: &str| -> Result<f64> {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(label))
            .with_context(|| format!("no line {label:?}"))?;
        let rest = line.trim_start().trim_start_matches(label).trim_start_matches([':', ' ', '\t']);
        let rest = rest.trim_start_matches("in ");
        let word = rest.split_ascii_whitespace().next().unwrap_or_default();
        word.parse().with_context(|| format!("{line:?}"))
    };
    if text.contains("Error distribution") {
        bail!("some requests failed");
    }
    Ok(LoadFigures {
        ops_per_s: after("Requests/sec")?,
        mean_ms: after("Average")? * 1e3,
        p50_ms: after("50%")? * 1e3,
        p99_ms: after("99%")? * 1e3,
        server_cpu_us_per_op: 0.0,
    })
}

/// Fills a fresh cluster with distinct values, looks at its memory and disk, and restarts it.
fn measure_memory(plan: &Plan, metactl: &Path, program: &Path) -> Result<MemoryFigures> {
    let mut cluster = Cluster::start(program, plan.memory_members)?;
    let output = Command::new(metactl)
        .args(["--json", "--endpoints", &cluster.endpoints(), "bench", "put"])
        .args(["--connections", "100", "--clients", "500", "--value-bytes", VALUE_BYTES])
        .args(["--total", &plan.memory_keys.to_string()])
        .args(["--key-space", &plan.memory_keys.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| metactl.display().to_string())?;
    if !output.status.success() {
        bail!("metactl bench failed ({})", output.status);
    }
    let bench: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let puts_per_s = bench["ops_per_s"].as_f64().context("metactl bench gave no ops_per_s")?;
    let full = cluster.memory()?;
    let disk_bytes = cluster.disk_bytes()? / plan.memory_members as u64;
    let restart_s = cluster.restart()?.as_secs_f64();
    let restarted = cluster.memory()?;
    cluster.stop()?;
    Ok(MemoryFigures {
        members: plan.memory_members,
        keys: plan.memory_keys,
        puts_per_s,
        rss_anon_bytes: full.anon_bytes,
        rss_file_bytes: full.file_bytes,
        rss_peak_bytes: full.peak_bytes,
        disk_bytes,
        restart_s,
        rss_anon_after_restart_bytes: restarted.anon_bytes,
        rss_file_after_restart_bytes: restarted.file_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "
Summary:
  Total:\t9.5748 secs.
  Slowest:\t0.3701 secs.
  Fastest:\t0.0021 secs.
  Average:\t0.1180 secs.
  Stddev:\t0.0455 secs.
  Requests/sec:\t8355.4954

Latency distribution:
  10% in 0.0721 secs.
  50% in 0.1030 secs.
  99% in 0.2641 secs.
  99.9% in 0.3323 secs.
";

    #[test]
    fn the_load_tools_report_is_read() {
        let figures = read_tool(SAID).unwrap();
        assert_eq!((figures.ops_per_s, figures.mean_ms), (8355.4954, 118.0));
        assert_eq!((figures.p50_ms, figures.p99_ms), (103.0, 264.1));
        assert!(read_tool("nothing of the kind").is_err());
    }

    #[test]
    fn a_run_with_errors_is_no_measurement() {
        assert!(read_tool(&format!("{SAID}\nError distribution:\n  [3]\trefused")).is_err());
    }

    #[test]
    fn each_system_goes_first_every_other_round() {
        assert_eq!([alternating(0), alternating(1), alternating(2)], [[0, 1], [1, 0], [0, 1]]);
    }
}
