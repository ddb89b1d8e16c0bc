//! Snapshots: a manifest over immutable chunk files that snapshots share.
//!
//! A chunk is named by the BLAKE3 of its content, so it is written once however many snapshots
//! contain it, it can be checked by whoever reads it, and it can be fetched again from any peer
//! that has it. A snapshot exists when its manifest has its name durably; until then it is a
//! heap of chunks nobody refers to. The order that guarantees this is in [`SnapshotStore::commit`].
//!
//! The store holds no disk: each call borrows the one the log owns.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::disk::{Disk, DiskError, ensure_dir, ensure_gone, read_range};
use crate::format::{get_u32, get_u64};

/// Where manifests are, below the data directory.
pub const SNAPSHOT_DIR: &str = "member/snap";
/// Where chunks are.
pub const CHUNK_DIR: &str = "member/snap/chunks";
/// How large chunks should be, on disk and on the wire.
pub const CHUNK_BYTES: usize = 1 << 20;
/// No chunk may be larger: one value too big for [`CHUNK_BYTES`] makes a larger chunk.
pub const CHUNK_BYTES_MAX: u64 = 64 << 20;
/// The version of the manifest this build writes and reads. Not promised to later releases; version
/// 0, without flags, was never released.
pub const MANIFEST_VERSION: u32 = 1;

/// Two kept snapshots mean that one may rot.
const KEEP_MIN: usize = 2;
const MANIFEST_SUFFIX: &str = ".manifest";
const TEMP_SUFFIX: &str = ".tmp";
const MANIFEST_MAGIC: [u8; 8] = *b"MSSNP\r\n\x1a";
const MANIFEST_HEAD_BYTES: usize = 48;
const FLAG_BEGINS_LOG: u32 = 1;
const CHUNK_REF_BYTES: usize = 40;
const HASH_BYTES: usize = 32;
/// A manifest of this size lists 25 million chunks.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// One chunk of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkRef {
    /// The BLAKE3 of its content; also its name.
    pub hash: [u8; 32],
    /// Its length.
    pub bytes: u64,
}

/// A snapshot: what it contains, and the chunks in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The last log index the snapshot contains.
    pub index: u64,
    /// The term of that index.
    pub term: u64,
    /// The log is to begin anew behind it, by a mark that is written once this is durable: it was
    /// received, or is the first of a cluster. Any other snapshot is of entries the log held
    /// durably: where the log ends before it, something was lost.
    pub begins_log: bool,
    /// What the owner wants to know about it without reading the chunks.
    pub meta: Bytes,
    /// The content, in order.
    pub chunks: Vec<ChunkRef>,
}

impl Manifest {
    /// Where the manifest of this index and term is, below the data directory.
    pub fn path(&self) -> String {
        format!("{SNAPSHOT_DIR}/{:016x}-{:016x}{MANIFEST_SUFFIX}", self.index, self.term)
    }

    /// The bytes of the manifest's file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(
            MANIFEST_HEAD_BYTES + self.meta.len() + self.chunks.len() * CHUNK_REF_BYTES,
        );
        bytes.extend_from_slice(&MANIFEST_MAGIC);
        bytes.extend_from_slice(&MANIFEST_VERSION.to_le_bytes());
        let flags = if self.begins_log { FLAG_BEGINS_LOG } else { 0 };
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&self.index.to_le_bytes());
        bytes.extend_from_slice(&self.term.to_le_bytes());
        bytes.extend_from_slice(&(self.meta.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&(self.chunks.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&self.meta);
        for chunk in &self.chunks {
            bytes.extend_from_slice(&chunk.hash);
            bytes.extend_from_slice(&chunk.bytes.to_le_bytes());
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    /// Reads the bytes of a manifest's file; says what is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let Some(body_bytes) = bytes.len().checked_sub(HASH_BYTES) else {
            return Err("too short for a manifest".to_owned());
        };
        let (body, hash) = bytes.split_at(body_bytes);
        if body.len() < MANIFEST_HEAD_BYTES || body[..8] != MANIFEST_MAGIC {
            return Err("not a snapshot manifest".to_owned());
        }
        if blake3::hash(body).as_bytes() != hash {
            return Err("the checksum does not match".to_owned());
        }
        let version = get_u32(body, 8);
        if version != MANIFEST_VERSION {
            return Err(format!(
                "manifest version {version}, this release reads version {MANIFEST_VERSION}"
            ));
        }
        let flags = get_u32(body, 12);
        if flags & !FLAG_BEGINS_LOG != 0 {
            return Err("unknown flags".to_owned());
        }
        let begins_log = flags & FLAG_BEGINS_LOG != 0;
        let (index, term) = (get_u64(body, 16), get_u64(body, 24));
        let content = &body[MANIFEST_HEAD_BYTES..];
        let lengths = usize::try_from(get_u64(body, 32)).ok().zip(
            usize::try_from(get_u64(body, 40)).ok().and_then(|n| n.checked_mul(CHUNK_REF_BYTES)),
        );
        let Some((meta_bytes, refs_bytes)) =
            lengths.filter(|(meta, refs)| meta.checked_add(*refs) == Some(content.len()))
        else {
            return Err("the lengths do not add up".to_owned());
        };
        let (meta, refs) = content.split_at(meta_bytes);
        let chunks = refs.chunks_exact(CHUNK_REF_BYTES).map(|chunk| ChunkRef {
            hash: chunk[..HASH_BYTES].try_into().expect("32 bytes"),
            bytes: get_u64(chunk, HASH_BYTES),
        });
        assert_eq!(refs.len(), refs_bytes, "split at the end of meta");
        let meta = Bytes::copy_from_slice(meta);
        Ok(Self { index, term, begins_log, meta, chunks: chunks.collect() })
    }
}

