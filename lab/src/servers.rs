//! Real servers in the lab's places, MetaStore or an unmodified etcd: both take the same flags.
//!
//! A server dies with the lab, however that ends. A stall of its process is SIGSTOP and SIGCONT. A stall
//! of its disk is a file system of its own, in a file, that is frozen (`fsfreeze`): whatever is written
//! or synced stands still until it thaws, for any program and without a tracer's cost.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::network::Network;

/// Where clients are served, and where peers.
pub const CLIENT_PORT: u16 = 2379;
/// Where members reach each other.
pub const PEER_PORT: u16 = 2380;
/// Longest wait for a member to say that it is healthy, if nothing else is said.
pub const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest wait for a member that was asked to end.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for one answer about health.
const PAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest such answer.
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// How often what is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest stall of a process or a disk.
pub const STALL_MAX: Duration = Duration::from_secs(10);
/// Size of a file system of its own; it takes the room it fills.
const DISK_BYTES: u64 = 4 << 30;
/// Linux reports processor time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// What is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The server.
    pub program: PathBuf,
    /// Beside those that make it a member.
    pub flags: Vec<String>,
    /// Whether each data directory is a file system of its own, which [`Servers::freeze`] needs.
    pub own_disks: bool,
    /// Longest wait for a member to say that it is healthy.
    pub ready_timeout: Duration,
}

/// Members of one cluster, in the lab's places; gone when dropped, with all they wrote.
pub struct Servers {
    network: Network,
    setup: Setup,
    folder: PathBuf,
    processes: Vec<Option<Child>>,
}

impl Servers {
    /// Starts all members, their files below `folder`, and waits until they are healthy.
    pub fn start(network: Network, setup: Setup, folder: &Path) -> Result<Self> {
        let folder = folder.join(network.names().lab.to_string());
        clean(&folder)?;
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let members = network.members();
        let processes = (0..members).map(|_| None).collect();
        let mut servers = Servers { network, setup, folder, processes };
        for member in 0..members {
            servers.make_disk(member)?;
            servers.spawn(member)?;
        }
        for member in 0..members {
            servers.wait_healthy(member)?;
        }
        Ok(servers)
    }

    /// The network they are in.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Where a member serves clients.
    pub fn client(&self, member: usize) -> SocketAddr {
        (self.network.names().address(member), CLIENT_PORT).into()
    }

    /// All of them, as etcdctl takes them.
    pub fn endpoints(&self) -> String {
        let all = (0..self.processes.len()).map(|member| self.client(member).to_string());
        all.collect::<Vec<_>>().join(",")
    }

    /// What a member has written to its log.
    pub fn log(&self, member: usize) -> PathBuf {
        self.folder.join(format!("m{}.log", member + 1))
    }

