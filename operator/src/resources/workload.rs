//! The StatefulSet.
//!
//! Its controller brings lost pods back even while no operator runs; the operator does everything
//! else, so pods are replaced only when it deletes them (`OnDelete`), and all of them start at once
//! (`Parallel`). How a pod begins on an empty directory is a part of the template that changes while
//! a cluster grows. It is of no matter to pods that have data, and is left out of the hash by which a
//! pod is known to be out of date: growing rolls nobody.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::{
    BEGINNING_ANNOTATION, CLIENT_PORT, CLIENT_TLS_VOLUME, CONTAINER, HASH_ANNOTATION, METRICS_PORT,
    PEER_PORT, Settings, client_secret, hash, image, labels, map, mark_applied, metadata, name,
    peer_domain, peer_secret, peer_service, peer_url, pod_name, scheme, selector_labels, uid,
};
use crate::crd::{MetaStore, Retention, TlsMode, TraceProtocol};
use crate::observed::{Beginning, Ordinal};
use crate::quantity;

/// User and group of the members; the image's own.
const USER: i64 = 65532;
/// Where the volume is mounted.
const VOLUME_PATH: &str = "/var/lib/metastore";
/// The directory on it: the volume's root may hold `lost+found`.
const DATA_DIR: &str = "/var/lib/metastore/data";
/// Where the certificate towards clients is mounted.
const CLIENT_TLS_PATH: &str = "/etc/metastore/tls/client";
/// Where the certificate towards peers is mounted.
const PEER_TLS_PATH: &str = "/etc/metastore/tls/peer";
/// Where the volume with the snapshot is mounted.
const RESTORE_PATH: &str = "/restore";
/// A start may take so long: the log is read, and a snapshot may have to come from the leader.
const STARTUP_S_MAX: i32 = 1800;
/// What members begin with: a plan of timing goes through the log, and rules over flags once it is there.
/// The same for all, so that no change of timing ever is a change of pods.
const BOOT_HEARTBEAT_MS: u32 = 100;
/// See [`BOOT_HEARTBEAT_MS`].
const BOOT_ELECTION_MS: u32 = 1_000;
/// Name of the claim template; claims are `data-POD`.
const CLAIM_TEMPLATE: &str = "data";
/// Revisions of the template kept; nobody rolls back by them.
const REVISIONS_KEPT: i32 = 2;

/// The StatefulSet with so many pods that begin like this. `live` is the one that is there: its claim
/// template cannot change any more, so what it asks for stays, and claims are made to grow one by one.
pub fn workload(
    object: &MetaStore,
    settings: &Settings,
    replicas: i32,
    beginning: &Beginning,
    live: Option<&StatefulSet>,
) -> StatefulSet {
    let keep = |retention: Retention| match retention {
        Retention::Retain => "Retain",
        Retention::Delete => "Delete",
    };
    let mut meta = metadata(object, &name(object), "cluster");
    meta["annotations"] = json!({ BEGINNING_ANNOTATION: written(beginning).to_string() });
    let value = json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": meta,
        "spec": {
            "replicas": replicas,
            "serviceName": peer_service(object),
            "podManagementPolicy": "Parallel",
            "updateStrategy": { "type": "OnDelete" },
            "revisionHistoryLimit": REVISIONS_KEPT,
            "persistentVolumeClaimRetentionPolicy": {
                "whenScaled": "Retain",
                "whenDeleted": keep(object.spec.storage.on_delete),
            },
            "selector": { "matchLabels": selector_labels(object) },
            "template": template(object, settings, Some((beginning, replicas))),
            "volumeClaimTemplates": [claim_template(object, live)],
        },
    });
    serde_json::from_value(mark_applied(value)).expect("a StatefulSet")
}

/// Hash of what pods are to be like.
pub fn pod_hash(object: &MetaStore, settings: &Settings) -> String {
    hash(&bare_template(object, settings, None))
}

/// Hash that a StatefulSet gives to its pods; empty if none.
pub fn template_hash(workload: &StatefulSet) -> String {
    let template = workload.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let annotations = template.and_then(|metadata| metadata.annotations.as_ref());
    annotations.and_then(|all| all.get(HASH_ANNOTATION)).cloned().unwrap_or_default()
}