/// A manifest that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedSnapshot {
    /// The manifest's file.
    pub path: String,
    /// What is wrong with it or with a chunk.
    pub reason: String,
}

/// Why a snapshot could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
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
    #[error("the snapshot store is closed after an earlier failure: {cause}")]
    Poisoned {
        /// The failure.
        cause: String,
    },
    /// The content offered is not what the name says.
    #[error("chunk {hash}: the content offered has hash {found}")]
    HashMismatch {
        /// The name.
        hash: String,
        /// The hash of the content.
        found: String,
    },
    /// The chunk on disk is not what its name says. Fetch it again.
    #[error("{path}: damaged, the content has hash {found}")]
    DamagedChunk {
        /// The chunk's file.
        path: String,
        /// The hash of the content.
        found: String,
    },
    /// The chunk is not there.
    #[error("{path}: the chunk is missing")]
    MissingChunk {
        /// The chunk's file.
        path: String,
    },
    /// The chunk is there with another length.
    #[error("{path}: {found} bytes instead of {expected}")]
    ChunkLength {
        /// The chunk's file.
        path: String,
        /// What the manifest says.
        expected: u64,
        /// What the file has.
        found: u64,
    },
    /// A chunk or manifest is larger than allowed.
    #[error("{path}: {bytes} bytes, more than {bytes_max}")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
        /// The largest.
        bytes_max: u64,
    },
    /// A manifest that was just written does not read back.
    #[error("{path}: does not read back as it was written: {reason}")]
    ReadBack {
        /// The manifest's file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

impl From<DiskError> for SnapshotError {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::NoSpace { path } => Self::NoSpace { path },
            other => Self::Disk(other),
        }
    }
}

/// Bugs on demand. Used only by the simulator, to prove that its checkers find a missing sync.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotFaults {
    /// Chunks and manifests are not synced.
    pub skip_data_sync: bool,
    /// No directory is ever synced.
    pub skip_dir_sync: bool,
}

/// The snapshots of one member.
#[derive(Debug, Default)]
pub struct SnapshotStore {
    /// Manifests that hold, oldest first.
    manifests: BTreeMap<(u64, u64), Manifest>,
    /// Chunks on disk and their lengths.
    chunks: BTreeMap<[u8; 32], u64>,
    /// Chunks a snapshot in the making counts on: not garbage, though no manifest says so.
    pinned: BTreeSet<[u8; 32]>,
    damaged: Vec<DamagedSnapshot>,
    faults: SnapshotFaults,
    poisoned: Option<String>,
}

impl SnapshotStore {
    /// Opens the store, making its directories if need be. Returns the snapshots that can be
    /// used, newest first: their manifests hold and all their chunks are there in full length.
    /// A chunk's content is checked when it is read.
    pub fn open<D: Disk>(disk: &mut D) -> Result<(Self, Vec<Manifest>), SnapshotError> {
        Self::open_with(disk, SnapshotFaults::default())
    }

