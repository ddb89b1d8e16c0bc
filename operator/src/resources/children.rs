//! What stands around the pods: services, the budget of disruptions, the network policy, monitors,
//! and cert-manager's certificates.

use std::cmp::max;

use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use super::{
    CLIENT_PORT, Child, METRICS_PORT, PEER_PORT, Settings, client_secret, labels, map,
    mark_applied, metadata, name, operator_secret, peer_secret, peer_service, selector_labels,
    user_secret,
};
use crate::certificates::{MEMBER_ADDRESSES, member_names};
use crate::crd::{IssuerRef, MetaStore, Monitor, TlsMode};

/// Label by which the chart names the operator's pods.
const OPERATOR_NAME: &str = "metastore-operator";

/// All objects that are wanted, but the StatefulSet and the Secrets that the operator itself fills.
/// `live_voters` are those in the member table: while a cluster shrinks they are more than wanted.
pub fn children(object: &MetaStore, settings: &Settings, live_voters: i32) -> Vec<Child> {
    let mut children = vec![
        child(service_account(object), ApiResource::erase::<ServiceAccount>(&())),
        child(service(object), ApiResource::erase::<Service>(&())),
        child(headless(object), ApiResource::erase::<Service>(&())),
    ];
    let voters = max(object.spec.replicas, live_voters);
    if voters > 1 {
        let budget = budget(object, voters);
        children.push(child(budget, ApiResource::erase::<PodDisruptionBudget>(&())));
    }
    if object.spec.network_policy.enabled {
        let policy = network_policy(object, settings);
        children.push(child(policy, ApiResource::erase::<NetworkPolicy>(&())));
    }
    match object.spec.monitoring.monitor {
        Monitor::None => {}
        Monitor::ServiceMonitor => children.push(child(service_monitor(object), monitors(true))),
        Monitor::PodMonitor => children.push(child(pod_monitor(object), monitors(false))),
    }
    children.extend(certificates(object, settings));
    children
}

/// Kinds and names of all objects that [`children`] could ever have asked for. One that is there, is
/// ours, and is not among the wanted ones is to go.
pub fn possible_children(object: &MetaStore) -> Vec<(ApiResource, String)> {
    let own = name(object);
    let certificate = |suffix: &str| (certificate_resource(), format!("{own}-{suffix}"));
    vec![
        (ApiResource::erase::<ServiceAccount>(&()), own.clone()),
        (ApiResource::erase::<Service>(&()), own.clone()),
        (ApiResource::erase::<Service>(&()), peer_service(object)),
        (ApiResource::erase::<PodDisruptionBudget>(&()), own.clone()),
        (ApiResource::erase::<NetworkPolicy>(&()), own.clone()),
        (monitors(true), own.clone()),
        (monitors(false), own.clone()),
        certificate("server-tls"),
        certificate("peer-tls"),
        certificate("operator-tls"),
        certificate("client-tls"),
    ]
}

fn child(value: Value, resource: ApiResource) -> Child {
    let object: DynamicObject = serde_json::from_value(mark_applied(value)).expect("an object");
    Child { resource, object }
}

fn monitors(of_service: bool) -> ApiResource {
    let (kind, plural) = if of_service {
        ("ServiceMonitor", "servicemonitors")
    } else {
        ("PodMonitor", "podmonitors")
    };
    let gvk = GroupVersionKind::gvk("monitoring.coreos.com", "v1", kind);
    ApiResource::from_gvk_with_plural(&gvk, plural)
}

fn certificate_resource() -> ApiResource {
    let gvk = GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
    ApiResource::from_gvk_with_plural(&gvk, "certificates")
}

/// Members have no business with the API server: the account has no rights and no token.
fn service_account(object: &MetaStore) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(object, &name(object), "member"),
        "automountServiceAccountToken": false,
    })
}

fn port(name: &str, port: i32) -> Value {
    json!({ "name": name, "port": port, "targetPort": name, "protocol": "TCP" })
}

/// For clients: members that are ready.
fn service(object: &MetaStore) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(object, &name(object), "client"),
        "spec": {
            "type": "ClusterIP",
            "selector": selector_labels(object),
            "ports": [port("client", CLIENT_PORT), port("metrics", METRICS_PORT)],
        },
    })
}

/// A name in DNS for each member, from before it is ready: it becomes ready by talking to the others.
fn headless(object: &MetaStore) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(object, &peer_service(object), "peers"),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": selector_labels(object),
            "ports": [
                port("client", CLIENT_PORT),
                port("peer", PEER_PORT),
                port("metrics", METRICS_PORT),
            ],
        },
    })
}

/// Evictions leave a quorum. A whole number, for a share would be taken of whatever pods there are.
/// With two members no eviction is allowed at all: a quorum of two is two.
fn budget(object: &MetaStore, voters: i32) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(object, &name(object), "member"),
        "spec": {
            "minAvailable": voters / 2 + 1,
            "selector": { "matchLabels": selector_labels(object) },
        },
    })
}

