//! What each component is told: command lines and configuration files.
//!
//! Flags that only save work on a machine with two cores say so; the rest is what a cluster needs.

use serde_json::json;

use crate::identities::path;
use crate::image::PAUSE_IMAGE;
use crate::places::{
    CLUSTER_DOMAIN, NODE_ADDRESS, NODE_DIR, NODE_NAME, POD_NETWORK, SERVICE_NETWORK,
};

/// Where Debian puts the network plugins.
pub const CNI_PROGRAMS: &str = "/usr/lib/cni";
/// The storage class there is, and the default.
pub const STORAGE_CLASS: &str = "local";
/// Who provides it: [`crate::volumes`].
pub const PROVISIONER: &str = "e2e.metastore/directory";
/// Of the volumes' directories.
pub const VOLUMES_DIR: &str = "/run/node/volumes";
/// Class of volumes that are file systems of their own, so that one can be made to stand still.
pub const DISK_CLASS: &str = "disk";
/// Of the files that those file systems are in.
pub const DISKS_DIR: &str = "/run/node/disks";
/// containerd's door.
pub const CONTAINERD_SOCKET: &str = "/run/node/containerd.sock";
/// Answers 200 once CoreDNS knows the cluster.
pub const DNS_READY: &str = "192.0.2.1:8181";

fn flags(all: &[(&str, String)]) -> Vec<String> {
    all.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// etcd, for Kubernetes alone. It need not survive the machine, so it does not wait for the disk.
pub fn etcd() -> Vec<String> {
    let client = "http://127.0.0.1:2379".to_owned();
    let peer = "http://127.0.0.1:2380".to_owned();
    let mut all = flags(&[
        ("name", NODE_NAME.into()),
        ("data-dir", format!("{NODE_DIR}/etcd")),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("{NODE_NAME}={peer}")),
    ]);
    all.push("--unsafe-no-fsync".into());
    all
}

/// kube-apiserver.
pub fn api_server() -> Vec<String> {
    flags(&[
        ("etcd-servers", "http://127.0.0.1:2379".into()),
        ("advertise-address", NODE_ADDRESS.into()),
        ("secure-port", "6443".into()),
        ("service-cluster-ip-range", SERVICE_NETWORK.into()),
        ("tls-cert-file", path("api-server.crt")),
        ("tls-private-key-file", path("api-server.key")),
        ("client-ca-file", path("authority.crt")),
        ("kubelet-preferred-address-types", "InternalIP".into()),
        ("kubelet-client-certificate", path("api-server-client.crt")),
        ("kubelet-client-key", path("api-server-client.key")),
        ("kubelet-certificate-authority", path("authority.crt")),
        ("service-account-key-file", path("service-accounts.pub")),
        ("service-account-signing-key-file", path("service-accounts.key")),
        ("service-account-issuer", format!("https://kubernetes.default.svc.{CLUSTER_DOMAIN}")),
        ("authorization-mode", "Node,RBAC".into()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("allow-privileged", "true".into()),
        ("audit-policy-file", format!("{NODE_DIR}/settings/audit.json")),
        ("audit-log-path", format!("{NODE_DIR}/log/audit.log")),
        ("profiling", "false".into()),
    ])
}

/// Who writes what is kept, for scenarios that count a program's writes; the node's own parts are not.
pub fn audit() -> String {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "verbs": ["get", "list", "watch"] },
            { "level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"] },
            { "level": "None", "users": [
                "system:apiserver", "system:kube-controller-manager", "system:kube-scheduler",
                "system:kube-proxy",
            ] },
            { "level": "Metadata" },
        ],
    })
    .to_string()
}

/// kube-controller-manager: the only one, so without an election.
pub fn controller_manager() -> Vec<String> {
    flags(&[
        ("kubeconfig", path("controller-manager.kubeconfig")),
        ("bind-address", "127.0.0.1".into()),
        ("root-ca-file", path("authority.crt")),
        ("service-account-private-key-file", path("service-accounts.key")),
        ("cluster-signing-cert-file", path("authority.crt")),
        ("cluster-signing-key-file", path("authority.key")),
        ("flex-volume-plugin-dir", format!("{NODE_DIR}/kubelet/plugins")),
        ("use-service-account-credentials", "true".into()),
        ("leader-elect", "false".into()),
        ("profiling", "false".into()),
    ])
}

/// kube-scheduler: the only one, so without an election.
pub fn scheduler() -> Vec<String> {
    flags(&[
        ("kubeconfig", path("scheduler.kubeconfig")),
        ("bind-address", "127.0.0.1".into()),
        ("leader-elect", "false".into()),
        ("profiling", "false".into()),
    ])
}

