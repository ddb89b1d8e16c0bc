//! The places: a network namespace for each member, a TUN in each and one outside, and a router
//! between them.
//!
//! Everything that outlives a killed process carries the lab's number in its name: namespaces
//! `mslab3-m1`, the device `mslab3`, the folder [`RUN`]`/3` with a lock that the lab's process holds.
//! A number whose lock nobody holds is a leftover, which [`clean`] and the next lab of that number
//! remove. Devices are gone with the process that opened them.
//!
//! Addresses are of 198.18.0.0/15, which is set aside for measuring (RFC 2544): member k of lab n is
//! 198.18.n.k, everything outside is 198.18.n.254.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::router::{Direction, Port, Router};
use crate::rule::Rule;

/// Labs at a time.
pub const LABS_MAX: u8 = 100;
/// Members of one.
pub const MEMBERS_MAX: usize = 9;
/// Where labs keep their locks and sockets.
pub const RUN: &str = "/run/metastore-lab";
/// Bytes of a packet at most, as on Ethernet.
pub const MTU_BYTES: u32 = 1_500;
/// Packets the kernel keeps for the router to take, for each device.
const DEVICE_PACKETS_MAX: u32 = 4_096;
const HOST_BYTE: u8 = 254;
/// Longest wait for killed processes of a leftover to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(10);

/// Fails, with the reason in one line, where no lab can be.
pub fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces need root");
    }
    if !Path::new("/dev/net/tun").exists() {
        bail!("/dev/net/tun: not there, and the lab's links are TUN devices");
    }
    if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
        bail!("ip: not found (Debian: apt-get install iproute2)");
    }
    Ok(())
}

/// Names of what belongs to one lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// The lab's number.
    pub lab: u8,
}

impl Names {
    /// A member's namespace; members count from 0, their names from 1.
    pub fn namespace(self, member: usize) -> String {
        format!("{}-m{}", self.device(), member + 1)
    }

    /// The device outside.
    pub fn device(self) -> String {
        format!("mslab{}", self.lab)
    }

    /// A member's address.
    pub fn address(self, member: usize) -> Ipv4Addr {
        let last = u8::try_from(member + 1).expect("at most MEMBERS_MAX members");
        Ipv4Addr::new(198, 18, self.lab, last)
    }

    /// The address of everything outside.
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.lab, HOST_BYTE)
    }

    /// Socket, lock and the like.
    pub fn folder(self) -> PathBuf {
        Path::new(RUN).join(self.lab.to_string())
    }
}

/// An end of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A member, counted from 0.
    Member(usize),
    /// Everything that is not in the lab: clients, probers.
    Host,
}

impl Place {
    /// `m1`, `m2`, … or `host`.
    pub fn parse(text: &str, members: usize) -> Result<Self> {
        if text == "host" {
            return Ok(Place::Host);
        }
        let number = text.strip_prefix('m').and_then(|number| number.parse().ok());
        match number {
            Some(number @ 1..) if number <= members => Ok(Place::Member(number - 1)),
            _ => bail!("{text:?}: no such place (there are m1 to m{members}, and host)"),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Member(member) => write!(to, "m{}", member + 1),
            Place::Host => to.write_str("host"),
        }
    }
}

/// Namespaces, devices and the router; gone when dropped.
pub struct Network {
    names: Names,
    members: usize,
    router: Router,
    /// Held as long as the lab lives.
    _lock: File,
}

impl Network {
    /// Makes the places for so many members; all directions are without delay.
    pub fn create(members: usize, seed: u64) -> Result<Self> {
        check()?;
        if !(1..=MEMBERS_MAX).contains(&members) {
            bail!("{members} members: from 1 to {MEMBERS_MAX}");
        }
        let (names, lock) = free_number()?;
        remove(names)?;
        // What was made until an error is a leftover without a holder, and removed as such.
        let made = make(names, members, seed);
        if made.is_err() {
            drop(remove(names));
        }
        Ok(Network { names, members, router: made?, _lock: lock })
    }

    /// Names and addresses.
    pub fn names(&self) -> Names {
        self.names
    }

    /// How many members there are places for.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Whether the router runs before ordinary processes.
    pub fn is_realtime(&self) -> bool {
        self.router.is_realtime()
    }

    /// Processor time the router has used.
    pub fn router_cpu(&self) -> Result<Duration> {
        self.router.cpu()
    }

    /// Whether the router has failed.
    pub fn is_over(&self) -> bool {
        self.router.is_over()
    }

    /// Changes one direction.
    pub fn set(&self, from: Place, to: Place, rule: Rule) -> Result<()> {
        self.router.set(self.port(from), self.port(to), rule)
    }

    /// All directions with their places.
    pub fn directions(&self) -> Result<Vec<(Place, Place, Direction)>> {
        let all = self.router.directions()?;
        Ok(all.into_iter().map(|it| (self.place(it.from), self.place(it.to), it)).collect())
    }

    /// Changes every direction by what a function says of it.
    pub fn change(&self, rule: impl Fn(Place, Place, Rule) -> Rule) -> Result<()> {
        for (from, to, direction) in self.directions()? {
            let changed = rule(from, to, direction.rule);
            if changed != direction.rule {
                self.set(from, to, changed)?;
            }
        }
        Ok(())
    }

    /// Cuts a member off from everything, both ways, or ends that.
    pub fn isolate(&self, member: usize, is_cut: bool) -> Result<()> {
        let place = Place::Member(member);
        self.change(|from, to, rule| match from == place || to == place {
            true => Rule { is_cut, ..rule },
            false => rule,
        })
    }

