//! What is written to `docs/adaptive.md`: how it was measured, the goals and where they stand, every
//! cell, and the charts.

use std::fmt::{self, Write};

use autotune::planner::Policy;

use super::column::{COLUMNS, Column};
use super::goals;
use super::plan::Seen;
use super::plot::{Bar, Group, bars};
use super::record::{Kind, Machine, Record, quantile};
use crate::preset::{PRESETS, Preset};

/// The document and its pictures, by the names of their files.
pub(super) struct Document {
    pub(super) text: String,
    pub(super) charts: Vec<(String, String)>,
}

const ABOUT: &str = "\
# Leader losses in many networks

Written by `cargo xtask adaptive`. Three members on one machine, each in a network namespace of its own; a
router in user space moves their packets and adds delay, jitter and loss to each
([ADR 14](adr/0014-packets-not-a-proxy.md)). etcd is unmodified. A prober writes to every member each 5 ms,
whether the last write was answered or not (while leaders are lost an eighth of the round trip, at most 20 ms,
where that is longer). How a run is made to fit: [ADR 27](adr/0027-experiments-that-fit.md).

* *crash*: the leader's process is killed; its host refuses connections. *host*: the leader is cut off, then
  killed; nothing answers. *restart*: its process is asked to end (SIGTERM). *move*: it is told to hand over.
* *noticed*: until the first survivor says that it does not follow the lost leader any more (asked every 5 ms).
* *without writes*: the longest time in which no write was acknowledged anywhere; median / p90, of so many.
  A whole run has 30 crashes and hosts for etcd's defaults and the plans, 10 of everything else; a verdict on
  fewer is a first sight.
* *false elections*: terms begun while nobody was killed, in so many seconds. Where leaders or disks stall, that
  and the longest time without writes is all that is measured.
* *plan*: the members measure at 100/1000 until the planner has all it asks for (20,000 gaps between signs of
  life), then what it makes of it is submitted to each cell's cluster, once, without the caution that keeps a real
  loop waiting; *Dynatune*: its formula, held still; *oracle*: the best of some eight constants that were tried in
  this network, of those that a balanced plan's bounds allow (300 ms and more: below, whoever stands still for a
  moment, as a throttled container does, is deposed; what shorter ones would gain is shown beside it).
* *static* is MetaStore at etcd's 100/1000, *source* at 50/500.
* *side by side*: cells that shared the machine with others, each in a lab of its own. Their short times are
  longer than they need be.
* Not counted out: other work on the machine. Its load before each cell is in the figures' file; above the number
  of cores, times are longer than they need be, most of all the shortest.

";

pub(super) fn document(records: &[Record], seen: &[Seen], folder: &str) -> Document {
    let mut text = String::from(ABOUT);
    let mut charts = Vec::new();
    for kind in Kind::ALL {
        let groups: Vec<Group> = PRESETS
            .iter()
            .filter_map(|preset| {
                let bars = bars_of(records, preset, kind);
                let title = format!("{}: {}", preset.name, preset.about);
                (!bars.is_empty()).then_some(Group { title, bars })
            })
            .collect();
        let heading = format!("Time without acknowledged writes, {}", words(kind));
        if let Some(picture) = bars(&heading, "milliseconds, logarithmic", &groups) {
            charts.push((format!("{}.svg", kind.name()), picture));
        }
    }
    write(&mut text, records, seen, folder, &charts).expect("writing to a string does not fail");
    text.truncate(text.trim_end().len());
    text.push('\n');
    Document { text, charts }
}

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Crash => "leader's process killed",
        Kind::Host => "leader's host lost",
        Kind::Restart => "leader restarted",
        Kind::Move => "leadership moved",
    }
}

pub(super) fn record_of<'a>(
    records: &'a [Record],
    preset: &str,
    column: &str,
) -> Option<&'a Record> {
    records.iter().find(|record| record.preset == preset && record.column == column)
}

