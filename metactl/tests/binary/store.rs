//! A member in memory: enough of KV, Watch, Lease, Cluster and Maintenance for the tool to work against.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use client::proto::admin;
use client::proto::admin::admin_server::{Admin, AdminServer};
use client::proto::etcdserverpb as pb;
use client::proto::log;
use client::proto::mvccpb::{Event, KeyValue};
use futures::Stream;
use pb::cluster_server::{Cluster, ClusterServer};
use pb::kv_server::{Kv, KvServer};
use pb::lease_server::{Lease, LeaseServer};
use pb::maintenance_server::{Maintenance, MaintenanceServer};
use pb::watch_server::{Watch, WatchServer};
use tokio::sync::broadcast;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Events a slow watcher may lag behind.
const EVENTS_MAX: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) keys: BTreeMap<Vec<u8>, KeyValue>,
    revision: i64,
    /// Every second put is refused with this.
    pub(crate) refusal: Option<Status>,
    /// Every second put is never answered.
    pub(crate) is_silent: bool,
    pub(crate) puts: u64,
    /// Every second swap finds that somebody else was there before.
    pub(crate) meddles: bool,
    /// How many leases were ever granted.
    pub(crate) granted: i64,
    /// How often each lease was renewed.
    pub(crate) leases: BTreeMap<i64, u64>,
    /// Watchers of `bench/idle-` keys.
    pub(crate) idle_watchers: usize,
    /// What `MemberList` answers.
    pub(crate) members: Vec<pb::Member>,
    /// What `Observe` answers.
    pub(crate) peers: Vec<admin::PeerObservation>,
    /// What `Tuning` answers.
    pub(crate) tuning: admin::TuningResponse,
    /// What `SubmitTuning` was asked.
    pub(crate) submits: Vec<log::TuningSubmit>,
    /// What `Snapshot` sends.
    pub(crate) snapshot: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) contents: Arc<Mutex<Contents>>,
    events: broadcast::Sender<KeyValue>,
}

/// A running store; ends with its runtime.
pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Running {
    /// Cuts all connections and answers no more.
    pub(crate) fn die(&mut self) {
        drop(self.runtime.take());
    }

    /// Answers again where it did, with what it held.
    pub(crate) fn revive(&mut self) {
        let revived = serve(self.store.clone(), self.address);
        *self = revived;
    }

    /// Another endpoint of the same store.
    pub(crate) fn beside(&self) -> Running {
        serve(self.store.clone(), ANY)
    }
}

const ANY: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0));

pub(crate) fn start() -> Running {
    let store = Store {
        contents: Arc::new(Mutex::new(Contents {
            keys: BTreeMap::new(),
            revision: 1,
            refusal: None,
            is_silent: false,
            puts: 0,
            meddles: false,
            granted: 0,
            leases: BTreeMap::new(),
            idle_watchers: 0,
            members: Vec::new(),
            peers: Vec::new(),
            tuning: admin::TuningResponse::default(),
            submits: Vec::new(),
            snapshot: Vec::new(),
        })),
        events: broadcast::channel(EVENTS_MAX).0,
    };
    serve(store, ANY)
}

fn serve(store: Store, at: SocketAddr) -> Running {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind(at)).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(
        tonic::transport::Server::builder()
            .add_service(KvServer::new(store.clone()))
            .add_service(WatchServer::new(store.clone()))
            .add_service(LeaseServer::new(store.clone()))
            .add_service(MaintenanceServer::new(store.clone()))
            .add_service(ClusterServer::new(store.clone()))
            .add_service(AdminServer::new(store.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener).map(|stream| {
                // As servers do it; a client alone would wait for each answer's last packet.
                stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            })),
    );
    Running { store, address, runtime: Some(runtime) }
}

/// Accepts TLS and nothing else, until the tests are over.
pub(crate) fn start_tls(made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> SocketAddr {
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            // Whether it went well is for the other side to say.
            drop(tls.complete_io(&mut stream));
        }
    });
    address
}

