//! Everything a member exports, over the life of a cluster: that it reads like etcd's, that none of it
//! never moves, and that its labels stay few.
//!
//! `etcd-metrics.txt` is what a live etcd exports. It is held against a real one where there is one
//! (`.ci/run` puts it into `.cache/bin`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use client::{Client, Code, Config, Delete, Get, KeyRange, Put, Txn, WatchOf};
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, AuthenticateRequest, HashRequest, WatchCreateRequest, WatchRequest,
};
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::{Cluster, PATIENCE, Setup, add_learner, free_port, promote, remove, until};
use crate::manners::{leader, page};
use crate::plans::{params, submit, upon, uses};
use crate::tls::{HOSTS, Volume, ca, identity, leaf, server_flags};

const TABLE: &str = include_str!("etcd-metrics.txt");
/// Between two looks at all members.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// For one member to say everything.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// What does not move in the life below, and why. Each but the constants is moved by the test named.
const UNMOVED: &[(&str, &str)] = &[
    ("etcd_cluster_version", "a constant"),
    ("etcd_server_id", "a constant"),
    ("etcd_server_quota_backend_bytes", "a setting"),
    ("etcd_server_version", "a constant"),
    ("metastore_build_info", "a constant"),
    ("metastore_peer_compression", "a setting, and with auto a road that is full: core/autotune"),
    ("metastore_raft_timing_flags_seconds", "a setting"),
    ("os_fd_limit", "a setting"),
    ("process_max_fds", "a setting"),
    ("process_start_time_seconds", "a constant"),
    (
        "metastore_process_cpu_pressure_seconds_total",
        "as the kernel tells: the_kernels_files_are_read",
    ),
    (
        "metastore_process_cpu_throttled_seconds_total",
        "as the kernel tells: the_kernels_files_are_read",
    ),
    ("metastore_tls_certificate_expiry_seconds", "the test's certificates run out on one day"),
    ("metastore_crash_hints_off", "many false hints: core/member, hints.rs"),
    (
        "metastore_wal_repaired_entries_total",
        "a crash between sync and mark: core/wal, power_cuts.rs",
    ),
    ("metastore_raft_durable_told_total", "members far apart: core/consensus, early.rs"),
    ("metastore_raft_early_commits_total", "members far apart: core/consensus, early.rs"),
    ("metastore_wal_torn_tail_total", "a power cut: core/wal, damage.rs"),
    ("metastore_value_cache_bytes", "a setting: values.rs"),
    ("metastore_value_cache_hits_total", "a setting: values.rs"),
    ("metastore_value_cache_misses_total", "a setting: values.rs"),
    (
        "etcd_network_snapshot_send_failures",
        "a transfer that breaks: server/tests/peers/snapshots.rs",
    ),
    (
        "etcd_network_snapshot_receive_failures",
        "a transfer that breaks: server/tests/peers/snapshots.rs",
    ),
    ("etcd_server_read_indexes_failed_total", "no leader for long: core/consensus, reads.rs"),
    // Over before anybody looks, mostly.
    ("etcd_disk_defrag_inflight", "short"),
    ("etcd_debugging_mvcc_slow_watcher_total", "short: core/state, watch/tests/behind.rs"),
    (
        "etcd_network_snapshot_receive_inflights_total",
        "short: a_snapshot_counts_on_its_way_out_or_in",
    ),
    ("etcd_network_snapshot_send_inflights_total", "short: a_snapshot_counts_on_its_way_out_or_in"),
    ("etcd_server_proposals_pending", "short"),
    ("etcd_server_snapshot_apply_in_progress_total", "short"),
    ("metastore_peer_inflight_bytes", "short: a_scrape_has_etcds_names_and_follows_the_status"),
    ("metastore_peer_lag_entries", "short: a_scrape_has_etcds_names_and_follows_the_status"),
    ("metastore_wal_sync_pending_seconds", "short"),
];

/// All there was to see of one metric.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
    bounds: BTreeSet<String>,
    /// The first value of each series of each member.
    first: BTreeMap<(usize, String), f64>,
    has_moved: bool,
}

#[derive(Debug, Default)]
struct Seen(BTreeMap<String, Family>);

