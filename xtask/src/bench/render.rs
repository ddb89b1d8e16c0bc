//! What is written to `docs/benchmarks.md`: the goals and where each row stands, what limits those
//! that fall short, the profile, and every figure of every section.

use std::fmt::{self, Write};

use super::goals::{Bound, Figure, ROWS, Row, Verdict};
use super::limits::{Limits, PROFILE};
use super::record::{ECHO, ETCD, METASTORE, Record, Series, median};
use super::sections::{SECTIONS, Section};

pub(super) fn markdown(records: &[Record], limits: &Limits) -> Result<String, fmt::Error> {
    let mut text = String::from(
        "# Beside etcd\n\n\
         Written by `cargo xtask bench-vs-etcd`. In every round etcd runs first, then MetaStore, on the \
         same machine with everything on loopback, the load tool on the same cores, syncing on. Figures \
         are medians of all rounds, nothing dropped; ratios are MetaStore's by etcd's. Ratios mean \
         something, absolute figures belong to this machine. Every round's figures: \
         [benchmarks.json](benchmarks.json).\n\n",
    );
    goals(&mut text, records)?;
    shortfalls(&mut text, records, limits)?;
    writeln!(text, "## Profile\n")?;
    writeln!(text, "{}\n", limits.of(PROFILE).unwrap_or("Not written yet."))?;
    for section in &SECTIONS {
        match record_of(records, section.name) {
            Some(record) => figures(&mut text, section, record)?,
            None => writeln!(text, "## {}\n\nNot measured.\n", section.name)?,
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok(text)
}

fn record_of<'a>(records: &'a [Record], section: &str) -> Option<&'a Record> {
    records.iter().find(|record| record.section == section)
}

/// A row's value, if there is one, and its verdict, if that was measured and not only tried.
fn stands(row: &Row, records: &[Record]) -> (Option<f64>, Option<Verdict>) {
    let Some(record) = record_of(records, row.section) else { return (None, None) };
    let value = row.value(record);
    let measured = value.filter(|_| record.scale >= 1.0);
    (value, measured.map(|value| row.bound.judge(value)))
}

fn goals(text: &mut String, records: &[Record]) -> fmt::Result {
    let verdicts: Vec<_> = ROWS.iter().map(|row| stands(row, records)).collect();
    let count =
        |wanted: Option<Verdict>| verdicts.iter().filter(|(_, verdict)| *verdict == wanted).count();
    writeln!(text, "## Goals\n")?;
    writeln!(
        text,
        "Of {} rows with a goal {} are at it, {} between floor and goal, {} below the floor, {} not \
         measured.\n",
        ROWS.iter().filter(|row| row.bound != Bound::None).count(),
        count(Some(Verdict::Goal)),
        count(Some(Verdict::Floor)),
        count(Some(Verdict::BelowFloor)),
        count(None),
    )?;
    writeln!(
        text,
        "Some goals are words, read here as numbers: O(log n) as twice the cost for a thousand times the \
         keys, independent as 1.1 times (floor 1.25), not starving as 99 % of the keep-alives that are \
         due and three times the put p99. Where one number is given it is both goal and floor.\n"
    )?;
    writeln!(text, "| row | | etcd | MetaStore | figure | goal | floor | verdict |")?;
    writeln!(text, "|---|---|---|---|---|---|---|---|")?;
    for (row, stands) in ROWS.iter().zip(verdicts) {
        let both = |subject| match (row.figure, record_of(records, row.section)) {
            (Figure::Ratio(case, figure), Some(record)) => {
                record.median(case, figure, subject).map_or("–".to_owned(), short)
            }
            _ => "–".to_owned(),
        };
        let [goal, floor] = match row.bound {
            Bound::AtLeast(goal, floor) => [goal, floor].map(|it| format!("≥ {}", short(it))),
            Bound::AtMost(goal, floor) => [goal, floor].map(|it| format!("≤ {}", short(it))),
            Bound::None => ["–", "–"].map(str::to_owned),
        };
        let unit = row.unit();
        let (value, verdict) = stands;
        let verdict = match (verdict, value) {
            (Some(verdict), _) => verdict.name(),
            (None, Some(_)) => "only tried",
            (None, None) => "not measured",
        };
        let value = value.map_or("–".to_owned(), |value| format!("{} {unit}", short(value)));
        writeln!(
            text,
            "| `{}` | {} | {} | {} | {value} | {goal} | {floor} | {verdict} |",
            row.key,
            row.text,
            both(ETCD),
            both(METASTORE),
        )?;
    }
    writeln!(text)
}

