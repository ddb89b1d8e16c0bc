//! `inspect`: the log and the snapshots of a member that is not running, as they lie on the disk.
//!
//! It reads and changes nothing. Damage is shown beside whatever is whole, and the command then
//! fails at its end. A torn tail is no damage: it is what a power cut leaves of a write nobody was
//! promised.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use member::state;
use member::wal::{self, SegmentReport, SnapshotStore, WAL_DIR};
use serde_json::{Value, json};

use crate::files::Files;

#[derive(Debug, Subcommand)]
pub(crate) enum Inspect {
    /// The segments of a log
    Wal(Wal),
    /// The snapshots a member keeps, every chunk checked
    Snapshot(Snapshot),
}

#[derive(Debug, Args)]
pub(crate) struct Wal {
    /// A data directory, or the directory of its log
    path: PathBuf,
    /// Show each batch
    #[arg(long)]
    batches: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// A data directory
    path: PathBuf,
}

impl Inspect {
    pub(crate) fn run(&self, json: bool, out: &mut dyn Write) -> Result<()> {
        match self {
            Inspect::Wal(wal) => wal.run(json, out),
            Inspect::Snapshot(snapshot) => snapshot.run(json, out),
        }
    }
}

fn check_directory(path: &Path) -> Result<()> {
    let about = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    if !about.is_dir() {
        bail!("{}: not a directory", path.display());
    }
    Ok(())
}

impl Wal {
    fn run(&self, json: bool, out: &mut dyn Write) -> Result<()> {
        check_directory(&self.path)?;
        let inside = self.path.join(WAL_DIR);
        let log = if inside.is_dir() { &inside } else { &self.path };
        let mut files = Files::to_look_at(&self.path, Some(log));
        let reports = wal::inspect(&mut files)?;
        if reports.is_empty() {
            bail!("{}: no log here", self.path.display());
        }
        let mut damaged = 0;
        let mut rows = Vec::new();
        for report in &reports {
            match report {
                Ok(report) => {
                    damaged += usize::from(report.damage.is_some());
                    if json {
                        rows.push(self.row(report));
                    } else {
                        self.say(report, out)?;
                    }
                }
                Err(error) => {
                    damaged += 1;
                    if json {
                        rows.push(json!({ "damage": error.to_string() }));
                    } else {
                        writeln!(out, "DAMAGE {error}")?;
                    }
                }
            }
        }
        if json {
            writeln!(out, "{}", Value::from(rows))?;
        }
        match damaged {
            0 => Ok(()),
            damaged => bail!("{}: {damaged} of {} segments damaged", log.display(), reports.len()),
        }
    }

    fn row(&self, report: &SegmentReport) -> Value {
        let batches: Vec<Value> = report
            .batches
            .iter()
            .map(|batch| {
                json!({
                    "offset": batch.offset,
                    "bytes": batch.bytes,
                    "hard_state": batch.hard_state.map(|hard_state| json!({
                        "term": hard_state.term,
                        "vote": format!("{:x}", hard_state.vote),
                        "commit": hard_state.commit,
                    })),
                    "snapshot": batch.snapshot.map(|mark| json!({
                        "index": mark.index,
                        "term": mark.term,
                    })),
                    "entries": batch.entries.map(|((first_term, first), (last_term, last))| json!({
                        "first": { "index": first, "term": first_term },
                        "last": { "index": last, "term": last_term },
                    })),
                })
            })
            .collect();
        let mut row = json!({
            "segment": report.path,
            "cluster": format!("{:x}", report.identity.cluster_id),
            "member": format!("{:x}", report.identity.member_id),
            "first_index": report.first_index,
            "batches": batches.len(),
            "synced_through": report.synced_through,
            "damage": report.damage,
            "rest": report.rest.as_ref().map(|rest| json!({
                "offset": rest.offset,
                "bytes": rest.bytes,
                "reason": rest.reason,
            })),
        });
        if self.batches {
            row["batch_list"] = batches.into();
        }
        row
    }

