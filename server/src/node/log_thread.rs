//! One write and one sync for everything that gathered while the sync before ran.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use member::{DiskTask, LogWorker};

use super::{Fatal, IDLE};
use crate::disk::OsDisk;
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::propose::Shared;

pub(super) fn run(
    mut worker: LogWorker<OsDisk>,
    tasks: &Receiver<Vec<DiskTask>>,
    inbox: &Inbox,
    metrics: &Metrics,
    shared: &Shared,
    fatal: &Fatal,
) {
    loop {
        let mut batch = match tasks.recv_timeout(IDLE) {
            Ok(batch) => batch,
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
            batch.extend(more);
        }
        let before = worker.log().stats();
        let began = Instant::now();
        match worker.run(&batch) {
            Ok(inputs) => {
                let after = worker.log().stats();
                if after.syncs > before.syncs {
                    let took = began.elapsed();
                    let bytes = after.appended_bytes - before.appended_bytes;
                    shared.figures.note_sync(took, bytes);
                    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    shared.vitals.note_sync(shared.now_us(), took_us);
                    metrics.wal_fsync_seconds.observe(took.as_secs_f64());
                    metrics.wal_batch_entries.observe((after.entries - before.entries) as f64);
                }
                metrics.wal_write_bytes.set(after.appended_bytes.cast_signed());
                for input in inputs {
                    inbox.urgent(input);
                }
            }
            // What the disk now holds is not known: nothing may be promised on it any more.
            Err(error) => return fatal.raise(format!("write-ahead log: {error}")),
        }
    }
}
