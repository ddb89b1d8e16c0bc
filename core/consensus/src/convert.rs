//! The one place where raft-rs's structs and ours meet.
//!
//! raft-rs speaks protobuf 2, whose parser has a known flaw with hostile bytes. So nothing from a
//! peer or a disk is parsed by it: our own messages are decoded by prost, checked, and copied field
//! by field into raft's structs here, and back. Data stays the same shared [`bytes::Bytes`] all
//! along; nothing is encoded anew on the way of a write.
//!
//! Two things raft-rs encodes or carries as bytes stay in this process: the membership change
//! inside a proposal (raft decodes what it has just encoded; followers read our own context
//! instead), and a snapshot's manifest (our own encoding, in raft's `data`).

use bytes::Bytes;
use prost::Message as _;
use proto::log::{self, entry};
use proto::peer::{RaftMessage, raft_message::Type};
use raft::eraftpb;

/// Our entry as raft's.
pub(crate) fn entry_to_raft(entry: log::Entry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry::default();
    out.set_entry_type(match entry.r#type() {
        entry::Type::Normal => eraftpb::EntryType::EntryNormal,
        entry::Type::ConfChange => eraftpb::EntryType::EntryConfChange,
        entry::Type::ConfChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
    });
    out.term = entry.term;
    out.index = entry.index;
    out.data = entry.data;
    out.context = entry.context;
    out
}

/// Raft's entry as ours; the data is shared.
pub(crate) fn entry_from_raft(entry: &eraftpb::Entry) -> log::Entry {
    log::Entry {
        term: entry.term,
        index: entry.index,
        r#type: match entry.get_entry_type() {
            eraftpb::EntryType::EntryNormal => entry::Type::Normal,
            eraftpb::EntryType::EntryConfChange => entry::Type::ConfChange,
            eraftpb::EntryType::EntryConfChangeV2 => entry::Type::ConfChangeV2,
        }
        .into(),
        data: entry.data.clone(),
        context: entry.context.clone(),
    }
}

/// A normal entry to be proposed.
pub(crate) fn proposal(data: Bytes) -> eraftpb::Entry {
    eraftpb::Entry { data, ..Default::default() }
}

/// A local message that proposes entries.
pub(crate) fn propose_message(from: u64, entries: Vec<eraftpb::Entry>) -> eraftpb::Message {
    let mut message = eraftpb::Message::default();
    message.set_msg_type(eraftpb::MessageType::MsgPropose);
    message.from = from;
    message.set_entries(entries.into());
    message
}

/// The single step that takes a configuration to the next one.
pub(crate) fn conf_change(node: u64, kind: eraftpb::ConfChangeType) -> eraftpb::ConfChangeV2 {
    let mut single = eraftpb::ConfChangeSingle { node_id: node, ..Default::default() };
    single.set_change_type(kind);
    let mut change = eraftpb::ConfChangeV2::default();
    change.set_changes(vec![single].into());
    change
}

pub(crate) fn hard_state_to_raft(state: &log::HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term,
        vote: state.vote,
        commit: state.commit,
        ..Default::default()
    }
}

pub(crate) fn hard_state_from_raft(state: &eraftpb::HardState) -> log::HardState {
    log::HardState { term: state.term, vote: state.vote, commit: state.commit }
}

pub(crate) fn conf_state_to_raft(state: &log::ConfState) -> eraftpb::ConfState {
    let mut out = eraftpb::ConfState::default();
    out.set_voters(state.voters.clone());
    out.set_learners(state.learners.clone());
    out.set_voters_outgoing(state.voters_outgoing.clone());
    out.set_learners_next(state.learners_next.clone());
    out.auto_leave = state.auto_leave;
    out
}

/// Raft keeps its sets unordered; ours are sorted, so that equal configurations are equal bytes.
pub(crate) fn conf_state_from_raft(state: &eraftpb::ConfState) -> log::ConfState {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    log::ConfState {
        voters: sorted(state.get_voters()),
        learners: sorted(state.get_learners()),
        voters_outgoing: sorted(state.get_voters_outgoing()),
        learners_next: sorted(state.get_learners_next()),
        auto_leave: state.auto_leave,
    }
}

pub(crate) fn snapshot_to_raft(meta: &log::SnapshotMeta) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot { data: meta.encode_to_vec().into(), ..Default::default() };
    let metadata = out.mut_metadata();
    metadata.index = meta.index;
    metadata.term = meta.term;
    metadata.set_conf_state(conf_state_to_raft(&meta.conf_state.clone().unwrap_or_default()));
    out
}

/// The manifest inside a raft snapshot, which [`snapshot_to_raft`] put there.
pub(crate) fn snapshot_from_raft(snapshot: &eraftpb::Snapshot) -> log::SnapshotMeta {
    log::SnapshotMeta::decode(snapshot.data.clone())
        .expect("a snapshot's data is the manifest this process encoded")
}

