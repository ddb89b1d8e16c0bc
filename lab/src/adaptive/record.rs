//! Figures as they are kept: a JSON file a cell, written after everything that was measured of it, so
//! that a run that was stopped goes on where it ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Where and when: enough to judge the figures. No name of a machine and no path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) date: String,
    pub(super) cores: usize,
    pub(super) kernel: String,
    /// The last one that changed the server.
    pub(super) commit: String,
    /// Busy processes before the cell began, besides what is measured.
    pub(super) load: f64,
}

/// How a leader was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Its process was killed; the host refuses connections.
    Crash,
    /// It was cut off first: nothing answers any more.
    Host,
    /// Its process was asked to end (SIGTERM), as in a rolling restart.
    Restart,
    /// It was told to hand the leadership over (`etcdctl move-leader`).
    Move,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Crash, Kind::Host, Kind::Restart, Kind::Move];
    /// Planned hand-overs.
    pub(super) const PLANNED: [Kind; 2] = [Kind::Restart, Kind::Move];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Crash => "crash",
            Kind::Host => "host",
            Kind::Restart => "restart",
            Kind::Move => "move",
        }
    }
}

/// One leader lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Loss {
    pub(super) kind: Kind,
    /// Until the first survivor left its leader; none: nobody was seen to.
    pub(super) detection_ms: Option<f64>,
    /// Longest time without an acknowledged write.
    pub(super) gap_ms: f64,
    /// Whether another led and writes were acknowledged again within the limit; a leader may also fail to
    /// hand over.
    pub(super) recovered: bool,
    /// By how much the term grew until all members agreed again: one for each election held.
    pub(super) terms: u64,
}

/// A time in which nobody was killed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Watch {
    pub(super) seconds: f64,
    /// Terms begun while every member was alive.
    pub(super) false_elections: u64,
    pub(super) gap_ms: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) ops_per_s: f64,
    /// Of one processor, all members together.
    pub(super) cpu: f64,
    /// How often each member was written to.
    #[serde(default = "five")]
    pub(super) put_every_ms: u64,
    /// How often members asked whether they would win an election; none: it is not told.
    #[serde(default)]
    pub(super) pre_campaigns: Option<u64>,
}

fn five() -> u64 {
    5
}

/// Thousands of writes on their way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Load {
    pub(super) on_way: usize,
    pub(super) ops_per_s: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// A constant that was tried for the oracle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tried {
    pub(super) heartbeat_ms: u64,
    pub(super) election_ms: u64,
    /// Median of the time without writes after lost hosts; none: it does not keep a leader.
    pub(super) gap_ms: Option<f64>,
    pub(super) false_elections: u64,
}

/// What is known of a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) preset: String,
    pub(super) column: String,
    pub(super) machine: Machine,
    pub(super) version: String,
    pub(super) keys: u64,
    /// Most cells that were measured at the same time, this one among them.
    #[serde(default = "one")]
    pub(super) side_by_side: usize,
    /// How long it took so far.
    #[serde(default)]
    pub(super) spent_s: f64,
    pub(super) heartbeat_ms: u64,
    pub(super) election_ms: u64,
    /// Of a plan: what decided its election timeout.
    #[serde(default)]
    pub(super) binding: Option<String>,
    /// Round trips between the two members farthest apart, as measured without servers.
    pub(super) rtt_ms_p50: f64,
    pub(super) rtt_ms_p99: f64,
    /// Packets a second between members that have nothing to do.
    pub(super) idle_packets_per_s: Option<f64>,
    pub(super) watch: Option<Watch>,
    pub(super) load: Option<Load>,
    pub(super) losses: Vec<Loss>,
    pub(super) tried: Vec<Tried>,
    /// What could not be measured, and why.
    pub(super) missing: Option<String>,
    /// The reason is that members did not agree on a leader: a result, and no further try changes it.
    #[serde(default)]
    pub(super) keeps_no_leader: bool,
}

