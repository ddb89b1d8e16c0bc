//! A member's directory, as the tools see it: the operating system's files behind `wal`'s door.
//!
//! There are two ways to hold it. [`Files::new_directory`] writes, for `snapshot restore`.
//! [`Files::to_look_at`] cannot: what would change the disk is refused, and what only tidies up (old
//! temporary files, syncs of directories) is left undone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use member::wal::{Disk, DiskError, WAL_DIR};

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 1 << 20;

/// Files below one directory.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    root: PathBuf,
    /// Where the log lies if not below the root.
    wal_dir: Option<PathBuf>,
    writable: bool,
}

/// An open file that knows its name.
#[derive(Debug)]
pub(crate) struct OpenFile {
    file: File,
    path: PathBuf,
}

impl Files {
    /// To be filled by this program alone.
    pub(crate) fn new_directory(root: &Path) -> Self {
        Files { root: root.to_path_buf(), wal_dir: None, writable: true }
    }

    /// To be read.
    pub(crate) fn to_look_at(root: &Path, wal_dir: Option<&Path>) -> Self {
        Files { root: root.to_path_buf(), wal_dir: wal_dir.map(Path::to_path_buf), writable: false }
    }

    fn resolve(&self, path: &str) -> PathBuf {
        if let Some(wal_dir) = &self.wal_dir
            && let Some(inside) = path.strip_prefix(WAL_DIR)
        {
            return wal_dir.join(inside.trim_start_matches('/'));
        }
        self.root.join(path)
    }

    fn check_writable(&self, path: &Path, action: &'static str) -> Result<(), DiskError> {
        if self.writable {
            return Ok(());
        }
        let reason = "the directory is only looked at".to_owned();
        Err(DiskError::Io { path: path.display().to_string(), action, reason })
    }
}

fn failure(path: &Path, action: &'static str, error: &io::Error) -> DiskError {
    let path = path.display().to_string();
    match error.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound { path },
        io::ErrorKind::AlreadyExists => DiskError::AlreadyExists { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::NoSpace { path },
        _ => DiskError::Io { path, action, reason: error.to_string() },
    }
}

impl Disk for Files {
    type File = OpenFile;

    fn create(&mut self, path: &str) -> Result<OpenFile, DiskError> {
        let path = self.resolve(path);
        self.check_writable(&path, "create")?;
        let mut options = OpenOptions::new();
        match options.read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(OpenFile { file, path }),
            Err(error) => Err(failure(&path, "create", &error)),
        }
    }

    fn open(&mut self, path: &str) -> Result<OpenFile, DiskError> {
        let path = self.resolve(path);
        match OpenOptions::new().read(true).write(self.writable).open(&path) {
            Ok(file) => Ok(OpenFile { file, path }),
            Err(error) => Err(failure(&path, "open", &error)),
        }
    }

    fn len(&mut self, file: &OpenFile) -> Result<u64, DiskError> {
        let about = file.file.metadata();
        about.map(|about| about.len()).map_err(|error| failure(&file.path, "stat", &error))
    }

    fn read_at(
        &mut self,
        file: &OpenFile,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < buf.len() {
            match file.file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure(&file.path, "read", &error)),
            }
        }
        Ok(filled)
    }

    fn write_at(
        &mut self,
        file: &OpenFile,
        mut offset: u64,
        parts: &[&[u8]],
    ) -> Result<(), DiskError> {
        self.check_writable(&file.path, "write")?;
        for part in parts {
            file.file
                .write_all_at(part, offset)
                .map_err(|error| failure(&file.path, "write", &error))?;
            offset += part.len() as u64;
        }
        Ok(())
    }

    fn allocate(&mut self, file: &OpenFile, len: u64) -> Result<(), DiskError> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut offset = self.len(file)?;
        while offset < len {
            let bytes = usize::try_from(len - offset).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
            self.write_at(file, offset, &[&zeros[..bytes]])?;
            offset += bytes as u64;
        }
        Ok(())
    }

    fn set_len(&mut self, file: &OpenFile, len: u64) -> Result<(), DiskError> {
        self.check_writable(&file.path, "set length")?;
        file.file.set_len(len).map_err(|error| failure(&file.path, "set length", &error))
    }

    fn sync_data(&mut self, file: &OpenFile) -> Result<(), DiskError> {
        if !self.writable {
            return Ok(());
        }
        file.file.sync_data().map_err(|error| failure(&file.path, "sync", &error))
    }

    fn sync_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        if !self.writable {
            return Ok(());
        }
        let path = self.resolve(dir);
        File::open(&path)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| failure(&path, "sync", &error))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let (from, to) = (self.resolve(from), self.resolve(to));
        self.check_writable(&from, "rename")?;
        fs::rename(&from, &to).map_err(|error| failure(&from, "rename", &error))
    }

    fn unlink(&mut self, path: &str) -> Result<(), DiskError> {
        let path = self.resolve(path);
        if !self.writable {
            return Ok(());
        }
        fs::remove_file(&path).map_err(|error| failure(&path, "unlink", &error))
    }

    fn list(&mut self, dir: &str) -> Result<Vec<String>, DiskError> {
        let path = self.resolve(dir);
        let entries = fs::read_dir(&path).map_err(|error| failure(&path, "list", &error))?;
        entries
            .map(|entry| {
                let name = entry.map_err(|error| failure(&path, "list", &error))?.file_name();
                name.into_string().map_err(|name| {
                    let reason = io::Error::other(format!("the name {name:?} is not UTF-8"));
                    failure(&path, "list", &reason)
                })
            })
            .collect()
    }

    fn create_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        let path = self.resolve(dir);
        if path.is_dir() {
            return Err(DiskError::AlreadyExists { path: path.display().to_string() });
        }
        self.check_writable(&path, "make directory")?;
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| failure(&path, "make directory", &error))
    }

    fn drop_cache(&mut self, _: &OpenFile) -> Result<(), DiskError> {
        // Best effort by contract; nothing here depends on what the device holds right now.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_is_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("old.tmp"), "x").unwrap();
        let mut files = Files::to_look_at(directory.path(), None);
        let file = files.open("old.tmp").unwrap();
        assert!(files.write_at(&file, 0, &[b"y"]).is_err());
        assert!(files.set_len(&file, 0).is_err() && files.allocate(&file, 9).is_err());
        assert!(files.create("new").is_err() && files.create_dir("d").is_err());
        assert!(files.rename("old.tmp", "other").is_err());
        files.unlink("old.tmp").unwrap();
        assert_eq!(fs::read(directory.path().join("old.tmp")).unwrap(), b"x");
        assert_eq!(files.list("").unwrap(), ["old.tmp"]);
    }

    #[test]
    fn a_log_directory_of_its_own_stands_in_for_the_usual_one() {
        let (root, log) = (Path::new("data"), Path::new("elsewhere"));
        let files = Files::to_look_at(root, Some(log));
        assert_eq!(files.resolve(WAL_DIR), Path::new("elsewhere"));
        assert_eq!(files.resolve(&format!("{WAL_DIR}/a.wal")), Path::new("elsewhere/a.wal"));
        assert_eq!(files.resolve("member/snap"), Path::new("data/member/snap"));
    }
}
