//! From what members say on the wire to what the planner of timings takes, and back.
//!
//! [`collect`] asks every member for its row and the cluster for its plan; what could not be asked is
//! in the result too, for a row that is missing decides as well. The words are `metastore.admin.v1`'s,
//! the shapes are [`autotune::planner`]'s.

use std::time::Duration;

use autotune::planner::{Context, Elections, Link, MemberRow, Observation, Writes};
use autotune::{Params, Percentiles, Phase, Plan};
use futures::future::join_all;
use proto::admin::{Distribution, ObserveResponse, PeerObservation, TuningResponse};
pub use proto::tuning::{params_of, params_said, plan_of};
use tonic::Code;

use crate::{Client, Config, Error, Result};

/// Longest that a row is waited for.
const ROW_WAIT: Duration = Duration::from_secs(3);

/// What was collected from a cluster.
#[derive(Clone, Debug)]
pub struct Collected {
    /// Whose members these are; 0: it was not said.
    pub cluster_id: u64,
    /// For the planner.
    pub observation: Observation,
    /// The newest plan, and what is in force where it was asked for.
    pub tuning: TuningResponse,
    /// Members that could not be asked, by id, and why.
    pub silent: Vec<(u64, String)>,
    /// Members by id and name.
    pub names: Vec<(u64, String)>,
}

impl Collected {
    /// The newest plan.
    pub fn plan(&self) -> Plan {
        self.tuning.tuning.as_ref().map_or_else(Plan::default, plan_of)
    }

    /// What the flags of the member that was asked say.
    pub fn own(&self) -> Params {
        self.tuning.flags.as_ref().map_or_else(Params::default, params_of)
    }

    /// A member's name, or its id where it has none.
    pub fn name(&self, id: u64) -> String {
        let named = self.names.iter().find(|(known, name)| *known == id && !name.is_empty());
        named.map_or_else(|| format!("{id:x}"), |(_, name)| name.clone())
    }
}

/// Asks all members at once, each at the client URLs it advertises, and the cluster for its plan.
pub async fn collect(client: &Client, config: &Config) -> Result<Collected> {
    let listed = client.members().await?;
    let cluster_id = listed.header.map_or(0, |header| header.cluster_id);
    let members = listed.members;
    let tuning = client.tuning().await?;
    let rows = join_all(members.iter().map(|member| row(config, &member.client_ur_ls))).await;
    let mut collected = Collected {
        cluster_id,
        observation: Observation {
            voters: members.iter().filter(|it| !it.is_learner).map(|it| it.id).collect(),
            ..Observation::default()
        },
        tuning,
        silent: Vec::new(),
        names: members.iter().map(|member| (member.id, member.name.clone())).collect(),
    };
    for (member, row) in members.iter().zip(rows) {
        match row {
            Ok(said) if said.member_id == member.id => {
                collected.observation.members.push(member_row(&said));
            }
            Ok(said) => {
                let why = format!("it answers as member {:x}", said.member_id);
                collected.silent.push((member.id, why));
            }
            Err(why) => collected.silent.push((member.id, why)),
        }
    }
    collected.observation.writes = Writes::of_members(&collected.observation.members);
    let learns = members.iter().any(|member| member.is_learner);
    collected.observation.context = Context { membership_change: learns, ..Context::default() };
    Ok(collected)
}

async fn row(config: &Config, urls: &[String]) -> std::result::Result<ObserveResponse, String> {
    if urls.is_empty() {
        return Err("it has not started yet".into());
    }
    let client = Client::new(config.clone().endpoints(urls.iter().cloned()));
    let asked = async { client?.observe().await };
    match tokio::time::timeout(ROW_WAIT, asked).await {
        Err(_) => Err(format!("no answer in {} s", ROW_WAIT.as_secs())),
        Ok(Ok(said)) => Ok(said),
        Ok(Err(Error::Answered { code: Code::Unimplemented, .. })) => {
            Err("this server does not measure".into())
        }
        Ok(Err(error)) => Err(error.to_string()),
    }
}

