//! What `tune auto` remembers, in a file: since when a shorter timeout is asked for, which plan is on
//! trial, what was good before, how often plans were taken back.
//!
//! Written before a plan is submitted, so that whoever starts anew finds the plan pending that may have
//! been submitted meanwhile. The file is replaced as a whole; it names its cluster, for what was
//! learnt of one says nothing of another.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use autotune::planner::State;
use serde::{Deserialize, Serialize};

/// Shapes of the file; another is not read.
const FORMAT: u32 = 1;
/// Longest file that is read; a memory takes a few kilobytes.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Deserialize, Serialize)]
struct Kept {
    format: u32,
    /// Hexadecimal, as everywhere.
    cluster: String,
    state: State,
}

/// The file, and the cluster it turned out to be of.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    cluster: Option<String>,
}

impl Memory {
    /// Reads the file; there may be none yet.
    pub(super) fn open(path: &Path) -> Result<(Memory, State)> {
        let named = || format!("--state {}", path.display());
        let mut memory = Memory { path: path.to_owned(), cluster: None };
        let length = match std::fs::metadata(path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok((memory, State::default()));
            }
            Err(error) => return Err(error).with_context(named),
        };
        if length > BYTES_MAX {
            bail!("{}: {length} bytes are no memory of a planner", named());
        }
        let bytes = std::fs::read(path).with_context(named)?;
        let kept: Kept = serde_json::from_slice(&bytes).with_context(named)?;
        if kept.format != FORMAT {
            bail!("{}: format {} is not known, only {FORMAT}", named(), kept.format);
        }
        memory.cluster = Some(kept.cluster);
        Ok((memory, kept.state))
    }

    /// Fails if what is remembered is of another cluster.
    pub(super) fn check(&mut self, cluster_id: u64) -> Result<()> {
        let seen = format!("{cluster_id:x}");
        let known = self.cluster.get_or_insert_with(|| seen.clone());
        if *known != seen {
            bail!("--state {}: of cluster {known}, but this is {seen}", self.path.display());
        }
        Ok(())
    }

    /// Replaces the file.
    pub(super) fn save(&self, state: &State) -> Result<()> {
        let named = || format!("--state {}", self.path.display());
        let cluster = self.cluster.clone().unwrap_or_default();
        let kept = Kept { format: FORMAT, cluster, state: state.clone() };
        let folder = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))
            .with_context(named)?;
        serde_json::to_writer(&mut file, &kept).with_context(named)?;
        file.flush().and_then(|()| file.as_file().sync_all()).with_context(named)?;
        file.persist(&self.path).with_context(named)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use autotune::Params;
    use autotune::planner::{Kind, Pending, Writes};

    use super::*;

    #[test]
    fn what_was_remembered_is_there_after_a_restart_and_of_one_cluster_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.json");
        let (mut memory, state) = Memory::open(&path).unwrap();
        assert_eq!(state, State::default());
        memory.check(0xc1).unwrap();
        let state = State {
            now_ms: 5,
            pending: Some(Pending {
                to: Some(Params::default()),
                kind: Kind::Trial,
                decided_ms: 4,
                writes: Some(Writes { p99_us: 7_000, per_second: 50 }),
            }),
            silences_us: vec![(3, 80_000)],
            ..State::default()
        };
        memory.save(&state).unwrap();
        let (mut memory, again) = Memory::open(&path).unwrap();
        assert_eq!(again, state);
        memory.check(0xc1).unwrap();
        let line = memory.check(0xc2).unwrap_err().to_string();
        assert!(line.ends_with("of cluster c1, but this is c2"), "{line}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_file_that_is_no_memory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory.json");
        for bad in ["", "{}", "{\"format\":2,\"cluster\":\"c1\",\"state\":{}}"] {
            std::fs::write(&path, bad).unwrap();
            let line = Memory::open(&path).unwrap_err().to_string();
            assert!(line.contains("memory.json"), "{line}");
        }
    }
}
