//! One write and one sync for everything that gathered while the sync before ran.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use member::{DiskTask, LogWorker};

use super::stage_clock::Since;
use super::{Fatal, IDLE};
use crate::disk::OsDisk;
use crate::inbox::Inbox;
use crate::metrics::{Metrics, Stage};
use crate::propose::Shared;

/// Tasks of one step, and since when how many commands in them wait for their sync.
pub(super) struct LogWork {
    pub(super) tasks: Vec<DiskTask>,
    pub(super) since: Since,
}

pub(super) fn run(
    mut worker: LogWorker<OsDisk>,
    tasks: &Receiver<LogWork>,
    inbox: &Inbox,
    metrics: &Metrics,
    shared: &Shared,
    fatal: &Fatal,
) {
    let stats = worker.log().stats();
    shared.figures.note_log(stats.segments, stats.bytes);
    loop {
        let mut waiting = Vec::new();
        let mut batch = match tasks.recv_timeout(IDLE) {
            Ok(LogWork { tasks, since }) => {
                waiting.push(since);
                tasks
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = worker.idle() {
                    return fatal.raise(format!("write-ahead log: {error}"));
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                if let Err(error) = worker.close() {
                    fatal.raise(format!("write-ahead log: {error}"));
                }
                return;
            }
        };
        while let Ok(more) = tasks.try_recv() {
            batch.extend(more.tasks);
            waiting.push(more.since);
        }
        let before = worker.log().stats();
        shared.figures.log_begins(shared.now_us());
        let began = Instant::now();
        let traced = shared.flights.are_any().then(SystemTime::now);
        let mut wrote = Duration::ZERO;
        let done = worker.run_telling(&batch, || wrote = began.elapsed());
        shared.figures.log_ends();
        match done {
            Ok(inputs) => {
                let after = worker.log().stats();
                if after.syncs > before.syncs {
                    let took = began.elapsed();
                    let bytes = after.appended_bytes - before.appended_bytes;
                    shared.figures.note_sync(took, bytes);
                    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    let now_us = shared.now_us();
                    shared.vitals.note_sync(now_us, took_us);
                    metrics.wal_fsync_seconds.observe((took - wrote).as_secs_f64());
                    for Since { at_us, commands } in waiting {
                        let waited_us = now_us.saturating_sub(at_us);
                        metrics.stages.note(Stage::LogSync, waited_us, commands);
                    }
                    metrics.wal_batch_entries.observe((after.entries - before.entries) as f64);
                }
                if after.batches > before.batches {
                    metrics.wal_write_seconds.observe(wrote.as_secs_f64());
                }
                shared.figures.note_log(after.segments, after.bytes);
                metrics.wal_write_bytes.set(after.appended_bytes.cast_signed());
                if let Some(start) = traced {
                    shared.flights.synced(&batch, start);
                }
                for input in inputs {
                    inbox.urgent(input);
                }
            }
            // What the disk now holds is not known: nothing may be promised on it any more.
            Err(error) => return fatal.raise(format!("write-ahead log: {error}")),
        }
    }
}
