//! Ten MetaStores with nothing to do: what the operator costs then.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Cluster;
use super::metastore::{OPERATOR_USER, STEP_LIMIT, Store, install, system};
use crate::audit;
use crate::wait::say;

const NAMES: [&str; 10] = ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9"];
/// What follows the founding, such as events, is over by then.
const REST: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_secs(60);
const MEMORY_BUDGET_MIB: f64 = 50.0;
const CPU_BUDGET_PERCENT: f64 = 1.0;
/// Beyond so many times the budget it is a failure.
const BUDGET_TIMES_MAX: f64 = 3.0;

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    install(cluster)?;
    let begun = Instant::now();
    let spec = json!({ "replicas": 1, "storage": { "size": "1Gi" } });
    let stores = NAMES.map(|name| Store::make(cluster, name, &spec));
    for store in stores {
        store?.settled(1, STEP_LIMIT)?;
    }
    let took = begun.elapsed().as_secs_f64();
    cluster.ok(&format!("ten MetaStores are there after {took:.1} s"));
    std::thread::sleep(REST);
    let mark = audit::mark()?;
    let (before_s, _) = figures(cluster)?;
    let begun = Instant::now();
    std::thread::sleep(LOOK);
    let (after_s, bytes) = figures(cluster)?;
    let percent = (after_s - before_s) / begun.elapsed().as_secs_f64() * 100.0;
    let mib = bytes / f64::from(1 << 20);
    judge("resident MiB", mib, MEMORY_BUDGET_MIB)?;
    judge("percent of a core", percent, CPU_BUDGET_PERCENT)?;
    let written = audit::writes_since(mark, OPERATOR_USER)?;
    let other: Vec<_> = written.iter().filter(|write| !write.contains(" leases ")).collect();
    ensure!(other.is_empty(), "written while nothing changed: {other:?}");
    cluster.ok("while nothing changes ten MetaStores cost no write to the API");
    Ok(())
}

/// Seconds of CPU and bytes of memory, as the operator counts them itself.
fn figures(cluster: &Cluster) -> Result<(f64, f64)> {
    let (kubectl, _) = system(cluster);
    let path =
        "/api/v1/namespaces/metastore-system/services/metastore-operator:metrics/proxy/metrics";
    let said = kubectl.run(&["get", "--raw", path])?;
    let figure = |name: &str| -> Result<f64> {
        let mut words = said.lines().filter_map(|line| line.strip_prefix(name));
        let value = words.find_map(|rest| rest.strip_prefix(' ')).context(name.to_owned())?;
        value.trim().parse().with_context(|| format!("{name} {value}"))
    };
    Ok((figure("process_cpu_seconds_total")?, figure("process_resident_memory_bytes")?))
}

fn judge(what: &str, is: f64, budget: f64) -> Result<()> {
    let times = budget * BUDGET_TIMES_MAX;
    ensure!(is <= times, "the operator at rest: {is:.2} {what}, more than three times {budget}");
    let over = if is > budget { " (over budget)" } else { "" };
    say(&format!(
        "ok many: the operator at rest with ten MetaStores: {is:.2} {what} of {budget}{over}"
    ));
    Ok(())
}
