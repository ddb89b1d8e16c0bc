//! Frames on the wire, and how much a frame may unfold to.
//!
//! Three limits stand between a bad peer and this member's memory. gRPC's length prefix is held
//! against a limit per method before a buffer is made. Then, before anything is decoded, the
//! repeated fields are counted on the raw bytes: an empty entry is two bytes on the wire and ninety
//! in memory, so a frame of legal size could still unfold to a gigabyte. What is inside an entry
//! stays a slice of the frame and costs nothing more. A compressed frame passes the same checks
//! twice: its length before room is made to unfold it, and then what came out of it.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, Bytes};
use prost::Message;
use proto::peer::{
    AppendAck, AppendFrame, ControlFrame, LeaderReply, LeaderRequest, Packed, SnapshotFrame,
    SnapshotReply, append_frame, snapshot_frame,
};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::compress::{Agreed, Packer, Unpackable, Unpacker};

/// Entries in one append. An append of the largest size holds this many if they average 64 bytes.
const ENTRIES_PER_FRAME_MAX: usize = 262_144;
/// Commands in one forward.
const COMMANDS_PER_FRAME_MAX: usize = 262_144;
/// Commands that are traced in what follows one frame.
pub(super) const TRACES_PER_FRAME_MAX: usize = 1_024;
/// Chunks in one snapshot: with chunks of 1 MiB, 256 GiB of state.
pub(super) const CHUNKS_PER_SNAPSHOT_MAX: usize = 262_144;
/// Encoded, the voters and learners of a cluster.
const CONF_STATE_BYTES_MAX: usize = 16 << 10;

/// Messages and bytes, one way.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) messages: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) plain_bytes: AtomicU64,
}

impl Traffic {
    pub(super) fn add(&self, length: Length) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(length.wire as u64, Ordering::Relaxed);
        self.plain_bytes.fetch_add(length.plain as u64, Ordering::Relaxed);
    }
}

/// How long a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Length {
    /// On the wire.
    pub(super) wire: usize,
    /// Before compression.
    pub(super) plain: usize,
}

/// A message and its length.
#[derive(Debug)]
pub(super) struct Received<T> {
    pub(super) message: T,
    pub(super) length: Length,
}

/// What travels between peers.
pub(super) trait Frame: Message + Default + 'static {
    /// Whether the encoded message unfolds to an honest amount of memory.
    fn check(encoded: &[u8]) -> Result<(), Excess>;

    /// The frame that carries another, compressed; `None`: frames of this kind are never compressed.
    fn pack(_: Packed) -> Option<Self> {
        None
    }

    /// What is compressed in it.
    fn packed(&self) -> Option<&Packed> {
        None
    }

    /// Bytes that its content lost by being compressed before.
    fn saved_bytes(&self) -> usize {
        0
    }
}

/// Why a frame is refused undecoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Excess {
    #[error("more than {0} entries in one append")]
    Entries(usize),
    #[error("more than {0} commands in one forward")]
    Commands(usize),
    #[error("more than {0} traces in one frame")]
    Traces(usize),
    #[error("more than {0} chunks in one snapshot")]
    Chunks(usize),
    #[error("more than {0} bytes of voters and learners")]
    ConfState(usize),
    #[error("not a protobuf message")]
    Malformed,
}

impl Frame for AppendFrame {
    fn check(encoded: &[u8]) -> Result<(), Excess> {
        let (mut commands, mut traces) = (0, 0);
        let mut tally = RaftTally::default();
        for_each_field(encoded, |number, value| match (number, value) {
            (2, Value::Bytes(raft)) => tally.add(raft),
            (3 | 6, Value::Bytes(forward)) => for_each_field(forward, |number, _| {
                commands += usize::from(number == 1);
                within(commands, COMMANDS_PER_FRAME_MAX, Excess::Commands)
            }),
            (5, Value::Bytes(told)) => for_each_field(told, |number, _| {
                traces += usize::from(number == 1);
                within(traces, TRACES_PER_FRAME_MAX, Excess::Traces)
            }),
            _ => Ok(()),
        })
    }

