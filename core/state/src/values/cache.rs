//! Which values stay in memory.
//!
//! A record begins *waiting*: no backend has synced it, so it must not go. From then on it is *cached*,
//! and goes when there is no room. Who goes is decided by a clock: the oldest, but one that was read since
//! it was last looked at is passed over once.
//!
//! Waiting and cached records share the room. The owner is asked to sync early enough
//! ([`ValueCache::wants_sync`]), and to bring nothing more while more waits than should
//! ([`ValueCache::is_crowded`]). Should what waits need all the room nothing else is cached, and the bound
//! is exceeded by what is brought in spite of that.

use std::collections::{BTreeMap, VecDeque};

use crate::block::Block;
use crate::record::{Record, Revision};

/// What a record in the cache costs beside its bytes: reference counts, a place in a map and in a ring.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// Blocks read last, unpacked: whoever reads on in the order of revisions finds the neighbours in one of
/// them. A block has at most 64 KiB, unless a single record is longer.
const BLOCKS_MAX: usize = 8;

/// Records taken note of in one step: apply may wait for the owner's lock meanwhile.
const SYNCED_AT_ONCE: usize = 256;

/// The part of the room that the backend may take in before the owner is asked to sync it.
const WAITING_DIVISOR: usize = 8;

/// The part of the room from which on nothing more should be brought until the backend has followed. What
/// waits there is synced without anything else coming: a record costs less than twice its bytes.
const CROWDED_DIVISOR: usize = 2;

#[derive(Debug)]
struct Cached {
    record: Record,
    /// Read since the clock last came by.
    is_used: bool,
}

/// Figures to export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFigures {
    /// Bytes of records that wait to be synced, and what they cost beside.
    pub waiting_bytes: usize,
    /// The same of those that could go.
    pub cached_bytes: usize,
}

/// Values in memory, and who still needs which of those that are not. One owner, who locks.
#[derive(Debug)]
pub struct ValueCache {
    bytes_max: usize,
    waiting: BTreeMap<Revision, Record>,
    cached: BTreeMap<Revision, Cached>,
    /// The clock: revisions of `cached`, the next to be looked at first.
    ring: VecDeque<Revision>,
    figures: CacheFigures,
    blocks: VecDeque<Block>,
    /// Compact revisions of views that are read, and by how many.
    pins: BTreeMap<i64, usize>,
    /// What compactions up to here dropped may be gone from the backend.
    dropped_through: i64,
}

