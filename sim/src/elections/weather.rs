//! Networks, processors and disks as functions of seed and time.

/// Members of the cluster.
pub(super) const MEMBERS: usize = 3;
/// Packets sent within the same stretch share their fate.
const SLOT_US: u64 = 1_000;
const MINUTE_US: u64 = 60_000_000;
/// Least that a sender waits before it sends a lost segment again.
const RETRANSMISSION_US_MIN: u64 = 200_000;
/// So often in a row may a segment be lost.
const LOSSES_MAX: u32 = 6;
/// Quantiles of the jitter kept in a table; rarer ones are computed.
const QUANTILES: usize = 4_096;
/// The rarest of which are computed: one in so many.
const TAIL: u64 = 1_024;

/// Who stands still once a minute, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Nothing,
    /// Each member's process, at times of its own.
    Processes,
    /// The first member's disk.
    DiskOfOne,
    /// All disks at once.
    DiskOfAll,
}

/// How TCP finds out that a segment was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// It waits for an acknowledgement until its time is over.
    Timeout,
    /// The segment behind it, away by this long, is acknowledged first.
    NextSegment(u64),
}

impl Repair {
    /// The same on a connection whose segments are this far apart.
    pub(super) fn on(self, next_segment_us: u64) -> Repair {
        match self {
            Repair::Timeout => Repair::Timeout,
            Repair::NextSegment(_) => Repair::NextSegment(next_segment_us),
        }
    }
}

/// A network by name, as the laboratory calls it.
#[derive(Debug)]
pub(super) struct Preset {
    pub(super) name: &'static str,
    /// Between the first two, from the first to the third, from the second to the third.
    pub(super) rtt_us: [u64; 3],
    /// Median of the jitter of one way, in thousandths of the round trip.
    jitter_permille: u64,
    /// Deviation of its logarithm, in hundredths.
    jitter_sigma_percent: u64,
    pub(super) loss_ppm: u64,
    pub(super) trouble: Trouble,
}

const PLAIN: Preset = Preset {
    name: "",
    rtt_us: [2_000; 3],
    jitter_permille: 50,
    jitter_sigma_percent: 90,
    loss_ppm: 0,
    trouble: Trouble::Nothing,
};

pub(super) const PRESETS: [Preset; 12] = [
    Preset { name: "same-zone", rtt_us: [500; 3], ..PLAIN },
    Preset { name: "cross-zone", ..PLAIN },
    Preset { name: "cross-zone-loss", loss_ppm: 10_000, ..PLAIN },
    Preset { name: "metro", rtt_us: [10_000; 3], ..PLAIN },
    Preset { name: "cross-region", rtt_us: [80_000; 3], ..PLAIN },
    Preset {
        name: "cross-region-jitter",
        rtt_us: [80_000; 3],
        jitter_permille: 125,
        jitter_sigma_percent: 110,
        ..PLAIN
    },
    Preset { name: "far-loss", rtt_us: [200_000; 3], loss_ppm: 10_000, ..PLAIN },
    Preset { name: "slow-member", rtt_us: [2_000, 40_000, 40_000], ..PLAIN },
    Preset { name: "mixed", rtt_us: [2_000, 80_000, 80_000], ..PLAIN },
    Preset { name: "leader-stalls", trouble: Trouble::Processes, ..PLAIN },
    Preset { name: "disk-of-one", trouble: Trouble::DiskOfOne, ..PLAIN },
    Preset { name: "disk-of-all", trouble: Trouble::DiskOfAll, ..PLAIN },
];

/// A preset under one seed.
pub(super) struct Weather {
    seed: u64,
    repair: Repair,
    pub(super) preset: &'static Preset,
    half_us: [[u64; MEMBERS]; MEMBERS],
    jitter_median_us: [[f64; MEMBERS]; MEMBERS],
    /// Factors of the median.
    quantiles: Vec<f64>,
    sigma: f64,
    /// A segment is lost if its draw of 32 bits is below.
    loss_below: u64,
    /// The stretch of each member's minute, as it was asked for last: minute, begin, end.
    process: [(u64, u64, u64); MEMBERS],
    disk: [(u64, u64, u64); MEMBERS],
}

