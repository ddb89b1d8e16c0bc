//! Ctrl-C, and being asked to end, while a load is measured: it stops and shows what it has.
//!
//! Before that a signal ends the program as it ends any other, since there is nothing to show.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::load::Shared;

/// Shells see a program that a signal ended as one that ended with this and the signal's number.
const EXIT_CODE_BASE: u8 = 128;

/// The load was ended by this signal, and its results have been shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted {
    pub(crate) signal: i32,
}

impl Interrupted {
    pub(crate) fn exit_code(self) -> u8 {
        EXIT_CODE_BASE.saturating_add(u8::try_from(self.signal).unwrap_or(0))
    }
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ended by signal {}", self.signal)
    }
}

impl std::error::Error for Interrupted {}

/// From here on the first signal stops the load, and a second one the program.
pub(crate) fn listen(load: Arc<Shared>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        [SignalKind::interrupt(), SignalKind::terminate()]
            .map(|kind| signal(kind).map(|signal| (kind.as_raw_value(), signal)))
            .into_iter()
            .collect::<std::io::Result<Vec<_>>>()
            .context("signals")?
    };
    let wait = async move {
        let [(interrupt, ctrl_c), (terminate, asked)] = &mut signals[..] else {
            unreachable!("two signals were asked for")
        };
        let mut was_asked = false;
        loop {
            let signal = tokio::select! {
                _ = ctrl_c.recv() => *interrupt,
                _ = asked.recv() => *terminate,
            };
            if was_asked {
                std::process::exit(Interrupted { signal }.exit_code().into());
            }
            was_asked = true;
            load.interrupt(signal);
        }
    };
    // Detached: it stays for the rest of the program.
    let thread = std::thread::Builder::new().name("signals".into());
    drop(thread.spawn(move || runtime.block_on(wait))?);
    Ok(())
}
