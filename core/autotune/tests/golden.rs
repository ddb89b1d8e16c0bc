//! Scripts under `tests/golden`: the first line is the fact, lines that begin with `>` are what
//! happens to a cluster, the lines after each are what the planner decides meanwhile, whenever that
//! changes. `UPDATE_GOLDEN=1` writes what happens now.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod world;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use autotune::planner::{Decision, Event, Mode, Policy, Settings, Writes};
use autotune::{Params, Timing};
use world::{Distance, World};

const EVALUATION_MS: u64 = 30_000;

fn duration_us(word: &str) -> u64 {
    let units =
        [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];
    let unit = units.into_iter().find_map(|(unit, us)| {
        let number = word.strip_suffix(unit)?.parse::<u64>().ok()?;
        Some(number * us)
    });
    unit.unwrap_or_else(|| panic!("{word:?} is not a duration"))
}

fn id(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is not a member"))
}

fn timing(params: Option<Params>) -> String {
    match params {
        None => "flags".to_owned(),
        Some(params) => {
            let Timing { heartbeat_interval_us, election_timeout_us } = params.timing;
            format!("{}/{}", heartbeat_interval_us / 1_000, election_timeout_us / 1_000)
        }
    }
}

fn describe(decision: &Decision) -> String {
    let word = decision.as_str();
    match decision {
        Decision::Hold { .. } | Decision::Frozen { .. } => format!("{word}: {decision}"),
        Decision::Recommend { params, .. } | Decision::Apply { params, .. } => {
            let bounds = params.bounds;
            let window = bounds.inflight_messages_max;
            let lease = match params.lease_us {
                0 => String::new(),
                us => format!(" lease {}", us / 1_000),
            };
            format!("{word} {}{lease} window {window}: {decision}", timing(Some(*params)))
        }
        Decision::Rollback { to, .. } => format!("{word} to {}: {decision}", timing(*to)),
    }
}

fn event(event: &Event) -> String {
    match event {
        Event::SlowMember { member, rtt_us, others_us } => {
            format!("member {member} is slow: {rtt_us} us, others {others_us} us")
        }
        Event::Verified { epoch } => format!("plan {epoch} has proved itself"),
        Event::FalseElections { count } => format!("false elections: {count}"),
    }
}

/// Evaluates for a while and writes down what changes.
fn run(world: &mut World, span_us: u64, last: &mut String, out: &mut String, began_ms: u64) {
    let until_ms = world.now_ms + span_us / 1_000;
    while world.now_ms + EVALUATION_MS <= until_ms {
        world.now_ms += EVALUATION_MS;
        let step = world.evaluate();
        let minutes = (world.now_ms - began_ms) / 1_000;
        for told in &step.events {
            writeln!(out, "{:>4}:{:02} {}", minutes / 60, minutes % 60, event(told)).unwrap();
        }
        let mut line = describe(&step.decision);
        if line.starts_with("Sustaining") {
            // Ten lines of it say no more than one.
            line = "Sustaining".to_owned();
        }
        if line != *last {
            writeln!(out, "{:>4}:{:02} {line}", minutes / 60, minutes % 60).unwrap();
            *last = line;
        }
    }
}