    fn say(&self, report: &SegmentReport, out: &mut dyn Write) -> Result<()> {
        let entries = match range(report) {
            Some((first, last)) => format!("entries {first} to {last}"),
            None => "no entries".to_owned(),
        };
        writeln!(
            out,
            "{}  {}  {} batches, {entries}, synced through byte {}",
            report.path,
            report.identity,
            report.batches.len(),
            report.synced_through
        )?;
        if self.batches {
            for batch in &report.batches {
                write!(out, "  at {}: {} bytes", batch.offset, batch.bytes)?;
                if let Some(((first_term, first), (last_term, last))) = batch.entries {
                    write!(
                        out,
                        ", entries {first} (term {first_term}) to {last} (term {last_term})"
                    )?;
                }
                if let Some(hard_state) = batch.hard_state {
                    let wal::HardState { term, vote, commit } = hard_state;
                    write!(out, ", term {term}, vote {vote:x}, commit {commit}")?;
                }
                if let Some(mark) = batch.snapshot {
                    write!(out, ", behind snapshot {} (term {})", mark.index, mark.term)?;
                }
                writeln!(out)?;
            }
        }
        if let Some(damage) = &report.damage {
            writeln!(out, "  DAMAGE {damage}")?;
        } else if let Some(rest) = &report.rest {
            writeln!(
                out,
                "  torn tail at {}: {} bytes, {}; nobody was promised these",
                rest.offset, rest.bytes, rest.reason
            )?;
        }
        Ok(())
    }
}

fn range(report: &SegmentReport) -> Option<(u64, u64)> {
    let mut entries = report.batches.iter().filter_map(|batch| batch.entries);
    let ((_, first), (_, mut last)) = entries.next()?;
    for (_, (_, index)) in entries {
        last = index;
    }
    Some((first, last))
}

