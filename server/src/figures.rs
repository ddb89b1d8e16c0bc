//! Figures of batches and syncs, for the admin API and `/metrics`: counted since the member began.
//!
//! How many writes share one sync is not a figure of its own: over whatever time is asked about, it is
//! what was added to `metastore_log_commands_total` by what was added to `metastore_log_syncs_total`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use member::{DiskTask, consensus};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use proto::admin::{BatchStats, SyncStats};

use crate::metrics::catalogue;
use crate::propose::Shared;

/// The figures; every field is moved by one thread.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    appends: AtomicU64,
    entries: AtomicU64,
    entry_bytes: AtomicU64,
    commands: AtomicU64,
    commands_per_entry_max: AtomicU64,
    syncs: AtomicU64,
    sync_us: AtomicU64,
    sync_us_max: AtomicU64,
    synced_bytes: AtomicU64,
    /// When the write and sync under way began; 0: none is.
    log_began_us: AtomicU64,
    wal_segments: AtomicU64,
    wal_bytes: AtomicU64,
    /// How large the newest snapshot of the state is.
    snapshot_bytes: AtomicU64,
}

impl Figures {
    /// Entries on their way to the log. `each` is told the index of each of them and how many
    /// commands are in it.
    pub(crate) fn note_entries(&self, tasks: &[DiskTask], mut each: impl FnMut(u64, u64)) {
        for task in tasks {
            let DiskTask::Append { batch, .. } = task else { continue };
            if batch.entries.is_empty() {
                continue;
            }
            self.appends.fetch_add(1, Relaxed);
            for entry in &batch.entries {
                let commands = commands_in(&entry.data);
                self.entries.fetch_add(1, Relaxed);
                self.entry_bytes.fetch_add(entry.data.len() as u64, Relaxed);
                self.commands.fetch_add(commands, Relaxed);
                each(entry.index, commands);
                self.commands_per_entry_max.fetch_max(commands, Relaxed);
            }
        }
    }

    /// One sync of the log.
    pub(crate) fn note_sync(&self, took: Duration, bytes: u64) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Relaxed);
        self.sync_us.fetch_add(us, Relaxed);
        self.sync_us_max.fetch_max(us, Relaxed);
        self.synced_bytes.fetch_add(bytes, Relaxed);
    }

    /// The log begins to write and sync.
    pub(crate) fn log_begins(&self, now_us: u64) {
        self.log_began_us.store(now_us.max(1), Relaxed);
    }

    /// It has ended.
    pub(crate) fn log_ends(&self) {
        self.log_began_us.store(0, Relaxed);
    }

    /// What the log occupies.
    pub(crate) fn note_log(&self, segments: u64, bytes: u64) {
        self.wal_segments.store(segments, Relaxed);
        self.wal_bytes.store(bytes, Relaxed);
    }

    /// There is a newer snapshot.
    pub(crate) fn note_snapshot(&self, bytes: u64) {
        self.snapshot_bytes.store(bytes, Relaxed);
    }

    fn log_pending_us(&self, now_us: u64) -> u64 {
        match self.log_began_us.load(Relaxed) {
            0 => 0,
            began_us => now_us.saturating_sub(began_us),
        }
    }

    pub(crate) fn batches(&self) -> BatchStats {
        let (entries, commands) = (self.entries.load(Relaxed), self.commands.load(Relaxed));
        BatchStats {
            entries,
            commands,
            commands_per_entry_mean: mean(commands, entries),
            commands_per_entry_max: self.commands_per_entry_max.load(Relaxed),
            entries_per_append_mean: mean(entries, self.appends.load(Relaxed)),
            bytes_per_entry_mean: mean(self.entry_bytes.load(Relaxed), entries),
        }
    }

    pub(crate) fn syncs(&self) -> SyncStats {
        let syncs = self.syncs.load(Relaxed);
        SyncStats {
            syncs,
            sync_us_mean: mean(self.sync_us.load(Relaxed), syncs),
            sync_us_max: self.sync_us_max.load(Relaxed),
            bytes_per_sync_mean: mean(self.synced_bytes.load(Relaxed), syncs),
        }
    }
}

