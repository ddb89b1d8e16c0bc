//! Which watchers want to hear of a key.
//!
//! Watchers of one key are found through a map. Ranges are kept in an interval tree: a treap by
//! start, each node knowing the farthest end below it, so that a key meets its ranges without the
//! others being looked at. Watchers of the very same range share a node: thousands of clients that
//! watch one prefix cost one.
//!
//! The treap's priorities are digests of the ranges. They are the same on every run, and a client
//! that wanted to unbalance the tree would have to search for ranges with SHA-256.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::WatcherId;
use crate::mvcc::KeyRange;

/// Finds watchers by key.
#[derive(Debug, Default)]
pub(super) struct Index {
    singles: BTreeMap<Arc<[u8]>, BTreeSet<WatcherId>>,
    ranges: Option<Box<Node>>,
}

/// Where a range ends; one without end is behind all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Arc<[u8]>),
    Open,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < &**end,
            Self::Open => true,
        }
    }
}

type Range = (Arc<[u8]>, End);

#[derive(Debug)]
struct Node {
    range: Range,
    priority: u64,
    watchers: BTreeSet<WatcherId>,
    /// Farthest end in this subtree.
    farthest: End,
    left: Option<Box<Node>>,
    right: Option<Box<Node>>,
}

impl Index {
    /// Adds a watcher of a range that is not empty.
    pub(super) fn insert(&mut self, range: KeyRange<'_>, watcher: WatcherId) {
        let fresh = match to_owned(range) {
            None => self.singles.entry(range.start().into()).or_default().insert(watcher),
            Some(range) => {
                let priority = priority(&range);
                insert(&mut self.ranges, range, priority, watcher)
            }
        };
        debug_assert!(fresh, "watcher {watcher} is there already");
    }

    /// Takes a watcher out again.
    pub(super) fn remove(&mut self, range: KeyRange<'_>, watcher: WatcherId) {
        let found = match to_owned(range) {
            Some(range) => remove(&mut self.ranges, &range, watcher),
            None => {
                let Some(watchers) = self.singles.get_mut(range.start()) else { return };
                let found = watchers.remove(&watcher);
                if watchers.is_empty() {
                    self.singles.remove(range.start());
                }
                found
            }
        };
        debug_assert!(found, "watcher {watcher} is not there");
    }

    /// Names every watcher of `key`, each once, in no particular order.
    pub(super) fn visit(&self, key: &[u8], found: &mut impl FnMut(WatcherId)) {
        if let Some(watchers) = self.singles.get(key) {
            watchers.iter().copied().for_each(&mut *found);
        }
        stab(self.ranges.as_deref(), key, found);
    }
}

/// `None` for a single key.
fn to_owned(range: KeyRange<'_>) -> Option<Range> {
    let end = match range.end() {
        Bound::Included(_) => return None,
        Bound::Excluded(end) => End::Before(end.into()),
        Bound::Unbounded => End::Open,
    };
    Some((range.start().into(), end))
}

fn priority((start, end): &Range) -> u64 {
    let mut sha = Sha256::new();
    sha.update((start.len() as u64).to_le_bytes());
    sha.update(start);
    match end {
        End::Before(end) => sha.update(end),
        End::Open => sha.update([0]),
    }
    u64::from_le_bytes(sha.finalize()[..8].try_into().expect("eight bytes of 32"))
}

impl Node {
    fn update(&mut self) {
        let below = [&self.left, &self.right];
        let farthest = below.into_iter().flatten().map(|node| &node.farthest).max();
        self.farthest = self.range.1.clone().max(farthest.cloned().unwrap_or(self.range.1.clone()));
    }
}

fn insert(tree: &mut Option<Box<Node>>, range: Range, priority: u64, watcher: WatcherId) -> bool {
    let Some(node) = tree else {
        let farthest = range.1.clone();
        let watchers = BTreeSet::from([watcher]);
        *tree =
            Some(Box::new(Node { range, priority, watchers, farthest, left: None, right: None }));
        return true;
    };
    if node.range == range {
        return node.watchers.insert(watcher);
    }
    let goes_left = range < node.range;
    let side = if goes_left { &mut node.left } else { &mut node.right };
    let fresh = insert(side, range, priority, watcher);
    let rises = side.as_ref().is_some_and(|below| below.priority > node.priority);
    node.update();
    if rises {
        rotate(tree, goes_left);
    }
    fresh
}

fn remove(tree: &mut Option<Box<Node>>, range: &Range, watcher: WatcherId) -> bool {
    let Some(node) = tree else { return false };
    let found = if *range == node.range {
        let found = node.watchers.remove(&watcher);
        if node.watchers.is_empty() {
            let (left, right) = (node.left.take(), node.right.take());
            *tree = join(left, right);
            return found;
        }
        found
    } else {
        let side = if *range < node.range { &mut node.left } else { &mut node.right };
        remove(side, range, watcher)
    };
    node.update();
    found
}

