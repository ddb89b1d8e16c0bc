//! Networks by name: round trips as they are between zones and regions, and those that change.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::network::{Network, Place};
use crate::rule::Rule;

/// A network between members. The way to clients and probers is without delay in all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preset {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// The rule of every direction between members. A round trip has two directions, each with half of
    /// its delay, its own jitter and its own loss.
    pub rule: &'static str,
    /// Where it is another one.
    pub except: &'static [Except],
    /// Rules for all directions that come into force later, each so long after the one before.
    pub steps: &'static [(Duration, &'static str)],
    /// What else troubles the members.
    pub trouble: Trouble,
    /// Keys the members hold before anything else, and bytes of each value.
    pub store: (u64, usize),
    /// Whether the experiments have it only where it is asked for by name, since it takes too long.
    pub is_large: bool,
}

/// Directions with a rule of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Except {
    /// Both directions between these members, counted from 0; none: all of the first one's.
    pub between: (usize, Option<usize>),
    /// Their rule.
    pub rule: &'static str,
}

/// Troubles that no packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// None.
    Nothing,
    /// The leader's process stands still for 50 to 400 ms at a time.
    LeaderStalls,
    /// One member's disk stands still for 100 to 800 ms at a time.
    DiskOfOne,
    /// All members' disks do, at the same time.
    DiskOfAll,
}

const STEP: Duration = Duration::from_secs(20);
const PLAIN: Preset = Preset {
    name: "",
    about: "",
    rule: "",
    except: &[],
    steps: &[],
    trouble: Trouble::Nothing,
    store: (10_000, 256),
    is_large: false,
};

/// All of them.
pub static PRESETS: [Preset; 16] = [
    Preset {
        name: "same-zone",
        about: "0.5 ms",
        rule: "delay=0.25ms",
        store: (100_000, 256),
        ..PLAIN
    },
    Preset { name: "cross-zone", about: "2 ms", rule: "delay=1ms", ..PLAIN },
    Preset { name: "cross-zone-loss", about: "2 ms, 1 % loss", rule: "delay=1ms loss=1%", ..PLAIN },
    Preset { name: "metro", about: "10 ms", rule: "delay=5ms", ..PLAIN },
    Preset { name: "cross-region", about: "80 ms", rule: "delay=40ms", ..PLAIN },
    Preset {
        name: "cross-region-jitter",
        about: "80 ms and jitter",
        rule: "delay=40ms jitter=4ms",
        ..PLAIN
    },
    Preset { name: "far-loss", about: "200 ms, 1 % loss", rule: "delay=100ms loss=1%", ..PLAIN },
    Preset {
        name: "step-80",
        about: "2, then 80, then 2 ms",
        rule: "delay=1ms",
        steps: &[(STEP, "delay=40ms"), (STEP, "delay=1ms")],
        ..PLAIN
    },
    Preset {
        name: "step-400",
        about: "2, then 400 ms",
        rule: "delay=1ms",
        steps: &[(STEP, "delay=200ms")],
        ..PLAIN
    },
    Preset {
        name: "step-1500",
        about: "2, then 1500 ms",
        rule: "delay=1ms",
        steps: &[(STEP, "delay=750ms")],
        ..PLAIN
    },
    Preset {
        name: "slow-member",
        about: "2 ms, and 40 ms to the third member",
        rule: "delay=1ms",
        except: &[Except { between: (2, None), rule: "delay=20ms" }],
        ..PLAIN
    },
    Preset {
        name: "mixed",
        about: "0.5 ms in a zone, 2 ms to the second member, 80 ms to the third",
        rule: "delay=0.25ms",
        except: &[
            Except { between: (1, None), rule: "delay=1ms" },
            Except { between: (2, None), rule: "delay=40ms" },
        ],
        ..PLAIN
    },
    Preset {
        name: "leader-stalls",
        about: "2 ms, the leader's process stops for 50 to 400 ms",
        rule: "delay=1ms",
        trouble: Trouble::LeaderStalls,
        ..PLAIN
    },
    Preset {
        name: "disk-of-one",
        about: "2 ms, one member's disk stops for 100 to 800 ms",
        rule: "delay=1ms",
        trouble: Trouble::DiskOfOne,
        ..PLAIN
    },
    Preset {
        name: "disk-of-all",
        about: "2 ms, all disks stop for 100 to 800 ms",
        rule: "delay=1ms",
        trouble: Trouble::DiskOfAll,
        ..PLAIN
    },
    Preset {
        name: "same-zone-3gib",
        about: "0.5 ms, 3 GiB in the store",
        rule: "delay=0.25ms",
        store: (98_304, 32 << 10),
        is_large: true,
        ..PLAIN
    },
];

