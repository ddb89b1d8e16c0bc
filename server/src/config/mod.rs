//! Every setting of a member, from etcd's flags, environment variables or configuration file.
//!
//! [`load()`] is the whole of it: words and variables in, a checked [`Config`] or one line of error
//! out. Nothing below this module reads the environment. The rules are etcd's, so that unit files,
//! manifests and scripts written for etcd work unchanged: a flag wins over its variable, a
//! configuration file replaces both.

mod check;
mod cluster;
mod error;
mod flags;
mod load;
mod sources;
mod tls;
mod tracing;
mod typed;
mod url;
mod value;

use std::path::PathBuf;
use std::time::Duration;

pub use cluster::InitialMember;
pub use error::ConfigError;
pub use load::load;
pub use tls::{TlsFiles, TlsProtocol};
pub use url::{Address, Scheme, Url, texts};

use sources::Given;

/// Name of the socket in the member's directory.
const CONTROL_SOCKET: &str = "control.sock";
/// The quota when none is given: 2 GiB.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;

/// What to do after reading the settings.
#[derive(Debug)]
pub enum Start {
    /// Serve.
    Serve(Box<Config>),
    /// Print this on standard output and leave.
    Print(String),
    /// Ask the member that runs on the same data directory to hand the leadership over.
    PreStop {
        /// Its control socket.
        socket: PathBuf,
        /// How long that may take.
        timeout: Duration,
    },
}

/// Founding a cluster, or joining one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// The members of `initial_cluster` found a new cluster.
    New,
    /// The cluster runs and has been told of this member.
    Existing,
}

/// How history is thrown away by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Not at all.
    Off,
    /// What is older than this.
    Periodic(Duration),
    /// What is more than so many revisions back.
    Revision(i64),
}

/// What becomes of what is sent to peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerCompression {
    /// It is sent as it is; chunks of snapshots in LZ4.
    #[default]
    None,
    /// LZ4: little time, twice to five times fewer bytes of text.
    Lz4,
    /// Zstandard at its first level: a little more time, fewer bytes.
    Zstd,
    /// For each peer as it pays: while the road to it is full, its frames shrink and the processor has time.
    Auto,
}

impl PeerCompression {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Auto => "auto",
        }
    }
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Columns for people.
    Console,
}

/// Least severe level that is logged. etcd's `panic` and `fatal` are said by exiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// The course of things.
    Info,
    /// What should not be, and is survived.
    Warn,
    /// What failed.
    Error,
}

impl LogLevel {
    /// From the most to the least.
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warn, Self::Error];

    /// By its name as `--log-level` takes it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "panic" | "fatal" => Some(Self::Error),
            _ => Self::ALL.into_iter().find(|level| level.as_str() == name),
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