impl Weather {
    pub(super) fn new(preset: &'static Preset, seed: u64, repair: Repair) -> Weather {
        let [near, third_of_first, third_of_second] = preset.rtt_us;
        let mut half_us = [[0; MEMBERS]; MEMBERS];
        let mut jitter_median_us = [[0.0; MEMBERS]; MEMBERS];
        for (a, b, rtt_us) in [(0, 1, near), (0, 2, third_of_first), (1, 2, third_of_second)] {
            let median_us = (rtt_us * preset.jitter_permille / 1_000).max(100) as f64;
            for (from, to) in [(a, b), (b, a)] {
                half_us[from][to] = rtt_us / 2;
                jitter_median_us[from][to] = median_us;
            }
        }
        let sigma = preset.jitter_sigma_percent as f64 / 100.0;
        let middle = |at: usize| (at as f64 + 0.5) / QUANTILES as f64;
        let factor = |at| (sigma * normal_quantile(middle(at))).exp();
        Weather {
            seed,
            repair,
            preset,
            half_us,
            jitter_median_us,
            quantiles: (0..QUANTILES).map(factor).collect(),
            sigma,
            loss_below: (preset.loss_ppm << 32) / 1_000_000,
            process: [(u64::MAX, 0, 0); MEMBERS],
            disk: [(u64::MAX, 0, 0); MEMBERS],
        }
    }

    /// How long a packet sent now is on its way, before it waits for those ahead of it.
    pub(super) fn delay_us(&self, from: usize, to: usize, now_us: u64) -> u64 {
        let link = (from * MEMBERS + to) as u64;
        let draw = mix(self.seed ^ mix((now_us / SLOT_US) << 4 | link));
        let factor = self.jitter_factor(draw >> 32);
        let half_us = self.half_us[from][to];
        let mut delay_us = half_us + (self.jitter_median_us[from][to] * factor) as u64;
        if self.loss_below > 0 && draw & 0xffff_ffff < self.loss_below {
            let mut timeout_us = RETRANSMISSION_US_MIN.max(3 * half_us);
            let mut draw = draw;
            for _ in 0..LOSSES_MAX {
                delay_us += match self.repair {
                    Repair::Timeout => timeout_us,
                    // A quarter of a round trip is waited for what was only overtaken.
                    Repair::NextSegment(us) => timeout_us.min(us + 5 * half_us / 2),
                };
                timeout_us *= 2;
                draw = mix(draw);
                if draw & 0xffff_ffff >= self.loss_below {
                    break;
                }
            }
        }
        delay_us
    }

    fn jitter_factor(&self, draw: u64) -> f64 {
        const ALL: u64 = 1 << 32;
        if draw >= ALL - ALL / TAIL {
            let share = (draw as f64 + 0.5) / ALL as f64;
            return (self.sigma * normal_quantile(share)).exp();
        }
        self.quantiles[(draw >> (32 - QUANTILES.ilog2())) as usize]
    }

    /// When a member's process, asked now, goes on.
    pub(super) fn runs_at(&mut self, member: usize, now_us: u64) -> u64 {
        if self.preset.trouble != Trouble::Processes {
            return now_us;
        }
        let minute = now_us / MINUTE_US;
        if self.process[member].0 != minute {
            let (begin_us, end_us) = self.stretch(1 + member as u64, minute, 50_000, 400_000);
            self.process[member] = (minute, begin_us, end_us);
        }
        let (_, begin_us, end_us) = self.process[member];
        if (begin_us..end_us).contains(&now_us) { end_us } else { now_us }
    }

    /// When a write begun now is durable: at once, or when the disk goes on.
    pub(super) fn durable_at(&mut self, member: usize, now_us: u64) -> u64 {
        let (begin_us, end_us) = self.disk_stretch(member, now_us / MINUTE_US);
        if (begin_us..end_us).contains(&now_us) { end_us } else { now_us }
    }

    /// The stretch of a minute in which a member's disk stands still.
    pub(super) fn disk_stretch(&mut self, member: usize, minute: u64) -> (u64, u64) {
        let whose = match self.preset.trouble {
            Trouble::DiskOfOne if member == 0 => 11,
            Trouble::DiskOfAll => 12,
            _ => return (0, 0),
        };
        if self.disk[member].0 != minute {
            let (begin_us, end_us) = self.stretch(whose, minute, 100_000, 800_000);
            self.disk[member] = (minute, begin_us, end_us);
        }
        let (_, begin_us, end_us) = self.disk[member];
        (begin_us, end_us)
    }

