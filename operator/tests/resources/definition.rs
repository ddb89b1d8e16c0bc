//! The definition: what it refuses and with which words, what it takes, and that the API server can
//! afford its rules.

use kube_cel::Validator;
use operator::crd::{MetaStore, definition};
use serde_json::{Value, json};

use super::{file, from_yaml, root};

fn schema() -> Value {
    let definition = serde_json::to_value(definition()).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn object(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "metastore.io/v1alpha1",
        "kind": "MetaStore",
        "metadata": { "name": name },
        "spec": spec,
    })
}

/// What the rules say to a new object, or to a changed one.
fn refusals(new: &Value, old: Option<&Value>) -> Vec<String> {
    let defaulted = old.map(|old| kube_cel::apply_defaults(&schema(), old));
    match Validator::new().validate_with_defaults(&schema(), new, defaulted.as_ref()) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect(),
    }
}

#[test]
fn a_spec_without_a_word_is_taken() {
    assert_eq!(refusals(&object("demo", json!({})), None), Vec::<String>::new());
    let demo: MetaStore = serde_json::from_value(object("demo", json!({}))).unwrap();
    assert_eq!(demo.spec, serde_json::from_value(json!({})).unwrap());
    assert_eq!(demo.spec.replicas, 3);
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_operator() {
    let defaulted = kube_cel::apply_defaults(&schema(), &object("demo", json!({})));
    let demo: MetaStore = serde_json::from_value(object("demo", json!({}))).unwrap();
    assert_eq!(defaulted["spec"], serde_json::to_value(&demo.spec).unwrap());
    // Rules may look at any of these without asking whether it is there.
    for pointer in [
        "/replicas",
        "/storage/size",
        "/tls/client/mode",
        "/tls/peer/mode",
        "/raft",
        "/autotune/mode",
    ] {
        assert!(defaulted["spec"].pointer(pointer).is_some(), "{pointer}");
    }
}

#[test]
fn what_a_user_can_get_wrong_is_refused_with_what_to_do_instead() {
    let table = [
        (json!({ "replicas": 0 }), "set spec.hibernate to true"),
        (json!({ "replicas": -1 }), "set spec.hibernate to true"),
        (json!({ "replicas": 10 }), "at most 9 members"),
        (json!({ "version": "registry/x:1" }), "spec.image names a whole image"),
        (json!({ "storage": { "size": "ten" } }), "such as 8Gi"),
        (json!({ "storage": { "size": "8GB" } }), "such as 8Gi"),
        (json!({ "storage": { "size": "0" } }), "such as 8Gi"),
        (json!({ "storage": { "size": "-8Gi" } }), "such as 8Gi"),
        (json!({ "storage": { "size": "500m" } }), "such as 8Gi"),
        (json!({ "restoreFrom": { "claimName": "b", "path": "/a" } }), "relative to the volume"),
        (json!({ "restoreFrom": { "claimName": "b", "path": "a/../b" } }), "holds no '..'"),
        (json!({ "restoreFrom": { "claimName": "b", "path": ".." } }), "holds no '..'"),
        (json!({ "tls": { "client": { "mode": "Secret" } } }), "tls.client.mode Secret needs"),
        (json!({ "tls": { "peer": { "mode": "Secret" } } }), "tls.peer.mode Secret needs"),
        (
            json!({ "tls": { "client": {
                "mode": "Secret", "secretName": "a", "clientAuth": true } } }),
            "needs operatorSecretName",
        ),
        (json!({ "tls": { "client": { "mode": "CertManager" } } }), "needs issuerRef"),
        (json!({ "tls": { "peer": { "mode": "CertManager" } } }), "needs issuerRef"),
        (json!({ "tls": { "client": { "clientAuth": true } } }), "mode other than None"),
        (json!({ "server": { "quota": "much" } }), "such as 2Gi"),
        (json!({ "server": { "quota": "0" } }), "such as 2Gi"),
        (json!({ "server": { "valueCache": "all" } }), "at least 8Mi"),
        (json!({ "server": { "valueCache": "0" } }), "at least 8Mi"),
        (json!({ "server": { "valueCache": "8388607" } }), "at least 8Mi"),
        (json!({ "server": { "valueCache": "16777216500m" } }), "at least 8Mi"),
        (json!({ "server": { "maxRequestSize": "3Gi" } }), "below 2Gi"),
        (
            json!({ "server": { "autoCompaction": { "mode": "periodic", "retention": "1 day" } } }),
            "a duration such as 1h30m",
        ),
        (
            json!({ "server": { "autoCompaction": { "mode": "revision", "retention": "1h" } } }),
            "a number of revisions",
        ),
        (
            json!({ "raft": { "heartbeatMs": 100, "electionMs": 499 } }),
            "raft.electionMs must be at least 5 times",
        ),
        (json!({ "raft": { "heartbeatMs": 100 } }), "set together"),
        (json!({ "raft": { "electionMs": 1000 } }), "set together"),
        (
            json!({ "raft": { "heartbeatMs": 50, "electionMs": 500 }, "autotune": { "mode": "Auto" } }),
            "set autotune.mode to Observe or Off",
        ),
        (
            json!({ "autotune": { "election": { "minMs": 400, "maxMs": 399 } } }),
            "must not be above autotune.election.maxMs",
        ),
        (
            json!({ "autotune": { "heartbeat": { "minMs": 50, "maxMs": 49 } } }),
            "autotune.heartbeat.minMs must not be above",
        ),
        (json!({ "autotune": { "heartbeat": { "minMs": 61 } } }), "5 times autotune.heartbeat"),
        (json!({ "autotune": { "election": { "minMs": 124 } } }), "5 times autotune.heartbeat"),
        (json!({ "autotune": { "election": { "maxMs": 299 } } }), "above autotune.election.maxMs"),
        (
            json!({ "autotune": { "policy": "Latency", "heartbeat": { "minMs": 31 } } }),
            "150 with policy Latency",
        ),
        (json!({ "autotune": { "election": { "maxMs": 50_001 } } }), "at most 50000"),
        (json!({ "autotune": { "batching": { "maxMessageBytes": "64Mi" } } }), "from 1Ki to 32Mi"),
        (json!({ "autotune": { "batching": { "maxMessageBytes": "much" } } }), "from 1Ki to 32Mi"),
        (json!({ "autotune": { "batching": { "maxInflightBytes": "1Mi" } } }), "from 32Mi to 1Gi"),
    ];
    for (spec, words) in table {
        let said = refusals(&object("demo", spec.clone()), None);
        assert_eq!(said.len(), 1, "{spec}: {said:?}");
        assert!(said[0].contains(words), "{spec}: {said:?}");
    }
}

#[test]
fn names_that_pods_and_services_cannot_have_are_refused() {
    let long = "a".repeat(41);
    for name in ["1demo", "de.mo", "Demo", "demo-", "-demo", long.as_str()] {
        let said = refusals(&object(name, json!({})), None);
        assert!(said.len() == 1 && said[0].contains("the name must begin"), "{name}: {said:?}");
    }
    let said = refusals(&object("demo-peers", json!({})), None);
    assert!(said.len() == 1 && said[0].contains("must not end with '-peers'"), "{said:?}");
    for name in ["a", "demo", "de-mo-2", &"a".repeat(40)] {
        assert_eq!(refusals(&object(name, json!({})), None), Vec::<String>::new());
    }
}

#[test]
fn what_cannot_change_later_is_refused_when_it_changes() {
    let restore = json!({ "claimName": "b", "path": "a" });
    let table = [
        (
            json!({ "storage": { "size": "8Gi" } }),
            json!({ "storage": { "size": "4Gi" } }),
            "shrink",
        ),
        // The default is eight.
        (json!({}), json!({ "storage": { "size": "7Gi" } }), "shrink"),
        (json!({}), json!({ "storage": { "className": "fast" } }), "className cannot change"),
        (json!({ "storage": { "className": "a" } }), json!({}), "className cannot change"),
        (
            json!({ "storage": { "className": "a" } }),
            json!({ "storage": { "className": "b" } }),
            "className cannot change",
        ),
        (json!({}), json!({ "tls": { "peer": { "mode": "SelfSigned" } } }), "tls.peer.mode cannot"),
        (json!({ "tls": { "peer": { "mode": "SelfSigned" } } }), json!({}), "tls.peer.mode cannot"),
        (json!({}), json!({ "restoreFrom": restore }), "restoreFrom is read when"),
        (json!({ "restoreFrom": restore }), json!({}), "restoreFrom is read when"),
        (
            json!({ "restoreFrom": restore }),
            json!({ "restoreFrom": { "claimName": "b", "path": "other" } }),
            "restoreFrom is read when",
        ),
    ];
    for (old, new, words) in table {
        let said = refusals(&object("demo", new.clone()), Some(&object("demo", old)));
        assert!(said.len() == 1 && said[0].contains(words), "{new}: {said:?}");
    }
}

#[test]
fn what_may_change_is_taken() {
    let restore = json!({ "claimName": "b", "path": "a" });
    let table = [
        (json!({}), json!({ "replicas": 5 })),
        (json!({}), json!({ "hibernate": true })),
        (json!({}), json!({ "storage": { "size": "8192Mi" } })),
        (json!({}), json!({ "storage": { "size": "9Gi", "onDelete": "Delete" } })),
        (json!({}), json!({ "tls": { "client": { "mode": "SelfSigned", "clientAuth": true } } })),
        (
            json!({ "storage": { "className": "a" }, "restoreFrom": restore }),
            json!({ "storage": { "className": "a" }, "restoreFrom": restore, "replicas": 1 }),
        ),
        (
            json!({}),
            json!({ "server": { "autoCompaction": { "mode": "periodic", "retention": "1h30m" } } }),
        ),
        (
            json!({}),
            json!({ "server": { "autoCompaction": { "mode": "periodic", "retention": "2" } } }),
        ),
        (
            json!({}),
            json!({ "server": { "autoCompaction": { "mode": "revision", "retention": "1000" } } }),
        ),
        (json!({}), json!({ "raft": { "heartbeatMs": 25, "electionMs": 125 } })),
        (json!({ "raft": { "heartbeatMs": 25, "electionMs": 125 } }), json!({})),
        (json!({}), json!({ "autotune": { "mode": "Auto", "paused": true } })),
        (
            json!({ "autotune": { "mode": "Auto" } }),
            json!({
                "autotune": { "mode": "Observe" }, "raft": { "heartbeatMs": 100, "electionMs": 1000 },
            }),
        ),
        (
            json!({}),
            json!({ "autotune": {
                "election": { "minMs": 125, "maxMs": 50000 }, "heartbeat": { "minMs": 25 },
            } }),
        ),
        (json!({}), json!({ "server": { "quota": "8Gi", "maxRequestSize": "2097152" } })),
        (
            json!({ "server": { "valueCache": "8Mi" } }),
            json!({ "server": { "valueCache": "8388608" } }),
        ),
        (json!({ "server": { "valueCache": "512Mi" } }), json!({})),
    ];
    for (old, new) in table {
        let old = object("demo", old);
        assert_eq!(
            refusals(&object("demo", new.clone()), Some(&old)),
            Vec::<String>::new(),
            "{new}"
        );
        let parsed: Result<MetaStore, _> = serde_json::from_value(object("demo", new));
        parsed.unwrap();
    }
}

#[test]
fn a_field_that_is_not_there_is_named_by_the_operator_too() {
    let misspelt: Result<MetaStore, _> =
        serde_json::from_value(object("demo", json!({ "storage": { "sise": "8Gi" } })));
    assert!(misspelt.unwrap_err().to_string().contains("sise"));
}

#[test]
fn the_chart_s_examples_are_taken() {
    let folder = root().join("charts/metastore/examples");
    let mut examples = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for document in from_yaml(&std::fs::read_to_string(&path).unwrap()) {
            if document["kind"] != "MetaStore" {
                continue;
            }
            examples += 1;
            assert_eq!(refusals(&document, None), Vec::<String>::new(), "{}", path.display());
            let parsed: Result<MetaStore, _> = serde_json::from_value(document);
            parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    assert!(examples >= 6, "{examples}");
}

#[test]
fn everything_that_rules_look_at_is_bounded() {
    fn walk(path: &str, schema: &Value, with_rules: &mut usize) {
        let rules = schema.get("x-kubernetes-validations").is_some();
        *with_rules += usize::from(rules);
        if rules && schema["type"] == "string" {
            assert!(schema.get("maxLength").is_some(), "{path}: no maxLength");
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), field, with_rules);
        }
        if let Some(items) = schema.get("items") {
            let before = *with_rules;
            walk(&format!("{path}[]"), items, with_rules);
            assert!(
                *with_rules == before || schema.get("maxItems").is_some(),
                "{path}: no maxItems"
            );
        }
    }
    let mut with_rules = 0;
    let schema = schema();
    walk("", &schema["properties"]["spec"], &mut with_rules);
    assert!(with_rules >= 10, "{with_rules}");
    // Client-side apply keeps a copy in an annotation, which may have 256 KiB.
    let bytes = serde_json::to_string(&definition()).unwrap().len();
    assert!(bytes < 200_000, "{bytes}");
}

