//! What crosses the network between members that compress it, and what that costs them.

use std::time::{Duration, Instant};

use client::proto::admin::ObserveResponse;
use client::{Client, Config, Get, Put};

use crate::cluster::{Cluster, Process, Setup, until};
use crate::manners::page;

const SENT: &str = "etcd_network_peer_sent_bytes_total";
const SENT_PLAIN: &str = "metastore_network_peer_sent_plain_bytes_total";
const SNAPSHOTS: &str = "etcd_network_snapshot_send_success";

/// What a member exports now; nothing if it does not answer.
fn scrape(member: &Process) -> String {
    page(&member.endpoint(), "/metrics").map(|(_, text)| text).unwrap_or_default()
}

/// The sum of a metric's series.
fn sum(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>() as u64
}

/// The same over the members that answer.
pub(crate) fn metric(members: &[Process], name: &str) -> u64 {
    members.iter().map(|member| sum(&scrape(member), name)).sum()
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
                until("an acknowledgement", || async {
                    client.put(Put::new(key.clone(), value(number, bytes))).await.ok()
                })
                .await;
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
    let before = scrape(&cluster.members[0]);
    write(&cluster.client(), 0..PUTS, 256, (text, 100)).await;
    let after = scrape(&cluster.members[0]);
    let commands = sum(&after, commands) - sum(&before, commands);
    let syncs = sum(&after, syncs) - sum(&before, syncs);
    assert!((PUTS..PUTS + 10).contains(&commands), "each put once: {commands}");
    assert!(syncs > 0 && syncs < commands, "{commands} commands, {syncs} syncs");
    let (entries, batches) = ("metastore_log_entries_total", "metastore_raft_batch_size_count");
    assert_eq!(sum(&after, entries), sum(&after, batches));
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
    // Whoever leads sends; once more if it was the one that does not compress.
    let compressing = until("one of the two that compress has led", || async {
        let all = cluster.members[..2].iter().map(scrape).collect::<String>();
        if sum(&all, SENT_PLAIN) > 50 * BYTES as u64 {
            return Some(all);
        }
        let two = &cluster.members[2];
        let third = Client::new(Config::new([two.endpoint()])).expect("a client");
        let id = client.at(0).status().await.ok()?.header?.member_id;
        drop(third.move_leader(id).await);
        write(&client, 0..100, 16, (text, BYTES)).await;
        None
    })
    .await;
    let (wire, plain) = (sum(&compressing, SENT), sum(&compressing, SENT_PLAIN));
    assert!(wire < plain / 2, "{wire} of {plain} bytes");

    let reached = observed(&client).await.iter().map(|it| it.applied_index).max().expect("members");
    cluster.members[0].kill();
    cluster.accepts_writes().await;
    let endpoints = cluster.members[1..].iter().map(Process::endpoint).collect::<Vec<_>>();
    let alive = Client::new(Config::new(endpoints)).expect("a client");
    write(&client, 110..600, 16, (text, BYTES)).await;
    write(&client, 600..700, 16, (noise, BYTES)).await;
    // Another that was slow may have needed one.
    let snapshots = metric(&cluster.members, SNAPSHOTS);
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
    until("a snapshot was sent", || async {
        (metric(&cluster.members, SNAPSHOTS) > snapshots).then_some(())
    })
    .await;
    cluster.accepts_writes().await;
    cluster.members_agree().await;
    for number in 0..700 {
        let value: Value = if (100..110).contains(&number) || number >= 600 { noise } else { text };
        let key = format!("/registry/pods/default/{number:08}");
        let got = until("an answer", || async { client.get(Get::new(key.clone())).await.ok() });
        assert!(got.await.kvs[0].value == value(number, BYTES), "{number}");
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
                let members = &cluster.members;
                (metric(members, SENT), metric(members, SENT_PLAIN), cpu)
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
