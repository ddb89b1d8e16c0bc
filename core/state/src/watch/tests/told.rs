//! What a watcher is told, and when.

use super::*;
use crate::fixture::key_of;

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