    /// The stretch of a minute in which a member's process stands still.
    pub(super) fn process_stretch(&mut self, member: usize, minute: u64) -> (u64, u64) {
        let _ = self.runs_at(member, minute * MINUTE_US);
        let (known, begin_us, end_us) = self.process[member];
        if known == minute { (begin_us, end_us) } else { (0, 0) }
    }

    fn stretch(&self, whose: u64, minute: u64, us_min: u64, us_max: u64) -> (u64, u64) {
        let draw = mix(self.seed ^ mix(minute << 8 | whose));
        let length_us = us_min + (draw >> 32) % (us_max - us_min);
        let begin_us = minute * MINUTE_US + (draw & 0xffff_ffff) % (MINUTE_US - us_max);
        (begin_us, begin_us + length_us)
    }
}

pub(super) fn minute_of(now_us: u64) -> u64 {
    now_us / MINUTE_US
}

/// The finaliser of splitmix64.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The value a standard normal variable is below with this probability, by Acklam's rational
/// approximation (1.15e-9 of it).
fn normal_quantile(probability: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e+01,
        2.209460984245205e+02,
        -2.759285104469687e+02,
        1.38357751867269e+02,
        -3.066479806614716e+01,
        2.506628277459239e+00,
    ];
    const B: [f64; 5] = [
        -5.447609879822406e+01,
        1.615858368580409e+02,
        -1.556989798598866e+02,
        6.680131188771972e+01,
        -1.328068155288572e+01,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-03,
        -3.223964580411365e-01,
        -2.400758277161838e+00,
        -2.549732539343734e+00,
        4.374664141464968e+00,
        2.938163982698783e+00,
    ];
    const D: [f64; 4] = [
        7.784695709041462e-03,
        3.224671290700398e-01,
        2.445134137142996e+00,
        3.754408661907416e+00,
    ];
    const LOW: f64 = 0.02425;
    let polynomial = |of: &[f64], x: f64| of.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        polynomial(&C, q) / (polynomial(&D, q) * q + 1.0)
    };
    if probability < LOW {
        return tail(probability);
    }
    if probability > 1.0 - LOW {
        return -tail(1.0 - probability);
    }
    let q = probability - 0.5;
    let r = q * q;
    polynomial(&A, r) * q / (polynomial(&B, r) * r + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_normal_distribution_are_the_known_ones() {
        for (probability, value) in [
            (0.5, 0.0),
            (0.975, 1.959_964),
            (0.025, -1.959_964),
            (0.999, 3.090_232),
            (0.8, 0.841_621),
        ] {
            assert!((normal_quantile(probability) - value).abs() < 1e-5, "{probability}");
        }
    }

    #[test]
    fn delays_have_the_median_and_the_losses_of_their_preset() {
        let preset = PRESETS.iter().find(|it| it.name == "cross-zone-loss").unwrap();
        let weather = Weather::new(preset, 7, Repair::Timeout);
        let mut delays: Vec<u64> =
            (0..100_000).map(|n| weather.delay_us(0, 1, n * 1_000)).collect();
        delays.sort_unstable();
        assert!((1_095..1_110).contains(&delays[50_000]), "{}", delays[50_000]);
        let lost = delays.iter().filter(|us| **us >= RETRANSMISSION_US_MIN).count();
        assert!((850..1_150).contains(&lost), "{lost}");
    }

    #[test]
    fn disks_of_all_stand_still_together_and_that_of_one_alone() {
        let named = |name| PRESETS.iter().find(|it| it.name == name).unwrap();
        let mut all = Weather::new(named("disk-of-all"), 1, Repair::Timeout);
        assert_eq!(all.disk_stretch(0, 5), all.disk_stretch(2, 5));
        let mut one = Weather::new(named("disk-of-one"), 1, Repair::Timeout);
        let (begin_us, end_us) = one.disk_stretch(0, 5);
        assert!((100_000..800_000).contains(&(end_us - begin_us)));
        assert_eq!(one.durable_at(0, begin_us), end_us);
        assert_eq!(one.durable_at(1, begin_us), begin_us);
    }
}
