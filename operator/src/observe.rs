//! One look at one cluster: what the API server has and what the members say, into one [`Observed`].
//!
//! Everything that a decision is made from is read anew, past all caches: a list or a get without a
//! resource version is answered from etcd. What is not read each time is what no decision but "apply
//! again" depends on: children that were found in place, and what storage classes can do.

use std::collections::BTreeMap;

use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod as KubePod, Secret};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;
use tokio::time::Instant;

use crate::api::{ApiDoor, ApiError};
use crate::certificates::{self, Secrets};
use crate::crd::{MetaStore, TlsMode};
use crate::members::{Address, Key, Members, Row, Security};
use crate::memory::{CHILDREN_FOR, Memory, fingerprint};
use crate::observed::{Claim, Exit, Member, Observed, Ordinal, Pod, Workload};
use crate::plan::Event;
use crate::resources::{self, Child, Settings};
use crate::{clock, quantity};

/// What was seen, and what carrying out a step needs beyond it.
pub(crate) struct Look {
    /// What decisions are made from.
    pub(crate) observed: Observed,
    /// The StatefulSet, if it is ours.
    pub(crate) workload: Option<StatefulSet>,
    /// Children that are not as they should be.
    pub(crate) stale: Vec<Child>,
    /// Secrets to be written.
    pub(crate) secrets: Vec<Secret>,
    /// What certificates have to tell.
    pub(crate) told: Vec<Event>,
    /// Seconds until there is something to do about certificates.
    pub(crate) again_s: Option<u32>,
    /// Children that are ours and no longer wanted.
    pub(crate) unwanted: Vec<Unwanted>,
    /// Where members are.
    pub(crate) addresses: Vec<Address>,
    /// How they are spoken to.
    pub(crate) security: Security,
    /// Storage classes of the claims.
    pub(crate) classes: BTreeMap<Ordinal, String>,
    /// What children were wanted; 0 if they were not looked at.
    wanted_children: u64,
}

/// A child to be deleted.
pub(crate) struct Unwanted {
    /// Its kind.
    pub(crate) resource: ApiResource,
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
}

impl Look {
    /// All children are in place: they need not be looked at for a while.
    pub(crate) fn settle(&self, key: &Key, memory: &Memory) {
        let in_place = self.wanted_children != 0
            && !self.observed.children_stale
            && self.observed.foreign.is_empty();
        if in_place {
            memory.of(key, |kept| kept.children = Some((self.wanted_children, Instant::now())));
        }
    }
}

/// Looks. None: there is no such resource any more.
pub(crate) async fn observe<M: Members>(
    api: &ApiDoor,
    members: &M,
    memory: &Memory,
    settings: &Settings,
    key: &Key,
) -> Result<Option<Look>, ApiError> {
    let (namespace, name) = (&key.0[..], &key.1[..]);
    let Some(object) = api.get::<MetaStore>(namespace, name).await? else { return Ok(None) };
    let labels = format!("{}={name}", resources::CLUSTER_LABEL);
    let (set, pods, claims, secrets) = tokio::try_join!(
        api.get::<StatefulSet>(namespace, name),
        api.list::<KubePod>(namespace, &labels),
        api.list::<PersistentVolumeClaim>(namespace, &labels),
        read_secrets(api, namespace, &object),
    )?;

    let mut foreign = Vec::new();
    let workload = set.filter(|set| {
        let is_ours = is_ours(&object, &set.metadata);
        if !is_ours {
            foreign.push(format!("StatefulSet {name}"));
        }
        is_ours
    });

    let (claims, classes) = read_claims(api, memory, &object, claims).await?;
    let mut seen_pods = BTreeMap::new();
    let mut addresses = Vec::new();
    for pod in &pods {
        let Some(ordinal) = resources::ordinal_of_pod_name(&object, &pod.name_any()) else {
            continue;
        };
        if !is_of_set(pod, name) {
            continue;
        }
        let claim = claims.get(&ordinal).map(|claim| claim.uid.clone());
        let seen = pod_of(pod, claim);
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        if let Some(ip) = ip.filter(|_| seen.running) {
            let security = security_of_older(api, namespace, &object, pod).await?;
            let address = address_of(&object, settings, ordinal, &seen.uid, ip);
            addresses.push(Address { security, ..address });
        }
        seen_pods.insert(ordinal, seen);
    }

    let security = security_of(&object, &secrets);
    let said = {
        let can_be_asked =
            |of: &&Address| *of.security.as_ref().unwrap_or(&security) != Security::NotYet;
        let asked: Vec<_> = addresses.iter().filter(can_be_asked).cloned().collect();
        members.ask(key, &security, &asked).await
    };
    let table = said
        .table
        .map(|rows| rows.into_iter().map(|row| member_of(&object, row)).collect::<Vec<Member>>());

    let missing_claim = missing_claim(api, namespace, &object).await?;
    let now_s = clock::now_s();
    let voters = voters_of(table.as_deref(), &object);
    let mut look = Look {
        observed: Observed {
            now_s,
            workload: workload.as_ref().map(workload_of),
            pods: seen_pods,
            claims,
            answers: said.answers,
            members: table,
            foreign,
            missing_secrets: certificates::lacking(&object, settings, &secrets, now_s),
            missing_claim,
            children_stale: false,
            rotating: false,
            wanted_hash: resources::pod_hash(&object, settings),
            object,
        },
        workload,
        stale: Vec::new(),
        secrets: Vec::new(),
        told: Vec::new(),
        again_s: None,
        unwanted: Vec::new(),
        addresses,
        security,
        classes,
        wanted_children: 0,
    };
    look_at_children(api, memory, settings, key, voters, &secrets, &mut look).await?;
    Ok(Some(look))
}

