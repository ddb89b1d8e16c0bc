//! Trouble for one member, and its end: what is broken is mended when [`Injection`] is dropped, at the
//! latest.
//!
//! All of it happens from outside the member's container, on the node: its processes are found by the uid
//! of the pod in their control group, its packets by the pod's address, its disk by the claim's volume.

use std::fs;
use std::net::Ipv4Addr;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::command;
use crate::settings::VOLUMES_DIR;
use crate::tools::Kubectl;

/// Nothing here waits for anything.
const LIMIT: Duration = Duration::from_secs(10);
/// How soon a process that was started again is found.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Port on which members talk to each other.
const PEER_PORT: &str = "2380";
/// What members' processes are.
const PROGRAM: &str = "metastore";
/// Where control groups are mounted.
const HIERARCHIES: &str = "/sys/fs/cgroup";
/// Writes a second that a slow disk takes.
const DISK_WRITES: u32 = 4;
/// Of one processor, what a starved member gets in a tenth of a second.
const STARVED_US: &str = "5000";
const STARVED_PERIOD_US: &str = "100000";

/// A member that something is done to.
#[derive(Clone, Debug)]
pub struct Victim {
    kubectl: Kubectl,
    /// Name of its pod.
    pub pod: String,
    uid: String,
    /// Address of its pod.
    pub address: Ipv4Addr,
    volume: PathBuf,
}

impl Victim {
    /// A running pod of this name.
    pub fn find(kubectl: &Kubectl, pod: &str) -> Result<Victim> {
        let object = kubectl.json(&["pod", pod])?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let uid = text(&object["metadata"]["uid"]).context("no uid")?;
        let address = text(&object["status"]["podIP"]).context("no address")?;
        let claim = kubectl.json(&["pvc", &format!("data-{pod}")])?;
        let volume = text(&claim["spec"]["volumeName"]).context("no volume")?;
        Ok(Victim {
            kubectl: kubectl.clone(),
            pod: pod.to_owned(),
            uid,
            address: address.parse().context(address)?,
            volume: Path::new(VOLUMES_DIR).join(volume),
        })
    }

    /// Its processes, as they are now.
    fn processes(&self) -> Result<Vec<Pid>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").context("/proc")? {
            let entry = entry?;
            let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
            let Some(pid) = pid else { continue };
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            if read("comm").trim_end() == PROGRAM && read("cgroup").contains(&self.uid) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    fn signal(&self, signal: Signal) -> Result<usize> {
        let all = self.processes()?;
        for pid in &all {
            // It may have ended on its own.
            let _ = kill_process(*pid, signal);
        }
        Ok(all.len())
    }

    /// It ends, and does so again whenever it was started again.
    pub fn kill(&self) -> Result<Injection> {
        ensure!(self.signal(Signal::KILL)? > 0, "{} has no process", self.pod);
        let over = Arc::new(AtomicBool::new(false));
        let (victim, until) = (self.clone(), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                // What cannot be looked at now is looked at again.
                let _ = victim.signal(Signal::KILL);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        let victim = self.clone();
        Ok(Injection::new(move || {
            over.store(true, Ordering::Relaxed);
            // It has nothing to say.
            let _ = thread.join();
            // Kubelet waits ever longer for a container that ends; a new pod's is started at once.
            let words = ["delete", "pod", &victim.pod, "--grace-period=0", "--force"];
            victim.kubectl.run(&words).map(drop)
        }))
    }

    /// It stands still.
    pub fn stall(&self) -> Result<Injection> {
        ensure!(self.signal(Signal::STOP)? > 0, "{} has no process", self.pod);
        let victim = self.clone();
        Ok(Injection::new(move || victim.signal(Signal::CONT).map(drop)))
    }

    /// Its peers do not hear from it, nor it from them; everybody else does.
    pub fn partition(&self) -> Result<Injection> {
        let address = self.address.to_string();
        let mut undo = Vec::new();
        let mut rules = Vec::new();
        for end in ["-s", "-d"] {
            for port in ["--sport", "--dport"] {
                let rule = ["FORWARD", end, &address, "-p", "tcp", port, PEER_PORT, "-j", "DROP"]
                    .map(str::to_owned);
                rules.push(rule);
            }
        }
        for rule in rules {
            iptables("-I", &rule)?;
            undo.push(rule);
        }
        Ok(Injection::new(move || undo.iter().try_for_each(|rule| iptables("-D", rule))))
    }

    /// Its disk takes a few writes a second. The volume has to be a file system of its own.
    pub fn slow_disk(&self) -> Result<Injection> {
        let volume = self.volume.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        ensure!(
            mounts.lines().any(|line| line.split(' ').nth(1) == Some(&volume)),
            "{volume} is no file system of its own"
        );
        let device = fs::metadata(&self.volume).context(volume)?.st_dev();
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let (file, slow, free) =
            disk_bound(&self.groups()?, &device).context("no control group")?;
        fs::write(&file, slow).with_context(|| file.display().to_string())?;
        Ok(Injection::new(move || unbound(&file, &free)))
    }

    /// It gets hardly any processor.
    pub fn starve(&self) -> Result<Injection> {
        let (files, starved, free) = bandwidth(&self.groups()?).context("no control group")?;
        for (file, text) in files.iter().zip(starved) {
            fs::write(file, text).with_context(|| file.display().to_string())?;
        }
        Ok(Injection::new(move || unbound(files.last().expect("there is one"), free)))
    }

    /// Control groups of its process, as `/proc/PID/cgroup` has them.
    fn groups(&self) -> Result<String> {
        let all = self.processes()?;
        let process = all.first().with_context(|| format!("{}: no process", self.pod))?;
        let path = format!("/proc/{}/cgroup", process.as_raw_nonzero());
        fs::read_to_string(&path).context(path)
    }
}

/// Takes a bound away.
fn unbound(file: &Path, free: &str) -> Result<()> {
    match fs::write(file, free) {
        // The container was started anew meanwhile, in a group of its own.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        written => written.with_context(|| file.display().to_string()),
    }
}

/// Directory of a controller of version 1, by `/proc/PID/cgroup`.
fn old_group(groups: &str, controller: &str) -> Option<PathBuf> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let mount = Path::new(HIERARCHIES).join(controllers);
        let has = controllers.split(',').any(|one| one == controller);
        has.then(|| mount.join(path.trim_start_matches('/')))
    })
}

