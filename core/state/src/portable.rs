//! The portable snapshot: one file that any later version can restore.
//!
//! This is what `etcdctl snapshot save` and `metactl snapshot` write: the [chunks](crate::snapshot) of
//! a state in one stream, with what a restore needs to know in front and a SHA-256 behind. The format
//! is stable from version 1 on: what was saved can always be restored, by a fixture in the tests.
//!
//! Layout, integers little endian:
//!
//! | size | field |
//! |---|---|
//! | 8 | magic `MSSNAP1\n` |
//! | 4 | `header_len` |
//! | `header_len` | header: format version u32, cluster id u64, revision i64, index u64, term u64, live keys u64, then the name of the program version that wrote it, UTF-8 |
//! | 4 | CRC32C of all before |
//! | … | frames: `raw_len` u32, `stored_len` u32, CRC32C of the stored bytes u32, stored bytes: one chunk, as an lz4 block, or plain if `stored_len` = `raw_len` |
//! | 12 | an empty frame: twelve zero bytes |
//! | 0–511 | zeros, up to a multiple of 512 |
//! | 32 | SHA-256 of all before |
//!
//! The length is therefore 32 more than a multiple of 512, which is how etcdctl tells that a saved
//! snapshot came with its checksum.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::block::unpack;
use crate::snapshot::{self, SnapshotError};
use crate::view::View;

/// First bytes of the file. The digit is the generation of the container, not the format version.
pub const MAGIC: &[u8; 8] = b"MSSNAP1\n";

/// Format version written. Older ones can always be read; newer ones are refused.
pub const PORTABLE_VERSION: u32 = 1;

/// The file is padded to a multiple of this before its sum.
pub const ALIGN_BYTES: u64 = 512;

/// Bytes of the SHA-256 at the end.
pub const SUM_BYTES: usize = 32;

/// Longest name of a program version.
pub const CREATED_BY_BYTES_MAX: usize = 64;

const HEADER_FIXED_BYTES: usize = 44;
/// Longer than any version's header will be, so that a newer version is told from damage.
const HEADER_BYTES_MAX: usize = 4096;
const FRAME_HEADER_BYTES: usize = 12;
const CRC_BYTES: usize = 4;

/// Where a bbolt file, which is what etcd itself saves, has its magic.
const BBOLT_MAGIC_AT: usize = 16;
const BBOLT_MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();

/// What the file says of itself, up front.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortableHeader {
    /// The cluster it was taken from.
    pub cluster_id: u64,
    /// The store's revision.
    pub revision: i64,
    /// Index of the last log entry contained.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Live keys.
    pub keys: u64,
    /// Version of the program that wrote it, at most [`CREATED_BY_BYTES_MAX`] bytes.
    pub created_by: String,
}

/// What a whole, verified file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortableStatus {
    /// What it says up front.
    pub header: PortableHeader,
    /// [`snapshot::chain`] of all chunks: equal for equal states, whatever compressed them.
    pub hash: u32,
    /// Length of the file.
    pub total_bytes: u64,
}

/// Why a file is not a portable snapshot.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PortableError {
    /// It begins otherwise.
    #[error("not a MetaStore snapshot: it does not begin with MSSNAP1")]
    Magic,
    /// It was saved from etcd.
    #[error("not a MetaStore snapshot but an etcd database file, which cannot be restored here")]
    EtcdDatabase,
    /// A newer program wrote it.
    #[error("snapshot has format version {0}, this program reads up to {PORTABLE_VERSION}")]
    Version(u32),
    /// Header or frame does not match its checksum.
    #[error("snapshot is damaged at byte {0}")]
    Damaged(u64),
    /// It ends too early.
    #[error("snapshot is cut short after {0} bytes")]
    Short(u64),
    /// Something follows the sum.
    #[error("snapshot has data after its end at byte {0}")]
    Trailing(u64),
    /// The SHA-256 does not match.
    #[error("snapshot does not match its SHA-256")]
    Sum,
    /// Its chunks do not make a state.
    #[error(transparent)]
    Chunks(#[from] SnapshotError),
    /// The state inside is not the one the header names.
    #[error("snapshot holds revision {found}, its header says {named}")]
    Mismatch {
        /// By the header.
        named: i64,
        /// In the chunks.
        found: i64,
    },
}

