//! Every setting of a member, from etcd's flags, environment variables or configuration file.
//!
//! [`load`] is the whole of it: words and variables in, a checked [`Config`] or one line of error
//! out. Nothing below this module reads the environment. The rules are etcd's, so that unit files,
//! manifests and scripts written for etcd work unchanged: a flag wins over its variable, a
//! configuration file replaces both.

mod cluster;
mod error;
mod flags;
mod sources;
mod tls;
mod tracing;
mod url;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use cluster::InitialMember;
pub use error::ConfigError;
pub use tls::{TlsFiles, TlsProtocol};
pub use url::{Address, Scheme, Url, texts};

use sources::Given;

/// The word that makes the program ask a running member to step down instead of being one.
const PRE_STOP: &str = "pre-stop";
/// The variable that allows flags for tests as `--test-flags` does, if it is 1.
const TEST_FLAGS: &str = "METASTORE_TEST_FLAGS";
/// Name of the socket in the member's directory.
const CONTROL_SOCKET: &str = "control.sock";
/// More threads than any machine has processors are a slip of the keyboard.
const CLIENT_THREADS_MAX: usize = 1_024;
/// Longest election timeout etcd accepts.
const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
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
    /// What the log should say about these settings once there is a log.
    pub warnings: Vec<String>,
}

/// Reads the settings. `args` is without the name of the program.
pub fn load(args: &[String], variables: &BTreeMap<String, String>) -> Result<Start, ConfigError> {
    if args.first().is_some_and(|word| word == PRE_STOP) {
        return pre_stop(&args[1..], variables);
    }
    let line = sources::command_line(args)?;
    if line.wants_help {
        return Ok(Start::Print(flags::help()));
    }
    if line.wants_version {
        return Ok(Start::Print(crate::version::report()));
    }
    let mut warnings = Vec::new();
    let from_environment = || variables.get("ETCD_CONFIG_FILE").filter(|path| !path.is_empty());
    let given = match line.config_file.as_ref().or_else(from_environment) {
        Some(path) => {
            let (given, retired) = sources::file(path)?;
            warnings.push(format!("config file {path}: other flags and variables are ignored"));
            warnings
                .extend(retired.iter().map(|key| format!("config file {path}: {key} is ignored")));
            given
        }
        None => {
            let mut given = line.given;
            let unrecognized = sources::environment(&mut given, variables)?;
            warnings.extend(
                unrecognized
                    .iter()
                    .map(|variable| format!("unrecognized environment variable {variable}")),
            );
            given
        }
    };
    for (name, value) in given.iter() {
        let flag = flags::find(name).unwrap_or_else(|| panic!("--{name} is in the table"));
        let is_gateway = name == "enable-grpc-gateway" && flag.is_default(value);
        if is_gateway || (flag.support == flags::Support::NoEffect && !flag.is_default(value)) {
            warnings.push(format!("--{name}={value} has no effect in this version"));
        }
    }
    let may_test = variables.get(TEST_FLAGS).is_some_and(|value| value == "1")
        || boolean(&given, "test-flags");
    let for_tests =
        |name: &str| flags::find(name).is_some_and(|it| it.support == flags::Support::ForTests);
    if let Some((name, _)) = given.iter().find(|(name, _)| !may_test && for_tests(name)) {
        return Err(ConfigError::Contradiction(format!(
            "--{name} is for tests of MetaStore itself and needs --test-flags"
        )));
    }
    let mut config = Config::from_given(&given, warnings)?;
    config.tracing = tracing::settings(&given, variables, &config.name)?;
    Ok(Start::Serve(Box::new(config)))
}

