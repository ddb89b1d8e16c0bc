//! How long nobody's writes are acknowledged when the leader is lost or hands over.
//!
//! Starts three members of a given program on loopback, fills them, keeps them under load, and loses
//! their leader again and again. One prober per member writes every 5 ms, whatever happened to the
//! write before; the figure of a round is the longest time in which no prober on any member had a
//! write acknowledged, from just before the loss to two seconds after it.
//!
//! ```text
//! cargo run --release -p client --example failover -- PROGRAM FOLDER [--how kill|move|term]
//!     [--rounds N] [--keys N] [--value-bytes N] [--writers N] [FLAGS OF THE PROGRAM ...]
//! ```

#![allow(clippy::print_stdout, reason = "it is a program")]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client::{Client, Config, Put, RetryPolicy};
use tokio::sync::Semaphore;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const MEMBERS: usize = 3;
const PUT_EVERY: Duration = Duration::from_millis(5);
/// Writes of one prober that may wait for their answers.
const PUTS_MAX: usize = 2_000;
const PUT_TIMEOUT: Duration = Duration::from_secs(3);
/// Observed after a loss, at least; longer while nothing is acknowledged,
const WATCHED: Duration = Duration::from_secs(2);
/// but not for ever.
const WATCHED_MAX: Duration = Duration::from_secs(30);
const READY_TIMEOUT: Duration = Duration::from_secs(120);
const FILLERS: u64 = 64;

struct Asked {
    program: PathBuf,
    folder: PathBuf,
    how: String,
    rounds: usize,
    keys: u64,
    value_bytes: usize,
    writers: usize,
    flags: Vec<String>,
}

impl Asked {
    fn read() -> Result<Asked> {
        let mut words = std::env::args().skip(1);
        let mut need = |what: &str| words.next().ok_or(format!("{what} is missing"));
        let (program, folder) = (need("PROGRAM")?.into(), need("FOLDER")?.into());
        let mut asked = Asked {
            program,
            folder,
            how: "kill".to_owned(),
            rounds: 10,
            keys: 100_000,
            value_bytes: 256,
            writers: 16,
            flags: Vec::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word}: a value is missing"));
            match word.as_str() {
                "--how" => asked.how = value()?,
                "--rounds" => asked.rounds = value()?.parse()?,
                "--keys" => asked.keys = value()?.parse()?,
                "--value-bytes" => asked.value_bytes = value()?.parse()?,
                "--writers" => asked.writers = value()?.parse()?,
                _ => asked.flags.push(word),
            }
        }
        Ok(asked)
    }
}

struct Cluster {
    asked: Asked,
    addresses: Vec<(SocketAddr, SocketAddr)>,
    processes: Vec<Option<Child>>,
}

impl Cluster {
    fn start(asked: Asked) -> Result<Cluster> {
        let listeners: Vec<TcpListener> = (0..2 * MEMBERS)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<std::io::Result<_>>()?;
        let ports: Vec<SocketAddr> =
            listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
        drop(listeners);
        let addresses = ports.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let mut cluster = Cluster { asked, addresses, processes: Vec::new() };
        for member in 0..MEMBERS {
            let child = cluster.spawn(member)?;
            cluster.processes.push(Some(child));
        }
        Ok(cluster)
    }

