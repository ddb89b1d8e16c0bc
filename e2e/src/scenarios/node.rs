//! The node itself: everything the other scenarios take for granted, shown with three members that plain
//! manifests found, without the operator.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::Config;
use serde_json::{Value, json};

use super::pods::{self, Etcdctl, Restricted};
use super::{Cluster, SERVER_IMAGE};
use crate::audit;
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
/// Writes before anything is done to the members.
const WRITES_BEFORE: usize = 200;

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    cluster.kubectl.apply(&manifests(&cluster.namespace).to_string())?;
    let took = pods::ready(cluster, "app=m", MEMBERS, READY_LIMIT)?.as_secs_f64();
    cluster.ok(&format!("three members from plain manifests are ready after {took:.1} s"));

    let etcdctl = Etcdctl::start(cluster)?;
    inside(cluster, &etcdctl)?;
    rights(cluster)?;
    leader_deleted(cluster, &etcdctl)?;
    storage(cluster, &etcdctl)
}

/// etcdctl in a pod, through a service's name and address.
fn inside(cluster: &Cluster, etcdctl: &Etcdctl<'_>) -> Result<()> {
    let service = [format!("http://clients.{}.svc:2379", cluster.namespace)];
    etcdctl.run(&service, &["put", "greeting", "hello"])?;
    let said = etcdctl.run(&service, &["get", "greeting", "--print-value-only"])?;
    ensure!(said.trim() == "hello", "etcdctl get said {said:?}");
    cluster.ok("etcdctl in a pod writes and reads through the service's name");

    let said = etcdctl.run(&service, &["member", "list"])?;
    ensure!(said.lines().filter(|line| line.contains("started")).count() == MEMBERS, "{said}");
    etcdctl.run(&service, &["endpoint", "health", "--cluster"])?;
    cluster.ok("each member is healthy under the name of its pod");

    let said = cluster.kubectl.run(&["logs", "m-0"])?;
    ensure!(!said.is_empty(), "kubectl logs shows nothing");
    cluster.ok("kubectl shows a member's log");
    Ok(())
}

/// Pod security is enforced, and writes to the API are on record.
fn rights(cluster: &Cluster) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "root" },
        "spec": { "containers": [{ "name": "root", "image": ETCDCTL_IMAGE }] },
    });
    let output = cluster.kubectl.try_run(&["apply", "-f", "-"], &pod.to_string())?;
    let refused = output.stderr.contains("violates PodSecurity \"restricted:latest\"");
    ensure!(!output.status.success() && refused, "{output:?}");
    cluster.ok("a pod without restrictions is refused, the members' are not");

    let mark = audit::mark()?;
    cluster.kubectl.run(&["get", "pods"])?;
    cluster.kubectl.run(&["label", "pod", "m-0", "seen=yes"])?;
    let expected = format!("patch pods {}/m-0", cluster.namespace);
    let writes = audit::writes_since(mark, "admin")?;
    ensure!(writes.contains(&expected), "{expected} is not among {writes:?}");
    let reads = writes.iter().filter(|write| write.starts_with("get") || write.starts_with("list"));
    ensure!(reads.count() == 0, "{writes:?}");
    cluster.ok("writes to the API are on record, by user; reads are not");
    Ok(())
}

/// Endpoints by pod, as clients are advised to have them.
fn endpoints(cluster: &Cluster) -> Vec<String> {
    (0..MEMBERS).map(|n| format!("http://m-{n}.m.{}.svc:2379", cluster.namespace)).collect()
}

fn leader_deleted(cluster: &Cluster, etcdctl: &Etcdctl<'_>) -> Result<()> {
    let endpoints = endpoints(cluster);
    let config = Config::new(&endpoints);
    let writer = Writer::start(&config, &endpoints, "writer/", WORKERS)?;
    writer.has_written(WRITES_BEFORE, READY_LIMIT)?;
    let leader = etcdctl.leader(&endpoints)?;
    let deleted = Instant::now();
    // It comes back only when the pod is gone.
    cluster.kubectl.run_within(READY_LIMIT, &["delete", "pod", &leader])?;
    pods::ready(cluster, "app=m", MEMBERS, READY_LIMIT)?;
    let outage = writer.outage_since(deleted);
    let written = writer.stop();
    judge(&format!("{}: the leader's pod deleted", cluster.name), outage, LEADER_LOST_BUDGET)?;
    cluster.kept(&written, &config)?;
    Ok(())
}

