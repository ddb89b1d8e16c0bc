//! Watches over streams that break: every event once, in order, or a final error.

use crate::fake::{Fake, Script, nobody};
use crate::soon;
use client::proto::etcdserverpb as pb;
use client::proto::mvccpb::{Event, KeyValue};
use client::{Client, Code, Config, Error, KeyRange, Watch, WatchOf};
use tonic::Status;

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

fn created(revision: i64) -> pb::WatchResponse {
    pb::WatchResponse { header: header(revision), created: true, ..Default::default() }
}

fn progress(revision: i64) -> pb::WatchResponse {
    pb::WatchResponse { header: header(revision), ..Default::default() }
}

/// Events as `(revision, key)`; the header is ahead of them, as it may be.
fn events(of: &[(i64, &'static str)]) -> pb::WatchResponse {
    let event = |&(mod_revision, key): &(i64, &'static str)| Event {
        kv: Some(KeyValue { key: key.into(), mod_revision, ..Default::default() }),
        ..Default::default()
    };
    pb::WatchResponse {
        header: header(1000),
        events: of.iter().map(event).collect(),
        ..Default::default()
    }
}

fn fake(scripts: Vec<Script>) -> Fake {
    let fake = Fake::start();
    fake.seen.scripts.lock().unwrap().extend(scripts);
    fake
}

fn starts(fake: &Fake) -> Vec<i64> {
    fake.seen.watches.lock().unwrap().iter().map(|create| create.start_revision).collect()
}

fn breaks(answers: Vec<pb::WatchResponse>) -> Script {
    Script { answers, end: Some(Status::unavailable("etcdserver: no leader")) }
}

fn stays(answers: Vec<pb::WatchResponse>) -> Script {
    Script { answers, end: None }
}

async fn watch(fake: &Fake, start_revision: i64) -> client::Result<Watch> {
    let client = Client::new(Config::new([nobody(), fake.endpoint()])).unwrap();
    client.watch(WatchOf::new(KeyRange::prefix("k")).start_revision(start_revision)).await
}

/// Takes `count` events.
async fn take(watch: &mut Watch, count: usize) -> Vec<(i64, String)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        for event in soon(watch.next()).await.unwrap().events {
            let kv = event.kv.unwrap();
            taken.push((kv.mod_revision, String::from_utf8(kv.key.to_vec()).unwrap()));
        }
    }
    taken
}

fn list(of: &[(i64, &str)]) -> Vec<(i64, String)> {
    of.iter().map(|&(revision, key)| (revision, key.to_owned())).collect()
}

#[tokio::test]
async fn a_watch_goes_on_behind_its_last_event_after_its_stream_broke() {
    let fake = fake(vec![
        breaks(vec![created(10), events(&[(11, "a"), (12, "b"), (12, "c")])]),
        breaks(vec![created(15)]),
        stays(vec![created(15), events(&[(13, "d")]), events(&[(15, "e")])]),
    ]);
    let mut watch = watch(&fake, 0).await.unwrap();
    let all = [(11, "a"), (12, "b"), (12, "c"), (13, "d"), (15, "e")];
    assert_eq!(take(&mut watch, 5).await, list(&all));
    assert_eq!(starts(&fake), [0, 13, 13]);
    assert_eq!(watch.next_revision(), 16);
}

#[tokio::test]
async fn a_watch_from_now_misses_nothing_between_its_creation_and_a_break() {
    let fake = fake(vec![
        breaks(vec![created(10)]),
        stays(vec![created(12), events(&[(11, "a"), (12, "b")])]),
    ]);
    let mut watch = watch(&fake, 0).await.unwrap();
    assert_eq!(take(&mut watch, 2).await, list(&[(11, "a"), (12, "b")]));
    assert_eq!(starts(&fake), [0, 11]);
}

#[tokio::test]
async fn events_a_member_sends_again_are_dropped() {
    let fake = fake(vec![
        breaks(vec![created(10), events(&[(11, "a"), (12, "b")])]),
        stays(vec![created(12), events(&[(11, "a"), (12, "b")]), events(&[(12, "b"), (13, "c")])]),
    ]);
    let mut watch = watch(&fake, 5).await.unwrap();
    assert_eq!(take(&mut watch, 3).await, list(&[(11, "a"), (12, "b"), (13, "c")]));
}

#[tokio::test]
async fn progress_moves_the_position_and_a_batch_header_does_not() {
    let fake = fake(vec![
        breaks(vec![created(10), events(&[(11, "a")])]),
        breaks(vec![created(20), progress(20)]),
        stays(vec![created(21), events(&[(21, "b")])]),
    ]);
    let mut watch = watch(&fake, 0).await.unwrap();
    assert_eq!(take(&mut watch, 2).await, list(&[(11, "a"), (21, "b")]));
    assert_eq!(starts(&fake), [0, 12, 21]);
}

#[tokio::test]
async fn a_compacted_position_ends_the_watch_for_good() {
    let gone = pb::WatchResponse { canceled: true, compact_revision: 30, ..Default::default() };
    let fake =
        fake(vec![breaks(vec![created(10), events(&[(11, "a")])]), stays(vec![created(40), gone])]);
    let mut watch = watch(&fake, 0).await.unwrap();
    assert_eq!(take(&mut watch, 1).await, list(&[(11, "a")]));
    for _ in 0..2 {
        let error = soon(watch.next()).await.unwrap_err();
        assert!(matches!(error, Error::Compacted { compact_revision: 30 }), "{error:?}");
    }
    assert!(watch.is_over());
    assert_eq!(starts(&fake).len(), 2);
}

#[tokio::test]
async fn a_refused_watch_tells_the_servers_reason() {
    let refused = pb::WatchResponse {
        created: true,
        canceled: true,
        watch_id: -1,
        cancel_reason: "mvcc: watcher range is empty".into(),
        ..Default::default()
    };
    let fake = fake(vec![stays(vec![refused])]);
    let error = watch(&fake, 0).await.unwrap_err();
    assert_eq!(error.message(), Some("mvcc: watcher range is empty"));
    assert_eq!(starts(&fake).len(), 1);
}

#[tokio::test]
async fn a_stream_that_fails_for_good_reason_is_not_made_again() {
    let denied = Script {
        answers: vec![created(10)],
        end: Some(Status::permission_denied("etcdserver: permission denied")),
    };
    let fake = fake(vec![denied]);
    let mut watch = watch(&fake, 0).await.unwrap();
    let error = soon(watch.next()).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    assert!(watch.is_over());
    assert_eq!(starts(&fake).len(), 1);
}

#[tokio::test]
async fn a_watch_moves_to_another_member_when_its_own_dies() {
    let mut first = fake(vec![stays(vec![created(10), events(&[(11, "a")])])]);
    let second = fake(vec![stays(vec![created(12), events(&[(12, "b")])])]);
    let client = Client::new(Config::new([first.endpoint(), second.endpoint()])).unwrap();
    let mut watch = client.watch(WatchOf::new("k")).await.unwrap();
    assert_eq!(take(&mut watch, 1).await, list(&[(11, "a")]));
    first.die();
    assert_eq!(take(&mut watch, 1).await, list(&[(12, "b")]));
    assert_eq!((starts(&first), starts(&second)), (vec![0], vec![12]));
}

#[tokio::test]
async fn fragments_are_refused_before_anything_is_sent() {
    let fake = fake(vec![]);
    let client = Client::new(Config::new([fake.endpoint()])).unwrap();
    let create = pb::WatchCreateRequest { fragment: true, ..Default::default() };
    assert_eq!(client.watch(create).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(starts(&fake).is_empty());
}
