//! The operating system's twin of [`wal::Disk`], and the data directory it works in.
//!
//! [`DataDir::open`] is the one way in: it makes the directory private, refuses one that belongs to
//! somebody else or is open to everybody, and holds a lock for as long as the member lives, so that a
//! second process on the same directory is refused at once. [`OsDisk`] then carries out the few calls
//! a log needs, each named in its error; it decides nothing and never retries.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use rustix::io::Errno;
use wal::{Disk, DiskError};

/// Directory inside the data directory that nobody else may read.
pub const MEMBER_DIR: &str = "member";
/// Locked by the process that owns the directory.
const LOCK_FILE: &str = "LOCK";
/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 64 << 10;
/// Parts handed to one call of `pwritev`; the kernel takes 1,024.
const PARTS_MAX: usize = 512;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Cannot be made, opened or written to.
    #[error("cannot access data directory: {path}: {source}")]
    Access {
        /// The path that failed.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something else is there.
    #[error("data directory {path} is not a directory")]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// Another process has it.
    #[error("data directory {path} is in use by another process")]
    InUse {
        /// The path.
        path: String,
    },
    /// It is another user's.
    #[error(
        "data directory {path} belongs to user {owner}, not to user {user} who runs this process"
    )]
    Foreign {
        /// The path.
        path: String,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Everybody may write to it.
    #[error(
        "data directory {path} has permissions {mode:04o}: it must not be writable by everybody"
    )]
    WorldWritable {
        /// The path.
        path: String,
        /// Its permissions.
        mode: u32,
    },
}

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    data_dir: PathBuf,
    member_dir: PathBuf,
    wal_dir: Option<PathBuf>,
    /// Things the operator should know.
    warnings: Vec<String>,
    _locks: Vec<File>,
}

