//! A snapshot file on a volume becomes a new cluster.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::metastore::{STEP_LIMIT, Store, install};
use super::pods::{Etcdctl, Restricted, restricted};
use super::{Cluster, SERVER_IMAGE};
use crate::wait::{Seen, until};

const MEMBERS: usize = 3;
const SAVE_LIMIT: Duration = Duration::from_secs(90);

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    install(cluster)?;
    let spec = json!({ "replicas": 1, "storage": { "size": "1Gi", "onDelete": "Delete" } });
    let first = Store::make(cluster, "first", &spec)?;
    first.settled(1, STEP_LIMIT)?;
    let etcdctl = Etcdctl::start(cluster)?;
    let service = [first.service("http")];
    for n in 0..20 {
        etcdctl.run(&service, &["put", &format!("kept/{n:02}"), &format!("value {n}")])?;
    }
    let revision = revision(&etcdctl, &service)?;
    save(cluster, &first)?;
    first.delete()?;
    cluster.ok("a snapshot is saved to a volume, and its cluster deleted");

    let spec = json!({
        "storage": { "size": "1Gi" },
        "restoreFrom": { "claimName": "backups", "path": "first.snap" },
    });
    let second = Store::make(cluster, "second", &spec)?;
    let took = second.settled(MEMBERS, STEP_LIMIT * 2)?.as_secs_f64();
    let service = [second.service("http")];
    let said = etcdctl.run(&service, &["get", "kept/", "--prefix", "--print-value-only"])?;
    ensure!(said.lines().count() == 20 && said.contains("value 19"), "{said}");
    let bumped = self::revision(&etcdctl, &service)?;
    ensure!(bumped >= revision + 1_000_000_000, "revision {bumped} after {revision}");
    cluster.ok(&format!("three members hold what the snapshot held, {took:.1} s"));
    cluster.ok("revisions go on far behind those of the snapshot");
    Ok(())
}

fn revision(etcdctl: &Etcdctl<'_>, service: &[String]) -> Result<i64> {
    let said = etcdctl.run(service, &["get", "nothing", "-w", "json"])?;
    let answer: Value = serde_json::from_str(&said)?;
    Ok(answer["header"]["revision"].as_i64().unwrap_or(0))
}

/// A pod with the server's image saves to a claim, as a user's job would.
fn save(cluster: &Cluster, store: &Store<'_>) -> Result<()> {
    let Restricted { pod, container } = restricted();
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "backups" },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } },
        },
    });
    let endpoint = store.service("http").replace("http://", "");
    let saver = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "saver" },
        "spec": {
            "restartPolicy": "Never", "securityContext": pod, "automountServiceAccountToken": false,
            "containers": [{
                "name": "saver", "image": SERVER_IMAGE, "imagePullPolicy": "IfNotPresent",
                "securityContext": container,
                "command": ["/usr/local/bin/metactl", "--endpoints", endpoint, "snapshot", "save",
                            "/backups/first.snap"],
                "volumeMounts": [{ "name": "backups", "mountPath": "/backups" }],
            }],
            "volumes": [{ "name": "backups", "persistentVolumeClaim": { "claimName": "backups" } }],
        },
    });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [claim, saver] });
    cluster.kubectl.apply(&list.to_string())?;
    until("the snapshot", SAVE_LIMIT, || {
        let phase = cluster.kubectl.json(&["pod", "saver"])?["status"]["phase"].clone();
        ensure!(phase != "Failed", "the pod failed: {}", cluster.kubectl.run(&["logs", "saver"])?);
        Ok(if phase == "Succeeded" { Seen::Done(()) } else { Seen::NotYet(phase.to_string()) })
    })?;
    cluster.kubectl.run(&["delete", "pod", "saver"]).map(drop)
}