impl Seen {
    /// Takes in what a member says. In the first looks a gauge has its first value; one that comes
    /// later has come to be.
    fn take(&mut self, member: usize, text: &str, is_early: bool) {
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                family = name.to_owned();
                self.0.entry(family.clone()).or_default().kind = kind.to_owned();
            }
            let Some(value) = line.rsplit(' ').next().filter(|_| !line.starts_with('#')) else {
                continue;
            };
            let (Ok(value), Some(seen)) = (value.parse::<f64>(), self.0.get_mut(&family)) else {
                panic!("{line}");
            };
            let series = &line[..line.len() - line.rsplit(' ').next().map_or(0, str::len) - 1];
            let labels = series.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
            for label in labels.split("\",").filter(|label| !label.is_empty()) {
                let (name, value) = label.split_once("=\"").expect("a label");
                if name == "le" {
                    let bound = value.trim_end_matches('"');
                    if bound != "+Inf" {
                        seen.bounds.insert(number(bound));
                    }
                } else {
                    seen.labels.insert(name.to_owned());
                }
            }
            seen.has_moved |= match seen.kind.as_str() {
                "gauge" => match seen.first.get(&(member, series.to_owned())) {
                    Some(first) => (first - value).abs() > f64::EPSILON,
                    None => !is_early,
                },
                _ => value > 0.0 && !series.contains("_sum"),
            };
            seen.first.entry((member, series.to_owned())).or_insert(value);
        }
    }
}

fn number(text: &str) -> String {
    format!("{}", text.parse::<f64>().expect("a number"))
}

/// Looks at all members until it is told to stop.
struct Watcher {
    stop: Arc<AtomicBool>,
    /// How often each member has answered.
    looks: Arc<Vec<AtomicUsize>>,
    thread: std::thread::JoinHandle<Seen>,
}

impl Watcher {
    fn start(endpoints: Vec<String>) -> Watcher {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let looks: Arc<Vec<_>> = Arc::new(endpoints.iter().map(|_| AtomicUsize::new(0)).collect());
        let counted = Arc::clone(&looks);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while !stopping.load(Ordering::Relaxed) {
                for (member, endpoint) in endpoints.iter().enumerate() {
                    if let Some((200, text)) = soon(endpoint) {
                        let before = counted[member].load(Ordering::Relaxed);
                        seen.take(member, &text, before == 0);
                        counted[member].store(before + 1, Ordering::Relaxed);
                    }
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
            seen
        });
        Watcher { stop, looks, thread }
    }

    /// Waits until it has seen these members as they are now.
    async fn has_looked(&self, members: Range<usize>) {
        let looks = |member: usize| self.looks[member].load(Ordering::Relaxed);
        let before: Vec<_> = members.clone().map(looks).collect();
        // The next may have been asked for already.
        let is_past = |(member, before): (usize, &usize)| looks(member) > before + 1;
        until("a look", || async { members.clone().zip(&before).all(is_past).then_some(()) }).await;
    }

    fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic")
    }
}

/// A member that stands still is passed over.
fn soon(endpoint: &str) -> Option<(u16, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(endpoint).ok()?;
    stream.set_read_timeout(Some(LOOK_TIMEOUT)).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A row of the table: type, labels, bounds and why it is not served, if it is not.
struct Row {
    kind: String,
    labels: BTreeSet<String>,
    bounds: BTreeSet<String>,
    reason: Option<String>,
}

fn table() -> BTreeMap<String, Row> {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let mut words = line.splitn(5, ' ');
        let mut word = || words.next().expect("five words").to_owned();
        let (name, kind, labels, bounds, ours) = (word(), word(), word(), word(), word());
        let labels = labels.split(',').filter(|it| *it != "-").map(str::to_owned).collect();
        let bounds = match bounds.split_once("*2^") {
            Some((first, count)) => {
                let first: f64 = first.parse().expect("a number");
                let count: i32 = count.parse().expect("a number");
                (0..count).map(|at| number(&format!("{:e}", first * 2_f64.powi(at)))).collect()
            }
            None => bounds.split(',').filter(|it| *it != "-").map(number).collect(),
        };
        let reason = ours.strip_prefix("none: ").map(str::to_owned);
        assert!(reason.is_some() || ours == "alike", "{name}: {ours}");
        (name, Row { kind, labels, bounds, reason })
    });
    rows.collect()
}

