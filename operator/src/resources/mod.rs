//! What a MetaStore consists of in Kubernetes: its pods and all that stands around them. Pure: a
//! resource goes in, objects for server-side apply come out.
//!
//! Every object names its MetaStore as its controller, so that Kubernetes removes it with the
//! resource and nobody has to be alive for that; there are no finalizers. Every object also carries a
//! hash of what was applied ([`APPLIED_ANNOTATION`]): with it [`differs()`] sees that something is no
//! longer wanted, which comparing the rest cannot show.
//!
//! An ordinal stands for a pod, its claim and its peer URL; all translations are here.

mod children;
mod differs;
mod workload;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub use self::children::{children, possible_children};
pub use self::differs::differs;
pub use self::workload::{beginning, pod_hash, template_hash, workload};
use crate::certificates::Waits;
use crate::crd::{MetaStore, TlsMode};
use crate::observed::Ordinal;
use crate::quantity;

/// Who owns the fields of all objects.
pub const FIELD_MANAGER: &str = "metastore-operator";
/// Who owns the status.
pub const STATUS_FIELD_MANAGER: &str = "metastore-operator-status";
/// Label with the MetaStore's name; also what the pods are selected by.
pub const CLUSTER_LABEL: &str = "metastore.io/cluster";
/// Label of what a thing is in its MetaStore; pods have `member`.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Annotation of pods: what they were made like.
pub const HASH_ANNOTATION: &str = "metastore.io/pod-hash";
/// Annotation of the StatefulSet: how its pods begin.
pub const BEGINNING_ANNOTATION: &str = "metastore.io/beginning";
/// Annotation of every object: hash of what was applied.
pub const APPLIED_ANNOTATION: &str = "metastore.io/applied";
/// The server's container.
pub const CONTAINER: &str = "metastore";
/// Volume with the Secret that a member shows to clients.
pub(crate) const CLIENT_TLS_VOLUME: &str = "client-tls";
/// Argument of a member that demands certificates of clients.
pub(crate) const CLIENT_AUTH_ARGUMENT: &str = "--client-cert-auth=true";
/// Port of clients.
pub const CLIENT_PORT: i32 = 2379;
/// Port of members among themselves.
pub const PEER_PORT: i32 = 2380;
/// Port of metrics and probes, never encrypted: the kubelet has no certificate.
pub const METRICS_PORT: i32 = 2381;

/// What the operator was told for all clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of members whose resource names none.
    pub default_image: String,
    /// Domain of the Kubernetes cluster.
    pub cluster_domain: String,
    /// Where the operator runs, for the policies that let it in. None: from any namespace.
    pub operator_namespace: Option<String>,
    /// How long a rotation of certificate authorities waits between its phases.
    pub certificate_waits: Waits,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            default_image: concat!("metastore-server:", env!("CARGO_PKG_VERSION")).to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            operator_namespace: None,
            certificate_waits: Waits::default(),
        }
    }
}

/// An object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Its kind.
    pub resource: ApiResource,
    /// It.
    pub object: DynamicObject,
}

impl Child {
    /// As JSON.
    pub fn value(&self) -> Value {
        serde_json::to_value(&self.object).expect("objects have string keys")
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.object.name_any()
    }
}

/// Name of the MetaStore, its StatefulSet and its service.
pub(crate) fn name(object: &MetaStore) -> String {
    object.name_any()
}

pub(crate) fn namespace(object: &MetaStore) -> String {
    object.namespace().unwrap_or_else(|| "default".to_owned())
}

/// Service that gives every pod a name of its own.
pub fn peer_service(object: &MetaStore) -> String {
    format!("{}-peers", name(object))
}

/// Name of a pod.
pub fn pod_name(object: &MetaStore, ordinal: Ordinal) -> String {
    format!("{}-{ordinal}", name(object))
}

/// Name of a pod's claim.
pub fn claim_name(object: &MetaStore, ordinal: Ordinal) -> String {
    format!("data-{}", pod_name(object, ordinal))
}

