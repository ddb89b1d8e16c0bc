//! A tree of entries that come in order: linear time, no search, nodes filled completely.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::{Bounds, Branch, Child, Leaf, NODE_WIDTH, Node, Order, Tree};

/// Takes entries in ascending order and makes a tree of them.
pub struct Builder<O: Order> {
    leaf: ArrayVec<O::Entry, NODE_WIDTH>,
    /// Branches not yet full, those over the leaves first.
    open: Vec<Open<O>>,
}

/// The leaves of a part of a tree, made where the rest of it is not known.
pub struct Leaves<O: Order> {
    leaf: ArrayVec<O::Entry, NODE_WIDTH>,
    full: Vec<(O::Bound, Child<O>)>,
}

/// A branch while it is filled.
struct Open<O: Order> {
    children: ArrayVec<Child<O>, NODE_WIDTH>,
    keys: ArrayVec<O::Bound, NODE_WIDTH>,
}

impl<O: Order> Default for Builder<O> {
    fn default() -> Self {
        Self { leaf: ArrayVec::new(), open: Vec::new() }
    }
}

impl<O: Order> Default for Leaves<O> {
    fn default() -> Self {
        Self { leaf: ArrayVec::new(), full: Vec::new() }
    }
}

impl<O: Order> Default for Open<O> {
    fn default() -> Self {
        Self { children: ArrayVec::new(), keys: ArrayVec::new() }
    }
}

impl<O: Order> Builder<O> {
    /// Adds an entry whose key is above all before.
    pub fn push(&mut self, entry: O::Entry) {
        assert_ascends::<O>(&self.leaf, &entry);
        if self.leaf.is_full() {
            self.close_leaf();
        }
        self.leaf.push(entry);
    }

    /// Adds leaves whose keys are all above all before. They stay as they are, full or not.
    pub fn extend(&mut self, leaves: Leaves<O>) {
        let Leaves { leaf, full } = leaves;
        if leaf.is_empty() {
            return;
        }
        if !self.leaf.is_empty() {
            self.close_leaf();
        }
        for (bound, child) in full {
            self.add(0, bound, child);
        }
        // It may be the last of all, and then goes on.
        self.leaf = leaf;
    }

    /// The tree of all entries.
    #[must_use]
    pub fn finish(mut self) -> Tree<O> {
        if self.leaf.is_empty() {
            return Tree::default();
        }
        self.close_leaf();
        let mut level = 0;
        loop {
            let mut open = std::mem::take(&mut self.open[level]);
            level += 1;
            if level == self.open.len() && open.children.len() == 1 {
                let Child { node, len, sum } = open.children.remove(0);
                return Tree { root: Some(node), len, sum };
            }
            let (bound, child) = open.close();
            self.add(level, bound, child);
        }
    }

    fn close_leaf(&mut self) {
        let (bound, child) = closed(&mut self.leaf);
        self.add(0, bound, child);
    }

    /// Puts a node behind those of its level. A branch that is full goes one up.
    fn add(&mut self, mut level: usize, mut bound: O::Bound, mut child: Child<O>) {
        loop {
            if level == self.open.len() {
                self.open.push(Open::default());
            }
            let open = &mut self.open[level];
            let full = open.children.is_full().then(|| std::mem::take(open));
            open.keys.push(bound);
            open.children.push(child);
            let Some(full) = full else { return };
            (bound, child) = full.close();
            level += 1;
        }
    }
}

impl<O: Order> Leaves<O> {
    /// Adds an entry whose key is above all before.
    pub fn push(&mut self, entry: O::Entry) {
        assert_ascends::<O>(&self.leaf, &entry);
        if self.leaf.is_full() {
            self.full.push(closed(&mut self.leaf));
        }
        self.leaf.push(entry);
    }
}

fn assert_ascends<O: Order>(before: &[O::Entry], entry: &O::Entry) {
    debug_assert!(
        before.last().is_none_or(|it| O::compare(O::key(it), O::key(entry)).is_lt()),
        "entries come in ascending order"
    );
}

/// Takes the entries, which are some, as a leaf.
fn closed<O: Order>(entries: &mut ArrayVec<O::Entry, NODE_WIDTH>) -> (O::Bound, Child<O>) {
    let leaf = Leaf::<O>::new(std::mem::take(entries));
    let bound = O::bound(O::key(&leaf.entries[0]));
    let mut sum = O::Sum::default();
    leaf.entries.iter().for_each(|entry| sum += O::sum(entry));
    let child = Child { len: leaf.entries.len(), sum, node: Node::Leaf(Arc::new(leaf)) };
    (bound, child)
}

impl<O: Order> Open<O> {
    fn close(self) -> (O::Bound, Child<O>) {
        let Self { children, keys } = self;
        let bound = keys[0].clone();
        let (mut len, mut sum) = (0, O::Sum::default());
        for child in &children {
            len += child.len;
            sum += child.sum;
        }
        let branch = Branch { children, bounds: Arc::new(Bounds::new(keys)) };
        (bound, Child { len, sum, node: Node::Branch(Arc::new(branch)) })
    }
}
