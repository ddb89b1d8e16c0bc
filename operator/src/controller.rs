//! When to look at which cluster, and one pass over it: look, decide, report, act.
//!
//! A pass begins when the resource, one of its objects or one of its pods has changed, or when the last
//! plan said to look again. Watches only say *that* something has changed; the pass reads what. Several
//! clusters are passed over at the same time, one cluster never.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use autotune::Phase;
use futures::future::LocalBoxFuture;
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::PartialObjectMeta;
use kube::runtime::controller::{
    Action, Error as ControllerError, ReconcileReason, ReconcileRequest,
};
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{
    Config as ControllerConfig, Predicate as _, PredicateConfig, WatchStreamExt, applier,
    predicates,
};
use kube::{Api, Resource, ResourceExt};
use tokio::sync::{Semaphore, watch};
use tracing::{Instrument, debug, info, info_span, warn};

use crate::act::{ActError, Hands, name_of};
use crate::api::{ApiDoor, ApiError};
use crate::clock;
use crate::crd::{AutotuneMode, MetaStore};
use crate::http::Health;
use crate::members::{Key, Members};
use crate::memory::Memory;
use crate::metrics::{CONDITIONS, Metrics, PLAN_RESULTS};
use crate::observe::{Look, observe};
use crate::observed::Observed;
use crate::plan::{Event, Plan};
use crate::resources::{self, Settings};
use crate::telemetry;

/// Clusters passed over at a time.
const PASSES_MAX: usize = 4;
/// Changes that come within so long of each other make one pass.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Wait after the first failure; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest wait after a failure.
const BACKOFF_MOST: Duration = Duration::from_secs(60);
/// Failures in a row that are only logged: most pass by themselves.
const FAILURES_TOLD_FROM: u32 = 3;
/// When a step no longer came out of the second look.
const AGAIN: Duration = Duration::from_secs(1);
/// Waits from here on are spread, so that clusters are not all passed over at once.
const SPREAD_FROM: Duration = Duration::from_secs(10);
/// Objects asked for at a time when a watch begins.
const PAGE: u32 = 50;
/// Longest note of an event that the API server takes.
const NOTE_BYTES_MAX: usize = 1000;
/// Longest a note may take to be written.
const NOTE: Duration = Duration::from_secs(5);

/// Keeps clusters.
pub(crate) struct Keeper<M> {
    api: ApiDoor,
    members: M,
    memory: Memory,
    settings: Settings,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    recorder: Recorder,
    plan: fn(&Observed) -> Plan,
    slots: Semaphore,
    stopping: AtomicBool,
}

/// A pass that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassError {
    /// While looking or reporting.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// While acting.
    #[error("{step}: {error}")]
    Act {
        /// At what.
        step: &'static str,
        /// Why.
        error: ActError,
    },
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// Look again after so long.
    Again(Duration),
    /// The resource is no more.
    Gone,
}

impl<M: Members> Keeper<M> {
    /// With nothing known yet.
    pub(crate) fn new(
        api: ApiDoor,
        members: M,
        settings: Settings,
        identity: &str,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
        plan: fn(&Observed) -> Plan,
    ) -> Self {
        let reporter = Reporter {
            controller: resources::FIELD_MANAGER.to_owned(),
            instance: Some(identity.to_owned()),
        };
        Keeper {
            recorder: Recorder::new(api.client(), reporter),
            api,
            members,
            memory: Memory::default(),
            settings,
            metrics,
            health,
            plan,
            slots: Semaphore::new(PASSES_MAX),
            stopping: AtomicBool::new(false),
        }
    }

    /// One pass over one cluster, counted and traced.
    pub(crate) async fn counted_pass(&self, key: &Key) -> Result<Action, PassError> {
        let _slot = self.slots.acquire().await;
        let _under_way = self.health.pass();
        let timer = self.metrics.duration.start_timer();
        let span = telemetry::reconcile(&name(key));
        let passed = self.pass(key).instrument(span.clone()).await;
        telemetry::ended(&span, passed.as_ref().err());
        timer.observe_duration();
        let (result, action) = match passed {
            Ok(Passed::Again(after)) => {
                self.memory.of(key, |kept| {
                    kept.failures = 0;
                    kept.passed_s = Some(clock::now_s());
                });
                let after = if after < SPREAD_FROM { after } else { clock::jittered(after) };
                ("ok", Ok(Action::requeue(after)))
            }
            Ok(Passed::Gone) => {
                self.forget(key);
                ("gone", Ok(Action::await_change()))
            }
            Err(error) => {
                self.memory.of(key, |kept| kept.failures = kept.failures.saturating_add(1));
                self.metrics.last_error.set(clock::now_s());
                ("error", Err(error))
            }
        };
        self.metrics.reconciles.with_label_values(&[result]).inc();
        self.figures();
        action
    }

