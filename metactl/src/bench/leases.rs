//! Loads of leases: grants and keep-alives. What was granted is given back.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use bytes::BytesMut;

use super::cost::Watched;
use super::flags::{Base, Load};
use super::interrupt::{Interrupt, Interrupted};
use super::keepalive::{self, RENEWALS_PER_TTL};
use super::keys::{Choice, Order, Random};
use super::kinds::{Grants, LEASES_MAX, LeasedPuts, Puts, Revokes};
use super::load::{Amount, End, Part, Plan};
use super::report::Report;
use super::unary::{Requests, clients};
use super::{Done, Run};

/// Of keys on leases: from how many each is drawn, and what they hold.
const LEASED_KEYS: u64 = 1_000_000_000_000;
const LEASED_KEY_BYTES: usize = 24;
const LEASED_VALUE_BYTES: usize = 64;
/// Shortest and longest time to live of a lease.
const TTL_S_MIN: u64 = 3;
const TTL_S_MAX: u64 = 1_000_000;
/// Requests under way on each connection while leases are granted for a keep-alive load, or revoked.
const CLIENTS_PER_CONNECTION: usize = 10;

type Ids = Arc<Mutex<Vec<u64>>>;

/// Leases that a load was granted.
pub(crate) struct Granted {
    ids: Ids,
    ttl_s: u64,
    plan: Plan,
}

impl Granted {
    /// So many of the plan's connections are used to revoke them.
    fn new(plan: &Plan, ttl_s: u64) -> Self {
        let plan = Plan {
            clients: plan.connections * CLIENTS_PER_CONNECTION,
            warmup: Duration::ZERO,
            rate: None,
            part: Part::TidyingUp,
            ..plan.clone()
        };
        Granted { ids: Arc::default(), ttl_s, plan }
    }

    /// Revokes them. What is left runs out by itself, so that this did not go well is said and no
    /// failure of the load. `is_hopeless`: the servers are gone.
    pub(crate) fn give_back(self, run: &Run<'_>, is_hopeless: bool) {
        let ids: Arc<[u64]> = take(&self.ids).into();
        let count = ids.len() as u64;
        if count == 0 {
            return;
        }
        let revoked = match is_hopeless {
            true => Err(anyhow!("the load failed")),
            false => self.revoke(run, &ids),
        };
        let (left, reason) = match revoked {
            Ok(revoked) if revoked == count => return,
            Ok(revoked) => (count - revoked, anyhow!("ended before")),
            Err(error) => (count, error),
        };
        let ttl_s = self.ttl_s;
        drop(writeln!(
            std::io::stderr(),
            "metactl: {left} of {count} leases were not revoked and run out within {ttl_s} s: {reason:#}"
        ));
    }

    /// How many are gone.
    fn revoke(&self, run: &Run<'_>, ids: &Arc<[u64]>) -> Result<u64> {
        let plan = Plan { amount: Amount::Total(ids.len() as u64), ..self.plan.clone() };
        // A signal that has ended the load has had its effect.
        let interrupt = match run.interrupt.asked() {
            Some(_) => Interrupt::default(),
            None => run.interrupt.clone(),
        };
        let workers = clients(&plan, |_| Revokes { ids: Arc::clone(ids), buffer: BytesMut::new() });
        let kinds = Revokes::KINDS.len();
        let outcome = run.load_until(&plan, kinds, &Watched::nothing(), workers, &interrupt)?;
        Ok(outcome.ops())
    }
}

