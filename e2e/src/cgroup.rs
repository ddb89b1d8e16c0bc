//! The node's control groups: one name in every hierarchy, so that whatever was ever started for the
//! node can be found and ended, and so that the kubelet's groups have a parent that goes with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for a group to become empty and go.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A control group of the same name in every hierarchy.
#[derive(Clone, Debug)]
pub struct Group {
    /// Where hierarchies are mounted, version 2 first.
    hierarchies: Vec<PathBuf>,
    name: String,
}

impl Group {
    /// On this machine.
    pub fn new(name: &str) -> Result<Group> {
        let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
        let hierarchies = hierarchies(&mounts);
        if hierarchies.is_empty() {
            bail!("no control groups are mounted below /sys/fs/cgroup");
        }
        Ok(Group { hierarchies, name: name.to_owned() })
    }

    fn tops(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|mount| mount.join(&self.name))
    }

    /// Makes the groups, and puts this process into one where all its descendants stay.
    pub fn create_and_join(&self) -> Result<()> {
        for top in self.tops() {
            fs::create_dir_all(&top).with_context(|| top.display().to_string())?;
            for dir in [top.parent(), Some(&top)].into_iter().flatten() {
                enable_controllers(dir);
            }
        }
        // Not the group itself: in version 2 one with children holds no processes.
        let system = self.tops().next().expect("there is a hierarchy").join("system");
        fs::create_dir_all(&system).with_context(|| system.display().to_string())?;
        let procs = system.join("cgroup.procs");
        fs::write(&procs, "0").with_context(|| procs.display().to_string())
    }

    /// Whether there is a process in any of them.
    pub fn is_populated(&self) -> bool {
        self.tops().any(|top| !processes(&top).is_empty())
    }

    /// Ends what is in them and removes them. Nothing is there is fine.
    pub fn remove(&self) -> Result<()> {
        let end = Instant::now() + REMOVE_LIMIT;
        for top in self.tops() {
            while top.exists() {
                for pid in processes(&top).into_iter().filter_map(Pid::from_raw) {
                    // It may have ended on its own meanwhile.
                    let _ = kill_process(pid, Signal::KILL);
                }
                for dir in deepest_first(&top) {
                    let _ = fs::remove_dir(dir);
                }
                if Instant::now() > end && top.exists() {
                    let left = processes(&top);
                    bail!("{}: cannot be removed, processes in it: {left:?}", top.display());
                }
                if top.exists() {
                    std::thread::sleep(LOOK_EVERY);
                }
            }
        }
        Ok(())
    }
}

/// Mount points of hierarchies, version 2 first: of several it is the one that is only for keeping track.
fn hierarchies(mounts: &str) -> Vec<PathBuf> {
    let mut found: Vec<(bool, PathBuf)> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup" || kind == "cgroup2").then(|| (kind == "cgroup", path.into()))
        })
        .filter(|(_, path): &(bool, PathBuf)| path.starts_with("/sys/fs/cgroup"))
        .collect();
    found.sort();
    found.dedup();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Version 2 hands controllers down only when told to.
fn enable_controllers(dir: &Path) {
    let Ok(available) = fs::read_to_string(dir.join("cgroup.controllers")) else { return };
    for controller in available.split_whitespace() {
        // One that is in use by version 1, or refused here, is not needed.
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

fn deepest_first(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_path_buf()];
    let mut next = 0;
    while next < found.len() {
        let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        found.extend(
            entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()),
        );
        next += 1;
    }
    found.reverse();
    found
}

fn processes(top: &Path) -> Vec<i32> {
    let files = deepest_first(top).into_iter().map(|dir| dir.join("cgroup.procs"));
    let texts = files.filter_map(|file| fs::read_to_string(file).ok());
    texts.flat_map(|text| text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_comes_first_and_other_mounts_do_not_count() {
        let mounts = "proc /proc proc rw 0 0\n\
            tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
            cgroup /elsewhere cgroup rw 0 0\n";
        let expected = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu"];
        assert_eq!(hierarchies(mounts), expected.map(PathBuf::from));
        let alone = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(hierarchies(alone), [PathBuf::from("/sys/fs/cgroup")]);
    }

    #[test]
    fn children_are_removed_before_their_parents() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        let found = deepest_first(top.path());
        let expected = [top.path().join("a/b"), top.path().join("a"), top.path().to_path_buf()];
        assert_eq!(found, expected);
    }
}
