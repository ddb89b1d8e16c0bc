//! A session of the `etcd-client` crate against a running store: `etcd-client-session URL[,URL...]`.
//!
//! What etcdctl cannot say is said here: leases compared in a transaction, transactions within transactions, several
//! watches on one stream with filters, ids of one's own and progress. Every fact is a line "ok ..." or "FAIL ..."; the
//! exit code is 0 only if none failed. With LOCKS in the environment the Lock and Election services are called too.
//! Proven on etcd 3.7.3.

use std::fmt::Debug;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error,
    EventType, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchFilterType, WatchOptions, WatchResponse,
    WatchStream,
};

/// The longest wait for anything that must happen.
const LIMIT: Duration = Duration::from_secs(30);

type Outcome = Result<(), Error>;

/// One client, the prefix of all its keys, and the facts so far.
struct Session {
    client: Client,
    prefix: String,
    passed: u32,
    failed: u32,
}

impl Session {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn is<T: PartialEq + Debug>(&mut self, fact: &str, expected: T, got: T) {
        if expected == got {
            self.passed += 1;
            println!("ok {fact}");
        } else {
            self.failed += 1;
            println!("FAIL {fact}: expected {expected:?}, got {got:?}");
        }
    }

    /// States that a call is refused with this code (as gRPC numbers them) and message.
    fn refused<T>(&mut self, fact: &str, code: i32, message: &str, answer: Result<T, Error>) {
        let got = match answer {
            Ok(_) => "no refusal".to_owned(),
            Err(Error::GRpcStatus(status)) => {
                format!("{} {}", status.code() as i32, status.message())
            }
            Err(error) => error.to_string(),
        };
        self.is(fact, format!("{code} {message}"), got);
    }

    async fn put(&mut self, name: &str, value: &str) -> Result<i64, Error> {
        let answer = self.client.put(self.key(name), value, None).await?;
        Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
    }

    /// The values below a prefix of ours, in the order of the answer.
    async fn values(&mut self, name: &str, options: GetOptions) -> Result<Vec<String>, Error> {
        let answer = self.client.get(self.key(name), Some(options)).await?;
        Ok(answer.kvs().iter().map(|kv| String::from_utf8_lossy(kv.value()).into_owned()).collect())
    }

    async fn keys_and_values(&mut self) -> Outcome {
        let first = self.put("kv/a", "1").await?;
        self.put("kv/c", "3").await?;
        self.put("kv/b", "2").await?;
        let all = GetOptions::new().with_prefix();
        let got = self.values("kv/", all.clone()).await?;
        self.is(
            "get of a prefix, in the order of the keys",
            vec!["1", "2", "3"],
            got.iter().map(String::as_str).collect(),
        );
        let got = self
            .values("kv/", all.clone().with_sort(SortTarget::Create, SortOrder::Descend))
            .await?;
        self.is("... newest first", vec!["2", "3", "1"], got.iter().map(String::as_str).collect());
        let got = self.values("kv/", all.clone().with_revision(first + 1)).await?;
        self.is("... at a revision", vec!["1", "3"], got.iter().map(String::as_str).collect());
        let answer = self.client.get(self.key("kv/"), Some(all.clone().with_limit(2))).await?;
        self.is(
            "... with a limit: more, and the count of all",
            (2, true, 3),
            (answer.kvs().len(), answer.more(), answer.count()),
        );
        let answer = self.client.get(self.key("kv/"), Some(all.clone().with_count_only())).await?;
        self.is("... the count alone", (0, 3), (answer.kvs().len(), answer.count()));
        let answer = self.client.get(self.key("kv/"), Some(all.clone().with_keys_only())).await?;
        self.is(
            "... the keys alone",
            vec![0, 0, 0],
            answer.kvs().iter().map(|kv| kv.value().len()).collect(),
        );
        let answer = self
            .client
            .get(
                self.key("kv/"),
                Some(
                    all.clone()
                        .with_min_mod_revision(first + 1)
                        .with_max_create_revision(first + 1),
                ),
            )
            .await?;
        self.is(
            "... between revisions",
            vec![first + 1],
            answer.kvs().iter().map(etcd_client::KeyValue::mod_revision).collect(),
        );
        let answer = self
            .client
            .get(self.key("kv/a"), Some(GetOptions::new().with_range(self.key("kv/c"))))
            .await?;
        self.is("a range does not hold its end", 2, answer.kvs().len());

        let answer =
            self.client.put(self.key("kv/a"), "4", Some(PutOptions::new().with_prev_key())).await?;
        let before =
            answer.prev_key().map(|kv| (kv.value().to_vec(), kv.version(), kv.create_revision()));
        self.is("put with the pair before", Some((b"1".to_vec(), 1, first)), before);
        self.client.put(self.key("kv/a"), "", Some(PutOptions::new().with_ignore_value())).await?;
        let answer = self.client.get(self.key("kv/a"), None).await?;
        let now = answer.kvs().first().map(|kv| (kv.value().to_vec(), kv.version()));
        self.is("put that keeps the value", Some((b"4".to_vec(), 3)), now);
        let answer = self
            .client
            .put(self.key("kv/a"), "x", Some(PutOptions::new().with_ignore_value()))
            .await;
        self.refused("... and brings one", 3, "etcdserver: value is provided", answer);
        let answer = self
            .client
            .put(self.key("kv/none"), "", Some(PutOptions::new().with_ignore_value()))
            .await;
        self.refused("... of a missing key", 3, "etcdserver: key not found", answer);
        let answer = self
            .client
            .delete(self.key("kv/"), Some(DeleteOptions::new().with_prefix().with_prev_key()))
            .await?;
        self.is(
            "delete with the pairs before",
            (3, 3),
            (answer.deleted(), answer.prev_kvs().len()),
        );
        let answer = self.client.delete(self.key("kv/a"), None).await?;
        self.is("delete of nothing", 0, answer.deleted());

        let answer = self.client.put("", "x", None).await;
        self.refused("put of an empty key", 3, "etcdserver: key is not provided", answer);
        let answer = self.client.put(self.key("kv/x"), vec![b'x'; 1_572_864], None).await;
        self.refused("put of a value too large", 3, "etcdserver: request is too large", answer);
        let answer = self.client.get(self.key("kv/"), Some(all.with_revision(1 << 40))).await;
        self.refused(
            "get of a future revision",
            11,
            "etcdserver: mvcc: required revision is a future revision",
            answer,
        );
        Ok(())
    }

