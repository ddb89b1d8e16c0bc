//! The bytes of version 1, pinned. A change here is a change of the format: raise the version.

mod common;

use bytes::Bytes;
use common::OWNER;
use wal::mem::MemDisk;
use wal::{ChunkRef, Entry, HardState, Log, LogBatch, LogOptions, Manifest, SnapshotMark};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The segment of a log with one batch of everything and, after a sync, an idle mark.
fn segment() -> Vec<u8> {
    let mut disk = MemDisk::new();
    let options = LogOptions { salt_seed: 0x5eed, segment_bytes: 1 << 15, ..LogOptions::default() };
    let mut log = Log::create(&mut disk, OWNER, options).expect("a new disk takes a log");
    log.append(&LogBatch {
        hard_state: Some(HardState { term: 5, vote: 0x11, commit: 41 }),
        snapshot: Some(SnapshotMark { index: 41, term: 4 }),
        entries: vec![Entry {
            term: 5,
            index: 42,
            kind: 3,
            context: Bytes::from_static(b"ctx"),
            data: Bytes::from_static(b"payload"),
        }],
    })
    .expect("a healthy disk takes a batch");
    log.sync().expect("a healthy disk syncs");
    log.mark_synced_when_idle().expect("a healthy disk syncs");
    drop(log);
    let path = "member/wal/0000000000000001-0000000000000001.wal";
    disk.content(path).expect("the first segment has this name")
}

#[test]
fn segment_header_bytes_of_version_1() {
    let segment = segment();
    assert_eq!(segment[..4096], segment[4096..8192], "two copies");
    assert_eq!(
        hex(&segment[..96]),
        concat!(
            "4d5357414c0d0a1a",
            "01000000",
            "00100000",
            "0100000000000000",
            "0100000000000000",
            "c100000000000000",
            "1100000000000000",
            "b4a9f0039dfdf109",
            "0000000000000000",
            "0000000000000000",
            "3820000000000000",
            "00000000",
            "00000000",
            "0080000000000000"
        )
    );
    assert_eq!(segment.len(), 0x8000, "as long as it says");
    assert!(segment[96..4092].iter().all(|byte| *byte == 0));
    assert_eq!(hex(&segment[4092..4096]), "783b00d4");
}

#[test]
fn batch_and_record_bytes_of_version_1() {
    let segment = segment();
    let opening = 8192..8192 + 56;
    let batch = opening.end..opening.end + 56 + (40 + 24) + 40 + (40 + 16);
    let mark = batch.end..batch.end + 56;
    assert_eq!(
        hex(&segment[opening]),
        concat!(
            "6d426174",
            "01000000",
            "38000000",
            "00000000",
            "0000000000000000",
            "0000000000000000",
            "0000000000000000",
            "0000000000000000",
            "00000000",
            "9c138e89"
        )
    );
    assert_eq!(
        hex(&segment[batch.start..batch.start + 56]),
        concat!(
            "6d426174",
            "00000000",
            "d8000000",
            "03000000",
            "2a00000000000000",
            "2a00000000000000",
            "3820000000000000",
            "0000000000000000",
            "6f2a98d4",
            "36585ec7"
        )
    );
    let hard_state = batch.start + 56;
    assert_eq!(
        hex(&segment[hard_state..hard_state + 64]),
        concat!(
            "18000000",
            "00000000",
            "02000000",
            "fcfeba3f",
            "0000000000000000",
            "0000000000000000",
            "00000000",
            "7e801c2d",
            "050000000000000011000000000000002900000000000000"
        )
    );
    let snapshot_mark = hard_state + 64;
    assert_eq!(
        hex(&segment[snapshot_mark..snapshot_mark + 40]),
        concat!(
            "00000000",
            "00000000",
            "03000000",
            "1a4887af",
            "0400000000000000",
            "2900000000000000",
            "00000000",
            "dc86b543"
        )
    );
    assert_eq!(
        hex(&segment[snapshot_mark + 40..batch.end]),
        concat!(
            "07000000",
            "03000000",
            "01030000",
            "edaa86de",
            "0500000000000000",
            "2a00000000000000",
            "00000000",
            "4b2bf1b5",
            "6374787061796c6f6164000000000000"
        )
    );
    assert_eq!(
        hex(&segment[mark.clone()]),
        concat!(
            "6d426174",
            "00000000",
            "38000000",
            "00000000",
            "0000000000000000",
            "0000000000000000",
            "1021000000000000",
            "2a00000000000000",
            "00000000",
            "7f56109e"
        )
    );
    assert!(segment[mark.end..].iter().all(|byte| *byte == 0));
}

#[test]
fn manifest_bytes_of_version_1() {
    let manifest = Manifest {
        index: 0x1234,
        term: 7,
        begins_log: true,
        meta: Bytes::from_static(b"meta!"),
        chunks: vec![ChunkRef { hash: [0xab; 32], bytes: 1 << 20 }],
    };
    let bytes = manifest.encode();
    assert_eq!(
        hex(&bytes),
        concat!(
            "4d53534e500d0a1a",
            "01000000",
            "01000000",
            "3412000000000000",
            "0700000000000000",
            "0500000000000000",
            "0100000000000000",
            "6d65746121",
            "abababababababababababababababababababababababababababababababab",
            "0000100000000000",
            "2fa18273c8a43dda3fde8f67842bea77de32e29a35793fefc7fa7975a3088970"
        )
    );
    assert_eq!(Manifest::decode(&bytes), Ok(manifest));
}
