//! The dashboards' queries, as Grafana would send them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A query of a panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// File name of the dashboard, without its ending.
    pub dashboard: String,
    /// Title of the panel.
    pub panel: String,
    /// With its variables still in it.
    pub expression: String,
}

impl Query {
    /// With values for the variables; one that is not known is an error.
    pub fn filled(&self, values: &[(&str, &str)]) -> Result<String> {
        let mut text = self.expression.clone();
        // Longer names first: $cluster is not the beginning of $cluster_id.
        let mut values = values.to_vec();
        values.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        for (name, value) in values {
            text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
        }
        if let Some(at) = text.find("$__").or_else(|| text.find("${")) {
            bail!("{}, {}: what is {}?", self.dashboard, self.panel, &text[at..]);
        }
        Ok(text)
    }
}

/// Of all dashboards in a directory, in the order of their names.
pub fn queries(dir: &Path) -> Result<Vec<Query>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let board: Value =
            serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        of_panels(&name, &board["panels"], &mut all);
    }
    Ok(all)
}

/// Rows may hold panels of their own.
fn of_panels(dashboard: &str, panels: &Value, all: &mut Vec<Query>) {
    for panel in panels.as_array().into_iter().flatten() {
        let title = panel["title"].as_str().unwrap_or_default();
        for target in panel["targets"].as_array().into_iter().flatten() {
            if let Some(expression) = target["expr"].as_str() {
                all.push(Query {
                    dashboard: dashboard.to_owned(),
                    panel: title.to_owned(),
                    expression: expression.to_owned(),
                });
            }
        }
        of_panels(dashboard, &panel["panels"], all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in_and_an_unknown_one_is_named() {
        let query = |expression: &str| Query {
            dashboard: "d".into(),
            panel: "p".into(),
            expression: expression.into(),
        };
        let values = [("cluster", "demo"), ("pod", ".*"), ("__rate_interval", "8s")];
        let found = query("rate(a{cluster=\"$cluster\",pod=~\"${pod}\"}[$__rate_interval])");
        assert_eq!(found.filled(&values).unwrap(), "rate(a{cluster=\"demo\",pod=~\".*\"}[8s])");
        let error = query("a[$__range]").filled(&values).unwrap_err().to_string();
        assert_eq!(error, "d, p: what is $__range]?");
        // A dollar that ends a regular expression is none.
        assert!(query("a{b=~\"x$\"}").filled(&values).is_ok());
    }

    #[test]
    fn panels_in_rows_count() {
        let board = serde_json::json!({ "panels": [
            { "title": "row", "panels": [{ "title": "in", "targets": [{ "expr": "a" }] }] },
            { "title": "out", "targets": [{ "expr": "b" }, { "expr": "c" }] },
            { "title": "text" },
        ] });
        let mut all = Vec::new();
        of_panels("d", &board["panels"], &mut all);
        let found: Vec<_> = all.iter().map(|q| (&q.panel[..], &q.expression[..])).collect();
        assert_eq!(found, [("in", "a"), ("out", "b"), ("out", "c")]);
    }
}
