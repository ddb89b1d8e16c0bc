//! `tune auto`: the planner's loop in the foreground, for clusters without an operator.
//!
//! Collect, decide, submit, watch, keep or take back; one line for each evaluation. It ends with
//! Ctrl-C and leaves the plan that is in force. What it remembers ends with it, unless `--state` names a
//! file: whoever starts it anew without one begins with a plan that is taken for somebody else's.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use client::proto::log::TuningSubmit;
use client::tuning::{Collected, collect, params_said};
use client::{Client, Config};
use member::autotune::planner::{Controller, Decision, Guards, Mode, State, Step};
use member::autotune::{Params, Phase};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::ask::{Asked, Told};
use super::memory::Memory;
use super::{micros, now_ms};

/// What plans are signed with.
const PLANNER: &str = "metactl auto";
/// No evaluations are closer to each other.
const EVALUATION_MS_MIN: u64 = 100;

/// The loop.
#[derive(Debug, Args)]
pub(crate) struct Auto {
    #[command(flatten)]
    asked: Asked,
    /// Time between two evaluations, as 30s
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    evaluation: Option<u64>,
    /// Evaluations in a row that must ask for a shorter timeout
    #[arg(long, value_name = "COUNT")]
    sustain: Option<u32>,
    /// After a plan nothing is lowered for this long
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    cooldown: Option<u64>,
    /// A lowered plan is watched for at least this long
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    verify: Option<u64>,
    /// File that keeps what the planner remembers, for the next start; made if it is not there
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    observe: bool,
}

#[derive(Serialize)]
struct Failed {
    at_ms: u64,
    error: String,
}

impl Auto {
    fn guards(&self, usual: Guards) -> Result<Guards> {
        let evaluation_ms = self.evaluation.map_or(usual.evaluation_ms, |us| us / 1_000);
        if evaluation_ms < EVALUATION_MS_MIN {
            bail!("--evaluation is below {EVALUATION_MS_MIN} ms");
        }
        let cooldown_ms = self.cooldown.map_or(usual.cooldown_ms, |us| us / 1_000);
        Ok(Guards {
            evaluation_ms,
            sustain_evaluations: self.sustain.unwrap_or(usual.sustain_evaluations),
            cooldown_ms,
            raise_cooldown_ms: usual.raise_cooldown_ms.min(cooldown_ms),
            verify_ms: self.verify.map_or(usual.verify_ms, |us| us / 1_000),
            ..usual
        })
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(
        &self,
        client: &Client,
        config: &Config,
        json: bool,
        out: &mut dyn Write,
    ) -> Result<()> {
        let mode = if self.observe { Mode::Observe } else { Mode::Auto };
        let mut settings = self.asked.settings(mode)?;
        settings.guards = self.guards(settings.guards)?;
        let opened = self.state.as_deref().map(Memory::open).transpose()?;
        let (mut memory, state) = opened.map_or((None, State::default()), |(m, s)| (Some(m), s));
        let mut controller = Controller::new(settings, state);
        let mut interrupt = signal(SignalKind::interrupt()).context("signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("signals")?;
        let mut evaluations =
            tokio::time::interval(Duration::from_millis(settings.guards.evaluation_ms));
        evaluations.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // A plan whose submission has begun is not left in the middle of it.
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = evaluations.tick() => {}
            }
            let at_ms = now_ms();
            let seen = tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                seen = collect(client, config) => seen,
            };
            let failed = match seen {
                Err(error) => Some(error.to_string()),
                Ok(seen) => {
                    if let Some(memory) = &mut memory {
                        memory.check(seen.cluster_id)?;
                    }
                    let step = controller.step(at_ms, &seen.observation, &seen.plan(), &seen.own());
                    let told = Told::of(at_ms, &settings, &seen, &step);
                    say(json, out, &told, |told| told.line())?;
                    // Before the plan is submitted: who starts anew finds it pending.
                    if let Some(memory) = &memory {
                        memory.save(controller.state())?;
                    }
                    submit(client, at_ms, &seen, &step).await.err().map(|it| it.to_string())
                }
            };
            if let Some(error) = failed {
                say(json, out, &Failed { at_ms, error }, |it| format!("failed: {}", it.error))?;
            }
        }
        if !json {
            writeln!(out, "stopped; the plan in force stays")?;
        }
        Ok(())
    }
}

fn say<T: Serialize>(
    json: bool,
    out: &mut dyn Write,
    what: &T,
    line: impl FnOnce(&T) -> String,
) -> Result<()> {
    if json {
        serde_json::to_writer(&mut *out, what)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", line(what))?;
    }
    Ok(out.flush()?)
}

/// Submits what was decided, if anything.
async fn submit(client: &Client, at_ms: u64, seen: &Collected, step: &Step) -> Result<()> {
    let to: Option<Params> = match step.decision {
        Decision::Apply { params, .. } => Some(params),
        Decision::Rollback { to, .. } => to,
        Decision::Hold { .. } | Decision::Recommend { .. } | Decision::Frozen { .. } => {
            return Ok(());
        }
    };
    let plan = seen.plan();
    let submit = TuningSubmit {
        expected_epoch: plan.epoch,
        to: to.as_ref().map(params_said),
        planner: PLANNER.into(),
        reason: step.decision.to_string(),
        at_ms: i64::try_from(at_ms).unwrap_or(i64::MAX),
        supersede: plan.phase != Phase::Settled,
    };
    let _epoch = client.submit_tuning(submit).await.context("plan was not taken")?;
    Ok(())
}
