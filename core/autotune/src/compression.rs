//! Whether what is sent to one follower is worth compressing: by what its road carries, by how much its
//! frames shrink and by what the processor has to spare.
//!
//! A byte that is not sent saves the time the road would have taken for it; a byte that is compressed
//! costs processor time at both ends. The first is known only of a road that is full: what an idle one
//! could carry nobody has seen. The second is known only by trying. So nothing is compressed on a road
//! that is not full; on one that is, a bounded number of bytes is tried, and it goes on if what is saved
//! is twice what it costs (`GAIN_FACTOR`). Whatever was in vain is tried again after a pause that
//! doubles. And since a road that became wider, or a load that became less, cannot be seen through
//! compressed traffic, a road that is not full any more is sent everything plain for a moment, seldom.
//!
//! A road is full when something was on its way all the time, and waited: by Little's law, the mean of
//! what is on the way over the rate at which it arrives is how long a byte takes; what of that is not
//! the road's own length was spent in a queue.
//!
//! Pure: whoever keeps the connection says what it has counted, and does as it is told.

/// What is seen is summed up over this time.
pub const PERIOD_US: u64 = 500_000;
/// A byte waits this much longer than the road is long, or the road is not full,
const QUEUE_US_MIN: u64 = 5_000;
/// or a quarter of the road's length, if that is more: windows are guesses.
const QUEUE_RTT_PARTS: u64 = 4;
/// A road is full once it was so for as many periods in a row.
const FULL_PERIODS_MIN: u32 = 2;
/// Nearer than this is this machine, or as good as: no wire is its bottleneck.
const RTT_US_MIN: u64 = 150;
/// A road that carries as much, 4 Gbit/s, is faster than compression.
const RATE_MAX: u64 = 500_000_000;
/// Bytes that a trial compresses,
const TRIAL_BYTES: u64 = 512 << 10;
/// in so many periods at most.
const TRIAL_PERIODS_MAX: u32 = 4;
/// Of less nothing is concluded.
const JUDGED_BYTES_MIN: u64 = 32 << 10;
/// In thousandths of the plain length: more than this and it is not worth the trouble.
const RATIO_PERMILLE_MAX: u64 = 800;
/// Time saved over time spent, for compression to begin; half of it for it to go on.
const GAIN_FACTOR: u64 = 2;
/// What is compressed here is unfolded there.
const ENDS: u64 = 2;
/// Idle processors in thousandths, at least: the less, the dearer their time.
const IDLE_PERMILLE_MIN: u64 = 20;
/// Periods in a row in which it is not worth it any more, until it ends.
const POOR_PERIODS_MAX: u32 = 4;
/// First pause after what was in vain; doubled each time,
const PAUSE_US_FIRST: u64 = 4_000_000;
/// up to this.
const PAUSE_US_MAX: u64 = 256_000_000;
/// A road that was not full for so long is sent everything plain for a moment; doubled while that shows
/// that compression is still needed, up to [`PAUSE_US_MAX`].
const DOUBT_US_FIRST: u64 = 16_000_000;
/// Periods of such a moment.
const DOUBT_PERIODS: u32 = 2;

/// What has been counted of one connection since it stands, and of the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoadCount {
    /// Bytes put on the road.
    pub sent_bytes: u64,
    /// Bytes of these that have arrived, as the follower said last.
    pub arrived_bytes: u64,
    /// The road's own length: the least round trip; 0: not known.
    pub rtt_us_min: u64,
    /// The road ends on this machine.
    pub is_local: bool,
    /// Bytes that were compressed, or tried to be,
    pub tried_bytes: u64,
    /// what was sent of them,
    pub packed_bytes: u64,
    /// and how long it took.
    pub packing_ns: u64,
    /// Share of the processors that is busy, in thousandths.
    pub busy_permille: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Everything is sent as it is.
    Plain,
    /// Compressed, to see what comes of it: how long yet.
    Trial { periods: u32 },
    /// Compressed.
    Packed { poor: u32 },
    /// Sent as it is, to see whether the road needs it: how long yet.
    Doubt { periods: u32 },
}

