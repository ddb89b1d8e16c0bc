//! Snapshots on their way: what is sent, where they go on, and how they end.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use proto::log::SnapshotMeta;
use server::peers::ChunkHash;

use super::{CLUSTER, Start, Store, free_port, pair, snapshot_message, wait_until};

#[test]
fn a_snapshot_sends_what_is_missing_and_resumes_where_it_broke() {
    let (store, meta) = Store::with_snapshot(20);
    let (left, right) = pair(Start { store, ..Start::member(1) }, Start::member(2));
    let held = ChunkHash::try_from(&meta.chunks[4].hash[..]).unwrap();
    let content = left.store.0.chunks.lock().unwrap()[&held].clone();
    right.store.0.chunks.lock().unwrap().insert(held, content);
    right.store.0.writes_left.store(8, Ordering::Relaxed);
    let message = snapshot_message(&left, meta.clone());
    left.peers.send(vec![message.clone()]);
    wait_until("the first transfer has failed", || left.node.seen().snapshots == [(2, false)]);
    assert!(right.appended_indexes().is_empty(), "the replica hears nothing of half a snapshot");
    assert_eq!(right.store.0.written.lock().unwrap().len(), 8);

    right.store.0.writes_left.store(u64::MAX, Ordering::Relaxed);
    left.peers.send(vec![message.clone()]);
    wait_until("the second has succeeded", || {
        left.node.seen().snapshots == [(2, false), (2, true)]
    });
    assert_eq!(right.node.seen().appended, [message]);
    assert_eq!(*right.store.0.committed.lock().unwrap(), [meta]);
    let written = right.store.0.written.lock().unwrap().clone();
    assert_eq!(written.len(), 19, "each chunk once, and none that was there");
    assert_eq!(written.iter().collect::<BTreeSet<_>>().len(), 19);
    assert!(!written.contains(&held));
    assert_eq!(*right.store.0.chunks.lock().unwrap(), *left.store.0.chunks.lock().unwrap());
}

#[test]
fn a_snapshot_without_chunks_to_send_is_taken() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let meta = SnapshotMeta { index: 7, cluster_id: CLUSTER, ..SnapshotMeta::default() };
    left.peers.send(vec![snapshot_message(&left, meta.clone())]);
    wait_until("it is taken", || left.node.seen().snapshots == [(2, true)]);
    assert_eq!(*right.store.0.committed.lock().unwrap(), [meta]);
}

#[test]
fn a_damaged_chunk_and_a_foreign_snapshot_are_refused() {
    let (store, meta) = Store::with_snapshot(5);
    let (left, right) = pair(Start { store, ..Start::member(1) }, Start::member(2));
    {
        let mut chunks = left.store.0.chunks.lock().unwrap();
        let rotten = ChunkHash::try_from(&meta.chunks[2].hash[..]).unwrap();
        let mut content = chunks[&rotten].to_vec();
        content[17] ^= 1;
        chunks.insert(rotten, content.into());
    }
    left.peers.send(vec![snapshot_message(&left, meta.clone())]);
    wait_until("it is refused", || left.node.seen().snapshots == [(2, false)]);
    let foreign = SnapshotMeta { cluster_id: 0xc2, ..meta };
    left.peers.send(vec![snapshot_message(&left, foreign)]);
    wait_until("it is refused too", || left.node.seen().snapshots.len() == 2);
    assert_eq!(left.node.seen().snapshots, [(2, false), (2, false)]);
    assert!(right.store.0.committed.lock().unwrap().is_empty());
    assert!(right.appended_indexes().is_empty());
    let written = right.store.0.written.lock().unwrap().len();
    assert!(written < 5, "{written}");
}

#[test]
fn a_snapshot_to_nobody_fails() {
    let left = Start::member(1).start();
    left.knows(&[(2, format!("http://127.0.0.1:{}", free_port()))]);
    left.peers.send(vec![snapshot_message(&left, SnapshotMeta::default())]);
    wait_until("it has failed", || left.node.seen().snapshots == [(2, false)]);
}

#[test]
fn a_transfer_cut_short_by_a_move_is_reported_and_one_replaced_is_not() {
    let (store, meta) = Store::with_snapshot(20);
    let mut start = Start { store, ..Start::member(1) };
    // Slow enough to be still under way.
    start.limits.snapshot_bytes_per_second = Some(1);
    let (left, right) = pair(start, Start::member(2));
    left.peers.send(vec![snapshot_message(&left, meta.clone())]);
    wait_until("it has begun", || !right.store.0.written.lock().unwrap().is_empty());
    left.peers.send(vec![snapshot_message(&left, meta)]);
    wait_until("the next has begun", || right.store.0.written.lock().unwrap().len() > 1);
    assert!(left.node.seen().snapshots.is_empty());
    left.knows(&[(2, "http://127.0.0.1:1".to_owned())]);
    wait_until("it is reported", || left.node.seen().snapshots == [(2, false)]);
    assert!(right.store.0.committed.lock().unwrap().is_empty());
}