fn bars_of(records: &[Record], preset: &Preset, kind: Kind) -> Vec<Bar> {
    let columns = COLUMNS.iter().enumerate();
    let bars = columns.filter_map(|(number, column)| {
        let record = record_of(records, preset.name, column.name)?;
        let gaps = record.gaps(kind);
        Some(Bar {
            title: title(column, record),
            colour: number,
            median: quantile(&gaps, 0.5)?,
            p90: quantile(&gaps, 0.9)?,
        })
    });
    bars.collect()
}

/// A column with the timing it had here.
fn title(column: &Column, record: &Record) -> String {
    let timing = format!("{}/{}", record.heartbeat_ms, record.election_ms);
    if column.title.ends_with(&timing) {
        column.title.to_owned()
    } else {
        format!("{} {timing}", column.title)
    }
}

fn write(
    to: &mut String,
    records: &[Record],
    seen: &[Seen],
    folder: &str,
    charts: &[(String, String)],
) -> fmt::Result {
    if records.is_empty() {
        return writeln!(to, "Not measured.");
    }
    provenance(to, records)?;
    goals::write(to, records)?;
    for (file, _) in charts {
        writeln!(to, "![{file}]({folder}/{file})\n")?;
    }
    for preset in &PRESETS {
        let of_it: Vec<(&Column, &Record)> = COLUMNS
            .iter()
            .filter_map(|column| Some((column, record_of(records, preset.name, column.name)?)))
            .collect();
        if !of_it.is_empty() {
            let known = |name| seen.iter().find(|seen: &&Seen| seen.preset == name);
            let seen = known(preset.name).or_else(|| known(preset.seen_in().name));
            table(to, preset, &of_it, seen)?;
        }
    }
    missing(to, records)?;
    Ok(())
}

/// Networks without figures, and columns that networks lack.
fn missing(to: &mut String, records: &[Record]) -> fmt::Result {
    let lacks = |preset: &Preset| {
        let names = COLUMNS.iter().map(|column| column.name);
        names.filter(|name| record_of(records, preset.name, name).is_none()).collect::<Vec<_>>()
    };
    let (none, some): (Vec<_>, Vec<_>) = PRESETS
        .iter()
        .map(|preset| (preset.name, lacks(preset)))
        .filter(|(_, lacks)| !lacks.is_empty())
        .partition(|(_, lacks)| lacks.len() == COLUMNS.len());
    if !none.is_empty() {
        let names: Vec<&str> = none.into_iter().map(|(name, _)| name).collect();
        writeln!(to, "Not measured yet: {}.\n", names.join(", "))?;
    }
    if !some.is_empty() {
        let lists = some.iter().map(|(name, lacks)| format!("{name} ({})", lacks.join(", ")));
        writeln!(to, "Columns not measured yet: {}.", lists.collect::<Vec<_>>().join("; "))?;
    }
    Ok(())
}

/// Where and when, and which cells are of which commit where there are several.
fn provenance(to: &mut String, records: &[Record]) -> fmt::Result {
    let mut when: Vec<String> = records
        .iter()
        .map(|it| {
            let Machine { date, cores, kernel, .. } = &it.machine;
            format!("{date}, {cores} cores, Linux {kernel}")
        })
        .collect();
    when.sort();
    when.dedup();
    let loads = || records.iter().map(|record| record.machine.load);
    let (least, most) = loads()
        .fold((f64::MAX, 0.0), |(least, most): (f64, f64), load| (least.min(load), most.max(load)));
    writeln!(
        to,
        "Measured: {}; load before the cells {least:.1} to {most:.1}. Every loss: \
         [adaptive.json](adaptive.json).\n",
        when.join("; "),
    )?;
    let name = |it: &&Record| format!("{}/{}", it.preset, it.column);
    let mut commits: Vec<&str> = records.iter().map(|it| &*it.machine.commit).collect();
    commits.sort_unstable();
    commits.dedup();
    match &commits[..] {
        [one] => writeln!(to, "The server was last changed by {one}.\n")?,
        all => {
            writeln!(to, "Cells were measured with the server as several commits left it:\n")?;
            for commit in all {
                let of_it = records.iter().filter(|it| it.machine.commit == **commit);
                let of_it: Vec<String> = of_it.map(|it| name(&it)).collect();
                writeln!(to, "* {commit}: {}", of_it.join(", "))?;
            }
            writeln!(to)?;
        }
    }
    let mut sides: Vec<usize> = records.iter().map(|it| it.side_by_side).collect();
    sides.sort_unstable();
    sides.dedup();
    for side in sides.into_iter().filter(|side| *side > 1) {
        let of_it: Vec<String> =
            records.iter().filter(|it| it.side_by_side == side).map(|it| name(&it)).collect();
        writeln!(to, "{side} side by side: {}.\n", of_it.join(", "))?;
    }
    Ok(())
}

