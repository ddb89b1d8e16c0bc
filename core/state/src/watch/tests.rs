use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::checker::{Guarantee, Watched, check, events_of};
use super::*;
use crate::fixture::{Step, Trial, arbitrary_step, key_of};

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

#[derive(Clone, Debug)]
enum Act {
    Step(Step),
    Publish,
    Create(usize, Box<WatchCreateRequest>),
    Cancel(usize, i64),
    Progress(usize),
    Tick,
    CatchUp(usize),
    Deliver,
    Read(usize, usize),
    Reconnect(usize),
    Replace,
}

const CLIENTS: usize = 3;

prop_compose! {
    fn arbitrary_request()(
        key in 0_u8..12,
        range in 0_u8..6,
        start_revision in prop_oneof![3 => Just(0), 5 => 1_i64..60, 1 => -2_i64..0],
        watch_id in prop_oneof![4 => Just(0), 1 => 1_i64..5],
        filters in prop::collection::vec(0..2, 0..2),
        flags in any::<(bool, bool, bool)>(),
    ) -> WatchCreateRequest {
        let (key, range_end) = match range {
            0 => (key_of(key), Vec::new()),
            1 => (key_of(key), vec![0]),
            2 => (Vec::new(), vec![0]),
            3 => (b"k/".to_vec(), b"k0".to_vec()),
            _ => (key_of(key), key_of(key + 3)),
        };
        WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision,
            watch_id,
            filters,
            progress_notify: flags.0,
            prev_kv: flags.1,
            fragment: flags.2,
        }
    }
}

