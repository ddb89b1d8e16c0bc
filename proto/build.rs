//! Compiles the `.proto` files in Rust alone: protox parses them, prost writes the messages, and
//! with the `services` feature tonic writes the stubs. No `protoc` is needed.

use std::error::Error;
use std::path::PathBuf;

#[allow(clippy::print_stdout, reason = "how a build script talks to cargo")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["etcd", "metastore"] {
        println!("cargo::rerun-if-changed={folder}");
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|it| it == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();

    let services = std::env::var_os("CARGO_FEATURE_SERVICES").is_some();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .bytes(".")
        .btree_map(".")
        .compile_fds(protox::compile(files, ["."])?)?;
    Ok(())
}
