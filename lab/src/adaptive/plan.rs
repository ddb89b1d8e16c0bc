//! The planner's way, done once: ask all members, make a plan of it, submit it, wait until every voter
//! has it. What a real loop adds is patience.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use autotune::planner::{Guards, Policy, Settings, read, target};
use autotune::{Phase, Timing};
use client::proto::log::TuningSubmit;
use client::tuning::{collect, params_said, plan_of};
use client::{Client, Config};

/// Longest wait for every voter to have the plan.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A plan in force.
pub(super) struct Planned {
    pub(super) heartbeat_ms: u64,
    pub(super) election_ms: u64,
    /// What decided the election timeout; none where the plan was known before.
    pub(super) binding: Option<String>,
}

/// Brings a plan into force: a known one, or what the planner makes of what the members measured.
pub(super) fn apply(endpoints: &str, policy: Policy, known: Option<(u64, u64)>) -> Result<Planned> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(submit(endpoints, policy, known))
}

async fn submit(endpoints: &str, policy: Policy, known: Option<(u64, u64)>) -> Result<Planned> {
    let config = Config::new(endpoints.split(','));
    let client = Client::new(config.clone())?;
    let collected = collect(&client, &config).await.context("what the members observe")?;
    if let Some((member, why)) = collected.silent.first() {
        bail!("{}: {why}", collected.name(*member));
    }
    let reading = read(&collected.observation, &Guards::default());
    let evidence = reading.evidence.context("the members have not measured each other yet")?;
    let aim = target(&evidence, &Settings::of(policy));
    let mut to = aim.params;
    if let Some((heartbeat_ms, election_ms)) = known {
        to.timing = Timing {
            heartbeat_interval_us: heartbeat_ms * 1_000,
            election_timeout_us: election_ms * 1_000,
        };
    }
    let answer = client
        .submit_tuning(TuningSubmit {
            expected_epoch: collected.plan().epoch,
            to: Some(params_said(&to)),
            planner: "adaptive".into(),
            reason: aim.binding.as_str().into(),
            ..TuningSubmit::default()
        })
        .await
        .context("the plan")?;
    let until = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let now = client.tuning().await.context("the plan's way")?;
        let plan = now.tuning.as_ref().map(plan_of).unwrap_or_default();
        if plan.epoch == answer.epoch && plan.phase == Phase::Settled {
            break;
        }
        if Instant::now() >= until {
            bail!("the plan has not settled: {}", now.held_by);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let us = to.timing;
    Ok(Planned {
        heartbeat_ms: us.heartbeat_interval_us / 1_000,
        election_ms: us.election_timeout_us / 1_000,
        binding: known.is_none().then(|| aim.binding.as_str().to_owned()),
    })
}