/// How the pods of a StatefulSet begin.
pub fn beginning(workload: &StatefulSet) -> Option<Beginning> {
    let text = workload.annotations().get(BEGINNING_ANNOTATION)?;
    let value: Value = serde_json::from_str(text).ok()?;
    let number = |value: &Value| value.as_i64().and_then(|number| Ordinal::try_from(number).ok());
    if let Some(founders) = value.get("found") {
        return Some(Beginning::Found { founders: number(founders)? });
    }
    if value.get("restore").is_some() {
        return Some(Beginning::Restore);
    }
    let others = value.get("join")?.as_array()?.iter().map(number).collect::<Option<_>>()?;
    Some(Beginning::Join { others })
}

fn written(beginning: &Beginning) -> Value {
    match beginning {
        Beginning::Found { founders } => json!({ "found": founders }),
        Beginning::Restore => json!({ "restore": true }),
        Beginning::Join { others } => json!({ "join": others }),
    }
}

fn claim_template(object: &MetaStore, live: Option<&StatefulSet>) -> Value {
    let storage = &object.spec.storage;
    let founded = live
        .and_then(|live| live.spec.as_ref()?.volume_claim_templates.as_ref()?.first())
        .and_then(|claim| {
            claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
        });
    let size = founded.map_or(&storage.size, |quantity| &quantity.0);
    let mut spec = map(json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": size } },
    }));
    if let Some(class) = &storage.class_name {
        spec.insert("storageClassName".to_owned(), json!(class));
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": { "name": CLAIM_TEMPLATE, "labels": selector_labels(object) },
        "spec": spec,
    })
}

/// The template with its own hash.
fn template(object: &MetaStore, settings: &Settings, begin: Option<(&Beginning, i32)>) -> Value {
    let mut template = bare_template(object, settings, begin);
    template["metadata"]["annotations"][HASH_ANNOTATION] = json!(pod_hash(object, settings));
    template
}

/// The template; without `begin`, all of it that matters to a pod which has data.
fn bare_template(
    object: &MetaStore,
    settings: &Settings,
    begin: Option<(&Beginning, i32)>,
) -> Value {
    let spec = &object.spec;
    let own = &spec.pod_template;
    let mut all_labels: Map<String, Value> =
        own.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    all_labels.extend(labels(object, "member"));
    let mut pod = map(json!({
        "serviceAccountName": name(object),
        "automountServiceAccountToken": false,
        // Variables of services named etcd would be taken for settings.
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": own.termination_grace_period_seconds,
        // Members are named in full: ask for the name as it is first.
        "dnsConfig": { "options": [{ "name": "ndots", "value": "1" }] },
        "securityContext": {
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "runAsNonRoot": true,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "affinity": { "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": { "matchLabels": selector_labels(object) },
                },
            }],
        } },
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": selector_labels(object) },
        }],
        "containers": [server(object, settings, begin)],
    }));
    let mut set = |field: &str, value: Value| pod.insert(field.to_owned(), value);
    if let Some(context) = &own.security_context {
        set("securityContext", json!(context));
    }
    if let Some(affinity) = &own.affinity {
        set("affinity", json!(affinity));
    }
    if !own.topology_spread_constraints.is_empty() {
        let mut constraints = json!(own.topology_spread_constraints);
        for constraint in constraints.as_array_mut().into_iter().flatten() {
            // One that selects no pods would spread none.
            if constraint.get("labelSelector").is_none() {
                constraint["labelSelector"] = json!({ "matchLabels": selector_labels(object) });
            }
        }
        set("topologySpreadConstraints", constraints);
    }
    if !own.tolerations.is_empty() {
        set("tolerations", json!(own.tolerations));
    }
    if !own.node_selector.is_empty() {
        set("nodeSelector", json!(own.node_selector));
    }
    if let Some(class) = &own.priority_class_name {
        set("priorityClassName", json!(class));
    }
    if !spec.image_pull_secrets.is_empty() {
        set("imagePullSecrets", json!(spec.image_pull_secrets));
    }
    let restores = matches!(begin, Some((Beginning::Restore, _)));
    if restores {
        set("initContainers", json!([restore(object, settings)]));
    }
    let volumes = volumes(object, restores);
    if !volumes.is_empty() {
        set("volumes", json!(volumes));
    }
    let mut metadata = map(json!({ "labels": all_labels }));
    if !own.annotations.is_empty() {
        metadata.insert("annotations".to_owned(), json!(own.annotations));
    }
    json!({ "metadata": metadata, "spec": pod })
}

