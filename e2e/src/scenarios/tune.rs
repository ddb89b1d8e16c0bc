//! The operator moves a live cluster from 100 and 1000 ms to what its network allows, up when the network
//! becomes long, and down again, under a writer and while it is killed itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::Config;
use serde_json::{Value, json};

use super::Cluster;
use super::metastore::{LEADER_LOST_BUDGET, STEP_LIMIT, Store, install, kill_operator, load};
use crate::distance::Distance;
use crate::wait::{Seen, until};
use crate::writer::judge;

const MEMBERS: usize = 3;
/// From the first measurements to a plan that has proved itself, in two steps down, each on trial for 60
/// election timeouts.
const LOWER_LIMIT: Duration = Duration::from_secs(300);
/// From a longer network to a longer timeout in force everywhere.
const RAISE_LIMIT: Duration = Duration::from_secs(120);
/// As between two continents.
const FAR: Duration = Duration::from_millis(200);
/// Round trips that an election timeout holds at least, with policy Balanced.
const ROUND_TRIPS: i64 = 3;
/// Members begin with this heartbeat interval and this election timeout.
const BOOT_MS: (i64, i64) = (100, 1_000);
const HEARTBEAT_FLOOR_MS: i64 = 25;

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    install(cluster)?;
    let guards = json!({
        "evaluationSeconds": 2, "sustainEvaluations": 3, "cooldownSeconds": 10, "verifySeconds": 10,
    });
    let spec = json!({
        "storage": { "size": "1Gi" }, "autotune": { "mode": "Observe", "guards": guards },
    });
    let store = Store::make(cluster, "demo", &spec)?;
    store.settled(MEMBERS, STEP_LIMIT)?;
    let pods = pods(cluster)?;
    let endpoints = store.endpoints("http", MEMBERS);
    let config = Config::new(&endpoints);
    let writer = load(&config, &endpoints)?;
    let begun = Instant::now();

    store.status_is("a recommendation", STEP_LIMIT, |status| {
        status["autotune"]["phase"] == "Recommending"
            && !status["autotune"]["recommended"].is_null()
    })?;
    ensure!(in_force(&store)? == BOOT_MS, "Observe has changed something: {:?}", in_force(&store)?);
    cluster.ok("mode Observe says what it would do, and does nothing");

    store.change(&json!({ "autotune": { "mode": "Auto" } }))?;
    let took =
        tuned(&store, "a plan for the network as it is", LOWER_LIMIT, |(heartbeat_ms, _)| {
            heartbeat_ms == HEARTBEAT_FLOOR_MS
        })?;
    let near = in_force(&store)?;
    // A machine whose disk stands still now and then may ask for as much as members begin with.
    ensure!(near.1 <= BOOT_MS.1, "an election timeout of {} ms", near.1);
    judge(
        &format!("{}: lowered to {near:?}", cluster.name),
        writer.outage_since(begun),
        LEADER_LOST_BUDGET,
    )?;
    cluster.ok(&format!(
        "from {BOOT_MS:?} to {near:?} ms without a restart, {:.1} s",
        took.as_secs_f64()
    ));

    let begun = Instant::now();
    let distance = Distance::between(&addresses(cluster)?, FAR)?;
    kill_operator(cluster)?;
    let far_ms = i64::try_from(FAR.as_millis())?;
    let took = tuned(
        &store,
        "a plan for the longer network",
        RAISE_LIMIT,
        |(heartbeat_ms, election_ms)| {
            heartbeat_ms > HEARTBEAT_FLOOR_MS && election_ms >= ROUND_TRIPS * far_ms
        },
    )?;
    let far = in_force(&store)?;
    judge(
        &format!("{}: raised to {far:?}", cluster.name),
        writer.outage_since(begun),
        LEADER_LOST_BUDGET,
    )?;
    cluster.ok(&format!(
        "{} ms between members, the operator killed at that moment: {far:?} ms, {:.1} s",
        FAR.as_millis(),
        took.as_secs_f64()
    ));

    told(cluster, &store)?;

    let begun = Instant::now();
    drop(distance);
    let took =
        tuned(&store, "a plan for the short network again", LOWER_LIMIT, |(heartbeat_ms, _)| {
            heartbeat_ms == HEARTBEAT_FLOOR_MS
        })?;
    let again = in_force(&store)?;
    judge(
        &format!("{}: back to {again:?}", cluster.name),
        writer.outage_since(begun),
        LEADER_LOST_BUDGET,
    )?;
    cluster.ok(&format!("and back to {again:?} ms, {:.1} s", took.as_secs_f64()));

    by_hand(cluster, &store)?;
    ensure!(self::pods(cluster)? == pods, "pods were restarted");
    cluster.ok("no pod was restarted for any of it");
    let written = writer.stop();
    cluster.kept(&written, &config)
}

