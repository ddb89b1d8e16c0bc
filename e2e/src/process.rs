//! A process that can be told from another with the same id: ids are used again.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// An id and when the process with it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// As seen from outside the node.
    pub pid: i32,
    /// Clock ticks since boot.
    pub begun: u64,
}

impl Identity {
    /// Of the process behind a `/proc/PID` directory.
    pub fn read(proc: &Path) -> Result<Identity> {
        let path = proc.join("stat");
        let stat = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Identity::of_stat(&stat).with_context(|| format!("{}: {stat:?}", path.display()))
    }

    fn of_stat(stat: &str) -> Option<Identity> {
        let pid = stat.split(' ').next()?.parse().ok()?;
        // The second field is the program's name in parentheses and may hold anything.
        let (_, rest) = stat.rsplit_once(") ")?;
        let begun = rest.split(' ').nth(19)?.parse().ok()?;
        Some(Identity { pid, begun })
    }

    /// Whether it runs; one that waits to be reaped does not.
    pub fn is_alive(&self) -> bool {
        let proc = format!("/proc/{}", self.pid);
        let same = Identity::read(Path::new(&proc)).is_ok_and(|found| found == *self);
        let stat = std::fs::read_to_string(format!("{proc}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        same && !matches!(state, None | Some('Z' | 'X'))
    }

    /// Sends a signal, if it is still that process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.pid).context("no process has the id 0")?;
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("process {}", self.pid)),
        }
    }

    /// Whether it has ended within `limit`.
    pub fn ends_within(&self, limit: Duration) -> bool {
        const LOOK_EVERY: Duration = Duration::from_millis(20);
        let looks = limit.as_millis() / LOOK_EVERY.as_millis();
        for _ in 0..looks {
            if !self.is_alive() {
                return true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        !self.is_alive()
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pid, self.begun)
    }
}

impl FromStr for Identity {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Identity> {
        let parts = text.trim().split_once(' ');
        match parts.map(|(pid, begun)| (pid.parse(), begun.parse())) {
            Some((Ok(pid), Ok(begun))) => Ok(Identity { pid, begun }),
            _ => bail!("{text:?}: not a process id and a start time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let rest = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let identity = Identity::of_stat(&format!("7 (a) b) {rest}")).unwrap();
        assert_eq!(identity, Identity { pid: 7, begun: 22 });
    }

    #[test]
    fn what_is_written_is_read_again() {
        let identity = Identity { pid: 7, begun: 12 };
        assert_eq!(identity.to_string().parse::<Identity>().unwrap(), identity);
        assert!("7".parse::<Identity>().is_err());
    }

    #[test]
    fn the_same_id_with_another_start_is_another_process() {
        let own = Identity::read(Path::new("/proc/self")).unwrap();
        assert!(own.is_alive());
        assert!(!Identity { begun: own.begun + 1, ..own }.is_alive());
    }
}
