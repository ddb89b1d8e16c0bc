//! From settings to a running operator, and to its end.
//!
//! One thread: the work is waiting. What can act begins only once the lease is held, and a lost lease
//! ends the process, so that nothing goes on under it.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::ListParams;
use otlp::Tracer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api::ApiDoor;
use crate::certificates::Waits;
use crate::clock;
use crate::config::Config;
use crate::controller::{Keeper, control};
use crate::crd::MetaStore;
use crate::http::{self, Health, Phase, Site};
use crate::leader::{Elector, Hold, Lost};
use crate::members::Grpc;
use crate::metrics::Metrics;
use crate::plan;
use crate::resources::Settings;
use crate::telemetry::{self, Log};

/// Longest a connection to the API server may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Time between two looks for the definition.
const LOOK: Duration = Duration::from_secs(5);
/// Longest a look for the definition may take.
const LOOK_MOST: Duration = Duration::from_secs(10);
/// Told to stop, what is under way may take so long.
const STOP: Duration = Duration::from_secs(15);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Traces cannot be handed over.
    #[error("{0}")]
    Tracing(String),
    /// The runtime could not be made.
    #[error("the runtime cannot be started: {0}")]
    Runtime(std::io::Error),
    /// The address is of no use.
    #[error("--listen {0}: {1}")]
    Listen(std::net::SocketAddr, std::io::Error),
    /// Metrics and health are no longer served.
    #[error("metrics and health: {0}")]
    Http(std::io::Error),
    /// There are no credentials for an API server.
    #[error("the API server is not known: {0}")]
    Credentials(String),
    /// Somebody else may act now.
    #[error("{0}")]
    Lease(String),
}

impl From<Lost> for RunError {
    fn from(lost: Lost) -> Self {
        RunError::Lease(lost.to_string())
    }
}

/// Runs until told to stop.
pub fn run(config: &Config) -> Result<(), RunError> {
    let telemetry =
        telemetry::install(config).map_err(|error| RunError::Tracing(error.to_string()))?;
    // A second call in one process keeps the first provider; only tests do that.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let ended = runtime.block_on(serve(config, telemetry.tracer.as_ref(), &telemetry.log));
    // Whatever still runs is cut off where it waits.
    runtime.shutdown_background();
    ended
}

/// Tells the operator that is the first process of this container to turn its log to `debug`, or back.
pub fn toggle_debug() -> std::io::Result<()> {
    let first = rustix::process::Pid::from_raw(1).expect("not zero");
    Ok(rustix::process::kill_process(first, rustix::process::Signal::USR1)?)
}

async fn serve(config: &Config, tracer: Option<&Tracer>, log: &Log) -> Result<(), RunError> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(signals(stop));
    let listener =
        TcpListener::bind(config.listen).await.map_err(|e| RunError::Listen(config.listen, e))?;
    let metrics = Arc::new(Metrics::new());
    for collector in tracer.into_iter().flat_map(Tracer::collectors) {
        metrics.register(collector);
    }
    let health = Arc::new(Health::default());
    let site = Site { metrics: Arc::clone(&metrics), health: Arc::clone(&health) };
    let mut site = tokio::spawn(http::serve(listener, site));
    info!(version = env!("CARGO_PKG_VERSION"), listen = %config.listen, "started");

    let work = keep(config, stopped, &metrics, &health);
    tokio::select! {
        ended = work => ended,
        never = toggles(log) => match never {},
        ended = &mut site => Err(RunError::Http(match ended {
            Ok(Ok(())) => std::io::Error::other("ended"),
            Ok(Err(error)) => error,
            Err(error) => std::io::Error::other(error),
        })),
    }
}

/// Turns the log to `debug`, and back, for each SIGUSR1.
async fn toggles(log: &Log) -> Infallible {
    let Ok(mut asked) = signal(SignalKind::user_defined1()) else {
        return std::future::pending().await;
    };
    loop {
        // The stream of a signal has no end.
        if asked.recv().await.is_some() {
            log.toggle_debug();
        }
    }
}