/// Speaks HTTP/2 and knows no page, until the tests are over.
pub(crate) fn start_web() -> SocketAddr {
    let listener = std::net::TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever asked may have gone.
            std::thread::spawn(|| drop(answer_404(stream.unwrap())));
        }
    });
    address
}

fn answer_404(mut stream: std::net::TcpStream) -> std::io::Result<()> {
    use std::io::{Read, Write};
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    stream.read_exact(&mut [0; 24])?;
    stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let bytes = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; bytes as usize])?;
        match (head[3], head[4]) {
            (SETTINGS, 0) => stream.write_all(&[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0])?,
            (HEADERS, _) => {
                // The whole answer is the status, number 13 of HPACK's table.
                stream.write_all(&[0, 0, 1, HEADERS, 5])?;
                stream.write_all(&head[5..])?;
                stream.write_all(&[0x80 | 13])?;
            }
            _ => {}
        }
    }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { member_id: 0xabc, revision, ..Default::default() })
}

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("not in this store"))
}

impl Store {
    /// Writes a key; its revision.
    fn write(&self, request: pb::PutRequest) -> Result<i64, Status> {
        let mut contents = self.contents.lock().unwrap();
        contents.puts += 1;
        if let Some(refusal) = &contents.refusal
            && contents.puts.is_multiple_of(2)
        {
            return Err(refusal.clone());
        }
        contents.revision += 1;
        let kv = KeyValue {
            key: request.key.clone(),
            value: request.value,
            mod_revision: contents.revision,
            ..Default::default()
        };
        contents.keys.insert(request.key.to_vec(), kv.clone());
        // Nobody may be watching.
        drop(self.events.send(kv));
        Ok(contents.revision)
    }
}

#[tonic::async_trait]
impl Kv for Store {
    type RangeStreamStream = Answers<pb::RangeStreamResponse>;

    async fn range(&self, request: Request<pb::RangeRequest>) -> Answer<pb::RangeResponse> {
        let request = request.into_inner();
        let contents = self.contents.lock().unwrap();
        let (first, end) = (request.key.to_vec(), request.range_end.to_vec());
        let within = |key: &[u8]| match &end[..] {
            [] => key == first,
            [0] => key >= &first[..],
            end => key >= &first[..] && key < end,
        };
        let kvs: Vec<KeyValue> =
            contents.keys.values().filter(|kv| within(&kv.key)).cloned().collect();
        let count = kvs.len() as i64;
        let header = header(contents.revision);
        Ok(Response::new(pb::RangeResponse { header, kvs, count, more: false }))
    }

