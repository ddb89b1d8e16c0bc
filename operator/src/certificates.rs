//! Certificates.

use crate::crd::MetaStore;
use crate::resources::{Settings, name, namespace, peer_service};

/// Addresses that the certificates of members hold besides names.
pub const MEMBER_ADDRESSES: [&str; 2] = ["127.0.0.1", "::1"];
/// Seconds until a Secret that was changed has reached all pods that mount it: the kubelet looks after
/// a minute and up to a half more, and members read files again within seconds.
pub const SPREAD_S: i64 = 180;

/// How long a rotation of authorities waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// After every change, before the next one builds on it.
    pub spread_s: i64,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { spread_s: SPREAD_S }
    }
}

/// Names under which members are reached.
pub fn member_names(object: &MetaStore, settings: &Settings) -> Vec<String> {
    let (name, namespace, peers) = (name(object), namespace(object), peer_service(object));
    let domain = &settings.cluster_domain;
    vec![
        format!("*.{peers}.{namespace}.svc.{domain}"),
        format!("*.{peers}.{namespace}.svc"),
        name.clone(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.{domain}"),
        "localhost".to_owned(),
    ]
}
