//! What members say in situations that rules are tested with, and the file promtool reads them from.

use std::fmt::Write as _;

use super::rules::{Alert, Case, RUNBOOKS, alerts, quoted};

/// Of a member in tests.
pub(super) const POD: [(&str, &str); 3] =
    [("namespace", "ns"), ("cluster", "demo"), ("pod", "demo-2")];
/// Of a cluster in tests.
pub(super) const STORE: [(&str, &str); 2] = [("namespace", "ns"), ("cluster", "demo")];

/// A series of member `n`, with more labels as they are written in a selector.
pub(super) fn of(n: u8, metric: &str, more: &str, samples: &str) -> (String, String) {
    let comma = if more.is_empty() { "" } else { "," };
    let labels = format!("namespace=\"ns\",cluster=\"demo\",pod=\"demo-{n}\"{comma}{more}");
    (format!("{metric}{{{labels}}}"), samples.to_owned())
}

/// The same of all three members.
pub(super) fn all(metric: &str, more: &str, samples: &str) -> Vec<(String, String)> {
    (0..3).map(|n| of(n, metric, more, samples)).collect()
}

/// A histogram of member 2 with a hundred samples each step: none up to `from`, all up to `to`.
pub(super) fn histogram(metric: &str, more: &str, from: &str, to: &str) -> Vec<(String, String)> {
    let comma = if more.is_empty() { "" } else { "," };
    [(from, "0+0x400"), (to, "0+100x400"), ("+Inf", "0+100x400")]
        .into_iter()
        .map(|(le, samples)| of(2, metric, &format!("{more}{comma}le=\"{le}\""), samples))
        .collect()
}

/// Ids of members, as peers call them.
const IDS: [&str; 3] = ["a0", "b1", "c2"];

/// Three members that are well: scraped, in touch with each other, with a leader.
pub(super) fn healthy() -> Vec<(String, String)> {
    let mut series = Vec::new();
    for n in 0..3_u8 {
        let id = IDS[usize::from(n)];
        series.push(of(n, "up", "", "1+0x400"));
        series.push(of(n, "scrape_duration_seconds", "", "0.01+0x400"));
        series.push(of(n, "metastore_build_info", "version=\"0.1.0\"", "1+0x400"));
        series.push(of(n, "etcd_server_id", &format!("server_id=\"{id}\""), "1+0x400"));
        series.push(of(n, "etcd_server_has_leader", "", "1+0x400"));
        series.push(of(n, "etcd_server_is_learner", "", "0+0x400"));
        let timing = "metastore_raft_timing_effective_seconds";
        series.push(of(n, timing, "timing=\"election\"", "1+0x400"));
        series.push(of(n, timing, "timing=\"heartbeat\"", "0.1+0x400"));
        for peer in (0..3).filter(|peer| *peer != n) {
            let peer = IDS[usize::from(peer)];
            let ends = format!("Local=\"{id}\",Remote=\"{peer}\"");
            series.push(of(n, "etcd_network_known_peers", &ends, "1+0x400"));
            let to = format!("To=\"{peer}\"");
            series.push(of(n, "metastore_peer_silent_seconds", &to, "0.05+0x400"));
            series.push(of(n, "metastore_peer_srtt_seconds", &to, "0.0005+0x400"));
            series.push(of(n, "metastore_peer_clock_offset_seconds", &to, "0.001+0x400"));
        }
    }
    series
}

/// `series`, with some in place of those of the same name and labels, or besides.
pub(super) fn but(
    mut series: Vec<(String, String)>,
    others: Vec<(String, String)>,
) -> Vec<(String, String)> {
    for (name, samples) in others {
        match series.iter_mut().find(|(have, _)| *have == name) {
            Some(have) => have.1 = samples,
            None => series.push((name, samples)),
        }
    }
    series
}

