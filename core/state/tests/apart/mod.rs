//! A source that has every value and hardly one of them at hand: whoever forgets to ask it panics.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::disallowed_types, reason = "a source is shared; its owner locks it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use state::{Limits, Record, Revision, State, StateParts, ValueSource, Values};

#[derive(Debug, Default)]
struct Apart(Mutex<BTreeMap<Revision, Record>>);

impl ValueSource for Apart {
    fn apart_bytes_min(&self) -> usize {
        1
    }

    fn hold(&self, record: &Record) {
        assert!(record.is_whole());
        let before = self.0.lock().unwrap().insert(record.revision(), record.clone());
        assert!(before.is_none_or(|before| before == *record));
    }

    fn at_hand(&self, entry: &Record) -> Option<Record> {
        (entry.mod_revision() % 4 == 0).then(|| self.read(entry, true))
    }

    fn read(&self, entry: &Record, _: bool) -> Record {
        let found = self.0.lock().unwrap()[&entry.revision()].clone();
        assert_eq!(&found, entry);
        found
    }

    fn pin(&self, _: i64) -> bool {
        true
    }

    fn unpin(&self, _: i64) {}
}

/// Somewhere to keep values, none of them in the trees.
pub(crate) fn apart() -> Values {
    Values::kept_by(Arc::new(Apart::default()))
}

/// An empty state that does so, or one that does not.
pub(crate) fn state(limits: Limits, is_apart: bool) -> State {
    if is_apart { State::new_with(limits, apart()) } else { State::new(limits) }
}

/// A state made of parts, with its values where those of another are.
pub(crate) fn restored(parts: StateParts, limits: Limits, like: &State) -> State {
    let values = if like.values().are_in_memory() { Values::default() } else { apart() };
    State::restore(parts, limits, values).expect("parts of a state")
}
