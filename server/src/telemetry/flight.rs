//! The way of one command that is traced: queue, log, peers, commit, apply, answer.
//!
//! The threads that carry commands know nothing of traces. Beside them stands this table, with a row
//! for each command on its way whose trace is taken, by the command's request id, which is in the
//! bytes of every entry. While the table is empty, each station of the way costs the look at one
//! counter. While it is not, the ids in what passes are looked up, and the times of a row become
//! spans as soon as they have both ends. Nobody waits here for anything but the table itself.
//!
//! ```text
//! api span ── propose ─┬─ queue            came in → in the log in memory, or sent to the leader
//!  (asked member)      ├─ lead             a forwarded command on the leader: came in → applied
//!                      ├─ log_sync         this member's write and sync
//!                      ├─ replicate ─┬─ append ── log_sync      on each follower: came in → synced
//!                      │             └─ apply                   on each follower
//!                      ├─ apply
//!                      └─ reply            applied → the caller's task has the outcome
//! ```
//!
//! `log_sync`, `replicate` and `apply` of the leader stand under `lead` where there is one. Peers are told of
//! rows in a frame of its own in front of what carries the commands (`peer.proto`, `Traces`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use member::{ApplyTask, DiskTask};
use otlp::opentelemetry::trace::SpanKind;
use otlp::{Context, Span, Tracer};
use prost::Message as _;
use proto::log::{Entry, RequestId};
use proto::peer::TraceContext;

/// Commands followed at a time; further ones are followed through the api alone.
const ROWS_MAX: usize = 4_096;
/// Who has not got anywhere in this time has got lost: overwritten, dropped on the way, answered by
/// its deadline.
const ROW_AGE_MAX: Duration = Duration::from_secs(60);
/// A request id's field in a command, and a command's in a batch.
const FIRST_FIELD: u8 = 0x0a;

type Id = (u64, u64);

/// What this member has to do with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Its caller waits here.
    Asked,
    /// It was forwarded here, from under this span.
    Leads(Context),
    /// It came in an append.
    Follows,
}

/// An append that brought the command, and the leader's span.
#[derive(Clone, Copy, Debug)]
struct Appended {
    context: Context,
    replicate: Context,
    at: SystemTime,
}

#[derive(Debug)]
struct Row {
    role: Role,
    /// What this member's spans stand under.
    base: Context,
    arrived: SystemTime,
    /// It has left the queue.
    is_dequeued: bool,
    /// On the leader: the span of the replication, and when it began.
    replicate: Option<(Context, SystemTime)>,
    appended: Option<Appended>,
    is_synced: bool,
    applied: Option<SystemTime>,
    since: Instant,
}

impl Row {
    fn new(role: Role, base: Context, arrived: SystemTime) -> Self {
        Row {
            role,
            base,
            arrived,
            is_dequeued: false,
            replicate: None,
            appended: None,
            is_synced: false,
            applied: None,
            since: Instant::now(),
        }
    }
}

/// The commands on their way whose traces are taken.
#[derive(Debug)]
pub(crate) struct Flights {
    tracer: Option<Tracer>,
    count: AtomicUsize,
    rows: Mutex<HashMap<Id, Row>>,
}

impl Flights {
    pub(crate) fn new(tracer: Option<&Tracer>) -> Self {
        Flights { tracer: tracer.cloned(), count: AtomicUsize::new(0), rows: Mutex::default() }
    }

