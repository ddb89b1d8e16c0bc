//! What scenarios need of pods again and again: manifests that the strictest standard takes, waiting
//! for readiness, and etcdctl inside the cluster.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Cluster;
use crate::image::ETCDCTL_IMAGE;
use crate::wait::{Seen, until};

/// For a pod whose image is there.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Waits until so many pods are ready and no others exist; answers with how long it took.
///
/// It looks at the pods themselves: counts in the status of what owns them lag behind.
pub(super) fn ready(
    cluster: &Cluster,
    selector: &str,
    count: usize,
    limit: Duration,
) -> Result<Duration> {
    let what = format!("{count} ready pods of {selector}");
    let ((), took) = until(&what, limit, || {
        let pods = cluster.kubectl.json(&["pods", "--selector", selector])?;
        let pods = pods["items"].as_array().context("a list of pods")?;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let done = ready == count && pods.len() == count;
        let state = || format!("{ready} of {}", pods.len());
        Ok(if done { Seen::Done(()) } else { Seen::NotYet(state()) })
    })?;
    Ok(took)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|one| one["type"] == "Ready").any(|one| one["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Security contexts of a pod and of its containers.
pub(super) struct Restricted {
    pub(super) pod: Value,
    pub(super) container: Value,
}

/// Those that the standard "restricted" asks for, as the images' user.
pub(super) fn restricted() -> Restricted {
    Restricted {
        pod: json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": { "type": "RuntimeDefault" },
        }),
        container: json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        }),
    }
}

/// etcdctl in a pod of the scenario's namespace.
pub(super) struct Etcdctl<'a> {
    cluster: &'a Cluster,
}

impl<'a> Etcdctl<'a> {
    /// Starts the pod and waits for it.
    pub(super) fn start(cluster: &'a Cluster) -> Result<Etcdctl<'a>> {
        let Restricted { pod, container } = restricted();
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "etcdctl", "labels": { "app": "etcdctl" } },
            "spec": {
                "securityContext": pod,
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "etcdctl", "image": ETCDCTL_IMAGE,
                    "imagePullPolicy": "IfNotPresent", "securityContext": container,
                }],
            },
        });
        cluster.kubectl.apply(&manifest.to_string())?;
        ready(cluster, "app=etcdctl", 1, START_LIMIT)?;
        Ok(Etcdctl { cluster })
    }

    /// `etcdctl --endpoints=... WORDS`.
    pub(super) fn run(&self, endpoints: &[String], words: &[&str]) -> Result<String> {
        let endpoints = format!("--endpoints={}", endpoints.join(","));
        self.cluster.kubectl.exec("etcdctl", &[&["/etcdctl", &endpoints], words].concat())
    }

    /// The first label of the host name of the endpoint that leads: with pods' names, the pod.
    pub(super) fn leader(&self, endpoints: &[String]) -> Result<String> {
        let said = self.run(endpoints, &["endpoint", "status", "-w", "json"])?;
        leader_of(&said)
    }
}

fn leader_of(said: &str) -> Result<String> {
    let all: Value = serde_json::from_str(said).context("etcdctl endpoint status")?;
    let leads = |one: &&Value| {
        let status = &one["Status"];
        status["leader"] == status["header"]["member_id"] && !status["leader"].is_null()
    };
    let found = all.as_array().and_then(|all| all.iter().find(leads));
    let endpoint = found.and_then(|one| one["Endpoint"].as_str()).context("no leader")?;
    let host = endpoint.rsplit("//").next().unwrap_or_default();
    Ok(host.split(['.', ':']).next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_named_by_its_pod() {
        let status = |id: u64| json!({ "header": { "member_id": id }, "leader": 7 });
        let said = json!([
            { "Endpoint": "http://m-0.m.n.svc:2379", "Status": status(6) },
            { "Endpoint": "http://m-1.m.n.svc:2379", "Status": status(7) },
        ]);
        assert_eq!(leader_of(&said.to_string()).unwrap(), "m-1");
        assert!(leader_of("[]").is_err());
    }

    #[test]
    fn a_pod_that_is_leaving_is_not_ready() {
        let mut pod = json!({
            "metadata": {}, "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        assert!(is_ready(&pod));
        pod["metadata"]["deletionTimestamp"] = json!("now");
        assert!(!is_ready(&pod));
    }
}