/// The file of a state, piece by piece: about a MiB each, made as they are asked for. The plan of
/// timing is left out: it was made for these members.
pub fn write(view: &View, cluster_id: u64, created_by: &str) -> impl Iterator<Item = Bytes> {
    let applied = view.applied();
    let header = PortableHeader {
        cluster_id,
        revision: applied.revision,
        index: applied.index,
        term: applied.term,
        keys: view.keys_total() as u64,
        created_by: created_by.to_owned(),
    };
    write_chunks(&header, snapshot::chunks_for_others(view))
}

/// The file of a snapshot whose chunks are already there.
///
/// # Panics
/// If `created_by` is longer than [`CREATED_BY_BYTES_MAX`].
pub fn write_chunks<C: AsRef<[u8]>, I: Iterator<Item = C>>(
    header: &PortableHeader,
    chunks: I,
) -> impl Iterator<Item = Bytes> + use<C, I> {
    let mut sum = Summing::default();
    let head = sum.add(encode_header(header));
    let mut chunks = chunks.fuse();
    let mut ended = false;
    let frames = std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let Some(chunk) = chunks.next() else {
            ended = true;
            return Some(sum.end());
        };
        Some(sum.add(frame(chunk.as_ref())))
    });
    std::iter::once(head).chain(frames)
}

/// The running SHA-256 of what was written.
#[derive(Default)]
struct Summing {
    sha: Sha256,
    bytes: u64,
}

impl Summing {
    fn add(&mut self, piece: Vec<u8>) -> Bytes {
        self.sha.update(&piece);
        self.bytes += piece.len() as u64;
        Bytes::from(piece)
    }

    /// Empty frame, padding and sum.
    fn end(&mut self) -> Bytes {
        let padding = padding_after(self.bytes + FRAME_HEADER_BYTES as u64);
        let mut piece = vec![0; FRAME_HEADER_BYTES + padding];
        self.sha.update(&piece);
        piece.extend_from_slice(&self.sha.finalize_reset());
        Bytes::from(piece)
    }
}

/// Zeros that bring `bytes` to a multiple of [`ALIGN_BYTES`].
fn padding_after(bytes: u64) -> usize {
    usize::try_from(bytes.next_multiple_of(ALIGN_BYTES) - bytes).expect("less than the alignment")
}

fn encode_header(header: &PortableHeader) -> Vec<u8> {
    let name = header.created_by.as_bytes();
    assert!(name.len() <= CREATED_BY_BYTES_MAX, "version name of {} bytes", name.len());
    let header_len = u32::try_from(HEADER_FIXED_BYTES + name.len()).expect("bounded just above");
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&header_len.to_le_bytes());
    bytes.extend_from_slice(&PORTABLE_VERSION.to_le_bytes());
    bytes.extend_from_slice(&header.cluster_id.to_le_bytes());
    bytes.extend_from_slice(&header.revision.to_le_bytes());
    bytes.extend_from_slice(&header.index.to_le_bytes());
    bytes.extend_from_slice(&header.term.to_le_bytes());
    bytes.extend_from_slice(&header.keys.to_le_bytes());
    bytes.extend_from_slice(name);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn frame(chunk: &[u8]) -> Vec<u8> {
    let packed = lz4_flex::block::compress(chunk);
    let stored = if packed.len() < chunk.len() { &packed } else { chunk };
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a chunk is below 4 GiB");
    let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + stored.len());
    bytes.extend_from_slice(&length(chunk).to_le_bytes());
    bytes.extend_from_slice(&length(stored).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(stored).to_le_bytes());
    bytes.extend_from_slice(stored);
    bytes
}

/// Where in the file the reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Frames,
    Padding(usize),
    Sum,
    Done,
}

/// Reads a file as it comes in, in pieces of any size.
///
/// Chunks are handed out before the sum at the end is known: nothing made of them may be used until
/// [`PortableReader::finish`] says that the file is whole.
pub struct PortableReader {
    stage: Stage,
    /// Read but not yet understood.
    buffer: Vec<u8>,
    /// Bytes understood, which is where `buffer` begins in the file.
    position: u64,
    sha: Sha256,
    header: Option<PortableHeader>,
    hash: u32,
}

