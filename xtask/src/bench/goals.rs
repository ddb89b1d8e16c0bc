//! The goal table: every row with what it is computed from, its goal and its floor.
//!
//! The goal is what is wanted; a row below its floor is a defect. Where the goals name one number it
//! is both.

use super::record::{ECHO, ETCD, METASTORE, Record};
use super::sections::{etcd_tool, growth, leases, memory, open_loop, watch};
use super::tools::{CPU_US, OPS_PER_S, P99_MS};

/// What a row's figure is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Figure {
    /// MetaStore's median by etcd's, of a case's figure.
    Ratio(&'static str, &'static str),
    /// MetaStore's median alone, of a case's figure, in a unit.
    Absolute(&'static str, &'static str, &'static str),
    /// Something computed, in a unit.
    Of(fn(&Record) -> Option<f64>, &'static str),
}

/// Goal and floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64, f64),
    AtMost(f64, f64),
    /// None: what stands beside a goal, to judge that by.
    None,
}

/// Where a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Goal,
    Floor,
    BelowFloor,
    Beside,
}

impl Verdict {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Goal => "goal",
            Self::Floor => "floor",
            Self::BelowFloor => "**below floor**",
            Self::Beside => "no goal",
        }
    }
}

impl Bound {
    pub(super) fn judge(self, value: f64) -> Verdict {
        let (goal, floor) = match self {
            Self::AtLeast(goal, floor) => (value >= goal, value >= floor),
            Self::AtMost(goal, floor) => (value <= goal, value <= floor),
            Self::None => return Verdict::Beside,
        };
        match (goal, floor) {
            (true, _) => Verdict::Goal,
            (false, true) => Verdict::Floor,
            (false, false) => Verdict::BelowFloor,
        }
    }
}

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: &'static str,
    pub(super) section: &'static str,
    pub(super) text: &'static str,
    pub(super) figure: Figure,
    pub(super) bound: Bound,
}

impl Row {
    /// `None`: not measured.
    pub(super) fn value(&self, record: &Record) -> Option<f64> {
        let value = match self.figure {
            Figure::Ratio(case, figure) => {
                record.median(case, figure, METASTORE)? / record.median(case, figure, ETCD)?
            }
            Figure::Absolute(case, figure, _) => record.median(case, figure, METASTORE)?,
            Figure::Of(compute, _) => compute(record)?,
        };
        value.is_finite().then_some(value)
    }

    pub(super) fn unit(&self) -> &'static str {
        match self.figure {
            Figure::Ratio(..) => "×",
            Figure::Absolute(_, _, unit) | Figure::Of(_, unit) => unit,
        }
    }
}

const fn row(
    key: &'static str,
    section: &'static str,
    text: &'static str,
    figure: Figure,
    bound: Bound,
) -> Row {
    Row { key, section, text, figure, bound }
}

