//! The command line.
//!
//! clap explains itself at length; here a command line that cannot be understood gets one line and
//! exit code 2, as every other failure gets one line and exit code 1.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use client::{Client, Config, Tls};

use crate::bench::Bench;
use crate::inspect::Inspect;
use crate::snapshot::Snapshot;
use crate::tune::Tune;
use crate::{dev, keys, show};

/// Deadline of one request where none is given.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Flags of every command stand apart in its help.
const EVERYWHERE: &str = "With every command";

/// Operate a MetaStore cluster; everyday keys stay with etcdctl
#[derive(Debug, Parser)]
#[command(name = "metactl", version, next_help_heading = EVERYWHERE)]
pub(crate) struct Cli {
    /// Client addresses of the members, separated by commas
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        value_name = "[https://]HOST:PORT"
    )]
    endpoints: Vec<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// Deadline of one request, in seconds (default 5; of `bench` none)
    #[arg(long, global = true, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// The names and variables are etcdctl's. Ids of their own: `key` is what `get` reads.
#[derive(Debug, Args)]
struct TlsArgs {
    /// CA of the members' certificates, PEM; with it TLS is spoken
    #[arg(
        id = "tls-cacert",
        long = "cacert",
        global = true,
        env = "ETCDCTL_CACERT",
        value_name = "FILE"
    )]
    cacert: Option<PathBuf>,
    /// Certificate to show, PEM
    #[arg(
        id = "tls-cert",
        long = "cert",
        global = true,
        env = "ETCDCTL_CERT",
        value_name = "FILE"
    )]
    cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(id = "tls-key", long = "key", global = true, env = "ETCDCTL_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Name the members' certificates must carry, instead of the endpoint's host
    #[arg(long, global = true, env = "ETCDCTL_TLS_SERVER_NAME", value_name = "NAME")]
    tls_server_name: Option<String>,
}

impl TlsArgs {
    /// `None`: TLS is not spoken.
    fn read(&self) -> Result<Option<Tls>> {
        let given = |path: &Option<PathBuf>| {
            path.as_ref().filter(|path| !path.as_os_str().is_empty()).cloned()
        };
        let read = |path: PathBuf| std::fs::read(&path).with_context(|| path.display().to_string());
        let Some(cacert) = given(&self.cacert) else {
            for (flag, path) in [("--cert", &self.cert), ("--key", &self.key)] {
                if given(path).is_some() {
                    bail!("{flag} needs --cacert: without it no member can be believed");
                }
            }
            return Ok(None);
        };
        let mut tls = Tls::new(read(cacert)?);
        tls = match (given(&self.cert), given(&self.key)) {
            (Some(cert), Some(key)) => tls.identity(read(cert)?, read(key)?),
            (None, None) => tls,
            (Some(_), None) => bail!("--cert needs --key"),
            (None, Some(_)) => bail!("--key needs --cert"),
        };
        if let Some(name) = self.tls_server_name.as_ref().filter(|name| !name.is_empty()) {
            tls = tls.server_name(name);
        }
        Ok(Some(tls))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How each endpoint is
    Status,
    /// Who is a member
    Members,
    /// Round-trip times between all members, as they measure them
    Rtt,
    /// How much members log: show it, or change it until they restart
    LogLevel {
        /// debug, info, warn or error
        #[arg(value_name = "LEVEL")]
        level: Option<String>,
    },
    /// The plan of timing: heartbeats, election timeout, leases, bounds of batching
    #[command(subcommand)]
    Tune(Tune),
    /// Read a key, or with --prefix all keys that begin so
    Get(keys::Get),
    /// Write a key
    Put(keys::Put),
    /// Delete a key, or with --prefix all keys that begin so
    Del(keys::Del),
    /// Show changes as they happen, until interrupted
    Watch(keys::Watch),
    /// Look into the files of a member that is not running; changes nothing
    #[command(subcommand)]
    Inspect(Inspect),
    /// Save a cluster's state to a file, check such a file, make a new cluster of one
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Start a throw-away cluster on this machine, until interrupted
    Dev(dev::Dev),
    /// Measure throughput, latency and cost under load
    Bench(Bench),
}

/// Why there is nothing to run.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Help or version was asked for.
    Said(String),
    /// The command line cannot be understood.
    Usage(String),
}

impl Stop {
    pub(crate) fn say(self) -> ExitCode {
        match self {
            Stop::Said(text) => {
                drop(write!(std::io::stdout(), "{text}"));
                ExitCode::SUCCESS
            }
            Stop::Usage(line) => {
                drop(writeln!(std::io::stderr(), "metactl: {line}"));
                ExitCode::from(2)
            }
        }
    }
}