    fn spawn(&self, member: usize) -> Result<Child> {
        let url = |address: &SocketAddr| format!("http://{address}");
        let (client, peer) = &self.addresses[member];
        let initial: Vec<String> = self
            .addresses
            .iter()
            .enumerate()
            .map(|(n, (_, peer))| format!("m{n}={}", url(peer)))
            .collect();
        std::fs::create_dir_all(&self.asked.folder)?;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.asked.folder.join(format!("m{member}.log")))?;
        let child = Command::new(&self.asked.program)
            .args(["--name", &format!("m{member}"), "--data-dir"])
            .arg(Path::new(&self.asked.folder).join(format!("m{member}")))
            .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
            .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &initial.join(",")])
            .args(&self.asked.flags)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(child)
    }

    fn client(&self, member: usize) -> Result<Client> {
        let config = Config::new([self.addresses[member].0.to_string()])
            .connect_timeout(Duration::from_millis(500))
            .request_timeout(PUT_TIMEOUT)
            .retry(RetryPolicy::never());
        Ok(Client::new(config)?)
    }

    /// Waits until all members follow one leader; which member it is, and the ids of all.
    async fn settled(&self) -> Result<(usize, Vec<u64>)> {
        let begun = Instant::now();
        while begun.elapsed() < READY_TIMEOUT {
            let mut said = Vec::new();
            for member in 0..MEMBERS {
                if let Ok(status) = self.client(member)?.status().await {
                    let id = status.header.map_or(0, |header| header.member_id);
                    said.push((id, status.leader, status.raft_applied_index));
                }
            }
            let leader = said.first().map_or(0, |first| first.1);
            let newest = said.iter().map(|it| it.2).max().unwrap_or(0);
            let at = said.iter().position(|it| it.0 == leader);
            let agree = said.len() == MEMBERS
                && said.iter().all(|it| it.1 == leader && it.2 + 5_000 > newest);
            if let (Some(at), true) = (at, agree) {
                return Ok((at, said.iter().map(|it| it.0).collect()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("the members do not agree on a leader".into())
    }

    fn term(&mut self, member: usize) -> Result<()> {
        let pid = self.processes[member].as_ref().map_or(0, Child::id).to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.processes.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn us(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

async fn fill(cluster: &Cluster) -> Result<()> {
    let each = cluster.asked.keys / FILLERS;
    let mut tasks = Vec::new();
    for filler in 0..FILLERS {
        let client = cluster.client(filler as usize % MEMBERS)?;
        let value = vec![b'v'; cluster.asked.value_bytes];
        tasks.push(tokio::spawn(async move {
            for number in 0..each {
                let key = format!("fill/{filler:03}/{number:08}");
                client.put(Put::new(key, value.clone())).await?;
            }
            Ok::<_, client::Error>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut cluster = Cluster::start(Asked::read()?)?;
    cluster.settled().await?;
    let filling = Instant::now();
    fill(&cluster).await?;
    println!("{} keys in {:?}", cluster.asked.keys, filling.elapsed());

    let began = Instant::now();
    let answers: Arc<Mutex<Vec<u64>>> = Arc::default();
    let written = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    for member in 0..MEMBERS {
        let (client, answers, stop) =
            (cluster.client(member)?, Arc::clone(&answers), Arc::clone(&stop));
        tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(PUTS_MAX));
            let mut number = 0u64;
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(PUT_EVERY).await;
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
                number += 1;
                let (client, answers) = (client.clone(), Arc::clone(&answers));
                let key = format!("probe/{member}/{}", number % 100);
                tokio::spawn(async move {
                    if client.put(Put::new(key, "p")).await.is_ok() {
                        answers
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .push(us(began));
                    }
                    drop(permit);
                });
            }
        });
    }
    for writer in 0..cluster.asked.writers {
        let (client, written, stop) =
            (cluster.client(writer % MEMBERS)?, Arc::clone(&written), Arc::clone(&stop));
        let (keys, value) = (cluster.asked.keys.max(1), vec![b'w'; cluster.asked.value_bytes]);
        tokio::spawn(async move {
            let mut number = writer as u64;
            while !stop.load(Ordering::Relaxed) {
                number = number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = (number >> 33) % keys;
                let key = format!("fill/{:03}/{:08}", at % FILLERS, at / FILLERS);
                match client.put(Put::new(key, value.clone())).await {
                    Ok(_) => drop(written.fetch_add(1, Ordering::Relaxed)),
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
    }

    let mut gaps = Vec::new();
    for round in 0..cluster.asked.rounds {
        let (leader, ids) = cluster.settled().await?;
        let (before_us, before_written) = (us(began), written.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(1_000 + 137 * (round as u64 % 7))).await;
        let rate = (written.load(Ordering::Relaxed) - before_written) as f64 * 1e6
            / (us(began) - before_us) as f64;
        let lost_us = us(began);
        match cluster.asked.how.as_str() {
            "kill" => {
                if let Some(child) = &mut cluster.processes[leader] {
                    child.kill()?;
                }
            }
            "term" => cluster.term(leader)?,
            "move" => {
                let target = ids[(leader + 1) % MEMBERS];
                cluster.client(leader)?.move_leader(target).await?;
            }
            other => return Err(format!("{other}: kill, move or term").into()),
        }
        let losing = Instant::now();
        tokio::time::sleep(WATCHED).await;
        let gap_us = loop {
            let mut all = answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            all.sort_unstable();
            let from = all.partition_point(|at| *at + 100_000 < lost_us);
            let last_us = all.last().copied().unwrap_or(0);
            let longest = all[from..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
            if last_us + 500_000 > us(began) || losing.elapsed() > WATCHED_MAX {
                break longest.max(us(began).saturating_sub(last_us).saturating_sub(500_000));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        gaps.push(gap_us);
        println!(
            "round {round}: {:.1} ms without an acknowledged write ({rate:.0} writes/s before)",
            gap_us as f64 / 1e3
        );
        if cluster.asked.how != "move" {
            if let Some(mut child) = cluster.processes[leader].take() {
                child.wait()?;
            }
            cluster.processes[leader] = Some(cluster.spawn(leader)?);
        }
    }
    stop.store(true, Ordering::Relaxed);
    gaps.sort_unstable();
    let ms = |at: usize| gaps[at] as f64 / 1e3;
    println!(
        "{} {}: median {:.1} ms, least {:.1}, p90 {:.1}, worst {:.1}",
        gaps.len(),
        cluster.asked.how,
        ms(gaps.len() / 2),
        ms(0),
        ms(gaps.len() * 9 / 10),
        ms(gaps.len() - 1),
    );
    Ok(())
}
