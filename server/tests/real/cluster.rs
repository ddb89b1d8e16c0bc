//! Starts, kills and stops members on free loopback ports; every wait has an end.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::{Client, Config, Get, Put};
use proto::etcdserverpb::Member;

pub(crate) use crate::ports::free_port;

/// Longest wait for anything; machines that build at the same time are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
const READY: &str = "ready to serve client requests";

/// One member.
pub(crate) struct Process {
    name: String,
    client_port: u16,
    peer_port: u16,
    pub(crate) initial_cluster: String,
    cluster_state: &'static str,
    pub(crate) setup: Setup,
    dir: PathBuf,
    starts: u32,
    child: Option<Child>,
}

/// How members are started beyond what all have in common.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    /// Clients come with TLS.
    pub(crate) client_tls: bool,
    /// Peers come with TLS.
    pub(crate) peer_tls: bool,
    /// `--flag=value`; `{name}` is the member's name.
    pub(crate) flags: Vec<String>,
    /// Variables; there are no others.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Setup {
    /// A leader stays one on a machine that is busy: a member has to stand still for longer than usual
    /// until the others elect anew.
    pub(crate) fn calm(mut self) -> Self {
        self.flags
            .extend(["--heartbeat-interval=300", "--election-timeout=3000"].map(str::to_owned));
        self
    }
}

fn scheme(is_tls: bool) -> &'static str {
    if is_tls { "https" } else { "http" }
}

/// Members of one cluster in a directory of their own.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Process>,
    _dir: tempfile::TempDir,
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "no end of waiting for {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The table of members, as whoever answers has it.
async fn table(client: &Client) -> Option<Vec<Member>> {
    Some(client.members().await.ok()?.members)
}

/// Adds a learner; its id. The answer may be lost, as with all changes of members.
pub(crate) async fn add_learner(client: &Client, url: &str) -> u64 {
    until("a learner", || async {
        match client.member_add_learner(vec![url.to_owned()]).await {
            Ok(added) => added.member.map(|member| member.id),
            Err(_) => {
                let is_it = |row: &&Member| row.peer_ur_ls.iter().any(|at| at == url);
                table(client).await?.iter().find(is_it).map(|row| row.id)
            }
        }
    })
    .await
}

/// Makes a learner a voter, as soon as it may be one.
pub(crate) async fn promote(client: &Client, id: u64) {
    until("the promotion", || async {
        let is_done = client.member_promote(id).await.is_ok()
            || table(client).await?.iter().any(|row| row.id == id && !row.is_learner);
        is_done.then_some(())
    })
    .await;
}

/// Removes a member.
pub(crate) async fn remove(client: &Client, id: u64) {
    until("the removal", || async {
        let is_done = client.member_remove(id).await.is_ok()
            || table(client).await?.iter().all(|row| row.id != id);
        is_done.then_some(())
    })
    .await;
}

impl Cluster {
    /// Starts a cluster of `size` and waits until all of it serves.
    pub(crate) async fn start(size: usize) -> Cluster {
        Self::start_with(size, &Setup::default()).await
    }

    /// The same with more flags.
    pub(crate) async fn start_with(size: usize, setup: &Setup) -> Cluster {
        let mut cluster = Self::plan(size, setup);
        for member in &mut cluster.members {
            member.launch();
        }
        for member in &cluster.members {
            member.ready().await;
        }
        cluster
    }

    /// Nothing is started yet.
    pub(crate) fn plan(size: usize, setup: &Setup) -> Cluster {
        let dir = tempfile::tempdir().expect("a directory");
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
        let initial_cluster = ports
            .iter()
            .enumerate()
            .map(|(n, (_, peer))| format!("m{n}={}://127.0.0.1:{peer}", scheme(setup.peer_tls)))
            .collect::<Vec<_>>()
            .join(",");
        let members = ports
            .into_iter()
            .enumerate()
            .map(|(n, (client_port, peer_port))| Process {
                name: format!("m{n}"),
                client_port,
                peer_port,
                initial_cluster: initial_cluster.clone(),
                cluster_state: "new",
                setup: setup.clone(),
                dir: dir.path().to_owned(),
                starts: 0,
                child: None,
            })
            .collect();
        Cluster { members, _dir: dir }
    }

