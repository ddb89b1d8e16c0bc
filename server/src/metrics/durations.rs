//! Histograms that are moved by the batch: so many commands took so long. Their label values are known
//! beforehand and their bounds are powers of two, so that noting one is finding a place in memory by
//! counting bits, and two additions there. The library's histograms take one value at a time and add up
//! floating point numbers in a loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use state::{Outcome, Response};

use super::catalogue::{self, Bounds, Kind};

/// One histogram for each of a fixed list of label values.
#[derive(Debug)]
pub(crate) struct Durations {
    name: &'static str,
    first_us: u64,
    bounds: usize,
    series: Vec<Series>,
    /// Series that nothing was noted in are told as well.
    tells_zeros: bool,
}

#[derive(Debug)]
struct Series {
    labels: Vec<&'static str>,
    counts: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

impl Durations {
    fn new(name: &'static str, labels: Vec<Vec<&'static str>>, tells_zeros: bool) -> Self {
        let metric = catalogue::find(name);
        let Kind::Histogram(Bounds::Doubling(first, bounds)) = metric.kind else {
            panic!("{name} is a {:?}", metric.kind)
        };
        let series = labels.into_iter().map(|labels| {
            assert_eq!(labels.len(), metric.labels.len(), "{name}");
            let counts = (0..=bounds).map(|_| AtomicU64::new(0)).collect();
            Series { labels, counts, sum_us: AtomicU64::new(0) }
        });
        let first_us = (first * 1e6).round() as u64;
        Durations { name, first_us, bounds, series: series.collect(), tells_zeros }
    }

    /// So many took so long.
    fn note(&self, at: usize, us: u64, number: u64) {
        let series = &self.series[at];
        series.counts[self.bucket(us)].fetch_add(number, Relaxed);
        series.sum_us.fetch_add(us.saturating_mul(number), Relaxed);
    }

    /// The first bucket whose bound is not below.
    fn bucket(&self, us: u64) -> usize {
        let doublings = u64::BITS - (us.saturating_sub(1) / self.first_us).leading_zeros();
        (doublings as usize).min(self.bounds)
    }

    fn metric(&self, series: &Series) -> Option<Metric> {
        let mut buckets = Vec::with_capacity(self.bounds);
        let mut count = 0;
        for (at, number) in series.counts.iter().enumerate() {
            count += number.load(Relaxed);
            if at < self.bounds {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound((self.first_us << at) as f64 / 1e6);
                bucket.set_cumulative_count(count);
                buckets.push(bucket);
            }
        }
        if count == 0 && !self.tells_zeros {
            return None;
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count);
        histogram.set_sample_sum(series.sum_us.load(Relaxed) as f64 / 1e6);
        let names = catalogue::find(self.name).labels;
        let mut labels: Vec<_> = names
            .iter()
            .zip(&series.labels)
            .map(|(name, value)| {
                let mut label = LabelPair::default();
                label.set_name((*name).to_owned());
                label.set_value((*value).to_owned());
                label
            })
            .collect();
        labels.sort_by(|one, other| one.name().cmp(other.name()));
        let mut metric = Metric::from_label(labels);
        metric.set_histogram(histogram);
        Some(metric)
    }
}

/// What a registry takes.
pub(super) fn collector<D: AsRef<Durations> + Send + Sync + 'static>(
    durations: &Arc<D>,
) -> Box<dyn Collector> {
    let metric = catalogue::find((**durations).as_ref().name);
    let labels = metric.labels.iter().map(|label| (*label).to_owned()).collect();
    let description =
        Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, Default::default());
    let description = description.unwrap_or_else(|why| panic!("{}: {why}", metric.name));
    Box::new(DurationCollector { durations: Arc::clone(durations), description })
}

struct DurationCollector<D> {
    durations: Arc<D>,
    description: Desc,
}

impl<D: AsRef<Durations> + Send + Sync> Collector for DurationCollector<D> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let durations = (*self.durations).as_ref();
        let metric = catalogue::find(durations.name);
        let metrics = durations.series.iter().filter_map(|it| durations.metric(it)).collect();
        let mut family = MetricFamily::default();
        family.set_name(metric.name.to_owned());
        family.set_help(metric.help.to_owned());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(metrics);
        vec![family]
    }
}

