//! Clients: each asks for one thing at a time, of any member, and believes what it is told.

use member::state::{Response, StateError};
use member::{Completed, Completion, Input, Reply};
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
    request_op, response_op,
};
use proto::log::LeaseGrant;
use proto::log::command::Op;

use crate::history::{Ask, Told};
use crate::mutant::Mutant;
use crate::node::Caller;
use crate::random::Random;
use crate::world::{Event, World};

/// One value in so many is large enough to fill segments.
const LARGE_EVERY: u64 = 12;
const LARGE_BYTES_MAX: u64 = 6_000;
const SMALL_BYTES_MAX: u64 = 60;

/// The name of a key.
pub(crate) fn key(number: u64) -> String {
    format!("k{number}")
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    random: Random,
    turn: u64,
    asked: u64,
    /// What it waits for: the request's number, and when it asked.
    waiting: Option<(usize, u64)>,
    lease: Option<i64>,
    must_write: bool,
    has_written: bool,
    retires: bool,
}

impl Client {
    pub(crate) fn new(seed: u64, id: u64) -> Self {
        Client {
            id,
            random: Random::of(seed, "client", id),
            turn: 0,
            asked: 0,
            waiting: None,
            lease: None,
            must_write: false,
            has_written: false,
            retires: false,
        }
    }

    /// From now on it writes, until one write has succeeded.
    pub(crate) fn must_write(&mut self) {
        self.must_write = true;
    }

    pub(crate) fn has_written(&self) -> bool {
        self.has_written
    }

    /// It asks for nothing more.
    pub(crate) fn retire(&mut self) {
        self.retires = true;
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retires && self.waiting.is_none()
    }

    fn value(&mut self) -> String {
        self.asked += 1;
        let large = self.random.below(LARGE_EVERY) == 0;
        let bytes_max = if large { LARGE_BYTES_MAX } else { SMALL_BYTES_MAX };
        let padding = usize::try_from(self.random.below(bytes_max)).unwrap_or(0);
        format!("c{}-{}-{}", self.id, self.asked, "x".repeat(padding))
    }
}

/// What is sent for an [`Ask`].
enum Request {
    Propose(Op),
    Read,
    Local,
    KeepAlive(i64),
}

impl World {
    fn client(&mut self, id: u64) -> &mut Client {
        let at = usize::try_from(id).unwrap_or(0);
        &mut self.clients[at]
    }

    pub(crate) fn client_turn(&mut self, id: u64, turn: u64) {
        let nodes: Vec<u64> =
            self.nodes.iter().filter(|(_, node)| !node.is_retired).map(|(id, _)| *id).collect();
        let keys = self.plan.keys;
        let client = self.client(id);
        if client.turn != turn || client.retires {
            return;
        }
        let node = client.random.pick(&nodes).copied().unwrap_or(1);
        let (ask, request) = next_ask(client, keys);
        if self.nodes.get(&node).is_none_or(|node| node.process.is_none()) {
            // Connection refused: nothing was asked.
            return self.next_turn(id);
        }
        self.ask(id, turn, node, ask, request);
    }

    fn ask(&mut self, id: u64, turn: u64, node: u64, ask: Ask, request: Request) {
        let now_us = self.now_us;
        let text = ask.clone();
        let request_number = self.history.begin(ask, None);
        self.trace.note(now_us, &[20, id, node, request_number as u64], || {
            format!("client {id} asks {node}: {}", short(&text))
        });
        self.client(id).waiting = Some((request_number, now_us));
        let caller = Caller::Client { client: id, turn, request: request_number };
        let timeout_us = self.plan.request_timeout_us;
        self.after(timeout_us, Event::TimedOut { client: id, turn });
        match request {
            Request::Propose(op) => {
                self.history.requests[request_number].id = self.propose(node, caller, op);
            }
            Request::Read if self.mutant != Some(Mutant::LocalReads) => {
                let Some(running) =
                    self.nodes.get_mut(&node).and_then(|node| node.process.as_deref_mut())
                else {
                    return;
                };
                let ticket = running.ticket(caller);
                self.input(node, Input::Read { ticket });
            }
            Request::Read | Request::Local => self.serve_read(node, caller),
            Request::KeepAlive(lease) => {
                self.lease_asked(node, id, turn, request_number, lease);
            }
        }
    }

    /// A question about a lease reaches a member.
    pub(crate) fn lease_asked(
        &mut self,
        node: u64,
        client: u64,
        turn: u64,
        request: usize,
        lease: i64,
    ) {
        let loses = self.mutant == Some(Mutant::KeepAliveLost);
        let Some(running) = self.nodes.get_mut(&node).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        let ticket = running.ticket(Caller::Client { client, turn, request });
        running.leases.insert(ticket, lease);
        let input = if loses {
            Input::LeaseTimeToLive { ticket, id: lease }
        } else {
            Input::LeaseKeepAlive { ticket, id: lease }
        };
        self.input(node, input);
    }