impl Default for PortableReader {
    fn default() -> Self {
        Self::new()
    }
}

impl PortableReader {
    /// At the start of a file.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stage: Stage::Header,
            buffer: Vec::new(),
            position: 0,
            sha: Sha256::new(),
            header: None,
            hash: 0,
        }
    }

    /// What the file says of itself, once that has been read.
    #[must_use]
    pub fn header(&self) -> Option<&PortableHeader> {
        self.header.as_ref()
    }

    /// Takes the next bytes of the file; `chunk` gets every chunk that they complete.
    ///
    /// # Errors
    /// [`PortableError`], also from `chunk`; the reader is then of no further use.
    pub fn push(
        &mut self,
        bytes: &[u8],
        chunk: &mut dyn FnMut(&[u8]) -> Result<(), PortableError>,
    ) -> Result<(), PortableError> {
        self.buffer.extend_from_slice(bytes);
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut rest: &[u8] = &buffer;
        while let Some(used) = self.step(rest, chunk)? {
            if self.stage != Stage::Done {
                self.sha.update(&rest[..used]);
            }
            self.position += used as u64;
            rest = &rest[used..];
        }
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
        self.buffer = buffer;
        Ok(())
    }

    /// Whether the file was whole.
    ///
    /// # Errors
    /// [`PortableError::Short`] if it was not.
    pub fn finish(self) -> Result<PortableStatus, PortableError> {
        match (self.stage, self.header) {
            (Stage::Done, Some(header)) => {
                Ok(PortableStatus { header, hash: self.hash, total_bytes: self.position })
            }
            _ => Err(PortableError::Short(self.position + self.buffer.len() as u64)),
        }
    }

    /// Understands the next part, if it is there: how many bytes it took.
    fn step(
        &mut self,
        rest: &[u8],
        chunk: &mut dyn FnMut(&[u8]) -> Result<(), PortableError>,
    ) -> Result<Option<usize>, PortableError> {
        match self.stage {
            Stage::Header => self.read_header(rest),
            Stage::Frames => self.read_frame(rest, chunk),
            Stage::Padding(left) => {
                let here = &rest[..left.min(rest.len())];
                if let Some(at) = here.iter().position(|byte| *byte != 0) {
                    return Err(PortableError::Damaged(self.position + at as u64));
                }
                self.stage =
                    if left == here.len() { Stage::Sum } else { Stage::Padding(left - here.len()) };
                Ok((left == 0 || !here.is_empty()).then_some(here.len()))
            }
            Stage::Sum => {
                let Some(sum) = rest.get(..SUM_BYTES) else { return Ok(None) };
                if self.sha.finalize_reset()[..] != *sum {
                    return Err(PortableError::Sum);
                }
                self.stage = Stage::Done;
                Ok(Some(SUM_BYTES))
            }
            Stage::Done if rest.is_empty() => Ok(None),
            Stage::Done => Err(PortableError::Trailing(self.position)),
        }
    }

    fn read_header(&mut self, rest: &[u8]) -> Result<Option<usize>, PortableError> {
        let known = rest.len().min(MAGIC.len());
        if rest[..known] != MAGIC[..known] {
            let at_bbolt = rest.get(BBOLT_MAGIC_AT..BBOLT_MAGIC_AT + 4);
            return match at_bbolt {
                Some(magic) if magic == BBOLT_MAGIC => Err(PortableError::EtcdDatabase),
                // Enough may follow to tell a foreign file by its name.
                None if rest.first() == Some(&0) => Ok(None),
                _ => Err(PortableError::Magic),
            };
        }
        let Some((_, after)) = rest.split_at_checked(MAGIC.len()) else { return Ok(None) };
        let Some((header_len, after)) = after.split_at_checked(4) else { return Ok(None) };
        let header_len = u32::from_le_bytes(header_len.try_into().expect("four bytes")) as usize;
        if !(HEADER_FIXED_BYTES..=HEADER_BYTES_MAX).contains(&header_len) {
            return Err(PortableError::Damaged(MAGIC.len() as u64));
        }
        let Some((header, after)) = after.split_at_checked(header_len) else { return Ok(None) };
        let Some((crc, _)) = after.split_at_checked(CRC_BYTES) else { return Ok(None) };
        let used = MAGIC.len() + 4 + header_len;
        if crc32c::crc32c(&rest[..used]).to_le_bytes() != crc {
            return Err(PortableError::Damaged(0));
        }
        let version = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        if version != PORTABLE_VERSION {
            return Err(PortableError::Version(version));
        }
        if header_len > HEADER_FIXED_BYTES + CREATED_BY_BYTES_MAX {
            return Err(PortableError::Damaged(MAGIC.len() as u64));
        }
        let number = |index: usize| {
            let at = 4 + index * 8;
            u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"))
        };
        let created_by = std::str::from_utf8(&header[HEADER_FIXED_BYTES..])
            .map_err(|_| PortableError::Damaged(0))?;
        self.header = Some(PortableHeader {
            cluster_id: number(0),
            revision: number(1).cast_signed(),
            index: number(2),
            term: number(3),
            keys: number(4),
            created_by: created_by.to_owned(),
        });
        self.stage = Stage::Frames;
        Ok(Some(used + CRC_BYTES))
    }

    fn read_frame(
        &mut self,
        rest: &[u8],
        chunk: &mut dyn FnMut(&[u8]) -> Result<(), PortableError>,
    ) -> Result<Option<usize>, PortableError> {
        let Some((header, after)) = rest.split_at_checked(FRAME_HEADER_BYTES) else {
            return Ok(None);
        };
        let word = |index: usize| {
            u32::from_le_bytes(header[index * 4..index * 4 + 4].try_into().expect("four bytes"))
        };
        let (raw_len, stored_len, crc) = (word(0) as usize, word(1) as usize, word(2));
        let damaged = PortableError::Damaged(self.position);
        if raw_len == 0 && stored_len == 0 && crc == 0 {
            let end = self.position + FRAME_HEADER_BYTES as u64;
            self.stage = Stage::Padding(padding_after(end));
            return Ok(Some(FRAME_HEADER_BYTES));
        }
        if stored_len == 0 || stored_len > raw_len {
            return Err(damaged);
        }
        let Some((stored, _)) = after.split_at_checked(stored_len) else { return Ok(None) };
        if crc32c::crc32c(stored) != crc {
            return Err(damaged);
        }
        let unpacked;
        let raw: &[u8] = if stored_len == raw_len {
            stored
        } else {
            unpacked = unpack(stored, raw_len).ok_or(damaged)?;
            &unpacked
        };
        self.hash = snapshot::chain(self.hash, raw);
        chunk(raw)?;
        Ok(Some(FRAME_HEADER_BYTES + stored_len))
    }
}

/// Reads a whole file into the parts of a state.
///
/// # Errors
/// [`PortableError`] unless the file is whole and says the truth about itself.
pub fn read<B: AsRef<[u8]>>(
    pieces: impl IntoIterator<Item = B>,
) -> Result<(PortableStatus, crate::parts::StateParts), PortableError> {
    let mut reader = PortableReader::new();
    let mut restore = snapshot::Restore::new();
    for piece in pieces {
        reader.push(piece.as_ref(), &mut |chunk| Ok(restore.push(chunk)?))?;
    }
    let status = reader.finish()?;
    let parts = restore.finish()?;
    let (named, found) = (status.header.revision, parts.applied.revision);
    if named != found {
        return Err(PortableError::Mismatch { named, found });
    }
    Ok((status, parts))
}

/// Verifies a whole file without keeping what is in it.
///
/// # Errors
/// [`PortableError`] unless every checksum holds.
pub fn status<B: AsRef<[u8]>>(
    pieces: impl IntoIterator<Item = B>,
) -> Result<PortableStatus, PortableError> {
    let mut reader = PortableReader::new();
    for piece in pieces {
        reader.push(piece.as_ref(), &mut |_| Ok(()))?;
    }
    reader.finish()
}

#[cfg(test)]
mod tests;