/// Waits until a plan is in force that has proved itself, and is like this.
fn tuned(
    store: &Store<'_>,
    what: &str,
    limit: Duration,
    is: impl Fn((i64, i64)) -> bool,
) -> Result<Duration> {
    let ((), took) = until(what, limit, || {
        let status = store.object()?["status"].take();
        let tuning = &status["autotune"];
        let condition = condition(&status, "AutotuneReady");
        let timing = timing(&tuning["applied"]);
        // No more than six plans an hour: the last step down may have to wait.
        let rests = tuning["phase"] == "Converged" || condition["reason"] == "RateCap";
        let done = rests && timing.is_some_and(&is);
        Ok(if done {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{} {timing:?} {}", tuning["phase"], condition["reason"]))
        })
    })?;
    Ok(took)
}

fn timing(applied: &Value) -> Option<(i64, i64)> {
    let ms = |field: &str| applied[field].as_f64().map(|ms| ms.round() as i64);
    Some((ms("heartbeatMs")?, ms("electionMs")?))
}

fn condition(status: &Value, kind: &str) -> Value {
    let mut all = status["conditions"].as_array().into_iter().flatten();
    all.find(|one| one["type"] == kind).cloned().unwrap_or_default()
}

/// What members say they use, as the status shows it.
fn in_force(store: &Store<'_>) -> Result<(i64, i64)> {
    let object = store.object()?;
    let milliseconds = |field: &str| -> Result<i64> {
        let text = object["status"][field].as_str().with_context(|| format!("no {field}"))?;
        let (number, unit_ms) = match text.strip_suffix("ms") {
            Some(number) => (number, 1.0),
            None => (text.strip_suffix('s').with_context(|| text.to_owned())?, 1_000.0),
        };
        Ok((number.parse::<f64>().with_context(|| text.to_owned())? * unit_ms).round() as i64)
    };
    Ok((milliseconds("heartbeat")?, milliseconds("election")?))
}

fn told(cluster: &Cluster, store: &Store<'_>) -> Result<()> {
    let events = cluster.kubectl.json(&["events.events.k8s.io"])?;
    let reasons: Vec<_> = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| event["reason"].as_str())
        .collect();
    for reason in ["AutotuneRecommended", "AutotuneApplied", "AutotuneVerified"] {
        ensure!(reasons.contains(&reason), "no event {reason}: {reasons:?}");
    }
    let status = store.object()?["status"].take();
    let ready = condition(&status, "AutotuneReady");
    ensure!(ready["status"] == "True", "{ready}");
    let tuning = &status["autotune"];
    let history = tuning["history"].as_array().map_or(0, Vec::len);
    ensure!((1..=5).contains(&history), "{history} changes in the history");
    ensure!(tuning["lastKnownGood"] == tuning["applied"], "{tuning}");
    ensure!(tuning["observed"]["samples"] == 300, "{}", tuning["observed"]);
    cluster.ok(&format!(
        "status and events tell of it: epoch {}, the last change for {}",
        tuning["epoch"], tuning["lastChange"]["reason"]
    ));
    Ok(())
}

fn by_hand(cluster: &Cluster, store: &Store<'_>) -> Result<()> {
    let by_hand = json!({ "raft": { "heartbeatMs": 50, "electionMs": 500 } });
    let said = store.refused(&by_hand)?;
    ensure!(said.contains("set autotune.mode to Observe or Off"), "{said}");
    store.change(&json!({
        "autotune": { "mode": "Off" }, "raft": { "heartbeatMs": 50, "electionMs": 500 },
    }))?;
    let (_, took) = until("values by hand", STEP_LIMIT, || {
        let now = in_force(store)?;
        Ok(if now == (50, 500) { Seen::Done(()) } else { Seen::NotYet(format!("{now:?}")) })
    })?;
    cluster.ok(&format!(
        "values set by hand take the same way, {:.1} s, and are refused beside mode Auto",
        took.as_secs_f64()
    ));
    Ok(())
}

/// Uids of the pods by name.
fn pods(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    fields(cluster, |pod| pod["metadata"]["uid"].as_str())
}

/// Addresses of the pods.
fn addresses(cluster: &Cluster) -> Result<Vec<std::net::Ipv4Addr>> {
    let all = fields(cluster, |pod| pod["status"]["podIP"].as_str())?;
    all.values().map(|address| address.parse().with_context(|| address.clone())).collect()
}

fn fields(
    cluster: &Cluster,
    field: impl Fn(&Value) -> Option<&str>,
) -> Result<BTreeMap<String, String>> {
    let pods = cluster.kubectl.json(&["pods", "--selector", "metastore.io/cluster=demo"])?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    let one = |pod: &Value| -> Result<(String, String)> {
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        Ok((name.to_owned(), field(pod).with_context(|| name.to_owned())?.to_owned()))
    };
    pods.iter().map(one).collect()
}
