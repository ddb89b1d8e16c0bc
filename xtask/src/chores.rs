//! Chores that are a few cargo commands in the right order.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's root, whatever directory the chore was called from.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("this package is a folder of the workspace").to_path_buf()
}

/// A cargo command in the root, with the toolchain that runs this.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root()).args(arguments);
    command
}

/// Runs a command to its end; its failure is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let words: Vec<_> =
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let name = format!("{} {}", command.get_program().to_string_lossy(), words.join(" "));
    let status = command.status().with_context(|| name.clone())?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

pub(crate) fn verify() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run(&mut cargo(&clippy))?;
    run(&mut cargo(&["test", "--workspace"]))?;
    run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

pub(crate) fn fix() -> Result<()> {
    let clippy =
        ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
    run(&mut cargo(&clippy))?;
    run(&mut cargo(&["fmt", "--all"]))
}

/// `number` is a seed or a count; further arguments are the simulator's.
pub(crate) fn sim(kind: &str, number: &str, rest: &[String]) -> Result<()> {
    if number.parse::<u64>().is_err() {
        bail!("{kind} {number:?}: not a number");
    }
    let mut command = cargo(&["run", "--release", "--quiet", "-p", "sim", "--", kind, number]);
    run(command.args(rest))
}

/// Becomes the command, so that its exit code, its signals and the caller's directory are its own.
pub(crate) fn e2e(arguments: &[String]) -> Result<()> {
    become_package("e2e", arguments)
}

/// The same.
pub(crate) fn lab(arguments: &[String]) -> Result<()> {
    become_package("lab", arguments)
}

/// The experiments, with the server of this tree unless another one is named.
pub(crate) fn adaptive(arguments: &[String]) -> Result<()> {
    let without = ["--metastore", "--render", "--plan", "--help", "-h"];
    if !arguments.iter().any(|word| without.contains(&&**word)) {
        run(&mut cargo(&["build", "--release", "--quiet", "-p", "server"]))?;
    }
    let words = [&["adaptive".to_owned()][..], arguments].concat();
    become_built(&["--release"], "lab", &words)
}

fn become_package(package: &str, arguments: &[String]) -> Result<()> {
    become_built(&[], package, arguments)
}

fn become_built(how: &[&str], package: &str, arguments: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let manifest = root().join("Cargo.toml");
    let mut command = cargo(&["run", "--quiet"]);
    command
        .args(how)
        .args(["-p", package, "--manifest-path"])
        .arg(manifest)
        .arg("--")
        .args(arguments)
        .current_dir(std::env::current_dir()?);
    Err(command.exec()).with_context(|| format!("cargo run -p {package}"))
}
