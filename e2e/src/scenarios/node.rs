//! The node itself: everything the other scenarios take for granted, shown with three members that plain
//! manifests found, without the operator.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::Config;
use serde_json::{Value, json};

use super::{Cluster, SERVER_IMAGE};
use crate::image::ETCDCTL_IMAGE;
use crate::settings::VOLUMES_DIR;
use crate::wait::{Seen, until};
use crate::writer::{Writer, judge};

const MEMBERS: usize = 3;
/// From the manifests to three ready pods, images present.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// For storage to follow a claim.
const STORAGE_LIMIT: Duration = Duration::from_secs(60);
/// The leader's pod is deleted: three election timeouts of a second.
const LEADER_LOST_BUDGET: Duration = Duration::from_secs(3);
const WORKERS: usize = 4;

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    cluster.kubectl.apply(&manifests(&cluster.namespace).to_string())?;
    let took = ready(cluster, "m", MEMBERS)?;
    cluster.ok(&format!("three members from plain manifests are ready after {took:.1} s"));

    ready(cluster, "ctl", 1)?;
    inside(cluster)?;
    pod_security(cluster)?;
    leader_deleted(cluster)?;
    storage(cluster)
}

/// Waits until a StatefulSet's pods are ready; answers with the seconds.
fn ready(cluster: &Cluster, name: &str, replicas: usize) -> Result<f64> {
    let what = format!("{name} with {replicas} ready");
    let ((), took) = until(&what, READY_LIMIT, || {
        let status = &cluster.kubectl.json(&["statefulset", name])?["status"];
        let count = status["readyReplicas"].as_u64().unwrap_or(0);
        let seen = status["observedGeneration"].as_u64().unwrap_or(0);
        Ok(match count == replicas as u64 && seen > 0 {
            true => Seen::Done(()),
            false => Seen::NotYet(format!("{count} ready")),
        })
    })?;
    Ok(took.as_secs_f64())
}

fn etcdctl(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let service = format!("--endpoints=http://clients.{}.svc:2379", cluster.namespace);
    cluster.kubectl.exec("ctl-0", &[&["/etcdctl", &service], words].concat())
}

/// etcdctl in a pod, through a service's name and address.
fn inside(cluster: &Cluster) -> Result<()> {
    etcdctl(cluster, &["put", "greeting", "hello"])?;
    let said = etcdctl(cluster, &["get", "greeting", "--print-value-only"])?;
    ensure!(said.trim() == "hello", "etcdctl get said {said:?}");
    cluster.ok("etcdctl in a pod writes and reads through the service's name");

    let said = etcdctl(cluster, &["member", "list"])?;
    ensure!(said.lines().filter(|line| line.contains("started")).count() == MEMBERS, "{said}");
    let said = etcdctl(cluster, &["endpoint", "health", "--cluster"])?;
    ensure!(said.lines().count() <= MEMBERS, "{said}");
    cluster.ok("each member is healthy under the name of its pod");

    let said = cluster.kubectl.run(&["logs", "m-0"])?;
    ensure!(!said.is_empty(), "kubectl logs shows nothing");
    cluster.ok("kubectl shows a member's log");
    Ok(())
}

fn pod_security(cluster: &Cluster) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "root" },
        "spec": { "containers": [{ "name": "root", "image": ETCDCTL_IMAGE }] },
    });
    let output = cluster.kubectl.try_run(&["apply", "-f", "-"], &pod.to_string())?;
    let refused = output.stderr.contains("violates PodSecurity \"restricted:latest\"");
    ensure!(!output.status.success() && refused, "{output:?}");
    cluster.ok("a pod without restrictions is refused, the members' are not");
    Ok(())
}

/// Endpoints by pod, as clients are advised to have them.
fn endpoints(cluster: &Cluster) -> Vec<String> {
    (0..MEMBERS).map(|n| format!("http://m-{n}.m.{}.svc:2379", cluster.namespace)).collect()
}