    /// Whether anything is on its way: to be asked before anything else.
    pub(crate) fn are_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<Id, Row>) -> T) -> T {
        let mut rows = self.lock();
        let result = change(&mut rows);
        self.count.store(rows.len(), Ordering::Relaxed);
        result
    }

    /// A caller of this member proposes. `None`: nobody traces it, or too many are on their way.
    pub(crate) fn begin(&self, origin: u64, sequence: u64) -> Option<Flight<'_>> {
        self.tracer.as_ref()?;
        self.begin_under(super::call::current()?, (origin, sequence))
    }

    fn begin_under(&self, call: Context, id: Id) -> Option<Flight<'_>> {
        let tracer = self.tracer.as_ref()?;
        let (context, start) = (call.child(), SystemTime::now());
        self.change(|rows| {
            let has_room = rows.len() < ROWS_MAX;
            if has_room {
                rows.insert(id, Row::new(Role::Asked, context, start));
            }
            has_room
        })
        .then(|| Flight { flights: self, tracer, id, call, context, start })
    }

    /// A peer told of commands in what it sends next.
    #[cold]
    pub(crate) fn told(&self, contexts: &[TraceContext], is_forward: bool) {
        if self.tracer.is_none() {
            return;
        }
        let now = SystemTime::now();
        self.change(|rows| {
            for told in contexts {
                let trace_id = u128::from(told.trace_id_high) << 64 | u128::from(told.trace_id_low);
                let Some(remote) = Context::remote(trace_id, told.span_id) else { continue };
                let id = (told.origin, told.sequence);
                if rows.len() >= ROWS_MAX && !rows.contains_key(&id) {
                    continue;
                }
                if is_forward {
                    rows.entry(id)
                        .or_insert_with(|| Row::new(Role::Leads(remote), remote.child(), now));
                } else {
                    let row =
                        rows.entry(id).or_insert_with(|| Row::new(Role::Follows, remote, now));
                    row.appended.get_or_insert_with(|| Appended {
                        context: remote.child(),
                        replicate: remote,
                        at: now,
                    });
                }
            }
        });
    }

    /// One step of the member: what it gives to the log and to apply.
    #[cold]
    pub(crate) fn stepped(&self, disk: &[DiskTask], apply: &[ApplyTask], is_leader: bool) {
        let Some(tracer) = &self.tracer else { return };
        let now = SystemTime::now();
        let mut rows = self.lock();
        for entry in disk.iter().flat_map(entries_of) {
            for id in ids_in(&entry.data) {
                let Some(row) = rows.get_mut(&id).filter(|_| is_leader) else { continue };
                dequeue(tracer, row, now);
                row.replicate.get_or_insert_with(|| (row.base.child(), now));
            }
        }
        for task in apply {
            let ApplyTask::Entries { entries, .. } = task else { continue };
            for entry in entries {
                for id in ids_in(&entry.data) {
                    let Some(row) = rows.get_mut(&id) else { continue };
                    let Some((context, start)) = row.replicate.take() else { continue };
                    let span = Span::new(context, Some(row.base), "replicate", (start, now));
                    tracer.emit(of_entry(span, entry.index, entry.term));
                }
            }
        }
    }

    /// Commands that leave for the leader: what it is to be told.
    #[cold]
    pub(crate) fn forwarded(&self, commands: &[Bytes]) -> Vec<TraceContext> {
        let Some(tracer) = &self.tracer else { return Vec::new() };
        let now = SystemTime::now();
        let mut rows = self.lock();
        let mut contexts = Vec::new();
        for id in commands.iter().filter_map(|command| id_of(command)) {
            if let Some(row) = rows.get_mut(&id) {
                dequeue(tracer, row, now);
                contexts.push(told_of(id, row.base));
            }
        }
        contexts
    }

    /// Entries that leave for a follower: what it is to be told.
    #[cold]
    pub(crate) fn replicated(&self, entries: &[Entry]) -> Vec<TraceContext> {
        let rows = self.lock();
        let ids = entries.iter().flat_map(|entry| ids_in(&entry.data));
        let context = |id| Some(told_of(id, rows.get(&id)?.replicate?.0));
        ids.filter_map(context).collect()
    }

    /// This member has written and synced, in the time since `start`.
    #[cold]
    pub(crate) fn synced(&self, tasks: &[DiskTask], start: SystemTime) {
        let Some(tracer) = &self.tracer else { return };
        let now = SystemTime::now();
        let mut rows = self.lock();
        for entry in tasks.iter().flat_map(entries_of) {
            for id in ids_in(&entry.data) {
                let Some(row) = rows.get_mut(&id).filter(|row| !row.is_synced) else { continue };
                row.is_synced = true;
                let parent = row.appended.map_or(row.base, |appended| appended.context);
                let start = start.max(row.appended.map_or(row.arrived, |appended| appended.at));
                let span = Span::new(parent.child(), Some(parent), "log_sync", (start, now));
                tracer.emit(of_entry(span, entry.index, entry.term));
                if let Some(Appended { context, replicate, at }) = row.appended {
                    let span = Span::new(context, Some(replicate), "append", (at, now));
                    let span = Span { kind: SpanKind::Consumer, ..span };
                    tracer.emit(of_entry(span, entry.index, entry.term));
                }
            }
        }
    }

    /// These commands have been applied, in one go that began at `start`.
    #[cold]
    pub(crate) fn applied<'a>(
        &self,
        ids: impl Iterator<Item = (&'a RequestId, u64)>,
        start: SystemTime,
    ) {
        let Some(tracer) = &self.tracer else { return };
        let now = SystemTime::now();
        self.change(|rows| {
            for (id, index) in ids {
                let id = (id.member, id.sequence);
                let Some(row) = rows.get_mut(&id) else { continue };
                let parent = match (row.role, row.appended) {
                    (Role::Follows, Some(appended)) => appended.replicate,
                    _ => row.base,
                };
                let span = Span::new(parent.child(), Some(parent), "apply", (start, now));
                tracer.emit(span.with("metastore.raft.index", index.cast_signed()));
                match row.role {
                    Role::Asked => row.applied = Some(now),
                    Role::Follows => drop(rows.remove(&id)),
                    Role::Leads(remote) => {
                        let span = Span::new(row.base, Some(remote), "lead", (row.arrived, now));
                        tracer.emit(Span { kind: SpanKind::Consumer, ..span });
                        rows.remove(&id);
                    }
                }
            }
        });
    }

    /// Forgets who got lost. To be called now and then.
    #[cold]
    pub(crate) fn expire(&self) {
        self.change(|rows| rows.retain(|_, row| row.since.elapsed() < ROW_AGE_MAX));
    }
}

