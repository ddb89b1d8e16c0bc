//! SIGKILL under load, again and again. Each writer owns its keys and counts upwards, so that whatever
//! was acknowledged must be found, or something newer of the same writer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Client, Get, Put};
use tokio::task::JoinHandle;

use crate::bytes::metric;
use crate::cluster::{Cluster, until};
use crate::manners::leader;

/// How often members are killed in one test.
const KILLS: usize = 20;
const WRITERS: u64 = 4;
/// As many that some wait for the leader's next batch whenever it is lost.
const WRITERS_AT_FOLLOWERS: u64 = 24;
const KEYS_PER_WRITER: u64 = 16;
/// Acknowledged writes between a restart and the next kill: the kill falls into the middle of load.
const LOAD_BETWEEN_KILLS: Duration = Duration::from_millis(150);
/// A writer that is refused waits this long.
const PAUSE: Duration = Duration::from_millis(5);

/// Leaders lost in one test, one way and the other in turns.
const LEADERS_LOST: usize = 6;

type Acknowledged = BTreeMap<String, u64>;

/// What became of the writes of some writers.
#[derive(Default)]
struct Written {
    acknowledged: Acknowledged,
    failures: Vec<String>,
}

struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Written>>,
}

impl Load {
    /// Writers of these numbers, which share these clients.
    fn start(clients: &[Client], numbers: std::ops::Range<u64>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = numbers
            .zip(clients.iter().cycle())
            .map(|(writer, client)| tokio::spawn(write(client.clone(), writer, Arc::clone(&stop))))
            .collect();
        Load { stop, writers }
    }

    async fn end(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        for writer in self.writers {
            let Written { acknowledged, failures } = writer.await.expect("a writer ends");
            all.acknowledged.extend(acknowledged);
            all.failures.extend(failures);
        }
        all
    }
}

async fn write(client: Client, writer: u64, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    for count in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("writer-{writer}/key-{}", count % KEYS_PER_WRITER);
        match client.put(Put::new(key.clone(), count.to_string())).await {
            Ok(_) => drop(written.acknowledged.insert(key, count)),
            Err(error) => {
                written.failures.push(error.to_string());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    written
}

async fn nothing_is_lost(cluster: &Cluster, acknowledged: &Acknowledged) {
    assert!(!acknowledged.is_empty(), "nothing was acknowledged: the test says nothing");
    let client = cluster.client();
    for (key, count) in acknowledged {
        let got =
            until("an answer", || async { client.get(Get::new(key.clone())).await.ok() }).await;
        let found: u64 = got
            .kvs
            .first()
            .and_then(|kv| std::str::from_utf8(&kv.value).ok()?.parse().ok())
            .unwrap_or_default();
        assert!(found >= *count, "{key}: {count} was acknowledged, {found} is there");
    }
}

async fn survives(size: usize, victims: impl Fn(usize) -> Vec<usize>) {
    let mut cluster = Cluster::start(size).await;
    let load = Load::start(&[cluster.client()], 0..WRITERS);
    for kill in 0..KILLS {
        tokio::time::sleep(LOAD_BETWEEN_KILLS).await;
        let victims = victims(kill);
        for victim in &victims {
            cluster.members[*victim].kill();
        }
        if victims.len() < size {
            // A quorum is left: it goes on before the dead come back.
            cluster.accepts_writes().await;
        }
        for victim in &victims {
            cluster.members[*victim].launch();
        }
        for victim in &victims {
            cluster.members[*victim].ready().await;
        }
        cluster.accepts_writes().await;
    }
    let Written { acknowledged, .. } = load.end().await;
    cluster.accepts_writes().await;
    nothing_is_lost(&cluster, &acknowledged).await;
    cluster.members_agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_when_any_one_of_three_is_killed() {
    survives(3, |kill| vec![kill % 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_when_all_three_are_killed_at_once() {
    survives(3, |_| vec![0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_when_the_only_member_is_killed() {
    survives(1, |_| vec![0]).await;
}

/// What a leader took with it is proposed again by whoever was asked for it: a caller of a member that
/// lives waits for the next leader, and that is all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_at_a_follower_fails_when_its_leader_is_lost() {
    let mut cluster = Cluster::start(3).await;
    let mut proposed_again = 0;
    for lost in 0..LEADERS_LOST as u64 {
        let client = cluster.client();
        let old = leader(&client).await;
        let followers: Vec<usize> = (0..3).filter(|n| *n != old).collect();
        let clients: Vec<Client> = followers.iter().map(|n| client.at(*n)).collect();
        let first = lost * WRITERS_AT_FOLLOWERS;
        let load = Load::start(&clients, first..first + WRITERS_AT_FOLLOWERS);
        tokio::time::sleep(LOAD_BETWEEN_KILLS).await;
        if lost % 2 == 0 {
            cluster.members[old].kill();
        } else {
            assert_eq!(cluster.members[old].terminate(), Some(0));
        }
        cluster.accepts_writes_of(&clients[0]).await;
        let Written { acknowledged, failures } = load.end().await;
        assert_eq!(failures, Vec::<String>::new());
        nothing_is_lost(&cluster, &acknowledged).await;
        for n in followers {
            let again = metric(&cluster.members[n..=n], "metastore_proposals_repeated_total");
            proposed_again += again;
        }
        cluster.members[old].launch();
        cluster.members[old].ready().await;
        cluster.accepts_writes().await;
    }
    assert!(proposed_again > 0, "no leader took a write with it: the test says nothing");
    cluster.members_agree().await;
}