impl DataDir {
    /// Makes the directories where they are missing, checks them and locks them.
    pub fn open(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Self, DataDirError> {
        let mut warnings = Vec::new();
        make_and_check(data_dir, &mut warnings)?;
        let member_dir = data_dir.join(MEMBER_DIR);
        make_and_check(&member_dir, &mut warnings)?;
        let mut locks = vec![lock(&member_dir, data_dir)?];
        if let Some(wal_dir) = wal_dir {
            make_and_check(wal_dir, &mut warnings)?;
            // Its own lock: another data directory may name the same log.
            locks.push(lock(wal_dir, wal_dir)?);
        }
        let wal_dir = wal_dir.map(Path::to_owned);
        Ok(Self { data_dir: data_dir.to_owned(), member_dir, wal_dir, warnings, _locks: locks })
    }

    /// Things the operator should know about the directory.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// `DIR/member`.
    pub fn member_dir(&self) -> &Path {
        &self.member_dir
    }

    /// A disk in it. Each thread that writes has its own.
    pub fn disk(&self) -> OsDisk {
        OsDisk { root: self.data_dir.clone(), wal_dir: self.wal_dir.clone() }
    }
}

fn make_and_check(path: &Path, warnings: &mut Vec<String>) -> Result<(), DataDirError> {
    let name = || path.display().to_string();
    let access = |source| DataDirError::Access { path: name(), source };
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => {
            return Err(DataDirError::NotADirectory { path: name() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(access)?;
            // The name of a directory made just now must outlive a power cut like what goes into it.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|dir| dir.sync_all())
                .map_err(access)?;
        }
        Err(error) => return Err(access(error)),
    }
    let metadata = std::fs::metadata(path).map_err(access)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let user = rustix::process::geteuid().as_raw();
    // Root may keep its data where it likes.
    if owner != user && user != 0 {
        return Err(DataDirError::Foreign { path: name(), owner, user });
    }
    if mode & 0o002 != 0 {
        return Err(DataDirError::WorldWritable { path: name(), mode });
    }
    if mode & 0o077 != 0 {
        warnings.push(format!("{}: permissions {mode:04o} are wider than 0700", name()));
    }
    Ok(())
}

fn lock(dir: &Path, named: &Path) -> Result<File, DataDirError> {
    let path = dir.join(LOCK_FILE);
    let access = |source| DataDirError::Access { path: path.display().to_string(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(access)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(DataDirError::InUse { path: named.display().to_string() }),
        Err(error) => Err(access(error.into())),
    }
}

/// Files below one directory.
#[derive(Debug)]
pub struct OsDisk {
    root: PathBuf,
    /// Where the log lies if not below the root.
    wal_dir: Option<PathBuf>,
}

/// An open file that knows its name.
#[derive(Debug)]
pub struct OsFile {
    file: File,
    path: String,
}

impl OsDisk {
    fn resolve(&self, path: &str) -> PathBuf {
        if let Some(wal_dir) = &self.wal_dir {
            if path == wal::WAL_DIR {
                return wal_dir.clone();
            }
            let inside = path.strip_prefix(wal::WAL_DIR).and_then(|rest| rest.strip_prefix('/'));
            if let Some(inside) = inside {
                return wal_dir.join(inside);
            }
        }
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn open_with(&self, path: &str, options: &mut OpenOptions) -> Result<OsFile, DiskError> {
        let full = self.resolve(path);
        match options.read(true).write(true).mode(0o600).open(&full) {
            Ok(file) => Ok(OsFile { file, path: full.display().to_string() }),
            Err(error) => Err(disk_error(&full.display().to_string(), "open", &error)),
        }
    }
}

fn disk_error(path: &str, action: &'static str, error: &io::Error) -> DiskError {
    let path = path.to_owned();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => DiskError::NotFound { path },
        Some(Errno::EXIST) => DiskError::AlreadyExists { path },
        Some(Errno::NOSPC | Errno::DQUOT) => DiskError::NoSpace { path },
        _ => DiskError::Io { path, action, reason: error.to_string() },
    }
}

impl OsFile {
    fn error(&self, action: &'static str, error: &io::Error) -> DiskError {
        disk_error(&self.path, action, error)
    }

    fn write_parts(&self, mut offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(PARTS_MAX)];
            match rustix::io::pwritev(&self.file, batch, offset) {
                // Only a signal before the first byte; nothing was written.
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
            }
        }
        Ok(())
    }

    fn write_zeros(&self, from: u64, to: u64) -> io::Result<()> {
        static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];
        let mut offset = from;
        while offset < to {
            let bytes = usize::try_from(to - offset).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
            self.file.write_all_at(&ZEROS[..bytes], offset)?;
            offset += bytes as u64;
        }
        Ok(())
    }
}

impl Disk for OsDisk {
    type File = OsFile;

    fn create(&mut self, path: &str) -> Result<OsFile, DiskError> {
        self.open_with(path, OpenOptions::new().create_new(true))
    }

    fn open(&mut self, path: &str) -> Result<OsFile, DiskError> {
        self.open_with(path, &mut OpenOptions::new())
    }

    fn len(&mut self, file: &OsFile) -> Result<u64, DiskError> {
        file.file.metadata().map(|m| m.len()).map_err(|e| file.error("stat", &e))
    }