fn shortfalls(text: &mut String, records: &[Record], limits: &Limits) -> fmt::Result {
    writeln!(text, "## What limits the rows below their goal, and the next step\n")?;
    let mut is_any = false;
    for row in &ROWS {
        let (Some(value), Some(verdict @ (Verdict::Floor | Verdict::BelowFloor))) =
            stands(row, records)
        else {
            continue;
        };
        is_any = true;
        writeln!(
            text,
            "### {} ({} {}, {})\n",
            row.key,
            short(value),
            row.unit(),
            verdict.name().trim_matches('*')
        )?;
        let limit = limits.of(row.key).unwrap_or("Not written yet.");
        writeln!(text, "{limit}\n")?;
    }
    if !is_any {
        writeln!(text, "There are none among those measured.\n")?;
    }
    Ok(())
}

fn figures(text: &mut String, section: &Section, record: &Record) -> fmt::Result {
    let machine = &record.machine;
    writeln!(text, "## {}\n", section.name)?;
    let how = section.how;
    let mut letters = how.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    writeln!(text, "{first}{}\n", letters.as_str())?;
    write!(
        text,
        "{} · {} rounds in {:.0} s · {} cores, {} GiB, Linux {} · commit {}, profile {} · {} · {}",
        machine.date,
        record.rounds,
        record.took_s,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.commit,
        record.profile,
        record.etcd,
        record.metastore,
    )?;
    if record.scale < 1.0 {
        write!(
            text,
            " · **loads times {}: the tool was tried, nothing was measured**",
            record.scale
        )?;
    }
    writeln!(text, "\n")?;
    for missing in &record.missing {
        writeln!(text, "* Not measured: {missing}")?;
    }
    if !record.missing.is_empty() {
        writeln!(text)?;
    }
    table(text, record)
}

fn table(text: &mut String, record: &Record) -> fmt::Result {
    if record.series.is_empty() {
        return Ok(());
    }
    let is_there = |subject: &str| record.series.iter().any(|it| it.subject == subject);
    let subjects: Vec<&str> =
        [ETCD, METASTORE, ECHO].into_iter().filter(|subject| is_there(subject)).collect();
    let has_ratios = is_there(ETCD) && is_there(METASTORE);
    write!(text, "| load | figure |")?;
    for subject in &subjects {
        write!(text, " {subject} |")?;
    }
    writeln!(text, "{}", if has_ratios { " ratio | ratio by round |" } else { " by round |" })?;
    let columns = 2 + subjects.len() + if has_ratios { 2 } else { 1 };
    writeln!(text, "|{}", "---|".repeat(columns))?;
    for line in lines(&record.series) {
        let of = |subject| record.of(&line.case, &line.figure, subject);
        write!(text, "| {} | {} |", line.case, line.figure)?;
        for subject in &subjects {
            let value = of(subject).and_then(median);
            write!(text, " {} |", value.map_or("–".to_owned(), short))?;
        }
        let listed = |values: &mut dyn Iterator<Item = f64>| -> String {
            values.map(short).collect::<Vec<_>>().join(" ")
        };
        match (has_ratios, of(ETCD), of(METASTORE)) {
            (true, Some(etcd), Some(metastore)) => {
                let ratio = median(metastore).zip(median(etcd)).map(|(ours, theirs)| ours / theirs);
                let mut each = metastore.iter().zip(etcd).map(|(ours, theirs)| ours / theirs);
                let ratio = ratio.map_or("–".to_owned(), short);
                writeln!(text, " {ratio} | {} |", listed(&mut each))?;
            }
            (true, ..) => writeln!(text, " – | – |")?,
            (false, ..) => {
                let values = subjects.first().and_then(|subject| of(subject)).unwrap_or_default();
                writeln!(text, " {} |", listed(&mut values.iter().copied()))?;
            }
        }
    }
    writeln!(text)
}

