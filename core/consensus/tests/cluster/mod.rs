//! A cluster of replicas in memory: virtual time, a network that can be cut, disks that forget what
//! was not synced, and a state that is the list of commands applied.
//!
//! It watches while it runs. No two leaders share a term; nothing is promised before it is durable;
//! everyone applies the same entry at an index, once a majority has it on disk; a read is never
//! answered with an index below what was committed when it was asked for.

#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries")]
#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use bytes::Bytes;
use consensus::{Boot, Config, Output, Persist, Replica};
use prost::Message as _;
use proto::log::{
    self, Chunk, ConfState, Entry, HardState, MembershipChange, SnapshotMeta, entry,
    membership_change::Kind,
};
use proto::peer::{RaftMessage, raft_message::Type};

/// Outputs one member may produce at one moment.
const OUTPUTS_MAX: usize = 1_000;

/// What a disk holds.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: Option<HardState>,
    pub snapshot: Option<SnapshotMeta>,
    pub entries: Vec<Entry>,
}

impl Disk {
    fn write(&mut self, persist: &Persist) {
        if let Some(meta) = &persist.snapshot {
            self.snapshot = Some(meta.clone());
            self.entries.clear();
        }
        if let Some(first) = persist.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(persist.entries.iter().cloned());
        }
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = Some(hard_state);
        }
    }

    fn base(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |meta| meta.index)
    }

    fn holds(&self, index: u64, term: u64) -> bool {
        index <= self.base()
            || self.entries.iter().any(|entry| entry.index == index && entry.term == term)
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.base(), |entry| entry.index)
    }
}

/// What a member has applied.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub applied: u64,
    pub conf: ConfState,
    pub commands: Vec<String>,
}

/// One member: its replica while it runs, and what survives it.
pub struct Member {
    pub replica: Option<Replica>,
    pub disk: Disk,
    /// Survives a crash: the backend applies durably.
    pub state: State,
    /// Writes not yet durable, with the moment at which they will be.
    writes: VecDeque<(u64, Persist)>,
    pub disk_us: u64,
    pub disk_held: bool,
    /// It stands still until then: what arrives waits for it.
    pub still_until_us: u64,
    boots: u64,
    /// What was committed anywhere when a read was asked for.
    reads: BTreeMap<u64, u64>,
}

/// The cluster.
pub struct Cluster {
    pub now_us: u64,
    pub members: BTreeMap<u64, Member>,
    pub config: Config,
    network: BTreeMap<(u64, u64), RaftMessage>,
    sent: u64,
    pub latency_us: u64,
    cut: BTreeSet<(u64, u64)>,
    pub dropped_types: BTreeSet<i32>,
    /// Members of a version that does not know what durable indexes are.
    pub old: BTreeSet<u64>,
    /// Print every message.
    pub trace: bool,
    pub out: String,
    leaders: BTreeMap<u64, u64>,
    committed: BTreeMap<u64, (u64, Bytes)>,
    snapshots: BTreeMap<u64, State>,
    pub auto_snapshot: bool,
    pub quiet: bool,
    /// Checks that need a fixed membership.
    pub fixed_membership: bool,
    pub messages_by_type: BTreeMap<&'static str, u64>,
    /// Of entries, in all appends.
    pub bytes_sent: u64,
    /// How often the rarer things happened.
    pub reached: BTreeMap<&'static str, u64>,
    /// A fate for each message: the latencies of its copies. Empty: lost.
    pub fate: Option<Box<dyn FnMut() -> Vec<u64>>>,
}

impl Cluster {
    pub fn new(config: Config) -> Cluster {
        Cluster {
            now_us: 0,
            members: BTreeMap::new(),
            config,
            network: BTreeMap::new(),
            sent: 0,
            latency_us: 1_000,
            cut: BTreeSet::new(),
            dropped_types: BTreeSet::new(),
            old: BTreeSet::new(),
            trace: false,
            out: String::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            auto_snapshot: true,
            quiet: false,
            fixed_membership: true,
            messages_by_type: BTreeMap::new(),
            bytes_sent: 0,
            reached: BTreeMap::new(),
            fate: None,
        }
    }

    /// Founds the cluster.
    pub fn found(&mut self, voters: &[u64]) {
        let conf = ConfState { voters: voters.to_vec(), ..Default::default() };
        for id in voters {
            self.add(*id, conf.clone());
        }
    }

    /// A member that knows nothing yet.
    pub fn join(&mut self, id: u64) {
        self.add(id, ConfState::default());
    }

