//! Where the time of a put goes: `metastore_put_stage_duration_seconds`.
//!
//! Measured by times that are taken anyway and, where a stage is one for a whole batch, once for the
//! batch, weighted by the commands in it. So every command counts in every stage it passes here, and
//! it costs two additions to memory per stage. The bounds are powers of two, so that a bucket is found by
//! counting bits.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};

const NAME: &str = "metastore_put_stage_duration_seconds";
const HELP: &str =
    "Where the time of commands goes (puts, deletes, txns), on the member where it goes there.";
const LABEL: &str = "stage";
/// The first bound; each of the others is twice the one before.
const FIRST_US: u64 = 100;
/// Bounds, without the one that has no end.
const BOUNDS: usize = 16;

/// A part of a put's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Arrived, until it is in the leader's log in memory.
    Queue,
    /// From there until the leader has synced it.
    LogSync,
    /// From there until it is committed.
    Replication,
    /// Committed, until it is applied.
    Apply,
    /// Applied, until the answer goes to the connection of whoever asked.
    Reply,
}

/// The stages and their labels.
const STAGES: [(Stage, &str); 5] = [
    (Stage::Queue, "queue"),
    (Stage::LogSync, "log_sync"),
    (Stage::Replication, "replication"),
    (Stage::Apply, "apply"),
    (Stage::Reply, "reply"),
];

#[derive(Debug)]
struct Durations {
    counts: [AtomicU64; BOUNDS + 1],
    sum_us: AtomicU64,
}

impl Default for Durations {
    fn default() -> Self {
        Durations { counts: array::from_fn(|_| AtomicU64::new(0)), sum_us: AtomicU64::new(0) }
    }
}

impl Durations {
    fn metric(&self, stage: &str) -> Metric {
        let mut buckets = Vec::with_capacity(BOUNDS);
        let mut count = 0;
        for (at, number) in self.counts.iter().enumerate() {
            count += number.load(Relaxed);
            if at < BOUNDS {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound((FIRST_US << at) as f64 / 1e6);
                bucket.set_cumulative_count(count);
                buckets.push(bucket);
            }
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count);
        histogram.set_sample_sum(self.sum_us.load(Relaxed) as f64 / 1e6);
        let mut label = LabelPair::default();
        label.set_name(LABEL.to_owned());
        label.set_value(stage.to_owned());
        let mut metric = Metric::from_label(vec![label]);
        metric.set_histogram(histogram);
        metric
    }
}

/// All stages.
#[derive(Debug, Default)]
pub struct Stages {
    durations: [Durations; STAGES.len()],
}

impl Stages {
    /// So many commands passed a stage in this time.
    pub fn note(&self, stage: Stage, us: u64, commands: u64) {
        let durations = &self.durations[stage as usize];
        durations.counts[bucket(us)].fetch_add(commands, Relaxed);
        durations.sum_us.fetch_add(us.saturating_mul(commands), Relaxed);
    }
}

#[cfg(test)]
impl Stages {
    /// Commands, and their times together.
    pub(crate) fn count_and_sum_us(&self, stage: Stage) -> (u64, u64) {
        let durations = &self.durations[stage as usize];
        let count = durations.counts.iter().map(|it| it.load(Relaxed)).sum();
        (count, durations.sum_us.load(Relaxed))
    }
}

/// The first bucket whose bound is not below.
fn bucket(us: u64) -> usize {
    let doublings = u64::BITS - (us.saturating_sub(1) / FIRST_US).leading_zeros();
    (doublings as usize).min(BOUNDS)
}

/// What a registry takes.
pub(super) struct StageCollector {
    stages: Arc<Stages>,
    description: Desc,
}

impl StageCollector {
    pub(super) fn new(stages: &Arc<Stages>) -> Self {
        let labels = vec![LABEL.to_owned()];
        let description = Desc::new(NAME.to_owned(), HELP.to_owned(), labels, Default::default());
        let description = description.unwrap_or_else(|error| panic!("{NAME}: {error}"));
        StageCollector { stages: Arc::clone(stages), description }
    }
}

impl Collector for StageCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = STAGES.map(|(stage, label)| {
            let durations = &self.stages.durations[stage as usize];
            durations.metric(label)
        });
        let mut family = MetricFamily::default();
        family.set_name(NAME.to_owned());
        family.set_help(HELP.to_owned());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(metrics.into());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_bound_and_nothing_above() {
        for at in 0..BOUNDS {
            let bound = FIRST_US << at;
            assert_eq!((bucket(bound), bucket(bound + 1)), (at, at + 1), "{bound}");
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BOUNDS));
    }

    #[test]
    fn a_batch_counts_as_its_commands() {
        let stages = Arc::new(Stages::default());
        stages.note(Stage::LogSync, 300, 40);
        stages.note(Stage::LogSync, 5_000_000, 2);
        let families = StageCollector::new(&stages).collect();
        let metrics = families[0].get_metric();
        assert_eq!(metrics.len(), STAGES.len());
        assert_eq!(metrics[1].get_label()[0].value(), "log_sync");
        let histogram = metrics[1].get_histogram();
        let upto = |at: usize| histogram.get_bucket()[at].cumulative_count();
        assert_eq!((upto(1), upto(2), upto(BOUNDS - 1)), (0, 40, 40));
        assert_eq!(histogram.get_bucket()[BOUNDS - 1].upper_bound(), 3.2768);
        assert_eq!((histogram.get_sample_count(), histogram.get_sample_sum()), (42, 10.012));
    }
}