/// As the goals list them.
pub(super) const ROWS: [Row; 29] = {
    use Bound::{AtLeast, AtMost};
    use Figure::{Absolute, Of, Ratio};
    use etcd_tool::{PUT, RANGE_L, RANGE_S};
    use memory::{DISK, FULL, LIST_MS, RESTART_S, RESTARTED, RSS};
    const TOOL: &str = "etcd-tool";
    const OPEN: &str = "open-loop";
    const MEMORY: &str = "memory";
    [
        row(
            "put-throughput",
            TOOL,
            "put, 3 members, 1,000 clients, etcd's tool: throughput",
            Ratio(PUT, OPS_PER_S),
            AtLeast(2.5, 1.8),
        ),
        row("put-p99", TOOL, "— p99", Ratio(PUT, P99_MS), AtMost(1.0 / 3.0, 0.5)),
        row(
            "put-cpu",
            TOOL,
            "server CPU per put, 3 members summed",
            Ratio(PUT, CPU_US),
            AtMost(0.25, 1.0 / 3.0),
        ),
        row(
            "put-cpu-beyond-echo",
            TOOL,
            "server CPU per put beyond the unary echo of the same run, 3 members summed",
            Of(beyond_echo, "µs"),
            AtMost(20.0, 30.0),
        ),
        row(
            "put-1-client",
            TOOL,
            "put, 1 client, mean (of one client the inverse of the rate, which the tool prints exactly)",
            Of(put_1_mean, "×"),
            AtMost(0.5, 0.75),
        ),
        row(
            "range-l-throughput",
            TOOL,
            "linearizable one-key range, etcd's tool: throughput",
            Ratio(RANGE_L, OPS_PER_S),
            AtLeast(1.6, 1.3),
        ),
        row("range-l-cpu", TOOL, "— server CPU", Ratio(RANGE_L, CPU_US), AtMost(0.4, 0.5)),
        row(
            "range-s-throughput",
            TOOL,
            "serializable one-key range, etcd's tool: throughput",
            Ratio(RANGE_S, OPS_PER_S),
            AtLeast(1.6, 1.3),
        ),
        row("range-s-cpu", TOOL, "— server CPU", Ratio(RANGE_S, CPU_US), AtMost(0.4, 0.5)),
        row(
            "echo-share-closed",
            OPEN,
            "own load generator, closed loop, 3 members, of the unary echo's maximum in the same run, called as the goals' ceiling of gRPC was: by an ordinary tonic client",
            Of(echo_share_closed, "×"),
            AtLeast(0.6, 0.45),
        ),
        row(
            "echo-share-open",
            OPEN,
            "— highest open-loop rate with p50 ≤ 10 ms and p99 ≤ 50 ms, of the same maximum",
            Of(echo_share_open, "×"),
            AtLeast(0.6, 0.45),
        ),
        row(
            "own-echo-share-closed",
            OPEN,
            "— closed loop, of what the echo answers our own generator",
            Of(own_echo_share_closed, "×"),
            Bound::None,
        ),
        row(
            "own-echo-share-open",
            OPEN,
            "— highest open-loop rate, of what the echo answers our own generator",
            Of(own_echo_share_open, "×"),
            Bound::None,
        ),
        row(
            "open-loop-rate",
            OPEN,
            "— highest open-loop rate with p50 ≤ 10 ms and p99 ≤ 50 ms",
            Absolute(open_loop::HIGHEST, OPS_PER_S, "puts/s"),
            AtLeast(25_000.0, 18_000.0),
        ),
        row(
            "two-cores",
            OPEN,
            "— what two cores' worth of server CPU carries (2 s / CPU per put, closed loop spread over all members)",
            Of(two_cores, "puts/s"),
            AtLeast(40_000.0, 40_000.0),
        ),
        row(
            "puts-per-sync",
            OPEN,
            "— puts for each sync of the log, on the member that syncs most",
            Absolute(open_loop::CLOSED, open_loop::PUTS_PER_SYNC, "puts"),
            AtLeast(10.0, 10.0),
        ),
        row(
            "memory",
            MEMORY,
            "1,000,000 keys × 256 B: RSS with all values in memory",
            Ratio(FULL, RSS),
            AtMost(1.0, 1.3),
        ),
        row(
            "memory-cache",
            MEMORY,
            "— RSS with a 64 MiB value cache",
            Of(cache_share, "×"),
            AtMost(0.5, 0.75),
        ),
        row(
            "restart",
            MEMORY,
            "— restart to healthy",
            Ratio(RESTARTED, RESTART_S),
            AtMost(0.125, 0.25),
        ),
        row(
            "disk",
            MEMORY,
            "— bytes on disk (two snapshots kept)",
            Ratio(FULL, DISK),
            AtMost(1.0, 1.3),
        ),
        row(
            "cold-list",
            MEMORY,
            "cold list of 10,000 keys after restart",
            Ratio(RESTARTED, LIST_MS),
            AtMost(1.0, 2.0),
        ),
        row(
            "put-growth",
            "growth",
            "CPU per put as keys grow from 10,000 (largest by smallest store's)",
            Of(put_growth, "×"),
            AtMost(1.5, 1.5),
        ),
        row(
            "count-growth",
            "growth",
            "CPU per count as its keys grow from 1,000 (O(log n): to 1,000,000 twice)",
            Of(count_growth, "×"),
            AtMost(2.0, 2.0),
        ),
        row(
            "idle-watchers",
            "growth",
            "CPU per put and its 10 events beside 10,000 watchers that do not match, by that beside none",
            Of(idle_watchers, "×"),
            AtMost(1.1, 1.25),
        ),
        row(
            "watch-p99",
            "watch",
            "delivery p99, 1,000 events/s × 50 watchers, 100,000 idle ones",
            Absolute(watch::IDLE, watch::P99, "ms"),
            AtMost(20.0, 20.0),
        ),
        row(
            "watch-memory",
            "watch",
            "— RSS of that member",
            Absolute(watch::IDLE, watch::RSS, "MiB"),
            AtMost(1024.0, 1024.0),
        ),
        row(
            "lease-rate",
            "leases",
            "keep-alives of 1,000,000 leases of 600 s at TTL/3, while putting",
            Of(lease_rate, "of those due"),
            AtLeast(0.99, 0.99),
        ),
        row(
            "lease-keepalive",
            "leases",
            "— put p99, by that without leases",
            Of(lease_keepalive, "×"),
            AtMost(3.0, 3.0),
        ),
        row(
            "lease-expiry",
            "leases",
            "put p99 while 100,000 leases expire at once, by that without leases",
            Of(lease_expiry, "×"),
            AtMost(3.0, 3.0),
        ),
    ]
};