type Count = fn(&Figures) -> &AtomicU64;

const COUNTERS: [(&str, Count); 4] = [
    ("metastore_log_commands_total", |it| &it.commands),
    ("metastore_log_entries_total", |it| &it.entries),
    ("metastore_log_syncs_total", |it| &it.syncs),
    ("metastore_log_synced_bytes_total", |it| &it.synced_bytes),
];

type Read = fn(&Shared, &consensus::Status) -> f64;

/// What is read off the member as it is.
const GAUGES: [(&str, Read); 8] = [
    ("metastore_wal_sync_pending_seconds", |shared, _| {
        shared.figures.log_pending_us(shared.now_us()) as f64 / 1e6
    }),
    ("metastore_wal_segments", |shared, _| shared.figures.wal_segments.load(Relaxed) as f64),
    ("metastore_wal_bytes", |shared, _| shared.figures.wal_bytes.load(Relaxed) as f64),
    ("metastore_log_memory_bytes", |_, status| status.log_bytes_in_memory as f64),
    ("metastore_raft_first_index", |_, status| status.first_index as f64),
    ("metastore_raft_term", |_, status| status.term as f64),
    ("metastore_snapshot_index", |_, status| status.snapshot_index as f64),
    ("metastore_snapshot_bytes", |shared, _| shared.figures.snapshot_bytes.load(Relaxed) as f64),
];

/// Reads the figures at each scrape.
struct FigureCollector {
    shared: Arc<Shared>,
    descriptions: Vec<Desc>,
}

/// What a registry of metrics takes.
pub(crate) fn collector(shared: &Arc<Shared>) -> Box<dyn Collector> {
    let counters = COUNTERS.map(|(name, _)| catalogue::counter(name));
    let mut descriptions: Vec<Desc> = counters.iter().flat_map(Collector::desc).cloned().collect();
    for (name, _) in GAUGES {
        descriptions.extend(catalogue::float_gauge(name).desc().into_iter().cloned());
    }
    Box::new(FigureCollector { shared: Arc::clone(shared), descriptions })
}

impl Collector for FigureCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        for (name, count) in COUNTERS {
            let metric = catalogue::counter(name);
            metric.inc_by(count(&self.shared.figures).load(Relaxed));
            families.extend(metric.collect());
        }
        if let Some(status) = self.shared.replica.load().as_ref() {
            for (name, read) in GAUGES {
                let metric = catalogue::float_gauge(name);
                metric.set(read(&self.shared, status));
                families.extend(metric.collect());
            }
        }
        families
    }
}

fn mean(sum: u64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum as f64 / count as f64 }
}

/// How many commands an encoded [`proto::log::Batch`] holds: its elements are field 1, each a tag, a
/// length and that many bytes.
fn commands_in(batch: &[u8]) -> u64 {
    let (mut rest, mut commands) = (batch, 0);
    while let Some((_tag, after)) = rest.split_first() {
        let Ok(length) = prost::decode_length_delimiter(after) else { break };
        let header = prost::length_delimiter_len(length);
        let Some(next) = after.get(header + length..) else { break };
        rest = next;
        commands += 1;
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn commands_of_a_batch_are_counted_without_decoding_them() {
        let batch = |commands: Vec<Vec<u8>>| proto::log::Batch {
            commands: commands.into_iter().map(Into::into).collect(),
        };
        assert_eq!(commands_in(&[]), 0);
        let three = batch(vec![vec![1; 10], Vec::new(), vec![7; 300]]).encode_to_vec();
        assert_eq!(commands_in(&three), 3);
        assert_eq!(commands_in(&three[..three.len() - 1]), 2);
    }
}