/// A checked message of a peer as raft's.
pub(crate) fn message_to_raft(message: RaftMessage) -> eraftpb::Message {
    let mut out = eraftpb::Message::default();
    out.set_msg_type(message_type_to_raft(message.r#type()));
    let RaftMessage {
        r#type: _,
        to,
        from,
        term,
        log_term,
        index,
        entries,
        commit,
        commit_term,
        snapshot,
        request_snapshot,
        reject,
        reject_hint,
        context,
        priority,
        // The member's, not raft's.
        tuning: _,
        // The lease's.
        sent_us: _,
        // The replica's (`replica::durable`).
        durable_index: _,
        // The member's.
        binds_forwards: _,
    } = message;
    out.to = to;
    out.from = from;
    out.term = term;
    out.log_term = log_term;
    out.index = index;
    out.set_entries(entries.into_iter().map(entry_to_raft).collect::<Vec<_>>().into());
    out.commit = commit;
    out.commit_term = commit_term;
    if let Some(meta) = snapshot {
        out.set_snapshot(snapshot_to_raft(&meta));
    }
    out.request_snapshot = request_snapshot;
    out.reject = reject;
    out.reject_hint = reject_hint;
    out.context = context;
    out.priority = priority;
    out
}

/// A message raft wants sent, as ours.
pub(crate) fn message_from_raft(message: &eraftpb::Message) -> RaftMessage {
    RaftMessage {
        r#type: message_type_from_raft(message.get_msg_type()).into(),
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.get_entries().iter().map(entry_from_raft).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: (message.get_snapshot().get_metadata().index != 0)
            .then(|| snapshot_from_raft(message.get_snapshot())),
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.clone(),
        priority: message.priority,
        tuning: None,
        sent_us: 0,
        durable_index: 0,
        binds_forwards: false,
    }
}

fn message_type_to_raft(kind: Type) -> eraftpb::MessageType {
    use eraftpb::MessageType as Raft;
    match kind {
        Type::MsgHup => Raft::MsgHup,
        Type::MsgBeat => Raft::MsgBeat,
        Type::MsgPropose => Raft::MsgPropose,
        Type::MsgAppend => Raft::MsgAppend,
        Type::MsgAppendResponse => Raft::MsgAppendResponse,
        Type::MsgRequestVote => Raft::MsgRequestVote,
        Type::MsgRequestVoteResponse => Raft::MsgRequestVoteResponse,
        Type::MsgSnapshot => Raft::MsgSnapshot,
        Type::MsgHeartbeat => Raft::MsgHeartbeat,
        Type::MsgHeartbeatResponse => Raft::MsgHeartbeatResponse,
        Type::MsgUnreachable => Raft::MsgUnreachable,
        Type::MsgSnapStatus => Raft::MsgSnapStatus,
        Type::MsgCheckQuorum => Raft::MsgCheckQuorum,
        Type::MsgTransferLeader => Raft::MsgTransferLeader,
        Type::MsgTimeoutNow => Raft::MsgTimeoutNow,
        Type::MsgReadIndex => Raft::MsgReadIndex,
        Type::MsgReadIndexResp => Raft::MsgReadIndexResp,
        Type::MsgRequestPreVote => Raft::MsgRequestPreVote,
        Type::MsgRequestPreVoteResponse => Raft::MsgRequestPreVoteResponse,
    }
}

fn message_type_from_raft(kind: eraftpb::MessageType) -> Type {
    use eraftpb::MessageType as Raft;
    match kind {
        Raft::MsgHup => Type::MsgHup,
        Raft::MsgBeat => Type::MsgBeat,
        Raft::MsgPropose => Type::MsgPropose,
        Raft::MsgAppend => Type::MsgAppend,
        Raft::MsgAppendResponse => Type::MsgAppendResponse,
        Raft::MsgRequestVote => Type::MsgRequestVote,
        Raft::MsgRequestVoteResponse => Type::MsgRequestVoteResponse,
        Raft::MsgSnapshot => Type::MsgSnapshot,
        Raft::MsgHeartbeat => Type::MsgHeartbeat,
        Raft::MsgHeartbeatResponse => Type::MsgHeartbeatResponse,
        Raft::MsgUnreachable => Type::MsgUnreachable,
        Raft::MsgSnapStatus => Type::MsgSnapStatus,
        Raft::MsgCheckQuorum => Type::MsgCheckQuorum,
        Raft::MsgTransferLeader => Type::MsgTransferLeader,
        Raft::MsgTimeoutNow => Type::MsgTimeoutNow,
        Raft::MsgReadIndex => Type::MsgReadIndex,
        Raft::MsgReadIndexResp => Type::MsgReadIndexResp,
        Raft::MsgRequestPreVote => Type::MsgRequestPreVote,
        Raft::MsgRequestPreVoteResponse => Type::MsgRequestPreVoteResponse,
    }
}
