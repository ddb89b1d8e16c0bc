//! Settings: flags first, then the environment, then defaults. A setting that cannot be used is one
//! line that names it, and exit code 2.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;

use clap::{Parser, Subcommand, ValueEnum};

use crate::certificates::SPREAD_S;

/// Most namespaces that may be listed: each has watches of its own. More: watch all of them.
pub const NAMESPACES_MAX: usize = 32;
/// Name of the lease that the operator holds while it acts.
pub const LEASE_NAME: &str = "metastore-operator";

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Namespaces to keep clusters in; empty: all of them.
    pub namespaces: Vec<String>,
    /// Where metrics and health are served.
    pub listen: SocketAddr,
    /// Act only while holding the lease.
    pub leader_election: bool,
    /// Namespace of the lease; absent: the one of the credentials in use.
    pub pod_namespace: Option<String>,
    /// Identity under which the lease is held.
    pub pod_name: String,
    /// Image of clusters that name none.
    pub default_image: String,
    /// DNS domain of the Kubernetes cluster.
    pub cluster_domain: String,
    /// Seconds until a changed Secret has reached all pods.
    pub certificate_spread_s: i64,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How lines look.
    pub log_format: LogFormat,
    /// Traces of reconciles, if there are any.
    pub tracing: Option<otlp::Settings>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the words of the flag")]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the words of the flag")]
pub enum LogFormat {
    #[default]
    Json,
    Text,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// To keep clusters.
    Run(Box<Config>),
    /// To print this.
    Print(String),
    /// To ask this URL once.
    Check(String),
    /// To tell the process that runs in this container.
    ToggleDebug,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Keep MetaStore clusters on Kubernetes as their resources say
#[derive(Debug, Parser)]
#[command(name = "metastore-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[allow(clippy::large_enum_variant, reason = "one is made")]
#[derive(Debug, Subcommand)]
enum Command {
    /// Run until told to stop
    Run(Flags),
    /// Print the definition of the MetaStore resource as YAML
    Crd {
        /// Print its reference for people instead, as Markdown
        #[arg(long)]
        reference: bool,
    },
    /// Turn the log of the operator that runs in this container to debug, or back
    ToggleDebug,
    /// Ask a URL once over plain HTTP; anything but 200 within 10 s is a failure
    Check {
        /// Such as http://metastore-operator:8080/readyz
        #[arg(value_name = "URL")]
        url: String,
    },
}

#[derive(Debug, clap::Args)]
struct Flags {
    /// Namespaces to watch, separated by commas; empty: all [env: WATCH_NAMESPACES]
    #[arg(long, value_name = "NAMES")]
    watch_namespaces: Option<String>,
    /// Address for metrics and health [env: LISTEN] [default: 0.0.0.0:8080]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Act only while holding the lease metastore-operator [env: LEADER_ELECTION] [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    leader_election: Option<String>,
    /// Image of clusters that name none [env: METASTORE_IMAGE]
    #[arg(long, value_name = "IMAGE")]
    default_image: Option<String>,
    /// DNS domain of the Kubernetes cluster [env: CLUSTER_DOMAIN] [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// Seconds until a changed Secret has reached all pods: what the kubelets' syncFrequency makes of it
    /// [env: CERTIFICATE_SPREAD_SECONDS] [default: 180]
    #[arg(long, value_name = "SECONDS")]
    certificate_spread_seconds: Option<String>,
    /// How much is logged: debug, info, warn or error [env: LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How lines look: json or text [env: LOG_FORMAT] [default: json]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Collector that gets a trace of each reconcile, host:port or a URL; empty: none
    /// [env: TRACING_ENDPOINT]
    #[arg(long, value_name = "ADDRESS")]
    tracing_endpoint: Option<String>,
    /// How traces travel: grpc or http/protobuf [env: TRACING_PROTOCOL] [default: grpc]
    #[arg(long, value_name = "PROTOCOL")]
    tracing_protocol: Option<String>,
    /// Reconciles that are traced, per million [env: TRACING_SAMPLING_RATE] [default: 1000000]
    #[arg(long, value_name = "NUMBER")]
    tracing_sampling_rate: Option<String>,
}

/// Reads the command line (the program's name first) and the environment.
pub fn load<I>(args: I, env: &BTreeMap<String, String>) -> Result<Start, ConfigError>
where
    I: IntoIterator<Item = OsString>,
{
    use clap::error::ErrorKind;
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    Ok(Start::Print(error.render().to_string()))
                }
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | ErrorKind::MissingSubcommand => Err(ConfigError(
                    "a command is missing: run, crd, check or toggle-debug (see --help)".to_owned(),
                )),
                _ => Err(ConfigError(first_paragraph(&error.render().to_string()))),
            };
        }
    };
    match cli.command {
        Command::Crd { reference: false } => Ok(Start::Print(crate::crd::yaml())),
        Command::Crd { reference: true } => Ok(Start::Print(crate::crd::reference())),
        Command::ToggleDebug => Ok(Start::ToggleDebug),
        Command::Check { url } => Ok(Start::Check(url)),
        Command::Run(flags) => resolve(&flags, env).map(|config| Start::Run(Box::new(config))),
    }
}

