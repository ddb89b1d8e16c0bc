//! A sorted sequence that is cheap to copy, to count and to change.
//!
//! The tree is a B+tree whose nodes are shared between copies. Cloning a tree copies one pointer;
//! whoever changes a copy afterwards changes nodes it alone owns in place and duplicates shared ones
//! on the way down, so every clone stays as it was. That is what lets readers keep a view for as
//! long as they like while apply goes on, without a lock on either side.
//!
//! Each branch knows how many entries lie below each child (an order-statistics tree), so the rank
//! of a key, and with it the size of any range, takes one descent. An [`Order`] may add a second
//! statistic of its own ([`Order::Sum`]) that is kept the same way.
//!
//! Separators are short owned keys, never entries: an entry that has been replaced or removed is
//! not kept alive by the tree above it. They are shared by all copies of a branch, because only
//! splits and merges change them.
//!
//! Each key is represented in its node by a *head*, a number that sorts as the key does as far as it
//! goes: for byte strings the four bytes that follow what all keys of the node have in common. A
//! search compares heads, which lie side by side, and looks at one key in the end; keys lie scattered
//! over memory, and waiting for them would be most of a lookup's time.
//!
//! Shape: leaves and branches hold up to [`NODE_WIDTH`] items. Nodes are split when full, at the
//! right edge of the tree by opening a fresh node, so that ascending inserts fill nodes completely.
//! A node that falls to a quarter is merged with a neighbour if both fit in three quarters;
//! no node is ever empty. Together that bounds depth to the logarithm of the largest size reached.

use std::cmp::Ordering;
use std::hint::black_box;
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;

use arrayvec::ArrayVec;

mod build;
mod heads;
mod iter;

pub use build::{Builder, Leaves};
use heads::Heads;
pub use iter::Iter;

/// Items in a full leaf or branch. A changed copy duplicates whole nodes and touches the reference
/// count of every item, so wider nodes make lookups shorter but first changes dearer.
pub const NODE_WIDTH: usize = 32;

const MERGE_BELOW: usize = NODE_WIDTH / 4;
const MERGED_MAX: usize = NODE_WIDTH * 3 / 4;

/// How entries are sorted and what is summed over them.
pub trait Order: 'static {
    /// What the tree holds; cloning should be cheap.
    type Entry: Clone;
    /// The part of an entry that sorts it; unique within a tree.
    type Key<'a>: Copy;
    /// A key kept by branches as separator.
    type Bound: Clone;
    /// A statistic over entries, kept for every subtree; `()` for none.
    type Sum: Sum;
    /// What the heads of a node's keys leave out; the default leaves nothing out.
    type Base: Copy + Default + PartialEq;

    /// A good base for keys from `first` to `last`.
    fn base(first: Self::Key<'_>, last: Self::Key<'_>) -> Self::Base;
    /// The head of a key whose [`Order::place`] is `Equal`. Heads of such keys sort as the keys, or
    /// are equal.
    fn head(key: Self::Key<'_>, base: Self::Base) -> u32;
    /// Whether every key has what the base leaves out.
    fn fits_all(base: Self::Base) -> bool;
    /// Whether a key has what the base leaves out, or sorts before or after all keys that do.
    /// `witness` is one that has.
    fn place(key: Self::Key<'_>, base: Self::Base, witness: Self::Key<'_>) -> Ordering;

    /// The key of an entry.
    fn key(entry: &Self::Entry) -> Self::Key<'_>;
    /// A separator equal to the key.
    fn bound(key: Self::Key<'_>) -> Self::Bound;
    /// The key a separator equals.
    fn bound_key(bound: &Self::Bound) -> Self::Key<'_>;
    /// The order.
    fn compare(a: Self::Key<'_>, b: Self::Key<'_>) -> Ordering;
    /// What one entry adds to the statistic.
    fn sum(entry: &Self::Entry) -> Self::Sum;
    /// Reads what cloning the entry will write to, if anything.
    fn touch(_entry: &Self::Entry) -> usize {
        0
    }
}

/// A statistic that can be added up and taken away again.
pub trait Sum: Copy + Default + AddAssign + SubAssign {}

/// No statistic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl AddAssign for Nothing {
    fn add_assign(&mut self, _: Self) {}
}
impl SubAssign for Nothing {
    fn sub_assign(&mut self, _: Self) {}
}
impl Sum for Nothing {}

