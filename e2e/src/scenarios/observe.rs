//! What a person on call sees: a real Prometheus that finds members and operator by the monitors that the
//! chart and the operator made, every query of every dashboard, every rule, and ten faults, each of which
//! has to show on the overview and to lead by its alert to its runbook page.

mod faults;
mod mixin;
mod report;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use client::Config;
use serde_json::{Value, json};

use super::Cluster;
use super::metastore::{RELEASE, STEP_LIMIT, Store, chart, install, load, system};
use crate::dashboards::{self, Query};
use crate::injection::Victim;
use crate::monitors;
use crate::places::NODE_DIR;
use crate::prometheus::{INTERVAL, Prometheus};
use crate::settings::DISK_CLASS;
use crate::wait::{Seen, say, until};

const MEMBERS: usize = 3;
/// The MetaStore whose disks can be made to stand still.
const LOADED: &str = "demo";
/// The one that is soon full.
const SMALL: &str = "small";
/// Of the second, so that it can be filled within seconds.
const SMALL_QUOTA: &str = "24Mi";
/// Of the alerts' `for`, and of the windows of their rates: minutes become seconds.
const FOR_SCALE: &str = "0.05";
const WINDOW_SCALE: &str = "0.1";
/// Everything that is scraped answers.
const TARGETS_LIMIT: Duration = Duration::from_secs(60);
/// Rates need a few scrapes.
const RATE_SCRAPES: u32 = 8;
/// From a change to figures that show it.
const SETTLE: Duration = Duration::from_secs(12);
/// From the kill of a leader until every panel shows something.
const PANELS_LIMIT: Duration = Duration::from_secs(60);
/// Panels without data that an error names.
const EMPTY_SHOWN: usize = 12;

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    install(cluster)?;
    monitoring(cluster)?;
    let spec = json!({
        "storage": { "size": "512Mi", "className": DISK_CLASS },
        "autotune": { "mode": "Auto" },
    });
    let demo = Store::make(cluster, LOADED, &spec)?;
    let spec = json!({
        "storage": { "size": "512Mi" },
        "server": { "quota": SMALL_QUOTA },
    });
    let small = Store::make(cluster, SMALL, &spec)?;
    demo.settled(MEMBERS, STEP_LIMIT)?;
    small.settled(MEMBERS, STEP_LIMIT)?;

    let prometheus = start(cluster)?;
    let queries = dashboards::queries(&cluster.places.root.join("charts/metastore/dashboards"))?;
    let seen = Panels { cluster, prometheus: &prometheus, queries: &queries };
    seen.rules()?;
    std::thread::sleep(SETTLE);
    let idle = seen.figures()?;

    let endpoints = demo.endpoints("http", MEMBERS);
    let config = Config::new(&endpoints);
    let usage = usage::Usage::start(&config)?;
    let writer = load(&config, &endpoints)?;
    std::thread::sleep(SETTLE);
    let loaded = seen.figures()?;
    seen.under_load(&idle, &loaded)?;

    let leader = demo.leader()?;
    let killed = Victim::find(&cluster.kubectl, &leader)?.kill()?;
    std::thread::sleep(SETTLE);
    let lost = seen.figures()?;
    seen.leader_lost(&loaded, &lost)?;
    killed.heal()?;
    demo.settled(MEMBERS, STEP_LIMIT)?;
    // An empty panel is an error at the end: faults are worth seeing all the same.
    let panels = seen.all_show().and_then(|()| seen.etcd_shows());

    let outcomes = faults::run(cluster, &prometheus, &queries, &demo, &small)?;
    report::write(cluster, &outcomes)?;
    drop(usage);
    let written = writer.stop();
    cluster.kept(&written, &config)?;
    report::judge(cluster, &outcomes).and(panels)
}