/// Why compression is on or off, in a word: for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Why {
    /// The road is not full.
    #[default]
    Idle,
    /// The road ends on this machine, or is as fast.
    Near,
    /// It is being tried.
    Trial,
    /// It pays.
    Pays,
    /// It was tried, and did not pay.
    InVain,
    /// It pays, and for a moment it is seen whether it is still needed.
    Doubt,
    /// A plan forbids it.
    Forbidden,
}

impl Why {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Idle => "idle",
            Why::Near => "near",
            Why::Trial => "trial",
            Why::Pays => "pays",
            Why::InVain => "in-vain",
            Why::Doubt => "doubt",
            Why::Forbidden => "forbidden",
        }
    }
}

/// Decides for one road.
#[derive(Clone, Debug)]
pub struct CompressionTuner {
    stage: Stage,
    why: Why,
    /// The period under way: when it began, what was counted then,
    since_us: Option<u64>,
    begun: RoadCount,
    /// what was on the way at each look, summed up, the looks, and the least of it.
    on_way_sum: u128,
    looks: u64,
    on_way_min: u64,
    full_periods: u32,
    /// Bytes a second, of the last period in which the road was full.
    rate: u64,
    /// When the trial under way began to count.
    trial: RoadCount,
    pause_us: u64,
    not_before_us: u64,
    /// When the road was full last, and how long it may not be until there is doubt.
    full_us: u64,
    doubt_us: u64,
}

impl Default for CompressionTuner {
    fn default() -> Self {
        CompressionTuner {
            stage: Stage::Plain,
            why: Why::Idle,
            since_us: None,
            begun: RoadCount::default(),
            on_way_sum: 0,
            looks: 0,
            on_way_min: u64::MAX,
            full_periods: 0,
            rate: 0,
            trial: RoadCount::default(),
            pause_us: PAUSE_US_FIRST,
            not_before_us: 0,
            full_us: 0,
            doubt_us: DOUBT_US_FIRST,
        }
    }
}

impl CompressionTuner {
    /// Whether to compress from now on. Asked again with each sign of the follower, a few times in a
    /// [`PERIOD_US`] at least.
    pub fn step(&mut self, now_us: u64, count: &RoadCount) -> bool {
        let near = count.is_local || (1..RTT_US_MIN).contains(&count.rtt_us_min);
        if near || count.rtt_us_min == 0 {
            *self = CompressionTuner { why: Why::Near, ..CompressionTuner::default() };
            return false;
        }
        let before = self.begun;
        let is_new = count.sent_bytes < before.sent_bytes
            || count.arrived_bytes < before.arrived_bytes
            || count.tried_bytes < before.tried_bytes;
        let Some(since_us) = self.since_us.filter(|since_us| !is_new && *since_us <= now_us) else {
            // Another connection counts from nothing.
            self.begin_period(now_us, count);
            self.trial = *count;
            return self.packs();
        };
        let on_way = count.sent_bytes.saturating_sub(count.arrived_bytes);
        self.on_way_sum += u128::from(on_way);
        self.on_way_min = self.on_way_min.min(on_way);
        self.looks += 1;
        if now_us - since_us >= PERIOD_US {
            self.end_period(now_us, now_us - since_us, count);
            self.begin_period(now_us, count);
        }
        self.packs()
    }

    /// Nothing may be compressed. What was known is forgotten.
    pub fn forbid(&mut self) -> bool {
        *self = CompressionTuner { why: Why::Forbidden, ..CompressionTuner::default() };
        false
    }

    /// Whether it is compressed.
    #[must_use]
    pub fn packs(&self) -> bool {
        matches!(self.stage, Stage::Trial { .. } | Stage::Packed { .. })
    }

    /// Why, or why not.
    #[must_use]
    pub fn why(&self) -> Why {
        self.why
    }

    /// What the road carries in a second, of the last time it was full; 0: not known.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }

    fn begin_period(&mut self, now_us: u64, count: &RoadCount) {
        self.since_us = Some(now_us);
        self.begun = *count;
        (self.on_way_sum, self.looks, self.on_way_min) = (0, 0, u64::MAX);
    }

