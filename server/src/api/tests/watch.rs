//! Watches over one stream.

use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::log::command::Op;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};

use super::{header, put, said};
use crate::config::Config;
use crate::fake::Served;
use crate::serve::Content;

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
