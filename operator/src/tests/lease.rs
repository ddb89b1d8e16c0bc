//! Two that want the lease.

use std::time::Duration;

use kube::Api;
use serde_json::json;

use super::fake_api::FakeApi;
use crate::leader::Elector;

fn elector(api: &FakeApi, name: &str) -> Elector {
    Elector::new(Api::namespaced(api.client(), "operators"), name.to_owned())
}

fn holder(api: &FakeApi) -> serde_json::Value {
    let lease = api.get("coordination.k8s.io/leases", "operators/metastore-operator");
    lease.unwrap()["spec"]["holderIdentity"].clone()
}

#[tokio::test(start_paused = true)]
async fn one_holds_the_lease_and_the_other_gets_it_when_it_is_given_back() {
    let api = FakeApi::new();
    let (mut first, mut second) = (elector(&api, "first"), elector(&api, "second"));
    first.acquire(|| {}).await;
    assert!(first.hold().is_valid() && !second.hold().is_valid());
    let waits = tokio::time::timeout(Duration::from_secs(60), async {
        tokio::select! {
            () = second.acquire(|| {}) => {}
            lost = first.keep() => panic!("{lost}"),
        }
    });
    assert!(waits.await.is_err(), "as long as it is renewed nobody else has it");
    assert!(first.hold().is_valid());
    first.release().await;
    assert!(!first.hold().is_valid());
    second.acquire(|| {}).await;
    assert_eq!(holder(&api), json!("second"));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_vanished_is_followed_after_its_lease_ran_out_and_not_before() {
    let api = FakeApi::new();
    let mut first = elector(&api, "first");
    first.acquire(|| {}).await;
    let hold = first.hold();
    drop(first);
    let began = tokio::time::Instant::now();
    let mut second = elector(&api, "second");
    second.acquire(|| {}).await;
    assert!(began.elapsed() > Duration::from_secs(15));
    assert!(!hold.is_valid(), "the first knows that it must not act");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_gives_up_and_says_why() {
    let api = FakeApi::new();
    let mut first = elector(&api, "first");
    first.acquire(|| {}).await;
    api.lock().absent = vec!["coordination.k8s.io"];
    let lost = first.keep().await.to_string();
    assert!(!first.hold().is_valid());
    assert!(lost.contains("could not be renewed") || lost.contains("taken"), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_took_is_lost_at_once() {
    let api = FakeApi::new();
    let mut first = elector(&api, "first");
    first.acquire(|| {}).await;
    let mut lease = api.get("coordination.k8s.io/leases", "operators/metastore-operator").unwrap();
    lease["spec"]["holderIdentity"] = json!("thief");
    api.put("coordination.k8s.io/leases", lease);
    let lost = first.keep().await.to_string();
    assert_eq!(lost, "the lease metastore-operator was taken by thief");
    assert!(!first.hold().is_valid());
}
