//! Bytes between members made fewer, where the link is dearer than the processor.
//!
//! What a frame holds is compressed as a whole when it is large enough for that to pay
//! ([`PACK_BYTES_MIN`]) and was seen to: a frame that shrinks by less than an eighth is sent plain, and
//! after it a growing number of frames is not even tried, so that values which do not compress cost
//! next to nothing. All of it happens where frames are encoded, on the thread that owns the
//! connection, never on the raft thread.
//!
//! Only who said so in answer to the greeting is sent packed frames ([`Reads`]), so members of
//! different versions and settings live side by side. A receiver believes nothing: the length a frame
//! says it unfolds to is held against the limit of plain frames before room is made, and must be what
//! comes out. Anything else ends the stream with one line; raft sends again what the stream lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use autotune::compression::RoadCount;
use bytes::Bytes;
use proto::peer::{Compression, Packed};
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::config::PeerCompression;

/// Where the answer to a greeting names what may come packed.
const READS_HEADER: &str = "metastore-reads";
/// All this version reads.
const READS: &str = "lz4,zstd";
/// Smaller frames are not worth the trying: half of one is its tags and numbers.
const PACK_BYTES_MIN: usize = 1 << 10;
/// Packed, a frame must be at most seven eighths of its length, or it is sent plain.
const GAIN_EIGHTHS_MAX: usize = 7;
/// After this many frames in a row that did not shrink, the most are left untried: 2 to the power of it.
const MISSES_MAX: u32 = 6;
/// Of zstd's levels. Measured on frames of 16 KiB to 1 MiB, level 1 makes the least bytes of all up to 3,
/// in the least time; the negative ones save a quarter of the time for a third more bytes.
const ZSTD_LEVEL: i32 = 1;
/// Room kept from one frame to the next; the rare larger one gives its back.
const SCRATCH_BYTES_MAX: usize = 2 << 20;

/// What a peer can read, as far as this member has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    lz4: bool,
    zstd: bool,
}

impl Reads {
    /// What the answer to a greeting says. Words of later versions mean nothing here.
    pub(super) fn of(metadata: &MetadataMap) -> Reads {
        let mut reads = Reads::default();
        let words = metadata.get(READS_HEADER).and_then(|words| words.to_str().ok());
        for word in words.unwrap_or_default().split(',') {
            reads.lz4 |= word == "lz4";
            reads.zstd |= word == "zstd";
        }
        reads
    }

    /// Says what this member reads, in the answer to a greeting.
    pub(super) fn announce(metadata: &mut MetadataMap) {
        metadata.insert(READS_HEADER, MetadataValue::from_static(READS));
    }

    /// What is sent to such a peer when this is asked for.
    pub(super) fn agree(self, asked: PeerCompression) -> PeerCompression {
        match asked {
            PeerCompression::Lz4 if self.lz4 => asked,
            PeerCompression::Zstd if self.zstd => asked,
            _ => PeerCompression::None,
        }
    }

    /// The one of those that makes the fewest bytes.
    pub(super) fn best(self) -> PeerCompression {
        match self {
            Reads { zstd: true, .. } => PeerCompression::Zstd,
            Reads { lz4: true, .. } => PeerCompression::Lz4,
            _ => PeerCompression::None,
        }
    }

    /// Whether a chunk may go as it is. The first versions take every chunk for LZ4.
    pub(super) fn any(self) -> bool {
        self.lz4 || self.zstd
    }
}

/// What was agreed on for one stream: told after its codec was made, before anything large leaves. And
/// what was counted on it meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Agreed(Arc<Stream>);

#[derive(Debug, Default)]
struct Stream {
    compression: AtomicU8,
    sent_bytes: AtomicU64,
    tried_bytes: AtomicU64,
    packed_bytes: AtomicU64,
    packing_ns: AtomicU64,
}

impl Agreed {
    pub(super) fn set(&self, compression: PeerCompression) {
        self.0.compression.store(compression as u8, Ordering::Relaxed);
    }

    /// What has left on the stream, without its greeting; what was compressed of it, or tried to be,
    /// what was sent of that, and how long it took.
    pub(super) fn count(&self) -> RoadCount {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RoadCount {
            sent_bytes: read(&self.0.sent_bytes),
            tried_bytes: read(&self.0.tried_bytes),
            packed_bytes: read(&self.0.packed_bytes),
            packing_ns: read(&self.0.packing_ns),
            ..RoadCount::default()
        }
    }