/// Only a cluster that is not founded yet needs the claim with its snapshot.
async fn missing_claim(
    api: &ApiDoor,
    namespace: &str,
    object: &MetaStore,
) -> Result<Option<String>, ApiError> {
    let founded = object.status.as_ref().is_some_and(|status| status.cluster_id.is_some());
    let Some(restore) = object.spec.restore_from.as_ref().filter(|_| !founded) else {
        return Ok(None);
    };
    let claim = api.get::<PersistentVolumeClaim>(namespace, &restore.claim_name).await?;
    Ok(claim.is_none().then(|| restore.claim_name.clone()))
}

async fn read_secrets(
    api: &ApiDoor,
    namespace: &str,
    object: &MetaStore,
) -> Result<Secrets, ApiError> {
    let names = certificates::secret_names(object);
    let found = try_join_all(names.iter().map(|name| api.get::<Secret>(namespace, name))).await?;
    let found = names.into_iter().zip(found);
    Ok(found.filter_map(|(name, secret)| secret.map(|secret| (name, secret))).collect())
}

/// Children, certificates and the set's own fields beside its pods: what differs, what is too much, and
/// what somebody else has made under our names.
async fn look_at_children(
    api: &ApiDoor,
    memory: &Memory,
    settings: &Settings,
    key: &Key,
    voters: i32,
    secrets: &Secrets,
    look: &mut Look,
) -> Result<(), ApiError> {
    let now = Instant::now();
    let namespace = &key.0[..];
    let observed = &mut look.observed;
    let object = observed.object.clone();
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }

    let next = certificates::next(
        &object,
        settings,
        secrets,
        observed.now_s,
        &mut certificates::fresh_key,
    );
    observed.foreign.extend(certificates::foreign(&object, secrets));
    look.secrets = next.write;
    look.told = next.events;
    look.again_s = next.again_s;
    observed.rotating = next.rotating;
    observed.children_stale |= !look.secrets.is_empty();

    if let Some(workload) = &look.workload
        && let Some(beginning) = resources::beginning(workload)
        && resources::template_hash(workload) == observed.wanted_hash
    {
        let replicas = workload.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let wanted = resources::workload(&object, settings, replicas, &beginning, Some(workload));
        let (wanted, live) = (json_of(&wanted), json_of(workload));
        if differs(memory, key, "StatefulSet", &key.1, &wanted, &live) {
            let resource = resources::workload_resource();
            let child = serde_json::from_value(wanted).map_err(|error| ApiError::Broken {
                call: "read a StatefulSet".to_owned(),
                problem: error.to_string(),
            })?;
            look.stale.push(Child { resource, object: child });
            observed.children_stale = true;
        }
    }

    let children = resources::children(&object, settings, voters);
    let wanted = fingerprint(&Value::Array(children.iter().map(Child::value).collect()));
    let known = memory.of(key, |kept| kept.children);
    if known.is_some_and(|(hash, at)| {
        hash == wanted && now.saturating_duration_since(at) < CHILDREN_FOR
    }) {
        return Ok(());
    }
    look.wanted_children = wanted;

    let live = try_join_all(
        children.iter().map(|child| read_child(api, namespace, &child.resource, child.name())),
    )
    .await?;
    for (child, live) in children.into_iter().zip(live) {
        let kind = &child.resource.kind;
        match live {
            None if memory.is_absent(kind, now) => continue,
            None => {}
            Some(live) if !is_ours(&object, &live.metadata) => {
                observed.foreign.push(format!("{kind} {}", child.name()));
                continue;
            }
            Some(live) => {
                let name = child.name();
                if !differs(memory, key, kind, &name, &child.value(), &json_of(&live)) {
                    continue;
                }
            }
        }
        look.stale.push(child);
        observed.children_stale = true;
    }

    let children = resources::children(&object, settings, voters);
    let surplus = resources::possible_children(&object).into_iter().filter(|(resource, name)| {
        !children.iter().any(|c| c.resource.kind == resource.kind && c.name() == *name)
    });
    let surplus: Vec<_> = surplus.collect();
    let live =
        surplus.iter().map(|(resource, name)| read_child(api, namespace, resource, name.clone()));
    let live = try_join_all(live).await?;
    for ((resource, name), live) in surplus.into_iter().zip(live) {
        let Some(live) = live.filter(|live| is_ours(&object, &live.metadata)) else { continue };
        let going = live.metadata.deletion_timestamp.is_some();
        if let Some(uid) = live.metadata.uid.filter(|_| !going) {
            look.unwanted.push(Unwanted { resource, name, uid });
            observed.children_stale = true;
        }
    }
    observed.foreign.sort();
    Ok(())
}

