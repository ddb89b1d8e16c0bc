//! Snapshots are written and read on a thread of their own: neither the log nor apply waits for one
//! that is being taken.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use bytes::Bytes;
use member::{Input, SnapshotError, SnapshotJob, SnapshotWorker};
use prometheus::Histogram;
use proto::log::SnapshotMeta;
use state::StateParts;
use tokio::sync::oneshot;

use super::{Fatal, spawn};
use crate::disk::OsDisk;
use crate::peers::{ChunkHash, Chunks};
use crate::propose::Shared;

enum Task {
    Save(SnapshotJob),
    Load(SnapshotMeta, Sender<Result<StateParts, SnapshotError>>),
    Commit(SnapshotMeta, oneshot::Sender<Result<(), SnapshotError>>),
    Missing(Vec<ChunkHash>, oneshot::Sender<Vec<ChunkHash>>),
    Read(ChunkHash, oneshot::Sender<Result<Bytes, SnapshotError>>),
    Write(ChunkHash, Bytes, oneshot::Sender<Result<(), SnapshotError>>),
}

/// The way to the snapshot thread.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotDoor {
    tasks: Sender<Task>,
}

impl SnapshotDoor {
    /// Starts the thread.
    pub(crate) fn start(
        worker: SnapshotWorker<OsDisk>,
        shared: Arc<Shared>,
        fatal: &Fatal,
    ) -> std::io::Result<SnapshotDoor> {
        let (tasks, received) = std::sync::mpsc::channel();
        let failed = fatal.clone();
        spawn("snapshot", fatal, move || run(worker, &received, &shared, &failed))?;
        Ok(SnapshotDoor { tasks })
    }

    /// Writes the state of a job; the member is told.
    pub(crate) fn save(&self, job: SnapshotJob) {
        drop(self.tasks.send(Task::Save(job)));
    }

    /// Reads a snapshot that is on this disk.
    pub(crate) fn load(&self, meta: SnapshotMeta) -> Result<StateParts, SnapshotError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        drop(self.tasks.send(Task::Load(meta, sender)));
        receiver.recv().unwrap_or(Err(SnapshotError::Stopped))
    }

    async fn ask<T>(&self, task: impl FnOnce(oneshot::Sender<T>) -> Task) -> Result<T, String> {
        let (sender, receiver) = oneshot::channel();
        drop(self.tasks.send(task(sender)));
        receiver.await.map_err(|_| String::from("the snapshot thread has stopped"))
    }
}

impl Chunks for SnapshotDoor {
    async fn read(&self, hash: ChunkHash) -> Result<Bytes, String> {
        self.ask(|reply| Task::Read(hash, reply)).await?.map_err(|error| error.to_string())
    }

    async fn missing(&self, hashes: &[ChunkHash]) -> Vec<ChunkHash> {
        let all = hashes.to_vec();
        // Without the thread nothing is here.
        self.ask(|reply| Task::Missing(all, reply)).await.unwrap_or_else(|_| hashes.to_vec())
    }

    async fn write(&self, hash: ChunkHash, bytes: Bytes) -> Result<(), String> {
        self.ask(|reply| Task::Write(hash, bytes, reply)).await?.map_err(|error| error.to_string())
    }

    async fn commit(&self, meta: SnapshotMeta) -> Result<(), String> {
        self.ask(|reply| Task::Commit(meta, reply)).await?.map_err(|error| error.to_string())
    }
}

fn save(
    worker: &mut SnapshotWorker<OsDisk>,
    job: SnapshotJob,
) -> Result<SnapshotMeta, SnapshotError> {
    let _entered =
        tracing::info_span!(target: otlp::COLD, "save_snapshot", index = job.meta.index).entered();
    worker.save(job)
}

fn run(mut worker: SnapshotWorker<OsDisk>, tasks: &Receiver<Task>, shared: &Shared, fatal: &Fatal) {
    let inbox = &shared.inbox;
    // Who asked may be gone: then nobody needs the answer.
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Save(job) => {
                let seconds = &shared.metrics.snapshot_save_seconds;
                match timed(seconds, || save(&mut worker, job)) {
                    Ok(meta) => {
                        tracing::info!(
                            index = meta.index,
                            revision = meta.revision,
                            bytes = meta.state_bytes,
                            chunks = meta.chunks.len(),
                            "saved snapshot"
                        );
                        shared.figures.note_snapshot(meta.state_bytes);
                        inbox.urgent(Input::SnapshotSaved(meta));
                    }
                    Err(error) if error.is_no_space() => {
                        tracing::warn!(%error, "no room for a snapshot");
                        inbox.urgent(Input::SnapshotFailed);
                    }
                    // A failed write or sync is as final here as in the log.
                    Err(error) => return fatal.raise(format!("snapshot: {error}")),
                }
            }
            Task::Load(meta, reply) => drop(reply.send(worker.load(&meta))),
            Task::Commit(meta, reply) => {
                let seconds = &shared.metrics.snapshot_commit_seconds;
                let done = timed(seconds, || worker.commit(&meta));
                if done.is_ok() {
                    shared.figures.note_snapshot(meta.state_bytes);
                }
                drop(reply.send(done));
            }
            Task::Missing(hashes, reply) => drop(reply.send(worker.missing(&hashes))),
            Task::Read(hash, reply) => drop(reply.send(worker.read_chunk(&hash))),
            Task::Write(hash, bytes, reply) => drop(reply.send(worker.write_chunk(hash, &bytes))),
        }
    }
}

/// What has been done counts with its time.
fn timed<T, E>(seconds: &Histogram, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let began = Instant::now();
    let done = work()?;
    seconds.observe(began.elapsed().as_secs_f64());
    Ok(done)
}
