//! Frames that are packed, and what becomes of those that should not be.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proto::log::Entry;
use proto::peer::peer_client::PeerClient;
use proto::peer::raft_message::Type;
use proto::peer::{
    AppendAck, AppendFrame, Compression, ControlFrame, Hello, LeaderReply, LeaderRequest, Packed,
    RaftMessage, SnapshotFrame, SnapshotReply, append_frame,
};
use server::config::PeerCompression;
use server::peers::PeerLimits;

use super::{CLUSTER, PATIENCE, Side, Start, Store, pair, snapshot_message, wait_until};

fn compressing(compression: PeerCompression) -> Start {
    Start { compression, ..Start::member(1) }
}

/// Two members that ask each other so seldom that what they say of that counts for nothing, however
/// long the rest takes.
fn quiet_pair(mut left: Start, mut right: Start) -> (Side, Side) {
    for start in [&mut left, &mut right] {
        start.limits.probe_interval = Duration::from_millis(200);
    }
    pair(left, right)
}

/// Bytes in which nothing repeats.
fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut noise = vec![0; bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut noise);
    noise.into()
}

#[test]
fn what_repeats_itself_crosses_a_compressed_link_in_fewer_bytes_and_noise_as_it_is() {
    for (compression, shrinks) in [
        (PeerCompression::None, false),
        (PeerCompression::Lz4, true),
        (PeerCompression::Zstd, true),
    ] {
        let (left, right) = quiet_pair(compressing(compression), Start::member(2));
        let text: Vec<_> = (1..=50).map(|index| left.append(2, index, 20_000)).collect();
        let before = left.peers.links()[&2].sent;
        left.peers.send(text.clone());
        left.forward(2, vec![Bytes::from(vec![7; 9_000]); 3]);
        wait_until("all has arrived", || {
            let seen = right.node.seen();
            seen.appended.len() == 50 && seen.forwarded.len() == 3
        });
        assert_eq!(right.node.seen().appended, text);
        let sent = left.peers.links()[&2].sent;
        let (wire, plain) = (sent.bytes - before.bytes, sent.plain_bytes - before.plain_bytes);
        assert!(plain > 1_027_000, "{plain}");
        assert_eq!(wire < plain / 20, shrinks, "{compression:?}: {wire} of {plain}");
        // A probe may still be on its way.
        let received = || right.peers.links()[&1].received;
        wait_until("all that was sent is counted", || received().plain_bytes >= plain);
        assert_eq!(received().bytes < plain, shrinks);

        let noisy: Vec<_> = (51..=60)
            .map(|index| {
                let data = noise(index, 20_000);
                let entry = Entry { term: 1, index, data, ..Entry::default() };
                left.message(Type::MsgAppend, 2, index, vec![entry])
            })
            .collect();
        left.peers.send(noisy.clone());
        wait_until("the noise has arrived", || right.node.seen().appended.len() == 60);
        assert_eq!(right.node.seen().appended[50..], noisy);
        assert!(left.peers.links()[&2].sent.bytes - sent.bytes >= 200_000, "sent as it is");
    }
}

#[test]
fn chunks_of_a_snapshot_cross_in_the_form_that_was_asked_for() {
    let chunks = |compression| {
        let (store, meta) = Store::with_snapshot(50);
        let start = Start { store, ..compressing(compression) };
        let (left, right) = quiet_pair(start, Start::member(2));
        left.peers.send(vec![snapshot_message(&left, meta.clone())]);
        wait_until("it is taken", || left.node.seen().snapshots == [(2, true)]);
        assert_eq!(*right.store.0.chunks.lock().unwrap(), *left.store.0.chunks.lock().unwrap());
        let sent = left.peers.links()[&2].sent;
        assert!(sent.plain_bytes > meta.state_bytes && sent.bytes < meta.state_bytes / 20);
        sent.bytes
    };
    assert!(chunks(PeerCompression::Zstd) < chunks(PeerCompression::None), "none: LZ4");
}

/// Says these frames after a greeting in member 1's name, and returns what is said to them.
fn speak_raw(to: &Side, frames: Vec<append_frame::Frame>) -> String {
    let hello = Hello { cluster_id: CLUSTER, from: 1, to: to.id, boot_id: 9, ..Hello::default() };
    let mut all = vec![append_frame::Frame::Hello(hello)];
    all.extend(frames);
    let frames = all.into_iter().map(|frame| AppendFrame { frame: Some(frame) });
    let url = to.url();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(url).unwrap();
        let mut peer = PeerClient::new(channel.connect().await.unwrap());
        let frames = tokio_stream::StreamExt::chain(
            tokio_stream::iter(frames.collect::<Vec<_>>()),
            tokio_stream::pending(),
        );
        let acks = async { peer.append(frames).await?.into_inner().message().await };
        match tokio::time::timeout(PATIENCE, acks).await.unwrap() {
            Ok(_) => "closed".to_owned(),
            Err(status) => status.message().to_owned(),
        }
    })
}

