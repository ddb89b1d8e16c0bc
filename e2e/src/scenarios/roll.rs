//! Changes that need other pods, one at a time, under a writer; and one that is a mistake.

use std::time::Instant;

use anyhow::{Result, ensure};
use client::Config;
use serde_json::json;

use super::Cluster;
use super::metastore::{PLANNED_BUDGET, STEP_LIMIT, Store, install, load};
use crate::writer::judge;

const MEMBERS: usize = 3;

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    install(cluster)?;
    let store = Store::make(cluster, "demo", &json!({ "storage": { "size": "1Gi" } }))?;
    store.settled(MEMBERS, STEP_LIMIT)?;
    let endpoints = store.endpoints("http", MEMBERS);
    let config = Config::new(&endpoints);
    let writer = load(&config, &endpoints)?;
    let ids = store.ids()?;

    let begun = Instant::now();
    store.change(&json!({ "server": { "maxTxnOps": 500 } }))?;
    store.status_is("the roll", STEP_LIMIT, |status| status["operation"]["kind"] == "Roll")?;
    let took = store.settled(MEMBERS, STEP_LIMIT * 2)?.as_secs_f64();
    judge(
        &format!("{}: an option changed", cluster.name),
        writer.outage_since(begun),
        PLANNED_BUDGET,
    )?;
    ensure!(store.ids()? == ids, "a roll changed the members");
    cluster
        .ok(&format!("a changed option is carried out pod by pod, the leader last: {took:.1} s"));

    let begun = Instant::now();
    store.change(&json!({ "image": "metastore-server:no-such-version" }))?;
    let stuck = |status: &serde_json::Value| {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|one| {
            let says = one["message"].as_str().unwrap_or_default();
            one["type"] == "Degraded" && one["status"] == "True" && says.contains("Image")
        })
    };
    let status = store.status_is("the mistake in the status", STEP_LIMIT, stuck)?;
    ensure!(status["ready"] == "2/3", "{}", status["ready"]);
    store.change(&json!({ "image": null }))?;
    store.settled(MEMBERS, STEP_LIMIT * 2)?;
    judge(
        &format!("{}: an image that is not there", cluster.name),
        writer.outage_since(begun),
        PLANNED_BUDGET,
    )?;
    cluster.ok("an image that is not there stops one pod only, and is taken back");

    let written = writer.stop();
    cluster.kept(&written, &config)?;
    Ok(())
}
