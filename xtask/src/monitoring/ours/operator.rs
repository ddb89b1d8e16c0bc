//! The operator, what it does to clusters, and what only it knows of them.

use super::{Series, alert, fires, quiet};
use crate::monitoring::cases::{but, healthy};
use crate::monitoring::rules::{Alert, Case};

/// Of one MetaStore, as the operator says it: under the labels members have.
fn of_store(query: &str) -> String {
    format!(
        "label_replace(\n  label_replace(\n    {query},\n    \"namespace\", \"$1\", \"metastore_namespace\", \"(.*)\"\n  ),\n  \
         \"cluster\", \"$1\", \"metastore\", \"(.*)\"\n)"
    )
}

const OPERATOR: [(&str, &str); 3] =
    [("namespace", "system"), ("pod", "operator-0"), ("container", "operator")];

/// A series of the operator.
fn said(metric: &str, more: &str, samples: &str) -> (String, String) {
    let labels: Vec<String> =
        OPERATOR.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let comma = if more.is_empty() { "" } else { "," };
    (format!("{metric}{{{}{comma}{more}}}", labels.join(",")), samples.to_owned())
}

/// A series of the operator about one MetaStore.
fn said_of(metric: &str, more: &str, samples: &str) -> (String, String) {
    let comma = if more.is_empty() { "" } else { "," };
    said(metric, &format!("metastore_namespace=\"ns\",metastore=\"demo\"{comma}{more}"), samples)
}

const STORE_SAID: [(&str, &str); 4] = [
    ("namespace", "ns"),
    ("cluster", "demo"),
    ("metastore_namespace", "ns"),
    ("metastore", "demo"),
];

/// So many members are ready.
fn members_said(ready: &str) -> Series {
    let samples = format!("{ready}+0x400");
    vec![said_of("metastore_operator_members", "state=\"ready\"", &samples)]
}

/// The operator, and what it does to clusters.
pub(in crate::monitoring) fn operator() -> Vec<Alert> {
    let leads = || said("metastore_operator_leader", "", "1+0x400");
    let mut frozen = STORE_SAID.to_vec();
    frozen.push(("reason", "Rollbacks"));
    let frozen_at = |samples: &str| {
        vec![said_of("metastore_operator_autotune_frozen", "reason=\"Rollbacks\"", samples)]
    };
    let passed = |samples: &str| {
        vec![leads(), said_of("metastore_operator_last_reconcile_timestamp_seconds", "", samples)]
    };
    let passes = |ok: &str, error: &str| {
        let metric = "metastore_operator_reconciles_total";
        vec![leads(), said(metric, "result=\"ok\"", ok), said(metric, "result=\"error\"", error)]
    };
    vec![
        alert(
            "MetaStoreOperatorDown",
            "warning",
            "1m",
            "\
(
  group by (namespace) (last_over_time(metastore_operator_leader[1d]))
  unless on (namespace) group by (namespace) (metastore_operator_leader == 1)
)
or
absent(last_over_time(metastore_operator_leader[1d]))",
            "No operator works.",
            "No operator{{ if $labels.namespace }} in {{ $labels.namespace }}{{ end }} can be scraped and holds the lease. Members go on; nothing \
             is repaired, scaled, upgraded or tuned.",
            vec![
                fires(
                    "an operator that is gone",
                    vec![said("metastore_operator_leader", "", "1+0x20 stale")],
                    &[("namespace", "system")],
                    "1",
                ),
                fires(
                    "one that never gets the lease",
                    vec![said("metastore_operator_leader", "", "0+0x400")],
                    &[("namespace", "system")],
                    "1",
                ),
                Case {
                    name: "nobody has ever seen one",
                    step: "15s",
                    series: healthy(),
                    at: "30m",
                    fires: vec![(vec![("namespace", "")], "1")],
                },
                quiet("one that works", vec![leads()]),
            ],
        ),
        alert(
            "MetaStoreOperatorNotReconciling",
            "warning",
            "5m",
            &format!(
                "{} > 900\nor\n\
                 sum by (namespace) (rate(metastore_operator_reconciles_total{{result=\"error\"}}[10m]))\n\
                 / on (namespace)\n\
                 sum by (namespace) (rate(metastore_operator_reconciles_total[10m]))\n> 0.5",
                of_store(
                    "time() - max by (metastore_namespace, metastore) \
                     (metastore_operator_last_reconcile_timestamp_seconds)"
                )
            ),
            "The operator does not get on.",
            "In {{ $labels.namespace }} the operator has not looked at a MetaStore for a quarter of an hour, or \
             more than half of its passes fail.",
            vec![
                fires("no pass for 25 minutes", passed("300+0x400"), &STORE_SAID, "1500"),
                fires(
                    "passes that fail",
                    passes("0+1x400", "0+3x400"),
                    &[("namespace", "system")],
                    "0.75",
                ),
                quiet("passes as they should be", passed("0+15x400")),
                quiet("few that fail", passes("0+9x400", "0+1x400")),
            ],
        ),
        alert(
            "MetaStoreNotScraped",
            "warning",
            "10m",
            &format!(
                "{}\nunless on (@C) group by (@C) (metastore_build_info{{@S}})",
                of_store(
                    "max by (metastore_namespace, metastore) (metastore_operator_members{state=\"ready\"}) > 0"
                )
            ),
            "Nobody looks at the members of a cluster.",
            "The operator says that {{ $labels.namespace }}/{{ $labels.cluster }} has members that are ready, \
             and Prometheus has metrics of none of them: its dashboards are empty and no alert of it can fire.",
            vec![
                fires("members that no monitor selects", members_said("3"), &STORE_SAID, "3"),
                quiet("members that are scraped", but(healthy(), members_said("3"))),
                quiet("a cluster that has none yet", members_said("0")),
            ],
        ),
        alert(
            "MetaStoreTuningFrozen",
            "warning",
            "15m",
            &of_store(
                "max by (metastore_namespace, metastore, reason) (metastore_operator_autotune_frozen) == 1",
            ),
            "Timing does not follow the network.",
            "Tuning of {{ $labels.namespace }}/{{ $labels.cluster }} is held: {{ $labels.reason }}. The timing \
             in force stays, whatever the network does.",
            vec![
                fires("held for longer", frozen_at("1+0x400"), &frozen, "1"),
                quiet("held for a moment", frozen_at("0+0x100 1+0x20 0+0x280")),
            ],
        ),
        alert(
            "MetaStoreTuningRolledBack",
            "warning",
            "",
            "sum by (namespace) (increase(metastore_operator_autotune_rollbacks_total[1h])) > 0",
            "A plan of timing was taken back.",
            "The operator in {{ $labels.namespace }} took back a plan of timing within the last hour: leaders \
             were lost under it, or a member refused it.",
            vec![
                fires(
                    "one was",
                    vec![said("metastore_operator_autotune_rollbacks_total", "", "0+0x60 1+0x340")],
                    &[("namespace", "system")],
                    "1.0",
                ),
                quiet(
                    "none was",
                    vec![said("metastore_operator_autotune_rollbacks_total", "", "3+0x400")],
                ),
            ],
        ),
    ]
}