/// Turns the first SIGTERM or SIGINT into a stop.
async fn signals(stop: watch::Sender<bool>) {
    let both = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = both else {
        error!("signals cannot be received: stopping");
        stop.send_replace(true);
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping");
    stop.send_replace(true);
    // Stays until the process ends: who listens must not take the end of this for a stop of its own.
    std::future::pending::<()>().await;
}

async fn keep(
    config: &Config,
    mut stopped: watch::Receiver<bool>,
    metrics: &Arc<Metrics>,
    health: &Arc<Health>,
) -> Result<(), RunError> {
    let mut stop = stopped.clone();
    let client = tokio::select! {
        client = connect() => client?,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    tokio::select! {
        () = wait_for_definition(&client, &config.namespaces, health) => {}
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    }

    let mut elector = config.leader_election.then(|| {
        let namespace = config.pod_namespace.as_deref();
        let namespace = namespace.unwrap_or_else(|| client.default_namespace());
        Elector::new(Api::<Lease>::namespaced(client.clone(), namespace), config.pod_name.clone())
    });
    let hold = elector.as_ref().map_or_else(Hold::unneeded, Elector::hold);
    if let Some(elector) = &mut elector {
        tokio::select! {
            () = elector.acquire(|| health.enter(Phase::StandingBy)) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
    }
    metrics.leader.set(1);

    let settings = Settings {
        default_image: config.default_image.clone(),
        cluster_domain: config.cluster_domain.clone(),
        operator_namespace: config.pod_namespace.clone(),
        certificate_waits: Waits { spread_s: config.certificate_spread_s },
    };
    let api = ApiDoor::new(client, Arc::clone(metrics), hold);
    let keeper = Rc::new(Keeper::new(
        api,
        Grpc::default(),
        settings,
        &config.pod_name,
        Arc::clone(metrics),
        Arc::clone(health),
        plan::plan,
    ));
    let watching = || health.enter(Phase::Working);
    let scopes: Vec<Option<&str>> = if config.namespaces.is_empty() {
        vec![None]
    } else {
        config.namespaces.iter().map(|namespace| Some(&namespace[..])).collect()
    };
    let work = join_all(
        scopes
            .into_iter()
            .map(|namespace| control(Rc::clone(&keeper), namespace, stopped.clone(), watching)),
    );
    let bounded = async {
        let late = async {
            let _ = stopped.wait_for(|stop| *stop).await;
            tokio::time::sleep(STOP).await;
        };
        tokio::select! {
            _ = work => {}
            () = late => warn!("what was under way is cut off"),
        }
    };
    let lost = async {
        match &mut elector {
            Some(elector) => elector.keep().await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        () = bounded => Ok(()),
        lost = lost => Err(RunError::from(lost)),
    };
    metrics.leader.set(0);
    if let (Ok(()), Some(elector)) = (&ended, &mut elector) {
        elector.release().await;
    }
    ended
}

async fn connect() -> Result<kube::Client, RunError> {
    let fails = |error: String| RunError::Credentials(error);
    let mut config = kube::Config::infer().await.map_err(|error| fails(error.to_string()))?;
    config.connect_timeout = Some(CONNECT);
    // A pass that fails is made again from what is there by then.
    config.default_retry = false;
    kube::Client::try_from(config).map_err(|error| fails(error.to_string()))
}

/// Waits until MetaStores can be listed, and says what is missing until then.
async fn wait_for_definition(client: &kube::Client, namespaces: &[String], health: &Health) {
    let api: Api<MetaStore> = match namespaces.first() {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let mut told = String::new();
    loop {
        let params = ListParams::default().limit(1);
        let why = match tokio::time::timeout(LOOK_MOST, api.list(&params)).await {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                "the definition of MetaStore is not installed".to_owned()
            }
            Ok(Err(kube::Error::Api(status))) => {
                format!("MetaStores cannot be listed: {}", status.message)
            }
            Ok(Err(error)) => format!("the API server cannot be reached: {error}"),
            Err(_) => "the API server does not answer".to_owned(),
        };
        if why != told {
            warn!(why, "waiting");
            told.clone_from(&why);
        }
        health.enter(Phase::Waiting(why));
        tokio::time::sleep(clock::jittered(LOOK)).await;
    }
}
