//! What is asked of the planner, and what it says, in words.

use std::fmt;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use client::tuning::Collected;
use member::autotune::planner::{
    Binding, Bounds, Decision, Event, Evidence, Mode, Policy, Settings, Step,
};
use member::autotune::{Params, Timing};
use serde::Serialize;

use super::{micros, say_us};

/// How failover time is weighed against needless elections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Weighed {
    Latency,
    Balanced,
    Stability,
}

/// What is asked for.
#[derive(Debug, Args)]
pub(super) struct Asked {
    /// Short failovers, few needless elections, or as few as can be
    #[arg(long, value_enum, default_value = "balanced")]
    policy: Weighed,
    /// Shortest heartbeat interval, as 25ms
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    heartbeat_min: Option<u64>,
    /// Longest heartbeat interval
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    heartbeat_max: Option<u64>,
    /// Shortest election timeout
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    election_min: Option<u64>,
    /// Longest election timeout
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    election_max: Option<u64>,
    /// Give leaders a lease
    #[arg(long)]
    leases: bool,
}

impl Asked {
    /// The planner's settings, checked.
    pub(super) fn settings(&self, mode: Mode) -> Result<Settings> {
        let policy = match self.policy {
            Weighed::Latency => Policy::Latency,
            Weighed::Balanced => Policy::Balanced,
            Weighed::Stability => Policy::Stability,
        };
        let usual = Settings::of(policy);
        let bounds = Bounds {
            heartbeat_us_min: self.heartbeat_min.unwrap_or(usual.bounds.heartbeat_us_min),
            heartbeat_us_max: self.heartbeat_max.unwrap_or(usual.bounds.heartbeat_us_max),
            election_us_min: self.election_min.unwrap_or(usual.bounds.election_us_min),
            election_us_max: self.election_max.unwrap_or(usual.bounds.election_us_max),
            ..usual.bounds
        };
        if let Err(error) = bounds.validate() {
            bail!("bounds: {error}");
        }
        Ok(Settings { mode, bounds, leases: self.leases, ..usual })
    }
}

/// What the planner makes of a cluster.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    pub(super) at_ms: u64,
    policy: &'static str,
    epoch: u64,
    phase: &'static str,
    measured: Option<Measured>,
    in_force: Values,
    /// What the formulas ask for, before all caution.
    asked_for: Option<Values>,
    /// What decides its election timeout.
    because_of: Option<&'static str>,
    /// The plan to be submitted now, if one is. A rollback to the flags has none.
    pub(super) submit: Option<Values>,
    state: &'static str,
    pub(super) decision: String,
    events: Vec<String>,
    silent: Vec<Silent>,
}

#[derive(Debug, Serialize)]
struct Measured {
    farthest: [String; 2],
    rtt_us: u64,
    rtt_us_p99: u64,
    gap_us: u64,
    silence_us: u64,
    stall_us: u64,
    sync_us: u64,
    shared_sync_us: u64,
    loss_ppm: u64,
    samples: u64,
    /// Of the election timeout in force.
    slack_percent: u64,
}

#[derive(Debug, Serialize)]
struct Silent {
    member: String,
    why: String,
}

/// Parameters, as they are told.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Values {
    heartbeat_us: u64,
    election_us: u64,
    lease_us: u64,
    linger_us_max: u64,
    message_bytes_max: u64,
    inflight_messages_max: u64,
    inflight_bytes_max: u64,
    /// How long clients would wait for a new leader, in the planner's model.
    failover_ms: Option<u64>,
}

impl Values {
    fn of(params: &Params, failover_us: Option<u64>) -> Values {
        let Params { timing, lease_us, bounds } = params;
        let Timing { heartbeat_interval_us, election_timeout_us } = *timing;
        Values {
            heartbeat_us: heartbeat_interval_us,
            election_us: election_timeout_us,
            lease_us: *lease_us,
            linger_us_max: bounds.linger_us_max,
            message_bytes_max: bounds.message_bytes_max,
            inflight_messages_max: bounds.inflight_messages_max,
            inflight_bytes_max: bounds.inflight_bytes_max,
            failover_ms: failover_us.map(|us| us / 1_000),
        }
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (heartbeat, election) = (say_us(self.heartbeat_us), say_us(self.election_us));
        write!(f, "heartbeat {heartbeat}, election {election}")?;
        if self.lease_us > 0 {
            write!(f, ", lease {}", say_us(self.lease_us))?;
        }
        let (messages, mib) = (self.inflight_messages_max, self.inflight_bytes_max >> 20);
        write!(f, ", window {messages} messages or {mib} MiB")
    }
}

impl Told {
    pub(super) fn of(at_ms: u64, settings: &Settings, seen: &Collected, step: &Step) -> Told {
        let plan = seen.plan();
        let in_force = plan.in_force(&seen.own());
        let submit = match step.decision {
            Decision::Apply { params, .. } | Decision::Recommend { params, .. } => Some(params),
            Decision::Rollback { to, .. } => to,
            Decision::Hold { .. } | Decision::Frozen { .. } => None,
        };
        let known = step.evidence.is_some();
        Told {
            at_ms,
            policy: settings.policy.as_str(),
            epoch: plan.epoch,
            phase: plan.phase.as_str(),
            measured: step.evidence.map(|it| measured(&it, seen, step.slack_percent)),
            in_force: Values::of(&in_force, known.then_some(step.failover_us_now)),
            asked_for: step.target.map(|it| Values::of(&it.params, Some(step.failover_us))),
            because_of: step.target.map(|it| Binding::as_str(it.binding)),
            submit: submit.map(|params| Values::of(&params, None)),
            state: step.decision.as_str(),
            decision: step.decision.to_string(),
            events: step.events.iter().map(|event| event_said(event, seen)).collect(),
            silent: seen
                .silent
                .iter()
                .map(|(id, why)| Silent { member: seen.name(*id), why: why.clone() })
                .collect(),
        }
    }

