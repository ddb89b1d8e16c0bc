//! The experiments in their shortest form: what must hold whatever the machine.

use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cell::Bench;
use super::column::{Column, Way};
use super::flags::{Flags, Named};
use super::plan::Seen;
use super::record::{Kind, Loss, Record, Wanted};
use super::{Trips, bench, beside_each_other, machine, oracle, plan_of};
use crate::preset::{Preset, Trouble};

/// The cells of every check, and what is lost in them.
const CELLS: [(&str, &str, Kind); 4] = [
    ("same-zone", "etcd", Kind::Crash),
    ("same-zone", "balanced", Kind::Crash),
    ("cross-region", "etcd", Kind::Host),
    ("cross-region", "balanced", Kind::Host),
];
const LOSSES: usize = 2;
const KEYS: u64 = 1_000;
const WATCH: Duration = Duration::from_secs(2);
const SEE_MAX: Duration = Duration::from_secs(8);
const SOUND_ROUND_TRIPS: u32 = 4;
const STEP_MAX: Duration = Duration::from_secs(3);

/// Two losses in each of a few cells; or, if cells are named, one loss of each kind in those.
pub(super) fn run(flags: &Flags, asked: &AtomicBool) -> Result<()> {
    let trips = Trips::default();
    let mut cells: Vec<(Named, Wanted)> = Vec::new();
    if flags.is_chosen {
        for (preset, column) in flags.cells.iter().copied() {
            let kinds = flags.kinds.iter().map(|kind| (*kind, 1));
            let is_calm = preset.trouble == Trouble::Nothing;
            let losses = if is_calm { kinds.collect() } else { Vec::new() };
            let wanted = Wanted { watch: WATCH, is_light: false, load: is_calm, losses };
            let load = wanted.load && flags.has_load;
            cells.push(((preset, column), Wanted { load, ..wanted }));
        }
    } else {
        for (preset, column, kind) in CELLS {
            let losses = vec![(kind, LOSSES)];
            let wanted = Wanted { watch: WATCH, losses, ..Wanted::default() };
            cells.push(((Preset::named(preset)?, Column::named(column)?), wanted));
        }
    }
    let failed = beside_each_other(flags.side_by_side, &cells, asked, |(cell, wanted), _| {
        let name = format!("{}/{}", cell.0.name, cell.1.name);
        let bench = Bench {
            keys: Some(KEYS),
            wanted: wanted.clone(),
            see_max: SEE_MAX,
            step_max: STEP_MAX,
            name: name.clone(),
            ..bench(flags, asked)
        };
        let facts = match facts(&bench, cell, &trips) {
            Ok(facts) => facts,
            Err(error) => vec![(false, format!("{error:#}"))],
        };
        let mut failures = 0;
        for (holds, text) in facts {
            failures += usize::from(!holds);
            let verdict = if holds { "ok" } else { "FAIL" };
            // A reader that has gone wants no more of it.
            drop(writeln!(std::io::stdout(), "{verdict} {name}: {text}"));
        }
        (failures > 0).then_some(name)
    });
    bench(flags, asked).check()?;
    if !failed.is_empty() {
        bail!("facts do not hold in {}", failed.join(", "));
    }
    Ok(())
}

fn facts(
    bench: &Bench<'_>,
    &(preset, column): &Named,
    trips: &Trips,
) -> Result<Vec<(bool, String)>> {
    let trips = trips.of(bench, preset)?;
    let seen: Option<Seen> = match column.way {
        Way::Plan(_) => Some(bench.see(preset, machine(), 1)?),
        _ => None,
    };
    let mut record = Record::default();
    let plan = plan_of(column, seen.as_ref(), &record)?;
    let timing = match column.way {
        // One of those it would try.
        Way::Oracle => oracle::middle(&trips),
        way => way.timing(preset, &trips).context("a timing that is known")?,
    };
    bench.measure(preset, column, (timing, plan.as_ref()), &mut record, &|_| Ok(()))?;
    let mut facts = Vec::new();
    let mut fact = |holds: bool, text: &str| facts.push((holds, text.to_owned()));
    if record.keeps_no_leader {
        fact(true, &format!("{}/{} keeps no leader", record.heartbeat_ms, record.election_ms));
        return Ok(facts);
    }
    let wanted = &bench.wanted;
    // Where votes take about as long as anybody waits for them, nothing is promised.
    let is_sound = preset.steps.is_empty()
        && Duration::from_millis(record.election_ms) >= SOUND_ROUND_TRIPS * preset.rtt();
    for (kind, count) in &wanted.losses {
        let of_kind = || record.losses.iter().filter(|loss| loss.kind == *kind);
        let all = |holds: &dyn Fn(&Loss) -> bool| of_kind().all(holds);
        let mut fact = |holds, text: &str| fact(holds, &format!("{}: {text}", kind.name()));
        fact(of_kind().count() == *count, "every leader that was taken is accounted for");
        if !is_sound {
            continue;
        }
        fact(all(&|loss| loss.recovered), "writes are acknowledged again");
        fact(all(&|loss| loss.terms >= 1), "by a leader of a later term");
        fact(all(&|loss| loss.detection_ms.is_some()), "a survivor left the lost leader");
    }
    fact(record.watch.is_some_and(|it| it.ops_per_s > 0.0), "writes pass while nobody is killed");
    if wanted.load {
        let passes = record.load.is_some_and(|it| it.ops_per_s > 0.0);
        fact(passes, "thousands on their way do, too");
    }
    Ok(facts)
}