    /// As [`SnapshotStore::open`], with seeded bugs.
    pub fn open_with<D: Disk>(
        disk: &mut D,
        faults: SnapshotFaults,
    ) -> Result<(Self, Vec<Manifest>), SnapshotError> {
        let mut store = Self { faults, ..Self::default() };
        for (dir, parent) in [("member", ""), (SNAPSHOT_DIR, "member"), (CHUNK_DIR, SNAPSHOT_DIR)] {
            ensure_dir(disk, dir)?;
            // Also for the manifests that are there: a name that is visible after a process died
            // need not be durable, and log is dropped because of it. The names of their chunks
            // were made durable before theirs.
            store.sync_dir(disk, parent)?;
        }
        store.read_chunk_names(disk)?;
        store.read_manifests(disk)?;
        let manifests = store.manifests.values().rev().cloned().collect();
        Ok((store, manifests))
    }

    fn read_chunk_names<D: Disk>(&mut self, disk: &mut D) -> Result<(), SnapshotError> {
        for name in disk.list(CHUNK_DIR)? {
            let path = format!("{CHUNK_DIR}/{name}");
            if name.ends_with(TEMP_SUFFIX) {
                ensure_gone(disk, &path)?;
            } else if let Ok(hash) = blake3::Hash::from_hex(&name) {
                let file = disk.open(&path)?;
                self.chunks.insert(*hash.as_bytes(), disk.len(&file)?);
            }
        }
        Ok(())
    }

    fn read_manifests<D: Disk>(&mut self, disk: &mut D) -> Result<(), SnapshotError> {
        for name in disk.list(SNAPSHOT_DIR)? {
            let path = format!("{SNAPSHOT_DIR}/{name}");
            if name.ends_with(TEMP_SUFFIX) {
                ensure_gone(disk, &path)?;
            } else if name.ends_with(MANIFEST_SUFFIX) {
                let file = disk.open(&path)?;
                disk.drop_cache(&file)?;
                let len = disk.len(&file)?.min(MANIFEST_BYTES_MAX);
                let bytes = read_range(disk, &file, 0, len)?;
                match self.check_manifest(&path, &bytes) {
                    Ok(manifest) => {
                        self.manifests.insert((manifest.index, manifest.term), manifest);
                    }
                    Err(reason) => self.damaged.push(DamagedSnapshot { path, reason }),
                }
            }
        }
        Ok(())
    }

    fn check_manifest(&self, path: &str, bytes: &[u8]) -> Result<Manifest, String> {
        let manifest = Manifest::decode(bytes)?;
        if manifest.path() != path {
            return Err("the content does not match the file's name".to_owned());
        }
        self.check_chunks(&manifest).map_err(|error| error.to_string())?;
        Ok(manifest)
    }