    fn read_at(&mut self, file: &OsFile, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < buf.len() {
            match file.file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(file.error("read", &error)),
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, file: &OsFile, offset: u64, parts: &[&[u8]]) -> Result<(), DiskError> {
        file.write_parts(offset, parts).map_err(|e| file.error("write", &e))
    }

    fn allocate(&mut self, file: &OsFile, len: u64) -> Result<(), DiskError> {
        let present = self.len(file)?;
        file.write_zeros(present, len).map_err(|e| file.error("allocate", &e))
    }

    fn set_len(&mut self, file: &OsFile, len: u64) -> Result<(), DiskError> {
        file.file.set_len(len).map_err(|e| file.error("set length", &e))
    }

    fn sync_data(&mut self, file: &OsFile) -> Result<(), DiskError> {
        file.file.sync_data().map_err(|e| file.error("fdatasync", &e))
    }

    fn sync_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        let full = self.resolve(dir);
        File::open(&full)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| disk_error(&full.display().to_string(), "sync directory", &e))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let from = self.resolve(from);
        std::fs::rename(&from, self.resolve(to))
            .map_err(|e| disk_error(&from.display().to_string(), "rename", &e))
    }

    fn unlink(&mut self, path: &str) -> Result<(), DiskError> {
        let full = self.resolve(path);
        std::fs::remove_file(&full)
            .map_err(|e| disk_error(&full.display().to_string(), "unlink", &e))
    }

    fn list(&mut self, dir: &str) -> Result<Vec<String>, DiskError> {
        let full = self.resolve(dir);
        let error = |e: io::Error| disk_error(&full.display().to_string(), "list", &e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&full).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            match name.into_string() {
                // The lock of a separate log directory is no file of the log.
                Ok(name) if name == LOCK_FILE => {}
                Ok(name) => names.push(name),
                Err(name) => {
                    let reason = format!("file name {name:?} is not UTF-8");
                    return Err(error(io::Error::other(reason)));
                }
            }
        }
        Ok(names)
    }

    fn create_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        let full = self.resolve(dir);
        DirBuilder::new()
            .mode(0o700)
            .create(&full)
            .map_err(|e| disk_error(&full.display().to_string(), "make directory", &e))
    }

    fn drop_cache(&mut self, file: &OsFile) -> Result<(), DiskError> {
        // Best effort by contract: a file system without a cache to drop answers with an error.
        let _ = fadvise(&file.file, 0, None, Advice::DontNeed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn temporary() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().expect("directory");
        let path = outer.path().join("data");
        (outer, path)
    }

    #[test]
    fn a_directory_is_made_private_and_belongs_to_one_process() {
        let (_outer, path) = temporary();
        let first = DataDir::open(&path, None).expect("opens");
        assert_eq!(first.warnings(), &[] as &[String]);
        for dir in [&path, &path.join(MEMBER_DIR)] {
            assert_eq!(std::fs::metadata(dir).expect("there").mode() & 0o777, 0o700);
        }
        let second = DataDir::open(&path, None).expect_err("in use").to_string();
        assert_eq!(
            second,
            format!("data directory {} is in use by another process", path.display())
        );
        drop(first);
        DataDir::open(&path, None).expect("free again");
    }

    #[test]
    fn one_log_directory_serves_one_data_directory() {
        let (outer, path) = temporary();
        let wal_dir = outer.path().join("log");
        let _first = DataDir::open(&path, Some(&wal_dir)).expect("opens");
        let error = DataDir::open(&outer.path().join("other"), Some(&wal_dir)).expect_err("in use");
        assert!(matches!(error, DataDirError::InUse { path } if path.ends_with("/log")));
    }

    #[test]
    fn wide_permissions_are_named_and_world_writable_is_refused() {
        let (_outer, path) = temporary();
        std::fs::create_dir(&path).expect("made");
        let chmod = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        chmod(0o755);
        let dir = DataDir::open(&path, None).expect("opens");
        let warning = format!("{}: permissions 0755 are wider than 0700", path.display());
        assert_eq!(dir.warnings(), &[warning]);
        drop(dir);
        chmod(0o777);
        let error = DataDir::open(&path, None).expect_err("refused").to_string();
        let expected = "has permissions 0777: it must not be writable by everybody";
        assert!(error.ends_with(expected), "{error}");
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_left_alone() {
        let (_outer, path) = temporary();
        std::fs::write(&path, "precious").expect("written");
        assert!(matches!(DataDir::open(&path, None), Err(DataDirError::NotADirectory { .. })));
        assert_eq!(std::fs::read(&path).expect("there"), b"precious");
        let below = path.join("below");
        assert!(matches!(DataDir::open(&below, None), Err(DataDirError::Access { .. })));
    }

    fn disk() -> (tempfile::TempDir, DataDir, OsDisk) {
        let (outer, path) = temporary();
        let dir = DataDir::open(&path, None).expect("opens");
        let disk = dir.disk();
        (outer, dir, disk)
    }

    #[test]
    fn parts_are_written_one_after_the_other() {
        let (_outer, _dir, mut disk) = disk();
        let file = disk.create("f").expect("created");
        let many: Vec<_> = (0..PARTS_MAX * 2 + 3).map(|i| vec![i as u8; i % 7]).collect();
        let parts: Vec<_> = many.iter().map(Vec::as_slice).collect();
        disk.write_at(&file, 5, &parts).expect("written");
        disk.write_at(&file, 0, &[b"hel", b"", b"lo"]).expect("written");
        disk.write_at(&file, 0, &[]).expect("nothing written");
        disk.sync_data(&file).expect("synced");
        let mut expected = b"hello".to_vec();
        expected.extend(many.concat());
        let mut read = vec![0; expected.len() + 10];
        assert_eq!(disk.read_at(&file, 0, &mut read).expect("read"), expected.len());
        assert_eq!(&read[..expected.len()], expected);
    }

    #[test]
    fn allocation_adds_zeros_and_never_shortens() {
        let (_outer, _dir, mut disk) = disk();
        let file = disk.create("f").expect("created");
        disk.write_at(&file, 0, &[b"abc"]).expect("written");
        disk.allocate(&file, ZEROS_BYTES as u64 + 10).expect("allocated");
        assert_eq!(disk.len(&file), Ok(ZEROS_BYTES as u64 + 10));
        disk.allocate(&file, 4).expect("nothing to do");
        assert_eq!(disk.len(&file), Ok(ZEROS_BYTES as u64 + 10));
        let mut head = [1; 5];
        disk.read_at(&file, 0, &mut head).expect("read");
        assert_eq!(&head, b"abc\0\0");
        disk.set_len(&file, 2).expect("cut");
        assert_eq!(disk.len(&file), Ok(2));
    }

    #[test]
    fn names_are_made_renamed_listed_and_removed() {
        let (outer, _dir, mut disk) = disk();
        let full = |name: &str| outer.path().join("data").join(name).display().to_string();
        disk.create_dir("d").expect("made");
        assert_eq!(disk.create_dir("d"), Err(DiskError::AlreadyExists { path: full("d") }));
        disk.create("d/a").expect("created");
        assert!(matches!(disk.create("d/a"), Err(DiskError::AlreadyExists { .. })));
        disk.create("d/b").expect("created");
        disk.rename("d/a", "d/b").expect("renamed over");
        assert_eq!(disk.list("d").expect("listed"), ["b"]);
        assert_eq!(disk.open("d/a").map(drop), Err(DiskError::NotFound { path: full("d/a") }));
        disk.unlink("d/b").expect("removed");
        assert_eq!(disk.unlink("d/b"), Err(DiskError::NotFound { path: full("d/b") }));
        assert!(disk.list(MEMBER_DIR).expect("listed").is_empty(), "the lock is not listed");
        disk.sync_dir("").expect("synced");
    }

    #[test]
    fn the_log_may_lie_elsewhere() {
        let (outer, path) = temporary();
        let wal_dir = outer.path().join("log");
        let dir = DataDir::open(&path, Some(&wal_dir)).expect("opens");
        let mut disk = dir.disk();
        let inside = format!("{}/x", wal::WAL_DIR);
        disk.create(&inside).expect("created");
        assert!(wal_dir.join("x").exists());
        assert_eq!(disk.list(wal::WAL_DIR).expect("listed"), ["x"]);
        let similar = format!("{}x", wal::WAL_DIR);
        disk.create(&similar).expect("created");
        assert!(path.join(similar).exists());
    }
}
