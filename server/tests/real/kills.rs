//! SIGKILL under load, again and again. Each writer owns its keys and counts upwards, so that whatever
//! was acknowledged must be found, or something newer of the same writer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Client, Get, Put};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, until};

/// How often members are killed in one test.
const KILLS: usize = 20;
const WRITERS: u64 = 4;
const KEYS_PER_WRITER: u64 = 16;
/// Acknowledged writes between a restart and the next kill: the kill falls into the middle of load.
const LOAD_BETWEEN_KILLS: Duration = Duration::from_millis(150);
/// A writer that is refused waits this long.
const PAUSE: Duration = Duration::from_millis(5);

type Acknowledged = BTreeMap<String, u64>;

struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Acknowledged>>,
}

impl Load {
    fn start(client: &Client) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..WRITERS)
            .map(|writer| tokio::spawn(write(client.clone(), writer, Arc::clone(&stop))))
            .collect();
        Load { stop, writers }
    }

    async fn end(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Acknowledged::new();
        for writer in self.writers {
            all.extend(writer.await.expect("a writer ends"));
        }
        all
    }
}

async fn write(client: Client, writer: u64, stop: Arc<AtomicBool>) -> Acknowledged {
    let mut acknowledged = Acknowledged::new();
    for count in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("writer-{writer}/key-{}", count % KEYS_PER_WRITER);
        match client.put(Put::new(key.clone(), count.to_string())).await {
            Ok(_) => drop(acknowledged.insert(key, count)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    acknowledged
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
    let load = Load::start(&cluster.client());
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
    let acknowledged = load.end().await;
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
