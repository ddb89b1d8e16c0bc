//! Bad days: the leader's pod goes, a volume goes, somebody removes a member by hand; and sleep.

use std::time::Instant;

use anyhow::{Result, ensure};
use client::Config;
use serde_json::json;

use super::Cluster;
use super::metastore::{LEADER_LOST_BUDGET, STEP_LIMIT, Store, install, load};
use super::pods::{self, Etcdctl};
use crate::wait::{Seen, until};
use crate::writer::{Writer, judge};

const MEMBERS: usize = 3;

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    install(cluster)?;
    let store = Store::make(cluster, "demo", &json!({ "storage": { "size": "1Gi" } }))?;
    store.settled(MEMBERS, STEP_LIMIT)?;
    let endpoints = store.endpoints("http", MEMBERS);
    let config = Config::new(&endpoints);
    let writer = load(&config, &endpoints)?;

    leader_deleted(cluster, &store, &writer)?;
    volume_lost(cluster, &store, &writer)?;
    removed_by_hand(cluster, &store, &endpoints)?;

    let written = writer.stop();
    cluster.kept(&written, &config)?;
    sleeps(cluster, &store)?;
    let count = written.verify(&config)?;
    cluster.ok(&format!("... and all {count} after a night without pods"));
    Ok(())
}

fn leader_deleted(cluster: &Cluster, store: &Store<'_>, writer: &Writer) -> Result<()> {
    let leader = store.leader()?;
    let begun = Instant::now();
    cluster.kubectl.run_within(STEP_LIMIT, &["delete", "pod", &leader])?;
    pods::ready(cluster, "metastore.io/cluster=demo", MEMBERS, STEP_LIMIT)?;
    store.settled(MEMBERS, STEP_LIMIT)?;
    let outage = writer.outage_since(begun);
    judge(&format!("{}: the leader's pod deleted", cluster.name), outage, LEADER_LOST_BUDGET)?;
    let leader = store.leader()?;
    let begun = Instant::now();
    let words = ["delete", "pod", &leader, "--grace-period=0", "--force"];
    cluster.kubectl.run_within(STEP_LIMIT, &words)?;
    pods::ready(cluster, "metastore.io/cluster=demo", MEMBERS, STEP_LIMIT)?;
    store.settled(MEMBERS, STEP_LIMIT)?;
    let outage = writer.outage_since(begun);
    let what = format!("{}: the leader's pod deleted without grace", cluster.name);
    judge(&what, outage, LEADER_LOST_BUDGET)
}

fn volume_lost(cluster: &Cluster, store: &Store<'_>, writer: &Writer) -> Result<()> {
    let pod = store.follower()?;
    let id = store.id_of(&pod)?;
    let begun = Instant::now();
    let claim = format!("data-{pod}");
    cluster.kubectl.run(&["delete", "pvc", &claim, "--wait=false"])?;
    cluster.kubectl.run_within(STEP_LIMIT, &["delete", "pod", &pod])?;
    let took = another_id(store, &pod, &id)?;
    let outage = writer.outage_since(begun);
    judge(&format!("{}: a volume deleted with its pod", cluster.name), outage, LEADER_LOST_BUDGET)?;
    cluster.ok(&format!("its pod is another member on another volume, {took:.1} s"));
    Ok(())
}

fn removed_by_hand(cluster: &Cluster, store: &Store<'_>, endpoints: &[String]) -> Result<()> {
    let etcdctl = Etcdctl::start(cluster)?;
    let pod = store.follower()?;
    let id = store.id_of(&pod)?;
    etcdctl.run(endpoints, &["member", "remove", &id])?;
    let took = another_id(store, &pod, &id)?;
    cluster.ok(&format!("a member that was removed by hand is replaced, {took:.1} s"));
    Ok(())
}

/// Waits until the pod is settled as another member; answers with the seconds.
fn another_id(store: &Store<'_>, pod: &str, old: &str) -> Result<f64> {
    let ((), took) = until(&format!("another id for {pod}"), STEP_LIMIT, || {
        let now = store.id_of(pod)?;
        Ok(if now == old { Seen::NotYet("the old one".into()) } else { Seen::Done(()) })
    })?;
    Ok((took + store.settled(MEMBERS, STEP_LIMIT)?).as_secs_f64())
}

fn sleeps(cluster: &Cluster, store: &Store<'_>) -> Result<()> {
    let ids = store.ids()?;
    store.change(&json!({ "hibernate": true }))?;
    pods::ready(cluster, "metastore.io/cluster=demo", 0, STEP_LIMIT)?;
    let claims = cluster.kubectl.json(&["pvc", "--selector", "metastore.io/cluster=demo"])?;
    let claims = claims["items"].as_array().map_or(0, Vec::len);
    ensure!(claims == MEMBERS, "{claims} claims while asleep");
    store.change(&json!({ "hibernate": false }))?;
    let took = store.settled(MEMBERS, STEP_LIMIT)?.as_secs_f64();
    ensure!(store.ids()? == ids, "other members woke up");
    cluster.ok(&format!("it sleeps without pods and wakes with the same members, {took:.1} s"));
    Ok(())
}
