//! When a road's traffic is compressed: scripts of roads and loads with what is decided, and what no road
//! whatever can bring about.

use autotune::compression::{CompressionTuner, RoadCount};
use proptest::prelude::*;

/// Between two signs of the follower.
const LOOK_US: u64 = 25_000;
const SECOND_US: u64 = 1_000_000;

/// A road with a queue before it, and who sends.
#[derive(Clone, Copy, Debug)]
struct Road {
    /// Bytes a second it carries.
    carries: u64,
    /// Its length.
    rtt_us: u64,
    is_local: bool,
    /// Plain bytes a second that are offered, and at most on the way.
    offered: u64,
    window_bytes: u64,
    /// What is left of a byte, in thousandths, and what it takes.
    ratio_permille: u64,
    pack_ps_per_byte: u64,
    busy_permille: u64,
}

const ROAD: Road = Road {
    carries: 12_500_000,
    rtt_us: 2_000,
    is_local: false,
    offered: 40_000_000,
    window_bytes: 4 << 20,
    ratio_permille: 140,
    pack_ps_per_byte: 1_500,
    busy_permille: 300,
};

#[derive(Default)]
struct World {
    now_us: u64,
    tuner: CompressionTuner,
    count: RoadCount,
    packs: bool,
    said: Vec<String>,
    /// Plain bytes that have left.
    plain_bytes: u64,
}

impl World {
    fn run(&mut self, road: &Road, seconds: u64) {
        for _ in 0..seconds * SECOND_US / LOOK_US {
            self.look(road);
        }
    }

    fn look(&mut self, road: &Road) {
        self.now_us += LOOK_US;
        let count = &mut self.count;
        // What lies in the queue leaves; what a road's length holds is on the way whatever comes.
        let on_way = count.sent_bytes - count.arrived_bytes;
        let leaves = (road.carries * LOOK_US / SECOND_US).min(on_way);
        count.arrived_bytes += leaves;
        let room = road.window_bytes.saturating_sub(on_way - leaves);
        let plain = (road.offered * LOOK_US / SECOND_US).min(room);
        let wire = if self.packs {
            count.tried_bytes += plain;
            count.packing_ns += plain * road.pack_ps_per_byte / 1_000;
            let packed = plain * road.ratio_permille / 1_000;
            let wire = if packed * 8 <= plain * 7 { packed } else { plain };
            count.packed_bytes += wire;
            wire
        } else {
            plain
        };
        self.plain_bytes += plain;
        count.sent_bytes += wire;
        count.rtt_us_min = road.rtt_us;
        count.is_local = road.is_local;
        count.busy_permille = road.busy_permille;
        // What the road carries at once is there when the peer says so.
        if count.sent_bytes - count.arrived_bytes <= road.carries * LOOK_US / SECOND_US {
            count.arrived_bytes = count.sent_bytes;
        }
        let seen = *count;
        let before = (self.packs, self.tuner.why());
        self.packs = self.tuner.step(self.now_us, &seen);
        if (self.packs, self.tuner.why()) != before {
            let packs = if self.packs { "packed" } else { "plain" };
            let at = self.now_us as f64 / 1e6;
            self.said.push(format!("{at:.1} {packs}: {}", self.tuner.why().as_str()));
        }
    }
}

fn script(steps: &[(Road, u64)]) -> Vec<String> {
    let mut world = World::default();
    for (road, seconds) in steps {
        world.run(road, *seconds);
    }
    world.said
}

#[test]
fn a_thin_road_with_a_load_that_shrinks_is_packed_until_the_load_ends() {
    let idle = Road { offered: 0, ..ROAD };
    let said = script(&[(idle, 3), (ROAD, 10), (idle, 30)]);
    assert_eq!(
        said,
        ["4.0 packed: trial", "4.5 packed: pays", "20.5 plain: doubt", "21.5 plain: idle"]
    );
}

#[test]
fn values_that_do_not_shrink_are_tried_ever_more_seldom() {
    let noise = Road { ratio_permille: 1_000, ..ROAD };
    let said = script(&[(noise, 70)]);
    let trials: Vec<&str> =
        said.iter().filter(|line| line.ends_with("trial")).map(|line| &line[..4]).collect();
    assert_eq!(trials, ["1.0 ", "5.5 ", "14.0", "30.5", "63.0"]);
    let mut world = World::default();
    world.run(&noise, 3_600);
    let share = world.count.tried_bytes as f64 / world.plain_bytes as f64;
    assert!(share < 0.005, "{share} of all bytes were tried");
}

#[test]
fn a_load_that_needs_it_keeps_it_though_the_road_is_not_full_any_more() {
    // Compressed, 40 MB/s are less than half of what the road carries.
    let said = script(&[(ROAD, 120)]);
    assert_eq!(
        said,
        [
            "1.0 packed: trial",
            "1.5 packed: pays",
            "17.5 plain: doubt",
            "18.0 packed: pays",
            "50.5 plain: doubt",
            "51.0 packed: pays",
            "115.5 plain: doubt",
            "116.0 packed: pays"
        ]
    );
}