    fn add(&mut self, id: u64, conf: ConfState) {
        let member = Member {
            replica: None,
            disk: Disk::default(),
            state: State { conf, ..Default::default() },
            writes: VecDeque::new(),
            disk_us: 0,
            disk_held: false,
            still_until_us: 0,
            boots: 0,
            reads: BTreeMap::new(),
        };
        self.members.insert(id, member);
        self.start(id);
    }

    pub fn start(&mut self, id: u64) {
        let now_us = self.now_us;
        let mut config = self.config.clone();
        config.id = id;
        let member = self.members.get_mut(&id).unwrap();
        assert!(member.replica.is_none(), "{id} runs already");
        member.boots += 1;
        config.seed = config.seed.wrapping_mul(1_000).wrapping_add(member.boots);
        let Disk { hard_state, snapshot, entries } = member.disk.clone();
        let base = snapshot.as_ref().map_or(0, |meta| meta.index);
        if member.state.applied < base {
            // The log restarted at the snapshot, and the state did not get that far.
            member.state = self.snapshots[&base].clone();
        }
        let boot = Boot {
            hard_state,
            snapshot,
            entries,
            applied: member.state.applied,
            conf_state: member.state.conf.clone(),
        };
        let mut replica = Replica::new(config, boot, now_us).unwrap_or_else(|e| panic!("{e}"));
        if member.state.conf.voters == [id] {
            replica.campaign();
        }
        member.replica = Some(replica);
        self.pump(id);
    }

    /// Kills the process; of what was not durable, the first few writes may have reached the disk.
    pub fn stop_after(&mut self, id: u64, writes: usize) {
        let member = self.members.get_mut(&id).unwrap();
        for (_, persist) in member.writes.drain(..).take(writes) {
            member.disk.write(&persist);
        }
        self.stop(id);
    }

    /// Kills the process; what is not durable is gone.
    pub fn stop(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        member.replica = None;
        member.writes.clear();
        member.reads.clear();
    }

    pub fn replica(&mut self, id: u64) -> &mut Replica {
        self.members.get_mut(&id).unwrap().replica.as_mut().expect("the member runs")
    }

    pub fn runs(&self, id: u64) -> bool {
        self.members[&id].replica.is_some()
    }

    pub fn leader(&self) -> Option<u64> {
        let leads = |member: &Member| {
            member
                .replica
                .as_ref()
                .map(Replica::status)
                .filter(|s| s.role == consensus::Role::Leader)
        };
        let leaders = self.members.iter().filter_map(|(id, m)| leads(m).map(|s| (s.term, *id)));
        leaders.max().map(|(_, id)| id)
    }

    pub fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    pub fn say(&mut self, line: &str) {
        if !self.quiet {
            let (s, us) = (self.now_us / 1_000_000, self.now_us % 1_000_000);
            let _ = writeln!(self.out, "{s}.{:03} {line}", us / 1_000);
        }
    }

    pub fn cut(&mut self, a: u64, b: u64) {
        self.cut.insert((a, b));
        self.cut.insert((b, a));
    }

    pub fn cut_one_way(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self.members.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.cut(id, other);
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.dropped_types.clear();
    }

    pub fn read(&mut self, id: u64, ticket: u64) {
        let committed = self.committed.keys().next_back().copied().unwrap_or(0);
        self.members.get_mut(&id).unwrap().reads.insert(ticket, committed);
        self.replica(id).read(ticket);
    }

    pub fn propose(&mut self, id: u64, command: &str) -> Result<(), consensus::ProposeError> {
        self.replica(id).propose(Bytes::from(command.to_owned()))
    }

    /// A command that a follower has sent on arrives at the leader.
    pub fn forward(
        &mut self,
        follower: u64,
        leader: u64,
        command: &str,
    ) -> Result<(), consensus::ProposeError> {
        self.replica(leader).propose_for(follower, Bytes::from(command.to_owned()))
    }

    pub fn change(id: u64, kind: Kind) -> MembershipChange {
        MembershipChange {
            id: None,
            kind: kind.into(),
            member: Some(log::Member { id, ..Default::default() }),
        }
    }

    /// Confirms everything a held disk has waited with.
    pub fn sync(&mut self, id: u64) {
        if !self.runs(id) {
            return;
        }
        let member = self.members.get_mut(&id).unwrap();
        for (due_us, _) in &mut member.writes {
            *due_us = self.now_us;
        }
        self.write(id);
        self.pump(id);
    }

