//! Carries disk tasks out, in order, with one sync for as many of them as have gathered: group
//! commit without a timer. While one sync runs, the next batch gathers in front of the worker.

use wal::{Disk, Log, LogBatch, LogError};

use crate::Input;

/// What the log is to remember or may forget.
#[derive(Clone, Debug)]
pub enum DiskTask {
    /// Entries, hard state and snapshot mark of one output of the replica.
    Append {
        /// Reported back by [`Input::Persisted`].
        number: u64,
        /// What to write.
        batch: LogBatch,
    },
    /// Everything up to here is covered by durable snapshots.
    Release {
        /// The last index that may go.
        through_index: u64,
    },
}

/// Owns the log. Any error of a write or sync is final: the shell stops the member.
pub struct LogWorker<D: Disk> {
    log: Log<D>,
}

impl<D: Disk> LogWorker<D> {
    /// Takes over an open log.
    pub fn new(log: Log<D>) -> Self {
        LogWorker { log }
    }

    /// Carries the tasks out; the answers may be given to the member once this returns.
    pub fn run(&mut self, tasks: &[DiskTask]) -> Result<Vec<Input>, LogError> {
        self.run_telling(tasks, || ())
    }

    /// The same; `written` is called between writing and syncing, for whoever wants to know how long
    /// either takes.
    pub fn run_telling(
        &mut self,
        tasks: &[DiskTask],
        written: impl FnOnce(),
    ) -> Result<Vec<Input>, LogError> {
        let mut last = None;
        let mut release = None;
        for task in tasks {
            match task {
                DiskTask::Append { number, batch } => {
                    self.log.append(batch)?;
                    last = Some(*number);
                }
                DiskTask::Release { through_index } => release = Some(*through_index),
            }
        }
        written();
        if last.is_some() {
            self.log.sync()?;
        }
        if let Some(through_index) = release {
            self.log.release(through_index)?;
        }
        Ok(last.map(|number| Input::Persisted { number }).into_iter().collect())
    }

    /// To be called when nothing came for a second: marks how far the log is known to be synced.
    pub fn idle(&mut self) -> Result<(), LogError> {
        self.log.mark_synced_when_idle()
    }

    /// To be called at the end: what was run is synced and marked so, and damage done to it while
    /// nobody looks is told from a torn tail.
    pub fn close(mut self) -> Result<(), LogError> {
        self.log.sync()?;
        self.log.mark_synced()
    }

    /// The log, for its figures.
    pub fn log(&self) -> &Log<D> {
        &self.log
    }
}