/// The kinds that Prometheus' operator would bring, and the chart with all that is made for it.
fn monitoring(cluster: &Cluster) -> Result<()> {
    let (kubectl, helm) = system(cluster);
    for (kind, plural) in [
        ("ServiceMonitor", "servicemonitors"),
        ("PodMonitor", "podmonitors"),
        ("PrometheusRule", "prometheusrules"),
    ] {
        kubectl.apply(&definition(kind, plural).to_string())?;
    }
    let words = ["wait", "--for=condition=Established", "--timeout=20s", "crd"];
    let group = "monitoring.coreos.com";
    let names =
        ["servicemonitors", "podmonitors", "prometheusrules"].map(|n| format!("{n}.{group}"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    kubectl.run(&[&words[..], &names].concat())?;
    let path = chart(cluster);
    let scales = format!(
        "monitoring={{\"enabled\":true,\"rules\":{{\"forScale\":{FOR_SCALE},\"windowScale\":{WINDOW_SCALE}}}}}"
    );
    let words = ["upgrade", RELEASE, &path, "--reset-then-reuse-values", "--wait", "--timeout=60s"];
    helm.run(&[&words[..], &["--set-json", &scales]].concat())?;
    Ok(())
}

/// A kind of which nobody looks into the fields.
fn definition(kind: &str, plural: &str) -> Value {
    let group = "monitoring.coreos.com";
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                } },
            }],
        },
    })
}

/// With what monitors and rules in the cluster say, and all its targets answering.
fn start(cluster: &Cluster) -> Result<Prometheus> {
    let (system, _) = system(cluster);
    let kubeconfig = format!("{NODE_DIR}/identities/admin.kubeconfig");
    let mut scrapes = Vec::new();
    for kind in ["servicemonitors", "podmonitors"] {
        let found = system.json(&[kind])?;
        for monitor in found["items"].as_array().context("a list of monitors")? {
            scrapes.extend(monitors::scrape_configs(monitor, &kubeconfig)?);
        }
    }
    ensure!(scrapes.len() == 2, "{} monitors: the operator's and the members'", scrapes.len());
    let found = system.json(&["prometheusrules"])?;
    let rules = found["items"].as_array().context("a list of rules")?;
    let groups: Vec<Value> = rules
        .iter()
        .filter_map(|rule| rule["spec"]["groups"].as_array())
        .flatten()
        .cloned()
        .collect();
    let prometheus = Prometheus::start(&cluster.places, &scrapes, &groups)?;
    let wanted = 1 + 2 * MEMBERS;
    let (_, took) = until("targets", TARGETS_LIMIT, || {
        let (all, up) = prometheus.targets()?;
        let done = (all, up) == (wanted, wanted);
        Ok(if done { Seen::Done(()) } else { Seen::NotYet(format!("{up} of {all} answer")) })
    })?;
    cluster.ok(&format!(
        "Prometheus finds the operator and {} members by their monitors, {:.1} s",
        2 * MEMBERS,
        took.as_secs_f64()
    ));
    for label in ["namespace", "pod", "cluster"] {
        let strangers = prometheus.query(&format!("etcd_server_has_leader{{{label}=\"\"}}"))?;
        ensure!(strangers.is_empty(), "series of members without the label {label}: {strangers:?}");
    }
    Ok(prometheus)
}

/// Values for the dashboards' variables.
fn variables<'a>(
    namespace: &'a str,
    store: &'a str,
    window: &'a str,
) -> [(&'static str, &'a str); 6] {
    [
        ("namespace", namespace),
        ("cluster", store),
        ("pod", ".*"),
        ("__rate_interval", window),
        ("__interval", window),
        ("__range", "5m"),
    ]
}

fn window() -> String {
    format!("{}s", (INTERVAL * RATE_SCRAPES).as_secs())
}

/// What the dashboards show of one MetaStore.
struct Panels<'a> {
    cluster: &'a Cluster,
    prometheus: &'a Prometheus,
    queries: &'a [Query],
}

/// Figures by name.
type Figures = BTreeMap<&'static str, f64>;

/// Sums that a person would read off: writes a second, entries committed a second, bytes between members a
/// second, changes of leader so far, members that answer.
const FIGURES: [(&str, &str); 6] = [
    ("requests", "sum(rate(grpc_server_handled_total{OF,grpc_type=\"unary\"}[WINDOW]))"),
    ("commits", "sum(rate(etcd_server_proposals_committed_total{OF}[WINDOW]))"),
    ("peer bytes", "sum(rate(etcd_network_peer_sent_bytes_total{OF}[WINDOW]))"),
    ("syncs", "sum(rate(etcd_disk_wal_fsync_duration_seconds_count{OF}[WINDOW]))"),
    ("leader changes", "sum(increase(etcd_server_leader_changes_seen_total{OF}[1m]))"),
    ("members up", "sum(up{OF})"),
];