    pub fn snapshot(&mut self, id: u64) {
        let member = &self.members[&id];
        let State { applied, conf, commands } = member.state.clone();
        if applied == 0 {
            return;
        }
        let term = self.committed[&applied].0;
        let state = State { applied, conf: conf.clone(), commands };
        self.snapshots.insert(applied, state);
        let chunk = Chunk { hash: Bytes::from(vec![7; 32]), bytes: 1 };
        let meta = SnapshotMeta {
            index: applied,
            term,
            conf_state: Some(conf),
            chunks: vec![chunk],
            ..Default::default()
        };
        self.say(&format!("{id} has a snapshot at {applied}"));
        self.replica(id).snapshot_available(meta);
    }

    /// Lets time pass, event by event.
    pub fn run(&mut self, for_us: u64) {
        let until_us = self.now_us + for_us;
        while let Some(next_us) = self.next_event_us().filter(|next| *next <= until_us) {
            self.now_us = self.now_us.max(next_us);
            self.step();
        }
        self.now_us = until_us;
    }

    pub fn run_until(&mut self, for_us: u64, mut done: impl FnMut(&Cluster) -> bool) -> bool {
        let until_us = self.now_us + for_us;
        while !done(self) {
            let Some(next_us) = self.next_event_us().filter(|next| *next <= until_us) else {
                self.now_us = until_us;
                return done(self);
            };
            self.now_us = self.now_us.max(next_us);
            self.step();
        }
        true
    }

    fn next_event_us(&self) -> Option<u64> {
        let message = self.network.keys().next().map(|(due, _)| *due);
        let writes = self.members.values().filter_map(|m| m.writes.front()).map(|(due, _)| *due);
        let ticks = self.members.values().filter_map(|m| {
            Some(m.replica.as_ref()?.next_deadline_us(self.now_us).max(m.still_until_us))
        });
        message.into_iter().chain(writes).chain(ticks).filter(|due| *due < u64::MAX).min()
    }

    fn step(&mut self) {
        while let Some(entry) = self.network.first_entry() {
            if entry.key().0 > self.now_us {
                break;
            }
            let ((_, sent), message) = entry.remove_entry();
            let still_until_us = self.members.get(&message.to).map_or(0, |to| to.still_until_us);
            if still_until_us > self.now_us {
                self.network.insert((still_until_us, sent), message);
            } else {
                self.deliver(message);
            }
        }
        let ids: Vec<u64> = self.members.keys().copied().collect();
        for id in ids {
            if !self.runs(id) || self.members[&id].still_until_us > self.now_us {
                continue;
            }
            self.write(id);
            let now_us = self.now_us;
            self.replica(id).tick(now_us);
            self.pump(id);
        }
    }

    fn deliver(&mut self, mut message: RaftMessage) {
        let (from, to) = (message.from, message.to);
        if self.old.contains(&to) {
            message.durable_index = 0;
        }
        let kind = message.r#type();
        let lost = self.cut.contains(&(from, to))
            || self.dropped_types.contains(&message.r#type)
            || !self.members.contains_key(&to)
            || !self.runs(to);
        if kind == Type::MsgSnapshot && self.runs(from) {
            self.replica(from).report_snapshot(to, !lost);
        }
        if lost {
            return;
        }
        if self.trace {
            let line = describe(&message);
            self.say(&line);
        }
        let now_us = self.now_us;
        if message.durable_index > 0 {
            self.reach("durable index heard");
        }
        if let Err(error) = self.replica(to).receive(now_us, message) {
            self.reach("message rejected");
            self.say(&format!("{to} rejects a message of {from}: {error}"));
        }
    }

    /// Puts a message on the wire as if a member had sent it.
    pub fn inject(&mut self, message: RaftMessage) {
        let due_us = self.now_us + self.latency_us;
        self.sent += 1;
        self.network.insert((due_us, self.sent), message);
    }

    fn send(&mut self, message: &RaftMessage) {
        self.check_promise(message);
        *self.messages_by_type.entry(message.r#type().as_str_name()).or_default() += 1;
        self.bytes_sent += message.entries.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
        let copies = match &mut self.fate {
            Some(fate) => fate(),
            None => vec![self.latency_us],
        };
        if copies.is_empty() && message.r#type() == Type::MsgSnapshot && self.runs(message.from) {
            let to = message.to;
            self.replica(message.from).report_snapshot(to, false);
        }
        for latency_us in copies {
            self.sent += 1;
            self.network.insert((self.now_us + latency_us, self.sent), message.clone());
        }
    }

    /// A promise is durable before it is made.
    fn check_promise(&self, message: &RaftMessage) {
        let from = &self.members[&message.from];
        let hard_state = from.disk.hard_state.unwrap_or_default();
        if hard_state.term > message.term {
            // Whoever hears of the later term forgets this promise.
            return;
        }
        match message.r#type() {
            Type::MsgAppendResponse if !message.reject => {
                let durable = from.disk.last().max(from.state.applied);
                assert!(message.index <= durable, "{message:?} promises more than {durable}");
            }
            Type::MsgRequestVoteResponse if !message.reject => {
                assert_eq!((hard_state.term, hard_state.vote), (message.term, message.to));
            }
            Type::MsgRequestVote | Type::MsgAppend | Type::MsgHeartbeat | Type::MsgSnapshot => {
                assert_eq!(hard_state.term, message.term, "{message:?} before its term is durable");
                assert_eq!(hard_state.vote, message.from, "{message:?} before its vote is durable");
            }
            _ => {}
        }
    }

