//! What a load may be told on the command line, and which of it makes no sense.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::keys::{self, Choice, KEY_BYTES_MAX, KEY_BYTES_MIN, Order, Random};
use super::load::{Amount, Part, Plan};
use super::requests::{Asked, VALUE_BYTES_MAX};
use crate::cli::Target;

/// Most connections and clients one run takes.
pub(crate) const CONNECTIONS_MAX: usize = 10_000;
/// Most threads.
const THREADS_MAX: usize = 64;
/// Most bytes of values that all clients together may have under way.
const UNDER_WAY_BYTES_MAX: u64 = 1 << 30;
/// Steepest law of Zipf.
const ZIPF_EXPONENT_MAX: f64 = 10.0;
const ZIPF_EXPONENT: f64 = 0.99;
/// Fewest and most requests a second of an open loop.
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 1e7;
/// Largest part of a ratio.
const SHARE_MAX: u64 = 1_000_000;

/// What loads of every kind share.
#[derive(Debug, Args)]
pub(crate) struct Base {
    /// HTTP/2 connections, spread over the endpoints
    #[arg(long, default_value_t = 10)]
    pub(crate) connections: usize,
    /// Threads of this program (default: half the cores)
    #[arg(long)]
    threads: Option<usize>,
    /// Stop after so many seconds (default 10)
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Seconds of the same load before measuring begins (default 1, with --total 0)
    #[arg(long, value_name = "SECONDS")]
    pub(crate) warmup: Option<f64>,
    /// Server processes to measure (default: those that listen at the endpoints, if on this machine)
    #[arg(long, value_delimiter = ',')]
    pub(crate) pid: Vec<u32>,
    /// Write a report with charts to this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// Clients that wait for their answers.
#[derive(Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) base: Base,
    /// Requests under way at a time, spread over the connections
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// Stop after so many requests
    #[arg(long, conflicts_with = "duration")]
    total: Option<u64>,
    /// Send so many requests a second whatever becomes of them (open loop), instead of each client
    /// sending its next when its last is answered
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct Keys {
    /// Bytes of a key; all keys begin with "bench/"
    #[arg(long, default_value_t = 16)]
    pub(crate) key_bytes: usize,
    /// How many different keys there are
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) key_space: u64,
    /// In which order they are taken
    #[arg(long = "keys", default_value = "sequential")]
    order: OrderName,
    /// With --keys zipf: the key of rank k is taken k^-S times as often as the first (default 0.99)
    #[arg(long, value_name = "S")]
    zipf_exponent: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct Values {
    /// Bytes of a value; all values differ and do not compress
    #[arg(long, default_value_t = 256)]
    pub(crate) value_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OrderName {
    Sequential,
    Uniform,
    Zipf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    #[value(name = "l")]
    Linearizable,
    #[value(name = "s")]
    Serializable,
}

impl Consistency {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Serializable => "serializable",
        }
    }
}

impl From<Consistency> for Asked {
    fn from(consistency: Consistency) -> Self {
        Asked { serializable: consistency == Consistency::Serializable, count_only: false }
    }
}

/// So many reads to so many writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ratio {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let share = |text: &str| text.parse().ok().filter(|share| (1..=SHARE_MAX).contains(share));
        let shares = text.split_once(':').and_then(|(reads, writes)| {
            Some(Ratio { reads: share(reads)?, writes: share(writes)? })
        });
        shares.ok_or_else(|| format!("READS:WRITES expected, each from 1 to {SHARE_MAX}"))
    }
}

fn seconds(name: &str, value: f64) -> Result<Duration> {
    // A day and more of seconds is a slip.
    const SECONDS_MAX: f64 = 1e6;
    match Duration::try_from_secs_f64(value) {
        Ok(duration) if value <= SECONDS_MAX => Ok(duration),
        Ok(_) => bail!("--{name} {value}: at most {SECONDS_MAX} seconds"),
        Err(_) => bail!("--{name} {value}: not a number of seconds"),
    }
}

fn within(name: &str, value: usize, max: usize) -> Result<usize> {
    match value {
        0 => bail!("--{name} must be at least 1"),
        value if value > max => bail!("--{name} {value}: at most {max}"),
        value => Ok(value),
    }
}

