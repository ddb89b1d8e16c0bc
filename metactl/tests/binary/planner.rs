//! `tune plan` and `tune auto`: the planner over what members say.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use client::proto::etcdserverpb::Member;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::online::good;
use crate::store::{Running, start};

/// Members, all of which are said to be at the one address where somebody is.
fn three() -> Running {
    let store = start();
    let urls = vec![format!("http://{}", store.address)];
    let members = (1..=3).map(|id| Member {
        id,
        name: format!("m{id}"),
        client_ur_ls: urls.clone(),
        ..Member::default()
    });
    store.store.contents.lock().unwrap().members = members.collect();
    store
}

#[test]
fn a_member_that_answers_as_another_is_not_believed() {
    let store = three();
    let page = good(&store, &["tune", "plan"]);
    assert!(page.starts_with("measured   not enough yet\n"), "{page}");
    assert!(page.contains("a majority is not heard from"), "{page}");
    assert!(page.contains("m1 is silent: it answers as member 0"), "{page}");
    let said: Value = serde_json::from_str(&good(&store, &["--json", "tune", "plan"])).unwrap();
    assert_eq!((&said["state"], &said["submit"]), (&"NoQuorum".into(), &Value::Null));
    assert!(store.store.contents.lock().unwrap().submits.is_empty());
}

#[test]
fn the_loop_says_a_line_for_each_evaluation_and_ends_well_when_it_is_interrupted() {
    let store = three();
    let mut running = Command::new(env!("CARGO_BIN_EXE_metactl"))
        .args(["--endpoints", &store.address.to_string()])
        .args(["tune", "auto", "--evaluation", "100ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert!(
            line.contains("epoch 0 settled 100ms/1000ms") && line.contains("NoQuorum"),
            "{line}"
        );
    }
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    let last = lines.map(Result::unwrap).last().unwrap();
    assert_eq!(last, "stopped; the plan in force stays");
    assert!(running.wait().unwrap().success());
}

#[test]
fn what_the_loop_remembers_is_in_the_file_and_of_one_cluster() {
    let store = three();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("memory.json");
    let begin = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metactl"));
        command.args(["--endpoints", &store.address.to_string()]);
        command.args(["tune", "auto", "--evaluation", "100ms", "--state"]).arg(&path);
        command
    };
    let mut running = begin().stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    lines.next().unwrap().unwrap();
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    assert!(running.wait().unwrap().success());
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(kept["state"]["now_ms"].as_u64().unwrap() > 0, "{kept}");
    kept["cluster"] = "beef".into();
    std::fs::write(&path, kept.to_string()).unwrap();
    let ended = begin().output().unwrap();
    let line = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success() && line.contains("of cluster beef, but this is"), "{line}");
}