/// clap's complaint without the usage that follows it, in one line.
fn first_paragraph(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    format!("{} (see --help)", line.strip_prefix("error: ").unwrap_or(&line))
}

/// A flag, else a variable; empty is absent. With the name to complain about.
fn pick<'a>(
    flag: Option<&'a String>,
    name: &'static str,
    env: &'a BTreeMap<String, String>,
    variable: &'static str,
) -> Option<(&'static str, &'a str)> {
    let from_env = || env.get(variable).map(|value| (variable, value.trim()));
    flag.map(|value| (name, value.trim())).or_else(from_env).filter(|(_, v)| !v.is_empty())
}

fn resolve(flags: &Flags, env: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    let bad = |name: &str, value: &str, why: &str| ConfigError(format!("{name} {value:?}: {why}"));

    let mut namespaces = Vec::new();
    let listed =
        pick(flags.watch_namespaces.as_ref(), "--watch-namespaces", env, "WATCH_NAMESPACES");
    if let Some((name, value)) = listed {
        for namespace in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if !is_label(namespace) {
                return Err(bad(name, namespace, "not the name of a namespace"));
            }
            if !namespaces.iter().any(|known| known == namespace) {
                namespaces.push(namespace.to_owned());
            }
        }
        if namespaces.len() > NAMESPACES_MAX {
            return Err(bad(name, value, "more than 32 namespaces: leave it empty to watch all"));
        }
    }

    let listen = match pick(flags.listen.as_ref(), "--listen", env, "LISTEN") {
        None => SocketAddr::from(([0, 0, 0, 0], 8080)),
        Some((name, value)) => value
            .parse()
            .map_err(|_| bad(name, value, "not an address and port, such as 0.0.0.0:8080"))?,
    };
    let election =
        pick(flags.leader_election.as_ref(), "--leader-election", env, "LEADER_ELECTION");
    let leader_election = match election {
        None | Some((_, "true")) => true,
        Some((_, "false")) => false,
        Some((name, value)) => return Err(bad(name, value, "neither true nor false")),
    };

    let default_image =
        match pick(flags.default_image.as_ref(), "--default-image", env, "METASTORE_IMAGE") {
            None => concat!("metastore-server:", env!("CARGO_PKG_VERSION")).to_owned(),
            Some((name, value)) if value.contains(char::is_whitespace) => {
                return Err(bad(name, value, "not an image"));
            }
            Some((_, value)) => value.to_owned(),
        };
    let domain = pick(flags.cluster_domain.as_ref(), "--cluster-domain", env, "CLUSTER_DOMAIN");
    let cluster_domain = match domain {
        None => "cluster.local".to_owned(),
        Some((name, value)) => {
            let value = value.trim_end_matches('.');
            if !value.split('.').all(is_label) {
                return Err(bad(name, value, "not a DNS domain"));
            }
            value.to_owned()
        }
    };

    let spread = pick(
        flags.certificate_spread_seconds.as_ref(),
        "--certificate-spread-seconds",
        env,
        "CERTIFICATE_SPREAD_SECONDS",
    );
    let certificate_spread_s = match spread {
        None => SPREAD_S,
        Some((name, value)) => value
            .parse()
            .ok()
            .filter(|s| (1..=3600).contains(s))
            .ok_or_else(|| bad(name, value, "not a number of seconds from 1 to 3600"))?,
    };
    let log_level = match pick(flags.log_level.as_ref(), "--log-level", env, "LOG_LEVEL") {
        None => LogLevel::default(),
        Some((name, value)) => LogLevel::from_str(value, true)
            .map_err(|_| bad(name, value, "none of debug, info, warn, error"))?,
    };
    let log_format = match pick(flags.log_format.as_ref(), "--log-format", env, "LOG_FORMAT") {
        None => LogFormat::default(),
        Some((name, value)) => LogFormat::from_str(value, true)
            .map_err(|_| bad(name, value, "neither json nor text"))?,
    };

    let endpoint =
        pick(flags.tracing_endpoint.as_ref(), "--tracing-endpoint", env, "TRACING_ENDPOINT");
    let protocol =
        pick(flags.tracing_protocol.as_ref(), "--tracing-protocol", env, "TRACING_PROTOCOL");
    let protocol = match protocol {
        None => None,
        Some((name, value)) => Some(
            otlp::Protocol::named(value)
                .ok_or_else(|| bad(name, value, "neither grpc nor http/protobuf"))?,
        ),
    };
    let rate = pick(
        flags.tracing_sampling_rate.as_ref(),
        "--tracing-sampling-rate",
        env,
        "TRACING_SAMPLING_RATE",
    );
    let sampling_per_million = match rate {
        None => otlp::MILLION,
        Some((name, value)) => value
            .parse()
            .ok()
            .filter(|rate| *rate <= otlp::MILLION)
            .ok_or_else(|| bad(name, value, "not a number from 0 to 1000000"))?,
    };

    let variable = |name: &str| env.get(name).filter(|value| !value.is_empty()).cloned();
    let Some(pod_name) = variable("POD_NAME").or_else(|| variable("HOSTNAME")).or_else(|| {
        // Without a lease nobody asks who holds it.
        (!leader_election).then(|| LEASE_NAME.to_owned())
    }) else {
        return Err(ConfigError(
            "POD_NAME is not set: leader election needs an identity (or --leader-election=false)"
                .to_owned(),
        ));
    };
    let tracing = endpoint.map(|(_, address)| otlp::Settings {
        address: Some(address.to_owned()),
        protocol,
        service_name: Some(LEASE_NAME.to_owned()),
        instance_id: Some(pod_name.clone()),
        attributes: vec![("service.version", env!("CARGO_PKG_VERSION").to_owned())],
        sampling_per_million,
    });
    Ok(Config {
        tracing,
        namespaces,
        listen,
        leader_election,
        pod_namespace: variable("POD_NAMESPACE"),
        pod_name,
        default_image,
        cluster_domain,
        certificate_spread_s,
        log_level,
        log_format,
    })
}