    fn pack(packed: Packed) -> Option<Self> {
        Some(AppendFrame { frame: Some(append_frame::Frame::Packed(packed)) })
    }

    fn packed(&self) -> Option<&Packed> {
        match &self.frame {
            Some(append_frame::Frame::Packed(packed)) => Some(packed),
            _ => None,
        }
    }
}

impl Frame for SnapshotFrame {
    fn check(encoded: &[u8]) -> Result<(), Excess> {
        let mut tally = RaftTally::default();
        for_each_field(encoded, |number, value| match (number, value) {
            (2, Value::Bytes(offer)) => {
                for_each_field(offer, |number, value| match (number, value) {
                    (1, Value::Bytes(raft)) => tally.add(raft),
                    _ => Ok(()),
                })
            }
            _ => Ok(()),
        })
    }

    fn saved_bytes(&self) -> usize {
        match &self.frame {
            Some(snapshot_frame::Frame::Chunk(chunk)) => {
                let bytes = usize::try_from(chunk.bytes).unwrap_or(usize::MAX);
                bytes.saturating_sub(chunk.compressed.len())
            }
            _ => 0,
        }
    }
}

/// Held small by the limit on their size alone.
macro_rules! small_frames {
    ($($frame:ty),*) => {
        $(impl Frame for $frame {
            fn check(_: &[u8]) -> Result<(), Excess> {
                Ok(())
            }
        })*
    };
}
small_frames!(ControlFrame, AppendAck, SnapshotReply, LeaderRequest, LeaderReply);

/// The repeated fields of the raft messages in one frame.
#[derive(Default)]
struct RaftTally {
    entries: usize,
    chunks: usize,
    conf_state_bytes: usize,
}

impl RaftTally {
    fn add(&mut self, raft: &[u8]) -> Result<(), Excess> {
        for_each_field(raft, |number, value| match (number, value) {
            (7, _) => {
                self.entries += 1;
                within(self.entries, ENTRIES_PER_FRAME_MAX, Excess::Entries)
            }
            (10, Value::Bytes(meta)) => {
                for_each_field(meta, |number, value| match (number, value) {
                    (3, Value::Bytes(conf_state)) => {
                        self.conf_state_bytes += conf_state.len();
                        within(self.conf_state_bytes, CONF_STATE_BYTES_MAX, Excess::ConfState)
                    }
                    (4, _) => {
                        self.chunks += 1;
                        within(self.chunks, CHUNKS_PER_SNAPSHOT_MAX, Excess::Chunks)
                    }
                    _ => Ok(()),
                })
            }
            _ => Ok(()),
        })
    }
}

fn within(count: usize, max: usize, excess: fn(usize) -> Excess) -> Result<(), Excess> {
    if count <= max { Ok(()) } else { Err(excess(max)) }
}

enum Value<'a> {
    Bytes(&'a [u8]),
    Scalar,
}

/// Walks the fields of one encoded message, looking into none.
fn for_each_field<'a>(
    mut encoded: &'a [u8],
    mut visit: impl FnMut(u64, Value<'a>) -> Result<(), Excess>,
) -> Result<(), Excess> {
    while !encoded.is_empty() {
        let key = varint(&mut encoded)?;
        let value = match key & 7 {
            0 => {
                varint(&mut encoded)?;
                Value::Scalar
            }
            1 => {
                skip(&mut encoded, 8)?;
                Value::Scalar
            }
            2 => {
                let length = varint(&mut encoded)?;
                Value::Bytes(skip(&mut encoded, length)?)
            }
            5 => {
                skip(&mut encoded, 4)?;
                Value::Scalar
            }
            // Groups: none of our messages has one.
            _ => return Err(Excess::Malformed),
        };
        visit(key >> 3, value)?;
    }
    Ok(())
}

fn varint(encoded: &mut &[u8]) -> Result<u64, Excess> {
    prost::encoding::decode_varint(encoded).map_err(|_| Excess::Malformed)
}

fn skip<'a>(encoded: &mut &'a [u8], length: u64) -> Result<&'a [u8], Excess> {
    let length = usize::try_from(length).map_err(|_| Excess::Malformed)?;
    let (value, rest) = encoded.split_at_checked(length).ok_or(Excess::Malformed)?;
    *encoded = rest;
    Ok(value)
}

