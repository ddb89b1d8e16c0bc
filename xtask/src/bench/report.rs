//! What is written to `docs/benchmarks.md`: medians, ratios, and where they were measured. No name
//! of a machine and no path.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use super::{LoadFigures, Plan, SystemFigures};

/// Where and when: enough to judge the figures.
#[derive(Debug, Serialize)]
struct Machine {
    date: String,
    cores: usize,
    kernel: String,
    memory_gib: u64,
    commit: String,
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = read("/proc/meminfo");
        let kib = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let commit = std::process::Command::new("git")
            .current_dir(crate::chores::root())
            .args(["rev-parse", "--short=12", "HEAD"])
            .output()
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
            .unwrap_or_default();
        Machine {
            date: date(seconds / 86_400),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gib: (kib + (1 << 19)) >> 20,
            commit,
        }
    }
}

/// Year, month and day of a day counted from 1970-01-01.
fn date(days: u64) -> String {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", rest + 1)
}

/// The middle one; the mean of the two in the middle of an even number.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count.is_multiple_of(2) => f64::midpoint(values[count / 2 - 1], values[count / 2]),
        count => values[count / 2],
    }
}

/// A figure of one run.
type Figure = fn(&LoadFigures) -> f64;

pub(super) fn markdown(plan: &Plan, [etcd, metastore]: &[SystemFigures; 2]) -> Result<String> {
    let machine = Machine::here();
    let mut text = String::new();
    writeln!(
        text,
        "# Beside etcd\n\n\
         Written by `cargo xtask bench-vs-etcd`. Both systems in turns on one machine, {} rounds, medians; \
         syncing on, everything on loopback, the load tool on the same cores. Ratios mean something, \
         absolute figures belong to this machine.\n",
        plan.rounds
    )?;
    writeln!(
        text,
        "{} · {} cores, {} GiB, Linux {} · commit {}\n\n* etcd: {}\n* MetaStore: {}\n",
        machine.date,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.commit,
        etcd.version,
        metastore.version,
    )?;
    writeln!(
        text,
        "Load: etcd's own tool, three members; with 1,000 clients over 100 connections {} requests a \
         round; values of 256 B, `--sequential-keys --key-space-size=1000000`; ranges read one key.\n",
        plan.total
    )?;
    writeln!(text, "| load | figure | etcd | MetaStore | ratio |\n|---|---|---|---|---|")?;
    let loads = [
        ("put, 1 client", &etcd.put_1_client, &metastore.put_1_client),
        ("put, 1,000 clients", &etcd.put, &metastore.put),
        (
            "linearizable range, 1,000 clients",
            &etcd.range_linearizable,
            &metastore.range_linearizable,
        ),
        (
            "serializable range, 1,000 clients",
            &etcd.range_serializable,
            &metastore.range_serializable,
        ),
    ];
    let figures: [(&str, Figure); 5] = [
        ("requests/s", |run| run.ops_per_s),
        ("mean ms", |run| run.mean_ms),
        ("p50 ms", |run| run.p50_ms),
        ("p99 ms", |run| run.p99_ms),
        ("server CPU µs per request", |run| run.server_cpu_us_per_op),
    ];
    for (load, etcd, metastore) in loads {
        for (name, figure) in figures {
            let of = |runs: &[LoadFigures]| median(runs.iter().map(figure));
            row(&mut text, load, name, of(etcd), of(metastore))?;
        }
    }
    if let (Some(etcd), Some(metastore)) = (&etcd.memory, &metastore.memory) {
        writeln!(
            text,
            "\nMemory, disk and restart: {} keys with distinct incompressible values of 256 B by \
             `metactl bench put`, {} member(s), figures of one member.\n\n\
             | figure | etcd | MetaStore | ratio |\n|---|---|---|---|",
            etcd.keys, etcd.members
        )?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        for (name, etcd, metastore) in [
            ("resident MiB, anonymous", mib(etcd.rss_anon_bytes), mib(metastore.rss_anon_bytes)),
            ("resident MiB, of files", mib(etcd.rss_file_bytes), mib(metastore.rss_file_bytes)),
            (
                "resident MiB, both",
                mib(etcd.rss_anon_bytes + etcd.rss_file_bytes),
                mib(metastore.rss_anon_bytes + metastore.rss_file_bytes),
            ),
            ("resident MiB, peak", mib(etcd.rss_peak_bytes), mib(metastore.rss_peak_bytes)),
            ("MiB on disk", mib(etcd.disk_bytes), mib(metastore.disk_bytes)),
            ("puts/s while filling", etcd.puts_per_s, metastore.puts_per_s),
            ("restart to healthy, s", etcd.restart_s, metastore.restart_s),
            (
                "resident MiB after restart, anonymous",
                mib(etcd.rss_anon_after_restart_bytes),
                mib(metastore.rss_anon_after_restart_bytes),
            ),
            // A member that maps its file pays there for what another holds in its heap.
            (
                "resident MiB after restart, both",
                mib(etcd.rss_anon_after_restart_bytes + etcd.rss_file_after_restart_bytes),
                mib(metastore.rss_anon_after_restart_bytes + metastore.rss_file_after_restart_bytes),
            ),
        ] {
            let ratio = metastore / etcd;
            writeln!(text, "| {name} | {} | {} | {ratio:.2} |", short(etcd), short(metastore))?;
        }
    }
    Ok(text)
}

fn row(text: &mut String, load: &str, name: &str, etcd: f64, metastore: f64) -> Result<()> {
    let ratio = metastore / etcd;
    writeln!(text, "| {load} | {name} | {} | {} | {ratio:.2} |", short(etcd), short(metastore))?;
    Ok(())
}

/// Three figures that count.
fn short(value: f64) -> String {
    match value.abs() {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

pub(super) fn json([etcd, metastore]: &[SystemFigures; 2]) -> Result<String> {
    #[derive(Serialize)]
    struct Raw<'a> {
        machine: Machine,
        etcd: &'a SystemFigures,
        metastore: &'a SystemFigures,
    }
    let raw = Raw { machine: Machine::here(), etcd, metastore };
    Ok(serde_json::to_string_pretty(&raw)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (days, text) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (789, "1972-02-29"), (20_818, "2026-12-31")]
        {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn a_median_is_not_moved_by_one_bad_run() {
        assert_eq!(median([9.0, 1.0, 500.0].into_iter()), 9.0);
        assert_eq!(median([1.0, 3.0].into_iter()), 2.0);
    }
}
