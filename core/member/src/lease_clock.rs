//! When leases run out, by the leader's clock.
//!
//! The replicated state knows which leases exist and what was granted; time passes only here, and
//! only the leader acts on it: it proposes the revocation, and apply on every member deletes the
//! keys. Every member follows the table all the same, so that a new leader can begin at once.
//!
//! Time the member itself did not run (a stopped process, a paused machine) is not held against the
//! lease holders: their renewals may be waiting unread in the sockets.

use std::collections::{BTreeMap, BTreeSet};

use crate::LeaseTtl;

/// A step later than this after the one before means that the member itself stood still.
const OWN_STALL_US: u64 = 2_000_000;
/// A proposed revocation that has not been applied by then is proposed again.
const REVOKE_RETRY_US: u64 = 3_000_000;
const SECOND_US: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Lease {
    granted_ttl: i64,
    expires_us: u64,
    /// Where it stands in the queue: at its expiry, or at the next try to revoke it.
    queued_us: u64,
}

impl Lease {
    fn until(granted_ttl: i64, expires_us: u64) -> Self {
        Lease { granted_ttl, expires_us, queued_us: expires_us }
    }
}

/// The clock of all leases.
#[derive(Debug)]
pub struct LeaseClock {
    leases: BTreeMap<i64, Lease>,
    by_expiry: BTreeSet<(u64, i64)>,
    last_step_us: u64,
}

impl LeaseClock {
    /// A clock without leases.
    pub fn new(now_us: u64) -> Self {
        LeaseClock { leases: BTreeMap::new(), by_expiry: BTreeSet::new(), last_step_us: now_us }
    }

    /// To be called at every step: notices that the member itself stood still.
    pub fn pass_time(&mut self, now_us: u64) {
        let gap = now_us.saturating_sub(self.last_step_us);
        self.last_step_us = now_us;
        if gap > OWN_STALL_US {
            self.shift(gap);
        }
    }

    /// A lease was granted: `ttl` in seconds.
    pub fn granted(&mut self, id: i64, ttl: i64, now_us: u64) {
        self.set(id, Lease::until(ttl, after(now_us, ttl)));
    }

    /// A lease is gone.
    pub fn revoked(&mut self, id: i64) {
        if let Some(lease) = self.leases.remove(&id) {
            self.by_expiry.remove(&(lease.queued_us, id));
        }
    }

    /// What apply did to the lease table.
    pub fn take(&mut self, change: &state::LeaseChange, now_us: u64) {
        match change {
            state::LeaseChange::Granted { id, ttl } => self.granted(*id, *ttl, now_us),
            state::LeaseChange::Revoked { id } => self.revoked(*id),
            state::LeaseChange::Checkpointed { id, remaining_ttl } => {
                if let Some(lease) = self.leases.get(id).copied() {
                    self.set(*id, Lease::until(lease.granted_ttl, after(now_us, *remaining_ttl)));
                }
            }
        }
    }

    /// Forgets all leases.
    pub fn clear(&mut self) {
        self.leases.clear();
        self.by_expiry.clear();
    }

    /// This member begins to lead: every lease gets its whole time again, for the leader before may
    /// have renewed it.
    pub fn begin_term(&mut self, now_us: u64) {
        let all: Vec<(i64, i64)> = self.leases.iter().map(|(id, l)| (*id, l.granted_ttl)).collect();
        for (id, ttl) in all {
            self.granted(id, ttl, now_us);
        }
    }

    /// Renews a lease; `None`: there is none.
    pub fn renew(&mut self, id: i64, now_us: u64) -> Option<LeaseTtl> {
        let lease = *self.leases.get(&id)?;
        if lease.expires_us <= now_us {
            // Its end is on the way and must not be outrun: the holder would trust a lost lease.
            return None;
        }
        self.set(id, Lease::until(lease.granted_ttl, after(now_us, lease.granted_ttl)));
        Some(LeaseTtl { ttl: lease.granted_ttl, granted_ttl: lease.granted_ttl })
    }

