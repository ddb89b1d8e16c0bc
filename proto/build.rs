//! Compiles the `.proto` files in Rust alone: protox parses them, prost writes the messages, and
//! with the `services` feature tonic writes the stubs. No `protoc` is needed.

use std::error::Error;

/// Imports pull in the rest.
const FILES: [&str; 6] = [
    "etcd/rpc.proto",
    "etcd/v3lock.proto",
    "etcd/v3election.proto",
    "etcd/health.proto",
    "metastore/peer.proto",
    "metastore/admin.proto",
];

#[allow(clippy::print_stdout, reason = "how a build script talks to cargo")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=etcd");
    println!("cargo::rerun-if-changed=metastore");

    let services = std::env::var_os("CARGO_FEATURE_SERVICES").is_some();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .bytes(".")
        .btree_map(".")
        .compile_fds(protox::compile(FILES, ["."])?)?;
    Ok(())
}
