//! Commands that speak to a member.

use member::state::{Limits, State, StateParts, portable};
use serde_json::Value;
use tonic::Status;

use crate::store::{Running, start};
use crate::{metactl, text};

fn run(running: &Running, arguments: &[&str]) -> std::process::Output {
    let endpoint = running.address.to_string();
    metactl(&[&["--endpoints", &endpoint][..], arguments].concat())
}

fn good(running: &Running, arguments: &[&str]) -> String {
    let output = run(running, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn report(running: &Running, arguments: &[&str]) -> Value {
    let arguments = [&["--json", "bench"][..], arguments].concat();
    serde_json::from_str(&good(running, &arguments)).unwrap()
}

#[test]
fn keys_are_written_read_and_deleted() {
    let store = start();
    assert_eq!(good(&store, &["put", "a/1", "one"]), "OK\n");
    assert_eq!(good(&store, &["put", "a/2", "two\nlines"]), "OK\n");
    assert_eq!(good(&store, &["get", "a/1"]), "a/1\none\n");
    assert_eq!(good(&store, &["get", "a/", "--prefix"]), "a/1\none\na/2\ntwo\\nlines\n");
    assert_eq!(good(&store, &["del", "a/1"]), "1\n");
    assert_eq!(good(&store, &["get", "a/1"]), "");
}

#[test]
fn json_is_a_line_for_each_answer() {
    let store = start();
    let line = |arguments: &[&str]| -> Value {
        let said = good(&store, &[&["--json"][..], arguments].concat());
        serde_json::from_str(&said).unwrap()
    };
    let put = line(&["put", "a", "one"]);
    let got = line(&["get", "a"]);
    assert_eq!(got["count"], 1);
    assert_eq!(got["kvs"][0]["key"], "a");
    assert_eq!(got["kvs"][0]["value"], "one");
    assert_eq!(got["kvs"][0]["mod_revision"], put["revision"]);
    assert_eq!(line(&["del", "a"])["deleted"], 1);
}

#[test]
fn a_watch_on_an_address_where_nobody_is_ends_with_an_error() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let output = metactl(&["--endpoints", &nobody, "--timeout", "0.5", "watch", "a"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&nobody), "{}", text(&output.stderr));
}

#[test]
fn an_endpoint_that_fails_does_not_hide_the_others() {
    let store = start();
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let endpoints = format!("{nobody},{}", store.address);
    let output = metactl(&["--endpoints", &endpoints, "--timeout", "0.5", "status"]);
    assert_eq!(output.status.code(), Some(1));
    let table = text(&output.stdout);
    assert!(table.contains(&format!("{nobody}  failed: ")), "{table}");
    assert!(table.contains("abc") && table.contains("leader"), "{table}");
    assert_eq!(text(&output.stderr), "metactl: 1 of 2 endpoints failed\n");
}

#[test]
fn round_trip_times_stand_in_a_matrix_with_a_row_for_each_member() {
    use client::proto::admin::PeerObservation;
    use client::proto::etcdserverpb::Member;
    let (first, second) = (start(), start());
    let member = |id: u64, name: &str, urls: Vec<String>| Member {
        id,
        name: name.into(),
        client_ur_ls: urls,
        ..Default::default()
    };
    let url = |store: &Running| vec![format!("http://{}", store.address)];
    first.store.contents.lock().unwrap().members =
        vec![member(3, "", Vec::new()), member(2, "b", url(&second)), member(1, "a", url(&first))];
    let seen = |member_id: u64, rtt_samples: u64, reachable: bool| PeerObservation {
        member_id,
        reachable,
        rtt_srtt_us: 1230,
        rtt_var_us: 450,
        rtt_samples,
        ..Default::default()
    };
    first.store.contents.lock().unwrap().peers = vec![seen(2, 9, true), seen(3, 9, false)];
    second.store.contents.lock().unwrap().peers = vec![seen(1, 0, true)];
    let output = run(&first, &["rtt"]);
    let lines: Vec<Vec<String>> = text(&output.stdout)
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()))
        .map(|cells| cells.map(str::to_owned).collect())
        .collect();
    assert_eq!(lines[0], ["FROM \\ TO", "3", "a", "b"]);
    assert_eq!(lines[1], ["3", "failed: it has not started yet"]);
    assert_eq!(lines[2], ["a", "unreachable", "-", "1.23 +- 0.45"]);
    assert_eq!(lines[3], ["b", "-", "unknown", "-"]);
    assert_eq!(text(&output.stderr), "metactl: 1 of 3 members could not be asked\n");
}