fn put_1_mean(record: &Record) -> Option<f64> {
    let rate = |subject| record.median(etcd_tool::PUT_1, OPS_PER_S, subject);
    Some(rate(ETCD)? / rate(METASTORE)?)
}

fn beyond_echo(record: &Record) -> Option<f64> {
    let of = |subject| record.median(etcd_tool::PUT, CPU_US, subject);
    Some(of(METASTORE)? - of(ECHO)?)
}

/// What a case of ours carries, of what the echo does in one of its own.
fn echo_share(record: &Record, ours: &str, echos: &str) -> Option<f64> {
    let echo = record.median(echos, OPS_PER_S, ECHO)?;
    Some(record.median(ours, OPS_PER_S, METASTORE)? / echo)
}

fn own_echo_share_closed(record: &Record) -> Option<f64> {
    echo_share(record, open_loop::CLOSED, open_loop::CLOSED)
}

fn own_echo_share_open(record: &Record) -> Option<f64> {
    echo_share(record, open_loop::HIGHEST, open_loop::CLOSED)
}

fn echo_share_closed(record: &Record) -> Option<f64> {
    echo_share(record, open_loop::CLOSED, open_loop::ORDINARY)
}

fn echo_share_open(record: &Record) -> Option<f64> {
    echo_share(record, open_loop::HIGHEST, open_loop::ORDINARY)
}

fn two_cores(record: &Record) -> Option<f64> {
    const TWO_CORES_US: f64 = 2e6;
    Some(TWO_CORES_US / record.median(open_loop::SPREAD, CPU_US, METASTORE)?)
}

fn cache_share(record: &Record) -> Option<f64> {
    let etcd = record.median(memory::FULL, memory::RSS, ETCD)?;
    Some(record.median(memory::CACHE, memory::RSS, METASTORE)? / etcd)
}

/// The dearest size by the smallest one, if there are several.
fn growth(record: &Record, sizes: &[u64], case: fn(u64) -> String) -> Option<f64> {
    let cost = |keys: &u64| record.median(&case(*keys), CPU_US, METASTORE);
    let (smallest, larger) = sizes.split_first()?;
    let dearest = larger.iter().filter_map(cost).max_by(f64::total_cmp)?;
    Some(dearest / cost(smallest)?)
}

fn put_growth(record: &Record) -> Option<f64> {
    growth(record, &[growth::FEWEST, 100_000, growth::MANY, growth::MOST], growth::put_case)
}

fn count_growth(record: &Record) -> Option<f64> {
    growth(record, &[growth::COUNTED_LEAST, 10_000, 100_000, growth::MANY], growth::count_case)
}

fn idle_watchers(record: &Record) -> Option<f64> {
    let of = |case| record.median(case, CPU_US, METASTORE);
    Some(of(growth::IDLE)? / of(growth::NO_IDLE)?)
}

fn lease_rate(record: &Record) -> Option<f64> {
    record.median(leases::KEPT, leases::SHARE_OF_DUE, METASTORE)
}

fn lease_p99(record: &Record, case: &str) -> Option<f64> {
    let of = |case| record.median(case, P99_MS, METASTORE);
    Some(of(case)? / of(leases::IDLE)?)
}