    /// Writes what is due.
    fn write(&mut self, id: u64) {
        let now_us = self.now_us;
        let member = self.members.get_mut(&id).unwrap();
        let mut done = None;
        while let Some((_, persist)) = member.writes.pop_front_if(|(due, _)| *due <= now_us) {
            member.disk.write(&persist);
            if let Some(meta) = &persist.snapshot {
                member.state = self.snapshots[&meta.index].clone();
            }
            done = Some((persist.number, persist.snapshot.map(|meta| meta.index)));
            if let Some((number, snapshot)) = done {
                let replica = member.replica.as_mut().unwrap();
                replica.persisted(number);
                if let Some(index) = snapshot {
                    replica.applied(index);
                }
            }
        }
        if let Some((_, Some(index))) = done {
            self.reach("snapshot restored");
            self.say(&format!("{id} restored the snapshot at {index}"));
        }
    }

    /// Carries out everything a member wants done now.
    pub fn pump(&mut self, id: u64) {
        for _ in 0..OUTPUTS_MAX {
            let now_us = self.now_us;
            if !self.replica(id).has_output() {
                return;
            }
            let output = self.replica(id).take_output(now_us);
            self.carry_out(id, output);
        }
        panic!("member {id} never comes to rest");
    }

    fn carry_out(&mut self, id: u64, output: Output) {
        let Output {
            persist,
            messages,
            committed,
            reads,
            reads_failed,
            leadership,
            snapshot_wanted,
            dropped,
        } = output;
        if let Some(leadership) = leadership {
            if leadership.is_leader {
                self.reach("leader elected");
                let other = self.leaders.insert(leadership.term, id);
                assert!(other.is_none_or(|other| other == id), "two leaders in a term");
                self.say(&format!("{id} leads term {}", leadership.term));
            } else if let Some(leader) = leadership.leader {
                self.say(&format!("{id} follows {leader} in term {}", leadership.term));
            } else {
                self.say(&format!("{id} has no leader in term {}", leadership.term));
            }
        }
        for message in messages {
            self.send(&message);
        }
        for entry in committed {
            self.apply(id, &entry);
        }
        if let Some(persist) = persist {
            let member = self.members.get_mut(&id).unwrap();
            let due_us = if member.disk_held { u64::MAX } else { self.now_us + member.disk_us };
            member.writes.push_back((due_us, persist));
            self.write(id);
        }
        for read in reads {
            self.reach("read answered");
            let asked = self.members.get_mut(&id).unwrap().reads.remove(&read.ticket).unwrap();
            assert!(
                read.index >= asked,
                "stale read {} of {id}: {} of {asked}",
                read.ticket,
                read.index
            );
            self.say(&format!("{id} may read #{} at {}", read.ticket, read.index));
        }
        for ticket in reads_failed {
            self.reach("read failed");
            self.members.get_mut(&id).unwrap().reads.remove(&ticket);
            self.say(&format!("{id} cannot read #{ticket}"));
        }
        if !dropped.is_empty() {
            self.reach("command given back");
            let commands: Vec<_> =
                dropped.iter().map(|c| String::from_utf8_lossy(c).into_owned()).collect();
            self.say(&format!("{id} gives back {}", commands.join(" ")));
        }
        if snapshot_wanted {
            self.say(&format!("{id} wants a snapshot"));
            if self.auto_snapshot {
                self.snapshot(id);
            }
        }
    }

