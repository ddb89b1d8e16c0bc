//! Walking a tree in order, with or without what nobody wants.

use arrayvec::ArrayVec;

use super::{Branch, Node, Order};

/// Levels of branches an iterator can stand in; a tree this deep would not fit any memory.
const DEPTH_MAX: usize = 16;

/// Entries of a tree in ascending order.
pub struct Iter<'a, O: Order> {
    /// Branches from the root down, each with the child the iterator is in.
    path: ArrayVec<(&'a Branch<O>, usize), DEPTH_MAX>,
    leaf: std::slice::Iter<'a, O::Entry>,
}

impl<'a, O: Order> Iter<'a, O> {
    pub(super) fn empty() -> Self {
        Self { path: ArrayVec::new(), leaf: [].iter() }
    }

    /// From the first entry below a node on.
    pub(super) fn from_first(mut node: &'a Node<O>) -> Self {
        let mut iter = Self::empty();
        while let Node::Branch(branch) = node {
            iter.path.push((branch, 0));
            node = &branch.children[0].node;
        }
        iter.stand_in(node);
        iter
    }

    /// From the first entry below a node on that is not before `key`.
    pub(super) fn from_key(mut node: &'a Node<O>, key: O::Key<'_>) -> Self {
        let mut iter = Self::empty();
        loop {
            match node {
                Node::Leaf(leaf) => {
                    let at = leaf.find(key).unwrap_or_else(|at| at);
                    iter.leaf = leaf.entries[at..].iter();
                    return iter;
                }
                Node::Branch(branch) => {
                    let at = branch.child_for(key);
                    iter.path.push((branch, at));
                    node = &branch.children[at].node;
                }
            }
        }
    }

    fn stand_in(&mut self, node: &'a Node<O>) {
        if let Node::Leaf(leaf) = node {
            self.leaf = leaf.entries.iter();
        }
    }

    /// The next entry whose own statistic is `wanted`. Subtrees whose statistic is not wanted are
    /// stepped over without being entered, so `wanted` must hold for a sum if it holds for a part.
    pub fn next_where(&mut self, wanted: impl Fn(O::Sum) -> bool) -> Option<&'a O::Entry> {
        loop {
            if let Some(entry) = self.leaf.find(|entry| wanted(O::sum(entry))) {
                return Some(entry);
            }
            self.next_leaf(&wanted)?;
        }
    }

    fn next_leaf(&mut self, wanted: &impl Fn(O::Sum) -> bool) -> Option<()> {
        loop {
            let (branch, at) = self.path.last_mut()?;
            let rest = branch.children.iter().enumerate().skip(*at + 1);
            match rest.into_iter().find(|(_, child)| wanted(child.sum)) {
                Some((next, child)) => {
                    *at = next;
                    match &child.node {
                        Node::Leaf(leaf) => {
                            self.leaf = leaf.entries.iter();
                            return Some(());
                        }
                        // Stand before the first child; the loop picks the first wanted one.
                        Node::Branch(below) => self.enter(below, wanted)?,
                    }
                    if !self.leaf.as_slice().is_empty() {
                        return Some(());
                    }
                }
                None => {
                    self.path.pop();
                }
            }
        }
    }

    /// Goes down to the first wanted leaf below `branch`. A sum may be wanted although no single
    /// part is; the leaf is then left empty and the caller goes on.
    fn enter(&mut self, mut branch: &'a Branch<O>, wanted: &impl Fn(O::Sum) -> bool) -> Option<()> {
        loop {
            let first = branch.children.iter().position(|child| wanted(child.sum));
            let Some(first) = first else {
                self.leaf = [].iter();
                return Some(());
            };
            self.path.push((branch, first));
            match &branch.children[first].node {
                Node::Leaf(leaf) => {
                    self.leaf = leaf.entries.iter();
                    return Some(());
                }
                Node::Branch(below) => branch = below,
            }
        }
    }
}

impl<'a, O: Order> Iterator for Iter<'a, O> {
    type Item = &'a O::Entry;

    fn next(&mut self) -> Option<&'a O::Entry> {
        if let Some(entry) = self.leaf.next() {
            return Some(entry);
        }
        self.next_leaf(&|_| true)?;
        self.leaf.next()
    }
}
