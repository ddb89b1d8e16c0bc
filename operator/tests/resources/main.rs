//! What a MetaStore consists of, what its definition refuses, and how its certificates are kept: all of
//! it pure, so all of it is tested from the outside, without a cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![allow(clippy::needless_pass_by_value, reason = "a spec is written where it is used")]

mod certificates;
mod definition;
mod goldens;

use operator::crd::MetaStore;
use serde_json::{Map, Value, json};

/// Where the repository is.
fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file of the repository.
fn file(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A MetaStore as the API server would hand it out.
fn store(name: &str, spec: Value) -> MetaStore {
    let value = json!({
        "apiVersion": "metastore.io/v1alpha1",
        "kind": "MetaStore",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": "6f1c0f0e-0000-4000-8000-000000000001",
        },
        "spec": spec,
    });
    serde_json::from_value(value).unwrap()
}

/// The same value with its keys in order, whatever other crates have serde_json do.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<_> = fields.keys().collect();
            keys.sort();
            let field = |key: &String| (key.clone(), sorted(&fields[key]));
            Value::Object(keys.into_iter().map(field).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn to_yaml(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&sorted(value), options).unwrap()
}

/// All documents in a text.
fn from_yaml(text: &str) -> Vec<Value> {
    serde_saphyr::from_str_multiple::<Value, Vec<Value>>(text).unwrap()
}
