//! Images that the node and its scenarios need and no registry provides: a pause image, and etcdctl.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use images::{Entry, Image};

use crate::command;

/// The container that holds a pod's namespaces.
pub const PAUSE_IMAGE: &str = "e2e.metastore/pause:1";
/// etcdctl, beside a program that does nothing, to be executed in a pod that stays.
pub const ETCDCTL_IMAGE: &str = "e2e.metastore/etcdctl:1";

/// A program that does nothing until it is ended. The first process of a container is spared signals it
/// does not ask for, but the kernel ends this one all the same: pods' sandboxes are killed, not asked.
const PAUSE: &str = "fn main() { loop { std::thread::park() } }\n";
const COMPILE_LIMIT: Duration = Duration::from_secs(120);

/// Compiles the program that does nothing; it needs no file of the system.
fn pause(dir: &Path) -> Result<Vec<u8>> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let source = dir.join("pause.rs");
    fs::write(&source, PAUSE).with_context(|| source.display().to_string())?;
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols"]);
    rustc.args(["-Ctarget-feature=+crt-static", "-o"]).arg(dir.join("pause")).arg(&source);
    command::run_well(&mut rustc, b"", COMPILE_LIMIT)?;
    fs::read(dir.join("pause")).context("the compiled pause program")
}

/// Writes the archive of the pause image.
pub fn write_pause(dir: &Path, archive: &Path) -> Result<()> {
    let files = BTreeMap::from([("/pause".to_owned(), Entry::file(0o755, pause(dir)?))]);
    write(files, "/pause", PAUSE_IMAGE, archive)
}

/// Writes the archive of the etcdctl image.
pub fn write_etcdctl(dir: &Path, etcdctl: &Path, archive: &Path) -> Result<()> {
    let program = fs::read(etcdctl).with_context(|| etcdctl.display().to_string())?;
    let files = BTreeMap::from([
        ("/pause".to_owned(), Entry::file(0o755, pause(dir)?)),
        ("/etcdctl".to_owned(), Entry::file(0o755, program)),
    ]);
    write(files, "/pause", ETCDCTL_IMAGE, archive)
}

fn write(files: BTreeMap<String, Entry>, program: &str, name: &str, archive: &Path) -> Result<()> {
    let image = Image {
        architecture: architecture()?.to_owned(),
        files,
        user: "65532:65532".into(),
        entrypoint: vec![program.to_owned()],
        ..Image::default()
    };
    let mut out = fs::File::create(archive).with_context(|| archive.display().to_string())?;
    image.write(name, &mut out)?;
    Ok(())
}

/// This machine's processor, as images name it.
pub fn architecture() -> Result<&'static str> {
    Ok(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("{other}: the node has been tried on x86_64 and aarch64 only"),
    })
}
