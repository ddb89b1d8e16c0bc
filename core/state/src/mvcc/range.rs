//! The keys a request speaks of.

use std::ops::Bound;

/// A key, or all keys from one on, up to another or without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    start: &'a [u8],
    end: End<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End<'a> {
    /// Only the start.
    Same,
    /// Up to this key, without it.
    Before(&'a [u8]),
    Open,
}

impl<'a> KeyRange<'a> {
    /// Reads etcd's pair: no `range_end` is the single key, one zero byte is without end.
    #[must_use]
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        let end = match range_end {
            [] => End::Same,
            [0] => End::Open,
            _ => End::Before(range_end),
        };
        Self { start: key, end }
    }

    /// One key.
    #[must_use]
    pub fn single(key: &'a [u8]) -> Self {
        Self { start: key, end: End::Same }
    }

    /// Every key there can be.
    #[must_use]
    pub fn all() -> Self {
        Self { start: &[], end: End::Open }
    }

    /// The part of the range from `key` on.
    #[must_use]
    pub fn starting_at(self, key: &'a [u8]) -> Self {
        if self.end == End::Same { self } else { Self { start: self.start.max(key), ..self } }
    }

    /// The first key of the range.
    #[must_use]
    pub fn start(&self) -> &'a [u8] {
        self.start
    }

    /// The key, if the range is a single one.
    #[must_use]
    pub fn as_single(&self) -> Option<&'a [u8]> {
        (self.end == End::Same).then_some(self.start)
    }

    /// Where the range ends; a single key ends with itself.
    #[must_use]
    pub fn end(&self) -> Bound<&'a [u8]> {
        match self.end {
            End::Same => Bound::Included(self.start),
            End::Before(end) => Bound::Excluded(end),
            End::Open => Bound::Unbounded,
        }
    }

    /// Whether every key there can be is in the range.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.end == End::Open && self.start <= &[0][..]
    }

    /// Whether the range starts behind its end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self.end, End::Before(end) if self.start >= end)
    }

    /// Whether `key`, which is not before the start, is before the end.
    #[must_use]
    pub fn reaches(&self, key: &[u8]) -> bool {
        match self.end {
            End::Same => key == self.start,
            End::Before(end) => key < end,
            End::Open => true,
        }
    }

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start && self.reaches(key)
    }
}
