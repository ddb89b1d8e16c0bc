//! Where things are: outside the node below the repository's cache, inside it below [`NODE_DIR`].
//!
//! Inside, paths are short and always the same, because the path of a Unix socket may have no more
//! than 107 bytes and a checkout may lie anywhere.

use std::path::{Path, PathBuf};

/// The state directory, as everything inside the node sees it.
pub const NODE_DIR: &str = "/run/node";
/// The node's name in Kubernetes.
pub const NODE_NAME: &str = "node";
/// The node's own address; it exists only inside. From the block kept for documentation.
pub const NODE_ADDRESS: &str = "192.0.2.1";
/// Addresses of pods.
pub const POD_NETWORK: &str = "10.244.0.0/24";
/// Addresses of services.
pub const SERVICE_NETWORK: &str = "10.96.0.0/16";
/// The API server's address as pods see it: the first of the services'.
pub const API_SERVICE_ADDRESS: &str = "10.96.0.1";
/// Names of services and pods end so.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Directories outside the node.
#[derive(Clone, Debug)]
pub struct Places {
    /// The repository.
    pub root: PathBuf,
    /// Programs, logs and state: `METASTORE_CACHE`, or `.cache` in the repository.
    pub cache: PathBuf,
}

impl Places {
    /// Those of this repository.
    pub fn of_repository() -> Places {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.parent().expect("this package is a folder of the workspace").to_path_buf();
        let cache =
            std::env::var_os("METASTORE_CACHE").map_or_else(|| root.join(".cache"), PathBuf::from);
        let cache = if cache.is_absolute() { cache } else { root.join(cache) };
        Places { root, cache }
    }

    /// A program that `.ci/tools.sh` or `.ci/kubernetes.sh` built.
    pub fn program(&self, name: &str) -> PathBuf {
        self.cache.join("bin").join(name)
    }

    /// Everything the node keeps; all of it but [`Places::log`] goes with `down`.
    pub fn state(&self) -> PathBuf {
        self.cache.join("e2e")
    }

    /// A file for each component, kept until the next `up`.
    pub fn log(&self) -> PathBuf {
        self.state().join("log")
    }

    /// Held by `up` and `down` while they work.
    pub fn lock(&self) -> PathBuf {
        self.cache.join("e2e.lock")
    }

    /// How to reach the API server as its administrator, for kubectl and Helm.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state().join("identities/admin.kubeconfig")
    }

    /// The control group of the node: its own for each state directory.
    pub fn cgroup(&self) -> String {
        // FNV-1a: the same from one release to the next, since `down` has to find what `up` made.
        let path = self.state();
        let bytes = path.as_os_str().as_encoded_bytes();
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("metastore-e2e-{:08x}", hash >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_checkouts_have_two_control_groups_and_each_always_the_same() {
        let at = |root: &str| Places { root: root.into(), cache: format!("{root}/.cache").into() };
        assert_eq!(at("/a").cgroup(), at("/a").cgroup());
        assert_ne!(at("/a").cgroup(), at("/b").cgroup());
        assert_eq!(at("/a").cgroup().len(), "metastore-e2e-".len() + 8);
    }
}