/// One series for each line: cases stay together, in the order they first came in.
fn lines(series: &[Series]) -> Vec<&Series> {
    let mut lines: Vec<&Series> = Vec::new();
    for one in series {
        if lines.iter().any(|line| line.case == one.case && line.figure == one.figure) {
            continue;
        }
        let behind = lines.iter().rposition(|line| line.case == one.case);
        lines.insert(behind.map_or(lines.len(), |at| at + 1), one);
    }
    lines
}

/// Three figures that count.
fn short(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "–".to_owned(),
        size if size >= 1e4 => {
            let (thousands, rest) = ((size.round() as u64) / 1000, (size.round() as u64) % 1000);
            let sign = if value < 0.0 { "-" } else { "" };
            match thousands {
                0..1000 => format!("{sign}{thousands},{rest:03}"),
                _ => format!("{sign}{},{:03},{rest:03}", thousands / 1000, thousands % 1000),
            }
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size == 0.0 || size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sections::etcd_tool;
    use super::super::tools::{OPS_PER_S, P99_MS};
    use super::*;

    fn record() -> Record {
        let mut record = Record {
            section: "etcd-tool".to_owned(),
            profile: "dist".to_owned(),
            scale: 1.0,
            rounds: 3,
            ..Record::default()
        };
        for (etcd, metastore) in [(10_000.0, 20_000.0), (9_000.0, 19_000.0), (11_000.0, 33_000.0)] {
            record.add(etcd_tool::PUT, OPS_PER_S, ETCD, etcd);
            record.add(etcd_tool::PUT, OPS_PER_S, METASTORE, metastore);
        }
        record.add(etcd_tool::PUT_1, P99_MS, ETCD, 2.0);
        record.add(etcd_tool::PUT, P99_MS, ETCD, 100.0);
        record.add(etcd_tool::PUT, P99_MS, METASTORE, 20.0);
        record.add(etcd_tool::PUT, OPS_PER_S, ECHO, 40_000.0);
        record
    }

    #[test]
    fn rows_are_judged_and_those_not_measured_say_so() {
        let text = markdown(&[record()], &Limits::default()).unwrap();
        let line =
            |key: &str| text.lines().find(|it| it.starts_with(&format!("| `{key}`"))).unwrap();
        assert!(
            line("put-throughput")
                .ends_with("| 10,000 | 20,000 | 2.00 × | ≥ 2.50 | ≥ 1.80 | floor |")
        );
        assert!(line("put-p99").ends_with("| 100 | 20.0 | 0.200 × | ≤ 0.333 | ≤ 0.500 | goal |"));
        assert!(line("restart").ends_with("| not measured |"));
        assert!(text.contains("with a goal 1 are at it, 1 between floor and goal, 0 below"));
    }

    #[test]
    fn rows_short_of_their_goal_have_a_place_for_why() {
        let text = markdown(&[record()], &Limits::default()).unwrap();
        assert!(text.contains("### put-throughput (2.00 ×, floor)\n\nNot written yet."));
        assert!(!text.contains("### put-p99"));
    }

    #[test]
    fn a_table_has_every_rounds_ratio_and_cases_stay_together() {
        let mut text = String::new();
        table(&mut text, &record()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "| load | figure | etcd | MetaStore | echo | ratio | ratio by round |"
        );
        assert_eq!(
            lines[2],
            "| put, 1,000 clients | requests/s | 10,000 | 20,000 | 40,000 | 2.00 | 2.00 2.11 3.00 |"
        );
        assert!(lines[3].starts_with("| put, 1,000 clients | p99 ms | 100 | 20.0 | – | 0.200 |"));
        assert!(lines[4].starts_with("| put, 1 client | p99 ms | 2.00 | – | – | – |"));
    }

    #[test]
    fn what_is_missing_and_a_small_scale_are_said() {
        let mut record = record();
        record.miss("slow syncs: no strace".to_owned());
        record.scale = 0.01;
        let text = markdown(&[record], &Limits::default()).unwrap();
        assert!(text.contains("* Not measured: slow syncs: no strace"));
        assert!(text.contains("loads times 0.01"));
        assert!(text.contains("| only tried |") && !text.contains("| goal |\n"));
        assert!(text.contains("## open-loop\n\nNot measured."));
    }

    #[test]
    fn numbers_have_the_figures_that_count() {
        for (value, text) in [
            (0.0, "0.00"),
            (0.12345, "0.123"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (1234.4, "1234"),
            (40_000.0, "40,000"),
            (1_234_567.0, "1,234,567"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
