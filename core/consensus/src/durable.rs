//! Who is told what is durable at the leader, and what a follower makes of it.
//!
//! Where two voters are a quorum, a follower that has an entry on its disk needs to know but one thing to
//! know that the entry is committed: that it is on the leader's disk, too. So the leader says it as soon
//! as its own disk does, to those whose callers wait for it, and they answer after one round trip instead
//! of two. In the words of Lamport, "Paxos Made Simple" (2001), section 2.3: the acceptors answer the
//! learner itself. What is safe about it stands in ADR 32; what decides is in [`crate::replica`].

use std::collections::BTreeMap;

use crate::lately::Lately;

/// Nearer followers are told nothing: half a round trip is less than what a message costs.
const ROUND_TRIP_US_MIN: u64 = 1_000;
/// The least round trip is taken from one to two such periods. On a machine that is busy for longer near
/// followers seem far; its batches are large then, and a word for each costs little.
const ROUND_TRIP_PERIOD_US: u64 = 10_000_000;
/// And from no fewer answers in the term.
const ANSWERS_MIN: u64 = 8;

/// A follower of a leader.
#[derive(Debug, Default)]
struct Follower {
    /// The first and the last index that is waited for and not told.
    awaits: Option<(u64, u64)>,
    /// What answers to heartbeats take, at the least.
    round_trip_us: Lately,
    answers: u64,
}

impl Follower {
    /// Whether it waits, and is far enough for a word.
    fn waits(&self) -> bool {
        let is_far = |us| us >= ROUND_TRIP_US_MIN;
        self.awaits.is_some()
            && self.answers >= ANSWERS_MIN
            && self.round_trip_us.get(u64::min).is_some_and(is_far)
    }

    fn is_due(&self, durable: u64, committed: u64) -> bool {
        let is_news = |(first, last)| first <= durable && last > committed;
        durable > committed && self.waits() && self.awaits.is_some_and(is_news)
    }
}

/// What a leader has told, in the term it leads.
#[derive(Debug, Default)]
pub(crate) struct Told {
    followers: BTreeMap<u64, Follower>,
    index: u64,
    messages: u64,
}

impl Told {
    /// A new term is led.
    pub(crate) fn begin_term(&mut self) {
        *self = Told { messages: self.messages, ..Told::default() };
    }

    /// Who is no peer any more is told nothing.
    pub(crate) fn retain(&mut self, is_peer: impl Fn(u64) -> bool) {
        self.followers.retain(|id, _| is_peer(*id));
    }

    /// A follower has answered a heartbeat after so long.
    pub(crate) fn answered_after(&mut self, now_us: u64, follower: u64, took_us: u64) {
        let follower = self.followers.entry(follower).or_default();
        follower.round_trip_us.add(now_us, ROUND_TRIP_PERIOD_US, took_us, u64::min);
        follower.answers += 1;
    }

    /// Commands that came through a follower are in entries up to here.
    pub(crate) fn awaits(&mut self, follower: u64, index: u64, committed: u64) {
        let follower = self.followers.entry(follower).or_default();
        let before = follower.awaits.filter(|(_, last)| *last > committed);
        let first = before.map_or(index, |(first, _)| first.max(committed + 1));
        follower.awaits = Some((first, index));
    }

    /// Those who wait for something and are far.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = u64> {
        self.followers.iter().filter(|(_, it)| it.waits()).map(|(id, _)| *id)
    }

    /// Whether a follower waits for something that is durable here and not known to be committed.
    pub(crate) fn is_due(&self, follower: u64, durable: u64, committed: u64) -> bool {
        self.followers.get(&follower).is_some_and(|it| it.is_due(durable, committed))
    }

    /// A follower is told that this is durable here.
    pub(crate) fn tell(&mut self, follower: u64, durable: u64) {
        self.index = self.index.max(durable);
        self.messages += 1;
        if let Some(follower) = self.followers.get_mut(&follower) {
            let rest = follower.awaits.filter(|(_, last)| *last > durable);
            follower.awaits = rest.map(|(_, last)| (durable + 1, last));
        }
    }

    /// The highest index anybody was told of. Whoever was may have answered a caller by it.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// How often anybody was told, since the boot.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }
}

/// What a follower has heard from its leader.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    term: u64,
    index: u64,
    /// The commit index the leader has named, while what is durable at both is ahead of it.
    named: Option<u64>,
    entries: u64,
}

impl Heard {
    /// In this term the leader says that this is durable with it.
    pub(crate) fn hear(&mut self, term: u64, index: u64) {
        if self.term != term {
            *self = Heard { term, entries: self.entries, ..Heard::default() };
        }
        self.index = self.index.max(index);
    }