    /// Judges the period that ends.
    fn end_period(&mut self, now_us: u64, took_us: u64, count: &RoadCount) {
        let arrived = count.arrived_bytes - self.begun.arrived_bytes;
        let rate = per_second(arrived, took_us);
        let on_way = self.on_way_sum / u128::from(self.looks.max(1));
        let waits_us = (on_way * 1_000_000).checked_div(u128::from(rate)).unwrap_or(0);
        let queue_us = u64::try_from(waits_us).unwrap_or(u64::MAX).saturating_sub(count.rtt_us_min);
        let is_full = self.on_way_min > 0
            && rate > 0
            && rate < RATE_MAX
            && queue_us >= QUEUE_US_MIN.max(count.rtt_us_min / QUEUE_RTT_PARTS);
        if is_full {
            self.full_periods += 1;
            self.full_us = now_us;
            self.rate = rate;
        } else {
            self.full_periods = 0;
        }
        self.go_on(now_us, is_full, count);
    }

    fn go_on(&mut self, now_us: u64, is_full: bool, count: &RoadCount) {
        match self.stage {
            Stage::Plain => {
                let is_due = now_us >= self.not_before_us;
                if is_due && self.why == Why::InVain && !is_full {
                    self.why = Why::Idle;
                }
                if self.full_periods >= FULL_PERIODS_MIN && is_due {
                    self.trial = *count;
                    self.enter(Stage::Trial { periods: TRIAL_PERIODS_MAX }, Why::Trial);
                }
            }
            Stage::Trial { periods } => {
                let tried = count.tried_bytes - self.trial.tried_bytes;
                if tried < TRIAL_BYTES && periods > 1 {
                    self.stage = Stage::Trial { periods: periods - 1 };
                } else if self.pays(&self.trial, count, GAIN_FACTOR) == Some(true) {
                    (self.pause_us, self.doubt_us) = (PAUSE_US_FIRST, DOUBT_US_FIRST);
                    self.full_us = now_us;
                    self.enter(Stage::Packed { poor: 0 }, Why::Pays);
                } else {
                    self.give_up(now_us);
                }
            }
            Stage::Packed { poor } => {
                let poor = match self.pays(&self.begun, count, GAIN_FACTOR / 2) {
                    Some(true) => 0,
                    Some(false) => poor + 1,
                    None => poor,
                };
                self.stage = Stage::Packed { poor };
                if poor >= POOR_PERIODS_MAX {
                    self.give_up(now_us);
                } else if now_us.saturating_sub(self.full_us) >= self.doubt_us {
                    self.full_periods = 0;
                    self.enter(Stage::Doubt { periods: DOUBT_PERIODS }, Why::Doubt);
                }
            }
            Stage::Doubt { .. } if is_full => {
                self.doubt_us = (self.doubt_us * 2).min(PAUSE_US_MAX);
                self.enter(Stage::Packed { poor: 0 }, Why::Pays);
            }
            Stage::Doubt { periods } if periods > 1 => {
                self.stage = Stage::Doubt { periods: periods - 1 };
            }
            Stage::Doubt { .. } => self.enter(Stage::Plain, Why::Idle),
        }
    }

    fn enter(&mut self, stage: Stage, why: Why) {
        (self.stage, self.why) = (stage, why);
    }

    fn give_up(&mut self, now_us: u64) {
        self.not_before_us = now_us.saturating_add(self.pause_us);
        self.pause_us = (self.pause_us * 2).min(PAUSE_US_MAX);
        self.enter(Stage::Plain, Why::InVain);
    }

    /// Whether what was compressed since then was worth `factor` times its cost; `None`: too little was.
    fn pays(&self, since: &RoadCount, count: &RoadCount, factor: u64) -> Option<bool> {
        let tried = count.tried_bytes - since.tried_bytes;
        if tried < JUDGED_BYTES_MIN {
            return None;
        }
        let packed = count.packed_bytes.saturating_sub(since.packed_bytes).min(tried);
        if packed > tried / 1_000 * RATIO_PERMILLE_MAX {
            return Some(false);
        }
        let saved_ns = u128::from(tried - packed) * 1_000_000_000 / u128::from(self.rate.max(1));
        let idle = 1_000_u64.saturating_sub(count.busy_permille).max(IDLE_PERMILLE_MIN);
        let spent_ns = u128::from(count.packing_ns.saturating_sub(since.packing_ns))
            * u128::from(ENDS * 1_000)
            / u128::from(idle);
        Some(saved_ns >= spent_ns * u128::from(factor))
    }
}

fn per_second(bytes: u64, took_us: u64) -> u64 {
    let rate = u128::from(bytes) * 1_000_000 / u128::from(took_us.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}