impl ValueCache {
    /// An empty cache of so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            waiting: BTreeMap::new(),
            cached: BTreeMap::new(),
            ring: VecDeque::new(),
            figures: CacheFigures::default(),
            blocks: VecDeque::new(),
            pins: BTreeMap::new(),
            dropped_through: i64::MIN,
        }
    }

    /// Holds a record until a backend has synced it.
    pub fn hold(&mut self, record: &Record) {
        self.figures.waiting_bytes += cost(record);
        if let Some(before) = self.waiting.insert(record.revision(), record.clone()) {
            self.figures.waiting_bytes -= cost(&before);
        }
        self.make_room();
    }

    /// The backend has synced every record up to a revision. Takes note of a bounded number of them;
    /// true: there are more.
    pub fn synced(&mut self, through_revision: i64) -> bool {
        for _ in 0..SYNCED_AT_ONCE {
            let Some(first) = self.waiting.first_entry() else { return false };
            if first.key().main > through_revision {
                return false;
            }
            let record = first.remove();
            self.figures.waiting_bytes -= cost(&record);
            self.insert(record);
        }
        true
    }

    /// Whether the backend has taken in so much since it was last synced that it should be, to make
    /// room.
    #[must_use]
    pub fn wants_sync(&self, unsynced_bytes: usize) -> bool {
        unsynced_bytes >= self.bytes_max / WAITING_DIVISOR
    }

    /// Whether so much waits that apply had better wait for the backend.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.figures.waiting_bytes > self.bytes_max / CROWDED_DIVISOR
    }

    /// The whole record of an entry, if it is here.
    pub fn find(&mut self, entry: &Record) -> Option<Record> {
        let revision = entry.revision();
        if let Some(record) = self.waiting.get(&revision) {
            return Some(record.clone()).filter(|it| it == entry);
        }
        if let Some(cached) = self.cached.get_mut(&revision) {
            cached.is_used = true;
            return Some(cached.record.clone()).filter(|it| it == entry);
        }
        // One that cannot be read here is read anew, and then its reader says why not.
        self.blocks.iter().find_map(|it| it.find(revision).ok()?).filter(|it| it == entry)
    }

    /// Caches a record that the backend has.
    pub fn insert(&mut self, record: Record) {
        let revision = record.revision();
        self.figures.cached_bytes += cost(&record);
        match self.cached.get_mut(&revision) {
            Some(cached) => {
                let before = std::mem::replace(&mut cached.record, record);
                self.figures.cached_bytes -= cost(&before);
            }
            None => {
                self.cached.insert(revision, Cached { record, is_used: false });
                self.ring.push_back(revision);
            }
        }
        self.make_room();
    }

    /// Remembers a block that was read.
    pub fn note_block(&mut self, block: Block) {
        self.blocks.push_front(block);
        self.blocks.truncate(BLOCKS_MAX);
    }

    /// Lets go of what there is no room for. Each turn of the clock takes the mark off a record or lets
    /// it go, so there are at most two turns for each.
    fn make_room(&mut self) {
        let room = self.bytes_max.saturating_sub(self.figures.waiting_bytes);
        while self.figures.cached_bytes > room {
            let Some(revision) = self.ring.pop_front() else { return };
            let cached = self.cached.get_mut(&revision).expect("the ring names what is cached");
            if std::mem::take(&mut cached.is_used) {
                self.ring.push_back(revision);
            } else {
                let gone = self.cached.remove(&revision).expect("looked up just above");
                self.figures.cached_bytes -= cost(&gone.record);
            }
        }
    }

    /// [`super::ValueSource::pin`].
    pub fn pin(&mut self, compact_revision: i64) -> bool {
        let is_there = compact_revision >= self.dropped_through;
        if is_there {
            *self.pins.entry(compact_revision).or_default() += 1;
        }
        is_there
    }

    /// [`super::ValueSource::unpin`].
    pub fn unpin(&mut self, compact_revision: i64) {
        let Some(count) = self.pins.get_mut(&compact_revision) else { return };
        *count -= 1;
        if *count == 0 {
            self.pins.remove(&compact_revision);
        }
    }

    /// Whether the backend may drop what compactions up to `compact_revision` dropped. If so, older
    /// views cannot be pinned any more.
    pub fn may_drop(&mut self, compact_revision: i64) -> bool {
        let is_wanted = self.pins.keys().next().is_some_and(|oldest| *oldest < compact_revision);
        if !is_wanted {
            self.dropped_through = self.dropped_through.max(compact_revision);
        }
        !is_wanted
    }

    /// Figures to export.
    #[must_use]
    pub fn figures(&self) -> CacheFigures {
        self.figures
    }
}