impl Base {
    /// With one client on each connection, in a closed loop.
    pub(crate) fn plan(&self, target: &Target) -> Result<Plan> {
        let connections = within("connections", self.connections, CONNECTIONS_MAX)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = within("threads", self.threads.unwrap_or(cores.div_ceil(2)), THREADS_MAX)?;
        let duration = seconds("duration", self.duration.unwrap_or(10.0))?;
        if duration.is_zero() {
            bail!("--duration must be above 0");
        }
        Ok(Plan {
            target: target.clone(),
            connections,
            clients: connections,
            threads: threads.min(connections),
            warmup: seconds("warmup", self.warmup.unwrap_or(1.0))?,
            amount: Amount::Lasting(duration),
            rate: None,
            part: Part::Measured,
        })
    }
}

impl Load {
    pub(crate) fn plan(&self, target: &Target) -> Result<Plan> {
        let clients = within("clients", self.clients, CONNECTIONS_MAX)?;
        if let Some(rate) = self.rate
            && !(RATE_MIN..=RATE_MAX).contains(&rate)
        {
            bail!("--rate {rate}: from {RATE_MIN} to {RATE_MAX}");
        }
        let mut plan = self.base.plan(target)?;
        (plan.clients, plan.rate) = (clients, self.rate);
        plan = plan.limit_clients(clients);
        if let Some(total) = self.total {
            if total == 0 {
                bail!("--total must be at least 1");
            }
            plan.amount = Amount::Total(total);
            plan.warmup = seconds("warmup", self.base.warmup.unwrap_or(0.0))?;
        }
        Ok(plan)
    }
}

impl Values {
    /// `min`: bytes that every value needs.
    pub(crate) fn check(&self, min: usize, clients: usize) -> Result<()> {
        let bytes = self.value_bytes;
        if !(min..=VALUE_BYTES_MAX).contains(&bytes) {
            bail!("--value-bytes {bytes}: from {min} to {VALUE_BYTES_MAX}");
        }
        if bytes as u64 * clients as u64 > UNDER_WAY_BYTES_MAX {
            bail!(
                "--value-bytes {bytes} with --clients {clients}: more than 1 GiB would be under way"
            );
        }
        Ok(())
    }
}

impl Keys {
    pub(crate) fn check(&self) -> Result<()> {
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&self.key_bytes) {
            bail!("--key-bytes {}: from {KEY_BYTES_MIN} to {KEY_BYTES_MAX}", self.key_bytes);
        }
        if self.key_space == 0 {
            bail!("--key-space must be at least 1");
        }
        if !keys::key_space_fits(self.key_space, self.key_bytes) {
            bail!("--key-space {}: more keys than --key-bytes tell apart", self.key_space);
        }
        match self.zipf_exponent {
            Some(_) if self.order != OrderName::Zipf => {
                bail!("--zipf-exponent: only with --keys zipf")
            }
            Some(exponent) if !(exponent > 0.0 && exponent <= ZIPF_EXPONENT_MAX) => {
                bail!("--zipf-exponent {exponent}: above 0, up to {ZIPF_EXPONENT_MAX}")
            }
            _ => Ok(()),
        }
    }

    fn exponent(&self) -> f64 {
        self.zipf_exponent.unwrap_or(ZIPF_EXPONENT)
    }

    /// How clients choose among `count`, which is the key space or less. `seed`: of the run.
    pub(crate) fn choose(&self, count: u64, seed: u64) -> impl Fn(usize) -> Choice + use<> {
        let order = match self.order {
            OrderName::Sequential => Order::Sequential,
            OrderName::Uniform => Order::Uniform,
            OrderName::Zipf => Order::zipf(count, self.exponent()),
        };
        move |client| Choice {
            random: Random::new(seed ^ (client as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            keys: count,
            order,
        }
    }

    pub(crate) fn words(&self) -> String {
        let order = match self.order {
            OrderName::Sequential => "sequential".to_owned(),
            OrderName::Uniform => "uniform".to_owned(),
            OrderName::Zipf => format!("zipf {}", self.exponent()),
        };
        format!("{order} over {} keys of {} B", self.key_space, self.key_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_has_two_parts_and_both_count() {
        assert_eq!("9:1".parse(), Ok(Ratio { reads: 9, writes: 1 }));
        for nonsense in ["", "1", "1:", ":1", "0:1", "1:0", "-1:2", "a:b", "1:2:3", "1:99999999"] {
            assert!(nonsense.parse::<Ratio>().is_err(), "{nonsense}");
        }
    }
}
