//! Single passes, and sequences of them.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use autotune::Phase;
use http::Method;
use serde_json::{Value, json};

use super::fake_api::FakeApi;
use super::fake_members::FakeMembers;
use crate::api::ApiDoor;
use crate::controller::{Keeper, Passed};
use crate::http::Health;
use crate::leader::Hold;
use crate::members::{Change, Key};
use crate::metrics::Metrics;
use crate::observed::Observed;
use crate::plan::{Event, Plan, Step, plan};
use crate::resources::Settings;

/// More passes than any operation here takes.
const PASSES_MAX: usize = 200;

pub(super) fn key() -> Key {
    ("ns".to_owned(), "demo".to_owned())
}

pub(super) fn keeper(
    api: &FakeApi,
    members: &FakeMembers,
    plan: fn(&Observed) -> Plan,
) -> Keeper<FakeMembers> {
    let metrics = Arc::new(Metrics::new());
    let door = ApiDoor::new(api.client(), Arc::clone(&metrics), Hold::unneeded());
    let settings = Settings::default();
    let health = Arc::new(Health::default());
    Keeper::new(door, members.clone(), settings, "operator-1", metrics, health, plan)
}

pub(super) fn metastore(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "metastore.io/v1alpha1", "kind": "MetaStore",
        "metadata": { "namespace": "ns", "name": name },
        "spec": spec,
    })
}

pub(super) fn put(api: &FakeApi, spec: &Value) {
    let mut object = metastore("demo", spec);
    if let Some(live) = api.get("metastore.io/metastores", "ns/demo") {
        object["status"] = live["status"].clone();
    }
    api.put("metastore.io/metastores", object);
}

/// Passes until one writes nothing and changes no member.
async fn settle(api: &FakeApi, members: &FakeMembers, keeper: &Keeper<FakeMembers>) {
    for _ in 0..PASSES_MAX {
        let before = (api.writes().len(), members.changes.borrow().len());
        keeper.pass(&key()).await.expect("a pass");
        if before == (api.writes().len(), members.changes.borrow().len()) {
            return;
        }
    }
    let object = api.get("metastore.io/metastores", "ns/demo").unwrap();
    let writes = api.writes();
    let latest = &writes[writes.len() - 12..];
    let rows = members.rows(&key());
    panic!("no end: {latest:#?}\n{rows:#?}\n{:#}\n{:#}", object["spec"], object["status"]);
}

async fn three(api: &FakeApi, members: &FakeMembers) -> Keeper<FakeMembers> {
    put(api, &json!({ "replicas": 3 }));
    let keeper = keeper(api, members, plan);
    settle(api, members, &keeper).await;
    keeper
}

fn voters(members: &FakeMembers) -> usize {
    members.rows(&key()).iter().filter(|row| !row.learner).count()
}

#[tokio::test]
async fn a_cluster_comes_up_and_then_nothing_is_written_while_nothing_changes() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    let keeper = three(&api, &members).await;
    assert_eq!(voters(&members), 3);
    let status = &api.get("metastore.io/metastores", "ns/demo").unwrap()["status"];
    assert_eq!(
        (&status["ready"], &status["clusterId"]),
        (&json!("3/3"), &json!("7")),
        "{status:#}"
    );

    let writes = api.writes();
    for _ in 0..5 {
        let passed = keeper.pass(&key()).await.unwrap();
        assert!(matches!(passed, Passed::Again(_)));
    }
    assert_eq!(api.writes(), writes, "a pass over a settled cluster writes nothing");
    // Nor does an operator that remembers nothing.
    let fresh = self::keeper(&api, &members, plan);
    fresh.pass(&key()).await.unwrap();
    assert_eq!(api.writes(), writes, "a new operator finds everything in place");
}

