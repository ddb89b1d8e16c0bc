//! Ends: of waits when a signal asks for it, and of programs that were started.
//!
//! Ctrl-C (and SIGTERM, and a terminal that goes away) only leaves a mark. Every wait looks at it and
//! fails, and the errors' way up drops the clusters, whose servers and folders go with them.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// How often what is waited for is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Most bytes of a program's output that are kept.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// Longest wait for the end of an ended tool's output.
const PIPE_TIMEOUT: Duration = Duration::from_secs(5);

static ASKED: AtomicBool = AtomicBool::new(false);

/// From here on signals are a mark that [`check`] sees.
pub(super) fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<std::io::Result<Vec<_>>>()
            .context("signals")?
    };
    let wait = async move {
        let [interrupt, terminate, hangup] = &mut signals[..] else {
            unreachable!("three signals were asked for")
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            ASKED.store(true, Ordering::Relaxed);
        }
    };
    // Detached: it stays for the rest of the program.
    let thread = std::thread::Builder::new().name("signals".into());
    drop(thread.spawn(move || runtime.block_on(wait))?);
    Ok(())
}

pub(super) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Fails once a signal has asked to stop.
pub(super) fn check() -> Result<()> {
    if asked() {
        bail!("stopped by a signal");
    }
    Ok(())
}

/// Waits so long, or until a signal asks to stop.
pub(super) fn pause(duration: Duration) -> Result<()> {
    let until = Instant::now() + duration;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}

/// A command of its own process group, so that a terminal's Ctrl-C reaches this program alone, and
/// without the environment's ideas about etcd.
pub(super) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// A tool at work; killed when dropped.
pub(super) struct Tool {
    name: String,
    process: Child,
    stdout: Output,
    stderr: Output,
}

/// What a tool writes, as it comes.
struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Output {
    /// Read elsewhere, or a full pipe would hold the tool up.
    fn of(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 1 << 14];
            // What could be read is shown; the tool's status says whether it went well.
            while let Ok(count @ 1..) = from.read(&mut chunk) {
                let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                if to.len() < OUTPUT_BYTES_MAX {
                    to.extend_from_slice(&chunk[..count]);
                }
            }
        });
        Output { bytes, reader }
    }

    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// All of it, once the tool has ended. What it started may hold its pipe open, so the wait for
    /// the pipe's end has one of its own.
    fn whole(&self) -> String {
        let deadline = Instant::now() + PIPE_TIMEOUT;
        while !self.reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        self.text()
    }
}

impl Tool {
    pub(super) fn start(mut command: Command) -> Result<Self> {
        let name = name(&command);
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| name.clone())?;
        let stdout = Output::of(process.stdout.take().context("the tool's output")?);
        let stderr = Output::of(process.stderr.take().context("the tool's messages")?);
        Ok(Tool { name, process, stdout, stderr })
    }

    /// What it has written to its standard error so far.
    pub(super) fn messages(&self) -> String {
        self.stderr.text()
    }

    /// Whether it has ended, well or not.
    pub(super) fn is_over(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_some())
    }

    /// Waits for its end; what it wrote to its standard output.
    pub(super) fn finish(mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.process.try_wait()? {
                break status;
            }
            check()?;
            if Instant::now() >= deadline {
                bail!("{}: still running after {limit:?}", self.name);
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let (stdout, stderr) = (self.stdout.whole(), self.stderr.whole());
        if !status.success() {
            let last = stderr.lines().chain(stdout.lines()).rfind(|line| !line.trim().is_empty());
            bail!("{} ended ({status}): {}", self.name, last.unwrap_or_default().trim());
        }
        Ok(stdout)
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }
}

/// Runs a tool to its end.
pub(super) fn run(command: Command, limit: Duration) -> Result<String> {
    Tool::start(command)?.finish(limit)
}

/// Program and first words, for messages.
fn name(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program()).to_string_lossy();
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .filter(|word| word.chars().all(|letter| letter.is_ascii_lowercase()))
        .take(3)
        .collect();
    [&[program][..], &words].concat().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_fails_is_named_with_its_last_words() {
        let mut command = command("sh");
        command.args(["-c", "echo first >&2; echo 'last words' >&2; exit 3"]);
        let error = run(command, Duration::from_secs(30)).unwrap_err().to_string();
        assert!(error.starts_with("sh") && error.ends_with("last words"), "{error}");
    }

    #[test]
    fn a_tool_that_does_not_end_is_killed() {
        let mut command = command("sleep");
        command.arg("600");
        let tool = Tool::start(command).unwrap();
        let pid = tool.process.id();
        let error = tool.finish(Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("still running"), "{error}");
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