    async fn transactions(&mut self) -> Outcome {
        let lease = self.client.lease_grant(600, None).await?.id();
        self.client
            .put(self.key("txn/leased"), "1", Some(PutOptions::new().with_lease(lease)))
            .await?;
        self.put("txn/free", "1").await?;
        let leased = self.key("txn/leased");
        let free = self.key("txn/free");
        let none = self.key("txn/none");
        let below = self.key("txn/");
        let cases = [
            ("lease = its own", true, Compare::lease(leased.clone(), CompareOp::Equal, lease)),
            ("lease = another", false, Compare::lease(leased.clone(), CompareOp::Equal, lease ^ 1)),
            ("lease != 0", true, Compare::lease(leased.clone(), CompareOp::NotEqual, 0)),
            ("lease > 0", true, Compare::lease(leased.clone(), CompareOp::Greater, 0)),
            ("lease < 0", false, Compare::lease(leased, CompareOp::Less, 0)),
            ("lease = 0 of a key without", true, Compare::lease(free.clone(), CompareOp::Equal, 0)),
            ("lease = 0 of a missing key", true, Compare::lease(none.clone(), CompareOp::Equal, 0)),
            (
                "lease != 0 of a missing key",
                false,
                Compare::lease(none.clone(), CompareOp::NotEqual, 0),
            ),
            (
                "version = 1 of a whole range",
                true,
                Compare::version(below.clone(), CompareOp::Equal, 1).with_prefix(),
            ),
            (
                "lease = 0 of a whole range, one of which has one",
                false,
                Compare::lease(below, CompareOp::Equal, 0).with_prefix(),
            ),
            (
                "version = 0 of an empty range",
                true,
                Compare::version(none.clone(), CompareOp::Equal, 0).with_prefix(),
            ),
            (
                "version > 0 of an empty range",
                false,
                Compare::version(none.clone(), CompareOp::Greater, 0).with_prefix(),
            ),
            (
                "value = \"\" of an empty range",
                false,
                Compare::value(none.clone(), CompareOp::Equal, "").with_prefix(),
            ),
            (
                "value != \"x\" of a missing key",
                false,
                Compare::value(none, CompareOp::NotEqual, "x"),
            ),
        ];
        for (fact, expected, compare) in cases {
            let answer = self.client.txn(Txn::new().when([compare])).await?;
            self.is(fact, expected, answer.succeeded());
        }
        self.client.lease_revoke(lease).await?;

        let inner = Txn::new()
            .when([Compare::value(free.clone(), CompareOp::Equal, "2")])
            .and_then([TxnOp::get(free.clone(), None), TxnOp::delete(free.clone(), None)])
            .or_else([TxnOp::put(free.clone(), "wrong", None)]);
        let answer = self
            .client
            .txn(Txn::new().and_then([
                TxnOp::put(free.clone(), "2", None),
                TxnOp::put(self.key("txn/other"), "3", None),
            ]))
            .await?;
        let both = answer.header().map(etcd_client::ResponseHeader::revision);
        let answer = self.client.txn(Txn::new().and_then([TxnOp::txn(inner.clone())])).await?;
        let inside = match answer.op_responses().first() {
            Some(TxnOpResponse::Txn(inner)) => match inner.op_responses().as_slice() {
                [TxnOpResponse::Get(get), TxnOpResponse::Delete(delete)] => Some((
                    inner.succeeded(),
                    get.kvs().first().map(etcd_client::KeyValue::mod_revision),
                    delete.deleted(),
                )),
                _ => None,
            },
            _ => None,
        };
        self.is("a transaction within a transaction", Some((true, both, 1)), inside);
        let answer = self
            .client
            .txn(Txn::new().and_then([
                TxnOp::put(free.clone(), "1", None),
                TxnOp::txn(Txn::new().and_then([TxnOp::put(free.clone(), "2", None)])),
            ]))
            .await;
        self.refused(
            "a key put within and without",
            3,
            "etcdserver: duplicate key given in txn request",
            answer,
        );
        let answer = self
            .client
            .txn(Txn::new().and_then([
                TxnOp::txn(Txn::new().and_then([TxnOp::delete(free.clone(), None)])),
                TxnOp::put(free.clone(), "1", None),
            ]))
            .await;
        self.refused(
            "... or deleted within",
            3,
            "etcdserver: duplicate key given in txn request",
            answer,
        );
        let answer = self
            .client
            .txn(Txn::new().and_then([TxnOp::txn(
                Txn::new().and_then([TxnOp::put(free.clone(), "1", None)]).or_else([TxnOp::put(
                    free.clone(),
                    "2",
                    None,
                )]),
            )]))
            .await?;
        self.is("the same key in both branches within", true, answer.succeeded());
        let many: Vec<TxnOp> = (0..128).map(|i| TxnOp::get(format!("{free}{i}"), None)).collect();
        let answer = self.client.txn(Txn::new().and_then(many.clone())).await?;
        self.is("128 operations", 128, answer.op_responses().len());
        let answer =
            self.client.txn(Txn::new().and_then([TxnOp::txn(Txn::new().and_then(many))])).await;
        self.refused(
            "... and one around them",
            3,
            "etcdserver: too many operations in txn request",
            answer,
        );
        let answer = self
            .client
            .txn(Txn::new().and_then([
                TxnOp::put(free.clone(), "9", None),
                TxnOp::get(free.clone(), Some(GetOptions::new().with_revision(1 << 40))),
            ]))
            .await;
        self.refused(
            "a get of a future revision",
            11,
            "etcdserver: mvcc: required revision is a future revision",
            answer,
        );
        let got = self.values("txn/free", GetOptions::new()).await?;
        self.is(
            "... and nothing else was done",
            vec!["1"],
            got.iter().map(String::as_str).collect(),
        );
        Ok(())
    }