/// A persistent sorted sequence of entries with unique keys.
pub struct Tree<O: Order> {
    root: Option<Node<O>>,
    len: usize,
    sum: O::Sum,
}

enum Node<O: Order> {
    Leaf(Arc<Leaf<O>>),
    Branch(Arc<Branch<O>>),
}

struct Leaf<O: Order> {
    heads: Heads<O>,
    entries: ArrayVec<O::Entry, NODE_WIDTH>,
}

/// The separators of a branch.
struct Bounds<O: Order> {
    /// Of all but the first.
    heads: Heads<O>,
    keys: ArrayVec<O::Bound, NODE_WIDTH>,
}

struct Branch<O: Order> {
    children: ArrayVec<Child<O>, NODE_WIDTH>,
    /// `keys[i]` is above every key of child `i - 1` and not above any of child `i`;
    /// `keys[0]` is not looked at.
    bounds: Arc<Bounds<O>>,
}

struct Child<O: Order> {
    node: Node<O>,
    len: usize,
    sum: O::Sum,
}

/// Reads every reference count before the first is changed. Plain reads wait for memory together,
/// changes one after the other; that is most of what copying a node costs.
fn touch(counts: impl Iterator<Item = usize>) {
    black_box(counts.fold(0_usize, usize::wrapping_add));
}

impl<O: Order> Clone for Tree<O> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len, sum: self.sum }
    }
}

impl<O: Order> Clone for Node<O> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(leaf) => Self::Leaf(Arc::clone(leaf)),
            Self::Branch(branch) => Self::Branch(Arc::clone(branch)),
        }
    }
}

impl<O: Order> Clone for Leaf<O> {
    fn clone(&self) -> Self {
        touch(self.entries.iter().map(O::touch));
        Self { heads: self.heads.clone(), entries: self.entries.clone() }
    }
}

impl<O: Order> Clone for Bounds<O> {
    fn clone(&self) -> Self {
        Self { heads: self.heads.clone(), keys: self.keys.clone() }
    }
}

impl<O: Order> Clone for Branch<O> {
    fn clone(&self) -> Self {
        touch(self.children.iter().map(|child| match &child.node {
            Node::Leaf(leaf) => Arc::strong_count(leaf),
            Node::Branch(branch) => Arc::strong_count(branch),
        }));
        Self { children: self.children.clone(), bounds: Arc::clone(&self.bounds) }
    }
}

impl<O: Order> Clone for Child<O> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), len: self.len, sum: self.sum }
    }
}

impl<O: Order> Default for Tree<O> {
    fn default() -> Self {
        Self { root: None, len: 0, sum: O::Sum::default() }
    }
}

impl<O: Order> Tree<O> {
    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The statistic over all entries.
    #[must_use]
    pub fn sum(&self) -> O::Sum {
        self.sum
    }

