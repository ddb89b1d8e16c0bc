//! What clients meet, gathered second by second.
//!
//! Each load thread records into a recorder of its own, whose lock nobody else wants but once a
//! second: then the collector takes what is there and leaves an empty one. The sum of the seconds is
//! the whole, so a load that is cut short has its results.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::cost::Footprint;

/// Largest latency a histogram tells apart.
const LATENCY_US_MAX: u64 = 120_000_000;
/// Most seconds of which a series is kept; longer loads keep their sums.
const SECONDS_MAX: usize = 100_000;
/// A rest shorter than this says nothing about a rate and is no second of its own.
const SECOND_MIN: Duration = Duration::from_millis(100);

/// How often each reason was met.
pub(crate) type Tally = BTreeMap<String, u64>;

/// An empty histogram of microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order")
}

/// Latencies and refusals since the collector last came by.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// One for each kind of request.
    latency_us: Box<[Histogram<u64>]>,
    refusals: Tally,
    lost: Tally,
}

/// A recorder that its thread fills and the collector empties.
pub(crate) type Shared = Arc<Mutex<Recorder>>;

/// The recorder, whatever became of a thread that held it.
pub(crate) fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    pub(crate) fn new(kinds: usize) -> Self {
        Recorder {
            latency_us: (0..kinds).map(|_| histogram()).collect(),
            refusals: Tally::new(),
            lost: Tally::new(),
        }
    }

    pub(crate) fn record(&mut self, kind: usize, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us[kind].saturating_record(us.max(1));
    }

    pub(crate) fn refuse(&mut self, said: String) {
        *self.refusals.entry(said).or_default() += 1;
    }

    /// So many answers will not come.
    pub(crate) fn lose(&mut self, reason: String, count: u64) {
        *self.lost.entry(reason).or_default() += count;
    }

    /// What was recorded, of all kinds together.
    pub(crate) fn take(&mut self) -> Histogram<u64> {
        let mut all = histogram();
        for kind in &mut self.latency_us {
            all.add(&*kind).expect("equal bounds");
            kind.reset();
        }
        all
    }
}

/// One second of a load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Second {
    /// From the beginning of measuring to its end.
    pub(crate) at_s: f64,
    pub(crate) ops: u64,
    pub(crate) ops_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    pub(crate) refused: u64,
    pub(crate) lost: u64,
    /// All servers together, in cores; only if they run on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_cores: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_rss_bytes: Option<u64>,
}

/// Everything recorded since measuring began.
#[derive(Debug)]
pub(crate) struct Collector {
    threads: Vec<Shared>,
    /// Empty; takes the place of what is taken.
    spare: Recorder,
    second: Histogram<u64>,
    pub(crate) kinds: Box<[Histogram<u64>]>,
    pub(crate) refusals: Tally,
    pub(crate) lost: Tally,
    pub(crate) seconds: Vec<Second>,
    started: Instant,
    last: Instant,
    footprint: Option<Footprint>,
}

impl Collector {
    /// Of so many threads.
    pub(crate) fn new(kinds: usize, threads: usize) -> Self {
        let now = Instant::now();
        Collector {
            threads: (0..threads).map(|_| Arc::new(Mutex::new(Recorder::new(kinds)))).collect(),
            spare: Recorder::new(kinds),
            second: histogram(),
            kinds: (0..kinds).map(|_| histogram()).collect(),
            refusals: Tally::new(),
            lost: Tally::new(),
            seconds: Vec::new(),
            started: now,
            last: now,
            footprint: None,
        }
    }

    /// Where a thread records.
    pub(crate) fn recorder(&self, thread: usize) -> Shared {
        Arc::clone(&self.threads[thread])
    }

    /// Forgets everything: measuring begins.
    pub(crate) fn restart(&mut self, now: Instant, footprint: Option<Footprint>) {
        for thread in &self.threads {
            let mut thread = lock(thread);
            let _warm = thread.take();
            thread.refusals.clear();
            thread.lost.clear();
        }
        self.kinds.iter_mut().for_each(Histogram::reset);
        self.refusals.clear();
        self.lost.clear();
        self.seconds.clear();
        (self.started, self.last, self.footprint) = (now, now, footprint);
    }

