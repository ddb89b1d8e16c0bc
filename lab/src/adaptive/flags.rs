//! What the experiments are asked for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::column::{COLUMNS, Column};
use super::record::{Kind, Wanted};
use super::root;
use crate::preset::{PRESETS, Preset, Trouble};

pub(super) const HELP: &str = "\
cargo xtask adaptive [flags]     needs root, /dev/net/tun, iproute2; etcd from .ci/tools.sh
  --only CELL,...      PRESET, COLUMN or PRESET/COLUMN (default: all but same-zone-3gib, which takes many hours)
  --resume             keep cells that are whole, whatever commit they are of; go on with those that are
                       begun, if the program is the same
  --plan               measure nothing: what is lacking, and how long it would take
  --side-by-side N     cells measured at the same time, each in a lab of its own (default 1, at most 8)
  --kills N            leaders lost of each kind in each cell (default: 30 for etcd and plans, else 10)
  --loss KIND,...      crash, host, restart, move or none (default: all)
  --watch SECONDS      how long nobody is killed (default 20; where leaders or disks stall 60)
  --light              members are written to every 40 ms meanwhile, not every 5: several clusters fit
  --see-only           only let members measure each other for the planner
  --see SECONDS        members measure at most so long for the planner (default 660: all it asks for)
  --keys N             keys in the store before anything else (default: the preset's)
  --no-load            no 4,000 writes on their way
  --render             measure nothing: write the document from the figures that are there
  --smoke              two losses each in four cells, judged as facts; with --only, one of each kind in
                       those cells, and everything else in its shortest form; no figures are kept
  --etcd PATH          etcd (default .cache/bin/etcd)
  --metastore PATH     the server (default target/release/metastore)
  --out PATH           the document; charts go beside it (default docs/adaptive.md)
Figures of each cell: target/adaptive/PRESET.COLUMN.json, and for the planner PRESET.seen.json.
Presets: cargo xtask lab help. Columns:
";

/// Most losses of a kind in a cell.
const KILLS_MAX: u64 = 1_000;
const WATCH: Duration = Duration::from_secs(20);
const WATCH_TROUBLE: Duration = Duration::from_secs(60);
/// The windows of what members see turn every five minutes: at most ten minutes of gaps are in them.
const SEE_MAX: Duration = Duration::from_secs(660);
const KEYS_MAX: u64 = 100_000_000;
/// Cells at a time.
const SIDE_BY_SIDE_MAX: u64 = 8;

/// A cell: a network and a column.
pub(super) type Named = (&'static Preset, &'static Column);

#[derive(Clone, Debug)]
pub(super) struct Flags {
    pub(super) cells: Vec<Named>,
    /// Whether cells were asked for by name.
    pub(super) is_chosen: bool,
    pub(super) is_resumed: bool,
    pub(super) plans_only: bool,
    pub(super) side_by_side: usize,
    pub(super) kills: Option<usize>,
    pub(super) kinds: Vec<Kind>,
    pub(super) watch: Option<Duration>,
    pub(super) is_light: bool,
    pub(super) see_only: bool,
    pub(super) see_max: Duration,
    pub(super) keys: Option<u64>,
    pub(super) has_load: bool,
    pub(super) render_only: bool,
    pub(super) is_smoke: bool,
    pub(super) etcd: PathBuf,
    pub(super) metastore: PathBuf,
    pub(super) out: PathBuf,
}

impl Flags {
    /// `None`: help was asked for.
    pub(super) fn parse(arguments: &[String]) -> Result<Option<Self>> {
        let root = root();
        let mut flags = Flags {
            cells: cells(&|preset, _| !preset.is_large),
            is_chosen: false,
            is_resumed: false,
            plans_only: false,
            side_by_side: 1,
            kills: None,
            kinds: Kind::ALL.to_vec(),
            watch: None,
            is_light: false,
            see_only: false,
            see_max: SEE_MAX,
            keys: None,
            has_load: true,
            render_only: false,
            is_smoke: false,
            etcd: root.join(".cache/bin/etcd"),
            metastore: root.join("target/release/metastore"),
            out: root.join("docs/adaptive.md"),
        };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            let mut value =
                || arguments.next().with_context(|| format!("{flag}: a value is missing"));
            match flag.as_str() {
                "--help" | "-h" => return Ok(None),
                "--resume" => flags.is_resumed = true,
                "--plan" => flags.plans_only = true,
                "--see-only" => flags.see_only = true,
                "--light" => flags.is_light = true,
                "--no-load" => flags.has_load = false,
                "--render" => flags.render_only = true,
                "--smoke" => flags.is_smoke = true,
                "--only" => (flags.cells, flags.is_chosen) = (named(value()?)?, true),
                "--kills" => {
                    flags.kills = Some(number(flag, value()?, 1, KILLS_MAX)? as usize);
                }
                "--side-by-side" => {
                    flags.side_by_side = number(flag, value()?, 1, SIDE_BY_SIDE_MAX)? as usize;
                }
                "--watch" => {
                    let seconds = number(flag, value()?, 1, 86_400)?;
                    flags.watch = Some(Duration::from_secs(seconds));
                }
                "--see" => {
                    flags.see_max = Duration::from_secs(number(flag, value()?, 5, 3_600)?);
                }
                "--keys" => flags.keys = Some(number(flag, value()?, 0, KEYS_MAX)?),
                "--loss" => flags.kinds = kinds(value()?)?,
                "--etcd" => flags.etcd = value()?.into(),
                "--metastore" => flags.metastore = value()?.into(),
                "--out" => flags.out = value()?.into(),
                _ => bail!("adaptive: unknown flag {flag} (see --help)"),
            }
        }
        Ok(Some(flags))
    }

    /// What is to be measured of a cell.
    pub(super) fn wanted(&self, preset: &Preset, column: &Column) -> Wanted {
        let is_calm = preset.trouble == Trouble::Nothing;
        let watch = self.watch.unwrap_or(if is_calm { WATCH } else { WATCH_TROUBLE });
        let losses = self.kinds.iter().map(|kind| {
            let usual = if Kind::PLANNED.contains(kind) { PLANNED } else { column.losses };
            (*kind, self.kills.unwrap_or(usual.min(column.losses)))
        });
        Wanted {
            watch,
            is_light: self.is_light,
            load: self.has_load && is_calm,
            losses: if is_calm { losses.collect() } else { Vec::new() },
        }
    }
}

