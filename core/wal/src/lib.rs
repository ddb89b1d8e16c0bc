//! What one member remembers: the log of what it promised, and the snapshots that let it forget.
//!
//! A member that answers "I have it" must still have it after the power failed at the worst
//! moment. Everything in this room serves that sentence:
//!
//! * [`Log`] keeps entries and hard state in segments. [`Log::append`] writes, [`Log::sync`] makes
//!   durable, and only what a sync covered may be acknowledged. Each batch written after a sync
//!   carries the *watermark*: how far the log was durable by then. At the next start the watermark
//!   tells a torn tail (never promised, cut off) from rot (promised, refused, never cut off).
//! * Recovered is not durable: what a restarted process reads may live in the page cache only.
//!   [`Log::open`] therefore writes the part above the watermark again, into a new segment, and
//!   syncs it before it returns.
//! * A failed write or sync is never tried again. After one, the kernel may have dropped the
//!   pages and call the next sync a success; so the log is *poisoned* and the member stops.
//! * [`SnapshotStore`] keeps snapshots as manifests over content-addressed chunk files, so that
//!   two snapshots share what did not change between them.
//!
//! The room touches no file itself: all of it goes through [`Disk`], which the server implements
//! with the operating system's calls and [`mem::MemDisk`] in memory, with power cuts, torn
//! sectors, lost directory entries and failing syncs. What the simulator tortures is what ships.
//!
//! The formats are in `docs/formats/wal.md` and `docs/formats/snapshot-store.md`.

mod disk;
mod entry;
mod error;
mod format;
mod inspect;
mod log;
pub mod mem;
mod recover;
mod segment;
mod snapshot;

pub use disk::{Disk, DiskError};
pub use entry::{Entry, HardState, Identity, Kept, LogBatch, SnapshotMark, TermStart};
pub use error::LogError;
pub use format::{BATCH_BYTES_MAX, FORMAT_VERSION};
pub use inspect::{BatchReport, SegmentReport, inspect};
pub use log::{Log, LogFaults, LogOptions, LogStats, SEGMENT_BYTES_DEFAULT};
pub use recover::{Reading, Recovered, Torn};
pub use segment::WAL_DIR;
pub use snapshot::{
    CHUNK_BYTES, CHUNK_BYTES_MAX, CHUNK_DIR, ChunkRef, DamagedSnapshot, MANIFEST_VERSION, Manifest,
    SNAPSHOT_DIR, SnapshotError, SnapshotFaults, SnapshotStore,
};
