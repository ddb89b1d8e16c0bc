//! What settings must be together: a value may be well formed and still contradict another, or leave
//! nothing that could run.

use super::{Config, ConfigError, texts};
use crate::values::VALUE_CACHE_BYTES_MIN;

/// More threads than any machine has processors are a slip of the keyboard.
const CLIENT_THREADS_MAX: usize = 1_024;
/// Longest election timeout etcd accepts.
const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;

impl Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
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
        if let Some(bytes) = self.value_cache_bytes.filter(|bytes| *bytes < VALUE_CACHE_BYTES_MIN) {
            return contradiction(format!(
                "--value-cache-bytes {bytes} is too little: at least {VALUE_CACHE_BYTES_MIN}, or 0 to keep \
                 all values in memory"
            ));
        }
        if self.client_threads.is_some_and(|threads| threads > CLIENT_THREADS_MAX) {
            return contradiction(format!("--client-threads is above {CLIENT_THREADS_MAX}"));
        }
        Ok(())
    }
}

/// A name becomes part of `--initial-cluster`, where commas and equal signs separate.
pub(super) fn name(name: &str) -> Result<(), ConfigError> {
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
