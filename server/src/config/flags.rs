//! The table of every setting: etcd 3.7's flags under etcd's names, and a few of our own.
//!
//! One table serves the command line, the environment, the configuration file, `--help` and the
//! refusal of what does not exist yet, so none of these can know a flag the others do not.
//!
//! Three kinds of support are told apart, because a setting that is accepted and then ignored is a
//! trap. [`Support::Served`] does what it says. [`Support::NoEffect`] tunes machinery that is not
//! here (bbolt, the v2 store): any valid value is taken, and one that differs from the default is
//! named in the log. [`Support::Refused`] asks for a feature that is not built: only its default may
//! be given, everything else ends the process.

use self::Kind::{Bool, Choice, Duration, Int, SignedDuration, Text, Uint, Urls, UrlsOrNone};
use self::Support::{ForTests, NoEffect, Refused, Served};
use super::error::ConfigError;
use super::url::Url;
use super::value::{parse_bool, parse_duration, parse_signed_us};

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    /// An unsigned number up to the given maximum.
    Uint(u64),
    /// A signed number.
    Int,
    /// A duration as Go writes them: `100ms`, `1h30m`.
    Duration,
    /// The same, and it may be negative.
    SignedDuration,
    /// Any text.
    Text,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// One or more URLs, separated by commas.
    Urls,
    /// As `Urls`, or nothing.
    UrlsOrNone,
}

/// What becomes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    Served,
    NoEffect,
    Refused,
    /// Served where `--test-flags` is given as well, refused elsewhere, and not in `--help`.
    ForTests,
}

/// One setting.
#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As etcd's help prints it; `--name`-dependent ones are computed where they are read.
    pub(super) default: &'static str,
    pub(super) support: Support,
    pub(super) section: &'static str,
    pub(super) help: &'static str,
}

impl Flag {
    /// The environment variable that sets this flag.
    pub(super) fn variable(&self) -> String {
        format!("ETCD_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Checks the form of a value. The words after the colon are those of etcd (and of Go's flags).
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        match self.kind {
            Bool => parse_bool(value).map(drop),
            Uint(max) => match value.parse::<u64>() {
                Ok(number) if number <= max => Ok(()),
                Ok(_) => Err("value out of range".to_owned()),
                Err(error) => Err(number_error(error.kind())),
            },
            Int => match value.parse::<i64>() {
                Ok(_) => Ok(()),
                Err(error) => Err(number_error(error.kind())),
            },
            Duration => parse_duration(value).map(drop),
            SignedDuration => parse_signed_us(value).map(drop),
            Text => Ok(()),
            Choice(words) if words.contains(&value) => Ok(()),
            Choice(_) => Err("invalid value".to_owned()),
            UrlsOrNone if value.is_empty() => Ok(()),
            Urls | UrlsOrNone => Url::parse_list(value).map(drop),
        }
    }

    /// Whether a well-formed value says what the default says.
    pub(super) fn is_default(&self, value: &str) -> bool {
        match self.kind {
            Bool => parse_bool(value).ok() == parse_bool(self.default).ok(),
            Duration => parse_duration(value).ok() == parse_duration(self.default).ok(),
            SignedDuration => parse_signed_us(value).ok() == parse_signed_us(self.default).ok(),
            // An empty list of origins or hosts means "all" just as the star does.
            Text if self.default == "*" => value.is_empty() || value == "*",
            _ => value == self.default,
        }
    }

    /// Refuses a value that asks for a feature which is not here.
    pub(super) fn refuse_unsupported(&self, value: &str) -> Result<(), ConfigError> {
        if self.support == Refused && !self.is_default(value) {
            return Err(ConfigError::NotSupported { name: self.name.to_owned() });
        }
        Ok(())
    }
}

fn number_error(kind: &std::num::IntErrorKind) -> String {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    match kind {
        PosOverflow | NegOverflow => "value out of range".to_owned(),
        _ => "parse error".to_owned(),
    }
}

/// The flag of that name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

const MEMBER: &str = "Member";
const CLUSTER: &str = "Clustering";
const SECURITY: &str = "Security";
const AUTH: &str = "Auth";
const MONITOR: &str = "Profiling and monitoring";
const LOGGING: &str = "Logging";
const FEATURES: &str = "Features";
const OWN: &str = "MetaStore's own";
const UNSAFE: &str = "Unsafe";
const TESTS: &str = "Tests";

const U32: Kind = Uint(u32::MAX as u64);
const U64: Kind = Uint(u64::MAX);

const fn flag(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    support: Support,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, support, section, help }
}