/// gRPC's codec for frames: counts and compresses what is sent, checks and measures what is received.
#[derive(Debug)]
pub(super) struct FrameCodec<E, D> {
    sent: Option<Arc<Traffic>>,
    agreed: Option<Agreed>,
    frame_bytes_max: usize,
    types: PhantomData<fn(E) -> D>,
}

impl<E, D> FrameCodec<E, D> {
    /// A received frame unfolds to this much at most.
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        FrameCodec { sent: None, agreed: None, frame_bytes_max, types: PhantomData }
    }

    /// Counts what is encoded.
    pub(super) fn counting(self, sent: &Arc<Traffic>) -> Self {
        FrameCodec { sent: Some(Arc::clone(sent)), ..self }
    }

    /// Compresses as soon as that is agreed on.
    pub(super) fn packing(self, agreed: &Agreed) -> Self {
        FrameCodec { agreed: Some(agreed.clone()), ..self }
    }
}

impl<E: Frame, D: Frame> Codec for FrameCodec<E, D> {
    type Encode = E;
    type Decode = Received<D>;
    type Encoder = FrameEncoder<E>;
    type Decoder = FrameDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        FrameEncoder {
            sent: self.sent.clone(),
            packer: self.agreed.clone().map(Packer::new),
            types: PhantomData,
        }
    }

    fn decoder(&mut self) -> Self::Decoder {
        FrameDecoder {
            frame_bytes_max: self.frame_bytes_max,
            is_first: true,
            unpacker: Unpacker::default(),
            types: PhantomData,
        }
    }
}

pub(super) struct FrameEncoder<E> {
    sent: Option<Arc<Traffic>>,
    packer: Option<Packer>,
    types: PhantomData<fn(E)>,
}

impl<E: Frame> FrameEncoder<E> {
    /// The frame compressed, if that is agreed on and makes it smaller.
    fn packed(&mut self, item: &E, bytes: usize) -> Result<Option<E>, Status> {
        let Some(packer) = &mut self.packer else { return Ok(None) };
        let Some(compression) = packer.wants(bytes) else { return Ok(None) };
        packer.plain.reserve_exact(bytes);
        item.encode(&mut packer.plain).map_err(internal)?;
        let packed = packer.pack(compression).and_then(E::pack);
        packer.clear();
        Ok(packed)
    }
}

impl<E: Frame> Encoder for FrameEncoder<E> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = item.encoded_len();
        let mut length = Length { wire: bytes, plain: bytes + item.saved_bytes() };
        let item = match self.packed(&item, bytes)? {
            Some(packed) => {
                length.wire = packed.encoded_len();
                packed
            }
            None => item,
        };
        into.reserve(length.wire);
        item.encode(into).map_err(internal)?;
        if let Some(sent) = &self.sent {
            sent.add(length);
        }
        if let Some(packer) = &mut self.packer {
            packer.sends(length.wire);
        }
        Ok(())
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn internal(error: prost::EncodeError) -> Status {
    Status::internal(error.to_string())
}

pub(super) struct FrameDecoder<D> {
    frame_bytes_max: usize,
    /// A stranger's word is not unfolded.
    is_first: bool,
    unpacker: Unpacker,
    types: PhantomData<fn() -> D>,
}

impl<D: Frame> FrameDecoder<D> {
    fn checked(encoded: Bytes) -> Result<D, Status> {
        D::check(&encoded).map_err(refused)?;
        D::decode(encoded).map_err(refused)
    }
}

impl<D: Frame> Decoder for FrameDecoder<D> {
    type Item = Received<D>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let bytes = from.remaining();
        let mut length = Length { wire: bytes, plain: bytes };
        let mut message = Self::checked(from.copy_to_bytes(bytes))?;
        if let Some(packed) = message.packed() {
            if self.is_first {
                return Err(refused(Unpackable::Greeting));
            }
            let plain = self.unpacker.unpack(packed, self.frame_bytes_max).map_err(refused)?;
            length.plain = plain.len();
            message = Self::checked(plain)?;
            if message.packed().is_some() {
                return Err(refused(Unpackable::Nested));
            }
        }
        self.is_first = false;
        length.plain += message.saved_bytes();
        Ok(Some(Received { message, length }))
    }
}