    fn get(&self) -> Option<Compression> {
        let agreed = self.0.compression.load(Ordering::Relaxed);
        [(PeerCompression::Lz4, Compression::Lz4), (PeerCompression::Zstd, Compression::Zstd)]
            .into_iter()
            .find_map(|(it, compression)| (it as u8 == agreed).then_some(compression))
    }
}

/// Packs the frames of one stream.
#[derive(Default)]
pub(super) struct Packer {
    agreed: Agreed,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// The frame as it is, kept from one to the next.
    pub(super) plain: Vec<u8>,
    has_greeted: bool,
    misses: u32,
    untried: u32,
}

impl Packer {
    pub(super) fn new(agreed: Agreed) -> Self {
        Packer { agreed, ..Packer::default() }
    }

    /// A frame of this length leaves.
    pub(super) fn sends(&mut self, bytes: usize) {
        if std::mem::replace(&mut self.has_greeted, true) {
            self.agreed.0.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// How a frame of this length should be packed; `None`: sent as it is.
    pub(super) fn wants(&mut self, bytes: usize) -> Option<Compression> {
        let agreed = self.agreed.get().filter(|_| bytes >= PACK_BYTES_MIN)?;
        if self.untried > 0 {
            self.untried -= 1;
            return None;
        }
        Some(agreed)
    }

    /// Packs what is in `plain`. `None`: it does not shrink enough.
    pub(super) fn pack(&mut self, compression: Compression) -> Option<Packed> {
        let began = Instant::now();
        let data = compress(compression, &self.plain, &mut self.zstd);
        let took_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let worth = data.filter(|data| data.len() <= self.plain.len() / 8 * GAIN_EIGHTHS_MAX);
        let left = worth.as_ref().map_or(self.plain.len(), Vec::len);
        for (count, more) in [
            (&self.agreed.0.tried_bytes, self.plain.len() as u64),
            (&self.agreed.0.packed_bytes, left as u64),
            (&self.agreed.0.packing_ns, took_ns),
        ] {
            count.fetch_add(more, Ordering::Relaxed);
        }
        match &worth {
            Some(_) => self.misses = 0,
            None => {
                self.misses = (self.misses + 1).min(MISSES_MAX);
                self.untried = (1 << self.misses) - 1;
            }
        }
        worth.map(|data| Packed {
            compression: compression as i32,
            bytes: self.plain.len() as u64,
            data: data.into(),
        })
    }

    /// Ends with a frame.
    pub(super) fn clear(&mut self) {
        self.plain.clear();
        self.plain.shrink_to(SCRATCH_BYTES_MAX);
    }
}

/// `None`: zstd finds no memory. Then the frame is sent as it is.
fn compress(
    compression: Compression,
    plain: &[u8],
    zstd: &mut Option<zstd::bulk::Compressor<'static>>,
) -> Option<Vec<u8>> {
    match compression {
        Compression::Lz4 => Some(lz4_flex::block::compress(plain)),
        Compression::Zstd => {
            let zstd = match zstd {
                Some(zstd) => zstd,
                None => zstd.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?),
            };
            zstd.compress(plain).ok()
        }
        Compression::None => None,
    }
}

/// A chunk on its way, in the form its receiver reads.
pub(super) fn pack_chunk(
    chunk: Bytes,
    reads: Reads,
    asked: PeerCompression,
) -> (Compression, Bytes) {
    let compression = match reads.agree(asked) {
        PeerCompression::Zstd => Compression::Zstd,
        // Snapshots were never sent as they are, and those of an old version must not be.
        _ => Compression::Lz4,
    };
    match compress(compression, &chunk, &mut None) {
        Some(data) if data.len() < chunk.len() || !reads.any() => (compression, data.into()),
        _ => (Compression::None, chunk),
    }
}

/// Why packed bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unpackable {
    #[error("a compressed frame that says it unfolds to {says} bytes; the limit is {limit}")]
    TooLarge { says: u64, limit: usize },
    #[error("a compressed frame that does not unfold to the {says} bytes it says")]
    Damaged { says: u64 },
    #[error("a frame compressed in an unknown way ({0})")]
    Unknown(i32),
    #[error("a greeting must not be compressed")]
    Greeting,
    #[error("a compressed frame within a compressed one")]
    Nested,
}