/// Reads a command line.
pub(crate) fn parse<I>(arguments: I) -> std::result::Result<Cli, Stop>
where
    I: IntoIterator<Item = OsString>,
{
    use clap::error::ErrorKind;
    Cli::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            if error.use_stderr() {
                Stop::Usage("a command is missing (see metactl --help)".into())
            } else {
                Stop::Said(error.render().to_string())
            }
        }
        _ => Stop::Usage(first_paragraph(&error.render().to_string())),
    })
}

/// clap's complaint without the usage that follows it, in one line.
fn first_paragraph(text: &str) -> String {
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line} (see metactl --help)")
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(&self, out: &mut dyn Write) -> Result<()> {
        match &self.command {
            Command::Status => wait(show::status(&self.client()?, self.json, out)),
            Command::Members => wait(show::members(&self.client()?, self.json, out)),
            Command::Rtt => wait(show::rtt(&self.client()?, &self.config()?, self.json, out)),
            Command::LogLevel { level } => {
                wait(show::log_level(&self.client()?, level.as_deref(), self.json, out))
            }
            Command::Tune(tune) => wait(tune.run(&self.client()?, &self.config()?, self.json, out)),
            Command::Get(get) => wait(get.run(&self.client()?, self.json, out)),
            Command::Put(put) => wait(put.run(&self.client()?, self.json, out)),
            Command::Del(del) => wait(del.run(&self.client()?, self.json, out)),
            Command::Watch(watch) => wait(watch.run(&self.client()?, self.json, out)),
            Command::Inspect(inspect) => inspect.run(self.json, out),
            Command::Snapshot(Snapshot::Save(save)) => {
                wait(save.run(&self.client()?, self.json, out))
            }
            Command::Snapshot(Snapshot::Status(status)) => status.run(self.json, out),
            Command::Snapshot(Snapshot::Restore(restore)) => restore.run(self.json, out),
            Command::Dev(dev) => wait(dev.run(out)),
            Command::Bench(bench) => {
                let tls = self.tls.read()?;
                with_tls(Config::new(self.endpoints.clone()), tls.as_ref()).check()?;
                let (endpoints, timeout) = (self.endpoints.clone(), self.timeout()?);
                bench.run(&Target { endpoints, tls, timeout }, self.json, out)
            }
        }
    }

    fn timeout(&self) -> Result<Option<Duration>> {
        let Some(seconds) = self.timeout else { return Ok(None) };
        match Duration::try_from_secs_f64(seconds) {
            Ok(timeout) if !timeout.is_zero() => Ok(Some(timeout)),
            _ => bail!("--timeout {seconds}: not a number of seconds"),
        }
    }

    fn config(&self) -> Result<Config> {
        let timeout = self.timeout()?.unwrap_or(TIMEOUT);
        let tls = self.tls.read()?;
        Ok(with_tls(Config::new(self.endpoints.clone()), tls.as_ref())
            .request_timeout(timeout)
            .connect_timeout(timeout.min(Duration::from_secs(2))))
    }

    fn client(&self) -> Result<Client> {
        Ok(Client::new(self.config()?)?)
    }
}

/// Whom to ask, and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) endpoints: Vec<String>,
    pub(crate) tls: Option<Tls>,
    /// Of one request, if it was given.
    pub(crate) timeout: Option<Duration>,
}

/// A configuration that speaks TLS, if there is what it takes.
pub(crate) fn with_tls(config: Config, tls: Option<&Tls>) -> Config {
    match tls {
        Some(tls) => config.tls(tls.clone()),
        None => config,
    }
}

fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(line: &str) -> String {
        let arguments = std::iter::once("metactl").chain(line.split_whitespace());
        match parse(arguments.map(OsString::from)) {
            Err(Stop::Usage(line)) => line,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn clap_finds_no_fault_with_its_own_definition() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_line_that_cannot_be_understood_is_answered_in_one_line_that_names_the_fault() {
        for (line, names) in [
            ("", "a command is missing"),
            ("frobnicate", "frobnicate"),
            ("put k", "<VALUE>"),
            ("status --timeout x", "--timeout"),
            ("bench", "a command is missing"),
            ("bench put --keys random", "random"),
            ("bench put --total 1 --duration 1", "--duration"),
            ("bench range --consistency x", "--consistency"),
            ("dev --members 2x", "--members"),
            ("tune apply --heartbeat 25", "25"),
            ("tune apply --flags --election 1s", "--flags"),
        ] {
            let complaint = complaint(line);
            assert!(complaint.contains(names), "{line}: {complaint}");
            assert!(!complaint.contains('\n') && !complaint.contains("Usage"), "{complaint}");
        }
    }

    #[test]
    fn endpoints_are_separated_by_commas_and_stand_before_or_behind_the_command() {
        for line in ["--endpoints a:1,b:2 status", "status --endpoints a:1,b:2"] {
            let arguments = std::iter::once("metactl").chain(line.split(' ')).map(OsString::from);
            assert_eq!(parse(arguments).unwrap().endpoints, ["a:1", "b:2"]);
        }
    }
}