/// A child as it is. Kinds of other projects may be unknown here, or not ours to read.
async fn read_child(
    api: &ApiDoor,
    namespace: &str,
    resource: &ApiResource,
    name: String,
) -> Result<Option<DynamicObject>, ApiError> {
    match api.get_any(resource, namespace, &name).await {
        Err(error) if is_optional(resource) && error.code() == Some(403) => Ok(None),
        other => other,
    }
}

/// Whether a kind belongs to a project that need not be installed.
pub(crate) fn is_optional(resource: &ApiResource) -> bool {
    ["monitoring.coreos.com", "cert-manager.io"].contains(&&resource.group[..])
}

fn differs(
    memory: &Memory,
    key: &Key,
    kind: &str,
    name: &str,
    desired: &Value,
    live: &Value,
) -> bool {
    resources::differs(desired, live)
        && !memory.of(key, |kept| kept.is_as_applied(kind, name, desired, live))
}

pub(crate) fn json_of(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

type Metadata = kube::api::ObjectMeta;

fn is_ours(object: &MetaStore, metadata: &Metadata) -> bool {
    let uid = object.metadata.uid.as_deref();
    uid.is_some() && resources::owner_uid(metadata) == uid
}

/// A pod of the set of this name, or one that its set has left behind and will take back.
fn is_of_set(pod: &KubePod, set: &str) -> bool {
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    controller.is_none_or(|owner| owner.kind == "StatefulSet" && owner.name == set)
}

fn workload_of(set: &StatefulSet) -> Workload {
    let seen = set.status.as_ref().and_then(|status| status.observed_generation);
    Workload {
        replicas: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        settled: seen.is_some() && seen == set.metadata.generation,
        template_hash: resources::template_hash(set),
        beginning: resources::beginning(set),
        deleting: set.metadata.deletion_timestamp.is_some(),
    }
}

fn pod_of(pod: &KubePod, claim_uid: Option<String>) -> Pod {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let ready = condition("Ready").filter(|condition| condition.status == "True");
    let unscheduled = condition("PodScheduled").filter(|condition| condition.status == "False");

    let containers = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let inits = status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
    let server = containers.iter().find(|container| container.name == resources::CONTAINER);
    let running = server
        .and_then(|container| container.state.as_ref())
        .is_some_and(|state| state.running.is_some());
    let failed_init = inits.iter().find(|init| exit_of(init).is_some_and(|exit| exit.code != 0));
    let waiting = if running {
        None
    } else {
        failed_init
            .and_then(waiting_of)
            .or_else(|| unscheduled.and_then(|condition| condition.reason.clone()))
            .or_else(|| server.and_then(waiting_of))
    };
    // What prepares a directory may fail too, but never says that data was lost.
    let last_exit = server
        .and_then(exit_of)
        .or_else(|| failed_init.and_then(exit_of).map(|exit| Exit { code: 1, ..exit }));
    Pod {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        ready: ready.is_some(),
        ready_since_s: ready
            .and_then(|condition| condition.last_transition_time.as_ref())
            .map(|time| time.0.as_second()),
        running,
        hash: pod.annotations().get(resources::HASH_ANNOTATION).cloned().unwrap_or_default(),
        waiting,
        last_exit,
        claim_uid,
    }
}

fn waiting_of(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    match (&state.waiting, &state.terminated) {
        (Some(waiting), _) => waiting.reason.clone(),
        (None, Some(terminated)) => {
            Some(terminated.reason.clone().unwrap_or_else(|| "Terminated".to_owned()))
        }
        _ => None,
    }
}

/// How a container ended last: just now, or before it was started again.
fn exit_of(container: &ContainerStatus) -> Option<Exit> {
    let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.clone())
    };
    let ended = ended(&container.state).or_else(|| ended(&container.last_state))?;
    let message = ended.message.unwrap_or_default();
    Some(Exit { code: ended.exit_code, message: message.trim().to_owned() })
}

