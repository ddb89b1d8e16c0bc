//! What gRPC alone costs: etcd's KV service whose `Put` answers at once and does nothing, on one
//! current-thread runtime, in the words of tonic's own examples. `cargo xtask bench-vs-etcd` puts the
//! server's CPU per put beside it.
//!
//! `cargo run --release -p server --example echo ADDRESS`; a signal ends it.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};

use proto::etcdserverpb::kv_server::{Kv, KvServer};
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest,
    TxnResponse,
};
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

fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = match std::env::args().nth(1) {
        Some(address) => address.parse().map_err(|error| format!("{address:?}: {error}"))?,
        None => return Err("echo: an address to listen at is missing".into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let echo = KvServer::new(Echo::default());
    Ok(runtime.block_on(tonic::transport::Server::builder().add_service(echo).serve(address))?)
}
