//! What a run is asked to do: its flags, and which of them make no sense.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::sections::{SECTIONS, Section};
use crate::chores::root;

pub(super) const HELP: &str = "\
cargo xtask bench-vs-etcd [flags]
  --rounds N           rounds, each with both systems in turns (default 3)
  --profile P          dist or release: how server, metactl and echo are built (default dist)
  --only SECTION,...   these sections and no others (default: all, as listed below)
  --resume             keep the rounds that this commit's earlier runs of a section finished
  --no-build           use the programs that target/PROFILE holds
  --long               also what takes long: 10,000,000 keys, 50 clients with 50,000 puts each
  --scale F            loads, fills and waits times F, 0.001 to 1 (default 1); the document says so,
                       since below 1 the tool is tried and nothing is measured
  --render             measure nothing: write the document from the figures that are there
  --etcd PATH          etcd to compare with (default .cache/bin/etcd, as .ci/tools.sh builds it);
                       etcdctl is taken from the same folder
  --load PATH          etcd's load tool (default .cache/bin/benchmark)
  --metastore PATH     the server to measure (default: built from this tree)
  --out PATH           the document; raw figures go beside it as .json (default docs/benchmarks.md)
Raw figures of each section: target/bench/SECTION.json, written after every round.
Sections:
";

/// Most rounds.
const ROUNDS_MAX: usize = 100;
const SCALE_MIN: f64 = 0.001;

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) rounds: usize,
    pub(super) profile: String,
    pub(super) sections: Vec<&'static Section>,
    pub(super) resume: bool,
    pub(super) build: bool,
    pub(super) long: bool,
    pub(super) scale: f64,
    pub(super) render_only: bool,
    pub(super) etcd: PathBuf,
    pub(super) load: PathBuf,
    pub(super) metastore: Option<PathBuf>,
    pub(super) out: PathBuf,
}

impl Plan {
    /// `None`: help was asked for.
    pub(super) fn parse(arguments: &[String]) -> Result<Option<Self>> {
        let root = root();
        let mut plan = Plan {
            rounds: 3,
            profile: "dist".to_owned(),
            sections: SECTIONS.iter().collect(),
            resume: false,
            build: true,
            long: false,
            scale: 1.0,
            render_only: false,
            etcd: root.join(".cache/bin/etcd"),
            load: root.join(".cache/bin/benchmark"),
            metastore: None,
            out: root.join("docs/benchmarks.md"),
        };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                "--resume" => plan.resume = true,
                "--no-build" => plan.build = false,
                "--long" => plan.long = true,
                "--render" => plan.render_only = true,
                "--rounds" | "--profile" | "--only" | "--scale" | "--etcd" | "--load"
                | "--metastore" | "--out" => {
                    let value =
                        arguments.next().with_context(|| format!("{flag}: a value is missing"))?;
                    plan.set(flag, value)?;
                }
                _ => bail!("bench-vs-etcd: unknown flag {flag} (see --help)"),
            }
        }
        Ok(Some(plan))
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<()> {
        match flag {
            "--rounds" => {
                let rounds = value.parse().ok().filter(|it| (1..=ROUNDS_MAX).contains(it));
                self.rounds = rounds
                    .with_context(|| format!("--rounds {value:?}: from 1 to {ROUNDS_MAX}"))?;
            }
            "--profile" => {
                if !["dist", "release"].contains(&value) {
                    bail!("--profile {value:?}: dist or release");
                }
                value.clone_into(&mut self.profile);
            }
            "--only" => self.sections = named(value)?,
            "--scale" => {
                let scale = value.parse().ok().filter(|it| (SCALE_MIN..=1.0).contains(it));
                self.scale =
                    scale.with_context(|| format!("--scale {value:?}: from {SCALE_MIN} to 1"))?;
            }
            "--etcd" => self.etcd = value.into(),
            "--load" => self.load = value.into(),
            "--metastore" => self.metastore = Some(value.into()),
            "--out" => {
                self.out = value.into();
                // Better said now than after an hour.
                if self.out.is_dir() {
                    bail!("--out {value:?}: a folder");
                }
                let folder = self.out.parent().filter(|folder| !folder.as_os_str().is_empty());
                if folder.is_some_and(|folder| !folder.is_dir()) {
                    bail!("--out {value:?}: there is no such folder");
                }
            }
            _ => unreachable!("{flag} takes a value"),
        }
        Ok(())
    }
}

/// The sections of a list, in their own order.
fn named(list: &str) -> Result<Vec<&'static Section>> {
    for name in list.split(',') {
        if !SECTIONS.iter().any(|section| section.name == name) {
            let names: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
            bail!("--only {name:?}: no such section (there are {})", names.join(", "));
        }
    }
    Ok(SECTIONS.iter().filter(|it| list.split(',').any(|name| it.name == name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Plan>> {
        let words: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
        Plan::parse(&words)
    }

    #[test]
    fn without_flags_everything_is_measured_in_three_rounds() {
        let plan = parse("").unwrap().unwrap();
        assert_eq!((plan.rounds, &*plan.profile, plan.scale), (3, "dist", 1.0));
        assert_eq!(plan.sections.len(), SECTIONS.len());
        assert!(plan.build && !plan.resume && !plan.long && !plan.render_only);
        assert!(plan.out.ends_with("docs/benchmarks.md"));
    }

    #[test]
    fn sections_are_chosen_by_name_and_run_in_their_order() {
        let plan = parse("--only open-loop,etcd-tool --rounds 5").unwrap().unwrap();
        let names: Vec<_> = plan.sections.iter().map(|section| section.name).collect();
        assert_eq!((names, plan.rounds), (vec!["etcd-tool", "open-loop"], 5));
    }

    #[test]
    fn nonsense_is_refused_in_one_line_that_names_it() {
        for (line, named) in [
            ("--only nope", "nope"),
            ("--only etcd-tool,", "no such section"),
            ("--rounds 0", "--rounds \"0\""),
            ("--rounds many", "many"),
            ("--rounds", "a value is missing"),
            ("--profile fast", "dist or release"),
            ("--scale 2", "--scale \"2\""),
            ("--scale NaN", "NaN"),
            ("--nope", "--nope"),
            ("--out /nowhere/figures.md", "no such folder"),
            ("--out /", "a folder"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(named) && !error.contains('\n'), "{line}: {error}");
        }
        assert!(parse("--help").unwrap().is_none());
    }
}