#[tokio::test]
async fn a_settled_pass_asks_four_things_of_the_api_server() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    let keeper = three(&api, &members).await;
    keeper.pass(&key()).await.unwrap();
    let before = api.log().len();
    keeper.pass(&key()).await.unwrap();
    let mut asked: Vec<String> =
        api.log()[before..].iter().map(|asked| asked.path.clone()).collect();
    asked.sort();
    let expected = [
        "/persistentvolumeclaims/ns",
        "/pods/ns",
        "apps/statefulsets/ns/demo",
        "metastore.io/metastores/ns/demo",
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn what_somebody_else_made_is_never_touched() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    let others = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": "ns", "name": "demo" },
        "spec": { "ports": [{ "port": 80 }] },
    });
    api.put("/services", others);
    let before = api.get("/services", "ns/demo");
    put(&api, &json!({ "replicas": 3 }));
    let keeper = keeper(&api, &members, plan);
    settle(&api, &members, &keeper).await;
    assert_eq!(api.get("/services", "ns/demo"), before);
    let touched = api.writes().into_iter().filter(|write| write.ends_with("/services/ns/demo"));
    assert_eq!(touched.collect::<Vec<_>>(), [""; 0]);
    let status = &api.get("metastore.io/metastores", "ns/demo").unwrap()["status"];
    assert!(status.to_string().contains("Service demo"), "{status:#}");
}

#[tokio::test]
async fn a_foreign_set_of_pods_is_left_alone() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    let others = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "namespace": "ns", "name": "demo" },
        "spec": {
            "replicas": 0, "selector": {}, "serviceName": "", "template": { "metadata": {} },
        },
    });
    api.put("apps/statefulsets", others);
    put(&api, &json!({ "replicas": 3 }));
    let keeper = keeper(&api, &members, plan);
    settle(&api, &members, &keeper).await;
    let touched = api.writes().into_iter().filter(|write| write.contains("statefulsets"));
    assert_eq!(touched.collect::<Vec<_>>(), [""; 0]);
}

/// Deletes the first pod while it is ready.
fn delete_ready(observed: &Observed) -> Plan {
    let status = observed.object.status.clone().unwrap_or_default();
    let ready = observed.pods.get(&0).filter(|pod| pod.ready);
    let steps = ready.map(|pod| Step::DeletePod { ordinal: 0, uid: pod.uid.clone() });
    Plan { status, steps: steps.into_iter().collect(), again_s: 1, ..Plan::default() }
}

#[tokio::test]
async fn a_pod_is_deleted_by_its_uid_and_no_later_one() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    three(&api, &members).await;
    let uid = api.get("/pods", "ns/demo-0").unwrap()["metadata"]["uid"].clone();
    keeper(&api, &members, delete_ready).pass(&key()).await.unwrap();
    let deleted = api.log().into_iter().find(|asked| asked.method == Method::DELETE).unwrap();
    assert_eq!(deleted.path, "/pods/ns/demo-0");
    assert_eq!(deleted.body["preconditions"]["uid"], uid);
    let anew = api.get("/pods", "ns/demo-0").unwrap()["metadata"]["uid"].clone();
    assert_ne!(anew, uid, "its set made another");

    // One that was made anew between the look and the deletion stays.
    api.on_request(|inside, asked| {
        if asked.method == Method::DELETE {
            inside.remove("/pods", &("ns".to_owned(), "demo-0".to_owned()));
            inside.run_controllers();
        }
    });
    keeper(&api, &members, delete_ready).pass(&key()).await.unwrap();
    assert!(api.get("/pods", "ns/demo-0").is_some());
    let newest = api.get("/pods", "ns/demo-0").unwrap()["metadata"]["uid"].clone();
    assert_ne!(newest, anew);
}

#[tokio::test]
async fn a_disruptive_step_that_the_second_look_does_not_call_for_is_not_taken() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    three(&api, &members).await;
    let looks = AtomicUsize::new(0);
    api.on_request(move |inside, asked| {
        let is_look = asked.path == "metastore.io/metastores/ns/demo" && !asked.writes();
        if is_look && looks.fetch_add(1, Ordering::Relaxed) == 1 {
            let mut pod = inside.get("/pods", "ns/demo-0").unwrap();
            pod["status"]["conditions"][0]["status"] = json!("False");
            inside.put("/pods", pod);
        }
    });
    let before = api.writes();
    keeper(&api, &members, delete_ready).pass(&key()).await.unwrap();
    assert_eq!(api.writes(), before);
}

