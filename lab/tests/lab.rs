//! The lab as it is used: as root, with TUN devices; where there are none each test says so and passes.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::measure::round_trips;
use lab::network::{Names, Network, Place, check};
use lab::preset::Preset;
use lab::rule::Rule;
use lab::servers::{Servers, Setup};

const A: Place = Place::Member(0);
const B: Place = Place::Member(1);
const TRIES_MAX: usize = 20;
const EVERY: Duration = Duration::from_millis(1);

/// Whether a lab can be here.
fn can_be(test: &str) -> bool {
    match check() {
        Ok(()) => true,
        Err(reason) => {
            skip(test, &format!("{reason:#}"));
            false
        }
    }
}

fn skip(test: &str, reason: &str) {
    drop(writeln!(std::io::stderr(), "{test}: skipped: {reason}"));
}

fn is_there(names: Names) -> bool {
    Path::new("/run/netns").join(names.namespace(0)).exists()
        || Path::new("/sys/class/net").join(names.device()).exists()
}

fn tcp(network: &Network, member: usize) -> std::io::Result<TcpStream> {
    let address = (network.names().address(member), 9).into();
    TcpStream::connect_timeout(&address, Duration::from_millis(300))
}

#[test]
fn no_packet_is_early_and_directions_have_rules_of_their_own() {
    if !can_be("no_packet_is_early") {
        return;
    }
    let network = Network::create(3, 1).unwrap();
    network.set(A, B, Rule { delay: Duration::from_millis(7), ..Rule::default() }).unwrap();
    network.set(B, A, Rule { delay: Duration::from_millis(3), ..Rule::default() }).unwrap();
    let set = Duration::from_millis(10);
    for (from, to) in [(A, B), (B, A)] {
        let trips = round_trips(&network, from, to, 20, EVERY).unwrap();
        assert_eq!((trips.sorted.len(), trips.lost), (20, 0));
        assert!(trips.quantile(0.0) >= set, "{:?}", trips.quantile(0.0));
    }
    let counters = |from, to| {
        let all = network.directions().unwrap();
        all.into_iter().find(|(f, t, _)| (*f, *t) == (from, to)).unwrap().2.counters
    };
    assert!(counters(A, B).packets >= 50 && counters(B, A).packets >= 50);
    assert_eq!(counters(A, Place::Member(2)).packets, 0);
    let trips = round_trips(&network, Place::Host, A, 5, EVERY).unwrap();
    assert_eq!(trips.lost, 0);
    let names = network.names();
    assert!(is_there(names));
    drop(network);
    assert!(!is_there(names));
}

