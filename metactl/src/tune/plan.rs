//! `tune plan`: what the planner would do now, and why. Changes nothing.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use client::tuning::collect;
use client::{Client, Config};
use member::autotune::planner::{Controller, Mode, State};

use super::ask::{Asked, Told};
use super::now_ms;

/// The planner's opinion.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    #[command(flatten)]
    asked: Asked,
}

impl Plan {
    /// Collects once and tells the next step. Whoever looks once cannot know whether it would be asked
    /// for ten times in a row, so that is taken for granted.
    pub(super) async fn run(
        &self,
        client: &Client,
        config: &Config,
        json: bool,
        out: &mut dyn Write,
    ) -> Result<()> {
        let mut settings = self.asked.settings(Mode::Observe)?;
        settings.guards.sustain_evaluations = 1;
        let seen = collect(client, config).await?;
        let mut controller = Controller::new(settings, State::default());
        let at_ms = now_ms();
        let step = controller.step(at_ms, &seen.observation, &seen.plan(), &seen.own());
        let told = Told::of(at_ms, &settings, &seen, &step);
        if json {
            serde_json::to_writer(&mut *out, &told)?;
            writeln!(out)?;
        } else {
            writeln!(out, "{}", told.page())?;
        }
        Ok(())
    }
}
