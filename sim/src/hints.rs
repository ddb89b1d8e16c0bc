//! Crash hints: where a process dies and its machine lives, whoever was connected to it is refused
//! when it connects again, and tells its member.
//!
//! What must hold: nobody stands for election upon a hint against a leader whose process lives. A
//! network that resets every connection deposes nobody.

use std::collections::BTreeMap;

use member::Input;

use crate::mutant::Mutant;
use crate::world::{Event, World};

/// From the end of a process to the second refusal, beside the ways of the network.
const NOTICED_US: u64 = 1_200;

/// Hints that were given.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// By who was told: of whom, and the boot that is said to be gone.
    told: BTreeMap<u64, (u64, u64)>,
    /// Elections stood in upon hints, as last seen, by member and boot.
    stood: BTreeMap<(u64, u64), u64>,
}

impl World {
    /// A process has ended, and its machine answers for it.
    pub(crate) fn refuses(&mut self, gone: u64, boot: u64, origin: u64) {
        self.tell_of(gone, boot, origin);
    }

    /// A mutant takes every connection that is reset for a death.
    pub(crate) fn resets(&mut self) {
        if !self.is(Mutant::HintFromReset) {
            return;
        }
        let living: Vec<(u64, u64, u64)> = self
            .nodes
            .iter()
            .filter_map(|(id, node)| Some((*id, node.boot, node.running()?.origin)))
            .collect();
        for (id, boot, origin) in living {
            self.tell_of(id, boot, origin);
        }
    }

    fn tell_of(&mut self, gone: u64, gone_boot: u64, origin: u64) {
        let way_us = 2 * self.plan.delay_us_min;
        let told: Vec<(u64, u64)> = self
            .nodes
            .iter()
            .filter(|(id, node)| **id != gone && node.process.is_some())
            .map(|(id, node)| (*id, node.boot))
            .collect();
        for (node, boot) in told {
            let hint = Event::Refused { node, boot, gone, gone_boot, origin };
            self.after(NOTICED_US + way_us, hint);
        }
    }

    /// Somebody connects again, and is refused.
    pub(crate) fn refused(&mut self, id: u64, boot: u64, gone: u64, gone_boot: u64, origin: u64) {
        let is_same = self.nodes.get(&id).is_some_and(|node| node.boot == boot);
        let is_reached = self.network.is_open(id, gone) && self.network.is_open(gone, id);
        let listens = self.nodes.get(&gone).is_some_and(|node| node.process.is_some());
        let is_proof = is_reached && !listens;
        if !is_same || !(is_proof || self.is(Mutant::HintFromReset)) {
            return;
        }
        self.figures.count("crash hints");
        self.hints.told.insert(id, (gone, gone_boot));
        self.input(id, Input::LeaderGone { peer: gone, boot_id: origin });
    }

    /// Nobody stands upon a hint against a process that lives.
    pub(crate) fn check_hints(&mut self, id: u64) {
        let Some(node) = self.nodes.get(&id) else { return };
        let Some(running) = node.running() else { return };
        let stood = running.member.status().elections_stood.hint;
        let before = self.hints.stood.insert((id, node.boot), stood).unwrap_or(0);
        if stood == before {
            return;
        }
        self.figures.count("elections upon a hint");
        let Some((gone, gone_boot)) = self.hints.told.get(&id).copied() else {
            return self.broken(format!("hints: member {id} stood upon a hint it was never given"));
        };
        let lives = |node: &crate::node::Node| node.boot == gone_boot && node.process.is_some();
        if self.nodes.get(&gone).is_some_and(lives) {
            self.broken(format!(
                "hints: member {id} stood for election because member {gone} were gone, which lives"
            ));
        }
    }
}
