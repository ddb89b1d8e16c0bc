//! `metastore`: one member of a cluster. Reads the settings, hands over, and says with its exit code
//! and one line how it ended: 2 for settings that cannot be used, 3 for data that cannot be used (lost,
//! damaged, or of a member that was removed), 1 for everything else.

use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use server::config::{self, Start};
use tokio::signal::unix::SignalKind;

/// glibc's allocator gives back only what is free at the end of its heaps: after a compaction, or the
/// reading of a boot, a member would keep the memory of its largest moment for good.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many milliseconds mimalloc keeps what is free, where memory is short; by itself it does for 1,000,
/// in which a member that is filled at full speed frees a hundred MiB. It asks the environment before
/// anything else of a process runs, and there is no other way without `unsafe`.
const PURGE_DELAY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "10");

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
        Ok(Start::Serve(config)) => {
            let is_said = std::env::var_os(PURGE_DELAY.0).is_some();
            let begins_anew = config.value_cache_bytes.is_some() && !is_said && !config.read_once;
            if begins_anew && let Err(error) = begin_anew() {
                return fail(&error, 1);
            }
            match server::start::start(&config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, error.exit_code),
            }
        }
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

/// The same program with the same words, and [`PURGE_DELAY`], in the same process. Returns if that can not
/// be: the member then takes more memory than it need. An error is of what was changed by trying.
fn begin_anew() -> std::io::Result<()> {
    let Ok(program) = std::env::current_exe() else { return Ok(()) };
    let mut args = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    let error = command.args(args).env(PURGE_DELAY.0, PURGE_DELAY.1).exec();
    // Before it tried, `exec` gave SIGPIPE its default back: to end the process when a client is gone.
    ignore_broken_pipes()?;
    let _ = writeln!(std::io::stderr(), "metastore: memory is given back late: {error}");
    Ok(())
}

/// A handler that does nothing; it outlives its runtime.
fn ignore_broken_pipes() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _in_runtime = runtime.enter();
    tokio::signal::unix::signal(SignalKind::pipe()).map(drop)
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    // One line, whatever the error holds.
    let line = error.to_string().replace('\n', " ");
    let _ = writeln!(std::io::stderr(), "metastore: {line}");
    ExitCode::from(code)
}
