//! `cargo xtask gen`: files of the repository that are written from others. With `--check` nothing is
//! written; a file that is not what it should be is an error.
//!
//! * `Dockerfile`, from `images/manifest.toml`
//! * `charts/metastore/generated/metastores.yaml`, from the operator's types
//! * `docs/reference/metastore.md`, from the same
//! * `docs/reference/metactl.md`, from what metactl says of itself
//! * `charts/metastore/rules/` with promtool's tests of it, and `charts/metastore/dashboards/`, from
//!   `monitoring`
//! * `docs/reference/metrics.md`, from the table the server makes its metrics of and from the operator's
//! * the table of values in the chart's README, from its `values.schema.json`

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use images::{Manifest, canonical_json, dockerfile};
use serde_json::Value;

use crate::chores::{cargo, root};
use crate::monitoring;

const CRD: &str = "charts/metastore/generated/metastores.yaml";
const REFERENCE: &str = "docs/reference/metastore.md";
const METACTL: &str = "docs/reference/metactl.md";
/// The flags every command of metactl has come under this heading, last.
const EVERYWHERE: &str = "\nWith every command:\n";
/// Commands, commands of commands, and so on.
const COMMANDS_DEEP: usize = 4;
const OPERATOR_METRICS: &str = "operator/src/metrics.rs";
/// Whose names are served.
const ETCD: &str = "3.7";
const METRICS: &str = "docs/reference/metrics.md";
const SCHEMA: &str = "charts/metastore/values.schema.json";
const README: &str = "charts/metastore/README.md";
const TABLE_BEGINS: &str = "<!-- values: written by cargo xtask gen from values.schema.json -->\n";
const TABLE_ENDS: &str = "<!-- values end -->\n";

type Render = fn(&Path) -> Result<String>;

/// In this order: those that need a build last.
const FILES: [(&str, Render); 8] = [
    (dockerfile::PATH, dockerfile),
    (monitoring::RULES, |_| Ok(monitoring::rules())),
    (monitoring::CASES, |_| Ok(monitoring::cases())),
    (README, readme),
    (METRICS, metrics),
    (METACTL, |_| metactl()),
    (CRD, |_| operator(&[])),
    (REFERENCE, |_| operator(&["--reference"])),
];

/// Writes the files, or compares them.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = root();
    let mut stale = Vec::new();
    let files = FILES.iter().map(|(path, render)| (*path, render(&root)));
    let dashboards = monitoring::dashboards().into_iter().map(|(path, text)| (path, Ok(text)));
    for (path, text) in dashboards.chain(files) {
        let text = text?;
        let file = root.join(path);
        if std::fs::read_to_string(&file).unwrap_or_default() == text {
            continue;
        }
        if check {
            stale.push(path);
        } else {
            std::fs::create_dir_all(file.parent().expect("a file of the repository"))?;
            std::fs::write(&file, text).with_context(|| path.to_owned())?;
            writeln!(std::io::stdout(), "{path}: written")?;
        }
    }
    if !stale.is_empty() {
        bail!("{}: not what it is written from says (cargo xtask gen)", stale.join(", "));
    }
    Ok(())
}

fn dockerfile(root: &Path) -> Result<String> {
    let toolchain = std::fs::read_to_string(root.join("rust-toolchain.toml"))?;
    let version = toolchain
        .lines()
        .find_map(|line| line.strip_prefix("channel = \"")?.strip_suffix('"'))
        .context("rust-toolchain.toml: no channel")?;
    Ok(dockerfile::render(&Manifest::read(root)?, version, env!("CARGO_PKG_VERSION")))
}

/// What the operator says of its resource.
fn operator(more: &[&str]) -> Result<String> {
    let arguments =
        ["run", "--quiet", "-p", "operator", "--bin", "metastore-operator", "--", "crd"];
    let arguments = [&arguments, more].concat();
    let output = cargo(&arguments).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "metastore-operator crd: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    ensure!(text.contains("MetaStore"), "metastore-operator crd: no definition");
    Ok(text)
}

