//! The whole of a member's life, for `main`: settle in, serve, leave.
//!
//! Doors are bound before anything is written, so that a port in use leaves no trace.

use std::sync::{Arc, OnceLock};

use state::{Changes, View};
use tokio::sync::watch;

use crate::api::{Settings, Shared};
use crate::boot::{self, Begun};
use crate::config::{Config, texts};
use crate::fanout::Fanout;
use crate::http::{Doorstep, metrics_router};
use crate::metrics::Metrics;
use crate::node::{AppliedSink, Fatal, StewardConfig, run_steward};
use crate::serve::{Content, ServeOptions};
use crate::{run, serve, telemetry, tls};

impl AppliedSink for Fanout {
    fn applied(&mut self, view: &View, changes: &Changes, replaced: bool) {
        Fanout::applied(self, view, changes, replaced);
    }
}

/// Why a member ended that was not told to stop.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub struct Ended {
    /// One line, naming the thing.
    pub line: String,
    /// For the process: [`EXIT_DATA`], [`EXIT_SETTINGS`], or 1 for everything else.
    pub exit_code: u8,
}

/// The data in the directory are lost, damaged, or of a member that was removed: starting again does
/// not help, replacing the member does.
pub const EXIT_DATA: u8 = 3;

/// The settings cannot be used; some are only found out when they are.
pub const EXIT_SETTINGS: u8 = 2;

impl From<String> for Ended {
    fn from(line: String) -> Self {
        Ended { line, exit_code: 1 }
    }
}

impl From<&str> for Ended {
    fn from(line: &str) -> Self {
        Ended::from(line.to_owned())
    }
}

impl From<boot::BootError> for Ended {
    fn from(error: boot::BootError) -> Self {
        let exit_code = if error.is_of_data() { EXIT_DATA } else { 1 };
        Ended { line: error.to_string(), exit_code }
    }
}

/// Serves until told to stop, or until the member can not go on.
pub fn start(config: &Config) -> Result<(), Ended> {
    // Goes last: the spans of the end are handed over as well.
    let of_settings = |line| Ended { line, exit_code: EXIT_SETTINGS };
    let _exporting = telemetry::install(config).map_err(|error| of_settings(error.to_string()))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // A second call in one process finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let metrics = Arc::new(Metrics::new());
    for collector in telemetry::tracer().iter().flat_map(|tracer| tracer.collectors()) {
        metrics.register(collector);
    }
    let tls = tls::Sides::load(config, &metrics).map_err(|error| error.to_string())?;
    let bound = serve::bind_all(config, tls.client.as_ref()).map_err(|error| error.to_string())?;
    let (early, mut listeners): (Vec<_>, Vec<_>) =
        bound.into_iter().partition(|listener| listener.content() == Content::Metrics);
    let house = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("house")
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let (stop, stopping) = watch::channel(false);
    for side in tls.client.iter().chain(&tls.peer) {
        house.spawn(Arc::clone(side).keep_fresh(stopping.clone()));
    }
    // Whoever probes the member sees it alive while it replays its log.
    let doorstep = Doorstep::new(&metrics);
    let at_doorstep = if early.is_empty() {
        None
    } else {
        let (options, doorstep) = (ServeOptions::of(config).on_one_thread(), doorstep.clone());
        let served = serve::serve_on("metrics", early, options, &metrics, &stopping, move || {
            doorstep.clone()
        });
        Some(served.map_err(|error| error.to_string())?)
    };
    let broken = Arc::new(OnceLock::new());
    let fatal = Fatal::default();
    let mut fanout = None;
    let begun = house.block_on(boot::begin(config, &metrics, tls.peer.as_ref(), &fatal, |view| {
        let interval = config.watch_progress_notify_interval;
        let (stop, broken) = (stop.clone(), Arc::clone(&broken));
        let fatal = move |reason: String| {
            tracing::error!(reason, "cannot go on");
            // The first reason is the one that counts.
            let _ = broken.set(reason);
            stop.send_replace(true);
        };
        let started = Fanout::start(view, interval, Arc::clone(&metrics), fatal)?;
        fanout = Some(started.clone());
        Ok(vec![Box::new(started)])
    }));
    let Begun { node, data_dir: _locked, .. } = begun?;
    let fanout = fanout.ok_or("the watch thread was not started")?;
    let handle = node.handle();
    let failure = house.spawn({
        let stop = stop.clone();
        async move {
            let cause = fatal.raised().await;
            stop.send_replace(true);
            let exit_code = if cause.of_data { EXIT_DATA } else { 1 };
            Ended { line: cause.reason, exit_code }
        }
    });
    let steward = StewardConfig {
        name: config.name.clone(),
        client_urls: texts(&config.advertise_client_urls),
    };
    house.spawn(run_steward(handle.clone(), steward));
    let shared =
        Arc::new(Shared::new(handle, Settings::of(config), metrics, fanout.clone(), stopping));
    doorstep.open(metrics_router(&shared));
    match serve::bind_control(&config.control_socket()) {
        Ok(control) => listeners.push(control),
        // The member can do without; `pre-stop` will say that it cannot.
        Err(error) => tracing::warn!(%error, "cannot listen for pre-stop"),
    }
    let served = run::run(config, listeners, &shared, &stop).map_err(|error| error.to_string());
    if let Some(at_doorstep) = at_doorstep {
        at_doorstep.join();
    }
    fanout.stop();
    node.stop();
    if failure.is_finished() {
        return Err(house.block_on(failure).unwrap_or_else(|error| error.to_string().into()));
    }
    match broken.get() {
        Some(reason) => Err(reason.clone().into()),
        None => served.map_err(Ended::from),
    }
}
