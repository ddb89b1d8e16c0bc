//! Data that is lost or damaged is named, and left as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use client::{Get, Put};

use crate::bytes::{metric, noise, write};
use crate::cluster::{Cluster, Setup, remove, until};

/// Every file below `dir` with its content, but sockets, the lock and what sled tidies up when it is looked at:
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
            } else if path.is_file() && !path.ends_with("LOCK") {
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

/// How often the only member says that it built its store anew.
fn rebuilds(cluster: &Cluster) -> u64 {
    metric(&cluster.members, "metastore_statestore_rebuild_total")
}

/// How many of the keys are there.
async fn keys(cluster: &Cluster) -> i64 {
    let prefix = Get::new(client::KeyRange::prefix("key-")).count_only();
    cluster.client().get(prefix).await.expect("get").count
}

async fn stopped_with_data(size: usize) -> Cluster {
    let mut cluster = Cluster::start(size).await;
    let client = cluster.client();
    for n in 0..300 {
        let put = || Put::new(format!("key-{n}"), vec![b'x'; 100]);
        until("a put", || async { client.put(put()).await.ok() }).await;
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
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("no log at") && said.contains("--wal-dir"), "{said}");
    assert_eq!(contents(&dir), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_cut_short_anywhere_is_refused_by_file_and_left_alone() {
    let mut cluster = stopped_with_data(1).await;
    let dir = cluster.members[0].data_dir();
    let last = segments(&dir).pop().expect("a segment");
    let name = last.file_name().expect("a name").to_str().expect("plain").to_owned();
    let whole = fs::read(&last).expect("read");
    let used = whole.iter().rposition(|byte| *byte != 0).expect("not empty") as u64;
    assert!(used > 30_000 && used + 100 < whole.len() as u64);
    let state = dir.join("member/state");
    for with_state in [true, false] {
        if !with_state {
            fs::remove_dir_all(&state).expect("removed");
        }
        // The header alone, most of it, the last entry, the mark, a zero nobody wrote yet.
        for len in [8_192, 12_288, used / 2, used - 200, used - 40, whole.len() as u64 - 1] {
            fs::write(&last, &whole[..len as usize]).expect("cut");
            let before = contents(&dir);
            let (code, said) = cluster.members[0].refuses().await;
            assert_eq!(code, Some(3), "{len}: {said}");
            assert!(said.contains(&name) && said.contains("cut short"), "{len}: {said}");
            assert_eq!(contents(&dir), before, "{len}");
        }
    }
    // And whole again it serves all it had.
    fs::write(&last, &whole).expect("mended");
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    assert_eq!(keys(&cluster).await, 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_its_newest_segment_is_refused_and_left_alone() {
    let mut cluster = stopped_with_data(1).await;
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    cluster.members[0].kill();
    let dir = cluster.members[0].data_dir();
    fs::remove_dir_all(dir.join("member/state")).expect("removed");
    fs::remove_file(segments(&dir).pop().expect("two segments")).expect("removed");
    let before = contents(&dir);
    let (code, said) = cluster.members[0].refuses().await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("cut short"), "{said}");
    assert_eq!(contents(&dir), before);
}

/// Copies what is there, as a file copy made while the member runs does.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Err(error) = fs::copy(&path, to)
        {
            // The backend and the log remove files at any time.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_running_members_files_is_what_a_crash_leaves() {
    let mut cluster = stopped_with_data(1).await;
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    let client = cluster.client();
    let writing = tokio::spawn(async move {
        for n in 0..2_000 {
            client.put(Put::new(format!("key-{n}"), vec![b'y'; 100])).await.expect("put");
        }
    });
    let dir = cluster.members[0].data_dir();
    let aside = dir.with_extension("copy");
    let (from, to) = (dir.clone(), aside.clone());
    tokio::task::spawn_blocking(move || copy(&from, &to)).await.expect("copied");
    writing.abort();
    drop(writing.await);
    cluster.members[0].kill();
    fs::remove_dir_all(&dir).expect("removed");
    use std::os::unix::fs::PermissionsExt as _;
    for dir in [&aside, &aside.join("member")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("private");
    }
    fs::rename(&aside, &dir).expect("in its place");
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    assert!(keys(&cluster).await >= 300, "what was written before the copy began is in it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_log_is_named_and_left_alone() {
    let mut cluster = stopped_with_data(1).await;
    let dir = cluster.members[0].data_dir();
    let last = segments(&dir).pop().expect("a segment");
    let whole = fs::read(&last).expect("read");
    let used = whole.iter().rposition(|byte| *byte != 0).expect("not empty");
    // Also in the last entry: a member that stops in good order leaves a mark behind it.
    for place in [20_000, used - 100] {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(&last, bytes).expect("written");
        let before = contents(&dir);
        let (code, said) = cluster.members[0].refuses().await;
        assert_eq!(code, Some(3), "{place}: {said}");
        assert!(said.contains("corrupt at offset"), "{place}: {said}");
        assert_eq!(contents(&dir), before, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_founder_whose_data_is_gone_does_not_come_back_under_its_old_id() {
    let mut cluster = stopped_with_data(3).await;
    fs::remove_dir_all(cluster.members[0].data_dir()).expect("removed");
    let (code, said) = cluster.members[0].refuses().await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("has already been bootstrapped"), "{said}");
    // Nor by saying that the cluster exists.
    cluster.members[0].joins_existing();
    let (code, said) = cluster.members[0].refuses().await;
    assert_eq!(code, Some(3), "{said}");
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
    assert_eq!(keys(&cluster).await, 300);
    until("the rebuild to be counted", || async { (rebuilds(&cluster) == 1).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_store_of_a_member_is_no_rebuild_and_neither_is_one_that_is_read_again() {
    let mut cluster = stopped_with_data(1).await;
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    assert_eq!((keys(&cluster).await, rebuilds(&cluster)), (300, 0));
    let mut fresh = Cluster::start(1).await;
    fresh.accepts_writes().await;
    assert_eq!(rebuilds(&fresh), 0);
    fresh.members[0].terminate();
}

/// What sled still owes a file that is gone it would wait for without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_cannot_write_any_more_keeps_nobody_from_serving_or_from_ending() {
    const BEFORE: u64 = 5_000;
    const WRITES: u64 = 20_000;
    const CALLERS: u64 = 64;
    const BYTES: usize = 256;
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client();
    write(&client, 0..BEFORE, CALLERS, (noise, BYTES)).await;
    fs::remove_dir_all(cluster.members[0].data_dir().join("member/state")).expect("gone");
    write(&client, BEFORE..WRITES, CALLERS, (noise, BYTES)).await;
    assert_eq!(cluster.members[0].terminate(), Some(0));
    assert!(cluster.members[0].said().contains("the backend is given up"));
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    let all = Get::new(client::KeyRange::prefix("/registry/")).count_only();
    assert_eq!(client.get(all).await.expect("a count").count, WRITES as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_removed_while_it_was_away_ends_with_the_code_for_data() {
    let mut cluster = Cluster::start_with(3, &Setup::default().calm()).await;
    cluster.accepts_writes().await;
    let client = cluster.client();
    let table = client.members().await.expect("a table").members;
    let away = &mut cluster.members[0];
    let peer_url = format!("http://{}", away.peer_endpoint());
    let id = table.iter().find(|row| row.peer_ur_ls.contains(&peer_url)).expect("its row").id;
    away.kill();
    cluster.accepts_writes().await;
    remove(&client, id).await;
    // Its own log does not say so, and nobody will send it the entry that does.
    let (code, said) = cluster.members[0].refuses().await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("has been removed from the cluster"), "{said}");
}
