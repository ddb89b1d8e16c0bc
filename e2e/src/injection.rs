//! Trouble for one member, and its end: what is broken is mended when [`Injection`] is dropped, at the
//! latest.
//!
//! All of it happens from outside the member's container, on the node: its processes are found by the uid
//! of the pod in their control group, its packets by the pod's address, its disk by the claim's volume.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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
/// One turn of a disk that stands still for most of the time, in seconds: still, and not.
const DISK_TURN_S: (f64, f64) = (0.8, 0.4);
/// Turns after which such a disk is well by itself, should nobody be left to end it.
const DISK_TURNS_MAX: u32 = 200;
/// How often it is thawed in the end.
const THAWS: usize = 3;
/// Of one processor, what a starved member gets in a tenth of a second.
const STARVED_US: &str = "2000";
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

    /// Its disk stands still for most of the time. The volume has to be a file system of its own.
    pub fn slow_disk(&self) -> Result<Injection> {
        let volume = self.volume.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        ensure!(
            mounts.lines().any(|line| line.split(' ').nth(1) == Some(&volume)),
            "{volume} is no file system of its own"
        );
        let (still, free) = DISK_TURN_S;
        // A program of its own, so that no disk is left standing still whatever happens to this one.
        let script = format!(
            "trap 'fsfreeze -u {volume}; exit' TERM; for i in $(seq {DISK_TURNS_MAX}); do \
             fsfreeze -f {volume}; sleep {still}; fsfreeze -u {volume}; sleep {free}; done"
        );
        let shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("sh")?;
        Ok(Injection::new(move || end(shell, &volume)))
    }

    /// It gets hardly any processor.
    pub fn starve(&self) -> Result<Injection> {
        let process =
            *self.processes()?.first().with_context(|| format!("{}: no process", self.pod))?;
        let path = format!("/proc/{}/cgroup", process.as_raw_nonzero());
        let groups = fs::read_to_string(&path).with_context(|| path.clone())?;
        let (file, starved, free) = bandwidth(&groups).with_context(|| path.clone())?;
        for (file, text) in file.iter().zip(starved) {
            fs::write(file, text).with_context(|| file.display().to_string())?;
        }
        Ok(Injection::new(move || {
            let last = file.last().expect("there is one");
            match fs::write(last, free) {
                // The container was started anew meanwhile, in a group of its own.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                written => written.with_context(|| last.display().to_string()),
            }
        }))
    }
}

/// Files that bound the processor time of a control group, what to write to each, and what to write to the
/// last so that there is no bound. By `/proc/PID/cgroup`.
fn bandwidth(groups: &str) -> Option<(Vec<PathBuf>, Vec<String>, &'static str)> {
    let mounted = |controller: &str, path: &str| {
        Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'))
    };
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        if controllers.split(',').any(|one| one == "cpu") {
            let group = mounted(controllers, path);
            let files = vec![group.join("cpu.cfs_period_us"), group.join("cpu.cfs_quota_us")];
            let words = vec![STARVED_PERIOD_US.to_owned(), STARVED_US.to_owned()];
            return Some((files, words, "-1"));
        }
    }
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let file = mounted("", path).join("cpu.max");
    Some((vec![file], vec![format!("{STARVED_US} {STARVED_PERIOD_US}")], "max"))
}

fn iptables(verb: &str, rule: &[String]) -> Result<()> {
    let mut iptables = Command::new("iptables");
    iptables.args(["-w", "5", verb]).args(rule);
    command::run_well(&mut iptables, b"", LIMIT).map(drop)
}

/// Ends the program that freezes a disk, and sees to it that the disk is not left so.
fn end(mut shell: Child, volume: &str) -> Result<()> {
    // It may have ended on its own.
    let _ = shell.kill();
    let _ = shell.wait();
    // What it had just started may still freeze once.
    for _ in 0..THAWS {
        let mut thaw = Command::new("fsfreeze");
        thaw.args(["--unfreeze", volume]);
        // A disk that is not frozen cannot be thawed.
        command::run(&mut thaw, b"", LIMIT)?;
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
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
        assert_eq!((words[1].as_str(), free), ("2000", "-1"));
        let (files, words, free) = bandwidth("0::/kube/pod1/c\n").unwrap();
        assert_eq!(files, [Path::new("/sys/fs/cgroup/kube/pod1/c/cpu.max")]);
        assert_eq!((words[0].as_str(), free), ("2000 100000", "max"));
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