/// What metactl says of itself, command by command.
fn metactl() -> Result<String> {
    let mut text = String::from(
        "# metactl\n\nWritten by `cargo xtask gen` from `metactl help`. Everyday keys stay with etcdctl; the \
         names of flags and variables are its. A command line that cannot be understood gets one line and \
         exit code 2, every other failure one line and exit code 1.\n",
    );
    describe(&[], &mut text)?;
    ensure!(text.contains("metactl tune apply"), "metactl help: no commands");
    Ok(text)
}

/// A command's help, then that of its own commands. Flags of every command are said once, first.
fn describe(command: &[&str], to: &mut String) -> Result<()> {
    ensure!(command.len() < COMMANDS_DEEP, "metactl {}: too deep", command.join(" "));
    let arguments = [&["run", "--quiet", "-p", "metactl", "--"], command, &["--help"]].concat();
    let mut help = cargo(&arguments);
    for variable in std::env::vars_os().map(|(name, _)| name) {
        // It would be shown as if it were the default.
        if variable.to_string_lossy().starts_with("ETCDCTL_") {
            help.env_remove(variable);
        }
    }
    let output = help.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "metactl {} --help: {}", command.join(" "), output.status);
    let help = String::from_utf8(output.stdout)?;
    let (own, everywhere) = help.split_once(EVERYWHERE).unwrap_or((&help, ""));
    let listed = own.split_once("\nCommands:\n").map_or("", |(_, listed)| listed);
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.split_whitespace().next());
    let names: Vec<&str> = names.filter(|name| *name != "help").collect();
    if command.is_empty() {
        let flags = everywhere.trim_end();
        to.push_str(&format!("\n## With every command\n\n```text\n{flags}\n```\n"));
    } else if names.is_empty() {
        to.push_str(&format!(
            "\n## metactl {}\n\n```text\n{}\n```\n",
            command.join(" "),
            own.trim_end()
        ));
    }
    for name in names {
        describe(&[command, &[name]].concat(), to)?;
    }
    Ok(())
}

/// What there is to scrape.
fn metrics(root: &Path) -> Result<String> {
    let arguments = ["run", "--quiet", "-p", "server", "--example", "metrics_reference"];
    let output = cargo(&arguments).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "metrics_reference: {}", output.status);
    let members = String::from_utf8(output.stdout)?;
    ensure!(members.contains("etcd_server_has_leader"), "metrics_reference: no table");
    let source = std::fs::read_to_string(root.join(OPERATOR_METRICS)).context(OPERATOR_METRICS)?;
    let operator = operator_metrics(&source)?;
    Ok(format!(
        "# Metrics\n\nWritten by `cargo xtask gen`; what to read off them is in \
         [metrics.md](../operating/metrics.md).\n\n## Of a member\n\nNames that begin with `etcd_` and \
         `grpc_server_` mean what they mean in etcd {ETCD}, with its labels and buckets \
         (`server/tests/real/etcd-metrics.txt` has them all, and why some are not here). `To`, `From`, \
         `Remote` and `Local` are member ids in hexadecimal.\n\n{members}\n## Of the operator\n\n{operator}"
    ))
}

