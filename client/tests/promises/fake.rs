//! A member that does what a test tells it to, on a real socket and a runtime of its own, so that it
//! can die as a process dies: all connections at once, whatever is under way.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use client::proto::etcdserverpb as pb;
use futures::Stream;
use pb::kv_server::{Kv, KvServer};
use pb::lease_server::{Lease, LeaseServer};
use pb::watch_server::{Watch, WatchServer};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a call meets.
#[derive(Clone, Debug, Default)]
pub(crate) enum Mood {
    #[default]
    Answers,
    Refuses(Status),
    /// Takes the request in and never answers.
    Hangs,
}

/// One watch stream: what is sent after the request came, and how it ends.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) answers: Vec<pb::WatchResponse>,
    /// `None`: the stream stays open.
    pub(crate) end: Option<Status>,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) mood: Mutex<Mood>,
    pub(crate) puts: AtomicUsize,
    pub(crate) ranges: AtomicUsize,
    pub(crate) scripts: Mutex<VecDeque<Script>>,
    pub(crate) watches: Mutex<Vec<pb::WatchCreateRequest>>,
    pub(crate) lease_ttl_s: Mutex<i64>,
    /// Counts requests that were taken in, for tests to wait on.
    pub(crate) taken: watch::Sender<usize>,
}

impl Seen {
    async fn meet<T>(&self, answer: T) -> Answer<T> {
        let mood = self.mood.lock().unwrap().clone();
        self.taken.send_modify(|taken| *taken += 1);
        match mood {
            Mood::Answers => Ok(Response::new(answer)),
            Mood::Refuses(status) => Err(status),
            Mood::Hangs => std::future::pending().await,
        }
    }
}

pub(crate) struct Fake {
    pub(crate) seen: Arc<Seen>,
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let seen = Arc::new(Seen::default());
        let listener = runtime.block_on_elsewhere();
        let address = listener.local_addr().unwrap();
        let member = Member(Arc::clone(&seen));
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(KvServer::new(member.clone()))
                .add_service(WatchServer::new(member.clone()))
                .add_service(LeaseServer::new(member))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Fake { seen, address, runtime: Some(runtime) }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn mood(&self, mood: Mood) {
        *self.seen.mood.lock().unwrap() = mood;
    }

    pub(crate) fn puts(&self) -> usize {
        self.seen.puts.load(Ordering::SeqCst)
    }

    pub(crate) fn ranges(&self) -> usize {
        self.seen.ranges.load(Ordering::SeqCst)
    }

    /// Returns once `count` requests have been taken in.
    pub(crate) async fn taken(&self, count: usize) {
        let mut taken = self.seen.taken.subscribe();
        taken.wait_for(|taken| *taken >= count).await.unwrap();
    }

    /// Dies with everything that is under way.
    pub(crate) fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.die();
    }
}

/// A port of this machine that nobody listens on.
pub(crate) fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

trait BindOn {
    fn block_on_elsewhere(&self) -> tokio::net::TcpListener;
}

impl BindOn for Runtime {
    /// Binds within this runtime, also when called from inside another one.
    fn block_on_elsewhere(&self) -> tokio::net::TcpListener {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let _inside = self.enter();
        tokio::net::TcpListener::from_std(listener).unwrap()
    }
}

#[derive(Clone)]
struct Member(Arc<Seen>);

fn header() -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision: 7, ..Default::default() })
}

#[tonic::async_trait]
impl Kv for Member {
    type RangeStreamStream = Answers<pb::RangeStreamResponse>;

    async fn range(&self, _: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        self.0.ranges.fetch_add(1, Ordering::SeqCst);
        self.0.meet(pb::RangeResponse { header: header(), ..Default::default() }).await
    }

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Answer<Self::RangeStreamStream> {
        Err(Status::unimplemented("range stream"))
    }

    async fn put(&self, _: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        self.0.puts.fetch_add(1, Ordering::SeqCst);
        self.0.meet(pb::PutResponse { header: header(), prev_kv: None }).await
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Answer<pb::DeleteRangeResponse> {
        self.0.meet(pb::DeleteRangeResponse::default()).await
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        self.0.meet(pb::TxnResponse::default()).await
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        self.0.meet(pb::CompactionResponse::default()).await
    }
}

#[tonic::async_trait]
impl Watch for Member {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(
        &self,
        requests: Request<Streaming<pb::WatchRequest>>,
    ) -> Answer<Self::WatchStream> {
        let mut requests = requests.into_inner();
        let first = requests.message().await?.unwrap();
        let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = first.request_union
        else {
            return Err(Status::invalid_argument("no create request"));
        };
        self.0.watches.lock().unwrap().push(create);
        let Some(script) = self.0.scripts.lock().unwrap().pop_front() else {
            return Err(Status::failed_precondition("the script is over"));
        };
        let (send, receive) = mpsc::channel(64);
        tokio::spawn(async move {
            for answer in script.answers {
                send.send(Ok(answer)).await.unwrap();
            }
            match script.end {
                Some(status) => send.send(Err(status)).await.unwrap(),
                // Holds the stream open for as long as the client does.
                None => while let Ok(Some(_)) = requests.message().await {},
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

#[tonic::async_trait]
impl Lease for Member {
    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Answer<pb::LeaseGrantResponse> {
        let ttl = request.into_inner().ttl;
        self.0.meet(pb::LeaseGrantResponse { id: 5, ttl, ..Default::default() }).await
    }

    async fn lease_revoke(
        &self,
        _: Request<pb::LeaseRevokeRequest>,
    ) -> Answer<pb::LeaseRevokeResponse> {
        self.0.meet(pb::LeaseRevokeResponse::default()).await
    }

    async fn lease_keep_alive(
        &self,
        requests: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let id = requests.into_inner().message().await?.unwrap().id;
        let ttl = *self.0.lease_ttl_s.lock().unwrap();
        let answer = pb::LeaseKeepAliveResponse { id, ttl, header: header() };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(answer)]))))
    }

    async fn lease_time_to_live(
        &self,
        _: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Answer<pb::LeaseTimeToLiveResponse> {
        self.0.meet(pb::LeaseTimeToLiveResponse::default()).await
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Answer<pb::LeaseLeasesResponse> {
        self.0.meet(pb::LeaseLeasesResponse::default()).await
    }
}