impl Preset {
    /// The one of this name.
    pub fn named(name: &str) -> Result<&'static Preset> {
        match PRESETS.iter().find(|preset| preset.name == name) {
            Some(preset) => Ok(preset),
            None => {
                let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
                bail!("{name:?}: no such preset (there are {})", names.join(", "))
            }
        }
    }

    /// Sets every direction between members.
    pub fn apply(&self, network: &Network) -> Result<()> {
        self.set(network, self.rule)?;
        for except in self.except {
            let rule = parsed(except.rule);
            let (one, other) = except.between;
            let one = Place::Member(one);
            let is_meant = |place| match other {
                Some(other) => place == Place::Member(other),
                None => place != Place::Host && place != one,
            };
            network.change(|from, to, before| {
                let is_between = (from == one && is_meant(to)) || (to == one && is_meant(from));
                if is_between { rule } else { before }
            })?;
        }
        Ok(())
    }

    /// How long the network takes to come through all its steps.
    pub fn steps_last(&self) -> Duration {
        self.steps.iter().map(|(after, _)| *after).sum()
    }

    /// Brings the rule of a step into force, number by number.
    pub fn step(&self, network: &Network, number: usize) -> Result<()> {
        self.set(network, self.steps[number].1)
    }

    /// The longest round trip between members at first, without jitter.
    pub fn rtt(&self) -> Duration {
        let rules = self.except.iter().map(|except| except.rule).chain([self.rule]);
        rules.map(|rule| 2 * parsed(rule).delay).max().unwrap_or_default()
    }

    /// The first network in which members see what they see in this one before its first step.
    pub fn seen_in(&self) -> &'static Preset {
        let like = |other: &&Preset| {
            (other.rule, other.except, other.trouble) == (self.rule, self.except, self.trouble)
        };
        PRESETS.iter().find(like).expect("it is one of them itself")
    }

    /// The shortest round trip between members when a leader is lost, without jitter: after the first step
    /// where there are steps.
    pub fn rtt_of_losses(&self) -> Duration {
        let first = self.steps.first().map(|(_, rule)| *rule);
        let rules =
            self.except.iter().map(|except| except.rule).chain([first.unwrap_or(self.rule)]);
        rules.map(|rule| 2 * parsed(rule).delay).min().unwrap_or_default()
    }

    fn set(&self, network: &Network, rule: &str) -> Result<()> {
        let rule = parsed(rule);
        network.change(|from, to, before| match (from, to) {
            (Place::Member(_), Place::Member(_)) => Rule { is_cut: before.is_cut, ..rule },
            _ => before,
        })
    }
}

fn parsed(rule: &str) -> Rule {
    Rule::default().with(rule.split(' ')).expect("the presets' rules are held to it by a test")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_its_steps_a_network_may_be_another_one() {
        let seen_in = |name| Preset::named(name).unwrap().seen_in().name;
        assert_eq!(["step-80", "step-400", "step-1500"].map(seen_in), ["cross-zone"; 3]);
        assert_eq!(seen_in("same-zone-3gib"), "same-zone");
        for itself in ["cross-zone-loss", "mixed", "leader-stalls", "disk-of-one", "disk-of-all"] {
            assert_eq!(seen_in(itself), itself);
        }
    }

    #[test]
    fn every_preset_has_a_name_of_its_own_and_rules_that_can_be_read() {
        for (number, preset) in PRESETS.iter().enumerate() {
            assert_eq!(Preset::named(preset.name).unwrap(), preset);
            assert!(!PRESETS[..number].iter().any(|other| other.name == preset.name));
            assert!(preset.rtt() > Duration::ZERO);
            for (_, rule) in preset.steps {
                assert!(parsed(rule).delay > Duration::ZERO);
            }
        }
        assert!(Preset::named("nope").unwrap_err().to_string().contains("cross-zone, "));
        assert_eq!(Preset::named("mixed").unwrap().rtt(), Duration::from_millis(80));
    }
}
