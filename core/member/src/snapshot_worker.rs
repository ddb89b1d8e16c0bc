//! Writes the state as a snapshot, and reads one back.
//!
//! A snapshot is a manifest over chunks named by their content. Only chunks that are not there yet
//! are written, so that a snapshot costs what changed since the one before. The manifest is made
//! durable last.

use bytes::Bytes;
use prost::Message as _;
use proto::log::{Chunk, SnapshotMeta};
use state::StateParts;
use thiserror::Error;
use wal::{ChunkRef, Disk, Manifest, SnapshotStore};

use crate::apply::SnapshotJob;

/// Generations kept: the newest, and one to fall back to if it rots.
const GENERATIONS_KEPT: usize = 2;

/// Why a snapshot could not be written or read.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The disk, or what is on it.
    #[error(transparent)]
    Store(#[from] wal::SnapshotError),
    /// The chunks are whole, but what they say is not a state.
    #[error("snapshot at index {index}: {error}")]
    Content {
        /// Index of the snapshot.
        index: u64,
        /// What is wrong.
        error: state::snapshot::SnapshotError,
    },
    /// The parts do not make a state.
    #[error("snapshot content: {0}")]
    Parts(#[from] state::PartsError),
    /// Whoever reads and writes snapshots has stopped.
    #[error("the snapshot worker has stopped")]
    Stopped,
    /// The manifest does not carry a description this version can read.
    #[error("snapshot manifest at index {index} can not be read: {error}")]
    Manifest {
        /// Index of the manifest.
        index: u64,
        /// What is wrong.
        error: prost::DecodeError,
    },
}

impl SnapshotError {
    /// The disk is full: room may come back, nothing is broken.
    pub fn is_no_space(&self) -> bool {
        matches!(self, SnapshotError::Store(wal::SnapshotError::NoSpace { .. }))
    }
}

/// The snapshots a member holds, newest first, as far as decisions need them.
#[derive(Clone, Debug, Default)]
pub struct SnapshotsHeld {
    /// The newest.
    pub newest: Option<SnapshotMeta>,
    /// Index of the one before.
    pub previous_index: Option<u64>,
}

/// Owns the snapshot store and a way to the disk.
#[derive(Debug)]
pub struct SnapshotWorker<D: Disk> {
    disk: D,
    store: SnapshotStore,
}

impl<D: Disk> SnapshotWorker<D> {
    /// Takes over an open store.
    pub fn new(disk: D, store: SnapshotStore) -> Self {
        SnapshotWorker { disk, store }
    }

    /// Writes the state of a job as a snapshot; when this returns it is durable. What it holds came
    /// from the log.
    pub fn save(&mut self, job: SnapshotJob) -> Result<SnapshotMeta, SnapshotError> {
        self.write(job, false)
    }

    /// The same of a state the log is to begin behind.
    pub(crate) fn save_to_begin(
        &mut self,
        job: SnapshotJob,
    ) -> Result<SnapshotMeta, SnapshotError> {
        self.write(job, true)
    }

    fn write(&mut self, job: SnapshotJob, begins_log: bool) -> Result<SnapshotMeta, SnapshotError> {
        let SnapshotJob { view, mut meta, pin: _pin } = job;
        for chunk in state::snapshot::chunks(&view) {
            let hash = *blake3::hash(&chunk).as_bytes();
            if !self.store.has_chunk(&hash) {
                self.write_chunk(hash, &chunk)?;
            }
            meta.state_bytes += chunk.len() as u64;
            meta.chunks
                .push(Chunk { hash: Bytes::copy_from_slice(&hash), bytes: chunk.len() as u64 });
        }
        self.commit_as(&meta, begins_log)?;
        // The log reaches this state. What lies beyond was received, and may yet come to nothing.
        self.store.remove_older(&mut self.disk, GENERATIONS_KEPT, meta.index)?;
        Ok(meta)
    }

    /// Makes a received snapshot whose chunks are all here a durable one. The log's mark comes after
    /// it; until then the log stands on an older one, so none of them may go yet.
    pub fn commit(&mut self, meta: &SnapshotMeta) -> Result<(), SnapshotError> {
        self.commit_as(meta, true)
    }

    fn commit_as(&mut self, meta: &SnapshotMeta, begins_log: bool) -> Result<(), SnapshotError> {
        let manifest = Manifest {
            index: meta.index,
            term: meta.term,
            begins_log,
            meta: Bytes::from(meta.encode_to_vec()),
            chunks: meta.chunks.iter().map(chunk_ref).collect(),
        };
        self.store.commit(&mut self.disk, manifest)?;
        // Chunks of transfers that were given up are garbage now; one that still runs fetches anew.
        self.store.abandon();
        Ok(())
    }

    /// Lets go of what was received before this boot and came to nothing.
    pub(crate) fn remove_unbegun(&mut self, reached_index: u64) -> Result<(), SnapshotError> {
        self.store.remove_unbegun(&mut self.disk, reached_index)?;
        Ok(())
    }

    /// Index of the newest snapshot on the disk, whether it fits the log or not.
    pub(crate) fn newest_index(&self) -> u64 {
        self.store.manifests().next().map_or(0, |manifest| manifest.index)
    }

    /// Reads a snapshot back into the parts of a state.
    pub fn load(&mut self, meta: &SnapshotMeta) -> Result<StateParts, SnapshotError> {
        let mut chunks = Vec::with_capacity(meta.chunks.len());
        for chunk in &meta.chunks {
            chunks.push(self.store.read_chunk(&mut self.disk, &chunk_ref(chunk).hash)?);
        }
        state::snapshot::restore(chunks)
            .map_err(|error| SnapshotError::Content { index: meta.index, error })
    }

    /// The chunks of `hashes` that are not here.
    pub fn missing(&mut self, hashes: &[[u8; 32]]) -> Vec<[u8; 32]> {
        hashes.iter().filter(|hash| !self.store.has_chunk(hash)).copied().collect()
    }

    /// Writes one chunk under the name of its hash, which is checked; it is kept once a manifest
    /// names it.
    pub fn write_chunk(&mut self, hash: [u8; 32], chunk: &[u8]) -> Result<(), SnapshotError> {
        Ok(self.store.write_chunk(&mut self.disk, hash, chunk)?)
    }

    /// Reads one chunk, checked.
    pub fn read_chunk(&mut self, hash: &[u8; 32]) -> Result<Bytes, SnapshotError> {
        Ok(self.store.read_chunk(&mut self.disk, hash)?)
    }
}

pub(crate) fn meta_of(manifest: &Manifest) -> Result<SnapshotMeta, SnapshotError> {
    SnapshotMeta::decode(manifest.meta.clone())
        .map_err(|error| SnapshotError::Manifest { index: manifest.index, error })
}

fn chunk_ref(chunk: &Chunk) -> ChunkRef {
    let mut hash = [0; 32];
    if chunk.hash.len() == hash.len() {
        hash.copy_from_slice(&chunk.hash);
    }
    ChunkRef { hash, bytes: chunk.bytes }
}
