//! Commands that speak to a member.

use client::proto::log;
use member::state::{Limits, State, StateParts, portable};
use serde_json::Value;

use crate::store::{Running, start};
use crate::{NOBODY, metactl, text};

pub(crate) fn run(running: &Running, arguments: &[&str]) -> std::process::Output {
    let endpoint = running.address.to_string();
    metactl(&[&["--endpoints", &endpoint][..], arguments].concat())
}

pub(crate) fn good(running: &Running, arguments: &[&str]) -> String {
    let output = run(running, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
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
    let output = metactl(&["--endpoints", NOBODY, "--timeout", "5", "watch", "a"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(NOBODY), "{}", text(&output.stderr));
}

#[test]
fn an_endpoint_that_fails_does_not_hide_the_others() {
    let store = start();
    let endpoints = format!("{NOBODY},{}", store.address);
    let output = metactl(&["--endpoints", &endpoints, "--timeout", "5", "status"]);
    assert_eq!(output.status.code(), Some(1));
    let table = text(&output.stdout);
    let fails = |line: &str| line.starts_with(NOBODY) && line.contains("  failed: ");
    assert!(table.lines().any(fails), "{table}");
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
    assert_eq!(lines[2], ["a", "unreachable", "-", "1.23 +- 0.45 p99 ?"]);
    assert_eq!(lines[3], ["b", "-", "unknown", "-"]);
    assert_eq!(text(&output.stderr), "metactl: 1 of 3 members could not be asked\n");
}

#[test]
fn a_snapshot_is_saved_whole_or_not_at_all() {
    let store = start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("saved");
    let path = path.to_str().unwrap();
    let founder = log::Member { id: 7, ..Default::default() };
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

fn timing(heartbeat_ms: u64, election_ms: u64) -> log::TuningParams {
    log::TuningParams {
        heartbeat_interval_us: heartbeat_ms * 1_000,
        election_timeout_us: election_ms * 1_000,
        batch_commands_max: 4_096,
        linger_us_max: 2_000,
        message_bytes_max: 1 << 20,
        inflight_messages_max: 256,
        inflight_bytes_max: 64 << 20,
        ..log::TuningParams::default()
    }
}

#[test]
fn a_plan_keeps_what_is_not_given_and_is_made_upon_the_one_that_was_seen() {
    let store = start();
    store.store.contents.lock().unwrap().tuning.flags = Some(timing(100, 1_000));
    let said = good(&store, &["tune", "apply", "--heartbeat", "25ms", "--election", "315ms"]);
    assert_eq!(said, "plan of epoch 1 is on its way\n");
    good(&store, &["tune", "apply", "--election", "0.5s", "--lease", "--wait", "--reason", "why"]);
    good(&store, &["tune", "apply", "--flags", "--supersede"]);
    let submits = store.store.contents.lock().unwrap().submits.clone();
    assert_eq!(submits[0].to, Some(timing(25, 315)));
    assert_eq!(submits[0].planner, "metactl");
    let leased = log::TuningParams { lease_us: 380_000, ..timing(25, 500) };
    assert_eq!((submits[1].expected_epoch, submits[1].to), (1, Some(leased)));
    assert_eq!(submits[1].reason, "why");
    assert_eq!((submits[2].to, submits[2].supersede), (None, true));
}

#[test]
fn a_plan_that_breaks_a_rule_is_not_even_submitted() {
    let store = start();
    for (arguments, why) in [
        (["--heartbeat", "100ms", "--election", "499ms"], "less than 5 heartbeat intervals"),
        (["--heartbeat", "1ms", "--election", "51s"], "above 50000000"),
        (["--election", "1s", "--lease", "900ms"], "longer than 80 %"),
    ] {
        let output = run(&store, &[&["tune", "apply"][..], &arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(why), "{}", text(&output.stderr));
    }
    assert!(store.store.contents.lock().unwrap().submits.is_empty());
}

#[test]
fn the_way_back_is_the_plan_that_settled_before_or_the_flags() {
    let store = start();
    let output = run(&store, &["tune", "rollback"]);
    assert!(text(&output.stderr).contains("no plan"), "{}", text(&output.stderr));
    let before = log::TuningPast { epoch: 6, to: Some(timing(50, 500)), ..Default::default() };
    let newest = log::Tuning { epoch: 7, phase: 5, past: vec![before], ..Default::default() };
    store.store.contents.lock().unwrap().tuning.tuning = Some(newest);
    assert_eq!(good(&store, &["tune", "rollback"]), "plan of epoch 8 is on its way\n");
    store.store.contents.lock().unwrap().tuning.tuning.as_mut().unwrap().past.clear();
    good(&store, &["tune", "rollback"]);
    let submits = store.store.contents.lock().unwrap().submits.clone();
    assert_eq!((submits[0].expected_epoch, submits[0].to), (7, Some(timing(50, 500))));
    assert_eq!(submits[0].reason, "back from epoch 7");
    assert_eq!((submits[1].expected_epoch, submits[1].to), (8, None));
}