    /// The entry with exactly this key.
    #[must_use]
    pub fn get(&self, key: O::Key<'_>) -> Option<&O::Entry> {
        let mut node = self.root.as_ref()?;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.find(key).ok().map(|at| &leaf.entries[at]),
                Node::Branch(branch) => node = &branch.children[branch.child_for(key)].node,
            }
        }
    }

    /// Number of entries before `key`, whether or not the key itself is there.
    #[must_use]
    pub fn rank(&self, key: O::Key<'_>) -> usize {
        let Some(mut node) = self.root.as_ref() else { return 0 };
        let mut rank = 0;
        loop {
            match node {
                Node::Leaf(leaf) => return rank + leaf.find(key).unwrap_or_else(|at| at),
                Node::Branch(branch) => {
                    let at = branch.child_for(key);
                    rank += branch.children[..at].iter().map(|child| child.len).sum::<usize>();
                    node = &branch.children[at].node;
                }
            }
        }
    }

    /// The statistic over the entries before `key`.
    #[must_use]
    pub fn sum_before(&self, key: O::Key<'_>) -> O::Sum {
        let mut sum = O::Sum::default();
        let Some(mut node) = self.root.as_ref() else { return sum };
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let end = leaf.find(key).unwrap_or_else(|at| at);
                    leaf.entries[..end].iter().for_each(|entry| sum += O::sum(entry));
                    return sum;
                }
                Node::Branch(branch) => {
                    let at = branch.child_for(key);
                    branch.children[..at].iter().for_each(|child| sum += child.sum);
                    node = &branch.children[at].node;
                }
            }
        }
    }

    /// The last entry before `key`.
    #[must_use]
    pub fn last_before(&self, key: O::Key<'_>) -> Option<&O::Entry> {
        let mut node = self.root.as_ref()?;
        // Where to turn back to if the leaf reached holds nothing before the key.
        let mut left: Option<&Node<O>> = None;
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let at = leaf.find(key).unwrap_or_else(|at| at);
                    return match at.checked_sub(1) {
                        Some(before) => Some(&leaf.entries[before]),
                        None => left.map(Node::last),
                    };
                }
                Node::Branch(branch) => {
                    let at = branch.child_for(key);
                    if at > 0 {
                        left = Some(&branch.children[at - 1].node);
                    }
                    node = &branch.children[at].node;
                }
            }
        }
    }

    /// The last entry of all.
    #[must_use]
    pub fn last(&self) -> Option<&O::Entry> {
        self.root.as_ref().map(Node::last)
    }

    /// All entries in order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, O> {
        self.root.as_ref().map_or_else(Iter::empty, Iter::from_first)
    }

    /// The entries from `key` on, the key included.
    #[must_use]
    pub fn iter_from(&self, key: O::Key<'_>) -> Iter<'_, O> {
        self.root.as_ref().map_or_else(Iter::empty, |root| Iter::from_key(root, key))
    }

    /// Puts an entry in its place and returns the one with the same key that it replaces.
    pub fn insert(&mut self, entry: O::Entry) -> Option<O::Entry> {
        let added = O::sum(&entry);
        let Some(root) = &mut self.root else {
            let leaf = Leaf::new(ArrayVec::from_iter([entry]));
            self.root = Some(Node::Leaf(Arc::new(leaf)));
            (self.len, self.sum) = (1, added);
            return None;
        };
        let Inserted { replaced, split } = root.insert(entry, true);
        match &replaced {
            Some(replaced) => self.sum -= O::sum(replaced),
            None => self.len += 1,
        }
        self.sum += added;
        if let Some((bound, right)) = split {
            let left = Child {
                len: self.len - right.len,
                sum: {
                    let mut sum = self.sum;
                    sum -= right.sum;
                    sum
                },
                node: root.clone(),
            };
            let bounds = Arc::new(Bounds::new(ArrayVec::from_iter([bound.clone(), bound])));
            let children = ArrayVec::from_iter([left, right]);
            self.root = Some(Node::Branch(Arc::new(Branch { children, bounds })));
        }
        replaced
    }

    /// Takes the entry with this key out.
    pub fn remove(&mut self, key: O::Key<'_>) -> Option<O::Entry> {
        // Nothing is duplicated for a key that is not there.
        self.get(key)?;
        let root = self.root.as_mut()?;
        let removed = root.remove(key)?;
        self.len -= 1;
        self.sum -= O::sum(&removed);
        loop {
            match &self.root {
                Some(Node::Leaf(leaf)) if leaf.entries.is_empty() => self.root = None,
                Some(Node::Branch(branch)) if branch.children.len() == 1 => {
                    self.root = Some(branch.children[0].node.clone());
                }
                _ => break,
            }
        }
        Some(removed)
    }
}

struct Inserted<O: Order> {
    replaced: Option<O::Entry>,
    /// A node to stand right of the one inserted into, and the separator between them.
    split: Option<(O::Bound, Child<O>)>,
}

