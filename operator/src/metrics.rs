//! The operator's own figures, `metastore_operator_*`. Labels take values from fixed sets, but for the
//! namespace and the name of a MetaStore: those go with it, so that what is stored grows with what there
//! is and not with what there was. They are called `metastore_namespace` and `metastore`, for `namespace`
//! is the operator's own once Prometheus has scraped it.

use autotune::planner::Freeze;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::members::Key;
use crate::memory::Cluster;

/// All figures.
pub(crate) struct Metrics {
    registry: Registry,
    /// Passes over one resource, by `result`: ok, error, gone.
    pub(crate) reconciles: IntCounterVec,
    /// How long a pass took.
    pub(crate) duration: Histogram,
    /// Steps carried out, by `step`.
    pub(crate) steps: IntCounterVec,
    /// Writes to the API server, by `kind` and `verb`.
    pub(crate) api_writes: IntCounterVec,
    /// Members that answered in the last pass over their cluster.
    pub(crate) members: IntGauge,
    /// Clusters, by `condition` that is true.
    pub(crate) clusters: IntGaugeVec,
    /// 1 while the lease is held.
    pub(crate) leader: IntGauge,
    /// When a pass failed last, in seconds since 1970.
    pub(crate) last_error: IntGauge,
    /// Plans of timing, by `result`.
    pub(crate) plans: IntCounterVec,
    /// Plans of timing that were taken back.
    pub(crate) rollbacks: IntCounter,
    /// Age of the oldest plan of timing that has not arrived everywhere.
    pub(crate) plan_age: IntGauge,
    /// Members that were asked what they measure and did not answer.
    pub(crate) collect_errors: IntCounter,
    /// Members of a MetaStore, by `state`.
    members_of: IntGaugeVec,
    /// 1 while tuning of a MetaStore is frozen, by `reason`.
    frozen: IntGaugeVec,
    /// How long clients of a MetaStore would wait for a new leader.
    predicted_failover: GaugeVec,
    /// When a MetaStore was passed over last.
    last_reconcile: IntGaugeVec,
}

/// Why tuning stands still, besides what the planner has as a reason.
pub(crate) const CERTIFICATE_ROTATION: &str = "CertificateRotation";

/// All reasons for tuning to stand still.
fn freezes() -> impl Iterator<Item = &'static str> {
    let planner = [
        Freeze::Paused,
        Freeze::MembershipChange,
        Freeze::Upgrade,
        Freeze::Restore,
        Freeze::Unstable,
    ];
    planner.map(Freeze::as_str).into_iter().chain([CERTIFICATE_ROTATION])
}

/// What becomes of plans of timing, by the event that tells of it.
pub(crate) const PLAN_RESULTS: [(&str, &str); 4] = [
    ("AutotuneApplied", "applied"),
    ("AutotuneVerified", "verified"),
    ("AutotuneRolledBack", "rolled_back"),
    ("AutotuneHeld", "held"),
];

/// The conditions that clusters are counted by.
pub(crate) const CONDITIONS: [&str; 6] =
    ["Available", "Progressing", "Degraded", "AutotuneReady", "QuorumLost", "EvenSize"];

impl Metrics {
    /// All at zero.
    /// Adds a collector that lives elsewhere.
    pub(crate) fn register(&self, collector: Box<dyn prometheus::core::Collector>) {
        let registered = self.registry.register(collector);
        registered.unwrap_or_else(|error| panic!("metric: {error}"));
    }

    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let metrics = Metrics {
            reconciles: counters(
                &registry,
                "reconciles_total",
                "Passes over one resource, by result.",
                &["result"],
            ),
            duration: histogram(&registry),
            steps: counters(&registry, "steps_total", "Steps carried out, by kind.", &["step"]),
            api_writes: counters(
                &registry,
                "api_writes_total",
                "Writes to the API server, by kind and verb.",
                &["kind", "verb"],
            ),
            members: gauge(
                &registry,
                "members_observed",
                "Members that answered in the last pass over their cluster.",
            ),
            clusters: gauges(
                &registry,
                "clusters",
                "Clusters whose condition is true.",
                &["condition"],
            ),
            leader: gauge(&registry, "leader", "1 while this process holds the lease."),
            last_error: gauge(
                &registry,
                "last_error_timestamp_seconds",
                "When a pass failed last; 0: never.",
            ),
            plans: counters(
                &registry,
                "autotune_plans_total",
                "Plans of timing, by what became of them.",
                &["result"],
            ),
            rollbacks: counter(
                &registry,
                "autotune_rollbacks_total",
                "Plans of timing that were taken back.",
            ),
            plan_age: gauge(
                &registry,
                "autotune_plan_age_seconds",
                "Age of the oldest plan of timing that has not arrived everywhere; 0: there is none.",
            ),
            collect_errors: counter(
                &registry,
                "autotune_collect_errors_total",
                "Members that were asked what they measure and did not answer.",
            ),
            members_of: gauges(
                &registry,
                "members",
                "Members of a MetaStore that serve, and that its spec wants.",
                &[NAMESPACE, NAME, "state"],
            ),
            frozen: gauges(
                &registry,
                "autotune_frozen",
                "1 while nothing about the timing of a MetaStore is changed, for this reason.",
                &[NAMESPACE, NAME, "reason"],
            ),
            predicted_failover: seconds(
                &registry,
                "autotune_predicted_failover_seconds",
                "How long clients of a MetaStore would wait for a new leader, by what is measured and in force.",
            ),
            last_reconcile: gauges(
                &registry,
                "last_reconcile_timestamp_seconds",
                "When a MetaStore was passed over last without an error.",
                &[NAMESPACE, NAME],
            ),
            registry,
        };
        for result in ["ok", "error", "gone"] {
            metrics.reconciles.with_label_values(&[result]);
        }
        for (_, result) in PLAN_RESULTS {
            metrics.plans.with_label_values(&[result]);
        }
        for condition in CONDITIONS {
            metrics.clusters.with_label_values(&[condition]);
        }
        #[cfg(target_os = "linux")]
        register(&metrics.registry, process::Process::of_self());
        metrics
    }

    /// What is known of a MetaStore.
    pub(crate) fn show(&self, (namespace, name): &Key, cluster: &Cluster) {
        for (state, count) in [("ready", cluster.ready), ("wanted", cluster.wanted)] {
            self.members_of.with_label_values(&[namespace, name, state]).set(count);
        }
        for reason in freezes() {
            let is_so = cluster.frozen == Some(reason);
            self.frozen.with_label_values(&[namespace, name, reason]).set(is_so.into());
        }
        let labels = [namespace.as_str(), name];
        match cluster.predicted_failover_s {
            Some(seconds) => self.predicted_failover.with_label_values(&labels).set(seconds),
            // Nothing was predicted, or it was not there.
            None => drop(self.predicted_failover.remove_label_values(&labels)),
        }
        if let Some(at_s) = cluster.passed_s {
            self.last_reconcile.with_label_values(&labels).set(at_s);
        }
    }

    /// A MetaStore is no more.
    pub(crate) fn forget(&self, (namespace, name): &Key) {
        // Of one that was never looked at there is nothing.
        for state in ["ready", "wanted"] {
            drop(self.members_of.remove_label_values(&[namespace, name, state]));
        }
        for reason in freezes() {
            drop(self.frozen.remove_label_values(&[namespace, name, reason]));
        }
        drop(self.predicted_failover.remove_label_values(&[namespace, name]));
        drop(self.last_reconcile.remove_label_values(&[namespace, name]));
    }

    /// In Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

