//! What a watcher may rely on, as a check over what it was sent.
//!
//! Nine guarantees, by etcd's names:
//!
//! | | |
//! |---|---|
//! | Filter | only events of the range and the kinds asked for |
//! | Ordered | revisions never go back |
//! | Unique | no event comes twice |
//! | Atomic | the events of one revision come in one response (fragments put together) |
//! | Bookmarkable | after a response with revision R, nothing at or below R comes any more |
//! | Resumable | the first event is the first there is from the start revision on |
//! | IsCreate | a put is a creation exactly if the key did not exist |
//! | Reliable | nothing between two events, or below a bookmark, is left out |
//! | PrevKV | what came before is the state just before the event |
//!
//! [`check`] judges one watcher from creation to its end. For a client that reconnects, each
//! connection is judged on its own, the later ones with the start revision that the client derived
//! from the earlier: together they cover the whole watch.

use std::fmt;

use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use proto::mvccpb::{self, KeyValue};
use thiserror::Error;

use super::Wants;
use crate::mvcc::KeyRange;
use crate::outcome::Event;
use crate::record::Record;

/// The guarantees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Only what was asked for.
    Filter,
    /// In order of revision.
    Ordered,
    /// Each once.
    Unique,
    /// Revisions whole.
    Atomic,
    /// Nothing at or below a revision told before.
    Bookmarkable,
    /// From the start on.
    Resumable,
    /// Creations are told from updates.
    IsCreate,
    /// No gaps.
    Reliable,
    /// The state before.
    PrevKv,
    /// Not one of the nine: the responses themselves make no sense.
    Protocol,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A guarantee broken.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{guarantee} broken at response {response}: {detail}")]
pub struct Violation {
    /// Which.
    pub guarantee: Guarantee,
    /// By which response of those given, from 0.
    pub response: usize,
    /// How.
    pub detail: String,
}

/// A watcher's case: what really happened, what it asked for, what it got.
#[derive(Clone, Copy, Debug)]
pub struct Watched<'a> {
    /// Every event there ever was, in order, whatever has been compacted since. Each with the record
    /// that lived under its key before it, if one did.
    pub history: &'a [Event],
    /// What the watcher asked for.
    pub request: &'a WatchCreateRequest,
    /// Responses of the stream from the watcher's creation to its end, or to now: its own and those
    /// for all watchers of the stream. Others must have been left out.
    pub responses: &'a [WatchResponse],
    /// The highest compact revision there was while it watched: an event at or below it may come
    /// without the state before. 0 or less for none.
    pub compact_revision: i64,
    /// The watcher was idle at the end: everything up to this revision must have come. `None` if it
    /// was cut off somewhere.
    pub complete_through: Option<i64>,
}

/// Every event of a history of records, with what came before.
#[must_use]
pub fn events_of(records: &[Record]) -> Vec<Event> {
    let mut live = std::collections::BTreeMap::new();
    let event = |record: &Record| {
        let prev = if record.is_tombstone() {
            live.remove(record.key())
        } else {
            live.insert(record.key().to_vec(), record.clone())
        };
        Event { record: record.clone(), prev }
    };
    records.iter().map(event).collect()
}

/// Judges one watcher.
///
/// # Errors
/// The first [`Violation`].
pub fn check(watched: &Watched<'_>) -> Result<(), Violation> {
    let Some((created, responses)) = watched.responses.split_first() else { return Ok(()) };
    let fail =
        |guarantee, response: usize, detail: String| Err(Violation { guarantee, response, detail });
    if !created.created || !created.events.is_empty() {
        return fail(Guarantee::Protocol, 0, "the first response is no creation".to_owned());
    }
    if created.canceled {
        return Ok(());
    }
    let start = match watched.request.start_revision {
        0 => revision_of(created) + 1,
        chosen => chosen,
    };
    let mut case = Case {
        watched,
        wants: Wants::of(watched.request),
        expected: 0,
        bookmark: 0,
        last: None,
        response: 0,
    };
    case.expected = case.next_wanted(0, start);

    let mut assembled: Vec<mvccpb::Event> = Vec::new();
    for (index, response) in responses.iter().enumerate() {
        case.response = index + 1;
        assembled.extend(response.events.iter().cloned());
        if response.fragment {
            continue;
        }
        case.take_events(&std::mem::take(&mut assembled))?;
        case.take_revision(response)?;
        if response.canceled {
            if index + 1 < responses.len() {
                return fail(
                    Guarantee::Protocol,
                    index + 2,
                    "something follows the cancellation".to_owned(),
                );
            }
            return Ok(());
        }
    }
    match watched.complete_through {
        Some(revision) => case.missing_through(revision),
        None => Ok(()),
    }
}

fn revision_of(response: &WatchResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

/// Where the check stands.
struct Case<'a> {
    watched: &'a Watched<'a>,
    wants: Wants,
    /// The event of the history that must come next; its length if none is left.
    expected: usize,
    /// The highest revision told by responses so far.
    bookmark: i64,
    /// The event that came last.
    last: Option<usize>,
    response: usize,
}

