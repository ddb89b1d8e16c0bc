//! One member as threads: the order in which disk, network, apply and replies happen.
//!
//! ```text
//! inbox ─▶ raft thread: member.step ─┬─ disk ──▶ log thread ───── Persisted ─▶ inbox
//!                                    ├─ net ───▶ peers
//!                                    ├─ apply ─▶ apply thread ─── Applied ───▶ inbox
//!                                    │              └─▶ view, callers, watchers, backend, snapshots
//!                                    └─ reply ─▶ callers
//! ```
//!
//! The member's turn is the raft thread's; while that rests, whoever brings a little takes it (`inbox`),
//! and afterwards applies what the step has found, if that too is little (`apply_turn`).
//! Whoever has the turn never waits for disk, apply or a reader. What must not happen before the disk has
//! it is held inside the member, so the order in which this file carries effects out does not matter
//! for safety; it is the order that costs least time. The channels between the threads have no bound
//! of their own: what is in them is bounded by the member (uncommitted bytes, bytes given to apply).
//!
//! Any failure of the log ends the member: [`Fatal`] tells `main`, nothing is acknowledged any more.

mod applier;
mod apply_turn;
mod combining;
mod inbound;
mod log_thread;
mod raft_thread;
mod raft_turn;
mod snapshot_thread;
mod stage_clock;
mod steward;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use member::{ApplyWorker, LogWorker, Member};
use tokio::sync::watch;

use apply_turn::ApplyTurn;

use crate::backend::BackendWriter;
use crate::disk::OsDisk;
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::propose::{Handle, Shared};
use crate::seldom::Seldom;

pub use applier::AppliedSink;
pub(crate) use applier::addresses;
pub(crate) use inbound::NodeInbound;
pub(crate) use snapshot_thread::SnapshotDoor;
pub use steward::{StewardConfig, run as run_steward};

/// What a member says that has learnt that it is none any more.
const REMOVED: &str =
    "this member has been removed from the cluster; its data directory is of no further use";

/// Why a member can not go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// One sentence.
    pub reason: String,
    /// It lies in the data: to start again does not help.
    pub of_data: bool,
}

/// Tells that the member can not go on, and why. The first reason stays.
#[derive(Clone, Debug)]
pub struct Fatal(watch::Sender<Option<Cause>>);

impl Default for Fatal {
    fn default() -> Self {
        Fatal(watch::channel(None).0)
    }
}

impl Fatal {
    /// The member can not go on.
    pub fn raise(&self, reason: String) {
        self.tell(Cause { reason, of_data: false });
    }

    /// The member can not go on with the data it has.
    pub fn raise_of_data(&self, reason: String) {
        self.tell(Cause { reason, of_data: true });
    }

    fn tell(&self, cause: Cause) {
        self.0.send_if_modified(|held| {
            let first = held.is_none();
            if first {
                tracing::error!(reason = cause.reason, "this member stops");
                *held = Some(cause);
            }
            first
        });
    }

    /// What was raised, if anything was.
    #[cfg(test)]
    pub(crate) fn reason(&self) -> Option<String> {
        self.0.borrow().as_ref().map(|cause| cause.reason.clone())
    }

    /// Waits until something is raised.
    pub async fn raised(&self) -> Cause {
        let mut cause = self.0.subscribe();
        match cause.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or_default(),
            Err(_) => Cause { reason: String::from("the member is gone"), of_data: false },
        }
    }
}

/// What the threads of a member are made of.
pub(crate) struct Parts {
    pub(crate) member: Member,
    pub(crate) log: LogWorker<OsDisk>,
    pub(crate) apply: ApplyWorker,
    pub(crate) snapshots: SnapshotDoor,
    pub(crate) backend: BackendWriter,
    pub(crate) shared: Arc<Shared>,
    pub(crate) peers: Peers,
    pub(crate) sinks: Vec<Box<dyn AppliedSink>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) fatal: Fatal,
}

/// A running member.
#[derive(Debug)]
pub struct Node {
    handle: Handle,
    inbox: Arc<Inbox>,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn start(parts: Parts) -> std::io::Result<Node> {
        let Parts { member, log, apply, snapshots, backend, shared, peers, sinks, metrics, fatal } =
            parts;
        let inbox = Arc::clone(&shared.inbox);
        let (to_log, log_tasks) = std::sync::mpsc::channel();
        let mut threads = Vec::new();
        threads.push(spawn("log", &fatal, {
            let (inbox, fatal) = (Arc::clone(&inbox), fatal.clone());
            let (metrics, shared) = (Arc::clone(&metrics), Arc::clone(&shared));
            move || log_thread::run(log, &log_tasks, &inbox, &metrics, &shared, &fatal)
        })?);
        let warning_duration = shared.warning_apply_duration.as_micros();
        let applier = applier::Applier {
            worker: apply,
            shared: Arc::clone(&shared),
            snapshots,
            backend,
            sinks,
            peers: peers.clone(),
            warning_duration_us: u64::try_from(warning_duration).unwrap_or(u64::MAX),
            slow: Seldom::default(),
            sweeping_since_us: None,
            metrics: Arc::clone(&metrics),
        };
        let may_wait = applier.worker.may_wait();
        let apply = Arc::new(ApplyTurn::new(applier, may_wait, fatal.clone()));
        threads.push(spawn("apply", &fatal, {
            let (apply, inbox) = (Arc::clone(&apply), Arc::clone(&inbox));
            move || apply.run(&|| inbox.wake())
        })?);
        threads.push(spawn("raft", &fatal, {
            let fatal = fatal.clone();
            let (shared, peers) = (Arc::clone(&shared), peers.clone());
            let (applying, failing) = (Arc::clone(&apply), fatal.clone());
            let stepper =
                raft_thread::Stepper::new(member, shared, peers, to_log, apply, metrics, fatal);
            let waiting = Arc::clone(&inbox);
            let turn = Arc::new(raft_turn::RaftTurn::new(stepper, waiting, applying, failing));
            let helpers = Arc::downgrade(&turn);
            inbox.open(helpers);
            move || turn.run()
        })?);
        Ok(Node { handle: Handle { shared, peers }, inbox, threads })
    }

    /// The door for everything that serves clients.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops the threads. What was handed to the log is synced before this returns.
    pub fn stop(mut self) {
        self.inbox.close();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// A thread whose panic ends the member instead of leaving it half alive.
pub(crate) fn spawn(
    name: &str,
    fatal: &Fatal,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let fatal = fatal.clone();
    let label = name.to_owned();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            fatal.raise(format!("the {label} thread failed: {}", panic_text(panic.as_ref())));
        }
    })
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| String::from("unknown panic"))
}

/// How long a thread waits for work before it looks after itself.
pub(crate) const IDLE: Duration = Duration::from_secs(1);