/// Directory of the group in version 2.
fn new_group(groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(HIERARCHIES).join(path))
}

/// File that bounds what a control group writes to a device, what to write to it, and what so that there is
/// no bound.
fn disk_bound(groups: &str, device: &str) -> Option<(PathBuf, String, String)> {
    if let Some(group) = old_group(groups, "blkio") {
        let file = group.join("blkio.throttle.write_iops_device");
        return Some((file, format!("{device} {DISK_WRITES}"), format!("{device} 0")));
    }
    let file = new_group(groups)?.join("io.max");
    Some((file, format!("{device} wiops={DISK_WRITES}"), format!("{device} wiops=max")))
}

/// Files that bound the processor time of a control group, what to write to each, and what to write to the
/// last so that there is no bound. By `/proc/PID/cgroup`.
fn bandwidth(groups: &str) -> Option<(Vec<PathBuf>, Vec<String>, &'static str)> {
    if let Some(group) = old_group(groups, "cpu") {
        let files = vec![group.join("cpu.cfs_period_us"), group.join("cpu.cfs_quota_us")];
        let words = vec![STARVED_PERIOD_US.to_owned(), STARVED_US.to_owned()];
        return Some((files, words, "-1"));
    }
    let file = new_group(groups)?.join("cpu.max");
    Some((vec![file], vec![format!("{STARVED_US} {STARVED_PERIOD_US}")], "max"))
}

fn iptables(verb: &str, rule: &[String]) -> Result<()> {
    let mut iptables = Command::new("iptables");
    iptables.args(["-w", "5", verb]).args(rule);
    command::run_well(&mut iptables, b"", LIMIT).map(drop)
}

/// Something is broken as long as this is there.
pub struct Injection {
    mend: Option<Box<dyn FnOnce() -> Result<()> + Send>>,
}

impl Injection {
    /// With how it is mended.
    pub fn new(mend: impl FnOnce() -> Result<()> + Send + 'static) -> Injection {
        Injection { mend: Some(Box::new(mend)) }
    }

    /// Mends it.
    pub fn heal(mut self) -> Result<()> {
        self.mend.take().map_or(Ok(()), |mend| mend())
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        if let Some(mend) = self.mend.take() {
            // Whatever made it necessary has been said.
            let _ = mend();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_of_processor_time_is_found_in_both_versions_of_control_groups() {
        let old = "3:cpu,cpuacct:/kube/pod1/c\n1:name=systemd:/x\n0::/\n";
        let (files, words, free) = bandwidth(old).unwrap();
        assert_eq!(files[1], Path::new("/sys/fs/cgroup/cpu,cpuacct/kube/pod1/c/cpu.cfs_quota_us"));
        assert_eq!((words[1].as_str(), free), ("5000", "-1"));
        let (files, words, free) = bandwidth("0::/kube/pod1/c\n").unwrap();
        assert_eq!(files, [Path::new("/sys/fs/cgroup/kube/pod1/c/cpu.max")]);
        assert_eq!((words[0].as_str(), free), ("5000 100000", "max"));
    }

    #[test]
    fn so_is_the_bound_of_a_disk() {
        let (file, slow, free) = disk_bound("2:blkio:/a/b\n0::/\n", "7:1").unwrap();
        assert_eq!(file, Path::new("/sys/fs/cgroup/blkio/a/b/blkio.throttle.write_iops_device"));
        assert_eq!((slow.as_str(), free.as_str()), ("7:1 4", "7:1 0"));
        let (file, slow, free) = disk_bound("0::/a/b\n", "7:1").unwrap();
        assert_eq!(file, Path::new("/sys/fs/cgroup/a/b/io.max"));
        assert_eq!((slow.as_str(), free.as_str()), ("7:1 wiops=4", "7:1 wiops=max"));
    }

    #[test]
    fn what_is_broken_is_mended_once() {
        use std::sync::atomic::AtomicUsize;
        let times = Arc::new(AtomicUsize::new(0));
        let injection = |times: &Arc<AtomicUsize>| {
            let times = Arc::clone(times);
            Injection::new(move || {
                times.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        };
        injection(&times).heal().unwrap();
        assert_eq!(times.load(Ordering::Relaxed), 1);
        drop(injection(&times));
        assert_eq!(times.load(Ordering::Relaxed), 2);
    }
}