    fn next_turn(&mut self, id: u64) {
        let think_us_max = self.plan.think_us_max;
        let client = self.client(id);
        client.turn += 1;
        client.waiting = None;
        let turn = client.turn;
        let think_us = client.random.within(100, think_us_max);
        self.after(think_us, Event::Client { client: id, turn });
    }

    pub(crate) fn client_timed_out(&mut self, id: u64, turn: u64) {
        let Some((request, _)) = self.client(id).waiting else { return };
        if self.client(id).turn == turn {
            self.figures.count("requests timed out");
            self.tell(Caller::Client { client: id, turn, request }, Told::Unknown);
        }
    }

    /// The process a caller waited for is gone.
    pub(crate) fn hung_up(&mut self, caller: Caller) {
        self.tell(caller, Told::Unknown);
    }

    /// Tells a caller how its request ended, if it still waits.
    fn tell(&mut self, caller: Caller, told: Told) {
        let Caller::Client { client: id, turn, request } = caller else { return };
        let client = self.client(id);
        if client.turn != turn || client.waiting.is_none_or(|(waiting, _)| waiting != request) {
            return;
        }
        if matches!(told, Told::Put { .. }) && client.must_write {
            client.has_written = true;
        }
        self.trace.note(self.now_us, &[21, id, request as u64], || {
            format!("client {id} is told: {}", short(&told))
        });
        self.history.end(request, told);
        self.next_turn(id);
    }

    /// An answer of the member that apply has no part in.
    #[allow(clippy::needless_pass_by_value, reason = "an answer is given away")]
    pub(crate) fn replied(&mut self, id: u64, reply: Reply) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        match reply {
            Reply::ReadAt { ticket, index } => {
                let Some(caller) = running.callers.remove(&ticket) else { return };
                if self.mutant == Some(Mutant::ReadBeforeApplied) {
                    return self.serve_read(id, caller);
                }
                running.reads.push((index, caller));
                self.serve_reads(id);
            }
            Reply::ReadFailed { ticket } => {
                if let Some(caller) = running.callers.remove(&ticket) {
                    self.tell(caller, Told::Unknown);
                }
            }
            Reply::Lost { sequence } => self.propose_again(id, sequence),
            Reply::NotProposed { sequence, busy: _ } => {
                running.commands.remove(&sequence);
                if let Some(caller) = running.callers.remove(&sequence) {
                    self.figures.count("proposals refused");
                    self.tell(caller, Told::Never);
                }
            }
            Reply::MembershipRefused { sequence, refusal: _ } => {
                self.figures.count("membership changes refused");
                running.callers.remove(&sequence);
            }
            Reply::TuningRefused { sequence, refusal: _ } => {
                self.figures.count("plans refused by the leader");
                running.callers.remove(&sequence);
            }
            Reply::TransferRefused { ticket, error: _ } | Reply::TransferBegun { ticket } => {
                running.callers.remove(&ticket);
            }
            Reply::Lease { ticket, lease } => {
                let asked = running.leases.remove(&ticket);
                let caller = running.callers.remove(&ticket);
                let (Some(lease_id), Some(caller)) = (asked, caller) else { return };
                let Caller::Client { client, turn, .. } = caller else { return };
                let waits = self.client(client).turn == turn;
                let asked_us = self.client(client).waiting.map_or(0, |(_, at)| at);
                if lease.is_some() && waits {
                    self.figures.count("leases renewed");
                    self.truth.renewed(lease_id, asked_us);
                } else if waits {
                    self.client(client).lease = None;
                }
                self.tell(caller, Told::Refused);
            }
            Reply::LeaseAskLeader { ticket, leader } => {
                let lease = running.leases.remove(&ticket);
                let caller = running.callers.remove(&ticket);
                let (Some(lease), Some(Caller::Client { client, turn, request })) = (lease, caller)
                else {
                    return;
                };
                match leader.filter(|to| *to != id) {
                    Some(to) if self.network.is_open(id, to) && self.network.is_open(to, id) => {
                        let at = self.network.arrival(self.now_us, id, to);
                        self.at(at, Event::LeaseAsked { to, client, turn, request, lease });
                    }
                    _ => self.tell(Caller::Client { client, turn, request }, Told::Unknown),
                }
            }
        }
    }

    /// A request of this member's caller was applied.
    pub(crate) fn completed(&mut self, id: u64, done: Completed) {
        let Completed { id: request_id, index: _, term: _, completion } = done;
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        running.commands.remove(&request_id.sequence);
        let Some(caller) = running.callers.remove(&request_id.sequence) else { return };
        let outcome = match completion {
            Completion::Command(outcome) => outcome,
            Completion::Membership(_) => {
                self.figures.count("membership changes");
                return self.start_newcomers();
            }
        };
        let revision = |header: &Option<ResponseHeader>| header.as_ref().map_or(0, |h| h.revision);
        if let (Caller::Plan { expected_epoch, is_legal }, Ok(Response::Tuning { epoch })) =
            (caller, &outcome.result)
        {
            self.plan_taken(expected_epoch, is_legal, *epoch);
        }
        let told = match outcome.result {
            Ok(Response::Put(put)) => Told::Put { revision: revision(&put.header) },
            Ok(Response::DeleteRange(delete)) => {
                Told::Deleted { revision: revision(&delete.header), was_there: delete.deleted > 0 }
            }
            Ok(Response::Txn(txn)) => {
                let value = txn.responses.first().and_then(|op| match &op.response {
                    Some(response_op::Response::ResponseRange(range)) => {
                        range.kvs.first().map(|kv| text(&kv.value))
                    }
                    _ => None,
                });
                Told::Swapped { revision: revision(&txn.header), succeeded: txn.succeeded, value }
            }
            Ok(Response::LeaseGrant(grant)) => {
                if let Caller::Client { client, turn, .. } = caller
                    && self.client(client).turn == turn
                {
                    self.client(client).lease = Some(grant.id);
                }
                Told::Refused
            }
            Ok(_) => Told::Refused,
            Err(error) => {
                if let (StateError::LeaseNotFound, Caller::Client { client, .. }) = (&error, caller)
                {
                    self.client(client).lease = None;
                }
                Told::Refused
            }
        };
        self.tell(caller, told);
    }

    /// Reads whose index is applied.
    pub(crate) fn serve_reads(&mut self, id: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        let applied = running.view.applied_index();
        let (ready, waiting) =
            std::mem::take(&mut running.reads).into_iter().partition(|(at, _)| *at <= applied);
        running.reads = waiting;
        let ready: Vec<(u64, Caller)> = ready;
        for (_, caller) in ready {
            self.serve_read(id, caller);
        }
    }

    fn serve_read(&mut self, id: u64, caller: Caller) {
        let Caller::Client { request, .. } = caller else { return };
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
        let Ask::Get { key, .. } = &self.history.requests[request].ask else { return };
        let range = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
        let told = match running.view.range(&range) {
            Ok(response) => Told::Got {
                revision: response.header.map_or(0, |header| header.revision),
                value: response.kvs.first().map(|kv| text(&kv.value)),
            },
            Err(_) => Told::Refused,
        };
        self.tell(caller, told);
    }
}

