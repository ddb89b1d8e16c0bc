//! Which calls are made again, and which never: against members that refuse, hang and die.

use std::time::Duration;

use crate::fake::{Fake, Mood, nobody};
use crate::soon;
use client::proto::etcdserverpb as pb;
use client::{Client, Code, Config, Error, Get, Put, RetryPolicy, raw};
use tonic::Status;

fn client(endpoints: &[String]) -> Client {
    Client::new(Config::new(endpoints.iter().cloned())).unwrap()
}

#[tokio::test]
async fn calls_pass_over_an_endpoint_nobody_listens_on() {
    let live = Fake::start();
    let client = client(&[nobody(), live.endpoint(), nobody()]);
    for made in 1..=9 {
        client.put(Put::new("k", "v")).await.unwrap();
        client.get(Get::new("k")).await.unwrap();
        assert_eq!((live.puts(), live.ranges()), (made, made));
    }
}

#[tokio::test]
async fn calls_go_round_all_endpoints() {
    let fakes = [Fake::start(), Fake::start(), Fake::start()];
    let client = client(&fakes.each_ref().map(Fake::endpoint));
    for _ in 0..9 {
        client.put(Put::new("k", "v")).await.unwrap();
    }
    assert_eq!(fakes.each_ref().map(Fake::puts), [3, 3, 3]);
    client.at(1).put(Put::new("k", "v")).await.unwrap();
    assert_eq!(fakes.each_ref().map(Fake::puts), [3, 4, 3]);
}

#[tokio::test]
async fn a_write_whose_bytes_left_is_never_made_again() {
    let (mut first, second) = (Fake::start(), Fake::start());
    first.mood(Mood::Hangs);
    let client = client(&[first.endpoint(), second.endpoint()]);
    let call = tokio::spawn(async move { client.put(Put::new("k", "v")).await });
    soon(first.taken(1)).await;
    first.die();
    let error = soon(call).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::ConnectionLost { .. }), "{error:?}");
    assert!(error.outcome_unknown());
    assert_eq!((first.puts(), second.puts()), (1, 0));
}

#[tokio::test]
async fn a_read_whose_answer_was_lost_is_made_again_elsewhere() {
    let (mut first, second) = (Fake::start(), Fake::start());
    first.mood(Mood::Hangs);
    let client = client(&[first.endpoint(), second.endpoint()]);
    let call = tokio::spawn(async move { client.get(Get::new("k")).await });
    soon(first.taken(1)).await;
    first.die();
    soon(call).await.unwrap().unwrap();
    assert_eq!((first.ranges(), second.ranges()), (1, 1));
}

#[tokio::test]
async fn after_its_member_died_the_next_write_goes_to_another() {
    let (mut first, second) = (Fake::start(), Fake::start());
    let client = client(&[first.endpoint(), second.endpoint()]);
    client.put(Put::new("k", "v")).await.unwrap();
    assert_eq!((first.puts(), second.puts()), (1, 0));
    client.put(Put::new("k", "v")).await.unwrap();
    first.die();
    // Whether the first write after the death is told of it (its bytes may have left) or not, the
    // ones after it all arrive.
    let told = client.put(Put::new("k", "v")).await;
    if let Err(error) = &told {
        assert!(error.outcome_unknown());
    }
    let before = second.puts();
    for _ in 0..4 {
        client.put(Put::new("k", "v")).await.unwrap();
    }
    assert_eq!(second.puts(), before + 4);
}

#[tokio::test]
async fn a_write_the_server_called_unavailable_is_not_made_again_but_a_read_is() {
    let (first, second) = (Fake::start(), Fake::start());
    let endpoints = [first.endpoint(), second.endpoint()];
    first.mood(Mood::Refuses(Status::unavailable("etcdserver: leader changed")));

    let error = client(&endpoints).put(Put::new("k", "v")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.message(), Some("etcdserver: leader changed"));
    assert!(error.outcome_unknown());
    assert_eq!((first.puts(), second.puts()), (1, 0));

    client(&endpoints).get(Get::new("k")).await.unwrap();
    assert_eq!((first.ranges(), second.ranges()), (1, 1));
}

