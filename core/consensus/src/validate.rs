//! What a peer says is checked before raft hears it.
//!
//! raft-rs was written for peers that run raft-rs: an entry out of line, a commit index beyond the
//! log or a malformed configuration makes it panic. A peer of another release, a broken one or a
//! broken wire must cost a message, never this member. So every field is checked here: that the type
//! may travel at all, that it carries what it needs and nothing it does not have, that numbers
//! leave room for arithmetic, that entries are in line, and that claims about our own log can be
//! true. Where a check could be confused with a normal delay (a response of an earlier term, say),
//! the message passes and raft ignores it.

use proto::log::{ConfState, SnapshotMeta, entry};
use proto::peer::{RaftMessage, raft_message::Type};

use crate::config::{
    COMMAND_BYTES_MAX, ENTRY_CONTEXT_BYTES_MAX, INDEX_MAX, MEMBERS_MAX, MESSAGE_CONTEXT_BYTES_MAX,
    RECEIVED_BYTES_MAX, SNAPSHOT_CHUNKS_MAX,
};
use crate::error::Rejected;
use crate::output::Role;

/// BLAKE3.
const CHUNK_HASH_BYTES: usize = 32;

/// What of ourselves the claims of a peer are held against.
pub(crate) struct Ourselves {
    pub(crate) id: u64,
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) role: Role,
    pub(crate) last_index: u64,
    pub(crate) persisted: u64,
}

/// Accepts the message for raft, or says what is wrong with it.
pub(crate) fn check(message: &RaftMessage, ourselves: &Ourselves) -> Result<Type, Rejected> {
    let kind = Type::try_from(message.r#type).map_err(|_| Rejected::UnknownType(message.r#type))?;
    if message.to != ourselves.id {
        return Err(Rejected::NotForUs { to: message.to });
    }
    if message.from == 0 || message.from == ourselves.id {
        return Err(Rejected::BadSender { from: message.from });
    }
    check_numbers(message, kind)?;
    check_shape(message, kind)?;
    match kind {
        Type::MsgAppend => check_append(message)?,
        Type::MsgSnapshot => {
            let meta = message.snapshot.as_ref().expect("the shape has one");
            check_snapshot(meta, message.term)?;
            if meta.chunks.is_empty() {
                return Err(Rejected::Snapshot("no chunks"));
            }
        }
        _ => {}
    }
    check_claims(message, kind, ourselves)?;
    Ok(kind)
}

/// Terms and indexes leave room for arithmetic.
fn check_numbers(message: &RaftMessage, kind: Type) -> Result<(), Rejected> {
    let fields = [
        ("term", message.term),
        ("log_term", message.log_term),
        ("index", message.index),
        ("commit", message.commit),
        ("commit_term", message.commit_term),
        ("request_snapshot", message.request_snapshot),
        ("reject_hint", message.reject_hint),
        ("durable_index", message.durable_index),
    ];
    for (field, value) in fields {
        if value > INDEX_MAX {
            return Err(Rejected::OutOfRange { field, value });
        }
    }
    // Term 0 means "from this process" to raft; only ReadIndex travels without a term.
    if (message.term == 0) != (kind == Type::MsgReadIndex) {
        return Err(Rejected::Term { kind: kind.as_str_name(), term: message.term });
    }
    Ok(())
}

/// Each type carries what it needs and nothing it does not have.
fn check_shape(message: &RaftMessage, kind: Type) -> Result<(), Rejected> {
    let (entries, snapshot) = match kind {
        Type::MsgAppend => (None, false),
        Type::MsgReadIndex | Type::MsgReadIndexResp => (Some(1), false),
        Type::MsgSnapshot => (Some(0), true),
        Type::MsgAppendResponse
        | Type::MsgRequestVote
        | Type::MsgRequestVoteResponse
        | Type::MsgRequestPreVote
        | Type::MsgRequestPreVoteResponse
        | Type::MsgHeartbeat
        | Type::MsgHeartbeatResponse
        | Type::MsgTimeoutNow => (Some(0), false),
        // Proposals travel as commands, transfers as calls, the rest never leaves a process.
        Type::MsgHup
        | Type::MsgBeat
        | Type::MsgPropose
        | Type::MsgUnreachable
        | Type::MsgSnapStatus
        | Type::MsgCheckQuorum
        | Type::MsgTransferLeader => return Err(Rejected::NotForTheWire(kind.as_str_name())),
    };
    let kind = kind.as_str_name();
    match entries {
        Some(0) if !message.entries.is_empty() => {
            return Err(Rejected::Unexpected { kind, field: "entries" });
        }
        Some(1) if message.entries.is_empty() => {
            return Err(Rejected::Missing { kind, field: "its read context" });
        }
        Some(1) if message.entries.len() > 1 => {
            return Err(Rejected::Unexpected { kind, field: "more than one read context" });
        }
        _ => {}
    }
    match (&message.snapshot, snapshot) {
        (Some(_), false) => return Err(Rejected::Unexpected { kind, field: "a snapshot" }),
        (None, true) => return Err(Rejected::Missing { kind, field: "its snapshot" }),
        _ => {}
    }
    if message.durable_index > 0 && message.r#type() != Type::MsgAppend {
        return Err(Rejected::Unexpected { kind, field: "a durable index" });
    }
    let contexts = [
        ("context", message.context.len()),
        ("read context", entries.and(message.entries.first()).map_or(0, |entry| entry.data.len())),
    ];
    for (field, bytes) in contexts {
        if bytes > MESSAGE_CONTEXT_BYTES_MAX {
            let (bytes, max) = (bytes as u64, MESSAGE_CONTEXT_BYTES_MAX as u64);
            return Err(Rejected::TooLarge { field, bytes, max });
        }
    }
    Ok(())
}

