//! How fast the log is on a real file system: batches of entries, one sync per batch.
//!
//! `cargo run --release -p wal --example append_bench -- DIR [BATCHES] [ENTRIES] [BYTES]`
//! writes below DIR, which must be empty, and prints entries per second and sync latencies.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a program that measures needs a clock, files and a place to print to"
)]

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wal::{Disk, DiskError, Entry, Identity, Log, LogBatch, LogOptions};

/// The plainest disk that keeps the promises of [`Disk`].
struct PlainDisk {
    root: PathBuf,
}

struct PlainFile {
    file: File,
    path: String,
}

fn named(path: &str, action: &'static str) -> impl Fn(std::io::Error) -> DiskError {
    move |error| match error.kind() {
        ErrorKind::NotFound => DiskError::NotFound { path: path.to_owned() },
        ErrorKind::AlreadyExists => DiskError::AlreadyExists { path: path.to_owned() },
        ErrorKind::StorageFull => DiskError::NoSpace { path: path.to_owned() },
        _ => DiskError::Io { path: path.to_owned(), action, reason: error.to_string() },
    }
}

impl PlainDisk {
    fn open_with(&self, path: &str, new: bool) -> Result<PlainFile, DiskError> {
        let opened =
            OpenOptions::new().read(true).write(true).create_new(new).open(self.root.join(path));
        let file = opened.map_err(named(path, "open"))?;
        Ok(PlainFile { file, path: path.to_owned() })
    }
}

impl Disk for PlainDisk {
    type File = PlainFile;

    fn create(&mut self, path: &str) -> Result<PlainFile, DiskError> {
        self.open_with(path, true)
    }
    fn open(&mut self, path: &str) -> Result<PlainFile, DiskError> {
        self.open_with(path, false)
    }
    fn len(&mut self, file: &PlainFile) -> Result<u64, DiskError> {
        file.file.metadata().map(|metadata| metadata.len()).map_err(named(&file.path, "stat"))
    }
    fn read_at(
        &mut self,
        file: &PlainFile,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize, DiskError> {
        file.file.read_at(buf, offset).map_err(named(&file.path, "read"))
    }
    fn write_at(
        &mut self,
        file: &PlainFile,
        offset: u64,
        parts: &[&[u8]],
    ) -> Result<(), DiskError> {
        let mut at = offset;
        for part in parts {
            file.file.write_all_at(part, at).map_err(named(&file.path, "write"))?;
            at += part.len() as u64;
        }
        Ok(())
    }
    fn allocate(&mut self, file: &PlainFile, len: u64) -> Result<(), DiskError> {
        let zeros = [0; 1 << 16];
        let mut at = self.len(file)?;
        while at < len {
            let bytes = zeros.len().min(usize::try_from(len - at).unwrap_or(usize::MAX));
            let written = file.file.write_all_at(&zeros[..bytes], at);
            written.map_err(named(&file.path, "allocate"))?;
            at += bytes as u64;
        }
        Ok(())
    }
    fn set_len(&mut self, file: &PlainFile, len: u64) -> Result<(), DiskError> {
        file.file.set_len(len).map_err(named(&file.path, "truncate"))
    }
    fn sync_data(&mut self, file: &PlainFile) -> Result<(), DiskError> {
        file.file.sync_data().map_err(named(&file.path, "fdatasync"))
    }
    fn sync_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        let opened = File::open(self.root.join(dir));
        opened.and_then(|dir| dir.sync_all()).map_err(named(dir, "fsync"))
    }
    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        std::fs::rename(self.root.join(from), self.root.join(to)).map_err(named(from, "rename"))
    }
    fn unlink(&mut self, path: &str) -> Result<(), DiskError> {
        std::fs::remove_file(self.root.join(path)).map_err(named(path, "unlink"))
    }
    fn list(&mut self, dir: &str) -> Result<Vec<String>, DiskError> {
        let entries = std::fs::read_dir(self.root.join(dir)).map_err(named(dir, "list"))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<std::io::Result<_>>().map_err(named(dir, "list"))
    }
    fn create_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        std::fs::create_dir(self.root.join(dir)).map_err(named(dir, "mkdir"))
    }
    fn drop_cache(&mut self, _file: &PlainFile) -> Result<(), DiskError> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let root = PathBuf::from(args.next().ok_or("which directory?")?);
    let mut number = |default: usize| args.next().map_or(Ok(default), |arg| arg.parse::<usize>());
    let (batches, entries, bytes) = (number(2000)?, number(64)?, number(300)?);

    let identity = Identity { cluster_id: 1, member_id: 1 };
    let mut log = Log::create(PlainDisk { root: root.clone() }, identity, LogOptions::default())?;
    let data = Bytes::from(vec![0x5a; bytes]);
    let mut latencies = Vec::with_capacity(batches);
    let (mut index, mut encode_and_write) = (1, Duration::ZERO);
    let start = Instant::now();
    for _ in 0..batches {
        let entries = (index..index + entries as u64).map(|index| Entry {
            term: 1,
            index,
            data: data.clone(),
            ..Entry::default()
        });
        let batch = LogBatch { entries: entries.collect(), ..LogBatch::default() };
        index += batch.entries.len() as u64;
        let asked = Instant::now();
        log.append(&batch)?;
        let written = Instant::now();
        log.sync()?;
        encode_and_write += written - asked;
        latencies.push(asked.elapsed());
        log.prepare()?;
    }
    let took = start.elapsed();
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let total = (batches * entries) as f64;
    println!(
        "{batches} batches of {entries} x {bytes} B: {:.0} entries/s, {:.3} us per entry in append",
        total / took.as_secs_f64(),
        encode_and_write.as_secs_f64() * 1e6 / total
    );
    println!(
        "append + sync: p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}; {:?}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        log.stats()
    );
    drop(log);
    let start = Instant::now();
    let (_, recovered) = Log::open(PlainDisk { root }, Some(identity), LogOptions::default())?;
    println!("opened {} entries in {:?}", recovered.entries.len(), start.elapsed());
    Ok(())
}
