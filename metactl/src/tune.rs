//! `tune show`, `tune apply` and `tune rollback`: the plan of timing by hand; `tune plan` and `tune auto`:
//! what the planner makes of it.
//!
//! A plan is submitted upon the one that was seen, so of two people who plan at once one is told. What
//! is not given stays as the newest plan, or else the flags of the member that is asked, has it.

mod ask;
mod auto;
mod memory;
mod plan;

use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use client::proto::admin::TuningResponse;
use client::proto::log::{Tuning, TuningParams, TuningSubmit};
use client::{Client, Code, Config};
use member::autotune::{Params, Phase};
use member::state::tuning::{params_of, params_said};
use serde::Serialize;

use crate::show::{Table, hex};

/// Between two looks at a plan that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a plan is signed with.
const PLANNER: &str = "metactl";
/// Of the election timeout, where a lease is asked for without a length: four fifths of it, less two
/// ticks of a fiftieth each.
const LEASE_PERCENT: u64 = 76;

/// The plan of timing: heartbeats, election timeout, leases, bounds of batching
#[derive(Debug, Subcommand)]
pub(crate) enum Tune {
    /// The newest plan, how far it has come, and what each member uses
    Show,
    /// Submit a plan; values that are not given stay as they are
    Apply(Apply),
    /// Submit the plan that settled before the newest one, or back to the flags if there is none
    Rollback(Rollback),
    /// What the planner would do now, and why; changes nothing
    Plan(plan::Plan),
    /// Let the planner choose, submit, watch and take back, until interrupted
    Auto(auto::Auto),
}

/// What a plan sets, and how it is submitted.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// Heartbeat interval, as 25ms
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    heartbeat: Option<u64>,
    /// Election timeout, at least five heartbeats
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    election: Option<u64>,
    /// Lease of a leader, 0 for none; without a length as long as the election timeout allows
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "most")]
    lease: Option<String>,
    /// Most commands in one entry
    #[arg(long, value_name = "COUNT")]
    batch_commands: Option<u64>,
    /// Longest wait of a batch for company
    #[arg(long, value_name = "DURATION", value_parser = micros)]
    linger: Option<u64>,
    /// Most bytes in one message
    #[arg(long, value_name = "BYTES")]
    message_bytes: Option<u64>,
    /// Most messages on their way to one follower
    #[arg(long, value_name = "COUNT")]
    inflight_messages: Option<u64>,
    /// Their bytes
    #[arg(long, value_name = "BYTES")]
    inflight_bytes: Option<u64>,
    /// Whether messages to followers may be compressed, as the members' flags say; false forbids it
    #[arg(long, value_name = "BOOL")]
    compression: Option<bool>,
    /// Drop the plan: each member goes back to its own flags
    #[arg(long, conflicts_with_all = [
        "heartbeat", "election", "lease", "batch_commands", "linger", "message_bytes",
        "inflight_messages", "inflight_bytes", "compression",
    ])]
    flags: bool,
    #[command(flatten)]
    how: How,
}

/// The way back.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// Why, in a few words
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Epoch of the plan this one is made upon, instead of the newest
    #[arg(long, value_name = "EPOCH")]
    upon: Option<u64>,
    /// Also where the newest plan has not settled
    #[arg(long)]
    supersede: bool,
    /// Wait until every voter has it, for at most so many seconds
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60"
    )]
    wait: Option<f64>,
}

/// Microseconds of a length of time with its unit.
fn micros(text: &str) -> std::result::Result<u64, String> {
    let digits =
        text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let unit_us = match unit {
        "us" | "µs" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "" if number == "0" => 1.0,
        _ => return Err(format!("{text:?} is not a length of time, as 25ms")),
    };
    let us =
        number.parse::<f64>().map_err(|_| format!("{text:?} is not a length of time"))? * unit_us;
    if us < 1e12 { Ok(us.round() as u64) } else { Err(format!("{text:?} is too long")) }
}

/// Milliseconds of Unix time.
fn now_ms() -> u64 {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}

/// A length of time, as it is read.
fn say_us(us: u64) -> String {
    if us == 0 { "0".into() } else { format!("{}ms", us as f64 / 1e3) }
}

