//! A snapshot on its way to a peer that is too far behind for the log.
//!
//! The sender offers the manifest; the receiver names the chunks it lacks; only those travel, each
//! compressed if that makes it smaller; when all are there the receiver makes the manifest durable, and only then does its
//! replica hear of the snapshot. So a transfer that breaks is resumed by simply starting it again:
//! what has arrived is not asked for twice. Nothing the sender says is believed: a chunk is what its
//! BLAKE3 says, its length what the manifest said, and the manifest itself is held within limits
//! before room is made for anything.
//!
//! A transfer has a connection of its own, holds a few chunks in memory at either end, can be held
//! to a rate, and gives up when nothing moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::log::SnapshotMeta;
use proto::peer::{
    RaftMessage, SnapshotAccepted, SnapshotChunk, SnapshotDone, SnapshotFrame, SnapshotOffer,
    SnapshotReply, SnapshotWants, raft_message::Type, snapshot_frame, snapshot_reply,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::codec::Streaming;
use tonic::transport::Channel;

use super::codec::{CHUNKS_PER_SNAPSHOT_MAX, FrameCodec, Received};
use super::compress::{pack_chunk, unpack_chunk};
use super::inbound::Door;
use super::link::{Lane, Link, Way};
use super::outbound::{Ended, SNAPSHOT, open_stream};
use super::waits::GREETING_TIMEOUT;
use super::{ChunkHash, Chunks, Core, Inbound, wire};

/// Snapshots received at one time: one leader's, and its successor's.
pub(super) const RECEIVING_MAX: usize = 2;
/// Replies that wait to be sent: the wants and the end.
pub(super) const REPLIES_MAX: usize = 4;
/// Compressed chunks that wait at the sender.
const CHUNKS_IN_FLIGHT_MAX: usize = 2;
/// Largest chunk; the store makes them of 1 MiB.
pub(super) const CHUNK_BYTES_MAX: u64 = 4 << 20;
/// Without anything moving for this long, a transfer has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// For the receiver to look through the chunks it has, and to make the manifest durable.
const STORE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often progress is logged.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// A hash in an answer, with its tag and length, and the rest of the answer.
const WANT_BYTES: usize = 34;
const REPLY_BYTES: usize = 4 << 10;

/// Sends a snapshot. `Ok`: the peer has made it durable.
pub(super) async fn send<C: Chunks>(
    core: &Arc<Core>,
    chunks: &C,
    link: &Arc<Link>,
    message: RaftMessage,
) -> Result<(), String> {
    let _turn = core.sending.acquire().await.map_err(|_| "stopping".to_owned())?;
    let _sending = link.transferring(Way::Out);
    let meta = message.snapshot.as_ref().ok_or("a snapshot message without a snapshot")?;
    let index = meta.index;
    let sizes = checked_manifest(meta)?;
    let (frames, stream) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
    let frame = |frame| SnapshotFrame { frame: Some(frame) };
    let reply_bytes_max = REPLY_BYTES + WANT_BYTES * sizes.len();
    let codec = FrameCodec::<SnapshotFrame, SnapshotReply>::new(reply_bytes_max);
    let codec = codec.counting(&link.sent);
    frames
        .try_send(frame(snapshot_frame::Frame::Hello(core.hello(link.id))))
        .map_err(|_| "stopping".to_owned())?;
    let connecting = async {
        let channel = dial_any(core, link).await?;
        open_stream(channel, SNAPSHOT, codec, ReceiverStream::new(stream), reply_bytes_max).await
    };
    let (mut replies, reads) = tokio::time::timeout(GREETING_TIMEOUT, connecting)
        .await
        .map_err(|_| "no answer to the greeting".to_owned())?
        .map_err(|ended| ended.why)?;

    let offer = SnapshotOffer { message: Some(message) };
    put(&frames, frame(snapshot_frame::Frame::Offer(offer))).await?;
    let wanted = match reply(link, &mut replies, STORE_TIMEOUT).await? {
        snapshot_reply::Reply::Wants(SnapshotWants { hashes }) => hashes,
        snapshot_reply::Reply::Error(why) => return Err(format!("refused: {why}")),
        snapshot_reply::Reply::Accepted(_) => return Err("accepted unseen".to_owned()),
    };
    let mut progress = Progress::new(link.id, index, "sent", wanted.len());
    let mut pace = Pace::new(core.config.limits.snapshot_bytes_per_second);
    for hash in wanted {
        let hash = hash_of(&hash)?;
        let bytes = *sizes.get(&hash).ok_or("asked for a chunk that was not offered")?;
        let chunk = chunks.read(hash).await?;
        if chunk.len() as u64 != bytes {
            return Err(format!("chunk {} is not as long as its manifest says", hex(&hash)));
        }
        let asked = core.config.compression;
        let (compression, compressed) = blocking(move || pack_chunk(chunk, reads, asked)).await?;
        pace.wait(compressed.len()).await;
        progress.add(bytes);
        let chunk = SnapshotChunk {
            hash: Bytes::copy_from_slice(&hash),
            compressed,
            bytes,
            compression: compression as i32,
        };
        tokio::select! {
            sent = put(&frames, frame(snapshot_frame::Frame::Chunk(chunk))) => sent?,
            // Before the end the receiver speaks only to say what is wrong.
            said = reply(link, &mut replies, STALL_TIMEOUT) => match said? {
                snapshot_reply::Reply::Error(why) => return Err(format!("refused: {why}")),
                _ => return Err("an answer out of turn".to_owned()),
            },
        }
    }
    put(&frames, frame(snapshot_frame::Frame::Done(SnapshotDone {}))).await?;
    match reply(link, &mut replies, STORE_TIMEOUT).await? {
        snapshot_reply::Reply::Accepted(_) => {
            progress.done();
            Ok(())
        }
        snapshot_reply::Reply::Error(why) => Err(format!("refused: {why}")),
        snapshot_reply::Reply::Wants(_) => Err("an answer out of turn".to_owned()),
    }
}

/// Connects to the first of the peer's URLs that answers.
async fn dial_any(core: &Core, link: &Link) -> Result<Channel, Ended> {
    let mut ended = Ended::because("the peer has no usable URL");
    for url in &link.urls {
        match wire::dial(url, Lane::Snapshot, core.config.tls.as_ref()).await {
            Ok(dialled) => return Ok(dialled.channel),
            Err(why) => ended = Ended::because(why),
        }
    }
    Err(ended)
}

async fn put(frames: &mpsc::Sender<SnapshotFrame>, frame: SnapshotFrame) -> Result<(), String> {
    match tokio::time::timeout(STALL_TIMEOUT, frames.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("the connection broke".to_owned()),
        Err(_) => Err("the peer has stopped reading".to_owned()),
    }
}

async fn reply(
    link: &Link,
    replies: &mut Streaming<Received<SnapshotReply>>,
    timeout: Duration,
) -> Result<snapshot_reply::Reply, String> {
    match tokio::time::timeout(timeout, replies.message()).await {
        Ok(Ok(Some(Received { message, length }))) => {
            link.heard(length);
            message.reply.ok_or_else(|| "an empty answer".to_owned())
        }
        Ok(Ok(None)) => Err("closed by the peer".to_owned()),
        Ok(Err(status)) => Err(Ended::status(&status).why),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Receives a snapshot and answers for it.
pub(super) async fn receive<I: Inbound, C: Chunks>(
    door: &Door<I, C>,
    from: u64,
    frames: &mut Streaming<Received<SnapshotFrame>>,
    replies: &mpsc::Sender<Result<SnapshotReply, Status>>,
) {
    let began = Instant::now();
    let link = door.core.link(from).ok();
    let last = match receive_all(door, from, frames, replies).await {
        Ok(()) => {
            let seconds = &door.core.durations.snapshots_received;
            let seconds = seconds.with_label_values(&[&format!("{from:x}")]);
            seconds.observe(began.elapsed().as_secs_f64());
            if let Some(link) = link {
                link.snapshots_received.fetch_add(1, Ordering::Relaxed);
            }
            snapshot_reply::Reply::Accepted(SnapshotAccepted {})
        }
        Err(why) => {
            if let Some(link) = link {
                link.snapshots_refused.fetch_add(1, Ordering::Relaxed);
            }
            tracing::warn!(
                peer = format_args!("{from:x}"),
                "did not take a snapshot from a peer: {why}"
            );
            snapshot_reply::Reply::Error(why)
        }
    };
    // If it cannot be told, the sender takes it for failed and offers it again.
    drop(replies.try_send(Ok(SnapshotReply { reply: Some(last) })));
}

async fn receive_all<I: Inbound, C: Chunks>(
    door: &Door<I, C>,
    from: u64,
    frames: &mut Streaming<Received<SnapshotFrame>>,
    replies: &mpsc::Sender<Result<SnapshotReply, Status>>,
) -> Result<(), String> {
    let _turn = door.receiving.try_acquire().map_err(|_| "busy with other snapshots".to_owned())?;
    let link = door.core.link(from).map_err(|status| status.message().to_owned())?;
    let _receiving = link.transferring(Way::In);
    let message = match next(&link, frames).await? {
        snapshot_frame::Frame::Offer(SnapshotOffer { message: Some(message) }) => message,
        _ => return Err("no offer".to_owned()),
    };
    door.core
        .check_message(&message, from, Lane::Snapshot)
        .map_err(|status| status.message().to_owned())?;
    debug_assert_eq!(message.r#type, Type::MsgSnapshot as i32, "the only one of its lane");
    let meta = message.snapshot.clone().ok_or("an offer without a snapshot")?;
    if meta.cluster_id != door.core.config.cluster_id {
        return Err(format!("a snapshot of cluster {:x}", meta.cluster_id));
    }
    let sizes = checked_manifest(&meta)?;
    let hashes: Vec<ChunkHash> = sizes.keys().copied().collect();
    let mut missing: BTreeMap<ChunkHash, u64> = door
        .chunks
        .missing(&hashes)
        .await
        .into_iter()
        .filter_map(|hash| sizes.get_key_value(&hash))
        .map(|(hash, bytes)| (*hash, *bytes))
        .collect();
    let wants =
        SnapshotWants { hashes: missing.keys().map(|hash| Bytes::copy_from_slice(hash)).collect() };
    let wants = SnapshotReply { reply: Some(snapshot_reply::Reply::Wants(wants)) };
    replies.try_send(Ok(wants)).map_err(|_| "the connection broke".to_owned())?;

    let mut progress = Progress::new(from, meta.index, "received", missing.len());
    loop {
        match next(&link, frames).await? {
            snapshot_frame::Frame::Chunk(chunk) => {
                let hash = hash_of(&chunk.hash)?;
                let bytes = missing.remove(&hash).ok_or("a chunk that was not asked for")?;
                if chunk.bytes != bytes {
                    return Err(format!("chunk {} is not as long as was offered", hex(&hash)));
                }
                let unpack = move || unpack(chunk.compression, chunk.compressed, bytes, hash);
                let data = blocking(unpack).await??;
                door.chunks.write(hash, data).await?;
                progress.add(bytes);
            }
            snapshot_frame::Frame::Done(SnapshotDone {}) if missing.is_empty() => break,
            snapshot_frame::Frame::Done(SnapshotDone {}) => {
                return Err(format!("{} chunks never came", missing.len()));
            }
            _ => return Err("a frame out of turn".to_owned()),
        }
    }
    door.chunks.commit(meta).await?;
    progress.done();
    if door.inbound.append(message).await { Ok(()) } else { Err("stopping".to_owned()) }
}

async fn next(
    link: &Link,
    frames: &mut Streaming<Received<SnapshotFrame>>,
) -> Result<snapshot_frame::Frame, String> {
    match tokio::time::timeout(STALL_TIMEOUT, frames.message()).await {
        Ok(Ok(Some(Received { message, length }))) => {
            link.heard(length);
            message.frame.ok_or_else(|| "an empty frame".to_owned())
        }
        Ok(Ok(None)) => Err("the stream ended early".to_owned()),
        Ok(Err(status)) => Err(Ended::status(&status).why),
        Err(_) => Err("nothing came any more".to_owned()),
    }
}

/// The chunks of a manifest and their lengths, if they are within limits and add up.
fn checked_manifest(meta: &SnapshotMeta) -> Result<BTreeMap<ChunkHash, u64>, String> {
    if meta.chunks.len() > CHUNKS_PER_SNAPSHOT_MAX {
        return Err(format!("more than {CHUNKS_PER_SNAPSHOT_MAX} chunks"));
    }
    let mut sizes = BTreeMap::new();
    let mut total: u64 = 0;
    for chunk in &meta.chunks {
        if chunk.bytes > CHUNK_BYTES_MAX {
            return Err(format!(
                "a chunk of {} bytes; the limit is {CHUNK_BYTES_MAX}",
                chunk.bytes
            ));
        }
        total += chunk.bytes;
        // The same piece may occur twice in a state, but not with two lengths.
        let hash = hash_of(&chunk.hash)?;
        if sizes.insert(hash, chunk.bytes).is_some_and(|bytes| bytes != chunk.bytes) {
            return Err(format!("chunk {} has two lengths", hex(&hash)));
        }
    }
    if total != meta.state_bytes {
        return Err(format!("chunks of {total} bytes for a state of {}", meta.state_bytes));
    }
    Ok(sizes)
}

fn hash_of(bytes: &[u8]) -> Result<ChunkHash, String> {
    ChunkHash::try_from(bytes).map_err(|_| format!("a chunk's hash of {} bytes", bytes.len()))
}

fn hex(hash: &ChunkHash) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Decompresses a chunk and holds it against its name. `bytes` has been checked.
fn unpack(compression: i32, data: Bytes, bytes: u64, hash: ChunkHash) -> Result<Bytes, String> {
    assert!(bytes <= CHUNK_BYTES_MAX, "checked with the manifest");
    let bytes = usize::try_from(bytes).expect("checked with the manifest");
    let data = unpack_chunk(compression, data, bytes)
        .ok_or_else(|| format!("chunk {} cannot be decompressed", hex(&hash)))?;
    if *blake3::hash(&data).as_bytes() != hash {
        return Err(format!("chunk {} is damaged", hex(&hash)));
    }
    Ok(data)
}

/// Runs what takes milliseconds of CPU beside the thread that moves appends.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

/// Holds a transfer to a rate.
#[derive(Debug)]
struct Pace {
    bytes_per_second: Option<u64>,
    free_at: Instant,
}

impl Pace {
    fn new(bytes_per_second: Option<u64>) -> Self {
        Pace { bytes_per_second, free_at: Instant::now() }
    }

    async fn wait(&mut self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let now = Instant::now();
        let wait = self.free_at.saturating_duration_since(now);
        let takes_us = (bytes as u64).saturating_mul(1_000_000) / rate.max(1);
        self.free_at = self.free_at.max(now) + Duration::from_micros(takes_us);
        tokio::time::sleep(wait).await;
    }
}

/// Says now and then how far a transfer is.
#[derive(Debug)]
struct Progress {
    peer: u64,
    index: u64,
    verb: &'static str,
    chunks_total: usize,
    chunks: usize,
    bytes: u64,
    begun: Instant,
    said: Instant,
}

impl Progress {
    fn new(peer: u64, index: u64, verb: &'static str, chunks_total: usize) -> Self {
        let now = Instant::now();
        Progress { peer, index, verb, chunks_total, chunks: 0, bytes: 0, begun: now, said: now }
    }

    fn add(&mut self, bytes: u64) {
        self.chunks += 1;
        self.bytes += bytes;
        if self.said.elapsed() >= PROGRESS_INTERVAL {
            self.said = Instant::now();
            self.say("a snapshot is under way");
        }
    }

    fn done(&self) {
        self.say("a snapshot has been transferred");
    }

    fn say(&self, what: &'static str) {
        tracing::info!(
            peer = format_args!("{:x}", self.peer),
            index = self.index,
            chunks = self.chunks,
            of = self.chunks_total,
            bytes = self.bytes,
            ms = self.begun.elapsed().as_millis(),
            "{what}: {}",
            self.verb
        );
    }
}

#[cfg(test)]
mod tests {
    use proto::log::Chunk;
    use proto::peer::Compression;

    use super::*;

    const LZ4: i32 = Compression::Lz4 as i32;

    fn packed(data: &[u8]) -> (ChunkHash, Bytes) {
        (*blake3::hash(data).as_bytes(), lz4_flex::block::compress(data).into())
    }

    #[test]
    fn a_chunk_comes_out_as_it_went_in() {
        let data = b"abcabcabcabcabcabcabcabcabcabc".repeat(50);
        let (hash, compressed) = packed(&data);
        let bytes = data.len() as u64;
        assert_eq!(unpack(LZ4, compressed, bytes, hash), Ok(Bytes::from(data)));
        let (hash, compressed) = packed(b"");
        assert_eq!(unpack(LZ4, compressed, 0, hash), Ok(Bytes::new()));
    }

    #[test]
    fn a_damaged_chunk_is_refused_wherever_it_is_damaged() {
        let data: Vec<u8> = (0..2_000u32).flat_map(u32::to_le_bytes).collect();
        let (hash, compressed) = packed(&data);
        for at in 0..compressed.len() {
            let mut damaged = compressed.to_vec();
            damaged[at] ^= 0x10;
            // A flip may meet a byte whose meaning does not change; then the data is still right.
            if let Ok(unpacked) = unpack(LZ4, damaged.into(), data.len() as u64, hash) {
                assert_eq!(unpacked, data);
            }
        }
        let wrong = format!("chunk {} is damaged", hex(&[7; 32]));
        let unpack = |bytes: u64, hash| unpack(LZ4, compressed.clone(), bytes, hash);
        let bytes = data.len() as u64;
        assert_eq!(unpack(bytes, [7; 32]), Err(wrong));
        assert!(unpack(bytes - 1, hash).is_err());
        assert!(unpack(bytes + 1, hash).is_err());
    }

    #[test]
    fn a_manifest_must_add_up_and_stay_within_limits() {
        let chunk = |byte: u8, bytes| Chunk { hash: Bytes::from(vec![byte; 32]), bytes };
        let meta = |chunks: Vec<Chunk>, state_bytes| SnapshotMeta {
            chunks,
            state_bytes,
            ..SnapshotMeta::default()
        };
        let ok = checked_manifest(&meta(vec![chunk(1, 5), chunk(2, 6), chunk(1, 5)], 16));
        assert_eq!(ok, Ok(BTreeMap::from([([1; 32], 5), ([2; 32], 6)])));
        let refused = |meta: SnapshotMeta| checked_manifest(&meta).expect_err("refused");
        assert_eq!(refused(meta(vec![chunk(1, 5)], 6)), "chunks of 5 bytes for a state of 6");
        assert!(refused(meta(vec![chunk(1, 5), chunk(1, 6)], 11)).ends_with("has two lengths"));
        assert!(refused(meta(vec![chunk(1, CHUNK_BYTES_MAX + 1)], 0)).contains("the limit is"));
        let short = Chunk { hash: Bytes::from_static(b"x"), bytes: 0 };
        assert_eq!(refused(meta(vec![short], 0)), "a chunk's hash of 1 bytes");
    }
}