/// Unpacks the frames of one stream.
#[derive(Default)]
pub(super) struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Unpacker {
    /// What was packed, if it unfolds to what it says, within the limit.
    pub(super) fn unpack(&mut self, packed: &Packed, limit: usize) -> Result<Bytes, Unpackable> {
        let says = packed.bytes;
        let bytes = usize::try_from(says).ok().filter(|bytes| *bytes <= limit);
        let bytes = bytes.ok_or(Unpackable::TooLarge { says, limit })?;
        let compression = Compression::try_from(packed.compression)
            .map_err(|_| Unpackable::Unknown(packed.compression))?;
        decompress(compression, &packed.data, bytes, &mut self.zstd)
            .ok_or(Unpackable::Damaged { says })
    }
}

/// Unpacks one chunk. The caller has checked how long it may be.
pub(super) fn unpack_chunk(compression: i32, data: Bytes, bytes: usize) -> Option<Bytes> {
    match Compression::try_from(compression).ok()? {
        Compression::None => (data.len() == bytes).then_some(data),
        compression => decompress(compression, &data, bytes, &mut None),
    }
}

/// Exactly so many bytes, or nothing.
fn decompress(
    compression: Compression,
    data: &[u8],
    bytes: usize,
    zstd: &mut Option<zstd::bulk::Decompressor<'static>>,
) -> Option<Bytes> {
    let mut plain = vec![0; bytes];
    let length = match compression {
        Compression::Lz4 => lz4_flex::block::decompress_into(data, &mut plain).ok()?,
        Compression::Zstd => {
            let zstd = match zstd {
                Some(zstd) => zstd,
                None => zstd.insert(zstd::bulk::Decompressor::new().ok()?),
            };
            zstd.decompress_to_buffer(data, &mut plain[..]).ok()?
        }
        Compression::None => return None,
    };
    (length == bytes).then(|| plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [(PeerCompression, Compression); 2] =
        [(PeerCompression::Lz4, Compression::Lz4), (PeerCompression::Zstd, Compression::Zstd)];
    const LIMIT: usize = 1 << 20;

    fn packer(agreed: PeerCompression) -> Packer {
        let told = Agreed::default();
        let packer = Packer::new(told.clone());
        told.set(agreed);
        packer
    }

    /// Bytes in which nothing repeats.
    fn noise(bytes: usize) -> Vec<u8> {
        let mut hash = blake3::Hasher::new().finalize_xof();
        let mut noise = vec![0; bytes];
        hash.fill(&mut noise);
        noise
    }

    fn packed(agreed: PeerCompression, plain: &[u8]) -> Option<Packed> {
        let mut packer = packer(agreed);
        let compression = packer.wants(plain.len())?;
        packer.plain.extend_from_slice(plain);
        packer.pack(compression)
    }

    #[test]
    fn what_was_packed_comes_out_as_it_was() {
        let plain = b"name: web, phase: Running; ".repeat(2_000);
        for (agreed, compression) in BOTH {
            let packed = packed(agreed, &plain).expect("it repeats itself");
            assert_eq!(packed.compression, compression as i32);
            assert!(packed.data.len() < plain.len() / 8, "{compression:?}");
            let mut unpacker = Unpacker::default();
            assert_eq!(unpacker.unpack(&packed, LIMIT).as_deref(), Ok(&plain[..]));
            assert_eq!(unpacker.unpack(&packed, LIMIT).as_deref(), Ok(&plain[..]), "once more");
        }
    }

    #[test]
    fn small_frames_and_those_that_nobody_agreed_on_stay_plain() {
        assert_eq!(packer(PeerCompression::Zstd).wants(PACK_BYTES_MIN - 1), None);
        assert!(packer(PeerCompression::Zstd).wants(PACK_BYTES_MIN).is_some());
        assert_eq!(packer(PeerCompression::None).wants(LIMIT), None);
    }

    #[test]
    fn noise_is_sent_plain_and_tried_ever_more_seldom() {
        let noise = noise(8 << 10);
        for (agreed, _) in BOTH {
            let mut packer = packer(agreed);
            let mut tried = 0;
            for _ in 0..1_000 {
                if let Some(compression) = packer.wants(noise.len()) {
                    tried += 1;
                    packer.plain.extend_from_slice(&noise);
                    assert_eq!(packer.pack(compression), None);
                    packer.clear();
                }
            }
            assert!((15..30).contains(&tried), "{tried}");
            // What compresses is found again, and from then on every frame is tried.
            let mut packs = 0;
            for _ in 0..1 << MISSES_MAX {
                if let Some(compression) = packer.wants(noise.len()) {
                    packer.plain.resize(noise.len(), 7);
                    packs += usize::from(packer.pack(compression).is_some());
                    packer.clear();
                }
            }
            assert!(packs > 0 && packer.wants(noise.len()).is_some());
        }
    }

    #[test]
    fn a_bomb_is_refused_before_room_is_made_for_it() {
        for (agreed, _) in BOTH {
            let bomb = packed(agreed, &vec![0; LIMIT + 1]).expect("zeros");
            assert!(bomb.data.len() < LIMIT / 100);
            let mut unpacker = Unpacker::default();
            assert_eq!(
                unpacker.unpack(&bomb, LIMIT),
                Err(Unpackable::TooLarge { says: LIMIT as u64 + 1, limit: LIMIT })
            );
            // One that lies about itself fills no more than it said.
            for says in [0, 10, LIMIT as u64, u64::MAX] {
                let lie = Packed { bytes: says, ..bomb.clone() };
                assert!(unpacker.unpack(&lie, LIMIT).is_err(), "{says}");
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        let mut unpacker = Unpacker::default();
        for (agreed, compression) in BOTH {
            let says = 4_096;
            let garbage = Packed {
                compression: compression as i32,
                bytes: says,
                data: noise(1 << 10).into(),
            };
            assert_eq!(unpacker.unpack(&garbage, LIMIT), Err(Unpackable::Damaged { says }));
            let empty = Packed { data: Bytes::new(), ..garbage };
            assert_eq!(unpacker.unpack(&empty, LIMIT), Err(Unpackable::Damaged { says }));
            // Cut anywhere, it is damaged, and a whole one passes after it.
            let whole = packed(agreed, &b"abcd".repeat(1_000)).expect("it repeats itself");
            for end in 0..whole.data.len() {
                let cut = Packed { data: whole.data.slice(..end), ..whole.clone() };
                assert!(unpacker.unpack(&cut, LIMIT).is_err(), "{compression:?} {end}");
            }
            assert!(unpacker.unpack(&whole, LIMIT).is_ok());
        }
        let unknown = Packed { compression: 9, ..Packed::default() };
        assert_eq!(unpacker.unpack(&unknown, LIMIT), Err(Unpackable::Unknown(9)));
    }

    #[test]
    fn a_peer_is_sent_what_it_said_it_reads() {
        let mut metadata = MetadataMap::new();
        let none = Reads::of(&metadata);
        assert_eq!(none.agree(PeerCompression::Zstd), PeerCompression::None);
        assert!(!none.any());
        metadata.insert(READS_HEADER, MetadataValue::from_static("brotli,lz4"));
        let some = Reads::of(&metadata);
        assert_eq!(some.agree(PeerCompression::Lz4), PeerCompression::Lz4);
        assert_eq!(some.agree(PeerCompression::Zstd), PeerCompression::None);
        Reads::announce(&mut metadata);
        let all = Reads::of(&metadata);
        assert_eq!(all.agree(PeerCompression::Zstd), PeerCompression::Zstd);
        assert_eq!(all.agree(PeerCompression::None), PeerCompression::None);
    }

    #[test]
    fn a_chunk_travels_in_the_form_its_receiver_reads() {
        let text = Bytes::from(b"abcabcabc".repeat(500));
        let noise = Bytes::from(noise(4_096));
        let old = Reads::default();
        let new = Reads { lz4: true, zstd: true };
        let cases = [
            (&text, old, PeerCompression::Zstd, Compression::Lz4),
            (&noise, old, PeerCompression::Zstd, Compression::Lz4),
            (&text, new, PeerCompression::None, Compression::Lz4),
            (&text, new, PeerCompression::Lz4, Compression::Lz4),
            (&text, new, PeerCompression::Zstd, Compression::Zstd),
            (&noise, new, PeerCompression::Zstd, Compression::None),
            (&noise, new, PeerCompression::None, Compression::None),
        ];
        for (chunk, reads, asked, expected) in cases {
            let (compression, data) = pack_chunk(chunk.clone(), reads, asked);
            assert_eq!(compression, expected, "{asked:?} of {reads:?}");
            let unpacked = unpack_chunk(compression as i32, data.clone(), chunk.len());
            assert_eq!(unpacked.as_ref(), Some(chunk));
            assert_eq!(unpack_chunk(compression as i32, data, chunk.len() + 1), None);
        }
        assert_eq!(unpack_chunk(9, Bytes::new(), 0), None);
    }
}