fn holds(seen: &Seen, is_etcd: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let table = table();
    for (name, family) in &seen.0 {
        let is_etcds = name.starts_with("etcd_") || name.starts_with("grpc_") || is_etcd;
        let Some(row) = table.get(name) else {
            // Checks of health are told apart by a label etcd has, too.
            if is_etcds && !name.starts_with("go_") {
                wrong.push(format!("{name}: not in the table"));
            }
            continue;
        };
        if row.kind != family.kind {
            wrong.push(format!("{name}: {} and not {}", family.kind, row.kind));
        }
        if !family.first.is_empty() && row.labels != family.labels {
            wrong.push(format!("{name}: labels {:?}", family.labels));
        }
        let is_same = if is_etcd {
            row.bounds == family.bounds
        } else {
            // Finer ones do no harm: whoever asks for one of etcd's finds it.
            row.bounds.is_subset(&family.bounds)
        };
        if !is_same {
            wrong.push(format!("{name}: bounds {:?}", family.bounds));
        }
        if row.reason.is_some() && !is_etcd {
            wrong.push(format!("{name}: is served, and the table says why it is not"));
        }
    }
    for (name, row) in table.iter().filter(|(_, row)| !is_etcd && row.reason.is_none()) {
        if !seen.0.contains_key(name) {
            wrong.push(format!("{name}: a {} that is not served", row.kind));
        }
    }
    wrong
}

async fn channel(endpoint: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("an address");
    endpoint.timeout(PATIENCE).connect().await.expect("connected")
}

fn put(number: usize, bytes: usize) -> Put {
    Put::new(format!("life/{number:05}"), vec![b'x'; bytes])
}

