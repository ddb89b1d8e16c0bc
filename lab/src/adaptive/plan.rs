//! The planner's way: let members measure until it has what it asks for, keep what they saw, and bring
//! what the planner makes of it into a running cluster. What a real loop adds is patience.
//!
//! What the members saw is kept for each network in a file of its own, so that all columns with a plan
//! begin with the same evidence, and none waits for it twice.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use autotune::planner::{Evidence, Guards, Policy, Settings, Target, read, target};
use autotune::{Params, Phase};
use client::proto::log::TuningSubmit;
use client::tuning::{Collected, collect, params_said, plan_of};
use client::{Client, Config};
use serde::{Deserialize, Serialize};

use super::record::{Machine, folder, read_json, write_json};
use crate::preset::Preset;

/// Longest wait for every voter to have the plan.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the members of a network saw of each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) preset: String,
    pub(super) machine: Machine,
    /// How long they measured, and how many others did beside them.
    pub(super) seconds: f64,
    pub(super) beside: usize,
    /// Gaps between signs of life, of the pair that has least.
    pub(super) gaps: u64,
    pub(super) evidence: Evidence,
}

impl Seen {
    fn path(preset: &str) -> PathBuf {
        folder().join(format!("{preset}.seen.json"))
    }

    /// `None`: nothing is known of that network.
    pub(super) fn load(preset: &str) -> Result<Option<Self>> {
        read_json(&Self::path(preset))
    }

    /// What is known of a network, or else of one that is the same before its steps.
    pub(super) fn of(preset: &Preset) -> Result<Option<Self>> {
        match Self::load(preset.name)? {
            Some(seen) => Ok(Some(seen)),
            None => Self::load(preset.seen_in().name),
        }
    }

    pub(super) fn save(&self) -> Result<()> {
        write_json(&Self::path(&self.preset), self)
    }

    pub(super) fn target(&self, policy: Policy) -> Target {
        target(&self.evidence, &Settings::of(policy))
    }
}

/// What members said at one moment.
pub(super) struct Asked {
    pub(super) evidence: Evidence,
    pub(super) gaps: u64,
    pub(super) pre_campaigns: u64,
}

/// Asks all members what they see.
pub(super) fn ask(endpoints: &str) -> Result<Asked> {
    within(async {
        let config = Config::new(endpoints.split(','));
        let client = Client::new(config.clone())?;
        let collected = collected(&client, &config).await?;
        let observation = &collected.observation;
        let reading = read(observation, &Guards::default());
        let links = || observation.members.iter().flat_map(|row| &row.links);
        Ok(Asked {
            evidence: reading.evidence.context("the members have not measured each other yet")?,
            gaps: links().map(|link| link.gaps.samples).min().unwrap_or_default(),
            pre_campaigns: observation.members.iter().map(|it| it.elections.pre_campaigns).sum(),
        })
    })
}

async fn collected(client: &Client, config: &Config) -> Result<Collected> {
    let collected = collect(client, config).await.context("what the members observe")?;
    if let Some((member, why)) = collected.silent.first() {
        bail!("{}: {why}", collected.name(*member));
    }
    Ok(collected)
}

/// Brings a plan into force and waits until every voter has it.
pub(super) fn apply(endpoints: &str, to: Params, reason: &str) -> Result<()> {
    within(async {
        let client = Client::new(Config::new(endpoints.split(',')))?;
        let before = client.tuning().await.context("the plan in force")?;
        let before = before.tuning.as_ref().map(plan_of).unwrap_or_default();
        let answer = client
            .submit_tuning(TuningSubmit {
                expected_epoch: before.epoch,
                to: Some(params_said(&to)),
                planner: "adaptive".into(),
                reason: reason.into(),
                ..TuningSubmit::default()
            })
            .await
            .context("the plan")?;
        let until = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let now = client.tuning().await.context("the plan's way")?;
            let plan = now.tuning.as_ref().map(plan_of).unwrap_or_default();
            if plan.epoch == answer.epoch && plan.phase == Phase::Settled {
                return Ok(());
            }
            if Instant::now() >= until {
                bail!("the plan has not settled: {}", now.held_by);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}

fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}