#[tokio::test]
async fn a_lost_lease_lets_nothing_be_written() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    put(&api, &json!({ "replicas": 3 }));
    let elector = crate::leader::Elector::new(
        kube::Api::namespaced(api.client(), "operators"),
        "operator-1".to_owned(),
    );
    let metrics = Arc::new(Metrics::new());
    let door = ApiDoor::new(api.client(), Arc::clone(&metrics), elector.hold());
    let health = Arc::new(Health::default());
    let settings = Settings::default();
    let keeper = Keeper::new(door, members.clone(), settings, "o", metrics, health, plan);
    let error = keeper.pass(&key()).await.unwrap_err().to_string();
    assert!(error.contains("not the leader any more"), "{error}");
    assert_eq!(api.writes(), [""; 0]);
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_told_once_and_nothing_spins() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    api.lock().absent = vec!["monitoring.coreos.com"];
    put(&api, &json!({ "replicas": 3, "monitoring": { "monitor": "ServiceMonitor" } }));
    let keeper = keeper(&api, &members, plan);
    settle(&api, &members, &keeper).await;
    assert_eq!(voters(&members), 3);
    let log = api.log();
    let told: Vec<&Value> = log
        .iter()
        .filter(|asked| asked.path.starts_with("events.k8s.io/events") && asked.writes())
        .map(|asked| &asked.body)
        .filter(|event| event["reason"] == "KindMissing")
        .collect();
    assert_eq!(told.len(), 1);
    assert!(told[0]["note"].as_str().unwrap().contains("servicemonitors.monitoring.coreos.com"));
}

#[tokio::test]
async fn what_is_no_longer_wanted_goes_if_it_is_ours() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    put(&api, &json!({ "replicas": 3, "monitoring": { "monitor": "PodMonitor" } }));
    let keeper = keeper(&api, &members, plan);
    settle(&api, &members, &keeper).await;
    assert!(api.get("monitoring.coreos.com/podmonitors", "ns/demo").is_some());
    put(&api, &json!({ "replicas": 3 }));
    settle(&api, &members, &keeper).await;
    assert!(api.get("monitoring.coreos.com/podmonitors", "ns/demo").is_none());
    assert!(api.get("policy/poddisruptionbudgets", "ns/demo").is_some());
}

#[tokio::test]
async fn a_field_that_somebody_changed_is_put_back_and_a_form_the_server_prefers_is_not_fought() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    let keeper = three(&api, &members).await;
    let wanted = api.get("policy/poddisruptionbudgets", "ns/demo").unwrap()["spec"].clone();
    let mut budget = api.get("policy/poddisruptionbudgets", "ns/demo").unwrap();
    budget["spec"]["minAvailable"] = json!(0);
    api.put("policy/poddisruptionbudgets", budget);
    // An operator that has just started has nothing in its memory that would hide it.
    let fresh = self::keeper(&api, &members, plan);
    settle(&api, &members, &fresh).await;
    assert_eq!(api.get("policy/poddisruptionbudgets", "ns/demo").unwrap()["spec"], wanted);
    drop(keeper);

    // The server writes the budget in words of its own, whatever is applied.
    api.lock().rewrite = Some(|collection, object| {
        if collection == "policy/poddisruptionbudgets" {
            object["spec"]["minAvailable"] = json!("67%");
        }
    });
    let applied = |api: &FakeApi| {
        api.writes().into_iter().filter(|write| write.contains("poddisruptionbudgets")).count()
    };
    let mut budget = api.get("policy/poddisruptionbudgets", "ns/demo").unwrap();
    budget["metadata"]["labels"]["touched"] = json!("yes");
    api.put("policy/poddisruptionbudgets", budget);
    let before = applied(&api);
    let fresh = self::keeper(&api, &members, plan);
    for _ in 0..4 {
        fresh.pass(&key()).await.unwrap();
    }
    assert_eq!(applied(&api) - before, 1, "tried once, and not again");
}