    fn check_chunks(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        for chunk in &manifest.chunks {
            let path = chunk_path(&chunk.hash);
            match self.chunks.get(&chunk.hash) {
                None => return Err(SnapshotError::MissingChunk { path }),
                Some(&found) if found != chunk.bytes => {
                    return Err(SnapshotError::ChunkLength { path, expected: chunk.bytes, found });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The manifests found at open that cannot be used. They stay where they are until
    /// [`SnapshotStore::remove_older`] passes them.
    pub fn damaged(&self) -> &[DamagedSnapshot] {
        &self.damaged
    }

    /// The snapshots that can be used, newest first.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests.values().rev()
    }

    /// Removes received snapshots at which the log never came to begin: those beyond the index it
    /// reaches. Only while none is being received.
    pub fn remove_unbegun<D: Disk>(
        &mut self,
        disk: &mut D,
        reached_index: u64,
    ) -> Result<usize, SnapshotError> {
        self.check_poison()?;
        let unbegun =
            |held: &(&(u64, u64), &Manifest)| held.1.begins_log && held.1.index > reached_index;
        let ids: Vec<(u64, u64)> =
            self.manifests.iter().filter(unbegun).map(|(id, _)| *id).collect();
        for id in &ids {
            let removed = disk.unlink(&self.manifests[id].path());
            self.guard(removed)?;
            self.manifests.remove(id);
        }
        if !ids.is_empty() {
            let synced = self.sync_dir(disk, SNAPSHOT_DIR);
            self.guard(synced)?;
        }
        Ok(ids.len())
    }

    /// True if the chunk is here and need not be written. Asking pins it: it stays until the
    /// snapshot in the making is committed or [`SnapshotStore::abandon`]ed.
    pub fn has_chunk(&mut self, hash: &[u8; 32]) -> bool {
        let here = self.chunks.contains_key(hash);
        if here {
            self.pinned.insert(*hash);
        }
        here
    }

    /// Writes and syncs a chunk under the name of its hash, unless it is here already. Its name
    /// is durable after the commit of a snapshot that contains it.
    pub fn write_chunk<D: Disk>(
        &mut self,
        disk: &mut D,
        hash: [u8; 32],
        bytes: &[u8],
    ) -> Result<(), SnapshotError> {
        self.check_poison()?;
        let path = chunk_path(&hash);
        if bytes.len() as u64 > CHUNK_BYTES_MAX {
            let (bytes, bytes_max) = (bytes.len() as u64, CHUNK_BYTES_MAX);
            return Err(SnapshotError::TooLarge { path, bytes, bytes_max });
        }
        let found = blake3::hash(bytes);
        if found.as_bytes() != &hash {
            return Err(SnapshotError::HashMismatch {
                hash: blake3::Hash::from_bytes(hash).to_string(),
                found: found.to_string(),
            });
        }
        if self.chunks.get(&hash) == Some(&(bytes.len() as u64)) {
            self.pinned.insert(hash);
            return Ok(());
        }
        let written = self.write_file(disk, &path, bytes);
        self.guard(written)?;
        self.chunks.insert(hash, bytes.len() as u64);
        self.pinned.insert(hash);
        Ok(())
    }

    /// Makes the snapshot exist: when this returns, chunks and manifest are durable under their
    /// names, and the log up to its index may go. All chunks must have been written before.
    pub fn commit<D: Disk>(
        &mut self,
        disk: &mut D,
        manifest: Manifest,
    ) -> Result<(), SnapshotError> {
        self.check_poison()?;
        self.check_chunks(&manifest)?;
        let path = manifest.path();
        let bytes = manifest.encode();
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            let (bytes, bytes_max) = (bytes.len() as u64, MANIFEST_BYTES_MAX);
            return Err(SnapshotError::TooLarge { path, bytes, bytes_max });
        }
        // The chunks' names first: a manifest must never be there without its chunks.
        let committed = self
            .sync_dir(disk, CHUNK_DIR)
            .and_then(|()| self.write_file(disk, &path, &bytes))
            .and_then(|()| self.sync_dir(disk, SNAPSHOT_DIR));
        self.guard(committed)?;
        let read_back = read_whole(disk, &path, MANIFEST_BYTES_MAX);
        let read_back = self.guard(read_back)?;
        if read_back != bytes {
            let reason = Manifest::decode(&read_back).err();
            let reason = reason.unwrap_or_else(|| "another manifest is in its place".to_owned());
            self.poisoned = Some(format!("{path}: {reason}"));
            return Err(SnapshotError::ReadBack { path, reason });
        }
        for chunk in &manifest.chunks {
            self.pinned.remove(&chunk.hash);
        }
        self.damaged.retain(|damaged| damaged.path != path);
        self.manifests.insert((manifest.index, manifest.term), manifest);
        Ok(())
    }

    /// Forgets the snapshot in the making: its chunks are garbage unless a manifest has them.
    pub fn abandon(&mut self) {
        self.pinned.clear();
    }

    /// Reads a chunk and checks it against its name. A damaged chunk no longer counts as here, so
    /// the next [`SnapshotStore::write_chunk`] replaces it.
    pub fn read_chunk<D: Disk>(
        &mut self,
        disk: &mut D,
        hash: &[u8; 32],
    ) -> Result<Bytes, SnapshotError> {
        let path = chunk_path(hash);
        let bytes = match read_whole(disk, &path, CHUNK_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(DiskError::NotFound { .. }) => {
                self.chunks.remove(hash);
                return Err(SnapshotError::MissingChunk { path });
            }
            Err(error) => return Err(error.into()),
        };
        let found = blake3::hash(&bytes);
        if found.as_bytes() != hash {
            self.chunks.remove(hash);
            return Err(SnapshotError::DamagedChunk { path, found: found.to_string() });
        }
        Ok(Bytes::from(bytes))
    }

    /// Reads every chunk of a snapshot; the first that does not hold is the error.
    pub fn verify<D: Disk>(
        &mut self,
        disk: &mut D,
        manifest: &Manifest,
    ) -> Result<(), SnapshotError> {
        self.check_chunks(manifest)?;
        manifest.chunks.iter().try_for_each(|chunk| self.read_chunk(disk, &chunk.hash).map(drop))
    }

    /// Keeps the newest `keep` usable snapshots (two at least) of those up to an index which the log
    /// is known to reach, removes what is older, and then the chunks nobody refers to. What lies
    /// beyond that index was received, and the log may never have come to begin at it: it does not
    /// count. Returns how many manifests and chunks went.
    pub fn remove_older<D: Disk>(
        &mut self,
        disk: &mut D,
        keep: usize,
        reached_index: u64,
    ) -> Result<(usize, usize), SnapshotError> {
        self.check_poison()?;
        let keep = keep.max(KEEP_MIN);
        let removed = self.remove_manifests(disk, keep, reached_index);
        let manifests_removed = self.guard(removed)?;
        let kept = self.manifests.values().flat_map(|manifest| &manifest.chunks);
        let mut needed: BTreeSet<[u8; 32]> = kept.map(|chunk| chunk.hash).collect();
        needed.extend(&self.pinned);
        let garbage: Vec<_> =
            self.chunks.keys().filter(|hash| !needed.contains(*hash)).copied().collect();
        let removed = self.remove_chunks(disk, &garbage);
        self.guard(removed)?;
        Ok((manifests_removed, garbage.len()))
    }

    fn remove_manifests<D: Disk>(
        &mut self,
        disk: &mut D,
        keep: usize,
        reached_index: u64,
    ) -> Result<usize, DiskError> {
        let reached = |held: &(&(u64, u64), &Manifest)| held.1.index <= reached_index;
        let Some((&oldest_kept, _)) = self.manifests.iter().rev().filter(reached).nth(keep - 1)
        else {
            return Ok(0);
        };
        let mut removed = 0;
        while let Some((&id, manifest)) = self.manifests.first_key_value()
            && id < oldest_kept
        {
            disk.unlink(&manifest.path())?;
            self.manifests.remove(&id);
            removed += 1;
        }
        let oldest_path = self.manifests[&oldest_kept].path();
        let (older, newer) = std::mem::take(&mut self.damaged)
            .into_iter()
            .partition(|damaged| damaged.path < oldest_path);
        self.damaged = newer;
        let older: Vec<DamagedSnapshot> = older;
        for damaged in older {
            ensure_gone(disk, &damaged.path)?;
            removed += 1;
        }
        // Before any chunk goes: a manifest must never be there without its chunks.
        if removed > 0 {
            self.sync_dir(disk, SNAPSHOT_DIR)?;
        }
        Ok(removed)
    }

    fn remove_chunks<D: Disk>(
        &mut self,
        disk: &mut D,
        garbage: &[[u8; 32]],
    ) -> Result<(), DiskError> {
        for hash in garbage {
            ensure_gone(disk, &chunk_path(hash))?;
            self.chunks.remove(hash);
        }
        if garbage.is_empty() { Ok(()) } else { self.sync_dir(disk, CHUNK_DIR) }
    }

    /// Why the store refuses to go on, if it does.
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    fn check_poison(&self) -> Result<(), SnapshotError> {
        match &self.poisoned {
            Some(cause) => Err(SnapshotError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Passes a result on. An error closes the store for good, unless the disk was just full:
    /// that is known to have written nothing that counts.
    fn guard<T>(&mut self, result: Result<T, DiskError>) -> Result<T, SnapshotError> {
        result.map_err(|error| {
            if !matches!(error, DiskError::NoSpace { .. }) {
                self.poisoned = Some(error.to_string());
            }
            error.into()
        })
    }

    fn sync_dir<D: Disk>(&self, disk: &mut D, dir: &str) -> Result<(), DiskError> {
        if self.faults.skip_dir_sync { Ok(()) } else { disk.sync_dir(dir) }
    }

    /// Content first, durably, then the name.
    fn write_file<D: Disk>(&self, disk: &mut D, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let temp = format!("{path}{TEMP_SUFFIX}");
        ensure_gone(disk, &temp)?;
        let file = disk.create(&temp)?;
        let written = disk.write_at(&file, 0, &[bytes]);
        if let Err(error) = written {
            // Room for others; if even that fails, the next open sweeps it.
            drop(ensure_gone(disk, &temp));
            return Err(error);
        }
        if !self.faults.skip_data_sync {
            disk.sync_data(&file)?;
        }
        disk.rename(&temp, path)
    }
}

/// Where the chunk is, below the data directory.
fn chunk_path(hash: &[u8; 32]) -> String {
    format!("{CHUNK_DIR}/{}", blake3::Hash::from_bytes(*hash).to_hex())
}

/// The content of a file, past any cache, up to `bytes_max`.
fn read_whole<D: Disk>(disk: &mut D, path: &str, bytes_max: u64) -> Result<Vec<u8>, DiskError> {
    let file = disk.open(path)?;
    disk.drop_cache(&file)?;
    let len = disk.len(&file)?.min(bytes_max);
    read_range(disk, &file, 0, len)
}
