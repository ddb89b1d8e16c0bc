//! What is promised to users over thirty days, how fast it is being used up, and who is told when: the
//! windows and rates of the SRE workbook. Each promise is one label, `sli`; a burn rate of 1 uses up
//! exactly what is allowed.

use super::cases::of;
use super::rules::{Alert, Case, Group, Record};

/// A promise.
pub(super) struct Objective {
    /// Its label.
    pub(super) sli: &'static str,
    /// Share that may go wrong.
    pub(super) budget: &'static str,
    /// Share that goes wrong; `WINDOW` is where the range stands.
    pub(super) errors: &'static str,
}

/// Calls that fail by no fault of the caller do not count as answered. In time is what takes 204.8 ms at
/// most: the bucket next above the 150 ms that are promised. Of no calls there is no share.
pub(super) const OBJECTIVES: [Objective; 4] = [
    Objective {
        sli: "availability",
        budget: "0.001",
        errors: "\
1 - (
  sum by (@C) (rate(grpc_server_handled_total{grpc_service=~\"etcdserverpb.*\", grpc_type=\"unary\", \
grpc_code!~\"Unknown|ResourceExhausted|Internal|Unavailable|DataLoss|DeadlineExceeded\", @S}[WINDOW]))
  /
  (sum by (@C) (rate(grpc_server_handled_total{grpc_service=~\"etcdserverpb.*\", grpc_type=\"unary\", @S}[WINDOW])) > 0)
)",
    },
    Objective {
        sli: "latency",
        budget: "0.01",
        errors: "\
1 - (
  sum by (@C) (rate(grpc_server_handling_seconds_bucket{grpc_service=\"etcdserverpb.KV\", \
grpc_method=~\"Put|Range\", le=\"0.2048\", @S}[WINDOW]))
  /
  (sum by (@C) (rate(grpc_server_handling_seconds_count{grpc_service=\"etcdserverpb.KV\", \
grpc_method=~\"Put|Range\", @S}[WINDOW])) > 0)
)",
    },
    Objective {
        sli: "watch",
        budget: "0.01",
        errors: "\
1 - (
  sum by (@C) (rate(metastore_watch_delivery_lag_seconds_bucket{le=\"0.2048\", @S}[WINDOW]))
  /
  (sum by (@C) (rate(metastore_watch_delivery_lag_seconds_count{@S}[WINDOW])) > 0)
)",
    },
    Objective {
        sli: "leader",
        budget: "0.001",
        errors: "min by (@C) (rate(metastore_leaderless_seconds_total{@S}[WINDOW]))",
    },
];

/// Ranges that burn rates are recorded over.
const WINDOWS: [&str; 5] = ["5m", "30m", "1h", "6h", "3d"];

/// Name of what is recorded over one range.
pub(super) fn burn(window: &str) -> String {
    format!("metastore:slo_burn:rate{window}")
}

/// Records and alerts.
pub(super) fn group() -> Group {
    let mut records = Vec::new();
    for window in WINDOWS {
        for objective in &OBJECTIVES {
            let errors = objective.errors.replace("WINDOW", window);
            records.push(Record {
                name: burn(window),
                query: format!("({errors})\n/ {}", objective.budget),
                labels: vec![("sli", objective.sli)],
            });
        }
    }
    let alerts = vec![
        alert("fast", "critical", "2m", ["1h", "5m"], "14.4"),
        alert("slow", "critical", "15m", ["6h", "30m"], "6"),
        alert("ticket", "warning", "1h", ["3d", "6h"], "1"),
    ];
    Group { name: "metastore-slo", interval: None, records, alerts }
}

fn alert(
    kind: &'static str,
    severity: &'static str,
    hold: &'static str,
    [long, short]: [&str; 2],
    rate: &str,
) -> Alert {
    let (long, short) = (burn(long), burn(short));
    Alert {
        name: "MetaStoreErrorBudgetBurn",
        query: format!("{long} > {rate}\nand\n{short} > {rate}"),
        hold,
        severity,
        labels: vec![("burn", kind)],
        summary: "What is promised to users is being used up too fast.",
        description: "{{ $labels.namespace }}/{{ $labels.cluster }} uses up what its objective \
                      \"{{ $labels.sli }}\" allows for thirty days {{ $value | humanize }} times too fast.",
        cases: cases(kind),
    }
}

fn cases(kind: &'static str) -> Vec<Case> {
    let fires = |burn: &'static str, severity: &'static str, value: &'static str| {
        let labels = vec![
            ("namespace", "ns"),
            ("cluster", "demo"),
            ("sli", "availability"),
            ("burn", burn),
            ("severity", severity),
        ];
        (labels, value)
    };
    // Of three hours, a sample each minute: rates look as far back as there is something.
    let calls = |ok: u32, failed: u32| {
        let more =
            "grpc_service=\"etcdserverpb.KV\",grpc_method=\"Put\",grpc_type=\"unary\",grpc_code=";
        [("\"OK\"", ok), ("\"Unavailable\"", failed)]
            .map(|(code, count)| {
                of(
                    0,
                    "grpc_server_handled_total",
                    &format!("{more}{code}"),
                    &format!("0+{count}x180"),
                )
            })
            .to_vec()
    };
    let case = |name, series, fires| Case { name, step: "1m", series, at: "3h", fires };
    match kind {
        "fast" => vec![
            case(
                "one call in fifty fails",
                calls(980, 20),
                vec![
                    fires("fast", "critical", "20"),
                    fires("slow", "critical", "20"),
                    fires("ticket", "warning", "20"),
                ],
            ),
            case("one in ten thousand", calls(9999, 1), Vec::new()),
        ],
        "slow" => vec![
            case(
                "one call in a hundred fails",
                calls(990, 10),
                vec![fires("slow", "critical", "10"), fires("ticket", "warning", "10")],
            ),
            case("none", calls(1000, 0), Vec::new()),
        ],
        _ => vec![
            case(
                "one call in five hundred fails",
                calls(998, 2),
                vec![fires("ticket", "warning", "2")],
            ),
            case("nobody calls", calls(0, 0), Vec::new()),
        ],
    }
}
