//! Loads on a member held in memory: what they send, what they report, and how they end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use serde_json::Value;
use tonic::Status;

use crate::online::{good, run};
use crate::store::{Running, start};
use crate::text;

pub(crate) fn report(running: &Running, arguments: &[&str]) -> Value {
    let arguments = [&["--json", "bench"][..], arguments].concat();
    serde_json::from_str(&good(running, &arguments)).unwrap()
}

fn kind<'a>(report: &'a Value, name: &str) -> &'a Value {
    let kinds = report["kinds"].as_array().unwrap();
    kinds.iter().find(|kind| kind["name"] == name).unwrap()
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
fn a_server_that_refuses_very_much_ends_the_load() {
    let store = start();
    store.store.contents.lock().unwrap().refusal =
        Some(Status::resource_exhausted("etcdserver: mvcc: database space exceeded"));
    let output = run(&store, &["bench", "put", "--total", "100000"]);
    assert_eq!(output.status.code(), Some(1));
    let reason = "1000 requests refused, the last with: etcdserver: mvcc";
    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert!(said.contains(reason), "{said}");
    // What was answered well before is not thrown away.
    assert!(shown.contains(reason) && shown.contains("latency"), "{shown}");
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
fn idle_watchers_are_taken_on_before_the_load() {
    let store = start();
    let watchers = ["--watchers", "2", "--idle-watchers", "2500", "--watch-connections", "2"];
    let report = report(&store, &[&["watch", "--total", "10"][..], &watchers].concat());
    assert_eq!(report["delivery"]["events"], 20);
    assert_eq!(store.store.contents.lock().unwrap().idle_watchers, 2500);
}

#[test]
fn a_load_writes_under_its_own_prefix_and_leaves_the_rest_alone() {
    let store = start();
    good(&store, &["put", "mine", "1"]);
    good(&store, &["bench", "put", "--total", "20", "--keys", "zipf"]);
    good(&store, &["bench", "txn", "--total", "20", "--keys", "uniform"]);
    let contents = store.store.contents.lock().unwrap();
    let others: Vec<_> = contents.keys.keys().filter(|key| !key.starts_with(b"bench/")).collect();
    assert_eq!(others, [b"mine"]);
}

#[test]
fn zipf_takes_few_keys_often() {
    let store = start();
    let load = ["put", "--total", "2000", "--key-space", "1000000", "--keys", "zipf"];
    report(&store, &[&load[..], &["--zipf-exponent", "2"]].concat());
    let keys = store.store.contents.lock().unwrap().keys.len();
    // About sqrt(pi * 2000) of them.
    assert!((20..300).contains(&keys), "{keys}");
}

#[test]
fn a_range_reads_as_many_keys_as_it_should() {
    let store = start();
    let space = ["--key-space", "200"];
    good(&store, &[&["bench", "put", "--total", "200"][..], &space].concat());
    for (flags, keys) in [
        (&["--keys-per-range", "7"][..], 7.0),
        (&["--keys-per-range", "100", "--prefix"], 100.0),
        (&["--prefix", "--clients", "10"], 200.0),
    ] {
        let load = [&["range", "--total", "100", "--keys", "uniform"][..], &space, flags].concat();
        let report = report(&store, &load);
        let keys_read = report["keys_per_s"].as_f64().unwrap();
        let per_range = keys_read / report["ops_per_s"].as_f64().unwrap();
        assert_eq!((&report["ops"], per_range.round()), (&100.into(), keys), "{flags:?}");
    }
    let short = ["bench", "range", "--key-space", "300", "--prefix", "--total", "2000"];
    let said = text(&run(&store, &short).stderr);
    assert!(said.contains("fewer keys than asked for"), "{said}");
}

#[test]
fn swaps_and_lost_races_are_counted_apart() {
    let store = start();
    let load = ["txn", "--total", "500", "--key-space", "50", "--clients", "1"];
    let alone = report(&store, &load);
    assert_eq!(kind(&alone, "swapped")["ops"], 500);
    // The second run does not know the keys of the first.
    let again = report(&store, &load);
    assert_eq!(
        (&kind(&again, "swapped")["ops"], &kind(&again, "first look")["ops"]),
        (&450.into(), &50.into())
    );
    store.store.contents.lock().unwrap().meddles = true;
    let raced = report(&store, &load);
    let lost = kind(&raced, "lost race")["ops"].as_u64().unwrap();
    let swapped = kind(&raced, "swapped")["ops"].as_u64().unwrap();
    assert!(lost > 0 && lost + swapped + 50 >= 500, "{lost} lost, {swapped} swapped");
    assert_eq!(raced["ops"], 500);
}

#[test]
fn reads_and_writes_of_a_mixed_load_are_told_apart() {
    let store = start();
    good(&store, &["bench", "put", "--total", "50", "--key-space", "50"]);
    let load = ["mixed", "--ratio", "3:1", "--total", "2000", "--key-space", "50"];
    let report = report(&store, &load);
    let ops = |name| kind(&report, name)["ops"].as_u64().unwrap();
    let (reads, writes) = (ops("read"), ops("write"));
    assert_eq!((reads + writes, report["ops"].as_u64()), (2000, Some(2000)));
    // Three quarters, give or take ten standard deviations.
    assert!((1300..=1700).contains(&reads), "{reads} reads");
    assert_eq!(store.store.contents.lock().unwrap().puts, 50 + writes);
}

#[test]
fn leases_are_granted() {
    let store = start();
    let report = report(&store, &["lease", "grant", "--total", "300", "--ttl", "60", "--keep"]);
    assert_eq!(report["ops"], 300);
    assert_eq!(store.store.contents.lock().unwrap().leases.len(), 300);
}

#[test]
fn leases_are_kept_alive_at_a_third_of_their_time() {
    let store = start();
    let leases = ["--leases", "100", "--ttl", "3", "--connections", "3", "--threads", "2"];
    let time = ["--duration", "1.5", "--warmup", "0"];
    let report = report(&store, &[&["lease", "keepalive", "--keep"][..], &leases, &time].concat());
    let renewals = store.store.contents.lock().unwrap().leases.clone();
    // Each is due once a second, so one or two times. What was due in time is sent, however late: the
    // sum is the same on any machine.
    assert!(renewals.len() == 100 && renewals.values().all(|renewals| (1..=2).contains(renewals)));
    let all: u64 = renewals.values().sum();
    assert_eq!(all, 150);
    // One of them has run out, which is no success.
    let gone = renewals[&i64::MAX];
    assert_eq!(report["ops"].as_u64(), Some(all - gone));
    let said = "the lease ran out before it was renewed";
    assert_eq!(report["refusals"][said].as_u64(), Some(gone));
}

#[test]
fn the_seconds_of_a_load_add_up_to_it() {
    let store = start();
    let load = ["put", "--rate", "100", "--duration", "2.5", "--warmup", "0"];
    let report = report(&store, &load);
    let seconds = report["seconds"].as_array().unwrap();
    let ops: u64 = seconds.iter().map(|second| second["ops"].as_u64().unwrap()).sum();
    // A rest too short for a rate is left out.
    assert_eq!((report["ops"].as_u64(), ops <= 250, seconds.is_empty()), (Some(250), true, false));
    let kind = kind(&report, "put");
    let curve = kind["curve"].as_array().unwrap();
    assert_eq!(curve.last().unwrap()[0], 1.0);
    assert_eq!(report["servers"][0]["pid"], std::process::id());
    assert!(seconds[0]["server_rss_bytes"].as_u64() > Some(0));
}

#[test]
fn progress_is_a_line_a_second_and_none_when_a_program_reads() {
    let store = start();
    let (line, ..) = interrupt(&store, &["put", "--rate", "50"], rustix::process::Signal::INT);
    let (second, rest) = line.strip_prefix("  ").unwrap().split_once(" s: ").unwrap();
    assert!(second.parse::<u32>().unwrap() >= 1, "{line}");
    assert!(rest.contains(" done, ") && rest.contains("p99"), "{line}");
    let load = ["bench", "put", "--rate", "50", "--duration", "1.5", "--warmup", "0"];
    let output = run(&store, &[&["--json"][..], &load].concat());
    assert!(output.status.success() && output.stderr.is_empty());
}

/// Starts a load without an end, waits until it is measured, and sends it a signal: the first line
/// about what is measured, the exit code, and what it printed.
fn interrupt(
    store: &Running,
    arguments: &[&str],
    signal: rustix::process::Signal,
) -> (String, i32, String) {
    use rustix::process::{Pid, kill_process};
    let mut load = Command::new(env!("CARGO_BIN_EXE_metactl"))
        .args(["--endpoints", &store.address.to_string(), "bench"])
        .args(arguments)
        .args(["--duration", "600", "--warmup", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(load.stderr.take().unwrap()).lines();
    let measured = lines.map(Result::unwrap).find(|line| !line.contains("preparing"));
    let measured = measured.unwrap_or_else(|| "nothing".to_owned());
    assert!(measured.contains("done"), "{arguments:?}: {measured}");
    kill_process(Pid::from_child(&load), signal).unwrap();
    let mut said = String::new();
    load.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    (measured, load.wait().unwrap().code().unwrap(), said)
}

#[test]
fn a_load_that_is_ended_shows_what_it_has() {
    use rustix::process::Signal;
    let store = start();
    let store = &store;
    let cases = [
        (&["put"][..], Signal::INT, 130),
        (&["put", "--rate", "10"], Signal::TERM, 143),
        (&["lease", "keepalive", "--leases", "50", "--ttl", "3"], Signal::INT, 130),
        (&["watch", "--watchers", "2", "--rate", "10"], Signal::INT, 130),
    ];
    std::thread::scope(|scope| {
        for (arguments, signal, code) in cases {
            scope.spawn(move || {
                let (_, ended, said) = interrupt(store, arguments, signal);
                assert_eq!(ended, code, "{said}");
                assert!(said.contains("interrupted") && said.contains("latency"), "{said}");
            });
        }
    });
}

#[test]
fn a_page_with_charts_needs_nothing_else() {
    let store = start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.html");
    let path = path.to_str().unwrap();
    let load = ["bench", "mixed", "--rate", "200", "--duration", "2.2", "--warmup", "0"];
    good(&store, &["bench", "put", "--total", "20", "--key-space", "20"]);
    good(&store, &[&load[..], &["--key-space", "20", "--html", path]].concat());
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert_eq!((page.matches("<svg").count(), page.matches("</svg>").count()), (5, 5));
    for elsewhere in ["http:", "https:", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn the_values_of_a_load_may_be_large() {
    let store = start();
    let load = ["put", "--value-bytes", "3000000", "--total", "3", "--clients", "2"];
    let report = report(&store, &load);
    assert_eq!(report["ops"], 3, "{report}");
    let contents = store.store.contents.lock().unwrap();
    assert!(contents.keys.values().all(|kv| kv.value.len() == 3_000_000));
    drop(contents);
    let range = ["range", "--total", "3", "--clients", "2", "--key-space", "3"];
    assert_eq!(self::report(&store, &range)["ops"], 3);
}
