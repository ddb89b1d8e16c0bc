//! How long measuring takes, said beforehand: a run must fit into the time there is for it.

use std::fmt::Write;
use std::time::Duration;

use super::cell::{AFTER_STEP, AFTER_STEPS, APART_MS_MAX, FAR, FORGOTTEN, IDLE, LOAD, LOAD_WARM};
use super::column::{Column, System, Way};
use super::flags::{Flags, Named};
use super::oracle::{TRIED_LOSSES, TRIED_MAX, TRIED_WATCH};
use super::record::{Kind, Record, Wanted};
use crate::preset::{Preset, Trouble};

/// Servers are started, and one of them is again.
const START_S: f64 = 3.0;
const RESTART_S: f64 = 1.2;
/// Bytes that fill a store in a second, small values and their keys counted as 1 KiB.
const FILL_BYTES_PER_S: f64 = 12e6;
/// Members agree on a leader, and each acknowledges a write.
const AGREE_S: f64 = 0.5;

/// What a cell lacks, in words, and how long it takes; none: it lacks nothing.
pub(super) fn cell(
    (preset, column): Named,
    wanted: &Wanted,
    record: Option<&Record>,
) -> Option<(String, Duration)> {
    if record.is_some_and(|record| record.is_whole(wanted)) {
        return None;
    }
    let empty = Record::default();
    let record = record.unwrap_or(&empty);
    let (mut words, mut seconds) = (Vec::new(), start_s(preset));
    let watched = record.watch.as_ref().map_or(0.0, |watch| watch.seconds.ceil());
    if watched < wanted.watch.as_secs_f64() {
        seconds += watch_s(preset, wanted);
        words.push(format!("watch {:.0} s", watch_s(preset, wanted)));
    }
    let is_light = wanted.is_light && !wanted.load;
    if preset.rtt() >= FAR && !is_light && !words.is_empty() {
        seconds += FORGOTTEN.as_secs_f64();
    }
    if !wanted.is_light && record.idle_packets_per_s.is_none() {
        seconds += 1.0 + IDLE.as_secs_f64();
    }
    if wanted.load && record.load.is_none() {
        seconds += (LOAD + LOAD_WARM).as_secs_f64() + AGREE_S;
        words.push("load".to_owned());
    }
    for (kind, count) in &wanted.losses {
        let lacking = count.saturating_sub(record.count(*kind));
        if lacking > 0 {
            seconds += lacking as f64 * loss_s(preset, column, *kind);
            words.push(format!("{lacking} {}", kind.name()));
        }
    }
    if column.way == Way::Oracle && record.election_ms == 0 {
        let left = TRIED_MAX.saturating_sub(record.tried.len());
        let (watch, losses) = match preset.trouble {
            Trouble::Nothing => (TRIED_WATCH.as_secs_f64(), TRIED_LOSSES as f64),
            _ => (wanted.watch.as_secs_f64(), 0.0),
        };
        let each = start_s(preset) + watch + losses * loss_s(preset, column, Kind::Host);
        seconds += left as f64 * each;
        words.push(format!("{left} constants tried"));
    }
    Some((words.join(", "), Duration::from_secs_f64(seconds)))
}

fn start_s(preset: &Preset) -> f64 {
    let (keys, value_bytes) = preset.store;
    let bytes = keys as f64 * value_bytes.max(1_024) as f64;
    START_S + bytes / FILL_BYTES_PER_S + 2.0 * AGREE_S + 10.0 * preset.rtt().as_secs_f64()
}

fn watch_s(preset: &Preset, wanted: &Wanted) -> f64 {
    let steps = match preset.steps {
        [] => Duration::ZERO,
        _ => preset.steps_last() + AFTER_STEPS,
    };
    wanted.watch.max(steps).as_secs_f64()
}

