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

impl<O: Order> Default for Open<O> {
    fn default() -> Self {
        Self { children: ArrayVec::new(), keys: ArrayVec::new() }
    }
}

impl<O: Order> Builder<O> {
    /// Adds an entry whose key is above all before.
    pub fn push(&mut self, entry: O::Entry) {
        debug_assert!(
            self.leaf.last().is_none_or(|it| O::compare(O::key(it), O::key(&entry)).is_lt()),
            "entries come in ascending order"
        );
        if self.leaf.is_full() {
            self.close_leaf();
        }
        self.leaf.push(entry);
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
        let leaf = Leaf::new(std::mem::take(&mut self.leaf));
        let bound = O::bound(O::key(&leaf.entries[0]));
        let mut sum = O::Sum::default();
        leaf.entries.iter().for_each(|entry| sum += O::sum(entry));
        let child = Child { len: leaf.entries.len(), sum, node: Node::Leaf(Arc::new(leaf)) };
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
