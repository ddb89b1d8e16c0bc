//! Signals that ask a load to end: it stops and shows what it has.
//!
//! Before there is anything to show or to tidy up, the first signal ends the program with one line.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Shells see a program that a signal ended as one that ended with this and the signal's number.
const EXIT_CODE_BASE: u8 = 128;

/// A signal ended the load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted {
    pub(crate) signal: i32,
    /// Its results until then have been shown.
    pub(crate) is_shown: bool,
}

impl Interrupted {
    pub(crate) fn exit_code(self) -> u8 {
        EXIT_CODE_BASE.saturating_add(u8::try_from(self.signal).unwrap_or(0))
    }
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let before = if self.is_shown { "" } else { ", before anything was measured" };
        write!(f, "ended by signal {}{before}", self.signal)
    }
}

impl std::error::Error for Interrupted {}

/// Whether a signal has asked for the end. Clones share it; one that nobody made by [`listen`] is
/// never asked.
///
/// [`listen`]: Interrupt::listen
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<Mark>);

#[derive(Debug, Default)]
struct Mark {
    /// The signal, or 0.
    signal: AtomicI32,
    /// Somebody looks at it; until then a signal ends the program.
    is_held: AtomicBool,
}

impl Interrupt {
    /// From here on signals come here; a second one always ends the program.
    pub(crate) fn listen() -> Result<Self> {
        let interrupt = Interrupt::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _entered = runtime.enter();
            [SignalKind::interrupt(), SignalKind::terminate()]
                .map(|kind| signal(kind).map(|signal| (kind.as_raw_value(), signal)))
                .into_iter()
                .collect::<std::io::Result<Vec<_>>>()
                .context("signals")?
        };
        let mark = Arc::clone(&interrupt.0);
        let wait = async move {
            let [(interrupt, ctrl_c), (terminate, asked)] = &mut signals[..] else {
                unreachable!("two signals were asked for")
            };
            loop {
                let signal = tokio::select! {
                    _ = ctrl_c.recv() => *interrupt,
                    _ = asked.recv() => *terminate,
                };
                let was_asked = mark.signal.swap(signal, Ordering::Relaxed) != 0;
                let is_held = mark.is_held.load(Ordering::Relaxed);
                if was_asked || !is_held {
                    let end = Interrupted { signal, is_shown: was_asked };
                    if !end.is_shown {
                        drop(writeln!(std::io::stderr(), "metactl: {end}"));
                    }
                    std::process::exit(end.exit_code().into());
                }
            }
        };
        // Detached: it stays for the rest of the program.
        let thread = std::thread::Builder::new().name("signals".into());
        drop(thread.spawn(move || runtime.block_on(wait))?);
        Ok(interrupt)
    }

    /// From here on the first signal is only a mark.
    pub(crate) fn hold(&self) {
        self.0.is_held.store(true, Ordering::Relaxed);
    }

    /// The signal that asked for the end.
    pub(crate) fn asked(&self) -> Option<i32> {
        Some(self.0.signal.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }
}
