//! What gRPC alone costs: etcd's KV service whose `Put` answers at once and does nothing, and an
//! ordinary client of it, each on one current-thread runtime, in the words of tonic's own examples.
//! `cargo xtask bench-vs-etcd` puts the server's CPU per put and its throughput beside them.
//!
//! `cargo run --release -p server --example echo ADDRESS`; a signal ends it.
//! `… echo call ADDRESS [--connections N] [--calls N] [--seconds N]` calls it, so many calls under way
//! at any time, and says in JSON how many were answered in a second and after how many milliseconds.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::kv_server::{Kv, KvServer};
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest,
    TxnResponse,
};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

/// The member's allocator, or the two would differ by more than their work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Numbers as long as a member's.
const CLUSTER_ID: u64 = 0x9d6c_8f1e_2b3a_4c5d;
const MEMBER_ID: u64 = 0x8e9e_05c5_2164_694d;

/// Answers puts. It is no store: whatever else is asked is refused.
#[derive(Default)]
struct Echo {
    revision: AtomicI64,
}

#[tonic::async_trait]
impl Kv for Echo {
    async fn put(&self, _put: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let header = ResponseHeader {
            cluster_id: CLUSTER_ID,
            member_id: MEMBER_ID,
            revision: 1 + self.revision.fetch_add(1, Ordering::Relaxed),
            raft_term: 2,
        };
        Ok(Response::new(PutResponse { header: Some(header), prev_kv: None }))
    }

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        Err(refused())
    }

    type RangeStreamStream = tokio_stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(refused())
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(refused())
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Err(refused())
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        Err(refused())
    }
}

fn refused() -> Status {
    Status::unimplemented("the echo answers puts only")
}

/// What the client is asked to do. Unsaid: what the ceiling of gRPC was measured with.
#[derive(Clone, Copy, Debug)]
struct Load {
    address: SocketAddr,
    connections: usize,
    /// Under way at any time, over all connections.
    calls: usize,
    /// Measured, after [`WARM_UP`].
    seconds: u64,
}

const CONNECTIONS_MAX: usize = 10_000;
const CALLS_MAX: usize = 100_000;
/// Every latency is kept until the end: some megabytes a minute.
const SECONDS_MAX: u64 = 60;
/// Connections grow their windows and the allocator its pages before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// Longest wait for one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// As `metactl bench` puts.
const KEY: &[u8] = b"bench/0000000000";
const VALUE_BYTES: usize = 256;

impl Load {
    fn parse(words: &mut dyn Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let address = address(words.next())?;
        let mut load = Load { address, connections: 64, calls: 1_000, seconds: 8 };
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag}: a value is missing"))?;
            let number = |most: u64| {
                let number = value.parse().ok().filter(|number| (1..=most).contains(number));
                number.ok_or_else(|| format!("{flag} {value:?}: from 1 to {most}"))
            };
            match &*flag {
                "--connections" => load.connections = number(CONNECTIONS_MAX as u64)? as usize,
                "--calls" => load.calls = number(CALLS_MAX as u64)? as usize,
                "--seconds" => load.seconds = number(SECONDS_MAX)?,
                _ => return Err(format!("echo: unknown flag {flag}").into()),
            }
        }
        Ok(load)
    }

    /// Calls until the time is over; what that gave, as one line of JSON.
    async fn run(self) -> Result<String, Box<dyn Error>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))?
            .connect_timeout(CONNECT_TIMEOUT);
        let mut channels = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            channels.push(endpoint.connect().await?);
        }
        let begins = Instant::now() + WARM_UP;
        let ends = begins + Duration::from_secs(self.seconds);
        let mut callers = JoinSet::new();
        for number in 0..self.calls {
            let channel = channels[number % self.connections].clone();
            callers.spawn(call(KvClient::new(channel), begins, ends));
        }
        let (mut calls, mut latencies_us) = (0, Vec::new());
        while let Some(caller) = callers.join_next().await {
            let (made, measured_us) = caller??;
            calls += made;
            latencies_us.extend(measured_us);
        }
        latencies_us.sort_unstable();
        let answered = latencies_us.len();
        if answered == 0 {
            return Err("echo: no call was answered in time".into());
        }
        // Of what is sorted: the value that so large a part does not exceed.
        let ms = |part: f64| {
            let rank = (part * answered as f64).ceil() as usize;
            f64::from(latencies_us[rank.clamp(1, answered) - 1]) / 1e3
        };
        let sum_us: u64 = latencies_us.iter().copied().map(u64::from).sum();
        let said = serde_json::json!({
            "ops_per_s": answered as f64 / self.seconds as f64,
            // All there were, those of the warm-up among them.
            "calls": calls,
            "latency": {
                "mean_ms": sum_us as f64 / 1e3 / answered as f64,
                "p50_ms": ms(0.5),
                "p99_ms": ms(0.99),
            },
        });
        Ok(said.to_string())
    }
}

/// One call after the other. How many, and the latency in microseconds of each that was answered
/// between the two moments.
async fn call(
    mut client: KvClient<Channel>,
    begins: Instant,
    ends: Instant,
) -> Result<(u64, Vec<u32>), Status> {
    let value = Bytes::from(vec![0x5a; VALUE_BYTES]);
    let (mut calls, mut latencies_us) = (0, Vec::new());
    loop {
        let called = Instant::now();
        if called >= ends {
            return Ok((calls, latencies_us));
        }
        let put = PutRequest {
            key: Bytes::from_static(KEY),
            value: value.clone(),
            ..PutRequest::default()
        };
        client.put(put).await?;
        calls += 1;
        let answered = Instant::now();
        if (begins..ends).contains(&answered) {
            let us = answered.duration_since(called).as_micros();
            latencies_us.push(u32::try_from(us).unwrap_or(u32::MAX));
        }
    }
}

fn address(word: Option<String>) -> Result<SocketAddr, Box<dyn Error>> {
    let word = word.ok_or("echo: an address is missing")?;
    Ok(word.parse().map_err(|error| format!("{word:?}: {error}"))?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let first = words.next();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if first.as_deref() == Some("call") {
        let said = runtime.block_on(Load::parse(&mut words)?.run())?;
        return Ok(writeln!(std::io::stdout(), "{said}")?);
    }
    let echo = KvServer::new(Echo::default());
    let server = tonic::transport::Server::builder().add_service(echo);
    Ok(runtime.block_on(server.serve(address(first)?))?)
}
