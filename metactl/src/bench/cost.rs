//! What a load costs the servers that run on this machine, and what their metrics pages say of
//! syncs.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::raw::Connection;

use crate::cli::Target;
use crate::procfs::{self, Usage};

/// Longest wait for a metrics page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest metrics page.
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// What both etcd and MetaStore count syncs of their logs in.
const SYNCS: &str = "etcd_disk_wal_fsync_duration_seconds";
/// When their processes were started.
const STARTED: &str = "process_start_time_seconds";

/// The servers whose cost is measured.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) processes: Vec<(u32, String)>,
    target: Target,
}

/// The cost of all watched servers and of this program at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// `None`: it has ended.
    pub(crate) processes: Vec<Option<Usage>>,
    pub(crate) own: Usage,
    /// What all disks of this machine have been given.
    pub(crate) disks_written_bytes: Option<u64>,
    /// Of each endpoint; `None`: its metrics page could not be had or does not say.
    pub(crate) syncs: Vec<Option<Syncs>>,
}

/// How often a log has been synced and how long that took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Syncs {
    pub(crate) count: u64,
    pub(crate) took_s: f64,
    /// When the process that counts them was started, by its own word; 0: it does not say.
    pub(crate) started_s: f64,
}

/// All watched processes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) cpu_us: u64,
    pub(crate) rss_bytes: u64,
}

impl Watched {
    /// No server.
    pub(crate) fn nothing() -> Self {
        let target = Target { endpoints: Vec::new(), tls: None, timeout: None };
        Watched { processes: Vec::new(), target }
    }

    /// The given processes, else those of this machine that listen at the endpoints.
    pub(crate) fn new(pids: &[u32], target: &Target) -> Result<Self> {
        let pids: Vec<u32> = if pids.is_empty() {
            let addresses: Vec<_> = target
                .endpoints
                .iter()
                .filter_map(|endpoint| authority(endpoint).to_socket_addrs().ok())
                .flatten()
                .collect();
            procfs::listeners(&addresses).into_iter().collect()
        } else {
            pids.to_vec()
        };
        for pid in &pids {
            if Usage::of(*pid).is_err() {
                bail!("--pid {pid}: no such process");
            }
        }
        let processes = pids.into_iter().map(|pid| (pid, procfs::name(pid))).collect();
        Ok(Watched { processes, target: target.clone() })
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.target.endpoints
    }

    /// Before the load. The pages are asked for first, so that writing them is not counted.
    pub(crate) fn before(&self) -> Sample {
        let syncs = self.syncs();
        Sample { syncs, ..self.machine() }
    }

    /// After the load.
    pub(crate) fn after(&self) -> Sample {
        let machine = self.machine();
        Sample { syncs: self.syncs(), ..machine }
    }

    /// What the kernel of this machine says.
    fn machine(&self) -> Sample {
        Sample {
            processes: self.processes.iter().map(|(pid, _)| Usage::of(*pid).ok()).collect(),
            own: Usage::of(std::process::id()).unwrap_or_default(),
            disks_written_bytes: procfs::disks_written_bytes(),
            syncs: Vec::new(),
        }
    }

    /// `None`: there are no watched processes, or one is gone.
    pub(crate) fn footprint(&self) -> Option<Footprint> {
        if self.processes.is_empty() {
            return None;
        }
        let mut sum = Footprint { cpu_us: 0, rss_bytes: 0 };
        for (pid, _) in &self.processes {
            let usage = Usage::of(*pid).ok()?;
            sum.cpu_us += usage.cpu_us;
            sum.rss_bytes += usage.rss_anon_bytes + usage.rss_file_bytes;
        }
        Some(sum)
    }

    fn syncs(&self) -> Vec<Option<Syncs>> {
        let page = |endpoint: &String| page(endpoint, &self.target).ok();
        self.target.endpoints.iter().map(|endpoint| read_syncs(&page(endpoint)?)).collect()
    }
}

/// `host:port` of an endpoint.
pub(super) fn authority(endpoint: &str) -> &str {
    endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).trim_end_matches('/')
}

/// Whether TLS is spoken with an endpoint.
pub(super) fn is_tls(endpoint: &str, target: &Target) -> bool {
    target.tls.is_some() && !endpoint.starts_with("http://")
}

/// An endpoint's metrics page. etcd gives it by HTTP/1 without TLS, and by HTTP/2 too with it.
fn page(endpoint: &str, target: &Target) -> Result<String> {
    if is_tls(endpoint, target) {
        let fetch = async {
            let connection = Connection::dial_with(endpoint, target.tls.as_ref()).await?;
            connection.get("/metrics").await
        };
        let limited = async { tokio::time::timeout(PAGE_TIMEOUT, fetch).await };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return Ok(String::from_utf8_lossy(&runtime.block_on(limited)??).into_owned());
    }
    let host = authority(endpoint);
    let address = host.to_socket_addrs()?.next().context("no address")?;
    let mut stream = TcpStream::connect_timeout(&address, PAGE_TIMEOUT)?;
    stream.set_read_timeout(Some(PAGE_TIMEOUT))?;
    stream.set_write_timeout(Some(PAGE_TIMEOUT))?;
    // Of version 1.0 so that the answer comes in one piece and the connection ends behind it.
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn read_syncs(page: &str) -> Option<Syncs> {
    let of = |name: &str, suffix: &str| -> Option<f64> {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(suffix))?;
        line.trim().parse().ok()
    };
    Some(Syncs {
        count: of(SYNCS, "_count ")? as u64,
        took_s: of(SYNCS, "_sum ")?,
        started_s: of(STARTED, " ").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_read_from_a_metrics_page() {
        let page = "HTTP/1.0 200 OK\r\n\r\n# HELP etcd_disk_wal_fsync_duration_seconds x\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 1\n\
                    etcd_disk_wal_fsync_duration_seconds_sum 0.25\n\
                    etcd_disk_wal_fsync_duration_seconds_count 1.2e+03\n\
                    process_start_time_seconds 1.5e+9\n";
        let syncs = Syncs { count: 1200, took_s: 0.25, started_s: 1.5e9 };
        assert_eq!(read_syncs(page), Some(syncs));
        assert_eq!(read_syncs("HTTP/1.0 404 Not Found\r\n\r\n"), None);
    }

    #[test]
    fn an_endpoint_has_an_authority_whatever_scheme_it_is_written_with() {
        for endpoint in ["a:1", "http://a:1", "https://a:1/"] {
            assert_eq!(authority(endpoint), "a:1");
        }
    }
}