    fn apply(&mut self, id: u64, entry: &Entry) {
        self.check_committed(id, entry);
        let mut commands = Vec::new();
        let mut changed = None;
        if entry.r#type() == entry::Type::Normal {
            let batch = log::Batch::decode(entry.data.clone()).unwrap();
            commands.extend(batch.commands.iter().map(|c| String::from_utf8_lossy(c).into_owned()));
        } else {
            let accept = !self.refused(entry);
            changed = Some(self.replica(id).apply_membership(entry, accept));
        }
        let member = self.members.get_mut(&id).unwrap();
        assert_eq!(member.state.applied + 1, entry.index, "{id} applies in order");
        member.state.applied = entry.index;
        member.state.commands.extend(commands.iter().cloned());
        if let Some(Ok(conf)) = &changed {
            member.state.conf = conf.clone();
        }
        self.replica(id).applied(entry.index);
        if matches!(changed, Some(Ok(_))) {
            self.reach("membership changed");
        }
        match changed {
            None if commands.is_empty() => {}
            None => self.say(&format!("{id} applies {}: {}", entry.index, commands.join(" "))),
            Some(Ok(conf)) => self.say(&format!(
                "{id} applies {}: voters {:?} learners {:?}",
                entry.index, conf.voters, conf.learners
            )),
            Some(Err(error)) => self.say(&format!("{id} applies {}: {error}", entry.index)),
        }
    }

    /// The state refuses changes of member 13.
    fn refused(&self, entry: &Entry) -> bool {
        MembershipChange::decode(entry.context.clone())
            .is_ok_and(|change| change.member.is_some_and(|member| member.id == 13))
    }

    fn check_committed(&mut self, id: u64, entry: &Entry) {
        let member = &self.members[&id];
        assert!(member.disk.holds(entry.index, entry.term), "{id} applies what it could forget");
        let content = (entry.term, entry.data.clone());
        match self.committed.get(&entry.index) {
            Some(before) => assert_eq!(*before, content, "entry {} changed", entry.index),
            None => {
                if self.fixed_membership {
                    let durable = |m: &&Member| m.disk.holds(entry.index, entry.term);
                    let copies = self.members.values().filter(durable).count();
                    assert!(
                        copies > self.members.len() / 2,
                        "entry {} is committed with {copies} copies",
                        entry.index
                    );
                }
                self.reach("entry committed");
                if self.members[&id]
                    .replica
                    .as_ref()
                    .is_some_and(|it| it.status().committed_early > 0)
                    && self.leader_commit() < entry.index
                {
                    self.reach("committed ahead of the leader");
                }
                self.committed.insert(entry.index, content);
            }
        }
    }

    fn leader_commit(&self) -> u64 {
        let leader = self.leader().and_then(|id| self.members[&id].replica.as_ref());
        leader.map_or(0, Replica::commit_index)
    }

    pub fn committed_commands(&self) -> Vec<String> {
        let batches = self.committed.values().filter_map(|(_, data)| {
            log::Batch::decode(data.clone()).ok().map(|batch| batch.commands)
        });
        batches.flatten().map(|c| String::from_utf8_lossy(&c).into_owned()).collect()
    }

    pub fn reads_waiting(&self) -> usize {
        self.members.values().map(|member| member.reads.len()).sum()
    }
}

/// One line for a message.
pub fn describe(m: &RaftMessage) -> String {
    let kind = m.r#type().as_str_name().trim_start_matches("MSG_").to_lowercase();
    let mut line = format!("{} -> {} {kind} term {}", m.from, m.to, m.term);
    match m.r#type() {
        Type::MsgAppend => {
            let _ = write!(line, " after {}.{}", m.log_term, m.index);
            if let (Some(first), Some(last)) = (m.entries.first(), m.entries.last()) {
                let _ = write!(line, " entries {}..{}", first.index, last.index);
            }
            let _ = write!(line, " commit {}", m.commit);
            if m.durable_index > 0 {
                let _ = write!(line, " durable {}", m.durable_index);
            }
        }
        Type::MsgAppendResponse if m.reject => {
            let _ = write!(line, " rejects {} hint {}.{}", m.index, m.log_term, m.reject_hint);
            if m.request_snapshot != 0 {
                let _ = write!(line, " wants a snapshot");
            }
        }
        Type::MsgAppendResponse => {
            let _ = write!(line, " has {}", m.index);
        }
        Type::MsgRequestVote | Type::MsgRequestPreVote => {
            let _ = write!(line, " last {}.{}", m.log_term, m.index);
        }
        Type::MsgRequestVoteResponse | Type::MsgRequestPreVoteResponse => {
            line.push_str(if m.reject { " no" } else { " yes" });
        }
        Type::MsgHeartbeat => {
            let _ = write!(line, " commit {}", m.commit);
            if !m.context.is_empty() {
                line.push_str(" with a read");
            }
        }
        Type::MsgHeartbeatResponse if !m.context.is_empty() => line.push_str(" with a read"),
        Type::MsgSnapshot => {
            let _ = write!(line, " at {}", m.snapshot.as_ref().map_or(0, |meta| meta.index));
        }
        Type::MsgReadIndexResp => {
            let _ = write!(line, " at {}", m.index);
        }
        _ => {}
    }
    line
}