/// Every setting, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this member.
    pub name: String,
    /// Where its data lies.
    pub data_dir: PathBuf,
    /// Where its log lies, if not there.
    pub wal_dir: Option<PathBuf>,
    /// Entries between snapshots, if somebody said so.
    pub snapshot_count: Option<u64>,
    /// Entries kept behind a snapshot.
    pub snapshot_catchup_entries: u64,
    /// Heartbeat interval.
    pub heartbeat_interval_ms: u64,
    /// Election timeout.
    pub election_timeout_ms: u64,
    /// Where to listen for peers.
    pub listen_peer_urls: Vec<Url>,
    /// Where to listen for clients.
    pub listen_client_urls: Vec<Url>,
    /// Where to listen for HTTP alone. Not empty: `listen_client_urls` serve gRPC alone.
    pub listen_client_http_urls: Vec<Url>,
    /// Where to serve metrics and health besides.
    pub listen_metrics_urls: Vec<Url>,
    /// How peers reach this member.
    pub advertise_peer_urls: Vec<Url>,
    /// How clients reach this member.
    pub advertise_client_urls: Vec<Url>,
    /// The members at the first start, as written.
    pub initial_cluster: String,
    /// Found or join.
    pub initial_cluster_state: ClusterState,
    /// Goes into the identity of a new cluster.
    pub initial_cluster_token: String,
    /// Refuse member changes that would lose the quorum.
    pub strict_reconfig_check: bool,
    /// Make a new cluster of this member alone.
    pub force_new_cluster: bool,
    /// Size above which writes are refused; none: no limit.
    pub quota_bytes: Option<u64>,
    /// Bytes of values kept in memory; none: all of them.
    pub value_cache_bytes: Option<u64>,
    /// Operations in a transaction.
    pub max_txn_ops: usize,
    /// Bytes of a request.
    pub max_request_bytes: usize,
    /// Streams on one connection.
    pub max_concurrent_streams: u32,
    /// Interval of pings to clients; zero: none.
    pub grpc_keepalive_interval: Duration,
    /// Wait for their answer; zero: for ever.
    pub grpc_keepalive_timeout: Duration,
    /// Set SO_REUSEPORT.
    pub socket_reuse_port: bool,
    /// Set SO_REUSEADDR.
    pub socket_reuse_address: bool,
    /// Automatic compaction.
    pub auto_compaction: AutoCompaction,
    /// Interval of progress notifications.
    pub watch_progress_notify_interval: Duration,
    /// Slower applies are logged.
    pub warning_apply_duration: Duration,
    /// Slower unary requests are logged.
    pub warning_unary_request_duration: Duration,
    /// Where to log.
    pub log_outputs: Vec<LogOutput>,
    /// What to log.
    pub log_level: LogLevel,
    /// How to log.
    pub log_format: LogFormat,
    /// Many commands in one Raft entry.
    pub batch_proposals: bool,
    /// Most commands in an entry.
    pub batch_commands_max: usize,
    /// Bytes after which an entry is closed.
    pub batch_bytes_max: usize,
    /// Longest wait for more commands.
    pub batch_linger: Duration,
    /// How what is sent to peers is compressed.
    pub peer_compression: PeerCompression,
    /// Stand for election at once when the leader's process is gone.
    pub crash_hints: bool,
    /// How long a batch gathers at most on a member whose batches queue for processor.
    pub batch_gather_max: Duration,
    /// Threads that serve clients; none: by the number of processors.
    pub client_threads: Option<usize>,
    /// Client connections at a time.
    pub client_connections_max: usize,
    /// For tests of alerts: added to the wall clock that is told to peers.
    pub test_wall_clock_offset_us: i64,
    /// Newest form of plans of timing that is read; less than the newest there is only in tests.
    pub test_plan_format: u32,
    /// Traces, if there are any.
    pub tracing: Option<otlp::Settings>,
    /// TLS towards clients.
    pub client_tls: Option<TlsFiles>,
    /// TLS towards peers.
    pub peer_tls: Option<TlsFiles>,
    /// They come from something that can be read once only, such as a pipe.
    pub read_once: bool,
    /// What the log should say about these settings once there is a log.
    pub warnings: Vec<String>,
}

impl Config {
    /// The settings of a member started without any flag.
    pub fn defaults() -> Self {
        Self::from_given(&Given::default(), Vec::new()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Where the log lies.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// The directory inside the data directory that nobody else may read.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// The socket that only the owner of the data directory can reach.
    pub fn control_socket(&self) -> PathBuf {
        self.member_dir().join(CONTROL_SOCKET)
    }

    /// How long a request may wait for its outcome: queue, computation and disk, and an election.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(5_000 + 2 * self.election_timeout_ms)
    }

    /// Seconds of the shortest lease: it must outlive an election.
    pub fn lease_ttl_min(&self) -> i64 {
        i64::try_from((3 * self.election_timeout_ms).div_ceil(2_000)).unwrap_or(i64::MAX)
    }

    /// How commands are gathered into entries.
    pub fn batching(&self) -> autotune::Batching {
        let micros = |it: Duration| u64::try_from(it.as_micros()).unwrap_or(u64::MAX);
        autotune::Batching {
            enabled: self.batch_proposals,
            entry_bytes_max: self.batch_bytes_max as u64,
            entry_commands_max: self.batch_commands_max as u64,
            linger_us: micros(self.batch_linger),
            gather_us_max: micros(self.batch_gather_max),
        }
    }
}

#[cfg(test)]
mod tests;
