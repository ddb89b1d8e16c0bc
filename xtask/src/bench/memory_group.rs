//! A control group that limits the memory of what runs in it: what it allocates and what of its files
//! the kernel keeps in memory, together.
//!
//! Version 1 or 2 of control groups, whichever holds the memory controller here.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::cluster::GONE_TIMEOUT;
use super::stop;

/// How the groups of runs are called; the id of the run's process follows.
const NAME: &str = "metastore-bench-";
/// Where a version of control groups keeps the limit.
const LIMIT_FILES: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];
/// Where it counts processes the kernel ended for want of memory.
const KILLS_FILES: [&str; 2] = ["memory.oom_control", "memory.events"];

/// Removed when dropped, once what ran in it has ended.
#[derive(Debug)]
pub(super) struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// Needs root.
    pub(super) fn new(limit_bytes: u64) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
        let top = hierarchy(&mounts)
            .context("no control groups that limit memory are mounted below /sys/fs/cgroup")?;
        // Version 2 hands a controller down only when told to; version 1 has no such file.
        drop(fs::write(top.join("cgroup.subtree_control"), "+memory"));
        let path = top.join(format!("{NAME}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let group = MemoryGroup { path };
        let limit =
            LIMIT_FILES.map(|file| group.path.join(file)).into_iter().find(|it| it.exists());
        let limit = limit.with_context(|| format!("{} limits no memory", group.path.display()))?;
        fs::write(&limit, limit_bytes.to_string()).with_context(|| limit.display().to_string())?;
        Ok(group)
    }

    /// A command that starts a program inside.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = stop::command("sh");
        // The shell goes in and becomes the program, whose id is then the child's.
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.path.join("cgroup.procs")).arg(program);
        command
    }

    /// Processes that the kernel ended because the limit did not let it go on.
    pub(super) fn kills(&self) -> u64 {
        let text =
            KILLS_FILES.iter().find_map(|file| fs::read_to_string(self.path.join(file)).ok());
        text.and_then(|text| kills(&text)).unwrap_or_default()
    }

    fn remove(path: &Path) -> Result<()> {
        let deadline = Instant::now() + GONE_TIMEOUT;
        while let Err(error) = fs::remove_dir(path) {
            if !path.exists() {
                break;
            }
            if Instant::now() >= deadline {
                bail!("{}: {error}", path.display());
            }
            std::thread::sleep(stop::LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = Self::remove(&self.path) {
            super::say(&format!("  {error:#}"));
        }
    }
}

/// Removes the groups of runs that were killed before they could; their servers are ended already.
pub(super) fn tidy() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let Some(Ok(entries)) = hierarchy(&mounts).map(fs::read_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(NAME).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            drop(MemoryGroup { path: entry.path() });
        }
    }
}

/// Where the memory controller is mounted: by itself in version 1, else with all others.
fn hierarchy(mounts: &str) -> Option<PathBuf> {
    let mut found = None;
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, path, kind, options, ..] = fields[..] else { continue };
        if !path.starts_with("/sys/fs/cgroup") {
            continue;
        }
        match kind {
            "cgroup" if options.split(',').any(|it| it == "memory") => return Some(path.into()),
            "cgroup2" => found = Some(path.into()),
            _ => {}
        }
    }
    found
}

fn kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_controller_is_found_in_either_version() {
        let mixed = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n";
        assert_eq!(hierarchy(mixed), Some("/sys/fs/cgroup/memory".into()));
        let second = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(hierarchy(second), Some("/sys/fs/cgroup".into()));
        assert_eq!(hierarchy("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn ends_for_want_of_memory_are_counted_in_either_version() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
        assert_eq!(kills("low 0\nhigh 0\nmax 11\noom 1\noom_kill 1\n"), Some(1));
        assert_eq!(kills("low 0\n"), None);
    }
}