#[test]
fn every_rule_says_what_to_do() {
    fn walk(path: &str, schema: &Value) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(message.len() > 20 && !message.contains('\n'), "{path}: {rule}");
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), field);
        }
    }
    walk("", &schema());
}

#[test]
fn every_field_of_ours_is_described_and_none_may_be_null() {
    fn walk(path: &str, schema: &Value) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(field["description"].is_string(), "{path}: no description");
            assert!(field.get("nullable").is_none(), "{path}: nullable");
            let own =
                ["affinity", "conditions", "imagePullSecrets", "resources", "securityContext"];
            let foreign = ["tolerations", "topologySpreadConstraints"];
            if !own.contains(&name.as_str()) && !foreign.contains(&name.as_str()) {
                walk(&path, field);
            }
        }
    }
    let schema = schema();
    walk("spec", &schema["properties"]["spec"]);
    walk("status", &schema["properties"]["status"]);
}

#[test]
fn the_files_that_are_written_from_the_definition_are_up_to_date() {
    let crd = file("charts/metastore/generated/metastores.yaml");
    assert!(crd == operator::crd::yaml(), "stale definition: cargo xtask gen");
    let page = file("docs/reference/metastore.md");
    assert!(page == operator::crd::reference(), "stale reference: cargo xtask gen");
    let read = from_yaml(&crd);
    assert_eq!(read, [serde_json::to_value(definition()).unwrap()]);
}