type Claims = BTreeMap<Ordinal, Claim>;

async fn read_claims(
    api: &ApiDoor,
    memory: &Memory,
    object: &MetaStore,
    found: Vec<PersistentVolumeClaim>,
) -> Result<(Claims, BTreeMap<Ordinal, String>), ApiError> {
    let wanted_bytes = resources::storage_bytes(object);
    let (mut claims, mut classes) = (Claims::new(), BTreeMap::new());
    for claim in found {
        let Some(ordinal) = resources::ordinal_of_claim_name(object, &claim.name_any()) else {
            continue;
        };
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
        let mut seen = claim_of(&claim);
        // Only one that is too small has to grow.
        if seen.requested_bytes < wanted_bytes
            && let Some(class) = &class
        {
            seen.expandable = is_expandable(api, memory, class).await?;
        }
        claims.insert(ordinal, seen);
        classes.extend(class.map(|class| (ordinal, class)));
    }
    Ok((claims, classes))
}

fn claim_of(claim: &PersistentVolumeClaim) -> Claim {
    let bytes = |text: Option<&String>| text.and_then(|text| quantity::bytes(text)).unwrap_or(0);
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = requests.and_then(|resources| resources.requests.as_ref());
    let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
    Claim {
        uid: claim.metadata.uid.clone().unwrap_or_default(),
        deleting: claim.metadata.deletion_timestamp.is_some(),
        requested_bytes: bytes(requests.and_then(|all| all.get("storage")).map(|q| &q.0)),
        capacity_bytes: bytes(capacity.and_then(|all| all.get("storage")).map(|q| &q.0)),
        expandable: false,
    }
}

/// Whether claims of a class can grow. Where classes must not be read, it is tried: the API server
/// knows.
async fn is_expandable(api: &ApiDoor, memory: &Memory, class: &str) -> Result<bool, ApiError> {
    let now = Instant::now();
    if let Some(known) = memory.class(class, now) {
        return Ok(known);
    }
    let grows = match api.get_global::<StorageClass>(class).await {
        Ok(found) => found.is_some_and(|class| class.allow_volume_expansion == Some(true)),
        Err(error) if error.code() == Some(403) => true,
        Err(error) => return Err(error),
    };
    memory.learn_class(class, grows, now);
    Ok(grows)
}

fn address_of(
    object: &MetaStore,
    settings: &Settings,
    ordinal: Ordinal,
    uid: &str,
    ip: &str,
) -> Address {
    let port = resources::CLIENT_PORT;
    Address {
        ordinal,
        pod_uid: uid.to_owned(),
        socket: if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") },
        host: resources::pod_host(object, settings, ordinal),
        security: None,
    }
}

fn security_of(object: &MetaStore, secrets: &Secrets) -> Security {
    if object.spec.tls.client.mode == TlsMode::None {
        return Security::Plain;
    }
    certificates::identity(object, secrets).map_or(Security::NotYet, Security::Tls)
}