fn cost(record: &Record) -> usize {
    record.bytes_len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::encode;

    const VALUE: usize = 100;
    /// A record of [`record`] costs this.
    const COST: usize = 48 + 1 + VALUE + ENTRY_OVERHEAD_BYTES;

    fn record(main: i64) -> Record {
        Record::put(Revision::first_of(main), main, 1, 0, b"k", &[7; VALUE])
    }

    fn has(cache: &mut ValueCache, main: i64) -> bool {
        let whole = record(main);
        let found = cache.find(&whole.without_value());
        found.is_some_and(|found| found.is_whole() && found == whole)
    }

    #[test]
    fn what_is_not_synced_stays_whatever_room_there_is() {
        let mut cache = ValueCache::new(2 * COST);
        (1..=9).for_each(|main| cache.hold(&record(main)));
        assert!((1..=9).all(|main| has(&mut cache, main)));
        assert_eq!(cache.figures().waiting_bytes, 9 * COST);
        assert!(!cache.synced(7));
        // Two still wait and fill the room.
        assert!((1..=7).all(|main| !has(&mut cache, main)));
        assert!((8..=9).all(|main| has(&mut cache, main)));
        assert!(!cache.synced(9));
        assert!((8..=9).all(|main| has(&mut cache, main)));
        let figures = CacheFigures { waiting_bytes: 0, cached_bytes: 2 * COST };
        assert_eq!(cache.figures(), figures);
    }

    #[test]
    fn nothing_more_is_asked_for_while_half_of_the_room_waits() {
        let mut cache = ValueCache::new(8 * COST);
        (1..=4).for_each(|main| cache.hold(&record(main)));
        assert!(!cache.is_crowded());
        cache.hold(&record(5));
        assert!(cache.is_crowded());
        assert!(!cache.synced(1));
        assert!(!cache.is_crowded(), "what is cached can go");
    }

    #[test]
    fn many_are_taken_note_of_in_steps() {
        let mut cache = ValueCache::new(0);
        let count = i64::try_from(SYNCED_AT_ONCE).unwrap() * 2 + 1;
        (1..=count).for_each(|main| cache.hold(&record(main)));
        assert!(cache.synced(count) && cache.synced(count) && !cache.synced(count));
        assert_eq!(cache.figures(), CacheFigures::default());
    }

    #[test]
    fn one_that_was_read_is_passed_over_once() {
        let mut cache = ValueCache::new(3 * COST);
        (1..=3).for_each(|main| cache.insert(record(main)));
        assert!(has(&mut cache, 1));
        cache.insert(record(4));
        let left: Vec<i64> = cache.cached.keys().map(|it| it.main).collect();
        assert_eq!(left, [1, 3, 4]);
        // Unread since, it goes when its turn comes again.
        (5..=7).for_each(|main| cache.insert(record(main)));
        let left: Vec<i64> = cache.cached.keys().map(|it| it.main).collect();
        assert_eq!(left, [5, 6, 7]);
        assert_eq!(cache.ring.len(), 3);
        assert_eq!(cache.figures().cached_bytes, 3 * COST);
    }

    #[test]
    fn the_same_record_counts_once() {
        let mut cache = ValueCache::new(9 * COST);
        cache.hold(&record(1));
        cache.hold(&record(1));
        assert_eq!(cache.figures(), CacheFigures { waiting_bytes: COST, cached_bytes: 0 });
        assert!(!cache.synced(1));
        cache.insert(record(1));
        assert_eq!(cache.figures(), CacheFigures { waiting_bytes: 0, cached_bytes: COST });
        assert_eq!(cache.ring.len(), 1);
    }

    #[test]
    fn neighbours_of_what_was_read_are_at_hand_for_a_while() {
        let mut cache = ValueCache::new(0);
        let block_of = |records: &[Record]| Block::open(&encode(records)).unwrap();
        let four: Vec<Record> = (1..=4).map(record).collect();
        cache.note_block(block_of(&four));
        assert!((1..=4).all(|main| has(&mut cache, main)) && !has(&mut cache, 5));
        for block in 1..=BLOCKS_MAX as i64 {
            cache.note_block(block_of(&[record(block * 10)]));
        }
        assert!(!has(&mut cache, 1));
    }

    #[test]
    fn another_record_of_the_same_revision_is_not_taken_for_it() {
        let mut cache = ValueCache::new(9 * COST);
        cache.insert(record(1));
        let other = Record::put(Revision::first_of(1), 1, 1, 0, b"other", &[7; VALUE]);
        assert_eq!(cache.find(&other.without_value()), None);
    }

    #[test]
    fn nothing_goes_that_a_pinned_view_has_and_none_is_pinned_that_lacks_something() {
        let mut cache = ValueCache::new(0);
        assert!(cache.pin(5) && cache.pin(5) && cache.pin(9));
        assert!(cache.may_drop(5), "what they need is newer");
        assert!(!cache.may_drop(6));
        assert!(cache.pin(5), "nothing was dropped");
        (0..3).for_each(|_| cache.unpin(5));
        assert!(cache.may_drop(9));
        assert!(!cache.pin(8) && cache.pin(9));
        assert!(!cache.may_drop(10));
        (0..2).for_each(|_| cache.unpin(9));
        assert!(cache.may_drop(10));
    }
}