impl Snapshot {
    fn run(&self, json: bool, out: &mut dyn Write) -> Result<()> {
        check_directory(&self.path)?;
        if !self.path.join(wal::SNAPSHOT_DIR).is_dir() {
            bail!("{}: no snapshots here", self.path.display());
        }
        let mut files = Files::to_look_at(&self.path, None);
        let (mut store, manifests) = SnapshotStore::open(&mut files)?;
        let mut damages: Vec<String> = store
            .damaged()
            .iter()
            .map(|damaged| format!("{}: {}", damaged.path, damaged.reason))
            .collect();
        let mut rows = Vec::new();
        for manifest in &manifests {
            let path = manifest.path();
            let mut chunks = state::snapshot::Restore::new();
            let mut check = || -> Result<state::StateParts> {
                for chunk in &manifest.chunks {
                    chunks.push(&store.read_chunk(&mut files, &chunk.hash)?)?;
                }
                Ok(std::mem::take(&mut chunks).finish()?)
            };
            let bytes: u64 = manifest.chunks.iter().map(|chunk| chunk.bytes).sum();
            match check() {
                Err(error) => damages.push(format!("{path}: {error:#}")),
                Ok(parts) if json => rows.push(json!({
                    "manifest": path,
                    "index": manifest.index,
                    "term": manifest.term,
                    "revision": parts.applied.revision,
                    "compact_revision": parts.applied.compact_revision,
                    "records": parts.records.len(),
                    "chunks": manifest.chunks.len(),
                    "bytes": bytes,
                })),
                Ok(parts) => writeln!(
                    out,
                    "{path}  index {}, term {}, revision {}, {} records, {} chunks, {bytes} bytes: whole",
                    manifest.index,
                    manifest.term,
                    parts.applied.revision,
                    parts.records.len(),
                    manifest.chunks.len(),
                )?,
            }
        }
        if json {
            rows.extend(damages.iter().map(|damage| json!({ "damage": damage })));
            writeln!(out, "{}", Value::from(rows))?;
        } else {
            for damage in &damages {
                writeln!(out, "DAMAGE {damage}")?;
            }
        }
        match damages.len() {
            0 => Ok(()),
            count => bail!("{}: {count} snapshots damaged", self.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::tests::{restore, saved};

    /// The data directory of a restored member.
    fn member() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        restore(&saved(directory.path()), &data_dir).run(false, &mut Vec::new()).unwrap();
        (directory, data_dir)
    }

    fn wal(path: &Path) -> (Result<()>, String) {
        let mut out = Vec::new();
        let outcome = Wal { path: path.to_path_buf(), batches: true }.run(false, &mut out);
        (outcome, String::from_utf8(out).unwrap())
    }

    fn only_file(directory: &Path, suffix: &str) -> PathBuf {
        let mut found = std::fs::read_dir(directory).unwrap().filter_map(|entry| {
            let path = entry.unwrap().path();
            path.to_str().unwrap().ends_with(suffix).then_some(path)
        });
        let first = found.next().unwrap();
        assert!(found.next().is_none(), "more than one {suffix}");
        first
    }

    #[test]
    fn a_log_is_found_by_the_data_directory_and_by_its_own() {
        let (_keep, data_dir) = member();
        for path in [data_dir.clone(), data_dir.join(WAL_DIR)] {
            let (outcome, said) = wal(&path);
            outcome.unwrap();
            assert!(said.contains("member 8e9e05c52164694d"), "{said}");
            assert!(said.contains("behind snapshot 1 (term 1)"), "{said}");
        }
        let mut out = Vec::new();
        Wal { path: data_dir, batches: false }.run(true, &mut out).unwrap();
        let rows: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(rows[0]["damage"], Value::Null);
    }

    #[test]
    fn a_flipped_header_is_reported_and_fails_the_command() {
        let (_keep, data_dir) = member();
        let segment = only_file(&data_dir.join(WAL_DIR), ".wal");
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        let (outcome, said) = wal(&data_dir);
        assert!(outcome.unwrap_err().to_string().contains("1 of 1 segments damaged"));
        assert!(said.contains("DAMAGE"), "{said}");
        assert_eq!(std::fs::read(&segment).unwrap(), bytes);
    }

    #[test]
    fn a_segment_cut_short_is_reported_and_fails_the_command() {
        let (_keep, data_dir) = member();
        let segment = only_file(&data_dir.join(WAL_DIR), ".wal");
        let bytes = std::fs::read(&segment).unwrap();
        // Nothing but zeros is missing, and yet it is not what was there.
        std::fs::write(&segment, &bytes[..bytes.len() - 1]).unwrap();
        let (outcome, said) = wal(&data_dir);
        assert!(outcome.unwrap_err().to_string().contains("1 of 1 segments damaged"));
        let (there, made) = (bytes.len() - 1, bytes.len());
        assert!(said.contains(&format!("cut short: {there} of {made} bytes are there")), "{said}");
        assert_eq!(std::fs::read(&segment).unwrap(), &bytes[..bytes.len() - 1]);
    }

    #[test]
    fn a_rotten_chunk_is_reported_and_fails_the_command() {
        let (_keep, data_dir) = member();
        let look = || {
            let mut out = Vec::new();
            let outcome = Snapshot { path: data_dir.clone() }.run(false, &mut out);
            (outcome, String::from_utf8(out).unwrap())
        };
        let (outcome, said) = look();
        outcome.unwrap();
        assert!(said.contains("index 1, term 1, revision 1"), "{said}");

        let chunks = data_dir.join(wal::CHUNK_DIR);
        let chunk = std::fs::read_dir(chunks).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&chunk).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&chunk, bytes).unwrap();
        let (outcome, said) = look();
        assert!(outcome.is_err() && said.contains("DAMAGE"), "{said}");
    }

    #[test]
    fn what_is_no_member_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let said = |path: &Path| format!("{:#}", wal(path).0.unwrap_err());
        assert!(said(&missing).contains("missing"));
        assert!(said(directory.path()).ends_with("no log here"));
        let snapshot = Snapshot { path: directory.path().to_path_buf() };
        let error = snapshot.run(false, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().ends_with("no snapshots here"));
    }
}
