//! Keys: read, written, streamed, and what is refused.

use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{request_op, response_op};
use proto::log::command::Op;
use tonic::Code;

use super::{everything, get, header, kv, put, said};
use crate::config::Config;
use crate::fake::{MEMBER_ID, Served};
use crate::serve::Content;

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