    /// What is durable at the leader of this term; 0: nothing that is known.
    pub(crate) fn index(&self, term: u64) -> u64 {
        if self.term == term { self.index } else { 0 }
    }

    /// What is durable at both moves the commit index.
    pub(crate) fn commit(&mut self, from: u64, to: u64) {
        self.named.get_or_insert(from);
        self.entries += to - from;
    }

    /// The leader names a commit index, and that here was and is now so. Whether it is news.
    pub(crate) fn name(&mut self, term: u64, commit: u64, before: u64, now: u64) -> bool {
        let Some(named) = self.named.filter(|_| self.term == term) else { return now > before };
        self.named = Some(named.max(commit)).filter(|named| *named < now);
        commit > named
    }

    /// Entries that were committed before the leader said so, since the boot.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(told: &Told, durable: u64, committed: u64) -> Vec<u64> {
        told.waiting().filter(|follower| told.is_due(*follower, durable, committed)).collect()
    }

    fn far() -> Told {
        let mut told = Told::default();
        for follower in [2, 3] {
            answer(&mut told, 0, follower, 80_000);
        }
        told
    }

    /// As often as it takes to be believed.
    fn answer(told: &mut Told, now_us: u64, follower: u64, took_us: u64) {
        for _ in 0..ANSWERS_MIN {
            told.answered_after(now_us, follower, took_us);
        }
    }

    #[test]
    fn who_waits_is_told_once_of_each_index_that_is_durable() {
        let mut told = far();
        told.awaits(2, 5, 4);
        assert!(due(&told, 4, 4).is_empty(), "it is not durable");
        assert_eq!(due(&told, 5, 4), [2]);
        told.awaits(2, 8, 4);
        told.tell(2, 6);
        assert!(due(&told, 6, 4).is_empty(), "it was told");
        assert_eq!(due(&told, 7, 4), [2]);
        told.tell(2, 8);
        assert!(due(&told, 9, 4).is_empty(), "nobody waits");
        assert_eq!((told.index(), told.messages()), (8, 2));
    }

    #[test]
    fn who_waits_for_nothing_or_for_what_is_committed_is_told_nothing() {
        let mut told = far();
        assert!(due(&told, 9, 4).is_empty());
        told.awaits(2, 5, 4);
        assert!(due(&told, 9, 5).is_empty());
        told.awaits(2, 9, 6);
        assert!(due(&told, 8, 6).is_empty(), "what waited before is committed");
    }

    #[test]
    fn only_a_follower_that_is_known_to_be_far_is_told() {
        let mut told = Told::default();
        told.awaits(2, 5, 4);
        assert!(due(&told, 5, 4).is_empty(), "nothing is known of the way");
        for _ in 1..ANSWERS_MIN {
            told.answered_after(0, 2, 5_000);
            assert!(due(&told, 5, 4).is_empty(), "little is known of it");
        }
        told.answered_after(0, 2, 999);
        answer(&mut told, ROUND_TRIP_PERIOD_US - 1, 2, 5_000);
        assert!(due(&told, 5, 4).is_empty(), "its processor is busy, its road is short");
        told.answered_after(ROUND_TRIP_PERIOD_US, 2, 1_000);
        told.answered_after(2 * ROUND_TRIP_PERIOD_US, 2, 1_000);
        assert_eq!(due(&told, 5, 4), [2]);
    }

    #[test]
    fn a_new_term_begins_with_nothing_told() {
        let mut told = far();
        told.awaits(2, 5, 4);
        told.tell(2, 5);
        told.begin_term();
        assert_eq!((told.index(), told.messages()), (0, 1));
        told.awaits(2, 6, 4);
        assert!(due(&told, 6, 4).is_empty());
    }

    #[test]
    fn what_was_heard_is_forgotten_with_the_term() {
        let mut heard = Heard::default();
        heard.hear(5, 20);
        heard.hear(5, 18);
        assert_eq!((heard.index(5), heard.index(6)), (20, 0));
        heard.hear(6, 12);
        assert_eq!((heard.index(5), heard.index(6)), (0, 12));
    }

    #[test]
    fn a_commit_index_the_leader_names_is_news_though_it_is_known_from_what_is_durable() {
        let mut heard = Heard::default();
        assert!(heard.name(5, 7, 6, 7));
        assert!(!heard.name(5, 7, 7, 7));
        heard.hear(5, 10);
        heard.commit(7, 10);
        assert!(heard.name(5, 8, 10, 10));
        assert!(!heard.name(5, 8, 10, 10), "it asks");
        assert!(heard.name(5, 10, 10, 10));
        assert!(!heard.name(5, 10, 10, 10));
        assert!(heard.name(5, 11, 10, 11));
        assert_eq!(heard.entries(), 3);
    }
}