impl Panels<'_> {
    fn rules(&self) -> Result<()> {
        let (count, _) = until("rules evaluated", TARGETS_LIMIT, || {
            let (count, ailing) = self.prometheus.rules()?;
            let done = count > 0 && ailing.is_empty();
            Ok(if done { Seen::Done(count) } else { Seen::NotYet(ailing.join("; ")) })
        })?;
        self.cluster.ok(&format!("{count} rules of the chart load and are healthy"));
        Ok(())
    }

    fn figures(&self) -> Result<Figures> {
        let selector = format!("namespace=\"{}\",cluster=\"{LOADED}\"", self.cluster.namespace);
        let one = |(name, expression): (&'static str, &str)| -> Result<(&'static str, f64)> {
            let expression = expression.replace("OF", &selector).replace("WINDOW", &window());
            let found = self.prometheus.query(&expression)?;
            let sample = found.first().with_context(|| format!("{name}: no data"))?;
            Ok((name, sample.value))
        };
        let figures: Figures = FIGURES.into_iter().map(one).collect::<Result<_>>()?;
        let line: Vec<_> =
            figures.iter().map(|(name, value)| format!("{name} {value:.1}")).collect();
        say(&format!("   {}", line.join(", ")));
        Ok(figures)
    }

    /// Series of a cluster that is used differ from those of one at rest.
    fn under_load(&self, idle: &Figures, loaded: &Figures) -> Result<()> {
        for name in ["requests", "commits", "peer bytes", "syncs"] {
            let (before, now) = (idle[name], loaded[name]);
            ensure!(now > 2.0 * before && now > 1.0, "{name}: {before} at rest, {now} under load");
        }
        self.cluster.ok("requests, commits, peers' bytes and syncs tell load from rest");
        Ok(())
    }

    /// And those of one that has lost its leader.
    fn leader_lost(&self, before: &Figures, now: &Figures) -> Result<()> {
        let changes = (before["leader changes"], now["leader changes"]);
        ensure!(changes.1 > changes.0, "changes of leader: {changes:?}");
        let up = (before["members up"], now["members up"]);
        ensure!(up.1 < up.0, "members up: {up:?}");
        self.cluster.ok("the kill of a leader shows: a member less, and a change of leader");
        Ok(())
    }

    /// No panel is empty.
    fn all_show(&self) -> Result<()> {
        ensure!(!self.queries.is_empty(), "no dashboards");
        let window = window();
        let values = variables(&self.cluster.namespace, LOADED, &window);
        let mut left: Vec<(String, String)> = Vec::new();
        for query in self.queries {
            left.push((format!("{}, {}", query.dashboard, query.panel), query.filled(&values)?));
        }
        let count = left.len();
        let (_, took) = until("panels", PANELS_LIMIT, || {
            let mut empty = Vec::new();
            for (panel, expression) in &left {
                let found = self.prometheus.query(expression).with_context(|| panel.clone())?;
                // What is not a number is not drawn.
                if found.iter().all(|sample| sample.value.is_nan()) {
                    empty.push((panel.clone(), expression.clone()));
                }
            }
            left = empty;
            let done = left.is_empty();
            let shown = |(panel, _): &(String, String)| panel.clone();
            let names: Vec<_> = left.iter().take(EMPTY_SHOWN).map(shown).collect();
            let state = || format!("{} of {count} are empty: {}", left.len(), names.join("; "));
            Ok(if done { Seen::Done(()) } else { Seen::NotYet(state()) })
        })?;
        let boards: BTreeSet<_> = self.queries.iter().map(|query| &query.dashboard).collect();
        self.cluster.ok(&format!(
            "all {count} queries of {} dashboards return data, {:.1} s",
            boards.len(),
            took.as_secs_f64()
        ));
        Ok(())
    }

    /// etcd's own dashboard shows MetaStore, too.
    fn etcd_shows(&self) -> Result<()> {
        let selector = format!("namespace=\"{}\",cluster=\"{LOADED}\"", self.cluster.namespace);
        let queries = mixin::queries(&selector, &window());
        let mut empty = Vec::new();
        for expression in &queries {
            if self.prometheus.query(expression)?.iter().all(|sample| sample.value.is_nan()) {
                empty.push(expression.clone());
            }
        }
        if !empty.is_empty() {
            bail!("etcd's dashboard: {} queries return nothing: {}", empty.len(), empty.join("; "));
        }
        self.cluster.ok(&format!("so do all {} of etcd's own dashboard", queries.len()));
        Ok(())
    }
}