/// kubelet.
pub fn kubelet() -> Vec<String> {
    flags(&[
        ("config", format!("{NODE_DIR}/settings/kubelet.json")),
        ("kubeconfig", path("kubelet.kubeconfig")),
        ("root-dir", format!("{NODE_DIR}/kubelet")),
        ("cert-dir", format!("{NODE_DIR}/kubelet/certificates")),
        ("hostname-override", NODE_NAME.into()),
        ("node-ip", NODE_ADDRESS.into()),
    ])
}

/// Of the kubelet. `cgroup` is the node's control group.
pub fn kubelet_file(cgroup: &str) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}"),
        "failSwapOn": false,
        "address": NODE_ADDRESS,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": path("authority.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": path("kubelet-server.crt"),
        "tlsPrivateKeyFile": path("kubelet-server.key"),
        "clusterDNS": [NODE_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": format!("{NODE_DIR}/settings/resolv-pods.conf"),
        "podLogsDir": format!("{NODE_DIR}/log/pods"),
        "volumePluginDir": format!("{NODE_DIR}/kubelet/plugins"),
        // A machine may lack the right to lower these.
        "oomScoreAdj": 0,
        // Images came from files and could not be fetched again; a full disk is the developer's to see.
        "imageGCHighThresholdPercent": 100,
        "imageMaximumGCAge": "0s",
        "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "imagefs.inodesFree": "0%" },
        "maxPods": 110,
        // How soon a changed Secret is in its pods; a minute would be most of a scenario.
        "syncFrequency": "5s",
        // The API server's load, not the kubelet's, is what would bound a scenario.
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
    })
    .to_string()
}

/// For pods that do without the cluster's DNS: there is nobody to ask outside.
pub fn resolv_pods() -> String {
    "options ndots:1\n".into()
}

/// For programs on the node, scenarios among them: names of the cluster, and no others.
pub fn resolv_node() -> String {
    let domain = CLUSTER_DOMAIN;
    format!(
        "nameserver {NODE_ADDRESS}\nsearch svc.{domain} {domain}\n\
         options ndots:4 timeout:1 attempts:2\n"
    )
}

/// kube-proxy.
pub fn proxy() -> Vec<String> {
    flags(&[("config", format!("{NODE_DIR}/settings/proxy.json"))])
}

/// Of kube-proxy. It may not set conntrack's limits, which are the machine's.
pub fn proxy_file() -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": { "kubeconfig": path("proxy.kubeconfig") },
        "hostnameOverride": NODE_NAME,
        "bindAddress": NODE_ADDRESS,
        "mode": "iptables",
        "clusterCIDR": POD_NETWORK,
        "oomScoreAdj": 0,
        "iptables": { "minSyncPeriod": "100ms" },
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s",
        },
    })
    .to_string()
}

/// CoreDNS.
pub fn dns() -> Vec<String> {
    vec!["-conf".into(), format!("{NODE_DIR}/settings/Corefile")]
}

/// Of CoreDNS: the cluster's names as everywhere, and no others.
pub fn corefile() -> String {
    format!(
        "{CLUSTER_DOMAIN}:53 in-addr.arpa:53 {{\n    bind {NODE_ADDRESS}\n    errors\n    \
         ready {DNS_READY}\n    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{\n        \
         kubeconfig {}\n        pods insecure\n        ttl 5\n    }}\n}}\n",
        path("dns.kubeconfig")
    )
}

/// containerd.
pub fn containerd() -> Vec<String> {
    vec!["--config".into(), format!("{NODE_DIR}/settings/containerd.toml")]
}

/// Of containerd. Without `restrict_oom_score_adj` every sandbox fails on a machine that lacks
/// CAP_SYS_RESOURCE, with "can't get final child's PID from pipe: EOF".
pub fn containerd_file() -> String {
    format!(
        r#"version = 2
root = "{NODE_DIR}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PROGRAMS}"
conf_dir = "{NODE_DIR}/settings/cni"
"#
    )
}

/// Of pods' networks: a pair of ends for each pod, and everything routed. Traffic between pods of one
/// node passes the node's own tables so, which on a bridge depends on a kernel module.
pub fn cni() -> String {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": POD_NETWORK }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                    "dataDir": format!("{NODE_DIR}/addresses"),
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}

/// What the cluster has from its first moment: rights of CoreDNS, and a storage class.
pub fn manifests() -> String {
    let read = json!(["list", "watch"]);
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": "system:dns" },
            "rules": [
                { "apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": read },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read },
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": "system:dns" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:dns" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:dns" }],
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "annotations": { "storageclass.kubernetes.io/is-default-class": "true" },
            },
            "provisioner": PROVISIONER,
            "volumeBindingMode": "WaitForFirstConsumer",
            "allowVolumeExpansion": true,
            "reclaimPolicy": "Delete",
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": { "name": DISK_CLASS },
            "provisioner": PROVISIONER,
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
    ] })
    .to_string()
}
