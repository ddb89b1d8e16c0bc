//! Mutual TLS by the operator's own authority; certificates and authority change under a writer.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use client::{Client, Config};
use serde_json::json;

use super::Cluster;
use super::metastore::{PLANNED_BUDGET, STEP_LIMIT, Store, install, load};
use crate::wait::{Seen, until};
use crate::writer::judge;

const MEMBERS: usize = 3;
/// For the kubelet to bring changed Secrets to pods, and for the phases of a rotation.
const ROTATION_LIMIT: Duration = Duration::from_secs(300);

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    install(cluster)?;
    let tls = json!({
        "client": { "mode": "SelfSigned", "clientAuth": true },
        "peer": { "mode": "SelfSigned" },
    });
    let store =
        Store::make(cluster, "secure", &json!({ "storage": { "size": "1Gi" }, "tls": tls }))?;
    let took = store.settled(MEMBERS, STEP_LIMIT)?.as_secs_f64();
    cluster.ok(&format!("three members with mutual TLS are ready after {took:.1} s"));
    let endpoints = store.endpoints("https", MEMBERS);
    refuses_strangers(&endpoints)?;
    cluster.ok("whoever shows no certificate is refused");
    let said = cluster.kubectl.exec("secure-0", &["metactl", "status"]);
    ensure!(said.is_ok(), "metactl in the pod: {said:?}");
    cluster.ok("metactl in the pod finds its certificates by itself");

    let config = store.tls_config(&endpoints)?;
    let writer = load(&config, &endpoints)?;
    let before = authority(&store)?;
    let begun = Instant::now();
    let mark = format!("metastore.io/rotate-ca={}", begun.elapsed().as_nanos());
    cluster.kubectl.run(&["annotate", "metastore", "secure", &mark])?;
    until("another authority alone", ROTATION_LIMIT, || {
        let now = authority(&store)?;
        let certificates = now.matches("BEGIN CERTIFICATE").count();
        let done = certificates == 1 && now != before;
        Ok(if done { Seen::Done(()) } else { Seen::NotYet(format!("{certificates} trusted")) })
    })?;
    store.settled(MEMBERS, STEP_LIMIT)?;
    let outage = writer.outage_since(begun);
    judge(
        &format!("{}: authorities and certificates rotated", cluster.name),
        outage,
        PLANNED_BUDGET,
    )?;
    let written = writer.stop();
    let config = store.tls_config(&endpoints)?;
    cluster.kept(&written, &config)?;
    cluster.ok("a client with the new certificates is served");
    Ok(())
}

/// What members trust of clients.
fn authority(store: &Store<'_>) -> Result<String> {
    Ok(String::from_utf8(store.secret_file("server-tls", "ca.crt")?)?)
}

fn refuses_strangers(endpoints: &[String]) -> Result<()> {
    let plain: Vec<_> = endpoints.iter().map(|one| one.replace("https://", "http://")).collect();
    let config = Config::new(&plain).request_timeout(Duration::from_secs(3));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(Client::new(config)?.status());
    match answer {
        Err(_) => Ok(()),
        Ok(_) => bail!("plain text was answered"),
    }
}