    /// Kills a member's process and waits until it is gone.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        let process = &mut self.processes[member];
        let Some(mut process) = process.take() else { bail!("m{} is not running", member + 1) };
        process.kill()?;
        let _status = process.wait()?;
        Ok(())
    }

    /// Sends SIGKILL and does not wait; [`Servers::kill`] must follow.
    pub fn signal_kill(&self, member: usize) -> Result<()> {
        kill_process(self.pid(member)?, Signal::KILL).context("killing a server")
    }

    /// Asks a member's process to end (SIGTERM) and does not wait.
    pub fn signal_end(&self, member: usize) -> Result<()> {
        kill_process(self.pid(member)?, Signal::TERM).context("asking a server to end")
    }

    /// Waits until a member that was asked to has ended; who does not is killed, and that is an error.
    pub fn wait_end(&mut self, member: usize) -> Result<()> {
        let deadline = Instant::now() + END_TIMEOUT;
        while let Some(process) = &mut self.processes[member] {
            if process.try_wait()?.is_some() {
                self.processes[member] = None;
            } else if Instant::now() >= deadline {
                self.kill(member)?;
                bail!("m{} has not ended {END_TIMEOUT:?} after SIGTERM", member + 1);
            } else {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// Starts a member that was killed; its files are as they were.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        if self.processes[member].is_some() {
            bail!("m{} is running", member + 1);
        }
        self.spawn(member)
    }

    /// Waits until a member says that it is healthy.
    pub fn wait_healthy(&mut self, member: usize) -> Result<()> {
        let timeout = self.setup.ready_timeout;
        let deadline = Instant::now() + timeout;
        let address = self.client(member);
        let log = self.log(member);
        let last = || {
            let log = fs::read_to_string(&log).unwrap_or_default();
            log.lines().next_back().unwrap_or_default().to_owned()
        };
        while !is_healthy(address) {
            if let Some(process) = &mut self.processes[member]
                && let Some(status) = process.try_wait()?
            {
                bail!("m{} ended ({status}): {}", member + 1, last());
            }
            if Instant::now() >= deadline {
                bail!("m{} is not healthy after {timeout:?}: {}", member + 1, last());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Stops a member's process for so long.
    pub fn stall(&self, member: usize, lasts: Duration) -> Result<()> {
        let pid = self.pid(member)?;
        is_stall(lasts)?;
        kill_process(pid, Signal::STOP).context("SIGSTOP")?;
        std::thread::sleep(lasts);
        kill_process(pid, Signal::CONT).context("SIGCONT")
    }

    /// Freezes the disks of some members for so long.
    pub fn freeze(&self, members: &[usize], lasts: Duration) -> Result<()> {
        is_stall(lasts)?;
        if !self.setup.own_disks {
            bail!("no member has a disk of its own (lab up --disks)");
        }
        let freeze = |verb: &str| -> Result<()> {
            for member in members {
                run("fsfreeze", &[verb.as_ref(), self.data(*member).as_os_str()])?;
            }
            Ok(())
        };
        let frozen = freeze("--freeze");
        std::thread::sleep(lasts);
        // Those that are not frozen say so; what was frozen before an error must thaw.
        let thawed = freeze("--unfreeze");
        frozen.and(thawed)
    }

    /// Processor time all members have used, those that were killed not counted.
    pub fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for process in self.processes.iter().flatten() {
            let path = format!("/proc/{}/stat", process.id());
            let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
            let (_, fields) = stat.rsplit_once(')').with_context(|| path.clone())?;
            let times = fields.split_ascii_whitespace().skip(11).take(2);
            ticks += times.filter_map(|word| word.parse::<u32>().ok()).sum::<u32>();
        }
        Ok(TICK * ticks)
    }

    fn pid(&self, member: usize) -> Result<Pid> {
        let process = self.processes[member].as_ref();
        let pid = process.and_then(|process| Pid::from_raw(i32::try_from(process.id()).ok()?));
        pid.with_context(|| format!("m{} is not running", member + 1))
    }

    fn data(&self, member: usize) -> PathBuf {
        self.folder.join(format!("m{}", member + 1))
    }

    fn make_disk(&self, member: usize) -> Result<()> {
        let data = self.data(member);
        fs::create_dir_all(&data)?;
        if !self.setup.own_disks {
            return Ok(());
        }
        let image = data.with_extension("disk");
        File::create(&image)?.set_len(DISK_BYTES)?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_os_str()])?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), data.as_os_str()])
    }

    fn spawn(&mut self, member: usize) -> Result<()> {
        let name = format!("m{}", member + 1);
        let names = self.network.names();
        let url = |member: usize, port: u16| format!("http://{}:{port}", names.address(member));
        let initial: Vec<String> = (0..self.processes.len())
            .map(|member| format!("m{}={}", member + 1, url(member, PEER_PORT)))
            .collect();
        let (client, peer) = (url(member, CLIENT_PORT), url(member, PEER_PORT));
        let log = File::options().create(true).append(true).open(self.log(member))?;
        let mut command = self.network.command(member, &self.setup.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        // A process group of its own: a terminal's Ctrl-C reaches the lab alone.
        std::os::unix::process::CommandExt::process_group(&mut command, 0)
            .args(["--name", &name, "--data-dir"])
            // Below the mount, beside what a file system has of its own.
            .arg(self.data(member).join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &initial.join(","), "--initial-cluster-token", "lab"])
            .args(&self.setup.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = command.spawn().with_context(|| self.setup.program.display().to_string())?;
        self.processes[member] = Some(process);
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in &mut self.processes {
            if let Some(mut process) = process.take() {
                drop(process.kill());
                drop(process.wait());
            }
        }
        unmount(&self.folder);
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn is_stall(lasts: Duration) -> Result<()> {
    if lasts > STALL_MAX {
        bail!("a stall lasts at most {STALL_MAX:?}");
    }
    Ok(())
}

/// Removes what the servers of a killed lab have left in its folder, mounted disks first.
pub fn clean(folder: &Path) -> Result<()> {
    unmount(folder);
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Unmounts every disk below a folder, thawed first: a frozen one cannot be.
fn unmount(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for place in places.filter(|place| Path::new(place).starts_with(folder)) {
        // One that is not frozen refuses.
        drop(run("fsfreeze", &["--unfreeze".as_ref(), place.as_ref()]));
        drop(run("umount", &[place.as_ref()]));
    }
}

fn run(program: &str, words: &[&std::ffi::OsStr]) -> Result<()> {
    let said = Command::new(program).args(words).stdin(Stdio::null()).output();
    let said = said.with_context(|| program.to_owned())?;
    if !said.status.success() {
        let message = String::from_utf8_lossy(&said.stderr);
        bail!("{program}: {}", message.lines().next().unwrap_or_default());
    }
    Ok(())
}

fn is_healthy(address: SocketAddr) -> bool {
    page(address, "/health").is_ok_and(|page| page.contains("\"health\":\"true\""))
}

/// A page of a server, over HTTP/1.
fn page(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PAGE_TIMEOUT)?;
    stream.set_read_timeout(Some(PAGE_TIMEOUT))?;
    // Of version 1.0 so that the answer comes in one piece and the connection ends behind it.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    let _bytes = stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
