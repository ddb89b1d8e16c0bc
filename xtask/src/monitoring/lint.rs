//! What a linter of dashboards and mixins asks, as tests: of the files as they are imported, so that
//! nothing depends on how they were made. Beside them what such a linter cannot know: that every metric
//! asked for is one that exists, and every alert has its page.
//!
//! That queries are PromQL is for promtool to say (`.ci/monitoring.sh`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::rules::{self, RUNBOOKS, alerts, groups};
use crate::chores::root;

fn dashboards() -> Vec<(&'static str, Value)> {
    let parse = |(path, text): (&'static str, String)| (path, serde_json::from_str(&text).unwrap());
    super::dashboards().into_iter().map(parse).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Panels that are not headings, with the name of their dashboard.
fn panels() -> Vec<(&'static str, Value)> {
    let of = |(path, board): (&'static str, Value)| {
        let panels: Vec<Value> =
            list(&board["panels"]).iter().filter(|panel| panel["type"] != "row").cloned().collect();
        panels.into_iter().map(move |panel| (path, panel))
    };
    dashboards().into_iter().flat_map(of).collect()
}

/// Queries, with where they stand.
fn queries() -> Vec<(String, String)> {
    let of = |(path, panel): (&'static str, Value)| {
        let title = format!("{path}: {}", text(&panel["title"]));
        let targets = list(&panel["targets"]).to_vec();
        targets.into_iter().map(move |target| (title.clone(), text(&target["expr"]).to_owned()))
    };
    panels().into_iter().flat_map(of).collect()
}

/// A metric, its matchers and its range, for each selector of a query.
fn selectors(query: &str) -> Vec<(String, String, String)> {
    let words = [
        "by",
        "on",
        "and",
        "or",
        "unless",
        "bool",
        "group_left",
        "sum",
        "max",
        "min",
        "count",
        "rate",
        "increase",
        "abs",
        "absent",
        "floor",
        "group",
        "time",
        "quantile",
        "deriv",
        "changes",
        "histogram_quantile",
        "label_replace",
        "label_join",
        "last_over_time",
        "quantile_over_time",
        "clamp_min",
        "clamp_max",
        "predict_linear",
        "without",
    ];
    // Lists of labels are no metrics.
    let mut rest = query;
    let mut bare = String::new();
    while let Some(at) = [" by (", " on (", "group_left ("]
        .iter()
        .filter_map(|w| Some((rest.find(w)?, w.len())))
        .min()
    {
        bare.push_str(&rest[..at.0]);
        let after = &rest[at.0 + at.1..];
        rest = &after[after.find(')').expect("an end")..];
        bare.push_str(" by (");
    }
    bare.push_str(rest);
    let mut found = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    let letters: Vec<char> = bare.chars().chain([' ']).collect();
    let mut at = 0;
    while at < letters.len() {
        let letter = letters[at];
        if letter == '"' {
            quoted = !quoted;
        }
        if !quoted && (letter.is_ascii_alphanumeric() || "_:$".contains(letter)) {
            word.push(letter);
        } else if !quoted {
            let begins = word.chars().next().is_some_and(|first| first.is_ascii_alphabetic());
            if begins && !words.contains(&word.as_str()) {
                let tail: String = letters[at..].iter().collect();
                let (matchers, tail) = match tail.strip_prefix('{') {
                    Some(inside) => {
                        let (matchers, after) = inside.split_once('}').expect("an end");
                        (matchers.to_owned(), after.to_owned())
                    }
                    None => (String::new(), tail.clone()),
                };
                at = letters.len() - tail.chars().count();
                let range = tail.strip_prefix('[').and_then(|tail| tail.split_once(']'));
                let range = range.map(|(range, _)| range.to_owned()).unwrap_or_default();
                if !range.is_empty() {
                    at += range.chars().count() + 2;
                }
                found.push((word.clone(), matchers, range));
                word.clear();
                continue;
            }
            if letter == '[' {
                at += letters[at..].iter().position(|letter| *letter == ']').expect("an end");
            }
            word.clear();
        }
        at += 1;
    }
    found
}

#[test]
fn selectors_are_found_with_their_matchers_and_ranges() {
    let query = "sum by (pod, le) (rate(a_bucket{x=\"b{c\", y=~\"$p\"}[$__rate_interval])) / on (pod) b:c > 1";
    let found = selectors(query);
    let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["a_bucket", "b:c"]);
    assert_eq!(found[0].2, "$__rate_interval");
}

#[test]
fn dashboards_have_the_variables_that_queries_use_and_no_source_of_their_own() {
    for (path, board) in dashboards() {
        let names: Vec<&str> = list(&board["templating"]["list"])
            .iter()
            .map(|variable| text(&variable["name"]))
            .collect();
        assert_eq!(names, ["datasource", "namespace", "cluster", "pod", "runbooks"], "{path}");
        assert_eq!(board["templating"]["list"][0]["type"], "datasource", "{path}");
        for variable in &list(&board["templating"]["list"])[1..4] {
            assert_eq!(variable["datasource"]["uid"], "${datasource}", "{path}");
            assert_eq!(variable["refresh"], 2, "{path}: follows the range of time");
        }
        for panel in list(&board["panels"]) {
            let sources = list(&panel["targets"]).iter().map(|target| &target["datasource"]);
            for source in sources {
                assert_eq!(source["uid"], "${datasource}", "{path}: {}", panel["title"]);
            }
        }
        for annotation in &list(&board["annotations"]["list"])[1..] {
            assert_eq!(annotation["datasource"]["uid"], "${datasource}", "{path}");
        }
        let file = path.rsplit('/').next().and_then(|file| file.strip_suffix(".json"));
        assert_eq!(board["uid"].as_str(), file, "{path}: found by the name of its file");
        assert_eq!(board["id"], Value::Null, "{path}: Grafana numbers it");
        assert_eq!(board["tags"], serde_json::json!(["metastore"]), "{path}");
        assert!(!text(&board["description"]).is_empty(), "{path}");
    }
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_what_to_do() {
    let pages: BTreeSet<String> = pages();
    for (path, panel) in panels() {
        let title = text(&panel["title"]);
        assert!(!title.is_empty(), "{path}");
        let about = text(&panel["description"]);
        assert!(about.ends_with(['.', '?']), "{path}: {title}: {about:?}");
        if panel["type"] != "alertlist" {
            assert!(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), "{path}: {title}");
            assert!(!list(&panel["targets"]).is_empty(), "{path}: {title}");
        }
        let link = text(&panel["links"][0]["url"]);
        let page =
            link.strip_prefix("${runbooks}").unwrap_or_else(|| panic!("{path}: {title}: {link}"));
        assert!(page == "README.md" || pages.contains(page), "{path}: {title}: no page {page}");
        for target in list(&panel["targets"]) {
            assert!(
                !text(&target["legendFormat"]).is_empty(),
                "{path}: {title}: lines without names"
            );
        }
    }
}

#[test]
fn titles_and_numbers_of_panels_are_their_own_and_no_panel_lies_on_another() {
    for (path, board) in dashboards() {
        let panels = list(&board["panels"]);
        let titles: BTreeSet<&str> = panels.iter().map(|panel| text(&panel["title"])).collect();
        assert_eq!(titles.len(), panels.len(), "{path}: titles");
        let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
        assert_eq!(ids.len(), panels.len(), "{path}: numbers");
        let mut taken = BTreeMap::new();
        for panel in panels {
            let of = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            let (x, y, w, h) = (of("x"), of("y"), of("w"), of("h"));
            assert!(x + w <= 24 && h > 0, "{path}: {}", panel["title"]);
            for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                let before = taken.insert(place, &panel["title"]);
                assert!(before.is_none(), "{path}: {} lies on {before:?}", panel["title"]);
            }
        }
        for panel in panels {
            let names: Vec<&str> =
                list(&panel["targets"]).iter().map(|target| text(&target["refId"])).collect();
            let own: BTreeSet<&&str> = names.iter().collect();
            assert_eq!(own.len(), names.len(), "{path}: {}", panel["title"]);
        }
    }
}

