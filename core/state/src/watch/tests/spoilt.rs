//! The checker tells what is wrong with a watch that was spoilt.

use super::super::checker::{Guarantee, events_of};
use super::*;
use crate::fixture::key_of;

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
