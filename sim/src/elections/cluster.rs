//! The slow gait: three replicas that live through a stretch of the network's time.

use std::collections::BTreeMap;

use bytes::Bytes;
use member::autotune::Timing;
use member::consensus::{Boot, Config, Output, Replica, Role};
use proto::log::ConfState;
use proto::peer::RaftMessage;
use proto::peer::raft_message::Type;

use super::Tally;
use super::scan::Calm;
use super::weather::{MEMBERS, Weather, minute_of};

/// Outputs one member may produce at one moment.
const OUTPUTS_MAX: usize = 1_000;
/// Entries of the log that stay in memory.
const ENTRIES_KEPT: u64 = 64;
/// Events between two looks at the watch.
const EVENTS_PER_LOOK: u64 = 1 << 14;

enum Event {
    Deliver(usize, Box<RaftMessage>),
    Persisted(usize, u64),
}

/// Three replicas, their network and what came of them.
pub(super) struct Cluster {
    replicas: [Replica; MEMBERS],
    timing: Timing,
    now_us: u64,
    /// The replicas' clock stands still between stretches: it is behind by this.
    behind_us: u64,
    /// When, by the replicas' clock, the leader's next heartbeat is due.
    next_beat_us: u64,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    wakes_us: [u64; MEMBERS],
    arrived_us: [[u64; MEMBERS]; MEMBERS],
    heard_us: [u64; MEMBERS],
    answered_us: u64,
    leader: Option<usize>,
    /// Heartbeats of the leader since anything else happened.
    calm_beats: u64,
    last_beat_us: u64,
    tally: Tally,
    /// Of the first election, which nobody's impatience began.
    founding: Tally,
}

impl Cluster {
    pub(super) fn new(timing: Timing, seed: u64) -> Cluster {
        let conf_state =
            ConfState { voters: (1..=MEMBERS as u64).collect(), ..ConfState::default() };
        let replica = |at: usize| {
            let id = at as u64 + 1;
            let config = Config {
                timing,
                log_entries_kept: ENTRIES_KEPT,
                ..Config::new(id, seed.wrapping_add(id))
            };
            let boot = Boot { conf_state: conf_state.clone(), ..Boot::default() };
            Replica::new(config, boot, 0).expect("a founder boots")
        };
        Cluster {
            replicas: [replica(0), replica(1), replica(2)],
            timing,
            now_us: 0,
            behind_us: 0,
            next_beat_us: 0,
            events: BTreeMap::new(),
            sequence: 0,
            wakes_us: [0; MEMBERS],
            arrived_us: [[0; MEMBERS]; MEMBERS],
            heard_us: [0; MEMBERS],
            answered_us: 0,
            leader: None,
            calm_beats: 0,
            last_beat_us: 0,
            tally: Tally::default(),
            founding: Tally::default(),
        }
    }

    pub(super) fn now_us(&self) -> u64 {
        self.now_us
    }

    /// What has come of it since the first leader led in peace.
    pub(super) fn tally(&self) -> Tally {
        let (all, before) = (self.counts(), &self.founding);
        Tally {
            pre_campaigns: all.pre_campaigns - before.pre_campaigns,
            quorum_losses: all.quorum_losses - before.quorum_losses,
            false_elections: all.false_elections - before.false_elections,
            leaderless_us: all.leaderless_us - before.leaderless_us,
            ..all
        }
    }

    fn counts(&self) -> Tally {
        let sum = |of: fn(&member::consensus::Status) -> u64| {
            self.replicas.iter().map(|replica| of(&replica.status())).sum()
        };
        Tally {
            pre_campaigns: sum(|status| status.pre_campaigns),
            quorum_losses: sum(|status| status.quorum_losses),
            ..self.tally
        }
    }