impl Tune {
    /// Does what was asked for.
    pub(crate) async fn run(
        &self,
        client: &Client,
        config: &Config,
        json: bool,
        out: &mut dyn Write,
    ) -> Result<()> {
        match self {
            Tune::Show => show(client, config, json, out).await,
            Tune::Apply(apply) => {
                let now = ask(client).await?;
                let to = (!apply.flags).then(|| apply.target(&now)).transpose()?;
                apply.how.submit(client, &now, to, None, json, out).await
            }
            Tune::Rollback(rollback) => {
                let now = ask(client).await?;
                let tuning = now.tuning.clone().unwrap_or_default();
                if tuning.epoch == 0 {
                    bail!("there is no plan to go back from");
                }
                let to = tuning.past.first().and_then(|past| past.to);
                let reason = format!("back from epoch {}", tuning.epoch);
                rollback.how.submit(client, &now, to, Some(reason), json, out).await
            }
            Tune::Plan(plan) => plan.run(client, config, json, out).await,
            Tune::Auto(auto) => auto.run(client, config, json, out).await,
        }
    }
}

async fn ask(client: &Client) -> Result<TuningResponse> {
    client.tuning().await.map_err(|error| match error.code() {
        Code::Unimplemented => anyhow!("this server knows no plans of timing"),
        _ => error.into(),
    })
}

impl Apply {
    /// The newest target with what was given on top.
    fn target(&self, now: &TuningResponse) -> Result<TuningParams> {
        let newest = now.tuning.as_ref().and_then(|tuning| tuning.to);
        let mut to = newest.or(now.flags).unwrap_or_else(|| params_said(&Params::default()));
        for (given, value) in [
            (self.heartbeat, &mut to.heartbeat_interval_us),
            (self.election, &mut to.election_timeout_us),
            (self.batch_commands, &mut to.batch_commands_max),
            (self.linger, &mut to.linger_us_max),
            (self.message_bytes, &mut to.message_bytes_max),
            (self.inflight_messages, &mut to.inflight_messages_max),
            (self.inflight_bytes, &mut to.inflight_bytes_max),
        ] {
            *value = given.unwrap_or(*value);
        }
        if let Some(allowed) = self.compression {
            to.no_compression = !allowed;
        }
        to.lease_us = match self.lease.as_deref() {
            None => to.lease_us,
            Some("most") => to.election_timeout_us / 100 * LEASE_PERCENT,
            Some(length) => micros(length).map_err(anyhow::Error::msg).context("--lease")?,
        };
        // Said here too, in the same words, so that a slip costs no round trip.
        let params = params_of(&to);
        params.validate()?;
        // In the oldest form that says it.
        Ok(params_said(&params))
    }
}

#[derive(Debug, Serialize)]
struct Submitted {
    epoch: u64,
    settled: bool,
}

impl How {
    async fn submit(
        &self,
        client: &Client,
        now: &TuningResponse,
        to: Option<TuningParams>,
        reason: Option<String>,
        json: bool,
        out: &mut dyn Write,
    ) -> Result<()> {
        let newest = now.tuning.as_ref().map_or(0, |tuning| tuning.epoch);
        let submit = TuningSubmit {
            expected_epoch: self.upon.unwrap_or(newest),
            to,
            planner: PLANNER.into(),
            reason: self.reason.clone().or(reason).unwrap_or_default(),
            at_ms: i64::try_from(now_ms()).unwrap_or(i64::MAX),
            supersede: self.supersede,
        };
        let epoch = client.submit_tuning(submit).await?.epoch;
        let settled = match self.wait {
            Some(seconds) => {
                let longest = Duration::try_from_secs_f64(seconds)
                    .with_context(|| format!("--wait {seconds}"))?;
                settle(client, epoch, longest).await?;
                true
            }
            None => false,
        };
        if json {
            serde_json::to_writer(&mut *out, &Submitted { epoch, settled })?;
            writeln!(out)?;
        } else {
            let stands = if settled { "settled" } else { "on its way" };
            writeln!(out, "plan of epoch {epoch} is {stands}")?;
        }
        Ok(())
    }
}

