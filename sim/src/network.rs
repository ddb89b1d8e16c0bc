//! The network: what arrives, when, and how often.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::Plan;
use crate::random::Random;

/// Of a thousand messages, so many linger for up to [`LINGER_US_MAX`].
const LINGER_PERMILLE: u64 = 5;
const LINGER_US_MAX: u64 = 400_000;

/// All links between members.
#[derive(Debug)]
pub(crate) struct Network {
    random: Random,
    loss_permille: u64,
    duplicate_permille: u64,
    lingers: bool,
    reorders: bool,
    delay_us_min: u64,
    delay_us_max: u64,
    /// Directions in which nothing passes.
    blocked: BTreeSet<(u64, u64)>,
    /// When the last message of a link arrives, where links keep the order.
    last_us: BTreeMap<(u64, u64), u64>,
}

impl Network {
    pub(crate) fn new(seed: u64, plan: &Plan) -> Self {
        Network {
            random: Random::of(seed, "network", 0),
            loss_permille: plan.loss_permille,
            duplicate_permille: plan.duplicate_permille,
            lingers: plan.loss_permille > 0,
            reorders: plan.reorders,
            delay_us_min: plan.delay_us_min,
            delay_us_max: plan.delay_us_max,
            blocked: BTreeSet::new(),
            last_us: BTreeMap::new(),
        }
    }

    pub(crate) fn is_open(&self, from: u64, to: u64) -> bool {
        !self.blocked.contains(&(from, to))
    }

    pub(crate) fn block(&mut self, from: u64, to: u64) {
        self.blocked.insert((from, to));
    }

    /// Everything passes again.
    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
    }

    /// From now on nothing is lost, doubled or late any more.
    pub(crate) fn calm(&mut self) {
        self.heal();
        self.loss_permille = 0;
        self.duplicate_permille = 0;
        self.lingers = false;
    }

    /// When a message sent now arrives: not at all, once or twice.
    pub(crate) fn arrivals(&mut self, now_us: u64, from: u64, to: u64) -> Vec<u64> {
        if !self.is_open(from, to) || self.random.permille(self.loss_permille) {
            return Vec::new();
        }
        let first = self.arrival(now_us, from, to);
        if self.random.permille(self.duplicate_permille) {
            return vec![first, self.arrival(now_us, from, to)];
        }
        vec![first]
    }

    /// When something arrives that is neither lost nor doubled on the way.
    pub(crate) fn arrival(&mut self, now_us: u64, from: u64, to: u64) -> u64 {
        let mut delay_us = self.random.within(self.delay_us_min, self.delay_us_max);
        if self.lingers && self.random.permille(LINGER_PERMILLE) {
            delay_us += self.random.below(LINGER_US_MAX);
        }
        let at = now_us + delay_us;
        if self.reorders {
            return at;
        }
        let last = self.last_us.entry((from, to)).or_default();
        *last = at.max(*last);
        *last
    }
}