impl Case<'_> {
    fn fail(&self, guarantee: Guarantee, detail: String) -> Result<(), Violation> {
        Err(Violation { guarantee, response: self.response, detail })
    }

    fn is_wanted(&self, event: &Event) -> bool {
        let request = self.watched.request;
        let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
        KeyRange::new(key, &request.range_end).contains(event.record.key())
            && self.wants.event(event)
    }

    /// First event from `index` and `revision` on that the watcher is to get.
    fn next_wanted(&self, index: usize, revision: i64) -> usize {
        let rest = &self.watched.history[index..];
        let wanted =
            |event: &Event| event.record.mod_revision() >= revision && self.is_wanted(event);
        rest.iter().position(wanted).map_or(self.watched.history.len(), |offset| index + offset)
    }

    fn take_events(&mut self, events: &[mvccpb::Event]) -> Result<(), Violation> {
        for event in events {
            self.take_event(event)?;
        }
        // A revision begun must be finished before the response ends.
        let history = &self.watched.history;
        if let (Some(last), Some(next)) = (self.last, history.get(self.expected)) {
            let (last, next) = (&history[last].record, &next.record);
            if !events.is_empty() && last.mod_revision() == next.mod_revision() {
                return self.fail(Guarantee::Atomic, format!("{next:?} is left for later"));
            }
        }
        Ok(())
    }

    fn take_event(&mut self, event: &mvccpb::Event) -> Result<(), Violation> {
        let history = self.watched.history;
        let Some(kv) = &event.kv else {
            return self.fail(Guarantee::Protocol, "an event without a key".to_owned());
        };
        let named =
            |it: &Event| it.record.mod_revision() == kv.mod_revision && it.record.key() == kv.key;
        let from = history.partition_point(|it| it.record.mod_revision() < kv.mod_revision);
        let Some(index) = history[from..].iter().position(named).map(|offset| from + offset) else {
            return self.fail(Guarantee::Filter, format!("{} never happened", shown(kv)));
        };
        let truth = &history[index];
        if !self.is_wanted(truth) {
            return self.fail(Guarantee::Filter, format!("{:?} was not asked for", truth.record));
        }
        if kv.mod_revision <= self.bookmark {
            let detail = format!("{} comes after revision {} was told", shown(kv), self.bookmark);
            return self.fail(Guarantee::Bookmarkable, detail);
        }
        if let Some(last) = self.last {
            if index == last {
                return self.fail(Guarantee::Unique, format!("{} comes twice", shown(kv)));
            }
            if index < last {
                let detail = format!("{} comes after {:?}", shown(kv), history[last].record);
                return self.fail(Guarantee::Ordered, detail);
            }
        }
        if index != self.expected {
            let missing = history.get(self.expected).map(|it| &it.record);
            let guarantee =
                if self.last.is_none() { Guarantee::Resumable } else { Guarantee::Reliable };
            return self.fail(guarantee, format!("{} comes before {missing:?}", shown(kv)));
        }
        self.check_content(event, kv, truth)?;
        self.last = Some(index);
        self.expected = self.next_wanted(index + 1, kv.mod_revision);
        Ok(())
    }

    fn check_content(
        &self,
        event: &mvccpb::Event,
        kv: &KeyValue,
        truth: &Event,
    ) -> Result<(), Violation> {
        let record = &truth.record;
        let is_delete = event.r#type() == mvccpb::event::EventType::Delete;
        let is_create = !is_delete && kv.create_revision == kv.mod_revision;
        if is_create != (truth.prev.is_none() && !record.is_tombstone()) {
            let detail = format!("{} after {:?}", shown(kv), truth.prev);
            return self.fail(Guarantee::IsCreate, detail);
        }
        if is_delete != record.is_tombstone() || *kv != record.to_key_value() {
            return self.fail(Guarantee::Filter, format!("{} is really {record:?}", shown(kv)));
        }
        let prev = truth.prev.as_ref().filter(|_| self.wants.prev_kv).map(Record::to_key_value);
        let is_forgotten =
            event.prev_kv.is_none() && record.mod_revision() <= self.watched.compact_revision;
        if event.prev_kv != prev && !is_forgotten {
            let detail = format!("{} has {:?}", shown(kv), event.prev_kv.as_ref().map(shown));
            return self.fail(Guarantee::PrevKv, detail);
        }
        Ok(())
    }

    fn take_revision(&mut self, response: &WatchResponse) -> Result<(), Violation> {
        // A cancellation promises nothing about what came before.
        if response.canceled {
            return Ok(());
        }
        let revision = revision_of(response);
        if response.events.is_empty() && revision < self.bookmark {
            let detail = format!("revision {revision} told after {}", self.bookmark);
            return self.fail(Guarantee::Bookmarkable, detail);
        }
        self.bookmark = self.bookmark.max(revision);
        self.missing_through(revision)
    }

    fn missing_through(&self, revision: i64) -> Result<(), Violation> {
        match self.watched.history.get(self.expected) {
            Some(missing) if missing.record.mod_revision() <= revision => self.fail(
                Guarantee::Reliable,
                format!("{:?} has not come by revision {revision}", missing.record),
            ),
            _ => Ok(()),
        }
    }
}

fn shown(kv: &KeyValue) -> String {
    format!("{}@{}", kv.key.escape_ascii(), kv.mod_revision)
}