    async fn range_stream(&self, _: Request<pb::RangeRequest>) -> Answer<Self::RangeStreamStream> {
        unused()
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Answer<pb::PutResponse> {
        let is_silent = {
            let contents = self.contents.lock().unwrap();
            contents.is_silent && contents.puts.is_multiple_of(2)
        };
        if is_silent {
            self.contents.lock().unwrap().puts += 1;
            return std::future::pending().await;
        }
        let revision = self.write(request.into_inner())?;
        Ok(Response::new(pb::PutResponse { header: header(revision), prev_kv: None }))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Answer<pb::DeleteRangeResponse> {
        let mut contents = self.contents.lock().unwrap();
        let deleted = i64::from(contents.keys.remove(&request.into_inner().key[..]).is_some());
        Ok(Response::new(pb::DeleteRangeResponse { deleted, ..Default::default() }))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Answer<pb::TxnResponse> {
        use pb::compare::{CompareTarget, TargetUnion};
        use pb::request_op::Request as Op;
        let request = request.into_inner();
        let (compare, success) = (&request.compare[0], request.success[0].clone());
        let Some(Op::RequestPut(put)) = success.request else { return unused() };
        if self.contents.lock().unwrap().meddles
            && self.contents.lock().unwrap().puts.is_multiple_of(2)
        {
            self.write(put.clone())?;
        }
        let found = self.contents.lock().unwrap().keys.get(&compare.key[..]).cloned();
        let revision = found.as_ref().map_or(0, |kv| kv.mod_revision);
        let is_equal = compare.target() == CompareTarget::Mod
            && compare.target_union == Some(TargetUnion::ModRevision(revision));
        if is_equal {
            let header = header(self.write(put)?);
            return Ok(Response::new(pb::TxnResponse {
                header,
                succeeded: true,
                ..Default::default()
            }));
        }
        let range = pb::RangeResponse { kvs: found.into_iter().collect(), ..Default::default() };
        let response = Some(pb::response_op::Response::ResponseRange(range));
        Ok(Response::new(pb::TxnResponse {
            header: header(self.contents.lock().unwrap().revision),
            succeeded: false,
            responses: vec![pb::ResponseOp { response }],
        }))
    }

    async fn compact(&self, _: Request<pb::CompactionRequest>) -> Answer<pb::CompactionResponse> {
        unused()
    }
}

#[tonic::async_trait]
impl Watch for Store {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Answer<Self::WatchStream> {
        use pb::watch_request::RequestUnion;
        let mut requests = request.into_inner();
        let Some(RequestUnion::CreateRequest(first)) =
            requests.message().await?.and_then(|request| request.request_union)
        else {
            return unused();
        };
        if first.key.starts_with(b"bench/idle-") {
            let contents = Arc::clone(&self.contents);
            let first =
                pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(first)) };
            let requests = tokio_stream::once(Ok(first)).chain(requests);
            let answers = requests.map(move |request| {
                request?;
                contents.lock().unwrap().idle_watchers += 1;
                Ok(pb::WatchResponse { created: true, ..Default::default() })
            });
            return Ok(Response::new(Box::pin(answers)));
        }
        let (events, revision, past) = {
            let contents = self.contents.lock().unwrap();
            // Of each key the newest alone is kept.
            let is_past = |kv: &&KeyValue| {
                first.start_revision > 0 && kv.mod_revision >= first.start_revision
            };
            let mut past: Vec<_> = contents.keys.values().filter(is_past).cloned().collect();
            past.sort_by_key(|kv| kv.mod_revision);
            (self.events.subscribe(), contents.revision, past)
        };
        let created =
            pb::WatchResponse { header: header(revision), created: true, ..Default::default() };
        let past = tokio_stream::iter(past.into_iter().map(Ok));
        let events = past.chain(BroadcastStream::new(events)).map(|kv| {
            let kv = kv.map_err(|lag| Status::internal(lag.to_string()))?;
            Ok(pb::WatchResponse {
                header: header(kv.mod_revision),
                events: vec![Event { kv: Some(kv), ..Default::default() }],
                ..Default::default()
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(created)).chain(events))))
    }
}

#[tonic::async_trait]
impl Lease for Store {
    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Answer<pb::LeaseGrantResponse> {
        let mut contents = self.contents.lock().unwrap();
        let id = i64::MAX - contents.granted;
        contents.granted += 1;
        contents.leases.insert(id, 0);
        let ttl = request.into_inner().ttl;
        Ok(Response::new(pb::LeaseGrantResponse { id, ttl, ..Default::default() }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let contents = Arc::clone(&self.contents);
        let answers = request.into_inner().map(move |request| {
            let id = request?.id;
            // The lease of the highest number has run out.
            let ttl = if id == i64::MAX { 0 } else { 60 };
            *contents.lock().unwrap().leases.get_mut(&id).unwrap() += 1;
            Ok(pb::LeaseKeepAliveResponse { header: header(1), id, ttl })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Answer<pb::LeaseRevokeResponse> {
        match self.contents.lock().unwrap().leases.remove(&request.into_inner().id) {
            Some(_) => Ok(Response::new(pb::LeaseRevokeResponse { header: header(1) })),
            None => Err(Status::not_found("etcdserver: requested lease not found")),
        }
    }

    async fn lease_time_to_live(
        &self,
        _: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Answer<pb::LeaseTimeToLiveResponse> {
        unused()
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Answer<pb::LeaseLeasesResponse> {
        unused()
    }
}

#[tonic::async_trait]
impl Maintenance for Store {
    type SnapshotStream = Answers<pb::SnapshotResponse>;

    async fn status(&self, _: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        Ok(Response::new(pb::StatusResponse {
            header: header(self.contents.lock().unwrap().revision),
            version: "3.6.0".into(),
            leader: 0xabc,
            ..Default::default()
        }))
    }

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Answer<Self::SnapshotStream> {
        let snapshot = self.contents.lock().unwrap().snapshot.clone();
        let pieces: Vec<_> = snapshot
            .chunks(1000)
            .map(|piece| {
                Ok(pb::SnapshotResponse { blob: piece.to_vec().into(), ..Default::default() })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn alarm(&self, _: Request<pb::AlarmRequest>) -> Answer<pb::AlarmResponse> {
        unused()
    }

    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Answer<pb::DefragmentResponse> {
        unused()
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Answer<pb::HashResponse> {
        unused()
    }

    async fn hash_kv(&self, _: Request<pb::HashKvRequest>) -> Answer<pb::HashKvResponse> {
        unused()
    }

    async fn move_leader(
        &self,
        _: Request<pb::MoveLeaderRequest>,
    ) -> Answer<pb::MoveLeaderResponse> {
        unused()
    }

    async fn downgrade(&self, _: Request<pb::DowngradeRequest>) -> Answer<pb::DowngradeResponse> {
        unused()
    }
}

#[tonic::async_trait]
impl Admin for Store {
    async fn observe(&self, _: Request<admin::ObserveRequest>) -> Answer<admin::ObserveResponse> {
        let peers = self.contents.lock().unwrap().peers.clone();
        Ok(Response::new(admin::ObserveResponse { peers, ..Default::default() }))
    }

    async fn tuning(&self, _: Request<admin::TuningRequest>) -> Answer<admin::TuningResponse> {
        Ok(Response::new(self.contents.lock().unwrap().tuning.clone()))
    }

    async fn log_level(
        &self,
        request: Request<admin::LogLevelRequest>,
    ) -> Answer<admin::LogLevelResponse> {
        let level = request.into_inner().level;
        let level = if level.is_empty() { String::from("info") } else { level };
        Ok(Response::new(admin::LogLevelResponse { member_id: 0xabc, level }))
    }

    async fn submit_tuning(
        &self,
        request: Request<admin::SubmitTuningRequest>,
    ) -> Answer<admin::SubmitTuningResponse> {
        let submit = request.into_inner().submit.unwrap_or_default();
        let epoch = submit.expected_epoch + 1;
        let mut contents = self.contents.lock().unwrap();
        let tuning = contents.tuning.tuning.get_or_insert_default();
        (tuning.epoch, tuning.phase, tuning.to) = (epoch, 5, submit.to);
        contents.submits.push(submit);
        Ok(Response::new(admin::SubmitTuningResponse { epoch }))
    }
}

#[tonic::async_trait]
impl Cluster for Store {
    async fn member_list(
        &self,
        _: Request<pb::MemberListRequest>,
    ) -> Answer<pb::MemberListResponse> {
        let members = self.contents.lock().unwrap().members.clone();
        Ok(Response::new(pb::MemberListResponse { members, ..Default::default() }))
    }

    async fn member_add(&self, _: Request<pb::MemberAddRequest>) -> Answer<pb::MemberAddResponse> {
        unused()
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Answer<pb::MemberRemoveResponse> {
        unused()
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Answer<pb::MemberUpdateResponse> {
        unused()
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Answer<pb::MemberPromoteResponse> {
        unused()
    }
}
