//! Short stand-ins for the keys of a node, side by side, so that a search rarely looks at a key.

use std::cmp::Ordering;

use arrayvec::ArrayVec;

use super::{NODE_WIDTH, Order};

/// The heads of a node's keys, in the order of the keys.
pub(super) struct Heads<O: Order> {
    pub(super) base: O::Base,
    pub(super) heads: ArrayVec<u32, NODE_WIDTH>,
}

impl<O: Order> Clone for Heads<O> {
    fn clone(&self) -> Self {
        Self { base: self.base, heads: self.heads.clone() }
    }
}

impl<O: Order> Heads<O> {
    pub(super) fn new<'a>(mut keys: impl DoubleEndedIterator<Item = O::Key<'a>> + Clone) -> Self {
        let all = keys.clone();
        let base = keys.next().map_or_else(O::Base::default, |first| {
            O::base(first, keys.next_back().unwrap_or(first))
        });
        Self { base, heads: all.map(|key| O::head(key, base)).collect() }
    }

    /// Where `key` is, or would be. `at` gives the key of a place.
    pub(super) fn find<'a>(
        &self,
        key: O::Key<'_>,
        at: impl Fn(usize) -> O::Key<'a>,
    ) -> Result<usize, usize> {
        let Some(last) = self.heads.len().checked_sub(1) else { return Err(0) };
        let head = O::head(key, self.base);
        let mut low = self.heads.partition_point(|other| *other < head);
        let mut high = low + self.heads[low..].partition_point(|other| *other == head);
        if !O::fits_all(self.base) {
            match O::place(key, self.base, at(low.min(last))) {
                Ordering::Equal => {}
                Ordering::Less => return Err(0),
                Ordering::Greater => return Err(last + 1),
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match O::compare(at(middle), key) {
                Ordering::Equal => return Ok(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Notes a key at a place that [`Heads::find`] gave. Returns false if the base does not fit it.
    pub(super) fn insert<'a>(
        &mut self,
        at: usize,
        key: O::Key<'_>,
        witness: impl FnOnce() -> O::Key<'a>,
    ) -> bool {
        let known = !self.heads.is_empty();
        let fits = known && (O::fits_all(self.base) || O::place(key, self.base, witness()).is_eq());
        if fits {
            self.heads.insert(at, O::head(key, self.base));
        }
        fits
    }
}