#[tokio::test]
async fn certificates_are_issued_once_and_then_left_alone() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    let self_signed = json!({ "mode": "SelfSigned" });
    let tls =
        json!({ "client": { "mode": "SelfSigned", "clientAuth": true }, "peer": self_signed });
    put(&api, &json!({ "replicas": 3, "tls": tls }));
    let keeper = keeper(&api, &members, plan);
    settle(&api, &members, &keeper).await;
    assert_eq!(voters(&members), 3);
    let secrets = ["demo-client-ca", "demo-peer-ca", "demo-server-tls", "demo-peer-tls"];
    for name in secrets.into_iter().chain(["demo-operator-tls", "demo-client-tls"]) {
        assert!(api.get("/secrets", &format!("ns/{name}")).is_some(), "{name}");
    }
    let writes = api.writes();
    self::keeper(&api, &members, plan).pass(&key()).await.unwrap();
    assert_eq!(api.writes(), writes);
}

#[tokio::test]
async fn two_events_of_one_reason_are_both_written() {
    fn talks(observed: &Observed) -> Plan {
        let event = |note: &str| Event { warning: false, reason: "Said", note: note.to_owned() };
        let status = observed.object.status.clone().unwrap_or_default();
        Plan { status, events: vec![event("one"), event("two")], ..Plan::default() }
    }
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    put(&api, &json!({ "replicas": 3 }));
    let keeper = keeper(&api, &members, talks);
    for _ in 0..3 {
        keeper.pass(&key()).await.unwrap();
    }
    let log = api.log();
    let events = log.iter().filter(|asked| asked.path.starts_with("events.k8s.io"));
    let notes: Vec<&Value> = events.map(|asked| &asked.body["note"]).collect();
    assert_eq!(notes, ["one", "two"], "each once, though every pass says them");
}

#[tokio::test]
async fn a_member_whose_server_gave_its_data_up_is_replaced_once_within_the_budget() {
    let gives_up = |api: &FakeApi, name: &str| {
        let mut pod = api.get("/pods", &format!("ns/{name}")).unwrap();
        let container = &mut pod["status"]["containerStatuses"][0];
        container["state"] = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        container["lastState"] = json!({ "terminated": { "exitCode": 3 } });
        pod["status"]["conditions"][0]["status"] = json!("False");
        api.put("/pods", pod);
    };
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    let keeper = three(&api, &members).await;
    let before = members.rows(&key());
    gives_up(&api, "demo-1");
    settle(&api, &members, &keeper).await;
    let after = members.rows(&key());
    assert_eq!(voters(&members), 3, "{after:#?}");
    let ids = |rows: &[crate::members::Row]| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(ids(&before), [1, 2, 3]);
    assert_eq!(ids(&after), [1, 3, 4], "the one that gave up has a successor");

    // The next has to wait, whoever it is.
    gives_up(&api, "demo-2");
    settle(&api, &members, &keeper).await;
    assert_eq!(ids(&members.rows(&key())), [1, 3, 4]);
    let status = &api.get("metastore.io/metastores", "ns/demo").unwrap()["status"];
    assert_eq!(status["reason"], "DataLost", "{status:#}");
}

/// Scales through sizes and kills the operator after each number of writes in turn.
#[tokio::test]
async fn an_operator_that_is_killed_between_any_two_writes_goes_on_where_it_was() {
    let sizes = [3, 5, 1, 3];
    let mut kills = 0;
    for after in 1.. {
        let api = FakeApi::new();
        let members = FakeMembers::of(3).killed_with(&api);
        let mut was_killed = false;
        for size in sizes {
            put(&api, &json!({ "replicas": size, "storage": { "onScaleIn": "Delete" } }));
            let mut keeper = keeper(&api, &members, plan);
            api.lock().writes_left = Some(after);
            for _ in 0..PASSES_MAX {
                let before = (api.writes().len(), members.changes.borrow().len());
                match keeper.pass(&key()).await {
                    Ok(_) if before == (api.writes().len(), members.changes.borrow().len()) => {
                        break;
                    }
                    Ok(_) => {}
                    Err(_) => {
                        // Killed: all that it knew is gone, and its successor may write as often.
                        was_killed = true;
                        keeper = self::keeper(&api, &members, plan);
                        api.lock().writes_left = Some(after + 1);
                    }
                }
            }
            api.lock().writes_left = None;
            settle(&api, &members, &keeper).await;
            let rows = members.rows(&key());
            assert_eq!(rows.len(), size, "size {size}, killed after {after}: {rows:#?}");
            assert!(rows.iter().all(|row| !row.learner));
            let set = api.get("apps/statefulsets", "ns/demo").unwrap();
            assert_eq!(set["spec"]["replicas"], json!(size));
            let status = &api.get("metastore.io/metastores", "ns/demo").unwrap()["status"];
            assert_eq!(status["ready"], json!(format!("{size}/{size}")), "{status:#}");
        }
        if !was_killed {
            break;
        }
        kills += 1;
    }
    assert!(kills > 10, "the kills did not reach far: {kills}");
}

