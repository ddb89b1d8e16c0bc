//! The binary as a user meets it: against a member held in memory, and given nonsense.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod bench;
mod manners;
mod online;
mod planner;
mod store;
mod trouble;

use std::process::{Command, Output, Stdio};

/// Runs the binary to its end.
fn metactl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_metactl"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// An address on which nobody listens, and which no other test is given: the kernel gives whoever
/// asks for any port one from 32768 on.
const NOBODY: &str = "127.0.0.1:1";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
