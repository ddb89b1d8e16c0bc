//! Whether an object still is as it was applied.
//!
//! The API server fills in what was left out and writes some values in another form, so the live
//! object is only asked whether it holds all that was applied. What is no longer wanted shows in
//! [`super::APPLIED_ANNOTATION`], which is part of what was applied.

use serde_json::{Map, Value};

use crate::quantity;

/// Lists whose items server-side apply tells apart by these fields; the items of all others, by their
/// place.
const KEYED_LISTS: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("env", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ownerReferences", &["uid"]),
    ("ports", &["containerPort", "port", "protocol"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// Maps whose values are quantities.
const QUANTITIES: &[&str] = &["requests", "limits"];
/// Fields that are quantities.
const QUANTITY_FIELDS: &[&str] = &["sizeLimit", "divisor"];

/// Whether there is something in `desired` that `live` does not hold. A dead heat between forms of one
/// quantity, and between nothing and an empty list, is none.
pub fn differs(desired: &Value, live: &Value) -> bool {
    !holds("", "", desired, live)
}

/// Whether `live` holds `desired`, which is found under `field` of `parent`.
fn holds(parent: &str, field: &str, desired: &Value, live: &Value) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            desired.iter().all(|(key, wanted)| match live.get(key) {
                Some(live) => holds(field, key, wanted, live),
                None => is_nothing(wanted),
            })
        }
        (Value::Array(desired), Value::Array(live)) => holds_all(field, desired, live),
        (Value::String(a), Value::String(b)) if a != b => {
            let quantities = QUANTITIES.contains(&parent) || QUANTITY_FIELDS.contains(&field);
            quantities && quantity::equal(a, b)
        }
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => desired == live || is_nothing(desired) && is_nothing(live),
    }
}

fn holds_all(field: &str, desired: &[Value], live: &[Value]) -> bool {
    let keys = KEYED_LISTS.iter().find(|(list, _)| *list == field).map(|(_, keys)| *keys);
    // One without any of the keys, the ports of a network policy's peers for example, goes by place.
    let keys = keys
        .filter(|keys| desired.iter().all(|item| keys.iter().any(|key| item.get(key).is_some())));
    let Some(keys) = keys else {
        let same_length = desired.len() == live.len();
        return same_length && desired.iter().zip(live).all(|(a, b)| holds(field, "", a, b));
    };
    let same = |a: &Value, b: &Value| {
        // What is not said is the default, which the live one spells out.
        keys.iter().all(|key| a.get(key).is_none_or(|value| Some(value) == b.get(key)))
    };
    desired.iter().all(|wanted| {
        live.iter()
            .find(|item| same(wanted, item))
            .is_some_and(|item| holds(field, "", wanted, item))
    })
}

/// What the API server does not keep apart from an absent field.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => Map::is_empty(fields),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_server_adds_is_no_difference() {
        let desired = json!({
            "metadata": { "name": "demo", "labels": { "a": "1" } },
            "spec": {
                "ports": [{ "name": "client", "port": 2379 }],
                "tolerations": [],
                "selector": {},
                "template": { "spec": { "containers": [{
                    "name": "metastore",
                    "args": ["--name=x"],
                    "resources": { "requests": { "cpu": "1000m", "memory": "1Gi" } },
                    "env": [{ "name": "A", "value": "" }],
                }] } },
            },
        });
        let live = json!({
            "metadata": { "name": "demo", "labels": { "a": "1", "b": "2" }, "uid": "u" },
            "spec": {
                "ports": [
                    { "name": "other", "port": 1, "protocol": "TCP" },
                    { "name": "client", "port": 2379, "protocol": "TCP", "nodePort": 30000 },
                ],
                "template": { "spec": {
                    "restartPolicy": "Always",
                    "containers": [{
                        "name": "metastore",
                        "args": ["--name=x"],
                        "resources": { "requests": { "cpu": "1", "memory": "1024Mi" } },
                        "env": [{ "name": "A" }],
                    }],
                } },
            },
            "status": {},
        });
        assert!(!differs(&desired, &live));
    }

    #[test]
    fn whatever_is_changed_by_somebody_else_is_a_difference() {
        let desired = json!({ "spec": {
            "replicas": 3,
            "args": ["a", "b"],
            "requests": { "storage": "8Gi" },
            "from": [{ "podSelector": {} }],
            "ports": [{ "port": 2380, "protocol": "TCP" }],
            "text": "8Gi",
            "flag": false,
        } });
        assert!(!differs(&desired, &desired));
        for (pointer, other) in [
            ("/spec/replicas", json!(4)),
            ("/spec/args", json!(["b", "a"])),
            ("/spec/args", json!(["a", "b", "c"])),
            ("/spec/args", json!(["a"])),
            ("/spec/requests/storage", json!("9Gi")),
            ("/spec/from", json!([{ "podSelector": {} }, { "ipBlock": {} }])),
            ("/spec/ports/0/port", json!(2379)),
            ("/spec/ports/0/protocol", json!("UDP")),
            ("/spec/text", json!("8192Mi")),
            ("/spec/flag", json!(true)),
            ("/spec", json!(null)),
        ] {
            let mut live = desired.clone();
            *live.pointer_mut(pointer).unwrap() = other;
            assert!(differs(&desired, &live), "{pointer}");
        }
        let mut live = desired.clone();
        live["spec"].as_object_mut().unwrap().remove("flag");
        assert!(differs(&desired, &live), "false is not the same as unsaid");
    }
}