#[tokio::test]
async fn values_by_hand_reach_members_as_a_plan_after_two_looks_and_no_pod_changes() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3).knowing_plans());
    let keeper = three(&api, &members).await;
    let pods = |api: &FakeApi| {
        let uid = |n: usize| api.get("/pods", &format!("ns/demo-{n}")).unwrap()["metadata"].clone();
        [0, 1, 2].map(uid)
    };
    let before = pods(&api);
    put(&api, &json!({ "replicas": 3, "raft": { "heartbeatMs": 50, "electionMs": 500 } }));
    let looks = api.log().len();
    settle(&api, &members, &keeper).await;
    let changes = members.changes.borrow().clone();
    let [Change::SubmitTuning(plan)] = &changes[..] else { panic!("{changes:?}") };
    let timing = plan.to.expect("values").timing;
    assert_eq!((timing.heartbeat_interval_us, timing.election_timeout_us), (50_000, 500_000));
    assert_eq!((plan.expected_epoch, &plan.reason[..]), (0, "set by hand"));
    let asked = &api.log()[looks..];
    let submitted = asked.iter().filter(|asked| asked.path.ends_with("metastores/ns/demo"));
    assert!(submitted.count() >= 2, "the resource is read again before a plan is submitted");
    assert_eq!(pods(&api), before);
    let status = &api.get("metastore.io/metastores", "ns/demo").unwrap()["status"];
    assert_eq!(status["autotune"]["phase"], json!("Manual"), "{status:#}");
    let text = keeper.metrics_text();
    assert!(text.contains("autotune_plans_total{result=\"applied\"} 1"), "{text}");
    let of = "metastore=\"demo\",metastore_namespace=\"ns\"";
    for state in ["ready", "wanted"] {
        let line = format!("metastore_operator_members{{{of},state=\"{state}\"}} 3\n");
        assert!(text.contains(&line), "{line}: {text}");
    }
    let line = format!("metastore_operator_autotune_frozen{{{of},reason=\"Paused\"}} 0\n");
    assert!(text.contains(&line), "{text}");
}

#[tokio::test]
async fn a_plan_that_members_refuse_is_told_and_does_not_fail_the_pass() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3).knowing_plans());
    let keeper = three(&api, &members).await;
    put(&api, &json!({ "replicas": 3, "raft": { "heartbeatMs": 50, "electionMs": 500 } }));
    // Somebody else is first, between the second look and the submission.
    let tuning = Rc::clone(&members.tuning);
    let members = members.first_submits(move || {
        let mut tuning = tuning.borrow_mut();
        let tuning = tuning.as_mut().expect("plans are known");
        tuning.plan = tuning.plan.succeeded_by(None);
        tuning.plan.phase = Phase::Settled;
    });
    let keeper = {
        drop(keeper);
        self::keeper(&api, &members, plan)
    };
    assert!(matches!(keeper.pass(&key()).await, Ok(Passed::Again(_))));
    let events: Vec<String> = api
        .log()
        .iter()
        .filter(|asked| asked.path.starts_with("events.k8s.io") && asked.writes())
        .filter_map(|asked| asked.body["reason"].as_str().map(str::to_owned))
        .collect();
    assert!(events.contains(&"AutotuneHeld".to_owned()), "{events:?}");
    settle(&api, &members, &keeper).await;
    let status = &api.get("metastore.io/metastores", "ns/demo").unwrap()["status"];
    assert_eq!(status["autotune"]["phase"], json!("Manual"), "{status:#}");
    assert_eq!(status["autotune"]["epoch"], json!(2));
}
