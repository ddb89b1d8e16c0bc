//! The node's and the scenarios' command line: `cargo xtask e2e help`.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use e2e::init::{INIT_ARGUMENT, NODE_ARGUMENT};
use e2e::places::Places;
use e2e::{init, lifecycle, node, scenarios};

const HELP: &str = "\
cargo xtask e2e up               a Kubernetes node on this machine (root; builds what is missing)
cargo xtask e2e run [NAME...]    the scenarios, or some, on the node that is up
cargo xtask e2e run --list       their names
cargo xtask e2e run --images DIR with the archives that cargo xtask image wrote there before
cargo xtask e2e kubectl ARGS...  kubectl, as the cluster's administrator
cargo xtask e2e helm ARGS...     Helm
cargo xtask e2e load FILE...     make the images of an archive known to the node
cargo xtask e2e status           what is up, and where its logs are
cargo xtask e2e down             ends the node; only its logs stay
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "e2e: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let places = Places::of_repository();
    let (verb, rest) = match arguments.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("help", &[][..]),
    };
    match (verb, rest) {
        ("up", []) => lifecycle::up(&places)?,
        ("down", []) => lifecycle::down(&places)?,
        ("status", []) => lifecycle::status(&places)?,
        ("load", [_, ..]) => {
            for file in rest {
                lifecycle::load(&places, Path::new(file))?;
            }
        }
        ("kubectl" | "helm", rest) => return pass(&places, verb, rest),
        ("run", rest) => return scenarios::run(&places, rest),
        (scenarios::INSIDE_ARGUMENT, rest) => return scenarios::run_inside(&places, rest),
        (INIT_ARGUMENT, []) => return init::run(&places),
        (NODE_ARGUMENT, []) => node::run(&places)?,
        ("help" | "--help" | "-h", _) => std::io::stdout().write_all(HELP.as_bytes())?,
        ("load", []) => bail!("load: of which file?"),
        ("up" | "down" | "status", [surplus, ..]) => bail!("{verb}: what is {surplus:?} for?"),
        _ => bail!("{verb}: no such command (see cargo xtask e2e help)"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes kubectl or Helm; files and the working directory are those of the caller.
fn pass(places: &Places, program: &str, rest: &[String]) -> Result<ExitCode> {
    let path = places.program(program);
    if !path.exists() {
        bail!("{}: not there (.ci/kubernetes.sh builds it)", path.display());
    }
    let mut words = lifecycle::enter_network(places)?;
    words.push(path.to_str().context("the cache's path is not UTF-8")?.to_owned());
    words.extend(rest.iter().cloned());
    let kubeconfig = places.kubeconfig().display().to_string();
    Err(lifecycle::become_program(&words, &[("KUBECONFIG", kubeconfig)]))
}