#[test]
fn a_put_load_makes_exactly_the_requests_it_was_told_to() {
    let store = start();
    let load = ["put", "--total", "1000", "--key-space", "300", "--connections", "3"];
    let report = report(&store, &[&load[..], &["--clients", "20", "--threads", "2"]].concat());
    assert_eq!(
        (&report["ops"], &report["refusals"]),
        (&1000.into(), &Value::Object([].into_iter().collect()))
    );
    let contents = store.store.contents.lock().unwrap();
    assert_eq!((contents.puts, contents.keys.len()), (1000, 300));
    assert!(contents.keys.values().all(|kv| kv.key.len() == 16 && kv.value.len() == 256));
    let values: std::collections::BTreeSet<_> =
        contents.keys.values().map(|kv| kv.value.clone()).collect();
    assert_eq!(values.len(), 300);
}

#[test]
fn an_open_loop_sends_what_falls_due_and_no_more() {
    let store = start();
    let load = ["put", "--rate", "200", "--duration", "0.5", "--warmup", "0"];
    assert_eq!(report(&store, &load)["ops"], 100);
    assert_eq!(store.store.contents.lock().unwrap().puts, 100);
}

#[test]
fn refusals_are_counted_by_their_words_and_apart_from_what_was_done() {
    let store = start();
    let said = "etcdserver: too many requests";
    store.store.contents.lock().unwrap().refusal = Some(Status::resource_exhausted(said));
    let report = report(&store, &["put", "--total", "1000"]);
    assert_eq!((&report["ops"], &report["refusals"][said]), (&500.into(), &500.into()));
}

#[test]
fn a_server_that_refuses_everything_ends_the_load() {
    let store = start();
    store.store.contents.lock().unwrap().refusal =
        Some(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"));
    let output = run(&store, &["bench", "put", "--total", "100000"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("1000 requests refused, the last with: etcdserver: mvcc"), "{said}");
}

#[test]
fn ranges_of_keys_that_are_not_there_are_no_success() {
    let store = start();
    let empty = run(&store, &["bench", "range", "--total", "2000"]);
    assert!(text(&empty.stderr).contains("the key does not exist"), "{:?}", empty.stderr);
    good(&store, &["bench", "put", "--total", "50", "--key-space", "50"]);
    let range = ["range", "--total", "300", "--key-space", "50", "--consistency", "s"];
    assert_eq!(report(&store, &range)["ops"], 300);
}

#[test]
fn every_watcher_hears_of_every_put() {
    let store = start();
    let report = report(&store, &["watch", "--watchers", "7", "--total", "200"]);
    assert_eq!((&report["ops"], &report["delivery"]["events"]), (&200.into(), &1400.into()));
}

#[test]
fn a_snapshot_is_saved_whole_or_not_at_all() {
    let store = start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved");
    let path = path.to_str().unwrap();
    let founder = client::proto::log::Member { id: 7, ..Default::default() };
    let mut state =
        State::from_parts(StateParts::new_cluster(&[founder]), Limits::default()).unwrap();
    let whole = portable::write(&state.publish(), 9, "test").collect::<Vec<_>>().concat();

    store.store.contents.lock().unwrap().snapshot = whole[..whole.len() - 100].to_vec();
    let output = run(&store, &["snapshot", "save", path]);
    assert!(text(&output.stderr).contains("cut short"), "{:?}", output.stderr);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

    store.store.contents.lock().unwrap().snapshot = whole.clone();
    good(&store, &["snapshot", "save", path]);
    assert_eq!(std::fs::read(path).unwrap(), whole);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);

    let again = run(&store, &["snapshot", "save", path]);
    assert!(text(&again.stderr).contains("it is not overwritten"));

    let status: Value =
        serde_json::from_str(&text(&metactl(&["--json", "snapshot", "status", path]).stdout))
            .unwrap();
    assert_eq!((&status["revision"], &status["cluster"]), (&1.into(), &"9".into()));
}