/// Every flag, by section in the order of `--help`.
#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &[
    flag(MEMBER, "name", Text, "default", Served, "Name of this member, unique in the cluster."),
    flag(MEMBER, "data-dir", Text, "", Served, "Data directory. Default: NAME.metastore."),
    flag(MEMBER, "wal-dir", Text, "", Served, "Directory of the log, if it is to lie elsewhere."),
    flag(MEMBER, "snapshot-count", U64, "10000", Served, "Entries between two snapshots. Not given: by the size of the log."),
    flag(MEMBER, "snapshot-catchup-entries", U64, "5000", Served, "Entries kept behind a snapshot for followers that lag."),
    flag(MEMBER, "max-snapshots", U32, "5", NoEffect, "Snapshots kept."),
    flag(MEMBER, "max-wals", U32, "5", NoEffect, "Log segments kept."),
    flag(MEMBER, "heartbeat-interval", U32, "100", Served, "Heartbeat interval in milliseconds."),
    flag(MEMBER, "election-timeout", U32, "1000", Served, "Election timeout in milliseconds."),
    flag(MEMBER, "initial-election-tick-advance", Bool, "true", NoEffect, "Shorten the first election timeout after boot."),
    flag(MEMBER, "listen-peer-urls", Urls, "http://localhost:2380", Served, "URLs to listen on for peers."),
    flag(MEMBER, "listen-client-urls", Urls, "http://localhost:2379", Served, "URLs to listen on for clients: gRPC, and HTTP unless --listen-client-http-urls is given."),
    flag(MEMBER, "listen-client-http-urls", UrlsOrNone, "", Served, "URLs to listen on for HTTP alone; takes HTTP off --listen-client-urls."),
    flag(MEMBER, "quota-backend-bytes", Int, "0", Served, "Size of the store above which writes are refused. 0: 2 GiB; negative: no limit."),
    flag(MEMBER, "max-txn-ops", U32, "128", Served, "Operations permitted in a transaction."),
    flag(MEMBER, "max-request-bytes", U32, "1572864", Served, "Largest request accepted, in bytes."),
    flag(MEMBER, "max-concurrent-streams", U32, "4294967295", Served, "Streams a client may have open at a time on one connection."),
    flag(MEMBER, "grpc-keepalive-min-time", Duration, "5s", NoEffect, "Shortest interval at which a client should ping the server."),
    flag(MEMBER, "grpc-keepalive-interval", Duration, "2h", Served, "Interval of pings to clients. 0: none."),
    flag(MEMBER, "grpc-keepalive-timeout", Duration, "20s", Served, "Wait for the answer to a ping before the connection is closed. 0: for ever."),
    flag(MEMBER, "socket-reuse-port", Bool, "false", Served, "Set SO_REUSEPORT on listeners."),
    flag(MEMBER, "socket-reuse-address", Bool, "false", Served, "Set SO_REUSEADDR on listeners."),
    flag(MEMBER, "enable-grpc-gateway", Bool, "true", NoEffect, "JSON gateway; there is none in this version."),
    flag(MEMBER, "raft-read-timeout", Duration, "5s", NoEffect, "Read timeout of peer connections."),
    flag(MEMBER, "raft-write-timeout", Duration, "5s", NoEffect, "Write timeout of peer connections."),
    flag(MEMBER, "memory-mlock", Bool, "false", Refused, "Keep the store's pages in memory."),
    flag(MEMBER, "backend-bbolt-freelist-type", Choice(&["map", "array"]), "map", NoEffect, "Free list of bbolt."),
    flag(MEMBER, "backend-batch-interval", Duration, "0s", NoEffect, "Longest time between two commits of bbolt."),
    flag(MEMBER, "backend-batch-limit", Int, "0", NoEffect, "Most operations between two commits of bbolt."),
    flag(MEMBER, "feature-gates", Text, "", Refused, "Features still in their alpha or beta."),

    flag(CLUSTER, "initial-advertise-peer-urls", Urls, "http://localhost:2380", Served, "This member's peer URLs as the other members reach them."),
    flag(CLUSTER, "initial-cluster", Text, "", Served, "Members at the first start: NAME=URL,NAME=URL. Default: this member alone."),
    flag(CLUSTER, "initial-cluster-state", Choice(&["new", "existing"]), "new", Served, "'new' to found a cluster, 'existing' to join one. Ignored once there is data."),
    flag(CLUSTER, "initial-cluster-token", Text, "etcd-cluster", Served, "Keeps clusters apart that are founded with the same members."),
    flag(CLUSTER, "advertise-client-urls", UrlsOrNone, "http://localhost:2379", Served, "This member's client URLs as clients reach them."),
    flag(CLUSTER, "strict-reconfig-check", Bool, "true", Served, "Refuse member changes that would lose the quorum."),
    flag(CLUSTER, "max-learners", U32, "1", Refused, "Learners the cluster may have at a time."),
    flag(CLUSTER, "pre-vote", Bool, "true", Refused, "Ask for votes without raising the term first; always on."),
    flag(CLUSTER, "auto-compaction-mode", Text, "periodic", Served, "How to read --auto-compaction-retention: 'periodic' or 'revision'."),
    flag(CLUSTER, "auto-compaction-retention", Text, "0", Served, "History to keep: a duration (hours if no unit is given) or a number of revisions. 0: no automatic compaction."),
    flag(CLUSTER, "discovery", Text, "", Refused, "Discovery service (v2)."),
    flag(CLUSTER, "discovery-token", Text, "", Refused, "Discovery token."),
    flag(CLUSTER, "discovery-endpoints", Text, "", Refused, "Endpoints of the discovery service."),
    flag(CLUSTER, "discovery-dial-timeout", Duration, "2s", Refused, "Discovery dial timeout."),
    flag(CLUSTER, "discovery-request-timeout", Duration, "5s", Refused, "Discovery request timeout."),
    flag(CLUSTER, "discovery-keepalive-time", Duration, "2s", Refused, "Discovery keepalive time."),
    flag(CLUSTER, "discovery-keepalive-timeout", Duration, "6s", Refused, "Discovery keepalive timeout."),
    flag(CLUSTER, "discovery-insecure-transport", Bool, "true", Refused, "Discovery without TLS."),
    flag(CLUSTER, "discovery-insecure-skip-tls-verify", Bool, "false", Refused, "Discovery without verifying certificates."),
    flag(CLUSTER, "discovery-cert", Text, "", Refused, "Discovery client certificate."),
    flag(CLUSTER, "discovery-key", Text, "", Refused, "Discovery client key."),
    flag(CLUSTER, "discovery-cacert", Text, "", Refused, "Discovery CA."),
    flag(CLUSTER, "discovery-user", Text, "", Refused, "Discovery user."),
    flag(CLUSTER, "discovery-password", Text, "", Refused, "Discovery password."),
    flag(CLUSTER, "discovery-fallback", Choice(&["exit", "proxy"]), "exit", Refused, "What to do when discovery fails."),
    flag(CLUSTER, "discovery-proxy", Text, "", Refused, "Proxy towards the discovery service."),
    flag(CLUSTER, "discovery-srv", Text, "", Refused, "DNS domain to take the members from."),
    flag(CLUSTER, "discovery-srv-name", Text, "", Refused, "Suffix of the DNS service name."),
    flag(CLUSTER, "v2-deprecation", Choice(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only", NoEffect, "Phase of the v2 store's removal; there is none here."),

    flag(SECURITY, "cert-file", Text, "", Served, "Server certificate towards clients, PEM; read again when it changes."),
    flag(SECURITY, "key-file", Text, "", Served, "Server key towards clients."),
    flag(SECURITY, "client-cert-auth", Bool, "false", Served, "Demand certificates of clients; --trusted-ca-file alone demands them, too."),
    flag(SECURITY, "client-cert-file", Text, "", NoEffect, "Certificate of the JSON gateway as a client; there is none in this version."),
    flag(SECURITY, "client-key-file", Text, "", NoEffect, "Key of the JSON gateway as a client; there is none in this version."),
    flag(SECURITY, "client-crl-file", Text, "", Served, "Revoked client certificates."),
    flag(SECURITY, "client-cert-allowed-hostname", Text, "", Served, "Names a client certificate may carry."),
    flag(SECURITY, "trusted-ca-file", Text, "", Served, "CA of client certificates."),
    flag(SECURITY, "auto-tls", Bool, "false", Refused, "Make a server certificate at boot."),
    flag(SECURITY, "peer-cert-file", Text, "", Served, "Server certificate towards peers."),
    flag(SECURITY, "peer-key-file", Text, "", Served, "Server key towards peers."),
    flag(SECURITY, "peer-client-cert-auth", Bool, "false", Served, "Demand certificates of peers."),
    flag(SECURITY, "peer-client-cert-file", Text, "", Served, "Certificate used when dialling peers, if it is not --peer-cert-file."),
    flag(SECURITY, "peer-client-key-file", Text, "", Served, "Key used when dialling peers, if it is not --peer-key-file."),
    flag(SECURITY, "peer-trusted-ca-file", Text, "", Served, "CA of peer certificates; needed for https peer URLs."),
    flag(SECURITY, "peer-cert-allowed-cn", Text, "", Served, "Common names a peer certificate may carry."),
    flag(SECURITY, "peer-cert-allowed-hostname", Text, "", Served, "Names a peer certificate may carry."),
    flag(SECURITY, "peer-auto-tls", Bool, "false", Refused, "Make a peer certificate at boot."),
    flag(SECURITY, "peer-crl-file", Text, "", Served, "Revoked peer certificates."),
    flag(SECURITY, "peer-skip-client-san-verification", Bool, "false", Served, "Do not hold a peer's certificate against the URLs of the member it says to be."),
    flag(SECURITY, "self-signed-cert-validity", U32, "1", Refused, "Years a certificate made at boot is valid."),
    flag(SECURITY, "cipher-suites", Text, "", Served, "Cipher suites of TLS 1.2, by their names; those of TLS 1.3 are always on."),
    flag(SECURITY, "tls-min-version", Text, "TLS1.2", Served, "Lowest version of TLS: TLS1.2 or TLS1.3."),
    flag(SECURITY, "tls-max-version", Text, "", Served, "Highest version of TLS: TLS1.2 or TLS1.3."),
    flag(SECURITY, "cors", Text, "*", Refused, "Origins allowed to call from a browser."),
    flag(SECURITY, "host-whitelist", Text, "*", Refused, "Host names HTTP requests may carry."),

    flag(AUTH, "auth-token", Text, "simple", Refused, "Kind of authentication tokens."),
    flag(AUTH, "bcrypt-cost", U32, "10", Refused, "Cost of hashing passwords."),
    flag(AUTH, "auth-token-ttl", U32, "300", Refused, "Seconds a token lives."),

    flag(MONITOR, "metrics", Text, "basic", Served, "'basic' or 'extensive'; the histogram of handling times is always exported."),
    flag(MONITOR, "listen-metrics-urls", UrlsOrNone, "", Served, "Further URLs for /metrics, /livez, /readyz and /health; served from the first moment on."),
    flag(MONITOR, "enable-pprof", Bool, "false", Refused, "Profiles over HTTP."),
    flag(MONITOR, "enable-distributed-tracing", Bool, "false", Served, "Hand traces over to a collector through OpenTelemetry's protocol."),
    flag(MONITOR, "distributed-tracing-address", Text, "localhost:4317", Served, "Address of the collector: host:port or a URL. Without it OTEL_EXPORTER_OTLP_ENDPOINT holds, where set."),
    flag(MONITOR, "distributed-tracing-service-name", Text, "etcd", Served, "Service name in traces, the same for all members."),
    flag(MONITOR, "distributed-tracing-instance-id", Text, "", Served, "Instance in traces, of this member alone."),
    flag(MONITOR, "distributed-tracing-sampling-rate", Int, "0", Served, "Traces begun here that are taken, per million. Clients that take their traces are followed in any case."),

    flag(LOGGING, "logger", Choice(&["zap"]), "zap", Served, "Kind of log; there is one."),
    flag(LOGGING, "log-outputs", Text, "default", Served, "'default' or 'stderr', 'stdout', or paths of files, separated by commas."),
    flag(LOGGING, "log-level", Choice(&["debug", "info", "warn", "error", "panic", "fatal"]), "info", Served, "Least severe level that is logged."),
    flag(LOGGING, "log-format", Text, "json", Served, "'json' or 'console'."),
    flag(LOGGING, "enable-log-rotation", Bool, "false", Refused, "Rotate the log file."),
    flag(LOGGING, "log-rotation-config-json", Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, Refused, "How to rotate the log file."),
    flag(LOGGING, "warning-unary-request-duration", Duration, "300ms", Served, "A unary request that takes longer is logged."),
    flag(LOGGING, "warning-apply-duration", Duration, "100ms", Served, "An apply that takes longer is logged."),

    flag(FEATURES, "watch-progress-notify-interval", Duration, "10m", Served, "Interval of progress notifications on idle watches."),
    flag(FEATURES, "corrupt-check-time", Duration, "0s", Refused, "Interval of the comparison of hashes between members."),
    flag(FEATURES, "compact-hash-check-time", Duration, "1m", NoEffect, "Interval at which the leader compares hashes after compactions."),
    flag(FEATURES, "compaction-batch-limit", Int, "1000", NoEffect, "Most revisions deleted in one step of a compaction."),
    flag(FEATURES, "compaction-sleep-interval", Duration, "10ms", NoEffect, "Pause between two steps of a compaction."),
    flag(FEATURES, "downgrade-check-time", Duration, "5s", NoEffect, "Interval at which a downgrade in progress is looked at."),
    flag(FEATURES, "bootstrap-defrag-threshold-megabytes", U32, "0", NoEffect, "Defragment at boot when it frees as much."),

    flag(OWN, "batch-proposals", Bool, "true", Served, "Carry many waiting commands in one Raft entry."),
    flag(OWN, "batch-commands-max", U32, "1024", Served, "Most commands in one entry."),
    flag(OWN, "batch-bytes-max", U32, "1048576", Served, "Bytes of commands after which an entry is closed."),
    flag(OWN, "batch-linger", Duration, "0s", Served, "Longest wait for more commands before an entry is proposed. 0: none."),
    flag(OWN, "peer-compression", Choice(&["none", "lz4", "zstd", "auto"]), "none", Served, "Compress what is sent to peers that read it: 'none', 'lz4', 'zstd', or 'auto' for each peer as it pays. Chunks of snapshots are at least in LZ4."),
    flag(OWN, "batch-gather-max", Duration, "10ms", Served, "Longest time between two entries of a member whose entries queue for processor. 0: none."),
    flag(OWN, "crash-hints", Bool, "true", Served, "Stand for election at once when the leader's machine says that its process is gone. Peer URLs must lead to members, not to load balancers."),
    flag(OWN, "distributed-tracing-protocol", Choice(&["grpc", "http/protobuf"]), "grpc", Served, "How traces travel. Without it OTEL_EXPORTER_OTLP_PROTOCOL holds, where set."),
    flag(OWN, "value-cache-bytes", U64, "0", Served, "Bytes of values kept in memory, the recently used ones; the others are read from the store on disk. At least 8388608. 0: all are in memory."),
    flag(OWN, "client-threads", U32, "0", Served, "Threads that serve client connections. 0: by the number of processors."),
    flag(OWN, "client-connections-max", U32, "16384", Served, "Client connections served at a time; further ones wait."),

    flag(TESTS, "test-flags", Bool, "false", ForTests, "Allow the flags that only tests use."),
    flag(TESTS, "test-wall-clock-offset", SignedDuration, "0", ForTests, "Added to the wall clock that is told to peers."),
    flag(TESTS, "test-plan-format", U32, "2", ForTests, "Read plans of timing up to this form, as an older version would."),

    flag(UNSAFE, "force-new-cluster", Bool, "false", Served, "Make a cluster of this member alone out of its data."),
    flag(UNSAFE, "unsafe-no-fsync", Bool, "false", Refused, "Do not sync the disk."),
];

/// Keys of old configuration files that etcd itself reads no more.
pub(super) const RETIRED_KEYS: &[&str] = &[
    "debug",
    "enable-v2",
    "log-package-levels",
    "proxy",
    "proxy-dial-timeout",
    "proxy-failure-wait",
    "proxy-read-timeout",
    "proxy-refresh-interval",
    "proxy-write-timeout",
];

/// The text of `--help`, from the table.
pub(super) fn help() -> String {
    let mut text = String::from(
        "Usage:\n\n  metastore [flags]           Start a member. Flags are those of etcd.\n  \
         metastore --config-file F   Read all settings from F (YAML) and nothing else.\n  \
         metastore --version\n  metastore --help\n\nEvery flag can also be set as an environment \
         variable: --data-dir as ETCD_DATA_DIR.\nA flag on the command line wins.\n",
    );
    let mut section = "";
    for flag in FLAGS.iter().filter(|flag| !matches!(flag.support, Refused | ForTests)) {
        if flag.section != section {
            section = flag.section;
            text.push_str(&format!("\n{section}:\n"));
        }
        text.push_str(&format!("  --{} '{}'\n    {}", flag.name, flag.default, flag.help));
        if flag.support == NoEffect {
            text.push_str(" Accepted, without effect.");
        }
        text.push('\n');
    }
    text.push_str("\nKnown to etcd, not supported in this version:\n");
    for flag in FLAGS.iter().filter(|flag| flag.support == Refused) {
        text.push_str(&format!("  --{}\n", flag.name));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_well_formed_and_default() {
        for flag in FLAGS {
            assert_eq!(flag.check(flag.default), Ok(()), "--{}", flag.name);
            assert!(flag.is_default(flag.default), "--{}", flag.name);
        }
    }

    #[test]
    fn no_flag_is_named_twice() {
        for (i, flag) in FLAGS.iter().enumerate() {
            assert!(FLAGS[i + 1..].iter().all(|other| other.name != flag.name), "--{}", flag.name);
        }
    }

    #[test]
    fn help_names_every_flag_but_those_for_tests() {
        let help = help();
        for flag in FLAGS {
            let is_named = help.contains(&format!("--{}", flag.name));
            assert_eq!(is_named, flag.support != ForTests, "--{}", flag.name);
        }
    }
}
