//! Keys and values. A write is proposed and answered with its outcome; a read is answered from a view
//! on the caller's own task, after ReadIndex unless the client said that a stale answer will do.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use prost::Message;
use proto::etcdserverpb::kv_server::Kv;
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use proto::log::command::Op;
use proto::mvccpb::KeyValue;
use state::{KeyRange, Record, Response as Applied, StateError, View, check, txn, view};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Shared;
use super::error::state_status;
use crate::door::{AppliedOutcome, Door, RequestError};
use crate::telemetry::call::note_key;

/// A range with more keys is put together beside the client threads, not on one of them.
const INLINE_KEYS_MAX: i64 = 1_000;
/// Records of the first piece of a streamed range; the client has something soon.
const FIRST_PIECE_RECORDS: usize = 10;
/// Pieces of a streamed range that wait for the client.
const PIECES_WAITING_MAX: usize = 2;
/// How often a newer view is looked for when compaction has overtaken one. The newest can be pinned but
/// for the moment in which a still newer one is published.
const PIN_TRIES_MAX: usize = 16;
/// How often a physical compaction is asked whether it is done.
const SWEEP_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The service.
pub(super) struct KvService<D> {
    shared: Arc<Shared<D>>,
}

type Pieces = Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

impl<D: Door> KvService<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }

    async fn view(&self, serializable: bool) -> Result<View, Status> {
        if serializable {
            Ok(self.shared.door.view())
        } else {
            Ok(self.shared.door.linearizable_view().await?)
        }
    }

    async fn answer_range(
        &self,
        view: View,
        request: RangeRequest,
    ) -> Result<RangeResponse, Status> {
        let may_be_large = !request.range_end.is_empty()
            && !request.count_only
            && !(1..=INLINE_KEYS_MAX).contains(&request.limit);
        let is_large = may_be_large && {
            let count = RangeRequest { count_only: true, ..request.clone() };
            view.range(&count).map_err(state_status)?.count > INLINE_KEYS_MAX
        };
        let at_hand = if is_large { None } else { view.range_at_hand(&request) };
        let answer = match at_hand {
            Some(answer) => answer,
            None => self.shared.read_beside(view, move |view| view.range(&request)).await?,
        };
        answer.map_err(state_status)
    }

    /// Reads a range.
    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        if !request.serializable {
            self.shared.refuse_on_learner()?;
        }
        check::range(&request).map_err(state_status)?;
        note_key(&request.key);
        let view = self.view(request.serializable).await?;
        self.shared.metrics.mvcc_ranges.inc();
        let began = Instant::now();
        let answer = self.answer_range(view, request).await;
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.metrics.ranges.note(us, answer.is_ok());
        let mut response = answer?;
        self.shared.fill(&mut response.header, self.shared.door.leadership().term);
        Ok(response)
    }

    /// Writes one key.
    pub(super) async fn put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        check::put(&request).map_err(state_status)?;
        note_key(&request.key);
        self.shared.refuse_over_quota(check::put_quota_cost(&request)).await?;
        let outcome = self.shared.propose(Op::Put(request)).await?;
        let Applied::Put(mut response) = outcome.response else {
            return Err(Shared::<D>::mismatch(&outcome));
        };
        self.shared.fill(&mut response.header, outcome.term);
        Ok(response)
    }

    /// Deletes a range.
    pub(super) async fn delete_range(
        &self,
        request: DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Status> {
        check::delete_range(&request).map_err(state_status)?;
        note_key(&request.key);
        let outcome = self.shared.propose(Op::DeleteRange(request)).await?;
        let Applied::DeleteRange(mut response) = outcome.response else {
            return Err(Shared::<D>::mismatch(&outcome));
        };
        self.shared.fill(&mut response.header, outcome.term);
        Ok(response)
    }

    /// Does a txn: through the log if it may write.
    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        check::txn(&request, self.shared.settings.txn_ops_max).map_err(state_status)?;
        if txn::is_read_only(&request) {
            let view = self.view(txn::is_serializable(&request)).await?;
            let response = if view.values().are_in_memory() {
                view.txn_read_only(&request)
            } else {
                self.shared.read_beside(view, move |view| view.txn_read_only(&request)).await?
            };
            let mut response = response.map_err(state_status)?;
            self.fill_txn(&mut response, self.shared.door.leadership().term);
            return Ok(response);
        }
        self.shared.refuse_over_quota(check::txn_quota_cost(&request)).await?;
        let outcome = self.shared.propose(Op::Txn(request)).await?;
        let Applied::Txn(mut response) = outcome.response else {
            return Err(Shared::<D>::mismatch(&outcome));
        };
        self.fill_txn(&mut response, outcome.term);
        Ok(response)
    }

    /// Fills the header of the txn and, as etcd does, only the revision of those inside.
    fn fill_txn(&self, response: &mut TxnResponse, term: u64) {
        self.shared.fill(&mut response.header, term);
    }
}

