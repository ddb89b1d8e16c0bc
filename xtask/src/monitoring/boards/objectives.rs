//! What is promised, how well it is kept, and how fast what is allowed is used up.

use super::super::panel::{Board, Panel, ask, lines, quantile, row, stat};
use super::super::slo::{OBJECTIVES, Objective};
use super::{MEMBERS_OF, slow_calls};

const PAGE: &str = "metastore-error-budget-burn";

/// Objectives as they are told.
const TOLD: [(&str, &str, &str); 4] = [
    (
        "availability",
        "Requests that are answered",
        "999 of 1000 unary requests do not fail by the store's fault.",
    ),
    (
        "latency",
        "Puts and ranges in time",
        "99 of 100 puts and ranges are answered in time; promised are 150 ms.",
    ),
    (
        "watch",
        "Events in time",
        "99 of 100 events reach their watcher's stream in time after they were applied.",
    ),
    ("leader", "A leader is known", "Some member knows a leader 999 of 1000 seconds."),
];

fn errors(objective: &Objective, window: &str) -> String {
    format!("({})", objective.errors.replace("WINDOW", window).replace('\n', " "))
}

pub(super) fn board() -> Board {
    let mut panels = Vec::new();
    for (objective, (sli, title, about)) in OBJECTIVES.iter().zip(TOLD) {
        debug_assert_eq!(objective.sli, sli, "in one order");
        panels.push(
            stat(
                title,
                about,
                "percentunit",
                PAGE,
                vec![ask(
                    &format!("1 - {}", errors(objective, "$__range")),
                    "{{namespace}}/{{cluster}}",
                )],
            )
            .steps("red", &[(1.0 - objective.budget.parse::<f64>().expect("a share"), "green")])
            .size(6, 4),
        );
    }
    panels.push(row("How fast what is allowed is used up"));
    for (objective, (_, title, about)) in OBJECTIVES.iter().zip(TOLD) {
        panels.push(burn(objective, title, about));
    }
    panels.push(row("What the objectives count"));
    panels.push(slow_calls("Slowest puts and ranges in a hundred", "99 of 100 are faster."));
    panels.push(
        lines(
            "Slowest events in a hundred",
            "99 of 100 events are handed to their watcher's stream faster.",
            "s",
            PAGE,
            vec![ask(
                &quantile("0.99", "@C", "metastore_watch_delivery_lag_seconds", ""),
                "{{namespace}}/{{cluster}}",
            )],
        )
        .steps("green", &[(0.15, "red")]),
    );
    panels.push(lines(
        "Seconds without a leader",
        "Seconds in which no member knew a leader, since members began.",
        "s",
        "metastore-no-leader",
        vec![ask(
            "min by (@C) (metastore_leaderless_seconds_total{@S})",
            "{{namespace}}/{{cluster}}",
        )],
    ));
    Board {
        uid: "metastore-slo",
        title: "MetaStore / Objectives",
        about: "What is promised, how well it is kept, and how fast what is allowed is used up.",
        pods_of: MEMBERS_OF,
        panels,
    }
}

fn burn(objective: &Objective, title: &str, about: &str) -> Panel {
    let rate = |window: &str| format!("{} / {}", errors(objective, window), objective.budget);
    lines(
        &format!("Burn: {title}"),
        &format!(
            "{about} At 1 thirty days use up just what is allowed; somebody is woken at 14.4 over an hour, or \
             at 6 over six."
        ),
        "short",
        PAGE,
        vec![
            ask(&rate("@W"), "{{namespace}}/{{cluster}} now"),
            ask(&rate("1h"), "{{namespace}}/{{cluster}} over an hour"),
            ask(&rate("6h"), "{{namespace}}/{{cluster}} over six hours"),
        ],
    )
    .steps("green", &[(1.0, "orange"), (6.0, "red")])
    .size(12, 8)
}