#[test]
fn rates_look_as_far_back_as_grafana_says() {
    for (at, query) in queries() {
        for call in ["rate(", "increase("] {
            for (start, _) in query.match_indices(call) {
                let range =
                    query[start..].split_once('[').and_then(|(_, tail)| tail.split_once(']'));
                let range = range.map(|(range, _)| range).unwrap_or_default();
                let objectives =
                    at.contains("metastore-slo") && ["1h", "6h", "$__range"].contains(&range);
                assert!(range == "$__rate_interval" || objectives, "{at}: [{range}]");
            }
        }
    }
}

#[test]
fn queries_ask_for_what_is_chosen_and_for_no_job() {
    for (at, query) in queries() {
        assert!(!query.contains("vector("), "{at}: a number of nobody");
        for (metric, matchers, _) in selectors(&query) {
            assert!(
                !matchers.contains("job") && !matchers.contains("instance"),
                "{at}: {matchers}"
            );
            let chosen =
                if metric.starts_with("metastore_operator_") || at.contains("operator.json") {
                    matchers.contains("$cluster")
                        || matchers.contains("$pod")
                        || metric == "metastore_operator_leader"
                } else {
                    matchers.contains("namespace=~\"$namespace\"")
                        && matchers.contains("cluster=~\"$cluster\"")
                };
            assert!(chosen, "{at}: {metric}{{{matchers}}}");
        }
    }
}