fn leader(cluster: &Cluster) -> Result<String> {
    let endpoints = format!("--endpoints={}", endpoints(cluster).join(","));
    let words = ["/etcdctl", &endpoints, "endpoint", "status", "-w", "json"];
    let said = cluster.kubectl.exec("ctl-0", &words)?;
    let all: Value = serde_json::from_str(&said).context("etcdctl endpoint status")?;
    let leads =
        |member: &&Value| member["Status"]["leader"] == member["Status"]["header"]["member_id"];
    let found = all.as_array().and_then(|all| all.iter().find(leads));
    let endpoint = found.and_then(|member| member["Endpoint"].as_str()).context("no leader")?;
    let host = endpoint.trim_start_matches("http://");
    Ok(host.split('.').next().unwrap_or_default().to_owned())
}

fn leader_deleted(cluster: &Cluster) -> Result<()> {
    let endpoints = endpoints(cluster);
    let config = Config::new(&endpoints);
    let writer = Writer::start(&config, &endpoints, "writer/", WORKERS)?;
    until("the first writes", READY_LIMIT, || {
        let count = writer.acknowledged();
        Ok(if count > 100 { Seen::Done(()) } else { Seen::NotYet(format!("{count} writes")) })
    })?;
    let leader = leader(cluster)?;
    let before = cluster.kubectl.json(&["pod", &leader])?["metadata"]["uid"].clone();
    let deleted = Instant::now();
    cluster.kubectl.run_within(READY_LIMIT, &["delete", "pod", &leader])?;
    until(&format!("{leader} is another pod"), READY_LIMIT, || {
        let uid = cluster.kubectl.json(&["pod", &leader])?["metadata"]["uid"].clone();
        Ok(if uid == before { Seen::NotYet("the old one".into()) } else { Seen::Done(()) })
    })?;
    ready(cluster, "m", MEMBERS)?;
    let outage = writer.outage_since(deleted);
    let written = writer.stop();
    judge(&format!("{}: the leader's pod deleted", cluster.name), outage, LEADER_LOST_BUDGET)?;
    let count = written.verify(&config)?;
    let (failures, last) = written.failures();
    cluster.ok(&format!("all {count} acknowledged writes are there ({failures} failed: {last})"));
    Ok(())
}

/// Claims: kept with the pod gone, empty after they were deleted, enlarged on request.
fn storage(cluster: &Cluster) -> Result<()> {
    let claim = "data-single-0";
    let single = ["/etcdctl", "--endpoints=http://single-0.single:2379"];
    let put =
        |key: &str| cluster.kubectl.exec("ctl-0", &[&single[..], &["put", key, "x"]].concat());
    let keys = || {
        let words = [&single[..], &["get", "", "--prefix", "--keys-only"]].concat();
        cluster.kubectl.exec("ctl-0", &words)
    };
    cluster.kubectl.apply(
        &json!({ "apiVersion": "v1", "kind": "List", "items": [
        headless("single"), members("single", 1, &cluster.namespace),
    ] })
        .to_string(),
    )?;
    ready(cluster, "single", 1)?;
    put("kept")?;

    let volume = |claim: &str| -> Result<String> {
        let claim = cluster.kubectl.json(&["pvc", claim])?;
        Ok(claim["spec"]["volumeName"].as_str().context("no volume yet")?.to_owned())
    };
    let first = volume(claim)?;
    cluster.kubectl.run_within(READY_LIMIT, &["delete", "pod", "single-0"])?;
    ready(cluster, "single", 1)?;
    ensure!(keys()?.contains("kept") && volume(claim)? == first, "the volume did not stay");
    cluster.ok("a volume stays with its claim when the pod goes");

    let spec = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } }).to_string();
    cluster.kubectl.run(&["patch", "pvc", claim, "--patch", &spec])?;
    until("the larger claim", STORAGE_LIMIT, || {
        let capacity = &cluster.kubectl.json(&["pvc", claim])?["status"]["capacity"]["storage"];
        let done = capacity == "2Gi";
        Ok(if done { Seen::Done(()) } else { Seen::NotYet(capacity.to_string()) })
    })?;
    cluster.ok("a claim grows on request");

    cluster.kubectl.run(&["delete", "pvc", claim, "--wait=false"])?;
    cluster.kubectl.run_within(READY_LIMIT, &["delete", "pod", "single-0"])?;
    until("another volume", STORAGE_LIMIT, || {
        let now = volume(claim)?;
        Ok(if now == first { Seen::NotYet("the old one".into()) } else { Seen::Done(()) })
    })?;
    ready(cluster, "single", 1)?;
    ensure!(!keys()?.contains("kept"), "the new volume holds old data");
    let (_, took) = until("the old directory is gone", STORAGE_LIMIT, || {
        let there = Path::new(VOLUMES_DIR).join(&first).exists();
        Ok(if there { Seen::NotYet("still there".into()) } else { Seen::Done(()) })
    })?;
    let left = fs::read_dir(VOLUMES_DIR)?.count();
    ensure!(left >= MEMBERS, "only {left} volumes are left");
    cluster.ok(&format!("a deleted claim's successor is empty; the old data went in {took:.1?}"));
    Ok(())
}