/// Planned hand-overs of each kind in a cell.
const PLANNED: usize = 10;

fn number(flag: &str, text: &str, least: u64, most: u64) -> Result<u64> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.with_context(|| format!("{flag} {text:?}: from {least} to {most}"))
}

fn kinds(list: &str) -> Result<Vec<Kind>> {
    let named = |name: &str| {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        kind.with_context(|| format!("--loss {name:?}: crash, host, restart, move or none"))
    };
    if list == "none" { Ok(Vec::new()) } else { list.split(',').map(named).collect() }
}

pub(super) fn cells(is_meant: &dyn Fn(&Preset, &Column) -> bool) -> Vec<Named> {
    let all = PRESETS.iter().flat_map(|preset| COLUMNS.iter().map(move |column| (preset, column)));
    all.filter(|(preset, column)| is_meant(preset, column)).collect()
}

/// The cells of a list, in its order: what is worth most is named first.
fn named(list: &str) -> Result<Vec<Named>> {
    let mut meant: Vec<Named> = Vec::new();
    for name in list.split(',') {
        let of_it = match name.split_once('/') {
            Some((preset, column)) => vec![(Preset::named(preset)?, Column::named(column)?)],
            None if Preset::named(name).is_ok() => cells(&|preset, _| preset.name == name),
            None if Column::named(name).is_ok() => {
                cells(&|preset, column| column.name == name && !preset.is_large)
            }
            None if name == "all" => cells(&|preset, _| !preset.is_large),
            None => bail!("--only {name:?}: neither a preset nor a column"),
        };
        let is_new = |cell: &Named| !meant.contains(cell);
        let new: Vec<Named> = of_it.into_iter().filter(is_new).collect();
        meant.extend(new);
    }
    Ok(meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Flags>> {
        let words: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
        Flags::parse(&words)
    }

    #[test]
    fn cells_are_chosen_by_preset_by_column_or_by_both_and_in_that_order() {
        let cells = |line: &str| {
            let flags = parse(line).unwrap().unwrap();
            flags.cells.iter().map(|(p, c)| format!("{}/{}", p.name, c.name)).collect::<Vec<_>>()
        };
        let usual = PRESETS.iter().filter(|preset| !preset.is_large).count();
        assert_eq!(cells("").len(), usual * COLUMNS.len());
        assert_eq!(cells("--only all"), cells(""));
        assert_eq!(cells("--only metro").len(), COLUMNS.len());
        assert_eq!(cells("--only same-zone-3gib/etcd").len(), 1);
        assert_eq!(cells("--only etcd").len(), usual);
        assert_eq!(
            cells("--only metro/balanced,same-zone/etcd,metro/balanced"),
            ["metro/balanced", "same-zone/etcd"]
        );
    }

    #[test]
    fn where_disks_stall_nobody_is_killed_and_etcd_is_robbed_as_often_as_a_plan() {
        let flags = parse("--loss crash,host").unwrap().unwrap();
        let wanted = |preset: &str, column: &str| {
            flags.wanted(Preset::named(preset).unwrap(), Column::named(column).unwrap())
        };
        assert_eq!(wanted("metro", "etcd").losses, [(Kind::Crash, 30), (Kind::Host, 30)]);
        assert_eq!(wanted("metro", "static").losses, [(Kind::Crash, 10), (Kind::Host, 10)]);
        let stalled = wanted("disk-of-all", "balanced");
        assert_eq!((stalled.losses.len(), stalled.load, stalled.watch), (0, false, WATCH_TROUBLE));
        let planned = parse("--loss restart").unwrap().unwrap();
        let etcd = (Preset::named("metro").unwrap(), Column::named("etcd").unwrap());
        assert_eq!(planned.wanted(etcd.0, etcd.1).losses, [(Kind::Restart, 10)]);
        assert_eq!(parse("--loss none").unwrap().unwrap().wanted(etcd.0, etcd.1).losses, []);
    }

    #[test]
    fn nonsense_is_refused_in_one_line_that_names_it() {
        for (line, named) in [
            ("--only nope", "nope"),
            ("--only metro/nope", "nope"),
            ("--kills 0", "--kills \"0\""),
            ("--side-by-side 9", "from 1 to 8"),
            ("--kills", "a value is missing"),
            ("--loss fire", "fire"),
            ("--watch x", "--watch"),
            ("--nope", "--nope"),
        ] {
            let error = format!("{:#}", parse(line).map(drop).unwrap_err());
            assert!(error.contains(named) && !error.contains('\n'), "{line}: {error}");
        }
        assert!(parse("--help").unwrap().is_none());
    }
}
