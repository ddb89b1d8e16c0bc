//! Members come and go under a writer: 1, 3, 5, 3, 1, the operator killed on the way.

use std::time::{Duration, Instant};

use anyhow::Result;
use client::Config;
use serde_json::json;

use super::Cluster;
use super::metastore::{PLANNED_BUDGET, STEP_LIMIT, Store, install, kill_operator};
use crate::wait::{Seen, until};
use crate::writer::{Writer, judge};

const WORKERS: usize = 4;
const WRITES_BEFORE: usize = 100;
const START_LIMIT: Duration = Duration::from_secs(120);

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    install(cluster)?;
    let spec = json!({ "replicas": 1, "storage": { "size": "1Gi" } });
    let store = Store::make(cluster, "demo", &spec)?;
    store.settled(1, START_LIMIT)?;
    // The first pod is a member all the time; the others are reached through it.
    let endpoints = store.endpoints("http", 1);
    let config = Config::new(&endpoints);
    let writer = Writer::start(&config, &endpoints, "writer/", WORKERS)?;
    writer.has_written(WRITES_BEFORE, START_LIMIT)?;
    let mut before = 1;
    for members in [3, 5, 3, 1] {
        let begun = Instant::now();
        let words = ["scale", "metastore", "demo", &format!("--replicas={members}")];
        cluster.kubectl.run(&words)?;
        if members == 5 {
            learner_joins(&store)?;
            kill_operator(cluster)?;
        }
        let took = store.settled(members, STEP_LIMIT * 2)?.as_secs_f64();
        let outage = writer.outage_since(begun);
        judge(
            &format!("{}: from {before} to {members} members", cluster.name),
            outage,
            PLANNED_BUDGET,
        )?;
        let killed = if members == 5 { ", its operator killed on the way" } else { "" };
        cluster.ok(&format!("kubectl scale from {before} to {members}{killed}: {took:.1} s"));
        before = members;
    }
    let written = writer.stop();
    cluster.kept(&written, &config)?;
    until("one claim", STEP_LIMIT, || {
        let claims = cluster.kubectl.json(&["pvc", "--selector", "metastore.io/cluster=demo"])?;
        let claims = claims["items"].as_array().map_or(0, Vec::len);
        Ok(if claims == 1 { Seen::Done(()) } else { Seen::NotYet(claims.to_string()) })
    })?;
    cluster.ok("claims of members that left are gone, as the policy says");
    Ok(())
}

/// Waits until a newcomer is in the table.
fn learner_joins(store: &Store<'_>) -> Result<()> {
    until("a learner", STEP_LIMIT, || {
        let object = store.object()?;
        let operation = object["status"]["operation"].clone();
        let joins = operation["kind"] == "ScaleOut";
        Ok(if joins { Seen::Done(()) } else { Seen::NotYet(operation.to_string()) })
    })?;
    Ok(())
}