    /// Lives from a moment on until it is calm again after `until_us`; `None`: the end came first.
    pub(super) fn live(
        &mut self,
        weather: &mut Weather,
        from: Option<Calm>,
        until_us: u64,
        end_us: u64,
        stop: &impl Fn() -> bool,
    ) -> Option<Calm> {
        let began_us = from.map_or(0, |calm| calm.next_us);
        if let Some(calm) = from {
            self.resume(&calm);
        }
        let mut disk_minute = minute_of(self.now_us);
        let mut disk_asked = false;
        for step in 1_u64.. {
            let wakes = self.wakes_us.map(|us| us.max(self.now_us));
            let waking =
                (0..MEMBERS).map(|member| (weather.runs_at(member, wakes[member]), member)).min();
            let (wake_us, waking) = waking.expect("there are members");
            let event_us = self.events.keys().next().map_or(u64::MAX, |(us, _)| *us);
            let next_us = wake_us.min(event_us);
            if next_us >= end_us || (step.is_multiple_of(EVENTS_PER_LOOK) && stop()) {
                self.now_us = next_us.min(end_us).max(self.now_us);
                self.tally.lived_us += self.now_us - began_us;
                return None;
            }
            // Writes never pause where clients are; one is on its way when a disk stands still.
            if minute_of(next_us) != disk_minute {
                (disk_minute, disk_asked) = (minute_of(next_us), false);
            }
            let stretch = self.leader.map(|leader| weather.disk_stretch(leader, disk_minute));
            if let Some((begin_us, stood_until_us)) = stretch
                && !disk_asked
                && (begin_us..stood_until_us).contains(&next_us)
                && let Some(leader) = self.leader
            {
                disk_asked = true;
                self.now_us = begin_us.max(self.now_us);
                self.calm_beats = 0;
                let _busy = self.replicas[leader].propose(Bytes::from_static(b"w"));
                self.pump(weather, leader);
                continue;
            }
            self.now_us = next_us;
            let beats = if event_us <= wake_us {
                let ((_, _), event) = self.events.pop_first().expect("it was seen");
                self.take(weather, event)
            } else {
                self.replicas[waking].tick(self.now_us - self.behind_us);
                self.pump(weather, waking)
            };
            if beats && self.now_us >= until_us && self.is_calm() {
                self.tally.lived_us += self.now_us - began_us;
                return self.pause();
            }
        }
        None
    }

    /// Everything stands as it stood when it paused, and now is the moment.
    fn resume(&mut self, calm: &Calm) {
        assert_eq!(self.leader, Some(calm.leader), "the leader that led when it paused");
        self.behind_us = calm.next_us - self.next_beat_us;
        self.now_us = calm.next_us;
        self.arrived_us = calm.arrived_us;
        self.heard_us = calm.heard_us;
        self.answered_us = calm.answered_us;
        self.last_beat_us = calm.next_us;
        self.calm_beats = 0;
        for member in 0..MEMBERS {
            let now_us = self.now_us - self.behind_us;
            self.wakes_us[member] = self.replicas[member].next_deadline_us(now_us) + self.behind_us;
        }
    }

    /// Whether nothing but heartbeats has happened for long enough.
    fn is_calm(&self) -> bool {
        let Timing { heartbeat_interval_us, election_timeout_us } = self.timing;
        let wanted = 2 * election_timeout_us.div_ceil(heartbeat_interval_us) + 8;
        if self.calm_beats < wanted {
            return false;
        }
        let Some(leader) = self.leader else { return false };
        let lead = self.replicas[leader].status();
        self.replicas.iter().all(|replica| {
            let status = replica.status();
            status.term == lead.term
                && status.leader == Some(lead.id)
                && status.commit == lead.last_index
                && status.last_index == lead.last_index
                && status.persists_outstanding == 0
                && matches!(status.role, Role::Follower | Role::Leader)
                && status.effective_timing == self.timing
        })
    }