/// Lifts the left (or right) child above its parent.
fn rotate(tree: &mut Option<Box<Node>>, left: bool) {
    let Some(mut parent) = tree.take() else { return };
    let child = if left { parent.left.take() } else { parent.right.take() };
    let Some(mut child) = child else {
        *tree = Some(parent);
        return;
    };
    let (orphan, slot) = if left {
        (child.right.take(), &mut parent.left)
    } else {
        (child.left.take(), &mut parent.right)
    };
    *slot = orphan;
    parent.update();
    if left {
        child.right = Some(parent);
    } else {
        child.left = Some(parent);
    }
    child.update();
    *tree = Some(child);
}

/// Puts two trees together, all of `left` being before all of `right`.
fn join(left: Option<Box<Node>>, right: Option<Box<Node>>) -> Option<Box<Node>> {
    let (mut left, mut right) = match (left, right) {
        (None, only) | (only, None) => return only,
        (Some(left), Some(right)) => (left, right),
    };
    let mut top = if left.priority > right.priority {
        left.right = join(left.right.take(), Some(right));
        left
    } else {
        right.left = join(Some(left), right.left.take());
        right
    };
    top.update();
    Some(top)
}

fn stab(tree: Option<&Node>, key: &[u8], found: &mut impl FnMut(WatcherId)) {
    let Some(node) = tree.filter(|node| node.farthest.is_after(key)) else { return };
    stab(node.left.as_deref(), key, found);
    let (start, end) = &node.range;
    if **start <= *key {
        if end.is_after(key) {
            node.watchers.iter().copied().for_each(&mut *found);
        }
        stab(node.right.as_deref(), key, found);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn depth(tree: Option<&Node>) -> usize {
        tree.map_or(0, |node| 1 + depth(node.left.as_deref()).max(depth(node.right.as_deref())))
    }

    /// Order, heap and farthest ends are as they should be; gives the farthest end.
    fn verify(tree: Option<&Node>) -> Option<End> {
        let node = tree?;
        let below: Vec<&Node> =
            [&node.left, &node.right].into_iter().flatten().map(|it| &**it).collect();
        assert!(below.iter().all(|it| it.priority <= node.priority));
        assert!(node.left.as_ref().is_none_or(|it| it.range < node.range));
        assert!(node.right.as_ref().is_none_or(|it| it.range > node.range));
        let ends = below.into_iter().filter_map(|it| verify(Some(it)));
        let farthest = ends.chain([node.range.1.clone()]).max();
        assert_eq!(farthest.as_ref(), Some(&node.farthest));
        farthest
    }

    fn found(index: &Index, key: &[u8]) -> Vec<WatcherId> {
        let mut ids = Vec::new();
        index.visit(key, &mut |id| ids.push(id));
        ids.sort_unstable();
        ids
    }

    fn arbitrary_range() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let key = prop::collection::vec(0_u8..4, 1..3);
        let end = prop_oneof![Just(vec![]), Just(vec![0]), prop::collection::vec(0_u8..4, 1..3),];
        (key, end).prop_filter("not empty", |(key, end)| !KeyRange::new(key, end).is_empty())
    }

    proptest! {
        #[test]
        fn the_index_finds_exactly_the_watchers_whose_range_contains_the_key(
            ranges in prop::collection::vec(arbitrary_range(), 1..60),
            removals in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let mut index = Index::default();
            let mut model = BTreeMap::new();
            for (id, (key, end)) in ranges.iter().enumerate() {
                index.insert(KeyRange::new(key, end), id as WatcherId);
                model.insert(id as WatcherId, (key, end));
            }
            for removal in removals {
                let id = removal.index(ranges.len()) as WatcherId;
                if let Some((key, end)) = model.remove(&id) {
                    index.remove(KeyRange::new(key, end), id);
                }
            }
            verify(index.ranges.as_deref());
            for first in 0..4_u8 {
                for key in [vec![first], vec![first, 0], vec![first, 2], vec![first, 3, 9]] {
                    let contains = |(start, end): (&Vec<u8>, &Vec<u8>)| {
                        KeyRange::new(start, end).contains(&key)
                    };
                    let expected: Vec<WatcherId> = model
                        .iter()
                        .filter(|(_, (start, end))| contains((start, end)))
                        .map(|(id, _)| *id)
                        .collect();
                    prop_assert_eq!(found(&index, &key), expected);
                }
            }
        }
    }

    #[test]
    fn an_index_of_ordered_ranges_stays_shallow_and_empties_again() {
        let mut index = Index::default();
        let name = |number: u32| number.to_be_bytes();
        for number in 0..10_000 {
            index.insert(KeyRange::new(&name(number), &name(number + 1)), u64::from(number));
        }
        assert!(depth(index.ranges.as_deref()) < 50);
        assert_eq!(found(&index, &name(77)), [77]);
        for number in 0..10_000 {
            index.remove(KeyRange::new(&name(number), &name(number + 1)), u64::from(number));
        }
        assert!(index.ranges.is_none());
    }
}
