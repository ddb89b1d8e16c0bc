//! A real Kubernetes node on this machine, and what MetaStore has to survive on it.
//!
//! Nothing is mocked: kube-apiserver, controller manager, scheduler, kubelet, kube-proxy, containerd,
//! CoreDNS and Helm are the upstream programs. What makes it bearable on a developer's machine is that
//! the whole node is **one process tree in namespaces of its own** (process ids, mounts, network):
//!
//! * the kernel ends every process of it with the first one, so neither a half-failed start nor a
//!   `kill -9` leaves a shim, a container or a mount behind;
//! * no address of the cluster exists outside, so nothing on the machine is in its way;
//! * everything it writes is below one directory, whatever its programs think they write to.
//!
//! [`lifecycle`] is outside: `up`, `down`, and entering the node. [`init`] is the first process inside,
//! [`node`] starts the components and stays with them, [`volumes`] provides storage. For scenarios there
//! are [`tools`] (kubectl and Helm with limits), [`wait`], [`writer`] (a load that knows which of its
//! writes were acknowledged), [`audit`] (who wrote to the API), [`distance`] (between pods),
//! [`injection`] (trouble for one member), [`prometheus`] with [`monitors`] and [`dashboards`] (what is seen of
//! it), and [`scenarios`].

pub mod audit;
pub mod cgroup;
pub mod command;
pub mod dashboards;
pub mod distance;
pub mod identities;
pub mod image;
pub mod init;
pub mod injection;
pub mod lifecycle;
pub mod monitors;
pub mod node;
pub mod places;
pub mod process;
pub mod prometheus;
pub mod scenarios;
pub mod settings;
pub mod tools;
pub mod volumes;
pub mod wait;
pub mod writer;