    /// The heartbeat just made is the scan's first.
    fn pause(&mut self) -> Option<Calm> {
        let leader = self.leader?;
        if self.next_beat_us == 0 {
            self.founding = self.counts();
        }
        self.events.clear();
        self.next_beat_us = self.now_us - self.behind_us + self.timing.heartbeat_interval_us;
        Some(Calm {
            leader,
            next_us: self.now_us,
            arrived_us: self.arrived_us,
            heard_us: self.heard_us,
            answered_us: self.answered_us,
        })
    }

    /// True: the leader has sent heartbeats.
    fn take(&mut self, weather: &mut Weather, event: Event) -> bool {
        let now_us = self.now_us;
        match event {
            Event::Persisted(member, number) => {
                self.replicas[member].persisted(number);
                self.pump(weather, member)
            }
            Event::Deliver(member, message) => {
                let runs_us = weather.runs_at(member, now_us);
                if runs_us > now_us {
                    self.push(runs_us, Event::Deliver(member, message));
                    return false;
                }
                let from = (message.from - 1) as usize;
                match message.r#type() {
                    Type::MsgHeartbeat if Some(from) == self.leader => {
                        self.heard_us[member] = now_us;
                    }
                    Type::MsgHeartbeatResponse => self.answered_us = now_us,
                    _ => {}
                }
                let clock_us = now_us - self.behind_us;
                // A message that is not wanted is no news.
                drop(self.replicas[member].receive(clock_us, *message));
                // All that has arrived is taken before time is.
                let more = self.events.first_key_value().is_some_and(|((us, _), event)| {
                    *us == now_us && matches!(event, Event::Deliver(to, _) if *to == member)
                });
                if more {
                    return false;
                }
                self.replicas[member].tick(clock_us);
                self.pump(weather, member)
            }
        }
    }

    fn push(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at_us, self.sequence), event);
    }

    /// Carries out what a replica wants. True: it leads and has sent heartbeats.
    fn pump(&mut self, weather: &mut Weather, member: usize) -> bool {
        let now_us = self.now_us;
        let clock_us = now_us - self.behind_us;
        let mut beats = false;
        for _ in 0..OUTPUTS_MAX {
            if !self.replicas[member].has_output() {
                break;
            }
            let Output {
                persist,
                messages,
                committed,
                reads: _,
                reads_failed: _,
                leadership,
                snapshot_wanted: _,
                dropped: _,
            } = self.replicas[member].take_output(clock_us);
            if let Some(leadership) = leadership {
                self.calm_beats = 0;
                if leadership.is_leader {
                    self.lead(member);
                }
            }
            for message in messages {
                let to = (message.to - 1) as usize;
                match message.r#type() {
                    Type::MsgHeartbeat => beats |= self.leader == Some(member),
                    Type::MsgHeartbeatResponse => {}
                    _ => self.calm_beats = 0,
                }
                let sent_us = now_us + weather.delay_us(member, to, now_us);
                let there_us = &mut self.arrived_us[member][to];
                *there_us = sent_us.max(*there_us);
                let there_us = *there_us;
                self.push(there_us, Event::Deliver(to, Box::new(message)));
            }
            if let Some(entry) = committed.last() {
                self.replicas[member].applied(entry.index);
            }
            if let Some(persist) = persist {
                let durable_us = weather.durable_at(member, now_us);
                if durable_us > now_us {
                    self.push(durable_us, Event::Persisted(member, persist.number));
                } else {
                    self.replicas[member].persisted(persist.number);
                }
            }
        }
        self.wakes_us[member] = self.replicas[member].next_deadline_us(clock_us) + self.behind_us;
        if beats {
            self.calm_beats += 1;
            self.last_beat_us = now_us;
        }
        beats
    }

    /// Nobody dies here: whoever led before was deposed alive.
    fn lead(&mut self, member: usize) {
        if self.leader.replace(member).is_some() {
            self.tally.false_elections += 1;
            self.tally.leaderless_us += self.now_us.saturating_sub(self.last_beat_us);
        }
    }
}