/// What is to be measured of a cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    pub(super) watch: Duration,
    /// Writes are sent only every so often while nobody is killed: for cells that are watched for long,
    /// side by side with others.
    pub(super) is_light: bool,
    pub(super) load: bool,
    pub(super) losses: Vec<(Kind, usize)>,
}

fn one() -> usize {
    1
}

impl Record {
    pub(super) fn path(preset: &str, column: &str) -> PathBuf {
        folder().join(format!("{preset}.{column}.json"))
    }

    /// `None`: it was never measured.
    pub(super) fn load(preset: &str, column: &str) -> Result<Option<Self>> {
        read_json(&Self::path(preset, column))
    }

    pub(super) fn save(&self) -> Result<()> {
        write_json(&Self::path(&self.preset, &self.column), self)
    }

    /// Whether further figures may stand beside these: the same program, machine and store. Of etcd its
    /// version says which program it is, of MetaStore the commit.
    pub(super) fn goes_with(&self, other: &Record) -> bool {
        let of = |it: &Record| {
            let machine = &it.machine;
            let commit = if it.column.starts_with("etcd") { "" } else { &*machine.commit };
            let on = (machine.cores, machine.kernel.clone(), commit.to_owned());
            (on, it.version.clone(), it.keys)
        };
        of(self) == of(other)
    }

    /// Whether it has everything that is wanted of it.
    pub(super) fn is_whole(&self, wanted: &Wanted) -> bool {
        let watch = self.watch.as_ref().map_or(0.0, |watch| watch.seconds.ceil());
        let losses = |(kind, count): &(Kind, usize)| self.count(*kind) >= *count;
        self.keeps_no_leader
            || (watch >= wanted.watch.as_secs_f64()
                && (self.load.is_some() || !wanted.load)
                && wanted.losses.iter().all(losses))
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        self.losses.iter().filter(|loss| loss.kind == kind).count()
    }

    /// Times without writes after losses of a kind, sorted.
    pub(super) fn gaps(&self, kind: Kind) -> Vec<f64> {
        let of_kind = self.losses.iter().filter(|loss| loss.kind == kind);
        sorted(of_kind.map(|loss| loss.gap_ms).collect())
    }

    /// Times until somebody noticed, sorted.
    pub(super) fn detections(&self, kind: Kind) -> Vec<f64> {
        let of_kind = self.losses.iter().filter(|loss| loss.kind == kind);
        sorted(of_kind.filter_map(|loss| loss.detection_ms).collect())
    }
}

/// Where the files are.
pub(super) fn folder() -> PathBuf {
    super::root().join("target/adaptive")
}

/// What is published and not in the folder, which a fresh clone does not have: it goes on being published
/// until it is measured again.
pub(super) fn take_over(published: &Path, folder: &Path) -> Result<()> {
    let Some(all) = read_json::<serde_json::Value>(published)? else { return Ok(()) };
    let of = |list: &str| all[list].as_array().cloned().unwrap_or_default();
    let cells = of("cells").into_iter().map(|cell| (cell["column"].clone(), cell));
    let seen = of("seen").into_iter().map(|seen| ("seen".into(), seen));
    for (kind, record) in cells.chain(seen) {
        let (Some(preset), Some(kind)) = (record["preset"].as_str(), kind.as_str()) else {
            bail!("{}: a record without preset or column", published.display());
        };
        let path = folder.join(format!("{preset}.{kind}.json"));
        if !path.exists() {
            write_json(&path, &record)?;
        }
    }
    Ok(())
}

