//! `--value-cache-bytes`: a member whose values do not all stay in memory beside one that keeps them all,
//! given the same commands.

use client::{Client, Delete, Get, KeyRange, Op, Put, Txn, WatchOf, When};
use proto::etcdserverpb::compare::CompareResult;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::mvccpb::{Event, KeyValue};

use crate::cluster::{Cluster, Setup};
use crate::manners::page;

const CACHE_BYTES: usize = 8 << 20;
const VALUE_BYTES: usize = 64 << 10;
/// Three times what the cache holds.
const KEYS: u64 = 3 * (CACHE_BYTES / VALUE_BYTES) as u64;

/// Bytes that do not compress, the same for the same numbers.
fn value(key: u64, round: u64) -> Vec<u8> {
    let mut state = (key << 32 | round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..VALUE_BYTES / 8).flat_map(word).collect()
}

fn key(number: u64) -> String {
    format!("k/{number:04}")
}

/// A member with a cache, one without, and a client of each.
struct Twins {
    members: [Cluster; 2],
    clients: [Client; 2],
}

impl Twins {
    async fn start() -> Twins {
        let flags = vec![format!("--value-cache-bytes={CACHE_BYTES}")];
        let apart = Cluster::start_with(1, &Setup { flags, ..Setup::default() }).await;
        let members = [apart, Cluster::start(1).await];
        let clients = [members[0].client(), members[1].client()];
        Twins { members, clients }
    }

    /// Asks both; their answers, which must be alike.
    async fn both<T: PartialEq, F: Future<Output = T>>(
        &self,
        what: &str,
        ask: impl Fn(Client) -> F,
    ) -> T {
        let [apart, whole] = &self.clients;
        let (apart, whole) = (ask(apart.clone()).await, ask(whole.clone()).await);
        assert!(apart == whole, "{what}: a cache changes the answer");
        apart
    }

    async fn kvs(&self, what: &str, get: impl Fn() -> Get) -> Vec<KeyValue> {
        let ask = |client: Client| {
            let get = get();
            async move {
                let response = client.get(get).await.expect("an answer");
                (response.kvs, response.count, response.more)
            }
        };
        self.both(what, ask).await.0
    }

    async fn are_alike(&self) {
        let all = || Get::new(KeyRange::prefix("k/"));
        let kvs = self.kvs("all", all).await;
        assert!(kvs.iter().all(|kv| kv.value.len() == VALUE_BYTES));
        self.kvs("keys", || all().keys_only()).await;
        self.kvs("some", || all().limit(7)).await;
        let sorted = || all().sort(SortTarget::Value, SortOrder::Descend).limit(5);
        self.kvs("sorted by value", sorted).await;
        for number in (0..KEYS).step_by(17) {
            self.kvs("one", || Get::new(key(number))).await;
        }
        let hash = |client: Client| async move {
            let hash = client.hash_kv(0).await.expect("a hash");
            (hash.hash, hash.hash_revision, hash.compact_revision)
        };
        self.both("hash", hash).await;
        // Whose it is and where its members are is in it, too; of the rest the hash speaks.
        let mut snapshot = self.clients[0].snapshot().await.expect("a snapshot");
        let mut bytes = 0;
        while let Some((blob, _)) = snapshot.next().await.expect("more of it") {
            bytes += blob.len();
        }
        assert!(bytes > kvs.len() * VALUE_BYTES, "{bytes} bytes in a portable snapshot");
    }

    /// All events from a revision on, up to and with another, each with what was before it.
    async fn events(&self, from: i64, through: i64) -> Vec<Event> {
        let ask = |client: Client| async move {
            let watch = WatchOf::new(KeyRange::all()).start_revision(from).prev_kv();
            let mut watch = client.watch(watch).await.expect("a watch");
            let mut events: Vec<Event> = Vec::new();
            let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            while events.last().is_none_or(|last| revision(last) < through) {
                events.extend(watch.next().await.expect("events").events);
            }
            events
        };
        self.both("events", ask).await
    }

    async fn put(&self, numbers: impl Iterator<Item = u64>, round: u64) -> i64 {
        let mut revision = 0;
        for number in numbers {
            let ask = |client: Client| async move {
                let put = Put::new(key(number), value(number, round));
                let response = client.put(put).await.expect("accepted");
                response.header.map_or(0, |header| header.revision)
            };
            revision = self.both("put", ask).await;
        }
        revision
    }

    /// A figure of the member with the cache.
    fn figure(&self, name: &str) -> f64 {
        let endpoint = self.members[0].members[0].endpoint();
        let (_, text) = page(&endpoint, "/metrics").expect("metrics");
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a figure")
    }
}

#[tokio::test]
async fn a_member_that_is_to_save_memory_gives_it_back_soon() {
    let twins = Twins::start().await;
    let environments = twins.members.each_ref().map(|cluster| cluster.members[0].environment());
    let told = environments.map(|environment| environment.contains("MIMALLOC_PURGE_DELAY=10"));
    assert_eq!(told, [true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_cache_of_values_answers_as_one_that_keeps_them_all() {
    let mut twins = Twins::start().await;
    let filled = twins.put(0..KEYS, 0).await;
    twins.are_alike().await;
    assert!(twins.figure("metastore_value_cache_misses_total") > 0.0, "nothing left memory");

    // What was, and what commands make of it.
    let last = twins.put((0..KEYS).step_by(2), 1).await;
    let past = || Get::new(KeyRange::prefix("k/")).revision(filled);
    assert_eq!(twins.kvs("the past", past).await.len() as u64, KEYS);
    let events = twins.events(filled + 1, last).await;
    assert!(events.iter().all(|event| {
        let lens = [&event.kv, &event.prev_kv].map(|kv| kv.as_ref().map(|kv| kv.value.len()));
        lens == [Some(VALUE_BYTES); 2]
    }));
    let swap = |client: Client| async move {
        let is_old = When::value(key(1), CompareResult::Equal, value(1, 0));
        let txn = Txn::new()
            .when(is_old)
            .then(Op::from(Put::new(key(1), value(1, 2)).prev_kv()))
            .then(Op::from(Get::new(key(3))))
            .otherwise(Op::from(Get::new(key(1))));
        let response = client.txn(txn).await.expect("an answer");
        (response.succeeded, response.responses)
    };
    assert!(twins.both("compare", swap).await.0);
    assert!(!twins.both("compare again", swap).await.0);
    let delete = |client: Client| async move {
        let range = KeyRange::span(key(0), key(KEYS / 3));
        let response = client.delete(Delete::new(range).prev_kv()).await.expect("deleted");
        (response.deleted, response.prev_kvs)
    };
    assert_eq!(twins.both("delete", delete).await.0, (KEYS / 3) as i64);
    twins.are_alike().await;

    // What compaction, a new generation of the backend and a kill leave.
    let compact = |client: Client| async move {
        client.compact(last, true).await.expect("compacted");
    };
    twins.both("compact", compact).await;
    twins.are_alike().await;
    let defragment = |client: Client| async move {
        client.defragment().await.expect("built anew");
    };
    twins.both("defragment", defragment).await;
    twins.are_alike().await;
    twins.put(KEYS..KEYS + 20, 3).await;
    for cluster in &mut twins.members {
        let member = &mut cluster.members[0];
        member.kill();
        member.launch();
        member.ready().await;
    }
    twins.are_alike().await;
    let held = twins.figure("metastore_value_cache_bytes");
    assert!(held > 0.0 && held <= CACHE_BYTES as f64, "{held} bytes in a cache of {CACHE_BYTES}");
    assert!(twins.figure("metastore_value_cache_hits_total") > 0.0);
}
