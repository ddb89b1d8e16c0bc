//! Leases: which there are and for how long they were granted.
//!
//! The state knows no clock. When a lease is over is decided by the leader, who revokes it through
//! the log; every member then deletes the lease and its keys in one revision. What hangs on a lease
//! is not kept here but follows from the live records themselves ([`crate::mvcc::Store::attached`]).

use std::cmp::Ordering;

use crate::check::LEASE_TTL_MAX;
use crate::error::StateError;
use crate::mvcc::order::distance;
use crate::mvcc::tree::{self, Nothing, Order, Tree};
use crate::parts::{Row, RowChange, Table};

/// What a lease costs of the quota.
pub const LEASE_QUOTA_BYTES: u64 = 64;

/// A lease as the log knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id, never 0.
    pub id: i64,
    /// Seconds it lives without renewal.
    pub granted_ttl: i64,
    /// Seconds it had left at the last checkpoint; 0 if there was none since its last renewal.
    pub remaining_ttl: i64,
}

impl Lease {
    /// Seconds a new leader gives it.
    #[must_use]
    pub fn ttl_after_takeover(&self) -> i64 {
        if self.remaining_ttl > 0 { self.remaining_ttl } else { self.granted_ttl }
    }
}

/// Leases by id.
struct ById;

impl Order for ById {
    type Entry = Lease;
    type Key<'a> = i64;
    type Bound = i64;
    type Sum = Nothing;
    type Base = i64;

    fn base(first: i64, _: i64) -> i64 {
        first
    }
    fn head(key: i64, base: i64) -> u32 {
        distance(key, base)
    }
    fn fits_all(_: i64) -> bool {
        true
    }
    fn place(_: i64, _: i64, _: i64) -> Ordering {
        Ordering::Equal
    }

    fn key(entry: &Lease) -> i64 {
        entry.id
    }
    fn bound(key: i64) -> i64 {
        key
    }
    fn bound_key(bound: &i64) -> i64 {
        *bound
    }
    fn compare(a: i64, b: i64) -> Ordering {
        a.cmp(&b)
    }
    fn sum(_: &Lease) -> Nothing {
        Nothing
    }
}

/// All leases. `Clone` is cheap and the copies are independent.
#[derive(Clone, Default)]
pub(crate) struct Leases(Tree<ById>);

impl Leases {
    pub(crate) fn get(&self, id: i64) -> Option<Lease> {
        self.0.get(id).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Lease> {
        let leases: tree::Iter<'_, ById> = self.0.iter();
        leases.copied()
    }

    /// `ttl` was raised to the minimum by whoever proposed it: the minimum depends on the proposer's
    /// configuration, the state must not.
    pub(crate) fn grant(&mut self, id: i64, ttl: i64) -> Result<Lease, StateError> {
        if id == 0 {
            return Err(StateError::LeaseNotFound);
        }
        if ttl > LEASE_TTL_MAX {
            return Err(StateError::LeaseTtlTooLarge);
        }
        if self.get(id).is_some() {
            return Err(StateError::LeaseExists);
        }
        let lease = Lease { id, granted_ttl: ttl.max(1), remaining_ttl: 0 };
        self.0.insert(lease);
        Ok(lease)
    }

    pub(crate) fn revoke(&mut self, id: i64) -> Result<Lease, StateError> {
        self.0.remove(id).ok_or(StateError::LeaseNotFound)
    }

    /// `None` if there is no such lease, which is nothing wrong: it may just have ended.
    pub(crate) fn checkpoint(&mut self, id: i64, remaining_ttl: i64) -> Option<Lease> {
        let lease = self.get(id)?;
        let remaining_ttl = remaining_ttl.clamp(0, lease.granted_ttl);
        let lease = Lease { remaining_ttl, ..lease };
        self.0.insert(lease);
        Some(lease)
    }
}

/// A lease's row: the key is its id, the value granted and remaining seconds, little endian.
pub(crate) fn row(lease: &Lease) -> Row {
    let mut value = Vec::with_capacity(16);
    value.extend_from_slice(&lease.granted_ttl.to_le_bytes());
    value.extend_from_slice(&lease.remaining_ttl.to_le_bytes());
    Row { table: Table::Lease, key: row_key(lease.id), value }
}

pub(crate) fn row_removed(id: i64) -> RowChange {
    RowChange { table: Table::Lease, key: row_key(id), value: None }
}

fn row_key(id: i64) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

impl Leases {
    /// Takes in a row written by [`row`]; `None` if it is not one.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let id = i64::from_be_bytes(key.try_into().ok()?);
        let (granted, remaining) = value.split_at_checked(8)?;
        let lease = Lease {
            id,
            granted_ttl: i64::from_le_bytes(granted.try_into().ok()?),
            remaining_ttl: i64::from_le_bytes(remaining.try_into().ok()?),
        };
        let possible = id != 0 && lease.granted_ttl > 0 && lease.remaining_ttl >= 0;
        (possible && self.0.insert(lease).is_none()).then_some(())
    }
}
