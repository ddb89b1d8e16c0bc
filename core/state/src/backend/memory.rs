//! The backend's twin in memory, with the faults a disk has.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{APPLIED_KEY, Backend, BackendBatch, BackendError, Visit, Write, block_at, block_key};
use crate::record::{Record, Revision};

/// What a [`MemBackend`] can be told to do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemFault {
    /// Nothing.
    #[default]
    None,
    /// A seeded bug: the applied index is written on its own, ahead of the data it belongs to.
    AppliedAhead,
    /// A seeded bug: the applied index is written on its own, after the data it belongs to.
    AppliedBehind,
    /// Every commit and flush fails, as on a disk that is full or gone.
    Failing,
}

/// An ordered map in memory that remembers which of its steps a crash could still undo.
#[derive(Clone, Debug, Default)]
pub struct MemBackend {
    flushed: BTreeMap<Vec<u8>, Bytes>,
    current: BTreeMap<Vec<u8>, Bytes>,
    /// What was done since the last flush, each step atomic.
    unflushed: Vec<Vec<Write>>,
    fault: MemFault,
}

impl MemBackend {
    /// An empty store without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on behaves as `fault` says.
    pub fn set_fault(&mut self, fault: MemFault) {
        self.fault = fault;
    }

    /// Steps that [`MemBackend::crash`] can undo.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    /// The machine stops: of the steps since the last flush only the first `kept` survive.
    pub fn crash(&mut self, kept: usize) {
        self.unflushed.truncate(kept);
        self.current.clone_from(&self.flushed);
        for step in &self.unflushed {
            apply(&mut self.current, step);
        }
        self.flushed.clone_from(&self.current);
        self.unflushed.clear();
    }

    /// Changes a stored value behind everyone's back; `None` removes it.
    pub fn tamper(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        let write = Write { key: key.to_vec(), value };
        apply(&mut self.current, std::slice::from_ref(&write));
        apply(&mut self.flushed, std::slice::from_ref(&write));
    }

    /// The records of the block in which a revision lies.
    ///
    /// # Errors
    /// As [`block_at`].
    pub fn block_of(&self, revision: Revision) -> Result<Vec<Record>, BackendError> {
        let through = (Bound::Unbounded, Bound::Included(block_key(revision)));
        let last = self.current.range::<Vec<u8>, _>(through).next_back();
        let (key, value) = last.ok_or(BackendError::BlockMissing(revision))?;
        let records = block_at(revision, key, value)?.records();
        records.map_err(|error| BackendError::Block { revision, error })
    }

    /// Every pair, in key order.
    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.current.iter().map(|(key, value)| (key.as_slice(), value.as_ref()))
    }

    fn step(&mut self, writes: Vec<Write>) {
        apply(&mut self.current, &writes);
        self.unflushed.push(writes);
    }
}

fn apply(map: &mut BTreeMap<Vec<u8>, Bytes>, writes: &[Write]) {
    for Write { key, value } in writes {
        match value {
            Some(value) => map.insert(key.clone(), Bytes::copy_from_slice(value)),
            None => map.remove(key),
        };
    }
}

impl Backend for MemBackend {
    fn commit(&mut self, batch: &BackendBatch) -> Result<(), BackendError> {
        let all = || batch.writes().iter().cloned();
        let (mark, data): (Vec<_>, Vec<_>) = all().partition(|write| write.key == APPLIED_KEY);
        match self.fault {
            MemFault::None => self.step(all().collect()),
            MemFault::AppliedAhead => [mark, data].into_iter().for_each(|it| self.step(it)),
            MemFault::AppliedBehind => [data, mark].into_iter().for_each(|it| self.step(it)),
            MemFault::Failing => return Err(BackendError::Engine("no space left".to_owned())),
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
        Ok(self.current.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), BackendError> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        for (key, value) in self.current.range::<[u8], _>(from) {
            if !key.starts_with(prefix) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackendError> {
        if self.fault == MemFault::Failing {
            return Err(BackendError::Engine("no space left".to_owned()));
        }
        self.flushed.clone_from(&self.current);
        self.unflushed.clear();
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, BackendError> {
        Ok(self.current.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }

    fn clear(&mut self) -> Result<(), BackendError> {
        self.flushed.clear();
        self.current.clear();
        self.unflushed.clear();
        Ok(())
    }
}
