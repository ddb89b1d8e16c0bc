//! What holds for every call, and for the connections below: metadata, deadlines, sockets, counts.

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use super::{everything, get, kv, put, said};
use crate::config::{Config, Url};
use crate::fake::Served;
use crate::serve::{Content, bind_for_test};

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
    // No other test listens on this address, so that nobody takes the port when it is free.
    let url = Url::parse("http://127.0.0.2:0").expect("a URL");
    let listener = bind_for_test(Content::All, &url).expect("bound");
    let address = listener.tcp_address().expect("an address");
    let mut served = Served::start_on(&Config::defaults(), listener, address);
    let mut kv = kv(&served).await;
    kv.put(put("a", "1")).await.expect("put");
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