#[test]
fn a_dead_process_refuses_and_a_dead_host_does_not() {
    if !can_be("a_dead_process_refuses") {
        return;
    }
    let network = Network::create(2, 1).unwrap();
    assert_eq!(tcp(&network, 1).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    network.isolate(1, true).unwrap();
    assert_eq!(tcp(&network, 1).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(tcp(&network, 0).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    network.isolate(1, false).unwrap();
    assert_eq!(tcp(&network, 1).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // One way is enough for silence.
    let cut = Rule { is_cut: true, ..Rule::default() };
    network.set(Place::Member(1), Place::Host, cut).unwrap();
    assert_eq!(tcp(&network, 1).unwrap_err().kind(), ErrorKind::TimedOut);
}

#[test]
fn an_unmodified_etcd_runs_over_it_and_is_written_to_from_outside() {
    if !can_be("an_unmodified_etcd_runs_over_it") {
        return;
    }
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/bin");
    let (etcd, etcdctl) = (bin.join("etcd"), bin.join("etcdctl"));
    if !etcd.is_file() || !etcdctl.is_file() {
        skip("an_unmodified_etcd_runs_over_it", "no etcd in .cache/bin (.ci/tools.sh builds it)");
        return;
    }
    let network = Network::create(3, 1).unwrap();
    Preset::named("cross-zone").unwrap().apply(&network).unwrap();
    let setup = Setup {
        program: etcd,
        flags: Vec::new(),
        own_disks: false,
        ready_timeout: lab::servers::READY_TIMEOUT,
    };
    let folder = tempfile::tempdir().unwrap();
    let mut servers = Servers::start(network, setup, folder.path()).unwrap();
    assert_eq!(etcdctl_put(&etcdctl, &servers.endpoints()), "OK");
    // One member is gone, the others go on, and it comes back with what it had.
    servers.network().isolate(2, true).unwrap();
    servers.kill(2).unwrap();
    let rest = servers.endpoints().rsplit_once(',').unwrap().0.to_owned();
    // Whom it cut off may have led; what is asked meanwhile fails.
    let tries = (0..TRIES_MAX).any(|_| etcdctl_put(&etcdctl, &rest) == "OK");
    assert!(tries, "no write without the third member");
    servers.network().isolate(2, false).unwrap();
    servers.restart(2).unwrap();
    servers.wait_healthy(2).unwrap();
}

fn etcdctl_put(etcdctl: &Path, endpoints: &str) -> String {
    let said = Command::new(etcdctl)
        .args(["--endpoints", endpoints, "--command-timeout", "30s", "put", "k", "v"])
        .output()
        .expect("etcdctl runs");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

#[test]
fn what_a_killed_lab_leaves_is_removed_and_what_lives_is_not() {
    if !can_be("what_a_killed_lab_leaves") {
        return;
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_lab"));
    let living = Network::create(1, 1).unwrap();
    let mut lab = Command::new(&program)
        .args(["up", "--no-servers", "--members", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(lab.stdout.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    let number = first.strip_prefix("lab ").and_then(|rest| rest.split_once(':')).unwrap().0;
    let names = Names { lab: number.parse().unwrap() };
    assert!(is_there(names));
    lab.kill().unwrap();
    lab.wait().unwrap();
    assert!(Path::new("/run/netns").join(names.namespace(1)).exists());
    assert!(Command::new(&program).arg("clean").status().unwrap().success());
    assert!(!is_there(names));
    assert!(is_there(living.names()));
}

#[test]
fn a_running_lab_is_changed_line_by_line_and_ends_when_told() {
    if !can_be("a_running_lab_is_changed") {
        return;
    }
    let program = PathBuf::from(env!("CARGO_BIN_EXE_lab"));
    let mut lab = Command::new(&program)
        .args(["up", "--no-servers", "--preset", "metro"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(lab.stdout.take().unwrap()).lines();
    let first = said.next().unwrap().unwrap();
    let number =
        first.strip_prefix("lab ").and_then(|rest| rest.split_once(':')).unwrap().0.to_owned();
    // Its last line is said when it listens, or is about to.
    let _last = said.next().unwrap().unwrap();
    let ask = |line: &str| {
        let words = [&["--lab", &number][..], &line.split(' ').collect::<Vec<_>>()].concat();
        let mut tries = 0;
        loop {
            let out = Command::new(&program).args(&words).output().unwrap();
            let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
            tries += 1;
            if !text.contains(&format!("lab {number}:")) || tries > 1_000 {
                return text;
            }
        }
    };
    let text = ask("show");
    assert!(
        text.contains("m1 to m2: delay=5ms;") && text.contains("m1 to host: delay=0ms;"),
        "{text}"
    );
    assert_eq!(ask("set m1 to m2 delay=1ms loss=2%"), "");
    let text = ask("show");
    assert!(text.contains("m1 to m2: delay=1ms loss=2%;"), "{text}");
    assert!(text.contains("m2 to m1: delay=5ms;"), "{text}");
    for (line, named) in [
        ("set m1 m9 cut", "\"m9\""),
        ("set m1 m2 delay=x", "delay=x"),
        ("set m1 m2", "a rule is missing"),
        ("kill m1", "no servers"),
        ("preset nope", "\"nope\""),
        ("isolate host", "no member"),
    ] {
        let text = ask(line);
        assert!(text.contains(named) && text.trim_end().lines().count() == 1, "{line}: {text}");
    }
    assert_eq!(ask("down"), "");
    assert!(lab.wait().unwrap().success());
    assert!(!is_there(Names { lab: number.parse().unwrap() }));
}
