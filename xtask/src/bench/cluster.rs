//! A cluster of real processes for measuring: started with etcd's flags, stopped by their ids.
//!
//! Each start takes ports that no earlier start had, so nothing that still drains is in the way.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::memory_group::MemoryGroup;
use super::stop;
use crate::chores::root;

/// Longest wait for all members to say that they are healthy.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for a member to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a killed process to be gone.
pub(super) const GONE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one answer about health or metrics.
const PAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest such answer.
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// Linux reports CPU time in hundredths of a second.
const TICK_US: u64 = 10_000;
/// Ports: below the range that outgoing connections take theirs from, since a member that restarts
/// must find its own port free.
const PORT_FIRST: u32 = 20_000;
const PORTS: u32 = 12_000;
/// What a thread calls once, at its start. strace learns only from a call it filters that a thread has the filter, and stops
/// the thread at *every* call until then: without these, whatever never syncs runs at a quarter of its speed, which
/// hits threads (ours) and not goroutines (etcd's), for those wander over threads that sync.
const STARTS_THREADS: &str = "rseq,set_robust_list,sigaltstack";
/// How often names of members are looked through for the one that leads.
const LEADER_LOOKS_MAX: u32 = 250;

/// Where programs at work keep their files; on the disk the tree is on, since a directory for
/// temporary files may be memory.
pub(super) fn folder() -> PathBuf {
    root().join("target/bench")
}

/// What is started.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) program: PathBuf,
    pub(super) members: usize,
    pub(super) flags: Vec<String>,
    /// Added to every `fdatasync`, by strace; 0: the server runs by itself.
    pub(super) sync_delay_us: u64,
    /// Of all members together, with what the kernel keeps of their files; 0: no limit.
    pub(super) memory_max_bytes: u64,
}

/// Resident memory, the mean over all members.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) anon_bytes: u64,
    pub(super) file_bytes: u64,
    pub(super) peak_bytes: u64,
}

impl Memory {
    pub(super) fn bytes(self) -> u64 {
        self.anon_bytes + self.file_bytes
    }
}

struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

/// Running members and their directory; both gone when dropped.
pub(super) struct Cluster {
    setup: Setup,
    members: Vec<Member>,
    directory: tempfile::TempDir,
    memory: Option<MemoryGroup>,
}

impl Cluster {
    /// Starts members on fresh ports and waits until all are healthy.
    pub(super) fn start(setup: Setup) -> Result<Self> {
        let directory = work_folder()?;
        let memory = match setup.memory_max_bytes {
            0 => None,
            limit => Some(MemoryGroup::new(limit)?),
        };
        let ports = free_ports(2 * setup.members)?;
        let members = ports
            .chunks_exact(2)
            .enumerate()
            .map(|(number, ports)| Member {
                name: format!("m{}", number + 1),
                client: ports[0],
                peer: ports[1],
                process: None,
            })
            .collect();
        let mut cluster = Cluster { setup, members, directory, memory };
        cluster.spawn()?;
        cluster.wait_healthy()?;
        Ok(cluster)
    }

    pub(super) fn endpoints(&self) -> String {
        let all: Vec<String> =
            self.members.iter().map(|member| member.client.to_string()).collect();
        all.join(",")
    }

    /// The first member's.
    pub(super) fn address(&self) -> SocketAddr {
        self.members[0].client
    }

    /// Where the member that leads is asked.
    pub(super) fn leader(&self) -> Result<SocketAddr> {
        for _ in 0..LEADER_LOOKS_MAX {
            stop::check()?;
            for member in &self.members {
                if metric(member.client, "etcd_server_is_leader").is_ok_and(|leads| leads == 1.0) {
                    return Ok(member.client);
                }
            }
            std::thread::sleep(stop::LOOK_EVERY);
        }
        bail!("no member says that it leads")
    }

    /// How often the kernel ended a member because of the memory limit.
    pub(super) fn memory_kills(&self) -> u64 {
        self.memory.as_ref().map_or(0, MemoryGroup::kills)
    }

    /// CPU time all members have used so far.
    pub(super) fn cpu_us(&self) -> Result<u64> {
        self.pids().into_iter().map(cpu_us).sum()
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for pid in self.pids() {
            let of = memory_of(pid)?;
            memory.anon_bytes += of.anon_bytes;
            memory.file_bytes += of.file_bytes;
            memory.peak_bytes += of.peak_bytes;
        }
        let members = self.members.len() as u64;
        memory.anon_bytes /= members;
        memory.file_bytes /= members;
        memory.peak_bytes /= members;
        Ok(memory)
    }

