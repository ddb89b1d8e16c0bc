//! `metactl`: what an operator does to a cluster beyond everyday keys, which stay with etcdctl.
//!
//! Online commands speak to members through the `client` crate; offline ones read files and need no
//! server. Whatever goes wrong is one line on standard error that names the thing, and exit code 1
//! (2 for a command line that cannot be understood, 128 and the signal's number for a load that one
//! ended).

mod bench;
mod cli;
mod dev;
mod files;
mod inspect;
mod keys;
mod procfs;
mod restore;
mod show;
mod snapshot;
mod tune;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(stop) => return stop.say(),
    };
    match cli.run(&mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<bench::Interrupted>() {
            Some(interrupted) => {
                if !interrupted.is_shown {
                    say(&error);
                }
                ExitCode::from(interrupted.exit_code())
            }
            None => {
                say(&error);
                ExitCode::FAILURE
            }
        },
    }
}

/// What went wrong, in one line.
fn say(error: &anyhow::Error) {
    let line = format!("{error:#}").replace('\n', " ");
    drop(writeln!(std::io::stderr(), "metactl: {line}"));
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
