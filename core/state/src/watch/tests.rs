//! A hub, a state beside it, and clients that read when they like.

mod behind;
mod random;
mod spoilt;
mod told;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::checker::{Watched, check};
use super::*;
use crate::fixture::{Step, Trial};

fn small_limits() -> HubLimits {
    HubLimits {
        response_revisions_max: 3,
        response_bytes_max: 400,
        fragment_bytes_max: 200,
        stream_buffer_bytes_max: 900,
        watchers_per_stream_max: 20,
        ended_per_stream_max: 4,
        output_responses_max: 5,
    }
}

/// A member's state with a hub beside it, and clients.
struct Court {
    trial: Trial,
    hub: Hub,
    /// Newest state, published or not.
    view: View,
    unpublished: Vec<Event>,
    clients: Vec<Client>,
    /// Watches that are over, as they were requested and answered.
    closed: Vec<(WatchCreateRequest, Vec<WatchResponse>)>,
}

/// One client with one stream at a time.
struct Client {
    stream: StreamId,
    requests: Vec<WatchCreateRequest>,
    /// Arrived, but not read by the client: not reported as sent.
    inbox: VecDeque<WatchResponse>,
    log: Vec<WatchResponse>,
}

impl Court {
    fn new(limits: HubLimits, clients: usize) -> Self {
        let mut trial = Trial::new();
        let view = trial.state.publish();
        let mut hub = Hub::new(limits, &view);
        let clients = (0..clients)
            .map(|_| Client {
                stream: hub.open(),
                requests: Vec::new(),
                inbox: VecDeque::new(),
                log: Vec::new(),
            })
            .collect();
        Self { trial, hub, view, unpublished: Vec::new(), clients, closed: Vec::new() }
    }

    fn step(&mut self, step: &Step) {
        let (_, view, events) = self.trial.step(step);
        self.unpublished.extend(events);
        self.view = view;
    }

    fn publish(&mut self) {
        let events = std::mem::take(&mut self.unpublished);
        self.hub.publish(&self.view, &events);
    }

    fn apply(&mut self, step: &Step) {
        self.step(step);
        self.publish();
    }

    fn create(&mut self, client: usize, request: WatchCreateRequest) {
        let Client { stream, requests, .. } = &mut self.clients[client];
        self.hub.create(*stream, request.clone(), &self.view);
        requests.push(request);
    }

    /// Responses travel to the clients, who have not read them yet.
    fn deliver(&mut self) {
        while self.hub.has_output() {
            let output = self.hub.take_output();
            assert!(output.len() <= self.hub.limits.output_responses_max);
            for (stream, response) in output {
                let client = self.clients.iter_mut().find(|it| it.stream == stream);
                client.expect("no output for a closed stream").inbox.push_back(response);
            }
        }
    }

    fn read(&mut self, client: usize, responses: usize) {
        let client = &mut self.clients[client];
        for _ in 0..responses {
            let Some(response) = client.inbox.pop_front() else { return };
            self.hub.sent(client.stream, response.encoded_len());
            client.log.push(response);
        }
    }

    fn settle(&mut self) {
        self.publish();
        for _ in 0..100_000 {
            let more = self.hub.catch_up(&self.view, 7);
            self.deliver();
            for client in 0..self.clients.len() {
                self.read(client, usize::MAX);
            }
            if !more && self.hub.figures().watchers_behind == 0 {
                break;
            }
        }
        assert_eq!(self.hub.figures().watchers_behind, 0, "everyone catches up in the end");
        assert_eq!(self.hub.figures().buffered_bytes, 0);
    }

    /// The connection breaks; the client opens another and watches on from what it knows.
    fn reconnect(&mut self, client: usize) {
        let Client { stream, requests, log, .. } = &mut self.clients[client];
        self.hub.close(*stream);
        *stream = self.hub.open();
        let requests = std::mem::take(requests);
        let log = std::mem::take(log);
        self.clients[client].inbox.clear();
        for (request, responses) in sessions(&requests, &log) {
            let Some(first) = responses.first() else {
                // Never answered: asked again.
                self.create(client, request);
                continue;
            };
            let is_over = responses.iter().any(|it| it.canceled);
            let mut next = match request.start_revision {
                0 => first.header.as_ref().unwrap().revision + 1,
                chosen => chosen,
            };
            for response in &responses[1..] {
                // As a client should: a whole response with its revision, or a bare progress.
                if response.fragment {
                    continue;
                }
                next = next.max(response.header.as_ref().unwrap().revision + 1);
            }
            if !is_over {
                self.create(client, WatchCreateRequest { start_revision: next, ..request.clone() });
            }
            self.closed.push((request, responses));
        }
    }

    fn check_all(&self) {
        let judge =
            |request: &WatchCreateRequest, responses: &[WatchResponse], complete_through| {
                let watched = Watched {
                    history: &self.trial.history,
                    request,
                    responses,
                    compact_revision: self.view.compact_revision(),
                    complete_through,
                };
                assert_eq!(check(&watched), Ok(()), "{request:?} {responses:#?}");
            };
        for (request, responses) in &self.closed {
            judge(request, responses, None);
        }
        for client in &self.clients {
            for (request, responses) in sessions(&client.requests, &client.log) {
                judge(&request, &responses, Some(self.view.revision()));
            }
        }
    }
}

/// What a stream's log says to each request: creations are answered in order, the rest goes by id.
fn sessions(
    requests: &[WatchCreateRequest],
    log: &[WatchResponse],
) -> Vec<(WatchCreateRequest, Vec<WatchResponse>)> {
    let mut found: Vec<(WatchCreateRequest, Vec<WatchResponse>)> =
        requests.iter().map(|it| (it.clone(), Vec::new())).collect();
    let mut by_id: BTreeMap<i64, usize> = BTreeMap::new();
    let mut created = 0;
    for response in log {
        if response.created {
            found[created].1.push(response.clone());
            if !response.canceled {
                by_id.insert(response.watch_id, created);
            }
            created += 1;
        } else if response.watch_id == NO_WATCH_ID {
            for index in by_id.values() {
                found[*index].1.push(response.clone());
            }
        } else {
            // The client's cancel of a watch that the hub had ended is answered, too.
            let Some(index) = by_id.get(&response.watch_id) else {
                assert!(response.canceled && response.events.is_empty());
                continue;
            };
            found[*index].1.push(response.clone());
            if response.canceled {
                by_id.remove(&response.watch_id);
            }
        }
    }
    found
}

fn watch(key: &str, range_end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
        ..WatchCreateRequest::default()
    }
}

fn everything() -> WatchCreateRequest {
    watch("\0", "\0")
}

/// One client that reads at once.
fn single() -> Court {
    Court::new(HubLimits::default(), 1)
}

/// What has arrived since the last call.
fn arrived(court: &mut Court) -> Vec<WatchResponse> {
    court.deliver();
    let before = court.clients[0].log.len();
    court.read(0, usize::MAX);
    court.clients[0].log[before..].to_vec()
}

fn revisions(responses: &[WatchResponse]) -> Vec<i64> {
    let events = responses.iter().flat_map(|response| &response.events);
    events.map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
}

fn header_revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().unwrap().revision
}