#[test]
fn rules_ask_for_members_of_clusters_and_for_no_job() {
    for group in groups() {
        let records = group.records.iter().map(|record| (record.name.clone(), &record.query));
        let alerts = group.alerts.iter().map(|alert| (alert.name.to_owned(), &alert.query));
        for (name, query) in records.chain(alerts) {
            let query = super::expr::spell(query, super::expr::RULES).replace('\n', " ");
            for (metric, matchers, _) in selectors(&query) {
                assert!(!matchers.contains("job"), "{name}: {matchers}");
                let of_all =
                    metric.starts_with("metastore:") || metric.starts_with("metastore_operator_");
                assert!(
                    of_all || matchers.contains("cluster!=\"\""),
                    "{name}: {metric}{{{matchers}}}"
                );
            }
        }
    }
}

/// Files of the runbook, but its first page.
fn pages() -> BTreeSet<String> {
    std::fs::read_dir(root().join(RUNBOOKS))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect()
}

#[test]
fn every_alert_has_a_page_and_every_page_an_alert() {
    let wanted: BTreeSet<String> = alerts().iter().map(rules::Alert::page).collect();
    assert_eq!(wanted, pages());
    let index = std::fs::read_to_string(root().join(RUNBOOKS).join("README.md")).unwrap();
    for alert in alerts() {
        let line = format!("| [{}]({}) | {} |", alert.name, alert.page(), alert.summary);
        assert!(index.contains(&line), "README.md: {line}");
    }
}

#[test]
fn every_page_says_the_same_things_in_the_same_order() {
    const PARTS: [&str; 7] = [
        "What it means",
        "Is it urgent?",
        "What users see",
        "Confirm",
        "Do",
        "Do not",
        "It ends when",
    ];
    for alert in alerts() {
        let page = std::fs::read_to_string(root().join(RUNBOOKS).join(alert.page())).unwrap();
        assert!(page.starts_with(&format!("# {}\n", alert.name)), "{}", alert.page());
        let parts: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(parts, PARTS, "{}", alert.page());
        assert!(page.contains("```promql\n") && page.contains("```sh\n"), "{}", alert.page());
        for link in page.split("](").skip(1) {
            let path = link.split([')', '#']).next().unwrap();
            let file = root().join(RUNBOOKS).join(path);
            assert!(file.is_file(), "{}: {path} is not there", alert.page());
        }
    }
}

#[test]
fn every_alert_is_tested_to_fire_and_not_to_fire() {
    let mut seen = BTreeMap::<_, (bool, bool)>::new();
    for alert in alerts() {
        let name = (alert.name, alert.all_labels());
        assert!(
            !alert.summary.is_empty() && alert.description.contains("{{ $labels.namespace }}"),
            "{name:?}"
        );
        assert!(alert.summary.ends_with('.') && alert.description.ends_with('.'), "{name:?}");
        assert!(["warning", "critical"].contains(&alert.severity), "{name:?}");
        let entry = seen.entry(name).or_default();
        entry.0 |= alert.cases.iter().any(|case| !case.fires.is_empty());
        entry.1 |= alert.cases.iter().any(|case| case.fires.is_empty());
    }
    for (name, told) in seen {
        assert_eq!(told, (true, true), "{name:?}: fires, is quiet");
    }
}

