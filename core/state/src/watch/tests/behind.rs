//! Those who do not follow: slow, late, replaced, gone.

use super::*;

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
