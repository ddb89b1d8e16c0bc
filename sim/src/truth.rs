//! What must hold at every step, whatever the world does.
//!
//! The simulator sees all members at once, so it can hold each against what the others said:
//!
//! * **election safety**: a term has one leader;
//! * **log matching**: an entry handed to apply is the same on every member, for ever;
//! * **applied once**: no request stands in the log twice;
//! * **equal states**: at an equal index the members' states are equal;
//! * **one history**: a revision is the same on every member, and no member's goes back;
//! * **nothing before its time**: applied is committed, and no lease ends before its holder's time;
//! * **watches**: each watcher got what the nine guarantees promise.

use std::collections::{BTreeMap, BTreeSet};

use member::state::watch::checker::{Watched, check, events_of};
use member::state::{Applied, Record};
use prost::Message as _;
use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use proto::log::command::Op;
use proto::log::{Batch, Command, Entry, entry};

const SECOND_US: u64 = 1_000_000;

/// A lease, as its holder may count on it.
#[derive(Clone, Copy, Debug)]
struct Promise {
    ttl_us: u64,
    /// It was alive, with its whole time before it, not earlier than this.
    renewed_us: u64,
}

/// Everything one watcher asked for and got.
#[derive(Clone, Debug)]
pub(crate) struct Watching {
    pub(crate) request: WatchCreateRequest,
    pub(crate) responses: Vec<WatchResponse>,
    pub(crate) compact_revision: i64,
    pub(crate) complete_through: Option<i64>,
}

/// What is known to be true, and the first fact found broken.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    leaders: BTreeMap<u64, u64>,
    /// Committed entries by index.
    entries: BTreeMap<u64, Entry>,
    requests: BTreeSet<(u64, u64)>,
    states: BTreeMap<u64, Applied>,
    records: BTreeMap<(i64, u32), Record>,
    leases: BTreeMap<i64, Promise>,
    watchings: Vec<Watching>,
    violation: Option<String>,
}

impl Truth {
    /// A fact is broken; the first one counts.
    pub(crate) fn broken(&mut self, fact: String) {
        self.violation.get_or_insert(fact);
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// A member says it leads.
    pub(crate) fn leads(&mut self, term: u64, member: u64) {
        let leader = *self.leaders.entry(term).or_insert(member);
        if leader != member {
            self.broken(format!(
                "election safety: members {leader} and {member} both lead in term {term}"
            ));
        }
    }

    /// Whether another member led in a term after this one.
    pub(crate) fn led_after(&self, term: u64, member: u64) -> bool {
        self.leaders.range(term + 1..).any(|(_, leader)| *leader != member)
    }

    /// A member hands entries to apply.
    pub(crate) fn committed(&mut self, member: u64, entries: &[Entry]) {
        for entry in entries {
            match self.entries.get(&entry.index) {
                Some(known) if known == entry => {}
                Some(known) => {
                    let (index, known, found) = (entry.index, known.term, entry.term);
                    return self.broken(format!(
                        "log matching: member {member} applies an entry of term {found} at index \
                         {index}, where one of term {known} was committed"
                    ));
                }
                None => {
                    self.note_requests(entry);
                    self.entries.insert(entry.index, entry.clone());
                }
            }
        }
    }

    fn note_requests(&mut self, entry: &Entry) {
        if entry.r#type() != entry::Type::Normal {
            return;
        }
        let batch = Batch::decode(entry.data.clone()).unwrap_or_default();
        for command in batch.commands {
            let Ok(Command { id: Some(id), .. }) = Command::decode(command) else { continue };
            if !self.requests.insert((id.member, id.sequence)) {
                self.broken(format!(
                    "applied once: request {} of boot {:x} stands at index {} for the second time",
                    id.sequence, id.member, entry.index
                ));
            }
        }
    }

    /// Leases that begin and end with these entries, which a member applied now as the first.
    pub(crate) fn applied_first(&mut self, now_us: u64, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.r#type() == entry::Type::Normal) {
            if self.states.last_key_value().is_some_and(|(index, _)| *index >= entry.index) {
                continue;
            }
            let batch = Batch::decode(entry.data.clone()).unwrap_or_default();
            for command in batch.commands {
                match Command::decode(command).unwrap_or_default().op {
                    Some(Op::LeaseGrant(grant)) => {
                        let ttl_us = grant.ttl.max(1).unsigned_abs() * SECOND_US;
                        self.leases.insert(grant.id, Promise { ttl_us, renewed_us: now_us });
                    }
                    Some(Op::LeaseRevoke(revoke)) if revoke.expired => {
                        let Some(lease) = self.leases.remove(&revoke.id) else { continue };
                        let early_us = (lease.renewed_us + lease.ttl_us).saturating_sub(now_us);
                        if early_us > 0 {
                            self.broken(format!(
                                "leases: lease {} ended {early_us} µs before its time",
                                revoke.id
                            ));
                        }
                    }
                    Some(Op::LeaseRevoke(revoke)) => drop(self.leases.remove(&revoke.id)),
                    _ => {}
                }
            }
        }
    }

    /// A holder was told that a lease is renewed; it had asked at `asked_us`.
    pub(crate) fn renewed(&mut self, lease: i64, asked_us: u64) {
        if let Some(promise) = self.leases.get_mut(&lease) {
            promise.renewed_us = promise.renewed_us.max(asked_us);
        }
    }

    /// A member's readers see this state.
    pub(crate) fn published(&mut self, member: u64, applied: Applied, records: &[Record]) {
        let known = *self.states.entry(applied.index).or_insert(applied);
        if known != applied {
            self.broken(format!(
                "equal states: member {member} has {applied:?}, another had {known:?}"
            ));
        }
        for record in records {
            let revision = record.revision();
            let known =
                self.records.entry((revision.main, revision.sub)).or_insert_with(|| record.clone());
            if known.to_vec() != record.to_vec() {
                let known = known.clone();
                self.broken(format!(
                    "one history: member {member} has {record:?}, another had {known:?}"
                ));
            }
        }
    }

    /// A watcher has come to its end.
    pub(crate) fn watched(&mut self, watching: Watching) {
        self.watchings.push(watching);
    }

    /// Holds every watcher against the whole history.
    pub(crate) fn judge_watchers(&mut self) {
        let history = events_of(&self.history());
        for watching in std::mem::take(&mut self.watchings) {
            let judged = check(&Watched {
                history: &history,
                request: &watching.request,
                responses: &watching.responses,
                compact_revision: watching.compact_revision,
                complete_through: watching.complete_through,
            });
            if let Err(violation) = judged {
                self.broken(format!("watch {:?}: {violation}", watching.request));
            }
        }
    }

    /// All records ever made, in order.
    pub(crate) fn history(&self) -> Vec<Record> {
        self.records.values().cloned().collect()
    }

    /// The committed entry at an index.
    pub(crate) fn last_committed(&self) -> u64 {
        self.entries.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// Whether a request stands in the log.
    pub(crate) fn has_request(&self, origin: u64, sequence: u64) -> bool {
        self.requests.contains(&(origin, sequence))
    }
}
