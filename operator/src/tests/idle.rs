//! Many clusters under one controller, in virtual time: how much is asked while nothing changes, and
//! that what changes is noticed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::fake_api::FakeApi;
use super::fake_members::FakeMembers;
use super::passes::{keeper, metastore};
use crate::controller::control;
use crate::plan::plan;

/// Clusters.
const CLUSTERS: usize = 100;
/// Most requests per second that they may make together while nothing changes: four for each every
/// half minute, some more when the children are looked at, and the watches.
const REQUESTS_PER_S_MAX: usize = 20;

#[tokio::test(start_paused = true)]
async fn a_hundred_clusters_come_up_without_a_storm_and_idle_without_a_write() {
    let (api, members) = (FakeApi::new(), FakeMembers::of(3));
    for number in 0..CLUSTERS {
        let object = metastore(&format!("c{number}"), &json!({ "replicas": 3 }));
        api.put("metastore.io/metastores", object);
    }
    let keeper = Rc::new(keeper(&api, &members, plan));
    let (stop, stopped) = watch::channel(false);
    let control = control(keeper, Some("ns"), stopped, || {});
    let done = Cell::new(false);
    let observed = async {
        tokio::time::sleep(Duration::from_secs(120)).await;
        for number in 0..CLUSTERS {
            let object = api.get("metastore.io/metastores", &format!("ns/c{number}")).unwrap();
            assert_eq!(object["status"]["ready"], json!("3/3"), "c{number}: {object:#}");
        }
        let came_up = api.log().len();
        assert!(came_up < CLUSTERS * 120, "{came_up} requests to bring {CLUSTERS} clusters up");

        let (writes, seconds) = (api.writes().len(), 400);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let late: Vec<String> = api.writes().split_off(writes);
        assert!(late.is_empty(), "written while nothing changed: {late:#?}");
        let asked = api.log().len() - came_up;
        let most = REQUESTS_PER_S_MAX * usize::try_from(seconds).unwrap();
        assert!(asked <= most, "{asked} requests in {seconds} s");
        println!("{came_up} requests to come up, {asked} in {seconds} s idle");

        // A pod that goes is noticed by its watch, long before the next round.
        let looks = |api: &FakeApi| {
            let about = "metastore.io/metastores/ns/c7";
            api.log().iter().filter(|asked| asked.path == about && !asked.writes()).count()
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = looks(&api);
        let mut service = api.get("/services", "ns/c7").unwrap();
        service["spec"]["ports"] = json!([]);
        api.put("/services", service);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(looks(&api) > before, "a changed child starts a pass");
        let service = api.get("/services", "ns/c7").unwrap();
        assert_ne!(service["spec"]["ports"], json!([]), "and is put back");

        // Nothing is asked about one that is gone.
        api.lock().remove("metastore.io/metastores", &("ns".to_owned(), "c7".to_owned()));
        api.put("metastore.io/metastores", metastore("c100", &json!({ "replicas": 3 })));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let before = looks(&api);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(looks(&api), before);

        done.set(true);
        stop.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = control => {}
        () = observed => {}
    }
    assert!(done.get(), "the controller ended before it was told to");
}
