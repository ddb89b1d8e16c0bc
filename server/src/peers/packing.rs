//! How what is sent to one peer is compressed: what the flag asks for, what the peer reads, what the plan
//! in force allows, and, with `auto`, what pays ([`autotune::compression`]).
//!
//! With each probe a peer says how much of the append stream it has taken. Together with what has left
//! that shows what is on the way and how fast it arrives, without a frame of its own, and without the
//! peer's disk in it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use autotune::compression::{CompressionTuner, RoadCount};

use super::Core;
use super::compress::{Agreed, Reads};
use super::link::{Link, lock};
use crate::config::PeerCompression;

/// Between two looks at the processor.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);

/// The append stream that stands, and what was decided for it.
#[derive(Debug, Default)]
pub(super) struct Packing {
    stream: Option<(Agreed, Reads)>,
    codec: PeerCompression,
    tuner: CompressionTuner,
    arrived: Arrived,
}

/// What the peer says it has taken of the stream.
#[derive(Debug, Default)]
struct Arrived {
    bytes: u64,
    /// In a round trip or a little more, lately.
    a_trip: u64,
    /// Where the one that is being counted began: when, and with how many.
    since: (u64, u64),
}

impl Arrived {
    fn say(&mut self, now_us: u64, round_trip_us: u64, bytes: u64, sent: u64) {
        if bytes > sent {
            // It speaks of an older stream, or does not tell the truth.
            return;
        }
        self.bytes = bytes;
        let (since_us, before) = self.since;
        if bytes < before {
            (self.a_trip, self.since) = (0, (now_us, bytes));
        } else if now_us.saturating_sub(since_us) >= round_trip_us {
            self.a_trip = bytes - before;
            self.since = (now_us, bytes);
        }
    }
}

impl Packing {
    /// Whether more than this, and more than the road carries in two round trips, is before what is sent
    /// now: waits here, or has left and the peer has not said that it has it.
    pub(super) fn is_behind(&self, waiting_bytes: u64, most: u64) -> bool {
        let before = waiting_bytes + self.sent_bytes().saturating_sub(self.arrived.bytes);
        before > most.max(2 * self.arrived.a_trip)
    }

    fn sent_bytes(&self) -> u64 {
        self.stream.as_ref().map_or(0, |(agreed, _)| agreed.count().sent_bytes)
    }

    fn set(&mut self, codec: PeerCompression) {
        if let Some((agreed, _)) = &self.stream {
            agreed.set(codec);
        }
        self.codec = codec;
    }

    /// What is sent from now on. `count` is without what the stream itself counts.
    fn look(&mut self, now_us: u64, asked: PeerCompression, allowed: bool, count: RoadCount) {
        let Some((agreed, reads)) = &self.stream else { return };
        let reads = *reads;
        let codec = match asked {
            _ if !allowed => {
                self.tuner.forbid();
                PeerCompression::None
            }
            PeerCompression::Auto => {
                let RoadCount { arrived_bytes, rtt_us_min, is_local, busy_permille, .. } = count;
                let count = RoadCount {
                    arrived_bytes,
                    rtt_us_min,
                    is_local,
                    busy_permille,
                    ..agreed.count()
                };
                if self.tuner.step(now_us, &count) { reads.best() } else { PeerCompression::None }
            }
            fixed => {
                self.tuner = CompressionTuner::default();
                reads.agree(fixed)
            }
        };
        self.set(codec);
    }

    /// In force now.
    pub(super) fn codec(&self) -> PeerCompression {
        self.codec
    }
}

impl Core {
    /// An append stream stands, and what its peer reads is known.
    pub(super) fn begin_packing(&self, link: &Link, agreed: Agreed, reads: Reads) {
        let mut packing = lock(&link.packing);
        packing.stream = Some((agreed, reads));
        packing.arrived = Arrived::default();
        // With `auto` on goes what was decided on the connection before: the road is the same.
        let codec = match self.config.compression {
            _ if !self.allows_compression() => PeerCompression::None,
            PeerCompression::Auto if packing.tuner.packs() => reads.best(),
            asked => reads.agree(asked),
        };
        packing.set(codec);
    }

    /// A peer says how much it has taken.
    pub(super) fn look_at_road(&self, link: &Link, taken_bytes: u64, now: Instant) {
        let rtt = link.rtt();
        let round_trip_us = rtt.map_or(0, |rtt| rtt.srtt_us());
        let count = RoadCount {
            arrived_bytes: taken_bytes,
            rtt_us_min: rtt.map_or(0, |rtt| rtt.min_us()),
            is_local: link.led_to().is_some_and(|address| address.ip().is_loopback()),
            busy_permille: self.busy.permille(now),
            ..RoadCount::default()
        };
        let (asked, allowed) = (self.config.compression, self.allows_compression());
        let mut packing = lock(&link.packing);
        let sent_bytes = packing.sent_bytes();
        packing.arrived.say(self.us(now), round_trip_us, taken_bytes, sent_bytes);
        let before = packing.codec;
        packing.look(self.us(now), asked, allowed, count);
        if packing.codec != before {
            tracing::info!(
                peer = format_args!("{:x}", link.id),
                codec = packing.codec.as_str(),
                why = packing.tuner.why().as_str(),
                road_bytes_per_second = packing.tuner.rate(),
                "what is sent to a peer is compressed otherwise"
            );
        }
    }

    fn allows_compression(&self) -> bool {
        self.compression_allowed.load(Ordering::Relaxed)
    }
}

/// Which share of its processors this process uses.
#[derive(Debug)]
pub(super) struct Busy {
    processors: u64,
    looked: Mutex<(Instant, Duration)>,
    permille: AtomicU64,
}

impl Busy {
    pub(super) fn new() -> Self {
        Busy {
            processors: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            looked: Mutex::new((Instant::now(), used())),
            permille: AtomicU64::new(0),
        }
    }

    /// Of the last second or so.
    fn permille(&self, now: Instant) -> u64 {
        let mut looked = lock(&self.looked);
        let (at, before) = *looked;
        let passed = now.saturating_duration_since(at);
        if passed >= BUSY_INTERVAL {
            let used = used();
            *looked = (now, used);
            let share = used.saturating_sub(before).as_micros() * 1_000 / passed.as_micros();
            let share = u64::try_from(share).unwrap_or(u64::MAX) / self.processors;
            self.permille.store(share.min(1_000), Ordering::Relaxed);
        }
        self.permille.load(Ordering::Relaxed)
    }
}

/// Processor time of this process.
fn used() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_road_carries_in_a_round_trip_is_counted_stream_by_stream() {
        const TRIP_US: u64 = 80_000;
        let mut arrived = Arrived::default();
        for step in 1..=16 {
            arrived.say(step * TRIP_US / 4, TRIP_US, step * 1_000, 100_000);
        }
        assert_eq!((arrived.bytes, arrived.a_trip), (16_000, 4_000));
        // Of the stream before, and of none.
        arrived.say(2_000_000, TRIP_US, u64::MAX, 100_000);
        assert_eq!((arrived.bytes, arrived.a_trip), (16_000, 4_000));
        arrived.say(2_000_000, TRIP_US, 10, 100_000);
        assert_eq!((arrived.bytes, arrived.a_trip), (10, 0));
    }
}