    /// Requests answered so far.
    pub(crate) fn done(&self) -> u64 {
        self.kinds.iter().map(Histogram::len).sum()
    }

    /// When the next second is over.
    pub(crate) fn next(&self) -> Instant {
        self.last + Duration::from_secs(1)
    }

    /// Takes what the threads have recorded as one more second. `None`: too little time has passed.
    pub(crate) fn collect(&mut self, now: Instant, footprint: Option<Footprint>) -> Option<Second> {
        self.second.reset();
        let (mut refused, mut lost) = (0, 0);
        for thread in &self.threads {
            std::mem::swap(&mut *lock(thread), &mut self.spare);
            for (sum, kind) in self.kinds.iter_mut().zip(&mut self.spare.latency_us) {
                sum.add(&*kind).expect("equal bounds");
                self.second.add(&*kind).expect("equal bounds");
                kind.reset();
            }
            refused += add(&mut self.refusals, std::mem::take(&mut self.spare.refusals));
            lost += add(&mut self.lost, std::mem::take(&mut self.spare.lost));
        }
        let span = now.saturating_duration_since(self.last);
        if span < SECOND_MIN {
            return None;
        }
        let span_s = span.as_secs_f64();
        let at = |quantile| self.second.value_at_quantile(quantile) as f64 / 1e3;
        let cpu_us = footprint
            .zip(self.footprint)
            .map(|(now, before)| now.cpu_us.saturating_sub(before.cpu_us) as f64);
        let second = Second {
            at_s: now.saturating_duration_since(self.started).as_secs_f64(),
            ops: self.second.len(),
            ops_per_s: self.second.len() as f64 / span_s,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: self.second.max() as f64 / 1e3,
            refused,
            lost,
            server_cpu_cores: cpu_us.map(|us| us / 1e6 / span_s),
            server_rss_bytes: footprint.map(|footprint| footprint.rss_bytes),
        };
        (self.last, self.footprint) = (now, footprint);
        if self.seconds.len() < SECONDS_MAX {
            self.seconds.push(second.clone());
        }
        Some(second)
    }
}

/// Adds what was met; how often that was in all.
fn add(to: &mut Tally, met: Tally) -> u64 {
    let mut all = 0;
    for (reason, count) in met {
        all += count;
        *to.entry(reason).or_default() += count;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn seconds_add_up_to_the_whole() {
        let mut collector = Collector::new(2, 2);
        let (one, other) = (collector.recorder(0), collector.recorder(1));
        let start = Instant::now();
        lock(&one).record(0, MS);
        collector.restart(start, Some(Footprint { cpu_us: 5, rss_bytes: 1 }));
        lock(&one).record(0, 2 * MS);
        lock(&other).record(1, 4 * MS);
        lock(&other).refuse("no".to_owned());
        lock(&one).lose("gone".to_owned(), 3);
        let footprint = Some(Footprint { cpu_us: 4_000_005, rss_bytes: 9 });
        let second = collector.collect(start + 2000 * MS, footprint).unwrap();
        assert_eq!((second.ops, second.ops_per_s), (2, 1.0));
        assert_eq!((second.refused, second.lost, collector.lost["gone"]), (1, 3, 3));
        assert_eq!((second.server_cpu_cores, second.server_rss_bytes), (Some(2.0), Some(9)));
        assert!((3.9..4.1).contains(&second.max_ms), "{second:?}");
        lock(&one).record(0, 8 * MS);
        // Too short for a rate, but it counts.
        assert!(collector.collect(start + 2010 * MS, None).is_none());
        assert_eq!((collector.kinds[0].len(), collector.kinds[1].len()), (2, 1));
        assert_eq!((collector.done(), collector.seconds.len()), (3, 1));
        assert_eq!(collector.refusals["no"], 1);
    }

    #[test]
    fn a_latency_beyond_the_largest_counts_as_the_largest() {
        let mut recorder = Recorder::new(1);
        recorder.record(0, Duration::from_secs(100_000));
        assert!(recorder.take().max() >= LATENCY_US_MAX);
    }
}