/// Entries continue the entry before them, without gaps, in terms that only rise.
fn check_append(message: &RaftMessage) -> Result<(), Rejected> {
    if (message.index == 0) != (message.log_term == 0) || message.log_term > message.term {
        return Err(Rejected::OutOfRange { field: "log_term", value: message.log_term });
    }
    let ends = (message.durable_index, message.term);
    if message.entries.is_empty() && ends.0 > 0 && (message.index, message.log_term) != ends {
        // Who does not know the field takes the message for an append after that entry.
        return Err(Rejected::OutOfRange { field: "durable_index", value: ends.0 });
    }
    let mut bytes = 0_u64;
    let mut index = message.index;
    let mut term = message.log_term.max(1);
    for entry in &message.entries {
        if entry.index != index + 1 {
            return Err(Rejected::Gap { previous: index, found: entry.index });
        }
        if !(term..=message.term).contains(&entry.term) {
            return Err(Rejected::EntryTerm {
                index: entry.index,
                term: entry.term,
                least: term,
                most: message.term,
            });
        }
        if entry::Type::try_from(entry.r#type).is_err() {
            return Err(Rejected::EntryType { index: entry.index, kind: entry.r#type });
        }
        let limits = [
            ("entry context", entry.context.len() as u64, ENTRY_CONTEXT_BYTES_MAX as u64),
            ("entry", entry.data.len() as u64, COMMAND_BYTES_MAX + 16),
        ];
        for (field, bytes, max) in limits {
            if bytes > max {
                return Err(Rejected::TooLarge { field, bytes, max });
            }
        }
        bytes += (entry.data.len() + entry.context.len()) as u64;
        if bytes > RECEIVED_BYTES_MAX {
            let field = "append message";
            return Err(Rejected::TooLarge { field, bytes, max: RECEIVED_BYTES_MAX });
        }
        index = entry.index;
        term = entry.term;
    }
    if index > INDEX_MAX {
        return Err(Rejected::OutOfRange { field: "entry index", value: index });
    }
    Ok(())
}

/// The manifest belongs to a snapshot that the sender's term can know of.
pub(crate) fn check_snapshot(meta: &SnapshotMeta, term_max: u64) -> Result<(), Rejected> {
    if meta.index == 0 || meta.index > INDEX_MAX {
        return Err(Rejected::Snapshot("index is out of range"));
    }
    if meta.term == 0 || meta.term > term_max {
        return Err(Rejected::Snapshot("term is not within 1 to the term of the message"));
    }
    if meta.chunks.len() > SNAPSHOT_CHUNKS_MAX {
        return Err(Rejected::Snapshot("too many chunks"));
    }
    if meta.chunks.iter().any(|chunk| chunk.hash.len() != CHUNK_HASH_BYTES) {
        return Err(Rejected::Snapshot("a chunk's hash is not 32 bytes long"));
    }
    let Some(conf) = &meta.conf_state else {
        return Err(Rejected::Snapshot("no configuration"));
    };
    if conf.voters.is_empty() {
        return Err(Rejected::Snapshot("configuration without voters"));
    }
    check_conf_state(conf).map_err(Rejected::Snapshot)
}

/// Nobody twice, nobody 0, nothing joint, and not too many.
pub(crate) fn check_conf_state(conf: &ConfState) -> Result<(), &'static str> {
    let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = conf;
    if !voters_outgoing.is_empty() || !learners_next.is_empty() || *auto_leave {
        return Err("joint configuration");
    }
    let mut ids: Vec<u64> = voters.iter().chain(learners).copied().collect();
    if ids.len() > MEMBERS_MAX {
        return Err("configuration with too many members");
    }
    ids.sort_unstable();
    if ids.first() == Some(&0) {
        return Err("configuration with member 0");
    }
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("configuration with a member twice");
    }
    if voters.is_empty() && !learners.is_empty() {
        return Err("configuration without voters");
    }
    Ok(())
}

/// Claims about our own log and role can be true. Only messages raft would act on are held to this:
/// those of an earlier term are outdated, not wrong.
fn check_claims(message: &RaftMessage, kind: Type, ourselves: &Ourselves) -> Result<(), Rejected> {
    let current = message.term == ourselves.term;
    let outdated = message.term < ourselves.term;
    match kind {
        Type::MsgHeartbeat if !outdated && message.commit > ourselves.last_index => {
            Err(Rejected::CommitBeyondLog { commit: message.commit, last: ourselves.last_index })
        }
        Type::MsgAppendResponse if current && ourselves.role == Role::Leader => {
            let matched = if message.reject { message.request_snapshot } else { message.index };
            if matched > ourselves.last_index {
                return Err(Rejected::MatchBeyondLog { matched, last: ourselves.last_index });
            }
            Ok(())
        }
        Type::MsgRequestVoteResponse | Type::MsgRequestPreVoteResponse => {
            // Requests for votes leave only after everything before them is durable.
            let candidate = matches!(ourselves.role, Role::Candidate | Role::PreCandidate);
            if candidate && !message.reject && ourselves.persisted < ourselves.last_index {
                return Err(Rejected::VoteUnasked { from: message.from });
            }
            Ok(())
        }
        Type::MsgTimeoutNow => {
            if outdated || (current && message.from == ourselves.leader) {
                return Ok(());
            }
            Err(Rejected::NotFromLeader { from: message.from })
        }
        _ => Ok(()),
    }
}
