//! Rules of Prometheus: what is recorded, what alerts, and as which file. Alerts carry the situations
//! they are tested with, one they fire in and one they do not.

use std::fmt::Write as _;

use super::expr::{DERIVED, RULES, spell};
use super::scale::Scale;
use super::{etcd, ours, slo};

/// Where the pages are, unless told: their place in the sources.
pub(super) const RUNBOOKS: &str = "docs/operating/runbooks/";

/// Rules that are evaluated in their order.
pub(super) struct Group {
    pub(super) name: &'static str,
    /// Time between evaluations; none: as Prometheus is set.
    pub(super) interval: Option<&'static str>,
    pub(super) records: Vec<Record>,
    pub(super) alerts: Vec<Alert>,
}

/// A query whose answer is kept under a name.
pub(super) struct Record {
    pub(super) name: String,
    pub(super) query: String,
    pub(super) labels: Vec<(&'static str, &'static str)>,
}

/// Somebody is to be told.
pub(super) struct Alert {
    pub(super) name: &'static str,
    /// With the marks of [`super::expr`].
    pub(super) query: String,
    /// How long it has to be so; empty: no time.
    pub(super) hold: &'static str,
    pub(super) severity: &'static str,
    /// More labels.
    pub(super) labels: Vec<(&'static str, &'static str)>,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    /// Situations it is tested with.
    pub(super) cases: Vec<Case>,
}

/// A situation: what members say, and what comes of it.
pub(super) struct Case {
    /// As a fact.
    pub(super) name: &'static str,
    /// Time between samples and between evaluations.
    pub(super) step: &'static str,
    /// Series and their samples.
    pub(super) series: Vec<(String, String)>,
    /// When it is looked at.
    pub(super) at: &'static str,
    /// Firing alerts of this name: labels, but those of the rule, and how the value is written.
    pub(super) fires: Vec<(Vec<(&'static str, &'static str)>, &'static str)>,
}

impl Alert {
    /// The page of the runbook.
    pub(super) fn page(&self) -> String {
        format!("{}.md", kebab(self.name))
    }

    /// What tells two rules of one name apart.
    pub(super) fn all_labels(&self) -> Vec<(&'static str, &'static str)> {
        let mut labels = self.labels.clone();
        labels.push(("severity", self.severity));
        labels.sort_unstable();
        labels
    }
}

/// `MetaStoreNoLeader` → `metastore-no-leader`, `etcdGRPCRequestsSlow` → `etcd-grpc-requests-slow`.
pub(super) fn kebab(name: &str) -> String {
    let name: Vec<char> = name.replace("MetaStore", "Metastore").chars().collect();
    let mut text = String::new();
    for (at, letter) in name.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| name[before]);
        let starts = letter.is_ascii_uppercase()
            && before.is_some_and(|before| {
                !before.is_ascii_uppercase()
                    || name.get(at + 1).is_some_and(char::is_ascii_lowercase)
            });
        if starts {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// Everything, in its order.
pub(super) fn groups() -> Vec<Group> {
    let members = DERIVED
        .iter()
        .map(|derived| Record {
            name: derived.record.to_owned(),
            query: derived.query.to_owned(),
            labels: Vec::new(),
        })
        .collect();
    let mut groups = vec![
        Group {
            name: "metastore-members",
            interval: None,
            records: members,
            alerts: ours::members(),
        },
        Group {
            name: "metastore-operator",
            interval: None,
            records: Vec::new(),
            alerts: ours::operator(),
        },
        Group { name: "etcd", interval: None, records: Vec::new(), alerts: etcd::alerts() },
    ];
    groups.push(slo::group());
    groups
}

/// All alerts.
pub(super) fn alerts() -> Vec<Alert> {
    groups().into_iter().flat_map(|group| group.alerts).collect()
}

const HEAD: &str = "\
# Rules for Prometheus, as `rule_files` takes them; the chart makes a PrometheusRule of them. Written by
# `cargo xtask gen` from xtask/src/monitoring; `cargo xtask rules --help` has them on another scale of time.
# Every series of a member has to carry the labels namespace, cluster (its MetaStore) and pod.
";

/// The file of rules.
pub(super) fn file(scale: Scale, runbooks: &str) -> String {
    let mut text = String::from(HEAD);
    text.push_str("groups:\n");
    for group in groups() {
        write(&mut text, format_args!("  - name: {}\n", group.name));
        if let Some(interval) = group.interval {
            write(&mut text, format_args!("    interval: {interval}\n"));
        }
        text.push_str("    rules:\n");
        for record in &group.records {
            write(&mut text, format_args!("      - record: {}\n", record.name));
            query(&mut text, &record.query, scale);
            labels(&mut text, &record.labels);
        }
        for alert in &group.alerts {
            write(&mut text, format_args!("      - alert: {}\n", alert.name));
            query(&mut text, &alert.query, scale);
            if !alert.hold.is_empty() {
                write(&mut text, format_args!("        for: {}\n", scale.hold(alert.hold)));
            }
            labels(&mut text, &alert.all_labels());
            text.push_str("        annotations:\n");
            write(&mut text, format_args!("          summary: {}\n", quoted(alert.summary)));
            let description = quoted(alert.description);
            write(&mut text, format_args!("          description: {description}\n"));
            let page = quoted(&format!("{runbooks}{}", alert.page()));
            write(&mut text, format_args!("          runbook_url: {page}\n"));
        }
    }
    text
}

fn write(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("memory");
}

fn query(text: &mut String, query: &str, scale: Scale) {
    text.push_str("        expr: |-\n");
    for line in scale.query(&spell(query, RULES)).lines() {
        write(text, format_args!("          {line}\n"));
    }
}

fn labels(text: &mut String, labels: &[(&str, &str)]) {
    if labels.is_empty() {
        return;
    }
    text.push_str("        labels:\n");
    for (name, value) in labels {
        write(text, format_args!("          {name}: {value}\n"));
    }
}

/// As YAML takes anything: JSON's strings are among its own.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pages_are_alerts_in_small_letters() {
        for (alert, page) in [
            ("MetaStoreNoLeader", "metastore-no-leader"),
            ("MetaStoreCpuStarved", "metastore-cpu-starved"),
            ("etcdGRPCRequestsSlow", "etcd-grpc-requests-slow"),
            ("etcdHighNumberOfFailedGRPCRequests", "etcd-high-number-of-failed-grpc-requests"),
        ] {
            assert_eq!(kebab(alert), page);
        }
    }
}
