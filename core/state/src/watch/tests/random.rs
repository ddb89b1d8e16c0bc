//! Whatever happens, in whatever order.

use proptest::prelude::*;

use super::*;
use crate::fixture::{arbitrary_step, key_of};

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