fn volumes(object: &MetaStore, restores: bool) -> Vec<Value> {
    // Whole Secrets, never single files of them: only those follow when the Secret changes.
    let secret = |name: &str, secret: String| json!({ "name": name, "secret": { "secretName": secret, "defaultMode": 0o440 } });
    let mut volumes = Vec::new();
    volumes.extend(client_secret(object).map(|name| secret(CLIENT_TLS_VOLUME, name)));
    volumes.extend(peer_secret(object).map(|name| secret("peer-tls", name)));
    if let Some(from) = object.spec.restore_from.as_ref().filter(|_| restores) {
        volumes.push(json!({
            "name": "restore",
            "persistentVolumeClaim": { "claimName": from.claim_name, "readOnly": true },
        }));
    }
    volumes
}

fn server(object: &MetaStore, settings: &Settings, begin: Option<(&Beginning, i32)>) -> Value {
    let mut mounts = vec![json!({ "name": CLAIM_TEMPLATE, "mountPath": VOLUME_PATH })];
    if client_secret(object).is_some() {
        mounts.push(
            json!({ "name": CLIENT_TLS_VOLUME, "mountPath": CLIENT_TLS_PATH, "readOnly": true }),
        );
    }
    if peer_secret(object).is_some() {
        mounts.push(json!({ "name": "peer-tls", "mountPath": PEER_TLS_PATH, "readOnly": true }));
    }
    let probe = |path: &str, period_s: i32, timeout_s: i32, failures: i32| {
        json!({
            "httpGet": { "path": path, "port": "metrics", "scheme": "HTTP" },
            "periodSeconds": period_s,
            "timeoutSeconds": timeout_s,
            "failureThreshold": failures,
        })
    };
    let mut container = common(object, settings);
    if client_secret(object).is_some()
        && let Some(Value::Array(env)) = container.get_mut("env")
    {
        // For metactl by hand, in the pod: a member's certificate is good for a client, too.
        for (name, value) in [
            ("ETCDCTL_ENDPOINTS", format!("https://localhost:{CLIENT_PORT}")),
            ("ETCDCTL_CACERT", format!("{CLIENT_TLS_PATH}/ca.crt")),
            ("ETCDCTL_CERT", format!("{CLIENT_TLS_PATH}/tls.crt")),
            ("ETCDCTL_KEY", format!("{CLIENT_TLS_PATH}/tls.key")),
        ] {
            env.push(json!({ "name": name, "value": value }));
        }
    }
    container.extend(map(json!({
        "name": CONTAINER,
        "command": ["/usr/local/bin/metastore"],
        "args": arguments(object, settings, begin),
        "ports": [
            { "name": "client", "containerPort": CLIENT_PORT, "protocol": "TCP" },
            { "name": "peer", "containerPort": PEER_PORT, "protocol": "TCP" },
            { "name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP" },
        ],
        "volumeMounts": mounts,
        "startupProbe": probe("/livez", 1, 2, STARTUP_S_MAX),
        "livenessProbe": probe("/livez", 10, 5, 6),
        "readinessProbe": probe("/readyz", 2, 2, 3),
        "lifecycle": {
            "preStop": { "exec": { "command": ["/usr/local/bin/metastore", "pre-stop"] } },
        },
    })));
    Value::Object(container)
}

/// What all containers have.
fn common(object: &MetaStore, settings: &Settings) -> Map<String, Value> {
    let spec = &object.spec;
    // A pod that asks for nothing is the first to be evicted.
    let resources = match &spec.resources {
        Some(resources) => json!(resources),
        None => json!({ "requests": { "cpu": "25m", "memory": "64Mi" } }),
    };
    map(json!({
        "image": image(object, settings),
        "imagePullPolicy": format!("{:?}", spec.image_pull_policy),
        "env": [
            {
                "name": "POD_NAME",
                "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } },
            },
            // For `metastore pre-stop`, which finds the member by it.
            { "name": "ETCD_DATA_DIR", "value": DATA_DIR },
        ],
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }))
}

