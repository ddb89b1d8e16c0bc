//! The quick gait: when heartbeats and their answers arrive, and where somebody's patience might end.

use member::autotune::Timing;

use super::Tally;
use super::cluster::Cluster;
use super::weather::{MEMBERS, Preset, Repair, Weather, minute_of, mix};

/// Seeds of pieces lie beyond this.
const SEED: u64 = 0x5eed_0000;
/// A stretch is lived through from so many heartbeats before the gap that asked for it.
const LEAD_BEATS: u64 = 8;
/// Moments kept to go back to.
const MOMENTS: usize = 16;
/// Heartbeats between two looks at the watch.
const BEATS_PER_LOOK: u64 = 1 << 16;

/// A leader whose followers follow, and nothing else on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calm {
    pub(super) leader: usize,
    /// When its next heartbeat is due.
    pub(super) next_us: u64,
    /// When the last packet of each direction arrived: those behind it arrive no sooner.
    pub(super) arrived_us: [[u64; MEMBERS]; MEMBERS],
    /// When each follower last took a heartbeat, and the leader an answer of any.
    pub(super) heard_us: [u64; MEMBERS],
    pub(super) answered_us: u64,
}

/// Simulates a piece; `stop` ends it early.
pub(super) fn run(
    preset: &'static Preset,
    timing: Timing,
    repair: Repair,
    piece: u64,
    span_us: u64,
    stop: impl Fn() -> bool,
) -> Tally {
    let seed = mix(SEED + piece);
    let mut weather = Weather::new(preset, seed, repair);
    let mut cluster = Cluster::new(timing, seed);
    let mut now_us = 0;
    let mut calm = cluster.live(&mut weather, None, 0, span_us, &stop);
    while let Some(from) = calm {
        match scan(&mut weather, timing, from, span_us, &stop) {
            Ok((moment, until_us)) => {
                calm = cluster.live(&mut weather, Some(moment), until_us, span_us, &stop);
            }
            Err(end_us) => {
                now_us = end_us;
                calm = None;
            }
        }
    }
    Tally { simulated_us: now_us.max(cluster.now_us()).min(span_us), ..cluster.tally() }
}

/// Goes on until something might happen: then the moment to go back to, and until when to live; or
/// until the end.
fn scan(
    weather: &mut Weather,
    timing: Timing,
    from: Calm,
    end_us: u64,
    stop: &impl Fn() -> bool,
) -> Result<(Calm, u64), u64> {
    let Timing { heartbeat_interval_us: interval_us, election_timeout_us: election_us } = timing;
    // Patience lasts 51 ticks of 50 to a timeout, and ticks begin at any time.
    let patience_us = election_us - election_us / 25;
    let beats_per_moment = election_us.div_ceil(interval_us).max(LEAD_BEATS);
    let mut moments = [from; MOMENTS];
    let (mut taken, mut beats) = (1, 0_u64);
    let mut state = from;
    let mut disk_seen_us = from.next_us;
    loop {
        if beats.is_multiple_of(beats_per_moment) {
            moments[taken % MOMENTS] = state;
            taken += 1;
        }
        beats += 1;
        let due_us = state.next_us;
        if due_us >= end_us || (beats.is_multiple_of(BEATS_PER_LOOK) && stop()) {
            return Err(due_us.min(end_us));
        }
        let leader = state.leader;
        let sent_us = weather.runs_at(leader, due_us);
        state.next_us = due_us + interval_us;
        if state.next_us <= sent_us {
            state.next_us = sent_us + interval_us;
        }
        let mut silent_since_us = u64::MAX;
        let answered_before_us = state.answered_us;
        for follower in (0..MEMBERS).filter(|member| *member != leader) {
            let arrival = |there: &mut u64, at_us: u64| {
                *there = at_us.max(*there);
                *there
            };
            let delay_us = weather.delay_us(leader, follower, sent_us);
            let there_us = arrival(&mut state.arrived_us[leader][follower], sent_us + delay_us);
            let there_us = weather.runs_at(follower, there_us);
            let heard_us = std::mem::replace(&mut state.heard_us[follower], there_us);
            if there_us.saturating_sub(heard_us) >= patience_us {
                silent_since_us = silent_since_us.min(heard_us);
            }
            let delay_us = weather.delay_us(follower, leader, there_us);
            let back_us = arrival(&mut state.arrived_us[follower][leader], there_us + delay_us);
            let back_us = weather.runs_at(leader, back_us);
            state.answered_us = state.answered_us.max(back_us);
            // The first answer to a heartbeat ends the leader's doubt.
            if back_us.saturating_sub(answered_before_us) < patience_us {
                continue;
            }
            silent_since_us = silent_since_us.min(answered_before_us);
        }
        let (begin_us, stood_until_us) = weather.disk_stretch(leader, minute_of(sent_us));
        if (disk_seen_us..=sent_us).contains(&begin_us)
            && stood_until_us - begin_us >= patience_us / 2
        {
            silent_since_us = silent_since_us.min(begin_us);
        }
        disk_seen_us = sent_us + 1;
        if silent_since_us == u64::MAX {
            continue;
        }
        let wanted_us = silent_since_us.saturating_sub(LEAD_BEATS * interval_us);
        let oldest = taken.saturating_sub(MOMENTS);
        let fits = |at: &usize| moments[at % MOMENTS].next_us <= wanted_us;
        let moment = (oldest..taken).rev().find(fits).unwrap_or(oldest);
        let until_us = state.heard_us.iter().copied().max().unwrap_or(0).max(stood_until_us);
        return Ok((moments[moment % MOMENTS], until_us.max(sent_us) + election_us));
    }
}