/// A part of a put's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
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

/// In the order of [`Stage`].
const STAGES: [&str; 5] = ["queue", "log_sync", "replication", "apply", "reply"];

/// Where the time of puts goes.
#[derive(Debug)]
pub(crate) struct Stages(Durations);

impl Default for Stages {
    fn default() -> Self {
        let labels = STAGES.iter().map(|stage| vec![*stage]).collect();
        Stages(Durations::new("metastore_put_stage_duration_seconds", labels, true))
    }
}

impl AsRef<Durations> for Stages {
    fn as_ref(&self) -> &Durations {
        &self.0
    }
}

impl Stages {
    /// So many commands passed a stage in this time.
    pub(crate) fn note(&self, stage: Stage, us: u64, commands: u64) {
        self.0.note(stage as usize, us, commands);
    }

    #[cfg(test)]
    /// Commands, and their times together.
    pub(crate) fn count_and_sum_us(&self, stage: Stage) -> (u64, u64) {
        let series = &self.0.series[stage as usize];
        let count = series.counts.iter().map(|it| it.load(Relaxed)).sum();
        (count, series.sum_us.load(Relaxed))
    }
}

/// Commands as etcd names them.
const OPS: [&str; 11] = [
    "Put",
    "DeleteRange",
    "Txn",
    "Compaction",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseCheckpoint",
    "Alarm",
    "ClusterMemberAttrSet",
    "ClusterVersionSet",
    "Tuning",
];

/// Where commands of a batch that failed are counted: what they were is not said.
const FAILED: usize = OPS.len();

/// How long applying takes.
#[derive(Debug)]
pub(crate) struct Applies(Durations);

impl Default for Applies {
    fn default() -> Self {
        let mut labels: Vec<_> = OPS.iter().map(|op| vec!["v3", *op, "true"]).collect();
        labels.push(vec!["v3", "unknown", "false"]);
        Applies(Durations::new("etcd_server_apply_duration_seconds", labels, false))
    }
}

impl AsRef<Durations> for Applies {
    fn as_ref(&self) -> &Durations {
        &self.0
    }
}

/// What there was in a batch.
#[derive(Debug, Default)]
pub(crate) struct Batch([u64; OPS.len() + 1]);

impl Batch {
    /// One more command.
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        let op = match &outcome.result {
            Ok(Response::Put(_)) => 0,
            Ok(Response::DeleteRange(_)) => 1,
            Ok(Response::Txn(_)) => 2,
            Ok(Response::Compact(_)) => 3,
            Ok(Response::LeaseGrant(_)) => 4,
            Ok(Response::LeaseRevoke(_)) => 5,
            Ok(Response::LeaseCheckpoint(_)) => 6,
            Ok(Response::Alarm(_)) => 7,
            Ok(Response::Members(_)) => 8,
            Ok(Response::ClusterVersion) => 9,
            Ok(Response::Tuning { .. }) => 10,
            Err(_) => FAILED,
        };
        self.0[op] += 1;
    }
}

impl Applies {
    /// A batch was applied in this time, of which each command has its share.
    pub(crate) fn note(&self, batch: &Batch, us: u64) {
        let commands: u64 = batch.0.iter().sum();
        for (op, number) in batch.0.iter().enumerate().filter(|(_, number)| **number > 0) {
            self.0.note(op, us / commands, *number);
        }
    }
}

/// Requests as etcd names them, by the path of their method.
const REQUESTS: [(&str, &str); 8] = [
    ("/etcdserverpb.KV/Range", "Range"),
    ("/etcdserverpb.KV/Put", "Put"),
    ("/etcdserverpb.KV/DeleteRange", "DeleteRange"),
    ("/etcdserverpb.KV/Txn", "Txn"),
    ("/etcdserverpb.KV/Compact", "Compaction"),
    ("/etcdserverpb.Lease/LeaseGrant", "LeaseGrant"),
    ("/etcdserverpb.Lease/LeaseRevoke", "LeaseRevoke"),
    ("/etcdserverpb.Maintenance/Alarm", "Alarm"),
];