    /// All figures, as they are served.
    #[cfg(test)]
    pub(crate) fn metrics_text(&self) -> String {
        self.figures();
        self.metrics.text()
    }

    fn forget(&self, key: &Key) {
        self.memory.forget(key);
        self.members.forget(key);
        self.metrics.forget(key);
    }

    /// One pass over one cluster.
    pub(crate) async fn pass(&self, key: &Key) -> Result<Passed, PassError> {
        let Some(look) = self.look(key).await? else { return Ok(Passed::Gone) };
        let plan = (self.plan)(&look.observed);
        let hands = self.hands(key);
        let object = &look.observed.object;
        // First the report: whoever comes after a crash finds what was about to be done.
        hands.report(object, &plan.status).await?;
        self.note_conditions(key, &look, &plan);
        let mut told = plan.events;
        let mut acted = Ok(());
        let again_s = look.again_s.map_or(plan.again_s, |s| s.min(plan.again_s));
        let mut again = Duration::from_secs(u64::from(again_s.max(1)));
        for step in &plan.steps {
            if self.stopping.load(Ordering::Relaxed) {
                break;
            }
            let fresh;
            let mut seen = &look;
            if step.is_disruptive() {
                // What has been done or has happened since may have made it wrong.
                let Some(second) = self.look(key).await? else { return Ok(Passed::Gone) };
                if !(self.plan)(&second.observed).steps.contains(step) {
                    debug!(cluster = %name(key), step = name_of(step), "no longer called for");
                    again = AGAIN;
                    break;
                }
                fresh = second;
                seen = &fresh;
            }
            info!(cluster = %name(key), ?step, "acting");
            let acting = info_span!(target: otlp::COLD, "act", step = name_of(step));
            match hands.act(seen, step).instrument(acting).await {
                Ok(notes) => told.extend(notes),
                Err(error) => {
                    acted = Err(PassError::Act { step: name_of(step), error });
                    break;
                }
            }
            self.metrics.steps.with_label_values(&[name_of(step)]).inc();
        }
        if let Err(error) = &acted
            && self.memory.of(key, |kept| kept.failures) >= FAILURES_TOLD_FROM
        {
            let note = error.to_string();
            told.push(Event { warning: true, reason: "StepFailed", note });
        }
        self.tell(key, object, told).await;
        acted.map(|()| Passed::Again(again))
    }

    fn hands<'a>(&'a self, key: &'a Key) -> Hands<'a, M> {
        Hands {
            api: &self.api,
            members: &self.members,
            memory: &self.memory,
            settings: &self.settings,
            key,
        }
    }

    async fn look(&self, key: &Key) -> Result<Option<Look>, ApiError> {
        let look = observe(&self.api, &self.members, &self.memory, &self.settings, key)
            .instrument(info_span!(target: otlp::COLD, "observe"))
            .await?;
        if let Some(look) = &look {
            look.settle(key, &self.memory);
        }
        Ok(look)
    }

    /// Writes events. One that the last pass told too is still going on, and is not told again.
    async fn tell(&self, key: &Key, object: &MetaStore, events: Vec<Event>) {
        let all: BTreeSet<(String, String)> =
            events.iter().map(|event| (event.reason.to_owned(), event.note.clone())).collect();
        let before = self.memory.of(key, |kept| std::mem::replace(&mut kept.told, all));
        let about = ObjectReference {
            // Of the resource as a whole, whatever version it was read in.
            resource_version: None,
            ..object.object_ref(&())
        };
        for event in events {
            if before.contains(&(event.reason.to_owned(), event.note.clone())) {
                continue;
            }
            self.count_plan(event.reason);
            if self.api.begin_write("Event", "create", || "tell".to_owned()).is_err() {
                return;
            }
            let sent = KubeEvent {
                type_: if event.warning { EventType::Warning } else { EventType::Normal },
                reason: event.reason.to_owned(),
                action: action_of(&event),
                note: Some(shortened(event.note)),
                secondary: None,
            };
            match tokio::time::timeout(NOTE, self.recorder.publish(&sent, &about)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(cluster = %name(key), %error, "an event was not written"),
                Err(_) => warn!(cluster = %name(key), "an event was not written in time"),
            }
        }
    }

    fn note_conditions(&self, key: &Key, look: &Look, plan: &Plan) {
        let conditions = plan.status.conditions.iter().filter(|c| c.status == "True");
        let conditions = conditions.map(|condition| condition.type_.clone()).collect();
        self.memory.of(key, |kept| {
            kept.conditions = conditions;
            kept.members = look.observed.answers.len();
            kept.plan_since_s = unsettled_since_s(&look.observed);
            (kept.ready, kept.wanted) = ready(plan.status.ready.as_deref());
            kept.frozen = plan.tuning.frozen;
            kept.predicted_failover_s = plan.tuning.predicted_failover_us.map(|us| us as f64 / 1e6);
        });
        if look.observed.object.spec.autotune.mode != AutotuneMode::Off {
            let silent = look.addresses.len().saturating_sub(look.observed.answers.len());
            self.metrics.collect_errors.inc_by(silent as u64);
        }
    }