impl<O: Order> Node<O> {
    fn last(&self) -> &O::Entry {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(leaf) => return leaf.entries.last().expect("no node is empty"),
                Self::Branch(branch) => {
                    node = &branch.children.last().expect("no node is empty").node;
                }
            }
        }
    }

    /// Items directly in the node.
    fn width(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.entries.len(),
            Self::Branch(branch) => branch.children.len(),
        }
    }

    /// `at_right_edge`: nothing in the tree lies right of this node.
    fn insert(&mut self, entry: O::Entry, at_right_edge: bool) -> Inserted<O> {
        match self {
            Self::Leaf(leaf) => Arc::make_mut(leaf).insert(entry, at_right_edge),
            Self::Branch(branch) => Arc::make_mut(branch).insert(entry, at_right_edge),
        }
    }

    fn remove(&mut self, key: O::Key<'_>) -> Option<O::Entry> {
        match self {
            Self::Leaf(leaf) => {
                let at = leaf.find(key).ok()?;
                Some(Arc::make_mut(leaf).remove(at))
            }
            Self::Branch(branch) => Arc::make_mut(branch).remove(key),
        }
    }
}

impl<O: Order> Bounds<O> {
    fn new(keys: ArrayVec<O::Bound, NODE_WIDTH>) -> Self {
        Self { heads: Heads::new(keys[1..].iter().map(O::bound_key)), keys }
    }

    /// `at` is never the first place: what splits off stands right of something.
    fn insert(&mut self, at: usize, bound: O::Bound) {
        let witness = || O::bound_key(&self.keys[1]);
        let fits = self.heads.insert(at - 1, O::bound_key(&bound), witness);
        self.keys.insert(at, bound);
        if !fits {
            self.heads = Heads::new(self.keys[1..].iter().map(O::bound_key));
        }
    }

    fn remove(&mut self, at: usize) -> O::Bound {
        if !self.heads.heads.is_empty() {
            self.heads.heads.remove(at.saturating_sub(1));
        }
        self.keys.remove(at)
    }

    /// Takes the separators from `at` on away, and leaves at least one.
    fn split_off(&mut self, at: usize) -> ArrayVec<O::Bound, NODE_WIDTH> {
        self.heads.heads.truncate(at - 1);
        self.keys.drain(at..).collect()
    }
}

impl<O: Order> Leaf<O> {
    fn new(entries: ArrayVec<O::Entry, NODE_WIDTH>) -> Self {
        Self { heads: Heads::new(entries.iter().map(O::key)), entries }
    }

    fn find(&self, key: O::Key<'_>) -> Result<usize, usize> {
        self.heads.find(key, |at| O::key(&self.entries[at]))
    }

    fn remove(&mut self, at: usize) -> O::Entry {
        self.heads.heads.remove(at);
        self.entries.remove(at)
    }

    /// Where to put what: the place must come from [`Leaf::find`], the leaf must not be full.
    fn insert_at(&mut self, at: usize, entry: O::Entry) {
        let fits = self.heads.insert(at, O::key(&entry), || O::key(&self.entries[0]));
        self.entries.insert(at, entry);
        if !fits {
            self.heads = Heads::new(self.entries.iter().map(O::key));
        }
    }

    fn insert(&mut self, entry: O::Entry, at_right_edge: bool) -> Inserted<O> {
        let at = match self.find(O::key(&entry)) {
            Ok(at) => {
                let replaced = std::mem::replace(&mut self.entries[at], entry);
                return Inserted { replaced: Some(replaced), split: None };
            }
            Err(at) => at,
        };
        if !self.entries.is_full() {
            self.insert_at(at, entry);
            return Inserted { replaced: None, split: None };
        }
        let cut = if at_right_edge && at == NODE_WIDTH { NODE_WIDTH } else { NODE_WIDTH / 2 };
        let mut right: ArrayVec<_, NODE_WIDTH> = self.entries.drain(cut..).collect();
        self.heads.heads.truncate(cut);
        if at < cut {
            self.insert_at(at, entry);
        } else {
            right.insert(at - cut, entry);
        }
        self.rebase();
        let bound = O::bound(O::key(&right[0]));
        let right = Self::new(right);
        let mut sum = O::Sum::default();
        right.entries.iter().for_each(|entry| sum += O::sum(entry));
        let right = Child { len: right.entries.len(), sum, node: Node::Leaf(Arc::new(right)) };
        Inserted { replaced: None, split: Some((bound, right)) }
    }

    /// After a split the keys left may have more in common.
    fn rebase(&mut self) {
        let (first, last) = (&self.entries[0], &self.entries[self.entries.len() - 1]);
        if O::base(O::key(first), O::key(last)) != self.heads.base {
            self.heads = Heads::new(self.entries.iter().map(O::key));
        }
    }
}