fn take(ids: &Ids) -> Vec<u64> {
    std::mem::take(&mut *ids.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Grants leases; `keep`: they are not revoked.
pub(crate) fn grant(
    run: &Run<'_>,
    load: &Load,
    ttl_s: u64,
    with_key: bool,
    keep: bool,
) -> Result<Done> {
    check_ttl(ttl_s)?;
    let mut plan = load.plan(run.target)?;
    if with_key && let Amount::Total(total) = plan.amount {
        // Each client grants, then writes: more of them would grant only.
        let clients = usize::try_from(total / 2).unwrap_or(usize::MAX).max(1);
        plan = plan.limit_clients(clients);
    }
    let granted = Granted::new(&plan, ttl_s);
    let ids = (!keep).then(|| Arc::clone(&granted.ids));
    let grants = |_| Grants { ttl_s, ids: ids.clone(), buffer: BytesMut::new() };
    let leased = |client| LeasedPuts {
        grants: grants(client),
        puts: leased_puts(run.seed, client),
        bare: None,
        is_put: false,
    };
    let what = format!("grant of leases of {ttl_s} s");
    let done = match with_key {
        false => run.requests(&what, load, &plan, grants),
        true => run.requests(&format!("{what} with a key each"), load, &plan, leased),
    };
    match done {
        Ok(done) => Ok(Done { leases: Some(granted), ..done }),
        Err(error) => {
            granted.give_back(run, error.downcast_ref::<Interrupted>().is_none());
            Err(error)
        }
    }
}

/// Grants leases and keeps them alive; `keep`: they are not revoked.
pub(crate) fn keep_alive(
    run: &Run<'_>,
    base: &Base,
    leases: u64,
    ttl_s: u64,
    keep: bool,
) -> Result<Done> {
    check_ttl(ttl_s)?;
    if !(1..=LEASES_MAX).contains(&leases) {
        bail!("--leases {leases}: from 1 to {LEASES_MAX}");
    }
    let mut plan = base.plan(run.target)?;
    plan.connections = plan.connections.min(leases as usize);
    plan.threads = plan.threads.min(plan.connections);
    let watched = run.watched(base, plan.connections)?;
    let granted = Granted::new(&plan, ttl_s);
    let done = keep_alive_granted(run, &watched, plan, leases, &granted);
    if keep {
        return done;
    }
    match done {
        Ok(done) => Ok(Done { leases: Some(granted), ..done }),
        Err(error) => {
            granted.give_back(run, false);
            Err(error)
        }
    }
}

fn keep_alive_granted(
    run: &Run<'_>,
    watched: &Watched,
    mut plan: Plan,
    leases: u64,
    granted: &Granted,
) -> Result<Done> {
    let ttl_s = granted.ttl_s;
    let ttl = Duration::from_secs(ttl_s);
    let granting = Instant::now();
    let grants =
        Plan { amount: Amount::Total(leases), part: Part::Preparation, ..granted.plan.clone() };
    let workers = clients(&grants, |_| Grants {
        ttl_s,
        ids: Some(Arc::clone(&granted.ids)),
        buffer: BytesMut::new(),
    });
    let outcome = run.load(&grants, Grants::KINDS.len(), watched, workers)?;
    match outcome.end {
        End::Failed(error) => return Err(error),
        End::Signal(signal) => return Err(Interrupted { signal, is_shown: false }.into()),
        End::Whole => {}
    }
    if let Some((said, count)) = outcome.refusals.iter().chain(&outcome.lost).next() {
        bail!("{count} leases were not granted: {said}");
    }
    // The first are renewed after a third of their time at the latest.
    let took = granting.elapsed();
    if took + ttl / RENEWALS_PER_TTL >= ttl {
        bail!(
            "--ttl {ttl_s}: too short, granting {leases} leases took {:.1} s",
            took.as_secs_f64()
        );
    }

    let interval = ttl / RENEWALS_PER_TTL;
    plan.rate = Some(leases as f64 / interval.as_secs_f64());
    let ids = granted.ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let workers = keepalive::keep_alives(&plan, &ids, interval);
    let outcome = run.load(&plan, 1, watched, workers)?;
    let what = format!(
        "keep-alive of {leases} leases of {ttl_s} s, {} streams, {} threads, {:.1}/s due",
        plan.connections,
        plan.threads,
        plan.rate.unwrap_or_default()
    );
    let (report, end) = Report::new(what, &["keep-alive"], watched, outcome);
    Ok(Done { report, end, leases: None })
}

/// Keys that lie on leases: nearly all of them different.
fn leased_puts(seed: u64, client: usize) -> Puts {
    let random = Random::new(seed ^ (client as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    Puts {
        keys: Choice { random, keys: LEASED_KEYS, order: Order::Uniform },
        key_bytes: LEASED_KEY_BYTES,
        value_bytes: LEASED_VALUE_BYTES,
        stamps: None,
        buffer: BytesMut::new(),
    }
}

fn check_ttl(ttl_s: u64) -> Result<()> {
    if !(TTL_S_MIN..=TTL_S_MAX).contains(&ttl_s) {
        bail!("--ttl {ttl_s}: from {TTL_S_MIN} to {TTL_S_MAX} seconds");
    }
    Ok(())
}