    /// Counts what became of plans of timing, by what is told of it.
    fn count_plan(&self, reason: &str) {
        let Some((_, result)) = PLAN_RESULTS.iter().find(|(event, _)| *event == reason) else {
            return;
        };
        self.metrics.plans.with_label_values(&[result]).inc();
        if *result == "rolled_back" {
            self.metrics.rollbacks.inc();
        }
    }

    fn figures(&self) {
        self.memory.sum(|clusters| {
            clusters.iter().for_each(|(key, cluster)| self.metrics.show(key, cluster));
            for condition in CONDITIONS {
                let count = clusters.values().filter(|c| c.conditions.contains(condition)).count();
                let gauge = self.metrics.clusters.with_label_values(&[condition]);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            let members: usize = clusters.values().map(|cluster| cluster.members).sum();
            self.metrics.members.set(i64::try_from(members).unwrap_or(i64::MAX));
            let oldest_s = clusters.values().filter_map(|cluster| cluster.plan_since_s).min();
            self.metrics.plan_age.set(oldest_s.map_or(0, |s| (clock::now_s() - s).max(0)));
        });
    }

    fn wait_after_failure(&self, key: &Key) -> Duration {
        let failures = self.memory.of(key, |kept| kept.failures);
        clock::jittered(clock::backoff(failures, BACKOFF_FIRST, BACKOFF_MOST))
    }
}

/// Members that serve and members that are wanted, as the status shows them: "2/3".
fn ready(shown: Option<&str>) -> (i64, i64) {
    let (ready, wanted) = shown.and_then(|text| text.split_once('/')).unwrap_or(("0", "0"));
    (ready.parse().unwrap_or(0), wanted.parse().unwrap_or(0))
}

/// When the plan of timing was submitted that some voter has not confirmed yet.
fn unsettled_since_s(observed: &Observed) -> Option<i64> {
    let plans = observed.answers.values().filter_map(|answer| answer.tuning.as_ref());
    let newest = plans.max_by_key(|tuning| (tuning.plan.epoch, tuning.plan.phase))?;
    (newest.plan.phase != Phase::Settled).then_some(newest.at_ms / 1_000)
}

fn name(key: &Key) -> String {
    format!("{}/{}", key.0, key.1)
}

/// Tells events of one reason apart: the recorder counts those of one action as repetitions, and
/// would keep the first one's note.
fn action_of(event: &Event) -> String {
    let mut hasher = DefaultHasher::new();
    event.note.hash(&mut hasher);
    format!("Reconcile/{:016x}", hasher.finish())
}

/// Cut at a character, with room for what is allowed.
fn shortened(mut note: String) -> String {
    if note.len() > NOTE_BYTES_MAX {
        let mut end = NOTE_BYTES_MAX - '…'.len_utf8();
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push('…');
    }
    note
}

type Trigger = BoxStream<'static, Result<ReconcileRequest<MetaStore>, watcher::Error>>;

/// Keeps the clusters of one namespace, or of all, until told to stop; what is under way then ends
/// with the step in hand.
pub(crate) async fn control<M: Members + 'static>(
    keeper: Rc<Keeper<M>>,
    namespace: Option<&str>,
    mut stop: watch::Receiver<bool>,
    watching: impl FnOnce(),
) {
    let client = keeper.api.client();
    let config = watcher::Config::default().page_size(PAGE);
    let (reader, writer) = reflector::store::<MetaStore>();
    let resources = scoped::<MetaStore>(&client, namespace);
    let triggers = watcher(resources, config.clone())
        .default_backoff()
        .modify(|object| {
            object.managed_fields_mut().clear();
            object.status = None;
        })
        .reflect(writer)
        .touched_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::annotations),
            PredicateConfig::default(),
        )
        .map(|event| event.map(|object| request(ObjectRef::from_obj(&object))))
        .boxed();

    let mut queue: SelectAll<Trigger> = SelectAll::new();
    queue.push(triggers);
    let children = config.clone().labels("app.kubernetes.io/managed-by=metastore-operator");
    let (changed_tx, mut changed) = futures::channel::mpsc::unbounded::<Key>();
    queue.push(owned::<StatefulSet>(&client, namespace, &children, None));
    let tell = Some(changed_tx);
    queue.push(owned::<Service>(&client, namespace, &children, tell.clone()));
    queue.push(owned::<ServiceAccount>(&client, namespace, &children, tell.clone()));
    queue.push(owned::<PodDisruptionBudget>(&client, namespace, &children, tell.clone()));
    queue.push(owned::<NetworkPolicy>(&client, namespace, &children, tell.clone()));
    queue.push(owned::<Secret>(&client, namespace, &children, tell));
    queue.push(pods(&client, namespace, &config));

    let stopping = Rc::clone(&keeper);
    let stopped = async move {
        // An error: the sender is gone, which is a stop too.
        let _ = stop.wait_for(|stop| *stop).await;
        stopping.stopping.store(true, Ordering::Relaxed);
    };
    let queue = queue.take_until(Box::pin(stopped));

    let settings = ControllerConfig::default()
        .debounce(DEBOUNCE)
        .concurrency(u16::try_from(PASSES_MAX).unwrap_or(1));
    let (passing, failing) = (Rc::clone(&keeper), Rc::clone(&keeper));
    let passes = applier(
        move |object: Arc<MetaStore>, _| -> LocalBoxFuture<'static, _> {
            let keeper = Rc::clone(&passing);
            async move { keeper.counted_pass(&key_of(&object)).await }.boxed_local()
        },
        move |object, error, _| {
            let key = key_of(&object);
            let wait = failing.wait_after_failure(&key);
            warn!(cluster = %name(&key), %error, again_s = wait.as_secs(), "a pass failed");
            Action::requeue(wait)
        },
        Arc::new(()),
        reader.clone(),
        queue,
        settings,
    );
    let mut passes = std::pin::pin!(passes);
    let mut ready = std::pin::pin!(reader.wait_until_ready().fuse());
    let mut watching = Some(watching);
    loop {
        tokio::select! {
            _ = &mut ready, if watching.is_some() => {
                if let Some(watching) = watching.take() {
                    watching();
                }
            }
            Some(key) = changed.next() => keeper.memory.children_changed(&key),
            passed = passes.next() => match passed {
                None => return,
                Some(Ok(_) | Err(ControllerError::ReconcilerFailed(..))) => {}
                Some(Err(ControllerError::ObjectNotFound(object))) => {
                    let key = (object.namespace.clone().unwrap_or_default(), object.name.clone());
                    keeper.forget(&key);
                    keeper.figures();
                }
                Some(Err(ControllerError::QueueError(error))) => warn!(%error, "a watch failed"),
                Some(Err(ControllerError::RunnerError(error))) => {
                    warn!(%error, "the watch of MetaStores has ended");
                }
            },
        }
    }
}