/// A command of this member's caller. Its span ends with it.
#[derive(Debug)]
pub(crate) struct Flight<'a> {
    flights: &'a Flights,
    tracer: &'a Tracer,
    id: Id,
    call: Context,
    context: Context,
    start: SystemTime,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let now = SystemTime::now();
        let row = self.flights.change(|rows| rows.remove(&self.id));
        let applied = row.and_then(|row| row.applied);
        if let Some(applied) = applied {
            let parent = Some(self.context);
            self.tracer.emit(Span::new(self.context.child(), parent, "reply", (applied, now)));
        }
        let mut span = Span::new(self.context, Some(self.call), "propose", (self.start, now));
        // Refused, or nobody waited for it any longer.
        span.error = applied.is_none().then(|| String::from("not applied while the caller waited"));
        self.tracer.emit(span);
    }
}

fn dequeue(tracer: &Tracer, row: &mut Row, now: SystemTime) {
    if !std::mem::replace(&mut row.is_dequeued, true) {
        let times = (row.arrived, now);
        tracer.emit(Span::new(row.base.child(), Some(row.base), "queue", times));
    }
}

fn of_entry(span: Span, index: u64, term: u64) -> Span {
    span.with("metastore.raft.index", index.cast_signed())
        .with("metastore.raft.term", term.cast_signed())
}

fn told_of((origin, sequence): Id, context: Context) -> TraceContext {
    let (trace_id, span_id) = context.numbers();
    TraceContext {
        origin,
        sequence,
        trace_id_high: (trace_id >> 64) as u64,
        trace_id_low: trace_id as u64,
        span_id,
    }
}

fn entries_of(task: &DiskTask) -> &[wal::Entry] {
    match task {
        DiskTask::Append { batch, .. } => &batch.entries,
        DiskTask::Release { .. } => &[],
    }
}

/// The request ids in an encoded batch, without decoding the rest.
fn ids_in(batch: &[u8]) -> impl Iterator<Item = Id> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let (command, after) = first_field(rest)?;
        rest = after;
        Some(id_of(command))
    })
    .flatten()
}

/// A command's request id, which is its first field.
fn id_of(command: &[u8]) -> Option<Id> {
    let (id, _) = first_field(command)?;
    let id = RequestId::decode(id).ok()?;
    Some((id.member, id.sequence))
}