    /// Bytes on disk of all members together, holes not counted.
    pub(super) fn disk_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let mut bytes = 0;
        let mut folders: Vec<PathBuf> =
            self.members.iter().map(|member| self.directory.path().join(&member.name)).collect();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                // A file may go while its neighbours are counted.
                let Ok((path, about)) = entry.and_then(|it| Ok((it.path(), it.metadata()?))) else {
                    continue;
                };
                if about.is_dir() {
                    folders.push(path);
                } else {
                    bytes += about.blocks() * 512;
                }
            }
        }
        Ok(bytes)
    }

    /// Stops all members in order, starts them again, and returns how long the start took.
    pub(super) fn restart(&mut self) -> Result<Duration> {
        self.end()?;
        let started = Instant::now();
        self.spawn()?;
        self.wait_healthy()?;
        Ok(started.elapsed())
    }

    /// Ends all members and proves that they are gone.
    pub(super) fn stop(mut self) -> Result<()> {
        self.end()
    }

    /// The servers' own ids, not those of strace.
    fn pids(&self) -> Vec<u32> {
        let children = self.members.iter().filter_map(|it| it.process.as_ref().map(Child::id));
        if self.setup.sync_delay_us == 0 {
            return children.collect();
        }
        children.flat_map(children_of).collect()
    }

    fn spawn(&mut self) -> Result<()> {
        let initial: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://{}", member.name, member.peer))
            .collect();
        let initial = initial.join(",");
        for member in &mut self.members {
            let log = self.directory.path().join(format!("{}.log", member.name));
            let log = File::options().create(true).append(true).open(log)?;
            let client = format!("http://{}", member.client);
            let peer = format!("http://{}", member.peer);
            let inside = |program: &Path| match &self.memory {
                Some(group) => group.command(program),
                None => stop::command(program),
            };
            let mut command = match self.setup.sync_delay_us {
                0 => inside(&self.setup.program),
                delay => {
                    let mut command = inside(Path::new("strace"));
                    command
                        .args(["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"])
                        .args(["-e", &format!("trace=fdatasync,{STARTS_THREADS}"), "-e"])
                        .arg(format!("inject=fdatasync:delay_enter={delay}"))
                        .arg(&self.setup.program);
                    command
                }
            };
            command
                .args(["--name", &member.name, "--data-dir"])
                .arg(self.directory.path().join(&member.name))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &initial, "--initial-cluster-token", "bench"])
                .args(&self.setup.flags)
                .stdout(log.try_clone()?)
                .stderr(log);
            let process =
                command.spawn().with_context(|| command.get_program().display().to_string())?;
            member.process = Some(process);
        }
        Ok(())
    }

    fn wait_healthy(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        for member in &mut self.members {
            while !healthy(member.client) {
                stop::check()?;
                let log = self.directory.path().join(format!("{}.log", member.name));
                let last = || {
                    let log = fs::read_to_string(&log).unwrap_or_default();
                    log.lines().next_back().unwrap_or_default().to_owned()
                };
                if let Some(process) = &mut member.process
                    && let Some(status) = process.try_wait()?
                {
                    bail!("{} ended ({status}): {}", member.name, last());
                }
                if Instant::now() >= deadline {
                    bail!("{} is not healthy after {READY_TIMEOUT:?}: {}", member.name, last());
                }
                std::thread::sleep(stop::LOOK_EVERY);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let servers = self.pids();
        for pid in &servers {
            signal(*pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut killed = Vec::new();
        for member in &mut self.members {
            let Some(mut process) = member.process.take() else { continue };
            while process.try_wait()?.is_none() {
                if Instant::now() >= deadline || stop::asked() {
                    kill(&mut process);
                    killed.push(member.name.clone());
                    break;
                }
                std::thread::sleep(stop::LOOK_EVERY);
            }
        }
        stop::check()?;
        wait_gone(&servers)?;
        if !killed.is_empty() {
            bail!("{} did not end within {STOP_TIMEOUT:?} and was killed", killed.join(", "));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut process) = member.process.take() {
                kill(&mut process);
            }
        }
    }
}

/// A server of one process that is no member: the echo.
pub(super) struct Echo {
    process: Child,
    pub(super) address: SocketAddr,
}

impl Echo {
    pub(super) fn start(program: &Path) -> Result<Self> {
        let address = free_ports(1)?[0];
        let mut command = stop::command(program);
        let process = command
            .arg(address.to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut echo = Echo { process, address };
        let deadline = Instant::now() + PAGE_TIMEOUT;
        while TcpStream::connect_timeout(&address, PAGE_TIMEOUT).is_err() {
            stop::check()?;
            if let Some(status) = echo.process.try_wait()? {
                bail!("the echo ended ({status})");
            }
            if Instant::now() >= deadline {
                bail!("the echo does not listen after {PAGE_TIMEOUT:?}");
            }
            std::thread::sleep(stop::LOOK_EVERY);
        }
        Ok(echo)
    }

    pub(super) fn cpu_us(&self) -> Result<u64> {
        cpu_us(self.process.id())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        kill(&mut self.process);
    }
}

/// Ends the servers of runs that were killed before they could tidy up, and removes their folders.
pub(super) fn tidy() {
    let Ok(entries) = fs::read_dir(folder()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("run-").and_then(|rest| rest.split('-').next());
        let is_left = owner.is_some_and(|pid| {
            pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
        });
        if is_left {
            for pid in processes().filter(|pid| works_in(*pid, &entry.path())) {
                signal(pid, Signal::KILL);
            }
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// Whether a process was told to keep its files there.
fn works_in(pid: u32, folder: &Path) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words
        .split(|byte| *byte == 0)
        .any(|word| Path::new(&*String::from_utf8_lossy(word)).starts_with(folder))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
}

/// A folder for the files of one run, gone when dropped.
pub(super) fn work_folder() -> Result<tempfile::TempDir> {
    let parent = folder();
    fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
    let prefix = format!("run-{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?)
}

/// Ports nobody listens on and no earlier call has given.
fn free_ports(count: usize) -> Result<Vec<SocketAddr>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Runs beside this one begin elsewhere.
    let first = std::process::id();
    let mut ports = Vec::with_capacity(count);
    for _ in 0..PORTS {
        if ports.len() == count {
            break;
        }
        let turn = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let address = SocketAddr::from(([127, 0, 0, 1], (PORT_FIRST + turn) as u16));
        if TcpListener::bind(address).is_ok() {
            ports.push(address);
        }
    }
    if ports.len() < count {
        bail!("no {count} free ports from {PORT_FIRST} on");
    }
    Ok(ports)
}

fn cpu_us(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    let (_, fields) = stat.rsplit_once(')').with_context(|| path.clone())?;
    let times: Vec<u64> = fields
        .split_ascii_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()
        .context(path)?;
    Ok(times.iter().sum::<u64>() * TICK_US)
}

fn memory_of(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let bytes = |field: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(field));
        let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok());
        kib.unwrap_or(0_u64) * 1024
    };
    Ok(Memory {
        anon_bytes: bytes("RssAnon:"),
        file_bytes: bytes("RssFile:"),
        peak_bytes: bytes("VmHWM:"),
    })
}

/// Processes that this one started.
fn children_of(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    processes()
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')')
                .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(1))
                .is_some_and(|it| it == parent)
        })
        .collect()
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself; waiting for it tells.
        let _ended = kill_process(pid, signal);
    }
}