/// Writers on several members at once.
async fn load(members: &[Client], writers: usize, puts: usize, bytes: usize) {
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let member = members[writer % members.len()].clone();
            tokio::spawn(async move {
                for number in 0..puts {
                    drop(member.put(put(writer * puts + number, bytes)).await);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("it does not panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::too_many_lines, reason = "a life")]
async fn in_the_life_of_a_cluster_every_metric_moves_and_reads_like_etcds() {
    let own = ca("peers");
    let certificate = leaf(&own, HOSTS);
    let files = [("ca", own.pem()), ("cert", certificate.0.clone()), ("key", certificate.1)];
    let mut volume = Volume::new(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    let mut flags = server_flags(&volume, "peer-", true);
    flags.extend(
        [
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--snapshot-count=300",
            "--warning-apply-duration=1us",
        ]
        .map(str::to_owned),
    );
    let setup = Setup { peer_tls: true, flags, ..Setup::default() };
    let mut cluster = Cluster::plan(4, &setup);
    let all: Vec<String> =
        cluster.members[0].initial_cluster.split(',').map(str::to_owned).collect();
    for member in &mut cluster.members[..3] {
        member.initial_cluster = all[..3].join(",");
        member.launch();
    }
    let endpoints: Vec<String> = cluster.members.iter().map(|it| it.endpoint()).collect();
    let watcher = Watcher::start(endpoints.clone());
    for member in &cluster.members[..3] {
        member.ready().await;
    }
    cluster.accepts_writes().await;
    let client = Client::new(Config::new(endpoints[..3].to_vec())).expect("a client");

    // Clients and watches, one of which is not read.
    let mut unread = WatchClient::new(channel(&endpoints[0]).await);
    let create = |key: &str, end: &str| WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            ..WatchCreateRequest::default()
        })),
    };
    let unread = unread.watch(futures::stream::iter([create("life/", "life0")])).await;
    let unread = unread.expect("a stream").into_inner();
    let watch = WatchOf::new(KeyRange::prefix("life/")).prev_kv();
    let mut watch = client.watch(watch).await.expect("a watch");
    let members: Vec<Client> = client.each().collect();
    load(&members, 12, 60, 8_000).await;
    assert!(!watch.next().await.expect("events").events.is_empty());
    let txn = Txn::new().then(Put::new("life/txn", "1")).otherwise(Get::new("life/txn"));
    // With an election timeout as short as this, a busy machine may be without a leader at any time.
    let did = until("a txn", || async { client.txn(txn.clone()).await.ok() }).await;
    assert!(did.succeeded);
    until("a range", || async { client.get(Get::new("life/00001")).await.ok() }).await;
    until("a delete", || async { client.delete(Delete::new("life/00001")).await.ok() }).await;
    // Once more the same keys: there is history to throw away.
    load(&members, 3, 20, 100).await;
    let now = until("a range", || async { client.get(Get::new("alive")).await.ok() }).await;
    let revision = now.header.expect("one").revision;

    // Leases: renewed, revoked, run out.
    until("a lease that is renewed and revoked", || async {
        let lease = client.lease_grant(60, 0).await.ok()?;
        assert_eq!(client.lease_keep_alive_once(lease.id).await.ok()?, 60);
        client.lease_revoke(lease.id).await.ok()
    })
    .await;
    until("a key of a short lease", || async {
        // It may be over before it has its key.
        let short = client.lease_grant(1, 0).await.ok()?;
        client.put(Put::new("leased", "x").lease(short.id)).await.ok()
    })
    .await;
    until("the end of a lease", || async {
        (client.get(Get::new("leased")).await.ok()?.count == 0).then_some(())
    })
    .await;

    // Maintenance.
    let mut maintenance = MaintenanceClient::new(channel(&endpoints[0]).await);
    maintenance.hash(HashRequest {}).await.expect("a hash");
    client.at(0).hash_kv(0).await.expect("a hash");
    let mut snapshot = client.at(0).snapshot().await.expect("a snapshot");
    while snapshot.next().await.expect("a piece").is_some() {}
    until("a compaction", || async {
        match client.compact(revision, true).await {
            Ok(_) => Some(()),
            // It has been done, and its answer was lost.
            Err(error) => (error.code() == Code::OutOfRange).then_some(()),
        }
    })
    .await;
    client.at(0).defragment().await.expect("defragmented");
    let alarm = |action: AlarmAction| AlarmRequest {
        action: action.into(),
        member_id: 1,
        alarm: AlarmType::Nospace.into(),
    };
    let set_alarm = |action: AlarmAction| {
        let mut maintenance = maintenance.clone();
        async move { maintenance.alarm(alarm(action)).await.ok() }
    };
    until("the alarm to be raised", || set_alarm(AlarmAction::Activate)).await;
    let metric = |member: usize, line: &str| {
        let text = page(&endpoints[member], "/metrics").map(|(_, text)| text).unwrap_or_default();
        text.lines().any(|have| have == line)
    };
    until("the alarm", || async {
        metric(0, "metastore_alarm{alarm=\"nospace\"} 1").then_some(())
    })
    .await;
    watcher.has_looked(0..3).await;
    until("the alarm to be lowered", || set_alarm(AlarmAction::Deactivate)).await;
    let mut auth = AuthClient::new(channel(&endpoints[0]).await);
    auth.authenticate(AuthenticateRequest::default()).await.expect_err("there are no users");
    for path in ["/health", "/livez", "/readyz"] {
        until(path, || async { page(&endpoints[0], path).filter(|(status, _)| *status == 200) })
            .await;
    }

    // Garbage: a method nobody serves, a message too large, a handshake that is none.
    let mut raw = tonic::client::Grpc::new(channel(&endpoints[0]).await);
    raw.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<HashRequest, HashRequest>::default();
    let path = http::uri::PathAndQuery::from_static("/etcdserverpb.KV/Nope");
    raw.unary(tonic::Request::new(HashRequest {}), path, codec).await.expect_err("no such method");
    let huge = create(&"x".repeat(4 << 20), "");
    let mut broken = WatchClient::new(channel(&endpoints[0]).await);
    if let Ok(stream) = broken.watch(futures::stream::iter([huge])).await {
        drop(stream.into_inner().message().await);
    }
    {
        use std::io::Write as _;
        let mut stranger =
            std::net::TcpStream::connect(cluster.members[0].peer_endpoint()).expect("up");
        stranger.write_all(b"\x16\x03\x01\x00\x05hello").expect("written");
        drop(stranger);
    }
    let renewed = leaf(&own, HOSTS);
    identity(&mut volume, &own.pem(), &renewed);
    // Now: a member that is killed later starts with them, and counts from nothing.
    until("new certificates", || async {
        let (_, text) = page(&endpoints[0], "/metrics")?;
        text.lines().any(|it| it.starts_with("metastore_tls_reloads_total{")).then_some(())
    })
    .await;
    watcher.has_looked(0..3).await;

    let every = Client::new(Config::new(endpoints.clone())).expect("a client");
    let first_id = client.at(0).status().await.expect("up").header.expect("one").member_id;

    // A plan of timing; a learner, too early and in time; a removal.
    submit(&client, upon(0, Some(params(60, 1_500)))).await;
    uses(&client.at(0), 1, 60, 1_500).await;
    let url = format!("https://{}", cluster.members[3].peer_endpoint());
    let id = add_learner(&client, &url).await;
    client.member_promote(id).await.expect_err("it has not even started");
    cluster.members[3].joins_existing();
    cluster.members[3].launch();
    cluster.members[3].ready().await;
    until("a learner", || async { metric(3, "etcd_server_is_learner 1").then_some(()) }).await;
    watcher.has_looked(0..4).await;
    promote(&client, id).await;

    // Gone members take their series along, and invented methods make none.
    let gone = format!("{id:x}");
    watcher.has_looked(0..4).await;
    until("somebody else to lead", || async {
        let leads = leader(&every).await == 3;
        (!leads || every.at(3).move_leader(first_id).await.is_ok()).then_some(())
    })
    .await;
    remove(&client, id).await;
    for endpoint in &endpoints[..3] {
        until("its series to go", || async {
            let (_, text) = page(endpoint, "/metrics")?;
            let is_gone = |line: &str| !line.contains(&gone) || line.contains("server_id");
            (text.lines().all(is_gone) && !text.contains("Nope")).then_some(())
        })
        .await;
    }

    // The leader stands still, and is another's when it goes on; then the new one is killed.
    let first = leader(&client).await;
    cluster.members[first].signal(Signal::STOP);
    let other = client.at((first + 1) % 3);
    // Asked for before anybody has noticed: both take an election, and what was told the lost leader
    // is proposed again.
    drop(tokio::join!(other.get(Get::new("alive")), other.put(put(0, 1))));
    cluster.accepts_writes_of(&other).await;
    cluster.members[first].signal(Signal::CONT);
    cluster.accepts_writes().await;
    let second = leader(&client).await;
    watcher.has_looked(0..3).await;
    cluster.members[second].kill();
    let third = client.at((second + 1) % 3);
    cluster.accepts_writes_of(&third).await;
    load(&[third], 4, 20, 100).await;
    // The last two without each other: nobody leads, and whoever is asked says so.
    let (fourth, fifth) = ((second + 1) % 3, (second + 2) % 3);
    cluster.members[fourth].signal(Signal::STOP);
    until("bad health", || async {
        page(&endpoints[fifth], "/health").filter(|(status, _)| *status == 503).map(drop)
    })
    .await;
    cluster.members[fourth].signal(Signal::CONT);
    cluster.members[second].launch();
    cluster.members[second].ready().await;
    cluster.accepts_writes().await;

    watcher.has_looked(0..3).await;
    drop((unread, watch));

    let seen = watcher.stop();
    let wrong = holds(&seen, false);
    assert!(wrong.is_empty(), "not like etcd:\n{}", wrong.join("\n"));
    let is_excused = |name: &str| UNMOVED.iter().any(|(unmoved, _)| *unmoved == name);
    let unmoved: Vec<_> = seen
        .0
        .iter()
        .filter(|(name, family)| !family.has_moved && !is_excused(name))
        .map(|(name, family)| format!("{name}, a {}", family.kind))
        .collect();
    assert!(unmoved.is_empty(), "never moved:\n{}", unmoved.join("\n"));
}

#[test]
fn the_table_is_what_a_live_etcd_exports() {
    let etcd = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.cache/bin/etcd");
    if !etcd.exists() {
        eprintln!("{}: not here, nothing to compare with", etcd.display());
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (client, peer) = (free_port(), free_port());
    let (client, peer) = (format!("127.0.0.1:{client}"), format!("127.0.0.1:{peer}"));
    let mut child = Command::new(etcd)
        .args(["--name", "e", "--metrics", "extensive", "--log-level", "error"])
        .arg("--data-dir")
        .arg(dir.path())
        .args(["--listen-client-urls", &format!("http://{client}")])
        .args(["--advertise-client-urls", &format!("http://{client}")])
        .args(["--listen-peer-urls", &format!("http://{peer}")])
        .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
        .args(["--initial-cluster", &format!("e=http://{peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut text = None;
    let deadline = std::time::Instant::now() + PATIENCE;
    while std::time::Instant::now() < deadline {
        text = page(&client, "/metrics").map(|(_, text)| unchunked(&text));
        if text.as_ref().is_some_and(|it| it.contains("etcd_server_has_leader 1")) {
            break;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
    let mut seen = Seen::default();
    seen.take(0, &text.expect("it answers"), true);
    assert!(seen.0.len() > 100, "{} metrics", seen.0.len());
    let wrong = holds(&seen, true);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Without the lengths of HTTP's chunks, which stand on lines of their own.
fn unchunked(text: &str) -> String {
    let mut rest = text;
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let Ok(length) = usize::from_str_radix(length.trim(), 16) else { return text.to_owned() };
        whole.push_str(after.get(..length).unwrap_or_default());
        rest = after.get(length..).unwrap_or_default().trim_start_matches("\r\n");
        if length == 0 {
            break;
        }
    }
    whole
}