fn headless(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": true,
            "selector": { "app": name },
            "ports": [{ "name": "client", "port": 2379 }, { "name": "peer", "port": 2380 }],
        },
    })
}

fn restricted() -> (Value, Value) {
    let pod = json!({
        "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    let container = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    });
    (pod, container)
}

fn members(name: &str, replicas: usize, namespace: &str) -> Value {
    let (pod, container) = restricted();
    let host = |n: &str| format!("{name}-{n}.{name}.{namespace}.svc");
    let founders: Vec<_> =
        (0..replicas).map(|n| format!("{name}-{n}=http://{}:2380", host(&n.to_string()))).collect();
    let own = format!("$(POD_NAME).{name}.{namespace}.svc");
    let probe = |path: &str, failures: u32| json!({ "httpGet": { "path": path, "port": 2381 }, "periodSeconds": 1, "failureThreshold": failures });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
        "spec": {
            "serviceName": name, "replicas": replicas, "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "securityContext": pod,
                    "automountServiceAccountToken": false,
                    "terminationGracePeriodSeconds": 30,
                    "containers": [{
                        "name": "metastore", "image": SERVER_IMAGE, "imagePullPolicy": "IfNotPresent",
                        "securityContext": container,
                        "env": [{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
                        "args": [
                            "--name=$(POD_NAME)",
                            "--data-dir=/var/lib/metastore/data",
                            "--listen-client-urls=http://0.0.0.0:2379",
                            "--listen-peer-urls=http://0.0.0.0:2380",
                            "--listen-metrics-urls=http://0.0.0.0:2381",
                            format!("--advertise-client-urls=http://{own}:2379"),
                            format!("--initial-advertise-peer-urls=http://{own}:2380"),
                            format!("--initial-cluster={}", founders.join(",")),
                        ],
                        "startupProbe": probe("/livez", 60),
                        "livenessProbe": probe("/livez", 30),
                        "readinessProbe": probe("/readyz", 3),
                        "volumeMounts": [{ "name": "data", "mountPath": "/var/lib/metastore" }],
                    }],
                },
            },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "1Gi" } },
                },
            }],
        },
    })
}

fn manifests(namespace: &str) -> Value {
    let (pod, container) = restricted();
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        headless("m"),
        members("m", MEMBERS, namespace),
        {
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "clients" },
            "spec": { "selector": { "app": "m" }, "ports": [{ "name": "client", "port": 2379 }] },
        },
        {
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "ctl" },
            "spec": {
                "serviceName": "ctl", "replicas": 1,
                "selector": { "matchLabels": { "app": "ctl" } },
                "template": {
                    "metadata": { "labels": { "app": "ctl" } },
                    "spec": {
                        "securityContext": pod,
                        "terminationGracePeriodSeconds": 0,
                        "containers": [{
                            "name": "etcdctl", "image": ETCDCTL_IMAGE,
                            "imagePullPolicy": "IfNotPresent", "securityContext": container,
                        }],
                    },
                },
            },
        },
    ] })
}