/// Makes the data directory of the first member out of the snapshot, once.
fn restore(object: &MetaStore, settings: &Settings) -> Value {
    let mut container = common(object, settings);
    let mut arguments = Vec::new();
    if let Some(from) = &object.spec.restore_from {
        // Kubernetes puts variables in for $(NAME); a path is a path.
        arguments.push(format!("{RESTORE_PATH}/{}", from.path.replace('$', "$$")));
    }
    arguments.push(format!("--data-dir={DATA_DIR}"));
    arguments.push("--name=$(POD_NAME)".to_owned());
    arguments.push(format!("--initial-cluster={}", founders(object, settings, [0])));
    arguments.push(format!("--initial-advertise-peer-urls={}", peer_url(object, settings, 0)));
    arguments.push(format!("--initial-cluster-token={}", uid(object)));
    let bump = object.spec.restore_from.as_ref().map_or(0, |from| from.bump_revision);
    if bump > 0 {
        arguments.push(format!("--bump-revision={bump}"));
        arguments.push("--mark-compacted".to_owned());
    }
    arguments.push("--if-absent".to_owned());
    container.extend(map(json!({
        "name": "restore",
        "command": ["/usr/local/bin/metactl", "snapshot", "restore"],
        "args": arguments,
        "volumeMounts": [
            { "name": CLAIM_TEMPLATE, "mountPath": VOLUME_PATH },
            { "name": "restore", "mountPath": RESTORE_PATH, "readOnly": true },
        ],
    })));
    Value::Object(container)
}

/// `demo-0=https://demo-0…,demo-1=…`
fn founders(
    object: &MetaStore,
    settings: &Settings,
    ordinals: impl IntoIterator<Item = Ordinal>,
) -> String {
    let one =
        |ordinal| format!("{}={}", pod_name(object, ordinal), peer_url(object, settings, ordinal));
    ordinals.into_iter().map(one).collect::<Vec<_>>().join(",")
}

