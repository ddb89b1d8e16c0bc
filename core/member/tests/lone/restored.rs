//! A snapshot of a leader that overtakes what this member has not applied yet.

use bytes::Bytes;
use member::ApplyTask;
use member::Input;
use member::consensus::Config;
use proto::log::{Batch, Chunk, ConfState, Entry, SnapshotMeta};
use proto::peer::{RaftMessage, raft_message::Type};

use crate::Lone;

const LEADER: u64 = 2;
const TERM: u64 = 2;
const NOW_US: u64 = 1_000;
/// More of them than apply is given at a time.
const ENTRIES: u64 = 9;
const ENTRY_BYTES: usize = 8 << 20;

fn large(index: u64) -> Entry {
    let batch = Batch { commands: vec![Bytes::from(vec![0xff; ENTRY_BYTES])] };
    let data = Bytes::from(prost::Message::encode_to_vec(&batch));
    Entry { term: TERM, index, data, ..Entry::default() }
}

fn index_of(task: &ApplyTask) -> (&str, u64) {
    match task {
        ApplyTask::Entries { entries, .. } => ("entries", entries.last().map_or(0, |it| it.index)),
        ApplyTask::Restore(meta) => ("restore", meta.index),
        ApplyTask::BeginSnapshot => ("snapshot", 0),
    }
}

#[test]
fn what_a_snapshot_has_is_not_applied_behind_it() {
    let mut lone = Lone::new(Config::new(1, 9));
    lone.step(NOW_US, Vec::new());
    let base = lone.member.status().last_index;
    lone.unapplied = Some(Vec::new());
    for number in 1..=ENTRIES {
        let (index, log_term) = (base + number - 1, if number == 1 { 1 } else { TERM });
        let append = RaftMessage {
            r#type: Type::MsgAppend.into(),
            to: 1,
            from: LEADER,
            term: TERM,
            index,
            log_term,
            entries: vec![large(index + 1)],
            commit: index + 1,
            ..RaftMessage::default()
        };
        lone.step(NOW_US, vec![Input::Message(append)]);
    }
    let given = lone.unapplied.as_ref().map_or(0, Vec::len) as u64;
    assert!((1..ENTRIES).contains(&given), "apply has {given} of {ENTRIES}, the others are held");

    let meta = SnapshotMeta {
        index: base + 100,
        term: TERM,
        conf_state: Some(ConfState { voters: vec![1, 2, 3], ..ConfState::default() }),
        chunks: vec![Chunk { hash: Bytes::from(vec![0; 32]), ..Chunk::default() }],
        cluster_id: 7,
        ..SnapshotMeta::default()
    };
    let snapshot = RaftMessage {
        r#type: Type::MsgSnapshot.into(),
        to: 1,
        from: LEADER,
        term: TERM,
        snapshot: Some(meta),
        ..RaftMessage::default()
    };
    lone.step(NOW_US, vec![Input::Message(snapshot)]);
    let reports = lone.catch_up();
    lone.unapplied = Some(Vec::new());
    lone.step(NOW_US, reports);
    let tasks: Vec<_> = lone.unapplied.iter().flatten().map(index_of).collect();
    assert_eq!(tasks[0], ("restore", base + 100));
    assert!(tasks.iter().all(|(kind, _)| *kind != "entries"), "{tasks:?}");
}