/// `pre-stop [--timeout DURATION]` and whatever says where the data lies: the same flags, variables or
/// file the member was started with, all the others of which are read and not used.
fn pre_stop(args: &[String], variables: &BTreeMap<String, String>) -> Result<Start, ConfigError> {
    let mut timeout = crate::shutdown::TRANSFER_TIMEOUT;
    let mut rest = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let name = word.trim_start_matches('-');
        let value = match name.split_once('=') {
            Some(("timeout", value)) => value.to_owned(),
            None if name == "timeout" && name != word => {
                let missing = || ConfigError::MissingValue { name: "timeout".to_owned() };
                words.next().cloned().ok_or_else(missing)?
            }
            _ => {
                rest.push(word.clone());
                continue;
            }
        };
        timeout = value::parse_duration(&value).map_err(|reason| ConfigError::InvalidValue {
            value,
            origin: "flag -timeout".to_owned(),
            reason,
        })?;
    }
    let line = sources::command_line(&rest)?;
    if line.wants_help {
        return Ok(Start::Print(flags::help()));
    }
    let from_environment = || variables.get("ETCD_CONFIG_FILE").filter(|path| !path.is_empty());
    let given = match line.config_file.as_ref().or_else(from_environment) {
        Some(path) => sources::file(path)?.0,
        None => {
            let mut given = line.given;
            sources::environment(&mut given, variables)?;
            given
        }
    };
    let socket = data_dir(&given).join("member").join(CONTROL_SOCKET);
    Ok(Start::PreStop { socket, timeout })
}

fn data_dir(given: &Given) -> PathBuf {
    match given.text("data-dir") {
        "" => PathBuf::from(format!("{}.metastore", given.text("name"))),
        path => PathBuf::from(path),
    }
}

impl Config {
    /// The settings of a member started without any flag.
    pub fn defaults() -> Self {
        Self::from_given(&Given::default(), Vec::new()).unwrap_or_else(|error| panic!("{error}"))
    }