/// How to speak to a pod that was made before `spec.tls.client` was changed: until it is renewed it
/// shows what it was made with, and only if it can be asked is it renewed. None: as to all others.
async fn security_of_older(
    api: &ApiDoor,
    namespace: &str,
    object: &MetaStore,
    pod: &KubePod,
) -> Result<Option<Security>, ApiError> {
    match shown_otherwise(object, pod) {
        None => Ok(None),
        Some(None) => Ok(Some(Security::Plain)),
        Some(Some(name)) => {
            let secret = api.get::<Secret>(namespace, &name).await?;
            let identity = secret.as_ref().and_then(certificates::identity_of);
            Ok(Some(identity.map_or(Security::NotYet, Security::Tls)))
        }
    }
}

/// The Secret, if any, that a pod shows to clients, where pods that are made now do otherwise.
fn shown_otherwise(object: &MetaStore, pod: &KubePod) -> Option<Option<String>> {
    let spec = pod.spec.as_ref()?;
    let server = spec.containers.iter().find(|container| container.name == resources::CONTAINER)?;
    let mut volumes = spec.volumes.iter().flatten();
    let shown = volumes
        .find(|volume| volume.name == resources::CLIENT_TLS_VOLUME)
        .and_then(|volume| volume.secret.as_ref()?.secret_name.clone());
    let demands = server.args.iter().flatten().any(|arg| arg == resources::CLIENT_AUTH_ARGUMENT);
    let as_now = shown == resources::client_secret(object)
        && (!demands || object.spec.tls.client.client_auth);
    (!as_now).then_some(shown)
}

fn member_of(object: &MetaStore, row: Row) -> Member {
    Member {
        id: row.id,
        name: row.name,
        ordinal: row.peer_urls.iter().find_map(|url| resources::ordinal_of_peer_url(object, url)),
        learner: row.learner,
        started: row.started,
    }
}