impl<D: Door> Shared<D> {
    /// Computes something long on a thread of its own, if not too many do already.
    pub(super) async fn beside<T: Send + 'static>(
        &self,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let _place = self.heavy.acquire().await.map_err(|_| Status::from(RequestError::Stopped))?;
        tokio::task::spawn_blocking(compute)
            .await
            .map_err(|error| RequestError::Other(error.to_string()).into())
    }

    /// As [`Shared::beside`], of what reads values: of a view, or of a newer one if compaction has
    /// overtaken it.
    pub(super) async fn read_beside<T: Send + 'static>(
        &self,
        view: View,
        compute: impl FnOnce(&View) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let door = self.door.clone();
        let read = move || pinned(view, &door).map(|(view, _pin)| compute(&view));
        Ok(self.beside(read).await??)
    }

    /// Records of a view as clients see them. Unlike a whole range they cannot be taken from a newer view:
    /// whoever lists on at a revision that is compacted meanwhile, and whose values are gone, is told so.
    async fn key_values(&self, view: &View, records: Vec<Record>) -> Result<Vec<KeyValue>, Status> {
        let at_hand = |record: &Record| {
            if record.is_whole() {
                return Some(record.to_key_value());
            }
            view.values().at_hand(record).map(|whole| whole.to_key_value())
        };
        if let Some(kvs) = records.iter().map(at_hand).collect() {
            return Ok(kvs);
        }
        let view = view.clone();
        let read = move || {
            let _pin = view.pin().ok_or(StateError::Compacted)?;
            Ok(records.iter().map(|record| view.values().key_value(record)).collect())
        };
        self.beside(read).await?.map_err(state_status)
    }

    /// The answer to a command that can only be of one kind.
    pub(super) fn mismatch(outcome: &AppliedOutcome) -> Status {
        RequestError::Other(format!("entry {}: answer of another kind", outcome.index)).into()
    }
}

/// A view that compaction has not overtaken, and what keeps it from doing so: the one given, or else the
/// newest.
pub(super) fn pinned<D: Door>(view: View, door: &D) -> Result<(View, state::Pin), RequestError> {
    let mut view = view;
    for _ in 0..PIN_TRIES_MAX {
        if let Some(pin) = view.pin() {
            return Ok((view, pin));
        }
        view = door.view();
    }
    Err(RequestError::TooManyRequests)
}

#[tonic::async_trait]
impl<D: Door> Kv for KvService<D> {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        KvService::range(self, request.into_inner()).await.map(Response::new)
    }

    type RangeStreamStream = Pieces;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Pieces>, Status> {
        let request = request.into_inner();
        check::range(&request).map_err(state_status)?;
        if !view::is_streamable(&request) {
            let without_filters = RangeRequest {
                min_mod_revision: 0,
                max_mod_revision: 0,
                min_create_revision: 0,
                max_create_revision: 0,
                ..request
            };
            let what = if view::is_streamable(&without_filters) {
                "revision filters"
            } else {
                "custom sort orders"
            };
            return Err(Status::unimplemented(format!("RangeStream does not support {what}")));
        }
        let view = self.view(request.serializable).await?;
        self.shared.metrics.mvcc_ranges.inc();
        let mut summary = view.range_summary(&request).map_err(state_status)?;
        self.shared.fill(&mut summary.header, self.shared.door.leadership().term);
        if request.count_only {
            let only = Ok(RangeStreamResponse { range_response: Some(summary) });
            return Ok(Response::new(Box::pin(tokio_stream::once(only))));
        }
        let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
        let bytes_max = self.shared.settings.request_bytes_max;
        let shared = Arc::clone(&self.shared);
        tokio::spawn(stream_range(shared, view, request, summary, bytes_max, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        KvService::put(self, request.into_inner()).await.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        KvService::delete_range(self, request.into_inner()).await.map(Response::new)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        KvService::txn(self, request.into_inner()).await.map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let request = request.into_inner();
        let is_physical = request.physical;
        let outcome = self.shared.propose(Op::Compact(request)).await?;
        let Applied::Compact(mut response) = outcome.response else {
            return Err(Shared::<D>::mismatch(&outcome));
        };
        if is_physical {
            wait_for_sweep(&self.shared.door, self.shared.settings.request_timeout).await?;
        }
        self.shared.fill(&mut response.header, outcome.term);
        Ok(Response::new(response))
    }
}

async fn wait_for_sweep<D: Door>(door: &D, timeout: Duration) -> Result<(), Status> {
    let swept = async {
        while door.view().is_compacting() {
            tokio::time::sleep(SWEEP_POLL_INTERVAL).await;
        }
    };
    tokio::time::timeout(timeout, swept).await.map_err(|_| RequestError::Timeout.into())
}

/// Sends a range piece by piece; the last one carries header, count and whether there is more.
async fn stream_range<D: Door>(
    shared: Arc<Shared<D>>,
    view: View,
    request: RangeRequest,
    summary: RangeResponse,
    bytes_max: usize,
    sender: mpsc::Sender<Result<RangeStreamResponse, Status>>,
) {
    let revision = if request.revision > 0 { request.revision } else { view.revision() };
    let mut left = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let mut records_max = FIRST_PIECE_RECORDS;
    let mut from: Option<Vec<u8>> = None;
    loop {
        let range = KeyRange::new(&request.key, &request.range_end);
        let page_max = left.map_or(records_max, |left| left.min(records_max));
        let page = match view.range_page(range, revision, from.as_deref(), page_max, bytes_max) {
            Ok(page) => page,
            Err(error) => {
                // The receiver may be gone; then nobody is left to tell.
                let _ = sender.send(Err(state_status(error))).await;
                return;
            }
        };
        let sent = page.records.len();
        let kvs = if request.keys_only {
            Ok(page.records.iter().map(Record::to_key_only).collect())
        } else {
            shared.key_values(&view, page.records).await
        };
        let kvs = match kvs {
            Ok(kvs) => kvs,
            Err(status) => {
                let _ = sender.send(Err(status)).await;
                return;
            }
        };
        let mut piece = RangeResponse { kvs, ..RangeResponse::default() };
        left = left.map(|left| left - sent);
        from = page.next_key;
        let is_last = from.is_none() || left == Some(0);
        if is_last {
            piece.header = summary.header;
            piece.count = summary.count;
            piece.more = summary.more;
        } else if piece.encoded_len() < bytes_max / 2 {
            records_max = records_max.saturating_mul(2);
        }
        let piece = RangeStreamResponse { range_response: Some(piece) };
        if sender.send(Ok(piece)).await.is_err() || is_last {
            return;
        }
    }
}
