//! Data that is lost or damaged is named, and left as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use client::Put;

use crate::cluster::Cluster;

/// Every file below `dir` with its content, but the lock and what sled tidies up when it is looked at:
/// it may be thrown away at any time.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("member/state") {
                dirs.push(path);
            } else if path.is_dir() {
                continue;
            } else if !path.ends_with("LOCK") {
                all.insert(path.clone(), fs::read(&path).expect("a file"));
            }
        }
    }
    all
}

/// The log's segments, oldest first.
fn segments(data_dir: &Path) -> Vec<PathBuf> {
    let wal = fs::read_dir(data_dir.join("member/wal")).expect("the log");
    let mut names: Vec<_> = wal
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    names.sort();
    names
}

async fn stopped_with_data(size: usize) -> Cluster {
    let mut cluster = Cluster::start(size).await;
    let client = cluster.client();
    for n in 0..300 {
        client.put(Put::new(format!("key-{n}"), vec![b'x'; 100])).await.expect("put");
    }
    cluster.members[0].terminate();
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_its_log_does_not_found_a_new_cluster() {
    let mut cluster = stopped_with_data(1).await;
    let dir = cluster.members[0].data_dir();
    for segment in segments(&dir) {
        fs::remove_file(segment).expect("removed");
    }
    let before = contents(&dir);
    let (code, said) = cluster.members[0].refuses().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no log at") && said.contains("--wal-dir"), "{said}");
    assert_eq!(contents(&dir), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_synced_entries_is_refused_and_left_alone() {
    let mut cluster = stopped_with_data(1).await;
    let dir = cluster.members[0].data_dir();
    let log = segments(&dir);
    let last = log.last().expect("a segment");
    // Past the header, before most of what was written.
    fs::OpenOptions::new().write(true).open(last).expect("opened").set_len(12_288).expect("cut");
    let before = contents(&dir);
    let (code, said) = cluster.members[0].refuses().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("synced") && said.contains(&dir.display().to_string()), "{said}");
    assert_eq!(contents(&dir), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_log_is_named_and_left_alone() {
    let mut cluster = stopped_with_data(1).await;
    let dir = cluster.members[0].data_dir();
    let last = segments(&dir).pop().expect("a segment");
    let mut bytes = fs::read(&last).expect("read");
    bytes[20_000] ^= 1;
    fs::write(&last, bytes).expect("written");
    let before = contents(&dir);
    let (code, said) = cluster.members[0].refuses().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("corrupt at offset"), "{said}");
    assert_eq!(contents(&dir), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_whose_data_is_gone_does_not_come_back_under_its_old_id() {
    let mut cluster = stopped_with_data(3).await;
    fs::remove_dir_all(cluster.members[0].data_dir()).expect("removed");
    let (code, said) = cluster.members[0].refuses().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("has already been bootstrapped"), "{said}");
    // Nor by saying that the cluster exists.
    cluster.members[0].joins_existing();
    let (code, said) = cluster.members[0].refuses().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("has already been bootstrapped"), "{said}");
    cluster.accepts_writes().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backend_costs_a_rebuild_and_nothing_else() {
    let mut cluster = stopped_with_data(1).await;
    let state = cluster.members[0].data_dir().join("member/state");
    for (path, mut bytes) in contents(&state) {
        if !path.ends_with("CURRENT") {
            for byte in bytes.iter_mut().step_by(97) {
                *byte ^= 0xff;
            }
            fs::write(path, bytes).expect("written");
        }
    }
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    let client = cluster.client();
    let all = client.get(client::Get::new(client::KeyRange::prefix("key-")).count_only()).await;
    assert_eq!(all.expect("get").count, 300);
}