/// `None`: there is no such file.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    serde_json::from_str(&text).map(Some).with_context(|| path.display().to_string())
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let parent = path.parent().context("a file is in a folder")?;
    std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let text = serde_json::to_string_pretty(value)? + "\n";
    // Aside first: a run that is stopped leaves the last whole file.
    let aside = path.with_extension("json.new");
    std::fs::write(&aside, text).with_context(|| aside.display().to_string())?;
    std::fs::rename(&aside, path).with_context(|| path.display().to_string())
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The value so far into a sorted row, by the nearest rank.
pub(super) fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    if part == 0.5 && sorted.len().is_multiple_of(2) {
        return Some(f64::midpoint(sorted[last / 2], sorted[last / 2 + 1]));
    }
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1).min(last)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_between_and_p90_of_ten_is_the_ninth() {
        let row: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!((quantile(&row, 0.5), quantile(&row, 0.9)), (Some(5.5), Some(9.0)));
        assert_eq!((quantile(&row, 1.0), quantile(&row[..3], 0.5)), (Some(10.0), Some(2.0)));
        assert_eq!((quantile(&[], 0.5), quantile(&row, 0.0)), (None, Some(1.0)));
    }

    #[test]
    fn a_cell_is_whole_once_it_has_what_is_wanted_or_cannot_have_it() {
        let wanted = Wanted {
            watch: Duration::from_secs(20),
            losses: vec![(Kind::Host, 1)],
            ..Wanted::default()
        };
        let mut record = Record::default();
        assert!(!record.is_whole(&wanted));
        record.watch = Some(Watch { seconds: 20.1, ..Watch::default() });
        assert!(!record.is_whole(&wanted));
        record.losses.push(Loss {
            kind: Kind::Host,
            detection_ms: None,
            gap_ms: 1.0,
            recovered: true,
            terms: 1,
        });
        assert!(record.is_whole(&wanted));
        assert!(!record.is_whole(&Wanted { load: true, ..wanted.clone() }));
        assert!(!record.is_whole(&Wanted { watch: Duration::from_secs(60), ..wanted.clone() }));
        let none = Record { keeps_no_leader: true, ..Record::default() };
        assert!(none.is_whole(&wanted));
    }

    #[test]
    fn figures_of_another_commit_do_not_go_together_and_those_of_another_day_do() {
        let machine = |commit: &str, date: &str| Machine {
            commit: commit.into(),
            date: date.into(),
            ..Machine::default()
        };
        let record = |machine| Record { machine, ..Record::default() };
        let first = record(machine("a", "1"));
        assert!(first.goes_with(&record(machine("a", "2"))));
        assert!(!first.goes_with(&record(machine("b", "1"))));
        let etcd = |commit| Record { column: "etcd".into(), ..record(machine(commit, "1")) };
        assert!(etcd("a").goes_with(&etcd("b")), "it is not built from this tree");
        assert!(!first.goes_with(&Record { keys: 5, ..first.clone() }));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let loss =
            Loss { kind: Kind::Host, detection_ms: None, gap_ms: 1.5, recovered: true, terms: 2 };
        let record =
            Record { losses: vec![loss], watch: Some(Watch::default()), ..Record::default() };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert_eq!((record.count(Kind::Host), record.count(Kind::Crash)), (1, 0));
    }

    #[test]
    fn what_is_published_stays_so_and_what_was_measured_since_stays_too() {
        let folder = tempfile::tempdir().unwrap();
        let cell = |column: &str, keys| Record {
            preset: "same-zone".into(),
            column: column.into(),
            keys,
            ..Record::default()
        };
        let published = folder.path().join("published.json");
        let all = serde_json::json!({
            "cells": [cell("etcd", 1), cell("balanced", 1)],
            "seen": [{ "preset": "same-zone" }],
        });
        write_json(&published, &all).unwrap();
        let into = folder.path().join("kept");
        write_json(&into.join("same-zone.etcd.json"), &cell("etcd", 2)).unwrap();

        take_over(&published, &into).unwrap();
        let keys = |name: &str| {
            let record = read_json::<Record>(&into.join(name)).unwrap();
            record.map(|record| record.keys)
        };
        assert_eq!(keys("same-zone.etcd.json"), Some(2));
        assert_eq!(keys("same-zone.balanced.json"), Some(1));
        assert!(into.join("same-zone.seen.json").exists());
        take_over(&folder.path().join("nothing.json"), &into).unwrap();
    }
}