/// The operator's figures, from the calls that make them: `counters(&registry, name, help, labels)`.
fn operator_metrics(source: &str) -> Result<String> {
    let mut rows = String::from("| name | type | labels | meaning |\n|---|---|---|---|\n");
    let body = source.split_once("fn new() -> Self").context("operator: no figures")?.1;
    let mut count = 0;
    let mut maker = body;
    for piece in body.split("&registry,") {
        let (call, made_by) = (piece, std::mem::replace(&mut maker, piece));
        if std::ptr::eq(made_by, body) {
            continue;
        }
        let mut texts = call.split('"').skip(1).step_by(2);
        let (Some(name), Some(help)) = (texts.next(), texts.next()) else { break };
        let end = call.find("),\n").unwrap_or(call.len());
        let labels = call[..end].split_once("&[").and_then(|(_, rest)| rest.split_once(']'));
        // Those of one kind have the labels of a MetaStore without saying so.
        let of_metastore = made_by.trim_end().ends_with("seconds(");
        let labels = labels.map(|(labels, _)| labels);
        let labels = labels.or(of_metastore.then_some("NAMESPACE, NAME"));
        let labels = labels.map_or_else(String::new, |labels| {
            let words = labels.split(',').map(|label| match label.trim() {
                "NAMESPACE" => "metastore_namespace",
                "NAME" => "metastore",
                label => label.trim_matches('"'),
            });
            let words: Vec<_> =
                words.filter(|word| !word.is_empty()).map(|it| format!("`{it}`")).collect();
            words.join(", ")
        });
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        rows.push_str(&format!("| `metastore_operator_{name}` | {kind} | {labels} | {help} |\n"));
        count += 1;
    }
    ensure!(count > 10, "operator: {count} figures found");
    rows.push_str(
        "| `metastore_operator_reconcile_duration_seconds` | histogram |  | How long passes took. |\n",
    );
    Ok(rows)
}

fn readme(root: &Path) -> Result<String> {
    let schema = std::fs::read_to_string(root.join(SCHEMA)).context(SCHEMA)?;
    let schema: Value = serde_json::from_str(&schema).context(SCHEMA)?;
    let text = std::fs::read_to_string(root.join(README)).context(README)?;
    let (before, rest) = text.split_once(TABLE_BEGINS).context("README: where is the table?")?;
    let (_, after) = rest.split_once(TABLE_ENDS).context("README: where does the table end?")?;
    Ok(format!("{before}{TABLE_BEGINS}{}{TABLE_ENDS}{after}", table(&schema)?))
}

/// A row for every value of the chart.
fn table(schema: &Value) -> Result<String> {
    let mut rows = String::from("| value | default | what it does |\n|---|---|---|\n");
    collect(schema, "", &mut rows)?;
    Ok(rows)
}

fn collect(at: &Value, path: &str, rows: &mut String) -> Result<()> {
    let properties =
        at["properties"].as_object().with_context(|| format!("{path}: no properties"))?;
    // By name: serde_json's own order depends on what else is built with it.
    for (name, property) in properties.iter().collect::<BTreeMap<_, _>>() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let has_parts = property["properties"].is_object() && property.get("default").is_none();
        if has_parts {
            collect(property, &path, rows)?;
            continue;
        }
        if path == "global" {
            continue; // Helm's own
        }
        let said = property["description"].as_str();
        let said = said.with_context(|| format!("{path}: no description"))?.replace('|', "\\|");
        let default = property.get("default").with_context(|| format!("{path}: no default"))?;
        let default = canonical_json(default);
        rows.push_str(&format!("| `{path}` | `{default}` | {said} |\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_is_what_the_manifest_says() {
        let text = std::fs::read_to_string(root().join(dockerfile::PATH)).unwrap();
        assert_eq!(text, dockerfile(&root()).unwrap(), "cargo xtask gen");
    }

    #[test]
    fn the_chart_s_table_of_values_is_what_its_schema_says() {
        let text = std::fs::read_to_string(root().join(README)).unwrap();
        assert_eq!(text, readme(&root()).unwrap(), "cargo xtask gen");
    }

    #[test]
    fn the_build_context_has_what_the_build_needs() {
        let ignored = std::fs::read_to_string(root().join(".dockerignore")).unwrap();
        let ignored: Vec<_> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
        for member in ["/Cargo.lock", "/images", "/operator", "/server", "/LICENSE"] {
            assert!(!ignored.contains(&member.trim_start_matches('/')), "{member} is left out");
        }
        for waste in ["target", ".cache", ".git"] {
            assert!(ignored.contains(&waste), "{waste} is sent along");
        }
    }
}
