//! The prober: to every member a connection of its own and a put every five milliseconds, whether the
//! last was answered or not, and what is answered when, on one clock.
//!
//! One thread asks all members, so no two answers are stamped by different clocks. A member that cannot
//! be reached is dialled again and again; the others' puts go on meanwhile.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use client::proto::etcdserverpb::{MoveLeaderRequest, PutRequest, StatusRequest, StatusResponse};
use client::raw::{Caller, Connection, Method, frame};
use prost::Message;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How often each member is written to.
pub(super) const PUT_EVERY: Duration = Duration::from_millis(5);
/// The same where several clusters share the processors and nobody is killed.
pub(super) const PUT_EVERY_LIGHT: Duration = Duration::from_millis(40);
/// Puts on their way to one member; beyond them none is sent until one is answered or given up.
const PUTS_MAX: u64 = 2_000;
/// A put that has no answer after so long is given up, and its connection with all that are on it; servers give
/// up after 7 s, and say so.
const PUT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a connection: above it the first packet was lost more than once.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Pause before a member is dialled again.
const DIAL_EVERY: Duration = Duration::from_millis(20);
/// How often members say whom they follow while it matters, and otherwise.
const STATUS_EVERY: Duration = Duration::from_millis(5);
const STATUS_EVERY_IDLE: Duration = Duration::from_millis(100);
/// A status without an answer after so long is given up.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a leader to have handed over, or to say that it has not.
const MOVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Keys the prober writes, so that the store does not grow.
const KEYS: u64 = 1_000;
const VALUE_BYTES: usize = 256;
/// Answers kept; at three members and 5 ms an hour is two million.
const ANSWERS_MAX: usize = 8_000_000;

const PUT: Method = Method::new("/etcdserverpb.KV/Put");
const STATUS: Method = Method::new("/etcdserverpb.Maintenance/Status");

/// An acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Since the prober began.
    pub(super) at_us: u64,
    pub(super) took_us: u64,
    pub(super) member: usize,
}

/// What a member said last of its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Since the prober began.
    pub(super) at_us: u64,
    pub(super) id: u64,
    /// 0: none.
    pub(super) leader: u64,
    pub(super) term: u64,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<Vec<Answer>>,
    /// Of each member.
    said: Mutex<HashMap<usize, Said>>,
    /// When each member first said that it does not follow the one it followed at the mark.
    left: Mutex<HashMap<usize, u64>>,
    /// Whom the members followed at the mark; 0: no mark.
    mark: AtomicU64,
    /// Nothing is written meanwhile.
    rests: AtomicBool,
    /// Members are written to every so often; 0: [`PUT_EVERY`].
    put_every_us: AtomicU64,
    is_over: AtomicBool,
}

/// A running prober; ends when dropped.
pub(super) struct Prober {
    shared: Arc<Shared>,
    began: Instant,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Prober {
    pub(super) fn start(members: Vec<SocketAddr>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let began = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let with = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("prober".into()).spawn(move || {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async move {
                for (member, address) in members.into_iter().enumerate() {
                    let member = Member { member, address, began, shared: Arc::clone(&with) };
                    drop(tokio::task::spawn_local(Rc::new(member).probe()));
                }
                while !with.is_over.load(Ordering::Relaxed) {
                    sleep(DIAL_EVERY).await;
                }
            });
        })?;
        Ok(Prober { shared, began, thread: Some(thread) })
    }

    pub(super) fn now_us(&self) -> u64 {
        microseconds(self.began)
    }

    /// Answers between two times, in their order.
    pub(super) fn answers(&self, from_us: u64, to_us: u64) -> Vec<Answer> {
        let all = self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.partition_point(|answer| answer.at_us < from_us);
        all[first..].iter().copied().take_while(|answer| answer.at_us <= to_us).collect()
    }

