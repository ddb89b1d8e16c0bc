//! What crosses the network between members that compress it, and what that costs them.

use std::time::{Duration, Instant};

use client::proto::admin::ObserveResponse;
use client::{Client, Config, Get, Put};

use crate::cluster::{Cluster, Process, Setup, until};
use crate::manners::page;

const SENT: &str = "etcd_network_peer_sent_bytes_total";
const SENT_PLAIN: &str = "metastore_network_peer_sent_plain_bytes_total";
const SNAPSHOTS: &str = "etcd_network_snapshot_send_success";

/// The sum of a metric over the members that answer.
fn metric(cluster: &Cluster, name: &str) -> u64 {
    let mut sum = 0.0;
    for member in &cluster.members {
        let text = page(&member.endpoint(), "/metrics").map(|(_, text)| text).unwrap_or_default();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        sum += lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>();
    }
    sum as u64
}

/// What a controller writes: names and words that repeat themselves from one to the next.
pub(crate) fn text(number: u64, bytes: usize) -> Vec<u8> {
    let mut text = String::new();
    while text.len() < bytes {
        let id = blake3::hash(&(number + text.len() as u64).to_le_bytes()).to_hex();
        text.push_str(&format!(
            r#"{{"kind":"Pod","metadata":{{"name":"web-{}","namespace":"default","uid":"{}"}},"status":{{"phase":"Running"}}}}"#,
            &id[..8],
            &id[8..24],
        ));
    }
    text.truncate(bytes);
    text.into_bytes()
}

/// Bytes in which nothing repeats.
pub(crate) fn noise(number: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.finalize_xof().fill(&mut noise);
    noise
}

/// What the members that answer say of themselves.
async fn observed(client: &Client) -> Vec<ObserveResponse> {
    let mut answers = Vec::new();
    for member in client.each() {
        answers.extend(member.observe().await);
    }
    answers
}

pub(crate) type Value = fn(u64, usize) -> Vec<u8>;

/// Puts from many callers at once, each acknowledged.
pub(crate) async fn write(
    client: &Client,
    numbers: std::ops::Range<u64>,
    callers: u64,
    of: (Value, usize),
) {
    let (value, bytes) = of;
    let writers = (0..callers).map(|caller| {
        let client = client.clone();
        let mine = numbers.clone().filter(move |number| number % callers == caller);
        tokio::spawn(async move {
            for number in mine {
                let key = format!("/registry/pods/default/{number:08}");
                client.put(Put::new(key, value(number, bytes))).await.expect("acknowledged");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("a writer ends");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_of_a_member_say_how_many_writes_share_a_sync() {
    const PUTS: u64 = 2_000;
    let cluster = Cluster::start(1).await;
    let (commands, syncs) = ("metastore_log_commands_total", "metastore_log_syncs_total");
    let before = (metric(&cluster, commands), metric(&cluster, syncs));
    write(&cluster.client(), 0..PUTS, 256, (text, 100)).await;
    let commands = metric(&cluster, commands) - before.0;
    let syncs = metric(&cluster, syncs) - before.1;
    assert!((PUTS..PUTS + 10).contains(&commands), "each put once: {commands}");
    assert!(syncs > 0 && syncs < commands, "{commands} commands, {syncs} syncs");
    let (entries, batches) = ("metastore_log_entries_total", "metastore_raft_batch_size_count");
    assert_eq!(metric(&cluster, entries), metric(&cluster, batches));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_compress_agree_and_take_back_one_that_was_killed_by_a_snapshot() {
    /// 590 of these are more than a leader keeps of the log for laggards.
    const BYTES: usize = 64 << 10;
    let flags = vec!["--peer-compression=zstd".to_owned()];
    let mut cluster = Cluster::start_with(3, &Setup { flags, ..Setup::default() }).await;
    // One reads what it is sent whatever it sends itself.
    cluster.members[2].setup.flags.clear();
    cluster.members[2].terminate();
    cluster.members[2].launch();
    cluster.members[2].ready().await;
    cluster.accepts_writes().await;
    let client = cluster.client();
    write(&client, 0..100, 16, (text, BYTES)).await;
    write(&client, 100..110, 4, (noise, BYTES)).await;
    let (wire, plain) = (metric(&cluster, SENT), metric(&cluster, SENT_PLAIN));
    assert!(wire < plain / 2, "{wire} of {plain} bytes");

    let reached = observed(&client).await.iter().map(|it| it.applied_index).max().expect("members");
    cluster.members[0].kill();
    cluster.accepts_writes().await;
    let endpoints = cluster.members[1..].iter().map(Process::endpoint).collect::<Vec<_>>();
    let alive = Client::new(Config::new(endpoints)).expect("a client");
    write(&client, 110..600, 16, (text, BYTES)).await;
    write(&client, 600..700, 16, (noise, BYTES)).await;
    assert_eq!(metric(&cluster, SNAPSHOTS), 0);
    // A leader keeps more of its log as long as it takes the one that is gone for alive. It sends the
    // entry after the last one it let go of.
    until("nobody has the log that the killed one lacks", || async {
        alive.put(Put::new("alive", "yes")).await.ok()?;
        let said = observed(&alive).await;
        let is_gone = |it: &ObserveResponse| it.first_log_index > reached + 1;
        (said.len() == 2 && said.iter().all(is_gone)).then_some(())
    })
    .await;
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    until("a snapshot was sent", || async { (metric(&cluster, SNAPSHOTS) > 0).then_some(()) })
        .await;
    cluster.accepts_writes().await;
    cluster.members_agree().await;
    for number in 0..700 {
        let value: Value = if (100..110).contains(&number) || number >= 600 { noise } else { text };
        let got = client.get(Get::new(format!("/registry/pods/default/{number:08}"))).await;
        assert!(got.expect("get").kvs[0].value == value(number, BYTES), "{number}");
    }
}

/// `cargo test --release -p server --test real -- --ignored --nocapture network_bytes`: the table of
/// docs/network-bytes.md.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
#[allow(clippy::print_stdout, reason = "a table for people")]
async fn network_bytes_and_processor_time_of_each_compression() {
    const PUTS: u64 = 30_000;
    const CALLERS: u64 = 128;
    const BYTES: usize = 256;
    println!(
        "| values | --peer-compression | bytes per put | of plain | CPU µs per put | puts/s |"
    );
    println!("|---|---|---|---|---|---|");
    for (name, value) in [("text", text as Value), ("random", noise)] {
        for compression in ["none", "lz4", "zstd"] {
            let flags = vec![format!("--peer-compression={compression}")];
            let cluster = Cluster::start_with(3, &Setup { flags, ..Setup::default() }).await;
            let client = cluster.client();
            write(&client, 0..1_000, CALLERS, (value, BYTES)).await;
            let figures = || {
                let cpu: Duration = cluster.members.iter().map(|it| it.processor_time()).sum();
                (metric(&cluster, SENT), metric(&cluster, SENT_PLAIN), cpu)
            };
            let (wire, plain, cpu) = figures();
            let began = Instant::now();
            write(&client, 1_000..1_000 + PUTS, CALLERS, (value, BYTES)).await;
            let took = began.elapsed();
            let after = figures();
            let (wire, plain, cpu) = (after.0 - wire, after.1 - plain, after.2 - cpu);
            println!(
                "| {name} | {compression} | {} | {:.0} % | {:.1} | {:.0} |",
                wire / PUTS,
                100.0 * wire as f64 / plain as f64,
                cpu.as_secs_f64() * 1e6 / PUTS as f64,
                PUTS as f64 / took.as_secs_f64(),
            );
        }
    }
}