    fn from_given(given: &Given, warnings: Vec<String>) -> Result<Self, ConfigError> {
        let name = given.text("name").to_owned();
        check_name(&name)?;
        let data_dir = data_dir(given);
        let listen_client_urls = urls(given, "listen-client-urls");
        let advertise_peer_urls = urls(given, "initial-advertise-peer-urls");
        if given.explicit("listen-client-urls").is_some()
            && given.explicit("advertise-client-urls").is_none_or(str::is_empty)
        {
            return Err(ConfigError::Contradiction(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                    .to_owned(),
            ));
        }
        let initial_cluster = match given.text("initial-cluster") {
            "" => advertise_peer_urls
                .iter()
                .map(|url| format!("{name}={url}"))
                .collect::<Vec<_>>()
                .join(","),
            text => text.to_owned(),
        };
        let tls = tls::settings(given)?;
        let mut config = Self {
            client_tls: tls.client,
            peer_tls: tls.peer,
            wal_dir: Some(given.text("wal-dir")).filter(|p| !p.is_empty()).map(PathBuf::from),
            // 0 is etcd's way of saying "as you think best".
            snapshot_count: given
                .explicit("snapshot-count")
                .map(|_| uint(given, "snapshot-count"))
                .filter(|count| *count > 0),
            snapshot_catchup_entries: uint(given, "snapshot-catchup-entries"),
            heartbeat_interval_ms: uint(given, "heartbeat-interval"),
            election_timeout_ms: uint(given, "election-timeout"),
            listen_peer_urls: urls(given, "listen-peer-urls"),
            listen_client_http_urls: urls(given, "listen-client-http-urls"),
            listen_metrics_urls: urls(given, "listen-metrics-urls"),
            advertise_client_urls: urls(given, "advertise-client-urls"),
            initial_cluster_state: match given.text("initial-cluster-state") {
                "existing" => ClusterState::Existing,
                _ => ClusterState::New,
            },
            initial_cluster_token: given.text("initial-cluster-token").to_owned(),
            strict_reconfig_check: boolean(given, "strict-reconfig-check"),
            force_new_cluster: boolean(given, "force-new-cluster"),
            quota_bytes: match int(given, "quota-backend-bytes") {
                0 => Some(QUOTA_BYTES_DEFAULT),
                bytes => u64::try_from(bytes).ok(),
            },
            max_txn_ops: size(given, "max-txn-ops"),
            max_request_bytes: size(given, "max-request-bytes"),
            max_concurrent_streams: u32::try_from(uint(given, "max-concurrent-streams"))
                .unwrap_or(u32::MAX),
            grpc_keepalive_interval: duration(given, "grpc-keepalive-interval"),
            grpc_keepalive_timeout: duration(given, "grpc-keepalive-timeout"),
            socket_reuse_port: boolean(given, "socket-reuse-port"),
            socket_reuse_address: boolean(given, "socket-reuse-address"),
            auto_compaction: auto_compaction(
                given.text("auto-compaction-mode"),
                given.text("auto-compaction-retention"),
            )?,
            watch_progress_notify_interval: duration(given, "watch-progress-notify-interval"),
            warning_apply_duration: duration(given, "warning-apply-duration"),
            warning_unary_request_duration: duration(given, "warning-unary-request-duration"),
            log_outputs: log_outputs(given.text("log-outputs"))?,
            log_level: LogLevel::named(given.text("log-level")).unwrap_or(LogLevel::Info),
            log_format: log_format(given.text("log-format"))?,
            batch_proposals: boolean(given, "batch-proposals"),
            batch_commands_max: size(given, "batch-commands-max"),
            batch_bytes_max: size(given, "batch-bytes-max"),
            batch_linger: duration(given, "batch-linger"),
            crash_hints: boolean(given, "crash-hints"),
            peer_compression: match given.text("peer-compression") {
                "lz4" => PeerCompression::Lz4,
                "zstd" => PeerCompression::Zstd,
                "auto" => PeerCompression::Auto,
                _ => PeerCompression::None,
            },
            batch_gather_max: duration(given, "batch-gather-max"),
            test_wall_clock_offset_us: value::parse_signed_us(given.text("test-wall-clock-offset"))
                .unwrap_or_default(),
            test_plan_format: u32::try_from(uint(given, "test-plan-format")).unwrap_or(u32::MAX),
            tracing: None,
            client_threads: Some(size(given, "client-threads")).filter(|n| *n > 0),
            client_connections_max: size(given, "client-connections-max"),
            name,
            data_dir,
            listen_client_urls,
            advertise_peer_urls,
            initial_cluster,
            warnings,
        };
        config.check()?;
        config.check_tls()?;
        Ok(config)
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

    fn check(&self) -> Result<(), ConfigError> {
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        for urls in [
            &self.listen_peer_urls,
            &self.listen_client_urls,
            &self.listen_client_http_urls,
            &self.listen_metrics_urls,
        ] {
            for url in urls {
                url.check_bind().map_err(ConfigError::Contradiction)?;
            }
        }
        for url in &self.advertise_peer_urls {
            if let Err(reason) = url.check_advertise() {
                let all = texts(&self.advertise_peer_urls).join(",");
                return contradiction(format!(
                    "--initial-advertise-peer-urls {all:?} must be \"host:port\" ({reason})"
                ));
            }
        }
        for url in &self.advertise_client_urls {
            if let Err(reason) = url.check_advertise() {
                let all = texts(&self.advertise_client_urls).join(",");
                return contradiction(format!(
                    "--advertise-client-urls {all:?} must be in the format \"host:port\", \
                     \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" ({reason})"
                ));
            }
        }
        let (heartbeat, election) = (self.heartbeat_interval_ms, self.election_timeout_ms);
        if heartbeat == 0 {
            return contradiction("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
        }
        if election == 0 {
            return contradiction("--election-timeout must be >0 (set to 0ms)".to_owned());
        }
        if 5 * heartbeat > election {
            return contradiction(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as \
                 --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if election > ELECTION_TIMEOUT_MS_MAX {
            return contradiction(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than \
                 {ELECTION_TIMEOUT_MS_MAX}ms"
            ));
        }
        for (name, value) in [
            ("max-txn-ops", self.max_txn_ops),
            ("max-request-bytes", self.max_request_bytes),
            ("batch-commands-max", self.batch_commands_max),
            ("batch-bytes-max", self.batch_bytes_max),
            ("client-connections-max", self.client_connections_max),
        ] {
            if value == 0 {
                return contradiction(format!("--{name} must be >0"));
            }
        }
        if self.watch_progress_notify_interval.is_zero() {
            return contradiction("--watch-progress-notify-interval must be >0".to_owned());
        }
        if let Err(error) = self.batching().validate() {
            return contradiction(format!("--batch-…: {error}"));
        }
        if self.client_threads.is_some_and(|threads| threads > CLIENT_THREADS_MAX) {
            return contradiction(format!("--client-threads is above {CLIENT_THREADS_MAX}"));
        }
        Ok(())
    }
}

/// A name becomes part of `--initial-cluster`, where commas and equal signs separate.
fn check_name(name: &str) -> Result<(), ConfigError> {
    if name.is_empty() || name.contains([',', '=', '/']) || name.chars().any(char::is_control) {
        return Err(ConfigError::InvalidValue {
            value: name.to_owned(),
            origin: "flag -name".to_owned(),
            reason: "a name is not empty and has no comma, equal sign, slash or control character"
                .to_owned(),
        });
    }
    Ok(())
}

fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, ConfigError> {
    let contradiction = |text: String| ConfigError::Contradiction(text);
    let whole: Option<i64> = retention.parse().ok();
    if whole.is_some_and(|n| n < 0) {
        return Err(contradiction(format!("--auto-compaction-retention {retention} is negative")));
    }
    match mode {
        "periodic" => {
            let period = match whole {
                // A bare number is of hours.
                Some(hours) => u64::try_from(hours)
                    .ok()
                    .and_then(|hours| hours.checked_mul(3600))
                    .map(Duration::from_secs)
                    .ok_or_else(|| format!("{retention} hours are too many")),
                None => value::parse_duration(retention),
            };
            let period = period
                .map_err(|e| contradiction(format!("error parsing CompactionRetention: {e}")))?;
            Ok(if period.is_zero() {
                AutoCompaction::Off
            } else {
                AutoCompaction::Periodic(period)
            })
        }
        "revision" => match whole {
            Some(0) => Ok(AutoCompaction::Off),
            Some(revisions) => Ok(AutoCompaction::Revision(revisions)),
            // etcd reads a duration as its nanoseconds here; nobody can mean that.
            None => Err(contradiction(format!(
                "error parsing CompactionRetention: {retention:?} is not a number of revisions"
            ))),
        },
        "" => Err(contradiction("undefined auto-compaction-mode".to_owned())),
        _ => Err(contradiction(format!("unknown auto-compaction-mode {mode:?}"))),
    }
}

fn log_format(text: &str) -> Result<LogFormat, ConfigError> {
    match text {
        "json" => Ok(LogFormat::Json),
        "console" => Ok(LogFormat::Console),
        _ => Err(ConfigError::Contradiction(format!(
            "unknown log format: {text}, supported values json, console"
        ))),
    }
}

fn log_outputs(text: &str) -> Result<Vec<LogOutput>, ConfigError> {
    let mut outputs = Vec::new();
    for word in text.split(',') {
        let output = match word {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => {
                return Err(ConfigError::NotSupported {
                    name: "log-outputs systemd/journal".to_owned(),
                });
            }
            "" => {
                return Err(ConfigError::InvalidValue {
                    value: text.to_owned(),
                    origin: "flag -log-outputs".to_owned(),
                    reason: "an output is empty".to_owned(),
                });
            }
            path => LogOutput::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    Ok(outputs)
}

// The forms were checked when the values were set, so reading them cannot fail.

fn uint(given: &Given, name: &'static str) -> u64 {
    given.text(name).parse().unwrap_or_else(|_| panic!("--{name} was checked"))
}

fn size(given: &Given, name: &'static str) -> usize {
    usize::try_from(uint(given, name)).unwrap_or(usize::MAX)
}

fn int(given: &Given, name: &'static str) -> i64 {
    given.text(name).parse().unwrap_or_else(|_| panic!("--{name} was checked"))
}

fn boolean(given: &Given, name: &'static str) -> bool {
    value::parse_bool(given.text(name)).unwrap_or_else(|_| panic!("--{name} was checked"))
}

fn duration(given: &Given, name: &'static str) -> Duration {
    value::parse_duration(given.text(name)).unwrap_or_else(|_| panic!("--{name} was checked"))
}

fn urls(given: &Given, name: &'static str) -> Vec<Url> {
    match given.text(name) {
        "" => Vec::new(),
        text => Url::parse_list(text).unwrap_or_else(|_| panic!("--{name} was checked")),
    }
}

#[cfg(test)]
mod tests;