/// How long requests take.
#[derive(Debug)]
pub(crate) struct Requests(Durations);

impl Default for Requests {
    fn default() -> Self {
        let both = |(_, name): &(&str, &'static str)| [vec![*name, "false"], vec![*name, "true"]];
        let labels = REQUESTS.iter().flat_map(both).collect();
        Requests(Durations::new("etcd_server_request_duration_seconds", labels, false))
    }
}

impl AsRef<Durations> for Requests {
    fn as_ref(&self) -> &Durations {
        &self.0
    }
}

/// One of [`REQUESTS`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request(usize);

impl Request {
    /// The request of a method, if its duration is told.
    pub(crate) fn of(path: &str) -> Option<Request> {
        REQUESTS.iter().position(|(known, _)| *known == path).map(Request)
    }
}

impl Requests {
    /// A request was answered.
    pub(crate) fn note(&self, request: Request, us: u64, is_success: bool) {
        self.0.note(2 * request.0 + usize::from(is_success), us, 1);
    }
}

/// How long reading ranges takes.
#[derive(Debug)]
pub(crate) struct Ranges(Durations);

impl Default for Ranges {
    fn default() -> Self {
        let labels = vec![vec!["false"], vec!["true"]];
        Ranges(Durations::new("etcd_server_range_duration_seconds", labels, false))
    }
}

impl AsRef<Durations> for Ranges {
    fn as_ref(&self) -> &Durations {
        &self.0
    }
}

impl Ranges {
    /// A range was read.
    pub(crate) fn note(&self, us: u64, is_success: bool) {
        self.0.note(usize::from(is_success), us, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_bound_and_nothing_above() {
        let Stages(durations) = Stages::default();
        for at in 0..durations.bounds {
            let bound = durations.first_us << at;
            let found = (durations.bucket(bound), durations.bucket(bound + 1));
            assert_eq!(found, (at, at + 1), "{bound}");
        }
        assert_eq!((durations.bucket(0), durations.bucket(u64::MAX)), (0, durations.bounds));
    }

    #[test]
    fn a_batch_counts_as_its_commands() {
        let stages = Arc::new(Stages::default());
        stages.note(Stage::LogSync, 300, 40);
        stages.note(Stage::LogSync, 5_000_000, 2);
        let families = collector(&stages).collect();
        let metrics = families[0].get_metric();
        assert_eq!(metrics.len(), STAGES.len());
        assert_eq!(metrics[1].get_label()[0].value(), "log_sync");
        let histogram = metrics[1].get_histogram();
        let upto = |at: usize| histogram.get_bucket()[at].cumulative_count();
        assert_eq!((upto(1), upto(2), upto(15)), (0, 40, 40));
        assert_eq!(histogram.get_bucket()[15].upper_bound(), 3.2768);
        assert_eq!((histogram.get_sample_count(), histogram.get_sample_sum()), (42, 10.012));
    }

    #[test]
    fn each_command_of_a_batch_has_its_share_of_the_time() {
        let applies = Arc::new(Applies::default());
        let outcome = |result| Outcome {
            result,
            revision: 1,
            events: Vec::new(),
            leases: Vec::new(),
            over_quota: false,
        };
        let failed = outcome(Err(state::StateError::NoSpace));
        let version = outcome(Ok(Response::ClusterVersion));
        let mut batch = Batch::default();
        [&failed, &version, &version].into_iter().for_each(|outcome| batch.add(outcome));
        applies.note(&batch, 300);
        let families = collector(&applies).collect();
        let told: Vec<_> = families[0]
            .get_metric()
            .iter()
            .map(|metric| {
                let histogram = metric.get_histogram();
                let value = metric.get_label()[0].value().to_owned();
                (value, histogram.get_sample_count(), histogram.get_sample_sum())
            })
            .collect();
        let expected = [("ClusterVersionSet", 2, 0.0002), ("unknown", 1, 0.0001)];
        assert_eq!(told, expected.map(|(op, count, sum)| (op.to_owned(), count, sum)));
    }
}
