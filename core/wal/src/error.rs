//! Why the log refuses. Each message is one line and names the file, the place and, where there
//! is one, the way out.

use crate::disk::DiskError;
use crate::entry::Identity;

/// What the log says when it cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error(transparent)]
    Disk(DiskError),
    /// The disk is full.
    #[error("{path}: no space left on device")]
    NoSpace {
        /// The file that should have grown.
        path: String,
    },
    /// An earlier write or sync failed; nothing is known about later ones.
    #[error("the log is closed after an earlier failure: {cause}")]
    Poisoned {
        /// The failure.
        cause: String,
    },
    /// There is no log to open.
    #[error("{dir}: no log here")]
    NotFound {
        /// The directory looked into.
        dir: &'static str,
    },
    /// There is a log where a new one should be made.
    #[error("{path}: a log is already here")]
    AlreadyExists {
        /// Its first segment.
        path: String,
    },
    /// The log belongs to somebody else.
    #[error("{path}: belongs to {found}, this is {expected}")]
    ForeignIdentity {
        /// The segment.
        path: String,
        /// Who opens it.
        expected: Identity,
        /// Whose it is.
        found: Identity,
    },
    /// The log was written by another release.
    #[error(
        "{path}: log format version {found}, this release reads version {supported}: \
         start the release that wrote it, or restore the member from a snapshot"
    )]
    UnknownVersion {
        /// The segment.
        path: String,
        /// Its version.
        found: u32,
        /// The version this build reads.
        supported: u32,
    },
    /// Something that had been made durable does not read back. Nothing was changed.
    #[error(
        "{path}: corrupt at offset {offset}: {reason}; entries from index {index} on cannot be \
         trusted, those up to {synced_index} were synced, so nothing is cut off"
    )]
    Corrupt {
        /// The segment.
        path: String,
        /// Where the bad header, batch or record starts.
        offset: u64,
        /// The first index that cannot be read.
        index: u64,
        /// The last index known to have been synced.
        synced_index: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A segment is shorter than it was durably made, which no crash does. Nothing was changed.
    #[error(
        "{path}: cut short: {bytes} of {bytes_made} bytes are there; synced entries from index \
         {index} on, or a segment behind this one, may be missing, so nothing is changed"
    )]
    CutShort {
        /// The segment.
        path: String,
        /// Its length.
        bytes: u64,
        /// The length its header says, or as far as its successor needs it.
        bytes_made: u64,
        /// The first index that is missing if any is.
        index: u64,
    },
    /// A segment between two others is gone.
    #[error("{dir}: a segment is missing between {after} and {before}")]
    MissingSegment {
        /// The directory.
        dir: &'static str,
        /// The last one before the gap.
        after: String,
        /// The first one behind it.
        before: String,
    },
    /// A file with a segment's suffix and no segment's name.
    #[error("{path}: not the name of a log segment")]
    UnexpectedFile {
        /// The file.
        path: String,
    },
    /// The caller's batch does not continue the log. Nothing was written.
    #[error("cannot append index {index}: the log accepts {first} to {next}")]
    Order {
        /// The index or mark offered.
        index: u64,
        /// The smallest index that could be replaced.
        first: u64,
        /// The index after the last.
        next: u64,
    },
    /// The caller's batch is too large. Nothing was written.
    #[error("a batch of {bytes} bytes is larger than {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The largest.
        bytes_max: u64,
    },
}

impl From<DiskError> for LogError {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::NoSpace { path } => Self::NoSpace { path },
            other => Self::Disk(other),
        }
    }
}
