//! What is watched, in one place: rules, the situations they are tested with, and dashboards, as values
//! that files are written from. `cargo xtask gen` writes them, `gen --check` holds them.
//!
//! Why here and not in the files: a query that says which member is silent stands in a rule, in two
//! dashboards and in the page that tells what to do, and a file cannot refer to another.

mod boards;
mod cases;
mod etcd;
mod expr;
#[cfg(test)]
mod lint;
mod ours;
mod panel;
mod rules;
mod scale;
mod slo;

use std::io::Write as _;

use anyhow::{Context, Result, bail};

use self::scale::{Scale, factor};

/// The rules, as written.
pub(crate) const RULES: &str = "charts/metastore/rules/metastore.rules.yaml";
/// promtool's tests of them.
pub(crate) const CASES: &str = "charts/tests/rules.test.yaml";

const HELP: &str = "\
cargo xtask rules [--for-scale X] [--window-scale X] [--runbooks URL]

Prints the rules of Prometheus. X multiplies how long conditions must hold before somebody is told, or how
far back rates look (a second at least); URL, ending in /, is where the runbook's pages can be read.
";

/// Rules as they are written.
pub(crate) fn rules() -> String {
    rules::file(Scale::ONE, rules::RUNBOOKS)
}

/// Their tests.
pub(crate) fn cases() -> String {
    cases::file()
}

/// The dashboards, with their paths.
pub(crate) fn dashboards() -> Vec<(&'static str, String)> {
    boards::all().into_iter().map(|(path, board)| (path, board.json())).collect()
}

/// `cargo xtask rules`.
pub(crate) fn print(arguments: &[String]) -> Result<()> {
    let mut out = std::io::stdout();
    let (mut scale, mut runbooks) = (Scale::ONE, rules::RUNBOOKS.to_owned());
    let mut arguments = arguments.iter();
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("rules: {option}: of what?"));
        match option.as_str() {
            "--for-scale" => scale.holds = factor(option, value()?)?,
            "--window-scale" => scale.windows = factor(option, value()?)?,
            "--runbooks" => value()?.clone_into(&mut runbooks),
            "--help" => return Ok(out.write_all(HELP.as_bytes())?),
            surplus => bail!("rules: what is {surplus:?} for? (rules --help)"),
        }
    }
    Ok(out.write_all(rules::file(scale, &runbooks).as_bytes())?)
}