/// What a member says, asked just now.
pub fn member_row(said: &ObserveResponse) -> MemberRow {
    let elections = said.elections.unwrap_or_default();
    MemberRow {
        id: said.member_id,
        boot_id: said.boot_id,
        uptime_ms: said.uptime_us / 1_000,
        age_ms: 0,
        is_learner: said.is_learner,
        leader_id: said.leader_id,
        // One that knows plans is always in some phase.
        knows_plans: said.tuning_phase != 0,
        plan_epoch: said.tuning_epoch,
        plan_phase: Phase::of(u64::from(said.tuning_phase)),
        heartbeat_interval_us: said.heartbeat_interval_us,
        election_timeout_us: said.election_timeout_us,
        loop_stalls: percentiles(said.loop_stalls.as_ref()),
        loop_stall_us_max: said.loop_stall_max_us,
        sync_times: percentiles(said.sync_times.as_ref()),
        sync_us_max: said.sync_max_us,
        heartbeat_gaps: percentiles(said.heartbeat_gaps.as_ref()),
        elections: Elections {
            pre_campaigns: elections.pre_campaigns,
            begun: elections.begun,
            won: elections.won,
            quorum_losses: elections.quorum_losses,
            false_elections: elections.false_elections,
        },
        append_bytes_mean: append_bytes_mean(said),
        writes: Writes {
            p99_us: percentiles(said.writes.as_ref()).p99_us,
            per_second: said.writes_per_second,
        },
        writes_seen: percentiles(said.writes.as_ref()).samples,
        links: said.peers.iter().map(link).collect(),
    }
}

/// A mean that is no number counts as unknown.
fn append_bytes_mean(said: &ObserveResponse) -> u64 {
    let batches = said.batches.unwrap_or_default();
    let mean = batches.entries_per_append_mean * batches.bytes_per_entry_mean;
    if mean.is_finite() && mean > 0.0 { mean.min(1e12) as u64 } else { 0 }
}

fn link(peer: &PeerObservation) -> Link {
    Link {
        to: peer.member_id,
        reachable: peer.reachable,
        samples: peer.rtt_samples,
        srtt_us: peer.rtt_srtt_us,
        rttvar_us: peer.rtt_var_us,
        rtt: percentiles(peer.rtt.as_ref()),
        gaps: percentiles(peer.gaps.as_ref()),
        probes_sent: peer.probes_sent,
        probes_lost: peer.probes_lost,
        age_ms: peer.rtt_age_us / 1_000,
    }
}

fn percentiles(said: Option<&Distribution>) -> Percentiles {
    let Distribution { samples, p50_us, p99_us, p999_us, p9999_us, max_us } =
        said.copied().unwrap_or_default();
    Percentiles { samples, p50_us, p99_us, p999_us, p9999_us, max_us }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_says_nothing_is_a_row_of_nothing() {
        let row = member_row(&ObserveResponse::default());
        assert_eq!(row, MemberRow::default());
    }

    #[test]
    fn what_a_member_saw_of_writes_is_in_its_row() {
        let writes = Distribution { samples: 5_000, p99_us: 9_000, ..Distribution::default() };
        let said = ObserveResponse {
            writes: Some(writes),
            writes_per_second: 80,
            ..ObserveResponse::default()
        };
        let rows = [member_row(&said)];
        assert_eq!(Writes::of_members(&rows), Some(Writes { p99_us: 9_000, per_second: 80 }));
    }

    #[test]
    fn a_mean_that_is_no_number_is_unknown() {
        for (entries, bytes, mean) in
            [(2.0, 100.0, 200), (f64::NAN, 1.0, 0), (f64::INFINITY, 1.0, 0), (-1.0, 1.0, 0)]
        {
            let batches = Some(proto::admin::BatchStats {
                entries_per_append_mean: entries,
                bytes_per_entry_mean: bytes,
                ..Default::default()
            });
            let said = ObserveResponse { batches, ..ObserveResponse::default() };
            assert_eq!(member_row(&said).append_bytes_mean, mean);
        }
    }
}
