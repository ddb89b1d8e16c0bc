//! `metastore-operator`: keeps MetaStore clusters as their resources say. Exit code 2 for settings
//! that cannot be used, 1 for everything else that ends it, always with one line that says why.

use std::io::Write;
use std::process::ExitCode;

use operator::config::{self, Start};

fn main() -> ExitCode {
    let env = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into(), value.to_string_lossy().into()))
        .collect();
    match config::load(std::env::args_os(), &env) {
        Ok(Start::Print(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(Start::ToggleDebug) => match operator::run::toggle_debug() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        },
        Ok(Start::Check(url)) => match operator::check::check(&url) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        },
        Ok(Start::Run(config)) => match operator::run::run(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, 1),
        },
        Err(error) => fail(&error, 2),
    }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // One line, whatever the error holds.
    let line = error.to_string().replace('\n', " ");
    let _ = writeln!(std::io::stderr(), "metastore-operator: {line}");
    ExitCode::from(code)
}