#[test]
fn a_road_that_becomes_wide_is_found_out() {
    let wide = Road { carries: 2_000_000_000, ..ROAD };
    let said = script(&[(ROAD, 10), (wide, 30)]);
    assert_eq!(said.last().map(String::as_str), Some("18.5 plain: idle"));
}

#[test]
fn near_and_fast_roads_are_never_tried() {
    for road in [
        Road { is_local: true, ..ROAD },
        Road { rtt_us: 100, ..ROAD },
        Road { carries: 600_000_000, offered: 2_000_000_000, window_bytes: 64 << 20, ..ROAD },
        Road { offered: 10_000_000, ..ROAD },
    ] {
        let mut world = World::default();
        world.run(&road, 60);
        assert_eq!(world.count.tried_bytes, 0, "{road:?}");
    }
}

#[test]
fn who_has_no_processor_to_spare_compresses_for_a_thin_road_alone() {
    let gigabit = Road {
        carries: 125_000_000,
        offered: 400_000_000,
        window_bytes: 16 << 20,
        pack_ps_per_byte: 800,
        ..ROAD
    };
    let ends_packed = |road: &Road| {
        let mut world = World::default();
        world.run(road, 10);
        world.packs
    };
    assert!(ends_packed(&gigabit));
    assert!(!ends_packed(&Road { busy_permille: 950, ..gigabit }));
    assert!(ends_packed(&Road { busy_permille: 900, carries: 1_250_000, ..ROAD }));
}

#[test]
fn a_new_connection_counts_anew_and_a_plan_may_forbid_all_of_it() {
    let mut world = World::default();
    world.run(&ROAD, 5);
    assert!(world.packs);
    world.count = RoadCount::default();
    world.run(&ROAD, 5);
    assert!(world.packs, "what was decided stays, until something else is seen");
    assert!(!world.tuner.forbid());
    assert_eq!(world.tuner.why().as_str(), "forbidden");
}

fn road() -> impl Strategy<Value = Road> {
    (
        (10_000_u64..3_000_000_000, 0_u64..400_000, any::<bool>(), 0_u64..3_000_000_000),
        (1_u64 << 10..64 << 20, 10_u64..1_100, 100_u64..200_000, 0_u64..1_100),
    )
        .prop_map(|((carries, rtt_us, is_local, offered), (window, ratio, ps, busy))| Road {
            carries,
            rtt_us,
            is_local,
            offered,
            window_bytes: window,
            ratio_permille: ratio,
            pack_ps_per_byte: ps,
            busy_permille: busy,
        })
}

proptest! {
    /// Between two changes there is a period at least, and in the long run there are few.
    #[test]
    fn it_does_not_flap(roads in prop::collection::vec((road(), 1_u64..40), 1..12)) {
        let mut world = World::default();
        let mut changes = Vec::new();
        for (road, seconds) in &roads {
            for _ in 0..seconds * SECOND_US / LOOK_US {
                let before = world.packs;
                let was_near = road.is_local || road.rtt_us < 150;
                world.look(road);
                if world.packs != before && !was_near {
                    changes.push(world.now_us);
                }
            }
        }
        prop_assert!(changes.windows(2).all(|pair| pair[1] - pair[0] >= 475_000));
        let seconds = world.now_us / SECOND_US;
        prop_assert!(changes.len() as u64 <= 4 + 2 * seconds / 4 + 2 * roads.len() as u64);
    }

    /// A follower may say whatever it likes.
    #[test]
    fn no_count_whatever_breaks_it(
        counts in prop::collection::vec((any::<[u64; 6]>(), 0_u64..2_000_000, any::<bool>()), 1..200)
    ) {
        let mut tuner = CompressionTuner::default();
        let mut now_us = 0_u64;
        for (values, passed_us, is_local) in counts {
            now_us += passed_us;
            let [sent_bytes, arrived_bytes, rtt_us_min, tried_bytes, packed_bytes, packing_ns] = values;
            let count = RoadCount {
                sent_bytes, arrived_bytes, rtt_us_min, is_local, tried_bytes, packed_bytes, packing_ns,
                busy_permille: sent_bytes % 1_200,
            };
            let packs = tuner.step(now_us, &count);
            prop_assert!(!(packs && is_local));
        }
    }

    /// What does not shrink is not compressed for longer than a trial.
    #[test]
    fn what_does_not_shrink_costs_no_more_than_trials(mut road in road(), seconds in 60_u64..300) {
        road.ratio_permille = 900 + road.ratio_permille % 200;
        let mut world = World::default();
        let mut packed_looks = 0;
        for _ in 0..seconds * SECOND_US / LOOK_US {
            world.look(&road);
            packed_looks += u64::from(world.packs);
        }
        // Pauses of 4, 8, 16 … s, and two seconds of trial after each.
        let trials = u64::from((seconds / 4 + 1).ilog2()) + 2;
        prop_assert!(packed_looks * LOOK_US <= trials * 2_500_000);
    }
}