    async fn watches(&mut self) -> Outcome {
        let first = self.put("watch/0", "").await? + 1;
        let below = || WatchOptions::new().with_prefix().with_start_revision(first);
        let mut stream =
            self.client.watch(self.key("watch/"), Some(below().with_prev_key())).await?;
        let id = created(&mut stream).await?;
        self.is("the store counts watches from 0", 0, id);
        stream
            .watch(
                self.key("watch/"),
                Some(below().with_filters([WatchFilterType::NoDelete]).with_watch_id(77)),
            )
            .await?;
        self.is("a watch with an id of one's own", 77, created(&mut stream).await?);
        stream
            .watch(self.key("watch/"), Some(below().with_filters([WatchFilterType::NoPut])))
            .await?;
        let deletes = created(&mut stream).await?;
        self.is("... and the store goes on counting", 1, deletes);
        stream.watch(self.key("watch/"), Some(WatchOptions::new().with_watch_id(77))).await?;
        let answer = next(&mut stream).await?;
        let got = (
            answer.created(),
            answer.canceled(),
            answer.watch_id(),
            answer.cancel_reason().to_owned(),
        );
        self.is(
            "an id that is taken",
            (true, true, -1, "mvcc: duplicate watch ID provided on the WatchStream".to_owned()),
            got,
        );

        self.put("watch/a", "1").await?;
        self.put("watch/b", "2").await?;
        self.client.delete(self.key("watch/a"), None).await?;
        let txn = Txn::new().and_then([
            TxnOp::put(self.key("watch/a"), "3", None),
            TxnOp::delete(self.key("watch/b"), None),
        ]);
        self.client.txn(txn).await?;
        let mut events: std::collections::BTreeMap<i64, Vec<String>> =
            std::collections::BTreeMap::new();
        let mut newest = 0;
        // The events of each watch come in order; those of different watches in any.
        while events.values().map(Vec::len).sum::<usize>() < 5 + 3 + 2 {
            let answer = next(&mut stream).await?;
            for event in answer.events() {
                let (Some(kv), kind) = (event.kv(), event.event_type()) else { continue };
                let key = kv.key().strip_prefix(self.prefix.as_bytes()).unwrap_or_default();
                let before =
                    event.prev_kv().map(|kv| String::from_utf8_lossy(kv.value()).into_owned());
                let text = format!(
                    "{} {}={} {}",
                    if kind == EventType::Put { "put" } else { "delete" },
                    String::from_utf8_lossy(key),
                    String::from_utf8_lossy(kv.value()),
                    before.unwrap_or_default()
                );
                events.entry(answer.watch_id()).or_default().push(text.trim_end().to_owned());
                newest = newest.max(kv.mod_revision());
            }
        }
        self.is(
            "a watch with the values before",
            vec![
                "put watch/a=1",
                "put watch/b=2",
                "delete watch/a= 1",
                "put watch/a=3",
                "delete watch/b= 2",
            ],
            events.get(&0).into_iter().flatten().map(String::as_str).collect(),
        );
        self.is(
            "a watch without deletes",
            vec!["put watch/a=1", "put watch/b=2", "put watch/a=3"],
            events.get(&77).into_iter().flatten().map(String::as_str).collect(),
        );
        self.is(
            "a watch without puts",
            vec!["delete watch/a=", "delete watch/b="],
            events.get(&deletes).into_iter().flatten().map(String::as_str).collect(),
        );
        self.is("the newest event has the newest revision", first + 3, newest);

        stream.request_progress().await?;
        let answer = next(&mut stream).await?;
        let got = (
            answer.watch_id(),
            answer.events().len(),
            answer.header().is_some_and(|h| h.revision() >= first + 3),
        );
        self.is("progress is for all watches of the stream", (-1, 0, true), got);
        stream.cancel(77).await?;
        let answer = next(&mut stream).await?;
        self.is(
            "a watch is canceled",
            (77, true, ""),
            (answer.watch_id(), answer.canceled(), answer.cancel_reason()),
        );
        stream.cancel(deletes).await?;
        let answer = next(&mut stream).await?;
        self.is("... and another", (deletes, true), (answer.watch_id(), answer.canceled()));
        self.put("watch/z", "1").await?;
        let answer = next(&mut stream).await?;
        self.is("... and the third goes on", (0, 1), (answer.watch_id(), answer.events().len()));

        // A watch of a revision that is still to come is no error.
        let mut later = self
            .client
            .watch(
                self.key("watch/"),
                Some(WatchOptions::new().with_prefix().with_start_revision(first + 6)),
            )
            .await?;
        created(&mut later).await?;
        self.put("watch/early", "1").await?;
        self.put("watch/late", "2").await?;
        let answer = next(&mut later).await?;
        self.is(
            "a watch of a future revision begins there",
            vec![first + 6],
            answer
                .events()
                .iter()
                .filter_map(|e| e.kv())
                .map(etcd_client::KeyValue::mod_revision)
                .collect(),
        );
        Ok(())
    }

