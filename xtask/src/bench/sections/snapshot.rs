//! Puts while a snapshot of a large store is made and taken away, over and over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Bench, MEMBERS, Record, SYSTEMS, Section, TOOL_TIMEOUT, etcdctl, fill, put, say, stop,
};
use crate::bench::cluster::work_folder;
use crate::bench::record::ETCD;
use crate::bench::stop::Tool;
use crate::bench::tools;

pub(super) const SECTION: Section = Section {
    name: "snapshot",
    about: "put p99 while snapshots of 300,000 keys are saved, beside quiet",
    how: "three members, 300,000 keys of 256 B; open loop of `metactl bench put` at 50 % of the maximum \
          etcd showed in this section, while `etcdctl snapshot save` asks the leader again and again.",
    round,
};

pub(in crate::bench) const QUIET: &str = "put at 50 % of etcd's maximum, quiet";
pub(in crate::bench) const SAVING: &str = "put at 50 % of etcd's maximum, snapshots being saved";

const KEYS: u64 = 300_000;
const MAXIMUM_S: f64 = 5.0;
const RATE_S: f64 = 10.0;
/// Most snapshots of one load.
const SNAPSHOTS_MAX: u32 = 10_000;
const MAXIMUM: &str = "closed loop";

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    let keys = bench.count(KEYS, 2_000);
    for system in SYSTEMS {
        say(&format!("  {system}"));
        let cluster = bench.start(system, MEMBERS)?;
        fill(bench, &cluster, keys)?;
        let endpoints = cluster.endpoints();
        if system == ETCD {
            let most = put(bench, &endpoints, None, bench.seconds(MAXIMUM_S))?.load()?;
            most.add_to(record, MAXIMUM, system);
        }
        let rounds = record.of(MAXIMUM, tools::OPS_PER_S, ETCD);
        let rate = 0.5 * rounds.and_then(<[f64]>::last).context("etcd has no maximum")?;
        let seconds = bench.seconds(RATE_S);
        put(bench, &endpoints, Some(rate), seconds)?.load()?.add_to(record, QUIET, system);

        let folder = work_folder()?;
        let leader = cluster.leader()?;
        let words = ["put", "--connections", "100", "--clients", "1000"];
        let mut load = tools::bench(&bench.metactl, &endpoints);
        load.args(words).args(["--duration", &seconds.to_string()]);
        load.args(["--rate", &rate.round().to_string()]);
        let mut load = Tool::start(load)?;
        let mut saved = 0_u32;
        while !load.is_over()? && saved < SNAPSHOTS_MAX {
            let file = folder.path().join(format!("{saved}.db"));
            let mut save = etcdctl(bench, &leader);
            save.args(["snapshot", "save"]).arg(&file);
            stop::run(save, TOOL_TIMEOUT)?;
            std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
            saved += 1;
        }
        ensure!(saved > 0, "the load was over before a snapshot was made");
        let report = tools::Report::of(&load.finish(Duration::from_secs(60))?)?;
        report.load()?.add_to(record, SAVING, system);
        record.add(SAVING, "snapshots meanwhile", system, f64::from(saved));
        cluster.stop()?;
    }
    Ok(())
}
