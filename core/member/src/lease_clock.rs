//! When leases run out, by the leader's clock.
//!
//! The replicated state knows which leases exist and what was granted; time passes only here, and
//! only the leader acts on it: it proposes the revocation, and apply on every member deletes the
//! keys. Every member follows the table all the same, so that a new leader can begin at once.
//!
//! A hundred thousand leases may run out together, when a network comes back or a fleet was started
//! in one second. They are revoked in turns, so many at a time, and no more are begun while as many
//! as the window holds are not applied: callers' writes come in between. A lease that waits for its
//! turn is over all the same, and can not be renewed.
//!
//! Time the member itself did not run (a stopped process, a paused machine) is not held against the
//! lease holders: their renewals may be waiting unread in the sockets. All times kept here are of a
//! clock that stands still meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use crate::LeaseTtl;

/// A step later than this after the one before means that the member itself stood still.
const OWN_STALL_US: u64 = 2_000_000;
/// Leases revoked in one turn.
const REVOKED_PER_TURN_MAX: usize = 32;
/// From one turn to the next: with the above, 3,200 leases a second.
const TURN_US: u64 = 10_000;
/// Revocations proposed and not applied yet, beyond which none is begun.
const REVOKING_MAX: usize = 4096;
/// A proposed revocation that has not been applied by then is proposed again.
const REVOKE_RETRY_US: u64 = 3_000_000;
/// Lags kept until somebody asks; further ones are not noted.
const LAGS_MAX: usize = 4096;
const SECOND_US: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
struct Lease {
    granted_ttl: i64,
    expires_us: u64,
    /// Its revocation has been proposed, and will be again then.
    retry_us: Option<u64>,
}

impl Lease {
    fn until(granted_ttl: i64, expires_us: u64) -> Self {
        Lease { granted_ttl, expires_us, retry_us: None }
    }
}

/// The clock of all leases.
#[derive(Debug)]
pub struct LeaseClock {
    leases: BTreeMap<i64, Lease>,
    /// Those not being revoked, by when they run out.
    by_expiry: BTreeSet<(u64, i64)>,
    /// Those being revoked, by when that is tried again.
    revoking: BTreeSet<(u64, i64)>,
    next_turn_us: u64,
    last_step_us: u64,
    /// How long the member stood still, all times together.
    stalled_us: u64,
    lags_us: Vec<u64>,
}

impl LeaseClock {
    /// A clock without leases.
    pub fn new(now_us: u64) -> Self {
        LeaseClock {
            leases: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            revoking: BTreeSet::new(),
            next_turn_us: 0,
            last_step_us: now_us,
            stalled_us: 0,
            lags_us: Vec::new(),
        }
    }

    /// To be called at every step: notices that the member itself stood still.
    pub fn pass_time(&mut self, now_us: u64) {
        let gap = now_us.saturating_sub(self.last_step_us);
        self.last_step_us = now_us;
        if gap > OWN_STALL_US {
            self.stalled_us += gap;
        }
    }

    /// A lease was granted: `ttl` in seconds.
    pub fn granted(&mut self, id: i64, ttl: i64, now_us: u64) {
        self.set(id, Lease::until(ttl, after(self.running_us(now_us), ttl)));
    }

    /// A lease is gone.
    pub fn revoked(&mut self, id: i64) {
        if let Some(lease) = self.leases.remove(&id) {
            self.unqueue(id, lease);
        }
    }

    /// What apply did to the lease table.
    pub fn take(&mut self, change: &state::LeaseChange, now_us: u64) {
        match change {
            state::LeaseChange::Granted { id, ttl } => self.granted(*id, *ttl, now_us),
            state::LeaseChange::Revoked { id } => {
                let over = self.leases.get(id).filter(|lease| lease.retry_us.is_some());
                if let Some(lease) = over.filter(|_| self.lags_us.len() < LAGS_MAX) {
                    self.lags_us.push(self.running_us(now_us).saturating_sub(lease.expires_us));
                }
                self.revoked(*id);
            }
            state::LeaseChange::Checkpointed { id, remaining_ttl } => {
                if let Some(lease) = self.leases.get(id).copied() {
                    let expires_us = after(self.running_us(now_us), *remaining_ttl);
                    self.set(*id, Lease::until(lease.granted_ttl, expires_us));
                }
            }
        }
    }

    /// Takes over a whole table, of ids and seconds; what there was before is forgotten.
    pub fn replace(&mut self, leases: impl IntoIterator<Item = (i64, i64)>, now_us: u64) {
        let now_us = self.running_us(now_us);
        let until = |(id, ttl)| (id, Lease::until(ttl, after(now_us, ttl)));
        self.leases = leases.into_iter().map(until).collect();
        self.queue_all();
    }

