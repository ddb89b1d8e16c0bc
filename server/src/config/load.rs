//! From words and variables to checked settings: which source wins, which words ask for something else
//! than to serve, and what each setting becomes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::sources::{self, CommandLine, Given};
use super::typed::{
    auto_compaction, boolean, duration, int, log_format, log_outputs, size, uint, urls,
};
use super::{
    CONTROL_SOCKET, ClusterState, Config, ConfigError, LogLevel, PeerCompression,
    QUOTA_BYTES_DEFAULT, Start, check, flags, tls, tracing, value,
};

/// The word that makes the program ask a running member to step down instead of being one.
const PRE_STOP: &str = "pre-stop";
/// The variable that allows flags for tests as `--test-flags` does, if it is 1.
const TEST_FLAGS: &str = "METASTORE_TEST_FLAGS";

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
    let file = config_file(&line, variables);
    let read_once = file.is_some_and(|path| !Path::new(path).is_file());
    let given = match file {
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
    config.read_once = read_once;
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
    let given = match config_file(&line, variables) {
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

/// The file that settings are read from, if they are read from one.
fn config_file<'a>(
    line: &'a CommandLine,
    variables: &'a BTreeMap<String, String>,
) -> Option<&'a String> {
    let from_environment = || variables.get("ETCD_CONFIG_FILE").filter(|path| !path.is_empty());
    line.config_file.as_ref().or_else(from_environment)
}

fn data_dir(given: &Given) -> PathBuf {
    match given.text("data-dir") {
        "" => PathBuf::from(format!("{}.metastore", given.text("name"))),
        path => PathBuf::from(path),
    }
}

impl Config {
    pub(super) fn from_given(given: &Given, warnings: Vec<String>) -> Result<Self, ConfigError> {
        let name = given.text("name").to_owned();
        check::name(&name)?;
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
            read_once: false,
            value_cache_bytes: Some(uint(given, "value-cache-bytes")).filter(|n| *n > 0),
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
}
