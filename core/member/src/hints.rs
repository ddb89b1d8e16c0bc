//! Whose process is gone, and whose is not: crash hints, and elections that were not needed.
//!
//! A hint (see `consensus`) is strong evidence and no proof: a packet filter that rejects, or a virtual
//! address without anybody behind it, refuses connections just like a machine whose process has died.
//! The cluster stays safe then, but loses a healthy leader. So a hint that turns out false is counted,
//! and after [`FALSE_HINTS_MAX`] of them in [`FALSE_HINTS_WITHIN_US`] this member believes none for
//! [`SILENCED_US`].
//!
//! An election is *false* if the member that led before was alive, as the same process, and had not
//! handed over: the election timeout was too short, or a hint was wrong. That shows afterwards, when
//! the deposed leader is heard again under the boot id it led with. However long that takes, it counts;
//! a leader that was cut off for an hour is one of them.

use std::collections::{BTreeMap, VecDeque};

use consensus::ElectionCause;
use proto::peer::{RaftMessage, raft_message::Type};

/// So many false hints,
pub const FALSE_HINTS_MAX: usize = 3;
/// within so long,
pub const FALSE_HINTS_WITHIN_US: u64 = 600_000_000;
/// and hints are not believed for so long.
pub const SILENCED_US: u64 = 3_600_000_000;
/// Peers whose boot is remembered.
const BOOTS_MAX: usize = 64;

/// Crash hints and false elections, counted since the member booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintStatus {
    /// Hints that were followed.
    pub taken: u64,
    /// Of these, the ones after which the leader turned out alive.
    pub false_hints: u64,
    /// Times hints were switched off because too many were false.
    pub silenced: u64,
    /// Hints are switched off until then; 0: they are not.
    pub silenced_until_us: u64,
    /// Elections this member won although the leader before was alive and had not handed over.
    pub false_elections: u64,
}

/// A hint that was followed, as long as it may turn out false.
#[derive(Debug)]
struct Taken {
    leader: u64,
    term: u64,
    until_us: u64,
}

/// What a member knows of who is alive.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    status: HintStatus,
    taken: Option<Taken>,
    /// When hints turned out false, the latest ones.
    false_at_us: VecDeque<u64>,
    /// The newest boot known of each peer.
    boots: BTreeMap<u64, u64>,
    /// The last leader other than this member, since this member led itself.
    led_before: Option<u64>,
    /// Whom this member took the leadership from, and its boot.
    deposed: Option<(u64, u64)>,
}

impl Hints {
    pub(crate) fn status(&self, now_us: u64) -> HintStatus {
        let mut status = self.status;
        if status.silenced_until_us <= now_us {
            status.silenced_until_us = 0;
        }
        status
    }

    /// Whether a hint is to be believed now.
    pub(crate) fn believes(&self, now_us: u64, peer: u64, boot_id: u64) -> bool {
        // A newer process of the peer has greeted since.
        let is_stale = self.boots.get(&peer).is_some_and(|known| *known != boot_id);
        !is_stale && now_us >= self.status.silenced_until_us
    }

    /// A hint is followed; until `until_us` the leader may turn out alive.
    pub(crate) fn take(&mut self, leader: u64, term: u64, until_us: u64) {
        self.status.taken += 1;
        self.taken = Some(Taken { leader, term, until_us });
    }

    /// A peer said who it is.
    pub(crate) fn greeted(&mut self, peer: u64, boot_id: u64) {
        if self.boots.len() >= BOOTS_MAX && !self.boots.contains_key(&peer) {
            self.boots.pop_first();
        }
        self.boots.insert(peer, boot_id);
    }

    /// A message has come.
    pub(crate) fn heard(&mut self, now_us: u64, message: &RaftMessage) {
        if let Some((deposed, boot_id)) = self.deposed
            && deposed == message.from
        {
            // Or it is another process by now, and the one that led had ended.
            self.status.false_elections +=
                u64::from(self.boots.get(&deposed).is_none_or(|now| *now == boot_id));
            self.deposed = None;
        }
        let Some(taken) = &self.taken else { return };
        let beats = message.r#type() == Type::MsgHeartbeat;
        if beats && message.from == taken.leader && message.term == taken.term {
            if now_us <= taken.until_us {
                self.turned_out_false(now_us);
            }
            self.taken = None;
        }
    }

    fn turned_out_false(&mut self, now_us: u64) {
        self.status.false_hints += 1;
        self.false_at_us.push_back(now_us);
        if self.false_at_us.len() < FALSE_HINTS_MAX {
            return;
        }
        let first_us = self.false_at_us.pop_front().unwrap_or(0);
        if now_us.saturating_sub(first_us) <= FALSE_HINTS_WITHIN_US {
            self.status.silenced += 1;
            self.status.silenced_until_us = now_us.saturating_add(SILENCED_US);
            self.false_at_us.clear();
        }
    }