    /// A client of all members.
    pub(crate) fn client(&self) -> Client {
        let endpoints: Vec<String> = self.members.iter().map(Process::endpoint).collect();
        Client::new(Config::new(endpoints)).expect("a client")
    }

    /// Waits until a write succeeds.
    pub(crate) async fn accepts_writes(&self) {
        let client = self.client();
        until("an accepted write", || async { client.put(Put::new("alive", "yes")).await.ok() })
            .await;
    }

    /// The same, by one caller.
    pub(crate) async fn accepts_writes_of(&self, client: &Client) {
        until("an accepted write", || async { client.put(Put::new("alive", "yes")).await.ok() })
            .await;
    }

    /// Waits until all members have the same hash at the same revision.
    pub(crate) async fn members_agree(&self) {
        let client = self.client();
        until("equal hashes", || async {
            let revision = client.get(Get::new("alive")).await.ok()?.header?.revision;
            let mut hashes = Vec::new();
            for member in client.each() {
                hashes.push(member.hash_kv(revision).await.ok()?.hash);
            }
            hashes.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        })
        .await;
    }
}

impl Process {
    /// Where clients reach it.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// Where peers reach it.
    pub(crate) fn peer_endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.peer_port)
    }

    /// What it has logged since its last start.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.dir.join(format!("{}-{}.log", self.name, self.starts))
    }

    /// Starts it, or starts it again on the same data.
    pub(crate) fn launch(&mut self) {
        self.starts += 1;
        let (client, peer) = (self.client_port, self.peer_port);
        let (client_scheme, peer_scheme) =
            (scheme(self.setup.client_tls), scheme(self.setup.peer_tls));
        let flags = self.setup.flags.iter().map(|flag| flag.replace("{name}", &self.name));
        let log = File::create(self.log()).expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_metastore"))
            .arg("--name")
            .arg(&self.name)
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg(format!("--listen-client-urls={client_scheme}://127.0.0.1:{client}"))
            .arg(format!("--advertise-client-urls={client_scheme}://127.0.0.1:{client}"))
            .arg(format!("--listen-peer-urls={peer_scheme}://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer_scheme}://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster={}", self.initial_cluster))
            .arg(format!("--initial-cluster-state={}", self.cluster_state))
            .args(flags)
            .env_clear()
            .envs(self.setup.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    /// From now on it is started as one that joins.
    pub(crate) fn joins_existing(&mut self) {
        self.cluster_state = "existing";
    }

    /// Its data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Starts it where it must refuse to: its exit code and what it said.
    pub(crate) async fn refuses(&mut self) -> (Option<i32>, String) {
        self.launch();
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            let child = self.child.as_mut().expect("launched");
            if let Some(status) = child.try_wait().expect("a status") {
                break status;
            }
            assert!(Instant::now() < deadline, "{} did not refuse to start", self.name);
            tokio::time::sleep(POLL).await;
        };
        self.child = None;
        let said = std::fs::read_to_string(self.log()).expect("its log");
        (status.code(), said.lines().next_back().unwrap_or_default().to_owned())
    }

    /// Waits until it says that it serves.
    pub(crate) async fn ready(&self) {
        let log = self.log();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains(READY) {
                return;
            }
            assert!(Instant::now() < deadline, "{} is not ready:\n{text}", self.name);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Processor time it has taken, in all its threads.
    pub(crate) fn processor_time(&self) -> Duration {
        /// Of `/proc`, on every Linux.
        const TICKS_PER_SECOND: f64 = 100.0;
        let pid = self.child.as_ref().expect("launched").id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields = stat.rsplit_once(')').expect("its name ends").1.split_whitespace();
        let ticks: f64 = fields.skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum();
        Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
    }

    /// What the process that was launched finds in its environment.
    pub(crate) fn environment(&self) -> String {
        let pid = self.child.as_ref().expect("launched").id();
        std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("it runs")
    }

    /// SIGKILL: the process ends in the middle of whatever it was doing.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
    }

    /// Sends a signal and does not wait.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().expect("launched");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        child.wait().expect("reaped").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