    /// What is left of a lease in whole seconds; `None`: there is none.
    pub fn time_to_live(&self, id: i64, now_us: u64) -> Option<LeaseTtl> {
        let lease = self.leases.get(&id)?;
        let left_us = lease.expires_us.saturating_sub(now_us);
        let ttl = i64::try_from(left_us / SECOND_US).unwrap_or(i64::MAX);
        Some(LeaseTtl { ttl, granted_ttl: lease.granted_ttl })
    }

    /// Leases that have run out, at most `max`; each comes again if it is not revoked by then.
    pub fn take_expired(&mut self, now_us: u64, max: usize) -> Vec<i64> {
        let expired: Vec<i64> =
            self.by_expiry.range(..=(now_us, i64::MAX)).take(max).map(|(_, id)| *id).collect();
        for id in &expired {
            if let Some(lease) = self.leases.get(id).copied() {
                self.set(*id, Lease { queued_us: now_us + REVOKE_RETRY_US, ..lease });
            }
        }
        expired
    }

    /// When the next lease runs out.
    pub fn next_expiry_us(&self) -> Option<u64> {
        self.by_expiry.first().map(|(at, _)| *at)
    }

    fn set(&mut self, id: i64, lease: Lease) {
        self.revoked(id);
        self.leases.insert(id, lease);
        self.by_expiry.insert((lease.queued_us, id));
    }

    fn shift(&mut self, by_us: u64) {
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        for id in ids {
            if let Some(lease) = self.leases.get(&id).copied() {
                let expires_us = lease.expires_us.saturating_add(by_us);
                self.set(id, Lease::until(lease.granted_ttl, expires_us));
            }
        }
    }
}

fn after(now_us: u64, ttl: i64) -> u64 {
    let ttl = u64::try_from(ttl).unwrap_or(0);
    now_us.saturating_add(ttl.saturating_mul(SECOND_US))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = SECOND_US;

    #[test]
    fn a_lease_expires_at_its_time_and_not_before() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        assert!(clock.take_expired(5 * S - 1, 10).is_empty());
        assert_eq!(clock.take_expired(5 * S, 10), [7]);
    }

    #[test]
    fn an_expired_lease_is_offered_again_until_it_is_revoked() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        assert_eq!(clock.take_expired(5 * S, 10), [7]);
        assert!(clock.take_expired(6 * S, 10).is_empty());
        assert_eq!(clock.take_expired(8 * S, 10), [7]);
        clock.revoked(7);
        assert!(clock.take_expired(100 * S, 10).is_empty());
        assert_eq!(clock.next_expiry_us(), None);
    }

    #[test]
    fn a_renewal_gives_the_whole_time_again() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        assert_eq!(clock.renew(7, 4 * S), Some(LeaseTtl { ttl: 5, granted_ttl: 5 }));
        assert_eq!(clock.time_to_live(7, 6 * S), Some(LeaseTtl { ttl: 3, granted_ttl: 5 }));
        assert!(clock.take_expired(8 * S, 10).is_empty());
        assert_eq!(clock.take_expired(9 * S, 10), [7]);
    }

    #[test]
    fn a_lease_that_has_run_out_can_not_be_renewed() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        assert_eq!(clock.renew(7, 5 * S), None);
    }

    #[test]
    fn a_new_leader_gives_every_lease_its_whole_time() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        clock.begin_term(20 * S);
        assert!(clock.take_expired(25 * S - 1, 10).is_empty());
        assert_eq!(clock.take_expired(25 * S, 10), [7]);
    }

    #[test]
    fn the_members_own_stall_is_not_held_against_the_holders() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        clock.pass_time(S);
        clock.pass_time(31 * S);
        assert!(clock.take_expired(31 * S, 10).is_empty());
        assert_eq!(clock.take_expired(35 * S, 10), [7]);
    }

    #[test]
    fn a_mass_expiry_is_taken_in_pieces() {
        let mut clock = LeaseClock::new(0);
        for id in 1..=10 {
            clock.granted(id, 1, 0);
        }
        assert_eq!(clock.take_expired(2 * S, 4), [1, 2, 3, 4]);
        assert_eq!(clock.take_expired(2 * S, 4), [5, 6, 7, 8]);
        assert_eq!(clock.take_expired(2 * S, 4), [9, 10]);
    }
}