/// Claims: kept with the pod gone, empty after they were deleted, enlarged on request.
fn storage(cluster: &Cluster, etcdctl: &Etcdctl<'_>) -> Result<()> {
    let claim = "data-single-0";
    let single = [format!("http://single-0.single.{}.svc:2379", cluster.namespace)];
    let keys = || etcdctl.run(&single, &["get", "", "--prefix", "--keys-only"]);
    let items = [headless("single"), members("single", 1, &cluster.namespace)];
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    cluster.kubectl.apply(&list.to_string())?;
    pods::ready(cluster, "app=single", 1, READY_LIMIT)?;
    etcdctl.run(&single, &["put", "kept", "x"])?;

    let volume = |claim: &str| -> Result<String> {
        let claim = cluster.kubectl.json(&["pvc", claim])?;
        Ok(claim["spec"]["volumeName"].as_str().context("no volume yet")?.to_owned())
    };
    let first = volume(claim)?;
    cluster.kubectl.run_within(READY_LIMIT, &["delete", "pod", "single-0"])?;
    pods::ready(cluster, "app=single", 1, READY_LIMIT)?;
    ensure!(keys()?.contains("kept") && volume(claim)? == first, "the volume did not stay");
    cluster.ok("a volume stays with its claim when the pod goes");

    let spec = json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } });
    cluster.kubectl.run(&["patch", "pvc", claim, "--patch", &spec.to_string()])?;
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
    pods::ready(cluster, "app=single", 1, READY_LIMIT)?;
    ensure!(!keys()?.contains("kept"), "the new volume holds old data");
    until("the old directory is gone", STORAGE_LIMIT, || {
        let there = Path::new(VOLUMES_DIR).join(&first).exists();
        Ok(if there { Seen::NotYet("still there".into()) } else { Seen::Done(()) })
    })?;
    cluster.ok("a deleted claim's successor is empty, and the old data are gone");
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

fn members(name: &str, replicas: usize, namespace: &str) -> Value {
    let Restricted { pod, container } = pods::restricted();
    let host = |pod: &str| format!("{pod}.{name}.{namespace}.svc");
    let founder = |n| format!("{name}-{n}=http://{}:2380", host(&format!("{name}-{n}")));
    let founders: Vec<_> = (0..replicas).map(founder).collect();
    let own = host("$(POD_NAME)");
    let pod_name = json!({ "fieldRef": { "fieldPath": "metadata.name" } });
    let probe = |path: &str, failures: u32| {
        let get = json!({ "path": path, "port": 2381 });
        json!({ "httpGet": get, "periodSeconds": 1, "failureThreshold": failures })
    };
    let container = json!({
        "name": "metastore", "image": SERVER_IMAGE, "imagePullPolicy": "IfNotPresent",
        "securityContext": container,
        "env": [{ "name": "POD_NAME", "valueFrom": pod_name }],
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
    });
    let template = json!({
        "metadata": { "labels": { "app": name } },
        "spec": {
            "securityContext": pod,
            "automountServiceAccountToken": false,
            "containers": [container],
        },
    });
    let claim = json!({
        "metadata": { "name": "data" },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
        },
    });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": name },
        "spec": {
            "serviceName": name, "replicas": replicas, "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": name } },
            "template": template,
            "volumeClaimTemplates": [claim],
        },
    })
}

fn manifests(namespace: &str) -> Value {
    let ports = json!([{ "name": "client", "port": 2379 }]);
    let clients = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "clients" },
        "spec": { "selector": { "app": "m" }, "ports": ports },
    });
    let items = [headless("m"), members("m", MEMBERS, namespace), clients];
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}