    /// A command that runs inside a member's namespace and dies with the thread that starts it.
    pub fn command(&self, member: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespace = format!("--net=/run/netns/{}", self.names.namespace(member));
        let mut command = Command::new("nsenter");
        command.arg(namespace).args(["setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    fn port(&self, place: Place) -> usize {
        match place {
            Place::Member(member) => member,
            Place::Host => self.members,
        }
    }

    fn place(&self, port: usize) -> Place {
        if port < self.members { Place::Member(port) } else { Place::Host }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(remove(self.names));
        drop(fs::remove_file(self.names.folder().join("socket")));
    }
}

/// Runs something in a member's namespace, in a thread of its own.
pub fn inside<T: Send + 'static>(
    names: Names,
    member: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<std::thread::JoinHandle<Result<T>>> {
    let path = Path::new("/run/netns").join(names.namespace(member));
    let namespace = File::open(&path).with_context(|| path.display().to_string())?;
    let thread =
        std::thread::Builder::new().name(format!("in m{}", member + 1)).spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("entering a network namespace")?;
            work()
        })?;
    Ok(thread)
}

/// Removes what labs have left whose process is gone; their numbers.
pub fn clean() -> Result<Vec<u8>> {
    check()?;
    let mut removed = Vec::new();
    for lab in 0..LABS_MAX {
        let names = Names { lab };
        if left(names)?.is_empty() {
            continue;
        }
        // The lock's file stays: who waits for it must not hold one that is gone.
        let Some(_lock) = lock(names)? else { continue };
        remove(names)?;
        removed.push(lab);
    }
    Ok(removed)
}

/// Numbers of the labs whose process lives.
pub fn running() -> Result<Vec<u8>> {
    let mut running = Vec::new();
    for lab in 0..LABS_MAX {
        let names = Names { lab };
        if names.folder().exists() && lock(names)?.is_none() {
            running.push(lab);
        }
    }
    Ok(running)
}

fn free_number() -> Result<(Names, File)> {
    for lab in 0..LABS_MAX {
        let names = Names { lab };
        if let Some(lock) = lock(names)? {
            return Ok((names, lock));
        }
    }
    bail!("{LABS_MAX} labs are up already");
}

/// None: somebody holds it.
fn lock(names: Names) -> Result<Option<File>> {
    let folder = names.folder();
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let path = folder.join("lock");
    let mut file = File::options().create(true).truncate(false).write(true).open(&path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            write!(file, "{:<10}", std::process::id())?;
            Ok(Some(file))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn make(names: Names, members: usize, seed: u64) -> Result<Router> {
    let mut ports = Vec::with_capacity(members + 1);
    for member in 0..members {
        let namespace = names.namespace(member);
        ip(&["netns", "add", &namespace])?;
        let opened = inside(names, member, || open("eth0"))?;
        let device = opened.join().ok().context("opening a device")??;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        bring_up(&["-n", &namespace], "eth0", names.address(member))?;
        ports.push(Port { device, address: names.address(member) });
    }
    let device = open(&names.device())?;
    bring_up(&[], &names.device(), names.host())?;
    ports.push(Port { device, address: names.host() });
    Router::start(ports, seed)
}

fn open(name: &str) -> Result<SyncDevice> {
    DeviceBuilder::new().name(name).build_sync().with_context(|| format!("the TUN device {name}"))
}

fn bring_up(namespace: &[&str], device: &str, address: Ipv4Addr) -> Result<()> {
    let (mtu, queue) = (MTU_BYTES.to_string(), DEVICE_PACKETS_MAX.to_string());
    let with = |words: &[&str]| ip(&[namespace, words].concat());
    with(&["addr", "add", &format!("{address}/24"), "dev", device])?;
    with(&["link", "set", device, "mtu", &mtu, "txqueuelen", &queue, "up"])
}

/// Namespaces of a lab that are there.
fn left(names: Names) -> Result<Vec<String>> {
    let prefix = format!("{}-m", names.device());
    let entries = match fs::read_dir("/run/netns") {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("/run/netns"),
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with(&prefix)).collect())
}

/// Ends what runs in a lab's namespaces, then removes them.
fn remove(names: Names) -> Result<()> {
    for namespace in left(names)? {
        let deadline = Instant::now() + GONE_TIMEOUT;
        loop {
            let said = Command::new("ip").args(["netns", "pids", &namespace]).output()?;
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            // A thread of this process that is still on its way out belongs to this process.
            let pids: Vec<i32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
            let others = pids.into_iter().filter(|pid| *pid as u32 != std::process::id());
            let mut is_empty = true;
            for pid in others.filter_map(Pid::from_raw) {
                is_empty = false;
                // It may have ended by itself.
                let _ended = kill_process(pid, Signal::KILL);
            }
            if is_empty {
                break;
            }
            if Instant::now() >= deadline {
                bail!("{namespace}: processes in it do not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        ip(&["netns", "delete", &namespace])?;
    }
    Ok(())
}

fn ip(words: &[&str]) -> Result<()> {
    let said = Command::new("ip").args(words).stdin(Stdio::null()).output().context("ip")?;
    if !said.status.success() {
        let message = String::from_utf8_lossy(&said.stderr);
        bail!("ip {}: {}", words.join(" "), message.lines().next().unwrap_or_default());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_shown_and_no_others() {
        for place in [Place::Member(0), Place::Member(2), Place::Host] {
            assert_eq!(Place::parse(&place.to_string(), 3).unwrap(), place);
        }
        for text in ["m0", "m4", "m", "x", "", "m-1"] {
            let error = Place::parse(text, 3).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && !error.contains('\n'), "{error}");
        }
    }
}
