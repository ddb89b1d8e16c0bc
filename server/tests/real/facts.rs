//! What a user does first, against one member and against every member of three.

use client::{Client, Delete, Get, KeyRange, Put, Txn, WatchOf, When};
use proto::etcdserverpb::compare::CompareResult;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::{LeaseKeepAliveRequest, PutRequest, RangeRequest};
use tonic::transport::Endpoint;

use crate::cluster::{Cluster, PATIENCE, Setup};

async fn use_everything(client: &Client, prefix: &str) {
    let key = |name: &str| format!("{prefix}/{name}");

    let first = client.put(Put::new(key("a"), "1")).await.expect("put");
    let first_revision = first.header.expect("header").revision;
    let second = client.put(Put::new(key("a"), "2").prev_kv()).await.expect("put");
    assert_eq!(second.prev_kv.expect("previous").value, "1");
    let got = client.get(Get::new(key("a"))).await.expect("get");
    assert_eq!((got.count, got.kvs[0].value.as_ref(), got.kvs[0].version), (1, &b"2"[..], 2));
    let past = client.get(Get::new(key("a")).revision(first_revision)).await.expect("get");
    assert_eq!(past.kvs[0].value, "1");

    let swap = |expected: &str| {
        Txn::new()
            .when(When::value(key("a"), CompareResult::Equal, expected.to_owned()))
            .then(Put::new(key("a"), "3"))
            .otherwise(Get::new(key("a")))
    };
    assert!(client.txn(swap("2")).await.expect("txn").succeeded);
    assert!(!client.txn(swap("2")).await.expect("txn").succeeded);

    let watch = WatchOf::new(KeyRange::prefix(prefix.to_owned())).start_revision(first_revision);
    let mut watch = client.watch(watch).await.expect("watch");
    let mut values = Vec::new();
    while values.len() < 3 {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        for event in next.expect("events").events {
            values.push(event.kv.expect("kv").value);
        }
    }
    assert_eq!(values, ["1", "2", "3"]);

    let lease = client.lease_grant(600, 0).await.expect("grant");
    client.put(Put::new(key("leased"), "x").lease(lease.id)).await.expect("put");
    assert_eq!(client.lease_keep_alive_once(lease.id).await.expect("kept alive"), 600);
    let left = client.lease_time_to_live(lease.id, true).await.expect("ttl");
    assert_eq!((left.granted_ttl, left.keys.len()), (600, 1));
    client.lease_revoke(lease.id).await.expect("revoke");
    assert_eq!(client.get(Get::new(key("leased"))).await.expect("get").count, 0);

    let deleted = client.delete(Delete::new(KeyRange::prefix(prefix.to_owned()))).await;
    assert_eq!(deleted.expect("delete").deleted, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_serves_kv_txn_watch_and_leases() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    use_everything(&client, "one").await;
    assert_eq!(client.members().await.expect("members").members.len(), 1);
    assert_eq!(cluster.members[0].terminate(), Some(0), "a signal ends it in good order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_three_members_serves_kv_txn_watch_and_leases() {
    let cluster = Cluster::start_with(3, &Setup::default().calm()).await;
    cluster.accepts_writes().await;
    let client = cluster.client();
    for (n, member) in client.each().enumerate() {
        use_everything(&member, &format!("member-{n}")).await;
    }
    let members = client.members().await.expect("members").members;
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| !member.client_ur_ls.is_empty() && !member.is_learner));
    cluster.accepts_writes().await;
    cluster.members_agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_renewals_is_answered_in_order_by_each_member_whoever_leads() {
    let cluster = Cluster::start_with(3, &Setup::default().calm()).await;
    cluster.accepts_writes().await;
    let client = cluster.client();
    let (leases, missing) = (1..=200_i64, 100);
    for id in leases.clone().filter(|id| *id != missing) {
        client.lease_grant(600 + id, id).await.expect("grant");
    }
    for member in &cluster.members {
        let uri = format!("http://{}", member.endpoint());
        let channel = Endpoint::from_shared(uri).expect("an address").connect().await;
        let mut lease = LeaseClient::new(channel.expect("connected"));
        let asked = leases.clone().map(|id| LeaseKeepAliveRequest { id });
        let answers = lease.lease_keep_alive(tokio_stream::iter(asked)).await.expect("a stream");
        let mut answers = answers.into_inner();
        for id in leases.clone() {
            let answer = tokio::time::timeout(PATIENCE, answers.message()).await.expect("in time");
            let answer = answer.expect("no error").expect("an answer");
            let ttl = if id == missing { 0 } else { 600 + id };
            assert_eq!((answer.id, answer.ttl), (id, ttl));
        }
        assert!(answers.message().await.expect("no error").is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_stubs_are_answered_like_by_etcd() {
    let cluster = Cluster::start(1).await;
    let uri = format!("http://{}", cluster.members[0].endpoint());
    let channel = Endpoint::from_shared(uri)
        .expect("an address")
        .timeout(PATIENCE)
        .connect()
        .await
        .expect("connected");
    let mut kv = KvClient::new(channel);
    let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
    let put = kv.put(put).await.expect("put").into_inner();
    assert_eq!(put.header.as_ref().expect("header").revision, 2);
    let range = RangeRequest { key: "k".into(), ..RangeRequest::default() };
    let range = kv.range(range).await.expect("range").into_inner();
    assert_eq!((range.count, range.kvs[0].mod_revision), (1, 2));
    let refused = kv.put(PutRequest::default()).await.expect_err("no key");
    assert_eq!(
        (refused.code(), refused.message()),
        (tonic::Code::InvalidArgument, "etcdserver: key is not provided")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_outlives_the_process() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    let put = client.put(Put::new("kept", "value")).await.expect("put");
    let lease = client.lease_grant(600, 77).await.expect("grant");
    cluster.members[0].kill();
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    let got = client.get(Get::new("kept")).await.expect("get");
    assert_eq!(got.kvs[0].mod_revision, put.header.expect("header").revision);
    assert_eq!(client.leases().await.expect("leases").leases[0].id, lease.id);
}
