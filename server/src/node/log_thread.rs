//! One write and one sync for everything that gathered while the sync before ran.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use member::{DiskTask, LogWorker};

use super::{Fatal, IDLE};
use crate::disk::OsDisk;
use crate::figures::Figures;
use crate::inbox::Inbox;
use crate::metrics::Metrics;

pub(super) fn run(
    mut worker: LogWorker<OsDisk>,
    tasks: &Receiver<Vec<DiskTask>>,
    inbox: &Inbox,
    metrics: &Metrics,
    figures: &Figures,
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
                    figures.note_sync(took, after.appended_bytes - before.appended_bytes);
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