fn table(
    to: &mut String,
    preset: &Preset,
    records: &[(&Column, &Record)],
    seen: Option<&Seen>,
) -> fmt::Result {
    writeln!(to, "## {}: {}\n", preset.name, preset.about)?;
    writeln!(
        to,
        "| | keys | crash: noticed | without writes | host: noticed | without writes | by etcd's \
         | restart: without writes | move: without writes | false elections (asked) \
         | without writes, nobody killed | p50 / p99 ms | CPU % | packets/s idle | 4,000 on their way: ops/s, p99 |"
    )?;
    writeln!(to, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")?;
    let base = records.iter().find(|(column, _)| column.name == "etcd");
    let base = base.and_then(|(_, record)| quantile(&record.gaps(Kind::Host), 0.5));
    for (column, record) in records {
        let noticed = |kind| of(quantile(&record.detections(kind), 0.5), 0);
        let gaps = |kind| {
            let gaps = record.gaps(kind);
            match (quantile(&gaps, 0.5), quantile(&gaps, 0.9)) {
                (Some(median), Some(p90)) => {
                    let lost = record.losses.iter().filter(|it| it.kind == kind && !it.recovered);
                    let lost = match lost.count() {
                        0 => String::new(),
                        some if kind == Kind::Move => format!(", {some} not carried out"),
                        some => format!(", {some} without an end"),
                    };
                    format!("{median:.0} / {p90:.0} ({}{lost})", gaps.len())
                }
                _ => "–".to_owned(),
            }
        };
        let ratio = base.zip(quantile(&record.gaps(Kind::Host), 0.5)).map(|(base, own)| own / base);
        let watch = record.watch.as_ref();
        let false_elections = watch.map_or("–".to_owned(), |it| {
            let asked = it.pre_campaigns.map_or(String::new(), |asked| format!(" ({asked})"));
            format!("{}{asked} in {:.0} s", it.false_elections, it.seconds)
        });
        let load = record
            .load
            .as_ref()
            .map_or("–".to_owned(), |it| format!("{:.0}, {:.0} ms", it.ops_per_s, it.p99_ms));
        writeln!(
            to,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {false_elections} | {} | {} | {} | {} | {load} |",
            title(column, record),
            record.keys,
            noticed(Kind::Crash),
            gaps(Kind::Crash),
            noticed(Kind::Host),
            gaps(Kind::Host),
            of(ratio, 2),
            gaps(Kind::Restart),
            gaps(Kind::Move),
            of(watch.map(|it| it.gap_ms), 0),
            watch.map_or("–".to_owned(), |it| format!("{:.1} / {:.1}", it.p50_ms, it.p99_ms)),
            of(watch.map(|it| it.cpu * 100.0), 0),
            of(record.idle_packets_per_s, 0),
        )?;
    }
    writeln!(to)?;
    if let Some(seen) = seen {
        let evidence = &seen.evidence;
        let ms = |us: u64| us as f64 / 1e3;
        let plans = Policy::ALL.map(|policy| {
            let target = seen.target(policy);
            let timing = target.params.timing;
            format!(
                "{} {}/{} ({})",
                policy.as_str(),
                timing.heartbeat_interval_us / 1_000,
                timing.election_timeout_us / 1_000,
                target.binding.as_str()
            )
        });
        writeln!(
            to,
            "Members saw, in {:.0} s with {} beside: round trip {:.1} ms, p99 {:.1}; gaps p99.9 {:.1}, rarest \
             {:.1} of {}; loop {:.1}, leader's silence {:.1}, syncs {:.1} ms. Plans: {}.\n",
            seen.seconds,
            seen.beside.saturating_sub(1),
            ms(evidence.rtt_us),
            ms(evidence.rtt_us_p99),
            ms(evidence.gap_us_p999),
            ms(evidence.gap_us),
            seen.gaps,
            ms(evidence.stall_us),
            ms(evidence.shared_stall_us),
            ms(evidence.sync_us.max(evidence.shared_sync_us)),
            plans.join(", ")
        )?;
    }
    for (column, record) in records {
        if let Some(reason) = &record.missing {
            let what =
                if record.keeps_no_leader { "keeps no leader" } else { "not measured to the end" };
            writeln!(to, "{}: {what}: {reason}\n", column.title)?;
        }
        if let Some(binding) = &record.binding {
            let (h, e) = (record.heartbeat_ms, record.election_ms);
            writeln!(to, "{}: {h}/{e}, decided by {binding}.\n", column.title)?;
        }
        if !record.tried.is_empty() {
            let tried: Vec<String> = record
                .tried
                .iter()
                .map(|it| {
                    let (h, e) = (it.heartbeat_ms, it.election_ms);
                    format!("{h}/{e}: {} ms, {} false", of(it.gap_ms, 0), it.false_elections)
                })
                .collect();
            writeln!(to, "The oracle tried {}.\n", tried.join("; "))?;
        }
    }
    Ok(())
}

pub(super) fn of(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Loss, Watch};
    use super::*;

    fn record(preset: &str, column: &str, gap_ms: f64) -> Record {
        let loss = |kind| Loss {
            kind,
            detection_ms: Some(gap_ms / 2.0),
            gap_ms,
            recovered: true,
            terms: 1,
        };
        Record {
            preset: preset.into(),
            column: column.into(),
            heartbeat_ms: 100,
            election_ms: 1_000,
            watch: Some(Watch { seconds: 20.0, false_elections: 3, ..Watch::default() }),
            losses: vec![loss(Kind::Crash), loss(Kind::Host)],
            ..Record::default()
        }
    }

    #[test]
    fn a_goal_is_held_against_what_was_measured_and_nothing_is_invented() {
        let records =
            [record("same-zone", "etcd", 1_200.0), record("same-zone", "balanced", 360.0)];
        let document = document(&records, &[], "adaptive");
        let line = |start: &str| {
            let found = document.text.lines().find(|line| line.starts_with(start));
            found.unwrap_or_else(|| panic!("{start}: not in {}", document.text)).to_owned()
        };
        assert_eq!(
            line("| host, same-zone: plan balanced"),
            "| host, same-zone: plan balanced by etcd 100/1000 | ≤ 0.4 | 0.30 | holds |"
        );
        assert!(line("| crash, same zone").ends_with("360.00 | **missed** |"));
        assert!(line("| host, cross-zone: plan balanced").ends_with("– | not measured |"));
        assert!(line("| etcd 100/1000 | 0 | 600 | 1200 / 1200 (1) |").contains("3 in 20 s"));
        assert!(document.text.contains("Not measured yet: cross-zone,"));
        let lacks = "etcd-short, static, source, oracle, dynatune, latency";
        assert!(line("Columns not measured yet:").ends_with(&format!(" same-zone ({lacks}).")));
        assert_eq!(document.charts.len(), 2);
    }

    #[test]
    fn without_figures_the_document_says_so() {
        let document = document(&[], &[], "adaptive");
        assert!(document.text.ends_with("Not measured.\n") && document.charts.is_empty());
    }
}