/// Nobody scrapes member `n` from the 20th sample on: what it says of itself ends.
pub(super) fn unscraped(series: Vec<(String, String)>, n: u8, took: &str) -> Vec<(String, String)> {
    let own = format!("pod=\"demo-{n}\"");
    let ended = |(name, samples): (String, String)| {
        let samples = if !name.contains(&own) {
            samples
        } else if name.starts_with("up{") {
            "1+0x20 0+0x380".to_owned()
        } else if name.starts_with("scrape_duration_seconds{") {
            format!("0.01+0x20 {took}+0x380")
        } else {
            format!("{}+0x20 stale", samples.split('+').next().unwrap_or("0"))
        };
        (name, samples)
    };
    series.into_iter().map(ended).collect()
}

/// Its peers hear nothing of member `n` from the 20th sample on; a sample is 15 seconds.
pub(super) fn unheard(n: u8) -> Vec<(String, String)> {
    let to = format!("To=\"{}\"", IDS[usize::from(n)]);
    (0..3)
        .filter(|peer| *peer != n)
        .map(|peer| of(peer, "metastore_peer_silent_seconds", &to, "0.05+0x20 15+15x380"))
        .collect()
}

const HEAD: &str = "\
# Situations in which each alert fires, and in which it does not; written by `cargo xtask gen` from
# xtask/src/monitoring. Run: promtool test rules FILE
rule_files: [../metastore/rules/metastore.rules.yaml]
group_eval_order: [metastore-members, metastore-operator, etcd, metastore-slo]
tests:
";

/// promtool's file of tests.
pub(super) fn file() -> String {
    let alerts = alerts();
    let mut text = String::from(HEAD);
    for alert in &alerts {
        for case in &alert.cases {
            one(&mut text, alert, case);
        }
    }
    text
}

fn one(text: &mut String, alert: &Alert, case: &Case) {
    let mut line = |line: std::fmt::Arguments<'_>| {
        text.write_fmt(line).and_then(|()| text.write_char('\n')).expect("memory");
    };
    line(format_args!("  - name: {}", quoted(&format!("{}: {}", alert.name, case.name))));
    line(format_args!("    interval: {}", case.step));
    line(format_args!("    input_series:"));
    for (series, samples) in &case.series {
        line(format_args!("      - {{series: {}, values: {}}}", quoted(series), quoted(samples)));
    }
    line(format_args!("    alert_rule_test:"));
    line(format_args!("      - alertname: {}", alert.name));
    line(format_args!("        eval_time: {}", case.at));
    if case.fires.is_empty() {
        line(format_args!("        exp_alerts: []"));
        return;
    }
    line(format_args!("        exp_alerts:"));
    for (labels, value) in &case.fires {
        let mut labels = labels.clone();
        for (name, of_rule) in alert.all_labels() {
            if labels.iter().all(|(have, _)| *have != name) {
                labels.push((name, of_rule));
            }
        }
        let written: Vec<String> = labels
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}: {}", quoted(value)))
            .collect();
        line(format_args!("          - exp_labels: {{{}}}", written.join(", ")));
        line(format_args!("            exp_annotations:"));
        for (name, annotation) in [("summary", alert.summary), ("description", alert.description)] {
            let said = filled(annotation, &labels, value);
            line(format_args!("              {name}: {}", quoted(&said)));
        }
        let page = quoted(&format!("{RUNBOOKS}{}", alert.page()));
        line(format_args!("              runbook_url: {page}"));
    }
}

/// A template as Prometheus fills it in.
fn filled(template: &str, labels: &[(&str, &str)], value: &str) -> String {
    let mut text = template.to_owned();
    while let Some(at) = text.find("{{ if $labels.") {
        let (name, tail) = text[at + 14..].split_once(" }}").expect("a name");
        let (inside, after) = tail.split_once("{{ end }}").expect("an end");
        let holds = labels.iter().any(|(have, value)| *have == name && !value.is_empty());
        text = format!("{}{}{after}", &text[..at], if holds { inside } else { "" });
    }
    for (name, of_label) in labels {
        text = text.replace(&format!("{{{{ $labels.{name} }}}}"), of_label);
    }
    while let Some(at) = text.find("{{ $value") {
        let end = text[at..].find("}}").expect("a whole template") + at + 2;
        text.replace_range(at..end, value);
    }
    text
}