fn arbitrary_act() -> impl Strategy<Value = Act> {
    let client = || 0..CLIENTS;
    prop_oneof![
        12 => arbitrary_step().prop_map(Act::Step),
        8 => Just(Act::Publish),
        4 => (client(), arbitrary_request())
            .prop_map(|(client, request)| Act::Create(client, Box::new(request))),
        1 => (client(), 0_i64..5).prop_map(|(client, id)| Act::Cancel(client, id)),
        1 => client().prop_map(Act::Progress),
        1 => Just(Act::Tick),
        4 => (1_usize..20).prop_map(Act::CatchUp),
        4 => Just(Act::Deliver),
        4 => (client(), 1_usize..10).prop_map(|(client, count)| Act::Read(client, count)),
        1 => client().prop_map(Act::Reconnect),
        1 => Just(Act::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn watchers_get_all_they_asked_for_once_and_in_order(
        acts in prop::collection::vec(arbitrary_act(), 1..250),
    ) {
        let mut court = Court::new(small_limits(), CLIENTS);
        let mut largest = 0;
        for act in acts {
            match act {
                Act::Step(step) => court.step(&step),
                Act::Publish => court.publish(),
                Act::Create(client, request) => court.create(client, *request),
                Act::Cancel(client, id) => {
                    let stream = court.clients[client].stream;
                    court.hub.cancel(stream, id);
                }
                Act::Progress(client) => {
                    let stream = court.clients[client].stream;
                    court.hub.progress_request(stream);
                }
                Act::Tick => court.hub.progress_tick(),
                Act::CatchUp(budget) => {
                    court.hub.catch_up(&court.view, budget);
                }
                Act::Deliver => court.deliver(),
                Act::Read(client, count) => court.read(client, count),
                Act::Reconnect(client) => court.reconnect(client),
                Act::Replace => {
                    court.unpublished.clear();
                    court.hub.replaced(&court.view);
                }
            }
            for (_, response) in &court.hub.output {
                if !response.events.is_empty() {
                    largest = largest.max(response.encoded_len());
                }
            }
            for client in &court.clients {
                // Answers to requests come on top: 40 bytes for each at most, 20 requests.
                let buffered = court.hub.streams[&client.stream].buffered_bytes;
                let control = 160 * (client.requests.len() + client.log.len() + 20);
                let bound = court.hub.limits.stream_buffer_bytes_max + 8 * largest + control;
                prop_assert!(buffered <= bound, "{} bytes buffered, {}", buffered, bound);
            }
        }
        court.settle();
        court.check_all();
    }
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

#[test]
fn ids_are_given_out_from_zero_and_chosen_ones_are_stepped_over() {
    let mut court = single();
    for chosen in [0, 2, 0, 0] {
        court.create(0, WatchCreateRequest { watch_id: chosen, ..everything() });
    }
    let ids: Vec<i64> = arrived(&mut court).iter().map(|it| it.watch_id).collect();
    assert_eq!(ids, [0, 2, 1, 3]);
    let stream = court.clients[0].stream;
    court.hub.cancel(stream, 1);
    court.create(0, everything());
    let ids: Vec<i64> = arrived(&mut court).iter().map(|it| it.watch_id).collect();
    assert_eq!(ids, [1, 4], "an id given out does not come back by itself");
}

#[test]
fn refusals_say_why_and_keep_the_order_of_requests() {
    let mut court = Court::new(HubLimits { watchers_per_stream_max: 3, ..small_limits() }, 1);
    court.create(0, WatchCreateRequest { watch_id: 7, ..everything() });
    court.create(0, WatchCreateRequest { watch_id: 7, ..everything() });
    court.create(0, watch("b", "a"));
    court.create(0, watch("b", "b"));
    court.create(0, WatchCreateRequest { start_revision: -1, ..everything() });
    court.create(0, WatchCreateRequest { watch_id: -1, ..everything() });
    court.create(0, watch("b", "\0"));
    court.create(0, watch("", ""));
    court.create(0, everything());
    let stream = court.clients[0].stream;
    court.hub.refuse(stream, "etcdserver: permission denied", &court.view);
    let answers: Vec<(i64, bool, bool, String)> = arrived(&mut court)
        .into_iter()
        .map(|it| (it.watch_id, it.created, it.canceled, it.cancel_reason))
        .collect();
    let refused = |reason: &str| (-1, true, true, reason.to_owned());
    let created = |id: i64| (id, true, false, String::new());
    assert_eq!(
        answers,
        [
            created(7),
            refused("mvcc: duplicate watch ID provided on the WatchStream"),
            refused("mvcc: watcher range is empty"),
            refused("mvcc: watcher range is empty"),
            refused("etcdserver: mvcc: required revision has been compacted"),
            refused("mvcc: watch ID -1 is reserved"),
            created(0),
            created(1),
            refused("mvcc: too many watchers on the WatchStream"),
            refused("etcdserver: permission denied"),
        ]
    );
}

#[test]
fn a_watch_from_now_on_tells_the_newest_revision_though_it_is_not_published_yet() {
    let mut court = single();
    court.step(&Step::Put(1, 1));
    court.step(&Step::Put(1, 1));
    court.create(0, everything());
    assert_eq!(header_revision(&arrived(&mut court)[0]), 3);
    let stream = court.clients[0].stream;
    court.hub.progress_request(stream);
    assert_eq!(arrived(&mut court), [], "progress would be behind what the creation told");
    court.publish();
    let answer = arrived(&mut court);
    assert_eq!(answer.len(), 1, "what was there before the watch is not sent");
    assert_eq!((answer[0].watch_id, header_revision(&answer[0])), (NO_WATCH_ID, 3));
    court.apply(&Step::Put(1, 1));
    assert_eq!(revisions(&arrived(&mut court)), [4]);
}

#[test]
fn a_watch_of_the_past_gets_the_past_then_the_present() {
    let mut court = single();
    for _ in 0..5 {
        court.apply(&Step::Put(1, 1));
    }
    court.create(0, WatchCreateRequest { start_revision: 3, ..everything() });
    assert_eq!(header_revision(&arrived(&mut court)[0]), 6);
    assert!(!court.hub.catch_up(&court.view, 100));
    let past = arrived(&mut court);
    assert_eq!(revisions(&past), [3, 4, 5, 6]);
    assert_eq!(past.len(), 1);
    court.apply(&Step::Put(1, 1));
    assert_eq!(revisions(&arrived(&mut court)), [7]);
}

#[test]
fn a_watch_of_the_future_waits_for_it() {
    let mut court = single();
    court.create(0, WatchCreateRequest { start_revision: 4, ..everything() });
    let stream = court.clients[0].stream;
    court.hub.progress_request(stream);
    for _ in 0..4 {
        court.apply(&Step::Put(1, 1));
    }
    let all = arrived(&mut court);
    assert_eq!(header_revision(&all[0]), 1);
    assert_eq!(revisions(&all), [4, 5]);
    // The progress asked for came when the start was reached, behind the event.
    let progress = all.iter().position(|it| it.watch_id == NO_WATCH_ID).unwrap();
    assert_eq!((progress, header_revision(&all[progress])), (2, 4));
}

#[test]
fn a_compacted_start_is_created_then_cancelled_with_the_compact_revision() {
    let mut court = single();
    for _ in 0..9 {
        court.apply(&Step::Put(1, 1));
    }
    court.apply(&Step::Compact(50));
    let compact_revision = court.view.compact_revision();
    assert_eq!(compact_revision, 5);
    court.create(0, WatchCreateRequest { start_revision: 4, ..everything() });
    court.create(0, WatchCreateRequest { start_revision: 5, ..everything() });
    let answers = arrived(&mut court);
    assert!(answers[0].created && !answers[0].canceled);
    assert!(answers[1].canceled && answers[1].cancel_reason.is_empty());
    assert_eq!((answers[1].watch_id, answers[1].compact_revision), (0, 5));
    assert!(answers[2].created && !answers[2].canceled);
    court.hub.catch_up(&court.view, 100);
    assert_eq!(revisions(&arrived(&mut court)), [5, 6, 7, 8, 9, 10]);

    // The client's own cancel of a watch that is over is answered as well, once.
    let stream = court.clients[0].stream;
    court.hub.cancel(stream, 0);
    court.hub.cancel(stream, 0);
    court.hub.cancel(stream, 99);
    let answers = arrived(&mut court);
    assert_eq!(answers.len(), 1);
    assert!(answers[0].canceled && answers[0].compact_revision == 0);
}

#[test]
fn a_delete_at_the_compact_revision_is_still_seen() {
    let mut court = single();
    court.apply(&Step::Put(1, 1));
    court.apply(&Step::Delete(1, 1));
    court.apply(&Step::Put(2, 1));
    court.apply(&Step::Compact(75));
    court.apply(&Step::Sweep);
    assert_eq!(court.view.compact_revision(), 3);
    court.create(0, WatchCreateRequest { start_revision: 3, ..everything() });
    court.hub.catch_up(&court.view, 100);
    let all = arrived(&mut court);
    assert_eq!(revisions(&all), [3, 4]);
    let deleted = &all[1].events[0];
    let kv = deleted.kv.as_ref().unwrap();
    assert_eq!(deleted.r#type, 1);
    let bare = proto::mvccpb::KeyValue {
        key: key_of(1).into(),
        mod_revision: 3,
        ..proto::mvccpb::KeyValue::default()
    };
    assert_eq!(*kv, bare);
}

#[test]
fn a_slow_stream_costs_its_buffer_and_loses_nothing() {
    let limits = HubLimits { stream_buffer_bytes_max: 5000, ..HubLimits::default() };
    let mut court = Court::new(limits, 2);
    court.create(0, everything());
    court.create(1, everything());
    for _ in 0..500 {
        court.apply(&Step::Put(1, 200));
        court.deliver();
        court.read(1, usize::MAX);
        assert!(court.hub.figures().buffered_bytes < 5000 + 400);
        assert_eq!(
            court.clients[1].log.last().map(|it| revisions(std::slice::from_ref(it))[0]),
            Some(court.view.revision()),
            "others are not held up"
        );
    }
    assert_eq!(court.hub.figures().watchers_behind, 1);
    for _ in 0..100 {
        court.hub.catch_up(&court.view, 1000);
    }
    assert!(court.hub.figures().buffered_bytes < 5000 + 400, "who does not read is not sent more");
    court.settle();
    assert_eq!(revisions(&court.clients[0].log), (2..=501).collect::<Vec<i64>>());
    court.check_all();
}

#[test]
fn a_slow_watcher_whose_past_is_compacted_is_told_so() {
    let limits = HubLimits { stream_buffer_bytes_max: 1000, ..HubLimits::default() };
    let mut court = Court::new(limits, 1);
    court.create(0, everything());
    for _ in 0..50 {
        court.apply(&Step::Put(1, 200));
    }
    court.apply(&Step::Compact(100));
    court.settle();
    let last = court.clients[0].log.last().unwrap();
    assert!(last.canceled);
    assert_eq!(last.compact_revision, court.view.compact_revision());
    assert_eq!(court.hub.figures().watchers, 0);
}

#[test]
fn many_revisions_published_at_once_are_cut_by_revision_and_by_size() {
    let mut court = Court::new(small_limits(), 1);
    court.create(0, everything());
    for _ in 0..4 {
        court.step(&Step::Put(1, 10));
    }
    court.publish();
    let all = arrived(&mut court);
    let told: Vec<(i64, Vec<i64>)> = all[1..]
        .iter()
        .map(|it| (header_revision(it), revisions(std::slice::from_ref(it))))
        .collect();
    assert_eq!(told, [(4, vec![2, 3, 4]), (5, vec![5])]);

    let all_keys: Vec<(u8, bool)> = (0..40).map(|key| (key, true)).collect();
    court.apply(&Step::Txn(all_keys));
    let all = arrived(&mut court);
    assert_eq!(all.len(), 1, "a revision is not cut without being asked to");
    assert_eq!(all[0].events.len(), 40);
}

#[test]
fn fragments_are_marked_and_put_together_give_the_revision() {
    let mut court = Court::new(small_limits(), 1);
    court.create(0, WatchCreateRequest { fragment: true, ..everything() });
    let all_keys: Vec<(u8, bool)> = (0..40).map(|key| (key, true)).collect();
    court.apply(&Step::Txn(all_keys));
    court.settle();
    let all = court.clients[0].log[1..].to_vec();
    assert!(all.len() > 5);
    let (last, parts) = all.split_last().unwrap();
    assert!(parts.iter().all(|it| it.fragment) && !last.fragment);
    assert!(all.iter().all(|it| it.encoded_len() <= 200 && header_revision(it) == 2));
    assert_eq!(revisions(&all), [2; 40]);
    court.apply(&Step::Put(1, 1));
    court.settle();
    assert!(!court.clients[0].log.last().unwrap().fragment, "a small one stays whole");
}

#[test]
fn filtered_watchers_are_not_woken_but_learn_the_revision() {
    let mut court = single();
    let filters = vec![FilterType::Noput.into()];
    court.create(0, WatchCreateRequest { filters, progress_notify: true, ..everything() });
    arrived(&mut court);
    court.apply(&Step::Put(1, 1));
    assert_eq!(arrived(&mut court), []);
    court.hub.progress_tick();
    let progress = arrived(&mut court);
    assert_eq!((progress[0].watch_id, header_revision(&progress[0])), (0, 2));
    court.apply(&Step::Delete(1, 1));
    assert_eq!(revisions(&arrived(&mut court)), [3]);
}

#[test]
fn the_state_before_comes_with_updates_and_deletes_and_not_with_creations() {
    let mut court = single();
    court.create(0, WatchCreateRequest { prev_kv: true, ..everything() });
    court.create(0, everything());
    for step in [Step::Put(1, 5), Step::Put(1, 6), Step::Delete(1, 1), Step::Put(1, 7)] {
        court.step(&step);
    }
    court.publish();
    let all = arrived(&mut court);
    let before = |response: &WatchResponse| -> Vec<Option<i64>> {
        let prev = |event: &proto::mvccpb::Event| event.prev_kv.as_ref().map(|it| it.mod_revision);
        response.events.iter().map(prev).collect()
    };
    assert_eq!(before(&all[2]), [None, Some(2), Some(3), None]);
    assert_eq!(before(&all[3]), [None; 4]);
    court.check_all();
}

#[test]
fn progress_is_told_only_when_idle_since_the_last_tick() {
    let mut court = single();
    court.create(0, WatchCreateRequest { progress_notify: true, ..everything() });
    court.create(0, everything());
    arrived(&mut court);
    court.apply(&Step::Put(1, 1));
    arrived(&mut court);
    court.hub.progress_tick();
    assert_eq!(arrived(&mut court), [], "it was just sent something");
    court.hub.progress_tick();
    let progress = arrived(&mut court);
    assert_eq!(progress.len(), 1, "only who asked for it");
    assert_eq!((progress[0].watch_id, header_revision(&progress[0])), (0, 2));
}

#[test]
fn progress_of_a_stream_waits_for_its_last_watcher() {
    let mut court = single();
    for _ in 0..5 {
        court.apply(&Step::Put(1, 1));
    }
    let stream = court.clients[0].stream;
    court.hub.progress_request(stream);
    assert_eq!(arrived(&mut court), [], "nothing to tell a stream without watchers");
    court.create(0, everything());
    court.create(0, WatchCreateRequest { start_revision: 2, ..everything() });
    court.hub.progress_request(stream);
    court.hub.progress_request(stream);
    assert_eq!(arrived(&mut court).len(), 2);
    court.hub.catch_up(&court.view, 100);
    let all = arrived(&mut court);
    assert_eq!(revisions(&all[..1]), [2, 3, 4, 5, 6]);
    assert_eq!((all.len(), all[1].watch_id, header_revision(&all[1])), (2, NO_WATCH_ID, 6));
    court.hub.progress_request(stream);
    assert_eq!(arrived(&mut court).len(), 1);

    // One that is behind and leaves no longer holds the answer up.
    court.create(0, WatchCreateRequest { start_revision: 2, ..everything() });
    court.hub.progress_request(stream);
    assert_eq!(arrived(&mut court).len(), 1);
    court.hub.cancel(stream, 2);
    let all = arrived(&mut court);
    assert!(all[0].canceled && all[1].watch_id == NO_WATCH_ID);
}

#[test]
fn a_replaced_state_is_read_from_its_history_or_cancelled() {
    let mut court = Court::new(HubLimits::default(), 1);
    court.create(0, everything());
    court.create(0, WatchCreateRequest { start_revision: 100, ..everything() });
    court.apply(&Step::Put(1, 1));
    for _ in 0..8 {
        court.step(&Step::Put(2, 1));
    }
    court.unpublished.clear();
    court.hub.replaced(&court.view);
    court.settle();
    assert_eq!(revisions(&court.clients[0].log), (2..=10).collect::<Vec<i64>>());

    for step in [Step::Put(2, 1), Step::Compact(100), Step::Put(2, 1)] {
        court.step(&step);
    }
    court.unpublished.clear();
    // The watcher needs revision 11, which is the compact revision: still there.
    court.hub.replaced(&court.view);
    court.settle();
    assert_eq!(revisions(&court.clients[0].log), (2..=12).collect::<Vec<i64>>());
    for step in [Step::Put(2, 1), Step::Put(2, 1), Step::Compact(100)] {
        court.step(&step);
    }
    court.unpublished.clear();
    court.hub.replaced(&court.view);
    court.settle();
    let last = court.clients[0].log.last().unwrap();
    assert_eq!((last.watch_id, last.canceled, last.compact_revision), (0, true, 14));
    assert_eq!(court.hub.figures().watchers, 1, "the one of the future stays");
}

#[test]
fn an_evicted_watcher_is_told_why() {
    let mut court = single();
    court.create(0, everything());
    let stream = court.clients[0].stream;
    court.hub.evict(stream, 0, "etcdserver: permission denied");
    court.apply(&Step::Put(1, 1));
    let all = arrived(&mut court);
    assert_eq!(all.len(), 2);
    assert_eq!(
        (all[1].canceled, all[1].cancel_reason.as_str()),
        (true, "etcdserver: permission denied")
    );
}

#[test]
fn a_closed_stream_leaves_nothing_behind() {
    let mut court = Court::new(small_limits(), 2);
    for client in [0, 0, 1] {
        court.create(client, everything());
    }
    for _ in 0..50 {
        court.apply(&Step::Put(1, 100));
    }
    court.hub.catch_up(&court.view, 10);
    for client in [0, 1] {
        let stream = court.clients[client].stream;
        court.hub.close(stream);
        court.hub.close(stream);
    }
    court.deliver();
    assert!(court.clients.iter().all(|client| client.inbox.is_empty()));
    assert_eq!(HubFigures { events_total: 0, ..court.hub.figures() }, HubFigures::default());
    assert!(court.hub.ready.is_empty() && court.hub.watchers.is_empty());
    court.apply(&Step::Put(1, 1));
    assert!(!court.hub.catch_up(&court.view, 10));
}

#[test]
fn watchers_that_are_behind_take_turns() {
    let mut court = Court::new(HubLimits { response_revisions_max: 10, ..HubLimits::default() }, 1);
    for _ in 0..100 {
        court.apply(&Step::Put(1, 1));
    }
    for _ in 0..5 {
        let key = watch("k/01", "");
        court.create(0, WatchCreateRequest { start_revision: 2, ..key });
    }
    arrived(&mut court);
    let mut order = Vec::new();
    while court.hub.catch_up(&court.view, 1) {
        order.extend(arrived(&mut court).iter().map(|it| it.watch_id));
    }
    assert_eq!(order[..10], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
}

#[test]
fn watchers_that_come_back_together_read_the_past_together() {
    let limits = HubLimits { response_revisions_max: 10, ..HubLimits::default() };
    let mut court = Court::new(limits, 2);
    for _ in 0..40 {
        court.apply(&Step::Put(1, 1));
        court.apply(&Step::Put(2, 1));
        court.apply(&Step::Delete(1, 2));
    }
    let start_revision = |at: i64| WatchCreateRequest { start_revision: at, ..everything() };
    for at in [2, 5, 9, 11, 12, 30, 40] {
        for client in [0, 1] {
            court.create(client, start_revision(at));
            court.create(client, WatchCreateRequest { prev_kv: true, ..watch("k/02", "k/09") });
            let filters = vec![FilterType::Nodelete.into()];
            let range = watch("k/01", "k/02");
            court.create(client, WatchCreateRequest { filters, start_revision: at, ..range });
        }
    }
    // 14 ranges from the start and 14 puts only: far fewer pages than watchers × revisions / 10.
    let mut turns = 0;
    while court.hub.catch_up(&court.view, 1) {
        turns += 1;
    }
    assert!(turns < 60, "{turns} pages");
    court.settle();
    court.check_all();
}

#[test]
fn reading_together_respects_the_room_of_each_stream() {
    let limits = HubLimits { stream_buffer_bytes_max: 2000, ..HubLimits::default() };
    let mut court = Court::new(limits, 2);
    for _ in 0..10 {
        court.apply(&Step::Put(1, 100));
    }
    for client in [0, 0, 0, 0, 0, 0, 0, 0, 1] {
        court.create(client, WatchCreateRequest { start_revision: 2, ..everything() });
    }
    court.hub.catch_up(&court.view, 1000);
    // Two pages of some 1,500 bytes fill the first stream; the second is served all the same.
    let buffered = |court: &Court, client: usize| {
        court.hub.streams[&court.clients[client].stream].buffered_bytes
    };
    assert!(buffered(&court, 0) < 4000, "{} bytes", buffered(&court, 0));
    assert!(buffered(&court, 1) > 1000);
    court.settle();
    court.check_all();
}

#[test]
#[should_panic(expected = "published after")]
fn a_hub_refuses_to_go_on_after_a_gap() {
    let mut court = single();
    court.step(&Step::Put(1, 1));
    court.unpublished.clear();
    court.apply(&Step::Put(1, 1));
}

/// A watch as it should be, to be spoilt.
fn honest() -> (Vec<Event>, WatchCreateRequest, Vec<WatchResponse>) {
    let mut court = single();
    court.apply(&Step::Put(9, 1));
    court.create(
        0,
        WatchCreateRequest { prev_kv: true, progress_notify: true, ..watch("k/", "k/08") },
    );
    for step in [
        Step::Put(1, 1),
        Step::Put(9, 1),
        Step::Txn(vec![(1, true), (2, true), (3, true)]),
        Step::Delete(1, 2),
        Step::Put(2, 1),
    ] {
        court.apply(&step);
    }
    court.hub.progress_tick();
    court.hub.progress_tick();
    court.apply(&Step::Put(2, 1));
    court.settle();
    let records: Vec<_> = court.trial.history.iter().map(|it| it.record.clone()).collect();
    let history = events_of(&records);
    assert_eq!(history, court.trial.history);
    let (request, responses) =
        sessions(&court.clients[0].requests, &court.clients[0].log).remove(0);
    (history, request, responses)
}

/// What the checker says to a watch after something was done to its responses.
fn verdict(spoil: impl FnOnce(&mut Vec<WatchResponse>)) -> Option<Guarantee> {
    let (history, request, mut responses) = honest();
    spoil(&mut responses);
    let watched = Watched {
        history: &history,
        request: &request,
        responses: &responses,
        compact_revision: 0,
        complete_through: Some(8),
    };
    check(&watched).err().map(|violation| violation.guarantee)
}

#[test]
fn the_checker_tells_each_guarantee_broken() {
    assert_eq!(verdict(|_| {}), None);
    // 0 created, 1 put, 2 txn of three, 3 delete of two, 4 put, 5 progress, 6 put.
    let drop = |index: usize| verdict(move |all| drop(all.remove(index)));
    assert_eq!(drop(0), Some(Guarantee::Protocol));
    assert_eq!(drop(1), Some(Guarantee::Resumable));
    assert_eq!(drop(2), Some(Guarantee::Reliable));
    assert_eq!(drop(6), Some(Guarantee::Reliable));
    let forgets_headers = |all: &mut Vec<WatchResponse>| {
        for response in &mut all[1..] {
            response.header.as_mut().unwrap().revision = 0;
        }
    };
    assert_eq!(
        verdict(|all| {
            forgets_headers(all);
            all.swap(2, 3);
        }),
        Some(Guarantee::Reliable)
    );
    assert_eq!(
        verdict(|all| {
            forgets_headers(all);
            let again = all[1].clone();
            all.insert(3, again);
        }),
        Some(Guarantee::Ordered)
    );
    assert_eq!(
        verdict(|all| {
            forgets_headers(all);
            let again = all[1].clone();
            all.insert(2, again);
        }),
        Some(Guarantee::Unique)
    );
    assert_eq!(
        verdict(|all| {
            let mut rest = all[2].clone();
            rest.events = all[2].events.split_off(1);
            all.insert(3, rest);
        }),
        Some(Guarantee::Atomic)
    );
    assert_eq!(
        verdict(|all| {
            let mut rest = all[2].clone();
            rest.events = all[2].events.split_off(1);
            all[2].fragment = true;
            all.insert(3, rest);
        }),
        None,
        "fragments are put together"
    );
    assert_eq!(verdict(|all| all.swap(5, 6)), Some(Guarantee::Bookmarkable));
    assert_eq!(
        verdict(|all| all[5].header.as_mut().unwrap().revision = 8),
        Some(Guarantee::Reliable),
        "a bookmark ahead of its events"
    );
    let kv = |all: &mut Vec<WatchResponse>| all[1].events[0].kv.clone().unwrap();
    assert_eq!(
        verdict(|all| {
            let other = proto::mvccpb::KeyValue { create_revision: 2, ..kv(all) };
            all[1].events[0].kv = Some(other);
        }),
        Some(Guarantee::IsCreate)
    );
    assert_eq!(
        verdict(|all| {
            let other =
                proto::mvccpb::KeyValue { key: key_of(9).into(), mod_revision: 4, ..kv(all) };
            all[1].events[0].kv = Some(other);
        }),
        Some(Guarantee::Filter)
    );
    assert_eq!(
        verdict(|all| {
            let other = proto::mvccpb::KeyValue { value: "other".into(), ..kv(all) };
            all[1].events[0].kv = Some(other);
        }),
        Some(Guarantee::Filter)
    );
    assert_eq!(verdict(|all| all[2].events[0].prev_kv = None), Some(Guarantee::PrevKv));
    assert_eq!(verdict(|all| all[2].events[1].prev_kv = Some(kv(all))), Some(Guarantee::PrevKv));
}
