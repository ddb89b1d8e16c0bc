//! What Prometheus' operator would make of a ServiceMonitor or a PodMonitor: an entry of `scrape_configs`.
//!
//! Its operator is not here; its objects are, made by the chart and by MetaStore's operator. So that they
//! are tried themselves, and not a configuration that somebody believes to be theirs, each is turned into
//! targets by the rules that Prometheus' operator documents: the selector and the port as filters, then the
//! labels `namespace`, `service`, `pod`, `container`, `job` and `endpoint`, then labels that the monitor
//! takes over from its objects, then its own relabelings. What is not used here is refused, not left out.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// Fields of an endpoint that are understood.
const ENDPOINT_FIELDS: [&str; 7] = [
    "port",
    "path",
    "interval",
    "scrapeTimeout",
    "relabelings",
    "metricRelabelings",
    "honorLabels",
];

/// Entries of `scrape_configs`, one for each endpoint of the monitor.
pub fn scrape_configs(monitor: &Value, kubeconfig: &str) -> Result<Vec<Value>> {
    let kind = monitor["kind"].as_str().context("a monitor has a kind")?;
    let (role, endpoints) = match kind {
        "ServiceMonitor" => ("endpointslice", "endpoints"),
        "PodMonitor" => ("pod", "podMetricsEndpoints"),
        other => bail!("{other} is no monitor"),
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let namespace = text(&monitor["metadata"]["namespace"]).context("no namespace")?;
    let name = text(&monitor["metadata"]["name"]).context("no name")?;
    let endpoints = monitor["spec"][endpoints].as_array().context("no endpoints")?;
    let one = |(number, endpoint): (usize, &Value)| -> Result<Value> {
        let job = format!("{kind}/{namespace}/{name}/{number}");
        let mut config = Map::new();
        config.insert("job_name".to_owned(), json!(job));
        let mut discovery = map(json!({ "role": role, "kubeconfig_file": kubeconfig }));
        if let Some(names) = namespaces(monitor)? {
            discovery.insert("namespaces".to_owned(), json!({ "names": names }));
        }
        config.insert("kubernetes_sd_configs".to_owned(), json!([discovery]));
        let mut rules = relabelings(monitor, role, endpoint).with_context(|| job.clone())?;
        for (field, value) in endpoint.as_object().context("an endpoint")? {
            match field.as_str() {
                "path" => drop(config.insert("metrics_path".to_owned(), value.clone())),
                "interval" => drop(config.insert("scrape_interval".to_owned(), value.clone())),
                "scrapeTimeout" => drop(config.insert("scrape_timeout".to_owned(), value.clone())),
                "honorLabels" => drop(config.insert("honor_labels".to_owned(), value.clone())),
                "relabelings" => rules.extend(own(value)?),
                "metricRelabelings" => {
                    config.insert("metric_relabel_configs".to_owned(), json!(own(value)?));
                }
                known if ENDPOINT_FIELDS.contains(&known) => {}
                unknown => bail!("{job}: {unknown} is not understood here"),
            }
        }
        config.insert("relabel_configs".to_owned(), json!(rules));
        Ok(Value::Object(config))
    };
    endpoints.iter().enumerate().map(one).collect()
}

/// Where it looks for its objects; none: everywhere.
fn namespaces(monitor: &Value) -> Result<Option<Vec<String>>> {
    let selector = &monitor["spec"]["namespaceSelector"];
    if selector["any"] == true {
        return Ok(None);
    }
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a namespace");
    match selector["matchNames"].as_array() {
        Some(names) => names.iter().map(text).collect::<Result<_>>().map(Some),
        None => Ok(Some(vec![text(&monitor["metadata"]["namespace"])?])),
    }
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// What Prometheus' operator writes before the monitor's own.
fn relabelings(monitor: &Value, role: &str, endpoint: &Value) -> Result<Vec<Value>> {
    let spec = &monitor["spec"];
    let of_pods = role == "pod";
    let object = if of_pods { "pod" } else { "service" };
    let mut rules = vec![json!({
        "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop",
    })];
    let mut keep = |label: &str, value: &str| {
        let label = sanitized(label);
        rules.push(json!({
            "source_labels": [
                format!("__meta_kubernetes_{object}_label_{label}"),
                format!("__meta_kubernetes_{object}_labelpresent_{label}"),
            ],
            "regex": format!("({value});true"),
            "action": "keep",
        }));
    };
    for (label, value) in spec["selector"]["matchLabels"].as_object().into_iter().flatten() {
        keep(label, &escaped(value.as_str().context("a label's value")?));
    }
    for wanted in spec["selector"]["matchExpressions"].as_array().into_iter().flatten() {
        let label = wanted["key"].as_str().context("a label's name")?;
        let values = wanted["values"].as_array().into_iter().flatten();
        let values: Vec<_> = values.filter_map(Value::as_str).map(escaped).collect();
        match wanted["operator"].as_str() {
            Some("Exists") => keep(label, ".*"),
            Some("In") => keep(label, &values.join("|")),
            other => bail!("a selector with {other:?}"),
        }
    }
    let port = endpoint["port"].as_str().context("a port by name")?;
    let at = if of_pods { "pod_container_port_name" } else { "endpointslice_port_name" };
    rules.push(json!({
        "source_labels": [format!("__meta_kubernetes_{at}")], "regex": port, "action": "keep",
    }));
    let mut copy = |from: &str, to: &str| {
        rules.push(json!({
            "source_labels": [format!("__meta_kubernetes_{from}")],
            "regex": "(.+)", "target_label": to, "replacement": "${1}",
        }));
    };
    copy("namespace", "namespace");
    copy("pod_container_name", "container");
    copy("pod_name", "pod");
    if !of_pods {
        copy("service_name", "service");
    }
    for (field, of) in [("targetLabels", "service"), ("podTargetLabels", "pod")] {
        for label in spec[field].as_array().into_iter().flatten() {
            let label = sanitized(label.as_str().context("a label's name")?);
            copy(&format!("{of}_label_{label}"), &label);
        }
    }
    let fixed = |label: &str, value: &str| json!({ "target_label": label, "replacement": value });
    match of_pods {
        true => {
            let metadata = &monitor["metadata"];
            let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
            rules.push(fixed("job", &format!("{}/{}", text("namespace"), text("name"))));
        }
        false => rules.push(json!({
            "source_labels": ["__meta_kubernetes_service_name"],
            "target_label": "job", "replacement": "${1}",
        })),
    }
    rules.push(fixed("endpoint", port));
    Ok(rules)
}

/// The monitor's own, in the words of Prometheus' file.
fn own(rules: &Value) -> Result<Vec<Value>> {
    let one = |rule: &Value| -> Result<Value> {
        let mut words = Map::new();
        for (field, value) in rule.as_object().context("a relabeling")? {
            let name = match field.as_str() {
                "sourceLabels" => "source_labels",
                "targetLabel" => "target_label",
                "action" => {
                    let action = value.as_str().context("an action")?.to_lowercase();
                    words.insert("action".to_owned(), json!(action));
                    continue;
                }
                "regex" | "replacement" | "separator" | "modulus" => field,
                unknown => bail!("a relabeling with {unknown}"),
            };
            words.insert(name.to_owned(), value.clone());
        }
        Ok(Value::Object(words))
    };
    rules.as_array().context("a list of relabelings")?.iter().map(one).collect()
}

/// A name of Kubernetes as a part of a name of Prometheus.
fn sanitized(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// A value as a regular expression that only it matches.
fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for c in value.chars() {
        if !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '/') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule_to<'a>(config: &'a Value, label: &str) -> Vec<&'a Value> {
        let rules = config["relabel_configs"].as_array().unwrap();
        rules.iter().filter(|rule| rule["target_label"] == label).collect()
    }

    #[test]
    fn a_pod_monitor_finds_pods_by_label_and_port_and_its_own_relabelings_come_last() {
        let monitor = json!({
            "kind": "PodMonitor",
            "metadata": { "namespace": "ns", "name": "demo" },
            "spec": {
                "selector": { "matchLabels": { "metastore.io/cluster": "a.b" } },
                "podTargetLabels": ["metastore.io/cluster"],
                "podMetricsEndpoints": [{
                    "port": "metrics", "path": "/metrics", "interval": "5s",
                    "relabelings": [{
                        "sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "cluster",
                        "action": "Replace",
                    }],
                }],
            },
        });
        let all = scrape_configs(&monitor, "/k").unwrap();
        let [config] = &all[..] else { panic!("{all:?}") };
        assert_eq!(config["job_name"], "PodMonitor/ns/demo/0");
        assert_eq!(config["scrape_interval"], "5s");
        assert_eq!(config["kubernetes_sd_configs"][0]["role"], "pod");
        assert_eq!(rule_to(config, "job")[0]["replacement"], "ns/demo");
        assert_eq!(rule_to(config, "metastore_io_cluster").len(), 1);
        let rules = config["relabel_configs"].as_array().unwrap();
        assert_eq!(rules.last().unwrap()["target_label"], "cluster");
        assert_eq!(rules.last().unwrap()["action"], "replace");
        let keeps: Vec<_> = rules.iter().filter(|rule| rule["action"] == "keep").collect();
        assert_eq!(keeps[0]["regex"], "(a\\.b);true");
        assert_eq!(keeps[1]["regex"], "metrics");
    }

    #[test]
    fn a_service_monitor_finds_endpoints_of_services_and_names_its_job_by_the_service() {
        let mut monitor = json!({
            "kind": "ServiceMonitor",
            "metadata": { "namespace": "ns", "name": "demo" },
            "spec": { "selector": { "matchLabels": { "app": "x" } }, "endpoints": [{ "port": "m" }] },
        });
        let all = scrape_configs(&monitor, "/k").unwrap();
        assert_eq!(all[0]["kubernetes_sd_configs"][0]["role"], "endpointslice");
        assert_eq!(
            rule_to(&all[0], "job")[0]["source_labels"][0],
            "__meta_kubernetes_service_name"
        );
        assert_eq!(all[0]["kubernetes_sd_configs"][0]["namespaces"]["names"], json!(["ns"]));
        monitor["spec"]["namespaceSelector"] = json!({ "any": true });
        monitor["spec"]["selector"] = json!({
            "matchExpressions": [{ "key": "a.b/c", "operator": "Exists" }],
        });
        let all = scrape_configs(&monitor, "/k").unwrap();
        assert!(all[0]["kubernetes_sd_configs"][0]["namespaces"].is_null());
        let present = "__meta_kubernetes_service_labelpresent_a_b_c";
        assert_eq!(all[0]["relabel_configs"][1]["source_labels"][1], present);
        monitor["spec"]["endpoints"][0]["bearerTokenFile"] = json!("/t");
        let error = format!("{:#}", scrape_configs(&monitor, "/k").unwrap_err());
        assert!(error.contains("bearerTokenFile is not understood here"), "{error}");
    }
}