/// A label as DNS has them, lower case.
fn is_label(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.chars().all(|c| is_plain(c) || c == '-')
        && text.starts_with(is_plain)
        && text.ends_with(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_run(args: &[&str], env: &[(&str, &str)]) -> Result<Config, String> {
        let args = ["metastore-operator", "run"].iter().chain(args).map(OsString::from);
        let mut env: BTreeMap<String, String> =
            env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        env.entry("POD_NAME".to_owned()).or_insert_with(|| "operator-1".to_owned());
        match load(args, &env) {
            Ok(Start::Run(config)) => Ok(*config),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn without_settings_all_namespaces_are_kept_under_the_lease() {
        let config = load_run(&[], &[]).unwrap();
        assert!(config.namespaces.is_empty() && config.leader_election);
        assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(config.cluster_domain, "cluster.local");
        assert_eq!(config.default_image, "metastore-server:0.1.0");
    }

    #[test]
    fn a_flag_beats_the_environment_and_empty_is_absent() {
        let env = [("WATCH_NAMESPACES", "a, b,,a"), ("LISTEN", ""), ("LEADER_ELECTION", "false")];
        let config = load_run(&[], &env).unwrap();
        assert_eq!(config.namespaces, ["a", "b"]);
        assert!(!config.leader_election);
        assert_eq!(config.listen.port(), 8080);
        let flags = ["--watch-namespaces=c", "--leader-election", "--log-format", "text"];
        let config = load_run(&flags, &env).unwrap();
        assert_eq!(config.namespaces, ["c"]);
        assert!(config.leader_election);
        assert_eq!(config.log_format, LogFormat::Text);
    }

    #[test]
    fn what_cannot_be_used_is_named_in_one_line() {
        for (args, line) in [
            (
                &["--listen=here"][..],
                "--listen \"here\": not an address and port, such as 0.0.0.0:8080",
            ),
            (&["--watch-namespaces=a,B"], "--watch-namespaces \"B\": not the name of a namespace"),
            (&["--leader-election=maybe"], "--leader-election \"maybe\": neither true nor false"),
            (&["--cluster-domain=a..b"], "--cluster-domain \"a..b\": not a DNS domain"),
            (&["--default-image=a b"], "--default-image \"a b\": not an image"),
            (
                &["--certificate-spread-seconds=0"],
                "--certificate-spread-seconds \"0\": not a number of seconds from 1 to 3600",
            ),
            (&["--log-level=loud"], "--log-level \"loud\": none of debug, info, warn, error"),
            (
                &["--tracing-endpoint=a:1", "--tracing-protocol=udp"],
                "--tracing-protocol \"udp\": neither grpc nor http/protobuf",
            ),
            (
                &["--tracing-sampling-rate=1000001"],
                "--tracing-sampling-rate \"1000001\": not a number from 0 to 1000000",
            ),
            (&["--colour"], "unexpected argument '--colour' found (see --help)"),
        ] {
            assert_eq!(load_run(args, &[]).unwrap_err(), line);
        }
        let line = load_run(&[], &[("LISTEN", "1")]).unwrap_err();
        assert!(line.starts_with("LISTEN \"1\""), "{line}");
        assert!(load_run(&[], &[("POD_NAME", "")]).unwrap_err().contains("POD_NAME is not set"));
        let none = load(["metastore-operator"].map(OsString::from), &BTreeMap::new());
        assert_eq!(
            none.unwrap_err().to_string(),
            "a command is missing: run, crd, check or toggle-debug (see --help)"
        );
    }
}