const PREFIX: &str = "metastore_operator";
/// Labels that name a MetaStore.
const NAMESPACE: &str = "metastore_namespace";
const NAME: &str = "metastore";

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(PREFIX)
}

fn register(registry: &Registry, collector: impl prometheus::core::Collector + 'static) {
    registry.register(Box::new(collector)).expect("every figure has a name of its own");
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counters = IntCounterVec::new(options(name, help), labels).expect("a valid name");
    register(registry, counters.clone());
    counters
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::with_opts(options(name, help)).expect("a valid name");
    register(registry, counter.clone());
    counter
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    let gauge = IntGauge::with_opts(options(name, help)).expect("a valid name");
    register(registry, gauge.clone());
    gauge
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let gauges = IntGaugeVec::new(options(name, help), labels).expect("a valid name");
    register(registry, gauges.clone());
    gauges
}

fn seconds(registry: &Registry, name: &str, help: &str) -> GaugeVec {
    let gauges = GaugeVec::new(options(name, help), &[NAMESPACE, NAME]).expect("a valid name");
    register(registry, gauges.clone());
    gauges
}

fn histogram(registry: &Registry) -> Histogram {
    let options =
        HistogramOpts::new("reconcile_duration_seconds", "How long a pass over one resource took.")
            .namespace(PREFIX)
            .buckets(vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
    let histogram = Histogram::with_opts(options).expect("a valid name");
    register(registry, histogram.clone());
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_metastore_go_with_it() {
        let metrics = Metrics::new();
        let before = metrics.text();
        let key = ("ns".to_owned(), "demo".to_owned());
        let mut cluster = Cluster::default();
        (cluster.ready, cluster.wanted, cluster.passed_s) = (2, 3, Some(7));
        cluster.frozen = Some(Freeze::Upgrade.as_str());
        cluster.predicted_failover_s = Some(0.25);
        metrics.show(&key, &cluster);
        let text = metrics.text();
        let of = "metastore=\"demo\",metastore_namespace=\"ns\"";
        for line in [
            format!("members{{{of},state=\"ready\"}} 2"),
            format!("members{{{of},state=\"wanted\"}} 3"),
            format!("autotune_frozen{{{of},reason=\"Upgrade\"}} 1"),
            format!("autotune_frozen{{{of},reason=\"Paused\"}} 0"),
            format!("autotune_predicted_failover_seconds{{{of}}} 0.25"),
            format!("last_reconcile_timestamp_seconds{{{of}}} 7"),
        ] {
            assert!(text.contains(&format!("\n{PREFIX}_{line}\n")), "{line}: {text}");
        }
        metrics.forget(&key);
        let own = |text: &str| text.lines().filter(|line| line.contains(PREFIX)).count();
        assert_eq!(own(&metrics.text()), own(&before), "{}", metrics.text());
    }

    #[test]
    fn every_figure_begins_with_the_operators_name() {
        let metrics = Metrics::new();
        metrics.api_writes.with_label_values(&["Pod", "delete"]).inc();
        let text = metrics.text();
        assert!(
            text.contains("metastore_operator_api_writes_total{kind=\"Pod\",verb=\"delete\"} 1")
        );
        assert!(text.contains("metastore_operator_reconciles_total{result=\"ok\"} 0"));
        let held = "metastore_operator_autotune_plans_total{result=\"held\"} 0";
        assert!(text.contains(held), "{text}");
        for figure in ["rollbacks_total", "plan_age_seconds", "collect_errors_total"] {
            assert!(text.contains(&format!("metastore_operator_autotune_{figure} 0")), "{figure}");
        }
        #[cfg(target_os = "linux")]
        assert!(
            text.lines().any(|line| line.starts_with("process_cpu_seconds_total 0.")),
            "{text}"
        );
        let strangers: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter(|line| !line.starts_with(PREFIX) && !line.starts_with("process_"))
            .collect();
        assert!(strangers.is_empty(), "{strangers:?}");
    }
}