/// Voters there are: by the table, or while nobody can read it, by what was reported last.
fn voters_of(table: Option<&[Member]>, object: &MetaStore) -> i32 {
    let count =
        match table {
            Some(rows) => rows.iter().filter(|row| !row.learner).count(),
            None => object.status.iter().flat_map(|status| &status.members).fold(0, |n, member| {
                n + usize::from(matches!(&member.role[..], "leader" | "voter"))
            }),
        };
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(status: &Value) -> Pod {
        let pod = json!({
            "metadata": { "name": "demo-0", "uid": "u", "annotations": { "metastore.io/pod-hash": "h" } },
            "status": status,
        });
        pod_of(&serde_json::from_value(pod).unwrap(), Some("c".to_owned()))
    }

    fn container(name: &str, state: &Value, last: &Value) -> Value {
        json!({
            "name": name, "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": state, "lastState": last,
        })
    }

    #[test]
    fn a_pod_that_is_ready_says_since_when() {
        let none = json!({});
        let pod = seen(&json!({
            "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z" },
            ],
            "containerStatuses": [
                container("sidecar", &none, &none),
                container("metastore", &json!({ "running": {} }), &none),
            ],
        }));
        assert!(pod.ready && pod.running && pod.waiting.is_none() && pod.last_exit.is_none());
        assert_eq!(pod.ready_since_s, Some(1_767_225_610));
        assert_eq!((&pod.hash[..], pod.claim_uid.as_deref()), ("h", Some("c")));
    }

    #[test]
    fn lost_data_is_told_from_a_crash_by_the_servers_exit_code() {
        let ended = json!({ "terminated": { "exitCode": 3, "message": "metastore: gone\n" } });
        let waits = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let pod = seen(&json!({ "containerStatuses": [container("metastore", &waits, &ended)] }));
        assert_eq!(pod.waiting.as_deref(), Some("CrashLoopBackOff"));
        let exit = pod.last_exit.unwrap();
        assert_eq!((exit.code, &exit.message[..]), (3, "metastore: gone"));
        // Just ended, and not yet waiting.
        let none = json!({});
        let pod = seen(&json!({ "containerStatuses": [container("metastore", &ended, &none)] }));
        assert_eq!(pod.last_exit.map(|exit| exit.code), Some(3));
        assert_eq!(pod.waiting.as_deref(), Some("Terminated"));
    }

    #[test]
    fn what_prepares_a_directory_never_says_that_data_is_lost() {
        let ended = json!({ "terminated": { "exitCode": 3, "message": "no such file" } });
        let waits = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let server = json!({ "waiting": { "reason": "PodInitializing" } });
        let pod = seen(&json!({
            "initContainerStatuses": [container("restore", &waits, &ended)],
            "containerStatuses": [container("metastore", &server, &json!({}))],
        }));
        assert_eq!(pod.waiting.as_deref(), Some("CrashLoopBackOff"));
        let exit = pod.last_exit.unwrap();
        assert_eq!((exit.code, &exit.message[..]), (1, "no such file"));
    }

    #[test]
    fn a_pod_without_a_node_says_so() {
        let unscheduled =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" });
        let pod = seen(&json!({ "conditions": [unscheduled] }));
        assert_eq!(pod.waiting.as_deref(), Some("Unschedulable"));
        assert!(!pod.running && !pod.ready);
    }

    #[test]
    fn a_claim_has_what_it_asked_for_and_what_it_got() {
        let claim = json!({
            "metadata": { "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "resources": { "requests": { "storage": "8Gi" } } },
            "status": { "capacity": { "storage": "4Gi" } },
        });
        let claim = claim_of(&serde_json::from_value(claim).unwrap());
        assert_eq!((claim.requested_bytes, claim.capacity_bytes), (8 << 30, 4 << 30));
        assert!(claim.deleting);
    }

    #[test]
    fn members_are_reached_at_addresses_of_both_kinds() {
        let object = MetaStore::new("demo", crate::crd::MetaStoreSpec::default());
        let at = |ip| address_of(&object, &Settings::default(), 1, "u", ip).socket;
        assert_eq!(at("10.0.0.1"), "10.0.0.1:2379");
        assert_eq!(at("fd00::1"), "[fd00::1]:2379");
    }

    #[test]
    fn a_pod_is_spoken_to_as_it_was_made_until_it_is_renewed() {
        let object = |client: &Value| {
            let spec = json!({ "replicas": 3, "tls": { "client": client } });
            MetaStore::new("demo", serde_json::from_value(spec).unwrap())
        };
        let made_as = |object: &MetaStore| -> KubePod {
            let begin = crate::observed::Beginning::Found { founders: 3 };
            let set = resources::workload(object, &Settings::default(), 3, &begin, None);
            let template = set.spec.unwrap().template;
            KubePod { spec: template.spec, ..KubePod::default() }
        };
        let plain = object(&json!({}));
        let signed = object(&json!({ "mode": "SelfSigned" }));
        let own = |auth| {
            let mode = json!({ "mode": "Secret", "secretName": "own", "clientAuth": auth });
            object(&mode)
        };
        for same in [&plain, &signed, &own(false), &own(true)] {
            assert_eq!(shown_otherwise(same, &made_as(same)), None);
        }
        assert_eq!(shown_otherwise(&signed, &made_as(&plain)), Some(None));
        let of_old = |name: &str| Some(Some(name.to_owned()));
        assert_eq!(shown_otherwise(&plain, &made_as(&signed)), of_old("demo-server-tls"));
        assert_eq!(shown_otherwise(&own(false), &made_as(&signed)), of_old("demo-server-tls"));
        assert_eq!(shown_otherwise(&own(false), &made_as(&own(true))), of_old("own"));
        assert_eq!(shown_otherwise(&own(true), &made_as(&own(false))), None);
    }

    #[test]
    fn only_pods_of_the_set_count() {
        let pod = |owners: &Value| -> KubePod {
            let metadata = json!({ "name": "demo-0", "ownerReferences": owners });
            serde_json::from_value(json!({ "metadata": metadata })).unwrap()
        };
        let owner = |kind: &str, name: &str| json!([{ "apiVersion": "v", "kind": kind, "name": name, "uid": "u", "controller": true }]);
        assert!(is_of_set(&pod(&owner("StatefulSet", "demo")), "demo"));
        assert!(is_of_set(&pod(&json!([])), "demo"), "its set will take it back");
        assert!(!is_of_set(&pod(&owner("StatefulSet", "other")), "demo"));
        assert!(!is_of_set(&pod(&owner("ReplicaSet", "demo")), "demo"));
    }
}