    async fn leases(&mut self) -> Outcome {
        let id =
            i64::from(SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.subsec_nanos()))
                + 1;
        let answer =
            self.client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(id))).await?;
        self.is("a lease with an id of one's own", (id, 600), (answer.id(), answer.ttl()));
        let answer = self.client.lease_grant(600, Some(LeaseGrantOptions::new().with_id(id))).await;
        self.refused(
            "... of which there can be only one",
            9,
            "etcdserver: lease already exists",
            answer,
        );
        let answer = self.client.lease_grant(9_000_000_001, None).await;
        self.refused("a TTL that is too large", 11, "etcdserver: too large lease TTL", answer);
        self.client.put(self.key("lease/a"), "1", Some(PutOptions::new().with_lease(id))).await?;
        let answer = self
            .client
            .lease_time_to_live(id, Some(LeaseTimeToLiveOptions::new().with_keys()))
            .await?;
        self.is(
            "time to live, with the keys",
            (600, true, vec![self.key("lease/a").into_bytes()]),
            (answer.granted_ttl(), answer.ttl() > 500, answer.keys().to_vec()),
        );
        let listed = self.client.leases().await?.leases().iter().any(|lease| lease.id() == id);
        self.is("the lease is listed", true, listed);
        let (mut keeper, mut answers) = self.client.lease_keep_alive(id).await?;
        for _ in 0..3 {
            keeper.keep_alive().await?;
            let ttl = answers.message().await?.map(|answer| (answer.id(), answer.ttl()));
            self.is("keep alive, on one stream", Some((id, 600)), ttl);
        }
        self.client.lease_revoke(id).await?;
        let got = self.values("lease/", GetOptions::new().with_prefix()).await?;
        self.is("revoke deletes the keys", Vec::<String>::new(), got);
        let answer = self.client.lease_revoke(id).await;
        self.refused(
            "revoke of what is revoked",
            5,
            "etcdserver: requested lease not found",
            answer,
        );
        let answer = self.client.lease_time_to_live(id, None).await?;
        self.is("its time to live is -1", -1, answer.ttl());
        Ok(())
    }

    async fn maintenance(&mut self, members: usize) -> Outcome {
        let list = self.client.member_list().await?;
        let whole = |m: &&etcd_client::Member| {
            m.id() != 0
                && !m.name().is_empty()
                && !m.client_urls().is_empty()
                && !m.peer_urls().is_empty()
                && !m.is_learner()
        };
        self.is(
            "members: all of them, with all there is to know",
            (members, members),
            (list.members().len(), list.members().iter().filter(whole).count()),
        );
        let status = self.client.status().await?;
        self.is(
            "status",
            (true, true, true, false),
            (
                status.version().starts_with("3."),
                list.members().iter().any(|m| m.id() == status.leader()),
                status.db_size() > 0
                    && status.raft_term() > 0
                    && status.raft_index() > 0
                    && status.raft_applied_index() > 0,
                status.is_learner(),
            ),
        );
        self.is("status: no errors", Vec::<String>::new(), status.errors().to_vec());
        let hash = self.client.hash_kv(0).await?;
        self.is("hash", (true, true), (hash.hash() != 0, hash.hash_revision() > 1));
        let alarms = self.client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
        self.is("no alarms", 0, alarms.alarms().len());
        self.client.defragment().await?;
        let mut snapshot = self.client.snapshot().await?;
        let (mut bytes, mut remaining) = (0, u64::MAX);
        while let Some(part) = snapshot.message().await? {
            bytes += part.blob().len();
            remaining = part.remaining_bytes();
        }
        self.is("snapshot: to the last byte", (32, 0), (bytes % 512, remaining));
        let revision = self.put("compact", "1").await?;
        self.put("compact", "2").await?;
        self.client.compact(revision + 1, None).await?;
        let answer = self
            .client
            .get(self.key("compact"), Some(GetOptions::new().with_revision(revision)))
            .await;
        self.refused(
            "get of a compacted revision",
            11,
            "etcdserver: mvcc: required revision has been compacted",
            answer,
        );
        let mut watch = self
            .client
            .watch(self.key("compact"), Some(WatchOptions::new().with_start_revision(revision)))
            .await?;
        created(&mut watch).await?;
        let answer = next(&mut watch).await?;
        self.is(
            "a watch of a compacted revision",
            (true, revision + 1),
            (answer.canceled(), answer.compact_revision()),
        );
        Ok(())
    }

    /// The services that etcd has for those who do not want to build locks of transactions.
    async fn locks(&mut self) -> Outcome {
        let name = self.key("lock");
        let lock = self.client.lock(name.clone(), None).await?;
        self.is("lock: a key below the name", true, lock.key().starts_with(name.as_bytes()));
        let mut other = self.client.clone();
        let waiting =
            tokio::time::timeout(Duration::from_millis(500), other.lock(name.clone(), None)).await;
        self.is("... held by one", true, waiting.is_err());
        self.client.unlock(lock.key()).await?;
        let again = self.client.lock(name, None).await?;
        self.client.unlock(again.key()).await?;
        self.is("... and free again", true, again.key() != lock.key());

        let name = self.key("election");
        let lease = self.client.lease_grant(60, None).await?.id();
        let campaign = self.client.campaign(name.clone(), "one", lease).await?;
        self.is("campaign", Some(lease), campaign.leader().map(etcd_client::LeaderKey::lease));
        let leader = self.client.leader(name.clone()).await?;
        self.is("leader", Some(b"one".to_vec()), leader.kv().map(|kv| kv.value().to_vec()));
        let mut observer = self.client.observe(name.clone()).await?;
        let seen = observer
            .message()
            .await?
            .and_then(|mut answer| answer.take_kv())
            .map(|kv| kv.value().to_vec());
        self.is("observe", Some(b"one".to_vec()), seen);
        self.client
            .proclaim(
                "two",
                campaign
                    .leader()
                    .cloned()
                    .map(|key| etcd_client::ProclaimOptions::new().with_leader(key)),
            )
            .await?;
        let leader = self.client.leader(name.clone()).await?;
        self.is("proclaim", Some(b"two".to_vec()), leader.kv().map(|kv| kv.value().to_vec()));
        self.client
            .resign(
                campaign
                    .leader()
                    .cloned()
                    .map(|key| etcd_client::ResignOptions::new().with_leader(key)),
            )
            .await?;
        let answer = self.client.leader(name).await;
        self.refused("resign: there is no leader", 2, "election: no leader", answer);
        Ok(())
    }
}