fn lease_keepalive(record: &Record) -> Option<f64> {
    lease_p99(record, leases::KEPT)
}

fn lease_expiry(record: &Record) -> Option<f64> {
    lease_p99(record, leases::EXPIRING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sections::SECTIONS;

    #[test]
    fn a_bound_itself_is_met() {
        for (bound, value, verdict) in [
            (Bound::AtLeast(2.5, 1.8), 2.5, Verdict::Goal),
            (Bound::AtLeast(2.5, 1.8), 2.49, Verdict::Floor),
            (Bound::AtLeast(2.5, 1.8), 1.8, Verdict::Floor),
            (Bound::AtLeast(2.5, 1.8), 1.79, Verdict::BelowFloor),
            (Bound::AtMost(0.25, 0.5), 0.25, Verdict::Goal),
            (Bound::AtMost(0.25, 0.5), 0.26, Verdict::Floor),
            (Bound::AtMost(0.25, 0.5), 0.51, Verdict::BelowFloor),
            (Bound::None, 0.0, Verdict::Beside),
        ] {
            assert_eq!(bound.judge(value), verdict, "{bound:?} {value}");
        }
    }

    #[test]
    fn every_row_has_a_key_of_its_own_a_section_and_a_floor_no_stricter_than_its_goal() {
        for (number, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..number].iter().all(|before| before.key != row.key), "{}", row.key);
            assert!(SECTIONS.iter().any(|section| section.name == row.section), "{}", row.key);
            let is_ordered = match row.bound {
                Bound::AtLeast(goal, floor) => floor <= goal,
                Bound::AtMost(goal, floor) => floor >= goal,
                Bound::None => true,
            };
            assert!(is_ordered, "{}", row.key);
        }
    }

    #[test]
    fn a_ratio_is_of_medians_and_needs_both_systems() {
        let mut record = Record::default();
        let row = ROWS.iter().find(|row| row.key == "put-throughput").unwrap();
        for value in [10.0, 20.0, 900.0] {
            record.add(etcd_tool::PUT, OPS_PER_S, METASTORE, value);
        }
        assert_eq!(row.value(&record), None);
        record.add(etcd_tool::PUT, OPS_PER_S, ETCD, 8.0);
        assert_eq!(row.value(&record), Some(2.5));
    }

    #[test]
    fn growth_is_the_dearest_size_by_the_smallest() {
        let mut record = Record::default();
        assert_eq!(put_growth(&record), None);
        for (keys, us) in [(10_000, 40.0), (100_000, 60.0), (1_000_000, 50.0)] {
            record.add(&growth::put_case(keys), CPU_US, METASTORE, us);
        }
        assert_eq!(put_growth(&record), Some(1.5));
    }

    #[test]
    fn the_echo_is_read_twice_and_neither_reading_stands_in_for_the_other() {
        let value = |record: &Record, key: &str| {
            let row = ROWS.iter().find(|row| row.key == key).unwrap();
            row.value(record)
        };
        let mut record = Record::default();
        record.add(open_loop::CLOSED, OPS_PER_S, METASTORE, 30_000.0);
        record.add(open_loop::HIGHEST, OPS_PER_S, METASTORE, 20_000.0);
        record.add(open_loop::CLOSED, OPS_PER_S, ECHO, 120_000.0);
        assert_eq!(value(&record, "echo-share-closed"), None);
        record.add(open_loop::ORDINARY, OPS_PER_S, ECHO, 40_000.0);
        for (key, share) in [
            ("own-echo-share-closed", 30.0 / 120.0),
            ("own-echo-share-open", 20.0 / 120.0),
            ("echo-share-closed", 30.0 / 40.0),
            ("echo-share-open", 20.0 / 40.0),
        ] {
            assert_eq!(value(&record, key), Some(share), "{key}");
        }
    }

    #[test]
    fn the_echos_share_of_the_cpu_is_taken_off() {
        let mut record = Record::default();
        record.add(etcd_tool::PUT, CPU_US, METASTORE, 50.0);
        assert_eq!(beyond_echo(&record), None);
        record.add(etcd_tool::PUT, CPU_US, ECHO, 22.0);
        assert_eq!(beyond_echo(&record), Some(28.0));
    }
}
