//! What the kernel knows of a process: CPU time, resident memory, bytes written, and who listens on a
//! port; and what the disks of this machine have taken.
//!
//! Read from `/proc`, for measuring servers on this machine. CPU time comes in clock ticks of 10 ms,
//! so a figure per operation means something only over seconds.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Ticks a second in `/proc/PID/stat`; Linux reports 100 to programs on every architecture.
const TICKS_PER_SECOND: u64 = 100;

/// Of the sectors that disks are counted in, whatever their own are.
const SECTOR_BYTES: u64 = 512;

/// One process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time of all its threads, ended ones included.
    pub(crate) cpu_us: u64,
    /// Resident memory of its own.
    pub(crate) rss_anon_bytes: u64,
    /// Resident pages of mapped files, which the kernel may take back.
    pub(crate) rss_file_bytes: u64,
    /// Most it ever had resident.
    pub(crate) rss_peak_bytes: u64,
    /// Bytes of pages it has dirtied that then had to be written; `None`: it is another user's. A
    /// page may be a large folio of a megabyte of which a few bytes changed, so small writes that are
    /// each synced look larger than they are.
    pub(crate) written_bytes: Option<u64>,
}

impl Usage {
    /// Of a running process.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let broken = |file: &str| io::Error::other(format!("/proc/{pid}/{file}: not understood"));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |field| kib(&status, field).unwrap_or(0) * 1024;
        Ok(Usage {
            cpu_us: cpu_us(&stat).ok_or_else(|| broken("stat"))?,
            rss_anon_bytes: bytes("RssAnon:"),
            rss_file_bytes: bytes("RssFile:"),
            rss_peak_bytes: bytes("VmHWM:"),
            written_bytes: fs::read_to_string(format!("/proc/{pid}/io"))
                .ok()
                .and_then(|io| written_bytes(&io)),
        })
    }
}

/// The name of a process as the kernel shows it.
pub(crate) fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// User and system time out of a `stat` line. The name in parentheses may hold anything, so fields
/// are counted from behind it.
fn cpu_us(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * (1_000_000 / TICKS_PER_SECOND))
}

/// Out of `/proc/PID/io`.
fn written_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse().ok())
}

/// Bytes all disks of this machine have been given since it was started, by whomever. Partitions and
/// devices made of others are not counted again. `None`: there are none, or none that tell.
pub(crate) fn disks_written_bytes() -> Option<u64> {
    let devices = fs::read_dir("/sys/block").ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let disks = devices.filter(|device| device.join("device").exists());
    disks
        .map(|disk| sectors_written(&fs::read_to_string(disk.join("stat")).ok()?))
        .reduce(|sum, disk| Some(sum? + disk?))?
        .map(|sectors| sectors * SECTOR_BYTES)
}

/// Out of a disk's `stat`.
fn sectors_written(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().nth(6)?.parse().ok()
}

fn kib(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The processes of this machine that listen at these addresses, as far as this user may look.
/// Addresses that are not of this machine's loopback have none. A child that has its parent's sockets
/// is not named: mostly it is on its way to becoming another program.
pub(crate) fn listeners(addresses: &[SocketAddr]) -> BTreeSet<u32> {
    let ports: BTreeSet<u16> = addresses
        .iter()
        .filter(|address| match address.ip() {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback(),
        })
        .map(SocketAddr::port)
        .collect();
    let mut sockets = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = fs::read_to_string(table).unwrap_or_default();
        let listening = table.lines().skip(1).filter_map(listening);
        let ours = listening.filter(|(port, _)| ports.contains(port));
        sockets.extend(ours.map(|(_, inode)| format!("socket:[{inode}]")));
    }
    if sockets.is_empty() {
        return BTreeSet::new();
    }
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let holders: BTreeSet<u32> = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| holds(*pid, &sockets))
        .collect();
    let of_its_own = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        stat.and_then(|stat| parent(&stat)).is_some_and(|parent| !holders.contains(&parent))
    };
    holders.iter().copied().filter(of_its_own).collect()
}

/// Out of a process's `stat`.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Port and inode of a line of `/proc/net/tcp` that describes a listening socket.
fn listening(line: &str) -> Option<(u16, &str)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let inode = fields.nth(5)?;
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    Some((port, inode))
}

fn holds(pid: u32, sockets: &BTreeSet<String>) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_counted_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 900 0 3 0 150 50 0 0 20 0 9 0 0 0 0";
        assert_eq!(cpu_us(stat), Some(2_000_000));
        assert_eq!(cpu_us("7 (a"), None);
        assert_eq!(parent(stat), Some(1));
    }

    #[test]
    fn bytes_written_to_disks_are_told_from_those_written_at_all() {
        let io = "rchar: 9\nwchar: 8\nread_bytes: 7\nwrite_bytes: 4096\ncancelled_write_bytes: 1\n";
        assert_eq!(written_bytes(io), Some(4096));
        assert_eq!(written_bytes(""), None);
        let stat = "  3480  25  205130  1043  9012  7345  803264  3821  0  2212  4864  0 0 0 0";
        assert_eq!(sectors_written(stat), Some(803_264));
    }

    #[test]
    fn only_listening_sockets_have_a_port_here() {
        let listens = "  0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0000";
        let talks = listens.replace(" 0A ", " 01 ");
        assert_eq!(listening(listens), Some((2379, "4242")));
        assert_eq!(listening(&talks), None);
    }

    #[test]
    fn this_process_is_found_by_the_port_it_listens_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = listeners(&[listener.local_addr().unwrap()]);
        assert_eq!(found, BTreeSet::from([std::process::id()]));
        assert!(Usage::of(std::process::id()).unwrap().rss_anon_bytes > 0);
        // Whoever it starts meanwhile has its sockets until it is another program.
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(
                listener.try_clone().unwrap(),
            )))
            .spawn()
            .unwrap();
        let found = listeners(&[listener.local_addr().unwrap()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, BTreeSet::from([std::process::id()]));
    }
}