    /// This member begins to lead: every lease gets its whole time again, for the leader before may
    /// have renewed it.
    pub fn begin_term(&mut self, now_us: u64) {
        let now_us = self.running_us(now_us);
        for lease in self.leases.values_mut() {
            *lease = Lease::until(lease.granted_ttl, after(now_us, lease.granted_ttl));
        }
        self.queue_all();
    }

    /// Renews a lease; `None`: there is none.
    pub fn renew(&mut self, id: i64, now_us: u64) -> Option<LeaseTtl> {
        let now_us = self.running_us(now_us);
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
        let left_us = lease.expires_us.saturating_sub(self.running_us(now_us));
        let ttl = i64::try_from(left_us / SECOND_US).unwrap_or(i64::MAX);
        Some(LeaseTtl { ttl, granted_ttl: lease.granted_ttl })
    }

    /// How long leases that were revoked because they were over had been so, since this was last asked.
    pub fn take_lags_us(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.lags_us)
    }

    /// Leases to be revoked in this turn; each comes again if it is not revoked by then. None before
    /// the next turn is due.
    pub fn take_expired(&mut self, now_us: u64) -> Vec<i64> {
        let now_us = self.running_us(now_us);
        if now_us < self.next_turn_us {
            return Vec::new();
        }
        let due = ..=(now_us, i64::MAX);
        let mut expired: Vec<i64> =
            self.revoking.range(due).take(REVOKED_PER_TURN_MAX).map(|(_, id)| *id).collect();
        let room = REVOKING_MAX.saturating_sub(self.revoking.len());
        let rest = room.min(REVOKED_PER_TURN_MAX - expired.len());
        expired.extend(self.by_expiry.range(due).take(rest).map(|(_, id)| *id));
        for id in &expired {
            if let Some(lease) = self.leases.get(id).copied() {
                self.set(*id, Lease { retry_us: Some(now_us + REVOKE_RETRY_US), ..lease });
            }
        }
        if !expired.is_empty() {
            self.next_turn_us = now_us + TURN_US;
        }
        expired
    }

    /// When [`LeaseClock::take_expired`] next has something to give.
    pub fn next_turn_us(&self) -> Option<u64> {
        let next = if self.revoking.len() < REVOKING_MAX { self.by_expiry.first() } else { None };
        let (at_us, _) = next.into_iter().chain(self.revoking.first()).min()?;
        Some((*at_us).max(self.next_turn_us) + self.stalled_us)
    }

    /// The time by a clock that stands still with the member.
    fn running_us(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.stalled_us)
    }

    fn set(&mut self, id: i64, lease: Lease) {
        if let Some(before) = self.leases.insert(id, lease) {
            self.unqueue(id, before);
        }
        match lease.retry_us {
            None => self.by_expiry.insert((lease.expires_us, id)),
            Some(retry_us) => self.revoking.insert((retry_us, id)),
        };
    }

    fn unqueue(&mut self, id: i64, lease: Lease) {
        match lease.retry_us {
            None => self.by_expiry.remove(&(lease.expires_us, id)),
            Some(retry_us) => self.revoking.remove(&(retry_us, id)),
        };
    }

    /// Queues all leases at once, a million in a fraction of the time that one after the other takes:
    /// a new leader must not be late with its first heartbeats.
    fn queue_all(&mut self) {
        self.revoking.clear();
        self.by_expiry = self.leases.iter().map(|(id, lease)| (lease.expires_us, *id)).collect();
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
        assert!(clock.take_expired(5 * S - 1).is_empty());
        assert_eq!(clock.take_expired(5 * S), [7]);
    }

    #[test]
    fn only_a_lease_that_was_over_tells_how_late_it_ended() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        clock.granted(8, 5, 0);
        clock.take(&state::LeaseChange::Revoked { id: 8 }, 4 * S);
        assert_eq!(clock.take_expired(5 * S), [7]);
        clock.take(&state::LeaseChange::Revoked { id: 7 }, 5 * S + 30);
        assert_eq!(clock.take_lags_us(), [30]);
        assert!(clock.take_lags_us().is_empty());
    }

    #[test]
    fn an_expired_lease_is_offered_again_until_it_is_revoked() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        assert_eq!(clock.take_expired(5 * S), [7]);
        assert!(clock.take_expired(6 * S).is_empty());
        assert_eq!(clock.take_expired(8 * S), [7]);
        clock.revoked(7);
        assert!(clock.take_expired(100 * S).is_empty());
        assert_eq!(clock.next_turn_us(), None);
    }

    #[test]
    fn a_renewal_gives_the_whole_time_again() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        assert_eq!(clock.renew(7, 4 * S), Some(LeaseTtl { ttl: 5, granted_ttl: 5 }));
        assert_eq!(clock.time_to_live(7, 6 * S), Some(LeaseTtl { ttl: 3, granted_ttl: 5 }));
        assert!(clock.take_expired(8 * S).is_empty());
        assert_eq!(clock.take_expired(9 * S), [7]);
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
        assert!(clock.take_expired(25 * S - 1).is_empty());
        assert_eq!(clock.take_expired(25 * S), [7]);
    }

    #[test]
    fn the_members_own_stall_is_not_held_against_the_holders() {
        let mut clock = LeaseClock::new(0);
        clock.granted(7, 5, 0);
        clock.pass_time(S);
        clock.pass_time(31 * S);
        assert!(clock.take_expired(31 * S).is_empty());
        assert_eq!(clock.take_expired(35 * S), [7]);
    }

    fn crowd(count: usize) -> LeaseClock {
        let mut clock = LeaseClock::new(0);
        let count = i64::try_from(count).expect("a small number");
        clock.replace((1..=count).map(|id| (id, 1)), 0);
        clock
    }

    #[test]
    fn a_mass_expiry_is_taken_in_turns() {
        let mut clock = crowd(REVOKED_PER_TURN_MAX + 3);
        assert_eq!(clock.next_turn_us(), Some(S));
        assert_eq!(clock.take_expired(2 * S).len(), REVOKED_PER_TURN_MAX);
        assert!(clock.take_expired(2 * S).is_empty());
        assert_eq!(clock.next_turn_us(), Some(2 * S + TURN_US));
        assert!(clock.take_expired(2 * S + TURN_US - 1).is_empty());
        assert_eq!(clock.take_expired(2 * S + TURN_US).len(), 3);
        assert_eq!(clock.next_turn_us(), Some(2 * S + REVOKE_RETRY_US));
    }

    #[test]
    fn a_lease_waiting_for_its_turn_is_over() {
        let mut clock = crowd(REVOKED_PER_TURN_MAX + 1);
        let last = REVOKED_PER_TURN_MAX as i64 + 1;
        assert!(!clock.take_expired(2 * S).contains(&last));
        assert_eq!(clock.renew(last, 2 * S), None);
        assert_eq!(clock.take_expired(2 * S + TURN_US), [last]);
    }

    #[test]
    fn no_revocation_is_begun_while_the_window_is_full_and_the_lost_ones_are_tried_again() {
        let mut clock = crowd(REVOKING_MAX + 1);
        let mut now_us = 2 * S;
        let mut begun = 0;
        while begun < REVOKING_MAX {
            let turn = clock.take_expired(now_us).len();
            assert!(turn > 0);
            begun += turn;
            now_us = clock.next_turn_us().expect("more to do");
        }
        assert_eq!(begun, REVOKING_MAX);
        // Nothing was applied: the first come again, and the one outside still waits.
        assert_eq!(now_us, 2 * S + REVOKE_RETRY_US);
        let again = clock.take_expired(now_us);
        assert_eq!(again[..2], [1, 2]);
        // One is applied, and makes room for it.
        clock.revoked(1);
        let last = REVOKING_MAX as i64 + 1;
        let mut later = Vec::new();
        for _ in 0..=REVOKING_MAX / REVOKED_PER_TURN_MAX {
            now_us = clock.next_turn_us().expect("more to do");
            later.extend(clock.take_expired(now_us));
        }
        assert!(later.contains(&last));
    }

    #[test]
    fn a_lease_granted_after_a_stall_lives_its_time() {
        let mut clock = LeaseClock::new(0);
        clock.pass_time(30 * S);
        clock.granted(7, 5, 30 * S);
        assert_eq!(clock.next_turn_us(), Some(35 * S));
        assert_eq!(clock.time_to_live(7, 31 * S), Some(LeaseTtl { ttl: 4, granted_ttl: 5 }));
        assert!(clock.take_expired(35 * S - 1).is_empty());
        assert_eq!(clock.take_expired(35 * S), [7]);
    }

    #[test]
    fn a_table_taken_over_replaces_the_one_before() {
        let mut clock = crowd(3);
        let _revoking = clock.take_expired(2 * S);
        clock.replace([(9, 5)], 2 * S);
        assert_eq!(clock.renew(1, 2 * S), None);
        assert_eq!(clock.next_turn_us(), Some(7 * S));
        assert_eq!(clock.take_expired(7 * S), [9]);
    }
}