impl<O: Order> Branch<O> {
    /// The child in which `key` is, or would be.
    fn child_for(&self, key: O::Key<'_>) -> usize {
        match self.bounds.heads.find(key, |at| O::bound_key(&self.bounds.keys[at + 1])) {
            Ok(at) => at + 1,
            Err(at) => at,
        }
    }

    fn insert(&mut self, entry: O::Entry, at_right_edge: bool) -> Inserted<O> {
        let added = O::sum(&entry);
        let at = self.child_for(O::key(&entry));
        let last = at + 1 == self.children.len();
        let child = &mut self.children[at];
        let Inserted { replaced, split } = child.node.insert(entry, at_right_edge && last);
        match &replaced {
            Some(replaced) => child.sum -= O::sum(replaced),
            None => child.len += 1,
        }
        child.sum += added;
        let Some((bound, right)) = split else { return Inserted { replaced, split: None } };
        child.len -= right.len;
        child.sum -= right.sum;

        let at = at + 1;
        let bounds = Arc::make_mut(&mut self.bounds);
        if !self.children.is_full() {
            self.children.insert(at, right);
            bounds.insert(at, bound);
            return Inserted { replaced, split: None };
        }
        let cut = if at_right_edge && at == NODE_WIDTH { NODE_WIDTH } else { NODE_WIDTH / 2 };
        let mut right_children: ArrayVec<_, NODE_WIDTH> = self.children.drain(cut..).collect();
        let mut right_bounds = bounds.split_off(cut);
        if at < cut {
            self.children.insert(at, right);
            bounds.insert(at, bound);
        } else {
            right_children.insert(at - cut, right);
            right_bounds.insert(at - cut, bound);
        }
        let bound = right_bounds[0].clone();
        let (mut len, mut sum) = (0, O::Sum::default());
        for child in &right_children {
            len += child.len;
            sum += child.sum;
        }
        let right = Self { children: right_children, bounds: Arc::new(Bounds::new(right_bounds)) };
        let right = Child { len, sum, node: Node::Branch(Arc::new(right)) };
        Inserted { replaced, split: Some((bound, right)) }
    }

    fn remove(&mut self, key: O::Key<'_>) -> Option<O::Entry> {
        let at = self.child_for(key);
        let child = &mut self.children[at];
        let removed = child.node.remove(key)?;
        child.len -= 1;
        child.sum -= O::sum(&removed);
        let width = child.node.width();
        if width == 0 {
            self.children.remove(at);
            Arc::make_mut(&mut self.bounds).remove(at);
        } else if width < MERGE_BELOW {
            let fits = |left: usize| {
                let pair = self.children.get(left).zip(self.children.get(left + 1));
                pair.is_some_and(|(a, b)| a.node.width() + b.node.width() <= MERGED_MAX)
            };
            if fits(at) {
                self.merge(at);
            } else if at > 0 && fits(at - 1) {
                self.merge(at - 1);
            }
        }
        Some(removed)
    }

    /// Moves the items of child `left + 1` into child `left`.
    fn merge(&mut self, left: usize) {
        let right = self.children.remove(left + 1);
        let bound = Arc::make_mut(&mut self.bounds).remove(left + 1);
        let child = &mut self.children[left];
        child.len += right.len;
        child.sum += right.sum;
        match (&mut child.node, right.node) {
            (Node::Leaf(to), Node::Leaf(from)) => {
                let mut entries = to.entries.clone();
                entries.extend(from.entries.iter().cloned());
                *to = Arc::new(Leaf::new(entries));
            }
            (Node::Branch(to), Node::Branch(from)) => {
                let to = Arc::make_mut(to);
                to.children.extend(from.children.iter().cloned());
                let mut bounds = to.bounds.keys.clone();
                bounds.push(bound);
                bounds.extend(from.bounds.keys.iter().skip(1).cloned());
                to.bounds = Arc::new(Bounds::new(bounds));
            }
            _ => unreachable!("all leaves lie at the same depth"),
        }
    }
}

#[cfg(test)]
mod tests;
