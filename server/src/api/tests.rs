//! The api over real connections, in front of a node that applies at once.
//!
//! The runtimes have a thread beside the test's own, so that connections of clients go on ending
//! while a test waits for the server to end.

use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{request_op, response_op};
use proto::health::HealthCheckRequest;
use proto::health::health_client::HealthClient;
use proto::log::command::Op;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::config::Config;
use crate::fake::{CLUSTER_ID, MEMBER_ID, Served, TERM};
use crate::serve::Content;

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..pb::PutRequest::default()
    }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn everything() -> pb::RangeRequest {
    let zero = Bytes::from_static(b"\0");
    pb::RangeRequest { key: zero.clone(), range_end: zero, ..Default::default() }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: CLUSTER_ID,
        member_id: MEMBER_ID,
        revision,
        raft_term: TERM,
    })
}

fn said<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("refused");
    (status.code(), status.message().to_owned())
}

async fn kv(served: &Served) -> KvClient<tonic::transport::Channel> {
    KvClient::new(served.channel().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_put_is_read_back_with_full_headers() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    let response = kv.put(put("a", "1")).await.expect("put").into_inner();
    assert_eq!(response.header, header(2));
    for serializable in [false, true] {
        let range = pb::RangeRequest { serializable, ..get("a") };
        let response = kv.range(range).await.expect("range").into_inner();
        assert_eq!((response.header, response.count), (header(2), 1));
        assert_eq!(response.kvs[0].value, "1");
    }
    let delete = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
    let response = kv.delete_range(delete).await.expect("deleted").into_inner();
    assert_eq!((response.header, response.deleted), (header(3), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_txn_that_reads_needs_no_proposal() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    kv.put(put("a", "1")).await.expect("put");
    let op = |request| pb::RequestOp { request: Some(request) };
    let read = op(request_op::Request::RequestRange(get("a")));
    let txn = pb::TxnRequest { success: vec![read.clone()], ..Default::default() };
    served.node.get_stuck();
    let response = kv.txn(txn).await.expect("read").into_inner();
    assert_eq!((response.header, response.succeeded), (header(2), true));
    let Some(response_op::Response::ResponseRange(inner)) = &response.responses[0].response else {
        panic!("a range");
    };
    let inner_header = inner.header.expect("etcd gives one");
    assert_eq!((inner_header.revision, inner_header.cluster_id), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_txn_that_writes_is_proposed() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    let op = |request| pb::RequestOp { request: Some(request) };
    let write = op(request_op::Request::RequestPut(put("a", "1")));
    let txn = pb::TxnRequest { success: vec![write.clone()], ..Default::default() };
    assert_eq!(kv.txn(txn.clone()).await.expect("done").into_inner().header, header(2));
    let twice = pb::TxnRequest { success: vec![write.clone(), write], ..txn };
    assert_eq!(
        said(kv.txn(twice).await),
        (Code::InvalidArgument, "etcdserver: duplicate key given in txn request".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bad_requests_are_refused_in_etcds_words() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    let invalid = |text: &str| (Code::InvalidArgument, format!("etcdserver: {text}"));
    let out_of_range = |text: &str| (Code::OutOfRange, format!("etcdserver: mvcc: {text}"));
    assert_eq!(said(kv.put(put("", "1")).await), invalid("key is not provided"));
    assert_eq!(said(kv.range(get("")).await), invalid("key is not provided"));
    let ignoring = pb::PutRequest { ignore_value: true, ..put("a", "1") };
    assert_eq!(said(kv.put(ignoring).await), invalid("value is provided"));
    let ignoring = pb::PutRequest { ignore_value: true, ..put("a", "") };
    assert_eq!(said(kv.put(ignoring).await), invalid("key not found"));
    let leased = pb::PutRequest { lease: 77, ..put("a", "") };
    assert_eq!(
        said(kv.put(leased).await),
        (Code::NotFound, "etcdserver: requested lease not found".to_owned())
    );
    let future = pb::RangeRequest { revision: 99, ..get("a") };
    assert_eq!(
        said(kv.range(future).await),
        out_of_range("required revision is a future revision")
    );
    let odd = pb::RangeRequest { sort_order: 9, ..get("a") };
    assert_eq!(said(kv.range(odd).await), invalid("invalid sort option"));
    let compact = pb::CompactionRequest { revision: 99, physical: true };
    assert_eq!(
        said(kv.compact(compact).await),
        out_of_range("required revision is a future revision")
    );
    let compare = pb::Compare { key: "a".into(), ..Default::default() };
    let many = pb::TxnRequest { compare: vec![compare; 129], ..Default::default() };
    assert_eq!(said(kv.txn(many).await), invalid("too many operations in txn request"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_compaction_hides_what_was_before_it() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    for value in ["1", "2", "3"] {
        kv.put(put("a", value)).await.expect("put");
    }
    let compact = pb::CompactionRequest { revision: 3, physical: true };
    assert_eq!(kv.compact(compact).await.expect("compacted").into_inner().header, header(4));
    let compacted =
        (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".to_owned());
    assert_eq!(said(kv.range(pb::RangeRequest { revision: 2, ..get("a") }).await), compacted);
    assert_eq!(said(kv.compact(compact).await), compacted);
    let kept = kv.range(pb::RangeRequest { revision: 3, ..get("a") }).await.expect("kept");
    assert_eq!(kept.into_inner().kvs[0].value, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_streamed_range_tells_the_whole_only_at_its_end() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    for n in 0..35 {
        let request = put(&format!("k{n:02}"), "x");
        served.node.apply(Op::Put(request)).expect("put");
    }
    let collect = async |kv: &mut KvClient<_>, request| {
        let mut stream = kv.range_stream(request).await.expect("streams").into_inner();
        let mut pieces = Vec::new();
        while let Some(piece) = stream.message().await.expect("a piece") {
            pieces.push(piece.range_response.expect("a response"));
        }
        pieces
    };
    let pieces = collect(&mut kv, everything()).await;
    assert_eq!(pieces.iter().map(|piece| piece.kvs.len()).collect::<Vec<_>>(), [10, 20, 5]);
    let (last, rest) = pieces.split_last().expect("pieces");
    assert!(rest.iter().all(|p| p.header.is_none() && p.count == 0 && !p.more));
    assert_eq!((last.header, last.count, last.more), (header(36), 35, false));
    let keys: Vec<_> =
        pieces.iter().flat_map(|piece| &piece.kvs).map(|kv| kv.key.clone()).collect();
    assert!(keys.is_sorted() && keys.len() == 35);

    let limited = pb::RangeRequest { limit: 12, keys_only: true, ..everything() };
    let pieces = collect(&mut kv, limited).await;
    assert_eq!(pieces.iter().map(|piece| piece.kvs.len()).collect::<Vec<_>>(), [10, 2]);
    assert_eq!((pieces[1].count, pieces[1].more), (35, true));
    assert!(pieces[1].kvs[0].value.is_empty());

    let counted = pb::RangeRequest { count_only: true, ..everything() };
    let pieces = collect(&mut kv, counted).await;
    assert_eq!((pieces.len(), pieces[0].count, pieces[0].header), (1, 35, header(36)));

    let nothing = pb::RangeRequest { key: "zz".into(), ..Default::default() };
    let pieces = collect(&mut kv, nothing).await;
    assert_eq!((pieces.len(), pieces[0].count, pieces[0].header), (1, 0, header(36)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_streamed_range_of_any_size_comes_in_bounded_pieces() {
    use prost::Message as _;
    let served = Served::start();
    let mut kv = kv(&served).await;
    // Small ones first, so that pieces grow, then large ones.
    for n in 0..2_000 {
        let bytes = if n < 1_500 { 10 } else { 100_000 };
        let request = put(&format!("k{n:04}"), &"x".repeat(bytes));
        served.node.apply(Op::Put(request)).expect("put");
    }
    let mut stream = kv.range_stream(everything()).await.expect("streams").into_inner();
    let (mut bytes, mut largest, mut keys) = (0, 0, 0);
    while let Some(piece) = stream.message().await.expect("a piece") {
        bytes += piece.encoded_len();
        largest = largest.max(piece.encoded_len());
        keys += piece.range_response.expect("a response").kvs.len();
    }
    assert!(bytes > 50_000_000 && keys == 2_000, "{bytes} bytes, {keys} keys");
    let limit = Config::defaults().max_request_bytes;
    assert!(largest <= limit + 110_000, "{largest} bytes in one piece, {limit} and one pair fit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_streamed_range_is_neither_sorted_nor_filtered() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    let sorted = pb::RangeRequest {
        sort_order: SortOrder::Descend.into(),
        sort_target: SortTarget::Mod.into(),
        ..everything()
    };
    assert_eq!(
        said(kv.range_stream(sorted).await),
        (Code::Unimplemented, "RangeStream does not support custom sort orders".to_owned())
    );
    let filtered = pb::RangeRequest { min_mod_revision: 2, ..everything() };
    assert_eq!(
        said(kv.range_stream(filtered).await),
        (Code::Unimplemented, "RangeStream does not support revision filters".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_large_range_is_put_together_beside_and_is_the_same() {
    let served = Served::start();
    for n in 0..1_500 {
        served.node.apply(Op::Put(put(&format!("k{n:04}"), "x"))).expect("put");
    }
    let response = kv(&served).await.range(everything()).await.expect("range").into_inner();
    assert_eq!((response.count, response.kvs.len()), (1_500, 1_500));
    assert_eq!(response.header, header(1_501));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sizes_have_two_limits_with_two_answers() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    let sized = |bytes: usize| put("a", &"x".repeat(bytes));
    kv.put(sized(1_500_000)).await.expect("fits");
    assert_eq!(
        said(kv.put(sized(1_572_864)).await),
        (Code::InvalidArgument, "etcdserver: request is too large".to_owned())
    );
    let (code, message) = said(kv.put(sized(2_097_200)).await);
    assert_eq!(code, Code::ResourceExhausted);
    assert_eq!(message, "grpc: received message larger than max (2097208 vs. 2097152)");
    kv.put(sized(1)).await.expect("the connection lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_store_over_its_quota_refuses_writes_and_raises_the_alarm() {
    let config = Config { quota_bytes: Some(2_000), ..Config::defaults() };
    let served = Served::start_with(&config, Content::All);
    let channel = served.channel().await;
    let mut kv = KvClient::new(channel.clone());
    kv.put(put("a", &"x".repeat(500))).await.expect("fits");
    let no_space =
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded".to_owned());
    assert_eq!(said(kv.put(put("b", &"x".repeat(2_000))).await), no_space);
    assert_eq!(said(kv.put(put("b", "x")).await), no_space, "the alarm refuses small ones too");
    let grant = pb::LeaseGrantRequest { ttl: 10, id: 1 };
    assert_eq!(said(LeaseClient::new(channel.clone()).lease_grant(grant).await), no_space);
    kv.range(get("a")).await.expect("reads go on");
    let mut maintenance = MaintenanceClient::new(channel);
    let status = maintenance.status(pb::StatusRequest {}).await.expect("status").into_inner();
    assert_eq!(status.errors, ["memberID:161 alarm:NOSPACE"]);
    assert_eq!(status.db_size_quota, 2_000);
    let disarm = pb::AlarmRequest {
        action: AlarmAction::Deactivate.into(),
        member_id: MEMBER_ID,
        alarm: pb::AlarmType::Nospace.into(),
    };
    assert_eq!(maintenance.alarm(disarm).await.expect("disarmed").into_inner().alarms.len(), 1);
    kv.put(put("b", "x")).await.expect("fits again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn metadata_are_looked_at_before_the_message() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    let with = |name: &'static str, value: &str| {
        let mut request = Request::new(get("a"));
        request.metadata_mut().insert(name, value.parse().expect("ASCII"));
        request
    };
    kv.range(with("hasleader", "true")).await.expect("there is one");
    kv.range(with("client-api-version", "3.6")).await.expect("a version");
    served.node.lose_leader();
    assert_eq!(
        said(kv.range(with("hasleader", "true")).await),
        (Code::Unavailable, "etcdserver: no leader".to_owned())
    );
    let serializable = pb::RangeRequest { serializable: true, ..get("a") };
    kv.range(serializable).await.expect("needs no leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_learner_serves_only_what_it_may() {
    let served = Served::start();
    served.node.become_learner();
    let channel = served.channel().await;
    let mut kv = KvClient::new(channel.clone());
    let refused =
        (Code::FailedPrecondition, "etcdserver: rpc not supported for learner".to_owned());
    assert_eq!(said(kv.put(put("a", "1")).await), refused);
    assert_eq!(said(kv.range(get("a")).await), refused);
    assert_eq!(said(kv.range_stream(everything()).await), refused);
    kv.range(pb::RangeRequest { serializable: true, ..get("a") }).await.expect("serializable");
    let mut maintenance = MaintenanceClient::new(channel.clone());
    assert!(
        maintenance.status(pb::StatusRequest {}).await.expect("status").into_inner().is_learner
    );
    maintenance.snapshot(pb::SnapshotRequest {}).await.expect("snapshot");
    assert_eq!(said(maintenance.hash(pb::HashRequest {}).await), refused);
    let (_sender, requests) = mpsc::channel::<pb::WatchRequest>(1);
    let watch = WatchClient::new(channel).watch(ReceiverStream::new(requests)).await;
    assert_eq!(said(watch), refused);
}

/// A call made by hand, for what tonic's client would keep to itself: the code and message the server
/// answered with.
async fn call_by_hand(served: &Served, path: &str, headers: &[(&str, &[u8])]) -> (Code, String) {
    let stream = tokio::net::TcpStream::connect(served.address).await.expect("connects");
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut client, connection) = handshake.await.expect("shakes hands");
    let connection = tokio::spawn(connection);
    let message = put("a", "1").encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
    frame.extend_from_slice(&message);
    let mut request = http::Request::post(format!("http://{}{path}", served.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = http_body_util::Full::new(Bytes::from(frame));
    let response = client.send_request(request.body(body).expect("a request")).await;
    let response = response.expect("an answer");
    let status = Status::from_header_map(response.headers()).expect("an error without a body");
    connection.abort();
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_ends_a_call_that_would_hang() {
    let served = Served::start();
    served.node.get_stuck();
    let answer = call_by_hand(&served, "/etcdserverpb.KV/Put", &[("grpc-timeout", b"20m")]).await;
    assert_eq!(answer, (Code::DeadlineExceeded, "context deadline exceeded".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_client_version_must_be_text() {
    let served = Served::start();
    let version: &[(&str, &[u8])] = &[("client-api-version", b"\xff")];
    let answer = call_by_hand(&served, "/etcdserverpb.KV/Put", version).await;
    let message = "etcdserver: invalid client api version".to_owned();
    assert_eq!(answer, (Code::InvalidArgument, message));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn methods_nobody_has_are_refused_as_by_grpc_go() {
    let served = Served::start();
    let message = "unknown method Nope for service etcdserverpb.KV".to_owned();
    let answer = call_by_hand(&served, "/etcdserverpb.KV/Nope", &[]).await;
    assert_eq!(answer, (Code::Unimplemented, message));
}

/// Frames of HTTP/2, by hand: no client library sends a call and its cancellation in one breath.
mod frame {
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const CANCEL: [u8; 4] = [0, 0, 0, 8];
    pub(super) const HEAD_BYTES: usize = 9;

    pub(super) fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    /// The headers of a put, every field a literal or in HPACK's static table.
    pub(super) fn put_headers() -> Vec<u8> {
        let mut block = vec![0x83, 0x86];
        for (name, value) in [
            (&[0x04][..], "/etcdserverpb.KV/Put"),
            (&[0x01], "a"),
            (&[0x0f, 0x10], "application/grpc"),
        ] {
            block.extend_from_slice(name);
            block.push(u8::try_from(value.len()).expect("short"));
            block.extend_from_slice(value.as_bytes());
        }
        block
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_thousand_calls_cancelled_in_a_burst_leave_the_connection_alone() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let served = Served::start();
    let mut stream = tokio::net::TcpStream::connect(served.address).await.expect("connects");
    let mut burst = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    burst.extend(frame::encode(frame::SETTINGS, 0, 0, &[]));
    for call in 0..1_000 {
        let id = 2 * call + 1;
        let headers = frame::put_headers();
        burst.extend(frame::encode(frame::HEADERS, frame::END_HEADERS, id, &headers));
        burst.extend(frame::encode(frame::RST_STREAM, 0, id, &frame::CANCEL));
    }
    burst.extend(frame::encode(frame::PING, 0, 0, b"alive???"));
    stream.write_all(&burst).await.expect("sent");
    loop {
        let mut head = [0; frame::HEAD_BYTES];
        stream.read_exact(&mut head).await.expect("the connection lives");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.expect("the connection lives");
        assert_ne!(head[3], frame::GOAWAY, "{}", payload.escape_ascii());
        if head[3] == frame::PING && head[4] == frame::ACK {
            assert_eq!(payload, b"alive???");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unknown_methods_are_refused_as_by_grpc_go() {
    let served = Served::start();
    let mut lock = proto::v3lockpb::lock_client::LockClient::new(served.channel().await);
    let answer = lock.lock(proto::v3lockpb::LockRequest::default()).await;
    assert_eq!(said(answer), (Code::Unimplemented, "unknown service v3lockpb.Lock".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn leases_are_granted_renewed_asked_for_and_revoked() {
    let served = Served::start();
    let channel = served.channel().await;
    let mut lease = LeaseClient::new(channel.clone());
    let grant = |ttl, id| pb::LeaseGrantRequest { ttl, id };
    let granted = lease.lease_grant(grant(1, 0)).await.expect("granted").into_inner();
    assert_eq!(granted.ttl, 2, "the minimum");
    assert!(granted.id > 0);
    assert_eq!(
        said(lease.lease_grant(grant(9_000_000_001, 0)).await),
        (Code::OutOfRange, "etcdserver: too large lease TTL".to_owned())
    );
    assert_eq!(
        said(lease.lease_grant(grant(60, granted.id)).await),
        (Code::FailedPrecondition, "etcdserver: lease already exists".to_owned())
    );
    let mut kv = KvClient::new(channel);
    kv.put(pb::PutRequest { lease: granted.id, ..put("a", "1") }).await.expect("attached");

    let ask = |id| pb::LeaseTimeToLiveRequest { id, keys: true };
    let left = lease.lease_time_to_live(ask(granted.id)).await.expect("asked").into_inner();
    assert_eq!((left.ttl, left.granted_ttl, left.keys), (2, 2, vec![Bytes::from("a")]));
    let unknown = lease.lease_time_to_live(ask(99)).await.expect("no error").into_inner();
    assert_eq!((unknown.ttl, unknown.granted_ttl, unknown.id), (-1, 0, 99));
    let all = lease.lease_leases(pb::LeaseLeasesRequest {}).await.expect("listed").into_inner();
    assert_eq!(all.leases, [pb::LeaseStatus { id: granted.id }]);

    let requests = [granted.id, 99].map(|id| pb::LeaseKeepAliveRequest { id });
    let mut renewals =
        lease.lease_keep_alive(tokio_stream::iter(requests)).await.expect("a stream").into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = renewals.message().await.expect("an answer") {
        assert_eq!(answer.header, header(2));
        answers.push((answer.id, answer.ttl));
    }
    assert_eq!(answers, [(granted.id, 2), (99, 0)]);

    let revoke = pb::LeaseRevokeRequest { id: granted.id };
    assert_eq!(lease.lease_revoke(revoke).await.expect("revoked").into_inner().header, header(3));
    assert_eq!(
        said(lease.lease_revoke(revoke).await),
        (Code::NotFound, "etcdserver: requested lease not found".to_owned())
    );
    assert_eq!(kv.range(get("a")).await.expect("range").into_inner().count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn members_are_changed_and_listed_without_a_revision() {
    let served = Served::start();
    let mut cluster = ClusterClient::new(served.channel().await);
    let add = |url: &str, is_learner| pb::MemberAddRequest {
        peer_ur_ls: vec![url.to_owned()],
        is_learner,
    };
    let added = cluster.member_add(add("http://b:1", true)).await.expect("added").into_inner();
    assert_eq!(added.header, header(0));
    let member = added.member.expect("the new one");
    assert!(member.is_learner && member.name.is_empty() && member.id != 0);
    assert_eq!(added.members.len(), 2);
    assert_eq!(
        said(cluster.member_add(add("http://c:1", true)).await),
        (Code::FailedPrecondition, "etcdserver: too many learner members in cluster".to_owned())
    );
    assert_eq!(
        said(cluster.member_add(add("c:1", false)).await),
        (Code::InvalidArgument, "etcdserver: given member URLs are invalid".to_owned())
    );
    let promote = pb::MemberPromoteRequest { id: member.id };
    let promoted = cluster.member_promote(promote).await.expect("promoted").into_inner();
    assert!(promoted.members.iter().all(|member| !member.is_learner));
    let update =
        pb::MemberUpdateRequest { id: member.id, peer_ur_ls: vec!["http://127.0.0.1:2380".into()] };
    assert_eq!(
        said(cluster.member_update(update).await),
        (Code::FailedPrecondition, "etcdserver: Peer URLs already exists".to_owned())
    );
    let remove = pb::MemberRemoveRequest { id: member.id };
    assert_eq!(cluster.member_remove(remove).await.expect("gone").into_inner().members.len(), 1);
    assert_eq!(
        said(cluster.member_remove(remove).await),
        (Code::NotFound, "etcdserver: member not found".to_owned())
    );
    let list = |linearizable| pb::MemberListRequest { linearizable };
    let listed = cluster.member_list(list(true)).await.expect("listed").into_inner();
    assert_eq!((listed.header, listed.members[0].name.as_str()), (header(0), "m1"));
    served.node.lose_leader();
    assert_eq!(
        said(cluster.member_list(list(true)).await),
        (Code::Unavailable, "etcdserver: request timed out".to_owned())
    );
    cluster.member_list(list(false)).await.expect("from this member alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn status_hashes_and_leadership_are_told() {
    let served = Served::start();
    let channel = served.channel().await;
    KvClient::new(channel.clone()).put(put("a", "1")).await.expect("put");
    let mut maintenance = MaintenanceClient::new(channel);
    let status = maintenance.status(pb::StatusRequest {}).await.expect("status").into_inner();
    assert_eq!(status.header, header(2));
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.6.8", "3.6.0"));
    assert_eq!((status.leader, status.raft_term, status.raft_index), (MEMBER_ID, TERM, 1));
    assert_eq!((status.db_size, status.db_size_in_use), (4096, 1024));
    assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
    let hash_kv = |revision| pb::HashKvRequest { revision };
    let hash = maintenance.hash_kv(hash_kv(0)).await.expect("hashed").into_inner();
    assert_eq!((hash.header, hash.hash_revision, hash.compact_revision), (header(2), 2, -1));
    assert_eq!(
        said(maintenance.hash_kv(hash_kv(9)).await),
        (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".to_owned())
    );
    assert_eq!(
        maintenance.hash(pb::HashRequest {}).await.expect("h").into_inner().header,
        header(2)
    );
    let defragmented = maintenance.defragment(pb::DefragmentRequest {}).await.expect("done");
    assert_eq!(defragmented.into_inner().header, None);
    let move_to = |target_id| pb::MoveLeaderRequest { target_id };
    assert_eq!(
        maintenance.move_leader(move_to(MEMBER_ID)).await.expect("m").into_inner().header,
        None
    );
    assert_eq!(
        said(maintenance.move_leader(move_to(9)).await),
        (Code::FailedPrecondition, "etcdserver: bad leader transferee".to_owned())
    );
    served.node.lose_leader();
    let status = maintenance.status(pb::StatusRequest {}).await.expect("status").into_inner();
    assert_eq!((status.leader, status.errors), (0, vec!["etcdserver: no leader".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn downgrades_are_refused_in_etcds_words() {
    let served = Served::start();
    let mut maintenance = MaintenanceClient::new(served.channel().await);
    let ask = |action, version: &str| pb::DowngradeRequest { action, version: version.to_owned() };
    for (request, code, message) in [
        (ask(0, "x"), Code::InvalidArgument, "wrong downgrade target version format"),
        (ask(1, "3.5"), Code::InvalidArgument, "invalid downgrade target version"),
        (ask(2, ""), Code::FailedPrecondition, "no inflight downgrade job"),
    ] {
        let expected = (code, format!("etcdserver: {message}"));
        assert_eq!(said(maintenance.downgrade(request).await), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_snapshot_comes_in_blobs_and_ends_with_its_sum() {
    let served = Served::start();
    for n in 0..200 {
        // Values that do not compress.
        let value: String =
            (0..500).map(|i| char::from(b'!' + ((i * i + n * 31) % 90) as u8)).collect();
        served.node.apply(Op::Put(put(&format!("k{n}"), &value))).expect("put");
    }
    let mut maintenance = MaintenanceClient::new(served.channel().await);
    let mut blobs = maintenance.snapshot(pb::SnapshotRequest {}).await.expect("s").into_inner();
    let mut all: Vec<pb::SnapshotResponse> = Vec::new();
    while let Some(blob) = blobs.message().await.expect("a blob") {
        all.push(blob);
    }
    let total: usize = all.iter().map(|blob| blob.blob.len()).sum();
    assert_eq!(total % 512, 32, "as etcdctl checks");
    let (last, rest) = all.split_last().expect("blobs");
    assert_eq!((last.blob.len(), last.remaining_bytes), (32, 0));
    let mut remaining = total - 32;
    for blob in rest {
        assert!(blob.blob.len() <= 32 * 1024);
        remaining -= blob.blob.len();
        assert_eq!(blob.remaining_bytes, remaining as u64);
        assert_eq!(blob.version, "3.6.0");
    }
    assert_eq!(remaining, 0);
    let file: Vec<Bytes> = all.into_iter().map(|blob| blob.blob).collect();
    let (status, parts) = state::portable::read(&file).expect("restores");
    assert_eq!((status.header.cluster_id, status.header.keys), (CLUSTER_ID, 200));
    assert_eq!(parts.applied.revision, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn authentication_is_off_and_says_so() {
    let served = Served::start();
    let mut auth = AuthClient::new(served.channel().await);
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.expect("status").into_inner();
    assert!(!status.enabled);
    let authenticate = pb::AuthenticateRequest { name: "root".into(), password: "x".into() };
    assert_eq!(
        said(auth.authenticate(authenticate).await),
        (Code::FailedPrecondition, "etcdserver: authentication is not enabled".to_owned())
    );
    auth.auth_disable(pb::AuthDisableRequest {}).await.expect("it is off already");
    assert_eq!(
        said(auth.auth_enable(pb::AuthEnableRequest {}).await),
        (
            Code::Unimplemented,
            "metastore: authentication is not supported in this version".to_owned()
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_health_service_knows_the_whole_and_its_end() {
    let served = Served::start();
    let mut health = HealthClient::new(served.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    assert_eq!(health.check(ask("")).await.expect("whole").into_inner().status, 1);
    assert_eq!(said(health.check(ask("x")).await), (Code::NotFound, "unknown service".to_owned()));
    let mut changes = health.watch(ask("")).await.expect("a stream").into_inner();
    assert_eq!(changes.message().await.expect("ok").expect("first").status, 1);
    served.stop.send_replace(true);
    assert_eq!(changes.message().await.expect("ok").expect("second").status, 2);
}

/// One watch stream.
struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn open(served: &Served, must_have_leader: bool) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if must_have_leader {
            request.metadata_mut().insert("hasleader", "true".parse().expect("ASCII"));
        }
        let mut client = WatchClient::new(served.channel().await);
        let responses = client.watch(request).await.expect("a stream").into_inner();
        Self { requests, responses }
    }

    async fn ask(&self, union: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(union) };
        self.requests.send(request).await.expect("the stream is open");
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.ask(RequestUnion::CreateRequest(request)).await;
        self.next().await
    }

    async fn next(&mut self) -> pb::WatchResponse {
        self.responses.message().await.expect("no error").expect("a response")
    }
}

fn watch_of(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_watch_is_told_events_with_full_headers_and_the_state_before() {
    let served = Served::start();
    served.node.apply(Op::Put(put("a", "1"))).expect("put");
    let mut watching = Watching::open(&served, false).await;
    let created = watching.create(pb::WatchCreateRequest { prev_kv: true, ..watch_of("a") }).await;
    assert_eq!((created.created, created.watch_id, created.header), (true, 0, header(2)));
    served.node.apply(Op::Put(put("b", "1"))).expect("put");
    served.node.apply(Op::Put(put("a", "2"))).expect("put");
    let told = watching.next().await;
    assert_eq!((told.header, told.events.len()), (header(4), 1));
    let (kv, prev) = (told.events[0].kv.clone(), told.events[0].prev_kv.clone());
    assert_eq!(kv.expect("a kv").value, "2");
    assert_eq!(prev.expect("what was before").value, "1");

    watching.ask(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await;
    let progress = watching.next().await;
    assert_eq!((progress.watch_id, progress.header, progress.events.len()), (-1, header(4), 0));
    watching.ask(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 })).await;
    let cancelled = watching.next().await;
    assert!(cancelled.canceled && cancelled.cancel_reason.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_watch_from_the_past_reads_history_and_goes_on() {
    let served = Served::start();
    for value in ["1", "2", "3"] {
        served.node.apply(Op::Put(put("a", value))).expect("put");
    }
    let mut watching = Watching::open(&served, false).await;
    let from = pb::WatchCreateRequest { start_revision: 3, ..watch_of("a") };
    assert!(watching.create(from).await.created);
    let past = watching.next().await;
    let revisions = |response: &pb::WatchResponse| -> Vec<i64> {
        response.events.iter().map(|e| e.kv.as_ref().map_or(0, |kv| kv.mod_revision)).collect()
    };
    assert_eq!(revisions(&past), [3, 4]);
    served.node.apply(Op::Put(put("a", "4"))).expect("put");
    assert_eq!(revisions(&watching.next().await), [5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_watch_of_compacted_history_is_cancelled_and_told_so() {
    let served = Served::start();
    for value in ["1", "2", "3"] {
        served.node.apply(Op::Put(put("a", value))).expect("put");
    }
    let compact = pb::CompactionRequest { revision: 4, physical: false };
    served.node.apply(Op::Compact(compact)).expect("compacted");
    let mut watching = Watching::open(&served, false).await;
    let from = pb::WatchCreateRequest { start_revision: 2, ..watch_of("a") };
    assert!(watching.create(from).await.created);
    let cancelled = watching.next().await;
    assert!(cancelled.canceled);
    assert_eq!((cancelled.compact_revision, cancelled.cancel_reason.as_str()), (4, ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_watch_is_told_its_progress() {
    let interval = Duration::from_millis(20);
    let config = Config { watch_progress_notify_interval: interval, ..Config::defaults() };
    let served = Served::start_with(&config, Content::All);
    let mut watching = Watching::open(&served, false).await;
    let created =
        watching.create(pb::WatchCreateRequest { progress_notify: true, ..watch_of("a") }).await;
    assert!(created.created);
    let progress = watching.next().await;
    assert_eq!((progress.watch_id, progress.header, progress.events.len()), (0, header(1), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_that_asked_for_a_leader_end_without_one() {
    let config = Config { election_timeout_ms: 10, ..Config::defaults() };
    let served = Served::start_with(&config, Content::All);
    let mut must = Watching::open(&served, true).await;
    let mut may = Watching::open(&served, false).await;
    assert!(must.create(watch_of("a")).await.created);
    assert!(may.create(watch_of("a")).await.created);
    served.node.lose_leader();
    assert_eq!(
        said(must.responses.message().await),
        (Code::Unavailable, "etcdserver: no leader".to_owned())
    );
    served.node.apply(Op::Put(put("a", "1"))).expect("put");
    assert_eq!(may.next().await.events.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn streams_end_when_the_member_stops() {
    let served = Served::start();
    let mut watching = Watching::open(&served, false).await;
    assert!(watching.create(watch_of("a")).await.created);
    served.stop.send_replace(true);
    assert_eq!(
        said(watching.responses.message().await),
        (Code::Unavailable, "etcdserver: server stopped".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_watch_goes_on_after_its_client_has_nothing_more_to_ask() {
    let served = Served::start();
    let mut watching = Watching::open(&served, false).await;
    assert!(watching.create(watch_of("a")).await.created);
    let (requests, _) = mpsc::channel(1);
    drop(std::mem::replace(&mut watching.requests, requests));
    served.node.apply(Op::Put(put("a", "1"))).expect("put");
    assert_eq!(watching.next().await.events.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slow_watch_gets_everything_once_it_reads() {
    let served = Served::start();
    let mut slow = Watching::open(&served, false).await;
    assert!(slow.create(watch_of("a")).await.created);
    // Far more than any buffer on the way holds.
    let value = "x".repeat(100_000);
    for _ in 0..200 {
        served.node.apply(Op::Put(put("a", &value))).expect("put");
    }
    let mut revisions = Vec::new();
    while revisions.len() < 200 {
        let response = slow.next().await;
        revisions.extend(response.events.into_iter().filter_map(|e| Some(e.kv?.mod_revision)));
    }
    assert_eq!(revisions, (2..202).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ports_serve_what_they_are_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (content, has_grpc, has_pages) in
        [(Content::All, true, true), (Content::Grpc, true, false), (Content::Pages, false, true)]
    {
        let served = Served::start_with(&Config::defaults(), content);
        let grpc = kv(&served).await.range(get("a")).await;
        assert_eq!(grpc.is_ok(), has_grpc, "{content:?}");
        let mut stream = tokio::net::TcpStream::connect(served.address).await.expect("connects");
        let request = b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert_eq!(answer.starts_with("HTTP/1.1 200"), has_pages, "{content:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stopping_server_ends_idle_connections_and_accepts_no_more() {
    let mut served = Served::start();
    let mut kv = kv(&served).await;
    kv.put(put("a", "1")).await.expect("put");
    let address = served.address;
    served.join();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    assert!(kv.put(put("a", "2")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn calls_are_counted_by_how_they_end() {
    let served = Served::start();
    let mut kv = kv(&served).await;
    kv.put(put("a", "1")).await.expect("put");
    kv.put(put("", "1")).await.expect_err("no key");
    let mut stream = kv.range_stream(everything()).await.expect("streams").into_inner();
    while stream.message().await.expect("a piece").is_some() {}
    served.node.become_learner();
    kv.put(put("a", "1")).await.expect_err("on a learner");
    let text = served.shared.metrics.scrape(&Default::default(), &Default::default());
    let of = |method: &str, kind: &str| {
        format!("grpc_method=\"{method}\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"{kind}\"")
    };
    let (put, range) = (of("Put", "unary"), of("RangeStream", "server_stream"));
    for line in [
        format!("grpc_server_started_total{{{put}}} 3"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{put}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"InvalidArgument\",{put}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"FailedPrecondition\",{put}}} 1"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{range}}} 1"),
        format!("grpc_server_handling_seconds_count{{{range}}} 1"),
        "etcd_server_client_requests_total{client_api_version=\"unknown\",type=\"unary\"} 2"
            .to_owned(),
        "metastore_client_connections 1".to_owned(),
    ] {
        assert!(text.lines().any(|have| have == line), "{line}");
    }
}