fn arguments(
    object: &MetaStore,
    settings: &Settings,
    begin: Option<(&Beginning, i32)>,
) -> Vec<String> {
    let spec = &object.spec;
    let (client, peer) = (&spec.tls.client, &spec.tls.peer);
    let (client_scheme, peer_scheme) = (scheme(client.mode), scheme(peer.mode));
    let host = format!("$(POD_NAME).{}", peer_domain(object, settings));
    let mut flags: Vec<(&str, String)> = vec![
        ("name", "$(POD_NAME)".to_owned()),
        ("data-dir", DATA_DIR.to_owned()),
        ("listen-client-urls", format!("{client_scheme}://0.0.0.0:{CLIENT_PORT}")),
        ("advertise-client-urls", format!("{client_scheme}://{host}:{CLIENT_PORT}")),
        ("listen-peer-urls", format!("{peer_scheme}://0.0.0.0:{PEER_PORT}")),
        ("initial-advertise-peer-urls", format!("{peer_scheme}://{host}:{PEER_PORT}")),
        ("listen-metrics-urls", format!("http://0.0.0.0:{METRICS_PORT}")),
        ("initial-cluster-token", uid(object)),
    ];
    if let Some((beginning, replicas)) = begin {
        let (state, cluster) = match beginning {
            Beginning::Found { founders: count } => ("new", founders(object, settings, 0..*count)),
            Beginning::Restore => ("new", founders(object, settings, [0])),
            // Who starts must find itself among the names, too.
            Beginning::Join { others } => {
                let mut all: Vec<_> = (0..replicas).chain(others.iter().copied()).collect();
                all.sort_unstable();
                all.dedup();
                ("existing", founders(object, settings, all))
            }
        };
        flags.push(("initial-cluster-state", state.to_owned()));
        flags.push(("initial-cluster", cluster));
    }
    if client.mode != TlsMode::None {
        flags.push(("cert-file", format!("{CLIENT_TLS_PATH}/tls.crt")));
        flags.push(("key-file", format!("{CLIENT_TLS_PATH}/tls.key")));
        // The authorities alone would demand certificates, too.
        if client.client_auth {
            flags.push(("client-cert-auth", "true".to_owned()));
            flags.push(("trusted-ca-file", format!("{CLIENT_TLS_PATH}/ca.crt")));
        }
    }
    if peer.mode != TlsMode::None {
        flags.push(("peer-cert-file", format!("{PEER_TLS_PATH}/tls.crt")));
        flags.push(("peer-key-file", format!("{PEER_TLS_PATH}/tls.key")));
        flags.push(("peer-client-cert-auth", "true".to_owned()));
        flags.push(("peer-trusted-ca-file", format!("{PEER_TLS_PATH}/ca.crt")));
    }
    flags.extend(options(object));
    if let Some(tracing) = &object.spec.tracing {
        let protocol = match tracing.protocol {
            TraceProtocol::Grpc => "grpc",
            TraceProtocol::Http => "http/protobuf",
        };
        flags.push(("enable-distributed-tracing", "true".to_owned()));
        flags.push(("distributed-tracing-address", tracing.endpoint.clone()));
        flags.push(("distributed-tracing-protocol", protocol.to_owned()));
        flags.push(("distributed-tracing-service-name", object.name_any()));
        flags.push(("distributed-tracing-instance-id", "$(POD_NAME)".to_owned()));
        flags.push(("distributed-tracing-sampling-rate", tracing.sampling_rate.to_string()));
    }
    flags.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// The server's and the consensus' options, those that the resource names.
fn options(object: &MetaStore) -> Vec<(&'static str, String)> {
    let (server, raft) = (&object.spec.server, &object.spec.raft);
    let mut flags = vec![
        ("heartbeat-interval", BOOT_HEARTBEAT_MS.to_string()),
        ("election-timeout", BOOT_ELECTION_MS.to_string()),
        ("log-level", format!("{:?}", server.log_level).to_lowercase()),
    ];
    let mut set = |name, value: Option<String>| flags.extend(value.map(|value| (name, value)));
    let bytes = |text: &Option<String>| {
        text.as_deref().and_then(quantity::bytes).map(|bytes| bytes.to_string())
    };
    let number = |value: Option<i64>| value.map(|value| value.to_string());
    set("quota-backend-bytes", bytes(&server.quota));
    set("value-cache-bytes", bytes(&server.value_cache));
    let compression = server.peer_compression.map(|it| format!("{it:?}").to_lowercase());
    set("peer-compression", compression);
    if let Some(compaction) = &server.auto_compaction {
        let mode = format!("{:?}", compaction.mode).to_lowercase();
        set("auto-compaction-mode", Some(mode));
        set("auto-compaction-retention", Some(compaction.retention.clone()));
    }
    set("snapshot-count", number(server.snapshot_count));
    set("max-request-bytes", bytes(&server.max_request_size));
    set("max-txn-ops", number(server.max_txn_ops));
    set("max-concurrent-streams", number(server.max_concurrent_streams));
    if let Some(batch) = &raft.batch {
        set("batch-commands-max", number(batch.max_commands));
        set("batch-linger", batch.max_wait_us.map(|us| format!("{us}us")));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::TracingSpec;

    #[test]
    fn members_trace_where_the_resource_says_so_and_only_there() {
        let args = |object: &MetaStore| {
            let made = workload(object, &Settings::default(), 3, &Beginning::Restore, None);
            let made = serde_json::to_value(made).unwrap();
            let args = &made["spec"]["template"]["spec"]["containers"][0]["args"];
            args.as_array().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut object = MetaStore::default();
        assert!(!args(&object).iter().any(|arg| arg.contains("tracing")));
        object.spec.tracing = Some(TracingSpec {
            endpoint: "otel:4318".to_owned(),
            protocol: TraceProtocol::Http,
            sampling_rate: 1_000,
        });
        let args = args(&object);
        for flag in [
            "\"--enable-distributed-tracing=true\"",
            "\"--distributed-tracing-address=otel:4318\"",
            "\"--distributed-tracing-protocol=http/protobuf\"",
            "\"--distributed-tracing-instance-id=$(POD_NAME)\"",
            "\"--distributed-tracing-sampling-rate=1000\"",
        ] {
            assert!(args.iter().any(|arg| arg == flag), "{flag}: {args:?}");
        }
    }

    #[test]
    fn a_beginning_is_read_back_as_it_was_written() {
        let all = [
            Beginning::Found { founders: 3 },
            Beginning::Restore,
            Beginning::Join { others: vec![0, 2, 10] },
        ];
        for begun in all {
            let made = workload(&MetaStore::default(), &Settings::default(), 3, &begun, None);
            assert_eq!(beginning(&made), Some(begun));
        }
    }
}
