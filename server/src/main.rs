//! `metastore`: one member of a cluster. Reads the settings, hands over, and says with its exit code
//! and one line how it ended: 2 for settings that cannot be used, 3 for data that cannot be used (lost,
//! damaged, or of a member that was removed), 1 for everything else.

use std::io::Write;
use std::process::ExitCode;

use server::config::{self, Start};

/// glibc's allocator gives back only what is free at the end of its heaps: after a compaction, or the
/// reading of a boot, a member would keep the memory of its largest moment for good.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into()).collect();
    let variables = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into(), value.to_string_lossy().into()))
        .collect();
    match config::load(&args, &variables) {
        Ok(Start::Print(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(Start::Serve(config)) => match server::start::start(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, error.exit_code),
        },
        Ok(Start::PreStop { socket, timeout }) => match server::pre_stop::run(&socket, timeout) {
            Ok(outcome) => {
                let _ = writeln!(std::io::stdout(), "pre-stop: {outcome}");
                ExitCode::SUCCESS
            }
            Err(error) => fail(&error, 1),
        },
        Err(error) => fail(&error, 2),
    }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // One line, whatever the error holds.
    let line = error.to_string().replace('\n', " ");
    let _ = writeln!(std::io::stderr(), "metastore: {line}");
    ExitCode::from(code)
}