/// One leader lost, and what belongs to it.
fn loss_s(preset: &Preset, column: &Column, kind: Kind) -> f64 {
    let rtt_s = preset.rtt().as_secs_f64();
    let election_s = match column.way {
        Way::Fixed(timing) => timing.election_timeout_us as f64 / 1e6,
        Way::Dynatune => 2.0 * rtt_s,
        Way::Plan(_) | Way::Oracle => (4.0 * rtt_s).max(0.3),
    };
    let detected_s = match (kind, column.system) {
        (Kind::Restart | Kind::Move, _) | (Kind::Crash, System::MetaStore) => 0.1,
        _ => 1.3 * election_s,
    };
    let (keys, value_bytes) = preset.store;
    let reopened_s = keys as f64 * value_bytes as f64 / 400e6;
    let restart_s = if kind == Kind::Move { 0.0 } else { RESTART_S + reopened_s };
    let steps_s = if preset.steps.is_empty() { 0.0 } else { AFTER_STEP.as_secs_f64() + 3.0 };
    let apart_s = APART_MS_MAX as f64 / 2e3 + 0.12;
    detected_s + 8.0 * rtt_s + restart_s + AGREE_S + apart_s + steps_s
}

/// All of it, cell by cell, and the sum.
pub(super) fn table(flags: &Flags, lacking: &[(Named, String, Duration)], seen: usize) -> String {
    let mut text = String::new();
    let see_s = flags.see_max.as_secs_f64().min(columns_need_s());
    let seeing = |text: &mut String| -> std::fmt::Result {
        if seen > 0 {
            writeln!(text, "{seen} networks are measured for the planner, {see_s:.0} s each")?;
        }
        Ok(())
    };
    let mut sum_s = seen.div_ceil(flags.side_by_side.max(super::SEEING_MIN)) as f64 * see_s;
    let cells_s: f64 = lacking.iter().map(|(.., lasts)| lasts.as_secs_f64()).sum();
    // No cell is divided among them.
    let longest_s = lacking.iter().map(|(.., it)| it.as_secs_f64()).fold(0.0, f64::max);
    sum_s += (cells_s / flags.side_by_side.max(1) as f64).max(longest_s);
    let cells = |text: &mut String| -> std::fmt::Result {
        for ((preset, column), what, lasts) in lacking {
            let name = format!("{}/{}", preset.name, column.name);
            writeln!(text, "{name:<32} {:>6.0} s  {what}", lasts.as_secs_f64())?;
        }
        writeln!(
            text,
            "{} cells, {} side by side: about {:.0} minutes",
            lacking.len(),
            flags.side_by_side,
            sum_s / 60.0
        )
    };
    seeing(&mut text).and_then(|()| cells(&mut text)).expect("a string takes everything");
    text
}

/// Until 20,000 gaps of 25 ms have been seen, and the cluster was started.
fn columns_need_s() -> f64 {
    const GAPS: f64 = 20_000.0;
    GAPS * autotune::planner::PROBE_INTERVAL_US as f64 / 1e6 + 3.0 * START_S
}

#[cfg(test)]
mod tests {
    use super::super::record::Watch;
    use super::*;

    fn named(preset: &str, column: &str) -> Named {
        (Preset::named(preset).unwrap(), Column::named(column).unwrap())
    }

    #[test]
    fn only_what_is_lacking_is_counted_and_what_is_far_takes_longer() {
        let wanted = Wanted {
            watch: Duration::from_secs(20),
            losses: vec![(Kind::Host, 30)],
            ..Wanted::default()
        };
        let of = |preset: &str, record: Option<&Record>| {
            cell(named(preset, "balanced"), &wanted, record).map(|(_, lasts)| lasts)
        };
        let near = of("cross-zone", None).unwrap();
        assert!(of("far-loss", None).unwrap() > near * 3 / 2);
        let watched = Record {
            watch: Some(Watch { seconds: 20.0, ..Watch::default() }),
            ..Record::default()
        };
        assert!(near - of("cross-zone", Some(&watched)).unwrap() >= Duration::from_secs(20));
        let none = Record { keeps_no_leader: true, ..Record::default() };
        assert_eq!(of("cross-zone", Some(&none)), None);
    }
}