fn perform(world: &mut World, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let change =
        |world: &mut World, ends: &[&str], change: &dyn Fn(Distance) -> Distance| match ends {
            [] => world.everywhere(change),
            [from, to] => {
                let link = world.links.get_mut(&(id(from), id(to))).unwrap();
                *link = change(*link);
            }
            other => panic!("{other:?} are not two ends"),
        };
    match words[0] {
        // rtt TIME [FROM TO]: as FROM measures it; everywhere without them.
        "rtt" => {
            let us = duration_us(words[1]);
            change(world, &words[2..], &|was| Distance {
                samples: was.samples,
                ..Distance::of(us)
            });
        }
        "jitter" => {
            let us = duration_us(words[1]);
            change(world, &words[2..], &|was| Distance {
                rttvar_us: us,
                p99_us: was.srtt_us + 3 * us,
                gap_us: 27_000 + 4 * us,
                ..was
            });
        }
        "gap" => {
            let us = duration_us(words[1]);
            change(world, &words[2..], &|was| Distance { gap_us: us, ..was });
        }
        "samples" => {
            let samples = words[1].parse().unwrap();
            change(world, &words[2..], &|was| Distance { samples, ..was });
        }
        "gap-samples" => world.gap_samples = words[1].parse().unwrap(),
        "cut" => change(world, &words[1..], &|was| Distance { reachable: false, ..was }),
        "heal" => change(world, &words[1..], &|was| Distance { reachable: true, ..was }),
        "far" => {
            let (member, us) = (id(words[1]), duration_us(words[2]));
            for ((from, to), link) in &mut world.links {
                if *from == member || *to == member {
                    *link = Distance::of(us);
                }
            }
        }
        // A member that claims something of all its links; its peers measure what is true.
        "claims" => {
            let (member, us) = (id(words[1]), duration_us(words[2]));
            for ((from, _), link) in &mut world.links {
                if *from == member {
                    *link = Distance { p99_us: us, gap_us: us, rttvar_us: us, ..Distance::of(us) };
                }
            }
        }
        "down" => drop(world.down.insert(id(words[1]))),
        "up" => {
            world.down.remove(&id(words[1]));
            let boot = world.boots.get(&id(words[1])).map_or(1_000, |(boot, _)| boot + 1);
            world.boots.insert(id(words[1]), (boot, world.now_ms));
        }
        "false-elections" => {
            *world.false_elections.entry(id(words[1])).or_default() +=
                words[2].parse::<u64>().unwrap();
        }
        "silence" => world.silence_us = duration_us(words[1]),
        "stall" => world.stall_us = duration_us(words[1]),
        "sync" => {
            let members = if words.len() > 2 { vec![id(words[2])] } else { world.voters.clone() };
            for member in members {
                world.sync_us.insert(member, duration_us(words[1]));
            }
        }
        "writes" => {
            let writes =
                Writes { p99_us: duration_us(words[1]), per_second: words[2].parse().unwrap() };
            world.writes = Some(writes);
        }
        "rows" => world.row_age_ms = duration_us(words[1]) / 1_000,
        "unaware" => drop(world.unaware.insert(id(words[1]))),
        "aware" => drop(world.unaware.remove(&id(words[1]))),
        "learner" => world.learner = words[1] == "on",
        "upgrade" => world.context.upgrade = words[1] == "on",
        "restore" => world.context.restore = words[1] == "on",
        "change" => world.context.membership_change = words[1] == "on",
        "refuse" => world.refuses = words[1] == "on",
        "stuck" => world.stuck = words[1] == "on",
        // Somebody else's plan.
        "manual" => {
            let timing = Timing {
                heartbeat_interval_us: duration_us(words[1]),
                election_timeout_us: duration_us(words[2]),
            };
            world.plan = world.plan.succeeded_by(Some(Params { timing, ..Params::default() }));
            world.plan.phase = autotune::Phase::Settled;
        }
        "clock" => {
            let ms = duration_us(&words[1][1..]) / 1_000;
            world.now_ms =
                if words[1].starts_with('-') { world.now_ms - ms } else { world.now_ms + ms };
        }
        "settings" => {
            let mut settings = *world.controller.settings();
            for word in &words[1..] {
                set(&mut settings, word);
            }
            world.controller.reconfigure(settings);
        }
        other => panic!("{other:?} is not a command"),
    }
}

fn set(settings: &mut Settings, word: &str) {
    let (name, value) = word.split_once('=').unwrap();
    match name {
        "policy" => {
            let policy = Policy::of(value).unwrap();
            *settings = Settings { mode: settings.mode, ..Settings::of(policy) };
        }
        "mode" => settings.mode = if value == "auto" { Mode::Auto } else { Mode::Observe },
        "paused" => settings.paused = value == "on",
        "leases" => settings.leases = value == "on",
        "election-min" => settings.bounds.election_us_min = duration_us(value),
        "election-max" => settings.bounds.election_us_max = duration_us(value),
        "cooldown" => settings.guards.cooldown_ms = duration_us(value) / 1_000,
        "sustain" => settings.guards.sustain_evaluations = value.parse().unwrap(),
        other => panic!("{other:?} is not a setting"),
    }
}

fn replay(text: &str) -> String {
    let mut world = World::new(Policy::Balanced, 3);
    let mut began_ms = world.now_ms;
    let mut last = String::new();
    let mut out = String::new();
    for line in text.lines() {
        let Some(command) = line.strip_prefix("> ") else {
            if out.is_empty() || line.starts_with('#') {
                out.push_str(line);
                out.push('\n');
            }
            continue;
        };
        out.push_str(line);
        out.push('\n');
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["voters", count] => {
                world = World::new(Policy::Balanced, count.parse().unwrap());
                began_ms = world.now_ms;
            }
            ["run", span] => run(&mut world, duration_us(span), &mut last, &mut out, began_ms),
            ["clock", ..] => {
                let before_ms = world.now_ms;
                perform(&mut world, command);
                // Lines tell the time that has passed, not what a clock makes of it.
                began_ms = began_ms + world.now_ms - before_ms;
            }
            _ => perform(&mut world, command),
        }
    }
    let now = timing(world.plan.to);
    let end = format!("= {now} by plan {}\n", world.plan.epoch);
    if text.contains("\n= ") || std::env::var_os("UPDATE_GOLDEN").is_some() {
        out.push_str(&end);
    }
    out
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut scripts: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    scripts
}

#[test]
fn scripts_lead_to_the_decisions_written_down() {
    let scripts = scripts();
    assert!(scripts.len() >= 14, "only {} scripts", scripts.len());
    let mut wrong = Vec::new();
    for path in scripts {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().display().to_string();
        let first = text.lines().next().unwrap_or_default();
        assert!(first.ends_with('.') && first.contains(' '), "{name} begins with no sentence");
        let now = replay(&text);
        if now == text {
            continue;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &now).unwrap();
        } else {
            let differs = now.lines().zip(text.lines()).find(|(a, b)| a != b);
            wrong.push(format!("{name}: now and before: {differs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
