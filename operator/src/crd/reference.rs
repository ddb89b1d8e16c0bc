//! The reference of the resource for people, written from its definition: what `kubectl explain` says,
//! in one page, with the rules beside it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::{MetaStore, definition, is_kubernetes_own};

/// `docs/reference/metastore.md`.
pub fn reference() -> String {
    let definition = definition();
    let names = &definition.spec.names;
    let mut text = format!(
        "# {} ({})\n\n<!-- Written by `cargo xtask gen` from operator/src/crd.rs. -->\n\n",
        names.kind,
        MetaStore::api_resource().api_version
    );
    let short = names.short_names.clone().unwrap_or_default().join(", ");
    let version = definition.spec.versions.first().expect("there is a version");
    let root = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
    let root = root.expect("there is a schema");
    text.push_str(root.description.as_deref().unwrap_or_default());
    text.push_str(&format!(
        "\n`kubectl get {}` or `{short}`; `kubectl scale` works. A field that is not here is refused by\n\
         `kubectl apply`; what is against a rule is refused with the rule's text.\n",
        names.plural
    ));
    for part in ["spec", "status"] {
        let schema = root.properties.as_ref().and_then(|all| all.get(part));
        let Some(schema) = schema else { continue };
        let mut page = Page { with_defaults: part == "spec", ..Page::default() };
        page.rules(part, schema);
        page.fields("", schema);
        text.push_str(&format!("\n## {part}\n\n"));
        let (head, line) = if page.with_defaults {
            ("| field | type | default | meaning |", "|---|---|---|---|")
        } else {
            ("| field | type | meaning |", "|---|---|---|")
        };
        text.push_str(&format!("{head}\n{line}\n{}", page.rows));
        if page.with_defaults {
            let mut rules = Page::default();
            rules.rules("metadata.name", root);
            text.push_str(&format!("\n## Rules\n\n| of | rule |\n|---|---|\n{}", rules.said));
            text.push_str(&page.said);
        }
    }
    text
}

#[derive(Default)]
struct Page {
    with_defaults: bool,
    rows: String,
    said: String,
}

impl Page {
    fn fields(&mut self, path: &str, schema: &JSONSchemaProps) {
        for (name, field) in schema.properties.iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let meaning = said(field.description.as_deref().unwrap_or_default());
            let kind = kind(name, field);
            let required = schema.required.as_ref().is_some_and(|all| all.contains(name));
            // The default of an object is that of its fields, which come next.
            let default = match &field.default {
                Some(default) if !default.0.is_object() => format!("`{}`", default.0),
                _ if required => "required".to_owned(),
                _ => String::new(),
            };
            if self.with_defaults {
                self.rows.push_str(&format!("| `{path}` | {kind} | {default} | {meaning} |\n"));
            } else {
                self.rows.push_str(&format!("| `{path}` | {kind} | {meaning} |\n"));
            }
            self.rules(&path, field);
            if is_kubernetes_own(name) {
                continue;
            }
            self.fields(&path, field);
            if let Some(JSONSchemaPropsOrArray::Schema(item)) = &field.items {
                self.fields(&format!("{path}[]"), item);
            }
        }
    }

    fn rules(&mut self, path: &str, schema: &JSONSchemaProps) {
        for rule in schema.x_kubernetes_validations.iter().flatten() {
            let message = said(rule.message.as_deref().unwrap_or(&rule.rule));
            self.said.push_str(&format!("| `{path}` | {message} |\n"));
        }
    }
}

/// Text for a cell.
fn said(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn kind(name: &str, field: &JSONSchemaProps) -> String {
    if is_kubernetes_own(name) {
        return match field.type_.as_deref() {
            _ if name == "conditions" => "list of Condition".to_owned(),
            Some("array") => "list, as in a Pod".to_owned(),
            _ => "object, as in a Pod".to_owned(),
        };
    }
    if let Some(values) = &field.enum_ {
        let values: Vec<_> =
            values.iter().map(|v| format!("`{}`", v.0.as_str().unwrap_or(""))).collect();
        return values.join(", ");
    }
    let plain = field.type_.as_deref().unwrap_or("any");
    let range = match (field.minimum, field.maximum) {
        (Some(low), Some(high)) => format!(", {low} to {high}"),
        (Some(low), None) => format!(", from {low}"),
        (None, Some(high)) => format!(", to {high}"),
        (None, None) => String::new(),
    };
    let length = match (field.max_length, field.max_items) {
        (Some(most), _) => format!(", up to {most} characters"),
        (_, Some(most)) => format!(", up to {most}"),
        _ => String::new(),
    };
    match (&field.items, &field.additional_properties) {
        (Some(JSONSchemaPropsOrArray::Schema(item)), _) => {
            format!("list of {}{length}", item.type_.as_deref().unwrap_or("any"))
        }
        (_, Some(JSONSchemaPropsOrBool::Schema(value))) => {
            format!("map to {}", value.type_.as_deref().unwrap_or("any"))
        }
        _ => format!("{plain}{range}{length}"),
    }
}
