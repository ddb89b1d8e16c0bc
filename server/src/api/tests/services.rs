//! Leases, members, maintenance, authentication and health.

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::health::HealthCheckRequest;
use proto::health::health_client::HealthClient;
use proto::log::command::Op;
use tonic::Code;

use super::{get, header, put, said};
use crate::fake::{CLUSTER_ID, MEMBER_ID, Served, TERM};

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