fn network_policy(object: &MetaStore, settings: &Settings) -> Value {
    let ports = |ports: &[i32]| -> Vec<Value> {
        ports.iter().map(|port| json!({ "protocol": "TCP", "port": port })).collect()
    };
    let operator_namespaces = match &settings.operator_namespace {
        Some(namespace) => json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } }),
        None => json!({}),
    };
    let mut ingress = vec![
        json!({
            "from": [{ "podSelector": { "matchLabels": selector_labels(object) } }],
            "ports": ports(&[CLIENT_PORT, PEER_PORT]),
        }),
        json!({ "ports": ports(&[METRICS_PORT]) }),
    ];
    let clients = &object.spec.network_policy.client_labels;
    if clients.is_empty() {
        ingress.push(json!({ "ports": ports(&[CLIENT_PORT]) }));
    } else {
        ingress.push(json!({
            "from": [{ "podSelector": { "matchLabels": clients } }],
            "ports": ports(&[CLIENT_PORT]),
        }));
        ingress.push(json!({
            "from": [{
                "namespaceSelector": operator_namespaces,
                "podSelector": { "matchLabels": { "app.kubernetes.io/name": OPERATOR_NAME } },
            }],
            "ports": ports(&[CLIENT_PORT]),
        }));
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(object, &name(object), "member"),
        "spec": {
            "podSelector": { "matchLabels": selector_labels(object) },
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    })
}

fn monitor_metadata(object: &MetaStore) -> Value {
    let mut meta = metadata(object, &name(object), "monitor");
    let labels = meta["labels"].as_object_mut().expect("labels");
    for (key, value) in &object.spec.monitoring.labels {
        labels.entry(key.clone()).or_insert_with(|| json!(value));
    }
    meta
}

/// Where the metrics are. Whoever scrapes a member, by service, by pod or with the chart's monitor of all
/// MetaStores, gives its series the same labels: scraped twice, a member is not counted twice.
fn endpoint(object: &MetaStore) -> Value {
    let cluster = name(object);
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let mut endpoint = map(json!({
        "port": "metrics",
        "path": "/metrics",
        "relabelings": [
            { "targetLabel": "cluster", "replacement": cluster },
            { "targetLabel": "job", "replacement": format!("{namespace}/{cluster}") },
            { "action": "labeldrop", "regex": "service" },
        ],
    }));
    if let Some(interval) = &object.spec.monitoring.interval {
        endpoint.insert("interval".to_owned(), json!(interval));
    }
    Value::Object(endpoint)
}

/// By the headless service: a member that is not ready is the one to look at.
fn service_monitor(object: &MetaStore) -> Value {
    let mut selected = labels(object, "peers");
    selected.retain(|key, _| key.starts_with("metastore.io/") || key.ends_with("/component"));
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": monitor_metadata(object),
        "spec": {
            "selector": { "matchLabels": selected },
            "endpoints": [endpoint(object)],
        },
    })
}

fn pod_monitor(object: &MetaStore) -> Value {
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": monitor_metadata(object),
        "spec": {
            "selector": { "matchLabels": selector_labels(object) },
            "podMetricsEndpoints": [endpoint(object)],
        },
    })
}

/// cert-manager's certificates, into Secrets of the names that self-signed ones have.
fn certificates(object: &MetaStore, settings: &Settings) -> Vec<Child> {
    let mut certificates = Vec::new();
    let mut wanted = |secret: Option<String>, who: Who, issuer: &Option<IssuerRef>| {
        if let (Some(secret), Some(issuer)) = (secret, issuer) {
            let value = certificate(object, settings, &secret, who, issuer);
            certificates.push(child(value, certificate_resource()));
        }
    };
    let (client, peer) = (&object.spec.tls.client, &object.spec.tls.peer);
    if client.mode == TlsMode::CertManager {
        wanted(client_secret(object), Who::Member, &client.issuer_ref);
        wanted(operator_secret(object), Who::Client("metastore-operator"), &client.issuer_ref);
        wanted(user_secret(object), Who::Client("client"), &client.issuer_ref);
    }
    if peer.mode == TlsMode::CertManager {
        wanted(peer_secret(object), Who::Member, &peer.issuer_ref);
    }
    certificates
}

/// Who a certificate is for.
#[derive(Clone, Copy)]
enum Who {
    Member,
    Client(&'static str),
}

fn certificate(
    object: &MetaStore,
    settings: &Settings,
    secret: &str,
    who: Who,
    issuer: &IssuerRef,
) -> Value {
    let mut spec = map(json!({
        "secretName": secret,
        "secretTemplate": { "labels": labels(object, "tls") },
        "privateKey": { "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always" },
        "issuerRef": issuer,
    }));
    let more = match who {
        Who::Member => json!({
            "dnsNames": member_names(object, settings),
            "ipAddresses": MEMBER_ADDRESSES,
            "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
        }),
        Who::Client(common_name) => json!({
            "commonName": common_name,
            "usages": ["digital signature", "key encipherment", "client auth"],
        }),
    };
    spec.extend(map(more));
    json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": metadata(object, secret, "tls"),
        "spec": spec,
    })
}
