//! Leases that are kept alive, each at a third of its time to live.
//!
//! Keep-alives fall due evenly over that interval whatever becomes of earlier ones, all leases of a
//! connection over one stream, as etcd's own clients do it. What is due together leaves together. A
//! stream that is lost is made again; keep-alives on it that were not answered are counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::BytesMut;
use client::raw::{Method, StreamReceiver, StreamSender};
use tokio::task::JoinSet;

use super::line::Line;
use super::load::{Pace, Plan, Shared, Worker, counts_from};
use super::{recorder, requests};

/// A lease is renewed this many times within its time to live.
pub(crate) const RENEWALS_PER_TTL: u32 = 3;
/// While so many keep-alives of a stream are not answered, no more are sent; their latency counts
/// from when they were due all the same.
const UNANSWERED_MAX: usize = 1 << 16;

const METHOD: Method = Method::new("/etcdserverpb.Lease/LeaseKeepAlive");

/// The streams of one thread.
pub(crate) struct KeepAlives {
    /// Of each stream, its own first.
    endpoints: Vec<Vec<String>>,
    lanes: Vec<Lane>,
}

/// One stream and its leases.
struct Lane {
    leases: Vec<u64>,
    /// Time between two renewals of a lease.
    interval: Duration,
    /// By which part of the time between two of its keep-alives this stream is behind the first.
    shift: f64,
    wire: Option<Wire>,
}

struct Wire {
    line: Line,
    /// The number of the connection that the stream is on.
    made: u64,
    sender: StreamSender,
    receiver: StreamReceiver,
}

impl Wire {
    async fn open(line: Line) -> Result<Self> {
        let standing = line.standing().await;
        let (sender, receiver) = standing.connection.stream(&METHOD).await?;
        Ok(Wire { line, made: standing.made, sender, receiver })
    }

    /// Makes the stream again on a new connection; `false`: the stage was over before.
    async fn again(&mut self, pace: &Pace, shared: &Shared) -> bool {
        while let Some(standing) = self.line.again(self.made, pace, shared).await {
            self.made = standing.made;
            if let Ok((sender, receiver)) = standing.connection.stream(&METHOD).await {
                (self.sender, self.receiver) = (sender, receiver);
                return true;
            }
        }
        false
    }
}

/// The streams of all threads, one for each connection, with the leases spread over them.
/// `interval`: between two renewals of a lease.
pub(crate) fn keep_alives(plan: &Plan, leases: &[u64], interval: Duration) -> Vec<KeepAlives> {
    let lane = |connection: usize| Lane {
        leases: leases.iter().skip(connection).step_by(plan.connections).copied().collect(),
        interval,
        shift: connection as f64 / plan.connections as f64,
        wire: None,
    };
    (0..plan.threads)
        .map(|thread| KeepAlives {
            endpoints: plan.endpoints(thread),
            lanes: (thread..plan.connections).step_by(plan.threads).map(lane).collect(),
        })
        .collect()
}

impl Worker for KeepAlives {
    async fn connect(&mut self, plan: &Plan) -> Result<()> {
        for (lane, endpoints) in self.lanes.iter_mut().zip(self.endpoints.drain(..)) {
            let line = Line::dial(endpoints, plan.target.tls.clone(), false).await?;
            lane.wire = Some(Wire::open(line).await?);
        }
        Ok(())
    }

    async fn stage(&mut self, pace: Pace, shared: &Arc<Shared>, recorder: &recorder::Shared) {
        let mut tasks = JoinSet::new();
        for lane in self.lanes.drain(..) {
            drop(tasks.spawn(lane.run(pace, Arc::clone(shared), Arc::clone(recorder))));
        }
        while let Some(lane) = tasks.join_next().await {
            match lane {
                Ok(lane) => self.lanes.push(lane),
                Err(error) => shared.fail(error.into()),
            }
        }
    }
}

impl Lane {
    /// When its keep-alive number `index` falls due.
    fn due(&self, pace: &Pace, index: u64) -> Instant {
        let turn = (index as f64 + self.shift) / self.leases.len() as f64;
        pace.started + Duration::from_secs_f64(self.interval.as_secs_f64() * turn)
    }

    async fn run(mut self, pace: Pace, shared: Arc<Shared>, recorder: recorder::Shared) -> Self {
        let until = pace.until.expect("keep-alives go on for a time, not a number");
        let mut wire = self.wire.take().expect("connected");
        let mut waiting: VecDeque<(u64, Instant)> = VecDeque::new();
        let mut frames = BytesMut::new();
        let mut index = 0;
        let mut due = self.due(&pace, index);
        loop {
            let now = Instant::now();
            let before = waiting.len();
            while due <= now && due < until && waiting.len() < UNANSWERED_MAX {
                let lease = self.leases[index as usize % self.leases.len()];
                requests::put_keep_alive(&mut frames, lease);
                waiting.push_back((lease, counts_from(due, now)));
                index += 1;
                due = self.due(&pace, index);
            }
            shared.sent((waiting.len() - before) as u64);
            let sent = match frames.is_empty() {
                true => Ok(()),
                false => wire.sender.send(frames.split().freeze()),
            };
            let is_more = due < until;
            if shared.stopped() || !is_more && waiting.is_empty() {
                break;
            }
            let answer = match sent {
                Err(error) => Err(error.to_string()),
                Ok(()) => tokio::select! {
                    answer = wire.receiver.next() => match answer {
                        Ok(Some(answer)) => Ok(Some(answer)),
                        Ok(None) => Err("the server ended a keep-alive stream".to_owned()),
                        Err(error) => Err(error.to_string()),
                    },
                    () = tokio::time::sleep_until(due.into()),
                        if is_more && waiting.len() < UNANSWERED_MAX => Ok(None),
                },
            };
            match answer {
                Ok(Some(answer)) => {
                    shared.settled(note(&answer, &mut waiting, &shared, &recorder));
                }
                Ok(None) => {}
                Err(reason) => {
                    let lost = waiting.len() as u64;
                    waiting.clear();
                    shared.settled(lost);
                    // One that ended while nothing was under way cost nobody an answer.
                    if lost > 0 {
                        recorder::lock(&recorder).lose(reason, lost);
                    }
                    if !wire.again(&pace, &shared).await {
                        break;
                    }
                }
            }
        }
        self.wire = Some(wire);
        self
    }
}

/// Takes an answer to one of those `waiting`; how many wait for it no more.
fn note(
    answer: &[u8],
    waiting: &mut VecDeque<(u64, Instant)>,
    shared: &Shared,
    recorder: &recorder::Shared,
) -> u64 {
    let now = Instant::now();
    let (lease, ttl_s) = requests::lease(answer);
    // Answers come in order, so it is the first.
    let Some(at) = waiting.iter().position(|(asked, _)| *asked == lease) else {
        shared.refused("an answer about a lease nobody asked for".to_owned(), recorder);
        return 0;
    };
    let (_, since) = waiting.remove(at).expect("it was found there");
    if ttl_s <= 0 {
        shared.refused("the lease ran out before it was renewed".to_owned(), recorder);
        return 1;
    }
    shared.answered();
    recorder::lock(recorder).record(0, now.saturating_duration_since(since));
    1
}