    /// Who leads has changed; `cause` is what made this member stand, if it is the one.
    pub(crate) fn led_by(&mut self, own: u64, leader: Option<u64>, cause: ElectionCause) {
        let Some(leader) = leader else { return };
        self.deposed = None;
        if leader != own {
            self.led_before = Some(leader);
            return;
        }
        let handed_over = matches!(cause, ElectionCause::Transfer | ElectionCause::Planned);
        let before = self.led_before.take().filter(|_| !handed_over);
        self.deposed = before.and_then(|id| Some((id, *self.boots.get(&id)?)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: u64 = 60_000_000;

    fn beat(from: u64, term: u64) -> RaftMessage {
        RaftMessage { r#type: Type::MsgHeartbeat.into(), from, term, ..RaftMessage::default() }
    }

    fn answer(from: u64) -> RaftMessage {
        RaftMessage { r#type: Type::MsgAppendResponse.into(), from, ..RaftMessage::default() }
    }

    fn false_hint(hints: &mut Hints, now_us: u64) {
        hints.take(2, 5, now_us + 1_000_000);
        hints.heard(now_us + 1_000, &beat(2, 5));
    }

    #[test]
    fn three_false_hints_in_ten_minutes_silence_hints_for_an_hour() {
        let mut hints = Hints::default();
        for minute in [0, 4, 9] {
            assert!(hints.believes(minute * MINUTE_US, 2, 1));
            false_hint(&mut hints, minute * MINUTE_US);
        }
        assert!(!hints.believes(10 * MINUTE_US, 2, 1));
        assert!(!hints.believes(69 * MINUTE_US, 2, 1));
        assert!(hints.believes(70 * MINUTE_US, 2, 1));
        let status = hints.status(10 * MINUTE_US);
        assert_eq!((status.taken, status.false_hints, status.silenced), (3, 3, 1));
        assert_eq!(hints.status(70 * MINUTE_US).silenced_until_us, 0);
    }

    #[test]
    fn false_hints_further_apart_silence_nothing() {
        let mut hints = Hints::default();
        for minute in [0, 6, 12, 18, 24] {
            false_hint(&mut hints, minute * MINUTE_US);
        }
        assert_eq!(hints.status(25 * MINUTE_US).silenced, 0);
        assert_eq!(hints.status(25 * MINUTE_US).false_hints, 5);
    }

    #[test]
    fn only_a_heartbeat_of_that_leader_in_that_term_and_in_time_proves_a_hint_false() {
        let mut hints = Hints::default();
        hints.take(2, 5, 1_000_000);
        for message in [beat(3, 5), beat(2, 6), answer(2)] {
            hints.heard(10, &message);
        }
        assert_eq!(hints.status(0).false_hints, 0);
        hints.heard(1_000_001, &beat(2, 5));
        assert_eq!(hints.status(0).false_hints, 0);
    }

    #[test]
    fn a_hint_about_an_earlier_boot_is_not_believed() {
        let mut hints = Hints::default();
        hints.greeted(2, 70);
        assert!(hints.believes(0, 2, 70));
        hints.greeted(2, 71);
        assert!(!hints.believes(0, 2, 70));
    }

    #[test]
    fn an_election_is_false_if_the_one_deposed_is_heard_again_as_the_same_process() {
        let mut hints = Hints::default();
        let elect = |hints: &mut Hints, cause| {
            hints.greeted(2, 70);
            hints.led_by(1, Some(2), ElectionCause::default());
            hints.led_by(1, None, cause);
            hints.led_by(1, Some(1), cause);
        };
        elect(&mut hints, ElectionCause::Timeout);
        hints.heard(0, &answer(3));
        assert_eq!(hints.status(0).false_elections, 0);
        hints.heard(0, &answer(2));
        hints.heard(0, &answer(2));
        assert_eq!(hints.status(0).false_elections, 1);

        elect(&mut hints, ElectionCause::Hint);
        hints.greeted(2, 71);
        hints.heard(0, &answer(2));
        assert_eq!(hints.status(0).false_elections, 1, "it had died");

        elect(&mut hints, ElectionCause::Transfer);
        hints.heard(0, &answer(2));
        assert_eq!(hints.status(0).false_elections, 1, "it had handed over");

        hints.led_by(1, None, ElectionCause::Timeout);
        hints.led_by(1, Some(1), ElectionCause::Timeout);
        hints.heard(0, &answer(2));
        assert_eq!(hints.status(0).false_elections, 1, "nobody led in between");
    }
}