/// Kills a server, and first what it traces: a tracer that is killed lets its tracee go on.
fn kill(process: &mut Child) {
    for traced in children_of(process.id()) {
        signal(traced, Signal::KILL);
    }
    drop(process.kill());
    drop(process.wait());
}

/// Proves that processes are gone.
fn wait_gone(pids: &[u32]) -> Result<()> {
    let deadline = Instant::now() + GONE_TIMEOUT;
    for pid in pids {
        while Path::new(&format!("/proc/{pid}")).exists() {
            if Instant::now() >= deadline {
                bail!("process {pid} is still there {GONE_TIMEOUT:?} after its end");
            }
            std::thread::sleep(stop::LOOK_EVERY);
        }
    }
    Ok(())
}

/// Whether a member answers `/health` with yes.
fn healthy(address: SocketAddr) -> bool {
    page(address, "/health").is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

/// A metric without labels, or the sum over its labels.
pub(super) fn metric(address: SocketAddr, name: &str) -> Result<f64> {
    let page = page(address, "/metrics").with_context(|| format!("metrics of {address}"))?;
    read_metric(&page, name).with_context(|| format!("no metric {name} at {address}"))
}

fn read_metric(page: &str, name: &str) -> Option<f64> {
    let values: Vec<f64> = page
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit_once(' ')?.1.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn page(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PAGE_TIMEOUT)?;
    stream.set_read_timeout(Some(PAGE_TIMEOUT))?;
    // Of version 1.0 so that the answer comes in one piece and the connection ends behind it.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    let _bytes = stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_over_its_labels_and_no_other_metric() {
        let page = "HTTP/1.0 200 OK\r\n\r\n# HELP sent_bytes x\nsent_bytes{To=\"a\"} 3\n\
                    sent_bytes{To=\"b\"} 4.5e+01\nsent_bytes_more 9\nleads 1\n";
        assert_eq!(read_metric(page, "sent_bytes"), Some(48.0));
        assert_eq!(read_metric(page, "leads"), Some(1.0));
        assert_eq!(read_metric(page, "sent"), None);
    }

    #[test]
    fn no_two_starts_share_a_port() {
        let (first, second) = (free_ports(4).unwrap(), free_ports(4).unwrap());
        assert!(first.iter().all(|port| !second.contains(port)));
    }

    #[test]
    fn what_a_process_started_and_what_works_in_a_folder_is_found() {
        let words = ["-c", "echo; sleep 600; true", "/nowhere/run-1-x/m1"];
        let mut command = std::process::Command::new("sh");
        let mut child = command.args(words).stdout(std::process::Stdio::piped()).spawn().unwrap();
        // A program that has just begun has no words for an instant.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        assert!(children_of(std::process::id()).contains(&child.id()));
        assert!(works_in(child.id(), Path::new("/nowhere/run-1-x")));
        assert!(!works_in(child.id(), Path::new("/nowhere/run-1")));
        let pid = child.id();
        kill(&mut child);
        wait_gone(&[pid]).unwrap();
    }
}
