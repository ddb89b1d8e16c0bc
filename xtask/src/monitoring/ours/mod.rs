//! What MetaStore alerts of by its own: members, the machines below them, the network between them,
//! tuning, and the operator. Where a plan of timing is in force, thresholds follow it.

mod clusters;
mod machines;
mod network;
mod operator;
mod presence;
mod timing;

pub(super) use self::operator::operator;
use super::rules::{Alert, Case};

type Series = Vec<(String, String)>;

fn alert(
    name: &'static str,
    severity: &'static str,
    hold: &'static str,
    query: &str,
    summary: &'static str,
    description: &'static str,
    cases: Vec<Case>,
) -> Alert {
    let (query, labels) = (query.trim().to_owned(), Vec::new());
    Alert { name, query, hold, severity, labels, summary, description, cases }
}

/// It fires, of one member or cluster.
fn fires(
    name: &'static str,
    series: Series,
    labels: &[(&'static str, &'static str)],
    value: &'static str,
) -> Case {
    Case { name, step: "15s", series, at: "30m", fires: vec![(labels.to_vec(), value)] }
}

/// It does not.
fn quiet(name: &'static str, series: Series) -> Case {
    Case { name, step: "15s", series, at: "30m", fires: Vec::new() }
}

/// Members and what is below and between them.
pub(super) fn members() -> Vec<Alert> {
    let mut alerts = presence::presence();
    alerts.extend(clusters::clusters());
    alerts.extend(machines::machines());
    alerts.extend(network::network());
    alerts.extend(timing::timing());
    alerts
}
