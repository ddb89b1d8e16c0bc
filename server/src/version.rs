//! The versions this program says it is.
//!
//! Clients, kubeadm and the Kubernetes API server decide by etcd's version what a server can do, so
//! a member names the release of etcd whose API it serves; its own version stands beside it.

/// The release of etcd whose API is served. Kubernetes asks for 3.5.24 or later.
pub const ETCD_VERSION: &str = "3.6.8";
/// The version of the cluster etcd's members would agree on.
pub const ETCD_CLUSTER_VERSION: &str = "3.6.0";
/// The version of etcd's storage schema that goes with it.
pub const ETCD_STORAGE_VERSION: &str = "3.6.0";
/// This program's own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The text of `--version`. Scripts parse its first line.
pub fn report() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\nMetaStore Version: {VERSION}\nOS/Arch: {}/{}\n",
        std::env::consts::OS,
        std::env::consts::ARCH
    )
}
