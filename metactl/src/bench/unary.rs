//! Clients that send one request after another, each waiting for its answer.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use client::raw::{Caller, Method};
use tokio::task::JoinSet;

use super::load::{Pace, Plan, Shared, Worker, counts_from, dial};
use super::recorder;

/// Makes the requests of one client and looks at their answers.
pub(crate) trait Requests: Send + 'static {
    /// What is called, by the numbers that [`Call`]s name.
    const METHODS: &'static [Method];
    /// The kinds that are measured apart, as reports name them.
    const KINDS: &'static [&'static str];

    /// Request number `index` of a stage.
    fn next(&mut self, index: u64) -> Call;

    /// Of which kind the request was, seen from its answer; or why that is not what the load is
    /// about.
    fn answered(&mut self, answer: &Bytes) -> std::result::Result<usize, &'static str>;
}

/// A framed request, and the number of its method.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: usize,
    pub(crate) frame: Bytes,
}

impl Call {
    /// Of the only method.
    pub(crate) fn of(frame: Bytes) -> Self {
        Call { method: 0, frame }
    }
}

/// The clients of one thread.
pub(crate) struct Clients<R> {
    endpoints: Vec<String>,
    /// Before they are connected: each with the number of its connection.
    waiting: Vec<(usize, R)>,
    ready: Vec<Client<R>>,
}

struct Client<R> {
    /// One for each method.
    callers: Vec<Caller>,
    requests: R,
}

/// The clients of all threads: client number k uses connection k % connections.
pub(crate) fn clients<R: Requests>(
    plan: &Plan,
    mut requests: impl FnMut(usize) -> R,
) -> Vec<Clients<R>> {
    assert!(plan.connections >= plan.threads, "threads without connections");
    (0..plan.threads)
        .map(|thread| Clients {
            endpoints: plan.endpoints(thread),
            waiting: (0..plan.clients)
                .map(|client| (client, client % plan.connections))
                .filter(|(_, connection)| connection % plan.threads == thread)
                .map(|(client, connection)| (connection / plan.threads, requests(client)))
                .collect(),
            ready: Vec::new(),
        })
        .collect()
}

impl<R: Requests> Worker for Clients<R> {
    async fn connect(&mut self, plan: &Plan) -> Result<()> {
        let connections = dial(&self.endpoints, plan.target.tls.as_ref()).await?;
        for (connection, requests) in self.waiting.drain(..) {
            let connection = &connections[connection];
            let callers = R::METHODS.iter().map(|method| connection.caller(method)).collect();
            self.ready.push(Client { callers, requests });
        }
        Ok(())
    }

    async fn stage(&mut self, pace: Pace, shared: &Arc<Shared>, recorder: &recorder::Shared) {
        let mut tasks = JoinSet::new();
        for client in self.ready.drain(..) {
            drop(tasks.spawn(client.run(pace, Arc::clone(shared), Arc::clone(recorder))));
        }
        while let Some(client) = tasks.join_next().await {
            match client {
                Ok(client) => self.ready.push(client),
                Err(error) => shared.fail(error.into()),
            }
        }
    }
}

impl<R: Requests> Client<R> {
    async fn run(mut self, pace: Pace, shared: Arc<Shared>, recorder: recorder::Shared) -> Self {
        let mut now = Instant::now();
        while !shared.stopped() {
            let index = shared.begin();
            let Some(due) = pace.due(index, now) else { break };
            if due > now {
                tokio::time::sleep_until(due.into()).await;
            }
            let Call { method, frame } = self.requests.next(index);
            let sent = Instant::now();
            let answer = self.callers[method].call(frame).await;
            now = Instant::now();
            match answer {
                Ok(answer) => match self.requests.answered(&answer) {
                    Ok(kind) => {
                        shared.answered();
                        recorder::lock(&recorder).record(kind, now - counts_from(due, sent));
                    }
                    Err(reason) => shared.refused(reason.to_owned(), &recorder),
                },
                Err(client::Error::Answered { message, .. }) => shared.refused(message, &recorder),
                Err(error) => {
                    shared.fail(error.into());
                    break;
                }
            }
        }
        self
    }
}