fn next_ask(client: &mut Client, keys: u64) -> (Ask, Request) {
    let key_name = key(client.random.below(keys));
    let dice = client.random.below(100);
    if client.must_write && !client.has_written || dice < 45 {
        let lease = client.lease.filter(|_| dice < 10 && !client.must_write).unwrap_or(0);
        let value = client.value();
        let put = PutRequest {
            key: key_name.clone().into(),
            value: value.clone().into(),
            lease,
            ..PutRequest::default()
        };
        return (Ask::Put { key: key_name, value }, Request::Propose(Op::Put(put)));
    }
    match dice {
        45..65 => (Ask::Get { key: key_name, is_linearizable: true }, Request::Read),
        65..73 => (Ask::Get { key: key_name, is_linearizable: false }, Request::Local),
        73..85 => swap(client, key_name),
        85..92 => {
            let delete = DeleteRangeRequest {
                key: key_name.clone().into(),
                ..DeleteRangeRequest::default()
            };
            (Ask::Delete { key: key_name }, Request::Propose(Op::DeleteRange(delete)))
        }
        _ => match client.lease {
            Some(lease) => (Ask::Other, Request::KeepAlive(lease)),
            None => {
                client.asked += 1;
                let id = i64::try_from(client.id * 1_000_000 + client.asked + 1).unwrap_or(1);
                let ttl = i64::try_from(client.random.within(1, 3)).unwrap_or(1);
                (Ask::Other, Request::Propose(Op::LeaseGrant(LeaseGrant { id, ttl })))
            }
        },
    }
}

/// A compare-and-swap: often of what is not there, so that several clients race to create it.
fn swap(client: &mut Client, key_name: String) -> (Ask, Request) {
    let guess = client.random.permille(500);
    let value = client.value();
    let expected = guess.then(|| format!("c{}-{}-", client.id, client.asked.saturating_sub(1)));
    let target = match &expected {
        Some(value) => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        None => (CompareTarget::Version, TargetUnion::Version(0)),
    };
    let put = PutRequest {
        key: key_name.clone().into(),
        value: value.clone().into(),
        ..PutRequest::default()
    };
    let range = RangeRequest { key: key_name.clone().into(), ..RangeRequest::default() };
    let txn = TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal.into(),
            target: target.0.into(),
            key: key_name.clone().into(),
            target_union: Some(target.1),
            ..Compare::default()
        }],
        success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put)) }],
        failure: vec![RequestOp { request: Some(request_op::Request::RequestRange(range)) }],
    };
    (Ask::Swap { key: key_name, expected, value }, Request::Propose(Op::Txn(txn)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Values are long and say nothing beyond their beginning.
fn short(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").replace("xxxx", "")
}