#[tokio::test]
async fn what_a_learner_refuses_goes_to_another_member() {
    let (learner, voter) = (Fake::start(), Fake::start());
    learner.mood(Mood::Refuses(Status::failed_precondition(
        "etcdserver: rpc not supported for learner",
    )));
    client(&[learner.endpoint(), voter.endpoint()]).put(Put::new("k", "v")).await.unwrap();
    assert_eq!((learner.puts(), voter.puts()), (1, 1));
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_words_and_is_not_repeated() {
    let fake = Fake::start();
    let said = "etcdserver: mvcc: required revision has been compacted";
    fake.mood(Mood::Refuses(Status::out_of_range(said)));
    let error = client(&[fake.endpoint()]).get(Get::new("k").revision(1)).await.unwrap_err();
    assert_eq!((error.code(), error.to_string()), (Code::OutOfRange, said.to_owned()));
    assert!(!error.outcome_unknown());
    assert_eq!(fake.ranges(), 1);
}

#[tokio::test]
async fn a_call_nobody_answers_ends_at_its_deadline() {
    let fake = Fake::start();
    fake.mood(Mood::Hangs);
    let config = Config::new([fake.endpoint()]).request_timeout(Duration::from_millis(50));
    let error = Client::new(config).unwrap().put(Put::new("k", "v")).await.unwrap_err();
    assert!(matches!(error, Error::Deadline { sent: true, .. }), "{error:?}");
    assert!(error.outcome_unknown());
}

#[tokio::test]
async fn attempts_at_a_dead_cluster_are_counted() {
    let policy = RetryPolicy {
        attempts_max: 5,
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(2),
    };
    let config = Config::new([nobody(), nobody()]).retry(policy);
    let error = Client::new(config).unwrap().get(Get::new("k")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn a_kept_lease_that_is_gone_is_reported() {
    let fake = Fake::start();
    let client = client(&[fake.endpoint()]);
    *fake.seen.lease_ttl_s.lock().unwrap() = 3;
    assert_eq!(client.lease_keep_alive_once(5).await.unwrap(), 3);
    *fake.seen.lease_ttl_s.lock().unwrap() = 1;
    let keeper = client.lease_keep_alive(5).await.unwrap();
    *fake.seen.lease_ttl_s.lock().unwrap() = 0;
    assert!(matches!(soon(keeper.lost()).await, Error::LeaseGone { id: 5 }));
}

#[tokio::test]
async fn a_raw_call_returns_the_answers_bytes_or_the_servers_words() {
    use prost::Message;
    let fake = Fake::start();
    let connection = raw::Connection::dial(&fake.endpoint()).await.unwrap();
    let mut put = connection.caller(&raw::Method::new("/etcdserverpb.KV/Put"));
    let request = raw::frame(&pb::PutRequest { key: "k".into(), ..Default::default() });
    for made in 1..=3 {
        let answer = put.call(request.clone()).await.unwrap();
        assert_eq!(pb::PutResponse::decode(answer).unwrap().header.unwrap().revision, 7);
        assert_eq!(fake.puts(), made);
    }
    let said = "etcdserver: mvcc: database space exceeded";
    fake.mood(Mood::Refuses(Status::resource_exhausted(said)));
    let error = put.call(request).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::ResourceExhausted, Some(said)));
}

#[tokio::test]
async fn a_raw_call_on_a_connection_that_is_gone_has_not_been_sent() {
    let mut fake = Fake::start();
    let connection = raw::Connection::dial(&fake.endpoint()).await.unwrap();
    let mut put = connection.caller(&raw::Method::new("/etcdserverpb.KV/Put"));
    let request = raw::frame(&pb::PutRequest { key: "k".into(), ..Default::default() });
    fake.mood(Mood::Hangs);
    let under_way = tokio::spawn({
        let (mut put, request) = (put.clone(), request.clone());
        async move { put.call(request).await }
    });
    fake.taken(1).await;
    fake.die();
    let lost = under_way.await.unwrap().unwrap_err();
    assert!(matches!(lost, Error::ConnectionLost { .. }), "{lost:?}");
    let unsent = put.call(request).await.unwrap_err();
    assert!(matches!(unsent, Error::Unreachable { .. }), "{unsent:?}");
}
