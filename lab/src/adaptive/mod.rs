//! adaptive
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder of the workspace").to_path_buf()
}
/// Files of servers.
pub fn folder() -> PathBuf {
    root().join("target/lab")
}
/// Experiments.
pub fn run(_arguments: &[String], _asked: &AtomicBool) -> Result<()> {
    anyhow::bail!("none")
}
