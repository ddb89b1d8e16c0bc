//! Clients that send one request after another, each waiting for its answer.
//!
//! A connection that is lost is made again, and what was under way on it counted: it may have been
//! carried out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use client::Code;
use client::raw::{Caller, Connection, Method};
use tokio::task::JoinSet;

use super::line::{Line, Standing};
use super::load::{Pace, Part, Plan, Shared, Worker, counts_from};
use super::recorder;

/// How long a client waits whose request was refused for a reason that passes, such as an election:
/// about as long as etcd's clients.
const REFUSED_PAUSE: Duration = Duration::from_millis(25);

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

    /// Whether an error of this code is as good as an answer, and then of which kind.
    fn excused(&self, _code: Code) -> Option<usize> {
        None
    }
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
    /// Of each connection, its own first.
    endpoints: Vec<Vec<String>>,
    /// Before they are connected: each with the number of its connection.
    waiting: Vec<(usize, R)>,
    ready: Vec<Client<R>>,
}

struct Client<R> {
    line: Arc<Line>,
    /// The number of the connection that the callers use.
    made: u64,
    /// One for each method.
    callers: Vec<Caller>,
    requests: R,
    /// Longest wait for an answer, if there is one of its own.
    timeout: Option<Duration>,
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
        let mut lines = Vec::with_capacity(self.endpoints.len());
        // A load is to begin on all endpoints; to tidy up those that are left will do.
        let any = plan.part == Part::TidyingUp;
        for endpoints in self.endpoints.drain(..) {
            lines.push(Arc::new(Line::dial(endpoints, plan.target.tls.clone(), any).await?));
        }
        for (connection, requests) in self.waiting.drain(..) {
            let line = Arc::clone(&lines[connection]);
            let Standing { connection, made, .. } = line.standing().await;
            let callers = callers::<R>(&connection);
            let timeout = plan.target.timeout;
            self.ready.push(Client { line, made, callers, requests, timeout });
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

/// One for each method.
fn callers<R: Requests>(connection: &Connection) -> Vec<Caller> {
    R::METHODS.iter().map(|method| connection.caller(method)).collect()
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
            shared.sent(1);
            let answer = loop {
                match self.call(method, frame.clone()).await {
                    // It has not been sent: the connection had gone while nothing was under way.
                    Err(client::Error::Unreachable { .. }) => {
                        if !self.reconnect(&pace, &shared).await {
                            shared.settled(1);
                            return self;
                        }
                    }
                    answer => break answer,
                }
            };
            shared.settled(1);
            now = Instant::now();
            let well = match answer {
                Ok(answer) => self.requests.answered(&answer).map_err(str::to_owned),
                Err(client::Error::Answered { code, message }) => {
                    match self.requests.excused(code) {
                        Some(kind) => Ok(kind),
                        None if code == Code::Unavailable => {
                            shared.refused_for_now(message, &recorder);
                            tokio::time::sleep(REFUSED_PAUSE).await;
                            now = Instant::now();
                            continue;
                        }
                        None => Err(message),
                    }
                }
                // Whoever answers so is no server of this kind, and will not become one.
                Err(error @ client::Error::Protocol { .. }) => Err(error.to_string()),
                Err(error) => {
                    let is_slow = matches!(error, client::Error::Deadline { .. });
                    recorder::lock(&recorder).lose(error.to_string(), 1);
                    if !is_slow && !self.reconnect(&pace, &shared).await {
                        break;
                    }
                    now = Instant::now();
                    continue;
                }
            };
            match well {
                Ok(kind) => {
                    shared.answered();
                    recorder::lock(&recorder).record(kind, now - counts_from(due, sent));
                }
                Err(reason) => shared.refused(reason, &recorder),
            }
        }
        self
    }

    async fn call(&mut self, method: usize, frame: Bytes) -> client::Result<Bytes> {
        let call = self.callers[method].call(frame);
        match self.timeout {
            None => call.await,
            Some(after) => tokio::time::timeout(after, call)
                .await
                .unwrap_or(Err(client::Error::Deadline { after, sent: true })),
        }
    }

    /// Whether there is a connection again.
    async fn reconnect(&mut self, pace: &Pace, shared: &Shared) -> bool {
        let Some(standing) = self.line.again(self.made, pace, shared).await else { return false };
        self.made = standing.made;
        self.callers = callers::<R>(&standing.connection);
        true
    }
}