/// Field 1 where it comes first, and what is behind it.
fn first_field(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, after) = message.split_first()?;
    if *tag != FIRST_FIELD {
        return None;
    }
    let length = prost::decode_length_delimiter(after).ok()?;
    after.get(prost::length_delimiter_len(length)..)?.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use otlp::MILLION;
    use proto::etcdserverpb::PutRequest;
    use proto::log::{Batch, Command, command::Op};

    use super::*;

    const ID: Id = (u64::MAX, 7);

    fn command((member, sequence): Id) -> Bytes {
        let id = Some(RequestId { member, sequence });
        let put = PutRequest { key: "k".into(), value: vec![1; 300].into(), ..Default::default() };
        Command { id, op: Some(Op::Put(put)) }.encode_to_vec().into()
    }

    fn entry(index: u64, ids: &[Id]) -> wal::Entry {
        let commands = ids.iter().map(|id| command(*id)).collect();
        let data = Batch { commands }.encode_to_vec().into();
        wal::Entry { term: 1, index, kind: 0, context: Bytes::new(), data }
    }

    fn to_log(entry: wal::Entry) -> Vec<DiskTask> {
        let batch = wal::LogBatch { entries: vec![entry], ..Default::default() };
        vec![DiskTask::Append { number: 1, batch }]
    }

    #[test]
    fn ids_are_read_out_of_batches_of_whatever_is_in_them() {
        let ids = [ID, (1, 1), (300, 1 << 40)];
        assert_eq!(ids_in(&entry(1, &ids).data).collect::<Vec<_>>(), ids);
        assert_eq!(ids_in(b"").count(), 0);
        for garbage in [&b"\x0a"[..], b"\x0a\x05\x0a", b"\x12\x00", b"\x0a\x02\x0a\x7f", b"\xff"] {
            assert_eq!(ids_in(garbage).count(), 0, "{garbage:?}");
        }
    }

    #[test]
    fn a_command_nobody_traces_leaves_no_row_and_no_span() {
        let (tracer, mut spans) = Tracer::to_queue(MILLION, 16);
        let flights = Flights::new(Some(&tracer));
        assert!(flights.begin(ID.0, ID.1).is_none(), "no call runs here");
        assert!(!flights.are_any());
        flights.stepped(&to_log(entry(1, &[ID])), &[], true);
        flights.synced(&to_log(entry(1, &[ID])), SystemTime::now());
        flights.applied(
            [(&RequestId { member: ID.0, sequence: ID.1 }, 1)].into_iter(),
            SystemTime::now(),
        );
        assert!(spans.try_recv().is_err());
        assert!(Flights::new(None).begin_under(Context::root(), ID).is_none());
    }

    #[test]
    fn a_row_goes_with_its_caller_and_the_span_says_that_nobody_waited() {
        let (tracer, mut spans) = Tracer::to_queue(MILLION, 16);
        let flights = Flights::new(Some(&tracer));
        let flight = flights.begin_under(Context::root(), ID).expect("room");
        assert!(flights.are_any());
        drop(flight);
        assert!(!flights.are_any());
        let span = spans.try_recv().expect("a span");
        assert_eq!(span.name, "propose");
        assert_ne!(span.status, otlp::opentelemetry::trace::Status::Unset);
    }

    #[test]
    fn what_a_peer_tells_has_no_more_rows_than_there_is_room_for() {
        let (tracer, _spans) = Tracer::to_queue(MILLION, 16);
        let flights = Flights::new(Some(&tracer));
        let told = |sequence| told_of((1, sequence), Context::root());
        let many: Vec<_> = (0..2 * ROWS_MAX as u64).map(told).collect();
        flights.told(&many, false);
        assert_eq!(flights.lock().len(), ROWS_MAX);
        assert!(flights.begin_under(Context::root(), ID).is_none());
        flights.expire();
        assert_eq!(flights.lock().len(), ROWS_MAX, "none is old");
    }

    #[test]
    fn an_entry_that_comes_twice_has_one_append_and_one_sync() {
        let (tracer, mut spans) = Tracer::to_queue(MILLION, 16);
        let flights = Flights::new(Some(&tracer));
        let leader = Context::root();
        for _ in 0..2 {
            flights.told(&[told_of(ID, leader)], false);
            flights.stepped(&to_log(entry(5, &[ID])), &[], false);
            flights.synced(&to_log(entry(5, &[ID])), SystemTime::now());
        }
        let names: Vec<_> =
            std::iter::from_fn(|| spans.try_recv().ok()).map(|span| span.name).collect();
        assert_eq!(names, ["log_sync", "append"]);
        assert!(flights.replicated(&[]).is_empty());
    }
}
