//! The way of a new user: `helm install`, a MetaStore, a client; what is refused; and silence.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::Cluster;
use super::metastore::{FOUND_BUDGET, OPERATOR_USER, Store, install, system, within_budget};
use super::pods::Etcdctl;
use crate::audit;
use crate::command;
use crate::wait::{Seen, until};

const KEYS: usize = 10_000;
/// Operations in a transaction, as many as the server takes.
const KEYS_PER_TXN: usize = 125;
const TXN_LIMIT: Duration = Duration::from_secs(30);
/// How long nothing may be written. The operator looks about every half minute.
const SILENCE: Duration = Duration::from_secs(40);
const SILENCE_LIMIT: Duration = Duration::from_secs(150);
/// Of a status, until the operator has not written beside it.
const READINGS_MAX: usize = 10;

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    let took = install(cluster)?.as_secs_f64();
    cluster.ok(&format!("helm install brings the operator up, {took:.1} s"));

    let store = Store::make(cluster, "demo", &json!({ "storage": { "size": "1Gi" } }))?;
    let took = store.settled(3, FOUND_BUDGET * 3)?;
    within_budget(
        &format!("{}: from apply to three ready members", cluster.name),
        took,
        FOUND_BUDGET,
    )?;

    let (_, helm) = system(cluster);
    helm.run(&["test", super::metastore::RELEASE])?;
    cluster.ok("helm test passes");
    shown(cluster)?;
    used(cluster, &store)?;
    refused(cluster, &store)?;
    silent(cluster, &store)
}

/// What kubectl shows of it, and the tool inside.
fn shown(cluster: &Cluster) -> Result<()> {
    let table = cluster.kubectl.run(&["get", "metastore", "demo"])?;
    for word in ["READY", "LEADER", "RTT", "ELECTION", "3/3", "demo-"] {
        ensure!(table.contains(word), "{word} is not in {table}");
    }
    cluster.ok("kubectl get shows members, leader and timing");
    let said = cluster.kubectl.exec("demo-0", &["metactl", "status"])?;
    ensure!(said.contains("leader") || said.contains("follower"), "{said}");
    cluster.ok("kubectl exec demo-0 -- metactl status works");
    let events = cluster.kubectl.run(&[
        "get",
        "events",
        "-o",
        "custom-columns=:.involvedObject.kind,:.reason",
    ])?;
    ensure!(events.lines().any(|line| line.starts_with("MetaStore")), "{events}");
    cluster.ok("events tell what was done");
    Ok(())
}

/// etcdctl in a pod writes through the service.
fn used(cluster: &Cluster, store: &Store<'_>) -> Result<()> {
    let etcdctl = Etcdctl::start(cluster)?;
    let service = [store.service("http")];
    let endpoints = format!("--endpoints={}", service[0]);
    let begun = Instant::now();
    for from in (0..KEYS).step_by(KEYS_PER_TXN) {
        let mut input = "\n".to_owned();
        for n in from..from + KEYS_PER_TXN {
            writeln!(input, "put key/{n:05} value-{n}")?;
        }
        input += "\n\n";
        let words = ["exec", "-i", "etcdctl", "--", "/etcdctl", &endpoints, "txn"];
        let mut command = cluster.kubectl.command(&words);
        let said = command::run_well(&mut command, input.as_bytes(), TXN_LIMIT)?;
        ensure!(said.contains("SUCCESS"), "{said}");
    }
    let took = begun.elapsed().as_secs_f64();
    let words = ["get", "key/", "--prefix", "--count-only", "-w", "fields"];
    let said = etcdctl.run(&service, &words)?;
    ensure!(said.contains(&format!("\"Count\" : {KEYS}")), "{said}");
    cluster.ok(&format!("etcdctl in the cluster writes {KEYS} keys, {took:.1} s"));
    Ok(())
}

/// Each with what to do instead.
fn refused(cluster: &Cluster, store: &Store<'_>) -> Result<()> {
    for (spec, says) in [
        (json!({ "replicas": 0 }), "spec.hibernate"),
        (json!({ "replicas": 11 }), "9"),
        (json!({ "storage": { "size": "512Mi" } }), "cannot shrink"),
        (json!({ "raft": { "heartbeatMs": 500, "electionMs": 1000 } }), "at least 5 times"),
        (
            json!({ "raft": { "heartbeatMs": 100, "electionMs": 500 }, "autotune": { "mode": "Auto" } }),
            "set autotune.mode to Observe or Off",
        ),
        (json!({ "tls": { "peer": { "mode": "SelfSigned" } } }), "tls.peer.mode cannot change"),
        (json!({ "tls": { "client": { "mode": "Secret" } } }), "needs secretName"),
        (json!({ "server": { "quota": "plenty" } }), "above zero"),
        (json!({ "restoreFrom": { "claimName": "c", "path": "p" } }), "restoreFrom"),
        (json!({ "storage": { "className": "other" } }), "className cannot change"),
    ] {
        let said = store.refused(&spec)?;
        ensure!(said.contains(says), "{spec}: {said}");
    }
    let words = ["scale", "metastore", "demo", "--replicas=0"];
    let output = cluster.kubectl.try_run(&words, "")?;
    ensure!(!output.status.success() && output.stderr.contains("spec.hibernate"), "{output:?}");
    cluster.ok("a bad spec is refused, with what to do instead");
    Ok(())
}

/// Where nothing changes nothing is written but the lease, and what members measure of the network.
fn silent(cluster: &Cluster, store: &Store<'_>) -> Result<()> {
    let mut begun = Instant::now();
    let mut before = store.object()?["status"].take();
    let mut mark = audit::mark()?;
    let same = until("nothing written by the operator", SILENCE_LIMIT, || {
        let (written, status) = writes_and_status(mark, store)?;
        let other: Vec<_> = written.iter().filter(|write| !write.contains(" leases ")).collect();
        if other.is_empty() {
            let silent = begun.elapsed() >= SILENCE && !written.is_empty();
            let state = || Seen::NotYet("only the lease".to_owned());
            return Ok(if silent { Seen::Done(None) } else { state() });
        }
        let state = format!("{other:?}");
        if status == before {
            return Ok(Seen::Done(Some(state)));
        }
        mark = audit::mark()?;
        if but_measurements(&status) != but_measurements(&before) {
            begun = Instant::now();
        }
        before = status;
        Ok(Seen::NotYet(state))
    })?;
    ensure!(same.0.is_none(), "the operator wrote and nothing has changed: {:?}", same.0);
    cluster.ok("while nothing changes the operator writes its lease and nothing else");
    Ok(())
}

/// What the operator has written since, and what the status is by it.
fn writes_and_status(mark: audit::Mark, store: &Store<'_>) -> Result<(Vec<String>, Value)> {
    let mut written = audit::writes_since(mark, OPERATOR_USER)?;
    for _ in 0..READINGS_MAX {
        let status = store.object()?["status"].take();
        let since = audit::writes_since(mark, OPERATOR_USER)?;
        if since == written {
            return Ok((written, status));
        }
        written = since;
    }
    bail!("the operator does not stop writing: {written:?}")
}

/// The status without what members measure and what follows from it for their timing.
fn but_measurements(status: &Value) -> Value {
    let mut status = status.clone();
    let remove = |of: &mut Value, name| of.as_object_mut().and_then(|it| it.remove(name));
    remove(&mut status, "rtt");
    remove(&mut status, "autotune");
    for member in status["members"].as_array_mut().into_iter().flatten() {
        remove(member, "rtt");
    }
    status
}