#[test]
fn bombs_and_garbage_end_the_stream_with_one_line_and_nothing_is_lost() {
    let (left, right) = pair(compressing(PeerCompression::Zstd), Start::member(2));
    let limit = PeerLimits::default().frame_bytes_max;
    let (lz4, zstd) = (Compression::Lz4 as i32, Compression::Zstd as i32);
    let packed = |compression, bytes, data: Vec<u8>| {
        append_frame::Frame::Packed(Packed { compression, bytes, data: data.into() })
    };
    let zeros = vec![0; 2 * limit];
    let bomb = zstd::bulk::compress(&zeros, 1).unwrap();
    let entries = AppendFrame {
        frame: Some(append_frame::Frame::Raft(RaftMessage {
            entries: vec![Entry::default(); 300_000],
            ..RaftMessage::default()
        })),
    };
    let entries = prost::Message::encode_to_vec(&entries);
    let nested = AppendFrame { frame: Some(packed(lz4, 0, Vec::new())) };
    let nested = prost::Message::encode_to_vec(&nested);
    let says = |bytes: usize| format!("does not unfold to the {bytes} bytes it says");
    for (frame, why) in [
        (
            packed(zstd, zeros.len() as u64, bomb.clone()),
            format!("says it unfolds to {} bytes; the limit is {limit}", zeros.len()),
        ),
        (packed(zstd, 1_000, bomb), says(1_000)),
        (packed(lz4, 5_000, noise(1, 1_000).to_vec()), says(5_000)),
        (packed(zstd, 5_000, noise(1, 1_000).to_vec()), says(5_000)),
        (packed(7, 5_000, vec![0; 10]), "compressed in an unknown way (7)".to_owned()),
        (
            packed(lz4, 10, lz4_flex::block::compress(&[0xff; 10])),
            "not a protobuf message".to_owned(),
        ),
        (
            packed(lz4, entries.len() as u64, lz4_flex::block::compress(&entries)),
            "more than 262144 entries in one append".to_owned(),
        ),
        (
            packed(lz4, nested.len() as u64, lz4_flex::block::compress(&nested)),
            "a compressed frame within a compressed one".to_owned(),
        ),
    ] {
        let mut said = String::new();
        // The real member 1 comes back at any time, and is then the newer one.
        wait_until("it is heard out", || {
            said = speak_raw(&right, vec![frame.clone()]);
            said != "replaced by a newer stream"
        });
        assert!(said.contains(&why), "{said:?}, expected {why:?}");
    }
    // The real member 1 was cut off by who spoke in its name, and is back.
    wait_until("it is connected again", || left.is_connected(2));
    let mut next = 0;
    wait_until("appends pass", || {
        next += 1;
        left.peers.send(vec![left.append(2, next, 10_000)]);
        !right.node.seen().appended.is_empty()
    });
}

/// A member of a version that knows nothing of compression.
struct Older(Arc<Mutex<Vec<AppendFrame>>>);

type Silence<T> = tokio_stream::Pending<Result<T, tonic::Status>>;

#[tonic::async_trait]
impl proto::peer::peer_server::Peer for Older {
    type AppendStream = Silence<AppendAck>;
    type ControlStream = Silence<ControlFrame>;
    type SnapshotStream = Silence<SnapshotReply>;

    async fn append(
        &self,
        request: tonic::Request<tonic::Streaming<AppendFrame>>,
    ) -> Result<tonic::Response<Self::AppendStream>, tonic::Status> {
        let (mut frames, seen) = (request.into_inner(), Arc::clone(&self.0));
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                seen.lock().unwrap().push(frame);
            }
        });
        Ok(tonic::Response::new(tokio_stream::pending()))
    }

    async fn control(
        &self,
        _: tonic::Request<tonic::Streaming<ControlFrame>>,
    ) -> Result<tonic::Response<Self::ControlStream>, tonic::Status> {
        Ok(tonic::Response::new(tokio_stream::pending()))
    }

    async fn snapshot(
        &self,
        _: tonic::Request<tonic::Streaming<SnapshotFrame>>,
    ) -> Result<tonic::Response<Self::SnapshotStream>, tonic::Status> {
        Ok(tonic::Response::new(tokio_stream::pending()))
    }

    async fn leader(
        &self,
        _: tonic::Request<LeaderRequest>,
    ) -> Result<tonic::Response<LeaderReply>, tonic::Status> {
        Ok(tonic::Response::new(LeaderReply::default()))
    }
}

#[test]
fn a_member_of_an_older_version_is_sent_plain_bytes() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let older = proto::peer::peer_server::PeerServer::new(Older(Arc::clone(&seen)));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tonic::transport::Server::builder().add_service(older).serve_with_incoming(incoming).await
    });
    let left = compressing(PeerCompression::Zstd).start();
    left.knows(&[(1, left.url()), (2, url)]);
    let mut index = 0;
    wait_until("appends have arrived", || {
        index += 1;
        left.peers.send(vec![left.append(2, index, 10_000)]);
        seen.lock().unwrap().len() > 3
    });
    let seen = seen.lock().unwrap();
    for frame in &seen[1..] {
        let Some(append_frame::Frame::Raft(message)) = &frame.frame else { panic!("{frame:?}") };
        assert_eq!(message.entries[0].data.len(), 10_000);
    }
}
