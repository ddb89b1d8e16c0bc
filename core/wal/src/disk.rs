//! The one door to the disk: few calls, each with a stated promise about power failure.
//!
//! The calls are those a log needs and no more, so that an implementation is small enough to be
//! read and the in-memory twin exact enough to be believed. Three promises matter:
//!
//! * what [`Disk::write_at`], [`Disk::allocate`] and [`Disk::set_len`] did survives the process,
//!   but survives a power failure only after [`Disk::sync_data`] on that file returned `Ok`;
//! * what [`Disk::create`], [`Disk::rename`], [`Disk::unlink`] and [`Disk::create_dir`] did
//!   survives a power failure only after [`Disk::sync_dir`] on the directory that holds the name;
//! * un-synced operations may be lost singly, in any order, and writes in part.

/// A directory tree owned by one member. Paths are relative to its data directory and separated
/// by `/`; the data directory itself is `""`.
pub trait Disk: Send {
    /// An open file. Dropping it closes the file and syncs nothing.
    type File: Send;

    /// Makes a new, empty file and opens it for reading and writing.
    /// Fails with [`DiskError::AlreadyExists`] if the name is taken (`O_EXCL`).
    fn create(&mut self, path: &str) -> Result<Self::File, DiskError>;

    /// Opens a file that exists for reading and writing.
    fn open(&mut self, path: &str) -> Result<Self::File, DiskError>;

    /// The length of the file in bytes.
    fn len(&mut self, file: &Self::File) -> Result<u64, DiskError>;

    /// Reads from `offset` into `buf`; returns how many bytes there were. Less than asked for
    /// means the end of the file.
    fn read_at(
        &mut self,
        file: &Self::File,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, DiskError>;

    /// Writes all parts, one after the other, from `offset`. A short write is an error.
    fn write_at(
        &mut self,
        file: &Self::File,
        offset: u64,
        parts: &[&[u8]],
    ) -> Result<(), DiskError>;

    /// Makes the file at least `len` bytes long by *writing* zeros behind its present end, so
    /// that later writes there change neither its size nor its extents. Never shortens.
    fn allocate(&mut self, file: &Self::File, len: u64) -> Result<(), DiskError>;

    /// Sets the length of the file: cuts it off, or extends it with zeros.
    fn set_len(&mut self, file: &Self::File, len: u64) -> Result<(), DiskError>;

    /// Makes the content and size of the file durable (`fdatasync`).
    fn sync_data(&mut self, file: &Self::File) -> Result<(), DiskError>;

    /// Makes the names in the directory durable.
    fn sync_dir(&mut self, dir: &str) -> Result<(), DiskError>;

    /// Gives the file another name, replacing a file of that name in one step.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes the name; the file goes with it.
    fn unlink(&mut self, path: &str) -> Result<(), DiskError>;

    /// The names in the directory, without `.` and `..`, in any order.
    fn list(&mut self, dir: &str) -> Result<Vec<String>, DiskError>;

    /// Makes a directory; fails with [`DiskError::AlreadyExists`] if it is there.
    fn create_dir(&mut self, dir: &str) -> Result<(), DiskError>;

    /// Asks that the next read come from the device and not from a cache
    /// (`POSIX_FADV_DONTNEED`). Best effort: may do nothing.
    fn drop_cache(&mut self, file: &Self::File) -> Result<(), DiskError>;
}

/// A borrowed disk is a disk: the owner gets it back when the log is dropped.
impl<D: Disk> Disk for &mut D {
    type File = D::File;

    fn create(&mut self, path: &str) -> Result<Self::File, DiskError> {
        (**self).create(path)
    }
    fn open(&mut self, path: &str) -> Result<Self::File, DiskError> {
        (**self).open(path)
    }
    fn len(&mut self, file: &Self::File) -> Result<u64, DiskError> {
        (**self).len(file)
    }
    fn read_at(
        &mut self,
        file: &Self::File,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, DiskError> {
        (**self).read_at(file, offset, buf)
    }
    fn write_at(
        &mut self,
        file: &Self::File,
        offset: u64,
        parts: &[&[u8]],
    ) -> Result<(), DiskError> {
        (**self).write_at(file, offset, parts)
    }
    fn allocate(&mut self, file: &Self::File, len: u64) -> Result<(), DiskError> {
        (**self).allocate(file, len)
    }
    fn set_len(&mut self, file: &Self::File, len: u64) -> Result<(), DiskError> {
        (**self).set_len(file, len)
    }
    fn sync_data(&mut self, file: &Self::File) -> Result<(), DiskError> {
        (**self).sync_data(file)
    }
    fn sync_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        (**self).sync_dir(dir)
    }
    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        (**self).rename(from, to)
    }
    fn unlink(&mut self, path: &str) -> Result<(), DiskError> {
        (**self).unlink(path)
    }
    fn list(&mut self, dir: &str) -> Result<Vec<String>, DiskError> {
        (**self).list(dir)
    }
    fn create_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        (**self).create_dir(dir)
    }
    fn drop_cache(&mut self, file: &Self::File) -> Result<(), DiskError> {
        (**self).drop_cache(file)
    }
}

/// Why the disk said no. Each names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The name does not exist.
    #[error("{path}: no such file or directory")]
    NotFound {
        /// The name asked for.
        path: String,
    },
    /// The name is taken.
    #[error("{path}: already exists")]
    AlreadyExists {
        /// The name asked for.
        path: String,
    },
    /// The device or the quota is full (`ENOSPC`, `EDQUOT`).
    #[error("{path}: no space left on device")]
    NoSpace {
        /// The file that should have grown.
        path: String,
    },
    /// Anything else, above all `EIO`.
    #[error("{path}: {action}: {reason}")]
    Io {
        /// The file or directory.
        path: String,
        /// The call that failed.
        action: &'static str,
        /// What the operating system said.
        reason: String,
    },
}

/// Makes a directory unless it is there.
pub(crate) fn ensure_dir<D: Disk>(disk: &mut D, dir: &str) -> Result<(), DiskError> {
    match disk.create_dir(dir) {
        Ok(()) | Err(DiskError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a name unless it is gone.
pub(crate) fn ensure_gone<D: Disk>(disk: &mut D, path: &str) -> Result<(), DiskError> {
    match disk.unlink(path) {
        Ok(()) | Err(DiskError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads `len` bytes from `offset`, or what there is of them.
pub(crate) fn read_range<D: Disk>(
    disk: &mut D,
    file: &D::File,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, DiskError> {
    let mut buf = vec![0; in_memory(len)];
    let filled = read_into(disk, file, offset, &mut buf)?;
    buf.truncate(filled);
    Ok(buf)
}

/// A length of something that is read as a whole.
pub(crate) fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("a file to be read fits the address space")
}

/// Fills `buf` from `offset` as far as the file goes; returns how far.
pub(crate) fn read_into<D: Disk>(
    disk: &mut D,
    file: &D::File,
    offset: u64,
    buf: &mut [u8],
) -> Result<usize, DiskError> {
    let mut filled = 0;
    while filled < buf.len() {
        let got = disk.read_at(file, offset + filled as u64, &mut buf[filled..])?;
        if got == 0 {
            break;
        }
        filled += got;
    }
    Ok(filled)
}