    /// Everything, for one who reads.
    pub(super) fn page(&self) -> String {
        let mut lines = Vec::new();
        match &self.measured {
            None => lines.push("measured   not enough yet".to_owned()),
            Some(it) => lines.push(format!(
                "measured   round trip {} (99 of 100: {}) between {} and {}; gap {}; silence {}; \
                 sync {}; loss {} ppm; {} samples",
                say_us(it.rtt_us),
                say_us(it.rtt_us_p99),
                it.farthest[0],
                it.farthest[1],
                say_us(it.gap_us),
                say_us(it.silence_us),
                say_us(it.sync_us.max(it.shared_sync_us)),
                it.loss_ppm,
                it.samples
            )),
        }
        let failover = |values: &Values| {
            values.failover_ms.map_or(String::new(), |ms| format!("; failover about {ms}ms"))
        };
        lines.push(format!("in force   {}{}", self.in_force, failover(&self.in_force)));
        if let (Some(asked), Some(why)) = (&self.asked_for, self.because_of) {
            lines.push(format!("asked for  {asked}{}; decided by: {why}", failover(asked)));
        }
        match &self.submit {
            Some(values) => lines.push(format!("next plan  {values}; {}", self.decision)),
            None => lines.push(format!("next plan  none: {}", self.decision)),
        }
        lines.extend(self.remarks());
        lines.join("\n")
    }

    /// One line.
    pub(super) fn line(&self) -> String {
        let clock = self.at_ms / 1_000 % 86_400;
        let (hours, minutes, seconds) = (clock / 3_600, clock / 60 % 60, clock % 60);
        let measured = self.measured.as_ref().map_or(String::from("nothing measured"), |it| {
            let (rtt, p99) = (say_us(it.rtt_us), say_us(it.rtt_us_p99));
            format!("rtt {rtt} p99 {p99} slack {} %", it.slack_percent)
        });
        let (heartbeat, election) =
            (say_us(self.in_force.heartbeat_us), say_us(self.in_force.election_us));
        let submit = self.submit.map_or(String::new(), |values| format!(" ({values})"));
        let remarks = self.remarks().iter().map(|it| format!("; {it}")).collect::<String>();
        format!(
            "{hours:02}:{minutes:02}:{seconds:02}Z epoch {} {} {heartbeat}/{election}, {measured}: \
             {}: {}{submit}{remarks}",
            self.epoch, self.phase, self.state, self.decision
        )
    }

    fn remarks(&self) -> Vec<String> {
        let silent = self.silent.iter().map(|it| format!("{} is silent: {}", it.member, it.why));
        self.events.iter().cloned().chain(silent).collect()
    }
}

fn measured(it: &Evidence, seen: &Collected, slack_percent: u64) -> Measured {
    Measured {
        farthest: [seen.name(it.worst_pair.0), seen.name(it.worst_pair.1)],
        rtt_us: it.rtt_us,
        rtt_us_p99: it.rtt_us_p99,
        gap_us: it.gap_us,
        silence_us: it.shared_stall_us,
        stall_us: it.stall_us,
        sync_us: it.sync_us,
        shared_sync_us: it.shared_sync_us,
        loss_ppm: it.loss_ppm,
        samples: it.samples,
        slack_percent,
    }
}

fn event_said(event: &Event, seen: &Collected) -> String {
    match event {
        Event::SlowMember { member, rtt_us, others_us } => format!(
            "{} is slow: {} from the nearest, the others {} from each other",
            seen.name(*member),
            say_us(*rtt_us),
            say_us(*others_us)
        ),
        Event::Verified { epoch } => format!("plan of epoch {epoch} has proved itself"),
        Event::FalseElections { count } => format!("leaders deposed alive: {count}"),
    }
}

#[cfg(test)]
mod tests {
    use client::proto::admin::TuningResponse;
    use member::autotune::planner::{Controller, Observation, State};

    use super::*;

    fn asked() -> Asked {
        Asked {
            policy: Weighed::Balanced,
            heartbeat_min: None,
            heartbeat_max: None,
            election_min: None,
            election_max: None,
            leases: false,
        }
    }

    #[test]
    fn bounds_that_contradict_themselves_are_named() {
        assert!(asked().settings(Mode::Observe).is_ok());
        let wrong = Asked { election_min: Some(100_000), ..asked() };
        let line = wrong.settings(Mode::Auto).unwrap_err().to_string();
        assert_eq!(
            line,
            "bounds: least election timeout in µs: 100000 is less than 5 of the least heartbeat \
             intervals"
        );
    }

    #[test]
    fn a_cluster_of_which_nothing_is_known_has_a_line_and_a_page() {
        let settings = asked().settings(Mode::Observe).unwrap();
        let mut controller = Controller::new(settings, State::default());
        let seen = Collected {
            cluster_id: 1,
            observation: Observation { voters: vec![1, 2, 3], ..Observation::default() },
            tuning: TuningResponse::default(),
            silent: vec![(1, "refused".into())],
            names: vec![(1, "a".into())],
        };
        let step = controller.step(0, &seen.observation, &seen.plan(), &seen.own());
        let told = Told::of(3_661_000, &settings, &seen, &step);
        assert_eq!(
            told.line(),
            "01:01:01Z epoch 0 settled 100ms/1000ms, nothing measured: NoQuorum: a majority is not \
             heard from: member 1 among others; a is silent: refused"
        );
        assert!(told.page().starts_with("measured   not enough yet\nin force   heartbeat 100ms"));
    }
}
