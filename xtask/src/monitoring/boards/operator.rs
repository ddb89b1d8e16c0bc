//! The operator: whether it works, what it does, and what it thinks of each cluster.

use super::super::panel::{Board, ask, lines, quantile, row, stat};

/// What the operator says of a MetaStore, which is not among its own labels.
const OF_STORE: &str = "metastore_namespace=~\"$namespace\", metastore=~\"$cluster\"";

#[allow(clippy::too_many_lines, reason = "a list")]
pub(super) fn board() -> Board {
    let of_store = |metric: &str| format!("{metric}{{{OF_STORE}}}");
    let own = |metric: &str| format!("{metric}{{pod=~\"$pod\"}}");
    let of_stores = |outer: &str, metric: &str, legend: &str| {
        vec![ask(&format!("{outer} ({})", of_store(metric)), legend)]
    };
    let of_pods = |outer: &str, metric: &str, legend: &str| {
        vec![ask(&format!("{outer} ({})", own(metric)), legend)]
    };
    Board {
        uid: "metastore-operator",
        title: "MetaStore / Operator",
        about: "Whether the operator works, what it does, and what it thinks of each cluster.",
        pods_of: "metastore_operator_leader",
        panels: vec![
            stat(
                "Works",
                "Whether this operator holds the lease; others stand by.",
                "bool_yes_no",
                "metastore-operator-down",
                of_pods("max by (pod)", "metastore_operator_leader", "{{pod}}"),
            )
            .steps("orange", &[(1.0, "green")])
            .size(6, 4),
            stat(
                "Members ready",
                "Members that are ready, as a share of those wanted.",
                "percentunit",
                "metastore-member-down",
                vec![ask(
                    &format!(
                        "sum by (metastore_namespace, metastore) (metastore_operator_members{{state=\"ready\", \
                         {OF_STORE}}}) / sum by (metastore_namespace, metastore) \
                         (metastore_operator_members{{state=\"wanted\", {OF_STORE}}})"
                    ),
                    "{{metastore}}",
                )],
            )
            .steps("red", &[(0.5, "orange"), (1.0, "green")])
            .size(6, 4),
            stat(
                "Last pass",
                "How long ago each MetaStore was last looked at.",
                "s",
                "metastore-operator-not-reconciling",
                of_stores("time() - max by (metastore_namespace, metastore)", "metastore_operator_last_reconcile_timestamp_seconds", "{{metastore}}"),
            )
            .steps("green", &[(300.0, "orange"), (900.0, "red")])
            .size(6, 4),
            stat(
                "Tuning held",
                "Whether tuning of a MetaStore is held, and why.",
                "bool_yes_no",
                "metastore-tuning-frozen",
                of_stores("max by (metastore_namespace, metastore, reason)", "metastore_operator_autotune_frozen", "{{metastore}} {{reason}}"),
            )
            .steps("green", &[(1.0, "orange")])
            .size(6, 4),
            row("What it does"),
            lines(
                "Passes",
                "Passes over a resource, by result.",
                "cps",
                "metastore-operator-not-reconciling",
                vec![ask(
                    &format!("sum by (pod, result) (rate({}[@W]))", own("metastore_operator_reconciles_total")),
                    "{{pod}} {{result}}",
                )],
            ),
            lines(
                "How long passes take",
                "Half, and 99 of 100, of the passes over a resource are shorter.",
                "s",
                "metastore-operator-not-reconciling",
                ["0.5", "0.99"]
                    .map(|share| {
                        let query = quantile(share, "pod", "metastore_operator_reconcile_duration_seconds", "")
                            .replace("@S", "pod=~\"$pod\"");
                        ask(&query, &format!("{{{{pod}}}} {share}"))
                    })
                    .into_iter()
                    .collect(),
            ),
            lines(
                "Time since the last pass",
                "How long ago each MetaStore was last looked at.",
                "s",
                "metastore-operator-not-reconciling",
                of_stores("time() - max by (metastore_namespace, metastore)", "metastore_operator_last_reconcile_timestamp_seconds", "{{metastore}}"),
            ),
            lines(
                "Steps",
                "Steps that were carried out, by kind.",
                "short",
                "metastore-operator-not-reconciling",
                of_pods("sum by (step)", "metastore_operator_steps_total", "{{step}}"),
            ),
            lines(
                "Writes to the API server",
                "Writes to the API server, by kind and verb.",
                "cps",
                "metastore-operator-not-reconciling",
                vec![ask(
                    &format!("sum by (kind, verb) (rate({}[@W]))", own("metastore_operator_api_writes_total")),
                    "{{verb}} {{kind}}",
                )],
            ),
            lines(
                "Processor and memory",
                "Processors the operator keeps busy.",
                "short",
                "metastore-operator-down",
                vec![ask(
                    "sum by (namespace, pod) (rate(process_cpu_seconds_total{pod=~\"$pod\"}[@W]) and on \
                     (namespace, pod) metastore_operator_leader{pod=~\"$pod\"})",
                    "{{pod}}",
                )],
            ),
            row("Clusters"),
            lines(
                "Clusters by condition",
                "Clusters whose condition is true.",
                "short",
                "metastore-operator-not-reconciling",
                of_pods("max by (condition)", "metastore_operator_clusters", "{{condition}}"),
            ),
            lines(
                "Members",
                "Members that are ready, and those that are wanted.",
                "short",
                "metastore-member-down",
                of_stores("sum by (metastore_namespace, metastore, state)", "metastore_operator_members", "{{metastore}} {{state}}"),
            ),
            row("Tuning"),
            lines(
                "Plans of timing",
                "Plans since the operator began, by what became of them.",
                "short",
                "metastore-tuning-rolled-back",
                of_pods("sum by (result)", "metastore_operator_autotune_plans_total", "{{result}}"),
            ),
            lines(
                "Plans taken back",
                "Plans of timing that were taken back, since the operator began.",
                "short",
                "metastore-tuning-rolled-back",
                of_pods("sum by (pod)", "metastore_operator_autotune_rollbacks_total", "{{pod}}"),
            ),
            lines(
                "Age of a plan under way",
                "Age of the oldest plan that has not arrived everywhere; 0: there is none.",
                "s",
                "metastore-tuning-frozen",
                of_pods("max by (pod)", "metastore_operator_autotune_plan_age_seconds", "{{pod}}"),
            ),
            lines(
                "Members that do not tell",
                "Members that were asked what they measure and did not answer, since the operator began.",
                "short",
                "metastore-tuning-frozen",
                of_pods("sum by (pod)", "metastore_operator_autotune_collect_errors_total", "{{pod}}"),
            ),
            lines(
                "Predicted failover",
                "How long the operator expects a cluster to be without a leader when one is lost.",
                "s",
                "metastore-tuning-frozen",
                vec![ask(
                    &of_store("metastore_operator_autotune_predicted_failover_seconds"),
                    "{{metastore}}",
                )],
            ),
            lines(
                "Tuning held, over time",
                "1 while tuning of a MetaStore is held, by reason.",
                "short",
                "metastore-tuning-frozen",
                of_stores("max by (metastore_namespace, metastore, reason)", "metastore_operator_autotune_frozen", "{{metastore}} {{reason}}"),
            ),
        ],
    }
}