fn refused(why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(why.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::log::{Chunk, ConfState, Entry, SnapshotMeta};
    use proto::peer::{
        Forward, RaftMessage, SnapshotOffer, TraceContext, Traces, append_frame, snapshot_frame,
    };

    use super::*;

    fn append(message: RaftMessage) -> Vec<u8> {
        AppendFrame { frame: Some(append_frame::Frame::Raft(message)) }.encode_to_vec()
    }

    #[test]
    fn a_frame_of_honest_entries_passes() {
        let entry = Entry { term: 1, index: 2, data: Bytes::from_static(b"x"), ..Entry::default() };
        let message = RaftMessage { entries: vec![entry; 1_000], ..RaftMessage::default() };
        assert_eq!(AppendFrame::check(&append(message)), Ok(()));
    }

    #[test]
    fn a_small_frame_that_unfolds_to_much_is_refused_undecoded() {
        let entries = vec![Entry::default(); ENTRIES_PER_FRAME_MAX + 1];
        let encoded = append(RaftMessage { entries, ..RaftMessage::default() });
        assert!(encoded.len() < 1 << 20);
        assert_eq!(AppendFrame::check(&encoded), Err(Excess::Entries(ENTRIES_PER_FRAME_MAX)));

        let forward = Forward { term: 2, commands: vec![Bytes::new(); COMMANDS_PER_FRAME_MAX + 1] };
        use append_frame::Frame;
        for frame in [Frame::Forward(forward.clone()), Frame::Bound(forward)] {
            let encoded = AppendFrame { frame: Some(frame) }.encode_to_vec();
            assert_eq!(AppendFrame::check(&encoded), Err(Excess::Commands(COMMANDS_PER_FRAME_MAX)));
        }
    }

    #[test]
    fn more_traces_than_are_ever_told_of_are_refused_undecoded() {
        let traces = |count| {
            let contexts = vec![TraceContext::default(); count];
            let frame = append_frame::Frame::Traces(Traces { contexts });
            AppendFrame { frame: Some(frame) }.encode_to_vec()
        };
        assert_eq!(AppendFrame::check(&traces(TRACES_PER_FRAME_MAX)), Ok(()));
        let excess = Excess::Traces(TRACES_PER_FRAME_MAX);
        assert_eq!(AppendFrame::check(&traces(TRACES_PER_FRAME_MAX + 1)), Err(excess));
    }

    #[test]
    fn a_manifest_beyond_all_measure_is_refused_undecoded() {
        let offer = |meta| {
            let message = RaftMessage { snapshot: Some(meta), ..RaftMessage::default() };
            let offer = SnapshotOffer { message: Some(message) };
            SnapshotFrame { frame: Some(snapshot_frame::Frame::Offer(offer)) }.encode_to_vec()
        };
        let chunks = vec![Chunk::default(); CHUNKS_PER_SNAPSHOT_MAX + 1];
        let encoded = offer(SnapshotMeta { chunks, ..SnapshotMeta::default() });
        assert_eq!(SnapshotFrame::check(&encoded), Err(Excess::Chunks(CHUNKS_PER_SNAPSHOT_MAX)));
        let conf_state = ConfState { voters: vec![1; CONF_STATE_BYTES_MAX], ..Default::default() };
        let encoded = offer(SnapshotMeta { conf_state: Some(conf_state), ..Default::default() });
        assert_eq!(SnapshotFrame::check(&encoded), Err(Excess::ConfState(CONF_STATE_BYTES_MAX)));
    }

    #[test]
    fn garbage_is_malformed() {
        for garbage in [&b"\xff\xff\xff"[..], b"\x12\x7f", b"\x0b", b"\x09\x01"] {
            assert_eq!(AppendFrame::check(garbage), Err(Excess::Malformed), "{garbage:?}");
        }
    }
}
