//! `dev`: a cluster of real processes to try things on, gone when it is interrupted.
//!
//! Everything it makes is below one temporary directory, and it stops only the processes it
//! started, by their ids.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use client::{Client, Config, RetryPolicy};
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// Most members of a throw-away cluster.
const MEMBERS_MAX: usize = 9;
/// Longest wait for the cluster to have a leader.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for a member to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often processes are looked at while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Ports of member 1, 2, … if they are free: those etcd's own examples use.
const CLIENT_PORT_FIRST: u16 = 2379;
const PEER_PORT_FIRST: u16 = 2380;
const PORT_STEP: u16 = 10_000;

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// How many members
    #[arg(long, default_value_t = 3)]
    members: usize,
    /// The server program (default: `metastore` beside this one)
    #[arg(long, value_name = "PATH")]
    metastore: Option<PathBuf>,
}

/// One member and where to find it.
struct Member {
    name: String,
    client_port: u16,
    peer_port: u16,
    log: PathBuf,
    /// How it was started.
    line: String,
    process: Option<Child>,
}

/// The processes; stopped when dropped, whatever the reason.
struct Cluster {
    members: Vec<Member>,
}

impl Dev {
    pub(crate) async fn run(&self, out: &mut dyn Write) -> Result<()> {
        if !(1..=MEMBERS_MAX).contains(&self.members) {
            bail!("--members {}: from 1 to {MEMBERS_MAX}", self.members);
        }
        let program = match &self.metastore {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .context("where this program is")?
                .with_file_name(format!("metastore{}", std::env::consts::EXE_SUFFIX)),
        };
        if !program.is_file() {
            bail!("{}: no such program (build the server, or use --metastore)", program.display());
        }
        let directory =
            tempfile::Builder::new().prefix("metactl-dev-").tempdir().context("a directory")?;
        let mut cluster = Cluster { members: plan(self.members, directory.path())? };
        writeln!(out, "starting {} in {}", self.members, directory.path().display())?;
        cluster.start(&program, directory.path())?;

        let mut interrupts = std::pin::pin!(interrupted());
        let ready = tokio::select! {
            ready = cluster.ready() => ready.map(|()| true),
            () = &mut interrupts => Ok(false),
        };
        let outcome = match ready {
            Ok(true) => {
                cluster.introduce(out)?;
                tokio::select! {
                    ended = cluster.all_ended(out) => Err(ended),
                    () = &mut interrupts => Ok(()),
                }
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        writeln!(out, "stopping")?;
        cluster.stop().await;
        directory.close().context("removing the directory")?;
        outcome
    }
}

/// Returns at ctrl-C, and when asked to end.
async fn interrupted() {
    let mut end = match signal(SignalKind::terminate()) {
        Ok(end) => end,
        // Without it ctrl-C still works.
        Err(_) => return drop(tokio::signal::ctrl_c().await),
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = end.recv() => {}
    }
}

/// Names and ports. All ports are held while they are chosen, so that no two are the same.
fn plan(members: usize, directory: &Path) -> Result<Vec<Member>> {
    let mut held = Vec::new();
    let mut port = |wanted: u16| -> Result<u16> {
        let listener = TcpListener::bind(("127.0.0.1", wanted))
            .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
            .context("a free port")?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    let mut planned = Vec::new();
    for number in 0..members {
        // Beyond 65535 there is nothing: those members get any free port.
        let beyond = u16::try_from(number).unwrap_or(u16::MAX).saturating_mul(PORT_STEP);
        let nth = |first: u16| first.checked_add(beyond).unwrap_or(0);
        let name = format!("m{}", number + 1);
        planned.push(Member {
            log: directory.join(format!("{name}.log")),
            name,
            client_port: port(nth(CLIENT_PORT_FIRST))?,
            peer_port: port(nth(PEER_PORT_FIRST))?,
            line: String::new(),
            process: None,
        });
    }
    Ok(planned)
}

impl Member {
    fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    fn last_log_line(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().next_back().unwrap_or("its log is empty").to_owned()
    }

    /// An error if the process has ended by itself.
    fn check(&mut self) -> Result<()> {
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Some(status) = process.try_wait()? {
            if status.code().is_none() {
                bail!("{} was killed ({status})", self.name);
            }
            bail!("{} ended ({status}): {}", self.name, self.last_log_line());
        }
        Ok(())
    }

    fn terminate(&self) {
        if let Some(process) = &self.process
            && let Ok(id) = i32::try_from(process.id())
            && let Some(pid) = Pid::from_raw(id)
        {
            // It may have ended a moment ago.
            let _ended = kill_process(pid, Signal::TERM);
        }
    }
}

impl Cluster {
    fn start(&mut self, program: &Path, directory: &Path) -> Result<()> {
        let initial: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}={}", member.name, member.peer_url()))
            .collect();
        let initial = initial.join(",");
        for member in &mut self.members {
            let log =
                File::create(&member.log).with_context(|| format!("{}", member.log.display()))?;
            let mut command = Command::new(program);
            command
                .arg("--name")
                .arg(&member.name)
                .arg("--data-dir")
                .arg(directory.join(&member.name))
                .args(["--listen-client-urls", &member.client_url()])
                .args(["--advertise-client-urls", &member.client_url()])
                .args(["--listen-peer-urls", &member.peer_url()])
                .args(["--initial-advertise-peer-urls", &member.peer_url()])
                .args(["--initial-cluster", &initial])
                .args(["--initial-cluster-state", "new"])
                .args(["--initial-cluster-token", &format!("dev-{}", std::process::id())])
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                // A terminal's ctrl-C is for this program, which then stops them in order.
                .process_group(0);
            // Settings meant for another server must not reach these.
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("ETCD_") {
                    command.env_remove(name);
                }
            }
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            member.line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
            let process =
                command.spawn().with_context(|| format!("starting {}", program.display()))?;
            member.process = Some(process);
        }
        Ok(())
    }

    fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::client_url).collect()
    }

    /// Returns when every member knows a leader.
    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let config = Config::new(self.endpoints())
            .request_timeout(Duration::from_secs(1))
            .retry(RetryPolicy::never());
        let client = Client::new(config)?;
        for index in 0..self.members.len() {
            let member = client.at(index);
            loop {
                for member in &mut self.members {
                    member.check()?;
                }
                if member.status().await.is_ok_and(|status| status.leader != 0) {
                    break;
                }
                if Instant::now() >= deadline {
                    let member = &self.members[index];
                    bail!(
                        "{} has no leader after {READY_TIMEOUT:?}: {}",
                        member.name,
                        member.last_log_line()
                    );
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    fn introduce(&self, out: &mut dyn Write) -> Result<()> {
        for member in &self.members {
            let pid = member.process.as_ref().map_or(0, Child::id);
            writeln!(
                out,
                "  {}  {}  pid {pid}  log {}",
                member.name,
                member.client_url(),
                member.log.display()
            )?;
            writeln!(out, "      {}", member.line)?;
        }
        let first = self.members[0].client_url();
        let all = self.endpoints().join(",");
        writeln!(out, "ready; try:")?;
        writeln!(out, "  export ETCDCTL_ENDPOINTS={all}")?;
        writeln!(out, "  etcdctl put greeting hello && etcdctl get greeting")?;
        writeln!(out, "  curl {first}/health")?;
        writeln!(out, "  metactl --endpoints {all} status")?;
        writeln!(out, "ctrl-C stops the members and removes their data")?;
        out.flush()?;
        Ok(())
    }

    /// Says so when a member has ended, killed by whoever tries things; returns when none is left.
    async fn all_ended(&mut self, out: &mut dyn Write) -> anyhow::Error {
        loop {
            for member in &mut self.members {
                if let Err(error) = member.check() {
                    member.process = None;
                    // A reader that is gone must not end the cluster.
                    drop(writeln!(out, "{error}").and_then(|()| out.flush()));
                }
            }
            if self.members.iter().all(|member| member.process.is_none()) {
                return anyhow::anyhow!("no member is left");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks all members to end and kills those that do not within their time.
    async fn stop(&mut self) {
        for member in &self.members {
            member.terminate();
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for member in &mut self.members {
            let Some(mut process) = member.process.take() else { continue };
            while Instant::now() < deadline {
                if !matches!(process.try_wait(), Ok(None)) {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            // Both fail only if it has ended.
            drop(process.kill());
            drop(process.wait());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_has_ports_of_its_own() {
        let members = plan(MEMBERS_MAX, Path::new("somewhere")).unwrap();
        let ports: std::collections::BTreeSet<u16> =
            members.iter().flat_map(|member| [member.client_port, member.peer_port]).collect();
        assert_eq!(ports.len(), 2 * MEMBERS_MAX);
        assert!(!ports.contains(&0));
    }
}