/// The ordinal in `demo-2`.
pub fn ordinal_of_pod_name(object: &MetaStore, pod: &str) -> Option<Ordinal> {
    let digits = pod.strip_prefix(&name(object))?.strip_prefix('-')?;
    // As the StatefulSet's controller writes it and not otherwise: `demo-02` is no pod of ours.
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    let canonical = plain && (digits == "0" || !digits.starts_with('0'));
    canonical.then(|| digits.parse().ok()).flatten()
}

/// The ordinal in `data-demo-2`.
pub fn ordinal_of_claim_name(object: &MetaStore, claim: &str) -> Option<Ordinal> {
    ordinal_of_pod_name(object, claim.strip_prefix("data-")?)
}

/// Domain below which all pods have names.
pub(crate) fn peer_domain(object: &MetaStore, settings: &Settings) -> String {
    let (service, namespace) = (peer_service(object), namespace(object));
    format!("{service}.{namespace}.svc.{}", settings.cluster_domain)
}

/// Full name of a pod in DNS.
pub fn pod_host(object: &MetaStore, settings: &Settings, ordinal: Ordinal) -> String {
    format!("{}.{}", pod_name(object, ordinal), peer_domain(object, settings))
}

/// Where the other members reach a pod.
pub fn peer_url(object: &MetaStore, settings: &Settings, ordinal: Ordinal) -> String {
    let scheme = scheme(object.spec.tls.peer.mode);
    format!("{scheme}://{}:{PEER_PORT}", pod_host(object, settings, ordinal))
}

/// Where clients reach one pod.
pub fn client_url(object: &MetaStore, settings: &Settings, ordinal: Ordinal) -> String {
    let scheme = scheme(object.spec.tls.client.mode);
    format!("{scheme}://{}:{CLIENT_PORT}", pod_host(object, settings, ordinal))
}

pub(crate) fn scheme(mode: TlsMode) -> &'static str {
    if mode == TlsMode::None { "http" } else { "https" }
}

/// The ordinal that a peer URL names, if it is one of this cluster's pods: another domain of the same
/// Kubernetes cluster, a shorter name or another scheme do not matter, another port does.
pub fn ordinal_of_peer_url(object: &MetaStore, url: &str) -> Option<Ordinal> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.trim_end_matches('/');
    let (host, port) = authority.split_once(':')?;
    if !["http", "https"].contains(&scheme) || port.parse() != Ok(PEER_PORT) {
        return None;
    }
    let mut labels = host.split('.');
    let pod = labels.next()?;
    let (service, namespace) = (peer_service(object), namespace(object));
    let ours = labels.next()? == service
        && labels.next().is_none_or(|label| label == namespace)
        && labels.next().is_none_or(|label| label == "svc");
    ours.then(|| ordinal_of_pod_name(object, pod)).flatten()
}

/// Labels that pods are selected by. A StatefulSet can never change them.
pub(crate) fn selector_labels(object: &MetaStore) -> Value {
    json!({ CLUSTER_LABEL: name(object), COMPONENT_LABEL: "member" })
}

/// The same in one text, for the scale subresource.
pub fn selector(object: &MetaStore) -> String {
    format!("{COMPONENT_LABEL}=member,{CLUSTER_LABEL}={}", name(object))
}

/// Labels of everything.
pub(crate) fn labels(object: &MetaStore, component: &str) -> Map<String, Value> {
    let all = json!({
        "app.kubernetes.io/name": "metastore",
        "app.kubernetes.io/instance": name(object),
        "app.kubernetes.io/managed-by": "metastore-operator",
        COMPONENT_LABEL: component,
        CLUSTER_LABEL: name(object),
    });
    map(all)
}