fn scoped<K>(client: &kube::Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn key_of(object: &MetaStore) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn request(obj_ref: ObjectRef<MetaStore>) -> ReconcileRequest<MetaStore> {
    ReconcileRequest { obj_ref, reason: ReconcileReason::ObjectUpdated }
}

/// Changes of a kind of child, by the metadata alone; `tell` is for those that are not read in every
/// pass.
fn owned<K>(
    client: &kube::Client,
    namespace: Option<&str>,
    config: &watcher::Config,
    tell: Option<futures::channel::mpsc::UnboundedSender<Key>>,
) -> Trigger
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Send
        + 'static,
{
    watcher(scoped::<PartialObjectMeta<K>>(client, namespace), config.clone())
        .default_backoff()
        .touched_objects()
        .filter_map(move |event| {
            let found = event.map(|child| owner_of(&child.metadata)).transpose();
            if let (Some(Ok(key)), Some(tell)) = (&found, &tell) {
                // Received as long as anything is watched.
                let _ = tell.unbounded_send(key.clone());
            }
            futures::future::ready(found.map(|found| found.map(|key| request(reference(&key)))))
        })
        .boxed()
}

fn owner_of(metadata: &kube::api::ObjectMeta) -> Option<Key> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| {
        owner.controller == Some(true)
            && owner.kind == MetaStore::kind(&())
            && owner.api_version == MetaStore::api_version(&())
    })?;
    Some((metadata.namespace.clone()?, owner.name.clone()))
}

/// Changes of pods, whose owner is the set and whose label is the cluster.
fn pods(client: &kube::Client, namespace: Option<&str>, config: &watcher::Config) -> Trigger {
    let config = config.clone().labels(resources::CLUSTER_LABEL);
    watcher(scoped::<PartialObjectMeta<Pod>>(client, namespace), config)
        .default_backoff()
        .touched_objects()
        .filter_map(|event| {
            let key = |pod: PartialObjectMeta<Pod>| {
                let cluster = pod.labels().get(resources::CLUSTER_LABEL)?.clone();
                Some((pod.namespace()?, cluster))
            };
            let found = event.map(key).transpose();
            futures::future::ready(found.map(|found| found.map(|key| request(reference(&key)))))
        })
        .boxed()
}

fn reference(key: &Key) -> ObjectRef<MetaStore> {
    ObjectRef::new(&key.1).within(&key.0)
}