/// The next answer of a watch, or an error if none comes in time.
async fn next(stream: &mut WatchStream) -> Result<WatchResponse, Error> {
    match tokio::time::timeout(LIMIT, stream.message()).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(Error::WatchError("the stream has ended".to_owned())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::WatchError("no answer in time".to_owned())),
    }
}

/// The id that a watch was created with.
async fn created(stream: &mut WatchStream) -> Result<i64, Error> {
    let answer = next(stream).await?;
    if answer.created() && !answer.canceled() {
        Ok(answer.watch_id())
    } else {
        Err(Error::WatchError(format!("not created: {answer:?}")))
    }
}

/// Everything against one store; the facts that hold and that do not.
async fn run(urls: &[&str], members: usize, prefix: String) -> Result<(u32, u32), Error> {
    let options = ConnectOptions::new()
        .with_require_leader(true)
        .with_timeout(LIMIT)
        .with_connect_timeout(LIMIT);
    let client = Client::connect(urls, Some(options)).await?;
    let mut session = Session { client, prefix, passed: 0, failed: 0 };
    let outcome = async {
        session.keys_and_values().await?;
        session.transactions().await?;
        session.watches().await?;
        session.leases().await?;
        session.maintenance(members).await?;
        if std::env::var_os("LOCKS").is_some() {
            session.locks().await?;
        }
        session
            .client
            .delete(session.prefix.clone(), Some(DeleteOptions::new().with_prefix()))
            .await?;
        Ok::<(), Error>(())
    }
    .await;
    if let Err(error) = outcome {
        session.failed += 1;
        println!("FAIL the session came to an end early: {error}");
    }
    Ok((session.passed, session.failed))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(argument) = std::env::args().nth(1) else {
        eprintln!("usage: etcd-client-session URL[,URL...]");
        return ExitCode::from(2);
    };
    let urls: Vec<&str> = argument.split(',').collect();
    let begun = Instant::now();
    let (mut passed, mut failed) = (0, 0);
    // Each member alone, then all of them behind one client.
    let mut rounds: Vec<Vec<&str>> = urls.iter().map(|url| vec![*url]).collect();
    if urls.len() > 1 {
        rounds.push(urls.clone());
    }
    for (i, round) in rounds.iter().enumerate() {
        println!("# the etcd-client crate against {}", round.join(","));
        // Several endpoints are chosen from call by call, so what one call wrote another may read elsewhere: all
        // reads of the session are linearizable.
        match run(round, urls.len(), format!("/rust/{}/{i}/", std::process::id())).await {
            Ok((p, f)) => (passed, failed) = (passed + p, failed + f),
            Err(error) => {
                failed += 1;
                println!("FAIL connect: {error}");
            }
        }
    }
    println!("\n{passed} passed, {failed} failed");
    eprintln!("{:.1} s", begun.elapsed().as_secs_f64());
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
