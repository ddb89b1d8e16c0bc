//! `cargo xtask`: the repository's chores, a line each in `cargo xtask help`.
//!
//! A chore that is one command elsewhere is not here. `verify` never writes to the tree; `fix` does.

mod bench;
mod chores;
mod generated;
mod image;
mod monitoring;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask verify           format check, clippy with warnings denied, tests, docs; writes nothing
cargo xtask fix              format, and what clippy can mend by itself
cargo xtask sim SEED         replay one simulated cluster, bit for bit
cargo xtask swarm N          simulate N clusters, each from a seed of its own
cargo xtask bench-vs-etcd    measure beside etcd, alternating; writes docs/benchmarks.md (--help: how)
cargo xtask gen [--check]    write what is written from other files: Dockerfile, CRD, table of values
cargo xtask rules            Prometheus' rules, on any scale of time (--help: how)
cargo xtask image            container images without Docker, as archives (--help: how)
cargo xtask e2e VERB         a real Kubernetes node, and the scenarios on it (e2e help: how)
cargo xtask lab VERB         real servers in a network of one's own making (lab help: how)
cargo xtask adaptive         leader losses in many networks, beside etcd; docs/adaptive.md (--help: how)
cargo xtask help             this
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let (chore, rest) = match arguments.split_first() {
        Some((chore, rest)) => (chore.as_str(), rest),
        None => ("help", &[][..]),
    };
    match (chore, rest) {
        ("verify", []) => chores::verify(),
        ("fix", []) => chores::fix(),
        ("sim", [seed, rest @ ..]) => chores::sim("seed", seed, rest),
        ("swarm", [count, rest @ ..]) => chores::sim("swarm", count, rest),
        ("sim" | "swarm", []) => bail!("{chore}: a number is missing"),
        ("bench-vs-etcd", rest) => bench::run(rest),
        ("gen", []) => generated::run(false),
        ("gen", [check]) if check == "--check" => generated::run(true),
        ("rules", rest) => monitoring::print(rest),
        ("image", rest) => image::run(rest),
        ("e2e", rest) => chores::e2e(rest),
        ("lab", rest) => chores::lab(rest),
        ("adaptive", rest) => chores::adaptive(rest),
        ("help" | "--help" | "-h", _) => Ok(std::io::stdout().write_all(HELP.as_bytes())?),
        ("verify" | "fix" | "gen", [surplus, ..]) => bail!("{chore}: what is {surplus:?} for?"),
        _ => bail!("{chore}: no such chore (see cargo xtask help)"),
    }
}