/// The reference to the MetaStore that makes Kubernetes remove an object with it.
pub fn owner(object: &MetaStore) -> OwnerReference {
    OwnerReference {
        api_version: MetaStore::api_version(&()).into_owned(),
        kind: MetaStore::kind(&()).into_owned(),
        name: name(object),
        uid: uid(object),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

pub(crate) fn uid(object: &MetaStore) -> String {
    object.metadata.uid.clone().unwrap_or_default()
}

/// Metadata of an object.
pub(crate) fn metadata(object: &MetaStore, name: &str, component: &str) -> Value {
    json!({
        "name": name,
        "namespace": namespace(object),
        "labels": labels(object, component),
        "ownerReferences": [owner(object)],
    })
}

/// Bytes that each claim is to have.
pub fn storage_bytes(object: &MetaStore) -> i64 {
    quantity::bytes(&object.spec.storage.size).unwrap_or_default()
}

/// The image of the members: the resource's own, or the default one under the resource's version.
pub fn image(object: &MetaStore, settings: &Settings) -> String {
    let spec = &object.spec;
    if let Some(image) = &spec.image {
        return image.clone();
    }
    let Some(version) = &spec.version else { return settings.default_image.clone() };
    let named = settings.default_image.split('@').next().unwrap_or_default();
    // A colon before the last slash is a registry's port.
    let path = named.rfind('/').map_or(0, |slash| slash + 1);
    let repository = named[path..].find(':').map_or(named, |colon| &named[..path + colon]);
    format!("{repository}:{version}")
}

/// Secret with the certificate that members show to clients.
pub fn client_secret(object: &MetaStore) -> Option<String> {
    let tls = &object.spec.tls.client;
    match tls.mode {
        TlsMode::None => None,
        TlsMode::SelfSigned | TlsMode::CertManager => Some(format!("{}-server-tls", name(object))),
        TlsMode::Secret => tls.secret_name.clone(),
    }
}

/// Secret with the certificate that members show to each other.
pub fn peer_secret(object: &MetaStore) -> Option<String> {
    let tls = &object.spec.tls.peer;
    match tls.mode {
        TlsMode::None => None,
        TlsMode::SelfSigned | TlsMode::CertManager => Some(format!("{}-peer-tls", name(object))),
        TlsMode::Secret => tls.secret_name.clone(),
    }
}

/// Secret with the certificate that the operator shows to members, and the authorities it trusts.
pub fn operator_secret(object: &MetaStore) -> Option<String> {
    let tls = &object.spec.tls.client;
    match tls.mode {
        TlsMode::None => None,
        TlsMode::SelfSigned | TlsMode::CertManager => {
            Some(format!("{}-operator-tls", name(object)))
        }
        TlsMode::Secret if tls.client_auth => tls.operator_secret_name.clone(),
        // Nobody is asked for a certificate; what is to be trusted stands beside the members' own.
        TlsMode::Secret => tls.secret_name.clone(),
    }
}

/// Secret with a certificate ready for clients.
pub fn user_secret(object: &MetaStore) -> Option<String> {
    match object.spec.tls.client.mode {
        TlsMode::None | TlsMode::Secret => None,
        TlsMode::SelfSigned | TlsMode::CertManager => Some(format!("{}-client-tls", name(object))),
    }
}

/// Puts the hash of an object into it.
pub(crate) fn mark_applied(mut value: Value) -> Value {
    let hash = hash(&value);
    value["metadata"]["annotations"][APPLIED_ANNOTATION] = json!(hash);
    value
}

/// Sixteen hexadecimal digits that stay the same as long as the value does.
pub(crate) fn hash(value: &Value) -> String {
    let digest = Sha256::digest(canonical(value).as_bytes());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One text for one value, whatever order its keys came in.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            let fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("{key:?}:{}", canonical(value))).collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        scalar => scalar.to_string(),
    }
}

/// The fields of an object.
pub(crate) fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => unreachable!("not an object: {other}"),
    }
}

/// The uid of the MetaStore that an object says to be of.
pub fn owner_uid(
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
) -> Option<&str> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let ours = |owner: &&OwnerReference| {
        owner.controller == Some(true) && owner.kind == MetaStore::kind(&())
    };
    owners.iter().find(ours).map(|owner| owner.uid.as_str())
}

/// The StatefulSet's kind, for those who handle objects of all kinds alike.
pub fn workload_resource() -> ApiResource {
    ApiResource::erase::<StatefulSet>(&())
}
