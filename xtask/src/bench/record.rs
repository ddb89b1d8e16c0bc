//! Figures as they are kept: one JSON file a section, every round's figure in it.
//!
//! A file is written after each round, so a run that was stopped goes on where it ended, and a section
//! can be measured again without the others.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::cluster;

/// What a figure is of.
pub(super) const ETCD: &str = "etcd";
pub(super) const METASTORE: &str = "MetaStore";
pub(super) const ECHO: &str = "echo";

/// Where and when: enough to judge the figures. No name of a machine and no path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) date: String,
    pub(super) cores: usize,
    pub(super) kernel: String,
    pub(super) memory_gib: u64,
    pub(super) commit: String,
}

/// One figure of one subject, a value for each round it was measured in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Series {
    pub(super) case: String,
    pub(super) figure: String,
    pub(super) subject: String,
    pub(super) rounds: Vec<f64>,
}

/// What one section has shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) section: String,
    pub(super) machine: Machine,
    pub(super) profile: String,
    /// Of the loads; below 1 the tool was tried, not the servers measured.
    pub(super) scale: f64,
    pub(super) etcd: String,
    pub(super) metastore: String,
    pub(super) rounds: usize,
    pub(super) took_s: f64,
    pub(super) series: Vec<Series>,
    /// What could not be measured, and why; each once.
    pub(super) missing: Vec<String>,
}

impl Record {
    pub(super) fn add(&mut self, case: &str, figure: &str, subject: &str, value: f64) {
        let found = self.series.iter_mut().find(|series| {
            series.case == case && series.figure == figure && series.subject == subject
        });
        match found {
            Some(series) => series.rounds.push(value),
            None => self.series.push(Series {
                case: case.to_owned(),
                figure: figure.to_owned(),
                subject: subject.to_owned(),
                rounds: vec![value],
            }),
        }
    }

    /// Notes what is not there.
    pub(super) fn miss(&mut self, what: String) {
        if !self.missing.contains(&what) {
            self.missing.push(what);
        }
    }

    /// Measures a case; one that fails is noted and the others go on. A signal ends them all.
    pub(super) fn attempt(
        &mut self,
        what: &str,
        measure: impl FnOnce(&mut Record) -> Result<()>,
    ) -> Result<()> {
        let mut with = self.clone();
        match measure(&mut with) {
            Ok(()) => *self = with,
            Err(_) if super::stop::asked() => super::stop::check()?,
            Err(error) => {
                super::say(&format!("  {what} failed: {error:#}"));
                self.miss(format!("{what}: {error:#}"));
            }
        }
        Ok(())
    }

    pub(super) fn of(&self, case: &str, figure: &str, subject: &str) -> Option<&[f64]> {
        let found = self.series.iter().find(|series| {
            series.case == case && series.figure == figure && series.subject == subject
        });
        found.map(|series| &series.rounds[..])
    }

    pub(super) fn median(&self, case: &str, figure: &str, subject: &str) -> Option<f64> {
        self.of(case, figure, subject).and_then(median)
    }

    /// The file a section is kept in.
    pub(super) fn path(section: &str) -> PathBuf {
        cluster::folder().join(format!("{section}.json"))
    }

    /// `None`: it was never measured.
    pub(super) fn load(section: &str) -> Result<Option<Self>> {
        read_json(&Self::path(section))
    }

    /// What a section's last run showed: here, or else, in a fresh clone, what is published.
    pub(super) fn last(section: &str, published: &Path) -> Result<Option<Self>> {
        Ok(match Self::load(section)? {
            Some(record) => Some(record),
            None => Self::published(section, published)?,
        })
    }

    fn published(section: &str, published: &Path) -> Result<Option<Self>> {
        let all: Vec<Self> = read_json(published)?.unwrap_or_default();
        Ok(all.into_iter().find(|record| record.section == section))
    }

    pub(super) fn save(&self) -> Result<()> {
        let path = Self::path(&self.section);
        let parent = path.parent().context("a file is in a folder")?;
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        let text = serde_json::to_string_pretty(self)? + "\n";
        // Aside first: a run that is stopped leaves the last whole file.
        let aside = path.with_extension("json.new");
        std::fs::write(&aside, text).with_context(|| aside.display().to_string())?;
        std::fs::rename(&aside, &path).with_context(|| path.display().to_string())
    }

    /// Whether figures of a further round may stand beside these.
    pub(super) fn goes_with(&self, other: &Record) -> bool {
        let of = |it: &Record| {
            let machine = Machine { date: String::new(), ..it.machine.clone() };
            (machine, it.profile.clone(), it.scale, it.etcd.clone(), it.metastore.clone())
        };
        of(self) == of(other)
    }
}

/// `None`: there is no such file.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    serde_json::from_str(&text).map(Some).with_context(|| path.display().to_string())
}

/// The middle one; the mean of the two in the middle of an even number.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count.is_multiple_of(2) => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

impl Machine {
    pub(super) fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = read("/proc/meminfo");
        let kib = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let git = |words: &[&str]| {
            std::process::Command::new("git")
                .current_dir(crate::chores::root())
                .args(words)
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
                .unwrap_or_default()
        };
        let mut commit = git(&["rev-parse", "--short=12", "HEAD"]);
        // Documents, this one among them, change no figure.
        if !git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"]).is_empty()
        {
            commit += " and changes";
        }
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
    fn a_median_is_not_moved_by_one_bad_round_and_none_has_none() {
        assert_eq!(median(&[9.0, 1.0, 500.0]), Some(9.0));
        assert_eq!(median(&[1.0, 3.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn what_is_published_is_found_by_its_section() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("published.json");
        assert!(Record::published("memory", &path).expect("no file").is_none());
        let memory = Record { section: "memory".into(), rounds: 3, ..Record::default() };
        let text = serde_json::to_string(&[memory]).expect("written");
        std::fs::write(&path, text).expect("written");
        let found = |section| Record::published(section, &path).expect("read");
        assert_eq!(found("memory").map(|record| record.rounds), Some(3));
        assert!(found("leases").is_none());
    }

    #[test]
    fn every_round_is_kept() {
        let mut record = Record::default();
        for value in [3.0, 900.0, 1.0] {
            record.add("put", "p99 ms", ETCD, value);
        }
        record.add("put", "p99 ms", METASTORE, 7.0);
        assert_eq!(record.of("put", "p99 ms", ETCD), Some(&[3.0, 900.0, 1.0][..]));
        assert_eq!(record.median("put", "p99 ms", ETCD), Some(3.0));
        assert_eq!(record.median("range", "p99 ms", ETCD), None);
    }

    #[test]
    fn a_case_that_fails_leaves_a_reason_and_no_figure() {
        let mut record = Record::default();
        let failing = |record: &mut Record| {
            record.add("put", "p99 ms", ETCD, 1.0);
            anyhow::bail!("the disk is full")
        };
        for _ in 0..2 {
            record.attempt("put of etcd", failing).unwrap();
        }
        assert_eq!(record.missing, ["put of etcd: the disk is full"]);
        assert!(record.series.is_empty());
    }

    #[test]
    fn rounds_of_another_commit_or_profile_do_not_go_together() {
        let machine = |commit: &str, date: &str| Machine {
            commit: commit.into(),
            date: date.into(),
            ..Machine::default()
        };
        let record = Record { machine: machine("a", "1"), ..Record::default() };
        assert!(record.goes_with(&Record { machine: machine("a", "2"), ..Record::default() }));
        assert!(!record.goes_with(&Record { machine: machine("b", "1"), ..Record::default() }));
        assert!(!record.goes_with(&Record { profile: "dist".into(), ..record.clone() }));
    }
}
