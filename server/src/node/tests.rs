//! A member without its network, with a sink that looks at who tells it what.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::etcdserverpb::PutRequest;
use proto::log::command::Op;
use state::{Changes, View};

use super::{AppliedSink, Fatal, Node};
use crate::boot::{self, Begun};
use crate::config::{self, Start};
use crate::door::Door as _;
use crate::metrics::Metrics;

/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);
const THREAD: &str = "apply";

/// Who told of a revision.
type Told = Vec<(String, i64)>;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Told>>);

impl AppliedSink for Sink {
    fn applied(&mut self, view: &View, changes: &Changes, _replaced: bool) {
        let by = std::thread::current().name().unwrap_or_default().to_owned();
        let mut told = self.0.lock().unwrap();
        for record in &changes.records {
            assert!(record.mod_revision() <= view.revision());
            told.push((by.clone(), record.mod_revision()));
        }
    }
}

async fn begin(dir: &std::path::Path, sink: Sink) -> (Begun, Fatal) {
    let args = [
        format!("--data-dir={}", dir.display()),
        String::from("--listen-peer-urls=http://127.0.0.1:0"),
        String::from("--initial-advertise-peer-urls=http://127.0.0.1:1"),
        String::from("--initial-cluster=default=http://127.0.0.1:1"),
    ];
    let Ok(Start::Serve(config)) = config::load(&args, &BTreeMap::new()) else {
        panic!("these are good flags");
    };
    let (metrics, fatal) = (Arc::new(Metrics::new()), Fatal::default());
    let begun = boot::begin(&config, &metrics, None, &fatal, |_| Ok(vec![Box::new(sink)])).await;
    (begun.expect("a new member"), fatal)
}

async fn put(node: &Node, bytes: usize) -> i64 {
    let value = Bytes::from(vec![7; bytes]);
    let op = Op::Put(PutRequest { key: "k".into(), value, ..PutRequest::default() });
    node.handle().propose(op).await.expect("applied");
    let view = node.handle().view();
    view.revision()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_applies_watchers_are_told_in_order_and_the_answered_find_their_write() {
    const LITTLE: usize = 10;
    const MUCH: usize = 100_000;
    let dir = tempfile::tempdir().expect("a directory");
    let sink = Sink::default();
    let (begun, _fatal) = begin(dir.path(), sink.clone()).await;
    let begins = begun.view.revision();
    let deadline = Instant::now() + PATIENCE;
    let (mut last, mut much) = (begins, Vec::new());
    loop {
        for bytes in [MUCH, LITTLE, LITTLE] {
            let revision = put(&begun.node, bytes).await;
            assert_eq!(revision, last + 1, "whoever is answered finds the own write");
            last = revision;
            much.extend((bytes == MUCH).then_some(revision));
        }
        // The answer goes first: of the last one nobody may have been told yet.
        if sink.0.lock().unwrap().iter().any(|(by, _)| by != THREAD) {
            break;
        }
        assert!(Instant::now() < deadline, "nobody but the apply thread applies");
    }
    while begun.node.handle().status().applied_index < begun.node.handle().view().applied_index() {
        assert!(Instant::now() < deadline, "the member is not told what is applied");
        tokio::task::yield_now().await;
    }
    let Begun { node, data_dir: _locked, .. } = begun;
    tokio::task::spawn_blocking(|| node.stop()).await.expect("stopped");
    let told = sink.0.lock().unwrap();
    assert!(told.iter().map(|(_, revision)| *revision).eq(begins + 1..=last), "{told:?}");
    let is_its = |(by, revision): &(String, i64)| by == THREAD || !much.contains(revision);
    assert!(told.iter().all(is_its), "{told:?}");
}