/// Until a plan has settled.
async fn settle(client: &Client, epoch: u64, longest: Duration) -> Result<()> {
    let until = Instant::now() + longest;
    loop {
        let now = ask(client).await;
        let tuning = now.as_ref().ok().and_then(|now| now.tuning.as_ref());
        match tuning {
            Some(tuning) if tuning.epoch > epoch => {
                bail!("plan of epoch {epoch} was superseded by that of epoch {}", tuning.epoch);
            }
            Some(tuning) if tuning.epoch == epoch && phase_of(tuning) == Phase::Settled => {
                return Ok(());
            }
            _ if Instant::now() >= until => {
                let held = now.map(|now| now.held_by)?;
                let why = if held.is_empty() { String::new() } else { format!(": {held}") };
                bail!("plan of epoch {epoch} has not settled in {} s{why}", longest.as_secs_f64());
            }
            // A leader may be changing: the plan goes on under the next one.
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

fn phase_of(tuning: &Tuning) -> Phase {
    Phase::of(u64::from(tuning.phase)).unwrap_or(Phase::Settled)
}

// Shown --------------------------------------------------------------------------------------

#[derive(Debug, Serialize)]
struct Shown {
    epoch: u64,
    phase: &'static str,
    planner: String,
    reason: String,
    at_ms: i64,
    /// Null: each member's own flags.
    from: Option<Values>,
    to: Option<Values>,
    held_by: String,
    leader: String,
    members: Vec<MemberRow>,
    past: Vec<Past>,
}

#[derive(Debug, Serialize)]
struct Values {
    heartbeat_us: u64,
    election_us: u64,
    lease_us: u64,
    batch_commands_max: u64,
    linger_us_max: u64,
    message_bytes_max: u64,
    inflight_messages_max: u64,
    inflight_bytes_max: u64,
    compression: bool,
}

impl From<TuningParams> for Values {
    fn from(params: TuningParams) -> Self {
        Values {
            heartbeat_us: params.heartbeat_interval_us,
            election_us: params.election_timeout_us,
            lease_us: params.lease_us,
            batch_commands_max: params.batch_commands_max,
            linger_us_max: params.linger_us_max,
            message_bytes_max: params.message_bytes_max,
            inflight_messages_max: params.inflight_messages_max,
            inflight_bytes_max: params.inflight_bytes_max,
            compression: !params.no_compression,
        }
    }
}

#[derive(Debug, Serialize)]
struct MemberRow {
    member: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    epoch: u64,
    phase: &'static str,
    /// As the leader knows: epoch and phase.
    confirmed: Option<(u64, &'static str)>,
    in_force: Option<Values>,
    flags: Option<Values>,
}

#[derive(Debug, Serialize)]
struct Past {
    epoch: u64,
    to: Option<Values>,
    planner: String,
    reason: String,
    at_ms: i64,
}

async fn show(client: &Client, config: &Config, json: bool, out: &mut dyn Write) -> Result<()> {
    let asked = ask(client).await?;
    let mut members = client.members_known().await?.members;
    members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    let mut said: Vec<(u64, String, std::result::Result<TuningResponse, String>)> = Vec::new();
    for member in &members {
        let name = if member.name.is_empty() { hex(member.id) } else { member.name.clone() };
        said.push((member.id, name, ask_at(config, &member.client_ur_ls).await));
    }
    // The newest of what is known, and from the leader what only it knows.
    let answers = || said.iter().filter_map(|(_, _, answer)| answer.as_ref().ok());
    let leader = answers().find(|answer| answer.leader_id == answer.member_id);
    let reached = |answer: &&TuningResponse| {
        answer.tuning.as_ref().map_or((0, 0), |tuning| (tuning.epoch, tuning.phase))
    };
    let newest = answers().chain([&asked]).max_by_key(reached).unwrap_or(&asked);
    let tuning = newest.tuning.clone().unwrap_or_default();
    let confirmed = |id: u64| {
        let of = leader?.confirmations.iter().find(|it| it.member_id == id)?;
        Some((of.epoch, Phase::of(u64::from(of.phase))?.as_str()))
    };
    let shown = Shown {
        epoch: tuning.epoch,
        phase: phase_of(&tuning).as_str(),
        planner: tuning.planner.clone(),
        reason: tuning.reason.clone(),
        at_ms: tuning.at_ms,
        from: tuning.from.and_then(|from| from.params).map(Values::from),
        to: tuning.to.map(Values::from),
        held_by: leader.map(|leader| leader.held_by.clone()).unwrap_or_default(),
        leader: hex(asked.leader_id),
        members: said
            .iter()
            .map(|(id, name, answer)| {
                let known = answer.as_ref().ok();
                let tuning = known.and_then(|it| it.tuning.clone()).unwrap_or_default();
                MemberRow {
                    member: hex(*id),
                    name: name.clone(),
                    error: answer.as_ref().err().cloned(),
                    epoch: tuning.epoch,
                    phase: phase_of(&tuning).as_str(),
                    confirmed: confirmed(*id),
                    in_force: known.and_then(|it| it.in_force).map(Values::from),
                    flags: known.and_then(|it| it.flags).map(Values::from),
                }
            })
            .collect(),
        past: tuning
            .past
            .into_iter()
            .map(|past| Past {
                epoch: past.epoch,
                to: past.to.map(Values::from),
                planner: past.planner,
                reason: past.reason,
                at_ms: past.at_ms,
            })
            .collect(),
    };
    if json {
        serde_json::to_writer(&mut *out, &shown)?;
        writeln!(out)?;
    } else {
        shown.write(out)?;
    }
    match shown.members.iter().filter(|row| row.error.is_some()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} members could not be asked", shown.members.len()),
    }
}

async fn ask_at(
    config: &Config,
    client_urls: &[String],
) -> std::result::Result<TuningResponse, String> {
    if client_urls.is_empty() {
        return Err("it has not started yet".into());
    }
    let client = Client::new(config.clone().endpoints(client_urls.iter().cloned()));
    let client = client.map_err(|error| error.to_string())?;
    ask(&client).await.map_err(|error| error.to_string())
}

impl Shown {
    fn write(&self, out: &mut dyn Write) -> Result<()> {
        if self.epoch == 0 {
            writeln!(out, "no plan: each member uses its own flags")?;
        } else {
            let Shown { epoch, phase, planner, .. } = self;
            let by = if planner.is_empty() { String::new() } else { format!(", by {planner}") };
            let why = self.reason.escape_debug().to_string();
            let why = if why.is_empty() { why } else { format!(": {why}") };
            writeln!(out, "plan of epoch {epoch}, {phase}{by}{why}")?;
            if !self.held_by.is_empty() {
                writeln!(out, "held: {}", self.held_by)?;
            }
        }
        let mut table = Table::new(&[
            "",
            "EPOCH",
            "PHASE",
            "CONFIRMED",
            "HEARTBEAT",
            "ELECTION",
            "LEASE",
            "COMMANDS",
            "LINGER",
            "MESSAGE",
            "INFLIGHT",
            "COMPRESSION",
        ]);
        if self.epoch > 0 {
            for (what, values) in [("from", &self.from), ("to", &self.to)] {
                table.row([vec![what.into(); 1], vec![String::new(); 3], cells(values)].concat());
            }
        }
        for member in &self.members {
            let name = member.name.clone();
            if let Some(error) = &member.error {
                table.row(vec![name, format!("failed: {error}")]);
                continue;
            }
            let confirmed = member.confirmed.map(|(epoch, phase)| format!("{epoch} {phase}"));
            let stands = vec![
                name.clone(),
                member.epoch.to_string(),
                member.phase.into(),
                confirmed.unwrap_or_default(),
            ];
            table.row([stands, cells(&member.in_force)].concat());
            let flags =
                vec![format!("  flags of {name}"), String::new(), String::new(), String::new()];
            table.row([flags, cells(&member.flags)].concat());
        }
        for past in &self.past {
            let stood = vec!["past".into(), past.epoch.to_string(), String::new(), String::new()];
            table.row([stood, cells(&past.to)].concat());
        }
        table.write(out)?;
        Ok(())
    }
}

fn cells(values: &Option<Values>) -> Vec<String> {
    let Some(values) = values else { return vec!["flags".into()] };
    vec![
        say_us(values.heartbeat_us),
        say_us(values.election_us),
        say_us(values.lease_us),
        values.batch_commands_max.to_string(),
        say_us(values.linger_us_max),
        values.message_bytes_max.to_string(),
        format!("{} / {}", values.inflight_messages_max, values.inflight_bytes_max),
        if values.compression { "allowed" } else { "forbidden" }.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_with_their_unit() {
        for (text, us) in [("25ms", 25_000), ("1.5s", 1_500_000), ("315us", 315), ("0", 0)] {
            assert_eq!(micros(text), Ok(us), "{text}");
        }
        for text in ["", "25", "ms", "25m", "-1ms", "1..5s", "9999999s"] {
            assert!(micros(text).is_err(), "{text}");
        }
    }
}
