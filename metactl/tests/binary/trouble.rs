//! Loads whose servers fail, refuse or fall silent, and loads that are ended: what they show, and what
//! they leave behind.

use std::io::{BufRead, BufReader, Lines, Read};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tonic::Status;

use crate::bench::report;
use crate::online::run;
use crate::store::{start, start_web};
use crate::{metactl, text};

/// A load at work.
struct Load {
    process: Child,
    progress: Lines<BufReader<ChildStderr>>,
}

impl Load {
    fn start(endpoints: &str, arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_metactl"))
            .args(["--endpoints", endpoints, "bench"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let progress = BufReader::new(process.stderr.take().unwrap()).lines();
        Load { process, progress }
    }

    /// Waits for a line of progress that is like this.
    fn until(&mut self, is_it: impl Fn(&str) -> bool) {
        let mut seen = Vec::new();
        for line in self.progress.by_ref().map(Result::unwrap) {
            if is_it(&line) {
                return;
            }
            seen.push(line);
        }
        panic!("it ended before: {seen:?}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits for its end: exit code, what it showed, and what it said last.
    fn end(mut self) -> (Option<i32>, String, String) {
        let mut shown = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
        let said: Vec<String> = self.progress.map(Result::unwrap).collect();
        let code = self.process.wait().unwrap().code();
        (code, shown, said.last().cloned().unwrap_or_default())
    }
}

/// Requests answered well, by a line of progress.
fn done(line: &str) -> u64 {
    let words = line.split_once(" s: ").and_then(|(_, rest)| rest.split_once(" done"));
    words.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

fn is_measured(line: &str) -> bool {
    done(line) > 0 && !line.contains("preparing") && !line.contains("warm-up")
}

#[test]
fn a_load_goes_on_when_its_server_comes_back_and_counts_what_was_lost() {
    let mut store = start();
    let endless = ["put", "--clients", "20", "--duration", "600", "--warmup", "0"];
    let mut load = Load::start(&store.address.to_string(), &endless);
    load.until(is_measured);
    // Until all clients wait for an answer.
    store.store.contents.lock().unwrap().is_silent = true;
    load.until(|line| line.contains(" done, 0/s"));
    store.die();
    load.until(|line| line.contains(" lost"));
    store.store.contents.lock().unwrap().is_silent = false;
    let before = store.store.contents.lock().unwrap().puts;
    store.revive();
    load.until(|line| done(line) > before + 100);
    load.signal(Signal::INT);
    let (code, shown, _) = load.end();
    assert_eq!(code, Some(130), "{shown}");
    let lost = shown.lines().filter_map(|line| line.trim_start().strip_prefix("lost "));
    let (counts, reasons): (Vec<_>, Vec<_>) =
        lost.map(|line| line.trim_start().split_once(" x ").unwrap()).unzip();
    let lost: u64 = counts.iter().map(|count| count.parse::<u64>().unwrap()).sum();
    // Each client one; a listener that is about to go may take in another.
    let is_so = |reason: &&str| reason.contains("connection lost before the answer came");
    assert!(lost >= 20 && reasons.iter().all(is_so), "{shown}");
}

#[test]
fn a_load_whose_server_is_gone_for_good_shows_what_it_has() {
    let keepalive = ["lease", "keepalive", "--leases", "30", "--ttl", "3", "--keep"];
    for arguments in [&["put", "--rate", "100"][..], &keepalive] {
        let mut store = start();
        let lasting = [arguments, &["--duration", "2.5", "--warmup", "0"]].concat();
        let mut load = Load::start(&store.address.to_string(), &lasting);
        load.until(is_measured);
        store.die();
        let (code, shown, said) = load.end();
        assert_eq!(code, Some(0), "{said}");
        assert!(shown.contains("latency") && shown.contains("done"), "{shown}");
    }
}

#[test]
fn a_load_and_its_watchers_move_to_an_endpoint_that_answers() {
    let mut one = start();
    let other = one.beside();
    let endpoints = format!("{},{}", one.address, other.address);
    let watchers = ["--watchers", "4", "--watch-connections", "2", "--rate", "100"];
    let arguments = [&["watch", "--duration", "3"][..], &watchers].concat();
    let mut load = Load::start(&endpoints, &arguments);
    load.until(is_measured);
    one.die();
    let (code, shown, said) = load.end();
    assert_eq!(code, Some(0), "{said} {shown}");
    let number = |name: &str| -> u64 {
        let line = shown.lines().find_map(|line| line.trim_start().strip_prefix(name)).unwrap();
        line.split_ascii_whitespace().next().unwrap().parse().unwrap()
    };
    // Of a put whose answer was lost watchers may have heard.
    assert!(number("delivered") >= 4 * number("done"), "{shown}");
    assert!(number("done") > 200, "{shown}");
}

#[test]
fn what_an_election_refuses_does_not_end_a_load() {
    let store = start();
    store.store.contents.lock().unwrap().refusal =
        Some(Status::unavailable("etcdserver: leader changed"));
    let report = report(&store, &["put", "--total", "3000"]);
    let refused = &report["refusals"]["etcdserver: leader changed"];
    assert_eq!((&report["ops"], refused), (&1500.into(), &1500.into()));
}

#[test]
fn a_load_of_which_nothing_was_answered_well_is_no_success() {
    let store = start();
    let output = run(&store, &["bench", "range", "--total", "5"]);
    assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(1), ""));
    let said = text(&output.stderr);
    assert!(
        said.contains("none of 5 requests was answered well: the key does not exist"),
        "{said}"
    );
}

#[test]
fn an_answer_that_does_not_come_in_time_is_lost() {
    let store = start();
    store.store.contents.lock().unwrap().is_silent = true;
    let load = ["--timeout", "3", "--json", "bench", "put", "--total", "30", "--clients", "15"];
    let output = run(&store, &load);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ops"], &report["lost"]["no answer within 3s"]), (&15.into(), &15.into()));
}

#[test]
fn a_measured_process_that_ends_takes_nothing_else_of_the_report_along() {
    let store = start();
    let mut server = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = server.id().to_string();
    let arguments = ["put", "--rate", "100", "--duration", "2.5", "--warmup", "0", "--pid", &pid];
    let mut load = Load::start(&store.address.to_string(), &arguments);
    load.until(is_measured);
    server.kill().unwrap();
    server.wait().unwrap();
    let (code, shown, said) = load.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(shown.contains(&format!("pid {pid}, during the load")), "{shown}");
    assert!(shown.contains("done         250 in"), "{shown}");
}

#[test]
fn leases_are_given_back_however_the_load_ends() {
    let store = start();
    let endpoint = store.address.to_string();
    let held = || store.store.contents.lock().unwrap().leases.len();
    let granted = || store.store.contents.lock().unwrap().granted;
    report(&store, &["lease", "grant", "--total", "200"]);
    assert_eq!((granted(), held()), (200, 0));
    let keepalive = ["lease", "keepalive", "--leases", "40", "--ttl", "3"];
    report(&store, &[&keepalive[..], &["--duration", "0.5"]].concat());
    assert_eq!((granted(), held()), (240, 0));

    let mut load = Load::start(&endpoint, &[&keepalive[..], &["--duration", "600"]].concat());
    load.until(is_measured);
    load.signal(Signal::TERM);
    let (code, shown, _) = load.end();
    assert!(code == Some(143) && shown.contains("interrupted"), "{shown}");
    assert_eq!((granted(), held()), (280, 0));

    // While they are granted.
    let many = ["lease", "keepalive", "--leases", "10000000", "--ttl", "600"];
    let mut load = Load::start(&endpoint, &many);
    load.until(|line| line.contains("preparing"));
    load.signal(Signal::INT);
    let (code, shown, said) = load.end();
    assert_eq!((code, &*shown, held()), (Some(130), "", 0));
    assert_eq!(said, "metactl: ended by signal 2, before anything was measured");
}

#[test]
fn keys_on_leases_are_no_keys_that_were_there_before() {
    let store = start();
    let put = ["put", "--key-bytes", "24", "--key-space", "50", "--total", "50"];
    report(&store, &put);
    let report = report(&store, &["lease", "grant", "--total", "100", "--with-key", "--keep"]);
    let contents = store.store.contents.lock().unwrap();
    let leased = contents.keys.keys().filter(|key| key.starts_with(b"bench/lease-")).count() as u64;
    // However few the requests, leases get their keys.
    assert!(leased > 0 && report["kinds"][1]["ops"] == leased, "{leased}: {report}");
    assert_eq!(contents.keys.len() as u64, 50 + leased);
}

#[test]
fn events_of_others_are_not_measured() {
    let store = start();
    let endpoint = store.address.to_string();
    let others = ["put", "--rate", "200", "--duration", "600"];
    let mut other = Load::start(&endpoint, &others);
    other.until(|line| done(line) > 0);
    let report = report(&store, &["watch", "--watchers", "3", "--rate", "100", "--duration", "1"]);
    other.signal(Signal::INT);
    assert_eq!(other.end().0, Some(130));
    assert_eq!((&report["ops"], &report["delivery"]["events"]), (&100.into(), &300.into()));
}

#[test]
fn a_page_is_written_though_nobody_reads_the_report() {
    let store = start();
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("report.html");
    let arguments = ["put", "--total", "20", "--html", page.to_str().unwrap()];
    let mut load = Load::start(&store.address.to_string(), &arguments);
    drop(load.process.stdout.take());
    assert_eq!(load.process.wait().unwrap().code(), Some(0));
    assert!(std::fs::read_to_string(page).unwrap().ends_with("</html>\n"));
}

#[test]
fn connections_that_there_are_no_files_for_are_refused_by_number() {
    let store = start();
    let limited = |limit: &str| {
        let script = format!("ulimit {limit} 70; exec \"$@\"");
        let load = ["bench", "put", "--total", "100", "--connections", "100"];
        Command::new("sh")
            .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_metactl"), "--endpoints"])
            .arg(store.address.to_string())
            .args(load)
            .output()
            .unwrap()
    };
    let hard = limited("-n");
    assert_eq!(hard.status.code(), Some(1));
    let said = text(&hard.stderr);
    assert!(said.contains("100 connections need 148 open files"), "{said}");
    // What may be raised is.
    assert_eq!(limited("-Sn").status.code(), Some(0));
}

#[test]
fn an_endpoint_that_is_no_store_ends_the_load_at_once() {
    let endpoint = start_web().to_string();
    let output = metactl(&["--endpoints", &endpoint, "bench", "put", "--duration", "600"]);
    assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(1), ""));
    let said = text(&output.stderr);
    assert!(said.contains("HTTP status 404 Not Found, which is not gRPC's"), "{said}");
}
