//! Reads by the leader alone, for as long as nobody else can have been elected.
//!
//! A follower that hears a heartbeat grants nobody a vote for an election timeout. So a leader whose
//! heartbeat a quorum has answered has no rival until an election timeout after it *sent* that
//! heartbeat: the lease begins there, not when the answer came, and its length is shorter than the
//! timeout of any voter by more than clocks drift apart (`autotune::plan` keeps it so while both
//! change). Within it the leader answers reads from its own commit index.
//!
//! raft-rs's own lease is not used: it lasts as long as the leader believes in its quorum, which it
//! checks once an election timeout, so that a leader that is cut off may answer for twice the time for
//! which it has no rival (etcd-io/raft#166).
//!
//! What else could elect a rival within a lease, and what keeps it from it:
//!
//! * A transfer makes voters forget their promise (etcd-io/etcd#12704): with the first word to the
//!   successor the lease is over for the rest of the term.
//! * A voter that restarts has forgotten it (etcd-io/etcd#6286): it gives no vote for an election
//!   timeout after its boot, if a plan with a lease was ever in its state or log.
//! * A crash hint makes voters break it: none is believed while a plan has a lease.
//! * A leader that stood still finds its lease ended, for it is measured anew with every step, by a clock
//!   that goes on while the machine sleeps.

use std::collections::{BTreeMap, BTreeSet};

/// The lease of a leader, and of a follower the heartbeat it answers next.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// 0: reads always ask a quorum.
    length_us: u64,
    /// When the newest heartbeat was sent that a voter has answered.
    answered_us: BTreeMap<u64, u64>,
    /// The term has no lease any more.
    is_over: bool,
    /// Of the newest heartbeat heard: its sender, its term, and when the sender says it sent it.
    heard: Option<(u64, u64, u64)>,
}

impl Lease {
    pub(crate) fn set_length(&mut self, length_us: u64) {
        self.length_us = length_us;
    }

    /// Whether reads may do without a quorum.
    pub(crate) fn is_on(&self) -> bool {
        self.length_us > 0
    }

    /// A new term is led.
    pub(crate) fn begin_term(&mut self) {
        self.answered_us.clear();
        self.is_over = false;
    }

    /// There may be a rival from now on.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
    }

    /// A heartbeat of this term was heard.
    pub(crate) fn heard(&mut self, from: u64, term: u64, sent_us: u64) {
        self.heard = Some((from, term, sent_us));
    }

    /// What goes along with an answer to a leader.
    pub(crate) fn echo(&self, to: u64, term: u64) -> u64 {
        let of_it = |heard: &(u64, u64, u64)| heard.0 == to && heard.1 == term;
        self.heard.filter(of_it).map_or(0, |(_, _, sent_us)| sent_us)
    }

    /// A voter has answered the heartbeat of this time, in the term that is led.
    pub(crate) fn answered(&mut self, now_us: u64, from: u64, sent_us: u64) {
        if sent_us > 0 && sent_us <= now_us {
            let newest = self.answered_us.entry(from).or_default();
            *newest = sent_us.max(*newest);
        }
    }

    /// Whether this member has no rival now, as one of these voters.
    pub(crate) fn holds(&self, now_us: u64, own: u64, voters: &BTreeSet<u64>) -> bool {
        if self.length_us == 0 || self.is_over || !voters.contains(&own) {
            return false;
        }
        let of =
            |id: &u64| if *id == own { now_us } else { *self.answered_us.get(id).unwrap_or(&0) };
        let mut times: Vec<u64> = voters.iter().map(of).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        let quorum_us = times[times.len() / 2];
        quorum_us > 0 && now_us < quorum_us.saturating_add(self.length_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH_US: u64 = 240_000;

    fn voters(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    fn lease() -> Lease {
        let mut lease = Lease::default();
        lease.set_length(LENGTH_US);
        lease.begin_term();
        lease
    }

    #[test]
    fn a_lease_begins_when_the_heartbeat_was_sent_that_a_quorum_has_answered() {
        let mut lease = lease();
        let three = voters(&[1, 2, 3]);
        assert!(!lease.holds(1_000, 1, &three), "nobody has answered");
        lease.answered(90_000, 2, 10_000);
        assert!(lease.holds(90_000, 1, &three));
        assert!(lease.holds(10_000 + LENGTH_US - 1, 1, &three));
        assert!(!lease.holds(10_000 + LENGTH_US, 1, &three), "not from the answer on");
        let five = voters(&[1, 2, 3, 4, 5]);
        assert!(!lease.holds(90_000, 1, &five));
        lease.answered(95_000, 5, 40_000);
        assert!(lease.holds(95_000, 1, &five));
        assert!(!lease.holds(10_000 + LENGTH_US, 1, &five), "the older of the two counts");
    }

    #[test]
    fn without_a_length_after_a_transfer_and_in_a_new_term_there_is_none() {
        let three = voters(&[1, 2, 3]);
        let mut off = Lease::default();
        off.answered(20, 2, 10);
        assert!(!off.holds(20, 1, &three));
        let mut handed_over = lease();
        handed_over.answered(20, 2, 10);
        handed_over.end();
        handed_over.answered(30, 2, 25);
        assert!(!handed_over.holds(30, 1, &three));
        let mut anew = lease();
        anew.answered(20, 2, 10);
        anew.begin_term();
        assert!(!anew.holds(20, 1, &three));
    }

    #[test]
    fn times_that_make_no_sense_and_those_who_do_not_vote_count_for_nothing() {
        let mut lease = lease();
        let three = voters(&[1, 2, 3]);
        lease.answered(1_000, 2, 5_000);
        lease.answered(1_000, 3, 0);
        lease.answered(1_000, 9, 900);
        assert!(!lease.holds(1_000, 1, &three));
        lease.answered(1_000, 2, 900);
        lease.answered(1_000, 2, 100);
        assert!(lease.holds(900 + LENGTH_US - 1, 1, &three), "an older answer takes nothing back");
        assert!(!lease.holds(1_000, 1, &voters(&[2, 3])), "it votes no more");
    }

    #[test]
    fn an_answer_carries_the_time_of_the_heartbeat_it_answers() {
        let mut lease = Lease::default();
        assert_eq!(lease.echo(2, 5), 0);
        lease.heard(2, 5, 700);
        assert_eq!(lease.echo(2, 5), 700);
        assert_eq!(lease.echo(3, 5), 0);
        assert_eq!(lease.echo(2, 6), 0);
    }

    #[test]
    fn a_sole_voter_has_no_rival() {
        let mut lease = lease();
        lease.answered(1, 2, 1);
        assert!(lease.holds(1_000_000, 1, &voters(&[1])));
    }
}
