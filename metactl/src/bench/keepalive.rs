//! Leases that are kept alive, each at a third of its time to live.
//!
//! Keep-alives fall due evenly over that interval whatever becomes of earlier ones, all leases of a
//! connection over one stream, as etcd's own clients do it. What is due together leaves together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use bytes::BytesMut;
use client::raw::{Method, StreamReceiver, StreamSender};
use tokio::task::JoinSet;

use super::load::{Pace, Plan, Shared, Worker, counts_from, dial};
use super::{recorder, requests};

/// A lease is renewed this many times within its time to live.
pub(crate) const RENEWALS_PER_TTL: u32 = 3;
/// While so many keep-alives of a stream are not answered, no more are sent; their latency counts
/// from when they were due all the same.
const UNANSWERED_MAX: usize = 1 << 16;

/// The streams of one thread.
pub(crate) struct KeepAlives {
    endpoints: Vec<String>,
    lanes: Vec<Lane>,
}

/// One stream and its leases.
struct Lane {
    leases: Vec<u64>,
    /// Time between two renewals of a lease.
    interval: Duration,
    /// By which part of the time between two of its keep-alives this stream is behind the first.
    shift: f64,
    wire: Option<(StreamSender, StreamReceiver)>,
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
        const METHOD: Method = Method::new("/etcdserverpb.Lease/LeaseKeepAlive");
        let connections = dial(&self.endpoints, plan.target.tls.as_ref()).await?;
        for (lane, connection) in self.lanes.iter_mut().zip(connections) {
            lane.wire = Some(connection.stream(&METHOD).await?);
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
        let (mut sender, mut receiver) = self.wire.take().expect("connected");
        let mut waiting: VecDeque<(u64, Instant)> = VecDeque::new();
        let mut frames = BytesMut::new();
        let mut index = 0;
        let mut due = self.due(&pace, index);
        let failure: Option<anyhow::Error> = loop {
            let now = Instant::now();
            while due <= now && due < until && waiting.len() < UNANSWERED_MAX {
                let lease = self.leases[index as usize % self.leases.len()];
                requests::put_keep_alive(&mut frames, lease);
                waiting.push_back((lease, counts_from(due, now)));
                index += 1;
                due = self.due(&pace, index);
            }
            if !frames.is_empty()
                && let Err(error) = sender.send(frames.split().freeze())
            {
                break Some(error.into());
            }
            let is_more = due < until;
            if shared.stopped() || !is_more && waiting.is_empty() {
                break None;
            }
            tokio::select! {
                answer = receiver.next() => match answer {
                    Ok(Some(answer)) => {
                        note(&answer, &mut waiting, &shared, &recorder);
                    }
                    Ok(None) => break Some(anyhow!("the server ended a keep-alive stream")),
                    Err(error) => break Some(error.into()),
                },
                () = tokio::time::sleep_until(due.into()),
                    if is_more && waiting.len() < UNANSWERED_MAX => {}
            }
        };
        if let Some(error) = failure {
            shared.fail(error);
        }
        self.wire = Some((sender, receiver));
        self
    }
}

/// Takes an answer to one of those `waiting`.
fn note(
    answer: &[u8],
    waiting: &mut VecDeque<(u64, Instant)>,
    shared: &Shared,
    recorder: &recorder::Shared,
) {
    let now = Instant::now();
    let (lease, ttl_s) = requests::lease(answer);
    // Answers come in order, so it is the first.
    let Some(at) = waiting.iter().position(|(asked, _)| *asked == lease) else {
        return shared.refused("an answer about a lease nobody asked for".to_owned(), recorder);
    };
    let (_, since) = waiting.remove(at).expect("it was found there");
    if ttl_s <= 0 {
        return shared.refused("the lease ran out before it was renewed".to_owned(), recorder);
    }
    shared.answered();
    recorder::lock(recorder).record(0, now.saturating_duration_since(since));
}
