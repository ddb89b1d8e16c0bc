//! A release changes and goes: the definition is really upgraded, clusters and data stay as the policy
//! says, and nothing waits for an operator that is no more.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Cluster;
use super::metastore::{RELEASE, STEP_LIMIT, Store, chart, install, system};
use super::pods;
use crate::command;
use crate::places::NODE_DIR;
use crate::wait::{Seen, until};

const CALL_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    install(cluster)?;
    let one = |on_delete: &str| json!({ "replicas": 1, "storage": { "size": "1Gi", "onDelete": on_delete } });
    let kept = Store::make(cluster, "kept", &one("Retain"))?;
    let gone = Store::make(cluster, "gone", &one("Delete"))?;
    kept.settled(1, STEP_LIMIT)?;
    gone.settled(1, STEP_LIMIT)?;

    upgraded(cluster)?;
    kept.settled(1, STEP_LIMIT)?;

    let (_, helm) = system(cluster);
    helm.run(&["uninstall", RELEASE, "--wait"])?;
    for pod in ["kept-0", "gone-0"] {
        let ready =
            cluster.kubectl.json(&["pod", pod])?["status"]["containerStatuses"][0]["ready"].clone();
        ensure!(ready == true, "{pod} after helm uninstall");
    }
    cluster.ok("helm uninstall leaves clusters running");
    gone.delete()?;
    kept.delete()?;
    cluster.ok("without an operator a MetaStore is deleted all the same");
    pods::ready(cluster, "metastore.io/cluster", 0, STEP_LIMIT)?;
    until("the claims that stay", STEP_LIMIT, || {
        let list = cluster.kubectl.json(&["pvc"])?;
        let names: Vec<_> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| one["metadata"]["name"].clone())
            .collect();
        let done = names == ["data-kept-0"];
        Ok(if done { Seen::Done(()) } else { Seen::NotYet(format!("{names:?}")) })
    })?;
    cluster.ok("volumes stay or go as storage.onDelete says");

    install(cluster)?;
    let kept = Store::make(cluster, "kept", &one("Delete"))?;
    kept.settled(1, STEP_LIMIT)?;
    cluster.ok("a MetaStore of the same name finds the data it kept");
    kept.delete()?;
    helm.run(&["uninstall", RELEASE, "--wait"])?;
    Ok(())
}

/// `helm upgrade` with a definition that has one more field.
fn upgraded(cluster: &Cluster) -> Result<()> {
    let copy = format!("{NODE_DIR}/work/chart");
    let _ = fs::remove_dir_all(&copy);
    command::run_well(Command::new("cp").args(["-r", &chart(cluster), &copy]), b"", CALL_LIMIT)?;
    let path = Path::new(&copy).join("generated/metastores.yaml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let old = "description: Most operations in a transaction.";
    ensure!(text.contains(old), "{old:?} is not in {}", path.display());
    fs::write(
        &path,
        text.replace(old, "description: As many operations as a transaction may have."),
    )?;
    let (_, helm) = system(cluster);
    helm.run(&["upgrade", RELEASE, &copy, "--reuse-values", "--wait"])?;
    let definition =
        cluster.kubectl.run(&["get", "crd", "metastores.metastore.io", "-o", "json"])?;
    ensure!(
        definition.contains("As many operations as"),
        "helm upgrade left the definition as it was"
    );
    cluster.ok("helm upgrade upgrades the definition");
    Ok(())
}
