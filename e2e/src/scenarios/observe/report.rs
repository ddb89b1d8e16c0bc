//! The table of faults: to read, and as a verdict.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::super::Cluster;
use super::faults::{Outcome, SHOWN_BUDGET};
use super::{FOR_SCALE, WINDOW_SCALE};
use crate::command;
use crate::wait::say;

/// Below the repository.
const FILE: &str = "target/faults.md";
const DATE_LIMIT: Duration = Duration::from_secs(10);

/// As Markdown, to be copied to docs/faults.md.
pub(super) fn write(cluster: &Cluster, outcomes: &[Outcome]) -> Result<()> {
    let date = command::run_well(Command::new("date").arg("+%F"), b"", DATE_LIMIT)?;
    let text = markdown(date.trim(), outcomes)?;
    text.lines().filter(|line| line.starts_with('|')).for_each(say);
    let path = cluster.places.root.join(FILE);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    say(&format!("   {FILE}"));
    Ok(())
}

fn markdown(date: &str, outcomes: &[Outcome]) -> Result<String> {
    let mut text = format!(
        "# How soon a fault is seen\n\n\
         Written by `cargo xtask e2e run observe` on {date}; `cp {FILE} docs/faults.md` keeps it. A real Prometheus \
         scrapes two MetaStores of three members and the operator on a real Kubernetes node of one machine, once a \
         second. The alerts' `for` is {FOR_SCALE} of what it is by default and the windows of their rates are \
         {WINDOW_SCALE}: a minute of waiting is three seconds here. Seconds are from the fault, and for the last column \
         from its end.\n\n\
         | fault | what is done | on the overview | after | alert | after | others that fired | resolved after |\n\
         |---|---|---|--:|---|--:|---|--:|\n"
    );
    for outcome in outcomes {
        let seconds = |took: &Result<Duration>| match took {
            Ok(took) => format!("{:.1} s", took.as_secs_f64()),
            Err(_) => "never".to_owned(),
        };
        let (alert, fired) = match &outcome.fired {
            Ok((took, alert)) => {
                let page = alert.runbook_url.rsplit('/').next().unwrap_or_default();
                (
                    format!("[{}](operating/runbooks/{page})", alert.name),
                    format!("{:.1} s", took.as_secs_f64()),
                )
            }
            Err(_) => ("none".to_owned(), "never".to_owned()),
        };
        let others: Vec<&str> = outcome.others.iter().map(|alert| alert.name.as_str()).collect();
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        let Outcome { name, how, panel: (panel, column), .. } = outcome;
        let panel = match *column {
            "" => (*panel).to_owned(),
            column => format!("{panel}: `{column}`"),
        };
        let (shown, resolved) = (seconds(&outcome.shown), seconds(&outcome.resolved));
        writeln!(
            text,
            "| {name} | {how} | {panel} | {shown} | {alert} | {fired} | {others} | {resolved} |"
        )?;
    }
    Ok(text)
}

/// What did not show, did not call anybody, or called for good, is an error.
pub(super) fn judge(cluster: &Cluster, outcomes: &[Outcome]) -> Result<()> {
    let mut bad = Vec::new();
    for outcome in outcomes {
        let name = outcome.name;
        let all = (&outcome.shown, &outcome.fired, &outcome.resolved);
        let (shown, (fired, alert), resolved) = match all {
            (Ok(shown), Ok(fired), Ok(resolved)) => (shown, fired, resolved),
            (shown, fired, resolved) => {
                let errors = [
                    shown.as_ref().err().map(ToString::to_string),
                    fired.as_ref().err().map(ToString::to_string),
                    resolved.as_ref().err().map(ToString::to_string),
                ];
                bad.extend(errors.into_iter().flatten().map(|error| format!("{name}: {error}")));
                continue;
            }
        };
        let over = if *shown > SHOWN_BUDGET { " (over budget)" } else { "" };
        cluster.ok(&format!(
            "{name}: on the overview after {:.1} s{over}, {} after {:.1} s, resolved in {:.1} s",
            shown.as_secs_f64(),
            alert.name,
            fired.as_secs_f64(),
            resolved.as_secs_f64()
        ));
    }
    match bad.is_empty() {
        true => Ok(()),
        false => bail!("{}", bad.join("; ")),
    }
}