    /// What each member said last; those that never said anything are not there.
    pub(super) fn said(&self) -> HashMap<usize, Said> {
        self.shared.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on members are asked often, and it is noted when they leave this leader.
    pub(super) fn mark(&self, leader: u64) {
        self.shared.left.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.mark.store(leader, Ordering::Relaxed);
    }

    /// Ends that; when the first member left the leader, if one did.
    pub(super) fn unmark(&self) -> Option<u64> {
        self.shared.mark.store(0, Ordering::Relaxed);
        let left = self.shared.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.values().copied().min()
    }

    /// Stops writing for a while, or goes on.
    pub(super) fn rest(&self, rests: bool) {
        self.shared.rests.store(rests, Ordering::Relaxed);
    }

    /// Writes so often from now on.
    pub(super) fn pace(&self, put_every: Duration) {
        let us = u64::try_from(put_every.as_micros()).unwrap_or(u64::MAX);
        self.shared.put_every_us.store(us, Ordering::Relaxed);
    }

    /// Whether it still probes.
    pub(super) fn check(&self) -> Result<()> {
        let is_over = self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished);
        (!is_over).then_some(()).context("the prober has ended")
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

struct Member {
    member: usize,
    address: SocketAddr,
    began: Instant,
    shared: Arc<Shared>,
}

impl Member {
    async fn probe(self: Rc<Self>) {
        loop {
            let dialled = timeout(DIAL_TIMEOUT, Connection::dial(&self.address.to_string())).await;
            if let Ok(Ok(connection)) = dialled {
                self.use_up(&connection).await;
            }
            sleep(DIAL_EVERY).await;
        }
    }

    /// Puts and asks until the connection fails.
    async fn use_up(self: &Rc<Self>, connection: &Connection) {
        let (put, status) = (connection.caller(&PUT), connection.caller(&STATUS));
        let is_lost = Rc::new(std::cell::Cell::new(false));
        let on_way = Rc::new(std::cell::Cell::new(0_u64));
        let asking = tokio::task::spawn_local(Rc::clone(self).ask(status, Rc::clone(&is_lost)));
        let mut ticks = interval(PUT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = self.member as u64;
        while !is_lost.get() {
            let every = Duration::from_micros(self.shared.put_every_us.load(Ordering::Relaxed));
            if every > PUT_EVERY {
                sleep(every).await;
            } else {
                let _at = ticks.tick().await;
            }
            if on_way.get() >= PUTS_MAX || self.shared.rests.load(Ordering::Relaxed) {
                continue;
            }
            number = (number + 7) % KEYS;
            let request = frame(&PutRequest {
                key: format!("probe/{number:06}").into(),
                value: Bytes::from_static(&[b'x'; VALUE_BYTES]),
                ..PutRequest::default()
            });
            on_way.set(on_way.get() + 1);
            let (member, mut put) = (Rc::clone(self), put.clone());
            let (is_lost, on_way) = (Rc::clone(&is_lost), Rc::clone(&on_way));
            drop(tokio::task::spawn_local(async move {
                let sent = Instant::now();
                match timeout(PUT_TIMEOUT, put.call(request)).await {
                    Ok(Ok(_)) => member.note(sent),
                    // The member is there and said no: without a leader it must.
                    Ok(Err(client::Error::Answered { .. })) => {}
                    Ok(Err(_)) | Err(_) => is_lost.set(true),
                }
                on_way.set(on_way.get() - 1);
            }));
        }
        asking.abort();
    }

    fn note(&self, sent: Instant) {
        let answer = Answer {
            at_us: microseconds(self.began),
            took_us: microseconds(sent),
            member: self.member,
        };
        let mut answers = self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() < ANSWERS_MAX {
            answers.push(answer);
        }
    }

    async fn ask(self: Rc<Self>, mut status: Caller, is_lost: Rc<std::cell::Cell<bool>>) {
        let request = frame(&StatusRequest::default());
        loop {
            match timeout(STATUS_TIMEOUT, status.call(request.clone())).await {
                Ok(Ok(message)) => {
                    if let Ok(said) = StatusResponse::decode(message) {
                        self.hear(&said);
                    }
                }
                Ok(Err(client::Error::Answered { .. })) | Err(_) => {}
                Ok(Err(_)) => {
                    is_lost.set(true);
                    return;
                }
            }
            let is_marked = self.shared.mark.load(Ordering::Relaxed) != 0;
            sleep(if is_marked { STATUS_EVERY } else { STATUS_EVERY_IDLE }).await;
        }
    }

    fn hear(&self, said: &StatusResponse) {
        let at_us = microseconds(self.began);
        let id = said.header.as_ref().map_or(0, |header| header.member_id);
        let mark = self.shared.mark.load(Ordering::Relaxed);
        if mark != 0 && id != mark && said.leader != mark {
            let mut left = self.shared.left.lock().unwrap_or_else(PoisonError::into_inner);
            let _first = left.entry(self.member).or_insert(at_us);
        }
        let said = Said { at_us, id, leader: said.leader, term: said.raft_term };
        let mut all = self.shared.said.lock().unwrap_or_else(PoisonError::into_inner);
        let _before = all.insert(self.member, said);
    }
}

/// So many puts on their way all the time, over all members, for so long; how long the answers took
/// that came after the first part of it, in which windows and batches find their size.
pub(super) fn load(
    members: &[SocketAddr],
    on_way: usize,
    warm: Duration,
    lasts: Duration,
) -> Result<Vec<u64>> {
    write(members, &Writing { on_way, keys: u64::MAX, value_bytes: VALUE_BYTES, warm, lasts })
}

/// Writes so many keys.
pub(super) fn fill(members: &[SocketAddr], (keys, value_bytes): (u64, usize)) -> Result<()> {
    // As many bytes under way as 512 small values are, and no fewer than a batch of large ones.
    let on_way = (512 * VALUE_BYTES / value_bytes.max(1)).clamp(32, 512);
    let (warm, lasts) = (Duration::ZERO, FILL_TIMEOUT);
    write(members, &Writing { on_way, keys, value_bytes, warm, lasts }).map(drop)
}

/// Longest time to fill a store.
const FILL_TIMEOUT: Duration = Duration::from_secs(900);

struct Writing {
    on_way: usize,
    keys: u64,
    value_bytes: usize,
    warm: Duration,
    lasts: Duration,
}

fn write(members: &[SocketAddr], writing: &Writing) -> Result<Vec<u64>> {
    let Writing { on_way, keys, value_bytes, warm, lasts } = *writing;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let from = Instant::now() + warm;
    let until = from + lasts;
    let value = Bytes::from(vec![b'x'; value_bytes]);
    let next = Rc::new(std::cell::Cell::new(0_u64));
    local.block_on(&runtime, async move {
        let mut connections = Vec::new();
        for address in members {
            connections.push(Connection::dial(&address.to_string()).await?.caller(&PUT));
        }
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..on_way {
            let (mut put, next) =
                (connections[number % connections.len()].clone(), Rc::clone(&next));
            let value = value.clone();
            let _writer = writers.spawn_local(async move {
                let mut took = Vec::new();
                while next.get() < keys && Instant::now() < until {
                    let key = next.replace(next.get() + 1) % keys.min(100_000);
                    let request = frame(&PutRequest {
                        key: format!("fill/{key:09}").into(),
                        value: value.clone(),
                        ..PutRequest::default()
                    });
                    let sent = Instant::now();
                    match put.call(request).await {
                        Ok(_) if (from..=until).contains(&Instant::now()) => {
                            took.push(microseconds(sent));
                        }
                        Ok(_) => {}
                        // Too much at a time is said so and is no end.
                        Err(client::Error::Answered { .. }) => sleep(DIAL_EVERY).await,
                        Err(error) => return Err(error),
                    }
                }
                Ok(took)
            });
        }
        let mut all = Vec::new();
        while let Some(writer) = writers.join_next().await {
            all.extend(writer.context("a writer panicked")??);
        }
        Ok(all)
    })
}

/// Tells a leader to hand over to another member; whether it did. Where votes take longer than it waits
/// for its successor it gives up, and says so.
pub(super) fn move_leader(leader: SocketAddr, to: u64) -> Result<bool> {
    const MOVE: Method = Method::new("/etcdserverpb.Maintenance/MoveLeader");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let asked = async {
            let mut moving = Connection::dial(&leader.to_string()).await?.caller(&MOVE);
            moving.call(frame(&MoveLeaderRequest { target_id: to })).await
        };
        match timeout(MOVE_TIMEOUT, asked).await.context("the leader does not answer")? {
            Ok(_) => Ok(true),
            Err(client::Error::Answered { .. }) => Ok(false),
            Err(error) => Err(error).context("telling the leader to hand over"),
        }
    })
}
