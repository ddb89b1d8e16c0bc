//! A cluster of real processes for measuring: started with etcd's flags, stopped by their ids.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::chores::root;

/// Longest wait for all members to say that they are healthy.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for a member to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait for one answer about health.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
/// Linux reports CPU time in hundredths of a second.
const TICK_US: u64 = 10_000;

/// Resident memory, the mean over all members.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) anon_bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) peak_bytes: u64,
}

struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

/// Running members and their directory; both gone when dropped.
pub(crate) struct Cluster {
    program: PathBuf,
    members: Vec<Member>,
    directory: tempfile::TempDir,
}

impl Cluster {
    /// Starts members on free ports and waits until all are healthy.
    pub(crate) fn start(program: &Path, members: usize) -> Result<Self> {
        // On the disk the tree is on: a directory for temporary files may be memory.
        let parent = root().join("target");
        let directory = tempfile::Builder::new().prefix("bench-").tempdir_in(parent)?;
        let listeners = free_ports(2 * members)?;
        let members = (0..members)
            .map(|number| {
                Ok(Member {
                    name: format!("m{}", number + 1),
                    client: listeners[2 * number].local_addr()?,
                    peer: listeners[2 * number + 1].local_addr()?,
                    process: None,
                })
            })
            .collect::<Result<_>>()?;
        drop(listeners);
        let mut cluster = Cluster { program: program.to_path_buf(), members, directory };
        cluster.spawn()?;
        cluster.wait_healthy()?;
        Ok(cluster)
    }

    pub(crate) fn endpoints(&self) -> String {
        let all: Vec<String> =
            self.members.iter().map(|member| member.client.to_string()).collect();
        all.join(",")
    }

    /// CPU time all members have used so far.
    pub(crate) fn cpu_us(&self) -> Result<u64> {
        let mut ticks = 0;
        for pid in self.pids() {
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
            ticks += times.iter().sum::<u64>();
        }
        Ok(ticks * TICK_US)
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for pid in self.pids() {
            let path = format!("/proc/{pid}/status");
            let status = fs::read_to_string(&path).context(path)?;
            let bytes = |field: &str| -> u64 {
                let line = status.lines().find(|line| line.starts_with(field));
                let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok());
                kib.unwrap_or(0_u64) * 1024
            };
            memory.anon_bytes += bytes("RssAnon:");
            memory.file_bytes += bytes("RssFile:");
            memory.peak_bytes += bytes("VmHWM:");
        }
        let members = self.members.len() as u64;
        memory.anon_bytes /= members;
        memory.file_bytes /= members;
        memory.peak_bytes /= members;
        Ok(memory)
    }

    /// Bytes on disk of all members together, holes not counted.
    pub(crate) fn disk_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let mut bytes = 0;
        let mut folders: Vec<PathBuf> =
            self.members.iter().map(|member| self.directory.path().join(&member.name)).collect();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let about = entry.metadata()?;
                if about.is_dir() {
                    folders.push(entry.path());
                } else {
                    bytes += about.blocks() * 512;
                }
            }
        }
        Ok(bytes)
    }

    /// Stops all members in order, starts them again, and returns how long the start took.
    pub(crate) fn restart(&mut self) -> Result<Duration> {
        self.end()?;
        let started = Instant::now();
        self.spawn()?;
        self.wait_healthy()?;
        Ok(started.elapsed())
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.members.iter().filter_map(|member| member.process.as_ref().map(Child::id))
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
            let mut command = Command::new(&self.program);
            command
                .args(["--name", &member.name, "--data-dir"])
                .arg(self.directory.path().join(&member.name))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &initial, "--initial-cluster-token", "bench"])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log);
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("ETCD_") {
                    command.env_remove(name);
                }
            }
            let process = command.spawn().with_context(|| self.program.display().to_string())?;
            member.process = Some(process);
        }
        Ok(())
    }

    fn wait_healthy(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        for member in &mut self.members {
            while !healthy(member.client) {
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
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        for pid in self.pids() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended by itself; waiting for it tells.
                let _ended = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut killed = Vec::new();
        for member in &mut self.members {
            let Some(mut process) = member.process.take() else { continue };
            while process.try_wait()?.is_none() {
                if Instant::now() >= deadline {
                    process.kill()?;
                    process.wait()?;
                    killed.push(member.name.clone());
                    break;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
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
                drop(process.kill());
                drop(process.wait());
            }
        }
    }
}

/// Ports nobody listens on, below the range that outgoing connections take theirs from: a member
/// that restarts must find its own port free.
fn free_ports(count: usize) -> Result<Vec<TcpListener>> {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let listeners: Vec<TcpListener> = (first..32_000)
        .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .take(count)
        .collect();
    if listeners.len() < count {
        bail!("no {count} free ports from {first} on");
    }
    Ok(listeners)
}

/// Whether a member answers `/health` with yes.
fn healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
        stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
        write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        let _bytes = stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}