#[test]
fn etcds_alerts_are_all_there_under_their_names() {
    let names: Vec<&str> =
        alerts().iter().map(|alert| alert.name).filter(|name| name.starts_with("etcd")).collect();
    let own: BTreeSet<&&str> = names.iter().collect();
    assert_eq!((own.len(), names.len()), (13, 15));
}

/// What the dashboards and alerts of etcd's mixin ask for: metric, and labels it selects or groups by
/// beside those of the target.
const MIXIN: [(&str, &[&str]); 22] = [
    ("etcd_server_has_leader", &[]),
    ("etcd_server_leader_changes_seen_total", &[]),
    ("etcd_server_proposals_failed_total", &[]),
    ("etcd_server_proposals_pending", &[]),
    ("etcd_server_proposals_committed_total", &[]),
    ("etcd_server_proposals_applied_total", &[]),
    ("etcd_server_quota_backend_bytes", &[]),
    ("etcd_mvcc_db_total_size_in_bytes", &[]),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", &[]),
    ("etcd_disk_wal_fsync_duration_seconds", &["le"]),
    ("etcd_disk_backend_commit_duration_seconds", &["le"]),
    ("etcd_network_client_grpc_received_bytes_total", &[]),
    ("etcd_network_client_grpc_sent_bytes_total", &[]),
    ("etcd_network_peer_received_bytes_total", &["From"]),
    ("etcd_network_peer_sent_bytes_total", &["To"]),
    ("etcd_network_peer_sent_failures_total", &["To"]),
    ("etcd_network_peer_round_trip_time_seconds", &["To", "le"]),
    ("grpc_server_started_total", &["grpc_method", "grpc_service", "grpc_type"]),
    ("grpc_server_handled_total", &["grpc_code", "grpc_method", "grpc_service", "grpc_type"]),
    ("grpc_server_handling_seconds", &["grpc_method", "grpc_service", "grpc_type", "le"]),
    ("process_resident_memory_bytes", &[]),
    ("up", &[]),
];

/// Everything below a folder of sources, as one text.
fn sources(folder: &str) -> String {
    let mut text = String::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    text
}

#[test]
fn members_have_every_metric_that_etcds_dashboards_ask_for() {
    let sources = sources("server/src") + &sources("process/src");
    for (metric, labels) in MIXIN {
        let of_prometheus = metric == "up";
        // What counts for a whole process is built of its prefix by the collector.
        assert!(of_prometheus || sources.contains(&format!("\"{metric}\"")), "{metric}");
        for label in labels.iter().filter(|label| **label != "le") {
            assert!(sources.contains(&format!("\"{label}\"")), "{metric}: {label}");
        }
    }
}

#[test]
fn every_metric_that_is_asked_for_exists() {
    let sources = sources("server/src") + &sources("process/src") + &sources("operator/src");
    let recorded: BTreeSet<String> =
        groups().into_iter().flat_map(|group| group.records).map(|record| record.name).collect();
    let rules = groups().into_iter().flat_map(|group| {
        let records = group.records.into_iter().map(|record| record.query);
        records.chain(group.alerts.into_iter().map(|alert| alert.query)).collect::<Vec<_>>()
    });
    let rules = rules.map(|query| {
        ("a rule".to_owned(), super::expr::spell(&query, super::expr::RULES).replace('\n', " "))
    });
    for (at, query) in queries().into_iter().chain(rules) {
        for (metric, ..) in selectors(&query) {
            if ["up", "scrape_duration_seconds"].contains(&metric.as_str())
                || recorded.contains(&metric)
            {
                continue;
            }
            let parts = ["_bucket", "_sum", "_count"];
            let family = parts.iter().find_map(|part| metric.strip_suffix(part)).unwrap_or(&metric);
            let own = family.strip_prefix("metastore_operator_");
            let named = |name: &str| sources.contains(&format!("\"{name}\""));
            let exists = named(family) || named(&metric) || own.is_some_and(named);
            assert!(exists, "{at}: {metric}");
        }
    }
}
